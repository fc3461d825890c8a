"""How a layer ends: what its quantizer makes of its sums, and the least factors of a sum that do the same."""

from dataclasses import replace

import numpy as np
from msgspec.structs import replace as replace_struct

from qexport.core.geometry import Sum
from qexport.core.steps import Add, Multiply, Step
from qexport.errors import QexportError
from qexport.frontends.onnx_model.values import Call, Closing, Quantizer, Reals
from qexport.frontends.rounding import ROUNDED, Rounding, least_factors


def rounding_of(closing: Closing) -> Rounding:
    """What a quantizer makes of the sums of its layer."""
    line, quantizer = closing.line, closing.quantizer
    gains, offsets = line.slope / quantizer.step, line.start / quantizer.step + quantizer.inside
    before: tuple[Step, ...] = () if line.summed is None else (line.summed,)
    if quantizer.bipolar:
        if np.isfinite([line.low, line.high]).any():
            raise QexportError("a limit before a quantizer of two codes")
        two: tuple[Step, ...] = (Multiply(by=2), Add(value=-1))
        return Rounding(
            gains, offsets + 1, 0, 1, quantizer.format, rounding="floor", before=before, after=(*two, *line.pools)
        )
    low, high = (_limit(end, quantizer) for end in (line.low, line.high))
    return Rounding(
        gains, offsets, low, high, quantizer.format, quantizer.behind, quantizer.rounding, before, line.pools
    )


def _limit(end: Reals, quantizer: Quantizer) -> int:
    """The code that a limit of the reals becomes."""
    rounded = ROUNDED[quantizer.rounding](end / quantizer.step + quantizer.inside) + quantizer.behind
    codes = {int(code) for code in np.clip(rounded, quantizer.low, quantizer.high)}
    if len(codes) > 1:
        raise QexportError("what limits it before the quantizer differs by channel")
    return codes.pop()


def simplified(call: Call, closing: Closing) -> tuple[Call, Closing]:
    """The same sum of two operands by smaller factors, where they give the same code for every pair of codes."""
    line, layer = closing.line, call.layer
    if not isinstance(layer, Sum) or len(layer.mul) != 2 or line.summed is not None or len(line.slope) > 1:
        return call, closing

    def of_unit(unit: float) -> Closing:
        return replace(closing, line=replace(line, slope=line.slope / call.unit * unit))

    formats = [call.operands[name][0].format for name in ("input", "input2")]
    before = float(call.unit[0])
    mul, unit = least_factors(layer.mul, before, formats, lambda unit: rounding_of(of_unit(unit)))
    if mul == layer.mul:
        return call, closing
    return replace(call, layer=replace_struct(layer, mul=mul), unit=np.array([unit])), of_unit(unit)
