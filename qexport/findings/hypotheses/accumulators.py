"""Accumulators of too few bits."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.model import AnyModel
from qexport.findings.sums import Sums

ACCUMULATOR_WRAPS = Mistake(
    "accumulator_wraps", "Widen the accumulator: the manifest's formats.accumulator.bits hold every sum."
)
ACCUMULATOR_SATURATES = Mistake(
    "accumulator_saturates", "Widen the accumulator: the manifest's formats.accumulator.bits hold every sum."
)


def narrow_accumulators(m: AnyModel, values: Int64, known: Bools) -> Iterator[Change]:
    """An accumulator of too few bits."""
    golden = m.accumulator
    needed = IntFormat.holding(int(golden.min()), int(golden.max()), True).bits
    least = tight = 2
    if m.tensor != "output" and known.any():
        low, high = int(values[known].min()), int(values[known].max())
        tight = max(tight, IntFormat.holding(min(low, 0), max(high, 0), True).bits)
        least = tight if m.facts.added is None else least
    for bits in range(needed - 1, 1, -1):
        fmt = IntFormat(bits, True)
        yield Change(ACCUMULATOR_WRAPS, f"k={bits} bits", Stage.ACCUMULATOR, fmt.wrap, True)
        yield Change(ACCUMULATOR_SATURATES, f"k={bits} bits, at the end", Stage.ACCUMULATOR, fmt.saturate, True)
        unsigned = IntFormat(bits, False)
        yield Change(ACCUMULATOR_WRAPS, f"k={bits} bits, without sign", Stage.ACCUMULATOR, unsigned.wrap)
        yield Change(ACCUMULATOR_SATURATES, f"k={bits} bits, without sign", Stage.ACCUMULATOR, unsigned.saturate)
    yield from _narrow_before_the_last(m, needed)
    ways = [("after each step", None, 0), ("after each step, taps outside", None, 1),
            ("after each product", 1, 0), ("after each product, taps outside", 1, 1)]  # fmt: skip
    widest = m.facts.bounds
    top = IntFormat.holding(*widest, True).bits
    for bits in range(least, top):
        for detail, row, taps_first in ways:
            change = _saturating(IntFormat(bits, True), row, bool(taps_first))
            yield Change(
                ACCUMULATOR_SATURATES, f"k={bits} bits, {detail}", Stage.SUM, change,
                detail == "after each step" and bits == tight,
            )  # fmt: skip
            if m.facts.added is not None:
                late, again = (_saturating(IntFormat(bits, True), row, bool(taps_first), way) for way in (False, True))
                yield Change(ACCUMULATOR_SATURATES, f"k={bits} bits, {detail}, the bias after it", Stage.SUM, late)
                yield Change(ACCUMULATOR_SATURATES, f"k={bits} bits, {detail} and after the bias", Stage.SUM, again)


def _narrow_before_the_last(m: AnyModel, needed: int) -> Iterator[Change]:
    """The accumulator has too few bits; what is added last goes on at full width."""
    for bits in range(needed, 3, -1):
        fmt = IntFormat(bits, True)
        for name, last in (("step", (-1, -1)), ("tap", (slice(None), -1)), ("input tile", (-1, slice(None)))):
            for mistake, way in ((ACCUMULATOR_WRAPS, fmt.wrap), (ACCUMULATOR_SATURATES, fmt.saturate)):

                def change(sums: Sums, last: Any = last, way: Callable[[Int64], Int64] = way) -> Int64:
                    added = sums.part(*last)
                    return way(sums.total + sums.offset - added) + added

                yield Change(mistake, f"k={bits} bits before the last {name}", Stage.SUM, change)


def _saturating(
    fmt: IntFormat, row: int | None, taps_first: bool, late_bias: bool | None = None
) -> Callable[[Sums], Int64]:
    """`late_bias`: None when the sums start at the bias, else whether they saturate once more when it is added."""

    def change(sums: Sums) -> Int64:
        steps = sums.steps if row is None else sums.products(row)
        if taps_first:
            steps = steps.swapaxes(0, 1)
        running = np.zeros_like(sums.total) + (sums.offset if late_bias is None else 0)
        for step in steps.reshape(-1, *sums.total.shape):
            running = np.minimum(np.maximum(running + step, fmt.low), fmt.high)
        if late_bias is None:
            return running
        return fmt.saturate(running + sums.offset) if late_bias else running + sums.offset

    return change
