"""Disk -> decode -> compare: whether a set still says what was proven, and what one word of it holds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import bitstring
import numpy as np

from qexport.errors import CheckFailed, QexportError
from qexport.formats import FORMATS, FileFault
from qexport.golden import Golden, check_reference
from qexport.intformat import Int64
from qexport.layer import LayerCapture
from qexport.layout import MANIFEST, SUMS, Memory, Tiling, describe_index
from qexport.manifest import (
    Manifest,
    MemoryEntry,
    accumulator_format,
    golden_info,
    read_manifest,
    set_entries,
    sha256,
    sums_text,
)
from qexport.pack import pack, word_bits


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


def verify(folder: Path) -> tuple[Manifest | None, list[Fault]]:
    """Check every promise of the contract for one set; no fault means that all hold.

    Returns the manifest (None when it was changed) and the faults. Raises QexportError when the folder holds no set
    of ours.
    """
    try:
        manifest = read_manifest(folder)
    except CheckFailed as error:
        return None, [Fault(MANIFEST, str(error).removeprefix(f"{folder / MANIFEST}: "))]
    return manifest, list(_faults(folder, manifest))


def _faults(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    named = manifest.named_files()
    present = {name: path for name, path in set_entries(folder).items() if name not in named or path.is_file()}
    for path in sorted(set(named) - set(present)):
        yield Fault(path, "is missing")
    for path in sorted(set(present) - set(named) - {MANIFEST, SUMS}):
        yield Fault(path, "is not named by the manifest")
    changed = {path for path in named if path in present and sha256(present[path].read_bytes()) != named[path]}
    yield from _sums_faults(folder, manifest)
    if manifest.to_bytes() != (folder / MANIFEST).read_bytes():
        yield Fault(MANIFEST, "lacks keys or is not written as the contract says (sorted keys, two-space indent)")

    capture = None
    if manifest.capture.path in present and manifest.capture.path not in changed:
        try:
            capture = LayerCapture.load(folder / manifest.capture.path)
        except QexportError as error:
            yield Fault(manifest.capture.path, str(error))
    if capture is not None and (capture.layer, capture.source, capture.formats.weight, capture.formats.input) != (
        manifest.layer, manifest.source, manifest.formats.weight, manifest.formats.input,
    ):  # fmt: skip
        yield Fault(manifest.capture.path, f"layer, formats or source differ from {MANIFEST}")

    explained = set()
    if capture is not None:
        for fault in _memory_faults(folder, manifest, capture):
            if fault.file in present:
                explained.add(fault.file)
                yield fault
    for path in sorted(changed - explained):
        yield Fault(path, f"SHA-256 differs from {MANIFEST}")


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


def _memory_faults(folder: Path, manifest: Manifest, capture: LayerCapture) -> Iterator[Fault]:
    """Decode every memory and compare it with the golden of the decoded weights and inputs."""
    row = manifest.array.get("row")
    golden = Golden(capture, row)
    entries = sorted(manifest.memories, key=lambda entry: entry.tensor not in ("weight", "input"))
    for entry in entries:
        try:
            memory = entry.memory()
            tensor = golden.tensor(entry.tensor)
            codes = memory.elements(tensor.values, tensor.default)
            if codes.shape != entry.shape:
                raise QexportError(f"shape {list(entry.shape)} is not {list(codes.shape)}")
            tiling = entry.tiling(manifest.array)
            want = memory.stored(tiling.tile(codes), entry.element, tiling)
            if (len(entry.files), entry.fill) != (tiling.files, tiling.fill):
                raise QexportError(f"needs {tiling.files} file(s) with {tiling.fill} filled elements")
            if entry.word_bits != word_bits(tiling.lanes, entry.element):
                raise QexportError(f"word_bits {entry.word_bits} is not {tiling.lanes} x {entry.bits}")
            for file, index in zip(entry.files, tiling.file_indices(), strict=True):
                if file.index != index:
                    raise QexportError(f"{file.path} has index {file.index}; needs {index}")
        except QexportError as error:
            yield Fault(MANIFEST, f"memory '{entry.name}': {error}")
            continue
        got = np.empty_like(want)
        sound = True
        for number, file in enumerate(entry.files):
            path = folder / file.path
            if not path.is_file():
                sound = False
                continue
            for fault in _file_faults(path, entry, memory, tiling, number, want[number], got[number]):
                sound = False
                yield fault
        # From here on the golden stands on what the files hold, not on the capture.
        if sound and memory.overflow == "error" and entry.tensor in ("weight", "input") and not memory.order.has_bits:
            decoded = tiling.untile(got) - memory.offset
            standing = golden.capture
            golden = Golden(
                replace(standing, weight=decoded) if entry.tensor == "weight" else replace(standing, input=decoded), row
            )
    try:
        figures = golden_info(check_reference(golden))
    except QexportError as error:
        yield Fault(manifest.capture.path, str(error))
        return
    if (figures, accumulator_format(golden)) != (manifest.golden, manifest.formats.accumulator):
        yield Fault(MANIFEST, "golden or formats.accumulator differ from what the capture gives")


def _file_faults(
    path: Path, entry: MemoryEntry, memory: Memory, tiling: Tiling, number: int, want: Int64, out: Int64
) -> Iterator[Fault]:
    """Read one memory file into `out` (words, lanes) and name the first place where it differs from `want`."""
    file = entry.files[number]
    format_ = FORMATS[memory.radix]
    spec = memory.spec(tiling, entry.element, file.index)

    def fault(message: str, line: int, word: int | None, lane: int | None) -> Fault:
        if word is None or lane is None or word >= tiling.words:
            return Fault(file.path, message, line)
        return Fault(file.path, message, line, lane, tiling.origin(number, word, lane))

    data = path.read_bytes()
    try:
        got = format_.read(data, spec)
    except FileFault as error:
        text = data.split(b"\n")[error.line - 1] if format_.lane_at else b""
        lane = format_.lane_at(text, error.column, spec) if format_.lane_at else None
        yield fault(str(error), error.line, error.word, lane)
        return
    lines = format_.lines(data, spec, len(got))
    if len(got) != tiling.words or file.words != tiling.words:
        shorter = min(len(got), tiling.words)
        differs = np.flatnonzero((got[:shorter] != want[:shorter]).any(axis=1))
        word = int(differs[0]) if len(differs) else shorter
        line = int(lines[word]) if word < len(lines) else data.count(b"\n") + 1
        yield fault(f"{len(got)} words; needs {tiling.words}", line, None, None)
        return
    out[:] = got
    for word, lane in zip(*np.nonzero(got != want), strict=True):
        message = f"holds {int(got[word, lane])}; the golden is {int(want[word, lane])}"
        yield fault(message, int(lines[word]), int(word), int(lane))


@dataclass(frozen=True)
class Lane:
    """One element of a word: its tensor index (None for fill), the code, the bits, and what is stored."""

    lane: int
    index: dict[str, int] | None
    code: int
    bits: str
    stored: int


@dataclass(frozen=True)
class Word:
    """One line of a memory file; one without a word, such as a header line, has no lanes.

    Of a file without lines `line` counts the words from 1, and `text` is the word in hexadecimal digits.
    """

    file: str
    line: int
    text: str
    memory: str
    tensor: str
    header: bool
    lanes: tuple[Lane, ...]


def dissect(folder: Path, manifest: Manifest, path: str, line: int) -> Word:
    """What line `line` (from 1) of the memory file `path` holds.

    Raises CheckFailed when the file is missing or broken, QexportError when it has no such line.
    """
    found = manifest.memory_of(path)
    assert found is not None
    entry, number = found
    tiling, fmt, format_ = entry.tiling(manifest.array), entry.element, FORMATS[entry.radix]
    file = folder / path
    if not file.is_file():
        raise CheckFailed(f"{file} is missing; dump the set again")
    data = file.read_bytes()
    spec = entry.memory().spec(tiling, fmt, entry.files[number].index)
    try:
        words = format_.read(data, spec)
    except FileFault as fault:
        raise CheckFailed(f"{file}:{fault.line}: {fault}; dump the set again") from None
    if len(words) != tiling.words:
        raise CheckFailed(f"{file} has {len(words)} words, needs {tiling.words}; dump the set again")
    texts = data.splitlines() if format_.word_lines else [word.tobytes().hex().encode() for word in pack(words, fmt)]
    if line > len(texts):
        unit = "lines; there is no line" if format_.word_lines else "words; there is no word"
        raise QexportError(f"place: {file} has {len(texts)} {unit} {line}")
    text = texts[line - 1].decode(errors="replace")
    here = np.flatnonzero(format_.lines(data, spec, len(words)) == line)
    if not len(here):
        return Word(str(file), line, text, entry.name, entry.tensor, True, ())
    word = int(here[0])
    lanes = []
    for lane, stored in enumerate(words[word].tolist()):
        bits = bitstring.Bits(**{"int" if fmt.signed else "uint": stored, "length": fmt.bits}).bin
        lanes.append(Lane(lane, tiling.origin(number, word, lane), stored - entry.offset, bits, stored))
    return Word(str(file), line, text, entry.name, entry.tensor, False, tuple(lanes))
