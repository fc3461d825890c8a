"""Mistakes at the edges of the plane: what a window meets outside, and on which side."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, product

import msgspec
import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import pad, patches
from qexport.errors import QexportError
from qexport.findings.change import UNKNOWN, Bools, Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.findings.sampled import Errors, Sampled
from qexport.layout.tiling import Tiling

PADDING_MISSING = Mistake(
    "padding_missing", "Feed code 0 (the input's zero point) where the window reaches over the edge of the plane."
)
PADDING_VALUE = Mistake("padding_value", "Pad with code 0, or the input's zero point where it has one.")
PADDING_SIDE = Mistake("padding_side", "Pad the sides that the manifest names: top, bottom, left, right.")


def padding_mistakes(m: Model) -> Iterator[Change]:
    """What stands around the plane in place of code 0, or on which sides."""
    if not any(m.layer.padding):
        return
    fmt = m.facts.formats.input.integer
    values = [0, 1, fmt.high, 1 << (fmt.bits - 1), -1, fmt.low, *range(2, min(fmt.high, 256))]
    within = [value for value in values if fmt.low <= value <= fmt.high or m.facts.formats.input.table is None]
    for value in dict.fromkeys(value for value in within if value != m.facts.zero):
        change = _padded_by(m, "constant", constant_values=int(m.seen(np.array(value))))
        yield Change(PADDING_VALUE, f"{value}", Stage.PAD, change, value in (1, fmt.high))
    yield from _other_codes(m)
    yield from _zeros_elsewhere(m)
    top, bottom, left, right = m.layer.padding
    yield Change(PADDING_VALUE, "the edge repeated", Stage.PAD, _padded_by(m, "edge"))
    if m.plane[0] > max(top, bottom) and m.plane[1] > max(left, right):
        yield Change(PADDING_VALUE, "the plane mirrored", Stage.PAD, _padded_by(m, "reflect"))
    yield Change(PADDING_VALUE, "the plane repeated", Stage.PAD, _padded_by(m, "wrap"))
    yield from other_sides(m, 0)


def other_sides(m: Model, beyond: int) -> Iterator[Change]:
    """The padding on other sides than it should be; by so many more than it has, too."""
    top, bottom, left, right = m.layer.padding
    rows = (top, 0, top + bottom, bottom, *range(-beyond, top + bottom + 1 + beyond))
    columns = (left, 0, left + right, right, *range(-beyond, left + right + 1 + beyond))
    for above, before in product(dict.fromkeys(rows), dict.fromkeys(columns)):
        within = 0 <= above <= top + bottom and 0 <= before <= left + right
        if (above, before) != (top, left) and within == (not beyond):
            corner = not beyond and (above, before) in ((0, 0), (top + bottom, left + right))
            detail = f"{above} above, {before} on the left"
            yield Change(PADDING_SIDE, detail, Stage.PAD, placed(m, above, before), corner)


def solved_padding(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """The one value that stands on some of the sides, where results tell it."""
    if not any(m.layer.padding) or m.tensor == "psum" or not m.one_by_one:
        return
    terms, errors = Sampled.of(m, actual, known), Errors.of(m, actual, known)
    fmt = m.facts.formats.input.integer
    codes = np.arange(max(fmt.low, -256), min(fmt.high, 256) + 1)
    for text, mask in _sides(m):
        if terms is None or not mask.any():
            continue
        met = (terms.weights * mask[terms.rows, terms.columns]).sum(axis=1)  # by what the value is multiplied
        if not met.all():
            continue
        if errors is not None:
            [more, rest] = divmod(int(errors.off[tuple(index[0] for index in terms.place)]), int(met[0]))
            tried = np.array([] if rest or abs(more) > 1 << fmt.bits + 1 else [more], np.int64)
        else:
            tried = m.seen(codes) - m.blank
        fits = terms.fits(terms.golden + tried[:, np.newaxis] * met) if len(tried) else np.zeros(0, np.bool_)
        for more in tried[fits & (tried != 0)][:2].tolist():
            code = int(m.codes(np.array([m.blank + more]))[0])
            yield Change(PADDING_VALUE, f"{code} {text}", Stage.PAD, _on_sides(m, mask, m.blank + more), cost=8.0)


def _sides(m: Model) -> Iterator[tuple[str, Bools]]:
    """Some of the sides of the padding, with their corners and without them."""
    (high, wide), (rows, cols) = m.plane, m.layer.padded_plane(m.plane)
    y, x = np.ogrid[:rows, :cols]
    y, x = y - m.layer.padding[0], x - m.layer.padding[2]
    sides = {"above": y < 0, "below": y >= high, "on the left": x < 0, "on the right": x >= wide}
    there = {name: np.broadcast_to(side, (rows, cols)) for name, side in sides.items() if side.any()}
    corners = (sides["above"] | sides["below"]) & (sides["on the left"] | sides["on the right"])
    for count in range(1, len(there) + 1):
        for names in combinations(there, count):
            mask = np.logical_or.reduce([there[name] for name in names])
            yield " and ".join(names), mask
            if (mask & corners).any():
                yield f"{' and '.join(names)}, not in the corners", mask & ~corners
    if corners.any():
        yield "in the corners", corners


def _on_sides(m: Model, mask: Bools, value: int) -> Callable[[Int64], Int64]:
    return lambda seen: np.where(mask, value, pad(seen, m.layer, m.blank))


def _padded_by(m: Model, mode: str, **keys: int) -> Callable[[Int64], Int64]:
    top, bottom, left, right = m.layer.padding
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    return lambda codes: np.pad(codes, around, mode, **keys)  # type: ignore[call-overload]


def placed(m: Model, above: int, before: int) -> Callable[[Int64], Int64]:
    """The plane at another place of the padded one; what stands over its edges is lost."""
    rows, cols = m.layer.padded_plane(m.plane)

    def change(codes: Int64) -> Int64:
        room = max(abs(above), abs(before), rows, cols)
        wide = np.pad(codes, ((0, 0), (0, 0), (room, room), (room, room)), constant_values=m.blank)
        y, x = room - above, room - before
        return wide[:, :, y : y + rows, x : x + cols]

    return change


def _other_codes(m: Model) -> Iterator[Change]:
    """Padding that is not masked: other codes are read in its place."""
    (high, wide), padded = m.plane, m.layer.padded_plane(m.plane)
    y, x = np.ogrid[: padded[0], : padded[1]]
    y, x = y - m.layer.padding[0], x - m.layer.padding[2]
    flat = y * wide + x  # the address of the position in a plane without padding
    in_plane = (flat >= 0) & (flat < high * wide)
    everywhere = np.ones_like(in_plane)

    def read(address: Int64, inside: Bools) -> Callable[[Int64], Int64]:
        def change(codes: Int64) -> Int64:
            values = codes.reshape(*codes.shape[:2], -1)[..., np.clip(address, 0, high * wide - 1)]
            return np.where(inside, values, m.blank)

        return change

    yield Change(PADDING_MISSING, "addresses run on into the next row", Stage.PAD, read(flat, in_plane), True)
    around = read(flat % (high * wide), everywhere)
    yield Change(PADDING_MISSING, "addresses run on, round the plane", Stage.PAD, around, True)
    yield Change(PADDING_MISSING, "addresses run on, held at the ends", Stage.PAD, read(flat, everywhere))
    yield Change(PADDING_MISSING, "on the left and right only", Stage.PAD, read(flat, (y >= 0) & (y < high) & in_plane))
    inside = (y >= 0) & (y < high) & (x >= 0) & (x < wide)
    held = np.clip(y, 0, high - 1) * wide + np.clip(x, 0, wide - 1)
    in_rows = (y >= 0) & (y < high)
    for side, there in (
        ("right", (x >= wide) & in_rows), ("left", (x < 0) & in_rows), ("upper side", y < 0), ("lower side", y >= high),
    ):  # fmt: skip
        where = f"on the {side} only"
        if (there & in_plane).any():
            change = read(flat, inside | there & in_plane)
            yield Change(PADDING_MISSING, f"addresses run on, {where}", Stage.PAD, change)
        if there.any():
            yield Change(PADDING_MISSING, f"the edge repeated {where}", Stage.PAD, read(held, inside | there))
    rows = np.clip(y, 0, high - 1) * wide + x
    yield Change(PADDING_MISSING, "above and below only", Stage.PAD, read(rows, (x >= 0) & (x < wide)))
    count = np.arange(math.prod(padded)).reshape(padded)
    yield Change(PADDING_MISSING, "the plane alone is streamed", Stage.PAD, read(count, count < high * wide))
    yield Change(PADDING_MISSING, "addresses run on into the next plane", Stage.PAD, _into_next_planes(m, flat))


def _into_next_planes(m: Model, flat: Int64) -> Callable[[Int64], Int64]:
    """`flat`: the address of each padded position in a plane; those outside are of the planes beside it in a lane."""

    def change(codes: Int64) -> Int64:
        n, channels = codes.shape[:2]
        tiles = math.ceil(channels / m.row)
        lanes = np.pad(codes, ((0, 0), (0, tiles * m.row - channels), (0, 0), (0, 0)))
        lanes = lanes.reshape(n, tiles, m.row, -1).transpose(2, 0, 1, 3).reshape(m.row, -1)  # a lane of the memory
        start = np.arange(n * tiles)[:, np.newaxis, np.newaxis] * math.prod(m.plane)
        address = start + flat
        inside = (address >= 0) & (address < lanes.shape[1])
        values = np.where(inside, lanes[:, np.clip(address, 0, lanes.shape[1] - 1)], m.blank)
        values = values.reshape(m.row, n, tiles, *flat.shape).transpose(1, 2, 0, 3, 4)
        return values.reshape(n, -1, *flat.shape)[:, :channels]

    return change


def _zeros_elsewhere(m: Model) -> Iterator[Change]:
    """Only windows that lie inside the plane are computed; where the others' results are, or which are missing."""
    if m.tensor == "psum" or m.tensor in m.facts.pooled:
        return
    inner = patches(pad(np.ones((1, 1, *m.plane), np.int64), m.layer), m.layer, m.plane)[0, 0].all(axis=(0, 1))
    if inner.any() and not inner.all():
        yield Change(PADDING_MISSING, "outputs at the border are 0", Stage.RESULT, lambda v: np.where(inner, v, 0))
    (top, _, left, _), (high, wide) = m.layer.padding, m.plane
    bare = msgspec.structs.replace(m.layer, padding=(0, 0, 0, 0))
    try:
        size = bare.output_plane(m.plane)
    except QexportError:  # the kernel is larger than the plane
        return

    def smaller(planes: Int64) -> Int64:
        """The windows that lie inside, in the corner of those that there should be."""
        inside = patches(planes[:, :, top : top + high, left : left + wide], bare, m.plane)
        return np.pad(inside, [*[(0, 0)] * 4, *((0, want - has) for want, has in zip(m.shape[2:], size, strict=True))])

    for detail, stage, change in (
        ("the smaller plane in the corner, else 0", Stage.RESULT, _in_corner(size)),
        ("the smaller plane row by row, 0 behind it", Stage.RESULT, _row_by_row(size)),
        ("the smaller planes one after the other", Stage.WORDS, _word_by_word(m, size)),
    ):
        part = Change(PADDING_MISSING, "", stage, change)
        yield Change(PADDING_MISSING, detail, Stage.GATHER, smaller, also=(part,))


def _in_corner(size: tuple[int, int]) -> Callable[[Int64], Int64]:
    def change(values: Int64) -> Int64:
        out = np.zeros_like(values)
        out[:, :, : size[0], : size[1]] = values[:, :, : size[0], : size[1]]
        return out

    return change


def _row_by_row(size: tuple[int, int]) -> Callable[[Int64], Int64]:
    def change(values: Int64) -> Int64:
        out = np.zeros_like(values).reshape(*values.shape[:2], -1)
        out[:, :, : math.prod(size)] = values[:, :, : size[0], : size[1]].reshape(*values.shape[:2], -1)
        return out.reshape(values.shape)

    return change


def _word_by_word(m: Model, size: tuple[int, int]) -> Callable[[Int64], Int64]:
    def change(blocks: Int64) -> Int64:
        values = m.tiling.untile(blocks)[:, :, : size[0], : size[1]]
        small = Tiling(m.memory.order, values.shape, m.manifest.array, m.entry.bits).tile(values)
        out = np.full_like(blocks, UNKNOWN)
        if small.shape[::2] == blocks.shape[::2]:
            out[:, : small.shape[1]] = small
        return out

    return change
