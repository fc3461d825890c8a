"""Mistakes with the partial sums of a layout that stores them."""

import math
from collections.abc import Callable, Iterator
from functools import partial

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Change, Stage
from qexport.findings.hypotheses.accumulation import PSUM_CUT
from qexport.findings.hypotheses.orders import reordered, wrong_orders
from qexport.findings.hypotheses.taps import TAP_ORDER
from qexport.findings.hypotheses.weights import INPUT_TILE_ORDER
from qexport.findings.model import Model
from qexport.findings.sums import Psums


def _of_total(cut: Callable[[Int64], Int64], psums: Psums) -> Int64:
    return cut(psums.total)


def psum_mistakes(m: Model) -> Iterator[Change]:
    weight = m.facts.formats.weight.integer
    need = IntFormat.holding(*m.facts.psum_bounds, True).bits
    for bits in dict.fromkeys((weight.bits, *range(need - 1, 1, -1))):
        fmt = IntFormat(bits, True)
        for way, cut in (
            ("", fmt.wrap),
            (" and saturated", fmt.saturate),
            (" without sign", IntFormat(bits, False).wrap),
        ):
            pair = bits == weight.bits and not way
            yield Change(PSUM_CUT, f"to {bits} bits{way}", Stage.PSUM, partial(_of_total, cut), pair)
    for detail, tiles, pair in wrong_orders(m.shape[1]):
        yield Change(INPUT_TILE_ORDER, f"of the psums, {detail}", Stage.RESULT, reordered(1, tiles), pair)
    its, taps = m.shape[1], math.prod(m.shape[2:4])
    if its > 1 and taps > 1:

        def exchanged(values: Int64) -> Int64:
            n, rest = len(values), values.shape[4:]
            flat = values.reshape(n, its, taps, *rest).swapaxes(1, 2)
            return flat.reshape(values.shape)

        yield Change(TAP_ORDER, "loops of taps and input tiles exchanged", Stage.RESULT, exchanged)
