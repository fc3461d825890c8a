"""Nodes between layers: what each makes of a line or of codes. A node without a rule costs what is behind it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from qexport.core.steps import MaxPool, SumPool
from qexport.frontends.onnx_model.layers import conv, gemm, line_of, matmul, sum_of
from qexport.frontends.onnx_model.quantizers import clipped_codes, dequantized, quantized
from qexport.frontends.onnx_model.state import UNKNOWN, Lost, Op, need
from qexport.frontends.onnx_model.values import (
    NO_SIDES,
    Constant,
    Grid,
    Joined,
    Line,
    Quantizer,
    Reals,
    Value,
    View,
    moved_axis,
)

REALS = (TensorProto.FLOAT, TensorProto.DOUBLE)
Rule = Callable[[Op], Value]


def _operand(op: Op, at: int = 0) -> Value:
    value = op[at]
    if value is None or isinstance(value, Constant):
        raise Lost(UNKNOWN)
    return value


def _line(op: Op, at: int = 0) -> Line:
    value = _operand(op, at)
    if not isinstance(value, Line | Grid):
        raise Lost(f"{op.kind} of parts")
    return line_of(op, value)


def _of_parts(rule: Callable[[Op, Line], Line]) -> Rule:
    """A rule of lines, which serves each part of a concatenation."""

    def apply(op: Op) -> Value:
        value = _operand(op)
        if isinstance(value, Joined):
            return Joined(tuple(rule(op, line_of(op, part)) for part in value.parts))
        return rule(op, _line(op))

    return apply


def _along(op: Op, line: Line, at: int) -> tuple[Line, Reals]:
    """A constant operand as one number, or as one for each channel of a line; and the line."""
    numbers = op.reals(at, "operand")
    sizes = [1] * (len(op.shape) - numbers.ndim) + list(numbers.shape)
    need(len(sizes) == len(op.shape) == len(line.view.shape), f"{op.kind} repeats its operand")
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    flat = numbers.ravel()
    if len(axes) == 1 and axes[0] != line.axis and len(set(flat.tolist())) == 1:
        axes, flat = [], flat[:1]
    need(not axes or axes == [line.axis], f"{op.kind} of numbers that differ along another axis than the channels")
    need(op.shape == line.view.shape, f"{op.kind} repeats its operand")
    return line, flat


def _times(line: Line, by: Reals) -> Line:
    found = line.times(by)
    if found is None:
        raise Lost("a negative factor behind a max pool")
    return found


def _added(op: Op, sign: int) -> Value:
    left, right = op[0], op[1]
    if isinstance(left, Grid) and isinstance(right, Grid):
        return sum_of(op, left, right, sign)
    if isinstance(right, Constant):
        line, numbers = _along(op, _line(op), 1)
        return line.plus(sign * numbers)
    if isinstance(left, Constant):
        line, numbers = _along(op, _line(op, 1), 0)
        return (line if sign > 0 else _times(line, np.full(1, -1.0))).plus(numbers)
    raise Lost(f"{op.kind} of a sum that no quantizer has rounded")


def _scaled(op: Op) -> Value:
    at = next((at for at in (0, 1) if isinstance(op[at], Constant)), None)
    if at is None:
        raise Lost("Mul of two tensors")
    line, numbers = _along(op, _line(op, 1 - at), at)
    return _times(line, numbers)


def _divided(op: Op) -> Value:
    need(isinstance(op[1], Constant), "Div of two tensors")
    line, numbers = _along(op, _line(op), 1)
    need(bool(numbers.all()), "Div by 0")
    return _times(line, 1 / numbers)


def _negative(op: Op) -> Value:
    return _times(_line(op), np.full(1, -1.0))


def _relu(op: Op, line: Line) -> Line:
    if line.free and not line.start.any() and (line.slope > 0).all() and line.call.weight is not None:
        line.call.relu = True
    return line.limited(low=0.0)


def _clip(op: Op) -> Value:
    value = _operand(op)
    if isinstance(value, Grid) and not value.real:
        return clipped_codes(op, value)
    ends = [float(op.facts.get("min", -np.inf)), float(op.facts.get("max", np.inf))]
    for at in (1, 2):
        if op.has(at):
            ends[at - 1] = op.one(at, "limit")
    need(ends[0] <= ends[1], "the limits of Clip are exchanged")
    return _of_parts(lambda _, line: line.limited(*ends))(op)


def _batch_norm(op: Op) -> Value:
    need(not op.facts.get("training_mode"), "BatchNormalization in training")
    line = _line(op)
    gain, offset, mean, variance = (op.reals(at, "parameter") for at in (1, 2, 3, 4))
    by = gain / np.sqrt(variance + float(op.facts.get("epsilon", 1e-5)))
    need(bool(np.isfinite(by).all()), "BatchNormalization of no variance")
    need(line.axis == 1 or len(by) == 1, "BatchNormalization along another axis than the channels")
    return _times(line, by).plus(offset - mean * by)


def _same(op: Op) -> Value:
    return _operand(op)


def _cast(op: Op) -> Value:
    value, to = _operand(op), op.facts.get("to")
    whole = isinstance(value, Line) and value.free and not value.start.any() and bool((value.slope == 1).all())
    integers = isinstance(value, Grid) and not value.real
    need((to in REALS and not integers) or whole, f"Cast to {TensorProto.DataType.Name(to)}")
    return _same(op)


def _viewed(op: Op) -> Value:
    """Another shape of the same elements."""
    value, shape = _operand(op), op.shape
    if isinstance(value, Line):
        need(math.prod(value.view.shape) == math.prod(shape), f"{op.kind} of another size")
        return value.viewed(value.view.reshaped(shape), moved_axis(value.axis, value.view.shape, shape))
    if not isinstance(value, Grid) or value.pad != NO_SIDES:
        raise Lost(f"{op.kind} of parts or behind a padding")
    return value.reshaped(shape)


def _transposed(op: Op) -> Value:
    value = _operand(op)
    if isinstance(value, Line):
        axes = op.ints("perm", range(len(value.view.shape))[::-1])
        axis = None if value.axis is None else axes.index(value.axis)
        return value.viewed(value.view.permuted(axes), axis)
    if not isinstance(value, Grid) or value.pad != NO_SIDES:
        raise Lost("Transpose of parts or behind a padding")
    axes = op.ints("perm", range(len(value.shape))[::-1])
    return value.permuted(axes)


def _depth_to_space(op: Op) -> Value:
    value, block = _operand(op), int(op.facts.get("blocksize", 0))
    view = value.view if isinstance(value, Line | Grid) else None
    if view is None or block < 1 or len(view.shape) != 4 or (isinstance(value, Grid) and value.pad != NO_SIDES):
        raise Lost("DepthToSpace of what is not a plane")
    n, c, y, x = view.shape
    if op.facts.get("mode", "DCR") == "CRD":
        parts, axes = (n, c // block**2, block, block, y, x), (0, 1, 4, 2, 5, 3)
    else:
        parts, axes = (n, block, block, c // block**2, y, x), (0, 3, 4, 1, 5, 2)
    if isinstance(value, Grid):
        return value.reshaped(parts).permuted(axes).reshaped(op.shape)
    assert isinstance(value, Line)
    return value.viewed(view.reshaped(parts).permuted(axes).reshaped(op.shape), None)


def _padded(op: Op) -> Value:
    value = _operand(op)
    need(str(op.facts.get("mode", "constant")) == "constant", "Pad with other than a constant")
    if not isinstance(value, Grid) or len(value.shape) not in (3, 4):
        raise Lost("Pad behind a sum")
    pads = op.whole(1, "size") if op.has(1) else op.ints("pads", [])
    fill = op.one(2, "value") if op.has(2) else float(op.facts.get("value", 0.0))
    axes = list(range(len(value.shape)))
    if op.has(3):
        axes = [axis % len(value.shape) for axis in op.whole(3, "axes")]
    zero = 0 if value.real else value.format.zero_points[0]
    need(fill == zero, f"Pad with {fill:g}, which is not 0")
    sides = dict.fromkeys(range(len(value.shape)), (0, 0))
    sides |= {axis: (pads[at], pads[at + len(axes)]) for at, axis in enumerate(axes)}
    need(all(sides[axis] == (0, 0) for axis in (0, 1)) and min(map(min, sides.values())) >= 0, "Pad of channels")
    top, bottom = sides[2] if len(value.shape) == 4 else (0, 0)
    left, right = sides[len(value.shape) - 1]
    before = value.pad
    return replace(value, pad=(before[0] + top, before[1] + bottom, before[2] + left, before[3] + right))


def _window(op: Op, line: Line) -> tuple[Line, tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """The kernel, stride and padding of a pool over the planes of a line, which stand there as they are."""
    axes = len(op.shape) - 2
    kernel = op.ints("kernel_shape", [])
    strides, dilations = op.ints("strides", [1] * axes), op.ints("dilations", [1] * axes)
    natural = _natural(line)
    expected = View(natural) if axes == 2 else View(natural).reshaped((*natural[:2], natural[3]))
    need(axes in (1, 2) and line.view == expected, f"{op.kind} of a view")
    need(axes == 2 or natural[2] == 1, f"{op.kind} of a view")
    need(set(dilations) == {1}, f"{op.kind} with dilation")
    need(min(*kernel, *strides) > 0, "its kernel or stride is not above 0")
    need((op.facts.get("auto_pad") or "NOTSET") in ("NOTSET", "VALID"), f"{op.kind} with auto_pad")
    pads = op.ints("pads", [0] * 2 * axes)
    if axes == 1:
        kernel, strides, pads = [1, *kernel], [1, *strides], [0, pads[0], 0, pads[1]]
    top, left, bottom, right = pads
    need(min(pads) >= 0, "its padding is negative")
    sizes = [
        (size + more - taps) // stride + 1
        for size, more, taps, stride in zip(natural[2:], (top + bottom, left + right), kernel, strides, strict=True)
    ]
    need(sizes[2 - axes :] == list(op.shape[2:]), f"{op.kind} with ceil_mode")
    shape = (*natural[:2], *sizes)
    moved = line.viewed(View(shape).reshaped(op.shape), line.axis)
    return moved, (kernel[0], kernel[1]), (strides[0], strides[1]), (top, bottom, left, right)


def _natural(line: Line) -> tuple[int, ...]:
    need(len(line.view.start) == 4, "a pool of what is not a plane")
    return line.view.start


def _max_pool(op: Op) -> Value:
    need(len(op.node.output) == 1 or not op.node.output[1], "MaxPool with indices")
    value = _operand(op)
    if isinstance(value, Grid) and not value.real:
        line = _max_pooled(op, line_of(op, replace(value, real=True)))
        return op.state.close(line, Quantizer.like(value.format, op.result, integers=True))
    return _of_parts(_max_pooled)(op)


def _max_pooled(op: Op, line: Line) -> Line:
    moved, kernel, stride, padding = _window(op, line)
    return replace(moved, pools=(*line.pools, MaxPool(kernel=kernel, stride=stride, padding=padding)))


def _average_pool(op: Op, line: Line) -> Line:
    need(line.free, f"{op.kind} behind a limit or a pool")
    moved, kernel, stride, padding = _window(op, line)
    need(not any(padding) or bool(op.facts.get("count_include_pad")), f"{op.kind} that leaves padding out")
    need(not any(padding) or not line.start.any(), f"{op.kind} of a padded sum with an offset")
    pool = SumPool(kernel=kernel, stride=stride, padding=padding)
    return replace(moved, slope=line.slope / math.prod(kernel), summed=pool)


def _global_pool(op: Op, line: Line) -> Line:
    need(line.free, f"{op.kind} behind a limit or a pool")
    natural = _natural(line)
    need(line.view.shape[:2] == natural[:2] and not any(k == "permute" for k, _ in line.view.moves), "a pool of a view")
    pool = SumPool(kernel=(natural[2], natural[3]))
    shape = (*natural[:2], 1, 1)
    moved = line.viewed(View(shape).reshaped(op.shape), line.axis)
    return replace(moved, slope=line.slope / (natural[2] * natural[3]), summed=pool)


def _mean(op: Op) -> Value:
    value = _operand(op)
    axes = op.whole(1, "axes") if op.has(1) else op.ints("axes", [])
    rank = len(op.shape_of(0))
    planes = list(range(2, rank))
    need(rank > 2 and sorted(axis % rank for axis in axes) == planes, f"{op.kind} of other than planes")
    need(isinstance(value, Line | Grid), f"{op.kind} of parts")
    return _of_parts(_global_pool)(op)


def _joined(op: Op) -> Value:
    axis = int(op.facts.get("axis", 1)) % len(op.shape)
    values = [op[at] for at in range(len(op.inputs)) if op.has(at)]
    need(axis == 1, "Concat along another axis than the channels")
    parts: list[Line | Grid] = []
    for value in values:
        if not isinstance(value, Line | Grid) or (isinstance(value, Grid) and not value.plain):
            raise Lost("Concat of what is not known")
        parts.append(value)
    grids = [part for part in parts if isinstance(part, Grid)]
    first = parts[0]
    if isinstance(first, Grid) and len(grids) == len(parts) and all(_alike(first, grid) for grid in grids):
        sources = tuple(name for grid in grids for name in grid.sources)
        return Grid.of(first.format, sources, View(op.shape), op.result, integers=not first.real)
    need(not any(not grid.real for grid in grids), "Concat of codes of different scales")
    need(all(not part.view.moves for part in parts), "Concat of views")
    return Joined(tuple(parts))


def _alike(one: Grid, other: Grid) -> bool:
    """Whether the codes of two tensors can stand in one."""
    return (one.format, one.real) == (other.format, other.real) and not other.view.moves


def selected(op: Op) -> Grid:
    """Some of the codes, or copies of them: they are on the same grid, but no layer's own any more."""
    value = _operand(op)
    if not isinstance(value, Grid) or not value.plain:
        raise Lost(f"{op.kind} of what is not codes")
    if op.kind == "Resize":
        need(op.facts.get("mode", "nearest") == "nearest", "Resize that interpolates")
    op.state.why[op.result] = f"{op.kind} ({op.name})"
    return op.state.feed(op.result, op.result, value.format, integers=not value.real)


RULES: Mapping[str, Rule] = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "QuantizeLinear": quantized,
    "Quant": quantized,
    "IntQuant": quantized,
    "BipolarQuant": quantized,
    "Trunc": quantized,
    "DequantizeLinear": dequantized,
    "Add": lambda op: _added(op, 1),
    "Sub": lambda op: _added(op, -1),
    "Mul": _scaled,
    "Div": _divided,
    "Neg": _negative,
    "Relu": _of_parts(_relu),
    "Clip": _clip,
    "BatchNormalization": _batch_norm,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "Flatten": _viewed,
    "Reshape": _viewed,
    "Squeeze": _viewed,
    "Unsqueeze": _viewed,
    "Transpose": _transposed,
    "DepthToSpace": _depth_to_space,
    "Pad": _padded,
    "MaxPool": _max_pool,
    "AveragePool": _of_parts(_average_pool),
    "GlobalAveragePool": _of_parts(_global_pool),
    "ReduceMean": _mean,
    "Concat": _joined,
}
LAYERS = ("Conv", "Gemm", "MatMul")
SELECTIONS = ("Slice", "Gather", "Split", "Resize", "Upsample", "Expand", "Tile", "SpaceToDepth")
