"""The behavioural design of a set whose memories stand in any order: what its template needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from qexport.bench.context import BenchMemory, padded_of, shapes_of
from qexport.bench.data import Operand
from qexport.bench.steps import literal, needed, steps_context, value_of
from qexport.core.codes import CodeFormat
from qexport.core.geometry import ConvGeometry, MatMul
from qexport.core.intformat import Int64
from qexport.core.steps import takes_bias
from qexport.layout.order import BIT_AXIS, TILE_AXIS
from qexport.sets.manifest import Manifest, MemoryEntry


@dataclass(frozen=True)
class Taken:
    """An operand as it comes in: the array that holds it, of so many elements of so many bits, and the place in it.

    `bit`: what of an element a stored one is, where it is a single bit. `value`: the array holds values of 64 bits.
    """

    memory: BenchMemory
    array: str
    size: int
    bits: int
    at: str
    bit: str | None
    signed: bool
    offset: int
    value: bool


@dataclass(frozen=True)
class Given:
    """A result as it goes out: `value` of the variables of its index; `low` and `high` where it saturates."""

    memory: BenchMemory
    value: str
    offset: int
    low: str | None
    high: str | None


def has_model(
    manifest: Manifest, driven: Sequence[BenchMemory | MemoryEntry], compared: Sequence[BenchMemory | MemoryEntry]
) -> bool:
    """Whether what goes in tells what comes out."""
    layer = manifest.layer
    carried = {_OPERANDS.get(m.tensor, m.tensor) for m in driven}
    if not {name for name in layer.holds if layer.needs(name)} <= carried:
        return False
    if "addend" in layer.holds and any(m.tensor == "addend" for m in driven) != _has(manifest, "addend"):
        return False
    psums = any(m.tensor == "psum" for m in compared)
    by_patches = isinstance(layer, ConvGeometry) and any(m.tensor == "patches" for m in driven)
    return not (psums and by_patches) or _all_met(manifest)


_OPERANDS = {"input_padded": "input", "patches": "input", "bias_folded": "bias"}


def _has(manifest: Manifest, tensor: str) -> bool:
    return any(entry.tensor == tensor for entry in manifest.memories)


def _all_met(manifest: Manifest) -> bool:
    """Whether a tap meets each position of the padded plane, so that patches hold all of it."""
    layer = manifest.layer
    assert isinstance(layer, ConvGeometry)
    shapes = shapes_of(manifest.memories)
    planes = zip(padded_of(layer, shapes), shapes["patches"][-2:], (0, 1), strict=True)
    return all(
        {layer.meets(axis, out, tap) for out in range(outs) for tap in range(layer.kernel[axis])} == set(range(size))
        for size, outs, axis in planes
    )


def model_context(
    manifest: Manifest, driven: Sequence[BenchMemory], compared: Sequence[BenchMemory], bias: Int64 | None
) -> dict[str, Any]:
    """The context of sv/dut_model.sv.j2; `bias`: that of a layer whose set does not store it."""
    layer, steps = manifest.layer, manifest.chain or ()
    by_number = {m.number: manifest.memories[m.number] for m in (*driven, *compared)}
    conv = isinstance(layer, ConvGeometry)
    tensors = [m.tensor for m in compared]
    start = _start(manifest, compared)
    formats = manifest.formats
    raw = {name: Operand.of(name, msgspec.structs.replace(fmt, zero_point=0)) for name, fmt in formats.operands.items()}
    data = {name: Operand.of(name, fmt) for name, fmt in formats.operands.items()}
    stored_bias = next((m.tensor for m in driven if m.tensor in ("bias", "bias_folded")), None)
    has_bias = stored_bias is not None or bias is not None
    context: dict[str, Any] = {
        "conv": conv,
        "matmul": isinstance(layer, MatMul),
        "noun": layer.noun,
        "start": start,
        "operands": list((raw if conv else data).values()),
        "code_bits": {name: fmt.bits for name, fmt in formats.operands.items()},
        "input_zero": formats.input.zero_points[0],
        "input_zero_text": literal(formats.input.zero_points[0]),
        "inner": _inner(manifest),
        "memories_of_streams": [*driven, *compared],
        "weight_zeros": formats.operands["weight"].zero_points if conv else (0,),
        "taken": [_taken(manifest, m, by_number[m.number]) for m in driven],
        "given": [_given(manifest, m, by_number[m.number]) for m in compared],
        "has_psum": "psum" in tensors,
        "has_relu": "relu" in tensors,
        "has_bias": has_bias,
        "has_addend": any(m.tensor == "addend" for m in driven),
        "folded": stored_bias == "bias_folded",
        "early_bias": has_bias and not takes_bias(steps),
        "bias_numbers": None if bias is None else [literal(int(value)) for value in bias],
        **steps_context(
            needed(steps, [tensor for tensor in tensors if tensor != "psum"]), start[1:], "accumulator",
            "bias_of(channel)" if has_bias else "64'sd0",
        ),
    }  # fmt: skip
    if conv:
        context["padded"] = padded_of(layer, shapes_of(manifest.memories))
        context["tile_row"] = manifest.array.get(TILE_AXIS, layer.group_inputs)
    return context


def _start(manifest: Manifest, compared: Sequence[BenchMemory]) -> tuple[int, ...]:
    """The shape of the accumulator, from the tensors that are stored."""
    layer, shapes = manifest.layer, shapes_of(manifest.memories)
    for tensor in ("accumulator", "relu"):
        if tensor in shapes:
            return shapes[tensor]
    if isinstance(layer, MatMul):
        return (*shapes["input"][:2], shapes["input2"][-1])
    if not isinstance(layer, ConvGeometry):
        return shapes["input"]
    images = next(shapes[name][0] for name in ("input", "input_padded", "patches") if name in shapes)
    if "patches" in shapes:
        return (images, layer.out_channels, *shapes["patches"][-2:])
    rows, columns = padded_of(layer, shapes)
    top, bottom, left, right = layer.padding
    return (images, layer.out_channels, *layer.output_plane((rows - top - bottom, columns - left - right)))


def _taken(manifest: Manifest, m: BenchMemory, entry: MemoryEntry) -> Taken:
    layer, index = manifest.layer, dict(m.places.index)
    name = _OPERANDS.get(entry.tensor, entry.tensor)
    fmt: CodeFormat | None = manifest.formats.operands.get(name)
    shape = entry.shape[:-1] if BIT_AXIS in index else entry.shape
    axes = [axis for axis in index if axis != BIT_AXIS]
    at = _flat([index[axis] for axis in axes], shape)
    size = _product(shape)
    if name == "input" and isinstance(layer, ConvGeometry):
        rows, columns = padded_of(layer, shapes_of(manifest.memories))
        top, _, left, _ = layer.padding
        y, x = {
            "input": (f"iy_ + {top}", f"ix_ + {left}"),
            "input_padded": ("py_", "px_"),
            "patches": (
                f"oy_ * {layer.stride[0]} + kh_ * {layer.dilation[0]}",
                f"ox_ * {layer.stride[1]} + kw_ * {layer.dilation[1]}",
            ),
        }[entry.tensor]
        whole = (shape[0], shape[1], rows, columns)
        at, size = _flat(["n_", "ic_", y, x], whole), _product(whole)
    bits = 64 if fmt is None else fmt.bits
    return Taken(
        m, f"{name}_codes" if fmt is not None else f"{name}_values", size, bits, at,
        f"{bits - 1} - bit_" if BIT_AXIS in index and fmt is not None else None,
        entry.signed, entry.offset, fmt is None,
    )  # fmt: skip


def _given(manifest: Manifest, m: BenchMemory, entry: MemoryEntry) -> Given:
    index = dict(m.places.index)
    if entry.tensor == "psum":
        value = f"psum_of({', '.join(index[axis] for axis in ('n', 'it', 'kh', 'kw', 'oc', 'py', 'px'))})"
    else:
        name = value_of(entry.tensor, manifest.chain or ())
        place = ("p_", "m_", "0") if isinstance(manifest.layer, MatMul) else ("oc_", "oy_", "ox_")
        value = f"at_{name}({', '.join(place)})"
    if BIT_AXIS in index:
        value = f"({value} >>> ({entry.shape[-1] - 1} - bit_)) & 64'sd1"
    saturates = entry.overflow == "saturate"
    ends = (literal(entry.element.low), literal(entry.element.high)) if saturates else (None, None)
    return Given(m, value, entry.offset, *ends)


def _flat(index: Sequence[str], shape: Sequence[int]) -> str:
    """The number of an element in C order."""
    text = f"({index[0]})" if " " in index[0] else index[0]
    for variable, size in zip(index[1:], shape[1:], strict=True):
        text = f"({text} * {size} + {variable})"
    return text


def _inner(manifest: Manifest) -> int:
    """Over how many products a matrix product sums."""
    return shapes_of(manifest.memories)["input"][-1] if isinstance(manifest.layer, MatMul) else 0


def _product(shape: Sequence[int]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size
