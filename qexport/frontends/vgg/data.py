"""CIFAR-10 as uint8 tensors: torchvision's batches or an image folder; normalisation and augmentation."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.datasets import CIFAR10, ImageFolder

from qexport.errors import QexportError, few
from qexport.frontends.vgg.shipped import SAMPLES

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.491, 0.482, 0.447)
STD = (0.247, 0.243, 0.262)
SIDE = 32
CROP_PADDING = 4


@dataclass(frozen=True)
class Pictures:
    """pixels: uint8 (n, 3, side, side), RGB; labels: int64 (n,)."""

    pixels: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Pictures":
        return Pictures(self.pixels.to(device), self.labels.to(device))

    def spread(self, count: int) -> Tensor:
        """The pixels of up to `count` pictures at equal distances: image folders are sorted by class."""
        return self.pixels[:: math.ceil(len(self.labels) / count)]


class SamplePictures:
    """The pictures that ship with the package, in the order of their names; they have no labels."""

    def __init__(self) -> None:
        self.paths = sorted(SAMPLES.glob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.paths[index]) as picture:
            return picture.convert("RGB"), -1


def open_split(
    root: Path, split: str, download: bool = False, side: int = SIDE, classes: int = len(CLASS_NAMES)
) -> Any:
    """The torchvision dataset under `root`, of pictures of a side and so many classes; `split` is 'train' or 'test'.

    Takes a folder that holds `cifar-10-batches-py`, or an image folder with train/<class> and test/<class>.
    Raises QexportError when it is neither, or is incomplete, or cannot be fetched.
    """
    if download or (root / CIFAR10.base_folder).is_dir():
        try:
            return CIFAR10(str(root), train=split == "train", download=download)
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise QexportError(
                f"data: CIFAR-10 in {root} cannot be read: {reason}; `qexport train --download` fetches it"
            ) from None
    folder = root / split
    if not folder.is_dir():
        raise QexportError(
            f"data: {root} holds neither {CIFAR10.base_folder}/ nor {split}/<class>/; "
            "point --data at CIFAR-10 (`qexport train --download` fetches it)"
        )
    try:
        dataset = ImageFolder(str(folder), loader=partial(_open, side=side))
    except FileNotFoundError as error:
        raise QexportError(f"data: {folder}: {error}") from None
    if (side, classes) == (SIDE, len(CLASS_NAMES)) and tuple(dataset.classes) != CLASS_NAMES:
        raise QexportError(f"data: {folder} has classes {few(dataset.classes)}; needs {', '.join(CLASS_NAMES)}")
    if len(dataset.classes) != classes:
        raise QexportError(f"data: {folder} has {len(dataset.classes)} classes; the network tells {classes} apart")
    return dataset


def _open(path: str, side: int) -> Image.Image:
    """A picture of the right size; of another one only its size, because the decoded picture may be of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            return picture.convert("RGB") if picture.size == (side, side) else picture


def read(dataset: Any, indices: Sequence[int] | None = None, side: int = SIDE) -> Pictures:
    """The chosen pictures (all by default), in the order given; an index out of range raises QexportError."""
    chosen = range(len(dataset)) if indices is None else indices
    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
    labels = torch.empty(len(chosen), dtype=torch.int64)
    for at, index in enumerate(chosen):
        if not 0 <= index < len(dataset):
            raise QexportError(f"image index: {index} is outside 0..{len(dataset) - 1} of this data")
        try:
            picture, label = dataset[index]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).splitlines()[0]
            raise QexportError(f"data: {_name(dataset, index)} cannot be read: {reason}; replace it") from None
        if picture.size != (side, side):
            remedy = "give --data of that size" if isinstance(dataset, SamplePictures) else "scale it"
            raise QexportError(
                f"data: {_name(dataset, index)} is {picture.size[0]}x{picture.size[1]}; needs {side}x{side}: {remedy}"
            )
        pixels[at] = np.asarray(picture.convert("RGB"))
        labels[at] = label
    return Pictures(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)


def _name(dataset: Any, index: int) -> str:
    """The picture's file where it has one of its own, beside its index."""
    return f"picture {index} ({dataset.samples[index][0]})" if isinstance(dataset, ImageFolder) else f"picture {index}"


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (n, 3, y, x) to (value / 255 - mean) / std, channel by channel."""
    mean = torch.tensor(MEAN, dtype=dtype, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, dtype=dtype, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.to(dtype) / 255 - mean) / std


def augment(pixels: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Crop out of the pictures zero-padded by 4, then mirror some; uint8 (n, 3, 32, 32) both ways.

    `top` and `left` are the crops' corners, int64 (n,), 0..8; `mirrored` is bool (n,).
    """
    n, device = len(pixels), pixels.device
    steps = torch.arange(SIDE, device=device)
    rows = top.view(n, 1) + steps
    cols = left.view(n, 1) + torch.where(mirrored.view(n, 1), SIDE - 1 - steps, steps)
    padded = functional.pad(pixels, (CROP_PADDING,) * 4)
    image = torch.arange(n, device=device).view(n, 1, 1, 1)
    channel = torch.arange(3, device=device).view(1, 3, 1, 1)
    return padded[image, channel, rows.view(n, 1, SIDE, 1), cols.view(n, 1, 1, SIDE)]


def cut_out(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Zero a square of each picture (DeVries, Taylor 2017); float (n, 3, 32, 32) both ways, corners int64 (n,)."""
    steps = torch.arange(SIDE, device=x.device)
    rows = (steps >= top.view(-1, 1)) & (steps < top.view(-1, 1) + side)
    cols = (steps >= left.view(-1, 1)) & (steps < left.view(-1, 1) + side)
    return x.masked_fill(rows.view(-1, 1, SIDE, 1) & cols.view(-1, 1, 1, SIDE), 0.0)


def distort(pixels: Tensor, draws: Tensor) -> Tensor:
    """Warp half of the pictures and light half of them differently; uint8 to float (n, 3, 32, 32), both 0..255.

    `draws` are uniform in 0..1, (n, 9): whether to warp; turn (+-15 degrees), scale of each axis (+-15 %), shear
    (+-0.15); whether to light; contrast (+-40 %), brightness (+-40), saturation (+-60 %). What is outside is 0.
    """
    x = pixels.float()
    spread = 2 * draws - 1
    warp, light = (draws[:, at].view(-1, 1, 1, 1) < 0.5 for at in (0, 5))
    turn, across, down, shear = math.radians(15) * spread[:, 1], *(1 + 0.15 * spread[:, 2:4].T), 0.15 * spread[:, 4]
    zero = torch.zeros_like(turn)
    theta = [turn.cos() * across, shear - turn.sin() * down, zero, turn.sin() * across, turn.cos() * down, zero]
    grid = functional.affine_grid(torch.stack(theta, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    x = torch.where(warp, functional.grid_sample(x, grid, align_corners=False), x)
    contrast, brightness, saturation = (spread[:, at].view(-1, 1, 1, 1) for at in (6, 7, 8))
    grey = x.mean(1, keepdim=True)
    lit = grey + (x - grey) * (1 + 0.6 * saturation)
    level = lit.mean((1, 2, 3), keepdim=True)
    lit = level + (lit - level) * (1 + 0.4 * contrast) + 40 * brightness
    return torch.where(light, lit.clamp(0, 255), x)
