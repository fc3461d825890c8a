"""A training run as a page: its curves, and how alive its narrowest layer is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qexport.core.atomic import write_atomically
from qexport.core.budget import LOG_BYTES, read_bytes
from qexport.errors import QexportError
from qexport.report.blocks import Block, Facts, Section, Tile
from qexport.report.figure import Figure, stacked
from qexport.report.page import render_page
from qexport.report.svg import HALF, Series, bars, curves
from qexport.report.tables import AnyCell, Table

LOG, PAGE = "log.jsonl", "report.html"
SUFFIXES = (".html", ".svg")
Records = Sequence[Mapping[str, Any]]


def training_page(records: Records, name: str) -> bytes:
    """A run's log, a record an epoch, as a page."""
    best = best_of(records)
    last = records[-1]
    tiles = [
        Tile(f"{best['top1']:.2f} %", f"validation top-1, the best, of epoch {best['epoch']}"),
        Tile(str(len(records)), "epochs"),
        Tile(f"{last['loss']:.3f}", "training loss of the last epoch"),
    ]
    if squeeze := best.get("squeeze"):
        tiles.append(Tile(f"{squeeze['effective_rank']:.2f}", "effective rank of what enters the narrowest layer"))
    sections = [_curves(records), *([_squeeze(records, best)] if squeeze else [])]
    return render_page(
        f"Training of {name}", f"{len(records)} epochs; accuracies are those of the averaged weights.", tiles, sections
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log that `qexport train` wrote; raises QexportError where it is not one."""
    found = []
    for number, line in enumerate(read_bytes(path, LOG_BYTES, "log").splitlines(), start=1):
        try:
            record = json.loads(line)
            numbers = {"epoch": int(record["epoch"]), **{name: float(record[name]) for name in ("loss", "top1")}}
            found.append(record | numbers | {"quantized": bool(record["quantized"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise QexportError(
                f"log: {path}:{number} is not a record of `qexport train`; give the run's own log"
            ) from None
    if not found:
        raise QexportError(f"log: {path} is empty; train an epoch first")
    return found


def best_of(records: Records) -> Mapping[str, Any]:
    """The best epoch with quantizers; of a run that has none yet, the best."""
    return max(
        [record for record in records if record["quantized"]] or records, key=lambda record: float(record["top1"])
    )


def training_figures(records: Records) -> list[Figure]:
    """Training loss and validation accuracy over the epochs; the float warm start is shaded."""
    warm = sum(not record["quantized"] for record in records)
    shaded = (0.5, warm + 0.5, "quantizers off") if warm else None
    found = []
    for name, key, label, tone in (
        ("loss", "loss", "training loss", 3),
        ("accuracy", "top1", "validation top-1, %", 0),
    ):
        series = [Series(label, [record["epoch"] for record in records], [record[key] for record in records], tone)]
        said = f"{records[0][key]:.3g} after the first epoch, {records[-1][key]:.3g} after the last."
        rows: list[list[AnyCell]] = [[record["epoch"], float(record[key])] for record in records]
        table = Table(f"{label} by epoch", ["epoch", label], rows)
        found.append(Figure(name, label, said, HALF, 260, curves(series, "epoch", label, HALF, 260, shaded), table))
    return found


def _curves(records: Records) -> Section:
    return Section("Curves", "What was measured behind each epoch.", training_figures(records))


def _squeeze(records: Records, best: Mapping[str, Any]) -> Section:
    squeeze = best["squeeze"]
    pairs: list[tuple[str, AnyCell]] = [("layer", f"features.{squeeze['layer']}")]
    for side in ("inputs", "outputs"):
        pairs.append((f"dead {side}", ", ".join(map(str, squeeze[f"dead_{side}"])) or "none"))
    if "input_zero" in squeeze:
        pairs.append(
            ("input codes", f"{squeeze['input_zero']:.1%} are 0, {squeeze['input_saturated']:.1%} the largest")
        )
    pairs.append(("effective rank", f"{squeeze['effective_rank']:.2f} of the input channels"))
    blocks: list[Block] = [Facts(pairs)]
    if codes := squeeze.get("weight_codes"):
        body = bars(
            [100 * share for share in codes.values()],
            list(map(str, codes)),
            "weight code",
            "share, %",
            tones=[3] * len(codes),
        )
        blocks.append(Figure("weight-codes", "weight codes", "How often each code is used.", HALF, 220, body))
    there = [record for record in records if record.get("squeeze")]
    ranks = [Series("rank", [r["epoch"] for r in there], [r["squeeze"]["effective_rank"] for r in there], 2)]
    body = curves(ranks, "epoch", "effective rank", HALF)
    blocks.append(Figure("rank", "effective rank", "1: all channels say the same.", HALF, 260, body))
    return Section("Squeeze", "The narrowest layer in the best epoch with quantizers, over 1000 test pictures.", blocks)


def check_plot(path: Path) -> None:
    """Raises QexportError before hours of work when the plot could not be written at their end."""
    if path.suffix not in SUFFIXES:
        raise QexportError(f"plot: {path} ends in '{path.suffix}'; choose one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise QexportError(f"plot: {path.parent} is no folder; make it first")


def write_plot(records: Records, name: str, path: Path) -> None:
    """The page of a run, or its curves as one picture."""
    picture = stacked("training", f"Training of {name}", training_figures(records))
    write_atomically(path, training_page(records, name) if path.suffix == ".html" else picture.alone())
