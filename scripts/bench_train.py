"""Training speed, side by side in one run: the plain loop of a notebook against `qexport train`.

python scripts/bench_train.py [--write]                                 # images/s; needs no data: speed does not look
python scripts/bench_train.py --data cifar10/ --to-accuracy 90.44       # and seconds to that accuracy (a GPU)
python scripts/bench_train.py --data cifar10/ --codes                   # codes that differ between GPU and CPU (a GPU)
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from pages import fill_in
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import MEAN, STD, Pictures, normalise, open_split, read
from qexport.frontends.vgg.model import build
from qexport.frontends.vgg.quant import QuantConv2d
from qexport.train.loop import Recipe, pick_device, train

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "training.md"
NOTEBOOK_EPOCHS, NOTEBOOK_TOP1 = 200, 90.44  # what the notebook reports of its whole schedule
ROUNDS = 3


class AsTorchvision(Dataset[tuple[Tensor, int]]):
    """Pictures as torchvision's CIFAR10 hands them out: one at a time, through PIL and its transforms."""

    def __init__(self, pictures: Pictures):
        self.arrays = pictures.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = pictures.labels.tolist()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def notebook(pictures: Pictures, device: torch.device) -> float:
    """Images/s of one epoch of the notebook's loop: fp32, batch 128, a DataLoader with its default workers (none)."""
    model = build("vgg16_quant_gradual").to(device).train()
    loader = DataLoader(AsTorchvision(pictures), batch_size=128, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    began = time.perf_counter()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss = criterion(logits, y)
        (logits.argmax(1) == y).float().mean().item()
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(pictures.labels) / (time.perf_counter() - began)


def ours(pictures: Pictures, device: torch.device, recipe: Recipe) -> float:
    """Images/s of the last epoch of `qexport train`, the quantizers on."""
    few = Pictures(pictures.pixels[:100], pictures.labels[:100])
    with tempfile.TemporaryDirectory() as out:
        rate: float = train(recipe, pictures, few, Path(out), device)[-1]["images_per_second"]
    return rate


def rates(device: torch.device, batch_size: int) -> dict[str, float]:
    """The best of some rounds of each, taken in turns so that other work on the machine meets both."""
    gpu = device.type == "cuda"
    rng = np.random.default_rng(0)
    count = 25_600 if gpu else 640
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), np.uint8))
    pictures = Pictures(pixels, torch.from_numpy(rng.integers(0, 10, count)))
    recipe = Recipe(epochs=6 if gpu else 1, batch_size=batch_size)  # on a GPU the first epochs compile
    both = [(notebook(pictures, device), ours(pictures, device, recipe)) for _ in range(ROUNDS)]
    plain, fast = (max(column) for column in zip(*both, strict=True))
    return {"notebook": plain, "ours": fast, "ratio": fast / plain}


def to_accuracy(data: Path, device: torch.device, target: float, epochs: int, batch_size: int, lr: float) -> str:
    """Wall seconds of a whole run up to the first epoch whose validation reaches the target."""
    training, validation = (read(open_split(data, split)) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as out:
        recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=lr)
        records = train(recipe, training, validation, Path(out), device)
    reached = [record for record in records if record["quantized"] and record["top1"] >= target]
    if reached:
        return f"{reached[0]['seconds']:.0f} s, validation and compilation included (epoch {reached[0]['epoch']})"
    return f"not reached in {epochs} epochs ({records[-1]['seconds']:.0f} s): {records[-1]['top1']:.2f} %"


@torch.no_grad()
def differing_codes(data: Path, device: torch.device, count: int) -> list[tuple[str, int, int]]:
    """Of each layer of the shipped network: its name, its input codes, and how many the device gives differently."""
    pictures = read(open_split(data, "test"), range(count)).pixels
    seen: dict[str, list[Tensor]] = {}

    def look(name: str) -> Any:
        def hook(conv: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(conv, QuantConv2d)
            seen.setdefault(name, []).append(conv.input_codes(args[0]).cpu())

        return hook

    for where in (torch.device("cpu"), device):
        model = checkpoint.load(checkpoint.BUILTIN).model.to(where)
        for index, conv in model.quantized().items():
            conv.register_forward_pre_hook(look(f"features.{index}"))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            model(normalise(pictures.to(where)))
    return [(name, cpu.numel(), int((cpu != other).sum())) for name, (cpu, other) in seen.items()]


@click.command()
@click.option("--data", type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True)
@click.option("--batch-size", default=None, type=int, help="Of ours; the notebook's is 128. Default: 512 on a GPU.")
@click.option("--to-accuracy", "to_accuracy_", type=float, help="Top-1 in percent, 4-bit; needs --data.")
@click.option("--epochs", default=16, show_default=True, help="Of the run to that accuracy.")
@click.option("--lr", default=0.3, show_default=True, help="Of the run to that accuracy.")
@click.option("--codes", is_flag=True, help="Count the codes that GPU and CPU give differently; needs --data.")
@click.option("--write", is_flag=True, help="Put the figures into docs/how-to/training.md.")
def main(
    data: Path | None,
    device: str,
    batch_size: int | None,
    to_accuracy_: float | None,
    epochs: int,
    lr: float,
    codes: bool,
    write: bool,
) -> None:
    """Compare the plain loop of a notebook with `qexport train`."""
    if data is None and (codes or to_accuracy_ is not None):
        raise click.UsageError("--codes and --to-accuracy need --data")
    where = pick_device(device)
    batch = batch_size or (512 if where.type == "cuda" else 128)
    name = (
        torch.cuda.get_device_name(where)
        if where.type == "cuda"
        else f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    )
    found = rates(where, batch)
    plain, fast = f"{found['notebook']:,.1f}", f"{found['ours']:,.1f}, batch {batch}"
    rows = [
        f"| on {name}, PyTorch {torch.__version__} | the notebook's loop | `qexport train` | ratio |",
        "|---|---|---|---|",
        f"| training, images/s | {plain} | {fast} | {found['ratio']:.2f} |",
    ]
    if data is not None and to_accuracy_ is not None:
        whole = NOTEBOOK_EPOCHS * 50_000 / found["notebook"]
        said = to_accuracy(data, where, to_accuracy_, epochs, batch, lr)
        rows.append(
            f"| to {to_accuracy_} % | {whole:,.0f} s, extrapolated: {NOTEBOOK_EPOCHS} epochs at its rate, after which "
            f"it reports {NOTEBOOK_TOP1} % | {said} | |"
        )
    if data is not None and codes:
        counts = differing_codes(data, where, 1000)
        total, different = (sum(row[at] for row in counts) for at in (1, 2))
        worst = max(counts, key=lambda row: row[2] / row[1])
        rows.append(
            f"| input codes that differ from the CPU's, 1000 test pictures | | {different:,} of {total:,}; "
            f"most in {worst[0]}: {worst[2]:,} of {worst[1]:,} | |"
        )
    table = "\n".join(rows)
    click.echo(table)
    if write:
        fill_in(PAGE, "speed", table)


if __name__ == "__main__":
    main()
