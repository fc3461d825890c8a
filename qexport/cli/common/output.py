"""What commands print without a table: results for machines, and texts that several commands share."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click


def say(text: str = "") -> None:
    """Print a line; to the stream by name, because click writes UTF-8 past a stream of ASCII."""
    click.echo(text, file=sys.stdout)


def say_aside(line: str) -> None:
    """Print a line of a long run, beside its result."""
    click.echo(line, err=True)


def emit(as_json: bool, result: Any, show: Callable[[], None]) -> None:
    if as_json:
        say(json.dumps(result, indent=2))
    else:
        show()
