"""What nodes give for numbers: by onnx.reference, its slow pools and what it does not know written here."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from qexport.errors import QexportError
from qexport.frontends.onnx_model.expand import STANDARD, expanded, opset_of, standard
from qexport.frontends.onnx_model.reading import Graph, attributes, name_of

WINDOWS = 1 << 26  # numbers of all windows of a convolution, which onnx.reference holds at once
Array = NDArray[Any]


def _quant(x: Array, scale: Array, zero: Array, bits: Array, **facts: Any) -> Array:
    width, signed, narrow = int(bits), bool(facts.get("signed", 1)), bool(facts.get("narrow", 0))
    codes = x / scale + zero
    if width == 1 and signed:
        return np.where(codes >= 0, 1.0, -1.0).astype(np.float32) * scale
    low = -(2 ** (width - 1)) + narrow if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - narrow
    return (_rounded(np.clip(codes, low, high), facts.get("rounding_mode", "ROUND")) - zero) * scale


def _bipolar(x: Array, scale: Array, **facts: Any) -> Array:
    return np.where(x >= 0, 1.0, -1.0).astype(x.dtype) * scale


def _trunc(x: Array, scale: Array, zero: Array, bits: Array, *rest: Array, **facts: Any) -> Array:
    codes, mode = np.rint(x / scale + zero), facts.get("rounding_mode", "FLOOR")
    if len(rest) == 1:
        return (_rounded(codes / 2.0 ** (bits - rest[0]), mode) - zero) * scale
    new_scale, width = rest[0], int(rest[1])
    signed, narrow = bool(facts.get("signed", 1)), bool(facts.get("narrow", 0))
    drop = 2.0 ** np.rint(np.log2(new_scale / scale))
    low = -(2 ** (width - 1)) + narrow if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - narrow
    return (_rounded(np.clip(codes / drop, low, high), mode) - zero / drop) * new_scale


def _rounded(x: Array, mode: str) -> Array:
    match str(mode).upper():
        case "FLOOR":
            return np.floor(x)
        case "CEIL":
            return np.ceil(x)
        case "UP":
            return np.sign(x) * np.ceil(np.abs(x))
        case "DOWN":
            return np.trunc(x)
        case "HALF_UP":
            return np.sign(x) * np.floor(np.abs(x) + 0.5)
        case "HALF_DOWN":
            return np.sign(x) * np.ceil(np.abs(x) - 0.5)
    return np.rint(x)


def _windows(x: Array, facts: Mapping[str, Any], fill: float) -> Iterator[Array]:
    """For each tap of a pool, what it meets at all positions."""
    kernel = list(facts["kernel_shape"])
    axes = len(kernel)
    strides, dilations = (list(facts.get(name) or [1] * axes) for name in ("strides", "dilations"))
    pads = list(facts.get("pads") or [0] * 2 * axes)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)], constant_values=fill)
    sizes = [
        (size - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    for tap in np.ndindex(*kernel):
        spans = [
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, size, stride, dilation in zip(tap, sizes, strides, dilations, strict=True)
        ]
        yield x[(slice(None), slice(None), *spans)]


def _simple_pool(facts: Mapping[str, Any]) -> bool:
    return not facts.get("ceil_mode") and facts.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _max_pool(x: Array, **facts: Any) -> Array:
    least = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    best: Array | None = None
    for part in _windows(x, facts, least):
        best = part if best is None else np.maximum(best, part)
    assert best is not None
    return best


def _average_pool(x: Array, **facts: Any) -> Array:
    total = np.sum(list(_windows(x, facts, 0)), axis=0, dtype=x.dtype)
    out: Array = total / x.dtype.type(math.prod(facts["kernel_shape"]))
    return out


def _batch_norm(x: Array, gain: Array, offset: Array, mean: Array, variance: Array, **facts: Any) -> Array:
    """In inference; onnx.reference takes a momentum for training up to opset 13."""
    shape = (-1, *[1] * (x.ndim - 2))
    gain, offset, mean, variance = (numbers.reshape(shape) for numbers in (gain, offset, mean, variance))
    out: Array = gain * (x - mean) / np.sqrt(variance + np.float32(facts.get("epsilon", 1e-5))) + offset
    return out.astype(x.dtype)


OWN: dict[str, Callable[..., Array]] = {"Quant": _quant, "IntQuant": _quant, "BipolarQuant": _bipolar, "Trunc": _trunc}


class Evaluator:
    """One node. Raises QexportError where it cannot be computed."""

    def __init__(self, node: NodeProto, graph: Graph):
        self.node, self.facts = node, attributes(node)
        self._run: Any = None
        if node.domain in STANDARD:
            opsets = [helper.make_opsetid("", opset_of(node, graph.opsets))]
            names = list(dict.fromkeys(name for name in node.input if name))
            values = [helper.make_empty_tensor_value_info(name) for name in names]
            outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
            made = helper.make_graph([standard(node)], "one", values, outputs)
            self._run = helper.make_model(made, opset_imports=opsets, ir_version=max(graph.ir_version, 3))

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array]:
        node, facts = self.node, self.facts
        try:
            with np.errstate(all="ignore"):
                if node.domain not in STANDARD:
                    return [_kept_type(OWN[node.op_type](*inputs, **facts), inputs[0])]
                if node.op_type == "MaxPool" and len(node.output) == 1 and _simple_pool(facts):
                    return [_max_pool(inputs[0], **facts)]  # type: ignore[arg-type]
                padded = any(facts.get("pads") or ()) and not facts.get("count_include_pad")
                if node.op_type == "AveragePool" and _simple_pool(facts) and not padded:
                    return [_average_pool(inputs[0], **facts)]  # type: ignore[arg-type]
                if node.op_type == "BatchNormalization" and not facts.get("training_mode"):
                    return [_batch_norm(*inputs, **facts)]  # type: ignore[arg-type]
                if isinstance(self._run, onnx.ModelProto):
                    self._run = ReferenceEvaluator(self._run)
                feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
                return list(self._run.run(None, feeds))
        except QexportError:
            raise
        except Exception as error:  # whatever the library's operations raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise QexportError(f"model: node {name_of(node)} ({node.op_type}) fails: {reason:.150}") from None


def _kept_type(array: Array, like: Array | None) -> Array:
    """QONNX's nodes give what they take: float32."""
    return array if like is None else array.astype(like.dtype, copy=False)


def check_windows(node: NodeProto, shapes: "Shapes") -> None:
    """Raises QexportError where a convolution's windows are too many to be held."""
    if node.op_type not in ("Conv", "QLinearConv", "ConvInteger"):
        return
    weight = shapes(node.input[3 if node.op_type == "QLinearConv" else 1])
    image, out = shapes(node.input[0]), shapes(node.output[0])
    if weight and image and out:
        held = math.prod(weight[2:]) * image[1] * math.prod(out[2:]) * out[0]
        if held > WINDOWS:
            raise QexportError(
                f"model: node {name_of(node)} has windows of {held:,} numbers, more than {WINDOWS:,}; "
                "give smaller pictures"
            )


Shapes = Callable[[str], tuple[int, ...] | None]


class Runner:
    """Computes the wanted tensors, and only what they need, held no longer than that."""

    def __init__(self, graph: Graph, wanted: Collection[str], shapes: Shapes):
        self._graph, self._wanted = graph, frozenset(wanted)
        nodes = _needed(graph, wanted, shapes)
        for node in nodes:
            check_windows(node, shapes)
        self._last = {name: at for at, node in enumerate(nodes) for name in node.input}
        self._evaluators = [Evaluator(node, graph) for node in nodes]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        values: dict[str, Array] = {**self._graph.constants, **feeds}
        for at, evaluator in enumerate(self._evaluators):
            node = evaluator.node
            outputs = evaluator([values[name] if name else None for name in node.input])
            values |= dict(zip(node.output, outputs, strict=False))
            for name in dict.fromkeys(node.input):
                if self._last.get(name) == at and name not in self._wanted and name not in self._graph.constants:
                    values.pop(name, None)
        return {name: values[name] for name in self._wanted}


def _needed(graph: Graph, wanted: Collection[str], shapes: Shapes) -> list[NodeProto]:
    """The nodes that the wanted tensors need, those of other domains as standard ones."""
    needed, found = set(wanted), list[NodeProto]()
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            parts = [node]
            if node.domain not in STANDARD and node.op_type not in OWN:
                parts = expanded(node, len(shapes(node.input[0]) or ()))
            found += reversed(parts)
    return found[::-1]
