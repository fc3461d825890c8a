"""Capture: what hooks see is what the golden computes; every quantized layer dumps and decodes."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.strength import measure, percent
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.capture import LayerFacts, capture_layers, choose_layer, input_codes, layer_facts
from qexport.frontends.vgg.data import SamplePictures, read
from qexport.layout.toml import parse_layout
from tests.conftest import check_reference, checked_dump, cli, fails
from tests.frontends.networks import small_network

pytestmark = pytest.mark.whole  # the network that ships, from end to end

# Without psums, which are large for wide layers.
NARROW = """
name = "narrow"
[array]
row = 8
col = 8
[[memory]]
name = "weight"
tensor = "weight"
order = "(ot col) (it row) kh kw -> | ot it kh kw col | ~row"
file = "weight.hex"
radix = "hex"
[[memory]]
name = "input"
tensor = "input"
order = "n (ct row) iy ix -> | n ct iy ix | ~row"
file = "input.hex"
radix = "hex"
[[memory]]
name = "accumulator"
tensor = "accumulator"
order = "n (ot col) oy ox -> | n ot oy ox | ~col"
file = "accumulator.hex"
radix = "hex"
bits = 20
"""
GRADUAL = [0, 4, 7, 11, 14, 17, 21, 24, 27, 30, 33, 35, 38, 41, 45, 48, 51]


@pytest.mark.whole
def test_images_auto_takes_pictures_that_reach_the_strength(tmp_path: Path) -> None:
    layout = tmp_path / "relu.toml"
    layout.write_text(NARROW.replace('"accumulator"', '"relu"'))
    network = checkpoint.load(checkpoint.BUILTIN)
    conv = network.model.quantized()[33]
    codes = conv.weight_codes().clone()
    codes[0] = -7  # this output is 0 behind its ReLU, whatever the picture
    conv.fix_codes(codes)
    checkpoint.pack(network, tmp_path / "dead.safetensors")
    dump = ("dump", "--layer", "33", "--checkpoint", tmp_path / "dead.safetensors", "--images", "auto")
    for share, reached in ((50, True), (100, False)):
        folder = tmp_path / str(share)
        result = cli(*dump, "--layout", layout, "--strength", share, "--out", folder, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["set"] == str(folder / "features_33")
        capture = LayerCapture.load(folder / "features_33" / "capture.safetensors")
        images = capture.source.images
        assert images is not None
        shown = measure(capture).info.weight
        assert (shown.relu >= share / 100 * shown.flips) == reached
        said = result.stderr.splitlines()[0]
        assert said.startswith(f"{len(images)} of 32 pictures chosen: {percent(shown.relu, shown.flips)} of single-bit")
        assert ("all 32 together show no more" in said) != reached
    layer = choose_layer(network.model, "33")
    every = input_codes(network, layer, read(SamplePictures()))
    np.testing.assert_array_equal(capture.input, every[list(images)])
    most = measure(LayerCapture(capture.layer, capture.formats, capture.weight, every)).info.weight
    assert most.relu == shown.relu  # no more can be reached than was


def captured(network: checkpoint.Network, layer: LayerFacts, images: Sequence[int]) -> LayerCapture:
    """What a layer sees and gives for some of the sample pictures."""
    with tempfile.TemporaryDirectory() as folder:
        (taken,) = capture_layers(network, [layer], read(SamplePictures(), images), images, Path(folder))
        return LayerCapture.load(taken.path)


@pytest.mark.whole
@pytest.mark.parametrize("index", [0, 30, 33, 48])  # all of them: test_vgg_all
def test_layers_of_the_shipped_network_dump_and_decode(index: int, tmp_path: Path) -> None:
    network = checkpoint.load(checkpoint.BUILTIN)
    layer = choose_layer(network.model, str(index))
    capture = captured(network, layer, [5])
    folder = checked_dump(capture, parse_layout(NARROW, "narrow.toml"), tmp_path)
    assert folder.name == f"features_{index}"
    assert (capture.next_input is not None) == (index == 33)
    assert capture.layer.relu == (index == 33)


def test_layer_33_meets_pytorch_at_float_noise_and_is_alive() -> None:
    network = checkpoint.load(checkpoint.BUILTIN)
    capture = captured(network, choose_layer(network.model, "33"), range(32))
    check = check_reference(Golden(capture))
    assert check.max_abs is not None
    assert check.max_abs < 1e-5
    assert (capture.input.any(axis=(0, 2, 3))).sum() >= 5
    outputs = np.maximum(Golden(capture).accumulator, 0)
    assert (outputs.any(axis=(0, 2, 3))).sum() >= 5


def test_the_first_layers_codes_are_signed_and_as_wide_as_pixels_can_make_them() -> None:
    model = small_network()
    first, second = layer_facts(model)[:2]
    model.quantized()[0].act_alpha.data.fill_(2.0)
    first = layer_facts(model)[0]
    # pixels reach -1.988 and 2.134: codes -15..15 at alpha 2, which needs 5 signed bits
    assert (first.formats.input.bits, first.formats.input.signed) == (5, True)
    assert (second.formats.input.bits, second.formats.input.signed) == (4, False)
    model.quantized()[0].act_alpha.data.fill_(8.0)
    assert layer_facts(model)[0].formats.input.bits == 4  # codes -4..4
    model.quantized()[0].act_alpha.data.fill_(0.5)
    assert layer_facts(model)[0].formats.input.bits == 7  # codes -60..15


def test_codes_come_from_float64_whatever_the_threads_and_the_batch() -> None:
    network = checkpoint.load(checkpoint.BUILTIN)
    layer = choose_layer(network.model, "33")
    together = captured(network, layer, range(6))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [captured(network, layer, [i]) for i in range(6)]
    finally:
        torch.set_num_threads(threads)
    assert (np.concatenate([c.input for c in alone]) == together.input).all()
    assert (np.concatenate([c.reference for c in alone if c.reference is not None]) == together.reference).all()


def test_dump_takes_a_layer_by_index_name_or_shape_and_says_what_it_took(tmp_path: Path) -> None:
    for number, wanted in enumerate(("33", "features.33", "8x8")):
        result = cli("dump", "--layer", wanted, "--checkpoint", "builtin", "--out", tmp_path / str(number))
        assert result.exit_code == 0, result.output
        first = result.stdout.splitlines()[0]
        for part in ("features.33", "8x8", "vgg16_quant_gradual.safetensors", "pictures 0,1,2,3"):
            assert part in first
        assert "input codes differ" in result.stdout
        assert "below 0.001" in result.stdout
    sets = [(tmp_path / str(number) / "features_33" / "manifest.json").read_bytes() for number in range(3)]
    assert sets[0] == sets[1] == sets[2]


def test_pictures_are_chosen_by_index_in_the_datas_order(tmp_path: Path, noise_folder: Path) -> None:
    result = cli("dump", "--layer", "33", "--checkpoint", "builtin", "--data", noise_folder, "--indices", "19,2",
                 "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    capture = LayerCapture.load(tmp_path / "features_33" / "capture.safetensors")
    assert capture.source.images == (19, 2)
    assert capture.input.shape == (2, 8, 4, 4)


def test_a_checkpoint_of_the_working_directory_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("layers").stdout == cli("layers", "--checkpoint", "builtin").stdout
    trained = tmp_path / "result" / "vgg16_quant_gradual" / "model_best.pth.tar"
    trained.parent.mkdir(parents=True)
    torch.save(small_network().state_dict(), trained)
    assert "3x8" in cli("layers").stdout


def test_layers_lists_a_network_and_a_capture(tmp_path: Path) -> None:
    result = cli("layers", "--checkpoint", "builtin")
    assert result.exit_code == 0
    assert "features.33" in result.stdout
    assert len(result.stdout.splitlines()) == 18
    assert cli("dump", "--layer", "33", "--checkpoint", "builtin", "--out", tmp_path).exit_code == 0
    row = cli("layers", "--capture", tmp_path / "features_33" / "capture.safetensors").stdout.splitlines()[1]
    assert row in result.stdout
    refused = cli("layers", "--capture", tmp_path / "features_33" / "capture.safetensors", "--checkpoint", "builtin")
    fails(refused, "--checkpoint and bits belong to a network")


def test_a_dead_layer_ends_with_1_and_leaves_no_set(tmp_path: Path) -> None:
    state = small_network().state_dict()
    state["features.12.running_mean"] += 1e6  # the BatchNorm before features.14 pushes everything below zero
    torch.save(state, tmp_path / "dead.pth")
    result = cli("dump", "--layer", "14", "--checkpoint", tmp_path / "dead.pth", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "every accumulator is 0" in result.stderr
    assert not (tmp_path / "o").exists()


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, noise_folder: Path) -> None:
    dump = ("dump", "--checkpoint", "builtin", "--out", tmp_path / "o")
    fails(
        cli(*dump, "--layer", "99"),
        "layer: '99' is not in this network",
        "features.0 (3x64)",
        "and 9 more; see qexport layers",
    )
    fails(cli(*dump, "--layer", "34"), "'34' is ReLU, not a quantized convolution", "see qexport layers")
    fails(cli(*dump, "--layer", "512x512"), "3 layers have shape 512x512", "choose one by its index")
    fails(cli(*dump, "--layer", "33", "--images", "0"), "images: 0 is outside 1..32")
    fails(cli(*dump, "--layer", "33", "--images", "33"), "images: 33 is outside 1..32")
    fails(cli(*dump, "--layer", "33", "--images", "many"), "'many' is neither a number of pictures nor 'auto'")
    fails(cli(*dump, "--layer", "33", "--images", "auto", "--indices", "1"), "either --images or --indices")
    fails(cli(*dump, "--layer", "33", "--strength", "99"), "--strength belongs to --images auto")
    fails(cli(*dump, "--layer", "33", "--images", "auto", "--strength", "101"), "101.0 is not in the range")
    (tmp_path / "blind.toml").write_text(NARROW[: NARROW.rindex("[[memory]]")])
    fails(
        cli(*dump, "--layer", "33", "--images", "auto", "--layout", tmp_path / "blind.toml"),
        "layout 'narrow' stores none of psum, accumulator, relu",
    )
    fails(cli(*dump, "--layer", "33", "--indices", "32"), "image index: 32 is outside 0..31")
    fails(cli(*dump, "--layer", "33", "--data", tmp_path), "holds neither")
    fails(cli(*dump, "--layer", "33", "--weight-bits", "3"), "was trained with 4 weight bits", "contradicts")
    for wrong in (["--indices", "1,x"], ["--images", "2", "--indices", "1"], ["--capture", "c"]):
        result = cli(*dump, "--layer", "33", *wrong)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()
