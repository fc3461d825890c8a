"""Numbers of steps that a set stores as it stores the bias come through a stream into the reference RTL."""

import subprocess
from pathlib import Path

import pytest

from qexport.build.dump import dump
from qexport.layout.toml import layout_text, parse_layout
from qexport.sim.run import simulate
from qexport.trust.mutants import chosen_edits, hand_mutants
from tests.conftest import cli
from tests.sim.test_rtl import rendered
from tests.sim.test_steps_bench import CASES, capture_of


def stored(name: str, to: Path) -> Path:
    """The set of a case with a memory for every number of its steps."""
    product = name == "matmul"
    tile = "pt" if product else "ot"
    text = layout_text("matmul" if product else "default").replace("row = 8", "row = 4").replace("col = 8", "col = 4")
    for index, step in enumerate(CASES[name]):
        for field in step.keys() & {"by", "value", "table"}:
            tensor, level = f"{step.get('name', f'step{index}')}_{field}", " level" if field == "table" else ""
            text += (
                f'\n[[memory]]\nname = "{tensor}"\ntensor = "{tensor}"\nfile = "{tensor}.hex"\nradix = "hex"\n'
                f'order = "({tile} col){level} -> | {tile} | ~col{level}"\n'
            )
    return dump(capture_of(name), parse_layout(text, "stored.toml"), to).folder


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize(
    ("name", "style", "streams"),
    [
        ("requantized", "ws", {"gain_by", "step1_value", "module_by"}),
        ("thresholds", "os", {"step0_by", "step1_table"}),
        ("matmul", "os", {"step0_by", "step1_by", "step2_table"}),
    ],
)
def test_the_bench_streams_the_numbers_into_the_reference_rtl(
    simulator: str, name: str, style: str, streams: set[str], tmp_path: Path
) -> None:
    folder = stored(name, tmp_path / "set")
    sources = rendered(folder, style, tmp_path / "rtl")
    assert not [path for path in sources if path.name.endswith("_rom.sv")]
    dut = next(path for path in sources if path.name == "dut.sv").read_text()
    assert all(f" s_{stream}_tdata," in dut for stream in streams)
    files = [path for path in sources if path.name != "dut_mm.sv"]
    assert simulate(folder, simulator, files, seed=3).passed
    assert cli("stub", folder, "--style", "memory", "--out", tmp_path / "bench").exit_code == 0
    mm = "DUT=" + " ".join(str(path) for path in sources if path.name != "dut.sv")
    done = subprocess.run(["make", "-C", tmp_path / "bench", "sim", mm], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nPASS checks=" in done.stdout


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_mutants_of_such_rtl_run_in_the_bench(simulator: str, tmp_path: Path) -> None:
    folder = stored("requantized", tmp_path)
    edits = [edit for edit in chosen_edits("os", folder) if edit.name in ("gain-small", "module-short")]
    assert {result.fate for result in hand_mutants(folder, "os", edits, simulator=simulator)} == {"killed"}
    assert len(edits) == 2
