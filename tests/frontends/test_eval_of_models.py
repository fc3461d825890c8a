"""`qexport eval --network` of networks that came from ONNX, beside what they came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from tests.conftest import cli, fails
from tests.frontends import onnx_zoo as zoo
from tests.frontends.onnx_zoo import Builder
from tests.frontends.test_onnx import needs

CLASSES = 4


def classifier(elements: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Pictures of 8x8, normalised in the graph, in QDQ."""
    b = Builder(3, 8, 8, elements=elements)
    x = "picture"
    if elements == TensorProto.FLOAT:
        x = b.add("Sub", x, b.constant(np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1)))
        x = b.quantize(x, 1 / 128, 128)
    else:
        x = b.add("DequantizeLinear", x, b.constant(np.float32(1 / 255)), b.constant(0, elements))
    x = b.quantize(b.add("Relu", b.add("Conv", x, b.weight(6, 3, 3, 3), b.real(6), strides=[2, 2], name="conv")), 0.02)
    x = b.add("Flatten", b.quantize(b.add("GlobalAveragePool", x), 0.01))
    return b.model(b.add("Gemm", x, b.weight(CLASSES, 6, scale=0.05), b.real(CLASSES), transB=1, name="classes"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of each class, in folders."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = tmp_path / "data/test" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def imported(folder: Path, model: onnx.ModelProto) -> tuple[Any, ...]:
    onnx.save(model, folder / "net.onnx")
    file = folder / "net.network.safetensors"
    done = cli("import", folder / "net.onnx", "--out", file)
    assert done.exit_code == 0, done.output
    return "--network", file, "--model", folder / "net.onnx", "--json"


def evaluated(*arguments: Any) -> dict[str, Any]:
    done = cli("eval", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("elements", "normal"), [(TensorProto.FLOAT, ("--mean", "0.1,0,0")), (TensorProto.UINT8, ())])
def test_a_network_of_an_onnx_file_beside_onnxruntime(
    elements: int, normal: tuple[str, ...], pictures: Path, tmp_path: Path
) -> None:
    needs("onnxruntime")
    found = evaluated(*imported(tmp_path, classifier(elements)), "--data", pictures, *normal)
    assert (found["by"], found["total"], found["different"]) == ("onnxruntime", 12, 0)
    assert found["correct"] == found["model_correct"]
    pixels, labels = [], []
    for label in range(CLASSES):
        for file in sorted((pictures / "test" / f"class{label}").iterdir()):
            pixels.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
            labels.append(label)
    fed = np.stack(pixels).astype(np.float32) / 255 - np.float32([0.1, 0, 0]).reshape(3, 1, 1) if normal else pixels
    np.save(tmp_path / "x.npy", np.stack(fed))
    np.save(tmp_path / "y.npy", labels)
    arrays = ("--inputs", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
    again = evaluated(*imported(tmp_path, classifier(elements)), *arrays)
    assert again == found
    assert evaluated(*imported(tmp_path, classifier(elements)), *arrays, "--images", 4)["total"] == 4


def test_a_model_of_three_inputs_at_once_takes_them(pictures: Path, tmp_path: Path) -> None:
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    network = imported(tmp_path, model)
    assert evaluated(*network, "--data", pictures)["different"] == 0
    fails(cli("eval", *network, "--data", pictures, "--images", 4), "takes 3 inputs at once; give a multiple")


def test_a_network_of_qonnx_is_beside_onnx_reference(tmp_path: Path) -> None:
    network = imported(tmp_path, zoo.qonnx_nodes())
    np.save(tmp_path / "x.npy", zoo.pictures(zoo.qonnx_nodes(), 6))
    np.save(tmp_path / "y.npy", np.arange(6) % 3)
    found = evaluated(*network, "--inputs", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
    assert (found["by"], found["total"], found["different"]) == ("onnx.reference", 6, 0)


MODULE = """
import onnx, torch
from onnx import numpy_helper

class Net(torch.nn.Module):
    def forward(self, x):
        graph = onnx.load("net.onnx").graph
        held = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        first, last = (
            held[n.input[0]].float() * held[n.input[1]]
            for n in graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in held
        )
        bias = {n.name: held[n.input[2]] for n in graph.node if n.op_type in ("Conv", "Gemm")}
        grid = lambda x, s, z=0: (torch.clamp(torch.round(x / s) + z, 0, 255) - z) * s
        x = grid(x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), 1 / 128, 128)
        x = grid(torch.relu(torch.nn.functional.conv2d(x, first, bias["conv"], 2)), 0.02)
        x = grid(x.mean((2, 3)), 0.01)
        return torch.nn.functional.linear(x, last, bias["classes"])

class Other(torch.nn.Module):
    def forward(self, x):
        return x
"""


def test_a_network_beside_the_module_behind_it(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = imported(tmp_path, classifier())
    (tmp_path / "beside_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = evaluated(*network[:3], "beside_net:Net", "--data", pictures, "--mean", "0.1,0,0", "--json")
    assert (found["by"], found["total"], found["different"]) == ("PyTorch", 12, 0)
    assert found["correct"] == evaluated(*network, "--data", pictures, "--mean", "0.1,0,0")["correct"]
    other = cli("eval", *network[:3], "beside_net:Other", "--data", pictures)
    fails(other, "gives (12, 3, 8, 8) for 12 inputs; the network tells 4 classes apart")


Arguments = tuple[Any, ...]
WRONG: dict[str, tuple[Callable[[Path], Arguments], str]] = {
    "labels without inputs": (
        lambda f: ("--labels", f / "y.npy", "--data", f / "data"),
        "--labels belongs to --inputs",
    ),
    "inputs without labels": (lambda f: ("--inputs", f / "x.npy"), "--inputs needs --model and --labels"),
    "weights": (lambda f: ("--weights", f / "x.npy", "--data", f / "data"), "--weights belongs to a --model MODULE"),
    "bits": (lambda f: ("--weight-bits", 4, "--data", f / "data"), "--model stands in place of --checkpoint"),
    "two means": (lambda f: ("--mean", "1,2", "--data", f / "data"), "one for each of 3"),
    "no mean": (lambda f: ("--mean", "1,x", "--data", f / "data"), "not a number for each channel"),
    "std of 0": (lambda f: ("--std", "0", "--data", f / "data"), "not a number for each channel"),
    "many images": (lambda f: ("--images", 13, "--data", f / "data"), "13 is outside 1..12"),
    "shape": (lambda f: ("--inputs", f / "y.npy", "--labels", f / "y.npy"), "takes finite numbers (n, 3, 8, 8)"),
    "few labels": (lambda f: ("--inputs", f / "x.npy", "--labels", f / "y.npy"), "a class for each of 2 inputs"),
    "no data": (lambda f: ("--data", f), "holds neither"),
}


def test_what_a_user_may_get_wrong_is_one_line(pictures: Path, tmp_path: Path) -> None:
    network = imported(tmp_path, classifier())
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(3, np.int64))
    for arguments, needle in WRONG.values():
        fails(cli("eval", *network, *arguments(tmp_path)), needle)
    onnx.save(classifier(TensorProto.UINT8), tmp_path / "other.onnx")
    fails(cli("eval", *network[:3], tmp_path / "other.onnx", "--data", pictures), "it was not imported from")
    fails(cli("eval", *network[:2], "--data", pictures, "--mean", "1"), "--mean and --std belong to --model")
    fails(cli("eval", "--checkpoint", "builtin", "--data", pictures, *network[2:4]), "--model belongs to --network")
    fails(cli("eval", *network[:2], "--data", pictures), "was not imported from")
    (pictures / "test/class3").rename(tmp_path / "elsewhere")
    fails(cli("eval", *network, "--data", pictures), "has 3 classes; the network tells 4 apart")
