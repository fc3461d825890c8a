"""What follows a layer's sum up to the next quantizer: steps in integers, and the framework's own codes beside them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.intformat import IntFormat
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware
from qexport.core.steps import Relu, SumPool
from qexport.errors import QexportError
from qexport.frontends.rounding import FLOAT32, FLOAT64, Rounding, ended
from qexport.frontends.torch_module.grids import Stated, operand_of
from qexport.frontends.torch_module.lines import Call, Codes, Line, Reals


@dataclass(frozen=True)
class Ending:
    """What follows a layer's sums: the rounding of its quantizer, and the framework's `tensor` behind that, by its
    line; None where the codes are the user's own."""

    rounding: Rounding
    line: Line
    tensor: Tensor | None


def with_output(capture: LayerCapture, ending: Ending, hardware: Hardware | None) -> LayerCapture:
    """The capture of a layer's sums with its output side; raises QexportError where there are no such steps, or where
    the framework's codes are others."""
    codes, precision = None, FLOAT32
    if ending.tensor is not None and hardware is None:
        integer = Stated(ending.rounding.format.integer)
        codes = operand_of("output", ending.tensor, ending.line, integer, channels=False).codes
        precision = FLOAT64 if ending.tensor.dtype == torch.float64 else FLOAT32
    return ended(capture, ending.rounding, codes, hardware, precision)


def ending_of(call: Call, capture: LayerCapture, unit: Reals, bias: Reals | None, stated: CodeFormat | None) -> Ending:
    """How a layer ends. `capture`: its sums; `unit`: the real value of accumulator 1 of each channel; `bias`: the real
    one that is not in the accumulator; `stated`: the codes to round to where the module has no quantizer.

    Raises QexportError where there are no such codes: the layer then ends with its accumulators.
    """
    tensor: Tensor | None = None
    if call.found:
        line, tensor = next(iter(call.found.values()))
    elif stated is not None and call.last is not None:
        line = _rounded(call.last, stated)
    else:
        way = f"its sum goes through {call.lost}" if call.lost else "no quantizer follows it"
        raise QexportError(f"{way}; state its output scale for codes of its own")
    source = line.source
    assert isinstance(source, Codes)
    assert source.before is not None
    before = source.before
    if len(set(line.slope)) > 1 or len(set(line.start)) > 1 or not line.slope[0] > 0:
        raise QexportError("the quantizer behind it has a scale for each channel")
    facts = operation(capture, None)
    signal, summed = facts.start, 1
    for step in before.before:
        signal = step.after(signal, None)
        summed *= math.prod(step.kernel) if isinstance(step, SumPool) else 1
        if bias is not None and (isinstance(step, Relu) or (isinstance(step, SumPool) and any(step.padding))):
            raise QexportError("its real bias comes before a ReLU and an average, or before a padded one")
    gains = before.slope * unit
    offsets = before.start + (0 if bias is None else before.slope * summed * bias)
    least, greatest = (np.array(end.tolist(), np.float64) for end in (signal.low, signal.high))
    ends = np.rint([gains * least + offsets, gains * greatest + offsets]) + source.zero_point
    reached = ends.min(), ends.max()
    limits = []
    for which, limit in enumerate(line.code_limits):
        numbers = set(np.where(np.isfinite(limit[0]), limit[0], reached[which]).tolist())
        if len(numbers) > 1:
            raise QexportError("what limits it before the quantizer differs by channel")
        limits.append(int(numbers.pop()))
    low, high = limits
    zero = round(float(line.zero_point[0]))
    own = [limit for limit in line.own_range if np.isfinite(limit)]
    least_code, most_code = int(min(low, zero, *own)), int(max(high, zero, *own))
    integer = IntFormat.holding(least_code, most_code, least_code < 0)
    fmt = CodeFormat(bits=integer.bits, signed=integer.signed, scale=float(line.slope[0]), zero_point=zero)
    if tensor is None and stated is not None:
        fmt = stated
    rounding = Rounding(gains, offsets, low, high, fmt, source.zero_point, before=before.before, after=before.pools)
    return Ending(rounding, line, tensor)


def _rounded(line: Line, stated: CodeFormat) -> Line:
    """A quantizer of that format behind a line."""
    scale, zero = stated.scales[0], stated.zero_points[0]
    before = line.times(np.array([1 / scale]))
    assert before is not None
    integer = stated.integer
    limits = [
        (np.clip(np.rint(end) + zero, integer.low, integer.high) - zero) * scale for end in (before.low, before.high)
    ]
    return Line(Codes(before, zero), np.array([scale]), np.array([-zero * scale]), *limits).compact()
