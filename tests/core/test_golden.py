"""The golden: a slow loop over Python's integers is the oracle."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import ConvGeometry
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import accumulate, pad, patches, psums
from qexport.core.operations.registry import operation
from qexport.errors import CheckFailed, QexportError
from tests.conftest import cases, check_reference, make_capture
from tests.strategies import captures

many = settings(max_examples=cases(100))


def group_of(layer: ConvGeometry, oc: int) -> int:
    return oc // (layer.out_channels // layer.groups)


def slow_convolution(capture: LayerCapture, codes: Int64) -> list[int]:
    """The accumulators of unpadded input codes, in C order, by the definition."""
    layer, weight = capture.layer, capture.weight.tolist()
    bias = [0] * layer.out_channels if capture.bias is None else capture.bias.tolist()
    top, _, left, _ = layer.padding
    height, width = codes.shape[2:]
    rows, cols = layer.output_plane((height, width))
    out = []
    for image, oc, oy, ox in product(codes.tolist(), range(layer.out_channels), range(rows), range(cols)):
        total = bias[oc]
        first = oc // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups)
        for ic, kh, kw in product(range(layer.in_channels // layer.groups), *map(range, layer.kernel)):
            y = oy * layer.stride[0] + kh * layer.dilation[0] - top
            x = ox * layer.stride[1] + kw * layer.dilation[1] - left
            if 0 <= y < height and 0 <= x < width:
                total += weight[oc][ic][kh][kw] * image[first + ic][y][x]
        out.append(total)
    return out


def extreme_inputs(capture: LayerCapture, largest: bool) -> Int64:
    """One image for each output channel and position: the codes that drive the accumulator there furthest."""
    layer, code = capture.layer, capture.formats.input.integer
    plane = (capture.input.shape[2], capture.input.shape[3])
    rows, cols = layer.output_plane(plane)
    top, bottom, left, right = layer.padding
    py, px = layer.padded_plane(plane)
    images = np.zeros((layer.out_channels, rows, cols, layer.in_channels, py, px), np.int64)
    for oc, oy, ox in product(range(layer.out_channels), range(rows), range(cols)):
        first = group_of(layer, oc) * layer.group_inputs
        for ic, kh, kw in product(range(layer.group_inputs), *map(range, layer.kernel)):
            y, x = oy * layer.stride[0] + kh * layer.dilation[0], ox * layer.stride[1] + kw * layer.dilation[1]
            upward = (capture.weight[oc, ic, kh, kw] > 0) == largest
            images[oc, oy, ox, first + ic, y, x] = code.high if upward else code.low
    inside = images[..., top : py - bottom, left : px - right]
    return inside.reshape(-1, layer.in_channels, *plane)


def convolve(capture: LayerCapture, codes: Int64) -> Int64:
    im2col = patches(pad(codes, capture.layer), capture.layer, (codes.shape[2], codes.shape[3]))
    return accumulate(capture.weight, im2col, capture.bias, capture.layer.groups, operation(capture, None).reach)


@many
@given(captures())
def test_accumulator_is_the_convolution(capture: LayerCapture) -> None:
    assert Golden(capture).accumulator.ravel().tolist() == slow_convolution(capture, capture.input)


@many
@given(captures(), st.integers(1, 4))
def test_psums_gathered_through_addresses_add_up_to_the_accumulator(capture: LayerCapture, row: int) -> None:
    golden = Golden(capture, row)
    psum, address = golden.values("psum"), golden.values("acc_address")
    n, tiles, kh, kw, oc, py, px = psum.shape
    assert tiles == -(-capture.layer.group_inputs // row)
    memory = psum.transpose(0, 1, 4, 2, 3, 5, 6).reshape(n, tiles, oc, kh * kw * py * px)
    gathered = memory[..., address].sum(axis=(1, -2, -1))
    bias = 0 if capture.bias is None else capture.bias[:, None, None]
    np.testing.assert_array_equal(gathered + bias, golden.accumulator)


@many
@given(captures(), st.integers(1, 4))
def test_psum_is_the_tiles_product_at_every_padded_position(capture: LayerCapture, row: int) -> None:
    golden, layer = Golden(capture, row), capture.layer
    psum, padded = golden.values("psum"), golden.values("input_padded")
    for it, oc in product(range(psum.shape[1]), range(layer.out_channels)):
        channels = range(it * row, min((it + 1) * row, layer.group_inputs))
        first = group_of(layer, oc) * layer.group_inputs
        for n, kh, kw, py, px in np.ndindex(*psum.shape[:1], *layer.kernel, *padded.shape[2:]):
            terms = [int(padded[n, first + ic, py, px]) * int(capture.weight[oc, ic, kh, kw]) for ic in channels]
            assert psum[n, it, kh, kw, oc, py, px] == sum(terms)


@many
@given(captures())
def test_accumulator_bounds_are_reached_and_not_exceeded(capture: LayerCapture) -> None:
    low, high = Golden(capture).facts.bounds
    assert convolve(capture, extreme_inputs(capture, largest=False)).min() == low
    assert convolve(capture, extreme_inputs(capture, largest=True)).max() == high
    assert low <= Golden(capture).accumulator.min()
    assert Golden(capture).accumulator.max() <= high


@many
@given(captures(), st.integers(1, 4), st.booleans())
def test_psum_bounds_are_reached_and_not_exceeded(capture: LayerCapture, row: int, largest: bool) -> None:
    layer, code = capture.layer, capture.formats.input.integer
    taps = capture.weight.transpose(0, 2, 3, 1).reshape(layer.out_channels, -1, layer.group_inputs)
    images = np.zeros((*taps.shape[:2], layer.groups, layer.group_inputs), np.int64)
    for oc in range(layer.out_channels):
        images[oc, :, group_of(layer, oc)] = np.where((taps[oc] > 0) == largest, code.high, code.low)
    pixels = images.reshape(-1, layer.in_channels, 1, 1)
    psum = psums(capture.weight, pixels, layer.groups, row, operation(capture, row).reach)
    low, high = Golden(capture, row).facts.psum_bounds
    assert (psum.max() if largest else psum.min()) == (high if largest else low)
    seen = Golden(capture, row).values("psum")
    assert low <= seen.min()
    assert seen.max() <= high


@many
@given(captures())
def test_relu_and_padding_and_patches_follow_from_their_definitions(capture: LayerCapture) -> None:
    golden, layer = Golden(capture), capture.layer
    top, _, left, _ = layer.padding
    padded, plane = golden.values("input_padded"), capture.input.shape[2:]
    inner = padded[:, :, top : top + plane[0], left : left + plane[1]]
    np.testing.assert_array_equal(inner, capture.input)
    assert np.count_nonzero(padded) == np.count_nonzero(inner)
    im2col = golden.values("patches")
    for kh, kw, oy, ox in np.ndindex(*im2col.shape[2:]):
        y, x = oy * layer.stride[0] + kh * layer.dilation[0], ox * layer.stride[1] + kw * layer.dilation[1]
        np.testing.assert_array_equal(im2col[:, :, kh, kw, oy, ox], padded[:, :, y, x])
    assert golden.values("relu").ravel().tolist() == [max(a, 0) for a in golden.accumulator.ravel().tolist()]


def test_sums_beyond_int64_are_refused() -> None:
    with pytest.raises(QexportError):
        Golden(make_capture(weight_bits=32, input_bits=32, input_signed=True)).values("accumulator")


def test_layer_lacks_bias_unless_the_capture_has_one() -> None:
    assert Golden(make_capture(bias=True)).facts.has("bias")
    assert not Golden(make_capture()).facts.has("bias")
    with pytest.raises(QexportError, match=r"tensor 'bias': layer features\.33 does not have it"):
        Golden(make_capture()).values("bias")


def replace_input(capture: LayerCapture, fmt: CodeFormat) -> Formats:
    return Formats(weight=capture.formats.weight, input=fmt)


def with_reference(capture: LayerCapture, steps: int = 0) -> LayerCapture:
    """The capture with its exact reference, one value of it moved by accumulator steps."""
    accumulator = Golden(capture).accumulator.copy()
    accumulator[0, 1, 2, 3] += steps
    scale = capture.formats.weight.scale * capture.formats.input.scale
    return replace(capture, reference=(accumulator * scale).astype(np.float32))


@pytest.mark.parametrize("bias", [False, True])
def test_exact_reference_is_accepted(bias: bool) -> None:
    capture = with_reference(make_capture(bias=bias))
    assert capture.reference is not None
    check = check_reference(Golden(replace(capture, next_input=np.maximum(capture.reference, 0))))
    assert (check.mean_abs, check.max_abs, check.tolerance) == (0.0, 0.0, 0.0625)


def test_capture_without_reference_has_nothing_to_compare() -> None:
    check = check_reference(Golden(make_capture()))
    assert (check.mean_abs, check.max_abs) == (None, None)


@pytest.mark.parametrize("steps", [-1, 1])
def test_reference_off_by_one_accumulator_step_is_refused(steps: int) -> None:
    with pytest.raises(CheckFailed, match="differs from reference"):
        check_reference(Golden(with_reference(make_capture(), steps)))


def test_one_small_scaled_step_is_refused_although_the_mean_is_below_the_bar() -> None:
    capture = make_capture()
    fine = CodeFormat(bits=4, signed=False, scale=2**-8)
    capture = replace(capture, formats=replace_input(capture, fine))
    check_reference(Golden(with_reference(capture)))
    with pytest.raises(CheckFailed, match="differs from reference"):
        check_reference(Golden(with_reference(capture, 1)))


def test_next_input_off_by_one_accumulator_step_is_refused() -> None:
    capture = make_capture()
    relu = (np.maximum(Golden(capture).accumulator, 0) * 0.125).astype(np.float32)
    check_reference(Golden(replace(capture, next_input=relu)))
    relu[1, 0, 0, 0] += 0.125
    with pytest.raises(CheckFailed, match="differs from next_input"):
        check_reference(Golden(replace(capture, next_input=relu)))


@pytest.mark.parametrize("scale", [0.25, 0.5 * 1.01])
def test_wrong_scale_is_refused(scale: float) -> None:
    capture = with_reference(make_capture())
    wrong = replace(capture, formats=replace_input(capture, CodeFormat(bits=4, signed=False, scale=scale)))
    with pytest.raises(CheckFailed, match="differs from reference"):
        check_reference(Golden(wrong))


def test_mean_at_the_bar_is_refused_although_every_value_rounds_right() -> None:
    capture = with_reference(make_capture())
    assert capture.reference is not None
    check_reference(Golden(replace(capture, reference=capture.reference + np.float32(2**-11))))
    with pytest.raises(CheckFailed, match="differs from reference"):
        check_reference(Golden(replace(capture, reference=capture.reference + np.float32(2**-9))))
