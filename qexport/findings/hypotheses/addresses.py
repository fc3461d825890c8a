"""Mistakes with addresses: offsets, pitches, lost bits, and tensors that are read in another order of their axes."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model

_CHECK = "Check base, pitch and width of the address"
WEIGHT_ADDRESS = Mistake("weight_address", f"{_CHECK} of the weights.")
INPUT_ADDRESS = Mistake("input_address", f"{_CHECK} of the activations.")
OUTPUT_ADDRESS = Mistake("output_address", f"{_CHECK} at which results are written.")
_AXES = "in the order of axes in which they are stored, as NCHW and NHWC, OIHW and HWIO are apart."
WEIGHT_AXES = Mistake("weight_axes", f"Read the weights {_AXES}")
INPUT_AXES = Mistake("input_axes", f"Read the activations {_AXES}")
OUTPUT_AXES = Mistake("output_axes", f"Write the results {_AXES}")
_LETTERS = {"weight": "OIHW", "input": "CHW", "output": "CHW"}
_WIDE = 1 << 21  # elements of a tensor of which only words are moved
Indices = Iterator[tuple[str, Int64]]


def address_mistakes(m: Model) -> Iterator[Change]:
    for operand, mistake, stage in (
        ("weight", WEIGHT_ADDRESS, Stage.WEIGHT_WORDS), ("input", INPUT_ADDRESS, Stage.INPUT_WORDS),
    ):  # fmt: skip
        array = m.capture.weight if operand == "weight" else m.capture.input
        shape = array.shape if operand == "weight" else array.shape[1:]
        count = math.prod(shape)
        if array.size <= _WIDE:
            for detail, address in _addresses(count, shape):
                yield Change(mistake, f"of codes: {detail}", stage, partial(_read, address=address, each=count))
        for wiring in m.wiring(operand):
            if wiring.tensor == operand and not wiring.tiling.order.has_bits:
                for detail, address in _addresses(wiring.tiling.files * wiring.tiling.words, ()):

                    def words(codes: Int64, address: Int64 = address, tiling: object = wiring.tiling) -> Int64:
                        blocks = tiling.tile(codes)  # type: ignore[attr-defined]
                        flat = blocks.reshape(-1, blocks.shape[2])
                        return tiling.untile(_taken(flat, address).reshape(blocks.shape))  # type: ignore[attr-defined, no-any-return]

                    yield Change(mistake, f"of words: {detail}", stage, words)


def axes_mistakes(m: Model) -> Iterator[Change]:
    """Tensors that stand in memory in one order of axes and are read in another."""
    yield from _orders(WEIGHT_AXES, "weight", m.capture.weight.shape, Stage.WEIGHT_WORDS, 0)
    yield from _orders(INPUT_AXES, "input", m.capture.input.shape[1:], Stage.INPUT_WORDS, 1)
    if m.tensor != "psum" and not m.memory.order.has_bits:
        yield from _orders(OUTPUT_AXES, "output", m.shape[1:], Stage.RESULT, 1)


def mirrored(m: Model) -> Iterator[Change]:
    """Planes that are upside down or mirrored."""
    for axis, name in ((2, "rows"), (3, "columns")):
        turned = partial(np.flip, axis=axis)
        if m.capture.input.shape[axis] > 1:
            yield Change(INPUT_AXES, f"{name} in reverse", Stage.INPUT_WORDS, turned)
        if m.tensor != "psum" and not m.memory.order.has_bits and m.shape[axis] > 1:
            yield Change(OUTPUT_AXES, f"{name} in reverse", Stage.RESULT, turned)


def output_addresses(m: Model) -> Iterator[Change]:
    """Words of results at other addresses; by one word is a mistake of its own."""
    words = m.tiling.files * m.tiling.words
    for detail, address in _lost_bits(words):

        def change(blocks: Int64, address: Int64 = address) -> Int64:
            return _taken(blocks.reshape(-1, blocks.shape[2]), address).reshape(blocks.shape)

        yield Change(OUTPUT_ADDRESS, detail, Stage.WORDS, change)


def _taken(flat: Int64, address: Int64) -> Int64:
    """Items at addresses; 0 beyond the last."""
    inside = (address >= 0) & (address < len(flat))
    return np.where(inside[:, np.newaxis], flat[np.clip(address, 0, len(flat) - 1)], 0)


def _read(codes: Int64, address: Int64, each: int) -> Int64:
    """Each part of so many codes (of inputs an image) read at other addresses."""
    flat = codes.reshape(-1, each)
    inside = (address >= 0) & (address < each)
    return np.where(inside, flat[:, np.clip(address, 0, each - 1)], 0).reshape(codes.shape)


def _addresses(count: int, shape: Sequence[int]) -> Indices:
    places = np.arange(count)
    for by in (1, -1, 2, -2):
        yield f"{by:+d}, 0 beyond the last", places + by
        yield f"{by:+d}, cyclic", (places + by) % count
        if abs(by) == 1:
            yield f"{by:+d}, held at the end", np.clip(places + by, 0, count - 1)
    yield from _lost_bits(count)
    index = np.unravel_index(places, shape) if shape else ()
    for axis in range(len(shape) - 1):
        pitch = math.prod(shape[axis + 1 :])
        power = 1 << (pitch - 1).bit_length()
        for other in dict.fromkeys((pitch + 1, pitch - 1, pitch + 2, pitch - 2, power)):
            if shape[axis] > 1 and other != pitch and other > 0:
                address = places + index[axis] * (other - pitch)
                yield f"the pitch of axis {axis} is {other}, not {pitch}", address
                if other > pitch:
                    yield f"the pitch of axis {axis} is {other}, not {pitch}, cyclic", address % count


def _lost_bits(count: int) -> Indices:
    places = np.arange(count)
    for bit in range(max((count - 1).bit_length(), 1) if count > 1 else 0):
        yield f"bit {bit} of the address is always 0", places & ~(1 << bit)
        yield f"bit {bit} of the address is always 1", places | 1 << bit


def _orders(mistake: Mistake, operand: str, shape: Sequence[int], stage: Stage, skipped: int) -> Iterator[Change]:
    letters = _LETTERS[operand]
    seen = {np.arange(math.prod(shape)).tobytes()} if math.prod(shape) <= _WIDE else set()
    for order in permutations(range(len(shape))):
        stored = "".join(letters[axis] for axis in order)
        if stored == letters or sum(shape[axis] > 1 for axis in range(len(shape))) < 2:
            continue
        ways = (
            (f"{stored} read as {letters}", partial(_stored_so, order=order, skipped=skipped)),
            (f"{letters} read as {stored}", partial(_read_so, order=order, skipped=skipped)),
        )
        for detail, change in ways:
            if math.prod(shape) <= _WIDE:
                key = change(np.arange(math.prod(shape)).reshape((1,) * skipped + tuple(shape))).tobytes()
                if key in seen:
                    continue
                seen.add(key)
            yield Change(mistake, detail, stage, change)


def _whole(order: Sequence[int], skipped: int) -> tuple[int, ...]:
    return (*range(skipped), *(axis + skipped for axis in order))


def _stored_so(values: Int64, order: Sequence[int], skipped: int) -> Int64:
    return np.ascontiguousarray(values.transpose(_whole(order, skipped))).reshape(values.shape)


def _read_so(values: Int64, order: Sequence[int], skipped: int) -> Int64:
    whole = _whole(order, skipped)
    back: Callable[..., Int64] = np.ascontiguousarray(values).reshape([values.shape[axis] for axis in whole]).transpose
    return np.ascontiguousarray(back(np.argsort(whole).tolist()))
