"""The cocotb bench of a set: a Python file that a team runs with cocotb 2 and edits by hand, without qexport."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qexport.bench.context import CYCLES_SPARE, BenchMemory, bench_streams, render, work
from qexport.bench.design import VHDL, Design, Dut
from qexport.bench.interface import interface
from qexport.bench.ports import connected, read_module
from qexport.errors import QexportError
from qexport.sets.manifest import read_manifest


def render_cocotb(folder: Path, target: Path, dut: Dut = (), top: str = "dut") -> dict[str, str]:
    """The cocotb bench of a set, by file name, for the folder `target`, from where it finds the set and the design.

    The module or entity `top` of `dut` replaces the set's own design. Raises QexportError when the set has no bench,
    the module's ports do not fit, or languages are mixed. Ports of an entity are looked at in the simulator alone.
    """
    manifest = read_manifest(folder)
    offered = interface(folder, manifest)
    slug = manifest.layer.slug
    design = Design.of(dut, top)
    vhdl = [file for file in design.files if file.suffix.lower() in VHDL]
    design.check_files()
    if vhdl and len(vhdl) < len(design.files):
        raise QexportError(
            f"dut: {vhdl[0]} stands among files of Verilog, which no simulator takes that this bench knows; "
            "`qexport simulate` makes Verilog of it"
        )
    if design and not vhdl:
        connected(read_module(design, folder / f"{slug}_pkg.sv", (folder,)), offered, design)
    streams = bench_streams(manifest, offered)

    def from_target(path: Path) -> str:
        return repr(Path(os.path.relpath(path.resolve(), target.resolve())).as_posix())

    def found(paths: Sequence[Path]) -> list[str]:
        return [f"(HERE / {from_target(path)}).resolve()" for path in paths]

    context: dict[str, Any] = {
        "slug": slug,
        "set": from_target(folder),
        "vhdl": bool(vhdl),
        "sources": [*([] if vhdl else [f'SET / "{slug}_pkg.sv"']), *(found(design.files) or ['SET / "dut.sv"'])],
        "includes": found(design.includes),
        "defines": repr({name: value for name, _, value in (define.partition("=") for define in design.defines)}),
        "top": design.top,
        "params": repr(dict(design.params)),
        "clock": design.clock,
        "reset": design.reset,
        "in_reset": 0 if design.reset_low else 1,
        "cycles_spare": CYCLES_SPARE,
        "streams": streams,
        "driven": [s.memory for s in streams if s.driven and s.needed],
        "shapes": [list(entry.shape) for entry in manifest.memories],
        "texts": {s.memory.name: _place(s.memory) for s in streams if not s.driven},
        **work(manifest.layer, manifest.memories, sum(stream.words for stream in offered), dict(manifest.array)),
    }
    return render({f"test_{slug}.py": "cocotb/bench.py.j2"}, context)


def _place(memory: BenchMemory) -> str:
    """What the FAIL lines call a lane, for an f-string of the variables of its index."""
    labels = memory.index_text.replace("%0d", "").split()
    return " ".join(f"{label}{{{variable}}}" for label, (_, variable) in zip(labels, memory.index, strict=True))
