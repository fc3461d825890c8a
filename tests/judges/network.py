"""A second evaluator of network files: the contract alone, on the judge's own arithmetic of a layer."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from tests.judges.golden import Capture, accumulated, bias_of, run_steps
from tests.judges.notation import Ints, Json


def evaluate(path: Path, codes: dict[str, Ints]) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """The output codes of every layer of a network file, and the operands of each as LAYER.OPERAND."""
    with safe_open(path, "np") as file:
        (text,) = file.metadata().values()
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dictionary)
    said = json.loads(text)
    assert text == json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert said["schema"] == "qexport.network/1"
    outputs, seen = dict(codes), {}
    for one in said["layers"]:
        name, kind = one["layer"]["name"], one["layer"]["kind"]
        tensors = {key: held[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in held}
        for operand, sources in one["operands"].items():
            tensors[operand] = looked_at(one, operand, [outputs[source] for source in sources])
            seen[f"{name}.{operand}"] = tensors[operand]
        steps = [
            step | {key.split(".")[-1]: held[key].tolist() for key in held if key.startswith(f"{name}.steps.{at}.")}
            for at, step in enumerate(one["steps"])
        ]
        capture = Capture(one["layer"], one["formats"], tensors, steps)
        sums, _ = accumulated(capture)
        found = run_steps(steps, sums, bias_of(capture), 2 if kind == "matmul" else 1)
        outputs[name] = found[-1] if found else sums
    return outputs, seen


def looked_at(one: Json, operand: str, parts: list[Ints]) -> Ints:
    codes = np.concatenate(parts, axis=1)
    for what, *numbers in one.get("view", {}).get(operand, []):
        if what == "reshape":
            codes = codes.reshape([codes.shape[at] if size == 0 else size for at, size in enumerate(numbers)])
        else:
            codes = codes.transpose(numbers)
    return codes
