"""How a layer ends: what its quantizer makes of its sums, and the least factors of a sum that do the same."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
from msgspec.structs import replace as replace_struct

from qexport.core.geometry import Sum
from qexport.core.intformat import Int64
from qexport.core.rescale import Network
from qexport.core.steps import Add, Multiply, Step
from qexport.errors import QexportError
from qexport.frontends.onnx_model.values import Call, Closing, Quantizer, Reals
from qexport.frontends.rounding import ROUNDED, Rounding

PAIRS = 1 << 16  # of codes of two operands, that are all tried


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
    """The same sum of two operands by smaller factors, where they give the same code for every pair of codes.

    Scales are to each other as numbers of 24 bits; near them lie ratios of few bits, which cost a hardware less.
    """
    line, layer = closing.line, call.layer
    if not isinstance(layer, Sum) or len(layer.mul) != 2 or line.summed is not None or len(line.slope) > 1:
        return call, closing
    operands = [call.operands[name][0].format for name in ("input", "input2")]
    values = [fmt.valid - fmt.zero_points[0] for fmt in operands]
    if len(values[0]) * len(values[1]) > PAIRS:
        return call, closing
    try:
        wanted = _codes(closing, layer.mul, values)
    except QexportError:
        return call, closing
    first, second = layer.mul
    exact = _sums(layer.mul, values) * call.unit[0]
    for ratio in _ratios(abs(first), abs(second)):
        mul = ratio[0] if first > 0 else -ratio[0], ratio[1] if second > 0 else -ratio[1]
        if max(ratio) >= max(abs(first), abs(second)):
            break
        unit = float(call.unit[0]) * (mul[0] * first + mul[1] * second) / (mul[0] ** 2 + mul[1] ** 2)
        near = replace(closing, line=replace(line, slope=line.slope / call.unit * unit))
        close = (np.abs(_sums(mul, values) * unit - exact) < unit / 4).all()
        if close and (_codes(near, mul, values) == wanted).all():
            return replace(call, layer=replace_struct(layer, mul=mul), unit=np.array([unit])), near
    return call, closing


def _sums(mul: tuple[int, ...], values: list[Int64]) -> Int64:
    """Of every pair of codes, as one channel."""
    sums: Int64 = mul[0] * values[0][:, np.newaxis] + mul[1] * values[1]
    return sums.reshape(1, -1)


def _codes(closing: Closing, mul: tuple[int, ...], values: list[Int64]) -> Int64:
    rounding, sums = rounding_of(closing), _sums(mul, values)
    gains, offsets = rounding.gains.tolist(), rounding.offsets.tolist()
    if len(offsets) > 1:
        raise QexportError("an offset for each channel")
    ends = np.array([sums.min()]), np.array([sums.max()])
    network = Network(gains, offsets, *ends, rounding.low, rounding.high, rounding.zero_point, rounding.rounding)
    return network.codes(sums, 0)


def _ratios(one: int, other: int) -> Iterator[tuple[int, int]]:
    """Pairs of integers, ever larger, whose ratios come ever nearer to that of the two: a continued fraction's."""
    before, now, rest = (0, 1), (1, 0), Fraction(one, other)
    while True:
        whole = rest.numerator // rest.denominator
        for part in range(max(1, whole - 2), whole + 1):
            pair = before[0] + part * now[0], before[1] + part * now[1]
            if min(pair) > 0:
                yield pair
        before, now = now, (before[0] + whole * now[0], before[1] + whole * now[1])
        if rest == whole:
            return
        rest = 1 / (rest - whole)
