"""ONNX files to captures: sums and codes are those of onnx.reference, qonnx and onnxruntime; files are doubted."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from qexport.core.capture import Source
from qexport.core.geometry import Sum
from qexport.core.golden import Golden
from qexport.core.rescale import Hardware
from qexport.frontends.onnx_model.capture import Captured, blank, capture_all, capture_layer, fed
from qexport.frontends.onnx_model.reading import read_model
from qexport.frontends.onnx_model.walk import Walked, walk
from tests.conftest import check_reference
from tests.frontends import onnx_zoo as zoo
from tests.frontends.onnx_zoo import Builder
from tests.frontends.zoo import BREVITAS


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package} is not installed")


def saved(model: onnx.ModelProto, folder: Path, name: str = "net") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def captures_of(path: Path, pictures: Any, hardware: Hardware | None = None) -> tuple[Walked, dict[str, Captured]]:
    """The captures of all layers, each checked against what the framework computed, and their edges."""
    graph = read_model(path)
    inputs = fed(graph, {next(iter(graph.inputs)): pictures})
    walked = walk(graph, inputs.shapes)
    found = list(capture_all(walked, inputs, Source(), hardware))
    captured = {one.capture.layer.name: one for one in found if isinstance(one, Captured)}
    assert len(captured) == len(walked.layers)
    for one in captured.values():
        check_reference(Golden(one.capture))
    check_edges(walked, captured)
    return walked, captured


def check_edges(walked: Walked, captured: dict[str, Captured]) -> None:
    """Every operand is the output of the layers that are said to give it, through its view, bit for bit."""
    outputs = {name: codes for name, one in captured.items() if (codes := one.capture.reference_codes) is not None}
    for one in walked.layers:
        for operand, (grid, view) in one.call.operands.items():
            if set(grid.sources) <= set(outputs):
                codes = np.concatenate([outputs[name] for name in grid.sources], axis=1)
                taken = captured[one.name].capture.tensors[operand]
                np.testing.assert_array_equal(grid.view.then(view).of(codes), taken, one.name)


def without_remarks(captured: dict[str, Captured]) -> list[str]:
    return [name for name, one in captured.items() if not one.remarks]


def test_every_node_between_layers_is_understood(tmp_path: Path) -> None:
    model = zoo.every_node()
    walked, captured = captures_of(saved(model, tmp_path), zoo.pictures(model, 3))
    assert not walked.refused
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert set(layers) <= set(captured)
    assert set(captured) - set(without_remarks(captured)) == {"of_mean"}  # the last layer, behind which nothing rounds
    formats = {one.capture.formats.output for one in captured.values()} - {None}
    assert {(fmt.bits, fmt.signed) for fmt in formats if fmt} == {
        (4, False),
        (4, True),
        (8, False),
        (8, True),
        (16, True),
    }
    assert captured["padded"].capture.layer.padding == (1, 1, 0, 2)  # type: ignore[union-attr]
    assert captured["over_one_axis"].capture.layer.kernel == (1, 3)  # type: ignore[union-attr]
    difference = captured["difference"].capture.layer
    assert isinstance(difference, Sum)
    assert difference.mul == (1, -10)  # the scales are not quite so, but every code is
    for one in walked.layers:  # what `layers` lists without inputs
        assert blank(one).shapes["input"][1:] == captured[one.name].capture.shapes["input"][1:]


def test_a_hardware_rounds_in_its_own_way(tmp_path: Path) -> None:
    model = zoo.every_node()
    graph = read_model(saved(model, tmp_path))
    inputs = fed(graph, {"picture": zoo.pictures(model, 2)})
    found = capture_layer(walk(graph), "depthwise", inputs, Source(), Hardware(power_of_two=True))
    assert found.capture.departs is not None
    assert found.capture.departs.accumulators > 0


@pytest.mark.parametrize("style", ["qdq_u8s8", "qdq_s8s8", "qoperator_u8u8"])
def test_every_layer_of_onnxruntimes_quantizer_is_captured(tmp_path: Path, style: str) -> None:
    needs("onnxruntime")
    import onnxruntime

    model = zoo.quantized_by_onnxruntime(tmp_path, style)
    pictures = zoo.pictures(model, 3)
    walked, captured = captures_of(tmp_path / f"{style}.onnx", pictures)
    assert not walked.refused
    assert without_remarks(captured) == list(captured)
    assert len([one for one in captured.values() if one.capture.weight is not None]) == 5
    if style != "qoperator_u8u8":
        return  # kernels of u8s8 saturate on some processors
    for node in model.graph.node:
        model.graph.output.append(helper.make_empty_tensor_value_info(node.output[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(None, {"picture": pictures}), strict=True))
    for one in walked.layers:
        if one.closing is not None and one.call.weight is not None:
            codes = one.closing.line.view.undone(given[one.closing.quantizer.tensor].astype(np.int64))
            np.testing.assert_array_equal(codes, Golden(captured[one.name].capture).values("output"), one.name)


def test_codes_between_an_unknown_node_are_still_captured(tmp_path: Path) -> None:
    b = Builder(4, 6, 6)
    x = b.quantize("picture", 0.03, 128)
    x = b.add("Conv", x, b.weight(4, 4, 3, 3), name="before")
    x = b.quantize(b.add("Sigmoid", x, name="gate"), 1 / 256)
    x = b.quantize(b.add("Conv", x, b.weight(4, 4, 1, 1), name="behind"), 0.01)
    x = b.quantize(b.add("Resize", x, "", b.constant(np.float32([1, 1, 2, 2])), mode="nearest", name="larger"), 0.01)
    y = b.quantize(b.add("Conv", x, b.weight(4, 4, 1, 1), name="last"), 0.01)
    own = helper.make_node("Own", [y], ["own"], name="own", domain="somebody")
    b.nodes.append(own)
    z = b.add("Conv", "own", b.weight(4, 4, 1, 1), name="cut_off")
    float_weight = b.add("Conv", y, b.real(4, 4, 1, 1), name="of_floats")
    model = b.model(z, float_weight, domains={"somebody": 1})
    walked, captured = captures_of(saved(model, tmp_path), zoo.pictures(model))
    assert list(captured) == ["before", "behind", "last"]
    assert captured["before"].remarks == ("layer before: accumulators only: its sum goes through Sigmoid (gate)",)
    assert without_remarks(captured) == ["behind", "last"]
    assert [(one.name, one.why) for one in walked.refused] == [
        ("cut_off", "layer cut_off: it comes from somebody.Own (own)"),
        ("of_floats", "layer of_floats: its weight is not quantized"),
    ]
    assert [fed.behind for fed in walked.fed.values()] == [None, "Sigmoid (gate)", "Resize (larger)"]


def check_qonnx(model: onnx.ModelProto, walked: Walked, captured: dict[str, Captured], pictures: Any) -> None:
    """The codes of every quantizer are those that qonnx's own executor computes, or differ by 1 at a tie."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    wrapped = ModelWrapper(model)
    name = next(iter(walked.graph.inputs))
    for tensor, shape in ((tensor, walked.shape(tensor)) for node in model.graph.node for tensor in node.output):
        wrapped.set_tensor_shape(tensor, list(shape or ()))
    wrapped.set_tensor_shape(name, list(walked.shape(name) or ()))
    runs = [
        execute_onnx(wrapped, {name: part}, return_full_exec_context=True) for part in np.split(pictures, len(pictures))
    ]
    for one in walked.layers:
        if one.closing is not None:
            quantizer, capture = one.closing.quantizer, captured[one.name].capture
            real = np.concatenate([one.closing.line.view.undone(run[quantizer.tensor]) for run in runs])
            codes = real / np.float32(quantizer.scale) + quantizer.zero_point
            off = np.abs(np.rint(codes) - Golden(capture).values("output"))
            assert off.max() <= 1
            assert off.sum() <= (0 if capture.ties is None else len(capture.ties))


def test_signs_truncation_and_channels_last_are_those_of_qonnx(tmp_path: Path) -> None:
    model = zoo.qonnx_nodes()
    pictures = zoo.pictures(model)
    walked, captured = captures_of(saved(model, tmp_path), pictures)
    assert without_remarks(captured) == list(captured)
    assert [one.capture.layer.name for one in captured.values() if one.capture.weight is not None] == [
        "first", "signs", "last", "classes"
    ]  # fmt: skip
    assert captured["signs"].capture.formats.weight.levels == (-1, 1)
    assert captured["last"].capture.formats.input.bits == 2
    needs("qonnx")
    check_qonnx(model, walked, captured, pictures)


def test_the_network_that_comes_with_qonnx(tmp_path: Path) -> None:
    needs("qonnx")
    model = zoo.of_wheel()
    pictures = np.random.default_rng(0).random((1, 3, 16, 16)).astype(np.float32)
    walked, captured = captures_of(saved(model, tmp_path), pictures)
    assert list(captured) == without_remarks(captured) == ["Conv_10", "Conv_22", "Conv_34", "Conv_48"]
    check_qonnx(model, walked, captured, pictures)


@pytest.mark.whole
@pytest.mark.parametrize("style", ["qonnx", "qcdq"])
@pytest.mark.parametrize("title", list(BREVITAS))
def test_the_exports_of_brevitas(tmp_path: Path, title: str, style: str) -> None:
    for package in ("brevitas", "onnxoptimizer", "qonnx"):
        needs(package)
    path = zoo.of_brevitas(tmp_path, title, style)
    model = onnx.load(path)
    sizes = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    pictures = np.random.default_rng(0).standard_normal((2, *sizes[1:])).astype(np.float32)
    walked, captured = captures_of(path, pictures)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len([one for one in captured.values() if one.capture.weight is not None]) == len(layers)
    weights = {one.capture.formats.weight.bits for one in captured.values() if one.capture.weight is not None}
    assert weights == {4}
    ends = {"Brevitas, per channel": ["/fc/Gemm"], "Brevitas, residual": ["/last/Conv"]}.get(title, [])
    assert [name for name, one in captured.items() if one.remarks] == ends
    if style == "qonnx":
        check_qonnx(model, walked, captured, pictures)
