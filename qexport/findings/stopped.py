"""A design that stops: what its run says of how far it came."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from qexport.findings.change import Mistake
from qexport.findings.diagnosis import Cause, Diagnosis
from qexport.findings.hypotheses.words import WORD_COUNT
from qexport.findings.whole_run import results_of
from qexport.findings.words import Actual
from qexport.sets.manifest import read_manifest
from qexport.sim.verdict import Verdict

DESIGN_HANGS = Mistake(
    "design_hangs",
    "See what it waits for: counters of words, valid and ready, the last word of each stream, a full or empty buffer.",
)
_TIMEOUT = re.compile(r"timeout after (\d+) cycles")
_CAME = re.compile(r"memory=(\S+) (\d+) of (\d+) words were (taken|delivered)")


def stopped(verdict: Verdict) -> str | None:
    """After how many cycles and words a design stopped; None where it did not."""
    said = str(verdict.failure or "")
    timeout = _TIMEOUT.search(said)
    if timeout is None:
        return None
    came = [f"{name} {count} of {total} words {way}" for name, count, total, way in _CAME.findall(said)]
    return f"after {', '.join(came)}; the bench gave up after {timeout[1]} cycles"


def nothing_came(folder: Path, run: Path, detail: str) -> tuple[Actual, Diagnosis] | None:
    """What is said of a design that stops before its first result; None where there are some."""
    if results_of(folder, run):
        return None
    manifest = read_manifest(folder)
    entry = next(memory for memory in manifest.memories if memory.tensor in manifest.results)
    tiling = entry.tiling(manifest.array)
    words = tiling.files * tiling.words
    values, absent = np.zeros((words, tiling.lanes), np.int64), np.ones(words, np.bool_)
    none = Actual(entry, values, values != 0, words, 0, absent=absent)
    return none, Diagnosis(0, math.prod(tiling.shape), None, (), {}, (_cause(detail),), True, seen=True)


def with_stop(found: Diagnosis, detail: str) -> Diagnosis:
    """A diagnosis of the words that came before a design stopped, which is the cause where all of them are right."""
    if not found.differing or (found.explained and found.causes and found.causes[0].name == WORD_COUNT.name):
        return replace(found, causes=(_cause(detail),), seen=True)
    return replace(found, findings=(*found.findings, f"the design hangs {detail}"))


def _cause(detail: str) -> Cause:
    return Cause(DESIGN_HANGS.name, detail, 1.0, DESIGN_HANGS.remedy)
