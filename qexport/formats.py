"""Words <-> files: a write/read pair and a registry line for each format.

A writer gives the same bytes for the same words. A reader gives the words back, or a FileFault that names the place.
Readers of Verilog's texts (hex, bin, dec, mem) also take what people and other tools put there: comments, address
lines, `_` between digits; a plain file never leaves numpy. Upper-case digits stay refused: they are one flipped bit
away from lower-case ones, and a flipped bit is to be found in its place.
"""

import io
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from qexport.errors import QexportError
from qexport.intformat import Int64, IntFormat
from qexport.pack import Words, pack, unpack, word_bits

Text = NDArray[np.uint8]  # (lines, characters)
NEWLINE = ord("\n")
FAR = 1 << 62  # beyond every address, and still an int64


@dataclass(frozen=True)
class WordSpec:
    """What the words of a file are: `lanes` elements each, the first the most significant.

    `header`: literal lines before everything else. `name`: an identifier, where a format needs one.
    """

    lanes: int
    element: IntFormat
    header: tuple[str, ...]
    name: str

    @property
    def word_bits(self) -> int:
        return word_bits(self.lanes, self.element)

    @property
    def word_bytes(self) -> int:
        """Whole bytes that hold a word; the unused top bits are zero."""
        return math.ceil(self.word_bits / 8)


class FileFault(Exception):
    """What is wrong with a file; `line` counts from 1, `column` from 0 within the line.

    `word` is the address of the word that is wrong, where it is one. A file without lines counts its words as lines.
    """

    def __init__(self, line: int, column: int, message: str, word: int | None = None):
        super().__init__(message)
        self.line, self.column, self.word = line, column, word


def _whole_file(file: BinaryIO, words: int, spec: WordSpec) -> bytes:
    return file.read()


@dataclass(frozen=True)
class Format:
    """One file format.

    write: (words, lanes) codes to a file's bytes; raises QexportError for more words than the format can address.
    read: the bytes back to codes; raises FileFault.
    loaded_by: what reads such a file, for people.
    comment: what a header line begins with; None where the format has no place for a header.
    digit_bits: for a text of one word a line that a Verilog task can load, bits of a digit, 0 for decimals.
    preamble: the lines of such a text between its header and its first word.
    max_word_bits: the widest word, where the format has a limit.
    lane_at: line, column within it -> lane, for the faults of such a text.
    word_lines: bytes -> the line of each word, from 1, for every format of lines.
    take: reads the bytes of the next words from an open file, the header with the first. A format is *streamed* when
    the file of many words is the header and then the bytes of the words' chunks; of others `take` reads the whole file.
    """

    write: Callable[[Int64, WordSpec], bytes]
    read: Callable[[bytes, WordSpec], Int64]
    loaded_by: str
    comment: str | None = None
    digit_bits: int | None = None
    preamble: int = 0
    max_word_bits: int | None = None
    lane_at: Callable[[bytes, int, WordSpec], int] | None = None
    word_lines: Callable[[bytes, WordSpec], Int64] | None = None
    take: Callable[[BinaryIO, int, WordSpec], bytes] = _whole_file

    @property
    def text(self) -> bool:
        """Whether a Verilog task can load it: one word a line after the header and the preamble."""
        return self.digit_bits is not None

    @property
    def streamed(self) -> bool:
        return self.take is not _whole_file

    def lines(self, data: bytes, spec: WordSpec, words: int) -> Int64:
        """The line of each of `words` words, from 1; where the format has no lines the words are counted."""
        return np.arange(1, words + 1) if self.word_lines is None else self.word_lines(data, spec)


# --- what all texts share -------------------------------------------------------------------------------------------


def _fault(data: bytes, at: int, message: str, word: int | None = None) -> FileFault:
    """A fault at an offset of the file."""
    return FileFault(data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at) - 1, message, word)


def _header(spec: WordSpec) -> bytes:
    return "".join(f"{line}\n" for line in spec.header).encode()


def _after_header(data: bytes, spec: WordSpec) -> int:
    """The offset after the header lines, which must stand there to the letter, in a text that is sound as such."""
    for byte, message in ((b"\r", "carriage return: save with \\n line ends"), (b"\0", "NUL byte")):
        if byte in data:
            raise _fault(data, data.index(byte), message)
    at = 0
    for number, line in enumerate(spec.header, start=1):
        expected = line.encode() + b"\n"
        if not data.startswith(expected, at):
            raise FileFault(number, 0, f"header line is not {line!r}")
        at += len(expected)
    if len(data) > at and not data.endswith(b"\n"):
        raise _fault(data, len(data), "the last line has no line end")
    return at


def _blanked(pattern: re.Pattern[bytes], data: bytes) -> bytes:
    """The text with blanks in place of what matches; every other character stays where it is."""
    return pattern.sub(lambda match: re.sub(rb"[^\n]", b" ", match.group()), data)


def _lines_of(data: bytes, offsets: Int64) -> Int64:
    """The line, from 1, of each offset."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    return np.searchsorted(ends, offsets).astype(np.int64) + 1


def _by_address(addresses: Int64, fault: Callable[[int, str], FileFault]) -> Int64:
    """The numbers of the words in the order of their addresses, each of which must stand there exactly once.

    `fault` makes one of a word's number and a message.
    """
    numbers = np.argsort(addresses, kind="stable")
    wrong = np.flatnonzero(addresses[numbers] != np.arange(len(numbers)))
    if len(wrong):
        due, number = int(wrong[0]), int(numbers[wrong[0]])
        address = int(addresses[number])
        if address < due:
            raise fault(number, f"address {address:x} (hexadecimal) is given twice")
        raise fault(number, f"address {due:x} (hexadecimal) is given nowhere; the next is {address:x}")
    return numbers


def _elements(words: Words, spec: WordSpec, fault: Callable[[int, str], FileFault]) -> Int64:
    """Codes of (words, word_bytes) big-endian bytes; `fault` makes one of a word's address and a message."""
    used = 8 - (spec.word_bytes * 8 - spec.word_bits)
    too_wide = words[:, 0] >> np.uint8(used) if used < 8 else np.zeros(1, np.uint8)
    if too_wide.any():
        raise fault(int(np.argmax(too_wide != 0)), f"word is wider than {spec.word_bits} bits")
    return unpack(words, spec.lanes, spec.element)


# --- hex, bin, dec, mem: one word a line, as Verilog reads them -------------------------------------------------------

_COMMENTS = rb"(?:[ \t]*(?://[^\n]*|/\*.*?\*/))+[ \t]*"  # with the blanks around them
_TAKEN_OUT = re.compile(rb"(?s)(?P<kept>@[^\s/]*)|" + _COMMENTS + rb"|(?<=\w)_")  # no `_` in an address: Icarus
_ADDRESS_LINE = re.compile(rb"(?m)^@(.*)\n")


class _WordLines:
    """The lines of words of a text, plain: comments, address lines and `_` are taken out.

    `text` holds the lines, `addresses` the address of each, None where they stand in their order.
    """

    def __init__(self, data: bytes, spec: WordSpec, preamble: bytes = b""):
        """Raises FileFault for a wrong header and for addresses that are no addresses or not 0 to the last word."""
        self.data = data
        self.addresses: Int64 | None = None
        self._places: Int64 | None = None  # the offset in the file of each character of `text`
        start = len(_header(spec))
        self.start = start + len(preamble) if data.startswith(preamble, start) else start
        plain = all(data.find(mark, self.start) < 0 for mark in (b"/", b"@", b"_"))
        try:
            _after_header(data, spec)
        except FileFault as fault:
            skipped = len(spec.header) + preamble.count(b"\n")
            if plain and fault.line > skipped:
                fault.word = fault.line - skipped - 1
            raise
        if plain:
            self.text = data[self.start :]
            return
        characters = np.frombuffer(data, np.uint8).copy()
        keep = np.ones(len(data), bool)
        keep[:start] = False
        for match in _TAKEN_OUT.finditer(data, start):
            begin, end = match.span()
            if match["kept"]:
                continue
            keep[begin:end] = False
            if data[begin] == ord("_"):
                continue
            opens, closes = begin == start or data[begin - 1] == NEWLINE, data[end] == NEWLINE
            if opens and closes:  # nothing else in these lines
                keep[end] = False
            elif not opens and not closes:  # what it parts stays parted
                keep[begin], characters[begin] = True, NEWLINE if b"\n" in match.group() else ord(" ")
        self._places = np.flatnonzero(keep)
        self.text = characters[keep].tobytes()
        if b"/*" in self.text:
            raise self._fault(self.text.index(b"/*"), "comment is not closed")
        if b"@" in self.text:
            self._take_addresses()

    def _take_addresses(self) -> None:
        runs: list[Int64] = []
        keep = np.ones(len(self.text), bool)
        address = at = 0
        for match in _ADDRESS_LINE.finditer(self.text):
            words = self.text.count(b"\n", at, match.start())
            runs.append(np.arange(address, address + words))
            if not re.fullmatch(rb"[0-9a-fA-F]+", match[1]):
                text = match[1].decode(errors="replace")
                raise self._fault(match.start(), f"'@{text}' is no hexadecimal address")
            address, at = min(int(match[1], 16), FAR), match.end()
            keep[match.start() : at] = False
        runs.append(np.arange(address, address + self.text.count(b"\n", at)))
        assert self._places is not None
        self._places = self._places[keep]
        self.text = np.frombuffer(self.text, np.uint8)[keep].tobytes()
        addresses = np.concatenate(runs)
        starts = self._starts()
        _by_address(addresses, lambda number, message: self._fault(int(starts[number]), message))
        self.addresses = addresses

    def _starts(self) -> Int64:
        """Where in `text` each line begins."""
        ends = np.flatnonzero(np.frombuffer(self.text, np.uint8) == NEWLINE)
        return np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))[: len(ends)]

    def _fault(self, at: int, message: str, word: int | None = None) -> FileFault:
        if self._places is None:
            return _fault(self.data, self.start + at, message, word)
        if at and self.text[at] == NEWLINE != self.text[at - 1]:  # the end of a word, not of the comment after it
            return _fault(self.data, int(self._places[at - 1]) + 1, message, word)
        return _fault(self.data, int(self._places[at]), message, word)

    def fault(self, at: int, message: str, number: int) -> FileFault:
        """A fault at an offset of `text`, in the line of this number."""
        return self._fault(at, message, number if self.addresses is None else int(self.addresses[number]))

    def ordered(self, rows: Int64) -> Int64:
        """What belongs to the lines (the first axis), by address."""
        if self.addresses is None:
            return rows
        out = np.empty_like(rows)
        out[self.addresses] = rows
        return out

    def lines(self) -> Int64:
        """The line in the file, from 1, of each word, by address."""
        starts = self._starts()
        return self.ordered(_lines_of(self.data, starts + self.start if self._places is None else self._places[starts]))


def _column_of_words(line: bytes, column: int) -> bytes:
    """What of a line stands before a column, less comments and `_`."""
    return _TAKEN_OUT.sub(lambda match: b"" if match.group() == b"_" else b" ", line[:column]).lstrip(b" ")


def _take_lines(file: BinaryIO, words: int, spec: WordSpec) -> bytes:
    return b"".join(islice(file, len(spec.header) + words))


class _Digits:
    """hex (4 bits a digit) and bin (1 bit a digit): ceil(word_bits / bits a digit) digits, one word a line.

    `preamble`: lines between the header and the words.
    """

    def __init__(self, name: str, bits: int, preamble: bytes = b""):
        self.name = name
        self.bits = bits
        self.preamble = preamble
        self.alphabet = b"0123456789abcdef"[: 1 << bits]
        self.values = bytes(self.alphabet.find(digit) % 256 for digit in range(256))  # 255: none

    def _count(self, spec: WordSpec) -> int:
        return math.ceil(spec.word_bits / self.bits)

    def digits(self, elements: Int64, spec: WordSpec) -> Text:
        """The digits of each word: (words, digits) characters."""
        words = pack(elements, spec.element)
        if self.bits == 4:
            text = np.frombuffer(words.tobytes().hex().encode(), np.uint8).reshape(len(words), 2 * words.shape[1])
        else:
            text = np.unpackbits(words, axis=1) + np.uint8(ord("0"))
        return text[:, text.shape[1] - self._count(spec) :]

    def write(self, elements: Int64, spec: WordSpec) -> bytes:
        return _header(spec) + self.preamble + _columns(self.digits(elements, spec), b"\n")

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        lines = _WordLines(data, spec, self.preamble)
        count = self._count(spec)
        text = np.frombuffer(lines.text.translate(self.values), np.uint8)
        if len(text) % (count + 1) or (np.frombuffer(lines.text, np.uint8)[count :: count + 1] != NEWLINE).any():
            self._complain(lines, count)
        digits = text.reshape(-1, count + 1)[:, :count]
        if digits.size and digits.max() == 255:
            self._complain(lines, count)
        return lines.ordered(
            _elements(self._words(digits), spec, lambda n, message: lines.fault(n * (count + 1), message, n))
        )

    def _words(self, digits: NDArray[np.uint8]) -> Words:
        unused = -digits.shape[1] % (8 // self.bits)
        if unused:
            digits = np.pad(digits, ((0, 0), (unused, 0)))
        if self.bits == 1:
            return np.packbits(digits, axis=1)
        words: Words = (digits[:, 0::2] << np.uint8(4)) | digits[:, 1::2]
        return words

    def _complain(self, lines: _WordLines, count: int) -> NoReturn:
        """Raises the fault of the first line that is not `count` digits."""
        sound = re.match(rb"(?:[%s]{%d}\n)*+" % (self.alphabet, count), lines.text)
        assert sound is not None  # it matches nothing, too
        at, number = sound.end(), sound.end() // (count + 1)
        line = lines.text[at : lines.text.index(b"\n", at)]
        for column, character in enumerate(line[:count]):
            if self.values[character] == 255:
                what = f"no {self.name} digit" if chr(character).lower() not in "abcdef" else "no lower-case digit"
                raise lines.fault(at + column, f"{chr(character)!r} is {what}", number)
        raise lines.fault(at + min(len(line), count), f"{len(line)} digits; needs {count}", number)

    def lane_at(self, line: bytes, column: int, spec: WordSpec) -> int:
        unused = self._count(spec) * self.bits - spec.word_bits
        place = len(_column_of_words(line, column))
        return min(max(place * self.bits - unused, 0) // spec.element.bits, spec.lanes - 1)

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return _WordLines(data, spec, self.preamble).lines()


def _columns(*parts: Text | bytes) -> bytes:
    """Lines of equal length, put together from columns: (lines, characters), or the same text in every line."""
    lines = next(len(part) for part in parts if not isinstance(part, bytes))
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    text = np.empty((lines, sum(widths)), np.uint8)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        text[:, at : at + width] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        at += width
    return text.tobytes()


def _decimals(elements: Int64) -> bytes:
    return b"".join(b" ".join([b"%d" % code for code in word]) + b"\n" for word in elements.tolist())


def _write_dec(elements: Int64, spec: WordSpec) -> bytes:
    return _header(spec) + _decimals(elements)


def _read_dec(data: bytes, spec: WordSpec) -> Int64:
    lines = _WordLines(data, spec)
    try:
        codes = np.array(list(map(int, lines.text.split())), np.int64).reshape(-1, spec.lanes)
    except (ValueError, OverflowError):
        _complain_dec(lines, spec)
    fits = not codes.size or spec.element.holds(int(codes.min()), int(codes.max()))
    if not fits or _decimals(codes) != lines.text:  # int() takes more than we write, such as +1 and 007
        _complain_dec(lines, spec)
    return lines.ordered(codes)


def _complain_dec(lines: _WordLines, spec: WordSpec) -> NoReturn:
    """Raises the fault of the first line that is not one number for each lane."""
    at = 0
    for number, line in enumerate(lines.text.split(b"\n")[:-1]):
        column = 0
        parts = line.split(b" ")
        for part in parts[: spec.lanes]:
            digits = part.removeprefix(b"-")
            if not digits.isdigit() or digits[:1] == b"0" != part:
                text = part.decode(errors="replace")
                raise lines.fault(at + column, f"{text!r} is no decimal number", number)
            code = int(part[:21])  # 21 characters are beyond every format already
            if not spec.element.holds(code, code):
                message = f"{code} is outside {spec.element.low}..{spec.element.high}"
                raise lines.fault(at + column, message, number)
            column += len(part) + 1
        if len(parts) != spec.lanes:
            raise lines.fault(at + min(column, len(line)), f"{len(parts)} numbers; needs {spec.lanes}", number)
        at += len(line) + 1
    raise AssertionError("every line is sound")


def _dec_lane_at(line: bytes, column: int, spec: WordSpec) -> int:
    return min(_column_of_words(line, column).count(b" "), spec.lanes - 1)


def _dec_word_lines(data: bytes, spec: WordSpec) -> Int64:
    return _WordLines(data, spec).lines()


_HEX, _BIN = _Digits("hexadecimal", 4), _Digits("binary", 1)
_MEM = _Digits("hexadecimal", 4, preamble=b"@00000000\n")


# --- COE, MIF, C: hexadecimal words between an opening and an end -----------------------------------------------------


@dataclass(frozen=True)
class _Listing:
    """A text of items: words, some with their address; the words after it follow each other.

    opening, item and end are patterns: an item has the group `word` and may have `address`, the opening may have
    `words`, their number. `needs` says in words what the opening demands.
    """

    comments: re.Pattern[bytes]
    opening: Callable[[WordSpec], bytes]
    item: re.Pattern[bytes]
    end: re.Pattern[bytes]
    needs: Callable[[WordSpec], str]

    def _parse(self, data: bytes, spec: WordSpec) -> tuple[list[int], list[int]]:
        """Value and offset of each word, by address."""
        start = _after_header(data, spec)
        text = data[:start] + _blanked(self.comments, data[start:])
        opening = re.compile(self.opening(spec)).match(text, start)
        if opening is None:
            raise _fault(data, start, f"does not begin with {self.needs(spec)}")
        values: list[int] = []
        places: list[int] = []
        addresses: list[int] = []
        at, address = opening.end(), 0
        while not self.end.match(text, at):
            item = self.item.match(text, at)
            if item is None:
                blanks = re.compile(rb"\s*").match(text, at)
                assert blanks is not None
                raise _fault(data, blanks.end(), "neither a word nor the end of the file", len(values))
            if item.groupdict().get("address"):
                address = min(self._number(data, item, "address", "an address", address), FAR)
            value = self._number(data, item, "word", "a word", address)
            if value.bit_length() > spec.word_bits:
                raise _fault(data, item.start("word"), f"word is wider than {spec.word_bits} bits", address)
            values.append(value)
            places.append(item.start("word"))
            addresses.append(address)
            at, address = item.end(), address + 1
        given = opening.groupdict().get("words")
        if given is not None and given != b"%d" % len(values):
            place = opening.start("words")
            raise _fault(data, place, f"{given.decode()} words are promised; there are {len(values)}")
        numbers = _by_address(np.array(addresses, np.int64), lambda n, message: _fault(data, places[n], message))
        return [values[n] for n in numbers], [places[n] for n in numbers]

    @staticmethod
    def _number(data: bytes, item: re.Match[bytes], group: str, what: str, address: int) -> int:
        if not re.fullmatch(rb"[0-9a-fA-F]+", item[group]):
            text = item[group].decode(errors="replace")
            raise _fault(data, item.start(group), f"{text!r} is not {what} in hexadecimal digits", address)
        return int(item[group], 16)

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        values, _ = self._parse(data, spec)
        octets = b"".join(value.to_bytes(spec.word_bytes, "big") for value in values)
        return unpack(np.frombuffer(octets, np.uint8).reshape(-1, spec.word_bytes), spec.lanes, spec.element)

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return _lines_of(data, np.array(self._parse(data, spec)[1], np.int64))


def _write_coe(elements: Int64, spec: WordSpec) -> bytes:
    opening = b"memory_initialization_radix=16;\nmemory_initialization_vector=\n"
    return _header(spec) + opening + _columns(_HEX.digits(elements, spec), b",\n")[:-2] + b";\n"


_COE = _Listing(
    comments=re.compile(rb"(?m)^[ \t]*;[^\n]*"),
    opening=lambda spec: rb"(?i)\s*memory_initialization_radix\s*=\s*16\s*;\s*memory_initialization_vector\s*=",
    item=re.compile(rb"\s*(?P<word>[^\s,;]+)\s*,?"),
    end=re.compile(rb"\s*;\s*\Z"),
    needs=lambda spec: "memory_initialization_radix=16; memory_initialization_vector=",
)


def _write_mif(elements: Int64, spec: WordSpec) -> bytes:
    words = len(elements)
    address = IntFormat(4 * max(math.ceil((words - 1).bit_length() / 4), 1), False)
    addresses = _HEX.digits(np.arange(words).reshape(-1, 1), WordSpec(1, address, (), ""))
    opening = f"WIDTH={spec.word_bits};\nDEPTH={words};\nADDRESS_RADIX=HEX;\nDATA_RADIX=HEX;\nCONTENT BEGIN\n"
    content = _columns(addresses, b" : ", _HEX.digits(elements, spec), b";\n")
    return _header(spec) + opening.encode() + content + b"END;\n"


_MIF = _Listing(
    comments=re.compile(rb"--[^\n]*|%[^%]*%"),
    opening=lambda spec: (
        rb"(?is)(?=.*?\bWIDTH\s*=\s*%d\s*;)(?=.*?\bDEPTH\s*=\s*(?P<words>\d+)\s*;)" % spec.word_bits
        + rb"(?=.*?\bADDRESS_RADIX\s*=\s*HEX\s*;)(?=.*?\bDATA_RADIX\s*=\s*HEX\s*;)[\w\s=;]*?\bCONTENT\s+BEGIN\b"
    ),
    item=re.compile(rb"\s*(?:(?P<address>[^\s:;]+)\s*:)?\s*(?P<word>[^\s:;]+)\s*;?"),
    end=re.compile(rb"(?i)\s*END\s*;\s*\Z"),
    needs=lambda spec: f"WIDTH={spec.word_bits}; DEPTH=...; ADDRESS_RADIX=HEX; DATA_RADIX=HEX; CONTENT BEGIN",
)


C_BITS = (8, 16, 32, 64)


def _c_array(spec: WordSpec) -> tuple[str, str]:
    """Type and name of the array; the Verilog stub gives its memories the same names."""
    return f"uint{next(bits for bits in C_BITS if bits >= spec.word_bits)}_t", f"{spec.name}_mem"


def _write_c(elements: Int64, spec: WordSpec) -> bytes:
    kind, name = _c_array(spec)
    guard = f"{name.upper()}_H"
    opening = f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
    opening += f"static const {kind} {name}[{len(elements)}] = {{\n"
    words = _columns(b"    0x", _HEX.digits(elements, spec), b",\n")
    return _header(spec) + opening.encode() + words + b"};\n\n#endif\n"


_C = _Listing(
    comments=re.compile(rb"(?s)//[^\n]*|/\*.*?\*/"),
    opening=lambda spec: (
        rb"[^{]*?\bstatic\s+const\s+%s\s+%s\[(?P<words>\d+)\]\s*=\s*\{"
        % tuple(re.escape(part).encode() for part in _c_array(spec))
    ),
    item=re.compile(rb"\s*0x(?P<word>[^\s,}]+)\s*,?"),
    end=re.compile(rb"\s*\}\s*;\s*#endif\s*\Z"),
    needs=lambda spec: "static const {} {}[...] = {{".format(*_c_array(spec)),
)


# --- Intel HEX and Motorola S-record: one word a record, big-endian, at the address of its first byte -----------------

IHEX_DATA, IHEX_END = 0, 1
IHEX_BASE = {2: 4, 4: 16}  # record types that give a base address, and by how much to shift it
SREC_DATA, SREC_COUNT = "123", "56"


def _write_records(elements: Int64, spec: WordSpec, radix: str) -> bytes:
    import bincopy  # here, because it takes long to load and few layouts need it

    file = bincopy.BinFile()
    file.add_binary(pack(elements, spec.element).tobytes())
    try:
        if radix == "ihex":
            return str(file.as_ihex(spec.word_bytes)).encode()
        file.header = spec.name
        file.execution_start_address = 0  # readers look for the record that ends the file
        return str(file.as_srec(spec.word_bytes)).encode()
    except bincopy.Error as error:
        raise QexportError(f"radix '{radix}': {len(elements)} words: {error}; choose another radix") from None


def _read_records(data: bytes, spec: WordSpec, radix: str) -> tuple[Words, Int64]:
    """(words, word_bytes) and the offset of the record of each word."""
    import bincopy

    unpack_record = {"ihex": bincopy.unpack_ihex, "srec": bincopy.unpack_srec}[radix]
    pieces: list[tuple[int, int, bytes]] = []  # address, offset of the record, its bytes
    base, kind = 0, None
    for line in re.finditer(rb"\S[^\n]*", data):
        at = line.start()
        try:
            kind, address, _, payload = unpack_record(line.group().decode("ascii").rstrip())
        except (bincopy.Error, ValueError, IndexError) as error:
            raise _fault(data, at, f"no sound record: {error}") from None
        if kind == IHEX_DATA or kind in tuple(SREC_DATA):
            pieces.append((base + address, at, bytes(payload)))
        elif kind in IHEX_BASE:
            base = int.from_bytes(payload, "big") << IHEX_BASE[kind]
        elif kind in tuple(SREC_COUNT) and address != len(pieces):
            raise _fault(data, at, f"{address} data records are promised; there are {len(pieces)}")
    if radix == "ihex" and kind != IHEX_END:
        raise _fault(data, len(data), "the last record is no end-of-file record")
    pieces.sort()
    due = 0
    for address, at, payload in pieces:
        if address != due:
            message = "is given nowhere" if address > due else "is not where a record goes on"
            raise _fault(data, at, f"byte address {due:x} (hexadecimal) {message}; this record has {address:x}")
        due += len(payload)
    if due % spec.word_bytes:
        raise _fault(data, len(data), f"{due} bytes; needs {spec.word_bytes} for each word")
    words = np.frombuffer(b"".join(payload for *_, payload in pieces), np.uint8).reshape(-1, spec.word_bytes)
    addresses, places = (np.array([piece[i] for piece in pieces], np.int64) for i in range(2))
    record = np.searchsorted(addresses, np.arange(len(words)) * spec.word_bytes, side="right") - 1
    return words, places[record]


class _Records:
    """ihex and srec."""

    def __init__(self, radix: str):
        self.radix = radix

    def write(self, elements: Int64, spec: WordSpec) -> bytes:
        return _write_records(elements, spec, self.radix)

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        words, places = _read_records(data, spec, self.radix)
        return _elements(words, spec, lambda n, message: _fault(data, int(places[n]), message, n))

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return _lines_of(data, _read_records(data, spec, self.radix)[1])


# --- without lines: raw bytes and NumPy ------------------------------------------------------------------------------


class _Raw:
    """raw_be and raw_le: the bytes of each word, from the most (`step` 1) or the least (-1) significant one."""

    def __init__(self, step: int):
        self.step = step

    def write(self, elements: Int64, spec: WordSpec) -> bytes:
        return pack(elements, spec.element)[:, :: self.step].tobytes()

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        size = spec.word_bytes
        words, rest = divmod(len(data), size)
        if rest:
            raise FileFault(words + 1, 0, f"{len(data)} bytes; needs {size} for each word", words)
        octets = np.frombuffer(data, np.uint8).reshape(-1, size)[:, :: self.step]

        def fault(word: int, message: str) -> FileFault:
            return FileFault(word + 1, 0, f"word {word} (byte {word * size}): {message}", word)

        return _elements(octets, spec, fault)


def _take_raw(file: BinaryIO, words: int, spec: WordSpec) -> bytes:
    return file.read(words * spec.word_bytes)


def _npz_arrays(elements: Int64, spec: WordSpec) -> dict[str, NDArray[Any]]:
    octets = next(octets for octets in (1, 2, 4, 8) if 8 * octets >= spec.element.bits)
    kind = f"<{'i' if spec.element.signed else 'u'}{octets}"
    return {
        "elements": elements.astype(kind, order="C"),
        "bits": np.array(spec.element.bits, "<i8"),
        "signed": np.array(spec.element.signed),
    }


def _write_npz(elements: Int64, spec: WordSpec) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in _npz_arrays(elements, spec).items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # numpy.savez leaves the date to zipfile
            member.create_system = 3  # else that of the machine
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return file.getvalue()


def _read_npz(data: bytes, spec: WordSpec) -> Int64:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile and numpy raise a dozen kinds for a damaged file
        raise FileFault(1, 0, f"no readable .npz file: {error}") from None
    for name, like in _npz_arrays(np.zeros((0, spec.lanes), np.int64), spec).items():
        array = arrays.get(name)
        if array is None or array.ndim != like.ndim or array.shape[1:] != like.shape[1:] or array.dtype != like.dtype:
            raise FileFault(1, 0, f"array '{name}' is missing or is not (words, {spec.lanes}) of {like.dtype}")
        if not like.ndim and array != like:
            raise FileFault(1, 0, f"array '{name}' holds {array}; needs {like}")
    elements: Int64 = arrays["elements"].astype(np.int64)
    outside = (elements < spec.element.low) | (elements > spec.element.high)
    if outside.any():
        word, lane = (int(i) for i in np.argwhere(outside)[0])
        message = f"word {word}: {elements[word, lane]} is outside {spec.element.low}..{spec.element.high}"
        raise FileFault(word + 1, 0, message, word)
    return elements


_RAW_BE, _RAW_LE = _Raw(1), _Raw(-1)
_IHEX, _SREC = _Records("ihex"), _Records("srec")

FORMATS: dict[str, Format] = {
    "hex": Format(
        _HEX.write, _HEX.read, "$readmemh", comment="", digit_bits=4, lane_at=_HEX.lane_at,
        word_lines=_HEX.word_lines, take=_take_lines,
    ),
    "bin": Format(
        _BIN.write, _BIN.read, "$readmemb", comment="", digit_bits=1, lane_at=_BIN.lane_at,
        word_lines=_BIN.word_lines, take=_take_lines,
    ),
    "dec": Format(
        _write_dec, _read_dec, "$fscanf", comment="", digit_bits=0, lane_at=_dec_lane_at,
        word_lines=_dec_word_lines, take=_take_lines,
    ),
    "mem": Format(
        _MEM.write, _MEM.read, "Vivado and $readmemh", comment="//", digit_bits=4, preamble=1, lane_at=_MEM.lane_at,
        word_lines=_MEM.word_lines,
    ),
    "raw_be": Format(_RAW_BE.write, _RAW_BE.read, "$fread and numpy.fromfile", take=_take_raw),
    "raw_le": Format(_RAW_LE.write, _RAW_LE.read, "C's fread and numpy.fromfile", take=_take_raw),
    "coe": Format(_write_coe, _COE.read, "Vivado's memory generators", comment=";", word_lines=_COE.word_lines),
    "mif": Format(_write_mif, _MIF.read, "Quartus", comment="--", word_lines=_MIF.word_lines),
    "ihex": Format(
        _IHEX.write, _IHEX.read, "programmers and objcopy", max_word_bits=8 * 255, word_lines=_IHEX.word_lines,
    ),
    "srec": Format(
        _SREC.write, _SREC.read, "programmers and boot loaders", max_word_bits=8 * 250, word_lines=_SREC.word_lines,
    ),
    "c": Format(_write_c, _C.read, "a C compiler", comment="//", max_word_bits=max(C_BITS), word_lines=_C.word_lines),
    "npz": Format(_write_npz, _read_npz, "numpy.load"),
}  # fmt: skip
