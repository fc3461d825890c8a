"""Errors that no picture shows on a layout, because all that is compared stays what it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qexport.core.capture import Capture
from qexport.core.geometry import AnyLayer, ConvGeometry
from qexport.core.operations.registry import AXES, OPERANDS
from qexport.core.strength import COUNTED
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import Tiling
from qexport.sets.manifest import Manifest, capture_of, once_for_content

ACTIVATIONS = tuple(name for name, operand in OPERANDS.items() if operand == "input")


# --- blind spots ----------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A memory of a set: its name, its tensor, and its order with the sizes."""

    name: str
    tensor: str
    tiling: Tiling

    def parts(self, axis: str) -> Iterator[tuple[str, int, int]]:
        """The parts into which the order splits an axis (or the whole one): name, step along the axis, size."""
        splits = [split for split in self.tiling.order.splits if split.joined == (axis,)]
        for split in splits[-1:]:  # a stage before may have handed the axis on
            step = 1
            for name in reversed(split.names):
                yield name, step, self.tiling.sizes[name]
                step *= self.tiling.sizes[name]

    def has(self, axis: str, step: int, size: int) -> bool:
        """Whether one of the parts has that step and size."""
        return any(part[1:] == (step, size) for part in self.parts(axis))


@dataclass(frozen=True)
class BlindSpot:
    """An error that no image shows: a part of an axis in another order in all `memories` and in one of `either`.

    The part has its name from the weight memory; `axis` is the weight's, `step` and `size` count along it.
    """

    part: str
    axis: str
    step: int
    size: int
    memories: tuple[str, ...]
    either: tuple[str, ...]

    def __str__(self) -> str:
        sources: Sequence[str] = [f"one of {', '.join(self.either)}"] if len(self.either) > 1 else self.either
        *others, last = [*self.memories, *sources]
        part = self.part if self.part == self.axis else f"{self.part} (of {self.axis})"
        return f"{part} in another order, such as reversed, shows nowhere when {', '.join(others)} and {last} agree"


def _of_data(layer: AnyLayer, memories: Sequence[Stored]) -> Iterator[BlindSpot]:
    """The same of an operation whose operands are all data: whatever order all memories of an axis have in common."""
    if not any(memory.tensor in COUNTED for memory in memories):
        return
    operands = [memory for memory in memories if memory.tensor in layer.holds]
    for axis in dict.fromkeys(axis for memory in operands for axis in memory.tiling.order.tensor_axes[1:]):
        behind = _BEHIND.get(axis, axis)  # what the axis is called in the results
        moved = [(m, name) for m in memories for name in (axis, behind) if name in m.tiling.order.tensor_axes]
        for part, step, size in next(m for m in operands if axis in m.tiling.order.tensor_axes).parts(axis):
            if size > 1 and all(memory.has(name, step, size) for memory, name in dict(moved).items()):
                names = tuple(dict.fromkeys(memory.name for memory, _ in moved))
                yield BlindSpot(part, axis, step, size, names, ())


_BEHIND = {"ic": "oc", "iy": "oy", "ix": "ox"}


def blind_spots(capture: Capture, memories: Sequence[Stored], row: int | None) -> list[BlindSpot]:
    """The permutations that no image shows on a layout, because all that is compared stays what it is.

    `row` is the psums' tile as in Golden. What is summed over before anything is compared may stand in any order when
    weights and activations agree: rows inside a tile; without a psum memory also tiles, and taps where the
    activations are stored by taps. What is kept apart may be renamed in all memories at once: columns, psums' tiles.
    """
    layer = capture.layer
    if not isinstance(layer, ConvGeometry):
        return list(_of_data(layer, memories))
    stored = {tensor: [memory for memory in memories if memory.tensor == tensor] for tensor in AXES}
    weights, psums = stored["weight"], stored["psum"]
    results = [memory for stage in COUNTED for memory in stored[stage]]
    if not weights or not results:
        return []
    tile = layer.group_inputs if row is None else row
    in_group = {"ic": layer.group_inputs, "oc": layer.out_channels // layer.groups}
    found = []
    for axis in ("ic", "kh", "kw", "oc"):
        for part, step, size in weights[0].parts(axis):
            together, span = list(weights), step * size
            if size == 1 or (layer.groups > 1 and in_group.get(axis, span) % span):
                continue  # nothing to exchange, or the part reaches over the groups' bounds
            if axis == "oc":
                together += results + stored["output"]
                if capture.bias is not None and len(results) > len(psums):  # the bias counts in what is compared
                    if not stored["bias"]:
                        continue  # it reaches the design by another way and would not move along
                    together += stored["bias"]
            elif axis != "ic" and psums:
                continue  # psums keep the taps apart
            elif psums and tile % span and tile < layer.group_inputs:  # the part exchanges tiles
                if step % tile or not all(memory.has("it", step // tile, size) for memory in psums):
                    continue
                together += psums  # which move along by their own axis
            sources = {"ic": ACTIVATIONS, "oc": ()}.get(axis, ("patches",))
            either = [memory for name in sources for memory in stored[name] if memory.has(axis, step, size)]
            moved = [memory for memory in together if memory.tensor != "psum" or axis != "ic"]
            if all(memory.has(axis, step, size) for memory in moved) and (either or axis == "oc"):
                names = [tuple(memory.name for memory in group) for group in (together, either)]
                found.append(BlindSpot(part, axis, step, size, *names))
    return found


def stored_in(manifest: Manifest) -> list[Stored]:
    """The memories of a set."""
    return [Stored(entry.name, entry.tensor, entry.tiling(manifest.array)) for entry in manifest.memories]


@once_for_content
def spots_of(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """The errors that no picture shows on a set's layout, in words; raises CheckFailed when its capture was changed."""
    capture = capture_of(folder, manifest)
    return tuple(map(str, blind_spots(capture, stored_in(manifest), manifest.array.get(TILE_AXIS))))
