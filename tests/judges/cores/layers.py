"""The five layers of the designs, one for each: small, and with codes over the whole range of their formats."""

from pathlib import Path

import numpy as np

from tests.judges.cores.bench import HERE, Set, default, made
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, linear

FORMATS = {"weight": codes(4, True, 0.5), "input": codes(4, False, 0.25)}
SIGNED = {"weight": codes(4, True, 0.5), "input": codes(4, True, 0.25)}


def mac_fsm() -> Capture:
    rng = np.random.default_rng(1)
    weight, x = rng.integers(-8, 8, (3, 3, 3, 3)), rng.integers(0, 16, (2, 3, 3, 4))
    steps = [{"op": "shift_right", "by": 4, "round": "half_up"}, {"op": "clamp", "low": 0, "high": 15}]
    formats = FORMATS | {"output": codes(4, False, 1.0)}
    return conv(weight, x, formats, steps, rng.integers(-200, 201, 3), padding=[1, 1, 1, 1], relu=True)


def dot_tree() -> Capture:
    rng = np.random.default_rng(2)
    weight, x = rng.integers(-8, 8, (5, 12)), rng.integers(-8, 8, (4, 12))
    return linear(weight, x, SIGNED, None, rng.integers(-400, 401, 5), name="conv")


def os_2x2() -> Capture:
    rng = np.random.default_rng(3)
    weight, x = rng.integers(-8, 8, (3, 4, 2, 2)), rng.integers(0, 16, (2, 4, 4, 6))
    return conv(weight, x, FORMATS, stride=[2, 2], relu=True)


def line_buffer() -> Capture:
    rng = np.random.default_rng(4)
    weight, x = rng.integers(-8, 8, (2, 1, 3, 3)), rng.integers(0, 16, (3, 1, 3, 4))
    return conv(weight, x, FORMATS, padding=[1, 1, 1, 1])


def bit_serial() -> Capture:
    rng = np.random.default_rng(5)
    weight, x = rng.integers(-8, 8, (2, 3, 2, 2)), rng.integers(-8, 8, (2, 3, 3, 3))
    return conv(weight, x, SIGNED, padding=[1, 0, 0, 1])


ARRAYS = {"mac_fsm": (3, 2), "dot_tree": (8, 3), "os_2x2": (4, 2), "line_buffer": (1, 2), "bit_serial": (2, 2)}
LAYERS = {made.__name__: made for made in (mac_fsm, dot_tree, os_2x2, line_buffer, bit_serial)}
RESULTS = {
    "mac_fsm": ["accumulator", "relu", "output"],
    "dot_tree": ["accumulator"],
    "os_2x2": ["accumulator", "relu"],
    "line_buffer": ["accumulator"],
    "bit_serial": ["psum", "accumulator"],
}


def design_of(name: str) -> Path:
    (found,) = (HERE / "designs").glob(f"{name}.*")
    return found


def layout_of(name: str) -> str:
    return default(*ARRAYS[name], *(() if name == "bit_serial" else ("psum",)))


def set_of(name: str, root: Path) -> Set:
    return made(LAYERS[name](), root / name, layout_of(name))
