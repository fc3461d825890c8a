"""From real scales to integers: the steps that give the network's own codes, proven, or how far a hardware departs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.core.steps import (
    Add,
    Clamp,
    Ints,
    Multiply,
    Numbers,
    Relu,
    Round,
    ShiftRight,
    Step,
    Threshold,
    levels_reached,
)
from qexport.errors import QexportError

MAX_OUTPUT_BITS = 16  # every edge between two codes is looked at
MAX_SHIFT = 47  # beyond it a multiplier has no advantage left, and products leave int64
TABLE_CODES = 2**8  # codes of an output that a table of levels is made for
TIE_WIDTH = Fraction(1, 2**40)  # of an edge, relative: a value this close may be rounded either way in floating point
REACH = 2**60  # no product, addend or edge of the search is larger in size
PART_EDGES = 2**20  # of a part of the channels, at most


@dataclass(frozen=True)
class Hardware:
    """What a hardware can do behind the accumulator.

    `round`: how it shifts right; None: the network's rounding, as floor with half a step in the addend. `mul_bits`:
    of its signed multiplier. `per_tensor`: one multiplier and one shift serve all channels. `power_of_two`: the
    multiplier only shifts. Where anything is stated, codes that cannot be exact are as near as this hardware gets.
    """

    round: Round | None = None
    mul_bits: int = 62
    shift_max: int = MAX_SHIFT
    per_tensor: bool = False
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.mul_bits <= 62:
            raise QexportError(f"mul-bits: {self.mul_bits} is outside 2..62; give the bits of a signed multiplier")
        if not 0 <= self.shift_max <= MAX_SHIFT:
            raise QexportError(f"shift-max: {self.shift_max} is outside 0..{MAX_SHIFT}; give a shift inside")

    @property
    def multiplier_max(self) -> int:
        return int(2 ** (self.mul_bits - 1) - 1)


ANY = Hardware()


@dataclass(frozen=True, eq=False)
class Rescaling:
    """Steps from accumulators to codes. `departs`: for how many accumulators of each channel's bounds they give another
    code than the network."""

    steps: tuple[Step, ...]
    departs: Int64


@dataclass(frozen=True)
class Integers:
    """code = clamp((accumulator x by + value) >> shift), of all channels alike: what one multiplier serves."""

    by: int
    value: int
    shift: int
    low: int
    high: int

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Integers | None":
        """Those of a chain; None where it is another. A ReLU before a multiplier above 0 is the clamp at code 0."""
        if len(steps) == 5 and isinstance(steps[0], Relu):
            steps = steps[1:]
        match steps:
            case (
                Multiply(by=int(by)), Add(value=int(value)), ShiftRight(by=int(shift), round="floor"), Clamp() as clamp
            ):  # fmt: skip
                return cls(by, value, shift, clamp.low, clamp.high)
        return None

    def scaled(self, accumulators: Int64, value: int | None = None) -> Int64:
        """Accumulators to codes (same shape) before they are clipped; `value`: what is added instead of its own."""
        return (accumulators * self.by + (self.value if value is None else value)) >> self.shift

    def apply(self, accumulators: Int64, value: int | None = None) -> Int64:
        """Accumulators to codes (same shape)."""
        return np.clip(self.scaled(accumulators, value), self.low, self.high)


class Network:
    """The network's own codes: rounded gain x accumulator + offset, + zero_point, clipped to low..high, by channel.

    `gains`, `offsets`: of each channel, in output codes; floats are taken exactly. `least`, `greatest`: the bounds of
    each channel's accumulator. `zero_point`: what is added behind the rounding; 0 where it is in the offsets. A ReLU
    stands in `low`.
    """

    def __init__(
        self,
        gains: Sequence[Fraction | float],
        offsets: Sequence[Fraction | float],
        least: Ints,
        greatest: Ints,
        low: int,
        high: int,
        zero_point: int = 0,
        rounding: Round = "half_even",
    ):
        if high - low >= 2**MAX_OUTPUT_BITS:
            raise QexportError(f"output: {low}..{high} has more than 2^{MAX_OUTPUT_BITS} codes; use a narrower output")
        self.low, self.high, self.zero_point, self.rounding = low, high, zero_point, rounding
        self.gains = [Fraction(gain) for gain in gains]
        self.offsets = [Fraction(offset) for offset in offsets]
        self.signs = np.array([-1 if gain < 0 else 1 for gain in self.gains], np.int64)
        # Where codes fall as accumulators rise, all below looks at -accumulator, so that every function only rises.
        ends = np.asarray(least, np.int64) * self.signs, np.asarray(greatest, np.int64) * self.signs
        self.least, self.greatest = np.minimum(*ends), np.maximum(*ends)
        if max(int(self.greatest.max()), -int(self.least.min())) >= REACH:
            raise QexportError("accumulator: bounds leave 61 bits; use narrower formats")
        # |gain| x accumulator + offset + zero_point = (slope x accumulator + start) / unit
        sums = [offset + zero_point for offset in self.offsets]
        pairs = list(zip(self.gains, sums, strict=True))
        units = [gain.denominator * total.denominator for gain, total in pairs]
        self._unit = _column(units)
        self._slope = _column([abs(gain) * unit for (gain, _), unit in zip(pairs, units, strict=True)])
        self._start = _column([total * unit for (_, total), unit in zip(pairs, units, strict=True)])

    @property
    def channels(self) -> int:
        return len(self.gains)

    @cached_property
    def edges(self) -> Int64:
        """(channel, code from low + 1): the first accumulator (-accumulator where the gain is negative) that gets it.

        The first behind the bounds where none within gets it.
        """
        return self.firsts(self.rounding, self.zero_point)

    def firsts(self, rounding: Round, zero_point: int = 0) -> Int64:
        """The same for another rounding; `zero_point`: from where it counts even and odd, and away from 0."""
        codes = np.arange(self.low + 1, self.high + 1, dtype=np.int64)
        twice, beyond = _edge(codes, rounding, zero_point)
        firsts = np.empty((self.channels, len(codes)), np.int64)
        for part in _parts(self.channels, len(codes)):
            flat, least, behind = self._slope[part] == 0, self.least[part, None], self.greatest[part, None] + 1
            needed = self._unit[part] * twice.astype(object) - 2 * self._start[part]
            steps = np.where(flat, 1, 2 * self._slope[part])  # of which the accumulator must reach `needed`
            first = np.where(beyond, needed // steps + 1, -(-needed // steps))
            reached = np.where(beyond, needed < 0, needed <= 0)
            first = np.where(flat, np.where(reached, least, behind), first)
            firsts[part] = np.clip(first, least, behind)
        return firsts

    def codes(self, accumulator: Int64, axis: int) -> Int64:
        """The network's codes of accumulators within the bounds, whose channels run along `axis`."""
        shape = [-1 if at == axis else 1 for at in range(accumulator.ndim)]
        return self.low + levels_reached(self.edges, accumulator * self.signs.reshape(shape), axis)

    def ties(self, width: Fraction = TIE_WIDTH) -> list[tuple[int, int]]:
        """(channel, accumulator) pairs whose real value lies within `width` x max(1, size of the edge) of an edge."""
        codes = np.arange(self.low + 1, self.high + 1, dtype=np.int64)
        twice = _edge(codes, self.rounding, self.zero_point)[0].astype(object)
        spread = width.numerator * np.maximum(2, np.abs(twice - 2 * self.zero_point))
        found = set()
        for part in _parts(self.channels, len(codes)):
            middle = (self._unit[part] * twice - 2 * self._start[part]) * width.denominator
            steps = np.where(self._slope[part] == 0, 1, 2 * self._slope[part]) * width.denominator
            around = spread * self._unit[part]
            first = np.maximum(-((around - middle) // steps), self.least[part, None])
            last = np.minimum((middle + around) // steps, self.greatest[part, None])
            for at, edge in zip(*np.nonzero((first <= last) & (self._slope[part] != 0)), strict=True):
                channel = part.start + int(at)
                span = range(first[at, edge], last[at, edge] + 1)
                found |= {(channel, int(self.signs[channel]) * value) for value in span}
        return sorted(found)

    def table(self) -> tuple[Step, ...]:
        """The network as a table of levels, behind a multiplication by -1 where codes fall; up to 8 bits of codes."""
        if self.high - self.low >= TABLE_CODES:
            raise QexportError(
                f"output: no integers multiply, add and shift round as the network does, and a table of {self.low}.."
                f"{self.high} has more than {TABLE_CODES} codes; choose --round half_up, or a narrower output"
            )
        if self.high == self.low:
            return (Clamp(low=self.low, high=self.high),)
        signs = (Multiply(by=_numbers(self.signs)),) if (self.signs < 0).any() else ()
        return *signs, Threshold(table=tuple(map(tuple, self.edges.tolist())), first=self.low)


def _parts(channels: int, edges: int) -> Iterator[slice]:
    """Parts of the channels whose edges are few enough to be held as Python's integers."""
    size = max(1, PART_EDGES // max(edges, 1))
    return (slice(start, min(start + size, channels)) for start in range(0, channels, size))


def _column(numbers: Sequence[Any]) -> NDArray[Any]:
    """Whole numbers as a column of Python's integers."""
    return np.array([[int(number)] for number in numbers], object)


def _numbers(values: Int64) -> Numbers:
    """One number where all channels have the same."""
    numbers = tuple(values.tolist())
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _edge(codes: Int64, rounding: Round, zero_point: int = 0) -> tuple[Int64, NDArray[np.bool_]]:
    """Twice the real value from which on codes are given, and whether a value must lie beyond it, not on it."""
    past = codes - zero_point
    match rounding:
        case "floor":
            return 2 * codes, np.zeros(codes.shape, bool)
        case "half_up":
            return 2 * codes - 1, np.zeros(codes.shape, bool)
        case "half_even":
            return 2 * codes - 1, past % 2 == 1
        case "half_away":
            return 2 * codes - 1, past <= 0
        case "toward_zero":
            return np.where(past > 0, 2 * codes, 2 * codes - 2), past <= 0


class _Search:
    """Integers by, value for which (accumulator x by + value) / 2^shift, rounded, has given first accumulators.

    Both sides only rise, so that they are equal for every accumulator within the bounds when they are equal at both
    sides of each edge: accumulator x by + value must reach a known integer at its first accumulator, and not before.
    For one `by`, those are bounds of `value`; the room between them is a concave function of `by`, so that each
    failure tells on which side of it, and how far away at least, a `by` that does may lie.
    """

    def __init__(self, network: Network, hardware: Hardware):
        self.network, self.hardware = network, hardware
        self.rounding: Round = hardware.round or "floor"
        self.twice, self.beyond = _edge(np.arange(network.low + 1, network.high + 1, dtype=np.int64), self.rounding)
        self.firsts = network.edges if hardware.round is None else network.firsts(hardware.round)
        furthest = max(abs(network.low), abs(network.high)) + 1
        if furthest >= REACH:
            raise QexportError(f"output: {network.low}..{network.high} leaves 60 bits; use a narrower output")
        self.shift_max = hardware.shift_max
        while furthest << self.shift_max >= REACH:
            self.shift_max -= 1
        self.reach = np.maximum(np.abs(network.least), np.abs(network.greatest))
        self.gains = [abs(gain) for gain in network.gains]
        if hardware.per_tensor:
            if (network.signs < 0).any() and (network.signs > 0).any():
                raise QexportError("per-tensor: gains have both signs; let each channel have its multiplier")
            self.gains = [(min(self.gains) + max(self.gains)) / 2] * network.channels
        self.by = np.zeros(network.channels, np.int64)
        self.value, self.shift = self.by.copy(), self.by.copy()

    def needed(self, shift: Ints) -> Int64:
        """What accumulator x by + value must reach for each code, (channel of `shift`, code)."""
        scaled = self.twice << shift[:, None]
        needed: Int64 = -(-scaled >> 1) + (self.beyond & (scaled % 2 == 0))
        return needed

    def ideal(self, shift: int, channels: Int64) -> tuple[Int64, Int64]:
        """The real multiplier and addend of each of the channels, rounded, and limited to what the search can take."""
        half = Fraction(1, 2) if self.hardware.round is None else 0
        by = [round(self.gains[channel] * 2**shift) for channel in channels]
        value = [round((self.network.offsets[c] + self.network.zero_point + half) * 2**shift) for c in channels]
        limited = np.minimum(np.array(by, object), self.most(channels))
        return limited.astype(np.int64), np.clip(np.array(value, object), -REACH, REACH).astype(np.int64)

    def most(self, channels: Int64) -> Int64:
        """The largest multiplier of each channel."""
        reach = self.reach.max() if self.hardware.per_tensor else self.reach[channels]
        limit: Int64 = np.minimum(self.hardware.multiplier_max, REACH // np.maximum(reach, 1))
        return np.broadcast_to(limit, channels.shape)

    def room(self, by: Int64, shift: int, channels: Int64) -> tuple[Int64, Int64, Int64]:
        """The least and greatest `value` of each channel, and by how much the room between grows with `by`."""
        least, greatest, firsts = self.network.least[channels], self.network.greatest[channels], self.firsts[channels]
        needed = self.needed(np.full(len(channels), shift))
        at, column = np.arange(len(channels)), by[:, None]
        lows = np.where(firsts <= greatest[:, None], needed - column * firsts, -REACH)
        highs = np.where(firsts > least[:, None], needed - 1 - column * (firsts - 1), REACH)
        tight_low, tight_high = lows.argmax(axis=1), highs.argmin(axis=1)
        grows = firsts[at, tight_low] - (firsts[at, tight_high] - 1)
        return lows[at, tight_low], highs[at, tight_high], grows

    def search(self, shift: int, channels: Int64) -> NDArray[np.bool_]:
        """For which of the channels there are integers with this shift; they are kept."""
        by, values = self.ideal(shift, channels)
        low, high = np.zeros_like(by), self.most(channels).copy()
        found, left = np.zeros(len(channels), bool), np.arange(len(channels))
        while len(left):
            least, greatest, grows = self.room(by[left], shift, channels[left])
            lacks = least - greatest
            done = lacks <= 0
            if self.hardware.per_tensor and not done.all():
                worst = np.full(len(left), lacks.argmax())
                done, lacks, grows = np.zeros(len(left), bool), lacks[worst], grows[worst]
            kept = left[done]
            value = np.clip(values[kept], least[done], greatest[done])
            self.keep(channels[kept], by[kept], value, shift)
            found[kept] = True
            move = -(-lacks // np.maximum(np.abs(grows), 1))
            up, down = left[~done & (grows > 0)], left[~done & (grows < 0)]
            low[up] = by[up] + move[~done & (grows > 0)]
            high[down] = by[down] - move[~done & (grows < 0)]
            by[up], by[down] = low[up], high[down]
            left = np.sort(np.concatenate([up, down]))
            left = left[low[left] <= high[left]]
        return found

    def keep(self, channels: Int64, by: Int64, value: Int64, shift: Ints | int) -> None:
        self.by[channels], self.value[channels], self.shift[channels] = by, value, shift

    def exact(self, channels: Int64) -> Int64:
        """The channels for which no shift has integers; those of the smallest shift are kept for all others."""
        for shift in range(self.shift_max + 1):
            channels = channels[~self.search(shift, channels)]
        return channels

    def nearest(self, channels: Int64) -> None:
        """Keep the integers that are nearest to the real numbers: those of the largest shift that the hardware has."""
        for channel in channels.tolist():
            one = np.array([channel])
            limit = int(self.most(one)[0])
            able = (s for s in range(self.shift_max, 0, -1) if round(self.gains[channel] * 2**s) <= limit)
            shift = next(able, 0)  # a multiplier that is beyond the hardware becomes the largest that it has
            self.keep(one, *self.ideal(shift, one), shift)

    def powers(self) -> None:
        """Keep the power of two that is nearest to each channel's gain, and the best addend with it."""
        for channel, gain in enumerate(self.gains):
            one, exponent = np.array([channel]), _nearest_power(gain)
            shift, limit = min(max(-exponent, 0), self.shift_max), int(self.most(one)[0])
            by = np.array([1 << min(max(exponent, 0), limit.bit_length() - 1) if gain else 0])
            least, greatest, _ = self.room(by, shift, one)
            value = self.ideal(shift, one)[1]
            self.keep(one, by, np.clip(value, least, greatest) if least <= greatest else value, shift)

    def departs(self) -> Int64:
        """For how many accumulators of each channel the kept integers give another code than the network."""
        network, by, value = self.network, self.by[:, None], self.value[:, None]
        least, behind = network.least[:, None], network.greatest[:, None] + 1
        lacks = self.needed(self.shift) - value
        firsts = np.where(by == 0, np.where(lacks <= 0, least, behind), -(-lacks // np.maximum(by, 1)))
        pair = np.clip(firsts, least, behind), network.edges
        starts, ends = np.minimum(*pair), np.maximum(*pair)  # of the accumulators of which one alone has the code
        before = np.concatenate([least, ends[:, :-1]], axis=1)
        counts: Int64 = np.maximum(ends - np.maximum(starts, before), 0).sum(axis=1)
        return counts

    def steps(self) -> tuple[Step, ...]:
        return (
            Multiply(by=_numbers(self.by * self.network.signs)),
            Add(value=_numbers(self.value)),
            ShiftRight(by=_numbers(self.shift), round=self.rounding),
            Clamp(low=self.network.low, high=self.network.high),
        )


def _nearest_power(gain: Fraction) -> int:
    """The exponent of the power of two nearest to a gain, by their ratio."""
    if gain == 0:
        return 0
    exponent = gain.numerator.bit_length() - gain.denominator.bit_length()  # of the power below or above
    return max(
        (exponent - 1, exponent, exponent + 1), key=lambda e: min(gain / Fraction(2) ** e, Fraction(2) ** e / gain)
    )


def rescale(network: Network, hardware: Hardware = ANY) -> Rescaling:
    """The steps from accumulators to the network's codes, or to what the hardware makes of them.

    With no limits stated they are proven equal for every accumulator within the bounds: integers with the smallest
    shift of each channel, or a table of levels; raises QexportError where neither exists.
    """
    none = np.zeros(network.channels, np.int64)
    if network.low == network.high:
        return Rescaling((Clamp(low=network.low, high=network.high),), none)
    search, channels = _Search(network, hardware), np.arange(network.channels)
    if hardware.power_of_two:
        search.powers()
        return Rescaling(search.steps(), search.departs())
    size = network.high - network.low
    spans = [slice(0, network.channels)] if hardware.per_tensor else _parts(network.channels, size)
    for part in spans:
        left = search.exact(channels[part])
        if len(left) and hardware == ANY:
            return Rescaling(network.table(), none)
        if len(left):
            search.nearest(left)
    departs = search.departs()
    assert hardware != ANY or not departs.any()
    return Rescaling(search.steps(), departs)
