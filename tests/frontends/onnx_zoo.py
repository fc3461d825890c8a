"""Small ONNX networks, of floats and quantized: what users bring."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


class Builder:
    """A graph, node by node; each node gives a tensor named as it."""

    def __init__(self, *shape: int, seed: int = 0, elements: int = TensorProto.FLOAT):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.input = helper.make_tensor_value_info("picture", elements, ["n", *shape])

    def constant(self, array: Any, kind: int | None = None) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(array)
        if kind is None:
            tensor = numpy_helper.from_array(array, name)
        else:
            tensor = helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
        self.constants.append(tensor)
        return name

    def real(self, *shape: int, scale: float = 0.5) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, kind: str, *inputs: str, name: str | None = None, **facts: Any) -> str:
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **facts))
        return name

    def quantize(self, x: str, scale: float, zero: int = 0, kind: int = TensorProto.UINT8, **facts: Any) -> str:
        """x on a grid: quantized and dequantized."""
        pair = self.constant(np.float32(scale)), self.constant(zero, kind)
        codes = self.add("QuantizeLinear", x, *pair)
        if clip := facts.get("clip"):
            codes = self.add("Clip", codes, *(self.constant(end, kind) for end in clip))
        return self.add("DequantizeLinear", codes, *pair)

    def weight(
        self, *shape: int, kind: int = TensorProto.INT8, limit: int = 127, axis: int | None = None, scale: float = 0.01
    ) -> str:
        """Random weight codes and their real values; `axis`: along which scales differ."""
        codes = self.rng.integers(-limit, limit + 1, shape)
        count = 1 if axis is None else shape[axis]
        scales = (scale * self.rng.uniform(0.5, 2, count)).astype(np.float32)
        zeros = np.zeros(count, np.int64)
        if axis is None:
            return self.add(
                "DequantizeLinear", self.constant(codes, kind), self.constant(scales[0]), self.constant(zeros[0], kind)
            )
        operands = self.constant(codes, kind), self.constant(scales), self.constant(zeros, kind)
        return self.add("DequantizeLinear", *operands, axis=axis)

    def model(self, *outputs: str, opset: int = 21, domains: Mapping[str, int] | None = None) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.input], values, self.constants)
        opsets = [helper.make_opsetid(*pair) for pair in ({"": opset} | dict(domains or {})).items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def floats() -> onnx.ModelProto:
    """Convolutions with padding, groups and strides, BatchNorm, pools, a residual sum, a concatenation, Gemm."""
    b = Builder(3, 12, 12)
    x = b.add("Conv", "picture", b.real(8, 3, 3, 3), b.real(8), pads=[1, 1, 1, 1], name="conv1")
    x = b.add("Relu", x)
    x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = b.add("Conv", x, b.real(8, 1, 3, 3), b.real(8), pads=[1, 1, 1, 1], group=8, name="depthwise")
    y = b.add("Clip", y, b.constant(np.float32(0)), b.constant(np.float32(6)))
    y = b.add("Conv", y, b.real(8, 8, 1, 1), b.real(8), name="pointwise")
    x = b.add("Add", x, y, name="residual")
    x = b.add("Relu", x)
    left = b.add("Conv", x, b.real(4, 8, 3, 3, scale=0.2), strides=[2, 2], pads=[1, 1, 0, 0], name="left")
    right = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], name="average")
    x = b.add("Concat", left, right, axis=1, name="joined")
    x = b.add("GlobalAveragePool", x, name="mean")
    x = b.add("Flatten", x)
    return b.model(b.add("Gemm", x, b.real(5, 12), b.real(5), transB=1, name="classes"), opset=17)


def pictures(model: onnx.ModelProto, count: int = 2, seed: int = 1) -> Array:
    sizes = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal((count, *sizes[1:])).astype(np.float32)


def quantized_by_onnxruntime(folder: Path, style: str) -> onnx.ModelProto:
    """`floats`, by onnxruntime's quantizer: QDQ of u8s8, QDQ of s8s8 per channel, QOperator of u8u8."""
    from onnxruntime import quantization as ort

    model = floats()
    source, target = folder / "floats.onnx", folder / f"{style}.onnx"
    onnx.save(model, source)

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [pictures(model, 1, seed) for seed in range(4)]

        def get_next(self) -> Any:
            return {"picture": self.left.pop()} if self.left else None

    u8, s8 = ort.QuantType.QUInt8, ort.QuantType.QInt8
    facts = {
        "qdq_u8s8": {"quant_format": ort.QuantFormat.QDQ, "activation_type": u8, "weight_type": s8},
        "qdq_s8s8": {
            "quant_format": ort.QuantFormat.QDQ, "activation_type": s8, "weight_type": s8, "per_channel": True
        },
        "qoperator_u8u8": {"quant_format": ort.QuantFormat.QOperator, "activation_type": u8, "weight_type": u8},
    }[style]  # fmt: skip
    ort.quantize_static(source, target, Reader(), **facts)
    return onnx.load(target)


def every_node() -> onnx.ModelProto:
    """QDQ by hand: every node between layers that is understood, and codes of 4 and 8 bits."""
    u8, s8, s4, u4 = (getattr(TensorProto, name) for name in ("UINT8", "INT8", "INT4", "UINT4"))
    b = Builder(4, 10, 10)
    x = b.quantize("picture", 0.02, 120)
    x = b.add("Pad", x, b.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2])))
    x = b.add("Conv", x, b.weight(6, 4, 3, 3, kind=s4, limit=7, axis=0), b.real(6), pads=[0, 0, 1, 0], name="padded")
    gain, mean = np.linspace(-1, 2, 6), np.linspace(-0.5, 0.5, 6)
    numbers = [b.constant(array.astype(np.float32)) for array in (gain, mean, -mean, gain**2 + 0.5)]
    x = b.add("BatchNormalization", x, *numbers)
    x = b.add("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(6)))
    x = b.quantize(x, 0.5, 0, u4)
    y = b.add("Conv", x, b.weight(6, 1, 3, 3, axis=0), group=6, auto_pad="SAME_UPPER", strides=[2, 2], name="depthwise")
    y = b.add("Mul", y, b.constant(np.linspace(0.5, 2, 6).astype(np.float32).reshape(6, 1, 1)))
    y = b.quantize(b.add("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]), 0.05, -3, s8)
    z = b.quantize(b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.4, 1, u4)
    x = b.quantize(b.add("Relu", b.add("Add", y, z, name="sum")), 0.04, -100, s8)
    w = b.quantize(b.add("Sub", x, z, name="difference"), 0.06, 5, s8)
    x = b.add("Concat", x, x, axis=1)  # of one grid
    x = b.quantize(b.add("Concat", x, b.quantize(w, 0.05, 0, s8), axis=1, name="joined"), 0.05, 0, s8)
    x = b.add("Conv", x, b.weight(8, 18, 1, 1, limit=20), b.real(8), dilations=[1, 1], name="mixed")
    x = b.quantize(x, 0.05, 0, s8, clip=(-8, 7))
    rows = b.add("Reshape", x, b.constant(np.array([0, 8, 25])))
    one = b.add("Conv", rows, b.weight(5, 8, 3), b.real(5), pads=[1, 1], name="over_one_axis")
    one = b.quantize(one, 0.1, 0, s8)
    back = b.add("Transpose", one, perm=[0, 2, 1])
    line = b.add("Add", b.add("MatMul", back, b.weight(5, 7, axis=1), name="positions"), b.real(7))
    line = b.quantize(line, 0.05, 0, s8)
    product = b.quantize(b.add("MatMul", rows, line, name="two_activations"), 0.2, 10, u8)
    mean_of = b.quantize(b.add("ReduceMean", x, b.constant(np.array([2, 3])), keepdims=0), 0.05, 0, s8)
    flat = b.add("Flatten", b.add("Unsqueeze", product, b.constant(np.array([1]))), axis=1)
    first = b.add("Gemm", flat, b.weight(4, 56), b.real(4), transB=1, alpha=0.5, beta=2.0, name="gemm")
    last = b.add("Gemm", mean_of, b.weight(8, 4), name="of_mean")
    return b.model(b.quantize(first, 0.2, 0, s8), last)


def qonnx_nodes() -> onnx.ModelProto:
    """QONNX by hand: signs, truncation, other roundings, channels last."""
    b, own, last = Builder(4, 8, 8), "qonnx.custom_op.general", "qonnx.custom_op.channels_last"

    def quant(x: str, scale: Any, bits: int, zero: float = 0, **facts: Any) -> str:
        operands = [b.constant(np.float32(number)) for number in (scale, zero, bits)]
        facts = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | facts
        return b.add("Quant", x, *operands, domain=own, **facts)

    scales = np.linspace(0.1, 0.3, 6).reshape(6, 1, 1, 1)
    x = quant("picture", 0.1, 5, 3)
    x = b.add("Conv", x, quant(b.real(6, 4, 3, 3), scales, 3, narrow=1), b.real(6), pads=[1] * 4, name="first")
    x = quant(b.add("Relu", x), 0.4, 4, signed=0, rounding_mode="FLOOR")
    signs = b.add("BipolarQuant", b.real(6, 6, 3, 3), b.constant(np.float32(0.2)), domain=own)
    x = b.add("Conv", x, signs, b.real(6), name="signs")
    x = b.add("BipolarQuant", x, b.constant(np.float32(0.5)), domain=own)
    x = b.add("Transpose", x, perm=[0, 2, 3, 1])
    weight = quant(b.real(5, 3, 3, 6), 0.1, 4)
    x = b.add(
        "Conv", x, weight, name="last", domain=last, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1],
        dilations=[1, 1], group=1,
    )  # fmt: skip
    numbers = [b.constant(np.linspace(low, 1, 5).astype(np.float32)) for low in (0.5, -1, -1, 0.5)]
    x = b.add("BatchNormalization", x, *numbers, epsilon=1e-5, momentum=0.9, domain=last)
    x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, domain=last)
    x = quant(x, 0.25, 8, rounding_mode="HALF_UP")
    x = b.add("Transpose", x, perm=[0, 3, 1, 2])
    x = b.add("Mul", b.add("GlobalAveragePool", x), b.constant(np.float32(9)))
    x = b.add(
        "Trunc", x, *(b.constant(np.float32(number)) for number in (0.25, 0, 11, 8)), domain=own, rounding_mode="FLOOR"
    )
    x = b.add("Flatten", x)
    x = b.add("MatMul", x, quant(b.real(5, 3), 0.1, 4), name="classes")
    return b.model(quant(x, 0.2, 8), opset=13, domains={own: 1, last: 13})


def of_brevitas(folder: Path, title: str, style: str) -> Path:
    """A network of zoo.BREVITAS in a file: "qonnx", or "qcdq": QDQ with Clip."""
    import warnings

    path = folder / "brevitas.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brevitas.export import export_onnx_qcdq, export_qonnx

        from tests.frontends import zoo

        model, inputs = zoo.BREVITAS[title]()
        export = export_qonnx if style == "qonnx" else export_onnx_qcdq
        export(model, args=inputs[:1], export_path=str(path), dynamo=False)
    return path


def of_wheel() -> onnx.ModelProto:
    """The quantized network that comes with qonnx, on pictures of 16x16."""
    import qonnx

    model = onnx.load(Path(qonnx.__file__).parent / "data/onnx/bsd300x3-espcn/nn_resize/quant_model.onnx")
    for value in (model.graph.input[0], *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_value //= 8
    del model.graph.value_info[:]
    return model


def integer_operators() -> onnx.ModelProto:
    """Integers from the picture on: ConvInteger, MatMulInteger, QLinearMatMul, pools and paddings of codes."""
    b = Builder(3, 6, 6, elements=TensorProto.UINT8)
    u8, s8 = TensorProto.UINT8, TensorProto.INT8

    def codes(*shape: int, kind: int = s8) -> str:
        return b.constant(b.rng.integers(0 if kind == u8 else -9, 9, shape), kind)

    zero, weight_zero = b.constant(3, u8), b.constant(b.rng.integers(-3, 3, 5), s8)
    x = b.add("ConvInteger", "picture", codes(5, 3, 3, 3), zero, weight_zero, pads=[1] * 4, name="of_integers")
    x = b.add("Cast", x, to=TensorProto.FLOAT)
    x = b.add("Mul", x, b.constant(np.linspace(0.001, 0.004, 5).astype(np.float32).reshape(5, 1, 1)))
    x = b.add("Relu", b.add("Add", x, b.real(5, 1, 1)))
    scale = b.constant(np.float32(0.02))
    x = b.add("QuantizeLinear", x, scale, zero)
    x = b.add(
        "Pad", b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), b.constant(np.array([0, 0, 0, 1] * 2)), zero
    )
    real = b.constant(np.float32(0.01))
    operands = [scale, zero, codes(4, 5, 2, 2), real, b.constant(0, s8), b.constant(np.float32(0.07)), zero]
    bias = b.constant(b.rng.integers(-900, 900, 4), TensorProto.INT32)
    x = b.add("QLinearConv", x, *operands, bias, name="padded")
    x = b.add("Reshape", b.add("Transpose", x, perm=[0, 2, 3, 1]), b.constant(np.array([0, 8, 4])))
    numbers = [b.constant(np.float32(0.07)), zero, codes(4, 3), real, b.constant(1, s8), real, b.constant(9, u8)]
    y = b.add("QLinearMatMul", x, *numbers, name="rows")
    z = b.add("MatMulInteger", y, codes(3, 2), b.constant(9, u8), name="last")
    z = b.add("Mul", b.add("Cast", z, to=TensorProto.FLOAT), b.constant(np.float32(0.02)))
    return b.model(b.add("QuantizeLinear", z, b.constant(np.float32(0.1)), b.constant(-4, s8)))


def ao_resnet18(folder: Path, side: int = 32) -> Path:
    """torch.ao, FX: fake quantizers of a ResNet-18 in training, exported as QDQ per channel, BatchNorms apart."""
    import warnings

    import torch
    import torchvision

    path = folder / "resnet18.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization as ao
        from torch.ao.quantization import quantize_fx

        torch.manual_seed(3)
        pictures = torch.randn(8, 3, side, side)
        codes = ao.FakeQuantize.with_args(observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        config = ao.QConfig(activation=codes, weight=ao.default_per_channel_weight_fake_quant)
        mapping = ao.QConfigMapping().set_global(config)
        model = torchvision.models.resnet18(weights=None).train()
        prepared = quantize_fx.prepare_qat_fx(model, mapping, (pictures,))
        for _ in range(2):
            prepared(pictures)
        prepared.apply(ao.disable_observer)
        torch.onnx.export(prepared.eval(), (pictures[:1],), str(path), opset_version=17, dynamo=False)
    return path
