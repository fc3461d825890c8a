"""The skeleton of a bench that a team edits by hand: sizes, loading and comparing filled in, plain Verilog and make."""

import os
from pathlib import Path
from typing import Any

from qexport.bench.context import BenchMemory, base_context, render, work
from qexport.bench.interface import DRIVEN, layout_called, results_of_set, streams
from qexport.bench.rtl import KEPT, mm_ports
from qexport.core.operations.base import Need
from qexport.core.operations.registry import require
from qexport.errors import QexportError
from qexport.sets.manifest import Manifest

STYLES = ("memory", "stream", "blank")
_SHELLS = {"memory": "dut_mm.sv", "stream": "dut.sv"}  # the file of the module that the bench is around


def render_stub(manifest: Manifest, style: str, folder: Path, to: Path) -> dict[str, str]:
    """The files of a skeleton bench, by name, for the set in `folder`; they are to lie in `to`.

    'stream' is around a module with AXI4-Streams, 'memory' around a memory-mapped one (the ports of `dut` and `dut_mm`
    of `qexport rtl`); 'blank' only loads, and serves every layout.

    Raises QexportError when the style is not known or does not suit the set's layout.
    """
    layout = layout_called(manifest.layout)
    if style not in STYLES:
        raise QexportError(f"stub: style '{style}' is not known; choose {', '.join(STYLES)}")
    if style == "memory":  # around a module of the reference RTL
        require(manifest.layer, Need.RTL)
    interface = streams(manifest)
    if style != "blank" and interface is None:
        raise QexportError(
            f"stub: style '{style}' needs memories that stand as in the preset default, {folder} has {layout}; "
            "take --style blank, or dump the set with the preset: --layout default"
        )
    if style == "memory":  # around the ports of the reference RTL
        require(manifest.layer, Need.RTL)
    layer, array = manifest.layer, manifest.array
    context = base_context(layer, manifest.memories, manifest.layout.name, array, manifest.formats, manifest.chain)
    by_name = {m.name: m for m in context["entries"]}
    top = f"stub_{layer.slug}"
    package, source, shell = f"{layer.slug}_pkg.sv", f"{top}.sv", _SHELLS.get(style, "")
    context |= {
        "bench": source,
        "top": top,
        "shell": shell,
        "fixed_sources": [package, source],
        "sources": [package, source, *([shell] if shell else [])],
        "comparable": context["memories"],
        "set_path": _make_text(os.path.relpath(folder.resolve(), to.resolve())),
    }
    if interface is not None and style != "blank":
        names = mm_ports(manifest)["selects"] if style == "memory" else DRIVEN
        driven = [by_name[name] for name in names if name in by_name]
        results = [by_name[entry.name] for entry in results_of_set(manifest)]
        if style == "memory":
            results = [memory for memory in results if memory.name in KEPT]
        if not results:
            raise QexportError(
                f"stub: style '{style}' compares {', '.join(KEPT)}, {layout} has none of them; take --style stream"
            )
        context |= _interface(manifest, style, driven, results) | work(layer, driven, results, array)
    elif not context["memories"]:
        raise QexportError(f"stub: {layout} of {folder} has no memory file that Verilog can load; choose another radix")
    files = {
        source: f"stub/{style}.sv.j2",
        "support.svh": "stub/support.svh.j2",
        package: "sv/package.sv.j2",
        "params.vh": "sv/params.vh.j2",
        "Makefile": "stub/Makefile.j2",
    }
    if shell:
        files[shell] = f"stub/{shell}.j2"
    return render(files, context)


def _interface(
    manifest: Manifest, style: str, driven: list[BenchMemory], compared: list[BenchMemory]
) -> dict[str, Any]:
    """What the benches around a module need beyond `base_context`: they load only what they drive and compare."""
    loaded = sorted([*driven, *compared], key=lambda m: m.sums_at)
    context: dict[str, Any] = {
        "driven": driven,
        "compared": compared,
        "memories": loaded,
        "comparable": compared,
        "not_loaded": [],
        "words": sum(m.words for m in loaded),
    }
    if style == "memory":
        return context | mm_ports(manifest)
    ports = [item for stream in streams(manifest) or () for item in stream.ports.items()]
    return context | {"groups": [*(("s", m) for m in driven), *(("m", m) for m in compared)], "ports": ports}


def _make_text(path: str) -> str:
    """A path as the value of a variable in a Makefile; raises QexportError where there is no way to write it."""
    if not path.isprintable() or path != path.strip() or "\\" in path:
        raise QexportError(
            f"set: the path {path!r} cannot stand in a Makefile; rename what has a line end, a backslash, blanks at an "
            "end or is not UTF-8 in it"
        )
    return path.replace("$", "$$").replace("#", "\\#")
