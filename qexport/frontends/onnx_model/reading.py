"""An ONNX file -> its graph, checked. Files are untrusted: sizes are bounded before anything is read or computed."""

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

from qexport.core.budget import CAPTURE_ELEMENTS, CHECKPOINT_BYTES, read_bytes
from qexport.errors import QexportError, few

NODES = 1 << 16
AXES = 8  # of a tensor


@dataclass(frozen=True)
class Graph:
    """`nodes` in the order of computation; `constants`: arrays by name; `inputs`: what is fed, and its type."""

    path: Path
    sha256: str
    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, TypeProto]
    outputs: tuple[str, ...]
    opsets: Mapping[str, int]
    ir_version: int


def read_model(path: Path) -> Graph:
    """The graph of a file; raises QexportError in one line."""
    if not path.is_file():
        raise QexportError(f"model: {path} does not exist or is not a file; give an ONNX file")
    data = read_bytes(path, CHECKPOINT_BYTES, "model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise QexportError(f"model: {path} is not a readable ONNX file; export it again") from None
    graph = model.graph
    if not graph.node or not model.opset_import:
        raise QexportError(f"model: {path} holds no ONNX graph; export it again")
    if not all(isinstance(text, str) for text in _texts(graph)):
        raise QexportError(f"model: {path} has names that are not UTF-8 text; export it again")
    if len(graph.node) > NODES:
        raise QexportError(f"model: {path} has {len(graph.node):,} nodes, more than {NODES:,}; take a part of it")
    constants = _constants(path, graph)
    inputs = {value.name: value.type for value in graph.input if value.name not in constants}
    return Graph(
        path,
        hashlib.sha256(data).hexdigest(),
        _ordered(path, graph.node, {*constants, *inputs}),
        constants,
        inputs,
        tuple(value.name for value in graph.output),
        {entry.domain: entry.version for entry in model.opset_import},
        model.ir_version,
    )


def _texts(graph: GraphProto) -> Iterator[object]:
    """All names; those that are not UTF-8 are bytes."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (entry.key for entry in tensor.external_data)
        yield from (entry.value for entry in tensor.external_data)
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def name_of(node: NodeProto) -> str:
    """The node's name, or that of what it gives."""
    return node.name or next(iter(node.output), node.op_type)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes by name; texts as str."""
    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def has_graph(node: NodeProto) -> bool:
    """Whether the node holds nodes of its own: a branch or a loop."""
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)


def _constants(path: Path, graph: GraphProto) -> dict[str, NDArray[Any]]:
    total, found = 0, {}
    for tensor in graph.initializer:
        size = _size(path, tensor)
        total += size
        if total > CAPTURE_ELEMENTS:
            raise QexportError(f"model: {path}: its constants have more than {CAPTURE_ELEMENTS:,} numbers; split it")
        if tensor.data_type != TensorProto.STRING:
            found[tensor.name] = read_tensor(path, tensor)
    return found


def _size(path: Path, tensor: TensorProto) -> int:
    if len(tensor.dims) > AXES or any(dim < 0 for dim in tensor.dims):
        raise QexportError(f"model: {path}: {tensor.name} has shape {few(tensor.dims)}; needs up to {AXES} sizes")
    return math.prod(tensor.dims)


def read_tensor(path: Path, tensor: TensorProto) -> NDArray[Any]:
    """The numbers of a tensor, which may lie in another file of the model's folder."""
    size = _size(path, tensor)
    if size > CAPTURE_ELEMENTS:
        raise QexportError(f"model: {path}: {tensor.name} has {size:,} numbers, more than {CAPTURE_ELEMENTS:,}")
    if tensor.data_location == TensorProto.EXTERNAL:
        inside = TensorProto()
        inside.CopyFrom(tensor)
        inside.raw_data = _external(path, tensor)
        inside.data_location = TensorProto.DEFAULT
        del inside.external_data[:]
        tensor = inside
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # the library raises whatever its readers meet
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise QexportError(f"model: {path}: {tensor.name} does not hold {size:,} numbers: {reason:.120}") from None


def _external(path: Path, tensor: TensorProto) -> bytes:
    """The bytes of a tensor in another file, which must lie in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.parent.resolve()
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not file.is_relative_to(folder) or file == folder:
        raise QexportError(f"model: {path}: {tensor.name} lies in '{location}', outside the model's folder; move it in")
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        with file.open("rb") as opened:
            end = opened.seek(0, 2)
            length = end - start if length < 0 else length
            bits = _bits(tensor)
            if start < 0 or start + length > end or length != -(-math.prod(tensor.dims) * bits // 8):
                raise ValueError(f"bytes {start}..{start + length} of {end} are not its {bits}-bit numbers")
            opened.seek(start)
            data: bytes = opened.read(length)
            return data
    except (OSError, ValueError, KeyError) as error:
        raise QexportError(f"model: {path}: {tensor.name} in '{location}' cannot be read: {error}") from None


def _bits(tensor: TensorProto) -> int:
    kind = TensorProto.DataType.Name(tensor.data_type)
    packed = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    return packed.get(kind) or 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def _ordered(path: Path, nodes: Sequence[NodeProto], known: set[str]) -> tuple[NodeProto, ...]:
    """The nodes so that each comes behind those whose tensors it takes; that of the file where it does already."""
    given = {*known, ""}
    makers: dict[str, int] = {}
    for at, node in enumerate(nodes):
        for name in node.output:
            if name and (name in makers or name in known):
                raise QexportError(f"model: {path}: tensor '{name}' is given twice; export it again")
            makers[name] = at
    takes = [{name for name in node.input if name not in given} for node in nodes]
    for node, names in zip(nodes, takes, strict=True):
        if lost := sorted(names - set(makers)):
            raise QexportError(f"model: {path}: node {name_of(node)} takes '{lost[0]}', which nothing gives")
    waiting = [len(names) for names in takes]
    users: dict[str, list[int]] = {}
    for at, names in enumerate(takes):
        for name in names:
            users.setdefault(name, []).append(at)
    ready, ordered = [at for at, count in enumerate(waiting) if not count], []
    while ready:
        at = heapq.heappop(ready)
        ordered.append(nodes[at])
        for name in dict.fromkeys(nodes[at].output):
            for user in users.get(name, ()) if name else ():
                waiting[user] -= 1
                if not waiting[user]:
                    heapq.heappush(ready, user)
    if len(ordered) < len(nodes):
        circle = [name_of(node) for node, count in zip(nodes, waiting, strict=True) if count]
        raise QexportError(f"model: {path}: nodes {few(circle)} wait for each other; export it again")
    return tuple(ordered)
