"""The benches of `qexport stub` fail as they are written, pass around what is right, and need nothing of ours."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qexport.bench.stub import STYLES
from qexport.build.dump import dump
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.registry import SIMULATORS
from qexport.sim.tools import Job
from qexport.sim.verilator import Verilator
from tests.conftest import checked_dump, cli, fails, make_capture, one_memory_layout
from tests.sim.conftest import copied, edited, path_of, resealed, state, tiny_capture
from tests.sim.test_bench import DUT_FAULTS, complement
from tests.sim.test_stub import MIXED

on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
EXAMPLE = Path(__file__).parent.parent.parent / "vectors" / "features_33"
TOOLS = ("sh", "make", "iverilog", "vvp", "mktemp", "od", "tr", "cat", "grep", "rm", "ln", "cmp")
SetOf = Callable[[str], Path]
Sim = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sim(tmp_path: Path) -> Sim:
    """Runs `make -C <folder> sim` with nothing on the PATH but the tools that it may use."""
    path = path_of(tmp_path / "tools", *TOOLS)
    (tmp_path / "temporary").mkdir()

    def run(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["make", "-C", str(folder), "sim", *variables], env={"PATH": path, "TMPDIR": str(tmp_path / "temporary")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert list((tmp_path / "temporary").iterdir()) == []
        return done

    return run


@pytest.fixture
def set_named(ragged_set: Path, tiny_set: Path, set_of: SetOf) -> SetOf:
    """The example has an output and no bias; the ragged set a bias and no output."""
    sets = {"example": EXAMPLE, "ragged": ragged_set, "tiny": tiny_set}
    return lambda name: sets.get(name) or set_of(name)


def stubbed(folder: Path, style: str, to: Path) -> Path:
    result = cli("stub", folder, "--style", style, "--out", to)
    assert result.exit_code == 0, result.output
    return to


def bench_of(folder: Path) -> Path:
    (bench,) = folder.glob("stub_*.sv")
    return bench


def sources_of(folder: Path) -> list[str]:
    """The bench's sources in compile order."""
    shells = [name for name in ("dut.sv", "dut_mm.sv") if (folder / name).exists()]
    (package,) = folder.glob("*_pkg.sv")
    return [package.name, bench_of(folder).name, *shells]


def rtl_for(folder: Path, style: str, array: str, to: Path) -> list[Path]:
    """The reference RTL of a set, with the top module that the bench of this style is around."""
    assert cli("rtl", folder, "--style", array, "--out", to).exit_code == 0
    names = (to / "files.f").read_text().split()
    return [to / ("dut_mm.sv" if style == "memory" and name == "dut.sv" else name) for name in names]


def values(folder: Path, *names: str) -> int:
    manifest = read_manifest(folder)
    return sum(m.files[0].words * (m.word_bits // m.bits) for m in manifest.memories if m.name in names)


RESULTS = ("accumulator", "relu", "output")
MUTATIONS = {  # elements wired to others
    "ws": ("activation_west(activation[r][c])", "activation_west(activation[ROW-1-r][c])"),
    "os": ("weight_north(weight[r][c])", "weight_north(weight[r][COL-1-c])"),
}


def without(bench: Path, name: str) -> None:
    """Delete all lines that name a result, as the bench's own comment says."""
    lines = bench.read_text().splitlines(keepends=True)
    bench.write_text("".join(line for line in lines if name not in line.lower()))


@on_icarus
@pytest.mark.parametrize("style", ["stream", "memory"])
@pytest.mark.parametrize(("name", "array"), [("example", "ws"), ("example", "os"), ("ragged", "os")])
def test_bench_passes_around_the_reference_rtl_and_fails_around_a_mutant(
    simulator: str, name: str, style: str, array: str, set_named: SetOf, sim: Sim, tmp_path: Path
) -> None:
    folder = set_named(name)
    bench = stubbed(folder, style, tmp_path / "bench")
    files = rtl_for(folder, style, array, tmp_path / "rtl")
    compared = {"psum", *RESULTS} if style == "stream" else {*RESULTS}
    if array == "os":  # has no psums; and a memory-mapped design may lack a result, too
        lacking = "psum" if style == "stream" else "relu"
        without(bench_of(bench), lacking)
        compared -= {lacking}
    dut = "DUT=" + " ".join(map(str, files))
    done = sim(bench, dut)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"\nPASS checks={values(folder, *compared)} nonce=" in done.stdout
    (grid,) = (tmp_path / "rtl").glob(f"*_{array}_grid.sv")
    edited(grid, grid, [MUTATIONS[array]])
    done = sim(bench, dut)
    assert done.returncode != 0
    assert re.search(
        r"^FAIL memory=\w+ file=\w+\.hex line=\d+ lane=\d got=-?\d+ want=-?\d+$", done.stdout, re.MULTILINE
    )
    assert "PASS checks" not in done.stdout


@on_icarus
@pytest.mark.parametrize("style", ["stream", "memory"])
def test_wrong_expected_word_is_the_only_place_named(
    simulator: str, style: str, ragged_set: Path, sim: Sim, tmp_path: Path
) -> None:
    folder = copied(ragged_set, tmp_path / "set")
    word = (folder / "relu.hex").read_text().splitlines()[20][8:12]  # lane 2
    complement(folder / "relu.hex", 21, 2, 16)
    resealed(folder)
    true = int(word, 16) - (int(word, 16) >> 15 << 16)
    bench = stubbed(folder, style, tmp_path / "bench")
    dut = "DUT=" + " ".join(map(str, rtl_for(folder, style, "ws", tmp_path / "rtl")))
    done = sim(bench, dut)
    checks = values(folder, *RESULTS, *(["psum"] if style == "stream" else []))
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if line.startswith("FAIL")] == [
        f"FAIL memory=relu file=relu.hex line=21 lane=2 got={true} want={-1 - true}",
        f"FAIL errors=1 checks={checks} of {checks}",
    ]


LAYOUTS = ("default", "ws8x8", "decimals", "bitplanes", "hwc_bytes_int8", "stream_nhwc64")


@on_icarus
@pytest.mark.parametrize(
    ("style", "name"), [("stream", "tiny"), ("memory", "tiny"), *(("blank", layout) for layout in LAYOUTS)]
)
def test_bench_as_it_is_written_fails(
    simulator: str, style: str, name: str, set_named: SetOf, sim: Sim, tmp_path: Path
) -> None:
    folder = set_named(name)
    bench = stubbed(folder, style, tmp_path / "bench")
    done = sim(bench)
    assert done.returncode != 0
    lines = done.stdout.splitlines()
    assert f"FAIL nothing was compared; edit {bench_of(bench).name}" in lines
    assert any(re.fullmatch(r"FAIL errors=\d+ checks=0 of \d+", line) for line in lines)
    if style == "blank":
        memories = read_manifest(folder).memories
        assert [line for line in lines if line.startswith("LOADED")] == [
            f"LOADED memory={m.name} files={len(m.files)} words={sum(file.words for file in m.files)}" for m in memories
        ]


@on_icarus
@pytest.mark.parametrize("style", STYLES)
def test_unusable_file_ends_the_run_by_name(
    simulator: str, style: str, tiny_set: Path, sim: Sim, tmp_path: Path
) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    bench = stubbed(folder, style, tmp_path / "bench")
    relu = (folder / "relu.hex").read_text()
    for change, said in (
        (relu[:-33], "line=4 has 3 words, needs 4"),
        ("x" + relu[1:], "line=1 has a character that is not a digit"),
        (("1" if relu[0] == "0" else "0") + relu[1:], "line=0 has the checksum "),
        (None, "line=0 cannot be opened"),
    ):
        (folder / "relu.hex").unlink()
        if change is not None:
            (folder / "relu.hex").write_text(change)
        done = sim(bench)
        assert done.returncode != 0
        assert f"\nFAIL file=relu.hex {said}" in done.stdout
        assert "FAIL 1 of the memory files cannot be used" in done.stdout
        assert "LOADED" not in done.stdout


FAULTS = (
    "own PASS without a nonce", "own PASS with a wrong nonce", "silent $finish", "hangs", "too many results",
    "result omitted", "X in results", "X on tvalid", "no tlast", "never ready for inputs",
)  # fmt: skip


@on_icarus
def test_faulty_streams_never_pass(simulator: str, tiny_set: Path, sim: Sim, tmp_path: Path) -> None:
    bench = stubbed(tiny_set, "stream", tmp_path / "bench")
    done = sim(bench, f"DUT={tiny_set / 'dut.sv'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS checks=96 nonce=" in done.stdout
    for fault in FAULTS:
        dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", DUT_FAULTS[fault][0])
        done = sim(bench, f"DUT={dut}")
        assert done.returncode != 0, fault
        assert "simulation FAILED: no PASS of this run" in done.stdout


@on_icarus
@pytest.mark.parametrize(
    ("layout", "memory", "at", "place"),
    [
        (
            "ws8x8",
            "psum",
            76,
            "file=psum_itile0_otile0_kij1.txt line=8 lane=7",
        ),  # word 4 of the second file, behind three header lines
        ("decimals", "accumulator", 2, "file=accumulator.txt line=3 lane=0"),
    ],
)
def test_code_in_the_blank_bench_compares_word_by_word(
    simulator: str, layout: str, memory: str, at: int, place: str, set_of: SetOf, sim: Sim, tmp_path: Path
) -> None:
    folder = set_of(layout)
    bench = bench_of(stubbed(folder, "blank", tmp_path / "bench"))
    written, const = bench.read_text(), memory.upper()
    (entry,) = (m for m in read_manifest(folder).memories if m.name == memory)
    count = sum(file.words for file in entry.files) * (entry.word_bits // entry.bits)

    def ran(word: str, expected: str) -> list[str]:
        """The verdict of the bench with code that compares what was loaded with itself."""
        loop = f"    for (int i = 0; i < {const}_FILES * {const}_WORDS; i = i + 1) compare_{memory}(i, {word});\n"
        end = "    verdict(EXPECTED);"
        assert end in written
        bench.write_text(written.replace(end, loop + end).replace("EXPECTED = 0;", f"EXPECTED = {expected};"))
        done = sim(bench.parent)
        assert (done.returncode == 0) == ("PASS checks" in done.stdout)
        return [line for line in done.stdout.splitlines() if line.startswith(("PASS", "FAIL"))]

    every = f"{const}_FILES * {const}_WORDS * {const}_LANES"
    assert [line.split(" nonce=")[0] for line in ran(f"{memory}_mem[i]", every)] == [f"PASS checks={count}"]
    assert ran(f"{memory}_mem[i]", f"{every} + 1") == [f"FAIL errors=0 checks={count} of {count + 1}"]
    wrong, total = ran(f"{memory}_mem[i] ^ {const}_WORD_BITS'(i == {at})", every)
    assert wrong.startswith(f"FAIL memory={memory} {place} got=")
    assert total == f"FAIL errors=1 checks={count} of {count}"


# --- clean, alone, and out of the set -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def written(set_of: SetOf, ragged_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Benches of every style for sets with and without bias, output, headers, decimals and odd names."""
    to = tmp_path_factory.mktemp("stubs")
    mixed = checked_dump(make_capture(), parse_layout(MIXED, "mixed.toml"), to / "mixed")
    odd = one_memory_layout("oc (it row) kh kw -> it | oc kh kw | ~row", name="module", file="{it}.hex")
    sets = {"example": EXAMPLE, "ragged": ragged_set, "mixed": mixed, "ws8x8": set_of("ws8x8")}
    sets["memory named module"] = checked_dump(make_capture(name="a\nmodule"), odd, to / "odd")
    return {
        f"{style} {name}": stubbed(folder, style, to / f"{style}-{number}")
        for number, (name, folder) in enumerate(sets.items())
        for style in (STYLES if name in ("example", "ragged") else ("blank",))
    }


WRITTEN = (
    *(f"{style} {name}" for name in ("example", "ragged") for style in STYLES),
    "blank mixed", "blank ws8x8", "blank memory named module",
)  # fmt: skip


@on_icarus
@pytest.mark.parametrize("name", WRITTEN)
def test_icarus_has_nothing_to_say(simulator: str, name: str, written: dict[str, Path], tmp_path: Path) -> None:
    folder = written[name]
    command = ["iverilog", "-g2012", "-Wall", "-s", bench_of(folder).stem, "-o", tmp_path / "sim", *sources_of(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
@pytest.mark.parametrize("name", WRITTEN)
def test_verilator_has_no_warning(simulator: str, name: str, written: dict[str, Path]) -> None:
    folder = written[name]
    program, env = Verilator()._found()
    command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", bench_of(folder).stem]
    done = subprocess.run(
        [*command, *sources_of(folder)], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
def test_verilator_agrees(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    bench = stubbed(tiny_set, "stream", tmp_path / "bench")
    package, source, _ = (bench / name for name in sources_of(bench))
    (tmp_path / "build").mkdir()
    job = Job((package, source, tiny_set / "dut.sv"), bench, source.stem)
    done = SIMULATORS[simulator].compile(job, tmp_path / "build")
    assert done.returncode == 0, done.stdout + done.stderr

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "build" / "sim"), f"+dir={folder}", "+nonce=7"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "PASS checks=96 nonce=7\n" in run(tiny_set).stdout
    changed = copied(tiny_set, tmp_path / "set")
    complement(changed / "relu.hex", 2, 3, 16)
    done = run(resealed(changed))
    assert done.returncode != 0
    assert "FAIL memory=relu file=relu.hex line=2 lane=3 got=" in done.stdout


@on_icarus
def test_set_and_bench_may_lie_in_folders_with_spaces_and_other_letters(
    simulator: str, sim: Sim, tmp_path: Path
) -> None:
    folder = checked_dump(tiny_capture(), "default", tmp_path / "Größe der $Sätze #1")
    before = state(folder)
    bench = stubbed(folder, "stream", tmp_path / "Prüf 'stand' \"`x`")
    (bench / "dut.sv").write_bytes((folder / "dut.sv").read_bytes())
    done = sim(bench)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(folder) == before
    moved = folder.rename(tmp_path / "moved")
    done = sim(bench)
    assert done.returncode != 0
    assert "is not a vector set with checks.txt" in done.stdout
    assert sim(bench, f"SET={moved}").returncode == 0


def test_bench_of_every_set_of_a_folder_and_the_result_for_machines(tmp_path: Path) -> None:
    for name in ("one", "two"):
        checked_dump(tiny_capture(name), "default", tmp_path / "sets")
    result = cli("stub", tmp_path / "sets", "--style", "memory", "--out", tmp_path / "out", "--json")
    written = json.loads(result.stdout)["folders"]
    assert list(written) == [str(tmp_path / "out" / name) for name in ("one", "two")]
    for folder, names in written.items():
        assert {path.name for path in Path(folder).iterdir()} == set(names)


def test_what_cannot_be_written_is_said_and_leaves_nothing(set_of: SetOf, tiny_set: Path, tmp_path: Path) -> None:
    result = cli("stub", set_of("ws8x8"), "--style", "memory", "--out", tmp_path / "new")
    fails(result, "style 'memory' needs memories", "layout 'ws8x8'", "--style stream or blank")
    alone = checked_dump(make_capture(), one_memory_layout("oc ic kh kw -> | oc ic kh kw |"), tmp_path / "alone")
    result = cli("stub", alone, "--style", "stream", "--out", tmp_path / "new")
    fails(result, "style 'stream' needs a memory of what goes in", "layout 'test'", "--style blank")
    raw = one_memory_layout("oc ic kh kw -> | oc ic kh kw |", radix="raw_be", file="weight.raw", bits=8)
    dumped = dump(make_capture(), raw, tmp_path / "raw").folder
    result = cli("stub", dumped, "--style", "blank", "--out", tmp_path / "new")
    fails(result, "layout 'test'", "no memory file that Verilog can load")
    fails(
        cli("stub", tiny_set, "--out", tmp_path / "new"),
        "Missing option '--style'. Choose from: memory, stream, blank; see",
    )
    assert not (tmp_path / "new").exists()
    copied(tiny_set, tmp_path / "sets" / "first")
    copied(set_of("ws8x8"), tmp_path / "sets" / "second")
    fails(cli("stub", tmp_path / "sets", "--style", "memory", "--out", tmp_path / "new"), "sets/second has layout")
    assert not (tmp_path / "new").exists()
    before = state(tiny_set)
    for command in (("stub", "--style", "blank"), ("rtl",)):
        result = cli(*command, tiny_set, "--out", tiny_set / "new")
        fails(result, f"{tiny_set / 'new'} lies in the set {tiny_set}; give a folder outside it")
    assert state(tiny_set) == before
    fails(cli("stub", EXAMPLE, "--style", "blank", "--out", tmp_path), f"{tmp_path} is there already and not empty")


def test_a_memory_bench_without_a_result_that_is_kept_is_refused(tmp_path: Path) -> None:
    blocks = layout_text("default").split("[[memory]]")
    kept = [block for block in blocks if not re.search(r'name += "(accumulator|relu|output)"', block)]
    folder = checked_dump(make_capture(), parse_layout("[[memory]]".join(kept), "psums.toml"), tmp_path)
    fails(
        cli("stub", folder, "--style", "memory", "--out", tmp_path / "new"), "compares accumulator, relu, output",
        "take --style stream",
    )  # fmt: skip
    assert cli("stub", folder, "--style", "stream", "--out", tmp_path / "new").exit_code == 0
