"""An independent reader of vector sets, written from the contract alone; it shares no code with the producer.

`decode` untiles a set's files (notation.py); `check` also recomputes each tensor and says what differs."""
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from tests.judges.golden import (
    PARAMETERS,
    Capture,
    accumulated,
    bias_of,
    channels,
    default_bits,
    levels,
    ranges,
    raw_of,
    raw_reach,
    read_capture,
    run_steps,
    windows,
)
from tests.judges.notation import Ints, Json, code_range, decode, read_memory, read_order

__all__ = ["check", "decode", "read_memory", "read_order"]

def recompute(manifest: Json, capture: Capture) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """Every tensor by its definition; the range [2, channel] of those without a format of their own."""
    resolved = replace(capture, layer=manifest["layer"], steps=manifest.get("steps"))
    tensors = {name: array.astype(np.int64) for name, array in capture.tensors.items() if array.dtype.kind in "iu"}
    sums, bounds = accumulated(resolved)
    axis, steps = 2 if resolved.layer["kind"] == "matmul" else 1, resolved.steps or []
    tensors |= {"accumulator": sums, "relu": np.maximum(sums, 0)}
    limits = {"accumulator": bounds, "relu": np.maximum(bounds, 0)}
    if "mul" in (out := manifest["formats"].get("output", {})):  # schema 1
        codes = tensors["relu"] * out["mul"] + 2 ** (out["shift"] - 1) >> out["shift"]
        tensors["output"] = codes.clip(max=2 ** out["bits"] - 1)
    elif resolved.steps is not None:
        bias = bias_of(resolved)
        plane: Any = sums.shape[2:] if axis == 1 else (1, 1)
        values, behind = run_steps(steps, sums, bias, axis), ranges(steps, bounds, bias, plane)
        for number, step in enumerate(steps):
            name = step.get("name", f"step{number}")
            tensors[name], limits[name] = values[number], behind[number]
            for key in PARAMETERS if step["op"] not in ("bias", "leaky_relu") else ():
                if key in step:
                    numbers = np.asarray(step[key], np.int64)
                    tensors[f"{name}_{key}"] = numbers if key == "table" else np.broadcast_to(numbers, len(bias))
        tensors["output"], limits["output"] = [sums, *values][-1], [bounds, *behind][-1]
    if "weight" in tensors:
        planes(manifest, resolved, tensors, limits)
    return tensors, limits

def planes(manifest: Json, capture: Capture, tensors: dict[str, Ints], limits: dict[str, Ints]) -> None:
    """What conv2d and linear have beside: padded inputs, patches, partial sums, addresses, folded biases."""
    layer, formats, row = capture.layer, manifest["formats"], manifest["array"].get("row")
    g, (top, bottom, left, right), KW = layer["groups"], layer["padding"], layer["kernel"][1]
    for name in ("weight", "input"):
        tensors[name] = tensors[name].reshape(*tensors[name].shape, *[1] * (4 - tensors[name].ndim))
    zero = formats["input"].get("zero_point", 0)
    padded = np.pad(tensors["input"], ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    y, x, _ = windows(layer, tensors["input"].shape[2:])  # type: ignore[arg-type]
    (n, _, PY, PX), (oc, icg, KH, _) = padded.shape, tensors["weight"].shape
    taps = ((np.arange(KH).reshape(-1, 1, 1, 1) * KW + np.arange(KW).reshape(-1, 1, 1)) * PY + y) * PX + x
    tensors |= {"input_padded": padded, "patches": padded[:, :, y, x], "acc_address": taps.transpose(2, 3, 0, 1)}
    if not np.any(formats["weight"].get("zero_point", 0)) and not levels(formats["weight"]):
        tensors["bias_folded"] = bias_of(capture) - zero * tensors["weight"].sum((1, 2, 3))
    raw = [raw_of(formats[name], array) for name, array in (("weight", tensors["weight"]), ("input", padded))]
    w, i = raw[0].reshape(g, -1, icg, KH, KW), raw[1].reshape(n, g, icg, PY, PX)
    tiles = [slice(c, c + (row or icg)) for c in range(0, icg, row or icg)]
    ends = np.sort([w * end for end in raw_reach(formats["input"])], axis=0)
    limits["psum"] = np.stack([[end[:, :, tile].sum(2).ravel() for tile in tiles] for end in ends]).reshape(2, -1)
    if any(mem["tensor"] == "psum" for mem in manifest["memories"]):  # large, so only where it is stored
        psum = [np.einsum("gocab,ngcyx->nabgoyx", w[:, :, tile], i[:, :, tile]) for tile in tiles]
        tensors["psum"] = np.stack(psum, axis=1).reshape(n, -1, *layer["kernel"], oc, PY, PX)

def check_memory(root: Path, manifest: Json, mem: Json, tensors: dict[str, Ints], limits: dict[str, Ints]) -> list[str]:
    stored, place, tensor = read_memory(root, mem, manifest["array"], manifest["memories"])
    low, high = code_range(mem)
    name, formats = mem["tensor"], manifest["formats"]
    want = tensors[name]
    if want.ndim < len(mem["shape"]):  # the axis `bit`
        limit = limits.get(name, want)
        wide = name in ("bias", "bias_folded", "addend")
        width = default_bits(int(limit.min()), int(limit.max()), 32 if wide else 16)
        of = {"input_padded": "input", "patches": "input"}.get(name, name)
        if of in formats and of != "accumulator":
            width = formats[of]["bits"]
        width = int(want.max()).bit_length() or 1 if name == "acc_address" else width
        want = want[..., None] >> np.arange(width)[::-1] & 1
    if list(want.shape) != mem["shape"] or (mem["overflow"] == "error" and (tensor != want).any()):
        return [f"{mem['name']}: untiling does not give the tensor {name} of shape {want.shape}"]
    operand = {"input": "input", "input_padded": "input", "patches": "input", "input2": "input2"}.get(name)
    fill = formats[operand].get("zero_point", 0) if operand else 0
    want = np.where(place < 0, fill, want.ravel()[place]) + mem["offset"]
    want = {"error": want, "wrap": (want - low) % (1 << mem["bits"]) + low,
            "saturate": want.clip(low, high)}[mem["overflow"]]
    return [f"{mem['name']}: {stored[f, w, i]} for {want[f, w, i]} at file {f}, word {w}, lane {i}, or more"
            for f, w, i in np.argwhere(stored != want)[:1]]

def check(folder: str | Path) -> list[str]:
    """Every discrepancy, none when all is well; what cannot be read is one, and ends the check."""
    root, problems, at = Path(folder), list[str](), "manifest.json"
    try:
        manifest = json.loads((root / at).read_bytes())
        at, line = "SHA256SUMS", r"([0-9a-f]{64}) [ *](.+)\n"
        listed = (root / at).read_bytes().decode()
        found = {(path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
                 for path in root.rglob("*") if not path.is_dir() and path != root / at}
        fs = [f for m in manifest["memories"] for f in m["files"]] + manifest["bench"] + [manifest["capture"]]
        named = {(f["path"], f["sha256"]) for f in fs} | {f for f in found if f[0] == "manifest.json"}
        for source, pairs in (("manifest.json", named), (at, {(f, s) for s, f in re.findall(line, listed)})):
            problems += sorted({f"{f}: missing, stray or not as in {source}" for f, _ in pairs ^ found})
        problems += ["SHA256SUMS: a malformed line"] * bool(re.sub(line, "", listed))
        at = manifest["capture"]["path"]
        capture = read_capture(root / at)
        tensors, limits = recompute(manifest, capture)
        observed, bounds = ([int(t.min()), int(t.max())] for t in (tensors["accumulator"], limits["accumulator"]))
        scales = [manifest["formats"][codes]["scale"] for codes in ("weight", "input2", "input")
                  if codes in manifest["formats"]]
        if manifest["layer"]["kind"] == "sum":
            scales = [manifest["formats"]["accumulator"]["scale"], 1]
        step = np.multiply(*scales) * np.ones(channels(capture))  # of each output channel
        true: Json = {"observed": observed, "bounds": bounds, "signed": True, "scale": np.multiply(*scales),
                      "bits": max(b ^ (b >> 63) for b in bounds).bit_length() + 1, "tolerance": min(step) / 2}
        if "reference" in capture.tensors:
            error = abs(tensors["accumulator"] * step[:, None, None] - capture.tensors["reference"])
            oc = np.lexsort((step, -error.max(axis=(0, 2, 3)) / step))[0]  # the channel nearest to its tolerance
            true |= {"mean_abs": error.mean(), "max_abs": error[:, oc].max(), "tolerance": step[oc] / 2}
        said = manifest["golden"] | manifest["formats"]["accumulator"]
        problems += [f"{key}: {said[key]}, recomputed {true[key]}" for key in true if not np.allclose(
            said[key], true[key], rtol=1e-9 * isinstance(true[key], float), atol=1e-9 * key.endswith("_abs"))]
        problems += ["golden.reference: wrong"] * ((said["reference"] is None) is ("reference" in capture.tensors))
        for at, mem in ((mem["name"], mem) for mem in manifest["memories"]):
            problems += check_memory(root, manifest, mem, tensors, limits)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError,
            safetensors.SafetensorError) as error:
        problems.append(f"{at}: {error!r}; the check ends here")
    return problems
