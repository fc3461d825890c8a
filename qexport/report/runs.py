"""The runs of a folder of sets, one of each, as a page: which layers came back right, and how fast."""

from collections.abc import Sequence
from pathlib import Path

from qexport.errors import QexportError
from qexport.report.blocks import Block, Section, Tile, marked
from qexport.report.facts import SetFacts, link
from qexport.report.figure import Figure
from qexport.report.graph import graph_figure, read_graph
from qexport.report.page import render_page
from qexport.report.run import Run
from qexport.report.svg import WIDE, bars
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sets.folder import find_sets
from qexport.sim.keep import RUN

_DRAWN = 128  # runs of a picture of columns


def runs_page(keep: Path, folder: Path, page: Path | None = None) -> bytes:
    """What `simulate FOLDER --keep` left, a folder for each set, as a page."""
    sets = find_sets(folder)
    runs = [Run(keep / path.name, SetFacts(path, page)) for path in sets if (keep / path.name / RUN).is_file()]
    if not runs:
        raise QexportError(f"run: {keep} has no folder with {RUN} for a set of {folder}; give what --keep was given")
    passed = sum(run.passed for run in runs)
    cycles = sum(run.measured.get("cycles", 0) for run in runs)
    tiles = [
        Tile(f"{passed} of {len(runs)}", "runs pass", marked(passed == len(runs))),
        Tile(f"{len(sets) - len(runs)}", "sets without a run", "warn" if len(runs) < len(sets) else ""),
        Tile(f"{cycles:,.0f}", "cycles of all runs that ended"),
    ]
    graph = read_graph(folder)
    blocks: list[Block] = [_table(runs, page), *_speed(runs)]
    if graph is not None:
        by_name = {run.facts.manifest.layer.name: run for run in runs}
        said = {name: _said(run) for name, run in by_name.items()}
        tones = {name: 2 if run.passed else 1 for name, run in by_name.items()}
        blocks.insert(0, graph_figure(graph, said, tones))
    section = Section("Runs", "Each layer got the inputs of its own set, whatever the one before it gave.", blocks)
    return render_page(f"Runs of {folder.resolve().name}", f"{len(runs)} layers", tiles, [section])


def _said(run: Run) -> str:
    return "PASS" if run.passed else f"FAIL, {run.wrong:,} values are wrong"


def _table(runs: Sequence[Run], page: Path | None) -> Table:
    rows: list[list[AnyCell]] = []
    for run in runs:
        first = next((one.found.first for one in run.results if one.found is not None and one.found.first), None)
        measured = run.measured
        rows.append([
            Cell(run.facts.manifest.layer.name, href=link(page, run.folder / RUN)),
            Cell("PASS", tone="good") if run.passed else Cell("FAIL", tone="bad"),
            run.wrong,
            int(measured["cycles"]) if "cycles" in measured else None,
            measured.get("macs_per_cycle"),
            Cell(f"{run.utilisation:.1%}" if measured else "-", number=True),
            "" if first is None else str(first),
        ])  # fmt: skip
    columns = ["layer", "verdict", "wrong", "cycles", "multiplications a cycle", "utilisation", "first mismatch"]
    return Table("Runs", columns, rows)


def _speed(runs: Sequence[Run]) -> list[Figure]:
    ended = [run for run in runs if run.measured][:_DRAWN]
    if not ended:
        return []
    names = [run.facts.manifest.layer.name for run in ended]
    shares = [100 * run.utilisation for run in ended]
    titles = [f"{name}: {share:.1f} %" for name, share in zip(names, shares, strict=True)]
    labels = [str(at) for at in range(len(ended))]
    body = bars(shares, labels, "run", "utilisation, %", WIDE, 200, [2] * len(shares), titles)
    said = "The share of the array's multipliers that worked in an average cycle, in the order of the table."
    return [Figure("utilisation", "utilisation", said, WIDE, 200, body)]
