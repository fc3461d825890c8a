"""Layers and captures of random geometry."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from qexport.core.capture import LayerCapture
from tests.conftest import make_capture

Widths = st.sampled_from([(4, True), (4, False), (1, False), (1, True), (7, True)])


@st.composite
def captures(draw: st.DrawFn, widths: st.SearchStrategy[tuple[int, bool]] = Widths) -> LayerCapture:
    """A small capture: groups, stride, dilation, asymmetric padding, any signedness, with and without bias."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups = draw(st.integers(1, 3))
    kernel, dilation, vertical, horizontal = pair(1, 3), pair(1, 2), pair(0, 2), pair(0, 2)
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    smallest = np.maximum(1, [reach[0] - sum(vertical), reach[1] - sum(horizontal)])
    extra = pair(0, 2)
    (weight_bits, weight_signed), (input_bits, input_signed) = draw(widths), draw(widths)
    facts: dict[str, Any] = {
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "stride": pair(1, 3),
    }
    return make_capture(
        seed=draw(st.integers(0, 99)),
        plane=(int(smallest[0]) + extra[0], int(smallest[1]) + extra[1]),
        images=draw(st.integers(1, 2)),
        weight_bits=weight_bits,
        weight_signed=weight_signed,
        input_bits=input_bits,
        input_signed=input_signed,
        bias=draw(st.booleans()),
        groups=groups,
        kernel=kernel,
        dilation=dilation,
        padding=(*vertical, *horizontal),
        **facts,
    )
