"""What was written in a schema still reads and gives the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import cli

FROZEN = Path(__file__).parent / "schema_1" / "features_33"
NETWORK = Path(__file__).parent / "network_1"


def test_a_set_of_schema_1_verifies() -> None:
    assert json.loads((FROZEN / "manifest.json").read_text())["schema"] == "qexport.vectors/1"
    done = cli("verify", FROZEN)
    assert done.exit_code == 0, done.output


@pytest.mark.whole
def test_a_set_of_schema_1_simulates_on_icarus() -> None:
    done = cli("simulate", FROZEN, "--simulator", "icarus")
    assert done.exit_code == 0, done.output


def test_a_network_of_schema_1_gives_its_logits(tmp_path: Path) -> None:
    done = cli("run", NETWORK / "small.network.safetensors", "--inputs", NETWORK / "codes.npy",
               "--out", tmp_path / "logits.npy")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(tmp_path / "logits.npy"), np.load(NETWORK / "logits.npy"))
