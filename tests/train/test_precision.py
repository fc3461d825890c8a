"""The precision that nobody chose: the faster one, and on --resume that of the run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from qexport.errors import QexportError
from qexport.train import precision
from qexport.train.loop import AUTO, Recipe, starting_state
from qexport.train.precision import faster, settle
from tests.conftest import cli, fails
from tests.train.test_train import command, records, state

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rates", "taken"),
    [
        ({"bf16": 3.0, "float32": 31.0}, "float32"),
        ({"bf16": 62.0, "float32": 31.0}, "bf16"),
        ({"bf16": 5.0, "float32": 5.0}, "bf16"),
    ],
)
def test_the_faster_one_is_taken_and_both_rates_are_told(
    rates: dict[str, float], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faster(rates) == taken
    monkeypatch.setattr(precision, "_rates", lambda recipe, device: rates)
    told: list[str] = []
    assert settle(Recipe(precision=AUTO), None, CPU, told.append) == Recipe(precision=taken)
    [line] = told
    assert line.startswith(f"precision: {taken}, {rates[taken]:.1f} img/s")
    assert all(f"{rate:.1f}" in line and name in line for name, rate in rates.items())


def test_nothing_is_timed_where_it_is_chosen_resumed_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_rates", None)
    for chosen in ("bf16", "float32"):
        assert settle(Recipe(precision=chosen), None, CPU, print).precision == chosen
        start = {"recipe": {"precision": chosen}}
        assert settle(Recipe(precision=AUTO), start, CPU, print).precision == chosen
    assert settle(Recipe(precision=AUTO), None, torch.device("cuda"), print).precision == "bf16"


def test_a_run_says_what_it_took_and_goes_on_with_that_alone(noise_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    once = [*command(noise_folder, out)[3:], "--epochs", "1"]
    begun = cli(*once)
    assert begun.exit_code == 0, begun.output
    [line] = [line for line in begun.stderr.splitlines() if line.startswith("precision: ")]
    taken = state(out / "checkpoint.pth")["recipe"]["precision"]
    assert line.startswith(f"precision: {taken}, ")
    [other] = {"bf16", "float32"} - {taken}
    fails(cli(*once, "--resume", "--precision", other), f"precision {other} contradicts {taken}", "checkpoint.pth")
    again = cli(*once, "--resume")
    assert again.exit_code == 0, again.output
    assert "precision: " not in again.stderr
    assert [record["quantized"] for record in records(out)] == [True], "a single epoch has no float warm start"


def test_a_checkpoint_of_an_earlier_version_with_an_explicit_precision_resumes(tmp_path: Path) -> None:
    written: dict[str, Any] = {
        "recipe": {
            "model": "vgg16_quant_gradual", "weight_bits": 4, "act_bits": 4, "epochs": 60, "batch_size": 250, "lr": 0.1,
            "seed": 0, "precision": "bf16", "quantized": True, "init_sha256": "",
        },
        "epoch": 3, "log": [], "best_prec": 1.0, "state_dict": {}, "model": {}, "optimizer": {},
    }  # fmt: skip
    torch.save(written, tmp_path / "checkpoint.pth")
    for precision_ in (AUTO, "bf16"):
        start = starting_state(Recipe(precision=precision_, epochs=60), tmp_path, resume=True)
        assert settle(Recipe(precision=precision_, epochs=60), start, CPU, print) == Recipe(epochs=60)
    with pytest.raises(QexportError, match="precision float32 contradicts bf16"):
        starting_state(Recipe(precision="float32", epochs=60), tmp_path, resume=True)
