"""A command that needs what an operation does not offer says so in one line."""

from pathlib import Path

import pytest

from qexport.core.operations.registry import OPERATIONS
from tests.conftest import cli, fails

EXAMPLE = Path(__file__).parents[2] / "vectors" / "features_33"


def wrong_relu(folder: Path) -> Path:
    path = folder / "relu.hex"
    first, *rest = (EXAMPLE / "relu.hex").read_text().splitlines()
    path.write_text("\n".join([("1" if first[-1] == "0" else "0").rjust(len(first), "0"), *rest]) + "\n")
    return path


def test_each_command_names_the_kind_and_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {
        "hypotheses": ("diagnose", EXAMPLE, "--actual", wrong_relu(tmp_path)),
        "an explanation": ("explain", EXAMPLE, "--at", "0,5,2,3"),
        "counts of the errors": ("strength", EXAMPLE),
        "reference RTL": ("rtl", EXAMPLE, "--out", tmp_path / "rtl"),
    }
    assert [cli(*command).exit_code for command in commands.values()] == [1, 0, 0, 0]
    for operation in OPERATIONS.values():
        monkeypatch.setattr(operation, "offers", frozenset())
    for lacking, command in commands.items():
        fails(cli(*command), f"layer features.33: a conv2d layer has no {lacking}", "kinds that have: none")
