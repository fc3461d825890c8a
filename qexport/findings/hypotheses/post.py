"""Mistakes behind the accumulator: ReLU and requantization."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

RELU_MISSING = Mistake("relu_missing", "Put max(accumulator, 0) before what is written.")
REQUANT_FLOOR = Mistake("requant_floor", "Add half before the shift: (relu * mul + (1 << (shift - 1))) >> shift.")
REQUANT_HALF_UP = Mistake(
    "requant_half_up", "Round as the manifest's mul and shift do: (relu * mul + (1 << (shift - 1))) >> shift."
)
REQUANT_HALF_EVEN = Mistake(
    "requant_half_even", "Round as the manifest's mul and shift do: (relu * mul + (1 << (shift - 1))) >> shift."
)
REQUANT_TOWARD_ZERO = Mistake(
    "requant_toward_zero", "Add half before the shift: (relu * mul + (1 << (shift - 1))) >> shift."
)
SCALE_POWER_OF_TWO = Mistake("scale_power_of_two", "Correct the shift of the scale.")
OTHER_LAYER = Mistake("other_layer", "Compare with the memory and the set that the design was run on.")


def post_mistakes(m: Model) -> Iterator[Change]:
    facts = m.facts
    if m.tensor in ("accumulator", "relu"):
        for by in (1, -1, 2, -2, 3, -3, 4, -4):
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
    if m.tensor == "relu":
        yield Change(RELU_MISSING, "", Stage.POST, lambda acc: acc, True)
    stored = {entry.tensor: entry.name for entry in m.manifest.memories}
    others = [name for name in ("accumulator", "relu", "output") if name != m.tensor and name in stored]
    makers: dict[str, Callable[[Int64], Int64]] = {
        "accumulator": lambda acc: acc,
        "relu": lambda acc: np.maximum(acc, 0),
    }
    if facts.requantizer is not None:
        requantizer = facts.requantizer
        makers["output"] = lambda acc: requantizer.apply(np.maximum(acc, 0))
    for name in others:
        yield Change(OTHER_LAYER, f"the words are those of memory {stored[name]}", Stage.POST, makers[name])
    if m.tensor == "output":
        yield from _requantizations(m)


def _requantizations(m: Model) -> Iterator[Change]:
    requantizer, formats = m.facts.requantizer, m.facts.formats
    assert requantizer is not None
    assert formats.output is not None
    mul, shift, high = requantizer.mul, requantizer.shift, requantizer.qmax
    ratio = Fraction(formats.steps[0]) / Fraction(formats.output.scales[0])

    def exact(rounding: Callable[[Fraction], int], factor: Fraction) -> Callable[[Int64], Int64]:
        """code = rounding(accumulator x factor), clipped; the accumulators' own values are few."""

        def change(acc: Int64) -> Int64:
            values, places = np.unique(np.maximum(acc, 0), return_inverse=True)
            codes = np.array([min(high, rounding(int(value) * factor)) for value in values], np.int64)
            return codes[places.reshape(acc.shape)]

        return change

    def integer(half: int, mul: int = mul, shift: int = shift) -> Callable[[Int64], Int64]:
        return lambda acc: np.minimum((np.maximum(acc, 0) * mul + half) >> shift, high)

    def half_up(value: Fraction) -> int:
        return math.floor(value + Fraction(1, 2))

    fraction = Fraction(mul, 1 << shift)
    yield Change(REQUANT_FLOOR, "", Stage.POST, integer(0), True)
    yield Change(REQUANT_FLOOR, "of the real value", Stage.POST, exact(math.floor, ratio))
    yield Change(REQUANT_TOWARD_ZERO, "", Stage.POST, exact(math.trunc, fraction))
    yield Change(REQUANT_TOWARD_ZERO, "of the real value", Stage.POST, exact(math.trunc, ratio))
    yield Change(REQUANT_HALF_EVEN, "", Stage.POST, exact(round, fraction))
    yield Change(REQUANT_HALF_EVEN, "of the real value", Stage.POST, exact(round, ratio))
    step, scale = formats.steps[0], formats.output.scales[0]

    def floating(acc: Int64) -> Int64:
        return np.minimum(np.rint(np.maximum(acc, 0) * step / scale).astype(np.int64), high)

    yield Change(REQUANT_HALF_EVEN, "of the real value in floating point", Stage.POST, floating)
    yield Change(REQUANT_HALF_UP, "", Stage.POST, exact(half_up, fraction))
    yield Change(REQUANT_HALF_UP, "of the real value", Stage.POST, exact(half_up, ratio))
    for by in (1, -1, 2, -2, 3, -3, 4, -4):
        if shift - by < 1:
            continue
        detail = f"by {Fraction(2) ** by}"
        half = 1 << (shift - by - 1)
        yield Change(SCALE_POWER_OF_TWO, detail, Stage.POST, integer(half, shift=shift - by), abs(by) == 1)
        kept = integer(1 << (shift - 1), shift=shift - by)
        yield Change(SCALE_POWER_OF_TWO, f"{detail}, the half as before", Stage.POST, kept)
    yield Change(RELU_MISSING, "low bits kept", Stage.POST, without_relu(m), True)
    signed = IntFormat(formats.output.bits, True)
    yield Change(
        RELU_MISSING, "codes signed", Stage.POST, lambda acc: signed.saturate((acc * mul + (1 << (shift - 1))) >> shift)
    )


def without_relu(m: Model) -> Callable[[Int64], Int64]:
    requantizer = m.facts.requantizer
    if m.tensor == "relu" or requantizer is None:
        return lambda acc: acc
    half = 1 << (requantizer.shift - 1)
    return lambda acc: np.minimum((acc * requantizer.mul + half) >> requantizer.shift, requantizer.qmax)
