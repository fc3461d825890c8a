"""The context of the Verilog templates, and their rendering. A set's memories decide which bench it gets."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qexport.bench.context import (
    BESIDE,
    BenchMemory,
    BenchStream,
    base_context,
    bench_streams,
    beside_files,
    render,
    work,
)
from qexport.bench.data import Operand, data_context
from qexport.bench.interface import CHECKS, Stream, is_preset, streams_of
from qexport.bench.model import has_model, model_context
from qexport.bench.package import render_package
from qexport.bench.steps import needed, steps_context, value_of
from qexport.core.geometry import ConvGeometry
from qexport.core.steps import Step, takes_bias
from qexport.layout.formats.base import WordSpec
from qexport.sets.manifest import Manifest, MemoryEntry, capture_of, read_words


def render_bench(folder: Path, manifest: Manifest, checksums: Mapping[str, int]) -> dict[str, str]:
    """The bench files of the set whose memories and capture stand in `folder`, by name.

    `checksums`: CRC-32 of each memory file. What the manifest says of bench files is not read. Raises QexportError when
    axes and memories give one constant twice.
    """
    layer, array, steps = manifest.layer, dict(manifest.array), manifest.chain
    streams = streams_of(manifest.memories, array, steps, layer.relu)
    streamed = {stream.memory for stream in streams}
    context = base_context(layer, manifest.memories, manifest.layout.name, array, manifest.formats, steps, streamed)
    beside = _beside(folder, manifest, beside_files(manifest.memories, streamed))
    loaded = context["memories"]
    top, package = f"{'tb' if streams else 'stub'}_{layer.slug}", f"{layer.slug}_pkg.sv"
    context |= {
        "bench": f"{top}.sv" if streams or loaded else None,
        "top": top,
        "benched": bool(streams),
        "fixed_sources": [package, f"{top}.sv"],
        "verdict": f"LOADED words={context['words']}",
        "checksums": {**checksums, **{path: zlib.crc32(text.encode()) for path, text in beside.items()}},
    }
    templates: dict[str, str] = {}
    files = render_package(folder, manifest, context) | beside
    if streams or loaded:  # else there is nothing that Verilog could load
        templates |= {"files.f": "sv/files.f.j2", "Makefile": "sv/Makefile.j2", CHECKS: "sv/checks.txt.j2"}
        templates[f"{top}.sv"] = "sv/tb.sv.j2" if streams else "sv/stub.sv.j2"
        templates[f"{layer.slug}.core"] = "sv/fusesoc.core.j2"
    if streams:
        templates[f"{layer.slug}_axis_checks.sv"] = "sv/axis_checks.sv.j2"
        context |= _bench_context(bench_streams(manifest, streams))
        context |= work(layer, manifest.memories, sum(stream.words for stream in streams), array)
        templates["dut.sv"], design = _design(folder, manifest, streams, context["driven"], context["compared"])
        context |= design
    return render(templates, context) | files


def compare_bench(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The bench files of a set, as the files of its memories stand there, that are not as this version renders them.

    By path what is wrong with each; for a set without a `bench_note`.
    """
    given = {file.path for file in manifest.bench}
    bench = f"tb_{manifest.layer.slug}.sv"
    if bench in given and not streams_of(manifest.memories, manifest.array, manifest.chain, manifest.layer.relu):
        return {bench: "is a bench that these memories do not get"}
    paths = [file.path for memory in manifest.memories for file in memory.files]
    checksums = {path: zlib.crc32((folder / path).read_bytes()) for path in paths}
    fresh = render_bench(folder, manifest, checksums)
    wrong = dict.fromkeys(
        sorted(fresh.keys() ^ given), "is not a bench file of this set, or is not named by its manifest"
    )
    for path in sorted(fresh.keys() & given):
        if not (folder / path).is_file() or (folder / path).read_bytes() != fresh[path].encode():
            wrong[path] = "is not what qexport writes for this set"
    return wrong


def _beside(folder: Path, manifest: Manifest, paths: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The texts beside files that Verilog cannot load: the same words in hex, one a line."""
    texts = {}
    for entry in manifest.memories:
        tiling = entry.tiling(dict(manifest.array))
        spec = WordSpec(tiling.lanes, entry.element, (), "")
        for number, path in enumerate(paths.get(entry.name, ())):
            words = read_words(folder, manifest, entry, tiling, number)
            texts[path] = BESIDE.write(words, spec).decode()
    return texts


def _bench_context(streams: Sequence[BenchStream]) -> dict[str, Any]:
    """What the bench's template needs of the streams."""
    driven = [s.memory for s in streams if s.driven and s.needed]
    compared = [s.memory for s in streams if not s.driven]
    labels = dict.fromkeys(label for m in compared for label, _ in m.index)
    return {
        "streams": streams,
        "streamed": sorted({s.memory.number: s.memory for s in streams}.values(), key=lambda m: m.number),
        "driven": driven,
        "compared": compared,
        "labels": list(labels),
        "variables": list(dict.fromkeys(name for m in compared for name in m.places.variables)),
        "verdict": f"PASS checks={sum(m.values for m in compared)}",
    }


def _design(
    folder: Path,
    manifest: Manifest,
    streams: Sequence[Stream],
    driven: Sequence[BenchMemory],
    compared: Sequence[BenchMemory],
) -> tuple[str, dict[str, Any]]:
    """The template of the set's own design, and what it needs."""
    layer, steps, formats = manifest.layer, manifest.chain or (), manifest.formats
    if is_preset(manifest.memories, streams, manifest.array, layer):
        if not isinstance(layer, ConvGeometry):
            return "sv/dut_data.sv.j2", data_context(layer, manifest.memories, formats, steps, driven, compared)
        signed = {entry.name: entry.signed for entry in manifest.memories}
        return "sv/dut_behavioural.sv.j2", {
            "has_bias": "bias" in [m.name for m in driven],
            "weight_signed": signed["weight"],
            "input_signed": signed["input"],
            "input_zero": formats.input.zero_points[0],
            "weight_zeros": formats.operands["weight"].zero_points,
            "tables": {name: Operand.of(name, fmt) for name, fmt in formats.operands.items() if fmt.table is not None},
            "plain": all(fmt.plain for fmt in formats.operands.values()),
            **_behind(layer, manifest.memories, compared, steps),
        }
    if not has_model(manifest, driven, compared):
        return "sv/dut_shell.sv.j2", {}
    stored = any(m.tensor in ("bias", "bias_folded") for m in driven)
    bias = None if stored or not isinstance(layer, ConvGeometry) else capture_of(folder, manifest).bias
    return "sv/dut_model.sv.j2", model_context(manifest, driven, compared, bias)


def _behind(
    layer: ConvGeometry, memories: Sequence[MemoryEntry], compared: Sequence[BenchMemory], steps: Sequence[Step]
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
