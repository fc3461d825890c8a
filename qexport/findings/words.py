"""What a design gave for one memory of a set: its words, read from the files or the waves of a run.

The readers of layout/formats refuse what is not to the letter what was dumped. Here people's own files are read, so
what has only one meaning is taken: comments, other headers, line ends, upper-case digits, prefixes, another radix.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError, few, near
from qexport.layout.formats.base import FileFault, WordSpec
from qexport.layout.memory import verilog_name
from qexport.layout.pack import Words, unpack
from qexport.sets.manifest import Manifest, MemoryEntry, read_manifest

Known = NDArray[np.bool_]
RADIXES = {"hex": ("hexadecimal", 4), "bin": ("binary", 1)}  # name, bits of a digit


@dataclass(frozen=True)
class Actual:
    """What a design gave for one memory of a set.

    values: (words, lanes), all files of the memory one after the other in manifest order, as the memory's bits and
    signedness read them (its offset is not taken off); 0 where not known. known: the same shape, False where X, Z, or
    the word is missing. missing: words that are not there, extra: words too many, which are dropped. notes: what was
    read in another way than the set's own files, for people. absent: (words) those that are missing. movable: they came
    from one file without addresses that has fewer words than the memory, which may be any of them.
    """

    memory: MemoryEntry
    values: Int64
    known: Known
    missing: int
    extra: int
    notes: tuple[str, ...] = ()
    absent: Known | None = None
    movable: bool = False

    @property
    def there(self) -> Known:
        """Which words came."""
        return np.ones(len(self.values), np.bool_) if self.absent is None else ~self.absent

    @property
    def lacking(self) -> str:
        """Which words did not come, in words."""
        if not self.missing:
            return ""
        came = np.flatnonzero(self.there)
        if len(came) and came[-1] == len(came) - 1:
            return f"{self.missing} words are missing at the end"
        if len(came) and came[-1] - came[0] == len(came) - 1:
            return f"words {came[0]} to {came[-1]} of {len(self.values)} are compared"
        return f"{self.missing} words are missing"

    def only_from(self, first: int) -> "Actual":
        """The same words from another one on, and no others are expected."""
        count, total = int(self.there.sum()) + self.extra, len(self.values)
        if not self.movable:
            raise QexportError("from: it is of one file of words without addresses; leave --from out")
        if first + count > total:
            raise QexportError(
                f"from: {count} words from word {first} on are more than the {total} of memory '{self.memory.name}'; "
                "correct --from, or name the right memory with --memory"
            )
        moved = self.moved(first)
        return replace(moved, missing=0, notes=(*moved.notes, moved.lacking) if moved.lacking else moved.notes)

    def moved(self, start: int) -> "Actual":
        """The same words from another one on."""
        count = int(self.there.sum())
        values, known, absent = (
            np.zeros_like(self.values),
            np.zeros_like(self.known),
            np.ones(len(self.values), np.bool_),
        )
        place = slice(start, start + count)
        values[place], known[place], absent[place] = self.values[:count], self.known[:count], False
        return replace(self, values=values, known=known, absent=absent, movable=False)


@dataclass(frozen=True)
class _Read:
    """The words of one file, with their addresses where it gives some."""

    values: Int64
    known: Known
    notes: tuple[str, ...] = ()
    addresses: Int64 | None = None


def read_actual(
    folder: Path, files: Path | Sequence[Path], memory: str | None = None, first: int | None = None
) -> Actual:
    """Read a memory of the set `folder` as a design gave it.

    `files`: one file with all words, which is what the bench writes (`simulate --keep`); the memory's files, in the
    order of the manifest or each with its name there; or a folder, of which the files with the memory's file names,
    else <memory>.hex, are read. Without `memory` the names decide, then width and number of the words.

    `first`: the number of the word with which one file begins, whose words alone are compared. Without it too few or
    too many words are counted. Unknown digits are marked. Raises QexportError for everything else that cannot be the
    memory's words, and when more than one memory fits.
    """
    if first is not None:
        return _read_actual(folder, files, memory).only_from(first)
    return _read_actual(folder, files, memory)


def _read_actual(folder: Path, files: Path | Sequence[Path], memory: str | None) -> Actual:
    manifest = read_manifest(folder)
    paths = [files] if isinstance(files, Path) else list(files)
    if len(paths) == 1 and paths[0].is_dir():
        entry, paths = _of_folder(manifest, paths[0], memory)
        return _read(manifest, entry, paths)
    for path in paths:
        if not path.is_file():
            raise QexportError(
                f"actual: {path} {'is a folder' if path.is_dir() else 'does not exist or is not a file'}; give a file"
            )
        if path.suffix in (".vcd", ".fst"):
            raise QexportError(f"actual: {path} holds waves; diagnose reads them with --signal and --clock")
    if memory is not None:
        return _read(manifest, entry_of(manifest, memory), paths)
    named = [m for m in manifest.memories if {p.name for p in paths} <= {Path(f.path).name for f in m.files}]
    named = named or mentioned_memories(manifest, paths[0].stem)
    if len(named) == 1:
        return _read(manifest, named[0], paths)
    return guessed_memory(manifest, named, lambda m: _read(manifest, m, paths), str(paths[0]))


def bench_file(entry: MemoryEntry) -> str:
    """The file to which the bench writes all words of a memory, in hexadecimal."""
    return f"{verilog_name(entry.name)}.hex"


# --- which memory -----------------------------------------------------------------------------------------------------


def entry_of(manifest: Manifest, name: str) -> MemoryEntry:
    found = [entry for entry in manifest.memories if entry.name == name]
    if not found:
        names = few(near(name, [entry.name for entry in manifest.memories]))
        raise QexportError(f"memory: the set has no memory '{name}'; it has {names}")
    return found[0]


def _results(manifest: Manifest) -> list[MemoryEntry]:
    return [entry for entry in manifest.memories if entry.tensor in manifest.results]


def mentioned_memories(manifest: Manifest, text: str) -> list[MemoryEntry]:
    """The memories whose names are words of the text, such as 'relu' of 'my_relu_out'; the longest of nested names."""
    found = [
        entry
        for entry in manifest.memories
        if re.search(rf"(?<![a-z0-9]){re.escape(entry.name)}(?![a-z0-9])", text, re.IGNORECASE)
    ]
    return [entry for entry in found if not any(entry.name in o.name and entry is not o for o in found)]


def _of_folder(manifest: Manifest, folder: Path, memory: str | None) -> tuple[MemoryEntry, list[Path]]:
    """The memory of which a folder has files, and these files."""

    def files_of(entry: MemoryEntry) -> list[Path]:
        own = [folder / file.path for file in entry.files if (folder / file.path).is_file()]
        bench = folder / bench_file(entry)
        return own or ([bench] if bench.is_file() else [])

    entries = _results(manifest) if memory is None else [entry_of(manifest, memory)]
    found = {entry.name: files for entry in entries if (files := files_of(entry))}
    if len(found) > 1:
        raise QexportError(f"actual: {folder} has files of {few(found)}; choose one with --memory")
    if not found:
        names = few(dict.fromkeys(chain.from_iterable((e.files[0].path, bench_file(e)) for e in entries)))
        here = few(sorted(path.name for path in folder.iterdir()), none="nothing")
        raise QexportError(
            f"actual: {folder} has no file of the set's results, such as {names}; it holds {here}; give the file itself"
        )
    [(name, files)] = found.items()
    return entry_of(manifest, name), files


def guessed_memory(
    manifest: Manifest, named: Sequence[MemoryEntry], read: Callable[[MemoryEntry], Actual], what: str
) -> Actual:
    """The one memory whose width and number of words fit; results are asked first."""
    results = _results(manifest)
    others = [entry for entry in manifest.memories if entry not in results]
    faults: list[QexportError] = []
    counts: set[int] = set()
    for entries in [named] if named else (results, others):
        fitting = []
        for entry in entries:
            try:
                actual = read(entry)
            except QexportError as error:
                faults.append(error)
                continue
            counts.add(sum(file.words for file in entry.files) - actual.missing + actual.extra)
            if not actual.missing and not actual.extra:
                fitting.append(actual)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = few([actual.memory.name for actual in fitting])
            raise QexportError(f"actual: {what} may be {names}; choose one with --memory")
        if len(entries) == 1 and faults:
            raise faults[-1]
    tried = len(named or manifest.memories)
    if tried == len(faults) and len({str(fault) for fault in faults}) == 1:  # such as an empty file, whatever it is for
        raise faults[0]
    sizes = few([f"{e.name} {sum(f.words for f in e.files)} x {e.word_bits} bits" for e in named or results])
    held = f", {counts.pop()} words," if len(counts) == 1 else ""
    raise QexportError(
        f"actual: {what}{held} fits no memory of the set ({sizes}); it may be of another set, else name its memory "
        "with --memory"
    )


# --- files of words ---------------------------------------------------------------------------------------------------


def spec_of(manifest: Manifest, entry: MemoryEntry, number: int = 0) -> WordSpec:
    return manifest.spec(entry, number)


def _read(manifest: Manifest, entry: MemoryEntry, paths: Sequence[Path]) -> Actual:
    """The memory of these files; each has the place of its name, else they stand in order."""
    names = [Path(file.path).name for file in entry.files]
    given = [path.name for path in paths]
    if len(set(given)) == len(given) and set(given) <= set(names):
        numbers = [names.index(name) for name in given]
    elif len(paths) in (1, len(names)):
        numbers = list(range(len(paths)))
    else:
        raise QexportError(
            f"actual: {len(paths)} files for memory '{entry.name}', which has {len(names)}; give all of them in the "
            f"order of the manifest, files named as there ({names[0]}), or one file with all words"
        )
    parts = [
        (number, _read_file(path, entry, spec_of(manifest, entry, number)))
        for number, path in zip(numbers, paths, strict=True)
    ]
    return joined_parts(manifest, entry, parts, whole=len(paths) == 1 and given[0] not in names)


def joined_parts(
    manifest: Manifest, entry: MemoryEntry, parts: Sequence[tuple[int, _Read]], whole: bool = True
) -> Actual:
    """The memory put together of its files' words, by their numbers; a `whole` part has the words of all files."""
    words, lanes = entry.files[0].words, entry.word_bits // entry.bits
    values = np.zeros((words * len(entry.files), lanes), np.int64)
    known, there = np.zeros(values.shape, np.bool_), np.zeros(len(values), np.bool_)
    extra = 0
    for number, read in parts:
        room = len(values) if whole else words
        at = np.arange(len(read.values)) if read.addresses is None else read.addresses
        fits = at < room
        place = at[fits] + number * words
        values[place], known[place], there[place] = read.values[fits], read.known[fits], True
        extra += int((~fits).sum())
    notes = dict.fromkeys(note for _, read in parts for note in read.notes)
    if not whole and len(parts) < len(entry.files):
        notes[f"{len(parts)} of the memory's {len(entry.files)} files were given"] = None
    movable = len(parts) == 1 and (whole or len(entry.files) == 1) and parts[0][1].addresses is None
    return Actual(entry, values, known, int((~there).sum()), extra, tuple(notes), ~there, movable)


def _read_file(path: Path, entry: MemoryEntry, spec: WordSpec) -> _Read:
    data = path.read_bytes()
    if not data:
        raise QexportError(f"actual: {path} is empty; did the run write any word?")
    if path.name == bench_file(entry) or (entry.format.text and not spec.shared):
        return _Text(path, data, entry, spec).read()
    try:
        values = entry.format.words_of(data, spec, entry.files[0].words)
    except FileFault as fault:
        try:  # a design's bench writes words one a line, whatever the set's own files are
            return _Text(path, data, entry, spec).read()
        except QexportError:
            where = f"{path}:{fault.line}" if entry.format.word_lines else str(path)
            raise QexportError(f"actual: {where}: {fault} (memory '{entry.name}' is '{entry.radix}')") from None
    return _Read(values, np.ones(values.shape, np.bool_))


_COMMENT = re.compile(rb"(?s)//[^\n]*|#[^\n]*|/\*.*?\*/")
_PREFIX = re.compile(rb"\d*'s?[hbd]")
_WORD_LIKE = re.compile(rb"[0-9a-fxz?]+|[+-]\d+|@[0-9a-f]+")
_TEXT_BYTES = bytes([9, 10, 12, 13, *range(32, 127), *range(128, 256)])
_UNKNOWN, _NO_DIGIT = 16, 255
_VALUE = np.full(256, _NO_DIGIT, np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _VALUE[np.frombuffer(_digits, np.uint8)] = np.arange(16)
_VALUE[np.frombuffer(b"xXzZ?", np.uint8)] = _UNKNOWN


class _Text:
    """A text of words in hexadecimal, binary or decimal digits."""

    def __init__(self, path: Path, data: bytes, entry: MemoryEntry, spec: WordSpec):
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell's `>` writes
            data = data.decode("utf-16", errors="replace").encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
        if data.translate(None, delete=_TEXT_BYTES):
            raise QexportError(f"actual: {path} is a binary file; give a text of one word a line")
        self.path, self.entry, self.spec = path, entry, spec
        hexadecimal = path.name == bench_file(entry) or entry.radix not in (*RADIXES, "dec")
        self.own = "hex" if hexadecimal else entry.radix
        self.lines_skipped = 0
        self.header: tuple[int, bytes] | None = None  # the first line that is taken for a header of others
        self.data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for header in spec.header:
            line, _, rest = self.data.partition(b"\n")
            if line.strip() == header.encode().strip():
                self.data, self.lines_skipped = rest, self.lines_skipped + 1

    def read(self) -> _Read:
        if self.own in RADIXES:
            _, bits = RADIXES[self.own]
            plain = np.frombuffer(self.data if self.data.endswith(b"\n") else self.data + b"\n", np.uint8)
            count = math.ceil(self.spec.word_bits / bits)
            if len(plain) % (count + 1) == 0:
                lines = plain.reshape(-1, count + 1)
                if (lines[:, count] == ord("\n")).all() and self._are_digits(lines[:, :count], bits):
                    return elements_of_digits(lines[:, :count], bits, self.spec, self._too_wide)
        return self._read_tokens()

    @staticmethod
    def _are_digits(characters: NDArray[np.uint8], bits: int) -> bool:
        value = _VALUE[characters]
        return bool(((value < 1 << bits) | (value == _UNKNOWN)).all())

    def _too_wide(self, word: int) -> QexportError:
        return QexportError(
            f"actual: {self.path}: word {word + 1} is wider than the {self.spec.word_bits} bits of memory "
            f"'{self.entry.name}'; name the right memory with --memory, or correct the file"
        )

    def _fault(self, line: int, message: str) -> QexportError:
        return QexportError(f"actual: {self.path}:{line}: {message}")

    def _no_word(self, line: int, token: bytes) -> QexportError:
        return self._fault(line, f"'{_shown(token)}' is not a word; correct the file or take the line out")

    def _lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Number and tokens of each line that has some; header lines, which hold no words, are left out."""
        text = self.data
        if any(mark in text for mark in (b"//", b"/*", b"#")):
            text = _COMMENT.sub(lambda match: b" " + b"\n" * match.group().count(b"\n"), text)
        begun = False
        for number, line in enumerate(text.lower().split(b"\n"), start=self.lines_skipped + 1):
            tokens = [
                _PREFIX.sub(b"", token, count=1) if _PREFIX.match(token) else token
                for token in line.replace(b"_", b"").replace(b",", b" ").replace(b";", b" ").split()
            ]
            if not tokens:
                continue
            strange = [token for token in tokens if not _WORD_LIKE.fullmatch(token)]
            digits = math.ceil(self.spec.word_bits / RADIXES.get(self.own, ("", 1))[1])
            if strange and not begun and (len(tokens) > 1 or len(strange[0]) != digits):
                self.header = self.header or (number, strange[0])  # that is not ours
                continue
            if strange:
                raise self._no_word(number, strange[0])
            begun = True
            yield number, tokens

    def _read_tokens(self) -> _Read:
        lines = list(self._lines())
        if not lines and self.header:
            raise self._no_word(*self.header)
        if not lines:
            raise QexportError(f"actual: {self.path} holds no words; did the run write any?")
        addressed: list[tuple[int, int]] = []  # number of the lines before, address
        kept: list[tuple[int, list[bytes]]] = []
        for number, tokens in lines:
            marks = [token for token in tokens if token.startswith(b"@")]
            if marks and len(tokens) > 1:
                raise self._fault(number, f"'{_shown(marks[0])}' is an address; give it a line of its own")
            if marks:
                addressed.append((len(kept), int(marks[0][1:17], 16)))
            else:
                kept.append((number, tokens))
        if not kept:
            raise QexportError(f"actual: {self.path} holds addresses but no words; did the run write any?")
        radixes = sorted((*RADIXES, "dec"), key=lambda radix: radix != self.own)
        faults: list[QexportError] = []
        for radix in radixes:
            try:
                read = self._as_decimals(kept) if radix == "dec" else self._as_digits(kept, radix, radix == self.own)
            except QexportError as fault:
                faults.append(fault)
                continue
            notes = read.notes
            if radix != self.own:
                notes = (*notes, f"{self.path.name} is read as {self._name(radix)} words")
            addresses = self._addresses(addressed, kept, len(read.values)) if addressed else None
            return _Read(read.values, read.known, notes, addresses)
        raise faults[0]

    @staticmethod
    def _name(radix: str) -> str:
        return RADIXES[radix][0] if radix in RADIXES else "decimal"

    @staticmethod
    def _addresses(addressed: Sequence[tuple[int, int]], lines: Sequence[tuple[int, list[bytes]]], words: int) -> Int64:
        """The address of each word; `addressed`: before which line an address stands."""
        counts = [1 if words == len(lines) else len(tokens) for _, tokens in lines]
        first = np.concatenate([[0], np.cumsum(counts)])  # word of each line
        addresses = np.arange(words)
        for (line, address), (stop, _) in zip(addressed, [*addressed[1:], (len(lines), 0)], strict=True):
            count = first[stop] - first[line]
            addresses[first[line] : first[stop]] = min(address, 1 << 48) + np.arange(count)
        return addresses

    def _as_digits(self, lines: Sequence[tuple[int, list[bytes]]], radix: str, own: bool) -> _Read:
        name, bits = RADIXES[radix]
        count, alphabet = math.ceil(self.spec.word_bits / bits), b"01xz?" if bits == 1 else b"0123456789abcdefxz?"
        lanes = self.spec.lanes
        if lanes > 1 and all(len(tokens) == lanes for _, tokens in lines):  # a number for each lane
            if self.spec.word_bits % (lanes * bits) or any(len(t) != count // lanes for _, line in lines for t in line):
                raise self._fault(lines[0][0], f"{lanes} numbers, not of {count // lanes} {name} digits each")
            lines = [(number, [b"".join(tokens)]) for number, tokens in lines]
        words = [(number, token) for number, tokens in lines for token in tokens]
        prefix = b"0x" if bits == 4 else b"0b"  # or digits: an X may be the second one
        if all(t.startswith(prefix) for _, t in words) and not all(len(t) == count for _, t in words):
            words = [(number, token[2:]) for number, token in words]
        for number, token in words:
            if token.translate(None, delete=alphabet):
                raise self._fault(number, f"'{_shown(token)}' is not a {name} word")
        lengths = np.array([len(token) for _, token in words])
        short = lengths < count
        notes: tuple[str, ...] = ()
        if short.any() or (lengths > count).any():
            vary = bool((lengths != lengths[0]).any())
            dropped = vary and not (lengths > count).any() and (lanes == 1 or 2 * short.sum() >= len(short))
            if not dropped:
                at = int(np.argmax(lengths != count))
                number, digits = words[at][0], int(lengths[at])
                raise self._fault(
                    number,
                    f"a word of {digits} {name} digits ({digits * bits} bits); memory '{self.entry.name}' has "
                    f"{count} ({self.spec.word_bits} bits); correct the file, or name the right memory with --memory",
                )
            if not own:
                raise self._fault(words[0][0], f"words of {lengths.min()} to {lengths.max()} digits")
            letters = set(b"abcdef") & set(b"".join(token for _, token in words))
            if bits == 4 and not letters and lanes == 1:
                raise self._fault(words[0][0], "words of several lengths without a letter are decimal")
            notes = (f"{self.path.name} has words without their leading zeros",)
        text = b"".join(token.rjust(count, token[:1] if token[:1] in b"xz?" else b"0") for _, token in words)
        grid = np.frombuffer(text, np.uint8).reshape(-1, count)
        read = elements_of_digits(grid, bits, self.spec, self._too_wide)
        return _Read(read.values, read.known, notes)

    def _as_decimals(self, lines: Sequence[tuple[int, list[bytes]]]) -> _Read:
        element, lanes = self.spec.element, self.spec.lanes
        values, known = [], []
        for number, tokens in lines:
            if len(tokens) != lanes:
                raise self._fault(
                    number, f"{len(tokens)} numbers; a word of memory '{self.entry.name}' has {lanes} lanes"
                )
            for token in tokens:
                unknown = not token.strip(b"xz?")
                digits = token.lstrip(b"+-")
                if not unknown and not ((digits.isdigit() and digits[:1] != b"0") or digits == b"0"):  # as 007 is not
                    raise self._fault(number, f"'{_shown(token)}' is not a decimal number")
                value = 0 if unknown else int(token[:24])
                if not (-(1 << (element.bits - 1)) <= value < 1 << element.bits):
                    raise self._fault(
                        number, f"{_shown(token)} does not fit the {element} of memory '{self.entry.name}'"
                    )
                values.append(value)
                known.append(not unknown)
        array = element.wrap(np.array(values, np.int64).reshape(-1, lanes))  # -1 and 65535 are the same 16 bits
        return _Read(array, np.array(known, np.bool_).reshape(-1, lanes))


def _shown(token: bytes) -> str:
    """A token that may be of any length."""
    text = token[:24].decode(errors="replace")
    return text if len(token) <= 24 else f"{text}... ({len(token)} characters)"


def elements_of_digits(
    characters: NDArray[np.uint8],
    bits: int,
    spec: WordSpec,
    too_wide: Callable[[int], QexportError] = lambda word: QexportError(f"word {word + 1} is too wide"),
) -> _Read:
    """(words, digits) characters, `bits` a digit, to codes; a lane is known when no digit of it is X or Z."""
    digits = _VALUE[characters]
    unknown = digits == _UNKNOWN
    digits[unknown] = 0
    words = _words(digits, bits)
    spare = 8 * words.shape[1] - spec.word_bits
    wide = words[:, 0] >> np.uint8(8 - spare) if spare else np.zeros(1, np.uint8)
    if wide.any():
        raise too_wide(int(np.argmax(wide != 0)))
    values = unpack(words, spec.lanes, spec.element)
    known = np.ones(values.shape, np.bool_)
    if unknown.any():
        marks = np.where(unknown, np.uint8((1 << bits) - 1), np.uint8(0))
        known = unpack(_words(marks, bits), spec.lanes, IntFormat(spec.element.bits, False)) == 0
        values = np.where(known, values, 0)
    return _Read(values, known)


def _words(digits: NDArray[np.uint8], bits: int) -> Words:
    """(words, digits) to the big-endian bytes of each word, its unused top bits zero."""
    digits = np.pad(digits, ((0, 0), (-digits.shape[1] % (8 // bits), 0)))
    return np.packbits(digits, axis=1) if bits == 1 else (digits[:, 0::2] << np.uint8(4)) | digits[:, 1::2]
