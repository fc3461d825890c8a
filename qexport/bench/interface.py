"""The streams of the design under test: which memories go in and come out, as which ports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qexport.core.operations.registry import OPERANDS, RESULTS
from qexport.core.steps import Step, step_names
from qexport.errors import QexportError
from qexport.layout.memory import Layout, Memory, Sharing, sharing
from qexport.layout.toml import default_layout, load_layout, preset_names
from qexport.sets.manifest import READ_SCHEMAS, LayoutInfo, Manifest, MemoryEntry

DRIVEN = tuple(dict.fromkeys(OPERANDS.values()))  # memories of the layout default whose words go into the design
COMPARED = RESULTS  # and those whose words come out of it, named like their tensors; a layout may lack some
CHECKS = "checks.txt"  # number of words and CRC-32 of each file that Verilog can load


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
    """One AXI4-Stream of the interface of the design under test; `driven`: its words go into the design."""

    memory: str
    width: int
    words: int
    lanes: int
    driven: bool

    @classmethod
    def of(cls, entry: MemoryEntry) -> "Stream":
        words = sum(file.words for file in entry.files)
        return cls(entry.name, entry.word_bits, words, entry.word_bits // entry.bits, entry.name in DRIVEN)

    @property
    def ports(self) -> dict[str, Port]:
        """The stream's ports by name."""
        prefix, there, back = ("s", "input", "output") if self.driven else ("m", "output", "input")
        return {
            f"{prefix}_{self.memory}_tvalid": Port(there, 1),
            f"{prefix}_{self.memory}_tready": Port(back, 1),
            f"{prefix}_{self.memory}_tdata": Port(there, self.width),
            f"{prefix}_{self.memory}_tlast": Port(there, 1),
        }


def has_bench(layout: Layout, kind: str = "conv2d") -> bool:
    """Whether the self-checking bench serves this layout: its words are those of the preset for the kind of layer.

    It has all memories that go into the design, and at least one of those that come out.
    """
    ours = {memory.name: _shape(memory) for memory in layout.memories}
    preset = load_layout(default_layout(kind))
    theirs = {memory.name: _shape(memory) for memory in preset.memories}
    return (
        set(preset.array) <= set(layout.array)
        and all(ours.get(name) == theirs[name] for name in DRIVEN if name in theirs)
        and all(ours[name] == theirs[name] for name in COMPARED if name in ours)
        and any(name in ours for name in COMPARED)
        and not _shared(layout.memories)
    )


def _shared(memories: Sequence[Sharing]) -> bool:
    """Whether a memory that the bench would load stands in a file with others."""
    return any(len(group) > 1 and name in (*DRIVEN, *COMPARED) for name, group in sharing(memories).items())


def serves(manifest: Manifest) -> bool:
    """Whether the memories of a set are such as the self-checking bench serves."""
    preset = load_layout(default_layout(manifest.layer.kind))
    theirs = {memory.name: _shape(memory) for memory in preset.memories}
    ours = {entry.name: replace(_shape(entry.memory()), signed=None) for entry in manifest.memories}
    return (
        set(preset.array) <= set(manifest.array)
        and _needed(manifest) <= ours.keys()
        and all(ours[name] == theirs.get(name) for name in (*DRIVEN, *COMPARED) if name in ours)
        and bool(results_of_set(manifest))
        and not _shared(manifest.memories)
    )


def _needed(manifest: Manifest) -> set[str]:
    """The memories of operands without which there is no bench."""
    return {name for name in manifest.layer.holds if manifest.layer.needs(name)}


def _shape(memory: Memory) -> Memory:
    """What the bench relies on: everything but the width of an element, the file's name and whether it may lack."""
    return replace(memory, bits=None, file="", optional=False)


def results_of(
    entries: Iterable[MemoryEntry], steps: Sequence[Step] | None, kind: str, relu: bool
) -> list[MemoryEntry]:
    """The memories whose words come out of the design: those of COMPARED, and of the steps' values those that stand as
    `output` does in the preset for the kind of layer. `relu`: whether the layer has a ReLU; else none is compared."""
    names = step_names(steps or ())
    preset = load_layout(default_layout(kind))
    output = next(_shape(memory) for memory in preset.memories if memory.name == "output")

    def stands(entry: MemoryEntry) -> bool:
        same = replace(output, name=entry.name, tensor=entry.tensor)
        return entry.tensor in names and replace(_shape(entry.memory()), signed=None) == same

    out = [name for name in COMPARED if relu or name != "relu"]
    return [entry for entry in entries if entry.name in out or stands(entry)]


def results_of_set(manifest: Manifest) -> list[MemoryEntry]:
    """Those of a set; the benches of schema 1 compared `relu` whether the layer had one or not."""
    relu = manifest.layer.relu or manifest.schema == READ_SCHEMAS[0]
    return results_of(manifest.memories, manifest.chain, manifest.layer.kind, relu)


def streams(manifest: Manifest) -> tuple[Stream, ...] | None:
    """The interface of the design under test, as the set's bench drives it; None where the set has a stub only."""
    entries = {entry.name: entry for entry in manifest.memories}
    benched = any(file.path == f"tb_{manifest.layer.slug}.sv" for file in manifest.bench)
    if not benched or not _needed(manifest) <= entries.keys():
        return None
    found = [entries[name] for name in DRIVEN if name in entries]
    return tuple(map(Stream.of, [*found, *results_of_set(manifest)]))


def layout_called(layout: LayoutInfo) -> str:
    """A set's layout in a message; a copy may have kept the name of its preset."""
    if layout.name in preset_names() and load_layout(layout.name).sha256 != layout.sha256:
        return f"a layout that is named '{layout.name}' but is not that preset"
    return f"layout '{layout.name}'"


def interface(folder: Path, manifest: Manifest) -> tuple[Stream, ...]:
    """As `streams`; raises QexportError for a set that has a stub only."""
    found = streams(manifest)
    if found is None:
        raise QexportError(
            f"set: {folder} has {layout_called(manifest.layout)}, which comes without a self-checking bench; "
            f"dump it with the preset: --layout {default_layout(manifest.layer.kind)}"
        )
    return found
