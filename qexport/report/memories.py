"""Each memory: its files, and its first words lane by lane."""

from collections.abc import Iterator, Sequence

import numpy as np

from qexport.core.intformat import Int64
from qexport.errors import QexportError
from qexport.layout.tiling import Tiling, describe_index
from qexport.report.blocks import Block, Details, Facts, Note, Section, Word, Words
from qexport.report.facts import SetFacts
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sets.manifest import MemoryEntry, read_words

_WORDS, _LANES, _FILES = 16, 16, 32
_ELEMENTS = 1 << 24  # of a memory that is read for its first words


def memories_section(facts: SetFacts) -> Section:
    manifest = facts.manifest
    rows: list[list[AnyCell]] = [
        [
            entry.name,
            Cell(entry.order.split("->")[1].strip(), tone="code"),
            entry.radix,
            len(entry.files),
            sum(file.words for file in entry.files),
            entry.word_bits // entry.bits,
            entry.bits,
            entry.word_bits,
        ]
        for entry in manifest.memories
    ]
    columns = ["memory", "files | addresses | lanes", "format", "files", "words", "lanes", "bits", "word bits"]
    blocks: list[Block] = [Table(f"Memories of layout {manifest.layout.name}", columns, rows)]
    for number, entry in enumerate(manifest.memories):
        blocks.append(Details(f"{entry.name}: first words and files", memory_blocks(facts, entry), open=number == 0))
    named = {path: digest for path, digest in manifest.named_files().items() if manifest.memory_of(path) is None}
    blocks.append(Details("The other files", [_files(facts, named)]))
    return Section(
        "Memories",
        "The first words of each file. Each lane has a colour; point at an element, or go there with Tab and the arrow "
        "keys, and the line below says which element it is.",
        blocks,
    )


def memory_blocks(facts: SetFacts, entry: MemoryEntry) -> list[Block]:
    signs = "signed" if entry.signed else "unsigned"
    pairs = [
        ("tensor", f"{entry.tensor} {' x '.join(map(str, entry.shape))}"),
        ("order", entry.order),
        (
            "element",
            f"{entry.bits} bits {signs}, overflow {entry.overflow}" + (f", + {entry.offset}" if entry.offset else ""),
        ),
    ]
    if entry.fill:
        pairs.append(("fill", f"{entry.fill:,} elements"))
    named = {file.path: file.sha256 for file in entry.files}
    return [Facts(pairs), _words(facts, entry), _files(facts, named)]


def _files(facts: SetFacts, named: dict[str, str]) -> Table:
    rows: list[list[AnyCell]] = [
        [Cell(path, href=facts.link(path)), Cell(digest, tone="code")] for path, digest in list(named.items())[:_FILES]
    ]
    if len(named) > _FILES:
        rows.append([Cell(f"and {len(named) - _FILES} more"), Cell("")])
    return Table("Files", ["file", "SHA-256"], rows)


def _words(facts: SetFacts, entry: MemoryEntry) -> Block:
    try:
        tiling = _first_image(facts, entry)
        if tiling is None:
            return Note("The memory is too large to be read for a page; `qexport show` says what any word of it holds.")
        words = read_words(facts.folder, facts.manifest, entry, entry.tiling(facts.manifest.array))[:_WORDS]
    except QexportError as error:
        return Note(str(error).replace(str(facts.folder), facts.folder.name), "bad")
    lines = _lines(facts, entry, len(words))
    origins = [
        [tiling.origin(0, at, lane) for lane in range(tiling.lanes)] for at in range(min(len(words), tiling.words))
    ]
    shown = list(_word_rows(entry, words[: len(origins)], origins, lines))
    lanes, left = tiling.lanes, entry.files[0].words - len(shown)
    more = [f"{left:,} further words"] if left > 0 else []
    more += [f"{lanes - _LANES:,} further lanes"] if lanes > _LANES else []
    more += [f"{len(entry.files) - 1:,} further files"] if len(entry.files) > 1 else []
    head = list(_heads(entry, origins, lanes))
    path = entry.files[0].path
    return Words(f"{path}: first words of memory {entry.name}", head, shown, ", ".join(more))


def _first_image(facts: SetFacts, entry: MemoryEntry) -> Tiling | None:
    """The order for one image where its words are those of one image after the other; None: it is too large."""
    if sum(file.words for file in entry.files) * (entry.word_bits // entry.bits) > _ELEMENTS:
        return None
    order = entry.memory().order
    if order.streams_images and not order.has_copies:
        return Tiling(order, (1, *entry.shape[1:]), facts.manifest.array)
    return entry.tiling(facts.manifest.array)


def _lines(facts: SetFacts, entry: MemoryEntry, count: int) -> list[int]:
    """The line of each word of the first file; the word's number where it has none."""
    data = (facts.folder / entry.files[0].path).read_bytes()
    spec = facts.manifest.spec(entry, 0)
    lines: list[int] = entry.format.lines_of(data, spec, entry.files[0].words)[:count].tolist()
    return lines


Origins = Sequence[Sequence[dict[str, int] | None]]


def _heads(entry: MemoryEntry, origins: Origins, lanes: int) -> Iterator[tuple[str, str]]:
    """Of each lane, the bits of the word, and that part of the index which it has in all words."""
    for lane in range(min(lanes, _LANES)):
        high = (lanes - lane) * entry.bits - 1
        bits = f"{high}:{high - entry.bits + 1}" if entry.bits > 1 else str(high)
        indices = [row[lane] for row in origins if row[lane] is not None]
        own = dict(indices[0] or {}) if indices else {}
        for index in indices:
            own = {axis: at for axis, at in own.items() if (index or {}).get(axis) == at}
        fixed = {axis: at for axis, at in own.items() if lanes == 1 or _varies(origins, axis)}
        yield bits, describe_index(fixed) if fixed and lanes > 1 else ""


def _varies(origins: Origins, axis: str) -> bool:
    """Whether the lanes of a word differ along an axis."""
    return any(len({index[axis] for index in row if index is not None}) > 1 for row in origins)


def _word_rows(entry: MemoryEntry, words: Int64, origins: Origins, lines: Sequence[int]) -> Iterator[Word]:
    element, path = entry.element, entry.files[0].path
    for at, (values, indices) in enumerate(zip(words.tolist(), origins, strict=True)):
        there = [index for index in indices if index is not None]
        common = {a: i for a, i in (there[0] if there else {}).items() if all(one[a] == i for one in there)}
        cells = []
        for lane, (value, index) in enumerate(zip(values[:_LANES], indices, strict=False)):
            bits = f"{int(element.encode(np.int64(value))):0{entry.bits}b}"  # type: ignore[arg-type]
            where = f"{entry.tensor} {describe_index(index)}" if index is not None else "fill"
            title = f"{path}:{lines[at]}:{lane}, {where}, code {value - entry.offset}, bits {bits}"
            cells.append(Cell(str(value), tone="" if index is not None else "fill", title=title))
        yield Word(str(lines[at]), describe_index(common) if common else "", cells)
