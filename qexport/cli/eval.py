"""Count how many test pictures a network classifies correctly."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from qexport.cli.common.model import load_framework
from qexport.cli.common.network import load_network
from qexport.cli.common.options import data_options, device_option, json_option, network_options, path_type
from qexport.cli.common.output import emit, say
from qexport.cli.common.progress import show_progress
from qexport.core.network import IntegerNetwork, NetworkInput
from qexport.errors import QexportError


def _read_numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (param.name == "std" and min(numbers) <= 0):
        raise click.BadParameter(f"'{value}' is not a number for each channel, such as 0.5,0.5,0.5", ctx, param)
    return numbers


@dataclass(frozen=True)
class _Asked:
    """What stands beside the network in integers, and of which pictures."""

    checkpoint: str | None
    facts: tuple[int | None, ...]  # bits of weights and activations, side
    model: str | None
    weights: Path | None
    inputs: Path | None
    labels: Path | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    images: int | None
    data: Path
    download: bool
    device: str

    def given(self) -> list[str]:
        """Those that belong to --network."""
        names = ("model", "weights", "inputs", "labels", "mean", "std", "images")
        return [f"--{name}" for name in names if getattr(self, name) is not None]


@click.command(name="eval")
@network_options
@click.option("--network", "integers", type=path_type(), help="A NAME.network.safetensors beside what it came from.")
@click.option(
    "--model", metavar="MODULE:FUNCTION|FILE.onnx",
    help="Of --network: the ONNX file that it was imported from, or the PyTorch module behind that, which is run.",
)  # fmt: skip
@click.option("--weights", type=path_type(), help="A state_dict for a PyTorch --model.")
@click.option(
    "--inputs", type=path_type(), help="Of --model, in place of --data: .npy, pixels (uint8) or what the model takes."
)
@click.option("--labels", type=path_type(), help="Of --inputs: the class of each, .npy of integers.")
@click.option(
    "--mean", metavar="M[,M...]", callback=_read_numbers,
    help="Of --model: what is taken from pixels of 0..1, channel by channel.  [default: 0]",
)  # fmt: skip
@click.option(
    "--std", metavar="S[,S...]", callback=_read_numbers, help="Of --model: what they are divided by then.  [default: 1]"
)
@click.option("--images", type=click.IntRange(1), help="Of --network: how many pictures, from the first on.")
@data_options
@device_option
@json_option
def command(
    checkpoint: str | None,
    weight_bits: int | None,
    act_bits: int | None,
    side: int | None,
    integers: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Count how many test pictures a network classifies correctly.

    With --network: in exact integers, beside the checkpoint from which the network was imported, or beside the --model:
    an ONNX file is computed by onnxruntime, where it is installed and knows the operators, else by onnx.reference. Also
    how many pictures the two classify differently.

    \b
    qexport eval --checkpoint builtin --data cifar10/
    qexport eval --network vgg.network.safetensors --data cifar10/
    qexport eval --network net.network.safetensors --model net.onnx --data pictures/ --mean 0.5 --std 0.25
    qexport eval --network net.network.safetensors --model net.onnx --inputs x.npy --labels y.npy
    """
    of = _Asked(checkpoint, (weight_bits, act_bits, side), **asked)
    if integers is not None:
        _compare(integers, of, as_json)
        return
    if given := of.given():
        raise click.UsageError(f"{', '.join(given)} belongs to --network")
    network = load_network(checkpoint, *of.facts)
    import torch

    from qexport.frontends.vgg.data import open_split, read
    from qexport.train.loop import count_correct, pick_device

    where, model = pick_device(of.device), network.model
    source = open_split(of.data, "test", of.download, model.side, model.classifier.out_features)
    pictures = read(source, side=model.side).to(where)
    correct, total = count_correct(model.double().to(where), pictures, torch.float64), len(pictures.labels)
    result = {"checkpoint": str(network.path), "correct": correct, "total": total, "top1": 100 * correct / total}
    emit(as_json, result, lambda: say(f"{network.path}: {correct}/{total} correct, top-1 {result['top1']:.2f} %"))


def _compare(path: Path, asked: _Asked, as_json: bool) -> None:
    """The network in integers beside what it was imported from."""
    from qexport.core.network_file import network_sha256, read_network
    from qexport.core.network_run import Engine, batches, decisions

    integers = read_network(path)
    if len(integers.inputs) > 1:
        raise QexportError(f"network: {path} has {len(integers.inputs)} inputs; pictures are one")
    classes = _classes(path, integers)
    total, read = _source(path, integers.inputs[0], classes, asked)
    framework = load_framework(path, integers, asked.model, asked.weights, asked.checkpoint, asked.facts,
                               (asked.mean, asked.std), asked.device)  # fmt: skip
    (image,), engine, last = integers.inputs, Engine(integers), integers.outputs[0].from_
    counts, step = [0, 0, 0], max(engine.batch // framework.each, 1) * framework.each
    with show_progress(lines=True) as tell:
        for part in batches(total, step):
            given, labels = read(range(part.start, part.stop))
            ours = decisions(engine.run({image.name: framework.codes(image, given)}, [last])[last])
            theirs = decisions(framework.logits(given, classes))
            for at, hits in enumerate((ours == labels, theirs == labels, ours != theirs)):
                counts[at] += int(hits.sum())
            tell("pictures", part.stop, total)
    beside = "checkpoint" if asked.model is None else "model"
    result = {
        "network": str(path),
        "network_sha256": network_sha256(path),
        beside: framework.name,
        "by": framework.by,
        "total": total,
        "correct": counts[0],
        "top1": 100 * counts[0] / total,
        f"{beside}_correct": counts[1],
        f"{beside}_top1": 100 * counts[1] / total,
        "different": counts[2],
    }

    def show() -> None:
        say(f"{path}: {counts[0]}/{total} correct, top-1 {result['top1']:.2f} %, in integers")
        say(f"{framework.name}: {counts[1]}/{total} correct, top-1 {result[f'{beside}_top1']:.2f} %, {framework.by}")
        say(f"{counts[2]} of {total} pictures are classified differently")

    emit(as_json, result, show)


Read = Callable[[Sequence[int]], tuple[Any, Any]]  # inputs and labels of some numbers


def _classes(path: Path, integers: IntegerNetwork) -> int:
    last = integers.placed[integers.outputs[0].from_]
    if last.output[0] != 1 or any(size != 1 for size in last.output[2:]):
        raise QexportError(f"network: {path} gives no vector of logits for a picture; it classifies nothing")
    return last.output[1]


def _source(path: Path, image: NetworkInput, classes: int, asked: _Asked) -> tuple[int, Read]:
    """How many pictures there are, and what reads them."""
    there, read = _arrays(asked, image.shape) if asked.inputs else _pictures(path, asked, image.shape, classes)
    total = there if asked.images is None else asked.images
    if total > there:
        raise QexportError(f"images: {total} is outside 1..{there}, the pictures of {asked.inputs or asked.data}")
    return total, read


def _pictures(path: Path, asked: _Asked, shape: Sequence[int], classes: int) -> tuple[int, Read]:
    if asked.labels is not None:
        raise click.UsageError("--labels belongs to --inputs")
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise QexportError(f"network: {path} takes {'x'.join(map(str, shape))}, not pictures of one side; --data has "
                           "no others: give --inputs and --labels")  # fmt: skip
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg.data import open_split, read

    source = open_split(asked.data, "test", asked.download, shape[1], classes)

    def some(indices: Sequence[int]) -> tuple[Any, Any]:
        pictures = read(source, indices, shape[1])
        return pictures.pixels.numpy(), pictures.labels.numpy()

    return len(source), some


def _arrays(asked: _Asked, shape: Sequence[int]) -> tuple[int, Read]:
    from qexport.frontends.inputs import arrays

    if asked.labels is None or asked.model is None or asked.inputs is None:
        raise click.UsageError("--inputs needs --model and --labels, the class of each")
    given, labels = (next(iter(arrays(path).values()), np.zeros(0)) for path in (asked.inputs, asked.labels))
    if given.shape[1:] != tuple(shape) or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise QexportError(
            f"inputs: {asked.inputs} is {given.dtype} {given.shape}; this network takes finite numbers (n, "
            f"{', '.join(map(str, shape))})"
        )
    if labels.shape != (len(given),) or labels.dtype.kind not in "iu" or not len(labels):
        raise QexportError(
            f"labels: {asked.labels} is {labels.dtype} {labels.shape}; needs a class for each of {len(given)} inputs"
        )
    return len(given), lambda indices: (given[indices[0] : indices[-1] + 1], labels[indices[0] : indices[-1] + 1])
