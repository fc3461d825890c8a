"""Which accumulators a stress capture aims at: those that a wrong step behind them shows."""

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np

from qexport.core.coverage import Bools
from qexport.core.intformat import Int64
from qexport.core.operations.base import Operation
from qexport.core.steps import Chain, MaxPool, SumPool

_BESIDE = 256  # accumulators beside edges that are looked at, of each channel
_SPREAD = 256  # and others, over all that are possible
_REPEATS = 6  # of what shows an error, which may come with half of all others only
_AIMS = 1000  # at stuck bits, at most
_FAILS = 16  # of them one after the other: there is no room any more

Target = tuple[int | None, int]  # channel, None: any; accumulator


class Aims:
    """What accumulators of an operation should be, and which stuck bits those that are there show.

    An error is a bit of what a step is given, stuck at 0 or at 1, in one channel, as its hardware is its own.
    """

    def __init__(self, facts: Operation):
        self._facts, self._chain = facts, facts.chain
        if self._chain is None:
            return
        self._errors = _Errors(self._chain)
        self._edges = [_edges(self._chain, channel) for channel in range(facts.start.channels)]
        self._values = [
            np.concatenate([jumps[:_BESIDE], np.linspace(int(low), int(high), _SPREAD).astype(np.int64)])
            for (jumps, _), low, high in zip(self._edges, self._chain.start.low, self._chain.start.high, strict=True)
        ]
        self._possible = np.stack([self._shown(channel).any(axis=1) for channel in range(len(self._values))], axis=1)
        self._met = np.zeros(self._possible.shape, np.int64)  # (error, channel)

    def targets(self) -> Iterator[Target]:
        """Accumulators that must not be wrong by one: those around 0; in turn the ties and both sides of each edge
        between two codes, and those that show most of the stuck bits which `met` has not seen; what else a wrong step
        may show."""
        yield from ((None, value) for value in (-1, 0, 1))
        if self._chain is None:
            return
        first, last = self._around_edges(self._chain)
        tried = failed = 0
        for target in itertools.chain(first, itertools.repeat(None)):
            if target is not None:
                yield target
            stuck = self._lacking() if tried < _AIMS and failed < _FAILS else None
            if stuck is not None:
                before = self._met.sum()
                yield stuck
                missed = bool(self._met.sum() == before)
                tried, failed = tried + 1, failed + 1 if missed else 0
                if missed:
                    self._drop(*stuck)
            elif target is None:
                break
        yield from last

    def worth(self, sums: Int64, channels: range) -> Int64:
        """How many errors accumulators (channels, n) show that none showed before, for each of the n."""
        if self._chain is None:
            return np.zeros(sums.shape[1], np.int64)
        new = self._met[:, channels] == 0
        worth: Int64 = (self._errors.shown(sums, channels) & new[:, :, np.newaxis]).sum(axis=(0, 1))
        return worth

    def met(self, sums: Int64, channels: range) -> None:
        """The accumulators (channels,) are there."""
        if self._chain is not None:
            self._met[:, channels] += self._errors.shown(sums[:, np.newaxis], channels)[:, :, 0]

    def _around_edges(self, chain: Chain) -> tuple[list[Target], list[Target]]:
        """Ties and both sides of each edge between two codes; and of the places at which a step does something else."""
        alike = not any(array.ndim for step in chain.steps for array in step.arrays.values())
        found = [[(channel, value) for channel, value in self._facts.ties], list[tuple[int, int]]()]
        for channel, edges in enumerate(self._edges):
            for values, those in zip(edges, found, strict=True):
                those += [(channel, value) for value in values.tolist()]
        first, last = (list(dict.fromkeys((None if alike else at, value) for at, value in those)) for those in found)
        return first, last

    def _shown(self, channel: int) -> Bools:
        """(error, value) of those of a channel."""
        shown: Bools = self._errors.shown(self._values[channel][np.newaxis], range(channel, channel + 1))[:, 0]
        return shown

    def _lacking(self) -> tuple[int, int] | None:
        """The channel that lacks most, and its accumulator that shows most of it."""
        need = np.where(self._possible & (self._met < _REPEATS), 16.0**-self._met, 0)
        channel = int(need.sum(axis=0).argmax())
        if not need[:, channel].any():
            return None
        return channel, int(self._values[channel][(need[:, channel] @ self._shown(channel)).argmax()])

    def _drop(self, channel: int, value: int) -> None:
        """Do without an accumulator that could not be had."""
        self._values[channel] = self._values[channel][self._values[channel] != value]
        self._possible[:, channel] = self._shown(channel).any(axis=1)


def _edges(chain: Chain, channel: int) -> tuple[Int64, Int64]:
    """The edges of a channel that lie beside each other and have different codes behind the steps; the others."""
    edges = chain.edges(channel)
    jumps = (np.diff(chain.behind(channel, edges)) != 0) & (np.diff(edges) == 1)
    near = np.append(jumps, False) | np.append(False, jumps)
    return edges[near], edges[~near]


class _Errors:
    """Each bit of what each step is given, stuck at 0 and stuck at 1."""

    def __init__(self, chain: Chain):
        self._chain, self._of = chain, cache(chain.of_channels)
        before = zip(chain.steps, (chain.start, *chain.signals.values()), strict=False)
        until_pool = itertools.takewhile(lambda pair: not isinstance(pair[0], SumPool), before)
        self._given = [signal for step, signal in until_pool if not isinstance(step, MaxPool)]

    def shown(self, sums: Int64, channels: range) -> Bools:
        """Which of them show behind the steps, (error, channel, n), for accumulators (channel, n)."""
        steps, bias, found = self._of(channels), self._chain.bias, list[Bools]()
        own = None if bias is None else bias[channels]
        given = [sums]
        for step in steps:
            given.append(step.apply(given[-1], 0, own))
        for number, signal in enumerate(self._given):
            v = given[number]
            low, high = (end[channels].astype(np.int64)[:, np.newaxis] for end in (signal.low, signal.high))
            for bit in range(max(end.bit_length() for end in signal.range)):
                for wrong in (v & ~(1 << bit), v | 1 << bit):
                    after = np.where((low <= wrong) & (wrong <= high), wrong, v)  # outside a step may have no value
                    for step in steps[number:]:
                        after = step.apply(after, 0, own)
                    found.append(after != given[-1])
        return np.array(found, np.bool_).reshape(-1, *sums.shape)
