"""A picture with what it is called and says, inside a page or as a file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from qexport.report.svg import FOLDER, esc, rect
from qexport.report.tables import Table


@dataclass(frozen=True)
class Figure:
    """A picture. `name` is what `qexport plot` takes, `text` says what it shows, `numbers` is the same as a table."""

    kind: ClassVar = "figure"
    name: str
    title: str
    text: str
    width: float
    height: float
    body: str
    numbers: Table | None = None

    @property
    def id(self) -> str:
        return "f-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower())

    @property
    def inline(self) -> Markup:
        """As it stands in a page."""
        return Markup(self._svg(""))  # every text in it is escaped where it is put in

    def alone(self) -> bytes:
        """As a file, with its colours."""
        style = (FOLDER / "figure.css").read_text(encoding="utf-8")
        ground = rect(0, 0, self.width, self.height, "ground")
        return (self._svg(f"<style>{style}</style>{ground}") + "\n").encode()

    def _svg(self, before: str) -> str:
        width, height = f"{self.width:g}", f"{self.height:g}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" role="img" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" aria-labelledby="{self.id}-t {self.id}-d"><title id="{self.id}-t">'
            f'{esc(self.title)}</title><desc id="{self.id}-d">{esc(self.text)}</desc>{before}{self.body}</svg>'
        )


def stacked(name: str, title: str, figures: Sequence[Figure]) -> Figure:
    """Pictures below each other as one."""
    tops = [sum(one.height for one in figures[:at]) for at in range(len(figures))]
    body = "".join(
        f'<g transform="translate(0 {top:g})">{one.body}</g>' for one, top in zip(figures, tops, strict=True)
    )
    said, width = ", ".join(one.title for one in figures), max(one.width for one in figures)
    return Figure(name, title, f"{said}.", width, sum(one.height for one in figures), body)
