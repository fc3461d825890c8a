"""Mistakes of multipliers that share hardware: packed products, pair sums that saturate, bits that are stuck."""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import accumulate
from qexport.findings.change import Change, Mistake, Stage, with_bit
from qexport.findings.model import Model
from qexport.findings.sums import Sums

PACKED_CARRY = Mistake(
    "packed_carry", "Correct the upper of two packed products: it is one too small where the lower one is negative."
)
PAIR_SATURATES = Mistake(
    "pair_saturates", "Add pairs of products at full width: the sum of two needs one bit more than a product."
)
WEIGHT_BIT_STUCK = Mistake("weight_bit_stuck", "Look at what drives this bit of the weights.")
INPUT_BIT_STUCK = Mistake("input_bit_stuck", "Look at what drives this bit of the activations.")
INPUT_MISSING = Mistake("input_missing", "Feed all input channels: these never reach the array.")
_MOST = 128  # input channels of which each is tried


def arithmetic_mistakes(m: Model) -> Iterator[Change]:
    yield from _bits_stuck(m)
    yield from _inputs_missing(m)
    if m.tensor == "psum":
        return
    if m.layer.groups == 1 and m.layer.out_channels > 1:
        yield from _packed(m)
    weight, seen = m.facts.formats.weight, m.facts.formats.input
    if m.layer.group_inputs > 1 and weight.table is None and seen.table is None:
        widest = weight.bits + seen.bits + 1
        for bits in range(widest - 1, max(widest - 5, 2), -1):
            fmt = IntFormat(bits, True)
            yield Change(PAIR_SATURATES, f"to {bits} bits", Stage.SUM, _in_pairs(fmt.saturate))
            yield Change(PAIR_SATURATES, f"wrapped to {bits} bits", Stage.SUM, _in_pairs(fmt.wrap))


def _in_pairs(cut: Callable[[Int64], Int64]) -> Callable[[Sums], Int64]:
    """Products of neighbouring input channels are added and cut before they are accumulated."""

    def change(sums: Sums) -> Int64:
        total: Int64 = cut(sums.products(2)).sum(axis=(0, 1))
        return total + sums.offset

    return change


def _packed(m: Model) -> Iterator[Change]:
    for upper, way in ((1, "odd channels above even ones"), (0, "even channels above odd ones")):
        yield Change(PACKED_CARRY, f"{way}, with each product", Stage.SUM, _borrowed(m, upper, True))
        yield Change(PACKED_CARRY, f"{way}, with the sum", Stage.SUM, _borrowed(m, upper, False))


def _borrowed(m: Model, upper: int, each: bool) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        lower = sums.outputs ^ 1
        there = (sums.outputs % 2 == upper) & (lower < m.layer.out_channels)
        weight = m.weight[np.where(there, lower, 0)]
        out = sums.total + sums.offset
        if each:
            falls = [accumulate((weight < 0) * 1, (sums.seen > 0) * 1, None, 1, weight[0].size),
                     accumulate((weight > 0) * 1, (sums.seen < 0) * 1, None, 1, weight[0].size)]  # fmt: skip
            borrowed = falls[0] + falls[1]
        else:
            borrowed = (accumulate(weight, sums.seen, None, 1, m.facts.reach) < 0) * 1
        result: Int64 = out - borrowed * there[:, np.newaxis, np.newaxis]
        return result

    return change


def _bits_stuck(m: Model) -> Iterator[Change]:
    """A bit of all codes of an operand."""
    for mistake, fmt, stage in (
        (WEIGHT_BIT_STUCK, m.facts.formats.weight, Stage.WEIGHT_CODES),
        (INPUT_BIT_STUCK, m.facts.formats.input, Stage.INPUT_CODES),
    ):
        for bit in range(fmt.bits if fmt.table is None else 0):
            for value in (0, 1):

                def stuck(codes: Int64, fmt: IntFormat = fmt.integer, bit: int = bit, value: int = value) -> Int64:
                    return fmt.wrap(with_bit(codes, bit, value))

                yield Change(mistake, f"bit {bit} at {value}", stage, stuck)


def _inputs_missing(m: Model) -> Iterator[Change]:
    channels = np.arange(m.layer.in_channels)
    tried = [("odd channels", channels % 2 == 1), ("even channels", channels % 2 == 0)] if len(channels) > 2 else []
    half = len(channels) // 2
    tried += [("the first half", channels < half), ("the second half", channels >= half)] if half > 1 else []
    tried += [(f"channel {channel}", channels == channel) for channel in channels[:_MOST].tolist()]
    for detail, lost in tried if len(channels) > 1 else ():

        def without(seen: Int64, lost: Int64 = lost) -> Int64:
            seen = seen.copy()
            seen[:, lost] = 0
            return seen

        yield Change(INPUT_MISSING, detail, Stage.INPUT_TILES, without)
