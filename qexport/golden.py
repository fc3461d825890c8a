"""The exact integer golden: int64 numpy, no floating point, no code shared with the network side."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.errors import CheckFailed, QexportError
from qexport.intformat import Int64, IntFormat
from qexport.layer import AXES, REAL, Capture, ConvGeometry, LayerCapture
from qexport.requant import Requantizer, find_requantizer

SUM_BITS = 16  # default width of psum, accumulator and relu in a word
BIAS_BITS = 32
MEAN_BAR = 1e-3


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


def accumulate(weight: Int64, im2col: Int64, bias: Int64 | None, layer: ConvGeometry, reach: int) -> Int64:
    """The integer convolution plus bias, (n, oc, oy, ox), from patches (n, ic, kh, kw, oy, ox).

    No sum of products is larger in size than `reach`.
    """
    n, _, _, _, rows, cols = im2col.shape
    groups, per_group = layer.groups, layer.out_channels // layer.groups
    dtype = _narrow(reach)
    taps = weight.reshape(groups, per_group, -1).astype(dtype)  # (g, oc of g, ic of g * kh * kw)
    seen = im2col.reshape(n, groups, -1, rows * cols).transpose(1, 0, 3, 2).astype(dtype)  # (g, n, oy * ox, taps)
    sums = np.einsum("gok,gnpk->ngop", taps, np.ascontiguousarray(seen))  # integers: einsum is faster than matmul
    out: Int64 = sums.reshape(n, layer.out_channels, rows, cols).astype(np.int64)
    return out if bias is None else out + bias[:, np.newaxis, np.newaxis]


def psums(weight: Int64, padded: Int64, layer: ConvGeometry, row: int, reach: int) -> Int64:
    """What each input-channel tile of `row` channels and each tap adds at every padded position.

    Returns (n, it, kh, kw, oc, py, px); weight-stationary, whatever the stride. `reach` as in `accumulate`.
    """
    n, _, rows, cols = padded.shape
    groups, per_group, inputs = layer.groups, layer.out_channels // layer.groups, layer.group_inputs
    tiles = math.ceil(inputs / row)
    dtype = _narrow(reach)
    streams = padded.reshape(n, groups, inputs, rows * cols).astype(dtype)
    taps = weight.reshape(groups, per_group, inputs, *layer.kernel).astype(dtype)
    out = np.empty((n, tiles, *layer.kernel, layer.out_channels, rows, cols), np.int64)
    for it in range(tiles):
        tile = slice(it * row, (it + 1) * row)
        for kh in range(layer.kernel[0]):
            for kw in range(layer.kernel[1]):
                product = np.matmul(taps[np.newaxis, :, :, tile, kh, kw], streams[:, :, tile])
                out[:, it, kh, kw] = product.reshape(n, layer.out_channels, rows, cols)
    return out


def _narrow(reach: int) -> type[np.signedinteger[Any]]:
    """The narrowest of int32 and int64 in which nothing up to `reach` wraps."""
    return np.int32 if reach < 2**31 else np.int64


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


class Facts:
    """What holds for every image of a layer: shapes, formats and proven bounds of its tensors.

    `row` is the array's input-channel tile for psum; None means one tile.
    """

    def __init__(self, capture: Capture, row: int | None):
        self.layer, self.formats, self.plane = capture.layer, capture.formats, capture.plane
        self.weight, self.bias = capture.weight, capture.bias
        self.row = self.layer.group_inputs if row is None else row
        formats = (self.formats.weight.integer, self.formats.input.integer)
        self.reach = self.weight[0].size * math.prod(max(-fmt.low, fmt.high) for fmt in formats)

    def has(self, name: str) -> bool:
        """Whether this layer has the named tensor."""
        return not (name == "bias" and self.bias is None) and not (name == "output" and self.requantizer is None)

    def lacks(self, name: str) -> QexportError:
        """The error for a tensor that the layer does not have."""
        why = f" ({self.no_output})" if name == "output" else ""
        return QexportError(
            f"tensor '{name}': layer {self.layer.name} does not have it{why}; "
            "mark the memory optional = true or take it out of the layout"
        )

    def shape(self, name: str, images: int) -> tuple[int, ...]:
        """The shape of the named tensor, axes as in the contract."""
        layer = self.layer
        padded, out = layer.padded_plane(self.plane), layer.output_plane(self.plane)
        results = (images, layer.out_channels, *out)
        shapes = {
            "weight": self.weight.shape,
            "bias": (layer.out_channels,),
            "input": (images, layer.in_channels, *self.plane),
            "input_padded": (images, layer.in_channels, *padded),
            "patches": (images, layer.in_channels, *layer.kernel, *out),
            "psum": (images, math.ceil(layer.group_inputs / self.row), *layer.kernel, layer.out_channels, *padded),
            "acc_address": (*out, *layer.kernel),
        }
        return shapes.get(name, results)

    def default(self, name: str) -> IntFormat:
        """The format of the named tensor's elements where a layout gives none."""
        if name == "weight":
            return self.formats.weight.integer
        if name in ("input", "input_padded", "patches"):
            return self.formats.input.integer
        if name == "output":
            assert self.formats.output is not None
            return self.formats.output.integer
        if name == "acc_address":
            return IntFormat.holding(0, int(self.addresses.max()), False)
        return IntFormat(BIAS_BITS if name == "bias" else SUM_BITS, True)

    @cached_property
    def addresses(self) -> Int64:
        return acc_addresses(self.layer, self.plane)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The exact least and greatest accumulator."""
        return accumulator_bounds(self.weight, self.bias, self.formats.input.integer, self.layer, self.plane)

    @cached_property
    def psum_bounds(self) -> tuple[int, int]:
        return psum_bounds(self.weight, self.formats.input.integer, self.row)

    def range_of(self, name: str) -> tuple[int, int] | None:
        """The least and greatest value that the named tensor can have for any input; None: those that it has."""
        if name in ("input", "input_padded", "patches", "output"):
            fmt = self.default(name)
            return fmt.low, fmt.high
        if name == "psum":
            return self.psum_bounds
        if name == "accumulator":
            return self.bounds
        if name == "relu":
            return max(self.bounds[0], 0), max(self.bounds[1], 0)
        return None

    @cached_property
    def requantizer(self) -> Requantizer | None:
        """From accumulators to the codes that the next quantized layer receives; None where there is none."""
        if self.no_output is not None:
            return None
        return self._found_requantizer

    @cached_property
    def _found_requantizer(self) -> Requantizer | None:
        output = self.formats.output
        assert output is not None
        return find_requantizer(self.formats.steps[0], output.scales[0], output.integer, max(self.bounds[1], 0))

    @cached_property
    def no_output(self) -> str | None:
        """Why the layer has no tensor `output`; None when it has."""
        if self.formats.output is None or not self.layer.relu:
            return "it needs a ReLU right behind the layer and the next quantized layer's format, formats.output"
        if len(set(self.formats.steps)) > 1:
            return "its weights have a scale for each channel"
        if self._found_requantizer is None:
            return "no integers mul and shift round as the network does"
        return None


class Golden:
    """The named tensors of one capture, computed when asked for; `facts` are shared by the parts of a capture."""

    def __init__(self, capture: Capture, row: int | None = None, facts: Facts | None = None):
        self.capture = capture
        self.facts = Facts(capture, row) if facts is None else facts

    @cached_property
    def input(self) -> Int64:
        """The codes of all images; read from a capture file only here."""
        capture = self.capture
        return capture.input if isinstance(capture, LayerCapture) else capture.part(0, capture.images).input

    @cached_property
    def padded(self) -> Int64:
        return pad(self.input, self.capture.layer)

    @property
    def patches(self) -> Int64:
        return patches(self.padded, self.capture.layer, self.capture.plane)

    @cached_property
    def accumulator(self) -> Int64:
        c = self.capture
        return accumulate(c.weight, self.patches, c.bias, c.layer, self.facts.reach)

    def values(self, name: str) -> Int64:
        """The codes of the named tensor; raises QexportError when the layer does not have it."""
        c, facts = self.capture, self.facts
        if not facts.has(name):
            raise facts.lacks(name)
        makers: Mapping[str, Callable[[], Int64 | None]] = {
            "weight": lambda: c.weight,
            "bias": lambda: c.bias,
            "input": lambda: self.input,
            "input_padded": lambda: self.padded,
            "patches": lambda: self.patches,
            "psum": lambda: psums(c.weight, self.padded, c.layer, facts.row, facts.reach),
            "acc_address": lambda: facts.addresses,
            "accumulator": lambda: self.accumulator,
            "relu": lambda: np.maximum(self.accumulator, 0),
            "output": self._output,
        }
        assert set(makers) == set(AXES)
        values = makers[name]()
        assert values is not None
        return values

    def _output(self) -> Int64:
        assert self.facts.requantizer is not None
        return self.facts.requantizer.apply(np.maximum(self.accumulator, 0))


@dataclass(frozen=True)
class ReferenceCheck:
    """How far accumulator x scale lies from PyTorch's own output; None where the capture holds no reference."""

    mean_abs: float | None
    max_abs: float | None
    tolerance: float


class Scan:
    """What is learned while a capture goes by: the accumulators that were seen, and how far PyTorch's output lies off.

    Parts are added in order; the result does not depend on how the images were parted.
    """

    def __init__(self, facts: Facts):
        self._facts = facts
        self._seen: list[tuple[int, int]] = []
        self._differences = {name: _Differences(facts.formats.steps) for name in REAL}

    def add(self, part: Golden) -> None:
        """Take in the next images; they must stand in memory."""
        capture = part.capture
        assert isinstance(capture, LayerCapture)
        self._seen.append((int(part.accumulator.min()), int(part.accumulator.max())))
        steps = np.array(self._facts.formats.steps)[:, np.newaxis, np.newaxis]
        real = part.accumulator.astype(np.float64) * steps
        for name, expected, actual in (
            ("reference", capture.reference, real),
            ("next_input", capture.next_input, np.maximum(real, 0.0)),
        ):
            if expected is not None:
                self._differences[name].add(np.abs(actual - expected.astype(np.float64)))

    @property
    def observed(self) -> tuple[int, int]:
        """The least and greatest accumulator."""
        return min(low for low, _ in self._seen), max(high for _, high in self._seen)

    def check(self) -> ReferenceCheck:
        """The result against PyTorch's forward pass.

        Raises CheckFailed when the mean difference reaches 1e-3, the largest of a channel half of input scale x weight
        scale, or when every accumulator is 0.
        """
        layer = f"golden: layer {self._facts.layer.name}"
        if self.observed == (0, 0):
            raise CheckFailed(
                f"{layer}: every accumulator is 0, so the set would prove nothing; choose other inputs or another layer"
            )
        for name, differences in self._differences.items():
            if not differences.holds():
                raise CheckFailed(
                    f"{layer}: accumulator x scale differs from {name} by {differences.mean:.3g} in the mean (must be "
                    f"below {MEAN_BAR:g}) and {differences.max_abs:.3g} at most (must be below "
                    f"{differences.tolerance:.3g}); the capture contradicts itself: check scales, padding and the "
                    "units of the bias; next_input is real-valued, before the next quantizer"
                )
        reference = self._differences["reference"]
        if reference.count == 0:
            return ReferenceCheck(None, None, reference.tolerance)
        return ReferenceCheck(reference.mean, reference.max_abs, reference.tolerance)


class _Differences:
    """Mean and maximum of absolute differences (n, oc, oy, ox), the maximum for each scale."""

    def __init__(self, steps: tuple[float, ...]):
        self._tolerances = np.array(steps) / 2
        self._largest = np.zeros(len(steps))
        self._sums: list[float] = []  # of one image each
        self.count = 0

    def add(self, differences: NDArray[np.float64]) -> None:
        # fsum rounds once, so that the manifest's bytes do not depend on the machine's vector units
        self._sums += [math.fsum(image.ravel().tolist()) for image in differences]
        self.count += differences.size
        axes = (0, 2, 3) if len(self._largest) > 1 else None
        self._largest = np.maximum(self._largest, differences.max(axis=axes))

    @property
    def mean(self) -> float:
        return math.fsum(self._sums) / self.count

    @property
    def _worst(self) -> int:
        """The channel whose largest difference comes nearest to its tolerance; of several, that of the least one."""
        return int(np.lexsort((self._tolerances, -self._largest / self._tolerances))[0])

    @property
    def max_abs(self) -> float:
        return float(self._largest[self._worst])

    @property
    def tolerance(self) -> float:
        return float(self._tolerances[self._worst])

    def holds(self) -> bool:
        return self.count == 0 or (self.mean < MEAN_BAR and self.max_abs < self.tolerance)
