"""Check every file of a set, and every code against the golden."""

from pathlib import Path
from typing import Any

import click

from qexport.build.graph import verify_graph
from qexport.build.verify import Report, verify, verify_index
from qexport.cli.common.options import folder_argument, json_option
from qexport.cli.common.output import emit, say
from qexport.errors import CheckFailed, QexportError, few
from qexport.sets.folder import find_sets
from qexport.sets.graph import GRAPH
from qexport.sets.index import INDEX


@click.command(name="verify")
@folder_argument
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Check every file of a set, and every code against the golden.

    In a folder of sets, of every one. Hashes must agree, and no stray file may stand there. Of a network's sets the
    codes on both sides of each edge must be the same.

    \b
    qexport verify vectors/features_33
    """
    reports: list[Report] = []
    unusable: dict[Path, QexportError] = {}
    for path in find_sets(folder):
        try:
            reports.append(verify(path))
        except QexportError as error:
            unusable[path] = error
    if of_index := verify_index(folder):
        reports.append(Report(folder / INDEX, None, tuple(of_index)))
    if of_graph := verify_graph(folder):
        reports.append(Report(folder / GRAPH, None, tuple(of_graph)))
    failed = [report.folder for report in reports if not report.ok]

    def show() -> None:
        for report in reports:
            say(str(report))

    listed: list[dict[str, Any]] = [report.as_json() for report in reports]
    listed += [{"set": str(path), "error": str(error)} for path, error in unusable.items()]
    emit(as_json, {"ok": not failed and not unusable, "sets": listed}, show)
    if failed:
        raise CheckFailed(
            f"verify: {len(failed)} of {len(reports) + len(unusable)} set(s) failed: {few(failed)}; "
            "dump them again, or remove what does not belong there"
        )
    if unusable:
        raise next(iter(unusable.values()))
