"""Quantization-aware training in one flat loop: one-cycle Nesterov SGD, crop and flip, validation each epoch."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from qexport.errors import CheckFailed, QexportError
from qexport.nn import checkpoint
from qexport.nn.data import Pictures, augment, normalise
from qexport.nn.quant import QuantConv2d
from qexport.nn.vgg import MODELS, QuantVGG, build

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
WARM_UP = 0.25  # share of the steps until the learning rate peaks
ALPHA_LR = 0.1  # the alphas' learning rate as a share of the weights': their gradients are sums over whole tensors
ALPHA_MIN = 1e-3
CALIBRATION_QUANTILE = 0.999
EVAL_BATCH = 500
LOG = "log.jsonl"


@dataclass(frozen=True)
class Recipe:
    """What decides a run's result, stored in its checkpoints; a resumed run must agree with it."""

    model: str = "vgg16_quant_gradual"
    weight_bits: int = 4
    act_bits: int = 4
    epochs: int = 14
    batch_size: int = 128
    lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise QexportError(f"model: '{self.model}' is not known; choose one of {', '.join(MODELS)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise QexportError(f"lr: {self.lr} must be finite and above 0")


def starting_state(recipe: Recipe, out: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint under `out` that a run goes on from; None for a fresh start.

    Raises QexportError when a fresh start would overwrite a checkpoint, or resuming finds none or another recipe's.
    """
    if out.exists() and not out.is_dir():
        raise QexportError(f"out: {out} is a file; give a folder")
    last = out / checkpoint.LAST
    if not resume:
        if last.exists():
            raise QexportError(f"out: {last} is there already; add --resume, or choose another --out")
        return None
    state = checkpoint.read_training(last)
    for key, value in asdict(recipe).items():
        if state["recipe"].get(key) != value:
            raise QexportError(f"resume: {key} {value} contradicts {state['recipe'].get(key)} in {last}")
    return state


def pick_device(name: str) -> torch.device:
    """The named device, or for 'auto' a GPU where there is one; raises QexportError when it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise QexportError(f"device: '{name}' cannot be used: {reason}; try --device auto") from None


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """One cycle: linear from a tenth of the peak up to the peak, then linear down to zero."""
    peak = WARM_UP * steps
    return recipe.lr * (0.1 + 0.9 * step / peak if step < peak else (steps - step) / (steps - peak))


@torch.no_grad()
def calibrate(model: QuantVGG, x: Tensor) -> None:
    """Start every act_alpha from its layer's own inputs, layer after layer, so that early steps do not waste levels.

    A layer with signed inputs (the first) takes the largest value: it clips from above only.
    """

    def start(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, QuantConv2d)
        values = args[0].float().flatten()
        rank = len(values) if values.min() < 0 else math.ceil(CALIBRATION_QUANTILE * len(values))
        module.act_alpha.copy_(values.kthvalue(rank).values.clamp(min=ALPHA_MIN))

    hooks = [conv.register_forward_pre_hook(start) for conv in model.quantized().values()]
    model.train()
    model(x)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def count_correct(model: QuantVGG, pictures: Pictures) -> int:
    """How many pictures the network classifies correctly, in float32."""
    model.eval()
    correct = 0
    for start in range(0, len(pictures.labels), EVAL_BATCH):
        logits = model(normalise(pictures.pixels[start : start + EVAL_BATCH]))
        correct += int((logits.argmax(1) == pictures.labels[start : start + EVAL_BATCH]).sum())
    return correct


def batches(pictures: Pictures, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's shuffled, augmented batches; they depend on seed and epoch alone, so that a resumed run repeats."""
    rng = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(len(pictures.labels), generator=rng).to(pictures.labels.device)
    for chosen in torch.split(order, recipe.batch_size):
        yield normalise(augment(pictures.pixels[chosen], rng)), pictures.labels[chosen]


def _keep_log(path: Path, epochs: int) -> None:
    """Drop what the log says of epochs that will be repeated."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:epochs]), encoding="utf-8")


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield progress


def train(
    recipe: Recipe,
    training: Pictures,
    validation: Pictures,
    out: Path,
    device: torch.device,
    start: dict[str, Any] | None = None,
) -> float:
    """Train, write checkpoint.pth, model_best.pth.tar and log.jsonl under `out`, return the best top-1 in percent.

    bf16 autocast covers the convolutions; the quantizers and the loss are computed in float32.
    `start` is what starting_state gave. Raises CheckFailed on a NaN loss (the checkpoint of the epoch before stays).
    """
    console = Console(stderr=True)
    training, validation = training.to(device), validation.to(device)
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.weight_bits, recipe.act_bits).to(device)
    model = model.to(memory_format=torch.channels_last)
    if start is None:
        calibrate(model, next(batches(training, recipe, 0))[0])
    alphas = [p for name, p in model.named_parameters() if name.endswith("alpha")]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for name, p in model.named_parameters() if p.ndim == 1 and not name.endswith("alpha")]
    optimizer = torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY, "share": 1.0},
            {"params": plain, "share": 1.0},
            {"params": alphas, "share": ALPHA_LR},
        ],
        lr=recipe.lr,
        momentum=MOMENTUM,
        nesterov=True,
    )
    first_epoch, best = 0, 0.0
    if start is not None:
        model.load_state_dict(start["state_dict"])
        optimizer.load_state_dict(start["optimizer"])
        first_epoch, best = start["epoch"], start["best_prec"]
    criterion = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    per_epoch = math.ceil(len(training.labels) / recipe.batch_size)
    steps = recipe.epochs * per_epoch
    out.mkdir(parents=True, exist_ok=True)
    _keep_log(out / LOG, first_epoch)

    with _progress(console) as progress:
        bar = progress.add_task("training", total=steps, completed=first_epoch * per_epoch, rate="")
        for epoch in range(first_epoch, recipe.epochs):
            model.train()
            began, seen, loss_sum = time.perf_counter(), 0, 0.0
            for at, (x, y) in enumerate(batches(training, recipe, epoch)):
                lr = learning_rate(recipe, epoch * per_epoch + at, steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["share"]
                with torch.autocast(device.type, torch.bfloat16):
                    logits = model(x.contiguous(memory_format=torch.channels_last))
                loss = criterion(logits.float(), y)
                if not math.isfinite(loss.item()):
                    raise CheckFailed(f"training: loss is {loss.item()} in epoch {epoch}; lower --lr (now {recipe.lr})")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for alpha in alphas:
                        alpha.clamp_(min=ALPHA_MIN)
                seen += len(y)
                loss_sum += loss.item() * len(y)
                rate = seen / (time.perf_counter() - began)
                progress.update(
                    bar, advance=1, description=f"epoch {epoch + 1}/{recipe.epochs}", rate=f"{rate:.0f} img/s"
                )
            top1 = 100 * count_correct(model, validation) / len(validation.labels)
            state = {
                "state_dict": model.state_dict(),
                "epoch": epoch + 1,
                "best_prec": max(best, top1),
                "optimizer": optimizer.state_dict(),
                "recipe": asdict(recipe),
            }
            # checkpoint.pth comes last: a run that is cut off before it repeats the whole epoch
            if top1 > best:
                best = top1
                checkpoint.write_training(state, out / checkpoint.BEST)
            record: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": loss_sum / seen,
                "top1": top1,
                "best": best,
                "lr": lr,
                "images_per_second": rate,
            }
            with (out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            checkpoint.write_training(state, out / checkpoint.LAST)
            console.print(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {record['loss']:.4f}  top-1 {top1:.2f} %"
                f"  best {best:.2f} %  {rate:.0f} img/s"
            )
    return best
