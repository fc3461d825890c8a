"""Mistakes at the steps behind the accumulator: each step left out, exchanged, or done in another way."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, get_args

import msgspec
import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    Bias,
    Chain,
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
    shift_right,
)
from qexport.errors import QexportError
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

STEP_MISSING = Mistake("step_missing", "Do the step that the manifest names at this place.")
STEP_ORDER = Mistake("step_order", "Do the steps in the order of the manifest.")
STEP_ROUNDING = Mistake("step_rounding", "Round as the manifest's step says.")
STEP_NUMBER = Mistake("step_number", "Take the step's numbers from the manifest.")
STEP_CHANNEL = Mistake("step_channel", "Give each channel its own number of the step.")
STEP_CLIP = Mistake("step_clip", "Clip to low and high of the manifest's step, both included.")
STEP_NARROW = Mistake("step_narrow", "Give the values behind the step as many bits as their range needs.")
STEP_SIGN = Mistake("step_sign", "Take the values before the step as signed, and keep their signs.")
Function = Callable[[Int64], Int64]
_WIDTHS = (8, 16, 24, 32)


def step_mistakes(m: Model) -> Iterator[Change]:
    """Of a chain of steps as far as the compared tensor; that of one multiplier has its own names (post.py)."""
    chain = m.facts.chain
    if chain is None or m.facts.integers is not None:
        return
    names = chain.names if m.tensor == "output" else chain.names[: 1 + _index(chain, m.tensor)]
    for at, name in enumerate(names):
        for mistake, detail, function in _at(chain, at, len(names)):
            change = partial(_through, chain, at, len(names), function)
            yield Change(mistake, f"{name}: {detail}", Stage.POST, change)


def _index(chain: Chain, tensor: str) -> int:
    return chain.names.index(tensor) if tensor in chain.names else -1


def _through(chain: Chain, at: int, stop: int, function: tuple[Function, int], accumulators: Int64) -> Int64:
    """Accumulators through the steps, with another function in place of some from `at` on."""
    change, behind = function
    v = accumulators
    for step in chain.steps[:at]:
        v = _done(chain, step, v)
    v = change(v)
    for step in chain.steps[behind:stop]:
        v = _done(chain, step, v)
    return v


def _done(chain: Chain, step: Step, v: Int64) -> Int64:
    if isinstance(step, Lookup):  # a wrong value may lie outside the table
        v = np.clip(v, step.low, step.low + len(step.table) - 1)
    given: Int64 = step.apply(v, chain.start.axis, chain.bias)
    return given


def _at(chain: Chain, at: int, stop: int) -> Iterator[tuple[Mistake, str, tuple[Function, int]]]:
    """What may be done in place of one step, and the number of the step that goes on behind it."""
    step = chain.steps[at]
    yield STEP_MISSING, "left out", (np.copy, at + 1)
    if at + 1 < stop:
        following = chain.steps[at + 1]
        exchanged = partial(_exchanged, chain, step, following)
        yield STEP_ORDER, f"behind {chain.names[at + 1]}", (exchanged, at + 2)
    for mistake, detail, other in _other_steps(step):
        yield mistake, detail, (partial(_done, chain, other), at + 1)
    for mistake, detail, function in _other_functions(chain, step):
        yield mistake, detail, (function, at + 1)
    low, high = chain.signals[chain.names[at]].range
    need = IntFormat.holding(low, high, True).bits
    for bits in sorted({need - 1, *(width for width in _WIDTHS if width < need)} - {0}, reverse=True):
        wrapped = partial(_behind, chain, step, IntFormat(bits, True).wrap)
        yield STEP_NARROW, f"{bits} bits, {need} are needed", (wrapped, at + 1)


def _exchanged(chain: Chain, step: Step, following: Step, v: Int64) -> Int64:
    return _done(chain, step, _done(chain, following, v))


def _behind(chain: Chain, step: Step, change: Function, v: Int64) -> Int64:
    return change(_done(chain, step, v))


def _other_steps(step: Step) -> Iterator[tuple[Mistake, str, Step]]:
    """The step with another field."""
    tried: list[tuple[Mistake, str, dict[str, Any]]] = []
    if isinstance(step, ShiftRight | LeakyRelu):
        ways = [way for way in get_args(Round) if way != step.round]
        tried += [(STEP_ROUNDING, f"{way}, not {step.round}", {"round": way}) for way in ways]
    for field, array in step.arrays.items():
        if field != "table":
            for more in (1, -1):
                tried.append((STEP_NUMBER, f"{field} {more:+}", {field: _numbers(array + more)}))
        if field == "value":
            tried.append((STEP_NUMBER, "subtracts", {field: _numbers(-array)}))
        if array.ndim == (1 if field != "table" else 2) and not isinstance(step, Lookup) and len(array) > 1:
            for by in (1, -1):
                moved = np.roll(array, by, axis=0)
                tried.append(
                    (
                        STEP_CHANNEL,
                        f"{field} of the channel {'before' if by > 0 else 'behind'}",
                        {field: _numbers(moved)},
                    )
                )
            first = np.broadcast_to(array[:1], array.shape)
            tried.append((STEP_CHANNEL, f"{field} of channel 0 for all", {field: _numbers(first)}))
    match step:
        case Clamp(low=low, high=high):
            for name, value in (("low", low), ("high", high)):
                tried += [(STEP_CLIP, f"{name} {value + more}, not {value}", {name: value + more}) for more in (1, -1)]
            for span in (IntFormat(bits, signed) for bits in _bits_near(low, high) for signed in (False, True)):
                tried.append((STEP_CLIP, f"to {span.low}..{span.high}", {"low": span.low, "high": span.high}))
            tried.append((STEP_CLIP, f"to {-high}..{high}", {"low": -high}))
        case Tflite(rounding=rounding):
            other = "single" if rounding == "double" else "double"
            tried.append((STEP_ROUNDING, f"{other}, not {rounding}", {"rounding": other}))
        case Wrap(bits=bits, signed=signed):
            tried.append((STEP_SIGN, f"{'unsigned' if signed else 'signed'}", {"signed": not signed}))
            tried += [(STEP_NARROW, f"{bits + more} bits, not {bits}", {"bits": bits + more}) for more in (1, -1)]
        case Bias(shift=shift) | LeakyRelu(shift=shift):
            tried += [(STEP_NUMBER, f"shift {shift + more}, not {shift}", {"shift": shift + more}) for more in (1, -1)]
            tried.append((STEP_NUMBER, "shift 0", {"shift": 0}))
        case Threshold(first=first_code):
            tried += [(STEP_NUMBER, f"first {first_code + more}", {"first": first_code + more}) for more in (1, -1)]
            tried.append((STEP_NUMBER, "levels < v, not <= v", {"table": _numbers(step.arrays["table"] + 1)}))
    for mistake, detail, fields in tried:
        with suppress(QexportError):  # no such step
            other_step = msgspec.structs.replace(step, **fields)
            if other_step != step:
                yield mistake, detail, other_step


def _numbers(array: Int64) -> Any:
    """An array as a field of a step."""
    numbers = array.tolist()
    if array.ndim == 2:
        return tuple(map(tuple, numbers))
    return tuple(numbers) if array.ndim else numbers


def _bits_near(low: int, high: int) -> range:
    bits = IntFormat.holding(low, high, low < 0).bits
    return range(max(bits - 1, 1), bits + 2)


def _other_functions(chain: Chain, step: Step) -> Iterator[tuple[Mistake, str, Function]]:
    """What is done wrong at a step of its kind, as a function of the incoming value."""
    match step:
        case Bias():
            assert chain.bias is not None
            bias = chain.bias.reshape([-1 if at == chain.start.axis else 1 for at in range(len(chain.start.axes))])
            yield STEP_SIGN, "subtracted", lambda v: v - (bias << step.shift)
            yield STEP_CHANNEL, "reversed", lambda v: v + (np.flip(bias, chain.start.axis) << step.shift)
            for by in (1, -1):
                moved = np.roll(bias, by, chain.start.axis)
                detail = f"of the channel {'before' if by > 0 else 'behind'}"
                yield STEP_CHANNEL, detail, partial(_plus, moved << step.shift)
            yield STEP_NUMBER, "added twice", lambda v: v + (bias << (step.shift + 1))
        case Multiply():
            yield STEP_SIGN, "of the value's size", lambda v: _done(chain, step, np.abs(v))
        case ShiftLeft():
            yield STEP_NUMBER, "to the right", lambda v: v >> step._along("by", v, chain.start.axis)
        case ShiftRight():
            yield STEP_NUMBER, "to the left", lambda v: v << step._along("by", v, chain.start.axis)
            for bits in (*_WIDTHS, 48):
                unsigned = IntFormat(bits, False)
                zeros = partial(_before, chain, step, unsigned.wrap)
                yield STEP_SIGN, f"zeros into {bits} bits, not the sign", zeros
        case Relu():
            yield STEP_SIGN, "the size of the value", np.abs
            yield STEP_SIGN, "keeps what is below 0", lambda v: np.minimum(v, 0)
            yield STEP_SIGN, "leaky, by an eighth", lambda v: np.where(v < 0, v >> 3, v)
        case LeakyRelu():
            yield STEP_SIGN, "0 below 0", lambda v: np.maximum(v, 0)
            yield STEP_SIGN, "values above 0, too", lambda v: shift_right(v, step.shift, step.round)
        case Clamp(low=low, high=high):
            span = IntFormat.holding(low, high, low < 0)
            yield STEP_CLIP, f"wraps to {span.bits} bits", span.wrap
            yield STEP_CLIP, "below low nothing is clipped", lambda v: np.minimum(v, high)
            yield STEP_CLIP, "above high nothing is clipped", lambda v: np.maximum(v, low)
            yield STEP_SIGN, "the size of the value", lambda v: np.clip(np.abs(v), low, high)
        case Wrap():
            yield STEP_CLIP, "clips in place of wrapping", step.format.saturate
        case Lookup():
            for more in (1, -1):
                entry = partial(_before, chain, step, partial(_plus, more))
                yield STEP_NUMBER, f"the entry {'behind' if more > 0 else 'before'}", entry


def _plus(more: Any, v: Int64) -> Int64:
    moved: Int64 = v + more
    return moved


def _before(chain: Chain, step: Step, change: Function, v: Int64) -> Int64:
    return _done(chain, step, change(v))
