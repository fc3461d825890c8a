"""Run the self-checking bench of a set, and judge."""

from collections.abc import Sequence
from pathlib import Path

import click

from qexport.bench.design import Design
from qexport.cli.common.options import (
    design_options,
    folder_argument,
    json_option,
    path_type,
    seed_option,
    simulator_option,
    time_limit_option,
)
from qexport.cli.common.output import emit
from qexport.cli.common.tables import print_pairs
from qexport.core.atomic import write_atomically
from qexport.core.coverage import Coverage, merged
from qexport.errors import CheckFailed, QexportError
from qexport.sets.folder import find_sets
from qexport.sets.staging import naming
from qexport.sim.keep import VERDICT
from qexport.sim.record import check_target, record_of
from qexport.sim.run import simulate
from qexport.sim.streams import MODES, chosen_streams
from qexport.sim.tools import WAVES
from qexport.sim.verdict import Verdict


@click.command(name="simulate")
@folder_argument
@simulator_option("auto: Icarus where its runs take less than a build with Verilator, else Verilator.")
@design_options()
@click.option(
    "--streams",
    type=click.Choice(MODES),
    multiple=True,
    help="How the streams run: only so, instead of one run in each of these ways. Give it again for another.",
)
@seed_option("Only a run in which all streams stall at random, the same way for the same seed; 0: a smooth one.", None)
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, help="So many runs of those that stall at random.")
@click.option("--cycles", type=click.IntRange(1), metavar="N", help="How many the smooth run may take.")
@click.option("--keep", type=path_type(), help="Folder for logs, the words that came back, and waves.")
@click.option("--waves", type=click.Choice(WAVES), help="Record all signals in --keep.")
@click.option(
    "--around", type=click.IntRange(0), metavar="CYCLES",
    help="With --waves: only so many cycles before and behind the first error; a failed run is done again for them.",
)  # fmt: skip
@time_limit_option("Seconds for the build, and again for each run.")
@click.option("--verdict", "record", type=path_type(), help="File for the record of the verdict, for qexport audit.")
@click.option("--requirement", "requirements", multiple=True, metavar="ID", help="Id of what it shows, in the record.")
@json_option
def command(
    folder: Path,
    simulator: str,
    design: Design,
    streams: tuple[str, ...],
    seed: int | None,
    seeds: int,
    cycles: int | None,
    keep: Path | None,
    waves: str | None,
    around: int | None,
    time_limit: float,
    record: Path | None,
    requirements: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the self-checking bench of a set, and judge.

    In a folder of sets, of every one; what the vectors of one layer's sets exercise is told together. One build runs in
    several ways: smooth; all streams stall at random; bursts and waits of up to 64 cycles; one stream blocked while the
    others run; lazy, tready after tvalid; a reset in mid-run. The first run that fails ends it. A run that has not
    ended after --time-limit counts as failed, as does one that prints more than 64 MiB.

    \b
    qexport simulate vectors/features_33
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --streams smooth
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --seeds 20
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --seed 7
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --cycles 2000
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/ --waves vcd --around 20
    qexport simulate vectors/features_33 --dut my_core.sv --verdict verdict.json --requirement REQ-17
    """
    if waves is not None and keep is None:
        raise click.UsageError("--waves needs --keep, the folder for them")
    if around is not None and waves is None:
        raise click.UsageError("--around belongs to --waves")
    sets = find_sets(folder)
    if record is not None and len(sets) > 1:
        raise click.UsageError(f"--verdict is for one set, {folder} has {len(sets)}; --keep holds a record of each")
    if record is not None:
        check_target(record, sets[0])
    if requirements and record is None and keep is None:
        raise click.UsageError("--requirement belongs to --verdict or --keep")
    made = chosen_streams(streams, seed, seeds)
    verdicts: list[Verdict] = []
    not_run: dict[Path, QexportError] = {}
    for path in sets:
        try:
            verdicts.append(
                simulate(
                    path, simulator, design, seed=seed or 0, streams=made, waves=waves, around=around, limit=time_limit,
                    cycles=cycles,
                    keep=keep if keep is None or path == folder else keep / path.name,
                    progress=lambda line, path=path: click.echo(f"{path}: {line}", err=True),  # type: ignore[misc]
                )
            )  # fmt: skip
        except QexportError as error:
            not_run[path] = error
    for verdict in verdicts:
        places = [record, None if verdict.kept is None else verdict.kept / VERDICT]
        for place in filter(None, places):
            with naming(place):
                write_atomically(place, record_of(verdict, requirements).to_bytes())

    together = _together(verdicts)

    def show() -> None:
        for verdict in verdicts:
            if verdict.passed:
                print_pairs(verdict.rows)
        for sets, coverage in together:
            print_pairs([("together", f"{sets} sets: {coverage}")])

    listed = [verdict.as_json() for verdict in verdicts]
    listed += [
        {"set": str(path), "result": "FAIL" if isinstance(error, CheckFailed) else "NOT RUN", "why": str(error)}
        for path, error in not_run.items()
    ]
    failures = [*(verdict.failure for verdict in verdicts if verdict.failure is not None), *not_run.values()]
    shared = [{"sets": sets, **coverage.told} for sets, coverage in together]
    emit(as_json, {"ok": not failures, "sets": listed, **({"together": shared} if shared else {})}, show)
    if failures:
        kind = CheckFailed if any(isinstance(error, CheckFailed) for error in failures) else QexportError
        raise kind("\n".join(map(str, failures)))


def _together(verdicts: Sequence[Verdict]) -> list[tuple[int, Coverage]]:
    """What several sets that passed exercise together, those of one geometry: how many they are, and the coverage."""
    keys = [verdict.coverage.key for verdict in verdicts if verdict.passed]
    found = merged(verdict.coverage for verdict in verdicts if verdict.passed)
    return [(keys.count(key), coverage) for key, coverage in found.items() if keys.count(key) > 1]
