"""A linear layer of 19 to 10 in Q2.5 fixed point, from arrays to the verdict, by the commands that a user gives."""

from pathlib import Path

import numpy as np
import pytest

import qexport as qx
from tests.conftest import cli
from tests.judges import decoder


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_linear_layer_in_q2_5_from_arrays_to_the_verdict(simulator: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weight, codes = rng.integers(-128, 128, (10, 19)), rng.integers(-128, 128, (4, 19))
    bias = rng.integers(-4096, 4096, 10)  # of 10 fraction bits, as the sums
    capture = qx.capture(
        weight=weight, input=codes, bias=bias, weights="int8", inputs="int8", outputs="int8", weight_scale=2**-5,
        input_scale=2**-5, output_scale=2**-5, name="fc",
        steps=[{"op": "shift_right", "by": 5, "round": "floor"}, {"op": "clamp", "low": -128, "high": 127}],
    )  # fmt: skip
    (tmp_path / "fc.safetensors").write_bytes(capture.to_bytes())
    folder = tmp_path / "sets" / "fc"
    commands = [
        ("dump", "--capture", tmp_path / "fc.safetensors", "--layout", "default", "--out", tmp_path / "sets"),
        ("verify", folder),
        ("simulate", folder, "--simulator", simulator),
        ("rtl", folder, "--style", "os", "--out", tmp_path / "rtl"),
        ("simulate", folder, "--simulator", simulator, "--dut", tmp_path / "rtl" / "dut.sv"),
    ]
    for command in commands:
        given = [*command]
        if "--dut" in given:
            names = (tmp_path / "rtl" / "files.f").read_text().split()
            given += [word for name in names if name != "dut.sv" for word in ("--dut", tmp_path / "rtl" / name)]
        result = cli(*given)
        assert result.exit_code == 0, result.output
    assert decoder.check(folder) == []
    sums = codes.astype(object) @ weight.T.astype(object) + bias
    assert qx.open(folder)["output"].reshape(4, 10).tolist() == np.clip(sums // 32, -128, 127).astype(int).tolist()
