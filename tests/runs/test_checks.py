"""Jobs of every check but `simulate`: verify, strength, exhaust, selftest."""

import json
from pathlib import Path

import numpy as np

from qexport import capture, dump
from qexport.sets.folder import sha256
from qexport.sim.registry import SIMULATORS
from tests.runs.conftest import regress
from tests.sim.conftest import copied

POST = """module post (input signed [2:0] value, input [0:0] channel, output [1:0] code);
  wire signed [2:0] v = channel ? 3'sd0 : value - 3'sd1;
`ifdef WRONG
  assign code = v[1:0];
`else
  assign code = v < 0 ? 2'd0 : v[1:0];
`endif
endmodule
"""
PLAN = """sets = ["sets"]
simulators = ["icarus"]
checks = ["verify", "strength", "exhaust"]
[[design]]
name = "right"
files = ["post.sv"]
top = "post"
sets = ["sound"]
[[design]]
name = "wrong"
files = ["post.sv"]
top = "post"
defines = ["WRONG"]
sets = ["sound"]
"""


def with_other_strength(folder: Path) -> None:
    """A manifest that says more of its vectors than holds, and hashes that agree with it."""
    path, sums = folder / "manifest.json", folder / "SHA256SUMS"
    before = path.read_bytes()
    document = json.loads(before)
    document["strength"]["weight"]["relu"] += 1
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    sums.write_text(sums.read_text().replace(sha256(before), sha256(path.read_bytes())))


def test_every_check_is_a_job(tmp_path: Path) -> None:
    assert SIMULATORS["verilator"].missing() is None
    rng = np.random.default_rng(0)
    layer = capture(
        weight=rng.integers(-2, 2, (2, 1, 1, 1)), input=rng.integers(0, 4, (1, 1, 2, 2)), weights="int2",
        inputs="uint2", outputs="uint2", weight_scale=0.25, input_scale=0.5, output_scale=0.25, relu=True, name="tiny",
    )  # fmt: skip
    folder = dump(layer, tmp_path / "one", layout="default").folder
    copied(folder, tmp_path / "sets/sound")
    with_other_strength(copied(folder, tmp_path / "sets/changed"))
    (tmp_path / "post.sv").write_text(POST)
    (tmp_path / "plan.toml").write_text(PLAN)
    found = regress(tmp_path / "plan.toml", "--store", tmp_path / "store")
    assert {run["name"]: run["result"] for run in found["runs"]} == {
        "changed verify": "FAIL", "changed strength": "FAIL", "sound verify": "PASS", "sound strength": "PASS",
        "sound right exhaust verilator": "PASS", "sound wrong exhaust verilator": "FAIL",
    }  # fmt: skip
    assert "1 of 5 codes are wrong" in found["stderr"]
    assert "strength is not what the capture gives" in found["stderr"]

    (tmp_path / "short.toml").write_text(
        'sets = ["sets/sound"]\nsimulators = ["icarus"]\nchecks = ["selftest"]\ntime_limit = 0.1\n'
    )
    (run,) = regress(tmp_path / "short.toml", "--store", tmp_path / "store")["runs"]
    assert (run["name"], run["result"]) == ("sound own selftest icarus", "FAIL")
    assert "open: " in run["why"]  # the time was over before the mutants were
