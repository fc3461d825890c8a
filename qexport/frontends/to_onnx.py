"""A network in integers as an ONNX model of integer operators alone: an independent engine computes the same codes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from qexport.core.atomic import write_atomically
from qexport.core.codes import CodeFormat
from qexport.core.geometry import ConvGeometry, MatMul, Sum
from qexport.core.network import PIXELS, IntegerNetwork, NetworkInput, Placed
from qexport.core.steps import (
    Add,
    Bias,
    Clamp,
    LeakyRelu,
    Lookup,
    MaxPool,
    Multiply,
    Pool,
    Relu,
    Round,
    ShiftLeft,
    ShiftRight,
    Signal,
    Step,
    SumPool,
    Tflite,
    Threshold,
    Wrap,
)
from qexport.errors import QexportError

OPSET, IR_VERSION = 18, 9  # which onnxruntime has known for years
BYTE = 128  # signed codes of up to 8 bits are stored as unsigned ones with this zero point
INT32, INT64 = 2**31, 2**63


def write_onnx(network: IntegerNetwork, path: Path) -> None:
    """Write the network as an ONNX model; raises QexportError where a width is beyond ONNX's integer operators."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, onnx_model(network).SerializeToString(deterministic=True))


def onnx_model(network: IntegerNetwork) -> onnx.ModelProto:
    """The output of each layer is an int64 tensor with the layer's name; pixels go in where the input has a lookup."""
    graph = _Graph()
    inputs = [_input(graph, one) for one in network.inputs]
    for placed in network.placed.values():
        try:
            _layer(graph, placed)
        except QexportError as error:
            raise QexportError(f"onnx: layer {placed.node.name}: {error}") from None
    outputs = []
    for output in network.outputs:
        graph.add("Identity", output.from_, to=f"output {output.name}" if _taken(network, output.name) else output.name)
        shape = network.placed[output.from_].output
        name = graph.nodes[-1].output[0]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [None, *shape[1:]]))
    made = helper.make_graph(graph.nodes, "qexport", inputs, outputs, graph.constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="qexport"
    )
    onnx.checker.check_model(model)
    return model


def _taken(network: IntegerNetwork, name: str) -> bool:
    return name in network.placed or any(one.name == name for one in network.inputs)


class _Graph:
    """Nodes and constants as they come; every tensor gets a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, op: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = to or f"{op.lower()}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}:{len(self.nodes)}", **attributes))
        return name

    def constant(self, values: ArrayLike, dtype: Any = np.int64) -> str:
        array = np.asarray(values).astype(dtype)
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant:{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def cast(self, name: str, to: int) -> str:
        made = f"cast:{len(self.nodes)}"
        self.nodes.append(helper.make_node("Cast", [name], [made], name=f"Cast:{len(self.nodes)}", to=to))
        return made


def _input(graph: _Graph, one: NetworkInput) -> Any:
    """The codes under the input's name; what goes in are pixels, `NAME pixels`, where there is a lookup."""
    if one.lookup is None:
        return helper.make_tensor_value_info(one.name, TensorProto.INT64, [None, *one.shape])
    name = f"{one.name} pixels"
    start = np.arange(one.shape[0]).reshape(-1, *(1,) * (len(one.shape) - 1)) * PIXELS
    at = graph.add("Add", graph.cast(name, TensorProto.INT64), graph.constant(start))
    graph.add("Gather", graph.constant(np.array(one.lookup).ravel()), at, to=one.name)
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [None, *one.shape])


def _layer(graph: _Graph, placed: Placed) -> None:
    node = placed.node
    operands = {}
    for name, sources in node.operands.items():
        seen = sources[0] if len(sources) == 1 else graph.add("Concat", *sources, axis=1)
        for view in node.view.get(name, ()):
            if view.op == "permute":
                seen = graph.add("Transpose", seen, perm=list(view.numbers))
            else:
                seen = graph.add("Reshape", seen, graph.constant(view.numbers))
        operands[name] = seen
    v = _accumulator(graph, placed, operands)
    before = placed.chain.start
    for step, after in zip(placed.chain.steps, placed.chain.signals.values(), strict=True):
        v = STEPS[type(step)](_Chained(graph, before, placed.chain.bias), step, v)
        before = after
    graph.add("Identity", v, to=node.name)


def _accumulator(graph: _Graph, placed: Placed, operands: Mapping[str, str]) -> str:
    node, layer = placed.node, placed.node.layer
    if isinstance(layer, Sum):
        terms = []
        for mul, (name, seen) in zip(layer.mul, operands.items(), strict=True):
            point = _plain(name, node.formats.operands[name]).zero_points[0]
            centred = graph.add("Sub", seen, graph.constant(point)) if point else seen
            terms.append(graph.add("Mul", centred, graph.constant(mul)) if mul != 1 else centred)
        return terms[0] if len(terms) == 1 else graph.add("Add", *terms)
    low, high = placed.bounds
    if low < -INT32 or high >= INT32:
        raise QexportError(f"accumulators reach {low}..{high}; ONNX's integer products end in int32")
    read = {name: _bytes(graph, codes, name, node.formats.operands[name]) for name, codes in operands.items()}
    codes, zero = read["input"]
    if isinstance(layer, MatMul):
        return graph.cast(
            graph.add("MatMulInteger", codes, read["input2"][0], zero, read["input2"][1]), TensorProto.INT64
        )
    assert isinstance(layer, ConvGeometry)
    weight, weight_zero = _weights(graph, placed)
    top, bottom, left_, right_ = layer.padding
    sums = graph.add(
        "ConvInteger", codes, weight, zero, weight_zero, kernel_shape=layer.kernel, strides=layer.stride,
        pads=(top, left_, bottom, right_), dilations=layer.dilation, group=layer.groups,
    )  # fmt: skip
    wide = graph.cast(sums, TensorProto.INT64)
    if node.bias is None or any(isinstance(step, Bias) for step in node.steps):
        return wide
    return graph.add("Add", wide, graph.constant(np.asarray(node.bias).reshape(1, -1, 1, 1)))


def _plain(name: str, fmt: CodeFormat) -> CodeFormat:
    if fmt.table is not None:
        raise QexportError(f"codes of {name} stand for levels; ONNX's integer operators take none")
    return fmt


def _bytes(graph: _Graph, codes: str, name: str, fmt: CodeFormat) -> tuple[str, str]:
    """Codes and their zero point as unsigned bytes."""
    code, zero = _plain(name, fmt).integer, fmt.zero_points[0]
    more = BYTE if code.signed else 0
    if code.bits > 8:
        raise QexportError(f"{name} has codes of {code}; ONNX's integer operators take 8 bits")
    moved = graph.add("Add", codes, graph.constant(more)) if more else codes
    return graph.cast(moved, TensorProto.UINT8), graph.constant(zero + more, np.uint8)


def _weights(graph: _Graph, placed: Placed) -> tuple[str, str]:
    """Weights and their zero point as unsigned bytes: 128 where what they stand for has 8 bits."""
    fmt = placed.node.formats.weight
    taps = fmt.integers(np.asarray(placed.node.weight, np.int64))
    zeros = np.array(fmt.zero_points, np.int64)
    centred = taps - zeros.reshape(-1, 1, 1, 1)
    if centred.min() >= -BYTE and centred.max() < BYTE:
        return graph.constant(centred + BYTE, np.uint8), graph.constant(BYTE, np.uint8)
    more = BYTE if fmt.integer.signed else 0
    if fmt.table is not None or fmt.bits > 8:
        raise QexportError(f"weights reach {centred.min()}..{centred.max()}; ONNX's integer operators take 8 bits")
    own = zeros + more if len(zeros) > 1 else zeros[0] + more
    return graph.constant(taps + more, np.uint8), graph.constant(own, np.uint8)


Span = tuple[Any, Any]  # the least and greatest value, of all channels or of each


class _Chained:
    """What a step is written with: the tensor before it, and constants along its channels."""

    def __init__(self, graph: _Graph, before: Signal, bias: Any):
        self.graph, self.before, self.bias = graph, before, bias
        self.span: Span = (before.low, before.high)

    def along(self, values: ArrayLike) -> str:
        """A constant: one number, or one for each channel (and what follows along further axes)."""
        array = np.asarray(values).astype(np.int64)
        if array.ndim == 0:
            return self.graph.constant(array)
        shape = [-1 if at == self.before.axis else 1 for at in range(len(self.before.axes))]
        return self.graph.constant(array.reshape(shape))

    def add(self, v: str, values: ArrayLike) -> str:
        return self.graph.add("Add", v, self.along(values)) if np.any(values) else v

    def multiply(self, v: str, values: ArrayLike) -> str:
        return self.graph.add("Mul", v, self.along(values))

    def where_negative(self, v: str, values: Any) -> str:
        """The numbers where v is below 0, else 0."""
        below = self.graph.cast(self.graph.add("Less", v, self.along(0)), TensorProto.INT64)
        return self.graph.add("Mul", below, self.along(values))

    def floor(self, v: str, by: Any, span: Span) -> str:
        """v / 2^by, rounded down; v lies in the span. What is divided is never negative: there engines agree."""
        by = np.asarray(by, object)
        turns = np.maximum(-(np.asarray(span[0], object) >> by), 0)
        if np.any(np.maximum(span[1], 0) + (turns << by) >= INT64):
            raise QexportError("the values of a shift leave int64 when they are made positive; use smaller numbers")
        up = self.add(v, turns << by)
        return self.add(self.graph.add("Div", up, self.along(1 << by)), -turns)

    def shifted(self, v: str, by: Any, rounding: Round, span: Span) -> str:
        """v / 2^by, rounded: what is added before makes every rounding one down."""
        by, (low, high) = np.asarray(by, object), (np.asarray(end, object) for end in span)
        one = 1 << by
        half, some = one >> 1, np.minimum(one >> 1, 1)
        match rounding:
            case "half_up":
                return self.floor(self.add(v, half), by, (low, high + half))
            case "half_even":
                down = self.floor(v, by, span)
                even = self.multiply(self.floor(down, 1, (low >> by, high >> by)), 2)
                odd = self.multiply(self.graph.add("Sub", down, even), some)
                return self.floor(self.add(self.graph.add("Add", v, odd), half - some), by, (low, high + half))
            case "half_away":
                less = self.graph.add("Add", v, self.where_negative(v, -some))
                return self.floor(self.add(less, half), by, (low - 1, high + half))
            case "toward_zero":
                more = self.graph.add("Add", v, self.where_negative(v, one - 1))
                return self.floor(more, by, (low, high + one))
        return self.floor(v, by, span)


def _tflite(chained: _Chained, step: Step, v: str) -> str:
    assert isinstance(step, Tflite)
    multiplier, shift = (step.arrays[name].astype(object) for name in ("multiplier", "shift"))
    left = np.maximum(shift, 0) if step.rounding == "double" else 0 * shift
    low, high = ((end << left) * multiplier for end in chained.span)
    scaled = chained.multiply(v, (1 << left) * multiplier)
    if step.rounding == "single":
        return chained.shifted(scaled, 31 - shift, "half_up", (low, high))
    upper = chained.shifted(scaled, 31, "half_up", (low, high))
    return chained.shifted(upper, np.maximum(-shift, 0), "half_away", ((low >> 31) - 1, (high >> 31) + 1))


def _wrap(chained: _Chained, step: Step, v: str) -> str:
    assert isinstance(step, Wrap)
    least, (low, high) = step.format.low, chained.span
    turns = chained.floor(chained.add(v, -least), step.bits, (low - least, high - least))
    return chained.graph.add("Sub", v, chained.multiply(turns, 1 << step.bits))


def _threshold(chained: _Chained, step: Step, v: str) -> str:
    assert isinstance(step, Threshold)
    graph, table = chained.graph, step.arrays["table"]
    shape = [len(table) if at == chained.before.axis else 1 for at in range(len(chained.before.axes))]
    apart = graph.add("Unsqueeze", v, graph.constant([-1]))
    reached = graph.add("GreaterOrEqual", apart, graph.constant(table.reshape(*shape, -1)))
    counted = graph.add("ReduceSum", graph.cast(reached, TensorProto.INT64), graph.constant([-1]), keepdims=0)
    return chained.add(counted, step.first)


def _pool(chained: _Chained, step: Step, v: str) -> str:
    assert isinstance(step, Pool)
    graph, (low, high) = chained.graph, chained.before.range
    top, bottom, left, right = step.padding
    stride = step.stride or step.kernel
    if isinstance(step, MaxPool) and high - low < PIXELS:
        small = graph.cast(chained.add(v, -low), TensorProto.UINT8)
        pads = (top, left, bottom, right)
        pooled = graph.add("MaxPool", small, kernel_shape=step.kernel, strides=stride, pads=pads)
        return chained.add(graph.cast(pooled, TensorProto.INT64), low)
    fill = low if isinstance(step, MaxPool) else 0
    if any(step.padding):
        v = graph.add("Pad", v, graph.constant((0, 0, top, left, 0, 0, bottom, right)), graph.constant(fill))
    assert chained.before.plane is not None
    sizes = chained.before.plane[0] + top + bottom, chained.before.plane[1] + left + right
    for axis, size, kernel, by in zip((2, 3), sizes, step.kernel, stride, strict=True):
        last = (size - kernel) // by * by + 1
        parts = [
            graph.add("Slice", v, *(graph.constant([number]) for number in (at, at + last, axis, by)))
            for at in range(kernel)
        ]
        for part in parts[1:]:
            parts[0] = graph.add("Max" if isinstance(step, MaxPool) else "Add", parts[0], part)
        v = parts[0]
    return v


def _leaky(chained: _Chained, step: Step, v: str) -> str:
    assert isinstance(step, LeakyRelu)
    graph = chained.graph
    less = chained.shifted(v, step.shift, step.round, chained.span)
    return graph.add("Where", graph.add("GreaterOrEqual", v, chained.along(0)), v, less)


Write = Callable[[_Chained, Any, str], str]
STEPS: Mapping[type[Step], Write] = {
    Bias: lambda c, step, v: c.add(v, np.asarray(c.bias) << step.shift),
    Multiply: lambda c, step, v: c.multiply(v, step.arrays["by"]),
    Add: lambda c, step, v: c.add(v, step.arrays["value"]),
    ShiftLeft: lambda c, step, v: c.multiply(v, 1 << step.arrays["by"]),
    ShiftRight: lambda c, step, v: c.shifted(v, step.arrays["by"].astype(object), step.round, c.span),
    Tflite: _tflite,
    Relu: lambda c, step, v: c.graph.add("Clip", v, c.along(0)),
    LeakyRelu: _leaky,
    Clamp: lambda c, step, v: c.graph.add("Clip", v, c.along(step.low), c.along(step.high)),
    Wrap: _wrap,
    Threshold: _threshold,
    Lookup: lambda c, step, v: c.graph.add("Gather", c.graph.constant(step.arrays["table"]), c.add(v, -step.low)),
    MaxPool: _pool,
    SumPool: _pool,
}
