"""Steps on their way through a product: captures, layouts, sets, explanations, shrunk sets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from safetensors import safe_open

import qexport as qx
from qexport.build.dump import dump
from qexport.build.hardware import for_hardware
from qexport.build.verify import verify
from qexport.core.capture import CaptureFile, LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.golden import Golden
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware
from qexport.core.steps import Add, Bias, Clamp, MaxPool, Multiply, Relu, ShiftRight, Step, SumPool, Threshold
from qexport.errors import CheckFailed, QexportError
from qexport.layout.paths import CAPTURE
from qexport.layout.toml import parse_layout
from tests.build.test_verify import read_json, reseal
from tests.conftest import cases, checked_dump, cli, fails, make_capture
from tests.core.test_scales import scaled

RNG = np.random.default_rng(0)
NUMBERS = tuple(RNG.integers(1, 99, 8).tolist())
CHAIN: tuple[Step, ...] = (
    Multiply(by=NUMBERS, name="scaled"),
    Add(value=tuple(RNG.integers(-999, 999, 8).tolist())),
    ShiftRight(by=9, round="half_up", name="shifted"),
    Clamp(low=-8, high=7),
)
LAYOUT = """
name = "steps"
[[memory]]
name = "sums"
tensor = "accumulator"
order = "n oc oy ox -> | n oy ox oc |"
file = "sums.dec"
radix = "dec"
[[memory]]
name = "value"
tensor = "shifted"
order = "n oc oy ox -> | n oy ox oc |"
file = "value.dec"
radix = "dec"
optional = true
[[memory]]
name = "multipliers"
tensor = "scaled_by"
order = "oc -> | oc |"
file = "by.dec"
radix = "dec"
optional = true
[[memory]]
name = "codes"
tensor = "output"
order = "n oc oy ox -> | n oy ox oc |"
file = "codes.dec"
radix = "dec"
"""


def chained(steps: tuple[Step, ...] = CHAIN, **facts: Any) -> LayerCapture:
    return replace(make_capture(**facts), steps=steps)


def stored(folder: Path, name: str) -> list[int]:
    return [int(line) for line in (folder / f"{name}.dec").read_text().split()]


def test_steps_come_back_from_a_file_and_long_lists_stand_in_tensors(tmp_path: Path) -> None:
    table = tuple(tuple(sorted(RNG.integers(-999, 999, 15).tolist())) for _ in range(8))
    steps = (Multiply(by=NUMBERS), Threshold(table=table, first=-3))
    path = tmp_path / "c.safetensors"
    path.write_bytes(chained(steps).to_bytes())
    with safe_open(str(path), "numpy") as file:
        assert {"weight", "input", "steps.1.table"} == set(file.keys())
        said = json.loads(file.metadata()["qexport"])["steps"]
    assert said == [{"op": "multiply", "by": list(NUMBERS)}, {"op": "threshold", "first": -3}]
    assert CaptureFile(path).steps == steps == LayerCapture.load(path).steps
    assert LayerCapture.load(path).to_bytes() == path.read_bytes()


def test_values_and_numbers_of_steps_are_memories_and_a_layer_without_them_leaves_them_out(tmp_path: Path) -> None:
    layout = parse_layout(LAYOUT, "steps.toml")
    folder = dump(chained(), layout, tmp_path).folder
    sums = Golden(make_capture()).accumulator
    by, value = (np.array(numbers).reshape(8, 1, 1) for numbers in (CHAIN[0].by, CHAIN[1].value))  # type: ignore[attr-defined]
    shifted = np.floor((sums * by + value) / 2**9 + 0.5).astype(int)
    assert stored(folder, "value") == shifted.transpose(0, 2, 3, 1).ravel().tolist()
    assert stored(folder, "codes") == shifted.clip(-8, 7).transpose(0, 2, 3, 1).ravel().tolist()
    assert stored(folder, "by") == list(NUMBERS)
    assert verify(folder).ok
    assert "scaled" not in [memory["tensor"] for memory in read_json(folder)["memories"]]
    other = replace(chained(CHAIN[2:]), layer=make_capture(name="other").layer)
    folder = dump(replace(other, steps=(Clamp(low=-8, high=7),)), layout, tmp_path).folder
    assert [memory["name"] for memory in read_json(folder)["memories"]] == ["sums", "codes"]


def test_a_wrong_value_of_a_step_is_found_with_its_place(tmp_path: Path) -> None:
    folder = dump(chained(), parse_layout(LAYOUT, "steps.toml"), tmp_path).folder
    lines = (folder / "value.dec").read_text().splitlines()
    lines[11] = str(int(lines[11]) + 1)
    (folder / "value.dec").write_text("\n".join(lines) + "\n")
    [fault] = [fault for fault in verify(folder).faults if fault.line]
    assert (fault.file, fault.line, fault.index) == ("value.dec", 12, {"n": 0, "oc": 3, "oy": 0, "ox": 1})


def test_a_bias_among_the_steps_is_not_in_the_accumulator() -> None:
    steps = (Relu(), Bias(shift=2))
    capture = chained(steps, bias=True)
    golden, plain = Golden(capture), Golden(replace(capture, bias=None, steps=None))
    assert capture.bias is not None
    np.testing.assert_array_equal(golden.accumulator, plain.accumulator)
    want = np.maximum(plain.accumulator, 0) + 4 * capture.bias.reshape(8, 1, 1)
    np.testing.assert_array_equal(golden.values("output"), want)
    assert golden.facts.bounds == plain.facts.bounds


def test_behind_a_pool_the_output_has_the_pooled_plane(tmp_path: Path) -> None:
    capture = chained((MaxPool(kernel=(2, 2)), Relu(), SumPool(kernel=(2, 1), name="summed")))
    golden = Golden(capture)
    pooled = golden.accumulator.reshape(2, 8, 2, 2, 2, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(golden.values("output"), np.maximum(pooled, 0).sum(axis=2, keepdims=True))
    assert golden.facts.tensor("output").shape(2) == (2, 8, 1, 2)
    assert golden.facts.pooled == {"step0", "step1", "summed", "output"}
    folder = dump(capture, parse_layout(LAYOUT, "steps.toml"), tmp_path).folder
    assert verify(folder).ok
    codes = ("--actual", folder / "codes.dec")
    fails(cli("shrink", folder, "--out", tmp_path / "s", *codes), "pool")
    assert cli("diagnose", folder, *codes).exit_code == 0  # it serves results behind a pool


def test_no_steps_at_all_make_the_accumulator_the_output() -> None:
    golden = Golden(chained(()))
    np.testing.assert_array_equal(golden.values("output"), golden.accumulator)


def test_what_a_value_became_step_by_step_is_explained(tmp_path: Path) -> None:
    folder = dump(chained(), parse_layout(LAYOUT, "steps.toml"), tmp_path).folder
    steps = {step.kind: step for step in qx.open(folder).explain(n=1, oc=5, oy=2, ox=3).steps}
    golden = Golden(chained())
    for name in ("accumulator", "scaled", "step1", "shifted", "step3", "output"):
        assert steps[name].value == golden.values(name)[1, 5, 2, 3]
    assert steps["shifted"].at == (f"value.dec:{1 + ((1 * 4 + 2) * 4 + 3) * 8 + 5}:0",)


def test_a_shrunk_set_has_the_numbers_of_its_channel(tmp_path: Path) -> None:
    capture = scaled(chained(), 0.25, CodeFormat(bits=4, signed=True, scale=1.0))
    folder = checked_dump(capture, "default", tmp_path / "set")
    words = (folder / "output.hex").read_text().splitlines()
    words[7] = f"{int(words[7], 16) ^ 0x30:08x}"  # lane 6, the channel 1
    (tmp_path / "output.hex").write_text("\n".join(words) + "\n")
    result = cli("shrink", folder, "--actual", tmp_path / "output.hex", "--out", tmp_path / "small")
    assert result.exit_code == 0, result.output
    small = CaptureFile(tmp_path / "small" / CAPTURE)
    assert small.layer.out_channels == 1
    assert small.steps is not None
    assert small.steps[0].arrays["by"].tolist() == [NUMBERS[1]]
    assert verify(tmp_path / "small").ok


@settings(max_examples=cases(20))
@given(...)
def test_steps_of_some_channels_are_theirs(first: bool, shift: bool) -> None:
    channels = [3, 1] if first else [7]
    step: Step = ShiftRight(by=tuple(range(8)), round="floor") if shift else Multiply(by=NUMBERS)
    v = np.arange(-64, 64).reshape(1, 8, -1)
    np.testing.assert_array_equal(step.of_channels(channels).apply(v[:, channels], 1), step.apply(v, 1)[:, channels])


def test_the_edges_of_a_chain_show_each_wrong_number() -> None:
    """A chain whose rounding, clip, multiplier or addend is off by one differs at one of the edges of a channel."""
    right = operation(chained(), None).chain
    assert right is not None
    for at, other in (
        (0, Multiply(by=tuple(number + 1 for number in NUMBERS))), (2, ShiftRight(by=9, round="floor")),
        (2, ShiftRight(by=8, round="half_up")), (3, Clamp(low=-7, high=7)), (3, Clamp(low=-8, high=6)),
    ):  # fmt: skip
        wrong = operation(chained((*CHAIN[:at], other, *CHAIN[at + 1 :])), None).chain
        assert wrong is not None
        for channel in range(8):
            edges = right.edges(channel)
            assert (right.behind(channel, edges) != wrong.behind(channel, edges)).any()


# --- references -----------------------------------------------------------------------------------------------------


def coded(ties: tuple[tuple[int, int], ...] | None = None) -> LayerCapture:
    """Power-of-two scales, so that every eighth accumulator is a tie, and the codes of the network itself."""
    output = CodeFormat(bits=4, signed=False, scale=1.0)
    capture = scaled(make_capture(), 0.25, output)
    return replace(capture, reference_codes=Golden(capture).values("output"), ties=ties)


def test_the_frameworks_codes_are_compared_and_counted(tmp_path: Path) -> None:
    folder = checked_dump(coded(), "default", tmp_path)
    assert read_json(folder)["golden"]["codes"] == {"compared": 256, "ties": 0}
    assert verify(folder).ok
    off = coded()
    assert off.reference_codes is not None
    codes, accumulator = off.reference_codes.copy(), Golden(off).accumulator
    tie = tuple(np.argwhere((accumulator % 8 == 4) & (accumulator > 0) & (accumulator < 100))[0])
    codes[tie] += 1 if codes[tie] % 2 == 0 and codes[tie] * 8 < accumulator[tie] else -1
    layout, listed = parse_layout(LAYOUT, "l"), ((int(tie[1]), int(accumulator[tie])),)
    with pytest.raises(CheckFailed, match=r"1 of 256 differ, all at ties; list these as ties"):
        dump(replace(off, reference_codes=codes), layout, tmp_path / "unlisted")
    folder = dump(replace(off, reference_codes=codes, ties=listed), layout, tmp_path / "tie").folder
    assert read_json(folder)["golden"]["codes"] == {"compared": 256, "ties": 1}
    codes[tie] += 2
    with pytest.raises(CheckFailed, match=r"1 of 256 differ, and are not listed as ties"):
        dump(replace(off, reference_codes=codes, ties=listed), layout, tmp_path / "none")


def test_ties_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QexportError, match="ties list accumulator 1 of channel 0, which lies within a code"):
        dump(coded(((0, 4), (0, 1))), parse_layout(LAYOUT, "l"), tmp_path)


def test_a_hardware_has_its_own_golden_and_says_how_far_it_departs(tmp_path: Path) -> None:
    path, capture = tmp_path / "c.safetensors", coded()
    for rounding in ("half_up", "half_even"):
        made = for_hardware(capture, Hardware(round=rounding), path)  # type: ignore[arg-type]
        assert made.departs is not None
        network, golden = operation(capture, None), Golden(made.part(0, 2))
        off = golden.values("output") != Golden(capture).values("output")
        assert made.departs.codes == off.sum()
        assert network.network is not None
        least, greatest = network.channel_bounds
        every = [np.arange(low, high + 1) for low, high in zip(least, greatest, strict=True)]
        assert golden.facts.chain is not None
        wrong = sum(
            (golden.facts.chain.behind(at, values) != np.clip(np.rint(values / 8), 0, 15)).sum()
            for at, values in enumerate(every)
        )
        assert made.departs.accumulators == wrong
        assert bool(wrong) == (rounding == "half_up")
    with pytest.raises(QexportError, match="its capture gives the steps"):
        for_hardware(made, Hardware(mul_bits=3), tmp_path / "d")
    with pytest.raises(QexportError, match=r"has no formats\.output"):
        for_hardware(make_capture(), Hardware(mul_bits=3), tmp_path / "d")


def test_keys_that_begin_with_x_are_read_over_in_a_manifest(tmp_path: Path) -> None:
    folder = dump(coded(), parse_layout(LAYOUT, "l"), tmp_path).folder
    reseal(folder, **{"x-ours": {"any": [1]}})
    assert verify(folder).ok
    reseal(folder, ours=1)
    fails(cli("verify", folder), "unknown field `ours`")
