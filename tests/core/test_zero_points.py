"""Zero points: codes stand for code - zero point, padding is the input's, and ragged tiles hold it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.golden import Golden
from qexport.core.operations.registry import operation
from qexport.core.strength import COUNTED, measure
from qexport.errors import QexportError
from qexport.findings.explain import explain
from tests.conftest import cases, checked_dump, cli, fails
from tests.strategies import captures


def captured(seed: int = 0, channels: bool = True, **changes: Any) -> LayerCapture:
    """6 to 5 channels, 3x3, int8 with zero points: -3 of the inputs; of the weights one for each channel, or none."""
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "weight": rng.integers(-128, 128, (5, 6, 3, 3)),
        "input": rng.integers(-128, 128, (2, 6, 5, 4)),
        "bias": rng.integers(-9000, 9000, 5),
        "weights": "int8",
        "inputs": "int8",
        "weight_zero_point": [0, 7, -128, 127, -1] if channels else 0,
        "input_zero_point": -3,
        "padding": (1, 0, 2, 1),
        "name": "zeros",
    }
    return qx.capture(**(options | changes))


def real_sums(capture: LayerCapture) -> np.ndarray[Any, Any]:
    """The accumulators in Python's integers, from what the codes stand for."""
    layer = capture.layer
    top, bottom, left, right = layer.padding
    x = capture.input.astype(object) - capture.formats.input.zero_points[0]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    zeros = np.broadcast_to(capture.formats.weight.zero_points, len(capture.weight))
    w = capture.weight.astype(object) - zeros[:, None, None, None]
    rows, cols = layer.output_plane(capture.plane)
    out = np.zeros((len(x), len(w), rows, cols), object)
    per_group = len(w) // layer.groups
    for n, oc, oy, ox, c, kh, kw in itertools.product(*map(range, (*out.shape, *w.shape[1:]))):
        channel = oc // per_group * w.shape[1] + c
        y, x_ = oy * layer.stride[0] + kh * layer.dilation[0], ox * layer.stride[1] + kw * layer.dilation[1]
        out[n, oc, oy, ox] += w[oc, c, kh, kw] * x[n, channel, y, x_]
    bias = 0 if capture.bias is None else capture.bias[:, None, None]
    return out + bias


@settings(max_examples=cases(60))
@given(plain=captures(), data=st.data())
def test_accumulators_are_those_of_what_the_codes_stand_for(plain: LayerCapture, data: st.DataObject) -> None:
    def zero_point(fmt: CodeFormat) -> int:
        return data.draw(st.integers(fmt.integer.low, fmt.integer.high))

    weight, seen = plain.formats.weight, plain.formats.input
    zeros = tuple(zero_point(weight) for _ in plain.weight)
    formats = Formats(
        weight=msgspec.structs.replace(weight, zero_point=zeros),
        input=msgspec.structs.replace(seen, zero_point=zero_point(seen)),
    )
    capture = replace(plain, formats=formats)
    golden, expected = Golden(capture), real_sums(capture)
    np.testing.assert_array_equal(golden.accumulator, expected.astype(np.int64))
    least, greatest = golden.facts.bounds
    assert least <= expected.min() <= expected.max() <= greatest


def test_the_bounds_are_those_of_the_extreme_codes() -> None:
    capture = captured()
    lows, highs = -128 + 3, 127 + 3  # of a code less the zero point
    weight = capture.weight - np.array(capture.formats.weight.zero_points)[:, None, None, None]
    ends = weight * lows, weight * highs  # at a position without padding
    least = (np.minimum(*ends).sum(axis=(1, 2, 3)) + capture.bias).min()
    greatest = (np.maximum(*ends).sum(axis=(1, 2, 3)) + capture.bias).max()
    assert operation(capture, None).bounds == (least, greatest)


@pytest.mark.parametrize("layout", ["default", "ws8x8", "hwc_bytes_int8"])
@pytest.mark.parametrize("channels", [False, True])
def test_sets_hold_the_zero_point_in_padding_and_ragged_tiles(channels: bool, layout: str, tmp_path: Path) -> None:
    folder = checked_dump(captured(channels=channels), layout, tmp_path)  # the independent decoder checks it
    vs = qx.open(folder)
    if layout == "default":
        padded = vs["input_padded"]
        assert (padded[:, :, 0] == -3).all()
        words = (folder / "input.hex").read_text().split()
        assert {word[:4] for word in words} == {"fdfd"}  # rows 7 and 6 of 8, of 6 channels
        np.testing.assert_array_equal(vs["accumulator"], real_sums(captured(channels=channels)).astype(np.int64))


def test_folded_bias_is_what_raw_products_lack(tmp_path: Path) -> None:
    golden = Golden(captured(channels=False))
    taps, seen = golden.capture.weight.reshape(5, -1), golden.values("patches").reshape(2, 54, -1)
    raw = np.einsum("ok,nkp->nop", taps, seen).reshape(golden.accumulator.shape)
    folded = golden.values("bias_folded")[:, None, None]
    np.testing.assert_array_equal(raw + folded, golden.accumulator)
    with pytest.raises(QexportError, match="its weights have a zero point"):
        Golden(captured()).values("bias_folded")


@pytest.mark.parametrize("channels", [False, True])
def test_the_bench_passes_and_a_design_without_zero_points_fails(
    simulator: str, channels: bool, tmp_path: Path
) -> None:
    vs = qx.dump(captured(channels=channels), tmp_path)
    assert vs.simulate(simulator=simulator, seed=1).check().compared.keys() == {"psum", "accumulator"}
    text = (vs.folder / "dut.sv").read_text()
    core = tmp_path / "core.sv"
    core.write_text(
        text.replace("localparam signed [63:0] INPUT_ZERO = -3;", "localparam signed [63:0] INPUT_ZERO = 0;")
    )
    assert core.read_text() != text
    assert not vs.simulate(core, simulator=simulator).passed


def test_explanations_add_up(tmp_path: Path) -> None:
    folder = checked_dump(captured(), "default", tmp_path)
    found = explain(folder, 1, 2, 0, 0)
    terms = [step for step in found.steps if step.kind == "term"]
    (accumulator,) = [step for step in found.steps if step.kind == "accumulator"]
    assert any(step.padding and step.input == -3 and step.value == 0 for step in terms)
    bias = next(step.value for step in found.steps if step.kind == "bias")
    assert sum(step.value for step in terms) + bias == accumulator.value
    assert [stored.value for stored in found.stored if stored.tensor == "accumulator"] == [accumulator.value]


def test_a_small_set_keeps_the_zero_points_of_its_channels(simulator: str, tmp_path: Path) -> None:
    vs = qx.dump(captured(), tmp_path)
    core = tmp_path / "core.sv"
    text = (vs.folder / "dut.sv").read_text()
    core.write_text(text.replace("2: weight_zero_of = -128;", "2: weight_zero_of = -127;"))
    assert core.read_text() != text
    run = vs.simulate(core, simulator=simulator)
    wrong = vs.shrink(tmp_path_of(run, "accumulator"), tmp_path / "one")
    assert qx.open(wrong.set).manifest.formats.weight.zero_point == (-128,)
    small = vs.shrink(run, tmp_path / "small", budget=20)
    assert small.failures == ("values of accumulator",)
    assert not qx.open(small.set).verify().faults


def tmp_path_of(run: qx.Verdict, memory: str) -> Path:
    """The words of a memory that a run gave."""
    assert run.kept is not None
    return run.kept / f"{memory}.hex"


def flipped(capture: LayerCapture, name: str, at: tuple[int, ...], bit: int) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors with one bit of a code flipped, computed anew."""
    fmt = getattr(capture.formats, name).integer
    codes = getattr(capture, name).copy()
    codes[at] = fmt.decode(fmt.encode(codes[at]) ^ (1 << bit))
    golden = Golden(
        LayerCapture(
            **({f: getattr(capture, f) for f in ("layer", "formats", "weight", "input", "bias")} | {name: codes})
        )
    )
    return {tensor: golden.values(tensor) for tensor in COUNTED}


def test_strength_counts_what_a_changed_code_changes() -> None:
    rng = np.random.default_rng(1)
    capture = qx.capture(
        weight=rng.integers(-2, 2, (2, 2, 2, 2)), input=rng.choice([1, 1, 2, 3, 0], (1, 2, 3, 3)), bias=[-3, 2],
        weights="int2", inputs="uint2", weight_zero_point=[1, -1], input_zero_point=1, padding=(1, 0, 0, 1),
    )  # fmt: skip
    golden = {tensor: Golden(capture).values(tensor) for tensor in COUNTED}
    info = measure(capture).info
    for name, counts in (("weight", info.weight), ("input", info.input)):
        shown = dict.fromkeys(COUNTED, 0)
        for at in np.ndindex(getattr(capture, name).shape):
            for bit in range(2):
                for tensor, values in flipped(capture, name, at, bit).items():
                    shown[tensor] += bool((values != golden[tensor]).any())
        assert {tensor: getattr(counts, tensor) for tensor in COUNTED} == shown


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_zero_point": 200}, "zero_point: 200 is outside -128..127"),
        ({"weight_zero_point": [0, 1]}, "formats.weight has 2 zero_points; layer zeros has 5 output channels"),
        ({"outputs": "uint8", "relu": True, "output_scale": 0.0}, "scale: 0.0"),
    ],
)
def test_zero_points_that_cannot_be_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(QexportError, match=says):
        captured(**changes)


def test_what_is_not_there_for_zero_points_yet_is_said_in_one_line(tmp_path: Path) -> None:
    folder = checked_dump(captured(), "default", tmp_path)
    fails(cli("rtl", folder, "--style", "ws", "--out", tmp_path / "rtl"), "zero points have no reference RTL yet")
    fails(cli("selftest", folder, "--style", "ws"), "zero points have no reference RTL yet")
