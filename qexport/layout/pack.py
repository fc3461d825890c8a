"""Lanes <-> words. A word is a row of big-endian bytes, its unused top bits zero."""

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64, IntFormat

Words = NDArray[np.uint8]


def word_bits(lanes: int, fmt: IntFormat) -> int:
    """Bits of a word: lanes x bits of an element."""
    return lanes * fmt.bits


def pack(elements: Int64, fmt: IntFormat) -> Words:
    """(words, lanes) codes to (words, ceil(word_bits / 8)) bytes; lane 0 is the most significant."""
    count, lanes = elements.shape
    if fmt.bits % 8 == 0:
        octets = elements.astype(">i8", order="C").view(np.uint8).reshape(count, lanes, 8)
        return np.ascontiguousarray(octets[:, :, 8 - fmt.bits // 8 :]).reshape(count, lanes * fmt.bits // 8)
    kind = np.min_scalar_type((1 << fmt.bits) - 1)
    patterns = elements.astype(kind) & kind.type((1 << fmt.bits) - 1)  # the cast drops high bits only
    if 8 % fmt.bits == 0:
        share = 8 // fmt.bits  # lanes of an octet
        if lanes % share:
            patterns = np.pad(patterns, ((0, 0), (-lanes % share, 0)))
        words: Words = np.ascontiguousarray(patterns[:, 0::share])
        for lane in range(1, share):
            words = (words << np.uint8(fmt.bits)) | patterns[:, lane::share]
        return words
    shifts = np.arange(fmt.bits - 1, -1, -1, dtype=kind)
    bits = ((patterns[..., np.newaxis] >> shifts) & kind.type(1)).astype(np.uint8).reshape(count, lanes * fmt.bits)
    unused = -bits.shape[1] % 8
    return np.packbits(np.pad(bits, ((0, 0), (unused, 0))) if unused else bits, axis=1)


def unpack(words: Words, lanes: int, fmt: IntFormat) -> Int64:
    """(words, ceil(word_bits / 8)) bytes back to (words, lanes) codes; the unused top bits are not looked at."""
    count = len(words)
    if fmt.bits % 8 == 0:
        octets = np.zeros((count, lanes, 8), np.uint8)
        octets[:, :, 8 - fmt.bits // 8 :] = words.reshape(count, lanes, fmt.bits // 8)
        return fmt.decode(octets.view(">i8").reshape(count, lanes).astype(np.int64))
    if 8 % fmt.bits == 0:
        shifts = np.arange(8 - fmt.bits, -1, -fmt.bits, dtype=np.uint8)
        patterns = (words[..., np.newaxis] >> shifts) & np.uint8((1 << fmt.bits) - 1)
        return fmt.decode(patterns.reshape(count, words.shape[1] * len(shifts))[:, -lanes:].astype(np.int64))
    bits = np.unpackbits(words, axis=1)[:, words.shape[1] * 8 - word_bits(lanes, fmt) :]
    places = np.int64(1) << np.arange(fmt.bits - 1, -1, -1, dtype=np.int64)
    return fmt.decode(bits.reshape(count, lanes, fmt.bits).astype(np.int64) @ places)
