"""How the streams of a run go: the modes of the bench, and which runs are made of one build."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qexport.errors import CheckFailed, QexportError

DRAWN = ("random", "bursts")  # modes that a seed changes
MODES = ("smooth", *DRAWN, "blocked", "lazy", "reset")


@dataclass(frozen=True)
class Streams:
    """One run: its mode, and the seed of its draws."""

    mode: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.mode} seed={self.seed}" if self.mode in DRAWN else self.mode

    @property
    def arguments(self) -> list[str]:
        """What the bench is given; one of an older set knows the seed alone, and stalls as it says."""
        return [f"+streams={self.mode}", f"+seed={self.seed}"]


def streams_of_seed(seed: int) -> tuple[Streams, ...]:
    """The one run of a seed: with 0 it is smooth."""
    return (Streams("random", seed) if seed else Streams("smooth"),)


def all_streams(modes: Sequence[str] = MODES, seed: int = 1, seeds: int = 1) -> tuple[Streams, ...]:
    """A run of each mode; of those that draw one for each of so many seeds, from `seed` on."""
    return tuple(
        Streams(mode, seed + more if mode in DRAWN else 0)
        for mode in modes
        for more in range(seeds if mode in DRAWN else 1)
    )


def chosen_streams(modes: Sequence[str] = (), seed: int | None = None, seeds: int = 1) -> tuple[Streams, ...]:
    """The runs that a user asks for: those of the modes, of all without any; a seed alone is one run."""
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise QexportError(f"streams: '{unknown[0]}' is not one of {', '.join(MODES)}; give some of these")
    if seeds < 1:
        raise QexportError(f"seeds: {seeds}; give how many runs of those that stall at random, 1 or more")
    if seed is not None and not modes and seeds == 1:
        return streams_of_seed(seed)
    return all_streams(modes or MODES, 1 if seed is None else seed, seeds)


def handshake(failure: CheckFailed, run: Streams, passed: Sequence[Streams]) -> CheckFailed:
    """The failure of a design that passed other runs before: it lies in its handshakes, or in its reset."""
    first, *lines = str(failure).split("\n")
    stream = _stream("\n".join(lines))
    kind = "reset: fails when it is reset in mid-run" if run.mode == "reset" else "handshake: fails when stalled"
    named = f", stream {stream}" if stream else ""
    told = f"{kind}{named}; streams {run}, after it passed {', '.join(map(str, passed))}"
    return type(failure)("\n".join([f"{first}: {told}", *lines]))


def _stream(said: str) -> str:
    """The stream that FAIL lines point to: of a time-out that which came least far, else the first that is named."""
    if said.startswith("FAIL timeout"):
        shares = re.findall(r"memory=(\w+) (\d+) of (\d+) words were", said)
        return min(shares, key=lambda share: int(share[1]) / int(share[2]), default=("",))[0]
    named = re.search(r"memory=(\w+)|\b[sm]_(\w+?)(?:_t\w+| changed)", said)
    return (named[1] or named[2]) if named else ""
