"""The graph of a network, from the graph.json that lies beside the sets of its layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qexport.errors import QexportError
from qexport.report.figure import Figure
from qexport.report.svg import WIDE, cut, path, rect, text
from qexport.sets.graph import GRAPH, Graph

_ROW = 34.0
_MOST = 2000  # layers and edges that are drawn


def read_graph(folder: Path) -> Graph | None:
    """The graph of a folder of sets, None where there is none; raises QexportError where it cannot be drawn."""
    graph = Graph.read(folder)
    if graph is None:
        return None
    edges = sum(len(takes) for layer in graph.layers for takes in layer.operands.values())
    if (most := max(len(graph.layers), edges)) > _MOST:
        raise QexportError(f"graph: {folder / GRAPH} has {most:,} layers or edges, more than {_MOST:,}; take it away")
    return graph


def graph_figure(graph: Graph, said: Mapping[str, str], tones: Mapping[str, int]) -> Figure:
    """Layers from top to bottom; what does not come from the row above comes over an arc. `said` and `tones`: of a
    layer, by its name."""
    names = [node.name for node in graph.layers]
    inputs = [one for node in graph.layers for each in node.operands.values() for one in each if one not in names]
    rows = list(dict.fromkeys([*inputs, *names]))
    at = {name: number for number, name in enumerate(rows)}
    edges = [(at[one], at[node.name]) for node in graph.layers for each in node.operands.values() for one in each]
    lanes = _lanes([edge for edge in edges if edge[1] - edge[0] > 1])
    left = 24.0 + 12 * (max(lanes.values(), default=-1) + 1)
    wide, drawn = WIDE - left - 4, []
    for (first, last), lane in lanes.items():
        top, bottom, x = _middle(first), _middle(last), left - 12 - 12 * lane
        curve = f"M{left} {top}H{x + 8}Q{x} {top} {x} {top + 8}V{bottom - 8}Q{x} {bottom} {x + 8} {bottom}H{left}"
        drawn.append(path(curve, "edge", f"{rows[last]} takes {rows[first]}"))
    for first, last in edges:
        if last - first == 1:
            drawn.append(path(f"M{left + 20} {_middle(first) + 12}V{_middle(last) - 12}", "edge"))
    for name, number in at.items():
        y = _middle(number) - 12
        known = name in names
        drawn.append(rect(left, y, wide, 24, "card", said.get(name, name), 6))
        drawn.append(rect(left, y, 4, 24, f"f{tones.get(name, 0 if known else 7)}", round=2))
        drawn.append(text(left + 14, y + 16, cut(name, 180), "b" if known else "m"))
        drawn.append(text(left + 200, y + 16, cut(said.get(name, "goes in"), wide - 200), "m num"))
    words = f"{len(names)} layers, {len(edges)} edges, in the order of computation."
    return Figure("graph", "the network", words, WIDE, len(rows) * _ROW + 8, "".join(drawn))


def _middle(row: int) -> float:
    return 4 + (row + 0.5) * _ROW


def _lanes(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane for each edge that passes rows, so that none lies upon another."""
    found: dict[tuple[int, int], int] = {}
    for first, last in sorted(set(edges), key=lambda edge: edge[1] - edge[0]):
        taken = {lane for (a, b), lane in found.items() if a < last and first < b}
        found[first, last] = next(lane for lane in range(len(found) + 1) if lane not in taken)
    return found
