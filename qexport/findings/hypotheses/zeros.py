"""Mistakes with zero points: of inputs, weights and the codes that are written."""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import pad
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.findings.step_mistakes import moved
from qexport.findings.sums import Sums

INPUT_ZERO_POINT = Mistake(
    "input_zero_point", "Take the input's zero point off each code, or fold it into the bias (tensor bias_folded)."
)
WEIGHT_ZERO_POINT = Mistake("weight_zero_point", "Take the zero point of each output channel off its weights.")


def zero_mistakes(m: Model) -> Iterator[Change]:
    """Zero points that are not taken off, or with the wrong sign; psums are of what the codes stand for."""
    zero, zeros = m.zero, m.facts.weight_zeros
    if m.tensor == "psum":
        return
    ways = ((zero, "not taken off"), (2 * zero, "added, not taken off"), (-1, "one too large"), (1, "one too small"))
    for by, how in ways if zero else ():

        def everywhere(planes: Int64, more: int = by) -> Int64:
            return planes + more

        def inside(seen: Int64, more: int = by) -> Int64:
            return pad(seen + more, m.layer, 0)

        yield Change(INPUT_ZERO_POINT, how, Stage.PLANE, everywhere)
        yield Change(INPUT_ZERO_POINT, f"{how}, padding right", Stage.PAD, inside)
    if m.facts.added is not None and zero:
        twice = m.facts.added - zero * m.weight.sum(axis=(1, 2, 3))
        yield Change(INPUT_ZERO_POINT, "taken off twice", Stage.SUM, _with(twice))
    if zeros.any():
        for factor, how in ((1, "not taken off"), (2, "added, not taken off")):
            more = factor * zeros[:, np.newaxis, np.newaxis, np.newaxis]
            yield Change(WEIGHT_ZERO_POINT, how, Stage.WEIGHT_TILES, _plus(more))
        others = [(f"those {text}", other) for text, other in moved(zeros, 0)]
        others += [(f"{by:+d}", zeros + by) for by in (1, -1)]
        for how, other in others:
            if (other != zeros).any():
                more = (zeros - other)[:, np.newaxis, np.newaxis, np.newaxis]
                yield Change(WEIGHT_ZERO_POINT, how, Stage.WEIGHT_TILES, _plus(more))


def _plus(more: Int64) -> Callable[[Int64], Int64]:
    return lambda values: values + more


def _with(bias: Int64) -> Callable[[Sums], Int64]:
    return lambda sums: sums.total + bias[sums.outputs][:, np.newaxis, np.newaxis]
