"""Mistakes at steps are named: planted by own arithmetic in what a design gives, then looked for by `diagnose`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qexport as qx
from qexport.build.dump import dump
from qexport.core.golden import Golden
from qexport.core.steps import (
    Add,
    Bias,
    Clamp,
    LeakyRelu,
    Lookup,
    Multiply,
    Relu,
    ShiftLeft,
    ShiftRight,
    Step,
    Tflite,
    Threshold,
    Wrap,
)
from qexport.layout.toml import parse_layout
from tests.conftest import make_capture

Ints = NDArray[np.int64]
BY = np.array([37, 41, 53, 29, 61, 47, 33, 59])
VALUE = np.array([300, -500, 90, 777, -123, 45, 600, -350])
BIAS = make_capture(bias=True).bias
assert BIAS is not None
LEVELS = np.sort(np.random.default_rng(4).integers(-900, 900, (8, 15)), axis=1)
TABLE = tuple(int(x) for x in np.random.default_rng(5).permutation(64))

SCALED: tuple[Step, ...] = (
    Multiply(by=tuple(BY.tolist())),
    Add(value=tuple(VALUE.tolist())),
    ShiftRight(by=8, round="half_even"),
    Clamp(low=-100, high=90),
)
ALIGNED: tuple[Step, ...] = (Bias(shift=3), ShiftRight(by=4, round="half_away"), LeakyRelu(shift=3, round="floor"))
THRESHOLDS: tuple[Step, ...] = (Relu(), Threshold(table=tuple(map(tuple, LEVELS.tolist())), first=-4))
WRAPPED: tuple[Step, ...] = (ShiftLeft(by=2), Wrap(bits=12, signed=True), ShiftRight(by=6, round="toward_zero"))
LOOKED: tuple[Step, ...] = (ShiftRight(by=5, round="floor"), Clamp(low=-32, high=31), Lookup(low=-32, table=TABLE))
TFLITE: tuple[Step, ...] = (Tflite(multiplier=1518500250, shift=-4, rounding="double"), Relu())


def c(numbers: Any) -> Ints:
    return np.asarray(numbers).reshape(8, 1, 1)


def even(v: Ints, by: int) -> Ints:
    return np.rint(v / 2**by).astype(np.int64)


def away(v: Ints, by: int) -> Ints:
    return (np.sign(v) * ((np.abs(v) + (1 << by >> 1)) >> by)).astype(np.int64)


def up(v: Ints, by: int) -> Ints:
    return (v + (1 << by >> 1)) >> by


def clip(v: Ints) -> Ints:
    return v.clip(-100, 90)


def scaled(v: Ints) -> Ints:
    return v * c(BY) + c(VALUE)


def leaky(v: Ints, by: int = 3) -> Ints:
    return np.where(v < 0, v >> by, v)


def biased(v: Ints) -> Ints:
    return v + 8 * c(BIAS)


def counted(v: Ints, levels: Ints = LEVELS, first: int = -4) -> Ints:
    return first + (levels.reshape(8, 1, 1, -1) <= v[..., np.newaxis]).sum(axis=-1)


def twelve(v: Ints) -> Ints:
    return (v + 2048) % 4096 - 2048


def zero(v: Ints, by: int) -> Ints:
    return (np.sign(v) * (np.abs(v) >> by)).astype(np.int64)


def looked(v: Ints, more: int = 0) -> Ints:
    return np.array(TABLE)[(np.clip(v >> 5, -32, 31) + 32 + more).clip(0, 63)]


def tflite(v: Ints) -> Ints:
    return away(up(v * 1518500250, 31), 4)


CASES: dict[str, tuple[tuple[Step, ...], str, Callable[[Ints], Ints]]] = {
    "multiplier left out": (SCALED, "step_missing", lambda v: clip(even(v + c(VALUE), 8))),
    "addend left out": (SCALED, "step_missing", lambda v: clip(even(v * c(BY), 8))),
    "clamp left out": (SCALED, "step_missing", lambda v: even(scaled(v), 8)),
    "addend before the multiplier": (SCALED, "step_order", lambda v: clip(even((v + c(VALUE)) * c(BY), 8))),
    "half up": (SCALED, "step_rounding", lambda v: clip(up(scaled(v), 8))),
    "floor": (SCALED, "step_rounding", lambda v: clip(scaled(v) >> 8)),
    "shift of 9": (SCALED, "step_number", lambda v: clip(even(scaled(v), 9))),
    "addend subtracted": (SCALED, "step_number", lambda v: clip(even(v * c(BY) - c(VALUE), 8))),
    "channel 0 for all": (SCALED, "step_channel", lambda v: clip(even(v * BY[0] + c(VALUE), 8))),
    "multipliers one channel on": (
        SCALED, "step_channel", lambda v: clip(even(v * c(np.roll(BY, 1)) + c(VALUE), 8)),
    ),
    "clamped to a byte": (SCALED, "step_clip", lambda v: even(scaled(v), 8).clip(-128, 127)),
    "wrapped to a byte": (SCALED, "step_clip", lambda v: (even(scaled(v), 8) + 128) % 256 - 128),
    "products of 16 bits": (
        SCALED, "step_narrow", lambda v: clip(even((v * c(BY) + 2**15) % 2**16 - 2**15 + c(VALUE), 8)),
    ),
    "a multiplier and an addend of its own": (
        SCALED, "requant_fitted", lambda v: np.floor(0.8125 * (scaled(v) / 256) - 3.3).astype(np.int64).clip(-50, 60),
    ),
    "clamp before all others": (SCALED, "step_order", lambda v: even(scaled(clip(v)), 8)),
    "a multiplier of 36 in channel 3": (
        SCALED, "step_number", lambda v: clip(even(v * c(np.where(np.arange(8) == 3, 36, BY)) + c(VALUE), 8)),
    ),
    "shift of 12": (SCALED, "step_number", lambda v: clip(even(scaled(v), 12))),
    "bias not shifted": (ALIGNED, "step_number", lambda v: leaky(away(v + c(BIAS), 4))),
    "bias subtracted": (ALIGNED, "step_sign", lambda v: leaky(away(v - 8 * c(BIAS), 4))),
    "bias behind the shift": (ALIGNED, "step_order", lambda v: leaky(biased(away(v, 4)))),
    "bias reversed": (ALIGNED, "step_channel", lambda v: leaky(away(v + 8 * c(BIAS[::-1]), 4))),
    "plain ReLU": (ALIGNED, "step_sign", lambda v: np.maximum(away(biased(v), 4), 0)),
    "leaky by a quarter": (ALIGNED, "step_number", lambda v: leaky(away(biased(v), 4), 2)),
    "levels below, not reached": (THRESHOLDS, "step_number", lambda v: counted(np.maximum(v, 0) - 1)),
    "level 7 left out": (
        THRESHOLDS, "step_number", lambda v: counted(np.maximum(v, 0), np.delete(LEVELS, 7, axis=1)),
    ),
    "first code 0": (THRESHOLDS, "step_missing", lambda v: np.maximum(v, 0)),
    "levels of the channel before": (
        THRESHOLDS, "step_channel", lambda v: counted(np.maximum(v, 0), np.roll(LEVELS, 1, axis=0)),
    ),
    "clipped, not wrapped": (WRAPPED, "step_clip", lambda v: zero((4 * v).clip(-2048, 2047), 6)),
    "unsigned wrap": (WRAPPED, "step_sign", lambda v: zero(4 * v % 4096, 6)),
    "the entry behind": (LOOKED, "step_number", lambda v: looked(v, 1)),
    "the table from its end": (LOOKED, "step_number", lambda v: np.array(TABLE[::-1])[(v >> 5).clip(-32, 31) + 32]),
    "half even in place of floor": (
        LOOKED, "step_rounding", lambda v: np.array(TABLE)[np.clip(even(v, 5), -32, 31) + 32],
    ),
    "a multiplier of 5 digits": (
        TFLITE, "step_number", lambda v: np.maximum(away(up(v * (1518500250 >> 26 << 26), 31), 4), 0),
    ),
    "the size of the value": (TFLITE, "step_sign", lambda v: np.abs(tflite(v))),
}  # fmt: skip
LAYOUT = """
name = "codes"
[[memory]]
name = "codes"
tensor = "output"
order = "n oc oy ox -> | n oc oy ox |"
file = "codes.dec"
radix = "dec"
"""


@pytest.mark.parametrize("name", CASES)
def test_a_planted_mistake_is_named_first(name: str, tmp_path: Path) -> None:
    steps, mistake, wrong = CASES[name]
    capture = replace(make_capture(bias=True, plane=(6, 6), images=3), steps=steps)
    capture = replace(capture, bias=BIAS if any(isinstance(step, Bias) for step in steps) else None)
    folder = dump(capture, parse_layout(LAYOUT, "codes.toml"), tmp_path).folder
    golden = Golden(capture)
    codes = wrong(golden.accumulator)
    assert (codes != golden.values("output")).any()
    (tmp_path / "got.dec").write_text("".join(f"{code}\n" for code in codes.ravel()))
    found = qx.open(folder).diagnose(tmp_path / "got.dec", memory="codes")
    assert found.explained
    first = [cause for cause in found.causes if cause.share == found.causes[0].share]
    said = {name for cause in first for name in (cause.name, *(alike.split(" (")[0] for alike in cause.alike))}
    assert mistake in said, str(found)
