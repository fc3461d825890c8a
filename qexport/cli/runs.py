"""Look at a store of runs, export it, merge stores."""

import re
from collections.abc import Collection
from pathlib import Path

import click
import msgspec

from qexport.cli.common.options import json_option, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_pairs, print_table
from qexport.core.atomic import write_atomically
from qexport.errors import QexportError, few
from qexport.runs.index import Verdict, rows_of, verdicts
from qexport.runs.store import MARK, Result, Store
from qexport.runs.told import FORMATS, coverage_of, entry
from qexport.sets.folder import claims_to_be_set
from qexport.sets.manifest import json_bytes

_CONTROL = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]")  # what a design prints does not reach the terminal
store_option = click.option("--store", "folder", type=path_type(), required=True, help="Folder of the results.")
label_option = click.option("--label", metavar="NAME", help="Only what the jobs said that a regress kept under it.")


@click.group(name="runs")
def command() -> None:
    """Look at a store of runs, export it, merge stores.

    \b
    qexport runs list --store runs/ --failed
    qexport runs show 5f0c --store runs/
    qexport runs export --store runs/ --format junit --out junit.xml
    qexport runs merge shard1/ shard2/ --store runs/
    """


@command.command(name="list")
@store_option
@click.option("--failed", is_flag=True, help="Only what failed or is flaky.")
@label_option
@json_option
def list_command(folder: Path, failed: bool, label: str | None, as_json: bool) -> None:
    """List the verdict of each job, and what the sets exercise together.

    Without --label these are all jobs that were ever run, also of files that were corrected since.

    \b
    qexport runs list --store runs/ --failed
    qexport runs list --store runs/ --label v2
    """
    store = Store(folder)
    everything = _verdicts(store, label)
    found = [verdict for verdict in everything if not failed or verdict.result != "PASS"]
    coverage = coverage_of(store, everything)

    def show() -> None:
        table = make_table("address", "result", "job", "seconds", right=1)
        for verdict in found:
            table.add_row(verdict.address[:12], verdict.result, verdict.name, f"{verdict.seconds:.1f}")
        print_table(table)
        print_pairs([("coverage", str(one)) for one in coverage.values()])

    listed = [entry(verdict) for verdict in found]
    emit(as_json, {"runs": listed, "coverage": [one.told for one in coverage.values()]}, show)


@command.command(name="show")
@click.argument("address")
@store_option
@click.option("--verdict", "target", type=path_type(), help="File for the record of the verdict, for qexport audit.")
@json_option
def show_command(address: str, folder: Path, target: Path | None, as_json: bool) -> None:
    """Show all that the store has of a job: failure, diagnosis, end of the log.

    ADDRESS may be cut short.

    \b
    qexport runs show 5f0c --store runs/
    qexport runs show 5f0c --store runs/ --verdict verdict.json
    """
    store = Store(folder)
    found = [verdict for verdict in _verdicts(store) if verdict.address.startswith(address)]
    if len(found) != 1:
        raise QexportError(f"runs: {len(found)} jobs have addresses that begin with '{address}'; see qexport runs list")
    results = [store.read(row.file) for row in found[0].rows]
    if target is not None:
        record = results[0].record
        if record is None or len(results) > 1:
            raise QexportError(f"runs: {found[0].name} has not one record of a verdict; name a job of simulate")
        check_outside(target)
        write_atomically(target, json_bytes(record))  # with the seals that it has

    def show() -> None:
        for result in results:
            _show(found[0], result)

    emit(as_json, {**entry(found[0]), "results": [msgspec.to_builtins(result) for result in results]}, show)


def _show(verdict: Verdict, result: Result) -> None:
    said = [("" if at else "failure", line) for at, line in enumerate(result.failure)]
    tools = ", ".join(f"{name} {version}" for name, version in result.content.get("tools", {}).items())
    print_pairs([
        ("job", verdict.name),
        ("address", verdict.address),
        ("verdict", verdict.result if verdict.result == result.result else f"{verdict.result}, here {result.result}"),
        ("ran", f"{result.seconds:.1f} s on {result.host}, {tools}"),
        *said,
        *([("diagnosis", result.diagnosis)] if result.diagnosis else []),
    ])  # fmt: skip
    if result.log:
        say()
        say(_CONTROL.sub("?", result.log.rstrip("\n")))


@command.command(name="export")
@store_option
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="json", show_default=True, help="Of --out.")
@click.option("--out", "target", type=path_type(), required=True, help="The file.")
@label_option
def export_command(folder: Path, form: str, target: Path, label: str | None) -> None:
    """Write the verdict of each job into a file.

    \b
    qexport runs export --store runs/ --format junit --out junit.xml
    qexport runs export --store runs/ --format csv --out runs.csv --label v2
    """
    check_outside(target)
    write_atomically(target, FORMATS[form](_verdicts(Store(folder), label)))


@command.command(name="merge")
@click.argument("stores", type=path_type(), nargs=-1, required=True)
@store_option
def merge_command(stores: tuple[Path, ...], folder: Path) -> None:
    """Take over the results of other stores, such as those of shards.

    \b
    qexport runs merge shard1/ shard2/ --store runs/
    """
    others = [Store(other) for other in stores]
    store = Store(folder, create=True)
    for other in others:
        say(f"{other.root}: {store.merge(other)} new results")


def check_outside(target: Path) -> None:
    """Raises QexportError where a file would be written into a set or a store."""
    for folder in target.resolve().parents:
        if claims_to_be_set(folder) or (folder / MARK).is_file():
            raise QexportError(f"out: {target} lies in {folder}, which holds its own files only; choose another")


def _verdicts(store: Store, label: str | None = None) -> Collection[Verdict]:
    found = verdicts(rows_of(store))
    if label is not None:
        labels = dict(store.labels())
        if label not in labels:
            raise QexportError(f"label: the store has no '{label}'; it has {few(labels)}")
        found = {address: found[address] for address, _ in labels[label].values() if address in found}
    return sorted(found.values(), key=lambda verdict: verdict.name)
