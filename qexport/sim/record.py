"""The record of a verdict, `qexport.verdict/1`: what was judged, by what, and what was not. Canonical JSON.

Facts of the environment stand here, never in a manifest. Each leaf has a seal, so that the change of a single one is
named; what follows from set and design `audit` computes anew.
"""

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from qexport import __version__
from qexport.bench.beside import Beside
from qexport.bench.design import Design
from qexport.build.blind_spots import spots_of
from qexport.core.coverage import Coverage
from qexport.errors import CheckFailed, QexportError
from qexport.layout.paths import SUMS
from qexport.sets.folder import file_sha256, sha256
from qexport.sets.manifest import Entry, Manifest, NamedFile, Tool, json_bytes
from qexport.sim.verdict import Verdict

SCHEMA = "qexport.verdict/1"
LIBRARIES = ("jinja2", "msgspec", "numpy", "pyslang", "safetensors")  # that have a part in a verdict


class Environment(Entry, frozen=True, kw_only=True):
    python: str
    platform: str
    libraries: dict[str, str]


class SetRecord(Entry, frozen=True, kw_only=True):
    """`sums_sha256`: of SHA256SUMS, which covers every other file."""

    layer: str
    schema: str
    sums_sha256: str


class DesignRecord(Entry, frozen=True, kw_only=True):
    """The files that were read, those that they include last, and all that was said of them."""

    top: str
    files: tuple[NamedFile, ...]
    includes: tuple[str, ...]
    defines: tuple[str, ...]
    params: dict[str, str]
    ties: dict[str, str]
    clock: str
    reset: str
    reset_low: bool
    allow: tuple[str, ...]

    @classmethod
    def of(cls, design: Design, sources: Mapping[str, str]) -> "DesignRecord":
        return cls(
            top=design.top,
            files=tuple(NamedFile(path=path, sha256=digest) for path, digest in sources.items()),
            includes=tuple(map(str, design.includes)),
            defines=design.defines,
            params=dict(design.params),
            ties=dict(design.ties),
            clock=design.clock,
            reset=design.reset,
            reset_low=design.reset_low,
            allow=tuple(sorted(design.allow)),
        )


class RunRecord(Entry, frozen=True, kw_only=True):
    """How it ran. `streams`: the modes in which streams stalled; `isolated`: whether the words were compared out of the
    design's reach."""

    seed: int
    streams: tuple[str, ...]
    isolated: bool
    cycles: int
    macs: int


class Record(Entry, frozen=True, kw_only=True):
    """What `simulate --verdict` writes. `words`: SHA-256 of the words that came back, of each memory, as the bench
    records them. `coverage`: what the set's vectors exercise; None where the set is not as it was dumped. `seals`: of
    each leaf, by its place."""

    schema: str
    result: str
    failure: tuple[str, ...]
    tool: Tool
    environment: Environment
    simulator: Tool
    set: SetRecord
    design: DesignRecord
    beside: tuple[Beside, ...]
    run: RunRecord
    compared: dict[str, int]
    not_compared: dict[str, int]
    words: dict[str, str]
    coverage: Coverage | None
    blind_spots: tuple[str, ...]
    requirements: tuple[str, ...]
    seals: dict[str, str] = msgspec.field(default_factory=dict)

    def sealed(self) -> "Record":
        document = json.loads(msgspec.json.encode(self))
        del document["seals"]
        return msgspec.structs.replace(self, seals=seals(document))

    def to_bytes(self) -> bytes:
        """Canonical JSON, sealed."""
        return json_bytes(self.sealed())


def record_of(verdict: Verdict, requirements: Sequence[str] = ()) -> Record:
    """The record of a verdict; `requirements`: the ids of what it shows."""
    said = () if verdict.failure is None else tuple(str(verdict.failure).splitlines())
    coverage: Coverage | None = None
    spots: tuple[str, ...] = ()
    with suppress(CheckFailed):  # of a set that was changed
        coverage, spots = verdict.coverage, spots_of(verdict.set, verdict.manifest)
    return Record(
        schema=SCHEMA,
        result="PASS" if verdict.passed else "FAIL",
        failure=said,
        tool=Tool(name="qexport", version=__version__),
        environment=_environment(),
        simulator=Tool(name=verdict.simulator, version=verdict.version),
        set=set_record(verdict.set, verdict.manifest),
        design=DesignRecord.of(verdict.design, verdict.sources),
        beside=verdict.beside,
        run=RunRecord(
            seed=verdict.seed, streams=tuple(map(str, verdict.streams)), isolated=verdict.isolated,
            cycles=verdict.cycles, macs=verdict.macs,
        ),
        compared=verdict.compared,
        not_compared=verdict.not_compared,
        words=verdict.words,
        coverage=coverage,
        blind_spots=spots,
        requirements=tuple(requirements),
    )  # fmt: skip


def check_target(path: Path, folder: Path) -> None:
    """Raises QexportError where a record must not be written: into the set, or over something else."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise QexportError(f"verdict: {path} lies in the set {folder}; give a file outside it")
    if path.is_dir() or (path.exists() and b'"qexport.verdict/' not in path.read_bytes()):
        raise QexportError(f"verdict: {path} exists and is not a record of a verdict; give another file")


def set_record(folder: Path, manifest: Manifest) -> SetRecord:
    sums = folder / SUMS
    return SetRecord(
        layer=manifest.layer.name, schema=manifest.schema, sums_sha256=file_sha256(sums) if sums.is_file() else "",
    )  # fmt: skip


@cache
def _environment() -> Environment:
    libraries = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    return Environment(
        python=platform.python_version(), platform=f"{sys.platform} {platform.machine()}", libraries=libraries
    )


def leaves(document: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON document holds, each with its place, as /design/files/0/path."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        at = f"{place}/{key}"
        if isinstance(value, dict | list) and value:
            yield from leaves(value, at)
        else:
            yield at, value


def seals(document: Mapping[str, Any]) -> dict[str, str]:
    """A digest of each leaf with its place."""
    return {place: _seal(place, value) for place, value in leaves(document)}


def _seal(place: str, value: Any) -> str:
    text = f"{place}\n{json.dumps(value, sort_keys=True)}"
    return sha256(text.encode(errors="surrogatepass"))[:12]  # a forger's names may hold half a character
