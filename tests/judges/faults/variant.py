"""The listed mistakes in another amount, place or scope: one channel, one tile, every k-th word, from word w on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.judges.faults.case import Cases, machine, written
from tests.judges.faults.listed import (
    at,
    changed,
    flat_rows,
    instead,
    with_bias,
    words_later,
    wrapped,
)
from tests.judges.faults.machine import Layer, Machine, Part, add_all, add_bias, pad
from tests.judges.faults.sets import Set, clamp
from tests.judges.golden import run_steps
from tests.judges.notation import Ints, Json

ACC = "accumulator"
BIAS = "bias"


# ---- in a part of the results ---------------------------------------------------------------------------------------


def only(mask: Callable[[Ints], Any], tensor: str, **parts: Any) -> Callable[[Set], Ints]:
    """The wrong machine where the mask over n oc oy ox holds, the right one elsewhere."""

    def words(found: Set) -> Ints:
        wrong, right = (found.words(tensor, m.run(found.layer)[tensor]) for m in (Machine(**parts), Machine()))
        shape = found.right[found.memory(tensor)["name"]].shape
        index = np.indices(shape)
        if found.layer.matrices:
            index = np.stack([index[0], index[2], index[1], 0 * index[0]])
        where = found.words(tensor, np.broadcast_to(mask(index), shape).astype(np.int64))
        return np.asarray(np.where(where == 1, wrong, right))

    return words


def channel(c: int) -> Callable[[Ints], Any]:
    return lambda index: index[1] == c


def image(n: int) -> Callable[[Ints], Any]:
    return lambda index: index[0] == n


def column(ox: int) -> Callable[[Ints], Any]:
    return lambda index: index[3] == ox


def row(oy: int) -> Callable[[Ints], Any]:
    return lambda index: index[2] == oy


def tile(ot: int, col: int = 8) -> Callable[[Ints], Any]:
    return lambda index: index[1] // col == ot


def in_parts() -> Cases:
    twice = with_bias(lambda b: 2 * b)
    for on, c in (("plain", 5), ("pointwise", 9), ("dense", 2), ("nhwc", 3)):
        yield written(f"bias twice in channel {c}", on, ACC, BIAS, only(channel(c), ACC, biased=twice), f"{c}")
    for on, n in (("plain", 1), ("pointwise", 1), ("tflite", 1)):
        missing = with_bias(lambda b: 0 * b)
        yield written(f"bias missing in image {n}", on, ACC, BIAS, only(image(n), ACC, biased=missing))
        yield written(f"bias missing in image {n - 1}", on, ACC, BIAS, only(image(n - 1), ACC, biased=missing))
    for on in ("pointwise", "dense"):
        yield written("bias missing in tile 1", on, ACC, BIAS, only(tile(1), ACC, biased=with_bias(lambda b: 0 * b)))
    for on, c in (("plain", 3), ("depthwise", 6), ("outputs", 1)):
        wrong = only(channel(c), "relu", relu=lambda layer, s: s)
        yield written(f"ReLU missing in channel {c}", on, "relu", "relu|ReLU", wrong)
        wrong = only(channel(c), "relu", relu=lambda layer, s: abs(s))
        yield written(f"absolute value in channel {c}", on, "relu", "abs|size of the value", wrong)
    for on, tensor, last in (("plain", ACC, 4), ("depthwise", ACC, 5), ("outputs", "relu", 3)):
        wrong = only(column(last), tensor, padded=lambda layer, x: pad(layer, x, 3))
        yield written("padding of 3 in the last column", on, tensor, "pad", wrong)
        wrong = only(row(last - (on == "depthwise")), tensor, padded=lambda layer, x: pad(layer, x, 1))
        yield written("padding of 1 in the last row", on, tensor, "pad", wrong)
    for on, bits in (("plain", 8), ("dense", 8), ("nhwc", 16)):
        yield written(f"sums cut to {bits} bits in channel 1", on, ACC, f"wrap|narrow|{bits}", only(
            channel(1), ACC, biased=lambda layer, s, b=bits: wrap_of(add_bias(layer, s), b)))  # fmt: skip
    for on, c in (("tflite", 1), ("scaled", 3)):
        yield written(f"code wraps in channel {c}", on, "output", "wrap|clamp|clip", only(
            channel(c), "output", through=lambda layer, s: run_steps(
                [*layer.steps[:-1], wrapped(8, True)], s, layer.bias)))  # fmt: skip
    for on, c in (("plain", 2), ("apart", 7)):
        index = 0 if on == "plain" else 2
        yield written(f"rounds down in channel {c}", on, "output", "step_rounding|round.*floor", only(
            channel(c), "output", through=lambda layer, s, i=index: run_steps(
                at(i, round="floor")([dict(step) for step in layer.steps]), s, layer.bias)))  # fmt: skip
    for on in ("plain", "nhwc"):
        yield written("right padding reads the next row in image 1", on, ACC, "next row|wrap|pad|right",
                      only(image(1), ACC, padded=flat_rows))  # fmt: skip
    yield written("weights of the next word in image 1", "plain", ACC, "weight_address",
                  only(image(1), ACC, weights=words_later(1)))  # fmt: skip


def wrap_of(sums: Ints, bits: int) -> Ints:
    return np.asarray((sums + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1))


# ---- words and lanes ------------------------------------------------------------------------------------------------


def lanes(change: Callable[[Ints], None], tensor: str) -> Callable[[Set], Ints]:
    """A change of the right words [word, lane] of the first file, in place."""

    def words(found: Set) -> Ints:
        all_files = found.read(tensor).copy()
        change(all_files[0])
        return all_files

    return words


def every(k: int, first: int, value: int | None) -> Callable[[Ints], None]:
    """Every k-th word has a value, or (None) the word before it."""

    def change(words: Ints) -> None:
        at = np.arange(max(first, 1), len(words), k)
        words[at] = words[at - 1] if value is None else value

    return change


def moved(start: int, by: int) -> Callable[[Ints], None]:
    """From word `start` on each word comes `by` late (the one at `start` again and again), or early."""

    def change(words: Ints) -> None:
        tail = words[start:].copy()
        words[start:] = tail[(np.arange(len(tail)) - by).clip(0, len(tail) - 1)]

    return change


def late_lane(lane: int, by: int) -> Callable[[Ints], None]:
    def change(words: Ints) -> None:
        words[:, lane] = np.roll(words[:, lane], by)

    return change


def exchanged(a: int, b: int) -> Callable[[Ints], None]:
    def change(words: Ints) -> None:
        words[:, [a, b]] = words[:, [b, a]]

    return change


def pairs(words: Ints) -> None:
    even = len(words) // 2 * 2
    words[:even] = words[:even].reshape(-1, 2, words.shape[1])[:, ::-1].reshape(even, -1)


def part(start: int, stop: int, value: int) -> Callable[[Ints], None]:
    def change(words: Ints) -> None:
        words[start:stop] = value

    return change


def streams() -> Cases:
    spots = (("plain", ACC), ("nhwc", ACC), ("matmul", ACC), ("depthwise", "relu"), ("strided", ACC))
    for number, (on, tensor) in enumerate(spots):
        start = 7 + 3 * number
        yield written(
            f"word {start} lost",
            on,
            tensor,
            f"word {start} |words_(lost|early|shifted)",
            lanes(moved(start, -1), tensor),
        )
        yield written(f"word {start} doubled", on, tensor, "words_(doubled|held|shifted|repeated)",
                      lanes(moved(start, 1), tensor))  # fmt: skip
        k = 3 + number
        yield written(f"every {k}th word stale", on, tensor, f"words_held.*every {k}|stale|previous",
                      lanes(every(k, 2, None), tensor))  # fmt: skip
        yield written(f"every {k + 1}th word zero", on, tensor, "constant|words.*(zero|0)|reads 0|bubble",
                      lanes(every(k + 1, 3, 0), tensor))  # fmt: skip
    for on, tensor in spots[:3]:
        yield written("words swapped in pairs", on, tensor, "words_swapped|pairs", lanes(pairs, tensor))
    for on, tensor, start in (("plain", ACC, 30), ("nhwc", ACC, 50), ("strided", ACC, 12)):
        yield written(f"zero from word {start} on", on, tensor, "constant|not written|stop|short|words.*(zero|0)",
                      lanes(part(start, 9999, 0), tensor))  # fmt: skip
    for on, tensor, lane, by in (("plain", ACC, 2, 1), ("depthwise", "relu", 5, -1), ("pointwise", ACC, 0, 2)):
        yield written(
            f"lane {lane} late by {by}",
            on,
            tensor,
            f"words_shifted.*by [+-]{abs(by)}|late|early|skew",
            lanes(late_lane(lane, by), tensor),
        )
    for on, tensor, a, b in (("plain", ACC, 1, 6), ("outputs", "relu", 0, 3), ("depthwise", ACC, 2, 3)):
        yield written(
            f"lanes {a} and {b} exchanged",
            on,
            tensor,
            "swap|exchang|permut|channel_order|lanes|columns_reversed.*only in output channel 1 and",
            lanes(exchanged(a, b), tensor),
        )


# ---- other amounts of address and operand faults --------------------------------------------------------------------


def fetched(x: Ints, at: Ints, beyond: bool) -> Ints:
    """Positions of each plane; those behind its end find 0, or (beyond) the next image's, which stands there."""
    planes = x.reshape(*x.shape[:2], -1)
    behind = np.concatenate([planes[1:], 0 * planes[:1]]) if beyond else 0 * planes
    return np.asarray(np.concatenate([planes, behind], axis=2)[:, :, at].reshape(x.shape))


def pitch(wrong: int, beyond: bool) -> Part:
    """Inputs read with another row pitch than the plane's width."""

    def inputs(layer: Layer, x: Ints) -> Ints:
        h, w = x.shape[2:]
        return fetched(x, np.arange(h)[:, None] * (w + wrong) + np.arange(w), beyond)

    return inputs


def lost_bit(bit: int) -> Part:
    """An address bit of the inputs is always 0, counted within an image's plane, which has a buffer of its own."""

    def inputs(layer: Layer, x: Ints) -> Ints:
        return fetched(x, np.arange(x.shape[2] * x.shape[3]) & ~(1 << bit), False)

    return inputs


def lost_bit_of_all(bit: int) -> Part:
    """The same, counted through all images, which lie one behind the other."""

    def inputs(layer: Layer, x: Ints) -> Ints:
        n, c, h, w = x.shape
        flat = x.transpose(1, 0, 2, 3).reshape(c, -1)
        at = np.arange(flat.shape[1]) & ~(1 << bit)
        return np.asarray(flat[:, at].reshape(c, n, h, w).transpose(1, 0, 2, 3))

    return inputs


def offset(by: int) -> Part:
    """The address counter begins `by` too late and comes round at the plane's end."""

    def inputs(layer: Layer, x: Ints) -> Ints:
        return np.roll(x.reshape(*x.shape[:2], -1), -by, axis=2).reshape(x.shape)

    return inputs


def offset_of_all(by: int) -> Part:
    """An address offset in a memory that holds all images; behind them stands 0."""

    def inputs(layer: Layer, x: Ints) -> Ints:
        size = x.shape[2] * x.shape[3]
        return fetched(x, np.arange(size) + by, True)

    return inputs


def weights_of(change: Callable[[Ints], None]) -> Part:
    """Weights n oc c kh kw, changed in place."""

    def weights(layer: Layer, w: Ints) -> Ints:
        found = w.copy()
        change(found)
        return found

    return weights


def transposed_in(c: int) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        w[:, c] = w[:, c].swapaxes(-1, -2).copy()

    return change


def turned_in(c: int | None) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        some = slice(None) if c is None else slice(c, c + 1)
        w[:, some] = w[:, some, :, ::-1, ::-1].copy()

    return change


def taps_swapped(a: tuple[int, int], b: tuple[int, int]) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        first = w[..., a[0], a[1]].copy()
        w[..., a[0], a[1]] = w[..., b[0], b[1]]
        w[..., b[0], b[1]] = first

    return change


def rows_swapped(a: int, b: int, some: slice = slice(None)) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        w[:, some, [a, b]] = w[:, some, [b, a]]

    return change


def tap_lost(kh: int, kw: int, some: slice = slice(None)) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        w[:, some, :, kh, kw] = 0

    return change


def unsigned_in(some: slice, bits: int) -> Callable[[Ints], None]:
    def change(w: Ints) -> None:
        w[:, some] %= 1 << bits

    return change


def stale_inputs(layer: Layer, x: Ints) -> Ints:
    return np.repeat(x[:1], len(x), axis=0)


def padded_only(side: int, fill: int) -> Part:
    """One side of the padding holds `fill`."""

    def padded(layer: Layer, x: Ints) -> Ints:
        found = pad(layer, x)
        top, bottom, left, right = layer.window["padding"]
        edges = [np.s_[:, :, :top], np.s_[:, :, found.shape[2] - bottom :], np.s_[..., :left],
                 np.s_[..., found.shape[3] - right :]]  # fmt: skip
        found[edges[side]] = fill
        return found

    return padded


def kept(n: int) -> Part:
    """The accumulators are not cleared before image n."""

    def biased(layer: Layer, sums: Ints) -> Ints:
        found = add_bias(layer, sums)
        found[n] += found[n - 1]
        return found

    return biased


def one_late(layer: Layer, sums: Ints) -> Ints:
    """Channels 4..7 give the result of the position before."""
    found = add_bias(layer, sums)
    flat = found.reshape(*found.shape[:2], -1)
    flat[:, 4:, 1:] = flat[:, 4:, :-1].copy()
    return flat.reshape(found.shape)


def addresses() -> Cases:
    for on, tensor, beyond in (
        ("plain", ACC, True),
        ("nhwc", ACC, True),
        ("tflite", ACC, False),
        ("outputs", "relu", False),
    ):
        for by in (-1, 1):
            wrong = pitch(by, beyond)
            yield machine(f"input row pitch {by:+d}", on, tensor, "pitch", inputs=wrong)
    for on, bit in (("depthwise", 2), ("nhwc", 4), ("strided", 1)):
        yield machine(f"input address bit {bit} lost", on, ACC, "input_address.*bit", inputs=lost_bit(bit))
    for on, bit in (("plain", 0), ("depthwise", 3)):
        name = f"input address bit {bit} lost through all images"
        yield machine(name, on, ACC, f"input_address.*bit {bit}", inputs=lost_bit_of_all(bit))
    for on, by in (("plain", 1), ("depthwise", -1), ("strided", 2)):
        yield machine(f"input counter {by:+d}", on, ACC, f"input_address.*[+-]{abs(by)}", inputs=offset(by))
    for on, by in (("plain", 1), ("strided", 2), ("depthwise", 3)):
        yield machine(f"input address {by:+d}", on, ACC, f"input_address.*[+]{by}", inputs=offset_of_all(by))
    for on, by in (("plain", 2), ("strided", 8), ("dense", 3)):
        yield machine(
            f"weight address + {by}", on, ACC, f"weight_address.*[+]{by}|tap_off_by_one", weights=words_later(by)
        )
    for on, c in (("plain", 4), ("strided", 0), ("depthwise", 3)):
        yield machine(
            f"kernel transposed in channel {c}",
            on,
            ACC,
            "transpos|kh_kw_swapped|effective_kernel",
            weights=weights_of(transposed_in(c)),
        )
    for on, chosen in (("plain", None), ("depthwise", None), ("strided", 2), ("nhwc", 5)):
        where = "" if chosen is None else f" in channel {chosen}"
        accept = "kernel_rotated|effective_kernel"
        yield machine(f"kernel turned{where}", on, ACC, accept, weights=weights_of(turned_in(chosen)))
    for on, a, b in (("plain", (0, 1), (2, 2)), ("depthwise", (1, 0), (1, 1)), ("nhwc", (0, 0), (2, 0))):
        yield machine(
            f"taps {a} and {b} swapped", on, ACC, "tap_order|effective_kernel", weights=weights_of(taps_swapped(a, b))
        )
    for on, first, second, some in (
        ("plain", 1, 4, slice(None)),
        ("dense", 2, 11, slice(None)),
        ("pointwise", 0, 7, slice(8, 12)),
    ):
        accept = "row.*(swap|exchang|order)|effective_kernel|permut|exchang"
        yield machine(f"weight rows {first} and {second} swapped", on, ACC, accept,
                      weights=weights_of(rows_swapped(first, second, some)))  # fmt: skip
    for on, tap in (("plain", (2, 2)), ("strided", (0, 1)), ("depthwise", (1, 2))):
        yield machine(f"tap {tap} lost", on, ACC, "tap_missing|effective_kernel", weights=weights_of(tap_lost(*tap)))
        yield machine(
            f"tap {tap} lost in channel 1",
            on,
            ACC,
            "tap_missing|effective_kernel",
            weights=weights_of(tap_lost(*tap, slice(1, 2))),
        )
    for on, some, bits in (("plain", slice(6, 7), 4), ("dense", slice(8, 12), 4), ("nhwc", slice(0, 1), 8)):
        yield machine(
            "weights unsigned in a part", on, ACC, "unsigned|sign", weights=weights_of(unsigned_in(some, bits))
        )
    for on, tensor in (("plain", ACC), ("pointwise", ACC), ("outputs", "relu")):
        yield machine("image 1 computed from image 0", on, tensor, "image_order|stale", inputs=stale_inputs)
        yield machine("accumulators of image 1 not cleared", on, tensor, "stale_accumulator|clear", biased=kept(1))
    for on, side, fill in (("plain", 3, 2), ("strided", 0, -1), ("tflite", 1, 0), ("nhwc", 2, 255)):
        name = ("top", "bottom", "left", "right")[side]
        yield machine(f"padding of {fill} {name}", on, ACC, "pad", padded=padded_only(side, fill))
    for on in ("plain", "nhwc"):
        yield machine("channels 4 to 7 late by one", on, ACC, "late|stale|skew|shifted|held", biased=one_late)
    for on, c in (("plain", 0), ("tflite", 2)):
        yield machine(f"input channel {c} ignored", on, ACC, f"row {c}|channel {c}", inputs=zeroed(c))
    for on in ("plain", "nhwc"):
        yield machine("first tap assigned twice", on, ACC, "tap_twice|effective_kernel", total=tap_twice)


def zeroed(c: int) -> Part:
    def inputs(layer: Layer, x: Ints) -> Ints:
        found = x.copy()
        found[:, c] = layer.zx
        return found

    return inputs


def tap_twice(layer: Layer, products: Ints) -> Ints:
    return np.asarray(add_all(layer, products) + products[:, :, :, 0, 0].sum(2))


# ---- other amounts behind the accumulator ---------------------------------------------------------------------------


def list_at(index: int, key: str, c: int, change: Callable[[int], int]) -> Any:
    """One channel's number of a list is another."""

    def wrong(steps: list[Json]) -> list[Json]:
        numbers = [int(v) for v in steps[index][key]]
        numbers[c] = change(numbers[c])
        steps[index][key] = numbers
        return steps

    return wrong


def behind() -> Cases:
    for high in (13, 10):
        yield changed(f"clip at {high}", "plain", "clamp|clip", at(1, high=high))
    yield changed("clip at 200", "apart", "clamp|clip", at(3, high=200))
    yield changed("clip from -100", "scaled", "clamp|clip", at(3, low=-100))
    yield changed("code wraps at 7 bits", "tflite", "wrap|7", instead(2, wrapped(7, True)))
    by_of = {"plain": 5, "apart": 5, "matmul": 9, "pooled": 2}
    for on, amount in (("plain", 2), ("apart", -2), ("matmul", 3), ("pooled", -2)):
        index = {"plain": 0, "apart": 2, "matmul": 0, "pooled": 2}[on]
        change = shifted(index, amount)
        yield changed(
            f"shift by {amount:+d}", on, f"(shift|step_number).*by {by_of[on] + amount}\\b|step2 is left out", change
        )
    for on, key, c, by in (("tflite", "shift", 1, 1), ("scaled", "by", 3, -60000), ("wide", "shift", 5, -1)):
        yield changed(f"{key} of channel {c} off by {by}", on, f"{key}.*channel {c}",
                      list_at(0, key, c, added(by)))  # fmt: skip
    yield changed("leaky by 1", "pooled", "leaky|slope|step0 has shift 1", at(0, shift=1))
    yield changed("adds 1 too many", "tflite", "zero.?point|step1 has value 8", at(1, value=8))
    yield changed(
        "zero point halved", "scaled", "zero.?point|step1 has value|x v \\+5.0", at(1, value=-4 * 2**26 + 2**25)
    )
    yield changed("clamp to -128..15", "matmul", "clamp|clip|satur", instead(1, clamp(-128, 15)))
    yield machine("leaky ReLU by 1", "depthwise", "relu", "leaky", relu=lambda layer, s: np.where(s < 0, s >> 1, s))
    yield machine(
        "ReLU at 8",
        "depthwise",
        "relu",
        "relu.*8|threshold|results_clipped|below 8",
        relu=lambda layer, s: np.where(s < 8, 0, s),
    )
    yield machine(
        "ReLU clips at 127", "stationary", "relu", "clip|clamp|satur.*8 bits", relu=lambda layer, s: s.clip(0, 127)
    )
    yield machine(
        "ReLU negates", "outputs", "relu", "relu_wrong.*negat|sign|negat", relu=lambda layer, s: np.maximum(-s, 0)
    )


def added(by: int) -> Callable[[int], int]:
    return lambda v: v + by


def shifted(index: int, amount: int) -> Any:
    def change(steps: list[Json]) -> list[Json]:
        steps[index]["by"] += amount
        return steps

    return change


# ---- a part of the words, and every result of a run -----------------------------------------------------------------


def partial() -> Cases:
    """Image 1 alone, or some words of the middle: the file says nothing of the others."""
    twice = with_bias(lambda b: 2 * b)
    turned = weights_of(turned_in(None))
    made = (
        (slice(25, 50), machine("bias twice", "plain", ACC, "bias_wrong.*twice", biased=twice)),
        (slice(30, 41), machine("kernel turned", "plain", ACC, "kernel_rotated|effective_kernel", weights=turned)),
        (slice(0, 20), machine("kernel turned", "depthwise", ACC, "kernel_rotated|effective_kernel", weights=turned)),
        (slice(40, 60), machine("sums cut to 8 bits", "pointwise", ACC, "accumulator_wraps.*8",
                                biased=lambda layer, s: wrap_of(add_bias(layer, s), 8))),
        (slice(12, 24), machine("padding of 2", "strided", ACC, "padding_value.*2",
                                padded=lambda layer, x: pad(layer, x, 2))),
        (slice(25, 50), changed("clip at 7", "plain", "clip|clamp", at(1, high=7))),
    )  # fmt: skip
    for part, case in made:
        yield replace(case, name=f"{case.name}, words {part.start} to {part.stop - 1} alone", part=part)


def whole_runs() -> Cases:
    """All results of a run lie in a folder; the later ones follow from the first that is wrong."""

    def floor(layer: Layer, sums: Ints) -> list[Ints]:
        return run_steps(at(0, round="floor")([dict(step) for step in layer.steps]), sums, layer.bias)

    made = (
        ("bias twice", "plain", ACC, "bias_wrong.*twice", Machine(biased=with_bias(lambda b: 2 * b))),
        ("weights never loaded", "pointwise", ACC, "constant|tap_missing", Machine(weights=weights_of(tap_lost(0, 0)))),
        ("kernel turned", "strided", ACC, "kernel_rotated", Machine(weights=weights_of(turned_in(None)))),
        ("ReLU missing", "plain", "relu", "relu_missing", Machine(relu=lambda layer, s: s)),
        ("absolute value", "depthwise", "relu", "size of the value|abs", Machine(relu=lambda layer, s: abs(s))),
        ("rounds down", "plain", "output", "floor", Machine(through=floor)),
        ("sums cut to 16 bits", "tflite", ACC, "accumulator_wraps.*16",
         Machine(biased=lambda layer, s: wrap_of(add_bias(layer, s), 16))),
        ("dead input channel", "matmul", ACC, "term_missing|row 3|k=3", Machine(inputs=zeroed(3))),
    )  # fmt: skip
    for name, on, first, accept, wrong in made:
        words = whole_words(first, wrong)
        yield replace(written(f"{name}, all results", on, first, accept, words), whole=wrong)


def whole_words(tensor: str, wrong: Machine) -> Callable[[Set], Ints]:
    return lambda found: found.words(tensor, wrong.run(found.layer)[tensor])


def cases() -> Cases:
    for group in (in_parts, streams, addresses, behind, partial, whole_runs):
        yield from group()
