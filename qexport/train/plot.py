"""Curves of training, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qexport.errors import QexportError

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raises QexportError before hours of work when the plot could not be written at their end."""
    if path.suffix not in SUFFIXES:
        raise QexportError(f"plot: {path} ends in '{path.suffix}'; choose one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise QexportError(f"plot: {path.parent} is no folder; make it first")


def plot_training(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Training loss and validation accuracy over the epochs; the float warm start is shaded."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    epochs = [record["epoch"] for record in records]
    for axes, key, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("training loss", "validation top-1, %"), strict=True
    ):
        axes.plot(epochs, [record[key] for record in records], marker=".")
        warm = sum(not record["quantized"] for record in records)
        if warm:
            axes.axvspan(0.5, warm + 0.5, color="0.9", label="quantizers off")
            axes.legend()
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    figure.savefig(path)
