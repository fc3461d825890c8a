"""Words that were lost, doubled, held or exchanged on their way out: each is looked for where it belongs."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.model import AnyModel

_HANDSHAKE = "hold data and valid until ready, and count a word once; it may pass with --seed 0."
WORDS_LOST = Mistake("words_lost", f"Words are lost in the stream: {_HANDSHAKE}")
WORDS_DOUBLED = Mistake("words_doubled", f"Words go over twice: {_HANDSHAKE}")
WORDS_HELD = Mistake(
    "words_held", "The word before stands in place of these: advance the data with each word that goes."
)
WORDS_SWAPPED = Mistake("words_swapped", "Words go over in pairs in the wrong order: see the two buffers or banks.")
WORDS_EARLY = Mistake("words_early", "The word behind stands in place of these: hold the data until its word has gone.")
_REACH = 8  # words that may be lost at once
_SHOWN = 4
_RUN = 3  # words that must go on as they should


def stream_mistakes(m: AnyModel, blocks: Int64, known: Bools) -> Iterator[Change]:
    """`blocks`, `known`: what came back, (files, words, lanes); the files are one stream."""
    golden = m.tiling.tile(m.golden)
    lanes = golden.shape[2]
    want, got, sure = golden.reshape(-1, lanes), blocks.reshape(-1, lanes), known.reshape(-1, lanes)
    same = (want == got) | ~sure
    if len(want) < 2 * _RUN or same.all():
        return
    found = _aligned(want, got, sure)
    none = np.empty(0, np.int64)
    source, lost, doubled = found or (none, none, none)
    cost = 12.0 * (len(lost) + len(doubled))
    for mistake, places, others in ((WORDS_LOST, lost, doubled), (WORDS_DOUBLED, doubled, lost)):
        if len(places) and not len(others):
            yield Change(mistake, _said(places), Stage.WORDS, partial(_from, source=source), cost=cost)
    yield from _each_its_neighbour(want, got, sure)
    if len(lost) and len(doubled):
        detail = f"{_said(lost)} lost, {_said(doubled)} doubled"
        yield Change(WORDS_LOST, detail, Stage.WORDS, partial(_from, source=source), cost=cost)


def _from(blocks: Int64, source: Int64) -> Int64:
    """Each word that of its source; UNKNOWN where it has none."""
    flat = blocks.reshape(-1, blocks.shape[2])
    taken = np.where(source[:, np.newaxis] >= 0, flat[np.clip(source, 0, len(flat) - 1)], UNKNOWN)
    return taken.reshape(blocks.shape)


def _each_its_neighbour(want: Int64, got: Int64, sure: Bools) -> Iterator[Change]:
    """All wrong words are the ones before, the ones behind, or the other ones of their pairs."""
    wrong = np.flatnonzero(((want != got) & sure).any(axis=1))
    count = len(want)
    places = np.arange(count)
    other = places ^ 1
    for mistake, where, start in (
        (WORDS_SWAPPED, other, 0),
        (WORDS_SWAPPED, np.where(places > 0, ((places - 1) ^ 1) + 1, 0), 1),
        (WORDS_HELD, places - 1, 0),
        (WORDS_EARLY, places + 1, 0),
    ):
        at = np.clip(where, 0, count - 1)
        if ((want[at[wrong]] != got[wrong]) & sure[wrong]).any() or (where[wrong] != at[wrong]).any():
            continue
        source = places.copy()
        if mistake is WORDS_SWAPPED:
            pairs = np.unique(np.minimum(wrong, where[wrong]))
            source[pairs], source[pairs + 1] = pairs + 1, pairs
            detail = f"pairs from {_said(pairs)}"
        else:
            source[wrong] = where[wrong]
            detail = _said(wrong)
        yield Change(mistake, detail, Stage.WORDS, partial(_from, source=source), cost=6.0 * _pieces(wrong) + start)


def _pieces(places: Int64) -> int:
    """Of how many numbers a list of places is made: one step, or each of them."""
    return 2 if len(places) > 2 and len(np.unique(np.diff(places))) == 1 else len(places)


def _said(places: Int64) -> str:
    steps = np.unique(np.diff(places))
    if len(places) > 2 and len(steps) == 1:
        return (
            f"word {places[0]} and every {steps[0]} behind it" if steps[0] > 1 else f"word {places[0]} to {places[-1]}"
        )
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f"word{'s' * (len(places) > 1)} {', '.join(map(str, places[:_SHOWN]))}{more}"


def _aligned(want: Int64, got: Int64, sure: Bools) -> tuple[Int64, Int64, Int64] | None:
    """Which word of the set each word is, those that are lost, and those that go over twice; None where it is none.

    It goes on as long as words are right; at the first that is not it looks for the least number of words that are
    lost, or doubled, behind which words go on.
    """
    count = len(want)
    source, lost, doubled = np.full(count, -1), list[int](), list[int]()
    at = 0  # the word of the set that should come

    def fits(here: int, there: int) -> bool:
        run = min(_RUN, count - here, count - there)
        return run > 0 and bool(
            ((want[there : there + run] == got[here : here + run]) | ~sure[here : here + run]).all()
        )

    for here in range(count):
        if at >= count:
            break
        if ((want[at] == got[here]) | ~sure[here]).all():
            source[here], at = at, at + 1
            continue
        if len(lost) + len(doubled) > count // 4:
            return None
        skipped = next((by for by in range(1, _REACH + 1) if at + by < count and fits(here, at + by)), None)
        if here and at and ((want[at - 1] == got[here]) | ~sure[here]).all():
            doubled.append(here)
            source[here] = at - 1
        elif skipped is not None:
            lost += range(at, at + skipped)
            at += skipped
            source[here], at = at, at + 1
        else:
            return None
    return source, np.array(lost, np.int64), np.array(doubled, np.int64)
