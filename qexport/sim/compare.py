"""What a run gave against what the set expects, after the run: the simulator never saw the expected words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qexport.layout.formats.digits import HEX
from qexport.layout.formats.words import text_columns
from qexport.layout.order import IMAGE_AXIS
from qexport.layout.tiling import Tiling
from qexport.sets.folder import sha256
from qexport.sets.manifest import Manifest, MemoryEntry, read_words

MOST_VALUES = 10  # wrong values that are named, of a run; the totals are always told
_LABELS = {"n": "image", "py": "y", "px": "x", "oy": "y", "ox": "x"}  # of axes
_UNKNOWN = b"xXzZ"
_PART = 1 << 14  # words whose bits are looked at together


@dataclass(frozen=True)
class Compared:
    """The words of one memory that came back: their SHA-256 and that of those `wanted`, how many values were compared,
    how many of them are wrong, and a line for each of the first ones."""

    memory: str
    sha256: str
    wanted: str
    values: int
    checked: int
    wrong: int
    lines: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the words are those of the set, byte for byte."""
        return self.sha256 == self.wanted


def expected_words(folder: Path, manifest: Manifest, entry: MemoryEntry) -> bytes:
    """The words of a memory as the bench records them: hexadecimal, one a line, file after file."""
    tiling = entry.tiling(manifest.array)
    elements = np.concatenate([read_words(folder, manifest, entry, tiling, at) for at in range(len(entry.files))])
    return text_columns(HEX.digits(elements, manifest.spec(entry, 0, tiling)), b"\n")


def compare(folder: Path, manifest: Manifest, entry: MemoryEntry, recorded: Path, known: str = "") -> Compared:
    """The words that a run recorded, against those of the set; words that lack are not compared, as none came.

    `known`: the SHA-256 of the right ones, where a run before has shown it.
    """
    data = recorded.read_bytes() if recorded.is_file() else b""
    tiling = entry.tiling(manifest.array)
    values = tiling.files * tiling.words * tiling.lanes - tiling.added
    if known and sha256(data) == known:
        return Compared(entry.name, known, known, values, values, 0, ())
    wanted = expected_words(folder, manifest, entry)
    digests = sha256(data), sha256(wanted)
    if data == wanted:
        return Compared(entry.name, *digests, values, values, 0, ())
    want, got = (_digits(text, wanted.index(b"\n")) for text in (wanted, data))
    got = got[: len(want)]
    looked_at = tiling.not_added[: len(got)]
    parts = [slice(at, min(at + _PART, len(got))) for at in range(0, len(got), _PART)]
    wrong = [_wrong_lanes(want[part], got[part], entry, tiling.lanes) for part in parts]
    differs = np.concatenate([np.zeros((0, tiling.lanes), np.bool_), *wrong]) & looked_at
    if tiling.added and len(data) == len(wanted) and not differs.any():  # what a skew added is as it came
        digests = sha256(data), sha256(data)
    places = [tuple(map(int, place)) for place in np.argwhere(differs)[:MOST_VALUES]]
    lines = [_line(folder, manifest, entry, tiling, word, lane, want[word], got[word]) for word, lane in places]
    return Compared(entry.name, *digests, values, int(looked_at.sum()), int(differs.sum()), tuple(lines))


def _digits(text: bytes, digits: int) -> NDArray[np.uint8]:
    """(words, digits) characters. What is no such line, which no bench has written, stands as X."""
    lines = text.split(b"\n")[:-1]
    sound = [line if len(line) == digits and not line.translate(None, _HEX) else b"X" * digits for line in lines]
    return np.frombuffer(b"".join(sound), np.uint8).reshape(-1, digits)


_HEX = b"0123456789abcdef" + _UNKNOWN


def _wrong_lanes(want: NDArray[np.uint8], got: NDArray[np.uint8], entry: MemoryEntry, lanes: int) -> NDArray[np.bool_]:
    """Which lanes of which words differ; one that a digit of X or Z reaches into does."""
    unused = want.shape[1] * 4 - entry.word_bits
    unknown = np.repeat(np.isin(got, list(_UNKNOWN)), 4, axis=1)
    bits = (_bits_of(want) != _bits_of(got)) | unknown
    wrong: NDArray[np.bool_] = bits[:, unused:].reshape(len(want), lanes, entry.bits).any(axis=2)
    return wrong


def _bits_of(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for value, digit in enumerate(b"0123456789abcdef"):
        table[digit] = value
    return np.unpackbits(table[digits][..., np.newaxis], axis=2)[..., 4:].reshape(len(digits), 4 * digits.shape[1])


def _line(
    folder: Path,
    manifest: Manifest,
    entry: MemoryEntry,
    tiling: Tiling,
    word: int,
    lane: int,
    want: NDArray[np.uint8],
    got: NDArray[np.uint8],
) -> str:
    """A wrong value: file, line, lane, the element's index in the tensor, what came and what was wanted."""
    number, at = divmod(word, tiling.words)
    path, spec = entry.files[number].path, manifest.spec(entry, number, tiling)
    line = int(entry.format.lines_of((folder / path).read_bytes(), spec, tiling.words)[at])
    index = " ".join(f"{_LABELS.get(axis, axis)}={i}" for axis, i in stored_index(tiling, number, at, lane))
    shown = [_value(bytes(digits), entry, lane) for digits in (got, want)]
    return f"memory={entry.name} file={path} line={line} lane={lane} {index} got={shown[0]} want={shown[1]}"


def _value(digits: bytes, entry: MemoryEntry, lane: int) -> str:
    """A lane of a word as a number, x or z where all its bits are, X or Z where some may be."""
    bits = "".join(chr(digit) * 4 if digit in _UNKNOWN else f"{int(chr(digit), 16):04b}" for digit in digits)
    bits = bits[len(bits) - entry.word_bits :][lane * entry.bits : (lane + 1) * entry.bits]
    if not {*bits} - {"0", "1"}:
        return str(int(bits, 2) - (int(bits[0]) << entry.bits if entry.signed else 0))
    return next((mark for mark in "xz" if {*bits} == {mark}), "X" if "x" in bits.lower() else "Z")


def stored_index(tiling: Tiling, file: int, word: int, lane: int) -> list[tuple[str, int]]:
    """The index of a stored element, axis by axis as the files run through them, images first; that of fill lies beyond
    the tensor."""
    order = tiling.order
    if order.skew or order.has_copies:
        return list((tiling.origin(file, word, lane) or {"fill": 0}).items())
    found: dict[str, int] = {}
    for items, at in ((order.files, file), (order.addresses, word), (order.lanes, lane)):
        parts = [(part, item.reverse) for item in items for part in item.parts]
        for part, reverse in reversed(parts):
            at, own = divmod(at, tiling.sizes[part])
            found[part] = tiling.sizes[part] - 1 - own if reverse else own
    for stage in reversed(order.stages):
        for split in stage:
            value = 0
            for name in split.names:
                value = value * tiling.sizes[name] + found[name]
            for axis in reversed(split.joined[1:]):
                value, found[axis] = divmod(value, tiling.sizes[axis])
            found[split.joined[0]] = value
    right = [part for item in order.right for part in item.parts]
    first = {
        axis: min((right.index(name) for name in split.names if name in right), default=len(right))
        for split in order.stages[0]
        for axis in split.joined
    }
    axes = sorted(order.tensor_axes, key=lambda axis: (axis != IMAGE_AXIS, first[axis]))
    return [(axis, found[axis]) for axis in axes]


def fail_lines(said: Sequence[str], compared: Sequence[Compared], seed: int) -> list[str]:
    """The FAIL lines of a run: the first wrong values, what the bench said itself, the totals.

    `said`: the bench's own FAIL lines; that with its totals, the last one, holds no values and is counted anew.
    """
    own = [line for line in said if not line.startswith("FAIL errors=")]
    values = [f"FAIL {line}" for one in compared for line in one.lines][:MOST_VALUES]
    totals = [f"FAIL memory={one.memory} {one.wrong} of {one.values} values are wrong" for one in compared if one.wrong]
    errors = len(own) + sum(one.wrong for one in compared)
    checked, values_of_all = (sum(getattr(one, name) for one in compared) for name in ("checked", "values"))
    return [*values, *own, *totals, f"FAIL errors={errors} checks={checked} of {values_of_all} seed={seed}"]
