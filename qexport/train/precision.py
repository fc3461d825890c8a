"""The precision of the convolutions where nobody chose one: the one that trains faster on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qexport.frontends.vgg.data import SIDE
from qexport.frontends.vgg.model import build
from qexport.train import parallel
from qexport.train.loop import AUTO, Recipe

PRECISIONS = ("bf16", "float32")  # the first is taken on GPUs
TIMED_BATCH = 16  # of all processes: without bf16 instructions 3 pictures/s were seen
ROUNDS = 3


def settle(
    recipe: Recipe, start: Mapping[str, Any] | None, device: torch.device, tell: Callable[[str], None]
) -> Recipe:
    """The recipe with a precision in place of 'auto': that of the run that it goes on with, else the faster one.

    `tell` is given the line that says what was taken and why; torchrun's processes all take the same.
    """
    if recipe.precision != AUTO:
        return recipe
    if start is not None:
        return replace(recipe, precision=start["recipe"]["precision"])
    if device.type != "cpu":
        return replace(recipe, precision=PRECISIONS[0])
    rates = _rates(recipe, device)
    taken = faster(rates)
    [slower] = (name for name in rates if name != taken)
    tell(f"precision: {taken}, {rates[taken]:.1f} img/s a core in a short timing; {slower} {rates[slower]:.1f}")
    return replace(recipe, precision=taken)


def faster(rates: Mapping[str, float]) -> str:
    """The precision with the highest rate; of equal ones the first."""
    return max(rates, key=lambda name: rates[name])


def _rates(recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Images a core-second of training steps by precision: the best of some, in turns.

    The processor's time, because other programs on a busy machine would decide by the clock's.
    """
    world = parallel.place()[1]
    count = max(2, TIMED_BATCH // world)
    model = build(recipe.model, recipe.weight_bits, recipe.act_bits)
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    x = torch.randn(count, 3, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(count, dtype=torch.int64, device=device)
    seconds = dict.fromkeys(PRECISIONS, torch.inf)
    for at in range(1 + ROUNDS):
        for name in PRECISIONS:
            began = time.process_time()
            with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
                logits = model(x)
            loss: torch.Tensor = nn.functional.cross_entropy(logits.float(), y)
            loss.backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
            if at:  # the first step of each makes the kernels
                seconds[name] = min(seconds[name], time.process_time() - began)
    return {name: parallel.total(torch.tensor(count / taken)).item() / world for name, taken in seconds.items()}
