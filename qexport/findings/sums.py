"""The accumulation step by step, as the array does it.

The arithmetic is exact: products are summed in float64, which is fast, only where no sum can leave its 53 bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import accumulate


def reach(weight: Int64, seen: Int64) -> int:
    """No sum of products is larger in size."""
    return int(weight[0].size * int(np.abs(weight).max()) * max(int(np.abs(seen).max()), 1))


@dataclass(frozen=True, eq=False)
class Psums:
    """What each input tile and tap adds: `weight` (oc, ic, kh, kw) and `planes` (n, ic, py, px) as of Sums; `total`
    (n, it, kh, kw, oc, py, px)."""

    weight: Int64
    planes: Int64
    groups: int
    row: int
    outputs: Int64
    total: Int64


@dataclass(frozen=True, eq=False)
class Sums:
    """The accumulation of one part: what each step of the array adds.

    `weight` (oc, ic, kh, kw) and `seen` patches (n, ic, kh, kw, oy, ox) of all groups, or of one group with some of
    its outputs; `images` and `outputs` say which of the layer's they are.
    """

    weight: Int64
    seen: Int64
    bias: Int64 | None
    groups: int
    row: int
    images: Int64
    outputs: Int64

    @property
    def offset(self) -> Int64:
        """The bias, (oc, 1, 1)."""
        bias = np.zeros(len(self.weight), np.int64) if self.bias is None else self.bias
        return bias[:, np.newaxis, np.newaxis]

    @cached_property
    def _reach(self) -> int:
        return reach(self.weight, self.seen)

    @cached_property
    def total(self) -> Int64:
        """The convolution without bias, (n, oc, oy, ox)."""
        return accumulate(self.weight, self.seen, None, self.groups, self._reach)

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
        dtype: type[Any] = np.float64 if self._reach < 2**53 else np.int64
        taps: NDArray[Any] = self.weight.reshape(groups, outputs, inputs, kh * kw).astype(dtype)
        taps = np.pad(taps, ((0, 0), (0, 0), (0, ragged), (0, 0))).reshape(groups, outputs, tiles, row, kh * kw)
        seen: NDArray[Any] = self.seen.reshape(n, groups, inputs, kh * kw, rows * cols).astype(dtype)
        seen = np.pad(seen, ((0, 0), (0, 0), (0, ragged), (0, 0), (0, 0)))
        seen = seen.reshape(n, groups, tiles, row, kh * kw, rows * cols)
        left = np.ascontiguousarray(taps.transpose(2, 4, 0, 1, 3))[:, :, np.newaxis]  # (it, k, 1, g, oc, row)
        right = np.ascontiguousarray(seen.transpose(2, 4, 0, 1, 3, 5))  # (it, k, n, g, row, oy * ox)
        out: NDArray[Any] = np.matmul(left, right)
        return out.reshape(tiles, kh * kw, n, groups * outputs, rows, cols).astype(np.int64)


def with_bias(bias: Int64) -> Callable[[Sums], Int64]:
    """The accumulation with another bias (oc)."""
    return lambda sums: sums.total + bias[sums.outputs][:, np.newaxis, np.newaxis]
