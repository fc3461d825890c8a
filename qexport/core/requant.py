"""Integer requantization: the multiplier and shift that turn accumulators into the next layer's codes, proven exact."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qexport.core.intformat import Int64, IntFormat

MAX_SHIFT = 47  # beyond it a multiplier has no advantage left, and products leave int64
TIE_WIDTH = Fraction(1, 2**40)  # a real value this close to a half may be rounded either way in floating point


@dataclass(frozen=True)
class Requantizer:
    """code = min(qmax, (max(accumulator, 0) * mul + 2^(shift - 1)) >> shift).

    `ties`: accumulators whose real value lies on the edge between two codes; rounded half to even, as in the network.
    """

    mul: int
    shift: int
    qmax: int
    ties: tuple[int, ...]

    @property
    def half(self) -> int:
        """What is added before the shift, so that it rounds."""
        return 1 << (self.shift - 1)

    def scaled(self, accumulators: Int64, half: int | None = None) -> Int64:
        """Accumulators to codes (same shape) before they are clipped; `half`: what is added instead of its own."""
        return (accumulators * self.mul + (self.half if half is None else half)) >> self.shift

    def apply(self, relu: Int64, half: int | None = None) -> Int64:
        """Accumulators behind a ReLU to codes (same shape)."""
        out: Int64 = np.minimum(self.scaled(relu, half), self.qmax)
        return out

    def first(self, code: int) -> int:
        """The least accumulator that gives the code, or a greater one."""
        return -((self.half - (code << self.shift)) // self.mul)


def find_requantizer(step: float, output_scale: float, code: IntFormat, greatest: int) -> Requantizer | None:
    """The requantizer with the smallest shift that gives round_half_even(accumulator * step / output_scale), clipped.

    Proven for every accumulator up to `greatest`: both sides only ever rise, so that they are equal everywhere when
    they are equal at both sides of each edge between two codes. None when no multiplier and shift do it.
    """
    ratio = Fraction(step) / Fraction(output_scale)
    firsts: list[int] = []  # the least accumulator of each code from 1 on, as far as there are accumulators
    ties: dict[int, None] = {}  # in order, each once
    for value in range(1, code.high + 1):
        edge = (value - Fraction(1, 2)) / ratio
        first = math.ceil(edge)
        if edge == first and value % 2 == 1:  # half to even gives the code below
            first += 1
        for near in (math.floor(edge), math.ceil(edge)):
            if near <= greatest and abs(near - edge) * ratio < TIE_WIDTH:
                ties[near] = None
        firsts.append(first)
    for shift in range(1, MAX_SHIFT + 1):
        half = 1 << (shift - 1)
        low, high = 0, (2**62 - half) // max(greatest, 1)
        for value, first in enumerate(firsts, start=1):
            needed = (value << shift) - half  # accumulator * mul must reach it at `first`, and not before
            if first <= greatest:
                low = max(low, -(-needed // first))
            last = min(first - 1, greatest)
            if last > 0:
                high = min(high, (needed - 1) // last)
            if low > high:
                break
        if low <= high:
            best = round(ratio * (1 << shift))
            return Requantizer(min(max(best, low), high), shift, code.high, tuple(ties))
    return None
