"""hex, bin and dec in another style than one plain word a line; exactly what is written is read again."""

import re
from dataclasses import replace
from itertools import chain, count, islice
from typing import BinaryIO, NoReturn

import numpy as np

from qexport.core.intformat import Int64
from qexport.layout.formats.base import FileFault, WordSpec, fault_at
from qexport.layout.formats.digits import _Digits
from qexport.layout.pack import unpack


class Styled:
    """Words of `digits`, or of decimals where that is None.

    A text is the header, then each word with its tail: `word_end`, then what parts it from the next one.
    """

    def __init__(self, digits: _Digits | None):
        self._digits = digits
        self._token = re.compile(rb"-?[0-9A-Za-z]+")  # what parts words and lanes has none of these

    def write(self, elements: Int64, spec: WordSpec) -> bytes:
        words = self._words(elements, spec)
        return _header(spec) + b"".join(chain.from_iterable(zip(words, _tails(len(words), spec), strict=True)))

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        try:
            elements = self._elements(self._token.findall(data, len(_header(spec))), spec)
            fits = not elements.size or spec.element.holds(int(elements.min()), int(elements.max()))
            if fits and self.write(elements, spec) == data:
                return elements
        except (ValueError, OverflowError):
            pass
        self._complain(data, spec)

    def take(self, file: BinaryIO, words: int, spec: WordSpec) -> bytes:
        """The bytes of the next words, which may begin and end within a line."""
        lines = list(islice(file, len(spec.header)))
        taken = 0
        while taken < words and (line := file.readline()):
            ends = [match.end() for match in self._token.finditer(line)][self._tokens(spec) - 1 :: self._tokens(spec)]
            taken += len(ends)
            if taken >= words:  # what stands behind the last one is the next chunk's, or another memory's
                last = ends[len(ends) - 1 - (taken - words)] + len(_tails(1, spec.from_word(words - 1))[0])
                file.seek(min(0, last - len(line)), 1)
                line = line[:last] + file.read(max(0, last - len(line)))
            lines.append(line)
        return b"".join(lines)

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        words = len(self._token.findall(data, len(_header(spec)))) // self._tokens(spec)
        ends = np.array([tail.count(b"\n") for tail in _tails(words, spec)], np.int64)
        return len(spec.header) + 1 + np.cumsum(ends) - ends

    def _tokens(self, spec: WordSpec) -> int:
        """How many numbers a word is: one, or one for each lane."""
        return spec.lanes if self._between(spec) else 1

    def _between(self, spec: WordSpec) -> bytes:
        given = spec.style.between
        return (b" " if self._digits is None else b"") if given is None else given.encode()

    def _words(self, elements: Int64, spec: WordSpec) -> list[bytes]:
        between = self._between(spec)
        if self._digits is None:
            return [between.join([b"%*d" % (spec.style.pad, code) for code in word]) for word in elements.tolist()]
        if between:
            rows = self._digits.digits(elements.reshape(-1, 1), replace(spec, lanes=1))
        else:
            rows = self._digits.digits(elements, spec)
        width = rows.shape[1]
        text = rows.tobytes().upper() if spec.style.case == "upper" else rows.tobytes()
        numbers = [text[at : at + width] for at in range(0, len(text), width)]
        lanes = self._tokens(spec)
        return [between.join(numbers[at : at + lanes]) for at in range(0, len(numbers), lanes)]

    def _elements(self, tokens: list[bytes], spec: WordSpec) -> Int64:
        """Raises ValueError or OverflowError for what are no such words."""
        if self._digits is None:
            return np.array([int(token) for token in tokens], np.int64).reshape(-1, spec.lanes)
        one = replace(spec, lanes=spec.lanes // self._tokens(spec))  # what a number holds
        octets = b"".join(int(token, 1 << self._digits.bits).to_bytes(one.word_bytes, "big") for token in tokens)
        words = np.frombuffer(octets, np.uint8).reshape(-1, one.word_bytes)
        return unpack(words, one.lanes, spec.element).reshape(-1, spec.lanes)

    def _complain(self, data: bytes, spec: WordSpec) -> NoReturn:
        """Raises the fault of the first place that is not as written."""
        at = 0
        for number, line in enumerate(spec.header, start=1):
            expected = line.encode() + _newline(spec)
            if not data.startswith(expected, at):
                raise FileFault(number, 0, f"header line is not {line!r}, or its line end another one")
            at += len(expected)
        for word in count():
            if at == len(data):
                break
            for lane in range(self._tokens(spec)):
                if lane:
                    at = _literal(data, at, self._between(spec), word, lane)
                at = self._number(data, at, spec, word, lane)
            at = _literal(data, at, _tails(1, spec.from_word(word))[0], word, spec.lanes - 1)
        raise fault_at(data, at, f"{word} words; the lines are set for others", word)

    def _number(self, data: bytes, at: int, spec: WordSpec, word: int, lane: int) -> int:
        """The offset behind the number that stands at `at`."""
        found = re.compile(rb"[ ]*(-?[0-9A-Za-z]*)").match(data, at)
        assert found is not None  # it matches nothing, too
        token = found[1]
        try:
            elements = self._elements([token] * self._tokens(spec), spec)
            want = self._token.search(self._words(elements[:1], spec)[0])
        except (ValueError, OverflowError):
            want = None
        fits = want is not None and spec.element.holds(int(elements.min()), int(elements.max()))
        padding = b"%*s" % (spec.style.pad, token)
        if not fits or want is None or want[0] != token or found[0] != padding:
            kind = "decimal number" if self._digits is None else f"{self._digits.name} number"
            shown = found[0][:24].decode(errors="replace")
            raise fault_at(data, at, f"{shown!r} is not a {kind} of this memory's style and width", word, lane)
        return found.end()


def _newline(spec: WordSpec) -> bytes:
    return b"\r\n" if spec.style.newline == "crlf" else b"\n"


def _header(spec: WordSpec) -> bytes:
    return b"".join(line.encode() + _newline(spec) for line in spec.header)


def _tails(words: int, spec: WordSpec) -> list[bytes]:
    """What stands behind each of the next words."""
    style, newline = spec.style, _newline(spec)
    end = style.word_end.encode()
    within, line, group = end + style.word_between.encode(), end + newline, end + 2 * newline
    last = spec.first + words if spec.total is None else spec.total

    def tail(number: int) -> bytes:
        if number == last:
            return line
        if style.group and number % style.group == 0:
            return group
        at = (number - 1) % style.group + 1 if style.group else number
        return line if at % style.per_line == 0 else within

    return [tail(number) for number in range(spec.first + 1, spec.first + words + 1)]


def _literal(data: bytes, at: int, text: bytes, word: int, lane: int) -> int:
    """The offset behind what must stand at `at`."""
    if not data.startswith(text, at):
        wrong = next(i for i in range(len(text) + 1) if data[at + i : at + i + 1] != text[i : i + 1])
        found = data[at : at + len(text)]
        raise fault_at(data, at + wrong, f"{found!r} where {text!r} is due".replace("b'", "'"), word, lane)
    return at + len(text)
