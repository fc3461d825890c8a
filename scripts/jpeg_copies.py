"""CIFAR-10 as JPEGs of Pillow's defaults: quality 75, colours of half the resolution. An image folder.

`python scripts/jpeg_copies.py data/ jpeg/` reads what `qexport train --download` fetched. The network that ships was
trained on such pictures.
"""

import sys
from pathlib import Path

from rich.progress import track

from qexport.frontends.vgg.data import CLASS_NAMES, open_split


def main(data: Path, folder: Path) -> None:
    for split in ("train", "test"):
        pictures = open_split(data, split)
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number, (picture, label) in enumerate(track(pictures, split)):
            picture.save(folder / split / CLASS_NAMES[label] / f"{number:05}.jpg", "JPEG")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
