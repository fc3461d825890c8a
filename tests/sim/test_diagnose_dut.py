"""With the design at hand a cause is certain only where it predicts what the design gives on fresh stimulus."""

import json
from pathlib import Path

import pytest

from tests.conftest import cli
from tests.sim.conftest import edited


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize(
    ("edit", "name", "certainty"),
    [
        (("at_accumulator(channel, y, x) < 0 ? 0 : ", ""), "relu_missing", "certain"),
        (
            ("at_accumulator(channel, y, x) < 0 ? 0 : ", "at_accumulator(channel, y, x) < -280 ? 0 : "),
            "relu_missing",
            "likely",
        ),
    ],
    ids=["no ReLU", "only above a value"],
)
def test_a_cause_is_tried_on_fresh_stimulus(
    simulator: str, edit: tuple[str, str], name: str, certainty: str, tiny_set: Path, tmp_path: Path
) -> None:
    edited(tiny_set / "dut.sv", tmp_path / "core.sv", [edit])
    result = cli("diagnose", tiny_set, "--dut", tmp_path / "core.sv", "--simulator", simulator, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["memory"], found["certainty"]) == ("relu", certainty)
    assert found["causes"][0]["name"] == name
    assert (found["confirmed"] > 0) == (certainty == "certain")
