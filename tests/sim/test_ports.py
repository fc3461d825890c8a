"""Ports of the user's module are read before anything is built; what fits is connected, the rest is named."""

import re
from pathlib import Path

import pytest
from click.testing import Result

from qexport.layout.toml import layout_text, parse_layout
from qexport.sim.run import simulate
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.sim.conftest import edited

pytestmark = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)


def without(text: str, memory: str) -> str:
    """The module without a group of result ports."""
    text = re.sub(rf"  (input|output)[^\n]* m_{memory}_t\w+,?\n", "", text)
    text = re.sub(rf"\(m_{memory}_tvalid && !m_{memory}_tready\) \|\| | \|\| \(m_{memory}_tvalid && [^)]*\)", "", text)
    text = re.sub(rf"( *for [^\n;]*;[^\n;]*;[^\n;]*\)\n)?[^\n]*m_{memory}_t\w+[^\n]*<=[^\n]*\n", "", text)
    return re.sub(r",\n\);", "\n);", text)


RESULTS = ("psum", "accumulator", "relu")


@pytest.mark.parametrize("left", [("accumulator", "relu"), ("psum",), ("psum", "accumulator"), ("relu",)], ids=" ".join)
def test_results_that_the_module_has_are_compared_and_the_others_reported(
    simulator: str, left: tuple[str, ...], tiny_set: Path, tmp_path: Path
) -> None:
    text = (tiny_set / "dut.sv").read_text()
    for memory in set(RESULTS) - set(left):
        text = without(text, memory)
    (tmp_path / "core.sv").write_text(text.replace("module dut (", "module my_core ("))
    arguments = ("simulate", tiny_set, "--dut", tmp_path / "core.sv", "--top", "my_core", "--simulator", simulator)
    verdict = simulate(tiny_set, simulator, [tmp_path / "core.sv"], top="my_core").check()
    assert verdict.compared == {memory: 32 for memory in RESULTS if memory in left}
    assert verdict.not_compared == {memory: 32 for memory in RESULTS if memory not in left}
    assert verdict.checks == 32 * len(left)
    said = " ".join(cli(*arguments).stdout.split())
    assert f"PASS, {verdict.checks} values compared" in said
    for memory in verdict.not_compared:
        assert re.search(rf"not compared .*{memory} \(32\).*the module has no such ports", said)


def test_a_design_of_several_files_with_parameters_and_packages_is_taken(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    core = edited(tiny_set / "dut.sv", tmp_path / "my core.sv", [
        ("module dut (", "module my_core import tiny_pkg::*, mine::*; #(parameter int W = LANES * 4) ("),
        ("[tiny_pkg::WEIGHT_WORD_BITS-1:0] s_weight_tdata", "[W-1:0] s_weight_tdata"),
        ("endmodule", "  part part (.clk);\nendmodule"),
    ])  # fmt: skip
    (tmp_path / "mine.sv").write_text("package mine;\n  localparam int LANES = 8;\nendpackage\n")
    (tmp_path / "part.sv").write_text('module part (input clk);\n`include "params.vh"\n`include "own.vh"\nendmodule\n')
    (tmp_path / "own.vh").write_text("localparam MINE = OC;\n")
    files = [tmp_path / "mine.sv", core, tmp_path / "part.sv"]
    given = [argument for file in files for argument in ("--dut", file)]
    result = cli("simulate", tiny_set, *given, "--top", "my_core", "--simulator", simulator)
    assert result.exit_code == 0, result.output
    assert "PASS, 96 values" in result.stdout


def table(result: Result) -> list[str]:
    """What is printed of the ports that differ, a row a port, with two blanks between the columns."""
    assert result.exit_code == 2, result.output
    first, header, *rows = result.stderr.strip().splitlines()
    assert first.startswith("qexport: error: dut: ")
    assert "not those of dut.sv of the set" in first
    assert header.split("  ")[0] == "port"
    return [re.sub(r" {2,}", "  ", row) for row in rows]


# what is done to dut.sv -> the row of the table, whose place is the line that holds the text
FAULTS: dict[str, tuple[tuple[str, str], str, str]] = {
    "missing": (
        ("  input  wire s_weight_tlast,\n", ""), "module dut", "s_weight_tlast  input of 1 bit  -",
    ),
    "missing of a result": (
        ("  output reg  m_psum_tlast,\n", "  /*reg m_psum_tlast,*/\n"), "module dut",
        "m_psum_tlast  output of 1 bit  -",
    ),
    "missing clock": (("  input  wire clk,\n", ""), "module dut", "clk  input of 1 bit  -"),
    "extra": (
        ("input  wire clk,", "input  wire clk,\n  input scan_en,"), "scan_en", "scan_en  -  input of 1 bit",
    ),
    "too narrow": (
        ("[tiny_pkg::WEIGHT_WORD_BITS-1:0] s_weight_tdata", "[15:0] s_weight_tdata"), "[15:0]",
        "s_weight_tdata  input of 32 bits  input of 16 bits",
    ),
    "too wide": (
        ("output reg  m_psum_tlast,", "output reg [1:0] m_psum_tlast,"), "[1:0]",
        "m_psum_tlast  output of 1 bit  output of 2 bits",
    ),
    "wrong way": (
        ("output wire s_input_tready", "input wire s_input_tready"), "s_input_tready",
        "s_input_tready  output of 1 bit  input of 1 bit",
    ),
    "both ways": (
        ("output wire s_input_tready", "inout wire s_input_tready"), "s_input_tready",
        "s_input_tready  output of 1 bit  inout of 1 bit",
    ),
    "array": (
        ("input  wire rst,", "input  wire rst [2],"), "rst [2]", "rst  input of 1 bit  no vector",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_port_that_does_not_fit_is_named_with_its_line(
    simulator: str, fault: str, tiny_set: Path, tmp_path: Path
) -> None:
    edit, place, said = FAULTS[fault]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [edit])
    line = dut.read_text().split(place)[0].count("\n") + 1
    result = cli("simulate", tiny_set, "--dut", dut, "--simulator", simulator)
    assert table(result) == [f"{said}  {dut}:{line}"]


def test_all_faults_are_named_at_once(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "dut.sv").write_text("module dut (input clk, input [1:0] rst, output leds);\nendmodule\n")
    result = cli("simulate", tiny_set, "--dut", tmp_path / "dut.sv", "--simulator", simulator)
    at = f"  {tmp_path / 'dut.sv'}:1"
    streams = [f"s_{memory}_t" for memory in ("weight", "input")]
    assert table(result) == [
        f"rst  input of 1 bit  input of 2 bits{at}",
        *(
            f"{stream}{port}{at}"
            for stream in streams
            for port in (
                "valid  input of 1 bit  -", "ready  output of 1 bit  -", "data  input of 32 bits  -",
                "last  input of 1 bit  -",
            )
        ),
        f"leds  -  output of 1 bit{at}",
        f"m_<result>_t*  psum, accumulator, relu: one at least  -{at}",
    ]  # fmt: skip


def test_a_result_that_the_set_lacks_is_an_extra_port(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    port = "  input wire m_output_tready,\n  input wire rst,"
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("  input  wire rst,", port)])
    result = cli("simulate", tiny_set, "--dut", dut, "--simulator", simulator)
    assert [row.rpartition("  ")[0] for row in table(result)] == ["m_output_tready  -  input of 1 bit"]


def test_what_is_no_design_is_said(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "dut.sv").write_text("module my_core; endmodule\nmodule part; endmodule\n")
    run = ("simulate", tiny_set, "--simulator", simulator, "--dut", tmp_path / "dut.sv")
    fails(cli(*run), f"{tmp_path / 'dut.sv'}: no module 'dut'; it has my_core, part: name yours with --top")
    fails(cli(*run, "--top", "other"), "no module 'other'; it has my_core, part")
    (tmp_path / "dut.sv").write_bytes(b"\x00\xff\xfe not Verilog \x80")
    fails(cli(*run), "no module 'dut'; it has none")
    (tmp_path / "dut.sv").write_text("")
    fails(cli(*run), "no module 'dut'; it has none")
    fails(cli("simulate", tiny_set, "--top", "mine"), "--top belongs to --dut")


def test_ports_are_the_same_that_the_sets_own_design_has(simulator: str, ragged_set: Path) -> None:
    assert simulate(ragged_set, simulator, [ragged_set / "dut.sv"]).check().checks == 22016  # with bias


def test_a_layout_without_psums_and_tables_has_a_bench_too(simulator: str, tmp_path: Path) -> None:
    blocks = layout_text("default").split("[[memory]]")
    kept = [
        block for block in blocks if not re.search(r'name += "(psum|relu|patches|acc_address|input_padded)"', block)
    ]
    layout = parse_layout("[[memory]]".join(kept).replace('"default"', '"small"'), "small.toml")
    folder = checked_dump(make_capture(), layout, tmp_path)
    assert not (folder / "psum.hex").exists()
    assert simulate(folder, simulator, seed=1).check().compared == {"accumulator": 256}


def test_what_leaves_a_port_unknown_is_said_in_place_of_the_port(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    core = tmp_path / "core.sv"
    run = ("simulate", tiny_set, "--dut", core, "--simulator", simulator)
    edited(tiny_set / "dut.sv", core, [("module dut", "import mine_pkg::*;\nmodule dut")])  # no port needs it
    fails(
        cli(*run), "core.sv:13: unknown package 'mine_pkg'; add the file that declares it (that of the set is tiny_pkg)"
    )
    edited(tiny_set / "dut.sv", core, [("[tiny_pkg::RELU_WORD_BITS-1:0] m_relu", "[NOWHERE-1:0] m_relu")])
    fails(cli(*run), "core.sv:34: use of undeclared identifier 'NOWHERE'; add")
    edited(tiny_set / "dut.sv", core, [("tiny_pkg::", "other_pkg::")])
    result = cli(*run)
    assert result.exit_code == 2
    assert "core.sv:18: unknown class or package 'other_pkg'; add" in result.stderr
    assert "the module has" not in result.stderr
