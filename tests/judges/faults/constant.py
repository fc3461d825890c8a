"""Results that do not depend on the data: no arithmetic may be named for them."""

from typing import Any

import numpy as np

from tests.judges.faults.case import Cases, written
from tests.judges.faults.sets import Set
from tests.judges.notation import Ints

CONSTANT = "constant|valid|reset|no data|never written|not depend"
PLACES = (
    ("plain", "accumulator"), ("plain", "output"), ("depthwise", "accumulator"), ("pointwise", "relu"),
    ("dense", "accumulator"), ("strided", "accumulator"), ("tflite", "output"), ("zeros", "accumulator"),
    ("matmul", "accumulator"), ("nhwc", "accumulator"), ("stationary", "relu"), ("outputs", "relu"),
    ("apart", "output"), ("scaled", "output"), ("pooled", "output"),
)  # fmt: skip


def filled(tensor: str, value: Any) -> Any:
    """Every element is `value`; top: the memory's greatest code."""

    def words(found: Set) -> Ints:
        mem = found.memory(tensor)
        top = (1 << mem["bits"] - mem["signed"]) - 1
        return np.full_like(found.read(tensor), top if value == "top" else value)

    return words


def by_channel(tensor: str, seed: int) -> Any:
    """One value a channel: what is left where the data never come, a bias or garbage of the column."""

    def words(found: Set) -> Ints:
        right = found.right[found.memory(tensor)["name"]]
        axis = 2 if found.layer.matrices else 1
        mem = found.memory(tensor)
        drawn = np.random.default_rng(seed).integers(0, 1 << mem["bits"] - 1, right.shape[axis])
        shape = [1] * right.ndim
        shape[axis] = -1
        return found.words(tensor, np.broadcast_to(drawn.reshape(shape), right.shape))

    return words


def cases() -> Cases:
    for on, tensor in PLACES:
        yield written("all zero", on, tensor, CONSTANT, filled(tensor, 0))
        yield written("all ones", on, tensor, CONSTANT, filled(tensor, -1))
        yield written("one value a channel", on, tensor, CONSTANT, by_channel(tensor, len(on)))
    for on, tensor in PLACES[::3]:
        if on != "apart":  # whose greatest value is all ones
            yield written("greatest value", on, tensor, CONSTANT, filled(tensor, "top"))
        yield written("all 3", on, tensor, CONSTANT, filled(tensor, 3))
