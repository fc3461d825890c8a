"""Mistakes behind the accumulator: ReLU and requantization."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np

from qexport.core.codes import CodeFormat
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.registry import AXES, RESULTS
from qexport.core.requant import Requantizer
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

RELU_MISSING = Mistake("relu_missing", "Put max(accumulator, 0) before what is written.")
_FORMULA = "(relu * mul + (1 << (shift - 1))) >> shift"
REQUANT_FLOOR = Mistake("requant_floor", f"Add half before the shift: {_FORMULA}.")
REQUANT_HALF_UP = Mistake("requant_half_up", f"Round as the manifest's mul and shift do: {_FORMULA}.")
REQUANT_HALF_EVEN = Mistake("requant_half_even", f"Round as the manifest's mul and shift do: {_FORMULA}.")
REQUANT_TOWARD_ZERO = Mistake("requant_toward_zero", f"Add half before the shift: {_FORMULA}.")
SCALE_POWER_OF_TWO = Mistake("scale_power_of_two", "Correct the shift of the scale.")
_POWERS = (1, -1, 2, -2, 3, -3, 4, -4)
OTHER_LAYER = Mistake("other_layer", "Compare with the memory and the set that the design was run on.")


def post_mistakes(m: Model) -> Iterator[Change]:
    if m.tensor in ("accumulator", "relu"):
        yield from _scaled(m)
    if m.tensor == "relu":
        yield Change(RELU_MISSING, "", Stage.POST, lambda acc: acc, True)
    stored = {entry.tensor: entry.name for entry in m.manifest.memories}
    for tensor in RESULTS:
        if tensor in stored and tensor != m.tensor and AXES[tensor] == AXES[m.tensor]:
            detail = f"the words are those of memory {stored[tensor]}"
            yield Change(OTHER_LAYER, detail, Stage.POST, partial(m.behind, tensor))
    requantizer, output = m.facts.requantizer, m.facts.formats.output
    if m.tensor == "output" and requantizer is not None and output is not None:
        yield from _requantizations(m, requantizer, output)


def _scaled(m: Model) -> Iterator[Change]:
    """Exact results times a power of two."""
    for by in _POWERS:
        factor = Fraction(2) ** by

        def scaled(acc: Int64, by: int = by) -> Int64:
            values = m.post(acc)
            return values << by if by > 0 else values >> -by

        yield Change(SCALE_POWER_OF_TWO, f"by {factor}", Stage.POST, scaled, abs(by) == 1)
        if by < 0:

            def rounded(acc: Int64, by: int = by) -> Int64:
                return (m.post(acc) + (1 << (-by - 1))) >> -by

            def cut(acc: Int64, by: int = by) -> Int64:
                values = m.post(acc)
                return np.where(values < 0, -(-values >> -by), values >> -by)

            yield Change(SCALE_POWER_OF_TWO, f"by {factor}, rounded", Stage.POST, rounded)
            yield Change(SCALE_POWER_OF_TWO, f"by {factor}, toward zero", Stage.POST, cut)


def _requantizations(m: Model, requantizer: Requantizer, output: CodeFormat) -> Iterator[Change]:
    yield from _roundings(m, requantizer, output)

    def shifted(by: int, half: int | None) -> Callable[[Int64], Int64]:
        other = replace(requantizer, shift=requantizer.shift - by)
        return lambda acc: other.apply(np.maximum(acc, 0), half)

    for by in _POWERS:
        if requantizer.shift - by >= 1:
            detail = f"by {Fraction(2) ** by}"
            yield Change(SCALE_POWER_OF_TWO, detail, Stage.POST, shifted(by, None), abs(by) == 1)
            kept = shifted(by, requantizer.half)
            yield Change(SCALE_POWER_OF_TWO, f"{detail}, the half as before", Stage.POST, kept)
    yield Change(RELU_MISSING, "low bits kept", Stage.POST, without_relu(m), True)
    signed = IntFormat(output.bits, True)
    yield Change(RELU_MISSING, "codes signed", Stage.POST, lambda acc: signed.saturate(requantizer.scaled(acc)))


def _roundings(m: Model, requantizer: Requantizer, output: CodeFormat) -> Iterator[Change]:
    """Codes that are rounded in another way, from the integers `mul` and `shift` or from the real value."""
    step, scale = m.facts.formats.steps[0], output.scales[0]
    integer, real = Fraction(requantizer.mul, 1 << requantizer.shift), Fraction(step) / Fraction(scale)

    def exact(rounding: Callable[[Fraction], int], factor: Fraction) -> Callable[[Int64], Int64]:
        """code = rounding(accumulator x factor), clipped; the accumulators' own values are few."""

        def change(acc: Int64) -> Int64:
            values, places = np.unique(np.maximum(acc, 0), return_inverse=True)
            codes = np.array([min(requantizer.qmax, rounding(int(value) * factor)) for value in values], np.int64)
            return codes[places.reshape(acc.shape)]

        return change

    def half_up(value: Fraction) -> int:
        return math.floor(value + Fraction(1, 2))

    def floor(acc: Int64) -> Int64:
        return requantizer.apply(np.maximum(acc, 0), half=0)

    def floating(acc: Int64) -> Int64:
        return np.minimum(np.rint(np.maximum(acc, 0) * step / scale).astype(np.int64), requantizer.qmax)

    yield Change(REQUANT_FLOOR, "", Stage.POST, floor, True)
    yield Change(REQUANT_FLOOR, "of the real value", Stage.POST, exact(math.floor, real))
    yield Change(REQUANT_TOWARD_ZERO, "", Stage.POST, exact(math.trunc, integer))
    yield Change(REQUANT_TOWARD_ZERO, "of the real value", Stage.POST, exact(math.trunc, real))
    yield Change(REQUANT_HALF_EVEN, "", Stage.POST, exact(round, integer))
    yield Change(REQUANT_HALF_EVEN, "of the real value", Stage.POST, exact(round, real))
    yield Change(REQUANT_HALF_EVEN, "of the real value in floating point", Stage.POST, floating)
    yield Change(REQUANT_HALF_UP, "", Stage.POST, exact(half_up, integer))
    yield Change(REQUANT_HALF_UP, "of the real value", Stage.POST, exact(half_up, real))


def without_relu(m: Model) -> Callable[[Int64], Int64]:
    """From accumulators to the compared tensor, but for the ReLU."""
    requantizer = m.facts.requantizer
    if m.tensor != "output" or requantizer is None:
        return lambda acc: acc
    return requantizer.apply
