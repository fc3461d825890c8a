"""Pictures and codes that go through a network, read part by part, so that memory does not grow with their number."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from qexport.core.budget import check_header
from qexport.core.geometry import shape_text
from qexport.core.network import Codes, IntegerNetwork, NetworkInput
from qexport.errors import QexportError, few

SAMPLES = Path(__file__).parent.parent / "frontends/vgg/samples"  # the pictures that ship
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")


class Inputs:
    """The codes of all inputs of a network for some pictures."""

    def __init__(self, path: Path, arrays: dict[str, Any], files: Sequence[Path], network: IntegerNetwork):
        self.path, self._arrays, self._files, self._network = path, arrays, files, network
        counts = {len(array) for array in arrays.values()} or {len(files)}
        if len(counts) > 1 or not min(counts):
            raise QexportError(f"inputs: {path} holds {few(sorted(counts))} pictures; give each input as many, above 0")
        self.pictures: int = counts.pop()

    def codes(self, pictures: Sequence[int]) -> dict[str, Codes]:
        """The codes of these pictures, by the name of the input."""
        if self._files:
            (one,) = self._network.inputs
            return {one.name: one.codes(np.stack([_pixels(self._files[at], one) for at in pictures]))}
        return {
            one.name: _as_codes(np.asarray(self._arrays[one.name][_span(pictures)]), one, self.path)
            for one in self._network.inputs
        }

    def sha256(self, pictures: Sequence[int]) -> str:
        """Of the codes of these pictures."""
        digest = hashlib.sha256()
        for at in pictures:
            for codes in self.codes([at]).values():
                digest.update(np.ascontiguousarray(codes, "<i8").tobytes())
        return digest.hexdigest()


def _span(pictures: Sequence[int]) -> Any:
    """A slice where the numbers follow each other, which reads no more than it takes."""
    first = pictures[0]
    return slice(first, first + len(pictures)) if list(pictures) == [*range(first, first + len(pictures))] else pictures


def open_inputs(path: Path, network: IntegerNetwork) -> Inputs:
    """A picture or a folder of them; .npy: pixels (uint8) or codes; .safetensors: those of each input by its name."""
    if path.is_dir() or path.suffix.lower() in PICTURES:
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not files:
            raise QexportError(f"inputs: {path} holds no picture ({', '.join(PICTURES)}); give one, or an array")
        if len(network.inputs) > 1 or network.inputs[0].lookup is None:
            raise QexportError("inputs: this network takes no pictures, its input has no lookup; give codes as .npy")
        return Inputs(path, {}, files, network)
    names = [one.name for one in network.inputs]
    if path.suffix == ".npy" and len(names) == 1:
        return Inputs(path, {names[0]: read_array(path, "inputs")}, (), network)
    if path.suffix != ".safetensors":
        what = "a tensor for each of its inputs, .safetensors" if len(names) > 1 else ".npy, .safetensors or pictures"
        raise QexportError(f"inputs: {path} is not what this network takes; give {what}")
    return given_inputs(_tensors(path, names), network, path)


def given_inputs(arrays: Mapping[str, Any], network: IntegerNetwork, path: Path = Path("arrays")) -> Inputs:
    """Arrays by the names of the network's inputs; `path`: where they came from, for errors."""
    names = [one.name for one in network.inputs]
    if sorted(arrays) != sorted(names):
        raise QexportError(
            f"inputs: {path} holds {few(sorted(arrays))}; this network's inputs are {few(sorted(names))}"
        )
    for name, array in arrays.items():
        if array.ndim < 2 or array.dtype.kind not in "iu":
            raise QexportError(f"inputs: {path}: {name} is {array.dtype}; needs integers, (pictures, ...)")
    return Inputs(path, dict(arrays), (), network)


def read_array(path: Path, what: str) -> Any:
    """The integers of a .npy file, which stay on the disk until they are asked for."""
    if not path.is_file():
        raise QexportError(f"{what}: {path} does not exist or is not a file; give one")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise QexportError(f"{what}: {path} is not a readable array: {' '.join(str(error).split())}") from None
    if array.ndim < 2 or array.dtype.kind not in "iu":
        raise QexportError(
            f"{what}: {path} is {array.dtype} {shape_text(array.shape)}; needs integers, (pictures, ...)"
        )
    return array


def _tensors(path: Path, names: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise QexportError(f"inputs: {path} does not exist or is not a file; give one")
    check_header(path, "inputs")
    try:
        with safe_open(str(path), framework="numpy") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (SafetensorError, AttributeError, TypeError, OSError) as error:
        raise QexportError(f"inputs: {path} is not a readable safetensors file: {error}") from None
    if len(names) == len(held) == 1:
        held = dict(zip(names, held.values(), strict=True))
    return held


def _as_codes(array: Codes, one: NetworkInput, path: Path) -> Codes:
    if array.shape[1:] != one.shape:
        raise QexportError(
            f"inputs: {path} has {shape_text(array.shape[1:])} for each picture; input {one.name} is "
            f"{shape_text(one.shape)}"
        )
    if one.lookup is not None and array.dtype == np.uint8:
        return one.codes(array)
    check_codes(array, one.format, f"inputs: {path}: {one.name}")
    return array


def check_codes(array: Codes, fmt: Any, where: str) -> None:
    """Raises QexportError for a code that the format does not have."""
    try:
        fmt.check("its", array)
    except QexportError as error:
        text = str(error).removeprefix("capture: ").split("; correct")[0].split("formats.")[0]
        raise QexportError(f"{where}: {text.strip().rstrip(';')}; correct the codes") from None


def _pixels(path: Path, one: NetworkInput) -> Codes:
    from PIL import Image, UnidentifiedImageError

    channels, *size = one.shape
    if channels not in (1, 3) or len(size) != 2:
        raise QexportError(f"inputs: input {one.name} is {shape_text(one.shape)}, not a picture; give codes as .npy")
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            if image.size != (size[1], size[0]):
                raise QexportError(f"inputs: {path} is {image.size[0]}x{image.size[1]}; needs {size[1]}x{size[0]}")
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, QexportError):
            raise
        raise QexportError(f"inputs: {path} is not a readable picture: {' '.join(str(error).split())}") from None
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
