"""Faults of elements, adders and steps with drawn places and numbers: whether the judges' own numbers were fitted.

python -m tests.judges.faults.drawn_elements --seed 7 --count 40
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.judges.faults.case import Case, machine
from tests.judges.faults.drawn import Draw, main, other
from tests.judges.faults.listed import changed
from tests.judges.faults.machine import Layer
from tests.judges.faults.physical import at_element, cut_at, place, stuck, stuck_sum, summed, sums_only
from tests.judges.notation import Ints, Json

ACC = "accumulator"
ARRAYS = {  # sets whose array has 8 rows and columns: input channels, output channels, bits of a product
    "plain": (8, 8, 8), "nhwc": (4, 8, 16), "strided": (6, 8, 8), "pointwise": (16, 12, 8), "dense": (24, 12, 8),
    "tflite": (4, 6, 17), "zeros": (4, 6, 14), "matmul": (12, 9, 17),
}  # fmt: skip


def one_of(draw: Draw, *some: Any) -> Any:
    return some[draw(0, len(some) - 1)]


def element(draw: Draw) -> Case:
    on = one_of(draw, *ARRAYS)
    inputs, outputs, bits = ARRAYS[on]
    row, col = draw(0, min(inputs, 8) - 1), draw(0, min(outputs, 8) - 1)
    bit, value = draw(0, bits - 2), draw(0, 1)
    by, constant = other(draw, 2, 9), draw(1, 7)
    name, accept, change = one_of(
        draw,
        (f"product bit {bit} at {value}", f"product.*bit {bit}|bit {bit}.*product", stuck(bit, value)),
        (f"product bit {bit} at {value}", f"product.*bit {bit}|bit {bit}.*product", stuck(bit, value)),
        ("dead", "dead|effective_kernel.*0, 0|missing", lambda p, *_: 0 * p),
        ("products negated", "negated|effective_kernel", lambda p, *_: -p),
        (f"products off by {by}", f"off by [+]?{by}", lambda p, *_: p + by),
        (f"weight always {constant}", f"always {constant}|effective_kernel", lambda p, w, x: constant * x),
        ("no negative product", "below 0|effective_kernel", lambda p, *_: np.maximum(p, 0)),
        ("products cut to 6 bits", "cut to 6 bits", lambda p, *_: ((p + 32) & 63) - 32),
    )
    wrong = at_element(row, col, 8, 8, change)
    return machine(f"{name} in ({row}, {col})", on, ACC, accept, place(row, col), products=wrong)


def adder(draw: Draw) -> Case:
    on = one_of(draw, *ARRAYS)
    _, outputs, bits = ARRAYS[on]
    col, bit, value = draw(0, min(outputs, 8) - 1), draw(1, bits), draw(0, 1)
    if draw(0, 1):
        return machine(f"accumulator bit {bit} at {value} of column {col}", on, ACC, f"sum.*bit {bit}|bit {bit}",
                       f"column {col}|channel {col}", total=summed(col, 8, 8, stuck_sum(bit, value)),
                       biased=sums_only)  # fmt: skip
    return machine(f"no carry into bit {bit} of column {col}", on, ACC, f"carry.*{bit}", f"column {col}|channel {col}",
                   total=summed(col, 8, 8, cut_at(bit)), biased=sums_only)  # fmt: skip


def everywhere(draw: Draw) -> Case:
    """All multipliers or adders alike."""
    on = one_of(draw, *ARRAYS)
    bits = ARRAYS[on][2]
    bit, value = draw(0, bits - 2), draw(0, 1)
    if draw(0, 1):

        def wrong(layer: Layer, p: Ints, w: Ints, x: Ints) -> Ints:
            return np.asarray(stuck(bit, value)(p))

        return machine(f"product bit {bit} at {value} everywhere", on, ACC, f"product.*bit {bit}", products=wrong)
    return machine(f"accumulator bit {bit} at {value} everywhere", on, ACC, f"sum.*bit {bit}|bit {bit}",
                   total=each_column(bit, value), biased=sums_only)  # fmt: skip


def each_column(bit: int, value: int) -> Callable[[Layer, Ints], Ints]:
    def total(layer: Layer, p: Ints) -> Ints:
        found = summed(0, 8, 8, stuck_sum(bit, value))(layer, p)
        for col in range(1, 8):
            part = summed(col, 8, 8, stuck_sum(bit, value))(layer, p)
            found[:, col::8] = part[:, col::8]
        return np.asarray(found)

    return total


def steps(draw: Draw) -> Case:
    on = one_of(draw, "plain", "apart", "scaled", "pooled", "wide", "tflite", "matmul")
    made: dict[str, list[tuple[str, str, Callable[[list[Json]], list[Json]]]]] = {
        "plain": [shift(0, 5 + other(draw, 1, 3)), clip(1, 0, draw(6, 13))],
        "apart": [shift(2, draw(1, 9)), clip(3, 0, draw(90, 220)), moved(0, 2), rounded(2, draw)],
        "scaled": [by(0, "by", draw(0, 7), other(draw, 20_000, 90_000)), clip(3, -128, draw(20, 90))],
        "pooled": [leaky(draw(4, 6)), shift(2, draw(3, 5)), moved(1, 0), rounded(2, draw)],
        "wide": [by(0, "multiplier", draw(0, 7), other(draw, 10**7, 9 * 10**7)), digits(draw(9, 14))],
        "tflite": [by(0, "multiplier", draw(0, 5), other(draw, 10**8, 5 * 10**8)), clip(2, -draw(30, 90), 127)],
        "matmul": [shift(0, 9 + other(draw, 1, 3)), clip(1, -draw(20, 100), 127)],
    }
    name, accept, change = one_of(draw, *made[on])
    return changed(name, on, accept, change)


Change = tuple[str, str, Callable[[list[Json]], list[Json]]]


def set_to(at: int, **fields: Any) -> Callable[[list[Json]], list[Json]]:
    return lambda steps: [*steps[:at], steps[at] | fields, *steps[at + 1 :]]


def shift(at: int, amount: int) -> Change:
    accept = f"step_number.*by {amount}\\b|shift.*by {amount}\\b|scale_power|step{at} is left out|fitted"
    return f"shift by {amount}", accept, set_to(at, by=amount)


def leaky(amount: int) -> Change:
    return f"leaky by {amount}", f"shift {amount}\\b|leaky", set_to(0, shift=amount)


def clip(at: int, low: int, high: int) -> Change:
    return f"clip to {low}..{high}", "clip|clamp", set_to(at, low=low, high=high)


def rounded(at: int, draw: Draw) -> Change:
    way = one_of(draw, "floor", "toward_zero", "half_up")
    return f"rounds {way}", f"round|floor|{way}", set_to(at, round=way)


def moved(at: int, to: int) -> Change:
    def change(steps: list[Json]) -> list[Json]:
        left = [step for number, step in enumerate(steps) if number != at]
        return [*left[:to], steps[at], *left[to:]]

    return f"step {at} moved to {to}", "step_order|bias_wrong|stands", change


def by(at: int, key: str, channel: int, more: int) -> Change:
    def change(steps: list[Json]) -> list[Json]:
        numbers = list(steps[at][key])
        numbers[channel] = min(numbers[channel] + more, 2**31 - 1)
        return [*steps[:at], steps[at] | {key: numbers}, *steps[at + 1 :]]

    return f"{key} of channel {channel} off by {more}", f"{key}.*channel {channel}", change


def digits(bits: int) -> Change:
    def change(steps: list[Json]) -> list[Json]:
        lost = 31 - bits
        return [steps[0] | {"multiplier": [v >> lost << lost for v in steps[0]["multiplier"]]}, *steps[1:]]

    return f"multiplier of {bits} digits", "multiplier.*(cut|bits)", change


FAMILIES = (element, steps, adder, element, everywhere)


if __name__ == "__main__":
    main(__doc__, FAMILIES, "physical")
