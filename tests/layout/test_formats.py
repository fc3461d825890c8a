"""File formats: every registered one gives back what it writes and says where a file is damaged."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError
from qexport.layout.formats.base import FileFault, WordSpec
from qexport.layout.formats.registry import FORMATS
from qexport.layout.memory import Layout
from qexport.layout.toml import parse_layout
from tests.conftest import cli, fails, make_capture, one_memory_layout

INT4, INT5 = IntFormat(4, True), IntFormat(5, True)
HEADER = ("#time0row1,time0row0#", "// ü")
VERILOG = ["hex", "bin", "dec", "mem"]  # texts that take comments and address lines
every_format = pytest.mark.parametrize("radix", sorted(FORMATS))


def spec_of(fmt: IntFormat, lanes: int, header: Sequence[str] = ()) -> WordSpec:
    return WordSpec(lanes, fmt, tuple(header), "weight_it0")


def header_of(radix: str) -> tuple[str, ...]:
    """Header lines that the format takes."""
    comment = FORMATS[radix].comment
    return () if comment is None else HEADER if comment == "" else (f"{comment} two lanes", f"{comment} ü; % }}")


@st.composite
def blocks(draw: st.DrawFn) -> tuple[IntFormat, Int64]:
    """A format and a (words, lanes) array of its codes."""
    fmt = IntFormat(draw(st.integers(1, 63)), draw(st.booleans()))
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    codes = st.sampled_from([fmt.low, fmt.high]) | st.integers(fmt.low, fmt.high)
    return fmt, draw(hnp.arrays(np.int64, shape, elements=codes))


def narrow(radix: str, block: tuple[IntFormat, Int64]) -> Int64:
    """The lanes that a word of the format has room for."""
    fmt, elements = block
    limit = FORMATS[radix].max_word_bits
    return elements if limit is None else elements[:, : limit // fmt.bits]


@every_format
@given(block=blocks(), headed=st.booleans())
def test_reader_gives_back_what_was_written(radix: str, block: tuple[IntFormat, Int64], headed: bool) -> None:
    fmt, elements = block[0], narrow(radix, block)
    spec = spec_of(fmt, elements.shape[1], header_of(radix) if headed else ())
    data = FORMATS[radix].write(elements, spec)
    assert FORMATS[radix].write(np.asfortranarray(elements), spec) == data
    read = FORMATS[radix].read(data, spec)
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, elements)


@every_format
@given(block=blocks(), data=st.data())
def test_damaged_byte_is_refused_or_is_another_file(
    radix: str, block: tuple[IntFormat, Int64], data: st.DataObject
) -> None:
    fmt, elements = block[0], narrow(radix, block)
    format_, spec = FORMATS[radix], spec_of(fmt, elements.shape[1])
    written = format_.write(elements, spec)
    at = data.draw(st.integers(0, len(written) - 1))
    put = data.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b"01289afFxX+-_ \r\n\0\xff@/;")]))
    damaged = written[:at] + put + written[at + data.draw(st.integers(0, 1)) :]
    assume(damaged != written)
    try:
        read = format_.read(damaged, spec)
    except FileFault as error:
        fault = error
    else:
        assert read.shape[1:] == (spec.lanes,)
        assert not read.size or fmt.holds(int(read.min()), int(read.max()))
        if radix in VERILOG:
            first = re.compile(rb"\A@0+\n")
            assert first.sub(b"", format_.write(read, spec)) == first.sub(b"", damaged.replace(b"_", b""))
        if radix.startswith("raw"):
            assert format_.write(read, spec) == damaged
        return
    assert len(str(fault).splitlines()) == 1
    if format_.word_lines is not None:
        lines = damaged.split(b"\n")
        assert 1 <= fault.line <= len(lines)
        assert 0 <= fault.column <= len(lines[fault.line - 1])


@every_format
@given(block=blocks(), cut=st.integers(0, 20), headed=st.booleans())
def test_a_streamed_file_is_its_header_and_its_chunks(
    radix: str, block: tuple[IntFormat, Int64], cut: int, headed: bool
) -> None:
    fmt, elements = block[0], narrow(radix, block)
    format_, cut = FORMATS[radix], min(cut, len(elements) - 1)
    first = spec_of(fmt, elements.shape[1], header_of(radix) if headed else ())
    rest = replace(first, header=())
    whole = format_.write(elements, first)
    file = io.BytesIO(whole)
    if not format_.streamed:
        np.testing.assert_array_equal(format_.read(format_.take(file, 1, first), first), elements)
        return
    assert whole == format_.write(elements[: cut + 1], first) + b"".join(
        format_.write(elements[word : word + 1], rest) for word in range(cut + 1, len(elements))
    )
    for chunk, spec in ((elements[: cut + 1], first), (elements[cut + 1 :], rest)):
        np.testing.assert_array_equal(format_.read(format_.take(file, len(chunk), spec), spec), chunk)
    assert file.read() == b""


WORDS = np.array([[1, -1, 7, -8], [0, 0, 0, 2]])


@pytest.mark.parametrize(
    ("radix", "fmt", "words", "text"),
    [
        ("hex", INT4, WORDS, b"1f78\n0002\n"),
        ("hex", IntFormat(3, False), [[5, 2, 7]], b"157\n"),
        ("hex", IntFormat(11, True), [[-1], [-1024]], b"7ff\n400\n"),
        ("hex", IntFormat(8, False), [[171, 205]], b"abcd\n"),
        ("hex", IntFormat(1, False), [[1], [0]], b"1\n0\n"),
        ("bin", INT4, [[1, -1, 7, -8]], b"0001111101111000\n"),
        ("bin", IntFormat(3, False), [[5, 2, 7]], b"101010111\n"),
        ("bin", IntFormat(1, True), [[-1, 0]], b"10\n"),
        ("dec", INT4, WORDS, b"1 -1 7 -8\n0 0 0 2\n"),
        ("dec", IntFormat(63, False), [[2**63 - 1]], b"9223372036854775807\n"),
        ("mem", INT4, WORDS, b"@00000000\n1f78\n0002\n"),
        ("raw_be", INT4, WORDS, b"\x1f\x78\x00\x02"),
        ("raw_le", INT4, WORDS, b"\x78\x1f\x02\x00"),
        ("raw_be", IntFormat(3, False), [[5, 2, 7]], b"\x01\x57"),
        ("raw_le", IntFormat(3, False), [[5, 2, 7]], b"\x57\x01"),
        ("coe", INT4, WORDS, b"memory_initialization_radix=16;\nmemory_initialization_vector=\n1f78,\n0002;\n"),
        (
            "mif", INT4, WORDS,
            b"WIDTH=16;\nDEPTH=2;\nADDRESS_RADIX=HEX;\nDATA_RADIX=HEX;\nCONTENT BEGIN\n0 : 1f78;\n1 : 0002;\nEND;\n",
        ),
        ("ihex", INT4, WORDS, b":020000001F7867\n:020002000002FA\n:00000001FF\n"),
        (
            "c", IntFormat(3, False), [[5, 2, 7]],
            b"#ifndef WEIGHT_IT0_MEM_H\n#define WEIGHT_IT0_MEM_H\n\n#include <stdint.h>\n\n"
            b"static const uint16_t weight_it0_mem[1] = {\n    0x157,\n};\n\n#endif\n",
        ),
    ],
)  # fmt: skip
def test_bytes_of_words(radix: str, fmt: IntFormat, words: list[list[int]], text: bytes) -> None:
    spec = spec_of(fmt, len(words[0]))
    assert FORMATS[radix].write(np.array(words), spec) == text
    header = header_of(radix)
    assert FORMATS[radix].write(np.array(words), replace(spec, header=header)) == (
        "".join(f"{line}\n" for line in header).encode() + text
    )


@pytest.mark.parametrize(("words", "digits"), [(1, 1), (16, 1), (17, 2), (257, 3)], ids=["1", "16", "17", "257"])
def test_mif_addresses_are_equally_long(words: int, digits: int) -> None:
    text = FORMATS["mif"].write(np.zeros((words, 1), np.int64), spec_of(INT4, 1)).decode()
    addresses = [line.split(" : ")[0] for line in text.splitlines() if " : " in line]
    assert [int(address, 16) for address in addresses] == list(range(words))
    assert {len(address) for address in addresses} == {digits}


# --- faults ---------------------------------------------------------------------------------------------------------

# Two lanes of int5: 10 bits, 3 hexadecimal digits. ^ stands before the culprit and is taken out.
COE = "memory_initialization_radix=16;\nmemory_initialization_vector=\n"
MIF = "WIDTH=10;\nDEPTH=2;\nADDRESS_RADIX=HEX;\nDATA_RADIX=HEX;\nCONTENT BEGIN\n"
C = "static const uint16_t weight_it0_mem[2] = {\n"


@pytest.mark.parametrize(
    ("radix", "marked", "message"),
    [
        ("hex", "3ff\n0^g0\n", "'g' is not a hexadecimal digit"),
        ("hex", "3ff\n00^A\n", "'A' is not a lower-case digit"),
        ("hex", "3ff\n^X00\n", "'X'"),
        ("hex", "^x00\n3ff\n", "'x'"),
        ("hex", "^zzz\n3ff\n", "'z'"),
        ("hex", "^_00\n", "'_'"),
        ("hex", "0^ 0\n", "' '"),
        ("hex", "3ff\n00^\n000\n", "2 digits; needs 3"),
        ("hex", "3ff\n000^0\n000\n", "4 digits; needs 3"),
        ("hex", "3f^\n3fff\n", "2 digits; needs 3"),
        ("hex", "3ff\n^\n000\n", "0 digits; needs 3"),
        ("hex", "3ff\n000^\r\n", "carriage return: save with \\n line ends"),
        ("hex", "3ff\n0^\x000\n", "NUL byte"),
        ("hex", "3ff\n000^", "no line end"),
        ("hex", "3ff\n^400\n", "wider than 10 bits"),
        ("hex", "3ff // max\n\n", None),
        ("hex", "// all\n3ff // max ^\r\n", "carriage return"),
        ("hex", "3ff // max\n/* a\n\nb */\n0^g0\n", "'g'"),
        ("hex", "3f_f /* max */\n/* a */ /* b */ 0_0^g\n", "'g'"),
        ("hex", "3f_f /* max */\n/* a */ 00^ /* b */\n", "2 digits; needs 3"),
        ("hex", "3ff\n000 ^/* not closed\n", "comment is not closed"),
        ("hex", "3ff\n000 // x\n4^/00\n", "'/'"),
        ("hex", "3ff /* x */ /* y */\n12^ /* parts */ 3\n", "' '"),
        ("hex", "@1\n3ff\n@0\n0^g0\n", "'g'"),
        ("hex", "@1\n3ff\n@0 // low\n^400\n", "wider than 10 bits"),
        ("hex", "@0\n3ff\n^@1g\n000\n", "'@1g' is not a hexadecimal address"),
        ("hex", "@0\n3ff\n^@\n000\n", "'@' is not a hexadecimal address"),
        ("hex", "^@0_0\n3ff\n", "'@0_0' is not a hexadecimal address"),
        ("hex", "@0\n3ff\n@0\n^000\n", "address 0 (hexadecimal) is given twice"),
        ("hex", "@0\n3ff\n@a\n^000\n", "address 1 (hexadecimal) is given nowhere; the next is a"),
        ("hex", "@ffffffffffffffffffff\n^000\n", "address 0 (hexadecimal) is given nowhere"),
        ("hex", "3ff\n000^ @1\n", "6 digits; needs 3"),
        ("bin", "0000100001\n00001000^20\n", "'2' is not a binary digit"),
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
        ("dec", "1 2^\r\n", "carriage return"),
        ("dec", "1 2^", "no line end"),
        ("dec", "1 2 // one\n/* two */ 1 /* and */ ^16\n", "16 is outside"),
        ("dec", "@1\n1 2\n@0\n1^\n", "1 numbers; needs 2"),
        ("mem", "@00000000\n3ff\n0^g0\n", "'g'"),
        ("mem", "@00000000\n3ff\n^400\n", "wider than 10 bits"),
        ("mem", "@00000001\n^3ff\n", "address 0 (hexadecimal) is given nowhere"),
        ("coe", "^3ff;\n", "does not begin with memory_initialization_radix=16;"),
        ("coe", "^" + COE.replace("16", "2") + "3ff;\n", "memory_initialization_radix=16;"),
        ("coe", COE + "3ff,\n^400;\n", "wider than 10 bits"),
        ("coe", COE + "; all\n3ff,\n^3fx;\n", "'3fx' is not a word in hexadecimal digits"),
        ("coe", COE + "3ff,\n^,000;\n", "neither a word nor the end"),
        ("coe", COE + "3ff,\n000\n^", "neither a word nor the end"),
        ("coe", COE + "3ff^; 000;\n", "neither a word nor the end"),
        ("coe", COE + "3ff,\n000;^\r\n", "carriage return"),
        ("mif", "^" + MIF.replace("10", "8") + "0 : 3ff;\n1 : 000;\nEND;\n", "does not begin with WIDTH=10;"),
        ("mif", "^" + MIF.replace("DATA_RADIX=HEX", "DATA_RADIX=BIN") + "0 : 3ff;\n1 : 0;\nEND;\n", "DATA_RADIX=HEX;"),
        ("mif", MIF.replace("=2", "=^3") + "0 : 3ff;\n1 : 000;\nEND;\n", "3 words are promised; there are 2"),
        ("mif", MIF + "0 : 3ff;\n1 : ^400;\nEND;\n", "wider than 10 bits"),
        ("mif", MIF + "-- all\n0 : 3ff;\n1 : ^3fx;\nEND;\n", "'3fx' is not a word"),
        ("mif", MIF + "0 : 3ff;\n^[1..2] : 000;\nEND;\n", "'[1..2]' is not an address in hexadecimal digits"),
        ("mif", MIF + "0 : 3ff;\n0 : ^000;\nEND;\n", "address 0 (hexadecimal) is given twice"),
        ("mif", MIF + "0 : 3ff;\n2 : ^000;\nEND;\n", "address 1 (hexadecimal) is given nowhere"),
        ("mif", MIF + "0 : 3ff;\n1 : 000;\n^", "neither a word nor the end"),
        ("c", "^" + C.replace("16", "32") + "0x3ff, 0x000};\n", "static const uint16_t weight_it0_mem[...] = {"),
        ("c", C.replace("[2", "[^3") + "0x3ff,\n0x000,\n};\n#endif\n", "3 words are promised; there are 2"),
        ("c", C + "0x3ff, // max\n0x^400,\n};\n#endif\n", "wider than 10 bits"),
        ("c", C + "0x3ff,\n^12,\n};\n#endif\n", "neither a word nor the end"),
        ("c", C + "0x3ff,\n0x000,\n^};\n", "neither a word nor the end"),
    ],
)
@pytest.mark.parametrize("headed", [False, True], ids=["", "header"])
def test_damage_is_found_in_its_place(radix: str, marked: str, message: str | None, headed: bool) -> None:
    header = header_of(radix) if headed else ()
    if message is None:
        marked, message = marked.replace("\n\n", "\n^\n"), "0 digits; needs 3"
    before, after = marked.split("^")
    text = "".join(f"{line}\n" for line in header) + before + after
    with pytest.raises(FileFault) as caught:
        FORMATS[radix].read(text.encode(), spec_of(INT5, 2, header))
    place = len(header) + before.count("\n") + 1, len(before) - before.rfind("\n") - 1
    assert (caught.value.line, caught.value.column) == place
    assert message in str(caught.value)


# Words of two bytes. The line that is at fault, from 1.
@pytest.mark.parametrize(
    ("radix", "text", "line", "message"),
    [
        ("ihex", ":020000001F7867\n:020002000002FB\n:00000001FF\n", 2, "not a sound record: expected crc 'FA'"),
        ("ihex", ":020000001F7867\n020002000002FA\n:00000001FF\n", 2, "not starting with a ':'"),
        ("ihex", ":020000001F7867\n:0200020000xxFA\n:00000001FF\n", 2, "not a sound record"),
        ("ihex", ":020000001F7867\n:020002000002FA\n", 3, "not an end-of-file record"),
        ("ihex", ":020000001F7867\n:020004000002F8\n:00000001FF\n", 2, "byte address 2 (hexadecimal) is given nowhere"),
        ("ihex", ":020000001F7867\n:020000001F7867\n:00000001FF\n", 2, "byte address 2 (hexadecimal) is not where"),
        ("ihex", ":030000001F780066\n:00000001FF\n", 3, "3 bytes; needs 2 for each word"),
        ("srec", "S30700000000520C9A\nS30700000002C89897\n", 2, "not a sound record: expected crc '96'"),
        ("srec", "S30700000000520C9A\nS5030002FA\n", 2, "2 data records are promised; there are 1"),
    ],
)
def test_damaged_record_is_found_in_its_line(radix: str, text: str, line: int, message: str) -> None:
    with pytest.raises(FileFault) as caught:
        FORMATS[radix].read(text.encode(), spec_of(INT4, 4))
    assert message in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("radix", "data", "word", "message"),
    [
        ("raw_be", b"\x01\x57\x01", 1, "3 bytes; needs 2 for each word"),
        ("raw_be", b"\x01\x57\x02\x00", 1, "word 1 (byte 2): word is wider than 9 bits"),
        ("raw_le", b"\x57\x01\x00\x02", 1, "word 1 (byte 2): word is wider than 9 bits"),
    ],
)
def test_fault_of_raw_bytes_names_word_and_byte(radix: str, data: bytes, word: int, message: str) -> None:
    with pytest.raises(FileFault) as caught:
        FORMATS[radix].read(data, spec_of(IntFormat(3, False), 3))
    assert message in str(caught.value)
    assert (caught.value.word, caught.value.line) == (word, word + 1)


def test_faults_of_npz() -> None:
    read, spec = FORMATS["npz"].read, spec_of(INT4, 2)

    def npz(**arrays: object) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{"elements": np.array([[1, 2], [3, 4]], np.int8), "bits": 4, "signed": True} | arrays)  # type: ignore[arg-type]
        return file.getvalue()

    np.testing.assert_array_equal(read(npz(), spec), [[1, 2], [3, 4]])
    for arrays, word, message in (
        ({"elements": np.array([[1, 2], [3, 8]], np.int8)}, 1, "word 1: 8 is outside -8..7"),
        (
            {"elements": np.array([[1, 2, 3]], np.int8)},
            None,
            "array 'elements' is missing or is not (words, 2) of int8",
        ),
        ({"elements": np.array([[1, 2]])}, None, "array 'elements' is missing or is not (words, 2) of int8"),
        ({"elements": np.array([[{}]])}, None, "not a readable .npz file"),
        ({"bits": 5}, None, "array 'bits' holds 5; needs 4"),
        ({"signed": False}, None, "array 'signed' holds False; needs True"),
    ):
        with pytest.raises(FileFault) as caught:
            read(npz(**arrays), spec)  # type: ignore[arg-type]
        assert message in str(caught.value)
        assert caught.value.word == word
    with pytest.raises(FileFault, match="not a readable"):
        read(npz()[:-1], spec)


@every_format
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda one, two: (), 1),
        (lambda one, two: (one[:-1], two), 1),
        (lambda one, two: (one, two.replace("ü", "u")), 2),
        (lambda one, two: (one,), 2),
        (lambda one, two: (one, two + " "), 2),
    ],
)
def test_wrong_header_is_found_in_its_line(radix: str, change: object, line: int) -> None:
    header = header_of(radix)
    if not header:
        assert FORMATS[radix].comment is None
        return
    data = FORMATS[radix].write(np.array([[1, 2]]), spec_of(INT5, 2, change(*header)))  # type: ignore[operator]
    with pytest.raises(FileFault, match="header") as caught:
        FORMATS[radix].read(data, spec_of(INT5, 2, header))
    assert (caught.value.line, caught.value.column) == (line, 0)


# --- what readers take beside what is written -----------------------------------------------------------------------


@pytest.mark.parametrize("radix", VERILOG)
@given(block=blocks(), data=st.data())
def test_comments_addresses_and_underscores_change_no_word(
    radix: str, block: tuple[IntFormat, Int64], data: st.DataObject
) -> None:
    """Words in any order under address lines, with comments around them, and the line of each word."""
    fmt, elements = block
    spec = spec_of(fmt, elements.shape[1], header_of(radix) if data.draw(st.booleans()) else ())
    written = FORMATS[radix].write(elements, replace(spec, header=())).decode().splitlines()[-len(elements) :]
    blank = st.sampled_from(["", " ", "\t"])
    line_comments = st.sampled_from(["", "// 3 @7 /* _\n", "/* one */ /* 2\n\n@two */\n", "/**/\n"])
    after = st.sampled_from(["", " // end", " /* a */", "/* a\n b */"])
    text = "".join(f"{line}\n" for line in spec.header)
    lines = {}
    next_address = 0
    for address in data.draw(st.permutations(range(len(elements)))):
        text += data.draw(line_comments)
        if address != next_address or data.draw(st.booleans()):
            text += f"@{address:x}{data.draw(after)}\n"
        lines[address] = text.count("\n") + 1
        word = written[address]
        if radix != "dec" and len(word) > 1:
            at = data.draw(st.integers(1, len(word)))
            word = word[:at] + "_" + word[at:]
        comment = data.draw(after)
        text += word + (data.draw(blank) if comment else "") + comment + "\n"
        next_address = address + 1
    np.testing.assert_array_equal(FORMATS[radix].read(text.encode(), spec), elements)
    found = FORMATS[radix].lines(text.encode(), spec, len(elements))
    assert found.tolist() == [lines[address] for address in range(len(elements))]


@every_format
@given(block=blocks())
def test_line_of_each_word(radix: str, block: tuple[IntFormat, Int64]) -> None:
    """A line read alone gives the word: its digits are found in the line that the format names."""
    fmt, elements = block[0], narrow(radix, block)
    spec = spec_of(fmt, elements.shape[1], header_of(radix))
    data = FORMATS[radix].write(elements, spec)
    lines = FORMATS[radix].lines(data, spec, len(elements)).tolist()
    if FORMATS[radix].word_lines is None:
        assert lines == list(range(1, len(elements) + 1))
        return
    texts = data.split(b"\n")
    for word, line in zip(elements, lines, strict=True):
        sought = FORMATS[radix if radix in ("bin", "dec") else "hex"].write(
            word.reshape(1, -1), replace(spec, header=())
        )
        assert sought.strip() in texts[line - 1].lower()


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
    lane_at, spec = FORMATS[radix].lane_at, spec_of(fmt, len(word))
    assert lane_at is not None
    line = FORMATS[radix].write(np.array([word]), spec).removesuffix(b"\n")
    assert [lane_at(line, column, spec) for column in range(len(line))] == lanes
    assert lane_at(line, len(line), spec) == len(word) - 1
    commented = b"/* two */ " + line + b" // end"
    assert [lane_at(commented, 10 + column, spec) for column in range(len(line))] == lanes


def test_underscore_is_in_no_lane() -> None:
    lane_at = FORMATS["hex"].lane_at
    assert lane_at is not None
    assert [lane_at(b"1_f78", column, spec_of(INT4, 4)) for column in (0, 2, 3, 4)] == [0, 1, 2, 3]


# --- through dump, verify and show ----------------------------------------------------------------------------------

ORDER = "oc (it row) kh kw -> it | oc kh kw | ~row"


@every_format
def test_set_of_every_format_verifies_and_a_changed_word_is_named(radix: str, tmp_path: Path) -> None:
    layout = one_memory_layout(ORDER, radix=radix, file="m{it}.txt", array={"row": 4}, header=list(header_of(radix)))
    folder = dump(make_capture(), layout, tmp_path).folder
    report = verify(folder)
    assert report.ok
    manifest = report.manifest
    assert manifest is not None
    memory = manifest.memories[0]
    spec = memory.memory().spec(memory.tiling(manifest.array), memory.element, memory.files[1].index)
    data = (folder / "m1.txt").read_bytes()
    elements = FORMATS[radix].read(data, spec)
    line = int(FORMATS[radix].lines(data, spec, len(elements))[5])
    show = cli("show", folder, f"m1.txt:{line}", "--json")
    assert show.exit_code == 0, show.output
    assert [int(part) for part in _codes(show.stdout)] == elements[5].tolist()
    was = int(elements[5, 1])
    elements[5, 1] = ~was
    (folder / "m1.txt").write_bytes(FORMATS[radix].write(elements, spec))
    fault = verify(folder).faults[0]
    assert (fault.file, fault.line, fault.lane) == ("m1.txt", line, 1)
    assert fault.index == {"oc": 0, "ic": 6, "kh": 1, "kw": 2}
    assert fault.message == f"holds {~was}; the golden is {was}"


def _codes(printed: str) -> list[str]:
    return [lane["code"] for lane in json.loads(printed)["words"][0]["lanes"]]


def test_show_of_a_line_without_a_word_has_no_lanes(tmp_path: Path) -> None:
    folder = dump(
        make_capture(), one_memory_layout(ORDER, radix="mif", file="m{it}", array={"row": 4}), tmp_path
    ).folder
    assert cli("show", folder, "m0:5").stdout == f"{folder}/m0:5  CONTENT BEGIN  (header)\n"
    fails(cli("show", folder, "m0:79"), "78 lines; there is no line 79")


def test_show_of_raw_bytes_counts_words(tmp_path: Path) -> None:
    layout = one_memory_layout(ORDER, radix="raw_le", file="m{it}", array={"row": 4})
    folder = dump(make_capture(), layout, tmp_path).folder
    word = (folder / "m0").read_bytes()[2:4][::-1].hex()
    assert cli("show", folder, "m0:2").stdout.startswith(f"{folder}/m0:2  {word}\n")
    fails(cli("show", folder, "m0:73"), "72 words; there is no word 73")


@pytest.mark.parametrize(("radix", "limit"), [("c", 64), ("ihex", 2040), ("srec", 2000)])
def test_word_wider_than_the_format_is_refused(radix: str, limit: int, tmp_path: Path) -> None:
    def layout(lanes: int) -> Layout:
        order = "n (k row) iy ix -> | n k iy ix | row"
        return one_memory_layout(order, "input", radix=radix, array={"row": lanes}, bits=4)

    assert FORMATS[radix].max_word_bits == limit
    capture = make_capture(plane=(1, 1), kernel=(1, 1), padding=(0, 0, 0, 0))
    assert verify(dump(capture, layout(limit // 4), tmp_path / "fits").folder).ok
    with pytest.raises(QexportError) as caught:
        dump(capture, layout(limit // 4 + 1), tmp_path / "wide")
    assert str(caught.value) == (
        f"memory 'm': a word has {limit // 4 + 1} x 4 = {limit + 4} bits, but radix '{radix}' holds {limit} at most; "
        "put fewer lanes into a word or choose another radix"
    )
    assert not (tmp_path / "wide").exists()


def test_files_of_one_memory_have_names_of_their_own_in_c(tmp_path: Path) -> None:
    text = (
        'name = "x"\n[array]\nrow = 4\n[[memory]]\nname = "the weights"\ntensor = "weight"\n'
        f'order = "{ORDER}"\nfile = "w{{it}}.h"\nradix = "c"\n'
    )
    folder = dump(make_capture(), parse_layout(text, "x.toml"), tmp_path).folder
    assert "uint16_t the_weights_it0_mem[72]" in (folder / "w0.h").read_text()
    assert "uint16_t the_weights_it1_mem[72]" in (folder / "w1.h").read_text()
