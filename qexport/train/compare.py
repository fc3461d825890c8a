"""The gradual squeeze against the sudden one: same recipe and budget, several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qexport.errors import QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import Pictures
from qexport.train.loop import Recipe, starting_state, train
from qexport.train.precision import settle

Records = list[dict[str, Any]]
Runs = dict[bool, list[Records]]  # the logs of one model, a seed after the other, by whether it is quantized


def run_all(
    models: Sequence[str],
    recipe: Recipe,
    seeds: int,
    training: Pictures,
    validation: Pictures,
    work: Path,
    device: torch.device,
    tell: Callable[[str, int, int, str], None] = lambda step, done, total, note: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Runs]:
    """Train every model with every seed, quantized and in float, each in its own folder of `work`.

    What stands there already is gone on with. All have the precision of the first. Returns the logs by model and by
    whether it is quantized.
    """
    if len(set(models)) < 2:
        raise QexportError(f"models: {', '.join(models)}; name two different ones to compare")
    logs: dict[str, Runs] = {model: {True: [], False: []} for model in models}
    for seed in range(seeds):
        for model in models:
            for quantized in (True, False):
                run = replace(recipe, model=model, seed=seed, quantized=quantized)
                out = work / f"{model}-{'quantized' if quantized else 'float'}-{seed}"
                start = starting_state(run, out, (out / checkpoint.LAST).exists())
                run = settle(run, start, device, say)
                recipe = replace(recipe, precision=run.precision)
                log = train(
                    run, training, validation, out, device, start, tell=partial(_beside, tell, out.name), say=say
                )
                logs[model][quantized].append(log)
    return logs


def _beside(tell: Callable[[str, int, int, str], None], name: str, step: str, done: int, total: int, note: str) -> None:
    """Each run has a bar of its own."""
    tell(f"{step} {name}", done, total, note)
