"""The operands of a layer as they are fetched: how they may stand in memories, and what multiplies each element."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.findings.change import Mistake, Stage
from qexport.findings.fetched import Memory, of_codes, of_words
from qexport.findings.hypotheses.operands import with_operand
from qexport.findings.model import AnyModel, Model
from qexport.findings.offsets import Products
from qexport.findings.sampled import Places, Sampled

_CHECK = "Check base, pitch and width of the address"
WEIGHT_ADDRESS = Mistake("weight_address", f"{_CHECK} of the weights.")
INPUT_ADDRESS = Mistake("input_address", f"{_CHECK} of the activations.")
WIDE = 1 << 22  # elements of a tensor, at most
Read = Callable[[Int64], Int64]  # from elements to what is read in their place; below 0: nothing


@dataclass(frozen=True)
class Fetched:
    """An operand: `products` of some places; `changed`: what its stage takes and how it is `read` to what it gives."""

    mistake: Mistake
    stage: Stage
    memories: Iterator[Memory]
    products: Callable[[Any], Products]
    changed: Callable[..., Int64]


def operands(m: AnyModel) -> Iterator[Fetched]:
    """The operands that are not too large."""
    if not isinstance(m, Model):
        for name in ("input", "input2"):
            if m.capture.tensors[name].size <= WIDE:
                yield _factor(m, name)
        return
    if m.capture.weight.size <= WIDE:
        yield Fetched(WEIGHT_ADDRESS, Stage.WEIGHT_WORDS, _weight_memories(m), _weight_products(m), _moved)
    if m.capture.input.size <= WIDE:
        yield Fetched(INPUT_ADDRESS, Stage.INPUT_WORDS, _input_memories(m), _input_products(m), _moved)
    if m.planes.size <= WIDE:
        nothing = _nothing(m)
        changed = partial(_moved, nothing=nothing)
        yield Fetched(INPUT_ADDRESS, Stage.PLANE, _plane_memories(m), partial(_plane_products, m, nothing), changed)


def _moved(values: Int64, read: Read, nothing: int = 0) -> Int64:
    source = read(np.arange(values.size))
    return np.where(source < 0, nothing, values.ravel()[source]).reshape(values.shape)


def _words(m: Model, operand: str) -> Iterator[Memory]:
    """As the set stores them, and as the layout 'default' does."""
    for wiring in m.wiring(operand):
        if wiring.tensor == operand and not wiring.tiling.order.has_bits:
            yield from of_words(wiring.tiling, "of words")
    for memory in of_words(m.usual_wiring(operand).tiling, "of words of the layout 'default'"):
        yield replace(memory, likely=False)


# --- of a convolution -------------------------------------------------------------------------------------------------


def _weight_memories(m: Model) -> Iterator[Memory]:
    axes, shape = "oc ic kh kw", m.capture.weight.shape
    for order in (" ".join(parts) for parts in permutations(("oc", "ic", "kh kw"))):
        yield of_codes(shape, "of codes" if order == axes else f"of codes in the order {order}", order, axes, 0, 0)
    yield of_codes(shape, "of codes of each oc", axes, axes, 0, 1)
    yield of_codes(shape, "of taps", axes, axes, 0, 2)
    yield from _words(m, "weight")


def _weight_products(m: Model) -> Callable[[Sampled], Products]:
    stands = m.facts.formats.weight.integers
    values, nothing = stands(m.capture.weight).ravel(), int(stands(np.zeros(1, np.int64))[0])

    def products(terms: Sampled) -> Products:
        elements = np.ravel_multi_index((terms.output, *terms.taps), m.capture.weight.shape)
        zeros = np.zeros_like(elements) if m.tensor == "psum" else m.facts.weight_zeros[terms.output]
        met = terms.used * terms.seen
        return Products(elements, met, terms.offset - (zeros * met).sum(axis=1), values, nothing)

    return products


def _nothing(m: Model) -> int:
    """What a code 0 of the activations stands for."""
    return int(m.seen(np.zeros(1, np.int64))[0])


def _input_memories(m: Model) -> Iterator[Memory]:
    axes = "n ic iy ix"
    for text, order, files, fixed in (
        ("of codes", axes, 0, 1), ("of positions of each image", "ic n iy ix", 1, 2),
        ("of positions of all images", "ic n iy ix", 1, 1),
        ("of codes in the order iy ix ic", "n iy ix ic", 0, 1), ("of codes of all images", axes, 0, 0),
        ("of codes of all images in the order iy ix ic", "n iy ix ic", 0, 0),
    ):  # fmt: skip
        yield of_codes(m.capture.input.shape, text, order, axes, files, fixed)
    yield from _words(m, "input")


def _input_products(m: Model) -> Callable[[Sampled], Products]:
    (high, wide), values, nothing = m.plane, m.seen(m.capture.input).ravel(), _nothing(m)

    def products(terms: Sampled) -> Products:
        y, x = terms.rows - m.layer.padding[0], terms.columns - m.layer.padding[2]
        inside = (y >= 0) & (y < high) & (x >= 0) & (x < wide)
        place = (terms.image, terms.channel, np.clip(y, 0, high - 1), np.clip(x, 0, wide - 1))
        elements = np.ravel_multi_index(place, m.capture.input.shape)
        rest = terms.offset + (terms.weights * ~inside).sum(axis=1) * m.blank
        return Products(elements, terms.weights * inside, rest, values, nothing)

    return products


def _plane_memories(m: Model) -> Iterator[Memory]:
    for wiring in m.wiring("input"):
        if wiring.tensor == "input_padded" and not wiring.tiling.order.has_bits:
            yield from of_words(wiring.tiling, "of padded words")
    yield of_codes(m.planes.shape, "of positions of each padded plane", "ic n py px", "n ic py px", 1, 2)


def _plane_products(m: Model, nothing: int, terms: Sampled) -> Products:
    place = (terms.image, terms.channel, terms.rows, terms.columns)
    return Products(np.ravel_multi_index(place, m.planes.shape), terms.weights, terms.offset, m.planes.ravel(), nothing)


# --- of a matrix product ----------------------------------------------------------------------------------------------


def _factor(m: AnyModel, name: str) -> Fetched:
    """One of the two matrices; the second one stands for weights."""
    golden, fmt = Golden(m.capture, facts=m.facts), m.facts.formats.operands[name]
    left, right = m.facts.factors(golden)  # type: ignore[attr-defined]
    added = golden.accumulator - np.matmul(left, right)
    codes = golden.codes(name)
    values, nothing = fmt.integers(codes).ravel(), int(fmt.integers(np.zeros(1, np.int64))[0])
    each = np.arange(left.shape[2])

    def products(places: Places) -> Products:
        n, row, p = (index[:, np.newaxis] for index in places.place)
        place, met = ((n, row, each), right[n, each, p]) if name == "input" else ((n, each, p), left[n, row, each])
        rest = added[places.place] - fmt.zero_points[0] * met.sum(axis=1)
        return Products(np.ravel_multi_index(np.broadcast_arrays(*place), codes.shape), met, rest, values, nothing)

    def changed(golden: Golden, read: Read) -> Int64:
        return with_operand(m, name, partial(_moved, read=read))(golden)

    mistake = INPUT_ADDRESS if name == "input" else WEIGHT_ADDRESS
    return Fetched(mistake, Stage.OPERANDS, _factor_memories(m, name), products, changed)


def _factor_memories(m: AnyModel, name: str) -> Iterator[Memory]:
    first, *others = m.facts.tensor(name).axes
    axes, shape = " ".join((first, *others)), m.capture.tensors[name].shape
    for order in (axes, " ".join((first, *others[::-1]))):
        told = f"of codes of {name}" if order == axes else f"of codes of {name} in the order {order}"
        yield of_codes(shape, f"{told} of each image", order, axes, 0, 1)
        yield of_codes(shape, told, order, axes, 0, 0)
    for entry in m.manifest.memories:
        if entry.tensor == name and not entry.memory().order.has_bits:
            yield from of_words(entry.tiling(m.manifest.array), f"of words of {name}")
