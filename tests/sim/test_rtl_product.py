"""Matrix products on the output-stationary array: bit for bit the golden, in any rhythm, in the documented cycles."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qexport.bench.rtl import mm_cycles, product_cycles
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import MatMul
from qexport.core.steps import read_steps
from qexport.errors import QexportError
from qexport.layout.memory import Layout
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.run import simulate
from qexport.sim.verilator import Verilator
from qexport.trust.mutants import chosen_edits, hand_mutants
from qexport.trust.stress import stress_capture
from tests.conftest import cli, fails
from tests.sim.test_rtl import BENCHES, rendered, run, synthesized

EIGHT = CodeFormat(bits=8, signed=True, scale=0.5, zero_point=-3)
FOUR = CodeFormat(bits=4, signed=False, scale=0.5, zero_point=7)
PLAIN = CodeFormat(bits=3, signed=True, scale=0.5)
ONES = CodeFormat(bits=1, signed=False, scale=0.5)
Sizes = tuple[int, int, int, int]  # n m k p


def product(left: CodeFormat, right: CodeFormat, sizes: Sizes, addend: bool, steps: bool, relu: bool) -> LayerCapture:
    n, m, k, p = sizes
    rng = np.random.default_rng(m)
    documents = [
        {"op": "multiply", "by": rng.integers(-9, 10, p).tolist()},
        {"op": "add", "value": rng.integers(-99, 100, p).tolist()},
        {"op": "shift_right", "by": 4, "round": "half_away"},
        {"op": "threshold", "first": -2, "table": np.sort(rng.integers(-50, 51, (p, 4))).tolist()},
    ]
    return LayerCapture(
        layer=MatMul(name="product", relu=relu),
        formats=Formats(input=left, input2=right),
        input=rng.integers(left.integer.low, left.integer.high + 1, (n, m, k)),
        input2=rng.integers(right.integer.low, right.integer.high + 1, (n, k, p)),
        addend=rng.integers(-(10**6), 10**6, (n, m, p)) if addend else None,
        steps=read_steps(documents) if steps else None,
    )


CASES: dict[str, tuple[LayerCapture, tuple[int, int]]] = {  # and the array
    "zero points, an addend, ragged tiles": (product(EIGHT, FOUR, (2, 7, 9, 10), True, True, False), (4, 3)),
    "one tile": (product(PLAIN, PLAIN, (1, 2, 3, 2), False, False, True), (4, 4)),
    "a wide array": (product(FOUR, PLAIN, (3, 4, 6, 7), True, False, True), (2, 7)),
    "one element": (product(ONES, EIGHT, (2, 2, 3, 2), False, True, True), (1, 1)),
}  # fmt: skip


def sized(row: int, col: int) -> Layout:
    text = layout_text("matmul").replace("row = 8", f"row = {row}").replace("col = 8", f"col = {col}")
    return parse_layout(text, "sized.toml")


SetOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def set_of_product(tmp_path_factory: pytest.TempPathFactory) -> SetOf:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            capture, array = CASES[name]
            made[name] = dump(capture, sized(*array), tmp_path_factory.mktemp("product")).folder
        return made[name]

    return get


on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
on_verilator = pytest.mark.parametrize("simulator", ["verilator"], indirect=True)


def results(folder: Path) -> set[str]:
    manifest = read_manifest(folder)
    names = {memory.name for memory in manifest.memories} & {"accumulator", "relu", "output"}
    return names if manifest.layer.relu else names - {"relu"}


@on_icarus
@pytest.mark.parametrize("name", CASES)
def test_streams_give_the_golden_in_any_rhythm(
    simulator: str, name: str, set_of_product: SetOf, tmp_path: Path
) -> None:
    folder = set_of_product(name)
    sources = [path for path in rendered(folder, "os", tmp_path) if path.name != "dut_mm.sv"]
    for seed in (0, 3, 4):
        assert set(simulate(folder, simulator, sources, seed=seed).check().compared) == results(folder)


@on_icarus
def test_an_image_takes_the_documented_cycles(simulator: str, set_of_product: SetOf, tmp_path: Path) -> None:
    """All of its operands come at once; the longest, here the 2 x 10 x 9 words of input2, counts."""
    name = "zero points, an addend, ragged tiles"
    capture, array = CASES[name]
    taken = []
    for images in (1, 2):
        folder = dump(capture.part(0, images), sized(*array), tmp_path / str(images)).folder
        sources = [path for path in rendered(folder, "os", tmp_path / f"rtl{images}") if path.name != "dut_mm.sv"]
        taken.append(simulate(folder, simulator, sources, seed=0).check().cycles)
    compute = product_cycles(7, 9, 10, {"row": 4, "col": 3})
    assert compute == 2 * (4 * (3 * 4 + 3 * 4 + 3) + 1)  # two tiles of rows, four of columns, three of terms
    assert taken[1] - taken[0] == max(7 * 3, 4 * 9, 7 * 4) + compute + 1


@on_icarus
@pytest.mark.parametrize("name", CASES)
def test_memories_give_the_golden_in_the_documented_cycles(
    simulator: str, name: str, set_of_product: SetOf, tmp_path: Path
) -> None:
    folder = set_of_product(name)
    manifest = read_manifest(folder)
    sources = rendered(folder, "os", tmp_path)
    memories = {memory.name: memory for memory in manifest.memories}
    named = {"input": "INPUT", "input2": "WEIGHT", "addend": "BIAS", "accumulator": "ACCUMULATOR", "relu": "RELU",
             "output": "OUTPUT"}  # fmt: skip
    kept = results(folder)
    numbers = {"ROW": manifest.array["row"], "COL": manifest.array["col"], "N": memories["input"].shape[0]}
    for name_of, prefix in named.items():
        if name_of in memories:
            numbers[f"{prefix}_BITS"] = memories[name_of].bits
            if name_of not in ("accumulator", "relu"):
                numbers[f"{prefix}_WORDS"] = memories[name_of].files[0].words
    numbers["RESULT_WORDS"] = memories["accumulator"].files[0].words
    numbers["WR_BITS"] = max(memories[n].word_bits for n in ("input", "input2", "addend") if n in memories)
    numbers["RD_BITS"] = max(memories[n].word_bits for n in ("accumulator", "relu", "output") if n in memories)
    macros = ["PRODUCT", *(["BIAS"] if "addend" in memories else []), *(n.upper() for n in kept & {"relu", "output"})]
    options = [*(f"-Ptb_mm.{key}={value}" for key, value in numbers.items()), *(f"-D{macro}" for macro in macros)]
    command = ["iverilog", "-g2012", "-Wall", *options, "-s", "tb_mm", "-o", str(tmp_path / "sim")]
    done = subprocess.run(
        [*command, str(BENCHES / "tb_mm.sv"), *map(str, sources)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "tb_mm.sv" not in line]
    said = run(["vvp", "-N", str(tmp_path / "sim")], folder)
    assert said["words"] == sum(memories[n].files[0].words for n in kept)
    assert said["cycles"] == mm_cycles("os", manifest)


@on_verilator
def test_verilator_agrees_and_has_no_warning(simulator: str, set_of_product: SetOf, tmp_path: Path) -> None:
    program, env = Verilator()._found()
    for name in ("zero points, an addend, ragged tiles", "one element"):
        sources = rendered(set_of_product(name), "os", tmp_path / name)
        for top in ("dut", "dut_mm"):
            command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", top, *map(str, sources)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
    folder = set_of_product("zero points, an addend, ragged tiles")
    command_files = ["--out", tmp_path / "rtl"]
    assert cli("rtl", folder, *command_files).exit_code == 0  # os is what a product gets
    files = [tmp_path / "rtl" / name for name in (tmp_path / "rtl" / "files.f").read_text().split()]
    assert simulate(folder, simulator, files, seed=5).passed


@pytest.mark.parametrize("name", ["zero points, an addend, ragged tiles", "one element"])
def test_yosys_finds_memories_and_no_latch(name: str, set_of_product: SetOf, tmp_path: Path) -> None:
    sources = rendered(set_of_product(name), "os", tmp_path)
    said = synthesized(sources, "hierarchy -check -top dut", "proc", "check -assert", "memory -nomap", "stat")
    assert "$mem_v2" in said


def test_what_the_array_has_not_is_refused_in_one_line(tmp_path: Path, set_of_product: SetOf) -> None:
    folder = set_of_product("one tile")
    fails(
        cli("rtl", folder, "--style", "ws", "--out", tmp_path / "a"),
        "layer product is a matrix product, which the output",
    )
    capture, _ = CASES["one tile"]
    levels = msgspec.structs.replace(
        capture.formats, input=CodeFormat(bits=3, signed=False, scale=1.0, levels=(*range(8),))
    )
    levelled = replace(capture, formats=levels, input=np.abs(capture.input))
    of_levels = dump(levelled, sized(4, 4), tmp_path / "sets").folder
    fails(cli("rtl", of_levels, "--out", tmp_path / "b"), "codes with levels have no reference RTL yet")
    other = parse_layout(layout_text("matmul").replace("| n pt k |", "| n k pt |"), "other.toml")
    with pytest.raises(QexportError, match=re.escape("memory 'input2' does not stand as in the preset matmul")):
        rendered(dump(capture, other, tmp_path / "other").folder, "os", tmp_path / "c")


@on_icarus
def test_a_bench_of_memories_passes_around_the_array(simulator: str, set_of_product: SetOf, tmp_path: Path) -> None:
    folder = set_of_product("zero points, an addend, ragged tiles")
    assert cli("stub", folder, "--style", "memory", "--out", tmp_path / "bench").exit_code == 0
    files = [path for path in rendered(folder, "os", tmp_path / "rtl") if path.name != "dut.sv"]
    dut = "DUT=" + " ".join(map(str, files))
    done = subprocess.run(
        ["make", "-C", str(tmp_path / "bench"), "sim", dut], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nPASS checks=" in done.stdout


@on_icarus
def test_the_stress_capture_shows_every_mistake_of_the_array(simulator: str, tmp_path: Path) -> None:
    like = product(PLAIN, PLAIN, (1, 5, 4, 5), addend=True, steps=False, relu=True)
    folder = dump(stress_capture(like), sized(2, 2), tmp_path).folder
    edits = chosen_edits("os", folder)
    found = hand_mutants(folder, "os", edits, simulator=simulator)
    assert [result.name for result in found if result.fate != "killed"] == []
    assert len(edits) > 55
