"""Bad captures of operations and steps: exit code 2, one line that names the thing, no traceback, nothing left."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.conftest import cli, fails
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, dumped, judge, matmul, refused, total

Json = dict[str, Any]


def good(steps: list[Json] | None = None, **formats: Any) -> Capture:
    """8-bit codes, three channels, two taps: accumulators of up to 18 bits."""
    rng = np.random.default_rng(1)
    said = {"weight": codes(8, True, 0.5), "input": codes(8, False, 0.25)} | formats
    w, x = rng.integers(-128, 128, (3, 2, 1, 1)), rng.integers(0, 256, (1, 2, 4, 4))
    return conv(w, x, said, steps, bias=[1, -2, 3])


CLAMP: Json = {"op": "clamp", "low": 0, "high": 15}


def test_the_capture_that_the_others_spoil_is_good(tmp_path: Path) -> None:
    judge(dumped(good([CLAMP]), tmp_path))


STEPS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    # reserved
    "from": ([{"op": "multiply", "by": 2, "from": "accumulator"}], ("from",)),
    "with": ([{"op": "add", "with": "input"}], ("with",)),
    "parameters with axes": ([{"op": "multiply", "by": {"axes": ["oc"], "values": [1, 2, 3]}}], ("by",)),
    "a parameter from a tensor": ([{"op": "multiply", "by": "scales"}], ("by",)),
    # no steps of the contract
    "an unknown operation": ([{"op": "softmax"}], ("softmax",)),
    "no operation": ([{"by": 2}], ("op",)),
    "an operation that is a number": ([{"op": 3}], ("op",)),
    "not a list": ({"op": "relu"}, ("steps",)),  # type: ignore[dict-item]
    "a step that is text": (["relu"], ("steps",)),
    "an unknown field": ([{"op": "relu", "slope": 2}], ("slope",)),
    "a field of another step": ([{"op": "relu", "by": 2}], ("by",)),
    "a field is missing": ([{"op": "multiply"}], ("by",)),
    "the rounding is missing": ([{"op": "shift_right", "by": 2}], ("round",)),
    "an unknown rounding": ([{"op": "shift_right", "by": 2, "round": "half_down"}], ("half_down",)),
    "text for a number": ([{"op": "multiply", "by": "3"}], ("by",)),
    "a broken number": ([{"op": "multiply", "by": 1.5}], ("by",)),
    "a truth value": ([{"op": "multiply", "by": True}], ("by",)),
    "nothing for a number": ([{"op": "multiply", "by": None}], ("by",)),
    "too few channels": ([{"op": "multiply", "by": [1, 2]}], ("by",)),
    "too many channels": ([{"op": "add", "value": [1, 2, 3, 4]}], ("value",)),
    "lists of lists": ([{"op": "multiply", "by": [[1, 2, 3]]}], ("by",)),
    "a list where one number stands": ([{"op": "clamp", "low": [0, 0, 0], "high": 15}], ("low",)),
    "low above high": ([{"op": "clamp", "low": 4, "high": 3}], ("low",)),
    "a negative shift": ([{"op": "shift_right", "by": -1, "round": "floor"}], ("by",)),
    "a negative shift to the left": ([{"op": "shift_left", "by": [1, -1, 2]}], ("by",)),
    "no bits": ([{"op": "wrap", "bits": 0, "signed": True}], ("bits",)),
    "two biases": ([{"op": "bias"}, {"op": "bias"}], ("bias",)),
    "a table that falls": ([{"op": "threshold", "table": [[1, 5, 4]] * 3, "first": 0}], ("table",)),
    "a table of two channels": ([{"op": "threshold", "table": [[1, 2]] * 2, "first": 0}], ("table",)),
    "a ragged table": ([{"op": "threshold", "table": [[1, 2], [1], [1, 2]], "first": 0}], ("table",)),
    "a table without first": ([{"op": "threshold", "table": [[1, 2]] * 3}], ("first",)),
    "a lookup that begins too late": ([CLAMP, {"op": "lookup", "low": 1, "table": list(range(15))}], ("lookup",)),
    "a lookup that ends too early": ([CLAMP, {"op": "lookup", "low": 0, "table": list(range(15))}], ("15",)),
    "an empty lookup": ([CLAMP, {"op": "lookup", "low": 0, "table": []}], ("table",)),
    "a pool without a kernel": ([{"op": "max_pool"}], ("kernel",)),
    "a kernel with one side": ([{"op": "max_pool", "kernel": [2]}], ("kernel",)),
    "a kernel of 0": ([{"op": "max_pool", "kernel": [0, 2]}], ("kernel",)),
    "a stride of 0": ([{"op": "max_pool", "kernel": [2, 2], "stride": [0, 1]}], ("stride",)),
    "a kernel larger than the plane": ([{"op": "sum_pool", "kernel": [5, 1]}], ("kernel",)),
    "padding as large as the kernel": ([{"op": "sum_pool", "kernel": [2, 2], "padding": [0, 2, 0, 0]}], ("padding",)),
    "padding with two sides": ([{"op": "sum_pool", "kernel": [2, 2], "padding": [1, 1]}], ("padding",)),
    "negative padding": ([{"op": "max_pool", "kernel": [2, 2], "padding": [-1, 0, 0, 0]}], ("padding",)),
    "a plane that a pool before made too small": (
        [{"op": "max_pool", "kernel": [3, 3]}, {"op": "max_pool", "kernel": [2, 2]}],
        ("kernel",),
    ),
    # names
    "a name of a tensor": ([{"op": "relu", "name": "weight"}], ("weight",)),
    "the name of the accumulator": ([{"op": "relu", "name": "accumulator"}], ("accumulator",)),
    "the name relu": ([{"op": "relu", "name": "relu"}], ("relu",)),
    "the name output": ([{"op": "relu", "name": "output"}, CLAMP], ("output",)),
    "the name of a tensor that only other layouts store": ([{"op": "relu", "name": "patches"}], ("patches",)),
    "a name twice": ([{"op": "relu", "name": "a"}, CLAMP | {"name": "a"}], ("a",)),
    "the name of a later step": ([{"op": "relu", "name": "step1"}, CLAMP], ("step1",)),
    "the name of a parameter": ([{"op": "multiply", "by": 2, "name": "a"}, CLAMP | {"name": "a_by"}], ("a_by",)),
    "a name with a blank": ([{"op": "relu", "name": "a b"}], ("a b",)),
    "a name that begins with a digit": ([{"op": "relu", "name": "2x"}], ("2x",)),
    "an empty name": ([{"op": "relu", "name": ""}], ("name",)),
    "a name that is a number": ([{"op": "relu", "name": 3}], ("name",)),
    "a name with a letter of another script": ([{"op": "relu", "name": "größe"}], ("name",)),
    # ranges
    "a product beyond 63 bits": ([{"op": "multiply", "by": 2**60}], ("step0",)),
    "products beyond 63 bits together": ([{"op": "multiply", "by": 2**40}] * 2, ("step1",)),
    "one channel beyond 63 bits": ([{"op": "multiply", "by": [1, 1, 2**60]}], ("step0",)),
    "a shift beyond 63 bits": ([{"op": "shift_left", "by": 60}], ("step0",)),
    "a sum beyond 63 bits": ([{"op": "add", "value": 2**63 - 1}], ("value",)),
    "a bias beyond 63 bits": ([{"op": "bias", "shift": 62}], ("step0",)),
    "a number beyond 64 bits": ([{"op": "add", "value": 2**70}], ("value",)),
    "a shift by very much": ([{"op": "shift_left", "by": 10**9}], ("by",)),
    "a wrap of very many bits": ([{"op": "wrap", "bits": 10**9, "signed": False}], ("bits",)),
}


@pytest.mark.parametrize("name", STEPS)
def test_bad_steps(name: str, tmp_path: Path) -> None:
    steps, needles = STEPS[name]
    refused_raw(good(), {"steps": steps}, {}, tmp_path, *needles)


def refused_raw(base: Capture, changes: Json, tensors: dict[str, Any], root: Path, *needles: str) -> None:
    """As `refused`, with metadata changed as they stand, which the writer of captures would not write."""
    path = base.write(root / "made.safetensors")
    with safetensors.safe_open(path, "np") as file:
        said = json.loads(file.metadata()["qexport"])
    for key, value in changes.items():
        place = said
        *parents, last = key.split("/")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    arrays = {name: np.ascontiguousarray(a) for name, a in (base.tensors | tensors).items() if a is not None}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    safetensors.numpy.save_file(arrays, path, metadata={"qexport": text})
    result = cli("dump", "--capture", path, "--layout", "decimals", "--out", root / "out")
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2, (result.exit_code, result.output[-300:])
    assert len(lines) == 1, result.stderr
    for needle in needles:
        assert needle in lines[0], lines[0]
    assert len(lines[0]) < 700, lines[0]
    assert not (root / "out").exists() or not list((root / "out").iterdir())


LAYERS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "blocks": ({"layer/blocks": {"axis": "ic", "size": 32}}, ("blocks",)),
    "a transposed convolution": ({"layer/kind": "conv_transpose2d"}, ("conv_transpose2d",)),
    "an unknown kind": ({"layer/kind": "lstm"}, ("lstm",)),
    "an unknown key of the layer": ({"layer/colour": 3}, ("colour",)),
    "an unknown key": ({"colour": 3}, ("colour",)),
    "an unknown key of a format": ({"formats/input/colour": 3}, ("colour",)),
    "a format of a tensor that is none": ({"formats/colour": codes(8, True)}, ("colour",)),
    "a second operand's format": ({"formats/input2": codes(8, True)}, ("input2",)),
    "state": ({"layer/state": True}, ("state",)),
    "mul of a convolution": ({"layer/mul": [1]}, ("mul",)),
    "levels and signed": ({"formats/weight": codes(1, True) | {"levels": [-1, 1]}}, ("levels",)),
    "levels and a zero point": ({"formats/weight": codes(1, False, 1.0, 1) | {"levels": [-1, 1]}}, ("levels",)),
    "too many levels": ({"formats/weight": codes(1, False) | {"levels": [-1, 0, 1]}}, ("levels",)),
    "levels that are no integers": ({"formats/weight": codes(1, False) | {"levels": [-0.5, 0.5]}}, ("levels",)),
    "no levels": ({"formats/weight": codes(1, False) | {"levels": []}}, ("levels",)),
    "an unknown minifloat": ({"formats/weight": codes(8, False) | {"code": "e5m2x"}}, ("e5m2x",)),
    "a minifloat of other bits": ({"formats/weight": codes(8, False) | {"code": "e2m1"}}, ("e2m1",)),
    "levels and a minifloat": (
        {"formats/weight": codes(4, False) | {"code": "e2m1", "levels": list(range(16))}},
        ("levels",),
    ),
    "an output too narrow for the last step": (
        {"formats/output": codes(4, False), "steps": [{"op": "clamp", "low": 0, "high": 16}]},
        ("output",),
    ),
    "an output that is not signed": (
        {"formats/output": codes(4, False), "steps": [{"op": "clamp", "low": -1, "high": 3}]},
        ("output",),
    ),
    "no steps, and an output too narrow for the accumulator": (
        {"formats/output": codes(8, True), "steps": []},
        ("output",),
    ),
    "ties that are no pairs": ({"ties": [1, 2], "formats/output": codes(8, True)}, ("ties",)),
    "ties of a channel that is none": ({"ties": [[7, 2]], "formats/output": codes(8, True)}, ("ties",)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bad_layers(name: str, tmp_path: Path) -> None:
    changes, needles = LAYERS[name]
    refused_raw(good(), changes, {}, tmp_path, *needles)


TENSORS: dict[str, tuple[Json, dict[str, Any], tuple[str, ...]]] = {
    "a field twice": (
        {"steps": [{"op": "multiply", "by": 2}]},
        {"steps.0.by": np.array([1, 2, 3])},
        ("steps.0.by",),
    ),
    "a step that is none": ({"steps": [{"op": "relu"}]}, {"steps.1.by": np.array([1, 2, 3])}, ("steps.1.by",)),
    "steps without a list": ({}, {"steps.0.by": np.array([1, 2, 3])}, ("steps.0.by",)),
    "a field that is none": ({"steps": [{"op": "relu"}]}, {"steps.0.slope": np.array([1])}, ("slope",)),
    "an index that is none": ({"steps": [{"op": "relu"}]}, {"steps.x.by": np.array([1])}, ("steps.x.by",)),
    "broken numbers": ({"steps": [{"op": "multiply"}]}, {"steps.0.by": np.array([1.5, 2.0, 3.0])}, ("steps.0.by",)),
    "another shape": ({"steps": [{"op": "multiply"}]}, {"steps.0.by": np.ones((3, 2), np.int64)}, ("by",)),
    "a tensor that is none": ({}, {"colour": np.array([1])}, ("colour",)),
    "a second operand": ({}, {"input2": np.zeros((1, 2, 4, 4), np.int32)}, ("input2",)),
    "an addend": ({}, {"addend": np.zeros((1, 2, 4), np.int64)}, ("addend",)),
    "next_input beside steps": (
        {"steps": [CLAMP], "layer/relu": True},
        {"next_input": np.zeros((1, 3, 4, 4), np.float32)},
        ("next_input",),
    ),
    "weights beyond the levels": ({"formats/weight": codes(2, False) | {"levels": [-1, 0, 1]}}, {
        "weight": np.full((3, 2, 1, 1), 3, np.int32)}, ("weight",)),
    "a code that is not a number": ({"formats/weight": codes(8, False) | {"code": "e4m3fn"}}, {
        "weight": np.full((3, 2, 1, 1), 0x7F, np.int32)}, ("weight",)),
    "the other code that is not a number": ({"formats/input": codes(8, False) | {"code": "e4m3fn"}}, {
        "input": np.full((1, 2, 4, 4), 0xFF, np.int32)}, ("input",)),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_bad_tensors(name: str, tmp_path: Path) -> None:
    changes, tensors, needles = TENSORS[name]
    refused_raw(good(), changes, tensors, tmp_path, *needles)


def test_keys_that_begin_with_x_are_kept_apart(tmp_path: Path) -> None:
    """They are anybody's."""
    base = good([CLAMP])
    layer, formats = base.layer | {"x-note": "mine"}, copy.deepcopy(base.formats)
    formats["input"]["x-note"] = {"any": 1}
    steps: list[Json] = [CLAMP | {"x-note": [1]}]
    judge(dumped(base.having(layer=layer, formats=formats, steps=steps, more={"x-more": None}), tmp_path))


# ---- the other operations -------------------------------------------------------------------------------------------


def matrices(steps: list[Json] | None = None) -> Capture:
    formats = {"input": codes(4, True, 0.5), "input2": codes(4, True, 0.5)}
    return matmul(np.ones((2, 3, 4)), np.ones((2, 4, 5)), formats, steps)


def added(steps: list[Json] | None = None) -> Capture:
    formats = {"input": codes(4, True, 0.5), "input2": codes(4, True, 0.5), "accumulator": {"scale": 0.5}}
    return total([np.ones((1, 2, 3, 3)), np.ones((1, 2, 3, 3))], [1, 1], formats, steps)


OTHERS: dict[str, tuple[Capture, Json, dict[str, Any], tuple[str, ...]]] = {
    "a pool behind a matmul": (matrices(), {"steps": [{"op": "max_pool", "kernel": [1, 1]}]}, {}, ("max_pool",)),
    "a bias behind a matmul": (matrices(), {"steps": [{"op": "bias"}]}, {}, ("bias",)),
    "matrices that do not meet": (matrices(), {}, {"input2": np.ones((2, 3, 5), np.int32)}, ("input2",)),
    "other images": (matrices(), {}, {"input2": np.ones((1, 4, 5), np.int32)}, ("input2",)),
    "an addend of another shape": (matrices(), {}, {"addend": np.ones((2, 3, 4), np.int64)}, ("addend",)),
    "a kernel of a matmul": (matrices(), {"layer/kernel": [1, 1]}, {}, ("kernel",)),
    "weights of a matmul": (matrices(), {}, {"weight": np.ones((2, 2, 1, 1), np.int32)}, ("weight",)),
    "rows for columns": (matrices(), {"steps": [{"op": "multiply", "by": [1, 2, 3]}]}, {}, ("by",)),
    "no second operand": (matrices(), {}, {"input2": None}, ("input2",)),
    "a sum without mul": (added(), {"layer/mul": None}, {}, ("mul",)),
    "one mul for two": (added(), {"layer/mul": [1]}, {}, ("mul",)),
    "broken mul": (added(), {"layer/mul": [1, 0.5]}, {}, ("mul",)),
    "summands of other shapes": (added(), {}, {"input2": np.ones((1, 2, 3, 1), np.int32)}, ("input2",)),
    "a sum without its scale": (added(), {"formats/accumulator": {}}, {}, ("scale",)),
    "a sum with a kernel": (added(), {"layer/kernel": [1, 1]}, {}, ("kernel",)),
    "a sum with a bias": (added(), {}, {"bias": np.ones(2, np.int64)}, ("bias",)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name: str, tmp_path: Path) -> None:
    base, changes, tensors, needles = OTHERS[name]
    refused_raw(base, changes, tensors, tmp_path, *needles)


def test_a_tensor_that_this_operation_lacks(tmp_path: Path) -> None:
    """A memory of other axes than the operation's counts as lacking: optional, it is left out."""
    base = matrices()
    order = 'order = "n oc oy ox -> | n oc oy ox |"\nfile = "planes.txt"\nradix = "dec"\n'
    memory = '[[memory]]\nname = "planes"\ntensor = "accumulator"\n' + order
    mine = (
        '[[memory]]\nname = "a"\ntensor = "accumulator"\norder = "n m p -> | n m p |"\nfile = "a.txt"\nradix = "dec"\n'
    )
    path = base.write(tmp_path / "made.safetensors")
    layout = tmp_path / "l.toml"
    layout.write_text('name = "l"\n' + memory + mine)
    done = cli("dump", "--capture", path, "--layout", layout, "--out", tmp_path / "out")
    fails(done, "planes")
    layout.write_text('name = "l"\n' + memory + "optional = true\n" + mine)
    done = cli("dump", "--capture", path, "--layout", layout, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "matmul" / "planes.txt").exists()


def test_folded_biases_need_weights_without_zero_points(tmp_path: Path) -> None:
    base = good(weight=codes(8, True, 0.5, 3))
    refused(base, tmp_path, "bias_folded", tensors=("input", "bias_folded", "accumulator"))
