"""What the vectors of a set exercise of the layout's array, of the accumulators and of the steps."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qexport.build.blind_spots import Stored, stored_in
from qexport.core.capture import Capture
from qexport.core.codes import CodeFormat
from qexport.core.coverage import MOST_PRODUCTS, Accumulators, Bools, Coverage, EdgesSeen, Products
from qexport.core.golden import Golden, parts
from qexport.core.intformat import Int64
from qexport.core.operations.base import Operation
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.matmul import MatrixProduct
from qexport.core.operations.registry import operation
from qexport.layout.order import TILE_AXIS
from qexport.sets.folder import sha256
from qexport.sets.manifest import Manifest, capture_of, once_for_content


@once_for_content
def coverage_of_set(folder: Path, manifest: Manifest) -> Coverage:
    """Of a set; raises CheckFailed when its capture was changed."""
    capture = capture_of(folder, manifest)
    facts = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain)
    return coverage(capture, facts, stored_in(manifest), manifest.array)


def coverage(capture: Capture, facts: Operation, memories: Sequence[Stored], array: Mapping[str, int]) -> Coverage:
    """Of a capture's images on an array, worked out part by part."""
    elements = Elements(facts, memories, array)
    pairs = _pairs_of(facts, memories, elements)
    edges = EdgesSeen(facts.chain)
    of_any: Any = facts  # which Golden takes of whatever kind
    least, greatest = [], []
    for start, stop in parts((), facts, capture.images):
        golden = Golden(capture.part(start, stop), facts=of_any)
        least.append(int(golden.accumulator.min()))
        greatest.append(int(golden.accumulator.max()))
        edges.add(golden.values)
        if pairs is not None:
            pairs.add(golden)
    (low, high), products = facts.bounds, None
    if pairs is not None:
        products = Products.of(pairs.seen)
    return Coverage(
        key=_key(capture, facts, elements),
        products=products,
        accumulator=Accumulators(
            least=min(least), greatest=max(greatest), low=low, high=high,
            low_reached=min(least) == low, high_reached=max(greatest) == high,
        ),
        steps=edges.found,
    )  # fmt: skip


def _key(capture: Capture, facts: Operation, elements: "Elements") -> str:
    """What coverages must have in common to be merged: geometry, formats, steps, and which element works on what.

    Steps that were found from the scales may differ with the weights; then the scales stand in their place.
    """
    geometry = {key: value for key, value in msgspec.to_builtins(facts.layer).items() if key not in ("name", "index")}
    formats = msgspec.to_builtins(facts.formats)
    for fmt in formats.values() if capture.steps is not None or facts.formats.output is None else ():
        fmt.pop("scale", None)
    steps = None if capture.steps is None else msgspec.to_builtins(capture.steps)
    plane = facts.shapes["accumulator"][1:]
    document = [geometry, formats, steps, plane, {axis: at.tolist() for axis, at in elements.of.items()}]
    return sha256(msgspec.json.encode(document, order="sorted"))[:16]


class Elements:
    """Which element of the array works on each index of an axis: (size,) by axis. Where the layout's orders do not
    split an axis into parts that its [array] sizes, one element does all."""

    def __init__(self, facts: Operation, memories: Sequence[Stored], array: Mapping[str, int]):
        self._memories, self._array = memories, array
        self.of: dict[str, Int64] = {}
        if isinstance(facts, Convolution):
            layer = facts.layer
            rows, cols = facts.shapes["accumulator"][2:]
            self.of["oc"] = self._split("oc", layer.out_channels)
            self.of["ic"] = self._split("ic", layer.group_inputs)
            self.of["oy ox"] = self._split("oy ox", rows * cols)
        elif isinstance(facts, MatrixProduct):
            (_, m, k), (_, _, p) = facts.shapes["input"], facts.shapes["input2"]
            self.of = {axis: self._split(axis, size) for axis, size in (("m", m), ("k", k), ("p", p))}

    def _split(self, axis: str, size: int) -> Int64:
        at, step, element = np.arange(size), 1, np.zeros(size, np.int64)
        for name, width in self._parts(axis):
            if name in self._array:
                element = element * width + at // step % width
            step *= width
        return np.unique(element, return_inverse=True)[1].reshape(size)

    def _parts(self, axis: str) -> Iterator[tuple[str, int]]:
        """The parts of the first split of an axis that the array sizes, the fastest first."""
        for memory in self._memories:
            for split in memory.tiling.order.stages[0]:
                if split.joined == tuple(axis.split()) and not split.overlaps and {*split.names} & {*self._array}:
                    yield from ((name, memory.tiling.sizes[name]) for name in reversed(split.names))
                    return

    def count(self, axis: str) -> int:
        return int(self.of[axis].max()) + 1


class _Pairs:
    """Which pairs of codes meet in each element: `seen` (elements, left codes, right codes).

    `add` is given where in the sum (terms) an element has a code: left (a, k, left codes), right (b, k, right codes).
    """

    def __init__(self, left: CodeFormat, right: CodeFormat, counts: tuple[int, int, int]):
        self.left, self.right, self.counts = left.valid, right.valid, counts
        a, b, k = counts
        self._seen = np.zeros((a, b, k, len(self.left), len(self.right)), np.bool_)

    @property
    def seen(self) -> Bools:
        return self._seen.reshape(-1, len(self.left), len(self.right))

    def meet(self, k: int, left: Bools, right: Bools) -> None:
        """Codes of the elements, (a, terms, left codes) and (b, terms, right codes), that meet in element `k`."""
        (a, terms, w), (b, _, x) = left.shape, right.shape
        flat = left.transpose(0, 2, 1).reshape(a * w, terms).astype(np.float32)
        met = flat @ right.transpose(1, 0, 2).reshape(terms, b * x).astype(np.float32) > 0
        self._seen[:, :, k] |= met.reshape(a, w, b, x).transpose(0, 2, 1, 3)


class _OfConvolution(_Pairs):
    """`whole`: psums are compared, so that every code of the padded plane meets every weight of its channel."""

    def __init__(self, facts: Convolution, elements: Elements, whole: bool):
        self._facts, self._elements, self._whole = facts, elements, whole
        counts = elements.count("oc"), 1 if whole else elements.count("oy ox"), elements.count("ic")
        super().__init__(facts.formats.weight, facts.formats.input, counts)
        layer = facts.layer
        taps = layer.kernel[0] * layer.kernel[1]
        weight = np.searchsorted(self.left, facts.weight).reshape(layer.groups, -1, layer.group_inputs, taps)
        channels = elements.of["oc"].reshape(layer.groups, -1, 1, 1)
        group, ic, tap = (np.arange(size) for size in (layer.groups, layer.group_inputs, taps))
        self._weights = np.zeros((counts[0], layer.groups, layer.group_inputs, taps, len(self.left)), np.bool_)
        where = group[:, None, None, None], ic[None, None, :, None], tap[None, None, None, :]
        self._weights[channels, *where, weight] = True

    def add(self, golden: Golden) -> None:
        layer, b = self._facts.layer, self.counts[1]
        taps = self._weights.shape[3]
        if self._whole:
            codes = golden.values("input_padded").transpose(1, 0, 2, 3).reshape(layer.in_channels, 1, -1)
            codes, place = np.broadcast_to(codes, (layer.in_channels, taps, codes.shape[2])), np.zeros(1, np.int64)
        else:
            patches = golden.values("patches")
            codes = patches.transpose(1, 2, 3, 0, 4, 5).reshape(layer.in_channels, taps, -1)
            place = np.tile(self._elements.of["oy ox"], len(patches))
        inputs = np.zeros((b, layer.in_channels, taps, len(self.right)), np.bool_)
        channel, tap = np.arange(layer.in_channels)[:, None, None], np.arange(taps)[None, :, None]
        inputs[place[None, None, :], channel, tap, np.searchsorted(self.right, codes)] = True
        inputs = inputs.reshape(b, layer.groups, layer.group_inputs, taps, -1)
        for k in range(self.counts[2]):
            rows = self._elements.of["ic"] == k
            left, right = self._weights[:, :, rows], inputs[:, :, rows]
            self.meet(k, left.reshape(len(left), -1, left.shape[-1]), right.reshape(b, -1, right.shape[-1]))


class _OfProduct(_Pairs):
    """The left codes are those of `input2`, as those of weights are."""

    def __init__(self, facts: MatrixProduct, elements: Elements):
        self._elements = elements
        super().__init__(facts.right, facts.left, (elements.count("p"), elements.count("m"), elements.count("k")))

    def add(self, golden: Golden) -> None:
        of, (a, b, _) = self._elements.of, self.counts
        codes, others = golden.codes("input2"), golden.codes("input")  # (n, k, p), (n, m, k)
        n, terms, _ = codes.shape
        lefts = np.zeros((a, n, terms, len(self.left)), np.bool_)
        rights = np.zeros((b, n, terms, len(self.right)), np.bool_)
        image, term = np.arange(n)[:, None, None], np.arange(terms)[None, :, None]
        lefts[of["p"][None, None, :], image, term, np.searchsorted(self.left, codes)] = True
        rights[of["m"][None, None, :], image, term, np.searchsorted(self.right, others.transpose(0, 2, 1))] = True
        for k in range(self.counts[2]):
            own = of["k"] == k
            left, right = lefts[:, :, own], rights[:, :, own]
            self.meet(k, left.reshape(a, -1, len(self.left)), right.reshape(b, -1, len(self.right)))


def _pairs_of(facts: Operation, memories: Sequence[Stored], elements: Elements) -> _OfConvolution | _OfProduct | None:
    """What counts the products; None where there are none, or too many."""
    if isinstance(facts, Convolution):
        whole = any(memory.tensor == "psum" for memory in memories)
        left, right = facts.formats.weight, facts.formats.input
        axes = ["oc", "ic"] if whole else ["oc", "ic", "oy ox"]
    elif isinstance(facts, MatrixProduct):
        left, right, axes = facts.right, facts.left, ["m", "k", "p"]
    else:
        return None
    total = (1 << left.bits + right.bits) * int(np.prod([elements.count(axis) for axis in axes]))
    if total > MOST_PRODUCTS:
        return None
    return _OfConvolution(facts, elements, whole) if isinstance(facts, Convolution) else _OfProduct(facts, elements)
