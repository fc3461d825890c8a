"""What follows a layer's sum up to the next quantizer: steps in integers, and the framework's own codes beside them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace as replace_struct
from torch import Tensor

from qexport.core.capture import Departs, LayerCapture, Ties
from qexport.core.codes import CodeFormat, Formats
from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware, Network, rescale
from qexport.core.steps import Step
from qexport.errors import QexportError
from qexport.frontends.torch_module.grids import Stated, operand_of
from qexport.frontends.torch_module.lines import Call, Codes, Line, Reals


@dataclass(frozen=True)
class Output:
    """The steps behind the accumulator, the format of their codes, and the framework's own, where a quantizer ran and
    no hardware rounds in its place."""

    format: CodeFormat
    steps: tuple[Step, ...]
    codes: Int64 | None = None
    ties: Ties = ()
    departs: Departs | None = None


def output_of(
    call: Call,
    capture: LayerCapture,
    unit: Reals,
    bias: Reals | None,
    stated: CodeFormat | None,
    hardware: Hardware | None,
) -> Output:
    """The output side of a layer. `capture`: its sums; `unit`: the real value of accumulator 1 of each channel; `bias`:
    the real one that is not in the accumulator; `stated`: the codes to round to where the module has no quantizer.

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
    gains = np.broadcast_to(before.slope * unit, facts.start.channels)
    offsets = np.broadcast_to(before.start + (0 if bias is None else before.slope * bias), gains.shape)
    least, greatest = facts.channel_bounds
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
    network = Network(gains.tolist(), offsets.tolist(), least, greatest, low, high, source.zero_point)
    found = rescale(network, hardware or Hardware())
    steps = (*found.steps, *before.pools)
    own = [limit for limit in line.own_range if np.isfinite(limit)]
    least_code, most_code = int(min(low, zero, *own)), int(max(high, zero, *own))
    integer = IntFormat.holding(least_code, most_code, least_code < 0)
    fmt = CodeFormat(bits=integer.bits, signed=integer.signed, scale=float(line.slope[0]), zero_point=zero)
    if tensor is None and stated is not None:
        fmt = stated
    if hardware is not None:
        with_steps = replace(capture, formats=replace_struct(capture.formats, output=fmt), steps=steps)
        golden = Golden(with_steps)
        exact = _pooled(network.codes(golden.accumulator, facts.start.axis), before)
        differing = int(np.count_nonzero(exact != golden.values("output")))
        departs = Departs(accumulators=int(found.departs.astype(object).sum()), codes=differing)
        return Output(fmt, steps, departs=departs)
    if tensor is None:
        return Output(fmt, steps)
    codes = operand_of("output", tensor, line, Stated(integer), channels=False).codes
    return Output(fmt, steps, *_compared(network, before, capture, gains, offsets, tensor, codes))


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


def _pooled(codes: Int64, before: Line) -> Int64:
    """Codes (n, oc, oy, ox) behind the pools of a line."""
    for pool in before.pools:
        codes = pool.apply(codes, 1, None)
    return codes


def _compared(
    network: Network,
    before: Line,
    capture: LayerCapture,
    gains: Reals,
    offsets: Reals,
    tensor: Tensor,
    codes: Int64,
) -> tuple[Int64, Ties]:
    """The framework's codes, and where they differ from the exact ones: within its own float error of an edge.

    Raises QexportError where they differ by more: then what ran behind the layer is not what was understood.
    """
    golden = Golden(capture)
    accumulator, axis = golden.accumulator, golden.facts.start.axis
    exact = _pooled(network.codes(accumulator, axis), before)
    codes = codes.reshape(exact.shape)  # views that lie between keep the order
    differing = codes != exact
    if not differing.any():
        return codes, ()
    along = [-1 if at == axis else 1 for at in range(accumulator.ndim)]
    gain, offset = gains.reshape(along), offsets.reshape(along)
    real, error = gain * accumulator + offset, _float_error(capture, accumulator, gain, offset, tensor)
    zero, low, high = network.zero_point, network.low, network.high
    below, above = (np.clip(np.rint(end) + zero, low, high).astype(np.int64) for end in (real - error, real + error))
    unexplained = (codes < _pooled(below, before)) | (codes > _pooled(above, before))
    if unexplained.any():
        raise QexportError(
            f"{int(unexplained.sum()):,} of {codes.size:,} codes of the quantizer behind it are not those of the steps "
            "that were understood"
        )
    tied = below != above if before.pools else differing
    channels = np.broadcast_to(np.arange(len(gains)).reshape(along), accumulator.shape)
    pairs = np.unique(np.stack([channels[tied], accumulator[tied]], axis=1), axis=0)
    return codes, tuple((int(channel), int(value)) for channel, value in pairs)


def _float_error(capture: LayerCapture, accumulator: Int64, gain: Reals, offset: Reals, tensor: Tensor) -> Reals:
    """How far the framework's value before its rounding may lie from the exact one, in codes, position by position.

    A sum of k products is off by k roundings of the sum of their sizes at most, and each operation behind by one.
    """
    rounding = 2.0**-53 if tensor.dtype == torch.float64 else 2.0**-24
    sizes: dict[str, Any] = {} if capture.bias is None else {"bias": np.abs(capture.bias)}
    formats: dict[str, Any] = {}
    for name, fmt in capture.formats.operands.items():
        codes: Int64 = getattr(capture, name)
        sizes[name] = np.abs(codes - np.array(fmt.zero_points).reshape(-1, *[1] * (codes.ndim - 1)))
        formats[name] = CodeFormat(bits=min(fmt.bits + 1, 32), signed=True, scale=1.0)
    summed = Golden(LayerCapture(layer=capture.layer, formats=Formats(**formats), **sizes)).accumulator
    terms = capture.input.shape[-1] if capture.weight is None else capture.weight[0].size
    out: Reals = rounding * (
        (terms + 4) * np.abs(gain) * summed + 8 * (np.abs(gain * accumulator) + np.abs(offset) + 1)
    )
    return out
