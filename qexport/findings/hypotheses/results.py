"""Mistakes in the order of results: columns, output tiles, images."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.orders import each_tile_reversed, of_tiles, reordered, wrong_orders
from qexport.findings.hypotheses.weights import COLUMNS_REVERSED, OUTPUT_TILE_ORDER
from qexport.findings.model import AnyModel

IMAGE_ORDER = Mistake("image_order", "Write the images in the order of the input.")


def result_mistakes(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    axis = m.channel_axis
    outputs, col = m.channels, m.col
    ots = math.ceil(outputs / col)

    yield Change(COLUMNS_REVERSED, "", Stage.RESULT, _on_tiles(axis, col, lambda tiles: tiles[:, ::-1]), True)
    if outputs % col:
        used = reordered(axis, each_tile_reversed(outputs, col))
        yield Change(COLUMNS_REVERSED, "only those in use", Stage.RESULT, used)
    if "col" not in m.manifest.array and m.tiling.lanes > 1:
        yield Change(COLUMNS_REVERSED, "lanes of a word reversed", Stage.WORDS, lambda blocks: blocks[:, :, ::-1])
    for detail, tiles, pair in wrong_orders(ots):
        if outputs % col == 0 or tiles[-1] == ots - 1:
            order = of_tiles(outputs, col, tiles)
            yield Change(OUTPUT_TILE_ORDER, detail, Stage.RESULT, reordered(axis, order), pair)
        else:
            yield Change(OUTPUT_TILE_ORDER, detail, Stage.RESULT, _on_tiles(axis, col, reordered(0, tiles)), pair)
    for tile in range(min(ots, 16)) if ots > 1 else ():
        shown = np.arange(outputs)
        stale = (shown // col == tile) & (shown % col + (tile - 1) % ots * col < outputs)
        shown[stale] = shown[stale] % col + (tile - 1) % ots * col
        detail = f"tile {tile} shows the tile before it"
        yield Change(OUTPUT_TILE_ORDER, detail, Stage.RESULT, reordered(axis, shown.tolist()))
    found = _matching(m.golden, actual, known, 0)
    if found is not None:
        yield Change(IMAGE_ORDER, f"images {found} in place of 0..{m.images - 1}", Stage.RESULT, reordered(0, found))
    for detail, images, pair in wrong_orders(m.images):
        yield Change(IMAGE_ORDER, detail, Stage.RESULT, reordered(0, images), pair)
    if m.images > 1:
        late = [max(image - 1, 0) for image in range(m.images)]
        yield Change(IMAGE_ORDER, "late by one image", Stage.RESULT, reordered(0, late))
    for image in range(min(m.images, 16)) if m.images > 1 else ():
        yield Change(IMAGE_ORDER, f"always image {image}", Stage.RESULT, reordered(0, [image] * m.images))


def _on_tiles(axis: int, col: int, change: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    """A change of (output tile, column, ...), ragged tiles with their filled lanes."""

    def changed(values: Int64) -> Int64:
        front = np.moveaxis(values, axis, 0)
        full = np.pad(front, ((0, -len(front) % col), *[(0, 0)] * (front.ndim - 1)))
        out = change(full.reshape(-1, col, *front.shape[1:])).reshape(full.shape)[: len(front)]
        return np.moveaxis(out, 0, axis)

    return changed


def _matching(golden: Int64, actual: Int64, known: Bools, axis: int) -> list[int] | None:
    """For each index along an axis the golden's index whose values the actual shows there; None when one has none."""
    if golden.shape[axis] > 256:
        return None
    want = np.moveaxis(golden, axis, 0)
    got, sure = np.moveaxis(actual, axis, 0), np.moveaxis(known, axis, 0)
    found = []
    for i in range(len(want)):
        fits = [j for j in (i, *range(len(want))) if not ((want[j] != got[i]) & sure[i]).any()]
        if not fits:
            return None
        found.append(fits[0])
    return found if found != list(range(len(want))) else None
