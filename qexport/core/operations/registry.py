"""The operations by the layer's kind: a new one is a file beside this and a line here."""

from collections.abc import Mapping, Sequence

from qexport.core.capture import Capture
from qexport.core.codes import CodeFormat, have_zero_points
from qexport.core.geometry import ConvGeometry
from qexport.core.operations.base import Need
from qexport.core.operations.conv2d import Convolution
from qexport.core.steps import Step
from qexport.core.tensors import Role
from qexport.errors import QexportError

OPERATIONS: Mapping[str, type[Convolution]] = {"conv2d": Convolution, "linear": Convolution}

_RECORDS = {name: record for kind in OPERATIONS.values() for name, record in kind.table.items()}
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
    `steps`: those that a manifest says; None takes the capture's."""
    return OPERATIONS[capture.layer.kind](capture, row, steps)


def require(layer: ConvGeometry, need: Need, *formats: CodeFormat) -> None:
    """Raises QexportError where the layer's operation does not offer what a command needs.

    `formats`: those that must have no zero point for it.
    """
    if have_zero_points(*formats):
        raise QexportError(f"layer {layer.name}: codes with zero points have no {need.value} yet; use the bench alone")
    if need not in OPERATIONS[layer.kind].offers:
        raise QexportError(
            f"layer {layer.name}: a {layer.kind} layer has no {need.value} yet; "
            f"kinds that have: {', '.join(kind for kind, one in OPERATIONS.items() if need in one.offers) or 'none'}"
        )
