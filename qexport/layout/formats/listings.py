"""coe, mif and C arrays: words in a listing with a frame around it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.layout.formats.base import (
    FAR,
    PLAIN,
    WordSpec,
    after_header,
    blanked,
    by_address,
    fault_at,
    header_bytes,
    lines_of,
)
from qexport.layout.formats.digits import HEX
from qexport.layout.formats.words import text_columns
from qexport.layout.pack import pack, unpack

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
        start = after_header(data, spec)
        text = data[:start] + blanked(self.comments, data[start:])
        opening = re.compile(self.opening(spec)).match(text, start)
        if opening is None:
            raise fault_at(data, start, f"does not begin with {self.needs(spec)}")
        values: list[int] = []
        places: list[int] = []
        addresses: list[int] = []
        at, address = opening.end(), 0
        while not self.end.match(text, at):
            item = self._item(spec).match(text, at)
            if item is None:
                blanks = re.compile(rb"\s*").match(text, at)
                assert blanks is not None
                raise fault_at(data, blanks.end(), "neither a word nor the end of the file", len(values))
            if item.groupdict().get("address"):
                address = min(self._number(data, item, "address", "an address", address), FAR)
            values.append(self._word(data, item, spec, address))
            places.append(item.start("word"))
            addresses.append(address)
            at, address = item.end(), address + 1
        given = opening.groupdict().get("words")
        if given is not None and given != b"%d" % len(values):
            place = opening.start("words")
            raise fault_at(data, place, f"{given.decode()} words are promised; there are {len(values)}")
        numbers = by_address(np.array(addresses, np.int64), lambda n, message: fault_at(data, places[n], message))
        return [values[n] for n in numbers], [places[n] for n in numbers]

    def _item(self, spec: WordSpec) -> re.Pattern[bytes]:
        return self.item

    def _word(self, data: bytes, item: re.Match[bytes], spec: WordSpec, address: int) -> int:
        """The bits of a word."""
        value = self._number(data, item, "word", "a word", address)
        if value.bit_length() > spec.word_bits:
            raise fault_at(data, item.start("word"), f"word is wider than {spec.word_bits} bits", address)
        return value

    @staticmethod
    def _number(data: bytes, item: re.Match[bytes], group: str, what: str, address: int) -> int:
        if not re.fullmatch(rb"[0-9a-fA-F]+", item[group]):
            text = item[group].decode(errors="replace")
            raise fault_at(data, item.start(group), f"{text!r} is not {what} in hexadecimal digits", address)
        return int(item[group], 16)

    def read(self, data: bytes, spec: WordSpec) -> Int64:
        values, _ = self._parse(data, spec)
        octets = b"".join(value.to_bytes(spec.word_bytes, "big") for value in values)
        return unpack(np.frombuffer(octets, np.uint8).reshape(-1, spec.word_bytes), spec.lanes, spec.element)

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return lines_of(data, np.array(self._parse(data, spec)[1], np.int64))


def write_coe(elements: Int64, spec: WordSpec) -> bytes:
    opening = b"memory_initialization_radix=16;\nmemory_initialization_vector=\n"
    return header_bytes(spec) + opening + text_columns(HEX.digits(elements, spec), b",\n")[:-2] + b";\n"


COE = _Listing(
    comments=re.compile(rb"(?m)^[ \t]*;[^\n]*"),
    opening=lambda spec: rb"(?i)\s*memory_initialization_radix\s*=\s*16\s*;\s*memory_initialization_vector\s*=",
    item=re.compile(rb"\s*(?P<word>[^\s,;]+)\s*,?"),
    end=re.compile(rb"\s*;\s*\Z"),
    needs=lambda spec: "memory_initialization_radix=16; memory_initialization_vector=",
)


def write_mif(elements: Int64, spec: WordSpec) -> bytes:
    words = len(elements)
    address = IntFormat(4 * max(math.ceil((words - 1).bit_length() / 4), 1), False)
    addresses = HEX.digits(np.arange(words).reshape(-1, 1), WordSpec(1, address, (), ""))
    opening = f"WIDTH={spec.word_bits};\nDEPTH={words};\nADDRESS_RADIX=HEX;\nDATA_RADIX=HEX;\nCONTENT BEGIN\n"
    content = text_columns(addresses, b" : ", HEX.digits(elements, spec), b";\n")
    return header_bytes(spec) + opening.encode() + content + b"END;\n"


MIF = _Listing(
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
C_TYPES = {
    f"{'' if signed else 'u'}int{bits}_t": IntFormat(bits, signed)
    for bits in C_BITS for signed in (True, False)
}  # fmt: skip


def _c_array(spec: WordSpec) -> tuple[str, str]:
    """Type and name of the array; the Verilog stub gives its memories the same names."""
    kind = spec.style.type or f"uint{next(bits for bits in C_BITS if bits >= spec.word_bits)}_t"
    return kind, spec.style.array or f"{spec.name}_mem"


def c_type_fault(spec: WordSpec) -> str | None:
    """Why the words are no numbers of the type that the style names.

    A word of one lane is its element's number, where the type is signed; else it is its bits.
    """
    kind = spec.style.type
    if not kind:
        return None
    if C_TYPES[kind].bits < spec.word_bits:
        return f"{kind} does not hold the {spec.word_bits} bits of a word"
    if _signed_number(spec) and not C_TYPES[kind].holds(spec.element.low, spec.element.high):
        return f"{kind} does not hold {spec.element}"
    return None


def _signed_number(spec: WordSpec) -> bool:
    return spec.lanes == 1 and spec.style.type.startswith("int")


def _c_numbers(elements: Int64, spec: WordSpec) -> list[int]:
    if _signed_number(spec):
        return [int(code) for code in elements[:, 0]]
    words = [int.from_bytes(word.tobytes(), "big") for word in pack(elements, spec.element)]
    if not spec.style.type.startswith("int"):
        return words
    top = 1 << C_BITS[[f"int{bits}_t" for bits in C_BITS].index(spec.style.type)]  # of several lanes two's complement
    return [word - top if word >= top >> 1 else word for word in words]


def _c_text(number: int, spec: WordSpec) -> str:
    if spec.style.style == "dec":
        return f"{number}u" if number.bit_length() == C_BITS[-1] and number > 0 else str(number)
    return f"{'-' if number < 0 else ''}0x{abs(number):0{math.ceil(spec.word_bits / 4)}x}"


def write_c(elements: Int64, spec: WordSpec) -> bytes:
    kind, name = _c_array(spec)
    guard = f"{spec.name}_mem_h".upper()
    opening = f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
    opening += f"static const {kind} {name}[{len(elements)}] = {{\n"
    if replace(spec.style, array="") == PLAIN:
        words = text_columns(b"    0x", HEX.digits(elements, spec), b",\n")
    else:
        words = "".join(f"    {_c_text(number, spec)},\n" for number in _c_numbers(elements, spec)).encode()
    return header_bytes(spec) + opening.encode() + words + b"};\n\n#endif\n"


class _CArray(_Listing):
    """An array in C; its numbers are held to the memory's type and style."""

    def _item(self, spec: WordSpec) -> re.Pattern[bytes]:
        return self.item if spec.style.style == "hex" else re.compile(rb"\s*(?P<sign>-?)(?P<word>[^\s,}]+)\s*,?")

    def _word(self, data: bytes, item: re.Match[bytes], spec: WordSpec, address: int) -> int:
        if spec.style.style == "hex":
            number = self._number(data, item, "word", "a word", address)
        else:
            digits = re.fullmatch(rb"(\d{1,20})u?", item["word"])
            if digits is None:
                text = item["word"][:24].decode(errors="replace")
                raise fault_at(data, item.start("word"), f"{text!r} is not a word in decimal digits", address)
            number = int(digits[1])
        number = -number if item["sign"] else number
        bits = spec.word_bits
        signed = spec.element.signed if spec.lanes == 1 else True
        low = -(1 << bits - 1) if signed and spec.style.type.startswith("int") else 0
        high = spec.element.high if _signed_number(spec) else (1 << bits) - 1
        if not low <= number <= high:
            what = f"{number} is outside {low}..{high}" if low else f"word is wider than {bits} bits"
            raise fault_at(data, item.start("word"), what, address)
        return number % (1 << bits)


C = _CArray(
    comments=re.compile(rb"(?s)//[^\n]*|/\*.*?\*/"),
    opening=lambda spec: (
        rb"[^{]*?\bstatic\s+const\s+%s\s+%s\[(?P<words>\d+)\]\s*=\s*\{"
        % tuple(re.escape(part).encode() for part in _c_array(spec))
    ),
    item=re.compile(rb"\s*(?P<sign>-?)0x(?P<word>[^\s,}]+)\s*,?"),
    end=re.compile(rb"\s*\}\s*;\s*#endif\s*\Z"),
    needs=lambda spec: "static const {} {}[...] = {{".format(*_c_array(spec)),
)
