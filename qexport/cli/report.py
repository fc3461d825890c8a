"""Show a set, a run or a training as one page to look at."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import click

from qexport.cli.common.options import folder_argument, json_option, out_option, path_type
from qexport.cli.common.output import emit, say
from qexport.core.atomic import write_atomically
from qexport.errors import QexportError
from qexport.layout.paths import MANIFEST
from qexport.report.training import LOG
from qexport.runs.store import MARK, Store
from qexport.sets.folder import claims_to_be_set
from qexport.sets.manifest import read_manifest
from qexport.sim.keep import RUN


@click.command(name="report")
@folder_argument
@out_option("The page, an .html file; links in it lead to the files of the set from there.")
@click.option("--set", "of", type=path_type(), help="Of a run, or of those of a folder of sets: what they are of.")
@click.option("--data", type=path_type(), help="CIFAR-10, from which the set's pictures come, to be shown with it.")
@click.option(
    "--eval", "counted", type=path_type(), help="Of the sets of a network: what `eval --network NET --json` printed."
)
@json_option
def command(
    folder: Path, target: Path, of: Path | None, data: Path | None, counted: Path | None, as_json: bool
) -> None:
    """Show a set, a run or a training as one page to look at.

    FOLDER is what dump, `simulate --keep`, `regress --store` or train wrote. The page needs nothing beside itself.

    \b
    qexport report vectors/features_33 --out features_33.html
    qexport report run/ --set vectors/features_33 --out run.html
    qexport report runs/ --set vectors/ --out runs.html
    qexport report vectors/ --out network.html
    qexport report vectors/ --eval accuracy.json --out network.html
    qexport report store/ --out matrix.html
    qexport report result/vgg16_quant_gradual --out training.html
    """
    check_target(target, ".html")
    page = _page(folder, target, of, data) if counted is None else _network_page(folder, target, of, counted)
    write_atomically(target, page)
    emit(as_json, {"page": str(target), "bytes": len(page)}, lambda: say(f"written: {target}"))


def check_target(target: Path, suffix: str) -> None:
    """Raises QexportError where a page or picture cannot be written, or would change a set."""
    if target.suffix != suffix:
        raise QexportError(f"out: {target} ends in '{target.suffix}'; choose a name that ends in {suffix}")
    if not target.parent.is_dir():
        raise QexportError(f"out: {target.parent} is not a folder; make it first")
    if inside := [folder for folder in target.resolve().parents if claims_to_be_set(folder)]:
        raise QexportError(f"out: {target} lies in the set {inside[0]}, which holds its own files only; choose another")


def _page(folder: Path, target: Path, of: Path | None, data: Path | None) -> bytes:
    """The page of whatever the folder is."""
    if of is not None and not (folder / RUN).is_file() and not (of / MANIFEST).is_file():
        from qexport.report.runs import runs_page

        return runs_page(folder, of, target)
    if of is not None:
        from qexport.report.sets import run_page

        return run_page(folder, of, target)
    if (folder / RUN).is_file():
        raise QexportError(f"set: {folder} is a run, which does not say of which set; give it with --set")
    if (folder / LOG).is_file():
        from qexport.report.training import read_log, training_page

        return training_page(read_log(folder / LOG), folder.resolve().name)
    if (folder / MARK).is_file():
        from qexport.report.matrix import store_page

        return store_page(Store(folder))
    if (folder / MANIFEST).is_file():
        from qexport.report.sets import set_page

        return set_page(folder, target, _pictures(folder, data))
    from qexport.report.folder import folder_page

    return folder_page(folder, target)


def _network_page(folder: Path, target: Path, of: Path | None, counted: Path) -> bytes:
    """The page of a network's sets, or of what came back for them, with its accuracy."""
    from qexport.report.accuracy import read_accuracy

    accuracy = read_accuracy(counted, folder if of is None else of)
    if of is None:
        from qexport.report.folder import folder_page

        return folder_page(folder, target, accuracy)
    from qexport.report.runs import runs_page

    return runs_page(folder, of, target, accuracy)


def _pictures(folder: Path, data: Path | None) -> Any:
    """The pictures of a set, uint8 (n, 3, y, x), where their SHA-256 shows that they are those; else None.

    They are looked for in --data, else among the shipped ones.
    """
    source = read_manifest(folder).source
    if source.data_sha256 is None or not source.images:
        return None
    if data is None:
        if importlib.util.find_spec("PIL") is None:
            return None
        from qexport.frontends.vgg.shipped import known_pixels

        return known_pixels(source.images, source.data_sha256)
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg.data import open_split, read

    pixels = read(open_split(data, "test"), source.images).pixels.numpy()
    if hashlib.sha256(pixels.tobytes()).hexdigest() != source.data_sha256:
        raise QexportError(f"data: the pictures of {data} are not those of {folder}; leave --data out, or give theirs")
    return pixels
