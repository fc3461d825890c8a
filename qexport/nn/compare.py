"""The gradual squeeze against the sudden one: same recipe and budget, several seeds, a page of what was seen."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from qexport.errors import QexportError
from qexport.nn import checkpoint
from qexport.nn.data import Pictures
from qexport.nn.train import Recipe, starting_state, train

Records = list[dict[str, Any]]


def run_all(
    models: Sequence[str],
    recipe: Recipe,
    seeds: int,
    training: Pictures,
    validation: Pictures,
    work: Path,
    device: torch.device,
) -> dict[str, dict[bool, list[Records]]]:
    """Train every model with every seed, quantized and in float, each in its own folder of `work`.

    What stands there already is gone on with. Returns the logs by model and by whether it is quantized.
    """
    if len(set(models)) < 2:
        raise QexportError(f"models: {', '.join(models)}; name two different ones to compare")
    logs: dict[str, dict[bool, list[Records]]] = {model: {True: [], False: []} for model in models}
    for seed in range(seeds):
        for model in models:
            for quantized in (True, False):
                run = replace(recipe, model=model, seed=seed, quantized=quantized)
                out = work / f"{model}-{'quantized' if quantized else 'float'}-{seed}"
                start = starting_state(run, out, (out / checkpoint.LAST).exists())
                logs[model][quantized].append(train(run, training, validation, out, device, start))
    return logs


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean and standard deviation over the seeds; one seed has no spread."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def _rows(logs: dict[bool, list[Records]]) -> list[str]:
    """One model's column of the table; accuracies are those of the last epoch, not of the best."""
    last = [records[-1] for records in logs[True]]
    top1 = {quantized: [records[-1]["top1"] for records in runs] for quantized, runs in logs.items()}
    gaps = [real - coarse for real, coarse in zip(top1[False], top1[True], strict=True)]
    gradients = [[r["squeeze_gradient"] for r in records if r["quantized"]] for records in logs[True]]
    return [
        _spread(top1[True]),
        _spread(top1[False]),
        _spread(gaps),
        _spread([statistics.mean(g["mean"] for g in run) for run in gradients], ".3g"),
        _spread([statistics.mean(g["std"] / g["mean"] for g in run) for run in gradients]),
        _spread([record["squeeze"]["effective_rank"] for record in last]),
        _spread([records[-1]["squeeze"]["effective_rank"] for records in logs[False]]),
        _spread([float(len(r["squeeze"]["dead_inputs"]) + len(r["squeeze"]["dead_outputs"])) for r in last], ".1f"),
    ]


ROWS = (
    "top-1 with quantizers, %",
    "top-1 in float, %",
    "gap, percentage points",
    "gradient norm at the squeeze, mean",
    "its standard deviation within an epoch over its mean",
    "effective rank of the squeezed activations (of 8), quantized",
    "the same in float",
    "dead channels at the squeeze, of 16",
)


def write_page(logs: dict[str, dict[bool, list[Records]]], recipe: Recipe, command: str, page: Path) -> None:
    """A Markdown page with a table, and its plots as an SVG file beside it."""
    plots = page.with_suffix(".svg")
    columns = {model: _rows(runs) for model, runs in logs.items()}
    seeds = len(next(iter(logs.values()))[True])
    table = [f"| | {' | '.join(f'`{model}`' for model in columns)} |", "|---|" + "---|" * len(columns)]
    table += [f"| {row} | {' | '.join(cells)} |" for row, *cells in zip(ROWS, *columns.values(), strict=True)]
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

![Accuracy, gradient norm and effective rank over training]({plots.name})
"""
    _plot(logs).savefig(plots, metadata={"Date": None})
    checkpoint.write_atomically(page, text.encode())


def _plot(logs: dict[str, dict[bool, list[Records]]]) -> Figure:
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
