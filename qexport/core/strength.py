"""How much a set can notice: exactly which single-bit errors of stored codes show in psums, accumulators and the ReLU.

An error flips one bit of one stored code, in two's complement where the format is signed. It shows in a tensor when
an element of the tensor differs from the golden once the whole layer is computed with that code. What shows in `relu`
shows in `accumulator`, and what shows there shows in `psum`. An error that gives a code of the same level, or of none
(NaN), counts as one that shows nowhere.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from qexport.core.capture import Capture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import ConvGeometry
from qexport.core.golden import Golden, parts
from qexport.core.intformat import Int64
from qexport.core.operations.base import Need, Operation
from qexport.core.operations.conv2d import Convolution, pad
from qexport.core.operations.matmul import MatrixProduct
from qexport.core.operations.registry import operation, require
from qexport.core.operations.sum import WeightedSum

Bools = NDArray[np.bool_]
COUNTED = ("psum", "accumulator", "relu")  # in which errors are counted, in the order of the computation


class FlipCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The single-bit errors of one kind of code: how many there are, and how many of them show in each tensor."""

    flips: int
    psum: int | None = None  # where the operation has psums
    accumulator: int
    relu: int


class StrengthInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The manifest's entry `strength`, an entry for each operand of codes. Padding is not stored, so `input` counts the
    unpadded codes of every image."""

    weight: FlipCounts = None  # type: ignore[assignment]  # as in Formats
    input: FlipCounts
    input2: FlipCounts | None = None

    @property
    def first(self) -> tuple[str, FlipCounts]:
        """The operand that tells most of how strong a set is: its name, and its counts."""
        return ("input", self.input) if self.weight is None else ("weight", self.weight)


class Storing(Protocol):
    """A memory, of a layout or of a manifest."""

    @property
    def tensor(self) -> str: ...

    @property
    def overflow(self) -> str: ...


def compared(memories: Iterable[Storing]) -> dict[str, str]:
    """Those of COUNTED with which a design's results are compared, and how to call each; the first shows most errors.

    What is counted is the exact tensor: a memory that saturates or wraps may show less, and its name says so.
    """
    overflows: dict[str, set[str]] = {}
    for memory in memories:
        overflows.setdefault(memory.tensor, set()).add(memory.overflow)
    names = {}
    for stage in COUNTED:
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
    operand, flips = info.first
    counts = [percent(getattr(flips, stage), flips.flips) for stage in stages]
    first, *others = [f"in {name}" for name in stages.values()]
    rest = "".join(f", {share} {where}" for share, where in zip(counts[1:], others, strict=True))
    return f"{counts[0]} of single-bit {operand} errors show {first}{rest}"


# --- counting -------------------------------------------------------------------------------------------------------


class _Flips:
    """What the flip of a bit does to a format's codes. `sizes`: by how much, with the bits that may do so."""

    def __init__(self, fmt: CodeFormat):
        self._format = fmt
        self.sizes: dict[int, list[int]] = {1 << bit: [bit] for bit in range(fmt.bits)}
        if fmt.table is not None:
            self.sizes = {}
            for bit, steps in enumerate(self.steps(fmt.valid)):
                for size in np.unique(np.abs(steps)).tolist():
                    self.sizes.setdefault(size, []).append(bit)
            self.sizes.pop(0, None)

    def steps(self, codes: Int64) -> Int64:
        """What each bit's flip adds to the integer that a code stands for, (bit, *codes.shape); 0: it shows nowhere."""
        fmt, code = self._format, self._format.integer
        flipped = np.stack([code.decode(code.encode(codes) ^ (1 << bit)) for bit in range(fmt.bits)])
        steps = fmt.integers(flipped) - fmt.integers(codes)
        return steps if fmt.table is None else np.where(np.isin(flipped, fmt.valid), steps, 0)


def _meets(positive: Bools, moves: Bools) -> Bools:
    """(g, a, k) and (g, t, k) to (g, a, t): whether both hold for some k.

    A float32 sum of zeros and ones is above 0 just when one of them is 1, however many there are.
    """
    met: Bools = np.matmul(positive.astype(np.float32), moves.astype(np.float32).transpose(0, 2, 1)) > 0
    return met


def _lifts(sums: Int64, factor: Int64, steps: Int64, sizes: Mapping[int, Sequence[int]], todo: Bools) -> Bools:
    """Which flips of the codes in `todo` (g, a, t) lift a sum that is not above 0 over 0, (bit, g, a, t).

    A flip of code (a, t) adds step x factor (g, t, k) to sums (g, a, k); the steps (bit, g, a, t) have those `sizes`.
    Over 0 means size x factor > -sum, which for whole numbers is factor > -sum // size.
    """
    out = np.zeros(steps.shape, np.bool_)
    a, t = np.flatnonzero(todo.any(axis=(0, 2))), np.flatnonzero(todo.any(axis=(0, 1)))
    if not len(a):
        return out
    sums, factor = sums[:, a], factor[:, t]
    top = int(np.abs(factor).max())
    narrow = np.min_scalar_type(-top - 1)  # small numbers compare fast
    margin = np.moveaxis(np.maximum(-sums, 0), 2, 0)[..., np.newaxis]  # (k, g, a, 1)
    above = np.empty((len(sums), len(a), len(t)), np.bool_)
    for sign in (1, -1):
        signed = np.moveaxis(np.maximum(sign * factor, 0), 2, 0)[:, :, np.newaxis]  # (k, g, 1, t)
        signed = np.ascontiguousarray(signed, narrow)
        longest = signed.max(axis=(1, 2, 3))
        if not longest.any():
            continue
        for size, bits in sizes.items():
            need = np.minimum(margin // size, top).astype(narrow)
            lifted = np.zeros_like(above)
            for k in np.flatnonzero(longest > need.min(axis=(1, 2, 3))):
                lifted |= np.greater(signed[k], need[k], out=above)
            for bit in bits:
                out[bit][:, a[:, np.newaxis], t] |= lifted & (steps[bit][:, a[:, np.newaxis], t] == sign * size)
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
        self._input, self._flips = formats.input, _Flips(formats.weight)
        shape = (self.bits, layer.groups, layer.out_channels // layer.groups, weight[0].size)
        self._steps = self._flips.steps(weight).reshape(shape)
        self._moves = self._steps != 0
        self._all_move = bool(self._moves.all())

    @property
    def total(self) -> int:
        return self.weight.size * self.bits

    def seen(self, golden: Golden, stage: str) -> Bools:
        """Which errors show in a tensor of COUNTED; each element stands for equally many.

        In psum (ic,) and in accumulator (ic, kh, kw) an error shows just where the code that meets the weight is not
        0, or not the zero point, whatever the bit and the output channel; in relu (bit, oc, ic of one group, kh, kw).
        """
        layer = self.layer
        if stage == "psum":
            return np.asarray(self._input.integers(golden.values("input_padded")).any(axis=(0, 2, 3)))
        im2col = golden.facts.met(golden)
        if stage == "accumulator":
            return np.asarray(im2col.any(axis=(0, 4, 5)))
        sums, factor = _by_group(golden.accumulator, layer.groups), _by_group(im2col, layer.groups)
        met = _meets(sums > 0, factor != 0)  # (g, oc of g, ic of g x kh x kw)
        todo = ~met & np.asarray(factor.any(axis=2))[:, np.newaxis]
        lifts = _lifts(sums, factor, self._steps, self._flips.sizes, todo)
        shown: Bools = (met & self._moves | lifts).reshape(self.bits, *self.weight.shape)
        return shown

    def count(self, seen: Bools) -> int:
        """How many errors `seen` stands for."""
        if self._all_move:
            return int(np.count_nonzero(seen)) * (self.total // seen.size)
        shown = np.broadcast_to(self.by_weight(seen), self.weight.shape) if seen.ndim < 5 else seen
        return int(np.count_nonzero(shown & self._moves.reshape(self.bits, *self.weight.shape)))

    def shown(self, seen: Bools) -> Int64:
        """How many of each weight's errors `seen` stands for, (oc, ic of one group, kh, kw)."""
        every = self.by_weight(seen)[np.newaxis] if seen.ndim < 5 else seen
        found: Int64 = (every & self._moves.reshape(self.bits, *self.weight.shape)).sum(axis=0)
        return found

    def by_weight(self, seen: Bools) -> Bools:
        """What `seen` says of psum (ic,) or accumulator (ic, kh, kw) for each weight (oc, ic of one group, kh, kw)."""
        layer = self.layer
        taps = seen.reshape(layer.groups, 1, layer.group_inputs, -1)
        per_group = (layer.groups, layer.out_channels // layer.groups, layer.group_inputs, math.prod(layer.kernel))
        found: Bools = np.broadcast_to(taps, per_group).reshape(self.weight.shape)
        return found


def input_flips_seen(golden: Golden) -> dict[str, Bools]:
    """Which single-bit errors of the images' input codes show in each tensor of COUNTED, (bit, n, ic, iy, ix)."""
    c, layer, groups = golden.capture, golden.capture.layer, golden.capture.layer.groups
    (n, channels, rows, cols), fmt = golden.input.shape, c.formats.input
    flips = _Flips(fmt)
    top, _, left, _ = layer.padding
    inside = (..., slice(top, top + rows), slice(left, left + cols))
    stored = pad(np.ones((1, 1, rows, cols), np.int64), layer)[0, 0] > 0  # (py, px)
    steps = np.zeros((fmt.bits, n, channels, *stored.shape), np.int64)
    steps[inside] = flips.steps(golden.input)
    shown = np.zeros(steps.shape, np.bool_)
    used = np.zeros((channels, *stored.shape), np.bool_)
    shape = (groups, -1, layer.group_inputs, *layer.kernel)
    weight = golden.facts.centred.reshape(shape).transpose(3, 4, 0, 2, 1)  # kh kw g ic oc
    raw = golden.facts.taps.reshape(shape).any(axis=(1, 3, 4)).reshape(channels, 1, 1)  # psums multiply these
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

    def grouped(values: NDArray[Any]) -> NDArray[Any]:
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
        moved = np.stack([grouped(bit) for bit in steps[window]])
        shown[window] |= spread(_lifts(sums, tap, moved, flips.sizes, todo))
    some = steps[inside] != 0
    return {"psum": raw & some, "accumulator": used[inside] & some, "relu": shown[inside] & some}


class Strength:
    """Counts over all images of a layer, which come in parts; memory is that of one part.

    An error of a weight counts when any image shows it, an error of an input code belongs to one image.
    """

    def __init__(self, layer: ConvGeometry, formats: Formats, weight: Int64):
        self.flips = WeightFlips(layer, formats, weight)
        self._input = dict.fromkeys(("flips", *COUNTED), 0)
        self._seen: dict[str, Bools] = {}
        self._alive = np.zeros(layer.out_channels, np.bool_)

    def add(self, golden: Golden) -> None:
        """Take some images of the layer into account."""
        for stage in COUNTED:
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

    def shown(self, stage: str) -> Int64:
        """How many single-bit errors of each weight show in the tensor, (oc, ic of one group, kh, kw)."""
        return self.flips.shown(self._seen[stage])

    def unexercised(self, stage: str) -> Int64:
        """The weights of which no error shows in the tensor, rows of (oc, ic, kh, kw)."""
        seen = self._seen[stage]
        return np.argwhere(~(seen.any(axis=0) if stage == "relu" else self.flips.by_weight(seen)))


class DataStrength:
    """The same for an operation whose operands are all data, of which each image has its own."""

    dead_inputs: Sequence[int] = ()
    dead_outputs: Sequence[int] = ()

    def __init__(self, facts: Operation):
        self._facts = facts
        self._counts = {name: dict.fromkeys(("flips", *COUNTED[1:]), 0) for name in facts.formats.operands}

    def add(self, golden: Golden) -> None:
        """Take some images of the layer into account."""
        for name, (moves, shown) in _DATA_FLIPS[self._facts.layer.kind](self._facts, golden).items():
            counts = self._counts[name]
            counts["flips"] += moves.size
            counts["accumulator"] += int(np.count_nonzero(moves))
            counts["relu"] += int(np.count_nonzero(shown))

    @property
    def info(self) -> StrengthInfo:
        """The counts over the images so far, at least one."""
        return StrengthInfo(**{name: FlipCounts(**counts) for name, counts in self._counts.items()})

    def unexercised(self, stage: str) -> Int64:
        """There are no weights."""
        return np.empty((0, 4), np.int64)


def _product_flips(facts: MatrixProduct, golden: Golden) -> dict[str, tuple[Bools, Bools]]:
    """Which errors of each operand's codes show in the accumulator and behind the ReLU, (bit, *codes.shape)."""
    left, right = facts.factors(golden)
    sums, found = golden.accumulator, {}
    for name, lines, factor in (
        ("input", sums, right),  # (n, m, p) and (n, k, p)
        ("input2", sums.transpose(0, 2, 1), left.transpose(0, 2, 1)),  # (n, p, m) and (n, k, m)
    ):
        flips = _Flips(facts.formats.operands[name])
        steps = flips.steps(golden.codes(name) if name == "input" else golden.codes(name).transpose(0, 2, 1))
        meets = np.asarray(factor.any(axis=2))[:, np.newaxis]
        moves = (steps != 0) & meets
        met = _meets(lines > 0, factor != 0)
        shown = moves & met | _lifts(lines, factor, steps, flips.sizes, ~met & meets)
        found[name] = moves, shown
    return found


def _sum_flips(facts: WeightedSum, golden: Golden) -> dict[str, tuple[Bools, Bools]]:
    """The same of a sum."""
    found = {}
    for name, mul in facts.factors.items():
        sums = golden.accumulator + mul * _Flips(facts.formats.operands[name]).steps(golden.codes(name))
        found[name] = sums != golden.accumulator, np.maximum(sums, 0) != np.maximum(golden.accumulator, 0)
    return found


_DATA_FLIPS: Mapping[str, Callable[[Any, Golden], dict[str, tuple[Bools, Bools]]]] = {
    "matmul": _product_flips,
    "sum": _sum_flips,
}


def counting(facts: Operation) -> Strength | DataStrength:
    """The counts of a layer, before its images come."""
    if isinstance(facts, Convolution):
        return Strength(facts.layer, facts.formats, facts.weight)
    return DataStrength(facts)


def measure(capture: Capture) -> Strength | DataStrength:
    """The strength of a capture's images, worked out part by part."""
    require(capture.layer, Need.STRENGTH)
    facts = operation(capture, None)
    strength = counting(facts)
    for start, stop in parts((), facts, capture.images):
        strength.add(Golden(capture.part(start, stop), facts=facts))
    return strength
