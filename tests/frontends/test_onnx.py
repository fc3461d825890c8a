"""ONNX files to captures: sums and codes are those of onnx.reference, qonnx and onnxruntime; files are doubted."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import qexport as qx
from qexport.core.capture import Source
from qexport.core.geometry import Sum
from qexport.core.golden import Golden
from qexport.core.network_file import read_network
from qexport.core.network_run import Engine
from qexport.core.rescale import Hardware
from qexport.errors import QexportError
from qexport.frontends.onnx_model.capture import Captured, blank, capture_all, capture_layer, fed
from qexport.frontends.onnx_model.network import integer_network
from qexport.frontends.onnx_model.reading import read_model
from qexport.frontends.onnx_model.walk import Walked, walk
from tests.conftest import cases, check_reference, cli, fails
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
    assert {(fmt.bits, fmt.signed) for fmt in formats if fmt} == {(4, False), (4, True), (8, False), (8, True)}
    assert captured["padded"].capture.layer.padding == (1, 1, 0, 2)  # type: ignore[union-attr]
    assert captured["over_one_axis"].capture.layer.kernel == (1, 3)  # type: ignore[union-attr]
    difference = captured["difference"].capture.layer
    assert isinstance(difference, Sum)
    assert difference.mul == (1, -10)  # the scales are not quite so, but every code is
    for one in walked.layers:  # what `layers` lists without inputs
        assert blank(one).shapes["input"][1:] == captured[one.name].capture.shapes["input"][1:]


def test_codes_of_16_bits(tmp_path: Path) -> None:
    b = Builder(2, 3, 3)
    x = b.quantize("picture", 0.0001, -5, TensorProto.INT16)
    x = b.add("Conv", x, b.weight(1, 2, 1, 1, kind=TensorProto.INT16, limit=9), name="wide")
    model = b.model(b.quantize(x, 1e-6, 7, TensorProto.UINT16))
    _, captured = captures_of(saved(model, tmp_path), zoo.pictures(model))
    formats = captured["wide"].capture.formats
    assert (formats.input.bits, formats.weight.bits, formats.output and formats.output.bits) == (16, 16, 16)


def test_a_hardware_rounds_in_its_own_way(tmp_path: Path) -> None:
    model = zoo.every_node()
    graph = read_model(saved(model, tmp_path))
    inputs = fed(graph, {"picture": zoo.pictures(model, 2)})
    found = capture_layer(walk(graph), "depthwise", inputs, Source(), Hardware(power_of_two=True))
    assert found.capture.departs is not None
    assert found.capture.departs.accumulators > 0


def test_operators_of_integers_from_pixels_on(tmp_path: Path) -> None:
    model = zoo.integer_operators()
    pictures = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 6)).astype(np.uint8)
    walked, captured = captures_of(saved(model, tmp_path), pictures)
    assert without_remarks(captured) == list(captured)
    assert [name for name, one in captured.items() if one.capture.weight is not None] == [
        "of_integers", "padded", "rows", "last"
    ]  # fmt: skip
    assert captured["padded"].capture.layer.padding == (0, 0, 1, 1)  # type: ignore[union-attr]
    assert captured["of_integers"].capture.formats.weight.zero_points != (0,)
    assert not any(one.capture.ties for one in captured.values())
    network = integer_network(walked)
    np.testing.assert_array_equal(network.inputs[0].codes(pictures), pictures)
    outputs = Engine(network).run({"picture": pictures.astype(np.int64)}, list(captured))
    for name, one in captured.items():
        np.testing.assert_array_equal(outputs[name], one.capture.reference_codes, name)


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


@pytest.mark.parametrize(("make", "ties"), [(zoo.every_node, True), (zoo.qonnx_nodes, False)])
def test_import_gives_a_network_whose_layers_are_those_of_the_captures(tmp_path: Path, make: Any, ties: bool) -> None:
    path, target = saved(make(), tmp_path), tmp_path / "net.network.safetensors"
    assert cli("import", path, "--out", target).exit_code == 0
    network = read_network(target)
    walked, captured = captures_of(path, zoo.pictures(make(), 2))
    assert [node.name for node in network.layers] == list(captured)
    (first,) = network.inputs
    reads = [node.name for node in network.layers if node.operands["input"] == (first.name,)]
    grid, view = next(one.call.operands["input"] for one in walked.layers if one.name == reads[0])
    codes = grid.view.then(view).undone(captured[reads[0]].capture.input)
    outputs = Engine(network).run({first.name: codes}, list(captured))
    for node in network.layers:
        given = {name: tensor for name, tensor in captured[node.name].capture.tensors.items() if name in node.operands}
        golden = Golden(node.capture(given))  # of the operands that the framework has there
        reference = captured[node.name].capture
        if reference.steps is not None:
            np.testing.assert_array_equal(golden.values("output"), Golden(reference).values("output"), node.name)
            if not ties:  # which go on from layer to layer
                np.testing.assert_array_equal(outputs[node.name], reference.reference_codes, node.name)


def test_import_names_what_a_network_in_integers_has_no_place_for(tmp_path: Path) -> None:
    b = Builder(4, 6, 6)
    x = b.quantize(b.add("Conv", b.quantize("picture", 0.1, 9), b.weight(4, 4, 1, 1), name="one"), 0.1)
    x = b.add("Resize", x, "", b.constant(np.float32([1, 1, 2, 2])), mode="nearest", name="larger")
    path = saved(b.model(b.add("Conv", x, b.weight(4, 4, 1, 1), name="two")), tmp_path)
    fails(
        cli("import", path, "--out", tmp_path / "n.network.safetensors"), "layer two reads what Resize (larger) gives"
    )
    path = saved(b.model(b.add("Conv", x, b.real(4, 4, 1, 1), name="three")), tmp_path)
    fails(cli("import", path, "--out", tmp_path / "n.network.safetensors"), "layer three: its weight is not quantized")


@pytest.mark.whole
def test_the_command_line(tmp_path: Path) -> None:
    model = zoo.qonnx_nodes()
    path = saved(model, tmp_path)
    np.save(tmp_path / "pictures.npy", zoo.pictures(model, 5))
    listed = json.loads(cli("layers", "--model", path, "--json").stdout)
    assert [row["name"] for row in listed["layers"]][:2] == ["first", "signs"]
    assert listed["refused"] == []
    arguments = ["--model", path, "--inputs", tmp_path / "pictures.npy"]
    done = cli("dump", *arguments, "--layer", "signs", "--indices", "4,1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert cli("verify", tmp_path / "signs").exit_code == 0
    manifest = json.loads((tmp_path / "signs/manifest.json").read_text())
    assert manifest["source"]["images"] == [4, 1]
    assert manifest["source"]["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    done = cli("dump", *arguments, "--all", "--images", "1", "--out", tmp_path / "all")
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "all/index.json").read_text())["sets"]) == len(listed["layers"])
    fails(cli("dump", "--model", path, "--layer", "last", "--out", tmp_path), "needs --inputs")
    fails(cli("dump", *arguments, "--layer", "lest", "--out", tmp_path), "choose one of last (2)")
    fails(
        cli("dump", *arguments, "--layer", "0", "--input-scale", "1", "--out", tmp_path), "belongs to a PyTorch module"
    )
    np.save(tmp_path / "small.npy", np.zeros((1, 4, 7, 7), np.float32))
    arguments[-1] = tmp_path / "small.npy"
    fails(cli("dump", *arguments, "--layer", "0", "--out", tmp_path), "the model takes n x 4 x 8 x 8")
    np.savez(tmp_path / "named.npz", picture=zoo.pictures(model, 1), another=np.zeros(1))
    arguments[-1] = tmp_path / "named.npz"
    fails(cli("dump", *arguments, "--layer", "0", "--out", tmp_path), "holds another, picture; the model takes picture")


def spoiled(spoil: Callable[[onnx.ModelProto], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = zoo.every_node()
        spoil(model)
        (folder / "net.onnx").write_bytes(model.SerializeToString())
        return folder / "net.onnx"

    return make


def _outside(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.ClearField("int32_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")


def _circle(model: onnx.ModelProto) -> None:
    first, last = model.graph.node[0], model.graph.node[-1]
    first.input[0] = last.output[0]


def _huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].dims[:] = [1 << 20, 1 << 20]


def _large_input(model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = 1 << 20


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "outside": (_outside, "outside the model's folder"),
    "circle": (_circle, "wait for each other"),
    "huge": (_huge, "more than"),
    "large input": (_large_input, "input 'picture' has 4,398,046,511,104 numbers"),
    "undefined": (
        lambda model: model.graph.node[0].input.__setitem__(0, "nobody"),
        "takes 'nobody', which nothing gives",
    ),
    "twice": (lambda model: model.graph.node.append(model.graph.node[0]), "is given twice"),
    "short": (lambda model: model.graph.initializer[0].ClearField("raw_data"), "does not hold"),
    "empty": (lambda model: model.graph.ClearField("node"), "holds no ONNX graph"),
    "half": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        "input 'picture' is FLOAT16",
    ),
    "open": (lambda model: model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value"), "open sizes"),
}


def test_a_layer_beyond_the_budget_blocks_no_other(tmp_path: Path) -> None:
    b = Builder(512, 255, 255)
    x = b.quantize(
        b.add("Conv", b.quantize("picture", 0.1, 9), b.weight(8, 512, 3, 3), pads=[1] * 4, name="large"), 0.1
    )
    x = b.quantize(b.add("Conv", x, b.weight(1, 8, 1, 1), strides=[8, 8], name="small"), 0.1)
    listed = cli("layers", "--model", saved(b.model(x), tmp_path), "--json")
    assert "left out: layer large: its tensors have" in listed.stderr
    document = json.loads(listed.stdout)
    assert [row["name"] for row in document["layers"]] == ["small"]
    assert [row["name"] for row in document["refused"]] == ["large"]


@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, needle = HOSTILE[case]
    path = spoiled(spoil)(tmp_path)
    result = cli("layers", "--model", path)
    fails(result, needle)
    (tmp_path / "text.onnx").write_text("not a model at all, but a long enough text")
    fails(cli("layers", "--model", tmp_path / "text.onnx"), "text.onnx")
    fails(cli("layers", "--model", tmp_path / "none.onnx"), "does not exist")


def test_external_data_of_the_models_own_folder_is_read(tmp_path: Path) -> None:
    model = zoo.every_node()
    pictures = zoo.pictures(model, 1)
    _, whole = captures_of(saved(model, tmp_path), pictures)
    onnx.save(model, tmp_path / "parted.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    _, parted = captures_of(tmp_path / "parted.onnx", pictures)
    for name, one in whole.items():
        assert parted[name].capture.to_bytes()[500:] == one.capture.to_bytes()[500:]
    (tmp_path / "weights.bin").write_bytes(b"short")
    fails(cli("layers", "--model", tmp_path / "parted.onnx"), "in 'weights.bin' cannot be read")


@settings(max_examples=cases(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_a_file_with_wrong_bytes_never_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(zoo.qonnx_nodes().SerializeToString())
    for at in rng.integers(0, len(data), rng.integers(1, 4)):
        data[at] = rng.integers(0, 256)
    path = tmp_path / "net.onnx"
    path.write_bytes(bytes(data))
    result = cli("layers", "--model", path)
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.whole
def test_every_layer_of_a_resnet18_of_torch_ao_is_captured(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    walked, captured = captures_of(zoo.ao_resnet18(tmp_path), pictures)
    assert not walked.refused
    assert without_remarks(captured) == list(captured)
    assert len([one for one in captured.values() if one.capture.weight is not None]) == 21
    assert len([one for one in captured.values() if isinstance(one.capture.layer, Sum)]) == 10  # sums, two pools


def test_the_python_api_reads_a_file(tmp_path: Path) -> None:
    model = zoo.qonnx_nodes()
    path, pictures = saved(model, tmp_path), zoo.pictures(model)
    captured = qx.capture(qx.load(path), "first", pictures)
    assert captured.reference_codes is not None
    assert captured.to_bytes() == qx.capture(qx.load(str(path)), 0, {"picture": pictures}).to_bytes()
    with pytest.raises(QexportError, match="inputs holds image; the model takes picture"):
        qx.capture(qx.load(path), "first", {"image": pictures})
