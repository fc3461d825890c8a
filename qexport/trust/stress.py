"""Full-range captures of a layer's geometry that reach its accumulators' bounds, and every product of an array."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from qexport.build.blind_spots import Stored
from qexport.build.coverage import Elements, coverage
from qexport.build.dump import plan
from qexport.core.capture import Capture, LayerCapture, Source
from qexport.core.codes import CodeFormat
from qexport.core.coverage import Bools, Coverage
from qexport.core.geometry import ConvGeometry
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.base import Need, Operation
from qexport.core.operations.conv2d import pad, patches
from qexport.core.operations.matmul import MatrixProduct
from qexport.core.operations.registry import operation, require
from qexport.core.operations.sum import WeightedSum
from qexport.core.steps import SumPool
from qexport.core.strength import Strength
from qexport.layout.memory import Layout
from qexport.layout.order import TILE_AXIS
from qexport.trust.aims import Aims
from qexport.trust.stress_data import stress_product, stress_sum

MAX_IMAGES = 24
MAX_SETS = 16  # of weights, for one layer
_TRIES = 4  # channels, and places for each, that one accumulator is tried with
_DRAWS = 16  # of codes for each place
STIMULUS = "stress"


def stress_capture(like: Capture, seed: int = 0) -> LayerCapture:
    """Codes for the geometry, formats and plane of another capture, which try the arithmetic as hard as they can.

    Weights and inputs fill the whole range of their formats. Every output channel reaches its own least and greatest
    accumulator, and so one of them the proven bounds; at the corners of the plane each reaches what is possible there.
    Single accumulators are -1, 0 and 1, lie on both sides of every edge between two codes of the output and on its
    ties, and show in each channel the stuck bits of what its steps are given, as far as MAX_IMAGES images have room;
    images are added until every single-bit error of a weight shows behind the ReLU. The same seed gives the same codes.
    """
    if not isinstance(like.layer, ConvGeometry):
        return _of_data(like, seed)
    require(like.layer, Need.STRESS, *(fmt for fmt in like.formats.operands.values() if fmt.table is not None))
    rng = np.random.default_rng(seed)
    layer, formats, plane = like.layer, like.formats, like.plane
    lifts, weight = _weights(rng, layer, formats.weight)
    codes = formats.input.integer
    sheets = _Sheets(rng, layer, formats.input, plane, weight)
    bias = None
    if like.bias is not None:
        least, greatest = (side.sum(axis=(1, 2, 3)) for side in _sides(weight, formats.input))
        span = max(1, int((greatest - least).max()) // 8)
        bias = rng.integers(-span, span + 1, layer.out_channels)
    source = Source(seed=seed, stimulus=STIMULUS)
    blank = np.zeros((1, layer.in_channels, *plane), np.int64)
    stored = weight + _zeros(layer, formats.weight)  # `weight` is what the codes are worth
    draft = LayerCapture(layer, formats, stored, blank, bias, source=source, steps=like.steps)

    rows, cols = layer.output_plane(plane)
    corners = [(oy, ox) for oy in (0, rows - 1) for ox in (0, cols - 1)]
    for position in dict.fromkeys((*_furthest(draft, weight), *corners)):
        for up in (True, False):  # the channels that rise with `lifts` reach their greatest sum, the others the least
            for group in range(layer.groups):
                window = sheets.window(group, position)
                sheets.put(window, np.where((window.of(lifts[group]) > 0) == up, codes.high, codes.low))
    reach = [(k - 1) * d // s + 1 for k, d, s in zip(layer.kernel, layer.dilation, layer.stride, strict=True)]
    spots = [(oy, ox) for oy in range(0, rows, reach[0]) for ox in range(0, cols, reach[1])]  # they do not overlap
    spots += _furthest(draft, weight)
    sheets.open(spots)
    channels = rng.permutation(layer.out_channels)
    aims, size = Aims(operation(draft, None)), layer.out_channels // layer.groups
    offset = np.zeros(layer.out_channels, np.int64) if bias is None else bias
    for number, (wanted, target) in enumerate(aims.targets()):
        if sheets.full:
            break
        for channel in np.roll(channels, -number)[:_TRIES].tolist() if wanted is None else [wanted]:
            if not (hits := list(sheets.hits(channel, target - int(offset[channel])))):
                continue
            members = range(channel - channel % size, channel - channel % size + size)
            sums = np.stack([sheets.sums(window, found) for _, window, found in hits], 1) + offset[members, np.newaxis]
            best = int(aims.worth(sums, members).argmax())
            sheets.write(*hits[best])
            aims.met(sums[:, best], members)
            break
    averages = any(isinstance(step, SumPool) for step in like.steps or ())  # their edges are met by chance alone
    strength = Strength(layer, formats, stored)
    for number in range(MAX_IMAGES):
        if number == len(sheets.images):
            weights = strength.info.weight
            if weights.relu == weights.flips and not averages:
                break
            sheets.add()
        strength.add(Golden(replace(draft, input=sheets.images[number][np.newaxis])))
    return replace(draft, input=np.stack(sheets.images))


def stress_captures(like: Capture, layout: Layout, seed: int = 0) -> tuple[list[LayerCapture], Coverage]:
    """The stress capture, and further ones with other weights, until every element of the layout's array has seen every
    product that its formats allow, MAX_SETS at most; and what they cover together.

    All have the layer's own name, so that a design that imports its package runs on each of them.
    """
    captures: list[LayerCapture] = []
    covered: Coverage | None = None
    row = layout.array.get(TILE_AXIS)
    made = stress_capture(like, seed)
    for number in range(MAX_SETS):
        if number and not isinstance(made.layer, ConvGeometry):
            made = stress_capture(like, seed + number)
        stored = [
            Stored(one.memory.name, one.memory.tensor, one.tiling)
            for one in plan(operation(made, row), layout, made.images)
        ]
        if covered is not None and covered.products is not None and isinstance(made.layer, ConvGeometry):
            elements = Elements(operation(made, row), stored, layout.array)
            made = _showing(made, elements, covered.products.array(), np.random.default_rng(seed + number))
        found = coverage(made, operation(made, row), stored, layout.array)
        if covered is not None:
            found = covered.merged(found)
            if found.products is None or found.products == (covered.products):
                break  # nothing is counted, or nothing new was seen
        captures.append(made)
        covered = found
        if covered.products is None or covered.products.seen == covered.products.total:
            break
    assert covered is not None
    return captures, covered


def _showing(made: LayerCapture, elements: Elements, seen: Bools, rng: np.random.Generator) -> LayerCapture:
    """The capture with weights whose products an element has not seen, and images in which each code stands everywhere.

    `seen`: (elements, weight codes, input codes), elements as of output channel, place and input channel.
    """
    weights, inputs = made.formats.weight.valid, made.formats.input.valid
    ocs, ics = elements.of["oc"], elements.of["ic"]
    lacks = (~seen).reshape(elements.count("oc"), -1, elements.count("ic"), len(weights), len(inputs)).sum(axis=(1, 4))
    weight = made.weight.copy()
    for oc, ic in np.ndindex(*lacks.shape[:2]):
        places = np.ix_(np.flatnonzero(ocs == oc), np.flatnonzero(ics == ic))
        shape = weight[places].shape
        order = np.argsort(-lacks[oc, ic], kind="stable")
        wanted = order[: max(int((lacks[oc, ic] > 0).sum()), 1)]
        weight[places] = weights[rng.permutation(np.resize(wanted, np.prod(shape)))].reshape(shape)
    plane = made.plane[0] * made.plane[1]
    images = min(MAX_IMAGES, max(2, -(-4 * len(inputs) // plane)))
    rows = np.tile(np.resize(inputs, images * plane), (made.layer.in_channels, 1))
    codes = rng.permuted(rows, axis=1).reshape(made.layer.in_channels, images, *made.plane).swapaxes(0, 1)
    bias = None if made.bias is None else ~made.bias  # no bit of a bias is the same in all sets
    return replace(made, weight=weight, bias=bias, input=np.ascontiguousarray(codes))


def _of_data(like: Capture, seed: int) -> LayerCapture:
    """The same where all operands are data, whatever their codes stand for."""
    require(like.layer, Need.STRESS)
    facts: Operation = operation(like, None)
    if isinstance(facts, MatrixProduct):
        return stress_product(facts, like, Aims(facts), MAX_IMAGES, seed)
    assert isinstance(facts, WeightedSum)
    return stress_sum(facts, like, Aims(facts), MAX_IMAGES, seed)


def _zeros(layer: ConvGeometry, fmt: CodeFormat) -> Int64:
    """The zero point of each output channel's weights, (oc, 1, 1, 1)."""
    zeros = np.array(fmt.zero_points, np.int64)
    return np.broadcast_to(zeros, layer.out_channels).reshape(-1, 1, 1, 1)


def _weights(rng: np.random.Generator, layer: ConvGeometry, fmt: CodeFormat) -> tuple[Int64, Int64]:
    """Signs (g, ic of g, kh, kw) and what weights (oc, ic of g, kh, kw) of all codes are worth: code less zero point.

    The even channels of a group have the signs, the odd ones their opposites: one input drives all of them to a bound.
    """
    shape = (layer.groups, 1, layer.group_inputs, *layer.kernel)
    span = fmt.integer.high - fmt.integer.low
    roomy = math.prod(shape[1:]) > 2 * span  # for all codes in each channel
    lows = fmt.integer.low - _zeros(layer, fmt).ravel()
    below = bool(lows.min() < 0)
    lifts = rng.choice([-1, 1], shape) if below else np.ones(shape, np.int64)
    if roomy and below:  # as many of each sign, so that all channels reach as far and use every bit of a sum
        lifts = rng.permuted(np.resize([1, -1], (layer.groups, lifts[0].size)), axis=1).reshape(shape)
    channels = layer.out_channels // layer.groups
    odd = np.arange(channels).reshape(1, -1, 1, 1, 1) % 2 == 1
    signs = np.where(odd & below, -lifts, lifts)
    weight: Int64 = np.empty((layer.out_channels, signs[0, 0].size), np.int64)
    parts = layer.out_channels if roomy or len(set(lows.tolist())) > 1 else 1
    for part, sign, low in zip(weight.reshape(parts, -1), signs.reshape(parts, -1), lows.tolist(), strict=False):
        for cells, codes in ((sign > 0, np.arange(low + span, -1, -1)), (sign < 0, np.arange(low, 1))):
            part[cells] = rng.permutation(np.resize(codes, int(np.count_nonzero(cells))))
    # two's complement reaches further down by one; sums that balance are above 0 as often as below
    for row, high in zip(weight, (lows + span).tolist(), strict=True):
        kept = int(row.argmin())  # one of them stays the least code
        while high and span - 2 * high <= 1 and (excess := -int(row.sum())) > 0:
            able = np.flatnonzero((row < (0 if roomy else high)) & (row != 0) & (np.arange(row.size) != kept))
            if not len(able):
                break
            row[rng.permutation(able)[:excess]] += 1
    return lifts[:, 0], weight.reshape(layer.out_channels, *shape[2:])


def _sides(weight: Int64, fmt: CodeFormat) -> tuple[Int64, Int64]:
    """The least and the greatest product of each weight with an input."""
    products = weight * (fmt.integer.low - fmt.zero_points[0]), weight * (fmt.integer.high - fmt.zero_points[0])
    return np.minimum(*products), np.maximum(*products)


def _furthest(draft: LayerCapture, weight: Int64) -> Iterator[tuple[int, int]]:
    """The positions of the least and of the greatest accumulator that any input gives; of several the middle one."""
    layer, plane = draft.layer, draft.plane
    inside = patches(pad(np.ones((1, 1, *plane), np.int64), layer), layer, plane)[0, 0]  # (kh, kw, oy, ox)
    offset = 0 if draft.bias is None else draft.bias[:, np.newaxis, np.newaxis]
    for side, sign in zip(_sides(weight, draft.formats.input), (-1, 1), strict=True):
        sums = sign * (np.tensordot(side.sum(axis=1), inside, ([1, 2], [0, 1])) + offset)
        reached = np.argwhere(sums.max(axis=0) == sums.max())
        oy, ox = reached[len(reached) // 2].tolist()
        yield oy, ox


@dataclass(frozen=True)
class _Window:
    """The inputs of a group's channels inside the plane that an output position meets, and the taps that meet them."""

    group: int
    channels: slice
    ys: Int64
    xs: Int64
    khs: Int64
    kws: Int64

    def of(self, taps: Int64) -> Int64:
        """Those of (..., ic of g, kh, kw) that meet an input, in the order of the inputs."""
        return taps[..., self.khs[:, np.newaxis], self.kws]


class _Sheets:
    """Images (ic, iy, ix) of random codes for weights (oc, ic of g, kh, kw), less their zero points; each part of them
    is written at most once."""

    def __init__(
        self, rng: np.random.Generator, layer: ConvGeometry, fmt: CodeFormat, plane: tuple[int, int], weight: Int64
    ):
        self._rng, self._layer, self._codes, self._plane, self._weight = rng, layer, fmt.integer, plane, weight
        self._zero = fmt.zero_points[0]
        self.images: list[Int64] = []
        self._taken: list[NDArray[np.bool_]] = []  # (g, iy, ix)
        self._spots: list[list[_Window]] = [[] for _ in range(layer.groups)]
        self._room: list[NDArray[np.bool_]] = []  # (g, spot)

    def add(self) -> None:
        shape = (self._layer.in_channels, *self._plane)
        self.images.append(self._rng.integers(self._codes.low, self._codes.high + 1, shape))
        self._taken.append(np.zeros((self._layer.groups, *self._plane), np.bool_))
        self._room.append(np.ones((self._layer.groups, len(self._spots[0])), np.bool_))

    def open(self, positions: Sequence[tuple[int, int]]) -> None:
        """From now on `hits` looks at the windows of these output positions."""
        groups = range(self._layer.groups)
        self._spots = [[self.window(group, position) for position in positions] for group in groups]
        self._room = [np.array([[self._free(n, w) for w in ws] for ws in self._spots]) for n in range(len(self.images))]
        ends = self._codes.low - self._zero, self._codes.high - self._zero
        taps = [window.of(self._weight) for window in self._spots[0]]  # at a border fewer of them meet an input
        self._least, self._greatest = (
            np.array([side(each * ends[0], each * ends[1]).sum(axis=(1, 2, 3)) for each in taps])  # (spot, oc)
            for side in (np.minimum, np.maximum)
        )

    @property
    def full(self) -> bool:
        """Whether none of the windows that `hits` looks at has room."""
        return len(self.images) == MAX_IMAGES and not any(room.any() for room in self._room)

    def window(self, group: int, position: tuple[int, int]) -> _Window:
        layer, met = self._layer, []
        for axis, at in enumerate(position):
            taps = np.arange(layer.kernel[axis])
            places = layer.meets(axis, at, taps) - layer.padding[2 * axis]
            inside = (places >= 0) & (places < self._plane[axis])
            met.append((places[inside], taps[inside]))
        (ys, khs), (xs, kws) = met
        channels = slice(group * layer.group_inputs, (group + 1) * layer.group_inputs)
        return _Window(group, channels, ys, xs, khs, kws)

    def _free(self, number: int, window: _Window) -> bool:
        """Whether nothing is written there yet."""
        return not self._taken[number][window.group, window.ys[:, np.newaxis], window.xs].any()

    def write(self, number: int, window: _Window, codes: Int64) -> None:
        self.images[number][window.channels, window.ys[:, np.newaxis], window.xs] = codes
        self._taken[number][window.group, window.ys[:, np.newaxis], window.xs] = True
        room = self._room[number][window.group]
        room[room] = [self._free(number, self._spots[window.group][spot]) for spot in np.flatnonzero(room)]

    def put(self, window: _Window, codes: Int64) -> None:
        """Write (ic of g, ys, xs) where there is room."""
        for number in range(MAX_IMAGES):
            if number == len(self.images):
                self.add()
            if self._free(number, window):
                return self.write(number, window, codes)

    def sums(self, window: _Window, codes: Int64) -> Int64:
        """The accumulators (oc of g) of codes (ic of g, ys, xs) in a window, less the bias."""
        own = np.split(self._weight, self._layer.groups)[window.group]
        return np.tensordot(window.of(own), codes - self._zero, 3)

    def hits(self, channel: int, target: int) -> Iterator[tuple[int, _Window, Int64]]:
        """Images, windows with room and codes for them whose accumulator of a channel, less its bias, is the target;
        new images come last."""
        group = channel // (self._layer.out_channels // self._layer.groups)
        low, high = self._codes.low, self._codes.high
        able = (self._least[:, channel] <= target) & (target <= self._greatest[:, channel])
        places = ((n, int(s)) for n in range(MAX_IMAGES) for s in np.flatnonzero(able & self._room_of(n, group)))
        for number, spot in islice(places, _TRIES if able.any() else 0):
            window = self._spots[group][spot]
            taps = window.of(self._weight[channel])
            order = np.argsort(-np.abs(taps), axis=None, kind="stable")  # the small ones last, they hit exactly
            sizes: list[int] = taps.flat[order].tolist()
            for codes in self._rng.integers(low, high + 1, (_DRAWS, taps.size)).tolist():
                lacks = target - sum(tap * (code - self._zero) for tap, code in zip(sizes, codes, strict=True))
                for at, (tap, code) in enumerate(zip(sizes, codes, strict=True)):
                    if not (lacks and tap):
                        break
                    step = abs(lacks) // abs(tap) * (1 if (lacks > 0) == (tap > 0) else -1)
                    codes[at] = min(max(code + step, low), high)
                    lacks -= tap * (codes[at] - code)
                if not lacks:
                    found = np.empty_like(taps)
                    found.flat[order] = codes
                    yield number, window, found

    def _room_of(self, number: int, group: int) -> NDArray[np.bool_]:
        """Which spots of a group are free in an image, which is made where there is none yet."""
        if number == len(self.images):
            self.add()
        room: NDArray[np.bool_] = self._room[number][group]
        return room
