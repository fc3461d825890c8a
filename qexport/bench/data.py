"""The behavioural design of an operation whose operands are all data: what its template needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qexport.bench.context import BenchMemory
from qexport.bench.steps import literal, needed, steps_context, value_of
from qexport.core.codes import CodeFormat
from qexport.core.geometry import AnyLayer
from qexport.core.steps import Step
from qexport.sets.manifest import ManifestFormats, MemoryEntry


@dataclass(frozen=True)
class Operand:
    """What its codes stand for. `table`: code and integer of each level that is not 0; None without levels."""

    name: str
    signed: bool
    zero: int
    table: list[tuple[int, str]] | None

    @classmethod
    def of(cls, name: str, fmt: CodeFormat) -> "Operand":
        table = None
        if fmt.table is not None:
            table = [(code, literal(level)) for code, level in enumerate(fmt.table) if level]
        return cls(name, fmt.signed, fmt.zero_points[0], table)


@dataclass(frozen=True)
class Place:
    """What the number of a word of an image tells, as expressions: the tile of channels and the place in the plane."""

    tile: str
    y: str
    x: str

    @classmethod
    def of(cls, memory: BenchMemory) -> "Place":
        found, step = {"tile": "0", "y": "0", "x": "0"}, 1
        for axis in reversed(memory.axes[1:]):  # without the images
            found[_PLACES[axis.name]] = f"({memory.name}_at / {step} % {axis.size})"
            step *= axis.size
        return cls(**found)


_PLACES = {"ot": "tile", "pt": "tile", "oy": "y", "m": "y", "ox": "x"}


def data_context(
    layer: AnyLayer,
    memories: Sequence[MemoryEntry],
    formats: ManifestFormats,
    steps: Sequence[Step],
    driven: Sequence[BenchMemory],
    compared: Sequence[BenchMemory],
) -> dict[str, Any]:
    """The context of sv/dut_data.sv.j2."""
    shapes = {entry.tensor: entry.shape for entry in memories}
    start = shapes.get("accumulator") or shapes["relu"]
    tensors = [memory.tensor for memory in compared]
    return {
        "kind": layer.kind,
        "noun": layer.noun,
        "has_relu": "relu" in tensors,
        "has_addend": "addend" in [memory.name for memory in driven],
        "operands": [Operand.of(name, fmt) for name, fmt in formats.operands.items()],
        "places": {memory.name: Place.of(memory) for memory in compared},
        "channels": {"p": "P", "oc": "OC"}[layer.channel],
        "values": {memory.name: value_of(memory.tensor, steps) for memory in compared},
        **steps_context(needed(steps, tensors), start[1:], "accumulator", None),
    }
