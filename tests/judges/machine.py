"""A weight-stationary array in plain Python, and the mistakes that an engineer builds into one.

Written from the contract of the vector set alone (docs/reference/vectors.md); it shares no code with qexport, and must
not: it is the witness of `qexport diagnose`. `Machine` reads a set's files as an array's loader would, runs pass after
pass as the array does, and writes result words. Every step stands in an attribute, which a
mistake replaces: `listed` gives those that `diagnose` has to name, `outside` those that it must not explain."""

import functools
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.judges import decoder

Ints = NDArray[Any]
Tap = tuple[int, int]
Json = dict[str, Any]
OUTSIDE = "unexplained"
RESULTS = ("psum", "accumulator", "relu", "output")


@dataclass(frozen=True)
class Pass:
    """The weights of one tile and tap, and what streams past them."""

    ot: int  # whose accumulators it adds to
    held: tuple[int, int, Tap]  # ot, it, tap of the weights
    met: tuple[int, Tap]  # it, tap of the activations


@functools.cache
def _places(order: str, shape: tuple[int, ...], array: tuple[tuple[str, int], ...]) -> Ints:
    """Flat place in a tensor of `shape` of each (word, lane), all files one after the other."""
    place, _ = decoder.read_order({"order": order, "shape": list(shape)}, dict(array))
    assert place.min() >= 0, f"{order} fills: {shape} is not padded to whole tiles"
    return place.reshape(-1, place.shape[2])


def to_bits(lines: list[str], radix: str, width: int, bits: int) -> Ints:
    """Text of words -> (words, width) of 0 and 1, most significant first."""
    if radix == "dec":
        codes = np.array([[int(one) for one in line.split(" ")] for line in lines])
        return (codes[:, :, None] >> np.arange(bits)[::-1] & 1).reshape(len(lines), width)
    if radix == "bin":
        return np.frombuffer("".join(lines).encode(), np.uint8).reshape(len(lines), width).astype(np.int64) - ord("0")
    digits = -(-width // 8) * 2
    raw = np.frombuffer(bytes.fromhex("".join(line.rjust(digits, "0") for line in lines)), np.uint8)
    return np.unpackbits(raw.reshape(len(lines), -1), axis=1)[:, -width:].astype(np.int64)


def to_text(word: Ints, radix: str, bits: int, signed: bool) -> list[str]:
    """The inverse of `to_bits`."""
    count, width = word.shape
    if radix == "dec":
        codes = value_of(number(word.reshape(count, -1, bits)), bits, signed)
        return [" ".join(map(str, line)) for line in codes.tolist()]
    if radix == "bin":
        return [(row + ord("0")).astype(np.uint8).tobytes().decode() for row in word]
    padded = np.pad(word, ((0, 0), (-width % 8, 0))).astype(np.uint8)
    digits = (width + 3) // 4
    return [row.tobytes().hex()[-digits:] for row in np.packbits(padded, axis=1)]


def number(bits: Ints) -> Ints:
    """Bits of the last axis, most significant first, to numbers."""
    return bits @ (1 << np.arange(bits.shape[-1])[::-1])


def value_of(codes: Ints, bits: int, signed: bool) -> Ints:
    return codes - (codes >> bits - 1 << bits) if signed else codes


def same(value: Any, *_: Any) -> Any:
    return value


class Machine:
    """An array of `row` x `col` multipliers with an accumulator memory, set up for the layer of a set."""

    def __init__(self, folder: Path, *mistakes: Callable[["Machine"], None]) -> None:
        self.folder, self.manifest = folder, json.loads((folder / "manifest.json").read_bytes())
        layer, self.array = self.manifest["layer"], self.manifest["array"]
        self.groups, self.ic, self.oc = layer["groups"], layer["in_channels"], layer["out_channels"]
        self.icg = self.ic // self.groups
        self.row, self.col = self.array.get("row", self.icg), self.array.get("col", self.oc)
        self.it, self.ot = -(-self.icg // self.row), -(-self.oc // self.col)
        self.kernel, self.stride, self.dilation = layer["kernel"], layer["stride"], layer["dilation"]
        self.padding = layer["padding"]
        self.images, _, *self.plane = self.memory("input")["shape"]
        self.taps = list(itertools.product(*map(range, self.kernel)))
        self.requant = self.manifest["formats"].get("output")
        if self.requant is not None:  # multiply, add, shift and clamp of all channels
            multiply, add, shift, _ = self.manifest["steps"]
            self.requant |= {"mul": multiply["by"], "add": add["value"], "shift": shift["by"]}
        self.low, self.high = self.manifest["formats"]["accumulator"]["observed"]
        # every step, where a mistake may be made
        self.weight_word: Callable[[Ints, int], Ints] = same  # (words, bits of a word), bits of an element
        self.input_word: Callable[[Ints, int], Ints] = same
        self.result_word: Callable[[Ints, int], Ints] = same
        self.weight_code, self.input_code = value_of, value_of
        self.weights: Callable[[Ints], Ints] = same  # (ot, col, it, row, kh, kw)
        self.image: Callable[[Ints], Ints] = same  # (n, ic, iy, ix)
        self.corner = self.padding[0], self.padding[2]  # where the image stands in the padded plane
        self.fill = 0
        self.border: Callable[[Ints, Ints], Ints] = same  # the padded plane, the image
        self.rows: Callable[[Ints], Ints] = same  # (g, it, row, n, py, px): what each row is fed
        self.walk = [
            Pass(ot, (ot, it, tap), (it, tap))
            for ot, it, tap in itertools.product(range(self.ot), range(self.it), self.taps)
        ]
        self.cold: Callable[[Ints], Ints] | None = (
            None  # (col, row): what the very first pass holds, if not its weights
        )
        self.multiply: Callable[[Ints, Ints], Ints] = lambda weight, activation: weight * activation
        self.column: Callable[[Ints], Ints] = lambda products: products.sum(1)  # (col, row, n, py, px)
        self.psum: Callable[[Ints], Ints] = same  # (col, n, py, px)
        self.outputs: tuple[int, int] | None = None  # size of the output plane, if it is a wrong one
        self.before: Callable[[Ints, int], Ints] = same  # accumulators of an output tile before its pass of that number
        self.add: Callable[[Ints, Ints], Ints] = lambda accumulator, psum: accumulator + psum
        self.total: Callable[[Ints], Ints] = same  # (ot, col, n, oy, ox) after the last pass
        self.biases: Callable[[Ints], Ints] = same  # (ot, col)
        self.biased: Callable[[Ints], Ints] = same  # (ot, col, n, oy, ox)
        self.rectify: Callable[[Ints], Ints] = lambda accumulator: np.maximum(accumulator, 0)
        self.code: Callable[[Ints], Ints] = self.requantize
        self.arrange: Callable[[Ints], Ints] = same  # (ot, col, n, oy, ox) on the way to the result memory
        self.words: Callable[[Ints, int], Ints] = (
            same  # (words, bits of a word) as they are written; bits of an element
        )
        self.lines: Callable[[list[str], Json], list[str]] = same
        for mistake in mistakes:
            mistake(self)

    def memory(self, tensor: str) -> Json:
        return next(memory for memory in self.manifest["memories"] if memory["tensor"] == tensor)

    def has(self, tensor: str) -> bool:
        return any(memory["tensor"] == tensor for memory in self.manifest["memories"])

    def requantize(self, relu: Ints) -> Ints:
        assert self.requant is not None
        shift = self.requant["shift"]
        return np.minimum((relu * self.requant["mul"] + self.requant["add"]) >> shift, (1 << self.requant["bits"]) - 1)

    # ---- loading ----------------------------------------------------------------------------------------------------

    def load(self, tensor: str, shape: tuple[int, ...], word: Callable[..., Ints], code: Callable[..., Ints]) -> Ints:
        """A tensor of `shape`, which is padded to whole tiles, from the words of its memory."""
        memory, lines = self.memory(tensor), list[str]()
        for file in memory["files"]:
            lines += (self.folder / file["path"]).read_text().splitlines()[len(memory["header"]) :]
        bits = memory["bits"]
        words = word(to_bits(lines, memory["radix"], memory["word_bits"], bits), bits)
        codes = code(number(words.reshape(len(lines), -1, bits)), bits, memory["signed"]) - memory["offset"]
        loaded = np.zeros(shape, np.int64)
        loaded.flat[_places(memory["order"], shape, tuple(self.array.items()))] = codes
        return loaded

    def load_weights(self) -> Ints:
        tiles = (self.ot, self.col, self.it, self.row, *self.kernel)
        shape = (self.ot * self.col, self.it * self.row, *self.kernel)
        return self.weights(self.load("weight", shape, self.weight_word, self.weight_code).reshape(tiles))

    def load_rows(self) -> Ints:
        """What streams past the rows: (g, it, row, n, py, px)."""
        channels = -(-self.ic // self.row) * self.row
        shape = (self.images, channels, *self.plane)
        image = self.image(self.load("input", shape, self.input_word, self.input_code)[:, : self.ic])
        top, bottom, left, right = self.padding
        padded = np.full((self.images, self.ic, self.plane[0] + top + bottom, self.plane[1] + left + right), self.fill)
        for y, x in itertools.product(*map(range, self.plane)):
            at = y + self.corner[0], x + self.corner[1]
            if all(0 <= place < size for place, size in zip(at, padded.shape[2:], strict=True)):
                padded[:, :, *at] = image[:, :, y, x]
        padded = self.border(padded, image)
        PY, PX = padded.shape[2:]
        rows = np.zeros((self.groups, self.it * self.row, self.images, PY, PX), np.int64)
        rows[:, : self.icg] = padded.reshape(self.images, self.groups, self.icg, PY, PX).transpose(1, 2, 0, 3, 4)
        return self.rows(rows.reshape(self.groups, self.it, self.row, self.images, PY, PX))

    # ---- computing --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def results(self) -> dict[str, Ints]:
        """(n, oc, oy, ox) of each result, oc padded to whole tiles; psum (n, it, kh, kw, oc, py, px)."""
        weights, rows = self.load_weights(), self.load_rows()
        (PY, PX), (sy, sx), (dy, dx) = rows.shape[4:], self.stride, self.dilation
        ends = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        OY, OX = self.outputs or ((PY - ends[0]) // sy + 1, (PX - ends[1]) // sx + 1)
        y, x = np.ogrid[:OY, :OX]
        group = np.minimum(np.arange(self.ot * self.col) // (self.oc // self.groups), self.groups - 1)
        group = group.reshape(self.ot, self.col)
        sums = np.zeros((self.ot, self.col, self.images, OY, OX), np.int64)
        psums, done = list[Ints](), [0] * self.ot
        for number, one in enumerate(self.walk):
            (ot, it, (kh, kw)), (met, (ah, aw)) = one.held, one.met
            fed = rows[group[one.ot], met] if self.groups > 1 else rows[:1, met]  # (col or 1, row, n, py, px)
            psum = self.through(weights[ot, :, it, :, kh, kw], fed)
            if self.cold is not None and number == 0:
                psum[:, :1] = self.through(self.cold(weights), fed[:, :, :1])
            psums.append(psum)
            before = self.before(sums[one.ot], done[one.ot])
            sums[one.ot] = self.add(before, psum[:, :, y * sy + ah * dy, x * sx + aw * dx])
            done[one.ot] += 1
        biases = np.zeros((self.ot, self.col), np.int64)
        if self.has("bias"):
            biases = self.load("bias", (self.ot * self.col,), same, value_of).reshape(biases.shape)
        accumulator = self.biased(self.total(sums) + self.biases(biases)[:, :, None, None, None])
        relu = self.rectify(accumulator)
        results = {"accumulator": accumulator, "relu": relu}
        if self.requant is not None:
            results["output"] = self.code(relu)
        shape = (self.images, self.ot * self.col, OY, OX)
        results = {name: self.arrange(r).transpose(2, 0, 1, 3, 4).reshape(shape) for name, r in results.items()}
        if len(psums) == self.ot * self.it * len(self.taps):
            streamed = np.stack(psums).reshape(self.ot, self.it, *self.kernel, self.col, self.images, PY, PX)
            shape = (self.images, self.it, *self.kernel, self.ot * self.col, PY, PX)
            results["psum"] = streamed.transpose(5, 1, 2, 3, 0, 4, 6, 7).reshape(shape)
        return results

    def through(self, held: Ints, fed: Ints) -> Ints:
        """(col, n, py, px) of the weights (col, row) and what streams past them (col or 1, row, n, py, px)."""
        return self.psum(self.column(self.multiply(held[:, :, None, None, None], fed)))

    def text(self, tensor: str) -> str:
        """What comes back of a result: the words of its memory's files one after the other, without headers."""
        memory, values = self.memory(tensor), self.results[tensor]
        bits = memory["bits"]
        codes = values.flat[_places(memory["order"], values.shape, tuple(self.array.items()))] + memory["offset"]
        if memory["overflow"] == "saturate":
            low, high = decoder.code_range(memory)
            codes = codes.clip(low, high)
        raw = (codes[:, :, None] >> np.arange(bits)[::-1] & 1).reshape(len(codes), -1)
        words = self.result_word(self.words(raw, bits), bits)
        return "".join(
            f"{line}\n" for line in self.lines(to_text(words, memory["radix"], bits, memory["signed"]), memory)
        )


# ---- mistakes -------------------------------------------------------------------------------------------------------

Mistake = Callable[[Machine], None]


@dataclass(frozen=True)
class Fault:
    """A mistake, the name that `diagnose` has to give it, and how it was made. A probe only shows which mistakes cannot
    be told apart."""

    name: str
    how: str
    apply: Mistake
    probe: bool = False


def put(**steps: Any) -> Mistake:
    """Replace steps of the machine."""

    def apply(machine: Machine) -> None:
        for name, step in steps.items():
            assert hasattr(machine, name), name
            setattr(machine, name, step)

    return apply


def fault(name: str, how: str, *made: Mistake, probe: bool = False, **steps: Any) -> Fault:
    mistakes = (*made, put(**steps))

    def apply(machine: Machine) -> None:
        for mistake in mistakes:
            mistake(machine)

    return Fault(name, how, apply, probe)


def bytewise(swap: Callable[[Ints], Ints]) -> Callable[[Ints, int], Ints]:
    """A change of words as bytes: (words, bytes, 8); a word that is no whole number of bytes has zeros before it."""

    def word(words: Ints, _: int) -> Ints:
        padded = np.pad(words, ((0, 0), (-words.shape[1] % 8, 0)))
        return swap(padded.reshape(len(words), -1, 8)).reshape(len(words), -1)[:, -words.shape[1] :]

    return word


def lanewise(change: Callable[[Ints], Ints]) -> Callable[[Ints, int], Ints]:
    """A change of words as elements: (words, lanes, bits)."""
    return lambda words, bits: change(words.reshape(len(words), -1, bits).copy()).reshape(words.shape)


SWAPS: dict[str, dict[str, Callable[[Ints, int], Ints]]] = {
    "nibbles": {
        "of each byte": bytewise(lambda b: np.roll(b, 4, axis=2)),
        "of the word": lambda words, _: words.reshape(len(words), -1, 4)[:, ::-1].reshape(words.shape),
    },
    "bytes": {
        "of the word": bytewise(lambda b: b[:, ::-1]),
        "of 16 bits": bytewise(lambda b: b.reshape(len(b), -1, 2, 8)[:, :, ::-1] if b.shape[1] % 2 == 0 else b),
    },
    "bits": {
        "of each element": lanewise(lambda e: e[:, :, ::-1]),
        "of the word": lambda words, _: words[:, ::-1],
        "of each byte": bytewise(lambda b: b[:, :, ::-1]),
    },
}


def walked(machine: Machine, held: list[Tap], met: list[Tap]) -> Mistake:
    """Each tile's passes hold the weights of these taps while they meet the activations of those."""
    tiles = itertools.product(range(machine.ot), range(machine.it))
    pairs = list(zip(held, met, strict=True))
    return put(walk=[Pass(ot, (ot, it, tap), (it, other)) for ot, it in tiles for tap, other in pairs])


def flat(machine: Machine) -> Callable[[Ints, Ints], Ints]:
    """The padding is not masked: what lies at the address that is computed for it comes through."""
    top, _, left, _ = machine.padding

    def border(padded: Ints, image: Ints) -> Ints:
        y, x = np.ogrid[: padded.shape[2], : padded.shape[3]]
        address = ((y - top) * image.shape[3] + x - left) % math.prod(image.shape[2:])
        return image.reshape(*image.shape[:2], -1)[:, :, address]

    return border


def clamped(machine: Machine) -> Callable[[Ints, Ints], Ints]:
    """The border of the image is read again in the padding."""
    top, bottom, left, right = machine.padding
    return lambda padded, image: np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="edge")


def delayed(by: int, stream: bool) -> Callable[[Ints], Ints]:
    """Row r is fed `by` x r cycles late; in front of the stream, or of each image of it, stand zeros."""

    def rows(fed: Ints) -> Ints:
        late, shape = np.zeros_like(fed), (fed.shape[3] if not stream else 1, -1)
        for r in range(fed.shape[2]):
            lines = fed[:, :, r].reshape(*fed.shape[:2], *shape)
            to = late[:, :, r].reshape(lines.shape)
            n, size = min(abs(by) * r, lines.shape[-1]), lines.shape[-1]
            if by > 0:
                to[..., n:] = lines[..., : size - n]
            else:
                to[..., : size - n] = lines[..., n:]
            late[:, :, r] = to.reshape(late[:, :, r].shape)
        return late

    return rows


def stale(machine: Machine, back: int, cold: Callable[[Ints], Ints] | None) -> Mistake:
    """Each pass holds the weights of the pass `back` passes before it; the very first, `cold`."""
    walk = machine.walk
    return put(walk=[Pass(one.ot, walk[number - back].held, one.met) for number, one in enumerate(walk)], cold=cold)


def at_pass(first: int, change: Callable[[Ints], Ints], every: int = 0) -> Callable[[Ints, int], Ints]:
    """`change` of the accumulators before a tile's pass number `first`, and `every` so many after it."""
    return lambda sums, done: (
        change(sums) if done == first or (every and done > first and (done - first) % every == 0) else sums
    )


def wrapped(bits: int) -> Callable[[Ints], Ints]:
    return lambda value: value_of(value & (1 << bits) - 1, bits, True)


def clipped(bits: int) -> Callable[[Ints], Ints]:
    return lambda value: value.clip(-(1 << bits - 1), (1 << bits - 1) - 1)


def after(change: Callable[[Ints], Ints]) -> Callable[[Ints, Ints], Ints]:
    """Adds, then changes the sum."""
    return lambda accumulator, psum: change(accumulator + psum)


def shifted(by: int) -> Callable[[Ints, int], Ints]:
    """Words come `by` places late, zeros before them; negative: early, so that the last are missing."""
    return lambda words, _: (
        np.concatenate([np.zeros_like(words[:by]), words[: len(words) - by]]) if by > 0 else words[-by:]
    )


def stuck(lane: int, bit: int) -> Callable[[Ints, int], Ints]:
    """Lane `lane` from the least significant one stays at 0 or all ones."""

    def change(elements: Ints) -> Ints:
        elements[:, -1 - lane] = bit
        return elements

    return lanewise(change)


def zero_row(row: int) -> Callable[[Ints], Ints]:
    return lambda fed: np.where(np.arange(fed.shape[2])[:, None, None, None] == row, 0, fed)


def unknown(which: Callable[[int, int], bool]) -> Callable[[list[str], Json], list[str]]:
    """X digits in the lanes where `which`(word, lane from the least significant) holds."""

    def lines(known: list[str], memory: Json) -> list[str]:
        lanes, written = memory["word_bits"] // memory["bits"], []
        for number, line in enumerate(known):
            parts = line.split(" ") if memory["radix"] == "dec" else list(_cut(line, lanes))
            for lane in range(lanes):
                if which(number, lane):
                    parts[-1 - lane] = "x" * (1 if memory["radix"] == "dec" else len(parts[-1 - lane]))
            written.append((" " if memory["radix"] == "dec" else "").join(parts))
        return written

    return lines


def _cut(line: str, parts: int) -> Iterator[str]:
    size = len(line) // parts
    return (line[at : at + size] for at in range(0, size * parts, size))


def real_code(machine: Machine, rounding: Callable[[Any], Any]) -> Callable[[Ints], Ints]:
    """Requantization as the real quotient of the scales, with a rounding of one's own."""
    formats = machine.manifest["formats"]
    step = np.multiply(formats["weight"]["scale"], formats["input"]["scale"])
    top = (1 << formats["output"]["bits"]) - 1 if "output" in formats else 0
    return lambda relu: np.minimum(rounding(relu * step / formats["output"]["scale"]), top).astype(np.int64)


def by_integers(machine: Machine, half: float, by: int = 0) -> Callable[[Ints], Ints]:
    """Requantization with another share of a half added before the shift, and a shift that is off `by` places."""
    out = machine.requant or {"mul": 1, "shift": 1, "bits": 1}
    shift = out["shift"] - by
    return lambda relu: np.minimum((relu * out["mul"] + int(half * 2**shift)) >> shift, (1 << out["bits"]) - 1)


def even_by_integers(machine: Machine) -> Callable[[Ints], Ints]:
    """As the contract's formula, but an exact half goes to the even code."""
    out = machine.requant or {"mul": 1, "shift": 1, "bits": 1}

    def code(relu: Ints) -> Ints:
        whole, rest = np.divmod(relu * out["mul"], 1 << out["shift"])
        half = 1 << out["shift"] - 1
        return np.minimum(whole + ((rest > half) | ((rest == half) & (whole % 2 == 1))), (1 << out["bits"]) - 1)

    return code


def toward_zero(machine: Machine) -> Callable[[Ints], Ints]:
    out = machine.requant or {"mul": 1, "shift": 1, "bits": 1}
    return lambda relu: np.minimum(
        np.trunc(relu * out["mul"] / (1 << out["shift"])).astype(np.int64), (1 << out["bits"]) - 1
    )


def no_relu_code(machine: Machine) -> Callable[[Ints], Ints]:
    """Negative sums reach an unsigned requantizer and are too large for it."""
    top = (1 << machine.requant["bits"]) - 1 if machine.requant else 0
    return lambda sums: np.where(sums < 0, top, machine.requantize(np.maximum(sums, 0)))


def listed(m: Machine) -> Iterator[Fault]:
    """Every mistake that `diagnose` has to name, in some ways each, for the sizes of the machine `m`."""
    taps, last = m.taps, len(m.taps) - 1
    width = max(m.high, -m.low - 1, 1).bit_length() + 1  # bits that hold every accumulator of these images
    top, bottom, left, right = m.padding

    # the array
    yield fault("rows_reversed", "weights", weights=lambda w: w[:, :, :, ::-1])
    yield fault("columns_reversed", "weights", weights=lambda w: w[:, ::-1])
    yield fault("columns_reversed", "results", arrange=lambda r: r[:, ::-1])
    if m.row == m.col:
        yield fault("rows_columns_transposed", "weights", weights=lambda w: w.transpose(0, 3, 2, 1, 4, 5))
    if last:
        yield fault("kernel_rotated", "", walked(m, taps[::-1], taps))
        turned = [(kh, kw) for kw in range(m.kernel[1]) for kh in range(m.kernel[0])]
        yield fault("kh_kw_swapped", "", walked(m, taps, turned))
        if m.kernel[0] > 1:
            yield fault("tap_order", "kh reversed", walked(m, [(m.kernel[0] - 1 - kh, kw) for kh, kw in taps], taps))
        if m.kernel[1] > 1:
            yield fault("tap_order", "kw reversed", walked(m, [(kh, m.kernel[1] - 1 - kw) for kh, kw in taps], taps))
            snake = [(kh, m.kernel[1] - 1 - kw if kh % 2 else kw) for kh, kw in taps]
            yield fault("tap_order", "snake", walked(m, taps, snake), probe=True)
        yield fault("tap_off_by_one", "one late", walked(m, taps[-1:] + taps[:-1], taps))
        yield fault("tap_off_by_one", "one early", walked(m, taps[1:] + taps[:1], taps))
        yield fault("tap_off_by_one", "one late, first again", walked(m, taps[:1] + taps[:-1], taps))
        yield fault("tap_off_by_one", "one early, last again", walked(m, taps[1:] + taps[-1:], taps))
        yield fault("tap_off_by_one", "one late, first not", walked(m, taps[:-1], taps[1:]), probe=True)
        yield fault("tap_off_by_one", "one early, last not", walked(m, taps[1:], taps[:-1]), probe=True)
        for axis, name in enumerate(("kh", "kw")):  # the counter of one axis is off
            for by in (-1, 1):
                held = [tuple((at + by * (a == axis)) % m.kernel[a] for a, at in enumerate(tap)) for tap in taps]
                yield fault("tap_off_by_one", f"{name} {by:+d}", walked(m, held, taps), probe=True)
        for tap in range(last + 1):
            some = tap not in (0, last // 2, last)
            rest = taps[:tap] + taps[tap + 1 :]
            yield fault("tap_missing", f"tap {tap}", walked(m, rest, rest), probe=some)
            yield fault("tap_twice", f"tap {tap}", walked(m, taps + taps[tap : tap + 1], taps + taps[tap : tap + 1]),
                        probe=some)  # fmt: skip
    for step in (-1, 1):
        for how, stream in (("zeros between images", False), ("images without a gap", True)):
            when = "late" if step > 0 else "early"
            yield fault("skew", f"{when}, {how}", rows=delayed(step, stream))

    # words
    for name, ways in SWAPS.items():
        for how, swap in ways.items():
            some = (name, how) == ("nibbles", "of the word")
            yield fault(f"weight_{name}", how, weight_word=swap, probe=some)
            yield fault(f"input_{name}", how, input_word=swap, probe=some)
            yield fault(f"output_{name}", how, result_word=swap, probe=some)
    yield fault("input_signed", "", input_code=lambda c, bits, _: value_of(c, bits, True))
    yield fault("weight_unsigned", "", weight_code=lambda c, bits, _: c)
    yield fault("sign_magnitude", "weights", weight_code=lambda c, bits, _: np.where(
        c >> bits - 1, -(c & (1 << bits - 1) - 1), c))  # fmt: skip

    # padding, stride
    if any(m.padding):
        PY, PX = m.plane[0] + top + bottom, m.plane[1] + left + right
        inner = [
            (size - d * (k - 1) - 1) // s + 1
            for size, d, k, s in zip(m.plane, m.dilation, m.kernel, m.stride, strict=True)
        ]
        if min(inner) > 0:
            yield fault("padding_missing", "fewer outputs", border=lambda padded, image: image)
        yield fault("padding_missing", "not masked", border=flat(m))
        yield fault("padding_value", "the border again", border=clamped(m))
        code = m.manifest["formats"]["input"]
        largest = (1 << code["bits"] - code["signed"]) - 1
        for value in range(1, largest + 1):
            yield fault("padding_value", str(value), fill=value, probe=value not in (1, largest // 2 + 1, largest))
        yield fault("padding_side", "opposite", corner=(bottom, right))
        yield fault("padding_side", "all at the top and left", corner=(top + bottom, left + right))
        yield fault("padding_side", "all at the bottom and right", corner=(0, 0))
        for y, x in itertools.product({0, top, bottom, top + bottom}, {0, left, right, left + right}):
            yield fault("padding_side", f"{y} at the top, {x} at the left", corner=(y, x), probe=True)
        for y, x in itertools.product((-1, 0, 1), repeat=2):
            if y or x:
                yield fault("padding_shifted", f"{y:+d} {x:+d}", corner=(top + y, left + x),
                            probe=y * x < 0)  # fmt: skip
    if tuple(m.stride) != (1, 1):
        sizes = zip((PY, PX) if any(m.padding) else m.plane, m.dilation, m.kernel, m.stride, strict=True)
        outputs = tuple((size - d * (k - 1) - 1) // s + 1 for size, d, k, s in sizes)
        yield fault("stride_ignored", "more outputs", stride=(1, 1))
        yield fault("stride_ignored", "as many outputs", stride=(1, 1), outputs=outputs)

    # tiles
    its, ots = range(m.it), range(m.ot)
    if m.it > 1:
        orders = {"reversed": [*its][::-1], "first two swapped": [1, 0, *its[2:]], "rotated": [*its[1:], 0]}
        for how, order in orders.items():
            yield fault("input_tile_order", how, walk=[
                Pass(p.ot, (p.ot, order[p.held[1]], p.held[2]), p.met) for p in m.walk], probe=how == "rotated",
            )  # fmt: skip
    if m.ot > 1:
        orders = {"reversed": [*ots][::-1], "first two swapped": [1, 0, *ots[2:]], "rotated": [*ots[1:], 0]}
        for how, order in orders.items():
            yield fault("output_tile_order", how, arrange=lambda r, order=order: r[order], probe=how == "rotated")
            yield fault("output_tile_order", f"weights {how}", weights=lambda w, order=order: w[order],
                        probe=how != "reversed")  # fmt: skip
    if m.it > 1:
        size = len(taps)
        yield fault("tile_overwritten", "", before=at_pass(size, np.zeros_like, size))
        yield fault("tile_missing", "last", walk=[p for p in m.walk if p.met[0] != m.it - 1])
        yield fault("tile_missing", "first", walk=[p for p in m.walk if p.met[0]])
        for it in its[1:-1]:
            yield fault("tile_missing", str(it), walk=[p for p in m.walk if p.met[0] != it], probe=True)
    ends = [p for p in m.walk if p.met != (m.it - 1, taps[-1])]
    yield fault("tile_missing", "last pass", walk=ends)

    # accumulators
    for bits in range(4, width):
        some = bits not in (width - 1, width - 2)
        yield fault("accumulator_wraps", f"{bits} bits", add=after(wrapped(bits)), biased=wrapped(bits), probe=some)
        yield fault("accumulator_wraps", f"{bits} bits, bias wider", add=after(wrapped(bits)), probe=True)
        unsigned = (1 << bits) - 1
        yield fault(
            "accumulator_wraps", f"{bits} bits without sign", biased=lambda s, top=unsigned: s & top, probe=True
        )
        yield fault("accumulator_saturates", f"{bits} bits without sign", biased=lambda s, top=unsigned: s.clip(0, top),
                    probe=True)  # fmt: skip
        yield fault("accumulator_saturates", f"{bits} bits", add=after(clipped(bits)), biased=clipped(bits), probe=some)
        yield fault("accumulator_saturates", f"{bits} bits, bias wider", add=after(clipped(bits)), probe=True)
        yield fault("accumulator_saturates", f"{bits} bits, at the end", biased=clipped(bits), probe=bits != width - 1)
    bits = m.memory("weight")["bits"]
    yield fault("psum_cut", "", psum=wrapped(bits))
    yield fault("psum_cut", "read as unsigned", psum=lambda p: p & (1 << bits) - 1)
    yield fault("stale_accumulator", "sums go on", total=lambda sums: np.cumsum(sums, axis=2))
    yield fault("stale_accumulator", "one image back", total=lambda sums: sums + np.concatenate(
        [np.zeros_like(sums[:, :, :1]), sums[:, :, :-1]], axis=2))  # fmt: skip
    yield fault("stale_weights", "pass before, 0 at the start", stale(m, 1, lambda w: w[0, :, 0, :, 0, 0] * 0))
    yield fault("stale_weights", "pass before, its own at the start", stale(m, 1, lambda w: w[0, :, 0, :, 0, 0]))
    yield fault("stale_weights", "pass before, the last at the start", stale(m, 1, None), probe=True)
    held = [one.held for one in m.walk]
    own = [Pass(one.ot, before, one.met) for one, before in zip(m.walk, held[:1] + held[:-1], strict=True)]
    yield fault("stale_weights", "pass before, its own at the start of each image", walk=own, probe=True)
    if m.it * m.ot > 1:
        yield fault("stale_weights", "tile before", stale(m, len(taps), None))
    if m.has("bias"):
        yield fault("bias_missing", "", biases=np.zeros_like)

    # results
    count = m.it * len(taps)
    yield fault("relu_missing", "", rectify=same)
    yield fault("relu_missing", "unsigned requantizer", rectify=same, code=no_relu_code(m))
    positive = functools.partial(np.maximum, 0)
    for how, step in {"last pass": count - 1, "last tile": count - len(taps)}.items():
        if step > 0:
            early = at_pass(step, positive)
            yield fault("relu_early", f"before the {how}", before=early, rectify=same)
            yield fault("relu_early", f"before the {how}, and at the end", before=early)
    if m.has("bias"):
        yield fault("relu_early", "before the bias", total=positive, rectify=same)
        yield fault("relu_early", "before the bias, and at the end", total=positive)
    yield fault("requant_floor", "", code=by_integers(m, 0))
    yield fault("requant_half_up", "of the real quotient", code=real_code(m, lambda q: np.floor(q + 0.5)))
    yield fault("requant_half_up", "of integers", code=by_integers(m, 0.5), probe=True)
    yield fault("requant_half_even", "of the real quotient", code=real_code(m, np.rint))
    yield fault("requant_half_even", "of integers", code=even_by_integers(m))
    yield fault("requant_toward_zero", "", code=toward_zero(m))
    for by in (-2, -1, 1, 2):
        yield fault("scale_power_of_two", f"{by:+d}", code=by_integers(m, 0.5, by), probe=abs(by) > 1)

    # the way out
    for by in (-2, -1, 1, 2):
        yield fault("words_shifted", f"{by:+d}", words=shifted(by), probe=by == -2)
    yield fault("image_order", "reversed", arrange=lambda r: r[:, :, ::-1])
    yield fault("image_order", "rotated", arrange=lambda r: np.roll(r, 1, axis=2))
    if m.images > 1:
        swap = [1, 0, *range(2, m.images)]
        yield fault("image_order", "first two swapped", arrange=lambda r: r[:, :, swap], probe=True)
    for lane in range(m.col):
        yield fault("lane_stuck", f"lane {lane} at 0", words=stuck(lane, 0), probe=lane != 1)
        yield fault("lane_stuck", f"lane {lane} at 1", words=stuck(lane, 1), probe=lane != 2)
    for row in range(m.row):
        yield fault("lane_stuck", f"row {row} at 0", rows=zero_row(row), probe=row != 1)
    yield fault("x_values", "one lane", lines=unknown(lambda word, lane: lane == 2))
    yield fault("x_values", "first words", lines=unknown(lambda word, lane: word < 3))
    yield fault("x_values", "all", lines=unknown(lambda word, lane: True))
    yield fault("pe_dead", "one dead element", weights=changed(np.s_[:, 4, :, 3], lambda w: 0))
    yield fault("input_bit_stuck", "lowest bit of activations is 0", image=lambda x: x & ~1)
    yield fault("pe_dead", "column 5 leaves out row 7", weights=changed(np.s_[:, 5, :, -1], lambda w: 0))
    yield fault("pe_product_bit", "products without their lowest bit", multiply=lambda w, a: w * a & ~1)
    yield fault("pe_product_wrong", "row 0 adds twice", column=lambda products: products.sum(1) + products[:, 0])
    yield fault("pe_carry", "carry broken at bit 4", add=broken_carry(4))
    yield fault("pe_carry", "carry broken at bit 6", add=broken_carry(6))
    yield fault("pe_input_wrong", "row 2 reads row 3's bank", rows=changed(np.s_[:, :, 2], lambda fed: fed[:, :, 3]))
    yield fault("input_address", "positions exchanged in pairs", rows=pairs_swapped)
    yield fault("weight_address", "tiles backwards", weights=lambda w: w[:, ::-1, :, :, ::-1, ::-1], probe=True)
    if m.row == m.col and m.kernel[0] == m.kernel[1] and m.it == m.ot == 1:
        yield fault(
            "weight_axes", "all axes the other way", weights=lambda w: w.transpose(0, 3, 2, 1, 5, 4), probe=True
        )
    yield fault("input_axes", "image upside down", image=lambda x: x[:, :, ::-1])
    yield fault("output_axes", "results mirrored", arrange=lambda r: r[..., ::-1])
    yield fault("results_exchanged", "column 1 shows column 0", arrange=changed(np.s_[:, 1], lambda r: r[:, 0]))
    yield fault("words_held", "every 5th word repeats", words=held_words(5))
    yield fault("results_clipped", "ReLU cuts at a third", rectify=lambda s: s.clip(0, m.high // 3))
    yield fault("relu_wrong", "leaky ReLU", rectify=lambda s: np.where(s < 0, s >> 3, s))
    yield fault("relu_wrong", "absolute value for ReLU", rectify=np.abs)
    yield fault(
        "weight_channel", "column 1 holds the weights of column 0", weights=changed(np.s_[:, 1], lambda w: w[:, 0])
    )
    yield fault("requant_fitted", "requantized by 9/10", code=lambda relu: m.requantize(relu * 9 // 10))


PAIRS = (
    ("rows_reversed", "columns_reversed"),
    ("rows_columns_transposed", "kh_kw_swapped"),
    ("columns_reversed", "kernel_rotated"),
    ("input_signed", "weight_unsigned"),
    ("sign_magnitude", "relu_missing"),
    ("bias_missing", "relu_missing"),
    ("weight_bits", "input_bits"),
    ("relu_early", "relu_missing"),
)


def paired(m: Machine) -> Iterator[Fault]:
    """Two mistakes at once that an engineer makes together: the ways of the first with the first way of the second."""
    ways: dict[str, list[Fault]] = defaultdict(list)
    for one in listed(m):
        ways[one.name].append(one)
    for pair in PAIRS:
        for number, one in enumerate(ways[pair[0]]):
            for other in ways[pair[1]][:1]:
                yield fault(" + ".join(sorted(pair)), one.how, one.apply, other.apply, probe=number > 0)


# ---- mistakes that no cause names -----------------------------------------------------------------------------------


def flips(seed: int, share: float) -> Callable[[Ints, int], Ints]:
    """Single bits of a memory read wrong."""

    def word(words: Ints, _: int) -> Ints:
        return words ^ (np.random.default_rng(seed).random(words.shape) < share)

    return word


def broken_carry(bit: int) -> Callable[[Ints, Ints], Ints]:
    """An adder without the carry into `bit`."""
    low = (1 << bit) - 1
    return lambda a, b: (((a >> bit) + (b >> bit)) << bit) | ((a & low) + (b & low) & low)


def changed(at: tuple[Any, ...], to: Callable[[Ints], Any]) -> Callable[[Ints], Ints]:
    """A part of an array replaced by something made of the array."""

    def change(array: Ints) -> Ints:
        array = array.copy()
        array[at] = to(array)
        return array

    return change


def mixed_lanes(elements: Ints) -> Ints:
    elements[:, -2] ^= elements[:, -1]
    return elements


def low_bits_swapped(elements: Ints) -> Ints:
    elements[:, :, [-1, -2]] = elements[:, :, [-2, -1]]
    return elements


def held_words(every: int) -> Callable[[Ints, int], Ints]:
    """Each so manieth word is the one before it again."""

    def words(written: Ints, _: int) -> Ints:
        written = written.copy()
        written[every - 1 :: every] = written[every - 2 :: every][: len(written[every - 1 :: every])]
        return written

    return words


def skipped(products: Ints) -> Ints:
    """A row is skipped when the product of the row above it is 0."""
    above = np.pad(products[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)), constant_values=1)
    return np.where(above == 0, 0, products).sum(1)


def pairs_swapped(fed: Ints) -> Ints:
    """The two halves of a ping-pong buffer are read in the wrong order: positions 2k and 2k+1 change places."""
    flat = fed.reshape(*fed.shape[:4], -1).copy()
    even = flat.shape[-1] // 2 * 2
    flat[..., :even] = flat[..., :even].reshape(*flat.shape[:-1], -1, 2)[..., ::-1].reshape(*flat.shape[:-1], -1)
    return flat.reshape(fed.shape)


def outside(m: Machine) -> Iterator[Fault]:
    """Mistakes that are none of the causes' list, alone or in sensible pairs."""

    def other(how: str, **steps: Any) -> Fault:
        return fault(OUTSIDE, how, **steps)

    yield other("random bits of the weights", weight_word=flips(1, 0.03))
    yield other("random bits of the inputs", input_word=flips(2, 0.03))
    yield other("random bits of the results", words=lambda words, bits: flips(3, 0.02)(words, bits))
    yield other("multiplier fails for 8", multiply=lambda w, a: w * a * (a != 8))
    yield other("products in steps of three", multiply=lambda w, a: w * a // 3 * 3)
    yield other("products with the weight's square", multiply=lambda w, a: w * abs(w) * a)
    yield other("products of large activations halved", multiply=lambda w, a: np.where(a > 9, w * a // 2, w * a))
    yield other("sums lose a sixteenth in each pass", add=after(lambda s: s - (s >> 4)))
    yield other("activations 3 and 5 exchanged", image=lambda x: np.where(x == 3, 5, np.where(x == 5, 3, x)))
    yield other("weights 1 and 2 exchanged", weights=lambda w: np.where(w == 1, 2, np.where(w == 2, 1, w)))
    yield other("input lanes 0 and 1 XORed", input_word=lanewise(mixed_lanes))
    yield other("adder saturates at 3/4 of the largest sum", add=after(lambda s: np.minimum(s, m.high * 3 // 4)))
    yield other("weights clipped to +-4", weights=lambda w: w.clip(-4, 4))
    yield other("activations clipped to 7", image=lambda x: x.clip(max=7))
    yield other("bit 4 of sums is 1", total=lambda sums: sums | 16)
    yield other("weights read as ones' complement", weight_code=lambda c, bits, _: value_of(c, bits, True) + (
        c >> bits - 1))  # fmt: skip
    yield other("activation bits 0 and 1 exchanged", input_word=lanewise(low_bits_swapped))
    yield other("rows skipped after a zero", column=skipped)
    yield other("activations of the image before in row 1", rows=changed(
        np.s_[:, :, 1], lambda fed: np.roll(fed[:, :, 1], 1, axis=2)))  # fmt: skip
    yield other(
        "sums lose an eighth before the last pass", before=at_pass(m.it * len(m.taps) - 1, lambda s: s - (s >> 3))
    )
