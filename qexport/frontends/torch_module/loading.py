"""What the command line names: a function that makes a module, its weights, and inputs."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qexport.core.budget import CHECKPOINT_BYTES, check_header
from qexport.errors import QexportError, few
from qexport.frontends.inputs import PICTURES, arrays, chosen, is_pictures, line_of, pictures
from qexport.frontends.pickles import unpickle

ARRAYS = (".npy", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Loaded:
    """A module, and the arguments that its function gave beside it, if any."""

    model: nn.Module
    inputs: Any = None


def load_model(named: str, weights: Path | None) -> Loaded:
    """What `package.module:function` returns: a module, or a module and inputs. This runs the user's own code.

    The working folder is searched first, as `python -m` does. `weights`: a state_dict to fill it with. Raises
    QexportError in one line.
    """
    package, _, function = named.partition(":")
    if not package or not function:
        raise QexportError(f"model: '{named}' does not name a function; write package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = importlib.import_module(package)
        for name in function.split("."):
            made = getattr(made, name)
        result: Any = made() if callable(made) and not isinstance(made, nn.Module) else made
    except Exception as error:  # whatever the user's code raises
        raise QexportError(f"model: '{named}' fails: {line_of(error)}") from None
    model, inputs = (result[0], result[1:]) if isinstance(result, tuple) and result else (result, None)
    if not isinstance(model, nn.Module):
        raise QexportError(f"model: '{named}' gives a {type(model).__name__}; needs a torch.nn.Module")
    if weights is not None:
        _fill(model, weights)
    return Loaded(model, inputs or None)


def _fill(model: nn.Module, path: Path) -> None:
    state = _read_tensors(path, "weights", "save model.state_dict()")
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state:
        raise QexportError(f"weights: {path} holds no state_dict; save model.state_dict()")
    try:
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise QexportError(f"weights: {path} does not fit the model: {few(lines[1:] or lines, most=2)}") from None


def _read_tensors(path: Path, what: str, remedy: str) -> Any:
    if not path.is_file():
        raise QexportError(f"{what}: {path} does not exist or is not a file; give one")
    if path.stat().st_size > CHECKPOINT_BYTES:
        raise QexportError(f"{what}: {path} has more than {CHECKPOINT_BYTES:,} bytes; save less in it")
    if path.suffix == ".safetensors":
        check_header(path, what)
        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise QexportError(f"{what}: {path} is not a readable safetensors file: {error}") from None
    return unpickle(path, what, remedy)


def load_inputs(path: Path, wanted: int | Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """The first so many inputs, or those of the indices, as one tensor, and their indices.

    A file with an array (.npy, .pt, .safetensors with one tensor) is taken as it is, its first axis counts inputs. A
    picture, or each of a folder by name, is RGB of 0..1, (3, y, x).
    """
    if is_pictures(path):
        read, indices = pictures(path, wanted)
        return torch.from_numpy(read), indices
    whole = _array(path)
    if whole.ndim < 1 or not len(whole):
        raise QexportError(f"inputs: {path} holds no inputs; its first axis counts them")
    indices = chosen(wanted, len(whole), path)
    return whole[list(indices)], indices


def _array(path: Path) -> Tensor:
    if path.suffix not in ARRAYS:
        raise QexportError(f"inputs: {path} is none of {', '.join((*ARRAYS, *PICTURES))}; give one, or a folder")
    if path.suffix == ".npy":
        return torch.from_numpy(arrays(path)[""])
    found = _read_tensors(path, "inputs", "save one tensor")
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    if not isinstance(found, Tensor):
        raise QexportError(f"inputs: {path} holds more than one tensor; save one")
    return found
