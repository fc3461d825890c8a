"""What came back for the sets of a folder, as a page: which layers are right, which are wrong, and why."""

from collections.abc import Sequence
from pathlib import Path

from qexport.errors import QexportError
from qexport.findings.network import LayerFound, diagnose_network
from qexport.report.accuracy import Accuracy
from qexport.report.blocks import Block, Facts, Section, Tile, marked
from qexport.report.facts import SetFacts, link, name_of_set
from qexport.report.figure import Figure
from qexport.report.graph import graph_figure, read_graph
from qexport.report.page import render_page
from qexport.report.run import Run
from qexport.report.svg import WIDE, bars
from qexport.report.tables import AnyCell, Cell, Table
from qexport.sets.folder import find_sets
from qexport.sets.graph import Graph
from qexport.sim.keep import RUN

_DRAWN = 128  # runs of a picture of columns
_STATES = {"right": ("right", "good", 2), "inherited": ("inherited", "warn", 4), "faulty": ("faulty", "bad", 1),
           "not dumped": ("not there", "", 7)}  # fmt: skip


def runs_page(kept: Path, folder: Path, page: Path | None = None, accuracy: Accuracy | None = None) -> bytes:
    """What came back for the sets in `folder`, a folder for each: of `simulate --keep`, or of a whole network."""
    sets, title = find_sets(folder), f"Runs of {folder.resolve().name}"
    runs = [Run(kept / path.name, SetFacts(path, page)) for path in sets if (kept / path.name / RUN).is_file()]
    graph = read_graph(folder)
    counted = ([accuracy.tile], [accuracy.section]) if accuracy is not None else ([], [])
    if runs:
        tiles = [*_tiles(runs, len(sets)), *counted[0]]
        return render_page(title, f"{len(runs)} layers", tiles, [_runs(runs, graph, page), *counted[1]])
    if graph is None:
        raise QexportError(f"run: {kept} has no folder with {RUN} for a set of {folder}; give what --keep was given")
    found = diagnose_network(folder, kept)
    tiles = [
        Tile(f"{len(found.faulty)}", "layers are wrong by themselves", marked(not found.faulty)),
        Tile("none" if found.first is None else found.first.layer, "is the first that differs"),
        Tile(f"{sum(one.state == 'inherited' for one in found.layers)}", "layers inherited an error"),
        Tile(f"{sum(one.state == 'not dumped' for one in found.layers)}", "layers are not there"),
        *counted[0],
    ]
    sections = [_network(graph, found.layers), *map(_cause, found.faulty), *counted[1]]
    return render_page(title, found.summary, tiles, sections)


def _network(graph: Graph, layers: Sequence[LayerFound]) -> Section:
    said = {one.layer: _differ(one) for one in layers}
    tones = {one.layer: _STATES[one.state][2] for one in layers}
    rows: list[list[AnyCell]] = [
        [one.layer, Cell(_STATES[one.state][0], tone=_STATES[one.state][1]), one.differing, one.total] for one in layers
    ]
    table = Table("Layers in the order of computation", ["layer", "found", "wrong", "values"], rows)
    return Section(
        "Network",
        "Each layer is held against what its own input gives, as it really came in: orange is wrong by itself, amber "
        "is right for what it got, green is right.",
        [graph_figure(graph, said, tones), table],
    )


def _differ(one: LayerFound) -> str:
    return f"{_STATES[one.state][0]}, {one.differing:,} of {one.total:,} values differ" if one.total else "not there"


def _cause(one: LayerFound) -> Section:
    pairs: list[tuple[str, AnyCell]] = [("memory", str(one.memory))]
    if one.diagnosis is None:
        pairs.append(("cause", "its own input cannot be made a set"))
    else:
        pairs += one.diagnosis.differences + one.diagnosis.reasons
    if one.through:
        pairs.append(("or", f"the fault is in {', '.join(one.through)}, which did not come back"))
    return Section(f"Fault of {one.layer}", "Against what its own input gives.", [Facts(pairs)])


# --- runs of one set each -------------------------------------------------------------------------------------------


def _tiles(runs: Sequence[Run], sets: int) -> list[Tile]:
    passed = sum(run.passed for run in runs)
    cycles = sum(run.measured.get("cycles", 0) for run in runs)
    return [
        Tile(f"{passed} of {len(runs)}", "runs pass", marked(passed == len(runs))),
        Tile(f"{sets - len(runs)}", "sets without a run", "warn" if len(runs) < sets else ""),
        Tile(f"{cycles:,.0f}", "cycles of all runs that ended"),
    ]


def _runs(runs: Sequence[Run], graph: Graph | None, page: Path | None) -> Section:
    blocks: list[Block] = [_table(runs, page), *_speed(runs)]
    if graph is not None:
        by_name = {run.facts.manifest.layer.name: run for run in runs}
        said = {name: "PASS" if run.passed else f"FAIL, {run.wrong:,} wrong" for name, run in by_name.items()}
        tones = {name: 2 if run.passed else 1 for name, run in by_name.items()}
        blocks.insert(0, graph_figure(graph, said, tones))
    return Section("Runs", "Each layer got the inputs of its own set, whatever the one before it gave.", blocks)


def _table(runs: Sequence[Run], page: Path | None) -> Table:
    rows: list[list[AnyCell]] = []
    for run in runs:
        first = next((one.found.first for one in run.results if one.found is not None and one.found.first), None)
        measured = run.measured
        rows.append([
            Cell(name_of_set(run.folder, run.facts.manifest), href=link(page, run.folder / RUN)),
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
    names = [name_of_set(run.folder, run.facts.manifest) for run in ended]
    shares = [100 * run.utilisation for run in ended]
    titles = [f"{name}: {share:.1f} %" for name, share in zip(names, shares, strict=True)]
    labels = [str(at) for at in range(len(ended))]
    body = bars(shares, labels, "run", "utilisation, %", WIDE, 200, [2] * len(shares), titles)
    said = "The share of the array's multipliers that worked in an average cycle, in the order of the table."
    return [Figure("utilisation", "utilisation", said, WIDE, 200, body)]
