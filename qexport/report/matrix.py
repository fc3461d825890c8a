"""A store of runs as a page: the matrix of sets and designs, what failed, what is not reached."""

from collections.abc import Sequence

from qexport.report.blocks import Block, Facts, Note, Section, Tile, marked
from qexport.report.page import render_page
from qexport.report.tables import AnyCell, Cell, Table
from qexport.runs.index import FLAKY, Verdict, rows_of, verdicts
from qexport.runs.store import Jobs, Store
from qexport.runs.told import changes, coverage_of

_MOST = 1000  # failures in the table


def store_page(store: Store) -> bytes:
    """Of the jobs of the last label; without labels of all that was ever run."""
    everything, labels = verdicts(rows_of(store)), store.labels()
    found = list(everything.values())
    if labels:
        found = [everything[address] for address, _ in labels[-1][1].values() if address in everything]
    found.sort(key=lambda verdict: verdict.name)
    failed = [verdict for verdict in found if verdict.result != "PASS"]
    flaky = [verdict for verdict in failed if verdict.result == FLAKY]
    tiles = [
        Tile(f"{len(found) - len(failed)} of {len(found)}", "jobs pass", marked(not failed)),
        Tile(f"{len(flaky)}", "are flaky", "bad" if flaky else ""),
        Tile(f"{sum(verdict.seconds for verdict in found):,.0f} s", "were simulated and checked"),
    ]
    lead = f"Label {labels[-1][0]}" if labels else "All jobs that were ever run, as there is no label"
    sections = [Section("Sets and designs", "How many jobs pass, of how many.", [_matrix(found)])]
    sections += [Section("Changes", "", _since(labels[-2], labels[-1]))] if len(labels) > 1 else []
    sections += [Section("Failures", "", [_failures(failed)])] if failed else []
    coverage = coverage_of(store, found)
    facts: list[tuple[str, AnyCell]] = [(str(one), "; ".join(one.lacks) or "all reached") for one in coverage.values()]
    sections += [Section("Coverage", "What the sets exercise together, and what is not reached.", [Facts(facts)])]
    return render_page(f"Runs of {store.root.name}", lead, tiles, sections)


def _matrix(found: Sequence[Verdict]) -> Table:
    cells: dict[str, dict[str, list[Verdict]]] = {}
    columns: dict[str, None] = {}
    for verdict in found:
        labels = verdict.rows[0].labels
        column = " ".join(filter(None, (labels[name] for name in ("design", "check", "simulator"))))
        columns[column] = None
        cells.setdefault(labels["set"], {}).setdefault(column, []).append(verdict)
    lines: list[list[AnyCell]] = [[name, *(_cell(row.get(column, [])) for column in columns)]
                                  for name, row in cells.items()]  # fmt: skip
    return Table("Jobs that pass", ["set", *columns], lines)


def _cell(found: Sequence[Verdict]) -> Cell:
    if not found:
        return Cell("-")
    passed = sum(verdict.result == "PASS" for verdict in found)
    return Cell(f"{passed} of {len(found)}", tone="good" if passed == len(found) else "bad")


def _failures(failed: Sequence[Verdict]) -> Table:
    lines: list[list[AnyCell]] = [
        [verdict.address[:12], Cell(verdict.result, tone="bad"), verdict.name, verdict.why] for verdict in failed
    ]
    caption = f"What failed, the first {_MOST}" if len(failed) > _MOST else "What failed"
    return Table(caption, ["address", "verdict", "job", "why"], lines[:_MOST])


def _since(before: tuple[str, Jobs], now: tuple[str, Jobs]) -> list[Block]:
    facts: list[tuple[str, AnyCell]] = [
        (what, ", ".join(names[:_MOST])) for what, names in changes(before[1], now[1]).items() if names
    ]
    return [Facts(facts) if facts else Note(f"Nothing changed since {before[0]}.")]
