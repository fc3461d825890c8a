"""The layout notation: how tensors become memory files. Lane order, padding and signedness are decided here, once.

A memory's `order` reads `TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES`, a thin reading of einops patterns.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from qexport.errors import QexportError
from qexport.formats import FORMATS, WordSpec
from qexport.intformat import MAX_BITS, Int64, IntFormat
from qexport.layer import AXES, MAX_SIZE

PRESETS = Path(__file__).parent / "layouts"
MANIFEST, SUMS, CAPTURE = "manifest.json", "SHA256SUMS", "capture.safetensors"
RESERVED = (MANIFEST, SUMS, CAPTURE)  # the set's own files
OVERFLOWS = ("error", "wrap", "saturate")
BIT_AXIS = "bit"
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
    """Neighbouring tensor axes, joined, then split into named axes (the last runs fastest)."""

    joined: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One entry right of the arrow: an axis, or a join of axes under a name; run backwards when `reverse`."""

    name: str
    parts: tuple[str, ...]
    reverse: bool = False


@dataclass(frozen=True)
class Order:
    """A parsed order. `tensor_axes` are the axes left of the arrow before splitting, with `bit` when it is used."""

    text: str
    tensor_axes: tuple[str, ...]
    splits: tuple[Split, ...]
    files: tuple[Item, ...]
    addresses: tuple[Item, ...]
    lanes: tuple[Item, ...]

    @property
    def has_bits(self) -> bool:
        return self.tensor_axes[-1] == BIT_AXIS

    @property
    def right(self) -> tuple[Item, ...]:
        return self.files + self.addresses + self.lanes


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


def parse_order(text: str, tensor: str) -> Order:
    """Parse the order of a memory that holds `tensor`; raises OrderFault with the offset of the culprit."""
    tokens = _Tokens(text)
    if not any(token == "->" for token, _ in tokens.items):
        raise OrderFault("no arrow; an order reads TENSOR AXES -> FILE AXES | ADDRESS AXES | LANE AXES")
    axes = AXES[tensor]
    splits: list[Split] = []
    known: set[str] = set()
    position = 0

    def tensor_axis(name: str, offset: int) -> None:
        nonlocal position
        expected = axes[position] if position < len(axes) else BIT_AXIS
        if position > len(axes) or name != expected:
            what = "no further axis" if position > len(axes) else f"axis {position + 1} is '{expected}'"
            raise OrderFault(f"axis '{name}': tensor '{tensor}' has axes {' '.join(axes)} [bit]; here {what}", offset)
        position += 1

    while not tokens.skip("->"):
        if not tokens.skip("("):
            name, offset = tokens.name()
            tensor_axis(name, offset)
            names = [(name, offset)]
            split = Split((name,), (name,))
        else:
            names = tokens.names()
            if tokens.skip("="):
                for name, offset in names:
                    tensor_axis(name, offset)
                joined = tuple(name for name, _ in names)
                if not tokens.skip("("):
                    raise OrderFault(f"expected '(' after '=', found {tokens.described()}", tokens.offset)
                names = tokens.names()
            else:
                if position >= len(axes):
                    raise OrderFault(
                        f"tensor '{tensor}' has no axis left to split; it has {' '.join(axes)}", names[0][1]
                    )
                joined = (axes[position],)
                position += 1
            for name, offset in names:
                if name in (*axes, BIT_AXIS):
                    raise OrderFault(
                        f"axis '{name}' is the tensor's own; give the parts of a split other names", offset
                    )
            split = Split(joined, tuple(name for name, _ in names))
        for name, offset in names:
            if name in known:
                raise OrderFault(f"axis '{name}' is repeated", offset)
            known.add(name)
        splits.append(split)
    if position < len(axes):
        raise OrderFault(
            f"axis '{axes[position]}' of tensor '{tensor}' is missing left of the arrow", tokens.items[tokens.at - 1][1]
        )

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
            if part not in known:
                raise OrderFault(f"axis '{part}' is unknown; left of the arrow stand {' '.join(sorted(known))}", at)
            if part in used:
                raise OrderFault(f"axis '{part}' is repeated right of the arrow", at)
            used.add(part)
        groups[-1].append(Item(name, tuple(part for part, _ in parts), reverse))
    if len(groups) != 3:
        raise OrderFault(f"{len(groups)} group(s) right of the arrow; needs three: FILE | ADDRESS | LANE", len(text))
    if known - used:
        raise OrderFault(f"axis '{sorted(known - used)[0]}' is missing right of the arrow", len(text))
    tensor_axes = axes if position == len(axes) else (*axes, BIT_AXIS)
    return Order(" ".join(text.split()), tensor_axes, tuple(splits), *(tuple(group) for group in groups))


# --- tiling ---------------------------------------------------------------------------------------------------------


class Tiling:
    """An order with sizes: maps a tensor of `shape` to (files, words, lanes) and back."""

    def __init__(self, order: Order, shape: tuple[int, ...], array: Mapping[str, int]):
        """Raises QexportError when the sizes of a split do not cover its axis."""
        self.order = order
        self.shape = shape
        extent = dict(zip(order.tensor_axes, shape, strict=True))
        self.sizes: dict[str, int] = {}
        self._joined: list[int] = []
        self._padded: list[int] = []
        for split in order.splits:
            size = math.prod(extent[axis] for axis in split.joined)
            self._joined.append(size)
            if split.joined == split.names:
                self.sizes[split.names[0]] = size
            else:
                given = math.prod(array.get(name, 1) for name in split.names)
                free = [name for name in split.names if name not in array]
                if not free and given < size:
                    raise QexportError(
                        f"layout order '{order.text}': ({' '.join(split.names)}) holds {given} elements of the {size} "
                        f"of {' '.join(split.joined)}; leave the size of the outer axis out of [array]"
                    )
                self.sizes |= {name: array.get(name, math.ceil(size / given)) for name in split.names}
            self._padded.append(math.prod(self.sizes[name] for name in split.names))
        left = [name for split in order.splits for name in split.names]
        right = [part for item in order.right for part in item.parts]
        self._left_sizes = [self.sizes[name] for name in left]
        self._transpose = [left.index(name) for name in right]
        reverse = [item.reverse for item in order.right for _ in item.parts]
        self._flip = tuple(axis for axis, backwards in enumerate(reverse) if backwards)
        self.files = self._size(order.files)
        self.words = self._size(order.addresses)
        self.lanes = self._size(order.lanes)

    def _size(self, items: tuple[Item, ...]) -> int:
        return math.prod(self.sizes[part] for item in items for part in item.parts)

    @property
    def fill(self) -> int:
        """How many elements over all files belong to no tensor element."""
        return self.files * self.words * self.lanes - math.prod(self.shape)

    def tile(self, tensor: Int64, fill: int = 0) -> Int64:
        """(tensor's shape) to (files, words, lanes), lane 0 the most significant; ragged tiles are filled."""
        joined = tensor.reshape(self._joined)
        ragged = [(0, padded - size) for padded, size in zip(self._padded, self._joined, strict=True)]
        split = np.pad(joined, ragged, constant_values=fill).reshape(self._left_sizes)
        moved = np.flip(split.transpose(self._transpose), self._flip)
        return moved.reshape(self.files, self.words, self.lanes)

    def untile(self, blocks: Int64) -> Int64:
        """(files, words, lanes) back to the tensor's shape; fill is dropped."""
        moved = blocks.reshape([self._left_sizes[axis] for axis in self._transpose])
        split = np.flip(moved, self._flip).transpose(np.argsort(self._transpose))
        joined = split.reshape(self._padded)[tuple(slice(size) for size in self._joined)]
        return joined.reshape(self.shape)

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
        index = np.unravel_index(flat, self.shape)
        return {axis: int(i) for axis, i in zip(self.order.tensor_axes, index, strict=True)}


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

    def elements(self, codes: Int64, own: IntFormat) -> Int64:
        """The tensor as the order sees it: single bits where the order has the axis `bit`."""
        if not self.order.has_bits:
            return codes
        bad = (codes < own.low) | (codes > own.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = describe_index(dict(zip(self.order.tensor_axes, map(int, at), strict=False)))
            raise QexportError(
                f"memory '{self.name}': {int(codes[at])} at {index} does not fit {own}; "
                "take the axis 'bit' out of the order"
            )
        return expand_bits(codes, own)

    def stored(self, blocks: Int64, fmt: IntFormat, tiling: Tiling) -> Int64:
        """overflow(code + offset) of tiled elements; raises QexportError when overflow = error and one does not fit."""
        shifted = blocks + self.offset
        if self.overflow == "wrap":
            return fmt.wrap(shifted)
        if self.overflow == "saturate":
            return fmt.saturate(shifted)
        bad = (shifted < fmt.low) | (shifted > fmt.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            low, high = min(int(shifted.min()), 0), int(shifted.max())
            bits = IntFormat.holding(low, high, fmt.signed or low < 0).bits
            index = describe_index(tiling.origin(*map(int, at)))
            raise QexportError(
                f"memory '{self.name}': {int(shifted[at])} at {index} does not fit {fmt}; "
                f"give it bits = {bits}{' and signed = true' if low < 0 and not fmt.signed else ''}, "
                "or overflow = 'wrap' or 'saturate'"
            )
        return shifted

    def spec(self, tiling: Tiling, element: IntFormat, index: Mapping[str, int]) -> WordSpec:
        """What the words of the file with this index are.

        Raises QexportError when the radix holds no words of this width.
        """
        name = "_".join([self.name, *(f"{item.name}{index[item.name]}" for item in self.order.files)])
        spec = WordSpec(tiling.lanes, element, self.header, re.sub(r"\W", "_", name, flags=re.ASCII))
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
    if not table["name"].strip():
        fail("name: is empty; give the memory a name", "name")
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
                re.search(rf"\b{free[1]}\b", order.text).start(),  # type: ignore[union-attr]
            )
    try:
        _check_file_name(table["file"], order)
    except OrderFault as fault:
        fail(f"file: {fault}", "file", fault.offset)
    return Memory(**(table | {"order": order, "header": tuple(table.get("header", ()))}))


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
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name or str(path) != name:
        raise OrderFault(f"'{name}' does not name a file inside the set's folder")
    if re.search(r"[^ -~]|[\"$]", name):  # Icarus opens no path with letters beyond ASCII
        raise OrderFault(f"{name!r} has a character beyond ASCII, a control character, a quote or a dollar sign")
    if path.parts[0] in RESERVED:
        raise OrderFault(f"'{name}' is the set's own; choose another name")


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
    if not isinstance(name, str) or not name.strip():
        errors.append(source.at_value("name: give the layout a name", None, "name"))
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
    if not isinstance(memories, list) or not memories:
        errors.append(source.at_value("memory: a layout needs at least one [[memory]]", None, "memory"))
        memories = []
    read: list[Memory] = []
    seen: dict[tuple[str, str], int] = {}
    for number, table in enumerate(memories):
        try:
            memory = _read_memory(table, number, array, source)
            for key in ("name", "file"):
                value = getattr(memory, key)
                first = seen.setdefault((key, value), number)
                if first != number:
                    raise source.at_value(f"{key}: '{value}' is taken by memory {first + 1} already", number, key)
            read.append(memory)
        except LayoutError as error:
            errors.append(error)
    if errors:
        return None, errors
    return Layout(str(name), dict(array), tuple(read), hashlib.sha256(text.encode()).hexdigest()), []


def preset_names() -> list[str]:
    """The layouts that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_layout_text(path: Path) -> str:
    """The text of a layout file; raises QexportError when there is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise QexportError(
            f"layout: '{path}' is neither a preset ({', '.join(preset_names())}) nor a TOML file"
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


def load_layout(name: str) -> Layout:
    """A preset by its name, or a layout file by its path; raises QexportError."""
    path = PRESETS / f"{name}.toml" if name in preset_names() else Path(name)
    return parse_layout(read_layout_text(path), name)
