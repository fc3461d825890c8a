"""Multipliers, addends and shifts of the steps, channel by channel."""

import numpy as np

from qexport.core.steps import SumPool
from qexport.report.blocks import Block, Section
from qexport.report.facts import SetFacts
from qexport.report.figure import Figure
from qexport.report.layer import step_text
from qexport.report.svg import HALF, Series, bars, curves
from qexport.report.tables import AnyCell, Table

_DRAWN = 256  # channels
_CURVES, _POINTS = 6, 400  # channels whose steps are drawn, accumulators of each


def scaling_section(facts: SetFacts) -> Section | None:
    """None where no step has numbers."""
    chain = facts.operation.chain
    if chain is None or not chain.steps:
        return None
    rows: list[list[AnyCell]] = [
        [name, step_text(step), *map(int, chain.signals[name].range)]
        for name, step in zip(chain.names, chain.steps, strict=True)
    ]
    blocks: list[Block] = [Table("Steps behind the accumulator", ["value", "step", "least", "greatest"], rows)]
    transfer = transfer_figure(facts)
    blocks += [*([transfer] if transfer is not None else []), *scaling_figures(facts)]
    return Section("Requantization", "How an accumulator becomes a code. Ranges are proven for any input.", blocks)


def scaling_figures(facts: SetFacts) -> list[Figure]:
    """A picture of each list of numbers that differ between channels."""
    chain, found = facts.operation.chain, []
    for name, parameter in (chain.parameters if chain is not None else {}).items():
        values = parameter.values
        if values.ndim != 1 or parameter.axes != (facts.channel,) or (values == values[0]).all():
            continue
        shown, labels = values[:_DRAWN].tolist(), [str(at) for at in range(min(len(values), _DRAWN))]
        body = bars(shown, labels, "output channel", "value", tones=[3] * len(shown))
        said = f"{int(values.min()):,} to {int(values.max()):,} over {len(values)} channels"
        said += f", of which the first {_DRAWN} are drawn." if len(values) > _DRAWN else "."
        table = Table(f"{name} by channel", ["channel", name], [[at, int(one)] for at, one in enumerate(values)])
        found.append(Figure(f"scaling-{name}", f"numbers of {name}", said, HALF, 220, body, table))
    return found


def transfer_figure(facts: SetFacts) -> Figure | None:
    """What the steps make of each accumulator, a line for each of the first channels; None without steps, or where a
    code depends on several accumulators."""
    chain = facts.operation.chain
    if chain is None or not chain.steps or any(isinstance(step, SumPool) for step in chain.steps):
        return None
    series, same = (
        [],
        all((p.values == p.values[:1]).all() for p in chain.parameters.values() if facts.channel in p.axes),
    )
    for channel in range(1 if same else min(chain.start.channels, _CURVES)):
        low, high = int(chain.start.low[channel]), int(chain.start.high[channel])
        at = np.unique(np.linspace(low, high, _POINTS).round().astype(np.int64))
        behind = chain.behind(channel, at)
        series.append(Series(f"{facts.channel} {channel}", at.tolist(), behind.tolist(), channel))
    body = curves(series, "accumulator", "code", HALF)
    channels = "all channels do the same" if same else f"channels 0 to {len(series) - 1} of {chain.start.channels}"
    said = f"For every accumulator that is possible; {channels}."
    return Figure("transfer", "from accumulator to code", said, HALF, 260, body)
