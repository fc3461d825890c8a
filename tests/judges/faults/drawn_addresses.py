"""Addresses that are off by drawn amounts of any size, in memories of several orders that end in several ways.

python -m tests.judges.faults.drawn_addresses --seed 7 --count 40
"""

from collections.abc import Sequence

import numpy as np

from tests.judges.faults.case import Case, machine
from tests.judges.faults.drawn import ACC, CONVOLUTIONS, Draw, main, other
from tests.judges.faults.listed import of_words
from tests.judges.faults.machine import Layer, Part
from tests.judges.notation import Ints

ENDS = ("cyclic", "zero", "held")
ORDERS = {"oc ic kh kw": (0, 1, 2, 3, 4), "kh kw ic oc": (0, 3, 4, 2, 1), "oc kh kw ic": (0, 1, 3, 4, 2)}


def read_at(memory: Ints, by: int, end: str) -> Ints:
    """Words [..., word, lane] at addresses that are `by` too large; beyond stands 0, the other end, or the last."""
    at = np.arange(memory.shape[-2]) + by
    if end == "cyclic":
        return np.asarray(memory[..., at % len(at), :])
    inside = (at >= 0) & (at < len(at)) | (end == "held")
    return np.asarray(memory[..., at.clip(0, len(at) - 1), :] * inside[:, None])


def codes(axes: Sequence[int], apart: int, by: int, end: str) -> Part:
    """Operands whose codes lie with their axes in another order; the first `apart` of these have own memories."""

    def read(layer: Layer, operand: Ints) -> Ints:
        turned = operand.transpose(axes)
        found = read_at(turned.reshape(*turned.shape[:apart], -1, 1), by, end).reshape(turned.shape)
        return np.asarray(found.transpose(np.argsort(axes)))

    return read


def weights(draw: Draw) -> Case:
    on = ("plain", "nhwc", "strided", "pointwise", "dense", "tflite", "zeros", "depthwise", "matmul")[draw(0, 8)]
    end = ENDS[draw(0, 2)]
    if draw(0, 1) and on != "matmul":  # whose words are others
        by = other(draw, 3, 23)
        wrong = of_words(lambda words: read_at(words, by, end))
        return machine(f"weight word {by:+d}, {end}", on, ACC, "weight_address", weights=wrong)
    by, order = other(draw, 17, 60 if on == "depthwise" else 130), list(ORDERS)[draw(0, 2)]  # of 72 codes and more
    name = f"weight code {by:+d} in the order {order}, {end}"
    return machine(name, on, ACC, "weight_address", weights=codes(ORDERS[order], 1, by, end))


def inputs(draw: Draw) -> Case:
    on = (*CONVOLUTIONS, "pointwise")[draw(0, len(CONVOLUTIONS))]
    end = ENDS[draw(0, 2)]
    if draw(0, 1):
        by = other(draw, 5, 33)
        name = f"position {by:+d} of all images, {end}"
        return machine(name, on, ACC, "input_address", inputs=codes((1, 0, 2, 3), 1, by, end))
    by = other(draw, 17, 70)
    name = f"code {by:+d} of each image, {end}"
    return machine(name, on, ACC, "input_address", inputs=codes((0, 1, 2, 3), 1, by, end))


if __name__ == "__main__":
    main(__doc__, (weights, inputs), "variant")
