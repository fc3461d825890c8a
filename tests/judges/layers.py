"""Captures built from the contract alone, what a dump makes of them, and whether each number of the set is right.

Nothing here is the product's: files are written with the safetensors library, sets are read by the own decoder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.conftest import cli
from tests.judges.golden import (
    PARAMETERS,
    Capture,
    accumulated,
    bias_of,
    channels,
    default_bits,
    ranges,
    read_capture,
    run_steps,
)
from tests.judges.notation import Ints, Json, code_range, decode

# ---- captures -------------------------------------------------------------------------------------------------------


def codes(bits: int, signed: bool, scale: Any = 1.0, zero_point: Any = 0) -> Json:
    return {"bits": bits, "signed": signed, "scale": scale} | ({"zero_point": zero_point} if zero_point != 0 else {})


def conv(
    weight: ArrayLike,
    input: ArrayLike,
    formats: Json,
    steps: list[Json] | None = None,
    bias: ArrayLike | None = None,
    name: str = "conv",
    **layer: Any,
) -> Capture:
    w, x = np.asarray(weight, np.int32), np.asarray(input, np.int32)
    said = {"name": name, "index": 0, "kind": "conv2d", "in_channels": x.shape[1], "out_channels": w.shape[0]}
    said |= {"kernel": list(w.shape[2:])} if w.ndim == 4 else {"kernel": [1, 1]}
    tensors: dict[str, NDArray[Any]] = {"weight": w, "input": x}
    if bias is not None:
        tensors["bias"] = np.asarray(bias, np.int64)
    return Capture(said | layer, formats, tensors, steps)


def linear(weight: ArrayLike, input: ArrayLike, formats: Json, *rest: Any, **more: Any) -> Capture:
    return conv(weight, input, formats, *rest, **({"name": "linear", "kind": "linear"} | more))


def matmul(
    input: ArrayLike,
    input2: ArrayLike,
    formats: Json,
    steps: list[Json] | None = None,
    addend: ArrayLike | None = None,
    name: str = "matmul",
) -> Capture:
    tensors: dict[str, NDArray[Any]] = {
        "input": np.asarray(input, np.int32),
        "input2": np.asarray(input2, np.int32),
    }
    if addend is not None:
        tensors["addend"] = np.asarray(addend, np.int64)
    return Capture({"name": name, "index": 0, "kind": "matmul"}, formats, tensors, steps)


def total(
    inputs: Sequence[ArrayLike], mul: list[int], formats: Json, steps: list[Json] | None = None, name: str = "sum"
) -> Capture:
    """The operation `sum` of one or two tensors."""
    named = zip(("input", "input2"), inputs, strict=False)
    tensors = {key: np.asarray(array, np.int32) for key, array in named}
    return Capture({"name": name, "index": 0, "kind": "sum", "mul": mul}, formats, tensors, steps)


# ---- sets -----------------------------------------------------------------------------------------------------------

AXES = {
    "weight": "oc ic kh kw",
    "input": "n ic iy ix",
    "bias": "oc",
    "bias_folded": "oc",
    "input_padded": "n ic py px",
    "patches": "n ic kh kw oy ox",
}
MATRICES = {"input": "n m k", "input2": "n k p", "addend": "n m p"}


def axes_of(capture: Capture, tensor: str, steps: Sequence[Json]) -> str:
    """The axes of a tensor in this operation, by its name."""
    matrices = capture.layer["kind"] == "matmul"
    channel, result = ("p", "n m p") if matrices else ("oc", "n oc oy ox")
    for number, step in enumerate(steps):
        name = step.get("name", f"step{number}")
        if tensor == f"{name}_table":
            return "level" if step["op"] == "lookup" else f"{channel} level"
        if tensor.startswith(name + "_") and tensor[len(name) + 1 :] in PARAMETERS:
            return channel
    if matrices:
        return MATRICES.get(tensor, result)
    return {"input2": "n ic iy ix"}.get(tensor) or AXES.get(tensor, result)


def plain_layout(capture: Capture, tensors: Sequence[str], steps: Sequence[Json] = ()) -> str:
    """A layout of one decimal file for each tensor, in the tensor's own order, one element a line."""
    lines = ['name = "plain"']
    for tensor in tensors:
        axes = axes_of(capture, tensor, steps)
        lines += ["[[memory]]", f'name = "{tensor}"', f'tensor = "{tensor}"', f'order = "{axes} -> | {axes} |"']
        lines += [f'file = "{tensor}.txt"', 'radix = "dec"']
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Judged:
    """A set that was dumped: its manifest, what its files decode to, and the capture that lies in it."""

    folder: Path
    manifest: Json
    tensors: dict[str, Ints]
    capture: Capture

    @property
    def steps(self) -> list[Json]:
        found: list[Json] = self.manifest["steps"]
        return found

    @property
    def output(self) -> Ints:
        return self.tensors["output"]


def names_of(steps: Sequence[Json]) -> list[str]:
    return [step.get("name", f"step{number}") for number, step in enumerate(steps)]


def dumped(capture: Capture, root: Path, tensors: Sequence[str] | None = None, *options: str) -> Judged:
    """A capture through `qexport dump`; by default operands, accumulator, every step's value and the output."""
    root.mkdir(parents=True, exist_ok=True)
    steps = capture.steps or []
    if tensors is None:
        tensors = [*capture.tensors, "accumulator", *names_of(steps), "output"]
        tensors = [name for name in tensors if not name.startswith(("reference", "next_input"))]
    (root / "plain.toml").write_text(plain_layout(capture, tensors, steps))
    path = capture.write(root / "made.safetensors")
    arguments = ["--capture", path, "--layout", root / "plain.toml", "--out", root / "out", *options]
    result = cli("dump", *arguments)
    assert result.exit_code == 0, result.output
    return opened(root / "out" / "".join(c if c.isalnum() else "_" for c in capture.layer["name"]))


def opened(folder: Path) -> Judged:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    return Judged(folder, manifest, decode(folder), read_capture(folder / manifest["capture"]["path"]))


def refused(capture: Capture, root: Path, *needles: str, tensors: Sequence[str] = ("input", "accumulator")) -> str:
    """The dump ends with 2 and one line that holds every needle, and leaves nothing behind."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "plain.toml").write_text(plain_layout(capture, tensors, ()))
    path = capture.write(root / "made.safetensors")
    result = cli("dump", "--capture", path, "--layout", root / "plain.toml", "--out", root / "out")
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    for needle in needles:
        assert needle in lines[0], lines[0]
    assert not (root / "out").exists() or not list((root / "out").iterdir())
    return lines[0]


def listed(value: Any) -> Any:
    return [listed(v) for v in value] if isinstance(value, list | tuple) else value


def same_steps(given: Sequence[Json], said: Sequence[Json]) -> bool:
    """Whether the manifest says the steps that were given: every field, a number for equal ones or the reverse."""

    def same(a: Any, b: Any) -> bool:
        a, b = (np.asarray(value) for value in (a, b))
        return bool(np.all(a == b)) if a.shape == b.shape or not a.ndim or not b.ndim else False

    return len(given) == len(said) and all(
        all(key in b and (same(a[key], b[key]) if not isinstance(a[key], str) else a[key] == b[key]) for key in a)
        for a, b in zip(given, said, strict=True)
    )


def judge(found: Judged, given: Capture | None = None) -> Judged:
    """Every tensor of the set by the judge's own arithmetic; the steps are those given, or those the set says."""
    capture, manifest = found.capture, found.manifest
    if given is not None:
        for name, array in given.tensors.items():
            assert name in capture.tensors, f"the set's capture lacks {name}"
            if not name.startswith(("reference", "next_input")):
                assert np.array_equal(capture.tensors[name].ravel(), array.ravel()), name
        if given.steps is not None:
            assert capture.steps is not None
            assert same_steps(given.steps, capture.steps)
            assert same_steps(given.steps, found.steps), "the manifest says other steps"
    steps = manifest.get("steps")
    if capture.steps is not None:
        assert same_steps(capture.steps, steps)
    resolved = replace(capture, steps=steps)
    axis = 2 if capture.layer["kind"] == "matmul" else 1
    accumulator, bounds = accumulated(resolved)
    bias = bias_of(resolved)
    said = manifest["formats"]["accumulator"]
    assert said["bounds"] == [int(bounds[0].min()), int(bounds[1].max())]
    assert said["observed"] == [int(accumulator.min()), int(accumulator.max())]
    want = dict(capture.tensors) | {"accumulator": accumulator, "relu": np.maximum(accumulator, 0)}
    for name in ("input", "weight"):
        if name in want and want[name].ndim == 2:
            want[name] = want[name][:, :, None, None]
    plane: Any = accumulator.shape[2:] if axis == 1 else (1, 1)
    limits = {"accumulator": bounds, "relu": np.maximum(bounds, 0)}
    if steps is not None:
        values, behind = run_steps(steps, accumulator, bias, axis), ranges(steps, bounds, bias, plane)
        for name, step, value, limit in zip(names_of(steps), steps, values, behind, strict=True):
            want[name], limits[name] = value, limit
            for key in PARAMETERS:
                if key in step and step["op"] not in ("bias", "leaky_relu"):
                    numbers = np.asarray(step[key], np.int64)
                    want[f"{name}_{key}"] = numbers if key == "table" else np.broadcast_to(numbers, channels(capture))
        want["output"], limits["output"] = ([accumulator, *values])[-1], ([bounds, *behind])[-1]
        if "output" in manifest["formats"]:
            low, high = code_range(manifest["formats"]["output"])
            assert low <= limits["output"].min() <= limits["output"].max() <= high
    for memory in manifest["memories"]:
        name, tensor = memory["name"], memory["tensor"]
        assert np.array_equal(found.tensors[name], want[tensor]), f"{name} differs"
        if tensor in manifest["formats"] and tensor != "accumulator":
            form = manifest["formats"][tensor]
            assert (memory["bits"], memory["signed"]) == (form["bits"], form.get("signed", False)), name
        else:
            limit = limits.get(tensor, want[tensor])
            bits = default_bits(int(limit.min()), int(limit.max()), 32 if tensor in ("bias", "addend") else 16)
            assert (memory["bits"], memory["signed"]) == (bits, True), f"{name}: {memory['bits']} for {bits} bits"
    return found
