"""Accumulators: what was seen, what can be, and what the hardware holds."""

from dataclasses import dataclass

from qexport.report.blocks import Block, Section
from qexport.report.codes import counts_body, counts_table
from qexport.report.facts import SetFacts, needed
from qexport.report.figure import Figure
from qexport.report.svg import HALF, WIDE, Span, rect, spans, text
from qexport.report.tables import Table


def accumulators_section(facts: SetFacts) -> Section:
    blocks: list[Block] = [histogram_figure(facts), bits_figure(facts), channels_figure(facts)]
    return Section(
        "Accumulators",
        "Bounds are exact: the least and greatest sum that these weights can give for any input. What the images reach "
        "lies inside; what the memories hold must lie outside.",
        blocks,
    )


def histogram_figure(facts: SetFacts) -> Figure:
    counted = facts.scan.counts["accumulator"]
    sums = facts.manifest.formats.accumulator
    said = (
        f"{sums.observed[0]:,} to {sums.observed[1]:,} seen, {sums.bounds[0]:,} to {sums.bounds[1]:,} proven: the "
        f"images reach {_share(sums.observed, sums.bounds)} of the range."
    )
    body = counts_body(counted.shown(), "accumulator", 2)
    return Figure("accumulators", "accumulators", said, HALF, 220, body, counts_table(counted.shown(), "accumulator"))


def _share(seen: tuple[int, int], bounds: tuple[int, int]) -> str:
    return f"{(seen[1] - seen[0]) / max(bounds[1] - bounds[0], 1):.0%}"


@dataclass(frozen=True)
class _Bits:
    """Widths of one tensor: of what was seen, of what can be, of the memory's element (None: none stores it)."""

    name: str
    seen: int | None
    proven: int
    held: int | None


def _widths(facts: SetFacts) -> list[_Bits]:
    held: dict[str, int] = {}
    signed: dict[str, bool] = {}
    for entry in facts.manifest.memories:
        if not entry.memory().order.has_bits:
            held[entry.tensor] = min(entry.bits, held.get(entry.tensor, entry.bits))
            signed[entry.tensor] = entry.signed
    rows, chain = [], facts.operation.chain
    last = chain.names[-1:] if chain is not None else ()  # the same as the output
    for name in facts.operation.result_names:
        bounds = facts.operation.tensor(name).range
        if bounds is None:
            continue
        two = signed.get(name, bounds[0] < 0)
        seen = facts.scan.seen.get("output" if name in last else name)
        shown = None if seen is None else needed((min(seen.low), max(seen.high)), two)
        rows.append(_Bits(name, shown, needed(bounds, two), held.get(name)))
    return rows


def bits_figure(facts: SetFacts) -> Figure:
    """A row of bits for each tensor: full what the images use, light what is proven enough, empty what is spare."""
    rows = _widths(facts)
    most = max(max(row.proven, row.held or 0) for row in rows)
    left, high = 108.0, 24.0
    side = min(20.0, (HALF - left - 60) / most)
    drawn = [text(left, 12, "bit 0 to the left", "m"), text(left + most * side + 8, 12, "memory", "m")]
    for at, row in enumerate(rows):
        y = 22 + at * high
        drawn.append(text(left - 10, y + 15, row.name[:15], "", "end"))
        for bit in range(max(row.proven, row.held or 0)):
            kind = "f0" if bit < (row.seen or 0) else "f0 soft" if bit < row.proven else "cell"
            if row.held is not None and bit >= row.held:
                kind = "f1"
            drawn.append(rect(left + bit * side, y + 3, side - 1.5, high - 8, kind, _bit_title(row, bit), 2))
        held = "-" if row.held is None else str(row.held)
        short = row.held is not None and row.held < row.proven
        x = left + most * side + 8
        drawn.append(text(x, y + 15, held, "tbad b num" if short else "m num"))
    tight = [row.name for row in rows if row.held is not None and row.held < row.proven]
    said = "Full: the images use it. Light: proven to be enough. Grey: spare. "
    said += f"Orange: {', '.join(tight)} needs more than its memory has." if tight else "No memory is too narrow."
    table = Table(
        "Bits of each tensor", ["tensor", "seen", "proven", "memory"],
        [[row.name, row.seen, row.proven, row.held] for row in rows],
    )  # fmt: skip
    return Figure("bits", "bits that are needed", said, HALF, 30 + len(rows) * high, "".join(drawn), table)


def _bit_title(row: _Bits, bit: int) -> str:
    if row.held is not None and bit >= row.held:
        return f"{row.name} bit {bit}: needed, but the memory has {row.held}"
    what = "used by the images" if bit < (row.seen or 0) else "may be needed" if bit < row.proven else "spare"
    return f"{row.name} bit {bit}: {what}"


def channels_figure(facts: SetFacts) -> Figure:
    """What each output channel reached, inside of its own bounds."""
    seen = facts.scan.seen["accumulator"]
    low, high = facts.operation.channel_bounds
    rows = [
        Span(f"{facts.channel} {at}", (one, other), (int(least), int(most)))
        for at, (one, other, least, most) in enumerate(zip(seen.low, seen.high, low, high, strict=True))
    ]
    body, height = spans(rows)
    table = Table(
        "Accumulators by channel", ["channel", "seen from", "seen to", "proven from", "proven to", "bits"],
        [[at, *row.seen, *row.bounds, needed(row.bounds)] for at, row in enumerate(rows)],
    )  # fmt: skip
    widest = max(range(len(rows)), key=lambda at: needed(rows[at].bounds))
    said = f"Thick: seen. Thin: proven for any input. Channel {widest} needs most, {needed(rows[widest].bounds)} bits."
    return Figure("channels", "accumulators by channel", said, WIDE, height, body, table)
