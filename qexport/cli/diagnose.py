"""Say where results differ from a set, and which mistake it is."""

import sys
from pathlib import Path

import click

from qexport.cli.common.options import folder_argument, json_option, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import print_pairs
from qexport.errors import CheckFailed, few
from qexport.findings.diagnose import diagnose
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.waves import read_wave
from qexport.findings.words import Actual, read_actual


@click.command(name="diagnose")
@folder_argument
@click.option(
    "--actual", "files", type=path_type(), multiple=True, required=True,
    help="What your design gave: text, its files or the folder of simulate --keep; or VCD or FST.",
)  # fmt: skip
@click.option(
    "--from", "first", type=click.IntRange(min=0), metavar="WORD",
    help="The word of the memory with which the file begins; only its words are compared.  [default: found]",
)  # fmt: skip
@click.option("--memory", help="The memory it is to be compared with, where names and widths do not say it.")
@click.option("--signal", help="Of a VCD or FST: the signal that carries the words.")
@click.option("--clock", help="Of a VCD or FST: the clock at whose rising edges they are taken.")
@click.option(
    "--valid",
    help="Of a VCD or FST: the signal that is 1 where a word counts.  [default: tvalid and tready of a tdata]",
)
@json_option
def command(
    folder: Path,
    files: tuple[Path, ...],
    first: int | None,
    memory: str | None,
    signal: str | None,
    clock: str | None,
    valid: str | None,
    as_json: bool,
) -> None:
    """Say where results differ from a set, and which mistake it is.

    \b
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/
    qexport diagnose vectors/features_33 --actual run/accumulator.hex
    qexport diagnose vectors/features_33 --actual sums.txt --memory accumulator
    qexport diagnose vectors/features_33 --actual run/waves.fst --signal m_relu_tdata --clock clk
    """
    if (signal is None) != (clock is None):
        raise click.UsageError("--signal and --clock belong together; a text file needs neither")
    if first is not None and signal is not None:
        raise click.UsageError("--from belongs to a file of words, not to --signal")
    if valid is not None and signal is None:
        raise click.UsageError("--valid belongs to --signal and --clock")
    if signal is None or clock is None:
        actual = read_actual(folder, files, memory, first)
    elif len(files) > 1:
        raise click.UsageError("--signal is of one file; give --actual once")
    else:
        actual = read_wave(folder, files[0], signal, clock, memory, valid)
    file = few(files)
    watched = sys.stderr.isatty()
    found = diagnose(folder, actual, lambda what: click.echo(f"trying {what} ...", err=True) if watched else None)
    result = {"set": str(folder), "actual": ", ".join(map(str, files)), "memory": actual.memory.name, **found.as_json()}
    emit(as_json, result | {"notes": list(actual.notes)}, lambda: _show_diagnosis(folder, file, actual, found))
    if found.differing or found.findings:
        click.echo(f"qexport: diagnose: {file}: {found.summary}", err=True)  # what was asked for, and no error
        click.get_current_context().exit(CheckFailed.exit_code)


def _show_diagnosis(folder: Path, file: str, actual: Actual, found: Diagnosis) -> None:
    differ, *more = found.differences
    compared = ("compared", f"{file} with memory {actual.memory.name}")
    print_pairs([("set", str(folder)), compared, differ, *(("note", note) for note in actual.notes), *more])
    if found.shares:
        say()
        say("\n".join(found.map))
    if found.reasons:
        say()
        print_pairs(found.reasons)
