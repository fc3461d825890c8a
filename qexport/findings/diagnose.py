"""Why what a design gave differs from a set: the golden is run again under each hypothesis and compared."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.base import Need
from qexport.core.operations.registry import require
from qexport.errors import QexportError
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.compared import Comparison
from qexport.findings.diagnosis import Cause, Diagnosis
from qexport.findings.hypotheses.element_kinds import PE_DEAD
from qexport.findings.hypotheses.inputs import LANE_STUCK
from qexport.findings.hypotheses.post import OTHER_LAYER
from qexport.findings.hypotheses.registry import hypotheses
from qexport.findings.hypotheses.words import RESULTS_CONSTANT, WORD_COUNT, WORDS_SHIFTED, X_VALUES
from qexport.findings.model import AnyModel, Model, array_sides
from qexport.findings.separate import separate
from qexport.findings.trial import Scored, Trial, constant_results, name_of
from qexport.findings.words import Actual
from qexport.layout.formats.base import FileFault
from qexport.layout.paths import MANIFEST
from qexport.sets.manifest import Manifest, MemoryEntry, read_manifest

CLOSEST = 3
SHOWN = 0.001  # the least share of a closest hypothesis that is shown
_WHOLE = 1 << 22  # values that are looked at for the causes
_SAMPLE = (4, 32)  # images and output channels with which hypotheses are sorted out
_PAIR_SAMPLE = (1, 4)  # with which pairs are
_FULL_RUNS = 24  # of those that come nearest
_MOST_RUNS = 96  # of those that give all of a sample
_PAIR_RUNS = 48
_PAIR_VALUES = 4  # wrong values at least: fewer fit many pairs, and none of them would be found out
_MOST_STARTS = 4
_TILE_STAGES = (
    Stage.WEIGHT_TILES, Stage.INPUT_TILES, Stage.PATCHES, Stage.SUM, Stage.HISTORY, Stage.RESULT
)  # fmt: skip
_WHOLE_STAGES = (Stage.HISTORY, Stage.RESULT, Stage.WORDS)  # whose changes look at other places, too
_ELEMENTS = 16  # of the array that are named
_SEPARATED = 4  # members of a class for which a vector is looked for
Told = Callable[[str], None]


def diagnose(
    folder: Path, actual: Actual, progress: Told = lambda what: None, behind: Stage = Stage.OPERANDS
) -> Diagnosis:
    """Compare what a design gave with a set, and look for the hypothesis that explains the differences.

    `progress` is told what is tried. `behind`: the stage before which nothing is wrong. Where a file has fewer words
    than the memory, they are looked for at the places where they may belong. Raises as Comparison does.
    """
    require(read_manifest(folder).layer, Need.DIAGNOSIS)
    places = list(Comparison(folder, actual).placements())
    right = [compared for compared in places if not compared.wrong.any()]
    found = [search(places[0], progress, behind)] if not right else [search(right[0], progress, behind)]
    for compared in places[1:]:
        if found[-1].explained:
            return found[-1]
        found.append(search(compared, progress, behind))
    if not found[-1].explained and places[0].movable:
        progress("the place of the words")
        tried = {compared.start for compared in places}
        for start in [start for start in _starts(places[0], behind) if start not in tried][:_MOST_STARTS]:
            if (moved := search(places[0].moved(start), progress, behind)).explained:
                return moved
    return found[-1] if found[-1].explained else found[0]


def _starts(compared: Comparison, behind: Stage) -> Iterator[int]:
    """The words from which a hypothesis that is not solved for, made everywhere, gives all that came."""
    model, nothing = compared.model, np.zeros_like(compared.known)
    came = compared.came
    for change in hypotheses(model, compared.got, nothing):
        if change.stage < behind:
            continue
        words = model.tiling.tile(model.predict((change,))).reshape(-1, came.shape[1])
        for start in np.flatnonzero((words[: len(words) - len(came) + 1] == came[0]).all(axis=1)).tolist():
            if (words[start : start + len(came)] == came).all():
                yield start


def search(compared: Comparison, progress: Told, behind: Stage) -> Diagnosis:
    """Where something differs, and why: of words at their places."""
    actual, found = compared.actual, compared.where()
    if found.differing:
        return replace(found, **(_only_unknown(compared) or _search(compared, progress, behind)))
    if actual.extra or actual.missing:
        first, count = int(np.argmax(actual.there)), int(actual.there.sum())
        if not actual.extra and 0 < first < count and actual.there[-1]:
            detail = f"by -{first} word{'s' * (first > 1)}: the first of the memory did not come"
            return replace(found, causes=(_cause([WORDS_SHIFTED], detail, 1.0),))
        detail = f"{actual.extra} words too many at the end" if actual.extra else actual.lacking
        return replace(found, causes=(_cause([WORD_COUNT], detail, 1.0),))
    return found


def holds(folder: Path, actual: Actual, cause: Cause, anywhere: bool = False) -> bool | None:
    """Whether a cause that was found elsewhere gives these values too; None where nothing is wrong, or no hypothesis of
    this memory has its name. `anywhere`: with whatever detail, where channels and places have other numbers."""
    compared = Comparison(folder, actual)
    if not (compared.wrong & compared.known).any():
        return None
    trial = Trial(compared.model, compared.got, compared.known)
    changes = hypotheses(compared.model, compared.got, compared.known)
    named = [change for change in changes if change.name in cause.name.split(" + ")]
    if not named:
        return None
    if " + " in cause.name:
        scored = _pairs(trial, [replace(change, pair=True) for change in named])
    else:
        scored = [trial.score((change,)) for change in named]
    exact = [one for one in scored if one.all and one.name == cause.name]
    return any(anywhere or one.detail == cause.detail for one in exact)


def _cause(mistakes: Sequence[Mistake], detail: str, share: float, alike: tuple[str, ...] = ()) -> Cause:
    remedies = dict.fromkeys(mistake.remedy for mistake in mistakes)
    return Cause(name_of(mistakes), detail, share, " ".join(remedies), alike)


def _only_unknown(compared: Comparison) -> dict[str, Any] | None:
    """What a Diagnosis says of the cause where all values that are known are right."""
    if (compared.wrong & compared.known).any():
        return None
    also = f", {compared.actual.lacking}" if compared.actual.missing else ""
    detail = f"{compared.unknown} values are X or Z{also}, all others are right"
    return {"causes": (_cause([X_VALUES], detail, 1.0),)}


def _search(compared: Comparison, progress: Told, behind: Stage) -> dict[str, Any]:
    """What a Diagnosis says of the causes: hypotheses, other sets, pairs of hypotheses."""
    model, got, known = _fewer_images(compared)
    told = model is compared.model and bool(((compared.fill != UNKNOWN) & (compared.fill != 0)).any())
    trial = Trial(model, got, known, compared.fill if told else None)
    progress("single mistakes")

    changes = [change for change in hypotheses(model, got, known, fill=trial.fill) if change.stage >= behind]
    constant = constant_results(trial)
    if constant is not None and constant[1]:
        return _constant(compared, trial, changes, constant[0], progress)
    singles = _singles(trial, changes)
    filling = [scored for scored in singles if scored.proven and trial.fills(scored)]
    specific = [scored for scored in singles if scored.proven and scored.scope is None and not _built(scored)]
    if constant is not None and not specific:
        if filling:  # the filled lanes show that it does depend on the data
            return _class(model, filling, [], progress)
        return _constant(compared, trial, changes, constant[0], progress)
    if not any(scored.proven for scored in singles) and isinstance(model, Model):
        singles += _of_other_arrays(model, got, known, behind)
    exact = [scored for scored in singles if scored.proven]
    others = _other_sets(compared.folder, compared.actual) if not exact else None
    if others is not None:
        return {"causes": (_cause([OTHER_LAYER], others, 1.0),)}
    tried = singles
    if not exact and trial.wrong.sum() >= _PAIR_VALUES:
        progress("pairs of mistakes")
        pairs = _pairs(trial, changes)
        exact = [scored for scored in pairs if scored.proven]
        tried = singles + pairs
    if exact:
        exact = [scored for scored in exact if scored in filling or not (filling and scored.of_words)]
        return _class(model, exact, [X_VALUES] if compared.unknown else [], progress)
    return {"causes": _closest(tried), "explained": False}


def _closest(tried: Sequence[Scored]) -> tuple[Cause, ...]:
    """Those that give most, each name once; the whole memory before its parts."""
    best: dict[str, Scored] = {}
    for scored in sorted(tried, key=lambda scored: (-scored.share, scored.part)):
        if scored.share >= SHOWN:
            best.setdefault(scored.name, scored)
    return tuple(_cause(s.mistakes, s.detail, s.share) for s in list(best.values())[:CLOSEST])


def _of_other_arrays(model: Model, got: Int64, known: Bools, behind: Stage) -> list[Scored]:
    """Mistakes of arrays of other sizes, where the layout gives none; up to the first size that explains all."""
    found: list[Scored] = []
    for side in array_sides(model.manifest)[1:]:
        other = Trial(Model(model.manifest, model.capture, model.entry, side), got, known)
        tiles = [replace(change, detail=f"{change.detail} ({side[0]}x{side[1]} array)".strip())
                 for change in hypotheses(other.model, got, known, of_tiles=True)
                 if change.stage in _TILE_STAGES and change.stage >= behind]  # fmt: skip
        found += _singles(other, tiles)
        if any(scored.proven for scored in found):
            break
    return found


def _built(scored: Scored) -> bool:
    """Whether a hypothesis was built for what is wrong, so that it says nothing of results that are constant."""
    return scored.name.startswith("pe_") or scored.name == LANE_STUCK.name or scored.changes[0].cost > 0


def _constant(
    compared: Comparison, trial: Trial, changes: Iterable[Change], detail: str, progress: Told
) -> dict[str, Any]:
    """Of results that do not depend on the data: that they do not, or the lane or column that is stuck; never
    arithmetic."""
    still = [
        one for one in changes if (one.mistake is LANE_STUCK and one.stage is Stage.WORDS) or one.mistake is PE_DEAD
    ]
    stuck = [scored for scored in (trial.score((change,)) for change in still) if scored.all and scored.scope is None]
    if any(scored.name == LANE_STUCK.name for scored in stuck):
        stuck.sort(key=lambda scored: scored.name != LANE_STUCK.name)
        return _class(trial.model, stuck, [], progress)
    others = _other_sets(compared.folder, compared.actual)
    cause = _cause([OTHER_LAYER], others, 1.0) if others is not None else _cause([RESULTS_CONSTANT], detail, 1.0)
    return {"causes": (cause,)}


def _fewer_images(compared: Comparison) -> tuple[AnyModel, Int64, Bools]:
    """So many images that not too many values are looked at: those around the first that has wrong ones."""
    model, got, known = compared.model, compared.got, compared.known
    count = max(1, min(model.images, _WHOLE // math.prod(model.shape[1:])))
    if count >= model.images:
        return model, got, known
    first = int(np.argmax((compared.wrong & known).reshape(model.images, -1).any(axis=1)))
    start = min(max(first - 1, 0) if count > 1 else first, model.images - count)
    part = slice(start, start + count)
    return model.of_images(part.start, part.stop), got[part], known[part]


def _singles(trial: Trial, changes: Sequence[Change]) -> list[Scored]:
    sample = trial.sample(*_SAMPLE)
    if sample is None:
        return [trial.score((change,)) for change in changes]
    whole = {change for change in changes if change.stage in _WHOLE_STAGES}
    sorted_out = [trial.score((change,), sample) for change in changes if change not in whole]
    nearest = sorted(sorted_out, key=lambda scored: (scored.scope is not None, -scored.share))[:_FULL_RUNS]
    kept = {scored.changes[0] for scored in nearest}
    kept |= {scored.changes[0] for scored in [one for one in sorted_out if one.all][:_MOST_RUNS]}
    scores = {change: trial.score((change,)) for change in changes if change in kept or change in whole}
    return [scores[change] for change in changes if change in scores]


def _pairs(trial: Trial, changes: Sequence[Change]) -> list[Scored]:
    """Pairs of changes of different stages that explain what a small sample shows, scored on all values."""
    if not isinstance(trial.model, Model):
        return []
    sample = trial.sample(*_PAIR_SAMPLE)
    chosen = sorted((change for change in changes if change.pair), key=lambda change: change.stage)
    products = trial.model.capture.weight.size * trial.got.size // trial.model.layer.out_channels
    slow = {Stage.HISTORY} if products > 1 << 24 else set()
    slow |= {Stage.RESULT, Stage.WORDS} if trial.got.size > 1 << 18 else set()
    near: list[Scored] = []
    for a, one in enumerate(chosen):
        for other in chosen[a + 1 :]:
            if one.stage == other.stage or one.name == other.name or slow & {one.stage, other.stage}:
                continue
            scored = trial.score((one, other), sample)
            if scored.all and scored.scope is None:
                near.append(scored)
    if sample is None:
        return near
    return [trial.score(scored.changes) for scored in near[:_PAIR_RUNS]]


def _class(model: AnyModel, exact: Sequence[Scored], beside: Sequence[Mistake], progress: Told) -> dict[str, Any]:
    """Those that give all, the likeliest first: everywhere before in a part. Alike are those that predict the same.

    `beside`: what is wrong with other values.
    """
    ranked = sorted(exact, key=lambda scored: (scored.unsaid, scored.part, scored.cost if scored.part else 0.0))
    best = ranked[0]
    predicted = best.predicted(model)
    members: dict[str, list[Scored]] = {}
    for scored in ranked:
        if np.array_equal(scored.predicted(model), predicted):
            members.setdefault(scored.name, []).append(scored)
    others = [scored[0] for name, scored in members.items() if name != best.name]
    separations, inseparable = [], []
    for other in others[:_SEPARATED]:
        progress(f"a vector that tells {best.name} from {other.name}")
        found = separate(model, best, other)
        if found is None:
            inseparable.append(other.name)
        else:
            separations.append(found)
    causes = [
        _cause([*best.mistakes, *beside], _at_places(members[best.name]), 1.0, tuple(scored.name for scored in others))
    ]
    causes += [_cause([*scored.mistakes, *beside], _at_places(members[scored.name]), 1.0) for scored in others]
    return {"causes": tuple(causes), "separations": tuple(separations), "inseparable": tuple(inseparable)}


def _at_places(alike: Sequence[Scored]) -> str:
    """The detail of the first; of elements of the array all that may be it, for one of them must be looked at."""
    first = alike[0]
    places = [scored.detail for scored in alike if first.part and first.scope is None and scored.scope is None]
    return " or ".join(dict.fromkeys(places[:_ELEMENTS])) if places else first.detail


def _other_sets(folder: Path, actual: Actual) -> str | None:
    """The memory of a set beside this one whose words came back."""
    here = folder.resolve()
    for path in sorted(here.parent.glob(f"*/{MANIFEST}")):
        if path.parent == here:
            continue
        try:
            manifest = read_manifest(path.parent)
        except QexportError:
            continue
        for entry in manifest.memories:
            words = _stored_words(path.parent, manifest, entry, actual.values.shape[1])
            if words is None or len(words) < 2:
                continue
            count = min(len(words), len(actual.values))
            if len(actual.values) - actual.missing != count:
                continue
            got, known = actual.values[:count], actual.known[:count]
            right = (got == words[:count]) | ~known
            if right.all() and 2 * int(known.sum()) >= known.size and len(np.unique(got[known])) > 2:
                return f"the words are those of memory {entry.name} of {path.parent.name}"
    return None


def _stored_words(folder: Path, manifest: Manifest, entry: MemoryEntry, lanes: int) -> Int64 | None:
    """All words of a memory, (words, lanes); None when it is another width or cannot be read."""
    try:
        tiling = entry.tiling(manifest.array)
        if tiling.lanes != lanes:
            return None
        files = [
            entry.format.words_of((folder / file.path).read_bytes(), manifest.spec(entry, at, tiling), file.words)
            for at, file in enumerate(entry.files)
        ]
        return np.concatenate(files)
    except (QexportError, FileFault, OSError):
        return None
