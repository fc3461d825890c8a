"""The reference RTL gives the golden bit for bit, in any rhythm, in the documented cycles, and synthesizes."""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from qexport.bench.rtl import behind_array, compute_cycles, latency, load_cycles, mm_cycles, render_rtl, stream_cycles
from qexport.bench.stages import held_cycles, rtl_stages
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.steps import read_steps
from qexport.errors import QexportError
from qexport.layout.memory import Layout
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.manifest import Manifest, read_manifest
from qexport.sim.run import simulate
from qexport.sim.verilator import Verilator
from qexport.trust.equivalence import yosys
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.sim.conftest import edited, ragged_capture

ROOT = Path(__file__).parent.parent.parent
BENCHES = Path(__file__).parent / "rtl"
STYLES = ("ws", "os")
TOPS = ("dut", "dut_mm")
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
on_verilator = pytest.mark.parametrize("simulator", ["verilator"], indirect=True)


def layer_33() -> LayerCapture:
    """The committed example's first two pictures."""
    return LayerCapture.load(ROOT / "vectors" / "features_33" / "capture.safetensors").part(0, 2)


def with_output(capture: LayerCapture, bits: int = 4) -> LayerCapture:
    """The capture with a next quantized layer, whose codes are clipped now and then."""
    output = CodeFormat(bits=bits, signed=False, scale=4.7)
    return replace(capture, formats=msgspec.structs.replace(capture.formats, output=output))


def with_zero_point(capture: LayerCapture, zero_point: int) -> LayerCapture:
    """The capture with inputs whose real zero is another code, which stands in the padding."""
    inputs = msgspec.structs.replace(capture.formats.input, zero_point=zero_point)
    return replace(capture, formats=msgspec.structs.replace(capture.formats, input=inputs))


def sized(row: int, col: int, psum: str = "") -> Layout:
    """The layout 'default' for an array of another size; `psum`: further keys of that memory."""
    text = layout_text("default").replace("row = 8", f"row = {row}").replace("col = 8", f"col = {col}")
    return parse_layout(text.replace('file   = "psum.hex"', f'file   = "psum.hex"\n{psum}'), "sized.toml")


CASES: Mapping[str, Callable[[], tuple[LayerCapture, Layout]]] = {
    "features.33": lambda: (layer_33(), sized(8, 8)),
    "ragged": lambda: (ragged_capture(), sized(8, 8)),
    "multi-tile": lambda: (with_output(make_capture(in_channels=24, out_channels=20)), sized(8, 8)),
    "zero point": lambda: (with_zero_point(ragged_capture(), -5), sized(8, 8)),
    "zero point without bias": lambda: (with_zero_point(make_capture(out_channels=9), 11), sized(4, 4)),
    "linear": lambda: (
        make_capture(
            kind="linear", plane=(1, 1), images=3, kernel=(1, 1), padding=(0, 0, 0, 0), in_channels=19,
            out_channels=11, bias=True,
        ),
        sized(8, 8),
    ),
    "signed inputs": lambda: (with_output(make_capture(input_signed=True, out_channels=9, weight_bits=3)), sized(8, 8)),
    "unsigned single bits": lambda: (
        make_capture(weight_bits=1, weight_signed=False, input_bits=1, out_channels=1, in_channels=3), sized(8, 8),
    ),
    "depthwise": lambda: (
        make_capture(in_channels=10, out_channels=10, groups=10, plane=(3, 5), stride=(2, 3), bias=True), sized(4, 4),
    ),
    "groups across tiles": lambda: (
        make_capture(in_channels=15, out_channels=21, groups=3, input_signed=True, kernel=(2, 3)), sized(3, 5),
    ),
    "tall array": lambda: (make_capture(in_channels=12, out_channels=5), sized(5, 2)),
    "wide array": lambda: (make_capture(in_channels=4, out_channels=12, stride=(3, 1)), sized(2, 7)),
    "one element": lambda: (
        make_capture(in_channels=2, out_channels=2, plane=(2, 3), kernel=(1, 2), padding=(0, 0, 1, 0)), sized(1, 1),
    ),
    "small": lambda: (
        with_output(make_capture(in_channels=3, out_channels=3, images=1, kernel=(2, 1), bias=True)), sized(2, 2),
    ),
    "psums that wrap": lambda: (make_capture(), sized(8, 8, 'bits = 6\noverflow = "wrap"')),
}  # fmt: skip
SHORT = ("features.33", "ragged", "multi-tile", "groups across tiles")

SetOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def set_of_case(tmp_path_factory: pytest.TempPathFactory) -> SetOf:
    """The sets above, dumped once and checked by the independent decoder."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            capture, layout = CASES[name]()
            made[name] = checked_dump(capture, layout, tmp_path_factory.mktemp("rtl"))
        return made[name]

    return get


def rendered(folder: Path, style: str, to: Path) -> list[Path]:
    """The RTL of a set, written to `to`."""
    manifest = read_manifest(folder)
    files = render_rtl(style, manifest, *behind_array(folder, manifest))
    to.mkdir(exist_ok=True)
    for name, text in files.items():
        (to / name).write_text(text)
    return [to / name for name in files]


def sizes(manifest: Manifest) -> dict[str, int]:
    """What the test benches need to know of a set."""
    memories = {memory.name: memory for memory in manifest.memories}
    driven = [memories[name] for name in ("weight", "bias", "input") if name in memories]
    results = [memories[name] for name in ("accumulator", "relu", "output") if name in memories]
    numbers = {"ROW": manifest.array["row"], "COL": manifest.array["col"], "N": memories["input"].shape[0]}
    numbers |= {f"{m.name.upper()}_BITS": m.bits for m in (*driven, *results, memories["psum"])}
    numbers |= {f"{m.name.upper()}_WORDS": m.files[0].words for m in (*driven, memories["psum"])}
    if "output" in memories:
        numbers["OUTPUT_WORDS"] = memories["output"].files[0].words
    return numbers | {
        "RESULT_WORDS": results[0].files[0].words,
        "LATENCY": latency(manifest),
        "WR_BITS": max(m.word_bits for m in driven),
        "RD_BITS": max(m.word_bits for m in results),
    }


def bench_sizes(manifest: Manifest, bench: str) -> dict[str, int]:
    others = ("LATENCY",) if bench == "tb_mm" else ("WR_BITS", "RD_BITS", "OUTPUT_WORDS")
    return {name: value for name, value in sizes(manifest).items() if name not in others}


def bench_streams(manifest: Manifest, style: str) -> set[str]:
    """The streams that not every design has."""
    present = {memory.name.upper() for memory in manifest.memories} & {"BIAS", "OUTPUT", "RELU"}
    return present | ({"PSUM"} if style == "ws" else set())


def built(folder: Path, style: str, bench: str, to: Path) -> list[str]:
    """The command that runs the bench around the set's RTL, built by Icarus."""
    manifest = read_manifest(folder)
    sources = rendered(folder, style, to)
    return compiled(manifest, style, bench, sources, to)


def compiled(manifest: Manifest, style: str, bench: str, sources: list[Path], to: Path) -> list[str]:
    benches = [BENCHES / f"{name}.sv" for name in ((bench,) if bench == "tb_mm" else (bench, "source", "sink"))]
    options = [f"-P{bench}.{name}={value}" for name, value in bench_sizes(manifest, bench).items()]
    options += [f"-D{name}" for name in bench_streams(manifest, style)]
    command = ["iverilog", "-g2012", *options, "-s", bench, "-o", str(to / bench), *map(str, [*benches, *sources])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ["vvp", "-N", str(to / bench)]


def run(program: Sequence[str], folder: Path, **plusargs: int) -> dict[str, int]:
    """What the bench printed: errors, words and cycles."""
    command = [*program, f"+dir={folder}", *(f"+{name}={value}" for name, value in plusargs.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = re.search(r"^DONE errors=(\d+) words=(\d+) cycles=(-?\d+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said is not None, done.stdout + done.stderr
    errors, words, cycles = map(int, said.groups())
    assert errors == 0, done.stdout
    return {"errors": errors, "words": words, "cycles": cycles}


def plane_of(manifest: Manifest) -> tuple[int, int]:
    (shape,) = (memory.shape for memory in manifest.memories if memory.name == "input")
    return shape[2], shape[3]


def compared_words(manifest: Manifest, *names: str) -> int:
    return sum(memory.files[0].words for memory in manifest.memories if memory.name in names)


# --- data and cycles ------------------------------------------------------------------------------------------------


@on_icarus
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CASES)
def test_streams_give_the_golden_in_any_rhythm_and_take_the_documented_cycles(
    simulator: str, name: str, style: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    folder = set_of_case(name)
    manifest = read_manifest(folder)
    program = built(folder, style, "tb_stream", tmp_path)
    words = compared_words(manifest, "accumulator", "relu", "output", *(["psum"] if style == "ws" else []))
    free = run(program, folder)
    assert free["words"] == words
    cycles = stream_cycles(style, manifest.layer, plane_of(manifest), manifest.array)
    assert free["cycles"] == sizes(manifest)["N"] * cycles
    for seed, pause in ((1, 50), (2, 10), (3, 80)):
        assert run(program, folder, seed=seed, pause=pause)["words"] == words


@on_icarus
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CASES)
def test_memories_give_the_golden_image_after_image_in_the_documented_cycles(
    simulator: str, name: str, style: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    folder = set_of_case(name)
    manifest = read_manifest(folder)
    said = run(built(folder, style, "tb_mm", tmp_path), folder)
    assert said["words"] == compared_words(manifest, "accumulator", "relu", "output")
    assert said["cycles"] == mm_cycles(style, manifest)


@on_icarus
@pytest.mark.parametrize("style", STYLES)
def test_pools_whose_windows_end_together_hold_the_array_in_the_documented_cycles(
    simulator: str, style: str, tmp_path: Path
) -> None:
    steps = [
        {"op": "max_pool", "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1, 1, 1]},
        {"op": "multiply", "by": list(range(-4, 6))},
        {"op": "max_pool", "kernel": [3, 2], "stride": [1, 2], "padding": [2, 2, 0, 1]},
    ]
    capture = replace(make_capture(plane=(4, 5), in_channels=3, out_channels=10, bias=True), steps=read_steps(steps))
    folder = checked_dump(capture, sized(4, 4), tmp_path)
    manifest = read_manifest(folder)
    held = held_cycles(rtl_stages(manifest, *behind_array(folder, manifest)), 3)
    assert held == 3 * ((4 * 1 + 1 * 5) + (4 * 0 + 2 * 3))  # tiles; of 4x5 to 4x5, then to 6x3
    said = run(built(folder, style, "tb_mm", tmp_path / style), folder)
    assert said["words"] == compared_words(manifest, "accumulator", "relu", "output")
    assert said["cycles"] == mm_cycles(style, manifest, held)
    sources = [path for path in (tmp_path / style).iterdir() if path.suffix == ".sv" and path.name != "dut_mm.sv"]
    simulate(folder, simulator, sources, seed=1).check()


@on_verilator
@pytest.mark.parametrize("style", STYLES)
def test_verilator_agrees(simulator: str, style: str, set_of_case: SetOf, tmp_path: Path) -> None:
    folder = set_of_case("ragged")
    manifest = read_manifest(folder)
    sources = [BENCHES / f"{name}.sv" for name in ("tb_stream", "source", "sink")] + rendered(folder, style, tmp_path)
    program, env = Verilator()._found()
    options = [f"-G{name}={value}" for name, value in bench_sizes(manifest, "tb_stream").items()]
    options += [f"-D{name}" for name in bench_streams(manifest, style)]
    options += ["-CFLAGS", "-std=c++20", "-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_GLOBAL=-O1"]  # cf. simulate.py
    options += ["--binary", "--timing", "-Wno-fatal", "--top-module", "tb_stream", "--Mdir", str(tmp_path / "build")]
    command = [str(program), *options, "-o", "sim", *map(str, sources)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for pause in (0, 50):
        said = run([str(tmp_path / "build" / "sim")], folder, seed=1, pause=pause)
        assert said == run(built(folder, style, "tb_stream", tmp_path), folder, seed=1, pause=pause)


def test_cycles_of_the_example_by_hand() -> None:
    layer, array = layer_33().layer, {"row": 8, "col": 8}
    assert load_cycles(layer, (4, 4), array) == (72, 16)
    assert compute_cycles("ws", layer, (4, 4), array) == 9 * (8 + 36 + 8 + 8 + 1)  # of the nine taps
    assert compute_cycles("os", layer, (4, 4), array) == 2 * (9 * 8 + 8 + 8 + 8)  # of the two halves of 16 positions


@on_icarus
@pytest.mark.parametrize(
    ("style", "file", "old", "new"),
    [
        ("ws", "ws_grid.sv", "psum_north(psum[r][c])", "psum_north(psum[r][COL-1-c])"),
        (
            "ws",
            "ws_grid.sv",
            "activation_west(activation[r][c])",
            "activation_west(activation[ROW-1-r][c])",
        ),
        ("os", "os_grid.sv", "weight_north(weight[r][c])", "weight_north(weight[r][COL-1-c])"),
        ("os", "os_grid.sv", "sum_south(sum[r+1][c])", "sum_south(sum[r+1][COL-1-c])"),
    ],
)
def test_elements_that_are_wired_to_others_are_noticed(
    simulator: str, style: str, file: str, old: str, new: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    folder = set_of_case("features.33")
    sources = rendered(folder, style, tmp_path)
    edited(tmp_path / f"features_33_{file}", tmp_path / f"features_33_{file}", [(old, new)])
    program = compiled(read_manifest(folder), style, "tb_stream", sources, tmp_path)
    with pytest.raises(AssertionError, match=r"WRONG accumulator\.hex"):
        run(program, folder)


def test_a_set_in_another_layout_and_an_unknown_style_are_refused(set_of: SetOf, set_of_case: SetOf) -> None:
    for folder, style, message in (
        (set_of("ws8x8"), "ws", "memory 'weight' does not stand as in the preset default"),
        (set_of_case("features.33"), "rs", "style 'rs' is not known; choose ws or os"),
    ):
        manifest = read_manifest(folder)
        with pytest.raises(QexportError, match=re.escape(message)):
            render_rtl(style, manifest, None)


# --- lint and synthesis ---------------------------------------------------------------------------------------------


@on_icarus
@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CASES)
def test_icarus_has_nothing_to_say(
    simulator: str, name: str, style: str, top: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    sources = rendered(set_of_case(name), style, tmp_path)
    command = ["iverilog", "-g2012", "-Wall", "-s", top, "-o", str(tmp_path / "sim"), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_verilator
@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CASES)
def test_verilator_has_no_warning(
    simulator: str, name: str, style: str, top: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    sources = rendered(set_of_case(name), style, tmp_path)
    program, env = Verilator()._found()
    command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", top, *map(str, sources)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def synthesized(sources: list[Path], *commands: str) -> str:
    """What Yosys says of the sources, by their names in their folder; a warning, such as of a latch, is a failure."""
    said = yosys(sources[0].parent, f"read_verilog -sv {' '.join(source.name for source in sources)}", *commands)
    assert "Warning" not in said, said
    return said


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", SHORT)
def test_yosys_finds_memories_and_no_latch(name: str, style: str, top: str, set_of_case: SetOf, tmp_path: Path) -> None:
    sources = rendered(set_of_case(name), style, tmp_path)
    said = synthesized(sources, f"hierarchy -check -top {top}", "proc", "check -assert", "memory -nomap", "stat")
    assert "$mem_v2" in said


def test_a_latch_would_be_noticed(set_of_case: SetOf, tmp_path: Path) -> None:
    sources = rendered(set_of_case("one element"), "ws", tmp_path)
    latch = "assign at = 32'(count);", "reg [31:0] held; always @* if (step) held = 32'(count);\n  assign at = held;"
    edited(tmp_path / "features_33_axis.sv", tmp_path / "features_33_axis.sv", [latch])
    with pytest.raises(AssertionError, match="Warning: Latch inferred"):
        synthesized(sources, "hierarchy -check -top dut", "proc")


@on_icarus
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["one element", "small"])
def test_gates_that_yosys_makes_of_a_small_array_give_the_golden(
    simulator: str, name: str, style: str, set_of_case: SetOf, tmp_path: Path
) -> None:
    folder = set_of_case(name)
    manifest = read_manifest(folder)
    sources = rendered(folder, style, tmp_path)
    synthesized(sources, "synth -flatten -noabc -top dut", "check -assert", "write_verilog -noattr gates.v")
    said = run(compiled(manifest, style, "tb_stream", [tmp_path / "gates.v"], tmp_path), folder, seed=1, pause=50)
    assert said["words"] > 0


# --- the command ----------------------------------------------------------------------------------------------------


@on_icarus
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", [0, 5])
def test_rtl_that_the_command_writes_passes_the_bench_of_the_set(
    simulator: str, style: str, seed: int, tmp_path: Path
) -> None:
    folder = checked_dump(with_output(ragged_capture()), "default", tmp_path)
    assert cli("rtl", folder, "--style", style, "--out", tmp_path / "rtl").exit_code == 0
    files = [tmp_path / "rtl" / name for name in (tmp_path / "rtl" / "files.f").read_text().split()]
    verdict = simulate(folder, simulator, files, seed=seed).check()
    assert set(verdict.compared) == {"accumulator", "relu", "output"} | ({"psum"} if style == "ws" else set())


def test_rtl_serves_every_set_of_a_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        checked_dump(make_capture(name=name), "default", tmp_path / "sets")
    (tmp_path / "rtl").mkdir()
    assert cli("rtl", tmp_path / "sets", "--out", tmp_path / "rtl").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "rtl").iterdir()) == ["one", "two"]
    for name in ("one", "two"):
        listed = (tmp_path / "rtl" / name / "files.f").read_text().split()
        assert {path.name for path in (tmp_path / "rtl" / name).iterdir()} == {*listed, "files.f", "dut_mm.sv"}


def test_rtl_writes_nothing_over_files_and_nothing_for_other_layouts(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(), "ws8x8", tmp_path / "sets")
    fails(cli("rtl", folder, "--out", tmp_path / "rtl"), "memory", "layout default")
    assert not (tmp_path / "rtl").exists()
    fails(cli("rtl", ROOT / "vectors" / "features_33", "--out", tmp_path), f"{tmp_path} is there already and not empty")
