"""The public API beyond what its page shows: every tensor of a set, networks, bad arguments, how results print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.errors import CheckFailed, QexportError
from tests.conftest import CONV_PRESETS, make_capture, one_memory_layout

WEIGHT, INPUT = np.ones((2, 3, 3, 3), int), np.ones((1, 3, 5, 5), int)


def test_every_name_of_the_api_is_there_and_listed() -> None:
    assert len(qx.__all__) == 10
    assert set(qx.__all__) <= set(dir(qx))
    assert all(getattr(qx, name).__doc__ for name in qx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dumps'"):
        qx.dumps  # noqa: B018


@pytest.mark.parametrize("layout", CONV_PRESETS)
def test_the_tensors_of_a_set_are_those_of_the_golden_whatever_the_layout(layout: str, tmp_path: Path) -> None:
    capture = make_capture(bias=True)
    vs = qx.dump(capture, tmp_path, layout)
    golden = Golden(capture, vs.manifest.array.get("row"))
    assert vs.tensors
    for tensor in vs.tensors:
        (entry, *_) = [entry for entry in vs.manifest.memories if entry.tensor == tensor]
        want = golden.values(tensor)
        if entry.overflow == "saturate":
            want = np.clip(want, entry.element.low, entry.element.high)
        np.testing.assert_array_equal(vs[tensor], want, tensor)


def test_tensors_stored_as_single_bits_or_with_an_offset_come_back_as_codes(tmp_path: Path) -> None:
    capture = make_capture()
    bits = one_memory_layout("oc ic kh kw bit -> bit | oc ic kh kw |", file="w{bit}.txt")
    np.testing.assert_array_equal(qx.dump(capture, tmp_path / "bits", bits)["weight"], capture.weight)
    moved = one_memory_layout("oc ic kh kw -> | oc ic kh kw |", offset=9, bits=8)
    np.testing.assert_array_equal(qx.dump(capture, tmp_path / "moved", moved)["weight"], capture.weight)


def test_a_changed_file_gives_no_tensor(tmp_path: Path) -> None:
    vs = qx.dump(make_capture(), tmp_path)
    (vs.folder / "weight.hex").write_text("0")
    with pytest.raises(CheckFailed, match=r"weight\.hex is missing, or its SHA-256 differs"):
        vs["weight"]
    assert not vs.verify().ok
    assert "weight.hex" in str(vs.verify())
    with pytest.raises(QexportError, match="tensor: 'sums' is not in"):
        vs["sums"]


def test_a_linear_layer_and_all_of_a_convolutions_geometry() -> None:
    linear = qx.capture(weight=np.ones((5, 7), int), input=np.ones((2, 7), int), weights="int2", name="fc")
    assert (linear.layer.kind, linear.weight.shape, linear.input.shape) == ("linear", (5, 7, 1, 1), (2, 7, 1, 1))
    one = qx.capture(
        weight=np.ones((4, 1, 3, 2), int), input=np.ones((1, 4, 9, 9), int), bias=np.arange(4), groups=4,
        stride=(2, 1), padding=(1, 2, 3, 4), dilation=2, relu=True, weight_scale=[1.0, 2.0, 3.0, 4.0],
        outputs="uint4", output_scale=8.0,
    )  # fmt: skip
    layer = one.layer
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 1), (1, 2, 3, 4), (2, 2), 4)
    assert one.formats.weight.scale == (1.0, 2.0, 3.0, 4.0)
    assert one.formats.output is not None
    numbers = qx.capture(weight=WEIGHT, input=INPUT, weight_scale=np.float32(0.5), weight_zero_point=np.array([1, 0]))
    assert (numbers.formats.weight.scale, numbers.formats.weight.zero_point) == (0.5, (1, 0))
    assert qx.capture(weight=WEIGHT, input=INPUT, padding=(1, 2)).layer.padding == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": "float8"}, "weights: 'float8' is not a format"),
        ({"inputs": "int40"}, "inputs: 'int40' is not a format"),
        ({"weight": WEIGHT[0]}, "weight has 3 axes and input 4"),
        ({"weight": WEIGHT * 200}, "weight code 200 is outside"),
        ({"weight": WEIGHT / 3}, "needs an integer type"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"groups": 2}, "not a multiple of groups 2"),
        ({"name": ""}, "layer"),
        ({"input": None}, "give weight and input"),
        ({"input_scale": float("nan")}, "scale: nan"),
        ({"weight_scale": "wide"}, "weights: .*scale"),
        ({"input_zero_point": 0.5}, "inputs: .*zero_point"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(QexportError, match=says):
        qx.capture(**({"weight": WEIGHT, "input": INPUT} | changes))


def test_steps_and_formats_of_the_output_are_taken(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    facts: dict[str, Any] = {"weight": rng.integers(-8, 8, (3, 2, 3, 3)), "input": rng.integers(0, 16, (1, 2, 5, 5))}
    facts |= {"weights": "int4", "inputs": "uint4"}
    sums = Golden(qx.capture(**facts)).accumulator
    steps = [{"op": "add", "value": [1, 2, 3]}, {"op": "shift_right", "by": 4, "round": "floor"}]
    stepped = qx.capture(**facts, steps=steps, reference_codes=(sums + np.arange(1, 4).reshape(3, 1, 1)) >> 4)
    np.testing.assert_array_equal(qx.dump(stepped, tmp_path)["output"], stepped.reference_codes)
    scaled = qx.capture(**facts, outputs="int8", output_scale=3.3, output_zero_point=-5, name="scaled")
    want = np.clip(np.rint(sums / 3.3 - 5), -128, 127)
    np.testing.assert_array_equal(qx.dump(scaled, tmp_path)["output"], want)
    with pytest.raises(QexportError, match="step 0: op 'softmax' is not known"):
        qx.capture(**facts, steps=[{"op": "softmax"}])


def test_a_reference_that_contradicts_the_codes_is_refused(tmp_path: Path) -> None:
    wrong = qx.capture(weight=WEIGHT, input=INPUT, reference=np.full((1, 2, 3, 3), 28.0))
    with pytest.raises(CheckFailed, match="differs from reference by 1 in the mean"):
        qx.dump(wrong, tmp_path)
    assert not list(tmp_path.glob("layer*"))


def test_a_capture_file_and_folders_are_taken_as_strings(tmp_path: Path) -> None:
    (tmp_path / "capture.safetensors").write_bytes(make_capture().to_bytes())
    vs = qx.dump(str(tmp_path / "capture.safetensors"), str(tmp_path / "out"))
    with pytest.raises(QexportError, match="holds another set; add --force"):
        qx.dump(make_capture(seed=1), tmp_path / "out")
    qx.dump(make_capture(seed=1), tmp_path / "out", force=True)
    assert isinstance(qx.open(str(vs.folder)), qx.VectorSet)
    with pytest.raises(QexportError, match=r"has no manifest\.json"):
        qx.open(tmp_path)


@pytest.mark.whole
def test_a_network_gives_the_same_capture_as_the_command_and_takes_own_pictures() -> None:
    net = qx.load("builtin")
    shipped = LayerCapture.load(Path(__file__).parent.parent / "vectors/features_33/capture.safetensors")
    captured = qx.capture(net, 33)
    np.testing.assert_array_equal(captured.weight, shipped.weight)
    np.testing.assert_array_equal(captured.part(0, shipped.images).input, shipped.input)
    one = qx.capture(net, "8x8", np.full((1, 3, 32, 32), 255, np.uint8))
    assert one.images == 1
    with pytest.raises(QexportError, match=r"pictures: they are float64 \(1, 3, 32, 32\)"):
        qx.capture(net, 33, np.zeros((1, 3, 32, 32)))
    with pytest.raises(QexportError, match="does not exist"):
        qx.load("nowhere.pth")


def test_results_print_their_text_in_a_notebook(set_of: Callable[[str], Path]) -> None:
    class Printer:
        said = ""

        def text(self, text: str) -> None:
            self.said += text

    printer = Printer()
    qx.open(set_of("default")).verify()._repr_pretty_(printer, False)
    assert printer.said.startswith(f"{set_of('default')}: ok, ")
