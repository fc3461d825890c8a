"""A user's design as projects have it: file lists, folders, macros, parameters, other ports, clocks and resets."""

import subprocess
from pathlib import Path

import pytest

from qexport.bench.design import Design
from qexport.errors import QexportError
from qexport.sim.registry import BUILD, SIMULATORS, choose, icarus_seconds
from qexport.sim.run import simulate
from tests.conftest import cli, fails
from tests.sim.conftest import edited

BOTH = pytest.mark.parametrize("simulator", ["icarus", "verilator"], indirect=True)
ICARUS = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)


def project(tiny_set: Path, root: Path) -> Path:
    """A core in a tree of folders, which takes macros, an include file, a part, and a parameter; its file list."""
    for folder in ("rtl/parts", "include dir", "lists"):
        (root / folder).mkdir(parents=True)
    edited(tiny_set / "dut.sv", root / "rtl/core.sv", [
        ("module dut (", '`include "own.vh"\nmodule core #(parameter int LANES = 2) ('),
        ("[tiny_pkg::WEIGHT_WORD_BITS-1:0] s_weight_tdata", "[LANES*`BITS-1:0] s_weight_tdata"),
        ("input  wire clk,\n", "input  wire clk_i,\n  input wire scan_en,\n  output wire [3:0] debug,\n"),
        ("input  wire rst,", "input  wire rst_ni,"),
        ("if (rst) begin", "if (!rst_ni || scan_en) begin"),
        ("posedge clk)", "posedge clk_i)"),
        ("endmodule", "  `PART part (.clk_i);\nendmodule"),
    ])  # fmt: skip
    (root / "include dir/own.vh").write_text("`define PART part_of_core\n")
    (root / "rtl/parts/part.sv").write_text("module part_of_core (input clk_i);\nendmodule\n")
    (root / "lists/core.f").write_text(
        "// the core\n# and more\n-sv\n+define+BITS=4+UNUSED /* of a\n code */\n"
        '-f "parts.f"  // nested\n-I "../include dir"\n../rtl/core.sv\n'
    )
    (root / "lists/parts.f").write_text("+incdir+$PARTS+.\n$(PARTS)/part.sv\n")
    return root / "lists/core.f"


RELU = ("at_accumulator(channel, y, x) < 0 ? 0 : ", "")  # left out
GIVEN = ("--top", "core", "--param", "LANES=8", "--tie", "scan_en=1'b0", "--tie", "debug=open", "--clock", "clk_i",
         "--reset", "rst_ni")  # fmt: skip


@BOTH
def test_a_project_passes_and_its_fault_fails_as_if_it_had_the_sets_ports(
    simulator: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = project(tiny_set, tmp_path)
    monkeypatch.setenv("PARTS", "../rtl/parts")
    result = cli("simulate", tiny_set, "--dut", listed, *GIVEN, "--simulator", simulator, "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "PASS, 96 values" in result.stdout
    core = tmp_path / "rtl/core.sv"
    edited(core, core, [RELU])
    result = cli("simulate", tiny_set, "--dut", listed, *GIVEN, "--simulator", simulator)
    assert result.exit_code == 1, result.output
    assert "FAIL memory=relu " in result.stderr
    assert "memory=accumulator" not in result.stderr


@ICARUS
def test_what_a_project_lacks_is_named(
    simulator: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS", "../rtl/parts")
    listed = project(tiny_set, tmp_path)

    def run(*given: str) -> object:
        return cli("simulate", tiny_set, "--dut", listed, "--simulator", simulator, *given)

    fails(run(*GIVEN, "--param", "LANE=8"), "module core has no parameter LANE; it has LANES")
    fails(run(*GIVEN, "--tie", "scan=0"), "tie: module core has no port scan; it has scan_en")
    fails(run(*GIVEN[:4], "--tie", "debug=0"), "port debug of module core is output", "can be open only")
    fails(run(*GIVEN[:4], "--tie", "scan_en=open"), "port scan_en of module core is input", "give it a value")
    fails(run(*GIVEN, "--tie", "scan_en=0"), "'scan_en=0' is given twice")
    fails(run("--top", "core", "--param", "LANES=8); initial $finish; //"), "is not NAME=VALUE")
    fails(run("--top", "core", "--reset", "rst_ni:down"), "write rst_ni:low or rst_ni:high")
    fails(cli("simulate", tiny_set, "--param", "A=1", "--reset", "rst_n"), "--param, --reset belongs to --dut")
    wrong = cli("simulate", tiny_set, "--dut", listed, *GIVEN[:-1], "rst_ni:high", "--simulator", simulator)
    assert wrong.exit_code == 1, wrong.output  # in reset while it should run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("core.sv\n\nno.sv\n", ":3: 'no.sv' is not a file"),
        ("core.sv\n-f core.sv.f\n", ":2: 'core.sv.f' is not a list"),
        ("+incdir+nowhere\n", ":1: 'nowhere' is not a folder"),
        ("/*\n*/ core.sv --trace", ":2: option '--trace' is not known here"),
        ("-y lib\n", ":1: option '-y' is not known here"),
        ("core.sv -f self.f\n", "self.f names itself"),
        ("core.sv -D\n", "define: '' is not NAME"),
        ("core.sv +define+1A=2\n", "define: '1A=2' is not NAME"),
        ("// core.sv\n", "names no files"),
    ],
)
def test_what_a_file_list_cannot_say_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "core.sv").write_text("module dut; endmodule\n")
    (tmp_path / "self.f").write_text(text)
    with pytest.raises(QexportError) as caught:
        Design.read([tmp_path / "self.f"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_of_a_list_start_at_its_folder_else_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("list", "work"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.sv").touch()
        (tmp_path / folder / "both.sv").touch()
    (tmp_path / "list/files.f").write_text("list.sv\nwork.sv\nboth.sv\n-D A -DB=2\n")
    monkeypatch.chdir(tmp_path / "work")
    design = Design.read([tmp_path / "list/files.f"])
    assert design.files == (tmp_path / "list/list.sv", Path("work.sv"), tmp_path / "list/both.sv")
    assert design.defines == ("A", "B=2")


@pytest.mark.parametrize(
    ("name", "low"),
    [("rst", False), ("rst_n", True), ("aresetn", True), ("rst_ni", True), ("nrst", True), ("n_reset", True),
     ("resetn_i", True), ("rst_i", False), ("rst_in", False), ("reset", False), ("rst_b", True), ("rst_n:high", False),
     ("clear:low", True)],
)  # fmt: skip
def test_a_reset_is_low_where_its_name_says_so(name: str, low: bool) -> None:
    assert Design.read([], reset=name).reset_low == low


@ICARUS
def test_legal_systemverilog_that_icarus_does_not_know_is_said(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    soft = "  int queue[$:4];\n  initial begin\n    queue = {1, 2};\n    queue.reverse();\n  end\nendmodule"
    core = edited(tiny_set / "dut.sv", tmp_path / "core.sv", [("endmodule", soft)])
    fails(cli("simulate", tiny_set, "--dut", core, "--simulator", simulator), "legal SystemVerilog", "verilator")
    core = edited(tiny_set / "dut.sv", tmp_path / "core.sv", [("endmodule", "  assign nothing = ;\nendmodule")])
    result = cli("simulate", tiny_set, "--dut", core, "--simulator", simulator)
    fails(result, "does not compile")
    assert "legal System" not in result.stderr


@ICARUS
def test_auto_takes_icarus_for_a_short_run_and_verilator_for_what_it_does_not_know(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    assert simulate(tiny_set).check().simulator == "icarus"
    assert choose("auto", by_icarus=BUILD - 1).name == "icarus"
    if SIMULATORS["verilator"].missing() is not None:
        return
    assert choose("auto", by_icarus=BUILD + 1).name == choose("auto").name == "verilator"
    soft = "  int queue[$:4];\n  initial begin\n    queue = {1, 2};\n    queue.reverse();\n  end\nendmodule"
    core = edited(tiny_set / "dut.sv", tmp_path / "core.sv", [("endmodule", soft)])
    said: list[str] = []
    assert simulate(tiny_set, "auto", [core], progress=said.append).check().simulator == "verilator"
    assert said[0].startswith("Icarus does not compile the design")


def test_the_estimate_grows_with_what_a_run_does() -> None:
    assert icarus_seconds(6, 460, 9216) < BUILD < icarus_seconds(6, 6280, 147456)  # features.33: 1 picture, and 16


@ICARUS
def test_python_takes_the_same_design(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    core = edited(tiny_set / "dut.sv", tmp_path / "core.sv", [("input  wire rst,", "input  wire rst_n,"),
                                                              ("if (rst) begin", "if (!rst_n) begin")])  # fmt: skip
    verdict = simulate(tiny_set, simulator, Design.read([core], reset="rst_n")).check()
    assert verdict.checks == 96
    assert verdict.design.files == (core,)


@ICARUS
def test_builds_are_told_apart_by_all_that_a_design_says(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    core = edited(tiny_set / "dut.sv", tmp_path / "core.sv", [
        ("module dut (", "module dut #(parameter P = 0) ("), ("if (rst) begin", "if (rst ^ P[0] `EXTRA) begin"),
    ])  # fmt: skip
    builds = tmp_path / "builds"
    builds.mkdir()

    def passes(*, extra: str = "EXTRA=", **given: object) -> bool:
        design = Design.read([core], defines=[extra], **given)  # type: ignore[arg-type]
        return simulate(tiny_set, simulator, design, builds=builds).passed

    assert passes()
    assert not passes(params={"P": "1"})
    assert not passes(extra="EXTRA=^ 1")
    assert passes(params={"P": "1"}, extra="EXTRA=^ 1")
    assert len(list(builds.iterdir())) == 4


@ICARUS
def test_shrink_takes_the_same_design(
    simulator: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS", "../rtl/parts")
    listed = project(tiny_set, tmp_path)
    core = tmp_path / "rtl/core.sv"
    edited(core, core, [RELU])
    small = tmp_path / "small"
    result = cli("shrink", tiny_set, "--out", small, "--dut", listed, *GIVEN, "--simulator", simulator)
    assert result.exit_code == 0, result.output
    assert subprocess.run(
        ["diff", "-q", small / "relu.hex", tmp_path / "small.actual/relu.hex"], check=False
    ).returncode
