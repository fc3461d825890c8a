"""Results as values that print as the command line shows them, also as the last line of a notebook's cell."""

from collections.abc import Sequence
from typing import Any


class Printed:
    """Base of results whose text is for people."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's protocol: what a notebook shows for the value."""
        printer.text(str(self))


def pairs_text(rows: Sequence[tuple[str, str]]) -> str:
    """One line for each pair, the texts below each other."""
    width = max((len(key) for key, _ in rows), default=0)
    return "\n".join(f"{key.ljust(width)}  {text}".rstrip() for key, text in rows)


def columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length, their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
