"""Lanes <-> words. A word is a row of big-endian bytes, its unused top bits zero."""

import numpy as np
from numpy.typing import NDArray

from qexport.intformat import Int64, IntFormat

Words = NDArray[np.uint8]


def word_bits(lanes: int, fmt: IntFormat) -> int:
    """Bits of a word: lanes x bits of an element."""
    return lanes * fmt.bits


def pack(elements: Int64, fmt: IntFormat) -> Words:
    """(words, lanes) codes to (words, ceil(word_bits / 8)) bytes; lane 0 is the most significant."""
    count, lanes = elements.shape
    patterns = fmt.encode(elements)
    if fmt.bits % 8:
        narrow = patterns.astype(np.min_scalar_type((1 << fmt.bits) - 1))
        shifts = np.arange(fmt.bits - 1, -1, -1, dtype=narrow.dtype)
        bits = ((narrow[..., np.newaxis] >> shifts) & narrow.dtype.type(1)).astype(np.uint8).reshape(count, -1)
        unused = -bits.shape[1] % 8
        return np.packbits(np.pad(bits, ((0, 0), (unused, 0))) if unused else bits, axis=1)
    octets = patterns.astype(">u8", order="C").view(np.uint8).reshape(count, lanes, 8)
    return np.ascontiguousarray(octets[:, :, 8 - fmt.bits // 8 :]).reshape(count, -1)


def unpack(words: Words, lanes: int, fmt: IntFormat) -> Int64:
    """(words, ceil(word_bits / 8)) bytes back to (words, lanes) codes."""
    count = len(words)
    bits = np.unpackbits(words, axis=1)[:, words.shape[1] * 8 - word_bits(lanes, fmt) :]
    places = np.int64(1) << np.arange(fmt.bits - 1, -1, -1, dtype=np.int64)
    return fmt.decode(bits.reshape(count, lanes, fmt.bits).astype(np.int64) @ places)
