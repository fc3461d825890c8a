"""All memories of a run at once, and whether a cause predicts what the design gives on fresh stimulus."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from qexport.bench.design import Design
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.operations.registry import operation
from qexport.errors import QexportError
from qexport.findings.change import Stage
from qexport.findings.compared import Comparison
from qexport.findings.diagnose import Told, diagnose, holds
from qexport.findings.diagnosis import Cause, Diagnosis
from qexport.findings.shrink import set_layout
from qexport.findings.words import Actual, entry_of, read_actual
from qexport.sets.manifest import capture_of, read_manifest
from qexport.sim.run import simulate
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.work import scratch_folder

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
    first, names = left[0], {cause.name for cause in left[1:]}
    apart = tuple(one for one in found.separations if set(one.names) - {first.name} <= names)
    return replace(
        found, causes=(replace(first, alike=tuple(cause.name for cause in left[1:])), *left[1:]), separations=apart,
        inseparable=tuple(name for name in found.inseparable if name in names),
    )  # fmt: skip


def _said(folder: Path, actual: Actual, seen: Comparison, first: Comparison, cause: Cause | None) -> str:
    """How a memory behind the first wrong one goes with it."""
    name = actual.memory.name
    if not seen.wrong.any():
        return f"memory {name} is right all the same"
    if first.model.tensor == "accumulator" and first.known.all():
        follows = seen.model.stored(seen.model.behind(seen.model.tensor, first.got - first.model.entry.offset))
        if np.array_equal(follows[seen.known], seen.got[seen.known]):
            return f"memory {name} follows from what came back of {first.actual.memory.name}"
    if cause is not None and holds(folder, actual, cause):
        return f"memory {name} is as the cause predicts"
    return f"memory {name} does not follow from it: {int(seen.wrong.sum())} of {seen.wrong.size} values differ"


def confirm(
    folder: Path,
    found: Diagnosis,
    memory: str,
    design: Design,
    fresh: Callable[[], LayerCapture],
    *,
    simulator: str = "auto",
    seed: int = 0,
    limit: float = TIME_LIMIT,
) -> Diagnosis:
    """The diagnosis with what the design gives on fresh stimulus: a cause is certain only where it predicts that too.

    `fresh` makes the stimulus, a capture of the same geometry. Where it cannot be run the diagnosis is as it was.
    """
    if not found.explained or not found.causes:
        return found
    for words in _fresh_words(folder, memory, design, fresh, simulator, seed, limit):
        own, actual = words
        compared = Comparison(own, actual)
        told = int(compared.known.sum()) if compared.wrong.any() else 0
        again = diagnose(own, actual)
        same = [(cause.name, cause.detail) for cause in again.causes if again.explained]
        sure = [cause for cause in found.causes if (cause.name, cause.detail) in same or holds(own, actual, cause)]
        if not sure:
            return replace(found, confirmed=0)
        others = [cause for cause in found.causes if cause in sure[1:]]
        first = replace(sure[0], alike=tuple(cause.name for cause in others))
        return replace(found, causes=(first, *others), confirmed=told)
    return found


def _fresh_words(
    folder: Path,
    memory: str,
    design: Design,
    fresh: Callable[[], LayerCapture],
    simulator: str,
    seed: int,
    limit: float,
) -> Iterator[tuple[Path, Actual]]:
    """A set of the fresh stimulus and what the design gives for its memory; nothing where it cannot be run."""
    manifest = read_manifest(folder)
    with scratch_folder() as scratch:
        try:
            capture = fresh()
            own = dump(capture, set_layout(manifest, capture), scratch / "fresh").folder
            entry_of(read_manifest(own), memory)
            simulate(own, simulator, design, seed=seed, keep=scratch / "run", limit=limit)
            actual = read_actual(own, scratch / "run" / f"{memory}.hex", memory)
        except QexportError:
            return
        yield own, actual
