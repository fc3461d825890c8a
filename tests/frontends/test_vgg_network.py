"""The VGG family in integers: every code up to the classifier is that of PyTorch's float64 pass."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qexport.core.capture import CaptureFile
from qexport.core.network_file import network_bytes, network_sha256, read_network, write_network
from qexport.core.network_run import BATCH, Engine
from qexport.core.steps import Multiply, Threshold
from qexport.errors import QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.capture import capture_layers, layer_facts
from qexport.frontends.vgg.data import Pictures, SamplePictures, augment, normalise, read
from qexport.frontends.vgg.model import ConvSpec, QuantVGG
from qexport.frontends.vgg.network import Imported, integer_network
from scripts.network_proof import Counts, prove
from tests.conftest import cli, fails
from tests.frontends.networks import SMALL, small_network


@torch.no_grad()
def settled(cfg: str = SMALL) -> QuantVGG:
    """A small network whose BatchNorms know what passes them."""
    model = small_network(cfg)
    for module in model.features:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(normalise(read(SamplePictures(), range(4)).pixels))
    return model


def loaded(model: QuantVGG) -> checkpoint.Network:
    for conv in model.quantized().values():
        conv.fix_codes()
    return checkpoint.Network(model.eval(), Path("small.pth"), "0" * 64)


def compared(network: checkpoint.Network, made: Imported, images: int, folder: Path) -> tuple[Any, Any]:
    """The logits in integers and in float64, when the codes that enter all convolutions were found equal."""
    assert made.ties == 0
    engine = Engine(made.network)
    pictures = read(SamplePictures(), range(images))
    facts = layer_facts(network.model)
    captured = capture_layers(network, facts, pictures, range(images), folder)
    (image,) = made.network.inputs
    held = {image.name: image.codes(pictures.pixels.numpy())}
    outputs = held | engine.run(held, list(made.network.placed))
    for layer, one in zip(facts, captured, strict=True):
        seen = CaptureFile(one.path).part(0, images).input
        assert np.array_equal(engine.operands(layer.geometry.name, outputs)["input"], seen), layer.geometry.name
    model = copy.deepcopy(network.model).double()
    with torch.no_grad():
        real = model(normalise(pictures.pixels, torch.float64)).numpy()
    return outputs["classifier"][:, :, 0, 0] * made.network.outputs[0].scale, real


@pytest.mark.parametrize("cfg", ["8 M 16* M 16 4 4* 8 M 16 M 16 M", "8 M 8 M 8 M 8 M 8 M 8*"])
def test_a_small_network_is_that_of_float64(tmp_path: Path, cfg: str) -> None:
    model = settled(cfg)
    with torch.no_grad():
        for index, module in enumerate(model.features):  # gains of both signs, and one of 0
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight[0], module.weight[1] = 0, -(index % 3) / 3
    network = loaded(model)
    ours, theirs = compared(network, integer_network(network), 4, tmp_path)
    assert np.abs(ours - theirs).max() < 0.05 * np.ptp(theirs)


@pytest.fixture(scope="module")
def shipped() -> tuple[checkpoint.Network, Imported]:
    network = checkpoint.load(checkpoint.BUILTIN)
    return network, integer_network(network)


def varied(count: int) -> Pictures:
    """The pictures that ship, then crops, mirror images and noisy ones of them: those of CIFAR-10 may not ship."""
    own, rng = read(SamplePictures()).pixels, torch.Generator().manual_seed(0)
    more = own[torch.randint(len(own), (count - len(own),), generator=rng)]
    corners = torch.randint(9, (2, len(more)), generator=rng)
    more = augment(more, *corners, torch.rand(len(more), generator=rng) < 0.5)
    noise = torch.randint(-30, 31, more.shape, generator=rng) * (torch.rand(len(more), 1, 1, 1, generator=rng) < 0.5)
    pixels = torch.cat([own, (more + noise).clamp(0, 255).to(torch.uint8)])
    return Pictures(pixels, torch.zeros(count, dtype=torch.int64))


def test_the_shipped_network_is_that_of_float64(shipped: tuple[checkpoint.Network, Imported]) -> None:
    """On 200 pictures; scripts/network_proof.py does the same with all test pictures of CIFAR-10."""
    network, made = shipped
    pictures = varied(200).pixels.split(BATCH)
    *_, counts = prove(network, made.network, [Pictures(part, torch.zeros(len(part))) for part in pictures], Counts())
    assert made.ties == 0
    assert (counts.pictures, counts.wrong) == (200, 0)
    assert counts.codes == 200 * 119_040
    assert counts.different <= 5  # which 8 bits of the classifier may cost


@pytest.mark.filterwarnings("ignore")
def test_the_shipped_network_in_onnx_gives_the_same_codes(shipped: tuple[checkpoint.Network, Imported]) -> None:
    from onnx.reference import ReferenceEvaluator

    from qexport.frontends.to_onnx import onnx_model

    network = shipped[1].network
    pixels = read(SamplePictures(), [0, 31]).pixels.numpy()
    wanted = Engine(network).run({"image": network.inputs[0].codes(pixels)}, list(network.placed))
    found = ReferenceEvaluator(onnx_model(network)).run(list(network.placed), {"image pixels": pixels})
    for (name, codes), ours in zip(wanted.items(), found, strict=True):
        assert np.array_equal(codes, ours), name


def test_the_file_is_the_same_every_time_and_reads_back(tmp_path: Path) -> None:
    network = loaded(small_network())
    made = [network_bytes(integer_network(network).network) for _ in range(2)]
    assert made[0] == made[1]
    write_network(integer_network(network).network, tmp_path / "a.network.safetensors")
    again = read_network(tmp_path / "a.network.safetensors")
    assert network_bytes(again) == made[0]
    assert again.source.checkpoint_sha256 == "0" * 64
    assert [node.layer.kind for node in again.layers].count("sum") == 5


def test_scales_of_powers_of_two_give_thresholds() -> None:
    """Half to even at ties, which no multiplication and shift gives."""
    model = small_network("8 M 8* 8 M 8 M 8 M 8 M")
    for conv in model.quantized().values():
        conv.act_alpha.data.fill_(15 / 4)
        conv.weight_quant.wgt_alpha.data.fill_(7 / 4)
    made = integer_network(loaded(model))
    assert isinstance(made.network.placed["features.4"].node.steps[-1], Threshold)
    assert made.ties > 0


def test_the_steps_may_be_those_of_a_hardware(tmp_path: Path) -> None:
    torch.save(settled().state_dict(), tmp_path / "m.pth")
    file = tmp_path / "m.network.safetensors"
    done = cli(
        "import", tmp_path / "m.pth", "--round", "floor", "--mul-bits", 6, "--per-tensor", "--out", file, "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["departs"] > 0
    node = read_network(file).placed["features.0"].node
    assert isinstance(node.steps[0], Multiply)
    assert abs(node.steps[0].arrays["by"]).max() < 32
    assert node.steps[2].arrays["by"].ndim == 0
    done = cli("import", tmp_path / "m.pth", "--round", "half_even", "--out", file)
    assert "other codes" in done.stdout or "proven" in done.stdout


def test_a_convolution_that_is_not_quantized_is_refused() -> None:
    plain = QuantVGG((ConvSpec(3, 4, pool=False, quantized=False), ConvSpec(4, 4)), in_features=4 * 32 * 32)
    with pytest.raises(QexportError, match=r"features\.0 is not quantized"):
        integer_network(loaded(plain))


def test_import_and_eval_by_command(noise_folder: Path, tmp_path: Path) -> None:
    model = settled()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    file = tmp_path / "m.network.safetensors"
    done = cli("import", tmp_path / "m.pth", "--out", file)
    assert done.exit_code == 0, done.output
    assert "proven" in done.stdout
    fails(cli("import", tmp_path / "m.pth", "--out", tmp_path / "m.st"), ".network.safetensors")
    fails(cli("import", "my_net:build", "--out", file), "names a PyTorch module; write it as ONNX first")
    common = ("--network", file, "--data", noise_folder, "--json")
    found = cli("eval", *common, "--checkpoint", tmp_path / "m.pth")
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["total"] == 20
    assert said["network_sha256"] == network_sha256(file)  # by which `report --eval` knows the network
    assert abs(said["correct"] - said["checkpoint_correct"]) <= said["different"] <= 4
    fails(cli("eval", *common, "--checkpoint", "builtin"), "was not imported from")
    fails(cli("eval", *common, "--checkpoint", tmp_path / "m.pth", "--images", 21), "outside 1..20")


def test_pictures_are_told_apart_by_their_lookup() -> None:
    network = loaded(small_network())
    (image,) = integer_network(network).network.inputs
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    real = normalise(Pictures(pixels, torch.zeros(2)).pixels, torch.float64)
    first = copy.deepcopy(network.model).double().quantized()[0]
    assert np.array_equal(image.codes(pixels.numpy()), first.input_codes(real).numpy())
