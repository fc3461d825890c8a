"""The command verify."""

from pathlib import Path
from typing import Any

import click

from qexport.build.verify import Fault, verify, verify_index
from qexport.cli.options import folder_argument, json_option
from qexport.cli.output import SHOWN_FAULTS, emit, golden_text, say
from qexport.errors import CheckFailed, QexportError, few
from qexport.sets.folder import find_sets
from qexport.sets.index import INDEX
from qexport.sets.manifest import Manifest


@click.command(name="verify")
@folder_argument
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Check every file of a set, and every code against the golden.

    In a folder of sets, of every one. Hashes must agree, and no stray file may stand there.

    \b
    qexport verify vectors/features_33
    """
    results: list[tuple[Path, Manifest | None, list[Fault]]] = []
    unusable: dict[Path, QexportError] = {}
    for path in find_sets(folder):
        try:
            results.append((path, *verify(path)))
        except QexportError as error:
            unusable[path] = error
    if faults_of_index := verify_index(folder):
        results.append((folder / INDEX, None, faults_of_index))
    failed = [path for path, _, faults in results if faults]

    def show() -> None:
        for path, manifest, faults in results:
            if manifest and not faults:
                bench = f"; {manifest.bench_note}" if manifest.bench_note else ""
                say(f"{path}: ok, {manifest.file_count} files; {golden_text(manifest)}{bench}")
                continue
            say(f"{path}: {len(faults)} fault(s)")
            for fault in faults[:SHOWN_FAULTS]:
                say(f"  {fault}")
            if len(faults) > SHOWN_FAULTS:
                say(f"  ... and {len(faults) - SHOWN_FAULTS} more")

    listed: list[dict[str, Any]] = [
        {"set": str(path), "faults": [fault.as_json() for fault in faults]}
        | ({"bench": manifest.bench_note} if manifest and manifest.bench_note else {})
        for path, manifest, faults in results
    ]
    listed += [{"set": str(path), "error": str(error)} for path, error in unusable.items()]
    emit(as_json, {"ok": not failed and not unusable, "sets": listed}, show)
    if failed:
        raise CheckFailed(
            f"verify: {len(failed)} of {len(results) + len(unusable)} set(s) failed: {few(failed)}; "
            "dump them again, or remove what does not belong there"
        )
    if unusable:
        raise next(iter(unusable.values()))
