"""Intel HEX and Motorola S-record: one word a record, big-endian, at the address of its first byte."""

import re

import numpy as np

from qexport.core.intformat import Int64
from qexport.errors import QexportError
from qexport.layout.formats.base import WordSpec, elements_of, fault_at, lines_of
from qexport.layout.pack import Words, pack

IHEX_DATA, IHEX_END = 0, 1
SREC_DATA, SREC_COUNT = "123", "56"

IHEX_BASE = {2: 4, 4: 16}  # record types that give a base address, and by how much to shift it


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
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))
            raise fault_at(data, at, f"not a sound record: {shown}") from None
        if kind == IHEX_DATA or kind in tuple(SREC_DATA):
            pieces.append((base + address, at, bytes(payload)))
        elif kind in IHEX_BASE:
            base = int.from_bytes(payload, "big") << IHEX_BASE[kind]
        elif kind in tuple(SREC_COUNT) and address != len(pieces):
            raise fault_at(data, at, f"{address} data records are promised; there are {len(pieces)}")
    if radix == "ihex" and kind != IHEX_END:
        raise fault_at(data, len(data), "the last record is not an end-of-file record")
    pieces.sort()
    due = 0
    for address, at, payload in pieces:
        if address != due:
            message = "is given nowhere" if address > due else "is not where a record goes on"
            raise fault_at(data, at, f"byte address {due:x} (hexadecimal) {message}; this record has {address:x}")
        due += len(payload)
    if due % spec.word_bytes:
        raise fault_at(data, len(data), f"{due} bytes; needs {spec.word_bytes} for each word")
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
        return elements_of(words, spec, lambda n, message: fault_at(data, int(places[n]), message, n))

    def word_lines(self, data: bytes, spec: WordSpec) -> Int64:
        return lines_of(data, _read_records(data, spec, self.radix)[1])


IHEX, SREC = _Records("ihex"), _Records("srec")
