"""What a page consists of: sections of blocks, as values; templates/report/blocks.html.j2 writes each kind."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qexport.report.figure import Figure
from qexport.report.tables import AnyCell, Cell, Table, cell


@dataclass(frozen=True)
class Facts:
    """Pairs of a key and what is said of it."""

    kind: ClassVar = "facts"
    pairs: Sequence[tuple[str, AnyCell]]

    @property
    def rows(self) -> list[tuple[str, Cell]]:
        return [(key, cell(value)) for key, value in self.pairs]


@dataclass(frozen=True)
class Tile:
    """One number at the head of a page. `tone`: good, bad, warn or nothing, which a mark says too."""

    value: str
    label: str
    tone: str = ""


@dataclass(frozen=True)
class Tiles:
    kind: ClassVar = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Note:
    """A sentence; `tone` as in Tile."""

    kind: ClassVar = "note"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Pictures:
    """Small pictures side by side."""

    kind: ClassVar = "pictures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Word:
    """A line of a memory file: where it stands, what all its elements have in common, and the elements."""

    place: str
    common: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Words:
    """The first words of a memory, lane by lane; a lane's colour is its number's. `lanes`: bits of the word, index."""

    kind: ClassVar = "words"
    caption: str
    lanes: Sequence[tuple[str, str]]
    words: Sequence[Word]
    more: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that open when they are asked for."""

    kind: ClassVar = "details"
    summary: str
    blocks: "Sequence[Block]"
    open: bool = False


Block = Table | Facts | Tiles | Note | Pictures | Words | Details | Figure


@dataclass(frozen=True)
class Section:
    """A part of a page: what it is called, what it says, and what it shows."""

    title: str
    text: str
    blocks: Sequence[Block]
    tone: str = ""

    @property
    def id(self) -> str:
        plain = unicodedata.normalize("NFKD", self.title.lower())
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"


def marked(ok: bool) -> str:
    """The tone of what holds or does not."""
    return "good" if ok else "bad"
