"""Run the jobs of a plan that have no verdict yet, and judge all."""

from pathlib import Path

import click

from qexport.cli.common.options import json_option, path_type
from qexport.cli.common.output import emit, say_aside
from qexport.cli.common.progress import show_progress
from qexport.cli.common.tables import print_pairs
from qexport.errors import few
from qexport.runs.index import rows_of
from qexport.runs.plan import read_plan
from qexport.runs.pool import open_pool
from qexport.runs.regress import Driver, Regression, judged, longest_first
from qexport.runs.shard import parse_shard, shard_here
from qexport.runs.store import Store
from qexport.runs.told import changes, coverage_of, entry, jobs_of


@click.command(name="regress")
@click.argument("plan", type=path_type())
@click.option("--store", "folder", type=path_type(), required=True, help="Folder of the results; made where it is not.")
@click.option("--jobs", type=click.IntRange(1, 10_000), help="So many at once.  [default: one for each processor]")
@click.option("--shard", "part", metavar="I/N", help="Only this part.  [default: of Slurm's, LSF's or Bazel's array]")
@click.option("--executor", metavar="dask:tcp://HOST:PORT", help="The workers of a Dask cluster run the jobs.")
@click.option("--again", is_flag=True, help="Run also what has a verdict; another one makes the job flaky.")
@click.option("--label", metavar="NAME", help="Keep the verdicts under this name, such as a commit.")
@json_option
def command(
    plan: Path,
    folder: Path,
    jobs: int | None,
    part: str | None,
    executor: str | None,
    again: bool,
    label: str | None,
    as_json: bool,
) -> None:
    """Run the jobs of a plan that have no verdict yet, and judge all.

    PLAN is a TOML file, or a folder of sets, whose own designs then run. What has a verdict in the store for the same
    content of set, design, tools and options does not run again. Ctrl-C stops; the next call goes on. The exit code is
    1 when a job fails or is flaky.

    \b
    qexport regress vectors/ --store runs/
    qexport regress plan.toml --store runs/ --jobs 8 --label "$(git rev-parse HEAD)"
    qexport regress plan.toml --store runs/ --shard 1/4
    qexport regress plan.toml --store /nfs/runs --executor dask:tcp://farm:8786
    """
    shard = shard_here() if part is None else parse_shard(part)
    everything, resources = read_plan(plan)
    ours, store = shard.of(everything), Store(folder, create=True)
    if shard.told:
        say_aside(f"regress: shard {shard}")
    before = rows_of(store)
    known = {row.address for row in before}
    due = longest_first([job for job in ours if again or job.address not in known], before)
    made, not_run = [], {}
    if due:
        with open_pool(executor, jobs) as pool, show_progress(lines=True) as progress:
            driver = Driver(pool, store.root, resources)
            driver.run(due, progress)
            made, not_run = driver.made, driver.not_run
    found = judged(ours, rows_of(store, made) if due else before, len(due), not_run)
    rows, told = _told(store, found, label)
    emit(as_json, told, lambda: print_pairs(rows))
    found.check()


def _told(store: Store, found: Regression, label: str | None) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """What the jobs say, as pairs and for machines."""
    passed = len(found.verdicts) - len(found.failed)
    rows = [
        ("store", str(store.root)),
        ("jobs", f"{passed} passed, {len(found.failed)} failed, {len(found.not_run)} not run; {found.ran} ran now"),
    ]
    coverage = coverage_of(store, found.verdicts.values())
    rows += [("coverage", str(one)) for one in coverage.values()]
    rows += [("not reached", "; ".join(one.lacks)) for one in coverage.values() if one.lacks]
    told = {
        "ok": not found.failed and not found.not_run,
        "ran": found.ran,
        "runs": [entry(verdict) | {"name": name} for name, verdict in found.verdicts.items()],
        "not_run": {name: str(error) for name, error in found.not_run.items()},
        "coverage": [one.told for one in coverage.values()],
    }
    if label is not None:
        now = jobs_of(found.verdicts)
        earlier = [(name, jobs) for name, jobs in store.labels() if name != label]
        store.label(label, now)
        if earlier:
            name, jobs = earlier[-1]
            told["since"] = {"label": name, **changes(jobs, now)}
            rows += [(f"{what} since {name}", few(names)) for what, names in changes(jobs, now).items() if names]
    return rows, told
