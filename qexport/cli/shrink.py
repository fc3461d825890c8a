"""Write the smallest set that still shows a failure."""

from dataclasses import asdict
from pathlib import Path

import click

from qexport.bench.design import Design
from qexport.cli.common.options import (
    design_options,
    folder_argument,
    json_option,
    out_option,
    path_type,
    seconds_type,
    seed_option,
    simulator_option,
    time_limit_option,
)
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_pairs, print_table
from qexport.findings.shrink import BUDGET, shrink_actual, shrink_dut
from qexport.findings.words import read_actual


@click.command(name="shrink")
@folder_argument
@out_option("New folder, which becomes the small set.")
@design_options("The failing module, which each step simulates")
@simulator_option("With --dut: auto takes Icarus, which builds fastest, else Verilator.")
@seed_option("With --dut: that of the failing run.  [default: 0]", default=None)
@click.option(
    "--budget", type=seconds_type(),
    help=f"With --dut: seconds after which the best set so far is taken.  [default: {BUDGET}]",
)  # fmt: skip
@time_limit_option("With --dut: seconds for each build, and again for each run.")
@click.option(
    "--actual", type=path_type(), multiple=True,
    help="Instead of --dut: what the design gave, a file, its files or the folder of simulate --keep.",
)  # fmt: skip
@click.option("--memory", help="With --actual: the memory that was given, where its name does not tell.")
@json_option
def command(
    folder: Path,
    target: Path,
    design: Design,
    simulator: str,
    seed: int | None,
    budget: float | None,
    time_limit: float,
    actual: tuple[Path, ...],
    memory: str | None,
    as_json: bool,
) -> None:
    """Write the smallest set that still shows a failure.

    Beside it, in OUT.actual, stands what the design gives for it.

    With --dut images are dropped, codes set to 0 and sizes cut, as long as the simulation fails in the same way. With
    --actual one differing value is kept: its image, output channel and position.

    \b
    qexport shrink vectors/features_33 --out small --dut my_core.sv --top my_core
    qexport shrink vectors/features_33 --out small --actual run/relu.hex
    """
    if bool(design) == bool(actual):
        raise click.UsageError("give either --dut or --actual")
    of_dut = {
        "--seed": seed,
        "--budget": budget,
        "--simulator": None if simulator == "auto" else simulator,
    }
    foreign = {"--memory": memory} if design else of_dut
    if given := [name for name, value in foreign.items() if value is not None]:
        raise click.UsageError(f"{', '.join(given)} belongs to {'--actual' if design else '--dut'}")
    if design:
        done = shrink_dut(
            folder, target, design, simulator=simulator, seed=seed or 0, budget=budget or BUDGET,
            limit=time_limit, progress=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    else:
        done = shrink_actual(folder, target, read_actual(folder, actual, memory))

    def show() -> None:
        table = make_table("", "before", "after", right=2)
        for name, count in done.before.items():
            table.add_row(name, str(count), str(done.after[name]))
        print_table(table)
        say()
        print_pairs(done.rows)

    emit(as_json, asdict(done) | {"set": str(done.set), "actual": str(done.actual)}, show)
