"""Captures with `formats.output` and no steps: what the found steps give at every accumulator within the bounds,
against the scales' exact rounding in fractions."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import cli, fails
from tests.judges.arithmetic import ROUNDINGS
from tests.judges.golden import Capture, accumulated, rounded_codes, through
from tests.judges.layers import Judged, codes, conv, dumped, judge, matmul, opened, plain_layout, refused, total

TENSORS = ["input", "weight", "accumulator", "output"]
NEAR = Fraction(1, 2**20)  # of a float's error, in codes and relative to the real value


def layer(seed: int, out: dict[str, Any], weight: Any = 0.031, zero_point: Any = 0, **more: Any) -> Capture:
    """A layer with small bounds: 4-bit codes, two inputs of 2x1 taps, five channels."""
    rng = np.random.default_rng(seed)
    scale = more.pop("input_scale", 0.4)
    formats = {"weight": codes(4, True, weight), "input": codes(4, False, scale, zero_point), "output": out}
    w, x = rng.integers(-8, 8, (5, 2, 2, 1)), rng.integers(0, 16, (3, 2, 6, 5))
    return conv(w, x, formats, bias=rng.integers(-60, 60, 5), **more)


def distance(real: Fraction) -> Fraction:
    """From the nearest edge between two codes."""
    return abs(real - Fraction(1, 2) - round(real - Fraction(1, 2)))


def every_accumulator(found: Judged, capture: Capture) -> int:
    """Each accumulator in the bounds of its channel gives the exact code, or is a listed tie; listed ties are ties."""
    _, bounds = accumulated(capture)
    listed = {(int(c), int(v)) for c, v in found.manifest.get("ties", [])}
    off = 0
    for channel, (low, high) in enumerate(bounds.T.tolist()):
        for value in range(low, high + 1):
            want, _ = rounded_codes(capture, channel, value)
            code = through(found.steps, channel, value)
            if code != want:
                assert (channel, value) in listed, (channel, value, code, want)
                assert abs(code - want) == 1
                off += 1
    for channel, value in listed:
        assert bounds[0, channel] <= value <= bounds[1, channel]
        _, real = rounded_codes(capture, channel, value)
        assert distance(real) <= NEAR * (1 + abs(real)), (channel, value, float(real))
    return off


CASES: dict[str, dict[str, Any]] = {
    "unsigned, one scale": {"out": codes(4, False, 0.13), "relu": True},
    "unsigned 8 bits": {"out": codes(8, False, 0.011), "relu": True},
    "per channel": {"out": codes(4, False, 0.13), "weight": [0.031, 0.007, 0.11, 0.0003, 0.9], "relu": True},
    "signed": {"out": codes(4, True, 0.17)},
    "signed per channel": {"out": codes(8, True, 0.017), "weight": [0.031, 0.007, 0.11, 0.0003, 0.9]},
    "signed with a ReLU": {"out": codes(5, True, 0.17), "relu": True},
    "zero points": {"out": codes(8, False, 0.03, 117), "zero_point": 7},
    "zero point of a signed output": {"out": codes(8, True, 0.02, -128), "relu": True, "zero_point": 3},
    "powers of two": {"out": codes(4, False, 0.5), "weight": 0.25, "input_scale": 0.125, "relu": True},
    "powers of two, signed": {"out": codes(6, True, 0.5), "weight": 0.25, "input_scale": 0.125},
    "powers of two per channel": {
        "out": codes(8, True, 0.25, 5),
        "weight": [1.0, 0.5, 0.25, 0.125, 0.0625],
        "input_scale": 0.125,
    },
    "odd zero point, ties": {"out": codes(8, False, 0.5, 101), "weight": 0.25, "input_scale": 0.125},
    "thirds": {"out": codes(8, True, 0.75), "weight": 0.25, "input_scale": 0.5},
    "larger than one": {"out": codes(8, True, 0.02), "weight": 0.25, "input_scale": 0.5},
    "one bit": {"out": codes(1, False, 1.7), "relu": True},
    "nothing but 0": {"out": codes(4, False, 1e6), "relu": True},
    "all clipped": {"out": codes(4, False, 1e-6), "relu": True},
    "float32 scales": {
        "out": codes(8, False, float(np.float32(0.0471)), 3),
        "weight": [float(np.float32(v)) for v in (0.011, 0.023, 0.3, 0.0017, 0.05)],
        "input_scale": float(np.float32(0.0235)),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_codes_are_the_exact_rounding(name: str, tmp_path: Path) -> None:
    case = dict(CASES[name])
    capture = layer(len(name), case.pop("out"), case.pop("weight", 0.031), case.pop("zero_point", 0), **case)
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    assert every_accumulator(found, capture) == 0 or found.manifest.get("ties")


@pytest.mark.parametrize("seed", range(12))
def test_codes_of_random_scales(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    bits, signed = int(rng.integers(1, 9)), bool(rng.integers(2))
    bits += signed and bits == 1
    low = -(1 << bits - 1) if signed else 0
    zero = int(rng.integers(low, low + (1 << bits))) if rng.integers(2) else 0
    powers = bool(rng.integers(2))
    scales = 2.0 ** rng.integers(-8, 2, 5) if powers else 2.0 ** rng.uniform(-8, 2, 5)
    output_scale = 2.0 ** int(rng.integers(-3, 1)) if powers else float(2 ** rng.uniform(-3, 1))
    weight = scales.tolist() if rng.integers(2) else float(scales[0])
    out = codes(bits, signed, output_scale, zero)
    relu, input_zero = bool(rng.integers(2)), int(rng.integers(0, 16))
    capture = layer(seed, out, weight, input_zero, relu=relu, input_scale=0.25 if powers else 0.31)
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    every_accumulator(found, capture)


@pytest.mark.whole
@pytest.mark.parametrize("part", range(10))
def test_scales_of_any_size(part: int, tmp_path: Path) -> None:
    """Gains from 2^-40 to 2^20, outputs of up to 16 bits; refused only where a table of over 8 bits would be needed."""
    refusals = 0
    for seed in range(20 * part, 20 * part + 20):
        rng, root = np.random.default_rng([7, seed]), tmp_path / str(seed)
        bits, signed = int(rng.integers(2, 17)), bool(rng.integers(2))
        low = -(1 << bits - 1) if signed else 0
        zero = int(rng.integers(low, low + (1 << bits))) if rng.integers(2) else 0
        weight = (2.0 ** rng.uniform(-40, 20, 5)).tolist() if rng.integers(2) else float(2 ** rng.uniform(-6, 2))
        if rng.integers(3) == 0:
            weight = (2.0 ** rng.integers(-6, 3, 5)).tolist()
        if rng.integers(3) == 0:  # thirds and fifths, whose edges accumulators meet up to a float's error
            weight = (rng.integers(1, 9, 5) / rng.choice([3.0, 5.0, 7.0])).tolist()
        out = codes(bits, signed, float(pick(rng)), zero)
        relu, input_zero = bool(rng.integers(2)), int(rng.integers(0, 16))
        capture = layer(seed, out, weight, input_zero, relu=relu, input_scale=float(pick(rng)))
        if rng.integers(2):
            capture.tensors["weight"][int(rng.integers(5))] = 0  # a channel of one accumulator
        root.mkdir()
        (root / "plain.toml").write_text(plain_layout(capture, TENSORS))
        path = capture.write(root / "made.safetensors")
        done = cli("dump", "--capture", path, "--layout", root / "plain.toml", "--out", root / "out")
        if done.exit_code == 2 and bits > 8:
            fails(done, "--round")
            refusals += 1
            continue
        assert done.exit_code == 0, done.output
        every_accumulator(judge(opened(root / "out" / "conv"), capture), capture)
    assert refusals < 10


def pick(rng: np.random.Generator) -> float:
    return float(rng.choice([1.0, 0.5, 0.1, 1 / 3, 0.75, 2 ** rng.uniform(-4, 4)]))


def test_the_set_says_what_it_found(tmp_path: Path) -> None:
    """Irrational scales: multiply, add, shift, clamp, in that order; the shift rounds down."""
    capture = layer(1, codes(8, False, 0.011), [0.031, 0.007, 0.11, 0.0003, 0.9], relu=True)
    found = dumped(capture, tmp_path, TENSORS)
    assert [step["op"] for step in found.steps] == ["multiply", "add", "shift_right", "clamp"]
    assert found.steps[2]["round"] == "floor"
    assert found.manifest["formats"]["output"] in [codes(8, False, 0.011), codes(8, False, 0.011) | {"zero_point": 0}]


def test_the_zero_point_is_added_before_the_rounding(tmp_path: Path) -> None:
    """ "/ output scale + zero point, half to even": the code is even at a tie, whatever the zero point is."""
    capture = layer(7, codes(8, False, 0.5, 101), 0.25, input_scale=0.125)
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    assert every_accumulator(found, capture) == 0


def test_ties_half_to_even_take_a_table(tmp_path: Path) -> None:
    capture = layer(2, codes(4, False, 0.5), 0.25, input_scale=0.125, relu=True)
    found = dumped(capture, tmp_path, TENSORS)
    assert "threshold" in [step["op"] for step in found.steps]
    assert every_accumulator(found, capture) == 0


def test_a_wide_output_with_ties_is_refused(tmp_path: Path) -> None:
    """A table has at most 8 output bits."""
    capture = layer(3, codes(12, True, 1.0), 0.5, input_scale=1.0)
    refused(capture, tmp_path, "--round", tensors=TENSORS)


def test_a_matmul_and_a_sum(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    formats = {"input": codes(4, True, 0.3, 1), "input2": codes(4, False, 0.7, 8), "output": codes(6, True, 2.3, 4)}
    capture = matmul(rng.integers(-8, 8, (2, 3, 5)), rng.integers(0, 16, (2, 5, 4)), formats)
    tensors = ["input", "input2", "accumulator", "output"]
    every_accumulator(judge(dumped(capture, tmp_path / "matmul", tensors), capture), capture)
    formats = {"input": codes(4, True, 0.3, 1), "output": codes(4, True, 0.7, -3), "accumulator": {"scale": 0.1}}
    capture = total([rng.integers(-8, 8, (2, 3, 5, 4))], [3], formats)
    every_accumulator(judge(dumped(capture, tmp_path / "sum", ["input", "accumulator", "output"]), capture), capture)


# ---- what the hardware can do instead -------------------------------------------------------------------------------


def departing(found: Judged, capture: Capture) -> tuple[int, int]:
    """How many accumulators within the bounds, and how many codes of the pictures, are not the network's."""
    sums, bounds = accumulated(capture)
    wrong: dict[tuple[int, int], bool] = {}
    for channel, (low, high) in enumerate(bounds.T.tolist()):
        for value in range(low, high + 1):
            want, _ = rounded_codes(capture, channel, value)
            wrong[channel, value] = through(found.steps, channel, value) != want
    axis = 2 if capture.layer["kind"] == "matmul" else 1
    planes = np.moveaxis(sums, axis, 0)
    codes_off = sum(wrong[c, v] for c, plane in enumerate(planes) for v in plane.ravel().tolist())
    return sum(wrong.values()), codes_off


def said_departs(found: Judged) -> tuple[int, int]:
    said = found.manifest["departs"]
    return said["accumulators"], said["codes"]


SCALES = [0.031, 0.007, 0.11, 0.0003, 0.9]
DEPARTING: dict[str, dict[str, Any]] = {
    "irrational": {"out": codes(8, False, 0.11), "weight": SCALES, "relu": True},
    "signed": {"out": codes(8, True, 0.17, -9), "weight": SCALES},
    "powers of two": {  # an even zero point: whether it is added before or behind the rounding does not matter
        "out": codes(8, True, 0.25, 4),
        "weight": [1.0, 0.5, 0.25, 0.125, 0.0625],
        "input_scale": 0.125,
    },
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "half_up": ("--round", "half_up"),
    "half_even": ("--round", "half_even"),
    "floor": ("--round", "floor"),
    "half_away": ("--round", "half_away"),
    "few bits": ("--mul-bits", "4"),
    "short shift": ("--shift-max", "6"),
    "both": ("--mul-bits", "6", "--shift-max", "9", "--round", "half_up"),
    "one for all": ("--per-tensor",),
    "shifts only": ("--power-of-two",),
    "one shift for all": ("--power-of-two", "--per-tensor", "--round", "half_away"),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("case", DEPARTING)
def test_what_the_hardware_can_do_instead(name: str, case: str, tmp_path: Path) -> None:
    facts = dict(DEPARTING[case])
    capture = layer(7, facts.pop("out"), facts.pop("weight"), 3, **facts)
    found = judge(dumped(capture, tmp_path, TENSORS, *OPTIONS[name]), capture)
    assert said_departs(found) == departing(found, capture)
    steps = {step["op"]: step for step in found.steps}
    gains = np.abs(np.ravel(steps.get("multiply", {"by": 1})["by"]))
    shifts = np.ravel(steps["shift_right"]["by"])
    options = OPTIONS[name]
    if "--round" in options:
        assert steps["shift_right"]["round"] == options[options.index("--round") + 1]
    if "--mul-bits" in options:
        assert gains.max() < 2 ** int(options[options.index("--mul-bits") + 1])
    if "--shift-max" in options:
        assert shifts.max() <= int(options[options.index("--shift-max") + 1])
    if "--per-tensor" in options:
        assert len(set(gains.tolist())) == 1
        assert len(set(shifts.tolist())) == 1
    if "--power-of-two" in options:
        assert all(gain & (gain - 1) == 0 for gain in gains.tolist())


@pytest.mark.parametrize("rounding", ["half_up", "half_even", "floor", "half_away"])
def test_the_hardwares_rounding_of_powers_of_two_is_that_rounding(rounding: str, tmp_path: Path) -> None:
    """No zero point, so that the rounding is of the product alone; departs counts the ties only (or all, of floor)."""
    capture = layer(8, codes(6, True, 0.5), 0.25, input_scale=0.125)
    found = judge(dumped(capture, tmp_path, TENSORS, "--round", rounding), capture)
    _, bounds = accumulated(capture)
    for channel, (low, high) in enumerate(bounds.T.tolist()):
        for value in range(low, high + 1):
            want = min(max(ROUNDINGS[rounding](Fraction(value, 16)), -32), 31)
            assert through(found.steps, channel, value) == want, (channel, value)
    assert said_departs(found) == departing(found, capture)
    if rounding == "half_even":
        assert said_departs(found) == (0, 0)


def test_options_need_scales_and_no_steps(tmp_path: Path) -> None:
    """A capture that says its steps is the hardware's arithmetic already."""
    steps: list[dict[str, Any]] = [{"op": "clamp", "low": 0, "high": 15}]
    capture = layer(9, codes(4, False, 0.13)).having(steps=steps)
    path = capture.write(tmp_path / "made.safetensors")
    fails(cli("dump", "--capture", path, "--out", tmp_path / "out", "--round", "floor"), "--round")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.whole
def test_512_channels_of_bytes(tmp_path: Path) -> None:
    """An int8 layer of 512 channels: seconds; edges checked at random."""
    rng = np.random.default_rng(10)
    scales = (2.0 ** rng.uniform(-9, -5, 512)).astype(np.float32).astype(float).tolist()
    formats = {
        "weight": codes(8, True, scales),
        "input": codes(8, True, float(np.float32(0.023)), -128),
        "output": codes(8, True, float(np.float32(0.047)), -128),
    }
    w, x = rng.integers(-127, 128, (512, 32, 3, 3)), rng.integers(-128, 128, (1, 32, 5, 5))
    capture = conv(w, x, formats, bias=rng.integers(-9999, 9999, 512), relu=True)
    found = judge(dumped(capture, tmp_path, TENSORS), capture)
    _, bounds = accumulated(capture)
    listed = {(int(c), int(v)) for c, v in found.manifest.get("ties", [])}
    for channel, (low, high) in enumerate(bounds.T.tolist()):
        gain = rounded_codes(capture, channel, 10**9)  # for its type only
        assert gain[0] == 127
        scale = Fraction(scales[channel]) * Fraction(formats["input"]["scale"]) / Fraction(formats["output"]["scale"])
        for code in rng.integers(-128, 127, 20).tolist():
            edge = int((code + 128 + Fraction(1, 2)) / scale)
            for value in (edge - 1, edge, edge + 1, edge + 2):
                if low <= value <= high and (channel, value) not in listed:
                    want, _ = rounded_codes(capture, channel, value)
                    assert through(found.steps, channel, value) == want
