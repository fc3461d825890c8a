"""A network computed in exact integers, batch by batch: with the BLAS of floats where a bound proves it exact."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from qexport.core.codes import CodeFormat
from qexport.core.geometry import ConvGeometry, MatMul, Shape, Sum
from qexport.core.intformat import Int64
from qexport.core.network import Codes, IntegerNetwork, Placed
from qexport.core.steps import takes_bias
from qexport.errors import QexportError

BATCH = 64  # pictures that go through the network together, at most
BATCH_CODES = 1 << 24  # of the largest operand of a batch, at most
CHUNK = 1 << 20  # elements that a layer multiplies at a time: what caches hold
EXACT: tuple[tuple[int, type[np.floating[Any]]], ...] = ((1 << 24, np.float32), (1 << 53, np.float64))


def exact_type(reach: int) -> type[np.generic]:
    """The fastest type in which sums of products are exact, in any order, none of them larger in size than `reach`."""
    return next((dtype for limit, dtype in EXACT if reach < limit), np.int64)


def narrow_type(fmt: CodeFormat | None) -> type[np.generic]:
    """The narrowest type that holds the codes of a format; int64 without one."""
    if fmt is None:
        return np.int64
    code = fmt.integer
    types = (np.int8, np.int16, np.int32) if code.signed else (np.uint8, np.uint16, np.int32)
    return next(dtype for dtype in types if code.high <= np.iinfo(dtype).max)


class Engine:
    """Computes the outputs of a network's layers. Codes are integers of any type, images along the first axis."""

    def __init__(self, network: IntegerNetwork):
        self.network = network
        self._computed: dict[str, _Layer] = {}  # made when first needed
        largest = max(
            math.prod(shape)
            for placed in network.placed.values()
            for shape in (*placed.operands.values(), placed.output)
        )
        self.batch = max(1, min(BATCH, BATCH_CODES // largest))

    def needed(self, wanted: Collection[str], given: Collection[str] = ()) -> tuple[list[str], list[str]]:
        """The layers that must be computed for the outputs of some, and the inputs that these read."""
        left, layers, inputs = list(wanted), set[str](), set[str]()
        while left:
            name = left.pop()
            if name in given or name in layers or name in inputs:
                continue
            if name not in self.network.placed:
                inputs.add(name)
                continue
            layers.add(name)
            left += [source for sources in self.network.placed[name].node.operands.values() for source in sources]
        order = [name for name in self.network.placed if name in layers]
        return order, sorted(inputs)

    def run(self, given: Mapping[str, Codes], wanted: Collection[str]) -> dict[str, Codes]:
        """The outputs of the wanted layers, from the codes of inputs, or of the outputs of layers, of one batch."""
        order, inputs = self.needed(wanted, given)
        if inputs:
            raise QexportError(
                f"inputs: the codes of {inputs[0]} are needed for {', '.join(sorted(wanted))}; give them"
            )
        held = dict(given)
        last = {source: name for name in order for source in self._sources(name)}
        for name in order:
            if name not in self._computed:
                self._computed[name] = _layer(self.network.placed[name])
            held[name] = self._computed[name].output(self.operands(name, held))
            for source in {source for source in self._sources(name) if last[source] == name} - set(wanted):
                del held[source]
        return {name: held[name] for name in wanted}

    def sums(self, name: str, held: Mapping[str, Codes]) -> Int64:
        """The accumulators of a layer, from the codes that it reads."""
        return _layer(self.network.placed[name]).accumulators(self.operands(name, held))

    def operands(self, name: str, held: Mapping[str, Codes]) -> dict[str, Codes]:
        """The operands of a layer, from the codes that it reads."""
        placed = self.network.placed[name]
        sources = placed.node.operands.items()
        return {operand: placed.operand(operand, [held[source] for source in names]) for operand, names in sources}

    def _sources(self, name: str) -> Iterator[str]:
        for sources in self.network.placed[name].node.operands.values():
            yield from sources


def _layer(placed: Placed) -> "_Layer":
    layer = placed.node.layer
    return next(made for kind, made in KINDS.items() if isinstance(layer, kind))(placed)


class _Layer:
    """A layer, made ready. `each`: elements of one image that are worked on together."""

    def __init__(self, placed: Placed):
        self.placed, self.node = placed, placed.node
        self.formats = placed.node.formats
        self.type = narrow_type(self.formats.output)
        images = placed.accumulator[0]
        self.each = max(math.prod(shape) // images for shape in (placed.accumulator, *placed.operands.values()))

    def output(self, operands: Mapping[str, Codes]) -> Codes:
        """The codes behind the steps, some images at a time."""
        images = len(operands["input"])
        out = np.empty((images, *self._laid(self.placed.output[1:])), self.type)
        seen = _as_told(out)
        step = max(1, CHUNK // self.each)
        for start in range(0, images, step):
            part = slice(start, start + step)
            v = self.accumulators({name: codes[part] for name, codes in operands.items()})
            for stage in self.placed.chain.steps:
                v = stage.apply(v, self.placed.chain.start.axis, self.placed.chain.bias)
            seen[part] = v
        return seen

    @staticmethod
    def _laid(sizes: Shape) -> Shape:
        """Sizes as they lie in memory: planes with the channels last."""
        return (*sizes[1:], sizes[0]) if len(sizes) == 3 else sizes

    def accumulators(self, operands: Mapping[str, Codes]) -> Int64:
        raise NotImplementedError

    def centred(self, name: str, codes: Codes) -> Codes:
        """What the codes of an operand stand for, less their zero point."""
        fmt = self.formats.operands[name]
        if fmt.plain:
            return codes
        wide = fmt.integers(codes.astype(np.int64))
        return wide - fmt.zero_points[0]

    def reach(self, name: str) -> int:
        """The largest size of what `centred` gives."""
        fmt = self.formats.operands[name]
        return max(abs(end - fmt.zero_points[0]) for end in fmt.ends)


def _as_told(laid: Codes) -> Codes:
    """Planes whose channels lie last, with the axes in their order."""
    return laid.transpose(0, 3, 1, 2) if laid.ndim == 4 else laid


class _Convolution(_Layer):
    """im2col and one product of matrices for each group."""

    def __init__(self, placed: Placed):
        super().__init__(placed)
        layer = placed.node.layer
        assert isinstance(layer, ConvGeometry)
        self.layer = layer
        fmt = self.formats.weight
        taps = fmt.integers(np.asarray(placed.node.weight, np.int64))
        taps = taps - np.broadcast_to(np.array(fmt.zero_points, np.int64), len(taps))[:, None, None, None]
        largest = int(np.abs(taps).sum(axis=(1, 2, 3)).max())
        self.multiplied = exact_type(largest * self.reach("input"))
        # (group, kh kw ic, oc of the group)
        grouped = taps.reshape(layer.groups, -1, *taps.shape[1:]).transpose(0, 3, 4, 2, 1)
        self.weight = np.ascontiguousarray(grouped.reshape(layer.groups, -1, grouped.shape[-1]), self.multiplied)
        bias = placed.node.bias
        self.bias = None if bias is None or takes_bias(placed.node.steps) else np.asarray(bias, np.int64)
        self.each = max(self.each, self.weight.shape[1] * layer.groups * math.prod(placed.accumulator[2:]))

    def accumulators(self, operands: Mapping[str, Codes]) -> Int64:
        layer = self.layer
        codes = self.centred("input", operands["input"])
        n, channels, *plane = codes.shape
        top, _, left, _ = layer.padding
        rows, cols = layer.output_plane((plane[0], plane[1]))
        padded = np.zeros((n, *layer.padded_plane((plane[0], plane[1])), channels), self.multiplied)
        padded[:, top : top + plane[0], left : left + plane[1]] = codes.transpose(0, 2, 3, 1)
        image, row, col, channel = padded.strides
        (kernel_h, kernel_w), (sy, sx), (dy, dx) = layer.kernel, layer.stride, layer.dilation
        seen = np.lib.stride_tricks.as_strided(
            padded,
            (layer.groups, n, rows, cols, kernel_h, kernel_w, layer.group_inputs),
            (layer.group_inputs * channel, image, row * sy, col * sx, row * dy, col * dx, channel),
            writeable=False,
        )
        sums = np.matmul(seen.reshape(layer.groups, n * rows * cols, -1), self.weight)
        laid = sums[0] if layer.groups == 1 else sums.transpose(1, 0, 2)
        wide = laid.reshape(n, rows, cols, layer.out_channels).astype(np.int64)
        if self.bias is not None:
            wide += self.bias
        return _as_told(wide)


class _MatMul(_Layer):
    def __init__(self, placed: Placed):
        super().__init__(placed)
        terms = placed.operands["input"][2]
        self.multiplied = exact_type(terms * self.reach("input") * self.reach("input2"))

    def accumulators(self, operands: Mapping[str, Codes]) -> Int64:
        left, right = (self.centred(name, operands[name]).astype(self.multiplied) for name in ("input", "input2"))
        sums: Int64 = np.matmul(left, right).astype(np.int64)
        return sums


class _Sum(_Layer):
    def accumulators(self, operands: Mapping[str, Codes]) -> Int64:
        layer = self.node.layer
        assert isinstance(layer, Sum)
        pairs = zip(layer.mul, operands, strict=True)
        terms = [mul * self.centred(name, operands[name]).astype(np.int64) for mul, name in pairs]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


KINDS: Mapping[type[Any], type[_Layer]] = {ConvGeometry: _Convolution, MatMul: _MatMul, Sum: _Sum}


def decisions(logits: Codes) -> Int64:
    """The class of each picture: the first of the greatest logits."""
    found: Int64 = logits.reshape(len(logits), -1).argmax(axis=1)
    return found


def batches(pictures: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, pictures)) for start in range(0, pictures, size))
