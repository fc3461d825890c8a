"""How operations change what is known of a tensor: each rule gives the line of the result, or None.

A rule that is missing costs an output or a scale that is then found from values; nothing becomes wrong.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexport.core.steps import MaxPool, SumPool
from qexport.frontends.torch_module.lines import WHOLE, Call, Codes, Line, Real
from qexport.frontends.torch_module.tracer import PARTS, SAME, Comparison, Op, Rule

EITHER = (("self", "other"), ("other", "self"))


def _scaled(op: Op) -> Line | None:
    for one, other in EITHER:
        line = op.line(one)
        if line is not None and op[one].shape == op.result.shape:
            found = op.with_constant(line, op[other], Line.times)
            if found is not None:
                return found
    return None


def _added(op: Op, sign: float = 1.0) -> Line | None:
    alpha = sign * (1 if op["alpha"] is None else op["alpha"])
    for one, other in EITHER:
        estimator = op.tracer.differences.get(op[one])
        if estimator is not None and alpha == 1 and isinstance(op[other], Tensor):
            line, mark = estimator
            if op.tracer.mark(op[other]) is mark:
                return line  # b + (codes - b): straight through for gradients
    first, second = op.line("self"), op.line("other")
    if first is not None and op["self"].shape == op.result.shape:
        found = op.with_constant(first, op["other"], lambda line, numbers: line.plus(alpha * numbers))
        if found is not None:
            return found
        if alpha == -1 and isinstance(op["other"], Tensor) and isinstance(first.source, Codes):
            op.tracer.differences.put(op.result, (first, op.tracer.mark(op["other"])))
    if second is not None and op["other"].shape == op.result.shape:
        turned = second.times(np.array([float(alpha)]))
        found = None if turned is None else op.with_constant(turned, op["self"], Line.plus)
        if found is not None:
            return found
    if not isinstance(op["other"], Tensor) or alpha not in (1, -1) or op["self"].shape != op["other"].shape:
        return None
    left = op["self"] if op.before is None else op.before
    return summed(op, "add", (left, first), (op["other"], second), sign=int(alpha))


def summed(op: Op, what: str, *operands: tuple[Tensor, Line | None], sign: int = 1) -> Line | None:
    """The sum of tensors of codes, or one of them alone, whose real values are reckoned with."""
    for tensor, line in operands:
        codes = line is not None and isinstance(line.source, Codes) and not line.pools and not line.before
        if not codes or not op.tracer.is_driven(tensor) or not 2 <= tensor.ndim <= 4:
            return None
        assert line is not None
        line = line.compact()
        zero = line.zero_point
        if len(line.slope) > 1 or len(zero) > 1 or not line.slope[0] > 0 or abs(zero[0] - np.rint(zero[0])) > WHOLE:
            return None
    call = op.tracer.new_sum(what, (1, sign)[: len(operands)])
    for name, (tensor, line) in zip(("input", "input2"), operands, strict=False):
        call.lines[name] = line
        if call.kept:
            call.operands[name] = tensor.detach().clone()
    if call.kept and len(operands) == 2 and not op.result.is_quantized:
        call.output = op.result.detach().clone()
    return Line.of(call)


def _negative(op: Op) -> Line | None:
    line = op.line()
    return None if line is None else line.times(np.array([-1.0]))


def _subtracted_from(op: Op) -> Line | None:
    line = _negative(op)
    return None if line is None else op.with_constant(line, op["other"], Line.plus)


def _divided(op: Op) -> Line | None:
    if op["rounding_mode"] is not None:
        return Line.of(Codes())
    line = op.line()
    if line is None or op["self"].shape != op.result.shape:
        return None
    numbers = op.numbers(op["other"])
    return None if numbers is None or not numbers.all() else op.with_constant(line, 1 / numbers, Line.times)


def _batch_norm(op: Op) -> Line | None:
    line = op.line("input")
    if line is None or op["training"] or op["running_mean"] is None or line.axis not in (None, 1):
        return None
    mean, var, weight, bias = (op.numbers(op[name]) for name in ("running_mean", "running_var", "weight", "bias"))
    if mean is None or var is None:
        return None
    eps = op["epsilon"] if op["eps"] is None else op["eps"]
    by = (1.0 if weight is None else weight) / np.sqrt(var + eps)
    scaled = replace(line, axis=1).times(by)
    return None if scaled is None else scaled.plus((0.0 if bias is None else bias) - mean * by)


def _bounded(op: Op) -> Line:
    """The line of what is limited, of which a quantizer may be made."""
    return op.line() or Line.of(Real())


def _relu(op: Op) -> Line | None:
    line = _bounded(op)
    if isinstance(line.source, Call) and (line.slope == 1).all() and not line.start.any() and not line.pools:
        line.source.relu = True
    return line.limited(low=0.0, clamp=False)


def _limits(low: Any, high: Any, clamp: bool = True) -> Rule:
    """A clamp, or an activation function alike; its limits are numbers, or the names of arguments."""

    def rule(op: Op) -> Line | None:
        line: Line | None = _bounded(op)
        least, most = (op[limit] if isinstance(limit, str) else limit for limit in (low, high))
        if least is not None and line is not None:
            line = op.with_constant(line, least, lambda line, numbers: line.limited(low=numbers, clamp=clamp))
        if most is not None and line is not None:
            line = op.with_constant(line, most, lambda line, numbers: line.limited(high=numbers, clamp=clamp))
        return line

    return rule


def _hard_tanh(op: Op) -> Line | None:
    low, high = ("min_val", "max_val") if "min_val" in op.given else (-1, 1)
    return _limits(low, high, clamp=False)(op)


def _compared(above: bool) -> Rule:
    def rule(op: Op) -> None:
        op.tracer.compared.put(op.result, Comparison(op.tracer.mark(op["self"]), above, op["other"]))

    return rule


def _chosen(op: Op) -> Line | None:
    """A clamp written as where(x > limit, limit, x)."""
    comparison = op.tracer.compared.get(op["condition"])
    if comparison is None:
        return None
    for one, other in EITHER:
        tensor = op[one]
        if not isinstance(tensor, Tensor) or op.tracer.mark(tensor) is not comparison.mark:
            continue
        line = op.line(one) or Line.of(Real())
        here, there = op.constant(op[other], line), op.constant(comparison.limit, line)
        if tensor.shape != op.result.shape or here is None or there is None or not np.array_equal(here[0], there[0]):
            return None
        if comparison.above == (one == "other"):  # what lies above is replaced
            return op.with_constant(line, op[other], lambda line, numbers: line.limited(high=numbers))
        return op.with_constant(line, op[other], lambda line, numbers: line.limited(low=numbers))
    return None


def _is_whole(line: Line) -> bool:
    """Whether a line is codes themselves, or they and a whole number."""
    return isinstance(line.source, Codes) and bool((line.slope == 1).all()) and not (line.start % 1).any()


def _of_sum(line: Line | None) -> Line | None:
    """A line that leads from a layer's sum."""
    return line if line is not None and isinstance(line.source, Call) else None


def _rounded(op: Op) -> Line | None:
    line = op.line()
    if op["decimals"] or (line is not None and _is_whole(line)):
        return None if op["decimals"] else line
    line = line or Line.of(Real())
    whole = Line.of(Codes(_of_sum(line)))
    return replace(whole, low=np.rint(line.low), high=np.rint(line.high), axis=line.axis).compact()


def _whole(op: Op) -> Line | None:
    """Another rounding: codes, but not those that half-to-even gives of a layer's sum."""
    return Line.of(Codes(), -1, 1) if op.name == "sign" else Line.of(Codes())


def quantized(op: Op, line: Line | None, scale: Any, zero_point: Any, axis: Any, low: int, high: int) -> Line | None:
    """What a quantizer gives of a tensor; None where its scale depends on the inputs."""
    scales, zeros = op.numbers(scale), op.numbers(zero_point)
    if scales is None or zeros is None:
        return None
    scales, zeros = np.atleast_1d(scales), np.atleast_1d(zeros)
    before = _of_sum(line)
    if before is not None:
        before = before.times(1 / scales) if len(scales) == 1 and len(set(zeros)) == 1 else None
    seen = Line.of(Real()) if before is None else before
    least, most = (
        (np.stack(np.broadcast_arrays(np.clip(np.rint(reached) + zeros, low, high), float(own))) - zeros) * scales
        for reached, own in ((seen.low[0], low), (seen.high[0], high))
    )
    codes = Codes(before, 0 if before is None else int(zeros[0]))
    axis = axis if len(scales) > 1 or len(zeros) > 1 else None if before is None else before.axis
    return Line(codes, scales, -zeros * scales, least, most, axis).compact()


def _facts(op: Op) -> tuple[Any, Any]:
    """The scale and zero point of a quantizer, which have other names where they are lists."""
    plural = op["scale"] is None
    return (op["scales"], op["zero_points"]) if plural else (op["scale"], op["zero_point"])


def _fake_quantized(op: Op) -> Line | None:
    for switch in ("fake_quant_enabled", "fake_quant_on"):
        if op[switch] is not None and not bool(op[switch]):
            return op.line()
    axis = op["ch_axis"] if op["axis"] is None else op["axis"]
    return quantized(op, op.line(), *_facts(op), axis, op["quant_min"], op["quant_max"])


def _quantized_tensor(op: Op) -> Line | None:
    info = torch.iinfo(op.result.dtype)
    return quantized(op, op.line(), *_facts(op), op["axis"], info.min, info.max)


def _quantized_integers(op: Op) -> Line | None:
    """PT2E: a tensor of the integers themselves."""
    line = quantized(op, op.line("input"), *_facts(op), op["axis"], op["quant_min"], op["quant_max"])
    if line is None:
        return None
    least, most = line.code_limits
    return replace(Line.of(line.source), low=least, high=most, axis=line.axis).compact()


def _dequantized_integers(op: Op) -> Line | None:
    line = op.line("input")
    scales, zeros = (op.numbers(value) for value in _facts(op))
    if line is None or scales is None or zeros is None:
        return None
    scales, zeros = np.atleast_1d(scales), np.atleast_1d(zeros)
    return replace(line, axis=op["axis"] if len(scales) > 1 else line.axis).plus(-zeros).times(scales)


def _viewed(op: Op) -> Line | None:
    line = op.line()
    return None if line is None else line.viewed(op["self"].shape, op.result.shape)


def _permuted(op: Op) -> Line | None:
    line, axes = op.line(), list(range(op["self"].ndim))
    if line is None or not isinstance(line.source, Codes):
        return None
    if op.name == "permute":
        axes = [axis % len(axes) for axis in op["dims"]]
    else:
        one, other = (0, -1) if op.name == "t" else (op["dim0"], op["dim1"])
        axes[one], axes[other] = axes[other], axes[one]
    return line.permuted(axes)


def _same(op: Op) -> Line | None:
    line = op.line()
    return line if line is not None and op["self"].shape == op.result.shape else None


def _converted(op: Op) -> Line | None:
    line = _same(op)
    return line if line is not None and (op.result.is_floating_point() or _is_whole(line)) else None


def _copied(op: Op) -> Line | None:
    return op.line("src") if op["src"].shape == op.result.shape else None


def _selected(op: Op) -> Line | None:
    """Some of the elements, copies of them, and zeros: they are on the same grid."""
    line = op.line() or op.line("input")
    if line is None or not isinstance(line.source, Codes) or line.axis is not None or op["value"]:
        return None  # `value`: a padding with another number than 0
    return line.anonymous()


def _max_pooled(op: Op) -> Line | None:
    line = op.line()
    if line is None or isinstance(line.source, Codes):
        return None if line is None or line.axis is not None else line.anonymous()

    kernel, padding = _pair(op, "kernel_size", 1), _pair(op, "padding", 0)
    stride = _pair(op, "stride", 0)
    if op["ceil_mode"] or _pair(op, "dilation", 1) != (1, 1) or op.result.ndim != 4:
        return None
    sides = (padding[0], padding[0], padding[1], padding[1])
    return replace(
        line, pools=(*line.pools, MaxPool(kernel=kernel, stride=stride if stride[0] else kernel, padding=sides))
    )


def _averaged(op: Op) -> Line | None:
    """The average of windows of a layer's sums, or of codes, which become a sum of their own."""
    tensor = op["self"]
    pool = _window(op, tensor) if tensor.ndim == 4 else None
    line = op.line()
    if line is None or pool is None:
        return None
    if isinstance(line.source, Codes):
        line = summed(op, "mean", (tensor, line))
    found = line.averaged(pool) if line is not None and isinstance(line.source, Call) else None
    if found is None or not op.result.is_quantized:
        return found
    info = torch.iinfo(op.result.dtype)
    return quantized(op, found, op.result.q_scale(), op.result.q_zero_point(), None, info.min, info.max)


def _window(op: Op, tensor: Tensor) -> SumPool | None:
    """The windows of an average; None where they differ in size, or where something else is averaged."""
    plane = (tensor.shape[2], tensor.shape[3])
    if op.name == "mean":
        return SumPool(kernel=plane) if sorted(axis % 4 for axis in op["dim"] or ()) == [2, 3] else None
    if "adaptive" in op.name:
        out = op["output_size"]
        fits = not (plane[0] % out[0] or plane[1] % out[1])
        return SumPool(kernel=(plane[0] // out[0], plane[1] // out[1])) if fits else None
    kernel, padding = _pair(op, "kernel_size", 1), _pair(op, "padding", 0)
    stride = _pair(op, "stride", 0)
    counted = op["count_include_pad"] in (None, True) or padding == (0, 0)
    if op["ceil_mode"] or not counted or op["divisor_override"]:
        return None
    sides = (padding[0], padding[0], padding[1], padding[1])
    return SumPool(kernel=kernel, stride=stride if stride[0] else kernel, padding=sides)


def _pair(op: Op, name: str, default: int) -> tuple[int, int]:
    value = op[name] or default
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _quantized_sum(op: Op) -> Line | None:
    """torch.ao's sum of two tensors of integers."""
    left, right = op["qa"], op["qb"]
    if not isinstance(right, Tensor) or left.shape != right.shape or op["scale"] is None:
        return None
    line = summed(op, "add", (left, op.tracer.line(left)), (right, op.tracer.line(right)))
    if line is not None and op.name.endswith("_relu"):
        line = line.limited(low=0.0, clamp=False)
    info = torch.iinfo(op.result.dtype)
    return quantized(op, line, op["scale"], op["zero_point"], None, info.min, info.max)


def _joined(op: Op) -> Line | None:
    """A concatenation of codes on one grid."""
    lines = [op.tracer.line(tensor) for tensor in op["tensors"] if tensor.numel()]
    first = lines[0] if lines else None
    for line in lines:
        if line is None or first is None or line.axis is not None or not isinstance(line.source, Codes):
            return None
        if (line.slope, line.start) != (first.slope, first.start):
            return None
    if first is None:
        return None
    low, high = (np.hstack([getattr(line, end) for line in lines]) for end in ("low", "high"))
    return replace(first, source=Codes(), low=low.min(axis=1, keepdims=True), high=high.max(axis=1, keepdims=True))


RULES: dict[str, Rule] = {
    "add": _added,
    "sub": lambda op: _added(op, -1.0),
    "rsub": _subtracted_from,
    "neg": _negative,
    "mul": _scaled,
    "div": _divided,
    "relu": _relu,
    "clamp": _limits("min", "max"),
    "clamp_min": _limits("min", None),
    "clamp_max": _limits(None, "max"),
    "minimum": _limits(None, "other"),
    "maximum": _limits("other", None),
    "hardtanh": _hard_tanh,
    "gt": _compared(above=True),
    "ge": _compared(above=True),
    "lt": _compared(above=False),
    "le": _compared(above=False),
    "where": _chosen,
    "round": _rounded,
    "dequantize": _same,
    "_to_copy": _converted,
    "copy": _copied,
    "cat": _joined,
}
_SEVERAL: dict[Rule, tuple[str, ...]] = {
    _batch_norm: ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
    _whole: ("floor", "ceil", "trunc", "sign"),
    _fake_quantized: (
        "fake_quantize_per_tensor_affine_cachemask", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "fake_quantize_per_channel_affine_cachemask", "_fake_quantize_learnable_per_tensor_affine",
        "_fake_quantize_learnable_per_channel_affine", "_fused_moving_avg_obs_fq_helper",
    ),
    _quantized_tensor: ("quantize_per_tensor", "quantize_per_channel"),
    _quantized_integers: tuple(f"quantized_decomposed.quantize_{kind}" for kind in ("per_tensor", "per_channel")),
    _dequantized_integers: tuple(f"quantized_decomposed.dequantize_{kind}" for kind in ("per_tensor", "per_channel")),
    _same: (*SAME, "clone", "contiguous", "dropout", "expand"),
    _viewed: ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze"),
    _permuted: ("permute", "transpose", "t"),
    _averaged: ("mean", "avg_pool2d", "_adaptive_avg_pool2d"),
    _quantized_sum: ("quantized.add", "quantized.add_relu"),
    _max_pooled: ("max_pool2d_with_indices", "quantized_max_pool2d"),
    _selected: (
        *PARTS, "slice", "select", "index", "index_select", "gather", "upsample_nearest2d", "repeat", "flip", "roll",
        "reflection_pad2d", "replication_pad2d", "constant_pad_nd",
    ),
}  # fmt: skip
RULES |= {name: rule for rule, names in _SEVERAL.items() for name in names}
