"""Mistakes of operations whose operands are all data: matrix products and sums."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from qexport.core.codes import CodeFormat
from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.accumulation import BIAS_MISSING
from qexport.findings.hypotheses.accumulators import narrow_accumulators
from qexport.findings.hypotheses.inputs import INPUT_SIGNED
from qexport.findings.hypotheses.zeros import INPUT_ZERO_POINT
from qexport.findings.model import AnyModel

OPERAND_MISSING = Mistake("operand_missing", "Add both operands, each once and with its own factor.")
OPERAND_ORDER = Mistake("operand_order", "Read the operands in the order of their memories.")
TERM_MISSING = Mistake("term_missing", "Check the bounds of the sum over k: one term is never added, or added twice.")
Codes = dict[str, Int64]


def operand_mistakes(m: AnyModel, values: Int64, known: Bools) -> Iterator[Change]:
    names = tuple(m.facts.formats.operands)
    for name in names:
        for mistake, detail, codes in _of_codes(name, m.facts.formats.operands[name]):
            yield Change(mistake, detail, Stage.OPERANDS, with_operand(m, name, codes))
        for detail, order in _orders(m, name):
            yield Change(OPERAND_ORDER, detail, Stage.OPERANDS, with_operand(m, name, order))
    if len(names) == 2 and m.facts.shapes[names[0]] == m.facts.shapes[names[1]]:
        yield Change(OPERAND_ORDER, "the two exchanged", Stage.OPERANDS, _computed(m, lambda a, b: (b, a)))
    yield from _product(m) if m.layer.kind == "matmul" else _sum(m)
    for change in narrow_accumulators(m, values, known):
        if change.stage >= Stage.ACCUMULATOR:
            yield change


def _of_codes(name: str, fmt: CodeFormat) -> Iterator[tuple[Mistake, str, Callable[[Int64], Int64]]]:
    if fmt.table is not None:
        return
    other = IntFormat(fmt.bits, not fmt.signed)
    yield INPUT_SIGNED, f"{name} read as {'signed' if other.signed else 'unsigned'}", other.wrap
    if zero := fmt.zero_points[0]:
        yield INPUT_ZERO_POINT, f"{name}: not taken off", lambda codes: codes + zero
        yield INPUT_ZERO_POINT, f"{name}: added, not taken off", lambda codes: codes + 2 * zero


def _orders(m: AnyModel, name: str) -> Iterator[tuple[str, Callable[[Int64], Int64]]]:
    shape = m.facts.shapes[name]
    axes = m.facts.tensor(name).axes
    for axis in range(1, len(shape)):
        if shape[axis] > 1:
            yield f"{axes[axis]} of {name} reversed", partial(np.flip, axis=axis)
            yield f"{axes[axis]} of {name} one too far", partial(np.roll, shift=-1, axis=axis)
            yield f"{axes[axis]} of {name} one too early", partial(np.roll, shift=1, axis=axis)
    order = (0, *range(len(shape) - 1, 0, -1))
    yield f"{name} read in the other order", lambda codes: codes.transpose(order).reshape(codes.shape)
    yield f"{name} of the image before", lambda codes: np.roll(codes, 1, 0)


def with_operand(m: AnyModel, name: str, change: Callable[[Int64], Int64]) -> Callable[[Golden], Int64]:
    """The accumulators with one operand changed."""

    def apply(golden: Golden) -> Int64:
        return m.facts.sums(_Changed(golden, name, change(golden.codes(name))))

    return apply


class _Changed:
    """The codes of a golden, one operand other than it is; of out-of-range ones what they are."""

    def __init__(self, golden: Golden, name: str, codes: Int64):
        self._golden, self._name, self._codes = golden, name, codes

    @property
    def input(self) -> Int64:
        return self.codes("input")

    def codes(self, name: str) -> Int64:
        return self._codes if name == self._name else self._golden.codes(name)

    def values(self, name: str) -> Int64:
        return self._golden.values(name)


def _computed(m: AnyModel, change: Callable[[Int64, Int64], tuple[Int64, Int64]]) -> Callable[[Golden], Int64]:
    def apply(golden: Golden) -> Int64:
        first, second = change(golden.codes("input"), golden.codes("input2"))
        return m.facts.sums(_Changed(_Changed(golden, "input", first), "input2", second))  # type: ignore[arg-type]

    return apply


def _product(m: AnyModel) -> Iterator[Change]:
    facts: Any = m.facts

    def term(golden: Golden, k: int) -> Int64:
        left, right = facts.factors(golden)
        product: Int64 = left[:, :, k, np.newaxis] * right[:, k, np.newaxis, :]
        return product

    terms = m.facts.shapes["input"][2]
    for k in range(min(terms, 256)):
        for what, sign in (("", -1), (" twice", 1)):

            def other(golden: Golden, k: int = k, sign: int = sign) -> Int64:
                return golden.accumulator + sign * term(golden, k)

            yield Change(TERM_MISSING, f"k={k}{what}", Stage.OPERANDS, other)
    if facts.addends is not None:
        yield Change(BIAS_MISSING, "the addend", Stage.OPERANDS, lambda g: g.accumulator - g.codes("addend"))
        yield Change(BIAS_MISSING, "the addend twice", Stage.OPERANDS, lambda g: g.accumulator + g.codes("addend"))


def _sum(m: AnyModel) -> Iterator[Change]:
    facts: Any = m.facts
    for name, mul in facts.factors.items():
        for what, factor in (("left out", 0), ("twice", 2 * mul), ("subtracted", -mul), ("without its factor", 1)):
            if factor != mul:

                def other(golden: Golden, name: str = name, more: int = factor - mul) -> Int64:
                    changed: Int64 = golden.accumulator + more * facts.terms(golden, name)
                    return changed

                yield Change(OPERAND_MISSING, f"{name} {what}", Stage.OPERANDS, other)
