"""An element of the array that is broken: where all that is wrong stands in one column, which row's, and in what way.

A row of a weight-stationary array multiplies every so many input channels; in an output-stationary one every element
multiplies all of them, and what is wrong stands at some of the positions. Where more columns are wrong, all elements
may be broken alike. Each way is first tried on a few wrong values.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.element_kinds import (
    HELD_ADDERS,
    ORDERS,
    PE_DEAD,
    PE_INPUT_WRONG,
    PE_PRODUCT_BIT,
    PE_PRODUCT_WRONG,
    PE_SUM_LOST,
    PE_WEIGHT_WRONG,
    SUM_ADDERS,
    Adder,
    Kind,
    accumulated,
    element_kinds,
    from_above,
)
from qexport.findings.model import AnyModel, Model
from qexport.findings.sums import Psums, Sums
from qexport.findings.terms import Order, Terms, terms_of_product, terms_of_psums, terms_of_sums

_PLACES = 64  # wrong values on which each way is tried
_IMAGES, _PATCHES = 4, 1 << 23  # in which they stand, at most; elements of their patches
_PRODUCTS = 1 << 14  # of one value, that are added one by one
_LEAST = 4  # wrong values: fewer say nothing of an element
_IDLE, _POSITIONS, _IDLE_BITS = 64, 8, 4.0  # idle beats of a sum, positions of an array, at most; bits of each number


def element_mistakes(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """Where one column is wrong."""
    found = _place(m, actual, known)
    if found is None or found.column is None:
        return
    for row in range(found.places.rows):
        yield from _of_row(found, row, f"row {row}, column {found.column}")
    yield from _of_all(found, f"all rows, column {found.column}")


def array_mistakes(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """Where more columns are wrong: the same in all elements, or in those of a row."""
    found = _place(m, actual, known)
    if found is None or found.column is not None:
        return
    yield from _of_all(found, "all elements")
    for row in range(found.places.rows):
        for change in _of_row(found, row, f"row {row}, all columns"):
            if found.places.rows > 1:
                yield change


@dataclass(frozen=True, eq=False)
class _Place:
    """Where something is wrong: the column, None: in several, and the terms of some wrong values.

    `got`, `right`, `channels`, `positions`: of each of these values what came back, the right sum, its channel and its
    position in the plane (of a matrix product its row).
    """

    model: AnyModel
    column: int | None
    places: Terms
    right: Int64
    got: Int64
    channels: Int64
    positions: Int64
    within: Bools | None

    @cached_property
    def off(self) -> Int64 | None:
        """By how much the sums are wrong, where the values show it."""
        m = self.model
        if m.tensor not in ("accumulator", "psum", "relu") or (m.tensor == "relu" and (self.got <= 0).any()):
            return None
        off: Int64 = self.got - m.entry.offset - self.right
        return off

    def fits(self, sums: Int64) -> bool:
        """Whether these sums give all that came back."""
        return bool((self.model.held(sums, self.channels) == self.got).all())


def _place(m: AnyModel, actual: Int64, known: Bools) -> _Place | None:
    if not m.one_by_one or m.layer.kind == "sum":
        return None
    wrong = known & (actual != m.golden)
    if wrong.sum() < _LEAST:
        return None
    channels = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != m.channel_axis)))
    columns = np.unique(channels % m.col)
    column = int(columns[0]) if len(columns) == 1 else None
    within = None
    if column is not None:
        shape = [-1 if axis == m.channel_axis else 1 for axis in range(wrong.ndim)]
        within = np.broadcast_to((np.arange(m.channels) % m.col == column).reshape(shape), wrong.shape)
    patches = math.prod(m.shape[-2:]) * (m.layer.in_channels * math.prod(m.layer.kernel) if isinstance(m, Model) else 1)
    most = min(_IMAGES, max(1, _PATCHES // patches))
    images = np.argsort(-wrong.sum(axis=tuple(range(1, wrong.ndim))), kind="stable")[:most]
    places = np.argwhere(wrong[images])
    places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), _PLACES)).astype(np.int64))]
    index = (images[places[:, 0]], *places.T[1:])
    source = _source(m, images)
    parts = []
    for channel in np.unique(places[:, m.channel_axis]).tolist():
        mine = places[places[:, m.channel_axis] == channel]
        parts.append(_at(m, source(channel), mine))
    order = np.argsort(places[:, m.channel_axis], kind="stable")
    index = tuple(axis[order] for axis in index)
    joined = Terms(
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.seen for part in parts]),
        np.concatenate([np.broadcast_to(part.zero, (len(part.weight), 1, 1)) for part in parts]),
        np.concatenate([part.start for part in parts]),
        np.broadcast_to(parts[0].there, (1, *parts[0].weight.shape[1:3], 1)) if m.tensor != "psum"
        else np.concatenate([part.there for part in parts]),
    )  # fmt: skip
    right = joined.start + sum(product.sum(axis=(1, 2)) for product in joined.by_row)
    positions = index[1] if m.layer.kind == "matmul" else index[-2] * m.shape[-1] + index[-1]
    return _Place(m, column, joined, right, actual[index], index[m.channel_axis], positions, within)


def _at(m: AnyModel, terms: Terms, places: Int64) -> Terms:
    """The terms of one channel at places of the compared tensor."""
    if m.tensor == "psum":  # n it kh kw oc py px
        n, it, kh, kw, _, y, x = places.T
        return terms.at(n, it, kh * m.shape[3] + kw, y, x)
    if m.layer.kind == "matmul":  # n m p
        return terms.at(places[:, 0], None, None, places[:, 1], 0 * places[:, 0])
    return terms.at(places[:, 0], None, None, places[:, 2], places[:, 3])


def _source(m: AnyModel, images: Int64) -> Callable[[int], Terms]:
    """The golden's terms of some images by channel."""
    if not isinstance(m, Model):
        return _of_golden(m, Golden(m.capture, facts=m.facts), images)
    zeros = np.zeros(m.channels, np.int64) if m.tensor == "psum" else m.facts.weight_zeros
    if m.tensor == "psum":
        every = np.arange(m.channels)
        psums = Psums(m.weight, m.planes[images], m.layer.groups, m.facts.row, every, m.golden)
        return lambda channel: terms_of_psums(psums, channel, zeros[channel])
    sums = m.sums({}, images, None)
    return lambda channel: terms_of_sums(sums, channel, zeros[channel])


def _of_golden(m: AnyModel, golden: Golden, images: Int64 | slice = slice(None)) -> Callable[[int], Terms]:
    left, right = m.facts.factors(golden)  # type: ignore[attr-defined]
    added = golden.accumulator - np.matmul(left, right)
    return lambda p: terms_of_product(left[images], right[images][:, :, p], added[images][:, :, p], m.row)


# ---- what is tried --------------------------------------------------------------------------------------------------

Replaced = Callable[[Terms, Int64], Int64]  # of a channel: its terms and right results to what comes back


def _change(found: _Place, mistake: Mistake, detail: str, replaced: Replaced, cost: float = 0.0) -> Change:
    m = found.model
    stage = Stage.PSUM if m.tensor == "psum" else Stage.SUM if isinstance(m, Model) else Stage.OPERANDS
    apply = partial(_applied, m, found.column, replaced)
    if found.within is not None:
        cost += math.log2(m.row * m.col) + (0 if mistake is PE_DEAD else 2)  # a bit is chosen, too
    return Change(mistake, detail, stage, apply, cost=cost, within=found.within)


def _applied(m: AnyModel, column: int | None, replaced: Replaced, given: Psums | Sums | Golden) -> Int64:
    """The results with those of a column replaced."""
    zeros = m.facts.weight_zeros if isinstance(m, Model) and m.tensor != "psum" else np.zeros(m.channels, np.int64)
    of: Callable[[int, Int64], Terms]
    if isinstance(given, Psums):
        out, outputs, of = given.total.copy(), given.outputs, partial(terms_of_psums, given)
    elif isinstance(given, Sums):
        out, outputs, of = given.total + given.offset, given.outputs, partial(terms_of_sums, given)
    else:
        out, outputs = given.accumulator.copy(), np.arange(m.channels)
        source = _of_golden(m, given)
        of = lambda channel, zero: source(channel)  # noqa: E731
    front = np.moveaxis(out, m.channel_axis, 0)
    for at, output in enumerate(outputs.tolist()):
        if column is None or output % m.col == column:
            right = front[at]
            new = replaced(of(at, zeros[output]), right[..., np.newaxis] if m.layer.kind == "matmul" else right)
            front[at] = new.reshape(right.shape)
    return out


def _with_errors(errors: Callable[[Terms], Int64], t: Terms, right: Int64) -> Int64:
    """Of errors (n, tile, tap, y, x): psums have tiles and taps of their own."""
    off = errors(t)
    if right.ndim > 3:
        return right.reshape(off.shape) + off
    changed: Int64 = right + off.sum(axis=(1, 2))
    return changed


def _of_row(found: _Place, row: int, where: str) -> Iterator[Change]:
    """One element, or those of a row."""
    t = found.places
    for mistake, how, kind, cost in [*_known_kinds(found), *_solved_kinds(found, [row])]:
        yield from _tried(found, mistake, f"{where}{how}", kind, [row], cost)
    if row:
        yield from _sums_lost(found, row, where)
    before = from_above(t, row)
    bits = _bits(found.model)
    for mistake, how, add in SUM_ADDERS:
        for bit in range(bits):

            def errors(t: Terms, add: Adder = add, bit: int = bit) -> Int64:
                above = from_above(t, row)
                return add(above, t.by_row[row], np.int64(1 << bit)) - above - t.by_row[row]  # type: ignore[arg-type]

            off = add(before, t.by_row[row], np.int64(1 << bit)) - before - t.by_row[row]  # type: ignore[arg-type]
            if found.fits(found.right + off.sum(axis=(1, 2))):
                detail = f"{where}, {how.format(bit)}"
                yield _change(found, mistake, detail, partial(_with_errors, errors))


def _sums_lost(found: _Place, row: int, where: str) -> Iterator[Change]:
    def errors(t: Terms) -> Int64:
        return -from_above(t, row)

    if found.fits(found.right + errors(found.places).sum(axis=(1, 2))):
        yield _change(found, PE_SUM_LOST, f"{where}, from above", partial(_with_errors, errors))


def _of_all(found: _Place, where: str) -> Iterator[Change]:
    """All elements of a column, or all that there are."""
    rows = list(range(found.places.rows))
    everywhere = found.column is None
    for mistake, how, kind, cost in [*_known_kinds(found), *_solved_kinds(found, rows)]:
        if everywhere and (mistake.name in ("pe_dead", "pe_weight_bit", "pe_input_bit") or mistake in _OPERANDS):
            continue  # a mistake of the operands, which has a name of its own
        changes = list(_tried(found, mistake, f"{where}{how}", kind, rows, cost))
        yield from changes
        if mistake is PE_PRODUCT_BIT and everywhere and not changes:
            yield from _in_idle_beats(found, f"{where}{how}", kind, rows)
    if found.model.tensor != "psum":
        yield from _adders(found, where)


_OPERANDS = (PE_WEIGHT_WRONG, PE_INPUT_WRONG)


def _known_kinds(found: _Place) -> Iterator[tuple[Mistake, str, Kind, float]]:
    for mistake, how, kind in element_kinds(found.model):
        yield mistake, how, kind, 0.0


def _tried(
    found: _Place, mistake: Mistake, detail: str, kind: Kind, rows: Sequence[int], cost: float
) -> Iterator[Change]:
    """Where a kind fits: of rows that hold an input channel, and of filled ones, too, where it makes a difference."""
    for filled in _fillings(found):
        errors = partial(_errors, kind, rows, filled)
        off = errors(found.places)
        if off.any() and found.fits(found.right + off.sum(axis=(1, 2))):
            more = ", in filled rows, too" if filled else ""
            yield _change(found, mistake, f"{detail}{more}", partial(_with_errors, errors), cost)
            return


def _fillings(found: _Place) -> tuple[bool, ...]:
    """Whether rows that hold no input channel are broken, too: as it makes a difference."""
    return (False,) if found.places.there.all() else (False, True)


def _errors(kind: Kind, rows: Sequence[int], filled: bool, t: Terms) -> Int64:
    off: Int64 = 0  # type: ignore[assignment]
    for row in rows:
        more = kind(t, row) - t.by_row[row]
        if not filled:
            more = more * t.there[:, :, row].reshape(*t.there.shape[:2], *[1] * (more.ndim - 2))
        off = off + more
    return off


def _in_idle_beats(found: _Place, detail: str, kind: Kind, rows: Sequence[int]) -> Iterator[Change]:
    """Products are added in beats that have none, too: as often as each element, which is a column and one of every so
    many positions, sees such beats."""
    m, t = found.model, found.places
    nothing = np.zeros((1, 1, 1, 1), np.int64)
    of_nothing = int(kind(Terms(nothing, nothing, nothing, nothing, nothing == 0), 0).sum())
    if found.off is None or m.tensor == "psum" or not of_nothing:
        return
    for filled in _fillings(found):
        errors = partial(_errors, kind, rows, filled)
        counts, rest = np.divmod(found.off - errors(t).sum(axis=(1, 2)), of_nothing)
        idle = None if rest.any() or counts.min() < 0 or counts.max() > _IDLE else _by_element(found, counts)
        if idle is not None:
            base = _change(found, PE_PRODUCT_BIT, "", partial(_with_errors, errors))
            apply = partial(_with_idle_beats, m, base.apply, idle * of_nothing)
            text = f"{detail}, idle beats add to it, too: {idle.min()} to {idle.max()} of them"
            yield replace(base, detail=text, apply=apply, cost=_IDLE_BITS * idle.size)
            return


def _by_element(found: _Place, counts: Int64) -> Int64 | None:
    """(column, position) of the array with which these counts of single values are right; of the fewest positions."""
    columns = found.channels % found.model.col
    for period in range(1, _POSITIONS + 1):
        idle = np.full((min(found.model.col, found.model.channels), period), -1)
        place = columns, found.positions % period
        idle[place] = counts
        if (idle >= 0).all() and (idle[place] == counts).all():
            return idle
    return None


def _with_idle_beats(m: AnyModel, base: Callable[[Any], Int64], more: Int64, given: Sums | Golden) -> Int64:
    """`more`: (column, position) what idle beats add."""
    out = base(given)
    front = np.moveaxis(out, m.channel_axis, 0)
    outputs = given.outputs if isinstance(given, Sums) else np.arange(m.channels)
    plane = front.shape[2:]
    of_plane = more[outputs % m.col][:, np.arange(math.prod(plane)) % more.shape[1]]
    front += of_plane.reshape(len(outputs), 1, *plane)
    return out


def _solved_kinds(found: _Place, rows: Sequence[int]) -> Iterator[tuple[Mistake, str, Kind, float]]:
    """Kinds with a number that follows from the errors: products off by it, or a factor that always is it."""
    off, t = found.off, found.places
    if off is None or not off.any():
        return
    count = sum(int(t.there[0, :, row].sum()) for row in rows) * (1 if t.weight.ndim < 4 else t.weight.shape[3])
    if count and (off == off[0]).all() and off[0] % count == 0:
        by = int(off[0]) // count

        def more(t: Terms, row: int, by: int = by) -> Int64:
            return t.by_row[row] + by

        yield PE_PRODUCT_WRONG, f", off by {by:+d}", more, 16.0
    if len(rows) > 1:
        return
    [row] = rows
    weight, seen = t.of(row)
    product = (weight * seen).sum(axis=(1, 2))
    for mistake, factor, other in ((PE_WEIGHT_WRONG, seen, 0), (PE_INPUT_WRONG, weight, 1)):
        sums = np.broadcast_to(factor, t.by_row[row].shape).sum(axis=(1, 2))
        at = int(np.argmax(np.abs(sums)))
        value, rest = divmod(int(off[at] + product[at]), int(sums[at])) if sums[at] else (0, 1)
        if rest == 0 and value and (value * sums == off + product).all():

            def always(t: Terms, row: int, value: int = value, other: int = other) -> Int64:
                factors = t.of(row)
                constant: Int64 = value * factors[1 - other] + 0 * factors[other]
                return constant

            yield mistake, f", always {value}", always, 16.0
    yield from _one_product(found, row)


def _one_product(found: _Place, row: int) -> Iterator[tuple[Mistake, str, Kind, float]]:
    """A pair of factors that stands in every wrong sum, and errors that are so many times the same."""
    off, (weight, seen) = found.off, found.places.of(row)
    assert off is not None
    pairs = (weight * (1 << 32) + seen).reshape(len(off), -1)
    for pair in set(pairs[0].tolist()).intersection(*map(set, pairs[1:].tolist())):
        counts = (pairs == pair).sum(axis=1)
        by, rest = divmod(int(off[0]), int(counts[0]))
        if rest == 0 and (counts * by == off).all():
            w, x = (pair + (1 << 31)) >> 32, pair - (((pair + (1 << 31)) >> 32) << 32)

            def kind(t: Terms, row: int, w: int = w, x: int = x, by: int = by) -> Int64:
                factors = t.of(row)
                wrong: Int64 = t.by_row[row] + by * ((factors[0] == w) & (factors[1] == x))
                return wrong

            cost = math.log2(pairs.shape[1]) + 2 * math.log2(abs(by) + 1) - 1  # of the first sum's pairs; by how much
            yield PE_PRODUCT_WRONG, f", {w} x {x} gives {w * x + by}", kind, cost


def _bits(m: AnyModel) -> int:
    """So many bits of a sum may be stuck."""
    if m.tensor == "psum":
        return m.own.bits
    return max(m.facts.tensor("accumulator").format.bits, IntFormat.holding(*m.facts.bounds, True).bits)


def _adders(found: _Place, where: str) -> Iterator[Change]:
    """What adds one after the other, of all bits at once."""
    t, m = found.places, found.model
    bits = _bits(m)
    masks = (np.int64(1) << np.arange(bits)).reshape(-1, 1)
    register = IntFormat(bits, True)
    seen: set[bytes] = set()
    for text, order in ORDERS:
        if math.prod(t.weight.shape[1:]) > _PRODUCTS and "row" in order:
            continue
        for first in (True, False) if t.start.any() else (True,):
            for held, adders in ((False, SUM_ADDERS), (True, HELD_ADDERS)):
                for mistake, how, add in adders:
                    given = register.wrap(accumulated(t, order, add, masks, first, held))
                    if given.tobytes() in seen:
                        continue
                    seen.add(given.tobytes())
                    for bit in range(bits):
                        if not found.fits(given[bit]):
                            continue
                        last = "" if first else ", the bias after it"
                        detail = f"{where}, {how.format(bit)}{text}{last}"
                        replaced = partial(_summed, order, add, masks[bit], first, held, register)
                        yield _change(found, mistake, detail, replaced)


def _summed(
    order: Order, add: Adder, mask: Int64, first: bool, held: bool, register: IntFormat, t: Terms, right: Int64
) -> Int64:
    return register.wrap(accumulated(t, order, add, mask, first, held))
