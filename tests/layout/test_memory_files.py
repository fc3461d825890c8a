"""Sets that are written and read image by image are those that are written and read whole."""

import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.build.dump import dump, plan
from qexport.build.verify import verify
from qexport.core import golden
from qexport.core.capture import Capture, CaptureFile, CaptureWriter, LayerCapture
from qexport.core.golden import Golden
from qexport.core.operations.registry import AXES, operation
from qexport.errors import QexportError
from qexport.layout.formats.registry import FORMATS
from qexport.layout.memory import Layout
from qexport.layout.memory_files import streamed_tensors
from qexport.layout.toml import load_layout
from tests.build.test_verify import faults_of, memories, read_json, reseal
from tests.conftest import CONV_PRESETS, cases, checked_dump, cli, fails, make_capture, one_memory_layout
from tests.judges import decoder
from tests.strategies import captures

IMAGES = 5


def with_reals(capture: LayerCapture) -> LayerCapture:
    """With what PyTorch would have given, a little off so that the figures of the manifest are not zeros."""
    exact = Golden(capture).accumulator * 0.125
    noise = np.random.default_rng(1).uniform(-5e-4, 5e-4, exact.shape)
    return replace(
        capture,
        reference=(exact + noise).astype(np.float32),
        next_input=np.maximum(exact + noise, 0).astype(np.float32),
    )


CAPTURES: dict[str, LayerCapture] = {
    "8 to 8, with PyTorch's output": with_reals(make_capture(images=IMAGES, bias=True)),
    "ragged": make_capture(images=IMAGES, in_channels=10, out_channels=12, kernel=(2, 1), plane=(3, 4)),
    "depthwise": make_capture(images=IMAGES, in_channels=6, out_channels=6, groups=6, plane=(5, 3), stride=(1, 2)),
    "linear": make_capture(
        images=IMAGES, kind="linear", in_channels=10, out_channels=5, kernel=(1, 1), padding=(0, 0, 0, 0), plane=(1, 1)
    ),
    "groups, stride and dilation": make_capture(
        images=IMAGES, in_channels=4, out_channels=6, groups=2, stride=(2, 1), dilation=(1, 2), padding=(0, 2, 1, 3)
    ),
}
LAYOUTS = {
    "n in the addresses": "n (ct row) iy ix -> | n ct iy ix | ~row",
    "n in the files": "n (ct row) iy ix -> n ct | iy ix | ~row",
    "n in files behind others": "n (ct row) iy ix -> ct n | iy ix | ~row",
    "n behind other addresses": "n (ct row) iy ix -> ct | iy n ix | ~row",
    "n backwards": "n (ct row) iy ix -> | ~n ct iy ix | ~row",
    "n in the lanes": "n ic iy ix -> | ic iy ix | n",
    "n split": "(nt row) ic iy ix -> | nt ic iy ix | row",
    "bits": "n ic iy ix bit -> bit | n ic iy | ix",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def part_sizes(capture: LayerCapture, layout: Layout) -> Iterator[int]:
    """PART_ELEMENTS that part the images one by one and in pairs, the last of which is no whole one."""
    facts = operation(capture, layout.array.get("row"))
    tensors = {"patches", *(stream.memory.tensor for stream in plan(facts, layout, IMAGES) if stream.streamed)}
    yield from (1, 2 * max(math.prod(facts.tensor(tensor).shape(1)) for tensor in tensors))


def stored(capture: LayerCapture, folder: Path) -> CaptureFile:
    path = folder / "stored.safetensors"
    path.write_bytes(capture.to_bytes())
    return CaptureFile(path)


def assert_parts_change_nothing(
    capture: LayerCapture, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dump(capture, layout, tmp_path / "whole").folder
    sources: list[Capture] = [capture, stored(capture, tmp_path)]
    for size, source in zip(part_sizes(capture, layout), sources, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(golden, "PART_ELEMENTS", size)
            parted = dump(source, layout, tmp_path / str(size)).folder
            assert files_of(parted) == files_of(whole)
            assert verify(whole).ok
    assert verify(parted).ok


# --- the same bytes -------------------------------------------------------------------------------------------------


def test_parts_are_of_one_image_and_of_two() -> None:
    capture, layout = CAPTURES["ragged"], load_layout("default")
    facts = operation(capture, 8)
    streams = plan(facts, layout, IMAGES)
    spans = []
    with pytest.MonkeyPatch.context() as patch:
        for size in part_sizes(capture, layout):
            patch.setattr(golden, "PART_ELEMENTS", size)
            spans.append(list(golden.parts(streamed_tensors(streams), facts, IMAGES)))
    assert spans == [[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], [(0, 2), (2, 4), (4, 5)]]


@pytest.mark.whole
@pytest.mark.parametrize("preset", CONV_PRESETS)
@pytest.mark.parametrize("name", CAPTURES)
def test_every_preset_gives_the_same_bytes_whatever_the_size_of_the_parts(
    name: str, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_parts_change_nothing(CAPTURES[name], load_layout(preset), tmp_path, monkeypatch)


@pytest.mark.whole
@pytest.mark.parametrize("order", LAYOUTS)
@pytest.mark.parametrize("radix", FORMATS)
def test_every_format_and_place_of_n_gives_the_same_bytes_whatever_the_size_of_the_parts(
    order: str, radix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = LAYOUTS[order].split("->")[1].split("|")[0].split()
    name = "".join(["m", *(f"_{{{axis}}}" for axis in axes)])
    comment = FORMATS[radix].comment
    header = {} if comment is None else {"header": [f"{comment or '#'} one", f"{comment or '#'} two"]}
    layout = one_memory_layout(LAYOUTS[order], "input", file=name, radix=radix, **header)
    capture = make_capture(images=IMAGES, in_channels=10, plane=(2, 3))
    assert_parts_change_nothing(capture, layout, tmp_path, monkeypatch)


@settings(max_examples=cases(60))
@given(
    capture=captures(),
    reals=st.sets(st.sampled_from(["reference", "next_input"])),
    name=st.text(min_size=1, max_size=20),
    sizes=st.lists(st.integers(1, 3), min_size=IMAGES),
)
def test_a_capture_writer_writes_the_bytes_of_the_safetensors_library(
    capture: LayerCapture, reals: set[str], name: str, sizes: list[int]
) -> None:
    n, shape = capture.images, Golden(capture).accumulator.shape
    rng = np.random.default_rng(n)
    values = {real: rng.integers(-99, 99, shape).astype(np.float32) / 64 for real in sorted(reals)}
    capture = replace(capture, layer=msgspec.structs.replace(capture.layer, name=name), **values)
    tensors = {"weight": capture.weight.astype(np.int32), "input": capture.input.astype(np.int32)} | values
    if capture.bias is not None:
        tensors["bias"] = capture.bias
    ours = io.BytesIO()
    writer = CaptureWriter.like(capture, ours)
    start = 0
    for size in sizes:
        if start < n:
            writer.add(capture.part(start, min(start + size, n)))
        start += size
    with_library = safetensors.numpy.save(tensors, metadata={"qexport": metadata_text(ours.getvalue())})
    assert ours.getvalue() == with_library == capture.to_bytes()


def metadata_text(data: bytes) -> str:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text: str = header["__metadata__"]["qexport"]
    return text


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["default", "ws8x8", "decimals", "stream_nhwc64"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of five images that is written and read one by one."""
    monkeypatch.setattr(golden, "PART_ELEMENTS", 1)
    return checked_dump(make_capture(images=IMAGES, in_channels=10, plane=(3, 4)), request.param, tmp_path)


def other_digit(data: bytes, at: int) -> bytes:
    """The text with another digit at an offset (1 for 0, else 0)."""
    return data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :]


def words_of(folder: Path, name: str) -> tuple[list[bytes], int]:
    """The lines of a memory file and how many of them are its header."""
    return (folder / name).read_bytes().splitlines(keepends=True), len(memories(folder)[name][0]["header"])


def with_word(folder: Path, name: str, line: int, word: bytes) -> None:
    lines, _ = words_of(folder, name)
    lines[line - 1] = word
    (folder / name).write_bytes(b"".join(lines))


def place_of(folder: Path, name: str, line: int, lane: int) -> dict[str, int] | None:
    """The tensor index of a stored element, by the independent decoder."""
    memory, number = memories(folder)[name]
    places, _ = decoder.read_order(memory, read_json(folder)["array"])
    flat = int(places[number, line - 1 - len(memory["header"]), lane])
    if flat < 0:
        return None
    axes = [axis for axis, _ in zip(AXES[memory["tensor"]], memory["shape"], strict=True)]
    return dict(zip(axes, map(int, np.unravel_index(flat, memory["shape"])), strict=True))


@pytest.mark.whole
@pytest.mark.parametrize("sealed", [False, True], ids=["sums as dumped", "sums made to fit"])
def test_a_changed_code_is_found_in_any_image_at_its_line_lane_and_index(folder: Path, sealed: bool) -> None:
    images = set()
    for name, (memory, _) in memories(folder).items():
        sound = (folder / name).read_bytes()
        lines, header = words_of(folder, name)
        first_lane, last_lane = 0, memory["word_bits"] // memory["bits"] - 1
        for line, lane in ((header + 1, first_lane), (len(lines), last_lane), (len(lines) * 3 // 5, last_lane)):
            text = lines[line - 1]
            if memory["radix"] == "dec":
                numbers = text.split()
                numbers[lane] = b"1" if numbers[lane] != b"1" else b"0"
                word = b" ".join(numbers) + b"\n"
            else:
                digits_of_lane = memory["bits"] // (4 if memory["radix"] == "hex" else 1)
                word = other_digit(text, min(max(lane * digits_of_lane, 0) + digits_of_lane - 1, len(text) - 2))
            with_word(folder, name, line, word)
            if sealed:
                reseal(folder)
            faults = faults_of(folder)
            index = place_of(folder, name, line, lane)
            assert [(f.file, f.line, f.lane, f.index) for f in faults] == [(name, line, lane, index)]
            images |= {index["n"]} if index and "n" in index else set()
            (folder / name).write_bytes(sound)
    assert {0, IMAGES - 1} < images
    reseal(folder)
    assert faults_of(folder) == []


@pytest.mark.whole
@pytest.mark.parametrize("sealed", [False, True], ids=["sums as dumped", "sums made to fit"])
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        pytest.param(lambda lines, last: lines[:-1], -1, id="one word too few"),
        pytest.param(lambda lines, last: [*lines, last], 0, id="one word too many"),
        pytest.param(lambda lines, last: [*lines[:-1], b"junk\n"], -1, id="junk in the last word"),
        pytest.param(lambda lines, last: [*lines, b"\n"], 0, id="an empty line behind"),
        pytest.param(lambda lines, last: [*lines[:-1], last[:-1]], -1, id="the last line without its end"),
    ],
)
def test_words_that_are_too_few_too_many_or_none_are_found_at_the_end_of_the_last_image(
    folder: Path, damage: Callable[[list[bytes], bytes], list[bytes]], line: int, sealed: bool
) -> None:
    for name in memories(folder):
        sound = (folder / name).read_bytes()
        lines, _ = words_of(folder, name)
        (folder / name).write_bytes(b"".join(damage(lines, lines[-1])))
        if sealed:
            reseal(folder)
        assert [(fault.file, fault.line) for fault in faults_of(folder)] == [(name, len(lines) + 1 + line)]
        (folder / name).write_bytes(sound)
    reseal(folder)
    assert faults_of(folder) == []


def test_a_missing_file_is_named_and_hides_no_other_fault(folder: Path) -> None:
    entries = memories(folder)
    missing, *_, changed = [name for name, (memory, _) in entries.items() if memory["shape"][0] == IMAGES]
    (folder / missing).unlink()
    lines, _ = words_of(folder, changed)
    with_word(folder, changed, len(lines), other_digit(lines[-1], len(lines[-1]) - 2))
    assert [(fault.file, fault.line) for fault in faults_of(folder)] == [(missing, None), (changed, len(lines))]


@pytest.mark.parametrize("radix", FORMATS)
def test_a_changed_code_of_the_last_image_is_found_in_every_format(
    radix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set of another capture, whose last code alone differs, as the file that was made to fit."""
    monkeypatch.setattr(golden, "PART_ELEMENTS", 1)
    layout = one_memory_layout("n ic iy ix -> | n iy ix | ic", "input", file="m", radix=radix)
    capture = make_capture(images=IMAGES, plane=(2, 3))
    codes = capture.input.copy()
    codes[-1, -1, -1, -1] ^= 1
    folder = dump(capture, layout, tmp_path).folder
    other = dump(replace(capture, input=codes), layout, tmp_path / "other").folder
    data = (other / "m").read_bytes()
    assert (folder / "m").read_bytes() != data
    (folder / "m").write_bytes(data)
    for sealed in (False, True):
        if sealed:
            reseal(folder)
        (fault,) = faults_of(folder)
        assert (fault.file, fault.lane, fault.index) == ("m", 7, {"n": IMAGES - 1, "ic": 7, "iy": 1, "ix": 2})
        (word,) = json.loads(cli("show", folder, f"m:{fault.line}", "--json").stdout)["words"]
        assert (word["lanes"][7]["index"], word["lanes"][7]["stored"]) == (fault.index, codes[-1, -1, -1, -1])


@pytest.mark.parametrize("sealed", [False, True], ids=["sums as dumped", "sums made to fit"])
@pytest.mark.parametrize(("words", "line"), [(-1, 30), (1, 31)])
def test_too_few_and_too_many_raw_words_are_found_at_the_first_that_is_not_there_or_too_much(
    words: int, line: int, sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "PART_ELEMENTS", 1)
    layout = one_memory_layout("n ic iy ix -> | n iy ix | ic", "input", file="m", radix="raw_be")
    folder = dump(make_capture(images=IMAGES, plane=(2, 3)), layout, tmp_path).folder
    data = (folder / "m").read_bytes()
    (folder / "m").write_bytes((data + data)[: len(data) + 4 * words])
    if sealed:
        reseal(folder)
    assert [(fault.file, fault.line) for fault in faults_of(folder)] == [("m", line)]


# --- what a dump refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, golden.PART_ELEMENTS])
@pytest.mark.parametrize(
    ("order", "keys"),
    [
        ("n oc oy ox -> | n oy ox | oc", {"bits": 10}),
        ("n oc oy ox -> n | oy ox | oc", {"bits": 10, "file": "m_{n}"}),
        ("n oc oy ox -> | oy ox | n oc", {"bits": 10}),
    ],
)
def test_a_code_that_does_not_fit_is_named_with_its_image(
    order: str, keys: dict[str, int | str], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "PART_ELEMENTS", size)
    geometry = {"kernel": (1, 1), "padding": (0, 0, 0, 0)}
    capture = make_capture(images=IMAGES, weight_bits=9, input_bits=8, plane=(3, 3), **geometry)
    weight, codes = np.zeros_like(capture.weight), np.ones_like(capture.input)
    weight[5, 2], codes[3, 2, 1, 0] = 255, 255
    path = tmp_path / "c.safetensors"
    path.write_bytes(replace(capture, weight=weight, input=codes).to_bytes())
    layout = one_memory_layout(order, "accumulator", **keys)
    with pytest.raises(QexportError, match="memory 'm': 65025 at n=3 oc=5 oy=1 ox=0 does not fit"):
        dump(CaptureFile(path), layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken_last_image(tmp_path: Path) -> Path:
    """A capture file with a code outside of its format in the last of its images."""
    path = tmp_path / "broken.safetensors"
    data = make_capture(images=IMAGES).to_bytes()
    codes = safetensors.numpy.load(data)["input"].copy()
    codes[-1, 7, 3, 3] = 16
    tensors = safetensors.numpy.load(data) | {"input": codes}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"qexport": metadata_text(data)}))
    return path


@pytest.mark.parametrize("size", [1, golden.PART_ELEMENTS])
def test_a_code_outside_of_its_format_in_the_last_image_is_refused_and_leaves_what_was_there(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "PART_ELEMENTS", size)
    broken, out = broken_last_image(tmp_path), tmp_path / "out"
    fails(cli("dump", "--capture", broken, "--out", out), "input code 16 is outside 0..15")
    assert not out.exists()
    earlier = files_of(checked_dump(make_capture(), "default", out))
    fails(cli("dump", "--capture", broken, "--out", out, "--force"), "input code 16 is outside 0..15")
    assert [path.name for path in out.iterdir()] == ["features_33"]
    assert files_of(out / "features_33") == earlier


def test_a_capture_that_contradicts_its_reference_in_the_last_image_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "PART_ELEMENTS", 1)
    capture = with_reals(make_capture(images=IMAGES))
    assert capture.reference is not None
    reference = capture.reference.copy()
    reference[-1, 7, 3, 3] += 0.125
    (tmp_path / "c.safetensors").write_bytes(replace(capture, reference=reference).to_bytes())
    result = cli("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path / "out")
    fails(result, "differs from reference", "0.125 at most", code=1)
    assert not (tmp_path / "out").exists()


# --- sizes ----------------------------------------------------------------------------------------------------------

ALIVE = captures().filter(lambda capture: Golden(capture).accumulator.any())  # others are refused
EXACT = ("hex", "bin", "mem", "raw_be", "raw_le")


@settings(max_examples=cases(30))
@given(capture=ALIVE, radix=st.sampled_from([*EXACT, "dec"]), tensor=st.sampled_from(["input", "weight", "relu"]))
def test_the_size_that_is_told_beforehand_is_that_of_the_files(
    tmp_path_factory: pytest.TempPathFactory, capture: LayerCapture, radix: str, tensor: str
) -> None:
    order = {
        "input": "n (it row) iy ix -> it | n iy ix | ~row",
        "weight": "(ot row) ic kh kw -> ot | ic kh kw | row",
        "relu": "n oc oy ox -> | n oy ox | oc",
    }[tensor]
    name = "m" if tensor == "relu" else f"m_{{{order[order.index('>') + 2 :].split()[0]}}}"
    header = {"header": ["// one"]} if radix in ("hex", "bin", "mem") else {}
    layout = one_memory_layout(order, tensor, file=name, radix=radix, **header)
    assert_told(capture, layout, tmp_path_factory.mktemp("set"), radix in EXACT)


@pytest.mark.parametrize("radix", [*EXACT, "dec"])
def test_the_size_of_a_file_of_many_words_is_told_beforehand(radix: str, tmp_path: Path) -> None:
    layout = one_memory_layout("n ic iy ix -> | n iy ix | ic", "input", file="m", radix=radix)
    capture = make_capture(images=IMAGES, in_channels=3, plane=(40, 30))
    assert_told(capture, layout, tmp_path, radix in EXACT)


def assert_told(capture: LayerCapture, layout: Layout, out: Path, exact: bool) -> None:
    told = sum(stream.size for stream in plan(operation(capture, None), layout, capture.images))
    folder = dump(capture, layout, out).folder
    written = sum((folder / name).stat().st_size for name in memories(folder))
    assert told == written if exact else told >= written
