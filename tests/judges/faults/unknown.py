"""What no engineer would list: the right answer is "unexplained"."""

from collections.abc import Callable

import numpy as np

from tests.judges.faults.case import Cases, written
from tests.judges.faults.listed import last_row_early, with_bias, words_later
from tests.judges.faults.machine import Layer, Machine, add_bias, pad
from tests.judges.faults.sets import Set
from tests.judges.faults.variant import offset, taps_swapped, turned_in, weights_of
from tests.judges.notation import Ints

Change = Callable[[Ints, np.random.Generator, int], Ints]  # words, dice, bits of an element


def garbage(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return rng.integers(0, 1 << bits, words.shape)


def xored(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return words ^ rng.integers(0, 1 << bits, words.shape)


def xored_some(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    """A third of the elements, each with a pattern of its own."""
    return np.asarray(np.where(rng.random(words.shape) < 0.33, xored(words, rng, bits), words))


def shuffled(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return rng.permutation(words.ravel()).reshape(words.shape)


def in_order(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return np.sort(words.ravel()).reshape(words.shape)


def hashed(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return np.asarray(words * 2654435761 >> 3 & (1 << bits) - 1)


def squared(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    return np.asarray(words * words % 65521)


def chained(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    """Each element xor the one before it, all through."""
    return np.bitwise_xor.accumulate(words.ravel()).reshape(words.shape)


def noisy(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    """Noise of a normal distribution, as analogue arrays have it."""
    return words + np.rint(rng.normal(0, 3 + abs(words).std() / 8, words.shape)).astype(np.int64)


def flips(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    """One random bit of each second element or so."""
    return np.asarray(np.where(rng.random(words.shape) < 0.5, words ^ 1 << rng.integers(0, bits, words.shape), words))


def random_lane(words: Ints, rng: np.random.Generator, bits: int) -> Ints:
    found = words.copy()
    found[..., 5 % words.shape[2]] = rng.integers(0, 1 << bits, words.shape[:2])
    return found


CHANGES = (garbage, xored, xored_some, shuffled, in_order, hashed, squared, chained, noisy, flips, random_lane)
PLACES = (
    ("plain", "accumulator"), ("dense", "accumulator"), ("nhwc", "accumulator"), ("outputs", "relu"),
    ("tflite", "output"), ("strided", "accumulator"), ("matmul", "accumulator"), ("depthwise", "relu"),
)  # fmt: skip


def made(on: str, tensor: str, change: Change) -> Callable[[Set], Ints]:
    def words(found: Set) -> Ints:
        rng = np.random.default_rng(sum(map(ord, on + change.__name__)))
        return change(found.read(tensor), rng, found.memory(tensor)["bits"])

    return words


# ---- mixtures of three ----------------------------------------------------------------------------------------------


def mixture(tensor: str, *parts: Machine) -> Callable[[Set], Ints]:
    """Each element by one of three wrong machines, drawn."""

    def words(found: Set) -> Ints:
        some = np.stack([found.words(tensor, part.run(found.layer)[tensor]) for part in parts])
        chosen = np.random.default_rng(len(parts)).integers(0, len(parts), some[0].shape)
        return np.asarray(np.take_along_axis(some, chosen[None], axis=0)[0])

    return words


def scrambled(layer: Layer, sums: Ints) -> Ints:
    found = add_bias(layer, sums)
    return found ^ np.random.default_rng(5).integers(0, 32, found.shape)


def together() -> Cases:
    """Three mistakes in one design, one after the other: none of them alone explains it."""
    threes = {
        "plain": Machine(weights=weights_of(taps_swapped((0, 0), (1, 2))), inputs=offset(3), biased=scrambled),
        "strided": Machine(weights=words_later(1), padded=lambda layer, x: pad(layer, x, 5), biased=scrambled),
        "pointwise": Machine(weights=words_later(1), padded=last_row_early(-1), biased=scrambled),
        "nhwc": Machine(weights=weights_of(turned_in(2)), inputs=offset(-2), biased=scrambled),
        "zeros": Machine(weights=weights_of(taps_swapped((0, 1), (1, 0))), inputs=offset(1), biased=scrambled),
    }
    for on, machine in threes.items():
        yield written("three mistakes at once", on, "accumulator", None, mixture("accumulator", machine))
    for on in ("plain", "pointwise", "nhwc", "zeros"):
        three = (
            Machine(biased=with_bias(lambda b: 3 * b)),
            Machine(weights=lambda layer, w: -w),
            Machine(inputs=offset(2)),
        )
        yield written("each element by one of three", on, "accumulator", None, mixture("accumulator", *three))


def cases() -> Cases:
    for number, (on, tensor) in enumerate(PLACES):
        for turn, change in enumerate(CHANGES):
            if (number + turn) % 2 == 0:
                name = change.__name__.replace("_", " ")
                yield written(name, on, tensor, None, made(on, tensor, change))
    yield from together()
