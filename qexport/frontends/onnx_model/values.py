"""What is known of a tensor of a graph: constant, codes on a grid, or a line of a layer's sums."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.codes import CodeFormat
from qexport.core.geometry import Conv2d, Linear, MatMul, Shape, Sum
from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import MaxPool, Round, SumPool

Reals = NDArray[np.float64]
Sides = tuple[int, int, int, int]  # top, bottom, left, right
NO_SIDES: Sides = (0, 0, 0, 0)
WHOLE = 1e-3  # how far a code may lie from a whole number: float32 has no better


@dataclass(frozen=True)
class View:
    """What lies between a tensor of shape `start` and one of the same elements: reshapes and permutations, in C order.

    `moves`: ("reshape", sizes) and ("permute", axes); neighbours of a kind are one.
    """

    start: Shape
    moves: tuple[tuple[str, Shape], ...] = ()

    @property
    def shape(self) -> Shape:
        """Of the tensor behind it."""
        shape = self.start
        for kind, numbers in self.moves:
            shape = numbers if kind == "reshape" else tuple(shape[axis] for axis in numbers)
        return shape

    def reshaped(self, sizes: Sequence[int]) -> "View":
        before = self
        if self.moves and self.moves[-1][0] == "reshape":
            before = View(self.start, self.moves[:-1])
        sizes = tuple(sizes)
        return before if before.shape == sizes else replace(before, moves=(*before.moves, ("reshape", sizes)))

    def permuted(self, axes: Sequence[int]) -> "View":
        before, axes = self, tuple(axes)
        if self.moves and self.moves[-1][0] == "permute":
            before = View(self.start, self.moves[:-1])
            axes = tuple(self.moves[-1][1][axis] for axis in axes)
        same = axes == tuple(range(len(axes)))
        return before if same else replace(before, moves=(*before.moves, ("permute", axes)))

    def then(self, other: "View") -> "View":
        view = self
        for kind, numbers in other.moves:
            view = view.reshaped(numbers) if kind == "reshape" else view.permuted(numbers)
        return view

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same for an array whose first axis may be longer: further images, one run after the other."""
        runs = [self._of_one(part) for part in np.split(array, len(array) // self.start[0])]
        return np.concatenate(runs)

    def _of_one(self, array: NDArray[Any]) -> NDArray[Any]:
        for kind, numbers in self.moves:
            array = array.reshape(numbers) if kind == "reshape" else array.transpose(numbers)
        return array

    def undone(self, array: NDArray[Any]) -> NDArray[Any]:
        """The tensor before it, from that behind it."""
        places = self._of_one(np.arange(math.prod(self.start)).reshape(self.start)).ravel()
        runs = array.reshape(-1, len(places))
        out = np.empty_like(runs)
        out[:, places] = runs
        return out.reshape(-1, *self.start[1:])

    def written(self) -> list[list[Any]]:
        """For a network file, where the first axis may have any size: 0 keeps a size."""
        written, before = [], self.start
        for kind, numbers in self.moves:
            if kind == "reshape":
                kept = numbers[:1] == before[:1]
                written.append(["reshape", 0 if kept else -1, *numbers[1:]])
                before = numbers
            else:
                written.append(["permute", *numbers])
                before = tuple(before[axis] for axis in numbers)
        return written


@dataclass(frozen=True, eq=False)
class Grid:
    """A tensor of codes, or, where `real`, of their real values.

    `sources`: names of the layers, or of what is fed, whose output codes these are, one behind the other along axis 1;
    `view`: what lies between. `tensor`: where the graph has them, as codes where `integers`; `moved`: what lies
    between. `pad`: the sides of a plane where zero points stand around them.
    """

    format: CodeFormat
    real: bool
    sources: tuple[str, ...]
    view: View
    tensor: str
    integers: bool
    moved: View
    pad: Sides = NO_SIDES

    @classmethod
    def of(cls, format: CodeFormat, sources: tuple[str, ...], view: View, tensor: str, integers: bool) -> "Grid":
        """The codes in a tensor of the graph, or their real values."""
        return cls(format, not integers, sources, view, tensor, integers, View(view.shape))

    def reshaped(self, shape: Shape) -> "Grid":
        return replace(self, view=self.view.reshaped(shape), moved=self.moved.reshaped(shape))

    def permuted(self, axes: Sequence[int]) -> "Grid":
        return replace(self, view=self.view.permuted(axes), moved=self.moved.permuted(axes))

    @property
    def shape(self) -> Shape:
        return self.view.shape

    @property
    def plain(self) -> bool:
        """Whether no padding is around."""
        return self.pad == NO_SIDES


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers; with `codes` and `format` where they lie on a grid, `axis`: along which its scales differ."""

    array: NDArray[Any]
    codes: Int64 | None = None
    format: CodeFormat | None = None
    axis: int | None = None


@dataclass(frozen=True)
class Quantizer:
    """code = round(real / step + inside) + behind, within low..high; real value of a code: scale x (code - zero_point).

    `tensor`: what it gives, as codes where `integers`. `bipolar`: 1 for real values of at least 0, else -1.
    """

    tensor: str
    integers: bool
    scale: float
    zero_point: int
    low: int
    high: int
    step: float
    inside: float = 0.0
    behind: int = 0
    rounding: Round = "half_even"
    bipolar: bool = False

    @property
    def format(self) -> CodeFormat:
        least, most = min(self.low, self.zero_point), max(self.high, self.zero_point)
        integer = IntFormat.holding(least, most, least < 0)
        return CodeFormat(bits=integer.bits, signed=integer.signed, scale=self.scale, zero_point=self.zero_point)

    @classmethod
    def like(cls, format: CodeFormat, tensor: str, integers: bool) -> "Quantizer":
        """One that leaves codes of the format as they are."""
        scale, zero, integer = format.scales[0], format.zero_points[0], format.integer
        return cls(tensor, integers, scale, zero, integer.low, integer.high, step=scale, behind=zero)


@dataclass(eq=False)
class Call:
    """One operation of the graph that becomes a layer: its geometry and operands.

    `unit`: the real value of its sum 1, of each channel; `bias` counts in it. `closings`: each quantizer behind it, and
    by which line; `lost`: the operation that is not understood behind it. `shape`: of its sums, for one run. `seen`:
    the tensor of the graph with their real values, `factor` x sum + `added`, and what lies between. `end`: the last
    line of them, where no quantizer follows.
    """

    name: str
    layer: Conv2d | Linear | MatMul | Sum
    operands: dict[str, tuple[Grid, View]]
    unit: Reals
    shape: Shape
    weight: Constant | None = None
    bias: Int64 | None = None
    relu: bool = False
    closings: list["Closing"] = field(default_factory=list)
    lost: str | None = None
    seen: tuple[str, View] | None = None
    factor: float = 1.0
    added: Reals | None = None
    end: "Line | None" = None


@dataclass(frozen=True, eq=False)
class Closing:
    """A quantizer behind a call. `part`: where along axis 1 of the quantizer's tensor its codes begin, if it is one
    of several; `name`: of the layer that ends so."""

    name: str
    line: "Line"
    quantizer: Quantizer
    part: int | None = None


@dataclass(frozen=True, eq=False)
class Line:
    """tensor = slope x sum + start, within low..high, for each channel of the call.

    `summed`: a pool of the sums before that; `pools`: of the tensor, behind it. `view`: from the layer's axes to the
    tensor's, of which `axis` has the channels.
    """

    call: Call
    slope: Reals
    start: Reals
    low: Reals
    high: Reals
    view: View
    axis: int | None
    summed: SumPool | None = None
    pools: tuple[MaxPool, ...] = ()

    @classmethod
    def of(cls, call: Call, view: View, axis: int | None, bias: Reals | None = None) -> "Line":
        """The sums of a call, with a real bias."""
        ends = np.full(1, -np.inf), np.full(1, np.inf)
        return cls(call, call.unit, np.zeros(1) if bias is None else bias, *ends, view, axis)

    def times(self, by: Reals) -> "Line | None":
        if self.pools and not (by > 0).all():
            return None  # the largest of a window is not the largest any more
        with np.errstate(invalid="ignore"):  # infinity x 0
            ends = [np.where(by == 0, 0, end * by) for end in (self.low, self.high)]
        return replace(
            self, slope=self.slope * by, start=self.start * by, low=np.minimum(*ends), high=np.maximum(*ends)
        )

    def plus(self, value: Reals) -> "Line":
        return replace(self, start=self.start + value, low=self.low + value, high=self.high + value)

    def limited(self, low: float = -np.inf, high: float = np.inf) -> "Line":
        return replace(self, low=np.clip(self.low, low, high), high=np.clip(self.high, low, high))

    @property
    def free(self) -> bool:
        """Whether nothing limits or pools it."""
        return not self.pools and self.summed is None and bool(np.isinf([self.low, self.high]).all())

    def viewed(self, view: View, axis: int | None) -> "Line":
        return replace(self, view=view, axis=axis)


@dataclass(frozen=True, eq=False)
class Joined:
    """A concatenation along axis 1 of what is not on one grid yet."""

    parts: tuple[Line | Grid, ...]


Value = Grid | Constant | Line | Joined


def moved_axis(axis: int | None, old: Sequence[int], new: Sequence[int]) -> int | None:
    """Where an axis of the old shape stands in the new one of the same elements; None where it is gone."""
    if axis is None:
        return None
    before, size = math.prod(old[:axis]), old[axis]
    for at, length in enumerate(new):
        if length == size and math.prod(new[:at]) == before:
            return at
    return None
