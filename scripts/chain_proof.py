"""Whole networks of other frameworks in integers, edge by edge, on 16 pictures: for docs/how-to/network.md.

Each is written as ONNX by its framework and imported. The integers run from the pictures on; every edge is compared
with the framework's own codes (onnx.reference), then with the exported model of integer operators in onnx.reference.
Exits with 1 where a code is neither equal nor behind a listed tie. Needs the packages of the extra `test`; minutes.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

import qexport as qx
from qexport.core.capture import Source
from qexport.core.golden import Golden
from qexport.core.network_run import Engine
from qexport.core.reference import Scan
from qexport.frontends.onnx_model.capture import Captured, capture_all, codes_of, fed
from qexport.frontends.onnx_model.evaluate import Runner
from qexport.frontends.onnx_model.network import integer_network
from qexport.frontends.onnx_model.walk import Walked, walk
from qexport.frontends.to_onnx import onnx_model
from scripts.pages import fill_in
from tests.frontends import onnx_zoo

PAGE = Path(__file__).parent.parent / "docs/how-to/network.md"
PICTURES = 16


@dataclass
class Chain:
    """What was compared: `codes` that layers give for the framework's own operands, of which `ties` differ at listed
    accumulators; codes of the chain, from the pictures on, and those of the exported model, that differ."""

    layers: int
    codes: int
    ties: int
    chained: int
    exported: int

    @property
    def holds(self) -> bool:
        return not self.exported and (self.ties > 0 or not self.chained)


def prove(path: Path, pictures: Any) -> Chain:
    """Raises CheckFailed where a layer's sums or codes are not the framework's, AssertionError where an edge is cut."""
    graph = qx.load(path)
    inputs = fed(graph, {next(iter(graph.inputs)): pictures})
    walked = walk(graph, inputs.shapes)
    assert not walked.refused
    captured = {}
    for one in capture_all(walked, inputs, Source()):
        assert isinstance(one, Captured), one
        captured[one.capture.layer.name] = one.capture
    found = Chain(len(captured), 0, 0, 0, 0)
    given = _first_codes(walked, inputs.runs)
    framework = dict(given)
    for name, capture in captured.items():
        golden = Golden(capture)
        scan = Scan(golden.facts)
        scan.add(golden)
        codes = scan.check().codes
        if codes is not None:
            found.codes, found.ties = found.codes + codes.compared, found.ties + codes.ties
            framework[name] = capture.reference_codes
    network = integer_network(walked)
    engine = Engine(network)
    for placed in network.placed.values():  # each edge holds the framework's codes, on both sides
        for operand, codes in engine.operands(placed.node.name, framework).items():
            assert np.array_equal(codes, captured[placed.node.name].tensors[operand]), placed.node.name
    ran = engine.run(given, list(network.placed))
    found.chained = sum(int((ran[name] != framework[name]).sum()) for name in captured if name in framework)
    names = list(network.placed)
    exported = ReferenceEvaluator(onnx_model(network))
    for at in range(len(pictures)):
        own = exported.run(names, {name: codes[at : at + 1].astype(np.int64) for name, codes in given.items()})
        for name, codes in zip(names, own, strict=True):
            each = len(ran[name]) // len(pictures)
            found.exported += int((codes != ran[name][at * each : (at + 1) * each]).sum())
    return found


def _first_codes(walked: Walked, runs: Any) -> dict[str, Any]:
    """What the file's own first nodes make of the pictures."""
    tensors = {one.name: one for one in walked.fed.values()}
    run = Runner(walked.graph, [one.tensor for one in tensors.values()], walked.shape)
    values = [run(feeds) for feeds in runs]
    return {
        name: np.concatenate([codes_of(one.format, part[one.tensor], one.integers) for part in values])
        for name, one in tensors.items()
    }


def networks(folder: Path, side: int = 64) -> Iterator[tuple[str, Path]]:
    for title in ("Brevitas, residual", "Brevitas, depthwise"):
        for style in ("qcdq", "qonnx"):
            yield f"{title}, as {style.upper()}", onnx_zoo.of_brevitas(folder, title, style)
    yield f"torch.ao, QAT ResNet-18, as QDQ, {side}x{side}", onnx_zoo.ao_resnet18(folder, side)


def pictures_of(path: Path, count: int = PICTURES) -> Any:
    sizes = [dim.dim_value for dim in next(iter(qx.load(path).inputs.values())).tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal((count, *sizes[1:])).astype(np.float32)


def main() -> None:
    rows = [
        "| network | layers | codes of layers, compared with the framework's | of them ties | codes of the chain that "
        "differ | codes of the exported model that differ |",
        "|---|---|---|---|---|---|",
    ]
    fine = True
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        for title, path in networks(Path(folder)):
            found = prove(path, pictures_of(path))
            fine &= found.holds
            numbers = (found.layers, found.codes, found.ties, found.chained, found.exported)
            rows.append(f"| {title} | {' | '.join(f'{number:,}' for number in numbers)} |")
            print(rows[-1], flush=True)
    fill_in(PAGE, "chains", "\n".join(rows))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
