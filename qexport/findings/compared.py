"""A memory of a set beside what a design gave for it, and what wrong values have in common."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.errors import CheckFailed, QexportError
from qexport.findings.change import UNKNOWN, Bools
from qexport.findings.diagnosis import Diagnosis, First
from qexport.findings.model import AnyModel, GivenModel, array_sides, model_of
from qexport.findings.scope import AXIS_NAMES
from qexport.findings.words import Actual
from qexport.layout.formats.base import FileFault
from qexport.sets.manifest import capture_of, read_manifest

_PARTS = 8  # of a memory, such as images, each of which is tried as the place of its words


class Comparison:
    """A memory of a set beside what a design gave for it, in the tensor's axes: `got`, `known`, and `wrong` values."""

    def __init__(self, folder: Path, actual: Actual):
        """Raises QexportError when the memory holds no results of the layer, CheckFailed when the set was changed."""
        manifest, entry = read_manifest(folder), actual.memory
        if entry.tensor not in manifest.results:
            there = [m.tensor for m in manifest.memories if m.tensor in manifest.results]
            raise QexportError(
                f"memory: '{entry.name}' holds {entry.tensor}; diagnose compares results: {', '.join(there)}"
            )
        self.folder, self.actual, self.start = folder, actual, 0
        capture = capture_of(folder, manifest)
        self.model = model_of(manifest, capture.part(0, capture.images), entry, array_sides(manifest)[0])
        self._look()

    def _look(self) -> None:
        actual, tiling = self.actual, self.model.tiling
        shape = (tiling.files, tiling.words, tiling.lanes)
        there = np.broadcast_to(actual.there[:, np.newaxis], actual.values.shape)
        self.got = tiling.untile(actual.values.reshape(shape))
        known, given = (tiling.untile(array.reshape(shape).astype(np.int64)) != 0 for array in (actual.known, there))
        self.known = known & given
        self.wrong = given & (~known | (self.got != self.model.golden))
        self.unknown = int((given & ~known).sum())  # X or Z; words that are missing do not count
        filled = (tiling.tile(np.zeros(self.wrong.shape, np.int64), fill=1) == 1) & actual.known.reshape(shape)
        self.fill = np.where(filled, actual.values.reshape(shape), UNKNOWN)  # of ragged tiles

    @property
    def movable(self) -> bool:
        """Whether the words that came are fewer than there are, and may be any of them."""
        return self.actual.movable and 0 < len(self.came) < len(self.actual.values)

    @property
    def came(self) -> Int64:
        """The words that came, where they are the first."""
        return self.actual.values[: int(self.actual.there.sum())]

    def moved(self, start: int) -> "Comparison":
        """The same words from another one on."""
        moved = object.__new__(Comparison)
        moved.folder, moved.actual, moved.start, moved.model = self.folder, self.actual.moved(start), start, self.model
        moved._look()
        return moved

    def beside(self, other: Actual) -> "Comparison":
        """The same words, compared with what another run gave for the memory."""
        there = Comparison(self.folder, other)
        twin = object.__new__(Comparison)
        twin.folder, twin.actual, twin.start = self.folder, self.actual, self.start
        twin.model = GivenModel(self.model, there.got)
        twin._look()
        twin.known, twin.wrong = twin.known & there.known, twin.wrong & there.known
        return twin

    def placements(self) -> Iterator["Comparison"]:
        """This, and the same words at the places from which they may be, where fewer came than there are."""
        yield self
        if not self.movable:
            return
        total, given = len(self.actual.values), len(self.came)
        golden = self.model.tiling.tile(self.model.stored(self.model.golden)).reshape(self.actual.values.shape)
        starts = range(1, total - given + 1)
        same = [int((golden[start : start + given] == self.came).all(axis=1).sum()) for start in starts]
        best = starts[int(np.argmax(same))]
        likely = [best] if max(same) else []
        likely += range(given, total - given + 1, given) if total % given == 0 and total <= _PARTS * given else []
        yield from map(self.moved, dict.fromkeys(likely))

    def where(self) -> Diagnosis:
        """Where something differs; nothing is said of the causes."""
        findings = [f"{self.actual.extra} words too many at the end"] if self.actual.extra else []
        findings += [self.actual.lacking] if self.actual.lacking else []
        first, shares = None, {}
        if spoilt := int(((self.fill != UNKNOWN) & (self.fill != 0)).sum()):
            findings.append(f"{spoilt} filled lanes of ragged tiles are not 0")
        if self.wrong.any():
            first = _first(self.folder, self.model, self.got, self.known, self.wrong)
            findings += _findings(self.model, self.got, self.known, self.wrong)
            shares = _shares(self.model, self.wrong)
        return Diagnosis(int(self.wrong.sum()), self.wrong.size, first, tuple(findings), shares, (), True)


def _first(folder: Path, model: AnyModel, got: Int64, known: Bools, wrong: Bools) -> First:
    tiling, entry = model.tiling, model.entry
    at = np.unravel_index(
        int(np.argmax(tiling.tile(wrong.astype(np.int64)))), (tiling.files, tiling.words, tiling.lanes)
    )
    file, word, lane = map(int, at)
    index = tiling.origin(file, word, lane)
    assert index is not None
    place = tuple(index.values())
    want, value = int(model.golden[place]), int(got[place])
    path = folder / entry.files[file].path
    try:
        lines = entry.format.lines_of(path.read_bytes(), model.manifest.spec(entry, file, tiling), tiling.words)
    except FileNotFoundError:
        raise CheckFailed(f"{path} is missing; dump the set again") from None
    except FileFault as fault:
        raise CheckFailed(f"{path}:{fault.line}: {fault}; dump the set again") from None
    if len(lines) != tiling.words:
        raise CheckFailed(f"{path} has {len(lines)} words, needs {tiling.words}; dump the set again")
    line = int(lines[word])
    if not known[place]:
        return First(entry.files[file].path, line, lane, index, None, want, None, None)
    element = entry.element
    xor = int(element.encode(np.int64(value)) ^ element.encode(np.int64(want)))  # type: ignore[arg-type]
    return First(entry.files[file].path, line, lane, index, value, want, value - want, f"{xor:0{element.bits}b}")


def _findings(model: AnyModel, got: Int64, known: Bools, wrong: Bools) -> list[str]:
    """What all wrong values have in common, in short sentences."""
    return [
        *_along_axes(model, wrong),
        *_in_plane(model, wrong),
        *_in_files(model, wrong),
        *_in_values(got[wrong & known], model.golden[wrong & known], model.golden),
    ]


def _along_axes(model: AnyModel, wrong: Bools) -> Iterator[str]:
    """Axes along which only a few indices have wrong values."""
    for axis, name in enumerate(model.axes):
        where = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(where) < min(wrong.shape[axis], 4):
            plural = "s" if len(where) > 1 else ""
            yield f"only {AXIS_NAMES[name]}{plural} {', '.join(map(str, where))} (of {wrong.shape[axis]})"


def _in_plane(model: AnyModel, wrong: Bools) -> Iterator[str]:
    if model.axes[-1] not in ("ox", "px"):
        return
    others = tuple(at for at, axis in enumerate(model.axes) if axis not in ("oy", "ox", "py", "px"))
    plane = np.asarray(wrong.any(axis=others))
    if min(plane.shape) > 2:
        if not plane[1:-1, 1:-1].any():
            yield "only the border of the plane"
        elif plane[1:-1, 1:-1].sum() == plane.sum():
            yield "only inside the plane, not its border"


def _in_files(model: AnyModel, wrong: Bools) -> Iterator[str]:
    """Lanes, files and words in which all wrong values stand."""
    blocks = model.tiling.tile(wrong.astype(np.int64)) != 0
    lanes = np.flatnonzero(blocks.any(axis=(0, 1)))
    if len(lanes) < min(model.tiling.lanes, 4):
        yield f"only lane{'s' if len(lanes) > 1 else ''} {', '.join(map(str, lanes))} (of {model.tiling.lanes})"
    words = blocks.any(axis=2)
    files = np.flatnonzero(words.any(axis=1))
    if len(files) < min(len(words), 4):
        yield f"only in {', '.join(model.entry.files[file].path for file in files)}"
    if len(files) > 1:
        return
    line = words[files[0]]
    start, stop = int(np.argmax(line)), len(line) - int(np.argmax(line[::-1]))
    if start >= 2 and line[start:].mean() > 0.9:
        yield f"everything from word {start} on" if line[start:].all() else f"nearly all from word {start} on"
    elif start >= 2 and stop == len(line):
        yield f"nothing before word {start}"
    elif stop - start <= 4 < len(line):
        yield f"only word{'s' if stop - start > 1 else ''} {', '.join(map(str, np.flatnonzero(line)))}"


def _in_values(values: Int64, wants: Int64, golden: Int64) -> Iterator[str]:
    """What wrong values that are known have in common, beside the right ones."""
    if len(values) < 2:
        return
    if (values == values[0]).all():
        yield f"every wrong value reads {values[0]}"
    elif ((values - wants) == values[0] - wants[0]).all():
        yield f"every wrong value is off by {values[0] - wants[0]:+d}"
    elif (wants < 0).all() and (golden >= 0).any():
        yield "only values that should be below 0"


def _shares(model: AnyModel, wrong: Bools) -> dict[int, NDArray[np.float64]]:
    """Channel -> (y, x) the share of wrong values, for the channels that have some; of a matrix product y alone."""
    shown = (model.layer.channel, "m", "oy", "ox", "py", "px")
    others = tuple(at for at, axis in enumerate(model.axes) if axis not in shown)
    left = [axis for axis in model.axes if axis in shown]
    shares = np.moveaxis(wrong.mean(axis=others), left.index(model.layer.channel), 0)
    shares = shares.reshape(*shares.shape, 1) if shares.ndim == 2 else shares
    return {channel: shares[channel] for channel in range(len(shares)) if shares[channel].any()}
