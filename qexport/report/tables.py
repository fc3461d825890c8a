"""Tables as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Cell:
    """What stands in a table; `tone` colours it, `href` makes a link of it, `title` is told when it is pointed at."""

    text: str
    number: bool = False
    tone: str = ""
    href: str = ""
    title: str = ""


AnyCell = Cell | str | int | float | None


def share(part: float) -> Cell:
    """A share of 1 in per cent."""
    return Cell(f"{part:.2%}", number=True)


def cell(value: AnyCell) -> Cell:
    """A cell of a plain value: numbers are grouped by thousands and stand to the right."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("-", number=True)
    if isinstance(value, str):
        return Cell(value)
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.4g}", number=True)


@dataclass(frozen=True)
class Table:
    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    lines: Sequence[Sequence[AnyCell]]

    @property
    def rows(self) -> list[list[Cell]]:
        return [[cell(value) for value in line] for line in self.lines]

    @property
    def heads(self) -> list[Cell]:
        """The columns' names, over numbers to the right."""
        first = self.rows[0] if self.lines else [Cell("")] * len(self.columns)
        return [Cell(name, number=below.number) for name, below in zip(self.columns, first, strict=True)]
