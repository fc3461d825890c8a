"""Faults of one processing element or one column's adder, as they come out of a chip: where is it, and what is it?

The array is weight-stationary: input channels on rows, output channels on columns (of a matrix product k and p). A
column adds up its rows in each step (tile, kernel row, kernel column); its accumulator adds that to what it holds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.judges.faults.case import Case, Cases, machine, written
from tests.judges.faults.machine import Layer, pad, psums
from tests.judges.faults.sets import Set
from tests.judges.notation import Ints

SETS = {  # where: tensor, rows and columns of the array, bits of a product, elements (row, column) that are wrong
    "plain": ("accumulator", 8, 8, 8, ((2, 5), (7, 0), (0, 3))),
    "pointwise": ("accumulator", 8, 8, 8, ((3, 1), (6, 6))),
    "dense": ("accumulator", 8, 8, 8, ((5, 2), (1, 7))),
    "strided": ("accumulator", 8, 8, 8, ((4, 4), (0, 6))),
    "tflite": ("accumulator", 8, 8, 17, ((1, 3), (3, 5))),
    "nhwc": ("accumulator", 8, 8, 16, ((2, 2),)),
    "matmul": ("accumulator", 8, 8, 17, ((6, 4),)),
    "outputs": ("relu", 8, 8, 8, ((3, 6),)),
    "zeros": ("accumulator", 8, 8, 14, ((2, 4),)),
}
ELEMENT = r"dead|at 0|term_missing|never|always 0|weight.*0|stuck at 0|zero|element|product"


def at_element(row: int, col: int, rows: int, cols: int, change: Callable[[Ints, Ints, Ints], Ints]) -> Any:
    """Products n oc c kh kw oy ox: those of one processing element are what `change` makes of them."""

    def products(layer: Layer, p: Ints, w: Ints, x: Ints) -> Ints:
        found = p.copy()
        some = np.s_[:, col::cols, row::rows]
        found[some] = change(p[some], w[some], x[some])
        return found

    return products


def stuck(bit: int, value: int) -> Callable[..., Ints]:
    """A bit of a two's complement number is always 0 or 1."""
    return lambda p, *_: (p | 1 << bit) if value else (p & ~(1 << bit))


def summed(col: int, rows: int, cols: int, add: Callable[[Ints, Ints], Ints]) -> Any:
    """The accumulators of one column with another adder; the bias is what they begin with."""

    def total(layer: Layer, p: Ints) -> Ints:
        n, oc, c, kh, kw, oy, ox = p.shape
        held = np.broadcast_to(layer.bias[:, None, None] + layer.addend, (n, oc, oy, ox)).copy()
        mine = np.arange(oc) % cols == col
        for first in range(0, c, rows):
            for y, x in np.ndindex(kh, kw):
                term = p[:, :, first : first + rows, y, x].sum(2)
                held = np.where(mine[:, None, None], add(held, term), held + term)
        return held

    return total


def sums_only(layer: Layer, sums: Ints) -> Ints:
    return sums


def cut_at(bit: int) -> Callable[[Ints, Ints], Ints]:
    """No carry goes from bit - 1 to bit."""

    def add(a: Ints, b: Ints) -> Ints:
        low = (1 << bit) - 1
        return (((a >> bit) + (b >> bit)) << bit) | ((a & low) + (b & low) & low)

    return add


def stuck_sum(bit: int, value: int) -> Callable[[Ints, Ints], Ints]:
    return lambda a, b: stuck(bit, value)(a + b)


def one_product(p: Ints, w: Ints, x: Ints) -> Ints:
    """One pair of factors, the most frequent one of a product that is not 0, gives another result."""
    pairs, counts = np.unique(np.stack([w[p != 0], x[p != 0]]), axis=1, return_counts=True)
    a, b = pairs[:, counts.argmax()]
    return np.asarray(np.where((w == a) & (x == b), p ^ 4, p))


def cases() -> Cases:
    yield from in_psums()
    for number, (on, (tensor, rows, cols, bits, places)) in enumerate(SETS.items()):
        for turn, (row, col) in enumerate(places):
            yield from of_element(on, tensor, rows, cols, bits, row, col, number + turn)
        row, col = places[0]
        if on in ("plain", "pointwise", "strided", "nhwc"):
            yield from registers(on, tensor, rows, cols, row, col)
            yield from chain(on, tensor, rows, cols, row, col)
        top = {8: 10, 14: 12, 16: 17, 17: 16}[bits]
        yield from of_column(on, tensor, rows, cols, top, col)


def place(row: int, col: int) -> str:
    return f"(row |input channel |k=){row} & (column|output channel) {col}"


def registers(on: str, tensor: str, rows: int, cols: int, row: int, col: int) -> Cases:
    """What stands before and behind the multiplier of one element."""

    def case(name: str, accept: str, change: Callable[..., Ints]) -> Case:
        wrong = at_element(row, col, rows, cols, change)
        return machine(f"{name} ({row}, {col})", on, tensor, accept, place(row, col), products=wrong)

    yield case("weight register's bit 1 at 1 of", "weight.*bit 1", lambda p, w, x: (w | 2) * x)
    yield case("weight register's bit 2 at 0 of", "weight.*bit 2", lambda p, w, x: (w & ~4) * x)
    yield case("input register's bit 2 at 0 of", "(input|activation|code).*bit 2", lambda p, w, x: w * (x & ~4))
    yield case("products lack their sign in", "sign|negat|abs|size|effective_kernel", lambda p, w, x: abs(p))
    yield case("products too large by 1 in", "[+]1|adds|constant|too large", lambda p, w, x: p + 1)


def chain(on: str, tensor: str, rows: int, cols: int, row: int, col: int) -> Cases:
    """Sums that go down a column: those from above do not come past one element, or a wire of them is stuck."""

    def lost(layer: Layer, p: Ints, w: Ints, x: Ints) -> Ints:
        found = p.copy()
        for above in range(row):
            found[:, col::cols, above::rows] = 0
        return found

    def wire(layer: Layer, p: Ints) -> Ints:
        total = np.zeros_like(p[:, :, 0, 0, 0])
        mine = (np.arange(p.shape[1]) % cols == col)[:, None, None]
        for first in range(0, p.shape[2], rows):
            for y, x in np.ndindex(*p.shape[3:5]):
                term = p[:, :, first : first + row + 1, y, x].sum(2)
                rest = p[:, :, first + row + 1 : first + rows, y, x].sum(2)
                total = total + rest + np.where(mine, term | 8, term)
        return total

    accept = "above|chain|rows|dead|missing|effective_kernel"
    yield machine(f"sums from above lost at ({row}, {col})", on, tensor, accept,
                  f"(column|output channel) {col}", products=lost)  # fmt: skip
    yield machine(f"bit 3 of the sum below ({row}, {col}) at 1", on, tensor, "sum.*bit 3", place(row, col), total=wire)


def of_element(on: str, tensor: str, rows: int, cols: int, bits: int, row: int, col: int, turn: int) -> Cases:
    def case(name: str, accept: str, change: Callable[..., Ints]) -> Case:
        wrong = at_element(row, col, rows, cols, change)
        return machine(f"{name} of ({row}, {col})", on, tensor, accept, place(row, col), products=wrong)

    yield case("dead product", ELEMENT, lambda p, *_: 0 * p)
    low, high = 1 + turn % 3, bits - 2 - turn % 2
    yield case(f"product bit {low} at 1", f"product.*bit {low}|bit {low}.*product", stuck(low, 1))
    yield case(f"product bit {high} at 0", f"product.*bit {high}|bit {high}.*product", stuck(high, 0))
    if on in ("plain", "pointwise", "strided"):  # elsewhere no pair of codes comes often enough
        yield case("one product", "product", one_product)


def in_psums() -> Cases:
    """The same in the memory of partial sums, whose files are one for each tap."""

    def case(name: str, accept: str, change: Callable[[Ints], Ints], element: str = "") -> Case:
        def words(found: Set) -> Ints:
            return found.words("psum", psums(found.layer, found.layer.w, pad(found.layer, found.layer.x), change))

        return written(name, "stationary", "psum", accept, words, element)

    def changed(some: Any, change: Callable[[Ints], Ints]) -> Callable[[Ints], Ints]:
        def products(p: Ints) -> Ints:  # n it row kh kw oc py px
            found = p.copy()
            found[some] = change(p[some])
            return found

        return products

    one = np.s_[:, :, 3, :, :, 2]
    yield case("dead product of (3, 2)", ELEMENT, changed(one, lambda p: 0 * p), place(3, 2))
    yield case("product bit 1 at 1 of (3, 2)", "product.*bit 1", changed(one, lambda p: p | 2), place(3, 2))
    yield case("product bit 6 at 0 of (3, 2)", "product.*bit 6", changed(one, lambda p: p & ~64), place(3, 2))
    yield case("row 5 dead", "row 5", changed(np.s_[:, :, 5], lambda p: 0 * p))
    yield case("column 6 dead", "column 6|channel 6", changed(np.s_[:, :, :, :, :, 6], lambda p: 0 * p))
    tap = np.s_[:, :, :, 1, 2]
    yield case("column 1 dead in tap (1, 2)", "column 1|channel 1", changed((*tap, 1), lambda p: 0 * p))
    yield case("row 0 dead in tap (1, 2)", "row 0|channel 0|input", changed(np.s_[:, :, 0, 1, 2], lambda p: 0 * p))


def of_column(on: str, tensor: str, rows: int, cols: int, top: int, col: int) -> Cases:
    def case(name: str, accept: str, add: Callable[[Ints, Ints], Ints]) -> Case:
        return machine(f"{name} of column {col}", on, tensor, accept, f"(column|output channel) {col}",
                       total=summed(col, rows, cols, add), biased=sums_only)  # fmt: skip

    for bit, value in ((2, 1), (top - 3, 0)):
        yield case(f"accumulator bit {bit} at {value}", f"accumulator.*bit {bit}|bit {bit}.*accumulator|sum.*bit {bit}",
                   stuck_sum(bit, value))  # fmt: skip
    for bit in (3, top - 4):
        yield case(f"carry cut at bit {bit}", f"carry.*{bit}|{bit}.*carry", cut_at(bit))
