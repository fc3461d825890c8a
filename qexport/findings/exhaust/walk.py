"""The accumulators that are sent: every one within a channel's bounds, or those at the edges of the steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from qexport.core.edges import edge_values
from qexport.core.intformat import Int64
from qexport.core.steps import Chain, Signal, Step
from qexport.core.tensors import Range


@dataclass(frozen=True)
class Lane:
    """The chain of one channel as a function of integers, for the accumulators low..high."""

    whole: Chain
    channel: int
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low + 1

    @cached_property
    def chain(self) -> Chain:
        """The chain with the numbers of this channel alone."""
        steps = named(self.whole.names, [step.of_channels([self.channel]) for step in self.whole.steps])
        start = self.whole.start
        alone = Signal(("n", start.channel), start.channel, (1,), np.array([self.low]), np.array([self.high]))
        bias = self.whole.bias
        return Chain(steps, alone, None if bias is None else bias[self.channel : self.channel + 1])

    def step(self, index: int, v: Int64) -> Int64:
        """What one step gives for integers."""
        given: Int64 = self.chain.steps[index].apply(v[:, np.newaxis], 1, self.chain.bias)[:, 0]
        return given

    def values(self, v: Int64, steps: slice = slice(None)) -> Int64:
        """What comes behind these steps, by default all, for integers."""
        for index in range(len(self.chain.steps))[steps]:
            v = self.step(index, v)
        return v

    def trace(self, accumulator: int) -> dict[str, int]:
        """What every step gives for one accumulator, by the step's name."""
        values = self.chain.values(np.array([[accumulator]]))
        return {name: int(value[0, 0]) for name, value in values.items()}


def named(names: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """Steps that keep the names that they have in one chain in another one."""
    return [msgspec.structs.replace(step, name=name) for step, name in zip(steps, names, strict=True)]


def alike(chain: Chain) -> bool:
    """Whether all channels have equal parameters."""
    tables = [values.values for values in chain.parameters.values() if values.axes[0] == chain.start.channel]
    if chain.bias is not None and any(step.op == "bias" for step in chain.steps):
        tables.append(chain.bias)
    return all((table == table[:1]).all() for table in tables)


def lanes(chain: Chain, by_channel: bool) -> list[Lane]:
    """The channels with their bounds; where no channel is told, the parts of the number line that they cover."""
    bounds = list(zip(chain.start.low.tolist(), chain.start.high.tolist(), strict=True))
    if by_channel:
        return [Lane(chain, channel, low, high) for channel, (low, high) in enumerate(bounds)]
    parts: list[Range] = []
    for low, high in sorted(bounds):
        if parts and low <= parts[-1][1] + 1:
            parts[-1] = parts[-1][0], max(parts[-1][1], high)
        else:
            parts.append((low, high))
    return [Lane(chain, 0, low, high) for low, high in parts]


def edge_accumulators(lane: Lane, most: int) -> tuple[Int64, bool]:
    """The accumulators at which each step's incoming value meets an edge of the step, and those beside; whether all
    are there, for every step. `most`: edges of one step that are looked for."""
    return edge_values(lane.chain.steps, lane.chain.bias, lane.low, lane.high, most, near=True)


def random_accumulators(lane: Lane, count: int, key: tuple[int, ...]) -> Int64:
    """Accumulators of a channel, the same for the same key: half of them anywhere, half of any size."""
    rng = np.random.default_rng(key)
    anywhere = rng.integers(lane.low, lane.high, count - count // 2, endpoint=True)
    middle = min(max(0, lane.low), lane.high)
    sizes = 2 ** (rng.random(count // 2) * np.log2(lane.count + 1)) * rng.choice([-1, 1], count // 2)
    return np.concatenate([anywhere, np.clip(middle + sizes.astype(np.int64), lane.low, lane.high)])
