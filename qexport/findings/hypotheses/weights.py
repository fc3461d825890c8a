"""Mistakes with the codes of weights and with the tiles in which the array loads them."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.hypotheses.orders import each_tile_reversed, on_tiles, reordered, wrong_orders
from qexport.findings.hypotheses.taps import tap_mistakes
from qexport.findings.model import Model
from qexport.findings.sums import Sums

ROWS_REVERSED = Mistake(
    "rows_reversed", "Row 0 of the array and the first lane must agree: reverse the rows of weights or activations."
)
COLUMNS_REVERSED = Mistake(
    "columns_reversed", "Column 0 of the array and the lane of output channel 0 must agree: reverse the columns."
)
ROWS_COLUMNS_TRANSPOSED = Mistake(
    "rows_columns_transposed", "Load a weight word into a column of the array, not into a row, or the other way round."
)
WEIGHT_UNSIGNED = Mistake("weight_unsigned", "Read the weights as signed: extend their sign bit.")
SIGN_MAGNITUDE = Mistake("sign_magnitude", "Read the weights as two's complement, not as sign and magnitude.")
INPUT_TILE_ORDER = Mistake(
    "input_tile_order", "Run through the input-channel tiles of weights and activations in the same order."
)
OUTPUT_TILE_ORDER = Mistake("output_tile_order", "Run through the output-channel tiles in the order of the memory.")
STALE_WEIGHTS = Mistake("stale_weights", "Wait until the weights of a tile are loaded before its activations start.")


def weight_mistakes(m: Model) -> Iterator[Change]:
    its, ots = math.ceil(m.layer.group_inputs / m.row), math.ceil(m.layer.out_channels / m.col)
    if m.facts.formats.weight.signed and m.facts.formats.weight.table is None:
        yield from _signs(m.facts.formats.weight.integer)
    yield from _rows_and_columns(m)
    yield from _tile_orders(m, its, ots)
    yield from tap_mistakes(m.layer.kernel)
    yield from _stale_weights(m, its, ots)


def _signs(fmt: IntFormat) -> Iterator[Change]:
    """Codes that are read as another kind of number."""
    yield Change(WEIGHT_UNSIGNED, "", Stage.WEIGHT_CODES, IntFormat(fmt.bits, False).wrap, True)

    def magnitude(weight: Int64) -> Int64:
        pattern = fmt.encode(weight)
        size = pattern & (fmt.high if fmt.bits > 1 else 0)
        return np.where(weight < 0, -size, size)

    yield Change(SIGN_MAGNITUDE, "", Stage.WEIGHT_CODES, magnitude, True)

    def from_magnitude(weight: Int64) -> Int64:  # the design got sign and magnitude where it reads two's complement
        return fmt.decode(np.where(weight < 0, (1 << (fmt.bits - 1)) | (-weight & fmt.high), weight))

    yield Change(SIGN_MAGNITUDE, "written so, read as two's complement", Stage.WEIGHT_CODES, from_magnitude)


def _rows_and_columns(m: Model) -> Iterator[Change]:
    """Weights that meet other rows or columns of the array."""
    row, col = m.row, m.col
    inputs, outputs = m.layer.group_inputs, m.layer.out_channels
    yield Change(ROWS_REVERSED, "", Stage.WEIGHT_TILES, on_tiles(row, col, lambda t: t[:, :, :, ::-1]), True)
    if inputs % row:
        used = reordered(1, each_tile_reversed(inputs, row))
        yield Change(ROWS_REVERSED, "only those in use", Stage.WEIGHT_TILES, used)
    if m.facts.added is not None or m.layer.groups > 1:
        columns = on_tiles(row, col, lambda t: t[:, ::-1])
        yield Change(COLUMNS_REVERSED, "of the weights", Stage.WEIGHT_TILES, columns, True)
    yield Change(ROWS_COLUMNS_TRANSPOSED, "", Stage.WEIGHT_TILES, on_tiles(row, col, _transposed), True)
    if inputs == outputs and (inputs > row or outputs > col):
        yield Change(ROWS_COLUMNS_TRANSPOSED, "of all channels", Stage.WEIGHT_TILES, lambda w: w.transpose(1, 0, 2, 3))


def _tile_orders(m: Model, its: int, ots: int) -> Iterator[Change]:
    """Tiles of weights that come in another order."""
    for axis, count, mistake in ((2, its, INPUT_TILE_ORDER), (0, ots, OUTPUT_TILE_ORDER)):
        for detail, tiles, pair in wrong_orders(count):
            swap = on_tiles(m.row, m.col, reordered(axis, tiles))
            yield Change(mistake, f"of the weights, {detail}", Stage.WEIGHT_TILES, swap, pair)
    if its > 1 and ots > 1:
        for mistake in (INPUT_TILE_ORDER, OUTPUT_TILE_ORDER):
            detail = "of the weights, input and output tiles' loops exchanged"
            yield Change(mistake, detail, Stage.WEIGHT_TILES, on_tiles(m.row, m.col, _loops_exchanged))


def _transposed(tiles: Int64) -> Int64:
    ot, col, it, row, kh, kw = tiles.shape
    if row == col:
        return tiles.swapaxes(1, 3)
    flat = tiles.transpose(0, 2, 4, 5, 1, 3).reshape(ot, it, kh, kw, row, col)  # a word of the other length
    return flat.transpose(0, 5, 1, 4, 2, 3)


def _loops_exchanged(tiles: Int64) -> Int64:
    ot, col, it, row, kh, kw = tiles.shape
    return tiles.transpose(2, 0, 1, 3, 4, 5).reshape(ot, it, col, row, kh, kw).transpose(0, 2, 1, 3, 4, 5)


_LOOPS = ("ot", "it", "tap")


def _stale_weights(m: Model, its: int, ots: int) -> Iterator[Change]:
    sizes = {"ot": ots, "it": its, "tap": math.prod(m.layer.kernel)}
    firsts = (("the first zero", 0), ("the first right", 1), ("the first from the last", 2))

    def stale(order: tuple[str, ...], shifted: int, first: int) -> Callable[[Int64], Int64]:
        """The weights one step behind in the loops `order`, of which the last `shifted` carry into each other."""

        def change(tiles: Int64) -> Int64:
            ot, col, it, row, kh, kw = tiles.shape
            axes = [_LOOPS.index(name) for name in order]
            steps = tiles.transpose(0, 2, 4, 5, 1, 3).reshape(ot, it, kh * kw, col, row).transpose(*axes, 3, 4)
            flat = steps.reshape(-1, math.prod(steps.shape[3 - shifted : 3]), col, row)
            start = [np.zeros_like(flat[:, :1]), flat[:, :1], flat[:, -1:]][first]
            moved = np.concatenate((start, flat[:, :-1]), axis=1).reshape(steps.shape)
            back = moved.transpose(*np.argsort(axes), 3, 4).reshape(ot, it, kh, kw, col, row)
            return back.transpose(0, 4, 1, 5, 2, 3)

        return on_tiles(m.row, m.col, change)

    done = set()
    for order in (_LOOPS, ("it", "ot", "tap"), ("ot", "tap", "it"), ("tap", "ot", "it"), ("tap", "it", "ot"),
                  ("it", "tap", "ot")):  # fmt: skip
        for shifted in (3, 2, 1):
            loops = tuple(name for name in order[-shifted:] if sizes[name] > 1)
            if not loops or loops in done:
                continue
            done.add(loops)
            whole = len(loops) == sum(size > 1 for size in sizes.values())
            for detail, first in firsts[: 2 + (whole or len(loops) > 1)]:  # of one loop of several: just rotated
                where = f"loops {' '.join(loops)}, {detail}"
                change = stale(order, shifted, first)
                yield Change(STALE_WEIGHTS, where, Stage.WEIGHT_TILES, change, loops[-1] == "tap" and first == 0)
            if whole and order == _LOOPS:
                for what, right in (("zero", False), ("right", True)):
                    where = f"loops {' '.join(loops)}, the first of all {what}, of each image from the last"
                    also = (_first_pass(m, right),)
                    yield Change(STALE_WEIGHTS, where, Stage.WEIGHT_TILES, stale(order, shifted, 2), also=also)
    yield from _early_weights(m, its, ots)
    steps = its * sizes["tap"]
    if 1 < steps <= 72:  # a single load that came too late
        for step in range(1, steps):
            yield Change(
                STALE_WEIGHTS, f"of input tile {step // sizes['tap']}, tap {step % sizes['tap']} only",
                Stage.WEIGHT_TILES, on_tiles(m.row, m.col, _one_stale(step)),
            )  # fmt: skip


def _early_weights(m: Model, its: int, ots: int) -> Iterator[Change]:
    """The weights one step ahead."""

    def early(tiles: Int64, axes: tuple[int, ...]) -> Int64:
        ot, col, it, row, kh, kw = tiles.shape
        steps = tiles.transpose(0, 2, 4, 5, 1, 3).reshape(ot, it, kh * kw, col, row).transpose(*axes, 3, 4)
        flat = steps.reshape(-1, col, row)
        moved = np.concatenate((flat[1:], flat[-1:])).reshape(steps.shape)
        back = moved.transpose(*np.argsort(axes), 3, 4).reshape(ot, it, kh, kw, col, row)
        return back.transpose(0, 4, 1, 5, 2, 3)

    for axes, name in (((0, 1, 2), "ot it tap"), ((0, 2, 1), "ot tap it"), ((2, 0, 1), "tap ot it")):
        if its * ots * math.prod(m.layer.kernel) > 1:
            change = on_tiles(m.row, m.col, partial(early, axes=axes))
            yield Change(STALE_WEIGHTS, f"early by one, loops {name}", Stage.WEIGHT_TILES, change)


def _first_pass(m: Model, right: bool) -> Change:
    """The very first pass of the array has the right weights, or 0."""
    if m.tensor == "psum":

        def first(values: Int64) -> Int64:
            values = values.copy()
            values[0, 0, 0, 0, : m.col] = m.golden[0, 0, 0, 0, : m.col] if right else 0
            return values

        return Change(STALE_WEIGHTS, "", Stage.RESULT, first)

    def change(sums: Sums) -> Int64:
        out = sums.total + sums.offset
        inputs, outputs = sums.weight.shape[1], len(sums.weight) // sums.groups
        used = min(m.row, inputs)
        for image in np.flatnonzero(sums.images == 0):
            for output in np.flatnonzero(sums.outputs < m.col):
                seen = sums.seen[image, output // outputs * inputs :][:used, 0, 0]
                wanted = m.weight[sums.outputs[output], :used, 0, 0] * right
                out[image, output] += np.tensordot(wanted - sums.weight[output, :used, 0, 0], seen, 1)
        return out

    return Change(STALE_WEIGHTS, "", Stage.SUM, change)


def _one_stale(step: int) -> Callable[[Int64], Int64]:
    def change(tiles: Int64) -> Int64:
        ot, col, it, row, kh, kw = tiles.shape
        steps = tiles.transpose(2, 4, 5, 0, 1, 3).reshape(it * kh * kw, ot, col, row).copy()
        steps[step] = steps[step - 1]
        return steps.reshape(it, kh, kw, ot, col, row).transpose(3, 4, 0, 5, 1, 2)

    return change
