"""Accumulators that start from what an earlier result left."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

STALE_ACCUMULATOR = Mistake(
    "stale_accumulator", "Clear the accumulator, or load the bias, before the first step of each output."
)


# The loops of which each pass starts from what the pass before it left, by names in (image, output tile, column,
# position): how the pass before is called, and the axes with the loops first.
_ORDERS = {
    ("n",): ("image", (0, 1, 2, 3)),
    ("ot",): ("output tile", (1, 0, 2, 3)),
    ("n", "ot"): ("output tile or image", (0, 1, 2, 3)),
    ("ot", "n"): ("image or output tile", (1, 0, 2, 3)),
    ("position",): ("position", (3, 0, 1, 2)),
    ("n", "ot", "position"): ("word", (0, 1, 3, 2)),
    ("position", "col"): ("value", (3, 2, 0, 1)),
    ("ot", "position", "col"): ("value of an image", (1, 3, 2, 0)),
    ("n", "ot", "position", "col"): ("value of all", (0, 1, 3, 2)),
    ("col", "position"): ("value of a tile", (2, 3, 0, 1)),
    ("col",): ("column", (2, 0, 1, 3)),
}


def stale_accumulators(m: Model) -> Iterator[Change]:
    tiles = math.ceil(m.layer.out_channels / m.col)
    sizes = {"n": m.images, "ot": tiles, "position": math.prod(m.layer.output_plane(m.plane)), "col": m.col}
    for loops, (name, axes) in _ORDERS.items():
        if len(loops) < 3 and min(sizes[loop] for loop in loops) < 2:
            continue  # nothing comes before, or one of two loops is the other order
        for how in ("all before", "the one before", "the one before, after its ReLU"):
            for biased in (False, True) if m.facts.added is not None else (False,):
                detail = f"of the {name} before: {how} added" + (", bias too" if biased else "")
                pair = loops in (("n",), ("ot",)) and how == "all before"
                change = _added(m, _Passes(m, len(loops), axes), how, biased)
                yield Change(STALE_ACCUMULATOR, detail, Stage.HISTORY, change, pair)


@dataclass(frozen=True)
class _Passes:
    """The results (n, oc, oy, ox) as (time, everything else): those that an accumulator gives one by one, and back."""

    model: Model
    loops: int
    axes: tuple[int, ...]

    def there(self, values: Int64) -> Int64:
        m = self.model
        n, outputs, oy, ox = values.shape
        full = np.pad(values, ((0, 0), (0, -outputs % m.col), (0, 0), (0, 0))).reshape(n, -1, m.col, oy * ox)
        moved = full.transpose(self.axes)
        return moved.reshape(math.prod(moved.shape[: self.loops]), -1)

    def back(self, values: Int64) -> Int64:
        m = self.model
        n, outputs, (oy, ox) = m.images, m.layer.out_channels, m.layer.output_plane(m.plane)
        sizes = (n, math.ceil(outputs / m.col), m.col, oy * ox)
        full = values.reshape([sizes[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        return full.reshape(n, -1, oy, ox)[:, :outputs]


def _added(m: Model, passes: _Passes, how: str, biased: bool) -> Callable[[Int64], Int64]:
    """What the accumulator held before is added, once or each time; with its bias or without."""
    bias = 0 if m.facts.added is None else m.facts.added[:, np.newaxis, np.newaxis]

    def change(acc: Int64) -> Int64:
        own = passes.there(acc if biased else acc - bias)
        if how == "all before":
            out = np.cumsum(own, axis=0)
        else:
            before = passes.there(acc)[:-1] if "ReLU" in how or biased else own[:-1]
            before = np.maximum(before, 0) if "ReLU" in how else before
            out = own.copy()
            out[1:] += before
        return passes.back(out) + (0 if biased else bias)

    return change
