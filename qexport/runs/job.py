"""A job: one check of one set, and the address that names it by all that its verdict depends on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qexport import __version__
from qexport.bench.beside import TABLE, Around, beside
from qexport.bench.design import VHDL, Design
from qexport.errors import QexportError
from qexport.sets.folder import file_sha256, set_entries, sha256, sums_text
from qexport.sets.manifest import json_bytes
from qexport.sim.registry import choose
from qexport.sim.streams import Streams
from qexport.sim.supervisor import MEMORY_LIMIT, TIME_LIMIT

LABELS = ("set", "design", "check", "simulator", "streams")
OWN = "own"  # the name of the set's own design
_NOWHERE = Path("/nonexistent/set")  # a design is read here without a set


class Unable(QexportError):
    """A worker cannot do any job: its tools are others, or its store takes no file."""


class Lost(QexportError):
    """A job has no verdict, for no reason that lies in it; another try may have one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One check of one set.

    `design`: where a check takes one, else empty; `sources`: SHA-256 of its files, of what they include and of the
    tables that they load, by path; `simulator`: empty where the check needs none; `memory`: bytes of each process that
    it starts; `tools`: versions by name; `diagnose`: whether a failure is explained.
    """

    check: str
    set: Path
    set_sha256: str
    design_name: str = ""
    design: Design = field(default_factory=Design)
    sources: Mapping[str, str] = field(default_factory=dict)
    simulator: str = ""
    streams: Streams | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float = TIME_LIMIT
    memory: int = MEMORY_LIMIT
    tools: Mapping[str, str] = field(default_factory=dict)
    diagnose: bool = True

    @property
    def labels(self) -> dict[str, str]:
        """What the job is called, whatever the files hold today."""
        streams = f"seed={self.seed}" * bool(self.seed) if self.streams is None else str(self.streams)
        values = (self.set.name, self.design_name, self.check, self.simulator, streams)
        return dict(zip(LABELS, values, strict=True))

    @property
    def name(self) -> str:
        return name_of(self.labels)

    @property
    def content(self) -> dict[str, Any]:
        """All that the verdict depends on. Paths are left out: where a file lies changes nothing."""
        design = self.design
        return {
            "check": self.check,
            "set": self.set_sha256,
            "design": {
                "sources": list(self.sources.values()),
                "top": design.top,
                "defines": list(design.defines),
                "params": dict(design.params),
                "ties": dict(design.ties),
                "ports": [design.clock, design.reset, design.reset_low],
                "allow": sorted(design.allow),
            },
            "streams": None if self.streams is None else self.streams.arguments,
            "seed": self.seed,
            "options": dict(self.options),
            "limits": [self.time_limit, self.memory],
            "tools": dict(self.tools),
        }

    @cached_property
    def address(self) -> str:
        return address_of(self.content)

    def check_content(self) -> None:
        """Raises QexportError where set or design are not what the job was made of."""
        if set_sha256(self.set) != self.set_sha256:
            raise QexportError(f"job: {self.set} changed since the plan was read; run regress again")
        for path, digest in self.sources.items():
            if not Path(path).is_file() or file_sha256(Path(path)) != digest:
                raise QexportError(f"job: {path} changed since the plan was read; run regress again")


def name_of(labels: Mapping[str, str]) -> str:
    return " ".join(filter(None, (labels.get(name, "") for name in LABELS)))


def address_of(content: Mapping[str, Any]) -> str:
    return sha256(json_bytes(content))


def set_sha256(folder: Path) -> str:
    """Of all that lies in a set's folder, whatever its own sums say."""
    entries = set_entries(folder).items()
    sums = sums_text({name: file_sha256(path) if path.is_file() else "" for name, path in entries})
    return sha256(sums.encode(errors="surrogateescape"))  # names may be of any bytes


def tools_of(simulator: str) -> dict[str, str]:
    """The versions that a verdict depends on: of qexport, and of the simulator where one is named."""
    return {"qexport": __version__, **({simulator: choose(simulator).version()} if simulator else {})}


def sources_of(design: Design, macros: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of a design's files, of what they include with a simulator's macros, and of the tables that they load."""
    design.check_files()
    if any(path.suffix in VHDL for path in design.files):  # which includes nothing
        return {str(path): file_sha256(path) for path in design.files}
    found, read = beside(design, None, (), Around(_NOWHERE, {design.top}, macros))
    tables = {match[1]: one.sha256 for one in found if one.kind == TABLE and (match := re.search("'(.*)'$", one.what))}
    return read | {path: digest for path, digest in tables.items() if digest}
