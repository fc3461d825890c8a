"""The page of one set, and its pictures by name. A new section is a file beside this and a line in SECTIONS."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qexport.core.strength import percent
from qexport.errors import QexportError, few, near
from qexport.report.accumulators import accumulators_section, bits_figure, channels_figure, histogram_figure
from qexport.report.blocks import Block, Details, Note, Section, Tile, marked
from qexport.report.codes import code_figure, codes_section
from qexport.report.coverage import coverage_figures, coverage_section
from qexport.report.facts import SetFacts
from qexport.report.failure import failure_sections
from qexport.report.figure import Figure, stacked
from qexport.report.layer import bits_table, layer_figure, layer_section
from qexport.report.memories import memories_section
from qexport.report.page import render_page
from qexport.report.pictures import Pixels, input_figures, pictures_section
from qexport.report.run import Run, run_section, run_tiles
from qexport.report.scaling import scaling_figures, scaling_section, transfer_figure
from qexport.report.strength import shares_figure, strength_section, weights_figure
from qexport.sets.manifest import layer_text
from qexport.sim.verdict import Verdict

SECTIONS: Sequence[Callable[[SetFacts], Section | None]] = (
    codes_section,
    accumulators_section,
    scaling_section,
    strength_section,
    coverage_section,
    memories_section,
)


def set_page(folder: Path, page: Path | None = None, pixels: Pixels | None = None) -> bytes:
    """One set as a page. `page`: where it will lie, for links; `pixels`: the pictures, where they are known."""
    facts = SetFacts(folder, page)
    return render_page(facts.manifest.layer.name, _lead(facts), set_tiles(facts), set_sections(facts, pixels))


def run_page(run: Path, folder: Path, page: Path | None = None, verdict: Verdict | None = None) -> bytes:
    """A run that `simulate --keep` left, of the set in `folder`, as a page; `verdict`: what was judged of it."""
    facts = SetFacts(folder, page)
    kept = Run(run, facts, verdict)
    sections = [run_section(kept), *failure_sections(kept), layer_section(facts), memories_section(facts)]
    return render_page(f"Run of {facts.manifest.layer.name}", _lead(facts), run_tiles(kept), sections)


def _lead(facts: SetFacts) -> str:
    return f"{layer_text(facts.manifest.layer)}, layout {facts.manifest.layout.name}, set {facts.folder.name}"


def set_sections(facts: SetFacts, pixels: Pixels | None = None) -> list[Section]:
    layer, *others = [layer_section(facts), pictures_section(facts, pixels), *(make(facts) for make in SECTIONS)]
    notes: list[Block] = [Note(f"{fault}", "bad") for fault in facts.report.faults[:20]]
    notes += [Note(warning, "warn") for warning in facts.manifest.warnings]
    tensors = Details("All tensors of the layer", [bits_table(facts)])
    first = Section(layer.title, layer.text, [*notes, *layer.blocks, tensors]) if layer is not None else None
    return [section for section in (first, *others) if section is not None]


def set_tiles(facts: SetFacts) -> list[Tile]:
    """The numbers at the head of the page."""
    manifest, faults = facts.manifest, facts.report.faults
    sums = manifest.formats.accumulator
    words = sum(file.words for entry in manifest.memories for file in entry.files)
    tiles = [
        Tile(
            "verified" if not faults else f"{len(faults)} faults",
            f"{manifest.file_count} files against the golden",
            marked(not faults),
        ),
        Tile(
            f"{words:,}",
            f"words in {len(manifest.memories)} memories",
        ),
        Tile(f"{sums.bits} bits", "hold every accumulator, for any input"),
    ]
    if facts.products:
        tiles.insert(1, Tile(f"{facts.products:,}", "multiplications an image"))
    operand, flips = manifest.strength.first
    if flips.flips:
        tiles.append(Tile(percent(flips.relu, flips.flips), f"of single-bit {operand} errors show behind the ReLU"))
    return tiles


Plot = Callable[[SetFacts], Sequence[Figure]]
PLOTS: Mapping[str, Plot] = {
    "layer": lambda facts: [layer_figure(facts)],
    "input": input_figures,
    "codes": lambda facts: [
        code_figure(facts, name) for name in facts.scan.counts if name in (*facts.operands, "output")
    ],
    "accumulators": lambda facts: [histogram_figure(facts)],
    "bits": lambda facts: [bits_figure(facts)],
    "channels": lambda facts: [channels_figure(facts)],
    "scaling": scaling_figures,
    "transfer": lambda facts: [figure] if (figure := transfer_figure(facts)) is not None else [],
    "strength": lambda facts: [shares_figure(facts)] if facts.strength is not None else [],
    "coverage": coverage_figures,
    "weights": lambda facts: (
        [weights_figure(facts)] if "weight" in facts.operands and facts.strength is not None else []
    ),
}


def plot(folder: Path, what: str) -> bytes:
    """One picture of a set as an SVG file: `codes-weight`, or all of a kind below each other: `codes`."""
    facts, kind = SetFacts(folder), what.partition("-")[0]
    if kind not in PLOTS:
        raise QexportError(
            f"what: '{what}' is not a plot; choose one of {few(near(what, list(PLOTS)), most=len(PLOTS))}"
        )
    figures = {figure.name: figure for figure in PLOTS[kind](facts)}
    if what in figures:
        return figures[what].alone()
    if figures and what == kind:
        return stacked(kind, f"{kind} of {facts.manifest.layer.name}", list(figures.values())).alone()
    there = f"has {few(figures)}" if figures else "has none"
    raise QexportError(f"what: layer {facts.manifest.layer.name} {there}, not '{what}'; choose another plot")
