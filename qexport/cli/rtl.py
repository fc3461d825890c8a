"""Write the reference RTL of a set's layer: a systolic array."""

from pathlib import Path

import click

from qexport.bench.rtl import PARTS, behind_array, render_rtl, styles_of
from qexport.cli.common.options import folder_argument, json_option, out_option
from qexport.cli.common.output import emit, say
from qexport.sets.folder import find_sets
from qexport.sets.manifest import read_manifest
from qexport.sets.staging import write_new_folders


@click.command(name="rtl")
@folder_argument
@click.option(
    "--style", type=click.Choice(list(PARTS)),
    help="ws: weight-stationary systolic array, os: output-stationary.  [default: ws, of matrix products os]",
)  # fmt: skip
@out_option("New folder for the files.")
@json_option
def command(folder: Path, style: str | None, target: Path, as_json: bool) -> None:
    """Write the reference RTL of a set's layer: a systolic array.

    It is synthesizable and stands behind AXI4-Streams and memories.
    In a folder of sets, of every one, into folders of their names.

    \b
    qexport rtl vectors/features_33 --style ws --out rtl/
    qexport rtl vectors/features_33 --style os --out rtl_os/
    """
    designs: dict[Path, dict[str, str]] = {}
    for path in find_sets(folder):
        manifest = read_manifest(path)
        files = render_rtl(style or styles_of(manifest)[0], manifest, *behind_array(path, manifest))
        files["files.f"] = "".join(f"{name}\n" for name in files if name != "dut_mm.sv")
        designs[target if path == folder else target / path.name] = files
    write_new_folders(designs)
    written = {str(to): list(files) for to, files in designs.items()}

    def show() -> None:
        for to, names in written.items():
            say(f"{to}: {len(names)} files, top modules dut and dut_mm")

    emit(as_json, {"folders": written}, show)
