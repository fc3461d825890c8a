"""Whole sets of every operation, read by the decoder alone: presets, hashes, every tensor, and what verify finds."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import cli
from tests.judges.decoder import check
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, linear, matmul, total

STEPS: list[dict[str, Any]] = [
    {"op": "multiply", "by": [3, -5, 7], "name": "gain"},
    {"op": "add", "value": [100, -200, 300]},
    {"op": "shift_right", "by": [4, 5, 6], "round": "half_even"},
    {"op": "clamp", "low": -128, "high": 127, "name": "code"},
]
POOLED: list[dict[str, Any]] = [*STEPS, {"op": "max_pool", "kernel": [2, 2], "name": "pooled"}]


def capture(kind: str) -> Capture:
    rng = np.random.default_rng(len(kind))
    eight, output = codes(8, True, 0.5, 3), codes(8, True, 0.25)
    match kind:
        case "conv2d":
            formats = {"weight": codes(8, True, 0.5), "input": eight, "output": output}
            w, x = rng.integers(-128, 128, (3, 4, 3, 3)), rng.integers(-128, 128, (2, 4, 6, 6))
            return conv(w, x, formats, POOLED, rng.integers(-999, 999, 3), padding=[1, 1, 1, 1], name=kind)
        case "zero points of weights":
            formats = {"weight": codes(8, False, 0.5, [1, 128, 255]), "input": eight, "output": output}
            w, x = rng.integers(0, 256, (3, 4, 3, 3)), rng.integers(-128, 128, (2, 4, 6, 6))
            return conv(w, x, formats, STEPS, rng.integers(-999, 999, 3), padding=[1, 0, 2, 1], name=kind)
        case "bias behind":
            formats = {"weight": codes(8, True, 0.5), "input": eight, "output": output}
            w, x = rng.integers(-128, 128, (3, 4, 3, 3)), rng.integers(-128, 128, (2, 4, 6, 6))
            steps = [*STEPS[:3], {"op": "bias", "shift": 1}, STEPS[3]]
            return conv(w, x, formats, steps, rng.integers(-999, 999, 3), name=kind)
        case "levels":
            formats = {"weight": codes(2, False, 0.5) | {"levels": [-3, -1, 1, 3]}, "input": codes(2, False, 1.0)}
            w, x = rng.integers(0, 4, (3, 4, 3, 3)), rng.integers(0, 4, (2, 4, 6, 6))
            return conv(w, x, formats | {"output": output}, STEPS, padding=[1, 1, 1, 1], name=kind)
        case "bipolar":
            bipolar = codes(1, False) | {"levels": [-1, 1]}
            w, x = rng.integers(0, 2, (3, 4, 3, 3)), rng.integers(0, 2, (2, 4, 6, 6))
            return conv(w, x, {"weight": bipolar, "input": bipolar, "output": output}, STEPS, name=kind)
        case "linear":
            formats = {"weight": codes(8, True, 0.5), "input": eight, "output": output}
            return linear(rng.integers(-128, 128, (3, 19)), rng.integers(-128, 128, (5, 19)), formats, STEPS)
        case "matmul":
            formats = {"input": eight, "input2": codes(8, False, 0.5, 200), "output": output}
            a, b = rng.integers(-128, 128, (2, 5, 9)), rng.integers(0, 256, (2, 9, 3))
            return matmul(a, b, formats, STEPS, rng.integers(-999, 999, (2, 5, 3)))
        case "minifloats":
            e2m1 = codes(4, False, 0.5) | {"code": "e2m1"}
            a, b = rng.integers(0, 16, (2, 5, 64)), rng.integers(0, 16, (2, 64, 3))
            return matmul(a, b, {"input": e2m1, "input2": e2m1, "output": output}, STEPS, name=kind)
        case "sum":
            formats = {"input": eight, "input2": codes(8, False, 0.5, 7), "accumulator": {"scale": 0.1}}
            a, b = rng.integers(-128, 128, (2, 3, 6, 6)), rng.integers(0, 256, (2, 3, 6, 6))
            return total([a, b], [3, -1], formats | {"output": output}, POOLED)
    formats = {"input": eight, "accumulator": {"scale": 0.1}, "output": output}
    return total([rng.integers(-128, 128, (2, 3, 6, 6))], [1], formats, POOLED, name="one")


KINDS = ["conv2d", "zero points of weights", "bias behind", "levels", "bipolar", "linear", "matmul", "minifloats"]
KINDS += ["sum", "sum of one"]
LAYOUTS = {"matmul": "matmul", "minifloats": "matmul", "sum": "sum", "sum of one": "sum"}


def dumped(kind: str, root: Path, layout: str) -> Path:
    made = capture(kind)
    path = made.write(root / "made.safetensors")
    done = cli("dump", "--capture", path, "--layout", layout, "--out", root / "out")
    assert done.exit_code == 0, done.output
    return root / "out" / "".join(c if c.isalnum() else "_" for c in made.layer["name"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_recomputes_all_of_a_set(kind: str, tmp_path: Path) -> None:
    assert check(dumped(kind, tmp_path, LAYOUTS.get(kind, "default"))) == []


@pytest.mark.parametrize("preset", ["ws8x8", "stream_nhwc32", "decimals", "hwc_bytes_int8", "int8"])
@pytest.mark.parametrize("kind", ["conv2d", "zero points of weights", "bias behind"])
def test_presets_of_layers_with_steps(kind: str, preset: str, tmp_path: Path) -> None:
    folder = dumped(kind, tmp_path, preset)
    assert check(folder) == []
    assert cli("verify", folder).exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_dump_of_the_sets_own_capture_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    layout = LAYOUTS.get(kind, "default")
    first = dumped(kind, tmp_path, layout)
    done = cli("dump", "--capture", first / "capture.safetensors", "--layout", layout, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in first.iterdir())
    again = tmp_path / "again" / first.name
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
def test_the_bench_passes_with_the_sets_own_design(kind: str, simulator: str, tmp_path: Path) -> None:
    folder = dumped(kind, tmp_path, LAYOUTS.get(kind, "default"))
    done = cli("simulate", folder, "--simulator", simulator)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kind", KINDS)
def test_verify_finds_one_changed_number(kind: str, tmp_path: Path) -> None:
    """Of the manifest's steps and of each result's file, with hashes made to fit: the golden itself objects."""
    folder = dumped(kind, tmp_path, LAYOUTS.get(kind, "default"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for number, step in enumerate(manifest["steps"]):
        for key in step.keys() & {"by", "value", "high"}:
            changed = json.loads(json.dumps(manifest))
            target = changed["steps"][number]
            if isinstance(target[key], list):
                target[key][0] += 1
            else:
                target[key] += 1
            rehashed(folder, tmp_path / "changed", changed)
            verified = cli("verify", tmp_path / "changed")
            assert verified.exit_code == 1, (number, key, verified.output)


def rehashed(folder: Path, to: Path, manifest: dict[str, Any]) -> None:
    """A copy with that manifest, its line of SHA256SUMS made new."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    text = json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    (to / "manifest.json").write_text(text)
    sums = (to / "SHA256SUMS").read_text().splitlines()
    made = hashlib.sha256(text.encode()).hexdigest()
    sums = [f"{made}{line[64:]}" if line.endswith("manifest.json") else line for line in sums]
    (to / "SHA256SUMS").write_text("\n".join(sums) + "\n")
