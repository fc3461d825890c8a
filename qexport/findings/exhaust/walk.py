"""The accumulators that are sent: every one within a channel's bounds, or those at the edges of the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from qexport.core.intformat import Int64
from qexport.core.steps import Chain, Lookup, Signal, Step, Wrap
from qexport.core.tensors import Range

PIECES = 256  # parts of a channel's bounds in which the steps before an edge only rise, or only fall; at most


@dataclass(frozen=True)
class Lane:
    """The chain of one channel as a function of integers, for the accumulators low..high."""

    whole: Chain
    channel: int
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low + 1

    @cached_property
    def chain(self) -> Chain:
        """The chain with the numbers of this channel alone."""
        steps = named(self.whole.names, [step.of_channels([self.channel]) for step in self.whole.steps])
        start = self.whole.start
        alone = Signal(("n", start.channel), start.channel, (1,), np.array([self.low]), np.array([self.high]))
        bias = self.whole.bias
        return Chain(steps, alone, None if bias is None else bias[self.channel : self.channel + 1])

    def step(self, index: int, v: Int64) -> Int64:
        """What one step gives for integers."""
        given: Int64 = self.chain.steps[index].apply(v[:, np.newaxis], 1, self.chain.bias)[:, 0]
        return given

    def values(self, v: Int64, steps: slice = slice(None)) -> Int64:
        """What comes behind these steps, by default all, for integers."""
        for index in range(len(self.chain.steps))[steps]:
            v = self.step(index, v)
        return v

    def trace(self, accumulator: int) -> dict[str, int]:
        """What every step gives for one accumulator, by the step's name."""
        values = self.chain.values(np.array([[accumulator]]))
        return {name: int(value[0, 0]) for name, value in values.items()}


def named(names: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """Steps that keep the names that they have in one chain in another one."""
    return [msgspec.structs.replace(step, name=name) for step, name in zip(steps, names, strict=True)]


def alike(chain: Chain) -> bool:
    """Whether all channels have equal parameters."""
    tables = [values.values for values in chain.parameters.values() if values.axes[0] == chain.start.channel]
    if chain.bias is not None and any(step.op == "bias" for step in chain.steps):
        tables.append(chain.bias)
    return all((table == table[:1]).all() for table in tables)


def lanes(chain: Chain, by_channel: bool) -> list[Lane]:
    """The channels with their bounds; where no channel is told, the parts of the number line that they cover."""
    bounds = list(zip(chain.start.low.tolist(), chain.start.high.tolist(), strict=True))
    if by_channel:
        return [Lane(chain, channel, low, high) for channel, (low, high) in enumerate(bounds)]
    parts: list[Range] = []
    for low, high in sorted(bounds):
        if parts and low <= parts[-1][1] + 1:
            parts[-1] = parts[-1][0], max(parts[-1][1], high)
        else:
            parts.append((low, high))
    return [Lane(chain, 0, low, high) for low, high in parts]


def edge_accumulators(lane: Lane, most: int) -> tuple[Int64, bool]:
    """The accumulators at which each step's incoming value meets an edge of the step, ascending, at both sides.

    `most`: edges of one step that are looked for; where there are more, only those where the code still changes.
    Whether all are there, for every step, is told beside them.
    """
    pieces = np.array([[lane.low, lane.high]])
    found, every = [pieces[0]], True
    for index, step in enumerate(lane.chain.steps):

        def before(v: Int64, index: int = index) -> Int64:
            return lane.values(v, slice(index))

        ends = np.sort(np.stack([before(pieces[:, 0]), before(pieces[:, 1])], 1), 1).tolist()
        share = max(most // len(pieces), 4)
        if _crowded(step, ends, share):
            ends = [_changing(lane, index, low, high) for low, high in ends]
            every &= not _crowded(step, ends, share)
        edges = [step.edges(low, high, 0, share) for low, high in ends]
        at = np.repeat(np.arange(len(pieces)), [len(some) for some in edges])
        starts = _first_reaching(before, pieces[at], np.concatenate(edges))
        found += [starts, starts - 1]
        parts = _monotone(step, before, pieces, np.unique(starts))
        pieces = parts[np.linspace(0, len(parts) - 1, min(len(parts), PIECES)).astype(int)]
        every &= len(pieces) == len(parts)
    together = np.unique(np.concatenate(found))
    return together[(lane.low <= together) & (together <= lane.high)], every


def random_accumulators(lane: Lane, count: int, key: tuple[int, ...]) -> Int64:
    """Accumulators of a channel, the same for the same key: half of them anywhere, half of any size."""
    rng = np.random.default_rng(key)
    anywhere = rng.integers(lane.low, lane.high, count - count // 2, endpoint=True)
    middle = min(max(0, lane.low), lane.high)
    sizes = 2 ** (rng.random(count // 2) * np.log2(lane.count + 1)) * rng.choice([-1, 1], count // 2)
    return np.concatenate([anywhere, np.clip(middle + sizes.astype(np.int64), lane.low, lane.high)])


def _crowded(step: Step, ends: list[Range], most: int) -> bool:
    """Whether a step may have more edges than it gives: one that gives half of what it is asked for gives all."""
    return any(len(step.firsts(low, high, 0, most)) > most // 2 for low, high in ends)


def _changing(lane: Lane, index: int, low: int, high: int) -> Range:
    """The part of the incoming values low..high of a step outside which the code does not change."""
    if not all(_keeps_order(step) for step in lane.chain.steps[index:]):
        return low, high

    def behind(v: Int64) -> Int64:
        return lane.values(v, slice(index, None))

    least, greatest = behind(np.array([low, high])).tolist()
    if least == greatest:
        return low, low
    past = least + (1 if greatest > least else -1)
    first, last = _first_reaching(behind, np.array([[low, high]] * 2), np.array([past, greatest])).tolist()
    return max(low, first - 1), min(high, last + 1)


def _first_reaching(function: Callable[[Int64], Int64], pieces: Int64, edges: Int64) -> Int64:
    """For each edge the least accumulator of its piece whose value has reached it, coming from the piece's start.

    One behind the piece where none has. The function only rises or only falls in a piece.
    """
    first, last = pieces[:, 0], pieces[:, 1]
    rises = function(last) >= function(first)
    below, reached = first - 1, last + 1
    while (between := reached - below > 1).any():
        middle = np.clip((below + reached) // 2, first, last)
        values = function(middle)
        has = np.where(rises, values >= edges, values <= edges)
        below, reached = np.where(between & ~has, middle, below), np.where(between & has, middle, reached)
    return reached


def _monotone(step: Step, before: Callable[[Int64], Int64], pieces: Int64, starts: Int64) -> Int64:
    """The parts of the pieces in which the function behind a step only rises or only falls.

    `starts`: accumulators at which the step's incoming value meets an edge; it jumps at some of them.
    """
    match step:
        case Wrap():

            def side(v: Int64) -> Int64:
                return (before(v) - step.format.low) >> step.bits

        case Lookup() if not _keeps_order(step):

            def side(v: Int64) -> Int64:
                return before(v)

        case _:
            return pieces
    parts: list[Range] = []
    for low, high in pieces.tolist():
        inside = starts[(low < starts) & (starts <= high)]
        jumps = inside[side(inside) != side(inside - 1)].tolist()
        parts += zip([low, *jumps], [*(jump - 1 for jump in jumps), high], strict=True)
    return np.array(parts)


def _keeps_order(step: Step) -> bool:
    """Whether a step only rises or only falls."""
    if not isinstance(step, Lookup):
        return not isinstance(step, Wrap)
    rises = np.diff(step.arrays["table"])
    return bool((rises >= 0).all() or (rises <= 0).all())
