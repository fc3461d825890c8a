"""Mistakes with the padded plane and with the windows that are taken from it."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.hypotheses.orders import delayed_planes
from qexport.findings.hypotheses.padding import other_sides, padding_mistakes, placed
from qexport.findings.model import Model
from qexport.layout.tiling import Tiling

PADDING_SHIFTED = Mistake(
    "padding_shifted", "Move the plane by one position inside its padding: an address is off by one."
)
STRIDE_IGNORED = Mistake("stride_ignored", "Step the window by the layer's stride.")


def plane_mistakes(m: Model) -> Iterator[Change]:
    yield from padding_mistakes(m)
    yield from _shifted_planes(m)
    yield from other_sides(m, 1) if any(m.layer.padding) else ()
    if m.layer.stride != (1, 1):
        yield from _other_strides(m)


def _shifted_planes(m: Model) -> Iterator[Change]:
    """The plane at another place, by rows and columns or by addresses."""
    rows, cols = m.layer.padded_plane(m.plane)
    for y, x in product((0, 1, -1), repeat=2):
        if (y, x) != (0, 0) and (rows > 1 or not y) and (cols > 1 or not x):
            detail = f"by y={y:+d} x={x:+d}".replace("+0", "0")
            shifted = placed(m, m.layer.padding[0] + y, m.layer.padding[2] + x)
            yield Change(PADDING_SHIFTED, detail, Stage.PAD, shifted, True)
            yield Change(PADDING_SHIFTED, f"{detail}, cyclic", Stage.PLANE, _rolled(y, x))
    for by in (1, -1, cols, -cols):
        for edge in ("zero", "cyclic", "carry"):
            detail = f"by {by} addresses of the padded plane ({edge} at the edges)"
            late = delayed_planes(np.full(m.layer.in_channels, by), edge)
            yield Change(PADDING_SHIFTED, detail, Stage.PLANE, late)


def _other_strides(m: Model) -> Iterator[Change]:
    """Windows that step by 1 along both axes, or along one, and how the larger planes come back."""
    sy, sx = m.layer.stride
    yield Change(STRIDE_IGNORED, "", Stage.GATHER, _stepped(m, (1, 1), False), True)
    yield Change(STRIDE_IGNORED, "the larger plane row by row", Stage.GATHER, _stepped(m, (1, 1), True))
    if m.one_by_one:
        part = Change(STRIDE_IGNORED, "", Stage.HISTORY, _cut_to_words(m))
        detail = "the larger planes one after the other"
        yield Change(STRIDE_IGNORED, detail, Stage.GATHER, _stepped(m, (1, 1), None), also=(part,))
    for stride, what in (((1, sx), "downwards"), ((sy, 1), "sideways")):
        if stride not in (m.layer.stride, (1, 1)):
            yield Change(STRIDE_IGNORED, what, Stage.GATHER, _stepped(m, stride, False))


def _rolled(y: int, x: int) -> Callable[[Int64], Int64]:
    return lambda planes: np.roll(planes, (y, x), axis=(2, 3))


def _cut_to_words(m: Model) -> Callable[[Int64], Int64]:
    """Of larger planes, written in the memory's order, as many words as the memory has."""

    def change(values: Int64) -> Int64:
        blocks = Tiling(m.memory.order, values.shape, m.manifest.array, m.entry.bits).tile(values)
        rows, cols = m.layer.output_plane(m.plane)
        if blocks.shape[::2] != (m.tiling.files, m.tiling.lanes):
            return values[:, :, :rows, :cols]
        return m.tiling.untile(blocks[:, : m.tiling.words])

    return change


def _stepped(m: Model, stride: tuple[int, int], dense: bool | None) -> Callable[[Int64], Int64]:
    """Windows that step by another stride: the first of each row (False), of the plane (True), or all (None)."""
    rows, cols = m.layer.output_plane(m.plane)
    (kernel_h, kernel_w), (dy, dx) = m.layer.kernel, m.layer.dilation

    def change(planes: Int64) -> Int64:
        high = (planes.shape[2] - dy * (kernel_h - 1) - 1) // stride[0] + 1
        wide = (planes.shape[3] - dx * (kernel_w - 1) - 1) // stride[1] + 1
        out = np.empty((*planes.shape[:2], kernel_h, kernel_w, high, wide), np.int64)
        for kh, kw in product(range(kernel_h), range(kernel_w)):
            out[:, :, kh, kw] = planes[:, :, kh * dy :: stride[0], kw * dx :: stride[1]][:, :, :high, :wide]
        if dense is None:
            return out
        if dense:
            return out.reshape(*out.shape[:4], -1)[..., : rows * cols].reshape(*out.shape[:4], rows, cols)
        return out[..., :rows, :cols]

    return change
