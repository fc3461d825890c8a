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
    """What a pool reads: `plane` before it; `gather` takes `v` into the function's value."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    plane: tuple[int, ...]
    gather: str


@dataclass(frozen=True)
class StepText:
    """One step for the template: `value` of v and channel, or how many of its `levels` v reaches, or a `window`.

    `before`: the tensor that it acts on; `start`: what a count, sum or maximum starts from.
    """

    name: str
    before: str
    comment: str
    value: str | None = None
    levels: int | None = None
    window: Window | None = None
    start: str = ""


def steps_context(
    steps: Sequence[Step], sizes: tuple[int, ...], start: str, bias: str | Int64 | None
) -> dict[str, Any]:
    """What templates/sv/steps.svh.j2 needs. `start` names the tensor before the steps, whose axes behind n have these
    sizes. `bias`: the numbers, or what gives that of `channel` where the design has them from elsewhere."""
    names = step_names(steps)
    numbers = {f"{name}_{field}": array for name, step in zip(names, steps, strict=True)
               for field, array in step.arrays.items() if array.ndim}  # fmt: skip
    if not isinstance(bias, str | None) and takes_bias(steps):
        numbers["bias_numbers"], bias = bias, "bias_numbers(channel)"
    texts = []
    for name, step, before in zip(names, steps, (start, *names), strict=False):
        text = _text(name, step, before, sizes, str(bias))
        sizes = step.sizes(_planes(sizes))
        texts.append(text)
    roundings = {rounding for step in steps for rounding in _roundings(step)}
    return {
        "step_numbers": [(name, *_rows(array)) for name, array in numbers.items()],
        "roundings": [(name, up) for name, up in ROUNDINGS.items() if name in roundings],
        "steps": texts,
    }


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


def _text(name: str, step: Step, before: str, sizes: tuple[int, ...], bias: str) -> StepText:
    single = {field: value for field in step.__struct_fields__ if isinstance(value := getattr(step, field), int | str)}
    said = ", ".join(f"{field} {value}" for field, value in single.items() if field != "name")
    comment = f"{name}: {step.op}{f' {said}' if said else ''}"

    def number(field: str) -> str:
        array = step.arrays[field]
        return f"{name}_{field}(channel)" if array.ndim else literal(int(array))

    match step:
        case MaxPool() | SumPool():
            value = f"at_{name}"
            largest = isinstance(step, MaxPool)
            gather = f"if (v > {value}) {value} = v;" if largest else f"{value} = {value} + v;"
            window = Window(step.kernel, step.stride or step.kernel, step.padding, sizes[-2:], gather)
            return StepText(name, before, comment, window=window, start=literal(VALUE.low if largest else 0))
        case Threshold():
            levels = step.arrays["table"].shape[1]
            return StepText(name, before, comment, levels=levels, start=literal(step.first))
        case Lookup():
            return StepText(name, before, comment, value=f"{name}_table(32'(v - {literal(step.low)}))")
        case Bias():
            return StepText(name, before, comment, value=f"v + ({bias} <<< {step.shift})")
        case _:
            return StepText(name, before, comment, value=_VALUES[type(step)](step, number))


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
