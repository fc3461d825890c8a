"""Mistakes at the steps behind the accumulator: each step left out, exchanged, or done in another way."""

import itertools
from collections.abc import Iterator
from functools import partial

from qexport.core.intformat import Int64
from qexport.core.steps import Chain
from qexport.findings.change import Change, Stage
from qexport.findings.model import AnyModel
from qexport.findings.step_mistakes import (
    STEP_MISSING,
    STEP_ORDER,
    STEP_ROUNDING,
    Way,
    all_done,
    channels,
    left_out_and_clip,
    numbers,
    widths,
    works,
)

_OWN_NAMES = (STEP_MISSING, STEP_ORDER, STEP_ROUNDING)  # which post.py has for a chain of one multiplier


def step_mistakes(m: AnyModel) -> Iterator[Change]:
    """Of a chain of steps as far as the compared tensor."""
    chain = m.facts.chain
    if chain is None:
        return
    for at, name in enumerate(chain.names[: m.stop]):
        ways = (
            works(chain, at, m.stop), channels(chain, at), numbers(chain, at), widths(chain, at),
            left_out_and_clip(chain, at, m.stop),
        )  # fmt: skip
        for way in itertools.chain(*ways):
            if m.facts.integers is None or not m.layer.relu or way.mistake not in _OWN_NAMES:
                change = partial(_through, chain, at, m.stop, way)
                yield Change(way.mistake, f"{name} {way.text}", Stage.POST, change)


def _through(chain: Chain, at: int, stop: int, way: Way, accumulators: Int64) -> Int64:
    """Accumulators through the steps, with a mistake from the one at `at` on."""
    v = way.function(all_done(chain, chain.steps[:at], accumulators))
    return all_done(chain, chain.steps[way.behind : stop], v)
