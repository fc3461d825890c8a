"""The sets that `diagnose` is proven on: three layers, each in two layouts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from qexport.layer import CodeFormat, LayerCapture
from qexport.layout import Layout, load_layout, parse_layout
from tests.conftest import checked_dump, make_capture

ROOT = Path(__file__).parent.parent

# Lane 0 in the most significant bits, a weight word is a row of the array, and memories that count in other orders.
MIRROR = """
name = "mirror"
[array]
row = 8
col = 8
[[memory]]
name = "weight"
tensor = "weight"
order = "(ot col) (it row) kh kw -> it ot | kh kw row | col"
file = "weight_{it}_{ot}.txt"
radix = "bin"
[[memory]]
name = "bias"
tensor = "bias"
order = "(ot col) -> | ot | col"
file = "bias.txt"
radix = "dec"
optional = true
[[memory]]
name = "input"
tensor = "input"
order = "n (ct row) iy ix -> | ct iy ix n | row"
file = "input.txt"
radix = "hex"
header = ["// row 0 first"]
[[memory]]
name = "psum"
tensor = "psum"
order = "n it kh kw (ot col) py px -> | it ot kh kw n py px | col"
file = "psum.txt"
radix = "hex"
[[memory]]
name = "accumulator"
tensor = "accumulator"
order = "n (ot col) oy ox -> | ot n oy ox | col"
file = "accumulator.txt"
radix = "dec"
[[memory]]
name = "relu"
tensor = "relu"
order = "n (ot col) oy ox -> | n oy ox ot | col"
file = "relu.txt"
radix = "bin"
bits = 20
[[memory]]
name = "output"
tensor = "output"
order = "n (ot col) oy ox -> | oy ox n ot | col"
file = "output.txt"
radix = "hex"
header = ["// col 0 first"]
"""


def quantized(capture: LayerCapture, name: str, half: int, step: float) -> LayerCapture:
    """The capture with a next layer for which the sum `half` lies on the edge between codes 6 and 7.

    So the ways of rounding differ. With a `step` of 13/8 the quotient is exactly 6.5 and goes to 6; with 1/8 it cannot
    be written exactly, is a little more, and goes to 7."""
    weight = CodeFormat(bits=4, signed=True, scale=step / capture.formats.input.scales[0])
    output = CodeFormat(bits=4, signed=False, scale=step * 2 * half / 13)
    return replace(
        capture,
        layer=msgspec.structs.replace(capture.layer, name=name),
        formats=msgspec.structs.replace(capture.formats, weight=weight, output=output),
    )


def layer_33(seed: int = 0) -> LayerCapture:
    return LayerCapture.load(ROOT / "vectors" / "features_33" / "capture.safetensors")


def ragged(seed: int = 23) -> LayerCapture:
    """Groups of odd size that share words and tiles, and nothing square; 20 sums are exactly 172."""
    capture = make_capture(
        seed=seed, plane=(9, 7), images=3, bias=True, in_channels=22, out_channels=14, kernel=(3, 2), groups=2,
        stride=(2, 2), padding=(1, 0, 2, 1), dilation=(2, 1),
    )  # fmt: skip
    return quantized(capture, "ragged", 172, 13 / 8)


def multi(seed: int = 6) -> LayerCapture:
    """Three tiles of input and three of output channels; four sums are exactly 340."""
    capture = make_capture(seed=seed, plane=(5, 6), images=3, in_channels=24, out_channels=20)
    return quantized(capture, "multi", 340, 1 / 8)


LAYERS: Mapping[str, Callable[..., LayerCapture]] = {"features_33": layer_33, "ragged": ragged, "multi": multi}
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "default": lambda: load_layout("default"),
    "mirror": lambda: parse_layout(MIRROR, "mirror.toml"),
}


def make_sets(out: Path) -> dict[tuple[str, str], Path]:
    """(layer, layout) -> its set, those of a layout side by side; the independent decoder has checked each."""
    return {
        (layer, name): checked_dump(capture(), layout(), out / name)
        for name, layout in LAYOUTS.items()
        for layer, capture in LAYERS.items()
    }
