"""The layers: operations that multiply and sum. Each rule records a call and gives the line of its sum."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qexport.frontends.torch_module.lines import Call, Line
from qexport.frontends.torch_module.rules import quantized
from qexport.frontends.torch_module.tracer import Op, Rule


def _take(op: Op, call: Call, bias: Tensor | None = None, **operands: Tensor) -> Line:
    """Keep what a call multiplies; the line of its sum. `weight` has its output channels first."""
    for name, tensor in operands.items():
        call.lines.setdefault(name, op.tracer.line(tensor))
    if call.kept:
        call.operands = {name: tensor.detach().clone() for name, tensor in operands.items()}
        call.bias = None if bias is None else bias.detach().clone()
        if not op.result.is_quantized:
            call.output = op.result.detach().clone()
    if "weight" not in operands:
        return Line.of(call)
    channels = len(operands["weight"])
    free = np.full((2, channels), np.inf)
    return Line(call, np.ones(channels), np.zeros(channels), -free, free, axis=1)


def _convolution(op: Op) -> Line | None:
    call = op.tracer.new_call("conv2d")
    ndim = op["weight"].ndim
    if op["transposed"] or ndim not in (3, 4):
        call.refused = "it is a transposed convolution" if op["transposed"] else "it is a convolution over three axes"
        return None
    if op.tracer.is_driven(op["weight"]):
        call.refused = "its weights depend on the inputs"
        return None
    names = ("stride", "padding", "dilation")
    call.geometry = {name: _two(op[name], ndim - 2, 0 if name == "padding" else 1) for name in names}
    call.geometry["groups"] = op["groups"]
    return _take(op, call, op["bias"], input=op["input"], weight=op["weight"])


def _two(values: Sequence[int], axes: int, fill: int) -> tuple[int, int]:
    """A number for each of two axes; a convolution over one axis has planes of one row."""
    numbers = [*values, *values][:axes]
    return (fill, numbers[0]) if axes == 1 else (numbers[0], numbers[1])


def _matmul(op: Op) -> Line | None:
    """addmm, mm and _int_mm: a linear layer where the right operand is a constant, else a product of matrices."""
    left, right, bias = (op["mat1"], op["mat2"], op["self"]) if op.name == "addmm" else (op["self"], op["mat2"], None)
    if not (op.tracer.is_driven(left) or op.tracer.is_driven(right)):
        return None
    if bias is None and op.tracer.is_driven(right):
        return _take(op, op.tracer.new_call("matmul"), input=left[None], input2=right[None])
    call = op.tracer.new_call("linear")
    if bias is not None and (
        op.tracer.is_driven(bias) or op.tracer.is_driven(right) or bias.ndim != 1 or {"alpha", "beta"} & {*op.given}
    ):
        call.refused = "it adds more than a bias"
        return None
    line = op.tracer.line(right)
    call.lines["weight"] = None if line is None else line.permuted([1, 0])
    return _take(op, call, bias, input=left, weight=right.t())


def _batched(op: Op) -> Line | None:
    if not (op.tracer.is_driven(op["self"]) or op.tracer.is_driven(op["mat2"])):
        return None
    return _take(op, op.tracer.new_call("matmul"), input=op["self"], input2=op["mat2"])


def _quantized_layer(op: Op) -> Line | None:
    """torch.ao's quantized convolutions and linear layers, whose operands and results are integers."""
    kind, relu = op.name.removeprefix("quantized.").removesuffix("_relu"), op.name.endswith("_relu")
    packed = op["W_prepack"] if kind == "linear" else op["packed_weight"]
    if packed is None:
        return _unknown_layer(op)
    call = op.tracer.new_call(kind)
    weight, bias = packed.unpack()
    if kind == "conv2d":
        call.geometry = {name: tuple(getattr(packed, name)()) for name in ("stride", "padding", "dilation")}
        call.geometry["groups"] = packed.groups()
    line = _take(op, call, bias, input=op["X"] if op["qx"] is None else op["qx"], weight=weight)
    if relu:
        call.relu = True
        line = line.limited(low=0.0, clamp=False)
    info = torch.iinfo(op.result.dtype)
    scale, zero = op.result.q_scale(), op.result.q_zero_point()
    return quantized(op, line, scale, zero, None, info.min, info.max)


def _unknown_layer(op: Op) -> Line | None:
    call = op.tracer.new_call("unknown")
    known = "whose scale depends on the inputs" if "dynamic" in op.name else "which is not known in this form"
    call.refused = f"it calls {op.name}, {known}"
    return None


_QUANTIZED = ("conv2d", "conv2d_relu", "linear", "linear_relu")
_UNKNOWN = (
    "conv2d_add", "conv2d_add_relu", "conv1d", "conv1d_relu", "conv3d", "conv3d_relu", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "linear_dynamic", "linear_relu_dynamic", "linear_leaky_relu", "linear_tanh",
)  # fmt: skip
LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "_convolution"), _convolution),  # the second in what torch.jit traced
    **dict.fromkeys(("addmm", "mm", "_int_mm"), _matmul),
    "bmm": _batched,
    **{f"quantized.{name}": _quantized_layer for name in _QUANTIZED},
    **{f"quantized.{name}": _unknown_layer for name in _UNKNOWN},
    **dict.fromkeys(("baddbmm", "mkldnn_rnn_layer", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"), _unknown_layer),
}
