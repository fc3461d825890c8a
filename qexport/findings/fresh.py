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
