"""Coverage: what is counted, against a loop over every product; and the laws of its merge."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qexport.build.coverage import coverage_of_set
from qexport.build.dump import dump
from qexport.core.capture import Capture, LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.coverage import Accumulators, Coverage, Edges, EdgesSeen, Products, merged
from qexport.core.steps import Chain, Clamp, Lookup, Relu, ShiftRight, Signal, Step, Tflite, Threshold, Wrap
from qexport.errors import CheckFailed, QexportError
from qexport.layout.toml import load_layout
from qexport.sets.manifest import read_manifest
from tests.conftest import checked_dump, make_capture


def covered(capture: Capture, layout: str, out: Path) -> Coverage:
    folder = dump(capture, load_layout(layout), out, force=True).folder
    return coverage_of_set(folder, read_manifest(folder))


def every_product(capture: LayerCapture, layout: str) -> set[tuple[int, ...]]:
    """(column, row, weight code, input code) of every multiplication, loop by loop."""
    layer, whole = capture.layer, layout == "default"  # which stores psums: weights meet the whole padded plane
    group_outputs, (sy, sx), (dy, dx) = layer.out_channels // layer.groups, layer.stride, layer.dilation
    padded = np.pad(capture.input, ((0, 0), (0, 0), layer.padding[:2], layer.padding[2:]),
                    constant_values=capture.formats.input.zero_points[0])  # fmt: skip
    rows, cols = layer.output_plane(capture.plane)
    found = set()
    for oc, ic, kh, kw in np.ndindex(*capture.weight.shape):
        code, plane = int(capture.weight[oc, ic, kh, kw]), padded[:, oc // group_outputs * layer.group_inputs + ic]
        if whole:
            found |= {(oc % 8, ic % 8, code, int(x)) for x in np.unique(plane)}
            continue
        for n, oy, ox in np.ndindex(len(padded), rows, cols):
            met = int(plane[n, oy * sy + kh * dy, ox * sx + kw * dx])
            row = (oy * cols + ox) % 8 if layout == "os8x8" else ic % 8
            found.add((oc % 8, row, code, met))
    return found


@pytest.mark.parametrize("layout", ["default", "os8x8", "ws8x8_taps", "banks"])
def test_products_are_those_of_a_loop_over_every_multiplication(layout: str, tmp_path: Path) -> None:
    capture = make_capture(
        seed=2, plane=(5, 4), images=2, weight_bits=2, input_bits=3, in_channels=20, out_channels=10, kernel=(3, 2),
        groups=2, stride=(2, 1), padding=(1, 0, 0, 1), dilation=(1, 2),
    )  # fmt: skip
    formats = replace_input(capture, CodeFormat(bits=3, signed=False, scale=0.5, zero_point=3))
    found = covered(formats, layout, tmp_path).products
    assert found is not None
    wanted = every_product(formats, "default" if layout == "ws8x8_taps" else layout)
    assert found.seen == len(wanted)
    columns, rows = {place[0] for place in wanted}, {place[1] for place in wanted}
    assert (found.elements, found.weights, found.inputs) == (len(columns) * len(rows), 4, 8)


def replace_input(capture: LayerCapture, fmt: CodeFormat) -> LayerCapture:
    import msgspec

    return replace(capture, formats=msgspec.structs.replace(capture.formats, input=fmt))


def test_parts_of_the_images_merge_to_the_whole_and_another_layer_does_not(tmp_path: Path) -> None:
    whole = make_capture(plane=(3, 3), images=3)
    parts = [replace(whole, input=whole.input[at : at + 1]) for at in range(3)]
    found = [covered(part, "default", tmp_path / str(at)) for at, part in enumerate(parts)]
    assert list(merged(found).values()) == [covered(whole, "default", tmp_path / "whole")]
    other = covered(make_capture(plane=(3, 3), input_bits=3), "default", tmp_path / "other")
    assert len(merged([*found, other])) == 2
    with pytest.raises(QexportError, match="merge those of equal keys"):
        found[0].merged(other)


def test_too_many_products_are_not_counted(tmp_path: Path) -> None:
    wide = make_capture(plane=(1, 1), weight_bits=12, input_bits=12, kernel=(1, 1), padding=(0, 0, 0, 0))
    found = covered(wide, "default", tmp_path)
    assert found.products is None
    assert "products are not counted; accumulators" in str(found)


@pytest.mark.parametrize(
    ("step", "values", "reached", "missed"),
    [
        (Relu(), [-3, 4], ["above 0", "below 0"], []),
        (Relu(), [0, 4], ["above 0"], ["below 0"]),
        (Clamp(low=-2, high=3), [-3, -2, 3], ["at high", "at low", "below low"], ["above high"]),
        (Wrap(bits=3, signed=True), [-5, 3], ["at high", "wraps below"], ["at low", "wraps above"]),
        (ShiftRight(by=2, round="half_up"), [2, -2, 4, 5, 7], ["above half, positive", "below half, positive",
         "exact, positive", "tie, negative", "tie, positive"],
         ["above half, negative", "below half, negative", "exact, negative"]),
        (ShiftRight(by=0, round="floor"), [2], [], []),
        (Threshold(table=((0, 2),), first=0), [0, 1], ["channel 0: at level 0", "channel 0: below level 1"],
         ["channel 0: at level 1", "channel 0: below level 0"]),
        (Lookup(low=-8, table=(0,) * 16), [-8], ["entry 0"], [f"entry {at}" for at in range(1, 16)]),
        (Tflite(multiplier=1 << 30, shift=-1, rounding="double"), [1, 4],
         ["product exact, positive", "product tie, positive", "shift exact, positive", "shift tie, positive"], None),
    ],
)  # fmt: skip
def test_edges_of_a_step(step: Step, values: list[int], reached: list[str], missed: list[str] | None) -> None:
    start = Signal(("n", "oc", "oy", "ox"), "oc", (1, 1, 1), np.array([-8]), np.array([7]))
    edges = EdgesSeen(Chain([step], start))
    for value in values:  # parts of the images
        edges.add(lambda name, value=value: np.full((1, 1, 1, 1), value))  # type: ignore[misc]
    found = edges.found["step0"]
    assert list(found.reached) == reached
    assert missed is None or sorted(found.missed) == sorted(missed)


def test_levels_of_thresholds_are_counted_channel_by_channel() -> None:
    start = Signal(("n", "oc", "oy", "ox"), "oc", (2, 1, 1), np.array([-8, -8]), np.array([7, 0]))
    edges = EdgesSeen(Chain([Threshold(table=((0,), (1,)), first=0)], start))
    edges.add(lambda name: np.array([0, 0]).reshape(1, 2, 1, 1))
    found = edges.found["step0"]
    assert found.reached == ("channel 0: at level 0", "channel 1: below level 0")
    assert found.missed == ["channel 0: below level 0"]  # channel 1 cannot reach its level


NAMES = st.frozensets(st.sampled_from(["a", "b", "c"])).map(lambda names: tuple(sorted(names)))


@st.composite
def coverages(draw: Any) -> Coverage:
    bits = draw(st.lists(st.booleans(), min_size=24, max_size=24))
    numbers = draw(st.lists(st.integers(-9, 9), min_size=4, max_size=4).map(sorted))
    return Coverage(
        key="k",
        products=draw(st.sampled_from([Products.of(np.array(bits).reshape(2, 3, 4)), None])),
        accumulator=Accumulators(
            low=numbers[0], least=numbers[1], greatest=numbers[2], high=numbers[3], low_reached=draw(st.booleans()),
            high_reached=draw(st.booleans()),
        ),
        steps={"s": Edges(possible=draw(NAMES), reached=draw(NAMES))},
    )  # fmt: skip


@given(coverages(), coverages(), coverages())
def test_the_merge_is_associative_commutative_and_idempotent(a: Coverage, b: Coverage, c: Coverage) -> None:
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(b) == b.merged(a)
    assert a.merged(a) == a
    assert a.merged(b).merged(b) == a.merged(b)  # a run that is merged twice counts once


def test_sets_of_one_content_are_looked_at_once(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(name="once"), "default", tmp_path)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    first = coverage_of_set(folder, read_manifest(folder))
    assert coverage_of_set(copy, read_manifest(copy)) is first
    other = checked_dump(make_capture(1, name="once"), "default", tmp_path / "other")
    assert coverage_of_set(other, read_manifest(other)) != first
    with (copy / "capture.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckFailed, match="differs from the manifest"):
        coverage_of_set(copy, read_manifest(copy))
