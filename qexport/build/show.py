"""What one word of a memory file holds, lane by lane."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qexport.errors import CheckFailed, QexportError
from qexport.layout.formats.base import FileFault
from qexport.layout.formats.registry import FORMATS
from qexport.layout.pack import pack
from qexport.sets.manifest import Manifest


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
    import bitstring  # here, because it takes long to load and only this needs it

    word = int(here[0])
    lanes = []
    for lane, stored in enumerate(words[word].tolist()):
        bits = bitstring.Bits(**{"int" if fmt.signed else "uint": stored, "length": fmt.bits}).bin
        code = stored - entry.offset if entry.overflow == "error" else None  # else it may be another's, too
        lanes.append(Lane(lane, tiling.origin(number, word, lane), code, bits, stored))
    return Word(str(file), line, text, entry.name, entry.tensor, False, tuple(lanes))
