"""The mistakes that a design may have made, each as a change of one stage of the layer's computation.

Where a mistake can be made in several ways (what stands before the first word, which loop is the inner one), each way
is a change of its own with the same name. Those that come first are the likelier ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import permutations, product

import msgspec
import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import pad, patches
from qexport.errors import QexportError
from qexport.findings.model import UNKNOWN, Change, Model, Sums, Wiring, bit_orders, cross
from qexport.layout.tiling import Tiling

Bools = NDArray[np.bool_]
REMEDIES = {
    "rows_reversed": "Row 0 of the array and the first lane must agree: reverse the rows of weights or activations.",
    "columns_reversed": "Column 0 of the array and the lane of output channel 0 must agree: reverse the columns.",
    "rows_columns_transposed": "Load a weight word into a column of the array, not into a row, or the other way round.",
    "kernel_rotated": "Run kh and kw upwards with the window: convolution layers do not flip the kernel.",
    "kh_kw_swapped": "Read the taps row by row: kh is the outer loop, kw the inner one.",
    "tap_order": "Read the taps in the order of the weight memory: kh is the outer loop, kw the inner one.",
    "tap_off_by_one": "Check where the tap counter starts and wraps: weights and activations are one tap apart.",
    "tap_missing": "Check the bounds of the tap counter: one tap is never accumulated.",
    "tap_twice": "Check when the tap counter advances: one tap is accumulated twice.",
    "weight_nibbles": "Swap the two 4-bit halves of each weight byte.",
    "weight_bytes": "Swap the bytes of the weight words: the first lane is the most significant.",
    "weight_bits": "Reverse the bits of the weights: the first bit is the most significant.",
    "input_nibbles": "Swap the two 4-bit halves of each activation byte.",
    "input_bytes": "Swap the bytes of the activation words: the first lane is the most significant.",
    "input_bits": "Reverse the bits of the activations: the first bit is the most significant.",
    "output_nibbles": "Swap the two 4-bit halves of each byte that is written.",
    "output_bytes": "Swap the bytes of the words that are written: the first lane is the most significant.",
    "output_bits": "Reverse the bits that are written: the first bit is the most significant.",
    "input_signed": "Give the activations the signedness that the manifest says (extend them with zeros if unsigned).",
    "weight_unsigned": "Read the weights as signed: extend their sign bit.",
    "sign_magnitude": "Read the weights as two's complement, not as sign and magnitude.",
    "padding_missing": "Feed code 0 where the window reaches over the edge of the plane.",
    "padding_value": "Pad with code 0.",
    "padding_side": "Pad the sides that the manifest names: top, bottom, left, right.",
    "padding_shifted": "Move the plane by one position inside its padding: an address is off by one.",
    "stride_ignored": "Step the window by the layer's stride.",
    "input_tile_order": "Run through the input-channel tiles of weights and activations in the same order.",
    "output_tile_order": "Run through the output-channel tiles in the order of the memory.",
    "tile_overwritten": "Add each tile's psum to the accumulator, do not replace it.",
    "tile_missing": "Check the bounds of the accumulation: one tile or step is never added.",
    "accumulator_wraps": "Widen the accumulator: the manifest's formats.accumulator.bits hold every sum.",
    "accumulator_saturates": "Widen the accumulator: the manifest's formats.accumulator.bits hold every sum.",
    "psum_cut": "Keep psums at their full width until they are accumulated.",
    "relu_missing": "Put max(accumulator, 0) before what is written.",
    "relu_early": "Apply the ReLU once, after the last accumulation.",
    "requant_floor": "Add half before the shift: (relu * mul + (1 << (shift - 1))) >> shift.",
    "requant_half_up": "Round as the manifest's mul and shift do: (relu * mul + (1 << (shift - 1))) >> shift.",
    "requant_half_even": "Round as the manifest's mul and shift do: (relu * mul + (1 << (shift - 1))) >> shift.",
    "requant_toward_zero": "Add half before the shift: (relu * mul + (1 << (shift - 1))) >> shift.",
    "scale_power_of_two": "Correct the shift of the scale.",
    "stale_accumulator": "Clear the accumulator, or load the bias, before the first step of each output.",
    "stale_weights": "Wait until the weights of a tile are loaded before its activations start.",
    "skew": "Delay row r by r cycles on its way in, and take the delays of the columns out again.",
    "words_shifted": "Start to record at the first valid word: check the latency or the write address.",
    "image_order": "Write the images in the order of the input.",
    "bias_missing": "Start each accumulation from the bias.",
    "lane_stuck": "Look at what drives this lane.",
    "x_values": "Reset or initialise what drives these words: the simulation gives X or Z there.",
    "word_count": "Write as many words as the manifest says.",
    "other_layer": "Compare with the memory and the set that the design was run on.",
}


# --- helpers --------------------------------------------------------------------------------------------------------


def _tiles(weight: Int64, row: int, col: int) -> Int64:
    """(oc, ic, kh, kw) to (ot, col, it, row, kh, kw), ragged tiles filled with 0."""
    oc, ic, kh, kw = weight.shape
    full = np.pad(weight, ((0, -oc % col), (0, -ic % row), (0, 0), (0, 0)))
    return full.reshape(len(full) // col, col, full.shape[1] // row, row, kh, kw)


def _whole(tiles: Int64, shape: tuple[int, ...]) -> Int64:
    """The tiles back to weights of that shape."""
    ot, col, it, row, kh, kw = tiles.shape
    return tiles.reshape(ot * col, it * row, kh, kw)[: shape[0], : shape[1]]


def _on_tiles(row: int, col: int, change: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    return lambda weight: _whole(change(_tiles(weight, row, col)), weight.shape)


def _taken(axis: int, order: Sequence[int]) -> Callable[[Int64], Int64]:
    """Index `order` along an axis."""
    return lambda values: np.take(values, order, axis=axis)


def _orders(count: int) -> Iterator[tuple[str, list[int], bool]]:
    """Wrong orders of `count` things; the likeliest also in pairs."""
    if count < 2:
        return
    straight = list(range(count))
    swapped = [i ^ 1 if i ^ 1 < count else i for i in straight]
    seen = {tuple(straight)}
    for detail, order, pair in (
        ("reversed", straight[::-1], True),
        ("rotated by one", straight[1:] + straight[:1], True),
        ("rotated back by one", straight[-1:] + straight[:-1], False),
        ("neighbours swapped", swapped, True),
        ("even before odd", straight[::2] + straight[1::2], False),
        ("first half and second half interleaved", _interleaved(count), False),
        *((f"rotated by {by}", straight[by:] + straight[:by], False) for by in range(2, min(count, 16))),
        *((f"{i} and {i + 1} exchanged", _exchanged(count, i), False) for i in range(min(count - 1, 16))),
        *((f"{list(p)}", list(p), False) for p in (permutations(straight) if count <= 4 else ())),
    ):
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield detail, order, pair


def _interleaved(count: int) -> list[int]:
    half = (count + 1) // 2
    return [i for pair in zip(range(half), range(half, half * 2), strict=True) for i in pair if i < count]


def _exchanged(count: int, i: int) -> list[int]:
    return [*range(i), i + 1, i, *range(i + 2, count)]


def _blocks(count: int, size: int, order: Sequence[int]) -> list[int]:
    """Indices of `count` things dealt to tiles of `size`, the tiles in another order; a ragged one stays ragged."""
    return [i for tile in order for i in range(tile * size, min((tile + 1) * size, count))]


# --- weights --------------------------------------------------------------------------------------------------------


def _weights(m: Model) -> Iterator[Change]:
    layer, row, col = m.layer, m.row, m.col
    fmt = m.facts.formats.weight.integer
    if fmt.signed:
        unsigned = IntFormat(fmt.bits, False)
        yield Change("weight_unsigned", "", "weight codes", unsigned.wrap, True)

        def magnitude(weight: Int64) -> Int64:
            pattern = fmt.encode(weight)
            size = pattern & (fmt.high if fmt.bits > 1 else 0)
            return np.where(weight < 0, -size, size)

        yield Change("sign_magnitude", "", "weight codes", magnitude, True)

        def from_magnitude(weight: Int64) -> Int64:  # the design got sign and magnitude where it reads two's complement
            return fmt.decode(np.where(weight < 0, (1 << (fmt.bits - 1)) | (-weight & fmt.high), weight))

        yield Change("sign_magnitude", "written so, read as two's complement", "weight codes", from_magnitude)

    yield Change("rows_reversed", "", "weight tiles", _on_tiles(row, col, lambda t: t[:, :, :, ::-1]), True)
    inputs, outputs = layer.group_inputs, layer.out_channels
    if inputs % row:
        order = [i for start in range(0, inputs, row) for i in reversed(range(start, min(start + row, inputs)))]
        yield Change("rows_reversed", "only those in use", "weight tiles", _taken(1, order))
    if m.capture.bias is not None:
        yield Change(
            "columns_reversed", "of the weights", "weight tiles", _on_tiles(row, col, lambda t: t[:, ::-1]), True
        )
    yield Change("rows_columns_transposed", "", "weight tiles", _on_tiles(row, col, _transposed), True)
    if inputs == outputs and (inputs > row or outputs > col):
        yield Change("rows_columns_transposed", "of all channels", "weight tiles", lambda w: w.transpose(1, 0, 2, 3))

    its, ots = math.ceil(inputs / row), math.ceil(outputs / col)
    for detail, tiles, pair in _orders(its):
        swap = _on_tiles(row, col, _taken(2, tiles))
        yield Change("input_tile_order", f"of the weights, {detail}", "weight tiles", swap, pair)
    for detail, tiles, pair in _orders(ots):
        swap = _on_tiles(row, col, _taken(0, tiles))
        yield Change("output_tile_order", f"of the weights, {detail}", "weight tiles", swap, pair)
    if its > 1 and ots > 1:
        for name in ("input_tile_order", "output_tile_order"):
            detail = "of the weights, input and output tiles' loops exchanged"
            yield Change(name, detail, "weight tiles", _on_tiles(row, col, _loops_exchanged))
    yield from _taps(layer.kernel)
    yield from _stale_weights(m, its, ots)


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

        return _on_tiles(m.row, m.col, change)

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
                yield Change("stale_weights", where, "weight tiles", change, loops[-1] == "tap" and first == 0)
            if whole and order == _LOOPS:
                for what, right in (("zero", False), ("right", True)):
                    where = f"loops {' '.join(loops)}, the first of all {what}, of each image from the last"
                    also = (_first_pass(m, right),)
                    yield Change("stale_weights", where, "weight tiles", stale(order, shifted, 2), also=also)
    steps = its * sizes["tap"]
    if 1 < steps <= 72:  # a single load that came too late
        for step in range(1, steps):
            yield Change(
                "stale_weights", f"of input tile {step // sizes['tap']}, tap {step % sizes['tap']} only",
                "weight tiles", _on_tiles(m.row, m.col, _one_stale(step)),
            )  # fmt: skip


def _first_pass(m: Model, right: bool) -> Change:
    """The very first pass of the array has the right weights, or 0."""
    if m.tensor == "psum":

        def first(values: Int64) -> Int64:
            values = values.copy()
            values[0, 0, 0, 0, : m.col] = m.golden[0, 0, 0, 0, : m.col] if right else 0
            return values

        return Change("stale_weights", "", "result", first)

    def change(sums: Sums) -> Int64:
        out = sums.total + sums.offset
        inputs, outputs = sums.weight.shape[1], len(sums.weight) // sums.groups
        used = min(m.row, inputs)
        for image in np.flatnonzero(sums.images == 0):
            for output in np.flatnonzero(sums.outputs < m.col):
                seen = sums.seen[image, output // outputs * inputs :][:used, 0, 0]
                wanted = m.capture.weight[sums.outputs[output], :used, 0, 0] * right
                out[image, output] += np.tensordot(wanted - sums.weight[output, :used, 0, 0], seen, 1)
        return out

    return Change("stale_weights", "", "sum", change)


def _one_stale(step: int) -> Callable[[Int64], Int64]:
    def change(tiles: Int64) -> Int64:
        ot, col, it, row, kh, kw = tiles.shape
        steps = tiles.transpose(2, 4, 5, 0, 1, 3).reshape(it * kh * kw, ot, col, row).copy()
        steps[step] = steps[step - 1]
        return steps.reshape(it, kh, kw, ot, col, row).transpose(3, 4, 0, 5, 1, 2)

    return change


def _by_taps(change: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    """A change of (oc, ic, taps)."""
    return lambda weight: change(weight.reshape(*weight.shape[:2], -1)).reshape(weight.shape)


def _factors(count: int, tap: int, factor: int) -> Callable[[Int64], Int64]:
    factors = np.ones(count, np.int64)
    factors[tap] = factor
    return _by_taps(lambda w: w * factors)


def _taps(kernel: tuple[int, int]) -> Iterator[Change]:
    count = math.prod(kernel)
    if count == 1:
        return
    grid = np.arange(count).reshape(kernel)
    place = [f"kh={t // kernel[1]} kw={t % kernel[1]}" for t in range(count)]
    seen = {tuple(range(count))}
    column_major = np.arange(count).reshape(kernel[1], kernel[0]).T  # of a kernel that is not square: the flat order
    snake = grid.copy()
    snake[1::2] = snake[1::2, ::-1]
    for name, detail, order, pair in (
        ("kernel_rotated", "", grid[::-1, ::-1], True),
        ("kh_kw_swapped", "", column_major, True),
        ("tap_off_by_one", "one too far, cyclic", np.roll(grid.ravel(), -1), True),
        ("tap_off_by_one", "one too early, cyclic", np.roll(grid.ravel(), 1), True),
        ("tap_off_by_one", "one too far in each row, cyclic", np.roll(grid, -1, 1), False),
        ("tap_off_by_one", "one too early in each row, cyclic", np.roll(grid, 1, 1), False),
        ("tap_off_by_one", "one row too far, cyclic", np.roll(grid, -1, 0), False),
        ("tap_off_by_one", "one row too early, cyclic", np.roll(grid, 1, 0), False),
        ("tap_order", "rows of the kernel reversed", grid[::-1], True),
        ("tap_order", "columns of the kernel reversed", grid[:, ::-1], True),
        ("tap_order", "kh and kw swapped, then rotated", column_major.ravel()[::-1], False),
        ("tap_order", "turned by 90 degrees", column_major[::-1], False),
        ("tap_order", "turned back by 90 degrees", column_major[:, ::-1], False),
        ("tap_order", "every second row backwards", snake, False),
        *(("tap_order", f"rotated by {by}", np.roll(grid.ravel(), -by), False) for by in range(2, count - 1)),
        *(
            ("tap_order", f"{place[a]} and {place[b]} exchanged", _transposition(count, a, b), False)
            for a in range(min(count, 16))
            for b in range(a + 1, min(count, 16))
        ),
    ):
        flat = tuple(order.ravel().tolist())
        if flat not in seen:
            seen.add(flat)
            yield Change(name, detail, "weight taps", _by_taps(_taken(2, flat)), pair)

    def shifted(by: int, end: str) -> Callable[[Int64], Int64]:
        def change(w: Int64) -> Int64:
            moved = np.roll(w, -by, axis=2)
            lost = -1 if by > 0 else 0
            moved[:, :, lost] = 0 if end == "zero" else w[:, :, lost]
            return moved

        return _by_taps(change)

    for by, way in ((1, "one too far"), (-1, "one too early")):
        for end, what in (("zero", "the one left over is 0"), ("kept", "the one at the end twice")):
            yield Change("tap_off_by_one", f"{way}, {what}", "weight taps", shifted(by, end), end == "zero")
    for tap in range(count):
        yield Change("tap_missing", f"tap {place[tap]}", "weight taps", _factors(count, tap, 0), True)
    for tap in range(count):
        yield Change("tap_twice", f"tap {place[tap]}", "weight taps", _factors(count, tap, 2), True)
    for tap, other in [(t, t + 1) for t in range(count - 1)] + [(t + 1, t) for t in range(count - 1)]:
        taken = list(range(count))
        taken[other] = tap
        detail = f"weights of tap {place[tap]} also in place of {place[other]}"
        yield Change("tap_twice", detail, "weight taps", _by_taps(_taken(2, taken)))
    for tap, other in [(t, t + 1) for t in range(count - 1)] + [(t + 1, t) for t in range(count - 1)]:
        yield Change("tap_twice", f"tap {place[tap]} in place of {place[other]}", "sum", _tap_instead(tap, other))


def _tap_instead(tap: int, other: int) -> Callable[[Sums], Int64]:
    return lambda sums: sums.total + sums.offset + sums.part(slice(None), tap) - sums.part(slice(None), other)


def _transposition(count: int, a: int, b: int) -> Int64:
    order = np.arange(count)
    order[[a, b]] = b, a
    return order


# --- inputs ---------------------------------------------------------------------------------------------------------


def _inputs(m: Model) -> Iterator[Change]:
    layer = m.layer
    fmt = m.facts.formats.input.integer
    other = IntFormat(fmt.bits, not fmt.signed)
    yield Change("input_signed", "" if other.signed else "read as unsigned", "input codes", other.wrap, True)
    its = math.ceil(layer.group_inputs / m.row)
    for detail, tiles, pair in _orders(its):
        if m.tensor == "psum" or layer.group_inputs % m.row == 0:
            yield Change("input_tile_order", f"of the activations, {detail}", "input tiles", _tiles_of(m, tiles), pair)
    rows = _row_of(m)
    for row in range(min(m.row, layer.group_inputs)):
        for value in (0, fmt.high):

            def stuck(codes: Int64, row: int = row, value: int = value) -> Int64:
                codes = codes.copy()
                codes[:, rows == row] = value
                return codes

            yield Change("lane_stuck", f"activations of row {row} at {value}", "input tiles", stuck)
    yield from _skews(m)


def _row_of(m: Model) -> Int64:
    """The row of the array that each input channel meets."""
    return np.arange(m.layer.in_channels) % m.layer.group_inputs % m.row


def _tiles_of(m: Model, tiles: Sequence[int]) -> Callable[[Int64], Int64]:
    """Input-channel tiles in another order; of ragged tiles the filled lanes come along as 0."""
    groups, inputs = m.layer.groups, m.layer.group_inputs

    def change(codes: Int64) -> Int64:
        n, _, rows, cols = codes.shape
        split = np.pad(
            codes.reshape(n, groups, inputs, rows, cols), ((0, 0), (0, 0), (0, -inputs % m.row), *[(0, 0)] * 2)
        )
        split = split.reshape(n, groups, -1, m.row, rows, cols)[:, :, list(tiles)]
        return split.reshape(n, groups, -1, rows, cols)[:, :, :inputs].reshape(codes.shape)

    return change


def _delayed(values: Int64, by: Int64, edge: str) -> Int64:
    """(c, streams, time): line c comes by[c] steps later; before it the edge: 'zero', 'cyclic' or the stream before."""
    out = np.zeros_like(values)
    steps = values.shape[2]
    for delay in np.unique(by):
        lines = by == delay
        part = values[lines]
        if edge == "carry":
            part = part.reshape(len(part), 1, -1)
        if edge == "cyclic":
            moved = np.roll(part, delay, axis=2)
        else:
            moved = np.zeros_like(part)
            if 0 <= delay < part.shape[2]:
                moved[:, :, delay:] = part[:, :, : part.shape[2] - delay]
            elif -part.shape[2] < delay < 0:
                moved[:, :, :delay] = part[:, :, -delay:]
        out[lines] = moved.reshape(-1, values.shape[1], steps)
    return out


_DELAYS: tuple[tuple[str, Callable[[Int64, int], Int64]], ...] = (
    ("late by r", lambda r, rows: r),
    ("early by r", lambda r, rows: -r),
    ("late by the rows after r", lambda r, rows: rows - 1 - r),
    ("early by the rows after r", lambda r, rows: r - rows + 1),
)


def _skews(m: Model) -> Iterator[Change]:
    rows = _row_of(m)
    used = min(m.row, m.layer.group_inputs)

    def planes(by: Int64, edge: str) -> Callable[[Int64], Int64]:
        def change(values: Int64) -> Int64:
            n, channels = values.shape[:2]
            streams = values.reshape(n, channels, -1).swapaxes(0, 1)
            return _delayed(streams, by, edge).swapaxes(0, 1).reshape(values.shape)

        return change

    def windows(by: Int64, edge: str) -> Callable[[Int64], Int64]:
        def change(values: Int64) -> Int64:
            n, channels, kh, kw, oy, ox = values.shape
            streams = values.swapaxes(0, 1).reshape(channels, n * kh * kw, oy * ox)
            return _delayed(streams, by, edge).reshape(channels, n, kh, kw, oy, ox).swapaxes(0, 1)

        return change

    for detail, delay in _DELAYS:
        for edge in ("zero", "cyclic", "carry"):
            by = delay(rows, used)
            if not by.any():
                continue
            what = f"row r {detail} ({edge} at the edges)"
            first = edge == "zero" and detail == "late by r"
            yield Change("skew", f"{what}, padded plane", "plane", planes(by, edge), first)
            yield Change("skew", f"{what}, unpadded plane", "input tiles", planes(by, edge))
            if m.tensor != "psum":
                yield Change("skew", f"{what}, output positions", "patches", windows(by, edge))
    if m.tensor == "psum":
        return
    # output-stationary: a row of the array is an output position, a column an output channel, and time runs over taps
    for time in ((2, 3, 1), (1, 2, 3)):
        for detail, delay in _DELAYS:
            for edge in ("zero", "cyclic"):
                loops = " ".join(("n", "ic", "kh", "kw")[axis] for axis in time)
                what = f"{detail} ({edge} at the edges), steps {loops}"
                yield Change("skew", f"row r of positions {what}", "patches", _position_skew(m.row, time, delay, edge))
                yield Change(
                    "skew", f"column r of weights {what}", "weight tiles", _column_skew(m.col, time, delay, edge)
                )


def _position_skew(
    row: int, time: tuple[int, ...], delay: Callable[[Int64, int], Int64], edge: str
) -> Callable[[Int64], Int64]:
    def change(values: Int64) -> Int64:
        n, oy, ox = values.shape[0], *values.shape[4:]
        moved = values.transpose(4, 5, 0, *time)
        streams = moved.reshape(oy * ox, n, -1)
        out = _delayed(streams, delay(np.arange(oy * ox) % row, min(row, oy * ox)), edge).reshape(moved.shape)
        return out.transpose(np.argsort((4, 5, 0, *time)))

    return change


def _column_skew(
    col: int, time: tuple[int, ...], delay: Callable[[Int64, int], Int64], edge: str
) -> Callable[[Int64], Int64]:
    def change(weight: Int64) -> Int64:
        moved = weight.transpose(0, *time)
        streams = moved.reshape(len(weight), 1, -1)
        by = delay(np.arange(len(weight)) % col, min(col, len(weight)))
        return _delayed(streams, by, edge).reshape(moved.shape).transpose(np.argsort((0, *time)))

    return change


# --- planes and windows ---------------------------------------------------------------------------------------------


def _planes(m: Model) -> Iterator[Change]:
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
                "padding_value", f"{value}", "pad", padded_by("constant", constant_values=value), value in (1, fmt.high)
            )
        yield from _padding_missing(m)
        yield Change("padding_value", "the edge repeated", "pad", padded_by("edge"))
        if plane[0] > max(top, bottom) and plane[1] > max(left, right):
            yield Change("padding_value", "the plane mirrored", "pad", padded_by("reflect"))
        yield Change("padding_value", "the plane repeated", "pad", padded_by("wrap"))
        for above, before in product(
            dict.fromkeys((top, 0, top + bottom, bottom)), dict.fromkeys((left, 0, left + right, right))
        ):
            if (above, before) != (top, left):
                corner = (above, before) in ((0, 0), (top + bottom, left + right))
                detail = f"{above} above, {before} on the left"
                yield Change("padding_side", detail, "pad", placed(above, before), corner)
    for y, x in product((0, 1, -1), repeat=2):
        if (y, x) != (0, 0) and (padded[0] > 1 or not y) and (padded[1] > 1 or not x):
            detail = f"by y={y:+d} x={x:+d}".replace("+0", "0")
            yield Change("padding_shifted", detail, "pad", placed(top + y, left + x), True)
            yield Change("padding_shifted", f"{detail}, cyclic", "plane", _rolled(y, x))
    for by in (1, -1, padded[1], -padded[1]):
        for edge in ("zero", "cyclic", "carry"):

            def moved(values: Int64, by: int = by, edge: str = edge) -> Int64:
                n, channels = values.shape[:2]
                streams = values.reshape(n, channels, -1).swapaxes(0, 1)
                return _delayed(streams, np.full(channels, by), edge).swapaxes(0, 1).reshape(values.shape)

            yield Change(
                "padding_shifted", f"by {by} addresses of the padded plane ({edge} at the edges)", "plane", moved
            )
    if m.tensor != "psum" and layer.stride != (1, 1):
        sy, sx = layer.stride
        yield Change("stride_ignored", "", "gather", _stepped(m, (1, 1), False), True)
        yield Change("stride_ignored", "the larger plane row by row", "gather", _stepped(m, (1, 1), True))
        if not m.memory.order.has_bits:
            part = Change("stride_ignored", "", "history", _cut_to_words(m))
            detail = "the larger planes one after the other"
            yield Change("stride_ignored", detail, "gather", _stepped(m, (1, 1), None), also=(part,))
        for stride, what in (((1, sx), "downwards"), ((sy, 1), "sideways")):
            if stride not in (layer.stride, (1, 1)):
                yield Change("stride_ignored", what, "gather", _stepped(m, stride, False))


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


def _padding_missing(m: Model) -> Iterator[Change]:
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
    yield Change("padding_missing", "addresses run on into the next row", "pad", read(flat, in_plane), True)
    around = read(flat % (high * wide), np.ones_like(in_plane))
    yield Change("padding_missing", "addresses run on, round the plane", "pad", around, True)
    yield Change("padding_missing", "addresses run on, held at the ends", "pad", read(flat, np.ones_like(in_plane)))
    yield Change("padding_missing", "on the left and right only", "pad", read(flat, (y >= 0) & (y < high) & in_plane))
    rows = np.clip(y, 0, high - 1) * wide + x
    yield Change("padding_missing", "above and below only", "pad", read(rows, (x >= 0) & (x < wide)))
    count = np.arange(math.prod(padded)).reshape(padded)
    yield Change("padding_missing", "the plane alone is streamed", "pad", read(count, count < high * wide))

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

    yield Change("padding_missing", "addresses run on into the next plane", "pad", run_on)
    if m.tensor == "psum":
        return
    inner = patches(pad(np.ones((1, 1, *m.plane), np.int64), m.layer), m.layer, m.plane)[0, 0].all(axis=(0, 1))
    if inner.any() and not inner.all():
        yield Change("padding_missing", "outputs at the border are 0", "result", lambda v: np.where(inner, v, 0))
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
        ("the smaller plane in the corner, else 0", "result", corner),
        ("the smaller plane row by row, 0 behind it", "result", row_by_row),
        ("the smaller planes one after the other", "words", word_by_word),
    ):
        part = Change("padding_missing", "", stage, placed)
        yield Change("padding_missing", detail, "gather", smaller, also=(part,))


# --- accumulation ---------------------------------------------------------------------------------------------------


def _accumulation(m: Model, values: Int64, known: Bools) -> Iterator[Change]:
    """`values`: the tensor that is compared."""
    layer = m.layer
    taps = math.prod(layer.kernel)
    its = math.ceil(layer.group_inputs / m.row)
    steps = its * taps
    everything = slice(None)

    def only(it: slice | int, tap: slice | int) -> Callable[[Sums], Int64]:
        return lambda sums: sums.part(it, tap) + sums.offset

    def without(it: slice | int, tap: slice | int) -> Callable[[Sums], Int64]:
        return lambda sums: sums.total + sums.offset - sums.part(it, tap)

    if its > 1:
        yield Change("tile_overwritten", "by each input tile", "sum", only(-1, everything), True)
    if taps > 1:
        yield Change("tile_overwritten", "by each tap", "sum", only(everything, -1), its == 1)
        if its > 1:
            yield Change("tile_overwritten", "by each tap of each input tile", "sum", only(-1, -1))
    if m.capture.bias is not None and steps > 1:
        for it, tap, what in ((-1, everything, "input tile"), (everything, -1, "tap"), (-1, -1, "step")):
            change = only(it, tap)

            def bare(sums: Sums, change: Callable[[Sums], Int64] = change) -> Int64:
                return change(sums) - sums.offset

            yield Change("tile_overwritten", f"by each {what}, the bias too", "sum", bare)
    for it in dict.fromkeys((its - 1, 0, *range(1, its - 1))):
        if its > 1:
            yield Change("tile_missing", f"input tile {it}", "sum", without(it, everything), it in (0, its - 1))
    places = [(its - 1, taps - 1), (0, 0)]
    places += list(product(range(its), range(taps))) if its > 1 and steps <= 1024 else []  # of one tile: tap_missing
    for it, tap in dict.fromkeys(places):
        kh, kw = divmod(tap, layer.kernel[1])
        detail = f"step it={it} kh={kh} kw={kw}"
        yield Change("tile_missing", detail, "sum", without(it, tap), (it, tap) in places[:2] and steps > 1)

    lasts: list[tuple[str, tuple[int | slice, int | slice], int]]
    lasts = [("step", (-1, -1), steps), ("input tile", (-1, everything), its), ("tap", (everything, -1), taps)]
    no_relu = (Change("relu_early", "", "post", _without_relu(m)),) if m.tensor in ("relu", "output") else ()
    for what, split, count in lasts:
        for biased in (True, False) if m.capture.bias is not None else (True,):
            if count < 2:
                continue
            detail = f"before the last {what}" + ("" if biased else ", without the bias")
            change = _relu_before(split, biased)
            yield Change("relu_early", detail, "sum", change, what == "step" and biased)
            if no_relu:
                yield Change("relu_early", f"{detail}, and none at the end", "sum", change, also=no_relu)
    yield Change("relu_early", "after each step", "sum", _relu_each("step"))
    if its > 1:
        yield Change("relu_early", "after each input tile", "sum", _relu_each("tile"), True)
    if m.capture.bias is not None:
        yield Change("bias_missing", "", "sum", lambda sums: sums.total, True)
        yield Change("relu_early", "before the bias", "sum", lambda sums: np.maximum(sums.total, 0) + sums.offset, True)

    weight = m.facts.formats.weight.integer
    cuts = [("", weight, "wrap"), ("and saturated", weight, "saturate")]
    cuts += [("without sign", IntFormat(weight.bits, False), "wrap")] if weight.signed else []
    for detail, fmt, how in cuts:
        change = getattr(fmt, how)

        def cut(sums: Sums, change: Callable[[Int64], Int64] = change) -> Int64:
            total: Int64 = change(sums.steps).sum(axis=(0, 1))
            return total + sums.offset

        yield Change("psum_cut", f"to {weight.bits} bits{' ' + detail if detail else ''}", "sum", cut, not detail)

    yield from _narrow(m, values, known)
    yield from _stale_accumulators(m)


def _relu_before(split: tuple[int | slice, int | slice], biased: bool) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        last = sums.part(*split)
        early, late = (sums.offset, 0) if biased else (0, sums.offset)
        before: Int64 = np.maximum(sums.total - last + early, 0)
        return before + last + late

    return change


def _without_relu(m: Model) -> Callable[[Int64], Int64]:
    requantizer = m.facts.requantizer
    if m.tensor == "relu" or requantizer is None:
        return lambda acc: acc
    half = 1 << (requantizer.shift - 1)
    return lambda acc: np.minimum((acc * requantizer.mul + half) >> requantizer.shift, requantizer.qmax)


def _relu_each(what: str) -> Callable[[Sums], Int64]:
    def change(sums: Sums) -> Int64:
        steps = sums.steps.sum(axis=1) if what == "tile" else sums.steps.reshape(-1, *sums.total.shape)
        running = np.zeros_like(sums.total) + sums.offset
        for step in steps:
            running = np.maximum(running + step, 0)
        return running

    return change


def _narrow(m: Model, values: Int64, known: Bools) -> Iterator[Change]:
    """An accumulator of too few bits."""
    golden = m.accumulator
    needed = IntFormat.holding(int(golden.min()), int(golden.max()), True).bits
    least = tight = 2
    if m.tensor != "output" and known.any():
        low, high = int(values[known].min()), int(values[known].max())
        tight = max(tight, IntFormat.holding(min(low, 0), max(high, 0), True).bits)
        least = tight if m.capture.bias is None else least
    for bits in range(needed - 1, 1, -1):
        fmt = IntFormat(bits, True)
        yield Change("accumulator_wraps", f"k={bits} bits", "accumulator", fmt.wrap, True)
        yield Change("accumulator_saturates", f"k={bits} bits, at the end", "accumulator", fmt.saturate, True)
        unsigned = IntFormat(bits, False)
        yield Change("accumulator_wraps", f"k={bits} bits, without sign", "accumulator", unsigned.wrap)
        yield Change("accumulator_saturates", f"k={bits} bits, without sign", "accumulator", unsigned.saturate)
    ways = [("after each step", None, 0), ("after each step, taps outside", None, 1),
            ("after each product", 1, 0), ("after each product, taps outside", 1, 1)]  # fmt: skip
    widest = m.facts.bounds
    top = IntFormat.holding(*widest, True).bits
    for bits in range(least, top):
        for detail, row, taps_first in ways:
            change = _saturating(IntFormat(bits, True), row, bool(taps_first))
            yield Change(
                "accumulator_saturates", f"k={bits} bits, {detail}", "sum", change,
                detail == "after each step" and bits == tight,
            )  # fmt: skip
            if m.capture.bias is not None:
                late, again = (_saturating(IntFormat(bits, True), row, bool(taps_first), way) for way in (False, True))
                yield Change("accumulator_saturates", f"k={bits} bits, {detail}, the bias after it", "sum", late)
                yield Change("accumulator_saturates", f"k={bits} bits, {detail} and after the bias", "sum", again)


def _saturating(
    fmt: IntFormat, row: int | None, taps_first: bool, late_bias: bool | None = None
) -> Callable[[Sums], Int64]:
    """`late_bias`: None when the sums start at the bias, else whether they saturate once more when it is added."""

    def change(sums: Sums) -> Int64:
        steps = sums.steps if row is None else sums.products(row)
        if taps_first:
            steps = steps.swapaxes(0, 1)
        running = np.zeros_like(sums.total) + (sums.offset if late_bias is None else 0)
        for step in steps.reshape(-1, *sums.total.shape):
            running = np.minimum(np.maximum(running + step, fmt.low), fmt.high)
        if late_bias is None:
            return running
        return fmt.saturate(running + sums.offset) if late_bias else running + sums.offset

    return change


def _stale_accumulators(m: Model) -> Iterator[Change]:
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
                yield Change("stale_accumulator", detail, "history", change, pair)


# --- results and words ----------------------------------------------------------------------------------------------


def _psum_results(m: Model) -> Iterator[Change]:
    weight = m.facts.formats.weight.integer
    yield Change("psum_cut", f"to {weight.bits} bits", "psum", weight.wrap, True)
    yield Change("psum_cut", f"to {weight.bits} bits and saturated", "psum", weight.saturate)
    yield Change("psum_cut", f"to {weight.bits} bits without sign", "psum", IntFormat(weight.bits, False).wrap)
    for detail, tiles, pair in _orders(m.shape[1]):
        yield Change("input_tile_order", f"of the psums, {detail}", "result", _taken(1, tiles), pair)
    its, taps = m.shape[1], math.prod(m.shape[2:4])
    if its > 1 and taps > 1:

        def exchanged(values: Int64) -> Int64:
            n, rest = len(values), values.shape[4:]
            flat = values.reshape(n, its, taps, *rest).swapaxes(1, 2)
            return flat.reshape(values.shape)

        yield Change("tap_order", "loops of taps and input tiles exchanged", "result", exchanged)


def _post(m: Model) -> Iterator[Change]:
    facts = m.facts
    if m.tensor in ("accumulator", "relu"):
        for by in (1, -1, 2, -2, 3, -3, 4, -4):
            factor = Fraction(2) ** by

            def scaled(acc: Int64, by: int = by) -> Int64:
                values = m.post(acc)
                return values << by if by > 0 else values >> -by

            yield Change("scale_power_of_two", f"by {factor}", "post", scaled, abs(by) == 1)
            if by < 0:

                def rounded(acc: Int64, by: int = by) -> Int64:
                    return (m.post(acc) + (1 << (-by - 1))) >> -by

                def cut(acc: Int64, by: int = by) -> Int64:
                    values = m.post(acc)
                    return np.where(values < 0, -(-values >> -by), values >> -by)

                yield Change("scale_power_of_two", f"by {factor}, rounded", "post", rounded)
                yield Change("scale_power_of_two", f"by {factor}, toward zero", "post", cut)
    if m.tensor == "relu":
        yield Change("relu_missing", "", "post", lambda acc: acc, True)
    stored = {entry.tensor: entry.name for entry in m.manifest.memories}
    others = [name for name in ("accumulator", "relu", "output") if name != m.tensor and name in stored]
    makers: dict[str, Callable[[Int64], Int64]] = {
        "accumulator": lambda acc: acc,
        "relu": lambda acc: np.maximum(acc, 0),
    }
    if facts.requantizer is not None:
        requantizer = facts.requantizer
        makers["output"] = lambda acc: requantizer.apply(np.maximum(acc, 0))
    for name in others:
        yield Change("other_layer", f"the words are those of memory {stored[name]}", "post", makers[name])
    if m.tensor == "output":
        yield from _requantizations(m)


def _requantizations(m: Model) -> Iterator[Change]:
    requantizer, formats = m.facts.requantizer, m.facts.formats
    assert requantizer is not None
    assert formats.output is not None
    mul, shift, high = requantizer.mul, requantizer.shift, requantizer.qmax
    ratio = Fraction(formats.steps[0]) / Fraction(formats.output.scales[0])

    def exact(rounding: Callable[[Fraction], int], factor: Fraction) -> Callable[[Int64], Int64]:
        """code = rounding(accumulator x factor), clipped; the accumulators' own values are few."""

        def change(acc: Int64) -> Int64:
            values, places = np.unique(np.maximum(acc, 0), return_inverse=True)
            codes = np.array([min(high, rounding(int(value) * factor)) for value in values], np.int64)
            return codes[places.reshape(acc.shape)]

        return change

    def integer(half: int, mul: int = mul, shift: int = shift) -> Callable[[Int64], Int64]:
        return lambda acc: np.minimum((np.maximum(acc, 0) * mul + half) >> shift, high)

    def half_up(value: Fraction) -> int:
        return math.floor(value + Fraction(1, 2))

    fraction = Fraction(mul, 1 << shift)
    yield Change("requant_floor", "", "post", integer(0), True)
    yield Change("requant_floor", "of the real value", "post", exact(math.floor, ratio))
    yield Change("requant_toward_zero", "", "post", exact(math.trunc, fraction))
    yield Change("requant_toward_zero", "of the real value", "post", exact(math.trunc, ratio))
    yield Change("requant_half_even", "", "post", exact(round, fraction))
    yield Change("requant_half_even", "of the real value", "post", exact(round, ratio))
    step, scale = formats.steps[0], formats.output.scales[0]

    def floating(acc: Int64) -> Int64:
        return np.minimum(np.rint(np.maximum(acc, 0) * step / scale).astype(np.int64), high)

    yield Change("requant_half_even", "of the real value in floating point", "post", floating)
    yield Change("requant_half_up", "", "post", exact(half_up, fraction))
    yield Change("requant_half_up", "of the real value", "post", exact(half_up, ratio))
    for by in (1, -1, 2, -2, 3, -3, 4, -4):
        if shift - by < 1:
            continue
        detail = f"by {Fraction(2) ** by}"
        half = 1 << (shift - by - 1)
        yield Change("scale_power_of_two", detail, "post", integer(half, shift=shift - by), abs(by) == 1)
        kept = integer(1 << (shift - 1), shift=shift - by)
        yield Change("scale_power_of_two", f"{detail}, the half as before", "post", kept)
    yield Change("relu_missing", "low bits kept", "post", _without_relu(m), True)
    signed = IntFormat(formats.output.bits, True)
    yield Change(
        "relu_missing", "codes signed", "post", lambda acc: signed.saturate((acc * mul + (1 << (shift - 1))) >> shift)
    )


def _results(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    axis = m.channel_axis
    outputs, col = m.layer.out_channels, m.col
    ots = math.ceil(outputs / col)

    def reversed_columns(values: Int64) -> Int64:
        front = np.moveaxis(values, axis, 0)
        full = np.concatenate((front, np.zeros((ots * col - outputs, *front.shape[1:]), np.int64)))
        turned = full.reshape(ots, col, *front.shape[1:])[:, ::-1].reshape(full.shape)[:outputs]
        return np.moveaxis(turned, 0, axis)

    yield Change("columns_reversed", "", "result", reversed_columns, True)
    if outputs % col:
        order = [i for start in range(0, outputs, col) for i in reversed(range(start, min(start + col, outputs)))]
        yield Change("columns_reversed", "only those in use", "result", _taken(axis, order))
    if "col" not in m.manifest.array and m.tiling.lanes > 1:
        yield Change("columns_reversed", "lanes of a word reversed", "words", lambda blocks: blocks[:, :, ::-1])
    for detail, tiles, pair in _orders(ots):
        if outputs % col == 0 or tiles[-1] == ots - 1:
            order = _blocks(outputs, col, tiles)
            yield Change("output_tile_order", detail, "result", _taken(axis, order), pair)
        else:
            yield Change("output_tile_order", detail, "result", _ragged_tiles(axis, outputs, col, tiles), pair)
    found = _matching(m.golden, actual, known, 0)
    if found is not None:
        yield Change("image_order", f"images {found} in place of 0..{m.images - 1}", "result", _taken(0, found))
    for detail, images, pair in _orders(m.images):
        yield Change("image_order", detail, "result", _taken(0, images), pair)
    for image in range(min(m.images, 16)) if m.images > 1 else ():
        yield Change("image_order", f"always image {image}", "result", _taken(0, [image] * m.images))


def _ragged_tiles(axis: int, outputs: int, col: int, tiles: Sequence[int]) -> Callable[[Int64], Int64]:
    """Whole tiles move, with their filled lanes."""

    def change(values: Int64) -> Int64:
        front = np.moveaxis(values, axis, 0)
        full = np.concatenate((front, np.zeros((len(tiles) * col - outputs, *front.shape[1:]), np.int64)))
        moved = full.reshape(len(tiles), col, *front.shape[1:])[list(tiles)].reshape(full.shape)[:outputs]
        return np.moveaxis(moved, 0, axis)

    return change


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


def _words(m: Model, blocks: Int64, known: Bools) -> Iterator[Change]:
    """`blocks`, `known`: what came back, (files, words, lanes)."""
    element = m.entry.element
    for kind, detail, wires, pair in bit_orders(m.tiling.lanes, element.bits):

        def crossed(values: Int64, wires: Callable[[Int64], Int64] = wires) -> Int64:
            return cross(values, element, wires)

        yield Change(f"output_{kind}", detail, "words", crossed, pair)
    golden = m.tiling.tile(m.golden)
    for lane in range(m.tiling.lanes):
        seen = np.unique(blocks[:, :, lane][known[:, :, lane]])
        if len(seen) == 1 and (golden[:, :, lane] != seen[0]).any():

            def stuck(values: Int64, lane: int = lane, value: int = int(seen[0])) -> Int64:
                values = values.copy()
                values[:, :, lane] = value
                return values

            yield Change("lane_stuck", f"lane {lane} at {int(seen[0])}", "words", stuck, True)
    yield from _shifts(m, golden, blocks, known)
    for detail, delay in _DELAYS:
        lanes = m.tiling.lanes
        if lanes == 1:
            break
        by = delay(np.arange(lanes), lanes)

        def skewed(values: Int64, by: Int64 = by) -> Int64:
            return np.stack([_moved(values[:, :, lane], int(by[lane])) for lane in range(len(by))], axis=2)

        yield Change("skew", f"lane r of the results {detail}", "words", skewed)


def _moved(values: Int64, by: int) -> Int64:
    """(files, words, ...) shifted by so many words in each file; UNKNOWN where nothing is said."""
    out = np.full_like(values, UNKNOWN)
    if abs(by) >= values.shape[1]:
        return out
    if by >= 0:
        out[:, by:] = values[:, : values.shape[1] - by]
    else:
        out[:, :by] = values[:, -by:]
    return out


MAX_SHIFT = 256  # words


def _shifts(m: Model, golden: Int64, blocks: Int64, known: Bools) -> Iterator[Change]:
    """The shifts that fit best, found by comparing words."""
    files, words, lanes = golden.shape
    limit = min(MAX_SHIFT, words // 2)
    each = np.random.default_rng(0).integers(1, 1 << 62, lanes, dtype=np.int64)  # a hash of a word
    window = slice(0, min(words, 1 << 14))
    want: Int64 = (golden * each).sum(axis=2)
    got: Int64 = (blocks * each).sum(axis=2)
    sure = np.asarray(known.all(axis=2))

    def fit(by: int, flat: bool) -> float:
        a, b, c = (v.reshape(1, -1) if flat else v for v in (want, got, sure))
        if by >= 0:
            a, b, c = a[:, : a.shape[1] - by][:, window], b[:, by:][:, window], c[:, by:][:, window]
        else:
            a, b, c = a[:, -by:][:, window], b[:, :by][:, window], c[:, :by][:, window]
        return float(((a == b) & c).sum() / max(c.sum(), 1))

    for flat in (False, True) if files > 1 else (False,):
        shifts = sorted((by for by in range(-limit, limit + 1) if by), key=lambda by: (-fit(by, flat), abs(by)))
        for by in shifts[:3]:

            def change(values: Int64, by: int = by, flat: bool = flat) -> Int64:
                if not flat:
                    return _moved(values, by)
                return _moved(values.reshape(1, -1, values.shape[2]), by).reshape(values.shape)

            detail = f"by {by:+d} word{'s' if abs(by) > 1 else ''}" + (" over all files" if flat else "")
            yield Change("words_shifted", detail, "words", change)

            def turned(values: Int64, by: int = by, flat: bool = flat) -> Int64:
                if not flat:
                    return np.roll(values, by, axis=1)
                return np.roll(values.reshape(-1, values.shape[2]), by, axis=0).reshape(values.shape)

            yield Change("words_shifted", f"{detail}, cyclic", "words", turned)
    for by in (1, -1):

        def once(values: Int64, by: int = by) -> Int64:
            return _moved(values, by)

        if words > 2:
            yield Change("words_shifted", f"by {by:+d} word", "words", once, True)


def _stored_orders(m: Model) -> Iterator[Change]:
    """Bits of the stored words of weights and activations in another order."""
    stages = {"weight": "weight words", "input": "input words", "input_padded": "plane", "patches": "patches"}
    for kind, tensors in (("weight", ("weight",)), ("input", ("input", "input_padded", "patches"))):
        for number, wiring in enumerate(m.wiring(tensors)):
            if m.tensor == "psum" and wiring.tensor == "patches":
                continue
            for what, detail, wires, pair in bit_orders(wiring.tiling.lanes, wiring.element.bits):
                where = "" if wiring.tensor == kind else f", memory of {wiring.tensor}"
                change = _crossing(wiring, wires)
                yield Change(f"{kind}_{what}", f"{detail}{where}", stages[wiring.tensor], change, pair and not number)


def _crossing(wiring: Wiring, wires: Callable[[Int64], Int64]) -> Callable[[Int64], Int64]:
    return lambda values: wiring.crossed(values, wires)


# --- solved for -----------------------------------------------------------------------------------------------------


def _solved_taps(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """An order of the taps that the accumulators themselves give away.

    An accumulator is the sum over taps t, s of M[t, s] x (activations of t times weights of s), in a right design with
    M = 1; for some other order M is its permutation, which a least-squares fit finds.
    """
    taps = math.prod(m.layer.kernel)
    if m.tensor not in ("accumulator", "relu") or not 1 < taps <= 16 or m.layer.groups > 1 or m.memory.order.has_bits:
        return
    usable = known & (actual > 0) if m.tensor == "relu" else known
    places = np.argwhere(usable)
    if len(places) < 1.2 * taps * taps:
        return
    places = places[np.random.default_rng(0).permutation(len(places))[:2000]]
    n, oc, oy, ox = places.T
    seen = patches(pad(m.capture.input, m.layer), m.layer, m.plane)[n, :, :, :, oy, ox].reshape(len(places), -1, taps)
    weight = m.capture.weight[oc].reshape(len(places), -1, taps)
    features = np.einsum("pct,pcs->pts", seen.astype(np.float64), weight.astype(np.float64)).reshape(len(places), -1)
    bias = 0 if m.capture.bias is None else m.capture.bias[oc]
    solution, _, rank, _ = np.linalg.lstsq(features, (actual[tuple(places.T)] - bias).astype(np.float64), rcond=None)
    if rank < taps * taps:
        return
    matrix = np.rint(solution.reshape(taps, taps)).astype(np.int64)
    if (matrix.sum(axis=0) == 1).all() and (matrix.sum(axis=1) == 1).all() and np.isin(matrix, (0, 1)).all():
        order = matrix.argmax(axis=1).tolist()
        if order != list(range(taps)):
            yield Change("tap_order", f"taps in the order {order}", "weight taps", _by_taps(_taken(2, order)))


def hypotheses(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """All changes for the memory of a model; `actual`, `known`: what came back, in the tensor's axes."""
    blocks, sure = m.tiling.tile(actual), m.tiling.tile(known.astype(np.int64), fill=0) == 1
    groups: list[Iterable[Change]] = [_weights(m), _inputs(m), _planes(m)]
    if m.tensor == "psum":
        groups += [_psum_results(m)]
    else:
        groups += [_post(m), _accumulation(m, actual, known), _solved_taps(m, actual, known)]
    groups += [_results(m, actual, known), _words(m, blocks, sure), _stored_orders(m)]
    for group in groups:
        for change in group:
            if m.tensor != "psum" or change.stage not in ("gather", "patches", "sum", "accumulator", "history", "post"):
                yield change
