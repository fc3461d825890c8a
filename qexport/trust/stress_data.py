"""The stress capture of operations whose operands are all data: extreme accumulators, and both sides of every edge."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from qexport.core.capture import Capture, LayerCapture, Source
from qexport.core.codes import CodeFormat
from qexport.core.intformat import Int64
from qexport.core.operations.matmul import MatrixProduct
from qexport.core.operations.sum import WeightedSum
from qexport.trust.aims import Aims

_TRIES = 8
_LEAST = 4  # images of a product: two at the bounds, in which all codes are equal, and two of others
_CODES = 1 << 12  # of an operand, from which are chosen


class Palette:
    """Codes of an operand in the order of the integers that they stand for, less the zero point: all, or many."""

    def __init__(self, rng: np.random.Generator, fmt: CodeFormat):
        low, high = fmt.codes
        some = rng.integers(low, high, _CODES, endpoint=True) if fmt.bits > 12 else fmt.valid
        codes = np.unique([*some, low, high])
        worth = fmt.integers(codes) - fmt.zero_points[0]
        order = np.argsort(worth, kind="stable")
        self.codes, self.worth = codes[order], worth[order]

    def nearest(self, wanted: float) -> int:
        """Which of the codes stands for the integer that is nearest."""
        at = int(np.clip(np.searchsorted(self.worth, wanted), 1, max(len(self.worth) - 1, 1)))
        near = [place for place in (at - 1, at) if place < len(self.worth)]
        return min(near, key=lambda place: abs(float(self.worth[place]) - wanted))


def stress_product(facts: MatrixProduct, like: Capture, aims: Aims, images: int, seed: int) -> LayerCapture:
    """Two images reach the bounds with the codes of both operands; in the others a row each aims at an accumulator."""
    rng = np.random.default_rng(seed)
    left, right = (Palette(rng, fmt) for fmt in (facts.left, facts.right))
    (_, rows, terms), (_, _, columns) = facts.shapes["input"], facts.shapes["input2"]
    places = rng.integers(0, len(left.codes), (images, rows, terms))
    others = rng.integers(0, len(right.codes), (images, terms, columns))
    far = rng.choice([0, len(right.codes) - 1], others.shape)
    others[1::2] = far[1::2]  # these reach far, the others have more to choose from
    for at, size in enumerate((1, -1, 16)[: terms - 1]):  # with which a sum is hit exactly
        others[:, at] = right.nearest(size)
    ends = [(a, b) for a in (0, len(left.codes) - 1) for b in (0, len(right.codes) - 1)]
    ends.sort(key=lambda pair: int(left.worth[pair[0]]) * int(right.worth[pair[1]]))
    for image, (a, b) in enumerate((ends[0], ends[-1])):
        places[image], others[image] = a, b
    own = like.part(0, 1).addend  # whose bounds hold then, too
    added = np.zeros((images, rows, columns), np.int64) if own is None else own.repeat(images, 0)
    taken = np.zeros(images, np.int64)  # rows that aim at something already
    taken[:2] = rows
    for number, (channel, target) in enumerate(aims.targets()):
        column = number % columns if channel is None else channel
        for image in np.flatnonzero(taken < rows)[:_TRIES].tolist():
            row, factors = int(taken[image]), right.worth[others[image, :, column]]
            found = _aim(rng, left, factors, target - int(added[image, row, column]))
            if found is not None:
                places[image, row] = found
                taken[image] += 1
                aims.met(left.worth[found] @ right.worth[others[image]] + added[image, row], range(columns))
                break
    used = max(int(np.flatnonzero(taken)[-1]) + 1, min(_LEAST, images))
    return replace(
        like.part(0, 1),
        input=left.codes[places[:used]],
        input2=right.codes[others[:used]],
        addend=None if own is None else added[:used],
        source=Source(seed=seed, stimulus="stress"),
        **_ALONE,
    )


# What the framework said of the other codes.
_ALONE: dict[str, Any] = dict.fromkeys(("reference", "next_input", "reference_codes", "ties", "departs"))


def _aim(rng: np.random.Generator, palette: Palette, factors: Int64, target: int) -> Int64 | None:
    """Places of codes whose integers times the factors sum up to the target; None where none were found."""
    order = np.argsort(-np.abs(factors), kind="stable")  # the small ones last, they hit exactly
    for _ in range(_TRIES):
        found = rng.integers(0, len(palette.codes), len(factors))
        lacks = target - int((palette.worth[found] * factors).sum())
        for at in order.tolist():
            factor, old = int(factors[at]), int(palette.worth[found[at]])
            if factor and lacks:
                found[at] = palette.nearest(old + lacks / factor)
                lacks -= factor * (int(palette.worth[found[at]]) - old)
        if not lacks:
            return found
    return None


def stress_sum(facts: WeightedSum, like: Capture, aims: Aims, images: int, seed: int) -> LayerCapture:
    """Every channel reaches both bounds; the elements behind aim at an accumulator each, the others are random."""
    rng = np.random.default_rng(seed)
    palettes = {name: Palette(rng, facts.formats.operands[name]) for name in facts.factors}
    _, channels, *plane = facts.shapes["input"]
    room = images * plane[0] * plane[1]
    codes = {name: rng.choice(palette.codes, (channels, room)) for name, palette in palettes.items()}
    terms = [
        dict(zip((mul * palettes[name].worth).tolist(), palettes[name].codes.tolist(), strict=True))
        for name, mul in facts.factors.items()
    ]
    taken = np.zeros(channels, np.int64)
    wanted = [(channel, bound) for channel in range(channels) for bound in facts.bounds]
    for number, (channel, target) in enumerate(chain(wanted, aims.targets())):
        channel = number % channels if channel is None else channel
        found = _split(rng, terms, target)
        if found is not None and taken[channel] < room:
            for name, code in zip(codes, found, strict=True):
                codes[name][channel, taken[channel]] = code
            taken[channel] += 1
            aims.met(np.array([target]), range(channel, channel + 1))
    used = max(1, -(-int(taken.max()) // (plane[0] * plane[1])))
    shaped: dict[str, Any] = {
        name: each.reshape(channels, images, *plane).transpose(1, 0, 2, 3)[:used] for name, each in codes.items()
    }
    return replace(like.part(0, 1), **shaped, source=Source(seed=seed, stimulus="stress"), **_ALONE)


def _split(rng: np.random.Generator, terms: list[dict[int, int]], target: int) -> list[int] | None:
    """A code of each operand, so that the terms sum up to the target."""
    *first, last = terms
    if not first:
        return [last[target]] if target in last else None
    for term in rng.permutation(list(first[0])).tolist():
        if target - term in last:
            return [first[0][term], last[target - term]]
    return None
