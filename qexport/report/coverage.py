"""What the vectors of a set exercise: the products of the array's elements, the bounds, the edges of the steps."""

import math

import numpy as np

from qexport.build.coverage import coverage_of_set
from qexport.core.coverage import Bools, Coverage, Products
from qexport.core.strength import percent
from qexport.report.blocks import Block, Facts, Note, Section
from qexport.report.facts import SetFacts
from qexport.report.figure import Figure
from qexport.report.svg import HALF, WIDE, image, rect, shrunk, text, tinted
from qexport.report.tables import AnyCell, Cell, Table

_CELLS = 1024  # products, and elements, that are drawn one by one
_LISTED = 200


def coverage_section(facts: SetFacts) -> Section:
    found = coverage_of_set(facts.folder, facts.manifest)
    sums = found.accumulator
    bounds: list[tuple[str, AnyCell]] = [
        (
            f"{name} accumulator, {value:,}",
            Cell("reached" if there else "not reached", tone="good" if there else "warn"),
        )
        for name, value, there in (("least", sums.low, sums.low_reached), ("greatest", sums.high, sums.high_reached))
    ]
    blocks: list[Block] = [*coverage_figures(facts, found)]
    if found.products is None:
        blocks.append(Note("Products are not counted: the operation multiplies nothing, or has too many of them."))
    return Section(
        "Coverage",
        "What the vectors exercise. What no vector does, no run can find wrong.",
        [*blocks, Facts(bounds)],
    )


def coverage_figures(facts: SetFacts, found: Coverage | None = None) -> list[Figure]:
    """The products by codes and by element, and the edges of the steps."""
    found = coverage_of_set(facts.folder, facts.manifest) if found is None else found
    figures = []
    if found.products is not None:
        seen = found.products.array()
        figures += [products_figure(facts, found.products, seen), elements_figure(facts, found.products, seen)]
    return [*figures, *([edges_figure(found)] if any(edges.possible for edges in found.steps.values()) else [])]


def products_figure(facts: SetFacts, products: Products, seen: Bools) -> Figure:
    """Each pair of codes: how many elements have multiplied it; orange where none has."""
    left, right = _operands(facts)
    lefts, rights = facts.operands[left].valid, facts.operands[right].valid
    share, side = seen.mean(axis=0), HALF - 70.0
    never = int((share == 0).sum())
    cell = side / len(rights), min(side / len(lefts), 24.0)
    high = cell[1] * len(lefts)
    drawn = [text(60, 12, f"code of {right}", "m")]
    if share.size <= _CELLS:
        for (y, x), part in np.ndenumerate(share):
            title = f"{left} {lefts[y]} x {right} {rights[x]}: {seen[:, y, x].sum()} of {len(seen)} elements"
            box = (60 + x * cell[0], 36 + y * cell[1], cell[0] - 1, cell[1] - 1)
            kind = f"f0 o{max(round(4 * part), 1)}" if part else "f1"
            drawn.append(rect(*box, kind if 0 < part < 0.875 or not part else "f0", title))
    else:
        small = shrunk(np.where(share == 0, -1.0, share), 512)
        drawn.append(image(tinted(small), 60, 36, side, high) + rect(60, 36, side, high, "box"))
    for values, step, at in ((rights, cell[0], 0), (lefts, cell[1], 1)):
        every = max(1, math.ceil((28, 14)[at] / step))
        for number in range(0, len(values), every):
            middle = (number + 0.5) * step
            x, y = (60 + middle, 30.0) if at == 0 else (54.0, 40 + middle)
            drawn.append(text(x, y, values[number], "m num", "end" if at else "middle"))
    said = f"{left} by {right}: the stronger the blue, the more of {products.elements} elements have seen the product. "
    said += (
        f"{never:,} of {share.size:,} products no element has seen: orange."
        if never
        else "Each was seen by an element."
    )
    return Figure("products", "products by codes", said, HALF, 44 + high, "".join(drawn))


def _operands(facts: SetFacts) -> tuple[str, str]:
    """The two that are multiplied, in the order in which products are counted."""
    return ("weight", "input") if "weight" in facts.operands else ("input2", "input")


def elements_figure(facts: SetFacts, products: Products, seen: Bools) -> Figure:
    """Each element of the array: the share of all products that it has multiplied."""
    shares = seen.reshape(len(seen), -1).mean(axis=1)
    array = facts.manifest.array
    rows, cols = array.get("row", 0), array.get("col", 0)
    known = rows * cols == len(shares)
    plane = shares.reshape(cols, rows).T if known else shares.reshape(1, -1)
    top = max(float(plane.max()), 1e-9)
    left, wide = 60.0, HALF - 70.0
    cell = wide / plane.shape[1], min(wide / plane.shape[1], 36.0)
    drawn = [text(left, 12, "column of the array" if known else "element", "m")]
    if plane.size <= _CELLS:
        for (y, x), part in np.ndenumerate(plane):
            box = (left + x * cell[0], 36 + y * cell[1], cell[0] - 1, cell[1] - 1)
            title = f"{f'row {y}, column {x}' if known else f'element {x}'}: {part:.1%} of its products"
            drawn.append(rect(*box, "cell") + rect(*box, f"f0 o{min(round(4 * part / top), 3)}", title))
            if cell[0] >= 36 and cell[1] >= 20:
                drawn.append(text(box[0] + cell[0] / 2, box[1] + cell[1] / 2 + 4, f"{part:.0%}", "num", "middle"))
    else:
        drawn.append(image(tinted(shrunk(plane / top, 512)), left, 36, wide, cell[1] * len(plane)))
    every = max(1, math.ceil(28 / cell[0]))
    drawn += [text(left + (x + 0.5) * cell[0], 30, x, "m num", "middle") for x in range(0, plane.shape[1], every)]
    down = range(0, len(plane), max(1, math.ceil(14 / cell[1]))) if known else ()
    drawn += [text(54, 40 + (y + 0.5) * cell[1], y, "m num", "end") for y in down]
    said = f"{percent(products.seen, products.total)} of {products.total:,} products; {shares.min():.1%} to "
    said += f"{shares.max():.1%} of those of an element."
    return Figure("elements", "products by element", said, HALF, 44 + cell[1] * len(plane), "".join(drawn))


def edges_figure(found: Coverage) -> Figure:
    """A row of cells for each step: an edge that was reached, or that can be and was not."""
    drawn, rows, y, left = [], list[list[AnyCell]](), 6.0, 120.0
    for name, edges in found.steps.items():
        if not edges.possible:
            continue
        a_row = int((WIDE - left - 90) // 16)
        drawn.append(text(left - 10, y + 12, name, "", "end"))
        missed = set(edges.missed)
        for at, edge in enumerate(edges.possible):
            x, down = left + at % a_row * 16, y + at // a_row * 16
            said = "not reached" if edge in missed else "reached"
            drawn.append(rect(x, down, 14, 14, "f1" if edge in missed else "f0", f"{name}, {edge}: {said}", 2))
        counted = f"{len(edges.possible) - len(missed)} of {len(edges.possible)}"
        drawn.append(text(left + min(len(edges.possible), a_row) * 16 + 8, y + 12, counted, "m num"))
        rows += [[name, edge, Cell("not reached", tone="warn")] for edge in edges.missed[:_LISTED]]
        y += math.ceil(len(edges.possible) / a_row) * 16 + 10
    table = Table("Edges that no vector reaches", ["step", "edge", "found"], rows) if rows else None
    said = f"Clips, roundings and signs of each step. {len(found.missed)} that can be reached were not: orange."
    return Figure("edges", "edges of the steps", said, WIDE, y, "".join(drawn), table)
