"""The stress captures of matrix products and sums: bounds, edges, extreme codes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qexport.core.capture import LayerCapture
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import MatMul, Sum
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.steps import Step, read_steps
from qexport.trust.stress import stress_capture

INT8 = CodeFormat(bits=8, signed=True, scale=0.5, zero_point=3)
E2M1 = CodeFormat(bits=4, signed=False, scale=0.5, code="e2m1")


def steps(by: int) -> tuple[Step, ...]:
    return read_steps([{"op": "shift_right", "by": by, "round": "half_even"}, {"op": "clamp", "low": -8, "high": 7}])


def product(left: CodeFormat, right: CodeFormat, by: int, addend: int | None = None) -> LayerCapture:
    rng = np.random.default_rng(0)
    return LayerCapture(
        MatMul(name="product"),
        Formats(input=left, input2=right),
        input=rng.choice(left.valid, (1, 6, 9)),
        input2=rng.choice(right.valid, (1, 9, 5)),
        addend=None if addend is None else rng.integers(-addend, addend, (1, 6, 5)),
        steps=steps(by),
    )


def total(*mul: int) -> LayerCapture:
    other = replace_zero(INT8, -7)
    rng = np.random.default_rng(0)
    both = len(mul) == 2
    return LayerCapture(
        Sum(name="sum", mul=mul),
        Formats(input=INT8, input2=other if both else None, accumulator=AccumulatorScale(scale=0.1)),
        input=rng.integers(-128, 128, (1, 3, 5, 6)),
        input2=rng.integers(-128, 128, (1, 3, 5, 6)) if both else None,
        steps=steps(4),
    )


def replace_zero(fmt: CodeFormat, zero: int) -> CodeFormat:
    return CodeFormat(bits=fmt.bits, signed=fmt.signed, scale=fmt.scale, zero_point=zero)


@pytest.mark.parametrize(
    "like", [product(INT8, INT8, 12), product(E2M1, INT8, 9, 500), product(E2M1, E2M1, 7), total(3, -1), total(1)]
)
def test_bounds_and_edges_are_reached(like: LayerCapture) -> None:
    made = stress_capture(like, seed=5)
    assert (made.layer, made.formats, made.steps) == (like.layer, like.formats, like.steps)
    golden = Golden(made)
    sums, (least, greatest) = golden.accumulator, golden.facts.bounds
    assert (sums.min(), sums.max()) == (least, greatest)
    assert {-1, 0, 1} <= set(sums.ravel().tolist())
    chain = golden.facts.chain
    assert chain is not None
    every = np.arange(least, greatest + 1)
    codes = chain.behind(0, every)
    firsts = every[1:][codes[1:] != codes[:-1]]
    missed = [value for first in firsts for value in (first - 1, first) if value not in sums]
    assert len(missed) <= 2, missed  # of E2M1 not every integer is a sum
    assert set(golden.values("output").ravel().tolist()) == set(codes.tolist())
    np.testing.assert_array_equal(stress_capture(like, seed=5).input, made.input)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_each_column_shows_each_stuck_bit_in_front_of_the_clamp(seed: int) -> None:
    golden = Golden(stress_capture(product(INT8, INT8, 6), seed))
    chain, (least, greatest) = golden.facts.chain, golden.facts.bounds
    assert chain is not None

    def shown(sums: Int64) -> set[tuple[int, int]]:
        v = chain.behind(0, sums, chain.steps[:-1])
        low, high = chain.signals[chain.names[-2]].range
        errors = {(bit, 0): v & ~(1 << bit) for bit in range(12)} | {(bit, 1): v | 1 << bit for bit in range(12)}
        stays = {error: np.where((low <= stuck) & (stuck <= high), stuck, v) for error, stuck in errors.items()}
        return {error for error, stuck in stays.items() if (stuck.clip(-8, 7) != v.clip(-8, 7)).any()}

    possible = shown(np.arange(least, greatest + 1))
    channels = np.moveaxis(golden.accumulator, golden.facts.start.axis, 0)
    assert [shown(sums.ravel()) for sums in channels] == [possible] * len(channels)


def test_every_code_of_the_operands_is_there() -> None:
    made: Any = stress_capture(replace(total(3, -1)), seed=1)
    assert {-128, 127} <= set(made.input.ravel().tolist()) & set(made.input2.ravel().tolist())
