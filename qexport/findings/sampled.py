"""The products behind some of the results: a few places at which thousands of hypotheses are tried at once."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools
from qexport.findings.model import AnyModel, Model

_FIRST = (2, 8)  # places at which most hypotheses fail
PLACES = 48


@dataclass(frozen=True)
class Errors:
    """By how much accumulators are `off` where they are `told` (behind a ReLU: above 0); `wrong`: where it is not 0."""

    off: Int64
    told: Bools
    wrong: Bools

    @classmethod
    def of(cls, m: Model, actual: Int64, known: Bools) -> "Errors | None":
        if m.tensor not in ("accumulator", "relu") or m.memory.order.has_bits:
            return None
        given = actual - m.entry.offset
        told = known & ((given > 0) | (m.tensor != "relu"))
        off = np.where(told, given - m.accumulator, 0)
        return cls(off, told, off != 0)


def _rare_first(m: AnyModel, actual: Int64, known: Bools, count: int) -> Int64 | None:
    """Places of wrong results, half of them of rare values; None where results do not follow one by one."""
    if not m.one_by_one:
        return None
    wrong = np.argwhere(known & (actual != m.golden))
    if not len(wrong):
        return None
    order = np.random.default_rng(0).permutation(len(wrong))
    values = actual[tuple(wrong[order].T)]
    often = np.unique(values, return_inverse=True, return_counts=True)
    rare = np.argsort(often[2][often[1]], kind="stable")[: count // 2]
    chosen = list(dict.fromkeys([*rare.tolist(), *range(len(wrong))][:count]))
    return wrong[order[chosen]]


@dataclass(frozen=True)
class Places:
    """Some places of the tensor with wrong results: their indices along each axis, and what came back there."""

    model: AnyModel
    got: Int64
    place: tuple[Int64, ...]

    @classmethod
    def of(cls, m: AnyModel, actual: Int64, known: Bools, count: int = PLACES) -> "Places | None":
        chosen = _rare_first(m, actual, known, count)
        return None if chosen is None else Places(m, actual[tuple(chosen.T)], tuple(chosen.T))

    def part(self, part: slice) -> Self:
        """Some of the places alone."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        for name, value in arrays.items():
            arrays[name] = tuple(index[part] for index in value) if isinstance(value, tuple) else value[part]
        return replace(self, **arrays)

    @property
    def stages(self) -> list[Self]:
        """A few places, then more of them."""
        return [*(self.part(slice(count)) for count in _FIRST if count < len(self.got)), self]

    def fits(self, sums: Int64) -> Bools:
        """(..., places) sums: of which of them all results are what came back."""
        channels = self.place[self.model.channel_axis]
        return np.asarray((self.model.held(sums, channels) == self.got).all(axis=-1))


@dataclass(frozen=True)
class Sampled(Places):
    """Places of a convolution, and the factors of each product that adds to them.

    All (places, terms): the indices of weights and of padded planes; `used`: which terms there are.
    """

    model: Model
    image: Int64
    channel: Int64
    output: Int64
    taps: tuple[Int64, Int64, Int64]  # input channel of the group, kh, kw
    rows: Int64
    columns: Int64
    used: Bools

    @classmethod
    def of(cls, m: AnyModel, actual: Int64, known: Bools, count: int = PLACES) -> "Sampled | None":
        assert isinstance(m, Model)
        chosen = _rare_first(m, actual, known, count)
        return None if chosen is None else cls._at(m, actual, chosen)

    @classmethod
    def _at(cls, m: Model, actual: Int64, places: Int64) -> "Sampled":
        layer, (kernel_h, kernel_w) = m.layer, m.layer.kernel
        place = tuple(places.T)
        inputs, per_group = layer.group_inputs, layer.out_channels // layer.groups
        if m.tensor == "psum":
            n, it, kh, kw, oc, py, px = (index[:, np.newaxis] for index in place)
            ic = it * m.facts.row + np.arange(m.facts.row)
            used, ic = ic < inputs, np.minimum(ic, inputs - 1)
            taps = (ic, kh + 0 * ic, kw + 0 * ic)
            y, x = py + 0 * ic, px + 0 * ic
        else:
            n, oc, oy, ox = (index[:, np.newaxis] for index in place)
            ic, kh, kw = (index.reshape(1, -1) for index in np.indices((inputs, kernel_h, kernel_w)))
            y = oy * layer.stride[0] + kh * layer.dilation[0]
            x = ox * layer.stride[1] + kw * layer.dilation[1]
            taps = tuple(np.broadcast_to(index, y.shape) for index in (ic, kh, kw))  # type: ignore[assignment]
            used = np.ones(y.shape, np.bool_)
        channel = oc // per_group * inputs + taps[0]
        return cls(m, actual[place], place, n + 0 * channel, channel, oc + 0 * channel, taps, y, x, used)

    @property
    def weights(self) -> Int64:
        """The weight of each product."""
        return self.model.weight[self.output, *self.taps] * self.used

    @property
    def seen(self) -> Int64:
        """The input of each product."""
        return self.model.planes[self.image, self.channel, self.rows, self.columns]

    @property
    def offset(self) -> Int64:
        bias = self.model.facts.added
        if bias is None or self.model.tensor == "psum":
            return np.zeros(len(self.got), np.int64)
        return bias[self.output[:, 0]]

    @property
    def golden(self) -> Int64:
        """The right sums."""
        sums: Int64 = (self.weights * self.seen).sum(axis=1) + self.offset
        return sums
