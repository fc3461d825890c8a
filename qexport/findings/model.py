"""The layer computed again with a change in one or more of its stages, as a wrong design may have computed it.

The arithmetic is exact: products are summed in float64, which is fast, only where no sum can leave its 53 bits.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qexport.core.capture import LayerCapture
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import pad, patches
from qexport.core.operations.registry import operation
from qexport.layout.order import TILE_AXIS, parse_order
from qexport.layout.tiling import Tiling, expand_bits
from qexport.sets.manifest import Manifest, MemoryEntry

UNKNOWN = int(np.iinfo(np.int64).min)  # what a hypothesis does not say
# What a change's function takes and gives at each stage; (n, oc, oy, ox) where nothing else is said.
STAGES = (
    "weight words",  # weights (oc, ic, kh, kw), as all stages of weights
    "weight codes",
    "weight tiles",
    "weight taps",
    "input words",  # inputs (n, ic, iy, ix)
    "input codes",
    "input tiles",
    "pad",  # inputs to (n, ic, py, px), in place of the padding
    "plane",  # (n, ic, py, px)
    "gather",  # (n, ic, py, px) to patches (n, ic, kh, kw, oy, ox), in place of im2col
    "patches",  # (n, ic, kh, kw, oy, ox)
    "psum",  # (n, it, kh, kw, oc, py, px)
    "sum",  # Sums to accumulators
    "accumulator",  # accumulators
    "history",  # accumulators of all images and channels: one result may depend on another
    "post",  # accumulators to the tensor that is compared
    "result",  # the tensor that is compared
    "words",  # its words, (files, words, lanes)
)
_WEIGHT_STAGES, _INPUT_STAGES = STAGES[:4], STAGES[4:7]
_ACTIVATION_STAGES = (*_INPUT_STAGES, "pad", "plane", "gather", "patches")
_MIXING = ("weight words", "weight tiles")  # in which an output channel may get weights of others
_COMPUTED = STAGES[: STAGES.index("accumulator")]  # what comes after needs the golden's accumulators only
_PART = 1 << 23  # elements of the largest array of a part of the images
_KEPT = 1 << 16
_DEFAULT_SIDES = (8, 16, 4, 32)  # of an array that the layout does not give


@dataclass(frozen=True, eq=False)
class Change:
    """One hypothesis: at `stage` the design does `apply` instead. `pair`: it is also tried together with others.

    `also`: what the same mistake does at other stages.
    """

    name: str
    detail: str
    stage: str
    apply: Callable[[Any], Int64]
    pair: bool = False
    also: "tuple[Change, ...]" = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images and some output channels, of one group where the layer has groups."""

    images: Int64
    outputs: Int64


class Wiring(NamedTuple):
    """How a tensor of weights or inputs is stored: for changes of the order of bits in its words."""

    tensor: str
    tiling: Tiling
    element: IntFormat
    own: IntFormat

    def crossed(self, values: Int64, wires: "Wires") -> Int64:
        """The values as they are read when the bits of each word are crossed."""
        codes = expand_bits(values, self.own) if self.tiling.order.has_bits else values
        codes = self.tiling.untile(cross(self.tiling.tile(codes), self.element, wires))
        if not self.tiling.order.has_bits:
            return codes
        return self.own.decode((codes << np.arange(self.own.bits - 1, -1, -1)).sum(axis=-1))


# --- bits of words --------------------------------------------------------------------------------------------------

Wires = Callable[[Int64], Int64]  # bit numbers of a word of whole bytes, the most significant first, to another order


def cross(blocks: Int64, element: IntFormat, wires: Wires) -> Int64:
    """(files, words, lanes) of `element`, the bits of each word put in another order; UNKNOWN where one of them is."""
    *outer, lanes = blocks.shape
    width = lanes * element.bits
    spare = -width % 8
    order = wires(np.arange(width + spare, dtype=np.int64))[spare:]
    order = order - spare  # below 0: an unused bit at the top, which is 0
    bits = expand_bits(element.encode(blocks), IntFormat(element.bits, False)).astype(np.uint8).reshape(*outer, width)
    crossed = np.where(order < 0, np.uint8(0), bits[..., order])
    weights = np.int64(1) << np.arange(element.bits - 1, -1, -1)
    out = element.decode(crossed.reshape(*outer, lanes, element.bits).astype(np.int64) @ weights)
    unknown = blocks == UNKNOWN
    if unknown.any():
        lost = np.repeat(unknown, element.bits, axis=-1)[..., order].reshape(*outer, lanes, element.bits).any(axis=-1)
        out[lost] = UNKNOWN
    return out


def _grouped(size: int, reverse_of: int) -> Wires:
    """Groups of `size` bits in reverse order inside each run of `reverse_of` bits (0: inside the word)."""

    def wires(bits: Int64) -> Int64:
        run = reverse_of or len(bits)
        whole = len(bits) // run * run
        head, rest = bits[: len(bits) - whole], bits[len(bits) - whole :]
        return np.concatenate((head, rest.reshape(-1, run // size, size)[:, ::-1].ravel()))

    return wires


def bit_orders(lanes: int, bits: int) -> Iterator[tuple[str, str, Wires, bool]]:
    """What may be crossed in a word: kind, detail, wires, whether it is tried in pairs too."""
    width = -(-lanes * bits // 8) * 8
    yield "nibbles", "of each byte swapped", _grouped(4, 8), True
    if width > 8:
        yield "nibbles", "of the whole word reversed", _grouped(4, 0), False
        yield "bytes", "of the whole word reversed", _grouped(8, 0), True
    for run in (16, 32, 64, 128):
        if run < width and width % run == 0:
            yield "bytes", f"of each {run} bits reversed", _grouped(8, run), False
    if bits > 1 and width == lanes * bits:
        yield "bits", "of each element reversed", _grouped(1, bits), True
    elif bits > 1:

        def inside(order: Int64) -> Int64:
            used = order[len(order) - lanes * bits :]
            return np.concatenate((order[: len(order) - lanes * bits], used.reshape(lanes, bits)[:, ::-1].ravel()))

        yield "bits", "of each element reversed", inside, True
    if bits != 8:
        yield "bits", "of each byte reversed", _grouped(1, 8), False
    if width > 8:
        yield "bits", "of the whole word reversed", _grouped(1, 0), False


# --- the layer ------------------------------------------------------------------------------------------------------


class Sums:
    """The accumulation of one part: what each step of the array adds.

    weight (oc, ic, kh, kw) and patches (n, ic, kh, kw, oy, ox) of all groups, or of one group with some of its outputs;
    `images` and `outputs` say which of the layer's they are.
    """

    images: Int64
    outputs: Int64

    def __init__(self, weight: Int64, seen: Int64, bias: Int64 | None, groups: int, row: int):
        self.weight, self.seen, self.bias, self.groups, self.row = weight, seen, bias, groups, row
        reach = weight[0].size * int(np.abs(weight).max()) * max(int(np.abs(seen).max()), 1)
        self._dtype: type[Any] = np.float64 if reach < 2**53 else np.int64

    @property
    def offset(self) -> Int64:
        """The bias, (oc, 1, 1)."""
        bias = np.zeros(len(self.weight), np.int64) if self.bias is None else self.bias
        return bias[:, np.newaxis, np.newaxis]

    @cached_property
    def total(self) -> Int64:
        """The convolution without bias, (n, oc, oy, ox)."""
        n, _, _, _, rows, cols = self.seen.shape
        taps: NDArray[Any] = self.weight.reshape(self.groups, len(self.weight) // self.groups, -1).astype(self._dtype)
        seen: NDArray[Any] = self.seen.reshape(n, self.groups, -1, rows * cols).astype(self._dtype)
        sums: NDArray[Any] = np.matmul(taps, seen)  # (n, g, oc of g, oy * ox)
        return sums.reshape(n, len(self.weight), rows, cols).astype(np.int64)

    @cached_property
    def steps(self) -> Int64:
        """What each input-channel tile and tap adds, (it, kh * kw, n, oc, oy, ox)."""
        return self.products(self.row)

    def part(self, it: slice | int, tap: slice | int) -> Int64:
        """What some of the steps add together, (n, oc, oy, ox)."""
        added: Int64 = self.steps[it, tap].reshape(-1, *self.total.shape).sum(axis=0)
        return added

    def products(self, row: int) -> Int64:
        """What each `row` input channels and each tap add, (channels / row, kh * kw, n, oc, oy, ox)."""
        n, channels, kh, kw, rows, cols = self.seen.shape
        groups, outputs, inputs = self.groups, len(self.weight) // self.groups, channels // self.groups
        tiles = math.ceil(inputs / row)
        ragged = tiles * row - inputs
        taps: NDArray[Any] = self.weight.reshape(groups, outputs, inputs, kh * kw).astype(self._dtype)
        taps = np.pad(taps, ((0, 0), (0, 0), (0, ragged), (0, 0))).reshape(groups, outputs, tiles, row, kh * kw)
        seen: NDArray[Any] = self.seen.reshape(n, groups, inputs, kh * kw, rows * cols).astype(self._dtype)
        seen = np.pad(seen, ((0, 0), (0, 0), (0, ragged), (0, 0), (0, 0)))
        seen = seen.reshape(n, groups, tiles, row, kh * kw, rows * cols)
        left = np.ascontiguousarray(taps.transpose(2, 4, 0, 1, 3))[:, :, np.newaxis]  # (it, k, 1, g, oc, row)
        right = np.ascontiguousarray(seen.transpose(2, 4, 0, 1, 3, 5))  # (it, k, n, g, row, oy * ox)
        out: NDArray[Any] = np.matmul(left, right)
        return out.reshape(tiles, kh * kw, n, groups * outputs, rows, cols).astype(np.int64)


class Model:
    """One layer of a set as its array computes it, seen through one memory.

    All tensors are those of the capture's images. `side`: the array's rows and columns.
    """

    def __init__(self, manifest: Manifest, capture: LayerCapture, entry: MemoryEntry, side: tuple[int, int]):
        self.manifest, self.capture, self.entry = manifest, capture, entry
        self.layer, self.plane, self.images = capture.layer, capture.plane, capture.images
        self.row, self.col = side
        self.facts = operation(capture, manifest.array.get(TILE_AXIS))
        self.tensor = entry.tensor
        self.memory = entry.memory()
        self.own = self.facts.tensor(self.tensor).format
        self.shape = self.facts.tensor(self.tensor).shape(self.images)
        stored = (*self.shape, self.own.bits) if self.memory.order.has_bits else self.shape
        self.tiling = Tiling(self.memory.order, stored, manifest.array, entry.bits)
        self.channel_axis = 4 if self.tensor == "psum" else 1
        self._kept: dict[object, Int64] = {}
        self._first: tuple[Change, Int64] | None = None
        self._golden_sums: dict[object, Sums] = {}

    def with_codes(self, codes: Int64) -> "Model":
        """The same layer with other inputs."""
        capture = replace(self.capture, input=codes, reference=None, next_input=None)
        return Model(self.manifest, capture, self.entry, (self.row, self.col))

    @cached_property
    def accumulator(self) -> Int64:
        """The golden's accumulators."""
        return self._accumulated({}, None)

    @cached_property
    def golden(self) -> Int64:
        """What the memory should hold, in the tensor's axes."""
        return self.predict(())

    def predict(self, changes: Sequence[Change], sample: Sample | None = None) -> Int64:
        """What the memory holds after the changes, in the tensor's axes (with `bit` where the order has it).

        With a sample only its images and channels, unless a change at a later stage may take values from other places.
        """
        by = {part.stage: part for change in changes for part in (change, *change.also)}
        sample = None if "history" in by else sample
        computed = any(stage in by for stage in _COMPUTED)
        if self.tensor == "psum":
            values = self._psums(by, sample)
        else:
            if computed or ("accumulator" not in self.__dict__ and sample is not None):
                values = self._accumulated(by, sample)
            else:
                values = self.accumulator if sample is None else self.accumulator[np.ix_(sample.images, sample.outputs)]
            if "accumulator" in by:
                values = by["accumulator"].apply(values)
            if "history" in by:
                values = by["history"].apply(values)
            values = by["post"].apply(values) if "post" in by else self.post(values)
        if sample is not None and ("result" in by or "words" in by):
            values = self._scattered(values, sample)
        if "result" in by:
            values = by["result"].apply(values)
        values = self.stored(values)
        if "words" in by:
            values = self.tiling.untile(by["words"].apply(self.tiling.tile(values)))
        return values

    def post(self, accumulators: Int64) -> Int64:
        """From accumulators to the tensor that is compared."""
        if self.tensor == "accumulator":
            return accumulators
        relu = np.maximum(accumulators, 0)
        if self.tensor == "relu":
            return relu
        assert self.facts.requantizer is not None
        return self.facts.requantizer.apply(relu)

    def stored(self, values: Int64) -> Int64:
        """Values as the memory holds them: single bits, saturated or wrapped; what does not fit wraps in a design."""
        known = values != UNKNOWN
        if self.memory.order.has_bits:
            stored, known = expand_bits(values, self.own), np.repeat(known[..., np.newaxis], self.own.bits, axis=-1)
        elif self.entry.overflow == "saturate":
            stored = self.entry.element.saturate(values + self.entry.offset)
        else:
            stored = self.entry.element.wrap(values + self.entry.offset)
        return stored if known.all() else np.where(known, stored, UNKNOWN)

    def place(self, sample: Sample, size: int) -> tuple[Any, ...]:
        """The index of a sample in an array of `size` axes."""
        axes: list[Any] = [np.arange(n) for n in self.shape] + [np.arange(self.own.bits)] * (size - len(self.shape))
        axes[0], axes[self.channel_axis] = sample.images, sample.outputs
        return np.ix_(*axes)

    def _scattered(self, values: Int64, sample: Sample) -> Int64:
        whole = np.full(self.shape, UNKNOWN, np.int64)
        whole[self.place(sample, len(self.shape))] = values
        return whole

    def _keep(self, key: object, sample: Sample | None, make: Callable[[], Int64]) -> Int64:
        """What `make` gives; of a sample it is made once when it is small."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        if sample is not None and made.size <= _KEPT:
            self._kept[key] = made
        return made

    def _weights(self, by: Mapping[str, Change], sample: Sample | None) -> Int64:
        changes = tuple(by[stage] for stage in _WEIGHT_STAGES if stage in by)

        def make() -> Int64:
            weight, whole = self.capture.weight, sample is None
            for at, change in enumerate(changes):
                mixes = any(later.stage in _MIXING for later in changes[at:])
                if not whole and not mixes:
                    weight, whole = weight[sample.outputs], True  # type: ignore[union-attr]
                if at == 0 and not whole and len(changes) > 1:  # the first of a pair, with which many pairs follow
                    if self._first is None or self._first[0] is not change:
                        self._first = (change, change.apply(weight))
                    weight = self._first[1]
                else:
                    weight = change.apply(weight)
            return weight if whole or sample is None else weight[sample.outputs]

        return self._keep(("weight", changes, sample), sample, make)

    def _planes(self, by: Mapping[str, Change], images: slice | Int64) -> Int64:
        codes = self.capture.input
        for stage in _INPUT_STAGES:
            if stage in by:
                codes = by[stage].apply(codes)
        if "pad" not in by and "plane" not in by:
            return pad(codes[images], self.layer)
        planes = by["pad"].apply(codes) if "pad" in by else pad(codes, self.layer)  # may look at the images before
        return (by["plane"].apply(planes) if "plane" in by else planes)[images]

    def _patches(self, by: Mapping[str, Change], images: slice | Int64, sample: Sample | None) -> Int64:
        changes = tuple(by[stage] for stage in _ACTIVATION_STAGES if stage in by)

        def make() -> Int64:
            if "patches" in by:  # may look at the images before
                planes = self._planes(by, slice(None))
                return by["patches"].apply(patches(planes, self.layer, self.plane))[images]
            planes = self._planes(by, images)
            if "gather" in by:
                return by["gather"].apply(planes)
            return patches(planes, self.layer, self.plane)

        return self._keep(("patches", changes, sample), sample, make)

    def _groups(self, sample: Sample | None) -> int:
        return self.layer.groups if sample is None else 1

    def _parts(self, elements: int, sample: Sample | None) -> Iterator[slice | Int64]:
        """The images in parts whose arrays stay small."""
        if sample is not None:
            yield sample.images
            return
        step = max(1, _PART // elements)
        for start in range(0, self.images, step):
            yield slice(start, min(start + step, self.images))

    def sums(self, by: Mapping[str, Change], images: slice | Int64, sample: Sample | None) -> Sums:
        """The accumulation of some images; of a sample, with what it computes, kept for the golden's operands."""
        key = (sample, "sums")
        golden = sample is not None and not any(stage in by for stage in (*_WEIGHT_STAGES, *_ACTIVATION_STAGES))
        if golden and key in self._golden_sums:
            return self._golden_sums[key]
        weight, seen, bias = self._weights(by, sample), self._patches(by, images, sample), self.capture.bias
        if sample is not None:
            bias = None if bias is None else bias[sample.outputs]
            if self.layer.groups > 1:
                seen = seen[:, self._group_channels(sample)]
        sums = Sums(weight, seen, bias, self._groups(sample), self.row)
        sums.images = np.arange(self.images)[images]
        sums.outputs = np.arange(self.layer.out_channels) if sample is None else sample.outputs
        if golden:
            self._golden_sums[key] = sums
        return sums

    def _group_channels(self, sample: Sample) -> slice:
        """The input channels of a sample's outputs, which are of one group."""
        group = int(sample.outputs[0]) // (self.layer.out_channels // self.layer.groups)
        return slice(group * self.layer.group_inputs, (group + 1) * self.layer.group_inputs)

    def _accumulated(self, by: Mapping[str, Change], sample: Sample | None) -> Int64:
        taps = math.prod(self.layer.kernel)
        steps = math.ceil(self.layer.group_inputs / self.row) * taps * self.layer.out_channels
        plane = math.prod(self.layer.output_plane(self.plane))
        elements = plane * max(self.layer.in_channels * taps, steps if "sum" in by else 0)
        parts = []
        for images in self._parts(elements, sample):
            sums = self.sums(by, images, sample)
            parts.append(by["sum"].apply(sums) if "sum" in by else sums.total + sums.offset)
        return np.concatenate(parts)

    def _psums(self, by: Mapping[str, Change], sample: Sample | None) -> Int64:
        kh, kw = self.layer.kernel
        rows, cols = self.layer.padded_plane(self.plane)
        whole = np.empty((0,), np.int64)
        parts = []
        row = self.facts.row
        for images in self._parts(math.prod(self.shape[1:]), sample):
            weight, planes = self._weights(by, sample), self._planes(by, images)
            if "gather" in by or "patches" in by:
                raise AssertionError("psums are made from the plane")
            if sample is not None and self.layer.groups > 1:
                planes = planes[:, self._group_channels(sample)]
            n, outputs, inputs = len(planes), len(weight), weight.shape[1]
            # each tap is a 1x1 convolution of the whole plane
            taps = weight.reshape(outputs, inputs, kh * kw).transpose(2, 0, 1).reshape(kh * kw * outputs, inputs, 1, 1)
            if self._groups(sample) > 1:
                each = [
                    Sums(w[:, :, np.newaxis, np.newaxis], planes[:, :, np.newaxis, np.newaxis], None,
                         self.layer.groups, row).products(row)
                    for w in taps.reshape(kh * kw, outputs, inputs)
                ]  # fmt: skip
                whole = np.stack(each, axis=1)[:, :, 0]  # (it, k, n, oc, py, px)
            else:
                found = Sums(taps, planes[:, :, np.newaxis, np.newaxis], None, 1, row).products(row)[:, 0]
                whole = found.reshape(-1, n, kh * kw, outputs, rows, cols).transpose(0, 2, 1, 3, 4, 5)
            whole = whole.transpose(2, 0, 1, 3, 4, 5).reshape(n, -1, kh, kw, outputs, rows, cols)
            parts.append(by["psum"].apply(whole) if "psum" in by else whole)
        return np.concatenate(parts)

    def wiring(self, tensors: Sequence[str]) -> Iterator[Wiring]:
        """How the set stores weights or inputs; as the layout 'default' does where it does not."""
        found = {entry.tensor: entry for entry in reversed(self.manifest.memories) if entry.tensor in tensors}
        for tensor, entry in found.items():
            own = self.facts.tensor(tensor).format
            shape = self.facts.tensor(tensor).shape(self.images)
            order = entry.memory().order
            shape = (*shape, own.bits) if order.has_bits else shape
            yield Wiring(tensor, Tiling(order, shape, self.manifest.array, entry.bits), entry.element, own)
        if not found:
            text = {
                "weight": "(ot col) (it row) kh kw -> | ot it kh kw col | ~row",
                "input": "n (ct row) iy ix -> | n ct iy ix | ~row",
            }[tensors[0]]
            own = self.facts.tensor(tensors[0]).format
            sizes = {"row": self.row, "col": self.col}
            tiling = Tiling(parse_order(text, tensors[0]), self.facts.tensor(tensors[0]).shape(self.images), sizes)
            yield Wiring(tensors[0], tiling, own, own)


def array_sides(manifest: Manifest) -> list[tuple[int, int]]:
    """Rows and columns of the set's array; usual ones where the layout gives none."""
    row, col = manifest.array.get("row"), manifest.array.get("col")
    if row is not None and col is not None:
        return [(row, col)]
    return [(row or side, col or side) for side in _DEFAULT_SIDES]
