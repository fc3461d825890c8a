"""The judge's own arithmetic of a layer: what codes stand for, accumulators, bounds, steps, ranges, real rounding.

Numpy and Python's integers and fractions, from the contract alone; captures are read with the safetensors library."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open

from tests.judges.arithmetic import expected
from tests.judges.notation import Ints, Json, code_range

PARAMETERS = ("by", "value", "multiplier", "shift", "table")  # fields that are tensors where they differ by channel
MINIFLOATS = {"e2m1": (2, 1, 1), "e3m2": (3, 2, 3), "e2m3": (2, 3, 1), "e4m3fn": (4, 3, 7)}  # exponent, mantissa, bias


# ---- captures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """What a capture file says: `layer`, `formats`, the steps, and tensors by name."""

    layer: Json
    formats: Json
    tensors: dict[str, NDArray[Any]]
    steps: list[Json] | None = None
    more: Json = field(default_factory=dict)

    def having(self, **changes: Any) -> "Capture":
        return replace(self, **changes)

    def write(self, path: Path, apart: bool = False) -> Path:
        """The file; `apart`: lists of steps as tensors, which lists of more than 64 entries are in any case."""
        said: Json = {"layer": self.layer, "formats": self.formats} | self.more
        tensors = {name: np.ascontiguousarray(array) for name, array in self.tensors.items()}
        if self.steps is not None:
            said["steps"] = []
            for index, step in enumerate(self.steps):
                plain = dict(step)
                for name in PARAMETERS:
                    values = step.get(name)
                    if isinstance(values, list) and (apart or np.size(values) > 64):
                        tensors[f"steps.{index}.{name}"] = np.asarray(values, np.int64)
                        del plain[name]
                said["steps"].append(plain)
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        safetensors.numpy.save_file(tensors, path, metadata={"qexport": text})
        return path


def read_capture(path: Path) -> Capture:
    with safe_open(path, "np") as file:
        (text,) = file.metadata().values()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dictionary)
    said = json.loads(text)
    assert text == json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii="\\u" in text)
    steps = said.pop("steps", None)
    for name in [name for name in tensors if name.startswith("steps.")]:
        index, key = name.split(".")[1:]
        assert key not in steps[int(index)]
        steps[int(index)][key] = tensors.pop(name).tolist()
    return Capture(said.pop("layer"), said.pop("formats"), tensors, steps, said)


# ---- own arithmetic -------------------------------------------------------------------------------------------------


def minifloat(name: str) -> list[int | None]:
    """What each code stands for, in units of the smallest subnormal number; None: it is not a number."""
    exponents, mantissas, bias = MINIFLOATS[name]
    unit = Fraction(2) ** (1 - bias - mantissas)
    found: list[int | None] = []
    for code in range(1 << 1 + exponents + mantissas):
        sign, exponent = code >> exponents + mantissas, code >> mantissas & (1 << exponents) - 1
        fraction = Fraction(code & (1 << mantissas) - 1, 1 << mantissas)
        if exponent == 0:
            value = fraction * Fraction(2) ** (1 - bias)
        else:
            value = (1 + fraction) * Fraction(2) ** (exponent - bias)
        nan = name == "e4m3fn" and code & 0x7F == 0x7F
        found.append(None if nan else int(value / unit) * (-1 if sign else 1))
    return found


def levels(form: Json) -> list[int] | None:
    if "code" in form:
        return [0 if value is None else value for value in minifloat(form["code"])]
    return form.get("levels")


def stands_for(form: Json, array: ArrayLike, axes: int = 0) -> Ints:
    """The integers behind codes; `axes`: how many axes follow the one that zero points of channels run along."""
    array = np.asarray(array).astype(np.int64)
    if (table := levels(form)) is not None:
        return np.asarray(table, np.int64)[array]
    zero = np.asarray(form.get("zero_point", 0), np.int64)
    return array - (zero.reshape(-1, *[1] * axes) if zero.ndim else zero)


def raw_of(form: Json, array: Ints) -> Ints:
    """What stands in raw products: codes, or the levels that they stand for."""
    table = levels(form)
    return array if table is None else np.asarray(table, np.int64)[array]


def raw_reach(form: Json) -> tuple[int, int]:
    return code_range(form) if levels(form) is None else reach(form)


def reach(form: Json) -> tuple[int, int]:
    """The least and greatest integer that a code stands for (a single zero point)."""
    if "code" in form:
        table = [value for value in minifloat(form["code"]) if value is not None]
        return min(table), max(table)
    if "levels" in form:
        return min(form["levels"]), max(form["levels"])
    low, high = code_range(form)
    return low - form.get("zero_point", 0), high - form.get("zero_point", 0)


def windows(layer: Json, plane: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Padded positions that each tap meets at each output, and where they are inside of the picture."""
    (sy, sx), (dy, dx) = layer.get("stride", [1, 1]), layer.get("dilation", [1, 1])
    top, bottom, left, right = layer.get("padding", [0, 0, 0, 0])
    PY, PX, (KH, KW) = plane[0] + top + bottom, plane[1] + left + right, layer["kernel"]
    OY, OX = (PY - dy * (KH - 1) - 1) // sy + 1, (PX - dx * (KW - 1) - 1) // sx + 1
    kh, kw, oy, ox = np.ogrid[:KH, :KW, :OY, :OX]
    y, x = oy * sy + kh * dy, ox * sx + kw * dx
    return y, x, (y >= top) & (y < PY - bottom) & (x >= left) & (x < PX - right)


def convolved(capture: Capture) -> tuple[Ints, Ints]:
    """Sums without bias; and their least and greatest value in each channel, [2, oc]."""
    layer, formats = capture.layer, capture.formats
    w, x = capture.tensors["weight"], capture.tensors["input"]
    if w.ndim == 2:
        w, x = w[:, :, None, None], x[:, :, None, None]
    real, seen, groups = stands_for(formats["weight"], w, 3), stands_for(formats["input"], x), layer.get("groups", 1)
    top, bottom, left, right = layer.get("padding", [0, 0, 0, 0])
    edge = 0 if levels(formats["input"]) is None else levels(formats["input"])[0]  # type: ignore[index]
    padded = np.pad(seen, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=edge)
    y, x_, inside = windows(layer, seen.shape[2:])  # type: ignore[arg-type]
    parts = []
    for group, kernel in enumerate(np.split(real, groups)):
        size = kernel.shape[1]
        seen_by = padded[:, group * size : (group + 1) * size]
        sums = np.zeros((len(seen), len(kernel), y.shape[2], x_.shape[3]), np.int64)
        for c, kh, kw in np.ndindex(kernel.shape[1:]):
            taken = seen_by[:, c, y[kh, 0], x_[0, kw]]  # (n, oy, ox)
            sums += kernel[:, c, kh, kw][None, :, None, None] * taken[:, None]
        parts.append(sums)
    low, high = reach(formats["input"])
    ends = np.sort(np.stack([real * low, real * high]), axis=0)
    least = np.where(inside[None, None], ends[0][..., None, None], edge * real[..., None, None]).sum((1, 2, 3))
    most = np.where(inside[None, None], ends[1][..., None, None], edge * real[..., None, None]).sum((1, 2, 3))
    return np.concatenate(parts, axis=1), np.stack([least.min((1, 2)), most.max((1, 2))])


def bias_of(capture: Capture) -> Ints:
    return capture.tensors.get("bias", np.zeros(channels(capture), np.int64)).astype(np.int64)


def channels(capture: Capture) -> int:
    kind, tensors = capture.layer["kind"], capture.tensors
    if kind == "matmul":
        return int(tensors["input2"].shape[2])
    return int(tensors["input"].shape[1] if kind == "sum" else len(tensors["weight"]))


def accumulated(capture: Capture) -> tuple[Ints, Ints]:
    """The accumulators, and the bounds [2, channel] that the contract proves."""
    kind, formats, tensors = capture.layer["kind"], capture.formats, capture.tensors
    if kind in ("conv2d", "linear"):
        sums, bounds = convolved(capture)
        apart = any(step["op"] == "bias" for step in capture.steps or [])
        bias = np.zeros(len(bounds[0]), np.int64) if apart else bias_of(capture)
        return sums + bias[:, None, None], bounds + bias
    if kind == "sum":
        named = [name for name in ("input", "input2") if name in tensors]
        parts = [m * stands_for(formats[x], tensors[x]) for m, x in zip(capture.layer["mul"], named, strict=True)]
        ends = [sorted(m * end for end in reach(formats[x])) for m, x in zip(capture.layer["mul"], named, strict=True)]
        low, high = (sum(end[i] for end in ends) for i in (0, 1))
        return np.sum(parts, axis=0), np.repeat([[low], [high]], channels(capture), axis=1)
    a, b = (stands_for(formats[name], tensors[name]) for name in ("input", "input2"))
    products = [x * y for x in reach(formats["input"]) for y in reach(formats["input2"])]
    size = a.shape[2]
    bounds = np.repeat([[size * min(products)], [size * max(products)]], b.shape[2], axis=1)
    if "addend" in tensors:
        addend = tensors["addend"].astype(np.int64)
        bounds = bounds + np.stack([addend.min((0, 1)), addend.max((0, 1))])
        return np.einsum("nmk,nkp->nmp", a, b) + addend, bounds
    return np.einsum("nmk,nkp->nmp", a, b), bounds


def pooled(step: Json, values: Ints) -> Ints:
    """A pool in plain Python loops over the window."""
    (KH, KW), (sy, sx) = step["kernel"], step.get("stride", step["kernel"])
    top, bottom, left, right = step.get("padding", [0, 0, 0, 0])
    n, c, Y, X = values.shape
    OY, OX = (Y + top + bottom - KH) // sy + 1, (X + left + right - KW) // sx + 1
    out = np.zeros((n, c, OY, OX), np.int64)
    for oy, ox in np.ndindex(OY, OX):
        rows = slice(max(oy * sy - top, 0), min(oy * sy - top + KH, Y))
        cols = slice(max(ox * sx - left, 0), min(ox * sx - left + KW, X))
        window = values[:, :, rows, cols]
        out[:, :, oy, ox] = window.max((2, 3)) if step["op"] == "max_pool" else window.sum((2, 3))
    return out


def mapped(step: Json, values: Ints, bias: Ints, axis: int) -> Ints:
    """A step of single values: each different value of each channel goes through Python's integers once."""
    planes = np.moveaxis(values, axis, 0)
    out = np.empty_like(planes)
    for channel, plane in enumerate(planes):
        found, where = np.unique(plane, return_inverse=True)
        to = [expected(step, int(value), channel, int(bias[channel])) for value in found]
        assert all(-(2**63) <= value < 2**63 for value in to)
        out[channel] = np.array(to, np.int64)[where].reshape(plane.shape)
    return np.moveaxis(out, 0, axis)


def run_steps(steps: Sequence[Json], values: Ints, bias: Ints, axis: int = 1) -> list[Ints]:
    """The value behind every step."""
    found = []
    for step in steps:
        values = pooled(step, values) if step["op"].endswith("_pool") else mapped(step, values, bias, axis)
        found.append(values)
    return found


def counts(step: Json, plane: tuple[int, int]) -> list[int]:
    """How many values the windows of a pool hold."""
    return sorted(set(pooled(step | {"op": "sum_pool"}, np.ones((1, 1, *plane), np.int64)).ravel().tolist()))


def step_range(step: Json, low: int, high: int, channel: int, bias: int, plane: tuple[int, int]) -> tuple[int, int]:
    """The least and greatest value that a step gives for any integer of low..high."""
    if step["op"] == "max_pool":
        return low, high
    if step["op"] == "sum_pool":
        ends = [count * end for count in counts(step, plane) for end in (low, high)]
        return min(ends), max(ends)
    if step["op"] == "lookup":
        found = step["table"][low - step["low"] : high - step["low"] + 1]
        return min(found), max(found)
    ends = [expected(step, end, channel, bias) for end in (low, high)]
    if step["op"] == "wrap" and (high - low >= 2 ** step["bits"] or ends[0] > ends[1]):
        return code_range(step)
    return min(ends), max(ends)


def ranges(steps: Sequence[Json], bounds: Ints, bias: Ints, plane: tuple[int, int]) -> list[Ints]:
    """The proven range [2, channel] behind every step."""
    found = []
    for step in steps:
        pairs = zip(bounds.T.tolist(), bias.tolist(), strict=True)
        ends = [step_range(step, *pair, channel, own, plane) for channel, (pair, own) in enumerate(pairs)]
        bounds = np.array(ends, np.int64).T
        found.append(bounds)
        if step["op"].endswith("_pool"):
            plane = pooled(step, np.zeros((1, 1, *plane), np.int64)).shape[2:]  # type: ignore[assignment]
    return found


def default_bits(low: int, high: int, at_least: int = 16) -> int:
    need = max(low ^ (low >> 63), high ^ (high >> 63)).bit_length() + 1
    return max(at_least, -(-need // 8) * 8)


def rounded_codes(capture: Capture, channel: int, accumulator: int) -> tuple[int, Fraction]:
    """The code that the scales give, rounded exactly half to even, and the real number before that (in codes)."""
    formats = capture.formats
    out = formats["output"]
    if capture.layer["kind"] == "sum":
        scale = Fraction(formats["accumulator"]["scale"])
    else:
        other = "weight" if "weight" in formats else "input2"
        scale = scale_of(formats["input"], channel) * scale_of(formats[other], channel)
    real = accumulator * scale / Fraction(out["scale"])
    if capture.layer.get("relu", False):
        real = max(real, Fraction(0))
    real += out.get("zero_point", 0)
    low, high = code_range(out)
    return min(max(round(real), low), high), real


def scale_of(form: Json, channel: int) -> Fraction:
    scale = form["scale"]
    return Fraction(scale[channel] if isinstance(scale, list) else scale)


def through(steps: Sequence[Json], channel: int, accumulator: int, bias: int = 0) -> int:
    """One accumulator of a channel through steps without pools."""
    for step in steps:
        accumulator = expected(step, accumulator, channel, bias)
    return accumulator
