"""Integer number formats: width, signedness, range, two's complement."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport.errors import QexportError

Int64 = NDArray[np.int64]
MAX_BITS = 64  # of a word's element; every code and every sum has 63 and lives in int64
_WORD_HIGH = (1 << 63) - 1


@dataclass(frozen=True)
class IntFormat:
    """An integer of `bits` bits (1..64), two's complement when `signed`. Raises QexportError for other widths.

    Values are int64 whatever the format: of 64 unsigned bits those below 2^63.
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise QexportError(f"bits: {self.bits} is outside 1..{MAX_BITS}")

    def __str__(self) -> str:
        return f"{self.bits} {'signed' if self.signed else 'unsigned'} bit{'s' if self.bits > 1 else ''}"

    @property
    def low(self) -> int:
        """The least value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @classmethod
    def holding(cls, low: int, high: int, signed: bool) -> "IntFormat":
        """The narrowest format of this signedness that holds both values; raises QexportError beyond 64 bits."""
        bits = max((value if value >= 0 else ~value).bit_length() for value in (low, high)) + signed
        return cls(max(bits, 1), signed)

    def holds(self, low: int, high: int) -> bool:
        """Whether both values lie in low..high of this format."""
        return self.low <= low and high <= self.high

    def wrap(self, values: Int64) -> Int64:
        """Keep the low `bits` bits of each value, read back in this format (same shape)."""
        return self.decode(self.encode(values))

    def saturate(self, values: Int64) -> Int64:
        """Clip each value into low..high (same shape)."""
        return np.clip(values, self.low, min(self.high, _WORD_HIGH))

    def encode(self, values: Int64) -> Int64:
        """Bit patterns 0..2^bits-1 of the values, two's complement (same shape); higher bits are dropped.

        A pattern of 64 bits is the int64 with these bits.
        """
        return values & ((1 << self.bits) - 1) if self.bits < MAX_BITS else values

    def decode(self, patterns: Int64) -> Int64:
        """The values of bit patterns 0..2^bits-1 (same shape)."""
        if not self.signed or self.bits == MAX_BITS:
            return patterns
        sign = 1 << (self.bits - 1)
        return (patterns ^ sign) - sign
