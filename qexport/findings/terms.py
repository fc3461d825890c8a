"""What one output channel multiplies and adds, product by product: of a convolution, a matrix product, or of psums."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools
from qexport.findings.sums import Psums, Sums

Order = tuple[str, ...]  # the loops over tiles, taps and rows, the last one the fastest; without rows a step adds them


@dataclass(frozen=True, eq=False)
class Terms:
    """The factors of an output channel where they broadcast: (n, tile, row, tap, y, x), zero points taken off.

    At single places of the results: (place, tile, row, tap). `zero`: the zero point of the weights; `start`: what the
    sums begin with; `there`: rows that hold an input channel, others are filled with 0.
    """

    weight: Int64
    seen: Int64
    zero: Int64
    start: Int64
    there: Bools

    @property
    def rows(self) -> int:
        return int(self.weight.shape[2])

    def of(self, row: int) -> tuple[Int64, Int64]:
        """The weights and inputs of a row, without its axis."""
        return self.weight[:, :, row], self.seen[:, :, row]

    @cached_property
    def by_row(self) -> list[Int64]:
        """What each row gives."""
        return [weight * seen for weight, seen in map(self.of, range(self.rows))]

    def added(self, order: Order) -> Iterator[Int64]:
        """What is added one after the other."""
        sizes = {"tile": self.weight.shape[1], "row": self.rows, "tap": self.weight.shape[3]}
        for at in np.ndindex(*(sizes[loop] for loop in order)):
            where = dict(zip(order, at, strict=True))
            some = (slice(None), where["tile"], where.get("row", slice(None)), where["tap"])
            product = self.weight[some] * self.seen[some]
            yield product if "row" in where else product.sum(axis=1)

    def at(self, n: Int64, tile: Any, tap: Any, y: Int64, x: Int64) -> "Terms":
        """At some places of the results; `tile`, `tap`: those of psums, whose places are of one tile and tap."""
        psum = tile is not None

        def taken(array: Int64) -> Int64:
            n_, tile_, tap_, y_, x_ = (
                index if array.shape[axis] > 1 else 0 * n
                for index, axis in ((n, 0), (tile, 1), (tap, 3), (y, 4), (x, 5))
            )
            if psum:
                return array[n_, tile_, :, tap_, y_, x_][:, np.newaxis, :, np.newaxis]
            whole: Int64 = array[n_, :, :, :, y_, x_]
            return whole

        there = self.there[0, tile][:, np.newaxis] if psum else self.there
        begun = self.start[tuple(i if self.start.shape[axis] > 1 else 0 * n for axis, i in enumerate((n, y, x)))]
        return Terms(taken(self.weight), taken(self.seen), self.zero, begun, there)


def terms_of_sums(sums: Sums, output: int, zero: Int64) -> Terms:
    """Of one output of an accumulation."""
    inputs, outputs = sums.weight.shape[1], len(sums.weight) // sums.groups
    first = output // outputs * inputs
    n, _, kh, kw, oy, ox = sums.seen.shape
    weight = sums.weight[output].reshape(1, inputs, kh * kw, 1, 1)
    seen = sums.seen[:, first : first + inputs].reshape(n, inputs, kh * kw, oy, ox)
    return _by_tiles(weight, seen, zero, sums.offset[output][np.newaxis], sums.row)


def terms_of_psums(psums: Psums, output: int, zero: Int64) -> Terms:
    """Of the psums of one output; every tap meets the whole plane."""
    inputs, outputs = psums.weight.shape[1], len(psums.weight) // psums.groups
    first = output // outputs * inputs
    weight = psums.weight[output].reshape(1, inputs, -1, 1, 1)
    seen = psums.planes[:, first : first + inputs, np.newaxis]
    return _by_tiles(weight, seen, zero, np.zeros((1, 1, 1), np.int64), psums.row)


def terms_of_product(left: Int64, right: Int64, start: Int64, row: int) -> Terms:
    """Of one column of a matrix product: left (n, m, k), right (n, k), start (n, m)."""
    weight = right[:, :, np.newaxis, np.newaxis, np.newaxis]
    seen = left.swapaxes(1, 2)[:, :, np.newaxis, :, np.newaxis]
    return _by_tiles(weight, seen, np.array(0), start[..., np.newaxis], row)


def _by_tiles(weight: Int64, seen: Int64, zero: Int64, start: Int64, row: int) -> Terms:
    """Of factors (n, channel, tap, y, x)."""
    inputs = weight.shape[1]
    tiles = math.ceil(inputs / row)

    def tiled(array: Int64) -> Int64:
        ragged = tiles * row - inputs
        full = np.pad(array, ((0, 0), (0, ragged), *[(0, 0)] * 3)) if ragged else array
        return full.reshape(len(array), tiles, row, *array.shape[2:])

    there = (np.arange(tiles * row) < inputs).reshape(1, tiles, row, 1)
    return Terms(tiled(weight), tiled(seen), zero, start, there)
