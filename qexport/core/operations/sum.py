"""The exact integer sum of one operand or two, each times an integer: residual additions, pooling that stands alone."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from qexport.core.capture import Capture
from qexport.core.geometry import Sum
from qexport.core.intformat import Int64
from qexport.core.operations.base import Need, Operation, operand_record, result_records
from qexport.core.steps import Ints, Step
from qexport.core.tensors import Values


class WeightedSum(Operation):
    """sum of mul_i x (input_i - z_i), element by element."""

    offers = frozenset({Need.STRENGTH, Need.DIAGNOSIS, Need.EXPLANATION, Need.STRESS})
    computed = ("input", "accumulator")
    layer: Sum

    def __init__(self, capture: Capture, row: int | None, steps: Sequence[Step] | None = None):
        super().__init__(capture, row, steps)
        self.factors = dict(zip(self.layer.holds, self.layer.mul, strict=False))  # by the operand's name

    def sums(self, golden: Values) -> Int64:
        products = [mul * self.terms(golden, name) for name, mul in self.factors.items()]
        total: Int64 = np.sum(products, axis=0)
        return total

    def terms(self, golden: Values, name: str) -> Int64:
        """The integers that are multiplied with the operand's factor."""
        fmt = self.formats.operands[name]
        return fmt.integers(golden.codes(name)) - fmt.zero_points[0]

    @cached_property
    def channel_bounds(self) -> tuple[Ints, Ints]:
        ends = [
            [mul * (end - self.formats.operands[name].zero_points[0]) for end in self.formats.operands[name].ends]
            for name, mul in self.factors.items()
        ]
        channels = self.shapes["accumulator"][1]
        return np.full(channels, sum(map(min, ends)), np.int64), np.full(channels, sum(map(max, ends)), np.int64)


WeightedSum.table = {
    "input": operand_record("input", ("n", "ic", "iy", "ix")),
    "input2": operand_record("input2", ("n", "ic", "iy", "ix")),
} | result_records(Sum.results)
