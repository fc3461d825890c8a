"""What a file format is, and what all texts share."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64, IntFormat
from qexport.layout.pack import Words, unpack, word_bits

Text = NDArray[np.uint8]  # (lines, characters)
NEWLINE = ord("\n")
FAR = 1 << 62  # beyond every address, and still an int64
_SKIPPED = 1 << 16  # words read at once that belong to another memory


@dataclass(frozen=True)
class Style:
    """How the words of a text are set: the keys of a memory, each with its default; those of a format are its own.

    `between` None: what the format puts between lanes. `type`, `style` and `array` are those of a C array.
    """

    between: str | None = None
    per_line: int = 1
    word_between: str = " "
    word_end: str = ""
    case: str = "lower"
    pad: int = 0
    newline: str = "lf"
    group: int = 0
    type: str = ""
    style: str = "hex"
    array: str = ""


PLAIN = Style()


@dataclass(frozen=True)
class WordSpec:
    """What the words of a file are: `lanes` elements each, the first the most significant.

    `header`: literal lines before everything else. `name`: an identifier, where a format needs one. `first`: the number
    of the first of these words in the file, which has `total` of them; None: no more than these.
    `shared`: the file holds several memories; `before`: what each one is that stands before, and how many words it has.
    """

    lanes: int
    element: IntFormat
    header: tuple[str, ...]
    name: str
    style: Style = PLAIN
    first: int = 0
    total: int | None = None
    shared: bool = False
    before: tuple[tuple["WordSpec", int], ...] = ()

    def from_word(self, word: int) -> "WordSpec":
        """The words from this one on, behind the header."""
        return replace(self, header=self.header if word == 0 else (), first=self.first + word)

    @property
    def word_bits(self) -> int:
        return word_bits(self.lanes, self.element)

    @property
    def word_bytes(self) -> int:
        """Whole bytes that hold a word; the unused top bits are zero."""
        return math.ceil(self.word_bits / 8)


class FileFault(Exception):
    """What is wrong with a file; `line` counts from 1, `column` from 0 within the line.

    `word` is the address of the word that is wrong, where it is one, and `lane` in it, where only the reader can tell.
    A file without lines counts its words as lines.
    """

    def __init__(self, line: int, column: int, message: str, word: int | None = None, lane: int | None = None):
        super().__init__(message)
        self.line, self.column, self.word, self.lane = line, column, word, lane


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
    styles: the keys of `Style` that it takes.
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
    styles: tuple[str, ...] = ()

    @property
    def text(self) -> bool:
        """Whether a Verilog task can load it: one word a line after the header and the preamble."""
        return self.digit_bits is not None

    @property
    def streamed(self) -> bool:
        return self.take is not _whole_file

    def words_of(self, data: bytes, spec: WordSpec, words: int) -> Int64:
        """The words of one memory in a whole file, which should be `words`; raises FileFault."""
        if not spec.shared:
            return self.read(data, spec)
        own, lines = self._own(data, spec, words)
        try:
            return self.read(own, spec)
        except FileFault as fault:
            fault.line += lines
            raise

    def lines(self, data: bytes, spec: WordSpec, words: int) -> Int64:
        """The line of each of `words` words, from 1; where the format has no lines the words are counted."""
        return np.arange(1, words + 1) if self.word_lines is None else self.word_lines(data, spec)

    def lines_of(self, data: bytes, spec: WordSpec, words: int) -> Int64:
        """The same of the words of one memory in a whole file."""
        own, lines = self._own(data, spec, words) if spec.shared else (data, 0)
        return lines + self.lines(own, spec, words)

    def _own(self, data: bytes, spec: WordSpec, words: int) -> tuple[bytes, int]:
        """What of a file that several memories share is of one, the rest with the last; lines (or words) before it."""
        file = io.BytesIO(data)
        self.skip(file, spec)
        at = file.tell()
        own = self.take(file, words, spec) if spec.first + words != spec.total else data[at:]
        return own, spec.first if self.word_lines is None else data.count(b"\n", 0, at)

    def skip(self, file: BinaryIO, spec: WordSpec) -> int:
        """Go to a memory's first word in a file that holds others before it; how many lines (or words) they are."""
        lines = 0
        for other, words in spec.before:
            for word in range(0, words, _SKIPPED):
                skipped = self.take(file, min(_SKIPPED, words - word), other.from_word(word))
                lines += min(_SKIPPED, words - word) if self.word_lines is None else skipped.count(b"\n")
        return lines


# --- what all texts share -------------------------------------------------------------------------------------------


def fault_at(data: bytes, at: int, message: str, word: int | None = None, lane: int | None = None) -> FileFault:
    """A fault at an offset of the file."""
    return FileFault(data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at) - 1, message, word, lane)


def header_bytes(spec: WordSpec) -> bytes:
    return "".join(f"{line}\n" for line in spec.header).encode()


def after_header(data: bytes, spec: WordSpec) -> int:
    """The offset after the header lines, which must stand there to the letter, in a text that is sound as such."""
    for byte, message in ((b"\r", "carriage return: save with \\n line ends"), (b"\0", "NUL byte")):
        if byte in data:
            raise fault_at(data, data.index(byte), message)
    at = 0
    for number, line in enumerate(spec.header, start=1):
        expected = line.encode() + b"\n"
        if not data.startswith(expected, at):
            raise FileFault(number, 0, f"header line is not {line!r}")
        at += len(expected)
    if len(data) > at and not data.endswith(b"\n"):
        raise fault_at(data, len(data), "the last line has no line end")
    return at


def blanked(pattern: re.Pattern[bytes], data: bytes) -> bytes:
    """The text with blanks in place of what matches; every other character stays where it is."""
    return pattern.sub(lambda match: re.sub(rb"[^\n]", b" ", match.group()), data)


def lines_of(data: bytes, offsets: Int64) -> Int64:
    """The line, from 1, of each offset."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    return np.searchsorted(ends, offsets).astype(np.int64) + 1


def by_address(addresses: Int64, fault: Callable[[int, str], FileFault]) -> Int64:
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


def elements_of(words: Words, spec: WordSpec, fault: Callable[[int, str], FileFault]) -> Int64:
    """Codes of (words, word_bytes) big-endian bytes; `fault` makes one of a word's address and a message."""
    used = 8 - (spec.word_bytes * 8 - spec.word_bits)
    too_wide = words[:, 0] >> np.uint8(used) if used < 8 else np.zeros(1, np.uint8)
    if too_wide.any():
        raise fault(int(np.argmax(too_wide != 0)), f"word is wider than {spec.word_bits} bits")
    return unpack(words, spec.lanes, spec.element)
