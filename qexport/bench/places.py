"""Where the element of a place belongs: the way back from word and lane to the tensor index, as text of a program."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qexport.layout.order import Split
from qexport.layout.tiling import Tiling


@dataclass(frozen=True)
class Places:
    """What computes the index of the element in lane `lane` of word `at`, the words of all files counted through.

    `steps`: variables in order, each with an expression of `at`, `lane` and those before. The index is that of the
    variables `index` (axis, variable) unless one of the conditions `added` holds, then skew put the element there, or
    one of `fill`. Expressions have + - * / % alone, and whole numbers that are not negative where / and % stand, unless
    one of the conditions holds. `flat`: the number of the element in the tensor, in C order.
    """

    steps: tuple[tuple[str, str], ...]
    index: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    fill: tuple[str, ...]
    flat: str

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.steps)

    @classmethod
    def of(cls, tiling: Tiling) -> "Places":
        return _back(tiling)


def _back(tiling: Tiling) -> Places:
    order, sizes = tiling.order, tiling.sizes
    steps: list[tuple[str, str]] = []
    added: tuple[str, ...] = ()
    lanes = [(part, item.reverse) for item in order.lanes for part in item.parts]
    steps += _digits("lane", lanes, sizes)
    word = f"at % {tiling.words}" if tiling.files > 1 else "at"
    if tiling.delay is not None:
        run, longer, axis = tiling.delay.run, tiling.delay.longer, order.skew
        steps.append(("skewed_word", word))
        steps.append(("run", f"skewed_word % {longer} - {_variable(axis)} * {order.skew_by}"))
        steps.append(("word", f"skewed_word / {longer} * {run} + run"))
        added, word = ("run < 0", f"run >= {run}"), "word"
    addresses = [(part, item.reverse) for item in order.addresses for part in item.parts]
    files = [(part, False) for item in order.files for part in item.parts]
    steps += _digits(word, addresses, sizes)
    steps += _digits(f"at / {tiling.words}", files, sizes)
    fill: list[str] = []
    for stage in reversed(order.stages):
        for split in stage:
            if split.names != split.joined:
                steps += _joined(split, tiling, fill)
    index = tuple((axis, _variable(axis)) for axis in order.tensor_axes)
    strides = [math.prod(tiling.shape[at + 1 :]) for at in range(len(index))]
    flat = _sum((name, stride) for (_, name), stride in zip(index, strides, strict=True))
    return Places(tuple(steps), index, added, tuple(fill), flat)


def _variable(axis: str) -> str:
    """The variable of an axis; no word of a language ends so, and no other variable here."""
    return f"{axis}_"


def _digits(whole: str, parts: Sequence[tuple[str, bool]], sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The indices of axes, each with whether it runs backwards, of which the last runs fastest."""
    stride = math.prod(sizes[part] for part, _ in parts)
    for at, (part, reverse) in enumerate(parts):
        stride //= sizes[part]
        text = _digit(f"({whole})" if " " in whole else whole, stride, sizes[part], first=at == 0)
        yield _variable(part), f"{sizes[part] - 1} - {text}" if reverse and sizes[part] > 1 else text


def _digit(whole: str, stride: int, size: int, first: bool) -> str:
    if size == 1:
        return "0"
    return (whole if stride == 1 else f"{whole} / {stride}") + ("" if first else f" % {size}")


def _joined(split: Split, tiling: Tiling, fill: list[str]) -> Iterator[tuple[str, str]]:
    """The axes that were split into these; conditions under which it was none of their elements go into `fill`."""
    sizes = tiling.sizes
    last = split.names[-1]
    inside = sizes[last] - split.before - split.after  # what the tile advances by
    strides = [inside if split.overlaps else sizes[last]]
    for name in split.names[-2:0:-1]:
        strides.append(strides[-1] * sizes[name])
    outer = zip(split.names[:-1], reversed(strides), strict=True) if len(split.names) > 1 else ()
    whole = _sum((_variable(name), stride) for name, stride in (*outer, (last, 1)))
    size = math.prod(sizes[axis] for axis in split.joined)
    reach = math.prod(sizes[name] for name in split.names[:-1]) * inside + split.before + split.after
    name = _variable(split.joined[0]) if len(split.joined) == 1 else f"{'_'.join(split.joined)}_all"
    yield name, f"{whole} - {split.before}" if split.before else whole
    if split.before:
        fill.append(f"{name} < 0")
    if reach > size:
        fill.append(f"{name} >= {size}")
    if len(split.joined) > 1:
        yield from _digits(name, [(axis, False) for axis in split.joined], sizes)


def _sum(terms: Iterable[tuple[str, int]]) -> str:
    return " + ".join(name if factor == 1 else f"{name} * {factor}" for name, factor in terms)
