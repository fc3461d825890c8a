"""The operations by the layer's kind: a new one is a file beside this and a line here."""

from collections.abc import Mapping, Sequence

from qexport.core.capture import Capture
from qexport.core.codes import CodeFormat
from qexport.core.geometry import AnyLayer
from qexport.core.operations.base import Need, Operation
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.matmul import MatrixProduct
from qexport.core.operations.sum import WeightedSum
from qexport.core.steps import Step
from qexport.core.tensors import Record, Role
from qexport.errors import QexportError

OPERATIONS: Mapping[str, type[Operation]] = {
    "conv2d": Convolution,
    "linear": Convolution,
    "matmul": MatrixProduct,
    "sum": WeightedSum,
}

# For what does not know the layer yet; where kinds differ, that of the convolutions.
_RECORDS: dict[str, Record] = {}
for _kind in OPERATIONS.values():
    _RECORDS |= {name: record for name, record in _kind.table.items() if name not in _RECORDS}
AXES: Mapping[str, tuple[str, ...]] = {name: record.axes for name, record in _RECORDS.items()}
AXES_BY_KIND: Mapping[str, tuple[tuple[str, ...], ...]] = {  # those that a tensor has in any of the operations
    name: tuple(dict.fromkeys(kind.table[name].axes for kind in OPERATIONS.values() if name in kind.table))
    for name in _RECORDS
}
OPERANDS: Mapping[str, str] = {  # tensor that goes into a design -> what it carries
    name: record.operand for name, record in _RECORDS.items() if record.role is Role.OPERAND
}
RESULTS = tuple(name for name, record in _RECORDS.items() if record.role is Role.RESULT)  # in the order of computation


def operation(capture: Capture, row: int | None, steps: Sequence[Step] | None = None) -> Convolution:
    """The operation of a capture's layer; `row` is the array's input-channel tile for psum, None means one tile.
    `steps`: those that a manifest says; None takes the capture's.

    Its type says what most rooms serve, convolutions, behind `require`; what serves every kind takes an Operation.
    """
    made = OPERATIONS[capture.layer.kind](capture, row, steps)
    made.check_size(dict.fromkeys(made.computed, 1))
    return made  # type: ignore[return-value]


def require(layer: AnyLayer, need: Need, *formats: CodeFormat) -> None:
    """Raises QexportError where the layer's operation does not offer what a command needs.

    `formats`: those whose codes must stand for themselves for it.
    """
    if need not in OPERATIONS[layer.kind].offers:
        raise QexportError(
            f"layer {layer.name}: a {layer.kind} layer has no {need.value} yet; "
            f"kinds that have: {', '.join(kind for kind, one in OPERATIONS.items() if need in one.offers) or 'none'}"
        )
    for fmt in formats:
        if not fmt.plain:
            what = "zero points" if fmt.table is None else "levels"
            raise QexportError(f"layer {layer.name}: codes with {what} have no {need.value} yet; use the bench alone")
