"""What a layer of a network needs of a hardware: shapes, bits, steps, widths, parameters, multiplications."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qexport.core.geometry import ConvGeometry, MatMul, Shape, Sum
from qexport.core.intformat import IntFormat
from qexport.core.network import IntegerNetwork, Placed
from qexport.core.steps import Multiply, ShiftRight, Step, Tflite
from qexport.core.tensors import BIAS_BITS, Range, wide


@dataclass(frozen=True)
class LayerRow:
    """One layer. `bits`: of each operand and of the output, with the sign; `multiplier`, `shift`: signed bits of the
    multipliers behind the accumulator, and the range of right shifts; `bytes`: of weights, bias and numbers of steps,
    weights packed, the others as a set stores them; `multiplications`: of one picture, those with padding too."""

    name: str
    index: int | None
    kind: str
    operation: str
    shape: Shape
    bits: dict[str, str]
    steps: tuple[str, ...]
    bounds: Range
    accumulator_bits: int
    multiplier_bits: int | None
    shift: Range | None
    bytes: int
    multiplications: int


def network_rows(network: IntegerNetwork) -> list[LayerRow]:
    """The layers in order."""
    return [_row(placed) for placed in network.placed.values()]


def _row(placed: Placed) -> LayerRow:
    node, layer = placed.node, placed.node.layer
    formats = node.formats.operands | ({"output": node.formats.output} if node.formats.output else {})
    return LayerRow(
        name=layer.name,
        index=layer.index,
        kind=layer.kind,
        operation=_operation(placed),
        shape=placed.output[1:],
        bits={name: f"{fmt.bits}{'s' if fmt.signed else 'u'}" for name, fmt in formats.items()},
        steps=tuple(step.op for step in node.steps),
        bounds=placed.bounds,
        accumulator_bits=IntFormat.holding(*placed.bounds, True).bits,
        multiplier_bits=_widest(_numbers(node.steps)),
        shift=_shifts(node.steps),
        bytes=_bytes(placed),
        multiplications=_multiplications(placed),
    )


def _operation(placed: Placed) -> str:
    layer = placed.node.layer
    if not isinstance(layer, ConvGeometry):
        return layer.kind
    kernel = f" {layer.kernel[0]}x{layer.kernel[1]}" if layer.kind == "conv2d" else ""
    groups = f", {layer.groups} groups" if layer.groups > 1 else ""
    stride = f" /{layer.stride[0]}x{layer.stride[1]}" if layer.stride != (1, 1) else ""
    return f"{layer.kind}{kernel}{stride}{groups}"


def _numbers(steps: Iterable[Step]) -> list[int]:
    """All multipliers."""
    return [
        int(end)
        for step in steps
        for field in ("by", "multiplier")
        if isinstance(step, Multiply | Tflite) and field in step.arrays
        for end in (step.arrays[field].min(), step.arrays[field].max())
    ]


def _widest(numbers: list[int]) -> int | None:
    return IntFormat.holding(min(numbers), max(numbers), True).bits if numbers else None


def _shifts(steps: Iterable[Step]) -> Range | None:
    found = [step.arrays["by"] for step in steps if isinstance(step, ShiftRight)]
    found += [31 - step.arrays["shift"] for step in steps if isinstance(step, Tflite)]
    return (min(int(by.min()) for by in found), max(int(by.max()) for by in found)) if found else None


def _bytes(placed: Placed) -> int:
    node = placed.node
    total = 0
    if node.weight is not None:
        total += -(-node.weight.size * node.formats.weight.bits // 8)
    if node.bias is not None:
        total += node.bias.size * wide((int(node.bias.min()), int(node.bias.max())), BIAS_BITS).bits // 8
    for parameter in placed.chain.parameters.values():
        values = parameter.values
        total += values.size * wide((int(values.min()), int(values.max()))).bits // 8
    return total


def _multiplications(placed: Placed) -> int:
    layer, sums = placed.node.layer, math.prod(placed.accumulator)
    if isinstance(layer, ConvGeometry):
        return sums * layer.group_inputs * layer.kernel[0] * layer.kernel[1]
    if isinstance(layer, MatMul):
        return sums * placed.operands["input"][2]
    return sums * sum(abs(mul) != 1 for mul in layer.mul) if isinstance(layer, Sum) else 0
