"""Random operations with random chains of steps: every tensor, width and bound of the set by the judge's arithmetic."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.sim.registry import SIMULATORS
from tests.conftest import cli
from tests.judges.arithmetic import ROUNDINGS, TFLITE
from tests.judges.decoder import check
from tests.judges.golden import Capture, accumulated, bias_of, channels, minifloat, pooled, ranges
from tests.judges.layers import codes, conv, dumped, judge, linear, matmul, names_of, total
from tests.judges.notation import Ints, code_range

Json = dict[str, Any]
WIDE = 2**58  # the chains stay below; what goes beyond is refused, which test_bad_operations.py holds


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def some_format(rng: np.random.Generator, zero_points: int = 1) -> Json:
    """A format of codes, and sometimes what they stand for; `zero_points`: how many the weights may have."""
    kind = pick(rng, "plain", "plain", "plain", "levels", "minifloat")
    if kind == "minifloat":
        name, bits = pick(rng, ("e2m1", 4), ("e3m2", 6), ("e2m3", 6), ("e4m3fn", 8))
        return codes(bits, False, 0.5) | {"code": name}
    bits = int(rng.integers(1, 9))
    if kind == "levels":
        count = int(rng.integers(2, (1 << bits) + 1))
        return codes(bits, False, 0.5) | {"levels": rng.integers(-300, 300, count).tolist()}
    signed = bool(rng.integers(2)) and bits > 1
    low, high = code_range(codes(bits, signed))
    zeros = rng.integers(low, high + 1, zero_points).tolist() if rng.integers(2) else 0
    return codes(bits, signed, 0.5, zeros[0] if zeros and zero_points == 1 else zeros)


def drawn(rng: np.random.Generator, form: Json, shape: Any) -> Any:
    if "code" in form:
        return rng.choice([code for code, value in enumerate(minifloat(form["code"])) if value is not None], shape)
    low, high = (0, len(form["levels"]) - 1) if "levels" in form else code_range(form)
    return rng.integers(low, high + 1, shape)


def some_operation(rng: np.random.Generator) -> Capture:
    n, kind = int(rng.integers(1, 3)), pick(rng, "conv2d", "conv2d", "linear", "matmul", "sum")
    if kind == "matmul":
        m, k, p = (int(v) for v in rng.integers(1, 7, 3))
        formats = {name: some_format(rng) for name in ("input", "input2")}
        addend = rng.integers(-9999, 9999, (n, m, p)) if rng.integers(2) else None
        operands = drawn(rng, formats["input"], (n, m, k)), drawn(rng, formats["input2"], (n, k, p))
        return matmul(*operands, formats, None, addend, name="random")
    if kind == "sum":
        shape, two = (n, *(int(v) for v in rng.integers(1, 7, 3))), bool(rng.integers(2))
        formats = {name: some_format(rng) for name in ("input", "input2")[: 1 + two]}
        arrays = [drawn(rng, form, shape) for form in formats.values()]
        mul = [int(v) for v in rng.integers(-20, 20, len(arrays))]
        return total(arrays, mul, formats | {"accumulator": {"scale": 0.5}}, name="random")
    oc, ic, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    if kind == "linear":
        groups = 1
    oc, kernel = oc * groups, [int(v) for v in rng.integers(1, 4, 2)]
    formats = {"weight": some_format(rng, pick(rng, 1, oc)), "input": some_format(rng)}
    bias = rng.integers(-5000, 5000, oc) if rng.integers(2) else None
    if kind == "linear":
        arrays = [drawn(rng, formats["weight"], (oc, ic)), drawn(rng, formats["input"], (n, ic))]
        return linear(*arrays, formats, None, bias, name="random")
    stride, dilation = ([int(v) for v in rng.integers(1, 3, 2)] for _ in range(2))
    # what padding holds is a zero point, which codes of levels do not have
    plain = "levels" not in formats["input"] and "code" not in formats["input"]
    padding = [int(rng.integers(0, 3)) if plain else 0 for _ in range(4)]
    plane = [dilation[i] * (kernel[i] - 1) + 1 + int(rng.integers(0, 5)) for i in (0, 1)]
    weight = drawn(rng, formats["weight"], (oc, ic, *kernel))
    x = drawn(rng, formats["input"], (n, groups * ic, *plane))
    facts = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    return conv(weight, x, formats, None, bias, name="random", **facts)


def each(rng: np.random.Generator, count: int, low: int, high: int) -> Any:
    """A number, or one for each channel."""
    numbers = rng.integers(low, high + 1, count).tolist()
    return numbers if rng.integers(2) else numbers[0]


def some_step(rng: np.random.Generator, limits: Ints, plane: Any, ops: list[str]) -> Json | None:
    """A step that the proven range before it allows; None where the draw does not fit."""
    count, low, high = limits.shape[1], int(limits[0].min()), int(limits[1].max())
    size = max(-low, high, 1)
    op = ops[int(rng.integers(len(ops)))]
    match op:
        case "bias":
            shift = int(rng.integers(0, 9))
            return {"op": op} | ({"shift": shift} if shift else {}) if size < WIDE >> 24 else None
        case "multiply":
            return {"op": op, "by": each(rng, count, -1000, 1000)} if size < WIDE >> 10 else None
        case "add":
            most = 2 * size
            return {"op": op, "value": each(rng, count, -most, most)} if size < WIDE >> 2 else None
        case "shift_left":
            return {"op": op, "by": each(rng, count, 0, 5)} if size < WIDE >> 5 else None
        case "shift_right":
            return {"op": op, "by": each(rng, count, 0, size.bit_length() + 2), "round": pick(rng, *ROUNDINGS)}
        case "tflite":
            room = 31 - size.bit_length()
            if room < 0:
                return None
            multiplier = each(rng, count, 2**30, 2**31 - 1) if rng.integers(4) else each(rng, count, 0, 9)
            shift = each(rng, count, -31, min(room, 30)) if rng.integers(2) else -int(rng.integers(0, 12))
            return {"op": op, "multiplier": multiplier, "shift": shift, "rounding": pick(rng, *TFLITE)}
        case "leaky_relu":
            return {"op": op, "shift": int(rng.integers(0, 6)), "round": pick(rng, *ROUNDINGS)}
        case "clamp":
            ends = sorted(rng.integers(low - size // 4 - 1, high + size // 4 + 2, 2).tolist())
            return {"op": op, "low": ends[0], "high": ends[1]}
        case "wrap":
            bits = int(rng.integers(1, size.bit_length() + 3))
            return {"op": op, "bits": bits, "signed": bool(rng.integers(2))}
        case "threshold":
            levels = int(rng.integers(1, 16))
            rows = [np.unique(rng.integers(a - 2, b + 3, 3 * levels)) for a, b in limits.T.tolist()]
            kept = min(levels, *(len(row) for row in rows))
            table = [np.sort(rng.choice(row, kept, replace=False)).tolist() for row in rows]
            return {"op": op, "table": table, "first": int(rng.integers(-9, 9))}
        case "lookup":
            if high - low > 300:
                return None
            begin = low - int(rng.integers(0, 4))
            table = rng.integers(-1000, 1000, high - begin + 1 + int(rng.integers(0, 4))).tolist()
            return {"op": op, "low": begin, "table": table}
        case "max_pool" | "sum_pool":
            kernel = [int(rng.integers(1, min(side, 3) + 1)) for side in plane]
            step: Json = {"op": op, "kernel": kernel}
            if rng.integers(2):
                step["stride"] = [int(v) for v in rng.integers(1, 4, 2)]
            if rng.integers(2):
                step["padding"] = [int(rng.integers(0, k)) for k in kernel for _ in range(2)]
            return step if size < WIDE >> 4 else None
    return {"op": op}


OPS = ["multiply", "add", "shift_left", "shift_right", "shift_right", "tflite", "relu", "leaky_relu", "clamp", "wrap"]
OPS += ["threshold", "lookup", "max_pool", "sum_pool", "bias"]


def some_chain(rng: np.random.Generator, capture: Capture) -> list[Json]:
    steps: list[Json] = []
    matrices, wanted = capture.layer["kind"] == "matmul", int(rng.integers(0, 7))
    for _ in range(4 * wanted):
        if len(steps) == wanted:
            break
        resolved = capture.having(steps=[*steps, {"op": "bias"}])  # as if the bias came later
        apart = any(step["op"] == "bias" for step in steps)
        sums, bounds = accumulated(resolved if apart else capture)
        plane = sums.shape[2:]
        ops = [op for op in OPS if not (matrices and op.endswith("_pool"))]
        if apart or steps or "bias" not in capture.tensors:
            ops.remove("bias")  # where it stands first its later steps know the bounds
        if steps:
            own = np.zeros(channels(capture), np.int64) if matrices else bias_of(capture)
            bounds = ranges(steps, bounds, own, plane)[-1]
            for step in steps:
                if step["op"].endswith("_pool"):
                    plane = pooled(step, np.zeros((1, 1, *plane), np.int64)).shape[2:]
        step = some_step(rng, bounds, (1, 1) if matrices else plane, ops)
        if step is not None:
            steps.append(step | ({"name": f"own{len(steps)}"} if rng.integers(3) == 0 else {}))
    return steps


def judged(seed: int, root: Path) -> None:
    rng = np.random.default_rng(seed)
    capture = some_operation(rng)
    steps = some_chain(rng, capture)
    capture = capture.having(steps=steps)
    sums, bounds = accumulated(capture)
    if not sums.any():
        return  # a set of zeros is refused
    matrices = capture.layer["kind"] == "matmul"
    own = np.zeros(channels(capture), np.int64) if matrices else bias_of(capture)
    last = ranges(steps, bounds, own, (1, 1) if matrices else sums.shape[2:])[-1] if steps else bounds
    low, high = int(last.min()), int(last.max())
    bits = max(low ^ (low >> 63), high ^ (high >> 63)).bit_length() + 1
    if bits <= 32 and rng.integers(3):
        signed = low < 0 or bool(rng.integers(2))
        out = codes(max(bits - (not signed), 1), signed, 0.25)
        capture = capture.having(formats=capture.formats | {"output": out})
    tensors = [*capture.tensors, "accumulator", "relu", *names_of(steps), "output"]
    for name, step in zip(names_of(steps), steps, strict=True):
        if step["op"] not in ("bias", "leaky_relu"):
            tensors += [f"{name}_{key}" for key in ("by", "value", "multiplier", "shift", "table") if key in step]
    judge(dumped(capture, root, tensors), capture)


@pytest.mark.parametrize("seed", range(30))
def test_random_chains(seed: int, tmp_path: Path) -> None:
    judged(seed, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize("part", range(20))
def test_four_hundred_random_chains(part: int, tmp_path: Path) -> None:
    for seed in range(1000 + 20 * part, 1020 + 20 * part):
        judged(seed, tmp_path / str(seed))


@pytest.mark.parametrize("seed", range(4))
def test_the_judge_sees_one_wrong_code(seed: int, tmp_path: Path) -> None:
    """In any memory of a set; else it would prove nothing."""
    rng = np.random.default_rng(seed)
    steps = [{"op": "multiply", "by": [3, 4, -5]}, {"op": "shift_right", "by": 3, "round": "floor"}]
    formats = {"weight": codes(4, True), "input": codes(4, False)}
    capture = conv(rng.integers(-8, 8, (3, 2, 2, 2)), rng.integers(0, 16, (1, 2, 3, 3)), formats, steps)
    found = dumped(capture, tmp_path, ["weight", "input", "accumulator", "step0", "step0_by", "step1", "output"])
    judge(found, capture)
    for name, tensor in found.tensors.items():
        at = np.unravel_index(int(rng.integers(tensor.size)), tensor.shape)
        tensor[at] += 1
        with pytest.raises(AssertionError, match=name):
            judge(found, capture)
        tensor[at] -= 1


@pytest.mark.whole
@pytest.mark.parametrize("seed", range(2000, 2024))
def test_benches_of_random_chains(seed: int, tmp_path: Path) -> None:
    """The set's own design gives what the judge has checked, step by step of the arithmetic in Verilog."""
    if SIMULATORS["icarus"].missing() is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Icarus is missing")
    rng = np.random.default_rng(seed)
    capture = some_operation(rng)
    capture = capture.having(steps=some_chain(rng, capture))
    if not accumulated(capture)[0].any():
        return
    preset = {"matmul": "matmul", "sum": "sum"}.get(capture.layer["kind"], "default")
    path = capture.write(tmp_path / "made.safetensors")
    done = cli("dump", "--capture", path, "--layout", preset, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert check(tmp_path / "out" / "random") == []
    done = cli("simulate", tmp_path / "out" / "random", "--simulator", "icarus")
    assert done.exit_code == 0, done.output
