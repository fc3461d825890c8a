"""Packing: the word that bitstring concatenates is the oracle."""

import numpy as np
from bitstring import Bits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qexport.core.intformat import Int64, IntFormat
from qexport.layout.pack import pack, unpack, word_bits

formats = st.builds(IntFormat, st.integers(1, 16) | st.just(32), st.booleans())


@st.composite
def blocks(draw: st.DrawFn) -> tuple[IntFormat, Int64]:
    """A format and a (words, lanes) array of its codes."""
    fmt = draw(formats)
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 24)))
    codes = st.sampled_from([fmt.low, fmt.high]) | st.integers(fmt.low, fmt.high)
    return fmt, draw(hnp.arrays(np.int64, shape, elements=codes))


@given(blocks())
def test_order_of_the_array_in_memory_does_not_matter(block: tuple[IntFormat, Int64]) -> None:
    fmt, elements = block
    np.testing.assert_array_equal(pack(np.asfortranarray(elements), fmt), pack(elements, fmt))


@given(blocks())
def test_unpack_gives_back_what_was_packed(block: tuple[IntFormat, Int64]) -> None:
    fmt, elements = block
    np.testing.assert_array_equal(unpack(pack(elements, fmt), elements.shape[1], fmt), elements)


@given(blocks())
def test_word_is_the_lanes_bits_after_unused_zeros(block: tuple[IntFormat, Int64]) -> None:
    fmt, elements = block
    words = pack(elements, fmt)
    for word, codes in zip(words, elements.tolist(), strict=True):
        bits = Bits().join(Bits(uint=code % 2**fmt.bits, length=fmt.bits) for code in codes)
        assert len(bits) == word_bits(len(codes), fmt)
        assert word.tobytes() == (Bits.from_zeros(-len(bits) % 8) + bits).bytes


def test_word_1_minus1_7_minus8_at_int4_is_1f78() -> None:
    assert pack(np.array([[1, -1, 7, -8]]), IntFormat(4, True)).tobytes().hex() == "1f78"


def test_unused_bits_stand_on_top() -> None:
    assert pack(np.array([[-1, -1, -1]]), IntFormat(3, True)).tobytes().hex() == "01ff"
