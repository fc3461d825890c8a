"""A set of schema 1, as it was written, still reads, verifies and simulates."""

import json
from pathlib import Path

import pytest

from tests.conftest import cli

FROZEN = Path(__file__).parent / "schema_1" / "features_33"


def test_a_set_of_schema_1_verifies() -> None:
    assert json.loads((FROZEN / "manifest.json").read_text())["schema"] == "qexport.vectors/1"
    done = cli("verify", FROZEN)
    assert done.exit_code == 0, done.output


@pytest.mark.whole
def test_a_set_of_schema_1_simulates_on_icarus() -> None:
    done = cli("simulate", FROZEN, "--simulator", "icarus")
    assert done.exit_code == 0, done.output
