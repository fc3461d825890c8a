"""Quantization-aware training in one flat loop: a float warm start, Muon for the convolutions, averaged weights."""

import copy
import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qexport.core.atomic import write_atomically
from qexport.errors import CheckFailed, QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import CROP_PADDING, SIDE, Pictures, augment, cut_out, normalise
from qexport.frontends.vgg.model import MODELS, QuantVGG, build
from qexport.frontends.vgg.quant import QuantConv2d, act_qmax, best_alpha, weight_qmax
from qexport.train import parallel
from qexport.train.muon import Muon
from qexport.train.squeeze import squeeze, squeeze_report

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
MUON_LR = 0.3  # of the convolutions' learning rate, in those of all else: 0.03 at the default
CLIP_NORM = 5.0  # of the gradient of all that SGD trains, taken together
WARM_UP = 0.05  # share of the steps until the learning rate peaks
FLOAT_SHARE = 0.1  # share of the epochs before the quantizers are switched on
ALPHA_MIN = 1e-3
CUTOUT_SIDE = 8
CUTOUT_EPOCHS = 40  # shorter runs do not overfit, and lose by it
AVERAGE_SHARE = 0.02  # the weights' average reaches back over this share of the steps
AVERAGE_EVERY = 4
CALIBRATION_PICTURES = 256
EVAL_BATCH = 500
GPU_LOOK = 50  # steps between two looks at the loss: each waits for the GPU
LOG = "log.jsonl"
AUTO = "auto"  # a precision that train.precision replaces before the training
OUT_OF_MEMORY = (
    "DefaultCPUAllocator|not enough memory|could not create a memory"  # as CPUs say it, in plain RuntimeErrors
)


@dataclass(frozen=True)
class Recipe:
    """What decides a run's result, stored in its checkpoints; a resumed run must agree with it."""

    model: str = "vgg16_quant_gradual"
    weight_bits: int = 4
    act_bits: int = 4
    epochs: int = 14
    batch_size: int = 250
    lr: float = 0.1
    seed: int = 0
    precision: str = "bf16"
    quantized: bool = True  # False: the float network that `compare` measures the quantized one against
    init_sha256: str = ""  # of the checkpoint whose weights it starts from; such a run needs no float epochs

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise QexportError(f"model: '{self.model}' is not known; choose one of {', '.join(MODELS)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise QexportError(f"lr: {self.lr} must be finite and above 0")

    @property
    def float_epochs(self) -> int:
        """Epochs before the quantizers are switched on."""
        if not self.quantized:
            return self.epochs
        return 0 if self.init_sha256 else min(math.ceil(FLOAT_SHARE * self.epochs), self.epochs - 1)


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
        if state["recipe"].get(key) != value and (key, value) != ("precision", AUTO):
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
    """Linear up to the peak, then linear down to zero."""
    peak = WARM_UP * steps
    return recipe.lr * ((step + 1) / (peak + 1) if step < peak else (steps - step) / (steps - peak))


@torch.no_grad()
def balance(model: QuantVGG) -> None:
    """Take the mean off each output's weights where no BatchNorm follows.

    Inputs behind a ReLU are never negative: an output whose weights start below zero on average never passes its own
    ReLU, gets no gradient, and stays dead.
    """
    for conv, following in pairwise(model.features):
        if isinstance(conv, QuantConv2d) and isinstance(following, nn.ReLU):
            conv.weight -= conv.weight.mean((1, 2, 3), keepdim=True)


@torch.no_grad()
def calibrate(model: QuantVGG, x: Tensor) -> None:
    """Give every alpha the value of least squared error for its own weights or inputs, layer after layer."""

    def start(conv: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, QuantConv2d)
        quant = conv.weight_quant
        quant.wgt_alpha.copy_(best_alpha(quant.normalise(conv.weight), weight_qmax(conv.weight_bits), -1.0))
        conv.act_alpha.copy_(best_alpha(args[0], act_qmax(conv.act_bits), None))

    hooks = [conv.register_forward_pre_hook(start) for conv in model.quantized().values()]
    model.train()
    model(x)
    for hook in hooks:
        hook.remove()


def alphas_of(model: QuantVGG, batch_size: int) -> tuple[list[Tensor], list[float], list[float]]:
    """Every alpha, the factor of its gradient, and its least value.

    The factor is that of LSQ (Esser et al., ICLR 2020), 1 / sqrt(n * qmax) for the step alpha / qmax and n quantized
    values, said for alpha; without it the sum over a whole tensor drowns what the weights say. The first layer's codes
    are signed: its alpha keeps the darkest pixel at a code that one more bit holds.
    """
    alphas: list[Tensor] = []
    factors: list[float] = []
    least: list[float] = []
    side = SIDE
    for index, module in enumerate(model.features):
        if isinstance(module, nn.MaxPool2d):
            side //= 2
        if isinstance(module, QuantConv2d):
            largest, values = act_qmax(module.act_bits), batch_size * module.in_channels * side**2
            darkest = -float(normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).min())
            alphas += [module.act_alpha, module.weight_quant.wgt_alpha]
            factors += [
                qmax**1.5 / math.sqrt(n)
                for qmax, n in ((largest, values), (weight_qmax(module.weight_bits), module.weight.numel()))
            ]
            least += [darkest * largest / (largest + 1) if index == 0 else ALPHA_MIN, ALPHA_MIN]
    return alphas, factors, least


@torch.no_grad()
def count_correct(model: QuantVGG, pictures: Pictures, dtype: torch.dtype = torch.float32) -> int:
    """How many pictures a network of that precision classifies correctly; torchrun's processes share the work.

    float32 rounds differently from machine to machine, which moves codes at an edge; float64 does not get there.
    """
    model.eval()
    rank, world = parallel.place()
    correct = torch.zeros((), dtype=torch.int64, device=pictures.labels.device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 would round inputs to 10 bits
        for start in range(rank * EVAL_BATCH, len(pictures.labels), world * EVAL_BATCH):
            logits = model(normalise(pictures.pixels[start : start + EVAL_BATCH], dtype))
            correct += (logits.argmax(1) == pictures.labels[start : start + EVAL_BATCH]).sum()
    return int(parallel.total(correct))


def batches(pictures: Pictures, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's shuffled, augmented batches, all full: up to a batch less one of the pictures sit an epoch out.

    They depend on seed and epoch alone, so that a resumed run repeats them; each of torchrun's processes gets its part
    of every batch. Random numbers are drawn on the CPU, so that a seed means the same on every device. A picture is
    mirrored in every other epoch, starting at random: all are seen both ways equally often.
    """
    rank, world = parallel.place()
    count, device = len(pictures.labels), pictures.labels.device
    rng = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(count, generator=rng).to(device)
    top, left = torch.randint(2 * CROP_PADDING + 1, (2, count), generator=rng).to(device)
    hole_top, hole_left = torch.randint(SIDE - CUTOUT_SIDE + 1, (2, count), generator=rng).to(device)
    first_way = torch.randint(2, (count,), generator=torch.Generator().manual_seed(recipe.seed)).to(device)
    mirrored = (first_way + epoch) % 2 == 1
    batch = min(recipe.batch_size, count)
    for start in range(rank * batch // world, count - count % batch, batch):
        chosen = order[start : start + batch // world]
        x = normalise(augment(pictures.pixels[chosen], top[chosen], left[chosen], mirrored[chosen]))
        if recipe.epochs >= CUTOUT_EPOCHS:
            x = cut_out(x, hole_top[chosen], hole_left[chosen], CUTOUT_SIDE)
        yield x.contiguous(memory_format=torch.channels_last), pictures.labels[chosen]


@contextmanager
def _naming_the_batch_size(batch_size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or re.search(OUT_OF_MEMORY, str(error))):
            raise
        raise QexportError(
            f"training: out of memory with --batch-size {batch_size}; try --batch-size {max(1, batch_size // 2)}"
        ) from None


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
    init: checkpoint.Network | None = None,
) -> list[dict[str, Any]]:
    """Train; write checkpoint.pth, model_best.pth.tar and log.jsonl under `out`; return the log, a record an epoch.

    bf16 autocast covers the convolutions; the quantizers, the loss and the validation are computed in float32.
    `start` is what starting_state gave, `init` the network of init_sha256 to start from. Under torchrun each process
    trains on its part of every batch, the first writes. Raises CheckFailed on a NaN loss (the checkpoint of the epoch
    before stays), QexportError when memory runs out or the batch cannot be shared out.
    """
    rank, world = parallel.place()
    batch_size = min(recipe.batch_size, len(training.labels))
    if batch_size % world:
        raise QexportError(f"batch_size: {batch_size} is no multiple of {world} processes; choose one")
    console = Console(stderr=True, quiet=rank > 0)
    training, validation = training.to(device), validation.to(device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.weight_bits, recipe.act_bits)
    if init is None:
        balance(model)
    else:
        if init.model.specs != model.specs:
            raise QexportError(f"init: {init.path} is no {recipe.model}; choose another --model or --init")
        model.load_state_dict(init.model.state_dict())
    if world > 1:
        parallel.synchronise(model)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(model)
    alphas, factors, least = alphas_of(model, batch_size)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": [model.classifier.weight], "weight_decay": WEIGHT_DECAY},
        {"params": vectors},
        {"params": alphas},  # of their own: without gradients while the network is in float
    ]
    muon = Muon([p for p in model.parameters() if p.ndim == 4], lr=recipe.lr)
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True, fused=True)
    optimizers = {"muon": muon, "sgd": sgd}
    first_epoch, records, entered = 0, [], time.perf_counter()
    if start is not None:
        averaged.load_state_dict(start["state_dict"])
        model.load_state_dict(start["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(start["optimizer"][name])
        first_epoch, records = start["epoch"], start["log"]
    mine, theirs = ([t for t in m.state_dict().values() if t.is_floating_point()] for m in (model, averaged))
    criterion = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    narrowest = squeeze(model)[1]
    per_epoch = len(training.labels) // batch_size
    steps = recipe.epochs * per_epoch
    share = 1 - math.exp(-AVERAGE_EVERY / (AVERAGE_SHARE * steps))
    look = 1 if device.type == "cpu" and world == 1 else GPU_LOOK
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)

    with _naming_the_batch_size(recipe.batch_size), _progress(console) as progress:
        bar = progress.add_task("training", total=steps, completed=first_epoch * per_epoch, rate="")
        for epoch in range(first_epoch, recipe.epochs):
            quantized = epoch >= recipe.float_epochs
            if epoch in (first_epoch, recipe.float_epochs):
                for conv in (*model.quantized().values(), *averaged.quantized().values()):
                    conv.active = quantized
                for alpha in alphas:
                    alpha.requires_grad_(quantized)
                if epoch == recipe.float_epochs:
                    calibrate(model, normalise(training.spread(CALIBRATION_PICTURES)))
                    averaged.load_state_dict(model.state_dict())
                forward: nn.Module = model
                if world > 1:
                    forward = DistributedDataParallel(model)
                elif device.type == "cuda":
                    forward = torch.compile(model, dynamic=False)  # type: ignore[assignment]
            model.train()
            began, seen, loss_sum = time.perf_counter(), 0, torch.zeros((), device=device)
            gradients: list[Tensor] = []
            for at, (x, y) in enumerate(batches(training, recipe, epoch)):
                step = epoch * per_epoch + at
                lr = learning_rate(recipe, step, steps)
                for group in sgd.param_groups:
                    group["lr"] = lr
                for group in muon.param_groups:
                    group["lr"] = MUON_LR * lr
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                    logits = forward(x)
                loss = criterion(logits.float(), y)
                loss.backward()
                with torch.no_grad():
                    assert narrowest.weight.grad is not None
                    gradients.append(narrowest.weight.grad.norm())
                    if quantized:
                        torch._foreach_mul_([alpha.grad for alpha in alphas if alpha.grad is not None], factors)
                    nn.utils.clip_grad_norm_([p for group in sgd.param_groups for p in group["params"]], CLIP_NORM)
                    for optimizer in optimizers.values():
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                    torch._foreach_clamp_min_(alphas, least)
                    if step % AVERAGE_EVERY == 0:
                        torch._foreach_lerp_(theirs, mine, share)
                    loss_sum += loss
                seen += batch_size
                if (at + 1) % look == 0 or at + 1 == per_epoch:
                    mean_loss = parallel.total(loss_sum).item() / (world * (at + 1))
                    if at + 1 == per_epoch and not all(t.isfinite().all() for t in mine):
                        mean_loss = math.nan  # the last step broke the weights: no checkpoint of them
                    if not math.isfinite(mean_loss):
                        kept = f"; {out / checkpoint.LAST} holds epoch {epoch}" if epoch else ""
                        raise CheckFailed(
                            f"training: loss is {mean_loss} in epoch {epoch + 1}; lower --lr (now {recipe.lr}){kept}"
                        )
                    rate = seen / (time.perf_counter() - began)
                    progress.update(
                        bar,
                        completed=step + 1,
                        description=f"epoch {epoch + 1}/{recipe.epochs}",
                        rate=f"{rate:.0f} img/s",
                    )
            top1 = 100 * count_correct(averaged, validation) / len(validation.labels)
            norms = torch.stack(gradients)
            best = max([r["top1"] for r in records if r["quantized"] == recipe.quantized], default=-1.0)
            records.append(
                {
                    "epoch": epoch + 1,
                    "loss": mean_loss,
                    "top1": top1,
                    "quantized": quantized,
                    "lr": lr,
                    "images_per_second": rate,
                    "seconds": time.perf_counter() - entered,
                    "squeeze_gradient": {"mean": norms.mean().item(), "std": norms.std(correction=0).item()},
                    "squeeze": squeeze_report(averaged, validation),
                }
            )
            state = {
                "state_dict": averaged.state_dict(),
                "epoch": epoch + 1,
                "best_prec": max(best, top1),
                "recipe": asdict(recipe),
            }
            if rank == 0:
                # checkpoint.pth comes last: a run that is cut off before it repeats the whole epoch
                if quantized == recipe.quantized and top1 > best:
                    checkpoint.write_training(state, out / checkpoint.BEST)
                lines = "".join(json.dumps(record) + "\n" for record in records)
                write_atomically(out / LOG, lines.encode())
                state |= {
                    "model": model.state_dict(),
                    "optimizer": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                    "log": records,
                }
                checkpoint.write_training(state, out / checkpoint.LAST)
            console.print(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {mean_loss:.4f}  top-1 {top1:.2f} %"
                f"{'' if quantized else ' in float'}  {rate:.0f} img/s"
            )
    return records
