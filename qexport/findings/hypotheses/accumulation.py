"""Mistakes in the accumulation: steps that are lost, replaced, cut or clipped on the way."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.accumulators import narrow_accumulators
from qexport.findings.hypotheses.history import stale_accumulators
from qexport.findings.hypotheses.post import without_relu
from qexport.findings.model import Model
from qexport.findings.sums import Sums

TILE_OVERWRITTEN = Mistake("tile_overwritten", "Add each tile's psum to the accumulator, do not replace it.")
TILE_MISSING = Mistake("tile_missing", "Check the bounds of the accumulation: one tile or step is never added.")
PSUM_CUT = Mistake("psum_cut", "Keep psums at their full width until they are accumulated.")
RELU_EARLY = Mistake("relu_early", "Apply the ReLU once, after the last accumulation.")
BIAS_MISSING = Mistake("bias_missing", "Start each accumulation from the bias.")


_Steps = tuple[int | slice, int | slice]  # some of the input tiles, some of the taps
_ALL = slice(None)
_MOST_STEPS = 1024  # each of which is left out


def sum_mistakes(m: Model, values: Int64, known: Bools) -> Iterator[Change]:
    """`values`: the tensor that is compared."""
    yield from _overwritten(m)
    yield from _left_out(m)
    yield from _early_relus(m)
    yield from _cut_psums(m)
    yield from narrow_accumulators(m, values, known)
    yield from stale_accumulators(m)


def _sizes(m: Model) -> tuple[int, int]:
    """How many input tiles and taps are accumulated."""
    return math.ceil(m.layer.group_inputs / m.row), math.prod(m.layer.kernel)


def _overwritten(m: Model) -> Iterator[Change]:
    """What is added last stands alone."""
    its, taps = _sizes(m)
    tile, tap, step = (-1, _ALL), (_ALL, -1), (-1, -1)

    def only(*last: int | slice, biased: bool = True) -> Callable[[Sums], Int64]:
        return lambda sums: sums.part(*last) + (sums.offset if biased else 0)

    if its > 1:
        yield Change(TILE_OVERWRITTEN, "by each input tile", Stage.SUM, only(*tile), True)
    if taps > 1:
        yield Change(TILE_OVERWRITTEN, "by each tap", Stage.SUM, only(*tap), its == 1)
        if its > 1:
            yield Change(TILE_OVERWRITTEN, "by each tap of each input tile", Stage.SUM, only(*step))
    if m.facts.added is not None and its * taps > 1:
        for last, what in ((tile, "input tile"), (tap, "tap"), (step, "step")):
            yield Change(TILE_OVERWRITTEN, f"by each {what}, the bias too", Stage.SUM, only(*last, biased=False))


def _left_out(m: Model) -> Iterator[Change]:
    """Tiles and single steps that are never added; of one tile a step is a tap, which is a mistake of its own."""
    its, taps = _sizes(m)

    def without(it: int, tap: int | slice) -> Callable[[Sums], Int64]:
        return lambda sums: sums.total + sums.offset - sums.part(it, tap)

    ends = product((m.layer.group_inputs - 1, 0), (taps - 1, 0))
    for ic, tap in dict.fromkeys(ends) if m.layer.group_inputs * taps > 1 else ():
        kh, kw = divmod(tap, m.layer.kernel[1])
        for what, times in (("", -1), (", twice", 1)):
            detail = f"the product of ic={ic} kh={kh} kw={kw}, first or last of each sum{what}"
            yield Change(TILE_MISSING, detail, Stage.SUM, partial(_with_product, ic, (kh, kw), times))
    for it in dict.fromkeys((its - 1, 0, *range(1, its - 1))) if its > 1 else ():
        yield Change(TILE_MISSING, f"input tile {it}", Stage.SUM, without(it, _ALL), it in (0, its - 1))
    corners = [(its - 1, taps - 1), (0, 0)]
    places = list(product(range(its), range(taps))) if its > 1 and its * taps <= _MOST_STEPS else []
    for it, tap in dict.fromkeys(corners + places):
        kh, kw = divmod(tap, m.layer.kernel[1])
        pair = (it, tap) in corners and its * taps > 1
        yield Change(TILE_MISSING, f"step it={it} kh={kh} kw={kw}", Stage.SUM, without(it, tap), pair)


def _with_product(ic: int, tap: tuple[int, int], times: int, sums: Sums) -> Int64:
    """One product of each sum so many times more."""
    outputs, inputs = sums.weight.shape[:2]
    channels = np.arange(outputs) // (outputs // sums.groups) * inputs + ic
    product = sums.weight[:, ic, tap[0], tap[1], np.newaxis, np.newaxis] * sums.seen[:, channels, tap[0], tap[1]]
    added: Int64 = sums.total + sums.offset + times * product
    return added


def _early_relus(m: Model) -> Iterator[Change]:
    """A ReLU before the sum is complete; and no bias at all, which stands among its cases."""
    its, taps = _sizes(m)
    biased = m.facts.added is not None
    lasts: tuple[tuple[str, _Steps, int], ...] = (
        ("step", (-1, -1), its * taps), ("input tile", (-1, _ALL), its), ("tap", (_ALL, -1), taps),
    )  # fmt: skip
    no_relu = (
        (Change(RELU_EARLY, "", Stage.POST, without_relu(m)),)
        if m.tensor == "relu" or (m.tensor == "output" and m.facts.integers)
        else ()
    )
    for (what, last, count), first in product(lasts, (True, False) if biased else (True,)):
        if count > 1:
            detail = f"before the last {what}" + ("" if first else ", without the bias")
            change = _relu_before(last, first)
            yield Change(RELU_EARLY, detail, Stage.SUM, change, what == "step" and first)
            if no_relu:
                yield Change(RELU_EARLY, f"{detail}, and none at the end", Stage.SUM, change, also=no_relu)
    yield Change(RELU_EARLY, "after each step", Stage.SUM, _relu_each("step"))
    if its > 1:
        yield Change(RELU_EARLY, "after each input tile", Stage.SUM, _relu_each("tile"), True)
    if biased:
        yield Change(BIAS_MISSING, "", Stage.SUM, lambda sums: sums.total, True)
        yield Change(
            RELU_EARLY, "before the bias", Stage.SUM, lambda sums: np.maximum(sums.total, 0) + sums.offset, True
        )


def _cut_psums(m: Model) -> Iterator[Change]:
    """What each step adds has too few bits, such as those of a weight."""
    weight = m.facts.formats.weight
    need = IntFormat.holding(*m.facts.psum_bounds, True).bits
    for bits in dict.fromkeys((weight.bits, *range(need - 1, 1, -1))):
        fmt = IntFormat(bits, True)
        cuts = [("", fmt.wrap), (" and saturated", fmt.saturate)]
        cuts += [(" without sign", IntFormat(bits, False).wrap)] if weight.signed else []
        for detail, cut in cuts:

            def change(sums: Sums, cut: Callable[[Int64], Int64] = cut) -> Int64:
                total: Int64 = cut(sums.steps).sum(axis=(0, 1))
                return total + sums.offset

            own = bits == weight.bits and not detail
            yield Change(PSUM_CUT, f"to {bits} bits{detail}", Stage.SUM, change, own)


def _relu_before(last: _Steps, biased: bool) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        added = sums.part(*last)
        early, late = (sums.offset, 0) if biased else (0, sums.offset)
        before: Int64 = np.maximum(sums.total - added + early, 0)
        return before + added + late

    return change


def _relu_each(what: str) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        steps = sums.steps.sum(axis=1) if what == "tile" else sums.steps.reshape(-1, *sums.total.shape)
        running = np.zeros_like(sums.total) + sums.offset
        for step in steps:
            running = np.maximum(running + step, 0)
        return running

    return change
