"""How often each code occurs: weights, inputs, outputs, and what is between."""

from qexport.report.blocks import Block, Section
from qexport.report.facts import CODES, Counts, SetFacts
from qexport.report.figure import Figure
from qexport.report.svg import HALF, TENSOR_TONES, bars
from qexport.report.tables import AnyCell, Table, share


def codes_section(facts: SetFacts) -> Section:
    names = [*facts.operands, *(["output"] if "output" in facts.scan.counts else [])]
    blocks: list[Block] = [code_figure(facts, name) for name in names]
    return Section(
        "Codes", "How often each code occurs, over all images. A code that never occurs is never tested.", blocks
    )


def code_figure(facts: SetFacts, name: str) -> Figure:
    """A column for each code, or for equal steps of codes."""
    counted = facts.scan.counts[name]
    return Figure(
        f"codes-{name}", f"{name} codes", _said(counted, name), HALF, 220,
        counts_body(counted.shown(), f"code of {name}", TENSOR_TONES[name]), counts_table(counted.shown(), name),
    )  # fmt: skip


def counts_body(counted: Counts, x_name: str, tone: int) -> str:
    total = max(int(counted.counts.sum()), 1)
    titles = [counted.title(at) for at in range(len(counted.counts))]
    shares = [100 * count / total for count in counted.counts.tolist()]
    return bars(shares, counted.labels, x_name, "share, %", tones=[tone] * len(shares), titles=titles)


def counts_table(counted: Counts, name: str) -> Table:
    last = [counted.low + (at + 1) * counted.step - 1 for at in range(len(counted.counts))]
    total = max(int(counted.counts.sum()), 1)
    rows: list[list[AnyCell]] = [
        [int(first), high, int(count), share(count / total)]
        for first, high, count in zip(counted.labels, last, counted.counts.tolist(), strict=True)
    ]
    return Table(f"How often each value of {name} occurs", ["from", "to", "count", "share"], rows)


def _said(counted: Counts, name: str) -> str:
    """What stands out."""
    total, parts = int(counted.counts.sum()), [f"{int(counted.counts.sum()):,} values"]
    if counted.step == 1 and len(counted.counts) <= CODES and total:
        zero = -counted.low
        if 0 <= zero < len(counted.counts):
            parts.append(f"{counted.counts[zero] / total:.1%} are 0")
        ends = (counted.counts[0] if counted.low < 0 else 0) + counted.counts[-1]
        parts.append(f"{ends / total:.1%} at an end of the range")
        never = int((counted.counts == 0).sum())
        parts.append(f"{never} of {len(counted.counts)} codes never occur" if never else "every code occurs")
    return ", ".join(parts) + "."
