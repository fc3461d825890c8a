"""The mistakes that a module may make at a step, and which of them explains the codes that came back."""

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
    Clamp,
    LeakyRelu,
    Lookup,
    Multiply,
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
from qexport.findings.exhaust.walk import Lane

ROUNDINGS: tuple[Round, ...] = get_args(Round)
FEW = 512  # codes that every mistake is tried on, before all
_SOLVED = {Add: "value", Multiply: "by", Tflite: "multiplier"}  # numbers behind which codes only rise or only fall
MULTIPLIER_BITS = 32  # a multiplier may be read as if it had fewer
Function = Callable[[Int64], Int64]


@dataclass(frozen=True)
class Mistake:
    """What may be wrong: the number of a step, -1 for the accumulator that goes in, and what is done in its place.

    `behind`: the number of the step that goes on behind it.
    """

    at: int
    text: str
    function: Function
    behind: int

    def codes(self, lane: Lane, accumulators: Int64) -> Int64:
        v = self.function(lane.values(accumulators, slice(max(self.at, 0))))
        for index, step in enumerate(lane.chain.steps[self.behind :], self.behind):
            if isinstance(step, Lookup):  # a wrong value may lie outside the table
                v = np.clip(v, step.low, step.low + len(step.table) - 1)
            v = lane.step(index, v)
        return v


def explanations(lane: Lane, accumulators: Int64, got: Int64, port: int, code: IntFormat) -> list[Mistake]:
    """The mistakes after which a module would give exactly these codes, the likeliest first.

    `port`: bits of the port of the accumulators; `code`: how that of the codes is read.
    """
    wrong = np.flatnonzero(got != lane.values(accumulators))
    right = np.setdiff1d(np.arange(len(got)), wrong, assume_unique=True)
    few = np.concatenate([_spread(wrong), _spread(right)])

    def explains(mistake: Mistake) -> bool:
        with np.errstate(all="ignore"):
            codes = (code.wrap(mistake.codes(lane, accumulators[some])) == got[some] for some in (few, slice(None)))
            return all(bool(same.all()) for same in codes)

    tried = itertools.chain(_mistakes(lane, port), _solved(lane, accumulators, got), _all_bits(lane))
    return [mistake for mistake in tried if explains(mistake)]


def _spread(places: Int64) -> Int64:
    """Some of many places."""
    some: Int64 = places[np.linspace(0, len(places) - 1, min(len(places), FEW)).astype(int)]
    return some


def _mistakes(lane: Lane, port: int) -> Iterator[Mistake]:
    """What is tried first: how a step works and where it stands, then numbers that are near."""
    steps, bias = lane.chain.steps, lane.chain.bias
    others = _other_lanes(lane)
    yield Mistake(-1, "is taken as unsigned", IntFormat(min(port, VALUE.bits - 1), False).wrap, 0)
    for at, step in enumerate(steps):
        for text, fields in _other_ways(step):
            yield from _replaced(at, step, text, fields, bias)
        for text, function in _misread(step, bias):
            yield Mistake(at, text, function, at + 1)
        yield Mistake(at, "is left out", np.copy, at + 1)
        if at + 1 < len(steps):
            yield Mistake(at, f"stands behind {lane.chain.names[at + 1]}", partial(_exchanged, lane, at), at + 2)
    for other in others:
        at = next(at for at, step in enumerate(steps) if isinstance(step, Bias) or step != other.chain.steps[at])
        rest = partial(other.values, steps=slice(at, None))
        yield Mistake(at, f"and all behind it have the numbers of channel {other.channel}", rest, len(steps))
    for at, step in enumerate(steps):
        for text, fields in _other_numbers(step):
            yield from _replaced(at, step, text, fields, bias)
        for other in others:
            for field in step.arrays:
                text = f"has {field} of channel {other.channel}"
                yield from _replaced(at, step, text, {field: getattr(other.chain.steps[at], field)}, bias)


def _solved(lane: Lane, accumulators: Int64, got: Int64) -> Iterator[Mistake]:
    """Steps with the numbers that these codes would come from: between both ends all give the same."""
    for at, step in enumerate(lane.chain.steps):
        field = _SOLVED.get(type(step))
        if field is None:
            continue
        v, value = lane.values(accumulators, slice(at)), int(step.arrays[field].ravel()[0])
        signs = np.ones_like(v) if isinstance(step, Add) else np.sign(v)
        reach = 4 * (abs(value) + 1) + (int(np.ptp(v)) if isinstance(step, Add) else 0)
        numbers = max(value - reach, step.limits(field)[0]), min(value + reach, step.limits(field)[1])

        def total(number: int, at: int = at, step: Step = step, field: str = field, signs: Int64 = signs) -> int:
            changed = msgspec.structs.replace(step, **{field: number})
            mistake = Mistake(at, "", partial(_apply, changed, lane.chain.bias), at + 1)
            return int((signs * mistake.codes(lane, accumulators)).sum())

        with np.errstate(all="ignore"):
            turn = 1 if total(numbers[0]) <= total(numbers[1]) else -1
            wanted = turn * int((signs * got).sum())
            low = bisect_left(range(*numbers), wanted, key=lambda number: turn * total(number)) + numbers[0]
            high = bisect_right(range(*numbers), wanted, key=lambda number: turn * total(number)) + numbers[0] - 1
        said = str(low) if low == high else f"from {low} to {high}"
        yield from _replaced(at, step, f"has {field} {said}, not {value}", {field: low}, lane.chain.bias)


def _all_bits(lane: Lane) -> Iterator[Mistake]:
    for at in range(-1, len(lane.chain.steps)):
        yield from _bits(lane, at)


def _replaced(at: int, step: Step, text: str, fields: Mapping[str, Any], bias: Int64 | None) -> Iterator[Mistake]:
    with suppress(QexportError):  # no such step
        other = msgspec.structs.replace(step, **fields)
        if other != step:
            yield Mistake(at, text, partial(_apply, other, bias), at + 1)


def _apply(step: Step, bias: Int64 | None, v: Int64) -> Int64:
    given: Int64 = step.apply(v[:, np.newaxis], 1, bias)[:, 0]
    return given


def _exchanged(lane: Lane, at: int, v: Int64) -> Int64:
    return lane.step(at, lane.step(at + 1, v))


def _other_lanes(lane: Lane) -> list[Lane]:
    """The same accumulators through the chains of other channels; those that are alike stand once."""
    with_bias = any(isinstance(step, Bias) for step in lane.chain.steps)

    def numbers(one: Lane) -> Any:
        return one.chain.steps, int(one.chain.bias[0]) if with_bias and one.chain.bias is not None else None

    found = {numbers(lane): lane}
    for channel in range(lane.whole.start.channels):
        other = Lane(lane.whole, channel, lane.low, lane.high)
        with suppress(QexportError):  # where these accumulators do not fit its steps
            found.setdefault(numbers(other), other)
    return list(found.values())[1:]


def _other_ways(step: Step) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields that let a step work in another way."""
    match step:
        case ShiftRight() | LeakyRelu():
            for way in ROUNDINGS:
                yield f"rounds {way}, not {step.round}", {"round": way}
        case Tflite():
            many = step.rounding == "double"
            yield f"rounds {'once' if many else 'twice'}", {"rounding": "single" if many else "double"}
        case Wrap():
            yield f"is {'unsigned' if step.signed else 'signed'}", {"signed": not step.signed}
        case Clamp():
            yield f"clamps to {-step.high}..{step.high}", {"low": -step.high}
            bits = IntFormat.holding(step.low, step.high, step.low < 0).bits
            for span in (IntFormat(max(bits + more, 1), signed) for more in (-1, 0, 1) for signed in (False, True)):
                yield f"clamps to {span.low}..{span.high}", {"low": span.low, "high": span.high}


def _other_numbers(step: Step) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields with other numbers: those beside them, those with the other sign, those of which a bit is wrong."""
    for field, array in step.arrays.items():
        if array.size == 1:
            value = int(array.ravel()[0])
            bits = IntFormat.holding(value, value, True).bits
            for new in dict.fromkeys([value + 1, value - 1, -value, *(value ^ (1 << bit) for bit in range(bits))]):
                yield f"has {field} {new}, not {value}", {field: new}
    for field in sorted({"low", "high", "first", "bits", "shift"} - step.arrays.keys()):
        if not isinstance(step, Lookup) and isinstance(given := getattr(step, field, None), int):
            for new in (given + 1, given - 1):
                yield f"has {field} {new}, not {given}", {field: new}


def _misread(step: Step, bias: Int64 | None) -> Iterator[tuple[str, Function]]:
    """What a step may do to the incoming value that none of its kind does."""

    def number(field: str) -> int:
        return int(step.arrays[field].ravel()[0])

    match step:
        case Bias():
            assert bias is not None
            yield "subtracts", lambda v: v - (bias << step.shift)
        case Add():
            yield "subtracts", lambda v: v - number("value")
        case Multiply():
            for span in (IntFormat(bits, signed) for bits in range(2, MULTIPLIER_BITS + 1) for signed in (True, False)):
                cut = int(span.wrap(step.arrays["by"]).ravel()[0])
                if cut != number("by"):
                    yield f"takes its multiplier for {span}", partial(np.multiply, cut)
        case ShiftLeft():
            yield "shifts to the right", lambda v: v >> number("by")
        case ShiftRight():
            yield "shifts to the left", lambda v: v << number("by")
            for bits in (16, 24, 32, 40, 48, VALUE.bits):
                if bits > number("by"):
                    rest = IntFormat(bits - number("by"), False)
                    yield f"shifts zeros into {bits} bits, not the sign", partial(_logical, rest, step)
        case Tflite():
            for ways in (*((way,) for way in ROUNDINGS), *itertools.product(ROUNDINGS, repeat=2)):
                text = f"rounds {' behind the multiplier and '.join(ways)}{' behind the shift' * (len(ways) > 1)}"
                yield text, partial(_tflite, number("multiplier"), number("shift"), ways)
        case Relu():
            yield "gives the size of the value", np.abs
            yield "keeps values below 0, not above", lambda v: np.minimum(v, 0)
        case LeakyRelu():
            yield "gives 0 below 0", lambda v: np.maximum(v, 0)
            yield "shifts values above 0, too", lambda v: shift_right(v, step.shift, step.round)
        case Clamp():
            span = IntFormat.holding(step.low, step.high, step.low < 0)
            yield f"wraps to {span.bits} bits", span.wrap
            yield "lets values below low pass", lambda v: np.minimum(v, step.high)
            yield "lets values above high pass", lambda v: np.maximum(v, step.low)
        case Wrap():
            yield "clamps", step.format.saturate
        case Threshold():
            table = step.arrays["table"]
            for text, other in (
                ("counts levels < v, not <= v", table + 1),
                ("leaves the first level out", table[:, 1:]),
                ("leaves the last level out", table[:, :-1]),
            ):
                yield text, partial(_counted, other, step.first)
        case Lookup():
            yield "reads the entry behind", partial(_entry, step, 1)
            yield "reads the entry before", partial(_entry, step, -1)


def _logical(rest: IntFormat, step: ShiftRight, v: Int64) -> Int64:
    return rest.wrap(_apply(step, None, v))


def _tflite(multiplier: int, shift: int, ways: Sequence[Round], v: Int64) -> Int64:
    if len(ways) == 1:
        return shift_right(v * multiplier, 31 - shift, ways[0])
    return shift_right(shift_right((v << max(shift, 0)) * multiplier, 31, ways[0]), max(-shift, 0), ways[1])


def _counted(table: Int64, first: int, v: Int64) -> Int64:
    counted: Int64 = first + levels_reached(table, v[np.newaxis], 0)[0]
    return counted


def _entry(step: Lookup, more: int, v: Int64) -> Int64:
    given: Int64 = step.arrays["table"][np.clip(v - step.low + more, 0, len(step.table) - 1)]
    return given


def _bits(lane: Lane, at: int) -> Iterator[Mistake]:
    """Values behind a step, or accumulators, that have too few bits, or one that is stuck."""
    low, high = [lane.chain.start, *lane.chain.signals.values()][at + 1].range
    need = IntFormat.holding(low, high, True).bits
    tried: list[tuple[str, Function]] = []
    for bits in range(need - 1, 0, -1):
        signed, unsigned = IntFormat(bits, True), IntFormat(bits, False)
        tried.append((f"gives {bits} bits, {need} are needed", signed.wrap))
        if low < 0:
            tried.append((f"gives {bits} bits without a sign", unsigned.wrap))
        tried.append((f"clamps to {bits} signed bits", signed.saturate))
    for bit, stuck in itertools.product(range(need), (0, 1)):
        tried.append((f"has bit {bit} stuck at {stuck}", partial(_stuck, IntFormat(need, True), bit, stuck)))
    for text, change in tried:
        yield Mistake(at, text, change if at < 0 else partial(_behind, lane, at, change), at + 1)


def _behind(lane: Lane, at: int, change: Function, v: Int64) -> Int64:
    return change(lane.step(at, v))


def _stuck(whole: IntFormat, bit: int, stuck: int, v: Int64) -> Int64:
    return whole.wrap(v | 1 << bit if stuck else v & ~(1 << bit))


def parts_by(lane: Lane, accumulators: Int64, got: Int64) -> int:
    """The number of the step by which codes must have parted, whatever the mistake.

    Behind it two accumulators have one value, and the module gives them two codes.
    """
    v = accumulators
    for at in range(len(lane.chain.steps)):
        v = lane.step(at, v)
        order = np.lexsort((got, v))
        values, codes = v[order], got[order]
        if ((values[1:] == values[:-1]) & (codes[1:] != codes[:-1])).any():
            return at
    return len(lane.chain.steps) - 1
