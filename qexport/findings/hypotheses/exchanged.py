"""Rows of the array that multiply the weights of others, and results that stand in the place of others."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.orders import reordered
from qexport.findings.model import AnyModel, Model
from qexport.findings.sampled import Sampled
from qexport.findings.scope import AXIS_NAMES

ROWS_EXCHANGED = Mistake("rows_exchanged", "Give each row of the array the weights of its own input channel.")
RESULTS_EXCHANGED = Mistake("results_exchanged", "Write each result into its own lane, channel, row and column.")
_SQUARE = 1 << 22  # values: pairs of input channels at all places
_MOST = 4
_SHOWN = 4


def rows_exchanged(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """Two input channels, or two rows in all tiles, with each other's weights, or one with those of the other too."""
    inputs = m.layer.group_inputs
    terms = Sampled.of(m, actual, known, count=16) if m.tensor != "psum" and inputs > 1 else None
    if terms is None:
        return
    places = len(terms.got)
    if inputs * inputs * places * (1 if m.tensor in ("accumulator", "relu") else m.channels) > _SQUARE:
        return
    seen, weights = (array.reshape(places, inputs, -1) for array in (terms.seen, terms.weights))
    met = np.matmul(seen, weights.swapaxes(1, 2))  # what each channel gives with the weights of each
    ways = [("input channel", met)]
    if inputs > m.row:
        rows = np.pad(met, ((0, 0), (0, -inputs % m.row), (0, -inputs % m.row)))
        tiles = rows.shape[1] // m.row
        of_rows = rows.reshape(places, tiles, m.row, tiles, m.row)
        ways.append(("row", np.einsum("ptrts->prs", of_rows)))
    for name, gives in ways:
        yield from _pairs(m, terms, name, gives)
    yield from _rotated(m, terms, met)


def _pairs(m: Model, terms: Sampled, name: str, gives: Int64) -> Iterator[Change]:
    """`gives`: (places, a, b) what the inputs of `a` give with the weights of `b`."""
    own = np.diagonal(gives, axis1=1, axis2=2)
    instead = gives - own[:, :, np.newaxis]
    both = instead + instead.swapaxes(1, 2)
    count, step = gives.shape[1], m.layer.group_inputs if name == "input channel" else m.row
    for change, texts in ((both, "s {} and {} exchanged"), (instead, " {} has those of {}")):
        fits = terms.fits((terms.golden[:, np.newaxis, np.newaxis] + change).transpose(1, 2, 0))
        found = [(a, b) for a, b in np.argwhere(fits).tolist() if (a < b if change is both else a != b)]
        for a, b in found[:_MOST]:
            order = np.arange(m.layer.group_inputs)
            order[a::step] = b + order[a::step] - a
            if change is both:
                order[b::step] = a + order[b::step] - b
            if count == m.layer.group_inputs or (order < m.layer.group_inputs).all():
                detail = f"{name}{texts.format(a, b)}"
                yield Change(ROWS_EXCHANGED, detail, Stage.WEIGHT_WORDS, reordered(1, order.tolist()), cost=8.0)


def _rotated(m: Model, terms: Sampled, met: Int64) -> Iterator[Change]:
    """All input channels with the weights of those so many behind, in each tile or all through."""
    inputs = m.layer.group_inputs
    channels = np.arange(inputs)
    for size, name in dict.fromkeys(((inputs, "of all input channels"), (min(m.row, inputs), "of each tile"))):
        if inputs % size:
            continue
        for by in range(1, size):
            order = channels // size * size + (channels + by) % size
            if terms.fits(met[:, channels, order].sum(axis=1) + terms.offset):
                change = reordered(1, order.tolist())
                yield Change(ROWS_EXCHANGED, f"rotated by {by} {name}", Stage.WEIGHT_WORDS, change, cost=8.0)


def results_exchanged(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """Lanes, or indices along an axis, whose wrong results are the right ones of others."""
    wrong = known & (actual != m.golden)
    if m.tiling.lanes > 1 and not m.memory.order.has_bits:
        golden, came, bad = (m.tiling.tile(array.astype(np.int64)) for array in (m.golden, actual, wrong))
        for source in _sources(golden, came, bad, axis=2):
            change = partial(_from_others, source=source, axis=2)
            yield Change(RESULTS_EXCHANGED, _said("lane", source), Stage.WORDS, change, cost=_cost(source))
    for axis, size in enumerate(m.shape):
        if axis and size > 1:
            for source in _sources(m.golden, actual, wrong.astype(np.int64), axis):
                change = partial(_from_others, source=source, axis=axis)
                detail = _said(AXIS_NAMES[m.axes[axis]], source)
                yield Change(RESULTS_EXCHANGED, detail, Stage.RESULT, change, cost=_cost(source))


def _from_others(values: Int64, source: Int64, axis: int) -> Int64:
    return np.take(values, source, axis=axis)


def _sources(golden: Int64, actual: Int64, wrong: Int64, axis: int) -> Iterator[Int64]:
    """Of each index the one whose right results stand where its own are wrong; nothing where one has none."""
    want, got, bad = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (golden, actual, wrong))
    source = np.arange(len(want))
    for index in np.flatnonzero(bad.any(axis=1)):
        places = np.flatnonzero(bad[index])
        came = got[index, places]
        if (came == came[0]).all() or (came == UNKNOWN).any():
            return
        fits = np.flatnonzero((want[:, places] == came).all(axis=1))
        if not len(fits):
            return
        source[index] = fits[0]
    if (source != np.arange(len(source))).any():
        yield source


def _cost(source: Int64) -> float:
    return float(np.log2(len(source))) * int((source != np.arange(len(source))).sum())


def _said(name: str, source: Int64) -> str:
    moved = np.flatnonzero(source != np.arange(len(source)))
    if len(moved) == 2 and (source[moved] == moved[::-1]).all():
        return f"{name}s {moved[0]} and {moved[1]} exchanged"
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return ", ".join(f"{name} {at} shows {name} {source[at]}" for at in moved[:_SHOWN].tolist()) + more
