"""How much a set can notice: exactly which single-bit errors of stored codes show in psums, accumulators and the ReLU.

An error flips one bit of one stored code, in two's complement where the format is signed. It shows in a tensor when
an element of the tensor differs from the golden once the whole layer is computed with that code. What shows in `relu`
shows in `accumulator`, and what shows there shows in `psum`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heapreplace
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from qexport.errors import QexportError
from qexport.golden import Facts, Golden, pad
from qexport.intformat import Int64, IntFormat
from qexport.layer import AXES, Capture, ConvGeometry, Formats, LayerCapture
from qexport.layout import Tiling
from qexport.stream import parts

Bools = NDArray[np.bool_]
STAGES = ("psum", "accumulator", "relu")  # what a design's results are compared with, in the order of the computation
ACTIVATIONS = ("input", "input_padded", "patches")
BATCH = 64  # pictures that are read together when pictures are chosen
MAX_CANDIDATES = 1024
DEFAULT_SHARE = 99.9


class FlipCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The single-bit errors of one kind of code: how many there are, and how many of them show in each tensor."""

    flips: int
    psum: int
    accumulator: int
    relu: int


class StrengthInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest's entry `strength`. Padding is not stored, so `input` counts the unpadded codes of every image."""

    weight: FlipCounts
    input: FlipCounts


class Storing(Protocol):
    """A memory, of a layout or of a manifest."""

    @property
    def tensor(self) -> str: ...

    @property
    def overflow(self) -> str: ...


def compared(memories: Iterable[Storing]) -> dict[str, str]:
    """Those of STAGES with which a design's results are compared, and how to call each; the first shows most errors.

    What is counted is the exact tensor: a memory that saturates or wraps may show less, and its name says so.
    """
    overflows: dict[str, set[str]] = {}
    for memory in memories:
        overflows.setdefault(memory.tensor, set()).add(memory.overflow)
    names = {}
    for stage in STAGES:
        if stage in overflows:
            changed = {"saturate": "saturated", "wrap": "wrapped"}.get(min(overflows[stage]))  # "error" comes first
            names[stage] = f"{stage} before it is {changed}" if changed else stage
    return names


def percent(part: int, whole: int) -> str:
    """'98.2 %', rounded down, so that 100.0 % means all."""
    return f"{1000 * part // whole / 10:.1f} %"


def strength_text(info: StrengthInfo, memories: Iterable[Storing]) -> str:
    """One line about a set of these memories: the share of weight errors that show in what is compared."""
    stages = compared(memories)
    if not stages:
        return "the layout stores no psum, accumulator or relu, in which errors are counted"
    counts = [percent(getattr(info.weight, stage), info.weight.flips) for stage in stages]
    first, *others = [f"in {name}" for name in stages.values()]
    rest = "".join(f", {share} {where}" for share, where in zip(counts[1:], others, strict=True))
    return f"{counts[0]} of single-bit weight errors show {first}{rest}"


# --- counting -------------------------------------------------------------------------------------------------------


def _rises(codes: Int64, fmt: IntFormat) -> Bools:
    """Whether the flip of a bit adds 2^bit to the code (else it takes 2^bit away), (bit, *codes.shape)."""
    pattern = fmt.encode(codes)
    return np.stack([fmt.decode(pattern ^ (1 << bit)) > codes for bit in range(fmt.bits)])


def _meets(positive: Bools, moves: Bools) -> Bools:
    """(g, a, k) and (g, t, k) to (g, a, t): whether both hold for some k.

    A float32 sum of zeros and ones is above 0 just when one of them is 1, however many there are.
    """
    met: Bools = np.matmul(positive.astype(np.float32), moves.astype(np.float32).transpose(0, 2, 1)) > 0
    return met


def _lifts(sums: Int64, factor: Int64, rises: Bools, todo: Bools) -> Bools:
    """Which flips of the codes in `todo` (g, a, t) lift a sum that is not above 0 over 0, (bit, g, a, t).

    A flip of bit b of code (a, t) adds 2^b x factor (g, t, k) to sums (g, a, k) where it raises the code, and takes as
    much away where not. Over 0 means 2^b x factor > -sum, which for whole numbers is factor > -sum >> b.
    """
    out = np.zeros(rises.shape, np.bool_)
    a, t = np.flatnonzero(todo.any(axis=(0, 2))), np.flatnonzero(todo.any(axis=(0, 1)))
    if not len(a):
        return out
    sums, factor = sums[:, a], factor[:, t]
    top = int(np.abs(factor).max())
    narrow = np.min_scalar_type(-top - 1)  # small numbers compare fast
    margin = np.moveaxis(np.maximum(-sums, 0), 2, 0)[..., np.newaxis]  # (k, g, a, 1)
    above = np.empty((len(sums), len(a), len(t)), np.bool_)
    for sign in (1, -1):
        steps = np.moveaxis(np.maximum(sign * factor, 0), 2, 0)[:, :, np.newaxis]  # (k, g, 1, t)
        steps = np.ascontiguousarray(steps, narrow)
        longest = steps.max(axis=(1, 2, 3))
        if not longest.any():
            continue
        for bit, raised in enumerate(rises[:, :, a[:, np.newaxis], t] == (sign > 0)):
            need = np.minimum(margin >> bit, top).astype(narrow)
            lifted = np.zeros_like(above)
            for k in np.flatnonzero(longest > need.min(axis=(1, 2, 3))):
                lifted |= np.greater(steps[k], need[k], out=above)
            out[bit][:, a[:, np.newaxis], t] |= lifted & raised
    return out & todo


def _by_group(values: NDArray[Any], groups: int) -> NDArray[Any]:
    """(n, channels, ..., y, x) to (g, channels of one group x ..., n * y * x)."""
    n, plane = len(values), values.shape[-2] * values.shape[-1]
    split = values.reshape(n, groups, -1, plane)
    return split.transpose(1, 2, 0, 3).reshape(groups, -1, n * plane)


class WeightFlips:
    """The single-bit errors of a layer's weights."""

    def __init__(self, layer: ConvGeometry, formats: Formats, weight: Int64):
        self.layer, self.weight, self.bits = layer, weight, formats.weight.bits
        shape = (self.bits, layer.groups, layer.out_channels // layer.groups, weight[0].size)
        self._rises = _rises(weight, formats.weight.integer).reshape(shape)

    @property
    def total(self) -> int:
        return self.weight.size * self.bits

    def seen(self, golden: Golden, stage: str) -> Bools:
        """Which errors show in a tensor of STAGES; each element stands for equally many.

        In psum (ic,) and in accumulator (ic, kh, kw) an error shows just where the code that meets the weight is not
        0, whatever the bit and the output channel; in relu (bit, oc, ic of one group, kh, kw).
        """
        layer = self.layer
        if stage == "psum":
            return np.asarray(golden.input.any(axis=(0, 2, 3)))
        im2col = golden.patches
        if stage == "accumulator":
            return np.asarray(im2col.any(axis=(0, 4, 5)))
        sums, factor = _by_group(golden.accumulator, layer.groups), _by_group(im2col, layer.groups)
        met = _meets(sums > 0, factor != 0)  # (g, oc of g, ic of g x kh x kw)
        todo = ~met & np.asarray(factor.any(axis=2))[:, np.newaxis]
        return (met | _lifts(sums, factor, self._rises, todo)).reshape(self.bits, *self.weight.shape)

    def count(self, seen: Bools) -> int:
        """How many errors `seen` stands for."""
        return int(np.count_nonzero(seen)) * (self.total // seen.size)


def input_flips_seen(golden: Golden) -> dict[str, Bools]:
    """Which single-bit errors of the images' input codes show in each tensor of STAGES, (bit, n, ic, iy, ix)."""
    c, layer, groups = golden.capture, golden.capture.layer, golden.capture.layer.groups
    (n, channels, rows, cols), fmt = golden.input.shape, c.formats.input.integer
    top, _, left, _ = layer.padding
    inside = (..., slice(top, top + rows), slice(left, left + cols))
    stored = pad(np.ones((1, 1, rows, cols), np.int64), layer)[0, 0] > 0  # (py, px)
    rises = np.zeros((fmt.bits, n, channels, *stored.shape), np.bool_)
    rises[inside] = _rises(golden.input, fmt)
    shown = np.zeros_like(rises)
    used = np.zeros((channels, *stored.shape), np.bool_)
    weight = c.weight.reshape(groups, -1, layer.group_inputs, *layer.kernel).transpose(3, 4, 0, 2, 1)  # kh kw g ic oc
    tied = weight.any(axis=4).reshape(*layer.kernel, channels, 1, 1)  # whether an error moves any sum through the tap
    sums = _by_group(golden.accumulator, groups).transpose(0, 2, 1)  # (g, n x oy x ox, oc of g)
    out_rows, out_cols = layer.output_plane(golden.capture.plane)

    def taps() -> Iterator[tuple[Int64, Bools, Any]]:
        """Each tap's weights (g, ic of g, oc of g), `tied` of it, and the window of the padded plane that meets it."""
        for kh in range(layer.kernel[0]):
            for kw in range(layer.kernel[1]):
                y, x = kh * layer.dilation[0], kw * layer.dilation[1]
                height, width = out_rows * layer.stride[0], out_cols * layer.stride[1]
                window = (..., slice(y, y + height, layer.stride[0]), slice(x, x + width, layer.stride[1]))
                yield weight[kh, kw], tied[kh, kw], window

    def grouped(values: Bools) -> Bools:
        """(n, ic, oy, ox) to (g, n x oy x ox, ic of g)."""
        return _by_group(values, groups).transpose(0, 2, 1)

    def spread(values: Bools) -> Bools:
        """The way back, whatever axes stand before."""
        split = values.reshape(*values.shape[:-2], n, out_rows, out_cols, layer.group_inputs)
        moved = np.moveaxis(np.moveaxis(split, -1, -3), -5, -4)  # (n, g, ic of g, oy, ox)
        return moved.reshape(*values.shape[:-3], n, channels, out_rows, out_cols)

    for tap, moves, window in taps():
        used[window] |= moves
        shown[window] |= spread(_meets(sums > 0, tap != 0))
    for tap, moves, window in taps():
        todo = grouped(stored[window] & moves & ~shown[window].all(axis=0))
        raised = np.stack([grouped(bit) for bit in rises[window]])
        shown[window] |= spread(_lifts(sums, tap, raised, todo))
    shape = (fmt.bits, *golden.input.shape)
    return {
        "psum": np.broadcast_to(tied.any(axis=(0, 1)), shape),
        "accumulator": np.broadcast_to(used[inside], shape),
        "relu": shown[inside],
    }


class Strength:
    """Counts over all images of a layer, which come in parts; memory is that of one part.

    An error of a weight counts when any image shows it, an error of an input code belongs to one image.
    """

    def __init__(self, layer: ConvGeometry, formats: Formats, weight: Int64):
        self.flips = WeightFlips(layer, formats, weight)
        self._input = dict.fromkeys(("flips", *STAGES), 0)
        self._seen: dict[str, Bools] = {}
        self._alive = np.zeros(layer.out_channels, np.bool_)

    def add(self, golden: Golden) -> None:
        """Take some images of the layer into account."""
        for stage in STAGES:
            seen = self.flips.seen(golden, stage)
            self._seen[stage] = seen | self._seen[stage] if stage in self._seen else seen
        self._alive |= (golden.accumulator > 0).any(axis=(0, 2, 3))
        shown = input_flips_seen(golden)
        self._input["flips"] += shown["relu"].size
        for stage, flips in shown.items():
            self._input[stage] += int(np.count_nonzero(flips))

    @property
    def info(self) -> StrengthInfo:
        """The counts over the images so far, at least one."""
        weight = {stage: self.flips.count(seen) for stage, seen in self._seen.items()}
        return StrengthInfo(weight=FlipCounts(flips=self.flips.total, **weight), input=FlipCounts(**self._input))

    @property
    def dead_inputs(self) -> list[int]:
        """Input channels whose codes are 0 in every image: no error of a weight that meets them shows anywhere."""
        return np.flatnonzero(~self._seen["psum"]).tolist()

    @property
    def dead_outputs(self) -> list[int]:
        """Output channels whose accumulators are above 0 nowhere: what their ReLU gives is always 0."""
        return np.flatnonzero(~self._alive).tolist()

    def unexercised(self, stage: str) -> Int64:
        """The weights of which no error shows in the tensor, rows of (oc, ic, kh, kw)."""
        seen, layer = self._seen[stage], self.flips.layer
        if stage == "relu":
            return np.argwhere(~seen.any(axis=0))
        taps = seen.reshape(layer.groups, 1, layer.group_inputs, -1 if stage == "accumulator" else 1)
        per_group = (layer.groups, layer.out_channels // layer.groups, layer.group_inputs, math.prod(layer.kernel))
        return np.argwhere(~np.broadcast_to(taps, per_group).reshape(self.flips.weight.shape))


def measure(capture: Capture) -> Strength:
    """The strength of a capture's images, worked out part by part."""
    facts = Facts(capture, None)
    strength = Strength(capture.layer, capture.formats, capture.weight)
    for start, stop in parts([], facts, capture.images):
        strength.add(Golden(capture.part(start, stop), facts=facts))
    return strength


# --- choosing pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Pictures chosen for their strength: `shown` of `total` weight errors show in the tensor `stage` with them."""

    images: tuple[int, ...]
    candidates: int
    stage: str
    asked: float
    shown: int
    total: int

    def __str__(self) -> str:
        share = f"{percent(self.shown, self.total)} of single-bit weight errors show in {self.stage}"
        if self.shown >= _needed(self.asked, self.total):
            return f"{len(self.images)} of {self.candidates} pictures chosen: {share} ({self.asked:g} % asked)"
        return (
            f"{len(self.images)} of {self.candidates} pictures chosen: {share}; {self.asked:g} % were asked, "
            f"but all {self.candidates} together show no more"
        )


def _needed(share: float, total: int) -> int:
    """The least count that is `share` percent of the total, without rounding."""
    return math.ceil(Fraction(str(share)) * total / 100)


def choose_images(
    layer: ConvGeometry,
    formats: Formats,
    weight: Int64,
    stage: str,
    asked: float,
    available: int,
    read: Callable[[range], Int64],
) -> Choice:
    """Few pictures with which `asked` percent of the weight errors show in the tensor `stage`, or as many as can.

    `read` gives the layer's input codes (n, ic, iy, ix) of pictures; they are read in batches, up to MAX_CANDIDATES of
    the `available` ones, until together they show enough. Then greedily: again and again the picture that shows most
    of what is not shown yet (the first such one); at the end those go without which it is enough. Raises QexportError
    when no error shows with any of them.
    """
    flips = WeightFlips(layer, formats, weight)
    sets: list[int] = []  # for each picture the bitset of the errors that show
    union, needed, size = 0, 1, 1
    while len(sets) < min(available, MAX_CANDIDATES) and union.bit_count() < needed:
        batch = range(len(sets), min(len(sets) + BATCH, available, MAX_CANDIDATES))
        codes = read(batch)
        for image in range(len(batch)):
            one = LayerCapture(layer, formats, weight, codes[image : image + 1])
            seen = flips.seen(Golden(one), stage)
            sets.append(int.from_bytes(np.packbits(seen).tobytes()))
            union |= sets[-1]
        size = seen.size
        needed = _needed(asked, size)
    if not union:
        raise QexportError(
            f"images: with {len(sets)} pictures no single-bit weight error of layer {layer.name} shows in {stage}; "
            "choose another layer, or a layout that stores psum"
        )
    chosen = _cover(sets, min(needed, union.bit_count()))
    covered = 0
    for image in chosen:
        covered |= sets[image]
    shown = covered.bit_count() * (flips.total // size)
    return Choice(tuple(sorted(chosen)), len(sets), stage, asked, shown, flips.total)


def _cover(sets: Sequence[int], needed: int) -> list[int]:
    """Indices of bitsets whose union has at least `needed` bits: greedy, then without what is redundant."""
    covered, count, chosen = 0, 0, []
    # A gain only shrinks while others are chosen: what is still on top when worked out anew is the largest.
    heap = [(-bits.bit_count(), index) for index, bits in enumerate(sets)]
    heapify(heap)
    while count < needed:
        index = heap[0][1]
        gain = (covered | sets[index]).bit_count() - count
        heapreplace(heap, (-gain, index))
        if heap[0] == (-gain, index):
            heappop(heap)
            chosen.append(index)
            covered |= sets[index]
            count += gain
    later = [0]  # the union of those chosen after each
    for index in reversed(chosen):
        later.append(later[-1] | sets[index])
    kept, union = [], 0
    for index, rest in zip(chosen, reversed(later[:-1]), strict=True):
        if (union | rest).bit_count() < needed:
            kept.append(index)
            union |= sets[index]
    return kept


# --- blind spots ----------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A memory of a set: its name, its tensor, and its order with the sizes."""

    name: str
    tensor: str
    tiling: Tiling

    def parts(self, axis: str) -> Iterator[tuple[str, int, int]]:
        """The parts into which the order splits an axis (or the whole one): name, step along the axis, size."""
        splits = [split for split in self.tiling.order.splits if split.joined == (axis,)]
        for split in splits[-1:]:  # a stage before may have handed the axis on
            step = 1
            for name in reversed(split.names):
                yield name, step, self.tiling.sizes[name]
                step *= self.tiling.sizes[name]

    def has(self, axis: str, step: int, size: int) -> bool:
        """Whether one of the parts has that step and size."""
        return any(part[1:] == (step, size) for part in self.parts(axis))


@dataclass(frozen=True)
class BlindSpot:
    """An error that no image shows: a part of an axis in another order in all `memories` and in one of `either`.

    The part has its name from the weight memory; `axis` is the weight's, `step` and `size` count along it.
    """

    part: str
    axis: str
    step: int
    size: int
    memories: tuple[str, ...]
    either: tuple[str, ...]

    def __str__(self) -> str:
        sources: Sequence[str] = [f"one of {', '.join(self.either)}"] if len(self.either) > 1 else self.either
        *others, last = [*self.memories, *sources]
        part = self.part if self.part == self.axis else f"{self.part} (of {self.axis})"
        return f"{part} in another order, such as reversed, shows nowhere when {', '.join(others)} and {last} agree"


def blind_spots(capture: Capture, memories: Sequence[Stored], row: int | None) -> list[BlindSpot]:
    """The permutations that no image shows on a layout, because all that is compared stays what it is.

    `row` is the psums' tile as in Golden. What is summed over before anything is compared may stand in any order when
    weights and activations agree: rows inside a tile; without a psum memory also tiles, and taps where the
    activations are stored by taps. What is kept apart may be renamed in all memories at once: columns, psums' tiles.
    """
    layer = capture.layer
    stored = {tensor: [memory for memory in memories if memory.tensor == tensor] for tensor in AXES}
    weights, psums = stored["weight"], stored["psum"]
    results = [memory for stage in STAGES for memory in stored[stage]]
    if not weights or not results:
        return []
    tile = layer.group_inputs if row is None else row
    in_group = {"ic": layer.group_inputs, "oc": layer.out_channels // layer.groups}
    found = []
    for axis in ("ic", "kh", "kw", "oc"):
        for part, step, size in weights[0].parts(axis):
            together, span = list(weights), step * size
            if size == 1 or (layer.groups > 1 and in_group.get(axis, span) % span):
                continue  # nothing to exchange, or the part reaches over the groups' bounds
            if axis == "oc":
                together += results + stored["output"]
                if capture.bias is not None and len(results) > len(psums):  # the bias counts in what is compared
                    if not stored["bias"]:
                        continue  # it reaches the design by another way and would not move along
                    together += stored["bias"]
            elif axis != "ic" and psums:
                continue  # psums keep the taps apart
            elif psums and tile % span and tile < layer.group_inputs:  # the part exchanges tiles
                if step % tile or not all(memory.has("it", step // tile, size) for memory in psums):
                    continue
                together += psums  # which move along by their own axis
            sources = {"ic": ACTIVATIONS, "oc": ()}.get(axis, ("patches",))
            either = [memory for name in sources for memory in stored[name] if memory.has(axis, step, size)]
            moved = [memory for memory in together if memory.tensor != "psum" or axis != "ic"]
            if all(memory.has(axis, step, size) for memory in moved) and (either or axis == "oc"):
                names = [tuple(memory.name for memory in group) for group in (together, either)]
                found.append(BlindSpot(part, axis, step, size, *names))
    return found
