"""The steps behind the accumulator: each one record, an exact integer function with its range, edges and parameters.

What other rooms know of a step (its Verilog, its hypotheses) they register by its class, beside their own code.
"""

import functools
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from qexport.core.budget import CHAIN, LEVELS, STEP_ELEMENTS
from qexport.core.geometry import NotNegative, Positive
from qexport.core.intformat import Int64, IntFormat
from qexport.core.tensors import Range
from qexport.errors import QexportError

Ints = NDArray[Any]  # int64; Python's integers where a range is proven, so that nothing overflows
Numbers = int | tuple[int, ...]  # one, or one for each channel
Table = tuple[tuple[int, ...], ...]
Round = Literal["floor", "half_up", "half_even", "half_away", "toward_zero"]
Shift = Annotated[int, Meta(ge=0, le=62)]

CHANNEL = "channel"  # stands for the axis along which parameters run: oc, or what the operation has in its place
VALUE = IntFormat(63, True)  # every value of every step
INLINE = 64  # longer lists leave the JSON of a capture
EDGES = 256  # of one step and channel that a stress capture tries, at most


def shift_right(v: Ints, by: Any, rounding: Round) -> Ints:
    """v / 2^by, rounded to an integer: the definition of every rounding. `by` is 0..62, v has 63 bits."""
    below = v >> by
    one, rest = 1 << by, v - (below << by)
    match rounding:
        case "floor":
            up = 0
        case "half_up":
            up = 2 * rest >= one
        case "half_even":
            up = 2 * rest + (below & 1) > one
        case "half_away":
            up = 2 * rest + (v >= 0) > one
        case "toward_zero":
            up = (v < 0) & (rest > 0)
    result: Ints = below + up
    return result


def levels_reached(table: Int64, v: Ints, axis: int) -> Int64:
    """How many of its channel's ascending levels, table (channel, level), each element reaches; axis: the channels."""
    values = np.moveaxis(np.asarray(v, np.int64), axis, 0)
    counts = np.empty(values.shape, np.int64)
    for channel, levels in enumerate(table):
        counts[channel] = np.searchsorted(levels, values[channel], side="right")
    return np.moveaxis(counts, 0, axis)


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor on its way through a chain. `axes` begin with n, `sizes` are those of the others; `channel` is the axis
    along which lists of parameters run; `low`, `high`: the least and greatest element of each channel."""

    axes: tuple[str, ...]
    channel: str
    sizes: tuple[int, ...]
    low: Ints
    high: Ints

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(object))

    @property
    def axis(self) -> int:
        return self.axes.index(self.channel)

    @property
    def channels(self) -> int:
        return len(self.low)

    @property
    def range(self) -> Range:
        """The least and greatest element of all channels."""
        return int(self.low.min()), int(self.high.max())

    @property
    def plane(self) -> tuple[int, int] | None:
        """(oy, ox) sizes; None where there is no plane."""
        return (self.sizes[-2], self.sizes[-1]) if self.axes[-2:] == ("oy", "ox") else None


@dataclass(frozen=True, eq=False)
class Parameter:
    """The numbers of a step as a tensor."""

    axes: tuple[str, ...]
    values: Int64


class Step(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    dict=True,
    tag_field="op",
):
    """One exact integer function. Errors name the operation and field; who knows the step's name puts it before."""

    name: Annotated[str, Meta(max_length=100)] | None = None

    numbers: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # fields that an accelerator keeps in a memory -> axes
    monotone: ClassVar[bool] = True  # whether it only rises, or only falls

    def __post_init__(self) -> None:
        for field, array in self.arrays.items():
            for value in (int(array.min()), int(array.max())):
                self._need(field, value, *self.limits(field))

    def limits(self, field: str) -> Range:
        """Within which the numbers of a field must lie."""
        return VALUE.low, VALUE.high

    @property
    def op(self) -> str:
        return str(self.__struct_config__.tag)

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        """What the step gives for v, whose channels run along `axis`; `bias` (channel) is the layer's."""
        raise NotImplementedError

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        """The least and greatest value that it gives for any integer in each channel's range.

        This one is for functions that only rise, or only fall.
        """
        ends = self.apply(before.low, 0, bias), self.apply(before.high, 0, bias)
        return np.minimum(*ends), np.maximum(*ends)

    def sizes(self, before: Signal) -> tuple[int, ...]:
        """The sizes of the axes behind n."""
        return before.sizes

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        """Incoming values at which the function bends or jumps, at most about `most`."""
        return ()

    def edges(self, low: int, high: int, channel: int = 0, most: int = EDGES) -> Int64:
        """Incoming values from low to high, ascending: the ends, both signs, each side of at most `most` edges."""
        firsts = self.firsts(low, high, channel, most)
        near = {low, high, *(first + side for first in (0, *firsts) for side in (-1, 0, 1))}
        return np.array(sorted(value for value in near if low <= value <= high), np.int64)

    def of_channels(self, channels: Sequence[int]) -> "Step":
        """The step of these channels alone."""
        own = {
            field: tuple(tuple(row) if isinstance(row, list) else row for row in self.arrays[field][channels].tolist())
            for field, axes in self.numbers.items()
            if axes[0] == CHANNEL and self.arrays[field].ndim
        }
        return msgspec.structs.replace(self, **own) if own else self

    def parameters(self, channel: str, channels: int) -> dict[str, Parameter]:
        """The numbers by field; a single one counts as equal ones of all channels."""
        found = {}
        for field, axes in self.numbers.items():
            array = self.arrays[field]
            values = array if array.ndim else np.full(channels, array)
            found[field] = Parameter(tuple(channel if axis == CHANNEL else axis for axis in axes), values)
        return found

    def after(self, before: Signal, bias: Int64 | None) -> Signal:
        """What it makes of a tensor; raises QexportError where the two do not fit, or 63 bits do not hold a value."""
        for field, axes in self.numbers.items():
            array = self.arrays[field]
            if array.ndim and axes[0] == CHANNEL and len(array) != before.channels:
                raise self._error(
                    field, f"has {len(array)} entries for {before.channels} channels; give one for each channel"
                )
        sizes = self.sizes(before)
        low, high = self.range(before, None if bias is None else bias.astype(object))
        outside = (low < VALUE.low) | (high > VALUE.high)
        if outside.any():
            channel = int(np.argmax(outside))
            raise QexportError(
                f"{self.op}: values of channel {channel} reach {low[channel]}..{high[channel]}, which 63 bits do not "
                "hold; use smaller numbers, or shift or clamp before it"
            )
        return Signal(before.axes, before.channel, sizes, low, high)

    @cached_property
    def arrays(self) -> dict[str, Int64]:
        """The numbers by field, as arrays; raises QexportError where they make none."""
        return {field: self._array(field) for field in self.numbers}

    def _array(self, field: str) -> Int64:
        try:
            array = np.array(getattr(self, field), np.int64)
        except OverflowError:
            raise self._error(field, "holds a number beyond 63 bits; use smaller numbers") from None
        except ValueError:
            raise self._error(field, "has rows of different lengths; give every channel as many") from None
        if not array.size:
            raise self._error(field, "is empty; give at least one number")
        array.flags.writeable = False
        return array

    def _need(self, field: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise self._error(field, f"{value} is outside {low}..{high}; give a number inside")

    def _error(self, field: str, what: str) -> QexportError:
        return QexportError(f"{self.op}: {field} {what}")

    def _along(self, field: str, v: Ints, axis: int) -> Int64:
        return _along(self.arrays[field], v.ndim, axis)

    def _of(self, field: str, channel: int) -> int:
        """A field's number for one channel."""
        values = self.arrays[field]
        return int(values[channel] if values.ndim else values)


def _along(values: Ints, ndim: int, axis: int) -> Ints:
    """Numbers of channels in a shape that broadcasts along the channels' axis; a single number as it is."""
    return values.reshape([-1 if at == axis else 1 for at in range(ndim)]) if values.ndim else values


def _some(first: int, last: int, most: int) -> list[int]:
    """The integers first..last; of many, runs of four neighbours, so that ties to even and to odd are among them."""
    if last - first < most:
        return list(range(first, last + 1))
    runs = max(most // 4, 3)
    starts = [first + (last - 3 - first) * at // (runs - 1) for at in range(runs)]
    if first < -2 and last > 1:
        starts[1 + np.argmin(np.abs(np.array(starts[1:-1], object)))] = -2
    return sorted({start + side for start in starts for side in range(4)})


def _halves(low: int, high: int, by: int, most: int) -> list[int]:
    """Multiples of half a step of 2^by: where every rounding has its edges."""
    if by == 0 or low > high:
        return []
    half = 1 << (by - 1)
    return [half * at for at in _some(-(-low // half), high // half, most)]


class Bias(Step, frozen=True, tag="bias"):
    """v + bias x 2^shift: the layer's bias, which the accumulator is then without."""

    shift: Shift = 0

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        assert bias is not None
        result: Ints = v + (_along(bias, v.ndim, axis) << self.shift)
        return result

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        if bias is None:
            raise QexportError("bias: the layer has no bias; leave the step out or give the layer a bias")
        return super().range(before, bias)


class Multiply(Step, frozen=True, tag="multiply"):
    """v x by."""

    by: Numbers
    numbers: ClassVar = {"by": (CHANNEL,)}

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Ints = v * self._along("by", v, axis)
        return result


class Add(Step, frozen=True, tag="add"):
    """v + value."""

    value: Numbers
    numbers: ClassVar = {"value": (CHANNEL,)}

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Ints = v + self._along("value", v, axis)
        return result


class _Shifted(Step, frozen=True):
    """A step that shifts by 0..62 places."""

    by: Numbers
    numbers: ClassVar = {"by": (CHANNEL,)}

    def limits(self, field: str) -> Range:
        return 0, 62


class ShiftLeft(_Shifted, frozen=True, tag="shift_left"):
    """v x 2^by."""

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Ints = v << self._along("by", v, axis)
        return result


class ShiftRight(_Shifted, frozen=True, tag="shift_right"):
    """v / 2^by, rounded."""

    round: Round

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return shift_right(v, self._along("by", v, axis), self.round)

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        return _halves(low, high, self._of("by", channel), most)


class Tflite(Step, frozen=True, tag="tflite"):
    """TFLite's MultiplyByQuantizedMultiplier: a Q31 multiplier and a shift, positive to the left.

    double: gemmlowp's saturating rounding doubling high multiply, which rounds half up and cannot saturate with a
    multiplier of at least 0, then a shift that rounds half away from 0. single: one rounding, half up.
    """

    multiplier: Numbers
    shift: Numbers
    rounding: Literal["double", "single"]
    numbers: ClassVar = {"multiplier": (CHANNEL,), "shift": (CHANNEL,)}
    int32: ClassVar = IntFormat(32, True)

    def limits(self, field: str) -> Range:
        return (0, 2**31 - 1) if field == "multiplier" else (-31, 30)

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        multiplier, shift = self._along("multiplier", v, axis), self._along("shift", v, axis)
        if self.rounding == "single":
            return shift_right(v * multiplier, 31 - shift, "half_up")
        high = shift_right((v << np.maximum(shift, 0)) * multiplier, 31, "half_up")
        return shift_right(high, np.maximum(-shift, 0), "half_away")

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        left = np.maximum(self.arrays["shift"], 0)
        low, high = before.low << left, before.high << left
        outside = (low < self.int32.low) | (high > self.int32.high)
        if outside.any():
            channel = int(np.argmax(outside))
            raise QexportError(
                f"tflite: channel {channel} reaches {low[channel]}..{high[channel]} behind the left shift, which "
                "int32 does not hold; clamp before it or use a smaller shift"
            )
        return super().range(before, bias)

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        multiplier, shift = self._of("multiplier", channel), self._of("shift", channel)
        if multiplier == 0:
            return ()
        codes = _some((low * multiplier) >> (31 - shift), ((high * multiplier) >> (31 - shift)) + 1, most)
        if self.rounding == "single":
            return [-(((1 - 2 * code) << (30 - shift)) // multiplier) for code in codes]
        if shift < 0:  # what the high half must reach, for the shift to give the code
            codes = [((2 * code - 1) << (-shift - 1)) + (code <= 0) for code in codes]
        return [-(((1 - 2 * high) << 30) // (multiplier << max(shift, 0))) for high in codes]


class Relu(Step, frozen=True, tag="relu"):
    """max(v, 0)."""

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Ints = np.maximum(v, 0)
        return result


class LeakyRelu(Step, frozen=True, tag="leaky_relu"):
    """v where v >= 0, else v / 2^shift rounded."""

    shift: Shift
    round: Round

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return np.where(v >= 0, v, shift_right(v, self.shift, self.round))

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        return _halves(low, min(high, 0), self.shift, most)


class Clamp(Step, frozen=True, tag="clamp"):
    """min(max(v, low), high)."""

    low: int
    high: int

    def __post_init__(self) -> None:
        self._need("high", self.high, VALUE.low, VALUE.high)
        if not VALUE.low <= self.low <= self.high:
            raise self._error("low", f"{self.low} is outside {VALUE.low}..high {self.high}; exchange or correct them")

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Ints = np.clip(v, self.low, self.high)
        return result

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        return self.low, self.high


class Wrap(Step, frozen=True, tag="wrap"):
    """Two's complement of `bits` bits."""

    bits: Annotated[int, Meta(ge=1, le=63)]
    signed: bool
    monotone: ClassVar = False

    @property
    def format(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return self.format.wrap(v)

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        low, high = super().range(before)
        turns = ((before.high - self.format.low) >> self.bits) > ((before.low - self.format.low) >> self.bits)
        return np.where(turns, self.format.low, low), np.where(turns, self.format.high, high)

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        start, bits = self.format.low, self.bits
        return [start + (turn << bits) for turn in _some((low - start) >> bits, (high - start) >> bits, most)]


class Threshold(Step, frozen=True, tag="threshold"):
    """first + how many of the channel's levels are <= v."""

    table: Table
    first: int
    numbers: ClassVar = {"table": (CHANNEL, "level")}

    def __post_init__(self) -> None:
        if (levels := max(map(len, self.table), default=0)) > LEVELS:  # before arrays and ranges are made of them
            raise self._error("table", f"has {levels:,} levels for a channel, more than {LEVELS:,}; use fewer levels")
        super().__post_init__()
        table = self.arrays["table"]
        falls = (table[:, 1:] < table[:, :-1]).any(axis=1)
        if falls.any():
            raise self._error(
                "table", f"is not ascending in channel {np.argmax(falls)}; sort it, multiply by -1 before it"
            )
        self._need("first", self.first, VALUE.low, VALUE.high)

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return self.first + levels_reached(self.arrays["table"], v, axis)

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        levels = np.unique(self.arrays["table"][channel])
        levels = levels[(low <= levels) & (levels <= high)]
        return [int(levels[at]) for at in _some(0, len(levels) - 1, most)]


class Lookup(Step, frozen=True, tag="lookup"):
    """table[v - low]."""

    low: int
    table: tuple[int, ...]
    numbers: ClassVar = {"table": ("level",)}
    monotone: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need("low", self.low, VALUE.low, VALUE.high)

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        result: Int64 = self.arrays["table"][np.asarray(v - self.low, np.int64)]
        return result

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        last = self.low + len(self.table) - 1
        outside = (before.low < self.low) | (before.high > last)
        if outside.any():
            channel = int(np.argmax(outside))
            raise self._error(
                "table",
                f"covers {self.low}..{last}, channel {channel} reaches {before.low[channel]}..{before.high[channel]}; "
                "clamp before it or give more entries",
            )
        spans = list(zip(before.low - self.low, before.high - self.low + 1, strict=True))
        ends = {span: self.arrays["table"][span[0] : span[1]] for span in set(spans)}
        found = {span: (int(entries.min()), int(entries.max())) for span, entries in ends.items()}
        pairs = np.array([found[span] for span in spans], object)
        return pairs[:, 0], pairs[:, 1]

    def firsts(self, low: int, high: int, channel: int, most: int) -> Sequence[int]:
        return _some(low, high, most)


class Pool(Step, frozen=True):
    """A window that moves over the plane. `padding` is top, bottom, left, right."""

    kernel: tuple[Positive, Positive]
    stride: tuple[Positive, Positive] | None = None
    padding: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        for side, size in zip(self.padding, np.repeat(self.kernel, 2), strict=True):
            if side >= size:
                raise self._error("padding", f"{side} is not smaller than the kernel's {size}; use a smaller padding")

    def sizes(self, before: Signal) -> tuple[int, ...]:
        if before.plane is None:
            raise QexportError(
                f"{self.op}: a tensor of axes {' '.join(before.axes)} has no plane to pool; leave it out"
            )
        top, bottom, left, right = self.padding
        sizes = [
            (size + more - kernel) // stride + 1
            for size, more, kernel, stride in zip(
                before.plane, (top + bottom, left + right), self.kernel, self.stride or self.kernel, strict=True
            )
        ]
        if min(sizes) < 1:
            raise self._error(
                "kernel",
                f"{self.kernel[0]}x{self.kernel[1]} is larger than the padded plane of "
                f"{before.plane[0] + top + bottom}x{before.plane[1] + left + right}; use a smaller kernel",
            )
        return *before.sizes[:-2], *sizes

    def windows(self, v: Ints, reduce: Callable[[Ints, Ints], Ints], fill: int) -> Ints:
        """Each window of the last two axes, its elements reduced two by two; `fill` stands in the padding."""
        top, bottom, left, right = self.padding
        if any(self.padding):
            v = np.pad(v, [(0, 0)] * (v.ndim - 2) + [(top, bottom), (left, right)], constant_values=fill)
        for axis, size, stride in zip((-2, -1), self.kernel, self.stride or self.kernel, strict=True):
            count = (v.shape[axis] - size) // stride + 1
            behind: tuple[Any, ...] = (slice(None),) * (-1 - axis)
            starts = (slice(at, at + (count - 1) * stride + 1, stride) for at in range(size))
            v = functools.reduce(reduce, [v[(..., start, *behind)] for start in starts])
        return v


class MaxPool(Pool, frozen=True, tag="max_pool"):
    """The largest of the window; padding does not count."""

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return self.windows(v, np.maximum, VALUE.low)

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        return before.low, before.high


class SumPool(Pool, frozen=True, tag="sum_pool"):
    """The sum of the window; padding counts as 0."""

    def apply(self, v: Ints, axis: int, bias: Ints | None = None) -> Ints:
        return self.windows(v, np.add, 0)

    def range(self, before: Signal, bias: Ints | None = None) -> tuple[Ints, Ints]:
        assert before.plane is not None
        inside = self.windows(np.ones(before.plane, np.int64), np.add, 0)  # elements that are no padding
        few, many = int(inside.min()), int(inside.max())
        return np.minimum(before.low * few, before.low * many), np.maximum(before.high * few, before.high * many)


AnyStep = (
    Bias
    | Multiply
    | Add
    | ShiftLeft
    | ShiftRight
    | Tflite
    | Relu
    | LeakyRelu
    | Clamp
    | Wrap
    | Threshold
    | Lookup
    | MaxPool
    | SumPool
)
STEPS: Mapping[str, type[Step]] = {str(step.__struct_config__.tag): step for step in AnyStep.__args__}


def sizes_after(steps: Sequence[Step], before: Signal) -> tuple[int, ...]:
    """The sizes of the axes behind n after all steps."""
    for step in steps:
        before = replace(before, sizes=step.sizes(before))
    return before.sizes


def step_names(steps: Sequence[Step]) -> tuple[str, ...]:
    """The name of each step's value."""
    return tuple(f"step{index}" if step.name is None else step.name for index, step in enumerate(steps))


def takes_bias(steps: Sequence[Step]) -> bool:
    """Whether a step adds the bias, so that the accumulator is without."""
    return any(isinstance(step, Bias) for step in steps)


class Chain:
    """The steps behind one tensor, checked: names, fits, proven ranges. Raises QexportError naming step and remedy.

    `signals`: the tensor after each step, by the step's name, in order; `end`: the last of them, or where the chain
    starts. `parameters`: NAME_FIELD of the numbers that an accelerator keeps. `taken`: names of other tensors.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        start: Signal,
        bias: Int64 | None = None,
        output: IntFormat | None = None,
        taken: Collection[str] = (),
    ):
        if len(steps) > CHAIN:
            raise QexportError(f"steps: {len(steps):,} are more than {CHAIN}; merge some of them")
        if (size := sum(array.size for step in steps for array in step.arrays.values())) > STEP_ELEMENTS:
            raise QexportError(f"steps: {size:,} numbers are more than {STEP_ELEMENTS:,}; use shorter tables")
        self.steps, self.start, self.bias = tuple(steps), start, bias
        self.names = step_names(steps)
        self.signals: dict[str, Signal] = {}
        self.parameters: dict[str, Parameter] = {}
        self.end = start
        known = {*taken, "output"}
        for index, (name, step) in enumerate(zip(self.names, self.steps, strict=True)):
            if isinstance(step, Bias) and takes_bias(self.steps[:index]):
                raise QexportError(f"step {name}: a second bias; leave it out, or add its numbers with the step add")
            try:
                self.end = self.signals[name] = step.after(self.end, bias)
            except QexportError as error:
                raise QexportError(f"step {name}: {error}") from None
            parameters = step.parameters(self.end.channel, self.end.channels)
            self.parameters |= {f"{name}_{field}": parameter for field, parameter in parameters.items()}
            for new in (name, *(f"{name}_{field}" for field in parameters)):
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", new):
                    raise QexportError(f"step {index}: name {name!r} is not an identifier; use letters, digits and _")
                if new in known:
                    raise QexportError(f"step {name}: another tensor is named {new} too; choose another name")
                known.add(new)
        if output is not None and not output.holds(*self.end.range):
            low, high = self.end.range
            raise QexportError(
                f"step {self.names[-1] if steps else 'list'}: the chain ends in {low}..{high}, outside {output.low}.."
                f"{output.high} of formats.output ({output}); end it with a clamp or widen the format"
            )

    def of_channels(self, channels: Sequence[int]) -> list[Step]:
        """The steps that one value of each of the channels passes: a max_pool leaves it as it is, as in a window of
        equal values; a sum_pool ends them."""
        steps = itertools.takewhile(lambda step: not isinstance(step, SumPool), self.steps)
        return [step.of_channels(channels) for step in steps if not isinstance(step, MaxPool)]

    def behind(self, channel: int, values: Int64, steps: Sequence[Step] | None = None) -> Int64:
        """What `of_channels`, or these first ones of it, makes of values (any shape) of a channel."""
        v: Ints = values.reshape(1, -1)
        bias = None if self.bias is None else self.bias[[channel]]
        for step in self.of_channels([channel]) if steps is None else steps:
            v = step.apply(v, 0, bias)
        return v.reshape(values.shape)

    def edges(self, channel: int, most: int = EDGES) -> Int64:
        """Values of one channel at the start, ascending, that a wrong step is most likely to show: the ends, those
        around 0, and both sides of every place at which a step bends, rounds or clips, at most `most` of each step.
        """
        low, high = int(self.start.low[channel]), int(self.start.high[channel])
        runs, found = [(low, high)], {low, high, -1, 0, 1}  # in each of the runs all steps so far only rise, or fall
        steps = self.of_channels([channel])
        for number, step in enumerate(steps):
            places = set[int]()
            for run in runs[:most]:
                first, last = sorted(self.behind(channel, np.array(run), steps[:number]).tolist())
                targets = np.array(
                    [v for v in step.firsts(first, last, 0, max(most // len(runs), 1)) if first < v <= last]
                )
                reached = self._reached(channel, steps[:number], *run, targets)
                at = self.behind(channel, reached, steps[:number]) == targets
                places |= {*reached.tolist(), *(reached + 1)[at].tolist()}  # on a place to the point both sides differ
            found |= {place + side for place in places for side in (-1, 0)}
            if not step.monotone:
                starts = sorted({*(place for place in places if place <= high), *(first for first, _ in runs)})
                runs = list(zip(starts, [*(start - 1 for start in starts[1:]), high], strict=True))
        return np.array(sorted(value for value in found if low <= value <= high), np.int64)

    def _reached(self, channel: int, steps: Sequence[Step], low: int, high: int, targets: Int64) -> Int64:
        """Where steps that only rise, or only fall, from low to high pass each target: the first value behind it."""
        first, last = np.full(len(targets), low), np.full(len(targets), high)
        ends = self.behind(channel, np.array([low, high]), steps)
        rises = bool(ends[0] <= ends[1])
        while (first < last).any():
            middle = (first + last) >> 1
            there = (self.behind(channel, middle, steps) >= targets) == rises
            first, last = np.where(there, first, np.minimum(middle + 1, last)), np.where(there, middle, last)
        return first

    def values(self, v: Int64) -> dict[str, Int64]:
        """What each step gives for the tensor at the start, by the step's name."""
        values = {}
        for name, step in zip(self.names, self.steps, strict=True):
            v = values[name] = step.apply(v, self.start.axis, self.bias)
        return values


def read_steps(documents: Any, tensors: Mapping[str, NDArray[Any]] | None = None) -> tuple[Step, ...]:
    """The steps of a JSON document; `tensors` named `steps.INDEX.FIELD` stand for lists that are not in it."""
    if not isinstance(documents, list):
        raise QexportError(f"steps: {documents!r:.40} is not a list; give a list of steps")
    documents = [dict(document) if isinstance(document, dict) else document for document in documents]
    for name, tensor in (tensors or {}).items():
        match = re.fullmatch(r"steps\.(0|[1-9]\d*)\.(\w+)", name)
        if not (match and int(match[1]) < len(documents) and isinstance(document := documents[int(match[1])], dict)):
            raise QexportError(f"tensor {name}: no such step; name it steps.INDEX.FIELD of {len(documents)} steps")
        if match[2] in document:
            raise QexportError(f"tensor {name}: the step has {match[2]} in its JSON too; leave one of them out")
        if tensor.dtype.kind not in "iu":
            raise QexportError(f"tensor {name}: dtype {tensor.dtype} is not an integer; write int64")
        document[match[2]] = tensor.tolist()
    return tuple(_read_step(index, document) for index, document in enumerate(documents))


def _read_step(index: int, document: Any) -> Step:
    op = document.get("op") if isinstance(document, dict) else None
    if not isinstance(op, str) or op not in STEPS:
        raise QexportError(
            f"step {index}: op {document if op is None else op!r:.40} is not known; choose one of {', '.join(STEPS)}"
        )
    for field, value in document.items():
        if field in ("from", "with"):
            raise QexportError(f"step {index}: {field} is reserved; steps follow each other in one chain today")
        if isinstance(value, dict):
            raise QexportError(f"step {index}: {field} with axes is reserved; give a number or one for each channel")
    try:
        step: Step = msgspec.convert(document, STEPS[op])
    except msgspec.ValidationError as error:
        raise QexportError(f"step {index}: {op}: {str(error).removeprefix(f'{op}: ')}") from None
    return step


def write_steps(steps: Sequence[Step]) -> tuple[list[dict[str, Any]], dict[str, Int64]]:
    """The steps as a JSON document, and the tensors of the lists that are too long for it."""
    documents: list[dict[str, Any]] = []
    tensors: dict[str, Int64] = {}
    for index, step in enumerate(steps):
        document = msgspec.json.decode(msgspec.json.encode(step))
        for field, array in step.arrays.items():
            if array.size > INLINE:
                tensors[f"steps.{index}.{field}"] = array
                del document[field]
        documents.append(document)
    return documents, tensors
