"""What may be done wrong at a step behind the accumulator: one list, for hypotheses and for modules alone."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import msgspec
import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    VALUE,
    Add,
    Bias,
    Chain,
    Clamp,
    LeakyRelu,
    Lookup,
    MaxPool,
    Multiply,
    Pool,
    Relu,
    Round,
    ShiftLeft,
    ShiftRight,
    Step,
    Tflite,
    Threshold,
    Wrap,
    levels_reached,
    shift_right,
)
from qexport.errors import QexportError
from qexport.findings.change import Mistake, with_bit

STEP_MISSING = Mistake("step_missing", "Do the step that the manifest names at this place.")
STEP_ORDER = Mistake("step_order", "Do the steps in the order of the manifest.")
STEP_ROUNDING = Mistake("step_rounding", "Round as the manifest's step says.")
STEP_NUMBER = Mistake("step_number", "Take the step's numbers from the manifest.")
STEP_CHANNEL = Mistake("step_channel", "Give each channel its own number of the step.")
STEP_CLIP = Mistake("step_clip", "Clip to low and high of the manifest's step, both included.")
STEP_NARROW = Mistake("step_narrow", "Give the values behind the step as many bits as their range needs.")
STEP_SIGN = Mistake("step_sign", "Take the values before the step as signed, and keep their signs.")

ROUNDINGS: tuple[Round, ...] = get_args(Round)
LEVELS = 16  # of a table of thresholds of which each is left out
MOVED = 4  # places by which a step may stand elsewhere
MULTIPLIER_BITS = 32  # a multiplier may be read as if it had fewer
SOLVED = {Add: "value", Multiply: "by", Tflite: "multiplier"}  # numbers behind which codes only rise or only fall
Function = Callable[[Int64], Int64]


@dataclass(frozen=True)
class Way:
    """One mistake at a step: `function` stands for it and those behind it up to `behind`."""

    mistake: Mistake
    text: str
    function: Function
    behind: int


def done(chain: Chain, step: Step, v: Int64) -> Int64:
    """A step of a chain on values that may be wrong."""
    if isinstance(step, Lookup):  # a wrong value may lie outside the table
        v = np.clip(v, step.low, step.low + len(step.table) - 1)
    given: Int64 = step.apply(v, chain.start.axis, chain.bias)
    return given


def all_done(chain: Chain, steps: Sequence[Step], v: Int64) -> Int64:
    for step in steps:
        v = done(chain, step, v)
    return v


def works(chain: Chain, at: int, stop: int) -> Iterator[Way]:
    """How a step works and where it stands; `stop`: the number of the step behind the last one that counts."""
    step = chain.steps[at]
    for mistake, text, fields in _other_ways(step):
        yield from _replaced(chain, at, mistake, text, fields)
    for mistake, text, function in _misread(chain, step):
        yield Way(mistake, text, function, at + 1)
    yield Way(STEP_MISSING, "is left out", partial(_left_out, step), at + 1)
    for other in range(at + 1, min(stop, at + 1 + MOVED)):
        name, between = chain.names[other], chain.steps[at + 1 : other]
        yield Way(
            STEP_ORDER,
            f"stands behind {name}",
            partial(all_done, chain, (*between, chain.steps[other], step)),
            other + 1,
        )
        if between:
            exchanged, before = (chain.steps[other], *between, step), (chain.steps[other], step, *between)
            yield Way(
                STEP_ORDER, f"and {name} stand in each other's place", partial(all_done, chain, exchanged), other + 1
            )
            yield Way(STEP_ORDER, f"has {name} before it", partial(all_done, chain, before), other + 1)


def numbers(chain: Chain, at: int) -> Iterator[Way]:
    """Numbers beside the right ones, with the other sign, or with a wrong bit."""
    step = chain.steps[at]
    for text, fields in _other_numbers(step):
        yield from _replaced(chain, at, STEP_NUMBER, text, fields)
    for fields in _far_clips(step):
        yield from _replaced(chain, at, STEP_CLIP, f"clamps to {fields['low']}..{fields['high']}", fields)


def _far_clips(step: Step) -> Iterator[dict[str, Any]]:
    """Clips to formats that are two bits narrower or wider."""
    if isinstance(step, Clamp):
        bits = IntFormat.holding(step.low, step.high, step.low < 0).bits
        for span in (IntFormat(max(bits + more, 1), signed) for more in (-2, 2) for signed in (False, True)):
            yield {"low": span.low, "high": span.high}


def channels(chain: Chain, at: int) -> Iterator[Way]:
    """Numbers of other channels."""
    step, axis = chain.steps[at], chain.start.axis
    for field, array in step.arrays.items():
        if array.ndim == (1 if field != "table" else 2) and not isinstance(step, Lookup) and len(array) > 1:
            for text, other in moved(array, 0):
                yield from _replaced(chain, at, STEP_CHANNEL, f"has {field} {text}", {field: _numbers(other)})
    if isinstance(step, Bias):
        assert chain.bias is not None
        bias = chain.bias.reshape([-1 if a == axis else 1 for a in range(len(chain.start.axes))])
        for text, other in moved(bias, axis):
            yield Way(STEP_CHANNEL, f"is that {text}", partial(_plus, other << step.shift), at + 1)


def widths(chain: Chain, at: int) -> Iterator[Way]:
    """Values behind a step that have too few bits."""
    for text, change in narrowed(*chain.signals[chain.names[at]].range):
        yield Way(STEP_NARROW, text, partial(_behind, chain, chain.steps[at], change), at + 1)


def narrowed(low: int, high: int) -> Iterator[tuple[str, Function]]:
    """Values of a range in too few bits, the most first."""
    need = IntFormat.holding(low, high, True).bits
    for bits in range(need - 1, 0, -1):
        signed, unsigned = IntFormat(bits, True), IntFormat(bits, False)
        yield f"gives {bits} bits, {need} are needed", signed.wrap
        if low < 0:
            yield f"gives {bits} bits without a sign", unsigned.wrap
        yield f"clamps to {bits} signed bits", signed.saturate


def other_biases(bias: Int64) -> Iterator[tuple[str, Int64]]:
    """What may be added in place of a bias (channel,)."""
    yield "subtracted", -bias
    yield "added twice", 2 * bias
    for text, other in moved(bias, 0):
        yield f"that {text}", other
    for by in range(1, 9):
        yield f"{by} bits too far left", bias << by
        yield f"{by} bits too far right", bias >> by
    need = IntFormat.holding(int(bias.min()), int(bias.max()), True).bits
    for bits in sorted({need - 1, *(bits for bits in (4, 8, 12, 16, 24) if bits < need)} - {0}, reverse=True):
        yield f"cut to {bits} bits", IntFormat(bits, True).wrap(bias)
        yield f"cut to {bits} bits without sign", IntFormat(bits, False).wrap(bias)
        yield f"saturated to {bits} bits", IntFormat(bits, True).saturate(bias)
    for bits in range(need, max(need, 32) + 1) if (bias < 0).any() else ():
        yield f"of {bits} bits without sign", IntFormat(bits, False).wrap(bias)


def moved(array: Int64, axis: int) -> Iterator[tuple[str, Int64]]:
    """Numbers of channels that are those of others."""
    if array.shape[axis] < 2:
        return
    for by in (1, -1):
        yield f"of the channel {'before' if by > 0 else 'behind'}", np.roll(array, by, axis)
    yield "of channel 0 for all", np.broadcast_to(np.take(array, [0], axis), array.shape)
    yield "of the channels in reverse", np.flip(array, axis)


def left_out_and_clip(chain: Chain, at: int, stop: int) -> Iterator[Way]:
    """A step that is left out, and a clip behind it that lets pass what comes then: one design may have both."""
    step = chain.steps[at]
    if isinstance(step, Clamp | Pool):
        return
    for clip in range(at + 1, stop):
        if not isinstance(last := chain.steps[clip], Clamp):
            continue
        for mistake, text, function in _misread(chain, last):
            if mistake is STEP_CLIP:
                both = f"({step.op}) is left out, and {chain.names[clip]} (clamp) {text}"
                yield Way(STEP_MISSING, both, partial(_then, chain, chain.steps[at + 1 : clip], function), clip + 1)


def _then(chain: Chain, steps: Sequence[Step], function: Function, v: Int64) -> Int64:
    return function(all_done(chain, steps, v))


def number_that_gives(numbers: range, total: Callable[[int], int], wanted: int) -> tuple[int, int]:
    """The least and the greatest number that give a total, which only rises or only falls with the number; the greatest
    is less than the least where none does."""
    turn = 1 if total(numbers[0]) <= total(numbers[-1]) else -1

    def rising(number: int) -> int:
        return turn * total(number)

    low = bisect_left(numbers, turn * wanted, key=rising) + numbers.start
    return low, bisect_right(numbers, turn * wanted, key=rising) + numbers.start - 1


def _replaced(chain: Chain, at: int, mistake: Mistake, text: str, fields: Mapping[str, Any]) -> Iterator[Way]:
    step = chain.steps[at]
    with suppress(QexportError):  # no such step
        other = msgspec.structs.replace(step, **fields)
        if other != step:
            yield Way(mistake, text, partial(done, chain, other), at + 1)


def _left_out(step: Step, v: Int64) -> Int64:
    """Without a pool the values at the corners of its windows go on."""
    if not isinstance(step, Pool):
        return v.copy()
    corners: Int64 = step.windows(v, _first, 0)
    return corners


def _first(first: Int64, other: Int64) -> Int64:
    return first


def _behind(chain: Chain, step: Step, change: Function, v: Int64) -> Int64:
    return change(done(chain, step, v))


def _before(chain: Chain, step: Step, change: Function, v: Int64) -> Int64:
    return done(chain, step, change(v))


def _plus(more: Any, v: Int64) -> Int64:
    moved: Int64 = v + more
    return moved


def _numbers(array: Int64) -> Any:
    """An array as a field of a step."""
    given = array.tolist()
    if array.ndim == 2:
        return tuple(map(tuple, given))
    return tuple(given) if array.ndim else given


def _other_ways(step: Step) -> Iterator[tuple[Mistake, str, dict[str, Any]]]:
    """Fields that let a step work in another way."""
    match step:
        case ShiftRight() | LeakyRelu():
            for way in ROUNDINGS:
                yield STEP_ROUNDING, f"rounds {way}, not {step.round}", {"round": way}
        case Tflite():
            many = step.rounding == "double"
            text = f"rounds {'once' if many else 'twice'}"
            yield STEP_ROUNDING, text, {"rounding": "single" if many else "double"}
        case Wrap():
            yield STEP_SIGN, f"is {'unsigned' if step.signed else 'signed'}", {"signed": not step.signed}
        case Clamp(low=low, high=high):
            yield STEP_CLIP, f"clamps to {-high}..{high}", {"low": -high}
            bits = IntFormat.holding(low, high, low < 0).bits
            spans = [IntFormat(max(bits + more, 1), signed) for more in (-1, 0, 1) for signed in (False, True)]
            for span in spans:
                yield STEP_CLIP, f"clamps to {span.low}..{span.high}", {"low": span.low, "high": span.high}
            for name, value in (("low", low), ("high", high)):
                for new in (value + 1, value - 1):
                    yield STEP_CLIP, f"has {name} {new}, not {value}", {name: new}


def _other_numbers(step: Step) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields with other numbers: those beside them, those with the other sign, those of which a bit is wrong."""
    for field, array in step.arrays.items():
        if field == "table":
            continue
        if array.size == 1:
            value = int(array.ravel()[0])
            bits = IntFormat.holding(value, value, True).bits
            flipped = (value ^ (1 << bit) for bit in range(bits))
            for new in dict.fromkeys([value + 1, value - 1, -value, *flipped, *_amounts(step, field, value)]):
                yield f"has {field} {new}, not {value}", {field: new}
        else:
            moved = [(f"{by:+d}", array + by) for by in (1, -1, *((2, -2, 3, -3) if _shifts(step, field) else ()))]
            for text, other in (*moved, ("of the other sign", -array), ("0", 0 * array)):
                yield f"has {field} {text}", {field: _numbers(other)}
    for field in sorted({"first", "bits", "shift"} - step.arrays.keys()):
        if not isinstance(step, Lookup) and isinstance(given := getattr(step, field, None), int):
            near = (given + 1, given - 1, 1 if field == "bits" else 0)
            for new in dict.fromkeys((*near, *_amounts(step, field, given))):
                yield f"has {field} {new}, not {given}", {field: new}


def _shifts(step: Step, field: str) -> bool:
    """Whether a number of a step is by how many places it shifts."""
    return field == "shift" or (field == "by" and isinstance(step, ShiftLeft | ShiftRight))


def _amounts(step: Step, field: str, value: int) -> Iterator[int]:
    """Other amounts: of shifts all, of other numbers twice and half."""
    if _shifts(step, field):
        yield from range(value - 8 if isinstance(step, Tflite) else 0, max(value, 0) + 9)
    elif field == "bits":
        yield from range(value - 1, 0, -1)
    else:
        yield from (2 * value, value // 2, 0)


def _misread(chain: Chain, step: Step) -> Iterator[tuple[Mistake, str, Function]]:
    """What a step may do to the incoming value that none of its kind does."""
    axis = chain.start.axis

    def number(field: str, v: Int64) -> Any:
        return step._along(field, v, axis)

    match step:
        case Bias():
            assert chain.bias is not None
            bias = chain.bias.reshape([-1 if a == axis else 1 for a in range(len(chain.start.axes))]) << step.shift
            yield STEP_SIGN, "subtracts", lambda v: v - bias
            yield STEP_NUMBER, "is added twice", lambda v: v + 2 * bias
        case Add():
            yield STEP_NUMBER, "subtracts", lambda v: v - number("value", v)
        case Multiply():
            yield STEP_SIGN, "takes the size of the value", lambda v: done(chain, step, np.abs(v))
            yield from _other_multipliers(chain, step)
        case ShiftLeft():
            yield STEP_NUMBER, "shifts to the right", lambda v: v >> number("by", v)
        case ShiftRight():
            yield STEP_NUMBER, "shifts to the left", lambda v: v << number("by", v)
            for bits in (8, 16, 24, 32, 40, 48, VALUE.bits):
                if bits > int(step.arrays["by"].max()):
                    text = f"shifts zeros into {bits} bits, not the sign"
                    yield STEP_SIGN, text, partial(_logical, chain, step, bits)
            yield STEP_ROUNDING, "rounds twice", lambda v: _twice(v, number("by", v))
        case Tflite():
            for ways in (*((way,) for way in ROUNDINGS), *itertools.product(ROUNDINGS, repeat=2)):
                text = f"rounds {' behind the multiplier and '.join(ways)}{' behind the shift' * (len(ways) > 1)}"
                yield STEP_ROUNDING, text, partial(_tflite, step, axis, ways)
            for text, cut in _fewer_digits(step.arrays["multiplier"], 32):
                coarse = msgspec.structs.replace(
                    step, multiplier=_numbers(np.minimum(cut, step.limits("multiplier")[1]))
                )
                yield STEP_NUMBER, text, partial(done, chain, coarse)
        case Relu():
            yield STEP_SIGN, "gives the size of the value", np.abs
            yield STEP_SIGN, "keeps values below 0, not above", lambda v: np.minimum(v, 0)
            yield STEP_SIGN, "negates the value before", lambda v: np.maximum(-v, 0)
            for by in range(1, 7):
                yield STEP_SIGN, f"is leaky, by 1/{1 << by}", partial(_leaky, by)
        case LeakyRelu():
            yield STEP_SIGN, "gives 0 below 0", lambda v: np.maximum(v, 0)
            yield STEP_SIGN, "shifts values above 0, too", lambda v: shift_right(v, step.shift, step.round)
        case Clamp(low=low, high=high):
            span = IntFormat.holding(low, high, low < 0)
            yield STEP_CLIP, f"wraps to {span.bits} bits", span.wrap
            other = IntFormat(span.bits, not span.signed)
            yield STEP_CLIP, f"wraps to {other}", other.wrap
            yield STEP_CLIP, "lets values below low pass", lambda v: np.minimum(v, high)
            yield STEP_CLIP, "lets values above high pass", lambda v: np.maximum(v, low)
            yield STEP_SIGN, "takes the size of the value", lambda v: np.clip(np.abs(v), low, high)
        case Wrap():
            yield STEP_CLIP, "clamps", step.format.saturate
        case Threshold():
            table = step.arrays["table"]
            for text, levels in (
                ("counts levels < v, not <= v", table + 1),
                ("leaves the first level out", table[:, 1:]),
                ("leaves the last level out", table[:, :-1]),
            ):
                yield STEP_NUMBER, text, partial(_counted, levels, step.first, axis)
            for level in range(1, min(table.shape[1] - 1, LEVELS)):
                left = np.delete(table, level, axis=1)
                yield STEP_NUMBER, f"leaves level {level} out", partial(_counted, left, step.first, axis)
        case Lookup():
            yield STEP_NUMBER, "reads the entry behind", partial(_before, chain, step, partial(_plus, 1))
            yield STEP_NUMBER, "reads the entry before", partial(_before, chain, step, partial(_plus, -1))
            last = 2 * step.low + len(step.table) - 1
            yield STEP_NUMBER, "reads its table from the end", partial(_before, chain, step, lambda v: last - v)
            for bit in range((len(step.table) - 1).bit_length()):
                for value in (0, 1):
                    text = f"reads its table with bit {bit} of the address at {value}"
                    yield STEP_NUMBER, text, partial(_before, chain, step, partial(_addressed, step.low, bit, value))
        case Pool():
            yield from _other_pools(step)


def _other_multipliers(chain: Chain, step: Multiply) -> Iterator[tuple[Mistake, str, Function]]:
    """Multipliers that are read with too few bits, or hold fewer digits than they should."""
    by, axis = step.arrays["by"], chain.start.axis
    seen = {by.tobytes()}
    reach = IntFormat.holding(int(by.min()), int(by.max()), True).bits
    tried = [
        (f"takes its multiplier for {span}", span.wrap(by))
        for span in (IntFormat(bits, signed) for bits in range(2, MULTIPLIER_BITS + 1) for signed in (True, False))
    ]
    tried += _fewer_digits(by, reach)
    for text, cut in tried:
        if cut.tobytes() not in seen:
            seen.add(cut.tobytes())
            yield STEP_NUMBER, text, partial(_times, cut, axis)


def _fewer_digits(by: Int64, reach: int) -> Iterator[tuple[str, Int64]]:
    """Multipliers of so many bits that hold fewer digits; rounded up they stay in their format."""
    for bits in range(4, reach):
        lost = reach - bits
        most = int(by.max()) | ((1 << lost) - 1)
        rounded = ((by + (1 << lost >> 1)) >> lost) << lost
        yield f"has a multiplier of {bits} bits, rounded", rounded
        if (rounded >= 1 << reach - 1).any():
            yield (
                f"has a multiplier of {bits} bits, rounded, the largest at most",
                np.minimum(rounded, most >> lost << lost),
            )
        yield f"has a multiplier of {bits} bits, cut", (by >> lost) << lost


def _times(by: Int64, axis: int, v: Int64) -> Int64:
    product: Int64 = v * (by.reshape([-1 if a == axis else 1 for a in range(v.ndim)]) if by.ndim else by)
    return product


def _other_pools(step: Pool) -> Iterator[tuple[Mistake, str, Function]]:
    """What else may be taken of a window, and windows elsewhere."""
    largest, total = isinstance(step, MaxPool), np.add
    yield STEP_NUMBER, "takes the least of the window", partial(step.windows, reduce=np.minimum, fill=VALUE.high)
    if largest:
        yield STEP_NUMBER, "takes the sum of the window", partial(step.windows, reduce=total, fill=0)
        yield STEP_NUMBER, "counts padding as 0", partial(step.windows, reduce=np.maximum, fill=0)
        area = int(np.prod(step.kernel))
        mean = partial(step.windows, reduce=total, fill=0)
        yield STEP_NUMBER, "takes the mean of the window", lambda v: mean(v) // area
    else:
        yield STEP_NUMBER, "takes the largest of the window", partial(step.windows, reduce=np.maximum, fill=0)
    for axis, name in enumerate(("row", "column")):
        if step.kernel[axis] > 1:
            shorter = tuple(size - (at == axis) for at, size in enumerate(step.kernel))
            with suppress(QexportError):  # its padding would be as large
                other = msgspec.structs.replace(step, kernel=shorter, stride=step.stride or step.kernel)
                yield STEP_NUMBER, f"leaves the last {name} of each window out", partial(_smaller, step, other)
    for axis, name in ((-2, "row"), (-1, "column")):
        for by, way in ((1, "early"), (-1, "late")):
            yield STEP_ORDER, f"has windows one {name} too {way}", partial(_windows_moved, step, axis, by)


def _smaller(step: Pool, other: Pool, v: Int64) -> Int64:
    """Smaller windows at the same places."""
    rows, cols = step.apply(v, 1).shape[-2:]
    given: Int64 = other.apply(v, 1)[..., :rows, :cols]
    return given


def _windows_moved(step: Pool, axis: int, by: int, v: Int64) -> Int64:
    given: Int64 = step.apply(np.roll(v, by, axis), 1)
    return given


def _logical(chain: Chain, step: ShiftRight, bits: int, v: Int64) -> Int64:
    left = bits - step._along("by", v, chain.start.axis)
    shifted: Int64 = done(chain, step, v) & ((1 << left) - 1)
    return shifted


def _twice(v: Int64, by: Any) -> Int64:
    """Half is added twice: the shift before the last place rounds, too."""
    first = np.maximum(by - 1, 0)
    return shift_right(shift_right(v, first, "half_up"), by - first, "half_up")


def _leaky(by: int, v: Int64) -> Int64:
    return np.where(v < 0, v >> by, v)


def _tflite(step: Tflite, axis: int, ways: tuple[Round, ...], v: Int64) -> Int64:
    multiplier, shift = (step._along(field, v, axis) for field in ("multiplier", "shift"))
    if len(ways) == 1:
        return shift_right(v * multiplier, 31 - shift, ways[0])
    high = shift_right((v << np.maximum(shift, 0)) * multiplier, 31, ways[0])
    return shift_right(high, np.maximum(-shift, 0), ways[1])


def _addressed(low: int, bit: int, value: int, v: Int64) -> Int64:
    return low + with_bit(v - low, bit, value)


def _counted(table: Int64, first: int, axis: int, v: Int64) -> Int64:
    counted: Int64 = first + levels_reached(table, v, axis)
    return counted
