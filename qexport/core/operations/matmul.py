"""The exact integer product of two matrices that are both data."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from qexport.core.capture import Capture, CaptureFile
from qexport.core.geometry import MatMul
from qexport.core.intformat import Int64
from qexport.core.operations.base import Need, Operation, narrow, operand_record, result_records
from qexport.core.steps import Ints, Step
from qexport.core.tensors import BIAS_BITS, Range, Record, Role, Values, wide


class MatrixProduct(Operation):
    """sum over k of (input - z)(input2 - z2), plus the addend. Its channels are those of p."""

    offers = frozenset({Need.STRENGTH, Need.DIAGNOSIS, Need.EXPLANATION, Need.STRESS, Need.RTL})
    computed = ("input", "input2", "accumulator")
    layer: MatMul

    def __init__(self, capture: Capture, row: int | None, steps: Sequence[Step] | None = None):
        super().__init__(capture, row, steps)
        self.left, self.right = self.formats.operands["input"], self.formats.operands["input2"]
        self.addends = _ends_of_addends(capture)

    def factors(self, golden: Values) -> tuple[Int64, Int64]:
        """The integers that are multiplied: (n, m, k) and (n, k, p)."""
        left = self.left.integers(golden.codes("input")) - self.left.zero_points[0]
        return left, self.right.integers(golden.codes("input2")) - self.right.zero_points[0]

    def sums(self, golden: Values) -> Int64:
        left, right = (factors.astype(narrow(self.reach)) for factors in self.factors(golden))
        sums: Int64 = np.matmul(left, right).astype(np.int64)
        return sums if self.addends is None else sums + golden.codes("addend")

    @cached_property
    def channel_bounds(self) -> tuple[Ints, Ints]:
        """Over all codes of both operands; the addends are those that there are."""
        ends = [[end - fmt.zero_points[0] for end in fmt.ends] for fmt in (self.left, self.right)]
        products = [left * right for left in ends[0] for right in ends[1]]
        (_, _, terms), channels = self.shapes["input"], self.shapes["accumulator"][2]
        least, greatest = (np.full(channels, terms * end, np.int64) for end in (min(products), max(products)))
        return (least, greatest) if self.addends is None else (least + self.addends[0], greatest + self.addends[1])

    @property
    def addend_range(self) -> Range:
        assert self.addends is not None
        return int(self.addends[0].min()), int(self.addends[1].max())


def _ends_of_addends(capture: Capture) -> tuple[Int64, Int64] | None:
    """The least and greatest addend of each p over all images, read one after the other; None without an addend."""
    if "addend" not in capture.shapes:
        return None
    files = isinstance(capture, CaptureFile)
    parts = [capture.part(n, n + 1) for n in range(capture.images)] if files else [capture]
    addends = [part.tensors["addend"] for part in parts if not isinstance(part, CaptureFile)]
    least, greatest = ([end(addend, axis=(0, 1)) for addend in addends] for end in (np.min, np.max))
    return np.min(least, axis=0), np.max(greatest, axis=0)


MatrixProduct.table = {
    "input": operand_record("input", ("n", "m", "k")),
    "input2": operand_record("input2", ("n", "k", "p")),
    "addend": Record(
        ("n", "m", "p"), Role.OPERAND, operand="addend",
        shape=lambda op, n: (n, *op.shapes["addend"][1:]),
        format=lambda op: wide(op.addend_range, BIAS_BITS),
        range=lambda op: op.addend_range,
        values=lambda op, golden: golden.codes("addend"),
        lacking=lambda op: "its capture holds no addend" if op.addends is None else None,
    ),
} | result_records(MatMul.results)  # fmt: skip
