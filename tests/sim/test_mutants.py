"""Mutants of the reference RTL and of a user's: the bench sees them, and what it cannot see is said to survive."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qexport.bench.interface import Port, Stream, preset_interface
from qexport.bench.rtl import FOLDER, INPUTS, PARTS, POOLS, PRODUCT, SHARED
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.errors import CheckFailed, QexportError
from qexport.layout.memory import Layout
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.streams import MODES
from qexport.trust import equivalence
from qexport.trust.equivalence import equivalent, yosys
from qexport.trust.mutants import (
    RUNS,
    MutantResult,
    Netlist,
    applied,
    chosen_edits,
    general_mutants,
    hand_mutants,
    netlist,
    quiet,
    reference_files,
    reference_mutants,
    selectable,
    user_mutants,
    with_changes,
)
from qexport.trust.rtl_edits import EDITS, PRODUCT_EDITS, Edit
from tests.conftest import checked_dump, make_capture

STYLES = ("ws", "os")


def small_capture() -> LayerCapture:
    """Two 3x3 images of 3 channels to 3, 2x2 taps, padding: all kinds of mistakes show, in few cycles.

    The images reach the largest and the least accumulator that the weights allow.
    """
    capture = make_capture(in_channels=3, out_channels=3, plane=(3, 3), kernel=(2, 2), padding=(1, 0, 0, 1))
    codes = capture.input.copy()
    for image, weight in enumerate((capture.weight, -capture.weight)):
        largest = np.maximum(weight, 0).sum(axis=(1, 2, 3)).argmax()
        codes[image, :, :2, :2] = np.where(weight[largest] > 0, 15, 0)
    output = CodeFormat(bits=4, signed=False, scale=2.0)
    return replace(capture, input=codes, formats=msgspec.structs.replace(capture.formats, output=output))


def three_by_three() -> Layout:
    return parse_layout(re.sub(r"(row|col) = 8", r"\1 = 3", layout_text("default")), "three.toml")


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(small_capture(), three_by_three(), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def blind_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same layer with a single weight and a single input that are not 0, which cannot tell much."""
    capture = small_capture()
    weight, codes = np.zeros_like(capture.weight), np.zeros_like(capture.input)
    weight[0, 0, 0, 0], codes[0, 0, 1, 1] = 1, 2
    return checked_dump(
        replace(capture, weight=weight, input=codes), three_by_three(), tmp_path_factory.mktemp("blind")
    )


def fates(results: list[MutantResult]) -> dict[str, str]:
    return {result.name: result.fate for result in results}


# --- the edits themselves, without a simulator ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "parts"),
    [*((EDITS[style], (*INPUTS, *PARTS[style])) for style in STYLES), (PRODUCT_EDITS, PRODUCT)],
    ids=[*STYLES, "product"],
)
def test_every_edit_applies_to_the_templates_and_changes_them(edits: Sequence[Edit], parts: Sequence[str]) -> None:
    assert len(edits) == len({edit.name for edit in edits}) >= 40
    for edit in edits:
        if edit.file == "results.sv":  # which is rendered
            continue
        assert edit.file.removesuffix(".sv") in (*SHARED, *POOLS, *parts)
        text = (FOLDER / edit.file).read_text()
        changed = applied(edit, text)
        assert changed != text
        assert edit.new in changed


@pytest.mark.parametrize("style", STYLES)
def test_at_least_forty_edits_matter_for_the_example_and_all_stand_in_one_design(style: str) -> None:
    folder = Path(__file__).parents[2] / "vectors" / "features_33"
    edits = chosen_edits(style, folder)
    assert len(edits) >= 40
    text = "\n".join(selectable(reference_files(style, folder), edits).values())
    numbers = {int(number) for number in re.findall(r"qexport_mutant::number == (\d+) \?", text)}
    assert numbers == set(range(1, len(edits) + 1))


def test_an_edit_whose_text_is_gone_or_stands_twice_is_an_error() -> None:
    for old in ("no «such» text", "in«p»ut"):
        with pytest.raises(ValueError, match="does not stand once"):
            applied(Edit("x", "axis.sv", old, "y", ""), (FOLDER / "axis.sv").read_text())


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs may take as long as a busy machine needs."""
    monkeypatch.setattr(equivalence, "LIMIT", 600)


# --- killed, survived, equivalent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("style", STYLES)
def test_a_sample_of_mutants_is_killed_and_progress_is_told(simulator: str, style: str, small_set: Path) -> None:
    told: list[tuple[str, int, int]] = []
    results = reference_mutants(
        small_set, style, sample=8, seed=3, simulator=simulator, progress=lambda *step: told.append(step)
    )
    for step in ("hand-placed", "general"):
        assert [(done, total) for what, done, total in told if what == step] == [(done, 8) for done in range(9)]
    hand = [result for result in results if result.kind == "hand"]
    assert len(hand) == len(results) - len(hand) == 8
    assert [result for result in hand if result.fate != "killed"] == []
    modes = re.compile("|".join(MODES))  # in all of them, as some mistakes show in one of them alone
    assert {run.mode for run in RUNS} == {*MODES}
    assert all(modes.match(result.how) for result in results if result.fate == "killed")
    assert sum(result.fate == "killed" for result in results if result.kind == "general") > 4


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_blind_set_lets_mutants_survive(simulator: str, small_set: Path, blind_set: Path) -> None:
    names = ("weight-unsigned", "product-low-bit", "relu-missing", "tap-order", "last-missing")
    edits = [edit for edit in chosen_edits("ws", small_set) if edit.name in names]
    assert set(fates(hand_mutants(small_set, "ws", edits, simulator=simulator)).values()) == {"killed"}
    found = fates(hand_mutants(blind_set, "ws", edits, simulator=simulator))
    assert found == {name: "killed" if name == "last-missing" else "survived" for name in names}


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_design_that_fails_unchanged_is_an_error(simulator: str, small_set: Path, tmp_path: Path) -> None:
    broken = tmp_path / "core.sv"
    files = reference_files("os", small_set)
    broken.write_text("\n".join(files.values()).replace("code = value[ACC_WIDTH-1] ?", "code = value[0] ?"))
    with pytest.raises(CheckFailed, match="the unchanged design fails, no mutant was run: smooth: FAIL memory="):
        user_mutants([small_set], [broken], sample=1, simulator=simulator)


# --- proofs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_netlist(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Netlist:
    """The os array of 3x3 elements."""
    place = tmp_path_factory.mktemp("netlist")
    sources = reference_files("os", small_set)
    for name, text in sources.items():
        (place / name).write_text(text)
    read = f"read_verilog -sv -Iinclude {' '.join(sources)}"
    return netlist(read, small_set, "dut", ports_of(small_set), 12, 0, place)


def ports_of(folder: Path) -> dict[str, Port]:
    ports = {"clk": Port("input", 1), "rst": Port("input", 1)}
    for stream in streams(folder):
        ports |= stream.ports
    return ports


def streams(folder: Path) -> list[Stream]:
    """Those of the os array, which has no psums."""
    found = preset_interface(folder, read_manifest(folder))  # without those that a design may have beyond
    return [stream for stream in found if stream.memory != "psum"]


WORDS = {"s_weight": 12, "s_input": 18}


def test_the_words_of_the_proofs_are_those_of_the_set(small_set: Path) -> None:
    assert {f"s_{stream.memory}": stream.words for stream in streams(small_set) if stream.driven} == WORDS


@pytest.mark.parametrize(
    ("cell", "port", "mode", "bit", "same"),
    [
        # `settled` is count == 5 of a count from 0 to 5: bit 1 is looked at in vain, as 7 is never reached
        ("settle_axis.last %ci1 t:$eq %i", "A", "const0", 1, True),
        ("settle_axis.last %ci1 t:$eq %i", "A", "const1", 1, False),
        ("settle_axis.last %ci1 t:$eq %i", "A", "const0", 0, False),
        # with bit 1 inverted it counts 2 1 0 3 6 5, six steps as well, with bit 0 inverted 1 3 5
        ("settle_axis.count %ci1 t:$*ff* %i", "Q", "inv", 1, True),
        ("settle_axis.count %ci1 t:$*ff* %i", "Q", "inv", 0, False),
        # a count of 0 and 1 in two bits, the upper of which is set by nothing but what was there before the reset
        ("core.kh_axis.count %ci1 t:$*ff* %i", "Q", "cnot1 -ctrlbit 1", 0, True),
        ("core.kh_axis.count %ci1 t:$*ff* %i", "Q", "cnot0 -ctrlbit 1", 0, False),
        # a tile of three positions begins at the start of a row of the plane: the only columns are 0
        ("first_ox %ci1 t:$*ff* %i", "D", "const0", 0, True),
        ("first_oy %ci1 t:$*ff* %i", "D", "const0", 0, False),
        # a register that no reset reaches
        ("core.state %ci1 t:$*ff* %i", "SRST", "const0", 0, False),
    ],
)
def test_a_change_is_proven_equivalent_exactly_where_it_is(
    small_netlist: Netlist, cell: str, port: str, mode: str, bit: int, same: bool
) -> None:
    said = yosys(small_netlist.folder, f"read_rtlil unchanged.il; select -list w:*{cell}")
    (name,) = re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE)
    change = f"-mode {mode} -module qexport_core -cell {name} -port {port} -portbit {bit}"
    assert equivalent(small_netlist.folder / "unchanged.il", change, WORDS) == same


def test_words_that_never_come_make_no_difference(small_netlist: Netlist) -> None:
    """A core that stays ready for weights when it has all of them, in a bench that has no more."""
    said = yosys(small_netlist.folder, "read_rtlil unchanged.il; select -list w:weight_in.tready %ci1 t:$logic_not %i")
    (name,) = re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE)
    change = f"-mode const1 -module qexport_core -cell {name} -port Y -portbit 0"
    assert equivalent(small_netlist.folder / "unchanged.il", change, WORDS)
    assert not equivalent(small_netlist.folder / "unchanged.il", change, WORDS | {"s_weight": 13})


WORDS_OF_BYTES = """
module qexport_core (
  input clk, rst, s_a_tvalid, m_b_tready, input [7:0] s_a_tdata, output s_a_tready, output reg m_b_tvalid,
  output reg [3:0] m_b_tdata
);
  reg [7:0] words [0:3], kept [0:1];  // of which the output shows four bits
  reg [1:0] put, get;
  reg full;
  assign s_a_tready = !full;
  always @(posedge clk) begin
    kept[get[0]] <= words[get];
    if (rst) {put, get, full, m_b_tvalid} <= 0;
    else begin
      if (s_a_tvalid && !full) begin
        words[put] <= s_a_tdata;
        put <= put + 1;
        full <= put == 3;
      end
      if (m_b_tready) m_b_tvalid <= 0;
      if (full && !m_b_tvalid) begin
        m_b_tdata <= kept[!get[0]][4:1];
        m_b_tvalid <= 1;
        get <= get + 1;
      end
    end
  end
endmodule
"""


def test_every_mutant_of_a_memory_that_is_read_without_a_clock_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "core.v").write_text(WORDS_OF_BYTES)
    ports = {"clk": Port("input", 1), "rst": Port("input", 1)}
    made = netlist("read_verilog core.v", tmp_path, "qexport_core", ports, 500, 0, tmp_path)
    found = {(change["cell"], change["port"]) for change in made.changes}
    assert ("words", "RD_ADDR") in found
    assert ("words", "RD_EN") not in found


@pytest.mark.parametrize(("bit", "same"), [(7, True), (4, False)])
def test_a_bit_of_a_memory_that_nobody_reads_makes_no_difference(bit: int, same: bool, tmp_path: Path) -> None:
    (tmp_path / "core.v").write_text(WORDS_OF_BYTES)
    yosys(tmp_path, "read_verilog core.v; prep -top qexport_core; opt -full; opt_clean; setattr -unset init w:*",
          "write_rtlil unchanged.il")  # fmt: skip
    change = f"-mode inv -module qexport_core -cell words -port WR_DATA -portbit {bit}"
    assert equivalent(tmp_path / "unchanged.il", change, {"s_a": 4}) == same


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_what_a_bench_sees_is_never_proven_equivalent(simulator: str, small_set: Path, small_netlist: Netlist) -> None:
    results = general_mutants(small_set, small_netlist, streams(small_set), "os", simulator, False, quiet)
    killed = [n for n, result in enumerate(results) if result.fate == "killed"]
    assert len(killed) > 4
    for number in killed[:3]:
        options = (small_netlist.folder / "changes.txt").read_text().splitlines()[number]
        change = re.sub(r"^mutate -ctrl \S+ \d+ \d+ ", "", options)
        assert not equivalent(small_netlist.folder / "unchanged.il", change, WORDS)


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
def test_unknown_words_show_on_icarus_where_verilator_starts_with_numbers(
    simulator: str, small_set: Path, small_netlist: Netlist, tmp_path: Path
) -> None:
    """Weights that are fed before there are any meet inputs of 0: no difference, but for words that nobody wrote."""
    (tmp_path / "unchanged.il").write_bytes((small_netlist.folder / "unchanged.il").read_bytes())
    said = yosys(tmp_path, "read_rtlil unchanged.il; select -list w:*north_edge.valid %ci1 t:$logic_and %i")
    (name,) = re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE)
    change = {"mode": "const1", "module": "qexport_core", "cell": name, "port": "Y", "portbit": "0"}
    made = with_changes(tmp_path, [change], ports_of(small_set))
    for prove, fate in ((False, "survived"), (True, "killed")):
        (result,) = general_mutants(small_set, made, streams(small_set), "os", simulator, prove, quiet)
        assert result.fate == fate
    assert re.fullmatch(r"\w+: FAIL memory=.* got=x+ .*\(Icarus\)", result.how)


# --- a user's module ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_mutants_of_a_users_module(simulator: str, small_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_set, tmp_path / "a $HOME set")
    macros, core = tmp_path / "macros.sv", tmp_path / "my_core.sv"
    macros.write_text("`define NAME my_core\n")
    text = "\n".join(reference_files("os", folder).values())
    package = f"{read_manifest(folder).layer.slug}_pkg"
    core.write_text(text.replace("module dut ", f"module `NAME import {package}::*; "))
    results = user_mutants([folder], [macros, core], "my_core", sample=5, seed=1, simulator=simulator)
    assert len(results) == 5
    assert any(f"({core}:" in result.where for result in results)
    assert {(result.kind, result.style) for result in results} == {("general", "user")}
    assert "killed" in {result.fate for result in results}


def test_a_module_that_yosys_cannot_name_is_refused(small_set: Path, tmp_path: Path) -> None:
    core = tmp_path / "my core.sv"
    core.write_text("module dut; endmodule\n")
    with pytest.raises(QexportError, match=r"^dut: '.*my core.sv': .*; use a path without blanks"):
        user_mutants([small_set], [core], sample=1)


def test_what_yosys_cannot_read_is_named_with_its_line(small_set: Path, tmp_path: Path) -> None:
    core = tmp_path / "core.sv"
    text = "\n".join(reference_files("os", small_set).values())
    core.write_text(text.replace("\nendmodule", "\n  lacking missing ();\nendmodule"))
    line = core.read_text().splitlines().index("  lacking missing ();") + 1
    with pytest.raises(QexportError) as caught:
        user_mutants([small_set], [core], sample=1)
    assert str(caught.value) == f"mutants: Yosys: {core}:{line}: ERROR: unknown module 'lacking'"
