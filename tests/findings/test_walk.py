"""The accumulators that are sent: at both sides of every place where a code changes; the mistakes that are told."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import Chain, Signal, read_steps
from qexport.findings.exhaust.mistakes import explanations, parts_by
from qexport.findings.exhaust.walk import Lane, alike, edge_accumulators, lanes, random_accumulators
from tests.conftest import cases

ROUNDINGS = st.sampled_from(["floor", "half_up", "half_even", "half_away", "toward_zero"])
ANY = st.integers(-40, 40)
ONE_STEP = st.one_of(
    st.builds(lambda by: {"op": "multiply", "by": by}, ANY),
    st.builds(lambda value: {"op": "add", "value": value}, ANY),
    st.builds(lambda by, way: {"op": "shift_right", "by": by, "round": way}, st.integers(0, 6), ROUNDINGS),
    st.builds(lambda by, way: {"op": "leaky_relu", "shift": by, "round": way}, st.integers(0, 4), ROUNDINGS),
    st.builds(lambda low, more: {"op": "clamp", "low": low, "high": low + more}, ANY, st.integers(0, 90)),
    st.builds(lambda bits, signed: {"op": "wrap", "bits": bits, "signed": signed}, st.integers(4, 9), st.booleans()),
    st.builds(
        lambda table: {"op": "threshold", "first": 0, "table": [sorted(table)]}, st.lists(ANY, min_size=1, max_size=5)
    ),
    st.just({"op": "relu"}),
    st.just({"op": "tflite", "multiplier": 1518500250, "shift": -2, "rounding": "double"}),
)


def lane_of(documents: list[dict[str, Any]], low: int, high: int) -> Lane:
    start = Signal(("n", "oc"), "oc", (1,), np.array([low]), np.array([high]))
    return lanes(Chain(read_steps(documents), start), by_channel=True)[0]


def changes(lane: Lane) -> Int64:
    """The accumulators whose code is another than that of the one before."""
    everything = np.arange(lane.low, lane.high + 1)
    codes = lane.values(everything)
    return everything[1:][codes[1:] != codes[:-1]]


@settings(max_examples=cases(300))
@given(st.lists(ONE_STEP, min_size=1, max_size=5), st.integers(-900, 0), st.integers(1, 900))
def test_where_a_code_changes_both_sides_are_sent(documents: list[dict[str, Any]], low: int, more: int) -> None:
    # a last threshold makes codes that change at few places, which no step's value shows
    lane = lane_of([*documents, {"op": "threshold", "first": 0, "table": [[-7, 0, 3, 11]]}], low, low + more)
    sent, every = edge_accumulators(lane, 1 << 16)
    assert lane.low in sent
    assert lane.high in sent
    assert ((lane.low <= sent) & (sent <= lane.high)).all()
    assert (np.diff(sent) > 0).all()
    if every:
        places = changes(lane)
        assert np.isin(places, sent).all()
        assert np.isin(places - 1, sent).all()


def test_a_wide_range_is_bisected_where_the_code_changes() -> None:
    steps = [
        {"op": "multiply", "by": 2**20 + 1},
        {"op": "shift_right", "by": 40, "round": "half_even"},
        {"op": "clamp", "low": -128, "high": 127},
    ]
    lane = lane_of(steps, -(2**40), 2**40)
    sent, every = edge_accumulators(lane, 1 << 12)
    assert every
    codes = lane.values(sent)
    assert set(codes.tolist()) == set(range(-128, 128))
    rises = np.flatnonzero(np.diff(codes))
    assert len(rises) == 255
    assert (np.diff(sent)[rises] == 1).all()  # both sides of each rise
    few, every = edge_accumulators(lane, 16)
    assert not every
    assert len(few) < 200


def test_values_of_a_table_are_all_sent() -> None:
    table = np.random.default_rng(0).integers(-50, 50, 128).tolist()
    steps = [
        {"op": "shift_right", "by": 20, "round": "floor"},
        {"op": "lookup", "low": -64, "table": table},
        {"op": "multiply", "by": 3},
        {"op": "shift_right", "by": 2, "round": "half_up"},
    ]
    lane = lane_of(steps, -(2**26), 2**26 - 1)
    sent, every = edge_accumulators(lane, 1 << 16)
    assert every
    assert set((sent >> 20).tolist()) == set(range(-64, 64))
    assert len(sent) < 2000


def test_channels_are_lanes_or_parts_of_the_line_where_no_channel_is_told() -> None:
    start = Signal(("n", "oc"), "oc", (4,), np.array([-5, 0, 3, 40]), np.array([2, 10, 9, 50]))
    same = Chain(read_steps([{"op": "add", "value": 1}]), start)
    assert alike(same)
    assert [(lane.channel, lane.low, lane.high) for lane in lanes(same, by_channel=False)] == [(0, -5, 10), (0, 40, 50)]
    assert [(lane.channel, lane.low, lane.high) for lane in lanes(same, by_channel=True)][2] == (2, 3, 9)
    assert not alike(Chain(read_steps([{"op": "add", "value": [1, 1, 2, 1]}]), start))
    bias = Chain(read_steps([{"op": "bias"}]), start, np.array([3, 3, 3, 4]))
    assert not alike(bias)
    assert alike(Chain(read_steps([{"op": "bias"}]), start, np.array([3, 3, 3, 3])))
    assert lanes(bias, by_channel=True)[3].values(np.array([41])).tolist() == [45]


def test_random_accumulators_are_the_same_for_a_key_and_of_every_size() -> None:
    lane = lane_of([{"op": "relu"}], -(2**40), 2**41)
    some = random_accumulators(lane, 10_000, (1, 2))
    assert np.array_equal(some, random_accumulators(lane, 10_000, (1, 2)))
    assert not np.array_equal(some, random_accumulators(lane, 10_000, (1, 3)))
    assert ((lane.low <= some) & (some <= lane.high)).all()
    assert {int(abs(v)).bit_length() for v in some} >= set(range(1, 42))


STEPS: list[dict[str, Any]] = [
    {"op": "tflite", "name": "scaled", "multiplier": 1518500250, "shift": -4, "rounding": "double"},
    {"op": "add", "name": "zero", "value": -7},
    {"op": "clamp", "name": "clipped", "low": -128, "high": 127},
]


@pytest.mark.parametrize(
    ("changed", "step", "said"),
    [
        ({0: {"rounding": "single"}}, 0, "rounds once"),
        ({0: {"shift": -3}}, 0, "has shift -3, not -4"),
        ({0: {"multiplier": 1518500250 + 2**20}}, 0, f"has multiplier {1518500250 + 2**20}, not 1518500250"),
        ({0: {"multiplier": 1600000000}}, 0, "has multiplier from 1599997798 to 1600002638, not 1518500250"),
        ({1: {"value": 0}}, 1, "is left out"),
        ({1: {"value": -19}}, 1, "has value -19, not -7"),
        ({2: {"low": -127}}, 2, "clamps to -127..127"),
    ],
)
def test_a_changed_step_is_explained_as_that_change(changed: dict[int, dict[str, Any]], step: int, said: str) -> None:
    right = lane_of(STEPS, -4000, 4000)
    wrong = lane_of([document | changed.get(at, {}) for at, document in enumerate(STEPS)], -4000, 4000)
    everything = np.arange(-4000, 4001)
    found = explanations(right, everything, wrong.values(everything), 16, IntFormat(8, True))
    assert found
    assert (found[0].at, found[0].text) == (step, said)


def test_a_number_is_told_as_far_as_the_codes_tell_it() -> None:
    everything = np.arange(-4000, 4001)
    codes = {
        number: lane_of([STEPS[0] | {"multiplier": number}, *STEPS[1:]], -4000, 4000).values(everything).tolist()
        for number in (1599997797, 1599997798, 1600000000, 1600002638, 1600002639)
    }
    below, *alike, above = codes.values()
    assert alike == [alike[0]] * 3
    assert below != alike[0] != above


def test_codes_that_no_single_mistake_explains_part_by_the_step_behind_which_values_are_equal() -> None:
    lane = lane_of(STEPS, -4000, 4000)
    everything = np.arange(-4000, 4001)
    odd = lane.values(everything) ^ (everything & 1)  # what no step but the first can still know
    assert not explanations(lane, everything, odd, 16, IntFormat(8, True))
    assert parts_by(lane, everything, odd) == 0
    strange = lane.values(everything) ^ (lane.values(everything) % 5 == 0)
    assert not explanations(lane, everything, strange, 16, IntFormat(8, True))
    assert parts_by(lane, everything, strange) == 2
