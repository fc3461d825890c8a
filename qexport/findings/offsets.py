"""By how much an address is off, of any size: the sums that a place would have at all offsets are one correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.findings.fetched import Memory
from qexport.findings.sampled import Places

SOLVED = 8  # places at which all offsets are tried, at most
_FEW = 64  # offsets that are left for a look at more places
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Products:
    """Sums at places: (places, terms) the elements of a tensor and what each is multiplied by, and the rest of each
    sum; `values` of all elements, and of what stands where there is none."""

    elements: Int64
    factors: Int64
    rest: Int64
    values: Int64
    nothing: int

    def sums(self, source: Int64) -> Int64:
        """With other elements in the place of these; -1: nothing."""
        stands = np.where(source < 0, self.nothing, self.values[source])
        sums: Int64 = (stands * self.factors).sum(axis=1) + self.rest
        return sums


def solved_offsets(memory: Memory, places: Sequence[tuple[Places, Products]]) -> list[tuple[int, str]]:
    """Offsets of words, the nearest first, and what stands beyond the buffer, with which single places are what came
    back."""
    values, nothing = places[0][1].values, places[0][1].nothing
    stands = _buffers(memory, np.where(memory.element < 0, 0, values[memory.element] - nothing))
    size = _fast_length(2 * memory.count)
    spectrum = np.fft.rfft(stands, size)
    tried = _all_offsets(memory.count)
    for terms, products in places:
        met = np.zeros(len(memory.element))
        np.add.at(met, memory.slot[products.elements[0]], products.factors[0])
        rest = int(products.rest[0]) + nothing * int(products.factors[0].sum())
        given = _Given(stands, _buffers(memory, met), spectrum, size)
        for beyond, offsets in tried.items():
            sums = np.rint(given.sums(beyond, offsets)).astype(np.int64) + rest
            tried[beyond] = offsets[terms.fits(sums[:, np.newaxis])]
        if sum(map(len, tried.values())) <= _FEW:
            break
    order = list(tried)
    found = [(int(by), beyond) for beyond, offsets in tried.items() for by in offsets]
    return sorted(found, key=lambda one: (abs(one[0]), order.index(one[1]), one[0] < 0))[:_FEW]


def _fast_length(count: int) -> int:
    """The least length for a Fourier transform that has no factors but 2, 3 and 5."""
    odd: list[int] = [3**three * 5**five for three in range(14) for five in range(10)]
    return min(factor << max(0, (-(-count // factor) - 1).bit_length()) for factor in odd)


def _all_offsets(count: int) -> dict[str, Int64]:
    every = np.arange(1 - count, count)
    every = every[every != 0]
    return {"zero": every, "cyclic": every[(2 * every > -count) & (2 * every <= count)], "held": every}


def _buffers(memory: Memory, slots: NDArray[Any]) -> NDArray[Any]:
    """(buffers x lanes, words) of what stands in each slot: what one counter runs through."""
    return slots.reshape(-1, memory.count, memory.lanes).swapaxes(1, 2).reshape(-1, memory.count)


class _Given:
    """The sum of one place at every offset, less what does not depend on it."""

    def __init__(self, stands: Int64, met: Floats, spectrum: Any, size: int):
        self.count, self.size = stands.shape[1], size
        used = met.any(axis=1)
        self.stands, self.met = stands[used], met[used]
        self.linear = np.fft.irfft((np.conj(np.fft.rfft(self.met, size)) * spectrum[used]).sum(axis=0), size)

    def sums(self, beyond: str, offsets: Int64) -> Floats:
        if beyond == "cyclic":
            on = offsets % self.count
            both: Floats = self.linear[on] + self.linear[on - self.count]
            return both
        if beyond == "zero":
            return self.linear[offsets]
        # what falls on the last word or on the first one, by how many words of the end do
        last = np.cumsum((self.stands[:, -1:] * self.met).sum(axis=0)[::-1])
        first = np.cumsum((self.stands[:, :1] * self.met).sum(axis=0))
        ends = np.where(offsets > 0, last[np.maximum(offsets, 1) - 1], first[np.maximum(-offsets, 1) - 1])
        held: Floats = self.linear[offsets] + ends
        return held
