"""graph.json beside the sets of a network: which set's output enters which other one."""

import json
from pathlib import Path
from typing import Any

import msgspec

from qexport.core.network import IntegerNetwork, View
from qexport.core.private import without_private
from qexport.errors import QexportError
from qexport.sets.index import Index
from qexport.sets.manifest import Entry, json_bytes

GRAPH, GRAPH_SCHEMA = "graph.json", "qexport.graph/1"
REMEDY = "dump with --all --network again, or take the file away"


class GraphLayer(Entry, frozen=True, kw_only=True):
    name: str
    path: str
    manifest_sha256: str
    operands: dict[str, tuple[str, ...]]
    view: dict[str, list[Any]]


class Graph(Entry, frozen=True, kw_only=True):
    """The sets of a network in the order of computation."""

    schema: str = GRAPH_SCHEMA
    network_sha256: str
    layers: tuple[GraphLayer, ...]

    @classmethod
    def of(cls, network: IntegerNetwork, network_sha256: str, index: Index) -> "Graph":
        """The graph of a network whose sets an index lists in order."""
        layers = [
            GraphLayer(
                name=node.name,
                path=entry.path,
                manifest_sha256=entry.manifest_sha256,
                operands=dict(node.operands),
                view={name: [one.document for one in views] for name, views in node.view.items()},
            )
            for node, entry in zip(network.layers, index.sets, strict=True)
        ]
        return cls(network_sha256=network_sha256, layers=tuple(layers))

    def to_bytes(self) -> bytes:
        return json_bytes(self)

    @classmethod
    def read(cls, folder: Path) -> "Graph | None":
        """The graph of a folder of sets, None where there is none; raises QexportError when it is not one of ours."""
        path = folder / GRAPH
        if not path.is_file():
            return None
        try:
            graph = msgspec.convert(without_private(json.loads(path.read_bytes())), cls)
            for layer in graph.layers:
                for views in layer.view.values():
                    _ = [View.read(one) for one in views]
        except (ValueError, RecursionError) as error:
            raise QexportError(f"graph: {path}: {error}; {REMEDY}") from None
        if graph.schema != GRAPH_SCHEMA:
            raise QexportError(f"graph: {path} has schema '{graph.schema}'; this qexport reads {GRAPH_SCHEMA}")
        return graph
