"""The layer computed again with a change in one or more of its stages, as a wrong design may have computed it.

Words and codes are changed as they are stored; from the tiles on it works with the integers that are multiplied.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from qexport.core.capture import LayerCapture
from qexport.core.geometry import ConvGeometry
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import pad, patches, psums
from qexport.core.operations.registry import OPERANDS, operation
from qexport.core.steps import Lookup
from qexport.findings.change import UNKNOWN, Change, Stage
from qexport.findings.sums import Psums, Sums, reach
from qexport.findings.wires import Wiring
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import Tiling, expand_bits
from qexport.layout.toml import load_layout
from qexport.sets.manifest import Manifest, MemoryEntry

_WEIGHT_STAGES = (Stage.WEIGHT_WORDS, Stage.WEIGHT_CODES, Stage.WEIGHT_TILES, Stage.WEIGHT_TAPS)
_INPUT_STAGES = (Stage.INPUT_WORDS, Stage.INPUT_CODES, Stage.INPUT_TILES)
_ACTIVATION_STAGES = (*_INPUT_STAGES, Stage.PAD, Stage.PLANE, Stage.GATHER, Stage.PATCHES)
_MIXING = (Stage.WEIGHT_WORDS, Stage.WEIGHT_TILES)  # in which an output channel may get weights of others
_PART = 1 << 23  # elements of the largest array of a part of the images
_KEPT = 1 << 16
_DEFAULT_SIDES = (8, 16, 4, 32)  # of an array that the layout does not give


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images and some output channels, of one group where the layer has groups."""

    images: Int64
    outputs: Int64


class AnyModel:
    """One layer of a set seen through one memory: what any operation has in common, from the accumulators on.

    All tensors are those of the capture's images. `side`: the array's rows and columns.
    """

    def __init__(self, manifest: Manifest, capture: LayerCapture, entry: MemoryEntry, side: tuple[int, int]):
        self.manifest, self.capture, self.entry = manifest, capture, entry
        self.layer, self.images = capture.layer, capture.images
        self.row, self.col = side
        self.facts = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain)
        self.tensor = entry.tensor
        self.memory = entry.memory()
        self.own = self.facts.tensor(self.tensor).format
        self.shape = self.facts.tensor(self.tensor).shape(self.images)
        stored = (*self.shape, self.own.bits) if self.memory.order.has_bits else self.shape
        self.tiling = Tiling(self.memory.order, stored, manifest.array, entry.bits)
        self.channel_axis = self.facts.tensor(self.tensor).axes.index(self.layer.channel)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the values that are compared."""
        return self.memory.order.tensor_axes

    @property
    def channels(self) -> int:
        """How many channels the results have."""
        return self.shape[self.channel_axis]

    @property
    def stop(self) -> int:
        """How many steps stand before the compared tensor."""
        chain = self.facts.chain
        if chain is None or self.tensor == "output":
            return 0 if chain is None else len(chain.steps)
        return chain.names.index(self.tensor) + 1 if self.tensor in chain.names else 0

    @property
    def one_by_one(self) -> bool:
        """Whether each result follows from one accumulator, or is a psum."""
        return not self.memory.order.has_bits and self.tensor not in self.facts.pooled

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
        sample = None if Stage.HISTORY in by else sample
        computed = any(stage < Stage.ACCUMULATOR for stage in by)
        if self.tensor == "psum":
            values = self._psums(by, sample)
        else:
            if computed or ("accumulator" not in self.__dict__ and sample is not None):
                values = self._accumulated(by, sample)
            else:
                values = self.accumulator if sample is None else self.accumulator[np.ix_(sample.images, sample.outputs)]
            if Stage.ACCUMULATOR in by:
                values = by[Stage.ACCUMULATOR].apply(values)
            if Stage.HISTORY in by:
                values = by[Stage.HISTORY].apply(values)
            values = self._of_channels(by[Stage.POST].apply if Stage.POST in by else self.post, values, sample)
        if sample is not None and (Stage.RESULT in by or Stage.WORDS in by):
            values = self._scattered(values, sample)
        if Stage.RESULT in by:
            values = by[Stage.RESULT].apply(values)
        values = self.stored(values)
        if Stage.WORDS in by:
            values = self.tiling.untile(by[Stage.WORDS].apply(self.tiling.tile(values)))
        return values

    def words(self, changes: Sequence[Change]) -> Int64:
        """The same as words (files, words, lanes), with what stands in lanes that are filled."""
        blocks = self.tiling.tile(self.predict([change for change in changes if change.stage != Stage.WORDS]))
        for change in changes:
            blocks = change.apply(blocks) if change.stage == Stage.WORDS else blocks
        return blocks

    def of_images(self, start: int, stop: int) -> "AnyModel":
        """The same with some of the images alone."""
        return type(self)(self.manifest, self.capture.part(start, stop), self.entry, (self.row, self.col))

    def post(self, accumulators: Int64) -> Int64:
        """From accumulators to the tensor that is compared."""
        return self.behind(self.tensor, accumulators)

    def behind(self, tensor: str, accumulators: Int64) -> Int64:
        """From accumulators to a tensor that follows from them."""
        return Golden(self.capture, facts=self.facts, given={"accumulator": accumulators}).values(tensor)

    def held(self, sums: Int64, channels: Int64) -> Int64:
        """What the memory holds of sums (..., places), each place of its own channel; not behind pools."""
        chain, values = self.facts.chain, sums
        if self.tensor == "relu":
            values = np.maximum(sums, 0)
        elif self.tensor not in ("accumulator", "psum"):
            assert chain is not None
            values = np.empty_like(sums)
            for channel in np.unique(channels):
                mine = channels == channel
                v = sums[..., mine].reshape(1, -1)
                for step in (step.of_channels([channel]) for step in chain.steps[: self.stop]):
                    v = np.clip(v, step.low, step.low + len(step.table) - 1) if isinstance(step, Lookup) else v
                    v = step.apply(v, 0, None if chain.bias is None else chain.bias[[channel]])
                values[..., mine] = v.reshape(sums[..., mine].shape)
        return self.stored(values)

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

    def _of_channels(self, function: Callable[[Int64], Int64], accumulators: Int64, sample: Sample | None) -> Int64:
        """What a function makes of accumulators; steps have numbers of all channels, so that those of a sample stand
        among zeros."""
        if sample is None or (function == self.post and self.tensor in ("accumulator", "relu")):
            return function(accumulators)
        whole = np.zeros(self.facts.tensor("accumulator").shape(len(sample.images)), np.int64)
        whole[:, sample.outputs] = accumulators
        return function(whole)[:, sample.outputs]

    def _scattered(self, values: Int64, sample: Sample) -> Int64:
        whole = np.full(self.shape, UNKNOWN, np.int64)
        whole[self.place(sample, len(self.shape))] = values
        return whole

    def _accumulated(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        """The accumulators after the changes, of a sample only its images and channels."""
        raise NotImplementedError

    def _psums(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        raise NotImplementedError


class GivenModel(AnyModel):
    """What a run gave in place of what is right: a change may only take place behind the computation."""

    def __init__(self, of: AnyModel, given: Int64):
        super().__init__(of.manifest, of.capture, of.entry, (of.row, of.col))
        self.of, self.given = of, given

    def of_images(self, start: int, stop: int) -> AnyModel:
        return GivenModel(self.of.of_images(start, stop), self.given[start:stop])

    def predict(self, changes: Sequence[Change], sample: Sample | None = None) -> Int64:
        values = self.given
        for change in sorted(changes, key=lambda change: change.stage):
            assert change.stage >= Stage.RESULT
            assert not change.also
            words = change.stage == Stage.WORDS
            values = self.tiling.untile(change.apply(self.tiling.tile(values))) if words else change.apply(values)
        return values


class DataModel(AnyModel):
    """An operation whose operands are all data: a matrix product or a sum."""

    def _accumulated(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        capture = self.capture
        if Stage.OPERANDS in by:
            return by[Stage.OPERANDS].apply(Golden(capture, facts=self.facts))
        return Golden(capture, facts=self.facts).accumulator


class Model(AnyModel):
    """A convolution or a linear layer as its array computes it.

    `weight`: the integers that are multiplied, of psums before zero points are taken off. `blank`: what a padded
    position stands for.
    """

    def __init__(self, manifest: Manifest, capture: LayerCapture, entry: MemoryEntry, side: tuple[int, int]):
        super().__init__(manifest, capture, entry, side)
        self.plane = capture.plane
        self.plane_axes = self.facts.tensor(self.tensor).axes[-2:]
        self.weight = self._multiplied(capture.weight, None)
        self.blank = int(self.seen(np.array([self.facts.zero]))[0])
        self._kept: dict[object, Int64] = {}
        self._first: tuple[Change, Int64] | None = None
        self._golden_sums: dict[object, Sums] = {}

    def with_codes(self, codes: Int64) -> "Model":
        """The same layer with other inputs."""
        capture = replace(self.capture, input=codes, reference=None, next_input=None, reference_codes=None)
        return Model(self.manifest, capture, self.entry, (self.row, self.col))

    @property
    def zero(self) -> int:
        """What is taken off an input."""
        return 0 if self.tensor == "psum" else self.facts.zero

    def seen(self, codes: Int64) -> Int64:
        """What input codes stand for in products."""
        return self.facts.formats.input.integers(codes) - self.zero

    def codes(self, seen: Int64) -> Int64:
        """The input codes that stand for these integers."""
        table = self.facts.formats.input.table
        if table is None:
            return seen + self.zero
        levels = np.array([level or 0 for level in table])
        order = np.argsort(levels, kind="stable")
        found: Int64 = order[np.clip(np.searchsorted(levels[order], seen), 0, len(levels) - 1)]
        return found

    def _multiplied(self, weight: Int64, outputs: Int64 | None) -> Int64:
        """What weight codes (of some outputs) stand for in products."""
        stands = self.facts.formats.weight.integers(weight)
        zeros = self.facts.weight_zeros if outputs is None else self.facts.weight_zeros[outputs]
        return stands if self.tensor == "psum" else stands - zeros[:, np.newaxis, np.newaxis, np.newaxis]

    @cached_property
    def planes(self) -> Int64:
        """The padded planes of the golden, what they stand for."""
        return pad(self.seen(self.capture.input), self.layer, self.blank)

    def _keep(self, key: object, sample: Sample | None, make: Callable[[], Int64]) -> Int64:
        """What `make` gives; of a sample it is made once when it is small."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        if sample is not None and made.size <= _KEPT:
            self._kept[key] = made
        return made

    def _weights(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        changes = tuple(by[stage] for stage in _WEIGHT_STAGES if stage in by)

        def make() -> Int64:
            weight, whole, coded = self.capture.weight, sample is None, True
            for at, change in enumerate(changes):
                if coded and change.stage > Stage.WEIGHT_CODES:
                    of = sample.outputs if sample is not None and whole else None
                    weight, coded = self._multiplied(weight, of), False
                mixes = any(later.stage in _MIXING for later in changes[at:])
                if not whole and not mixes:
                    weight, whole = weight[sample.outputs], True  # type: ignore[union-attr]
                if at == 0 and not whole and len(changes) > 1:  # the first of a pair, with which many pairs follow
                    if self._first is None or self._first[0] is not change:
                        self._first = (change, change.apply(weight))
                    weight = self._first[1]
                else:
                    weight = change.apply(weight)
            weight = weight if whole or sample is None else weight[sample.outputs]
            return self._multiplied(weight, None if sample is None else sample.outputs) if coded else weight

        return self._keep(("weight", changes, sample), sample, make)

    def _planes(self, by: Mapping[Stage, Change], images: slice | Int64) -> Int64:
        codes = self.capture.input
        for stage in (Stage.INPUT_WORDS, Stage.INPUT_CODES):
            if stage in by:
                codes = by[stage].apply(codes)
        seen = self.seen(codes)
        if Stage.INPUT_TILES in by:
            seen = by[Stage.INPUT_TILES].apply(seen)
        if Stage.PAD not in by and Stage.PLANE not in by:
            return pad(seen[images], self.layer, self.blank)
        # a change may look at the images before
        planes = by[Stage.PAD].apply(seen) if Stage.PAD in by else pad(seen, self.layer, self.blank)
        return (by[Stage.PLANE].apply(planes) if Stage.PLANE in by else planes)[images]

    def _patches(self, by: Mapping[Stage, Change], images: slice | Int64, sample: Sample | None) -> Int64:
        changes = tuple(by[stage] for stage in _ACTIVATION_STAGES if stage in by)

        def make() -> Int64:
            if Stage.PATCHES in by:  # may look at the images before
                planes = self._planes(by, slice(None))
                return by[Stage.PATCHES].apply(patches(planes, self.layer, self.plane))[images]
            planes = self._planes(by, images)
            if Stage.GATHER in by:
                return by[Stage.GATHER].apply(planes)
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

    def sums(self, by: Mapping[Stage, Change], images: slice | Int64, sample: Sample | None) -> Sums:
        """The accumulation of some images; of a sample, with what it computes, kept for the golden's operands."""
        key = (sample, "sums")
        golden = sample is not None and not any(stage in by for stage in (*_WEIGHT_STAGES, *_ACTIVATION_STAGES))
        if golden and key in self._golden_sums:
            return self._golden_sums[key]
        weight, seen, bias = self._weights(by, sample), self._patches(by, images, sample), self.facts.added
        if sample is not None:
            bias = None if bias is None else bias[sample.outputs]
            if self.layer.groups > 1:
                seen = seen[:, self._group_channels(sample)]
        outputs = np.arange(self.layer.out_channels) if sample is None else sample.outputs
        sums = Sums(weight, seen, bias, self._groups(sample), self.row, np.arange(self.images)[images], outputs)
        if golden:
            self._golden_sums[key] = sums
        return sums

    def _group_channels(self, sample: Sample) -> slice:
        """The input channels of a sample's outputs, which are of one group."""
        group = int(sample.outputs[0]) // (self.layer.out_channels // self.layer.groups)
        return slice(group * self.layer.group_inputs, (group + 1) * self.layer.group_inputs)

    def _accumulated(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        taps = math.prod(self.layer.kernel)
        steps = math.ceil(self.layer.group_inputs / self.row) * taps * self.layer.out_channels
        plane = math.prod(self.layer.output_plane(self.plane))
        elements = plane * max(self.layer.in_channels * taps, steps if Stage.SUM in by else 0)
        parts = []
        for images in self._parts(elements, sample):
            sums = self.sums(by, images, sample)
            parts.append(by[Stage.SUM].apply(sums) if Stage.SUM in by else sums.total + sums.offset)
        return np.concatenate(parts)

    def _psums(self, by: Mapping[Stage, Change], sample: Sample | None) -> Int64:
        parts = []
        for images in self._parts(math.prod(self.shape[1:]), sample):
            weight, planes = self._weights(by, sample), self._planes(by, images)
            if sample is not None and self.layer.groups > 1:
                planes = planes[:, self._group_channels(sample)]
            groups, row = self._groups(sample), self.facts.row
            found = psums(weight, planes, groups, row, reach(weight, planes))
            if Stage.PSUM in by:
                outputs = np.arange(self.layer.out_channels) if sample is None else sample.outputs
                found = by[Stage.PSUM].apply(Psums(weight, planes, groups, row, outputs, found))
            parts.append(found)
        return np.concatenate(parts)

    def wiring(self, operand: str) -> Iterator[Wiring]:
        """How the set stores the tensors that carry weights or inputs; as the layout 'default' does if none."""
        tensors = [tensor for tensor, carried in OPERANDS.items() if carried == operand]
        found = {entry.tensor: entry for entry in reversed(self.manifest.memories) if entry.tensor in tensors}
        for tensor, entry in found.items():
            own = self.facts.tensor(tensor).format
            shape = self.facts.tensor(tensor).shape(self.images)
            order = entry.memory().order
            shape = (*shape, own.bits) if order.has_bits else shape
            yield Wiring(tensor, Tiling(order, shape, self.manifest.array, entry.bits), entry.element, own)
        if not found:
            yield self.usual_wiring(operand)

    def usual_wiring(self, operand: str) -> Wiring:
        """As the layout 'default' stores it."""
        [order] = [memory.order for memory in load_layout("default").memories if memory.name == operand]
        own = self.facts.tensor(operand).format
        tiling = Tiling(order, self.facts.tensor(operand).shape(self.images), {"row": self.row, "col": self.col})
        return Wiring(operand, tiling, own, own)


def model_of(manifest: Manifest, capture: LayerCapture, entry: MemoryEntry, side: tuple[int, int]) -> AnyModel:
    """The model of a layer's kind."""
    kind = Model if isinstance(capture.layer, ConvGeometry) else DataModel
    return kind(manifest, capture, entry, side)


def array_sides(manifest: Manifest) -> list[tuple[int, int]]:
    """Rows and columns of the set's array; usual ones where the layout gives none."""
    row, col = manifest.array.get("row"), manifest.array.get("col")
    if row is not None and col is not None:
        return [(row, col)]
    return [(row or side, col or side) for side in _DEFAULT_SIDES]
