"""A graph from its inputs to its end: which layers of integers it has, and how quantizers end them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, TypeProto, helper

from qexport.core.geometry import Shape, Sum
from qexport.errors import QexportError, few
from qexport.frontends.onnx_model.endings import simplified
from qexport.frontends.onnx_model.evaluate import OWN, Evaluator
from qexport.frontends.onnx_model.expand import STANDARD, expanded
from qexport.frontends.onnx_model.quantizers import constant_codes, of_constant
from qexport.frontends.onnx_model.reading import Graph, has_graph, name_of
from qexport.frontends.onnx_model.rules import LAYERS, RULES, SELECTIONS, selected
from qexport.frontends.onnx_model.state import QONNX, TENSOR_NUMBERS, UNKNOWN, Fed, Lost, Op, Refused, State
from qexport.frontends.onnx_model.values import Call, Closing, Constant, Joined, Line

FED = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.INT8)
CONSTANT_NUMBERS = 1 << 24  # of a result of constants that is computed while the graph is read


@dataclass(frozen=True)
class Found:
    """A layer: a call that ends in a quantizer, or, without `closing`, in its sums. `why`: what ended it so."""

    call: Call
    closing: Closing | None
    why: str | None = None

    @property
    def name(self) -> str:
        return self.call.name if self.closing is None else self.closing.name


@dataclass(frozen=True)
class Walked:
    """The layers in the order of computation, those that cannot be, and what is fed to the first ones."""

    graph: Graph
    state: State
    layers: tuple[Found, ...]
    refused: tuple[Refused, ...]
    fed: Mapping[str, Fed]

    def shape(self, name: str) -> Shape | None:
        """Of a tensor, for one run."""
        return self.state.shape(name)

    def has(self, name: str) -> bool:
        """Whether the graph itself has a tensor, not only its standard nodes."""
        return any(name in node.output for node in self.graph.nodes)


def walk(graph: Graph, shapes: Mapping[str, Shape] | None = None) -> Walked:
    """The layers of a graph. `shapes`: of what is fed, where the graph does not say them."""
    state = State(graph)
    for name, array in graph.constants.items():
        state.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        state.values[name] = constant_codes(array)
    for name, kind in graph.inputs.items():
        state.types[name] = _input_type(graph, name, kind, (shapes or {}).get(name))
        state.origins[name] = name
    for node in graph.nodes:
        for part in expanded(node, len(state.shape(node.input[0]) or ()) if node.input else 0):
            _pass(state, part)
    for name in graph.outputs:
        value = state.values.get(name)
        if isinstance(value, Line) and value.call.lost is None:
            value.call.end = value
    layers = []
    for call in state.calls:
        layers += [Found(*simplified(call, closing)) for closing in call.closings]
        if not call.closings and not isinstance(call.layer, Sum):
            why = f"its sum goes through {call.lost}" if call.lost else "no quantizer follows it"
            layers.append(Found(call, None, why))
    if not layers and not state.refused:
        raise QexportError(f"model: {graph.path} has no convolution and no linear layer; give another")
    return Walked(graph, state, tuple(layers), tuple(state.refused), state.fed)


def _input_type(graph: Graph, name: str, kind: TypeProto, given: Shape | None) -> TypeProto:
    if kind.tensor_type.elem_type not in FED or not kind.HasField("tensor_type"):
        raise QexportError(
            f"model: {graph.path}: input '{name}' is {_type_name(kind)}; needs one of "
            f"{', '.join(TensorProto.DataType.Name(one) for one in FED)}"
        )
    dims = list(kind.tensor_type.shape.dim)
    if given is None and not kind.tensor_type.HasField("shape"):
        raise QexportError(f"model: {graph.path}: the shape of input '{name}' is not known; give --inputs")
    sizes = [1 if at == 0 and not dim.dim_value else dim.dim_value for at, dim in enumerate(dims)]
    if given is not None:
        fits = not dims or (len(given) == len(dims) and all(not s or s == g for s, g in zip(sizes, given, strict=True)))
        if not fits:
            wanted = few([dim.dim_param or dim.dim_value for dim in dims], between=" x ")
            raise QexportError(f"inputs: '{name}' has shape {few(given, between=' x ')}; the model takes {wanted}")
        sizes = list(given)
    if math.prod(sizes) > TENSOR_NUMBERS:
        raise QexportError(
            f"model: {graph.path}: input '{name}' has {math.prod(sizes):,} numbers, more than {TENSOR_NUMBERS:,}; "
            "take smaller pictures"
        )
    if not all(size > 0 for size in sizes):
        unknown = few([dim.dim_param or "?" for dim, size in zip(dims, sizes, strict=True) if size <= 0])
        raise QexportError(f"model: {graph.path}: input '{name}' has open sizes {unknown}; give --inputs")
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, sizes)


def _type_name(kind: TypeProto) -> str:
    if not kind.HasField("tensor_type"):
        return "no tensor"
    return str(TensorProto.DataType.Name(kind.tensor_type.elem_type))


def _pass(state: State, node: NodeProto) -> None:
    """Learn what a node gives."""
    if blocked := next((state.blocked[name] for name in node.input if name in state.blocked), None):
        _block(state, node, blocked)
        return
    try:
        if node.domain not in STANDARD and not (node.op_type in OWN and node.domain in QONNX):
            raise Lost(UNKNOWN)
        state.type_of_outputs(node)
    except Lost as lost:
        _block(state, node, _reason(node, str(lost)))
        return
    op = Op(state, node)
    if _folds(state, node):
        _fold(op)
        return
    _apply(op)


def _reason(node: NodeProto, why: str) -> str:
    """A node that is lost, as a message names it."""
    domain = "" if node.domain in (*STANDARD, *QONNX) else f"{node.domain}."
    return f"{domain}{node.op_type} ({name_of(node)}{f': {why}' if why else ''})"


def _block(state: State, node: NodeProto, reason: str) -> None:
    """Nothing behind this node can be computed."""
    for name in filter(None, node.output):
        state.blocked[name] = state.why[name] = reason
    _lose(state, node, reason)
    if node.op_type in LAYERS:
        _refuse(state, node, f"it comes from {reason}")


def _refuse(state: State, node: NodeProto, why: str) -> None:
    """A layer that cannot be captured."""
    name = state.new_name(name_of(node))
    state.refused.append(Refused(name, len(state.calls) + len(state.refused), f"layer {name}: {why}"))


def _lose(state: State, node: NodeProto, reason: str) -> None:
    """The lines that end in a node."""
    for name in node.input:
        value = state.values.get(name)
        for line in value.parts if isinstance(value, Joined) else (value,):
            if isinstance(line, Line) and line.call.lost is None:
                line.call.lost, line.call.end = reason, line


def _folds(state: State, node: NodeProto) -> bool:
    constant = all(isinstance(state.values.get(name), Constant) for name in node.input if name)
    sizes = [np.prod(state.shape(name) or (), dtype=object) for name in node.output if name]
    random = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
    return constant and not random and not has_graph(node) and sum(sizes) <= CONSTANT_NUMBERS


def _fold(op: Op) -> None:
    """A node of constants gives constants."""
    state, node = op.state, op.node
    outputs = Evaluator(node, state.graph)([_array(state, name) for name in node.input])
    for name, array in zip(filter(None, node.output), outputs, strict=False):
        try:
            one = Op(state, node)
            one.result = name
            state.values[name] = of_constant(one, np.asarray(array))
        except Lost:
            state.values[name] = Constant(np.asarray(array))


def _array(state: State, name: str) -> NDArray[Any] | None:
    value = state.values.get(name)
    return value.array if isinstance(value, Constant) else None


def _apply(op: Op) -> None:
    state, node = op.state, op.node
    try:
        if op.kind == "Shape":
            sizes = op.shape_of(0)[op.facts.get("start", 0) : op.facts.get("end")]
            state.values[op.result] = Constant(np.array(sizes, np.int64))
            return
        if op.kind in SELECTIONS:
            for name in filter(None, node.output):
                op.result = name
                state.values[name] = selected(op)
            return
        if op.kind not in RULES:
            raise Lost(UNKNOWN)
        state.values[op.result] = RULES[op.kind](op)
        return
    except Lost as lost:
        reason = _reason(node, str(lost))
    except QexportError as error:
        reason = _reason(node, str(error))
        if op.kind in LAYERS:
            _refuse(state, node, str(error))
            reason = f"layer {op.name}"
    driven = [name for name in node.input if name and not isinstance(state.values.get(name), Constant)]
    origins = {state.origins.get(name) for name in driven} if op.kind not in LAYERS else {None}
    earlier = [state.why[name] for name in node.input if name in state.why]
    for name in filter(None, node.output):
        state.why[name] = earlier[0] if earlier and op.kind not in LAYERS else reason
        if len(origins) == 1 and (origin := next(iter(origins))):
            state.origins[name] = origin
    _lose(state, node, reason)
