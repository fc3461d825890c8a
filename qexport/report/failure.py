"""Why a run failed: where values are wrong, the first of them term by term, the cause and its remedy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.geometry import ConvGeometry
from qexport.errors import QexportError
from qexport.findings.diagnose import diagnose
from qexport.findings.diagnosis import Diagnosis, First
from qexport.findings.explain import Explanation, Step, explain
from qexport.findings.whole_run import diagnose_run
from qexport.findings.words import read_actual
from qexport.layout.memory import verilog_name
from qexport.layout.tiling import describe_index
from qexport.report.blocks import Block, Details, Facts, Note, Pictures, Section
from qexport.report.facts import SetFacts
from qexport.report.figure import Figure
from qexport.report.run import Result, Run
from qexport.report.svg import WIDE, Series, curves, image, rect, shrunk, text, tinted
from qexport.report.tables import AnyCell, Cell, Table, share

_MAPS, _SIDE = 64, 64  # channels that are drawn, and positions along an axis
_TERMS = 600  # of an explanation that are listed


def failure_sections(run: Run) -> list[Section]:
    """What is wrong and why, of a run whose words differ."""
    wrong = [one for one in run.results if one.found is not None and not one.right]
    if not wrong:
        return []
    memory, diagnosis, note = _diagnosed(run, wrong[0])
    return [cause_section(run, memory, diagnosis, note), where_section(run.facts.channel, wrong)]


def _diagnosed(run: Run, result: Result) -> tuple[str, Diagnosis, str]:
    """The first wrong memory and its diagnosis with causes; where these cannot be looked for, why."""
    folder, words = run.facts.folder, run.folder / f"{verilog_name(result.memory)}.hex"
    try:
        actual, found = diagnose_run(folder, run.folder)
        return actual.memory.name, found, ""
    except QexportError:  # another memory's words may be the reason
        pass
    try:
        return result.memory, diagnose(folder, read_actual(folder, words, result.memory)), ""
    except QexportError as error:
        assert result.found is not None
        return result.memory, result.found, str(error)


def cause_section(run: Run, memory: str, found: Diagnosis, note: str) -> Section:
    blocks: list[Block] = [Note(note, "warn")] if note else []
    tones = {"cause": "bad" if found.explained else "warn"}
    for key, said in found.reasons:
        blocks.append(Note(f"{key}: {said}" if key else said, tones.get(key, "")))
    if found.findings:
        blocks.append(Facts([("seen", finding) for finding in found.findings]))
    if found.first is not None:
        blocks += first_blocks(run.facts, memory, found.first)
    return Section(
        "Failure",
        f"Memory {memory} is the first with a wrong value. The layer was computed again with one mistake after "
        "another; a cause is what gives the very values that came back.",
        blocks,
    )


def first_blocks(facts: SetFacts, memory: str, first: First) -> list[Block]:
    """The first wrong value, and how the right one comes about."""
    where = Cell(f"{first.file}:{first.line} lane {first.lane}", href=facts.link(first.file))
    got = "X, Z or nothing" if first.got is None else f"{first.got:,}"
    pairs: list[tuple[str, AnyCell]] = [
        ("first mismatch", where),
        ("element", f"{memory} {describe_index(first.index)}"),
    ]
    pairs += [("got", Cell(got, tone="bad")), ("want", Cell(f"{first.want:,}", tone="good"))]
    if first.xor is not None:
        pairs += [("difference", f"{first.difference:+,}"), ("bits that differ", first.xor)]
    at = _explained(facts, first.index)
    if at is None:
        return [Facts(pairs)]
    try:
        said = explain(facts.folder, *at)
    except QexportError as error:
        return [Facts(pairs), Note(str(error), "warn")]
    terms = Details(f"{describe_index(said.at)}, term by term", [terms_table(facts, said, first)], open=True)
    return [Facts(pairs), sums_figure(said), terms]


def _explained(facts: SetFacts, index: Mapping[str, int]) -> tuple[int, ...] | None:
    """The accumulator that an element belongs to: of a psum, one that it is a part of; None where none does."""
    layer = facts.operation.layer
    if set(layer.results) <= set(index):
        return tuple(index[axis] for axis in layer.results)
    if not (isinstance(layer, ConvGeometry) and {"kh", "kw", "py", "px"} <= set(index)):
        return None
    plane = facts.operation.shapes["accumulator"][2:]
    taps = (index["py"], index["kh"]), (index["px"], index["kw"])
    found = [divmod(at - tap * layer.dilation[axis], layer.stride[axis]) for axis, (at, tap) in enumerate(taps)]
    if any(rest or not 0 <= at < size for (at, rest), size in zip(found, plane, strict=True)):
        return None
    return index["n"], index["oc"], found[0][0], found[1][0]


def terms_table(facts: SetFacts, said: Explanation, first: First) -> Table:
    """Each term with its codes, where they stand, and the sum so far; the line of the wrong value says what came."""
    names = list(dict.fromkeys(name for step in said.steps for name, _, _ in step.factors))
    axes = [
        name for name in ("ic", "kh", "kw", "k", "mul") if any(getattr(step, name) is not None for step in said.steps)
    ]
    columns = ["", *axes, *(part for name in names for part in (name, f"{name} at")), "value", "sum", "stored at"]
    rows = [_term(facts, step, axes, names, first) for step in said.steps[:_TERMS]]
    left = len(said.steps) - len(rows)
    caption = f"{said.layer} {describe_index(said.at)}, term by term" + (
        f", without {left} further lines" if left else ""
    )
    return Table(caption, columns, rows)


def _term(facts: SetFacts, step: Step, axes: list[str], names: list[str], first: First) -> list[AnyCell]:
    codes: dict[str, tuple[int, tuple[str, ...]]] = {name: (code, places) for name, code, places in step.factors}
    wrong = f"{first.file}:{first.line}:{first.lane}" in step.at
    kind = Cell(f"{step.kind}, got {'X or Z' if first.got is None else first.got}", tone="bad") if wrong else step.kind
    cells: list[AnyCell] = [kind, *(_or_blank(getattr(step, axis)) for axis in axes)]
    for name in names:
        code, places = codes.get(name, (None, ()))
        cells += [_or_blank(code), _place(facts, places)]
    return [*cells, step.value, step.sum, _place(facts, step.at)]


def _or_blank(value: int | None) -> Cell:
    return Cell("" if value is None else f"{value:,}", number=True)


def _place(facts: SetFacts, places: tuple[str, ...]) -> Cell:
    return Cell(places[0], href=facts.link(places[0].rsplit(":", 2)[0])) if places else Cell("")


def sums_figure(said: Explanation) -> Figure:
    """The sum behind each term."""
    terms = [step for step in said.steps if step.kind in ("term", "bias", "addend")]
    series = [Series("sum of the terms", list(range(len(terms) + 1)), [0, *(step.sum for step in terms)])]
    what = "The sum behind each term, in the order of the array."
    body = curves(series, "term", "sum", WIDE, 240)
    return Figure("sums", f"how {describe_index(said.at)} comes about", what, WIDE, 240, body)


# --- where ----------------------------------------------------------------------------------------------------------


def where_section(axis: str, wrong: list[Result]) -> Section:
    blocks: list[Block] = []
    for one in wrong:
        assert one.found is not None
        found = one.found
        blocks.append(Note(f"{one.memory}: {found.differing:,} of {found.total:,} values are wrong" + _seen(found)))
        if found.shares:
            blocks.append(Pictures([shares_figure(axis, one.memory, found.shares)]))
    return Section(
        "Where",
        "The share of wrong values at each position of each output channel: empty where all are right, full where all "
        "are wrong.",
        blocks,
    )


def _seen(found: Diagnosis) -> str:
    return "".join(f"; {finding}" for finding in found.findings)


def shares_figure(axis: str, memory: str, shares: Mapping[int, NDArray[np.float64]]) -> Figure:
    """A plane for each channel with wrong values, along `axis`."""
    shown = list(shares.items())[:_MAPS]
    small = {channel: shrunk(plane, _SIDE) for channel, plane in shown}
    rows, cols = next(iter(small.values())).shape
    wide = 104.0
    high = min(max(wide * rows / cols, 8.0), 3 * wide)
    a_row = int(WIDE // (wide + 16))
    drawn: list[str] = []
    for at, (channel, plane) in enumerate(small.items()):
        x, y = at % a_row * (wide + 16), at // a_row * (high + 26)
        drawn.append(text(x, y + 12, f"{axis} {channel}, {float(shares[channel].mean()):.0%}", "m num"))
        drawn.append(image(tinted(-plane), x, y + 17, wide, high))
        drawn.append(
            rect(x, y + 17, wide, high, "box", f"channel {channel}: {float(shares[channel].mean()):.1%} are wrong")
        )
    more = f" The first {len(shown)} of {len(shares)} channels." if len(shares) > len(shown) else ""
    table = Table(
        f"Wrong values of {memory} by channel", ["channel", "wrong"],
        [[channel, share(float(plane.mean()))] for channel, plane in shares.items()],
    )  # fmt: skip
    count = -(-len(small) // a_row)
    said = f"{len(shares)} channels with wrong values, {rows}\u00d7{cols} positions each.{more}"
    width: Any = WIDE if len(small) >= a_row else len(small) * (wide + 16)
    return Figure(
        f"where-{memory}",
        f"wrong values of {memory}",
        said,
        max(width, 240),
        count * (high + 26),
        "".join(drawn),
        table,
    )
