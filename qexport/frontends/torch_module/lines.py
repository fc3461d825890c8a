"""What is known of a tensor in a forward pass: which integers or sums its numbers stem from, and by which line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qexport.core.steps import MaxPool, Relu, Step, SumPool

Reals = NDArray[np.float64]
MERGED = -1  # the axis of a line of which a view has joined the channels with other axes, in their order
WHOLE = 1e-3  # how far a zero point or a limit may lie from a whole number, in codes: float32 has no better


@dataclass(eq=False)
class Call:
    """One call of a layer. A sum, `mul` the signs of its operands, is one where a quantizer ends it; it has no number.

    `refused`: why it cannot be captured. `kept`: whether its tensors are. `found`: what became of its sum at each
    rounding to which constants alone lead; `last`: the line of the last such tensor; `lost`: the operation that is
    not understood behind it.
    """

    name: str
    index: int | None
    kind: str
    kept: bool
    mul: tuple[int, ...] = ()
    refused: str | None = None
    operands: dict[str, Tensor] = field(default_factory=dict)
    lines: dict[str, "Line | None"] = field(default_factory=dict)
    bias: Tensor | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    output: Tensor | None = None
    relu: bool = False
    found: dict["Codes", tuple["Line", Tensor]] = field(default_factory=dict)
    last: "Line | None" = None
    lost: str | None = None


@dataclass(frozen=True, eq=False)
class Codes:
    """Integers that a rounding gave. `before`: the line of what was rounded, where it comes from a layer's sum;
    `zero_point`: what was added behind the rounding."""

    before: "Line | None" = None
    zero_point: int = 0


class Real:
    """Numbers of an origin that does not matter; their limits do."""


@dataclass(frozen=True, eq=False)
class Line:
    """tensor = slope x source + start, within low..high.

    The numbers are one, or one for each index along the tensor's `axis`. Limits have two rows: all that hold, and those
    that clamps set, without activation functions: a quantizer has its own range whatever comes in. `pools` stand
    between source and tensor; `before`: steps of the source itself, before slope and start.
    """

    source: Call | Codes | Real
    slope: Reals
    start: Reals
    low: Reals
    high: Reals
    axis: int | None = None
    pools: tuple[MaxPool, ...] = ()
    before: tuple[Step, ...] = ()

    @classmethod
    def of(cls, source: Call | Codes | Real, low: float = -np.inf, high: float = np.inf) -> "Line":
        """The source itself."""
        return cls(source, np.ones(1), np.zeros(1), np.full((2, 1), low), np.full((2, 1), high))

    def times(self, by: Reals) -> "Line | None":
        if self.pools and not (by > 0).all():
            return None  # the largest of a window is not the largest any more
        with np.errstate(invalid="ignore"):  # infinity x 0
            # what is multiplied by 0 needs no limit that it has not
            ends = [np.where(by == 0, np.where(np.isinf(end), end, 0), end * by) for end in (self.low, self.high)]
        return replace(
            self, slope=self.slope * by, start=self.start * by, low=np.minimum(*ends), high=np.maximum(*ends)
        )

    def plus(self, value: Reals) -> "Line":
        return replace(self, start=self.start + value, low=self.low + value, high=self.high + value)

    def limited(self, low: Any = -np.inf, high: Any = np.inf, clamp: bool = True) -> "Line":
        """`clamp`: whether a quantizer may mean it, not an activation function alone."""
        rows = np.array([[True], [clamp]])
        least, most = np.where(rows, low, -np.inf), np.where(rows, high, np.inf)
        return replace(self, low=np.clip(self.low, least, most), high=np.clip(self.high, least, most))

    def averaged(self, pool: SumPool) -> "Line | None":
        """The averages of windows. A ReLU before comes before slope and start, too, where there is no start."""
        if self.pools or self.before:
            return None
        free = replace(self, slope=self.slope / math.prod(pool.kernel), before=(pool,))
        if np.isinf([self.low, self.high]).all():
            return None if self.start.any() and any(pool.padding) else free
        if self.low.max() > 0 or self.low[0].min() < 0 or np.isfinite(self.high).any() or self.start.any():
            return None
        return replace(free, before=(Relu(), pool)) if (self.slope > 0).all() else None

    def compact(self) -> "Line":
        """The same, with one number in place of equal ones."""
        facts = {name: getattr(self, name) for name in ("slope", "start", "low", "high")}
        facts = {name: found[..., :1] if (found == found[..., :1]).all() else found for name, found in facts.items()}
        varied = any(found.shape[-1] > 1 for found in facts.values())
        return replace(self, **facts, axis=self.axis if varied else None)

    def anonymous(self) -> "Line":
        """The same for a tensor of other elements: that the codes come from a layer's sum is forgotten."""
        return replace(self, source=Codes()) if isinstance(self.source, Codes) else self

    def viewed(self, old: Sequence[int], new: Sequence[int]) -> "Line | None":
        """The line of the same elements in another shape; None where its axis is gone."""
        if tuple(old) == tuple(new):
            return self
        if self.axis is None:
            return self.anonymous()
        if self.axis != MERGED:
            before, size = int(np.prod(old[: self.axis])), old[self.axis]
            for axis, length in enumerate(new):
                if length == size and int(np.prod(new[:axis])) == before:
                    return replace(self.anonymous(), axis=axis)
        if not isinstance(self.source, Codes):
            return replace(self, axis=MERGED)
        if max(len(self.slope), len(self.start)) > 1:
            return None
        return replace(
            self, source=Codes(), low=self.low.min(keepdims=True), high=self.high.max(keepdims=True), axis=None
        )

    def permuted(self, axes: Sequence[int]) -> "Line":
        axis = None if self.axis is None else list(axes).index(self.axis)
        return replace(self.anonymous(), axis=axis)

    @property
    def zero_point(self) -> Reals:
        """The code that stands for 0."""
        return -self.start / self.slope

    @property
    def code_limits(self) -> tuple[Reals, Reals]:
        """The least and greatest code, in two rows as limits are."""
        low, high = (self.low - self.start) / self.slope, (self.high - self.start) / self.slope
        return np.ceil(low - WHOLE), np.floor(high + WHOLE)

    @property
    def own_range(self) -> tuple[float, float]:
        """The codes that the quantizer can give, whatever comes in; infinite where nothing limits them."""
        low, high = self.code_limits
        least, most = ([float(row) for row in rows] for rows in (low.min(axis=1), high.max(axis=1)))
        return least[int(np.isfinite(least[1]))], most[int(np.isfinite(most[1]))]
