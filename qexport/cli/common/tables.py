"""Tables, as the terminal shows them and without filling blanks where nobody watches."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qexport.cli.common.output import say


def make_table(*columns: str, right: int = 0) -> Table:
    """A table of which the last `right` columns hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="right" if at >= len(columns) - right else "left")
    return table


def print_table(table: Table) -> None:
    """Print a table; where nobody watches, without the blanks that fill its lines."""
    console = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    say("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print what each row says of its key."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows:
        table.add_row(key, escape(value))
    print_table(table)
