"""Files of inputs: arrays, and pictures as numbers."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from qexport.core.budget import CHECKPOINT_BYTES, check_header
from qexport.errors import QexportError, few

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
ARRAYS = (".npy", ".npz", ".safetensors")
Array = NDArray[Any]


def line_of(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def chosen(wanted: int | Sequence[int], there: int, path: Path) -> tuple[int, ...]:
    """The indices of the inputs that are asked for: the first so many, or these."""
    indices = range(min(wanted, there)) if isinstance(wanted, int) else wanted
    for index in indices:
        if index >= there:
            raise QexportError(f"indices: {index} is outside 0..{there - 1}, the inputs of {path}")
    if not indices:
        raise QexportError(f"images: {wanted} is outside 1..{there}, the inputs of {path}")
    return tuple(indices)


@dataclass(frozen=True)
class Normalised:
    """Pixels (uint8) as real numbers: of 0..1, less the mean, by the standard deviation, channel by channel."""

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __call__(self, given: Array) -> Array:
        if given.dtype != np.uint8:
            return given.astype(np.float32)
        mean, std = (np.array(numbers, np.float32).reshape(-1, 1, 1) for numbers in (self.mean, self.std))
        real: Array = (given.astype(np.float32) / np.float32(255) - mean) / std
        return real


def vectors(name: str, found: Array, inputs: int, classes: int) -> Array:
    """What a model gives, as a vector of logits for each input."""
    if found.size != inputs * classes:
        raise QexportError(
            f"model: {name} gives {found.shape} for {inputs} inputs; the network tells {classes} classes apart: give "
            "the model that it came from"
        )
    return found.reshape(inputs, classes)


def is_pictures(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in PICTURES


def pictures(path: Path, wanted: int | Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """A picture, or each of a folder by name, as RGB of 0..1, (n, 3, y, x) float32; and their indices."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not files:
            raise QexportError(f"inputs: {path} holds no picture ({', '.join(PICTURES)}); give one array in a file")
    indices = chosen(wanted, len(files), path)
    read = [_picture(files[index]) for index in indices]
    sizes = {picture.shape for picture in read}
    if len(sizes) > 1:
        raise QexportError(f"inputs: pictures of {path} have sizes {few(sorted(sizes))}; give them one size")
    return np.stack(read), indices


def _picture(path: Path) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise QexportError(f"inputs: {path} is not a readable picture: {line_of(error)}") from None
    return pixels.transpose(2, 0, 1).astype(np.float32) / 255


def arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; that of a .npy has none ("")."""
    if not path.is_file():
        raise QexportError(f"inputs: {path} does not exist or is not a file; give one")
    if path.stat().st_size > CHECKPOINT_BYTES:
        raise QexportError(f"inputs: {path} has more than {CHECKPOINT_BYTES:,} bytes; save less in it")
    if path.suffix == ".safetensors":
        check_header(path, "inputs")
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError, TypeError, OSError) as error:
            raise QexportError(f"inputs: {path} is not a readable safetensors file: {line_of(error)}") from None
    try:
        loaded = np.load(path)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"": loaded}
        with loaded, zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > CHECKPOINT_BYTES:
                raise ValueError("it unpacks to too many bytes")
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # the library raises whatever its zip and header readers meet
        raise QexportError(f"inputs: {path} is not a readable array: {line_of(error)}") from None
