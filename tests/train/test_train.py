"""Training: resumes bit for bit after a kill, writes what it says, refuses what it cannot use."""

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qexport.core.intformat import IntFormat
from qexport.frontends.vgg.capture import layer_facts
from qexport.frontends.vgg.checkpoint import BUILTIN, load, pack
from qexport.frontends.vgg.data import Pictures, normalise, open_split, read
from qexport.frontends.vgg.model import QuantVGG, build, specs_of
from qexport.train.loop import Recipe, alphas_of, balance, batches, calibrate, learning_rate
from tests.conftest import cli, fails
from tests.frontends.networks import small_network

EPOCHS = 4  # the first in float


def command(data: Path, out: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "qexport", "train", "--data", str(data)]
    return [*program, "--epochs", str(EPOCHS), "--batch-size", "30", "--out", str(out), "--device", "cpu", *more]


def records(out: Path) -> list[dict[str, Any]]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def state(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = torch.load(path, weights_only=True)
    return read


KILLED_AT = """
import os, signal, sys
from qexport.cli import main
from qexport.train import loop
at, *arguments = sys.argv[1:]
real = loop.learning_rate
def learning_rate(recipe, step, steps):
    if step == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(recipe, step, steps)
loop.learning_rate = learning_rate
main(arguments)
"""


def killed_within_an_epoch(arguments: list[str], epochs: int) -> list[str]:
    """What a run is given that kills itself between the two steps of the epoch that follows `epochs` whole ones."""
    return [str(2 * epochs + 1), *arguments[3:]]


@pytest.fixture(scope="session")
def whole(noise_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted, with its plot and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    plot = ("--plot", str(out.parent / "curves.svg"), "--json")
    done = subprocess.run(command(noise_folder, out, *plot), check=True, capture_output=True, text=True)
    (out.parent / "printed.json").write_text(done.stdout)
    return out


def test_a_run_killed_in_the_float_and_in_the_quantized_epochs_resumes_to_the_same_weights_bit_for_bit(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    for epochs, more in ((1, ()), (3, ("--resume",))):
        arguments = killed_within_an_epoch(command(noise_folder, tmp_path, *more), epochs)
        done = subprocess.run([sys.executable, "-c", KILLED_AT, *arguments], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert state(tmp_path / "checkpoint.pth")["epoch"] == epochs
    subprocess.run(command(noise_folder, tmp_path, "--resume"), check=True, capture_output=True)
    for name in ("checkpoint.pth", "model_best.pth.tar"):
        want, got = state(whole / name), state(tmp_path / name)
        assert want["epoch"] == got["epoch"]
        assert want["best_prec"] == got["best_prec"]
        for weights in {"state_dict", "model"} & set(want):
            assert all(torch.equal(tensor, got[weights][key]) for key, tensor in want[weights].items())
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2, 3, 4]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_logs_plots_and_reports_its_narrowest_layer(whole: Path) -> None:
    log = records(whole)
    assert [record["quantized"] for record in log] == [False, True, True, True]
    best = max(log[1:], key=lambda record: record["top1"])
    printed = json.loads((whole.parent / "printed.json").read_text())
    assert printed["top1"] == best["top1"] == state(whole / "model_best.pth.tar")["best_prec"]
    assert printed["squeeze"] == best["squeeze"]
    assert printed["squeeze"]["layer"] == 33
    assert sum(printed["squeeze"]["weight_codes"].values()) == pytest.approx(1)
    curves = (whole.parent / "curves.svg").read_text()
    assert curves.count("<circle") == 8
    page = (whole / "report.html").read_text()
    assert all(
        said in page for said in (f"{best['top1']:.2f} %", "features.33", "effective rank", curves.split("<circle")[1])
    )


def test_a_finished_run_is_not_overwritten_and_another_recipe_does_not_resume_it(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    again = ("train", "--data", noise_folder, "--out", whole)
    fails(cli(*again), "checkpoint.pth is there already", "--resume")
    fails(cli(*again, "--resume", "--lr", "0.3"), "contradicts")
    fails(cli(*again, "--plot", tmp_path / "curves.txt"), "ends in '.txt'; choose one of .html")
    fails(cli(*again, "--plot", tmp_path / "none" / "curves.svg"), "is not a folder")


def test_a_nan_loss_in_a_later_epoch_keeps_the_checkpoint_of_the_epoch_before(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    healthy = state(whole / "checkpoint.pth")
    healthy["recipe"] |= {"lr": 1e30}
    healthy["epoch"] = 2
    last = tmp_path / "checkpoint.pth"
    torch.save(healthy, last)
    before = last.read_bytes()
    arguments = command(noise_folder, tmp_path, "--resume", "--lr", "1e30")
    result = cli(*arguments[3:])
    assert result.exit_code == 1
    assert f"in epoch 3; lower --lr (now 1e+30); {last} holds epoch 2" in result.stderr
    assert last.read_bytes() == before


def test_out_of_memory_names_the_batch_size_to_try(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import torch
from qexport.errors import QexportError
from qexport.frontends.vgg.data import Pictures
from qexport.train.loop import Recipe, train
pictures = Pictures(torch.zeros(2048, 3, 32, 32, dtype=torch.uint8), torch.zeros(2048, dtype=torch.int64))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
try:
    train(Recipe(epochs=1, batch_size=2048), pictures, pictures, Path(sys.argv[1]), torch.device("cpu"))
except QexportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "out of memory with --batch-size 2048; try --batch-size 1024" in done.stdout


def test_a_kill_while_checkpoints_are_written_leaves_a_whole_one(tmp_path: Path) -> None:
    program = """
import itertools, sys
from pathlib import Path
import torch
from qexport.frontends.vgg.checkpoint import write_training
for number in itertools.count():
    write_training({"number": torch.full((2_000_000,), number)}, Path(sys.argv[1]))
"""
    path = tmp_path / "checkpoint.pth"
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
    while not (path.exists() and any(tmp_path.glob("*.partial"))):
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    written = state(path)["number"]
    assert torch.equal(written, torch.full_like(written, written[0].item()))


def test_resuming_without_a_checkpoint_is_refused(noise_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "--data", noise_folder, "--out", tmp_path / "none", "--resume")
    fails(result, "checkpoint.pth does not exist; start without --resume")


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
    assert rates.index(max(rates)) == 50
    assert rates[0] == pytest.approx(0.2 / 51)
    assert rates[-1] < 0.001


def test_an_epochs_batches_depend_on_seed_and_epoch_alone(noise_folder: Path) -> None:
    pictures = read(open_split(noise_folder, "train"))
    recipe = Recipe(batch_size=20)
    first, again, later = (list(batches(pictures, recipe, epoch)) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [20, 20, 20]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], later[0][0])
    assert sorted(int(label) for _, labels in first for label in labels) == pictures.labels.tolist()
    assert [len(labels) for _, labels in batches(pictures, Recipe(batch_size=25), 0)] == [25, 25]


def test_a_picture_is_mirrored_in_every_other_epoch() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(50, 3, 32, 32)
    pictures = Pictures(ramp, torch.arange(50))  # the label says which picture it is
    mirrored = []
    for epoch in range(3):
        ((x, labels),) = batches(pictures, Recipe(batch_size=50), epoch)
        falls = x[:, 0, 16, 12] > x[:, 0, 16, 20]
        mirrored.append(falls[labels.argsort()])
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert 10 < mirrored[0].sum() < 40


def test_calibration_finds_the_alphas_of_least_squared_error(noise_folder: Path) -> None:
    torch.manual_seed(0)
    x = normalise(read(open_split(noise_folder, "train")).pixels[:16])
    model = build("vgg16_quant_gradual")
    calibrate(model, x)
    conv = model.quantized()[0]
    for codes, real, scale in (
        (conv.input_codes(x), x, conv.act_scale),
        (conv.weight_codes(), conv.weight_quant.normalise(conv.weight), conv.weight_scale),
    ):
        error = (codes * scale - real).square().mean()
        for other in (0.8 * scale, 1.25 * scale):
            largest = 15 if real is x else 7
            worse = (real / other).round().clamp(-1000 if real is x else -largest, largest) * other - real
            assert error < worse.square().mean()
    alphas = [conv.act_alpha.item() for conv in model.quantized().values()]
    assert all(0 < alpha < 100 for alpha in alphas)
    assert len(set(alphas)) == len(alphas)


def test_balanced_weights_leave_no_channel_dead_where_no_batch_norm_follows() -> None:
    torch.manual_seed(0)
    inputs = (torch.rand(20, 8, 1, 1) + 0.3 * torch.randn(20, 8, 6, 6)).relu()  # never negative, each picture its level
    dead = {False: 0, True: 0}
    for _ in range(20):
        model = QuantVGG(specs_of("8 8*"))
        conv = model.quantized()[3]
        conv.active = False
        for balanced in dead:
            if balanced:
                balance(model)
            passed = conv(inputs)[:, :, 1:-1, 1:-1].relu()  # at the padding an output may live by luck
            dead[balanced] += 8 - int(passed.transpose(0, 1).flatten(1).any(1).sum())
    assert dead[False] > 0
    assert dead[True] == 0


def test_the_first_layers_codes_fit_one_bit_more_than_the_others() -> None:
    model = build("vgg16_quant_gradual")
    alphas, factors, least = alphas_of(model, 128)
    assert len(alphas) == len(factors) == len(least) == 34
    with torch.no_grad():
        torch._foreach_clamp_min_([alpha.zero_() for alpha in alphas], least)
    assert layer_facts(model)[0].formats.input.integer == IntFormat(5, True)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """In float64, where nothing but rounding can differ; each picture is validated once; odd batches are refused.

    Average pools stand for the maximum pools: sums of codes are often equal, and rounding would choose among them.
    """
    program = tmp_path / "program.py"
    program.write_text("""
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from qexport.errors import QexportError
from qexport.train import parallel
from qexport.frontends.vgg.data import Pictures, normalise
from qexport.train.loop import Recipe, count_correct, train
from tests.frontends.networks import small_network
def compare() -> None:
    rank, world = parallel.place()
    x, y = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12) % 10
    found = []
    for shared in (False, True):
        model = small_network()
        for at, module in enumerate(model.features):
            if isinstance(module, torch.nn.MaxPool2d):
                model.features[at] = torch.nn.AvgPool2d(2)
        if shared:
            start = model.state_dict()
            parallel.synchronise(model)
            model.load_state_dict(start)
        model = model.double().train()
        part = slice(rank * 6, rank * 6 + 6) if shared else slice(None)
        forward = DistributedDataParallel(model) if shared else model
        torch.nn.functional.cross_entropy(forward(x[part]), y[part]).backward()
        found.append([p.grad for p in model.parameters()] + [t for t in model.buffers() if t.is_floating_point()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one)
    model = small_network()
    pixels = torch.randint(0, 256, (1100, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = torch.arange(1100) % 10
    with torch.no_grad():
        guesses = torch.cat([model(normalise(part)).argmax(1) for part in pixels.split(100)])
    pictures = Pictures(pixels, labels)
    assert count_correct(model, pictures) == int((guesses == labels).sum()) > 0
    assert world == 2
    try:
        train(Recipe(batch_size=15), pictures, pictures, Path("none"), torch.device("cpu"))
    except QexportError as error:
        assert "batch_size: 15 is not a multiple of 2 processes" in str(error)
    else:
        raise AssertionError("accepted")
with parallel.group(torch.device("cpu")):
    compare()
""")
    done = subprocess.run([*TORCHRUN, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_processes_train_as_one_and_one_goes_on_where_they_stopped(noise_folder: Path, tmp_path: Path) -> None:
    more = ("--precision", "float32", "--lr", "0.001")
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli(*command(noise_folder, one, *more)[3:]).exit_code == 0
    program = tmp_path / "killed.py"
    program.write_text(KILLED_AT)
    arguments = killed_within_an_epoch(command(noise_folder, two, *more), 2)
    done = subprocess.run([*TORCHRUN, str(program), *arguments], capture_output=True, check=False)
    assert done.returncode != 0
    assert state(two / "checkpoint.pth")["epoch"] == 2
    assert cli(*command(noise_folder, two, *more, "--resume")[3:]).exit_code == 0
    assert len(records(two)) == EPOCHS
    # later epochs drift apart as rounding breaks ties between equal sums of codes; in float there are none
    first, again = records(one)[0], records(two)[0]
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-3)
    assert first["top1"] == again["top1"]


def test_init_starts_from_a_checkpoints_weights_with_the_quantizers_on(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    best = whole / "model_best.pth.tar"
    more = ("--init", str(best), "--lr", "1e-9", "--epochs", "1")
    assert cli(*command(noise_folder, tmp_path, *more)[3:]).exit_code == 0
    assert [record["quantized"] for record in records(tmp_path)] == [True]
    before, after = (state(folder / "model_best.pth.tar")["state_dict"] for folder in (whole, tmp_path))
    torch.testing.assert_close(after["features.48.weight"], before["features.48.weight"])
    other = cli(*command(noise_folder, tmp_path / "b", "--init", str(best), "--model", "vgg16_quant")[3:])
    assert other.exit_code == 2
    assert f"init: {best} is not a vgg16_quant" in other.stderr


def test_init_starts_from_the_codes_of_a_packed_network(noise_folder: Path, tmp_path: Path) -> None:
    more = ("--init", "builtin", "--lr", "1e-9", "--epochs", "1")
    assert cli(*command(noise_folder, tmp_path, *more)[3:]).exit_code == 0
    shipped, trained = (load(path).model.quantized() for path in (BUILTIN, tmp_path / "model_best.pth.tar"))
    for index, conv in shipped.items():
        same = (conv.weight_codes() == trained[index].weight_codes()).double().mean()
        assert same > 0.9, f"features.{index}"  # all but where the alpha that is set anew moves an edge


def test_a_packed_network_with_one_code_in_a_layer_is_no_start(noise_folder: Path, tmp_path: Path) -> None:
    network = load(BUILTIN)
    conv = network.model.quantized()[33]
    conv.fix_codes(torch.full_like(conv.weight_codes(), 3))
    pack(network, tmp_path / "flat.safetensors")
    flat = ("--init", str(tmp_path / "flat.safetensors"))
    result = cli(*command(noise_folder, tmp_path / "run", *flat)[3:])
    assert result.exit_code == 2
    assert "features.33.weight holds one number alone" in result.stderr


def test_what_compare_trained_in_float_has_no_codes_but_may_be_trained_further(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    best = state(whole / "model_best.pth.tar")
    best["recipe"]["quantized"] = False
    torch.save(best, tmp_path / "float.pth")
    fails(cli("layers", "--checkpoint", tmp_path / "float.pth"), "was trained in float", "qexport train --init")
    more = ("--init", str(tmp_path / "float.pth"), "--epochs", "1", "--lr", "1e-9")
    assert cli(*command(noise_folder, tmp_path / "run", *more)[3:]).exit_code == 0
    assert [record["quantized"] for record in records(tmp_path / "run")] == [True]


def test_short_runs_have_plain_pictures_but_those_that_go_on_from_a_checkpoint(noise_folder: Path) -> None:
    pictures = read(open_split(noise_folder, "train"))
    plain, strong = (
        torch.cat([x for x, _ in batches(pictures, Recipe(batch_size=20, init_sha256=init), 0)])
        for init in ("", "some")
    )
    largest = [torch.nn.functional.max_pool2d(x.abs(), 12, 1).amax(1).amin((1, 2)) for x in (plain, strong)]
    assert largest[0].all()
    assert not largest[1].any(), "a square of 12x12 is cut out of each"
    changed = ((plain != strong) & (strong != 0)).flatten(1).any(1)
    assert 0.5 < changed.float().mean() < 1, "three in four are warped, lit differently or both"


def test_the_network_compiles_without_a_break() -> None:
    """What a GPU runs: the graph that torch.compile takes, here on the CPU without code generation."""
    model = small_network().train()
    x = torch.randn(4, 3, 32, 32)
    grads = []
    for forward in (copy.deepcopy(model), torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)):
        forward(x).square().sum().backward()
        grads.append([parameter.grad for parameter in forward.parameters()])
    for eager, compiled in zip(*grads, strict=True):
        torch.testing.assert_close(compiled, eager)
