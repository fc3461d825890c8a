"""Pictures: both folder forms, normalisation, augmentation, and what is refused."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from qexport.errors import QexportError
from qexport.frontends.vgg.data import (
    CLASS_NAMES,
    SamplePictures,
    augment,
    cut_out,
    distort,
    normalise,
    open_split,
    read,
)
from scripts.jpeg_copies import main


def test_an_image_folder_is_read_in_torchvisions_order(noise_folder: Path) -> None:
    pictures = read(open_split(noise_folder, "test"))
    assert pictures.pixels.shape == (20, 3, 32, 32)
    assert pictures.labels.tolist() == [label for label in range(10) for _ in range(2)]
    first = np.asarray(Image.open(noise_folder / "test" / "airplane" / "0.png")).transpose(2, 0, 1)
    assert (pictures.pixels[0].numpy() == first).all()
    assert torch.equal(read(open_split(noise_folder, "test"), [3, 0]).pixels[1], pictures.pixels[0])


def test_the_official_batches_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (10, 3072), np.uint8)
    content = {"data": data, "labels": list(range(10))}
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASS_NAMES)}))
    with pytest.MonkeyPatch.context() as patch:  # torchvision knows the official files by their MD5 only
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        pictures = read(open_split(tmp_path, "test"))
    assert pictures.labels.tolist() == list(range(10))
    assert (pictures.pixels.numpy().reshape(10, 3072) == data).all()


def test_normalise_is_the_stated_formula() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    want = [(0 / 255 - 0.491) / 0.247, (128 / 255 - 0.482) / 0.243, (255 / 255 - 0.447) / 0.262]
    torch.testing.assert_close(normalise(pixels, torch.float64).flatten(), torch.tensor(want, dtype=torch.float64))


def test_augment_crops_out_of_zero_padding_and_mirrors_as_told() -> None:
    pixels = torch.randint(1, 256, (40, 3, 32, 32), dtype=torch.uint8)
    top, left = torch.randint(9, (2, 40))
    mirrored = torch.arange(40) % 3 == 0
    out = augment(pixels, top, left, mirrored)
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    for at in range(40):
        crop = padded[at, :, top[at] : top[at] + 32, left[at] : left[at] + 32]
        assert torch.equal(out[at], crop.flip(2) if mirrored[at] else crop)


def test_cut_out_zeroes_one_square_a_picture() -> None:
    out = cut_out(torch.ones(3, 3, 32, 32), torch.tensor([0, 5, 24]), torch.tensor([0, 17, 24]), 8)
    for picture, (top, left) in zip(out, ((0, 0), (5, 17), (24, 24)), strict=True):
        assert not picture[:, top : top + 8, left : left + 8].any()
        assert picture.sum() == 3 * (32 * 32 - 64)


def drawn(**given: float) -> torch.Tensor:
    names = ["warp", "turn", "across", "down", "shear", "light", "contrast", "brightness", "saturation"]
    middle = {"warp": 1.0, "light": 1.0} | dict.fromkeys(("turn", "across", "down", "shear", "contrast"), 0.5)
    return torch.tensor([[(middle | given).get(name, 0.5) for name in names]])


def test_distort_leaves_a_quarter_of_the_pictures_as_they_are_and_changes_nothing_in_the_middle_of_its_ranges() -> None:
    pixels = torch.randint(256, (1000, 3, 32, 32), dtype=torch.uint8)
    out = distort(pixels, torch.rand(1000, 9))
    assert 150 < (out == pixels).all((1, 2, 3)).sum() < 350, "a quarter is neither warped nor lit"
    assert 0 <= out.min() < out.max() <= 255
    for draws in (drawn(warp=0.0), drawn(light=0.0)):
        torch.testing.assert_close(distort(pixels[:1], draws), pixels[:1].float(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("draws", "want"),
    [
        (drawn(warp=0.0, turn=1.0), {"angle": -15.0, "scale": 1.0}),
        (drawn(warp=0.0, turn=0.0), {"angle": 15.0, "scale": 1.0}),
        (drawn(warp=0.0, across=0.0, down=0.0), {"angle": 0.0, "scale": 1 / 0.85}),
        (drawn(warp=0.0, across=1.0, down=1.0), {"angle": 0.0, "scale": 1 / 1.15}),
    ],
)
def test_distort_turns_and_scales_as_torchvision_does(draws: torch.Tensor, want: dict[str, float]) -> None:
    pixels = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = functional.affine(
        pixels.float(), **want, translate=[0, 0], shear=[0.0], interpolation=InterpolationMode.BILINEAR
    )
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))  # edges are torchvision's own way
    torch.testing.assert_close(distort(pixels, draws)[inside], expected[inside], atol=0.5, rtol=0)


@pytest.mark.parametrize(
    ("draws", "x_by_x", "x_by_y", "y_by_y"),
    [
        (drawn(warp=0.0, across=1.0), 1.15, 0.0, 1.0),
        (drawn(warp=0.0, down=0.0), 1.0, 0.0, 0.85),
        (drawn(warp=0.0, shear=1.0), 1.0, 0.15, 1.0),
    ],
)
def test_distort_takes_each_pixel_from_where_it_says(
    draws: torch.Tensor, x_by_x: float, x_by_y: float, y_by_y: float
) -> None:
    at = torch.arange(32)
    columns, rows = at.expand(32, 32), at.view(32, 1).expand(32, 32)
    out = distort(torch.stack([columns, rows, rows])[None].to(torch.uint8), draws)[0, :, 8:24, 8:24]
    x, y = (t[8:24, 8:24] - 15.5 for t in (columns, rows))
    torch.testing.assert_close(out[0], 15.5 + x_by_x * x + x_by_y * y, atol=1e-3, rtol=0)
    torch.testing.assert_close(out[1], 15.5 + y_by_y * y, atol=1e-3, rtol=0)


def test_distort_changes_the_light_by_what_it_says() -> None:
    pixels = (
        torch.tensor([[[100, 140]], [[60, 100]], [[80, 120]]], dtype=torch.uint8)
        .expand(1, 3, 32, 2)
        .repeat(1, 1, 1, 16)
    )
    shift = distort(pixels, drawn(light=0.0, brightness=0.75)) - pixels
    torch.testing.assert_close(shift, torch.full_like(shift, 20.0))
    contrast = distort(pixels, drawn(light=0.0, contrast=0.0)) - 100
    torch.testing.assert_close(contrast, 0.6 * (pixels - 100.0))
    grey = distort(pixels, drawn(light=0.0, saturation=0.0))
    mean = pixels.float().mean(1, keepdim=True)
    torch.testing.assert_close(grey, mean + 0.4 * (pixels - mean))


def test_the_script_makes_jpegs_of_the_same_pictures(noise_folder: Path, tmp_path: Path) -> None:
    main(noise_folder, tmp_path)
    for split in ("train", "test"):
        given, jpeg = (read(open_split(root, split)) for root in (noise_folder, tmp_path))
        assert torch.equal(given.labels, jpeg.labels)
        error = (given.pixels.double() - jpeg.pixels.double()).abs().mean()
        assert 0 < error < 12


def test_thirty_two_sample_pictures_ship() -> None:
    samples = SamplePictures()
    assert len(samples) == 32
    pixels = read(samples).pixels
    assert pixels.shape == (32, 3, 32, 32)
    assert len({picture.numpy().tobytes() for picture in pixels}) == 32


def test_what_is_no_data_is_refused(tmp_path: Path, noise_folder: Path) -> None:
    with pytest.raises(QexportError, match=r"holds neither cifar-10-batches-py/ nor test/<class>/"):
        open_split(tmp_path, "test")
    (tmp_path / "test" / "zebra").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "test" / "zebra" / "0.png")
    with pytest.raises(QexportError, match="has classes zebra; needs airplane"):
        open_split(tmp_path, "test")
    with pytest.raises(QexportError, match=r"image index: 20 is outside 0..19"):
        read(open_split(noise_folder, "test"), [20])


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    for name in CLASS_NAMES:
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(tmp_path / "test" / name / "0.png")
    with pytest.raises(QexportError, match=r"picture 0 \(.*airplane/0.png\) is 64x48; needs 32x32"):
        read(open_split(tmp_path, "test"))


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    for name in CLASS_NAMES:
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(b"junk")
    with pytest.raises(QexportError, match=r"picture 3 \(.*cat/0.png\) cannot be read"):
        read(open_split(tmp_path, "test"), [3])


@pytest.mark.whole
def test_a_picture_that_is_small_on_the_disk_only_is_not_decoded(tmp_path: Path) -> None:
    for name in CLASS_NAMES:
        (tmp_path / "test" / name).mkdir(parents=True)
        path = tmp_path / "test" / name / "0.png"
        with Image.new("1", (12_000, 12_000)) as large:  # Pillow would only warn
            large.save(path)
        path.write_bytes(path.read_bytes()[:100])  # the header tells the size; decoding would fail
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(QexportError, match=r"picture 1 \(.*automobile/0.png\) is 12000x12000; needs 32x32"):
            read(open_split(tmp_path, "test"), [1])


@pytest.mark.whole
def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    for name in CLASS_NAMES:
        (tmp_path / "test" / name).mkdir(parents=True)
        with Image.new("1", (16_000, 16_000)) as large:
            large.save(tmp_path / "test" / name / "0.png")
    with pytest.raises(QexportError, match=r"picture 2 \(.*bird/0.png\) cannot be read"):
        read(open_split(tmp_path, "test"), [2])
