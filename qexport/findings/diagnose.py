"""Where and why what a design gave differs from a set: the golden is run again under each hypothesis and compared."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.core.operations.base import Need
from qexport.core.operations.registry import operation, require
from qexport.core.printed import Printed, pairs_text
from qexport.core.strength import percent
from qexport.errors import CheckFailed, QexportError
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.ddmin import smallest
from qexport.findings.hypotheses.post import OTHER_LAYER
from qexport.findings.hypotheses.registry import hypotheses
from qexport.findings.hypotheses.words import WORD_COUNT, X_VALUES
from qexport.findings.model import Model, Sample, array_sides
from qexport.findings.words import Actual
from qexport.layout.formats.base import FileFault
from qexport.layout.paths import MANIFEST
from qexport.layout.tiling import describe_index
from qexport.sets.manifest import Manifest, MemoryEntry, capture_of, read_manifest

STRONG = 0.9  # the share from which a cause that does not explain all is reported as the cause
CLOSEST = 3
_WHOLE = 1 << 22  # values that are looked at for the causes
_SAMPLE = (4, 32)  # images and output channels with which hypotheses are sorted out
_PAIR_SAMPLE = (1, 4)  # with which pairs are
_FULL_RUNS = 24  # of those that come nearest
_PAIR_RUNS = 48
_PAIR_VALUES = 4  # wrong values at least: fewer fit many pairs, and none of them would be found out
_TILE_STAGES = (
    Stage.WEIGHT_TILES, Stage.INPUT_TILES, Stage.PATCHES, Stage.SUM, Stage.HISTORY, Stage.RESULT
)  # fmt: skip
_SMALLER_RUNS = 40  # with which such a vector is made smaller
_SEPARATED = 4  # members of a class for which a vector is looked for


@dataclass(frozen=True)
class First:
    """The first value that differs, in the order in which the array produces them; `got` is None where it is X or Z.

    `xor` are the bits that differ, as many as an element has.
    """

    file: str
    line: int
    lane: int
    index: Mapping[str, int]
    got: int | None
    want: int
    difference: int | None
    xor: str | None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line} lane {self.lane} ({describe_index(self.index)})"
        if self.got is None:
            return f"{place}: got X or Z, or nothing, want {self.want}"
        return f"{place}: got {self.got}, want {self.want}, difference {self.difference:+d}, XOR {self.xor}"


@dataclass(frozen=True)
class Separation:
    """A vector that tells two hypotheses apart: with these codes the compared memory would hold other values."""

    names: tuple[str, str]
    vector: str
    index: Mapping[str, int]
    values: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"{self.vector} gives at {describe_index(self.index)} {self.values[0]} with {self.names[0]}, "
            f"{self.values[1]} with {self.names[1]}"
        )


@dataclass(frozen=True)
class Cause:
    """A hypothesis. `share`: of the values that differ, those that it gives, less the right ones that it spoils.

    `alike`: hypotheses that no vector of this set tells from this one.
    """

    name: str
    detail: str
    share: float
    remedy: str
    alike: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


@dataclass(frozen=True)
class Diagnosis(Printed):
    """What differs and why.

    `causes`: the best first, behind it the others of its class; none when nothing differs; when not `explained` the
    closest ones. `shares`: output channel
    -> (y, x) the share of wrong values. `separations`: vectors that tell the class of the first cause apart;
    `inseparable`: its members for which none was found.
    """

    differing: int
    total: int
    first: First | None
    findings: tuple[str, ...]
    shares: Mapping[int, NDArray[np.float64]]
    causes: tuple[Cause, ...]
    explained: bool
    separations: tuple[Separation, ...] = ()
    inseparable: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: how much differs, and the cause."""
        if not self.causes:
            return "; ".join(self.findings) or "nothing differs"
        why = f"{self.causes[0]}" if self.explained else "unexplained"
        return f"{self.differing} of {self.total} values differ: {why}"

    def share_text(self, cause: Cause) -> str:
        """How much a cause explains."""
        if cause.share == 1:
            return f"explains all {self.differing}" if self.differing else "explains it"
        return f"explains {math.floor(1000 * cause.share) / 10:.1f} %"

    def __str__(self) -> str:
        return pairs_text(self.rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """How much differs, the first value that does, and the causes with their remedies."""
        return self.differences + self.reasons

    @property
    def differences(self) -> list[tuple[str, str]]:
        """How much differs, the first value that does, and what else was seen."""
        rows = [("differ", f"{self.differing} of {self.total} values ({percent(self.differing, self.total)})")]
        if self.first is not None:
            rows.append(("first", str(self.first)))
        return rows + [("note", finding) for finding in self.findings]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """The causes, what to do about them, and what would tell them apart; none where nothing differs."""
        if not self.causes:
            return []
        rows = [] if self.explained else [("cause", "unexplained; the closest hypotheses are")]
        for cause in self.causes[:1] if self.explained else self.causes:
            rows.append(("cause" if self.explained else "", f"{cause}, {self.share_text(cause)}"))
            rows.append(("remedy" if self.explained else "", cause.remedy))
        if self.explained and len(self.causes) > 1:
            others = ", ".join(map(str, self.causes[1:]))
            rows.append(("alike", f"no vector of this set tells it from {others}"))
        rows += [("separate", str(separation)) for separation in self.separations]
        if self.inseparable:
            rows.append(("", f"no vector was found that tells it from {', '.join(self.inseparable)}"))
        return rows

    @property
    def map(self) -> list[str]:
        """Lines with a small picture of each channel: a mark for the share of wrong values at each position."""
        return _map(self.shares)

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        shares = {str(channel): shares.tolist() for channel, shares in self.shares.items()}
        return plain | {"summary": self.summary, "shares": shares}


class Comparison:
    """A memory of a set beside what a design gave for it, in the tensor's axes: `got`, `known`, and `wrong` values."""

    def __init__(self, folder: Path, actual: Actual):
        """Raises QexportError when the memory holds no results of the layer, CheckFailed when the set was changed."""
        manifest, entry = read_manifest(folder), actual.memory
        if entry.tensor not in manifest.results:
            there = [m.tensor for m in manifest.memories if m.tensor in manifest.results]
            raise QexportError(
                f"memory: '{entry.name}' holds {entry.tensor}; diagnose compares results: {', '.join(there)}"
            )
        self.folder, self.actual = folder, actual
        capture = capture_of(folder, manifest)
        if entry.tensor in operation(capture, None, manifest.chain).pooled:
            raise QexportError(
                f"memory: '{entry.name}' holds {entry.tensor}, which stands behind a pool, for which there is no "
                "diagnosis yet; store and compare a result before it"
            )
        self.model = Model(manifest, capture.part(0, capture.images), entry, array_sides(manifest)[0])
        tiling = self.model.tiling
        shape = (tiling.files, tiling.words, tiling.lanes)
        self.got = tiling.untile(actual.values.reshape(shape))
        self.known = tiling.untile(actual.known.reshape(shape).astype(np.int64)) != 0
        self.wrong = ~self.known | (self.got != self.model.golden)

    @property
    def unknown(self) -> int:
        """How many values are X or Z, words that are missing not counted."""
        return max(0, int((~self.known).sum()) - self.actual.missing * self.model.tiling.lanes)

    def where(self) -> Diagnosis:
        """Where something differs; nothing is said of the causes."""
        findings = [f"{self.actual.extra} words too many at the end"] if self.actual.extra else []
        first, shares = None, {}
        tiling = self.model.tiling
        filled = tiling.tile(np.zeros(self.wrong.shape, np.int64), fill=1).reshape(self.actual.values.shape) == 1
        if spoilt := int((filled & self.actual.known & (self.actual.values != 0)).sum()):
            findings.append(f"{spoilt} filled lanes of ragged tiles are not 0")
        if self.wrong.any():
            first = _first(self.folder, self.model, self.got, self.known, self.wrong)
            findings += _findings(self.model, self.got, self.known, self.wrong, self.actual.missing)
            shares = _shares(self.model, self.wrong)
        return Diagnosis(int(self.wrong.sum()), self.wrong.size, first, tuple(findings), shares, (), True)


def diagnose(folder: Path, actual: Actual, progress: Callable[[str], None] = lambda what: None) -> Diagnosis:
    """Compare what a design gave with a set, and look for the hypothesis that explains the differences.

    `progress` is told what is tried. Raises as Comparison does.
    """
    require(read_manifest(folder).layer, Need.DIAGNOSIS)
    compared = Comparison(folder, actual)
    found = compared.where()
    if found.differing:
        require(compared.model.layer, Need.DIAGNOSIS, *compared.model.facts.formats.operands.values())
        return replace(found, **(_nothing_known_is_wrong(compared) or _search(compared, progress)))
    if actual.extra:
        return replace(found, causes=(_cause([WORD_COUNT], f"{actual.extra} words too many at the end", 1.0),))
    return found


def _name(mistakes: Iterable[Mistake]) -> str:
    return " + ".join(mistake.name for mistake in mistakes)


def _cause(mistakes: Sequence[Mistake], detail: str, share: float, alike: tuple[str, ...] = ()) -> Cause:
    remedies = dict.fromkeys(mistake.remedy for mistake in mistakes)
    return Cause(_name(mistakes), detail, share, " ".join(remedies), alike)


# --- where ----------------------------------------------------------------------------------------------------------


def _first(folder: Path, model: Model, got: Int64, known: Bools, wrong: Bools) -> First:
    tiling, entry = model.tiling, model.entry
    at = np.unravel_index(
        int(np.argmax(tiling.tile(wrong.astype(np.int64)))), (tiling.files, tiling.words, tiling.lanes)
    )
    file, word, lane = map(int, at)
    index = tiling.origin(file, word, lane)
    assert index is not None
    place = tuple(index.values())
    want, value = int(model.golden[place]), int(got[place])
    path = folder / entry.files[file].path
    try:
        lines = entry.format.lines_of(path.read_bytes(), model.manifest.spec(entry, file, tiling), tiling.words)
    except FileNotFoundError:
        raise CheckFailed(f"{path} is missing; dump the set again") from None
    except FileFault as fault:
        raise CheckFailed(f"{path}:{fault.line}: {fault}; dump the set again") from None
    if len(lines) != tiling.words:
        raise CheckFailed(f"{path} has {len(lines)} words, needs {tiling.words}; dump the set again")
    line = int(lines[word])
    if not known[place]:
        return First(entry.files[file].path, line, lane, index, None, want, None, None)
    element = entry.element
    xor = int(element.encode(np.int64(value)) ^ element.encode(np.int64(want)))  # type: ignore[arg-type]
    return First(entry.files[file].path, line, lane, index, value, want, value - want, f"{xor:0{element.bits}b}")


def _axes(model: Model) -> tuple[str, ...]:
    return model.memory.order.tensor_axes


def _findings(model: Model, got: Int64, known: Bools, wrong: Bools, missing: int) -> list[str]:
    """What all wrong values have in common, in short sentences."""
    words = [f"{missing} words are missing at the end"] if missing else []
    return [
        *words,
        *_along_axes(model, wrong),
        *_in_plane(model, wrong),
        *_in_files(model, wrong),
        *_in_values(got[wrong & known], model.golden[wrong & known], model.golden),
    ]


_AXIS_NAMES = {"n": "image", "oc": "output channel", "it": "input tile", "kh": "tap row", "kw": "tap column",
               "py": "row", "px": "column", "oy": "row", "ox": "column", "bit": "bit"}  # fmt: skip


def _along_axes(model: Model, wrong: Bools) -> Iterator[str]:
    """Axes along which only a few indices have wrong values."""
    for axis, name in enumerate(_axes(model)):
        where = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(where) < min(wrong.shape[axis], 4):
            plural = "s" if len(where) > 1 else ""
            yield f"only {_AXIS_NAMES[name]}{plural} {', '.join(map(str, where))} (of {wrong.shape[axis]})"


def _in_plane(model: Model, wrong: Bools) -> Iterator[str]:
    axes = _axes(model)
    others = tuple(at for at, axis in enumerate(axes) if axis not in model.plane_axes)
    plane = np.asarray(wrong.any(axis=others))
    if min(plane.shape) > 2:
        if not plane[1:-1, 1:-1].any():
            yield "only the border of the plane"
        elif plane[1:-1, 1:-1].sum() == plane.sum():
            yield "only inside the plane, not its border"


def _in_files(model: Model, wrong: Bools) -> Iterator[str]:
    """Lanes, files and words in which all wrong values stand."""
    blocks = model.tiling.tile(wrong.astype(np.int64)) != 0
    lanes = np.flatnonzero(blocks.any(axis=(0, 1)))
    if len(lanes) < min(model.tiling.lanes, 4):
        yield f"only lane{'s' if len(lanes) > 1 else ''} {', '.join(map(str, lanes))} (of {model.tiling.lanes})"
    words = blocks.any(axis=2)
    files = np.flatnonzero(words.any(axis=1))
    if len(files) < min(len(words), 4):
        yield f"only in {', '.join(model.entry.files[file].path for file in files)}"
    if len(files) > 1:
        return
    line = words[files[0]]
    start, stop = int(np.argmax(line)), len(line) - int(np.argmax(line[::-1]))
    if start >= 2 and line[start:].mean() > 0.9:
        yield f"everything from word {start} on" if line[start:].all() else f"nearly all from word {start} on"
    elif start >= 2 and stop == len(line):
        yield f"nothing before word {start}"
    elif stop - start <= 4 < len(line):
        yield f"only word{'s' if stop - start > 1 else ''} {', '.join(map(str, np.flatnonzero(line)))}"


def _in_values(values: Int64, wants: Int64, golden: Int64) -> Iterator[str]:
    """What wrong values that are known have in common, beside the right ones."""
    if len(values) < 2:
        return
    if (values == values[0]).all():
        yield f"every wrong value reads {values[0]}"
    elif ((values - wants) == values[0] - wants[0]).all():
        yield f"every wrong value is off by {values[0] - wants[0]:+d}"
    elif (wants < 0).all() and (golden >= 0).any():
        yield "only values that should be below 0"


def _shares(model: Model, wrong: Bools) -> dict[int, NDArray[np.float64]]:
    """Output channel -> (y, x) the share of wrong values, for the channels that have some."""
    others = tuple(at for at, axis in enumerate(_axes(model)) if axis not in ("oc", *model.plane_axes))
    shares = wrong.mean(axis=others)  # oc stands before the plane in every result
    return {channel: shares[channel] for channel in range(len(shares)) if shares[channel].any()}


_MARKS = ".:+*#"  # no value is wrong, up to a third, up to two thirds, nearly all, all
_SHOWN_CHANNELS, _MAP_SIDE, _MAP_WIDTH = 16, 32, 100


def _map(shares: Mapping[int, NDArray[np.float64]]) -> list[str]:
    if not shares:
        return []
    pictures = []
    for channel, share in list(shares.items())[:_SHOWN_CHANNELS]:
        step = math.ceil(max(share.shape) / _MAP_SIDE)  # cells of a large plane stand for several positions
        cells = np.array([[share[y : y + step, x : x + step].mean() for x in range(0, share.shape[1], step)]
                          for y in range(0, share.shape[0], step)])  # fmt: skip
        lines = ["".join(_MARKS[0 if c == 0 else 4 if c == 1 else 1 + int(3 * c)] for c in row) for row in cells]
        pictures.append([f"oc={channel}", *lines])
    wide = max(len(line) for picture in pictures for line in picture) + 2
    a_row = max(1, _MAP_WIDTH // wide)
    text = []
    for start in range(0, len(pictures), a_row):
        for line in zip(*pictures[start : start + a_row], strict=True):
            text.append("".join(part.ljust(wide) for part in line).rstrip())
    if len(shares) > _SHOWN_CHANNELS:
        text.append(f"and {len(shares) - _SHOWN_CHANNELS} more channels with wrong values")
    return [*text, "y downwards, x to the right; . right, : + * some wrong, # all wrong"]


# --- why ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """How well changes predict: `share` of the wrong values, whether all, and how many values they say nothing of."""

    changes: tuple[Change, ...]
    share: float
    all: bool
    unsaid: int

    @property
    def mistakes(self) -> list[Mistake]:
        return sorted((change.mistake for change in self.changes), key=lambda mistake: mistake.name)

    @property
    def name(self) -> str:
        return _name(self.mistakes)

    @property
    def detail(self) -> str:
        return "; ".join(change.detail for change in sorted(self.changes, key=lambda c: c.name) if change.detail)


class _Trial:
    """Scores of hypotheses against what came back."""

    def __init__(self, model: Model, got: Int64, known: Bools):
        self.model, self.got, self.known = model, got, known
        self.wrong = known & (got != model.golden)

    def score(self, changes: tuple[Change, ...], sample: Sample | None = None) -> _Scored:
        values = self.model.predict(changes, sample)
        got, known, wrong = self.got, self.known, self.wrong
        if values.shape != got.shape:
            assert sample is not None
            place = self.model.place(sample, got.ndim)
            got, known, wrong = got[place], known[place], wrong[place]
        said = values != UNKNOWN
        agree = values == got
        wanted = int((wrong & said).sum())
        fixed, broken = int((wrong & agree).sum()), int((known & ~wrong & said & ~agree).sum())
        if not wanted or (sample is None and 4 * fixed < int(wrong.sum())):  # it says too little
            share = (fixed - broken) / max(int(wrong.sum()), 1)
            return _Scored(changes, min(share, 0.5), False, int((~said).sum()))
        return _Scored(changes, (fixed - broken) / wanted, fixed == wanted and not broken, int((~said).sum()))

    def sample(self, images: int, outputs: int) -> Sample | None:
        """The images and output channels with most wrong values; None when that is all there are."""
        model, axis = self.model, self.model.channel_axis
        layer = model.layer
        if layer.groups == 1 and model.images <= images and layer.out_channels <= outputs:
            return None
        by_image = self.wrong.sum(axis=tuple(range(1, self.wrong.ndim)))
        taken = np.sort(np.argsort(-by_image, kind="stable")[:images])
        counts = self.wrong[taken].sum(axis=tuple(a for a in range(self.wrong.ndim) if a != axis))
        per_group = layer.out_channels // layer.groups
        group = int(np.argmax(counts)) // per_group
        of_group = counts[group * per_group : (group + 1) * per_group]
        channels = np.sort(np.argsort(-of_group, kind="stable")[:outputs]) + group * per_group
        return Sample(taken, channels)


def _nothing_known_is_wrong(compared: Comparison) -> dict[str, Any] | None:
    """What a Diagnosis says of the cause where only words are missing, or values X or Z."""
    if (compared.wrong & compared.known).any():
        return None
    missing = compared.actual.missing
    if not compared.unknown:
        return {"causes": (_cause([WORD_COUNT], f"{missing} words are missing at the end", 1.0),)}
    also = f", {missing} words are missing at the end" if missing else ""
    detail = f"{compared.unknown} values are X or Z{also}, all others are right"
    return {"causes": (_cause([X_VALUES], detail, 1.0),)}


def _search(compared: Comparison, progress: Callable[[str], None]) -> dict[str, Any]:
    """What a Diagnosis says of the causes: hypotheses, other sets, pairs of hypotheses."""
    sides = array_sides(compared.model.manifest)
    model, got, known = _fewer_images(compared)
    trial = _Trial(model, got, known)
    progress("single mistakes")
    singles = _singles(trial, list(hypotheses(model, got, known)))
    for side in sides[1:]:
        if any(scored.all for scored in singles):
            break
        other = _Trial(Model(model.manifest, model.capture, model.entry, side), got, known)
        tiles = [replace(change, detail=f"{change.detail} ({side[0]}x{side[1]} array)".strip())
                 for change in hypotheses(other.model, got, known) if change.stage in _TILE_STAGES]  # fmt: skip
        singles += _singles(other, tiles)
    exact = [scored for scored in singles if scored.all]
    others = _other_sets(compared.folder, compared.actual) if not exact else None
    if others is not None:
        return {"causes": (_cause([OTHER_LAYER], others, 1.0),)}
    tried = singles
    if not exact and trial.wrong.sum() >= _PAIR_VALUES:
        progress("pairs of mistakes")
        pairs = _pairs(trial, list(hypotheses(model, got, known)))
        exact = [scored for scored in pairs if scored.all]
        tried = singles + pairs
    if exact:
        return _class(model, exact, [X_VALUES] if compared.unknown else [], progress)
    ranked = sorted(tried, key=lambda scored: -scored.share)
    best: dict[str, _Scored] = {}
    for scored in ranked:
        best.setdefault(scored.name, scored)
    closest = [_cause(s.mistakes, s.detail, max(s.share, 0.0)) for s in list(best.values())[:CLOSEST]]
    return {"causes": tuple(closest), "explained": closest[0].share >= STRONG}


def _fewer_images(compared: Comparison) -> tuple[Model, Int64, Bools]:
    """So many images that not too many values are looked at: those around the first that has wrong ones."""
    model, got, known = compared.model, compared.got, compared.known
    count = max(1, min(model.images, _WHOLE // math.prod(model.shape[1:])))
    if count >= model.images:
        return model, got, known
    first = int(np.argmax((compared.wrong & known).reshape(model.images, -1).any(axis=1)))
    start = min(max(first - 1, 0) if count > 1 else first, model.images - count)
    part = slice(start, start + count)
    capture = model.capture.part(part.start, part.stop)
    return Model(model.manifest, capture, model.entry, (model.row, model.col)), got[part], known[part]


def _singles(trial: _Trial, changes: Sequence[Change]) -> list[_Scored]:
    sample = trial.sample(*_SAMPLE)
    if sample is None:
        return [trial.score((change,)) for change in changes]
    whole = [change for change in changes if change.stage >= Stage.ACCUMULATOR]
    sorted_out = [trial.score((change,), sample) for change in changes if change.stage < Stage.ACCUMULATOR]
    nearest = sorted(sorted_out, key=lambda scored: -scored.share)[:_FULL_RUNS]
    kept = {scored.changes[0] for scored in nearest} | {scored.changes[0] for scored in sorted_out if scored.all}
    scores = {change: trial.score((change,)) for change in changes if change in kept or change in whole}
    return [scores[change] for change in changes if change in scores]


def _pairs(trial: _Trial, changes: Sequence[Change]) -> list[_Scored]:
    """Pairs of changes of different stages that explain what a small sample shows, scored on all values."""
    sample = trial.sample(*_PAIR_SAMPLE)
    chosen = sorted((change for change in changes if change.pair), key=lambda change: change.stage)
    products = trial.model.capture.weight.size * trial.got.size // trial.model.layer.out_channels
    slow = {Stage.HISTORY} if products > 1 << 24 else set()
    slow |= {Stage.RESULT, Stage.WORDS} if trial.got.size > 1 << 18 else set()
    near: list[_Scored] = []
    for a, one in enumerate(chosen):
        for other in chosen[a + 1 :]:
            if one.stage == other.stage or one.name == other.name or slow & {one.stage, other.stage}:
                continue
            scored = trial.score((one, other), sample)
            if scored.all:
                near.append(scored)
    if sample is None:
        return near
    return [trial.score(scored.changes) for scored in near[:_PAIR_RUNS]]


def _class(
    model: Model, exact: Sequence[_Scored], beside: Sequence[Mistake], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Those that explain all are one class: they predict the same on this set. The likeliest stands first.

    `beside`: what is wrong with other values.
    """
    ranked = sorted(exact, key=lambda scored: scored.unsaid)
    best = ranked[0]
    members: dict[str, _Scored] = {}
    for scored in ranked:
        members.setdefault(scored.name, scored)
    others = [scored for name, scored in members.items() if name != best.name]
    separations, inseparable = [], []
    for other in others[:_SEPARATED]:
        progress(f"a vector that tells {best.name} from {other.name}")
        found = _separate(model, best, other)
        if found is None:
            inseparable.append(other.name)
        else:
            separations.append(found)
    causes = [_cause([*best.mistakes, *beside], best.detail, 1.0, tuple(scored.name for scored in others))]
    causes += [_cause([*scored.mistakes, *beside], scored.detail, 1.0) for scored in others]
    return {"causes": tuple(causes), "separations": tuple(separations), "inseparable": tuple(inseparable)}


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


# --- what separates -------------------------------------------------------------------------------------------------


def _separate(model: Model, one: _Scored, other: _Scored) -> Separation | None:
    """Inputs for which two hypotheses predict different values, as small as found; None when none was found."""
    fmt = model.facts.formats.input.integer
    shape = model.capture.input.shape

    def differs(codes: Int64) -> Separation | None:
        twin = model.with_codes(codes)
        a, b = twin.predict(one.changes), twin.predict(other.changes)
        places = np.argwhere((a != b) & (a != UNKNOWN) & (b != UNKNOWN))
        if not len(places):
            return None
        place = tuple(places[0].tolist())
        index = dict(zip(_axes(model), place, strict=True))
        return Separation((one.name, other.name), _vector_text(codes), index, (int(a[place]), int(b[place])))

    middle = (shape[2] // 2, shape[3] // 2)
    for channel, (y, x) in product(dict.fromkeys((0, shape[1] - 1)), dict.fromkeys((middle, (0, 0)))):
        codes = np.zeros(shape, np.int64)
        codes[0, channel, y, x] = fmt.high
        if found := differs(codes):
            return found
    rng = np.random.default_rng(0)
    codes = rng.integers(fmt.low, fmt.high + 1, shape)
    found = differs(codes)
    if found is None:
        codes = np.full(shape, fmt.high, np.int64)
        found = differs(codes)
    if found is None:
        return None
    return _with_fewer_codes(codes, found, differs)


def _with_fewer_codes(codes: Int64, found: Separation, differs: Callable[[Int64], Separation | None]) -> Separation:
    """The same with as few codes as _SMALLER_RUNS tries find."""
    used, left = np.argwhere(codes), _SMALLER_RUNS

    def still(part: list[int]) -> bool:
        nonlocal found, left
        if not left:
            return False
        left -= 1
        fewer, at = np.zeros_like(codes), tuple(used[part].T)
        fewer[at] = codes[at]
        less = differs(fewer)
        found = found if less is None else less
        return less is not None

    smallest(range(len(used)), still)
    return found


_SHOWN_CODES = 6


def _vector_text(codes: Int64) -> str:
    places = np.argwhere(codes).tolist()
    texts = [f"image={n} channel={c} y={y} x={x} = {int(codes[n, c, y, x])}" for n, c, y, x in places[:_SHOWN_CODES]]
    if len(places) > _SHOWN_CODES:
        if (codes == codes.flat[0]).all():
            return f"input {int(codes.flat[0])} everywhere"
        return f"input of {len(places)} codes other than 0 ({texts[0]}, {texts[1]}, ...), all others 0,"
    return f"input {', '.join(texts)}, all others 0,"
