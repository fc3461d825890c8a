"""A small network of the family, and image folders of noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qexport.frontends.vgg.data import CLASS_NAMES
from qexport.frontends.vgg.model import QuantVGG, specs_of

SMALL = "8 M 16 M 16 4 4* 8 M 16 M 16 M"


def small_network(cfg: str = SMALL, seed: int = 0, weight_bits: int = 4, act_bits: int = 4) -> QuantVGG:
    """A narrow network with its BatchNorms away from their starting values."""
    torch.manual_seed(seed)
    specs = specs_of(cfg)
    model = QuantVGG(specs, weight_bits, act_bits, in_features=specs[-1].out_channels)
    for conv in model.quantized().values():
        conv.act_alpha.data.fill_(2.5)
    model.train()
    model(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder in CIFAR-10's form: 6 pictures a class to train with, 2 to test with."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in CLASS_NAMES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                blocks = rng.integers(0, 256, (4, 4, 3), np.uint8)  # finer noise all looks the same to a network
                Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(folder / f"{number}.png")
    return root
