"""Checkpoints: training state, the forms in circulation, and the packed form that ships."""

import os
from pathlib import Path
from typing import Any

import torch

from qexport.errors import QexportError

LAST = "checkpoint.pth"
BEST = "model_best.pth.tar"


def write_training(state: dict[str, Any], path: Path) -> None:
    """Write atomically: a power cut leaves the earlier file whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_training(path: Path) -> dict[str, Any]:
    """A checkpoint of `qexport train`, for resuming."""
    if not path.is_file():
        raise QexportError(f"resume: {path} does not exist; start without --resume")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
