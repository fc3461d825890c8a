"""Layers of a graph and inputs -> captures: codes from the graph's own tensors, steps, and the reference codes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_struct
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qexport.core.capture import LayerCapture, Source
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Sum
from qexport.core.intformat import Int64
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware
from qexport.errors import QexportError, few, near
from qexport.frontends.inputs import arrays, chosen, is_pictures, pictures
from qexport.frontends.onnx_model.endings import rounding_of
from qexport.frontends.onnx_model.evaluate import Runner
from qexport.frontends.onnx_model.reading import Graph
from qexport.frontends.onnx_model.state import Refused
from qexport.frontends.onnx_model.values import WHOLE, Closing, Grid, Reals, View
from qexport.frontends.onnx_model.walk import Found, Walked
from qexport.frontends.rounding import ended

Array = NDArray[Any]


@dataclass(frozen=True)
class Captured:
    """A layer's capture; `remarks`: what is not certain or left out, a line each."""

    capture: LayerCapture
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Fed:
    """What a model is fed, run after run; `images`: their indices."""

    runs: tuple[Mapping[str, Array], ...]
    images: tuple[int, ...]
    digest: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one run."""
        return {name: array.shape for name, array in self.runs[0].items()}


def read_inputs(graph: Graph, path: Path, wanted: int | Sequence[int]) -> Fed:
    """The first so many inputs of a file or folder, or those of the indices, as runs of the model.

    A .npy or pictures serve a model of one input, .npz and .safetensors name them; the first axis counts inputs.
    """
    indices: tuple[int, ...] | None = None
    if is_pictures(path):
        read, indices = pictures(path, wanted)
        found = {"": read}
    else:
        found = arrays(path)
    if len(found) == 1 and len(graph.inputs) == 1:
        found = dict(zip(graph.inputs, found.values(), strict=True))
    return fed(graph, found, wanted if indices is None else None, path, indices)


def fed(
    graph: Graph,
    found: Mapping[str, Array],
    wanted: int | Sequence[int] | None = None,
    path: Path = Path("inputs"),
    indices: tuple[int, ...] | None = None,
) -> Fed:
    """Arrays by name as runs of the model: as many inputs at once as it takes, one where it takes any number."""
    if set(found) != set(graph.inputs):
        raise QexportError(
            f"inputs: {path} holds {few(sorted(found))}; the model takes {few(list(graph.inputs))}: save them by name"
        )
    typed = {name: _typed(graph, name, array) for name, array in found.items()}
    counts = {len(array) if array.ndim else 0 for array in typed.values()}
    if len(counts) != 1 or not min(counts):
        raise QexportError(f"inputs: {path} has {few(sorted(counts))} inputs; give each name as many, at least one")
    if indices is None:
        indices = chosen(min(counts) if wanted is None else wanted, min(counts), path)
        typed = {name: array[list(indices)] for name, array in typed.items()}
    each = max((dim[0].dim_value for dim in _dims(graph) if dim), default=1) or 1
    if len(indices) % each:
        raise QexportError(f"images: the model takes {each} inputs at once; give a multiple, not {len(indices)}")
    digest = hashlib.sha256()
    for name in sorted(typed):
        digest.update(np.ascontiguousarray(typed[name]).tobytes())
    starts = range(0, len(indices), each)
    runs = tuple({name: array[start : start + each] for name, array in typed.items()} for start in starts)
    return Fed(runs, indices, digest.hexdigest())


def _dims(graph: Graph) -> list[Any]:
    return [kind.tensor_type.shape.dim for kind in graph.inputs.values()]


def _typed(graph: Graph, name: str, array: Array) -> Array:
    """The array in the type that the model takes; raises QexportError where that changes it."""
    kind = graph.inputs[name].tensor_type.elem_type
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    if array.dtype.kind not in "fiub" or (wanted.kind in "iu" and not (array == array.astype(wanted)).all()):
        raise QexportError(
            f"inputs: '{name}' is {array.dtype}; the model takes {TensorProto.DataType.Name(kind).lower()}"
        )
    typed = np.ascontiguousarray(array, wanted)
    if not np.isfinite(typed.astype(np.float64)).all():
        raise QexportError(f"inputs: '{name}' holds NaN or infinity; give finite numbers")
    return typed


def capture_layer(
    walked: Walked, layer: str, inputs: Fed, source: Source, hardware: Hardware | None = None
) -> Captured:
    """The capture of one layer, by its name or number."""
    everything: list[Found | Refused] = [*walked.layers, *walked.refused]
    found = [one for one in everything if one.name == layer] or [one for one in everything if str(_index(one)) == layer]
    if not found:
        names = [f"{one.name} ({_index(one)})" for one in sorted(everything, key=_index)]
        raise QexportError(f"layer: '{layer}' is not in this model; choose one of {few(near(layer, names))}")
    first = found[0]
    if isinstance(first, Refused):
        raise QexportError(first.why)
    ((_, done),) = _captured(walked, [first], inputs, source, hardware)
    if isinstance(done, Refused):
        raise QexportError(done.why)
    return done


def capture_all(
    walked: Walked, inputs: Fed, source: Source, hardware: Hardware | None = None
) -> Iterator[Captured | Refused]:
    """The captures of all layers in the order of computation; those that cannot be captured say why."""
    done = [*_captured(walked, walked.layers, inputs, source, hardware), *((one.index, one) for one in walked.refused)]
    for _, one in sorted(done, key=lambda pair: pair[0]):
        yield one


def _index(one: Found | Refused) -> int:
    index = one.call.layer.index if isinstance(one, Found) else one.index
    assert index is not None
    return index


def _captured(
    walked: Walked, layers: Sequence[Found], inputs: Fed, source: Source, hardware: Hardware | None
) -> list[tuple[int, Captured | Refused]]:
    tensors = {grid.tensor for one in layers for grid, _ in one.call.operands.values()}
    tensors |= {one.closing.quantizer.tensor for one in layers if one.closing is not None}
    tensors |= {one.call.seen[0] for one in layers if one.call.seen is not None and walked.has(one.call.seen[0])}
    run = Runner(walked.graph, tensors, walked.shape)
    runs = [run(feeds) for feeds in inputs.runs]
    values = {name: [run[name] for run in runs] for name in tensors}
    done: list[tuple[int, Captured | Refused]] = []
    for one in layers:
        try:
            done.append((_index(one), _of_layer(one, values, source, hardware)))
        except QexportError as error:
            done.append((_index(one), _refused(one, error)))
    return done


def blanks(walked: Walked) -> list[LayerCapture | Refused]:
    """All layers without what is fed to them, in the order of computation; those that cannot be captured say why."""
    found: list[tuple[int, LayerCapture | Refused]] = [(one.index, one) for one in walked.refused]
    for one in walked.layers:
        try:
            found.append((_index(one), blank(one)))
        except QexportError as error:
            found.append((_index(one), _refused(one, error)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _refused(one: Found, error: QexportError) -> Refused:
    why = str(error).removeprefix(f"layer {one.name}: ")
    return Refused(one.name, _index(one), f"layer {one.name}: {why}")


def blank(one: Found) -> LayerCapture:
    """The layer with one run of codes that are zero points, where only weights and sizes count."""
    codes = {
        name: view.of(np.full(grid.shape, grid.format.zero_points[0], np.int64))
        for name, (grid, view) in one.call.operands.items()
    }
    return _sums(one, codes, Source())


def _of_layer(one: Found, values: Mapping[str, Sequence[Array]], source: Source, hardware: Hardware | None) -> Captured:
    call = one.call
    codes = {
        name: np.concatenate([_operand(grid, view, array) for array in values[grid.tensor]])
        for name, (grid, view) in call.operands.items()
    }
    capture = _sums(one, codes, source, _reference(one, values))
    if one.closing is None:
        return Captured(capture, (f"layer {one.name}: accumulators only: {one.why}",))
    closing = one.closing
    quantizer = closing.quantizer
    try:
        rounding = rounding_of(closing)
        given = None
        if hardware is None:
            given = np.concatenate([_output(closing, array) for array in values[quantizer.tensor]])
        return Captured(ended(capture, rounding, given, hardware), ())
    except QexportError as error:
        return Captured(capture, (f"layer {one.name}: accumulators only: {error}",))


def _reference(one: Found, values: Mapping[str, Sequence[Array]]) -> Reals | None:
    """The real values of the sums that the graph itself computed; None where it has none."""
    call = one.call
    if call.seen is None or call.seen[0] not in values:
        return None
    tensor, view = call.seen
    real = np.concatenate([view.undone(array.astype(np.float64)) for array in values[tensor]]) / call.factor
    if call.added is None:
        return real
    along = [-1 if axis == call.layer.channel else 1 for axis in call.layer.results]
    out: Reals = real - (call.added / call.factor).reshape(along)
    return out


def _operand(grid: Grid, view: View, array: Array) -> Int64:
    """An operand of one run, in the axes of the layer."""
    return view.of(grid.moved.of(codes_of(grid.format, array, grid.integers)))


def codes_of(format: CodeFormat, array: Array, integers: bool) -> Int64:
    """The codes of a tensor; raises QexportError where its values are on another grid."""
    if integers:
        whole: Int64 = np.asarray(array).astype(np.int64)
        return whole
    real = array.astype(np.float64) / format.scales[0] + format.zero_points[0]
    codes = np.rint(real)
    if not np.isfinite(real).all() or (np.abs(real - codes) > WHOLE * np.maximum(1, np.abs(real))).any():
        raise QexportError(f"values of an operand are not on its grid of {format.scales[0]:g}")
    return codes.astype(np.int64)


def _output(closing: Closing, array: Array) -> Int64:
    """The quantizer's codes of one run, in the axes of the layer."""
    codes, line = codes_of(closing.quantizer.format, array, closing.quantizer.integers), closing.line
    if closing.part is not None:
        codes = codes[:, closing.part : closing.part + line.view.shape[1]]
    back: Int64 = line.view.undone(codes)
    return back


def _sums(one: Found, codes: Mapping[str, Int64], source: Source, reference: Reals | None = None) -> LayerCapture:
    """The capture up to the accumulators."""
    call = one.call
    operands: dict[str, Any] = {name: grid.format for name, (grid, _) in call.operands.items()}
    if call.weight is not None:
        operands = {"weight": call.weight.format, **operands}
    if isinstance(call.layer, Sum):
        operands["accumulator"] = AccumulatorScale(scale=float(call.unit[0]))
    layer: Any = replace_struct(call.layer, name=one.name, relu=call.relu)
    own: dict[str, Any] = dict(codes)
    if call.weight is not None:
        own["weight"] = call.weight.codes
    capture = LayerCapture(
        layer=layer,
        formats=Formats(**operands),
        bias=call.bias,
        reference=reference,  # type: ignore[arg-type]  # made float32 there
        source=source,
        **own,
    )
    operation(capture, None)  # which refuses what is beyond the budget
    return capture
