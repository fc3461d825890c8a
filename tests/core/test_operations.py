"""Every kind of operation against Python's integers and torch's float64, with zero points, levels and minifloats."""

import itertools
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qexport as qx
from qexport.core.capture import CaptureFile, LayerCapture
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats, minifloat_levels
from qexport.core.geometry import Conv2d, Linear, MatMul, Sum
from qexport.core.golden import Golden
from qexport.core.intformat import MAX_BITS
from qexport.core.operations.registry import operation
from qexport.errors import QexportError
from tests.conftest import cases, make_capture

LEVELS = {
    "bipolar": (1, (-1, 1)),
    "dorefa": (2, (-3, -1, 1, 3)),
    "ternary": (2, (0, 1, -1)),
    "odd": (3, (0, 70, -9, 4)),
}
BITS = {"e2m1": 4, "e3m2": 6, "e2m3": 6, "e4m3fn": 8}


@st.composite
def formats(draw: st.DrawFn, padded: bool = False) -> CodeFormat:
    """Any way in which codes stand for integers; `padded`: code 0, or the zero point, stands for real zero."""
    scale = draw(st.sampled_from([0.5, 0.25]))
    match draw(st.sampled_from(["plain", "zero point", "levels", "minifloat"])):
        case "levels":
            names = [name for name, (_, levels) in LEVELS.items() if not padded or levels[0] == 0]
            bits, levels = LEVELS[draw(st.sampled_from(names))]
            return CodeFormat(bits=bits, signed=False, scale=scale, levels=levels)
        case "minifloat":
            code = draw(st.sampled_from(sorted(BITS)))
            return CodeFormat(bits=BITS[code], signed=False, scale=scale, code=code)
        case kind:
            fmt = CodeFormat(bits=draw(st.integers(1, 8)), signed=draw(st.booleans()), scale=scale)
            zero = draw(st.integers(fmt.integer.low, fmt.integer.high)) if kind == "zero point" else 0
            return msgspec.structs.replace(fmt, zero_point=zero)


def integers(fmt: CodeFormat, codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What codes stand for, in Python's integers."""
    table = fmt.levels if fmt.code is None else minifloat_levels(fmt.code)
    if table is None:
        return codes.astype(object) - fmt.zero_points[0]
    return np.array([table[code] for code in codes.ravel().tolist()], object).reshape(codes.shape)


def drawn(rng: np.random.Generator, fmt: CodeFormat, *shape: int) -> np.ndarray[Any, Any]:
    return rng.choice(fmt.valid, shape)


@st.composite
def products(draw: st.DrawFn) -> LayerCapture:
    """Small matrix products, with and without an addend, of several images."""
    n, m, k, p = (draw(st.integers(1, high)) for high in (2, 3, 9, 3))
    left, right = draw(formats()), draw(formats())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return LayerCapture(
        layer=MatMul(name="product"),
        formats=Formats(input=left, input2=right),
        input=drawn(rng, left, n, m, k),
        input2=drawn(rng, right, n, k, p),
        addend=rng.integers(-(2**40), 2**40, (n, m, p)) if draw(st.booleans()) else None,
    )


@st.composite
def sums(draw: st.DrawFn) -> LayerCapture:
    """Small sums of one operand or two, with factors of both signs."""
    mul = draw(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=2))
    shape = tuple(draw(st.integers(1, 3)) for _ in range(4))
    operands = [draw(formats()) for _ in mul]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    codes = [drawn(rng, fmt, *shape) for fmt in operands]
    both = len(mul) == 2
    return LayerCapture(
        layer=Sum(name="sum", mul=tuple(mul)),
        formats=Formats(
            input=operands[0], input2=operands[1] if both else None, accumulator=AccumulatorScale(scale=0.125)
        ),
        input=codes[0],
        input2=codes[1] if both else None,
    )


@settings(max_examples=cases(200))
@given(capture=products())
def test_a_matrix_product_is_exact_and_within_its_bounds(capture: LayerCapture) -> None:
    left, right = integers(capture.formats.input, capture.input), integers(capture.formats.input2, capture.input2)
    addend = 0 if capture.addend is None else capture.addend.astype(object)
    expected = np.stack([a @ b for a, b in zip(left, right, strict=True)]) + addend
    golden = Golden(capture)
    np.testing.assert_array_equal(golden.accumulator, expected.astype(np.int64))
    doubles = torch.from_numpy(left.astype(np.float64)) @ torch.from_numpy(right.astype(np.float64))
    np.testing.assert_array_equal(doubles.numpy() + np.asarray(addend, np.float64), expected.astype(np.float64))
    least, greatest = golden.facts.channel_bounds
    assert ((least <= expected) & (expected <= greatest)).all()


@settings(max_examples=cases(100))
@given(capture=products())
def test_the_bounds_of_a_matrix_product_are_reached(capture: LayerCapture) -> None:
    bare = replace(capture, addend=None)
    ends = [[int(integers(fmt, np.array(code))) for code in fmt.valid] for fmt in bare.formats.operands.values()]
    worth = [a * b for a, b in itertools.product(*ends)]
    terms = capture.input.shape[2]
    assert operation(bare, None).bounds == (terms * min(worth), terms * max(worth))


@settings(max_examples=cases(200))
@given(capture=sums())
def test_a_sum_is_exact_and_its_bounds_are_reached(capture: LayerCapture) -> None:
    names = ("input", "input2")[: len(capture.layer.mul)]
    terms = [mul * integers(capture.formats.operands[name], getattr(capture, name))
             for name, mul in zip(names, capture.layer.mul, strict=True)]  # fmt: skip
    golden = Golden(capture)
    np.testing.assert_array_equal(golden.accumulator, sum(terms).astype(np.int64))
    ends = [
        [
            mul * int(integers(capture.formats.operands[name], np.array(code)))
            for code in capture.formats.operands[name].valid
        ]
        for name, mul in zip(names, capture.layer.mul, strict=True)
    ]
    assert golden.facts.bounds == (sum(map(min, ends)), sum(map(max, ends)))


@st.composite
def convolutions(draw: st.DrawFn) -> LayerCapture:
    """Convolutions whose codes stand for anything; what is padded has a code for real zero."""
    plain = make_capture(
        seed=draw(st.integers(0, 99)), plane=(4, 3), images=draw(st.integers(1, 2)), bias=draw(st.booleans()),
        in_channels=draw(st.sampled_from([2, 4])), out_channels=4, groups=draw(st.integers(1, 2)),
        kernel=(draw(st.integers(1, 2)), 2), stride=(1, draw(st.integers(1, 2))), padding=(1, 0, 1, 1),
    )  # fmt: skip
    weight, seen = draw(formats()), draw(formats(padded=True))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return replace(
        plain,
        formats=Formats(weight=weight, input=seen),
        weight=drawn(rng, weight, *plain.weight.shape),
        input=drawn(rng, seen, *plain.input.shape),
    )


@settings(max_examples=cases(150))
@given(capture=convolutions(), row=st.integers(1, 4))
def test_a_convolution_sums_what_the_codes_stand_for(capture: LayerCapture, row: int) -> None:
    layer = capture.layer
    weight, seen = integers(capture.formats.weight, capture.weight), integers(capture.formats.input, capture.input)
    top, bottom, left, right = layer.padding
    padded = np.pad(seen, ((0, 0), (0, 0), (top, bottom), (left, right)))
    doubles = torch.nn.functional.conv2d(
        torch.from_numpy(padded.astype(np.float64)), torch.from_numpy(weight.astype(np.float64)),
        stride=layer.stride, groups=layer.groups,
    ).numpy()  # fmt: skip
    bias = 0 if capture.bias is None else capture.bias[:, None, None]
    golden = Golden(capture, row)
    np.testing.assert_array_equal(golden.accumulator, doubles.astype(np.int64) + bias)
    least, greatest = golden.facts.channel_bounds
    least, greatest = least[:, None, None], greatest[:, None, None]
    assert ((least <= golden.accumulator) & (golden.accumulator <= greatest)).all()
    # psums sum what the raw codes stand for, before zero points are taken off: here tile by tile, tap by tap
    raw = [
        integers(msgspec.structs.replace(fmt, zero_point=0), codes)
        for fmt, codes in (
            (capture.formats.weight, capture.weight),
            (capture.formats.input, golden.values("input_padded")),
        )
    ]
    psum, low_high = golden.values("psum"), golden.facts.psum_bounds
    per_group = layer.out_channels // layer.groups
    for oc, it in itertools.product(range(layer.out_channels), range(psum.shape[1])):
        tile = slice(it * row, (it + 1) * row)
        first = oc // per_group * layer.group_inputs
        channels = raw[1][:, first : first + layer.group_inputs][:, tile]
        for kh, kw in itertools.product(*map(range, layer.kernel)):
            expected = (raw[0][oc, tile, kh, kw][None, :, None, None] * channels).sum(axis=1)
            np.testing.assert_array_equal(psum[:, it, kh, kw, oc], expected.astype(np.int64))
    assert low_high[0] <= psum.min() <= psum.max() <= low_high[1]


# --- minifloats: the definitions of OCP MX and OFP8, value by value --------------------------------------------------


def ocp(code: int, exponent_bits: int, mantissa_bits: int, bias: int, nan: bool) -> float:
    """(-1)^s x 2^(e - bias) x 1.m, or 2^(1 - bias) x 0.m where e is 0."""
    mantissa = code & ((1 << mantissa_bits) - 1)
    exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    if nan and mantissa == (1 << mantissa_bits) - 1 and exponent == (1 << exponent_bits) - 1:
        return math.nan
    fraction = mantissa / (1 << mantissa_bits)
    return sign * (2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction))


@pytest.mark.parametrize(
    ("name", "fields", "largest", "least"),
    [
        ("e2m1", (2, 1, 1, False), 6.0, 0.5),
        ("e3m2", (3, 2, 3, False), 28.0, 0.0625),
        ("e2m3", (2, 3, 1, False), 7.5, 0.125),
        ("e4m3fn", (4, 3, 7, True), 448.0, 2.0**-9),
    ],
)
def test_minifloats_are_those_of_the_standard_on_a_grid(
    name: Any, fields: tuple[int, int, int, bool], largest: float, least: float
) -> None:
    values = [ocp(code, *fields) for code in range(1 << (1 + fields[0] + fields[1]))]
    finite = [value for value in values if not math.isnan(value)]
    assert (max(finite), min(value for value in finite if value > 0)) == (largest, least)
    levels = minifloat_levels(name)
    assert [math.nan if level is None else level * least for level in levels] == pytest.approx(
        values, nan_ok=True, abs=0
    )
    if name == "e4m3fn":
        bytes_ = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float64)
        assert bytes_.tolist() == pytest.approx(values, nan_ok=True, abs=0)
    fmt = CodeFormat(bits=len(levels).bit_length() - 1, signed=False, scale=1.0, code=name)
    assert fmt.valid.tolist() == [code for code, value in enumerate(values) if not math.isnan(value)]


def test_e2m1_by_e2m1_with_64_terms() -> None:
    fmt = CodeFormat(bits=4, signed=False, scale=0.5, code="e2m1")
    rng = np.random.default_rng(3)
    left, right = rng.integers(0, 16, (2, 5, 64)), rng.integers(0, 16, (2, 64, 3))
    capture = LayerCapture(MatMul(name="mx"), Formats(input=fmt, input2=fmt), input=left, input2=right)
    halves = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    golden = Golden(capture)
    np.testing.assert_array_equal(golden.accumulator * 0.25, halves[left] @ halves[right])
    assert golden.facts.bounds == (-64 * 144, 64 * 144)
    assert golden.facts.formats.accumulator_scales == (0.25,)


# --- what is refused, each in one line -------------------------------------------------------------------------------

CODE = {"bits": 4, "signed": False, "scale": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signed": True, "levels": (-1, 1)}, "levels: such codes are unsigned and have no zero point"),
        ({"zero_point": 3, "code": "e2m1"}, "code: such codes are unsigned and have no zero point"),
        ({"levels": (-1, 1), "code": "e2m1"}, "levels: code e2m1 gives them already"),
        ({"bits": 8, "code": "e2m1"}, "code: e2m1 has 4 bits, not 8"),
        ({"levels": tuple(range(17))}, "levels: 17 are given for 4 bits"),
    ],
)
def test_contradicting_formats_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(QexportError, match=message):
        CodeFormat(**(CODE | change))


def product(left: CodeFormat, codes: list[int]) -> LayerCapture:
    plain = CodeFormat(bits=4, signed=True, scale=1.0)
    seen = np.array(codes).reshape(1, 1, -1)
    ones = np.ones((1, len(codes), 1), np.int64)
    return LayerCapture(MatMul(name="one"), Formats(input=left, input2=plain), input=seen, input2=ones)


def test_codes_that_stand_for_no_integer_are_refused() -> None:
    e4m3 = CodeFormat(bits=8, signed=False, scale=1.0, code="e4m3fn")
    assert Golden(product(e4m3, [126, 254])).accumulator.item() == 0
    for nan in (127, 255):
        with pytest.raises(
            QexportError, match=f"input code {nan} stands for no integer; .* is e4m3fn, where it is NaN"
        ):
            product(e4m3, [0, nan])
    with pytest.raises(QexportError, match=r"input code 3 stands for no integer; .* has 3 levels"):
        product(CodeFormat(bits=2, signed=False, scale=1.0, levels=(-1, 0, 1)), [0, 3])


def test_padding_needs_a_code_for_zero() -> None:
    bipolar = CodeFormat(bits=1, signed=False, scale=1.0, levels=(-1, 1))
    capture = make_capture(input_bits=1)
    with pytest.raises(QexportError, match="a padded position holds code 0, which stands for -1"):
        replace(capture, formats=msgspec.structs.replace(capture.formats, input=bipolar))
    replace(
        capture, formats=msgspec.structs.replace(capture.formats, input=msgspec.structs.replace(bipolar, levels=(0, 1)))
    )


def stored(folder: Any, layer: dict[str, Any], formats: dict[str, Any], **tensors: Any) -> CaptureFile:
    from safetensors.numpy import save_file

    path, metadata = folder / "capture.safetensors", {"layer": {"name": "x"} | layer, "formats": formats}
    save_file(
        {n: np.ascontiguousarray(t) for n, t in tensors.items()},
        path,
        {"qexport": msgspec.json.encode(metadata).decode()},
    )
    return CaptureFile(path)


AXES = {"axes": ["k"], "values": [1.0, 2.0]}
FOUR, BOTH = np.ones((1, 2, 2), np.int32), {"input": CODE, "input2": CODE}


@pytest.mark.parametrize(
    ("layer", "formats", "tensors", "message"),
    [
        ({"kind": "conv_transpose2d"}, {}, {}, "layer kind: conv_transpose2d is reserved"),
        ({"kind": "matmul", "blocks": {"axis": "k", "size": 32}}, {}, {}, "layer: blocks is reserved"),
        ({"kind": "matmul", "groups": 2}, BOTH, {}, "unknown field `groups`"),
        ({"kind": "matmul"}, BOTH | {"input": CODE | {"scale": AXES}}, {}, "scale with axes is reserved"),
        ({"kind": "matmul"}, {"input": CODE}, {}, "formats has input; layer x .matmul. needs input and input2"),
        ({"kind": "matmul"}, {"weight": CODE} | BOTH, {}, "formats has weight, input, input2"),
        ({"kind": "matmul"}, BOTH, {"weight": FOUR}, "needs input and input2, may have addend"),
        ({"kind": "matmul"}, BOTH, {"input2": FOUR[:, :1]}, "input2 has shape 1 x 1 x 2; .* 1 x 2 x 2"),
        ({"kind": "matmul"}, BOTH | {"accumulator": {"scale": 1.0}}, {}, "takes the product of its"),
        ({"kind": "sum", "mul": [1, 2]}, BOTH, {}, "needs formats.accumulator.scale"),
        ({"kind": "sum"}, {"input": CODE}, {}, "missing required field `mul`"),
        ({"kind": "sum", "mul": [1, 2, 3]}, {"input": CODE}, {}, "length <= 2"),
        ({"kind": "sum", "mul": [1]}, {"input": CODE, "accumulator": {"scale": 0.0}}, {}, "must be finite and above 0"),
    ],
)  # fmt: skip
def test_unusable_captures_of_data_are_refused(
    layer: dict[str, Any], formats: dict[str, Any], tensors: dict[str, Any], message: str, tmp_path: Any
) -> None:
    given = (
        {"input": FOUR, "input2": FOUR} if layer["kind"] == "matmul" else {"input": FOUR[None], "input2": FOUR[None]}
    )
    with pytest.raises(QexportError, match=message) as caught:
        stored(tmp_path, layer, formats, **(given | tensors))
    assert "\n" not in str(caught.value)


def test_a_linear_layer_takes_2d_arrays_from_a_file_too(tmp_path: Any) -> None:
    rng = np.random.default_rng(1)
    weight, seen = rng.integers(-8, 8, (10, 19)), rng.integers(0, 16, (3, 19))
    layer = Linear(name="head", in_channels=19, out_channels=10)
    made = Formats(weight=CodeFormat(bits=4, signed=True, scale=0.5), input=CodeFormat(bits=4, signed=False, scale=0.5))
    capture = LayerCapture(layer, made, weight, seen, reference=(seen @ weight.T * 0.25).astype(np.float32))
    assert capture.weight.shape == (10, 19, 1, 1)
    np.testing.assert_array_equal(Golden(capture).accumulator[..., 0, 0], seen @ weight.T)
    read = stored(
        tmp_path, {"kind": "linear", "in_channels": 19, "out_channels": 10},
        {"weight": {"bits": 4, "signed": True, "scale": 0.5}, "input": CODE}, weight=weight, input=seen,
    )  # fmt: skip
    assert read.shapes == {"weight": (10, 19, 1, 1), "input": (3, 19, 1, 1)}
    np.testing.assert_array_equal(read.part(1, 3).input, seen[1:, :, None, None])


def test_no_default_is_too_wide_for_its_format() -> None:
    formats = Formats(
        input=CodeFormat(bits=31, signed=False, scale=1.0), input2=CodeFormat(bits=30, signed=False, scale=1.0)
    )
    most, many = np.full((1, 1, 1), 2**31 - 1), np.full((1, 1, 1), 2**30 - 1)
    capture = LayerCapture(MatMul(name="wide"), formats, input=most, input2=many)
    accumulator = operation(capture, None).tensor("accumulator")
    assert accumulator.range == (0, (2**31 - 1) * (2**30 - 1))
    assert accumulator.format.bits == MAX_BITS
    with pytest.raises(QexportError, match="31-bit inputs and 30-bit input2s can give sums beyond 63 bits"):
        LayerCapture(MatMul(name="wide"), formats, input=most.repeat(2, 2), input2=many.repeat(2, 1))


@settings(max_examples=cases(30))
@given(capture=st.one_of(products(), sums(), convolutions()))
def test_files_give_back_every_kind(capture: LayerCapture, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("capture") / "capture.safetensors"
    path.write_bytes(capture.to_bytes())
    read = CaptureFile(path)
    assert (read.layer, read.formats, read.shapes) == (capture.layer, capture.formats, capture.shapes)
    assert read.part(0, read.images).to_bytes() == path.read_bytes()
    assert operation(read, None).bounds == operation(capture, None).bounds


def test_a_conv_layer_may_not_have_what_others_have() -> None:
    capture = make_capture()
    with pytest.raises(
        QexportError, match="holds tensors addend, input, weight; needs weight and input, may have bias"
    ):
        replace(capture, addend=np.ones((1, 1, 1), np.int64))
    assert isinstance(capture.layer, Conv2d)


# --- the API: arrays of every kind -----------------------------------------------------------------------------------


def test_arrays_make_captures_of_every_kind() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.integers(0, 16, (2, 3, 5)), rng.integers(0, 16, (2, 5, 4))
    one = qx.capture(input=left, input2=right, addend=np.ones((2, 3, 4), int), inputs="e2m1", inputs2=range(16))
    assert (one.layer.kind, one.formats.input.code, one.formats.operands["input2"].bits) == ("matmul", "e2m1", 4)
    np.testing.assert_array_equal(Golden(one).accumulator, integers(one.formats.input, left) @ right + 1)
    total = qx.capture(input=left[..., None], input2=left[..., None], mul=(3, -1), sum_scale=0.5, name="t", relu=True)
    assert (total.layer, total.formats.accumulator_scales) == (Sum(name="t", mul=(3, -1), relu=True), (0.5,))
    bipolar = qx.capture(weight=rng.integers(0, 2, (4, 6)), input=rng.integers(0, 9, (3, 6)), weights=[-1, 1])
    assert (bipolar.layer.kind, bipolar.formats.weight.levels, bipolar.formats.weight.bits) == ("linear", (-1, 1), 1)
    with pytest.raises(QexportError, match="needs input and input2, may have"):
        qx.capture(input=left[..., None], mul=(1, 2))
    with pytest.raises(QexportError, match="inputs: 'e5m2' is not a format; give one"):
        qx.capture(input=left, input2=right, inputs="e5m2")
