"""Numbers of steps that follow from the codes which came back: a multiplier or an addend, the threshold of a ReLU."""

import math
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np

from qexport.core.intformat import Int64
from qexport.core.steps import Add, Chain, Step
from qexport.findings.change import Bools, Change, Stage
from qexport.findings.hypotheses.post import RELU_WRONG
from qexport.findings.model import AnyModel
from qexport.findings.step_mistakes import SOLVED, STEP_NUMBER, all_done, number_that_gives

_CHANNELS = 3  # of which the numbers are wrong, at most


def solved_numbers(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """The number with which all codes are right, of the channels that are wrong."""
    chain = m.facts.chain
    if chain is None or not m.one_by_one:
        return
    stop = m.stop
    wrong, axis = known & (actual != m.golden), m.channel_axis
    channels = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis))).tolist()
    for at, step in enumerate(chain.steps[:stop]):
        field = SOLVED.get(type(step))
        if field is None or not channels:
            continue
        single = not step.arrays[field].ndim
        if not single and len(channels) > _CHANNELS:
            continue
        groups = [list(range(m.channels))] if single else [[channel] for channel in channels]
        found = [_number(m, chain, at, stop, field, some, actual, known) for some in groups]
        if any(one is None for one in found):
            continue
        numbers = step.arrays[field].copy()
        said, cost = [], 0.0
        for (channel, *_), (low, high) in zip(groups, filter(None, found), strict=True):
            right = int(numbers if single else numbers[channel])
            text = f"has {field} {low}" + (f" to {high}" if high > low else "")
            said.append(f"{text}{'' if single else f' in channel {channel}'}, not {right}")
            cost += max(2 * math.log2(abs(low - right) + 1) + 1 - math.log2(high - low + 1), 2.0)
            numbers[() if single else channel] = (low + high) // 2
        other = msgspec.structs.replace(step, **{field: int(numbers) if single else tuple(numbers.tolist())})
        within = None
        if not single:
            shape = [-1 if a == axis else 1 for a in range(wrong.ndim)]
            within = np.broadcast_to(np.isin(np.arange(m.channels), channels).reshape(shape), wrong.shape)
            cost += len(channels) * math.log2(m.channels)
        through = partial(_through, chain, at, other, stop)
        detail = f"{chain.names[at]} {'; '.join(said)}"
        yield Change(STEP_NUMBER, detail, Stage.POST, through, cost=cost, within=within)


def _number(
    m: AnyModel, chain: Chain, at: int, stop: int, field: str, channels: list[int], actual: Int64, known: Bools
) -> tuple[int, int] | None:
    """The least and greatest number of a step with which the codes of some channels add up."""
    step, axis = chain.steps[at], m.channel_axis
    v = all_done(chain, chain.steps[:at], m.accumulator)
    told = np.take(known, channels, axis)
    v, got = np.take(v, channels, axis), np.take(actual - m.entry.offset, channels, axis)
    signs = np.where(told, 1 if isinstance(step, Add) else np.sign(v), 0)
    value = int(np.take(step.arrays[field], channels[0])) if step.arrays[field].ndim else int(step.arrays[field])
    reach = 4 * (abs(value) + 1) + (int(np.ptp(v)) if isinstance(step, Add) else 0)
    least, most = step.limits(field)
    bias = None if chain.bias is None else chain.bias[channels]
    behind = [one.of_channels(channels) for one in chain.steps[at + 1 : stop]]

    def total(number: int) -> int:
        given = msgspec.structs.replace(step, **{field: number}).of_channels(channels).apply(v, axis, bias)
        for one in behind:
            given = one.apply(given, axis, bias)
        return int((signs * given).sum())

    numbers = range(max(value - reach, least), min(value + reach, most) + 1)
    low, high = number_that_gives(numbers, total, int((signs * got).sum()))
    return (low, high) if low <= high and not low <= value <= high else None


def _through(chain: Chain, at: int, other: Step, stop: int, accumulators: Int64) -> Int64:
    return all_done(chain, (*chain.steps[:at], other, *chain.steps[at + 1 : stop]), accumulators)


def solved_relu(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """A ReLU whose threshold is not 0: what lies below it becomes 0, or becomes the threshold."""
    if m.tensor != "relu" or m.memory.order.has_bits:
        return
    sums, got = m.accumulator, actual - m.entry.offset
    wrong = known & (actual != m.golden)
    if not wrong.any():
        return
    low, high = int(sums[wrong].min()), int(sums[wrong].max())
    cost = math.log2(int(np.ptp(m.accumulator)) + 1)
    if low > 0 and not got[wrong].any():  # so far the next sum that is right
        above = sums[known & (sums > high)]
        text = f"{high + 1}" + (f" to {above.min()}" if above.size and above.min() > high + 1 else "")
        change = partial(_cut_below, high + 1, 0)
        yield Change(RELU_WRONG, f"what is below {text} becomes 0", Stage.POST, change, cost=cost)
    if high < 0:
        yield Change(RELU_WRONG, f"what is below {low} becomes 0", Stage.POST, partial(_cut_below, low, 0), cost=cost)
    at = int(got[wrong].min())
    yield Change(RELU_WRONG, f"what is below {at} becomes {at}", Stage.POST, partial(_cut_below, at, at), cost=cost)


def _cut_below(threshold: int, value: int, sums: Int64) -> Int64:
    return np.where(sums < threshold, value, sums)
