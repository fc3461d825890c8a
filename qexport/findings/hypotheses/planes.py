"""Mistakes with the padded plane and with the windows that are taken from it."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.hypotheses.orders import delayed
from qexport.findings.hypotheses.padding import PADDING_SIDE, PADDING_VALUE, padding_missing
from qexport.findings.model import Model
from qexport.layout.tiling import Tiling

PADDING_SHIFTED = Mistake(
    "padding_shifted", "Move the plane by one position inside its padding: an address is off by one."
)
STRIDE_IGNORED = Mistake("stride_ignored", "Step the window by the layer's stride.")


def plane_mistakes(m: Model) -> Iterator[Change]:
    layer, plane = m.layer, m.plane
    top, bottom, left, right = layer.padding
    fmt = m.facts.formats.input.integer
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = layer.padded_plane(plane)

    def padded_by(mode: str, **keys: int) -> Callable[[Int64], Int64]:
        return lambda codes: np.pad(codes, around, mode, **keys)  # type: ignore[call-overload]

    def placed(above: int, before: int) -> Callable[[Int64], Int64]:
        """The plane at another place of the padded one; what stands over its edges is lost."""

        def change(codes: Int64) -> Int64:
            room = max(abs(above), abs(before), *padded)
            wide = np.pad(codes, ((0, 0), (0, 0), (room, room), (room, room)))
            y, x = room - above, room - before
            return wide[:, :, y : y + padded[0], x : x + padded[1]]

        return change

    if any(layer.padding):
        values = [1, fmt.high, 1 << (fmt.bits - 1), -1, fmt.low, *range(2, min(fmt.high, 256))]
        for value in dict.fromkeys(value for value in values if value):
            yield Change(
                PADDING_VALUE,
                f"{value}",
                Stage.PAD,
                padded_by("constant", constant_values=value),
                value in (1, fmt.high),
            )
        yield from padding_missing(m)
        yield Change(PADDING_VALUE, "the edge repeated", Stage.PAD, padded_by("edge"))
        if plane[0] > max(top, bottom) and plane[1] > max(left, right):
            yield Change(PADDING_VALUE, "the plane mirrored", Stage.PAD, padded_by("reflect"))
        yield Change(PADDING_VALUE, "the plane repeated", Stage.PAD, padded_by("wrap"))
        for above, before in product(
            dict.fromkeys((top, 0, top + bottom, bottom)), dict.fromkeys((left, 0, left + right, right))
        ):
            if (above, before) != (top, left):
                corner = (above, before) in ((0, 0), (top + bottom, left + right))
                detail = f"{above} above, {before} on the left"
                yield Change(PADDING_SIDE, detail, Stage.PAD, placed(above, before), corner)
    for y, x in product((0, 1, -1), repeat=2):
        if (y, x) != (0, 0) and (padded[0] > 1 or not y) and (padded[1] > 1 or not x):
            detail = f"by y={y:+d} x={x:+d}".replace("+0", "0")
            yield Change(PADDING_SHIFTED, detail, Stage.PAD, placed(top + y, left + x), True)
            yield Change(PADDING_SHIFTED, f"{detail}, cyclic", Stage.PLANE, _rolled(y, x))
    for by in (1, -1, padded[1], -padded[1]):
        for edge in ("zero", "cyclic", "carry"):

            def moved(values: Int64, by: int = by, edge: str = edge) -> Int64:
                n, channels = values.shape[:2]
                streams = values.reshape(n, channels, -1).swapaxes(0, 1)
                return delayed(streams, np.full(channels, by), edge).swapaxes(0, 1).reshape(values.shape)

            yield Change(
                PADDING_SHIFTED, f"by {by} addresses of the padded plane ({edge} at the edges)", Stage.PLANE, moved
            )
    if m.tensor != "psum" and layer.stride != (1, 1):
        sy, sx = layer.stride
        yield Change(STRIDE_IGNORED, "", Stage.GATHER, _stepped(m, (1, 1), False), True)
        yield Change(STRIDE_IGNORED, "the larger plane row by row", Stage.GATHER, _stepped(m, (1, 1), True))
        if not m.memory.order.has_bits:
            part = Change(STRIDE_IGNORED, "", Stage.HISTORY, _cut_to_words(m))
            detail = "the larger planes one after the other"
            yield Change(STRIDE_IGNORED, detail, Stage.GATHER, _stepped(m, (1, 1), None), also=(part,))
        for stride, what in (((1, sx), "downwards"), ((sy, 1), "sideways")):
            if stride not in (layer.stride, (1, 1)):
                yield Change(STRIDE_IGNORED, what, Stage.GATHER, _stepped(m, stride, False))


def _rolled(y: int, x: int) -> Callable[[Int64], Int64]:
    return lambda planes: np.roll(planes, (y, x), axis=(2, 3))


def _cut_to_words(m: Model) -> Callable[[Int64], Int64]:
    """Of larger planes, written in the memory's order, as many words as the memory has."""

    def change(values: Int64) -> Int64:
        blocks = Tiling(m.memory.order, values.shape, m.manifest.array, m.entry.bits).tile(values)
        if blocks.shape[::2] != (m.tiling.files, m.tiling.lanes):
            return values[:, :, : m.shape[2], : m.shape[3]]
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
