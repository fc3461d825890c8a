"""Mistakes behind the accumulator: ReLU and requantization."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from qexport.core.codes import CodeFormat
from qexport.core.intformat import Int64, IntFormat
from qexport.core.rescale import Integers
from qexport.core.steps import Add, ShiftRight, shift_right
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import AnyModel
from qexport.findings.step_mistakes import all_done

RELU_WRONG = Mistake("relu_wrong", "Let max(accumulator, 0) pass, and nothing else.")
REQUANT_SHIFT = Mistake("requant_shift", "Multiply before the shift, and shift by as much as the manifest's steps say.")
OUTPUT_ZERO_POINT = Mistake("output_zero_point", "Add the output's zero point to the codes.")
RELU_MISSING = Mistake("relu_missing", "Put max(accumulator, 0) before what is written.")
_FORMULA = "(accumulator * by + value) >> shift"
REQUANT_FLOOR = Mistake("requant_floor", f"Add the step's value before the shift: {_FORMULA}.")
REQUANT_HALF_UP = Mistake("requant_half_up", f"Round as the manifest's steps do: {_FORMULA}.")
REQUANT_HALF_EVEN = Mistake("requant_half_even", f"Round as the manifest's steps do: {_FORMULA}.")
REQUANT_TOWARD_ZERO = Mistake("requant_toward_zero", f"Add the step's value before the shift: {_FORMULA}.")
SCALE_POWER_OF_TWO = Mistake("scale_power_of_two", "Correct the shift of the scale.")
_POWERS = (1, -1, 2, -2, 3, -3, 4, -4)
OTHER_LAYER = Mistake("other_layer", "Compare with the memory and the set that the design was run on.")


def post_mistakes(m: AnyModel) -> Iterator[Change]:
    if m.tensor in ("accumulator", "relu"):
        yield from _scaled(m)
    if m.tensor == "relu":
        yield Change(RELU_MISSING, "", Stage.POST, lambda acc: acc, True)
        yield from _other_relus(m, lambda acc: acc)
    elif m.layer.relu and m.tensor != "accumulator":
        yield from _other_relus(m, m.post)
        if m.tensor == "output" and m.facts.integers is not None:
            yield from _other_relus(m, without_relu(m), ", low bits kept")
    if m.tensor == "output" and m.tensor not in m.facts.pooled:
        yield from _plain_shifts(m)
        if m.facts.formats.output is not None:
            yield from _without_zero_point(m, m.facts.formats.output)
    stored = {entry.tensor: entry.name for entry in m.manifest.memories}
    shape = m.facts.tensor(m.tensor).shape(1)
    for tensor in m.facts.result_names:
        if tensor in stored and tensor != m.tensor and m.facts.tensor(tensor).shape(1) == shape:
            detail = f"the words are those of memory {stored[tensor]}"
            yield Change(OTHER_LAYER, detail, Stage.POST, partial(m.behind, tensor))
    integers, output = m.facts.integers, m.facts.formats.output
    if m.tensor == "output" and integers is not None and output is not None and m.layer.relu:
        yield from _requantizations(m, integers, output)


def _other_relus(m: AnyModel, behind: Callable[[Int64], Int64], kept: str = "") -> Iterator[Change]:
    """What stands in place of max(accumulator, 0), and what is made of it."""
    yield Change(RELU_WRONG, f"the size of the value{kept}", Stage.POST, lambda acc: behind(np.abs(acc)))
    yield Change(
        RELU_WRONG, f"keeps values below 0, not above{kept}", Stage.POST, lambda acc: behind(np.minimum(acc, 0))
    )
    yield Change(RELU_WRONG, f"negates the value{kept}", Stage.POST, lambda acc: behind(np.maximum(-acc, 0)))
    for by in range(1, 8):
        leaky = partial(_leaky, by, behind)
        yield Change(RELU_WRONG, f"leaky, by 1/{1 << by}{kept}", Stage.POST, leaky)


def _leaky(by: int, behind: Callable[[Int64], Int64], acc: Int64) -> Int64:
    return behind(np.where(acc < 0, acc >> by, acc))


def _plain_shifts(m: AnyModel) -> Iterator[Change]:
    """A shift without multiplier, in place of all steps but the clip."""
    most = IntFormat.holding(*m.facts.bounds, True).bits
    output, (low, high) = m.facts.formats.output, m.facts.end.range
    zero = 0 if output is None else output.zero_points[0]
    for by in range(most):
        for rounding in ("floor", "half_up"):

            def shifted(acc: Int64, by: int = by, rounding: Any = rounding) -> Int64:
                values = np.maximum(acc, 0) if m.layer.relu else acc
                codes: Int64 = np.clip(shift_right(values, by, rounding) + zero, low, high)
                return codes

            yield Change(REQUANT_SHIFT, f"by {by}, {rounding}", Stage.POST, shifted)


def _without_zero_point(m: AnyModel, output: CodeFormat) -> Iterator[Change]:
    """The addend before the shift holds the zero point of the codes."""
    chain, zero = m.facts.chain, output.zero_points[0]
    if chain is None or not zero:
        return
    for at, (step, following) in enumerate(pairwise(chain.steps)):
        if not (isinstance(step, Add) and isinstance(following, ShiftRight)):
            continue
        for times, how in ((1, "not added"), (2, "taken off, not added")):
            value = step.arrays["value"] - times * (zero << following.arrays["by"])
            other = msgspec.structs.replace(step, value=tuple(value.tolist()) if value.ndim else int(value))
            steps = (*chain.steps[:at], other, *chain.steps[at + 1 :])
            yield Change(OUTPUT_ZERO_POINT, how, Stage.POST, partial(all_done, chain, steps))


def _scaled(m: AnyModel) -> Iterator[Change]:
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


def _requantizations(m: AnyModel, integers: Integers, output: CodeFormat) -> Iterator[Change]:
    yield from _roundings(m, integers, output)

    def shifted(by: int, value: int | None) -> Callable[[Int64], Int64]:
        # another shift adds another half with it, as designs do
        other = replace(integers, shift=integers.shift - by, value=1 << (integers.shift - by - 1))
        return lambda acc: other.apply(np.maximum(acc, 0), value)

    for by in _POWERS:
        if integers.shift - by >= 1:
            detail = f"by {Fraction(2) ** by}"
            yield Change(SCALE_POWER_OF_TWO, detail, Stage.POST, shifted(by, None), abs(by) == 1)
            kept = shifted(by, integers.value)
            yield Change(SCALE_POWER_OF_TWO, f"{detail}, the half as before", Stage.POST, kept)
    yield Change(RELU_MISSING, "low bits kept", Stage.POST, without_relu(m), True)
    too_large = partial(_where_below_0, m.post, output.integer.high)
    yield Change(RELU_MISSING, "sums below 0 are too large for an unsigned requantizer", Stage.POST, too_large)
    signed = IntFormat(output.bits, True)
    yield Change(RELU_MISSING, "codes signed", Stage.POST, lambda acc: signed.saturate(integers.scaled(acc)))


def _where_below_0(post: Callable[[Int64], Int64], code: int, acc: Int64) -> Int64:
    return np.where(acc < 0, code, post(acc))


def _roundings(m: AnyModel, integers: Integers, output: CodeFormat) -> Iterator[Change]:
    """Codes that are rounded in another way, from the integers `mul` and `shift` or from the real value."""
    step, scale = m.facts.formats.accumulator_scales[0], output.scales[0]
    integer, real = Fraction(integers.by, 1 << integers.shift), Fraction(step) / Fraction(scale)

    def exact(rounding: Callable[[Fraction], int], factor: Fraction) -> Callable[[Int64], Int64]:
        """code = rounding(accumulator x factor), clipped; the accumulators' own values are few."""

        def change(acc: Int64) -> Int64:
            values, places = np.unique(np.maximum(acc, 0), return_inverse=True)
            codes = np.array([min(integers.high, rounding(int(value) * factor)) for value in values], np.int64)
            return codes[places.reshape(acc.shape)]

        return change

    def half_up(value: Fraction) -> int:
        return math.floor(value + Fraction(1, 2))

    def floor(acc: Int64) -> Int64:
        return integers.apply(np.maximum(acc, 0), value=0)

    def floating(acc: Int64) -> Int64:
        return np.minimum(np.rint(np.maximum(acc, 0) * step / scale).astype(np.int64), integers.high)

    yield Change(REQUANT_FLOOR, "", Stage.POST, floor, True)
    yield Change(REQUANT_FLOOR, "of the real value", Stage.POST, exact(math.floor, real))
    yield Change(REQUANT_TOWARD_ZERO, "", Stage.POST, exact(math.trunc, integer))
    yield Change(REQUANT_TOWARD_ZERO, "of the real value", Stage.POST, exact(math.trunc, real))
    yield Change(REQUANT_HALF_EVEN, "", Stage.POST, exact(round, integer))
    yield Change(REQUANT_HALF_EVEN, "of the real value", Stage.POST, exact(round, real))
    yield Change(REQUANT_HALF_EVEN, "of the real value in floating point", Stage.POST, floating)
    yield Change(REQUANT_HALF_UP, "", Stage.POST, exact(half_up, integer))
    yield Change(REQUANT_HALF_UP, "of the real value", Stage.POST, exact(half_up, real))


def without_relu(m: AnyModel) -> Callable[[Int64], Int64]:
    """From accumulators to the compared tensor, but for the ReLU."""
    integers = m.facts.integers
    if m.tensor != "output" or integers is None:
        return lambda acc: acc
    return lambda acc: np.minimum(integers.scaled(acc), integers.high)
