"""The cocotb bench of a set: a Python file that a team runs with cocotb 2 and edits by hand, without qexport."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qexport.bench.context import CYCLES_SPARE, BenchMemory, bench_streams, render, work
from qexport.bench.design import Design
from qexport.bench.interface import interface
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
    streams = bench_streams(manifest, offered)

    def from_target(path: Path) -> str:
        return repr(Path(os.path.relpath(path.resolve(), target.resolve())).as_posix())

    context: dict[str, Any] = {
        "slug": slug,
        "set": from_target(folder),
        "sources": [f"(HERE / {from_target(file)}).resolve()" for file in design.files] or ['SET / "dut.sv"'],
        "top": top,
        "cycles_spare": CYCLES_SPARE,
        "streams": streams,
        "shapes": [list(entry.shape) for entry in manifest.memories],
        "texts": {s.memory.name: _place(s.memory) for s in streams if not s.driven},
        **work(manifest.layer, manifest.memories, sum(stream.words for stream in offered), dict(manifest.array)),
    }
    return render({f"test_{slug}.py": "cocotb/bench.py.j2"}, context)


def _place(memory: BenchMemory) -> str:
    """What the FAIL lines call a lane, for an f-string of the variables of its index."""
    labels = memory.index_text.replace("%0d", "").split()
    return " ".join(f"{label}{{{variable}}}" for label, (_, variable) in zip(labels, memory.index, strict=True))
