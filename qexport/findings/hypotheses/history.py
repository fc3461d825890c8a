"""Accumulators that start from what an earlier result left."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

STALE_ACCUMULATOR = Mistake(
    "stale_accumulator", "Clear the accumulator, or load the bias, before the first step of each output."
)


def stale_accumulators(m: Model) -> Iterator[Change]:
    outputs, col = m.layer.out_channels, m.col
    bias = 0 if m.capture.bias is None else m.capture.bias[:, np.newaxis, np.newaxis]

    def arranged(order: str) -> tuple[Callable[[Int64], Int64], Callable[[Int64], Int64]]:
        """(n, oc, oy, ox) to (time, everything else) and back: the results that an accumulator gives one by one."""
        ots = math.ceil(outputs / col)

        def there(values: Int64) -> Int64:
            n, _, oy, ox = values.shape
            full = np.pad(values, ((0, 0), (0, ots * col - outputs), (0, 0), (0, 0))).reshape(n, ots, col, oy * ox)
            axes = {"n": (0, 1, 2, 3), "ot": (1, 0, 2, 3), "n ot": (0, 1, 2, 3), "ot n": (1, 0, 2, 3),
                    "position": (3, 0, 1, 2), "n ot position": (0, 1, 3, 2)}[order]  # fmt: skip
            moved = full.transpose(axes)
            loops = len(order.split())
            return moved.reshape(math.prod(moved.shape[:loops]), -1)

        def back(values: Int64) -> Int64:
            n, _, oy, ox = m.shape[0], outputs, *m.layer.output_plane(m.plane)
            axes = {"n": (0, 1, 2, 3), "ot": (1, 0, 2, 3), "n ot": (0, 1, 2, 3), "ot n": (1, 0, 2, 3),
                    "position": (3, 0, 1, 2), "n ot position": (0, 1, 3, 2)}[order]  # fmt: skip
            sizes = (n, ots, col, oy * ox)
            full = values.reshape([sizes[axis] for axis in axes]).transpose(np.argsort(axes))
            return full.reshape(n, ots * col, oy, ox)[:, :outputs]

        return there, back

    tiles = math.ceil(outputs / col)
    sizes = {"n": m.images, "ot": tiles, "n ot": m.images * tiles * (tiles > 1 and m.images > 1),
             "ot n": m.images * tiles * (tiles > 1 and m.images > 1),
             "position": math.prod(m.layer.output_plane(m.plane)), "n ot position": 2}  # fmt: skip
    names = {"n": "image", "ot": "output tile", "n ot": "output tile or image", "ot n": "image or output tile",
             "position": "position", "n ot position": "word"}  # fmt: skip
    for order in sizes:
        if sizes[order] < 2:
            continue
        there, back = arranged(order)
        for how in ("all before", "the one before", "the one before, after its ReLU"):
            for biased in (False, True) if m.capture.bias is not None else (False,):

                def change(
                    acc: Int64,
                    there: Callable[[Int64], Int64] = there,
                    back: Callable[[Int64], Int64] = back,
                    how: str = how,
                    biased: bool = biased,
                ) -> Int64:
                    own = there(acc if biased else acc - bias)
                    if how == "all before":
                        out = np.cumsum(own, axis=0)
                    else:
                        before = there(acc)[:-1] if "ReLU" in how or biased else own[:-1]
                        before = np.maximum(before, 0) if "ReLU" in how else before
                        out = own.copy()
                        out[1:] += before
                    return back(out) + (0 if biased else bias)

                detail = f"of the {names[order]} before: {how} added" + (", bias too" if biased else "")
                pair = order in ("n", "ot") and how == "all before"
                yield Change(STALE_ACCUMULATOR, detail, Stage.HISTORY, change, pair)
