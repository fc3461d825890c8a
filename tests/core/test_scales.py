"""Scales of each output channel, and the codes that the next quantized layer receives."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.golden import Golden
from qexport.errors import CheckFailed, QexportError
from qexport.layout.paths import CAPTURE, MANIFEST
from tests.build.test_verify import faults_of, read_json, reseal
from tests.conftest import cases, check_reference, checked_dump, cli, fails, make_capture, one_memory_layout

INPUT_SCALE = 0.5
SCALES = (0.25, 0.125, 0.5, 2**-9, 1.0, 0.25, 0.0625, 0.75)  # the smallest in channel 3
OUTPUT = "n oc oy ox -> | n oy ox | oc"


def scaled(capture: LayerCapture, weight: float | tuple[float, ...], output: CodeFormat | None = None) -> LayerCapture:
    """The capture with other weight scales, and a format of the next layer's codes."""
    fmt = CodeFormat(bits=capture.formats.weight.bits, signed=capture.formats.weight.signed, scale=weight)
    return replace(capture, formats=Formats(weight=fmt, input=capture.formats.input, output=output))


def real(capture: LayerCapture, scales: Sequence[float]) -> NDArray[np.float64]:
    """The real-valued layer, channel by channel, in floating point: every product of these scales is exact."""
    weight = capture.weight * np.array(scales).reshape(-1, 1, 1, 1)
    padded = np.pad(capture.input * INPUT_SCALE, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    out: NDArray[np.float64] = np.einsum("nihwab,oiab->nohw", windows, weight)
    return out


def per_channel(**moves: float) -> LayerCapture:
    """Eight channels with SCALES and PyTorch's output, some channels of which are moved at one place."""
    capture = scaled(make_capture(), SCALES)
    reference = real(capture, SCALES)
    for channel, by in moves.items():
        reference[1, int(channel[1:]), 2, 3] += by
    return replace(capture, reference=reference.astype(np.float32))


def code(bits: int, scale: float) -> CodeFormat:
    return CodeFormat(bits=bits, signed=False, scale=scale)


# --- scales of each channel -----------------------------------------------------------------------------------------


def test_scales_of_each_channel_come_back_from_the_file_and_stand_in_the_manifest(tmp_path: Path) -> None:
    capture = per_channel()
    folder = checked_dump(capture, "default", tmp_path)
    assert LayerCapture.load(folder / CAPTURE).formats == capture.formats
    formats = read_json(folder)["formats"]
    assert formats["weight"]["scale"] == list(SCALES)
    assert formats["accumulator"]["scale"] == [scale * INPUT_SCALE for scale in SCALES]
    assert "output" not in formats
    assert verify(folder).ok
    assert cli("dump", "--capture", folder / CAPTURE, "--out", tmp_path).stdout.count("unchanged") == 1


def test_a_scale_for_every_channel_alike_is_no_scale_for_all(tmp_path: Path) -> None:
    one, alike = scaled(make_capture(), 0.25), scaled(make_capture(), (0.25,) * 8)
    first, second = (checked_dump(c, "default", tmp_path / str(n)) for n, c in enumerate((one, alike)))
    assert read_json(first)["formats"]["accumulator"]["scale"] == 0.125
    assert read_json(second)["formats"]["accumulator"]["scale"] == [0.125] * 8
    same = [path.name for path in first.glob("*.hex") if path.read_bytes() == (second / path.name).read_bytes()]
    assert len(same) == len(list(second.glob("*.hex")))


def test_a_manifest_with_another_scale_is_found_even_with_all_sums_made_to_fit(tmp_path: Path) -> None:
    folder = checked_dump(per_channel(), "default", tmp_path)
    for path in (("weight", "scale"), ("accumulator", "scale")):
        formats = read_json(folder)["formats"]
        formats[path[0]][path[1]][3] *= 2
        sound = (folder / MANIFEST).read_bytes()
        reseal(folder, formats=formats)
        assert {fault.file for fault in faults_of(folder)} & {MANIFEST, CAPTURE}
        (folder / MANIFEST).write_bytes(sound)
        reseal(folder)
    assert faults_of(folder) == []


@pytest.mark.parametrize("channel", range(8))
def test_one_step_off_is_refused_in_whatever_channel(channel: int, tmp_path: Path) -> None:
    """Although the smallest of them is far below the tolerance of the others."""
    step = SCALES[channel] * INPUT_SCALE
    off = per_channel(**{f"c{channel}": step})
    with pytest.raises(CheckFailed, match="differs from reference") as refused:
        dump(off, one_memory_layout(OUTPUT, "relu"), tmp_path)
    figures = re.search(r"and (\S+) at most \(must be below (\S+)\)", str(refused.value))
    assert figures is not None
    assert [float(figure) for figure in figures.groups()] == pytest.approx([step, step / 2], rel=0.01)
    assert list(tmp_path.iterdir()) == []
    check_reference(Golden(per_channel(**{f"c{channel}": step * 0.45})))


def test_tolerance_and_largest_difference_are_of_the_channel_nearest_to_its_tolerance(tmp_path: Path) -> None:
    small, large = SCALES[3] * INPUT_SCALE, SCALES[4] * INPUT_SCALE
    capture = per_channel(c3=small * 0.375, c4=large * 0.125)  # 3/4 and 1/4 of the tolerance
    golden = read_json(checked_dump(capture, "default", tmp_path / "small"))["golden"]
    assert (golden["max_abs"], golden["tolerance"]) == (small * 0.375, small / 2)
    assert golden["mean_abs"] == pytest.approx((small * 0.375 + large * 0.125) / capture.reference.size)  # type: ignore[union-attr]
    capture = per_channel(c3=small * 0.125, c4=large * 0.375)
    golden = read_json(checked_dump(capture, "default", tmp_path / "large"))["golden"]
    assert (golden["max_abs"], golden["tolerance"]) == (large * 0.375, large / 2)


def test_next_input_is_compared_in_the_scale_of_each_channel() -> None:
    capture = scaled(make_capture(), SCALES)
    relu = np.maximum(real(capture, SCALES), 0)
    check_reference(Golden(replace(capture, next_input=relu.astype(np.float32))))
    relu[0, 3, 0, 0] += SCALES[3] * INPUT_SCALE
    with pytest.raises(CheckFailed, match="differs from next_input"):
        check_reference(Golden(replace(capture, next_input=relu.astype(np.float32))))


def test_wrong_numbers_of_scales_are_refused() -> None:
    with pytest.raises(QexportError, match=r"formats\.weight has 7 scales; layer features\.33 has 8 output channels"):
        scaled(make_capture(), SCALES[:7])
    with pytest.raises(QexportError, match=r"formats\.weight has 0 scales"):
        scaled(make_capture(), ())


# --- output ---------------------------------------------------------------------------------------------------------


def fake_quantized(capture: LayerCapture, step: float, output: CodeFormat) -> NDArray[np.float64]:
    """A fake quantizer as in the network, on the real-valued ReLU."""
    assert isinstance(output.scale, float)
    relu = np.maximum(Golden(capture).accumulator * step, 0.0)
    return np.minimum(np.rint(relu / output.scale), 2**output.bits - 1)


def test_a_layout_that_asks_for_output_where_there_is_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    capture = scaled(make_capture(), 0.25)
    (tmp_path / "c.safetensors").write_bytes(capture.to_bytes())
    asks, may = tmp_path / "asks.toml", tmp_path / "may.toml"
    text = f'[[memory]]\nname = "sums"\ntensor = "relu"\norder = "{OUTPUT}"\nfile = "r"\nradix = "hex"\n'
    text = 'name = "t"\n' + text + text.replace("sums", "codes").replace('"relu"', '"output"').replace('"r"', '"o"')
    asks.write_text(text)
    may.write_text(text + "optional = true\n")
    for arguments in ((), ("--dry-run",)):
        result = cli(
            "dump", "--capture", tmp_path / "c.safetensors", "--layout", asks, "--out", tmp_path / "o", *arguments
        )
        fails(result, "tensor 'output'", "features.33", "neither steps nor formats.output", "optional = true")
        assert not (tmp_path / "o").exists()
    result = cli("dump", "--capture", tmp_path / "c.safetensors", "--layout", may, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    document = read_json(tmp_path / "o" / "features_33")
    assert ([memory["name"] for memory in document["memories"]], "output" in document["formats"]) == (["sums"], False)


def test_output_is_there_where_the_scales_of_all_channels_are_alike(tmp_path: Path) -> None:
    for number, scales in enumerate((0.25, (0.25,) * 8)):
        capture = scaled(make_capture(), scales, code(4, 9.7))
        document = read_json(checked_dump(capture, "default", tmp_path / str(number)))
        assert document["formats"]["output"] == {"bits": 4, "signed": False, "scale": 9.7}
        assert [step["op"] for step in document["steps"]] == ["multiply", "add", "shift_right", "clamp"]
        ties = {tie for _, tie in document["ties"]}  # in decimals, 9.7 / 0.125 = 77.6 times 2.5, 7.5 and 12.5
        assert ties == {194, 582, 970}


SPREAD = [{"scales": SCALES}, {"scales": 0.25, "relu": False}, {"scales": 0.25, "output": code(4, 0.25)}]


@pytest.mark.parametrize("change", SPREAD)
def test_output_has_scales_of_each_channel_no_relu_and_ties_half_to_even(
    change: dict[str, Any], tmp_path: Path
) -> None:
    """Each was refused when one multiplier behind a ReLU was all that there was."""
    output = change.get("output", code(4, 9.7))
    capture = scaled(make_capture(relu=change.get("relu", True)), change["scales"], output)
    folder = checked_dump(capture, one_memory_layout(OUTPUT, "output", file="o.dec", radix="dec"), tmp_path)
    stored = np.array([line.split() for line in (folder / "o.dec").read_text().splitlines()], np.int64)
    codes = stored.reshape(2, 4, 4, 8).transpose(0, 3, 1, 2)
    scales = np.broadcast_to(np.array(change["scales"]) * INPUT_SCALE, 8)[:, np.newaxis, np.newaxis]
    real = Golden(capture).accumulator * scales / output.scale
    np.testing.assert_array_equal(codes, np.clip(np.rint(real), 0, 15))
    assert verify(folder).ok


@settings(max_examples=cases(60))
@given(
    seed=st.integers(0, 99),
    scale=st.floats(0.05, 2.0),
    bits=st.integers(1, 8),
    output_scale=st.floats(0.1, 40.0),
    bias=st.booleans(),
)
def test_output_codes_are_those_of_a_fake_quantizer(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float, bits: int, output_scale: float, bias: bool
) -> None:
    output = code(bits, output_scale)
    capture = scaled(make_capture(seed=seed, plane=(3, 3), bias=bias), scale, output)
    assume(Golden(capture).accumulator.any())
    layout = one_memory_layout("n oc oy ox -> | n oy ox | ~oc", "output", file="o.dec", radix="dec")
    folder = checked_dump(capture, layout, tmp_path_factory.mktemp("set"))
    stored = np.array([line.split() for line in (folder / "o.dec").read_text().splitlines()], np.int64)
    codes = stored.reshape(2, 3, 3, 8)[..., ::-1].transpose(0, 3, 1, 2)
    ties = [tie for _, tie in read_json(folder).get("ties", [])]
    quantized = fake_quantized(capture, scale * INPUT_SCALE, output)
    sure = ~np.isin(Golden(capture).accumulator, ties)  # of a tie in decimals, floating point may make one or not
    np.testing.assert_array_equal(codes[sure], quantized[sure])


def test_ties_in_the_manifest_are_accumulators_halfway_between_two_codes(tmp_path: Path) -> None:
    capture = scaled(make_capture(plane=(3, 3)), 0.25, code(1, 2.0))  # a step of 1/16: 8 is half of a code
    document = read_json(checked_dump(capture, "default", tmp_path))
    assert {tie for _, tie in document["ties"]} == {8}
    assert document["formats"]["accumulator"]["bounds"][1] > 8


@pytest.mark.parametrize("key", ["scale", "bits"])
def test_a_manifest_with_another_output_format_is_found_although_all_sums_fit(key: str, tmp_path: Path) -> None:
    folder = checked_dump(scaled(make_capture(), 0.25, code(4, 9.7)), "default", tmp_path)
    formats = read_json(folder)["formats"]
    formats["output"][key] += 1
    reseal(folder, formats=formats)
    assert (MANIFEST, "formats.output differs from what the capture gives") in [
        (fault.file, fault.message) for fault in faults_of(folder)
    ]


@pytest.mark.parametrize("at", range(4))
def test_a_manifest_with_other_steps_is_found_even_with_all_sums_made_to_fit(at: int, tmp_path: Path) -> None:
    folder = checked_dump(scaled(make_capture(), 0.25, code(4, 9.7)), "default", tmp_path)
    steps = read_json(folder)["steps"]
    field = ("by", "value", "by", "low")[at]
    steps[at][field] += 1
    reseal(folder, steps=steps)
    assert (MANIFEST, "steps differ from what the capture gives") in [
        (fault.file, fault.message) for fault in faults_of(folder)
    ]


def test_a_manifest_with_other_ties_is_found_even_with_all_sums_made_to_fit(tmp_path: Path) -> None:
    folder = checked_dump(scaled(make_capture(), 0.25, code(4, 9.7)), "default", tmp_path)
    reseal(folder, ties=[[0, 8]])
    assert [(fault.file, fault.message) for fault in faults_of(folder)] == [
        (MANIFEST, "ties differ from what the capture gives")
    ]


@pytest.mark.parametrize("change", [{"bits": 17}, {"bits": 33}, {"scale": [0.5] * 8}, {"scale": 0.0}])
def test_a_format_of_output_that_cannot_be_is_refused_in_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    data = scaled(make_capture(), 0.25, code(4, 9.7)).to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["qexport"])
    facts["formats"]["output"] |= change
    header["__metadata__"]["qexport"] = json.dumps(facts)
    text = json.dumps(header).encode()
    (tmp_path / "c").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    fails(cli("dump", "--capture", tmp_path / "c", "--out", tmp_path / "o"), "output")
    assert not (tmp_path / "o").exists()
