"""Count how many test pictures a network classifies correctly."""

from pathlib import Path
from typing import Any

import click

from qexport.cli.common.network import load_network
from qexport.cli.common.options import data_options, device_option, json_option, network_options, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.progress import show_progress
from qexport.errors import QexportError


@click.command(name="eval")
@network_options
@click.option("--network", "integers", type=path_type(), help="A NAME.network.safetensors beside its checkpoint.")
@click.option("--images", type=click.IntRange(1), help="Of --network: how many pictures, from the first on.")
@data_options
@device_option
@json_option
def command(
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    integers: Path | None,
    images: int | None,
    data: Path,
    download: bool,
    device: str,
    as_json: bool,
) -> None:
    """Count how many test pictures a network classifies correctly.

    With --network: in exact integers, beside the checkpoint from which the network was imported, and how many
    pictures the two classify differently.

    \b
    qexport eval --checkpoint builtin --data cifar10/
    qexport eval --network vgg.network.safetensors --data cifar10/
    """
    if integers is not None:
        _compare(integers, checkpoint, weight_bits, act_bits, images, data, download, device, as_json)
        return
    if images is not None:
        raise click.UsageError("--images belongs to --network")
    network = load_network(checkpoint, weight_bits, act_bits)
    import torch

    from qexport.frontends.vgg.data import open_split, read
    from qexport.train.loop import count_correct, pick_device

    where = pick_device(device)
    pictures = read(open_split(data, "test", download)).to(where)
    correct, total = count_correct(network.model.double().to(where), pictures, torch.float64), len(pictures.labels)
    result = {"checkpoint": str(network.path), "correct": correct, "total": total, "top1": 100 * correct / total}
    emit(as_json, result, lambda: say(f"{network.path}: {correct}/{total} correct, top-1 {result['top1']:.2f} %"))


def _compare(
    path: Path,
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    images: int | None,
    data: Path,
    download: bool,
    device: str,
    as_json: bool,
) -> None:
    """The network in integers beside the one that it was imported from."""
    from qexport.core.network_file import network_sha256, read_network
    from qexport.core.network_run import Engine, batches

    integers = read_network(path)
    if integers.inputs[0].lookup is None or integers.inputs[0].shape != (3, 32, 32) or len(integers.inputs) > 1:
        raise QexportError(f"network: {path} does not take pictures of 32x32; --data has no others")
    framework = _of_network(path, integers.source.checkpoint_sha256, checkpoint, weight_bits, act_bits)
    import torch

    from qexport.frontends.vgg.data import normalise, open_split, read
    from qexport.train.loop import pick_device

    where = pick_device(device)
    source = open_split(data, "test", download)
    total = len(source) if images is None else images
    if total > len(source):
        raise QexportError(f"images: {total} is outside 1..{len(source)}, the pictures of {data}")
    model, engine = framework.model.double().to(where), Engine(integers)
    counts = [0, 0, 0]
    with show_progress(lines=True) as tell, torch.no_grad():
        for part in batches(total, engine.batch):
            pictures = read(source, range(part.start, part.stop))
            ours = _decide(engine, pictures.pixels.numpy())
            theirs = model(normalise(pictures.pixels.to(where), torch.float64)).argmax(1).cpu().numpy()
            labels = pictures.labels.numpy()
            for at, hits in enumerate((ours == labels, theirs == labels, ours != theirs)):
                counts[at] += int(hits.sum())
            tell("pictures", part.stop, total)
    result = {
        "network": str(path),
        "network_sha256": network_sha256(path),
        "checkpoint": str(framework.path),
        "total": total,
        "correct": counts[0],
        "top1": 100 * counts[0] / total,
        "checkpoint_correct": counts[1],
        "checkpoint_top1": 100 * counts[1] / total,
        "different": counts[2],
    }

    def show() -> None:
        say(f"{path}: {counts[0]}/{total} correct, top-1 {result['top1']:.2f} %, in integers")
        say(f"{framework.path}: {counts[1]}/{total} correct, top-1 {result['checkpoint_top1']:.2f} %, in float64")
        say(f"{counts[2]} of {total} pictures are classified differently")

    emit(as_json, result, show)


def _decide(engine: Any, pixels: Any) -> Any:
    from qexport.core.network_run import decisions

    (image,) = engine.network.inputs
    last = engine.network.outputs[0].from_
    return decisions(engine.run({image.name: image.codes(pixels)}, [last])[last])


def _of_network(path: Path, sha256: str | None, checkpoint: str | None, *bits: int | None) -> Any:
    """The checkpoint from which a network was imported: the one that is named, else the default, else the shipped."""
    for named in dict.fromkeys([checkpoint] if checkpoint else [None, "builtin"]):
        framework = load_network(named, *bits)
        if framework.sha256 == sha256:
            return framework
    raise QexportError(
        f"network: {path} was not imported from {framework.path}; give the --checkpoint that it was imported from"
    )
