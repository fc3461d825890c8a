"""A training run as a page: its curves, and how alive its narrowest layer is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

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

_Epoch = Annotated[int, Meta(ge=0, le=1 << 32)]
_Real = Annotated[float, Meta(ge=-1e12, le=1e12)]


class Squeeze(msgspec.Struct, frozen=True, kw_only=True):
    """What a record says of the narrowest layer; shares only where the quantizers are on."""

    layer: int
    dead_inputs: tuple[int, ...]
    dead_outputs: tuple[int, ...]
    effective_rank: _Real
    input_zero: _Real | None = None
    input_saturated: _Real | None = None
    weight_codes: dict[int, _Real] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of a log, as far as it is drawn."""

    epoch: _Epoch
    loss: _Real
    top1: _Real
    quantized: bool
    squeeze: Squeeze | None = None


Records = Sequence[Record]


def read_log(path: Path) -> list[Record]:
    """The records of a log that `qexport train` wrote; raises QexportError where it is not one."""
    found = []
    for number, line in enumerate(read_bytes(path, LOG_BYTES, "log").splitlines(), start=1):
        try:
            found.append(msgspec.json.decode(line, type=Record))
        except (ValueError, RecursionError) as error:
            said = f"is not a record of `qexport train`: {error}; give the run's own log"
            raise QexportError(f"log: {path}:{number} {said}") from None
    if not found:
        raise QexportError(f"log: {path} is empty; train an epoch first")
    return found


def records_of(log: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The same of the records that a training has at hand."""
    return msgspec.convert(log, list[Record])


def training_page(records: Records, name: str) -> bytes:
    """A run's log, a record an epoch, as a page."""
    best, last = best_of(records), records[-1]
    tiles = [
        Tile(f"{best.top1:.2f} %", f"validation top-1, the best, of epoch {best.epoch}"),
        Tile(str(len(records)), "epochs"),
        Tile(f"{last.loss:.3f}", "training loss of the last epoch"),
    ]
    sections = [Section("Curves", "What was measured behind each epoch.", training_figures(records))]
    if best.squeeze is not None:
        tiles.append(Tile(f"{best.squeeze.effective_rank:.2f}", "effective rank of what enters the narrowest layer"))
        sections.append(_squeeze(records, best.squeeze))
    return render_page(f"Training of {name}", "Accuracies are those of the averaged weights.", tiles, sections)


def best_of(records: Records) -> Record:
    """The best epoch with quantizers; of a run that has none yet, the best."""
    quantized = [record for record in records if record.quantized]
    return max(quantized or records, key=lambda record: record.top1)


def training_figures(records: Records) -> list[Figure]:
    """Training loss and validation accuracy over the epochs; the float warm start is shaded."""
    warm, epochs = sum(not record.quantized for record in records), [record.epoch for record in records]
    shaded = (0.5, warm + 0.5, "quantizers off") if warm else None
    losses, accuracies = [record.loss for record in records], [record.top1 for record in records]
    found = []
    for name, label, values, tone in (
        ("loss", "training loss", losses, 3),
        ("accuracy", "validation top-1, %", accuracies, 0),
    ):
        said = f"{values[0]:.3g} after the first epoch, {values[-1]:.3g} after the last."
        rows: list[list[AnyCell]] = [[epoch, value] for epoch, value in zip(epochs, values, strict=True)]
        body = curves([Series(label, epochs, values, tone)], "epoch", label, HALF, 260, shaded)
        table = Table(f"{label} by epoch", ["epoch", label], rows)
        found.append(Figure(name, label, said, HALF, 260, body, table))
    return found


def _squeeze(records: Records, squeeze: Squeeze) -> Section:
    pairs: list[tuple[str, AnyCell]] = [("layer", f"features.{squeeze.layer}")]
    for side, dead in (("inputs", squeeze.dead_inputs), ("outputs", squeeze.dead_outputs)):
        pairs.append((f"dead {side}", ", ".join(map(str, dead)) or "none"))
    if squeeze.input_zero is not None and squeeze.input_saturated is not None:
        shares = f"{squeeze.input_zero:.1%} are 0, {squeeze.input_saturated:.1%} the largest"
        pairs.append(("input codes", shares))
    pairs.append(("effective rank", f"{squeeze.effective_rank:.2f} of the input channels"))
    blocks: list[Block] = [Facts(pairs)]
    if codes := squeeze.weight_codes:
        used, labels = [100 * share for share in codes.values()], list(map(str, codes))
        body = bars(used, labels, "weight code", "share, %", tones=[3] * len(codes))
        blocks.append(Figure("weight-codes", "weight codes", "How often each code is used.", HALF, 220, body))
    there = [(record.epoch, record.squeeze.effective_rank) for record in records if record.squeeze is not None]
    rank = Series("effective rank", [epoch for epoch, _ in there], [value for _, value in there], 2)
    body = curves([rank], "epoch", "effective rank", HALF)
    blocks.append(Figure("rank", "effective rank", "1: all channels say the same.", HALF, 260, body))
    return Section("Squeeze", "The narrowest layer in the best epoch with quantizers, over 1000 test pictures.", blocks)


def check_plot(path: Path) -> None:
    """Raises QexportError before hours of work when the plot could not be written at their end."""
    if path.suffix not in SUFFIXES:
        raise QexportError(f"plot: {path} ends in '{path.suffix}'; choose one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise QexportError(f"plot: {path.parent} is not a folder; make it first")


def write_plot(records: Records, name: str, path: Path) -> None:
    """The page of a run, or its curves as one picture."""
    if path.suffix == ".html":
        write_atomically(path, training_page(records, name))
    else:
        write_atomically(path, stacked("training", f"Training of {name}", training_figures(records)).alone())
