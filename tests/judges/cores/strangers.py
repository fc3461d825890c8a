"""Layers for nine layouts of strangers' kind (layouts/*.toml), and which of their memories a design gives back."""

from pathlib import Path

import numpy as np

from tests.judges.cores.bench import HERE, Set, made
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, matmul

FORMATS = {"weight": codes(4, True, 0.5), "input": codes(4, False, 0.25)}


def layer(seed: int, weight: tuple[int, ...], plane: tuple[int, int], **more: object) -> Capture:
    """4-bit weights of that shape on two images; `bias`: one for each channel."""
    rng = np.random.default_rng(seed)
    bias = rng.integers(-99, 100, weight[0]) if more.pop("bias", False) else None
    w, x = rng.integers(-8, 8, weight), rng.integers(0, 16, (2, weight[1], *plane))
    return conv(w, x, FORMATS, bias=bias, **more)  # type: ignore[arg-type]


def ws_taps() -> Capture:
    return layer(13, (3, 5, 2, 2), (2, 3), padding=[0, 1, 0, 1], relu=True)


def os_patches() -> Capture:
    return layer(2, (3, 2, 2, 2), (5, 4), padding=[1, 0, 0, 0], stride=[2, 2], bias=True)


def banks() -> Capture:
    return layer(3, (2, 3, 2, 2), (3, 2))


def one_file() -> Capture:
    return layer(4, (2, 2, 2, 2), (3, 3), bias=True)


def hwc_bytes() -> Capture:
    """Sums of which some lie within int8, and some beyond it on either side."""
    rng = np.random.default_rng(5)
    w, x = rng.integers(-128, 128, (2, 3, 2, 2)), rng.integers(0, 256, (2, 3, 3, 3)) * rng.integers(0, 2, (2, 3, 3, 3))
    x[0] %= 2
    return conv(w, x, {"weight": codes(8, True, 0.5), "input": codes(8, False, 0.25)})


def tiles_16x16() -> Capture:
    steps = [{"op": "shift_right", "by": 3, "round": "floor"}, {"op": "clamp", "low": 0, "high": 15}]
    plain = layer(6, (18, 20, 1, 2), (2, 3), relu=True)
    return plain.having(steps=steps, formats=plain.formats | {"output": codes(4, False, 1.0)})


def simd_2bit() -> Capture:
    return layer(7, (2, 3, 2, 2), (3, 2), relu=True)


def gemm_skew() -> Capture:
    rng = np.random.default_rng(8)
    formats = {"input": codes(4, True, 0.5), "input2": codes(4, False, 0.25)}
    return matmul(rng.integers(-8, 8, (2, 6, 4)), rng.integers(0, 16, (2, 4, 4)), formats)


def int8_sums() -> Capture:
    rng = np.random.default_rng(9)
    w, x = rng.integers(-128, 128, (3, 2, 2, 2)), rng.integers(-128, 128, (2, 2, 2, 2))
    formats = {"weight": codes(8, True, 0.5), "input": codes(8, True, 0.25, -3), "output": codes(8, True, 1.0, -5)}
    steps = [
        {"op": "shift_right", "by": 7, "round": "half_up"},
        {"op": "add", "value": -5},
        {"op": "clamp", "low": -128, "high": 127},
    ]
    return conv(w, x, formats, steps, rng.integers(-9999, 10000, 3), padding=[1, 1, 1, 1])


def operands() -> Capture:
    """Not one of the nine: its layout has two memories of inputs, and one of a step's numbers."""
    steps = [
        {"op": "multiply", "by": [3, -2], "name": "gain"},
        {"op": "shift_right", "by": 2, "round": "floor"},
        {"op": "clamp", "low": 0, "high": 15},
    ]
    plain = layer(10, (2, 2, 1, 1), (2, 2), padding=[1, 1, 1, 1])
    return plain.having(steps=steps, formats=plain.formats | {"output": codes(4, False, 1.0)})


LAYERS = {
    made.__name__: made
    for made in (ws_taps, os_patches, banks, one_file, hwc_bytes, tiles_16x16, simd_2bit, gemm_skew, int8_sums)
}
RESULTS = {
    "ws_taps": ["psum", "out"],
    "os_patches": ["sum"],
    "banks": ["sums"],
    "one_file": ["accumulator"],
    "hwc_bytes": ["result"],
    "tiles_16x16": ["code"],
    "simd_2bit": ["y"],
    "gemm_skew": ["c"],
    "int8_sums": ["sum", "y"],
}


def set_of(name: str, root: Path) -> Set:
    return made(globals()[name](), root / name, (HERE / "layouts" / f"{name}.toml").read_text())
