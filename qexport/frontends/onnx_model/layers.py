"""Nodes that multiply and add: convolutions, linear layers, matrix products, sums of codes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_struct

from qexport.core.codes import CodeFormat
from qexport.core.geometry import Conv2d, Linear, MatMul, Shape, Sum
from qexport.core.intformat import Int64
from qexport.errors import QexportError
from qexport.frontends.onnx_model.state import Op, checked, need
from qexport.frontends.onnx_model.values import NO_SIDES, WHOLE, Call, Constant, Grid, Line, Quantizer, Reals, View
from qexport.frontends.rounding import common_unit

BIAS_ERROR = 2.0**-19  # of a bias: what float32 leaves of it


def grid_of(op: Op, at: int, what: str) -> Grid:
    """The codes of an operand of a layer; raises QexportError where it has none."""
    value = op[at]
    if isinstance(value, Line):
        value = _on_its_grid(op, at, value)
    checked(value is not None, f"its {what} {op.why(at)}, so that it has no codes")
    checked(not isinstance(value, Constant), f"its {what} is constant, so that nothing comes in")
    if not isinstance(value, Grid) or not value.real:
        raise QexportError(f"its {what} is not quantized")
    return value


def _on_its_grid(op: Op, at: int, line: Line) -> Grid | None:
    """Codes that pools and limits leave on their grid, as a layer of their own; None where the line is another."""
    call = line.call
    grid = call.operands["input"][0]
    if not isinstance(call.layer, Sum) or call.layer.mul != (1,) or line.summed is not None or line.start.any():
        return None
    if set(line.slope.tolist()) != {grid.format.scales[0]}:
        return None
    ends = np.array([line.low[0], line.high[0]]) / grid.format.scales[0] + grid.format.zero_points[0]
    inside = ends[np.isfinite(ends)]
    if len(line.low) > 1 or (np.abs(inside - np.rint(inside)) > WHOLE).any():
        return None
    return op.state.close(line, Quantizer.like(grid.format, op.inputs[at], integers=False))


def _weight(op: Op, at: int) -> Constant:
    value = op[at]
    if not isinstance(value, Constant) or value.codes is None or value.format is None:
        reason = "is not quantized" if isinstance(value, Constant) else "is not constant"
        raise QexportError(f"its weight {reason}")
    return value


def _weight_format(weight: Constant, channels: int) -> CodeFormat:
    """Of weights whose first axis counts output channels."""
    assert weight.format is not None
    checked(weight.axis in (None, 0), "the scales of its weight differ along another axis than that of output channels")
    for numbers in (weight.format.scales, weight.format.zero_points):
        checked(len(numbers) in (1, channels), f"its weight has {len(numbers)} scales for {channels} output channels")
    return weight.format


def _new_call(op: Op, layer: Any, operands: dict[str, tuple[Grid, View]], unit: Reals, shape: Shape) -> Call:
    state = op.state
    index = len(state.calls) + len(state.refused)
    layer = replace_struct(layer, name=state.new_name(op.name), index=index)
    call = Call(layer.name, layer, operands, unit, shape)
    state.calls.append(call)
    return call


def conv(op: Op) -> Line:
    grid, weight = grid_of(op, 0, "input"), _weight(op, 1)
    assert weight.codes is not None
    axes = weight.codes.ndim - 2
    checked(axes in (1, 2), f"it convolves over {axes} axes")
    images, channels, *plane = grid.shape
    weight_codes = weight.codes if axes == 2 else weight.codes[:, :, np.newaxis]
    outputs, _, *kernel = weight_codes.shape
    fmt = _weight_format(weight, outputs)
    strides, dilations = (op.ints(name, [1] * axes) for name in ("strides", "dilations"))
    checked(min(*strides, *dilations) > 0, "its strides or dilations are not above 0")
    top, bottom, left, right = grid.pad
    padded = [plane[0] + top + bottom, plane[1] + left + right] if axes == 2 else [plane[0] + left + right]
    pads = _pads(op, padded, list(weight.codes.shape[2:]), strides, dilations)
    if axes == 1:
        strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    top, left, bottom, right = pads
    sides = [side + more for side, more in zip((top, bottom, left, right), grid.pad, strict=True)]
    checked(min(sides) >= 0, "its padding is negative")
    layer = Conv2d(
        name=op.name[:1] or "-",
        in_channels=channels,
        out_channels=outputs,
        kernel=(kernel[0], kernel[1]),
        stride=(strides[0], strides[1]),
        padding=(sides[0], sides[1], sides[2], sides[3]),
        dilation=(dilations[0], dilations[1]),
        groups=int(op.facts.get("group", 1)),
    )
    view = View(grid.shape)
    if axes == 1:
        plane = [1, *plane]
        view = view.reshaped((images, channels, *plane))
    shape = (images, outputs, *layer.output_plane((plane[0], plane[1])))
    behind = View(shape).reshaped(op.shape)
    return _multiplied(op, layer, grid, view, weight_codes, fmt, shape, behind, 1, _bias(op, 2, outputs, 1.0))


def _pads(op: Op, plane: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Of each axis of what comes in, at its beginning, then at its end."""
    auto = op.facts.get("auto_pad") or "NOTSET"
    if auto in ("NOTSET", "VALID"):
        return op.ints("pads", [0] * 2 * len(plane)) if auto == "NOTSET" else [0] * 2 * len(plane)
    begins, ends = [], []
    for size, taps, stride, dilation in zip(plane, kernel, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
        less, more = whole // 2, whole - whole // 2
        begins.append(more if auto == "SAME_LOWER" else less)
        ends.append(less if auto == "SAME_LOWER" else more)
    return begins + ends


def _bias(op: Op, at: int, channels: int, beta: float) -> Constant | None:
    if not op.has(at):
        return None
    value = op[at]
    if not isinstance(value, Constant):
        raise QexportError("its bias is not constant")
    checked(value.array.size in (1, channels), f"its bias has {value.array.size} numbers for {channels} channels")
    if beta != 1.0 or value.array.size != channels:
        return Constant(np.broadcast_to(np.asarray(value.array).astype(np.float64).ravel() * beta, channels))
    return value


def _multiplied(
    op: Op,
    layer: Any,
    grid: Grid,
    view: View,
    codes: Int64,
    fmt: CodeFormat,
    shape: Shape,
    behind: View,
    axis: int,
    bias: Constant | None,
    factor: float = 1.0,
) -> Line:
    unit = np.array(fmt.scales) * grid.format.scales[0]
    call = _new_call(op, layer, {"input": (grid, view)}, unit, shape)
    call.weight = Constant(codes, codes, fmt)
    real = None
    if bias is not None:
        real = np.asarray(bias.array).astype(np.float64).ravel()
        call.bias = _whole_bias(bias, real, unit * factor)
        real = None if call.bias is not None else real
    call.seen, call.factor, call.added = (op.result, behind), factor, real
    line = Line.of(call, behind, axis, real)
    return line if factor == 1.0 else replace(line, slope=line.slope * factor)


def _whole_bias(bias: Constant, real: Reals, unit: Reals) -> Int64 | None:
    """The bias in units of the sums; None where it is not whole there."""
    if bias.codes is not None and bias.format is not None and not any(bias.format.zero_points):
        scales = np.array(bias.format.scales)
        if (np.abs(scales - unit) <= 2.0**-22 * unit).all():
            return bias.codes.ravel()
    codes = real / unit
    if not np.isfinite(codes).all() or (np.abs(codes - np.rint(codes)) > 1e-6 + BIAS_ERROR * np.abs(codes)).any():
        return None
    whole: Int64 = np.rint(codes).astype(np.int64)
    return whole


def gemm(op: Op) -> Line:
    checked(not op.facts.get("transA"), "it transposes what comes in")
    alpha, beta = float(op.facts.get("alpha", 1.0)), float(op.facts.get("beta", 1.0))
    checked(math.isfinite(alpha) and math.isfinite(beta) and alpha > 0, f"its alpha is {alpha:g}")
    return _linear(op, bool(op.facts.get("transB")), alpha, beta)


def matmul(op: Op) -> Line:
    if isinstance(op[1], Constant):
        return _linear(op, False, 1.0, 1.0)
    left, right = grid_of(op, 0, "first operand"), grid_of(op, 1, "second operand")
    checked(min(len(left.shape), len(right.shape)) >= 2, "it multiplies vectors")
    checked(left.shape[:-2] == right.shape[:-2], "its operands have different numbers of matrices")
    checked(left.pad == right.pad == NO_SIDES, "a padding comes before it")
    count, out = math.prod(left.shape[:-2]), op.shape
    layer = MatMul(name="-")
    views = [View(grid.shape).reshaped((count, *grid.shape[-2:])) for grid in (left, right)]
    shape = (count, out[-2], out[-1])
    unit = np.array([left.format.scales[0] * right.format.scales[0]])
    call = _new_call(op, layer, {"input": (left, views[0]), "input2": (right, views[1])}, unit, shape)
    call.seen = op.result, View(shape).reshaped(out)
    return Line.of(call, call.seen[1], len(out) - 1)


def _linear(op: Op, transposed: bool, alpha: float, beta: float) -> Line:
    grid, weight = grid_of(op, 0, "input"), _weight(op, 1)
    assert weight.codes is not None  # _weight sees to it
    checked(weight.codes.ndim == 2 and len(grid.shape) >= 2, "it multiplies other than a matrix of weights")
    checked(grid.pad == NO_SIDES, "a padding comes before it")
    if not transposed:
        axis = None if weight.axis is None else 1 - weight.axis
        weight = replace(weight, codes=weight.codes.T, axis=axis)
    assert weight.codes is not None
    outputs, inputs = weight.codes.shape
    positions, out = math.prod(grid.shape[:-1]), op.shape
    layer = Linear(name="-", in_channels=inputs, out_channels=outputs)
    view = View(grid.shape).reshaped((positions, inputs, 1, 1))
    shape = (positions, outputs, 1, 1)
    codes, fmt = weight.codes[:, :, np.newaxis, np.newaxis], _weight_format(weight, outputs)
    bias = _bias(op, 2, outputs, beta)
    behind = View(shape).reshaped(out)
    return _multiplied(op, layer, grid, view, codes, fmt, shape, behind, len(out) - 1, bias, alpha)


def line_of(op: Op, value: Line | Grid) -> Line:
    """A line, or codes as the sum of one operand, from where their real values are reckoned with."""
    if isinstance(value, Line):
        return value
    need(value.real, f"{op.kind} takes codes as numbers")
    need(value.plain, "a padding comes before another node than a convolution")
    shape = value.shape
    view = View(shape).reshaped(_plane_shape(shape))
    layer = Sum(name="-", mul=(1,))
    call = _new_call(op, layer, {"input": (value, view)}, np.array(value.format.scales), view.shape)
    return Line.of(call, View(view.shape).reshaped(shape), 1 if len(shape) > 1 else None)


def _plane_shape(shape: Shape) -> Shape:
    """n c y x of a tensor of any axes."""
    first = (*shape, *[1] * (4 - len(shape))) if len(shape) != 3 else (*shape[:2], 1, shape[2])
    return first if len(first) == 4 else (*first[:3], math.prod(first[3:]))


def sum_of(op: Op, left: Grid, right: Grid, sign: int) -> Line:
    """The sum or difference of two tensors of codes, on a unit of which both scales are multiples."""
    need(left.shape == right.shape, f"{op.kind} repeats an operand")
    need(left.plain and right.plain and left.real and right.real, f"{op.kind} takes other than codes")
    factors, unit = common_unit(left.format.scales[0], right.format.scales[0])
    shape = left.shape
    view = View(shape).reshaped(_plane_shape(shape))
    layer = Sum(name="-", mul=(factors[0], sign * factors[1]))
    call = _new_call(op, layer, {"input": (left, view), "input2": (right, view)}, np.array([unit]), view.shape)
    call.seen = op.result, View(view.shape).reshaped(shape)
    return Line.of(call, call.seen[1], 1 if len(shape) > 1 else None)
