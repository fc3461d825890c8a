"""The gradual squeeze against the sudden one: same recipe and budget, several seeds, a page of what was seen."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from qexport.core.atomic import write_atomically
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


@dataclass(frozen=True)
class _Measure:
    """A row of the table: a figure for each seed. `worse`: 1 where more is worse, -1 where less is."""

    label: str
    values: Callable[[Runs], list[float]]
    worse: int
    form: str = ".2f"


def _last(runs: list[Records], value: Callable[[dict[str, Any]], float]) -> list[float]:
    return [value(records[-1]) for records in runs]


def _top1(runs: list[Records]) -> list[float]:
    return _last(runs, lambda record: record["top1"])


def _rank(runs: list[Records]) -> list[float]:
    return _last(runs, lambda record: record["squeeze"]["effective_rank"])


def _gradients(runs: Runs, value: Callable[[dict[str, float]], float]) -> list[float]:
    """The mean over the epochs with quantizers."""
    return [statistics.mean(value(r["squeeze_gradient"]) for r in records if r["quantized"]) for records in runs[True]]


def _dead(record: dict[str, Any]) -> float:
    return float(len(record["squeeze"]["dead_inputs"]) + len(record["squeeze"]["dead_outputs"]))


MEASURES = (  # accuracies are those of the last epoch, not of the best
    _Measure("top-1 with quantizers, %", lambda runs: _top1(runs[True]), -1),
    _Measure("top-1 in float, %", lambda runs: _top1(runs[False]), -1),
    _Measure(
        "gap, percentage points",
        lambda runs: [real - coarse for real, coarse in zip(_top1(runs[False]), _top1(runs[True]), strict=True)], 1,
    ),
    _Measure("gradient norm at the squeeze, mean", lambda runs: _gradients(runs, lambda g: g["mean"]), 0, ".3f"),
    _Measure(
        "its standard deviation within an epoch over its mean",
        lambda runs: _gradients(runs, lambda g: g["std"] / g["mean"]), 1,
    ),
    _Measure("effective rank of the squeezed activations (of 8), quantized", lambda runs: _rank(runs[True]), -1),
    _Measure("the same in float", lambda runs: _rank(runs[False]), -1),
    _Measure("dead channels at the squeeze, of 16", lambda runs: _last(runs[True], _dead), 1, ".1f"),
)  # fmt: skip


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation over the seeds; one seed has no spread."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def _row(measure: _Measure, logs: dict[str, Runs]) -> str:
    """A row of the table; its last cell counts the seeds with which the first model did worse than the second."""
    values = [measure.values(runs) for runs in logs.values()]
    worse = [measure.worse * (one - other) > 0 for one, other in zip(*values[:2], strict=True)]
    counted = f"{sum(worse)} of {len(worse)}" if measure.worse else "-"
    return f"| {' | '.join([measure.label, *(_spread(each, measure.form) for each in values), counted])} |"


def write_page(logs: dict[str, Runs], recipe: Recipe, command: str, page: Path) -> None:
    """A Markdown page with a table, and its plots as an SVG file beside it."""
    plots = page.with_suffix(".svg")
    first, second, *_ = (f"`{model}`" for model in logs)
    seeds = len(next(iter(logs.values()))[True])
    table = [f"| | {' | '.join(f'`{model}`' for model in logs)} | {first} worse |", "|---|" + "---|" * (len(logs) + 1)]
    table += [_row(measure, logs) for measure in MEASURES]
    text = f"""# Gradual against sudden

`vgg16_quant_gradual` narrows from 512 to 8 channels in steps, `vgg16_quant` at once. Both were trained with the same
recipe ([training.md](training.md)) and the same budget: {recipe.epochs} epochs, batch {recipe.batch_size}, \
{recipe.weight_bits}-bit weights, {recipe.act_bits}-bit activations,
{seeds} {"seed" if seeds == 1 else "seeds"} (mean ± standard deviation where there are several). The float networks
never switch their quantizers on. This page was written by

    {command}

{chr(10).join(table)}

Accuracies are those of the averaged weights after the last epoch. The gradient norm is that of the 8-to-8
convolution's weights, each step; a large deviation over the mean is an unstable gradient. The effective rank is the
exponential of the entropy of the covariance's eigenvalues over 1000 test pictures: 8 when all channels say different
things equally loudly. A spread wider than the difference of two columns says that these seeds decide nothing.

The claim behind the gradual squeeze is that a sudden one loses information (accuracy, rank, dead channels), has
unstable gradients (deviation over mean) and is harder to quantize (gap). The last column counts the seeds with which
{first} came out worse than {second}.

![Accuracy, gradient norm and effective rank over training]({plots.name})
"""
    _plot(logs).savefig(plots, metadata={"Date": None})
    write_atomically(page, text.encode())


def _plot(logs: dict[str, Runs]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    curves: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
        ("validation top-1, %", lambda record: record["top1"]),
        ("gradient norm at the squeeze", lambda record: record["squeeze_gradient"]["mean"]),
        ("effective rank at the squeeze", lambda record: record["squeeze"]["effective_rank"]),
    )
    for axes, (label, value) in zip(figure.subplots(1, 3), curves, strict=True):
        for at, (model, runs) in enumerate(logs.items()):
            for quantized, style in ((True, "-"), (False, ":")):
                for seed, records in enumerate(runs[quantized]):
                    name = f"{model}{'' if quantized else ', float'}" if seed == 0 else None
                    epochs = [record["epoch"] for record in records]
                    axes.plot(epochs, [value(r) for r in records], style, color=f"C{at}", label=name, marker=".")
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure
