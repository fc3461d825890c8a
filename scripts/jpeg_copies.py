"""CIFAR-10 as image folders: the pictures as they are, as JPEGs of Pillow's defaults, and both together.

`python scripts/jpeg_copies.py data/ folder/` reads what `qexport train --download` fetched. In folder/train lie 100,000
pictures, each training picture twice, in folder/test the test pictures as they are; folder/jpeg/ is a whole CIFAR-10 of
JPEGs. The network that ships was trained on folder/, so that it knows pictures that went through a JPEG, too.
"""

import io
import sys
from collections.abc import Iterable
from pathlib import Path

from PIL.Image import Image
from rich.progress import track

from qexport.frontends.vgg.data import CLASS_NAMES, open_split


def write(pictures: Iterable[tuple[Image, int]], as_they_are: Path, as_jpegs: Iterable[Path]) -> None:
    """Into folders by class, named by their number in the dataset; a `track` shows how far it is."""
    as_jpegs = tuple(as_jpegs)
    for root in (as_they_are, *as_jpegs):
        for name in CLASS_NAMES:
            (root / name).mkdir(parents=True, exist_ok=True)
    for number, (picture, label) in enumerate(pictures):
        name = Path(CLASS_NAMES[label]) / f"{number:05}"
        picture.save(as_they_are / name.with_suffix(".png"))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG")
        for root in as_jpegs:
            (root / name.with_suffix(".jpg")).write_bytes(buffer.getvalue())


def main(data: Path, folder: Path) -> None:
    train, test = (track(open_split(data, split), split) for split in ("train", "test"))
    write(train, folder / "train", [folder / "train", folder / "jpeg/train"])
    write(test, folder / "test", [folder / "jpeg/test"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
