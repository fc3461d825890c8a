"""An independent reader of vector sets, written from the contract alone; it shares no code with the producer.

`decode` untiles a set's files (notation.py); `check` also recomputes each tensor and says what differs."""
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tests.judges.arithmetic import expected
from tests.judges.notation import code_range, decode, read_memory, read_order

Json = dict[str, Any]
Ints = NDArray[np.int64]
__all__ = ["check", "decode", "read_memory", "read_order"]

def recompute(manifest: Json, capture: dict[str, Ints]) -> tuple[dict[str, Ints], Ints]:
    """Every tensor by its definition; the least and greatest accumulator at each output position."""
    layer, g, row = manifest["layer"], manifest["layer"]["groups"], manifest["array"].get("row")
    (sy, sx), (dy, dx), (top, bottom, left, right) = layer["stride"], layer["dilation"], layer["padding"]
    tensors = {name: capture[name].astype(np.int64) for name in capture.keys() & {"weight", "bias", "input"}}
    zero, zeros = (np.array(manifest["formats"][codes].get("zero_point", 0)) for codes in ("input", "weight"))
    padded = np.pad(tensors["input"], ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    (oc, icg, KH, KW), (n, _, PY, PX) = tensors["weight"].shape, padded.shape
    OY, OX = (PY - dy * (KH - 1) - 1) // sy + 1, (PX - dx * (KW - 1) - 1) // sx + 1
    kh, kw, oy, ox = np.ogrid[:KH, :KW, :OY, :OX]
    y, x = oy * sy + kh * dy, ox * sx + kw * dx  # the padded position that a tap meets at an output
    w, i = tensors["weight"].reshape(g, -1, icg, KH, KW), padded.reshape(n, g, icg, PY, PX)
    bias, real = tensors.get("bias", np.zeros(oc, np.int64)), tensors["weight"] - zeros.reshape(-1, 1, 1, 1)
    sums = np.einsum("gocab,ngcabyx->ngoyx", real.reshape(w.shape), i[:, :, :, y, x] - zero).reshape(n, oc, OY, OX)
    sums += bias[:, None, None]
    tensors |= {"input_padded": padded, "patches": padded[:, :, y, x], "accumulator": sums,
                "acc_address": (((kh * KW + kw) * PY + y) * PX + x).transpose(2, 3, 0, 1),
                "relu": np.maximum(sums, 0), "bias_folded": bias - zero * tensors["weight"].sum((1, 2, 3))}
    if "mul" in (out := manifest["formats"].get("output", {})):  # schema 1
        codes = tensors["relu"] * out["mul"] + 2 ** (out["shift"] - 1) >> out["shift"]
        tensors["output"] = codes.clip(max=2 ** out["bits"] - 1)
    if "steps" in manifest:
        codes = sums.swapaxes(0, 1)
        for number, step in enumerate(manifest["steps"]):
            for at, channel in enumerate(codes := codes.copy()):
                given = {int(v): expected(step, int(v), at, int(bias[at])) for v in np.unique(channel)}
                channel[:] = np.vectorize(given.get)(channel)
            tensors[step.get("name", f"step{number}")] = codes.swapaxes(0, 1)
        tensors["output"] = codes.swapaxes(0, 1)
    if any(mem["tensor"] == "psum" for mem in manifest["memories"]):  # large, so only where it is stored
        tiles = [slice(c, c + (row or icg)) for c in range(0, icg, row or icg)]
        psum = [np.einsum("gocab,ngcyx->nabgoyx", w[:, :, tile], i[:, :, tile]) for tile in tiles]
        tensors["psum"] = np.stack(psum, axis=1).reshape(n, -1, KH, KW, oc, PY, PX)
    inside = (y >= top) & (y < PY - bottom) & (x >= left) & (x < PX - right)
    ends = [real * (end - zero) for end in code_range(manifest["formats"]["input"])]
    return tensors, np.tensordot(np.sort(ends, axis=0).sum(axis=2), inside, 2) + bias[:, None, None]

def check_memory(root: Path, manifest: Json, mem: Json, tensors: dict[str, Ints]) -> list[str]:
    stored, place, tensor = read_memory(root, mem, manifest["array"], manifest["memories"])
    low, high = code_range(mem)
    name, formats = mem["tensor"], manifest["formats"]
    want = tensors[name]
    if want.ndim < len(mem["shape"]):  # the axis `bit`
        width = {"bias": 32, "bias_folded": 32, "psum": 16, "accumulator": 16, "relu": 16,
                 "acc_address": int(want.max()).bit_length() or 1
                 }.get(name, formats.get(name, formats["input"])["bits"])
        want = want[..., None] >> np.arange(width)[::-1] & 1
    if list(want.shape) != mem["shape"] or (mem["overflow"] == "error" and (tensor != want).any()):
        return [f"{mem['name']}: untiling does not give the tensor {name} of shape {want.shape}"]
    fill = formats["input"].get("zero_point", 0) * (name in ("input", "input_padded", "patches"))
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
        tensors, reach = recompute(manifest, capture := safetensors.numpy.load_file(root / at))
        observed, bounds = ([int(t.min()), int(t.max())] for t in (tensors["accumulator"], reach))
        scales = [manifest["formats"][codes]["scale"] for codes in ("weight", "input")]
        step = np.multiply(*scales) * np.ones(len(capture["weight"]))  # of each output channel
        true: Json = {"observed": observed, "bounds": bounds, "signed": True, "scale": np.multiply(*scales),
                      "bits": max(b ^ (b >> 63) for b in bounds).bit_length() + 1, "tolerance": min(step) / 2}
        if "reference" in capture:
            error = abs(tensors["accumulator"] * step[:, None, None] - capture["reference"])
            oc = np.lexsort((step, -error.max(axis=(0, 2, 3)) / step))[0]  # the channel nearest to its tolerance
            true |= {"mean_abs": error.mean(), "max_abs": error[:, oc].max(), "tolerance": step[oc] / 2}
        said = manifest["golden"] | manifest["formats"]["accumulator"]
        problems += [f"{key}: {said[key]}, recomputed {true[key]}" for key in true if not np.allclose(
            said[key], true[key], rtol=1e-9 * isinstance(true[key], float), atol=1e-9 * key.endswith("_abs"))]
        problems += ["golden.reference: wrong"] * ((said["reference"] is None) is ("reference" in capture))
        for at, mem in ((mem["name"], mem) for mem in manifest["memories"]):
            problems += check_memory(root, manifest, mem, tensors)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError,
            safetensors.SafetensorError) as error:
        problems.append(f"{at}: {error!r}; the check ends here")
    return problems
