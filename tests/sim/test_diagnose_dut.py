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


PORTS = [
    ("module dut (", "module dut #(parameter integer LOW = 0) ("), ("input  wire clk,", "input  wire aclk, mode,"),
    ("posedge clk", "posedge aclk"), ("input  wire rst,", "input  wire areset_n,"), ("if (rst)", "if (!areset_n)"),
    ("at_accumulator(channel, y, x) < 0 ? 0 : ", "at_accumulator(channel, y, x) < LOW ? `NONE : "),
]  # fmt: skip


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_design_is_told_all_that_simulate_is_told(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    edited(tiny_set / "dut.sv", tmp_path / "core.sv", PORTS)
    (tmp_path / "core.f").write_text("core.sv\n")
    told = ("--param", "LOW=-99999", "--define", "NONE=0", "--tie", "mode=1", "--clock", "aclk", "--reset", "areset_n")
    result = cli("diagnose", tiny_set, "--dut", tmp_path / "core.f", *told, "--simulator", simulator, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["causes"][0]["name"], found["certainty"]) == ("relu_missing", "certain")
    alone = cli("diagnose", tiny_set, "--actual", tiny_set / "relu.hex", *told)
    assert (alone.exit_code, "belongs to --dut" in alone.output) == (2, True)


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("came", [0, 2])
def test_a_design_that_hangs_is_said_to_hang(came: int, simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    stops = f"wire waits = (state == RESULTS && at >= {came}) || "
    edited(tiny_set / "dut.sv", tmp_path / "core.sv", [("wire waits = ", stops)])
    result = cli("diagnose", tiny_set, "--dut", tmp_path / "core.sv", "--simulator", simulator, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["causes"][0]["name"], found["certainty"]) == ("design_hangs", "certain"), found["summary"]
    assert f"accumulator {came} of " in found["causes"][0]["detail"]


REPEATS = [  # behind a stall the word before comes again
    ("at_relu(ot * COL + col, at / OX, at % OX)", "at_relu(ot * COL + col, behind / OX, behind % OX)"),
    ("  always @(posedge clk)\n    if (rst) begin",
     "  reg late = 0;\n  wire integer behind = late && at > 0 ? at - 1 : at;\n"
     "  always @(posedge clk) late <= waits;\n  always @(posedge clk)\n    if (rst) begin"),
]  # fmt: skip


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_design_that_fails_with_stalls_alone_is_run_both_ways(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    edited(tiny_set / "dut.sv", tmp_path / "core.sv", REPEATS)
    result = cli("diagnose", tiny_set, "--dut", tmp_path / "core.sv", "--simulator", simulator, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["memory"], found["certainty"]) == ("relu", "likely")
    assert "without stalls all words are right" in found["findings"]
    first = found["causes"][0]  # of neighbours both say it, and of words that are all late by one a skew does, too
    assert {"words_held", "words_shifted"} & {first["name"], *first["alike"]}, result.output
