"""What went in: the pictures where they are known, and the input codes of each image, channel beside channel."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qexport.report.blocks import Note, Pictures, Section
from qexport.report.facts import SetFacts, format_text
from qexport.report.figure import Figure
from qexport.report.svg import image, rect, shrunk, tinted

Pixels = NDArray[np.uint8]  # (n, 3, y, x)
_IMAGES, _CHANNELS, _SIDE = 12, 64, 128
_WIDTH = 220.0


def pictures_section(facts: SetFacts, pixels: Pixels | None = None) -> Section:
    """`pixels`: the pictures, where the caller knows them by the SHA-256 of the data."""
    blocks: list[Pictures | Note] = []
    if pixels is not None:
        blocks.append(
            Pictures([_photo(one, at, facts.manifest.source.images) for at, one in enumerate(pixels[:_IMAGES])])
        )
    figures = input_figures(facts)
    blocks.append(Pictures(figures))
    if (count := facts.capture.images) > len(figures):
        blocks.append(Note(f"The first {len(figures)} of {count} images."))
    fmt = facts.operands["input"]
    return Section(
        "Input",
        f"The codes that enter the layer ({format_text(fmt)}), a plane for each channel: the stronger, the further "
        f"from the zero point, {fmt.zero_points[0]}; orange below it.",
        blocks,
    )


def _photo(pixels: Pixels, at: int, numbers: Sequence[int] | None) -> Figure:
    number = f"Number {numbers[at]} of the data." if numbers else ""
    body = image(pixels.transpose(1, 2, 0), 0, 0, 128, 128)
    return Figure(f"picture-{at}", f"picture {at}", number, 128, 128, body)


def input_figures(facts: SetFacts) -> list[Figure]:
    """The input codes of the first images."""
    fmt, codes = facts.operands["input"], facts.first_images.codes("input")[:_IMAGES]
    values = fmt.integers(codes) - fmt.zero_points[0]
    reach = max(int(np.abs(values).max()), 1)
    return [_planes(at, one / reach) for at, one in enumerate(values)]


def _planes(at: int, values: NDArray[np.float64]) -> Figure:
    """One image: (channels, y, x), or a matrix."""
    planes = values.reshape(1, *values.shape) if values.ndim == 2 else values
    channels = len(planes)
    planes = planes[:_CHANNELS]
    columns = math.ceil(math.sqrt(len(planes)))
    rows = math.ceil(len(planes) / columns)
    small = [shrunk(plane, _SIDE) for plane in planes]
    size_y, size_x = small[0].shape
    wide = (_WIDTH - 4 * (columns - 1)) / columns
    high = min(wide * size_y / size_x, 4 * wide)
    drawn = []
    for number, plane in enumerate(small):
        x, y = number % columns * (wide + 4), number // columns * (high + 4)
        drawn.append(image(tinted(plane), x, y, wide, high) + rect(x, y, wide, high, "box", f"channel {number}"))
    more = f", the first {len(planes)} of {channels} channels" if channels > len(planes) else ""
    zero = float(np.mean(values == 0))
    return Figure(
        f"input-{at}", f"image {at}", f"{size_y}\u00d7{size_x}{more}; {zero:.0%} of the codes are 0.", _WIDTH,
        rows * (high + 4), "".join(drawn),
    )  # fmt: skip
