"""A folder of sets as a page: its layers side by side, and the network where its graph is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qexport.build.verify import verify_index
from qexport.core.strength import percent
from qexport.errors import QexportError
from qexport.layout.paths import MANIFEST
from qexport.report.accuracy import Accuracy
from qexport.report.blocks import Block, Note, Section, Tile, marked
from qexport.report.facts import format_text, link, name_of_set, products
from qexport.report.figure import Figure
from qexport.report.graph import graph_figure, read_graph
from qexport.report.page import render_page
from qexport.report.svg import WIDE, bars
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sets.folder import find_sets
from qexport.sets.graph import Graph
from qexport.sets.manifest import Manifest, read_manifest

_DRAWN = 128  # layers of a picture of columns


@dataclass(frozen=True)
class Set:
    """A set of the folder; `fault`: why its manifest cannot be read, which is None then."""

    folder: Path
    manifest: Manifest | None
    fault: str = ""

    @property
    def words(self) -> int:
        manifest = self.manifest
        return 0 if manifest is None else sum(file.words for entry in manifest.memories for file in entry.files)

    @property
    def stored_bits(self) -> int:
        """Of all memories."""
        manifest = self.manifest
        entries = () if manifest is None else manifest.memories
        return sum(file.words * entry.word_bits for entry in entries for file in entry.files)


def folder_page(folder: Path, page: Path | None = None, accuracy: Accuracy | None = None) -> bytes:
    """All sets of a folder as a page. Only manifests are read: `qexport verify` checks the rest."""
    sets = [_read(path) for path in find_sets(folder)]
    there = [one.manifest for one in sets if one.manifest is not None]
    faults = [*(one.fault for one in sets if one.fault), *map(str, verify_index(folder))]
    graph = read_graph(folder)
    order = {node.path: number for number, node in enumerate(graph.layers)} if graph is not None else {}
    sets.sort(key=lambda one: (order.get(one.folder.name, len(order)), _index(one), one.folder.name))
    tiles = [
        Tile(str(len(sets)), "layers", marked(not faults)),
        Tile(f"{sum(map(products, there)):,}", "multiplications an image"),
        Tile(f"{sum(one.stored_bits for one in sets) / 8e3:,.1f} kB", "in memories"),
        Tile(f"{max((m.formats.accumulator.bits for m in there), default=0)} bits", "hold every accumulator"),
    ]
    notes: list[Block] = [Note(fault, "bad") for fault in faults[:20]]
    sections = [
        Section(
            "Layers",
            "What each set's manifest says. A report of one set shows more.",
            [*notes, layers_table(sets, page)],
        ),
        Section("Size", "Where the work and the memory are.", _sizes(sets)),
    ]
    if graph is not None:
        sections.insert(0, Section("Network", "Which layer takes whose codes.", [network_figure(graph, sets)]))
    if accuracy is not None:
        tiles.insert(0, accuracy.tile)
        sections.insert(1, accuracy.section)
    return render_page(folder.resolve().name, f"{len(sets)} set{'s' * (len(sets) > 1)} of layers", tiles, sections)


def _read(path: Path) -> Set:
    try:
        return Set(path, read_manifest(path))
    except QexportError as error:
        return Set(path, None, str(error).replace(f"{path.parent}/", ""))


def _index(one: Set) -> int:
    """The layer's place in the network, where its capture says it."""
    index = None if one.manifest is None else one.manifest.layer.index
    return 1 << 30 if index is None else index


def layers_table(sets: Sequence[Set], page: Path | None) -> Table:
    columns = ["layer", "operation", "weight", "input", "output", "accumulator", "multiplications", "words",
               "weight errors that show", "warnings"]  # fmt: skip
    return Table("Layers", columns, [_row(one, page) for one in sets])


def _row(one: Set, page: Path | None) -> list[AnyCell]:
    manifest = one.manifest
    if manifest is None:
        return [one.folder.name, Cell("cannot be read", tone="bad"), *([Cell("", number=at > 2) for at in range(8)])]
    formats = manifest.formats
    operand, flips = manifest.strength.first
    shown = percent(flips.relu, flips.flips) if flips.flips else "-"
    return [
        Cell(name_of_set(one.folder, manifest), href=link(page, one.folder / MANIFEST)),
        f"{manifest.layer.kind} {manifest.layer.text}".strip(),
        Cell("-" if formats.weight is None else format_text(formats.weight)),
        format_text(formats.input),
        Cell("-" if formats.output is None else format_text(formats.output)),
        Cell(f"{formats.accumulator.bits} bits", number=True),
        products(manifest),
        one.words,
        Cell(shown if operand == "weight" else "-", number=True),
        Cell(str(len(manifest.warnings)), number=True, tone="warn" if manifest.warnings else ""),
    ]


def _sizes(sets: Sequence[Set]) -> list[Block]:
    there = [(one, one.manifest) for one in sets if one.manifest is not None][:_DRAWN]
    if not there:
        return []
    names = [name_of_set(one.folder, manifest) for one, manifest in there]
    labels = [
        str(manifest.layer.index if manifest.layer.index is not None else at) for at, (_, manifest) in enumerate(there)
    ]
    work = [products(manifest) / 1e6 for _, manifest in there]
    stored = [one.stored_bits / 8e3 for one, _ in there]
    found: list[Block] = []
    for name, title, unit, values, tone in (
        ("work", "multiplications of an image", "millions", work, 2),
        ("stored", "memories", "kB", stored, 3),
    ):
        titles = [f"{layer}: {value:,.3g} {unit}" for layer, value in zip(names, values, strict=True)]
        body = bars(values, labels, "layer", unit, WIDE, 200, [tone] * len(values), titles)
        found.append(Figure(name, title, f"{sum(values):,.3g} {unit} over {len(there)} layers.", WIDE, 200, body))
    return found


def network_figure(graph: Graph, sets: Sequence[Set]) -> Figure:
    """Each layer with its operation, codes and multiplications; one that cannot be read in the colour of faults."""
    by_path = {one.folder.name: one for one in sets}
    said, tones = {}, {}
    for node in graph.layers:
        one = by_path.get(node.path)
        if one is None or one.manifest is None:
            said[node.name], tones[node.name] = "its set cannot be read" if one else "has no set here", 1
            continue
        said[node.name] = _said(one, one.manifest)
    return graph_figure(graph, said, tones)


def _said(one: Set, manifest: Manifest) -> str:
    """A layer in a line: operation, codes, work and memory."""
    formats, layer = manifest.formats, manifest.layer
    codes = [format_text(formats.weight) + " weights"] if formats.weight is not None else []
    codes.append(" to ".join(format_text(fmt) for fmt in (formats.input, formats.output) if fmt is not None))
    work = f"{products(manifest):,} multiplications, {one.stored_bits / 8e3:,.1f} kB"
    return (
        f"{layer.kind} {layer.text}".strip() + f"; {', '.join(codes)}; sums of {formats.accumulator.bits} bits; {work}"
    )
