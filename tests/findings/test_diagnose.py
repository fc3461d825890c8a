"""Where a result differs and why: the report, the exit codes, classes with the vectors that separate them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN, Change, Mistake
from qexport.findings.compared import Comparison
from qexport.findings.diagnose import diagnose
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.hypotheses.inputs import INPUT_SIGNED
from qexport.findings.hypotheses.registry import hypotheses
from qexport.findings.hypotheses.taps import KERNEL_ROTATED, TAP_MISSING
from qexport.findings.model import Model, Sample, array_sides
from qexport.findings.separate import separate
from qexport.findings.trial import Scored
from qexport.findings.words import Actual, read_actual
from qexport.sets.manifest import MemoryEntry, read_manifest
from tests.conftest import checked_dump, cli, fails, make_capture


def model_of(folder: Path, memory: str) -> Model:
    manifest = read_manifest(folder)
    capture = LayerCapture.load(folder / manifest.capture.path)
    entry = next(m for m in manifest.memories if m.name == memory)
    return Model(manifest, capture, entry, array_sides(manifest)[0])


def changes_of(model: Model) -> list[Change]:
    return list(hypotheses(model, model.golden, np.ones(model.golden.shape, np.bool_)))


def came_back(model: Model, values: Int64) -> Actual:
    """The words of a design that gave these values (in the tensor's axes)."""
    words = model.tiling.tile(values).reshape(-1, model.tiling.lanes)
    return Actual(model.entry, words, np.ones(words.shape, np.bool_), 0, 0)


def write(path: Path, entry: MemoryEntry, words: Int64) -> Path:
    """A hexadecimal file of these words, as a bench writes it."""
    lines = []
    for lanes in words.tolist():
        word = 0
        for lane in lanes:
            word = word << entry.bits | lane & ((1 << entry.bits) - 1)
        lines.append(f"{word:0{entry.word_bits // 4}x}\n")
    path.write_text("".join(lines))
    return path


def relu_of(weight: Int64, codes: Int64, skip: int | None = None) -> Int64:
    """The 3x3 layer with padding 1, said with loops alone; `skip`: a tap that is left out."""
    n, _, rows, cols = codes.shape
    out = np.zeros((n, len(weight), rows, cols), np.int64)
    for oy in range(rows):
        for ox in range(cols):
            for kh in range(3):
                for kw in range(3):
                    y, x = oy + kh - 1, ox + kw - 1
                    if 0 <= y < rows and 0 <= x < cols and kh * 3 + kw != skip:
                        out[:, :, oy, ox] += codes[:, :, y, x] @ weight[:, :, kh, kw].T
    return np.maximum(out, 0)


@pytest.fixture(scope="module")
def folder(set_of: Callable[[str], Path]) -> Path:
    return set_of("default")


def test_a_right_result_has_no_differences(folder: Path, tmp_path: Path) -> None:
    result = cli("diagnose", folder, "--actual", folder / "relu.hex")
    assert result.exit_code == 0, result.output
    assert re.search(r"differ +0 of 256 values", result.output)
    found = json.loads(cli("diagnose", folder, "--actual", folder / "relu.hex", "--json").output)
    assert (found["differing"], found["causes"], found["first"]) == (0, [], None)


def test_the_report_names_the_place_and_the_cause(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder, "relu")
    values = relu_of(model.capture.weight, model.capture.input, skip=5)
    file = write(tmp_path / "relu.hex", model.entry, came_back(model, values).values)
    wrong = values != model.golden
    result = cli("diagnose", folder, "--actual", file)
    assert result.exit_code == 1
    assert f"{wrong.sum()} of {wrong.size} values" in result.output
    assert "tap_missing (tap kh=1 kw=2), explains all" in result.output
    assert TAP_MISSING.remedy in " ".join(result.output.split())
    assert "oc=0" in result.output
    assert result.stderr.startswith(f"qexport: diagnose: {file}: ")  # what was asked for was done: no "error"
    assert "tap_missing" in result.stderr
    found = json.loads(cli("diagnose", folder, "--actual", file, "--json").stdout)
    assert found["differing"] == wrong.sum()
    assert found["explained"]
    assert found["causes"][0]["name"] == "tap_missing"
    assert found["causes"][0]["share"] == 1
    # the first in the order of the file: the lanes of a word from the most significant on, oc = 7 first
    first = found["first"]
    n, oy, ox, oc = next(
        (n, oy, ox, oc)
        for n in range(2) for oy in range(4) for ox in range(4) for oc in range(7, -1, -1)
        if wrong[n, oc, oy, ox]
    )  # fmt: skip
    assert first["index"] == {"n": n, "oc": oc, "oy": oy, "ox": ox}
    assert (first["line"], first["lane"]) == (n * 16 + oy * 4 + ox + 1, 7 - oc)
    assert (first["got"], first["want"]) == (values[n, oc, oy, ox], model.golden[n, oc, oy, ox])
    assert first["difference"] == first["got"] - first["want"]
    assert int(first["xor"], 2) == (first["got"] ^ first["want"]) & 0xFFFF
    assert len(first["xor"]) == 16
    for channel in range(8):
        shares = found["shares"].get(str(channel), np.zeros((4, 4)))
        np.testing.assert_allclose(shares, wrong[:, channel].mean(axis=0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v[1:].__iadd__(1), "only image 1 (of 2)"),
        (lambda v: v[:, 5].__iadd__(3), "only output channel 5 (of 8)"),
        (lambda v: v[:, 5].__iadd__(3), "only lane 2 (of 8)"),
        (lambda v: v[:, :, :, 3].__iadd__(1), "only column 3 (of 4)"),
        (lambda v: v[1, :, 1:].__iadd__(1), "everything from word 20 on"),
        (lambda v: v.__iadd__(-7), "every wrong value is off by -7"),
    ],
    ids=["image", "channel", "lane", "column", "words", "offset"],
)  # fmt: skip
def test_what_wrong_values_have_in_common_is_said(folder: Path, change: Callable[[Int64], Any], said: str) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    change(values)
    assert said in Comparison(folder, came_back(model, values)).where().findings


def test_the_border_is_seen(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    values[:, :, 0] += 1
    values[:, :, :, 3] += 1
    assert "only the border of the plane" in Comparison(folder, came_back(model, values)).where().findings
    values[:, :, 1, 1] += 1
    assert "only the border of the plane" not in Comparison(folder, came_back(model, values)).where().findings


def test_the_map_marks_shares(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    values[0, 3, 1, 2] += 1
    values[:, 3, 2, 0] += 1
    assert Comparison(folder, came_back(model, values)).where().map == [
        "oc=3", "....", "..+.", "#...", "....", "y downwards, x to the right; . right, : + * some wrong, # all wrong",
    ]  # fmt: skip


@pytest.mark.parametrize("noise", [1, 40])
def test_what_no_hypothesis_gives_is_unexplained(folder: Path, noise: int) -> None:
    model = model_of(folder, "accumulator")
    values = model.golden.copy()
    rng = np.random.default_rng(noise)
    values.flat[rng.permutation(values.size)[:noise]] += rng.integers(3, 90, noise)
    found = diagnose(folder, came_back(model, values))
    assert not found.explained
    assert found.certainty == "unexplained"
    shares = [cause.share for cause in found.causes]  # what explains nothing is not shown
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share < 0.9 or noise == 1 for share in shares)  # one value is too little to tell


def test_of_a_large_memory_some_images_are_looked_at_for_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checked_dump(make_capture(images=5), "default", tmp_path)
    model = model_of(folder, "accumulator")
    monkeypatch.setattr("qexport.findings.diagnose._WHOLE", 2 * model.golden[0].size)
    values = model.golden.copy()
    values[2:] = np.maximum(values[2:], 0)
    found = diagnose(folder, came_back(model, values))
    assert (found.differing, found.causes[0].name) == ((model.golden[2:] < 0).sum(), "other_layer")
    values[3] += np.random.default_rng(0).integers(3, 90, values[3].shape)
    values[2] = model.golden[2]
    values[4] = values[3]
    found = diagnose(folder, came_back(model, values))
    assert not found.explained
    assert found.differing == 2 * values[3].size


def test_two_mistakes_together_are_found(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    low = np.where(model.capture.input > 7, model.capture.input - 16, model.capture.input)
    values = Golden(LayerCapture(model.layer, model.capture.formats, model.capture.weight[..., ::-1, ::-1],
                                 model.capture.input)).accumulator  # fmt: skip
    assert diagnose(folder, came_back(model, values)).causes[0].name == "kernel_rotated"
    two = sum(
        np.einsum("oi,niyx->noyx", model.capture.weight[:, :, 2 - kh, 2 - kw],
                  np.pad(low, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, kh : kh + 4, kw : kw + 4])
        for kh in range(3) for kw in range(3)
    )  # fmt: skip
    found = diagnose(folder, came_back(model, np.asarray(two)))
    assert found.explained
    assert found.causes[0].name == "input_signed + kernel_rotated"
    for mistake in (INPUT_SIGNED, KERNEL_ROTATED):
        assert mistake.remedy in found.causes[0].remedy


def test_a_vector_separates_as_it_says(folder: Path) -> None:
    model = model_of(folder, "accumulator")
    by_name = {(c.name, c.detail): c for c in changes_of(model)}
    one, other = by_name["accumulator_wraps", "k=5 bits"], by_name["accumulator_saturates", "k=5 bits, at the end"]
    found = separate(model, Scored((one,), 1, True, 0), Scored((other,), 1, True, 0))
    assert found is not None
    assert found.names == ("accumulator_wraps", "accumulator_saturates")
    codes = np.zeros(model.capture.input.shape, np.int64)
    for place in re.findall(r"image=(\d+) channel=(\d+) y=(\d+) x=(\d+) = (\d+)", found.vector):
        *index, code = map(int, place)
        codes[tuple(index)] = code
    assert np.count_nonzero(codes) == 1
    assert found.vector.endswith("all others 0,")
    sums = Golden(LayerCapture(model.layer, model.capture.formats, model.capture.weight, codes)).accumulator
    value = int(sums[tuple(found.index.values())])
    assert found.values == ((value + 16) % 32 - 16, min(max(value, -16), 15))
    assert found.values[0] != found.values[1]


def test_hypotheses_that_this_set_cannot_tell_apart_are_one_class(tmp_path: Path) -> None:
    capture = make_capture(kernel=(1, 1), padding=(0, 0, 0, 0), images=2)
    even = capture.input.copy()
    even[1] = 0  # the second image shows nothing
    folder = checked_dump(LayerCapture(capture.layer, capture.formats, capture.weight, even), "default", tmp_path)
    model = model_of(folder, "accumulator")
    values = model.golden + np.concatenate((np.zeros_like(model.golden[:1]), model.golden[:1]))
    found = diagnose(folder, came_back(model, values))
    cause = found.causes[0]
    assert {"stale_accumulator", "image_order"} <= {cause.name, *cause.alike}
    apart = {name for separation in found.separations for name in separation.names} - {cause.name}
    assert apart | set(found.inseparable) == set(cause.alike)
    assert apart
    for separation in found.separations:
        assert separation.values[0] != separation.values[1]


def test_x_and_missing_words_are_named(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "relu.hex").read_text().splitlines()
    lines[9] = "x" * len(lines[9])
    (tmp_path / "relu.hex").write_text("\n".join(lines) + "\n")
    found = diagnose(folder, read_actual(folder, tmp_path / "relu.hex"))
    assert (found.differing, found.causes[0].name, found.explained) == (8, "x_values", True)
    (tmp_path / "relu.hex").write_text("\n".join(lines[:-3]) + "\n")
    found = diagnose(folder, read_actual(folder, tmp_path / "relu.hex"))
    assert found.differing == 8  # words that are missing are not wrong values
    assert found.causes[0].detail == "8 values are X or Z, 3 words are missing at the end, all others are right"
    assert found.first is not None
    assert (found.first.line, found.first.got) == (10, None)
    (tmp_path / "relu.hex").write_text("\n".join((folder / "relu.hex").read_text().splitlines()[:-3]) + "\n")
    found = diagnose(folder, read_actual(folder, tmp_path / "relu.hex"))
    assert (found.differing, found.causes[0].name) == (0, "word_count")
    (tmp_path / "relu.hex").write_text((folder / "relu.hex").read_text() + "0" * 32 + "\n")
    found = diagnose(folder, read_actual(folder, tmp_path / "relu.hex"))
    assert (found.differing, found.causes[0].name) == (0, "word_count")
    fails(cli("diagnose", folder, "--actual", tmp_path / "relu.hex"), "too many", code=1)


def test_filled_lanes_that_are_not_0_are_said(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(out_channels=5), "default", tmp_path)
    text = (folder / "relu.hex").read_text()
    assert text.startswith("0" * 12)  # lanes 7, 6 and 5 are filled
    (tmp_path / "relu.hex").write_text("0001" + text[4:])
    result = cli("diagnose", folder, "--actual", tmp_path / "relu.hex")
    assert "0 of 160 values" in result.output
    fails(cli("diagnose", folder, "--actual", tmp_path / "relu.hex"), "1 filled lanes of ragged tiles", code=1)


def test_words_of_another_set_are_recognised(tmp_path: Path) -> None:
    ours = checked_dump(make_capture(), "default", tmp_path)
    theirs = checked_dump(make_capture(seed=7, name="features.34", index=34), "default", tmp_path)
    found = diagnose(ours, read_actual(ours, theirs / "relu.hex"))
    assert found.causes[0].name == "other_layer"
    assert "features_34" in found.causes[0].detail
    found = diagnose(ours, read_actual(ours, ours / "accumulator.hex", "relu"))
    assert "other_layer" in (found.causes[0].name, *found.causes[0].alike)


@pytest.mark.parametrize(
    ("memory", "named"),
    [("weight", ["'weight' holds weight", "psum, accumulator, relu"]), ("sums", ["sums"])],
)
def test_memories_that_hold_no_results_are_refused(folder: Path, memory: str, named: list[str]) -> None:
    fails(cli("diagnose", folder, "--actual", folder / "weight.hex", "--memory", memory), *named)


def test_a_memory_of_several_files_may_be_given_file_by_file(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(), "ws8x8", tmp_path)
    [entry] = [m for m in read_manifest(folder).memories if m.tensor == "psum"]
    files = [folder / file.path for file in entry.files]
    assert len(files) > 1
    result = cli("diagnose", folder, *(word for file in files for word in ("--actual", file)), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["actual"] == ", ".join(map(str, files))


def test_options_that_do_not_go_together_are_refused(folder: Path) -> None:
    fails(cli("diagnose", folder, "--actual", folder / "relu.hex", "--signal", "x"), "--clock")
    fails(cli("diagnose", folder), "--actual")
    fails(cli("diagnose", folder, "--actual", folder / "relu.hex", "--valid", "x"), "--signal and --clock")
    waves = folder.parent / "waves.vcd"
    waves.write_text("")
    fails(cli("diagnose", folder, "--actual", waves), "waves.vcd holds waves", "--signal and --clock")
    both = ("--actual", waves, "--actual", waves, "--signal", "x", "--clock", "clk")
    fails(cli("diagnose", folder, *both), "give --actual once")
    fails(cli("diagnose", folder.parent / "nothing", "--actual", folder / "relu.hex"), "qexport dump")


GEOMETRIES: dict[str, dict[str, Any]] = {
    "ragged": {"in_channels": 5, "out_channels": 11, "plane": (5, 4), "images": 3, "bias": True},
    "strided": {"in_channels": 24, "out_channels": 16, "stride": (2, 2), "bias": True},
    "grouped": {"in_channels": 20, "out_channels": 20, "groups": 2, "dilation": (1, 2), "padding": (1, 0, 2, 1)},
    "signed": {"in_channels": 12, "out_channels": 9, "input_signed": True, "kernel": (2, 3)},
    "linear": {"kind": "linear", "kernel": (1, 1), "padding": (0, 0, 0, 0), "plane": (1, 1), "images": 3},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("layout", ["default", "ws8x8", "stream_nhwc64", "bitplanes"])
def test_every_hypothesis_runs_on_every_geometry(geometry: str, layout: str, tmp_path: Path) -> None:
    """Without a change it gives the golden, and a part of the values is the part of all values."""
    capture = make_capture(**GEOMETRIES[geometry])
    folder = checked_dump(capture, layout, tmp_path)
    for entry in read_manifest(folder).memories:
        if entry.tensor not in ("psum", "accumulator", "relu", "output"):
            continue
        model = model_of(folder, entry.name)
        exact = Golden(capture, read_manifest(folder).array.get("row")).values(entry.tensor)
        np.testing.assert_array_equal(model.golden, model.stored(exact))
        sample = Sample(np.array([1]), np.array([0, 2]))
        effects: dict[str, bool] = {}
        mistakes: dict[str, Mistake] = {}
        for change in changes_of(model)[::3]:
            assert mistakes.setdefault(change.name, change.mistake) is change.mistake  # one remedy for each name
            values = model.predict((change,))
            assert values.shape == model.golden.shape
            effects[change.name] = effects.get(change.name, False) or bool((values != model.golden).any())
            part = model.predict((change,), sample)
            if part.shape == values.shape:  # other places were needed, too; what it says of them is the same
                assert ((part == values) | (part == UNKNOWN)).all()
            else:
                np.testing.assert_array_equal(part, values[model.place(sample, values.ndim)])
        assert all(mistake.remedy.endswith(".") for mistake in mistakes.values())
        assert sum(effects.values()) > 5


def test_a_set_that_was_changed_is_refused(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(), "default", tmp_path)
    wrong = tmp_path / "wrong.hex"
    wrong.write_text((folder / "relu.hex").read_text().replace("1", "2"))
    (folder / "capture.safetensors").write_bytes(b"")
    fails(cli("diagnose", folder, "--actual", wrong, "--memory", "relu"), "SHA-256", code=1)


def test_a_diagnosis_is_frozen_and_has_a_summary(folder: Path) -> None:
    model = model_of(folder, "relu")
    found: Diagnosis = diagnose(folder, came_back(model, model.accumulator))
    assert found.causes[0].name == "relu_missing"
    assert found.summary == f"{found.differing} of {found.total} values differ: relu_missing"
    assert "only values that should be 0" not in found.findings
