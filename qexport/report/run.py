"""A run that `simulate --keep` left: what its log says, whether its words are those of the set, and how it went."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qexport.bench.interface import Stream, streams
from qexport.core.budget import LOG_BYTES, read_bytes
from qexport.errors import QexportError
from qexport.findings.compared import Comparison
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.waves import Handshakes, handshakes
from qexport.findings.words import read_actual
from qexport.layout.memory import verilog_name
from qexport.report.blocks import Block, Details, Facts, Note, Section, Tile, marked
from qexport.report.facts import SetFacts
from qexport.report.figure import Figure
from qexport.report.record import Recorded, read_record, record_blocks, record_details
from qexport.report.svg import HALF, WIDE, Series, curves, legend, line, path, rect, text, tone
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sim.keep import RUN
from qexport.sim.tools import WAVES
from qexport.sim.verdict import Verdict

_LINES = 200  # of a log that are shown
_BINS = 120  # of the cycles
_IDLE = 50  # cycles that are drawn behind the last word


@dataclass(frozen=True)
class Result:
    """What came back for one memory: `found` says where it differs, None with `why` where nothing can be said."""

    memory: str
    values: int
    found: Diagnosis | None
    why: str = ""

    @property
    def right(self) -> bool:
        return self.found is not None and not self.found.differing and not self.found.findings


@dataclass
class Run:
    """The folder of a run, and the set that it is of; `verdict`: what `simulate` judged, where the caller has it."""

    folder: Path
    facts: SetFacts
    verdict: Verdict | None = None
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        log = self.folder / RUN
        if not log.is_file():
            raise QexportError(f"run: {self.folder} has no {RUN}; give a folder of `qexport simulate --keep`")
        self.lines = read_bytes(log, LOG_BYTES, "run").decode(errors="replace").splitlines()

    def said(self, word: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f"{word} ")]

    @property
    def measured(self) -> dict[str, float]:
        """The numbers of the bench's DONE line; none where the run did not end."""
        done = self.said("DONE")
        return (
            {name: float(value) for name, value in re.findall(r"(\w+)=(\d{1,15}(?:\.\d{1,9})?)\b", done[-1])}
            if done
            else {}
        )

    @property
    def utilisation(self) -> float:
        """Share of the multipliers that worked in an average cycle; 0 where the log does not say it."""
        return self.measured.get("macs_per_cycle", 0) / max(self.measured.get("multipliers", 1), 1)

    @property
    def wrong(self) -> int:
        """How many values that came back are wrong."""
        return sum(one.found.differing for one in self.results if one.found is not None)

    @property
    def ended_well(self) -> bool:
        """Whether the log says PASS and nothing else; only the words that came back decide."""
        return bool(self.said("PASS")) and not self.said("FAIL")

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against a PASS: the verdict where there is one, the log, the words that came back."""
        if self.verdict is not None and not self.verdict.passed:
            return False
        if self.recorded is not None and (self.recorded.record.result != "PASS" or self.recorded.doubts):
            return False
        there = [one for one in self.results if one.found is not None]
        counted = [f"PASS checks={sum(one.values for one in there)} " in f"{line} " for line in self.said("PASS")]
        return self.ended_well and any(counted) and bool(there) and all(one.right for one in there)

    @cached_property
    def recorded(self) -> Recorded | None:
        """The record of the verdict, where the run has left one."""
        return read_record(self.folder, self.facts)

    @cached_property
    def streams(self) -> Sequence[Stream]:
        return streams(self.facts.manifest) or ()

    @cached_property
    def results(self) -> list[Result]:
        """What came back for each memory that the bench compares."""
        return [self._result(stream) for stream in self.streams if not stream.driven]

    def _result(self, stream: Stream) -> Result:
        words, values = self.folder / f"{verilog_name(stream.memory)}.hex", stream.values
        if not words.is_file():
            return Result(stream.memory, values, None, "not there: the design has no such port, or the run was cut off")
        try:
            found = Comparison(self.facts.folder, read_actual(self.facts.folder, words, stream.memory)).where()
        except QexportError as error:
            said = str(error).replace(str(words), words.name).replace(str(self.facts.folder), self.facts.folder.name)
            return Result(stream.memory, values, None, said)
        return Result(stream.memory, values, found)

    @cached_property
    def waves(self) -> dict[str, Handshakes] | str:
        """The handshakes of the streams by memory, or why there are none."""
        files = [self.folder / f"waves.{kind}" for kind in WAVES if (self.folder / f"waves.{kind}").is_file()]
        if not files:
            return "The run recorded no waves; with `simulate --waves` stalls and throughput are drawn here."
        stems = {f"{stream.prefix}_": stream.memory for stream in self.streams}
        try:
            found = handshakes(files[0], list(stems))
        except QexportError as error:
            return str(error).replace(f"{self.folder}/", "")
        offered = [int(np.flatnonzero(shakes.valid)[-1]) + 1 for shakes in found.values() if shakes.valid.any()]
        stop = max(offered, default=0) + _IDLE  # behind it the bench waits for words too many
        shown = {stems[stem]: Handshakes(one.valid[:stop], one.ready[:stop]) for stem, one in found.items()}
        return shown or "The waves show none of the streams."


def run_tiles(run: Run) -> list[Tile]:
    """The verdict at the head of the page."""
    wrong, values = run.wrong, sum(one.values for one in run.results if one.found is not None)
    judged = run.verdict is not None or run.recorded is not None
    judge = "by nonce, count and words" if judged else "say the log and the words that came back"
    tiles = [Tile("PASS" if run.passed else "FAIL", judge, marked(run.passed))]
    tiles.append(
        Tile(f"{wrong:,}", f"of {values:,} values that came back are wrong", marked(not wrong and bool(values)))
    )
    if measured := run.measured:
        tiles.append(Tile(f"{measured.get('cycles', 0):,.0f}", "cycles until the last word was taken"))
        tiles.append(Tile(f"{measured.get('macs_per_cycle', 0):.3g}", "multiplications a cycle"))
        tiles.append(
            Tile(f"{run.utilisation:.1%}", f"of {measured.get('multipliers', 0):.0f} multipliers worked, on average")
        )
    return tiles


def run_section(run: Run) -> Section:
    blocks: list[Block] = []
    if run.verdict is not None:
        blocks.append(Facts([(key, said.replace(str(run.facts.folder), "the set")) for key, said in run.verdict.rows]))
    elif run.recorded is not None:
        blocks += record_blocks(run.recorded)
    elif not run.streams:
        blocks.append(Note("The set has no self-checking bench, so nothing that came back can be compared.", "warn"))
    elif not run.ended_well and not run.said("FAIL"):
        blocks.append(Note("The log has no verdict: the run was cut off, or something else wrote it.", "bad"))
    rows = [_row(one) for one in run.results]
    blocks.append(Table("What came back", ["memory", "words", "values", "wrong", "seen"], rows))
    blocks += run_blocks(run)
    blocks += record_details(run.recorded) if run.recorded is not None else []
    blocks.append(Details("The log", [Note("\n".join(_shown(run.lines)) or "It is empty.")]))
    known = run.verdict is not None or run.recorded is not None
    nonce = "" if known else " Only `simulate` knows whether a PASS has the nonce of its run."
    said = "The words that came back beside those of the set, read again for this page, and what the bench printed."
    return Section("Run", said + nonce, blocks)


def _row(one: Result) -> list[AnyCell]:
    if one.found is None:
        return [one.memory, Cell("not compared", tone="warn"), one.values, None, one.why]
    state = Cell("right", tone="good") if one.right else Cell("wrong", tone="bad")
    return [one.memory, state, one.values, one.found.differing, "; ".join(one.found.findings)]


def _shown(lines: Sequence[str]) -> list[str]:
    short = [one[:300] for one in (*lines[:_LINES], *lines[_LINES:][-20:])]
    return (
        short
        if len(lines) <= _LINES + 20
        else [*short[:_LINES], f"... {len(lines) - _LINES - 20} lines ...", *short[_LINES:]]
    )


def run_blocks(run: Run) -> list[Block]:
    """Throughput and stalls over time, as far as the run recorded them."""
    blocks: list[Block] = []
    pairs = [re.search(r"cycles=(\d{1,18}) checks=(\d{1,18})", said) for said in run.said("PROGRESS")]
    points = [(0, 0), *((int(found[1]), int(found[2])) for found in pairs if found)]
    if len(points) > 2:
        body = curves(
            [Series("checks", [x for x, _ in points], [y for _, y in points])], "cycle", "values compared", HALF
        )
        blocks.append(
            Figure("progress", "values compared over time", "From the bench's signs of life.", HALF, 260, body)
        )
    waves = run.waves
    blocks.append(Note(waves) if isinstance(waves, str) else streams_figure(waves))
    if not isinstance(waves, str):
        blocks.append(throughput_figure(run, waves))
    return blocks


def _binned(bits: np.ndarray) -> np.ndarray:
    """The share of cycles in which a bit is 1, in equal parts of the run."""
    size = max(1, -(-len(bits) // _BINS))
    starts = np.arange(0, len(bits), size)
    return np.add.reduceat(bits.astype(np.float64), starts) / np.diff([*starts, len(bits)])


def streams_figure(waves: dict[str, Handshakes]) -> Figure:
    """A band for each stream: words that went over, offers that waited, over the cycles."""
    left, wide, high = 120.0, WIDE - 210.0, 34.0
    drawn = [legend([("a word went over", 0, False), ("offered, not taken", 1, False)], left, 12)]
    rows: list[list[Any]] = []
    for at, (memory, shakes) in enumerate(waves.items()):
        y, cycles = 26 + at * (high + 10), len(shakes.valid)
        moved, waited = shakes.valid & shakes.ready, shakes.valid & ~shakes.ready
        drawn.append(text(left - 10, y + high / 2 + 4, memory, "", "end") + rect(left, y, wide, high, "shade"))
        for bits, below, number in ((moved, None, 0), (waited, moved, 1)):
            drawn.append(_area(_binned(bits), None if below is None else _binned(below), left, y, wide, high, number))
        share = moved.mean() if cycles else 0.0
        title = f"{memory}: {int(moved.sum()):,} words in {cycles:,} cycles, {int(waited.sum()):,} cycles of waiting"
        drawn.append(rect(left, y, wide, high, "clear", title))
        drawn.append(text(left + wide + 10, y + high / 2 + 4, f"{share:.1%}", "num"))
        rows.append(
            [memory, int(moved.sum()), int(waited.sum()), int((~shakes.valid).sum()), Cell(f"{share:.1%}", number=True)]
        )
    cycles = max((len(one.valid) for one in waves.values()), default=0)
    bottom = 26 + len(waves) * (high + 10)
    ends = text(left, bottom + 8, "cycle 0", "m num") + text(left + wide, bottom + 8, f"{cycles:,}", "m num", "end")
    table = Table("Streams over the run", ["stream", "words", "waited", "idle", "busy"], rows)
    said = "The height is the share of cycles. A band that is orange waits for whoever should take its words. "
    said += f"{_IDLE} cycles behind the last word are drawn."
    return Figure("streams", "streams over time", said, WIDE, bottom + 16, "".join(drawn) + ends, table)


def _area(values: np.ndarray, below: np.ndarray | None, x: float, y: float, w: float, h: float, number: int) -> str:
    """Steps of a share between 0 and 1, upon another one."""
    base = np.zeros(len(values)) if below is None else below
    step = w / max(len(values), 1)
    top = "".join(
        f"L{x + i * step:.1f} {y + h - h * v:.1f}L{x + (i + 1) * step:.1f} {y + h - h * v:.1f}"
        for i, v in enumerate(base + values)
    )
    bottom = "".join(
        f"L{x + (i + 1) * step:.1f} {y + h - h * base[i]:.1f}L{x + i * step:.1f} {y + h - h * base[i]:.1f}"
        for i in reversed(range(len(base)))
    )
    return path(f"M{top[1:]}{bottom}Z", f"f{tone(number)}") if len(values) else line(x, y + h, x + w, y + h)


def throughput_figure(run: Run, waves: dict[str, Handshakes]) -> Figure:
    """Words that came out until each cycle, as shares of all."""
    series = []
    for number, stream in enumerate(stream for stream in run.streams if stream.memory in waves):
        moved = waves[stream.memory].valid & waves[stream.memory].ready
        sums = np.cumsum(moved) / max(stream.words, 1) * 100
        at = (
            np.unique(np.linspace(0, max(len(sums) - 1, 0), 100).round().astype(int))
            if len(sums)
            else np.array([], int)
        )
        series.append(Series(stream.memory, at.tolist(), sums[at].tolist(), number, stream.driven))
    body = curves(series, "cycle", "words, %", WIDE) if any(one.xs for one in series) else ""
    return Figure("throughput", "words over time", "Dashed: what goes in.", WIDE, 260, body)
