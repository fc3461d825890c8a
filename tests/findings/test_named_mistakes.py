"""Mistakes that a public accelerator may make, planted by own arithmetic and named by `diagnose`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qexport as qx
from qexport.core.intformat import Int64
from qexport.findings.diagnose import diagnose
from qexport.findings.words import read_actual
from qexport.layout.toml import parse_layout

LAYOUT = """
name = "results"
[array]
row = 4
col = 4
[[memory]]
name = "accumulator"
tensor = "accumulator"
order = "n oc oy ox -> | n oc oy ox |"
file = "accumulator.dec"
radix = "dec"
[[memory]]
name = "relu"
tensor = "relu"
order = "n oc oy ox -> | n oc oy ox |"
file = "relu.dec"
radix = "dec"
[[memory]]
name = "output"
tensor = "output"
order = "n oc oy ox -> | n oc oy ox |"
file = "output.dec"
radix = "dec"
"""
RNG = np.random.default_rng(3)
W, X = RNG.integers(-8, 8, (8, 8, 3, 3)), RNG.integers(0, 16, (3, 8, 6, 5))
B = RNG.integers(-300, 300, 8)
STEPS = [{"op": "multiply", "by": 93}, {"op": "add", "value": 1024 + (7 << 11)},
         {"op": "shift_right", "by": 11, "round": "floor"}, {"op": "clamp", "low": 0, "high": 15}]  # fmt: skip


def c(values: Int64) -> Int64:
    return values.reshape(-1, 1, 1)


def conv(w: Int64 = W, x: Int64 = X, b: Int64 = B, padded: Int64 | None = None) -> Int64:
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))) if padded is None else padded
    taps = [np.einsum("oi,niyx->noyx", w[:, :, kh, kw], wide[:, :, kh : kh + 6, kw : kw + 5])
            for kh in range(3) for kw in range(3)]  # fmt: skip
    return np.sum(taps, axis=0) + c(b)


def relu(v: Int64) -> Int64:
    return np.maximum(v, 0)


def code(v: Int64, by: int = 93, value: int = 1024 + (7 << 11), low: int = 0, high: int = 15) -> Int64:
    return ((v * by + value) >> 11).clip(low, high)


def next_row(x: Int64) -> Int64:
    """The padding on the right reads the first pixel of the next row."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    wide[:, :, 1:6, 6] = x[:, :, 1:, 0]
    return wide


def packed(upper: int) -> Int64:
    wide = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = conv()
    for oc in range(upper, 8, 2):
        for kh in range(3):
            for kw in range(3):
                products = W[oc ^ 1, :, kh, kw].reshape(1, -1, 1, 1) * wide[:, :, kh : kh + 6, kw : kw + 5]
                out[:, oc] -= (products < 0).sum(axis=1)
    return out


def pairs(bits: int) -> Int64:
    wide = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((3, 8, 6, 5), np.int64) + c(B)
    for kh in range(3):
        for kw in range(3):
            products = W[np.newaxis, :, :, kh, kw, None, None] * wide[:, None, :, kh : kh + 6, kw : kw + 5]
            two = products[:, :, ::2] + products[:, :, 1::2]
            out += two.clip(-(1 << bits - 1), (1 << bits - 1) - 1).sum(axis=2)
    return out


def steps_cut(bits: int) -> Int64:
    wide = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((3, 8, 6, 5), np.int64) + c(B)
    half = 1 << bits - 1
    for it in (slice(0, 4), slice(4, 8)):
        for kh in range(3):
            for kw in range(3):
                step = np.einsum("oi,niyx->noyx", W[:, it, kh, kw], wide[:, it, kh : kh + 6, kw : kw + 5])
                out += (step + half) % (2 * half) - half
    return out


def without_row(kept: list[int]) -> Int64:
    w = np.zeros_like(W)
    w[:, :, kept] = W[:, :, kept]
    return conv(w)


def pitched(x: Int64) -> Int64:
    """Rows of an image that are read six codes apart, where they stand five apart."""
    flat = np.pad(x.reshape(3, -1), ((0, 0), (0, 6)))
    places = [ic * 30 + y * 6 + i for ic in range(8) for y in range(6) for i in range(5)]
    return flat[:, np.clip(places, 0, 240)].reshape(x.shape)


def channels(x: Int64, lost: slice) -> Int64:
    x = x.copy()
    x[:, lost] = 0
    return x


CASES: dict[str, tuple[str, Callable[[], Int64], str]] = {
    "bias twice": ("accumulator", lambda: conv(b=2 * B), "bias_wrong (added twice)"),
    "bias of the neighbour": ("accumulator", lambda: conv(b=np.roll(B, 1)), "bias_wrong (that of the channel before)"),
    "bias reversed": ("relu", lambda: relu(conv(b=B[::-1])), "bias_wrong (that of the channels in reverse)"),
    "bias unaligned": ("accumulator", lambda: conv(b=B << 2), "bias_wrong (2 bits too far left)"),
    "bias of 8 bits": ("accumulator", lambda: conv(b=(B + 128) % 256 - 128), "bias_wrong (cut to 8 bits)"),
    "bias unsigned": ("accumulator", lambda: conv(b=B % 1024), "bias_wrong (of 10 bits without sign)"),
    "absolute value": ("relu", lambda: np.abs(conv()), "relu_wrong (the size of the value)"),
    "leaky": ("relu", lambda: np.where(conv() < 0, conv() >> 3, conv()), "relu_wrong (leaky, by 1/8)"),
    "wraps": ("output", lambda: code(conv(), low=-9999, high=9999) % 16, "step_clip (step3 wraps to 4 bits)"),
    "clip at another value": ("output", lambda: code(conv(), high=7), "step_clip (step3 clamps to 0..7)"),
    "signed clip": ("output", lambda: code(conv(), low=-8, high=7), "step_clip (step3 clamps to -8..7)"),
    "plain shift": ("output", lambda: ((conv() >> 4) + 0).clip(0, 15), "requant_shift (by 4, floor)"),
    "multiplier of 5 bits": ("output", lambda: code(conv(), by=92), "step_number"),
    "psums cut": ("accumulator", lambda: steps_cut(7), "psum_cut (to 7 bits)"),
    "next row's first pixel": (
        "accumulator", lambda: conv(padded=next_row(X)), "padding_missing (addresses run on, on the right only)",
    ),
    "NHWC": (
        "accumulator", lambda: conv(x=X.transpose(0, 2, 3, 1).reshape(X.shape)), "input_axes (HWC read as CHW)",
    ),
    "HWIO": (
        "accumulator", lambda: conv(W.transpose(2, 3, 1, 0).reshape(W.shape)), "weight_axes (HWIO read as OIHW)",
    ),
    "one kernel row": ("accumulator", lambda: without_row([1]), "tap_missing (all but kernel row 1)"),
    "two kernel rows": ("accumulator", lambda: without_row([0, 1]), "tap_missing (kernel row 2)"),
    "odd inputs lost": (
        "accumulator", lambda: conv(x=channels(X, slice(1, None, 2))), "input_missing (odd channels)",
    ),
    "packed products": (
        "accumulator", lambda: packed(1), "packed_carry (odd channels above even ones, with each product)",
    ),
    "pair sums": ("accumulator", lambda: pairs(7), "pair_saturates (to 7 bits)"),
    "weight address + 1": (
        "accumulator", lambda: conv(np.roll(W.ravel(), -1).reshape(W.shape)), "weight_address (of codes: +1, cyclic)",
    ),
    "input pitch": (
        "accumulator", lambda: conv(x=pitched(X)),
        "input_address (of codes: the pitch of iy is 6, not 5, 0 beyond the last)",
    ),
    "output bit": ("accumulator", lambda: conv() | 4, "output_bit_stuck (bit 2 at 1)"),
    "weight bit": ("accumulator", lambda: conv(W & ~2), "weight_bit_stuck (bit 1 at 0)"),
    "passed through": (
        "accumulator", lambda: np.where(np.arange(8).reshape(1, -1, 1, 1) % 2 == 1, X, conv()),
        "passed_through (the input codes of the same channel; only in output channel 1 and every 2nd behind it)",
    ),
    "stale tile": (
        "accumulator", lambda: conv()[:, [0, 1, 2, 3] * 2], "output_tile_order (tile 1 shows the tile before it)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    capture = qx.capture(
        weight=W, input=X, bias=B, weights="int4", inputs="uint4", padding=1, relu=False, steps=STEPS, name="l"
    )
    return qx.dump(capture, tmp_path_factory.mktemp("named"), parse_layout(LAYOUT, "results.toml")).folder


@pytest.mark.parametrize("name", CASES)
def test_a_planted_mistake_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    memory, given, said = CASES[name]
    (tmp_path / "got.dec").write_text("".join(f"{value}\n" for value in given().ravel()))
    found = diagnose(folder, read_actual(folder, tmp_path / "got.dec", memory))
    assert found.explained, str(found)
    names: list[Any] = [str(cause) for cause in found.causes]
    assert any(one.startswith(said) for one in names), str(found)
