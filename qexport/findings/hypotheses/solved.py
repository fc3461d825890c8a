"""What the results themselves give away: the weights that were multiplied, and how codes follow from accumulators."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import patches
from qexport.core.steps import Clamp, Relu, ShiftRight
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.orders import reordered
from qexport.findings.model import AnyModel, Model
from qexport.findings.step_mistakes import all_done

EFFECTIVE_KERNEL = Mistake(
    "effective_kernel", "See which weights reach the array: these are the ones that give what came back."
)
WEIGHT_CHANNEL = Mistake("weight_channel", "Load each column of the array with the weights of its own output channel.")
REQUANT_FITTED = Mistake(
    "requant_fitted", "Correct multiplier, shift, addend and clip: these are the ones that give what came back."
)
_UNKNOWNS = 640  # weights of a channel that are solved for, at most
_CHANNELS = 4  # that are solved
_SLACK = 1.2  # equations for each unknown
_PLACES = 2000


def solved_kernel(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """Other weights of the channels that are wrong, where there are few: all of them, those of one input channel, or
    those of one tap."""
    if m.tensor not in ("accumulator", "relu") or m.memory.order.has_bits:
        return
    wrong = known & (actual != m.golden)
    channels = np.flatnonzero(wrong.any(axis=(0, 2, 3))).tolist()
    if not 1 <= len(channels) <= _CHANNELS:
        return
    told = known & ((actual > 0) | (m.tensor != "relu"))
    yield from _other_channels(m, actual, told, channels)
    found: dict[int, Int64] = {}
    for channel in channels:
        solved = _of_channel(m, channel, actual[:, channel], told[:, channel], wrong[:, channel])
        if solved is None:
            return
        found[channel] = solved

    def change(weight: Int64) -> Int64:
        weight = weight.copy()
        for channel, solved in found.items():
            weight[channel] = solved
        return weight

    differ = sum(int((solved != m.weight[channel]).sum()) for channel, solved in found.items())
    detail = "; ".join(_said(m, channel, solved) for channel, solved in found.items())
    cost, within = 12.0 * differ, _within(m, channels)
    yield Change(EFFECTIVE_KERNEL, detail, Stage.WEIGHT_TILES, change, cost=cost, within=within)


def _within(m: Model, channels: list[int]) -> Bools:
    """The values of some channels."""
    return np.broadcast_to(np.isin(np.arange(m.channels), channels)[:, np.newaxis, np.newaxis], m.golden.shape)


def _other_channels(m: Model, actual: Int64, told: Bools, channels: list[int]) -> Iterator[Change]:
    """Channels that have the weights of others of their group."""
    bias = np.zeros(m.layer.out_channels, np.int64) if m.facts.added is None else m.facts.added
    per_group = m.layer.out_channels // m.layer.groups
    taken = np.arange(m.layer.out_channels)
    for channel in channels:
        group = range(channel // per_group * per_group, (channel // per_group + 1) * per_group)
        for other in group:
            given = m.accumulator[:, other] - bias[other] + bias[channel]
            if other != channel and (given == actual[:, channel])[told[:, channel]].all():
                taken[channel] = other
    pairs = [f"output channel {channel} has those of {taken[channel]}" for channel in channels]
    if all(taken[channel] != channel for channel in channels):
        change = reordered(0, taken.tolist())
        cost, within = len(pairs) * math.log2(per_group), _within(m, channels)
        yield Change(WEIGHT_CHANNEL, ", ".join(pairs), Stage.WEIGHT_TILES, change, cost=cost, within=within)


def _of_channel(m: Model, channel: int, actual: Int64, told: Bools, wrong: Bools) -> Int64 | None:
    """The weights of a channel from which all its results follow."""
    inputs, taps = m.layer.group_inputs, math.prod(m.layer.kernel)
    places = np.argwhere(told)
    places = places[np.argsort(~wrong[tuple(places.T)], kind="stable")[:_PLACES]]
    if not len(places):
        return None
    n, y, x = places.T
    first = channel // (m.layer.out_channels // m.layer.groups) * inputs
    images = np.unique(n)
    seen = patches(m.planes[images][:, first : first + inputs], m.layer, m.plane)
    seen = seen[np.searchsorted(images, n), :, :, :, y, x].reshape(len(places), inputs, taps).astype(np.float64)
    error = (actual - m.accumulator[:, channel])[n, y, x]
    parts: list[tuple[slice | int, slice | int]] = [(ic, slice(None)) for ic in range(inputs)]
    parts += [(slice(None), tap) for tap in range(taps)]
    parts += [(slice(row, None, m.row), slice(None)) for row in range(min(m.row, inputs)) if inputs > m.row]
    for part in [*parts, (slice(None), slice(None))]:
        taken = seen[:, part[0], part[1]].reshape(len(places), -1)
        if not 1 <= taken.shape[1] <= min(_UNKNOWNS, len(places) / _SLACK):
            continue
        solution, _, rank, _ = np.linalg.lstsq(taken, error.astype(np.float64), rcond=None)
        more = np.rint(solution).astype(np.int64)
        if rank == taken.shape[1] and np.abs(more).max() < 1 << 20 and (taken.astype(np.int64) @ more == error).all():
            weight = m.weight[channel].reshape(inputs, taps).copy()
            weight[part] += more.reshape(weight[part].shape)
            whole: Int64 = weight.reshape(m.weight[channel].shape)
            return whole
    return None


def _said(m: Model, channel: int, solved: Int64) -> str:
    """The weights that differ, and where they stand in the set if they do."""
    kernels, own = solved.reshape(len(solved), -1), m.weight[channel].reshape(len(solved), -1)
    text = f"output channel {channel}"
    differing = np.flatnonzero((kernels != own).any(axis=0))
    for tap in differing.tolist():
        for other in range(own.shape[1]):
            if len(solved) > 1 and other != tap and np.array_equal(kernels[:, tap], own[:, other]):
                where, there = (f"kh={t // m.layer.kernel[1]} kw={t % m.layer.kernel[1]}" for t in (tap, other))
                text += f", tap {where} has the weights of tap {there}"
    rows = np.flatnonzero((kernels != own).any(axis=1))
    shown = [
        f"input channel {ic}: {solved[ic].tolist()} in place of {m.weight[channel][ic].tolist()}" for ic in rows[:2]
    ]
    return f"{text}, {', '.join(shown)}" + (f" and {len(rows) - 2} more" if len(rows) > 2 else "")


def solved_requantization(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """code = clip(floor(gain x v + addend)), v what stands before the shift of the set's steps: gain and addend with
    which all codes are right, where there are some."""
    scaled = _before_rounding(m)
    if scaled is None or not known.any():
        return
    before = scaled(m.accumulator)
    v, q = before[known], actual[known].astype(np.float64)
    low, high = float(q.min()), float(q.max())
    inside = (q > low) & (q < high)
    if inside.sum() < 16 or len(np.unique(q[inside])) < 3:
        return
    gain, _ = np.polyfit(v[inside], q[inside] + 0.5, 1)
    for tried in dict.fromkeys((1.0, -1.0, *(2.0**by for by in (-4, -3, -2, -1, 1, 2, 3, 4)), float(gain))):
        fitted = _addend(v, q, tried, inside) or (_nearby(v, q, tried, inside) if tried == float(gain) else None)
        if fitted is None:
            continue
        factor, addend = fitted

        def change(acc: Int64, factor: float = factor, addend: float = addend) -> Int64:
            return np.clip(np.floor(scaled(acc) * factor + addend), low, high).astype(np.int64)

        detail = (
            f"code = floor({factor:.6g} x v {addend:+.4g}), clipped to {low:.0f}..{high:.0f}; v stands before the shift"
        )
        yield Change(REQUANT_FITTED, detail, Stage.POST, change, cost=64.0)
        return


def _before_rounding(m: AnyModel) -> Callable[[Int64], NDArray[np.float64]] | None:
    """What accumulators are before the shift that rounds, in units of what it gives; None where more than a clip stands
    behind it."""
    chain = m.facts.chain
    last = m.stop
    shifts = [at for at in range(last) if isinstance(chain.steps[at], ShiftRight)]  # type: ignore[union-attr]
    if chain is None or not shifts or m.tensor in m.facts.pooled:
        return None
    step = chain.steps[shifts[-1]]
    if any(not isinstance(behind, Clamp | Relu) for behind in chain.steps[shifts[-1] + 1 : last]):
        return None

    def scaled(acc: Int64) -> NDArray[np.float64]:
        v = all_done(chain, chain.steps[: shifts[-1]], acc)
        scaled: NDArray[np.float64] = v / 2.0 ** step._along("by", v, chain.start.axis)
        return scaled

    return scaled


def _addend(v: NDArray[np.float64], q: NDArray[np.float64], gain: float, inside: Bools) -> tuple[float, float] | None:
    """The addend with which all codes inside the clip are right."""
    least, greatest = (q - gain * v)[inside].max(), (q + 1 - gain * v)[inside].min()
    return (gain, float(least + greatest) / 2) if least < greatest else None


def _nearby(v: NDArray[np.float64], q: NDArray[np.float64], gain: float, inside: Bools) -> tuple[float, float] | None:
    """The same for the gain near one that gives most room: the room has one highest point."""

    def room(tried: float) -> float:
        return float((q + 1 - tried * v)[inside].min() - (q - tried * v)[inside].max())

    first, last = gain * 0.9, gain * 1.1
    for _ in range(60):
        a, b = first + (last - first) / 3, last - (last - first) / 3
        first, last = (a, last) if room(a) < room(b) else (first, b)
    return _addend(v, q, (first + last) / 2, inside)
