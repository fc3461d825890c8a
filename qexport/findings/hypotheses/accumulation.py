"""Mistakes in the accumulation: steps that are lost, replaced, cut or clipped on the way."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.accumulators import narrow_accumulators
from qexport.findings.hypotheses.history import stale_accumulators
from qexport.findings.hypotheses.post import without_relu
from qexport.findings.model import Model, Sums

TILE_OVERWRITTEN = Mistake("tile_overwritten", "Add each tile's psum to the accumulator, do not replace it.")
TILE_MISSING = Mistake("tile_missing", "Check the bounds of the accumulation: one tile or step is never added.")
PSUM_CUT = Mistake("psum_cut", "Keep psums at their full width until they are accumulated.")
RELU_EARLY = Mistake("relu_early", "Apply the ReLU once, after the last accumulation.")
BIAS_MISSING = Mistake("bias_missing", "Start each accumulation from the bias.")


def sum_mistakes(m: Model, values: Int64, known: Bools) -> Iterator[Change]:
    """`values`: the tensor that is compared."""
    layer = m.layer
    taps = math.prod(layer.kernel)
    its = math.ceil(layer.group_inputs / m.row)
    steps = its * taps
    everything = slice(None)

    def only(it: slice | int, tap: slice | int) -> Callable[[Sums], Int64]:
        return lambda sums: sums.part(it, tap) + sums.offset

    def without(it: slice | int, tap: slice | int) -> Callable[[Sums], Int64]:
        return lambda sums: sums.total + sums.offset - sums.part(it, tap)

    if its > 1:
        yield Change(TILE_OVERWRITTEN, "by each input tile", Stage.SUM, only(-1, everything), True)
    if taps > 1:
        yield Change(TILE_OVERWRITTEN, "by each tap", Stage.SUM, only(everything, -1), its == 1)
        if its > 1:
            yield Change(TILE_OVERWRITTEN, "by each tap of each input tile", Stage.SUM, only(-1, -1))
    if m.capture.bias is not None and steps > 1:
        for it, tap, what in ((-1, everything, "input tile"), (everything, -1, "tap"), (-1, -1, "step")):
            change = only(it, tap)

            def bare(sums: Sums, change: Callable[[Sums], Int64] = change) -> Int64:
                return change(sums) - sums.offset

            yield Change(TILE_OVERWRITTEN, f"by each {what}, the bias too", Stage.SUM, bare)
    for it in dict.fromkeys((its - 1, 0, *range(1, its - 1))):
        if its > 1:
            yield Change(TILE_MISSING, f"input tile {it}", Stage.SUM, without(it, everything), it in (0, its - 1))
    places = [(its - 1, taps - 1), (0, 0)]
    places += list(product(range(its), range(taps))) if its > 1 and steps <= 1024 else []  # of one tile: tap_missing
    for it, tap in dict.fromkeys(places):
        kh, kw = divmod(tap, layer.kernel[1])
        detail = f"step it={it} kh={kh} kw={kw}"
        yield Change(TILE_MISSING, detail, Stage.SUM, without(it, tap), (it, tap) in places[:2] and steps > 1)

    lasts: list[tuple[str, tuple[int | slice, int | slice], int]]
    lasts = [("step", (-1, -1), steps), ("input tile", (-1, everything), its), ("tap", (everything, -1), taps)]
    no_relu = (Change(RELU_EARLY, "", Stage.POST, without_relu(m)),) if m.tensor in ("relu", "output") else ()
    for what, split, count in lasts:
        for biased in (True, False) if m.capture.bias is not None else (True,):
            if count < 2:
                continue
            detail = f"before the last {what}" + ("" if biased else ", without the bias")
            change = _relu_before(split, biased)
            yield Change(RELU_EARLY, detail, Stage.SUM, change, what == "step" and biased)
            if no_relu:
                yield Change(RELU_EARLY, f"{detail}, and none at the end", Stage.SUM, change, also=no_relu)
    yield Change(RELU_EARLY, "after each step", Stage.SUM, _relu_each("step"))
    if its > 1:
        yield Change(RELU_EARLY, "after each input tile", Stage.SUM, _relu_each("tile"), True)
    if m.capture.bias is not None:
        yield Change(BIAS_MISSING, "", Stage.SUM, lambda sums: sums.total, True)
        yield Change(
            RELU_EARLY, "before the bias", Stage.SUM, lambda sums: np.maximum(sums.total, 0) + sums.offset, True
        )

    weight = m.facts.formats.weight.integer
    cuts = [("", weight, "wrap"), ("and saturated", weight, "saturate")]
    cuts += [("without sign", IntFormat(weight.bits, False), "wrap")] if weight.signed else []
    for detail, fmt, how in cuts:
        change = getattr(fmt, how)

        def cut(sums: Sums, change: Callable[[Int64], Int64] = change) -> Int64:
            total: Int64 = change(sums.steps).sum(axis=(0, 1))
            return total + sums.offset

        yield Change(PSUM_CUT, f"to {weight.bits} bits{' ' + detail if detail else ''}", Stage.SUM, cut, not detail)

    yield from narrow_accumulators(m, values, known)
    yield from stale_accumulators(m)


def _relu_before(split: tuple[int | slice, int | slice], biased: bool) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        last = sums.part(*split)
        early, late = (sums.offset, 0) if biased else (0, sums.offset)
        before: Int64 = np.maximum(sums.total - last + early, 0)
        return before + last + late

    return change


def _relu_each(what: str) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        steps = sums.steps.sum(axis=1) if what == "tile" else sums.steps.reshape(-1, *sums.total.shape)
        running = np.zeros_like(sums.total) + sums.offset
        for step in steps:
            running = np.maximum(running + step, 0)
        return running

    return change
