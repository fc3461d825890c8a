"""Steps `tflite` in sets, against TFLite's arithmetic from its published definition (arithmetic.py)."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.judges.arithmetic import ROUNDINGS, TFLITE, quantize_multiplier, tflite_double, tflite_single
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, dumped, judge, linear, refused, total

INT32 = -(2**31), 2**31 - 1
TENSORS = ["input", "accumulator", "scaled", "output"]


def scaled(multiplier: Any, shift: Any, rounding: str) -> dict[str, Any]:
    return {"op": "tflite", "multiplier": multiplier, "shift": shift, "rounding": rounding, "name": "scaled"}


def test_the_witness_is_the_published_formula_in_fractions() -> None:
    """Double: half up of a product in units of 2^31, then half away from zero; single: half up, once."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        shift = int(rng.integers(-31, 31))
        size = 31 - max(shift, 0)
        x = int(rng.integers(-(2**size), 2**size))
        multiplier = int(rng.integers(0, 2**31))
        left, right = max(shift, 0), max(-shift, 0)
        high = ROUNDINGS["half_up"](Fraction(x * 2**left * multiplier, 2**31))
        assert tflite_double(x, multiplier, shift) == ROUNDINGS["half_away"](Fraction(high, 2**right))
        once = ROUNDINGS["half_up"](x * multiplier * Fraction(2) ** (shift - 31))
        assert tflite_single(x, multiplier, shift) == once


def any_integers(values: list[int], channels: int, steps: list[dict[str, Any]], size: int = 32) -> Capture:
    """A sum whose accumulators are `values` in every channel: high half x 2^k + low half, bounds of `size` bits."""
    k = size // 2
    low, high = np.array([v % 2**k for v in values]), np.array([v >> k for v in values])
    arrays = [np.broadcast_to(a[None, None, None], (1, channels, 1, len(values))) for a in (high, low)]
    formats = {
        "input": codes(size - k, True),
        "input2": codes(k, False),
        "accumulator": {"scale": 1.0},
        "output": codes(32, True),
    }
    return total(arrays, [2**k, 1], formats, steps, name="any")


def interesting(rng: np.random.Generator, size: int, multiplier: int, shift: int) -> list[int]:
    """The extremes, numbers around 0, each side of some edges, and random ones."""
    low, high = -(2 ** (size - 1)), 2 ** (size - 1) - 1
    found = {low, low + 1, high, high - 1, *range(-5, 6), low // 2, high // 2}
    gain = Fraction(multiplier) * Fraction(2) ** (shift - 31)
    for code in rng.integers(-1000, 1000, 20).tolist():
        if gain:
            edge = round((code + Fraction(1, 2)) / gain)
            found |= {edge - 1, edge, edge + 1}
    found |= set(rng.integers(low, high + 1, 40).tolist())
    return sorted(value for value in found if low <= value <= high)


@pytest.mark.parametrize("rounding", TFLITE)
@pytest.mark.parametrize("shift", [0, -1, -2, -7, -15, -30, -31])
def test_any_int32_goes_through_right_shifts(rounding: str, shift: int, tmp_path: Path) -> None:
    """Bounds are those of int32 itself, INT32_MIN among the values."""
    rng = np.random.default_rng(-shift)
    multipliers = [0, 1, 2**30, 2**30 + 1, 2**31 - 1, *rng.integers(2**30, 2**31, 3).tolist()]
    values = sorted({v for m in multipliers for v in interesting(rng, 32, m, shift)})
    assert INT32[0] in values
    assert INT32[1] in values
    shifts = [shift] * len(multipliers)
    capture = any_integers(values, len(multipliers), [scaled(multipliers, shifts, rounding)])
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    for channel, multiplier in enumerate(multipliers):
        want = [TFLITE[rounding](value, multiplier, shift) for value in values]
        assert found.output[0, channel, 0].tolist() == want


@pytest.mark.parametrize("rounding", TFLITE)
@pytest.mark.parametrize("shift", [1, 2, 8, 21, 29, 30])
def test_left_shifts(rounding: str, shift: int, tmp_path: Path) -> None:
    rng, size = np.random.default_rng(shift), 32 - shift
    multipliers = [0, 2**30, 2**31 - 1, *rng.integers(2**30, 2**31, 3).tolist()]
    values = sorted({v for m in multipliers for v in interesting(rng, size, m, shift)})
    capture = any_integers(values, len(multipliers), [scaled(multipliers, shift, rounding)], size)
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    for channel, multiplier in enumerate(multipliers):
        want = [TFLITE[rounding](value, multiplier, shift) for value in values]
        assert found.output[0, channel, 0].tolist() == want


@pytest.mark.parametrize("rounding", TFLITE)
def test_values_that_can_leave_int32_are_refused(rounding: str, tmp_path: Path) -> None:
    values = [0, 1, 2]
    fits = any_integers(values, 1, [scaled(2**30, 1, rounding)], 31)
    judge(dumped(fits, tmp_path / "fits", TENSORS), fits)
    leaves = any_integers(values, 1, [scaled(2**30, 1, rounding)], 32)
    refused(leaves, tmp_path / "leaves", "scaled")
    too_large = any_integers(values, 1, [scaled(2**30, 0, rounding)], 33)
    refused(too_large, tmp_path / "large", "scaled")


@pytest.mark.parametrize(
    "changed", [{"multiplier": 2**31}, {"multiplier": -1}, {"shift": 31}, {"shift": -32}, {"rounding": "up"}]
)
def test_numbers_that_tflite_cannot_have_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    capture = any_integers([0, 1], 1, [scaled(2**30, 0, "double") | changed], 2)
    refused(capture, tmp_path, next(iter(changed)))


# ---- layers as TFLite's converter makes them -----------------------------------------------------------------------


def real_layer(kind: str, seed: int, rounding: str) -> Capture:
    """Float weights, quantized as TFLite does: int8 symmetric for each channel, int8 activations with zero points."""
    rng = np.random.default_rng(seed)
    ic, oc, groups, kernel = {
        "conv": (8, 12, 1, 3),
        "pointwise": (16, 8, 1, 1),
        "depthwise": (10, 10, 10, 3),
        "fully_connected": (32, 10, 1, 1),
    }[kind]
    spread = 2.0 ** rng.uniform(-3, 1, oc)  # channels differ in size, as behind a BatchNorm
    real = rng.normal(0, 1, (oc, ic // groups, kernel, kernel)) * spread[:, None, None, None]
    weight_scales = (np.abs(real).max((1, 2, 3)) / 127).astype(np.float32)
    weight = np.clip(np.round(real / weight_scales[:, None, None, None]), -127, 127).astype(np.int32)
    input_scale, output_scale = np.float32(rng.uniform(0.01, 0.06)), np.float32(rng.uniform(0.02, 0.2))
    input_zero, output_zero = (int(v) for v in rng.integers(-128, 128, 2))
    bias = np.round(rng.normal(0, 1, oc) / (input_scale * weight_scales)).astype(np.int64)
    pairs = [quantize_multiplier(float(input_scale) * float(s) / float(output_scale)) for s in weight_scales]
    steps = [
        scaled([m for m, _ in pairs], [s for _, s in pairs], rounding),
        {"op": "add", "value": output_zero},
        {"op": "clamp", "low": output_zero if kind == "conv" else -128, "high": 127},
    ]
    formats = {
        "weight": codes(8, True, [float(s) for s in weight_scales]),
        "input": codes(8, True, float(input_scale), input_zero),
        "output": codes(8, True, float(output_scale), output_zero),
    }
    if kind == "fully_connected":
        return linear(weight[:, :, 0, 0], rng.integers(-128, 128, (5, ic)), formats, steps, bias, name=kind)
    x = rng.integers(-128, 128, (2, ic, 7, 6))
    padding = [0, 1, 1, 0] if kernel > 1 else [0] * 4
    return conv(weight, x, formats, steps, bias, name=kind, groups=groups, stride=[2, 1], padding=padding)


@pytest.mark.parametrize("kind", ["conv", "pointwise", "depthwise", "fully_connected"])
@pytest.mark.parametrize("rounding", TFLITE)
@pytest.mark.parametrize("seed", [1, 2])
def test_layers_as_the_converter_makes_them(kind: str, rounding: str, seed: int, tmp_path: Path) -> None:
    capture = real_layer(kind, seed, rounding)
    tensors = [*capture.tensors, "accumulator", "scaled", "scaled_multiplier", "scaled_shift", "output"]
    found = judge(dumped(capture, tmp_path, tensors), capture)
    bias, zero = capture.tensors["bias"], capture.formats["output"].get("zero_point", 0)
    step, clamp = capture.steps[0], capture.steps[2]  # type: ignore[index]
    for n, oc, oy, ox in np.ndindex(found.output.shape):
        sums = int(found.tensors["accumulator"][n, oc, oy, ox])
        value = TFLITE[rounding](sums, step["multiplier"][oc], step["shift"][oc]) + zero
        assert found.output[n, oc, oy, ox] == min(max(value, clamp["low"]), clamp["high"])
    assert len(bias) == found.output.shape[1]
    assert len(np.unique(found.output)) > 10


def test_the_two_roundings_differ_on_some_layer(tmp_path: Path) -> None:
    """Else a set could not tell a design with the one from a design with the other."""
    rng = np.random.default_rng(3)
    multiplier, shift = 2**30 + 12345, -4
    differing = [
        v
        for v in rng.integers(-(2**20), 2**20, 40000).tolist()
        if tflite_double(v, multiplier, shift) != tflite_single(v, multiplier, shift)
    ]
    assert differing
    outputs = []
    for rounding in TFLITE:
        capture = any_integers(differing[:50], 1, [scaled(multiplier, shift, rounding)])
        outputs.append(judge(dumped(capture, tmp_path / rounding, TENSORS), capture).output)
    assert (outputs[0] != outputs[1]).all()
