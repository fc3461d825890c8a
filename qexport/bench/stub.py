"""The skeleton of a bench that a team edits by hand: sizes, loading and comparing filled in, plain Verilog and make."""

import os
from pathlib import Path
from typing import Any

from qexport.bench.context import BenchStream, base_context, bench_streams, render, work
from qexport.bench.interface import layout_called, streams, unlike_preset
from qexport.bench.package import render_package
from qexport.bench.rtl import KEPT, mm_ports
from qexport.core.operations.base import Need
from qexport.core.operations.registry import require
from qexport.errors import QexportError
from qexport.layout.toml import default_layout
from qexport.sets.manifest import Manifest

STYLES = ("memory", "stream", "blank")
_SHELLS = {"memory": "dut_mm.sv", "stream": "dut.sv"}  # the file of the module that the bench is around


def render_stub(manifest: Manifest, style: str, folder: Path, to: Path) -> dict[str, str]:
    """The files of a skeleton bench, by name, for the set in `folder`; they are to lie in `to`.

    'stream' is around a module with AXI4-Streams; 'memory' around a memory-mapped one (the ports of `dut_mm` of
    `qexport rtl`), of sets that stand as the preset does; 'blank' only loads, and serves every layout.

    Raises QexportError when the style is not known or does not suit the set's layout.
    """
    layout = layout_called(manifest.layout)
    if style not in STYLES:
        raise QexportError(f"stub: style '{style}' is not known; choose {', '.join(STYLES)}")
    if style == "memory":  # around the ports of the reference RTL
        require(manifest.layer, Need.RTL)
    offered = streams(manifest)
    if style == "stream" and offered is None:
        raise QexportError(
            f"stub: style 'stream' needs a memory of what goes in and one of what comes out, {folder} has {layout} "
            "without them; take --style blank, or dump the set with the preset: --layout default"
        )
    if style == "memory" and (why := unlike_preset(manifest)):
        preset = default_layout(manifest.layer.kind)
        raise QexportError(
            f"stub: style 'memory' needs memories that stand as in the preset {preset}, {folder} has {layout}: {why}; "
            f"take --style stream or blank, or dump the set with --layout {preset}"
        )
    layer, array = manifest.layer, dict(manifest.array)
    streamed = {stream.memory for stream in offered or ()}
    formats, name = manifest.formats, manifest.layout.name
    context = base_context(layer, manifest.memories, name, array, formats, manifest.chain, streamed)
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
    if offered is not None and style != "blank":
        found = bench_streams(manifest, offered)
        needed = [stream for stream in found if stream.needed]
        if style == "memory":  # what the reference RTL has, numbers of steps among it
            if not any(stream.memory.name in KEPT for stream in needed):
                raise QexportError(
                    f"stub: style '{style}' compares {', '.join(KEPT)}, {layout} has none of them; take --style stream"
                )
            there = {*mm_ports(manifest)["selects"], *KEPT}
            needed = [stream for stream in found if stream.memory.name in there]
        words = sum(stream.memory.total for stream in needed)
        context |= _interface(manifest, style, needed) | work(layer, manifest.memories, words, array)
    elif not context["memories"]:
        raise QexportError(f"stub: {layout} of {folder} has no memory file that Verilog can load; choose another radix")
    files = {
        source: f"stub/{style}.sv.j2",
        "support.svh": "stub/support.svh.j2",
        "Makefile": "stub/Makefile.j2",
    }
    if shell:
        files[shell] = f"stub/{shell}.j2"
    return render(files, context) | render_package(folder, manifest, context)


def _interface(manifest: Manifest, style: str, needed: list[BenchStream]) -> dict[str, Any]:
    """What the benches around a module need beyond `base_context`: they load only what they drive and compare."""
    driven = [stream.memory for stream in needed if stream.driven]
    compared = [stream.memory for stream in needed if not stream.driven]
    loaded = sorted([*driven, *compared], key=lambda m: m.sums_at)
    context: dict[str, Any] = {
        "driven": driven,
        "compared": compared,
        "memories": loaded,
        "comparable": compared,
        "not_loaded": [],
        "words": sum(m.total for m in loaded),
    }
    if style == "memory":
        return context | mm_ports(manifest)
    ports = [item for stream in needed for item in stream.stream.ports.items()]
    return context | {"groups": [("s" if s.driven else "m", s.memory) for s in needed], "ports": ports}


def _make_text(path: str) -> str:
    """A path as the value of a variable in a Makefile; raises QexportError where there is no way to write it."""
    if not path.isprintable() or path != path.strip() or "\\" in path:
        raise QexportError(
            f"set: the path {path!r} cannot stand in a Makefile; rename what has a line end, a backslash, blanks at an "
            "end or is not UTF-8 in it"
        )
    return path.replace("$", "$$").replace("#", "\\#")
