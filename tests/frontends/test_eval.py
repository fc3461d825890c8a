"""`qexport eval` counts the same pictures on every machine."""

import json
import shutil
from pathlib import Path

import torch

from qexport.frontends.vgg.data import CLASS_NAMES
from tests.conftest import cli
from tests.frontends.networks import small_network


def test_pictures_are_counted_in_float64(noise_folder: Path, tmp_path: Path) -> None:
    """The second class is ahead of the first by less than float32 can tell."""
    data = Path(shutil.copytree(noise_folder, tmp_path / "data"))
    (data / "test" / CLASS_NAMES[0] / "0.png").unlink()
    state = small_network().state_dict()
    state["classifier.weight"].zero_()
    state["classifier.weight"][1] = 2.0**-40
    state["classifier.bias"].zero_()
    state["classifier.bias"][:2] = 1
    torch.save(state, tmp_path / "m.pth")
    result = cli("eval", "--checkpoint", tmp_path / "m.pth", "--data", data, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["correct"], found["total"]) == (2, 19)
