"""Integer formats: Python's unbounded integers are the oracle."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError

formats = st.builds(IntFormat, st.integers(1, 64), st.booleans())
int64s = st.integers(-(2**63), 2**63 - 1)


def array(*values: int) -> Int64:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high"),
    [
        (1, False, 0, 1),
        (1, True, -1, 0),
        (4, False, 0, 15),
        (4, True, -8, 7),
        (63, False, 0, 2**63 - 1),
        (63, True, -(2**62), 2**62 - 1),
        (64, True, -(2**63), 2**63 - 1),
        (64, False, 0, 2**64 - 1),
    ],
)
def test_range(bits: int, signed: bool, low: int, high: int) -> None:
    fmt = IntFormat(bits, signed)
    assert (fmt.low, fmt.high) == (low, high)
    assert fmt.holds(low, high)
    assert not fmt.holds(low - 1, high)
    assert not fmt.holds(low, high + 1)


@pytest.mark.parametrize("bits", [-1, 0, 65])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(QexportError, match=f"bits: {bits} is outside 1..64"):
        IntFormat(bits, True)


def test_int4_is_twos_complement() -> None:
    fmt = IntFormat(4, True)
    assert fmt.encode(array(-8, -1, 0, 7)).tolist() == [0b1000, 0b1111, 0b0000, 0b0111]
    assert fmt.decode(array(0b1000, 0b1111, 0b0000, 0b0111)).tolist() == [-8, -1, 0, 7]
    assert fmt.wrap(array(-9, 8, 16, -17)).tolist() == [7, -8, 0, -1]
    assert fmt.saturate(array(-9, -8, 7, 8)).tolist() == [-8, -8, 7, 7]


@given(formats, st.data())
def test_codes_survive_encode_and_decode(fmt: IntFormat, data: st.DataObject) -> None:
    code = data.draw(
        st.sampled_from([fmt.low, min(fmt.high, 2**63 - 1)]) | st.integers(fmt.low, min(fmt.high, 2**63 - 1))
    )
    patterns = fmt.encode(array(code))
    assert [pattern % 2**64 for pattern in patterns.tolist()] == [code % 2**fmt.bits]
    assert fmt.decode(patterns).tolist() == [code]
    assert fmt.wrap(array(code)).tolist() == [code]
    assert fmt.saturate(array(code)).tolist() == [code]


@given(formats, int64s)
def test_wrap_keeps_the_value_modulo_the_width(fmt: IntFormat, value: int) -> None:
    wrapped = int(fmt.wrap(array(value))[0])
    assert fmt.holds(wrapped, wrapped)
    assert (wrapped - value) % 2**fmt.bits == 0


@given(formats, int64s)
def test_saturate_gives_the_nearest_code(fmt: IntFormat, value: int) -> None:
    assert fmt.saturate(array(value)).tolist() == [min(max(value, fmt.low), fmt.high)]


@given(st.tuples(st.integers(-(2**62), 2**62 - 1), st.integers(-(2**62), 2**62 - 1)), st.booleans())
@example((-8, -8), True)
@example((-8, 7), True)
@example((0, 0), False)
@example((0, 16), False)
def test_holding_is_the_narrowest(values: tuple[int, int], signed: bool) -> None:
    low, high = sorted(values if signed else map(abs, values))
    fmt = IntFormat.holding(low, high, signed)
    assert fmt.signed == signed
    assert fmt.holds(low, high)
    assert fmt.bits == 1 or not IntFormat(fmt.bits - 1, signed).holds(low, high)
