"""The report on the narrowest layer, and the page that compares two networks."""

import json
from pathlib import Path

import pytest
import torch

from qexport.nn.data import Pictures
from qexport.nn.report import effective_rank, squeeze, squeeze_report
from tests.conftest import cli, fails
from tests.nn.conftest import small_network


def test_the_effective_rank_counts_channels_that_say_different_things() -> None:
    torch.manual_seed(0)
    free = torch.randn(200, 4, 8, 8)
    assert effective_rank(free) == pytest.approx(4, abs=0.01)
    assert effective_rank(free[:, :1].expand(-1, 4, -1, -1)) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.cat((free[:, :2], 0 * free[:, 2:]), 1)) == pytest.approx(2, abs=0.01)
    assert effective_rank(torch.ones(2, 4, 8, 8)) == 0


def test_the_report_counts_codes_and_finds_dead_channels() -> None:
    model = small_network()
    pictures = Pictures(torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    index, conv = squeeze(model)
    assert (conv.in_channels, conv.out_channels) == (4, 4)
    alive = squeeze_report(model, pictures)
    assert (alive["layer"], alive["dead_inputs"], alive["dead_outputs"]) == (index, [], [])
    assert sum(alive["weight_codes"].values()) == pytest.approx(1)
    before = model.features[index - 2]
    with torch.no_grad():
        before.weight[2] = 0  # BatchNorm of the layer before: its channel 2 is a constant below 0
        before.bias[2] = -1
        conv.weight[1] = -conv.weight.abs().max()  # no output of channel 1 passes the ReLU
    dead = squeeze_report(model, pictures)
    assert (dead["dead_inputs"], dead["dead_outputs"]) == ([2], [1])
    assert dead["effective_rank"] < 3.001
    assert dead["input_zero"] > alive["input_zero"]
    with torch.no_grad():
        conv.act_alpha.fill_(1e-3)
    assert squeeze_report(model, pictures)["input_saturated"] == pytest.approx(1 - dead["input_zero"], abs=0.1)


def test_compare_writes_a_page_with_its_plots(noise_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "squeeze.md"
    arguments = ("compare", "vgg16_quant", "vgg16_quant_gradual", "--data", noise_folder, "--work", tmp_path / "work")
    arguments += ("--epochs", 3, "--seeds", 1, "--device", "cpu", "--out", page, "--json")
    done = cli(*arguments)
    assert done.exit_code == 0, done.output
    top1 = json.loads(done.stdout)["top1"]
    text = page.read_text()
    for model in ("vgg16_quant", "vgg16_quant_gradual"):
        assert f"`{model}`" in text
        log = (tmp_path / "work" / f"{model}-quantized-0" / "log.jsonl").read_text().splitlines()
        assert top1[model]["quantized"] == [json.loads(log[-1])["top1"]]
    assert f"({page.stem}.svg)" in text
    again = cli(*arguments)  # every run is there already: nothing is trained again, the same page comes out
    assert again.exit_code == 0
    assert page.read_text() == text
    fails(cli("compare", "vgg16_quant", "--data", noise_folder, "--work", tmp_path / "w", "--out", page), "two")
