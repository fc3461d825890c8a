"""`dump --all`: a set for each quantized layer, and the index that holds them together."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.operations.registry import operation
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.capture import capture_layers, choose_layer, layer_facts
from qexport.frontends.vgg.data import SamplePictures, read
from qexport.frontends.vgg.model import build
from qexport.sets.index import INDEX
from tests.conftest import cli, fails
from tests.frontends.networks import small_network
from tests.frontends.test_vgg_capture import GRADUAL, NARROW, captured
from tests.judges import decoder
from tests.layout.test_memory_files import files_of

pytestmark = pytest.mark.whole  # the network that ships, from end to end

OUTPUT = """
[[memory]]
name = "output"
tensor = "output"
order = "n oc oy ox -> | n oy ox | oc"
file = "output.bin"
radix = "bin"
optional = true
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layout") / "narrow.toml"
    path.write_text(NARROW + OUTPUT)
    return path


@pytest.fixture(scope="module")
def shipped(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layers of the shipped network for two pictures; tests must not write into it."""
    out = tmp_path_factory.mktemp("shipped")
    result = cli("dump", "--all", "--checkpoint", "builtin", "--images", 2, "--layout", layout, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "17 layers of " in result.stdout
    assert f"17 sets, listed in {out / INDEX}" in result.stdout
    return out


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.pth"
    torch.save(small_network().state_dict(), path)
    return path


@pytest.fixture
def sets(small_checkpoint: Path, layout: Path, tmp_path: Path) -> Path:
    """All layers of a small network for one picture, for a test to damage."""
    out = tmp_path / "sets"
    result = cli("dump", "--all", "--checkpoint", small_checkpoint, "--images", 1, "--layout", layout, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out


def read_index(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / INDEX).read_bytes())
    return document


def indices(model: torch.nn.Module) -> list[int]:
    """Where the quantized convolutions stand, by the names of their parameters."""
    return [int(name.split(".")[1]) for name in model.state_dict() if name.endswith("act_alpha")]


def assert_whole(out: Path, layers: list[int]) -> None:
    """A sound set for each layer, nothing else beside the index, and the index lists them in order."""
    assert sorted(path.name for path in out.iterdir()) == sorted([INDEX, *(f"features_{at}" for at in layers)])
    for at in {layers[0], layers[len(layers) // 2], layers[-1]}:  # all of them: `verify`
        assert decoder.check(out / f"features_{at}") == []
    index = read_index(out)
    assert [(one["index"], one["layer"], one["path"]) for one in index["sets"]] == [
        (at, f"features.{at}", f"features_{at}") for at in layers
    ]
    result = cli("verify", out)
    assert (result.exit_code, result.stdout.count(": ok, ")) == (0, len(layers)), result.output


# --- whole networks -------------------------------------------------------------------------------------------------


def test_every_layer_of_the_shipped_network_has_its_set(shipped: Path) -> None:
    assert_whole(shipped, GRADUAL)
    assert not any(path.is_absolute() for path in map(Path, (one["path"] for one in read_index(shipped)["sets"])))


def test_a_set_of_all_is_that_of_its_layer_alone(shipped: Path, layout: Path, tmp_path: Path) -> None:
    for at in (0, 33, 48):
        dump = ("dump", "--layer", at, "--checkpoint", "builtin", "--images", 2, "--layout", layout, "--out", tmp_path)
        assert cli(*dump).exit_code == 0
        assert files_of(tmp_path / f"features_{at}") == files_of(shipped / f"features_{at}")
    assert not (tmp_path / INDEX).exists()


@pytest.mark.whole
def test_every_layer_of_a_random_network_has_its_set(layout: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = build("vgg16_quant")
    for conv in model.quantized().values():
        conv.act_alpha.data.fill_(2.5)
    model.train()
    model(torch.randn(4, 3, 32, 32))  # so that the BatchNorms know their inputs and no layer is dead
    torch.save(model.state_dict(), tmp_path / "random.pth")
    out = tmp_path / "out"
    dump = ("dump", "--all", "--checkpoint", tmp_path / "random.pth", "--images", 1, "--layout", layout, "--out", out)
    result = cli(*dump, "--json")
    assert result.exit_code == 0, result.stderr
    assert_whole(out, indices(model))
    printed = json.loads(result.stdout)
    assert printed["index"] == str(out / INDEX)
    assert [one["set"] for one in printed["sets"]] == [str(out / f"features_{at}") for at in indices(model)]


def test_output_of_layer_33_is_what_enters_layer_35_for_every_sample(tmp_path: Path) -> None:
    network = checkpoint.load(checkpoint.BUILTIN)
    layers = [choose_layer(network.model, wanted) for wanted in ("33", "35")]
    files = capture_layers(network, layers, read(SamplePictures()), range(32), tmp_path)
    before, behind = (LayerCapture.load(file.path) for file in files)
    golden = Golden(before)
    output = golden.values("output")
    np.testing.assert_array_equal(output, behind.input)
    assert golden.facts.tensor("output").format == behind.formats.input.integer
    assert len(np.unique(output)) > 8


def test_output_is_there_just_where_only_a_relu_lies_between() -> None:
    network = checkpoint.load(checkpoint.BUILTIN)
    there = [facts.geometry.index for facts in layer_facts(network.model) if facts.formats.output is not None]
    assert there == [33]
    assert operation(captured(network, choose_layer(network.model, "33"), [0]), None).has("output")


# --- the index ------------------------------------------------------------------------------------------------------


def test_a_second_run_says_unchanged_and_leaves_every_byte(
    small_checkpoint: Path, layout: Path, sets: Path, tmp_path: Path
) -> None:
    before = files_of(sets)
    times = {path: path.stat().st_mtime_ns for path in sets.glob("*/*")}
    dump = ("dump", "--all", "--checkpoint", small_checkpoint, "--images", 1, "--layout", layout)
    result = cli(*dump, "--out", sets, "--json")
    assert result.exit_code == 0
    assert [one["unchanged"] for one in json.loads(result.stdout)["sets"]] == [True] * 8
    assert f"8 sets, 8 unchanged, listed in {sets / INDEX}" in cli(*dump, "--out", sets).stdout
    assert files_of(sets) == before
    assert {path: path.stat().st_mtime_ns for path in sets.glob("*/*")} == times
    assert cli(*dump, "--out", tmp_path / "elsewhere").exit_code == 0
    assert files_of(tmp_path / "elsewhere") == before


def test_a_set_that_is_gone_ends_verify_with_1_and_is_named(sets: Path) -> None:
    path = read_index(sets)["sets"][3]["path"]
    shutil.rmtree(sets / path)
    result = cli("verify", sets)
    fails(result, str(sets / INDEX), code=1)
    assert f"{path} is missing" in result.stdout
    faults = json.loads(cli("verify", sets, "--json").stdout)["sets"][-1]["faults"]
    assert [(fault["file"], fault["message"].split()[0]) for fault in faults] == [(INDEX, path)]


def test_sound_sets_that_are_not_those_of_the_index_are_named(sets: Path, small_checkpoint: Path, layout: Path) -> None:
    dump = ("dump", "--checkpoint", small_checkpoint, "--layout", layout, "--out", sets, "--force")
    path = read_index(sets)["sets"][2]["path"]
    assert cli(*dump, "--layer", path.removeprefix("features_"), "--indices", "7").exit_code == 0
    result = cli("verify", sets)
    fails(result, str(sets / INDEX), code=1)
    assert f"{path} is another set than that of the index" in result.stdout
    assert result.stdout.count(": ok, ") == 8
    assert cli("verify", sets / path).exit_code == 0
    assert cli(*dump, "--all", "--images", "1").exit_code == 0
    assert cli("verify", sets).exit_code == 0


def test_two_sets_in_each_others_place_are_named(sets: Path) -> None:
    first, second = (sets / read_index(sets)["sets"][at]["path"] for at in (1, 2))
    first.rename(sets / "aside")
    second.rename(first)
    (sets / "aside").rename(second)
    result = cli("verify", sets)
    fails(result, str(sets / INDEX), code=1)
    for path in (first, second):
        assert f"{path.name} is another set" in result.stdout


def test_swapped_manifests_are_found_in_both_sets(sets: Path) -> None:
    first, second = (sets / read_index(sets)["sets"][at]["path"] / "manifest.json" for at in (1, 2))
    ours, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs)
    second.write_bytes(ours)
    result = cli("verify", sets)
    fails(result, str(first.parent), str(second.parent), code=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "qexport.index/9"}', "\N{SNOWMAN}"])
def test_an_index_that_is_none_ends_with_2(sets: Path, text: str) -> None:
    (sets / INDEX).write_text(text)
    fails(cli("verify", sets), str(sets / INDEX))


def test_a_dump_that_fails_at_a_later_layer_leaves_nothing(small_checkpoint: Path, sets: Path, tmp_path: Path) -> None:
    manifests = [json.loads((sets / one["path"] / "manifest.json").read_bytes()) for one in read_index(sets)["sets"]]
    sums = [manifest["formats"]["accumulator"]["observed"] for manifest in manifests]
    bits = [max(-low - 1, high).bit_length() + 1 for low, high in sums]
    assert bits[0] < max(bits)
    failing = next(at for at, needed in enumerate(bits) if needed > bits[0])
    layout, out = tmp_path / "tight.toml", tmp_path / "o"
    layout.write_text(NARROW.replace("bits = 20", f"bits = {bits[0]}"))
    dump = ("dump", "--all", "--checkpoint", small_checkpoint, "--images", 1, "--layout", layout, "--out", out)
    layer = manifests[failing]["layer"]["name"]
    fails(cli(*dump), layer, "memory 'accumulator'", "does not fit", "nothing was written")
    assert not out.exists()


# --- dry runs and usage ---------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_tells_what_a_dump_writes(shipped: Path, layout: Path, tmp_path: Path) -> None:
    dump = ("dump", "--all", "--checkpoint", "builtin", "--images", 2, "--layout", layout)
    result = cli(*dump, "--out", tmp_path / "o", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    told = json.loads(result.stdout)
    written = []
    for one in read_index(shipped)["sets"]:
        folder = shipped / one["path"]
        for memory in json.loads((folder / "manifest.json").read_bytes())["memories"]:
            files = memory["files"]
            words, size = (sum(f["words"] for f in files), sum((folder / f["path"]).stat().st_size for f in files))
            row = {"layer": one["layer"], "memory": memory["name"], "files": len(files), "words": words, "bytes": size}
            written.append(row)
    assert told["memories"] == written
    for key in ("files", "words", "bytes"):
        assert told[key] == sum(row[key] for row in written)
    text = cli(*dump, "--out", tmp_path / "o", "--dry-run").stdout
    assert f"{told['bytes']:,}" in text
    assert "Nothing was written" in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_one_layer_and_of_its_capture_tell_the_same(shipped: Path, layout: Path, tmp_path: Path) -> None:
    end = ("--layout", layout, "--out", tmp_path / "o", "--dry-run", "--json")
    layer = cli("dump", "--layer", "33", "--checkpoint", "builtin", "--images", 2, *end)
    capture = cli("dump", "--capture", shipped / "features_33" / "capture.safetensors", *end)
    assert json.loads(layer.stdout) == json.loads(capture.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (("--all", "--images", "auto"), "--images auto belongs to --layer"),
        (("--all", "--layer", "33"), "give one of --layer and --all"),
        (("--all", "--capture", "c.safetensors"), "give one of --layer and --all"),
        (("--all", "--strength", "99"), "--strength belongs to --images auto"),
        (("--all", "--images", "33"), "images: 33 is outside 1..32"),
        (("--all", "--indices", "32"), "image index: 32 is outside 0..31"),
        ((), "give one of --layer and --all"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["dump", "dry run"])
def test_what_does_not_go_together_is_refused_in_one_line(
    arguments: tuple[str, ...], needle: str, dry: tuple[str, ...], tmp_path: Path
) -> None:
    fails(cli("dump", *arguments, *dry, "--out", tmp_path / "o"), needle)
    assert not (tmp_path / "o").exists()
