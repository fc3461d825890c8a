"""The capture file: what is written comes back, byte for byte the same; what cannot be used is refused in one line."""

import copy
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from qexport.core.capture import LayerCapture, Source
from qexport.core.golden import Golden
from qexport.errors import QexportError
from tests.conftest import cases, cli, fails, make_capture
from tests.strategies import captures

Array = NDArray[Any]

META: dict[str, Any] = {
    "layer": {"name": "conv", "in_channels": 2, "out_channels": 2, "kernel": [3, 3], "padding": [1, 1, 1, 1]},
    "formats": {
        "weight": {"bits": 4, "signed": True, "scale": 0.25},
        "input": {"bits": 4, "signed": False, "scale": 0.5},
    },
}
TENSORS: dict[str, Array] = {
    "weight": np.arange(-8, 28).reshape(2, 2, 3, 3).clip(-8, 7).astype(np.int32),
    "input": (np.arange(32) % 16).reshape(1, 2, 4, 4).astype(np.int32),
}


def stored(tensors: dict[str, Array] | None = None, **facts: Any) -> bytes:
    """A capture file of TENSORS and META with other tensors, and other facts by their dotted path (__ for a dot)."""
    meta = copy.deepcopy(META)
    for path, value in facts.items():
        *outer, last = path.split("__")
        table = meta
        for key in outer:
            table = table.setdefault(key, {})
        table[last] = value
    return save(TENSORS | (tensors or {}), metadata={"qexport": json.dumps(meta)})


def with_text(text: str) -> bytes:
    return save(TENSORS, metadata={"qexport": text})


def header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


def read_back(data: bytes, folder: Path) -> LayerCapture:
    path = folder / "capture.safetensors"
    path.write_bytes(data)
    return LayerCapture.load(path)


def full_capture() -> LayerCapture:
    """A capture with every tensor."""
    capture = make_capture(bias=True)
    real = (Golden(capture).accumulator * 0.125).astype(np.float32)
    source = Source(images=(0, 17), seed=3, stimulus="images", checkpoint_sha256="ab" * 32)
    return replace(capture, reference=real, next_input=np.maximum(real, 0), source=source)


def assert_same(a: LayerCapture, b: LayerCapture) -> None:
    assert (a.layer, a.formats, a.source) == (b.layer, b.formats, b.source)
    for name in ("weight", "input", "bias", "reference", "next_input"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=cases(30))
@given(captures())
def test_file_gives_back_the_capture(tmp_path_factory: pytest.TempPathFactory, capture: LayerCapture) -> None:
    data = capture.to_bytes()
    back = read_back(data, tmp_path_factory.mktemp("capture"))
    assert_same(back, capture)
    assert back.to_bytes() == data


def test_file_gives_back_a_full_capture(tmp_path: Path) -> None:
    capture = full_capture()
    assert_same(read_back(capture.to_bytes(), tmp_path), capture)


@pytest.mark.parametrize(("bits", "signed"), [(32, True), (31, False)])
def test_widest_codes_come_back(tmp_path: Path, bits: int, signed: bool) -> None:
    capture = make_capture(
        kernel=(1, 1), padding=(0, 0, 0, 0), in_channels=1, weight_bits=2, input_bits=bits, input_signed=signed
    )
    ends = np.resize([capture.formats.input.integer.low, capture.formats.input.integer.high], capture.input.shape)
    capture = replace(capture, input=ends)
    assert_same(read_back(capture.to_bytes(), tmp_path), capture)


def test_codes_beyond_int32_are_refused() -> None:
    with pytest.raises(QexportError):
        make_capture(kernel=(1, 1), padding=(0, 0, 0, 0), in_channels=1, weight_bits=2, input_bits=32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_any_integer_type_is_read(tmp_path: Path, dtype: type) -> None:
    tensors = {"weight": np.abs(TENSORS["weight"]).clip(0, 7), "input": TENSORS["input"]}
    back = read_back(stored({name: array.astype(dtype) for name, array in tensors.items()}), tmp_path)
    for name, array in tensors.items():
        assert getattr(back, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(back, name), array)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array,
        lambda array: array.astype(np.int8),
        lambda array: array.astype(np.int32),
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: array.astype(array.dtype.newbyteorder()),
    ],
    ids=["same", "int8", "int32", "Fortran order", "strided", "other byte order"],
)
def test_same_codes_give_the_same_bytes(change: Callable[[Array], Array]) -> None:
    capture = full_capture()
    changed = replace(capture, weight=change(capture.weight), input=change(capture.input))
    assert changed.to_bytes() == capture.to_bytes()


def test_file_is_what_the_contract_says() -> None:
    capture = full_capture()
    data = capture.to_bytes()
    found = header(data)
    metadata = found.pop("__metadata__")
    assert {name: entry["dtype"] for name, entry in found.items()} == {
        "weight": "I32",
        "input": "I32",
        "bias": "I64",
        "reference": "F32",
        "next_input": "F32",
    }
    assert list(metadata) == ["qexport"]
    facts = json.loads(metadata["qexport"])
    assert metadata["qexport"] == json.dumps(facts, sort_keys=True, separators=(",", ":"))
    assert sorted(facts) == ["formats", "layer", "source"]
    assert facts["formats"]["weight"] == {"bits": 4, "signed": True, "scale": 0.25}
    assert facts["layer"]["kernel"] == [3, 3]
    assert facts["source"]["images"] == [0, 17]
    for name, array in load(data).items():
        np.testing.assert_array_equal(array, getattr(capture, name))


@given(st.integers(0, 999))
def test_real_values_are_the_nearest_on_the_grid(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-8, 8, (2, 8, 4, 4)).astype(np.float32)
    reference = replace(make_capture(), reference=values, next_input=values).reference
    assert reference is not None
    steps = reference.astype(np.float64) * 2**20
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert np.abs(reference - values).max() <= 2**-21


def test_noise_below_the_grid_does_not_change_the_bytes() -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(-(2**20), 2**20, (2, 8, 4, 4)) / 2**20).astype(np.float32)
    noisy = values + rng.uniform(-4e-7, 4e-7, values.shape).astype(np.float32)
    assert (noisy != values).any()
    capture = replace(make_capture(), reference=values, next_input=values)
    assert replace(capture, reference=noisy, next_input=noisy).to_bytes() == capture.to_bytes()


def test_zero_has_one_sign_on_the_grid() -> None:
    tiny = np.full((2, 8, 4, 4), 1e-17, np.float32)
    above, below = (replace(make_capture(), reference=values).to_bytes() for values in (tiny, -tiny))
    assert above == below


def test_arrays_cannot_be_written() -> None:
    capture = full_capture()
    for array in (capture.weight, capture.input, capture.bias, capture.reference, capture.next_input):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


GOOD = stored()
REFERENCE = np.zeros((1, 2, 4, 4), np.float32)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a readable safetensors"),
    "truncated header": (GOOD[:40], "not a readable safetensors"),
    "truncated data": (GOOD[:-1], "not a readable safetensors"),
    "longer": (GOOD + b"\0", "not a readable safetensors"),
    "junk": (b"\xff" * 200, "not a readable safetensors"),
    "text": (b"not a capture at all", "not a readable safetensors"),
    "type that numpy lacks": (
        GOOD.replace(b'"dtype":"I32","shape":[1,2,4,4]', b'"dtype":"F8_E4M3","shape":[1,2,8,8]'), "not a readable"
    ),
    "float weights": (stored({"weight": TENSORS["weight"].astype(np.float32)}), "weight has dtype float32"),
    "truth weights": (stored({"weight": TENSORS["weight"] > 0}), "weight has dtype bool"),
    "integer reference": (stored({"reference": REFERENCE.astype(np.int32)}), "reference has dtype int32"),
    "no weight": (save({"input": TENSORS["input"]}, metadata={"qexport": json.dumps(META)}), "needs weight and input"),
    "no input": (save({"weight": TENSORS["weight"]}, metadata={"qexport": json.dumps(META)}), "needs weight and input"),
    "no tensor": (save({}, metadata={"qexport": json.dumps(META)}), "tensors none"),
    "unknown tensor": (stored({"gamma": np.zeros(2, np.int32)}), "gamma"),
    "weight of another shape": (stored({"weight": TENSORS["weight"][:, :1]}), "weight has shape 2 x 1 x 3 x 3"),
    "weight of another kernel": (stored(layer__kernel=[3, 1]), "needs 2 x 2 x 3 x 1"),
    "input of other channels": (stored({"input": np.zeros((1, 3, 4, 4), np.int32)}), "input has shape 1 x 3 x 4 x 4"),
    "input of three axes": (stored({"input": TENSORS["input"][0]}), "input has shape 2 x 4 x 4"),
    "no image": (stored({"input": TENSORS["input"][:0]}), "input has shape 0 x 2 x 4 x 4"),
    "bias of another shape": (stored({"bias": np.zeros(3, np.int64)}), "bias has shape 3"),
    "reference of another shape": (stored({"reference": REFERENCE[:, :, 1:]}), "reference has shape 1 x 2 x 3 x 4"),
    "next_input of another shape": (stored({"next_input": REFERENCE[:, :1]}), "next_input has shape 1 x 1 x 4 x 4"),
    "reference not finite": (stored({"reference": REFERENCE + np.float32("nan")}), "reference holds NaN or infinity"),
    "weight above its format": (stored({"weight": TENSORS["weight"] + 1}), "weight code 8 is outside -8..7"),
    "weight below its format": (stored({"weight": TENSORS["weight"] - 1}), "weight code -9 is outside -8..7"),
    "input below its format": (stored({"input": TENSORS["input"] - 1}), "input code -1 is outside 0..15"),
    "input above its format": (stored(formats__input__signed=True), "input code 15 is outside -8..7"),
    "weight beyond int64": (
        stored({"weight": np.full((2, 2, 3, 3), 2**64 - 1, np.uint64)}), "weight code 18446744073709551615 is outside"
    ),
    "bias too large": (stored({"bias": np.array([0, 2**47])}), "bias 140737488355328 is not below 2^47"),
    "bias too small": (stored({"bias": np.array([0, -(2**63)])}), "is not below 2^47"),
    "no metadata": (save(TENSORS), "metadata entries none; needs 'qexport' alone"),
    "other metadata": (save(TENSORS, metadata={"format": "pt"}), "metadata entries format; needs 'qexport' alone"),
    "metadata no JSON": (with_text("{layer}"), "metadata 'qexport'"),
    "metadata empty": (with_text(""), "metadata 'qexport'"),
    "metadata a list": (with_text("[]"), "metadata 'qexport'"),
    "metadata too deep": (with_text("[" * 10**5), "metadata 'qexport'"),
    "metadata with a huge number": (with_text('{"layer":' + "9" * 5000 + "}"), "metadata 'qexport'"),
    "no formats": (with_text(json.dumps({"layer": META["layer"]})), "formats"),
    "unknown key": (stored(colour="red"), "colour"),
    "unknown key of the layer": (stored(layer__bias=True), "bias"),
    "unknown key of a format": (stored(formats__input__zero=0), "zero"),
    "zero point": (stored(formats__input__zero_point=16), "zero_point: 16 is outside 0..15"),
    "scale of each input channel": (stored(formats__input__scale=[0.5, 0.5]), "input: scale must be one number"),
    "scales of other channels": (stored(formats__weight__scale=[0.5]), "formats.weight has 1 scales; layer conv has 2"),
    "scale of one channel zero": (stored(formats__weight__scale=[0.5, 0.0]), "scale: 0.0"),
    "output of 17 bits": (
        stored(formats__output={"bits": 17, "signed": True, "scale": 0.5}), "more than 2^16 codes",
    ),
    "steps that are none": (stored(steps={}), "steps"),
    "unknown step": (stored(steps=[{"op": "softmax"}]), "step 0: op 'softmax' is not known"),
    "step with a graph": (stored(steps=[{"op": "relu", "from": "x"}]), "step 0: from is reserved"),
    "ties of no channel": (stored(ties=[[2, 0]]), "ties name channel 2 of 2"),
    "departs below 0": (stored(departs={"accumulators": -1, "codes": 0}), "departs"),
    "unknown key of the source": (stored(source__path="x"), "path"),
    "unknown kind": (stored(layer__kind="conv3d"), "conv3d"),
    "kind that is a list": (stored(layer__kind=[]), "layer kind: []"),
    "kernel of one size": (stored(layer__kernel=[3]), "kernel"),
    "stride zero": (stored(layer__stride=[0, 1]), "stride"),
    "stride beyond int64": (stored(layer__stride=[10**30, 1]), "stride"),
    "padding negative": (stored(layer__padding=[0, 0, 0, -1]), "padding"),
    "padding beyond all memory": (stored(layer__padding=[10**8] * 4), "padding"),
    "dilation zero": (stored(layer__dilation=[1, 0]), "dilation"),
    "second metadata entry": (
        save(TENSORS, metadata={"qexport": json.dumps(META), "a": "b"}), "metadata entries a, qexport; needs",
    ),
    "product of scales infinite": (stored(formats__input__scale=1e300), "weight scale x input scale is"),
    "product of scales zero": (
        stored(formats__input__scale=1e-300, formats__weight__scale=1e-300), "weight scale x input scale is 0",
    ),
    "linear with a kernel": (stored(layer__kind="linear"), "a linear layer has kernel 1x1"),
    "negative index": (stored(layer__index=-1), "index"),
    "name too long": (stored(layer__name="a" * 101), "name"),
    "name of half a character": (stored(layer__name="a\ud800"), r"layer 'a\ud800': its name has half a character"),
    "no name": (stored(layer__name=""), "name"),
    "bits 0": (stored(formats__weight__bits=0), "bits"),
    "bits 33": (stored(formats__weight__bits=33), "bits"),
    "bits no integer": (stored(formats__weight__bits="4"), "bits"),
    "scale NaN": (stored(formats__input__scale=float("nan")), "scale: nan"),
    "scale infinite": (stored(formats__input__scale=float("inf")), "scale: inf"),
    "scale zero": (stored(formats__weight__scale=0.0), "scale: 0.0"),
    "scale negative": (stored(formats__weight__scale=-0.5), "scale: -0.5"),
    "scale missing": (stored(formats__weight={"bits": 4, "signed": True}), "scale"),
    "kernel larger than the padded input": (
        stored({"input": np.zeros((1, 2, 4, 1), np.int32)}, layer__padding=[1, 1, 1, 0]),
        "kernel 3x3 with dilation 1x1 is larger than the padded input 6x2",
    ),
    "dilated kernel larger than the padded input": (
        stored(layer__dilation=[1, 3]), "kernel 3x3 with dilation 1x3 is larger than the padded input 6x6"
    ),
    "input channels no multiple of groups": (
        stored(layer__groups=2, layer__in_channels=3), "in_channels 3 is not a multiple of groups 2"
    ),
    "output channels no multiple of groups": (
        stored(layer__groups=2, layer__out_channels=3), "out_channels 3 is not a multiple of groups 2"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), list(BAD.values()), ids=list(BAD))
def test_unusable_capture_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    fails(cli("dump", "--capture", path, "--out", tmp_path / "o"), message)
    assert not (tmp_path / "o").exists()


def test_hand_written_capture_is_accepted(tmp_path: Path) -> None:
    capture = read_back(GOOD, tmp_path)
    assert (capture.layer.stride, capture.layer.groups, capture.bias) == ((1, 1), 1, None)


@pytest.mark.parametrize("name", ["none.safetensors", ""], ids=["missing", "folder"])
def test_missing_capture_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    fails(cli("dump", "--capture", tmp_path / name, "--out", tmp_path / "o"), str(tmp_path / name), "does not exist")
    assert not (tmp_path / "o").exists()
