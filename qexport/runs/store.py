"""The store of results: a folder, also on a network file system, in which a file is written once and never changed.

A result lies in results/AA/ADDRESS.OUTCOME.json. Equal results of a job, from whatever host, have one name; a second
name is another result of the same content. So there is nothing to lock and nothing to count twice, and no clock and no
fresh listing is needed: who does not see a result yet makes it again, under the same name.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from qexport.core.atomic import write_atomically
from qexport.core.budget import LOG_BYTES, read_bytes
from qexport.errors import QexportError
from qexport.runs.job import LABELS, Unable, address_of
from qexport.sets.folder import claims_to_be_set, sha256
from qexport.sets.manifest import Entry, json_bytes
from qexport.sim.record import Record

MARK, RESULTS, LABELLED = "qexport-store.json", "results", "labels"
SCHEMA = "qexport.result/1"
_STORE = {"schema": "qexport.store/1"}
_FILE = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.json")
_LABELS = f"{'[0-9]' * 6}.{'[0-9a-f]' * 16}.json"
_TRIES = 100
Jobs = dict[str, tuple[str, str]]  # name of a job -> its address and verdict


class Result(Entry, frozen=True, kw_only=True):
    """What became of a job. `content`: what its address is made of; `outcome`: what must be the same in every run;
    `seconds`: of the work; `host`: that did it; `record`: the verdict record of `simulate`; `found`: what other checks
    tell; `seal`: SHA-256 of all the rest, which shows damage."""

    schema: str = SCHEMA
    labels: dict[str, str]
    content: dict[str, Any]
    outcome: dict[str, Any]
    result: Literal["PASS", "FAIL"]
    failure: tuple[str, ...]
    seconds: float
    host: str
    record: Record | None = None
    found: dict[str, Any] = msgspec.field(default_factory=dict)
    log: str = ""
    diagnosis: str = ""
    seal: str = ""

    def sealed(self) -> "Result":
        rest = msgspec.structs.replace(self, seal="")
        return msgspec.structs.replace(self, seal=sha256(rest.to_bytes()))

    def to_bytes(self) -> bytes:
        """In one line: indented, a result of `simulate` takes the encoder longer than all that the store does else."""
        return json.dumps(msgspec.to_builtins(self), sort_keys=True).encode() + b"\n"

    @property
    def address(self) -> str:
        return address_of(self.content)

    @property
    def file(self) -> str:
        return f"{self.address}.{sha256(json_bytes(self.outcome))[:16]}.json"


class Label(Entry, frozen=True, kw_only=True):
    """What the jobs of a plan, or of a shard of it, said at one state of the design."""

    label: str
    jobs: Jobs


class Store:
    """A store in a folder, which is made where `create`."""

    def __init__(self, root: Path, create: bool = False) -> None:
        self.root = root.resolve()
        mark = self.root / MARK
        if mark.is_file() or (self.root / RESULTS).is_dir():
            _check_mark(mark)
            return
        if not create:
            raise QexportError(f"store: {root} is not a store; name the folder that qexport regress --store was given")
        if self.root.exists() and (not self.root.is_dir() or self._of_others()):
            raise QexportError(f"store: {root} exists and is not a store; name a new folder")
        if inside := [folder for folder in self.root.parents if claims_to_be_set(folder)]:
            raise QexportError(f"store: {root} lies in the set {inside[0]}; name a folder outside it")
        self.root.mkdir(parents=True, exist_ok=True)
        _write(mark, json_bytes(_STORE))

    def _of_others(self) -> bool:
        """Whether the folder holds what is not of a store that another driver makes just now."""
        names = [path.name for path in self.root.iterdir()]
        return MARK not in names and not all(name.startswith(f".{MARK}.") for name in names)

    def files(self) -> Iterator[str]:
        """The names of all results."""
        with suppress(FileNotFoundError):
            for folder in filter(os.DirEntry.is_dir, os.scandir(self.root / RESULTS)):
                yield from (entry.name for entry in os.scandir(folder) if _FILE.fullmatch(entry.name))

    def path(self, file: str) -> Path:
        return self.root / RESULTS / file[:2] / file

    def read(self, file: str) -> Result:
        """Raises QexportError where a file is not what its name says."""
        path = self.path(file)
        try:
            found = msgspec.convert(json.loads(read_bytes(path, LOG_BYTES, "store")), Result)
            of_file = found.file == file and found.outcome.get("result") == found.result
            if of_file and found.schema == SCHEMA and found.labels.keys() == {*LABELS} and found == found.sealed():
                return found
        except (ValueError, RecursionError):  # msgspec's among them
            pass
        raise QexportError(f"store: {path} is damaged; take it away, and the job runs again")

    def put(self, result: Result) -> str:
        """Keep a result; returns its name. Of equal ones the first stays."""
        file = result.file
        if not self.path(file).exists():
            _write(self.path(file), result.sealed().to_bytes())
        return file

    def labels(self) -> list[tuple[str, Jobs]]:
        """All labels in their order, each with what its jobs said; shards are put together."""
        found: dict[str, Jobs] = {}
        for path in sorted((self.root / LABELLED).glob(_LABELS)):
            data = read_bytes(path, LOG_BYTES, "store")
            try:
                label = msgspec.convert(json.loads(data), Label)
            except (ValueError, RecursionError):
                label = None
            if label is None or path.name != _name_of(path.name[:6], data):
                raise QexportError(f"store: {path} is damaged; take it away, the verdicts lie elsewhere")
            found.setdefault(label.label, {}).update(label.jobs)
        return list(found.items())

    def label(self, name: str, jobs: Jobs) -> None:
        """Keep what the jobs said under a label; numbers make the order, as clocks may differ."""
        if dict(self.labels()).get(name, {}).items() >= jobs.items():
            return
        data = json_bytes(Label(label=name, jobs=jobs))
        number = max((int(path.name[:6]) for path in (self.root / LABELLED).glob(_LABELS)), default=0) + 1
        _write(self.root / LABELLED / _name_of(f"{number:06d}", data), data)  # two may take one number

    def merge(self, other: "Store") -> int:
        """Take over what another store has; returns how many results were new."""
        new = [file for file in other.files() if not self.path(file).exists()]
        for file in new:
            _write(self.path(file), other.read(file).to_bytes())
        for name, jobs in other.labels():
            self.label(name, jobs)
        return len(new)


def _check_mark(mark: Path) -> None:
    try:
        found = json.loads(read_bytes(mark, LOG_BYTES, "store"))
    except (OSError, ValueError, RecursionError):
        found = None
    if found == _STORE:
        return
    if isinstance(found, dict) and re.fullmatch(r"qexport\.store/\d+", str(found.get("schema"))):
        raise QexportError(f"store: {mark.parent} is of another version of qexport; name another folder")
    raise QexportError(f"store: {mark} is missing or damaged; write {json.dumps(_STORE)} into it")


def _name_of(number: str, label: bytes) -> str:
    return f"{number}.{sha256(label)[:16]}.json"


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # a host whose clock is ahead took our partial file for an old one
                write_atomically(path, data)
                return
        raise FileNotFoundError(2, "its folder goes away")
    except OSError as error:
        why = error.strerror or str(error)
        raise Unable(f"store: {path} cannot be written ({why}); make room and check its permissions") from None
