"""The exact integer convolution: padding, im2col, sums, partial sums, bounds. A linear layer is one of 1x1."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from qexport.core.capture import Capture
from qexport.core.geometry import Conv2d, ConvGeometry, Linear
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.base import Need, Operation, narrow, operand_record, result_records
from qexport.core.steps import Ints, Step
from qexport.core.tensors import BIAS_BITS, Range, Record, Role, Values, wide


def pad(codes: Int64, layer: ConvGeometry, zero_point: int = 0) -> Int64:
    """(n, ic, iy, ix) to the zero-padded (n, ic, py, px); real zero is the code `zero_point`."""
    top, bottom, left, right = layer.padding
    return np.pad(codes, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero_point)


def patches(padded: Int64, layer: ConvGeometry, plane: tuple[int, int]) -> Int64:
    """im2col: padded (n, ic, py, px) to (n, ic, kh, kw, oy, ox) for an unpadded plane of (iy, ix)."""
    (kernel_h, kernel_w), (sy, sx), (dy, dx) = layer.kernel, layer.stride, layer.dilation
    rows, cols = layer.output_plane(plane)
    out = np.empty((*padded.shape[:2], kernel_h, kernel_w, rows, cols), np.int64)
    for kh in range(kernel_h):
        for kw in range(kernel_w):
            top, left = kh * dy, kw * dx
            out[:, :, kh, kw] = padded[:, :, top : top + rows * sy : sy, left : left + cols * sx : sx]
    return out


def accumulate(weight: Int64, im2col: Int64, bias: Int64 | None, groups: int, reach: int) -> Int64:
    """The integer convolution plus bias, (n, oc, oy, ox), from patches (n, ic, kh, kw, oy, ox).

    No sum of products is larger in size than `reach`.
    """
    n, _, _, _, rows, cols = im2col.shape
    dtype = narrow(reach)
    taps = weight.reshape(groups, len(weight) // groups, -1).astype(dtype)  # (g, oc of g, ic of g * kh * kw)
    seen = im2col.reshape(n, groups, -1, rows * cols).transpose(1, 0, 3, 2).astype(dtype)  # (g, n, oy * ox, taps)
    sums = np.einsum("gok,gnpk->ngop", taps, np.ascontiguousarray(seen))  # integers: einsum is faster than matmul
    out: Int64 = sums.reshape(n, len(weight), rows, cols).astype(np.int64)
    return out if bias is None else out + bias[:, np.newaxis, np.newaxis]


def psums(weight: Int64, padded: Int64, groups: int, row: int, reach: int) -> Int64:
    """What each input-channel tile of `row` channels and each tap adds at every padded position.

    Returns (n, it, kh, kw, oc, py, px); weight-stationary, whatever the stride. `reach` as in `accumulate`.
    """
    n, _, rows, cols = padded.shape
    outputs, inputs, *kernel = weight.shape
    tiles = math.ceil(inputs / row)
    dtype = narrow(reach)
    streams = padded.reshape(n, groups, inputs, rows * cols).astype(dtype)
    taps = weight.reshape(groups, outputs // groups, inputs, *kernel).astype(dtype)
    out = np.empty((n, tiles, *kernel, outputs, rows, cols), np.int64)
    for it in range(tiles):
        tile = slice(it * row, (it + 1) * row)
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                product = np.matmul(taps[np.newaxis, :, :, tile, kh, kw], streams[:, :, tile])
                out[:, it, kh, kw] = product.reshape(n, outputs, rows, cols)
    return out


def acc_addresses(layer: ConvGeometry, plane: tuple[int, int]) -> Int64:
    """Where the psum of each tap lies that belongs to an output, (oy, ox, kh, kw)."""
    padded_rows, padded_cols = layer.padded_plane(plane)
    rows, cols = layer.output_plane(plane)
    oy, ox, kh, kw = np.ogrid[:rows, :cols, : layer.kernel[0], : layer.kernel[1]]
    py, px = layer.meets(0, oy, kh), layer.meets(1, ox, kw)
    address: Int64 = ((kh * layer.kernel[1] + kw) * padded_rows + py) * padded_cols + px
    return address


def accumulator_bounds(
    weight: Int64, bias: Int64 | None, code: Range, layer: ConvGeometry, plane: tuple[int, int]
) -> tuple[Int64, Int64]:
    """The exact least and greatest accumulator of each channel for inputs of this plane and range.

    A tap that meets padding adds nothing, so each output position counts only the taps that lie inside.
    """
    inside = patches(pad(np.ones((1, 1, *plane), np.int64), layer), layer, plane)[0, 0]  # (kh, kw, oy, ox)
    kinds = np.unique(inside.reshape(*inside.shape[:2], -1), axis=2)  # many positions meet the same taps
    offset = 0 if bias is None else bias
    ends = weight * code[0], weight * code[1]
    low, high = np.minimum(*ends).sum(axis=1), np.maximum(*ends).sum(axis=1)  # (oc, kh, kw)
    position_axes = ([1, 2], [0, 1])
    least: Int64 = np.tensordot(low, kinds, position_axes).min(axis=1) + offset
    greatest: Int64 = np.tensordot(high, kinds, position_axes).max(axis=1) + offset
    return least, greatest


def psum_bounds(weight: Int64, code: Range, row: int) -> tuple[int, int]:
    """The exact least and greatest psum of any tap and input-channel tile of `row` channels."""
    starts = np.arange(0, weight.shape[1], row)
    low = np.add.reduceat(np.minimum(weight * code[0], weight * code[1]), starts, axis=1)
    high = np.add.reduceat(np.maximum(weight * code[0], weight * code[1]), starts, axis=1)
    return int(low.min()), int(high.max())


class Convolution(Operation):
    """A convolution, or a linear layer as one of 1x1. `row`: the input-channel tile of psum; None means one tile."""

    offers = frozenset(Need)
    computed = ("input_padded", "patches", "accumulator")
    layer: Conv2d | Linear

    def __init__(self, capture: Capture, row: int | None, steps: Sequence[Step] | None = None):
        super().__init__(capture, row, steps)
        self.plane, self.weight = capture.plane, capture.weight
        self.row = self.layer.group_inputs if row is None else row
        self.zero = self.formats.input.zero_points[0]
        self.weight_zeros = np.broadcast_to(np.array(self.formats.weight.zero_points, np.int64), len(self.weight))
        self.taps = self.formats.weight.integers(self.weight)  # what psums multiply
        self.centred = self.taps - self.weight_zeros[:, np.newaxis, np.newaxis, np.newaxis]

    @cached_property
    def addresses(self) -> Int64:
        return acc_addresses(self.layer, self.plane)

    @cached_property
    def channel_bounds(self) -> tuple[Ints, Ints]:
        low, high = self.formats.input.ends
        ends = low - self.zero, high - self.zero
        return accumulator_bounds(self.centred, self.added, ends, self.layer, self.plane)

    @cached_property
    def psum_bounds(self) -> Range:
        """The exact least and greatest psum."""
        return psum_bounds(self.taps, self.formats.input.ends, self.row)

    def met(self, golden: Values) -> Int64:
        """What the patches stand for."""
        return self.formats.input.integers(golden.values("patches")) - self.zero

    def sums(self, golden: Values) -> Int64:
        return accumulate(self.centred, self.met(golden), self.added, self.layer.groups, self.reach)

    def psums(self, golden: Values) -> Int64:
        seen = self.formats.input.integers(golden.values("input_padded"))
        return psums(self.taps, seen, self.layer.groups, self.row, self.reach)

    @property
    def padded_plane(self) -> tuple[int, int]:
        return self.layer.padded_plane(self.plane)

    @cached_property
    def bias_folded(self) -> Int64:
        """What an array adds that multiplies raw codes, where weights have no zero point."""
        bias = np.zeros(len(self.weight), np.int64) if self.bias is None else self.bias
        folded: Int64 = bias - self.zero * self.taps.sum(axis=(1, 2, 3))
        return folded

    @property
    def folded(self) -> Int64 | None:
        """What of `bias_folded` is not the bias; None where inputs have no zero point."""
        if self.zero == 0:
            return None
        return self.bias_folded if self.bias is None else self.bias_folded - self.bias


def _code_range(op: Convolution) -> Range:
    return op.formats.input.codes


def _zero(op: Convolution) -> int:
    return op.zero


def _bias(op: Convolution) -> Int64:
    assert op.bias is not None
    return op.bias


Convolution.table = {
    "weight": Record(
        ("oc", "ic", "kh", "kw"), Role.OPERAND, operand="weight",
        shape=lambda op, n: op.weight.shape,
        format=lambda op: op.formats.weight.integer,
        values=lambda op, golden: op.weight,
    ),
    "bias": Record(
        ("oc",), Role.OPERAND, operand="bias",
        shape=lambda op, n: (op.layer.out_channels,),
        format=lambda op: wide((int(_bias(op).min()), int(_bias(op).max())), BIAS_BITS),
        values=lambda op, golden: _bias(op),
        lacking=lambda op: "its capture holds no bias" if op.bias is None else None,
    ),
    "bias_folded": Record(
        ("oc",), Role.OPERAND, operand="bias",
        shape=lambda op, n: (op.layer.out_channels,),
        format=lambda op: wide((int(op.bias_folded.min()), int(op.bias_folded.max())), BIAS_BITS),
        values=lambda op, golden: op.bias_folded,
        lacking=lambda op: "its weights have a zero point" if op.weight_zeros.any() else None,
    ),
    "input": operand_record("input", ("n", "ic", "iy", "ix")),
    "input_padded": Record(
        ("n", "ic", "py", "px"), Role.OPERAND, operand="input", kept=True,
        shape=lambda op, n: (n, op.layer.in_channels, *op.padded_plane),
        format=lambda op: op.formats.input.integer,
        range=_code_range,
        fill=_zero,
        values=lambda op, golden: pad(golden.input, op.layer, op.zero),
    ),
    "patches": Record(
        ("n", "ic", "kh", "kw", "oy", "ox"), Role.OPERAND, operand="input",
        shape=lambda op, n: (n, op.layer.in_channels, *op.layer.kernel, *op.layer.output_plane(op.plane)),
        format=lambda op: op.formats.input.integer,
        range=_code_range,
        fill=_zero,
        values=lambda op, golden: patches(golden.values("input_padded"), op.layer, op.plane),
    ),
    "psum": Record(
        ("n", "it", "kh", "kw", "oc", "py", "px"), Role.RESULT,
        shape=lambda op, n: (
            n, math.ceil(op.layer.group_inputs / op.row), *op.layer.kernel, op.layer.out_channels, *op.padded_plane
        ),
        format=lambda op: wide(op.psum_bounds),
        range=lambda op: op.psum_bounds,
        values=lambda op, golden: op.psums(golden),
    ),
    "acc_address": Record(
        ("oy", "ox", "kh", "kw"), Role.ASIDE,
        shape=lambda op, n: (*op.layer.output_plane(op.plane), *op.layer.kernel),
        format=lambda op: IntFormat.holding(0, int(op.addresses.max()), False),
        values=lambda op, golden: op.addresses,
    ),
} | result_records(Conv2d.results)  # fmt: skip
