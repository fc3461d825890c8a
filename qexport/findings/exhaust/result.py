"""What came back of the accumulators."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexport.core.printed import Printed, pairs_text
from qexport.errors import CheckFailed, few


@dataclass(frozen=True)
class Difference:
    """The first wrong code: that of the first channel, and there of the least accumulator.

    `step`: where it parts from the set, as far as the codes tell; `why`: what they tell. `trace`: what every step of
    the set gives for this accumulator.
    """

    channel: int
    value: int
    got: int
    want: int
    step: str
    why: str
    trace: Mapping[str, int]

    def __str__(self) -> str:
        return f"channel={self.channel} value={self.value} got={self.got} want={self.want} step={self.step}"


@dataclass(frozen=True, kw_only=True)
class Exhaustion(Printed):
    """What became of the accumulators that were sent through a module.

    `within`: accumulators within the bounds, or values of the step `after`; `compared` were sent: `every` one, or
    `edges` of them that stand at an edge of a step (`every_edge`: at each), and random ones. `steps` were compared,
    those `not_compared` begin with a pool. `latency`: cycles from a value to its code, least and greatest; None: the
    module has no clock. `unread`: outputs of the module that nothing looked at. `wrong`: how many codes of each channel
    are. `failure`: why it is no PASS.
    """

    set: str
    layer: str
    dut: tuple[Path, ...]
    top: str
    ports: Mapping[str, str]
    unread: tuple[str, ...]
    version: str
    after: str | None
    channels: int
    steps: tuple[str, ...]
    not_compared: tuple[str, ...]
    within: int
    compared: int
    every: bool
    edges: int
    every_edge: bool
    seed: int
    latency: tuple[int, int] | None
    seconds: float
    wrong: Mapping[int, int]
    first: Difference | None = None
    failure: CheckFailed | None = None

    @property
    def passed(self) -> bool:
        return self.failure is None

    def check(self) -> "Exhaustion":
        """The result itself where it is a PASS; raises its failure, a CheckFailed, where it is not."""
        if self.failure is not None:
            raise self.failure
        return self

    def __str__(self) -> str:
        return pairs_text(self.rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What it says, as pairs of key and text."""
        of = ("set", f"{self.set}, layer {self.layer}")
        if self.failure is not None:
            said = [("" if at else "failure", line) for at, line in enumerate(str(self.failure).splitlines())]
            return [of, ("exhaust", f"FAIL, by verilator {self.version}"), *said]
        rows = [
            of,
            ("module", f"{self.top}: {', '.join(f'{role} {port}' for role, port in self.ports.items())}"),
            ("steps", ", ".join(self.steps)),
        ]
        if self.not_compared:
            rows.append(("not compared", f"{', '.join(self.not_compared)}: from a pool on, which takes a plane"))
        if self.unread:
            rows.append(("not looked at", f"{few(self.unread)}: outputs without a role"))
        rows.append(("exhaust", f"PASS, {self.how_many}, by verilator {self.version}"))
        if self.latency is not None:
            least, most = self.latency
            cycles = f"{least}" if least == most else f"{least} to {most}"
            rows.append(("latency", f"{cycles} cycle{'s' * (most != 1)}"))
        return rows

    @property
    def how_many(self) -> str:
        """How many accumulators were compared, of which, in words."""
        values = "accumulators" if self.after is None else f"values of {self.after}"
        channels = f"{self.channels} channel{'s' * (self.channels > 1)}"
        if self.every:
            return f"every one of the {self.within:,} {values} within the bounds of {channels}"
        where = "at every edge of every step" if self.every_edge else "at edges of the steps, not at all of them"
        return (
            f"{self.compared:,} of the {self.within:,} {values} within the bounds of {channels}: {self.edges:,} "
            f"{where}, {self.compared - self.edges:,} at random (seed {self.seed})"
        )

    def as_json(self) -> dict[str, Any]:
        """For machines: what the command prints with --json."""
        names = ("top", "ports", "unread", "version", "after", "channels", "steps", "not_compared", "within",
                 "compared", "every", "edges", "every_edge", "seed", "latency", "seconds", "wrong")  # fmt: skip
        found: dict[str, Any] = {"set": self.set, "layer": self.layer, "result": "PASS" if self.passed else "FAIL"}
        found |= {name: getattr(self, name) for name in names}
        if self.first is not None:
            found["first"] = {name: getattr(self.first, name) for name in self.first.__dataclass_fields__}
        return found | ({} if self.failure is None else {"why": str(self.failure)})
