"""How well hypotheses give what came back, everywhere or in a part, and how much it says that they do."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.model import AnyModel, Model, Sample
from qexport.findings.scope import WORDS, Scope, scopes

BITS = 16.0  # of evidence that a cause needs: some thousands of hypotheses are tried; a part of the memory costs more
_REPEATED = 4  # words that are the same, at least


def _drawn(counts: Int64) -> float:
    """Bits of values that come so often each, as if they were drawn from what they are."""
    return float((counts * np.log2(counts.sum() / counts)).sum())


def name_of(mistakes: Iterable[Mistake]) -> str:
    return " + ".join(mistake.name for mistake in mistakes)


@dataclass(frozen=True)
class Scored:
    """How well changes predict: `share` of the wrong values, whether all, and how many values they say nothing of.

    `scope`: the part in which alone they are made; None: everywhere. `bits`: how surprising it is that they predict
    all, where they do.
    """

    changes: tuple[Change, ...]
    share: float
    all: bool
    unsaid: int
    scope: Scope | None = None
    bits: float = 0.0

    @property
    def mistakes(self) -> list[Mistake]:
        return sorted((change.mistake for change in self.changes), key=lambda mistake: mistake.name)

    @property
    def name(self) -> str:
        return name_of(self.mistakes)

    @property
    def detail(self) -> str:
        details = [change.detail for change in sorted(self.changes, key=lambda c: c.name) if change.detail]
        return "; ".join([*details, *([f"only in {self.scope.text}"] if self.scope else [])])

    @property
    def cost(self) -> float:
        """Bits of evidence that were used up: to choose the part, and to work out what is in it."""
        return (0.0 if self.scope is None else self.scope.cost) + sum(change.cost for change in self.changes)

    @property
    def part(self) -> bool:
        """Whether it was made for a part of the memory."""
        return self.scope is not None or any(change.within is not None for change in self.changes)

    @property
    def of_words(self) -> bool:
        """Whether it says what whole words hold, their filled lanes too."""
        return self.scope is None and any(change.stage is Stage.WORDS for change in self.changes)

    @property
    def proven(self) -> bool:
        """Whether it gives all, and that is no chance."""
        return self.all and self.bits >= BITS + self.cost

    def predicted(self, model: AnyModel) -> Int64:
        """What the memory would hold."""
        values = model.predict(self.changes)
        return values if self.scope is None else np.where(self.scope.mask, values, model.golden)


class Trial:
    """Scores of hypotheses against what came back; `fill`: in the lanes that are filled, (files, words, lanes)."""

    def __init__(self, model: AnyModel, got: Int64, known: Bools, fill: Int64 | None = None):
        self.model, self.got, self.known, self.fill = model, got, known, fill
        self.wrong = known & (got != model.golden)

    @cached_property
    def scopes(self) -> list[Scope]:
        return scopes(self.model, self.wrong)

    @cached_property
    def _surprise(self) -> float:
        """Bits of all wrong values: each drawn from what they are, and what they are told with them, as values or as
        errors."""
        got, want = self.got[self.wrong], self.model.golden[self.wrong]
        values, counts = np.unique(got, return_counts=True)
        drawn = _drawn(counts)
        if len(got) < 2:
            return drawn
        errors, of_errors = np.unique(got - want, return_counts=True)
        span = math.log2(max(int(values[-1]), int(want.max())) - min(int(values[0]), int(want.min())) + 1)
        sizes = np.minimum(2 * np.log2(np.abs(errors.astype(np.float64)) + 1) + 1, span)
        return max(drawn, min(drawn + span * len(values), _drawn(of_errors) + float(sizes.sum())))

    def score(self, changes: tuple[Change, ...], sample: Sample | None = None) -> Scored:
        values = self.model.predict(changes, sample)
        got, known, wrong, place = self.got, self.known, self.wrong, None
        if values.shape != got.shape:
            assert sample is not None
            place = self.model.place(sample, got.ndim)
            got, known, wrong = got[place], known[place], wrong[place]
        said = values != UNKNOWN
        agree = values == got
        every, wanted, fixed = int(wrong.sum()), int((wrong & said).sum()), int((wrong & agree).sum())
        spoilt = known & ~wrong & said & ~agree
        broken, unsaid = int(spoilt.sum()), int((known & ~said).sum())
        if not wanted or (sample is None and 4 * fixed < every):  # it says too little
            return Scored(changes, min((fixed - broken) / max(every, 1), 0.5), False, unsaid)
        if fixed == every and broken:
            for scope in self.scopes:
                if not (spoilt & (scope.mask if place is None else scope.mask[place])).any():
                    told = known & said & (scope.mask if place is None else scope.mask[place])
                    bits = 0.0 if sample is not None else self._bits(told, every)
                    return Scored(changes, 1.0, True, unsaid, scope, bits)
        exact = fixed == wanted and not broken
        for change in changes if sample is None else ():
            said = said if change.within is None else said & change.within
        bits = self._bits(known & said, wanted) if exact and sample is None else 0.0
        return Scored(changes, (fixed - broken) / wanted, exact, unsaid, None, bits)

    def _bits(self, told: Bools, wrong: int) -> float:
        """How much it says that all places and values are right: which are wrong of those told, and what they read."""
        told_of = max(int(told.sum()), wrong)
        places = math.lgamma(told_of + 1) - math.lgamma(wrong + 1) - math.lgamma(told_of - wrong + 1)
        return places / math.log(2) + self._surprise * wrong / max(int(self.wrong.sum()), 1)

    def fills(self, scored: Scored) -> bool:
        """Whether a hypothesis, made everywhere, also says what stands in filled lanes, where that is not 0."""
        if self.fill is None or scored.scope is not None:
            return False
        words = self.model.words(scored.changes)
        return bool(((words == self.fill) | (self.fill == UNKNOWN) | (words == UNKNOWN)).all())

    def sample(self, images: int, outputs: int) -> Sample | None:
        """The images and output channels with most wrong values; None when that is all there are."""
        model, axis = self.model, self.model.channel_axis
        if not isinstance(model, Model):
            return None
        layer = model.layer
        by_image = self.wrong.sum(axis=tuple(range(1, self.wrong.ndim)))
        taken = np.sort(np.argsort(-by_image, kind="stable")[:images])
        taken = taken[by_image[taken] > 0]
        counts = self.wrong[taken].sum(axis=tuple(a for a in range(self.wrong.ndim) if a != axis))
        per_group = layer.out_channels // layer.groups
        group = int(np.argmax(counts)) // per_group
        of_group = counts[group * per_group : (group + 1) * per_group]
        channels = np.sort(np.argsort(-of_group, kind="stable")[:outputs])
        channels = channels[of_group[channels] > 0] + group * per_group
        if len(channels) == layer.out_channels and len(taken) == model.images:
            return None
        return Sample(taken, channels)


def constant_results(trial: Trial) -> tuple[str, bool] | None:
    """Where results do not depend on the data, and whether none of them does: else it is all that is wrong.

    None where they do, or where the right ones hardly differ either.
    """
    m, got, known, wrong = trial.model, trial.got, trial.known, trial.wrong
    golden = m.golden
    if not wrong.any() or len(np.unique(golden[known])) < 3:
        return None
    values = np.unique(got[known])
    if len(values) == 1:
        return f"every value is {values[0]}", True
    if len(values) == 2 and len(np.unique(golden[known])) > 4 * len(values) and known.sum() > 32:
        return f"every value is {values[0]} or {values[1]}", True
    whole = _one_for_each_channel(trial)
    part = None if whole is not None else _constant_part(trial)
    return whole if part is None else (part, False)


def _one_for_each_channel(trial: Trial) -> tuple[str, bool] | None:
    m = trial.model
    arrays = (trial.got, trial.known, trial.wrong, m.golden)
    front = [np.moveaxis(array, m.channel_axis, 0).reshape(m.channels, -1) for array in arrays]
    constant, told, counts = [], 0, 0
    for channel, (came, sure, bad, want) in enumerate(zip(*front, strict=True)):
        if bad.any():
            if (came[sure] != came[sure][0]).any():
                return None
            if (want[sure] != want[sure][0]).any():
                constant.append(channel)
                told += int(sure.sum()) - 1
        counts += int(sure.sum())
    if not constant or told < 8:
        return None
    if len(constant) == m.channels:
        return "one value for each channel", True
    shown = ", ".join(map(str, constant[:4])) + (f" and {len(constant) - 4} more" if len(constant) > 4 else "")
    return f"channel{'s' * (len(constant) > 1)} {shown}: one value", False


def _constant_part(trial: Trial) -> str | None:
    """The part with all that is wrong in which every value is one, or every word, where that is more than chance."""
    m, golden = trial.model, trial.model.golden
    values, counts = np.unique(golden[trial.known], return_counts=True)
    for scope in trial.scopes:
        inside = trial.known & scope.mask
        came = trial.got[inside]
        often = int(counts[values == came[0]].sum())
        bits = -np.log2((often + 1) / (int(trial.known.sum()) + len(values)))  # of a right value that is the same
        if (came == came[0]).all() and bits * int((trial.wrong & inside).sum()) >= BITS + scope.cost:
            return f"every value is {came[0]}, only in {scope.text}"
    blocks, sure = m.tiling.tile(trial.got), m.tiling.tile(trial.known.astype(np.int64)) == 1
    for scope in trial.scopes:
        words = (m.tiling.tile(scope.mask.astype(np.int64)) == 1).any(axis=2)
        if not scope.text.startswith(WORDS) or len(came := blocks[words]) < _REPEATED:
            continue
        told = (golden_words := m.tiling.tile(golden)[words])[(came != golden_words).any(axis=1)]
        if ((came == came[0]) | ~sure[words]).all() and len(np.unique(told, axis=0)) >= _REPEATED:
            return f"every word is the same, only in {scope.text}"
    return None
