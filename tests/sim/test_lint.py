"""Everything that is rendered is clean under both simulators' warnings."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qexport.bench.stub import STYLES
from qexport.bench.sv import render_bench
from qexport.core.geometry import ConvGeometry
from qexport.errors import QexportError
from qexport.layout.toml import load_layout, parse_layout
from qexport.sets.manifest import MemoryEntry, read_manifest
from qexport.sim.verilator import Verilator
from tests.conftest import checked_dump, cli, make_capture, one_memory_layout
from tests.sim.conftest import ragged_capture
from tests.sim.test_layouts import CASES
from tests.sim.test_stub import MIXED

ROOT = Path(__file__).parent.parent.parent
WEIGHT_ORDER = "(ot col) (it row) kh kw -> it | ot kh kw col | ~row"
RAW = ("one file",)  # of which the judge reads no file
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
on_verilator = pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
SETS = {
    "default": lambda: (make_capture(), load_layout("default")),
    "ws8x8": lambda: (make_capture(), load_layout("ws8x8")),
    "default ragged": lambda: (ragged_capture(), load_layout("default")),
    "ws8x8 ragged": lambda: (ragged_capture(), load_layout("ws8x8")),
    "default linear": lambda: (
        make_capture(kind="linear", plane=(1, 1), kernel=(1, 1), padding=(0, 0, 0, 0), in_channels=10),
        load_layout("default"),
    ),
    "default of single bits": lambda: (
        make_capture(weight_bits=1, weight_signed=False, input_bits=1, out_channels=1, bias=True),
        load_layout("default"),
    ),
    "mixed radices": lambda: (make_capture(), parse_layout(MIXED, "mixed.toml")),
    **{name: lambda case=case: (case.capture(), case.layout) for name, case in CASES.items() if name not in RAW},
    "memory named acc": lambda: (make_capture(), one_memory_layout(WEIGHT_ORDER, name="acc", file="{it}.hex")),
    "memory named expected": lambda: (
        make_capture(), one_memory_layout(WEIGHT_ORDER, name="expected", file="{it}.hex"),
    ),
    "memory named module": lambda: (make_capture(), one_memory_layout(WEIGHT_ORDER, name="module", file="{it}.hex")),
    "layer name of two lines": lambda: (make_capture(name="a\nmodule"), load_layout("default")),
    "layer name of odd characters": lambda: (
        make_capture(name="a\x00\x1b\u2028`endif\u202e\x85*/ \"$(id)\\"), load_layout("default")
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The sets above, dumped once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            capture, layout = SETS[name]()
            made[name] = checked_dump(capture, layout, tmp_path_factory.mktemp("rendered"))
        return made[name]

    return get


Rendered = Callable[[str], Path]


def top_of(folder: Path) -> str:
    """The bench's or the stub's module."""
    names = [Path(file["path"]).stem for file in json.loads((folder / "manifest.json").read_text())["bench"]]
    return next(name for name in names if name.startswith(("tb_", "stub_")))


@on_icarus
@pytest.mark.parametrize("name", SETS)
def test_icarus_has_nothing_to_say_and_files_f_works_from_inside_the_set(
    simulator: str, name: str, rendered: Rendered, tmp_path: Path
) -> None:
    folder = rendered(name)
    command = ["iverilog", "-g2012", "-Wall", "-s", top_of(folder), "-o", str(tmp_path / "sim"), "-c", "files.f"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_verilator
@pytest.mark.parametrize("name", SETS)
def test_verilator_has_no_warning(simulator: str, name: str, rendered: Rendered) -> None:
    folder = rendered(name)
    program, env = Verilator()._found()
    command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", top_of(folder), "-f", "files.f"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# What slang knows of versions; 1800-2017 has what 1800-2012 has, of whose words `begin_keywords makes it.
VERSIONS = {"2012": "1800-2017", "2017": "1800-2017", "2023": "1800-2023"}


def slang_says(capfd: pytest.CaptureFixture[str], sources: list[Path], year: str, *options: str) -> str:
    """What its command line prints of sources, as one unit, with no options for warnings."""
    from pyslang.driver import Driver  # here: `make fast` does without

    driver = Driver()
    driver.addStandardArgs()
    one = ["--threads", "1"]  # its analysis on several threads ends in a segmentation fault now and then
    given = ["slang", "--std", VERSIONS.get(year, year), "--single-unit", *one, *options, *map(str, sources)]
    assert driver.parseCommandLine(" ".join(given))
    assert driver.processOptions()
    assert driver.parseAllSources()
    compilation = driver.createCompilation()
    driver.reportCompilation(compilation, True)
    driver.runAnalysis(compilation)
    driver.reportDiagnostics(True)
    return "".join(capfd.readouterr())


@pytest.mark.parametrize("name", SETS)
def test_slang_has_nothing_to_say_in_three_versions(
    name: str, rendered: Rendered, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, top = rendered(name), top_of(rendered(name))
    sources = [folder / file for file in (folder / "files.f").read_text().split()]
    sources += folder.glob("*_axis_checks.sv")
    (tmp_path / "words.sv").write_text('`begin_keywords "1800-2012"\n')
    (tmp_path / "includes.sv").write_text('module includes;\n`include "params.vh"\nendmodule\n')
    for year in VERSIONS:
        first = [tmp_path / "words.sv"] if year == "2012" else []
        assert slang_says(capfd, [*first, *sources], year, "--top", top) == "", year
    for year in (*VERSIONS, "1364-2005"):
        assert slang_says(capfd, [tmp_path / "includes.sv"], year, "-I", str(folder)) == "", year


def test_slang_has_nothing_to_say_of_stubs_and_sees_what_is_wrong(
    rendered: Rendered, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for style in STYLES:
        out = tmp_path / style
        assert cli("stub", rendered("default"), "--style", style, "--out", out).exit_code == 0
        sources = [out / "features_33_pkg.sv", out / "stub_features_33.sv", *out.glob("dut*.sv")]
        for year in VERSIONS:
            assert slang_says(capfd, sources, year, "--top", "stub_features_33") == "", (style, year)
    (tmp_path / "bad.sv").write_text("module bad;\n  wire [3:0] a = 4'd20;\n  type_of_none b;\nendmodule\n")
    said = slang_says(capfd, [tmp_path / "bad.sv"], "2017")
    assert "vector literal too large" in said
    assert "type_of_none" in said


@on_verilator
def test_stub_of_many_files_gives_little_code(simulator: str, tmp_path: Path) -> None:
    folder = checked_dump(make_capture(images=1, in_channels=32, out_channels=32), "ws8x8", tmp_path)
    program, env = Verilator()._found()
    command = [str(program), "--cc", "--main", "--timing", "-Wno-fatal", "--Mdir", str(tmp_path / "build")]
    done = subprocess.run(
        [*command, "--top-module", top_of(folder), "-f", "files.f"],
        cwd=folder,
        env=env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "build").glob("*.cpp")) < 2_000_000


@on_icarus
def test_icarus_has_nothing_to_say_of_the_core_of_the_docs(simulator: str, tmp_path: Path) -> None:
    sources = [ROOT / "vectors/features_33/features_33_pkg.sv", *sorted((ROOT / "docs/examples").glob("mac_loop*"))]
    command = ["iverilog", "-g2012", "-Wall", "-s", "mac_loop_axis", "-o", tmp_path / "sim", *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_icarus
@pytest.mark.parametrize("name", SETS)
def test_params_vh_can_be_included_in_a_verilog_2005_module(
    simulator: str, name: str, rendered: Rendered, tmp_path: Path
) -> None:
    folder = rendered(name)
    source = tmp_path / "mine.v"
    layer = read_manifest(folder).layer
    sizes = {"IC": layer.in_channels, "KH": layer.kernel[0]} if isinstance(layer, ConvGeometry) else {"K": 3}
    printed = " ".join(f"{name}=%0d" for name in sizes)
    source.write_text(
        f'module mine;\n`include "params.vh"\ninitial $display("{printed}", {", ".join(sizes)});\nendmodule\n'
    )
    command = ["iverilog", "-g2005", "-Wall", "-I", str(folder), "-o", str(tmp_path / "sim"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    run = subprocess.run(["vvp", str(tmp_path / "sim")], capture_output=True, text=True, check=False)
    assert run.stdout == " ".join(f"{name}={size}" for name, size in sizes.items()) + "\n"


def test_memory_files_that_icarus_cannot_open_are_refused() -> None:
    with pytest.raises(QexportError, match="gewichte_ä"):
        one_memory_layout(WEIGHT_ORDER, file="gewichte_ä{it}.hex")


def test_every_constant_of_a_large_set_fits_an_int(set_of: Callable[[str], Path]) -> None:
    manifest = read_manifest(set_of("default"))

    def grown(m: MemoryEntry) -> MemoryEntry:
        """The memory of 100000 images."""
        times = 100_000 // m.shape[0]
        files = tuple(msgspec.structs.replace(file, words=file.words * times) for file in m.files)
        return msgspec.structs.replace(m, shape=(100_000, *m.shape[1:]), files=files)

    memories = tuple(grown(m) if m.order.startswith("n ") else m for m in manifest.memories)
    checksums = {file.path: 0 for m in memories for file in m.files}
    files = render_bench(set_of("default"), msgspec.structs.replace(manifest, memories=memories), checksums)
    numbers = {
        name: int(value) for name, value in re.findall(r"localparam int (\w+) = (\d+);", files["features_33_pkg.sv"])
    }
    assert numbers["N"] == 100_000
    assert {name: value for name, value in numbers.items() if value >= 1 << 31} == {}
