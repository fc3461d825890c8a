"""Mistakes with addresses: offsets, pitches, lost bits, and tensors that are read in another order of their axes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, permutations, starmap

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.fetched import SAID, Wrong, beyonds, of_words, wrong_addresses
from qexport.findings.hypotheses.fetches import WIDE, Read, operands
from qexport.findings.model import AnyModel, Model
from qexport.findings.offsets import SOLVED, solved_offsets
from qexport.findings.sampled import Places, Sampled
from qexport.layout.tiling import Tiling

OUTPUT_ADDRESS = Mistake("output_address", "Check base, pitch and width of the address at which results are written.")
_AXES = "in the order of axes in which they are stored, as NCHW and NHWC, OIHW and HWIO are apart."
WEIGHT_AXES = Mistake("weight_axes", f"Read the weights {_AXES}")
INPUT_AXES = Mistake("input_axes", f"Read the activations {_AXES}")
OUTPUT_AXES = Mistake("output_axes", f"Write the results {_AXES}")
_LETTERS = {"weight": "OIHW", "input": "CHW", "output": "CHW"}
_COST = 8.0  # bits of an address
_MOST = 4  # wrong addresses of a memory that are tried everywhere
_FEW = 64  # wrong words that are looked at first, and offsets


def solved_addresses(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """Wrong addresses of the operands that give what came back at some places, where there are any."""
    terms = Sampled.of(m, actual, known) if isinstance(m, Model) else Places.of(m, actual, known)
    if terms is None:
        return
    stages = terms.stages
    for fetched in operands(m):
        stages_of = [(some, fetched.products(some)) for some in stages]
        places = [terms.part(slice(at, at + 1)) for at in range(min(len(terms.got), SOLVED))]
        places_of = [(place, fetched.products(place)) for place in places]
        seen, found = set[tuple[int, int, bytes]](), list[tuple[float, str, Read]]()
        for memory in fetched.memories:
            key = (memory.count, memory.lanes, memory.slot.tobytes())
            if key in seen:  # axes of size 1 make the order the same
                continue
            seen.add(key)
            offsets = starmap(_offset, solved_offsets(memory, places_of))
            right = (
                (cost, f"{memory.text}: {detail}", partial(memory.read, wrong=wrong, beyond=beyond))
                for detail, wrong, beyond, cost in (*offsets, *((*one, _COST) for one in wrong_addresses(memory)))
            )
            fitting = (
                one for one in right
                if all(some.fits(products.sums(one[2](products.elements))) for some, products in stages_of)
            )  # fmt: skip
            found += islice(fitting, _MOST)
        for cost, detail, read in sorted(found, key=lambda one: one[0]):
            change = partial(fetched.changed, read=read)
            yield Change(fetched.mistake, detail, fetched.stage, change, cost=cost)


def _offset(by: int, beyond: str) -> tuple[str, Wrong, str, float]:
    """An address, and the bits that it takes to say by how much it is off."""
    return f"{by:+d}{SAID[beyond]}", partial(np.add, by), beyond, _COST + 2 * math.log2(abs(by))


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


def output_addresses(m: Model, blocks: Int64, known: Bools) -> Iterator[Change]:
    """Words of results that are those of other addresses; by one word is a mistake of its own."""
    golden = m.tiling.tile(m.golden)
    wrong = np.flatnonzero((known & (golden != blocks)).any(axis=2).ravel())
    if golden.size > WIDE or not len(wrong) or m.memory.order.has_bits or m.tiling.order.has_copies:
        return
    want, got = (array.reshape(-1, m.tiling.lanes) for array in (golden, blocks))
    sure = known.reshape(want.shape)
    whole = Tiling(m.memory.order, m.shape, m.manifest.array, m.entry.bits)
    few, places = wrong[:_FEW], np.arange(len(want))
    first = next((at for at in few if got[at][sure[at]].any()), few[0])  # 0 may stand beyond the end
    sources = np.flatnonzero(((want == got[first]) | ~sure[first]).all(axis=1))
    offsets = sorted((sources - first).tolist(), key=abs)[:_FEW]
    for memory in of_words(whole, "of words"):
        alone = replace(memory, lanes=1, slot=places, element=places)
        moved = [_offset(by, beyond) for by in offsets if 0 < abs(by) < memory.count for beyond in beyonds(memory)]
        for detail, address, beyond, cost in (*moved, *((*one, _COST) for one in wrong_addresses(memory))):
            source = alone.read(few, address, beyond)
            read = np.where(source[:, np.newaxis] < 0, 0, want[source])
            if ((read == got[few]) | ~sure[few]).all():
                change = partial(_taken, source=alone.read(places, address, beyond))
                yield Change(OUTPUT_ADDRESS, f"{memory.text}: {detail}", Stage.WORDS, change, cost=cost)


def _taken(blocks: Int64, source: Int64) -> Int64:
    """Each word that of its source; 0 where it has none."""
    flat = blocks.reshape(-1, blocks.shape[2])
    return np.where(source[:, np.newaxis] < 0, 0, flat[source]).reshape(blocks.shape)


def _orders(mistake: Mistake, operand: str, shape: Sequence[int], stage: Stage, skipped: int) -> Iterator[Change]:
    letters = _LETTERS[operand]
    seen = {np.arange(math.prod(shape)).tobytes()} if math.prod(shape) <= WIDE else set()
    for order in permutations(range(len(shape))):
        stored = "".join(letters[axis] for axis in order)
        if stored == letters or sum(shape[axis] > 1 for axis in range(len(shape))) < 2:
            continue
        ways = (
            (f"{stored} read as {letters}", partial(_stored_so, order=order, skipped=skipped)),
            (f"{letters} read as {stored}", partial(_read_so, order=order, skipped=skipped)),
        )
        for detail, change in ways:
            if math.prod(shape) <= WIDE:
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
