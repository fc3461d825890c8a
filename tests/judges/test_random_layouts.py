"""Random layouts with every key of the notation: the decoder reads the sets, `verify` and the Python API agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qexport as qx
from tests.conftest import cli
from tests.judges.decoder import check
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, matmul
from tests.judges.notation import decode

AXES = {
    "weight": "oc ic kh kw",
    "bias": "oc",
    "input": "n ic iy ix",
    "input_padded": "n ic py px",
    "patches": "n ic kh kw oy ox",
    "accumulator": "n oc oy ox",
    "code": "n oc oy ox",
    "gain_by": "oc",
    "limit_table": "oc level",
}
MATRICES = {"input": "n m k", "input2": "n k p", "accumulator": "n m p", "code": "n m p", "gain_by": "p"}


def capture(rng: np.random.Generator, matrices: bool) -> Capture:
    steps: list[dict[str, Any]] = [
        {"op": "multiply", "by": rng.integers(-9, 9, 3).tolist(), "name": "gain"},
        {"op": "threshold", "table": np.sort(rng.permutation(400)[:9].reshape(3, 3) - 200).tolist(), "first": -1},
    ]
    steps[1]["name"] = "limit"
    steps += [{"op": "clamp", "low": -1, "high": 2, "name": "code"}]
    six, four = codes(6, True, 0.5, int(rng.integers(-32, 32))), codes(4, False, 0.25, int(rng.integers(0, 16)))
    if matrices:
        n, m, k = (int(v) for v in rng.integers(1, 6, 3))
        a, b = rng.integers(-32, 32, (n, m, k)), rng.integers(0, 16, (n, k, 3))
        a[0, 0, 0] = (six.get("zero_point", 0) + 33) % 64 - 32
        return matmul(a, b, {"input": six, "input2": four}, steps, name="random")
    ic, kernel = int(rng.integers(1, 6)), [int(v) for v in rng.integers(1, 3, 2)]
    w = rng.integers(-32, 32, (3, ic, *kernel))
    x = rng.integers(0, 16, (int(rng.integers(1, 3)), ic, *(int(v) for v in rng.integers(2, 7, 2))))
    formats = {"weight": codes(6, True, 0.5), "input": four}
    padding = [int(v) for v in rng.integers(0, 3, 4)]
    return conv(w, x, formats, steps, rng.integers(-99, 99, 3), padding=padding, name="random")


class Memory:
    """A random memory of a tensor."""

    def __init__(self, rng: np.random.Generator, tensor: str, axes: str, sizes: dict[str, int], array: dict[str, int]):
        left, parts = [], list[str]()
        keys: dict[str, Any] = {}
        banks = set[str]()  # what may not be a file axis: the fastest part of a split
        for axis in axes.split():
            kind = rng.choice(["alone", "alone", "split", "next", "around"])
            if kind == "alone":
                left.append(axis)
                parts.append(axis)
                continue
            tile, inner = f"{tensor[:3]}{len(array)}t", f"{tensor[:3]}{len(array)}r"
            array[inner] = int(rng.integers(1, 5))
            plus = int(rng.integers(1, 3))
            width = {"split": inner, "next": f"{inner}+{plus}", "around": f"1+{inner}+1"}[str(kind)]
            left.append(f"({tile} {width})")
            parts += [tile, inner]
            banks.add(inner)
        rng.shuffle(parts)
        files = [part for part in parts[: int(rng.integers(0, 3))] if part not in banks]
        rest = [part for part in parts if part not in files]
        cut = int(rng.integers(0, len(rest) + 1))
        address, lanes = rest[:cut], rest[cut:]
        if rng.integers(4) == 0:
            again = f"{tensor[:3]}again"
            array[again] = int(rng.integers(1, 4))
            pick = int(rng.integers(3))
            (files, address, lanes)[pick].append(again)
        if lanes and address and rng.integers(3) == 0:
            keys["skew"] = str(rng.choice(lanes))
            if rng.integers(2):
                keys["skew_by"] = int(rng.integers(1, 4))
        backwards = [["~" * int(rng.integers(2)) + part for part in group] for group in (address, lanes)]
        right = " | ".join([" ".join(files), *(" ".join(group) for group in backwards)])
        self.text = f"{axes} -> {right}".replace(axes, " ".join(left), 1)
        name = tensor + "".join(f"_{{{part}}}" for part in files)
        radix = str(rng.choice(["hex", "bin", "dec"]))
        if rng.integers(2) and files:
            keys["first"] = {files[0]: 1} if rng.integers(2) else 1
        if rng.integers(2):
            keys["between"] = str(rng.choice([" ", "_", ","] if radix != "dec" else [" ", ","]))
        if rng.integers(3) == 0:
            keys["per_line"] = int(rng.integers(2, 6))
            if rng.integers(2):
                keys["group"] = keys["per_line"] * int(rng.integers(1, 4))
        elif rng.integers(3) == 0:
            keys["group"] = int(rng.integers(1, 6))
        if rng.integers(3) == 0:
            keys["word_end"] = str(rng.choice([" ", ",", ";"]))
        if radix == "hex" and rng.integers(2):
            keys["case"] = "upper"
        if radix == "dec" and rng.integers(2):
            keys["pad"] = int(rng.integers(1, 9))
        if rng.integers(4) == 0:
            keys["newline"] = "crlf"
        if rng.integers(4) == 0:
            keys["header"] = ["// a", "// b 7"]
        self.said = {"name": tensor, "tensor": tensor, "order": self.text, "file": f"{name}.txt", "radix": radix} | keys

    def toml(self) -> str:
        def value(v: Any) -> str:
            return "{" + ", ".join(f"{k} = {w}" for k, w in v.items()) + "}" if isinstance(v, dict) else json.dumps(v)

        return "[[memory]]\n" + "".join(f"{key} = {value(v)}\n" for key, v in self.said.items())


def judged(seed: int, root: Path) -> None:
    rng = np.random.default_rng(seed)
    matrices = rng.integers(4) == 0
    made = capture(rng, bool(matrices))
    array: dict[str, int] = {}
    names = MATRICES if matrices else AXES
    tensors = rng.permutation(list(names))[: int(rng.integers(2, 5))].tolist()
    memories = [Memory(rng, tensor, names[tensor], {}, array) for tensor in tensors]
    root.mkdir(parents=True, exist_ok=True)
    sizes = "".join(f"{axis} = {size}\n" for axis, size in array.items())
    (root / "l.toml").write_text('name = "l"\n[array]\n' + sizes + "".join(m.toml() for m in memories))
    path = made.write(root / "made.safetensors")
    done = cli("dump", "--capture", path, "--layout", root / "l.toml", "--out", root / "out")
    assert done.exit_code == 0, done.output + (root / "l.toml").read_text()
    folder = root / "out" / "random"
    assert check(folder) == []
    verified = cli("verify", folder)
    assert verified.exit_code == 0, verified.output
    read, vectors = decode(folder), qx.open(folder)
    for tensor in tensors:
        assert np.array_equal(vectors[tensor], read[tensor]), tensor


@pytest.mark.parametrize("seed", range(30))
def test_random_layouts(seed: int, tmp_path: Path) -> None:
    judged(seed, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize("part", range(10))
def test_three_hundred_random_layouts(part: int, tmp_path: Path) -> None:
    for seed in range(1000 + 30 * part, 1030 + 30 * part):
        judged(seed, tmp_path / str(seed))
