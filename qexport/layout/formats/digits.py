"""hex, bin and mem: words as digits."""

import math
import re
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.layout.formats.base import NEWLINE, Text, WordSpec, elements_of, header_bytes
from qexport.layout.formats.words import WordLines, column_of_words, text_columns
from qexport.layout.pack import Words, pack


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
        return header_bytes(spec) + self.preamble + text_columns(self.digits(elements, spec), b"\n")

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        lines = WordLines(data, spec, self.preamble)
        count = self._count(spec)
        text = np.frombuffer(lines.text.translate(self.values), np.uint8)
        if len(text) % (count + 1) or (np.frombuffer(lines.text, np.uint8)[count :: count + 1] != NEWLINE).any():
            self._complain(lines, count)
        digits = text.reshape(-1, count + 1)[:, :count]
        if digits.size and digits.max() == 255:
            self._complain(lines, count)
        return lines.ordered(
            elements_of(self._words(digits), spec, lambda n, message: lines.fault(n * (count + 1), message, n))
        )

    def _words(self, digits: NDArray[np.uint8]) -> Words:
        unused = -digits.shape[1] % (8 // self.bits)
        if unused:
            digits = np.pad(digits, ((0, 0), (unused, 0)))
        if self.bits == 1:
            return np.packbits(digits, axis=1)
        words: Words = (digits[:, 0::2] << np.uint8(4)) | digits[:, 1::2]
        return words

    def _complain(self, lines: WordLines, count: int) -> NoReturn:
        """Raises the fault of the first line that is not `count` digits."""
        sound = re.match(rb"(?:[%s]{%d}\n)*+" % (self.alphabet, count), lines.text)
        assert sound is not None  # it matches nothing, too
        at, number = sound.end(), sound.end() // (count + 1)
        line = lines.text[at : lines.text.index(b"\n", at)]
        for column, character in enumerate(line[:count]):
            if self.values[character] == 255:
                what = f"a {self.name} digit" if chr(character).lower() not in "abcdef" else "a lower-case digit"
                raise lines.fault(at + column, f"{chr(character)!r} is not {what}", number)
        raise lines.fault(at + min(len(line), count), f"{len(line)} digits; needs {count}", number)

    def lane_at(self, line: bytes, column: int, spec: WordSpec) -> int:
        unused = self._count(spec) * self.bits - spec.word_bits
        place = len(column_of_words(line, column))
        return min(max(place * self.bits - unused, 0) // spec.element.bits, spec.lanes - 1)

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return WordLines(data, spec, self.preamble).lines()


HEX, BIN = _Digits("hexadecimal", 4), _Digits("binary", 1)
MEM = _Digits("hexadecimal", 4, preamble=b"@00000000\n")
