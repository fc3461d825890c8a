"""Steps as SystemVerilog: each a function of value and channel, a pool one of the plane before it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    VALUE,
    Add,
    Bias,
    Clamp,
    LeakyRelu,
    Lookup,
    MaxPool,
    Multiply,
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
    step_names,
    takes_bias,
)

ROUNDINGS: Mapping[Round, str] = {  # when the integer above is taken: rest / one is the fraction
    "floor": "1'b0",
    "half_up": "2 * rest >= one",
    "half_even": "2 * rest + (below & 64'sd1) > one",
    "half_away": "2 * rest + (v >= 0 ? 64'sd1 : 64'sd0) > one",
    "toward_zero": "v < 0 && rest > 0",
}
ROW = 256  # numbers that stand in one constant of Verilog

Number = Callable[[str], str]  # a step's field -> its number for `channel`


@dataclass(frozen=True)
class Window:
    """What a pool reads: `plane` before it; `gather` takes `v` into the function's value, which begins at `start`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    plane: tuple[int, ...]
    gather: str
    start: str


@dataclass(frozen=True)
class Function:
    """What a step makes of one value: `value` of v and channel, or from `start` how many of its `levels` v reaches."""

    name: str
    comment: str
    value: str | None = None
    levels: int | None = None
    start: str = ""


@dataclass(frozen=True)
class Place:
    """A step's value at a place of its plane: its function of the value that the tensor `before` it has there, or what
    a `window` of that tensor gives."""

    name: str
    before: str
    comment: str
    window: Window | None = None


def functions_context(steps: Sequence[Step], bias: str | Int64 | None) -> dict[str, Any]:
    """What templates/sv/step_functions.svh.j2 needs. `bias`: the numbers, or what gives that of `channel` where the
    design has them from elsewhere."""
    names = step_names(steps)
    numbers = {f"{name}_{field}": array for name, step in zip(names, steps, strict=True)
               for field, array in step.arrays.items() if array.ndim}  # fmt: skip
    if not isinstance(bias, str | None) and takes_bias(steps):
        numbers["bias_numbers"], bias = bias, "bias_numbers(channel)"
    roundings = {rounding for step in steps for rounding in _roundings(step)}
    return {
        "step_numbers": [(name, *_rows(array)) for name, array in numbers.items()],
        "roundings": [(name, up) for name, up in ROUNDINGS.items() if name in roundings],
        "functions": [
            _function(name, step, str(bias))
            for name, step in zip(names, steps, strict=True)
            if not isinstance(step, MaxPool | SumPool)
        ],
    }


def steps_context(
    steps: Sequence[Step], sizes: tuple[int, ...], start: str, bias: str | Int64 | None
) -> dict[str, Any]:
    """What templates/sv/steps.svh.j2 needs: those functions, and the values at the places of planes. `start` names the
    tensor before the steps, whose axes behind n have these sizes."""
    names = step_names(steps)
    places = []
    for name, step, before in zip(names, steps, (start, *names), strict=False):
        window = _window(name, step, sizes[-2:]) if isinstance(step, MaxPool | SumPool) else None
        places.append(Place(name, before, _comment(name, step), window))
        sizes = step.sizes(_planes(sizes))
    return {"steps": places, **functions_context(steps, bias)}


def value_of(tensor: str, steps: Sequence[Step]) -> str:
    """The value that a tensor holds: that of the last step, or the accumulator, for `output`."""
    return (step_names(steps) or ("accumulator",))[-1] if tensor == "output" else tensor


def needed(steps: Sequence[Step], tensors: Collection[str]) -> Sequence[Step]:
    """The steps up to the last whose value is among the tensors."""
    values = {value_of(tensor, steps) for tensor in tensors}
    return steps[: max((at for at, name in enumerate(step_names(steps), 1) if name in values), default=0)]


def _planes(sizes: tuple[int, ...]) -> Signal:
    """A tensor of these sizes, of which nothing else is asked."""
    axes = ("n", "oc", "oy", "ox") if len(sizes) == 3 else ("n", "m", "p")
    return Signal(axes, axes[-1] if len(sizes) == 2 else "oc", sizes, np.zeros(0), np.zeros(0))


def _comment(name: str, step: Step) -> str:
    single = {field: value for field in step.__struct_fields__ if isinstance(value := getattr(step, field), int | str)}
    said = ", ".join(f"{field} {value}" for field, value in single.items() if field != "name")
    return f"{name}: {step.op}{f' {said}' if said else ''}"


def _window(name: str, step: MaxPool | SumPool, plane: tuple[int, ...]) -> Window:
    value, largest = f"at_{name}", isinstance(step, MaxPool)
    gather = f"if (v > {value}) {value} = v;" if largest else f"{value} = {value} + v;"
    stride = step.stride or step.kernel
    return Window(step.kernel, stride, step.padding, plane, gather, literal(VALUE.low if largest else 0))


def _function(name: str, step: Step, bias: str) -> Function:
    comment = _comment(name, step)

    def number(field: str) -> str:
        array = step.arrays[field]
        return f"{name}_{field}(channel)" if array.ndim else literal(int(array))

    match step:
        case Threshold():
            return Function(name, comment, levels=step.arrays["table"].shape[1], start=literal(step.first))
        case Lookup():
            return Function(name, comment, value=f"{name}_table(32'(v - {literal(step.low)}))")
        case Bias():
            return Function(name, comment, value=f"v + ({bias} <<< {step.shift})")
        case _:
            return Function(name, comment, value=_VALUES[type(step)](step, number))


def _tflite(step: Tflite, number: Number) -> str:
    multiplier, shift = number("multiplier"), number("shift")
    if step.rounding == "single":
        return f"round_half_up(v * {multiplier}, 31 - 32'({shift}))"
    left, right = f"({shift} > 0 ? {shift} : 64'sd0)", f"({shift} < 0 ? 32'(-{shift}) : 0)"
    return f"round_half_away(round_half_up((v <<< {left}) * {multiplier}, 31), {right})"


def _wrap(step: Wrap, number: Number) -> str:
    unused = 64 - step.bits
    return f"(v <<< {unused}) {'>>>' if step.signed else '>>'} {unused}"


_VALUES: Mapping[type[Step], Callable[[Any, Number], str]] = {  # of v, a value before the step, and `channel`
    Multiply: lambda step, number: f"v * {number('by')}",
    Add: lambda step, number: f"v + {number('value')}",
    ShiftLeft: lambda step, number: f"v <<< {number('by')}",
    ShiftRight: lambda step, number: f"round_{step.round}(v, 32'({number('by')}))",
    Tflite: _tflite,
    Relu: lambda step, number: "v < 0 ? 64'sd0 : v",
    LeakyRelu: lambda step, number: f"v < 0 ? round_{step.round}(v, {step.shift}) : v",
    Clamp: lambda step, number: (
        f"v < {literal(step.low)} ? {literal(step.low)} : v > {literal(step.high)} ? {literal(step.high)} : v"
    ),
    Wrap: _wrap,
}


def _roundings(step: Step) -> set[Round]:
    match step:
        case ShiftRight() | LeakyRelu():
            return {step.round}
        case Tflite():
            return {"half_up"} if step.rounding == "single" else {"half_up", "half_away"}
        case _:
            return set()


def literal(value: int, bits: int = 64) -> str:
    """A signed constant of Verilog. The least one is its bits: its amount, which a minus would turn, is not of them."""
    if value == -1 << (bits - 1):
        return f"{bits}'sh{-value:x}"
    return f"{bits}'sd{value}" if value >= 0 else f"(-{bits}'sd{-value})"


def _rows(numbers: Int64) -> tuple[int, list[list[str]]]:
    """The bits of one number, and all of them as rows of constants: those of a channel, or of ROW each."""
    bits = IntFormat.holding(int(numbers.min()), int(numbers.max()), True).bits
    length = numbers.shape[1] if numbers.ndim == 2 else min(ROW, len(numbers))
    flat = np.pad(numbers.ravel(), (0, -numbers.size % length))
    return bits, [[literal(int(value), bits) for value in row] for row in flat.reshape(-1, length)]
