"""Two tiny sets and a design of them that is wrong, for plans."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import checked_dump, cli, make_capture
from tests.sim.conftest import copied, edited


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("one", "two")):  # of one layer, whose package a design knows
        capture = make_capture(seed, plane=(2, 2), images=1, name="tiny", kernel=(1, 1), padding=(0, 0, 0, 0))
        copied(checked_dump(capture, "default", tmp_path_factory.mktemp(name)), folder / name)
    return folder


@pytest.fixture
def plan(sets: Path, tmp_path: Path) -> Path:
    """A right design and a wrong one on two sets: 8 simulations, of which 4 fail, and 2 verifications."""
    right = edited(sets / "one" / "dut.sv", tmp_path / "right.sv", [])
    edited(right, tmp_path / "wrong.sv", [("$signed(w)", "$signed({1'b0, w})")])
    path = tmp_path / "plan.toml"
    designs = "".join(f'[[design]]\nname = "{name}"\nfiles = ["{name}.sv"]\n' for name in ("right", "wrong"))
    path.write_text(
        f'sets = ["{sets}"]\nsimulators = ["icarus"]\nstreams = ["smooth", "random"]\nchecks = ["simulate", "verify"]\n'
        + designs
    )
    return path


def regress(*arguments: object) -> dict[str, Any]:
    """What a regression says, with its exit code."""
    result = cli("regress", *arguments, "--json")
    assert result.exit_code in (0, 1), result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found | {"exit": result.exit_code, "stderr": result.stderr}
