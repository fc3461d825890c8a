"""The report on the narrowest layer, and the page that compares two networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qexport.frontends.vgg.data import Pictures
from qexport.report.comparison import write_page
from qexport.train.squeeze import effective_rank, squeeze, squeeze_report
from tests.conftest import cli, fails
from tests.frontends.networks import small_network


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


def test_the_page_counts_the_seeds_that_bear_the_claim_out(tmp_path: Path) -> None:
    def run(top1: float, rank: float, std: float, quantized: bool) -> list[dict[str, Any]]:
        squeezed = {"effective_rank": rank, "dead_inputs": [], "dead_outputs": [3]}
        gradient = {"mean": 0.5, "std": std}
        warm = {"epoch": 1, "top1": 1.0, "quantized": False, "squeeze_gradient": {"mean": 9.0, "std": 9.0}}
        last = {"epoch": 2, "top1": top1, "quantized": quantized, "squeeze_gradient": gradient}
        return [warm | {"squeeze": squeezed}, last | {"squeeze": squeezed}]

    sudden = {
        True: [run(60, 5, 0.3, True), run(70, 5, 0.1, True)],
        False: [run(75, 6, 0.1, False), run(75, 6, 0.1, False)],
    }
    gradual = {
        True: [run(64, 4, 0.2, True), run(62, 4, 0.2, True)],
        False: [run(74, 6, 0.1, False), run(76, 7, 0.1, False)],
    }
    page = tmp_path / "page.md"
    write_page({"a": sudden, "b": gradual}, "2 epochs", "qexport compare", page)
    rows = {row.split(" | ")[0]: row.split(" | ")[1:] for row in page.read_text().splitlines() if row[:2] == "| "}
    assert rows["|"] == ["`a`", "`b`", "`a` worse |"]
    assert rows["| top-1 with quantizers, %"] == ["65.00 ± 7.07", "63.00 ± 1.41", "1 of 2 |"]
    assert rows["| top-1 in float, %"] == ["75.00 ± 0.00", "75.00 ± 1.41", "1 of 2 |"]
    assert rows["| gap, percentage points"] == ["10.00 ± 7.07", "12.00 ± 2.83", "1 of 2 |"]
    assert rows["| gradient norm at the squeeze, mean"] == ["0.500 ± 0.000", "0.500 ± 0.000", "- |"]
    assert rows["| its standard deviation within an epoch over its mean"] == ["0.40 ± 0.28", "0.40 ± 0.00", "1 of 2 |"]
    ranks = "| effective rank of the squeezed activations (of 8), quantized"
    assert rows[ranks] == ["5.00 ± 0.00", "4.00 ± 0.00", "0 of 2 |"]
    assert rows["| the same in float"] == ["6.00 ± 0.00", "6.50 ± 0.71", "1 of 2 |"]
    assert rows["| dead channels at the squeeze, of 16"] == ["1.0 ± 0.0", "1.0 ± 0.0", "0 of 2 |"]
    assert page.with_suffix(".svg").exists()
    assert "**2 epochs decide nothing**" in page.read_text()
    write_page({"a": sudden, "b": gradual}, "2 epochs", "qexport compare", page.with_suffix(".html"))
    shown = page.with_suffix(".html").read_text()
    assert all(f">{cell}<" in shown for cell in ("top-1 with quantizers, %", "65.00 ± 7.07", "1 of 2"))
    assert "2 epochs decide nothing" in shown
    longer = {
        model: {on: [run * 7 for run in runs] for on, runs in logs.items()}
        for model, logs in {"a": sudden, "b": gradual}.items()
    }
    write_page(longer, "14 epochs", "qexport compare", page)
    assert "epochs decide nothing" not in page.read_text()
