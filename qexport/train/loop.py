"""Quantization-aware training in one flat loop: a float warm start, Muon for the convolutions, averaged weights."""

import copy
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qexport.core.atomic import write_atomically
from qexport.errors import CheckFailed, QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import CROP_PADDING, SIDE, Pictures, augment, cut_out, distort, normalise
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
CUTOUT_SIDE = 12
STRONG_EPOCHS = 40  # far shorter runs do not overfit, but for those that go on from a trained network
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
    epochs: int = 32
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
    draws = torch.rand((count, 9), generator=rng).to(device)
    strongly = recipe.epochs >= STRONG_EPOCHS or recipe.init_sha256
    batch = min(recipe.batch_size, count)
    for start in range(rank * batch // world, count - count % batch, batch):
        chosen = order[start : start + batch // world]
        x = augment(pictures.pixels[chosen], top[chosen], left[chosen], mirrored[chosen])
        x = normalise(distort(x, draws[chosen]) if strongly else x)
        if strongly:
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


class _State:
    """What training changes: the model, the average of its weights, and the optimizers."""

    def __init__(
        self, recipe: Recipe, batch_size: int, steps: int, device: torch.device, init: checkpoint.Network | None
    ):
        torch.manual_seed(recipe.seed)
        model = build(recipe.model, recipe.weight_bits, recipe.act_bits)
        if init is None:
            balance(model)
        else:
            if init.model.specs != model.specs:
                raise QexportError(f"init: {init.path} is not a {recipe.model}; choose another --model or --init")
            checkpoint.check_spread(init.path, init.model)  # codes of a packed one may be all the same
            model.load_state_dict(init.model.state_dict())
        if parallel.place()[1] > 1:
            parallel.synchronise(model)
        self.recipe, self.device = recipe, device
        self.model: QuantVGG = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model)
        self.forward: nn.Module = self.model
        self.narrowest = squeeze(self.model)[1]
        self.alphas, self.factors, self.least = alphas_of(self.model, batch_size)
        groups: list[dict[str, Any]] = [
            {"params": [self.model.classifier.weight], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self.model.parameters() if p.ndim == 1]},
            {"params": self.alphas},  # of their own: without gradients while the network is in float
        ]
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.muon = Muon([p for p in self.model.parameters() if p.ndim == 4], lr=recipe.lr, dtype=dtype)
        self.sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True, fused=True)
        self.optimizers = {"muon": self.muon, "sgd": self.sgd}
        self.mine, self.theirs = (
            [t for t in m.state_dict().values() if t.is_floating_point()] for m in (self.model, self.averaged)
        )
        self._criterion = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
        self._share = 1 - math.exp(-AVERAGE_EVERY / (AVERAGE_SHARE * steps))

    def load(self, start: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.averaged.load_state_dict(start["state_dict"])
        self.model.load_state_dict(start["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(start["optimizer"][name])

    def switch(self, quantized: bool) -> None:
        """The quantizers on or off; what runs forward must be made anew."""
        for conv in (*self.model.quantized().values(), *self.averaged.quantized().values()):
            conv.active = quantized
        for alpha in self.alphas:
            alpha.requires_grad_(quantized)
        if parallel.place()[1] > 1:
            self.forward = DistributedDataParallel(self.model)
        elif self.device.type == "cuda":
            self.forward = torch.compile(self.model, dynamic=False)  # type: ignore[assignment]

    def step(self, x: Tensor, y: Tensor, step: int, lr: float, quantized: bool) -> tuple[Tensor, Tensor]:
        """One update; gives the loss, and the gradient's norm at the narrowest layer."""
        for group in self.sgd.param_groups:
            group["lr"] = lr
        for group in self.muon.param_groups:
            group["lr"] = MUON_LR * lr
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.forward(x)
        loss: Tensor = self._criterion(logits.float(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert self.narrowest.weight.grad is not None
            norm = self.narrowest.weight.grad.norm()
            if quantized:
                torch._foreach_mul_([alpha.grad for alpha in self.alphas if alpha.grad is not None], self.factors)
            nn.utils.clip_grad_norm_([p for group in self.sgd.param_groups for p in group["params"]], CLIP_NORM)
            for optimizer in self.optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            torch._foreach_clamp_min_(self.alphas, self.least)
            if step % AVERAGE_EVERY == 0:
                torch._foreach_lerp_(self.theirs, self.mine, self._share)
        return loss.detach(), norm


def train(
    recipe: Recipe,
    training: Pictures,
    validation: Pictures,
    out: Path,
    device: torch.device,
    start: dict[str, Any] | None = None,
    init: checkpoint.Network | None = None,
    tell: Callable[[str, int, int, str], None] = lambda step, done, total, note: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train; write checkpoint.pth, model_best.pth.tar and log.jsonl under `out`; return the log, a record an epoch.

    bf16 autocast covers the convolutions; the quantizers, the loss and the validation are computed in float32.
    `start` is what starting_state gave, `init` the network of init_sha256 to start from. Under torchrun each process
    trains on its part of every batch, the first writes, and tells: `tell` the steps done, `say` a line for each epoch.
    Raises CheckFailed on a NaN loss (the checkpoint of the epoch
    before stays), QexportError when memory runs out or the batch cannot be shared out.
    """
    rank, world = parallel.place()
    batch_size = min(recipe.batch_size, len(training.labels))
    if batch_size % world:
        raise QexportError(f"batch_size: {batch_size} is not a multiple of {world} processes; choose one")
    training, validation = training.to(device), validation.to(device)
    torch.backends.cudnn.benchmark = True
    per_epoch = len(training.labels) // batch_size
    steps = recipe.epochs * per_epoch
    state = _State(recipe, batch_size, steps, device, init)
    first_epoch, records, entered = 0, [], time.perf_counter()
    if start is not None:
        state.load(start)
        first_epoch, records = start["epoch"], start["log"]
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)

    with _naming_the_batch_size(recipe.batch_size):
        for epoch in range(first_epoch, recipe.epochs):
            quantized = epoch >= recipe.float_epochs
            if epoch in (first_epoch, recipe.float_epochs):
                state.switch(quantized)
                if epoch == recipe.float_epochs:
                    calibrate(state.model, normalise(training.spread(CALIBRATION_PICTURES)))
                    state.averaged.load_state_dict(state.model.state_dict())

            def advance(done: int, rate: float, epoch: int = epoch) -> None:
                if rank == 0:
                    what = f"epoch {epoch + 1}/{recipe.epochs}, {rate:.0f} img/s"
                    tell("training", epoch * per_epoch + done, steps, what)

            record = _train_epoch(state, training, epoch, per_epoch, steps, advance)
            if not math.isfinite(record["loss"]):
                kept = f"; {out / checkpoint.LAST} holds epoch {epoch}" if epoch else ""
                raise CheckFailed(
                    f"training: loss is {record['loss']} in epoch {epoch + 1}; lower --lr (now {recipe.lr}){kept}"
                )
            best = max([r["top1"] for r in records if r["quantized"] == recipe.quantized], default=-1.0)
            record["top1"] = 100 * count_correct(state.averaged, validation) / len(validation.labels)
            record |= {"quantized": quantized, "seconds": time.perf_counter() - entered}
            record["squeeze"] = squeeze_report(state.averaged, validation)
            records.append(record)
            if rank == 0:
                _write(state, out, records, best)
                say(
                    f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {record['loss']:.4f}  top-1 {record['top1']:.2f} %"
                    f"{'' if quantized else ' in float'}  {record['images_per_second']:.0f} img/s"
                )
    return records


def _train_epoch(
    state: _State, training: Pictures, epoch: int, per_epoch: int, steps: int, advance: Callable[[int, float], None]
) -> dict[str, Any]:
    """Train for one epoch, or until the loss is no number; `advance` is told the steps done and the rate."""
    recipe, device, world = state.recipe, state.device, parallel.place()[1]
    batch_size = min(recipe.batch_size, len(training.labels))
    look = 1 if device.type == "cpu" and world == 1 else GPU_LOOK
    state.model.train()
    began, loss_sum, norms = time.perf_counter(), torch.zeros((), device=device), []
    for at, (x, y) in enumerate(batches(training, recipe, epoch)):
        step = epoch * per_epoch + at
        lr = learning_rate(recipe, step, steps)
        loss, norm = state.step(x, y, step, lr, epoch >= recipe.float_epochs)
        loss_sum += loss
        norms.append(norm)
        if (at + 1) % look == 0 or at + 1 == per_epoch:
            mean_loss = parallel.total(loss_sum).item() / (world * (at + 1))
            if at + 1 == per_epoch and not all(t.isfinite().all() for t in state.mine):
                mean_loss = math.nan  # the last step broke the weights: no checkpoint of them
            rate = (at + 1) * batch_size / (time.perf_counter() - began)
            advance(at + 1, rate)
            if not math.isfinite(mean_loss):
                break
    gradients = torch.stack(norms)
    return {
        "epoch": epoch + 1,
        "loss": mean_loss,
        "lr": lr,
        "images_per_second": rate,
        "squeeze_gradient": {"mean": gradients.mean().item(), "std": gradients.std(correction=0).item()},
    }


def _write(state: _State, out: Path, records: list[dict[str, Any]], best: float) -> None:
    """Write log and checkpoints; `best`: the top-1 of the epochs before.

    checkpoint.pth comes last: a run that is cut off before it repeats the whole epoch.
    """
    record, recipe = records[-1], state.recipe
    found = {
        "state_dict": state.averaged.state_dict(),
        "epoch": record["epoch"],
        "best_prec": max(best, record["top1"]),
        "recipe": asdict(recipe),
    }
    if record["quantized"] == recipe.quantized and record["top1"] > best:
        checkpoint.write_training(found, out / checkpoint.BEST)
    write_atomically(out / LOG, "".join(json.dumps(record) + "\n" for record in records).encode())
    found |= {
        "model": state.model.state_dict(),
        "optimizer": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
        "log": records,
    }
    checkpoint.write_training(found, out / checkpoint.LAST)
