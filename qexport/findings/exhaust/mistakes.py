"""The mistakes that a module may make at a step, and which of them explains the codes that came back."""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import VALUE, Add, Bias, Step
from qexport.errors import QexportError
from qexport.findings.exhaust.walk import Lane
from qexport.findings.step_mistakes import (
    SOLVED,
    Function,
    Way,
    done,
    narrowed,
    number_that_gives,
    numbers,
    widths,
    works,
)

FEW = 512  # codes that every mistake is tried on, before all


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
        v = self.function(lane.values(accumulators, slice(max(self.at, 0)))[:, np.newaxis])
        for step in lane.chain.steps[self.behind :]:
            v = done(lane.chain, step, v)
        return v[:, 0]


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
    steps = lane.chain.steps
    others = _other_lanes(lane)
    yield Mistake(-1, "is taken as unsigned", IntFormat(min(port, VALUE.bits - 1), False).wrap, 0)
    for at in range(len(steps)):
        yield from _at(at, works(lane.chain, at, len(steps)))
    for other in others:
        at = next(at for at, step in enumerate(steps) if isinstance(step, Bias) or step != other.chain.steps[at])
        yield Mistake(
            at, f"and all behind it have the numbers of channel {other.channel}", partial(_rest, other, at), len(steps)
        )
    for at in range(len(steps)):
        yield from _at(at, numbers(lane.chain, at))
        for other in others:
            for field in steps[at].arrays:
                text = f"has {field} of channel {other.channel}"
                yield from _replaced(lane, at, text, {field: getattr(other.chain.steps[at], field)})


def _at(at: int, ways: Iterator[Way]) -> Iterator[Mistake]:
    return (Mistake(at, way.text, way.function, way.behind) for way in ways)


def _rest(other: Lane, at: int, v: Int64) -> Int64:
    return other.values(v[:, 0], slice(at, None))[:, np.newaxis]


def _solved(lane: Lane, accumulators: Int64, got: Int64) -> Iterator[Mistake]:
    """Steps with the numbers that these codes would come from: between both ends all give the same."""
    for at, step in enumerate(lane.chain.steps):
        field = SOLVED.get(type(step))
        if field is None:
            continue
        v, value = lane.values(accumulators, slice(at)), int(step.arrays[field].ravel()[0])
        signs = np.ones_like(v) if isinstance(step, Add) else np.sign(v)
        reach = 4 * (abs(value) + 1) + (int(np.ptp(v)) if isinstance(step, Add) else 0)
        numbers = max(value - reach, step.limits(field)[0]), min(value + reach, step.limits(field)[1])

        def total(number: int, at: int = at, step: Step = step, field: str = field, signs: Int64 = signs) -> int:
            changed = msgspec.structs.replace(step, **{field: number})
            mistake = Mistake(at, "", partial(done, lane.chain, changed), at + 1)
            return int((signs * mistake.codes(lane, accumulators)).sum())

        with np.errstate(all="ignore"):
            low, high = number_that_gives(range(*numbers), total, int((signs * got).sum()))
        said = str(low) if low == high else f"from {low} to {high}"
        yield from _replaced(lane, at, f"has {field} {said}, not {value}", {field: low})


def _all_bits(lane: Lane) -> Iterator[Mistake]:
    """Values behind a step, or accumulators, that have too few bits, or one that is stuck."""
    chain = lane.chain
    for text, change in narrowed(*chain.start.range):
        yield Mistake(-1, text, change, 0)
    for at in range(-1, len(chain.steps)):
        yield from _at(at, widths(chain, at)) if at >= 0 else ()
        low, high = [chain.start, *chain.signals.values()][at + 1].range
        need = IntFormat.holding(low, high, True)
        for bit, stuck in itertools.product(range(need.bits), (0, 1)):
            change = partial(_stuck, need, bit, stuck)
            text = f"has bit {bit} stuck at {stuck}"
            yield Mistake(at, text, change if at < 0 else partial(_behind, lane, at, change), at + 1)


def _replaced(lane: Lane, at: int, text: str, fields: dict[str, Any]) -> Iterator[Mistake]:
    step = lane.chain.steps[at]
    with suppress(QexportError):  # no such step
        other = msgspec.structs.replace(step, **fields)
        if other != step:
            yield Mistake(at, text, partial(done, lane.chain, other), at + 1)


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


def _behind(lane: Lane, at: int, change: Function, v: Int64) -> Int64:
    return change(done(lane.chain, lane.chain.steps[at], v))


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
