"""Strength: every flip is really made and the layer computed anew; blind spots are made and looked for."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qexport.build import images
from qexport.build.blind_spots import BlindSpot, Stored, blind_spots
from qexport.build.images import choose_images
from qexport.core import golden
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import accumulate, pad, patches, psums
from qexport.core.strength import COUNTED, Bools, WeightFlips, input_flips_seen, measure, percent, strength_text
from qexport.errors import QexportError
from qexport.layout.memory import Layout
from qexport.layout.order import parse_order
from qexport.layout.tiling import Tiling
from qexport.layout.toml import load_layout
from tests.conftest import cases, checked_dump, cli, fails, make_capture
from tests.strategies import captures

some = settings(max_examples=cases(60))


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
    want = {stage: golden.values(stage) for stage in COUNTED}
    shows = {stage: np.zeros((fmt.bits, *codes.shape), np.bool_) for stage in COUNTED}
    for at, changed in flipped(codes, fmt):
        fields: dict[str, Any] = {name: changed}
        again = Golden(replace(capture, **fields), row=2)
        for stage in COUNTED:
            shows[stage][at] = not np.array_equal(again.values(stage), want[stage])
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
    for stage in COUNTED:
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
    for stage in COUNTED:
        np.testing.assert_array_equal(got[stage], want[stage])
        assert getattr(info, stage) == np.count_nonzero(want[stage])


@pytest.mark.parametrize(
    "facts",
    [
        {"weight_bits": 8, "weight_signed": False, "input_bits": 8, "input_signed": True},
        {"weight_bits": 8, "input_bits": 8, "bias": True},
        {"weight_bits": 27, "input_bits": 25, "bias": True},
        {"weight_bits": 2, "input_bits": 2, "kind": "linear", "kernel": (1, 1), "padding": (0, 0, 0, 0)},
    ],
)
def test_wide_codes_and_linear_layers_count_exactly(facts: dict[str, Any]) -> None:
    plane = (1, 1) if "kind" in facts else (3, 2)
    capture = make_capture(seed=5, plane=plane, images=1, in_channels=2, out_channels=3, **facts)
    capture = sparse(capture, 7, 0.5)
    flips = WeightFlips(capture.layer, capture.formats, capture.weight)
    for stage, want in brute_force(capture, "weight").items():
        np.testing.assert_array_equal(expanded(flips.seen(Golden(capture), stage), capture, stage), want)
    for stage, want in brute_force(capture, "input").items():
        np.testing.assert_array_equal(input_flips_seen(Golden(capture))[stage], want)


def test_the_taps_of_an_input_code_show_its_bits_together() -> None:
    facts: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "kernel": (1, 2), "padding": (0, 0, 1, 1)}
    capture = make_capture(plane=(1, 1), images=1, **facts)
    capture = replace(
        capture, weight=np.array([[[[1, 3]]]]), input=np.zeros((1, 1, 1, 1), np.int64), bias=np.array([-5])
    )
    # A flip of bit b adds 2^b to one sum of -5 and 3 x 2^b to the other.
    assert input_flips_seen(Golden(capture))["relu"].ravel().tolist() == [False, True, True, True]


@some
@given(captures(), st.integers(0, 99))
def test_what_is_left_out_is_what_never_shows(capture: LayerCapture, seed: int) -> None:
    capture = sparse(capture, seed, 0.8)
    layer, found = capture.layer, measure(capture)
    flips, golden = WeightFlips(layer, capture.formats, capture.weight), Golden(capture)
    for stage in COUNTED:
        silent = ~expanded(flips.seen(golden, stage), capture, stage).any(axis=0)
        np.testing.assert_array_equal(found.unexercised(stage), np.argwhere(silent))
    assert found.dead_inputs == [ic for ic in range(layer.in_channels) if not capture.input[:, ic].any()]
    relu = golden.values("relu")
    assert found.dead_outputs == [oc for oc in range(layer.out_channels) if not relu[:, oc].any()]


@some
@given(captures(), st.integers(0, 99))
def test_parts_of_the_images_give_what_all_of_them_give(capture: LayerCapture, seed: int) -> None:
    capture = sparse(capture, seed, 0.8)
    whole = measure(capture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "PART_ELEMENTS", 1)  # every image is a part of its own
        parts = measure(capture)
    assert parts.info == whole.info
    assert (parts.dead_inputs, parts.dead_outputs) == (whole.dead_inputs, whole.dead_outputs)
    np.testing.assert_array_equal(parts.unexercised("relu"), whole.unexercised("relu"))


def storing(*tensors: str, overflow: str = "error") -> list[Any]:
    return [SimpleNamespace(tensor=tensor, overflow=overflow) for tensor in tensors]


def test_the_line_says_where_a_memory_saturates_or_wraps() -> None:
    info = measure(make_capture()).info
    for overflow, said in (("saturate", "saturated"), ("wrap", "wrapped")):
        changed = storing("accumulator", overflow=overflow)
        assert strength_text(info, changed).endswith(f"show in accumulator before it is {said}")
        assert strength_text(info, [*changed, *storing("accumulator")]).endswith("show in accumulator")


def test_the_line_names_what_the_layout_compares_and_never_rounds_up_to_all() -> None:
    assert [percent(*pair) for pair in ((1, 3), (9999, 10000), (10000, 10000), (0, 5))] == [
        "33.3 %", "99.9 %", "100.0 %", "0.0 %",
    ]  # fmt: skip
    info = measure(sparse(make_capture(padding=(0, 0, 0, 0)), 4, 0.9)).info
    shares = {stage: percent(getattr(info.weight, stage), info.weight.flips) for stage in COUNTED}
    assert len(set(shares.values())) == 3
    line = f"{shares['psum']} of single-bit weight errors show in psum, {shares['relu']} in relu"
    assert strength_text(info, storing("weight", "relu", "psum")) == line
    assert strength_text(info, storing("relu")) == f"{shares['relu']} of single-bit weight errors show in relu"
    assert "stores no psum, accumulator or relu" in strength_text(info, storing("weight", "output"))


# --- choosing pictures ----------------------------------------------------------------------------------------------


def pick(capture: LayerCapture, stage: str, share: float) -> images.Choice:
    c = capture
    return choose_images(
        c.layer, c.formats, c.weight, stage, share, len(c.input), lambda batch: c.input[batch.start : batch.stop]
    )


def shown_with(capture: LayerCapture, images: tuple[int, ...], stage: str) -> int:
    return int(getattr(measure(replace(capture, input=capture.input[list(images)])).info.weight, stage))


@settings(max_examples=cases(40))
@given(
    st.integers(0, 999), st.sampled_from(COUNTED), st.sampled_from([20.0, 60.0, 99.9, 100.0]), st.sampled_from([2, 9])
)
def test_the_chosen_pictures_reach_what_is_asked_or_what_all_reach(
    seed: int, stage: str, share: float, batch: int
) -> None:
    capture = sparse(make_capture(seed=seed, images=9, in_channels=3, out_channels=2, plane=(3, 3)), seed, 0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "BATCH", batch)
        if not shown_with(capture, tuple(range(9)), stage):
            with pytest.raises(QexportError, match=f"no single-bit weight error .* shows in {stage}"):
                pick(capture, stage, share)
            return
        choice = pick(capture, stage, share)
    total = capture.weight.size * 4
    looked_at = tuple(range(choice.candidates))
    reachable = shown_with(capture, looked_at, stage)
    assert (choice.shown, choice.total) == (shown_with(capture, choice.images, stage), total)
    reached = reachable >= total * share / 100
    assert choice.shown >= (total * share / 100 if reached else reachable)
    assert ("asked, but" not in str(choice)) == reached
    assert reached or choice.candidates == 9
    assert list(choice.images) == sorted(set(choice.images))
    for image in choice.images if len(choice.images) > 1 else ():  # none of them is there for nothing
        fewer = shown_with(capture, tuple(other for other in choice.images if other != image), stage)
        assert fewer < (total * share / 100 if reached else reachable)
    if choice.candidates > batch:  # no more batches were read than it took
        assert shown_with(capture, looked_at[: (choice.candidates - 1) // batch * batch], stage) < total * share / 100


def test_the_first_of_equal_pictures_is_chosen() -> None:
    capture = make_capture(images=1)
    again = replace(capture, input=np.repeat(capture.input, 5, axis=0))
    assert pick(again, "relu", 50.0).images == (0,)


def test_a_picture_that_later_ones_replace_is_dropped() -> None:
    # The first choice shows 4 of 6 bits, the two others show 3 each and all together.
    assert images._cover([0b011110, 0b111000, 0b000111], 6) == [1, 2]


def test_no_more_than_the_limit_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_CANDIDATES", 5)
    monkeypatch.setattr(images, "BATCH", 2)
    capture = sparse(make_capture(images=9), 3, 0.95)
    choice = pick(capture, "relu", 100.0)
    assert choice.candidates == 5
    assert "100 % were asked, but all 5 together show no more" in str(choice)


# --- blind spots ----------------------------------------------------------------------------------------------------


def memories_of(capture: LayerCapture, layout: Layout) -> list[Stored]:
    golden = Golden(capture, layout.array.get("row"))
    return [
        Stored(m.name, m.tensor, Tiling(m.order, golden.facts.tensor(m.tensor).shape(capture.images), layout.array))
        for m in layout.memories
        if golden.facts.has(m.tensor)
    ]


def reversed_in(memory: Stored, codes: Int64, axis: str, step: int, size: int) -> Int64:
    """What a reader of the memory takes for the tensor when one address or lane axis of it stands backwards."""
    name = next(name for name, *rest in memory.parts(axis) if rest == [step, size])
    tiling = memory.tiling
    assert tiling.fill == 0
    names = [part for item in tiling.order.right for part in item.parts]
    blocks = tiling.tile(codes)
    turned = np.flip(blocks.reshape([tiling.sizes[part] for part in names]), names.index(name))
    return tiling.untile(turned.reshape(blocks.shape))


WIDE = 2**62  # computed in int64


def compute(capture: LayerCapture, source: str, codes: Int64, weight: Int64, bias: Int64 | None, row: int) -> Any:
    """What a design makes of these codes: each compared tensor; psums where an output uses them."""
    layer, plane = capture.layer, (capture.input.shape[2], capture.input.shape[3])
    if source == "input":
        codes = pad(codes, layer)
    im2col = codes if source == "patches" else patches(codes, layer, plane)
    accumulator = accumulate(weight, im2col, bias, layer.groups, WIDE)
    by_tap = np.stack(
        [
            psums(weight[:, :, [kh]][..., [kw]], im2col[:, :, kh, kw], layer.groups, row, WIDE)[:, :, 0, 0]
            for kh, kw in np.ndindex(*layer.kernel)
        ],
        axis=2,
    )
    n, tiles, _, oc, *out = by_tap.shape
    psum = by_tap.reshape(n, tiles, *layer.kernel, oc, *out)
    return {"psum": psum, "accumulator": accumulator, "relu": np.maximum(accumulator, 0)}


def filled(capture: LayerCapture, row: int, col: int) -> LayerCapture:
    """The layer with channels of code 0 up to whole tiles, as the memories of a ragged layer hold it."""
    layer = capture.layer
    ic, oc = -(-layer.in_channels // row) * row, -(-layer.out_channels // col) * col
    more_ic, more_oc = ic - layer.in_channels, oc - layer.out_channels
    return replace(
        capture,
        layer=msgspec.structs.replace(layer, in_channels=ic, out_channels=oc),
        weight=np.pad(capture.weight, ((0, more_oc), (0, more_ic), (0, 0), (0, 0))),
        input=np.pad(capture.input, ((0, 0), (0, more_ic), (0, 0), (0, 0))),
        bias=None if capture.bias is None else np.pad(capture.bias, (0, more_oc)),
    )


def check_spot(capture: LayerCapture, stored: list[Stored], row: int, spot: BlindSpot, source: str | None) -> None:
    """All memories of the spot reversed: the compared tensors stay. All but one of them reversed: they do not."""
    golden = Golden(capture, row)
    by_name = {memory.name: memory for memory in stored}
    compared = [memory for memory in stored if memory.tensor in COUNTED]
    moved = [by_name[name] for name in (*spot.memories, *([source] if source else []))]
    activation = by_name[source].tensor if source else "input"

    def differs(memories: list[Stored]) -> bool:
        stimulus: dict[str, Any] = {
            name: golden.values(name) for name in ("weight", "bias", activation) if golden.facts.has(name)
        }
        for memory in memories:
            if memory.tensor in stimulus:
                stimulus[memory.tensor] = reversed_in(memory, stimulus[memory.tensor], spot.axis, spot.step, spot.size)
        got = compute(capture, activation, stimulus[activation], stimulus["weight"], stimulus.get("bias"), row)
        want = compute(capture, activation, golden.values(activation), capture.weight, capture.bias, row)
        for memory in compared:
            wanted = want[memory.tensor]
            if memory in memories:
                axis, step = ("oc", spot.step) if spot.axis == "oc" else ("it", spot.step // row)
                at = {"psum": {"it": 1, "oc": 4}}.get(memory.tensor, {"oc": 1})[axis]
                wanted = turned(wanted, at, step, spot.size)
            if not np.array_equal(got[memory.tensor], wanted):
                return True
        return False

    assert not differs(moved), str(spot)
    for memory in moved:
        assert differs([other for other in moved if other is not memory]), f"{spot}, without {memory.name}"


def turned(values: Int64, axis: int, step: int, size: int) -> Int64:
    """The axis split into (rest, size, step) with `size` backwards."""
    shape = values.shape
    split = values.reshape(*shape[:axis], -1, size, step, *shape[axis + 1 :])
    return np.flip(split, axis + 1).reshape(shape)


@st.composite
def set_plans(draw: st.DrawFn) -> tuple[LayerCapture, Layout]:
    """A layer and a layout with some of the default's memories and other tile sizes."""
    capture = draw(captures())
    layer = capture.layer
    per_group = layer.group_inputs, layer.out_channels // layer.groups
    row, col = (draw(st.sampled_from([1, n] if layer.groups > 1 else [1, 2, 3])) for n in per_group)
    preset = load_layout("default")
    kept = {"weight", *draw(st.sets(st.sampled_from(["input", "input_padded", "patches"])))}
    kept |= draw(st.sets(st.sampled_from(COUNTED))) | draw(st.sets(st.just("bias")))
    memories = tuple(memory for memory in preset.memories if memory.tensor in kept)
    return capture, replace(preset, array={"row": row, "col": col}, memories=memories)


@settings(max_examples=cases(200))
@given(set_plans(), st.integers(0, 99))
def test_nothing_compared_notices_a_blind_spot_unless_a_memory_is_left_out(
    plan: tuple[LayerCapture, Layout], seed: int
) -> None:
    capture, layout = plan
    ones = np.ones((1, 1, *capture.input.shape[2:]), np.int64)
    assume(patches(pad(ones, capture.layer), capture.layer, ones.shape[2:]).any(axis=(0, 1, 4, 5)).all())
    row, col = layout.array["row"], layout.array["col"]
    spots = blind_spots(capture, memories_of(capture, layout), row)
    if capture.layer.groups == 1:
        capture = filled(capture, row, col)
    # Codes among which no two channels or taps are alike, so that every exchange is one.
    rng = np.random.default_rng(seed)
    wide = msgspec.structs.replace(capture.formats.weight, bits=20, signed=True)
    formats = msgspec.structs.replace(capture.formats, weight=wide, input=wide)
    draws = [rng.integers(1, 1 << 18, part.shape) for part in (capture.weight, capture.input)]
    bias = None if capture.bias is None else rng.integers(1, 1 << 18, capture.bias.shape)
    capture = replace(capture, formats=formats, weight=draws[0], input=draws[1], bias=bias)
    stored = memories_of(capture, layout)
    assert blind_spots(capture, stored, row) == spots
    for spot in spots:
        for source in spot.either or (None,):
            check_spot(capture, stored, row, spot, source)


def spots_of(layout: Layout | str, **facts: Any) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    layout = load_layout(layout) if isinstance(layout, str) else layout
    capture = make_capture(**facts)
    found = blind_spots(capture, memories_of(capture, layout), layout.array.get("row"))
    return [(spot.part, spot.memories, spot.either) for spot in found]


def only(layout: str, *tensors: str) -> Layout:
    preset = load_layout(layout)
    return replace(preset, memories=tuple(memory for memory in preset.memories if memory.tensor in tensors))


def test_blind_spots_of_the_presets() -> None:
    assert spots_of("ws8x8") == [("row", ("weight",), ("activation",)), ("col", ("weight", "psum", "output"), ())]
    wide = {"in_channels": 16, "out_channels": 12}
    assert [part for part, *_ in spots_of("ws8x8", **wide)] == ["row", "it", "col", "ot"]
    assert spots_of("ws8x8", **wide)[1] == ("it", ("weight", "psum"), ("activation",))
    activations = ("input", "input_padded", "patches")
    assert spots_of("default", bias=True) == [
        ("row", ("weight",), activations),
        ("col", ("weight", "psum", "accumulator", "relu", "bias"), ()),
    ]


def test_without_psums_tiles_and_stored_taps_may_stand_in_any_order() -> None:
    by_taps = only("default", "weight", "patches", "relu")
    assert spots_of(by_taps, in_channels=16) == [
        ("row", ("weight",), ("patches",)),
        ("it", ("weight",), ("patches",)),
        ("kh", ("weight",), ("patches",)),
        ("kw", ("weight",), ("patches",)),
        ("col", ("weight", "relu"), ()),
    ]
    assert [part for part, *_ in spots_of(only("default", "weight", "input", "relu"))] == ["row", "col"]


def test_an_axis_that_a_stage_hands_on_is_one_blind_spot() -> None:
    in_stages = only("default", "weight", "input", "accumulator")
    in_stages = replace_order(in_stages, "weight", "oc ic kh kw -> (kh kw)=(tap) oc ic -> | tap oc | ic")
    in_stages = replace_order(in_stages, "input", "n ic iy ix -> | n iy ix | ic")
    in_stages = replace_order(in_stages, "accumulator", "n oc oy ox -> | n oy ox | oc")
    assert spots_of(in_stages) == [("ic", ("weight",), ("input",)), ("oc", ("weight", "accumulator"), ())]


def test_no_blind_spot_where_memories_do_not_agree_on_the_part() -> None:
    assert spots_of("ws8x8", groups=8) == []  # one channel in each group: nothing is summed, nothing can be renamed
    assert spots_of(only("default", "weight", "input")) == []  # nothing is compared
    assert spots_of(only("default", "weight", "input", "relu"), bias=True) == [("row", ("weight",), ("input",))]
    uneven = replace_order(
        only("default", "weight", "input", "relu"), "relu", "n (ot half) oy ox -> | n ot oy ox | half"
    )
    assert spots_of(uneven) == [("row", ("weight",), ("input",))]
    # Tiles of three rows in the files, of two in the psums: both give two tiles of four channels, but not the same.
    by_three = only("default", "weight", "input", "psum")
    by_three = replace_order(by_three, "weight", "(ot col) (it three) kh kw -> | ot it kh kw col | three")
    by_three = replace_order(by_three, "input", "n (it three) iy ix -> | n it iy ix | three")
    by_three = replace(by_three, array={"row": 2, "col": 8, "three": 3})
    assert spots_of(by_three, in_channels=4) == [("col", ("weight", "psum"), ())]


def replace_order(layout: Layout, tensor: str, order: str) -> Layout:
    memories = [
        replace(memory, order=parse_order(order, tensor)) if memory.tensor == tensor else memory
        for memory in layout.memories
    ]
    return replace(layout, memories=tuple(memories), array={**layout.array, "half": 4})


# --- the command ----------------------------------------------------------------------------------------------------


def test_strength_prints_the_counts_of_each_set(tmp_path: Path) -> None:
    capture = sparse(make_capture(seed=1), 1, 0.9)
    folder = checked_dump(capture, "ws8x8", tmp_path)
    found = measure(capture)
    info = found.info
    result = cli("strength", tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].startswith(f"set       {folder}, layer features.33, layout 'ws8x8', 2 image(s)")
    assert lines[1] == f"strength  {strength_text(info, storing('weight', 'psum', 'relu'))}"
    for name, counts in (("weight", info.weight), ("input", info.input)):
        cells = [f"{n} ({percent(n, counts.flips)})" for n in (counts.psum, counts.accumulator, counts.relu)]
        (line,) = [line for line in lines if line.startswith(f"{name} codes")]
        assert [cell.strip() for cell in line.split("  ") if cell] == [f"{name} codes", str(counts.flips), *cells]
    missed = found.unexercised("relu")
    oc, ic, kh, kw = missed[0]
    (line,) = [line for line in lines if line.startswith("weights unexercised in relu")]
    assert f"{len(missed)}: oc={oc} ic={ic} kh={kh} kw={kw}, " in line
    assert sum(line.startswith("blind spot: ") for line in lines) == 2
    printed = json.loads(cli("strength", folder, "--json").stdout)["sets"]
    assert len(printed) == 1
    assert printed[0]["flips"] == msgspec.to_builtins(info)
    assert printed[0]["compared"] == ["psum", "relu"]
    assert printed[0]["unexercised"] == {stage: found.unexercised(stage).tolist() for stage in COUNTED[1:]}
    assert (printed[0]["dead_inputs"], printed[0]["dead_outputs"]) == (found.dead_inputs, found.dead_outputs)
    assert len(printed[0]["blind_spots"]) == 2


def test_strength_of_a_changed_or_missing_capture_is_refused(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(), "default", tmp_path)
    file = folder / "capture.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    fails(cli("strength", folder), str(file), "SHA-256", "dump the set again", code=1)
    file.unlink()
    fails(cli("strength", folder), str(file), "missing", code=1)
    fails(cli("strength", tmp_path / "none"), "none")
