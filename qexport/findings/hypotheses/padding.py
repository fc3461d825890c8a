"""Mistakes at the edges of the plane: what a window meets outside, and on which side."""

import math
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import pad, patches
from qexport.errors import QexportError
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.layout.tiling import Tiling

PADDING_MISSING = Mistake("padding_missing", "Feed code 0 where the window reaches over the edge of the plane.")
PADDING_VALUE = Mistake("padding_value", "Pad with code 0.")
PADDING_SIDE = Mistake("padding_side", "Pad the sides that the manifest names: top, bottom, left, right.")


def padding_missing(m: Model) -> Iterator[Change]:
    top, _, left, _ = m.layer.padding
    (high, wide), padded = m.plane, m.layer.padded_plane(m.plane)
    y, x = np.ogrid[: padded[0], : padded[1]]
    y, x = y - top, x - left
    flat = y * wide + x  # the address of the position in a plane without padding

    def read(address: Int64, inside: Bools) -> Callable[[Int64], Int64]:
        def change(codes: Int64) -> Int64:
            values = codes.reshape(*codes.shape[:2], -1)[..., np.clip(address, 0, high * wide - 1)]
            return np.where(inside, values, 0)

        return change

    in_plane = (flat >= 0) & (flat < high * wide)
    yield Change(PADDING_MISSING, "addresses run on into the next row", Stage.PAD, read(flat, in_plane), True)
    around = read(flat % (high * wide), np.ones_like(in_plane))
    yield Change(PADDING_MISSING, "addresses run on, round the plane", Stage.PAD, around, True)
    yield Change(PADDING_MISSING, "addresses run on, held at the ends", Stage.PAD, read(flat, np.ones_like(in_plane)))
    yield Change(PADDING_MISSING, "on the left and right only", Stage.PAD, read(flat, (y >= 0) & (y < high) & in_plane))
    rows = np.clip(y, 0, high - 1) * wide + x
    yield Change(PADDING_MISSING, "above and below only", Stage.PAD, read(rows, (x >= 0) & (x < wide)))
    count = np.arange(math.prod(padded)).reshape(padded)
    yield Change(PADDING_MISSING, "the plane alone is streamed", Stage.PAD, read(count, count < high * wide))

    def run_on(codes: Int64) -> Int64:
        n, channels = codes.shape[:2]
        tiles = math.ceil(channels / m.row)
        lanes = np.pad(codes, ((0, 0), (0, tiles * m.row - channels), (0, 0), (0, 0)))
        lanes = lanes.reshape(n, tiles, m.row, -1).transpose(2, 0, 1, 3).reshape(m.row, -1)  # a lane of the memory
        start = np.arange(n * tiles)[:, np.newaxis, np.newaxis] * high * wide
        address = start + flat
        inside = (address >= 0) & (address < lanes.shape[1])
        values = np.where(inside, lanes[:, np.clip(address, 0, lanes.shape[1] - 1)], 0)
        values = values.reshape(m.row, n, tiles, *padded).transpose(1, 2, 0, 3, 4)
        return values.reshape(n, -1, *padded)[:, :channels]

    yield Change(PADDING_MISSING, "addresses run on into the next plane", Stage.PAD, run_on)
    if m.tensor == "psum":
        return
    inner = patches(pad(np.ones((1, 1, *m.plane), np.int64), m.layer), m.layer, m.plane)[0, 0].all(axis=(0, 1))
    if inner.any() and not inner.all():
        yield Change(PADDING_MISSING, "outputs at the border are 0", Stage.RESULT, lambda v: np.where(inner, v, 0))
    bare = msgspec.structs.replace(m.layer, padding=(0, 0, 0, 0))
    try:
        size = bare.output_plane(m.plane)
    except QexportError:  # the kernel is larger than the plane
        return

    def smaller(planes: Int64) -> Int64:
        """The windows that lie inside, in the corner of those that there should be."""
        inside = patches(planes[:, :, top : top + high, left : left + wide], bare, m.plane)
        return np.pad(inside, [*[(0, 0)] * 4, *((0, want - has) for want, has in zip(m.shape[2:], size, strict=True))])

    def corner(values: Int64) -> Int64:
        out = np.zeros_like(values)
        out[:, :, : size[0], : size[1]] = values[:, :, : size[0], : size[1]]
        return out

    def row_by_row(values: Int64) -> Int64:
        out = np.zeros_like(values).reshape(*values.shape[:2], -1)
        out[:, :, : math.prod(size)] = values[:, :, : size[0], : size[1]].reshape(*values.shape[:2], -1)
        return out.reshape(values.shape)

    def word_by_word(blocks: Int64) -> Int64:
        values = m.tiling.untile(blocks)[:, :, : size[0], : size[1]]
        small = Tiling(m.memory.order, values.shape, m.manifest.array, m.entry.bits).tile(values)
        out = np.full_like(blocks, UNKNOWN)
        if small.shape[::2] == blocks.shape[::2]:
            out[:, : small.shape[1]] = small
        return out

    for detail, stage, placed in (
        ("the smaller plane in the corner, else 0", Stage.RESULT, corner),
        ("the smaller plane row by row, 0 behind it", Stage.RESULT, row_by_row),
        ("the smaller planes one after the other", Stage.WORDS, word_by_word),
    ):
        part = Change(PADDING_MISSING, "", stage, placed)
        yield Change(PADDING_MISSING, detail, Stage.GATHER, smaller, also=(part,))
