"""Draw one picture of a set's report as an SVG file."""

from pathlib import Path

import click

from qexport.cli.common.options import folder_argument, json_option, out_option
from qexport.cli.common.output import emit, say
from qexport.cli.report import check_target
from qexport.core.atomic import write_atomically


@click.command(name="plot")
@folder_argument
@click.option("--what", required=True, help="Which one: docs/how-to/report.md lists them.")
@out_option("The picture, an .svg file; it follows the reader's light or dark screen.")
@json_option
def command(folder: Path, what: str, target: Path, as_json: bool) -> None:
    """Draw one picture of a set's report as an SVG file.

    \b
    qexport plot vectors/features_33 --what layer --out layer.svg
    qexport plot vectors/features_33 --what codes-weight --out weights.svg
    """
    from qexport.report.sets import plot

    check_target(target, ".svg")
    write_atomically(target, plot(folder, what))
    emit(as_json, {"picture": str(target)}, lambda: say(f"written: {target}"))
