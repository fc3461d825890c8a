"""What a simulation said, and whether it counts."""

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from qexport.bench.beside import Beside, beside_rows
from qexport.bench.design import Design
from qexport.build.blind_spots import spots_of
from qexport.build.coverage import coverage_of_set
from qexport.core.coverage import Coverage
from qexport.core.printed import Printed, pairs_text
from qexport.core.strength import COUNTED
from qexport.core.strength import compared as stages_compared
from qexport.errors import CheckFailed
from qexport.layout.paths import MANIFEST, SUMS
from qexport.sets.folder import sha256, sums_text
from qexport.sets.manifest import Manifest, golden_text, layer_text
from qexport.sim.streams import Streams

SHOWN_LINES = 20  # of a failed run


class Killed(CheckFailed):
    """Somebody ended the simulator, such as a machine that is short of memory: nothing is known of the design."""


@dataclass(frozen=True, kw_only=True)
class Verdict(Printed):
    """What a simulation said. `compared` and `not_compared`: memory -> number of its values.

    `failure`: why it is no PASS. `cycles` run from the end of the reset until the last word was taken; `macs` are the
    layer's multiplications (those with padding among them), both 0 where the run failed. `design`: what
    stood in place of the set's own, `beside` what it does beside computing. `kept`: the folder with logs and the words
    that came back; `streams`: the runs; `words`: the SHA-256 of those of each memory, as the bench records them;
    `sources`: that of the design's files by their paths. `isolated`: whether the words were compared after the run, out
    of the design's reach, as benches of qexport 0.1 cannot.
    """

    set: Path
    simulator: str
    version: str
    seed: int
    streams: tuple[Streams, ...] = (Streams("smooth"),)
    compared: dict[str, int]
    not_compared: dict[str, int]
    manifest: Manifest
    design: Design = field(default_factory=Design)
    beside: tuple[Beside, ...] = ()
    kept: Path | None = None
    isolated: bool = True
    words: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    failure: CheckFailed | None = None
    cycles: int = 0
    macs: int = 0

    @property
    def passed(self) -> bool:
        return self.failure is None

    @property
    def checks(self) -> int:
        """How many values were compared, as many as the manifest demands."""
        return sum(self.compared.values())

    @cached_property
    def coverage(self) -> Coverage:
        """What the set's vectors exercise."""
        return coverage_of_set(self.set, self.manifest)

    @property
    def unseen(self) -> str:
        """What no run of this set can see, in a line."""
        stages = stages_compared(entry for entry in self.manifest.memories if entry.name in self.compared)
        operand, flips = self.manifest.strength.first
        lacks = []
        if not stages:
            lacks.append(f"single-bit {operand} errors are not counted, as none of {', '.join(COUNTED)} is compared")
        elif hidden := flips.flips - getattr(flips, next(iter(stages))):
            lacks.append(f"{hidden} of {flips.flips} single-bit {operand} errors")
        lacks += self.coverage.lacks
        if spots := spots_of(self.set, self.manifest):
            lacks.append(f"{len(spots)} permutations of the layout (qexport strength)")
        return "; ".join(lacks) or "nothing that is counted"

    @property
    def multipliers(self) -> int:
        """Of the layout's array; 0 where it has none."""
        array = self.manifest.array
        return array["row"] * array["col"] if {"row", "col"} <= array.keys() else 0

    @property
    def macs_per_cycle(self) -> float:
        return self.macs / max(self.cycles, 1)

    @property
    def utilisation(self) -> float:
        """Share of the array's multipliers that worked in an average cycle; above 1 where the design has more."""
        return self.macs_per_cycle / self.multipliers if self.multipliers else 0.0

    def check(self) -> "Verdict":
        """The verdict itself where it is a PASS; raises its failure, a CheckFailed, where it is not."""
        if self.failure is not None:
            raise self.failure
        return self

    def __str__(self) -> str:
        return pairs_text(self.rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What it says, as pairs of key and text."""
        if self.failure is not None:
            said = [("" if at else "failure", line) for at, line in enumerate(str(self.failure).splitlines())]
            return [("set", str(self.set)), ("simulation", f"FAIL, by {self.simulator} {self.version}"), *said]
        what = f"PASS, {self.checks} values compared by {self.simulator} {self.version}"
        rows = [
            ("set", f"{self.set}, layer {layer_text(self.manifest.layer)}"),
            ("files", f"{self.manifest.file_count} as dumped, layout '{self.manifest.layout.name}'"),
            ("bench", self.manifest.bench_note or "files are what qexport writes for this set"),
            ("golden", golden_text(self.manifest)),
            ("simulation", what),
            ("streams", ", ".join(map(str, self.streams))),
            ("compared", _counts_text(self.compared)),
        ]
        if self.not_compared:
            rows.append(("not compared", f"{_counts_text(self.not_compared)}: the module has no such ports"))
        if not self.isolated:
            rows.append(("trust", "this bench of an older qexport compares inside the simulator and trusts the design"))
        rows += beside_rows(self.beside, self.design.allow)
        speed = f"{self.cycles} cycles, {self.macs_per_cycle:.3g} multiplications a cycle"
        share = f"{self.utilisation:.1%} of" if self.utilisation <= 1 else "more than the layout's array of"
        rows.append((
            "speed",
            f"{speed}, {share} {self.multipliers} multiplier{'s' * (self.multipliers > 1)}"
            if self.multipliers
            else speed,
        ))  # fmt: skip
        rows += [("coverage", str(self.coverage)), ("cannot see", self.unseen)]
        return rows

    def as_json(self) -> dict[str, Any]:
        """For machines: what the command prints with --json."""
        if self.failure is not None:
            return {"set": str(self.set), "result": "FAIL", "why": str(self.failure)}
        names = ("checks", "compared", "not_compared", "seed", "cycles", "macs", "macs_per_cycle", "multipliers",
                 "utilisation", "simulator", "version")  # fmt: skip
        found = {"set": str(self.set), "result": "PASS", "bench": self.manifest.bench_note}
        found |= {name: getattr(self, name) for name in names}
        return found | {
            "streams": list(map(str, self.streams)),
            "beside": msgspec.to_builtins(self.beside),
            "coverage": self.coverage.told,
            "cannot_see": self.unseen,
        }


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{memory} ({count})" for memory, count in counts.items())


def check_words(actual: Path, expected: Path, what: str) -> None:
    """Raises CheckFailed unless the words that the bench wrote are those of the set: a second opinion on its PASS."""
    if not actual.is_file() or not filecmp.cmp(actual, expected, shallow=False):
        raise CheckFailed(
            f"simulate: {what}: PASS, but the words that came back are not those of {expected}; the PASS is forged"
        )


def changed_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files of a set that are not as dumped: path -> what is wrong with it."""
    changed = {}
    named = manifest.named_files() | {MANIFEST: sha256((folder / MANIFEST).read_bytes())}
    if not (folder / SUMS).is_file():
        changed[SUMS] = "is missing"
    elif (folder / SUMS).read_bytes() != sums_text(named).encode():
        changed[SUMS] = "was changed since the dump"
    for path, digest in manifest.named_files().items():
        if not (folder / path).is_file():
            changed[path] = "is missing"
        elif (folder / path).is_symlink():
            changed[path] = "is a link"
        elif sha256((folder / path).read_bytes()) != digest:
            changed[path] = "was changed since the dump"
    return changed


def judge(output: str, status: int, checks: int, nonce: str, what: str) -> None:
    """Raises CheckFailed with the bench's own lines unless the output holds exactly the one PASS that is expected."""
    lines = output.splitlines()
    fails = [line for line in lines if line.startswith("FAIL")]
    passes = [line for line in lines if line.startswith("PASS") and nonce in line]
    if status == 0 and not fails and passes == [f"PASS checks={checks} nonce={nonce}"]:
        return
    if fails:
        raise CheckFailed(failed(fails, what))
    if passes:
        raise CheckFailed(
            f"simulate: {what}: '{passes[0]}' with exit status {status}; needs one PASS of {checks} checks"
        )
    raise CheckFailed(no_verdict(output, status, what))


def failed(fails: Sequence[str], what: str) -> str:
    """The first FAIL lines of a run, and its last one."""
    more = [f"... and {len(fails) - SHOWN_LINES} more FAIL lines"] if len(fails) > SHOWN_LINES else []
    return "\n".join([f"simulate: {what}: FAIL", *fails[:SHOWN_LINES], *more, *fails[SHOWN_LINES:][-1:]])


def no_verdict(output: str, status: int, what: str) -> str:
    """Of a run in which the bench did not come to its end."""
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "nothing")
    return (
        f"simulate: {what}: ended without a verdict (exit status {status}, last line: {last}); "
        "only the bench's own end with this run's nonce counts"
    )
