"""What the package of a set holds beside its sizes: types, and functions of the steps behind the accumulators."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexport.bench.context import render
from qexport.bench.steps import functions_context
from qexport.core.codes import CodeFormat
from qexport.core.intformat import IntFormat
from qexport.core.operations.registry import operation
from qexport.core.steps import Pool, step_names, takes_bias
from qexport.sets.manifest import Manifest, capture_of

MOST_NUMBERS = 2**16  # of all steps, in a file that each compiler reads
_CODES = {"weight": "weight_t", "input": "code_t", "input2": "code2_t"}


@dataclass(frozen=True)
class TypeText:
    """A type of the package."""

    name: str
    bits: int
    signed: bool
    comment: str


def render_package(folder: Path, manifest: Manifest, context: Mapping[str, Any]) -> dict[str, str]:
    """Package and params.vh of the set whose capture stands in `folder`, by name; `context`: that of `base_context`."""
    templates = {f"{manifest.layer.slug}_pkg.sv": "sv/package.sv.j2", "params.vh": "sv/params.vh.j2"}
    return render(templates, {**context, **_types_and_functions(folder, manifest)})


def _types_and_functions(folder: Path, manifest: Manifest) -> dict[str, Any]:
    formats, steps = manifest.formats, manifest.chain
    types = [
        TypeText(_CODES[name], fmt.bits, fmt.signed, f"a code of {name}") for name, fmt in formats.operands.items()
    ]
    types.append(TypeText("acc_t", formats.accumulator.bits, formats.accumulator.signed, "an accumulator"))
    context: dict[str, Any] = {
        "types": types,
        "acc_signed": formats.accumulator.signed,
        "functions_note": None,
        "functions": [],
        "requantized": None,
    }
    if steps is None:
        return context | {"functions_note": "The set says of no steps behind the accumulators."}
    output: CodeFormat | IntFormat | None = formats.output
    if output is None:
        output = operation(capture_of(folder, manifest), None, steps).tensor("output").format
    types.append(TypeText("output_t", output.bits, output.signed, "a code of output"))
    if sum(array.size for step in steps for array in step.arrays.values()) > MOST_NUMBERS:
        said = f"The steps have more than {MOST_NUMBERS} numbers, too many for a package; dut.sv has their functions."
        return context | {"functions_note": said}
    bias = capture_of(folder, manifest).bias if takes_bias(steps) else None
    context |= functions_context(steps, "64'sd0" if bias is None else bias)
    if any(isinstance(step, Pool) for step in steps):
        return context | {"functions_note": "Pools stand among the steps: there is a function for each other step."}
    value = "64'(v)"
    for name in step_names(steps):
        value = f"step_{name}({value}, channel)"
    return context | {"requantized": value, "output_bits": output.bits}
