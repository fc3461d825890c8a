"""Watches a forward pass at the level of ATen: which layers multiply what, and how quantizers made it.

Every operation that runs is seen, whatever framework asked for it. Of each tensor to which constants alone lead from a
rounding or a layer's sum, the line is kept; all else just runs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from qexport.frontends.torch_module.lines import Call, Codes, Line, Reals

CONSTANTS = 1 << 16  # numbers of a constant that may be one for each channel
NARROW, WIDE = {torch.int8, torch.uint8, torch.int16}, {torch.int32, torch.int64}  # codes as they are
OUTSIDE = "model"  # the name of what the module itself calls, outside every layer of its own
SAME = ("detach", "alias", "lift_fresh")  # these give the very elements of their operand
PARTS = ("split", "split_with_sizes", "unbind", "chunk")  # every result of these is part of the operand
T = TypeVar("T")


class Known(Generic[T]):
    """What is known of tensors, for as long as they live."""

    def __init__(self) -> None:
        self._table: Any = WeakTensorKeyDictionary()

    def get(self, tensor: Any) -> T | None:
        found: T | None = self._table.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def put(self, tensor: Tensor, value: T | None) -> None:
        """None: nothing is known any more."""
        if value is None:
            self._table.pop(tensor, None)
        else:
            self._table[tensor] = value


@dataclass(frozen=True)
class Comparison:
    """Where tensors of that mark lie `above` a limit, or below."""

    mark: object
    above: bool
    limit: Any


class Tracer(TorchDispatchMode):
    """`rules`: how operations change lines, by their names; `wanted`: whether a call's tensors are kept."""

    def __init__(self, model: nn.Module, rules: "Mapping[str, Rule]", wanted: Callable[[str, int | None], bool]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.compared = Known[Comparison]()
        self.differences = Known[tuple[Line, object]]()  # of codes - b: their line, and the mark of b
        self._model, self._rules, self._wanted = model, rules, wanted
        self._inside: list[str] = []
        self._counts: dict[str, int] = {}
        self._lines = Known[Line]()
        self._driven = Known[bool]()  # depends on the inputs
        self._marks = Known[object]()

    @contextmanager
    def watch(self, inputs: Any) -> Iterator[None]:
        """The names of the layers are known inside; `inputs` are what the pass depends on."""

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._inside.append(name)

        def leave(*_: Any) -> None:
            self._inside.pop()

        for name, module in self._model.named_modules():
            if name:
                module.register_forward_pre_hook(enter(name))
                module.register_forward_hook(leave, always_call=True)
        for tensor in pytree.tree_leaves(inputs):
            if isinstance(tensor, Tensor):
                self._driven.put(tensor, True)
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose():  # in inference mode; else its parts alone come here
            with self:
                return func.decompose(*args, **kwargs)
        overwritten = self._overwritten(func._schema.name, args)
        out = func(*args, **kwargs)
        results = [tensor for tensor in pytree.tree_leaves(out) if isinstance(tensor, Tensor)]
        if not results:
            return out
        namespace, _, name = func._schema.name.partition("::")
        names = (argument.name for argument in func._schema.arguments)
        given = dict(zip(names, args, strict=False)) | kwargs
        operands = [tensor for tensor in pytree.tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        own = name.rstrip("_") if namespace == "aten" else f"{namespace}.{name}"
        op = Op(self, own, given, results[0], overwritten)
        rule = self._rules.get(op.name)
        line = rule(op) if rule is not None else None
        driven = any(self._driven.get(tensor) for tensor in operands)
        if line is None and driven and results[0].is_floating_point():
            for before in map(self._lines.get, operands):
                if before is not None and isinstance(before.source, Call) and before.source.lost is None:
                    before.source.lost = op.name
        self._remember(op, results, line, driven, in_place=name.endswith("_"))
        return out

    def _overwritten(self, name: str, args: Any) -> Tensor | None:
        """What a sum in place takes, before it is overwritten."""
        line = self._lines.get(args[0]) if name in ("aten::add_", "aten::sub_") else None
        if line is None or not isinstance(line.source, Codes):
            return None
        kept: Tensor = args[0].clone()
        self._driven.put(kept, self._driven.get(args[0]))
        return kept

    def _remember(self, op: "Op", results: list[Tensor], line: Line | None, driven: bool, in_place: bool) -> None:
        mark = self.mark(op["self"]) if op.name in SAME else object()
        for place, tensor in enumerate(results):
            self._lines.put(tensor, line if place == 0 or op.name in PARTS else None)
            self._driven.put(tensor, driven or None)
            self._marks.put(tensor, mark)
            if in_place:
                self.compared.put(tensor, None)
                self.differences.put(tensor, None)
        if op.name in SAME:
            self.differences.put(results[0], self.differences.get(op["self"]))
        if line is None:
            return
        if isinstance(line.source, Call):
            line.source.last = line
        elif isinstance(line.source, Codes) and line.source.before is not None:
            call = line.source.before.source
            assert isinstance(call, Call)
            if call.kind == "sum" and call not in self.calls:
                call.name = self._numbered(call.name)
                self.calls.append(call)
            if call.kept:
                call.found[line.source] = line, results[0].clone()

    def line(self, tensor: Any) -> Line | None:
        """What is known of a tensor."""
        if not isinstance(tensor, Tensor):
            return None
        found = self._lines.get(tensor)
        if found is None and tensor.dtype in NARROW:
            info = torch.iinfo(tensor.dtype)
            return Line.of(Codes(), info.min, info.max)
        return Line.of(Codes()) if found is None and tensor.dtype in WIDE else found

    def mark(self, tensor: Tensor) -> object:
        """Equal for tensors of the same elements."""
        if (found := self._marks.get(tensor)) is None:
            self._marks.put(tensor, found := object())
        return found

    def is_driven(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the inputs."""
        return bool(self._driven.get(tensor))

    def new_call(self, kind: str) -> Call:
        """The call of the innermost layer; a further one of the same layer is NAME#2."""
        name = self._numbered(self._inside[-1] if self._inside else OUTSIDE)
        index = sum(call.kind != "sum" for call in self.calls)
        call = Call(name, index, kind, self._wanted(name, index))
        self.calls.append(call)
        return call

    def new_sum(self, what: str, mul: tuple[int, ...]) -> Call:
        """A sum, which counts once a quantizer ends it: under the name of a module that has no parts, else under that
        of what it does, too."""
        inside = self._inside[-1] if self._inside else ""
        leaf = inside and not next(self._model.get_submodule(inside).children(), None)
        name = inside if leaf else f"{inside}.{what}" if inside else what
        return Call(name, None, "sum", self._wanted(name, None), mul)

    def _numbered(self, name: str) -> str:
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"


@dataclass(eq=False)
class Op:
    """One operation that ran: its name (of others than ATen's with their library's), its arguments by their names in
    the schema, and its (first) result; `before`: what a sum in place has overwritten."""

    tracer: Tracer
    name: str
    given: dict[str, Any]
    result: Tensor
    before: Tensor | None = None

    def __getitem__(self, name: str) -> Any:
        """An argument; None where it was not given."""
        return self.given.get(name)

    def line(self, name: str = "self") -> Line | None:
        return self.tracer.line(self[name])

    def numbers(self, value: Any) -> Reals | None:
        """A constant as float64; None where it depends on the inputs or is no array of numbers."""
        if isinstance(value, bool | int | float | np.ndarray):
            return np.asarray(value, np.float64)
        if not isinstance(value, Tensor) or self.tracer.is_driven(value) or value.is_quantized or value.is_complex():
            return None
        found: Reals = value.detach().double().cpu().numpy()
        return found

    def constant(self, value: Any, line: Line) -> tuple[Reals, int | None] | None:
        """A constant as one number, or as one for each index along an axis of the result; None where it is neither."""
        if isinstance(value, Tensor) and not 0 < value.numel() <= CONSTANTS:
            return None
        numbers = self.numbers(value)
        if numbers is None or numbers.ndim > self.result.ndim or not np.isfinite(numbers).all():
            return None
        shape = [1] * (self.result.ndim - numbers.ndim) + list(numbers.shape)
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        if len(axes) > 1 or (axes and line.axis not in (None, axes[0])):
            return None
        return numbers.reshape(-1), axes[0] if axes else None

    def with_constant(self, line: Line, value: Any, apply: "Callable[[Line, Reals], Line | None]") -> Line | None:
        """The line behind an operation of a tensor and a constant; None where the value is none."""
        found = self.constant(value, line)
        if found is None:
            return None
        numbers, axis = found
        return apply(line if axis is None else replace(line, axis=axis), numbers)


Rule = Callable[[Op], Line | None]
