"""The stress capture reaches what is proven to be possible, and shows every error that a weight can have."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.conv2d import pad, patches
from qexport.core.strength import measure
from qexport.trust.stress import MAX_IMAGES, stress_capture
from tests.conftest import cases, make_capture
from tests.strategies import captures


@settings(max_examples=cases(60))
@given(captures(), st.integers(0, 99))
def test_it_keeps_the_geometry_and_reaches_the_proven_bounds_of_any_layer(like: LayerCapture, seed: int) -> None:
    made = stress_capture(like, seed)
    assert (made.layer, made.formats, made.plane) == (like.layer, like.formats, like.plane)
    assert (made.bias is None) == (like.bias is None)
    assert made.images <= MAX_IMAGES
    assert (made.source.stimulus, made.source.seed) == ("stress", seed)
    golden = Golden(made)
    assert (golden.accumulator.min(), golden.accumulator.max()) == golden.facts.bounds


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    like = make_capture()
    first, again, other = (stress_capture(like, seed).to_bytes() for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("facts", [{}, {"groups": 2}, {"plane": (6, 5), "stride": (2, 2), "input_signed": True}])
def test_every_channel_reaches_its_extremes_at_the_corners(facts: dict[str, Any]) -> None:
    made = stress_capture(make_capture(**facts))
    layer, codes, sums = made.layer, made.formats.input.integer, Golden(made).accumulator
    inside = patches(pad(np.ones((1, 1, *made.plane), np.int64), layer), layer, made.plane)[0, 0]
    rows, cols = layer.output_plane(made.plane)
    for oy, ox in ((0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)):
        products = np.stack([made.weight * codes.low, made.weight * codes.high]) * inside[:, :, oy, ox]
        for extreme in (np.min, np.max):
            possible = extreme(products, axis=0).sum(axis=(1, 2, 3))
            np.testing.assert_array_equal(extreme(sums[:, :, oy, ox], axis=0), possible)


@pytest.mark.parametrize("facts", [{}, {"bias": True}, {"plane": (2, 2), "kernel": (1, 1), "padding": (0, 0, 0, 0)}])
def test_all_codes_come_and_every_weight_error_shows_behind_the_relu(facts: dict[str, Any]) -> None:
    made = stress_capture(make_capture(**facts))
    assert set(made.weight.flat) == set(range(-8, 8))
    assert set(made.input.flat) == set(range(16))
    weights = measure(made).info.weight
    assert weights.relu == weights.flips


@pytest.mark.parametrize(
    "weights", [{}, {"zero_point": 3}, {"signed": False, "zero_point": 8}, {"zero_point": (-8, 0, 7, 2)}]
)
def test_with_zero_points_it_reaches_bounds_and_small_sums_and_shows_all_codes(weights: dict[str, Any]) -> None:
    like = make_capture(bias=True, out_channels=4, weight_signed=weights.get("signed", True))
    operands = {"weight": weights, "input": {"zero_point": 5}}
    formats = {name: msgspec.structs.replace(getattr(like.formats, name), **keys) for name, keys in operands.items()}
    made = stress_capture(replace(like, formats=msgspec.structs.replace(like.formats, **formats)), 3)
    golden = Golden(made)
    assert (golden.accumulator.min(), golden.accumulator.max()) == golden.facts.bounds
    assert {-1, 0, 1} <= set(golden.accumulator.flat)
    codes = made.formats.weight.integer
    assert set(made.weight.flat) == set(range(codes.low, codes.high + 1))
    assert set(made.input.flat) == set(range(16))


@pytest.mark.parametrize(("bits", "scale", "ties"), [(1, 8.0, (32,)), (4, 8.3, (166, 498, 830))])
def test_it_reaches_ties_and_both_sides_of_every_edge_of_the_output(bits: int, scale: float, ties: Any) -> None:
    like, output = make_capture(), CodeFormat(bits=bits, signed=False, scale=scale)
    made = stress_capture(replace(like, formats=msgspec.structs.replace(like.formats, output=output)))
    golden = Golden(made)
    chain = golden.facts.chain
    assert chain is not None
    assert tuple(sorted({accumulator for _, accumulator in golden.facts.ties})) == ties
    possible = np.arange(golden.facts.bounds[1] + 1)
    edges = np.flatnonzero(np.diff(chain.behind(0, possible)))
    assert len(edges) == 2**bits - 1
    assert {-1, 0, 1, *ties, *edges, *(edges + 1)} <= set(golden.accumulator.flat)


@pytest.mark.parametrize("seed", range(6))
def test_each_channel_shows_each_stuck_bit_in_front_of_the_clamp(seed: int) -> None:
    """Bit 5 stuck at 0 shows for 32 to 47 alone, far from each edge between two of the codes 0 to 15."""
    like, output = make_capture(), CodeFormat(bits=4, signed=False, scale=3.84)
    golden = Golden(stress_capture(replace(like, formats=msgspec.structs.replace(like.formats, output=output)), seed))
    chain = golden.facts.chain
    assert chain is not None
    steps = chain.of_channels([0])
    assert [step.op for step in steps][-1] == "clamp"

    def shown(sums: Int64) -> set[tuple[int, int]]:
        v = chain.behind(0, sums, steps[:-1])
        levels = {(bit, 0): v & ~(1 << bit) for bit in range(7)} | {(bit, 1): v | 1 << bit for bit in range(7)}
        return {error for error, stuck in levels.items() if (stuck.clip(0, 15) != v.clip(0, 15)).any()}

    possible = shown(np.arange(golden.facts.bounds[0], golden.facts.bounds[1] + 1))
    assert (5, 0) in possible
    for channel in range(8):
        assert shown(golden.accumulator[:, channel]) == possible, channel
