"""All memories of a run at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from qexport.core.operations.registry import operation
from qexport.findings.change import Stage
from qexport.findings.compared import Comparison
from qexport.findings.diagnose import Told, diagnose, holds
from qexport.findings.diagnosis import Cause, Diagnosis
from qexport.findings.words import Actual, read_actual
from qexport.sets.manifest import capture_of, read_manifest

# Where a result is right, nothing before this stage is wrong.
_BEHIND = {"psum": Stage.GATHER, "accumulator": Stage.POST}


def results_of(folder: Path, run: Path) -> list[Actual]:
    """What a run left of the memories of results, in the order of the computation; empty files count as none."""
    manifest = read_manifest(folder)
    found = []
    for tensor in operation(capture_of(folder, manifest), None, manifest.chain).result_names:
        for entry in (memory for memory in manifest.memories if memory.tensor == tensor):
            names = [f"{entry.name}.hex", *(file.path for file in entry.files)]
            there = [run / name for name in names if (run / name).is_file() and (run / name).stat().st_size]
            if there:
                found.append(read_actual(folder, run, entry.name))
    return found


def diagnose_run(folder: Path, run: Path, progress: Told = lambda what: None) -> tuple[Actual, Diagnosis]:
    """The first memory that is wrong, and its diagnosis: causes that the other memories contradict are left out.

    Raises as `diagnose` does, and QexportError where the run left no results.
    """
    actuals = results_of(folder, run)
    if not actuals:
        return (actual := read_actual(folder, run)), diagnose(folder, actual, progress)
    wheres = [(actual, Comparison(folder, actual)) for actual in actuals]
    wrong = [at for at, (actual, seen) in enumerate(wheres) if seen.wrong.any() or actual.missing or actual.extra]
    if not wrong:
        last = actuals[-1]
        return last, diagnose(folder, last, progress)
    first = wrong[0]
    right = [actual.memory for actual, _ in wheres[:first]]
    behind = max((_BEHIND.get(entry.tensor, Stage.POST) for entry in right), default=Stage.OPERANDS)
    actual = actuals[first]
    found = diagnose(folder, actual, progress, behind)
    notes = [f"memory {entry.name} is right" for entry in right]
    later = wheres[first + 1 :]
    if found.explained and later:
        found = _consistent(folder, found, [one for one, _ in later])
    cause = found.causes[0] if found.explained and found.causes else None
    notes += [_said(folder, one, seen, wheres[first][1], cause) for one, seen in later]
    return actual, replace(found, findings=(*found.findings, *notes))


def _consistent(folder: Path, found: Diagnosis, later: list[Actual]) -> Diagnosis:
    """Without the causes that another memory contradicts, where one is left."""
    left = [cause for cause in found.causes if all(holds(folder, one, cause) is not False for one in later)]
    if not left:
        return found
    left += [  # what is solved for may have other numbers there
        cause for cause in found.causes
        if cause not in left and all(holds(folder, one, cause, anywhere=True) is not False for one in later)
    ]  # fmt: skip
    return found.of(left)


def _said(folder: Path, actual: Actual, seen: Comparison, first: Comparison, cause: Cause | None) -> str:
    """How a memory behind the first wrong one goes with it."""
    name = actual.memory.name
    if not seen.wrong.any():
        return f"memory {name} is right all the same" if not actual.lacking else f"memory {name}: {actual.lacking}"
    if first.model.tensor == "accumulator" and first.known.all():
        follows = seen.model.stored(seen.model.behind(seen.model.tensor, first.got - first.model.entry.offset))
        if np.array_equal(follows[seen.known], seen.got[seen.known]):
            return f"memory {name} follows from what came back of {first.actual.memory.name}"
    if cause is not None and holds(folder, actual, cause):
        return f"memory {name} is as the cause predicts"
    return f"memory {name} does not follow from it: {int(seen.wrong.sum())} of {seen.wrong.size} values differ"
