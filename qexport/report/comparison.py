"""The gradual squeeze against the sudden one, several seeds of each: a page of what was seen."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexport.core.atomic import write_atomically
from qexport.errors import QexportError
from qexport.report.blocks import Facts, Section, Tile
from qexport.report.figure import Figure, stacked
from qexport.report.page import render_page
from qexport.report.svg import WIDE, Series, curves
from qexport.report.tables import Table

Records = list[dict[str, Any]]
Runs = dict[bool, list[Records]]  # the logs of one model, a seed after the other, by whether it is quantized
SUFFIXES = (".md", ".html")
LONG = 14  # epochs; before, a network has not learned to use its narrow layers


def check_page(page: Path) -> None:
    """Raises QexportError before days of work when the page could not be written at their end."""
    if page.suffix not in SUFFIXES:
        raise QexportError(f"out: {page} ends in '{page.suffix}'; choose one of {', '.join(SUFFIXES)}")
    if not page.parent.is_dir():
        raise QexportError(f"out: {page.parent} is not a folder; make it first, or choose another --out")


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


def _cells(measure: _Measure, logs: dict[str, Runs]) -> list[str]:
    """A row of the table; its last cell counts the seeds with which the first model did worse than the second."""
    values = [measure.values(runs) for runs in logs.values()]
    worse = [measure.worse * (one - other) > 0 for one, other in zip(*values[:2], strict=True)]
    counted = f"{sum(worse)} of {len(worse)}" if measure.worse else "-"
    return [measure.label, *(_spread(each, measure.form) for each in values), counted]


_MEANING = """Accuracies are those of the averaged weights after the last epoch. The gradient norm is that of the 8-to-8
convolution's weights, each step; a large deviation over the mean is an unstable gradient. The effective rank is the
exponential of the entropy of the covariance's eigenvalues over 1000 test pictures: 8 when all channels say different
things equally loudly. A spread wider than the difference of two columns says that these seeds decide nothing."""
_CLAIM = """The claim behind the gradual squeeze is that a sudden one loses information (accuracy, rank, dead channels),
has unstable gradients (deviation over mean) and is harder to quantize (gap). The last column counts the seeds with
which {first} came out worse than {second}."""


def write_page(logs: dict[str, Runs], budget: str, command: str, page: Path) -> None:
    """The page of a comparison: HTML, or Markdown with its plots as an SVG file beside it. `budget`: of each run."""
    if page.suffix == ".html":
        write_atomically(page, _html(logs, budget, command))
        return
    plots = page.with_suffix(".svg")
    first, second, *_ = (f"`{model}`" for model in logs)
    table = [f"| | {' | '.join(f'`{model}`' for model in logs)} | {first} worse |", "|---|" + "---|" * (len(logs) + 1)]
    table += [f"| {' | '.join(_cells(measure, logs))} |" for measure in MEASURES]
    text = f"""# Gradual against sudden

`vgg16_quant_gradual` narrows from 512 to 8 channels in steps, `vgg16_quant` at once. Both were trained with the same
recipe (that of `qexport train`) and the same budget: {budget},
{_seeds(logs)} (mean ± standard deviation where there are several). The float networks
never switch their quantizers on.{_short(logs)} This page was written by

    {command}

{chr(10).join(table)}

{_MEANING}

{_CLAIM.format(first=first, second=second)}

![Accuracy, gradient norm and effective rank over training]({plots.name})
"""
    write_atomically(plots, stacked("compare", "Gradual against sudden", figures(logs)).alone())
    write_atomically(page, text.encode())


def _seeds(logs: dict[str, Runs]) -> str:
    seeds = len(next(iter(logs.values()))[True])
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}"


def _short(logs: dict[str, Runs]) -> str:
    """What runs that are too short are worth; nothing of longer ones."""
    epochs = len(next(iter(logs.values()))[True][0])
    if epochs >= LONG:
        return ""
    return f" **{epochs} epochs decide nothing**: the networks are still far from what they reach in {LONG} and more."


def _html(logs: dict[str, Runs], budget: str, command: str) -> bytes:
    first, second, *_ = logs
    table = Table(
        "Gradual against sudden", ["", *logs, f"{first} worse"], [_cells(measure, logs) for measure in MEASURES]
    )
    facts = Facts([("budget", budget), ("seeds", _seeds(logs)), ("command", command)])
    tiles = [
        Tile(_spread(_top1(runs[True]), ".2f") + " %", f"top-1 of {model} with quantizers")
        for model, runs in logs.items()
    ]
    sections = [
        Section(
            "Result",
            f"{_MEANING}\n{_CLAIM.format(first=first, second=second)}{_short(logs).replace('**', '')}",
            [table, facts],
        ),
        Section("Curves", "Dashed: the same network in float. A line for each seed.", figures(logs)),
    ]
    return render_page("Gradual against sudden", "The same recipe and budget for each network.", tiles, sections)


def figures(logs: dict[str, Runs]) -> list[Figure]:
    """Accuracy, gradient norm and effective rank over training."""
    measured: tuple[tuple[str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("validation top-1, %", lambda record: record["top1"]),
        ("gradient norm at the squeeze", lambda record: record["squeeze_gradient"]["mean"]),
        ("effective rank at the squeeze", lambda record: record["squeeze"]["effective_rank"]),
    )
    found = []
    for at, (label, value) in enumerate(measured):
        series = [
            Series(
                f"{model}{'' if quantized else ', float'}",
                [record["epoch"] for record in records],
                [value(record) for record in records],
                tone=number,
                dashed=not quantized,
            )
            for number, (model, runs) in enumerate(logs.items())
            for quantized in (True, False)
            for records in runs[quantized]
        ]
        found.append(
            Figure(f"compare-{at}", label, "Over the epochs.", WIDE, 280, curves(series, "epoch", label, WIDE, 280))
        )
    return found
