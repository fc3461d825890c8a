"""Training: resumes bit for bit after a kill, writes what it says, refuses what it cannot use."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qexport.nn.data import open_split, read
from qexport.nn.train import Recipe, augment, batches, calibrate, learning_rate, normalise
from qexport.nn.vgg import build
from tests.conftest import cli, fails

EPOCHS = 4


def command(data: Path, out: Path, *more: str) -> list[str]:
    program = [sys.executable, "-c", "from qexport.cli import main; main()", "train", "--data", str(data)]
    return [*program, "--epochs", str(EPOCHS), "--batch-size", "32", "--out", str(out), "--device", "cpu", *more]


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(noise_folder: Path, tmp_path: Path) -> None:
    subprocess.run(command(noise_folder, tmp_path / "whole"), check=True, capture_output=True)
    killed = subprocess.Popen(command(noise_folder, tmp_path / "cut"), stderr=subprocess.DEVNULL)
    log = tmp_path / "cut" / "log.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    last = torch.load(tmp_path / "cut" / "checkpoint.pth", weights_only=True)
    assert 1 <= last["epoch"] < EPOCHS
    subprocess.run(command(noise_folder, tmp_path / "cut", "--resume"), check=True, capture_output=True)
    whole, cut = (torch.load(tmp_path / run / "checkpoint.pth", weights_only=True) for run in ("whole", "cut"))
    assert whole["epoch"] == cut["epoch"] == EPOCHS
    assert whole["best_prec"] == cut["best_prec"]
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, cut["state_dict"][name]), name
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert not list(tmp_path.rglob("*.partial"))

    fails(
        cli("train", "--data", noise_folder, "--out", tmp_path / "whole"), "checkpoint.pth is there already", "--resume"
    )
    fails(cli("train", "--data", noise_folder, "--out", tmp_path / "whole", "--resume", "--lr", "0.3"), "contradicts")


def test_resuming_without_a_checkpoint_is_refused(noise_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "--data", noise_folder, "--out", tmp_path / "none", "--resume")
    fails(result, "checkpoint.pth does not exist; start without --resume")


def test_a_nan_loss_stops_with_one_line_and_keeps_no_broken_checkpoint(noise_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "--data", noise_folder, "--out", tmp_path / "r", "--lr", "1e30", "--epochs", "2")
    assert result.exit_code == 1
    assert "loss is" in result.stderr
    assert "lower --lr" in result.stderr


def test_no_data_and_unknown_names_are_refused(tmp_path: Path, noise_folder: Path) -> None:
    fails(cli("train", "--data", tmp_path), "holds neither")
    fails(cli("train", "--data", noise_folder, "--device", "toaster"), "device: 'toaster'", "--device auto")
    fails(cli("train", "--data", noise_folder, "--lr", "nan"), "lr: nan must be finite")
    (tmp_path / "file").touch()
    fails(cli("train", "--data", noise_folder, "--out", tmp_path / "file"), f"{tmp_path / 'file'} is a file")
    fails(cli("train", "--data", noise_folder, "--out", ""), "--out", "is empty")
    fails(
        cli("train", "--data", noise_folder, "--model", "resnet"), "model: 'resnet' is not known; choose one of vgg16"
    )


def test_the_learning_rate_makes_one_cycle() -> None:
    recipe = Recipe(lr=0.2)
    rates = [learning_rate(recipe, step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 250
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] < 0.001


def test_an_epochs_batches_depend_on_seed_and_epoch_alone(noise_folder: Path) -> None:
    pictures = read(open_split(noise_folder, "train"))
    recipe = Recipe(batch_size=25)
    first, again, later = (list(batches(pictures, recipe, epoch)) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [25, 25, 10]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], later[0][0])
    assert sorted(int(label) for _, labels in first for label in labels) == pictures.labels.tolist()


def test_calibration_fits_alpha_to_each_layers_inputs(noise_folder: Path) -> None:
    torch.manual_seed(0)
    pictures = read(open_split(noise_folder, "train"))
    x = normalise(augment(pictures.pixels[:32], torch.Generator().manual_seed(0)))
    model = build("vgg16_quant_gradual")
    calibrate(model, x)
    alphas = [conv.act_alpha.item() for conv in model.quantized().values()]
    assert alphas[0] == pytest.approx(float(x.max()))
    assert all(0 < alpha < 100 for alpha in alphas)
    assert len(set(alphas)) == len(alphas)
