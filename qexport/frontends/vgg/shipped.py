"""The pictures that ship with the package, read without PyTorch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parent / "samples"


def known_pixels(numbers: Sequence[int], digest: str) -> NDArray[np.uint8] | None:
    """The shipped pictures of these numbers, uint8 (n, 3, y, x), where their SHA-256 is this one; else None."""
    paths = sorted(SAMPLES.glob("*.png"))
    if not numbers or max(numbers) >= len(paths):
        return None
    from PIL import Image

    pixels: NDArray[Any] = np.stack([np.asarray(Image.open(paths[number]).convert("RGB")) for number in numbers])
    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return pixels if hashlib.sha256(pixels.tobytes()).hexdigest() == digest else None
