"""A small network of random codes: residual sum, pool, concatenation, classifier."""

from typing import Any

import numpy as np

from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Conv2d, Linear, Sum
from qexport.core.network import IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput, View
from qexport.core.steps import Add, Clamp, MaxPool, Multiply, ShiftRight, Threshold

PIXEL = CodeFormat(bits=5, signed=True, scale=0.1, zero_point=-2)
CODE = CodeFormat(bits=4, signed=False, scale=0.25)
WEIGHT = CodeFormat(bits=4, signed=True, scale=0.5)
SIDE = 6


def rescaling(rng: np.random.Generator, channels: int) -> tuple[Any, ...]:
    """Multiply, add, shift, clamp; multipliers of both signs."""
    by, value = rng.integers(-9, 10, channels).tolist(), rng.integers(0, 900, channels).tolist()
    return (
        Multiply(by=tuple(by)), Add(value=tuple(value)), ShiftRight(by=6, round="floor"), Clamp(low=0, high=15)
    )  # fmt: skip


def small_network(seed: int = 0, stride: int = 1, bias: bool = True) -> IntegerNetwork:
    """image -> conv1 -> conv2 -> add (of both) -> pool; pool and a second pool joined -> classifier."""
    rng = np.random.default_rng(seed)
    convolution = Conv2d(
        name="conv1", index=0, in_channels=3, out_channels=4, kernel=(3, 3), padding=(1, 1, 1, 1),
        stride=(stride, stride),
    )  # fmt: skip
    side = -(-SIDE // stride)
    table = tuple(tuple(sorted(rng.integers(-300, 300, 15).tolist())) for _ in range(4))
    grid = AccumulatorScale(scale=CODE.scales[0])
    sums = Formats(input=CODE, accumulator=grid, output=CODE)
    pooled = (side - 2) // 2 + 1
    features = (4 + 2) * pooled**2
    layers = (
        NetworkLayer(
            convolution,
            Formats(weight=WEIGHT, input=PIXEL, output=CODE),
            rescaling(rng, 4),
            {"input": ("image",)},
            weight=rng.integers(-8, 8, (4, 3, 3, 3)),
            bias=rng.integers(-50, 50, 4) if bias else None,
        ),
        NetworkLayer(
            Conv2d(name="conv2", index=1, in_channels=4, out_channels=4, kernel=(3, 1), padding=(1, 1, 0, 0), groups=2),
            Formats(weight=WEIGHT, input=CODE, output=CODE),
            (Threshold(table=table, first=0),),
            {"input": ("conv1",)},
            weight=rng.integers(-8, 8, (4, 2, 3, 1)),
        ),
        NetworkLayer(
            Sum(name="add", index=2, mul=(3, -1)),
            Formats(input=CODE, input2=CODE, accumulator=grid, output=CODE),
            (ShiftRight(by=1, round="half_even"), Clamp(low=0, high=15)),
            {"input": ("conv1",), "input2": ("conv2",)},
        ),
        NetworkLayer(
            Conv2d(name="narrow", index=3, in_channels=4, out_channels=2, kernel=(1, 1)),
            Formats(weight=WEIGHT, input=CODE, output=CODE),
            (*rescaling(rng, 2), MaxPool(kernel=(2, 2))),
            {"input": ("add",)},
            weight=rng.integers(-8, 8, (2, 4, 1, 1)),
        ),
        NetworkLayer(Sum(name="pool", index=4, mul=(1,)), sums, (MaxPool(kernel=(2, 2)),), {"input": ("add",)}),
        NetworkLayer(
            Linear(name="classifier", index=5, in_channels=features, out_channels=5),
            Formats(weight=WEIGHT, input=CODE),
            (),
            {"input": ("pool", "narrow")},
            {"input": (View("reshape", (0, -1, 1, 1)),)},
            weight=rng.integers(-8, 8, (5, features, 1, 1)),
            bias=rng.integers(-50, 50, 5),
        ),
    )
    lookup = tuple(tuple(rng.integers(-16, 16, 256).tolist()) for _ in range(3))
    return IntegerNetwork(
        (NetworkInput(name="image", shape=(3, SIDE, SIDE), format=PIXEL, lookup=lookup),),
        layers,
        (NetworkOutput(name="logits", from_="classifier", scale=0.125),),
    )
