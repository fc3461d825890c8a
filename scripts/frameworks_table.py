"""What a capture of every layer costs its user, framework by framework: the table of docs/tutorial/your-network.md.

The line below is run as it stands for each layer of the networks in tests/frontends/zoo.py and onnx_zoo.py. Needs the
packages of the extra `test`; a minute.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import qexport as qx
from qexport.core.golden import Golden
from qexport.core.reference import Scan
from qexport.frontends.onnx_model.capture import fed
from qexport.frontends.onnx_model.reading import Graph
from qexport.frontends.onnx_model.walk import walk
from qexport.frontends.torch_module.capture import capture_all
from scripts.pages import fill_in
from tests.frontends import onnx_zoo, zoo

PAGE = Path(__file__).parent.parent / "docs/tutorial/your-network.md"
LINE = """captured = qx.capture(model, name, inputs)"""


def row(title: str, model: Any, inputs: Any) -> str:
    if isinstance(model, torch.nn.Module):
        captures = [one.capture for one in capture_all(model, inputs)]  # an AttributeError where one is refused
        names = [capture.layer.name for capture in captures if capture.layer.kind != "sum"]
    else:
        names = multiplying(model, inputs)
    compared = ties = with_codes = 0
    for name in names:
        scope = {"model": model, "name": name, "inputs": inputs}
        exec(f"import qexport as qx\n{LINE}", scope)
        golden = Golden(scope["captured"])
        scan = Scan(golden.facts)
        scan.add(golden)
        codes = scan.check().codes  # CheckFailed where the sums or codes are not the framework's
        if codes is not None:
            with_codes, compared, ties = with_codes + 1, compared + codes.compared, ties + codes.ties
    lines = len(LINE.splitlines())
    return f"| {title} | {len(names)} of {len(names)} | {lines} | {with_codes} | {compared:,} | {ties} |"


def multiplying(graph: Graph, inputs: Any) -> list[str]:
    """The convolutions, linear layers and matrix products of an ONNX file."""
    walked = walk(graph, fed(graph, {next(iter(graph.inputs)): inputs}).shapes)
    assert not walked.refused
    return [one.name for one in walked.layers if one.call.layer.kind != "sum"]


def of_onnx(folder: Path) -> Iterator[tuple[str, Graph, Any]]:
    """Files of several styles, with inputs."""
    for title, style in (
        ("onnxruntime, QDQ u8s8", "qdq_u8s8"),
        ("onnxruntime, QDQ s8s8 per channel", "qdq_s8s8"),
        ("onnxruntime, QOperator u8u8", "qoperator_u8u8"),
    ):
        model = onnx_zoo.quantized_by_onnxruntime(folder, style)
        yield title, qx.load(folder / f"{style}.onnx"), onnx_zoo.pictures(model)
    for title in zoo.BREVITAS:
        for style in ("qonnx", "qcdq"):
            graph = qx.load(onnx_zoo.of_brevitas(folder, title, style))
            yield f"{title}, as {style.upper()}", graph, zoo.BREVITAS[title]()[1].numpy()
    pictures = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    yield "torch.ao, QAT ResNet-18, as QDQ", qx.load(onnx_zoo.ao_resnet18(folder, 64)), pictures
    onnx.save(onnx_zoo.of_wheel(), folder / "wheel.onnx")
    pictures = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    yield "the network that comes with qonnx", qx.load(folder / "wheel.onnx"), pictures


def main() -> None:
    rows = [
        "| network | layers captured, sums exact | lines of yours for a layer | layers with output codes | "
        "codes compared with the framework's | of them ties |",
        "|---|---|---|---|---|---|",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows += [row(title, *make()) for title, make in (zoo.BREVITAS | zoo.OTHERS).items()]
        with tempfile.TemporaryDirectory() as folder:
            rows += [row(f"ONNX: {title}", *example) for title, *example in of_onnx(Path(folder))]
    fill_in(PAGE, "frameworks", "\n".join(rows))


if __name__ == "__main__":
    main()
