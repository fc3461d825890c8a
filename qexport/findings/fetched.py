"""Memories that are read at other addresses: the ways in which addresses are counted, and what is made of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from qexport.core.intformat import Int64
from qexport.layout.tiling import Tiling

Wrong = Callable[[Int64], Int64]  # from the right word of a buffer to the one that is read
NOTHING = -1  # the address of what is read as 0
_PITCHES = 8  # pitches beside the right one


@dataclass(frozen=True)
class Memory:
    """How the elements of a tensor stand in memories that are read in words, counted through axes of these `sizes`.

    `slot`: of each element, word x lanes + lane; `element`: the way back, NOTHING for fill. The words of the first
    `files` axes lie in memories of their own; the counter starts anew with each of the first `fixed` ones. Of those
    that are not `likely` only offsets are tried.
    """

    text: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    lanes: int
    slot: Int64
    element: Int64
    files: int
    fixed: int
    likely: bool = True

    @property
    def count(self) -> int:
        """The words of one buffer, which are counted through."""
        return math.prod(self.sizes[self.fixed :])

    def read(self, elements: Int64, wrong: "Wrong", beyond: str) -> Int64:
        """What is read in place of elements; `wrong`: from the right word of a buffer to another one."""
        word, lane = np.divmod(self.slot[elements], self.lanes)
        own = word % self.count
        start, other = word - own, wrong(own)
        if beyond == "next":
            whole = math.prod(self.sizes[self.files :])
            inside = (start % whole + other >= 0) & (start % whole + other < whole)
        else:
            inside = (other >= 0) & (other < self.count) | (beyond != "zero")
            other = other % self.count if beyond == "cyclic" else np.clip(other, 0, self.count - 1)
        slots = np.clip((start + other) * self.lanes + lane, 0, len(self.element) - 1)
        return np.where(inside, self.element[slots], NOTHING)


def of_codes(shape: Sequence[int], text: str, order: str, axes: str, files: int, fixed: int) -> Memory:
    """Single elements of a tensor with some `axes`, which stand in another order."""
    names = order.split()
    along = [axes.split().index(name) for name in names]
    element = np.arange(math.prod(shape)).reshape(shape).transpose(along).ravel()
    sizes, slot = tuple(shape[axis] for axis in along), np.empty_like(element)
    slot[element] = np.arange(len(element))
    return Memory(text, tuple(names), sizes, 1, slot, element, files, fixed)


def of_words(tiling: Tiling, text: str) -> Iterator[Memory]:
    """Words as the set stores them, the counter starting anew with each of the outer axes, or never."""
    size = math.prod(tiling.shape)
    element: Int64 = tiling.tile(np.arange(size).reshape(tiling.shape), fill=NOTHING).ravel()
    slot, there = np.zeros(size, np.int64), np.flatnonzero(element >= 0)
    slot[element[there]] = there
    parts = [part for item in tiling.order.addresses for part in item.parts]
    names, sizes = ("file", *parts), (tiling.files, *(tiling.sizes[part] for part in parts))
    for fixed in range(1, len(names)):
        if fixed == 1 or sizes[fixed - 1] > 1:
            anew = f" of each {' '.join(parts[: fixed - 1])}" if fixed > 1 else ""
            yield Memory(f"{text}{anew}", names, sizes, tiling.lanes, slot, element, 1, fixed)


def wrong_addresses(memory: Memory) -> Iterator[tuple[str, Wrong, str]]:
    """From the right word of a buffer to the wrong one, and what stands beyond the buffer: all but offsets."""
    if not memory.likely:
        return
    count, sizes = memory.count, memory.sizes[memory.fixed :]
    pitches = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    for axis, pitch in enumerate(pitches[:-1]):
        near = (pitch + by for by in range(-_PITCHES, _PITCHES + 1))
        for other in dict.fromkeys((*near, 1 << (pitch - 1).bit_length(), 2 * pitch)) if sizes[axis] > 1 else ():
            if other > 0 and other != pitch:
                detail = f"the pitch of {memory.names[memory.fixed + axis]} is {other}, not {pitch}"
                pitched = partial(_pitched, pitch=pitch, size=sizes[axis], more=other - pitch)
                for beyond in beyonds(memory) if other > pitch else ("zero",):
                    yield detail + (SAID[beyond] if other > pitch else ""), pitched, beyond
    for detail, moved in _wrong_bits(count):
        yield detail, moved, "zero"
        if memory.fixed > memory.files and count & (count - 1):  # else no address leaves the buffer
            yield f"{detail}{SAID['next']}", moved, "next"
    yield "backwards", partial(np.subtract, count - 1), "zero"


def _pitched(right: Int64, pitch: int, size: int, more: int) -> Int64:
    return right + right // pitch % size * more


SAID = {"zero": ", 0 beyond the last", "cyclic": ", cyclic", "held": ", held at the end", "next": ", on into the next"}


def beyonds(memory: Memory) -> Iterator[str]:
    yield "zero"
    yield "cyclic"
    yield "held"
    if memory.fixed > memory.files:
        yield "next"


def _wrong_bits(count: int) -> Iterator[tuple[str, Wrong]]:
    bits = (count - 1).bit_length() if count > 1 else 0
    for bit in range(bits):
        yield f"bit {bit} of the address is always 0", partial(np.bitwise_and, ~(1 << bit))
        yield f"bit {bit} of the address is always 1", partial(np.bitwise_or, 1 << bit)
        yield f"bit {bit} of the address is inverted", partial(np.bitwise_xor, 1 << bit)
    for bit, other in combinations(range(bits), 2):
        yield f"bits {bit} and {other} of the address exchanged", partial(_exchanged, bit=bit, other=other)
    for bit in range(1, bits):
        yield f"of the address only {bit} bits count", partial(np.bitwise_and, (1 << bit) - 1)


def _exchanged(right: Int64, bit: int, other: int) -> Int64:
    differ = (right >> bit ^ right >> other) & 1
    return right ^ (differ << bit | differ << other)
