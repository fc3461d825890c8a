"""coe, mif and C arrays: words in a listing with a frame around it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.layout.formats.base import (
    FAR,
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
from qexport.layout.pack import unpack

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
            item = self.item.match(text, at)
            if item is None:
                blanks = re.compile(rb"\s*").match(text, at)
                assert blanks is not None
                raise fault_at(data, blanks.end(), "neither a word nor the end of the file", len(values))
            if item.groupdict().get("address"):
                address = min(self._number(data, item, "address", "an address", address), FAR)
            value = self._number(data, item, "word", "a word", address)
            if value.bit_length() > spec.word_bits:
                raise fault_at(data, item.start("word"), f"word is wider than {spec.word_bits} bits", address)
            values.append(value)
            places.append(item.start("word"))
            addresses.append(address)
            at, address = item.end(), address + 1
        given = opening.groupdict().get("words")
        if given is not None and given != b"%d" % len(values):
            place = opening.start("words")
            raise fault_at(data, place, f"{given.decode()} words are promised; there are {len(values)}")
        numbers = by_address(np.array(addresses, np.int64), lambda n, message: fault_at(data, places[n], message))
        return [values[n] for n in numbers], [places[n] for n in numbers]

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


def _c_array(spec: WordSpec) -> tuple[str, str]:
    """Type and name of the array; the Verilog stub gives its memories the same names."""
    return f"uint{next(bits for bits in C_BITS if bits >= spec.word_bits)}_t", f"{spec.name}_mem"


def write_c(elements: Int64, spec: WordSpec) -> bytes:
    kind, name = _c_array(spec)
    guard = f"{name.upper()}_H"
    opening = f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
    opening += f"static const {kind} {name}[{len(elements)}] = {{\n"
    words = text_columns(b"    0x", HEX.digits(elements, spec), b",\n")
    return header_bytes(spec) + opening.encode() + words + b"};\n\n#endif\n"


C = _Listing(
    comments=re.compile(rb"(?s)//[^\n]*|/\*.*?\*/"),
    opening=lambda spec: (
        rb"[^{]*?\bstatic\s+const\s+%s\s+%s\[(?P<words>\d+)\]\s*=\s*\{"
        % tuple(re.escape(part).encode() for part in _c_array(spec))
    ),
    item=re.compile(rb"\s*0x(?P<word>[^\s,}]+)\s*,?"),
    end=re.compile(rb"\s*\}\s*;\s*#endif\s*\Z"),
    needs=lambda spec: "static const {} {}[...] = {{".format(*_c_array(spec)),
)
