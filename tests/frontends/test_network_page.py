"""docs/how-to/network.md: its commands and its Python run."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from qexport.build.inputs import SAMPLES
from tests.conftest import cli
from tests.frontends.test_eval_of_models import classifier
from tests.test_docs import ROOT, python_of

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))
"""


def of_onnx(folder: Path) -> None:
    """What the page's commands on networks from ONNX take."""
    onnx.save(classifier(), folder / "net.onnx")
    np.save(folder / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    np.save(folder / "y.npy", np.arange(4))
    (folder / "my_net.py").write_text(NET)
    torch.save({"fc.weight": torch.ones(4, 3), "fc.bias": torch.zeros(4)}, folder / "net.pth")
    for label in range(4):
        of_class = folder / "folder/test" / str(label)
        of_class.mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 50 * label, np.uint8)).save(of_class / "0.png")


@pytest.mark.whole
def test_the_page_of_networks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for picture in sorted(SAMPLES.iterdir())[:4]:
        (tmp_path / "pictures" / picture.name).write_bytes(picture.read_bytes())
    of_onnx(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    page = (ROOT / "docs/how-to/network.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).splitlines()
    said = {}
    for line in filter(None, lines):
        words = line.partition("#")[0].split()
        done = cli(*words[1:])
        assert done.exit_code == 0, (line, done.output)
        said[words[1], words[-1]] = done.stdout
    assert "proven: every code" in said["import", "vgg.network.safetensors"]
    assert np.load("logits.npy").shape == (4, 10, 1, 1)
    assert "0 of 40 codes of classifier change" in said["run", "codes.npy"]
    assert "features.54" in said["dump", "--dry-run"]
    assert ": ok, " in said["verify", "vectors/"]


def test_the_file_of_the_page_is_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of("docs/how-to/network.md"), "network.md", "exec"), {})
    done = cli("run", "tiny.network.safetensors", "--inputs", "codes.npy", "--out", "logits.npy")
    assert done.exit_code == 0, done.output
    assert np.load("logits.npy").shape == (2, 3, 1, 1)
