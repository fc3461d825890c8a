"""What several stages need to build their changes: tiles, orders and delays."""

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import numpy as np

from qexport.core.intformat import Int64


def _tiles(weight: Int64, row: int, col: int) -> Int64:
    """(oc, ic, kh, kw) to (ot, col, it, row, kh, kw), ragged tiles filled with 0."""
    oc, ic, kh, kw = weight.shape
    full = np.pad(weight, ((0, -oc % col), (0, -ic % row), (0, 0), (0, 0)))
    return full.reshape(len(full) // col, col, full.shape[1] // row, row, kh, kw)


def _whole(tiles: Int64, shape: tuple[int, ...]) -> Int64:
    """The tiles back to weights of that shape."""
    ot, col, it, row, kh, kw = tiles.shape
    return tiles.reshape(ot * col, it * row, kh, kw)[: shape[0], : shape[1]]


def on_tiles(row: int, col: int, change: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    return lambda weight: _whole(change(_tiles(weight, row, col)), weight.shape)


def reordered(axis: int, order: Sequence[int]) -> Callable[[Int64], Int64]:
    """Index `order` along an axis."""
    return lambda values: np.take(values, order, axis=axis)


def by_taps(change: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    """A change of (oc, ic, taps)."""
    return lambda weight: change(weight.reshape(*weight.shape[:2], -1)).reshape(weight.shape)


def wrong_orders(count: int) -> Iterator[tuple[str, list[int], bool]]:
    """Wrong orders of `count` things; the likeliest also in pairs."""
    if count < 2:
        return
    straight = list(range(count))
    swapped = [i ^ 1 if i ^ 1 < count else i for i in straight]
    seen = {tuple(straight)}
    for detail, order, pair in (
        ("reversed", straight[::-1], True),
        ("rotated by one", straight[1:] + straight[:1], True),
        ("rotated back by one", straight[-1:] + straight[:-1], False),
        ("neighbours swapped", swapped, True),
        ("even before odd", straight[::2] + straight[1::2], False),
        ("first half and second half interleaved", _interleaved(count), False),
        *((f"rotated by {by}", straight[by:] + straight[:by], False) for by in range(2, min(count, 16))),
        *((f"{i} and {i + 1} exchanged", _exchanged(count, i), False) for i in range(min(count - 1, 16))),
        *((f"{list(p)}", list(p), False) for p in (permutations(straight) if count <= 4 else ())),
    ):
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield detail, order, pair


def _interleaved(count: int) -> list[int]:
    half = (count + 1) // 2
    return [i for pair in zip(range(half), range(half, half * 2), strict=True) for i in pair if i < count]


def _exchanged(count: int, i: int) -> list[int]:
    return [*range(i), i + 1, i, *range(i + 2, count)]


def of_tiles(count: int, size: int, order: Sequence[int]) -> list[int]:
    """Indices of `count` things dealt to tiles of `size`, the tiles in another order; a ragged one stays ragged."""
    return [i for tile in order for i in range(tile * size, min((tile + 1) * size, count))]


def each_tile_reversed(count: int, size: int) -> list[int]:
    """Indices of `count` things dealt to tiles of `size`, each tile backwards; of a ragged one those that it has."""
    return [i for start in range(0, count, size) for i in reversed(range(start, min(start + size, count)))]


DELAYS: tuple[tuple[str, Callable[[Int64, int], Int64]], ...] = (
    ("late by r", lambda r, rows: r),
    ("early by r", lambda r, rows: -r),
    ("late by the rows after r", lambda r, rows: rows - 1 - r),
    ("early by the rows after r", lambda r, rows: r - rows + 1),
)


def delayed(values: Int64, by: Int64, edge: str) -> Int64:
    """(c, streams, time): line c comes by[c] steps later; before it the edge: 'zero', 'cyclic' or the stream before."""
    out = np.zeros_like(values)
    steps = values.shape[2]
    for delay in np.unique(by):
        lines = by == delay
        part = values[lines]
        if edge == "carry":
            part = part.reshape(len(part), 1, -1)
        if edge == "cyclic":
            moved = np.roll(part, delay, axis=2)
        else:
            moved = np.zeros_like(part)
            if 0 <= delay < part.shape[2]:
                moved[:, :, delay:] = part[:, :, : part.shape[2] - delay]
            elif -part.shape[2] < delay < 0:
                moved[:, :, :delay] = part[:, :, -delay:]
        out[lines] = moved.reshape(-1, values.shape[1], steps)
    return out


def delayed_planes(by: Int64, edge: str) -> Callable[[Int64], Int64]:
    """The planes (n, ic, y, x), each position after the other, channel c by[c] steps later."""

    def change(planes: Int64) -> Int64:
        n, channels = planes.shape[:2]
        streams = planes.reshape(n, channels, -1).swapaxes(0, 1)
        return delayed(streams, by, edge).swapaxes(0, 1).reshape(planes.shape)

    return change
