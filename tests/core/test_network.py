"""The record of a network and its file: what is kept, and what of a hostile file is refused, in one line."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from qexport.core.network import IntegerNetwork
from qexport.core.network_file import network_bytes, read_network, write_network
from qexport.errors import QexportError
from tests.networks import small_network

Json = dict[str, Any]


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return small_network()


@pytest.fixture
def path(network: IntegerNetwork, tmp_path: Path) -> Path:
    write_network(network, tmp_path / "small.network.safetensors")
    return tmp_path / "small.network.safetensors"


def test_a_network_read_back_gives_the_same_bytes(network: IntegerNetwork, path: Path) -> None:
    again = read_network(path)
    assert network_bytes(again) == path.read_bytes() == network_bytes(network)
    assert [node.layer for node in again.layers] == [node.layer for node in network.layers]
    assert again.placed["classifier"].operands["input"] == (1, 54, 1, 1)
    assert again.outputs == network.outputs


def test_private_keys_are_passed_over_and_unknown_ones_refused(path: Path) -> None:
    change(path, lambda document: document.update({"x-mine": 1}))
    read_network(path)
    change(path, lambda document: document.update(mine=1))
    with pytest.raises(QexportError, match="unknown field `mine`"):
        read_network(path)


def change(path: Path, edit: Callable[[Json], object], **tensors: Any) -> None:
    """Write the file again with another document, and tensors that come in or, where None, go."""
    with safe_open(str(path), framework="numpy") as file:
        document = json.loads(file.metadata()["qexport"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    edit(document)
    held = {name: array for name, array in (held | tensors).items() if array is not None}
    save_file(held, path, metadata={"qexport": json.dumps(document)})


def network_tensors(network: IntegerNetwork) -> list[str]:
    return list(load_tensors(network_bytes(network)))


def layer(document: Json, name: str) -> Json:
    found: Json = next(one for one in document["layers"] if one["layer"]["name"] == name)
    return found


HOSTILE: dict[str, tuple[str, Callable[[Json], object]]] = {
    "another schema": ("this qexport reads", lambda d: d.update(schema="qexport.network/2")),
    "a cycle": (
        "layer conv1: operand input reads 'add', which stands behind it",
        lambda d: layer(d, "conv1")["operands"].update(input=["add"]),
    ),
    "itself": ("reads itself", lambda d: layer(d, "conv1")["operands"].update(input=["conv1"])),
    "a missing layer": (
        "reads 'conv7', which is neither an input nor a layer; did you mean",
        lambda d: layer(d, "conv2")["operands"].update(input=["conv7"]),
    ),
    "a missing operand": ("takes input and input2", lambda d: layer(d, "add")["operands"].pop("input2")),
    "an operand too many": ("takes input$", lambda d: layer(d, "conv1")["operands"].update(input2=["image"])),
    "no layer of an operand": ("names no layer", lambda d: layer(d, "conv2")["operands"].update(input=[])),
    "a missing format": ("needs input and input2", lambda d: layer(d, "add")["formats"].pop("input2")),
    "nothing known behind": (
        "conv1, which has no formats.output",
        lambda d: layer(d, "conv1")["formats"].pop("output"),
    ),
    "another scale across an edge": (
        "scale 0.125",
        lambda d: layer(d, "conv2")["formats"]["input"].update(scale=0.125),
    ),
    "another zero point": ("zero point 1", lambda d: layer(d, "conv2")["formats"]["input"].update(zero_point=1)),
    "another shape": (
        "layer classifier: input has shape 1 x 36 x 1 x 1",
        lambda d: layer(d, "classifier")["operands"].update(input=["pool"]),
    ),
    "joined planes": ("along axis 1", lambda d: layer(d, "classifier")["operands"].update(input=["conv1", "pool"])),
    "a view that mixes pictures": (
        "0 or -1 as the first",
        lambda d: layer(d, "classifier").update(view={"input": [["reshape", 2, -1, 1, 1]]}),
    ),
    "a view that does not fit": (
        "as many elements",
        lambda d: layer(d, "classifier").update(view={"input": [["reshape", 0, 7, 1, 1]]}),
    ),
    "a view of nothing": ("is none", lambda d: layer(d, "classifier").update(view={"input": [["roll", 1]]})),
    "codes outside the format": (
        "outside 0..15",
        lambda d: layer(d, "conv1")["steps"].__setitem__(-1, {"op": "clamp", "low": 0, "high": 16}),
    ),
    "pixels outside the format": ("is not a code", lambda d: d["inputs"][0]["lookup"][0].__setitem__(3, 99)),
    "a short table of pixels": ("needs 256 codes", lambda d: d["inputs"][0]["lookup"].pop()),
    "two of one name": ("two of its parts are named 'conv1'", lambda d: d["inputs"][0].update(name="conv1")),
    "an output of nothing": ("which is not a layer", lambda d: d["outputs"][0].update({"from": "image"})),
    "another scale of the output": ("are not those of classifier", lambda d: d["outputs"][0].update(scale=3.0)),
    "a foreign tensor": ("belongs to none", lambda d: d["layers"].pop()),
    "no layers": ("0 layers", lambda d: d.update(layers=[])),
    "10^6 layers": ("more than 10,000", lambda d: d.update(layers=[{}] * 10**6)),
    "a chain of giant planes": (
        "elements for one picture",
        lambda d: d.update(
            inputs=[{"name": "image", "shape": [32, 1024, 1024], "format": CODE}],
            layers=[giant(f"l{at}", f"l{at - 1}" if at else "image") for at in range(17)],
        ),
    ),
    "a giant plane": (
        "codes of one picture",
        lambda d: d.update(
            inputs=[{"name": "image", "shape": [64, 1024, 1024], "format": CODE}], layers=[giant("l0", "image")]
        ),
    ),
    "a layer that is not an object": ("Expected `object`", lambda d: d["layers"].__setitem__(0, [])),
    "steps that are none": ("Expected `array`", lambda d: layer(d, "conv1").update(steps=7)),
}
CODE = {"bits": 4, "signed": False, "scale": 0.5}


def giant(name: str, before: str) -> Json:
    formats = {"input": CODE, "accumulator": {"scale": 0.5}, "output": CODE}
    return {
        "layer": {"kind": "sum", "name": name, "mul": [1]},
        "formats": formats,
        "steps": [],
        "operands": {"input": [before]},
    }


NONE: dict[str, None] = dict.fromkeys(network_tensors(small_network()))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_before_the_work_begins(name: str, path: Path) -> None:
    message, edit = HOSTILE[name]
    change(path, edit, **(NONE if "layers" in name or "giant" in name else {}))
    began = time.monotonic()
    with pytest.raises(QexportError, match=message) as caught:
        read_network(path)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def test_files_that_are_none_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:40], b"", (1 << 40).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(QexportError, match=r"network: .*small"):
            read_network(path)
    for other in (path.parent, path.with_name("missing")):
        with pytest.raises(QexportError, match="does not exist or is not a file"):
            read_network(other)


def test_weights_that_are_no_codes_are_refused(path: Path) -> None:
    change(path, lambda d: None, **{"conv1.weight": np.full((4, 3, 3, 3), 9, np.int8)})
    with pytest.raises(QexportError, match=r"weight code 9 is outside -8\.\.7"):
        read_network(path)
    change(path, lambda d: None, **{"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)})
    with pytest.raises(QexportError, match="needs integers"):
        read_network(path)


def test_a_view_may_make_positions_images(network: IntegerNetwork) -> None:
    """Six positions of a plane as images of a linear layer, and back."""
    tokens = {"input": (read_view("permute", 0, 2, 3, 1), read_view("reshape", -1, 2, 1, 1))}
    conv = next(node for node in network.layers if node.name == "pool")
    classifier = network.layers[-1]
    taken = replace(
        classifier,
        layer=msgspec.structs.replace(classifier.layer, in_channels=2),
        weight=np.asarray(classifier.weight)[:, :2],
        operands={"input": ("pool",)},
        view=tokens,
    )
    made = replace(network, layers=(*network.layers[: network.layers.index(conv) + 1], taken))
    assert made.placed["classifier"].operands["input"] == (18, 2, 1, 1)
    assert made.placed["classifier"].output == (18, 5, 1, 1)


def read_view(*document: Any) -> Any:
    from qexport.core.network import View

    return View.read(list(document))
