"""Layout files: reading them, and where in them a mistake stands; the presets."""

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qexport.core.budget import LAYOUT_BYTES, LAYOUT_DEPTH, MEMORIES, SIZE, read_bytes
from qexport.core.intformat import MAX_BITS
from qexport.errors import QexportError
from qexport.layout.formats.registry import FORMATS, STYLE_KEYS, style_faults, style_of
from qexport.layout.memory import OVERFLOWS, Layout, Memory, verilog_name
from qexport.layout.order import BIT_AXIS, TILE_AXIS, Order, OrderFault, parse_order
from qexport.layout.paths import check_file_name
from qexport.layout.tiling import too_wide

PRESETS = Path(__file__).parent / "presets"
MEMORY_KEYS: Mapping[str, type] = {
    "name": str, "tensor": str, "order": str, "file": str, "radix": str, "bits": int, "signed": bool, "offset": int,
    "overflow": str, "header": list, "optional": bool, "first": int, "follows": str, "skew": str, "skew_by": int,
    "between": str, "per_line": int, "word_between": str, "word_end": str, "case": str, "pad": int, "newline": str,
    "group": int, "type": str, "style": str, "array": str,
}  # fmt: skip
_TYPE_NAMES = {
    str: "text; write it in quotes", int: "a whole number", bool: "true or false", list: "a list; write it in [ ]",
}  # fmt: skip
_SHARED_KEYS = ("file", "radix", "first", *STYLE_KEYS)  # of memories that stand in the same files
REQUIRED_KEYS = ("name", "tensor", "order", "file", "radix")


class LayoutError(QexportError):
    """A layout that cannot be used; `line` and `column` count from 1, `source` is the text of that line."""

    def __init__(self, where: str, line: int, column: int, source: str, message: str):
        super().__init__(f"layout {where}:{line}:{column}: {message}")
        self.line, self.column, self.source, self.message = line, column, source, message


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


def _read_memory(
    table: Any, number: int, array: Mapping[str, int], source: _Source, earlier: Mapping[str, Memory]
) -> Memory:
    def fail(message: str, key: str | None = None, offset: int = 0) -> NoReturn:
        raise source.at_value(message, number, key, offset)

    if not isinstance(table, dict):
        fail("memory: write each one as a [[memory]] table")
    for key, value in table.items():
        if key not in MEMORY_KEYS:
            raise source.at_key(f"unknown key '{key}'; a memory may have {', '.join(MEMORY_KEYS)}", number, key)
        if type(value) is not MEMORY_KEYS[key] and (key, type(value)) != ("first", dict):
            fail(f"{key}: {value!r} is not {_TYPE_NAMES[MEMORY_KEYS[key]]}", key)
    leader = _leader(table, earlier, fail)
    for key in REQUIRED_KEYS:
        if key not in table and (leader is None or key not in _SHARED_KEYS):
            fail(f"memory {table.get('name', number)!r} lacks the key '{key}'")
    if message := _name_fault(table["name"]):
        fail(message, "name")
    if not re.match(r"[A-Za-z_]", verilog_name(table["name"])):
        fail(f"name: '{table['name']}' does not make a Verilog name; begin with a letter", "name")
    table = table if leader is None else table | {"file": leader.file, "radix": leader.radix}
    _check_values(table, fail)
    order = _read_order(table, array, fail)
    if leader is not None and leader.order.files != order.files:
        fail(f"follows: '{leader.name}' has other file axes than this memory; give both the same", "follows")
    try:
        check_file_name(table["file"], order, array)
    except OrderFault as fault:
        fail(f"file: {fault}", "file", fault.offset)
    names = [name for item in order.files for name in (item.name, *item.parts)]
    for name in table["first"] if isinstance(table.get("first"), dict) else ():
        if name not in names:
            fail(f"first: '{name}' is not a file axis of the order", "first")
    own = {key: value for key, value in table.items() if key in Memory.__dataclass_fields__ and key not in STYLE_KEYS}
    own |= {"order": order, "header": tuple(table.get("header", ()))}
    if leader is None:
        return Memory(**own, style=style_of(table["radix"], {key: table[key] for key in STYLE_KEYS if key in table}))
    return Memory(**own | {"first": leader.first, "style": leader.style})


def _read_order(table: Mapping[str, Any], array: Mapping[str, int], fail: Callable[..., NoReturn]) -> Order:
    """The order of a memory with its skew; calls `fail` with a message, its key and an offset where there is none."""
    try:
        order = parse_order(table["order"], table["tensor"], sized=array)
    except OrderFault as fault:
        fail(f"order: {fault}", "order", fault.offset)
    for split in order.splits:
        free = [name for name in split.names if name not in array]
        lacking = split.names[-1:] if split.overlaps and split.names[-1] in free else free[1:]
        if split.names != split.joined and lacking:
            fail(
                f"order: size of axis '{lacking[0]}' is not given; add it to [array]",
                "order",
                re.search(rf"\b{lacking[0]}\b", table["order"]).start(),  # type: ignore[union-attr]
            )
    if "skew" not in table:
        if "skew_by" in table:
            fail("skew_by: no 'skew' names the lane axis whose words are delayed; add it or take this out", "skew_by")
        return order
    try:
        return order.skewed(table["skew"], table.get("skew_by", 1))
    except OrderFault as fault:
        fail(f"skew: {fault}", "skew")


def _leader(table: Mapping[str, Any], earlier: Mapping[str, Memory], fail: Callable[..., NoReturn]) -> Memory | None:
    """The memory that this one follows; calls `fail` where it cannot."""
    if "follows" not in table:
        return None
    leader = earlier.get(table["follows"])
    if leader is None:
        fail(f"follows: no memory '{table['follows']}' stands before this one; name one", "follows")
    if not leader.format.streamed:
        takers = ", ".join(radix for radix, format_ in FORMATS.items() if format_.streamed)
        fail(f"follows: a file of radix '{leader.radix}' holds one memory; choose {takers} for both", "follows")
    if "header" in table:
        fail(f"header: the file has that of '{leader.name}'; take the key out", "header")
    theirs = {"file": leader.file, "radix": leader.radix, "first": leader.first, **vars(leader.style)}
    for key in _SHARED_KEYS:
        plain = " " if leader.radix == "dec" else ""
        own = None if (key, table.get(key)) == ("between", plain) else table.get(key)
        if own is not None and own != theirs[key]:
            fail(f"{key}: it follows '{leader.name}', whose {key} is {theirs[key]!r}; take the key out", key)
    return leader


def _check_values(table: Mapping[str, Any], fail: Callable[[str, str], NoReturn]) -> None:
    """Call `fail` with a message and its key for the first value that cannot be."""
    if not re.fullmatch(r"[A-Za-z_]\w*", table["tensor"], flags=re.ASCII):
        fail(f"tensor: '{table['tensor']}' names no tensor; use letters, digits and _", "tensor")
    choices: dict[str, Collection[str]] = {"radix": tuple(FORMATS), "overflow": OVERFLOWS}
    for key, allowed in choices.items():
        if key in table and table[key] not in allowed:
            fail(f"unknown {key} '{table[key]}'; choose one of {', '.join(allowed)}", key)
    first = table.get("first", 0)
    for start in first.values() if isinstance(first, dict) else [first]:
        if type(start) is not int or not 0 <= start <= SIZE:
            fail(f"first: {start!r} is not a whole number from 0 to {SIZE}", "first")
    if not 1 <= table.get("skew_by", 1) <= SIZE:
        fail(f"skew_by: {table['skew_by']} is outside 1..{SIZE}", "skew_by")
    for key, message in style_faults(table["radix"], {key: table[key] for key in STYLE_KEYS if key in table}):
        fail(message, key)
    if "bits" in table and not 1 <= table["bits"] <= MAX_BITS:
        fail(f"bits: {table['bits']} is outside 1..{MAX_BITS}", "bits")
    if abs(table.get("offset", 0)) > 1 << 48:
        fail(f"offset: {table['offset']} is larger than 2^48", "offset")
    for line in table.get("header", []):
        if not isinstance(line, str) or "\n" in line or "\r" in line:
            fail(f"header: {line!r} is not a single line of text", "header")
        comment = FORMATS[table["radix"]].comment
        if comment is None:
            fail(f"header: a file of radix '{table['radix']}' has no place for one; take the key out", "header")
        if not line.startswith(comment):
            fail(f"header: {line!r} is not a comment of radix '{table['radix']}'; begin it with {comment}", "header")
        if comment == "//" and line.rstrip().endswith(("\\", "??/")):
            fail(f"header: {line!r} ends with a backslash, which draws in the next line; take it out", "header")


def _name_fault(name: object) -> str | None:
    """What is wrong with the name of a layout or of a memory."""
    if not isinstance(name, str):
        return f"name: {name!r} is not {_TYPE_NAMES[str]}"
    if not name.strip():
        return "name: is empty; give a name"
    return None if name.isprintable() else f"name: {name!r} has a line end or a control character; take it out"


def layout_errors(text: str, where: str) -> list[LayoutError]:
    """The errors of a layout file's text, the first of each memory; empty when it can be used."""
    return _parse(text, where)[1]


def layout_warnings(text: str, where: str) -> list[LayoutError]:
    """What may be a mistake in a layout that can be used."""
    return _parse(text, where)[2]


def _parse(text: str, where: str) -> tuple[Layout | None, list[LayoutError], list[LayoutError]]:
    source = _Source(text, where)
    if (at := _too_deep(text)) is not None:
        before = text[:at].splitlines() or [""]
        deep = f"more than {LAYOUT_DEPTH} tables, lists or parts of a key within each other; a layout needs 2"
        return None, [source.fault(deep, len(before), len(before[-1]) + 1)], []
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python reads
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = map(int, match.groups()) if match else (len(source.lines), len(source.lines[-1]) + 1)
        return None, [source.fault(f"not TOML: {re.sub(r' *[(]at .*', '', str(error))}", line, column)], []
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
    errors += _size_errors(array, source)
    if isinstance(memories, dict):
        errors.append(source.at_value("memory: write double brackets, [[memory]]", None, "memory"))
        memories = []
    elif not isinstance(memories, list) or not memories:
        errors.append(source.at_value("memory: a layout needs at least one [[memory]]", None, "memory"))
        memories = []
    elif len(memories) > MEMORIES:
        errors.append(source.at_value(f"memory: {len(memories)} are more than {MEMORIES}", None, "memory"))
        memories = []
    read = _read_memories(memories, array, source, errors)
    if not errors:
        errors += _array_errors(array, read, source)
    if errors:
        return None, errors, []
    unused = list(_unused_sizes(array, read, source))
    notes = tuple(str(warning) for warning in unused)
    return Layout(str(name), dict(array), tuple(read), hashlib.sha256(text.encode()).hexdigest(), notes), [], unused


def _size_errors(array: Mapping[str, Any], source: _Source) -> Iterator[LayoutError]:
    """What is wrong with the names and sizes of [array]."""
    for key, size in array.items():
        if type(size) is not int or not 1 <= size <= SIZE:
            message = f"array: size {size!r} of '{key}' must be a whole number above 0, up to {SIZE}"
            yield source.at_value(message, "array", key)
        if not re.fullmatch(r"[A-Za-z_]\w*", key, flags=re.ASCII):
            yield source.at_key(f"array: '{key}' is not an axis name; use letters, digits and _", "array", key)


def _read_memories(
    tables: Sequence[Any], array: Mapping[str, int], source: _Source, errors: list[LayoutError]
) -> list[Memory]:
    """The memories that can be read; what is wrong with the others goes to `errors`."""
    read: list[Memory] = []
    seen: dict[tuple[str, str], int] = {}
    for number, table in enumerate(tables):
        try:
            memory = _read_memory(table, number, array, source, {memory.name: memory for memory in read})
            named = [("name", verilog_name(memory.name).upper()), ("file", memory.file)]
            for key, value in named[:1] if memory.follows else named:
                first = seen.setdefault((key, value), number)
                if first != number:
                    message = f"{key}: '{table[key]}' is taken by memory {first + 1} already"
                    raise source.at_value(message, number, key)
            read.append(memory)
        except LayoutError as error:
            errors.append(error)
    return read


_QUOTED = re.compile(  # or a comment
    r'"""(?:\\[\s\S]|[^\\])*?"""|' r"'''[\s\S]*?'''|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'|#[^\n]*"
)


def _too_deep(text: str) -> int | None:
    """Where tables, lists or the parts of a key nest deeper than a layout may; tomllib would call itself as often."""
    depth = parts = 0
    plain = _QUOTED.sub(lambda quoted: re.sub(r"[^\n]", "_", quoted[0]), text)
    for mark in re.finditer(r"[.=,\n\[\]{}]", plain):
        parts = parts + 1 if mark[0] == "." else 0
        depth = max(0, depth + (mark[0] in "[{") - (mark[0] in "]}"))
        if max(depth, parts) > LAYOUT_DEPTH:
            return mark.start()
    return None


def _array_errors(array: Mapping[str, int], memories: list[Memory], source: _Source) -> Iterator[LayoutError]:
    """What only all orders together say of the sizes."""
    own = {BIT_AXIS, *(axis for memory in memories for axis in memory.order.tensor_axes)}
    for key in array:
        if key in own:
            yield source.at_value(f"array: '{key}' is a tensor's axis; its size comes from the layer", "array", key)
    for memory in memories:
        if wide := too_wide(memory.order, array, memory.bits or 1):
            yield source.at_value(f"array: memory '{memory.name}': {wide[1]}", "array", wide[0])
            return  # one size may widen the words of many memories


def _unused_sizes(array: Mapping[str, int], memories: list[Memory], source: _Source) -> Iterator[LayoutError]:
    used = {name for memory in memories for split in memory.order.splits for name in split.names}
    used |= {name for memory in memories for name in memory.order.repeats}
    if any(memory.tensor == "psum" for memory in memories):
        used.add(TILE_AXIS)
    for key in array:
        if key not in used:
            yield source.at_key(f"array: no order has an axis '{key}'; take it out or use it", "array", key)


def preset_names() -> list[str]:
    """The layouts that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def default_layout(kind: str) -> str:
    """The preset that a layer of a kind gets where none is asked for: that of its self-checking bench."""
    return {"matmul": "matmul", "sum": "sum"}.get(kind, "default")


def layout_text(name: str) -> str:
    """The text of a preset, by its name, or of a layout file, by its path; raises QexportError when there is none."""
    path = PRESETS / f"{name}.toml" if name in preset_names() else Path(name)
    try:
        return read_bytes(path, LAYOUT_BYTES, "layout").decode("utf-8")
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
    layout, errors, _ = _parse(text, where)
    if layout is None:
        raise errors[0]
    return layout


def preset_purpose(name: str) -> str:
    """What a preset is for: the comment in its first line."""
    return layout_text(name).splitlines()[0].removeprefix("# ")


def load_layout(name: str) -> Layout:
    """A preset by its name, or a layout file by its path; raises QexportError."""
    return parse_layout(layout_text(name), name)
