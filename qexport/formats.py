"""Words <-> files: a write/read pair for each format. A reader takes exactly what its writer makes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport.intformat import Int64, IntFormat
from qexport.pack import pack, unpack, word_bits


class FileFault(Exception):
    """What is wrong with a file's text; `line` counts from 1, `column` from 0 within the line."""

    def __init__(self, line: int, column: int, message: str):
        super().__init__(message)
        self.line, self.column = line, column


@dataclass(frozen=True)
class Format:
    """One file format.

    write: (words, lanes) codes -> bytes. read: bytes, lanes, element format, header -> codes; raises FileFault.
    lane_at: column within a word's line, lanes, element format -> lane.
    """

    write: Callable[[Int64, IntFormat, Sequence[str]], bytes]
    read: Callable[[bytes, int, IntFormat, Sequence[str]], Int64]
    lane_at: Callable[[bytes, int, int, IntFormat], int]


def _header(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _after_header(data: bytes, header: Sequence[str]) -> bytes:
    """The bytes after the header lines, which must stand there to the letter."""
    for number, line in enumerate(header, start=1):
        expected = line.encode() + b"\n"
        if not data.startswith(expected):
            raise FileFault(number, 0, f"header line is not {line!r}")
        data = data[len(expected) :]
    if data and not data.endswith(b"\n"):
        last = data.count(b"\n") + 1
        raise FileFault(len(header) + last, len(data.rsplit(b"\n", 1)[-1]), "the last line has no line end")
    return data


class _Digits:
    """hex (4 bits a digit) and bin (1 bit a digit): ceil(word_bits / bits a digit) digits, one word a line."""

    def __init__(self, name: str, bits: int):
        self.name = name
        self.bits = bits
        self.alphabet = np.frombuffer(b"0123456789abcdef"[: 1 << bits], np.uint8)
        self.values = np.full(256, -1, np.int8)
        self.values[self.alphabet] = np.arange(1 << bits)

    def _count(self, lanes: int, fmt: IntFormat) -> int:
        return math.ceil(word_bits(lanes, fmt) / self.bits)

    def write(self, elements: Int64, fmt: IntFormat, header: Sequence[str]) -> bytes:
        words = pack(elements, fmt)
        if self.bits == 4:
            digits = np.stack((words >> np.uint8(4), words & np.uint8(15)), axis=2).reshape(len(words), -1)
        else:
            digits = np.unpackbits(words, axis=1)
        count = self._count(elements.shape[1], fmt)
        text = np.empty((len(words), count + 1), np.uint8)
        text[:, :count] = self.alphabet[digits[:, digits.shape[1] - count :]]
        text[:, count] = ord("\n")
        return _header(header) + text.tobytes()

    def read(self, data: bytes, lanes: int, fmt: IntFormat, header: Sequence[str]) -> Int64:
        body = _after_header(data, header)
        count = self._count(lanes, fmt)
        text = np.frombuffer(body, np.uint8)
        if len(text) % (count + 1) or (text[count :: count + 1] != ord("\n")).any():
            self._complain(body, len(header), count)
        text = text.reshape(-1, count + 1)[:, :count]
        digits = self.values[text]
        if (digits < 0).any():
            self._complain(body, len(header), count)
        unused = count * self.bits - word_bits(lanes, fmt)
        too_wide = digits[:, 0] >> (self.bits - unused)
        if too_wide.any():
            line = int(np.argmax(too_wide != 0))
            raise FileFault(len(header) + line + 1, 0, f"word is wider than {word_bits(lanes, fmt)} bits")
        return unpack(self._words(digits.astype(np.uint8)), lanes, fmt)

    def _words(self, digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        unused = -digits.shape[1] % (8 // self.bits)
        digits = np.pad(digits, ((0, 0), (unused, 0)))
        if self.bits == 1:
            return np.packbits(digits, axis=1)
        words: NDArray[np.uint8] = (digits[:, 0::2] << np.uint8(4)) | digits[:, 1::2]
        return words

    def _complain(self, body: bytes, skipped: int, count: int) -> None:
        for number, line in enumerate(body.split(b"\n")[:-1], start=skipped + 1):
            for column, character in enumerate(line[:count]):
                if self.values[character] < 0:
                    raise FileFault(number, column, f"'{chr(character)}' is no {self.name} digit")
            if len(line) != count:
                raise FileFault(number, min(len(line), count), f"{len(line)} digits; needs {count}")

    def lane_at(self, line: bytes, column: int, lanes: int, fmt: IntFormat) -> int:
        unused = self._count(lanes, fmt) * self.bits - word_bits(lanes, fmt)
        return min(max(column * self.bits - unused, 0) // fmt.bits, lanes - 1)


def _write_dec(elements: Int64, fmt: IntFormat, header: Sequence[str]) -> bytes:
    return _header(header) + b"".join(b" ".join(b"%d" % code for code in word) + b"\n" for word in elements.tolist())


def _read_dec(data: bytes, lanes: int, fmt: IntFormat, header: Sequence[str]) -> Int64:
    lines = _after_header(data, header).split(b"\n")[:-1]
    out = np.empty((len(lines), lanes), np.int64)
    for row, line in enumerate(lines):
        column = 0
        words = line.split(b" ")
        for lane, word in enumerate(words[:lanes]):
            digits = word.removeprefix(b"-")
            if not digits.isdigit() or digits[:1] == b"0" != word:
                raise FileFault(
                    len(header) + row + 1, column, f"'{word.decode(errors='replace')}' is no decimal number"
                )
            code = int(word[:21])  # 21 characters are beyond every format already
            if not fmt.holds(code, code):
                raise FileFault(len(header) + row + 1, column, f"{code} is outside {fmt.low}..{fmt.high}")
            out[row, lane] = code
            column += len(word) + 1
        if len(words) != lanes:
            raise FileFault(len(header) + row + 1, min(column, len(line)), f"{len(words)} numbers; needs {lanes}")
    return out


def _dec_lane_at(line: bytes, column: int, lanes: int, fmt: IntFormat) -> int:
    return min(line[:column].count(b" "), lanes - 1)


_HEX, _BIN = _Digits("hexadecimal", 4), _Digits("binary", 1)

FORMATS: dict[str, Format] = {
    "hex": Format(_HEX.write, _HEX.read, _HEX.lane_at),
    "bin": Format(_BIN.write, _BIN.read, _BIN.lane_at),
    "dec": Format(_write_dec, _read_dec, _dec_lane_at),
}
