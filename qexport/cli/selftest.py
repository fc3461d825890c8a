"""Prove that the verdict can fail, by changes to a set and to RTL."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from rich.markup import escape

from qexport.bench.design import Design
from qexport.bench.rtl import PARTS
from qexport.cli.common.options import (
    design_options,
    folder_argument,
    json_option,
    seconds_type,
    seed_option,
    simulator_option,
)
from qexport.cli.common.output import emit, say
from qexport.cli.common.progress import show_progress
from qexport.cli.common.tables import make_table, print_pairs, print_table
from qexport.core.strength import percent
from qexport.errors import CheckFailed, few
from qexport.sets.folder import find_sets
from qexport.sim.supervisor import TIME_LIMIT
from qexport.trust.selftest import CHECKERS, FILES, ONLY, SAMPLE, FileMutant, Selftest, selftest
from qexport.trust.selftest import Table as SelftestTable

OPEN = "open"


@click.command(name="selftest")
@folder_argument
@design_options("Change your module instead of the reference arrays")
@click.option(
    "--style",
    type=click.Choice(tuple(PARTS)),
    help="Change this reference array.  [default: ws, of matrix products os; with --all both]",
)
@simulator_option()
@seed_option("Of the mutants, and of the stress capture's codes.")
@click.option(
    "--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, help="Mutants of each kind of an array."
)
@click.option("--all", "every", is_flag=True, help="All mutants, of both arrays, instead of a sample.")
@click.option(
    "--time-limit", type=seconds_type(),
    help=f"Seconds for each set, after which what is left stays open.  [default: {TIME_LIMIT}; with --all none]",
)  # fmt: skip
@click.option("--only", type=click.Choice(ONLY), help="Change files alone, or RTL alone.  [default: both]")
@json_option
def command(
    folder: Path,
    design: Design,
    style: str | None,
    simulator: str,
    seed: int,
    sample: int,
    every: bool,
    time_limit: float | None,
    only: str | None,
    as_json: bool,
) -> None:
    """Prove that the verdict can fail, by changes to a set and to RTL.

    In a folder of sets, to every one. Each file of the set is changed in many ways, in a copy: bench and verify must
    notice. The reference arrays are changed, too. How much of that the set's own vectors show is reported; vectors of
    the same geometry that try the arithmetic as hard as they can, the stress capture, must show all. The exit code is 1
    when something survives that must be noticed, or stays open because the time was over.

    \b
    qexport selftest vectors/features_33
    qexport selftest vectors/features_33 --style os --sample 5
    qexport selftest vectors/features_33 --all
    qexport selftest vectors/features_33 --dut my_core.sv --top my_core
    qexport selftest vectors/features_33 --dut my_core.sv --top my_core --only rtl
    """
    if style is not None and design:
        raise click.UsageError("--style names a reference array, --dut your own module; give one of them")
    if only == FILES and (design or style is not None):
        raise click.UsageError("--only files changes no RTL; leave out --dut and --style")
    if time_limit is None and not every:
        time_limit = TIME_LIMIT
    results: list[Selftest] = []
    for path in find_sets(folder):
        styles = None if style is None else (style,)
        with show_progress(lines=True) as progress:
            results.append(
                selftest(
                    path, simulator, design, styles=styles, seed=seed,
                    sample=None if every else sample, only=only, progress=progress, limit=time_limit,
                )
            )  # fmt: skip
    survivors = [name for result in results for name in result.survivors]
    opened = [name for result in results for name in result.open]

    def show() -> None:
        for result in results:
            _show_selftest(result)
        for name in survivors:
            say(f"survivor  {name}")
        for name in opened:
            say(f"open  {name}")

    listed = [
        asdict(result) | {"set": str(result.set), "survivors": result.survivors, "open": result.open}
        for result in results
    ]
    for entry in listed:
        for table in (entry["own"], entry["stress"]):
            table["strength"] = msgspec.to_builtins(table["strength"])
    emit(as_json, {"ok": not survivors and not opened, "sets": listed}, show)
    if survivors:
        raise CheckFailed(f"selftest: {len(survivors)} mutant(s) survived: {few(survivors)}")
    if opened:
        raise CheckFailed(
            f"selftest: {len(opened)} mutant(s) are open after {time_limit:g} s: {few(opened)}; give it more with "
            "--time-limit, or a smaller --sample"
        )


def _show_selftest(result: Selftest) -> None:
    own, stress = result.own, result.stress
    print_pairs([
        ("set", f"{result.set}, layer {result.layer}, {own.images} image(s); simulator {result.simulator} "
                f"{result.version}"),
        *([] if result.without is None else [("reference RTL", f"none is changed: {result.without}")]),
    ])  # fmt: skip
    say()
    _show_file_mutants("changed in the set", own)
    _show_rtl_mutants("changed in the RTL, seen by the set's vectors", own)
    low, high = stress.observed
    operand, counts = stress.strength.first
    print_pairs([
        ("stress capture", f"{stress.images} images, accumulators {low}..{high} of {stress.bounds[0]}.."
                           f"{stress.bounds[1]}, {percent(counts.relu, counts.flips)} of single-bit {operand} errors "
                           "show in relu"),
    ])  # fmt: skip
    say()
    _show_file_mutants("changed in the stress set", stress)
    _show_rtl_mutants("changed in the RTL, seen by the stress capture", stress)


def _show_file_mutants(title: str, mutants: SelftestTable) -> None:
    """By file, how many changes each checker noticed; '-' where it does not look at the file."""
    if not mutants.files:
        return
    groups: dict[str, list[FileMutant]] = {}
    for mutant in mutants.files:
        groups.setdefault(mutant.group, []).append(mutant)
    opened = [OPEN] * any(mutant.open for mutant in mutants.files)
    table = make_table(title, "mutants", *CHECKERS, *opened, right=1 + len(CHECKERS) + len(opened))
    for group, found in groups.items():
        noticed = [
            str(sum(m.noticed.get(checker) is not None for m in found)) if checker in found[0].noticed else "-"
            for checker in CHECKERS
        ]
        table.add_row(escape(group), str(len(found)), *noticed, *(str(sum(m.open for m in found)) for _ in opened))
    print_table(table)
    if any(0 < len(m.noticed) < len(CHECKERS) for m in mutants.files):
        say("-: the bench does not look at this file, its SHA-256 is compared")
    say()


def _show_rtl_mutants(title: str, mutants: SelftestTable) -> None:
    """By array and kind, how many changes were noticed."""
    if not mutants.rtl:
        return
    groups: dict[tuple[str, str], Counter[str]] = {}
    for mutant in mutants.rtl:
        groups.setdefault((mutant.style, mutant.kind), Counter())[mutant.fate] += 1
    columns = ["killed", "equivalent", "survived", *([OPEN] * any(mutant.fate == OPEN for mutant in mutants.rtl))]
    table = make_table(title, "mutants", *columns, "killed or equivalent", right=2 + len(columns))
    for (style, kind), fates in groups.items():
        total = fates.total()
        counts = [str(fates[fate]) for fate in columns]
        table.add_row(f"{style}, {kind}", str(total), *counts, percent(fates["killed"] + fates["equivalent"], total))
    print_table(table)
    say()
