"""What the vectors of a set exercise, as data that merges over runs: associative, commutative, idempotent.

A product is a pair of codes that one element of the layout's array multiplies. Accumulators are held against their
proven bounds. Of each step behind them it is told which of its edges (clips, roundings, signs) the vectors reach.
"""

import base64
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from qexport.core.intformat import Int64
from qexport.core.printed import Printed
from qexport.core.steps import Chain, Clamp, LeakyRelu, Lookup, Relu, ShiftRight, Signal, Step, Tflite, Threshold, Wrap
from qexport.core.steps import shift_right as rounded
from qexport.core.strength import percent
from qexport.errors import QexportError

Bools = NDArray[np.bool_]
MOST_PRODUCTS = 1 << 26  # of one layout and layer: a byte each while they are counted
MOST_EDGES = 512  # of one step: longer tables are not told entry by entry
MOST_LEVELS = 1 << 12  # edges of a step's thresholds, up to which they are told channel by channel


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Products(_Entry, frozen=True, kw_only=True):
    """Which products were seen: `elements` of the array, each with so many `weights` and `inputs` (their codes).

    `bits`: a bit for each, element by element, packed, deflated, in base 64.
    """

    elements: int
    weights: int
    inputs: int
    seen: int
    bits: str

    @property
    def total(self) -> int:
        return self.elements * self.weights * self.inputs

    @classmethod
    def of(cls, seen: Bools) -> "Products":
        """Of (elements, weights, inputs)."""
        elements, weights, inputs = seen.shape
        packed = base64.b64encode(zlib.compress(np.packbits(seen).tobytes(), 9)).decode()
        return cls(elements=elements, weights=weights, inputs=inputs, seen=int(seen.sum()), bits=packed)

    def array(self) -> Bools:
        """(elements, weights, inputs); raises ValueError where the bits are not so many."""
        if not 0 < self.total <= MOST_PRODUCTS:
            raise ValueError(f"{self.total} products")
        size, packed = -(-self.total // 8), self.unpacked(self.bits)
        if len(packed) != size:
            raise ValueError(f"{len(packed)} bytes of bits for {self.total} products")
        seen = np.unpackbits(np.frombuffer(packed, np.uint8), count=self.total).astype(np.bool_)
        return seen.reshape(self.elements, self.weights, self.inputs)

    @staticmethod
    def unpacked(bits: str) -> bytes:
        """The packed bits of a text; raises ValueError where it is none."""
        try:
            return zlib.decompressobj().decompress(base64.b64decode(bits, validate=True), MOST_PRODUCTS // 8 + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None

    def merged(self, other: "Products") -> "Products":
        return Products.of(self.array() | other.array())


class Accumulators(_Entry, frozen=True, kw_only=True):
    """The least and greatest accumulator that was seen, the bounds of all weights so far, and whether one of those
    who have them reached its own."""

    least: int
    greatest: int
    low: int
    high: int
    low_reached: bool
    high_reached: bool

    def merged(self, other: "Accumulators") -> "Accumulators":
        return Accumulators(
            least=min(self.least, other.least),
            greatest=max(self.greatest, other.greatest),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            low_reached=self.low_reached or other.low_reached,
            high_reached=self.high_reached or other.high_reached,
        )

    def __str__(self) -> str:
        reached = {(True, True): "both reached", (True, False): "the lower reached", (False, True): "the upper reached"}
        said = reached.get((self.low_reached, self.high_reached), "neither reached")
        narrower = (self.low_reached and self.least > self.low) or (self.high_reached and self.greatest < self.high)
        by = " by weights with narrower ones" if narrower else ""
        return f"accumulators {self.least}..{self.greatest}, bounds {self.low}..{self.high}, {said}{by}"


class Edges(_Entry, frozen=True, kw_only=True):
    """The edges of a step by name: which ones some value can reach, and which were reached."""

    possible: tuple[str, ...]
    reached: tuple[str, ...]

    def merged(self, other: "Edges") -> "Edges":
        return Edges(
            possible=tuple(sorted({*self.possible, *other.possible})),
            reached=tuple(sorted({*self.reached, *other.reached})),
        )

    @property
    def missed(self) -> list[str]:
        return [name for name in self.possible if name not in self.reached]


class Coverage(_Entry, Printed, frozen=True, kw_only=True):
    """What the vectors of a set, or of several, exercise. `key`: of geometry, formats, steps and array; only equal ones
    merge. `products`: None where the operation multiplies nothing, or too many to count."""

    key: str
    products: Products | None
    accumulator: Accumulators
    steps: dict[str, Edges]

    def merged(self, other: "Coverage") -> "Coverage":
        """What both exercise together; raises QexportError for another geometry, other formats, steps or array."""
        if self.key != other.key:
            raise QexportError(
                f"coverage: {self.key} and {other.key} are of different geometry, formats, steps or array; "
                "merge those of equal keys"
            )
        none = Edges(possible=(), reached=())
        both = self.products is not None and other.products is not None
        return Coverage(
            key=self.key,
            products=self.products.merged(other.products) if both else None,  # type: ignore[union-attr, arg-type]
            accumulator=self.accumulator.merged(other.accumulator),
            steps={
                name: self.steps.get(name, none).merged(other.steps.get(name, none))
                for name in sorted({*self.steps, *other.steps})
            },
        )

    @property
    def told(self) -> dict[str, Any]:
        """For machines, without the bits of the products, which the record of a verdict has."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        if self.products is not None:
            del told["products"]["bits"]
        return told

    @property
    def missed(self) -> list[str]:
        """The edges that were not reached, each with its step."""
        return [f"{name}: {edge}" for name, edges in self.steps.items() for edge in edges.missed]

    def __str__(self) -> str:
        counted = "products are not counted"
        if (found := self.products) is not None:
            counted = (
                f"{percent(found.seen, found.total)} of {found.total:,} products "
                f"({found.elements} elements x {found.weights} x {found.inputs} codes)"
            )
        possible = sum(len(edges.possible) for edges in self.steps.values())
        edges = f"; {possible - len(self.missed)} of {possible} edges of the steps" if self.steps else ""
        return f"{counted}; {self.accumulator}{edges}"

    @property
    def lacks(self) -> list[str]:
        """What no vector exercises, in a few words each."""
        found = self.products
        lacks = []
        if found is not None and found.seen < found.total:
            lacks.append(f"{found.total - found.seen:,} of {found.total:,} products")
        missed = [
            name
            for name, reached in (("least", self.accumulator.low_reached), ("greatest", self.accumulator.high_reached))
            if not reached
        ]
        if missed:
            lacks.append(f"the {' and the '.join(missed)} accumulator")
        if self.missed:
            lacks.append(f"{len(self.missed)} edges of the steps")
        return lacks


def merged(all_of: Iterable[Coverage]) -> dict[str, Coverage]:
    """Several coverages, those of equal keys together, by key."""
    found: dict[str, Coverage] = {}
    for one in all_of:
        found[one.key] = found[one.key].merged(one) if one.key in found else one
    return found


# --- the edges of the steps -----------------------------------------------------------------------------------------

Found = Mapping[str, Any]  # name of an edge -> whether each value, or one of them, lies there


def _along(values: Any, v: Int64, axis: int) -> Any:
    """Numbers of channels in a shape that broadcasts against v; a single number as it is."""
    array = np.asarray(values)
    return array.reshape([-1 if at == axis else 1 for at in range(v.ndim)]) if array.ndim else array


def _rounding(v: Int64, by: Any, prefix: str = "") -> Found:
    """Where v / 2^by lies between two integers, for both signs."""
    one = np.int64(1) << by
    rest = v - ((v >> by) << by)
    places = {
        "exact": rest == 0,
        "below half": (rest > 0) & (rest < one - rest),
        "tie": (rest > 0) & (rest == one - rest),
        "above half": rest > one - rest,
    }
    found = {}
    for name, there in places.items():
        there = there & (by > 0)
        found[f"{prefix}{name}, negative"] = there & (v < 0)
        found[f"{prefix}{name}, positive"] = there & (v >= 0)
    return found


def _of_shift(step: ShiftRight, v: Int64, axis: int) -> Found:
    return _rounding(v, _along(step.arrays["by"], v, axis))


def _of_tflite(step: Tflite, v: Int64, axis: int) -> Found:
    multiplier, shift = (_along(step.arrays[name], v, axis) for name in ("multiplier", "shift"))
    if step.rounding == "single":
        return _rounding(v * multiplier, 31 - shift)
    product = (v << np.maximum(shift, 0)) * multiplier
    high = rounded(product, 31, "half_up")
    return {**_rounding(product, np.int64(31), "product "), **_rounding(high, np.maximum(-shift, 0), "shift ")}


def _of_relu(step: Relu, v: Int64, axis: int) -> Found:
    return {"below 0": v < 0, "above 0": v > 0}


def _of_leaky(step: LeakyRelu, v: Int64, axis: int) -> Found:
    found = _rounding(v, np.int64(step.shift))
    return {"above 0": v > 0, **{name: there for name, there in found.items() if name.endswith("negative")}}


def _of_clamp(step: Clamp, v: Int64, axis: int) -> Found:
    low, high = step.low, step.high
    return {"below low": v < low, "at low": v == low, "at high": v == high, "above high": v > high}


def _of_wrap(step: Wrap, v: Int64, axis: int) -> Found:
    low, high = step.format.low, step.format.high
    return {"wraps below": v < low, "at low": v == low, "at high": v == high, "wraps above": v > high}


def _of_threshold(step: Threshold, v: Int64, axis: int, first: int, channels: int) -> Found:
    """The step has the levels of some of so many channels, from `first` on."""
    table = step.arrays["table"]
    if table.shape[1] * 2 > MOST_EDGES:
        return {}
    sides = {"at": np.zeros(table.shape, np.bool_), "below": np.zeros(table.shape, np.bool_)}
    for channel, values in enumerate(np.moveaxis(v, axis, 0)):
        seen = np.unique(values)
        sides["at"][channel] = np.isin(table[channel], seen)
        sides["below"][channel] = np.isin(table[channel] - 1, seen)
    if 2 * table.shape[1] * channels > MOST_LEVELS:
        return {
            f"some channel: {side} level {at}": there[:, at]
            for side, there in sides.items()
            for at in range(table.shape[1])
        }
    places = [(first + channel, at) for channel, at in np.ndindex(table.shape)]
    return {
        f"channel {channel}: {side} level {at}": there[channel - first, at]
        for side, there in sides.items()
        for channel, at in places
    }


def _of_lookup(step: Lookup, v: Int64, axis: int) -> Found:
    if len(step.table) > MOST_EDGES:
        return {}
    seen = set(np.unique(v).tolist())
    return {f"entry {at}": np.bool_(step.low + at in seen) for at in range(len(step.table))}


_EDGES: Mapping[type[Step], Callable[[Any, Int64, int], Found]] = {
    ShiftRight: _of_shift,
    Tflite: _of_tflite,
    Relu: _of_relu,
    LeakyRelu: _of_leaky,
    Clamp: _of_clamp,
    Wrap: _of_wrap,
    Lookup: _of_lookup,
}


def _names(step: Step, v: Int64, axis: int, first: int = 0, channels: int | None = None) -> set[str]:
    """The edges at which some value lies. `first`, `channels`: which ones the step has, where it has not all."""
    if isinstance(step, Threshold):
        found = _of_threshold(step, v, axis, first, v.shape[axis] if channels is None else channels)
    else:
        found = _EDGES[type(step)](step, v, axis)
    return {name for name, there in found.items() if np.any(there)}


def _possible(step: Step, before: Signal) -> set[str]:
    """The edges that some value of the range before a step can reach."""
    alike = not any(array.ndim and axes[0] == "channel" for array, axes in zip(
        step.arrays.values(), step.numbers.values(), strict=True))  # fmt: skip
    if alike:
        low, high = before.range
        return _names(step, step.edges(low, high, 0, MOST_EDGES)[np.newaxis], 0)
    found: set[str] = set()
    for channel in range(before.channels):
        low, high = int(before.low[channel]), int(before.high[channel])
        found |= _names(
            step.of_channels([channel]), step.edges(low, high, channel)[np.newaxis], 0, channel, before.channels
        )
    return found


class EdgesSeen:
    """Counts the edges of a chain's steps over the parts of a layer's images."""

    def __init__(self, chain: Chain | None):
        self._steps: dict[str, tuple[Step, str, int]] = {}
        self._possible: dict[str, set[str]] = {}
        self._reached: dict[str, set[str]] = {}
        if chain is None:
            return
        before, signal = "accumulator", chain.start
        for name, step in zip(chain.names, chain.steps, strict=True):
            if isinstance(step, Threshold) or type(step) in _EDGES:
                self._steps[name] = step, before, signal.axis
                self._possible[name] = _possible(step, signal)
                self._reached[name] = set()
            before, signal = name, chain.signals[name]

    def add(self, value_of: Callable[[str], Int64]) -> None:
        """Take some images into account; `value_of` gives their tensors by name."""
        for name, (step, before, axis) in self._steps.items():
            self._reached[name] |= _names(step, value_of(before), axis)

    @property
    def found(self) -> dict[str, Edges]:
        return {
            name: Edges(possible=tuple(sorted(self._possible[name] | reached)), reached=tuple(sorted(reached)))
            for name, reached in self._reached.items()
        }
