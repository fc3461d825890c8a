"""Watches a forward pass at the level of ATen: which layers multiply what, and how quantizers made it.

Every operation that runs is seen, whatever framework asked for it. Of each tensor that a rounding or a layer leads to
by constants alone, the line is kept (`lines`); all else is just run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from qexport.core.steps import MaxPool
from qexport.frontends.torch_module.lines import Codes, Line, Real, Reals

CONSTANTS = 1 << 16  # numbers of a constant that may be one for each channel
NARROW, WIDE = {torch.int8, torch.uint8, torch.int16}, {torch.int32, torch.int64}  # codes as they are
OUTSIDE = "model"  # the name of what the module itself calls, outside every layer of its own


@dataclass(eq=False)
class Call:
    """One call of a layer. `found`: what became of its sum at each rounding that only constants lead to.

    `refused`: why it cannot be captured. `kept`: whether its tensors are.
    """

    name: str
    index: int
    kind: str
    refused: str | None = None
    kept: bool = True
    operands: dict[str, Tensor] = field(default_factory=dict)
    lines: dict[str, Line | None] = field(default_factory=dict)
    bias: Tensor | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    output: Tensor | None = None
    relu: bool = False
    found: dict[Codes, tuple[Line, Tensor]] = field(default_factory=dict)
    last: Line | None = None  # of the last tensor that constants alone lead to
    lost: str | None = None  # the first operation behind it that is not understood


class Tracer(TorchDispatchMode):
    """`wanted`: whether the tensors of a call of that name and number are kept."""

    def __init__(self, model: nn.Module, wanted: Callable[[str, int], bool]):
        super().__init__()
        self.calls: list[Call] = []
        self._model, self._wanted = model, wanted
        self._inside: list[str] = []
        self._counts: dict[str, int] = {}
        self._lines = WeakTensorKeyDictionary()
        self._driven = WeakTensorKeyDictionary()  # what depends on the inputs
        self._marks = WeakTensorKeyDictionary()  # equal for tensors of the same elements
        self._compared = WeakTensorKeyDictionary()  # (mark, whether above, line or None, limit) of a comparison
        self._differences = WeakTensorKeyDictionary()  # (line of a, mark of b) of a - b: a straight-through estimator

    @contextmanager
    def watch(self, inputs: Sequence[Any]) -> Iterator[None]:
        """The names of the layers are known inside; `inputs` are what the pass depends on."""

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._inside.append(name)

        def leave(*_: Any) -> None:
            self._inside.pop()

        handles = []
        for name, module in self._model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(enter(name)))
                handles.append(module.register_forward_hook(leave, always_call=True))
        for tensor in pytree.tree_leaves(inputs):
            if isinstance(tensor, Tensor):
                self._driven[tensor] = True
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        namespace, _, name = func._schema.name.partition("::")
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        if not results:
            return out
        driven = any(t in self._driven for t in tensors)
        op = Op(self, name.rstrip("_") if namespace == "aten" else name, given, results[0])
        handler = (LAYERS | RULES).get(op.name) if namespace in ("aten", "quantized", "quantized_decomposed") else None
        line = handler(op) if handler else None
        if line is None and driven:
            self._lose(op.name, tensors, results[0])
        self._remember(op, results, line, driven, name.endswith("_"))
        return out

    def _remember(self, op: "Op", results: list[Tensor], line: Line | None, driven: bool, in_place: bool) -> None:
        same = op.name in ("detach", "alias", "lift_fresh") and results[0].shape == op.given["self"].shape
        mark = self.mark(op.given["self"]) if same else object()
        for place, tensor in enumerate(results):
            known = line if place == 0 or op.name in PARTS else None
            for table, value in ((self._lines, known), (self._driven, driven or None)):
                if value is not None:
                    table[tensor] = value
                else:
                    table.pop(tensor, None)
            self._marks[tensor] = mark
            if in_place:
                self._compared.pop(tensor, None)
                self._differences.pop(tensor, None)
        if same and op.given["self"] in self._differences:
            self._differences[results[0]] = self._differences[op.given["self"]]
        if line is not None and isinstance(line.source, Call):
            line.source.last = line
        if line is not None and isinstance(line.source, Codes) and line.source.before is not None:
            call = line.source.before.source
            assert isinstance(call, Call)
            if call.kept:
                call.found[line.source] = line, results[0].clone()

    def _lose(self, name: str, tensors: list[Tensor], result: Tensor) -> None:
        """Note where a layer's sum goes out of sight."""
        for tensor in tensors:
            line = self._lines.get(tensor)
            if line is not None and isinstance(line.source, Call) and result.is_floating_point():
                line.source.lost = line.source.lost or name

    def line(self, tensor: Any) -> Line | None:
        """What is known of a tensor."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor in self._lines:
            found: Line = self._lines[tensor]
            return found
        if tensor.dtype in NARROW:
            info = torch.iinfo(tensor.dtype)
            return Line.of(Codes(), info.min, info.max)
        return Line.of(Codes()) if tensor.dtype in WIDE else None

    def mark(self, tensor: Tensor) -> object:
        return self._marks.setdefault(tensor, object())

    def is_driven(self, tensor: Tensor) -> bool:
        return tensor in self._driven

    def new_call(self, kind: str) -> Call:
        """The call of the innermost layer; a further one of the same layer is NAME#2."""
        name = self._inside[-1] if self._inside else OUTSIDE
        count = self._counts[name] = self._counts.get(name, 0) + 1
        if count > 1:
            name = f"{name}#{count}"
        call = Call(name, len(self.calls), kind, kept=self._wanted(name, len(self.calls)))
        self.calls.append(call)
        return call


@dataclass(eq=False)
class Op:
    """One operation that ran: its arguments by their names in the schema, and its (first) result."""

    tracer: Tracer
    name: str
    given: dict[str, Any]
    result: Tensor

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)

    def line(self, name: str = "self") -> Line | None:
        return self.tracer.line(self[name])

    def constant(self, value: Any, line: Line) -> tuple[Reals, int | None] | None:
        """A constant as one number, or as one for each index along an axis of the result; None where it is none."""
        if isinstance(value, bool | int | float):
            return np.array([value], np.float64), None
        if not isinstance(value, Tensor) or self.tracer.is_driven(value) or value.numel() > CONSTANTS:
            return None
        if value.is_quantized or value.is_complex() or value.ndim > self.result.ndim or not value.numel():
            return None
        shape = [1] * (self.result.ndim - value.ndim) + list(value.shape)
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        if len(axes) > 1 or (axes and line.axis not in (None, axes[0])):
            return None
        return value.detach().double().cpu().numpy().reshape(-1), axes[0] if axes else None

    def with_constant(self, line: Line | None, value: Any, apply: Callable[[Line, Reals], Line | None]) -> Line | None:
        """The line behind an operation with a constant, where the result has its tensor's shape."""
        if line is None or (found := self.constant(value, line)) is None:
            return None
        number, axis = found
        if axis is not None and line.axis is None:
            line = replace(line, axis=axis)
        return apply(line, number)


def _pair(op: Op, apply: Callable[[Line, Reals], Line | None]) -> Line | None:
    """Of two operands that may change places, one a line and one a constant."""
    for one, other in (("self", "other"), ("other", "self")):
        line = op.line(one)
        if line is not None and op[one].shape == op.result.shape:
            found = op.with_constant(line, op[other], apply)
            if found is not None:
                return found
    return None


def _add(op: Op, sign: float = 1.0) -> Line | None:
    alpha = sign * float(op["alpha"] if op["alpha"] is not None else 1)
    for one, other in (("self", "other"), ("other", "self")):
        if isinstance(op[one], Tensor) and op[one] in op.tracer._differences and alpha == 1:
            line, mark = op.tracer._differences[op[one]]
            if isinstance(op[other], Tensor) and op.tracer.mark(op[other]) is mark:
                known: Line = line  # b + (a - b), a straight-through estimator
                return known
    line = op.line()
    if line is not None and op["self"].shape == op.result.shape:
        found = op.with_constant(line, op["other"], lambda line, number: line.plus(alpha * number))
        if found is not None:
            return found
        if alpha == -1 and isinstance(op["other"], Tensor) and isinstance(line.source, Codes):
            op.tracer._differences[op.result] = line, op.tracer.mark(op["other"])
    other = op.line("other")
    if other is not None and op["other"].shape == op.result.shape:
        scaled = other.times(np.array([alpha]))
        return op.with_constant(scaled, op["self"], lambda line, number: line.plus(number))
    return None


def _reversed_sub(op: Op) -> Line | None:
    line = op.line()
    turned = None if line is None else line.times(np.array([-1.0]))
    return op.with_constant(turned, op["other"], lambda line, number: line.plus(number))


def _divide(op: Op) -> Line | None:
    if op["self"].shape != op.result.shape:
        return None
    if op["rounding_mode"] is not None:
        return Line.of(Codes())

    def apply(line: Line, number: Reals) -> Line | None:
        return line.times(1 / number) if number.all() else None

    return op.with_constant(op.line(), op["other"], apply)


def _batch_norm(op: Op) -> Line | None:
    line = op.line("input")
    if line is None or op["training"] or op["running_mean"] is None or line.axis not in (None, 1):
        return None
    mean, var, weight, bias = (
        None if op[name] is None else op[name].detach().double().cpu().numpy()
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    eps = op["eps"] if op["eps"] is not None else op["epsilon"]
    by = (1.0 if weight is None else weight) / np.sqrt(var + eps)
    scaled = replace(line, axis=1).times(by)
    return None if scaled is None else scaled.plus((0.0 if bias is None else bias) - mean * by)


def _bounded(op: Op) -> Line:
    """The line of what is limited, of which a quantizer may be made."""
    return op.line() or Line.of(Real())


def _relu(op: Op) -> Line | None:
    line: Line | None = _bounded(op)
    assert line is not None
    if isinstance(line.source, Call) and (line.slope == 1).all() and not line.start.any() and not line.pools:
        line.source.relu = True
    return line.limited(low=0.0)


def _limits(low: str | None, high: str | None) -> Callable[[Op], Line | None]:
    """A clamp whose limits are the arguments of those names."""

    def rule(op: Op) -> Line | None:
        line: Line | None = _bounded(op)
        if line is not None and low is not None and op[low] is not None:
            line = op.with_constant(line, op[low], lambda line, number: line.limited(low=number))
        if line is not None and high is not None and op[high] is not None:
            line = op.with_constant(line, op[high], lambda line, number: line.limited(high=number))
        return line

    return rule


def _compare(above: bool) -> Callable[[Op], None]:
    def rule(op: Op) -> None:
        op.tracer._compared[op.result] = op.tracer.mark(op["self"]), above, op["other"]

    return rule


def _where(op: Op) -> Line | None:
    """A clamp written as where(x > limit, limit, x)."""
    if op["condition"] not in op.tracer._compared:
        return None
    mark, above, limit = op.tracer._compared[op["condition"]]
    for one, other, taken in (("self", "other", False), ("other", "self", True)):
        tensor = op[one]
        if not isinstance(tensor, Tensor) or op.tracer.mark(tensor) is not mark or tensor.shape != op.result.shape:
            continue
        line = op.line(one) or Line.of(Real())
        here, there = op.constant(op[other], line), op.constant(limit, line)
        if here is None or there is None or not np.array_equal(here[0], there[0]):
            return None
        if above == taken:  # what lies above is replaced
            return op.with_constant(line, limit, lambda line, number: line.limited(high=number))
        return op.with_constant(line, limit, lambda line, number: line.limited(low=number))
    return None


def _before(line: Line | None) -> Line | None:
    """A line that leads from a layer's sum."""
    return line if line is not None and isinstance(line.source, Call) else None


def _round(op: Op) -> Line | None:
    if op["decimals"]:
        return None
    line = op.line()
    if line is not None and isinstance(line.source, Codes) and (line.slope == 1).all() and not (line.start % 1).any():
        return line  # whole already
    before = _before(line)
    low, high = (np.array([-np.inf]), np.array([np.inf])) if line is None else (line.low, line.high)
    whole = Line.of(Codes(before), np.rint(low), np.rint(high))
    return replace(whole, axis=None if line is None else line.axis).compact()


def _whole(op: Op) -> Line | None:
    """Integers by another rounding: codes, but not those that half-to-even gives of a layer's sum."""
    return Line.of(Codes(), -1, 1) if op.name == "sign" else Line.of(Codes())


def _quantized(op: Op, line: Line | None, scale: Any, zero_point: Any, axis: Any, low: int, high: int) -> Line | None:
    """What a quantizer gives whose scale and zero point are known."""
    facts = []
    for value in (scale, zero_point):
        if isinstance(value, Tensor) and op.tracer.is_driven(value):
            return None
        facts.append(np.atleast_1d(np.asarray(value.cpu() if isinstance(value, Tensor) else value, np.float64)))
    scales, zeros = facts
    before = _before(line)
    if before is not None:
        before = before.times(1 / scales) if len(scales) == 1 and len(set(zeros)) == 1 else None
    seen = (np.array([-np.inf]), np.array([np.inf])) if before is None else (before.low, before.high)
    least, most = (np.clip(np.rint(end) + zeros, low, high) for end in seen)
    codes = Codes(before, int(zeros[0]) if before is not None else 0)
    axis = axis if len(scales) > 1 or len(zeros) > 1 else before.axis if before is not None else None
    return Line(codes, scales, -zeros * scales, (least - zeros) * scales, (most - zeros) * scales, axis).compact()


def _fake_quantize(op: Op) -> Line | None:
    for switch in ("fake_quant_enabled", "fake_quant_on"):
        if op[switch] is not None and not bool(op[switch]):
            return op.line()
    axis = op["axis"] if op["axis"] is not None else op["ch_axis"]
    return _quantized(op, op.line(), op["scale"], op["zero_point"], axis, op["quant_min"], op["quant_max"])


def _quantize_tensor(op: Op) -> Line | None:
    info = torch.iinfo(op.result.dtype)
    scale = op["scale"] if op["scale"] is not None else op["scales"]
    zero = op["zero_point"] if op["zero_point"] is not None else op["zero_points"]
    return _quantized(op, op.line(), scale, zero, op["axis"], info.min, info.max)


def _quantize_decomposed(op: Op) -> Line | None:
    """PT2E: the integers themselves."""
    scale = op["scale"] if op["scale"] is not None else op["scales"]
    zero = op["zero_point"] if op["zero_point"] is not None else op["zero_points"]
    line = _quantized(op, op.line("input"), scale, zero, op["axis"], op["quant_min"], op["quant_max"])
    if line is None:
        return None
    low, high = line.code_limits
    return Line.of(line.source, low, high)


def _dequantize_decomposed(op: Op) -> Line | None:
    line = op.line("input")
    scale = op["scale"] if op["scale"] is not None else op["scales"]
    zero = op["zero_point"] if op["zero_point"] is not None else op["zero_points"]
    if line is None:
        return None
    facts = [value.detach() if isinstance(value, Tensor) else torch.tensor(value) for value in (scale, zero)]
    if any(op.tracer.is_driven(value) for value in facts):
        return None
    scales, zeros = (np.atleast_1d(value.double().cpu().numpy()) for value in facts)
    moved = replace(line, axis=op["axis"]) if len(scales) > 1 else line
    return moved.plus(-zeros).times(scales)


def _view(op: Op) -> Line | None:
    line = op.line()
    return None if line is None else line.viewed(op["self"].shape, op.result.shape)


def _permute(op: Op) -> Line | None:
    line, axes = op.line(), list(range(op["self"].ndim))
    if line is None:
        return None
    if op.name == "permute":
        axes = [axis % len(axes) for axis in op["dims"]]
    else:
        one, other = (0, 1) if op.name == "t" else (op["dim0"] % len(axes), op["dim1"] % len(axes))
        axes[one], axes[other] = axes[other], axes[one]
    return line.permuted(axes) if isinstance(line.source, Codes) else None


def _same(op: Op) -> Line | None:
    line = op.line()
    return line if line is not None and op["self"].shape == op.result.shape else None


def _selected(op: Op) -> Line | None:
    """Some of the elements, or copies of them: the codes' grid holds, what they come from is forgotten."""
    line = op.line() or op.line("input")
    if line is None or not isinstance(line.source, Codes) or op["value"]:  # a padding with another number than 0
        return None
    if line.axis is not None:
        return line if op.result.shape == op["self"].shape else None
    return line.anonymous()


def _to(op: Op) -> Line | None:
    line = _same(op)
    if op.result.is_floating_point() or line is None:
        return line
    whole = isinstance(line.source, Codes) and (line.slope == 1).all() and not (line.start % 1).any()
    return line if whole else None


def _copy(op: Op) -> Line | None:
    return op.line("src") if op["src"].shape == op.result.shape else None


def _max_pool(op: Op) -> Line | None:
    line = op.line()
    if line is None:
        return None
    if isinstance(line.source, Codes):
        return line.anonymous() if line.axis is None else line
    kernel, stride, padding = (
        [value, value] if isinstance(value, int) else [*value, *value][:2] if value else []
        for value in (op["kernel_size"], op["stride"], op["padding"] or 0)
    )
    dilation = op["dilation"] or 1
    if op["ceil_mode"] or set([dilation] if isinstance(dilation, int) else dilation) != {1} or op.result.ndim != 4:
        return None
    (top, left), step = padding, stride or kernel
    pool = MaxPool(kernel=tuple(kernel), stride=tuple(step), padding=(top, top, left, left))
    return replace(line, pools=(*line.pools, pool))


def _cat(op: Op) -> Line | None:
    lines = [op.tracer.line(tensor) for tensor in op["tensors"] if tensor.numel()]
    first = lines[0] if lines else None
    if first is None or first.axis is not None or not isinstance(first.source, Codes):
        return None
    for line in lines:
        if line is None or line.axis is not None or not isinstance(line.source, Codes):
            return None
        if not (np.allclose(line.slope, first.slope, 1e-7) and np.allclose(line.start, first.start, 1e-7)):
            return None
    lows, highs = ([getattr(line, end) for line in lines] for end in ("low", "high"))
    return Line(Codes(), first.slope, first.start, np.minimum.reduce(lows), np.maximum.reduce(highs))


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
    return Line(
        call, np.ones(channels), np.zeros(channels), np.full(channels, -np.inf), np.full(channels, np.inf), axis=1
    )


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
    call = op.tracer.new_call("linear" if kind == "linear" else "conv2d")
    packed = next(op[name] for name in ("packed_weight", "W_prepack", "weight") if op[name] is not None)
    if "packed_weight" not in op.given and kind == "conv2d":
        call.refused = "it is called in a form of old versions"
        return None
    weight, bias = packed.unpack()
    if kind != "linear":
        axes = 2
        names = ("stride", "padding", "dilation")
        call.geometry = {name: _two(getattr(packed, name)(), axes, 0) for name in names}
        call.geometry["groups"] = packed.groups()
    input = op["qx"] if op["qx"] is not None else op["X"]
    line = _take(op, call, input, weight, bias)
    if relu:
        call.relu = True
        line = line.limited(low=0.0)
    info = torch.iinfo(op.result.dtype)
    scale, zero = op.result.q_scale(), op.result.q_zero_point()
    return _quantized(op, line, scale, zero, None, info.min, info.max)


def _unknown_layer(op: Op) -> Line | None:
    call = op.tracer.new_call("unknown")
    call.refused = f"it calls {op.name}, which is not known"
    return None


LAYERS: dict[str, Callable[[Op], Line | None]] = {
    "convolution": _convolution,
    **dict.fromkeys(("addmm", "mm", "_int_mm"), _matmul),
    **dict.fromkeys(("bmm", "baddbmm"), _batched),
    **dict.fromkeys(("conv2d_relu", "linear_relu", "conv2d", "linear"), _quantized_layer),
    **dict.fromkeys(
        ("conv2d_add", "conv2d_add_relu", "linear_dynamic", "linear_relu_dynamic", "conv1d", "conv3d", "conv3d_relu",
         "conv_transpose2d", "linear_leaky_relu", "linear_tanh", "_scaled_dot_product_flash_attention_for_cpu"),
        _unknown_layer,
    ),
}  # fmt: skip
PARTS = ("split", "split_with_sizes", "unbind", "chunk")  # every result of these is part of the operand
RULES: dict[str, Callable[[Op], Line | None]] = {
    "add": _add,
    "sub": lambda op: _add(op, -1.0),
    "rsub": _reversed_sub,
    "mul": lambda op: _pair(op, lambda line, number: line.times(number)),
    "div": _divide,
    "neg": lambda op: None if (line := op.line()) is None else line.times(np.array([-1.0])),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    "relu": _relu,
    "clamp": _limits("min", "max"),
    "clamp_min": _limits("min", None),
    "clamp_max": _limits(None, "max"),
    "hardtanh": lambda op: _limits("min_val", "max_val")(
        Op(op.tracer, op.name, {"min_val": -1, "max_val": 1} | op.given, op.result)
    ),
    "minimum": _limits(None, "other"),
    "maximum": _limits("other", None),
    **dict.fromkeys(("gt", "ge"), _compare(True)),
    **dict.fromkeys(("lt", "le"), _compare(False)),
    "where": _where,
    "round": _round,
    **dict.fromkeys(("floor", "ceil", "trunc", "sign"), _whole),
    **dict.fromkeys(
        ("fake_quantize_per_tensor_affine_cachemask", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
         "fake_quantize_per_channel_affine_cachemask", "_fake_quantize_learnable_per_tensor_affine",
         "_fake_quantize_learnable_per_channel_affine", "_fused_moving_avg_obs_fq_helper"),
        _fake_quantize,
    ),
    **dict.fromkeys(("quantize_per_tensor", "quantize_per_channel"), _quantize_tensor),
    "dequantize": _same,
    **dict.fromkeys(("detach", "alias", "clone", "lift_fresh", "contiguous", "dropout", "expand"), _same),
    "_to_copy": _to,
    "copy": _copy,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("max_pool2d_with_indices", "quantized_max_pool2d"), _max_pool),
    "cat": _cat,
    **dict.fromkeys(
        (*PARTS, "slice", "select", "index", "index_select", "gather", "upsample_nearest2d", "repeat", "flip", "roll",
         "reflection_pad2d", "replication_pad2d", "constant_pad_nd"),
        _selected,
    ),
}  # fmt: skip
