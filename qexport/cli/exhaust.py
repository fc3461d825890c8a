"""Check your post-processing on every accumulator."""

from pathlib import Path

import click

from qexport.bench.design import Design
from qexport.bench.post import ROLES
from qexport.cli.common.options import (
    design_options,
    folder_argument,
    json_option,
    seed_option,
    time_limit_option,
)
from qexport.cli.common.output import emit
from qexport.cli.common.progress import show_progress
from qexport.cli.common.tables import print_pairs
from qexport.errors import QexportError
from qexport.findings.exhaust.run import LIMIT, exhaust


@click.command(name="exhaust")
@folder_argument
@design_options("Your post-processing module")
@click.option(
    "--port", "ports", multiple=True, metavar="ROLE=NAME",
    help=f"A port whose name does not tell what it is for. Roles: {', '.join(ROLES)}.",
)  # fmt: skip
@click.option(
    "--latency", type=click.IntRange(0, 2**31 - 1),
    help="Rising clock edges from a value to its code; measured where the module has valid ports.",
)  # fmt: skip
@click.option("--after", metavar="STEP", help="Send the values of this step, such as a pool, in place of accumulators.")
@click.option(
    "--limit", type=click.IntRange(1), default=LIMIT, show_default=True, metavar="VALUES",
    help="Of more accumulators than this, those at the edges of the steps and random ones are sent.",
)  # fmt: skip
@seed_option("Of the order, of pauses and of random accumulators.")
@time_limit_option("Seconds for the build, and again for the runs.")
@json_option
def command(
    folder: Path,
    design: Design,
    ports: tuple[str, ...],
    latency: int | None,
    after: str | None,
    limit: int,
    seed: int,
    time_limit: float,
    as_json: bool,
) -> None:
    """Check your post-processing on every accumulator.

    Every accumulator within the proven bounds of every channel goes through the module on Verilator, up to the first
    pool of the set's steps. The module takes a value and a channel and gives a code; a clock, a reset, valid and ready
    ports may be there. The first wrong code is named with the step where it parts.

    \b
    qexport exhaust vectors/conv1 --dut post.sv --top post
    qexport exhaust vectors/conv1 --dut post.sv --top post --latency 3
    qexport exhaust vectors/conv1 --dut post.sv --top post --port value=sum_i --port code=y_o
    """
    if not design:
        raise click.UsageError("--dut is missing; name the file of your post-processing module")
    with show_progress(lines=True) as tell:
        result = exhaust(
            folder, design, ports=_by_role(ports), latency=latency, after=after, limit=limit, seed=seed,
            time_limit=time_limit, progress=tell,
        )  # fmt: skip
    emit(as_json, result.as_json(), lambda: print_pairs(result.rows) if result.passed else None)
    result.check()


def _by_role(ports: tuple[str, ...]) -> dict[str, str]:
    """The names of --port by role."""
    found: dict[str, str] = {}
    for given in ports:
        role, _, name = given.partition("=")
        if not name or role in found:
            why = "is given twice" if role in found else "is not ROLE=NAME"
            raise QexportError(f"--port {given!r} {why}; write such as --port value=acc_i, each role once")
        found[role] = name
    return found
