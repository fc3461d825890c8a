"""The mistakes of the issue's list as they stand, each on the sets where it can happen."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.judges.faults.case import Case, Cases, machine, written
from tests.judges.faults.machine import Layer, Part, add_all, pad
from tests.judges.faults.sets import Set, clamp
from tests.judges.golden import run_steps
from tests.judges.notation import Ints, Json


def changed(name: str, on: str, accept: str, change: Any) -> Case:
    """Steps that `change` makes of the set's own list."""

    def through(layer: Layer, sums: Ints) -> list[Ints]:
        return run_steps(change([dict(step) for step in layer.steps]), sums, layer.bias)

    return machine(name, on, "output", accept, through=through)


def at(index: int, **fields: Any) -> Any:
    def change(steps: list[Json]) -> list[Json]:
        steps[index] |= fields
        return steps

    return change


def without(index: int) -> Any:
    return lambda steps: steps[:index] + steps[index + 1 :]


def swapped(first: int, second: int) -> Any:
    def change(steps: list[Json]) -> list[Json]:
        steps[first], steps[second] = steps[second], steps[first]
        return steps

    return change


def instead(index: int, *others: Json) -> Any:
    return lambda steps: [*steps[:index], *others, *steps[index + 1 :]]


def wrapped(bits: int, signed: bool) -> Json:
    return {"op": "wrap", "bits": bits, "signed": signed}


# ---- the bias -------------------------------------------------------------------------------------------------------


def with_bias(make: Any) -> Part:
    """The accumulator with another bias; `make` gives it from the right one."""

    def biased(layer: Layer, sums: Ints) -> Ints:
        return np.asarray(sums + make(layer.bias)[None, :, None, None] + layer.addend)

    return biased


def narrow(bits: int, signed: bool = True) -> Any:
    low = -(1 << bits - 1) if signed else 0
    return lambda bias: (bias - low) % (1 << bits) + low


def biases() -> Cases:
    for on in ("plain", "pointwise", "dense", "tflite", "nhwc", "zeros"):
        yield machine("bias twice", on, "accumulator", "bias.*(twice|doubled|two|2)", biased=with_bias(lambda b: 2 * b))
        yield machine("bias reversed", on, "accumulator", "bias.*revers", biased=with_bias(lambda b: b[::-1]))
    for on in ("plain", "dense", "nhwc"):
        accept = r"bias.*(neighbour|next|channel|\+ ?1|- ?1|shift|roll)"
        yield machine("bias of neighbour", on, "accumulator", accept, biased=with_bias(lambda b: np.roll(b, 1)))
    for on in ("pointwise", "zeros"):
        accept = r"bias.*(neighbour|next|channel|\+ ?1|- ?1|shift|roll)"
        yield machine("bias of next channel", on, "accumulator", accept, biased=with_bias(lambda b: np.roll(b, -1)))
        yield machine("bias missing", on, "accumulator", "bias.*(miss|lack|not added|without)",
                      biased=with_bias(lambda b: 0 * b))  # fmt: skip
    for on, bits in (("plain", 8), ("pointwise", 8), ("dense", 8), ("tflite", 12), ("nhwc", 12)):
        yield machine(f"bias cut to {bits} bits", on, "accumulator", "bias.*(narrow|cut|bits|wrap|trunc)",
                      biased=with_bias(narrow(bits)))  # fmt: skip
    for on, bits in (("plain", 10), ("dense", 10), ("nhwc", 16)):
        yield machine(f"bias unsigned in {bits} bits", on, "accumulator", "bias.*(unsigned|without sign)",
                      biased=with_bias(narrow(bits, False)))  # fmt: skip
    yield machine("bias subtracted", "pointwise", "accumulator", "bias.*(sign|subtract|negat)",
                  biased=with_bias(lambda b: -b))  # fmt: skip
    for on, by in (("plain", 2), ("nhwc", 3)):
        yield machine(f"bias shifted left by {by}", on, "accumulator", "bias.*(align|shift|left)",
                      biased=with_bias(lambda b, by=by: b << by))  # fmt: skip
    yield changed("bias unaligned", "apart", "bias.*(align|shift)|step0 has shift 0", at(0, shift=0))
    yield changed("bias aligned by one too few", "apart", "bias.*(align|shift)|step0 has shift 2", at(0, shift=2))
    yield changed(
        "ReLU before the bias",
        "apart",
        "bias.*(after|behind|relu)|relu.*before|step0 stands behind step1",
        swapped(0, 1),
    )
    yield changed(
        "bias missing", "apart", "bias.*(miss|lack|not|without)|(miss|lack|without).*bias|left out", without(0)
    )
    for on, tensor in (("plain", "relu"), ("pointwise", "relu")):
        yield machine("bias after the ReLU", on, tensor, "bias.*(after|behind)|relu.*before", relu=late_bias)


def late_bias(layer: Layer, sums: Ints) -> Ints:
    bias = layer.bias[None, :, None, None]
    return np.asarray(np.maximum(sums - bias, 0) + bias)


# ---- ReLU, clip, rounding, scaling ----------------------------------------------------------------------------------


def behind() -> Cases:
    for on in ("plain", "depthwise", "stationary", "outputs"):
        yield machine(
            "absolute value for ReLU", on, "relu", "abs|size of the value", relu=lambda layer, sums: abs(sums)
        )
    for on in ("depthwise", "outputs", "plain", "stationary"):
        yield machine("leaky ReLU", on, "relu", "leaky", relu=lambda layer, s: np.where(s < 0, s >> 3, s))
        yield machine("ReLU missing", on, "relu", "relu.*(miss|lack|not|without)|no_relu|without_relu",
                      relu=lambda layer, s: s)  # fmt: skip
    wrap = "wrap|clamp.*(miss|lack)|clip"
    yield changed("code wraps", "plain", wrap, instead(1, wrapped(4, False)))
    yield changed("code wraps", "apart", wrap, instead(3, wrapped(8, False)))
    yield changed("code wraps", "tflite", wrap, instead(2, wrapped(8, True)))
    yield changed("code wraps", "scaled", wrap, instead(3, wrapped(8, True)))
    other = "clamp|clip|satur"
    yield changed("clip at 7", "plain", other, at(1, high=7))
    yield changed("clip at 14", "plain", other, at(1, high=14))
    yield changed("clip at 127", "apart", other, at(3, high=127))
    yield changed("clip at -127", "tflite", other, at(2, low=-127))
    yield changed("clip at 63", "scaled", other, at(3, low=-64, high=63))
    yield changed("clip signed", "plain", other, instead(1, clamp(-8, 7)))
    yield changed("clip unsigned", "tflite", other, instead(2, clamp(0, 255)))
    yield changed("clip unsigned", "matmul", other, instead(1, clamp(0, 255)))
    for on, index, by in (("plain", 0, 5), ("apart", 2, 5), ("matmul", 0, 9), ("scaled", 2, 26), ("pooled", 2, 2)):
        for amount in (-1, 1):
            yield changed(f"shift by {by + amount}", on, f"(shift|step_number).*by {by + amount}",
                          at(index, by=by + amount))  # fmt: skip
    yield changed("plain shift by another amount", "plain", "shift.*4.*floor|floor\\(2 x", at(0, by=4, round="floor"))
    yield changed("plain shift by another amount", "apart", "shift.*6.*floor|floor\\(0.5 x", at(2, by=6, round="floor"))
    for on, index, rounds in (
        ("plain", 0, ("floor",)),
        ("apart", 2, ("floor", "half_up")),
        ("matmul", 0, ("half_up", "toward_zero")),
        ("pooled", 2, ("floor", "toward_zero")),
        ("scaled", 2, ("half_up",)),
    ):
        for how in rounds:
            yield changed(f"rounds {how}", on, f"(round|shift).*{how}", at(index, round=how))
    yield changed("one rounding", "wide", "single|double|round", at(0, rounding="single"))
    for on in ("tflite", "scaled"):
        yield changed("output zero point missing", on, "zero.?point|step1 is left out",
                      zero_point_missing)  # fmt: skip
        yield changed("output zero point of the wrong sign", on, "zero.?point|step1 subtracts",
                      zero_point_negated)  # fmt: skip
        yield changed("multiplier of the next channel", on, "channel behind",
                      turned)  # fmt: skip
        yield changed("one multiplier for all channels", on, "channel 0 for all", single)
    accept = "16|multiplier.*(round|bits|cut)|(round|bits|cut).*multiplier"
    yield changed("multiplier rounded to 16 bits", "wide", accept, coarse)
    yield changed(
        "shift of the next channel", "tflite", "shift of the channel behind", lambda steps: moved(steps, "shift")
    )
    yield changed("leaky by 2", "pooled", "leaky|slope|step0 has shift 2", at(0, shift=2))
    yield changed("ReLU for leaky ReLU", "pooled", "leaky|relu|step0", instead(0, {"op": "relu"}))
    yield changed("leaky ReLU missing", "pooled", "leaky|step0 is left out", without(0))
    yield changed("sums for maxima", "pooled", "sum of the window", at(1, op="sum_pool"))
    yield changed("shift before the leaky ReLU", "pooled", "step[012] stands|step_order", swapped(0, 2))
    yield changed("ReLU missing", "apart", "relu|clamp|sign", lambda s: [s[0], s[2], wrapped(8, False)])


def zero_point_missing(steps: list[Json]) -> list[Json]:
    steps[1]["value"] = 0 if steps[0]["op"] == "tflite" else 2**25
    return steps


def zero_point_negated(steps: list[Json]) -> list[Json]:
    steps[1]["value"] = -7 if steps[0]["op"] == "tflite" else 9 * 2**26 + 2**25
    return steps


def factor(steps: list[Json]) -> str:
    return "multiplier" if steps[0]["op"] == "tflite" else "by"


def coarse(steps: list[Json]) -> list[Json]:
    """The Q31 multiplier keeps the upper half of its word."""
    numbers = steps[0]["multiplier"]
    steps[0]["multiplier"] = [min(v + 2**15 >> 16 << 16, 2**31 - 2**16) for v in numbers]
    return steps


def moved(steps: list[Json], key: str) -> list[Json]:
    numbers = list(steps[0][key])
    steps[0][key] = numbers[1:] + numbers[:1]
    return steps


def turned(steps: list[Json]) -> list[Json]:
    return moved(steps, factor(steps))


def single(steps: list[Json]) -> list[Json]:
    key = factor(steps)
    steps[0][key] = [steps[0][key][0]] * len(steps[0][key])
    return steps


# ---- operands -------------------------------------------------------------------------------------------------------


def flat_rows(layer: Layer, x: Ints) -> Ints:
    """Right padding that reads what stands next in the plane's memory: the first pixel of the next row."""
    padded = pad(layer, x)
    _, _, left, right = layer.window["padding"]
    top = layer.window["padding"][0]
    H, W = x.shape[2:]
    for row in range(H - 1):
        for beyond in range(right):
            padded[:, :, top + row, left + W + beyond] = x[:, :, row + 1, beyond]
    return padded


def channels_last_read_first(layer: Layer, x: Ints) -> Ints:
    n, c, h, w = x.shape
    return np.asarray(x.transpose(0, 2, 3, 1).reshape(n, c, h, w))


def kernels_last_read_first(layer: Layer, w: Ints) -> Ints:
    """Weights that lie as kh kw ic oc, read as oc ic kh kw."""
    return np.asarray(w.transpose(0, 3, 4, 2, 1).reshape(w.shape))


def one_row(keep: int) -> Any:
    def products(layer: Layer, p: Ints, w: Ints, x: Ints) -> Ints:
        return np.asarray(np.where((np.arange(p.shape[3]) == keep)[:, None, None, None], p, 0))

    return products


def of_words(change: Callable[[Ints], Ints]) -> Part:
    """The memory of the weights, its words [n, word, lane] in the order ot it kh kw col, comes out otherwise."""

    def weights(layer: Layer, w: Ints) -> Ints:
        n, oc, c, kh, kw = w.shape
        row, col = 8, 8
        wide = np.pad(w, ((0, 0), (0, -oc % col), (0, -c % row), (0, 0), (0, 0)))
        ot, it = wide.shape[1] // col, wide.shape[2] // row
        words = wide.reshape(n, ot, col, it, row, kh, kw).transpose(0, 1, 3, 5, 6, 2, 4).reshape(n, -1, row)
        back = change(words).reshape(n, ot, it, kh, kw, col, row).transpose(0, 1, 5, 2, 6, 3, 4)
        return np.asarray(back.reshape(wide.shape)[:, :oc, :c])

    return weights


def words_later(by: int) -> Part:
    """Weight address + `by`; behind the last word comes the first."""
    return of_words(lambda words: np.roll(words, -by, axis=1))


def last_row_early(late: int) -> Any:
    """The skew is missing in row 7: its codes run ahead of those of the others by one position."""

    def padded(layer: Layer, x: Ints) -> Ints:
        found = pad(layer, x)
        for channel in range(7, found.shape[1], 8):
            flat = found[:, channel].reshape(len(found), -1)
            moved = np.zeros_like(flat)
            if late > 0:
                moved[:, late:] = flat[:, :-late]
            else:
                moved[:, :late] = flat[:, -late:]
            found[:, channel] = moved.reshape(found[:, channel].shape)
        return found

    return padded


def packed(layer: Layer, products: Ints) -> Ints:
    """Two output channels in one multiplier, the lower one's borrow not given back to the upper one."""
    sums = add_all(layer, products)
    found = sums.copy()
    found[:, 1::2] -= sums[:, 0 : sums.shape[1] // 2 * 2 : 2] < 0
    return found


def paired(layer: Layer, products: Ints) -> Ints:
    """pmaddubsw: pairs of products saturate at 16 bits before they are added up (kernel-major, channels fastest)."""
    p = products.transpose(0, 1, 5, 6, 3, 4, 2)
    p = p.reshape(*p.shape[:4], -1)
    p = np.pad(p, [(0, 0)] * 4 + [(0, p.shape[-1] % 2)])
    return np.asarray(p.reshape(*p.shape[:4], -1, 2).sum(-1).clip(-(2**15), 2**15 - 1).sum(-1))


def cut(bits: int) -> Part:
    def biased(layer: Layer, sums: Ints) -> Ints:
        total = sums + layer.addend + (0 if layer.apart else 1) * layer.bias[None, :, None, None]
        return np.asarray((total + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1))

    return biased


def odd(passed: bool) -> Part:
    def biased(layer: Layer, sums: Ints) -> Ints:
        found = sums + layer.bias[None, :, None, None] + layer.addend
        found[:, 1::2] = layer.x[:, 1 : found.shape[1] : 2] if passed else 0
        return np.asarray(found)

    return biased


def operands() -> Cases:
    acc = "accumulator"
    for on, tensor in (("plain", acc), ("nhwc", acc), ("tflite", acc), ("depthwise", acc), ("outputs", "relu")):
        yield machine("right padding reads the next row", on, tensor, "next row|row's first|wrap|pad.*right|right.*pad",
                      padded=flat_rows)  # fmt: skip
        if on != "depthwise":
            yield machine("NHWC read as NCHW", on, tensor, "nhwc|HWC read as CHW",
                          inputs=channels_last_read_first)  # fmt: skip
    for on, tensor in (("plain", acc), ("strided", acc), ("nhwc", acc), ("tflite", acc), ("pointwise", acc)):
        yield machine("HWIO read as OIHW", on, tensor, "HWIO read as OIHW|IOHW",
                      weights=kernels_last_read_first)  # fmt: skip
    for on, tensor in (("plain", acc), ("strided", acc), ("zeros", acc), ("nhwc", acc), ("outputs", "relu")):
        for row in (0, 1):
            yield machine(
                f"only kernel row {row}",
                on,
                tensor,
                f"all but kernel row {row}|kernel row {1 - row}\\)",
                products=one_row(row),
            )
    for on in ("plain", "dense", "strided", "depthwise"):
        yield machine("odd channels zero", on, acc, "odd|every 2nd|channels 1, 3, 5, 7", biased=odd(False))
    yield machine("odd channels passed through", "depthwise", acc, "pass", biased=odd(True))
    for on in ("plain", "strided", "pointwise", "dense"):
        yield machine("weight address + 1", on, acc, r"weight.*address.*\+1", weights=words_later(1))
    for on in ("plain", "pointwise"):
        for late in (-1, 1):
            accept = "skew.*row 7|row 7.*(late|early|skew)|skew.*last"
            yield machine(f"skew of row 7 by {late}", on, acc, accept, padded=last_row_early(late))
    yield machine("skew of row 7 by -1", "stationary", "relu", "skew|row", padded=last_row_early(-1))
    for on in ("plain", "dense", "pointwise", "tflite", "nhwc"):
        yield machine("packed products without the borrow", on, acc, "pack|borrow|carry|dsp", total=packed)
    yield machine("saturating pair sums", "nhwc", acc, "satur|pair", total=paired)
    widths = {"plain": (8, 9, 10), "dense": (8, 9), "tflite": (14, 16), "nhwc": (16, 17), "zeros": (12,)}
    for on, some in (widths | {"matmul": (16, 15), "strided": (8,)}).items():
        for bits in some:
            yield machine(f"sums cut to {bits} bits", on, acc, f"wrap.*{bits}|{bits} bit|{bits}", biased=cut(bits))
    accept = "column.*revers|revers.*(column|channel)"
    yield machine("columns reversed", "depthwise", acc, accept, total=lambda layer, p: add_all(layer, p)[:, ::-1])
    yield machine("columns reversed", "depthwise", "relu", accept, total=lambda layer, p: add_all(layer, p)[:, ::-1])
    for on in ("tflite", "zeros", "scaled"):
        yield machine("input zero point missing", on, acc, "zero.?point|input.*(offset|zero)", zx=0)
        zx = {"tflite": 11, "zeros": -130, "scaled": -5}[on]
        yield machine("input zero point of the wrong sign", on, acc, "zero.?point|input.*(offset|zero)", zx=zx)
    yield machine("weight zero point missing", "zeros", acc, "zero.?point", zw=np.zeros(6, np.int64))
    yield machine("weight zero points reversed", "zeros", acc, "zero.?point", zw=np.array([5, 8, 6, 9, 7, 8]))
    yield machine("padding with code 0", "tflite", acc, "pad", padded=lambda layer, x: pad(layer, x, 0))
    yield machine("padding with code 0", "zeros", acc, "pad", padded=lambda layer, x: pad(layer, x, 0))
    yield written("output tile 1 stale", "dense", acc, "stale|tile", lambda s: stale_tile(s, acc))
    yield written("output tile 1 stale", "pointwise", acc, "stale|tile", lambda s: stale_tile(s, acc))
    yield written("output tile 1 stale", "matmul", acc, "stale|tile", lambda s: stale_tile(s, acc))


def stale_tile(found: Set, tensor: str) -> Ints:
    """The second output tile still holds the words of the first."""
    words = found.read(tensor)
    n = len(found.layer.x)
    if found.layer.matrices:  # n m pt
        grid = words.reshape(n, -1, 2, 8).copy()
        grid[:, :, 1] = grid[:, :, 0]
    else:  # n ot oy ox
        grid = words.reshape(n, 2, -1, 8).copy()
        grid[:, 1] = grid[:, 0]
    return np.asarray(grid.reshape(words.shape))


def cases() -> Cases:
    for group in (biases, behind, operands):
        yield from group()
