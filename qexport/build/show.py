"""What one word of a memory file holds, lane by lane."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qexport.errors import CheckFailed, QexportError
from qexport.layout.formats.base import FileFault
from qexport.layout.pack import pack
from qexport.sets.manifest import Manifest, MemoryEntry


@dataclass(frozen=True)
class Lane:
    """One element of a word: its tensor index (None for fill), the code (None where the memory saturates or wraps), the
    bits, and what is stored."""

    lane: int
    index: dict[str, int] | None
    code: int | None
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


def dissect(folder: Path, manifest: Manifest, path: str, line: int) -> list[Word]:
    """What line `line` (from 1) of the memory file `path` holds: its words, or what is none.

    Raises CheckFailed when the file is missing or broken, QexportError when it has no such line.
    """
    words = [
        word
        for entry in manifest.memories
        for number, file in enumerate(entry.files)
        if file.path == path
        for word in _words(folder, manifest, entry, number, line)
    ]
    return [word for word in words if not word.header] or words[:1]


def _words(folder: Path, manifest: Manifest, entry: MemoryEntry, number: int, line: int) -> list[Word]:
    """The words of one memory in a line of one of its files; one without lanes where there are none."""
    tiling = entry.tiling(manifest.array, manifest.layer.channel)
    fmt, format_ = entry.element, entry.format
    file = folder / entry.files[number].path
    if not file.is_file():
        raise CheckFailed(f"{file} is missing; dump the set again")
    data = file.read_bytes()
    spec = manifest.spec(entry, number, tiling)
    try:
        words = format_.words_of(data, spec, tiling.words)
    except FileFault as fault:
        raise CheckFailed(f"{file}:{fault.line}: {fault}; dump the set again") from None
    if len(words) != tiling.words:
        raise CheckFailed(f"{file} has {len(words)} words, needs {tiling.words}; dump the set again")
    texts = data.splitlines()
    count = len(texts) if format_.word_lines else spec.total or len(words)
    if line > count:
        unit = "lines; there is no line" if format_.word_lines else "words; there is no word"
        raise QexportError(f"place: {file} has {count} {unit} {line}")
    here = np.flatnonzero(format_.lines_of(data, spec, len(words)) == line).tolist()

    def text(word: int) -> str:
        if format_.word_lines is None:
            return bytes(pack(words, fmt)[word]).hex()
        return texts[line - 1].decode(errors="replace")

    if not here:
        shown = text(0) if format_.word_lines else ""
        return [Word(str(file), line, shown, entry.name, entry.tensor, True, ())]
    import bitstring  # here, because it takes long to load and only this needs it

    def lanes(word: int) -> Iterator[Lane]:
        for lane, stored in enumerate(words[word].tolist()):
            bits = bitstring.Bits(**{"int" if fmt.signed else "uint": stored, "length": fmt.bits}).bin
            code = stored - entry.offset if entry.overflow == "error" else None  # else it may be another's, too
            yield Lane(lane, tiling.origin(number, word, lane), code, bits, stored)

    return [Word(str(file), line, text(word), entry.name, entry.tensor, False, tuple(lanes(word))) for word in here]
