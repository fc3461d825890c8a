"""Say where results differ from a set, and which mistake it is."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from qexport.bench.design import Design
from qexport.cli.common.options import (
    design_options,
    folder_argument,
    json_option,
    path_type,
    time_limit_option,
)
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import print_pairs
from qexport.core.capture import LayerCapture
from qexport.errors import CheckFailed, QexportError, few
from qexport.findings.diagnose import diagnose
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.waves import read_wave
from qexport.findings.whole_run import diagnose_run
from qexport.findings.words import Actual, read_actual
from qexport.sets.graph import GRAPH


@click.command(name="diagnose")
@folder_argument
@click.option(
    "--actual", "files", type=path_type(), multiple=True,
    help="What your design gave: text, its files or the folder of simulate --keep; or VCD or FST.",
)  # fmt: skip
@click.option(
    "--from", "first", type=click.IntRange(min=0), metavar="WORD",
    help="The word of the memory with which the file begins; only its words are compared.  [default: found]",
)  # fmt: skip
@click.option(
    "--smooth", type=path_type(), metavar="PATH",
    help="What your design gave without stalls (--streams smooth), where --actual is of a run with stalls.",
)  # fmt: skip
@click.option("--memory", help="The memory it is to be compared with, where names and widths do not say it.")
@click.option("--signal", help="Of a VCD or FST: the signal that carries the words.")
@click.option(
    "--clock", metavar="NAME",
    help="Of a VCD or FST: the clock at whose edges they are taken. With --dut: your clock.  [default: clk]",
)  # fmt: skip
@click.option(
    "--valid",
    help="Of a VCD or FST: the signal that is 1 where a word counts.  [default: tvalid and tready of a tdata]",
)
@design_options(
    "Your module, which is run on the set without --actual, and on fresh stimulus to make sure of a cause",
    own_clock=False,
)
@click.option("--simulator", default="auto", help="With --dut: the simulator that runs it.  [default: auto]")
@time_limit_option("With --dut: seconds for each build, and again for each run.")
@json_option
def command(
    folder: Path,
    files: tuple[Path, ...],
    first: int | None,
    smooth: Path | None,
    memory: str | None,
    signal: str | None,
    clock: str | None,
    valid: str | None,
    design: Design,
    simulator: str,
    time_limit: float,
    as_json: bool,
) -> None:
    """Say where results differ from a set, and which mistake it is.

    Of a folder with several memories of a run the first wrong one is diagnosed; the others must agree. With --dut a
    cause is certain where it also predicts what the design gives on fresh stimulus. With --smooth the words without
    stalls stand in place of the set's: which of them stalls lose, double, hold or exchange. Without --actual the design
    runs both ways.

    Of a folder of a network's sets, RUN/LAYER holds what each layer gave, of any of them: those that do not give what
    their own actual input gives are diagnosed, the others only inherited an error.

    \b
    qexport simulate vectors/features_33 --dut my_core.sv --keep run/
    qexport diagnose vectors/features_33 --actual run/
    qexport diagnose vectors/features_33 --actual run/accumulator.hex --dut my_core.sv --top my_core
    qexport diagnose vectors/features_33 --dut core.f --top core --param ROWS=8 --tie scan_en=0 --reset aresetn
    qexport diagnose vectors/features_33 --actual sums.txt --memory accumulator
    qexport diagnose vectors/features_33 --actual stalled/ --smooth run/
    qexport diagnose vectors/ --actual run/
    qexport diagnose vectors/features_33 --actual run/waves.fst --signal m_relu_tdata --clock clk
    """
    if not files and not design:
        raise click.UsageError("Missing option '--actual' (or --dut, which is run)")
    if (signal is not None and clock is None) or (signal is None and clock is not None and not design):
        raise click.UsageError("--signal and --clock belong together; a text file needs neither")
    if first is not None and signal is not None:
        raise click.UsageError("--from belongs to a file of words, not to --signal")
    if valid is not None and signal is None:
        raise click.UsageError("--valid belongs to --signal and --clock")
    if smooth is not None and (signal is not None or first is not None or not files):
        raise click.UsageError("--smooth belongs to --actual with all words, without --signal and --from")
    if signal is not None and len(files) != 1:
        raise click.UsageError("--signal is of one file; give --actual once")
    if design:
        _check_simulator(simulator)
    watched = sys.stderr.isatty()
    if (folder / GRAPH).is_file():
        if len(files) != 1 or not files[0].is_dir() or (first, memory, signal, smooth) != (None,) * 4 or design:
            raise click.UsageError(f"{folder} holds the sets of a network; give --actual the folder of its run, alone")
        _diagnose_network(folder, files[0], watched, as_json)
        return

    def told(what: str) -> None:
        if watched:
            click.echo(f"trying {what} ...", err=True)

    with tempfile.TemporaryDirectory(prefix="qexport-") as scratch:
        runs, handshakes, stop, nothing = files, False, None, None
        if not files:
            from qexport.findings.stalls import run_both
            from qexport.findings.stopped import nothing_came

            without, stalled, stop = run_both(folder, design, Path(scratch), simulator=simulator, limit=time_limit)
            runs, smooth = (without,) if stalled is None else (stalled,), stalled and without
            nothing = nothing_came(folder, runs[0], stop) if stop and memory is None else None
        if nothing is not None:
            actual, found = nothing
        elif smooth is not None:
            handshakes, actual, found = _beside(folder, smooth, runs, memory, told)
        elif signal is not None and clock is not None:
            actual = read_wave(folder, runs[0], signal, clock, memory, valid)
            found = diagnose(folder, actual, told)
        elif memory is None and first is None and len(runs) == 1 and runs[0].is_dir():
            actual, found = diagnose_run(folder, runs[0], told)
        else:
            actual = read_actual(folder, runs, memory, first)
            found = diagnose(folder, actual, told)
    if stop and nothing is None:
        from qexport.findings.stopped import with_stop

        found = with_stop(found, stop)
    if design and not handshakes:
        told("fresh stimulus")
        found = _confirmed(folder, found, actual, design, simulator, time_limit)
    file = few(files or design.files)
    given = ", ".join(map(str, files or design.files))
    result = {"set": str(folder), "actual": given, "memory": actual.memory.name, **found.as_json()}
    emit(as_json, result | {"notes": list(actual.notes)}, lambda: _show_diagnosis(folder, file, actual, found))
    if found.differing or found.findings or found.causes:
        click.echo(f"qexport: diagnose: {file}: {found.summary}", err=True)  # what was asked for, and no error
        click.get_current_context().exit(CheckFailed.exit_code)


def _diagnose_network(folder: Path, run: Path, watched: bool, as_json: bool) -> None:
    from qexport.findings.network import diagnose_network

    found = diagnose_network(folder, run, lambda what: click.echo(f"{what} ...", err=True) if watched else None)
    emit(as_json, {"sets": str(folder), "actual": str(run), **found.as_json()}, lambda: say(str(found)))
    if found.first is not None or found.faulty:
        click.echo(f"qexport: diagnose: {run}: {found.summary}", err=True)
        click.get_current_context().exit(CheckFailed.exit_code)


# What --dut needs is loaded with it: a command that only reads needs neither locks nor simulators.


def _check_simulator(name: str) -> None:
    from qexport.sim.registry import SIMULATORS

    if name not in ("auto", *SIMULATORS):
        raise QexportError(f"simulator: '{name}' is not known; choose auto or {' or '.join(SIMULATORS)}")


def _beside(
    folder: Path, smooth: Path, stalled: tuple[Path, ...], memory: str | None, told: Callable[[str], None]
) -> tuple[bool, Actual, Diagnosis]:
    """Whether stalls change a memory, the words with stalls, and why they are as they are."""
    from qexport.findings.stalls import diagnose_both, diagnose_stalled

    if memory is None and smooth.is_dir() and len(stalled) == 1 and stalled[0].is_dir():
        return diagnose_both(folder, smooth, stalled[0], told)
    actual = read_actual(folder, stalled, memory)
    changed, found = diagnose_stalled(folder, read_actual(folder, smooth, actual.memory.name), actual, told)
    return changed, actual, found


def _confirmed(
    folder: Path, found: Diagnosis, actual: Actual, design: Design, simulator: str, limit: float
) -> Diagnosis:
    from qexport.core.capture import CaptureFile
    from qexport.findings.fresh import confirm
    from qexport.sets.manifest import read_manifest
    from qexport.trust.stress import stress_capture

    def stimulus() -> LayerCapture:
        return stress_capture(CaptureFile(folder / read_manifest(folder).capture.path))

    return confirm(folder, found, actual, design, stimulus, simulator=simulator, limit=limit)


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
