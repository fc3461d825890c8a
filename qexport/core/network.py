"""A whole network in integers: what its layers compute and read, checked from its inputs to its outputs.

A record of it is made by a frontend, or read from a file (network_file.py); core/network_run.py computes it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from qexport.core.budget import LAYERS, NETWORK_CHANNELS, NETWORK_CODES, NETWORK_ELEMENTS, SIZE, VIEWS
from qexport.core.capture import LayerCapture, Source, tensor_shapes
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import AnyLayer, ConvGeometry, Positive, Shape, shape_text
from qexport.core.intformat import Int64
from qexport.core.operations.base import Operation
from qexport.core.operations.registry import operation
from qexport.core.steps import Chain, Step
from qexport.core.tensors import Range
from qexport.errors import QexportError, few, meant

Codes = NDArray[Any]  # integers of any type
Name = Annotated[str, Meta(min_length=1, max_length=100)]
PIXELS = 256


class NetworkInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Codes that enter the network. `shape`: of one picture's; `lookup`: the code of each 8-bit pixel, by channel."""

    name: Name
    shape: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=8)]
    format: CodeFormat
    lookup: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.format.scale, tuple) or isinstance(self.format.zero_point, tuple):
            raise QexportError(f"input {self.name}: scale and zero_point are one number each; correct its format")
        if self.lookup is None:
            return
        if len(self.lookup) != self.shape[0] or any(len(table) != PIXELS for table in self.lookup):
            raise QexportError(
                f"input {self.name}: lookup needs {PIXELS} codes for each of its {self.shape[0]} channels"
            )
        codes = np.array(self.lookup, object)
        if len(bad := np.setdiff1d(codes, self.format.valid.astype(object))):
            raise QexportError(f"input {self.name}: lookup holds {bad[0]}, which is not a code of its format")

    def codes(self, pixels: Codes) -> Int64:
        """The codes of 8-bit pixels (n, channel, ...)."""
        assert self.lookup is not None
        tables = np.array(self.lookup, np.int64)
        return tables[np.arange(self.shape[0]).reshape(-1, *(1,) * (pixels.ndim - 2)), pixels]

    def rounded(self, real: NDArray[np.float32]) -> Int64:
        """The codes of real numbers, by a quantizer in float32."""
        low, high = self.format.integer.low, self.format.integer.high
        codes = np.rint(real / np.float32(self.format.scales[0])) + self.format.zero_points[0]
        whole: Int64 = np.clip(codes, low, high).astype(np.int64)
        return whole


class NetworkOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network gives: the codes of a layer, of which real = (code - zero_point) x scale."""

    name: Name
    from_: Name = msgspec.field(name="from")
    scale: float
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise QexportError(f"output {self.name}: scale {self.scale} must be finite and above 0")


@dataclass(frozen=True)
class View:
    """numpy's reshape (0 keeps a size) or permute, in C order, of codes whose first axis are the images."""

    op: str
    numbers: tuple[int, ...]

    @classmethod
    def read(cls, document: Any) -> "View":
        """["reshape", 0, -1, 1, 1] or ["permute", 0, 2, 1]."""
        known = isinstance(document, list) and document[:1] in (["reshape"], ["permute"])
        if not known or len(document) < 2 or not all(type(number) is int for number in document[1:]):
            raise QexportError(f"view {document!s:.60} is none; write [reshape, sizes] or [permute, axes]")
        return cls(document[0], tuple(document[1:]))

    @property
    def document(self) -> list[Any]:
        return [self.op, *self.numbers]

    def shape(self, before: Shape) -> Shape:
        """What becomes of the shape of one picture's codes; raises QexportError where pictures would mix."""
        if self.op == "permute":
            if self.numbers[0] != 0 or sorted(self.numbers) != list(range(len(before))):
                raise self._error(before, "name each axis once, that of the images first")
            return tuple(before[axis] for axis in self.numbers)
        if len(self.numbers) > 8 or self.numbers[0] not in (0, -1) or self.numbers.count(-1) > 1:
            raise self._error(before, "give at most 8 sizes, 0 or -1 as the first, and one -1 at most")
        if any(not -1 <= size <= SIZE or (size == 0 and at >= len(before)) for at, size in enumerate(self.numbers)):
            raise self._error(before, f"sizes are -1, 0 (where there is an axis) or 1..{SIZE}")
        sizes = [before[at] if size == 0 else size for at, size in enumerate(self.numbers)]
        known, there = math.prod(size for size in sizes if size > 0), math.prod(before)
        after = tuple(there // known if size == -1 else size for size in sizes)
        if math.prod(after) != there:
            raise self._error(before, "both must have as many elements")
        return after

    def apply(self, codes: Codes, after: Shape) -> Codes:
        """The codes of some pictures in their new shape; `after`: what `shape` gives for one picture."""
        if self.op == "permute":
            return codes.transpose(self.numbers)
        return codes.reshape(-1, *after[1:])

    def _error(self, before: Shape, remedy: str) -> QexportError:
        return QexportError(f"view {self.document} does not fit {shape_text(before)}; {remedy}")


@dataclass(frozen=True, eq=False)
class NetworkLayer:
    """A layer: its operation, the steps behind it, and for each operand of codes the layers (or inputs) whose output
    it takes, joined along axis 1, then seen through `view`. Arrays are integers of any type."""

    layer: AnyLayer
    formats: Formats
    steps: tuple[Step, ...]
    operands: Mapping[str, tuple[str, ...]]
    view: Mapping[str, tuple[View, ...]] = field(default_factory=dict)
    weight: Codes | None = None
    bias: Codes | None = None

    @property
    def name(self) -> str:
        return self.layer.name

    def capture(self, operands: Mapping[str, Codes], source: Source | None = None) -> LayerCapture:
        """The layer with the codes of its operands."""
        held: dict[str, Any] = {"layer": self.layer, "weight": self.weight, "bias": self.bias, **operands}
        return LayerCapture(formats=self.formats, **held, steps=self.steps, source=source or Source())


@dataclass(frozen=True, eq=False)
class Placed:
    """A layer in its place. Shapes are those of one picture's codes, of which a view may make several images.

    `joined`: of each operand before its views; `bounds`: of the accumulators.
    """

    node: NetworkLayer
    joined: Mapping[str, Shape]
    operands: Mapping[str, Shape]
    accumulator: Shape
    output: Shape
    chain: Chain
    bounds: Range

    def operand(self, name: str, outputs: Sequence[Codes]) -> Codes:
        """The codes of an operand, from the outputs (inputs) that it takes."""
        codes = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)
        shape = self.joined[name]
        for view in self.node.view.get(name, ()):
            shape = view.shape(shape)
            codes = view.apply(codes, shape)
        return codes


def _blank(node: NetworkLayer, shapes: Mapping[str, Shape]) -> Operation:
    zeros = {
        name: np.full(shape, fmt.zero_points[0] if fmt.table is None else fmt.valid[0])
        for name, shape in shapes.items()
        for fmt in (node.formats.operands[name],)
    }
    return operation(node.capture(zeros), None)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Layers in the order of computation. Raises QexportError where names, formats, shapes or ranges contradict."""

    inputs: tuple[NetworkInput, ...]
    layers: tuple[NetworkLayer, ...]
    outputs: tuple[NetworkOutput, ...]
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        for what, held in (("inputs", self.inputs), ("layers", self.layers), ("outputs", self.outputs)):
            if not 1 <= len(held) <= LAYERS:
                raise QexportError(f"network: it has {len(held):,} {what}; needs 1..{LAYERS:,}")
        names = [*(one.name for one in self.inputs), *(node.name for node in self.layers)]
        for given in (names, [output.name for output in self.outputs]):
            if twice := [name for name, count in Counter(given).items() if count > 1]:
                raise QexportError(f"network: two of its parts are named '{twice[0]}'; names are unique, rename one")
        _ = self.placed
        for output in self.outputs:
            self._check_output(output)

    @cached_property
    def placed(self) -> dict[str, Placed]:
        """The layers in their places, by name."""
        return _Placing(self).placed

    def choose(self, wanted: str) -> Placed:
        """The layer of that name or index."""
        for node in self.layers:
            if wanted in (node.name, str(node.layer.index)):
                return self.placed[node.name]
        raise QexportError(
            f"layer: '{wanted}' is not in this network{meant(wanted, self.placed) or '; see qexport layers --network'}"
        )

    def _check_output(self, output: NetworkOutput) -> None:
        if output.from_ not in self.placed:
            raise QexportError(
                f"output {output.name}: it comes from '{output.from_}', which is not a layer"
                f"{meant(output.from_, self.placed)}; correct its from"
            )
        node = self.placed[output.from_].node
        grid: tuple[Any, ...] | None = None
        if (fmt := node.formats.output) is not None:
            grid = fmt.scales[0], fmt.zero_points[0]
        elif not node.steps:
            scales = set(node.formats.accumulator_scales)
            if len(scales) > 1:
                raise QexportError(
                    f"output {output.name}: the channels of {output.from_} have {len(scales)} scales; bring them onto "
                    "one grid by steps"
                )
            grid = scales.pop(), 0
        if grid and not (math.isclose(output.scale, grid[0], rel_tol=1e-9) and output.zero_point == grid[1]):
            raise QexportError(
                f"output {output.name}: scale {output.scale:g} and zero_point {output.zero_point} are not those of "
                f"{output.from_}, {grid[0]:g} and {grid[1]}; correct one of them"
            )


class _Placing:
    """Puts one layer after the other in its place: first all shapes, within the budget, then what is computed."""

    def __init__(self, network: IntegerNetwork):
        self._formats: dict[str, CodeFormat | None] = {one.name: one.format for one in network.inputs}
        self._shapes: dict[str, Shape] = {one.name: (1, *one.shape) for one in network.inputs}
        self._later = {node.name for node in network.layers}
        self._elements = self._channels = 0
        found = {}
        for node in network.layers:
            with _naming(node):
                found[node.name] = joined, operands, shapes = self._shaped(node)
            self._formats[node.name], self._shapes[node.name] = node.formats.output, shapes["reference_codes"]
        self.placed: dict[str, Placed] = {}
        for node in network.layers:
            joined, operands, shapes = found[node.name]
            with _naming(node):
                facts = _blank(node, operands)
                chain = facts.chain
                assert chain is not None  # because steps are given
                self.placed[node.name] = Placed(
                    node, joined, operands, shapes["accumulator"], shapes["reference_codes"], chain, facts.bounds
                )

    def _shaped(self, node: NetworkLayer) -> tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]:
        """The shapes of a layer's operands, before and behind their views, and of its tensors."""
        codes = [name for name, held in node.layer.holds.items() if held.codes and node.layer.needs(name)]
        wanted = [name for name in codes if name != "weight"]
        if sorted(node.operands) != sorted(wanted):
            raise QexportError(
                f"operands are {few(sorted(node.operands))}; this {node.layer.kind} layer takes {' and '.join(wanted)}"
            )
        if list(node.formats.operands) != codes:
            raise QexportError(f"formats has {few(node.formats.operands)}; needs {' and '.join(codes)}")
        if stray := sorted(set(node.view) - set(node.operands)):
            raise QexportError(f"view has {stray[0]}, which is not an operand; take it out")
        joined = {name: self._joined(node, name) for name in wanted}
        operands = {name: _seen(node.view.get(name, ()), shape) for name, shape in joined.items()}
        shapes = tensor_shapes(node.layer, operands, node.steps)  # type: ignore[arg-type]  # of every kind
        self._count(node, shapes)
        return joined, operands, shapes

    def _joined(self, node: NetworkLayer, name: str) -> Shape:
        """The shape of what an operand takes, joined along axis 1."""
        sources, fmt = node.operands[name], node.formats.operands[name]
        if not sources:
            raise QexportError(f"operand {name} names no layer; name at least one")
        for source in sources:
            self._check_source(node, name, source, fmt)
        first, *others = (self._shapes[source] for source in sources)
        if not others:
            return first
        for source, shape in zip(sources[1:], others, strict=True):
            if len(first) < 2 or shape[:1] + shape[2:] != first[:1] + first[2:]:
                raise QexportError(
                    f"operand {name} joins {shape_text(first)} of {sources[0]} and {shape_text(shape)} of {source} "
                    "along axis 1; all other sizes must agree"
                )
        return first[0], sum(shape[1] for shape in (first, *others)), *first[2:]

    def _check_source(self, node: NetworkLayer, name: str, source: str, fmt: CodeFormat) -> None:
        if source not in self._shapes:
            if source in self._later:
                what = "itself" if source == node.name else f"'{source}', which stands behind it"
                raise QexportError(f"operand {name} reads {what}; order the layers, or cut the cycle")
            raise QexportError(
                f"operand {name} reads '{source}', which is neither an input nor a layer{meant(source, self._shapes)}"
            )
        given = self._formats[source]
        if given is None:
            raise QexportError(
                f"operand {name} reads {source}, which has no formats.output: what its codes stand for is not known; "
                "give it steps and formats.output"
            )
        if given != fmt:
            raise QexportError(
                f"formats.{name} is {_format_text(fmt)}, but the codes of {source} are {_format_text(given)}; both "
                "sides must agree, put a sum that rescales between"
            )

    def _count(self, node: NetworkLayer, shapes: Mapping[str, Shape]) -> None:
        """Raises QexportError where all layers so far ask for more than the budget, before anything is computed."""
        layer = node.layer
        if (codes := max(math.prod(shapes[name]) for name in node.operands)) > NETWORK_CODES:
            raise QexportError(
                f"an operand has {codes:,} codes of one picture, more than {NETWORK_CODES:,}; take smaller planes"
            )
        taps = layer.kernel[0] * layer.kernel[1] if isinstance(layer, ConvGeometry) else 1
        plane = math.prod(shapes["accumulator"][-2:])
        seen = taps * layer.in_channels * plane if isinstance(layer, ConvGeometry) else math.prod(shapes["input"])
        self._elements += shapes["input"][0] * seen + math.prod(shapes["accumulator"]) + math.prod(shapes["input"])
        if self._elements > NETWORK_ELEMENTS:
            raise QexportError(
                f"with it the layers look at {self._elements:,} elements for one picture, more than "
                f"{NETWORK_ELEMENTS:,}; take smaller planes"
            )
        channels = shapes["accumulator"][layer.results.index(layer.channel)]
        self._channels += channels * (1 + len(node.steps))
        if self._channels > NETWORK_CHANNELS:
            raise QexportError(
                f"with it the steps have {self._channels:,} channels, more than {NETWORK_CHANNELS:,}; cut the network"
            )


@contextmanager
def _naming(node: NetworkLayer) -> Iterator[None]:
    """An error names the layer."""
    try:
        yield
    except QexportError as error:
        text = str(error).removeprefix("capture: ").removeprefix(f"layer {node.name}: ")
        raise QexportError(f"network: layer {node.name}: {text}") from None


def _seen(views: Sequence[View], shape: Shape) -> Shape:
    if len(views) > VIEWS:
        raise QexportError(f"{len(views)} views stand between two layers, more than {VIEWS}; merge some of them")
    for view in views:
        shape = view.shape(shape)
    return shape


def _format_text(fmt: CodeFormat) -> str:
    levels = "" if fmt.table is None else ", levels" if fmt.code is None else f", {fmt.code}"
    return f"{fmt.integer}, scale {fmt.scales[0]!r}, zero point {fmt.zero_points[0]}{levels}"
