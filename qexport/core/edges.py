"""Where a chain of steps bends, rounds, clips or jumps: the values at its start on both sides of each such place."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from qexport.core.intformat import Int64
from qexport.core.tensors import Range

PIECES = 256  # parts of a channel's bounds in which the steps before an edge only rise, or only fall; at most


class Bending(Protocol):
    """What the search asks of a step."""

    @property
    def keeps_order(self) -> bool: ...
    def apply(self, v: Any, axis: int, bias: Any = None) -> Any: ...
    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]: ...
    def edges(self, low: int, high: int, channel: int = 0, most: int = 0) -> Int64: ...
    def side(self, v: Int64) -> Int64: ...


def edge_values(
    steps: Sequence[Bending], bias: Int64 | None, low: int, high: int, most: int, *, near: bool
) -> tuple[Int64, bool]:
    """The values low..high of one channel at which each step's incoming value meets an edge of the step, ascending, at
    both sides.

    `bias`: of that channel. `most`: edges of one step that are looked for; where there are more, only those where what
    comes out still changes. `near`: the values beside each edge, 0 and the ends are looked for, too. Whether all are
    there, for every step, is told beside them.
    """

    def through(v: Int64, part: slice) -> Int64:
        for step in steps[part]:
            v = step.apply(v[np.newaxis], 0, bias)[0]
        return v

    pieces = np.array([[low, high]])
    found, every = [pieces[0]], True
    for index, step in enumerate(steps):

        def before(v: Int64, index: int = index) -> Int64:
            return through(v, slice(index))

        ends = np.sort(np.stack([before(pieces[:, 0]), before(pieces[:, 1])], 1), 1).tolist()
        share = max(most // len(pieces), 4)
        if _crowded(step, ends, share):
            rest = steps[index:]
            ends = [_changing(rest, lambda v, at=index: through(v, slice(at, None)), *pair) for pair in ends]  # type: ignore[misc]
            every &= not _crowded(step, ends, share)
        edges = [_edges(step, first, last, share, near) for first, last in ends]
        at = np.repeat(np.arange(len(pieces)), [len(some) for some in edges])
        starts = _first_reaching(before, pieces[at], np.concatenate(edges))
        found += [starts, starts - 1]
        parts = _monotone(step, before, pieces, np.unique(starts))
        pieces = parts[np.linspace(0, len(parts) - 1, min(len(parts), PIECES)).astype(int)]
        every &= len(pieces) == len(parts)
    together = np.unique(np.concatenate(found))
    return together[(low <= together) & (together <= high)], every


def _edges(step: Bending, low: int, high: int, most: int, near: bool) -> Int64:
    if near:
        return step.edges(low, high, 0, most)
    firsts = {first + more for first in step.firsts(low, high, 0, most) for more in (0, 1)}
    return np.array(sorted(value for value in firsts if low <= value <= high), np.int64)


def _crowded(step: Bending, ends: list[Range], most: int) -> bool:
    """Whether a step may have more edges than it gives: one that gives half of what it is asked for gives all."""
    return any(len(step.firsts(low, high, 0, most)) > most // 2 for low, high in ends)


def _changing(steps: Sequence[Bending], behind: Callable[[Int64], Int64], low: int, high: int) -> Range:
    """The part of the incoming values low..high of steps outside which what comes out does not change."""
    if not all(step.keeps_order for step in steps):
        return low, high
    least, greatest = behind(np.array([low, high])).tolist()
    if least == greatest:
        return low, low
    past = least + (1 if greatest > least else -1)
    first, last = _first_reaching(behind, np.array([[low, high]] * 2), np.array([past, greatest])).tolist()
    return max(low, first - 1), min(high, last + 1)


def _first_reaching(function: Callable[[Int64], Int64], pieces: Int64, edges: Int64) -> Int64:
    """For each edge the least value of its piece whose image has reached it, coming from the piece's start.

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


def _monotone(step: Bending, before: Callable[[Int64], Int64], pieces: Int64, starts: Int64) -> Int64:
    """The parts of the pieces in which the function behind a step only rises or only falls.

    `starts`: values at which the step's incoming value meets an edge; it jumps at some of them.
    """
    if step.keeps_order:
        return pieces
    parts: list[Any] = []
    for low, high in pieces.tolist():
        inside = starts[(low < starts) & (starts <= high)]
        jumps = inside[step.side(before(inside)) != step.side(before(inside - 1))].tolist()
        parts += zip([low, *jumps], [*(jump - 1 for jump in jumps), high], strict=True)
    return np.array(parts)
