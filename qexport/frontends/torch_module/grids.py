"""From what a layer multiplies to integer codes: the grid that every value lies on, proven."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexport.core.codes import CodeFormat
from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError, few
from qexport.frontends.torch_module.lines import WHOLE, Codes, Line, Reals

FLOAT_ERROR = 2.0**-19  # of the largest value: what a few float32 roundings leave
ROUNDING = 2.0**-22  # of a value of its own: where only values tell of a grid, they must lie on it closely
MAX_CODES = 2**16  # from 0 to the largest code, of a grid that is looked for
DIVISORS = 64  # into how many steps the smallest difference of two values may fall


@dataclass(frozen=True)
class Stated:
    """What the user says of an operand: formats such as IntFormat(4, True), scales, zero points; None: to be found."""

    integer: IntFormat | None = None
    scale: Reals | None = None
    zero_point: Int64 | None = None


@dataclass(frozen=True)
class Operand:
    """Codes, in the tensor's axes, and their format. `remark`: what is not certain of it."""

    codes: Int64
    format: CodeFormat
    remark: str | None = None


def operand_of(what: str, tensor: Tensor, line: Line | None, stated: Stated, channels: bool) -> Operand:
    """The codes of an operand; `what` names it, `channels`: its first axis may have a scale for each index.

    The scale is what the user states, what the module itself multiplied integers with, or what the values show alone.
    Raises QexportError where a value lies on no grid.
    """
    if not tensor.numel():
        raise QexportError(f"{what}: it has no values; give other inputs")
    if tensor.is_quantized:
        return _integers(what, tensor, channels)
    if tensor.dtype in (torch.float16, torch.bfloat16) or tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise QexportError(f"{what}: it is {kind}, too coarse to tell codes; call model.float() first")
    values = tensor.double().cpu().numpy()
    if not np.isfinite(values).all():
        raise QexportError(f"{what}: it holds NaN or infinity; give other inputs")
    if stated.scale is not None:
        zeros = np.zeros(1) if stated.zero_point is None else stated.zero_point.astype(np.float64)
        return _proven(what, values, stated.scale, zeros, stated.integer, channels, None)
    if line is not None and isinstance(line.source, Codes) and (line.slope > 0).all():
        line = line.compact()
        scale, zeros = line.slope, line.zero_point
        zeros = zeros[:1] if len(set(zeros)) == 1 else zeros
        per_channel = max(len(scale), len(zeros)) > 1
        if per_channel and not (channels and line.axis == 0):
            raise QexportError(f"{what}: its scale differs along axis {line.axis}; only output channels may differ")
        if (np.abs(zeros - np.rint(zeros)) <= WHOLE * np.maximum(1, np.abs(zeros))).all():
            low, high = line.own_range
            found = IntFormat.holding(int(low), int(high), low < 0) if np.isfinite([low, high]).all() else None
            return _proven(what, values, scale, np.rint(zeros), stated.integer or found, channels, None)
    scale = _scale_of_values(what, values, channels)
    lone = "the coarsest that explains the values: nothing that ran says it"
    return _proven(what, values, scale, np.zeros(1), stated.integer, channels, f"{what}: its scale is {lone}")


def _integers(what: str, tensor: Tensor, channels: bool) -> Operand:
    """A quantized tensor: its integers as they are."""
    info = torch.iinfo(tensor.dtype)
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        if not channels or tensor.q_per_channel_axis() != 0:
            raise QexportError(f"{what}: it has a scale for each channel; only weights may, along output channels")
        scale, zeros = (t.double().numpy() for t in (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()))
        zeros = zeros[:1] if len(set(zeros)) == 1 else zeros
    else:
        scale, zeros = np.array([tensor.q_scale()]), np.array([tensor.q_zero_point()])
    integer = IntFormat.holding(info.min, info.max, info.min < 0)
    return Operand(tensor.int_repr().cpu().numpy().astype(np.int64), _format(integer, scale, zeros))


def _format(integer: IntFormat, scale: Reals, zeros: Reals) -> CodeFormat:
    scales, points = scale.tolist(), [int(zero) for zero in zeros]
    return CodeFormat(
        bits=integer.bits,
        signed=integer.signed,
        scale=scales[0] if len(scales) == 1 else tuple(scales),
        zero_point=points[0] if len(points) == 1 else tuple(points),
    )


def _proven(
    what: str,
    values: NDArray[np.float64],
    scale: Reals,
    zeros: Reals,
    integer: IntFormat | None,
    fixed: bool,
    remark: str | None,
) -> Operand:
    """The codes of values on a grid; raises QexportError with the values that do not lie on it.

    `fixed`: other inputs give the same values, so that the codes seen are all there are.
    """
    shape = (-1, *[1] * (values.ndim - 1))
    step, zero = scale.reshape(shape), zeros.reshape(shape)
    axes = tuple(range(1 if len(scale) > 1 else 0, values.ndim))
    sizes = np.abs(values).max(axis=axes, keepdims=True)
    error = FLOAT_ERROR * sizes
    if (error > step / 4).any():
        worst = np.argmax(error / step)
        raise QexportError(
            f"{what}: values up to {sizes.flat[worst]:g} on a grid of {scale[worst]:g} are beyond float32; "
            "state its scale, or call model.double() first"
        )
    codes = np.rint(values / step) + zero
    wrong = np.abs(values - (codes - zero) * step) > error
    if wrong.any():
        raise QexportError(
            f"{what}: {int(wrong.sum()):,} of {values.size:,} values are not on the grid of {_numbers(scale)}: "
            f"{few([f'{value:.6g}' for value in values[wrong][:4]])}; quantize it, or state its scale"
        )
    whole = codes.astype(np.int64)
    low, high = int(whole.min()), int(whole.max())
    low, high = min(low, *(int(zero) for zero in zeros)), max(high, *(int(zero) for zero in zeros))
    if integer is None:
        integer = IntFormat.holding(low, high, low < 0)
        seen = f"{low}..{high}, which it has here, are taken for its range"
        if not fixed:
            remark = f"{remark}; codes {seen}" if remark else f"{what}: codes {seen}: nothing limits them"
    elif not integer.holds(low, high):
        raise QexportError(f"{what}: codes {low}..{high} are beyond its {integer}; correct its scale or format")
    if integer.bits > 32:
        raise QexportError(f"{what}: codes {low}..{high} need {integer.bits} bits, more than 32; state its scale")
    return Operand(whole, _format(integer, scale, zeros), remark)


def _numbers(scale: Reals) -> str:
    return f"{scale[0]:.6g}" if len(scale) == 1 else f"{scale.min():.6g}..{scale.max():.6g}"


def _scale_of_values(what: str, values: NDArray[np.float64], channels: bool) -> Reals:
    """The largest scale of which all values are multiples: of the whole tensor, else of each channel."""
    whole = _common_step(values)
    if whole is not None:
        return np.array([whole if np.isfinite(whole) else 1.0])
    if channels:
        steps = [_common_step(part) for part in values]
        if all(step is not None for step in steps):
            used = np.array([step for step in steps if step is not None])
            return np.where(np.isfinite(used), used, np.min(used[np.isfinite(used)]))
    some = np.unique(values)
    raise QexportError(
        f"{what}: its {len(some):,} values lie on no grid, such as {few([f'{value:.6g}' for value in some[:4]])}; "
        "quantize it, or state its scale"
    )


def _common_step(values: NDArray[np.float64]) -> float | None:
    """The largest number of which all values are multiples, up to a rounding of each; infinity where all are 0."""
    found = np.unique(np.append(values, 0.0))
    largest = float(np.abs(found).max())
    apart = np.diff(found) > 4 * ROUNDING * largest
    if not apart.any():
        return np.inf
    smallest = float(np.diff(found)[apart].min())
    for parts in range(1, DIVISORS + 1):
        step = smallest / parts
        if largest / step > MAX_CODES:
            return None
        for _ in range(3):  # the step is as exact as the values it was fitted to
            codes = np.rint(found / step)
            step = float(found @ codes / (codes @ codes))
        if (np.abs(found - np.rint(found / step) * step) <= ROUNDING * np.abs(found)).all():
            return step
    return None
