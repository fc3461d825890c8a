"""Mistakes with activations on their way into the rows of the array."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.hypotheses.orders import DELAYS, delayed, delayed_planes, wrong_orders
from qexport.findings.hypotheses.weights import INPUT_TILE_ORDER
from qexport.findings.model import Model

INPUT_SIGNED = Mistake(
    "input_signed", "Give the activations the signedness that the manifest says (extend them with zeros if unsigned)."
)
SKEW = Mistake("skew", "Delay row r by r cycles on its way in, and take the delays of the columns out again.")
LANE_STUCK = Mistake("lane_stuck", "Look at what drives this lane.")


def input_mistakes(m: Model) -> Iterator[Change]:
    layer = m.layer
    fmt = m.facts.formats.input.integer
    other = IntFormat(fmt.bits, not fmt.signed)
    if m.facts.formats.input.table is None:
        yield Change(INPUT_SIGNED, "" if other.signed else "read as unsigned", Stage.INPUT_CODES, other.wrap, True)
    its = math.ceil(layer.group_inputs / m.row)
    for detail, tiles, pair in wrong_orders(its):
        if m.tensor == "psum" or layer.group_inputs % m.row == 0:
            yield Change(
                INPUT_TILE_ORDER, f"of the activations, {detail}", Stage.INPUT_TILES, _tiles_of(m, tiles), pair
            )
    rows = _row_of(m)
    for row in range(min(m.row, layer.group_inputs)):
        for value in (0, fmt.high):

            def stuck(seen: Int64, row: int = row, value: int = value) -> Int64:
                seen = seen.copy()
                seen[:, rows == row] = m.seen(np.array(value))
                return seen

            yield Change(LANE_STUCK, f"activations of row {row} at {value}", Stage.INPUT_TILES, stuck)
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


def _skews(m: Model) -> Iterator[Change]:
    rows = _row_of(m)
    used = min(m.row, m.layer.group_inputs)

    def windows(by: Int64, edge: str) -> Callable[[Int64], Int64]:
        def change(values: Int64) -> Int64:
            n, channels, kh, kw, oy, ox = values.shape
            streams = values.swapaxes(0, 1).reshape(channels, n * kh * kw, oy * ox)
            return delayed(streams, by, edge).reshape(channels, n, kh, kw, oy, ox).swapaxes(0, 1)

        return change

    for detail, delay in DELAYS:
        for edge in ("zero", "cyclic", "carry"):
            by = delay(rows, used)
            if not by.any():
                continue
            what = f"row r {detail} ({edge} at the edges)"
            first = edge == "zero" and detail == "late by r"
            yield Change(SKEW, f"{what}, padded plane", Stage.PLANE, delayed_planes(by, edge), first)
            yield Change(SKEW, f"{what}, unpadded plane", Stage.INPUT_TILES, delayed_planes(by, edge))
            yield Change(SKEW, f"{what}, output positions", Stage.PATCHES, windows(by, edge))
    yield from _one_row_skewed(m, rows, used, windows)
    if m.tensor == "psum":
        return
    # output-stationary: a row of the array is an output position, a column an output channel, and time runs over taps
    for time in ((2, 3, 1), (1, 2, 3)):
        for detail, delay in DELAYS:
            for edge in ("zero", "cyclic"):
                loops = " ".join(("n", "ic", "kh", "kw")[axis] for axis in time)
                what = f"{detail} ({edge} at the edges), steps {loops}"
                yield Change(
                    SKEW, f"row r of positions {what}", Stage.PATCHES, _position_skew(m.row, time, delay, edge)
                )
                yield Change(
                    SKEW, f"column r of weights {what}", Stage.WEIGHT_TILES, _column_skew(m.col, time, delay, edge)
                )


def _one_row_skewed(
    m: Model, rows: Int64, used: int, windows: Callable[[Int64, str], Callable[[Int64], Int64]]
) -> Iterator[Change]:
    """One row of the array, or all from one on, a step too late or too early."""
    some = range(used) if used <= 16 else (0, used - 1)
    for row in some if used > 1 else ():
        for by, way in ((1, "late"), (-1, "early")):
            for edge in ("zero", "carry"):
                late = np.where(rows == row, by, 0)
                what = f"row {row} alone {way} by one ({edge} at the edges)"
                yield Change(SKEW, f"{what}, padded plane", Stage.PLANE, delayed_planes(late, edge))
                yield Change(SKEW, f"{what}, unpadded plane", Stage.INPUT_TILES, delayed_planes(late, edge))
                yield Change(SKEW, f"{what}, output positions", Stage.PATCHES, windows(late, edge))


def _position_skew(
    row: int, time: tuple[int, ...], delay: Callable[[Int64, int], Int64], edge: str
) -> Callable[[Int64], Int64]:
    def change(values: Int64) -> Int64:
        n, oy, ox = values.shape[0], *values.shape[4:]
        moved = values.transpose(4, 5, 0, *time)
        streams = moved.reshape(oy * ox, n, -1)
        out = delayed(streams, delay(np.arange(oy * ox) % row, min(row, oy * ox)), edge).reshape(moved.shape)
        return out.transpose(np.argsort((4, 5, 0, *time)))

    return change


def _column_skew(
    col: int, time: tuple[int, ...], delay: Callable[[Int64, int], Int64], edge: str
) -> Callable[[Int64], Int64]:
    def change(weight: Int64) -> Int64:
        moved = weight.transpose(0, *time)
        streams = moved.reshape(len(weight), 1, -1)
        by = delay(np.arange(len(weight)) % col, min(col, len(weight)))
        return delayed(streams, by, edge).reshape(moved.shape).transpose(np.argsort((0, *time)))

    return change
