"""What follows a layer's sums up to the next quantizer: steps in integers, and the framework's own codes beside them.

Every frontend says what it found there as a Rounding; here it becomes steps, proven, and is compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_struct
from numpy.typing import NDArray

from qexport.core.capture import Departs, LayerCapture, Ties
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Sum
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware, Network, rescale
from qexport.core.steps import Pool, Round, Step
from qexport.errors import QexportError

Reals = NDArray[np.float64]
FLOAT32, FLOAT64 = 2.0**-24, 2.0**-53  # a rounding of a framework's numbers, relative
ROUNDED: Mapping[Round, Callable[[Reals], Reals]] = {  # what each rounding makes of real numbers
    "half_even": np.rint,
    "floor": np.floor,
    "half_up": lambda real: np.floor(real + 0.5),
    "half_away": lambda real: np.sign(real) * np.floor(np.abs(real) + 0.5),
    "toward_zero": np.trunc,
}


@dataclass(frozen=True)
class Rounding:
    """code = round(gain x sum + offset) + zero_point, within low..high, for each channel of the sums.

    `before`: steps of the sums, `after`: steps of the codes, which only rise. `format`: of the codes behind all.
    """

    gains: Reals
    offsets: Reals
    low: int
    high: int
    format: CodeFormat
    zero_point: int = 0
    rounding: Round = "half_even"
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def network(self, capture: LayerCapture) -> Network:
        """The rounding of a layer's sums within their bounds."""
        signal = operation(capture, None).start
        for step in self.before:
            signal = step.after(signal, None)
        gains, offsets = (np.broadcast_to(numbers, signal.channels).tolist() for numbers in (self.gains, self.offsets))
        least, greatest = (np.array(ends.tolist(), np.int64) for ends in (signal.low, signal.high))
        return Network(gains, offsets, least, greatest, self.low, self.high, self.zero_point, self.rounding)


def ended(
    capture: LayerCapture,
    rounding: Rounding,
    codes: Int64 | None,
    hardware: Hardware | None = None,
    precision: float = FLOAT32,
) -> LayerCapture:
    """The capture with the steps and the format of its output, and the framework's codes where no hardware rounds.

    `capture`: the sums alone. `precision`: a rounding of the framework's floats. Raises QexportError where the codes
    are not those of the rounding, or where no steps give them.
    """
    network = rounding.network(capture)
    found = rescale(network, hardware or Hardware())
    formats = replace_struct(capture.formats, output=rounding.format)
    with_steps = replace(capture, formats=formats, steps=(*rounding.before, *found.steps, *rounding.after))
    if hardware is not None:
        exact = _exact(Golden(capture), network, rounding)
        differing = int(np.count_nonzero(exact != Golden(with_steps).values("output")))
        departs = Departs(accumulators=int(found.departs.astype(object).sum()), codes=differing)
        return replace(with_steps, departs=departs)
    if codes is None:
        return with_steps
    codes, ties = _compared(capture, network, rounding, codes, precision)
    return replace(with_steps, reference_codes=codes, ties=ties or None)


FACTOR_BITS = 31  # of what an operand of a sum is multiplied with
PAIRS = 1 << 16  # of codes of two operands, that are all tried
Factors = tuple[int, ...]


def common_unit(*scales: float) -> tuple[list[int], float]:
    """Integers that are to each other as the scales, and the real value of 1: exact, where they fit their bits."""
    ratios = [Fraction(scale) for scale in scales]
    common = math.lcm(*(ratio.denominator for ratio in ratios))
    numbers = [int(ratio * common) for ratio in ratios]
    shared = math.gcd(*numbers)
    unit, numbers = Fraction(shared, common), [number // shared for number in numbers]
    while max(numbers).bit_length() > FACTOR_BITS:
        unit, numbers = unit * 2, [(number + 1) // 2 for number in numbers]
    if not min(numbers):
        raise QexportError("its scales are too far from each other")
    return numbers, float(unit)


def least_factors(
    mul: Factors, unit: float, formats: Sequence[CodeFormat], rounding: Callable[[float], Rounding]
) -> tuple[Factors, float]:
    """Smaller factors of a sum of two operands, and the real value of its 1, that give the same code for every pair of
    codes; `rounding`: behind sums of such a unit.

    Scales are to each other as numbers of 24 bits; near them lie ratios of few bits, which cost a hardware less.
    """
    values = [fmt.valid - fmt.zero_points[0] for fmt in formats]
    if len(values[0]) * len(values[1]) > PAIRS:
        return mul, unit
    try:
        wanted = _codes_of_pairs(rounding(unit), mul, values)
        first, second = mul
        exact = _sums_of_pairs(mul, values) * unit
        for ratio in _ratios(abs(first), abs(second)):
            near = ratio[0] if first > 0 else -ratio[0], ratio[1] if second > 0 else -ratio[1]
            if max(ratio) >= max(abs(first), abs(second)):
                break
            own = unit * (near[0] * first + near[1] * second) / (near[0] ** 2 + near[1] ** 2)
            close = (np.abs(_sums_of_pairs(near, values) * own - exact) < own / 4).all()
            if close and (_codes_of_pairs(rounding(own), near, values) == wanted).all():
                return near, own
    except QexportError:  # of what follows the sum, which is then said when the layer is captured
        pass
    return mul, unit


def _sums_of_pairs(mul: Factors, values: Sequence[Int64]) -> Int64:
    """Of every pair of codes, as one channel."""
    sums: Int64 = mul[0] * values[0][:, np.newaxis] + mul[1] * values[1]
    return sums.reshape(1, -1)


def _codes_of_pairs(rounding: Rounding, mul: Factors, values: Sequence[Int64]) -> Int64:
    sums = _sums_of_pairs(mul, values)
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


def _passed(values: Any, steps: tuple[Step, ...], axis: int) -> Any:
    for step in steps:
        values = step.apply(values, axis, None)
    return values


def _exact(golden: Golden, network: Network, rounding: Rounding) -> Int64:
    axis = golden.facts.start.axis
    codes: Int64 = _passed(
        network.codes(_passed(golden.accumulator, rounding.before, axis), axis), rounding.after, axis
    )
    return codes


def _compared(
    capture: LayerCapture, network: Network, rounding: Rounding, codes: Int64, precision: float
) -> tuple[Int64, Ties]:
    """The framework's codes, and where they differ from the exact ones: within its own float error of an edge.

    Raises QexportError where they differ by more: then what ran behind the layer is not what was understood.
    """
    golden = Golden(capture)
    accumulator, axis = golden.accumulator, golden.facts.start.axis
    exact = _exact(golden, network, rounding)
    codes = codes.reshape(exact.shape)  # views that lie between keep the order
    differing = codes != exact
    if not differing.any():
        return codes, ()
    sums = _passed(accumulator, rounding.before, axis)
    along = [-1 if at == axis else 1 for at in range(sums.ndim)]
    gain, offset = (
        np.broadcast_to(numbers, network.channels).reshape(along) for numbers in (rounding.gains, rounding.offsets)
    )
    real, error = gain * sums + offset, _float_error(capture, rounding, sums, gain, offset, precision)
    below, above = (
        np.clip(ROUNDED[rounding.rounding](end) + network.zero_point, network.low, network.high).astype(np.int64)
        for end in (real - error, real + error)
    )
    passed = [_passed(end, rounding.after, axis) for end in (below, above)]
    unexplained = (codes < passed[0]) | (codes > passed[1])
    if unexplained.any():
        raise QexportError(
            f"{int(unexplained.sum()):,} of {codes.size:,} codes of the quantizer behind it are not those of the steps "
            "that were understood"
        )
    tied = below != above if rounding.after else differing
    if rounding.before:
        return codes, _ties_of_windows(accumulator, tied, rounding.before, axis)
    channels = np.broadcast_to(np.arange(network.channels).reshape(along), accumulator.shape)
    pairs = np.unique(np.stack([channels[tied], accumulator[tied]], axis=1), axis=0)
    return codes, tuple((int(channel), int(value)) for channel, value in pairs)


def _ties_of_windows(accumulator: Int64, tied: NDArray[np.bool_], before: tuple[Step, ...], axis: int) -> Ties:
    """The largest accumulator of each window whose sum is tied: it marks the window."""
    largest = accumulator
    for step in before:
        if isinstance(step, Pool):
            largest = step.windows(largest, np.maximum, np.iinfo(np.int64).min)
    places = np.argwhere(tied)
    return tuple(sorted({(int(place[axis]), int(largest[tuple(place)])) for place in places}))


def _float_error(
    capture: LayerCapture, rounding: Rounding, sums: Int64, gain: Reals, offset: Reals, precision: float
) -> Reals:
    """How far the framework's value before its rounding may lie from the exact one, in codes, position by position.

    A sum of k products is off by k roundings of the sum of their sizes at most, and each operation behind by one.
    """
    sizes: dict[str, Any] = {} if capture.bias is None else {"bias": np.abs(capture.bias)}
    formats: dict[str, Any] = {}
    for name, fmt in capture.formats.operands.items():
        codes: Int64 = fmt.integers(getattr(capture, name))
        sizes[name] = np.abs(codes - np.array(fmt.zero_points).reshape(-1, *[1] * (codes.ndim - 1)))
        bits = max(int(sizes[name].max()).bit_length() + 1, 2)
        formats[name] = CodeFormat(bits=min(bits, 32), signed=True, scale=1.0)
    layer = capture.layer
    if isinstance(layer, Sum):
        layer = replace_struct(layer, mul=tuple(map(abs, layer.mul)))
        formats["accumulator"] = AccumulatorScale(scale=1.0)
    summed: Any = Golden(LayerCapture(layer=layer, formats=Formats(**formats), **sizes)).accumulator
    axis = operation(capture, None).start.axis
    terms = capture.input.shape[-1] if capture.weight is None else capture.weight[0].size
    terms += sum(math.prod(step.kernel) for step in rounding.before if isinstance(step, Pool))
    summed = _passed(summed, rounding.before, axis)
    out: Reals = precision * (
        (terms + 4) * np.abs(gain) * summed + 8 * (np.abs(gain * sums) + np.abs(offset) + abs(rounding.zero_point) + 1)
    )
    return out
