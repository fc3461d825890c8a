"""Whether a cause predicts what the design gives on fresh stimulus."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from qexport.bench.design import Design
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.errors import QexportError
from qexport.findings.compared import Comparison
from qexport.findings.diagnose import diagnose, holds
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.shrink import set_layout
from qexport.findings.words import Actual, entry_of, read_actual
from qexport.sets.manifest import read_manifest
from qexport.sim.run import simulate
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.work import scratch_folder


def confirm(
    folder: Path,
    found: Diagnosis,
    actual: Actual,
    design: Design,
    fresh: Callable[[], LayerCapture],
    *,
    simulator: str = "auto",
    seed: int = 0,
    limit: float = TIME_LIMIT,
) -> Diagnosis:
    """The diagnosis with what the design gives on fresh stimulus: a cause is certain only where it predicts that too.

    `actual`: what it gave for the set. `fresh` makes the stimulus, a capture of the same geometry. What is proven there
    and gives all that came back here, too, is the cause, even where this set alone says too little. Where the stimulus
    cannot be run the diagnosis is as it was.
    """
    if found.seen or not (found.differing and found.causes):
        return found
    for own, words in _fresh_words(folder, actual.memory.name, design, fresh, simulator, seed, limit):
        compared = Comparison(own, words)
        told = int(compared.known.sum()) if compared.wrong.any() else 0
        again = diagnose(own, words)
        there = list(again.causes) if again.explained else []
        same = [(cause.name, cause.detail) for cause in there]
        sure = [
            cause for cause in found.causes
            if found.explained and ((cause.name, cause.detail) in same or holds(own, words, cause))
        ]  # fmt: skip
        if sure:  # what is solved for has other numbers there
            also = [one for one in found.causes if one not in sure and holds(own, words, one, anywhere=True)]
        else:
            sure, also = [cause for cause in there if holds(folder, actual, cause)], []
        if not sure:
            return replace(found, confirmed=0) if found.explained else found
        return replace(found.of([*sure, *also]), explained=True, confirmed=told)
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
