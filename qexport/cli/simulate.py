"""The command simulate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from qexport.cli.options import (
    check_top,
    dut_options,
    folder_argument,
    json_option,
    path_type,
    seed_option,
    simulator_option,
)
from qexport.cli.output import emit, golden_text, layer_text
from qexport.cli.tables import print_pairs
from qexport.errors import CheckFailed, QexportError
from qexport.sets.folder import find_sets
from qexport.sim.run import simulate
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.tools import WAVES
from qexport.sim.verdict import Verdict


@click.command(name="simulate")
@folder_argument
@simulator_option()
@dut_options()
@seed_option("Other than 0: all streams stall at random, the same way for the same seed.")
@click.option("--keep", type=path_type(), help="Folder for logs, the words that came back, and waves.")
@click.option("--waves", type=click.Choice(WAVES), help="Record all signals in --keep.")
@click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), default=TIME_LIMIT, show_default=True,
    help="Seconds for the build, and again for the run.",
)  # fmt: skip
@json_option
def command(
    folder: Path,
    simulator: str,
    dut: tuple[Path, ...],
    top: str | None,
    seed: int,
    keep: Path | None,
    waves: str | None,
    time_limit: float,
    as_json: bool,
) -> None:
    """Run the self-checking bench of a set, and judge.

    In a folder of sets, of every one. A run that has not ended after --time-limit counts as failed,
    as does one that prints more than 64 MiB.

    \b
    qexport simulate vectors/features_33
    qexport simulate vectors/features_33 --dut my_core.sv --top my_core --seed 1
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/ --waves vcd
    """
    if waves is not None and keep is None:
        raise click.UsageError("--waves needs --keep, the folder for them")
    check_top(top, dut)
    verdicts: list[Verdict] = []
    failures: dict[Path, QexportError] = {}
    for path in find_sets(folder):
        try:
            verdicts.append(
                simulate(
                    path, simulator, dut, top=top or "dut", seed=seed, waves=waves, limit=time_limit,
                    keep=keep if keep is None or path == folder else keep / path.name,
                    progress=lambda line, path=path: click.echo(f"{path}: {line}", err=True),  # type: ignore[misc]
                )
            )  # fmt: skip
        except QexportError as error:
            failures[path] = error

    def show() -> None:
        for verdict in verdicts:
            manifest = verdict.manifest
            what = f"PASS, {verdict.checks} values compared by {verdict.simulator} {verdict.version}"
            rows = [
                ("set", f"{verdict.set}, layer {layer_text(manifest.layer)}"),
                ("files", f"{manifest.file_count} as dumped, layout '{manifest.layout.name}'"),
                ("bench", manifest.bench_note or "files are what qexport writes for this set"),
                ("golden", golden_text(manifest)),
                ("simulation", what + (f", streams stalled with seed {verdict.seed}" if verdict.seed else "")),
                ("compared", _counts_text(verdict.compared)),
            ]
            if verdict.not_compared:
                rows.append(("not compared", f"{_counts_text(verdict.not_compared)}: the module has no such ports"))
            rows.append((
                "speed",
                f"{verdict.cycles} cycles, {verdict.macs_per_cycle:.3g} multiplications a cycle, "
                + (f"{verdict.utilisation:.1%} of" if verdict.utilisation <= 1 else "more than the layout's array of")
                + f" {verdict.multipliers} multiplier{'s' * (verdict.multipliers > 1)}",
            ))  # fmt: skip
            print_pairs(rows)

    listed: list[dict[str, Any]] = [
        {
            "set": str(v.set), "result": "PASS", "bench": v.manifest.bench_note, "checks": v.checks,
            "compared": v.compared, "not_compared": v.not_compared, "seed": v.seed, "cycles": v.cycles, "macs": v.macs,
            "macs_per_cycle": v.macs_per_cycle, "multipliers": v.multipliers, "utilisation": v.utilisation,
            "simulator": v.simulator, "version": v.version,
        }
        for v in verdicts
    ]  # fmt: skip
    listed += [
        {"set": str(path), "result": "FAIL" if isinstance(error, CheckFailed) else "NOT RUN", "why": str(error)}
        for path, error in failures.items()
    ]
    emit(as_json, {"ok": not failures, "sets": listed}, show)
    if failures:
        kind = CheckFailed if any(isinstance(error, CheckFailed) for error in failures.values()) else QexportError
        raise kind("\n".join(map(str, failures.values())))


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{memory} ({count})" for memory, count in counts.items())
