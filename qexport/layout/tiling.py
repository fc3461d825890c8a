"""An order with sizes: a tensor to files, words and lanes, and back."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.budget import STORED, WORD_BITS
from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError
from qexport.layout.order import IMAGE_AXIS, Order, Split


def too_wide(order: Order, sizes: Mapping[str, int], bits: int) -> tuple[str, str] | None:
    """The largest lane axis and what to do about it, where a word would be wider than WORD_BITS.

    Sizes that are not known yet count as 1.
    """
    lanes = {part: sizes.get(part, 1) for item in order.lanes for part in item.parts}
    width = bits * math.prod(lanes.values())
    if width <= WORD_BITS:
        return None
    axis = max(lanes, key=lambda part: lanes[part])
    return axis, (
        f"a word would have {width} bits, more than {WORD_BITS}, because lane axis '{axis}' has size "
        f"{lanes[axis]}; lower it, or make it an address axis"
    )


# --- tiling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """Axes moved, run backwards, joined, filled up and split again. The entries are sizes but for the first two."""

    transpose: tuple[int, ...]
    flip: tuple[int, ...]
    moved: tuple[int, ...]
    joined: tuple[int, ...]
    padded: tuple[int, ...]
    split: tuple[int, ...]

    def forth(self, array: Int64, fill: int) -> Int64:
        joined = np.flip(array.transpose(self.transpose), self.flip).reshape(self.joined)
        if self.padded != self.joined:
            ragged = [(0, padded - size) for padded, size in zip(self.padded, self.joined, strict=True)]
            joined = np.pad(joined, ragged, constant_values=fill)
        return joined.reshape(self.split)

    def back(self, array: Int64) -> Int64:
        joined = array.reshape(self.padded)[tuple(slice(size) for size in self.joined)]
        return np.flip(joined.reshape(self.moved), self.flip).transpose(np.argsort(self.transpose))

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Where `forth` puts the element of this index."""
        moved = [
            self.moved[at] - 1 - index[axis] if at in self.flip else index[axis]
            for at, axis in enumerate(self.transpose)
        ]
        joined = np.unravel_index(np.ravel_multi_index(moved, self.moved), self.joined)
        split = np.unravel_index(np.ravel_multi_index(joined, self.padded), self.split)
        return tuple(int(i) for i in split)


@dataclass(frozen=True)
class _Windows:
    """An axis of `size` cut into tiles of `step` that also hold so many elements `before` and `after` them.

    `tiles`: their number, as axes.
    """

    axis: int
    size: int
    tiles: tuple[int, ...]
    step: int
    before: int
    after: int

    @property
    def _width(self) -> int:
        return self.before + self.step + self.after

    def forth(self, array: Int64, fill: int) -> Int64:
        behind = math.prod(self.tiles) * self.step + self.after - self.size
        edges = [(self.before, behind) if at == self.axis else (0, 0) for at in range(array.ndim)]
        padded = np.pad(array, edges, constant_values=fill)
        every = np.lib.stride_tricks.sliding_window_view(padded, self._width, self.axis)
        tiles = np.moveaxis(every[(*[slice(None)] * self.axis, slice(None, None, self.step))], -1, self.axis + 1)
        return tiles.reshape(*array.shape[: self.axis], *self.tiles, self._width, *array.shape[self.axis + 1 :])

    def back(self, array: Int64) -> Int64:
        behind = array.shape[self.axis + len(self.tiles) :]
        tiles = array.reshape(*array.shape[: self.axis], math.prod(self.tiles), *behind)
        first = np.moveaxis(tiles, (self.axis, self.axis + 1), (0, 1))
        return np.moveaxis(first[self._copy(np.arange(self.size))], 0, self.axis)

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        tile, inside = self._copy(np.array(index[self.axis]))
        tiles = np.unravel_index(int(tile), self.tiles)
        return (*index[: self.axis], *map(int, tiles), int(inside), *index[self.axis + 1 :])

    def _copy(self, at: Int64) -> tuple[Int64, Int64]:
        """The tile in whose middle the elements stand, or the last one, and their places in it."""
        tile = np.minimum(at // self.step, math.prod(self.tiles) - 1)
        return tile, at - tile * self.step + self.before


@dataclass(frozen=True)
class _Repeats:
    """Axes of these sizes behind the others, along which every element is the same."""

    sizes: tuple[int, ...]

    def forth(self, array: Int64, fill: int) -> Int64:
        more = array.reshape(array.shape + (1,) * len(self.sizes))
        return np.broadcast_to(more, array.shape + self.sizes)

    def back(self, array: Int64) -> Int64:
        return array.reshape(*array.shape[: array.ndim - len(self.sizes)], -1)[..., 0]

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return (*index, *(0 for _ in self.sizes))


@dataclass(frozen=True)
class Skew:
    """Words (files, words, lanes) in runs of `run`, in which each lane is delayed by so many words."""

    run: int
    delays: tuple[int, ...]

    @property
    def longer(self) -> int:
        """The words of a run that is skewed."""
        return self.run + max(self.delays)

    def _lanes(self) -> Iterator[tuple[int, list[int]]]:
        """Each delay and the lanes that have it."""
        for delay in sorted(set(self.delays)):
            yield delay, [lane for lane, own in enumerate(self.delays) if own == delay]

    def forth(self, array: Int64, fill: int) -> Int64:
        files, words, lanes = array.shape
        runs = array.reshape(files, words // self.run, self.run, lanes)
        out = np.full((files, words // self.run, self.longer, lanes), fill, array.dtype)
        for delay, own in self._lanes():
            out[:, :, delay : delay + self.run, own] = runs[..., own]
        return out.reshape(files, -1, lanes)

    def back(self, array: Int64) -> Int64:
        files, words, lanes = array.shape
        runs = array.reshape(files, words // self.longer, self.longer, lanes)
        out = np.empty((files, words // self.longer, self.run, lanes), array.dtype)
        for delay, own in self._lanes():
            out[..., own] = runs[:, :, delay : delay + self.run, own]
        return out.reshape(files, -1, lanes)

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        file, word, lane = index
        run, at = divmod(word, self.run)
        return file, run * self.longer + at + self.delays[lane], lane


class Tiling:
    """An order with sizes: maps a tensor of `shape` to (files, words, lanes) and back.

    `sizes` has every axis of every stage, the tensor's own among them.
    """

    def __init__(
        self, order: Order, shape: tuple[int, ...], array: Mapping[str, int], bits: int = 1, first_image: int = 0
    ):
        """`bits` is the width of an element; `first_image` is that of a tensor of only some images.

        Raises QexportError when the sizes of a split do not cover its axes, when elements cannot be dealt evenly to
        files, or when a word would be too wide.
        """
        self.order = order
        self.shape = shape
        self._array = array
        self._first_image = first_image
        self.sizes = dict(zip(order.tensor_axes, shape, strict=True))
        self._steps: list[_Step | _Windows | _Repeats | Skew] = []
        axes = order.tensor_axes
        for stage in order.stages:
            joined = tuple(self._size(split.joined) for split in stage)
            for split, size in zip(stage, joined, strict=True):
                if split.names != split.joined:
                    self.sizes |= self._split_sizes(split, size, array)
            self._add_stage(axes, stage, joined)
            axes = tuple(name for split in stage for name in split.names)
        if order.repeats:
            if missing := [axis for axis in order.repeats if axis not in array]:
                raise QexportError(
                    f"layout order '{order.text}': no stage has the axis '{missing[0]}'; to repeat elements along it "
                    "give its size in [array]"
                )
            self.sizes |= {axis: array[axis] for axis in order.repeats}
            self._steps.append(_Repeats(self._each(order.repeats)))
            axes = (*axes, *order.repeats)
        if wide := too_wide(order, self.sizes, bits):
            raise QexportError(f"layout order '{order.text}': {wide[1]}")
        right = [(part, item.reverse) for item in order.right for part in item.parts]
        flip = tuple(at for at, (_, reverse) in enumerate(right) if reverse)
        self.files, self.words, self.lanes = blocks = (
            self._size(part for item in order.files for part in item.parts),
            self._size(part for item in order.addresses for part in item.parts),
            self._size(part for item in order.lanes for part in item.parts),
        )
        self.delay = skew = self._skew()
        if skew is not None:
            self.words = self.words // skew.run * skew.longer
        if self.stored > STORED:
            raise QexportError(
                f"layout order '{order.text}': its files would hold {self.stored:,} elements, more than "
                f"{STORED:,}; lower a size in [array]{' or skew_by' if order.skew else ''}"
            )
        self._add_step(axes, [part for part, _ in right], tuple(flip), blocks, blocks, blocks)
        if skew is not None:
            self._steps.append(skew)

    def _add_stage(self, axes: tuple[str, ...], stage: Sequence[Split], joined: tuple[int, ...]) -> None:
        """Join and split; a split into overlapping tiles comes after that, on its axis as it stands then."""
        whole = [
            (size,) if split.overlaps else self._each(split.names) for split, size in zip(stage, joined, strict=True)
        ]
        padded = tuple(math.prod(sizes) for sizes in whole)
        moved = [axis for split in stage for axis in split.joined]
        self._add_step(axes, moved, (), joined, padded, tuple(size for sizes in whole for size in sizes))
        at = 0
        for split, size in zip(stage, joined, strict=True):
            if split.overlaps:
                tiles, fastest = self._each(split.names[:-1]), split.names[-1]
                step = self._array[fastest]
                self._steps.append(_Windows(at, size, tiles, step, split.before, split.after))
            at += len(split.names)

    def _skew(self) -> Skew | None:
        order = self.order
        if not order.skew:
            return None
        lanes = [(part, item.reverse) for item in order.lanes for part in item.parts]
        at = [part for part, _ in lanes].index(order.skew)
        index = np.indices(self._each([part for part, _ in lanes])).reshape(len(lanes), -1)[at]
        if lanes[at][1]:
            index = self.sizes[order.skew] - 1 - index
        return Skew(self._size(order.addresses[-1].parts), tuple((index * order.skew_by).tolist()))

    @property
    def stored(self) -> int:
        """The elements of all files."""
        return self.files * self.words * self.lanes

    def _add_step(
        self, axes: Sequence[str], moved: Sequence[str], flip: tuple[int, ...], *sizes: tuple[int, ...]
    ) -> None:
        transpose = tuple(axes.index(axis) for axis in moved)
        self._steps.append(_Step(transpose, flip, self._each(moved), *sizes))

    def _each(self, axes: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.sizes[axis] for axis in axes)

    def _size(self, axes: Iterable[str]) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    def _split_sizes(self, split: Split, size: int, array: Mapping[str, int]) -> dict[str, int]:
        """The sizes of a split's parts; `size` is that of the joined axes."""
        parts, whole = " ".join(split.names), " ".join(split.joined)
        if split.overlaps:
            return self._window_sizes(split, size, array)
        given = math.prod(array.get(name, 1) for name in split.names)
        if all(name in array for name in split.names) and given < size:
            raise QexportError(
                f"layout order '{self.order.text}': ({parts}) holds {given} elements of the {size} of {whole}; "
                "leave the size of the outer axis out of [array]"
            )
        sizes = {name: array.get(name, math.ceil(size / given)) for name in split.names}
        fastest, spare = split.names[-1], "slot" if "slot" not in self.sizes else "slot2"
        if math.prod(sizes.values()) != size and any(fastest in item.parts for item in self.order.files):
            raise QexportError(
                f"layout order '{self.order.text}': the {size} elements of {whole} cannot be dealt evenly to "
                f"{sizes[fastest]} files '{fastest}'; give '{fastest}' a size that divides {size}, or fill up in a "
                f"stage before: ({whole})=(k {spare}) -> k ({spare})=({fastest}) with {spare} = {sizes[fastest]} in "
                "[array]"
            )
        return sizes

    def _window_sizes(self, split: Split, size: int, array: Mapping[str, int]) -> dict[str, int]:
        """The sizes of overlapping tiles' axes: of the last name, the neighbours counted, and of those before it."""
        *tiles, fastest = split.names
        if fastest not in array:
            raise QexportError(
                f"layout order '{self.order.text}': size of axis '{fastest}' is not given; add it to [array]"
            )
        step, given = array[fastest], math.prod(array.get(name, 1) for name in tiles)
        needed = max(1, math.ceil((size if split.before else size - split.after) / step))
        sizes = {name: array.get(name, math.ceil(needed / given)) for name in tiles}
        if (held := math.prod(sizes.values()) * step + split.after) < size:
            raise QexportError(
                f"layout order '{self.order.text}': ({' '.join(split.names)}) reaches {held} elements of the {size} of "
                f"{' '.join(split.joined)}; leave the number of tiles out of [array]"
            )
        return sizes | {fastest: split.before + step + split.after}

    @property
    def added(self) -> int:
        """How many elements over all files stand where a skew put them."""
        return 0 if self.delay is None else self.stored - self.stored // self.delay.longer * self.delay.run

    @property
    def not_added(self) -> NDArray[np.bool_]:
        """(words of all files, lanes): which elements do not stand where a skew put them."""
        if self.delay is None:
            return np.ones((self.files * self.words, self.lanes), bool)
        before = np.ones((self.files, self.words // self.delay.longer * self.delay.run, self.lanes), np.int64)
        stands: NDArray[np.bool_] = self.delay.forth(before, 0).reshape(-1, self.lanes) == 1
        return stands

    @cached_property
    def fill(self) -> int:
        """How many elements over all files belong to no tensor element."""
        if not self.order.has_copies:
            return self.stored - math.prod(self.shape)
        images, one = 1, self
        if self.order.streams_images:
            images, one = self.shape[0], Tiling(self.order, (1, *self.shape[1:]), self._array)
        return self.stored - images * int(one.tile(np.ones(one.shape, np.int64)).sum())

    def unequal_copy(self, blocks: Int64) -> dict[str, int] | None:
        """The tensor index of the first element whose copies in (files, words, lanes) differ; None where all agree."""
        if not self.order.has_copies:
            return None
        wrong = (self.tile(self.untile(blocks)) != blocks) & (self._origin >= 0)
        return self.origin(*map(int, np.argwhere(wrong)[0])) if wrong.any() else None

    def tile(self, tensor: Int64, fill: int = 0) -> Int64:
        """(tensor's shape) to (files, words, lanes), lane 0 the most significant; ragged tiles are filled."""
        for step in self._steps:
            tensor = step.forth(tensor, fill)
        return tensor

    def untile(self, blocks: Int64) -> Int64:
        """(files, words, lanes) back to the tensor's shape; fill is dropped."""
        for step in reversed(self._steps):
            blocks = step.back(blocks)
        return blocks

    def place(self, *index: int) -> tuple[int, int, int]:
        """File, word and lane of the tensor element of this index; the way back is `origin`."""
        place = index
        for step in self._steps:
            place = step.place(place)
        file, word, lane = place
        return file, word, lane

    def file_indices(self) -> Iterator[dict[str, int]]:
        """The index of each file in C order: every file axis and, for a join, its parts."""
        parts = [part for item in self.order.files for part in item.parts]
        for values in product(*(range(self.sizes[part]) for part in parts)):
            index = dict(zip(parts, values, strict=True))
            for item in self.order.files:
                sizes = [self.sizes[part] for part in item.parts]
                index[item.name] = int(np.ravel_multi_index([index[part] for part in item.parts], sizes))
            yield index

    @cached_property
    def _origin(self) -> Int64:
        flat = np.arange(math.prod(self.shape), dtype=np.int64).reshape(self.shape)
        return self.tile(flat, fill=-1)

    def origin(self, file: int, word: int, lane: int) -> dict[str, int] | None:
        """The tensor index of one stored element, by axis; None for fill."""
        flat = int(self._origin[file, word, lane])
        if flat < 0:
            return None
        return tensor_index(self.order, np.unravel_index(flat, self.shape), self._first_image)


def tensor_index(order: Order, index: Iterable[Any], first_image: int) -> dict[str, int]:
    """An index by axis, its images counted from `first_image` on."""
    named = {axis: int(i) for axis, i in zip(order.tensor_axes, index, strict=False)}
    return {axis: i + first_image if axis == IMAGE_AXIS else i for axis, i in named.items()}


def describe_index(index: Mapping[str, int] | None) -> str:
    """'n=0 ic=3 py=1 px=2', or 'fill'."""
    return "fill" if index is None else " ".join(f"{axis}={i}" for axis, i in index.items())


def expand_bits(codes: Int64, fmt: IntFormat) -> Int64:
    """Codes to single bits along a new last axis, most significant first."""
    shifts = np.arange(fmt.bits - 1, -1, -1)
    return (codes[..., np.newaxis] >> shifts) & 1
