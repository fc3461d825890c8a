"""PyTorch's own convolution as the reference of the accumulator: in float64, exact for integers below 2^53."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from tests.conftest import cases
from tests.strategies import captures


@settings(max_examples=cases(200))
@given(captures(st.tuples(st.integers(1, 8), st.booleans())))
def test_accumulator_is_torchs_convolution_of_the_codes(capture: LayerCapture) -> None:
    layer = capture.layer
    top, bottom, left, right = layer.padding
    sums = F.conv2d(
        F.pad(torch.tensor(capture.input, dtype=torch.float64), (left, right, top, bottom)),
        torch.tensor(capture.weight, dtype=torch.float64),
        None if capture.bias is None else torch.tensor(capture.bias, dtype=torch.float64),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    assert sums.abs().max() < 2**53
    golden = Golden(capture)
    np.testing.assert_array_equal(golden.accumulator, sums.numpy())
    np.testing.assert_array_equal(golden.values("relu"), F.relu(sums).numpy())
