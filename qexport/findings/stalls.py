"""What a design gives with stalls beside what it gives without: what its handshakes alone do."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qexport.bench.design import Dut
from qexport.errors import QexportError
from qexport.findings.change import Stage
from qexport.findings.compared import Comparison
from qexport.findings.diagnose import Told, diagnose, search
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.stopped import stopped
from qexport.findings.whole_run import diagnose_run, results_of
from qexport.findings.words import Actual
from qexport.sim.run import simulate
from qexport.sim.streams import all_streams
from qexport.sim.supervisor import TIME_LIMIT

STALLING = ("random", "bursts", "blocked", "lazy")


def diagnose_stalled(
    folder: Path, smooth: Actual, stalled: Actual, progress: Told = lambda what: None
) -> tuple[bool, Diagnosis]:
    """Whether stalls change words, and why: the words of a run without stalls stand in place of the set's.

    Where they change none, the diagnosis is that of the words. Raises as `diagnose` does, and QexportError where the
    two are not of one memory.
    """
    if smooth.memory.name != stalled.memory.name:
        raise QexportError(
            f"smooth: it is of memory '{smooth.memory.name}', the words with stalls are of '{stalled.memory.name}'; "
            "give both of one memory, and name it with --memory"
        )
    beside = Comparison(folder, stalled).beside(smooth)
    if not beside.wrong.any() and smooth.missing == stalled.missing:
        found = diagnose(folder, stalled, progress)
        return False, replace(found, findings=(*found.findings, "stalls change nothing"))
    found = search(beside, progress, Stage.OPERANDS)
    without = diagnose(folder, smooth, progress)
    right = "without stalls all words are right"
    note = f"without stalls {without.summary}" if without.differing or without.causes else right
    return True, replace(found, findings=("the words without stalls are compared", *found.findings, note))


def diagnose_both(
    folder: Path, smooth: Path, stalled: Path, progress: Told = lambda what: None
) -> tuple[bool, Actual, Diagnosis]:
    """The same of two runs: of the first memory that stalls change, in the order of the computation, where one is."""
    before = {actual.memory.name: actual for actual in results_of(folder, smooth)}
    for actual in results_of(folder, stalled):
        other = before.get(actual.memory.name)
        if other is None:
            continue
        if not np.array_equal(actual.values, other.values) or not np.array_equal(actual.known, other.known):
            changed, found = diagnose_stalled(folder, other, actual, progress)
            if changed:
                return True, actual, found
    actual, found = diagnose_run(folder, smooth, progress)
    return False, actual, replace(found, findings=(*found.findings, "stalls change nothing"))


def run_both(
    folder: Path, dut: Dut | Sequence[Path], keep: Path, *, simulator: str = "auto", top: str = "dut",
    limit: float = TIME_LIMIT,
) -> tuple[Path, Path | None, str | None]:  # fmt: skip
    """The folders of what a design gives without stalls, and with those that show a fault first, if any do; and where
    it stopped, if it did."""
    smooth, stalled = keep / "smooth", keep / "stalled"
    stop = stopped(simulate(folder, simulator, dut, top=top, keep=smooth, limit=limit))
    if stop is not None:
        return smooth, None, stop
    runs = all_streams(STALLING)
    verdict = simulate(folder, simulator, dut, top=top, streams=runs, keep=stalled, limit=limit)
    stop = stopped(verdict)
    return smooth, None if verdict.passed else stalled, None if stop is None else f"{stop}; only with stalls"
