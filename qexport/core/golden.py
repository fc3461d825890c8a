"""The exact integer golden: int64 numpy, no floating point, no code shared with the network side."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property

import numpy as np

from qexport.core.capture import Capture, LayerCapture
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import (
    acc_addresses,
    accumulate,
    accumulator_bounds,
    pad,
    patches,
    psum_bounds,
    psums,
)
from qexport.core.requant import Requantizer, find_requantizer
from qexport.core.tensors import AXES
from qexport.errors import QexportError

SUM_BITS = 16  # default width of psum, accumulator and relu in a word
BIAS_BITS = 32
PART_ELEMENTS = 1 << 21  # of the largest tensor of a part of the images, at most


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


def parts(tensors: Collection[str], facts: Facts, images: int) -> Iterator[tuple[int, int]]:
    """Spans of images of which each named tensor, and `patches`, is small enough to be held."""
    largest = max(math.prod(facts.shape(tensor, 1)) for tensor in {"patches", *tensors})
    step = max(1, PART_ELEMENTS // largest)
    for start in range(0, images, step):
        yield start, min(start + step, images)
