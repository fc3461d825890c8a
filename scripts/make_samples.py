"""Make the sample pictures that ship: 32x32 crops of photographs in scikit-image that are CC0 or public domain.

Run it with `pip install scikit-image pillow` in the repository's root; the licences stand in NOTICE.
"""

from pathlib import Path

from PIL import Image
from skimage import data

SIDE = 32
OUT = Path(__file__).parent.parent / "qexport" / "frontends" / "vgg" / "samples"

# Photograph -> squares (left, top, side) that are scaled down to 32x32.
CROPS = {
    "astronaut": [(0, 0, 512), (130, 0, 200), (250, 180, 200), (0, 60, 180), (340, 0, 170), (60, 260, 250)],
    "camera": [(0, 0, 512), (150, 60, 180), (240, 120, 180), (300, 200, 200), (60, 60, 320)],
    "chelsea": [(75, 0, 300), (100, 30, 120), (210, 40, 110), (130, 90, 150), (240, 120, 180), (0, 0, 200)],
    "coffee": [(100, 0, 400), (180, 80, 220), (300, 150, 200), (0, 200, 200), (380, 0, 220)],
    "rocket": [(100, 0, 427), (270, 60, 180), (250, 200, 220), (400, 180, 240), (0, 200, 220)],
    "hubble_deep_field": [(0, 0, 870), (300, 200, 260), (520, 420, 200)],
    "retina": [(200, 200, 1000), (650, 500, 400)],
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.png"):
        old.unlink()
    number = 0
    for name, squares in CROPS.items():
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        for left, top, side in squares:
            crop = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            crop.save(OUT / f"{number:02d}_{name}.png", optimize=True)
            number += 1
    print(f"{number} pictures in {OUT}")


if __name__ == "__main__":
    main()
