"""What a simulator is: a job of sources in, an executable out."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qexport.sim.supervisor import TIME_LIMIT

SHOWN_ERRORS = 3  # of a compiler
WAVES = ("vcd", "fst")


@dataclass(frozen=True)
class Job:
    """What a simulator compiles: the last source is the design's; `macros` as NAME or NAME=VALUE; `folders`: where it
    may include from, beside `include`.

    limit: seconds that compiling may take. `program`: C++ that drives the module `top` in place of a bench, which only
    Verilator takes. `command`: who asks, for messages.
    """

    sources: tuple[Path, ...]
    include: Path
    top: str
    macros: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    waves: str | None = None
    limit: float = TIME_LIMIT
    program: Path | None = None
    command: str = "simulate"


class Simulator(Protocol):
    """One simulator: a program that turns sources into an executable `sim`, and the command that runs it."""

    name: str
    macros: tuple[str, ...]  # that it defines itself

    def missing(self) -> str | None:
        """What keeps it from running, with the remedy; None when it can run."""

    def version(self) -> str: ...

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]: ...

    def preprocessed(self, job: Job, build: Path) -> str:
        """What the preprocessor makes of the sources."""

    def command(self, executable: Path, waves: str | None = None) -> list[str]: ...


def too_old(name: str, version: str, oldest: tuple[int, int]) -> str | None:
    """Why a version cannot be used, None when it can or when it says nothing."""
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) >= oldest:
        return None
    return f"{name} {version} is too old; install {oldest[0]}.{oldest[1]:03d} or newer"
