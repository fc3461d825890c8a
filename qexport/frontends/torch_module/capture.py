"""A module and its inputs -> captures: the codes that its layers multiply in one forward pass, and what follows."""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qexport.core.capture import LayerCapture, Source
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Conv2d, Linear, MatMul, Sum
from qexport.core.intformat import Int64, IntFormat
from qexport.core.rescale import Hardware
from qexport.errors import QexportError, few, near
from qexport.frontends.inputs import line_of
from qexport.frontends.rounding import common_unit, least_factors
from qexport.frontends.torch_module.grids import FLOAT_ERROR, Stated, operand_of
from qexport.frontends.torch_module.layers import LAYERS
from qexport.frontends.torch_module.lines import Call, Reals
from qexport.frontends.torch_module.outputs import ending_of, with_output
from qexport.frontends.torch_module.rules import RULES
from qexport.frontends.torch_module.tracer import Tracer


@dataclass(frozen=True)
class Wishes:
    """What the user states of a layer; what is None is found, or `output` left out. `hardware`: what does the steps;
    None: they give the module's own codes."""

    weight: Stated = field(default_factory=Stated)
    input: Stated = field(default_factory=Stated)
    output: CodeFormat | None = None
    hardware: Hardware | None = None


NOTHING, UNKNOWN = Wishes(), Source()


def stated(integer: IntFormat | None = None, scale: Any = None, zero_point: Any = None) -> Stated:
    """What the user says of an operand, from numbers and lists."""
    return Stated(
        integer,
        None if scale is None else np.atleast_1d(np.asarray(scale, np.float64)),
        None if zero_point is None else np.atleast_1d(np.asarray(zero_point, np.int64)),
    )


@dataclass(frozen=True)
class Captured:
    """A layer's capture; `remarks`: what is not certain or left out, a line each."""

    capture: LayerCapture
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A layer that cannot be captured, and why."""

    name: str
    index: int | None
    why: str


def capture_module(
    model: nn.Module, layer: str, inputs: Any, wishes: Wishes = NOTHING, source: Source = UNKNOWN
) -> Captured:
    """The capture of one layer, by its name or number.

    `inputs`: what the module is called with, a tensor or array or a tuple of arguments. Raises QexportError when there
    is no such layer or its operands lie on no grid.
    """
    calls = _run(model, inputs, layer)
    found = [call for call in calls if call.name == layer]
    inside = [call for call in calls if call.name.startswith(f"{layer}.")]
    found = found or [call for call in inside if call.kind != "sum"] or inside
    found = found or [call for call in calls if str(call.index) == layer]
    names = [call.name if call.index is None else f"{call.name} ({call.index})" for call in calls]
    if not found:
        raise QexportError(f"layer: '{layer}' is not in this module; choose one of {few(near(layer, names))}")
    if len(found) > 1:
        raise QexportError(f"layer: '{layer}' has {few([call.name for call in found])}; choose one of them")
    return _captured(found[0], wishes, source)


def capture_all(
    model: nn.Module, inputs: Any, source: Source = UNKNOWN, hardware: Hardware | None = None
) -> Iterator[Captured | Refused]:
    """The captures of all layers in the order of computation; those that cannot be captured say why."""
    for call in _run(model, inputs, None):
        try:
            yield _captured(call, Wishes(hardware=hardware), source)
        except QexportError as error:
            yield Refused(call.name, call.index, str(error))


def _run(model: nn.Module, inputs: Any, layer: str | None) -> list[Call]:
    """The calls of one forward pass in evaluation mode, on a copy of the module."""
    arguments = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    arguments = pytree.tree_map(lambda x: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x, arguments)
    try:
        twin = copy.deepcopy(model).eval()
    except Exception as error:  # whatever the module's own code raises
        raise QexportError(f"model: it cannot be copied: {line_of(error)}; detach what it keeps of a pass") from None

    def wanted(name: str, index: int | None) -> bool:
        known = layer is None or layer in (name, str(index)) or name.startswith((f"{layer}.", f"{layer}#"))
        return known or (
            index is None and layer is not None and layer.startswith(f"{name}#")
        )  # a sum, which is not numbered yet

    tracer = Tracer(twin, LAYERS | RULES, wanted)
    arguments = pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, arguments)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # attention as one operation would hide its linear layers
    try:
        with torch.no_grad(), tracer.watch(arguments):
            twin(*arguments)
    except QexportError:
        raise
    except Exception as error:
        shapes = few([tuple(x.shape) for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)])
        raise QexportError(f"model: it fails for inputs of {shapes}: {line_of(error)}; give what it takes") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    if all(call.kind == "sum" for call in tracer.calls):
        raise QexportError("model: it called no convolution and no linear layer for these inputs; give it others")
    return tracer.calls


def digest(inputs: Any) -> str:
    """SHA-256 of the numbers of all inputs."""
    whole = hashlib.sha256()
    for tensor in pytree.tree_leaves(inputs):
        array = tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else np.asarray(tensor)
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def _captured(call: Call, wishes: Wishes, source: Source) -> Captured:
    if call.kind == "sum":
        return _captured_sum(call, wishes, source)
    name = f"layer {call.name}"
    if call.refused is not None:
        raise QexportError(f"{name}: {call.refused}; choose another layer")
    found = {
        what: operand_of(
            f"{name}: {what}", tensor, call.lines[what], getattr(wishes, what, Stated()), channels=what == "weight"
        )
        for what, tensor in call.operands.items()
    }
    remarks = [one.remark for one in found.values() if one.remark]
    codes = {what: _planes(one.codes, call) for what, one in found.items()}
    operands: dict[str, Any] = {what: one.format for what, one in found.items()}
    formats = Formats(**operands)
    unit = np.array(formats.accumulator_scales)
    real = None if call.bias is None else call.bias.double().cpu().numpy()
    if real is not None and not real.any():
        real = None
    bias = None if real is None else _whole_bias(real, unit, rounded=_kernel_rounds(call))
    if bias is not None:
        real = None
    reference = None if call.output is None else _planes(call.output.double().cpu().numpy(), call)
    if reference is not None and real is not None:
        reference = reference - real[:, np.newaxis, np.newaxis]
    captured = LayerCapture(
        layer=_layer(call, codes, relu=call.relu and real is None),
        formats=formats,
        bias=bias,
        reference=reference,
        source=source,
        **codes,
    )
    try:
        ending = with_output(captured, ending_of(call, captured, unit, real, wishes.output), wishes.hardware)
    except QexportError as error:
        lacks = ", without the bias, which is not a multiple of their unit" if real is not None else ""
        remarks.append(f"{name}: accumulators only{lacks}: {error}")
        return Captured(captured, tuple(remarks))
    if wishes.output is not None and call.found:
        remarks.append(f"{name}: the quantizer behind it gives the output; the format that is stated is not used")
    return Captured(ending, tuple(remarks))


def _captured_sum(call: Call, wishes: Wishes, source: Source) -> Captured:
    """Codes that are added or averaged, up to the quantizer behind them."""
    name = f"layer {call.name}"
    stated = (wishes.output, *vars(wishes.weight).values(), *vars(wishes.input).values())
    if any(one is not None for one in stated):
        raise QexportError(f"{name}: its scales are those of the quantizers around it; state none for a sum")
    found = {
        what: operand_of(f"{name}: {what}", tensor, call.lines[what], Stated(), channels=False)
        for what, tensor in call.operands.items()
    }
    formats: dict[str, Any] = {what: one.format for what, one in found.items()}
    codes = {what: _planes(one.codes, call) for what, one in found.items()}
    reference = None if call.output is None else _planes(call.output.double().cpu().numpy(), call)
    factors, unit = common_unit(*(one.format.scales[0] for one in found.values()))
    mul = tuple(sign * factor for sign, factor in zip(call.mul, factors, strict=True))

    def sums() -> LayerCapture:
        layer = Sum(name=call.name, relu=call.relu, mul=mul)
        own = Formats(**formats, accumulator=AccumulatorScale(scale=unit))
        return LayerCapture(layer=layer, formats=own, reference=reference, source=source, **codes)  # type: ignore[arg-type]  # made float32 there

    try:
        if len(mul) == 2:
            before = sums()
            mul, unit = least_factors(
                mul, unit, tuple(formats.values()),
                lambda unit: ending_of(call, before, np.array([unit]), None, None).rounding,
            )  # fmt: skip
        ending = with_output(sums(), ending_of(call, sums(), np.array([unit]), None, None), wishes.hardware)
    except QexportError as error:
        return Captured(sums(), (f"{name}: accumulators only: {error}",))
    return Captured(ending, ())


def _layer(call: Call, codes: dict[str, Any], relu: bool) -> Any:
    if call.kind == "matmul":
        return MatMul(name=call.name, index=call.index, relu=relu)
    weight = codes["weight"].shape
    padding = call.geometry.get("padding", (0, 0))
    facts = call.geometry | {"padding": (padding[0], padding[0], padding[1], padding[1])}
    kinds: dict[str, Any] = {"conv2d": Conv2d, "linear": Linear}
    return kinds[call.kind](
        name=call.name,
        index=call.index,
        in_channels=codes["input"].shape[1],
        out_channels=weight[0],
        kernel=weight[2:],
        relu=relu,
        **facts,
    )


def _planes(values: Any, call: Call) -> Any:
    """Numbers of a linear layer or of a convolution over one axis, as those of planes."""
    if call.kind == "linear":
        return values[:, :, np.newaxis, np.newaxis]
    if call.kind == "matmul":
        return values.reshape(-1, *values.shape[-2:])
    if call.kind == "sum" and values.ndim == 2:
        return values[:, :, np.newaxis, np.newaxis]
    return values[:, :, np.newaxis] if values.ndim == 3 else values


def _kernel_rounds(call: Call) -> bool:
    """Whether the kernel itself rounds its bias to accumulator units: QNNPACK does, others add real numbers."""
    return call.output is None and torch.backends.quantized.engine == "qnnpack"


def _whole_bias(real: Reals, unit: Reals, rounded: bool) -> Int64 | None:
    """The bias in accumulator units; None where it is not whole there."""
    codes = real / unit
    if not rounded and (np.abs(codes - np.rint(codes)) > 1e-6 + FLOAT_ERROR * np.abs(codes)).any():
        return None
    whole: Int64 = np.rint(codes).astype(np.int64)
    return whole
