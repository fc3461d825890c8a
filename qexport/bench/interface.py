"""The streams of the design under test: which memories go in and come out, as which ports."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qexport.core.geometry import AnyLayer
from qexport.core.operations.registry import AXES, OPERANDS, RESULTS
from qexport.core.steps import Step, step_names
from qexport.errors import QexportError
from qexport.layout.memory import Memory, verilog_name
from qexport.layout.toml import default_layout, load_layout, preset_names
from qexport.sets.manifest import READ_SCHEMAS, LayoutInfo, Manifest, MemoryEntry

DRIVEN = tuple(dict.fromkeys(OPERANDS.values()))  # memories of the layout default whose words go into the design
COMPARED = RESULTS  # and those whose words come out of it, named like their tensors; a layout may lack some
CHECKS = "checks.txt"  # number of words and CRC-32 of each file that Verilog can load
BOTH_WAYS = "psum"  # a result, and what a second stage takes


@dataclass(frozen=True)
class Port:
    """A port of the design under test; `bits` 0: no vector. `signed`: declared so, which compares as equal."""

    direction: str
    bits: int
    signed: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.direction}{f' of {self.bits} bit' if self.bits else ''}{'s' if self.bits > 1 else ''}"


@dataclass(frozen=True)
class Stream:
    """One AXI4-Stream of the interface of the design under test; `driven`: its words go into the design.

    `needed`: it is streamed wherever the design does not say otherwise; else only where the design has its ports.
    `added`: how many elements of it are not compared, because a skew put them there.
    """

    memory: str
    width: int
    words: int
    lanes: int
    driven: bool
    needed: bool = True
    added: int = 0

    @classmethod
    def of(cls, entry: MemoryEntry, array: Mapping[str, int], driven: bool, needed: bool = True) -> "Stream":
        words = sum(file.words for file in entry.files)
        added = entry.tiling(dict(array)).added if entry.skew else 0
        return cls(entry.name, entry.word_bits, words, entry.word_bits // entry.bits, driven, needed, added)

    @property
    def values(self) -> int:
        """How many values of it are compared."""
        return self.words * self.lanes - self.added

    @property
    def prefix(self) -> str:
        """What the names of its ports begin with."""
        return f"{'s' if self.driven else 'm'}_{verilog_name(self.memory)}"

    @property
    def macro(self) -> str:
        """The macro that tells the bench that the design does not have it, or where it is not needed, that it has."""
        return f"QEXPORT_{'WITHOUT' if self.needed else 'WITH'}_{verilog_name(self.memory).upper()}"

    @property
    def ports(self) -> dict[str, Port]:
        """The stream's ports by name."""
        there, back = ("input", "output") if self.driven else ("output", "input")
        return {
            f"{self.prefix}_tvalid": Port(there, 1),
            f"{self.prefix}_tready": Port(back, 1),
            f"{self.prefix}_tdata": Port(there, self.width),
            f"{self.prefix}_tlast": Port(there, 1),
        }


def streams_of(
    entries: Iterable[MemoryEntry], array: Mapping[str, int], steps: Sequence[Step] | None, relu: bool
) -> tuple[Stream, ...]:
    """The streams of a set's memories: those that go in, and then those that come out; none where there is no bench.

    The first memory of each operand is needed, others are where the design has the ports; so are parameters of steps,
    and psums that go in. `relu`: whether the layer has a ReLU; else none is compared. There is a bench where
    something goes in and something comes out.
    """
    names, given = step_names(steps or ()), set[str]()
    driven: list[Stream] = []
    beside: list[Stream] = []
    back: list[Stream] = []
    for entry in entries:
        operand = OPERANDS.get(entry.tensor)
        if operand is not None:
            (beside if operand in given else driven).append(Stream.of(entry, array, True, operand not in given))
            given.add(operand)
        elif entry.tensor in COMPARED or entry.tensor in names:
            if entry.tensor == BOTH_WAYS:
                beside.append(Stream.of(entry, array, True, needed=False))
            if relu or entry.tensor != "relu":
                back.append(Stream.of(entry, array, False))
        elif entry.tensor not in AXES:  # a parameter of a step; what else there is stands aside
            beside.append(Stream.of(entry, array, True, needed=False))
    return (*driven, *beside, *back) if driven and back else ()


def is_preset(
    entries: Collection[MemoryEntry], streams: Sequence[Stream], array: Mapping[str, int], layer: AnyLayer
) -> bool:
    """Whether the streams that are needed are those of the preset for the kind of layer, and results stand as there."""
    return _unlike_preset(entries, streams, array, layer) is None


def _unlike_preset(
    entries: Collection[MemoryEntry], streams: Sequence[Stream], array: Mapping[str, int], layer: AnyLayer
) -> str | None:
    """The first key of the layout with which the streams are not those of the preset, None where they are."""
    preset = load_layout(default_layout(layer.kind))
    theirs = {memory.name: _shape(memory) for memory in preset.memories}
    by_name = {entry.name: entry for entry in entries}
    driven = [s.memory for s in streams if s.driven and s.needed]
    if axes := [axis for axis in preset.array if axis not in array]:
        return f"its [array] has no '{axes[0]}'"
    for name in driven:
        if name not in DRIVEN:
            tensor = by_name[name].tensor
            return f"memory '{name}' with tensor = '{tensor}' goes in, there it is '{OPERANDS[tensor]}'"
    if lacks := [name for name in layer.holds if layer.needs(name) and name not in driven]:
        return f"it has no memory '{lacks[0]}'"
    back = [s.memory for s in streams if not s.driven]
    return next((said for name in (*driven, *back) if (said := _unlike(by_name[name], theirs))), None)


def _unlike(entry: MemoryEntry, theirs: Mapping[str, Memory]) -> str | None:
    """The key in which a memory is not that of the preset of its name; values of steps stand as `output` does."""
    preset = theirs.get(entry.name)
    if entry.tensor not in (*COMPARED, *OPERANDS):
        preset = replace(theirs["output"], name=entry.name, tensor=entry.tensor)
    if preset is None:
        return f"the preset has no memory '{entry.name}'"
    own, other = (_keys(memory) for memory in (_shape(entry.memory()), preset))
    key = next((key for key in own if own[key] != other[key]), None)
    return None if key is None else f"memory '{entry.name}' has {key} = {own[key]!r}, there it is {other[key]!r}"


def _keys(memory: Memory) -> dict[str, object]:
    """What a layout says of a memory, by its keys."""
    order = memory.order
    keys = {"tensor": memory.tensor, "order": order.text, "skew": order.skew, "skew_by": order.skew_by}
    keys |= {"radix": memory.radix, "offset": memory.offset, "overflow": memory.overflow}
    return {
        **keys,
        "header": list(memory.header),
        "first": memory.first,
        "follows": memory.follows,
        **vars(memory.style),
    }


def _shape(memory: Memory) -> Memory:
    """What the set's own design relies on: everything but the width of an element, how it is read back, the file's name
    and whether it may lack."""
    return replace(memory, bits=None, signed=None, file="", optional=False)


def streams(manifest: Manifest) -> tuple[Stream, ...] | None:
    """The interface of the design under test, as the set's bench drives it; None where the set has none."""
    if not any(file.path == f"tb_{manifest.layer.slug}.sv" for file in manifest.bench):
        return None
    relu = manifest.layer.relu or manifest.schema == READ_SCHEMAS[0]  # whose benches compared it always
    return streams_of(manifest.memories, manifest.array, manifest.chain, relu) or None


def unlike_preset(manifest: Manifest) -> str | None:
    """Why a set's streams are not those of the preset for its kind of layer, by a key of its layout; None: they are."""
    found = streams(manifest)
    if found is None:
        return "it does not store both what goes in and what comes out"
    return _unlike_preset(manifest.memories, found, manifest.array, manifest.layer)


def stands_as_preset(manifest: Manifest) -> bool:
    """Whether the set has a bench, and its streams are those of the preset for its kind of layer."""
    return unlike_preset(manifest) is None


def layout_called(layout: LayoutInfo) -> str:
    """A set's layout in a message; a copy may have kept the name of its preset."""
    if layout.name in preset_names() and load_layout(layout.name).sha256 != layout.sha256:
        return f"a layout that is named '{layout.name}' but is not that preset"
    return f"layout '{layout.name}'"


def interface(folder: Path, manifest: Manifest) -> tuple[Stream, ...]:
    """As `streams`; raises QexportError for a set that has no bench."""
    found = streams(manifest)
    if found is None:
        raise QexportError(
            f"set: {folder} has {layout_called(manifest.layout)}, which comes without a self-checking bench, because "
            "it does not store both what goes in and what comes out; "
            f"dump it with the preset: --layout {default_layout(manifest.layer.kind)}"
        )
    return found


def preset_interface(folder: Path, manifest: Manifest) -> tuple[Stream, ...]:
    """As `interface`, of what the reference RTL has ports for; raises QexportError for a set of other streams."""
    if why := unlike_preset(manifest):
        preset = default_layout(manifest.layer.kind)
        raise QexportError(
            f"set: {folder} has {layout_called(manifest.layout)}; this needs memories that stand as in the preset "
            f"{preset}: {why}; dump it with --layout {preset}"
        )
    return tuple(stream for stream in interface(folder, manifest) if stream.needed)
