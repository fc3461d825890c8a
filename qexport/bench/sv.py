"""The context of the Verilog templates, and their rendering. A set's layout decides which bench it gets."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qexport.bench.context import BenchMemory, base_context, render, work
from qexport.bench.data import Operand, data_context
from qexport.bench.interface import CHECKS, DRIVEN, has_bench, results_of, serves
from qexport.bench.steps import needed, steps_context, value_of
from qexport.core.geometry import AnyLayer, ConvGeometry
from qexport.core.steps import Step, takes_bias
from qexport.layout.memory import Layout
from qexport.sets.manifest import Manifest, ManifestFormats, MemoryEntry


def render_bench(
    layer: AnyLayer,
    memories: tuple[MemoryEntry, ...],
    layout: Layout,
    formats: ManifestFormats,
    steps: Sequence[Step] | None,
    checksums: Mapping[str, int],
) -> dict[str, str]:
    """The bench files of a set, by name; `checksums`: CRC-32 of each memory file.

    Raises QexportError when axes and memories give one constant twice, or when there is nothing to compare with.
    """
    benched = has_bench(layout, layer.kind) and bool(results_of(memories, steps, layer.kind, layer.relu))
    return _render(layer, memories, layout.name, dict(layout.array), formats, steps, checksums, benched)


def compare_bench(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The bench files of a set, as the files of its memories stand there, that are not as this version renders them.

    By path what is wrong with each; for a set without a `bench_note`.
    """
    layer, array = manifest.layer, manifest.array
    given = {file.path for file in manifest.bench}
    benched = f"tb_{layer.slug}.sv" in given
    if benched and not serves(manifest):
        return {f"tb_{layer.slug}.sv": "is a bench that these memories do not get"}
    paths = [file.path for memory in manifest.memories for file in memory.files]
    checksums = {path: zlib.crc32((folder / path).read_bytes()) for path in paths}
    fresh = _render(
        layer, manifest.memories, manifest.layout.name, array, manifest.formats, manifest.chain, checksums, benched
    )
    wrong = dict.fromkeys(sorted(fresh.keys() ^ given), "is no bench file of this set, or is not named by its manifest")
    for path in sorted(fresh.keys() & given):
        if not (folder / path).is_file() or (folder / path).read_bytes() != fresh[path].encode():
            wrong[path] = "is not what qexport writes for this set"
    return wrong


def _render(
    layer: AnyLayer,
    memories: tuple[MemoryEntry, ...],
    layout: str,
    array: dict[str, int],
    formats: ManifestFormats,
    steps: Sequence[Step] | None,
    checksums: Mapping[str, int],
    benched: bool,
) -> dict[str, str]:
    context = base_context(layer, memories, layout, array, formats, steps)
    loaded = context["memories"]
    by_name = {m.name: m for m in context["entries"]}
    top = f"{'tb' if benched else 'stub'}_{layer.slug}"
    driven = [by_name[name] for name in DRIVEN if name in by_name] if benched else []
    results = results_of(memories, steps, layer.kind, layer.relu) if benched else []
    compared = [by_name[entry.name] for entry in results]
    signed = {entry.name: entry.signed for entry in memories}
    package, source = f"{layer.slug}_pkg.sv", f"{top}.sv"
    passed = f"PASS checks={sum(m.words * m.lanes for m in compared)}"
    context |= {
        "bench": source if benched or loaded else None,
        "top": top,
        "driven": driven,
        "compared": compared,
        "audited": [m for m in loaded if m in driven or m in compared],
        "has_bias": "bias" in [m.name for m in driven],
        "benched": benched,
        "weight_signed": benched and signed.get("weight", False),
        "input_zero": formats.input.zero_points[0],
        "weight_zeros": formats.operands["weight"].zero_points if "weight" in formats.operands else (),
        "tables": {name: Operand.of(name, fmt) for name, fmt in formats.operands.items() if fmt.table is not None},
        "plain": all(fmt.plain for fmt in formats.operands.values()),
        "input_signed": benched and signed["input"],
        "fixed_sources": [package, source],
        "verdict": passed if benched else f"LOADED words={context['words']}",
        "checksums": checksums,
    }
    if benched:
        context |= work(layer, driven, compared, array)
        if isinstance(layer, ConvGeometry):
            context |= _behind(layer, memories, compared, steps or ())
        else:
            context |= data_context(layer, memories, formats, steps or (), driven, compared)
    templates = {package: "sv/package.sv.j2", "params.vh": "sv/params.vh.j2"}
    if benched or loaded:  # else there is nothing that Verilog could load
        templates |= {"files.f": "sv/files.f.j2", "Makefile": "sv/Makefile.j2", CHECKS: "sv/checks.txt.j2"}
        templates[source] = "sv/tb_default.sv.j2" if benched else "sv/stub.sv.j2"
    if benched:
        conv = isinstance(layer, ConvGeometry)
        templates["dut.sv"] = "sv/dut_behavioural.sv.j2" if conv else "sv/dut_data.sv.j2"
    return render(templates, context)


def _behind(
    layer: ConvGeometry, memories: tuple[MemoryEntry, ...], compared: list[BenchMemory], steps: Sequence[Step]
) -> dict[str, Any]:
    """What the behavioural convolution needs of the steps and of the results that go out: the places of a plane, the
    function of each value, and whether it is a step's, which must be 0 in columns past the last channel."""
    shapes = {entry.name: entry.shape for entry in memories}
    plane = layer.output_plane((shapes["input"][2], shapes["input"][3]))
    streamed = [m for m in compared if m.tensor != "psum"]
    planes = {m.name: shapes[m.name][2:] for m in streamed}
    largest = max(planes.values(), key=math.prod, default=plane)
    text: dict[tuple[int, ...], tuple[Any, ...]] = {plane: ("OY", "OX")}  # of a plane; that of a pool as numbers
    bias = "bias_words[channel / COL][(channel % COL) * BIAS_BITS +: BIAS_BITS]"
    return {
        "early_bias": not takes_bias(steps),
        "results": [
            {
                "name": m.name, "const": m.const, "at": f"at_{value_of(m.tensor, steps)}",
                "of_step": value_of(m.tensor, steps) not in ("accumulator", "relu"),
                **dict(zip(("rows", "columns"), text.get(planes[m.name], planes[m.name]), strict=True)),
            }
            for m in streamed
        ],
        "places": " * ".join(map(str, text.get(largest, largest))),
        **steps_context(
            needed(steps, [m.tensor for m in streamed]), (layer.out_channels, *plane), "accumulator",
            f"64'($signed({bias}))",
        ),
    }  # fmt: skip
