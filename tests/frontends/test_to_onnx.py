"""The exported model gives the codes of the integer network, in onnx.reference and in onnxruntime."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Sum
from qexport.core.network import IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput
from qexport.core.network_run import Engine
from qexport.core.steps import (
    Clamp,
    LeakyRelu,
    Lookup,
    MaxPool,
    Multiply,
    Relu,
    ShiftLeft,
    ShiftRight,
    Step,
    SumPool,
    Tflite,
    Threshold,
    Wrap,
)  # fmt: skip
from qexport.errors import QexportError
from tests.conftest import cases, cli, fails
from tests.frontends.test_onnx import needs
from tests.judges.test_random_networks import Graph
from tests.networks import small_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    from qexport.frontends.to_onnx import onnx_model

pytestmark = pytest.mark.filterwarnings("ignore")


Json = dict[str, Any]
Computes = Callable[[IntegerNetwork, dict[str, Any]], list[Any]]


def by_reference(network: IntegerNetwork, inputs: dict[str, Any]) -> list[Any]:
    return list(ReferenceEvaluator(onnx_model(network)).run(list(network.placed), inputs))


def by_onnxruntime(network: IntegerNetwork, inputs: dict[str, Any]) -> list[Any]:
    import onnxruntime

    model = onnx_model(network)
    given = {output.name for output in model.graph.output}
    for name in {*network.placed} - given:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(list(network.placed), inputs))


@pytest.fixture(scope="module", params=["onnx", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Computes:
    """An engine that computes the output codes of every layer."""
    needs(request.param)
    return {"onnx": by_reference, "onnxruntime": by_onnxruntime}[request.param]


def same(
    engine: Computes, network: IntegerNetwork, codes: dict[str, Any], inputs: dict[str, Any] | None = None
) -> None:
    """The codes of every layer are those of the integer network."""
    wanted = Engine(network).run(codes, list(network.placed))
    found = engine(network, codes if inputs is None else inputs)
    for (name, expected), got in zip(wanted.items(), found, strict=True):
        assert got.dtype == np.int64
        assert np.array_equal(got, expected), name


def test_the_small_network_with_its_pixels(engine: Computes) -> None:
    network = small_network()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 6), np.uint8)
    same(engine, network, {"image": network.inputs[0].codes(pixels)}, {"image pixels": pixels})


@settings(max_examples=cases(30))
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks(engine: Computes, seed: int) -> None:
    graph = Graph(seed, most=8)
    codes = {"image": graph.array(graph.input.format, graph.pictures, *graph.input.shape)}
    same(engine, graph.network(), codes)


ROUNDINGS = ("floor", "half_up", "half_even", "half_away", "toward_zero")
EACH: dict[str, tuple[Step, ...]] = {
    **{f"shift {name}": (ShiftRight(by=(0, 1, 3), round=name),) for name in ROUNDINGS},  # type: ignore[arg-type]
    "leaky": (LeakyRelu(shift=3, round="half_even"),),
    "relu": (Relu(),),
    "tflite double": (
        ShiftLeft(by=9), Tflite(multiplier=(2**30, 2**31 - 1, 7), shift=(2, -3, 0), rounding="double")
    ),
    "tflite single": (
        ShiftLeft(by=9), Tflite(multiplier=(2**30, 2**31 - 1, 7), shift=(2, -3, 0), rounding="single")
    ),
    "wrap signed": (Multiply(by=(1, -3, 7)), Wrap(bits=5, signed=True)),
    "wrap unsigned": (Multiply(by=(1, -3, 7)), Wrap(bits=5, signed=False)),
    "threshold": (Threshold(table=((-5, 3), (0, 0), (-99, 99)), first=-2),),
    "lookup": (Clamp(low=-4, high=4), Lookup(low=-4, table=tuple(range(18, 0, -2)))),
    "narrow max pool": (MaxPool(kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 1)),),
    "wide max pool": (Multiply(by=(1, -300, 7)), MaxPool(kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 1))),
    "sum pool": (SumPool(kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 1)),),
}  # fmt: skip


def one_layer(steps: tuple[Step, ...], bits: int = 8) -> IntegerNetwork:
    code = CodeFormat(bits=bits, signed=True, scale=1.0)
    formats = Formats(input=code, accumulator=AccumulatorScale(scale=1.0))
    layer = NetworkLayer(Sum(name="layer", mul=(1,)), formats, steps, {"input": ("x",)})
    return IntegerNetwork(
        (NetworkInput(name="x", shape=(3, 16, 16), format=code),), (layer,),
        (NetworkOutput(name="y", from_="layer", scale=1.0),),
    )  # fmt: skip


@pytest.mark.parametrize("name", EACH)
def test_every_step_on_every_code(engine: Computes, name: str) -> None:
    codes = {"x": np.arange(-128, 128).reshape(1, 1, 16, 16).repeat(3, 1)}
    same(engine, one_layer(EACH[name]), codes)


def test_widths_beyond_the_operators_are_said() -> None:
    graph = Graph(3)
    while not any(node.weight is not None and node.formats.input.bits > 8 for node in graph.layers):
        graph = Graph(int(graph.rng.integers(2**31)))
    with pytest.raises(QexportError, match=r"onnx: layer l.: .*ONNX's integer"):
        onnx_model(graph.network())
    with pytest.raises(QexportError, match="leave int64"):
        onnx_model(one_layer((ShiftLeft(by=55), ShiftRight(by=62, round="half_up"))))


def test_the_command_writes_the_model(tmp_path: Path) -> None:
    from qexport.core.network_file import write_network

    path = tmp_path / "small.network.safetensors"
    write_network(small_network(), path)
    result = cli("export", path, "--onnx", tmp_path / "small.onnx")
    assert result.exit_code == 0, result.output
    model = ReferenceEvaluator(str(tmp_path / "small.onnx"))
    assert (model.input_names, model.output_names) == (["image pixels"], ["logits"])
    fails(cli("export", path, "--onnx", tmp_path), "is not a regular file")
