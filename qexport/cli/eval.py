"""Count how many test pictures a network classifies correctly."""

from pathlib import Path

import click

from qexport.cli.common.network import load_network
from qexport.cli.common.options import data_options, device_option, json_option, network_options
from qexport.cli.common.output import emit, say


@click.command(name="eval")
@network_options
@data_options
@device_option
@json_option
def command(
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    data: Path,
    download: bool,
    device: str,
    as_json: bool,
) -> None:
    """Count how many test pictures a network classifies correctly.

    \b
    qexport eval --checkpoint builtin --data cifar10/
    """
    network = load_network(checkpoint, weight_bits, act_bits)
    import torch

    from qexport.frontends.vgg.data import open_split, read
    from qexport.train.loop import count_correct, pick_device

    where = pick_device(device)
    pictures = read(open_split(data, "test", download)).to(where)
    correct, total = count_correct(network.model.double().to(where), pictures, torch.float64), len(pictures.labels)
    result = {"checkpoint": str(network.path), "correct": correct, "total": total, "top1": 100 * correct / total}
    emit(as_json, result, lambda: say(f"{network.path}: {correct}/{total} correct, top-1 {result['top1']:.2f} %"))
