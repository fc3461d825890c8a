"""What may be changed in the computation of a layer: the stages, mistakes and changes at a stage."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64

Bools = NDArray[np.bool_]
UNKNOWN = int(np.iinfo(np.int64).min)  # what a hypothesis does not say


class Stage(IntEnum):
    """What a change's function takes and gives, in the order of the computation; axes (n, oc, oy, ox) if none are said.

    The order counts: what stands before `ACCUMULATOR` is computed anew, what comes later needs the golden's only.
    """

    OPERANDS = auto()  # of an operation whose operands are all data: its golden to accumulators
    WEIGHT_WORDS = auto()  # weights (oc, ic, kh, kw), as all stages of weights
    WEIGHT_CODES = auto()
    WEIGHT_TILES = auto()
    WEIGHT_TAPS = auto()
    INPUT_WORDS = auto()  # inputs (n, ic, iy, ix)
    INPUT_CODES = auto()
    INPUT_TILES = auto()
    PAD = auto()  # inputs to (n, ic, py, px), in place of the padding
    PLANE = auto()  # (n, ic, py, px)
    GATHER = auto()  # (n, ic, py, px) to patches (n, ic, kh, kw, oy, ox), in place of im2col
    PATCHES = auto()  # (n, ic, kh, kw, oy, ox)
    PSUM = auto()  # Psums to (n, it, kh, kw, oc, py, px)
    SUM = auto()  # Sums to accumulators
    ACCUMULATOR = auto()  # accumulators
    HISTORY = auto()  # accumulators of all images and channels: one result may depend on another
    POST = auto()  # accumulators to the tensor that is compared
    RESULT = auto()  # the tensor that is compared
    WORDS = auto()  # its words, (files, words, lanes)


@dataclass(frozen=True)
class Mistake:
    """What a design may do wrong, by the name that a diagnosis gives it, and what to do about it."""

    name: str
    remedy: str


@dataclass(frozen=True, eq=False)
class Change:
    """One hypothesis: at `stage` the design does `apply` instead. `pair`: it is also tried together with others.

    `also`: what the same mistake does at other stages. `cost`: bits that were taken from what came back to build it.
    `within`: the part of the memory in which alone it shows, where it was built for it.
    """

    mistake: Mistake
    detail: str
    stage: Stage
    apply: Callable[[Any], Int64]
    pair: bool = False
    also: "tuple[Change, ...]" = ()
    cost: float = 0.0
    within: Bools | None = None

    @property
    def name(self) -> str:
        return self.mistake.name


def with_bit(values: Int64, bit: Int64 | int, value: int) -> Int64:
    """Values with a bit that is always 0 or 1."""
    mask = np.int64(1) << bit
    found: Int64 = values | mask if value else values & ~mask
    return found
