"""Pictures as SVG, drawn by a few functions.

No library: the few that write SVG alone are no longer kept, and those that plot bring megabytes of code, or a drawing
whose colours cannot follow the reader's light or dark screen. Here colours are classes of templates/report/figure.css.
Images of many values are PNGs of one hue whose opacity is the value, which stand on any ground.
"""

import base64
import math
import struct
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from qexport.bench.context import TEMPLATES

FOLDER = TEMPLATES / "report"
WIDE, HALF = 960, 470  # of a page, and of two beside each other
TONES = 8  # colours of figure.css
TENSOR_TONES = {"input": 0, "weight": 3, "input2": 5, "bias": 6, "accumulator": 2, "output": 4}  # orange is for faults
CHARACTER = 6.7  # mean width of one at 12 px
_BLUE, _ORANGE = (0x2F, 0x8F, 0xDC), (0xE2, 0x67, 0x1C)  # of images; told apart by colour-blind eyes, on any ground


def clean(text: object) -> str:
    """A text without characters that no XML may hold, or that turn the order of what stands beside them."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" else c for c in str(text))


def esc(text: object) -> str:
    """Text as SVG and HTML take it."""
    return str(escape(clean(text)))


# --- elements -------------------------------------------------------------------------------------------------------


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def text(x: float, y: float, said: object, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="t {kind}" text-anchor="{anchor}">{esc(said)}</text>'


def rect(x: float, y: float, w: float, h: float, kind: str, title: object = "", round: float = 0) -> str:
    """`title`: what is told when it is pointed at."""
    inside = f"<title>{esc(title)}</title></rect>" if title else "</rect>"
    corner = f' rx="{_n(round)}"' if round else ""
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" class="{kind}"{corner}>{inside}'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"/>'


def path(points: str, kind: str, title: object = "") -> str:
    return f'<path d="{points}" class="{kind}"><title>{esc(title)}</title></path>' if title else (
        f'<path d="{points}" class="{kind}"/>'
    )  # fmt: skip


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line along one axis with a head."""
    if y1 == y2:
        head = f"M{_n(x2 - 6)} {_n(y2 - 4)}L{_n(x2)} {_n(y2)}L{_n(x2 - 6)} {_n(y2 + 4)}"
    else:
        head = f"M{_n(x2 - 4)} {_n(y2 - 6)}L{_n(x2)} {_n(y2)}L{_n(x2 + 4)} {_n(y2 - 6)}"
    return line(x1, y1, x2, y2, "flow") + path(head, "flow")


def tone(number: int) -> int:
    return number % TONES


def cut(said: str, width: float) -> str:
    """A text that fits a width."""
    most = max(int(width / CHARACTER), 4)
    return said if len(said) <= most else said[: most - 1] + "\u2026"


# --- images of many values ------------------------------------------------------------------------------------------


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of (y, x, 1), (y, x, 3) or (y, x, 4): grey, RGB, RGBA."""
    rows, cols, depth = pixels.shape
    kind = {1: 0, 3: 2, 4: 6}[depth]
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1).tobytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", cols, rows, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def tinted(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values from -1 to 1 as pixels: blue above 0, orange below; the size is the opacity, of NaN none."""
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values < 0)[..., np.newaxis], _ORANGE, _BLUE)
    pixels[..., 3] = np.round(255 * np.nan_to_num(np.minimum(np.abs(values), 1)))
    return pixels


def image(pixels: NDArray[np.uint8], x: float, y: float, w: float, h: float) -> str:
    data = base64.b64encode(png(pixels)).decode()
    return (
        f'<image x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" preserveAspectRatio="none" class="pixels" '
        f'href="data:image/png;base64,{data}"/>'
    )


def shrunk(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """A plane of at most so many rows and columns, whose cells are means of those that they stand for."""
    for axis in (0, 1):
        step = math.ceil(values.shape[axis] / most)
        if step > 1:
            starts = np.arange(0, values.shape[axis], step)
            sizes = np.diff([*starts, values.shape[axis]])
            values = np.add.reduceat(values, starts, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return values


# --- axes and charts ------------------------------------------------------------------------------------------------


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    span = (high - low) or 1.0
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough)
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number on an axis."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / min(unit, 1e3 if unit == 1e4 else unit):g}{name}"
    return f"{value:.6g}"


@dataclass(frozen=True)
class Frame:
    """A plot's area and what numbers its edges stand for."""

    x: float
    y: float
    w: float
    h: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def px(self, value: float) -> float:
        low, high = self.xs
        return self.x + self.w * (value - low) / ((high - low) or 1)

    def py(self, value: float) -> float:
        low, high = self.ys
        return self.y + self.h - self.h * (value - low) / ((high - low) or 1)

    def grid(self, y_name: str, x_name: str, format: Callable[[float], str] = short) -> str:
        """Horizontal lines with their numbers, and the names of both axes."""
        lines = [
            line(self.x, self.py(at), self.x + self.w, self.py(at), "grid" if at else "axis")
            + text(self.x - 6, self.py(at) + 4, format(at), "m num", "end")
            for at in ticks(*self.ys, 4)
        ]
        names = text(self.x, self.y - 10, y_name, "m") + text(self.x + self.w, self.y + self.h + 34, x_name, "m", "end")
        return "".join(lines) + names

    def x_ticks(self, values: Sequence[float], format: Callable[[float], str] = short) -> str:
        return "".join(text(self.px(at), self.y + self.h + 17, format(at), "m num", "middle") for at in values)


def bars(
    values: Sequence[float],
    labels: Sequence[str],
    x_name: str,
    y_name: str,
    width: float = HALF,
    height: float = 220,
    tones: Sequence[int] | None = None,
    titles: Sequence[str] | None = None,
) -> str:
    """Columns side by side, values below 0 downwards, a label below as many as have room."""
    low, high = min(0.0, *values), max(0.0, *values) or 1.0
    frame = Frame(58, 26, width - 70, height - 70, (0, len(values)), (low, high))
    step = min(frame.w / len(values), 48.0)
    every = max(1, math.ceil((max(map(len, labels)) * CHARACTER + 8) / step))
    drawn = [frame.grid(y_name, x_name)]
    for at, (value, label) in enumerate(zip(values, labels, strict=True)):
        top, bottom = frame.py(max(value, 0)), frame.py(min(value, 0))
        shown = max(bottom - top, 1.0 if value else 0.0)  # what is there can be seen
        title = titles[at] if titles else f"{label}: {value:,}"
        kind = f"f{tone(tones[at]) if tones else 0}"
        drawn.append(rect(frame.x + at * step + step * 0.08, bottom - shown, step * 0.84, shown, kind, title))
        if at % every == 0:
            drawn.append(text(frame.x + (at + 0.5) * step, frame.y + frame.h + 17, label, "m num", "middle"))
    return "".join(drawn)


@dataclass(frozen=True)
class Series:
    """One curve. `dashed` tells it from one of the same colour."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: int = 0
    dashed: bool = False


def legend(entries: Sequence[tuple[str, int, bool]], x: float, y: float) -> str:
    """Names with their colours in a row: name, tone, dashed."""
    drawn = []
    for name, number, dashed in entries:
        drawn.append(line(x, y - 4, x + 18, y - 4, f"s{tone(number)}{' dash' if dashed else ''}"))
        drawn.append(text(x + 24, y, name, "m"))
        x += 44 + len(name) * CHARACTER
    return "".join(drawn)


def curves(
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    width: float = HALF,
    height: float = 260,
    shaded: tuple[float, float, str] | None = None,
) -> str:
    """Lines with a mark at each point. `shaded`: a span of x and what it means."""
    xs = [x for one in series for x in one.xs]
    ys = [y for one in series for y in one.ys if math.isfinite(y)] or [0.0]
    pad = 0.05 * ((max(ys) - min(ys)) or 1)
    frame = Frame(58, 44, width - 76, height - 88, (min(xs), max(xs)), (min(ys) - pad, max(ys) + pad))
    drawn = []
    if shaded is not None:
        left, right = max(frame.px(shaded[0]), frame.x), min(frame.px(shaded[1]), frame.x + frame.w)
        drawn.append(rect(left, frame.y, max(right - left, 2), frame.h, "shade", shaded[2]))
        drawn.append(text(left + 5, frame.y + frame.h - 8, shaded[2], "m"))
    drawn.append(frame.grid(y_name, x_name))
    whole = sorted({round(at) for at in ticks(min(xs), max(xs), 6)})
    drawn.append(frame.x_ticks([at for at in whole if min(xs) <= at <= max(xs)]))
    for one in series:
        points = [(frame.px(x), frame.py(y), x, y) for x, y in zip(one.xs, one.ys, strict=True) if math.isfinite(y)]
        kind = f"s{tone(one.tone)}{' dash' if one.dashed else ''}"
        drawn.append(path("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y, *_ in points), kind) if points else "")
        if len(points) <= 60:
            drawn += [dot(x, y, 3, one.tone, f"{one.name}, {at:g}: {value:.4g}") for x, y, at, value in points]
    named = {one.name: (one.name, one.tone, one.dashed) for one in series if one.name}
    drawn.append(legend(list(named.values()), frame.x, 14) if len(named) > 1 else "")
    return "".join(drawn)


def dot(x: float, y: float, r: float, number: int, title: object = "") -> str:
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" class="f{tone(number)}"><title>{esc(title)}</title></circle>'


@dataclass(frozen=True)
class Span:
    """A row of `spans`: what was seen inside of what can be."""

    name: str
    seen: tuple[int, int]
    bounds: tuple[int, int]


def spans(rows: Sequence[Span], width: float = WIDE, limits: Sequence[int] = ()) -> tuple[str, float]:
    """A thick line inside a thin one for each row, over one axis; and the height. `limits`: vertical lines."""
    row = 18.0 if len(rows) <= 64 else max(3.0, 1150 / len(rows))
    low = min(0, *(one.bounds[0] for one in rows), *limits)
    high = max(0, *(one.bounds[1] for one in rows), *limits)
    frame = Frame(64, 40, width - 84, row * len(rows), (low, high), (0, 1))
    drawn = [
        line(frame.px(at), frame.y - 6, frame.px(at), frame.y + frame.h, "grid" if at else "axis")
        + text(frame.px(at), frame.y - 12, short(at), "m num", "middle")
        for at in ticks(low, high, 8)
    ]
    drawn += [line(frame.px(at), frame.y - 6, frame.px(at), frame.y + frame.h, "limit") for at in limits]
    for at, one in enumerate(rows):
        y = frame.y + (at + 0.5) * row
        title = f"{one.name}: {one.seen[0]:,} to {one.seen[1]:,} seen, {one.bounds[0]:,} to {one.bounds[1]:,} proven"
        thin, thick = max(row * 0.12, 1), row * 0.6
        for (first, last), high_of, kind in ((one.bounds, thin, "f7"), (one.seen, thick, "f0")):
            x = frame.px(first)
            drawn.append(
                rect(x, y - high_of / 2, max(frame.px(last) - x, 1.5), high_of, kind, title, min(high_of / 2, 3))
            )
        if row >= 12 or at % math.ceil(16 / row) == 0:
            drawn.append(text(frame.x - 8, y + 4, one.name, "m num", "end"))
    return "".join(drawn), frame.y + frame.h + 12
