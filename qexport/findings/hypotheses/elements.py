"""One element of the array that is broken, where all that is wrong stands in one column: its row, and in what way.

A row of a weight-stationary array multiplies every so many input channels; in an output-stationary one every element
multiplies all of them, and what is wrong stands at some of the positions.
"""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.findings.sums import Sums

_LOOK = "Look at this element of the array: "
PE_DEAD = Mistake("pe_dead", f"{_LOOK}its product is never added; see its enable, its clock and its weight load.")
PE_PRODUCT_BIT = Mistake("pe_product_bit", f"{_LOOK}a bit of its product is stuck.")
PE_WEIGHT_BIT = Mistake("pe_weight_bit", f"{_LOOK}a bit of its weight is stuck.")
PE_INPUT_BIT = Mistake("pe_input_bit", f"{_LOOK}a bit of its activation is stuck.")
PE_SUM_BIT = Mistake("pe_sum_bit", f"{_LOOK}a bit of its sum is stuck.")
PE_CARRY = Mistake("pe_carry", f"{_LOOK}its adder loses the carry into a bit.")
PE_PRODUCT_WRONG = Mistake("pe_product_wrong", f"{_LOOK}its multiplier gives one product wrong.")
_PLACES = 512  # that are looked at for one wrong product

Operands = tuple[Int64, Int64, Int64]  # weights, inputs and products of one row and channel: (1 or n, steps, oy, ox)


def element_mistakes(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    if m.tensor == "psum" or m.memory.order.has_bits:
        return
    wrong = known & (actual != m.golden)
    channels = np.flatnonzero(wrong.any(axis=(0, 2, 3)))
    columns = np.unique(channels % m.col)
    if len(columns) != 1:
        return
    column = int(columns[0])
    for row in (*range(min(m.row, m.layer.group_inputs)), None):
        where = f"row {row}, column {column}" if row is not None else f"all rows, column {column}"
        for mistake, how, change in _kinds(m):
            yield Change(mistake, f"{where}{how}", Stage.SUM, _of_element(m, column, row, change))
        for mistake, how, add in _adders(m):
            yield Change(mistake, f"{where}{how}", Stage.SUM, _of_adder(m, column, row, add))
        if row is not None:
            yield from _one_product(m, actual, known, wrong, channels, column, row)


def _stuck(fmt: IntFormat, bit: int, value: int) -> Callable[[Int64], Int64]:
    return lambda v: fmt.wrap(v | 1 << bit if value else v & ~(1 << bit))


def _kinds(m: Model) -> Iterator[tuple[Mistake, str, Callable[[Operands], Int64]]]:
    """What an element gives in place of its products."""
    yield PE_DEAD, "", lambda of: 0 * of[2]
    weight, seen = m.facts.formats.weight, m.facts.formats.input
    if weight.table is not None or seen.table is not None:
        return
    product = IntFormat(weight.bits + seen.bits, True)
    for bit in range(product.bits):
        for value in (0, 1):
            stuck = _stuck(product, bit, value)
            yield PE_PRODUCT_BIT, f", bit {bit} at {value}", lambda of, stuck=stuck: stuck(of[2])  # type: ignore[misc]
    if not any(weight.zero_points):
        for bit in range(weight.bits):
            for value in (0, 1):
                stuck = _stuck(weight.integer, bit, value)
                yield PE_WEIGHT_BIT, f", bit {bit} at {value}", lambda of, stuck=stuck: stuck(of[0]) * of[1]  # type: ignore[misc]
    for bit in range(seen.bits):
        for value in (0, 1):
            stuck = _stuck(seen.integer, bit, value)

            def input_bit(of: Operands, stuck: Callable[[Int64], Int64] = stuck) -> Int64:
                return of[0] * (stuck(of[1] + m.zero) - m.zero)

            yield PE_INPUT_BIT, f", bit {bit} at {value}", input_bit


def _adders(m: Model) -> Iterator[tuple[Mistake, str, Callable[[Int64, Int64], Int64]]]:
    """What an element's adder gives for two numbers."""
    whole = IntFormat.holding(*m.facts.bounds, True)
    for bit in range(whole.bits):
        for value in (0, 1):
            stuck = _stuck(whole, bit, value)
            yield PE_SUM_BIT, f", bit {bit} at {value}", lambda a, b, stuck=stuck: stuck(a + b)  # type: ignore[misc]
    for bit in range(1, whole.bits):

        def cut(a: Int64, b: Int64, bit: int = bit) -> Int64:
            low = (1 << bit) - 1
            return (((a >> bit) + (b >> bit)) << bit) | ((a & low) + (b & low)) & low

        yield PE_CARRY, f", no carry into bit {bit}", cut


def _operands(m: Model, sums: Sums, output: int, rows: slice) -> Operands:
    """Of one output, those of some rows of all tiles and taps; steps run over (tile, tap, row)."""
    inputs, outputs = sums.weight.shape[1], len(sums.weight) // sums.groups
    first = output // outputs * inputs
    n, _, kh, kw, oy, ox = sums.seen.shape
    taken = [ic for ic in range(inputs) if ic % m.row in range(*rows.indices(m.row))]
    weight = sums.weight[output, taken].reshape(1, len(taken), kh * kw, 1, 1)
    seen = sums.seen[:, [first + ic for ic in taken]].reshape(n, len(taken), kh * kw, oy, ox)
    return weight, seen, weight * seen


def _outputs(m: Model, sums: Sums, column: int) -> Int64:
    return np.flatnonzero(sums.outputs % m.col == column)


def _of_element(m: Model, column: int, row: int | None, change: Callable[[Operands], Int64]) -> Callable[[Sums], Int64]:
    def apply(sums: Sums) -> Int64:
        out = sums.total + sums.offset
        for output in _outputs(m, sums, column).tolist():
            of = _operands(m, sums, output, slice(None) if row is None else slice(row, row + 1))
            out[:, output] += (change(of) - of[2]).sum(axis=(1, 2))
        return out

    return apply


def _of_adder(m: Model, column: int, row: int | None, add: Callable[[Int64, Int64], Int64]) -> Callable[[Sums], Int64]:
    """The adder of a row takes what the rows before it give; that of an output-stationary element all products."""

    def apply(sums: Sums) -> Int64:
        out = sums.total + sums.offset
        for output in _outputs(m, sums, column).tolist():
            if row is None:
                running = np.broadcast_to(sums.offset[output], out[:, output].shape).copy()
                for step in sums.steps[:, :, :, output].reshape(-1, *out[:, output].shape):
                    running = add(running, step)
                out[:, output] = running
                continue
            before, here = (
                _by_step(m, sums, output, rows) for rows in (slice(0, row), slice(row, row + 1))
            )  # (tile, n, tap, oy, ox)
            out[:, output] += (add(before, here) - before - here).sum(axis=(0, 2))
        return out

    return apply


def _by_step(m: Model, sums: Sums, output: int, rows: slice) -> Int64:
    """What some rows add together in each tile and tap."""
    inputs, outputs = sums.weight.shape[1], len(sums.weight) // sums.groups
    first = output // outputs * inputs
    n, _, kh, kw, oy, ox = sums.seen.shape
    tiles = -(-inputs // m.row)
    weight = np.zeros((tiles * m.row, kh * kw, 1, 1), np.int64)
    weight[:inputs] = sums.weight[output].reshape(inputs, kh * kw, 1, 1)
    seen = np.zeros((n, tiles * m.row, kh * kw, oy, ox), np.int64)
    seen[:, :inputs] = sums.seen[:, first : first + inputs].reshape(n, inputs, kh * kw, oy, ox)
    products = (weight * seen).reshape(n, tiles, m.row, kh * kw, oy, ox)
    added: Int64 = products[:, :, rows].sum(axis=2)
    return added.swapaxes(0, 1)


def _one_product(
    m: Model, actual: Int64, known: Bools, wrong: Bools, channels: Int64, column: int, row: int
) -> Iterator[Change]:
    """A pair of codes that stands in every wrong sum and in no right one, always off by the same."""
    if m.tensor not in ("accumulator", "relu"):
        return
    sums = m.sums({}, slice(0, m.images), None)
    told = known & ((actual > 0) | (m.tensor != "relu"))
    pairs, errors = [], []
    for channel in channels.tolist():
        weight, seen, _ = _operands(m, sums, channel, slice(row, row + 1))
        places = np.argwhere(told[:, channel])
        if not len(places):
            continue
        bad = wrong[:, channel][tuple(places.T)]
        order = np.argsort(~bad, kind="stable")[:_PLACES]
        n, y, x = places[order].T
        codes = seen[n, :, :, y, x].reshape(len(n), -1)
        taps = np.broadcast_to(weight[0, :, :, 0, 0].reshape(1, -1), codes.shape)
        pairs.append(taps * (1 << 32) + codes)
        errors.append((actual - m.golden)[n, channel, y, x])
    if not any(error.any() for error in errors):
        return
    pair, error = np.concatenate(pairs), np.concatenate(errors)
    left = set(pair[error != 0][0].tolist()).difference(pair[error == 0].ravel().tolist())
    for one in left:
        counts = (pair == one).sum(axis=1)
        off, rest = divmod(int(error[error != 0][0]), int(counts[error != 0][0]))
        if rest == 0 and (counts * off == error).all():
            w, x = (one + (1 << 31)) >> 32, one - (((one + (1 << 31)) >> 32) << 32)

            def change(of: Operands, w: int = w, x: int = x, off: int = off) -> Int64:
                given: Int64 = of[2] + off * ((of[0] == w) & (of[1] == x))
                return given

            detail = f"row {row}, column {column}, {w} x {x} gives {w * x + off}"
            yield Change(PE_PRODUCT_WRONG, detail, Stage.SUM, _of_element(m, column, row, change), cost=24.0)
