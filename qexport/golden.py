"""The exact integer golden: int64 numpy, no floating point, no code shared with the network side."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qexport.errors import CheckFailed, QexportError
from qexport.intformat import Int64, IntFormat
from qexport.layer import AXES, ConvGeometry, LayerCapture

SUM_BITS = 16  # default width of psum, accumulator and relu in a word
BIAS_BITS = 32
MEAN_BAR = 1e-3


@dataclass(frozen=True)
class NamedTensor:
    """One tensor of the contract: its codes, the format of its elements and the proven range of any such tensor."""

    values: Int64
    default: IntFormat
    bounds: tuple[int, int]


def pad(codes: Int64, layer: ConvGeometry) -> Int64:
    """(n, ic, iy, ix) to the zero-padded (n, ic, py, px)."""
    top, bottom, left, right = layer.padding
    return np.pad(codes, ((0, 0), (0, 0), (top, bottom), (left, right)))


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


def accumulate(weight: Int64, im2col: Int64, bias: Int64 | None, layer: ConvGeometry) -> Int64:
    """The integer convolution plus bias, (n, oc, oy, ox), from patches (n, ic, kh, kw, oy, ox)."""
    n, _, _, _, rows, cols = im2col.shape
    groups, per_group = layer.groups, layer.out_channels // layer.groups
    taps = weight.reshape(groups, per_group, -1)  # (g, oc of g, ic of g * kh * kw)
    seen = im2col.reshape(n, groups, -1, rows * cols)  # (n, g, ic of g * kh * kw, oy * ox)
    out: Int64 = np.matmul(taps[np.newaxis], seen).reshape(n, layer.out_channels, rows, cols)
    return out if bias is None else out + bias[:, np.newaxis, np.newaxis]


def psums(weight: Int64, padded: Int64, layer: ConvGeometry, row: int) -> Int64:
    """What each input-channel tile of `row` channels and each tap adds at every padded position.

    Returns (n, it, kh, kw, oc, py, px); weight-stationary, whatever the stride.
    """
    n, _, rows, cols = padded.shape
    groups, per_group, inputs = layer.groups, layer.out_channels // layer.groups, layer.group_inputs
    tiles = math.ceil(inputs / row)
    streams = padded.reshape(n, groups, inputs, rows * cols)
    taps = weight.reshape(groups, per_group, inputs, *layer.kernel)
    out = np.empty((n, tiles, *layer.kernel, layer.out_channels, rows, cols), np.int64)
    for it in range(tiles):
        tile = slice(it * row, (it + 1) * row)
        for kh in range(layer.kernel[0]):
            for kw in range(layer.kernel[1]):
                product = np.matmul(taps[np.newaxis, :, :, tile, kh, kw], streams[:, :, tile])
                out[:, it, kh, kw] = product.reshape(n, layer.out_channels, rows, cols)
    return out


def acc_addresses(layer: ConvGeometry, plane: tuple[int, int]) -> Int64:
    """Where the psum of each tap lies that belongs to an output, (oy, ox, kh, kw)."""
    padded_rows, padded_cols = layer.padded_plane(plane)
    rows, cols = layer.output_plane(plane)
    oy, ox, kh, kw = np.ogrid[:rows, :cols, : layer.kernel[0], : layer.kernel[1]]
    (sy, sx), (dy, dx) = layer.stride, layer.dilation
    address: Int64 = (
        (kh * layer.kernel[1] + kw) * padded_rows * padded_cols
        + (oy * sy + kh * dy) * padded_cols
        + (ox * sx + kw * dx)
    )
    return address


def accumulator_bounds(
    weight: Int64, bias: Int64 | None, code: IntFormat, layer: ConvGeometry, plane: tuple[int, int]
) -> tuple[int, int]:
    """The exact least and greatest accumulator that these weights can give for inputs of this plane.

    A tap that meets padding adds nothing, so each output position counts only the taps that lie inside.
    """
    inside = patches(pad(np.ones((1, 1, *plane), np.int64), layer), layer, plane)[0, 0]  # (kh, kw, oy, ox)
    offset = 0 if bias is None else bias
    low = np.minimum(weight * code.low, weight * code.high).sum(axis=1)  # (oc, kh, kw)
    high = np.maximum(weight * code.low, weight * code.high).sum(axis=1)
    position_axes = ([1, 2], [0, 1])
    least = np.tensordot(low, inside, position_axes).min(axis=(1, 2)) + offset
    greatest = np.tensordot(high, inside, position_axes).max(axis=(1, 2)) + offset
    return int(least.min()), int(greatest.max())


def psum_bounds(weight: Int64, code: IntFormat, row: int) -> tuple[int, int]:
    """The exact least and greatest psum of any tap and input-channel tile of `row` channels."""
    starts = np.arange(0, weight.shape[1], row)
    low = np.add.reduceat(np.minimum(weight * code.low, weight * code.high), starts, axis=1)
    high = np.add.reduceat(np.maximum(weight * code.low, weight * code.high), starts, axis=1)
    return int(low.min()), int(high.max())


class Golden:
    """All named tensors of one capture, computed when first asked for.

    `row` is the array's input-channel tile for psum; None means one tile.
    """

    def __init__(self, capture: LayerCapture, row: int | None = None):
        self.capture = capture
        self.row = capture.layer.group_inputs if row is None else row
        self.plane: tuple[int, int] = (capture.input.shape[2], capture.input.shape[3])

    @cached_property
    def accumulator(self) -> Int64:
        c = self.capture
        return accumulate(c.weight, patches(pad(c.input, c.layer), c.layer, self.plane), c.bias, c.layer)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        c = self.capture
        return accumulator_bounds(c.weight, c.bias, c.formats.input.integer, c.layer, self.plane)

    def has(self, name: str) -> bool:
        """Whether this layer has the named tensor."""
        return name in self._makers and not (name == "bias" and self.capture.bias is None)

    def tensor(self, name: str) -> NamedTensor:
        """The named tensor; raises QexportError when the layer does not have it."""
        if not self.has(name):
            raise QexportError(
                f"tensor '{name}': layer {self.capture.layer.name} does not have it; "
                "mark the memory optional = true or take it out of the layout"
            )
        return self._makers[name](self)

    def _weight(self) -> NamedTensor:
        values = self.capture.weight
        return NamedTensor(values, self.capture.formats.weight.integer, _range(values))

    def _bias(self) -> NamedTensor:
        assert self.capture.bias is not None
        return NamedTensor(self.capture.bias, IntFormat(BIAS_BITS, True), _range(self.capture.bias))

    def _of_input(self, values: Int64) -> NamedTensor:
        code = self.capture.formats.input.integer
        return NamedTensor(values, code, (code.low, code.high))

    def _input(self) -> NamedTensor:
        return self._of_input(self.capture.input)

    def _input_padded(self) -> NamedTensor:
        return self._of_input(pad(self.capture.input, self.capture.layer))

    def _patches(self) -> NamedTensor:
        c = self.capture
        return self._of_input(patches(pad(c.input, c.layer), c.layer, self.plane))

    def _psum(self) -> NamedTensor:
        c = self.capture
        values = psums(c.weight, pad(c.input, c.layer), c.layer, self.row)
        return NamedTensor(values, IntFormat(SUM_BITS, True), psum_bounds(c.weight, c.formats.input.integer, self.row))

    def _acc_address(self) -> NamedTensor:
        values = acc_addresses(self.capture.layer, self.plane)
        return NamedTensor(values, IntFormat.holding(0, int(values.max()), False), _range(values))

    def _accumulator(self) -> NamedTensor:
        return NamedTensor(self.accumulator, IntFormat(SUM_BITS, True), self.bounds)

    def _relu(self) -> NamedTensor:
        low, high = self.bounds
        return NamedTensor(np.maximum(self.accumulator, 0), IntFormat(SUM_BITS, True), (max(low, 0), max(high, 0)))

    _makers: Mapping[str, Callable[["Golden"], NamedTensor]] = {
        "weight": _weight,
        "bias": _bias,
        "input": _input,
        "input_padded": _input_padded,
        "patches": _patches,
        "psum": _psum,
        "acc_address": _acc_address,
        "accumulator": _accumulator,
        "relu": _relu,
    }
    assert set(_makers) <= set(AXES)


@dataclass(frozen=True)
class ReferenceCheck:
    """How far accumulator x scale lies from PyTorch's own output; None where the capture holds no reference."""

    mean_abs: float | None
    max_abs: float | None
    tolerance: float


def check_reference(golden: Golden) -> ReferenceCheck:
    """Compare with what the capture holds of PyTorch's forward pass.

    Raises CheckFailed when the mean difference reaches 1e-3 or the largest half of input scale x weight scale.
    """
    c = golden.capture
    scale = c.formats.input.scale * c.formats.weight.scale
    tolerance = scale / 2
    real = golden.accumulator.astype(np.float64) * scale
    mean_of_reference: float | None = None
    max_of_reference: float | None = None
    for name, expected, actual in (
        ("reference", c.reference, real),
        ("next_input", c.next_input, np.maximum(real, 0.0)),
    ):
        if expected is None:
            continue
        difference = np.abs(actual - expected.astype(np.float64)).ravel()
        # fsum rounds once, so that the manifest's bytes do not depend on the machine's vector units
        mean, largest = math.fsum(difference.tolist()) / difference.size, float(difference.max())
        if mean >= MEAN_BAR or largest >= tolerance:
            raise CheckFailed(
                f"golden: layer {c.layer.name}: accumulator x scale differs from {name} by {mean:.3g} in the mean "
                f"(must be below {MEAN_BAR:g}) and {largest:.3g} at most (must be below {tolerance:.3g}); "
                "the capture contradicts itself: check scales, padding and the units of the bias"
            )
        if name == "reference":
            mean_of_reference, max_of_reference = mean, largest
    return ReferenceCheck(mean_of_reference, max_of_reference, tolerance)


def _range(values: Int64) -> tuple[int, int]:
    return int(values.min()), int(values.max())
