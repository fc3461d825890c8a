"""The parts of a memory in which all wrong values stand: a mistake may have been made in one of them only."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools
from qexport.findings.model import AnyModel

AXIS_NAMES = {
    "n": "image", "oc": "output channel", "it": "input tile", "kh": "tap row", "kw": "tap column", "py": "row",
    "px": "column", "oy": "row", "ox": "column", "bit": "bit", "m": "row", "p": "column",
}  # fmt: skip
WORDS = "word "  # with which the text of a part begins that is made of words
_PERIOD = 256  # after so many indices a pattern comes again, at most
_LISTED = 3  # indices that are named one by one


@dataclass(frozen=True, eq=False)
class Scope:
    """A part of a memory: the mask in the tensor's axes, and where it is, in words. `cost`: bits to choose it."""

    text: str
    mask: Bools
    cost: float


def scopes(m: AnyModel, wrong: Bools) -> list[Scope]:
    """The parts that hold all wrong values: those along one axis of the tensor, those together, those of its words."""
    if not wrong.any():
        return []
    along = [list(_along(m, axis, wrong)) for axis in range(wrong.ndim)]
    found = [scope for some in along for scope in some]
    found += _border(m, wrong)
    tight = [min(some, key=lambda scope: int(scope.mask.sum())) for some in along if some]
    if len(tight) > 1:
        together = np.logical_and.reduce([scope.mask for scope in tight])
        found.append(Scope(", ".join(scope.text for scope in tight), together, sum(scope.cost for scope in tight)))
    found += (of_words := list(_of_words(m, wrong)))
    for scope in of_words if tight else ():
        one = min(tight, key=lambda scope: int(scope.mask.sum()))
        found.append(Scope(f"{one.text}, {scope.text}", one.mask & scope.mask, one.cost + scope.cost))
    return found


def _along(m: AnyModel, axis: int, wrong: Bools) -> Iterator[Scope]:
    size = wrong.shape[axis]
    where = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
    for text, some, cost in _sets(where, size):
        mask = np.zeros(size, np.bool_)
        mask[some] = True
        shape = [-1 if at == axis else 1 for at in range(wrong.ndim)]
        yield Scope(f"{AXIS_NAMES[m.axes[axis]]} {text}", np.broadcast_to(mask.reshape(shape), wrong.shape), cost)


def _sets(where: Int64, size: int) -> Iterator[tuple[str, Sequence[int], float]]:
    """Sets of indices, not all, that hold those where something is wrong, and their cost: an index has log2(size) bits,
    and there are some axes and kinds of sets."""
    first, last = int(where[0]), int(where[-1])
    kind, index = 4.0, math.log2(size)
    step = int(np.gcd.reduce(np.diff(where))) if len(where) > 1 else 0
    if step > 1:
        start = first % step
        nth = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
        yield f"{start} and every {nth} behind it", range(start, size, step), kind + 2 * math.log2(step)
        if (first, last) != (start, range(start, size, step)[-1]):
            cost = kind + math.log2(step) + 2 * index
            yield f"{first} and every {nth} behind it up to {last}", range(first, last + 1, step), cost
        if len(where) <= _LISTED:
            yield ", ".join(map(str, where)), where.tolist(), kind + len(where) * index
    yield from _periods(where, size)
    if (first, last) != (0, size - 1):
        text = f"{first}" if first == last else f"{first} to {last}"
        if first != last and last == size - 1:
            text = f"{first} to the last"
        ends = 1 if first == last or first == 0 or last == size - 1 else 2
        yield text, range(first, last + 1), kind + ends * index


def _periods(where: Int64, size: int) -> Iterator[tuple[str, Sequence[int], float]]:
    """The few neighbours of every so many, where no other index is wrong."""
    best: tuple[float, int, int, int] | None = None
    for period in range(4, min(size // 2, _PERIOD) + 1) if len(where) > 3 else ():
        left = np.unique(where % period)
        length = int(left[-1] - left[0]) + 1
        if 1 < length <= period // 2 and (best is None or length / period < best[0]):
            best = (length / period, period, int(left[0]), length)
    if best is not None:
        _, period, start, length = best
        some = [at for at in range(size) if 0 <= at % period - start < length]
        yield f"{start} to {start + length - 1} of every {period}", some, 4.0 + 3 * math.log2(period)


def _border(m: AnyModel, wrong: Bools) -> Iterator[Scope]:
    rows, cols = ([at for at, axis in enumerate(m.axes) if axis in names] for names in (("oy", "py"), ("ox", "px")))
    if not rows or min(wrong.shape[rows[0]], wrong.shape[cols[0]]) < 3:
        return
    mask = np.ones(wrong.shape, np.bool_)
    inner = [slice(1, -1) if at in (rows[0], cols[0]) else slice(None) for at in range(wrong.ndim)]
    mask[tuple(inner)] = False
    for text, one in (("the border", mask), ("the inner part of the plane", ~mask)):
        if not (wrong & ~one).any():
            yield Scope(text, one, 4.0)


def _of_words(m: AnyModel, wrong: Bools) -> Iterator[Scope]:
    """Words, all files one after the other, and lanes."""
    blocks = m.tiling.tile(wrong.astype(np.int64)) != 0
    files, words, lanes = blocks.shape
    by_word = np.flatnonzero(blocks.any(axis=2))
    for text, some, cost in _sets(by_word, files * words):
        mask = np.zeros((files * words, lanes), np.int64)
        mask[some] = 1
        yield Scope(f"{WORDS}{text}", m.tiling.untile(mask.reshape(blocks.shape)) == 1, cost)
    for text, some, cost in _sets(np.flatnonzero(blocks.any(axis=(0, 1))), lanes) if lanes > 1 else ():
        mask = np.zeros((files, words, lanes), np.int64)
        mask[:, :, some] = 1
        yield Scope(f"lane {text}", m.tiling.untile(mask) == 1, cost)
