"""Write the adapter of a core that has ports of its own."""

import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import click

from qexport.bench.design import VHDL, Design
from qexport.bench.ports import top_of
from qexport.bench.wrap import render_wrap
from qexport.cli.common.options import json_option, out_option, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_table
from qexport.errors import QexportError
from qexport.sets.staging import write_new_folders
from qexport.sim.ghdl import as_verilog
from qexport.sim.work import scratch_folder


@click.command(name="wrap")
@click.argument("core", type=path_type(), nargs=-1, required=True)
@click.option("--set", "folder", type=path_type(), required=True, help="The vector set.")
@out_option("New folder for the adapter.")
@click.option("--top", help="The core's module or entity, where the files have several.")
@click.option("--include", "includes", type=path_type(), multiple=True, help="Folder of included files.")
@click.option("--define", "defines", multiple=True, metavar="NAME[=VALUE]", help="Macro of the files.")
@json_option
def command(
    core: tuple[Path, ...],
    folder: Path,
    target: Path,
    top: str | None,
    includes: tuple[Path, ...],
    defines: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the adapter of a core that has ports of its own.

    CORE: its files, Verilog, VHDL or file lists. Its ports are read, and what they are for is proposed by their names.
    The adapter compiles as it is; what it cannot propose is marked FILL IN.

    \b
    qexport wrap core.v --set vectors/features_33 --out adapter/
    qexport simulate vectors/features_33 --dut adapter/files.f --top core_adapter
    """
    design = Design.read(core, top=top or "dut", includes=includes, defines=defines)
    if top is None and any(file.suffix.lower() in VHDL for file in design.files):
        raise QexportError("wrap: the core is VHDL; name its entity with --top")
    if top is None:
        design = replace(design, top=top_of(design))
    with scratch_folder() as scratch:
        adapter = render_wrap(folder, design, as_verilog(design, scratch), target)
    write_new_folders({target: adapter.files})
    arguments = [str(folder), "--dut", os.path.join(target, "files.f"), "--top", adapter.top]
    run = f"qexport simulate {shlex.join(arguments)}"

    def show() -> None:
        table = make_table("port", "connected to", "why")
        for line in adapter.lines:
            table.add_row(line.port, line.signal or "nothing", line.said)
        print_table(table)
        say()
        own = sum(line.own for line in adapter.lines)
        say(f"{target / f'{adapter.top}.sv'}: {own} line(s) to fill in, marked FILL IN; check those marked CHECK, then")
        say(run)

    emit(
        as_json,
        {"folder": str(target), "top": adapter.top, "ports": [asdict(x) for x in adapter.lines], "run": run},
        show,
    )
