"""Steps against exact fractions, TFLite's published arithmetic and enumeration; chains, their names and their files."""

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    EDGES,
    STEPS,
    Chain,
    LeakyRelu,
    Lookup,
    MaxPool,
    Multiply,
    Relu,
    ShiftRight,
    Signal,
    Step,
    SumPool,
    Tflite,
    Threshold,
    read_steps,
    shift_right,
    takes_bias,
    write_steps,
)
from qexport.errors import QexportError
from tests.conftest import cases
from tests.judges.arithmetic import ROUNDINGS, TFLITE, expected, of, quantize_multiplier

Roundings = st.sampled_from(sorted(ROUNDINGS))
Value63 = st.integers(-(2**62), 2**62 - 1)


@st.composite
def documents(draw: st.DrawFn, low: int, high: int, channels: int = 3) -> dict[str, Any]:
    """A step of one value, for incoming values low..high, with numbers for each channel or one for all."""

    def numbers(least: int, most: int) -> Any:
        each = st.integers(least, most)
        return draw(each | st.lists(each, min_size=channels, max_size=channels))

    def integer(least: int, most: int) -> int:
        return draw(st.integers(least, most))

    op = draw(st.sampled_from(sorted(set(STEPS) - {"max_pool", "sum_pool"})))
    fields: dict[str, Callable[[], dict[str, Any]]] = {
        "bias": lambda: {"shift": integer(0, 9)},
        "multiply": lambda: {"by": numbers(-9, 9)},
        "add": lambda: {"value": numbers(-300, 300)},
        "shift_left": lambda: {"by": numbers(0, 20)},
        "shift_right": lambda: {"by": numbers(0, 9), "round": draw(Roundings)},
        "tflite": lambda: {
            "multiplier": numbers(0, 2**31 - 1),
            "shift": numbers(-9, 3),
            "rounding": draw(st.sampled_from(sorted(TFLITE))),
        },
        "relu": dict,
        "leaky_relu": lambda: {"shift": integer(0, 9), "round": draw(Roundings)},
        "clamp": lambda: dict(zip(("low", "high"), sorted([integer(-150, 150), integer(-150, 150)]), strict=True)),
        "wrap": lambda: {"bits": integer(1, 8), "signed": draw(st.booleans())},
        "threshold": lambda: {
            "first": integer(-9, 9),
            "table": [
                sorted(draw(st.lists(st.integers(low - 2, high + 2), min_size=5, max_size=5))) for _ in range(channels)
            ],
        },
        "lookup": lambda: {
            "low": low - 1,
            "table": draw(st.lists(st.integers(-99, 99), min_size=high - low + 3, max_size=high - low + 3)),
        },
    }
    return {"op": op} | fields[op]()


def signal(low: Any, high: Any, plane: tuple[int, int] | None = (4, 4)) -> Signal:
    """A tensor of as many channels as there are bounds: of a convolution, or of a matmul without a plane."""
    if plane is None:
        return Signal(("n", "m", "p"), "p", (3, len(low)), np.array(low), np.array(high))
    return Signal(("n", "oc", "oy", "ox"), "oc", (len(low), *plane), np.array(low), np.array(high))


def one(document: dict[str, Any]) -> Step:
    (step,) = read_steps([document])
    return step


# One step


@given(v=Value63, by=st.integers(0, 62), rounding=Roundings)
@example(v=-1, by=0, rounding="half_away")
@example(v=-(2**62), by=62, rounding="half_away")
@example(v=2**61, by=62, rounding="half_even")
def test_roundings_are_those_of_fractions(v: int, by: int, rounding: Any) -> None:
    wanted = ROUNDINGS[rounding](Fraction(v, 2**by))
    assert shift_right(np.array([v]), np.array([by]), rounding).tolist() == [wanted]
    assert shift_right(np.array([v], object), by, rounding).tolist() == [wanted]


@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
@pytest.mark.parametrize("by", [0, 1, 2, 5])
def test_roundings_at_every_tie_around_zero(rounding: Any, by: int) -> None:
    values = np.arange(-100, 101)
    wanted = [ROUNDINGS[rounding](Fraction(v, 2**by)) for v in values.tolist()]
    assert shift_right(values, by, rounding).tolist() == wanted


@settings(deadline=None)
@given(data=st.data(), low=st.integers(-120, 100), width=st.integers(0, 60), matmul=st.booleans())
def test_every_value_the_range_and_the_edges_of_a_step(data: st.DataObject, low: int, width: int, matmul: bool) -> None:
    """All incoming values of a range, each channel: the values, their least and greatest, and where they change."""
    lows, highs = [low, low - 3, low + 1], [low + width, low + width // 2, low + 1]
    document = data.draw(documents(min(lows), max(highs)))
    step, bias = one(document), np.array([7, -300, 0])
    incoming = np.arange(min(lows), max(highs) + 1)
    v = np.broadcast_to(incoming, (3, incoming.size)).T[None] if matmul else np.array([[[incoming]] * 3])
    got = step.apply(v, 2 if matmul else 1, bias)
    assert got.dtype == np.int64
    by_channel = got[0].T if matmul else got[0, :, 0]
    before = signal(lows, highs, None if matmul else (4, 4))
    after = step.after(before, bias)
    for channel in range(3):
        wanted = [expected(document, int(v), channel, int(bias[channel])) for v in incoming]
        assert by_channel[channel].tolist() == wanted
        reached = [w for v, w in zip(incoming, wanted, strict=True) if lows[channel] <= v <= highs[channel]]
        assert (after.low[channel], after.high[channel]) == (min(reached), max(reached))
        assert {type(after.low[channel]), type(after.high[channel])} == {int}
        edges = set(step.edges(lows[channel], highs[channel], channel).tolist())
        assert {lows[channel], highs[channel]} <= edges <= set(range(lows[channel], highs[channel] + 1))
        if document["op"] in ("shift_right", "leaky_relu", "tflite", "wrap", "threshold", "clamp", "relu"):
            assert bends(document, lows[channel], highs[channel], channel) <= edges
    assert after.sizes == before.sizes


def bends(document: dict[str, Any], low: int, high: int, channel: int) -> set[int]:
    """Both sides of each place at which a step's course changes: a jump of what divides, a bend of what clips."""
    f = [expected(document, v, channel) for v in range(low - 1, high + 2)] if document["op"] != "tflite" else []
    sides: set[int] = set()
    for v in range(low + 1, high + 1):
        if document["op"] == "tflite":
            if of(document["shift"], channel) > 0:
                continue  # it rises with nearly every value
            jumps = expected(document, v, channel) != expected(document, v - 1, channel)
        elif document["op"] in ("clamp", "relu"):
            before, after = f[v - low] - f[v - 1 - low], f[v + 1 - low] - f[v - low]
            jumps = after != before
        elif document["op"] == "wrap":
            jumps = f[v + 1 - low] != f[v - low] + 1
        elif of(document.get("by", document.get("shift", 1)), channel) == 0 or (
            document["op"] == "leaky_relu" and v > 0
        ):
            continue  # nothing is rounded
        else:
            jumps = f[v + 1 - low] != f[v - low]
        if jumps:
            sides |= {v - 1, v}
    return sides


@pytest.mark.parametrize("rounding", sorted(TFLITE))
@pytest.mark.parametrize("shift", [-31, -30, -8, -1, 0, 1, 7, 30])
@pytest.mark.parametrize("multiplier", [0, 1, 2, 2**30 - 1, 2**30, 2**30 + 1, 1518500250, 2**31 - 1])
def test_tflite_at_the_corners_of_its_range(rounding: Any, shift: int, multiplier: int) -> None:
    low, high = -(2**31) >> max(shift, 0), (2**31 - 1) >> max(shift, 0)
    values = sorted({v for v in (low, low + 1, low // 2, -3, -2, -1, 0, 1, 2, 3, high // 2, high) if low <= v <= high})
    step = Tflite(multiplier=multiplier, shift=shift, rounding=rounding)
    wanted = [TFLITE[rounding](v, multiplier, shift) for v in values]
    assert step.apply(np.array([values]), 0).tolist() == [wanted]
    after = step.after(signal([low], [high]), None)
    assert after.range == (wanted[0], wanted[-1])
    for beyond in ((low - 1, high), (low, high + 1)):
        with pytest.raises(QexportError, match=r"tflite: channel 0 reaches .* int32 does not hold; clamp before it"):
            step.after(signal([beyond[0]], [beyond[1]]), None)


@settings(max_examples=cases(300))
@given(v=st.integers(-(2**31), 2**31 - 1), multiplier=st.integers(0, 2**31 - 1), shift=st.integers(-31, 30))
@example(v=-(2**31), multiplier=2**31 - 1, shift=0)
@example(v=-(2**30), multiplier=2**30, shift=-1)
def test_tflite_is_the_published_arithmetic(v: int, multiplier: int, shift: int) -> None:
    v >>= max(shift, 0)
    for rounding in ("double", "single"):
        step = Tflite(multiplier=(0, multiplier), shift=(0, shift), rounding=rounding)
        assert step.apply(np.array([[0, v]]), 1).tolist() == [[0, TFLITE[rounding](v, multiplier, shift)]]


@settings(deadline=None)
@given(real=st.floats(1e-6, 4), seed=st.integers(0, 99))
def test_tflite_with_multipliers_of_real_layers_and_where_its_two_roundings_part(real: float, seed: int) -> None:
    multiplier, shift = quantize_multiplier(real)
    values = np.random.default_rng(seed).integers(-(2**20), 2**20, 50)
    for rounding in ("double", "single"):
        got = Tflite(multiplier=multiplier, shift=shift, rounding=rounding).apply(values, 0)
        assert got.tolist() == [TFLITE[rounding](v, multiplier, shift) for v in values.tolist()]
        assert np.abs(got - values * real).max() < 1.01  # it is what the layer means
    parted = [Tflite(multiplier=2**30, shift=-1, rounding=how).apply(np.array([-6, -2, 1]), 0) for how in TFLITE]
    assert parted[0].tolist() == [-2, -1, 1] != parted[1].tolist()


@pytest.mark.parametrize("rounding", sorted(TFLITE))
@pytest.mark.parametrize(("multiplier", "shift"), [(82595525, -2), (2**30, -1), (1518500250, -9), (2**31 - 1, -20)])
def test_edges_of_tflite_lie_where_its_codes_change(rounding: Any, multiplier: int, shift: int) -> None:
    edges = Tflite(multiplier=multiplier, shift=shift, rounding=rounding).edges(-(2**30), 2**31 - 9)
    codes = [TFLITE[rounding](v, multiplier, shift) for v in edges.tolist()]
    changes = sum(b == a + 1 and w == v + 1 for v, w, a, b in zip(edges, edges[1:], codes, codes[1:], strict=False))
    assert changes > EDGES - 8  # of the outermost codes the edge may lie outside


Padding = st.tuples(*[st.integers(0, 2)] * 4)


@settings(deadline=None)
@given(
    data=st.data(),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=Padding,
    low=st.integers(-20, 20),
    width=st.integers(0, 20),
)
def test_pools_are_those_of_each_window(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int] | None,
    padding: tuple[int, ...],
    low: int,
    width: int,
) -> None:
    top, bottom, left, right = (min(side, kernel[at // 2] - 1) for at, side in enumerate(padding))
    plane = (
        data.draw(st.integers(max(1, kernel[0] - top - bottom), 8)),
        data.draw(st.integers(max(1, kernel[1] - left - right), 8)),
    )
    facts: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": (top, bottom, left, right)}
    values = np.random.default_rng(0).integers(low, low + width + 1, (2, 2, *plane))
    before = signal([low, low], [low + width] * 2, plane)
    for pool, reduce in ((MaxPool(**facts), max), (SumPool(**facts), sum)):
        after = pool.after(before, None)
        for v in (values, np.full(values.shape, low), np.full(values.shape, low + width)):
            got = pool.apply(v, 1)
            assert got.shape[1:] == after.sizes
            for at in np.ndindex(got.shape):
                starts = [at[2 + i] * (stride or kernel)[i] - (top, left)[i] for i in range(2)]
                rows, cols = (
                    [p for p in range(starts[i], starts[i] + kernel[i]) if 0 <= p < plane[i]] for i in range(2)
                )
                assert got[at] == reduce(int(v[at[0], at[1], y, x]) for y in rows for x in cols)
            assert (after.low <= got.min()).all()
            assert (after.high >= got.max()).all()
        assert after.low[0] == pool.apply(np.full(values.shape, low), 1).min()  # the bounds are reached
        assert after.high[0] == pool.apply(np.full(values.shape, low + width), 1).max()
    last = [size + more - k for size, more, k in zip(plane, (top + bottom, left + right), kernel, strict=True)]
    assert after.sizes[1:] == tuple(space // step + 1 for space, step in zip(last, stride or kernel, strict=True))


@pytest.mark.parametrize("rounding", sorted(TFLITE))
@pytest.mark.parametrize(("multiplier", "shift"), [(82595525, -2), (2**30, -1), (2**30, -3), (2**24, 3), (2**22, 0)])
def test_every_place_where_a_few_codes_of_tflite_change_is_an_edge(rounding: Any, multiplier: int, shift: int) -> None:
    step = Tflite(multiplier=multiplier, shift=shift, rounding=rounding)
    one_code = 2.0 ** (31 - shift) / multiplier
    for codes in (1.4, 1.6, 20.0):
        low, high = -round(codes * one_code), round(codes * one_code)
        values = [TFLITE[rounding](v, multiplier, shift) for v in range(low, high + 1)]
        changes = {v for v in range(low + 1, high + 1) if values[v - low] != values[v - 1 - low]}
        assert len(changes) > 1
        assert changes | {v - 1 for v in changes} <= set(step.edges(low, high).tolist())
    assert Tflite(multiplier=0, shift=shift, rounding=rounding).edges(-9, 9).tolist() == [-9, -1, 0, 1, 9]


def test_edges_of_what_clips_and_of_what_wraps() -> None:
    clamp = one({"op": "clamp", "low": -50, "high": 70})
    assert clamp.edges(-99, 100).tolist() == [-99, -51, -50, -49, -1, 0, 1, 69, 70, 71, 100]
    wrap = one({"op": "wrap", "bits": 5, "signed": True})
    assert wrap.edges(-40, 20).tolist() == [-40, -17, -16, -15, -1, 0, 1, 15, 16, 17, 20]
    threshold = one({"op": "threshold", "table": [[0], [9]], "first": 0})
    assert threshold.edges(-40, 20, 1).tolist() == [-40, -1, 0, 1, 8, 9, 10, 20]
    assert one({"op": "multiply", "by": 3}).edges(2, 20).tolist() == [2, 20]


def test_a_table_covers_every_value_that_can_come_or_is_refused() -> None:
    step = Lookup(low=-5, table=tuple(range(10)))
    assert step.after(signal([-5, 3], [4, 3]), None).range == (0, 9)
    for low, high in ((-6, 0), (0, 5)):
        with pytest.raises(QexportError, match=rf"table covers -5\.\.4, channel 1 reaches {low}\.\.{high}; clamp"):
            step.after(signal([0, low], [0, high]), None)


@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
def test_edges_of_a_wide_range_are_few_and_tell_every_rounding_from_every_other(rounding: Any) -> None:
    for by in (2, 4, 13, 30):
        step = ShiftRight(by=(0, by), round=rounding)
        edges = step.edges(-(2**40), 2**41, 1)
        assert len(edges) <= 3 * EDGES + 9
        for other in set(ROUNDINGS) - {rounding}:
            for side in (edges[edges < 0], edges[edges > 0]):
                same = (shift_right(side, by, rounding) == shift_right(side, by, other)).all()
                alike = {rounding, other} in ({"floor", "toward_zero"}, {"half_up", "half_away"}) and side[0] > 0
                assert same == alike
        leaky = LeakyRelu(shift=by, round=rounding).edges(-(2**40), 2**41)
        assert 6 < len(leaky) <= 3 * EDGES + 9
    assert ShiftRight(by=(0, 4), round=rounding).edges(-5, 5, 0).tolist() == [-5, -1, 0, 1, 5]


def test_edges_keep_to_the_number_that_is_asked_for() -> None:
    table = tuple(tuple(range(-1000, 1000, 4)) for _ in range(2))
    steps: list[Step] = [
        Threshold(table=table, first=0),
        Lookup(low=-3000, table=tuple(range(6001))),
        Tflite(multiplier=2**30, shift=-1, rounding="single"),
        one({"op": "wrap", "bits": 3, "signed": True}),
    ]
    for step in steps:
        edges = step.edges(-3000, 3000, 1, most=16)
        assert 16 <= len(edges) <= 3 * 16 + 9
        assert {-3000, -1, 0, 1, 3000} <= set(edges.tolist())
    for low in range(-4000, 4000, 250):
        edges = ShiftRight(by=4, round="half_even").edges(low, low + 3500, most=16)
        assert set(edges[edges % 16 == 8] // 16 % 2) == {0, 1}  # ties to even and to odd
    assert {-(2**12), 2**12} <= set(ShiftRight(by=13, round="floor").edges(-(2**40), 2**41 + 2**37).tolist())
    assert set(range(-999, 997, 4)) <= set(steps[0].edges(-999, 995, 1, most=600).tolist()) | set(range(996, 1000))


@pytest.mark.parametrize(
    ("document", "low", "high"),
    [
        ({"op": "multiply", "by": -(2**40)}, -(2**22) + 1, 2**22),
        ({"op": "add", "value": 2**61}, -(2**62), 2**61 - 1),
        ({"op": "shift_left", "by": 62}, -1, 0),
        ({"op": "shift_left", "by": 20}, -(2**42), 2**42 - 1),
        ({"op": "bias", "shift": 60}, -(2**62), -(2**60) - 1),
        ({"op": "bias", "shift": 40}, 2**62 - 1 - 5 * 2**40, 2**62 - 1 - 5 * 2**40),
        ({"op": "sum_pool", "kernel": [2, 2]}, -(2**60), 2**60 - 1),
        ({"op": "threshold", "table": [[0, 1]], "first": 2**62 - 3}, 0, 9),
    ],
)
def test_63_bits_hold_every_value_or_the_step_is_refused(document: dict[str, Any], low: int, high: int) -> None:
    bias = np.array([5])
    assert one(document).after(signal([low], [high]), bias).sizes
    furthest = {
        "multiply": (low - 2, high),
        "threshold": None,
        "bias": (low, high + 2**62 if document.get("shift") == 60 else high + 1),
        "shift_left": (low, high + 1),
        "add": (low, high + 1),
        "sum_pool": (low - 1, high),
    }[document["op"]]
    if furthest is None:
        document, furthest = document | {"first": 2**62 - 2}, (low, high)
    with pytest.raises(QexportError, match=r"^\w+: values of channel 0 reach .* 63 bits do not hold; use smaller"):
        one(document).after(signal([furthest[0]], [furthest[1]]), bias)


def test_a_bias_whose_shift_leaves_int64_is_refused() -> None:
    with pytest.raises(QexportError, match="bias: values of channel 0 reach"):
        one({"op": "bias", "shift": 62}).after(signal([-(2**62)], [-1]), np.array([5]))


# Chains


def chain(*documents: dict[str, Any], start: Signal | None = None, **facts: Any) -> Chain:
    return Chain(read_steps(list(documents)), start or signal([-1000, -50], [900, 60]), **facts)


@settings(max_examples=cases(50))
@given(data=st.data())
def test_a_chain_is_its_steps_one_after_the_other_and_its_ranges_hold(data: st.DataObject) -> None:
    start, listed = signal([-60, -9, 4], [50, 7, 4]), []
    low, high = -60, 50
    bias = np.array([3, -2, 1])
    for _ in range(4):
        document = data.draw(documents(low, high))
        if document["op"] == "bias" and any(other["op"] == "bias" for other in listed):
            continue
        found = Chain(read_steps([*listed, document]), start, bias)
        low, high = found.end.range
        if high - low > 2000:  # so that tables that cover it stay small, and TFLite's left shift in int32
            break
        listed.append(document)
    made = Chain(read_steps(listed), start, bias)
    rng = np.random.default_rng(0)
    v = np.stack([rng.integers(low, high + 1, (2, 4, 4)) for low, high in zip(start.low, start.high, strict=True)], 1)
    values = made.values(v)
    assert list(values) == list(made.signals) == [f"step{index}" for index in range(len(listed))]
    wanted = v
    for document, (name, got) in zip(listed, values.items(), strict=True):
        wanted = np.array(
            [expected(document, int(x), at[1], int(bias[at[1]])) for at, x in np.ndenumerate(wanted)]
        ).reshape(v.shape)
        assert (got == wanted).all()
        for channel in range(3):
            assert made.signals[name].low[channel] <= got[:, channel].min()
            assert made.signals[name].high[channel] >= got[:, channel].max()


def test_fixed_point_with_a_shifted_bias_and_a_pool() -> None:
    """Q8.8: bias << 8, floor >> 8, clamp to 16 bits, 2x2 max pool."""
    made = chain(
        {"op": "bias", "shift": 8},
        {"op": "shift_right", "by": 8, "round": "floor", "name": "scaled"},
        {"op": "clamp", "low": -(2**15), "high": 2**15 - 1},
        {"op": "max_pool", "kernel": [2, 2], "name": "pooled"},
        start=signal([-(2**27), -(2**20)], [2**27, 2**20]),
        bias=np.array([100, -7]),
        output=IntFormat(16, True),
        taken=("weight", "accumulator"),
    )
    assert takes_bias(made.steps)
    assert list(made.signals) == ["step0", "scaled", "step2", "pooled"]
    assert made.end.sizes == (2, 2, 2)
    v = np.random.default_rng(0).integers(-(2**20), 2**20, (3, 2, 4, 4))
    wanted = np.clip(v + np.array([100, -7])[:, None, None] * 256 >> 8, -(2**15), 2**15 - 1)
    pooled = wanted.reshape(3, 2, 2, 2, 2, 2).max(axis=(3, 5))
    assert (made.values(v)["pooled"] == pooled).all()
    assert (made.end.low[1], made.end.high[1]) == ((-(2**20) >> 8) - 7, (2**20 >> 8) - 7)


def test_parameters_are_tensors_with_axes_and_a_single_number_counts_as_equal_ones() -> None:
    documents = (
        {"op": "multiply", "by": [3, -4]},
        {"op": "shift_right", "by": 2, "round": "floor", "name": "halved"},
        {"op": "tflite", "multiplier": 5, "shift": [0, -1], "rounding": "single"},
        {"op": "threshold", "table": [[-9, 0, 2], [1, 2, 2]], "first": 0},
        {"op": "lookup", "low": 0, "table": [4, 5, 6, 7]},
        {"op": "bias", "shift": 2},
        {"op": "clamp", "low": 0, "high": 3},
    )
    made = chain(*documents, bias=np.array([1, 2]))
    found = {name: (parameter.axes, parameter.values.tolist()) for name, parameter in made.parameters.items()}
    assert found == {
        "step0_by": (("oc",), [3, -4]),
        "halved_by": (("oc",), [2, 2]),
        "step2_multiplier": (("oc",), [5, 5]),
        "step2_shift": (("oc",), [0, -1]),
        "step3_table": (("oc", "level"), [[-9, 0, 2], [1, 2, 2]]),
        "step4_table": (("level",), [4, 5, 6, 7]),
    }
    of_matmul = chain(*documents[:4], start=signal([-9, -9], [9, 9], None))
    assert [parameter.axes[0] for parameter in of_matmul.parameters.values()] == ["p"] * 5
    assert of_matmul.values(np.ones((1, 3, 2), np.int64))["step0"].tolist() == [[[3, -4]] * 3]


def test_without_steps_the_chain_ends_where_it_starts() -> None:
    made = chain(output=IntFormat(11, True))
    assert made.end.range == (-1000, 900)
    assert made.values(np.zeros((1, 2, 4, 4), np.int64)) == {}
    with pytest.raises(QexportError, match=r"ends in -1000\.\.900, outside -512\.\.511 of formats\.output"):
        chain(output=IntFormat(10, True))


RELU = {"op": "relu"}


@pytest.mark.parametrize(
    ("documents", "needles"),
    [
        ([{"op": "multiply", "by": [1, 2, 3]}], ["step step0: multiply: by", "3 entries for 2 channels"]),
        ([{"op": "threshold", "table": [[1]], "first": 0}], ["step0: threshold: table", "1 entries for 2 channels"]),
        ([{"op": "lookup", "low": -50, "table": [0] * 111}], ["covers -50..60, channel 0 reaches -1000..900"]),
        ([{"op": "bias"}], ["step step0: bias: the layer has no bias"]),
        ([RELU | {"name": "output"}], ["step output: another tensor is named output"]),
        ([RELU | {"name": "weight"}], ["step weight: another tensor is named weight"]),
        ([RELU | {"name": "a"}, RELU | {"name": "a"}], ["step a: another tensor"]),
        ([RELU | {"name": "step1"}, RELU], ["step step1: another tensor"]),
        ([{"op": "multiply", "by": 1, "name": "a"}, RELU | {"name": "a_by"}], ["another tensor is named a_by"]),
        ([RELU | {"name": "1a"}], ["step 0: name '1a' is not an identifier"]),
        ([RELU | {"name": "ä"}], ["step 0: name 'ä' is not an identifier"]),
        ([RELU | {"name": "a\n"}], ["is not an identifier"]),
        ([RELU | {"name": ""}], ["step 0: name '' is not an identifier"]),
        ([{"op": "max_pool", "kernel": [5, 1]}], ["max_pool: kernel 5x1 is larger than the padded plane of 4x4"]),
        ([{"op": "sum_pool", "kernel": [1, 7], "padding": [0, 0, 1, 1]}], ["sum_pool: kernel 1x7", "4x6"]),
        ([RELU], ["step step0: the chain ends in 0..900, outside -128..127", "clamp"]),
    ],
)
def test_a_chain_that_does_not_fit_is_refused_in_one_line(documents: list[dict[str, Any]], needles: list[str]) -> None:
    with pytest.raises(QexportError) as caught:
        chain(*documents, output=IntFormat(8, True), taken=("weight",))
    assert "\n" not in str(caught.value).replace("a\\n", "")
    for needle in needles:
        assert needle in str(caught.value)


def test_one_bias_at_most_and_no_pools_without_a_plane() -> None:
    with pytest.raises(QexportError, match="step step1: a second bias"):
        chain({"op": "bias"}, {"op": "bias"}, bias=np.array([1, 2]))
    with pytest.raises(QexportError, match="step step0: max_pool: a tensor of axes n m p has no plane"):
        chain({"op": "max_pool", "kernel": [1, 1]}, start=signal([0, 0], [9, 9], None))


# Documents


@pytest.mark.parametrize(
    ("document", "needles"),
    [
        (7, ["step 0: op 7 is not known", "shift_right"]),
        ({"op": "softmax"}, ["step 0: op 'softmax' is not known"]),
        ({"op": ["relu"]}, ["step 0: op ['relu'] is not known"]),
        ({"op": "relu", "slope": 1}, ["step 0: relu: ", "slope"]),
        ({"op": "multiply"}, ["step 0: multiply: ", "by"]),
        ({"op": "multiply", "by": []}, ["multiply: by is empty"]),
        ({"op": "multiply", "by": 2**62}, ["multiply: by 4611686018427387904 is outside -4611686018427387904.."]),
        ({"op": "multiply", "by": [1, 2**63]}, ["multiply: by holds a number beyond 63 bits"]),
        ({"op": "multiply", "by": 1.5}, ["multiply: ", "$.by"]),
        ({"op": "multiply", "by": True}, ["multiply: ", "$.by"]),
        ({"op": "multiply", "by": {"axes": ["oc", "kb"], "values": []}}, ["by with axes is reserved"]),
        ({"op": "add", "value": 1, "from": "a"}, ["from is reserved"]),
        ({"op": "add", "value": 1, "with": "a"}, ["with is reserved"]),
        ({"op": "shift_right", "by": 63, "round": "floor"}, ["shift_right: by 63 is outside 0..62"]),
        ({"op": "shift_left", "by": [0, -1]}, ["shift_left: by -1 is outside 0..62"]),
        ({"op": "shift_right", "by": 1, "round": "up"}, ["shift_right: ", "'up'", "$.round"]),
        ({"op": "shift_right", "by": 1}, ["shift_right: ", "round"]),
        ({"op": "tflite", "multiplier": 2**31, "shift": 0, "rounding": "single"}, ["multiplier 2147483648 is outside"]),
        ({"op": "tflite", "multiplier": -1, "shift": 0, "rounding": "single"}, ["multiplier -1 is outside 0.."]),
        ({"op": "tflite", "multiplier": 1, "shift": 31, "rounding": "single"}, ["shift 31 is outside -31..30"]),
        ({"op": "tflite", "multiplier": 1, "shift": -32, "rounding": "double"}, ["shift -32 is outside -31..30"]),
        ({"op": "leaky_relu", "shift": 63, "round": "floor"}, ["leaky_relu: ", "$.shift"]),
        ({"op": "clamp", "low": 3, "high": 2}, ["clamp: low 3", "high 2"]),
        ({"op": "clamp", "low": 3, "high": 2**62}, ["clamp: high 4611686018427387904 is outside"]),
        ({"op": "wrap", "bits": 0, "signed": True}, ["wrap: ", "$.bits"]),
        ({"op": "threshold", "table": [[1, 2], [2]], "first": 0}, ["rows of different lengths"]),
        ({"op": "threshold", "table": [[1, 2], [2, 1]], "first": 0}, ["not ascending in channel 1"]),
        ({"op": "threshold", "table": [[]], "first": 0}, ["table is empty"]),
        ({"op": "threshold", "table": [[1]], "first": 2**62}, ["threshold: first"]),
        ({"op": "lookup", "table": [], "low": 0}, ["lookup: table is empty"]),
        ({"op": "lookup", "table": [1], "low": -(2**70)}, ["lookup: low"]),
        ({"op": "max_pool", "kernel": [2, 3], "padding": [0, 2, 0, 0]}, ["padding 2 is not smaller than the kernel's"]),
        ({"op": "max_pool", "kernel": [3, 2], "padding": [0, 0, 2, 0]}, ["padding 2 is not smaller than the kernel's"]),
        ({"op": "max_pool", "kernel": [0, 2]}, ["max_pool: ", "$.kernel"]),
        ({"op": "sum_pool", "kernel": [2, 2], "stride": [1]}, ["sum_pool: ", "$.stride"]),
    ],
)
def test_a_bad_step_is_refused_in_one_line(document: Any, needles: list[str]) -> None:
    with pytest.raises(QexportError) as caught:
        read_steps([document])
    assert "\n" not in str(caught.value)
    for needle in needles:
        assert needle in str(caught.value), str(caught.value)


def test_steps_are_a_list() -> None:
    with pytest.raises(QexportError, match=r"^steps: \{'op': 'relu'\} is not a list"):
        read_steps({"op": "relu"})


def test_long_lists_leave_the_document_and_come_back() -> None:
    steps = read_steps(
        [
            {"op": "multiply", "by": list(range(65)), "name": "scaled"},
            {"op": "add", "value": list(range(64))},
            {"op": "tflite", "multiplier": 3, "shift": [0] * 65, "rounding": "double"},
            {"op": "threshold", "table": [[channel, channel + 1] for channel in range(33)], "first": -1},
            {"op": "max_pool", "kernel": [2, 2]},
        ]
    )
    written, tensors = write_steps(steps)
    assert written == [
        {"op": "multiply", "name": "scaled"},
        {"op": "add", "value": list(range(64))},
        {"op": "tflite", "multiplier": 3, "rounding": "double"},
        {"op": "threshold", "first": -1},
        {"op": "max_pool", "kernel": [2, 2]},
    ]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes == {"steps.0.by": (65,), "steps.2.shift": (65,), "steps.3.table": (33, 2)}
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.int64)}
    back = json.loads(json.dumps(written))
    assert read_steps(back, tensors) == steps
    assert back == written  # what was read is left as it was


@pytest.mark.parametrize(
    ("name", "tensor", "needle"),
    [
        ("steps.2.by", np.zeros(2, np.int64), "no such step"),
        ("steps.x.by", np.zeros(2, np.int64), "no such step"),
        ("steps.00.by", np.zeros(2, np.int64), "no such step"),
        ("steps.0.by", np.zeros(2, np.int64), "in its JSON too"),
        ("steps.1.by", np.zeros(2, np.float64), "dtype float64 is not an integer"),
        ("steps.1.by", np.zeros((2, 2), np.int64), "step 1: multiply: "),
        ("steps.1.by", np.full(2, 2**64 - 1, np.uint64), "beyond 63 bits"),
        ("steps.1.value", np.zeros(2, np.int64), "step 1: multiply: "),
    ],
)
def test_a_tensor_that_is_no_field_of_a_step_is_refused(name: str, tensor: Any, needle: str) -> None:
    with pytest.raises(QexportError, match=f"^(tensor {name}|step 1): .*") as caught:
        read_steps([{"op": "multiply", "by": 2}, {"op": "multiply"}], {name: tensor})
    assert needle in str(caught.value)


def test_4096_channels_and_255_levels() -> None:
    channels = 4096
    table = np.sort(np.random.default_rng(0).integers(-1000, 1000, (channels, 255)), axis=1)
    steps = read_steps(
        [{"op": "multiply"}, {"op": "threshold", "first": -128}],
        {"steps.0.by": np.where(np.arange(channels) % 3, 1, -1), "steps.1.table": table},
    )
    made = Chain(steps, signal([-1000] * channels, [900] * channels), output=IntFormat(8, True))
    v = np.random.default_rng(1).integers(-1000, 901, (2, channels, 4, 4))
    got: Int64 = made.values(v)["step1"]
    for at in ((0, 0, 0, 0), (1, 4095, 3, 2), (0, 17, 1, 1)):
        seen = v[at] * (1 if at[1] % 3 else -1)
        assert got[at] == -128 + (table[at[1]] <= seen).sum()
    assert made.end.low[0] == -128 + (table[0] <= -900).sum()
    assert Multiply(by=tuple(made.parameters["step0_by"].values.tolist())) == steps[0]
    assert Relu().arrays == {}
