"""In what ways an element of an array may be broken: what it multiplies, what it gives, what its adder gives."""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Mistake, with_bit
from qexport.findings.model import AnyModel
from qexport.findings.terms import Order, Terms

_LOOK = "Look at this element of the array: "
PE_DEAD = Mistake("pe_dead", f"{_LOOK}its product is never added; see its enable, its clock and its weight load.")
PE_PRODUCT_BIT = Mistake("pe_product_bit", f"{_LOOK}a bit of its product is stuck.")
PE_WEIGHT_BIT = Mistake("pe_weight_bit", f"{_LOOK}a bit of its weight is stuck.")
PE_INPUT_BIT = Mistake("pe_input_bit", f"{_LOOK}a bit of its activation is stuck.")
PE_WEIGHT_WRONG = Mistake("pe_weight_wrong", f"{_LOOK}it multiplies another weight; see how its register is loaded.")
PE_INPUT_WRONG = Mistake("pe_input_wrong", f"{_LOOK}it multiplies another activation; see what drives it.")
PE_SUM_BIT = Mistake("pe_sum_bit", f"{_LOOK}a bit of its sum is stuck.")
PE_SUM_LOST = Mistake("pe_sum_lost", f"{_LOOK}the sum from above does not come past it.")
PE_CARRY = Mistake("pe_carry", f"{_LOOK}its adder loses the carry into a bit.")
PE_PRODUCT_WRONG = Mistake("pe_product_wrong", f"{_LOOK}its multiplier gives products wrong.")

Kind = Callable[[Terms, int], Int64]  # what a row gives in place of its products
Adder = Callable[[Int64, Int64, Int64], Int64]  # of what is there, what comes, and the masks of the bits (bit, ...)


def _of_products(change: Callable[[Int64], Int64]) -> Kind:
    return lambda t, row: change(t.by_row[row])


def _of_factors(change: Callable[[Int64, Int64], tuple[Int64, Int64]]) -> Kind:
    def kind(t: Terms, row: int) -> Int64:
        weight, seen = change(*t.of(row))
        return weight * seen

    return kind


def stuck(bit: int, value: int) -> Callable[[Int64], Int64]:
    return lambda v: with_bit(v, bit, value)


def element_kinds(m: AnyModel) -> Iterator[tuple[Mistake, str, Kind]]:
    """What an element may give for its factors; a matrix product's second operand is its weights."""
    yield PE_DEAD, "", _of_products(lambda p: 0 * p)
    low, high = _products_of(m)
    bits = IntFormat.holding(low, high, True).bits
    for bit in range(bits + 2 * (low < 0)):  # in a wider register the sign stands in more than one
        for value in (0, 1):
            yield PE_PRODUCT_BIT, f", bit {bit} at {value}", _of_products(stuck(bit, value))
    for width in {bits, sum(fmt.bits for fmt in _factors(m))} if low < 0 else ():
        for value in (0, 1):
            change, span = stuck(width - 1, value), IntFormat(width, True)
            text = f", bit {width - 1} at {value}, its sign"
            yield PE_PRODUCT_BIT, text, _of_products(lambda p, c=change, s=span: s.wrap(c(p)))  # type: ignore[misc]
    for text, of in (
        ("the size of its products", np.abs), ("its products negated", np.negative),
        ("twice its products", lambda p: 2 * p), ("half its products", lambda p: p >> 1),
        ("no product below 0", lambda p: np.maximum(p, 0)), ("no product above 0", lambda p: np.minimum(p, 0)),
    ):  # fmt: skip
        yield PE_PRODUCT_WRONG, f", {text}", _of_products(of)
    for width in range(2, bits):
        span = IntFormat(width, True)
        yield PE_PRODUCT_WRONG, f", cut to {width} bits", _of_products(span.wrap)
        yield PE_PRODUCT_WRONG, f", saturated to {width} bits", _of_products(span.saturate)
    yield from _of_codes(m)
    yield PE_INPUT_WRONG, ", that of the row above", lambda t, row: t.of(row)[0] * t.of(row - 1)[1]
    yield PE_INPUT_WRONG, ", that of the row below", lambda t, row: t.of(row)[0] * t.of((row + 1) % t.rows)[1]
    yield PE_WEIGHT_WRONG, ", that of the row above", lambda t, row: t.of(row - 1)[0] * t.of(row)[1]
    yield PE_WEIGHT_WRONG, ", that of the row below", lambda t, row: t.of((row + 1) % t.rows)[0] * t.of(row)[1]
    if m.tensor != "psum":
        for by, way in ((1, "before"), (-1, "behind")):
            yield PE_WEIGHT_WRONG, f", that of the step {way}", _of_steps(by)


def _factors(m: AnyModel) -> tuple[IntFormat, IntFormat]:
    """The formats of the codes of weights and inputs."""
    operands = m.facts.formats.operands
    weight = operands["weight" if "weight" in operands else "input2"]
    return weight.integer, operands["input"].integer


def _products_of(m: AnyModel) -> tuple[int, int]:
    """The least and greatest product of any two codes."""
    ends = []
    for fmt in (m.facts.formats.operands[name] for name in list(m.facts.formats.operands)[:2]):
        zeros = fmt.zero_points if m.tensor != "psum" else (0,)
        ends.append([end - zero for end in fmt.ends for zero in zeros])
    products = [a * b for a in ends[0] for b in ends[1]]
    return min(products), max(products)


def _of_codes(m: AnyModel) -> Iterator[tuple[Mistake, str, Kind]]:
    """Codes of which bits are stuck, or that are read in another way."""
    operands = m.facts.formats.operands
    if any(operands[name].table is not None for name in operands):
        return
    zero = 0 if m.tensor == "psum" else operands["input"].zero_points[0]
    second = 0 if "weight" in operands else operands["input2"].zero_points[0]
    weight, seen = _factors(m)

    def of_weight(change: Callable[[Int64], Int64]) -> Kind:
        def kind(t: Terms, row: int) -> Int64:
            w, x = t.of(row)
            offset = t.zero + second
            return (change(w + offset) - offset) * x

        return kind

    def of_input(change: Callable[[Int64], Int64]) -> Kind:
        return _of_factors(lambda w, x: (w, change(x + zero) - zero))

    for fmt, bit_mistake, mistake, of in (
        (weight, PE_WEIGHT_BIT, PE_WEIGHT_WRONG, of_weight), (seen, PE_INPUT_BIT, PE_INPUT_WRONG, of_input)
    ):  # fmt: skip
        for bit in range(fmt.bits):
            for value in (0, 1):
                change = stuck(bit, value)
                yield bit_mistake, f", bit {bit} at {value}", of(lambda v, c=change, f=fmt: f.wrap(c(v)))  # type: ignore[misc]
        other = IntFormat(fmt.bits, not fmt.signed)
        yield mistake, f", read as {'signed' if other.signed else 'unsigned'}", of(other.wrap)
        if fmt.signed:
            yield mistake, ", its size", of(np.abs)
            yield mistake, ", negated", of(np.negative)


def _of_steps(by: int) -> Kind:
    """The weights are late or early by a step; steps run over tiles, in these over taps."""

    def kind(t: Terms, row: int) -> Int64:
        weight, seen = t.of(row)  # (n, tile, tap, ...)
        n, tiles, taps, *rest = weight.shape
        flat = np.roll(weight.reshape(n, tiles * taps, *rest), by, axis=1)
        flat[:, 0 if by > 0 else -1] = 0
        return flat.reshape(weight.shape) * seen

    return kind


# ---- adders ---------------------------------------------------------------------------------------------------------


def _cut(a: Int64, b: Int64, mask: Int64) -> Int64:
    low = mask - 1
    added: Int64 = (a & ~low) + (b & ~low) + ((a & low) + (b & low) & low)
    return added


SUM_ADDERS: tuple[tuple[Mistake, str, Adder], ...] = (
    (PE_SUM_BIT, "bit {} at 0", lambda a, b, mask: (a + b) & ~mask),
    (PE_SUM_BIT, "bit {} at 1", lambda a, b, mask: (a + b) | mask),
    (PE_CARRY, "no carry into bit {}", _cut),
)
HELD_ADDERS: tuple[tuple[Mistake, str, Adder], ...] = (
    (PE_SUM_BIT, "bit {} of what it holds at 0", lambda a, b, mask: (a & ~mask) + b),
    (PE_SUM_BIT, "bit {} of what it holds at 1", lambda a, b, mask: (a | mask) + b),
)
ORDERS: tuple[tuple[str, Order], ...] = (
    ("", ("tile", "tap")),
    (", taps outside", ("tap", "tile")),
    (", product by product", ("tile", "tap", "row")),
    (", product by product, taps outside", ("tap", "tile", "row")),
    (", product by product, taps inside", ("tile", "row", "tap")),
)


def from_above(t: Terms, row: int) -> Int64:
    """What the rows above one give together, (n, tile, tap, ...)."""
    above: Int64 = sum(t.by_row[:row], 0 * t.by_row[0])
    return above


def accumulated(t: Terms, order: Order, add: Adder, mask: Int64, first: bool, held: bool) -> Int64:
    """What an adder makes of all that is added; `first`: it begins with the bias, else that comes last and is added
    rightly. `held`: what it holds is wrong, so that what it begins with is not."""
    running: Int64 | None = t.start if first else None
    for term in t.added(order):
        if running is None:
            running = term if held else add(np.zeros_like(term), term, mask)
        else:
            running = add(running, term, mask)
    assert running is not None
    return running if first else running + t.start
