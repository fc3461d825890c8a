"""Say what a word of a memory file holds, lane by lane."""

import re
from dataclasses import asdict
from pathlib import Path

import click

from qexport.build.show import dissect
from qexport.cli.common.options import folder_argument, json_option
from qexport.cli.common.output import emit, say
from qexport.cli.common.tables import make_table, print_table
from qexport.errors import QexportError, few, near
from qexport.layout.tiling import describe_index
from qexport.sets.folder import find_sets
from qexport.sets.manifest import read_manifest


@click.command(name="show")
@folder_argument
@click.argument("place", metavar="FILE:LINE")
@json_option
def command(folder: Path, place: str, as_json: bool) -> None:
    """Say what a word of a memory file holds, lane by lane.

    In a folder of sets, for every set with that file.

    \b
    qexport show vectors/features_33 weight.hex:5
    """
    path, _, number = place.rpartition(":")
    if not path or not re.fullmatch(r"0*[1-9][0-9]{0,17}", number):
        raise QexportError(f"place: '{place}' is not FILE:LINE, such as weight.hex:5")
    sets = [(found, read_manifest(found)) for found in find_sets(folder)]
    words = [
        word
        for found, manifest in sets
        if manifest.memory_of(path)
        for word in dissect(found, manifest, path, int(number))
    ]
    if not words:
        names = [file.path for _, manifest in sets for m in manifest.memories for file in m.files]
        raise QexportError(f"place: '{path}' is not a memory file of {folder}; it has {few(near(path, names))}")

    def show() -> None:
        for word in words:
            kind = "  (header)" if word.header else ""
            say(f"{word.file}:{word.line}  {word.text}{kind}")
            if word.header:
                continue
            shifted = any(lane.stored != lane.code for lane in word.lanes)  # or what was stored is not the code
            table = make_table("lane", f"{word.tensor} index", "code", "bits", *(["stored"] if shifted else []))
            for lane in word.lanes:
                stored = [str(lane.stored)] if shifted else []
                table.add_row(
                    str(lane.lane),
                    describe_index(lane.index),
                    "?" if lane.code is None else str(lane.code),
                    lane.bits,
                    *stored,
                )
            print_table(table)

    emit(as_json, {"words": [asdict(word) for word in words]}, show)
