"""Sets against `onnx.reference`: the node cases that the onnx package generates, and generated layers."""

import warnings
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.judges.golden import Capture, accumulated, scale_of
from tests.judges.layers import Judged, codes, conv, dumped, judge, matmul, total
from tests.judges.notation import code_range

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

pytestmark = pytest.mark.filterwarnings("ignore")

Json = dict[str, Any]
OPERATIONS = ("QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul", "AveragePool", "MaxPool")


# ---- what onnx says -------------------------------------------------------------------------------------------------


def reference(operation: str, inputs: list[Any], attributes: Json) -> Any:
    """The first output of one node by onnx.reference."""
    given = [(f"i{number}", np.asarray(array)) for number, array in enumerate(inputs) if array is not None]
    names = [f"i{number}" if array is not None else "" for number, array in enumerate(inputs)]
    node = helper.make_node(operation, names, ["y"], **attributes)
    values = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given]
    outputs = [helper.make_empty_tensor_value_info("y")]
    model = helper.make_model(helper.make_graph([node], "g", values, outputs))
    return ReferenceEvaluator(model).run(None, dict(given))[0]


@cache
def node_cases() -> dict[str, tuple[str, list[Any], Json, Any]]:
    """Name -> operation, inputs, attributes and output of each case of one node."""
    from onnx.backend.test.case.node import collect_testcases

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = collect_testcases(None)
    for case in every:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in OPERATIONS:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in nodes[0].attribute}
        names = [value.name for value in case.model.graph.input]
        inputs, outputs = case.data_sets[0]
        by_name = dict(zip(names, inputs, strict=True))
        found[case.name] = (nodes[0].op_type, [by_name.get(n) for n in nodes[0].input], attributes, outputs[0])
    return found


# ---- from a node to a capture ---------------------------------------------------------------------------------------


def form(array: Any, scale: Any = 1.0, zero: Any = None) -> Json:
    dtype = np.asarray(array).dtype
    zero_point = np.asarray(0 if zero is None else zero).astype(int)
    single = zero_point.size == 1
    return codes(8, dtype == np.int8, scale, int(zero_point.ravel()[0]) if single else zero_point.tolist())


def geometry(attributes: Json) -> Json:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    named = {"stride": "strides", "dilation": "dilations"}
    found = {key: list(attributes[name]) for key, name in named.items() if name in attributes}
    return found | {"padding": [top, bottom, left, right], "groups": attributes.get("group", 1)}


def conv_integer(inputs: list[Any], attributes: Json) -> Capture:
    x, w, x_zero, w_zero = [*inputs, None, None][:4]
    return conv(w, x, {"weight": form(w, 1.0, w_zero), "input": form(x, 1.0, x_zero)}, **geometry(attributes))


def scalar(value: Any) -> float:
    return float(np.asarray(value).ravel()[0])


def scales(value: Any) -> Any:
    array = np.asarray(value).astype(np.float64).ravel()
    return array.tolist() if array.size > 1 else float(array[0])


def qlinear_conv(inputs: list[Any], attributes: Json) -> Capture:
    x, xs, xz, w, ws, wz, ys, yz, bias = [*inputs, None][:9]
    formats = {
        "weight": form(w, scales(ws), wz),
        "input": form(x, scalar(xs), xz),
        "output": form(yz, scalar(ys), yz),
    }
    return conv(w, x, formats, bias=bias, **geometry(attributes))


def batched(array: Any) -> Any:
    return np.asarray(array) if np.ndim(array) == 3 else np.asarray(array)[None]


def matmul_integer(inputs: list[Any], attributes: Json) -> Capture:
    a, b, az, bz = [*inputs, None, None][:4]
    return matmul(batched(a), batched(b), {"input": form(a, 1.0, az), "input2": form(b, 1.0, bz)})


def qlinear_matmul(inputs: list[Any], attributes: Json) -> Capture:
    a, sa, az, b, sb, bz, sy, yz = inputs
    if np.asarray(sa).dtype == np.float16:  # the reference multiplies scales in float16: its product is the network's
        scale, formats_of = scalar(np.asarray(sa) * np.asarray(sb) / np.asarray(sy)), (1.0, 1.0)
    else:
        scale, formats_of = scalar(sa), (scalar(sb), scalar(sy))
    formats = {
        "input": form(a, scale, az),
        "input2": form(b, formats_of[0], bz),
        "output": form(yz, formats_of[1], yz),
    }
    return matmul(batched(a), batched(b), formats)


def same_padding(attributes: Json, plane: tuple[int, int]) -> list[int]:
    """Top, bottom, left, right of the pads that a pool has, also where it names them only, or rounds sizes up."""
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    sides = [[top, bottom], [left, right]]
    how = attributes.get("auto_pad", b"NOTSET")
    for axis in (0, 1):
        if how in (b"SAME_UPPER", b"SAME_LOWER"):
            count = -(-plane[axis] // strides[axis])
            need = max((count - 1) * strides[axis] + kernel[axis] - plane[axis], 0)
            less, more = need // 2, need - need // 2
            sides[axis] = [less, more] if how == b"SAME_UPPER" else [more, less]
        elif attributes.get("ceil_mode"):
            room = plane[axis] + sum(sides[axis]) - kernel[axis]
            count = -(-room // strides[axis]) + 1
            if (count - 1) * strides[axis] >= plane[axis] + sides[axis][0]:
                count -= 1  # the last window would start in the padding
            sides[axis][1] += max((count - 1) * strides[axis] - room, 0)
    return [*sides[0], *sides[1]]


def flat(attributes: Json) -> Json:
    """Attributes of a pool along one axis, as of a plane with one row."""
    if len(attributes["kernel_shape"]) == 2:
        return attributes
    one = {key: [1, *attributes[key]] for key in ("kernel_shape", "strides", "dilations") if key in attributes}
    return attributes | one


def expressible(operation: str, attributes: Json, plane: tuple[int, int]) -> bool:
    """Whether the contract has such a pool: planes, no dilation, padding smaller than the kernel and in the divisor."""
    if len(attributes["kernel_shape"]) > 2 or set(attributes.get("dilations", [1])) != {1}:
        return False
    padding = same_padding(flat(attributes), plane)
    kernel = flat(attributes)["kernel_shape"]
    if any(side >= kernel[index // 2] for index, side in enumerate(padding)):
        return False
    if operation == "MaxPool":
        return True
    rounds_up = attributes.get("ceil_mode", 0) and padding != same_padding(flat(attributes) | {"ceil_mode": 0}, plane)
    return not any(padding) or bool(attributes.get("count_include_pad") and not rounds_up)


def pool(operation: str, x: Any, attributes: Json, signed: bool) -> Capture:
    attributes = flat(attributes)
    step: Json = {"kernel": list(attributes["kernel_shape"]), "stride": list(attributes.get("strides", [1, 1]))}
    step |= {"padding": same_padding(attributes, x.shape[2:]), "name": "pooled"}
    steps = [step | {"op": "max_pool" if operation == "MaxPool" else "sum_pool"}]
    formats = {"input": codes(8, signed, 0.5), "accumulator": {"scale": 0.5}}
    if operation == "MaxPool":
        formats["output"] = codes(8, signed, 0.5)
    return total([x], [1], formats, steps, name="pool")


# ---- judging --------------------------------------------------------------------------------------------------------


def near(capture: Capture) -> list[list[int]]:
    """Accumulators whose real value lies within the error of a float32 multiplier of an edge between two codes."""
    sums, _ = accumulated(capture)
    formats, axis = capture.formats, 2 if capture.layer["kind"] == "matmul" else 1
    other = "weight" if "weight" in formats else "input2"
    low, high = code_range(formats["output"])
    found = []
    for channel in range(sums.shape[axis]):
        gain = scale_of(formats["input"], channel) * scale_of(formats[other], channel)
        gain /= Fraction(formats["output"]["scale"])
        for value in np.unique(sums.take(channel, axis)).tolist():
            real = value * gain
            to_edge = (real - Fraction(1, 2)) - round(real - Fraction(1, 2))
            inside = low - 1 <= real + formats["output"].get("zero_point", 0) <= high + 1
            if inside and abs(to_edge) <= abs(real) * Fraction(1, 2**22):
                found.append([channel, value])
    return found


def compare_codes(found: Judged, want: Any, ties: list[list[int]]) -> int:
    """Codes are equal, but by one at ties; gives how many ties there were among them."""
    axis = 2 if found.capture.layer["kind"] == "matmul" else 1
    sums = np.moveaxis(found.tensors["accumulator"], axis, 0)
    ours, theirs = np.moveaxis(found.output, axis, 0), np.moveaxis(np.asarray(want).astype(int), axis, 0)
    listed = {tuple(pair) for pair in ties}
    wrong = np.argwhere(ours != theirs)
    for at in map(tuple, wrong):
        assert abs(int(ours[at]) - int(theirs[at])) == 1, at
        assert (int(at[0]), int(sums[at])) in listed, (at, int(sums[at]), int(ours[at]), int(theirs[at]))
    return len(wrong)


def quantized(operation: str, inputs: list[Any], attributes: Json, want: Any, root: Path) -> None:
    capture = (qlinear_conv if operation == "QLinearConv" else qlinear_matmul)(inputs, attributes)
    want = want if operation == "QLinearConv" else batched(want)
    ties = near(capture)
    tensors = [*capture.tensors, "accumulator", "output"]
    compare_codes(judge(dumped(capture, root / "plain", tensors), capture), want, ties)
    with_codes = capture.having(
        tensors=capture.tensors | {"reference_codes": want.astype(np.int32)}, more={"ties": ties}
    )
    found = judge(dumped(with_codes, root / "codes", tensors), capture)
    assert {tuple(pair) for pair in ties} <= {tuple(pair) for pair in found.manifest.get("ties", [])}


def integer(operation: str, inputs: list[Any], attributes: Json, want: Any, root: Path) -> None:
    capture = (conv_integer if operation == "ConvInteger" else matmul_integer)(inputs, attributes)
    want = want if operation == "ConvInteger" else batched(want)
    found = judge(dumped(capture, root, [*capture.tensors, "accumulator"]), capture)
    assert np.array_equal(found.tensors["accumulator"], want)


def pools(operation: str, x: Any, attributes: Json, root: Path) -> None:
    """`x`: codes. The sum of an average is compared in units of its divisor."""
    want = reference(operation, [x.astype(np.float64)], attributes)
    if x.ndim == 3:
        x, want = x[:, :, None], want[:, :, None]
    capture = pool(operation, x, attributes, bool(x.min() < 0))
    found = judge(dumped(capture, root, ["input", "accumulator", "pooled", "output"]), capture)
    size = 1 if operation == "MaxPool" else int(np.prod(attributes["kernel_shape"]))
    np.testing.assert_array_equal(found.output, np.round(want * size))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_node_cases_of_onnx(operation: str, tmp_path: Path) -> None:
    tried = 0
    for name, (op, inputs, attributes, want) in node_cases().items():
        if op != operation:
            continue
        root = tmp_path / name
        if op in ("AveragePool", "MaxPool"):
            plane = np.shape(inputs[0])[2:]
            if not expressible(op, attributes, plane if len(plane) == 2 else (1, *plane)):
                continue
            rng = np.random.default_rng(len(name))
            seen = inputs[0] if inputs[0].dtype == np.uint8 else rng.integers(-128, 128, inputs[0].shape)
            pools(op, seen, attributes, root)
        elif op in ("QLinearConv", "QLinearMatMul"):
            quantized(op, inputs, attributes, want, root)
        else:
            integer(op, inputs, attributes, want, root)
        tried += 1
    least = {"QLinearConv": 1, "ConvInteger": 2, "MatMulInteger": 1, "QLinearMatMul": 8, "AveragePool": 6}
    assert tried >= least.get(operation, 10), tried


# ---- generated layers -----------------------------------------------------------------------------------------------


def drawn(rng: np.random.Generator, dtype: Any, shape: Any) -> Any:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def some_conv(rng: np.random.Generator) -> tuple[Any, Any, Json]:
    groups, kernel = int(rng.integers(1, 3)), [int(k) for k in rng.integers(1, 4, 2)]
    attributes: Json = {
        "pads": [int(rng.integers(0, k)) for k in kernel * 2],
        "strides": [int(s) for s in rng.integers(1, 3, 2)],
        "dilations": [int(s) for s in rng.integers(1, 3, 2)],
        "group": groups,
        "kernel_shape": kernel,
    }
    ic, oc = int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    plane = [int(2 * (k - 1) + 1 + rng.integers(0, 4)) for k in kernel]
    x = drawn(rng, rng.choice([np.uint8, np.int8]), (int(rng.integers(1, 3)), groups * ic, *plane))
    w = drawn(rng, rng.choice([np.uint8, np.int8]), (oc, ic, *kernel))
    return x, w, attributes


def zero_of(rng: np.random.Generator, array: Any, channels: bool = False) -> Any:
    return drawn(rng, array.dtype, (len(array),) if channels else ())


def some_scale(rng: np.random.Generator, shape: Any = ()) -> Any:
    if rng.random() < 0.25:  # powers of two, where ties are exact
        return (2.0 ** rng.integers(-6, 0, shape)).astype(np.float32)
    return rng.uniform(0.001, 0.1, shape).astype(np.float32)


def generated(operation: str, seed: int, root: Path) -> None:
    rng = np.random.default_rng([seed, OPERATIONS.index(operation)])
    if operation in ("ConvInteger", "QLinearConv"):
        x, w, attributes = some_conv(rng)
        zeros = zero_of(rng, x), zero_of(rng, w, bool(rng.integers(2)))
        if operation == "ConvInteger":
            inputs = [x, w, *zeros]
            return integer(operation, inputs, attributes, reference(operation, inputs, attributes), root)
        ws = some_scale(rng, (len(w),) if rng.integers(2) else ())
        ys = np.float32(some_scale(rng) * np.mean(ws) * 300 + 1e-3)
        out = zero_of(rng, drawn(rng, rng.choice([np.uint8, np.int8]), (1,)))
        bias = rng.integers(-5000, 5000, len(w)).astype(np.int32) if rng.integers(2) else None
        inputs = [x, some_scale(rng), zeros[0], w, ws, zeros[1], ys, out, bias]
        return quantized(operation, inputs, attributes, reference(operation, inputs, attributes), root)
    if operation in ("MatMulInteger", "QLinearMatMul"):
        n, m, k, p = (int(v) for v in rng.integers(1, 5, 4))
        a, b = (drawn(rng, rng.choice([np.uint8, np.int8]), shape) for shape in ((n, m, 3 * k), (n, 3 * k, p)))
        zeros = zero_of(rng, a), zero_of(rng, b)
        if operation == "MatMulInteger":
            inputs = [a, b, *zeros]
            return integer(operation, inputs, {}, reference(operation, inputs, {}), root)
        scale_a, scale_b = some_scale(rng), some_scale(rng)
        ys = np.float32(some_scale(rng) * scale_b * 200 + 1e-3)
        inputs = [a, scale_a, zeros[0], b, scale_b, zeros[1], ys, zero_of(rng, drawn(rng, a.dtype, (1,)))]
        return quantized(operation, inputs, {}, reference(operation, inputs, {}), root)
    kernel = [int(v) for v in rng.integers(1, 5, 2)]
    attributes = {"kernel_shape": kernel, "strides": [int(v) for v in rng.integers(1, 4, 2)]}
    pads = [int(rng.integers(0, max(1, (k + 1) // 2))) for k in kernel * 2]
    if operation == "MaxPool":
        pads[2:] = pads[:2]  # onnx 1.23's reference exchanges sides that differ: 5x2, kernel 3x2, bottom 1 give 3x2
    attributes |= {"pads": pads}
    attributes |= {"count_include_pad": 1} if operation == "AveragePool" else {}
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 4)), *(int(k + rng.integers(0, 5)) for k in kernel))
    return pools(operation, rng.integers(-128, 128, shape), attributes, root)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_few_generated_layers(operation: str, seed: int, tmp_path: Path) -> None:
    generated(operation, seed, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_fifty_generated_layers_of_each(operation: str, part: int, tmp_path: Path) -> None:
    for seed in range(100 + 5 * part, 105 + 5 * part):
        generated(operation, seed, tmp_path / str(seed))


def test_what_the_onnx_package_generates_is_what_its_reference_gives() -> None:
    """The judge's way to call the reference, on the node cases themselves."""
    for name, (operation, inputs, attributes, want) in node_cases().items():
        if operation in ("QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul"):
            assert np.array_equal(reference(operation, inputs, attributes), want), name
