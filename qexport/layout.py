"""The layout notation: how tensors become memory files. Lane order, padding and signedness are decided here, once.

A memory's `order` reads `TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES`, a thin reading of einops patterns.
Between the two may stand stages, each after an arrow of its own: the axes so far, joined and split again.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, product
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from qexport.errors import QexportError
from qexport.formats import FORMATS, WordSpec
from qexport.intformat import MAX_BITS, Int64, IntFormat
from qexport.layer import AXES, MAX_SIZE

PRESETS = Path(__file__).parent / "layouts"
MANIFEST, SUMS, CAPTURE = "manifest.json", "SHA256SUMS", "capture.safetensors"
RESERVED = (MANIFEST, SUMS, CAPTURE, "Makefile", "params.vh", "files.f", "dut.sv", "index.json")  # the set's own files
MAX_FILE_NAME = 200
OVERFLOWS = ("error", "wrap", "saturate")
BIT_AXIS = "bit"
IMAGE_AXIS = "n"
TILE_AXIS = "row"  # its size is that of psum's tiles too, whether an order names it or not
MAX_WORD_BITS = 1 << 16  # beyond every memory; keeps a mistyped size from filling the disk
MEMORY_KEYS: Mapping[str, type] = {
    "name": str, "tensor": str, "order": str, "file": str, "radix": str, "bits": int, "signed": bool, "offset": int,
    "overflow": str, "header": list, "optional": bool,
}  # fmt: skip
_TYPE_NAMES = {
    str: "text; write it in quotes", int: "whole number", bool: "true or false", list: "list; write it in [ ]",
}  # fmt: skip
REQUIRED_KEYS = ("name", "tensor", "order", "file", "radix")


class OrderFault(Exception):
    """An error inside one value of a layout: its message and the offset of the culprit in the value."""

    def __init__(self, message: str, offset: int = 0):
        super().__init__(message)
        self.offset = offset


class LayoutError(QexportError):
    """A layout that cannot be used; `line` and `column` count from 1, `source` is the text of that line."""

    def __init__(self, where: str, line: int, column: int, source: str, message: str):
        super().__init__(f"layout {where}:{line}:{column}: {message}")
        self.line, self.column, self.source, self.message = line, column, source, message


# --- the order ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(->|[()|~:=]|[A-Za-z_]\w*|\S)", re.ASCII)


@dataclass(frozen=True)
class Split:
    """Axes joined in the order of writing, then split into named axes (the last runs fastest)."""

    joined: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One entry right of the last arrow: an axis, or a join of axes under a name; run backwards when `reverse`."""

    name: str
    parts: tuple[str, ...]
    reverse: bool = False


@dataclass(frozen=True)
class Order:
    """A parsed order. `tensor_axes` are the tensor's own before splitting, with `bit` when it is used.

    The first of `stages` splits the tensor's axes, each further one what the stage before gave.
    """

    text: str
    tensor_axes: tuple[str, ...]
    stages: tuple[tuple[Split, ...], ...]
    files: tuple[Item, ...]
    addresses: tuple[Item, ...]
    lanes: tuple[Item, ...]

    @property
    def has_bits(self) -> bool:
        return self.tensor_axes[-1] == BIT_AXIS

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits of all stages."""
        return tuple(chain.from_iterable(self.stages))

    @property
    def right(self) -> tuple[Item, ...]:
        return self.files + self.addresses + self.lanes

    @property
    def streams_images(self) -> bool:
        """Whether the tiles of several images are those of each image, one after the other.

        So it is when `n` is never split, joined or reversed and is the first file axis (the files of an image follow
        those of the one before) or the first address axis (in each file, its words do).
        """
        first = [group[0] for group in (self.files, self.addresses) if group]
        return Item(IMAGE_AXIS, (IMAGE_AXIS,)) in first


class _Tokens:
    """The order's tokens with their offsets; an end token closes the list."""

    def __init__(self, text: str):
        self.items = [(m.group(1), m.start(1)) for m in _TOKEN.finditer(text)]
        self.items.append(("", len(text)))
        self.at = 0

    @property
    def token(self) -> str:
        return self.items[self.at][0]

    @property
    def offset(self) -> int:
        return self.items[self.at][1]

    def take(self) -> tuple[str, int]:
        item = self.items[self.at]
        self.at += 1
        return item

    def skip(self, token: str) -> bool:
        if self.token != token:
            return False
        self.at += 1
        return True

    def name(self) -> tuple[str, int]:
        if not (self.token[:1].isalpha() or self.token[:1] == "_"):
            raise OrderFault(f"expected an axis name, found {self.described()}", self.offset)
        return self.take()

    def names(self) -> list[tuple[str, int]]:
        """The names up to a closing parenthesis, at least one; the opening one is already taken."""
        names = [self.name()]
        while not self.skip(")"):
            if self.token == "":
                raise OrderFault("parenthesis is not closed", self.offset)
            names.append(self.name())
        return names

    def described(self) -> str:
        return f"'{self.token}'" if self.token else "the end"


def _given(axes: tuple[str, ...]) -> str:
    return f"left of the arrow stand {' '.join(axes)}"


def _tensor_axes(tensor: str) -> tuple[Callable[[str | None, int], str], Callable[[], str | None]]:
    """How the first stage takes the tensor's axes, in their order, `bit` being optional; and which one is missing."""
    axes = AXES[tensor]
    taken: list[str] = []

    def take(name: str | None, offset: int) -> str:
        if name is None:
            if len(taken) >= len(axes):
                raise OrderFault(f"tensor '{tensor}' has no axis left to split; it has {' '.join(axes)}", offset)
            name = axes[len(taken)]
        expected = (*axes, BIT_AXIS, None)[len(taken)]
        if name != expected:
            what = f"axis {len(taken) + 1} is '{expected}'" if expected else "no further axis"
            raise OrderFault(f"axis '{name}': tensor '{tensor}' has axes {' '.join(axes)} [bit]; here {what}", offset)
        taken.append(name)
        return name

    return take, lambda: axes[len(taken)] if len(taken) < len(axes) else None


def _axes_before(axes: tuple[str, ...]) -> tuple[Callable[[str | None, int], str], Callable[[], str | None]]:
    """How a further stage takes the axes of the stage before, in any order; and which one is missing."""
    left = list(axes)

    def take(name: str | None, offset: int) -> str:
        if name is None:
            raise OrderFault("after the first arrow a split names what it splits: (axes)=(parts)", offset)
        if name not in axes:
            raise OrderFault(f"axis '{name}' is unknown; {_given(axes)}", offset)
        if name not in left:
            raise OrderFault(f"axis '{name}' is repeated in this stage", offset)
        left.remove(name)
        return name

    return take, lambda: left[0] if left else None


def _read_stage(
    tokens: _Tokens, take: Callable[[str | None, int], str], missing: Callable[[], str | None], known: set[str]
) -> tuple[Split, ...]:
    """The splits up to the next arrow; the names that they introduce go into `known`."""
    splits: list[Split] = []
    while tokens.token != "->":
        if tokens.token in ("|", "~", ":"):
            raise OrderFault(f"'{tokens.token}' stands right of the last arrow only", tokens.offset)
        if not tokens.skip("("):
            name, offset = tokens.name()
            splits.append(Split((take(name, offset),), (name,)))
            continue
        names = tokens.names()
        if tokens.skip("="):
            joined = tuple(take(name, offset) for name, offset in names)
            if not tokens.skip("("):
                raise OrderFault(f"expected '(' after '=', found {tokens.described()}", tokens.offset)
            names = tokens.names()
        else:
            joined = (take(None, names[0][1]),)
        for name, offset in names:
            if name in known:
                raise OrderFault(f"axis '{name}' is there already; give the parts of a split new names", offset)
            known.add(name)
        splits.append(Split(joined, tuple(name for name, _ in names)))
    if (axis := missing()) is not None:
        raise OrderFault(f"axis '{axis}' is missing left of the arrow", tokens.offset)
    tokens.take()
    return tuple(splits)


def _read_groups(tokens: _Tokens, axes: tuple[str, ...], known: set[str]) -> list[tuple[Item, ...]]:
    """The file, address and lane axes, which are `axes` in another order; a join takes none of the `known` names."""
    groups: list[list[Item]] = [[]]
    used: set[str] = set()
    while tokens.token:
        bar = tokens.offset
        if tokens.skip("|"):
            groups.append([])
            if len(groups) > 3:
                raise OrderFault("more than three groups right of the arrow; needs FILE | ADDRESS | LANE", bar)
            continue
        tilde = tokens.offset
        reverse = tokens.skip("~")
        if reverse and len(groups) == 1:
            raise OrderFault("'~' runs an address or lane axis backwards; a file axis has no direction", tilde)
        name, offset = tokens.name()
        parts = [(name, offset)]
        if tokens.skip(":"):
            if name in known:
                raise OrderFault(f"join '{name}' has the name of an axis; choose another", offset)
            if not tokens.skip("("):
                raise OrderFault(f"expected '(' after '{name}:', found {tokens.described()}", tokens.offset)
            parts = tokens.names()
            if any(item.name == name for group in groups for item in group):
                raise OrderFault(f"join '{name}' is repeated", offset)
        for part, at in parts:
            if part not in axes:
                raise OrderFault(f"axis '{part}' is unknown; {_given(axes)}", at)
            if part in used:
                raise OrderFault(f"axis '{part}' is repeated right of the arrow", at)
            used.add(part)
        groups[-1].append(Item(name, tuple(part for part, _ in parts), reverse))
    if len(groups) != 3:
        message = f"{len(groups)} group(s) right of the arrow; needs three: FILE | ADDRESS | LANE"
        raise OrderFault(message, tokens.offset)
    for axis in axes:
        if axis not in used:
            raise OrderFault(f"axis '{axis}' is missing right of the arrow", tokens.offset)
    return [tuple(group) for group in groups]


def parse_order(text: str, tensor: str) -> Order:
    """Parse the order of a memory that holds `tensor`; raises OrderFault with the offset of the culprit."""
    tokens = _Tokens(text)
    arrows = sum(token == "->" for token, _ in tokens.items)
    if not arrows:
        message = "no arrow; an order reads TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES"
        raise OrderFault(message, len(text.rstrip()))
    known = {*AXES[tensor], BIT_AXIS}
    stages = [_read_stage(tokens, *_tensor_axes(tensor), known)]

    def axes() -> tuple[str, ...]:
        return tuple(name for split in stages[-1] for name in split.names)

    while len(stages) < arrows:
        stages.append(_read_stage(tokens, *_axes_before(axes()), known))
    groups = _read_groups(tokens, axes(), known)
    tensor_axes = tuple(axis for split in stages[0] for axis in split.joined)
    return Order(" ".join(text.split()), tensor_axes, tuple(stages), *groups)


def _too_wide(order: Order, sizes: Mapping[str, int], bits: int) -> tuple[str, str] | None:
    """The largest lane axis and what to do about it, where a word would be wider than MAX_WORD_BITS.

    Sizes that are not known yet count as 1.
    """
    lanes = {part: sizes.get(part, 1) for item in order.lanes for part in item.parts}
    width = bits * math.prod(lanes.values())
    if width <= MAX_WORD_BITS:
        return None
    axis = max(lanes, key=lambda part: lanes[part])
    return axis, (
        f"a word would have {width} bits, more than {MAX_WORD_BITS}, because lane axis '{axis}' has size "
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
        self._first_image = first_image
        self.sizes = dict(zip(order.tensor_axes, shape, strict=True))
        self._steps: list[_Step] = []
        axes = order.tensor_axes
        for stage in order.stages:
            joined = tuple(self._size(split.joined) for split in stage)
            for split, size in zip(stage, joined, strict=True):
                if split.names != split.joined:
                    self.sizes |= self._split_sizes(split, size, array)
            padded = tuple(self._size(split.names) for split in stage)
            moved = [axis for split in stage for axis in split.joined]
            after = tuple(name for split in stage for name in split.names)
            self._add_step(axes, moved, (), joined, padded, self._each(after))
            axes = after
        if wide := _too_wide(order, self.sizes, bits):
            raise QexportError(f"layout order '{order.text}': {wide[1]}")
        right = [(part, item.reverse) for item in order.right for part in item.parts]
        flip = tuple(at for at, (_, reverse) in enumerate(right) if reverse)
        self.files, self.words, self.lanes = blocks = (
            self._size(part for item in order.files for part in item.parts),
            self._size(part for item in order.addresses for part in item.parts),
            self._size(part for item in order.lanes for part in item.parts),
        )
        self._add_step(axes, [part for part, _ in right], tuple(flip), blocks, blocks, blocks)

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

    @property
    def fill(self) -> int:
        """How many elements over all files belong to no tensor element."""
        return self.files * self.words * self.lanes - math.prod(self.shape)

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
        return _tensor_index(self.order, np.unravel_index(flat, self.shape), self._first_image)


def _tensor_index(order: Order, index: Iterable[Any], first_image: int) -> dict[str, int]:
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


# --- memories and layouts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """One memory of a layout; `bits` and `signed` are None where the tensor's own apply."""

    name: str
    tensor: str
    order: Order
    file: str
    radix: str
    bits: int | None = None
    signed: bool | None = None
    offset: int = 0
    overflow: str = "error"
    header: tuple[str, ...] = ()
    optional: bool = False

    def element_format(self, own: IntFormat) -> IntFormat:
        """The format of a stored element, `own` being the tensor's."""
        own = IntFormat(1, False) if self.order.has_bits else own
        return IntFormat(
            own.bits if self.bits is None else self.bits, own.signed if self.signed is None else self.signed
        )

    def elements(self, codes: Int64, own: IntFormat, first_image: int = 0) -> Int64:
        """The tensor (of the images from `first_image` on) as the order sees it: single bits for the axis `bit`."""
        if not self.order.has_bits:
            return codes
        bad = (codes < own.low) | (codes > own.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = describe_index(_tensor_index(self.order, at, first_image))
            raise QexportError(
                f"memory '{self.name}': {int(codes[at])} at {index} does not fit {own}; "
                "take the axis 'bit' out of the order"
            )
        return expand_bits(codes, own)

    def stored(self, blocks: Int64, fmt: IntFormat, tiling: Tiling, reach: tuple[int, int] | None) -> Int64:
        """overflow(code + offset) of tiled elements; raises QexportError when overflow = error and one does not fit.

        The error advises bits that hold `reach` too, the least and greatest element that there may be elsewhere.
        """
        shifted = blocks + self.offset
        if self.overflow == "wrap":
            return fmt.wrap(shifted)
        if self.overflow == "saturate":
            return fmt.saturate(shifted)
        bad = (shifted < fmt.low) | (shifted > fmt.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            least, greatest = reach or (0, 0)
            low = min(int(blocks.min()), least) + self.offset
            high = max(int(blocks.max()), greatest) + self.offset
            bits = IntFormat.holding(low, high, fmt.signed or low < 0).bits
            index = describe_index(tiling.origin(*map(int, at)))
            raise QexportError(
                f"memory '{self.name}': {int(shifted[at])} at {index} does not fit {fmt}; "
                f"give it bits = {bits}{' and signed = true' if low < 0 and not fmt.signed else ''}, "
                "or overflow = 'wrap' or 'saturate'; `qexport layout show NAME --toml` prints a preset to start from"
            )
        return shifted

    def spec(self, tiling: Tiling, element: IntFormat, index: Mapping[str, int]) -> WordSpec:
        """What the words of the file with this index are.

        Raises QexportError when the radix holds no words of this width.
        """
        name = "_".join([self.name, *(f"{item.name}{index[item.name]}" for item in self.order.files)])
        spec = WordSpec(tiling.lanes, element, self.header, verilog_name(name))
        limit = FORMATS[self.radix].max_word_bits
        if limit is not None and spec.word_bits > limit:
            raise QexportError(
                f"memory '{self.name}': a word has {tiling.lanes} x {element.bits} = {spec.word_bits} bits, but radix "
                f"'{self.radix}' holds {limit} at most; put fewer lanes into a word or choose another radix"
            )
        return spec

    def paths(self, tiling: Tiling) -> list[tuple[str, dict[str, int]]]:
        """The files in C order of the file axes: path and index."""
        return [(self.file.format(**index), index) for index in tiling.file_indices()]


@dataclass(frozen=True)
class Layout:
    """A layout file: sizes by axis name, memories, and the SHA-256 of its text."""

    name: str
    array: Mapping[str, int]
    memories: tuple[Memory, ...]
    sha256: str = field(compare=False)


class _Source:
    """The text of a layout file, to say where in it a table or a key stands (tomllib does not)."""

    def __init__(self, text: str, where: str):
        self.lines = text.splitlines() or [""]
        self.where = where
        self.headers: dict[int | str, tuple[int, int]] = {}  # name, or number of a memory -> line, column
        self.keys: dict[tuple[int | str | None, str], tuple[int, int, int]] = {}  # -> line, column of key and value
        table: int | str | None = None
        memories = 0
        for number, line in enumerate(self.lines, start=1):
            if match := re.match(r"(\s*)(\[\[?)\s*(\w+)", line):
                table = match.group(3)
                self.headers.setdefault(table, (number, match.end(1) + 1))
                if match.group(2) == "[[" and table == "memory":
                    table = memories
                    self.headers[table] = (number, match.end(1) + 1)
                    memories += 1
            elif match := re.match(r"(\s*)[\"']?([\w-]+)[\"']?\s*=\s*(\"\"\"|'''|[\"']?)", line):
                self.keys.setdefault((table, match.group(2)), (number, match.end(1) + 1, match.end() + 1))

    def fault(self, message: str, line: int, column: int) -> LayoutError:
        return LayoutError(self.where, line, column, self.lines[min(line, len(self.lines)) - 1], message)

    def at_key(self, message: str, table: int | str | None, key: str) -> LayoutError:
        """An error at a key, or at the table of that name.

        `table` is a memory's number, 'array', or None for the top of the file.
        """
        line, column, _ = self.keys.get((table, key), (*self.headers.get(key, (1, 1)), 0))
        return self.fault(message, line, column)

    def at_value(self, message: str, table: int | str | None, key: str | None = None, offset: int = 0) -> LayoutError:
        """An error inside a key's value; where the key is not found, at its table."""
        if key is not None and (table, key) in self.keys:
            line, _, column = self.keys[table, key]
            return self.fault(message, line, min(column + offset, len(self.lines[line - 1]) + 1))
        place = self.headers.get(key or "") if table is None else self.headers.get(table)
        return self.fault(message, *(place or (1, 1)))


def _read_memory(table: Any, number: int, array: Mapping[str, int], source: _Source) -> Memory:
    def fail(message: str, key: str | None = None, offset: int = 0) -> NoReturn:
        raise source.at_value(message, number, key, offset)

    if not isinstance(table, dict):
        fail("memory: write each one as a [[memory]] table")
    for key, value in table.items():
        if key not in MEMORY_KEYS:
            raise source.at_key(f"unknown key '{key}'; a memory may have {', '.join(MEMORY_KEYS)}", number, key)
        if type(value) is not MEMORY_KEYS[key]:
            fail(f"{key}: {value!r} is no {_TYPE_NAMES[MEMORY_KEYS[key]]}", key)
    for key in REQUIRED_KEYS:
        if key not in table:
            fail(f"memory {table.get('name', number)!r} lacks the key '{key}'")
    if message := _name_fault(table["name"]):
        fail(message, "name")
    if not re.match(r"[A-Za-z_]", verilog_name(table["name"])):
        fail(f"name: '{table['name']}' does not make a Verilog name; begin with a letter", "name")
    choices = {"tensor": tuple(AXES), "radix": tuple(FORMATS), "overflow": OVERFLOWS}
    for key, allowed in choices.items():
        if key in table and table[key] not in allowed:
            fail(f"unknown {key} '{table[key]}'; choose one of {', '.join(allowed)}", key)
    if "bits" in table and not 1 <= table["bits"] <= MAX_BITS:
        fail(f"bits: {table['bits']} is outside 1..{MAX_BITS}", "bits")
    if abs(table.get("offset", 0)) > 1 << 48:
        fail(f"offset: {table['offset']} is larger than 2^48", "offset")
    for line in table.get("header", []):
        if not isinstance(line, str) or "\n" in line or "\r" in line:
            fail(f"header: {line!r} is no single line of text", "header")
        comment = FORMATS[table["radix"]].comment
        if comment is None:
            fail(f"header: a file of radix '{table['radix']}' has no place for one; take the key out", "header")
        if not line.startswith(comment):
            fail(f"header: {line!r} is no comment of radix '{table['radix']}'; begin it with {comment}", "header")
        if comment == "//" and line.endswith("\\"):
            fail(f"header: {line!r} ends with a backslash, which draws in the next line; take it out", "header")
    try:
        order = parse_order(table["order"], table["tensor"])
    except OrderFault as fault:
        fail(f"order: {fault}", "order", fault.offset)
    for split in order.splits:
        free = [name for name in split.names if name not in array]
        if split.names != split.joined and len(free) > 1:
            fail(
                f"order: size of axis '{free[1]}' is not given; add it to [array]",
                "order",
                re.search(rf"\b{free[1]}\b", table["order"]).start(),  # type: ignore[union-attr]
            )
    try:
        _check_file_name(table["file"], order)
    except OrderFault as fault:
        fail(f"file: {fault}", "file", fault.offset)
    return Memory(**(table | {"order": order, "header": tuple(table.get("header", ()))}))


def is_inside(name: str) -> bool:
    """Whether a path, as a layout or a manifest writes it, names a file inside the set's folder."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or not path.name or str(path) != name)


def _check_file_name(name: str, order: Order) -> None:
    fields = set()
    for match in re.finditer(r"\{(\w*)\}|[{}]", name):
        if not match.group(1):
            raise OrderFault(f"'{name}': a brace must enclose the name of a file axis", match.start())
        fields.add(match.group(1))
    known = {name for item in order.files for name in (item.name, *item.parts)}
    if fields - known:
        bad = sorted(fields - known)[0]
        raise OrderFault(f"'{name}': '{{{bad}}}' is no file axis of the order", name.index("{" + bad))
    for item in order.files:
        if item.name not in fields and not fields >= set(item.parts):
            raise OrderFault(f"'{name}' lacks the file axis '{{{item.name}}}'; two files would have one name")
    path = PurePosixPath(name)
    if not is_inside(name):
        raise OrderFault(f"'{name}' does not name a file inside the set's folder")
    if re.search(r"[^ -~]|[\"$]", name):  # Icarus opens no path with letters beyond ASCII
        raise OrderFault(f"{name!r} has a character beyond ASCII, a control character, a quote or a dollar sign")
    for own in RESERVED:  # where a file system does not tell upper from lower case, they are one
        if path.parts[0].lower() == own.lower():
            raise OrderFault(f"'{name}' takes the place of the set's own {own}; choose another name")
    if re.fullmatch(r"(\w+_pkg|(tb|stub)_\w+)\.sv", name, flags=re.IGNORECASE):
        raise OrderFault(f"'{name}' is a name of the set's bench; choose another name")
    if max(map(len, path.parts)) > MAX_FILE_NAME:
        raise OrderFault(f"'{name}' is longer than {MAX_FILE_NAME} characters; choose a shorter name")


def verilog_name(name: str) -> str:
    """A memory's name as Verilog takes it; its constants begin with the same in upper case."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _name_fault(name: object) -> str | None:
    """What is wrong with the name of a layout or of a memory."""
    if not isinstance(name, str):
        return f"name: {name!r} is no {_TYPE_NAMES[str]}"
    if not name.strip():
        return "name: is empty; give a name"
    return None if name.isprintable() else f"name: {name!r} has a line end or a control character; take it out"


def layout_errors(text: str, where: str) -> list[LayoutError]:
    """The errors of a layout file's text, the first of each memory; empty when it can be used."""
    return _parse(text, where)[1]


def _parse(text: str, where: str) -> tuple[Layout | None, list[LayoutError]]:
    source = _Source(text, where)
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python reads
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = map(int, match.groups()) if match else (len(source.lines), len(source.lines[-1]) + 1)
        return None, [source.fault(f"not TOML: {re.sub(r' *[(]at .*', '', str(error))}", line, column)]
    errors: list[LayoutError] = []
    for key in document:
        if key not in ("name", "array", "memory"):
            errors.append(source.at_key(f"unknown key '{key}'; a layout has name, [array] and [[memory]]", None, key))
    name, array, memories = document.get("name"), document.get("array", {}), document.get("memory")
    if message := "name: give the layout a name" if name is None else _name_fault(name):
        errors.append(source.at_value(message, None, "name"))
    if not isinstance(array, dict):
        errors.append(source.at_value("array: write it as a table [array]", None, "array"))
        array = {}
    own_axes = {axis for axes in AXES.values() for axis in axes} | {BIT_AXIS}
    for key, size in array.items():
        if type(size) is not int or not 1 <= size <= MAX_SIZE:
            message = f"array: size {size!r} of '{key}' must be a whole number above 0, up to {MAX_SIZE}"
            errors.append(source.at_value(message, "array", key))
        if not re.fullmatch(r"[A-Za-z_]\w*", key, flags=re.ASCII):
            errors.append(source.at_key(f"array: '{key}' is no axis name; use letters, digits and _", "array", key))
        if key in own_axes:
            message = f"array: '{key}' is a tensor's axis; its size comes from the layer"
            errors.append(source.at_value(message, "array", key))
    if isinstance(memories, dict):
        errors.append(source.at_value("memory: write double brackets, [[memory]]", None, "memory"))
        memories = []
    elif not isinstance(memories, list) or not memories:
        errors.append(source.at_value("memory: a layout needs at least one [[memory]]", None, "memory"))
        memories = []
    read: list[Memory] = []
    seen: dict[tuple[str, str], int] = {}
    for number, table in enumerate(memories):
        try:
            memory = _read_memory(table, number, array, source)
            for key, value in (("name", verilog_name(memory.name).upper()), ("file", memory.file)):
                first = seen.setdefault((key, value), number)
                if first != number:
                    message = f"{key}: '{table[key]}' is taken by memory {first + 1} already"
                    raise source.at_value(message, number, key)
            read.append(memory)
        except LayoutError as error:
            errors.append(error)
    if not errors:
        errors += _array_errors(array, read, source)
    if errors:
        return None, errors
    return Layout(str(name), dict(array), tuple(read), hashlib.sha256(text.encode()).hexdigest()), []


def _array_errors(array: Mapping[str, int], memories: list[Memory], source: _Source) -> Iterator[LayoutError]:
    """What only all orders together say of the sizes."""
    used = {name for memory in memories for split in memory.order.splits for name in split.names}
    if any(memory.tensor == "psum" for memory in memories):
        used.add(TILE_AXIS)
    for key in array:
        if key not in used:
            yield source.at_key(f"array: no order has an axis '{key}'; take it out or use it", "array", key)
    for memory in memories:
        if wide := _too_wide(memory.order, array, memory.bits or 1):
            yield source.at_value(f"array: memory '{memory.name}': {wide[1]}", "array", wide[0])
            return  # one size may widen the words of many memories


def preset_names() -> list[str]:
    """The layouts that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def layout_text(name: str) -> str:
    """The text of a preset, by its name, or of a layout file, by its path; raises QexportError when there is none."""
    path = PRESETS / f"{name}.toml" if name in preset_names() else Path(name)
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise QexportError(
            f"layout: '{name}' is neither a preset ({', '.join(preset_names())}) nor a TOML file"
        ) from None
    except UnicodeDecodeError as error:
        raise QexportError(
            f"layout: {path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def parse_layout(text: str, where: str) -> Layout:
    """The layout that a file's text describes; raises LayoutError for its first error."""
    layout, errors = _parse(text, where)
    if layout is None:
        raise errors[0]
    return layout


def preset_purpose(name: str) -> str:
    """What a preset is for: the comment in its first line."""
    return layout_text(name).splitlines()[0].removeprefix("# ")


def load_layout(name: str) -> Layout:
    """A preset by its name, or a layout file by its path; raises QexportError."""
    return parse_layout(layout_text(name), name)
