"""The contract's JSON, typed: what manifest.json says of a set, written and read in one place."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from qexport import __version__
from qexport.core.capture import CaptureFile, Departs, Source, Ties
from qexport.core.codes import CodeFormat, operand_formats
from qexport.core.geometry import AnyLayer, Layer, Positive
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import RESULTS
from qexport.core.private import without_private
from qexport.core.reference import MEAN_BAR, ReferenceCheck
from qexport.core.steps import Add, AnyStep, Clamp, Multiply, Relu, ShiftRight, Step, step_names
from qexport.core.strength import StrengthInfo
from qexport.errors import CheckFailed, QexportError
from qexport.layout.formats.base import FileFault, Format, Style, WordSpec
from qexport.layout.formats.registry import FORMATS, STYLE_KEYS, format_of, style_faults, style_of
from qexport.layout.memory import Memory, sharing
from qexport.layout.order import OrderFault, parse_order
from qexport.layout.paths import MANIFEST, SUMS, is_inside
from qexport.layout.tiling import Tiling
from qexport.sets.folder import CRLF, file_sha256, has_other_line_ends, sha256

SCHEMA = "qexport.vectors/2"
READ_SCHEMAS = ("qexport.vectors/1", SCHEMA)  # a major schema is read for ever: tests/frozen
T = TypeVar("T")
_CONTENTS = 64  # whose facts a process keeps
_parsed = lru_cache(maxsize=256)(parse_order)  # a manifest's memories are asked for their orders again and again


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all entries: no unknown keys, no missing ones."""


class Tool(Entry, frozen=True, kw_only=True):
    name: str = "qexport"
    version: str = __version__


class AccumulatorFormat(Entry, frozen=True, kw_only=True):
    bits: int
    signed: bool
    scale: float | tuple[float, ...]
    observed: tuple[int, int]
    bounds: tuple[int, int]


class OutputFormat(CodeFormat, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The codes behind the steps. Schema 1 had no steps: its code = min(2^bits - 1, (relu * mul + 2^(shift - 1)) >>
    shift); its `ties` lie on the edge between two codes."""

    mul: Annotated[int, Meta(ge=0, lt=1 << 62)] | None = None
    shift: Annotated[int, Meta(ge=1, le=62)] | None = None
    ties: tuple[int, ...] | None = None

    @property
    def steps(self) -> tuple[Step, ...] | None:
        """What schema 1 said, as steps."""
        if self.mul is None or self.shift is None:
            return None
        half = Add(value=1 << (self.shift - 1))
        shift = ShiftRight(by=self.shift, round="floor")
        return Relu(), Multiply(by=self.mul), half, shift, Clamp(low=0, high=self.integer.high)


class ManifestFormats(Entry, frozen=True, kw_only=True, omit_defaults=True):
    weight: CodeFormat = None  # type: ignore[assignment]  # as in Formats
    input: CodeFormat
    input2: CodeFormat | None = None
    accumulator: AccumulatorFormat
    output: OutputFormat | None = None

    @property
    def operands(self) -> dict[str, CodeFormat]:
        """Those of the codes that go in, by the operand's name."""
        return operand_formats(self)


class LayoutInfo(Entry, frozen=True, kw_only=True):
    name: str
    sha256: str


class CodesInfo(Entry, frozen=True, kw_only=True):
    """The framework's own codes: how many were compared, and how many differ, by 1 and at ties alone."""

    compared: int
    ties: int


class GoldenInfo(Entry, frozen=True, kw_only=True, omit_defaults=True):
    exact: bool
    mean_abs: float | None
    max_abs: float | None
    tolerance: float
    reference: str | None
    codes: CodesInfo | None = None


class NamedFile(Entry, frozen=True, kw_only=True):
    path: str
    sha256: str


class MemoryFile(Entry, frozen=True, kw_only=True, omit_defaults=True):
    """A file of a memory; the memory's words begin at `first_word` where they follow others."""

    path: str
    index: dict[str, int]
    words: int
    sha256: str
    first_word: int = 0


class MemoryEntry(Entry, frozen=True, kw_only=True, omit_defaults=True):
    """One memory; those keys of a layout that have a default here stand in it where they are not at it."""

    name: str
    tensor: str
    shape: tuple[int, ...]
    order: str
    radix: str
    bits: int
    signed: bool
    offset: Annotated[int, Meta(ge=-(1 << 48), le=1 << 48)]
    overflow: Literal["error", "wrap", "saturate"]
    word_bits: int
    header: tuple[str, ...]
    fill: int
    files: tuple[MemoryFile, ...]
    first: int | dict[str, int] = 0
    follows: str = ""
    skew: str = ""
    skew_by: Positive = 1
    between: str | None = None
    per_line: int = 1
    word_between: str = " "
    word_end: str = ""
    case: str = "lower"
    pad: int = 0
    newline: str = "lf"
    group: int = 0
    type: str = ""
    style: str = "hex"
    array: str = ""

    @property
    def style_keys(self) -> Style:
        """How the words are set."""
        return Style(**{key: getattr(self, key) for key in STYLE_KEYS})

    @property
    def format(self) -> Format:
        return format_of(self.radix, self.style_keys)

    @property
    def element(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)

    def bits_of_element(self, schema: str) -> int | None:
        """The tensor's own bits, where a memory of single bits has another default: schema 1 took 16 for all sums."""
        single = schema == READ_SCHEMAS[0] and len(self.shape) > 1 and self.memory().order.has_bits
        return self.shape[-1] if single else None

    def memory(self, channel: str = "oc") -> Memory:
        """The entry as a layout's memory; raises QexportError when its order or radix is not one.

        `channel`: the axis of a step's numbers, which the order of a memory need not name.
        """
        if self.radix not in FORMATS:
            raise QexportError(f"manifest: memory '{self.name}': radix '{self.radix}' is not known")
        default = vars(Style())
        styles = {key: value for key, value in vars(self.style_keys).items() if value != default[key]}
        for _, message in style_faults(self.radix, styles):
            raise QexportError(f"manifest: memory '{self.name}': {message}")
        try:
            order = _parsed(self.order, self.tensor)
            if order.tensor_axes[0] == "oc" != channel:
                order = _parsed(self.order, self.tensor, (channel, *order.tensor_axes[1:]))
            order = order.skewed(self.skew, self.skew_by) if self.skew else order
        except OrderFault as error:
            raise QexportError(f"manifest: memory '{self.name}': order '{self.order}': {error}") from None
        return Memory(
            self.name,
            self.tensor,
            order,
            "",
            self.radix,
            self.bits,
            self.signed,
            self.offset,
            self.overflow,
            self.header,
            first=self.first,
            follows=self.follows,
            style=style_of(self.radix, styles),
        )

    def tiling(self, array: dict[str, int], channel: str = "oc") -> Tiling:
        """The order with its sizes; raises QexportError when order, shape and sizes contradict each other."""
        order = self.memory(channel).order
        if len(self.shape) != len(order.tensor_axes):
            raise QexportError(
                f"manifest: memory '{self.name}': shape {list(self.shape)} does not have the axes "
                f"{' '.join(order.tensor_axes)}"
            )
        tiling = Tiling(order, self.shape, array)
        given = (len(self.files), max((file.words for file in self.files), default=0), self.word_bits)
        if given != (sizes := (tiling.files, tiling.words, tiling.lanes * self.bits)):
            raise QexportError(
                f"manifest: memory '{self.name}': files, words and bits of a word are {given}, but {sizes} by its order"
            )
        return tiling


class Manifest(Entry, frozen=True, kw_only=True, omit_defaults=True):
    schema: str
    tool: Tool
    source: Source
    layer: Layer
    formats: ManifestFormats
    layout: LayoutInfo
    array: dict[str, Positive]
    golden: GoldenInfo
    strength: StrengthInfo
    memories: tuple[MemoryEntry, ...]
    capture: NamedFile
    bench: tuple[NamedFile, ...]
    warnings: tuple[str, ...] = ()
    steps: tuple[AnyStep, ...] | None = None
    ties: Ties = ()
    departs: Departs | None = None

    def to_bytes(self) -> bytes:
        return json_bytes(self)

    @property
    def results(self) -> frozenset[str]:
        """The tensors that come out of a design."""
        return frozenset((*RESULTS, *step_names(self.chain or ())))

    @property
    def chain(self) -> tuple[Step, ...] | None:
        """The steps behind the accumulator, of whatever schema; None where there is no output."""
        if self.steps is not None or self.formats.output is None:
            return self.steps
        return self.formats.output.steps

    @property
    def bench_note(self) -> str | None:
        """Why the bench files cannot be held against a fresh rendering; None where this version wrote the set."""
        if self.tool.version == __version__:
            return None
        return f"bench files not compared with a fresh rendering: the set is of qexport {self.tool.version}"

    def named_files(self) -> dict[str, str]:
        """Path -> SHA-256 of every file of the set but manifest.json and SHA256SUMS."""
        named = {file.path: file.sha256 for memory in self.memories for file in memory.files}
        return named | {file.path: file.sha256 for file in (self.capture, *self.bench)}

    def memory_of(self, path: str) -> tuple[MemoryEntry, int] | None:
        """The memory that has the file, and the file's number in it; None when no memory has it."""
        found = ((m, number) for m in self.memories for number, file in enumerate(m.files) if file.path == path)
        return next(found, None)

    def spec(self, entry: MemoryEntry, number: int = 0, tiling: Tiling | None = None) -> WordSpec:
        """What the words of a file of a memory are, and those of other memories before them.

        Raises QexportError for a memory that follows none of those before it.
        """
        group = sharing(self.memories)[entry.name]
        own = entry.memory().spec(tiling or entry.tiling(self.array), entry.element, entry.files[number].index)
        if len(group) == 1:
            return own
        before = group[: group.index(entry)]
        return replace(
            own,
            first=sum(other.files[number].words for other in before),
            total=sum(other.files[number].words for other in group),
            shared=True,
            before=tuple((self.spec(other, number), other.files[number].words) for other in before),
        )

    @property
    def file_count(self) -> int:
        """Files of the set, manifest.json and SHA256SUMS among them."""
        return len(self.named_files()) + 2


def json_bytes(document: Any) -> bytes:
    """Sorted keys, two-space indent, final newline."""
    return (json.dumps(msgspec.to_builtins(document), sort_keys=True, indent=2) + "\n").encode()


def is_written_as(data: bytes, manifest: Manifest) -> bool:
    """Whether the bytes of a manifest are as the contract says, keys that begin with x- aside."""
    document = json.loads(data)
    return json_bytes(document) == data and json_bytes(without_private(document)) == manifest.to_bytes()


def manifest_formats(facts: Convolution, observed: tuple[int, int]) -> ManifestFormats:
    """The formats' entry of the manifest; `observed`: the least and greatest accumulator that was seen."""
    formats = facts.formats
    low, high = facts.bounds
    scales, output = formats.accumulator_scales, formats.output
    return ManifestFormats(
        **formats.operands,
        accumulator=AccumulatorFormat(
            bits=IntFormat.holding(low, high, True).bits,
            signed=True,
            scale=scales if isinstance(getattr(formats.weight, "scale", None), tuple) else scales[0],
            observed=observed,
            bounds=(low, high),
        ),
        output=None if output is None else OutputFormat(**msgspec.structs.asdict(output)),
    )


def golden_info(check: ReferenceCheck) -> GoldenInfo:
    """The golden's entry of the manifest."""
    return GoldenInfo(
        exact=True,
        mean_abs=check.mean_abs,
        max_abs=check.max_abs,
        tolerance=check.tolerance,
        reference=None if check.mean_abs is None else "pytorch",
        codes=None if check.codes is None else CodesInfo(compared=check.codes.compared, ties=check.codes.ties),
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a set.

    Raises CheckFailed when SHA256SUMS says that it was changed, QexportError when there is none or it is not ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise QexportError(f"set: {folder} has no {MANIFEST}; give the folder that `qexport dump` wrote")
    data = path.read_bytes()
    sums = folder / SUMS
    if sums.is_file():
        recorded = [line for line in sums.read_bytes().splitlines() if line.endswith(f"  {MANIFEST}".encode())]
        if recorded and recorded != [f"{sha256(data)}  {MANIFEST}".encode()]:
            if has_other_line_ends(path, recorded[0][:64].decode(errors="replace")):
                raise CheckFailed(f"{path}: {CRLF}")
            raise CheckFailed(f"{path}: SHA-256 differs from {SUMS}; the set was changed, dump it again")
    try:
        document: Any = json.loads(data)
        tool, schema = document["tool"]["name"], document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise QexportError(
            f"set: {path} is not a qexport manifest; give the folder that `qexport dump` wrote"
        ) from None
    if tool != "qexport" or schema not in READ_SCHEMAS:
        raise QexportError(
            f"set: {path} is of tool '{tool}', schema '{schema}'; this qexport reads {', '.join(READ_SCHEMAS)}"
        )
    try:
        manifest = msgspec.convert(without_private(document), Manifest)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # a name with half a character has no bytes
        raise QexportError(f"set: {path}: {error}") from None
    if outside := [name for name in manifest.named_files() if not is_inside(name)]:
        raise QexportError(f"set: {path} names the file {outside[0]!r}, which is none in the set; dump the set again")
    return manifest


def read_words(folder: Path, manifest: Manifest, entry: MemoryEntry, tiling: Tiling, number: int = 0) -> Int64:
    """(words, lanes) of one file of a memory; raises CheckFailed when it is missing, was changed or is no such file."""
    file = entry.files[number]
    path = folder / file.path
    if not path.is_file() or file_sha256(path) != file.sha256:
        raise CheckFailed(f"{path} is missing, or its SHA-256 differs from the manifest; dump the set again")
    try:
        return entry.format.words_of(path.read_bytes(), manifest.spec(entry, number, tiling), file.words)
    except FileFault as fault:
        raise CheckFailed(f"{path}:{fault.line}: {fault}; dump the set again") from None


def capture_of(folder: Path, manifest: Manifest) -> CaptureFile:
    """The capture in a set; raises CheckFailed when it is missing or was changed."""
    return CaptureFile(_sound_capture(folder, manifest))


def _sound_capture(folder: Path, manifest: Manifest) -> Path:
    file = folder / manifest.capture.path
    if not file.is_file() or file_sha256(file) != manifest.capture.sha256:
        raise CheckFailed(f"{file} is missing, or its SHA-256 differs from the manifest; dump the set again")
    return file


def once_for_content(facts: Callable[[Path, Manifest], T]) -> Callable[[Path, Manifest], T]:
    """What `facts` says of a set, worked out once in a process for all sets of this manifest, which names the capture.

    It may look at nothing else. Raises CheckFailed when the capture is missing or was changed, each time.
    """
    known: dict[str, T] = {}

    @wraps(facts)
    def found(folder: Path, manifest: Manifest) -> T:
        _sound_capture(folder, manifest)
        content = sha256(msgspec.json.encode(manifest))
        if content not in known:
            if len(known) >= _CONTENTS:
                known.clear()
            known[content] = facts(folder, manifest)
        return known[content]

    return found


def golden_text(manifest: Manifest) -> str:
    """What the golden was checked against, and how far it lies off."""
    golden = manifest.golden
    codes = ""
    if golden.codes is not None:
        codes = f"; {golden.codes.compared} codes are the framework's own"
        codes += f", {golden.codes.ties} of them off by 1 at a tie" if golden.codes.ties else ""
    if golden.mean_abs is None or golden.max_abs is None:
        unknown = "" if codes else "; the capture holds no PyTorch output to compare with"
        return f"exact integers{unknown}{codes}"
    below = f"below {golden.tolerance:.2g}" if golden.max_abs < golden.tolerance else "within float32's own rounding"
    mean = f", below {MEAN_BAR:g}" if golden.mean_abs < MEAN_BAR else ""
    return (
        f"exact; against PyTorch's output: mean difference {golden.mean_abs:.1e}{mean}; "
        f"maximum {golden.max_abs:.1e}, {below}{codes}"
    )


def steps_text(manifest: Manifest) -> str:
    """The steps behind the accumulator, what ties there are, and how far a hardware departs, in a few words."""
    text = ", ".join(step.op for step in manifest.chain or ()) or "none"
    if manifest.ties:
        text += f"; {len(manifest.ties)} ties"
    if (departs := manifest.departs) is not None:
        text += f"; departs from the network: {departs.accumulators} accumulators, {departs.codes} codes of the images"
    return text


def layer_text(layer: AnyLayer) -> str:
    """The layer in a few words."""
    return f"{layer.name} ({f'{layer.kind} {layer.text}'.rstrip()})"
