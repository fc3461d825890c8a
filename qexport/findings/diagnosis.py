"""What is said of results that differ: where, and which mistake explains them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexport.core.printed import Printed, pairs_text
from qexport.core.strength import percent
from qexport.layout.tiling import describe_index


@dataclass(frozen=True)
class First:
    """The first value that differs, in the order in which the array produces them; `got` is None where it is X or Z.

    `xor` are the bits that differ, as many as an element has.
    """

    file: str
    line: int
    lane: int
    index: Mapping[str, int]
    got: int | None
    want: int
    difference: int | None
    xor: str | None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line} lane {self.lane} ({describe_index(self.index)})"
        if self.got is None:
            return f"{place}: got X or Z, or nothing, want {self.want}"
        return f"{place}: got {self.got}, want {self.want}, difference {self.difference:+d}, XOR {self.xor}"


@dataclass(frozen=True)
class Separation:
    """A vector that tells two hypotheses apart: with these codes the compared memory would hold other values."""

    names: tuple[str, str]
    vector: str
    index: Mapping[str, int]
    values: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"{self.vector} gives at {describe_index(self.index)} {self.values[0]} with {self.names[0]}, "
            f"{self.values[1]} with {self.names[1]}"
        )


@dataclass(frozen=True)
class Cause:
    """A hypothesis. `share`: of the values that differ, those that it gives, less the right ones that it spoils.

    `alike`: hypotheses that no vector of this set tells from this one.
    """

    name: str
    detail: str
    share: float
    remedy: str
    alike: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


@dataclass(frozen=True)
class Diagnosis(Printed):
    """What differs and why.

    `causes`: the best first, behind it the others of its class; none when nothing differs; when not `explained` the
    closest ones. `shares`: output channel -> (y, x) the share of wrong values. `solved`: what was worked out from the
    values. `confirmed`: values of fresh stimulus of which the cause predicted what the design gave; None: not tried,
    0: it did not. `seen`: the run itself shows the cause. `separations`: vectors that tell the class of the first cause
    apart; `inseparable`: its members for which none was found.
    """

    differing: int
    total: int
    first: First | None
    findings: tuple[str, ...]
    shares: Mapping[int, NDArray[np.float64]]
    causes: tuple[Cause, ...]
    explained: bool
    separations: tuple[Separation, ...] = ()
    inseparable: tuple[str, ...] = ()
    solved: tuple[str, ...] = ()
    confirmed: int | None = None
    seen: bool = False

    def of(self, causes: Sequence[Cause]) -> "Diagnosis":
        """With these causes alone; the others are alike the first."""
        alike = tuple(cause.name for cause in causes[1:])
        names = {causes[0].name, *alike}
        return replace(
            self, causes=(replace(causes[0], alike=alike), *causes[1:]),
            separations=tuple(one for one in self.separations if set(one.names) <= names),
            inseparable=tuple(name for name in self.inseparable if name in alike),
        )  # fmt: skip

    @property
    def certainty(self) -> str:
        """How sure the first cause is: certain only where it predicted what the design gives on fresh stimulus."""
        if not self.explained:
            return "unexplained"
        if not self.causes:
            return ""
        return "certain" if self.confirmed or self.seen else "likely"

    @property
    def summary(self) -> str:
        """One line: how much differs, and the cause."""
        if not self.causes and self.explained:
            return "; ".join(self.findings) or "nothing differs"
        why = f"{self.causes[0]}" if self.explained else "unexplained"
        return f"{self.differing} of {self.total} values differ: {why}"

    def share_text(self, cause: Cause) -> str:
        """How much a cause explains."""
        if cause.share == 1 and not self.explained:
            return "gives all, but so few values do not tell it"
        if cause.share == 1:
            return f"explains all {self.differing}" if self.differing else "explains it"
        return f"explains {math.floor(1000 * cause.share) / 10:.1f} %"

    def __str__(self) -> str:
        return pairs_text(self.rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """How much differs, the first value that does, and the causes with their remedies."""
        return self.differences + self.reasons

    @property
    def differences(self) -> list[tuple[str, str]]:
        """How much differs, the first value that does, and what else was seen."""
        rows = [("differ", f"{self.differing} of {self.total} values ({percent(self.differing, self.total)})")]
        if self.first is not None:
            rows.append(("first", str(self.first)))
        return rows + [("note", finding) for finding in self.findings]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """The causes, what to do about them, and what would tell them apart; none where nothing differs."""
        if not self.causes and self.explained:
            return []
        rows = []
        if not self.explained:
            near = "unexplained; the closest hypotheses are" if self.causes else "unexplained"
            rows.append(("cause", near))
        for cause in self.causes[:1] if self.explained else self.causes:
            rows.append(("cause" if self.explained else "", f"{cause}, {self.share_text(cause)}"))
            rows.append(("remedy" if self.explained else "", cause.remedy))
        if self.explained:
            rows.append(("certainty", _CERTAINTY[self.certainty, self.confirmed is None].format(self.confirmed)))
        if self.explained and len(self.causes) > 1:
            others = ", ".join(map(str, self.causes[1:]))
            rows.append(("alike", f"no vector of this set tells it from {others}"))
        rows += [("solved", text) for text in self.solved]
        rows += [("separate", str(separation)) for separation in self.separations]
        if self.inseparable:
            rows.append(("", f"no vector was found that tells it from {', '.join(self.inseparable)}"))
        return rows

    @property
    def map(self) -> list[str]:
        """Lines with a small picture of each channel: a mark for the share of wrong values at each position."""
        return _map(self.shares)

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        shares = {str(channel): shares.tolist() for channel, shares in self.shares.items()}
        return plain | {"summary": self.summary, "certainty": self.certainty, "shares": shares}


_CERTAINTY = {  # by certainty and whether no fresh stimulus was tried
    ("likely", True): "likely; with --dut it is tried on fresh stimulus",
    ("likely", False): "likely only: it does not predict what the design gives on fresh stimulus",
    ("certain", True): "certain: the run shows it",
    ("certain", False): "certain: it predicts the {} values that the design gives on fresh stimulus",
}


_MARKS = ".:+*#"  # no value is wrong, up to a third, up to two thirds, nearly all, all
_SHOWN_CHANNELS, _MAP_SIDE, _MAP_WIDTH = 16, 32, 100


def _map(shares: Mapping[int, NDArray[np.float64]]) -> list[str]:
    if not shares:
        return []
    pictures = []
    for channel, share in list(shares.items())[:_SHOWN_CHANNELS]:
        step = math.ceil(max(share.shape) / _MAP_SIDE)  # cells of a large plane stand for several positions
        cells = np.array([[share[y : y + step, x : x + step].mean() for x in range(0, share.shape[1], step)]
                          for y in range(0, share.shape[0], step)])  # fmt: skip
        lines = ["".join(_MARKS[0 if c == 0 else 4 if c == 1 else 1 + int(3 * c)] for c in row) for row in cells]
        pictures.append([f"oc={channel}", *lines])
    wide = max(len(line) for picture in pictures for line in picture) + 2
    a_row = max(1, _MAP_WIDTH // wide)
    text = []
    for start in range(0, len(pictures), a_row):
        for line in zip(*pictures[start : start + a_row], strict=True):
            text.append("".join(part.ljust(wide) for part in line).rstrip())
    if len(shares) > _SHOWN_CHANNELS:
        text.append(f"and {len(shares) - _SHOWN_CHANNELS} more channels with wrong values")
    return [*text, "y downwards, x to the right; . right, : + * some wrong, # all wrong"]
