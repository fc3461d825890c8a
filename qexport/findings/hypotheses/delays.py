"""Lanes or channels of the results that come some steps too late, or too early."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Bools, Change, Stage
from qexport.findings.hypotheses.inputs import SKEW
from qexport.findings.hypotheses.words import WORDS_SHIFTED
from qexport.findings.model import AnyModel

_REACH = 8  # steps
_FEW = 64  # wrong results that are looked at first
_EDGES = ("right", "zero", "cyclic", "carry", "")


@dataclass(frozen=True)
class _Time:
    """How results run past: values to (line, stream, step) and back; the step before a stream's first is the last of
    the stream before."""

    lines: str
    steps: str
    stage: Stage
    shape: tuple[int, ...]  # of the values, its line axis first
    axis: int
    streams: int

    def there(self, values: Int64) -> Int64:
        front = np.moveaxis(values, self.axis, 0)
        return front.reshape(len(front), self.streams, -1)

    def back(self, values: Int64) -> Int64:
        return np.moveaxis(values.reshape(self.shape), 0, self.axis)


def delayed_results(m: AnyModel, actual: Int64, known: Bools, fill: Int64 | None = None) -> Iterator[Change]:
    """The lines that are wrong, all alike late or early: where their results are those of other steps.

    `fill`: what came back in filled lanes, where that says something."""
    if m.tensor == "psum" or m.memory.order.has_bits:
        return
    sure = known.astype(np.int64)
    for time in _times(m):
        arrays = (m.golden, actual, sure)
        if time.stage is Stage.WORDS:
            arrays = (m.tiling.tile(m.golden), m.tiling.tile(actual), m.tiling.tile(sure))
            if fill is not None:
                there = fill != UNKNOWN
                yield from _of(time, *map(time.there, (arrays[0], np.where(there, fill, arrays[1]), arrays[2] | there)))
        yield from _of(time, *map(time.there, arrays))


def _times(m: AnyModel) -> Iterator[_Time]:
    """Channels, image by image and all through; lanes, with each of the outer address axes or all through."""
    axis, size = m.channel_axis, m.channels
    others = [length for at, length in enumerate(m.shape) if at != axis]
    steps = "positions" if len(m.shape) == 4 else "rows"
    for streams, where in ((m.images, f" {steps} of each image"), (1, f" {steps} of all images")):
        yield _Time("output channel", where.strip(), Stage.RESULT, (size, *others), axis, streams)
    tiling = m.tiling
    sizes = [tiling.files, *(tiling.sizes[part] for item in tiling.order.addresses for part in item.parts)]
    if tiling.lanes > 1 and tiling.delay is None:
        names = [part for item in tiling.order.addresses for part in item.parts]
        for fixed in range(1, len(sizes)):
            if fixed == 1 or sizes[fixed - 1] > 1:
                anew = f" of each {' '.join(names[: fixed - 1])}" if fixed > 1 else ""
                shape = (tiling.lanes, tiling.files, tiling.words)
                yield _Time("lane", f"words{anew}", Stage.WORDS, shape, 2, int(np.prod(sizes[:fixed])))


def _of(time: _Time, want: Int64, got: Int64, sure: Int64) -> Iterator[Change]:
    bad = (want != got) & (sure == 1)
    lines = np.flatnonzero(bad.any(axis=(1, 2)))
    steps = want.shape[2]
    if not len(lines) or steps < 4:
        return
    line, stream, step = np.argwhere(bad)[:_FEW].T
    for by in (by for size in range(1, min(_REACH, steps // 2) + 1) for by in (size, -size)):
        there = (step - by >= 0) & (step - by < steps)
        few = line[there], stream[there]
        if (want[(*few, step[there] - by)] != got[(*few, step[there])]).any():
            continue
        for edge in _EDGES:
            given = _moved(want, lines, by, edge)[lines]
            said = (given != UNKNOWN) & (sure[lines] == 1)
            if (given == got[lines])[said].all() and said.any():
                yield _late(time, _all_or(lines, want, got, sure, by, edge), len(want), by, edge)
                break


def _all_or(lines: Int64, want: Int64, got: Int64, sure: Int64, by: int, edge: str) -> Int64:
    """All lines, where those that are right show as much: else those that are wrong."""
    every = np.arange(len(want))
    given = _moved(want, every, by, edge)
    said = (given != UNKNOWN) & (sure == 1)
    return every if (given == got)[said].all() else lines


def _late(time: _Time, lines: Int64, count: int, by: int, edge: str) -> Change:
    way = f"{'late' if by > 0 else 'early'} by {abs(by)}, counted in {time.steps}"
    behind = f", {_EDGE[edge]}" if edge else ""
    change = partial(_apply, time=time, lines=lines, by=by, edge=edge)
    if len(lines) == count:
        return Change(WORDS_SHIFTED, f"all {way}{behind}", time.stage, change)
    detail = f"results of {time.lines}{'s' * (len(lines) > 1)} {_listed(lines)} {way}{behind}"
    return Change(SKEW, detail, time.stage, change, cost=float(min(len(lines), count - len(lines), 8)))


_EDGE = {"right": "the others right", "zero": "0 for the others", "cyclic": "cyclic", "carry": "of the stream before"}


def _apply(values: Int64, time: _Time, lines: Int64, by: int, edge: str) -> Int64:
    return time.back(_moved(time.there(values), lines, by, edge))


def _moved(want: Int64, lines: Int64, by: int, edge: str) -> Int64:
    """(line, stream, step) with some lines so many steps later; `edge`: what stands where no step comes from."""
    out = want.copy()
    some = want[lines]
    if edge == "carry":
        some = some.reshape(len(lines), 1, -1)
    moved = np.roll(some, by, axis=2)
    lost = slice(0, by) if by > 0 else slice(by, None)
    if edge == "right":
        moved[:, :, lost] = some[:, :, lost]
    elif edge == "carry":
        moved[:, :, lost] = 0
    elif edge != "cyclic":
        moved[:, :, lost] = 0 if edge == "zero" else UNKNOWN
    out[lines] = moved.reshape(len(lines), *want.shape[1:])
    return out


def _listed(lines: Int64) -> str:
    if len(lines) > 2 and lines[-1] - lines[0] == len(lines) - 1:
        return f"{lines[0]} to {lines[-1]}"
    return ", ".join(map(str, lines[:6].tolist())) + (f" and {len(lines) - 6} more" if len(lines) > 6 else "")
