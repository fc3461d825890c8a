"""Mistakes with the taps of the kernel: their order, their number."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import patches
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.orders import by_taps, reordered
from qexport.findings.model import Model
from qexport.findings.sums import Sums

KERNEL_ROTATED = Mistake(
    "kernel_rotated", "Run kh and kw upwards with the window: convolution layers do not flip the kernel."
)
KH_KW_SWAPPED = Mistake("kh_kw_swapped", "Read the taps row by row: kh is the outer loop, kw the inner one.")
TAP_ORDER = Mistake(
    "tap_order", "Read the taps in the order of the weight memory: kh is the outer loop, kw the inner one."
)
TAP_OFF_BY_ONE = Mistake(
    "tap_off_by_one", "Check where the tap counter starts and wraps: weights and activations are one tap apart."
)
TAP_MISSING = Mistake("tap_missing", "Check the bounds of the tap counter: one tap is never accumulated.")
TAP_TWICE = Mistake("tap_twice", "Check when the tap counter advances: one tap is accumulated twice.")


def tap_mistakes(kernel: tuple[int, int]) -> Iterator[Change]:
    if math.prod(kernel) == 1:
        return
    places = [f"kh={kh} kw={kw}" for kh, kw in np.ndindex(*kernel)]
    yield from _tap_orders(kernel, places)
    yield from _taps_shifted()
    yield from _taps_counted_wrong(places)
    yield from _parts_missing(kernel)


def _tap_orders(kernel: tuple[int, int], places: Sequence[str]) -> Iterator[Change]:
    """Wrong orders of the taps, each once."""
    count = len(places)
    grid = np.arange(count).reshape(kernel)
    column_major = np.arange(count).reshape(kernel[1], kernel[0]).T  # of a kernel that is not square: the flat order
    snake = grid.copy()
    snake[1::2] = snake[1::2, ::-1]
    seen = {tuple(range(count))}
    for mistake, detail, order, pair in (
        (KERNEL_ROTATED, "", grid[::-1, ::-1], True),
        (KH_KW_SWAPPED, "", column_major, True),
        (TAP_OFF_BY_ONE, "one too far, cyclic", np.roll(grid.ravel(), -1), True),
        (TAP_OFF_BY_ONE, "one too early, cyclic", np.roll(grid.ravel(), 1), True),
        (TAP_OFF_BY_ONE, "one too far in each row, cyclic", np.roll(grid, -1, 1), False),
        (TAP_OFF_BY_ONE, "one too early in each row, cyclic", np.roll(grid, 1, 1), False),
        (TAP_OFF_BY_ONE, "one row too far, cyclic", np.roll(grid, -1, 0), False),
        (TAP_OFF_BY_ONE, "one row too early, cyclic", np.roll(grid, 1, 0), False),
        (TAP_ORDER, "rows of the kernel reversed", grid[::-1], True),
        (TAP_ORDER, "columns of the kernel reversed", grid[:, ::-1], True),
        (TAP_ORDER, "kh and kw swapped, then rotated", column_major.ravel()[::-1], False),
        (TAP_ORDER, "turned by 90 degrees", column_major[::-1], False),
        (TAP_ORDER, "turned back by 90 degrees", column_major[:, ::-1], False),
        (TAP_ORDER, "every second row backwards", snake, False),
        *((TAP_ORDER, f"rotated by {by}", np.roll(grid.ravel(), -by), False) for by in range(2, count - 1)),
        *(
            (TAP_ORDER, f"{places[a]} and {places[b]} exchanged", _transposition(count, a, b), False)
            for a, b in combinations(range(min(count, 16)), 2)
        ),
    ):
        flat = tuple(order.ravel().tolist())
        if flat not in seen:
            seen.add(flat)
            yield Change(mistake, detail, Stage.WEIGHT_TAPS, by_taps(reordered(2, flat)), pair)


def _taps_shifted() -> Iterator[Change]:
    """The taps one step apart from the activations, without going round."""

    def shifted(by: int, end: str) -> Callable[[Int64], Int64]:
        def change(w: Int64) -> Int64:
            moved = np.roll(w, -by, axis=2)
            lost = -1 if by > 0 else 0
            moved[:, :, lost] = 0 if end == "zero" else w[:, :, lost]
            return moved

        return by_taps(change)

    for by, way in ((1, "one too far"), (-1, "one too early")):
        for end, what in (("zero", "the one left over is 0"), ("kept", "the one at the end twice")):
            yield Change(TAP_OFF_BY_ONE, f"{way}, {what}", Stage.WEIGHT_TAPS, shifted(by, end), end == "zero")


def _taps_counted_wrong(places: Sequence[str]) -> Iterator[Change]:
    """A tap that is never accumulated, or twice."""
    count = len(places)
    neighbours = [(t, t + 1) for t in range(count - 1)] + [(t + 1, t) for t in range(count - 1)]
    for tap in range(count):
        yield Change(TAP_MISSING, f"tap {places[tap]}", Stage.WEIGHT_TAPS, _factors(count, tap, 0), True)
    for tap in range(count):
        yield Change(TAP_TWICE, f"tap {places[tap]}", Stage.WEIGHT_TAPS, _factors(count, tap, 2), True)
    for tap, other in neighbours:
        taken = list(range(count))
        taken[other] = tap
        detail = f"weights of tap {places[tap]} also in place of {places[other]}"
        yield Change(TAP_TWICE, detail, Stage.WEIGHT_TAPS, by_taps(reordered(2, taken)))
    for tap, other in neighbours:
        yield Change(TAP_TWICE, f"tap {places[tap]} in place of {places[other]}", Stage.SUM, _tap_instead(tap, other))


def _parts_missing(kernel: tuple[int, int]) -> Iterator[Change]:
    """Whole rows or columns of the kernel that are never accumulated, or all others."""
    for axis, name in ((0, "row"), (1, "column")):
        if kernel[axis] < 2 or kernel[1 - axis] < 2:
            continue
        for at in range(kernel[axis]):
            one = np.zeros(kernel, np.int64)
            one[(slice(None),) * axis + (at,)] = 1
            for detail, kept in ((f"kernel {name} {at}", 1 - one), (f"all but kernel {name} {at}", one)):
                factors = kept.ravel()
                change = by_taps(lambda w, factors=factors: w * factors)  # type: ignore[misc]
                yield Change(TAP_MISSING, detail, Stage.WEIGHT_TAPS, change)


def _factors(count: int, tap: int, factor: int) -> Callable[[Int64], Int64]:
    factors = np.ones(count, np.int64)
    factors[tap] = factor
    return by_taps(lambda w: w * factors)


def _tap_instead(tap: int, other: int) -> Callable[[Sums], Int64]:
    return lambda sums: sums.total + sums.offset + sums.part(slice(None), tap) - sums.part(slice(None), other)


def _transposition(count: int, a: int, b: int) -> Int64:
    order = np.arange(count)
    order[[a, b]] = b, a
    return order


def solved_tap_order(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
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
    seen = patches(m.planes, m.layer, m.plane)[n, :, :, :, oy, ox].reshape(len(places), -1, taps)
    weight = m.weight[oc].reshape(len(places), -1, taps)
    features = np.einsum("pct,pcs->pts", seen.astype(np.float64), weight.astype(np.float64)).reshape(len(places), -1)
    bias = 0 if m.facts.added is None else m.facts.added[oc]
    solution, _, rank, _ = np.linalg.lstsq(features, (actual[tuple(places.T)] - bias).astype(np.float64), rcond=None)
    if rank < taps * taps:
        return
    matrix = np.rint(solution.reshape(taps, taps)).astype(np.int64)
    if (matrix.sum(axis=0) == 1).all() and (matrix.sum(axis=1) == 1).all() and np.isin(matrix, (0, 1)).all():
        order = matrix.argmax(axis=1).tolist()
        if order != list(range(taps)):
            yield Change(TAP_ORDER, f"taps in the order {order}", Stage.WEIGHT_TAPS, by_taps(reordered(2, order)))
