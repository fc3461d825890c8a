"""The file of a network, NAME.network.safetensors: read with every check, written with the same bytes everywhere."""

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from qexport.core.atomic import write_atomically
from qexport.core.budget import CAPTURE_ELEMENTS, HEADER_BYTES, LAYERS, STEP_ELEMENTS, check_header
from qexport.core.capture import METADATA_KEY, Source
from qexport.core.codes import Formats
from qexport.core.geometry import Layer, check_kind
from qexport.core.network import IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput, View
from qexport.core.private import without_private
from qexport.core.steps import read_steps, write_steps
from qexport.errors import QexportError, few

SCHEMA = "qexport.network/1"
SUFFIX = ".network.safetensors"
_TENSOR = re.compile(r"(.+)\.(weight|bias|steps\.\d+\.\w+)", re.S)


class _Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    layer: Layer
    formats: Formats
    steps: list[Any]
    operands: dict[str, tuple[str, ...]]
    view: dict[str, list[Any]] = {}


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: str
    inputs: tuple[NetworkInput, ...]
    layers: tuple[_Layer, ...]
    outputs: tuple[NetworkOutput, ...]
    source: Source = Source()


def is_network(path: Path) -> bool:
    """Whether a file's name says that it holds a network."""
    return path.name.endswith(SUFFIX)


def network_bytes(network: IntegerNetwork) -> bytes:
    """The network's file: one metadata entry, tensors in the narrowest integers; the same network, the same bytes."""
    layers: list[dict[str, Any]] = []
    tensors: dict[str, NDArray[Any]] = {}
    for node in network.layers:
        steps, tables = write_steps(node.steps)
        own: dict[str, NDArray[Any]] = dict(tables)
        if node.weight is not None:
            own["weight"] = _narrow(node.weight)
        if node.bias is not None:
            own["bias"] = node.bias.astype(np.int64)
        tensors |= {f"{node.name}.{name}": np.ascontiguousarray(array) for name, array in own.items()}
        view = {name: [one.document for one in views] for name, views in node.view.items() if views}
        document: dict[str, Any] = {"layer": node.layer, "formats": node.formats, "steps": steps}
        layers.append(document | {"operands": node.operands} | ({"view": view} if view else {}))
    metadata = msgspec.to_builtins(
        {"schema": SCHEMA, "inputs": network.inputs, "layers": layers, "outputs": network.outputs}
        | {"source": network.source}
    )
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    data = save(tensors, metadata={METADATA_KEY: text})
    if int.from_bytes(data[:8], "little") > HEADER_BYTES:
        raise QexportError(f"network: its description has more than {HEADER_BYTES:,} bytes; cut the network")
    return data


def write_network(network: IntegerNetwork, path: Path) -> None:
    """Write the network's file, whole or not at all."""
    if not is_network(path):
        raise QexportError(f"out: {path} does not end with {SUFFIX}; name it so, other commands tell it by that")
    if path.exists() and not path.is_file():
        raise QexportError(f"out: {path} is not a regular file; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, network_bytes(network))


def network_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _narrow(weight: NDArray[Any]) -> NDArray[Any]:
    """The same integers in the narrowest type of up to 32 bits."""
    low, high = int(weight.min()), int(weight.max())
    types = (np.int8, np.uint8, np.int16, np.uint16, np.int32)
    return weight.astype(next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max))


def read_network(path: Path) -> IntegerNetwork:
    """The network of a file; raises QexportError naming what is wrong with it."""
    if not path.is_file():
        raise QexportError(f"network: {path} does not exist or is not a file; `qexport import` writes one")
    check_header(path, "network")
    try:
        with safe_open(str(path), framework="numpy") as file:
            names, entries = sorted(file.keys()), file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            document = _read_document(path, entries)
            _check_tensors(path, document, shapes)
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, AttributeError, TypeError, OSError) as error:
        raise QexportError(f"network: {path} is not a readable safetensors file: {error}; export it again") from None
    for name, array in tensors.items():
        if array.dtype.kind not in "iu" or not array.size:
            raise QexportError(f"network: {path}: {name} is {array.dtype} {array.shape}; needs integers")
    own: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in tensors.items():
        layer, what = _split(name)
        own.setdefault(layer, {})[what] = array
    try:
        layers = tuple(_read_layer(one, own.get(one.layer.name, {})) for one in document.layers)
        return IntegerNetwork(document.inputs, layers, document.outputs, document.source)
    except QexportError as error:
        raise QexportError(f"{path}: {error}") from None


def _read_document(path: Path, entries: dict[str, str]) -> _Document:
    if set(entries) != {METADATA_KEY}:
        raise QexportError(
            f"network: {path} has metadata entries {few(sorted(entries))}; needs '{METADATA_KEY}' alone, with what "
            "docs/how-to/network.md says"
        )
    try:
        document = without_private(json.loads(entries[METADATA_KEY]))
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise QexportError(f"schema is {schema!r:.60}; this qexport reads {SCHEMA}")
        layers = document.get("layers")
        if isinstance(layers, list) and len(layers) > LAYERS:
            raise QexportError(f"it has {len(layers):,} layers, more than {LAYERS:,}; cut the network")
        for one in layers if isinstance(layers, list) else ():
            check_kind(one.get("layer") if isinstance(one, dict) else None)
        return msgspec.convert(document, _Document)
    except (ValueError, RecursionError) as error:
        raise QexportError(f"network: {path}: {str(error).removeprefix('network: ')}") from None


def _split(name: str) -> tuple[str, str]:
    """A tensor's name: its layer, and what it is of that layer."""
    match = _TENSOR.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def _check_tensors(path: Path, document: _Document, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises QexportError where a tensor belongs to no layer, or has more numbers than the budget."""
    layers = {one.layer.name for one in document.layers}
    sizes: Counter[tuple[str, bool]] = Counter()
    for name, shape in shapes.items():
        layer, what = _split(name)
        if layer not in layers:
            raise QexportError(f"network: {path} holds {name}, which belongs to none of its layers; take it out")
        kind = layer, what in ("weight", "bias")
        sizes[kind] += math.prod(shape)
        limit = CAPTURE_ELEMENTS if kind[1] else STEP_ELEMENTS
        if sizes[kind] > limit:
            raise QexportError(f"network: {path}: with {name} layer {layer} has more than {limit:,} numbers; cut it")


def _read_layer(one: _Layer, tensors: dict[str, NDArray[Any]]) -> NetworkLayer:
    try:
        own = {name: tensors.pop(name) for name in ("weight", "bias") if name in tensors}
        steps = read_steps(one.steps, tensors)
        view = {name: tuple(map(View.read, views)) for name, views in one.view.items()}
    except QexportError as error:
        raise QexportError(f"network: layer {one.layer.name}: {error}") from None
    return NetworkLayer(one.layer, one.formats, steps, one.operands, view, **own)
