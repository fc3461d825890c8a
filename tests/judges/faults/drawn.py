"""Variants with drawn numbers: whether the judges' own numbers were fitted.

python -m tests.judges.faults.drawn --seed 7 --count 40
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.judges.faults import run
from tests.judges.faults.case import Case, machine, written
from tests.judges.faults.listed import narrow, with_bias, words_later
from tests.judges.faults.machine import Layer, add_bias
from tests.judges.faults.sets import Set, set_of
from tests.judges.faults.variant import (
    ACC,
    every,
    lanes,
    late_lane,
    lost_bit,
    lost_bit_of_all,
    moved,
    offset,
    offset_of_all,
    padded_only,
    part,
    pitch,
    rows_swapped,
    turned_in,
    weights_of,
)
from tests.judges.notation import Ints

CONVOLUTIONS = ("plain", "nhwc", "tflite", "depthwise", "strided", "zeros")
SETS = (*CONVOLUTIONS, "pointwise", "dense")
Draw = Callable[[int, int], int]  # both ends included


def other(draw: Draw, low: int, high: int) -> int:
    """A number of one sign or the other."""
    return draw(low, high) * (1 if draw(0, 1) else -1)


def exchanged_from(a: int, b: int, start: int) -> Callable[[Ints], None]:
    def change(words: Ints) -> None:
        words[start:, [a, b]] = words[start:, [b, a]]

    return change


def late(first: int, by: int) -> Any:
    """Channels from `first` on give the result of some positions before, or behind."""

    def biased(layer: Layer, sums: Ints) -> Ints:
        found = add_bias(layer, sums)
        flat = found.reshape(*found.shape[:2], -1).copy()
        own = flat.copy()
        flat[:, first:] = np.roll(own[:, first:], by, axis=2)
        lost = slice(0, by) if by > 0 else slice(by, None)
        flat[:, first:, lost] = own[:, first:, lost]
        return flat.reshape(found.shape)

    return biased


def addresses(draw: Draw) -> Case:
    on = SETS[draw(0, len(CONVOLUTIONS) - 1)]
    accept = "input_address"
    match draw(0, 4):
        case 0:
            by = other(draw, 2, 3)
            return machine(f"row pitch {by:+d}", on, ACC, f"{accept}.*pitch", inputs=pitch(by, bool(draw(0, 1))))
        case 1:
            bit = draw(0, 4)
            return machine(f"address bit {bit} lost", on, ACC, f"{accept}.*bit", inputs=lost_bit(bit))
        case 2:
            bit = draw(0, 5)
            wrong = lost_bit_of_all(bit)
            return machine(f"address bit {bit} of all images lost", on, ACC, f"{accept}.*bit", inputs=wrong)
        case 3:
            by = other(draw, 3, 11)
            return machine(f"counter {by:+d}", on, ACC, accept, inputs=offset(by))
        case _:
            by = draw(3, 13)
            return machine(f"address {by:+d}", on, ACC, f"{accept}.*\\+{by}", inputs=offset_of_all(by))


def weights(draw: Draw) -> Case:
    on = ("plain", "nhwc", "strided", "pointwise", "dense", "tflite")[draw(0, 5)]
    if draw(0, 1):
        by = draw(4, 11)
        accept = f"weight_address.*[+]{by}|tap_off_by_one|weight_address"
        return machine(f"weight address + {by}", on, ACC, accept, weights=words_later(by))
    a, b = draw(0, 1), draw(2, 3)
    accept = "row.*(swap|exchang|order)|effective_kernel|permut|exchang"
    return machine(f"weight rows {a} and {b} swapped", on, ACC, accept, weights=weights_of(rows_swapped(a, b)))


def edges(draw: Draw) -> Case:
    on = CONVOLUTIONS[draw(0, 4)]
    side, fill = draw(0, 3), draw(1, 7)
    name = ("top", "bottom", "left", "right")[side]
    return machine(f"padding of {fill} {name}", on, ACC, "pad", padded=padded_only(side, fill))


def biases(draw: Draw) -> Case:
    on = ("plain", "nhwc", "pointwise", "dense", "tflite")[draw(0, 4)]
    bits, signed = draw(5, 14), bool(draw(0, 1))
    name = f"bias in {bits} bits {'signed' if signed else 'unsigned'}"
    return machine(name, on, ACC, "bias.*(bits|sign|wrap|cut)", biased=with_bias(narrow(bits, signed)))


def results(draw: Draw) -> Case:
    on = SETS[draw(0, len(SETS) - 1)]
    if draw(0, 1):
        first, by = draw(1, 5), other(draw, 1, 3)
        on = CONVOLUTIONS[draw(0, 3)]
        return machine(f"channels from {first} late by {by}", on, ACC, "late|early|skew", biased=late(first, by))
    a, b, start = draw(0, 3), draw(4, 7), draw(0, 9)
    on = ("plain", "depthwise", "pointwise", "strided")[draw(0, 3)]
    accept = "swap|exchang|permut|lanes"
    change = exchanged_from(a, b, start)
    return written(f"lanes {a} and {b} exchanged from word {start} on", on, ACC, accept, lanes(change, ACC))


def words(draw: Draw) -> Case:
    on = ("plain", "nhwc", "matmul", "depthwise", "strided", "tflite")[draw(0, 5)]
    accept = "constant|words.*(zero|0)"
    match draw(0, 4):
        case 0:
            k, first, value = draw(3, 9), draw(1, 9), (0, -1, 5)[draw(0, 2)]
            return written(f"every {k}th from {first} reads {value}", on, ACC, accept,
                           lanes(every(k, first, value), ACC))  # fmt: skip
        case 1:
            start = draw(3, 15)
            return written(f"zero from word {start} on", on, ACC, accept, lanes(part(start, 9999, 0), ACC))
        case 2:
            start, count = draw(1, 9), draw(4, 9)
            return written(f"words {start} to {start + count - 1} zero", on, ACC, accept,
                           lanes(part(start, start + count, 0), ACC))  # fmt: skip
        case 3:
            start, by = draw(1, 18), (-1, 1)[draw(0, 1)]
            return written(f"from word {start} on late by {by}", on, ACC,
                           "words_(lost|early|shifted|doubled|held)", lanes(moved(start, by), ACC))  # fmt: skip
        case _:
            lane, by = draw(0, 1), other(draw, 1, 4)
            return written(f"lane {lane} late by {by}", on, ACC, "words_shifted|late|early|skew",
                           lanes(late_lane(lane, by), ACC))  # fmt: skip


def parts(draw: Draw) -> Case:
    on = CONVOLUTIONS[draw(0, 3)]
    start = draw(1, 25)
    case = machine("kernel turned", on, ACC, "kernel_rotated|effective_kernel|tap_order",
                   weights=weights_of(turned_in(None)))  # fmt: skip
    some = slice(start, start + draw(6, 14))
    return replace(case, name=f"{case.name}, words {some.start} to {some.stop - 1} alone", part=some)


Family = Callable[[Draw], Case]
FAMILIES = (addresses, weights, edges, biases, results, words, parts, addresses, words)


def cases(families: Sequence[Family], kind: str, seed: int, count: int, root: Path) -> Iterator[Case]:
    """So many, of each family in turn; those that change fewer than four values are drawn again."""
    rng = np.random.default_rng(seed)
    made, seen = 0, set[str]()
    while made < count:
        case = families[made % len(families)](lambda low, high: int(rng.integers(low, high + 1))).of(kind)
        if case.id not in seen and shows(case, set_of(case.on, root / "sets")):
            seen.add(case.id)
            made += 1
            yield case


def shows(case: Case, found: Set) -> bool:
    bits = found.memory(case.tensor)["bits"]
    changed = (case.words(found) - found.read(case.tensor)) % (1 << bits) != 0
    return bool(changed[:, case.part or slice(None)].sum() >= 4)


def main(doc: str | None, families: Sequence[Family], kind: str) -> None:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        drawn = cases(families, kind, asked.seed, asked.count, Path(root))
        judged = [(case, run.answer(case, Path(root))) for case in drawn]
    print("\n".join(run.table(judged)))
    print("\nMisses:")
    for case, found in judged:
        if not run.accepted(case, found) or (case.element and not run.element_named(case, found)):
            print(f"- {run.miss(case, found)}")


if __name__ == "__main__":
    main(__doc__, FAMILIES, "variant")
