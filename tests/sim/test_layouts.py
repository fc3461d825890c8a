"""Layouts of every kind get the self-checking bench: the set's own design passes in it, and a fault is named at its
place. Each set is small, ragged in both channels, and judged by the independent decoder."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pywellen

from qexport.bench.interface import streams
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import MatMul
from qexport.core.steps import read_steps
from qexport.errors import CheckFailed
from qexport.findings.words import read_actual
from qexport.layout.memory import Layout, verilog_name
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.manifest import MemoryEntry, read_manifest, read_words
from qexport.sim.run import simulate
from qexport.sim.streams import all_streams
from tests.conftest import checked_dump, cli, make_capture
from tests.sim.conftest import edited

SIZES = {"row": 4, "col": 4}


def small(**facts: Any) -> LayerCapture:
    return make_capture(
        **({"plane": (3, 4), "in_channels": 5, "out_channels": 6, "kernel": (3, 2), "padding": (1, 1, 0, 1)} | facts)
    )


def product() -> LayerCapture:
    rng = np.random.default_rng(3)
    formats = Formats(
        input=CodeFormat(bits=8, signed=True, scale=0.5, zero_point=-3),
        input2=CodeFormat(bits=4, signed=False, scale=1.0),
    )
    return LayerCapture(
        layer=MatMul(name="features.33"), formats=formats,
        input=rng.integers(-128, 128, (2, 5, 3)), input2=rng.integers(0, 16, (2, 3, 6)),
    )  # fmt: skip


def preset(name: str, **sizes: int) -> Layout:
    """A preset with smaller sizes of its array, where it has one."""
    text = layout_text(name)
    for axis, size in (SIZES | sizes).items():
        text = re.sub(rf"^{axis}( *)= \d+$", rf"{axis}\g<1>= {size}", text, flags=re.MULTILINE)
    return parse_layout(text, f"{name}.toml")


ONE_FILE = """
name = "onefile"
[array]
row = 4
[[memory]]
name   = "weights"
tensor = "weight"
order  = "oc (it row) kh kw -> | it oc kh kw | row"
file   = "core.hex"
radix  = "hex"
header = ["// weights"]
[[memory]]
name    = "offsets"
tensor  = "bias_folded"
order   = "oc -> | oc |"
file    = "core.hex"
radix   = "hex"
follows = "weights"
[[memory]]
name   = "pixels"
tensor = "input"
order  = "n ic (ty 1+two+1) ix -> ty | n ix ic | two"
file   = "pixels{ty}.txt"
radix  = "dec"
[[memory]]
name     = "sums"
tensor   = "accumulator"
order    = "n oc oy ox -> n | ox oy | ~oc"
file     = "sums{n}.c"
radix    = "raw_le"
bits     = 32
[[memory]]
name     = "sums-again"
tensor   = "accumulator"
order    = "n oc oy ox bit -> | ~oc bit | n (oy ox)"
file     = "planes.txt"
radix    = "bin"
offset   = 0
"""


@dataclass(frozen=True)
class Case:
    """A layout and a layer; the memories that the bench must drive, and a result of which a value is made wrong."""

    layout: Layout
    capture: Callable[[], LayerCapture]
    driven: set[str]
    result: str


def steps() -> LayerCapture:
    capture = small(bias=True, relu=False)
    chain = [{"op": "multiply", "by": 3}, {"op": "shift_right", "by": 4, "round": "half_up"}, {"op": "relu"},
             {"op": "max_pool", "kernel": [2, 2]}]  # fmt: skip
    return replace(capture, steps=read_steps(chain))


CASES = {
    "weight-stationary": Case(preset("ws8x8_taps"), small, {"weight", "activation"}, "psum"),
    "with headers": Case(preset("ws8x8"), lambda: small(stride=(2, 1)), {"weight", "activation"}, "output"),
    "output-stationary": Case(preset("os8x8"), lambda: small(plane=(4, 4), padding=(1, 1, 0, 1)),
                              {"weight", "activation"}, "output"),
    "banks": Case(preset("banks"), lambda: small(plane=(4, 3)), {"weight", "activation"}, "accumulator"),
    "one file": Case(parse_layout(ONE_FILE.replace("row = 4", "row = 4\ntwo = 2"), "onefile.toml"),
                     lambda: small(bias=True, input_signed=True), {"weights", "offsets", "pixels"}, "sums"),
    "bytes in HWC": Case(preset("hwc_bytes_int8"), lambda: small(bias=True), {"input", "weight", "bias"}, "output"),
    "16x16 in tiles": Case(preset("ws16_2x2"), lambda: small(in_channels=8, out_channels=8, groups=2),
                           {"weight", "activation"}, "psum"),
    "SIMD": Case(preset("simd_2bit_even"), lambda: small(input_bits=2), {"weight", "activation"}, "output"),
    "GEMM with skew": Case(preset("gemm8x8"), product, {"input", "input2"}, "accumulator"),
    "int8 with 32-bit sums": Case(preset("int8"), lambda: small(weight_bits=8, input_bits=8, bias=True),
                                  {"input", "weight", "bias"}, "accumulator"),
    "C arrays": Case(preset("c_tflite"), steps, {"weight", "bias", "input"}, "output"),
    "bit planes": Case(preset("bitplanes"), small, {"weight", "activation"}, "accumulator"),
}  # fmt: skip
ON_VERILATOR = ("one file", "GEMM with skew")


SetOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def set_with(tmp_path_factory: pytest.TempPathFactory) -> SetOf:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            case = CASES[name]
            out = tmp_path_factory.mktemp("layouts")
            if any(memory.radix.startswith("raw") for memory in case.layout.memories):  # the judge reads texts alone
                made[name] = dump(case.capture(), case.layout, out).folder
            else:
                made[name] = checked_dump(case.capture(), case.layout, out)
        return made[name]

    return get


@pytest.mark.parametrize(
    ("simulator", "name"),
    [("icarus", name) for name in CASES] + [("verilator", name) for name in ON_VERILATOR],
    indirect=["simulator"],
)
def test_the_design_of_the_set_passes(simulator: str, name: str, set_with: SetOf) -> None:
    folder, manifest = set_with(name), read_manifest(set_with(name))
    offered = streams(manifest) or ()
    assert {s.memory for s in offered if s.driven and s.needed} == CASES[name].driven
    verdict = simulate(folder, simulator).check()
    entries = {entry.name: entry for entry in manifest.memories}
    assert CASES[name].result in verdict.compared
    for memory, values in verdict.compared.items():
        tiling = entries[memory].tiling(manifest.array)
        skewed = tiling.added if entries[memory].skew else 0
        assert values == tiling.files * tiling.words * tiling.lanes - skewed


def run_make(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", str(folder), "sim", *variables]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def place_to_break(folder: Path, name: str) -> tuple[MemoryEntry, tuple[int, int, int], dict[str, int], int]:
    """A stored element of a result, behind the middle: its place, its index, and its value."""
    manifest = read_manifest(folder)
    entry = next(entry for entry in manifest.memories if entry.name == name)
    tiling = entry.tiling(manifest.array)
    for at in range(2 * tiling.files * tiling.words * tiling.lanes // 3, tiling.files * tiling.words * tiling.lanes):
        file, word, lane = map(int, np.unravel_index(at, (tiling.files, tiling.words, tiling.lanes)))
        if (index := tiling.origin(file, word, lane)) is not None:
            value = read_words(folder, manifest, entry, tiling, file)[word, lane]
            return entry, (file, word, lane), index, int(value)
    raise AssertionError(name)


LABELS = {"image": "n", "y": "oy", "x": "ox", "b": "bit"}
SHOWN = {"oy": "y", "ox": "x", "py": "y", "px": "x", "bit": "b"}  # in waves


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_value_is_named_at_its_place(simulator: str, name: str, set_with: SetOf, tmp_path: Path) -> None:
    folder = set_with(name)
    entry, (file, word, lane), index, value = place_to_break(folder, CASES[name].result)
    at = file * entry.files[0].words + word
    end = f"lane_{entry.name} = {entry.bits}'(v);"
    wrong = f"lane_{entry.name} = {entry.bits}'(v) ^ (at == {at} && lane == {lane});"
    dut = edited(folder / "dut.sv", tmp_path / "dut.sv", [(end, wrong)])
    done = run_make(folder, f"DUT={dut}", "STREAMS=smooth")
    assert done.returncode != 0
    path = entry.files[file].path
    path += "" if entry.format.text else f"({path}.hex)"  # the layout's own file first; the line is that of the text
    line = (len(entry.header) if entry.format.text else 0) + word + 1
    (found,) = re.findall(
        r"^FAIL (memory=\S+ file=\S+ line=\d+ lane=\d+) (.*) got=(\S+) want=(\S+)$", done.stdout, re.M
    )
    assert found[0] == f"memory={entry.name} file={path} line={line} lane={lane}"
    told = {LABELS.get(label, label): int(number) for label, number in (part.split("=") for part in found[1].split())}
    if entry.tensor == "psum":
        told = {{"oy": "py", "ox": "px"}.get(axis, axis): number for axis, number in told.items()}
    assert told == index
    assert (int(found[2]), int(found[3])) == (value ^ 1, value)
    assert "FAIL errors=1 " in done.stdout


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("name", ["one file", "GEMM with skew", "with headers"])
def test_every_way_of_streams_passes_and_python_names_the_place_in_the_file_itself(
    simulator: str, name: str, set_with: SetOf, tmp_path: Path
) -> None:
    folder = set_with(name)
    simulate(folder, simulator, streams=all_streams(seeds=2)).check()
    entry, (file, word, lane), index, value = place_to_break(folder, CASES[name].result)
    end = f"lane_{entry.name} = {entry.bits}'(v);"
    at = file * entry.files[0].words + word
    wrong = f"lane_{entry.name} = {entry.bits}'(v) ^ (at == {at} && lane == {lane});"
    dut = edited(folder / "dut.sv", tmp_path / "dut.sv", [(end, wrong)])
    run = simulate(folder, simulator, [dut], keep=tmp_path / "run", waves="vcd", around=2)
    line = len(entry.header) + word + 1
    said = f"FAIL memory={entry.name} file={entry.files[file].path} line={line} lane={lane} "
    assert said in str(run.failure)
    assert f" got={value ^ 1} want={value}\n" in str(run.failure)
    signals = {v.full_name.split(".", 1)[1]: v for v in pywellen.Waveform(str(tmp_path / "run/waves.vcd")).all_vars()}
    for memory in run.compared:
        names = {"want", "got", "mismatch", "compared", "line", *(SHOWN.get(axis, axis) for axis in index)}
        assert {f"{verilog_name(memory)}_check.{name}" for name in names} <= signals.keys()
    scope = f"{verilog_name(entry.name)}_check"
    begin = next(time for time, bit in signals[f"{scope}.mismatch"].tv if bit in (1, "1"))
    for axis, number in index.items():
        shown = [v for time, v in signals[f"{scope}.{SHOWN.get(axis, axis)}"].tv if time <= begin][-1]
        assert (shown if isinstance(shown, int) else int(shown, 2)) == number, axis


# --- streams that are not always there ------------------------------------------------------------------------------

SECOND_STAGE = """
module dut (
  input wire clk, input wire rst,
  input wire s_psum_tvalid, output wire s_psum_tready, input wire [{bits}:0] s_psum_tdata, input wire s_psum_tlast,
  output wire m_output_tvalid, input wire m_output_tready, output wire [63:0] m_output_tdata, output wire m_output_tlast
);
  // a 1x1 kernel and one tile of inputs: each word of sums is rectified
  assign s_psum_tready = m_output_tready, m_output_tvalid = s_psum_tvalid, m_output_tlast = s_psum_tlast;
  for (genvar col = 0; col < 4; col++)
    assign m_output_tdata[col*16 +: 16] = s_psum_tdata[col*16+15] ? 16'd0 : s_psum_tdata[col*16 +: 16];
endmodule
"""


def test_psums_go_into_a_second_stage_where_it_has_the_ports(tmp_path: Path) -> None:
    capture = small(plane=(2, 3), in_channels=4, out_channels=4, kernel=(1, 1), padding=(0, 0, 0, 0))
    folder = checked_dump(capture, preset("ws16_2x2"), tmp_path / "sets")
    (tmp_path / "second.sv").write_text(SECOND_STAGE.format(bits=63))
    verdict = simulate(folder, "icarus", [tmp_path / "second.sv"], streams=all_streams()).check()
    assert set(verdict.compared) == {"output"}
    assert set(verdict.not_compared) == {"psum"}


def test_a_second_memory_of_an_operand_is_streamed_where_the_design_has_its_ports(tmp_path: Path) -> None:
    folder = checked_dump(small(), "default", tmp_path / "sets")
    text = (folder / "dut.sv").read_text()
    width = next(s.width for s in streams(read_manifest(folder)) or () if s.memory == "patches")
    port = (
        f"input wire s_patches_tvalid, output reg s_patches_tready, input wire [{width - 1}:0] s_patches_tdata, "
        "input wire s_patches_tlast,\n"
    )
    assert "  output reg  m_psum_tvalid" in text
    text = text.replace("  output reg  m_psum_tvalid", f"{port}  output reg  m_psum_tvalid")
    (tmp_path / "dut.sv").write_text(text.replace("endmodule", "  initial s_patches_tready = 1;\nendmodule"))
    simulate(folder, "icarus", [tmp_path / "dut.sv"]).check()
    (tmp_path / "dut.sv").write_text(text.replace("endmodule", "  initial s_patches_tready = 0;\nendmodule"))
    with pytest.raises(CheckFailed, match="memory=patches 0 of 144 words were taken"):
        simulate(folder, "icarus", [tmp_path / "dut.sv"]).check()


# --- designs whose handshakes are wrong -----------------------------------------------------------------------------

WAITS = [  # results are offered only while they would be taken
    ("m_relu_tvalid", "relu_offered"),
    ("output reg  relu_offered", "output wire m_relu_tvalid"),
    (
        "integer state, at,",
        "reg relu_offered;\n  assign m_relu_tvalid = relu_offered && m_relu_tready;\n  integer state, at,",
    ),
]
TIRED = [  # gives up an offer of accumulators that is not taken for 12 cycles
    ("integer state, at,", "integer tired = 0;\n  integer state, at,"),
    ("if (m_accumulator_tready) m_accumulator_tvalid <= 0;",
     "tired <= m_accumulator_tvalid && !m_accumulator_tready ? tired + 1 : 0;\n"
     "      if (m_accumulator_tready || tired == 11) m_accumulator_tvalid <= 0;"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edits", "mode", "said"),
    [
        (WAITS, "lazy", "stream relu; streams lazy"),
        (TIRED, "bursts", "m_accumulator changed its offer before m_accumulator_tready took it"),
    ],
    ids=["tvalid waits for tready", "an offer is dropped after 12 cycles"],
)
def test_a_design_that_stalls_alone_find_out_fails(
    edits: list[tuple[str, str]], mode: str, said: str, tiny_set: Path, tmp_path: Path
) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", edits)
    simulate(tiny_set, "icarus", [dut], streams=all_streams(("smooth", "random"), seed=1)).check()
    verdict = simulate(tiny_set, "icarus", [dut], streams=all_streams())
    assert [run.mode for run in verdict.streams][-1] == mode
    with pytest.raises(CheckFailed, match="FAIL: handshake: fails when stalled") as caught:
        verdict.check()
    assert said in str(caught.value)


def test_a_design_that_a_reset_in_mid_run_upsets_fails(tiny_set: Path, tmp_path: Path) -> None:
    edits = [("      state <= WEIGHTS;\n", ""), ("integer state, at,", "integer state = 0, at,")]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", edits)
    with pytest.raises(CheckFailed, match=r"FAIL: reset: fails when it is reset in mid-run.*after it passed smooth"):
        simulate(tiny_set, "icarus", [dut], streams=all_streams()).check()


# --- the other benches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("name", ["one file", "GEMM with skew", "with headers"])
def test_the_stub_compares_and_leaves_the_words_that_diagnose_reads(
    simulator: str, name: str, set_with: SetOf, tmp_path: Path
) -> None:
    folder = set_with(name)
    assert cli("stub", folder, "--style", "stream", "--out", tmp_path / "stub").exit_code == 0
    done = run_make(tmp_path / "stub", f"DUT={folder / 'dut.sv'}", f"OUT={tmp_path / 'words'}")
    assert done.returncode == 0, done.stdout + done.stderr
    entry, (file, word, lane), _, value = place_to_break(folder, CASES[name].result)
    actual = read_actual(folder, tmp_path / "words" / f"{entry.name}.hex")
    assert actual.memory.name == entry.name
    assert (actual.missing, actual.extra) == (0, 0)
    assert actual.values.reshape(len(entry.files), -1, actual.values.shape[-1])[file, word, lane] == value
    at = file * entry.files[0].words + word
    end = f"lane_{entry.name} = {entry.bits}'(v);"
    dut = edited(folder / "dut.sv", tmp_path / "dut.sv", [(end, f"{end[:-1]} ^ (at == {at} && lane == {lane});")])
    done = run_make(tmp_path / "stub", f"DUT={dut}")
    path = entry.files[file].path
    path += "" if entry.format.text else f"({path}.hex)"  # the layout's own file first; the line is that of the text
    line = (len(entry.header) if entry.format.text else 0) + word + 1
    assert f"FAIL memory={entry.name} file={path} line={line} lane={lane} got={value ^ 1} want={value}\n" in done.stdout


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize(
    ("name", "mode"), [("one file", "bursts"), ("GEMM with skew", "reset"), ("with headers", "blocked")]
)
def test_cocotb_takes_as_many_cycles(simulator: str, name: str, mode: str, set_with: SetOf, tmp_path: Path) -> None:
    folder = set_with(name)
    assert cli("cocotb", folder, "--out", tmp_path / "bench").exit_code == 0
    verdict = simulate(folder, simulator, streams=all_streams((mode,), seed=5)).check()
    command = [sys.executable, str(tmp_path / "bench" / "test_features_33.py"), "--streams", mode, "--seed", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^DONE cycles={verdict.cycles} ", done.stdout, re.MULTILINE)
    assert re.search(rf"^PASS checks={verdict.checks}$", done.stdout, re.MULTILINE)
