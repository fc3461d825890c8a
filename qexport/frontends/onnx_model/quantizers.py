"""Where reals become codes and codes reals: QuantizeLinear and DequantizeLinear, QONNX's Quant, BipolarQuant, Trunc."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_struct
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qexport.core.codes import CodeFormat
from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import Round
from qexport.frontends.onnx_model.layers import line_of
from qexport.frontends.onnx_model.state import NUMBERS, Lost, Op, need
from qexport.frontends.onnx_model.values import Constant, Grid, Joined, Line, Quantizer, Value, View, moved_axis

ROUNDINGS: dict[str, Round] = {
    "ROUND": "half_even", "HALF_EVEN": "half_even", "FLOOR": "floor", "HALF_UP": "half_away", "DOWN": "toward_zero",
}  # fmt: skip
WIDEST = 32  # bits of codes


def integer_of(kind: int) -> IntFormat:
    """The format of a type's integers, such as INT4."""
    name = TensorProto.DataType.Name(kind)
    return IntFormat(int(name.lstrip("UINT")), not name.startswith("U"))


def constant_codes(array: NDArray[Any]) -> Constant:
    """A constant; integers of a type that codes have are codes of scale 1."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    if kind not in NUMBERS:
        return Constant(array)
    integer = integer_of(kind)
    plain = CodeFormat(bits=integer.bits, signed=integer.signed, scale=1.0)
    return Constant(array, np.asarray(array).astype(np.int64), plain)


def quantized(op: Op) -> Value:
    """What a quantizer gives."""
    quantizer, before = _QUANTIZERS[op.kind](op), op[0]
    if isinstance(before, Joined):
        parts, start = [], 0
        for part in before.parts:
            grid = _closed(op, part, quantizer, start)
            start += grid.shape[1]
            parts.append(grid)
        sources = tuple(name for part in parts for name in part.sources)
        return Grid.of(quantizer.format, sources, View(op.shape), quantizer.tensor, quantizer.integers)
    if isinstance(before, Line | Grid):
        return _closed(op, before, quantizer)
    return op.state.feed(op.result, op.inputs[0], quantizer.format, quantizer.integers)


def _closed(op: Op, value: Line | Grid, quantizer: Quantizer, part: int | None = None) -> Grid:
    if isinstance(value, Grid) and part is None and value.plain and _leaves(quantizer, value.format):
        return Grid.of(value.format, value.sources, value.view, quantizer.tensor, quantizer.integers)
    return op.state.close(line_of(op, value), quantizer, part)


def _leaves(quantizer: Quantizer, format: CodeFormat) -> bool:
    """Whether a quantizer gives codes of the format back as they are."""
    same = (quantizer.scale, quantizer.zero_point) == (format.scale, format.zero_point)
    return same and quantizer.step == quantizer.scale and not quantizer.bipolar and quantizer.format == format


def _quantize_linear(op: Op) -> Quantizer:
    scale, zero = op.one(1, "scale"), 0
    kind = op.facts.get("output_dtype") or TensorProto.UINT8
    if op.has(2):
        zero = int(op.one(2, "zero point"))
        kind = op.state.types[op.inputs[2]].tensor_type.elem_type
    need(kind in NUMBERS, f"{op.kind} gives {TensorProto.DataType.Name(kind)}")
    need(scale > 0, f"the scale of {op.kind} is {scale:g}")
    integer = integer_of(kind)
    low, high, tensor = integer.low, integer.high, op.result
    users = op.state.users.get(op.result, [])
    if len(users) == 1 and users[0].op_type == "Clip" and op.result not in op.state.graph.outputs:
        ends = _ends_of_clip(op, users[0])
        if ends is not None:
            low, high, tensor = max(low, ends[0]), min(high, ends[1]), users[0].output[0]
            op.state.types[tensor] = op.state.types[op.result]
    return Quantizer(tensor, True, scale, zero, low, high, step=scale, behind=zero)


def _ends_of_clip(op: Op, clip: Any) -> tuple[int, int] | None:
    """The limits of a node Clip of integers, where they are constant."""
    found, ends = Op(op.state, clip), [-(2**31), 2**31]
    for at in (1, 2):
        if found.has(at):
            numbers = found.numbers(at)
            if numbers is None or numbers.size != 1:
                return None
            ends[at - 1] = int(numbers.ravel()[0])
    return ends[0], ends[1]


def _quant(op: Op) -> Quantizer:
    scale, zero, bits = op.one(1, "scale"), op.one(2, "zero point"), op.one(3, "bit width")
    signed, narrow = bool(op.facts.get("signed", 1)), bool(op.facts.get("narrow", 0))
    need(zero == int(zero), f"the zero point of {op.kind} is {zero:g}, which is not an integer")
    need(bits == int(bits) and 1 <= bits <= WIDEST, f"{op.kind} has {bits:g} bits")
    need(scale > 0, f"the scale of {op.kind} is {scale:g}")
    if bits == 1 and signed:
        return _signs(op.result, scale)
    integer = IntFormat(int(bits), signed)
    low, high = (integer.low + (narrow and signed), integer.high - (narrow and not signed))
    zero_point = int(zero)
    return Quantizer(
        op.result, False, scale, zero_point, low, high, step=scale, inside=zero_point, rounding=_rounding(op, "ROUND")
    )


def _rounding(op: Op, default: str) -> Round:
    mode = str(op.facts.get("rounding_mode", default)).upper()
    need(mode in ROUNDINGS, f"{op.kind} rounds {mode}")
    return ROUNDINGS[mode]


def _signs(tensor: str, scale: float) -> Quantizer:
    return Quantizer(tensor, False, scale, 0, -1, 1, step=scale, bipolar=True)


def _bipolar(op: Op) -> Quantizer:
    scale = op.one(1, "scale")
    need(scale > 0, f"the scale of {op.kind} is {scale:g}")
    return _signs(op.result, scale)


def _trunc(op: Op) -> Quantizer:
    """Drops low bits. Version 2 has six inputs and scales its output; version 1 keeps the scale."""
    scale, zero, bits = op.one(1, "scale"), op.one(2, "zero point"), op.one(3, "bit width")
    need(scale > 0, f"the scale of {op.kind} is {scale:g}")
    if len(op.inputs) > 5:
        new_scale, out_bits = op.one(4, "output scale"), op.one(5, "bit width")
        need(new_scale > 0, f"the scale of {op.kind} is {new_scale:g}")
        dropped = round(math.log2(new_scale) - math.log2(scale))
        new_zero = zero / 2.0 ** min(max(dropped, -WIDEST), WIDEST)
        signed, narrow = bool(op.facts.get("signed", 1)), bool(op.facts.get("narrow", 0))
    else:
        new_scale, out_bits, new_zero = scale, op.one(4, "bit width"), zero
        dropped, signed, narrow = int(bits - out_bits), _is_signed(op), False
    need(abs(dropped) <= WIDEST, f"{op.kind} drops {dropped} bits")
    need(new_zero == int(new_zero), f"the zero point of {op.kind} is {new_zero:g}, which is not an integer")
    need(out_bits == int(out_bits) and 1 <= out_bits <= WIDEST, f"{op.kind} has {out_bits:g} bits")
    integer = IntFormat(int(out_bits), signed)
    return Quantizer(
        op.result, False, new_scale, int(new_zero), integer.low + (narrow and signed), integer.high,
        step=scale * 2.0**dropped, inside=zero / 2.0**dropped, rounding=_rounding(op, "FLOOR"),
    )  # fmt: skip


def _is_signed(op: Op) -> bool:
    """Whether what comes in can be negative."""
    before = op[0]
    if isinstance(before, Grid):
        return before.format.signed
    if isinstance(before, Line):
        rises = bool((before.slope >= 0).all() and (before.start >= 0).all())
        plain = all(not grid.format.signed and grid.format.plain for grid, _ in before.call.operands.values())
        return not (rises and plain and before.call.layer.kind == "sum")
    return True


_QUANTIZERS = {
    "QuantizeLinear": _quantize_linear,
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
}


def dequantized(op: Op) -> Value:
    """The real values of codes."""
    need(not op.facts.get("block_size"), "blocks of scales are reserved")
    before = op[0]
    scale, zero = op.one(1, "scale"), int(op.one(2, "zero point")) if op.has(2) else 0
    need(scale > 0, f"the scale of {op.kind} is {scale:g}")
    if isinstance(before, Line):
        line = before.plus(np.full(1, -float(zero))).times(np.full(1, scale))
        assert line is not None
        return line
    if before is None:
        kind = op.state.types[op.inputs[0]].tensor_type.elem_type
        need(kind in NUMBERS - {TensorProto.INT32}, f"{op.kind} takes {TensorProto.DataType.Name(kind)}")
        integer = integer_of(kind)
        format = CodeFormat(bits=integer.bits, signed=integer.signed, scale=scale, zero_point=zero)
        return replace(op.state.feed(op.inputs[0], op.inputs[0], format, integers=True), real=True)
    if not isinstance(before, Grid):
        raise Lost(f"{op.kind} takes what is not codes")
    need(not before.real, f"{op.kind} takes what is not codes")
    need(before.format.integer.holds(zero, zero), f"the zero point {zero} of {op.kind} is none of its codes")
    format = replace_struct(before.format, scale=scale, zero_point=zero)
    return replace(before, real=True, format=format)


def clipped_codes(op: Op, grid: Grid) -> Grid:
    """Integers within narrower limits: those of codes of fewer bits."""
    ends = _ends_of_clip(op, op.node)
    if ends is None:
        raise Lost("the limits of Clip are computed while it runs")
    integer = grid.format.integer
    if ends[0] <= integer.low and integer.high <= ends[1]:
        return grid
    if grid.tensor == op.result:  # its quantizer has taken the limits already
        return grid
    raise Lost("Clip cuts off some of the codes")


def of_constant(op: Op, array: NDArray[Any]) -> Constant:
    """What is known of a result of constants: where it lies on a grid."""
    before = op[0] if op.inputs else None
    if not isinstance(before, Constant):
        return constant_codes(array)
    if op.kind == "DequantizeLinear" and before.codes is not None and before.format is not None:
        if op.facts.get("block_size"):
            return Constant(array)
        integer = before.format.integer
        return _on_grid(op, array, before.codes, integer)
    if op.kind == "QuantizeLinear":
        codes = np.asarray(array).astype(np.int64)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return _on_grid(op, array, codes, integer_of(kind)) if kind in NUMBERS else Constant(array)
    if op.kind in ("Quant", "IntQuant", "BipolarQuant"):
        return _quantized_constant(op, array)
    if before.codes is None or before.format is None:
        return constant_codes(array)
    if op.kind == "Clip":
        ends = _ends_of_clip(op, op.node)
        if ends is None:
            return constant_codes(array)
        integer = before.format.integer
        low, high = max(ends[0], integer.low), min(ends[1], integer.high)
        narrow = IntFormat.holding(low, high, low < 0)
        fmt = replace_struct(before.format, bits=narrow.bits, signed=narrow.signed)
        return Constant(array, np.asarray(array).astype(np.int64), fmt, before.axis)
    return _moved(op, array, before)


def _on_grid(op: Op, array: NDArray[Any], codes: Int64, integer: IntFormat) -> Constant:
    scales = op.reals(1, "scale").ravel()
    zeros = op.reals(2, "zero point").ravel().astype(int).tolist() if op.has(2) else [0]
    axis = int(op.facts.get("axis", 1)) % max(array.ndim, 1)
    zeros = zeros[:1] if len(set(zeros)) == 1 else zeros
    several = max(len(scales), len(zeros)) > 1
    if not (scales > 0).all():
        return Constant(array)
    return Constant(array, codes, _format(integer, scales, zeros), axis if several else None)


def _format(integer: IntFormat, scales: Any, zeros: list[int]) -> CodeFormat:
    low, high = min(integer.low, *zeros), max(integer.high, *zeros)
    holding = IntFormat.holding(low, high, integer.signed or low < 0)
    return CodeFormat(
        bits=holding.bits,
        signed=holding.signed,
        scale=float(scales[0]) if len(scales) == 1 else tuple(float(scale) for scale in scales),
        zero_point=zeros[0] if len(zeros) == 1 else tuple(zeros),
    )


def _quantized_constant(op: Op, array: NDArray[Any]) -> Constant:
    """Constants behind a quantizer of QONNX, whose scales may differ along one axis."""
    scales = op.reals(1, "scale")
    axes = [axis - scales.ndim + array.ndim for axis, size in enumerate(scales.shape) if size > 1]
    if len(axes) > 1 or not (scales > 0).all() or scales.ndim > array.ndim:
        return Constant(array)
    signs = op.kind == "BipolarQuant" or (op.one(3, "bit width") == 1 and bool(op.facts.get("signed", 1)))
    zero = 0.0 if signs else op.one(2, "zero point")
    codes = np.rint(array.astype(np.float64) / scales + zero).astype(np.int64)
    if signs:
        one = CodeFormat(bits=1, signed=False, scale=1.0, levels=(-1, 1))
        format = replace_struct(one, scale=_format(IntFormat(2, True), scales.ravel(), [0]).scale)
        return Constant(array, (codes + 1) // 2, format, axes[0] if axes else None)
    integer = IntFormat(int(op.one(3, "bit width")), bool(op.facts.get("signed", 1)))
    return Constant(array, codes, _format(integer, scales.ravel(), [int(zero)]), axes[0] if axes else None)


_VIEWS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def _moved(op: Op, array: NDArray[Any], before: Constant) -> Constant:
    """The same codes in another shape."""
    codes = before.codes
    if op.kind not in _VIEWS or codes is None:
        return constant_codes(array)
    if op.kind == "Transpose":
        axes = op.ints("perm", range(codes.ndim)[::-1])
        moved = None if before.axis is None else axes.index(before.axis)
        return Constant(array, codes.transpose(axes), before.format, moved)
    moved = moved_axis(before.axis, codes.shape, array.shape)
    if before.axis is not None and moved is None:
        return Constant(array)
    return Constant(array, codes.reshape(array.shape), before.format, moved)
