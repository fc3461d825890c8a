"""The cocotb bench of a set: a Python file that a team runs with cocotb 2 and edits by hand, without qexport."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qexport.bench.context import CYCLES_SPARE, BenchMemory, bench_memories, render, work
from qexport.bench.design import Design
from qexport.bench.interface import DRIVEN, interface, results_of_set
from qexport.bench.ports import connected, read_module
from qexport.sets.manifest import read_manifest


def render_cocotb(folder: Path, target: Path, dut: Sequence[Path] = (), top: str = "dut") -> dict[str, str]:
    """The cocotb bench of a set, by file name, for the folder `target`, from where it finds the set and the design.

    The module `top` of `dut` replaces the set's own design. Raises QexportError when the set has no bench or the
    module's ports do not fit.
    """
    manifest = read_manifest(folder)
    offered = interface(folder, manifest)
    slug = manifest.layer.slug
    design = Design.of(dut, top)
    if design:
        connected(read_module(design, folder / f"{slug}_pkg.sv", (folder,)), offered, design)
    array = dict(manifest.array)
    memories = {memory.name: memory for memory in bench_memories(manifest.memories, array)}
    driven = [memories[name] for name in DRIVEN if name in memories]
    results = [memories[entry.name] for entry in results_of_set(manifest)]
    sizes = {m.name: {axis.name: axis.size for axis in m.axes} for m in (*driven, *results)}

    def from_target(path: Path) -> str:
        return repr(Path(os.path.relpath(path.resolve(), target.resolve())).as_posix())

    context: dict[str, Any] = {
        "slug": slug,
        "set": from_target(folder),
        "sources": [f"(HERE / {from_target(file)}).resolve()" for file in design.files] or ['SET / "dut.sv"'],
        "top": top,
        "col": array["col"],
        "multipliers": array["row"] * array["col"],
        "cycles_spare": CYCLES_SPARE,
        "driven": driven,
        "compared": results,
        "shapes": {entry.name: list(entry.shape) for entry in manifest.memories},
        "places": {m.name: _place(m) for m in results},
        "lasts": {m.name: m.words // sizes[m.name].get("n", 1) for m in (*driven, *results)},
        **work(manifest.layer, driven, results, array),
    }
    return render({f"test_{slug}.py": "cocotb/bench.py.j2"}, context)


def _place(memory: BenchMemory) -> str:
    """What the FAIL lines call a lane at an address, for an f-string."""
    labels = memory.index_format.replace("%0d", "").split()
    return " ".join(f"{label}{{{value}}}" for label, value in zip(labels, memory.index_values.split(", "), strict=True))
