"""Sections to one HTML page that asks for nothing beside itself."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qexport import __version__
from qexport.bench.context import TEMPLATES
from qexport.report.blocks import Section, Tile, Tiles
from qexport.report.svg import FOLDER, clean


def render_page(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> bytes:
    """The page; whatever stands in names and texts is text."""
    style = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("figure.css", "page.css"))
    script = (FOLDER / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context = {
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "style": Markup(style),
        "script": Markup(script),
        "version": __version__,
        "title": title,
        "lead": lead,
        "tiles": Tiles(tiles),
        "sections": sections,
    }
    page = _environment().get_template("report/page.html.j2").render(context)
    return (page.rstrip("\n") + "\n").encode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, Markup) else clean(value)
