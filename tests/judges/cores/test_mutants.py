"""A sample of mutants that the judge makes itself with Yosys: each must fail on a small set, or on its complement.

mutants.py is the study: with `qexport selftest`, its proofs, and the sets of `dump --stress`."""

import re
from pathlib import Path

import pytest
from pyosys import libyosys

from tests.conftest import cli
from tests.judges.cores import layers
from tests.judges.cores.bench import Set, made


def netlists(design: Path, root: Path, count: int, seed: int) -> list[Path]:
    """The design as it is, then with one mistake in each."""
    sound, listed = libyosys.Design(), root / "list"
    for command in (
        f"read_slang {design} --top {design.stem}",
        f"hierarchy -top {design.stem}",
        *("proc", "flatten", "opt", "memory -nomap", "opt -full", "bwmuxmap", "clean"),
        f"mutate -list {count} -seed {seed} -o {listed}",
        f"write_rtlil {root}/sound.il",
    ):
        libyosys.run_pass(f"tee -q {command}", sound)
    found = []
    for number, command in enumerate(["log sound", *listed.read_text().splitlines()]):
        mutant, path = libyosys.Design(), root / f"mutant{number}" / f"{design.stem}.v"
        path.parent.mkdir()
        libyosys.run_pass(f"tee -q read_rtlil {root}/sound.il", mutant)
        libyosys.run_pass(f"tee -q {re.sub(r' -src .*', '', command)}", mutant)
        libyosys.run_pass(f"tee -q write_verilog -noattr {path}", mutant)
        found.append(path)
    return found


def dies(found: Set, netlist: Path) -> bool:
    options = ("--dut", netlist, "--top", netlist.stem, "--simulator", "icarus", "--streams", "smooth")
    result = cli("simulate", found.folder, *options)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code == 1


@pytest.mark.whole
def test_mutants_die(tmp_path: Path) -> None:
    plain, layout = layers.os_2x2(), layers.layout_of("os_2x2")
    weight, x = plain.tensors["weight"], plain.tensors["input"]
    sets = [made(plain, tmp_path / "plain", layout)]
    sets.append(made(plain.having(tensors={"weight": ~weight, "input": 15 - x}), tmp_path / "complement", layout))
    sound, *mutants = netlists(layers.design_of("os_2x2"), tmp_path, 8, 1)
    assert not any(dies(found, sound) for found in sets)
    lives = [path for path in mutants if not any(dies(found, path) for found in sets)]
    assert not lives
    assert len(mutants) == 8
