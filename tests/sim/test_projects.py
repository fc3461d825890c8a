"""A set's core and file list as projects of other simulators: FuseSoC and Edalize write them; Icarus runs one."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.conftest import edited

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "how-to" / "simulators.md"
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
# Of each tool the file that names the sources, and what else must stand somewhere in its project.
TOOLS = {
    "modelsim": ("edalize_build_rtl.tcl", ["vlog -sv ", "TOPLEVEL      := {top}", "+incdir+", "dir={dir}"]),
    "vcs": ("{name}.scr", ["-sverilog", "-top {top}", "+dir={dir}"]),
    "xcelium": ("edalize_build_rtl.f", [" -sv ", "TOPLEVEL      := {top}", "dir={dir}"]),
    "xsim": ("{name}.prj", ["sv work ", "TOPLEVEL      = {top}"]),
}


@pytest.fixture(autouse=True)
def _installed() -> None:
    for name in ("edalize", "fusesoc"):
        if importlib.util.find_spec(name) is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing; pip install 'qexport[test]'")


def python(at: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)


def fusesoc(at: Path, *arguments: object) -> str:
    done = python(at, "-c", "from fusesoc.main import main; main()", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CONFIGURE = """
import sys, yaml
from pathlib import Path
from edalize.edatool import get_edatool
edam = yaml.safe_load(Path(sys.argv[1]).read_text())
for tool in sys.argv[2:]:
    at = Path(sys.argv[1]).parent.parent / tool
    at.mkdir()
    (at / "src").symlink_to(Path(sys.argv[1]).parent / "src")
    get_edatool(tool)(edam={**edam, "tool_options": {tool: {}}}, work_root=str(at)).configure()
"""


def whole(project: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(project.iterdir()) if path.is_file())


@on_icarus
def test_a_set_runs_by_its_core_and_becomes_projects_of_other_simulators(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    before = sorted(tiny_set.iterdir())
    lines = re.findall(r"^fusesoc (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        text = line.partition("#")[0].replace("vectors/features_33", str(tiny_set)).replace("features_33", "tiny")
        said = fusesoc(tmp_path, *text.split())
        assert ("\nPASS checks=96 nonce=fusesoc\n" in said) == ("--setup" not in line), said
    name, words = "qexport_vectors_tiny_0", tmp_path / "words"
    assert (tmp_path / "build" / name / "sim-modelsim" / "Makefile").is_file()
    words.mkdir()
    core = ("--cores-root", tiny_set, "run", "--target=sim", "qexport:vectors:tiny")
    assert "\nRECORDED words=12 nonce=fusesoc\n" in fusesoc(tmp_path, *core, f"--record={words}")
    assert (words / "psum.hex").read_bytes() == (tiny_set / "psum.hex").read_bytes()
    fusesoc(
        tmp_path,
        "--cores-root",
        tiny_set,
        "run",
        "--setup",
        "--target=sim",
        "--flag=axis_checks",
        "qexport:vectors:tiny",
    )
    made = tmp_path / "build" / name / "sim-icarus"
    done = python(tmp_path, "-c", CONFIGURE, made / f"{name}.eda.yml", *TOOLS)
    assert done.returncode == 0, done.stderr
    for tool, (listing, needles) in TOOLS.items():
        project = made.parent / tool
        named = re.findall(r"\S+\.sv\b", (project / listing.format(name=name)).read_text())
        sources = ["tiny_pkg.sv", "tb_tiny.sv", "dut.sv", "tiny_axis_checks.sv"]
        assert [Path(file).name for file in named] == sources, tool
        assert all((project / file).is_file() for file in named), tool
        for needle in needles:
            assert needle.format(top="tb_tiny", dir="tiny") in whole(project), (tool, needle)
    assert sorted(tiny_set.iterdir()) == before


@on_icarus
def test_the_core_of_a_design_takes_the_set_and_leaves_its_design_out(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    core = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert core is not None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "conv.core").write_text(core[1].replace("features_33", "tiny"))
    roots = ("--cores-root", tiny_set, "--cores-root", tmp_path / "mine")
    for edits, end in (([], "PASS checks=96 nonce=mine"), ([("$signed(w)", "$signed({1'b0, w})")], "FAIL errors=")):
        edited(tiny_set / "dut.sv", tmp_path / "mine" / "conv.sv", edits)
        done = python(
            tmp_path, "-c", "from fusesoc.main import main; main()", *roots, "run", "--target=sim", "my:cores:conv"
        )
        assert f"\n{end}" in done.stdout, done.stdout + done.stderr
        assert (done.returncode == 0) == (not edits)
    listed = (tmp_path / "build" / "my_cores_conv_1.0" / "sim-icarus" / "my_cores_conv_1.0.scr").read_text()
    assert [Path(line).name for line in listed.splitlines() if line.endswith(".sv")] == [
        "tiny_pkg.sv", "tb_tiny.sv", "conv.sv",
    ]  # fmt: skip


@on_icarus
def test_edalize_makes_projects_of_a_file_list_as_the_page_says(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    text = script[1].replace("vectors/features_33", str(tiny_set)).replace("features_33", "tiny")
    done = python(tmp_path, "-c", text)
    assert done.returncode == 0, done.stderr
    for tool, (listing, needles) in TOOLS.items():
        project = tmp_path / "build" / tool
        named = re.findall(r"\S+\.sv\b", (project / listing.format(name="tiny")).read_text())
        assert named == [str(tiny_set / file) for file in ("tiny_pkg.sv", "tb_tiny.sv", "dut.sv")], tool
        for needle in needles:
            if needle != "+incdir+":
                assert needle.format(top="tb_tiny", dir=tiny_set) in whole(project), (tool, needle)
    run = subprocess.run(
        ["make", "run"], cwd=tmp_path / "build" / "icarus", capture_output=True, text=True, check=False
    )
    assert (run.returncode, "PASS checks=96 nonce=mine" in run.stdout) == (0, True), run.stdout + run.stderr
