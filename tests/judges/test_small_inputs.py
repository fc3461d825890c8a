"""Layers of strangers' accelerators and frameworks, each a capture built here; outputs by own arithmetic."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import cli
from tests.judges.arithmetic import ROUNDINGS, quantize_multiplier
from tests.judges.golden import Capture, accumulated, minifloat, rounded_codes, stands_for, through
from tests.judges.layers import codes, conv, dumped, judge, linear, matmul, same_steps, total
from tests.judges.notation import code_range


def power_of_two(seed: int = 1, relu: bool = True, signed: bool = False) -> Capture:
    """3x3, 4 bits, scales 2^-3, 2^-2 and 2^-1: real code = accumulator / 16, ties half to even."""
    rng = np.random.default_rng(seed)
    formats = {"weight": codes(4, True, 2.0**-2), "input": codes(4, False, 2.0**-3), "output": codes(4, signed, 0.5)}
    weight, x = rng.integers(-8, 8, (8, 4, 3, 3)), rng.integers(0, 16, (2, 4, 6, 6))
    return conv(weight, x, formats, bias=rng.integers(-90, 90, 8), padding=[1, 1, 1, 1], relu=relu)


@pytest.mark.parametrize(("relu", "signed"), [(True, False), (False, True), (True, True), (False, False)])
def test_power_of_two_scales_have_an_output(relu: bool, signed: bool, tmp_path: Path) -> None:
    capture = power_of_two(relu=relu, signed=signed)
    found = judge(dumped(capture, tmp_path, ["input", "weight", "bias", "accumulator", "output"]), capture)
    _, bounds = accumulated(capture)
    for channel, (low, high) in enumerate(bounds.T.tolist()):
        for accumulator in range(low, high + 1):  # each one that the layer can give
            want, _ = rounded_codes(capture, channel, accumulator)
            assert through(found.steps, channel, accumulator) == want, (channel, accumulator)


def test_roundings_of_power_of_two_scales_differ_where_they_should(tmp_path: Path) -> None:
    capture = power_of_two(relu=False, signed=True)
    sums, bounds = accumulated(capture)
    outputs, behaviours = {}, {}
    low, high = code_range(capture.formats["output"])
    for rounding in ("half_up", "floor", "half_even", "half_away"):
        root, tensors = tmp_path / rounding, ["input", "weight", "accumulator", "output"]
        found = judge(dumped(capture, root, tensors, "--round", rounding), capture)
        outputs[rounding] = found.output.tolist()
        behaviours[rounding] = {}
        for value in range(int(bounds[0].min()), int(bounds[1].max()) + 1):
            real = min(max(ROUNDINGS[rounding](Fraction(value, 16)), low), high)
            for channel in range(8):
                if bounds[0, channel] <= value <= bounds[1, channel]:
                    assert through(found.steps, channel, value) == real, (rounding, channel, value)
            behaviours[rounding][value] = real
    for one, other in [("half_up", "half_even"), ("half_up", "half_away"), ("half_even", "half_away")]:
        differing = [v for v, code in behaviours[one].items() if code != behaviours[other][v]]
        assert differing
        assert all(value % 16 == 8 for value in differing)
        assert (outputs[one] == outputs[other]) == (not np.isin(sums, differing).any())
    assert outputs["floor"] != outputs["half_up"]


def tflite_layer(seed: int = 2, rounding: str = "double", ic: int = 16, oc: int = 16, kernel: int = 3) -> Capture:
    """A TFLite int8 convolution: per-channel weights, zero points -128, ReLU in the clamp, multipliers as published."""
    rng = np.random.default_rng(seed)
    scales = (rng.uniform(0.001, 0.01, oc)).astype(np.float32).tolist()
    input_scale, output_scale = float(np.float32(0.0235)), float(np.float32(0.0471))
    pairs = [quantize_multiplier(input_scale * scale / output_scale) for scale in scales]
    formats = {
        "weight": codes(8, True, scales),
        "input": codes(8, True, input_scale, -128),
        "output": codes(8, True, output_scale, -128),
    }
    steps: list[dict[str, Any]] = [
        {
            "op": "tflite",
            "multiplier": [m for m, _ in pairs],
            "shift": [s for _, s in pairs],
            "rounding": rounding,
            "name": "scaled",
        },
        {"op": "add", "value": -128},
        {"op": "clamp", "low": -128, "high": 127},
    ]
    weight, x = rng.integers(-127, 128, (oc, ic, kernel, kernel)), rng.integers(-128, 128, (1, ic, 6, 6))
    padding = [kernel // 2] * 4
    bias = rng.integers(-4000, 4000, oc)
    return conv(weight, x, formats, steps, bias, name="conv_int8", padding=padding, relu=True)


@pytest.mark.parametrize("rounding", ["double", "single"])
def test_an_int8_layer_of_tflite(rounding: str, tmp_path: Path) -> None:
    capture = tflite_layer(rounding=rounding)
    tensors = [*capture.tensors, "input_padded", "bias_folded", "accumulator", "scaled", "output"]
    tensors += ["scaled_multiplier", "scaled_shift"]
    found = judge_with_padding(dumped(capture, tmp_path, tensors), capture)
    assert found.output.min() == -128
    assert found.output.max() > -128


def judge_with_padding(found: Any, capture: Capture) -> Any:
    """As judge, and padding that holds the zero point, biases folded and step parameters."""
    zero, (top, bottom, left, right) = capture.formats["input"].get("zero_point", 0), capture.layer["padding"]
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(capture.tensors["input"], sides, constant_values=zero)
    assert np.array_equal(found.tensors.pop("input_padded"), padded)
    folded = capture.tensors["bias"] - zero * capture.tensors["weight"].astype(np.int64).sum((1, 2, 3))
    assert np.array_equal(found.tensors.pop("bias_folded"), folded)
    memories = [m for m in found.manifest["memories"] if m["tensor"] not in ("input_padded", "bias_folded")]
    found.manifest["memories"] = memories
    return judge(found, capture)


def test_a_signed_1x1_layer_without_relu(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    formats = {"weight": codes(8, True, 0.0123), "input": codes(8, True, 0.05), "output": codes(8, True, 0.31)}
    capture = conv(rng.integers(-128, 128, (6, 5, 1, 1)), rng.integers(-128, 128, (2, 5, 4, 4)), formats)
    found = judge(dumped(capture, tmp_path, ["input", "weight", "accumulator", "output"]), capture)
    compare_with_scales(found, capture)
    assert found.output.min() < 0 < found.output.max()


def compare_with_scales(found: Any, capture: Capture) -> None:
    """Each code is the exact rounding, but for listed ties, where it is off by one at most."""
    sums, _ = accumulated(capture)
    ties = {(int(channel), int(value)) for channel, value in found.manifest.get("ties", [])}
    axis = 2 if capture.layer["kind"] == "matmul" else 1
    for channel in range(sums.shape[axis]):
        pairs = zip(sums.take(channel, axis).ravel().tolist(), found.output.take(channel, axis).ravel(), strict=True)
        for value, code in set(pairs):
            want, _ = rounded_codes(capture, channel, value)
            assert code == want or ((channel, value) in ties and abs(code - want) == 1), (channel, value, code, want)


def test_a_linear_layer_in_q2_5(tmp_path: Path) -> None:
    """19 to 10 in fixed point with 5 fraction bits: sums of products have 10, a floor shift drops 5, 8 bits hold it."""
    rng = np.random.default_rng(4)
    formats = {name: codes(8, True, 2.0**-5) for name in ("weight", "input", "output")}
    steps: list[dict[str, Any]] = [
        {"op": "shift_right", "by": 5, "round": "floor"},
        {"op": "clamp", "low": -128, "high": 127},
    ]
    w, x = rng.integers(-128, 128, (10, 19)), rng.integers(-128, 128, (4, 19))
    capture = linear(w, x, formats, steps, rng.integers(-4096, 4096, 10))
    found = judge(dumped(capture, tmp_path), capture)
    sums = x.astype(object) @ w.T.astype(object) + capture.tensors["bias"]
    assert found.output.tolist() == np.clip(sums // 32, -128, 127).astype(int)[:, :, None, None].tolist()


CHAINS: dict[str, list[dict[str, Any]]] = {
    "q8_8": [
        {"op": "bias", "shift": 8, "name": "with_bias"},
        {"op": "shift_right", "by": 8, "round": "floor", "name": "back"},
        {"op": "clamp", "low": -32768, "high": 32767, "name": "saturated"},
        {"op": "max_pool", "kernel": [2, 2], "name": "pooled"},
    ],
    "shift_then_bias": [
        {"op": "shift_right", "by": 6, "round": "floor"},
        {"op": "bias"},
        {"op": "relu"},
        {"op": "clamp", "low": 0, "high": 255},
    ],
    "int4": [
        {"op": "bias", "shift": 5},
        {"op": "shift_right", "by": 7, "round": "floor"},
        {"op": "clamp", "low": -8, "high": 7},
        {"op": "max_pool", "kernel": [2, 2], "stride": [2, 2]},
    ],
    "everything": [
        {"op": "multiply", "by": [3, -5, 7, 1, 2, -1]},
        {"op": "bias", "shift": 3},
        {"op": "shift_left", "by": 2},
        {"op": "leaky_relu", "shift": 3, "round": "half_away"},
        {"op": "shift_right", "by": [9, 10, 11, 8, 9, 4], "round": "half_even"},
        {"op": "wrap", "bits": 9, "signed": True},
        {"op": "sum_pool", "kernel": [3, 2], "stride": [1, 2], "padding": [1, 1, 0, 1]},
        {"op": "threshold", "table": [[-400, -50, 0, 3, 90, 700, 999]] * 6, "first": -4},
        {"op": "lookup", "low": -4, "table": [5, -9, 100, 0, 1, 1, -32768, 77]},
    ],
}
OUTPUTS = {"q8_8": codes(16, True), "shift_then_bias": codes(8, False), "int4": codes(4, True)}
OUTPUTS |= {"everything": codes(16, True)}
INPUTS = {"q8_8": 16, "shift_then_bias": 8, "int4": 4, "everything": 4}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("apart", [False, True])
def test_chains_of_accelerators(name: str, apart: bool, tmp_path: Path) -> None:
    rng, bits = np.random.default_rng(5), INPUTS[name]
    half = min(1 << bits - 1, 600)  # of 16 bits: numbers of up to 2.3
    formats = {"weight": codes(bits, True), "input": codes(bits, True), "output": OUTPUTS[name]}
    w, x = rng.integers(-half, half, (6, 3, 3, 3)), rng.integers(-half, half, (2, 3, 6, 8))
    bias = rng.integers(-half, half, 6)
    capture = conv(w, x, formats, CHAINS[name], bias, name=name, padding=[1, 1, 1, 1])
    if apart:
        read = capture.write(tmp_path / "capture.safetensors", apart=True)
        done = cli("dump", "--capture", read, "--layout", "default", "--out", tmp_path / "sets")
        assert done.exit_code == 0, done.output
        said = json.loads((tmp_path / "sets" / name / "manifest.json").read_bytes())
        assert same_steps(CHAINS[name], said["steps"])
        return
    found = judge(dumped(capture, tmp_path), capture)
    assert len(np.unique(found.output)) >= 3


@pytest.mark.parametrize("rounding", ["floor", "half_up"])
@pytest.mark.parametrize("kernel", [2, 4])
def test_averages_of_unsigned_bytes(rounding: str, kernel: int, tmp_path: Path) -> None:
    """2x2 on a plane of 6x4; 4x4 is the global average."""
    rng = np.random.default_rng(6)
    plane = (6, 4) if kernel == 2 else (4, 4)
    x = rng.integers(0, 256, (2, 3, *plane))
    formats = {"input": codes(8, False, 0.5), "accumulator": {"scale": 0.5}, "output": codes(8, False, 0.5)}
    steps: list[dict[str, Any]] = [
        {"op": "sum_pool", "kernel": [kernel, kernel]},
        {"op": "shift_right", "by": 2 if kernel == 2 else 4, "round": rounding},
    ]
    capture = total([x], [1], formats, steps, name="average")
    found = judge(dumped(capture, tmp_path), capture)
    exact = x.reshape(2, 3, plane[0] // kernel, kernel, plane[1] // kernel, kernel).sum((3, 5)) / kernel**2
    want = np.floor(exact + (0.5 if rounding == "half_up" else 0))
    assert np.array_equal(found.output, want)


@pytest.mark.parametrize("signed", [True, False])
def test_a_residual_sum(signed: bool, tmp_path: Path) -> None:
    """Scales 3:1, zero points 3 and -7 (or 200), output zero point 11."""
    rng = np.random.default_rng(7)
    half = 128 if signed else 0
    a, b = (rng.integers(-half, 256 - half, (2, 4, 3, 5)) for _ in range(2))
    zero = -7 if signed else 200
    formats = {
        "input": codes(8, signed, 0.3, 3),
        "input2": codes(8, signed, 0.1, zero),
        "accumulator": {"scale": 0.1},
        "output": codes(8, signed, 0.37, 11),
    }
    capture = total([a, b], [3, 1], formats, name="residual")
    found = judge(dumped(capture, tmp_path, ["input", "input2", "accumulator", "output"]), capture)
    assert np.array_equal(found.tensors["accumulator"], 3 * (a - 3) + (b - zero))
    compare_with_scales(found, capture)


@pytest.mark.parametrize("table", [[-1, 1], [-3, -1, 1, 3]])
def test_weights_that_stand_for_levels(table: list[int], tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    bits = 1 if len(table) == 2 else 2
    formats = {
        "weight": codes(bits, False, 0.5) | {"levels": table},
        "input": codes(2, False, 1.0),
        "output": codes(8, True, 1.0),
    }
    w, x = rng.integers(0, len(table), (5, 6, 3, 3)), rng.integers(0, 4, (2, 6, 5, 5))
    steps: list[dict[str, Any]] = [{"op": "clamp", "low": -128, "high": 127}]
    capture = conv(w, x, formats, steps, bias=rng.integers(-9, 9, 5), name="levels", padding=[1, 0, 1, 0])
    found = judge(dumped(capture, tmp_path), capture)
    memory = next(m for m in found.manifest["memories"] if m["name"] == "weight")
    assert memory["bits"] == bits
    assert set(np.unique(found.tensors["weight"])) <= set(range(len(table)))


@pytest.mark.parametrize("both", [False, True])
def test_bipolar_inputs_too(both: bool, tmp_path: Path) -> None:
    """The XNOR network: inputs and weights of one bit, +1 and -1, and a threshold for each channel."""
    rng = np.random.default_rng(9)
    bipolar = codes(1, False) | {"levels": [-1, 1]}
    formats = {"weight": bipolar if both else codes(2, True), "input": bipolar, "output": codes(1, False)}
    w = rng.integers(0, 2, (7, 9, 3, 3)) if both else rng.integers(-2, 2, (7, 9, 3, 3))
    steps: list[dict[str, Any]] = [
        {"op": "threshold", "table": [[int(v)] for v in rng.integers(-9, 9, 7)], "first": 0, "name": "sign"}
    ]
    capture = conv(w, rng.integers(0, 2, (2, 9, 5, 5)), formats, steps, name="xnor")
    judge(dumped(capture, tmp_path), capture)


def test_minifloats_are_those_of_ml_dtypes() -> None:
    import ml_dtypes as types

    named = {"e2m1": "float4_e2m1fn", "e3m2": "float6_e3m2fn", "e2m3": "float6_e2m3fn", "e4m3fn": "float8_e4m3fn"}
    for name, of in named.items():
        ours = minifloat(name)
        values = np.arange(len(ours), dtype=np.uint8).view(getattr(types, of)).astype(np.float64)
        unit = min(v for v in values if v > 0)
        assert [None if np.isnan(v) else int(v / unit) for v in values] == ours


@pytest.mark.parametrize("a", ["e2m1", "e3m2", "e2m3", "e4m3fn"])
@pytest.mark.parametrize("b", ["e2m1", "e4m3fn"])
def test_a_matmul_of_minifloats(a: str, b: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    bits = {"e2m1": 4, "e3m2": 6, "e2m3": 6, "e4m3fn": 8}

    def drawn(name: str, shape: tuple[int, ...]) -> Any:
        allowed = [code for code, value in enumerate(minifloat(name)) if value is not None]
        return rng.choice(allowed, shape)

    formats = {"input": codes(bits[a], False) | {"code": a}, "input2": codes(bits[b], False) | {"code": b}}
    x, y = drawn(a, (2, 3, 64)), drawn(b, (2, 64, 5))
    capture = matmul(x, y, formats)
    found = judge(dumped(capture, tmp_path, ["input", "input2", "accumulator"]), capture)
    real = np.einsum("nmk,nkp->nmp", stands_for(formats["input"], x), stands_for(formats["input2"], y))
    assert np.array_equal(found.tensors["accumulator"], real)


@pytest.mark.parametrize("addend", [False, True])
def test_a_matmul_with_zero_points_and_per_column_steps(addend: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    formats = {"input": codes(8, True, 0.1, 5), "input2": codes(8, False, 0.2, 130), "output": codes(8, True, 1.0)}
    steps: list[dict[str, Any]] = [
        {"op": "multiply", "by": [3, 1, 4, 1, 5, 9, 2]},
        {"op": "shift_right", "by": [12, 11, 12, 10, 12, 13, 11], "round": "half_up"},
        {"op": "clamp", "low": -128, "high": 127},
    ]
    extra = rng.integers(-9999, 9999, (2, 4, 7)) if addend else None
    capture = matmul(rng.integers(-128, 128, (2, 4, 9)), rng.integers(0, 256, (2, 9, 7)), formats, steps, extra)
    tensors = [*capture.tensors, "accumulator", "step0", "step1", "output", "step0_by", "step1_by"]
    judge(dumped(capture, tmp_path, tensors), capture)


@pytest.mark.whole
def test_the_first_layer_of_a_resnet(tmp_path: Path) -> None:
    """224x224, 7x7, stride 2, 3 to 64."""
    rng = np.random.default_rng(12)
    formats = {"weight": codes(8, True, 0.01), "input": codes(8, False, 0.02, 114), "output": codes(8, False, 0.1, 3)}
    steps: list[dict[str, Any]] = [
        {"op": "multiply", "by": rng.integers(200, 2000, 64).tolist()},
        {"op": "add", "value": rng.integers(-9999, 9999, 64).tolist()},
        {"op": "shift_right", "by": 16, "round": "floor"},
        {"op": "clamp", "low": 0, "high": 255},
        {"op": "max_pool", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
    ]
    w, x = rng.integers(-128, 128, (64, 3, 7, 7)), rng.integers(0, 256, (1, 3, 224, 224))
    capture = conv(w, x, formats, steps, stride=[2, 2], padding=[3, 3, 3, 3], name="stem")
    found = judge(dumped(capture, tmp_path, ["input", "weight", "accumulator", "output"]), capture)
    assert found.output.shape == (1, 64, 56, 56)
