"""QOperators and channels-last nodes as the standard nodes that mean the same: integers, their real values, codes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, helper

from qexport.frontends.onnx_model.reading import attributes, name_of

MICROSOFT = "com.microsoft"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
STANDARD = ("", "ai.onnx")
WIDE_QUANTIZERS = 21  # the first opset with quantizers of 4 and 16 bits


class _Writer:
    """Nodes in place of one; tensors between them are named after it."""

    def __init__(self, node: NodeProto):
        self.node, self.nodes = node, list[NodeProto]()

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **facts: Any) -> str:
        output = output or f"{name_of(self.node)}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name_of(self.node), **facts))
        return output

    def real(self, first: int, axis: int = 1) -> str:
        """The real values of three inputs: integers, scale, zero point."""
        return self.add("DequantizeLinear", [name for name in self.node.input[first : first + 3] if name], axis=axis)

    def codes(self, real: str, first: int) -> list[NodeProto]:
        """All nodes, the last of which gives the codes on the grid of two inputs: scale, zero point."""
        self.add("QuantizeLinear", [real, *self._there(first, 2)], self.node.output[0])
        return self.nodes

    def _there(self, first: int, count: int) -> list[str]:
        return [name for name in self.node.input[first : first + count] if name]

    def kept(self) -> dict[str, Any]:
        """The attributes as they are, but what only its own domain has."""
        return {name: value for name, value in attributes(self.node).items() if name != "opset"}


def _qlinear_conv(node: NodeProto) -> list[NodeProto]:
    out = _Writer(node)
    operands = [out.real(0), out.real(3, axis=0)]
    if len(node.input) > 8 and node.input[8]:
        scale = out.add("Mul", [node.input[1], node.input[4]])
        operands.append(out.add("DequantizeLinear", [node.input[8], scale], axis=0))
    return out.codes(out.add("Conv", operands, **out.kept()), 6)


def _qlinear_matmul(node: NodeProto) -> list[NodeProto]:
    out = _Writer(node)
    return out.codes(out.add("MatMul", [out.real(0), out.real(3)]), 6)


def _qgemm(node: NodeProto) -> list[NodeProto]:
    out, facts = _Writer(node), attributes(node)
    operands = [out.real(0), out.real(3, axis=0 if facts.get("transB") else 1)]
    if node.input[6]:
        scale = out.add("Mul", [node.input[1], node.input[4]])
        operands.append(out.add("DequantizeLinear", [node.input[6], scale], axis=0))
    real = out.add("Gemm", operands, **facts)
    if len(node.input) < 8 or not node.input[7]:
        out.nodes[-1].output[0] = node.output[0]
        return out.nodes
    return out.codes(real, 7)


def _of_integers(kind: str) -> Callable[[NodeProto], list[NodeProto]]:
    """Sums of integers: their real values on a grid of 1."""

    def expand(node: NodeProto) -> list[NodeProto]:
        out = _Writer(node)
        one = out.add("Constant", [], value=helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
        operands = []
        for at, axis in ((0, 1), (1, 0 if kind == "Conv" else 1)):
            zero = [node.input[at + 2]] if len(node.input) > at + 2 and node.input[at + 2] else []
            operands.append(out.add("DequantizeLinear", [node.input[at], one, *zero], axis=axis))
        real = out.add(kind, operands, **out.kept())
        out.add("Cast", [real], node.output[0], to=TensorProto.INT32)
        return out.nodes

    return expand


def _of_two(kind: str) -> Callable[[NodeProto], list[NodeProto]]:
    def expand(node: NodeProto) -> list[NodeProto]:
        out = _Writer(node)
        return out.codes(out.add(kind, [out.real(0), out.real(3)]), 6)

    return expand


def _of_one(kind: str) -> Callable[[NodeProto], list[NodeProto]]:
    def expand(node: NodeProto) -> list[NodeProto]:
        out = _Writer(node)
        facts = out.kept()
        last = bool(facts.pop("channels_last", 0))
        real = out.real(0)
        if last:
            real = out.add("Transpose", [real], perm=[0, 3, 1, 2])
        real = out.add(kind, [real], **facts)
        return out.codes(out.add("Transpose", [real], perm=[0, 2, 3, 1]) if last else real, 3)

    return expand


def _qlinear_concat(node: NodeProto) -> list[NodeProto]:
    out = _Writer(node)
    parts = [out.real(at) for at in range(2, len(node.input), 3)]
    return out.codes(out.add("Concat", parts, **out.kept()), 0)


def _channels_last(node: NodeProto, axes: int) -> list[NodeProto]:
    """The node between two transpositions."""
    out, facts = _Writer(node), attributes(node)
    first, last = [0, axes - 1, *range(1, axes - 1)], [0, *range(2, axes), 1]
    operands = [out.add("Transpose", [node.input[0]], perm=first), *node.input[1:]]
    if node.op_type == "Conv":
        operands[1] = out.add("Transpose", [node.input[1]], perm=first)
    out.add("Transpose", [out.add(node.op_type, operands, **facts)], node.output[0], perm=last)
    return out.nodes


EXPANSIONS: dict[tuple[str, str], Callable[[NodeProto], list[NodeProto]]] = {
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "ConvInteger"): _of_integers("Conv"),
    ("", "MatMulInteger"): _of_integers("MatMul"),
    (MICROSOFT, "QLinearConv"): _qlinear_conv,
    (MICROSOFT, "QGemm"): _qgemm,
    (MICROSOFT, "QLinearAdd"): _of_two("Add"),
    (MICROSOFT, "QLinearMul"): _of_two("Mul"),
    (MICROSOFT, "QLinearAveragePool"): _of_one("AveragePool"),
    (MICROSOFT, "QLinearGlobalAveragePool"): _of_one("GlobalAveragePool"),
    (MICROSOFT, "QLinearLeakyRelu"): _of_one("LeakyRelu"),
    (MICROSOFT, "QLinearSigmoid"): _of_one("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): _of_one("Softmax"),
    (MICROSOFT, "QLinearConcat"): _qlinear_concat,
    (MICROSOFT, "QuantizeLinear"): lambda node: [standard(node)],
    (MICROSOFT, "DequantizeLinear"): lambda node: [standard(node)],
}


def expanded(node: NodeProto, axes: int) -> list[NodeProto]:
    """The node, or the standard nodes that mean it; `axes`: how many its first input has."""
    domain = "" if node.domain in STANDARD else node.domain
    expand = EXPANSIONS.get((domain, node.op_type))
    try:
        if domain == CHANNELS_LAST and axes > 2:
            return _channels_last(node, axes)
        return [node] if expand is None else expand(node)
    except (IndexError, TypeError, ValueError):  # of inputs or attributes that such a node does not have
        return [node]


def standard(node: NodeProto) -> NodeProto:
    """The node with ONNX's own domain in its short form."""
    same = NodeProto()
    same.CopyFrom(node)
    same.domain = ""
    return same


def opset_of(node: NodeProto, opsets: Mapping[str, int]) -> int:
    """The version of ONNX by which a node is read: quantizers by one that has all widths, which means the same."""
    opset = next((opsets[domain] for domain in STANDARD if domain in opsets), 0)
    return max(opset, WIDE_QUANTIZERS) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else opset
