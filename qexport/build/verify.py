"""Disk -> decode -> compare: whether a set still says what was proven, and what one word of it holds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qexport.core.capture import Capture, CaptureFile
from qexport.core.golden import Golden, parts
from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import operation
from qexport.core.printed import Printed
from qexport.core.reference import Scan
from qexport.core.strength import counting
from qexport.errors import CheckFailed, QexportError
from qexport.layout.formats.base import FileFault, WordSpec
from qexport.layout.memory_files import MemoryFiles, check_budget, link, most_stored, streamed_tensors, warnings
from qexport.layout.order import TILE_AXIS
from qexport.layout.pack import word_bits
from qexport.layout.paths import MANIFEST, SUMS
from qexport.layout.tiling import describe_index
from qexport.sets.folder import CRLF, file_sha256, has_other_line_ends, set_entries, sha256, sums_text
from qexport.sets.index import INDEX, Index
from qexport.sets.manifest import (
    READ_SCHEMAS,
    Manifest,
    MemoryEntry,
    OutputFormat,
    golden_info,
    golden_text,
    is_written_as,
    manifest_formats,
    read_manifest,
)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a set; the place is given as far as it is known (line from 1)."""

    file: str
    message: str
    line: int | None = None
    lane: int | None = None
    index: dict[str, int] | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        lane = "" if self.lane is None else f" lane {self.lane} ({describe_index(self.index)})"
        return f"{where}{lane}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


SHOWN_FAULTS = 10


@dataclass(frozen=True)
class Report(Printed):
    """What `verify` found of one set: its manifest (None when it was changed), and the faults; none where all holds."""

    folder: Path
    manifest: Manifest | None
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        if self.manifest is not None and self.ok:
            bench = f"; {self.manifest.bench_note}" if self.manifest.bench_note else ""
            return f"{self.folder}: ok, {self.manifest.file_count} files; {golden_text(self.manifest)}{bench}"
        more = [f"  ... and {len(self.faults) - SHOWN_FAULTS} more"] if len(self.faults) > SHOWN_FAULTS else []
        shown = [f"  {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        return "\n".join([f"{self.folder}: {len(self.faults)} fault(s)", *shown, *more])

    def as_json(self) -> dict[str, Any]:
        """For machines: what the command prints with --json."""
        note = self.manifest.bench_note if self.manifest is not None else None
        found = {"set": str(self.folder), "faults": [fault.as_json() for fault in self.faults]}
        return found | ({"bench": note} if note else {})


def verify(folder: Path) -> Report:
    """Check every promise of the contract for one set.

    Of a set of another version the bench files are held against their SHA-256 only, not against a fresh rendering.
    Raises QexportError when the folder holds no set of ours.
    """
    try:
        manifest = read_manifest(folder)
    except CheckFailed as error:
        return Report(folder, None, (Fault(MANIFEST, str(error).removeprefix(f"{folder / MANIFEST}: ")),))
    faults = list(_faults(folder, manifest))
    if not faults and manifest.bench_note is None:
        from qexport.bench.sv import compare_bench  # here, because templates take long to load

        faults += [Fault(path, why) for path, why in compare_bench(folder, manifest).items()]
    return Report(folder, manifest, tuple(faults))


def verify_index(folder: Path) -> list[Fault]:
    """Whether every set that the index of a folder names is there, as it was dumped; no index, no fault."""
    index = Index.read(folder)
    faults = []
    for entry in index.sets if index else ():
        manifest = folder / entry.path / MANIFEST
        if not manifest.is_file():
            faults.append(Fault(INDEX, f"{entry.path} is missing; dump with --all again"))
        elif file_sha256(manifest) != entry.manifest_sha256:
            faults.append(Fault(INDEX, f"{entry.path} is another set than that of the index; dump with --all again"))
    return faults


def _faults(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    named = manifest.named_files()
    present = {name: path for name, path in set_entries(folder).items() if name not in named or path.is_file()}
    for path in sorted(set(named) - set(present)):
        yield Fault(path, "is missing")
    for path in sorted(set(present) - set(named) - {MANIFEST, SUMS}):
        yield Fault(path, "is not named by the manifest")
    for path in sorted(path for path in present if present[path].is_symlink()):
        yield Fault(path, "is a link, whose file may change without the set; put the file itself there")
    changed = {path for path in named if path in present and file_sha256(present[path]) != named[path]}
    yield from _sums_faults(folder, manifest)
    if not is_written_as((folder / MANIFEST).read_bytes(), manifest):
        yield Fault(MANIFEST, "lacks keys or is not written as the contract says (sorted keys, two-space indent)")

    capture = None
    if manifest.capture.path in present and manifest.capture.path not in changed:
        try:
            capture = CaptureFile(folder / manifest.capture.path)
        except QexportError as error:
            yield Fault(manifest.capture.path, str(error))
    explained = set()
    if capture is not None:
        for name, own, said in (("layer", capture.layer, manifest.layer), ("source", capture.source, manifest.source)):
            if own != said:
                yield Fault(manifest.capture.path, f"{name} differs from {MANIFEST}")
        for fault in _memory_faults(folder, manifest, capture, changed):
            if fault.file in present:
                explained.add(fault.file)
                yield fault
    for path in sorted(changed - explained):
        ends = has_other_line_ends(present[path], named[path])
        yield Fault(path, CRLF if ends else f"SHA-256 differs from {MANIFEST}")


def _sums_faults(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    path = folder / SUMS
    if not path.is_file():
        yield Fault(SUMS, "is missing")
        return
    files = manifest.named_files() | {MANIFEST: sha256((folder / MANIFEST).read_bytes())}
    expected, actual = sums_text(files).encode(), path.read_bytes()
    if expected != actual:
        yield Fault(
            SUMS, f"differs from the SHA-256 of {MANIFEST} and of the files that it names", _line_of(expected, actual)
        )


def _line_of(expected: bytes, actual: bytes) -> int:
    """The line, from 1, of the first byte in which two texts differ."""
    return expected.count(b"\n", 0, _first_difference(expected, actual)) + 1


def _first_difference(expected: bytes, actual: bytes) -> int:
    shorter = min(len(expected), len(actual))
    a, b = np.frombuffer(expected, np.uint8, shorter), np.frombuffer(actual, np.uint8, shorter)
    differs = a != b
    return int(np.argmax(differs)) if differs.any() else shorter


def _memory_faults(folder: Path, manifest: Manifest, capture: Capture, changed: set[str]) -> Iterator[Fault]:
    """Decode every memory and compare it with the golden, part by part of the images.

    The memories of weights and inputs are compared with the capture, so that the golden is that of what they hold.
    """
    facts = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain)
    streams: list[tuple[MemoryEntry, MemoryFiles]] = []
    for entry in manifest.memories:
        try:
            streams.append((entry, _stream(entry, manifest, facts, capture.images)))
        except QexportError as error:
            yield Fault(MANIFEST, f"memory '{entry.name}': {error}")
    try:
        link([stream for _, stream in streams])
    except QexportError as error:
        yield Fault(MANIFEST, str(error))
        return
    for entry, stream in streams:
        for file in entry.files:
            if file.first_word != stream.first_word:
                yield Fault(MANIFEST, f"{file.path} has first_word {file.first_word}; needs {stream.first_word}")
    check_budget(facts, [stream for _, stream in streams], capture.images)
    readers = [_MemoryReader(folder, entry, stream, changed) for entry, stream in streams]
    scan, strength = Scan(facts), counting(facts)
    shown = [stream for _, stream in streams]
    for start, stop in parts(streamed_tensors(shown), facts, capture.images, most_stored(shown)):
        try:
            part = Golden(capture.part(start, stop), facts=facts)
        except QexportError as error:
            yield Fault(manifest.capture.path, str(error))
            return
        scan.add(part)
        strength.add(part)
        for reader in readers:
            if reader.stream.streamed:
                yield from reader.faults(part, start)
    whole = Golden(capture, facts=facts)
    for reader in readers:
        if not reader.stream.streamed:
            yield from reader.faults(whole, 0)
        yield from reader.faults_of_changed()
    try:
        figures = golden_info(scan.check())
    except QexportError as error:
        yield Fault(manifest.capture.path, str(error))
        return
    if figures != manifest.golden:
        yield Fault(MANIFEST, "golden differs from what the capture gives")
    formats = manifest_formats(facts, scan.observed)
    if manifest.schema == READ_SCHEMAS[0] and manifest.formats.output is not None:
        said = manifest.formats.output
        formats = msgspec.structs.replace(formats, output=_schema_1_output(facts, said))
    for name in formats.__struct_fields__:
        if getattr(formats, name) != getattr(manifest.formats, name):
            yield Fault(MANIFEST, f"formats.{name} differs from what the capture gives")
    if manifest.schema != READ_SCHEMAS[0]:
        own = operation(capture, None)
        given = None if own.chain is None else own.chain.steps
        for what, fresh, said_of in (
            ("steps", given, manifest.steps),
            ("ties", own.ties, manifest.ties),
            ("departs", capture.departs, manifest.departs),
        ):
            if fresh != said_of:
                yield Fault(MANIFEST, f"{what} differ from what the capture gives")
    if strength.info != manifest.strength:
        yield Fault(MANIFEST, "strength differs from what the capture gives")
    if len(streams) == len(manifest.memories) and warnings(facts, shown) != manifest.warnings:
        yield Fault(MANIFEST, "warnings differ from what layer and layout give")


def _schema_1_output(facts: Convolution, said: OutputFormat) -> OutputFormat:
    """The entry as the capture gives it: the integers that it says, where they round as the network does.

    Both only rise, so that they are equal for every accumulator when they are equal at both sides of each edge.
    """
    network, output = facts.network, facts.formats.output
    if network is None or output is None or facts.integers is None:
        return msgspec.structs.replace(said, bits=32)
    edges = np.concatenate([network.edges, network.edges - 1], axis=1)
    edges = np.clip(edges, network.least[:, np.newaxis], network.greatest[:, np.newaxis])
    if (facts.integers.apply(np.maximum(edges, 0)) != network.codes(edges, 0)).any():
        return msgspec.structs.replace(said, mul=None)
    ties = tuple(sorted({accumulator for _, accumulator in network.ties()}))
    return OutputFormat(**msgspec.structs.asdict(output), mul=said.mul, shift=said.shift, ties=ties)


def _stream(entry: MemoryEntry, manifest: Manifest, facts: Convolution, images: int) -> MemoryFiles:
    """The entry's memory; raises QexportError when it is not what the layer and the manifest give."""
    stream = MemoryFiles.of(entry.memory(), facts, images, manifest.array, entry.bits_of_element(manifest.schema))
    tiling = stream.tiling
    if entry.shape != stream.shape:
        raise QexportError(f"shape {list(entry.shape)} is not {list(stream.shape)}")
    if (len(entry.files), entry.fill) != (tiling.files, tiling.fill):
        raise QexportError(f"needs {tiling.files} file(s) with {tiling.fill} filled elements")
    if entry.word_bits != word_bits(tiling.lanes, entry.element):
        raise QexportError(f"word_bits {entry.word_bits} is not {tiling.lanes} x {entry.bits}")
    for file, index in zip(entry.files, tiling.file_indices(), strict=True):
        if file.index != index:
            raise QexportError(f"{file.path} has index {file.index}; needs {index}")
        if file.words != tiling.words:
            raise QexportError(f"{file.path} has {file.words} words; needs {tiling.words}")
    return stream


class _MemoryReader:
    """The files of one memory, read in step with the golden; those that were changed are read whole at the end."""

    def __init__(self, folder: Path, entry: MemoryEntry, stream: MemoryFiles, changed: set[str]):
        self.stream = stream
        self._entry = entry
        self._files = [
            _FileReader(folder / file.path, stream, spec)
            for file, (_, _, spec) in zip(entry.files, stream.specs, strict=True)
        ]
        self._changed: dict[int, list[Int64]] = {
            number: [] for number, file in enumerate(entry.files) if file.path in changed
        }

    def faults(self, golden: Golden, first_image: int) -> Iterator[Fault]:
        """Compare with what some images, or for a tensor without images the layer, give."""
        stream = self.stream
        try:
            first_file, want = stream.stored(golden.values(stream.memory.tensor), first_image)
        except QexportError as error:
            yield Fault(MANIFEST, str(error))
            return
        tiling = stream.part(golden.capture.images, first_image)
        for at, block in enumerate(want):
            number = first_file + at
            if number in self._changed:
                self._changed[number].append(block)
                continue
            for line, word, lane, message in self._files[number].differences(block):
                index = None if word is None else tiling.origin(at, word, lane or 0)
                yield Fault(self._entry.files[number].path, message, line, lane, index)

    def faults_of_changed(self) -> Iterator[Fault]:
        for number, blocks in self._changed.items():
            if blocks and self._files[number].path.is_file():
                yield from self._faults_of_whole(number, np.concatenate(blocks))

    def _faults_of_whole(self, number: int, want: Int64) -> Iterator[Fault]:
        """What is wrong with a file whose words may stand anywhere in it."""
        tiling, file = self.stream.tiling, self._files[number]
        path, format_, spec = self._entry.files[number].path, file.format, file.spec

        def fault(message: str, line: int, word: int | None, lane: int | None) -> Fault:
            if word is None or lane is None or word >= tiling.words:
                return Fault(path, message, line)
            return Fault(path, message, line, lane, tiling.origin(number, word, lane))

        data = file.path.read_bytes()
        try:
            got = format_.words_of(data, spec, tiling.words)
        except FileFault as error:
            text = data.split(b"\n")[error.line - 1] if format_.lane_at else b""
            lane = format_.lane_at(text, error.column, spec) if format_.lane_at else error.lane
            yield fault(str(error), error.line, error.word, lane)
            return
        if len(got) != tiling.words:
            shorter = min(len(got), tiling.words)
            differs = np.flatnonzero((got[:shorter] != want[:shorter]).any(axis=1))
            word = int(differs[0]) if len(differs) else shorter
            line = _line_of_word(word, format_.lines_of(data, spec, len(got) + 1), data)
            yield fault(f"{len(got)} words; needs {tiling.words}", line, None, None)
            return
        lines = format_.lines_of(data, spec, len(got))
        for word, lane in zip(*np.nonzero(got != want), strict=True):
            yield fault(_difference(got, want, word, lane), int(lines[word]), int(word), int(lane))


class _FileReader:
    """One memory file as it was dumped: each call of `differences` reads the words that follow."""

    def __init__(self, path: Path, stream: MemoryFiles, spec: WordSpec):
        self.path, self.format, self.spec = path, stream.format, spec
        self._needed = stream.tiling.words
        self._offset: int | None = None
        self._words = 0
        self._lines = 0  # before the next word and its header; of a file without lines words
        self._broken = not path.is_file()

    def differences(self, want: Int64) -> Iterator[tuple[int, int | None, int | None, str]]:
        """Line, word within `want`, lane and message of each difference."""
        if self._broken:
            return
        spec = self.spec.from_word(self._words)
        with self.path.open("rb") as file:
            if self._offset is None:
                self._lines = self.format.skip(file, spec)
            else:
                file.seek(self._offset)
            data = self.format.take(file, len(want), spec)
            self._offset = file.tell()
            more = spec.first + len(want) == spec.total and file.read(1)
        before = self._lines
        self._lines += data.count(b"\n") if self.format.word_lines else len(want)
        self._words += len(want)
        try:
            got = self.format.read(data, spec)
        except FileFault as fault:
            self._broken = True
            yield before + fault.line, None, None, str(fault)
            return
        if len(got) != len(want) or more:
            self._broken = True
            lines = self.format.lines(data, spec, len(got) + 1)
            line = before + _line_of_word(min(len(got), len(want)), lines, data)
            yield line, None, None, f"other words than the {self._needed} that it needs"
            return
        places = np.argwhere(got != want)
        lines = self.format.lines(data, spec, len(got)) if len(places) else np.empty(0, np.int64)
        for word, lane in places.tolist():
            yield before + int(lines[word]), word, lane, _difference(got, want, word, lane)


def _line_of_word(word: int, lines: Int64, data: bytes) -> int:
    """The line of a word; of the one behind the last, where it would stand."""
    return int(lines[word]) if word < len(lines) else data.count(b"\n") + 1


def _difference(got: Int64, want: Int64, word: int, lane: int) -> str:
    return f"holds {int(got[word, lane])}; the golden is {int(want[word, lane])}"
