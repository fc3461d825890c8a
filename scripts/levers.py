"""What each part of the recipe of `qexport train` buys: short runs with one part changed, of two seeds.

python scripts/levers.py --data cifar10/ --out result/levers [--write]

A run that is finished under --out is not repeated, so that the table may be made in several goes.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import click
import torch
from pages import filled
from torch import Tensor

from qexport.frontends.vgg.data import augment, open_split, read
from qexport.train import loop
from qexport.train.precision import settle

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "training.md"


def sgd(params: list[Tensor], lr: float, dtype: torch.dtype) -> torch.optim.SGD:
    """What trains all else, with the weight decay that is usual."""
    return torch.optim.SGD(params, lr, loop.MOMENTUM, weight_decay=loop.WEIGHT_DECAY, nesterov=True, fused=True)


def mirror_at_random(pixels: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    return augment(pixels, top, left, torch.rand(len(pixels), device=pixels.device) < 0.5)


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {"Muon": loop.Muon},
    "SGD for the convolutions, too": {"Muon": sgd, "MUON_LR": 1.0},
    "no float warm start": {"FLOAT_SHARE": 0.0},
    "no averaged weights": {"AVERAGE_SHARE": 1e-9},
    "no label smoothing": {"LABEL_SMOOTHING": 0.0},
    "mirrored at random": {"augment": mirror_at_random},
    "distorted, and squares cut out": {"STRONG_EPOCHS": 0},
}


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
    first = 0.0
    rows = [f"| {epochs} epochs | {' | '.join(f'seed {seed}' for seed in range(seeds))} | mean | against the recipe |"]
    rows.append("|---" * (seeds + 3) + "|")
    for name, change in CHANGES.items():
        top1 = []
        for seed in range(seeds):
            folder = out / f"{name.replace(' ', '-')}-{epochs}-{seed}"
            recipe = loop.Recipe(epochs=epochs, seed=seed, precision=precision)
            log = folder / loop.LOG
            if not log.exists() or len(log.read_text(encoding="utf-8").splitlines()) < epochs:
                with patch.multiple(loop, **change):
                    loop.train(recipe, training, validation, folder, device, say=click.echo)
            top1.append(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["top1"])
        first = first or mean(top1)  # that of the recipe as it is
        each = " | ".join(f"{value:.2f} %" for value in top1)
        rows.append(f"| {name} | {each} | {mean(top1):.2f} % | {mean(top1) - first:+.2f} |")
        click.echo(rows[-1])
    table = "\n".join(rows)
    if write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), "levers", table), encoding="utf-8")


if __name__ == "__main__":
    main()
