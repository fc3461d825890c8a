"""Strength: every flip is really made and the layer computed anew; blind spots are made and looked for."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport import strength
from qexport.errors import QexportError
from qexport.golden import Golden, accumulate, pad, patches, psums
from qexport.intformat import Int64, IntFormat
from qexport.layer import LayerCapture
from qexport.layout import Layout, Memory, Tiling, load_layout, parse_layout, preset_names
from qexport.strength import (
    STAGES,
    BlindSpot,
    Bools,
    Stored,
    Strength,
    WeightFlips,
    blind_spots,
    choose_images,
    input_flips_seen,
    measure,
    percent,
    strength_text,
)
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.strategies import captures

some = settings(max_examples=60, deadline=None)


def sparse(capture: LayerCapture, seed: int, share: float) -> LayerCapture:
    """The capture with a share of its codes, and some whole channels, set to 0; with few of them much stays unseen."""
    rng = np.random.default_rng(seed)

    def thin(codes: Int64, channels: int) -> Int64:
        keep = rng.random(codes.shape) >= share
        return codes * keep * (rng.random((1, channels, 1, 1)) >= share / 2)

    return replace(
        capture, weight=thin(capture.weight, capture.weight.shape[1]), input=thin(capture.input, capture.input.shape[1])
    )


def flipped(codes: Int64, fmt: IntFormat) -> Iterator[tuple[tuple[int, ...], Int64]]:
    """(bit, *index) and the codes with that one bit flipped, read back from its written pattern."""
    for index in np.ndindex(*codes.shape):
        for bit in range(fmt.bits):
            digits = list(format(int(codes[index]) % (1 << fmt.bits), f"0{fmt.bits}b"))
            digits[-1 - bit] = "1" if digits[-1 - bit] == "0" else "0"
            value = int("".join(digits), 2)
            changed = codes.copy()
            changed[index] = value - (1 << fmt.bits) if fmt.signed and digits[0] == "1" else value
            yield (bit, *index), changed


def brute_force(capture: LayerCapture, name: str) -> dict[str, Bools]:
    """For each flip of `name` (weight or input), (bit, *index), whether a tensor of the whole computation changes."""
    fmt = getattr(capture.formats, name).integer
    codes = getattr(capture, name)
    golden = Golden(capture, row=2)
    want = {stage: golden.tensor(stage).values for stage in STAGES}
    shows = {stage: np.zeros((fmt.bits, *codes.shape), np.bool_) for stage in STAGES}
    for at, changed in flipped(codes, fmt):
        fields: dict[str, Any] = {name: changed}
        again = Golden(replace(capture, **fields), row=2)
        for stage in STAGES:
            shows[stage][at] = not np.array_equal(again.tensor(stage).values, want[stage])
    return shows


def expanded(seen: Bools, capture: LayerCapture, stage: str) -> Bools:
    """What WeightFlips says, for each (bit, oc, ic, kh, kw) by the definition of its short forms."""
    if stage == "relu":
        return seen
    layer, out = capture.layer, np.zeros((capture.formats.weight.bits, *capture.weight.shape), np.bool_)
    for oc, ic, kh, kw in np.ndindex(*capture.weight.shape):
        channel = oc // (layer.out_channels // layer.groups) * layer.group_inputs + ic
        out[:, oc, ic, kh, kw] = seen[channel] if stage == "psum" else seen[channel, kh, kw]
    return out


small = captures().filter(lambda c: c.weight.size * c.formats.weight.bits + c.input.size * c.formats.input.bits < 1200)


@some
@given(small, st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.8]))
def test_every_weight_flip_shows_just_where_the_computation_changes(
    capture: LayerCapture, seed: int, share: float
) -> None:
    capture = sparse(capture, seed, share)
    flips, golden = WeightFlips(capture.layer, capture.formats, capture.weight), Golden(capture)
    want = brute_force(capture, "weight")
    info = measure(capture).info.weight
    assert info.flips == want["relu"].size
    for stage in STAGES:
        np.testing.assert_array_equal(expanded(flips.seen(golden, stage), capture, stage), want[stage])
        assert getattr(info, stage) == np.count_nonzero(want[stage])


@some
@given(small, st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.8]))
def test_every_input_flip_shows_just_where_the_computation_changes(
    capture: LayerCapture, seed: int, share: float
) -> None:
    capture = sparse(capture, seed, share)
    got, want = input_flips_seen(Golden(capture)), brute_force(capture, "input")
    info = measure(capture).info.input
    assert info.flips == want["relu"].size
    for stage in STAGES:
        np.testing.assert_array_equal(got[stage], want[stage])
        assert getattr(info, stage) == np.count_nonzero(want[stage])
