"""The errors that show in matrix products and sums, and those of codes that stand for levels: against brute force."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.strength import COUNTED, measure
from tests.conftest import cases
from tests.core.test_operations import convolutions, products, sums


def counted(capture: LayerCapture, name: str) -> dict[str, int]:
    """Flip every bit of every code of an operand and compute the whole layer again."""
    fmt, codes = capture.formats.operands[name], getattr(capture, name)
    golden = Golden(capture, row=2)
    stages = [stage for stage in COUNTED if golden.facts.has(stage)]
    want, shown = {stage: golden.values(stage) for stage in stages}, dict.fromkeys(stages, 0)
    for at in np.ndindex(*codes.shape):
        for bit in range(fmt.bits):
            changed = codes.copy()
            changed[at] = fmt.integer.decode(fmt.integer.encode(changed[at]) ^ (1 << bit))
            if changed[at] not in fmt.valid:  # counts as one that shows nowhere
                continue
            fields: dict[str, Any] = {name: changed}
            again = Golden(replace(capture, **fields), row=2)
            for stage in stages:
                shown[stage] += not np.array_equal(again.values(stage), want[stage])
    return shown


def small(capture: LayerCapture) -> bool:
    return sum(getattr(capture, name).size * fmt.bits for name, fmt in capture.formats.operands.items()) < 500


@settings(max_examples=cases(60))
@given(st.one_of(products(), sums(), convolutions()).filter(small))
def test_counts_are_those_of_the_whole_computation(capture: LayerCapture) -> None:
    info = measure(capture).info
    for name, fmt in capture.formats.operands.items():
        counts = getattr(info, name)
        assert counts.flips == getattr(capture, name).size * fmt.bits
        for stage, shown in counted(capture, name).items():
            assert getattr(counts, stage) == shown, (name, stage)
