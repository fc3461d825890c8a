"""An accelerator in numpy whose parts can be replaced one by one; as it stands, it is right.

Every operation is one form: codes of weights [n oc c kh kw] meet codes of inputs [n oc c kh kw oy ox]; a matrix
product is a 1x1 kernel that each image brings along. What a part gives goes into the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.judges.golden import Capture, run_steps, windows
from tests.judges.notation import Ints, Json

Part = Callable[["Layer", Ints], Ints]


@dataclass(frozen=True)
class Layer:
    """The operands of a set in the one form."""

    w: Ints  # n oc c kh kw, codes
    x: Ints  # n C iy ix, codes
    bias: Ints  # oc
    addend: Ints  # n oc oy ox, or 0
    zx: int
    zw: Ints  # oc
    groups: int
    window: Json  # kernel, stride, padding, dilation
    steps: list[Json]
    matrices: bool
    row: int  # rows of the array, which hold input channels

    @property
    def apart(self) -> bool:
        return any(step["op"] == "bias" for step in self.steps)

    @property
    def feeds(self) -> Ints:
        """The input channel that meets each (oc, c)."""
        oc, c = self.w.shape[1:3]
        return np.asarray((np.arange(oc) // (oc // self.groups) * c)[:, None] + np.arange(c))


def layer_of(capture: Capture, steps: list[Json], row: int) -> Layer:
    t, formats, kind = capture.tensors, capture.formats, capture.layer["kind"]
    zx = int(formats["input"].get("zero_point", 0))
    if kind == "matmul":
        w = t["input2"].transpose(0, 2, 1)[..., None, None].astype(np.int64)
        x = t["input"].transpose(0, 2, 1)[..., None].astype(np.int64)
        added: Any = t["addend"].transpose(0, 2, 1)[..., None] if "addend" in t else np.zeros((1, 1, 1, 1))
        window: Json = {"kernel": [1, 1]}
        zw = np.full(w.shape[1], formats["input2"].get("zero_point", 0))
        bias = np.zeros(w.shape[1], np.int64)
    else:
        w, x = t["weight"].astype(np.int64), t["input"].astype(np.int64)
        w, x = (array.reshape(*array.shape, *[1] * (4 - array.ndim)) for array in (w, x))
        w = np.repeat(w[None], len(x), axis=0)
        added, window = np.zeros((1, 1, 1, 1)), capture.layer
        zw = np.zeros(w.shape[1], np.int64) + formats["weight"].get("zero_point", 0)
        bias = t.get("bias", np.zeros(w.shape[1])).astype(np.int64)
    return Layer(
        w, x, bias, np.asarray(added, np.int64), zx, zw, window.get("groups", 1), window, steps, kind == "matmul", row
    )


def same(_: Layer, value: Ints) -> Ints:
    return value


def pad(layer: Layer, x: Ints, fill: int | None = None) -> Ints:
    top, bottom, left, right = layer.window.get("padding", [0, 0, 0, 0])
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=layer.zx if fill is None else fill)


def add_all(_: Layer, products: Ints) -> Ints:
    return np.asarray(products.sum((2, 3, 4)))


def add_bias(layer: Layer, sums: Ints) -> Ints:
    return sums + layer.addend + (0 if layer.apart else 1) * layer.bias[None, :, None, None]


@dataclass(frozen=True)
class Machine:
    """The parts in the order in which data goes through them; `products` may look at both factors."""

    weights: Part = same  # the codes as they come out of their memory
    inputs: Part = same
    padded: Part = pad
    patches: Part = same
    products: Callable[[Layer, Ints, Ints, Ints], Ints] = field(default=lambda layer, p, w, x: p)
    total: Part = add_all
    biased: Part = add_bias
    relu: Part = field(default=lambda layer, sums: np.maximum(sums, 0))
    through: Callable[[Layer, Ints], list[Ints]] = field(
        default=lambda layer, sums: run_steps(layer.steps, sums, layer.bias)
    )
    steps: list[Json] | None = None  # others than the set's
    zx: int | None = None  # another zero point in the arithmetic
    zw: Ints | None = None

    def run(self, layer: Layer) -> dict[str, Ints]:
        """The results [n oc oy ox] by tensor; a matrix product's as [n m p]."""
        padded = self.padded(layer, self.inputs(layer, layer.x))
        plane = layer.x.shape[2:]
        y, x, _ = windows(layer.window, (plane[0], plane[1]))
        seen = self.patches(layer, padded[:, layer.feeds][:, :, :, y, x])
        w = self.weights(layer, layer.w)
        factors = [
            w[..., None, None] - (layer.zw if self.zw is None else self.zw)[:, None, None, None, None, None],
            seen - (layer.zx if self.zx is None else self.zx),
        ]
        products = self.products(layer, factors[0] * factors[1], *np.broadcast_arrays(*factors))
        sums = self.biased(layer, self.total(layer, products))
        found = {"accumulator": sums, "relu": self.relu(layer, sums)}
        if layer.steps:
            if self.steps is not None:
                found["output"] = run_steps(self.steps, sums, layer.bias)[-1]
            else:
                found["output"] = self.through(layer, sums)[-1]
        if layer.matrices:
            return {name: array[..., 0].transpose(0, 2, 1) for name, array in found.items()}
        return found


def psums(layer: Layer, w: Ints, padded: Ints, products: Callable[[Ints], Ints] = lambda p: p) -> Ints:
    """What a weight-stationary array emits, n it kh kw oc py px; `products` acts on n it row kh kw oc py px."""
    c = layer.w.shape[2]
    tiles = []
    for first in range(0, c, layer.row):
        some = w[0, :, first : first + layer.row].transpose(1, 2, 3, 0)  # row kh kw oc
        seen = padded[:, first : first + layer.row]
        tiles.append(some[None, ..., None, None] * seen[:, :, None, None, None])
    size = max(tile.shape[1] for tile in tiles)
    whole = [np.pad(tile, [(0, 0), (0, size - tile.shape[1])] + [(0, 0)] * 5) for tile in tiles]
    return np.asarray(products(np.stack(whole, axis=1)).sum(2))
