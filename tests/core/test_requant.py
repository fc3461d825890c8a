"""Integer requantization against exact fractions: every accumulator, the ties, and that nothing smaller would do."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qexport.core.intformat import Int64, IntFormat
from qexport.core.requant import MAX_SHIFT, find_requantizer
from tests.conftest import cases

TIE_WIDTH = Fraction(1, 2**40)
many = settings(max_examples=cases(150))

Dyadic = st.builds(lambda mantissa, exponent: mantissa / 2**exponent, st.integers(1, 9), st.integers(0, 9))
Scale = Dyadic | st.floats(1e-4, 8.0)


def wanted(step: float, scale: float, qmax: int, accumulator: int) -> int:
    """What the network computes of an accumulator behind its ReLU; Python's round takes halves to the even side."""
    return min(round(Fraction(accumulator) * Fraction(step) / Fraction(scale)), qmax)


def given_by(mul: int, shift: int, qmax: int, accumulator: int) -> int:
    """The contract's formula."""
    return min(qmax, (accumulator * mul + 2 ** (shift - 1)) >> shift)


def largest_multiplier(step: float, scale: float, qmax: int, shift: int) -> int:
    """Larger ones give too large a code for accumulator 1; or, where that is qmax, qmax everywhere as this one does."""
    return wanted(step, scale, qmax, 1) + 1 << shift


def multipliers(step: float, scale: float, qmax: int, greatest: int, shift: int) -> Int64:
    """All that do for this shift, by trying each up to `largest_multiplier`."""
    codes = [wanted(step, scale, qmax, accumulator) for accumulator in range(greatest + 1)]
    left = np.arange(largest_multiplier(step, scale, qmax, shift) + 1)
    for accumulator in range(greatest, 0, -1):
        code = np.minimum((accumulator * left + (1 << (shift - 1))) >> shift, qmax)
        left = left[code == codes[accumulator]]
    return left


@many
@given(step=Scale, scale=Scale, bits=st.integers(1, 8), greatest=st.integers(0, 4000))
@example(step=0.5, scale=1.0, bits=4, greatest=1)
@example(step=0.5, scale=1.0, bits=4, greatest=3)
@example(step=1.0, scale=1.0, bits=8, greatest=4000)
def test_every_accumulator_gets_the_code_that_the_network_gives_it(
    step: float, scale: float, bits: int, greatest: int
) -> None:
    found = find_requantizer(step, scale, IntFormat(bits, False), greatest)
    if found is None:
        return  # that there is none is proven below
    qmax = 2**bits - 1
    assert (found.qmax, 1 <= found.shift <= MAX_SHIFT, found.mul >= 0) == (qmax, True, True)
    accumulators = np.arange(greatest + 1)
    codes = [wanted(step, scale, qmax, accumulator) for accumulator in accumulators.tolist()]
    assert [given_by(found.mul, found.shift, qmax, a) for a in accumulators.tolist()] == codes
    assert found.apply(accumulators).tolist() == codes
    for code in range(1, codes[-1] + 1):
        assert codes[found.first(code)] >= code > codes[found.first(code) - 1]


@many
@given(step=Scale, scale=Scale, bits=st.integers(1, 8), greatest=st.integers(0, 4000))
@example(step=1.0, scale=2.0, bits=8, greatest=4000)
@example(step=1.0, scale=2.0 + 1e-13, bits=8, greatest=4000)
@example(step=1.0, scale=2.0 + 1e-9, bits=8, greatest=4000)
def test_ties_are_the_accumulators_on_an_edge_between_two_codes(
    step: float, scale: float, bits: int, greatest: int
) -> None:
    found = find_requantizer(step, scale, IntFormat(bits, False), greatest)
    assume(found is not None)
    assert found is not None
    ties = []
    for accumulator in range(greatest + 1):
        real = Fraction(accumulator) * Fraction(step) / Fraction(scale)
        below = real - Fraction(1, 2)
        if abs(below - round(below)) < TIE_WIDTH and round(below) < 2**bits - 1:  # beyond, both sides are cut to qmax
            ties.append(accumulator)
    assert list(found.ties) == ties


@settings(max_examples=cases(60))
@given(
    step=Dyadic | st.floats(0.01, 1.0),
    scale=Dyadic | st.floats(0.05, 2.0),
    bits=st.integers(1, 4),
    greatest=st.integers(1, 60),
)
@example(step=0.5, scale=1.0, bits=2, greatest=5)
@example(step=1.0, scale=1.0, bits=1, greatest=1)
def test_the_shift_is_the_smallest_and_where_none_is_found_there_is_none(
    step: float, scale: float, bits: int, greatest: int
) -> None:
    assume(step / scale < 8)  # so that trying every multiplier ends
    qmax = 2**bits - 1
    found = find_requantizer(step, scale, IntFormat(bits, False), greatest)
    furthest = 20 if step / scale <= 1 else 17
    for shift in range(1, furthest + 1):
        left = multipliers(step, scale, qmax, greatest, shift)
        if found is not None and shift == found.shift:
            assert min(found.mul, largest_multiplier(step, scale, qmax, shift)) in left
            return
        assert not len(left)


def test_ties_on_both_sides_have_no_requantizer() -> None:
    """Half of 1 goes down to 0 and half of 3 up to 2: no multiplier does both, however fine."""
    assert find_requantizer(0.5, 1.0, IntFormat(4, False), 2) is not None
    assert find_requantizer(0.5, 1.0, IntFormat(4, False), 3) is None
    assert find_requantizer(0.5, 1.0, IntFormat(1, False), 3) is not None  # 3 is cut off at 1


@pytest.mark.parametrize("greatest", [10**6, 2**31, 2**40])
@pytest.mark.parametrize(("step", "scale"), [(0.0123, 0.3834), (0.1211, 0.29), (1e-7, 0.37), (3e-11, 0.41)])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_large_accumulators_get_their_codes_at_each_edge_and_between(
    step: float, scale: float, bits: int, greatest: int
) -> None:
    found, qmax = find_requantizer(step, scale, IntFormat(bits, False), greatest), 2**bits - 1
    edges = [int((value - Fraction(1, 2)) * Fraction(scale) / Fraction(step)) for value in range(1, qmax + 1)]
    near = {edge + by for edge in edges for by in range(-2, 4) if 0 <= edge + by <= greatest} | {0, greatest}
    points = np.array(sorted(near | set(np.random.default_rng(0).integers(0, greatest + 1, 500).tolist())))
    codes = [wanted(step, scale, qmax, accumulator) for accumulator in points.tolist()]
    if found is None:
        assert_none_for(points, np.array(codes), qmax, step / scale)
        return
    assert found.apply(points).tolist() == codes


def assert_none_for(points: Int64, codes: Int64, qmax: int, ratio: float) -> None:
    """No shift whose products stay in int64 has a multiplier: those near the ratio are tried."""
    for shift in range(1, MAX_SHIFT + 1):
        middle = round(ratio * 2**shift)
        for mul in range(max(middle - 200, 0), middle + 201):
            if mul * int(points[-1]) + 2 ** (shift - 1) < 2**62:
                assert (np.minimum((points * mul + 2 ** (shift - 1)) >> shift, qmax) != codes).any()


def test_no_requantizer_for_ties_at_each_of_65536_codes() -> None:
    assert find_requantizer(1.0, 6.0, IntFormat(16, False), 6 * 2**16) is None  # 3 / 6 goes down, 9 / 6 up
    found = find_requantizer(1.0, 6.0, IntFormat(16, False), 8)
    assert found is not None
    assert found.ties == (3,)
