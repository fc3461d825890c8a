"""The commands on whole networks: import, layers, run, replay, dump with its graph, verify."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qexport.build import dump as dumping
from qexport.core.capture import CaptureFile
from qexport.core.network_file import write_network
from qexport.sets.folder import sha256
from tests.conftest import cli, fails
from tests.judges import decoder
from tests.judges.network import evaluate
from tests.networks import small_network

LAYERS = ("conv1", "conv2", "add", "narrow", "pool", "classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, pixels for it, its sets, and what the judge makes of them; tests must not write into it."""
    folder = tmp_path_factory.mktemp("network")
    network = small_network()
    write_network(network, folder / "s.network.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 6, 6), np.uint8)
    np.save(folder / "pixels.npy", pixels)
    (folder / "pictures").mkdir()
    for at, picture in enumerate(pixels):
        Image.fromarray(picture.transpose(1, 2, 0)).save(folder / "pictures" / f"{at}.png")
    outputs, _ = evaluate(folder / "s.network.safetensors", {"image": network.inputs[0].codes(pixels)})
    for name, codes in outputs.items():
        np.save(folder / f"{name}.npy", codes)
    done = cli("dump", "--all", "--network", folder / "s.network.safetensors", "--inputs", folder / "pixels.npy",
               "--out", folder / "sets")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def run(folder: Path, *arguments: object) -> Any:
    done = cli("run", folder / "s.network.safetensors", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("inputs", ["pixels.npy", "pictures", "image.npy"])
def test_a_run_gives_the_judges_codes(folder: Path, tmp_path: Path, inputs: str) -> None:
    """Pixels, pictures and codes are the same to it."""
    said = run(folder, "--inputs", folder / inputs, "--out", tmp_path / "logits.npy")
    logits = np.load(folder / "classifier.npy")
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits)
    assert said["decisions"] == logits.reshape(3, -1).argmax(axis=1).tolist()
    run(folder, "--inputs", folder / inputs, "--images", 2, "--to", "add", "--out", tmp_path / "add.npy")
    found = np.load(tmp_path / "add.npy")
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.load(folder / "add.npy")[:2])


def test_a_replay_says_which_logits_and_decisions_change(folder: Path, tmp_path: Path) -> None:
    codes = np.load(folder / "add.npy")
    codes[1] = 15 - codes[1]
    np.save(tmp_path / "add.npy", codes)
    replay = ("--from", "add", "--with", tmp_path / "add.npy")
    said = run(folder, *replay, "--inputs", folder / "pixels.npy", "--out", tmp_path / "logits.npy")
    before, after = np.load(folder / "classifier.npy"), np.load(tmp_path / "logits.npy")
    assert {(one["picture"], one["logit"]) for one in said["logits"]} == {(1, at) for at in range(5)}
    assert said["changed"] == (before != after).sum() == 5
    assert all(after[1, one["logit"], 0, 0] == one["after"] for one in said["logits"])
    differ = before.argmax(axis=1) != after.argmax(axis=1)
    assert len(said["changes"]) == differ.sum()
    alone = run(folder, *replay, "--out", tmp_path / "alone.npy")  # all that follows reads this layer
    assert alone["changes"] is None
    assert np.array_equal(np.load(tmp_path / "alone.npy"), after)
    fails(cli("run", folder / "s.network.safetensors", "--from", "conv2", "--with", tmp_path / "add.npy"),
          "the codes of image are needed")  # fmt: skip


def test_a_replay_takes_what_a_run_of_a_set_left(folder: Path, tmp_path: Path) -> None:
    words = (folder / "sets/add/output.hex").read_text().split("\n")
    words[5] = "".join(f"{15 - int(digit, 16):x}" for digit in words[5])
    (tmp_path / "output.hex").write_text("\n".join(words))
    for given in (tmp_path, tmp_path / "output.hex"):
        said = run(folder, "--from", "add", "--set", folder / "sets/add", "--with", given, "--inputs",
                   folder / "pixels.npy")  # fmt: skip
        assert {one["picture"] for one in said["logits"]} == {0}
    (tmp_path / "output.hex").write_text("\n".join(["x" * 8, *words[1:]]))
    replay = ("--from", "add", "--set", folder / "sets/add", "--with", tmp_path)
    fails(cli("run", folder / "s.network.safetensors", *replay), "are X, Z or missing")


def test_bad_codes_are_named(folder: Path, tmp_path: Path) -> None:
    network = folder / "s.network.safetensors"
    np.save(tmp_path / "codes.npy", np.full((1, 4, 6, 6), 16))
    fails(cli("run", network, "--from", "add", "--with", tmp_path / "codes.npy"), "16 is outside 0..15")
    np.save(tmp_path / "shape.npy", np.zeros((1, 4, 6, 7), int))
    fails(cli("run", network, "--from", "add", "--with", tmp_path / "shape.npy"), "add gives 4 x 6 x 6")
    fails(cli("run", network, "--inputs", tmp_path / "shape.npy"), "input image is 3 x 6 x 6")
    np.save(tmp_path / "float.npy", np.zeros((1, 3, 6, 6)))
    fails(cli("run", network, "--inputs", tmp_path / "float.npy"), "needs integers")
    fails(cli("run", network, "--inputs", tmp_path), "holds no picture")
    fails(cli("run", network, "--inputs", folder / "pixels.npy", "--to", "conv3"), "did you mean 'conv")
    fails(cli("run", network, "--inputs", folder / "pixels.npy", "--out", tmp_path / "x.txt"), ".npy")
    fails(cli("run", network, "--inputs", folder / "pixels.npy", "--images", 9), "outside 1..3")
    Image.new("RGB", (7, 6)).save(tmp_path / "wide.png")
    fails(cli("run", network, "--inputs", tmp_path / "wide.png"), "is 7x6; needs 6x6")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_every_set_decodes_and_holds_what_the_judge_computed(folder: Path) -> None:
    assert cli("verify", folder / "sets").exit_code == 0
    graph = json.loads((folder / "sets/graph.json").read_bytes())
    assert [layer["name"] for layer in graph["layers"]] == list(LAYERS)
    assert graph["network_sha256"] == sha256((folder / "s.network.safetensors").read_bytes())
    _, seen = evaluate(folder / "s.network.safetensors", {"image": np.load(folder / "image.npy")})
    for layer in graph["layers"]:
        path = folder / "sets" / layer["path"]
        assert layer["manifest_sha256"] == sha256((path / "manifest.json").read_bytes())
        assert decoder.check(path) == []
        capture = CaptureFile(path / "capture.safetensors").part(0, 3)
        for operand in layer["operands"]:
            assert np.array_equal(capture.tensors[operand], seen[f"{layer['name']}.{operand}"])


def test_a_set_that_does_not_get_what_the_one_before_gives_is_named(folder: Path, tmp_path: Path) -> None:
    """Each set is right by itself."""
    sets = Path(shutil.copytree(folder / "sets", tmp_path / "sets"))
    capture = CaptureFile(sets / "add/capture.safetensors").part(0, 3)
    codes = capture.input.copy()
    codes[2, 0] = 15 - codes[2, 0]
    (tmp_path / "add.safetensors").write_bytes(replace(capture, input=codes).to_bytes())
    done = cli("dump", "--capture", tmp_path / "add.safetensors", "--out", sets, "--force")
    assert done.exit_code == 0, done.output
    fails(cli("verify", sets), "graph.json", code=1)
    for name in ("graph.json", "index.json"):
        document = json.loads((sets / name).read_bytes())
        for layer in document.get("layers", document.get("sets")):
            layer["manifest_sha256"] = sha256((sets / layer["path"] / "manifest.json").read_bytes())
        (sets / name).write_text(json.dumps(document))
    found = cli("verify", sets)
    assert found.exit_code == 1
    said = [line for line in found.stdout.splitlines() if "graph.json" in line or "picture" in line]
    assert (
        said[1].strip().startswith("graph.json: add: input of picture 2 has 36 of 144 codes that conv1 does not give")
    )
    assert "pool: input of picture 2" in found.stdout  # which got what the right one gave


def test_an_interrupted_dump_of_a_network_leaves_the_old_tree(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = Path(shutil.copytree(folder / "sets", tmp_path / "sets"))
    before = tree(sets)
    calls = []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return stage_set(*arguments)

    stage_set = dumping._stage_set
    monkeypatch.setattr(dumping, "_stage_set", stop)
    again = ("dump", "--all", "--network", folder / "s.network.safetensors", "--inputs", folder / "pixels.npy",
             "--images", 1, "--force", "--out", sets)  # fmt: skip
    assert cli(*again).exit_code == 130
    assert tree(sets) == before
    monkeypatch.undo()
    assert cli(*again).exit_code == 0
    assert cli("verify", sets).exit_code == 0
    assert tree(sets) != before


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_another_layout_is_for_what_convolves_and_gives_codes(folder: Path, tmp_path: Path) -> None:
    done = cli("dump", "--all", "--network", folder / "s.network.safetensors", "--inputs", folder / "pixels.npy",
               "--images", 1, "--layout", "int8", "--out", tmp_path / "sets")  # fmt: skip
    assert done.exit_code == 0, done.output
    layouts = {name: json.loads((tmp_path / "sets" / name / "manifest.json").read_bytes())["layout"]["name"]
               for name in LAYERS}  # fmt: skip
    assert layouts == {"conv1": "int8", "conv2": "int8", "add": "sum", "narrow": "int8", "pool": "sum",
                       "classifier": "default"}  # fmt: skip


def test_layers_shows_what_a_hardware_needs(folder: Path) -> None:
    done = cli("layers", "--network", folder / "s.network.safetensors", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["layers"]}
    assert rows["conv1"]["multiplications"] == 4 * 36 * 27
    assert rows["conv2"]["operation"] == "conv2d 3x1, 2 groups"
    assert rows["add"]["multiplications"] == 4 * 36  # by 3; -1 is none
    assert rows["add"]["bounds"] == [-15, 45]
    assert (rows["conv1"]["shift"], rows["conv1"]["multiplier_bits"]) == ([6, 6], 4)
    assert rows["classifier"]["shape"] == [5, 1, 1]
    assert rows["conv1"]["bytes"] == 54 + 4 * 4 + 3 * 4 * 2  # weights of 4 bits, bias of 32, by, value and shift of 16
    assert "..45, 7 bits" in cli("layers", "--network", folder / "s.network.safetensors").stdout


def test_a_network_runs_without_torch_and_onnx(folder: Path) -> None:
    code = (
        "import sys\nfrom qexport.cli import main\n"
        f"sys.argv = ['qexport', 'run', {str(folder / 's.network.safetensors')!r}, '--inputs', "
        f"{str(folder / 'pixels.npy')!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'onnx', 'PIL'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, stdout=subprocess.DEVNULL)
