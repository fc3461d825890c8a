"""Choosing pictures: few of many that show every weight error."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heapreplace

import numpy as np

from qexport.core.capture import LayerCapture
from qexport.core.codes import Formats
from qexport.core.geometry import Layer
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.strength import WeightFlips, percent
from qexport.errors import QexportError

BATCH = 64  # pictures that are read together when pictures are chosen
MAX_CANDIDATES = 1024
DEFAULT_SHARE = 99.9


# --- choosing pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Pictures chosen for their strength: `shown` of `total` weight errors show in the tensor `stage` with them."""

    images: tuple[int, ...]
    candidates: int
    stage: str
    asked: float
    shown: int
    total: int

    def __str__(self) -> str:
        share = f"{percent(self.shown, self.total)} of single-bit weight errors show in {self.stage}"
        if self.shown >= _needed(self.asked, self.total):
            return f"{len(self.images)} of {self.candidates} pictures chosen: {share} ({self.asked:g} % asked)"
        return (
            f"{len(self.images)} of {self.candidates} pictures chosen: {share}; {self.asked:g} % were asked, "
            f"but all {self.candidates} together show no more"
        )


def _needed(share: float, total: int) -> int:
    """The least count that is `share` percent of the total, without rounding."""
    return math.ceil(Fraction(str(share)) * total / 100)


def choose_images(
    layer: Layer,
    formats: Formats,
    weight: Int64,
    stage: str,
    asked: float,
    available: int,
    read: Callable[[range], Int64],
) -> Choice:
    """Few pictures with which `asked` percent of the weight errors show in the tensor `stage`, or as many as can.

    `read` gives the layer's input codes (n, ic, iy, ix) of pictures; they are read in batches, up to MAX_CANDIDATES of
    the `available` ones, until together they show enough. Then greedily: again and again the picture that shows most
    of what is not shown yet (the first such one); at the end those go without which it is enough. Raises QexportError
    when no error shows with any of them.
    """
    flips = WeightFlips(layer, formats, weight)
    sets: list[int] = []  # for each picture the bitset of the errors that show
    union, needed, size = 0, 1, 1
    while len(sets) < min(available, MAX_CANDIDATES) and union.bit_count() < needed:
        batch = range(len(sets), min(len(sets) + BATCH, available, MAX_CANDIDATES))
        codes = read(batch)
        for image in range(len(batch)):
            one = LayerCapture(layer, formats, weight, codes[image : image + 1])
            seen = flips.seen(Golden(one), stage)
            sets.append(int.from_bytes(np.packbits(seen).tobytes()))
            union |= sets[-1]
        size = seen.size
        needed = _needed(asked, size)
    if not union:
        raise QexportError(
            f"images: with {len(sets)} pictures no single-bit weight error of layer {layer.name} shows in {stage}; "
            "choose another layer, or a layout that stores psum"
        )
    chosen = _cover(sets, min(needed, union.bit_count()))
    covered = 0
    for image in chosen:
        covered |= sets[image]
    shown = covered.bit_count() * (flips.total // size)
    return Choice(tuple(sorted(chosen)), len(sets), stage, asked, shown, flips.total)


def _cover(sets: Sequence[int], needed: int) -> list[int]:
    """Indices of bitsets whose union has at least `needed` bits: greedy, then without what is redundant."""
    covered, count, chosen = 0, 0, []
    # A gain only shrinks while others are chosen: what is still on top when worked out anew is the largest.
    heap = [(-bits.bit_count(), index) for index, bits in enumerate(sets)]
    heapify(heap)
    while count < needed:
        index = heap[0][1]
        gain = (covered | sets[index]).bit_count() - count
        heapreplace(heap, (-gain, index))
        if heap[0] == (-gain, index):
            heappop(heap)
            chosen.append(index)
            covered |= sets[index]
            count += gain
    later = [0]  # the union of those chosen after each
    for index in reversed(chosen):
        later.append(later[-1] | sets[index])
    kept, union = [], 0
    for index, rest in zip(chosen, reversed(later[:-1]), strict=True):
        if (union | rest).bit_count() < needed:
            kept.append(index)
            union |= sets[index]
    return kept
