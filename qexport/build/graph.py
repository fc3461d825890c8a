"""Whether the sets of a network fit together: the codes on both sides of each edge, bit for bit."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qexport.build.verify import Fault
from qexport.core.capture import CaptureFile
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.network import View
from qexport.core.operations.registry import operation
from qexport.errors import QexportError
from qexport.layout.order import TILE_AXIS
from qexport.layout.paths import MANIFEST, is_inside
from qexport.sets.folder import file_sha256
from qexport.sets.graph import GRAPH, REMEDY, Graph, GraphLayer
from qexport.sets.manifest import read_manifest


class _Set:
    """A layer's set: the codes that go in, and those that come out, picture by picture."""

    def __init__(self, folder: Path, layer: GraphLayer):
        self.layer = layer
        manifest = read_manifest(folder)
        self._capture = CaptureFile(folder / manifest.capture.path)
        self._facts = operation(self._capture, manifest.array.get(TILE_AXIS), manifest.chain)
        self.images = self._capture.images

    def golden(self, picture: int, pictures: int) -> Golden:
        each = self.images // pictures
        return Golden(self._capture.part(picture * each, (picture + 1) * each), facts=self._facts)


def verify_graph(folder: Path) -> list[Fault]:
    """Whether each set of a network gets what those before it give; no graph, no fault."""
    graph = Graph.read(folder)
    return [] if graph is None else list(_faults(folder, graph))


def _faults(folder: Path, graph: Graph) -> Iterator[Fault]:
    sets: dict[str, _Set] = {}
    for layer in graph.layers:
        manifest = folder / layer.path / MANIFEST
        if not is_inside(layer.path) or not manifest.is_file():
            yield Fault(GRAPH, f"{layer.path} is missing; {REMEDY}")
        elif file_sha256(manifest) != layer.manifest_sha256:
            yield Fault(GRAPH, f"{layer.path} is another set than that of the graph; {REMEDY}")
        else:
            try:
                sets[layer.name] = _Set(folder / layer.path, layer)
            except QexportError as error:
                yield Fault(GRAPH, f"{layer.path}: {error}")
    if len(sets) < len(graph.layers):
        return  # a layer that is named twice is among them
    pictures = math.gcd(*(one.images for one in sets.values()))
    reported: set[tuple[str, str]] = set()
    for picture in range(pictures):
        outputs: dict[str, Int64] = {}
        for name, one in sets.items():
            golden = one.golden(picture, pictures)
            for operand, why in _wrong_edges(one, golden, outputs):
                if (name, operand) not in reported:
                    reported.add((name, operand))
                    yield Fault(GRAPH, f"{one.layer.path}: {operand} of picture {picture} {why}; {REMEDY}")
            outputs[name] = golden.values("output")


def operand_codes(layer: GraphLayer, operand: str, outputs: Mapping[str, Int64]) -> Int64:
    """What an operand takes of the outputs of the layers before; raises QexportError where they do not fit."""
    try:
        codes = np.concatenate([outputs[source] for source in layer.operands[operand]], axis=1)
    except ValueError as error:
        raise QexportError(f"{error}") from None
    for view in map(View.read, layer.view.get(operand, [])):
        codes = view.apply(codes, view.shape(codes.shape))
    return codes


def _wrong_edges(one: _Set, golden: Golden, outputs: dict[str, Int64]) -> Iterator[tuple[str, str]]:
    """The operands whose codes are not those that the layers before give, and in what."""
    for operand, sources in one.layer.operands.items():
        if not all(source in outputs for source in sources):
            continue  # it reads an input of the network
        try:
            codes = operand_codes(one.layer, operand, outputs)
        except QexportError as error:
            yield operand, f"cannot be made of the outputs of {', '.join(sources)}: {error}"
            continue
        there = golden.codes(operand)
        if codes.shape != there.shape or (codes != there).any():
            wrong = int((codes != there).sum()) if codes.shape == there.shape else there.size
            yield operand, f"has {wrong:,} of {there.size:,} codes that {', '.join(sources)} does not give"
