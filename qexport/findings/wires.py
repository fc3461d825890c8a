"""Bits of words in another order: crossed wires, and what a design reads through them."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import UNKNOWN
from qexport.layout.tiling import Tiling, expand_bits

Wires = Callable[[Int64], Int64]  # bit numbers of a word of whole bytes, the most significant first, to another order
Unit = Literal["nibbles", "bytes", "bits"]


class Wiring(NamedTuple):
    """How a tensor of weights or inputs is stored: for changes of the order of bits in its words."""

    tensor: str
    tiling: Tiling
    element: IntFormat
    own: IntFormat

    def crossed(self, values: Int64, wires: Wires) -> Int64:
        """The values as they are read when the bits of each word are crossed."""
        codes = expand_bits(values, self.own) if self.tiling.order.has_bits else values
        codes = self.tiling.untile(cross(self.tiling.tile(codes), self.element, wires))
        if not self.tiling.order.has_bits:
            return codes
        return self.own.decode((codes << np.arange(self.own.bits - 1, -1, -1)).sum(axis=-1))


def cross(blocks: Int64, element: IntFormat, wires: Wires) -> Int64:
    """(files, words, lanes) of `element`, the bits of each word put in another order; UNKNOWN where one of them is."""
    *outer, lanes = blocks.shape
    width = lanes * element.bits
    spare = -width % 8
    order = wires(np.arange(width + spare, dtype=np.int64))[spare:]
    order = order - spare  # below 0: an unused bit at the top, which is 0
    bits = expand_bits(element.encode(blocks), IntFormat(element.bits, False)).astype(np.uint8).reshape(*outer, width)
    crossed = np.where(order < 0, np.uint8(0), bits[..., order])
    weights = np.int64(1) << np.arange(element.bits - 1, -1, -1)
    out = element.decode(crossed.reshape(*outer, lanes, element.bits).astype(np.int64) @ weights)
    unknown = blocks == UNKNOWN
    if unknown.any():
        lost = np.repeat(unknown, element.bits, axis=-1)[..., order].reshape(*outer, lanes, element.bits).any(axis=-1)
        out[lost] = UNKNOWN
    return out


def _grouped(size: int, reverse_of: int) -> Wires:
    """Groups of `size` bits in reverse order inside each run of `reverse_of` bits (0: inside the word)."""

    def wires(bits: Int64) -> Int64:
        run = reverse_of or len(bits)
        whole = len(bits) // run * run
        head, rest = bits[: len(bits) - whole], bits[len(bits) - whole :]
        return np.concatenate((head, rest.reshape(-1, run // size, size)[:, ::-1].ravel()))

    return wires


def bit_orders(lanes: int, bits: int) -> Iterator[tuple[Unit, str, Wires, bool]]:
    """What may be crossed in a word: unit, detail, wires, whether it is tried in pairs too."""
    width = -(-lanes * bits // 8) * 8
    yield "nibbles", "of each byte swapped", _grouped(4, 8), True
    if width > 8:
        yield "nibbles", "of the whole word reversed", _grouped(4, 0), False
        yield "bytes", "of the whole word reversed", _grouped(8, 0), True
    for run in (16, 32, 64, 128):
        if run < width and width % run == 0:
            yield "bytes", f"of each {run} bits reversed", _grouped(8, run), False
    if bits > 1 and width == lanes * bits:
        yield "bits", "of each element reversed", _grouped(1, bits), True
    elif bits > 1:

        def inside(order: Int64) -> Int64:
            used = order[len(order) - lanes * bits :]
            return np.concatenate((order[: len(order) - lanes * bits], used.reshape(lanes, bits)[:, ::-1].ravel()))

        yield "bits", "of each element reversed", inside, True
    if bits != 8:
        yield "bits", "of each byte reversed", _grouped(1, 8), False
    if width > 8:
        yield "bits", "of the whole word reversed", _grouped(1, 0), False
