"""Steps as SystemVerilog: each a function of value and channel, a pool one of the plane before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    VALUE,
    Add,
    Bias,
    Chain,
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
    plane: tuple[int, int]
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


def steps_context(chain: Chain, start: str, bias: str | None = None) -> dict[str, Any]:
    """What templates/sv/steps.svh.j2 needs. `start` names the tensor before the steps; `bias` is the bias of `channel`
    where the design has it from elsewhere, else it is among the numbers."""
    numbers = {f"{name}_{field}": array for name, step in zip(chain.names, chain.steps, strict=True)
               for field, array in step.arrays.items() if array.ndim}  # fmt: skip
    roundings: set[Round] = set()
    texts: list[StepText] = []
    for name, step, signal in zip(chain.names, chain.steps, (chain.start, *chain.signals.values()), strict=False):
        if isinstance(step, Bias) and bias is None:
            assert chain.bias is not None
            numbers["bias_numbers"], bias = chain.bias, "bias_numbers(channel)"
        texts.append(_text(name, step, texts[-1].name if texts else start, signal, bias))
        roundings |= _roundings(step)
    return {
        "start": start,
        "step_numbers": [(name, *_rows(array)) for name, array in numbers.items()],
        "roundings": [(name, up) for name, up in ROUNDINGS.items() if name in roundings],
        "steps": texts,
    }


def _text(name: str, step: Step, before: str, signal: Signal, bias: str | None) -> StepText:
    single = {field: value for field in step.__struct_fields__ if isinstance(value := getattr(step, field), int | str)}
    said = ", ".join(f"{field} {value}" for field, value in single.items() if field != "name")
    comment = f"{name}: {step.op}{f' {said}' if said else ''}"

    def number(field: str) -> str:
        array = step.arrays[field]
        return f"{name}_{field}(channel)" if array.ndim else literal(int(array))

    match step:
        case MaxPool() | SumPool():
            assert signal.plane is not None
            value = f"at_{name}"
            largest = isinstance(step, MaxPool)
            gather = f"if (v > {value}) {value} = v;" if largest else f"{value} = {value} + v;"
            window = Window(step.kernel, step.stride or step.kernel, step.padding, signal.plane, gather)
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
