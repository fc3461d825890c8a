"""What the images of a set can notice, as a map of the weights."""

import numpy as np

from qexport.build.blind_spots import Stored, blind_spots
from qexport.core.strength import COUNTED, FlipCounts, Strength, compared, percent, strength_text
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import describe_index
from qexport.report.blocks import Block, Facts, Note, Section
from qexport.report.facts import SetFacts
from qexport.report.figure import Figure
from qexport.report.svg import HALF, TENSOR_TONES, WIDE, image, rect, shrunk, text, tinted
from qexport.report.tables import Cell, Table

_CELLS = 1024  # weights that are drawn one by one
_MOST = 700  # rows and columns of the map of more
_LISTED = 500  # weights without an error that shows


def strength_section(facts: SetFacts) -> Section | None:
    """None where the operation does not count errors."""
    if facts.strength is None:
        return None
    blocks: list[Block] = [shares_figure(facts)]
    if isinstance(facts.strength, Strength):
        blocks += [weights_figure(facts), Facts(_dead(facts.strength))]
    manifest = facts.manifest
    stored = [Stored(m.name, m.tensor, m.tiling(manifest.array)) for m in manifest.memories]
    spots = blind_spots(facts.capture, stored, manifest.array.get(TILE_AXIS))
    blocks += [Note(f"Blind spot: {spot}.", "warn") for spot in spots]
    said = strength_text(manifest.strength, manifest.memories)
    return Section(
        "Strength", f"Which single-bit errors of stored codes a result would show, counted one by one: {said}.", blocks
    )


def _dead(strength: Strength) -> list[tuple[str, str]]:
    sides = (
        ("input channels always 0", strength.dead_inputs),
        ("output channels never above 0", strength.dead_outputs),
    )
    return [(name, ", ".join(map(str, channels)) or "none") for name, channels in sides]


def _flips(facts: SetFacts) -> dict[str, FlipCounts]:
    assert facts.strength is not None
    info = facts.strength.info
    return {name: found for name in ("weight", "input", "input2") if (found := getattr(info, name)) is not None}


def shares_figure(facts: SetFacts) -> Figure:
    """A bar for each operand and stage: the share of errors that show there."""
    drawn, rows, y = [], [], 10.0
    left, wide = 160.0, HALF - 240.0
    for name, flips in _flips(facts).items():
        for stage in COUNTED:
            count = getattr(flips, stage)
            if count is None:
                continue
            said, share = percent(count, flips.flips), count / max(flips.flips, 1)
            title = f"{name} errors: {count:,} of {flips.flips:,} show in {stage}"
            drawn.append(text(left - 10, y + 14, f"{name} in {stage}", "", "end") + rect(left, y + 3, wide, 14, "cell"))
            drawn.append(rect(left, y + 3, max(wide * share, 1), 14, f"f{TENSOR_TONES[name]}", title, 2))
            drawn.append(text(HALF - 72, y + 14, said, "num"))
            rows.append([name, stage, flips.flips, count, Cell(said, number=True)])
            y += 24
        y += 8
    table = Table("Single-bit errors that show", ["code", "in", "errors", "show", "share"], rows)
    text_ = "The share of all single-bit errors that change at least one value of the tensor."
    return Figure("strength", "errors that show", text_, HALF, y, "".join(drawn), table)


def weights_figure(facts: SetFacts) -> Figure:
    """Each weight: how many of its bits would show if they were wrong."""
    strength, manifest = facts.strength, facts.manifest
    assert isinstance(strength, Strength)
    stage = list(compared(manifest.memories) or COUNTED)[-1]
    shown, bits = strength.shown(stage), strength.flips.bits
    rows = shown.reshape(len(shown), -1)
    none = int((rows == 0).sum())
    wide = WIDE - 64.0
    high = max(min(len(rows) * 20.0, 560.0), min(len(rows) * 1.0, 900.0))
    cell = wide / rows.shape[1], high / len(rows)
    drawn = [text(64, 12, "input channel, tap row, tap column, the last the fastest", "m")]
    if rows.size <= _CELLS:
        drawn += [_weight(facts, shown, at, bits, cell) for at in np.ndindex(*shown.shape)]
    else:
        none_of, some = shrunk((rows == 0) * 1.0, _MOST), shrunk(rows / bits, _MOST)
        drawn.append(image(tinted(np.where(none_of > 0.5, -none_of, some)), 64, 20, wide, high))
        drawn.append(rect(64, 20, wide, high, "box"))
    every = max(1, int(np.ceil(16 / cell[1])))
    drawn += [text(56, 24 + (at + 0.5) * cell[1], f"oc {at}", "m num", "end") for at in range(0, len(rows), every)]
    said = f"The stronger the blue, the more of its {bits} bits would show in {stage} if they were wrong. "
    said += (
        f"{none:,} of {rows.size:,} weights show with no bit: orange."
        if none
        else "Every weight shows with at least one bit."
    )
    table = None
    if none:
        places = strength.unexercised(stage)[:_LISTED].tolist()
        table = Table(f"Weights of which no error shows in {stage}", ["oc", "ic", "kh", "kw"], places)
    return Figure("weights", "weights that the images exercise", said, WIDE, 26 + high, "".join(drawn), table)


def _weight(facts: SetFacts, shown: np.ndarray, at: tuple[int, ...], bits: int, cell: tuple[float, float]) -> str:
    """One weight's cell."""
    number = int(np.ravel_multi_index(at[1:], shown.shape[1:]))
    code, count = int(facts.capture.weight[at]), int(shown[at])
    where = describe_index(dict(zip(("oc", "ic", "kh", "kw"), at, strict=True)))
    title = f"weight {where}, code {code}: {count} of {bits} bits show"
    box = (64 + number * cell[0], 20 + at[0] * cell[1], cell[0] - 1, cell[1] - 1)
    if count in (0, bits):
        return rect(*box, "f0" if count else "f1", title)
    return rect(*box, "cell") + rect(*box, f"f0 o{round(4 * count / bits)}", title)
