"""Mistakes with zero points: of inputs, weights and the codes that are written."""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import accumulate, pad, patches
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.findings.sampled import Errors
from qexport.findings.step_mistakes import moved
from qexport.findings.sums import reach, with_bias

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
        yield Change(INPUT_ZERO_POINT, "taken off twice", Stage.SUM, with_bias(twice))
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


def solved_zero_points(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """The zero points of weights with which all results of the wrong channels are right."""
    zeros = m.facts.weight_zeros
    errors = Errors.of(m, actual, known) if zeros.any() else None
    if errors is None or not errors.wrong.any():
        return
    seen = patches(m.planes, m.layer, m.plane)
    ones = np.ones_like(m.weight)
    added = accumulate(ones, seen, None, m.layer.groups, reach(ones, seen))  # what each zero point is multiplied by
    other, wrong = zeros.copy(), np.flatnonzero(errors.wrong.any(axis=(0, 2, 3)))
    for channel in wrong:
        bad = errors.wrong[:, channel]
        times, off = added[:, channel][bad], errors.off[:, channel][bad]
        more, rest = divmod(int(off[0]), int(times[0])) if times[0] else (0, 1)
        if rest or (off != more * times).any():
            return
        other[channel] -= more
    channels = len(zeros)
    named = [("missing", 0 * zeros), ("in reverse", zeros[::-1]), ("of the other sign", -zeros)]
    named += [(f"of {by} channels before", np.roll(zeros, by)) for by in range(1, min(channels, 257))]
    named += [(f"that of channel {channel} for all", np.full(channels, zeros[channel])) for channel in range(channels)]
    same = [(text, tried) for text, tried in named if (tried == other)[wrong].all()][:1]
    shown = ", ".join(f"{other[channel]}, not {zeros[channel]}, in channel {channel}" for channel in wrong[:3])
    for text, tried in same or [(shown, other)]:
        change = _plus((zeros - tried)[:, np.newaxis, np.newaxis, np.newaxis])
        cost = 8.0 if same else 12.0 * len(wrong)
        yield Change(WEIGHT_ZERO_POINT, text, Stage.WEIGHT_TILES, change, cost=cost)


def _plus(more: Int64) -> Callable[[Int64], Int64]:
    return lambda values: values + more
