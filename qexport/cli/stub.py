"""Write the skeleton of a bench to edit by hand."""

from pathlib import Path

import click

from qexport.bench.stub import STYLES, render_stub
from qexport.cli.common.options import folder_argument, json_option, out_option
from qexport.cli.common.output import emit, say
from qexport.sets.folder import find_sets
from qexport.sets.manifest import read_manifest
from qexport.sets.staging import write_new_folders


@click.command(name="stub")
@folder_argument
@click.option(
    "--style", type=click.Choice(STYLES), required=True,
    help="stream, memory: around a module with AXI4-Streams or a memory-mapped one; blank: any layout, loads only.",
)  # fmt: skip
@out_option("New folder for the files.")
@json_option
def command(folder: Path, style: str, target: Path, as_json: bool) -> None:
    """Write the skeleton of a bench to edit by hand.

    Sizes, loading and comparing are filled in; it is plain Verilog and make.
    In a folder of sets, of every one, into folders of their names.

    \b
    qexport stub vectors/features_33 --style stream --out bench/   # then: make -C bench sim DUT=/path/to/core.sv
    qexport stub vectors/features_33 --style memory --out bench_mm/
    qexport stub vectors/features_33 --style blank --out bench_own/
    """
    targets = {path: target if path == folder else target / path.name for path in find_sets(folder)}
    stubs = {to: render_stub(read_manifest(path), style, path, to) for path, to in targets.items()}
    write_new_folders(stubs)
    written = {str(to): list(files) for to, files in stubs.items()}

    def show() -> None:
        for to, names in written.items():
            say(f"{to}: {len(names)} files; edit {names[0]}, then make -C {to} sim")

    emit(as_json, {"folders": written}, show)
