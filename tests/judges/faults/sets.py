"""The sets that the faults stand on, and the own encoder: what a wrong design would have written."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import cli
from tests.judges.faults.machine import Layer, layer_of
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, linear, matmul, opened
from tests.judges.notation import Ints, Json, file_text, read_order, word_text

INT4, UINT4, INT8, UINT8 = (codes(bits, signed, 0.5) for bits in (4, 8) for signed in (True, False))
SAME = [1, 1, 1, 1]

CHANNELS_FAST = """name = "channels_fast"
[array]
col = 4
[[memory]]
name = "w"
tensor = "weight"
order = "oc ic kh kw -> | oc kh kw ic |"
file = "w.txt"
radix = "dec"
[[memory]]
name = "x"
tensor = "input"
order = "n ic iy ix -> | n iy ix ic |"
file = "x.txt"
radix = "dec"
[[memory]]
name = "sum"
tensor = "accumulator"
order = "n (ot col) oy ox -> | n oy ox ot | col"
file = "sum.hex"
radix = "hex"
bits = 32
[[memory]]
name = "y"
tensor = "output"
order = "n oc oy ox -> | n oy ox oc |"
file = "y.txt"
radix = "dec"
"""


def shift(by: int, round: str = "half_up") -> Json:
    return {"op": "shift_right", "by": by, "round": round}


def clamp(low: int, high: int) -> Json:
    return {"op": "clamp", "low": low, "high": high}


def drawn(seed: int) -> tuple[Callable[..., Ints], np.random.Generator]:
    rng = np.random.default_rng(seed)
    return (lambda low, high, *shape: rng.integers(low, high + 1, shape)), rng


def plain(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": UINT4, "output": UINT4}
    steps = [shift(5), clamp(0, 15)]
    w, x = draw(-8, 7, 8, 8, 3, 3), draw(0, 15, 2, 8, 5, 5)
    return conv(w, x, formats, steps, draw(-220, 220, 8), padding=SAME, relu=True)


def depthwise(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": UINT4}
    return conv(draw(-8, 7, 8, 1, 3, 3), draw(0, 15, 2, 8, 5, 6), formats, padding=SAME, relu=True, groups=8)


def pointwise(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": UINT4}
    return conv(draw(-8, 7, 12, 16, 1, 1), draw(0, 15, 2, 16, 5, 4), formats, None, draw(-300, 300, 12), relu=True)


def dense(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": INT4}
    return linear(draw(-8, 7, 12, 24), draw(-8, 7, 12, 24), formats, None, draw(-300, 300, 12))


def strided(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": INT4}
    w, x = draw(-8, 7, 8, 6, 3, 3), draw(-8, 7, 2, 6, 7, 6)
    return conv(w, x, formats, padding=SAME, stride=[2, 2])


def tflite(draw: Any) -> Capture:
    formats = {"weight": INT8, "input": INT8 | {"zero_point": -11}, "output": INT8 | {"zero_point": 7}}
    by = {"op": "tflite", "multiplier": [int(v) for v in draw(2**30, 2**31 - 1, 6)]}
    by |= {"shift": [int(v) for v in draw(-9, -8, 6)], "rounding": "double"}
    steps: list[Json] = [by, {"op": "add", "value": 7}, clamp(-128, 127)]
    w, x = draw(-127, 127, 6, 4, 3, 3), draw(-128, 127, 2, 4, 5, 5)
    return conv(w, x, formats, steps, draw(-9000, 9000, 6), padding=SAME)


def zeros(draw: Any) -> Capture:
    formats = {"weight": UINT4 | {"zero_point": [8, 7, 9, 6, 8, 5]}, "input": UINT8 | {"zero_point": 130}}
    w, x = draw(0, 15, 6, 4, 2, 3), draw(0, 255, 2, 4, 5, 5)
    return conv(w, x, formats, None, draw(-900, 900, 6), padding=[1, 0, 1, 1])


def products(draw: Any) -> Capture:
    formats = {"input": INT8, "input2": INT8 | {"zero_point": 3}, "output": INT8}
    steps = [shift(9, "floor"), clamp(-128, 127)]
    return matmul(
        draw(-128, 127, 2, 6, 12), draw(-128, 127, 2, 12, 9), formats, steps, draw(-9000, 9000, 2, 6, 9), name="conv"
    )


def nhwc(draw: Any) -> Capture:
    formats = {"weight": INT8, "input": UINT8}
    w, x = draw(-128, 127, 8, 4, 3, 3), draw(0, 255, 2, 4, 5, 6)
    return conv(w, x, formats, None, draw(-9000, 9000, 8), padding=SAME)


def stationary(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": UINT4}
    return conv(draw(-8, 7, 8, 8, 3, 3), draw(0, 15, 2, 8, 4, 4), formats, padding=SAME, relu=True)


def outputs(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": UINT4}
    return conv(draw(-8, 7, 8, 6, 3, 3), draw(0, 15, 2, 6, 4, 4), formats, padding=SAME, relu=True)


def apart(draw: Any) -> Capture:
    formats = {"weight": INT8, "input": UINT4, "output": UINT8}
    steps: list[Json] = [{"op": "bias", "shift": 3}, {"op": "relu"}, shift(5, "half_even"), clamp(0, 255)]
    w, x = draw(-128, 127, 8, 4, 3, 3), draw(0, 15, 2, 4, 5, 5)
    return conv(w, x, formats, steps, draw(-500, 500, 8), padding=SAME, relu=True)


def scaled(draw: Any) -> Capture:
    formats = {"weight": INT8, "input": INT8 | {"zero_point": 5}, "output": INT8 | {"zero_point": -9}}
    by = [int(v) for v in draw(200_000, 500_000, 8)]
    steps = [{"op": "multiply", "by": by}, {"op": "add", "value": -9 * 2**26 + 2**25}, shift(26, "floor")]
    return linear(draw(-128, 127, 8, 16), draw(-128, 127, 10, 16), formats, [*steps, clamp(-128, 127)])


def pooled(draw: Any) -> Capture:
    formats = {"weight": INT4, "input": INT4, "output": INT8}
    pool = {"op": "max_pool", "kernel": [2, 2]}
    steps: list[Json] = [
        {"op": "leaky_relu", "shift": 3, "round": "floor"},
        pool,
        shift(2, "half_away"),
        clamp(-128, 127),
    ]
    w, x = draw(-8, 7, 4, 8, 3, 3), draw(-8, 7, 2, 8, 6, 6)
    return conv(w, x, formats, steps, draw(-400, -200, 4), padding=SAME)


def wide(draw: Any) -> Capture:
    formats = {"weight": INT8, "input": INT8, "output": codes(16, True, 0.5)}
    by = {"op": "tflite", "multiplier": [int(v) for v in draw(2**30, 2**31 - 1, 8)]}
    by |= {"shift": [int(v) for v in draw(-2, -1, 8)], "rounding": "double"}
    return linear(draw(-127, 127, 8, 48), draw(-128, 127, 16, 48), formats, [by, clamp(-32768, 32767)])


MADE: dict[str, tuple[Callable[[Any], Capture], str]] = {
    "plain": (plain, "default"),
    "depthwise": (depthwise, "default"),
    "pointwise": (pointwise, "default"),
    "dense": (dense, "default"),
    "strided": (strided, "default"),
    "tflite": (tflite, "default"),
    "zeros": (zeros, "default"),
    "matmul": (products, "matmul"),
    "nhwc": (nhwc, "stream_nhwc64"),
    "stationary": (stationary, "ws8x8"),
    "outputs": (outputs, "os8x8"),
    "apart": (apart, "channels"),
    "scaled": (scaled, "channels"),
    "pooled": (pooled, "default"),
    "wide": (wide, "default"),
}


@dataclass(frozen=True)
class Set:
    """A set on disk, its operands, and where each element of a memory stands."""

    folder: Path
    manifest: Json
    layer: Layer
    right: dict[str, Ints]  # memory -> the tensor that its files hold

    def memory(self, tensor: str) -> Json:
        return next(mem for mem in self.manifest["memories"] if mem["tensor"] == tensor)

    def place(self, tensor: str) -> Ints:
        return read_order(self.memory(tensor), self.manifest["array"])[0]

    def words(self, tensor: str, values: Ints) -> Ints:
        """Lanes [file, word, lane] of a tensor of this memory; fill is 0, all results have no zero point here."""
        place = self.place(tensor)
        return np.where(place < 0, 0, values.ravel()[place])

    def write(self, tensor: str, words: Ints, root: Path, part: slice | None = None) -> Path:
        """The files of the memory, or a part, in the set's own style; one file, or a folder where there are several."""
        mem = self.memory(tensor)
        low = -(1 << mem["bits"] - 1) if mem["signed"] else 0
        kept = (words - low) % (1 << mem["bits"]) + low
        root.mkdir(parents=True, exist_ok=True)
        for entry, rows in zip(mem["files"], kept, strict=True):
            text = file_text(mem, [word_text(mem, row) for row in rows[part or slice(None)].tolist()])
            (root / entry["path"]).write_text(text)
        return root if len(mem["files"]) > 1 else root / mem["files"][0]["path"]

    def read(self, tensor: str) -> Ints:
        return self.words(tensor, self.right[self.memory(tensor)["name"]])


@lru_cache
def set_of(name: str, root: Path) -> Set:
    made, layout = MADE[name]
    place = root / name
    place.mkdir(parents=True, exist_ok=True)
    if layout == "channels":
        (place / "channels.toml").write_text(CHANNELS_FAST)
        layout = str(place / "channels.toml")
    path = made(drawn(sum(map(ord, name)))[0]).write(place / "made.safetensors")
    folder = place / "out" / ("linear" if name in ("dense", "scaled", "wide") else "conv")
    if not folder.exists():
        result = cli("dump", "--capture", path, "--layout", layout, "--out", place / "out")
        assert result.exit_code == 0, result.output
    found = opened(folder)
    layer = layer_of(found.capture, found.manifest.get("steps") or [], found.manifest["array"].get("row", 8))
    return Set(folder, found.manifest, layer, found.tensors)
