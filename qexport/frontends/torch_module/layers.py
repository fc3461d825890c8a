"""The layers: operations that multiply and sum. Each rule records a call and gives the line of its sum."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qexport.frontends.torch_module.lines import Call, Line
from qexport.frontends.torch_module.rules import quantized
from qexport.frontends.torch_module.tracer import Op, Rule


def _take(op: Op, call: Call, input: Tensor, weight: Tensor, bias: Tensor | None) -> Line:
    """Keep what a call multiplies; the line of its sum. `weight` has its output channels first."""
    call.lines.setdefault("input", op.tracer.line(input))
    call.lines.setdefault("weight", op.tracer.line(weight))
    if call.kept:
        call.operands = {"input": input.detach().clone(), "weight": weight.detach().clone()}
        call.bias = None if bias is None else bias.detach().clone()
        if not op.result.is_quantized:
            call.output = op.result.detach().clone()
    channels = len(weight)
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
    return _take(op, call, op["input"], op["weight"], op["bias"])


def _two(values: Sequence[int], axes: int, fill: int) -> tuple[int, int]:
    """A number for each of two axes; a convolution over one axis has planes of one row."""
    numbers = [*values, *values][:axes]
    return (fill, numbers[0]) if axes == 1 else (numbers[0], numbers[1])


def _matmul(op: Op) -> Line | None:
    """addmm, mm and _int_mm: a linear layer where the right operand is a constant."""
    left, right, bias = (op["mat1"], op["mat2"], op["self"]) if op.name == "addmm" else (op["self"], op["mat2"], None)
    if not (op.tracer.is_driven(left) or op.tracer.is_driven(right)):
        return None
    call = op.tracer.new_call("linear")
    if op.tracer.is_driven(right):
        call.refused = "it multiplies two activations" if op.tracer.is_driven(left) else "its weights stand on the left"
        return None
    if bias is not None and (op.tracer.is_driven(bias) or bias.ndim != 1 or (op["beta"], op["alpha"]) != (None, None)):
        call.refused = "it adds more than a bias"
        return None
    line = op.tracer.line(right)
    call.lines["weight"] = None if line is None else line.permuted([1, 0])
    return _take(op, call, left, right.t(), bias)


def _batched(op: Op) -> Line | None:
    call = op.tracer.new_call("matmul")
    call.refused = "it multiplies two activations"
    return None


def _quantized_layer(op: Op) -> Line | None:
    """torch.ao's quantized convolutions and linear layers, whose operands and results are integers."""
    kind, relu = op.name.removesuffix("_relu"), op.name.endswith("_relu")
    packed = op["W_prepack"] if kind == "linear" else op["packed_weight"]
    if packed is None:
        return _unknown_layer(op)
    call = op.tracer.new_call(kind)
    weight, bias = packed.unpack()
    if kind == "conv2d":
        call.geometry = {name: tuple(getattr(packed, name)()) for name in ("stride", "padding", "dilation")}
        call.geometry["groups"] = packed.groups()
    line = _take(op, call, op["X"] if op["qx"] is None else op["qx"], weight, bias)
    if relu:
        call.relu = True
        line = line.limited(low=0.0, clamp=False)
    info = torch.iinfo(op.result.dtype)
    scale, zero = op.result.q_scale(), op.result.q_zero_point()
    return quantized(op, line, scale, zero, None, info.min, info.max)


def _unknown_layer(op: Op) -> Line | None:
    call = op.tracer.new_call("unknown")
    call.refused = f"it calls {op.name} in a form that is not known"
    return None


_UNKNOWN = (
    "conv2d_add", "conv2d_add_relu", "conv1d", "conv1d_relu", "conv3d", "conv3d_relu", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "linear_dynamic", "linear_relu_dynamic", "linear_leaky_relu",
    "linear_tanh", "_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip
LAYERS: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(("addmm", "mm", "_int_mm"), _matmul),
    **dict.fromkeys(("bmm", "baddbmm"), _batched),
    **dict.fromkeys(("conv2d", "conv2d_relu", "linear", "linear_relu"), _quantized_layer),
    **dict.fromkeys(_UNKNOWN, _unknown_layer),
}
