"""Mistakes with the words that are written: their bits, lanes and places."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage, with_bit
from qexport.findings.hypotheses.inputs import LANE_STUCK, SKEW
from qexport.findings.hypotheses.orders import DELAYS
from qexport.findings.model import AnyModel
from qexport.findings.wires import Unit, bit_orders, cross

OUTPUT_NIBBLES = Mistake("output_nibbles", "Swap the two 4-bit halves of each byte that is written.")
OUTPUT_BYTES = Mistake(
    "output_bytes", "Swap the bytes of the words that are written: the first lane is the most significant."
)
OUTPUT_BITS = Mistake("output_bits", "Reverse the bits that are written: the first bit is the most significant.")
WORDS_SHIFTED = Mistake(
    "words_shifted", "Start to record at the first valid word: check the latency or the write address."
)
X_VALUES = Mistake("x_values", "Reset or initialise what drives these words: the simulation gives X or Z there.")
OUTPUT_BIT_STUCK = Mistake("output_bit_stuck", "Look at what drives this bit of the words that are written.")
RESULTS_CLIPPED = Mistake("results_clipped", "Clip where the manifest's steps say, or not at all.")
RESULTS_CONSTANT = Mistake(
    "results_constant",
    "Look at valid, at reset and at the load of the weights: these results do not depend on the data.",
)
WORD_COUNT = Mistake("word_count", "Write as many words as the manifest says.")
_UNITS: Mapping[Unit, Mistake] = {"nibbles": OUTPUT_NIBBLES, "bytes": OUTPUT_BYTES, "bits": OUTPUT_BITS}


def word_mistakes(m: AnyModel, blocks: Int64, known: Bools, fill: Int64 | None = None) -> Iterator[Change]:
    """`blocks`, `known`: what came back, (files, words, lanes); `fill`: in filled lanes, where that says something."""
    element = m.entry.element
    for unit, detail, wires, pair in bit_orders(m.tiling.lanes, element.bits):
        crossed = partial(cross, element=element, wires=wires)
        yield Change(_UNITS[unit], detail, Stage.WORDS, crossed, pair)
    golden = m.tiling.tile(m.golden)
    for lane in range(m.tiling.lanes) if m.tiling.lanes > 1 else ():  # else it is all results
        seen = np.unique(blocks[:, :, lane][known[:, :, lane]])
        if fill is not None and not np.isin(fill[:, :, lane], [UNKNOWN, *seen]).all():
            continue
        if len(seen) == 1 and (golden[:, :, lane] != seen[0]).any():

            def stuck(values: Int64, lane: int = lane, value: int = int(seen[0])) -> Int64:
                values = values.copy()
                values[:, :, lane] = value
                return values

            yield Change(LANE_STUCK, f"lane {lane} at {int(seen[0])}", Stage.WORDS, stuck, True)
    yield from _bits_stuck(m, golden, blocks, known)
    yield from _clipped(m, golden, blocks, known)
    yield from _shifts(m, golden, blocks, known)
    lanes = m.tiling.lanes
    for detail, delay in DELAYS if lanes > 1 else ():
        by = delay(np.arange(lanes), lanes)

        def skewed(values: Int64, by: Int64 = by) -> Int64:
            return np.stack([_moved(values[:, :, lane], int(by[lane])) for lane in range(len(by))], axis=2)

        yield Change(SKEW, f"lane r of the results {detail}", Stage.WORDS, skewed)


def _bits_stuck(m: AnyModel, golden: Int64, blocks: Int64, known: Bools) -> Iterator[Change]:
    """A bit of the results, of all lanes or of one, that never changes."""
    element = m.entry.element
    for lanes in [slice(None), *(slice(lane, lane + 1) for lane in range(m.tiling.lanes))]:
        seen = element.encode(blocks[:, :, lanes][known[:, :, lanes]])
        want = element.encode(golden[:, :, lanes][known[:, :, lanes]])
        for bit in range(element.bits) if len(seen) else ():
            value = int(seen[0] >> bit & 1)
            if ((seen >> bit & 1) == value).all() and ((want >> bit & 1) != value).any():

                def stuck(values: Int64, lanes: slice = lanes, bit: int = bit, value: int = value) -> Int64:
                    out = values.copy()
                    part = element.encode(out[:, :, lanes])
                    out[:, :, lanes] = element.decode(with_bit(part, bit, value))
                    return np.where(values == UNKNOWN, UNKNOWN, out)

                where = "" if lanes == slice(None) else f"lane {lanes.start}, "
                yield Change(OUTPUT_BIT_STUCK, f"{where}bit {bit} at {value}", Stage.WORDS, stuck)


def _clipped(m: AnyModel, golden: Int64, blocks: Int64, known: Bools) -> Iterator[Change]:
    """Results that reach less far than they should."""
    if not known.any():
        return
    low, high = int(blocks[known].min()), int(blocks[known].max())
    if low <= golden[known].min() and high >= golden[known].max():
        return

    def clipped(values: Int64) -> Int64:
        return np.where(values == UNKNOWN, UNKNOWN, np.clip(values, low, high))

    yield Change(RESULTS_CLIPPED, f"to {low}..{high}", Stage.WORDS, clipped, cost=8.0)


def _moved(values: Int64, by: int) -> Int64:
    """(files, words, ...) shifted by so many words in each file; UNKNOWN where nothing is said."""
    out = np.full_like(values, UNKNOWN)
    if abs(by) >= values.shape[1]:
        return out
    if by >= 0:
        out[:, by:] = values[:, : values.shape[1] - by]
    else:
        out[:, :by] = values[:, -by:]
    return out


_MOST_SHIFT = 256  # words


def _shifts(m: AnyModel, golden: Int64, blocks: Int64, known: Bools) -> Iterator[Change]:
    """The shifts that fit best, in each file and over all files; and by one word, together with other mistakes."""
    files, words, _ = golden.shape
    for flat in (False, True) if files > 1 else (False,):
        for by in _fitting(golden, blocks, known, flat)[:3]:

            def moved(values: Int64, by: int = by, flat: bool = flat) -> Int64:
                return _moved(values.reshape(1, -1, values.shape[2]) if flat else values, by).reshape(values.shape)

            def turned(values: Int64, by: int = by, flat: bool = flat) -> Int64:
                if not flat:
                    return np.roll(values, by, axis=1)
                return np.roll(values.reshape(-1, values.shape[2]), by, axis=0).reshape(values.shape)

            detail = f"by {by:+d} word{'s' if abs(by) > 1 else ''}" + (" over all files" if flat else "")
            yield Change(WORDS_SHIFTED, detail, Stage.WORDS, moved)
            yield Change(WORDS_SHIFTED, f"{detail}, cyclic", Stage.WORDS, turned)
    for by in (1, -1) if words > 2 else ():
        yield Change(WORDS_SHIFTED, f"by {by:+d} word", Stage.WORDS, partial(_moved, by=by), True)


def _fitting(golden: Int64, blocks: Int64, known: Bools, flat: bool) -> list[int]:
    """Shifts, the first with most words that are the golden's; `flat`: all files are one."""
    words, lanes = golden.shape[1:]
    limit, window = min(_MOST_SHIFT, words // 2), slice(0, min(words, 1 << 14))
    each = np.random.default_rng(0).integers(1, 1 << 62, lanes, dtype=np.int64)  # a hash of a word
    found = ((golden * each).sum(axis=2), (blocks * each).sum(axis=2), np.asarray(known.all(axis=2)))
    want, got, sure = (values.reshape(1, -1) if flat else values for values in found)

    def fit(by: int) -> float:
        if by >= 0:
            a, b, c = want[:, : want.shape[1] - by], got[:, by:], sure[:, by:]
        else:
            a, b, c = want[:, -by:], got[:, :by], sure[:, :by]
        a, b, c = a[:, window], b[:, window], c[:, window]
        return float(((a == b) & c).sum() / max(c.sum(), 1))

    return sorted((by for by in range(-limit, limit + 1) if by), key=lambda by: (-fit(by), abs(by)))
