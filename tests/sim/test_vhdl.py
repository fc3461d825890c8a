"""Cores in VHDL, which GHDL makes Verilog of."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qexport.bench.design import Design
from qexport.sim.run import simulate
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.sim.conftest import edited

CORE = Path(__file__).parent / "vhdl" / "conv.vhd"
Tool = Callable[[str, str], str]
GIVEN = ("--top", "conv", "--reset", "rst_n", "--param", "PLANE_Y=3", "--param", "PLANE_X=4")
BOTH = pytest.mark.parametrize("simulator", ["icarus", "verilator"], indirect=True)
ICARUS = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)


@pytest.fixture(scope="module")
def conv_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    capture = make_capture(plane=(3, 4), images=2, kernel=(3, 3), padding=(1, 1, 1, 1))
    return checked_dump(capture, "default", tmp_path_factory.mktemp("vhdl"))


@BOTH
def test_a_vhdl_core_passes_and_its_fault_fails_at_its_place(
    simulator: str, tool: Tool, conv_set: Path, tmp_path: Path
) -> None:
    tool("ghdl", "ghdl")
    run = ("simulate", conv_set, *GIVEN, "--simulator", simulator)
    result = cli(*run, "--dut", CORE, "--seed", "2")
    assert result.exit_code == 0, result.output
    assert "PASS, 192 values" in result.stdout
    core = edited(CORE, tmp_path / "conv.vhd", [(" and px < PLANE_X then", " then")])  # pads on three sides
    result = cli(*run, "--dut", core)
    assert result.exit_code == 1, result.output
    wrong = re.findall(
        r"FAIL memory=accumulator file=\S+ line=\d+ lane=\d+ image=\d+ oc=\d+ y=\d+ x=(\d+)", result.stderr
    )
    assert set(wrong) == {"3"}


@ICARUS
def test_a_vhdl_entity_inside_verilog(simulator: str, tool: Tool, conv_set: Path, tmp_path: Path) -> None:
    tool("ghdl", "ghdl")
    core = edited(CORE, tmp_path / "conv.vhd", [("PLANE_Y  : positive := 4", "PLANE_Y  : positive := 3")])
    around = CORE.with_name("around.sv")
    given = ("--dut", core, "--dut", around, "--top", "around", "--simulator", simulator)
    result = cli("simulate", conv_set, *given)
    assert result.exit_code == 0, result.output


@ICARUS
def test_what_is_wrong_with_vhdl_is_named(
    simulator: str, tool: Tool, conv_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("ghdl", "ghdl")

    def run(core: Path, *given: str) -> object:
        return cli("simulate", conv_set, "--dut", core, "--simulator", simulator, *(given or GIVEN))

    core = edited(CORE, tmp_path / "conv.vhd", [("at <= at + 1;", "at <= at + one;")])
    line = core.read_text().split("+ one")[0].count("\n") + 1
    fails(run(core), "GHDL does not take", f"{core}:{line}:", '"one"')
    fails(run(CORE, "--top", "core"), "GHDL does not take", "core")
    result = run(CORE, "--top", "conv")
    assert result.exit_code == 2
    assert re.search(rf"^rst +input of 1 bit +- +{re.escape(str(CORE))}$", result.stderr, re.MULTILINE)
    empty = tmp_path / "tools"
    empty.mkdir()
    for name in ("iverilog", "vvp", "sh"):
        (empty / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(empty))
    fails(run(CORE), "ghdl is not on the PATH; it makes Verilog of VHDL", "apt-get install ghdl")


def under_cocotb(folder: Path, core: Path, at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The cocotb bench of the core, rendered and run."""
    result = cli("cocotb", folder, "--dut", core, *GIVEN, "--out", at / "bench")
    assert result.exit_code == 0, result.output
    return run_python(at / "bench" / "test_features_33.py", *arguments)


def run_python(*command: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "SIM")}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=kept, capture_output=True, text=True, errors="replace", check=False
    )


@ICARUS
def test_a_vhdl_core_passes_under_cocotb_on_ghdl_in_as_many_cycles(
    simulator: str, tool: Tool, conv_set: Path, tmp_path: Path
) -> None:
    tool("ghdl", "ghdl")
    design = Design.read([CORE], top="conv", params={"PLANE_Y": "3", "PLANE_X": "4"}, reset="rst_n")
    verdict = simulate(conv_set, simulator, design, seed=2).check()
    done = under_cocotb(conv_set, CORE, tmp_path, "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running on GHDL" in done.stdout
    assert f"DONE cycles={verdict.cycles} " in done.stdout
    assert "PASS checks=192\n" in done.stdout
    words = tmp_path / "bench" / "run" / "ghdl_seed2" / "accumulator.hex"
    assert words.read_bytes() == (conv_set / "accumulator.hex").read_bytes()
    again = run_python(tmp_path / "bench" / "test_features_33.py", "--streams", "reset")
    assert "PASS checks=192\n" in again.stdout, again.stdout + again.stderr


def test_a_wrong_vhdl_core_fails_under_cocotb_at_its_place(tool: Tool, conv_set: Path, tmp_path: Path) -> None:
    tool("ghdl", "ghdl")
    core = edited(CORE, tmp_path / "conv.vhd", [(" and px < PLANE_X then", " then")])  # pads on three sides
    done = under_cocotb(conv_set, core, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    places = re.findall(
        r"FAIL memory=accumulator file=\S+ line=\d+ lane=\d+ image=\d+ oc=\d+ y=\d+ x=(\d+)", done.stdout
    )
    assert set(places) == {"3"}


def test_the_cocotb_bench_of_a_vhdl_core_says_what_it_cannot_run(tool: Tool, conv_set: Path, tmp_path: Path) -> None:
    around = CORE.with_name("around.sv")
    mixed = cli("cocotb", conv_set, "--dut", CORE, "--dut", around, "--top", "around", "--out", tmp_path / "mixed")
    fails(mixed, f"{CORE} stands among files of Verilog", "qexport simulate")
    fails(
        cli("cocotb", conv_set, "--dut", tmp_path / "none.vhd", "--out", tmp_path / "none"), "none.vhd does not exist"
    )
    tool("ghdl", "ghdl")
    broken = edited(
        CORE, tmp_path / "conv.vhd", [("rst_n                :", "reset                :"), ("rst_n =", "reset =")]
    )
    done = under_cocotb(conv_set, broken, tmp_path)
    assert done.returncode == 1
    assert "FAIL the design has no port rst_n\n" in done.stdout
    other = run_python(tmp_path / "bench" / "test_features_33.py", "--simulator", "icarus")
    said = "ERROR: SIM=icarus is not known to this bench of a design in VHDL; choose ghdl\n"
    assert (other.returncode, other.stderr) == (2, said)
