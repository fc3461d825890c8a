"""Faults planted in layers of a run are all found, and no other layer is accused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.core.network import IntegerNetwork, NetworkLayer
from qexport.core.network_file import write_network
from qexport.core.steps import Clamp
from tests.conftest import cli, fails
from tests.networks import small_network

ORDER = ("conv1", "conv2", "add", "narrow", "pool", "classifier")
PLANTED: dict[str, Callable[[NetworkLayer], NetworkLayer]] = {
    "conv1": lambda node: replace(node, weight=np.asarray(node.weight)[:, :, ::-1, ::-1]),
    "narrow": lambda node: replace(node, steps=(*node.steps[:-2], Clamp(low=0, high=7), node.steps[-1])),
    "classifier": lambda node: replace(node, bias=None),
    "conv2": lambda node: replace(node, weight=-np.maximum(np.asarray(node.weight), -7)),
}


def dumped(network: IntegerNetwork, folder: Path) -> Path:
    folder.mkdir()
    write_network(network, folder / "n.network.safetensors")
    np.save(folder / "pixels.npy", np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6), np.uint8))
    done = cli("dump", "--all", "--network", folder / "n.network.safetensors", "--inputs", folder / "pixels.npy",
               "--out", folder / "sets")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "sets"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dumped(small_network(), tmp_path_factory.mktemp("right") / "r")


def ran(folder: Path, *names: str) -> Path:
    """What a design with these faults gives: the results in the sets of a network that has them."""
    network = small_network()
    layers = tuple(PLANTED[node.name](node) if node.name in names else node for node in network.layers)
    return dumped(replace(network, layers=layers), folder / "_".join(names))


def found(sets: Path, run: Path) -> tuple[int, Any]:
    done = cli("diagnose", sets, "--actual", run, "--json")
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("names", [("conv1",), ("conv2", "classifier"), ("conv1", "narrow", "classifier")])
def test_all_faulty_layers_and_no_others_are_accused(sets: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    code, said = found(sets, ran(tmp_path, *names))
    assert code == 1
    assert tuple(said["faulty"]) == names
    assert said["first"] == names[0]
    states = {one["layer"]: one["state"] for one in said["layers"]}
    before = ORDER[: ORDER.index(names[0])]
    assert all(states[name] == "right" for name in before)
    assert all(states[name] in ("right", "inherited") for name in ORDER if name not in names)
    causes = {one["layer"]: one["diagnosis"] for one in said["layers"] if one["state"] == "faulty"}
    if "conv1" in names:
        assert causes["conv1"]["causes"][0]["name"] == "kernel_rotated"
    if "classifier" in names:
        assert "bias" in str(causes["classifier"]["causes"])


def test_a_run_of_some_layers_and_of_the_right_ones(sets: Path, tmp_path: Path) -> None:
    code, said = found(sets, sets)
    assert (code, {one["state"] for one in said["layers"]}) == (0, {"right"})
    run = ran(tmp_path, "conv2")
    for name in ("conv2", "narrow", "pool"):
        shutil.rmtree(run / name)
    code, said = found(sets, run)
    assert code == 1
    states = [one["state"] for one in said["layers"]]
    assert states[:5] == ["right", "not dumped", "faulty", "not dumped", "not dumped"]
    assert (said["first"], said["faulty"], said["layers"][2]["through"]) == ("add", ["add"], ["conv2"])
    assert "or      the fault is in conv2" in cli("diagnose", sets, "--actual", run).stdout
    for name in ("conv1", "add", "classifier"):
        shutil.rmtree(run / name)
    fails(cli("diagnose", sets, "--actual", run), "has no folder of a layer, such as conv1, conv2")
