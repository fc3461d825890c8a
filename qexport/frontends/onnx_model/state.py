"""What a walk over a graph knows so far, and one node in it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TypeProto, helper, numpy_helper, shape_inference

from qexport.core.codes import CodeFormat
from qexport.core.geometry import Shape
from qexport.errors import QexportError
from qexport.frontends.onnx_model.expand import STANDARD, opset_of, standard
from qexport.frontends.onnx_model.reading import Graph, attributes, has_graph, name_of
from qexport.frontends.onnx_model.values import Call, Closing, Constant, Grid, Line, Quantizer, Reals, Value, View

TENSOR_NUMBERS = 1 << 25  # of one tensor, for one run: 64 channels of 700x700
SMALL = 1 << 12  # numbers of a constant that shapes may depend on
QONNX = ("onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general")
LONGEST_NAME = 80
UNKNOWN = ""  # in place of a reason: nothing is known of the operation
NUMBERS = {  # types whose codes are integers as they lie there
    getattr(onnx.TensorProto, name) for name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "INT16", "UINT16")
} | {onnx.TensorProto.INT32}


def shape_of(kind: TypeProto) -> Shape | None:
    """The shape of a type; None where a size is open."""
    dims = kind.tensor_type.shape.dim
    known = kind.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims)
    return tuple(dim.dim_value for dim in dims) if known else None


class Lost(Exception):
    """What a node makes is not understood, and why."""


@dataclass(frozen=True)
class Fed:
    """Codes that no layer gives: those of what comes in, or `behind` an operation that is not understood. `tensor`:
    they, or with `integers` not set their real values; `before`: what was quantized to them; `pixels`: it is the
    model's input itself, of uint8."""

    name: str
    tensor: str
    integers: bool
    before: str
    shape: Shape
    format: CodeFormat
    behind: str | None
    pixels: bool


@dataclass(frozen=True)
class Refused:
    """A layer that cannot be captured, and why."""

    name: str
    index: int
    why: str


@dataclass
class State:
    """`values`: what is known of tensors; `why`: of those of which nothing is, the operation that is the reason;
    `blocked`: those that cannot be computed; `origins`: the input of the model that alone, without a layer, leads to a
    tensor."""

    graph: Graph
    types: dict[str, TypeProto] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    fed: dict[str, Fed] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    users: dict[str, list[NodeProto]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            for name in dict.fromkeys(node.input):
                self.users.setdefault(name, []).append(node)

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor, for one run; None where it is not known."""
        kind = self.types.get(name)
        return None if kind is None else shape_of(kind)

    def new_name(self, wanted: str) -> str:
        """A name that no other layer has."""
        wanted = " ".join(wanted.split())[:LONGEST_NAME] or "layer"
        number, name = 1, wanted
        while name in self.names:
            number += 1
            name = f"{wanted}#{number}"
        self.names.add(name)
        return name

    def feed(self, tensor: str, before: str, format: CodeFormat, integers: bool) -> Grid:
        """The codes of a tensor that no layer gives; `before`: what was quantized to them."""
        shape = self.shape(tensor)
        assert shape is not None
        origin = self.origins.get(before)
        behind = None if origin else self.why.get(before, "an operation")
        for fed in self.fed.values():
            if before == fed.before and fed.format == format:
                return Grid.of(format, (fed.name,), View(shape), tensor, integers)
        name = self.new_name(origin or tensor)
        pixels = tensor in self.graph.inputs and self.types[tensor].tensor_type.elem_type == onnx.TensorProto.UINT8
        self.fed[name] = Fed(name, tensor, integers, before, shape, format, behind, pixels)
        return Grid.of(format, (name,), View(shape), tensor, integers)

    def close(self, line: Line, quantizer: Quantizer, part: int | None = None) -> Grid:
        """The codes that a quantizer makes of a line: a layer ends."""
        call = line.call
        name = call.name if not call.closings else self.new_name(call.name)
        call.closings.append(Closing(name, line, quantizer, part))
        return Grid.of(quantizer.format, (name,), line.view, quantizer.tensor, quantizer.integers)

    def type_of_outputs(self, node: NodeProto) -> None:
        """The types of what a node gives; raises Lost where they are not known, or too large to be computed."""
        if node.domain in QONNX:
            found = {node.output[0]: self.types[node.input[0]]} if node.input[0] in self.types else {}
        elif node.domain not in STANDARD:
            raise Lost(UNKNOWN)
        else:
            found = self._inferred(node)
        for name in filter(None, node.output):
            kind = found.get(name)
            shape = None if kind is None else shape_of(kind)
            if kind is None or shape is None:
                raise Lost("the shape of what it gives depends on numbers")
            if math.prod(shape) > TENSOR_NUMBERS:
                raise Lost(f"it gives {math.prod(shape):,} numbers")
            self.types[name] = kind

    def _inferred(self, node: NodeProto) -> dict[str, TypeProto]:
        opset = opset_of(node, self.graph.opsets)
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            raise Lost(UNKNOWN) from None
        if has_graph(node):
            raise Lost("it holds a graph")
        if missing := [name for name in node.input if name and name not in self.types]:
            raise Lost(f"nothing is known of '{missing[0]}'")
        data = {}
        for name in filter(None, node.input):
            value = self.values.get(name)
            if isinstance(value, Constant) and value.array.size <= SMALL:
                data[name] = numpy_helper.from_array(value.array, name)
        try:
            return dict(
                shape_inference.infer_node_outputs(
                    schema,
                    standard(node),
                    {name: self.types[name] for name in filter(None, node.input)},
                    data,
                    opset_imports=[helper.make_opsetid("", opset)],
                    ir_version=self.graph.ir_version,
                )
            )
        except Exception as error:  # the library raises whatever its checks meet
            reason = " ".join(str(error).split())
            raise Lost(f"it does not fit its tensors: {reason:.150}") from None


@dataclass
class Op:
    """One standard node in its place: operands, attributes, and what it gives."""

    state: State
    node: NodeProto

    def __post_init__(self) -> None:
        self.kind, self.name = self.node.op_type, name_of(self.node)
        self.facts: dict[str, Any] = attributes(self.node)
        self.inputs = list(self.node.input)
        self.result = self.node.output[0]

    def __getitem__(self, at: int) -> Value | None:
        """What is known of an operand."""
        return self.state.values.get(self.inputs[at]) if self.has(at) else None

    def has(self, at: int) -> bool:
        return at < len(self.inputs) and bool(self.inputs[at])

    @property
    def shape(self) -> Shape:
        """Of what it gives."""
        shape = self.state.shape(self.result)
        assert shape is not None
        return shape

    def shape_of(self, at: int) -> Shape:
        shape = self.state.shape(self.inputs[at])
        assert shape is not None
        return shape

    def numbers(self, at: int) -> NDArray[Any] | None:
        """A constant operand; None where it depends on what comes in."""
        value = self[at]
        return value.array if isinstance(value, Constant) else None

    def reals(self, at: int, what: str) -> Reals:
        """A constant operand as float64; raises Lost where it is none, or not finite."""
        numbers = self.numbers(at)
        if numbers is None:
            raise Lost(f"the {what} of {self.kind} is computed while it runs")
        reals: Reals = np.asarray(numbers).astype(np.float64)
        if not np.isfinite(reals).all():
            raise Lost(f"the {what} of {self.kind} is not finite")
        return reals

    def one(self, at: int, what: str) -> float:
        """A constant operand of one number."""
        reals = self.reals(at, what)
        if reals.size != 1:
            raise Lost(f"the {what} of {self.kind} differs by channel")
        return float(reals.ravel()[0])

    def whole(self, at: int, what: str) -> list[int]:
        """A constant operand of integers."""
        return [int(number) for number in self.reals(at, what).ravel()]

    def ints(self, name: str, default: Iterable[int]) -> list[int]:
        """An attribute of integers."""
        return [int(number) for number in self.facts.get(name) or default]

    def why(self, at: int) -> str:
        """Why nothing is known of an operand."""
        reason = self.state.why.get(self.inputs[at])
        return f"comes from {reason}" if reason else "is not quantized"


def need(holds: bool, reason: str) -> None:
    """Raises Lost unless it holds."""
    if not holds:
        raise Lost(reason)


def checked(holds: bool, message: str) -> None:
    """Raises QexportError unless it holds."""
    if not holds:
        raise QexportError(message)
