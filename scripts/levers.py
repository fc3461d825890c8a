"""What each part of the recipe of `qexport train` buys: short runs with one part changed, of two seeds.

python scripts/levers.py --data cifar10/ --out result/levers [--write]

What is finished stands in levers.json and is not repeated, so that the table may be made in several goes and on several
machines: in one kind of arithmetic they come out alike. Delete the file to measure all anew.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import click
import torch
from pages import fill_in
from torch import Tensor
from torch.nn import functional

from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import Pictures, augment, normalise, open_split, read
from qexport.frontends.vgg.model import CLASSES, QuantVGG, build
from qexport.train import loop
from qexport.train.loop import balance
from qexport.train.precision import settle

RECORD = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "training.md"
AS_IT_IS = "as it is"


def sgd(params: list[Tensor], lr: float, dtype: torch.dtype) -> torch.optim.SGD:
    """What trains all else, with the weight decay that is usual."""
    return torch.optim.SGD(params, lr, loop.MOMENTUM, weight_decay=loop.WEIGHT_DECAY, nesterov=True, fused=True)


def mirror_at_random(pixels: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    return augment(pixels, top, left, torch.rand(len(pixels), device=pixels.device) < 0.5)


def principal(training: Pictures) -> Callable[[QuantVGG], None]:
    """How a model starts, and its first layer with the principal directions of 3x3 patches, of both signs: together
    with the BatchNorm behind, these make the patches white."""

    @torch.no_grad()
    def start(model: QuantVGG) -> None:
        balance(model)
        patches = functional.unfold(normalise(training.spread(1000)), 3).transpose(1, 2).reshape(-1, 27)
        directions = torch.linalg.eigh(patches.T.cov())[1].T.reshape(-1, 3, 3, 3)
        weight = model.quantized()[0].weight
        weight[: 2 * len(directions)] = torch.cat([directions, -directions]) * weight.std() * 27**0.5

    return start


class Taught(loop._State):
    """What training changes; half of what is to be learned is what the average of the float epochs says."""

    def switch(self, quantized: bool) -> None:
        if quantized:
            self.teacher = copy.deepcopy(self.averaged).eval()  # with the quantizers off
        super().switch(quantized)

    def step(self, x: Tensor, y: Tensor, step: int, lr: float, quantized: bool) -> tuple[Tensor, Tensor]:
        target = functional.one_hot(y, CLASSES).float()
        if quantized:
            with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, self.recipe.precision == "bf16"):
                target = (target + self.teacher(x).float().softmax(1)) / 2
        return super().step(x, target, step, lr, quantized)


def changes(training: Pictures) -> dict[str, dict[str, Any]]:
    """What of train.loop is another, by name."""
    return {
        AS_IT_IS: {"Muon": loop.Muon},
        "mirrored at random": {"augment": mirror_at_random},
        "SGD for the convolutions, too, at a tenth of the rate": {"Muon": sgd, "MUON_LR": 0.1},
        "SGD for the convolutions, too": {"Muon": sgd, "MUON_LR": 1.0},
        "no float warm start": {"FLOAT_SHARE": 0.0},
        "distorted, and squares cut out": {"STRONG_EPOCHS": 0},
        "half of the learning rate for the convolutions": {"MUON_LR": loop.MUON_LR / 2},
        "first layer starts white": {"balance": principal(training)},
        "half taught by the float average": {"_State": Taught},
        "no label smoothing": {"LABEL_SMOOTHING": 0.0},
    }


def unaveraged(folder: Path, validation: Pictures, device: torch.device) -> float:
    """Top-1, in percent, of the weights that the average of a run is of: it changes nothing of the training."""
    model = build(loop.Recipe().model)
    model.load_state_dict(checkpoint.read_training(folder / checkpoint.LAST)["model"])
    model = model.to(device, memory_format=torch.channels_last)
    return 100 * loop.count_correct(model, validation) / len(validation.labels)


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs.")
@click.option("--epochs", default=3, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--write", is_flag=True, help="Put the table into docs/how-to/training.md.")
def main(data: Path, out: Path, epochs: int, seeds: int, write: bool) -> None:
    """Train with each part changed, and compare the last epochs."""
    training, validation = (read(open_split(data, split)) for split in ("train", "test"))
    device = loop.pick_device("auto")
    precision = settle(loop.Recipe(precision=loop.AUTO), None, device, click.echo).precision
    rows = [f"| {epochs} epochs | {' | '.join(f'seed {seed}' for seed in range(seeds))} | mean | against the recipe |"]
    rows.append("|---" * (seeds + 3) + "|")
    first: list[float] = []  # what the recipe as it is reaches
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}

    def show(name: str, top1: list[float]) -> None:
        each = " | ".join(f"{value:.2f} %" for value in top1)
        rows.append(f"| {name} | {each} | {mean(top1):.2f} % | {mean(top1) - mean(first):+.2f} |")
        click.echo(rows[-1])
        if write:
            fill_in(PAGE, "levers", "\n".join(rows))

    for name, change in changes(training).items():
        runs = []
        for seed in range(seeds):
            key = f"{name.replace(' ', '-')}-{epochs}-{seed}-{precision}"
            if key not in record:
                recipe = loop.Recipe(epochs=epochs, seed=seed, precision=precision)
                with patch.multiple(loop, **change):
                    loop.train(recipe, training, validation, out / key, device, say=click.echo)
                log = [json.loads(line) for line in (out / key / loop.LOG).read_text(encoding="utf-8").splitlines()]
                record[key] = {part: [epoch[part] for epoch in log] for part in ("loss", "top1")}
                if name == AS_IT_IS:
                    record[key]["unaveraged"] = unaveraged(out / key, validation, device)
                RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            runs.append(record[key])
        top1 = [run["top1"][-1] for run in runs]
        first = first or top1
        show(name, top1)
        if name == AS_IT_IS:
            show("no averaged weights", [run["unaveraged"] for run in runs])


if __name__ == "__main__":
    main()
