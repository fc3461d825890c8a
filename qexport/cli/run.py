"""Run a network in integers, from its inputs or from a layer on."""

from pathlib import Path
from typing import Any

import click
import msgspec

from qexport.build.inputs import SAMPLES, open_inputs, read_array
from qexport.build.network import Replay, run_network
from qexport.cli.common.options import json_option, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.progress import show_progress
from qexport.core.network_file import read_network
from qexport.core.network_run import Engine
from qexport.errors import QexportError


@click.command(name="run")
@click.argument("network", type=path_type())
@click.option(
    "--inputs", type=path_type(),
    help="A picture, a folder of them; .npy of pixels (uint8) or codes; .safetensors with an array for each input.  "
    "[default: the pictures that ship]",
)  # fmt: skip
@click.option("--images", type=click.IntRange(1), help="How many of them, from the first on.  [default: all]")
@click.option("--from", "start", metavar="LAYER", help="Go on from this layer's output, which --with gives.")
@click.option("--with", "codes", type=path_type(), help="Codes for it: an array (.npy), or with --set what RTL gave.")
@click.option("--set", "of", type=path_type(), help="The layer's set, where --with is words, or a run's folder.")
@click.option("--to", "layer", metavar="LAYER", help="The layer whose output is wanted.  [default: the network's]")
@click.option("--out", type=path_type(), help="File for its codes, .npy.")
@json_option
def command(
    network: Path,
    inputs: Path | None,
    images: int | None,
    start: str | None,
    codes: Path | None,
    of: Path | None,
    layer: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a network in integers, from its inputs or from a layer on.

    Every code is exact. With --from and --with the network goes on from codes that came from elsewhere; with --inputs
    beside them it says which codes and decisions these change.

    \b
    qexport run vgg.network.safetensors --inputs pictures/ --out logits.npy
    qexport run vgg.network.safetensors --inputs pictures/ --to features.33 --out codes.npy
    qexport run vgg.network.safetensors --inputs pictures/ --from features.33 --with rtl.npy --out logits.npy
    qexport run vgg.network.safetensors --from features.33 --set vectors/features_33 --with run/
    """
    if (start is None) != (codes is None):
        raise click.UsageError("--from LAYER and --with CODES belong together")
    if of is not None and codes is None:
        raise click.UsageError("--set belongs to --with")
    read = read_network(network)
    replay = None
    if start is not None and codes is not None:
        replay = Replay(read, start, _given(codes, of), str(codes))
    path = SAMPLES if inputs is None and replay is None else inputs
    given = None if path is None else open_inputs(path, read)
    there = given.pictures if given is not None else replay.pictures if replay is not None else 0
    count = there if images is None else images
    if count > there:
        raise QexportError(f"images: {count} is outside 1..{there}, the pictures of {path or codes}")
    with show_progress() as tell:
        ran = run_network(
            Engine(read), layer, given, range(count), replay, out, lambda done: tell("pictures", done, count)
        )

    def show() -> None:
        say(str(ran))
        if out is not None:
            say(f"written: {out}")

    emit(as_json, msgspec.to_builtins(ran) | {"out": out and str(out)}, show)


def _given(codes: Path, of: Path | None) -> Any:
    """The codes of --with, as they stand in an array, or in what a design gave for a set."""
    if of is None:
        return read_array(codes, "with")
    from qexport.findings.network import returned_codes

    return returned_codes(of, codes)
