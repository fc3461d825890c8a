"""File formats: every registered one takes exactly what it writes and says where a file is damaged."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qexport.formats import FORMATS, FileFault
from qexport.intformat import Int64, IntFormat

INT4, INT5 = IntFormat(4, True), IntFormat(5, True)
HEADER = ("#time0row1,time0row0#", "// ü")
unhurried = settings(deadline=None)
every_format = pytest.mark.parametrize("radix", sorted(FORMATS))


@st.composite
def blocks(draw: st.DrawFn) -> tuple[IntFormat, Int64]:
    """A format and a (words, lanes) array of its codes."""
    fmt = IntFormat(draw(st.integers(1, 63)), draw(st.booleans()))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9)))
    codes = st.sampled_from([fmt.low, fmt.high]) | st.integers(fmt.low, fmt.high)
    return fmt, draw(hnp.arrays(np.int64, shape, elements=codes))


@every_format
@unhurried
@given(block=blocks(), header=st.sampled_from([(), HEADER]))
def test_reader_gives_back_what_was_written(radix: str, block: tuple[IntFormat, Int64], header: Sequence[str]) -> None:
    fmt, elements = block
    data = FORMATS[radix].write(elements, fmt, header)
    read = FORMATS[radix].read(data, elements.shape[1], fmt, header)
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, elements)


@every_format
@unhurried
@given(block=blocks(), data=st.data())
def test_damaged_byte_is_refused_or_is_another_file(
    radix: str, block: tuple[IntFormat, Int64], data: st.DataObject
) -> None:
    fmt, elements = block
    written = FORMATS[radix].write(elements, fmt, ())
    at = data.draw(st.integers(0, len(written) - 1))
    put = data.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b"01289afFxX+-_ \r\n\0\xff")]))
    damaged = written[:at] + put + written[at + data.draw(st.integers(0, 1)) :]
    assume(damaged != written)
    try:
        read = FORMATS[radix].read(damaged, elements.shape[1], fmt, ())
    except FileFault as error:
        fault = error
    else:
        assert FORMATS[radix].write(read, fmt, ()) == damaged
        return
    lines = damaged.split(b"\n")
    assert 1 <= fault.line <= len(lines)
    assert 0 <= fault.column <= len(lines[fault.line - 1])


@pytest.mark.parametrize(
    ("radix", "fmt", "words", "text"),
    [
        ("hex", INT4, [[1, -1, 7, -8], [0, 0, 0, 2]], "1f78\n0002\n"),
        ("hex", IntFormat(3, False), [[5, 2, 7]], "157\n"),
        ("hex", IntFormat(11, True), [[-1], [-1024]], "7ff\n400\n"),
        ("hex", IntFormat(8, False), [[171, 205]], "abcd\n"),
        ("hex", IntFormat(1, False), [[1], [0]], "1\n0\n"),
        ("bin", INT4, [[1, -1, 7, -8]], "0001111101111000\n"),
        ("bin", IntFormat(3, False), [[5, 2, 7]], "101010111\n"),
        ("bin", IntFormat(1, True), [[-1, 0]], "10\n"),
        ("dec", INT4, [[1, -1, 7, -8], [0, 0, 0, 2]], "1 -1 7 -8\n0 0 0 2\n"),
        ("dec", IntFormat(63, False), [[2**63 - 1]], "9223372036854775807\n"),
    ],
)
def test_text_of_words(radix: str, fmt: IntFormat, words: list[list[int]], text: str) -> None:
    assert FORMATS[radix].write(np.array(words), fmt, ()).decode() == text
    assert FORMATS[radix].write(np.array(words), fmt, HEADER).decode() == "\n".join(HEADER) + "\n" + text


# Two lanes of int5: 10 bits, 3 hexadecimal digits. ^ stands before the culprit and is taken out.
@pytest.mark.parametrize(
    ("radix", "marked", "message"),
    [
        ("hex", "3ff\n0^g0\n", "'g'"),
        ("hex", "3ff\n00^A\n", "'A'"),
        ("hex", "3ff\n^X00\n", "'X'"),
        ("hex", "^x00\n3ff\n", "'x'"),
        ("hex", "0^_0\n", "'_'"),
        ("hex", "3ff\n00^\n000\n", "2 digits; needs 3"),
        ("hex", "3ff\n000^0\n000\n", "4 digits; needs 3"),
        ("hex", "3f^\n3fff\n", "2 digits; needs 3"),
        ("hex", "3ff\n^\n000\n", "0 digits; needs 3"),
        ("hex", "3ff^\r\n", "4 digits; needs 3"),
        ("hex", "3ff\n000^", "no line end"),
        ("hex", "3ff\n^400\n", "wider than 10 bits"),
        ("bin", "0000100001\n00001000^20\n", "'2'"),
        ("bin", "^X000100001\n", "'X'"),
        ("bin", "0000^z00001\n", "'z'"),
        ("bin", "0000100001\n000010000^\n", "9 digits; needs 10"),
        ("bin", "0000100001^0\n", "11 digits; needs 10"),
        ("bin", "0000100001^", "no line end"),
        ("dec", "15 -16\n1 ^07\n", "'07'"),
        ("dec", "^-07 1\n", "'-07'"),
        ("dec", "15 -16\n^+1 2\n", "'+1'"),
        ("dec", "1 ^-0\n", "'-0'"),
        ("dec", "1 ^-\n", "'-'"),
        ("dec", "1 ^x\n", "'x'"),
        ("dec", "1 ^F\n", "'F'"),
        ("dec", "15 ^16\n", "16 is outside -16..15"),
        ("dec", "^-17 0\n", "-17 is outside -16..15"),
        ("dec", "1 ^" + "9" * 5000 + "\n", "999"),
        ("dec", "1 2\n1^\n", "1 numbers; needs 2"),
        ("dec", "1 2\n1 2 ^3 4\n", "4 numbers; needs 2"),
        ("dec", "1 2 ^\n", "3 numbers; needs 2"),
        ("dec", "1 ^ 2\n", "''"),
        ("dec", "1 2\n^\n", "''"),
        ("dec", "1 2^", "no line end"),
    ],
)
@pytest.mark.parametrize("header", [(), HEADER], ids=["", "header"])
def test_damage_is_found_in_its_place(radix: str, marked: str, message: str, header: Sequence[str]) -> None:
    before, after = marked.split("^")
    text = "".join(f"{line}\n" for line in header) + before + after
    with pytest.raises(FileFault) as caught:
        FORMATS[radix].read(text.encode(), 2, INT5, header)
    place = len(header) + before.count("\n") + 1, len(before) - before.rfind("\n") - 1
    assert (caught.value.line, caught.value.column) == place
    assert message in str(caught.value)


@every_format
@pytest.mark.parametrize(
    ("lines", "line"),
    [((), 1), (("#time0row1#", HEADER[1]), 1), ((HEADER[0], "// u"), 2), ((HEADER[0],), 2), ((HEADER[0], "// ü "), 2)],
)
def test_wrong_header_is_found_in_its_line(radix: str, lines: Sequence[str], line: int) -> None:
    data = FORMATS[radix].write(np.array([[1, 2]]), INT5, lines)
    with pytest.raises(FileFault, match="header") as caught:
        FORMATS[radix].read(data, 2, INT5, HEADER)
    assert (caught.value.line, caught.value.column) == (line, 0)


@pytest.mark.parametrize(
    ("radix", "fmt", "word", "lanes"),
    [
        ("hex", INT4, [1, -1, 7, -8], [0, 1, 2, 3]),
        ("hex", IntFormat(6, False), [1, 2, 3], [0, 0, 1, 1, 2]),
        ("bin", IntFormat(2, True), [1, -1, 0], [0, 0, 1, 1, 2, 2]),
        ("dec", INT5, [1, -16, 7], [0, 0, 1, 1, 1, 1, 2]),
    ],
)
def test_lane_of_each_column(radix: str, fmt: IntFormat, word: list[int], lanes: list[int]) -> None:
    line = FORMATS[radix].write(np.array([word]), fmt, ()).removesuffix(b"\n")
    found = [FORMATS[radix].lane_at(line, column, len(word), fmt) for column in range(len(line))]
    assert found == lanes
    assert FORMATS[radix].lane_at(line, len(line), len(word), fmt) == len(word) - 1
