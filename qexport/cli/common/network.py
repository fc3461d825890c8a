"""What the commands on networks need: a trained network, and how long to train."""

from pathlib import Path
from typing import Any


def load_network(checkpoint: str | None, weight_bits: int | None, act_bits: int | None, side: int | None = None) -> Any:
    """The network of --checkpoint, --weight-bits, --act-bits and --side."""
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg import checkpoint as checkpoints

    path = checkpoints.default_path() if checkpoint is None else checkpoints.path_of(checkpoint)
    return checkpoints.load(path, weight_bits, act_bits, side)


def default_epochs(device: str) -> int:
    """What one has the patience for: minutes on a GPU, three hours on two cores of a CPU."""
    return 100 if device == "cuda" else 32


def onnx_network(path: Path) -> Any:
    """The network in integers of an ONNX file."""
    from qexport.frontends import needs_onnx

    needs_onnx()
    from qexport.frontends.onnx_model.network import integer_network
    from qexport.frontends.onnx_model.reading import read_model
    from qexport.frontends.onnx_model.walk import walk

    return integer_network(walk(read_model(path)))
