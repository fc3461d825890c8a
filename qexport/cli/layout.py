"""Draw and check layouts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from qexport.cli.common.options import json_option, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_table
from qexport.errors import QexportError, short
from qexport.layout.memory import Memory
from qexport.layout.order import BIT_AXIS
from qexport.layout.tiling import Tiling, describe_index
from qexport.layout.toml import (
    LayoutError,
    layout_errors,
    layout_text,
    layout_warnings,
    load_layout,
    preset_names,
    preset_purpose,
)


@click.group(name="layout")
def command() -> None:
    """Draw and check layouts."""


# What `layout show` draws a layout for: one image of the layer that the presets are made for.
_EXAMPLE_SIZES = {
    "n": 1, "oc": 8, "ic": 8, "kh": 3, "kw": 3, "iy": 4, "ix": 4, "py": 6, "px": 6, "oy": 4, "ox": 4, "it": 1,
    "m": 4, "k": 8, "p": 8, "level": 15, BIT_AXIS: 4,
}  # fmt: skip
_OTHER_SIZE = 4  # of an axis of a tensor that only steps can have


_SHOWN_WORDS = 3


_SHOWN_LANES = 16


_SHOWN_COLUMNS = 120  # of a line, before an error and behind it


@command.command(name="show")
@click.argument("name")
@click.option("--toml", "as_toml", is_flag=True, help="Print the layout's text instead, to start your own from.")
@json_option
def layout_show(name: str, as_toml: bool, as_json: bool) -> None:
    """Draw the first words of each memory with labelled lanes.

    They are of one image of an 8-to-8 3x3 layer on a 4x4 plane.

    \b
    qexport layout show ws8x8
    qexport layout show ws8x8 --toml
    """
    if as_toml:
        if as_json:
            raise click.UsageError("give either --toml or --json")
        click.echo(layout_text(name), nl=False)
        return
    layout = load_layout(name)
    try:
        drawings = [_drawing(memory, layout.array) for memory in layout.memories]
    except QexportError as error:
        raise QexportError(
            f"{error} (what is drawn is one image of an 8-to-8 3x3 layer on a 4x4 plane; for yours see dump --dry-run)"
        ) from None

    def show() -> None:
        for memory, drawing in zip(layout.memories, drawings, strict=True):
            _draw(memory, drawing)

    emit(as_json, {"layout": layout.name, "array": layout.array, "memories": drawings}, show)


def _drawing(memory: Memory, array: Mapping[str, int]) -> dict[str, Any]:
    """The first words of a memory: the tensor index of each lane."""
    tiling = Tiling(
        memory.order, tuple(_EXAMPLE_SIZES.get(axis, _OTHER_SIZE) for axis in memory.order.tensor_axes), array
    )
    first_words = [
        [tiling.origin(0, word, lane) for lane in range(tiling.lanes)]
        for word in range(min(_SHOWN_WORDS, tiling.words))
    ]
    return {
        "memory": memory.name,
        "tensor": memory.tensor,
        "order": memory.order.text,
        "files": [path for path, _ in memory.paths(tiling)],
        "words": tiling.words,
        "header": list(memory.header),
        "first_words": first_words,
    } | memory.unusual


def _draw(memory: Memory, drawing: dict[str, Any]) -> None:
    """One table: what a word has in common on the left, what sets its lanes apart in the lanes' columns."""
    files, words = drawing["files"], drawing["first_words"]
    also = f" and {len(files) - 1} more" if len(files) > 1 else ""
    say(f"{click.style(memory.name, bold=True)}: {memory.tensor}, {memory.order.text}")
    say(f"{files[0]}{also}, {memory.radix}, words a file: {drawing['words']}")
    if keys := memory.unusual:
        say(", ".join(f"{key} = {value!r}" for key, value in keys.items()))
    for number, text in enumerate(drawing["header"], start=1):
        say(f"line {number}: {text}")
    lanes = len(words[0])
    shown = list(range(min(lanes, _SHOWN_LANES)))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    format_ = memory.format
    table.add_column("line" if format_.text else "word", justify="right")
    table.add_column("all lanes")
    for lane in shown:
        table.add_column(f"lane {lane}" + (" (msb)" if lane == 0 and lanes > 1 else ""))
    if lanes > len(shown):
        table.add_column(f"... {lanes} lanes")
    first = len(drawing["header"]) + format_.preamble + 1 if format_.text else 1
    for number, word in enumerate(words, start=first):
        known = [index for index in word if index is not None]
        common = {a: i for a, i in known[0].items() if all(index[a] == i for index in known)} if known else {}
        cells = []
        for lane in shown:
            index = word[lane]
            own = None if index is None else {a: i for a, i in index.items() if a not in common}
            cells.append(describe_index(own))
        table.add_row(str(number), describe_index(common), *cells)
    print_table(table)


@command.command(name="check")
@click.argument("file", type=path_type())
@json_option
def layout_check(file: Path, as_json: bool) -> None:
    """Report the errors of a layout file, each with its place.

    It is the first of each memory, with line, column and a caret.

    \b
    qexport layout check my_array.toml
    """
    errors = layout_errors(layout_text(str(file)), str(file))
    warnings = layout_warnings(layout_text(str(file)), str(file))

    def show() -> None:
        if not errors:
            say(f"{file}: ok")
        for error in [*errors, *warnings]:
            kind = "warning: " if error in warnings else ""
            say(short(f"{file}:{error.line}:{error.column}: {kind}{error.message}"))
            start = max(0, error.column - _SHOWN_COLUMNS) if len(error.source) > _SHOWN_COLUMNS else 0
            say("    " + error.source[start : start + 2 * _SHOWN_COLUMNS].replace("\t", " "))
            say(f"    {' ' * (error.column - 1 - start)}^")

    def listed(ones: Sequence[LayoutError]) -> list[dict[str, Any]]:
        return [{"line": e.line, "column": e.column, "message": e.message} for e in ones]

    found = {"ok": not errors, "errors": listed(errors)}
    emit(as_json, found | ({"warnings": listed(warnings)} if warnings else {}), show)
    if errors:
        raise QexportError(f"layout: {file} has {len(errors)} error(s); correct them and check again")


@command.command(name="list")
@json_option
def layout_list(as_json: bool) -> None:
    """List the presets.

    \b
    qexport layout list
    """
    presets = [load_layout(name) for name in preset_names()]

    def show() -> None:
        table = make_table("preset", "memories", "what it serves")
        for layout in presets:
            table.add_row(layout.name, str(len(layout.memories)), escape(preset_purpose(layout.name)))
        print_table(table)

    emit(as_json, {"presets": [layout.name for layout in presets]}, show)
