"""dec: a signed decimal for each lane."""

from typing import NoReturn

import numpy as np

from qexport.core.intformat import Int64
from qexport.layout.formats.base import WordSpec, header_bytes
from qexport.layout.formats.words import WordLines, column_of_words


def _decimals(elements: Int64) -> bytes:
    return b"".join(b" ".join([b"%d" % code for code in word]) + b"\n" for word in elements.tolist())


def write_dec(elements: Int64, spec: WordSpec) -> bytes:
    return header_bytes(spec) + _decimals(elements)


def read_dec(data: bytes, spec: WordSpec) -> Int64:
    lines = WordLines(data, spec)
    try:
        codes = np.array(list(map(int, lines.text.split())), np.int64).reshape(-1, spec.lanes)
    except (ValueError, OverflowError):
        _complain_dec(lines, spec)
    fits = not codes.size or spec.element.holds(int(codes.min()), int(codes.max()))
    if not fits or _decimals(codes) != lines.text:  # int() takes more than we write, such as +1 and 007
        _complain_dec(lines, spec)
    return lines.ordered(codes)


def _complain_dec(lines: WordLines, spec: WordSpec) -> NoReturn:
    """Raises the fault of the first line that is not one number for each lane."""
    at = 0
    for number, line in enumerate(lines.text.split(b"\n")[:-1]):
        column = 0
        parts = line.split(b" ")
        for part in parts[: spec.lanes]:
            digits = part.removeprefix(b"-")
            if not digits.isdigit() or digits[:1] == b"0" != part:
                text = part.decode(errors="replace")
                raise lines.fault(at + column, f"{text!r} is not a decimal number", number)
            code = int(part[:21])  # 21 characters are beyond every format already
            if not spec.element.holds(code, code):
                message = f"{code} is outside {spec.element.low}..{spec.element.high}"
                raise lines.fault(at + column, message, number)
            column += len(part) + 1
        if len(parts) != spec.lanes:
            raise lines.fault(at + min(column, len(line)), f"{len(parts)} numbers; needs {spec.lanes}", number)
        at += len(line) + 1
    raise AssertionError("every line is sound")


def dec_lane_at(line: bytes, column: int, spec: WordSpec) -> int:
    return min(column_of_words(line, column).count(b" "), spec.lanes - 1)


def dec_word_lines(data: bytes, spec: WordSpec) -> Int64:
    return WordLines(data, spec).lines()
