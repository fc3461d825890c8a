"""Texts of one word a line, as Verilog reads them: comments, addresses, places of faults."""

import re
from itertools import islice
from typing import BinaryIO

import numpy as np

from qexport.core.intformat import Int64
from qexport.layout.formats.base import (
    FAR,
    NEWLINE,
    FileFault,
    Text,
    WordSpec,
    after_header,
    by_address,
    fault_at,
    header_bytes,
    lines_of,
)

# --- hex, bin, dec, mem: one word a line, as Verilog reads them -------------------------------------------------------

_COMMENTS = rb"(?:[ \t]*(?://[^\n]*|/\*.*?\*/))+[ \t]*"  # with the blanks around them
_TAKEN_OUT = re.compile(rb"(?s)(?P<kept>@[^\s/]*)|" + _COMMENTS + rb"|(?<=\w)_")  # no `_` in an address: Icarus
_ADDRESS_LINE = re.compile(rb"(?m)^@(.*)\n")


class WordLines:
    """The lines of words of a text, plain: comments, address lines and `_` are taken out.

    `text` holds the lines, `addresses` the address of each, None where they stand in their order.
    """

    def __init__(self, data: bytes, spec: WordSpec, preamble: bytes = b""):
        """Raises FileFault for a wrong header and for addresses that are no addresses or not 0 to the last word."""
        self.data = data
        self.addresses: Int64 | None = None
        self._places: Int64 | None = None  # the offset in the file of each character of `text`
        start = len(header_bytes(spec))
        self.start = start + len(preamble) if data.startswith(preamble, start) else start
        plain = all(data.find(mark, self.start) < 0 for mark in (b"/", b"@", b"_"))
        try:
            after_header(data, spec)
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
            if match.end() == len(self.text) or (at and not words):
                raise self._fault(match.start(), "no word follows the address")
            if not re.fullmatch(rb"[0-9a-fA-F]+", match[1]):
                text = match[1].decode(errors="replace")
                raise self._fault(match.start(), f"'@{text}' is not a hexadecimal address")
            address, at = min(int(match[1], 16), FAR), match.end()
            keep[match.start() : at] = False
        runs.append(np.arange(address, address + self.text.count(b"\n", at)))
        assert self._places is not None
        self._places = self._places[keep]
        self.text = np.frombuffer(self.text, np.uint8)[keep].tobytes()
        addresses = np.concatenate(runs)
        starts = self._starts()
        by_address(addresses, lambda number, message: self._fault(int(starts[number]), message))
        self.addresses = addresses

    def _starts(self) -> Int64:
        """Where in `text` each line begins."""
        ends = np.flatnonzero(np.frombuffer(self.text, np.uint8) == NEWLINE)
        return np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))[: len(ends)]

    def _fault(self, at: int, message: str, word: int | None = None) -> FileFault:
        if self._places is None:
            return fault_at(self.data, self.start + at, message, word)
        if at and self.text[at] == NEWLINE != self.text[at - 1]:  # the end of a word, not of the comment after it
            return fault_at(self.data, int(self._places[at - 1]) + 1, message, word)
        return fault_at(self.data, int(self._places[at]), message, word)

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
        return self.ordered(lines_of(self.data, starts + self.start if self._places is None else self._places[starts]))


def column_of_words(line: bytes, column: int) -> bytes:
    """What of a line stands before a column, less comments and `_`."""
    return _TAKEN_OUT.sub(lambda match: b"" if match.group() == b"_" else b" ", line[:column]).lstrip(b" ")


def take_lines(file: BinaryIO, words: int, spec: WordSpec) -> bytes:
    return b"".join(islice(file, len(spec.header) + words))


def text_columns(*parts: Text | bytes) -> bytes:
    """Lines of equal length, put together from columns: (lines, characters), or the same text in every line."""
    lines = next(len(part) for part in parts if not isinstance(part, bytes))
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    text = np.empty((lines, sum(widths)), np.uint8)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        text[:, at : at + width] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        at += width
    return text.tobytes()
