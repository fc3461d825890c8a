"""The index of a store: an SQLite file on a local disk, which is brought up to date before each use."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qexport.runs.job import name_of
from qexport.runs.store import Store
from qexport.sets.folder import sha256
from qexport.sim.cache import cache_folder

_VERSION = 2
_COLUMNS = "file, result, why, seconds, host, labels, content_of_set, seal"
FLAKY = "FLAKY"


@dataclass(frozen=True)
class Row:
    """A result in a few words. `set_sha256`: of the content of its set."""

    file: str
    result: str
    why: str
    seconds: float
    host: str
    labels: dict[str, str]
    set_sha256: str

    @property
    def address(self) -> str:
        return self.file.partition(".")[0]

    @property
    def name(self) -> str:
        return name_of(self.labels)


@dataclass(frozen=True)
class Verdict:
    """What all results of one job say together: PASS, FAIL, or FLAKY where they differ."""

    address: str
    rows: tuple[Row, ...]

    @property
    def result(self) -> str:
        return self.rows[0].result if len(self.rows) == 1 else FLAKY

    @property
    def why(self) -> str:
        if len(self.rows) == 1:
            return self.rows[0].why
        return f"{len(self.rows)} results of the same content: {', '.join(row.result for row in self.rows)}"

    @property
    def name(self) -> str:
        return self.rows[0].name

    def called(self, labels: dict[str, str]) -> "Verdict":
        """The same of a job of another name: of another design, say, with the same content."""
        return Verdict(self.address, tuple(replace(row, labels=labels) for row in self.rows))

    @property
    def seconds(self) -> float:
        return max(row.seconds for row in self.rows)


def verdicts(rows: Iterable[Row]) -> dict[str, Verdict]:
    """By address, exactly one for each job."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.address, []).append(row)
    return {address: Verdict(address, tuple(rows)) for address, rows in found.items()}


def rows_of(store: Store, made: Collection[str] = ()) -> list[Row]:
    """All results of a store; those just `made` may not be listed yet. An index that is damaged, or of another version,
    is made anew; where it finds no room, it is made in memory."""
    path = cache_folder() / f"store-{sha256(str(store.root).encode())[:32]}.sqlite"
    for _ in range(2):
        with suppress(sqlite3.DatabaseError):
            return _rows(store, path, made)
        for left in (path, path.with_name(f"{path.name}-journal")):
            left.unlink(missing_ok=True)
    return _rows(store, ":memory:", made)


def _rows(store: Store, path: Path | str, made: Collection[str]) -> list[Row]:
    """Raises sqlite3.DatabaseError where the index at `path` cannot be used."""
    with closing(sqlite3.connect(path, timeout=60)) as base, base:
        if base.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            base.execute("DROP TABLE IF EXISTS results")
            base.execute(f"PRAGMA user_version = {_VERSION}")
        base.execute(f"CREATE TABLE IF NOT EXISTS results ({_COLUMNS}, PRIMARY KEY (file))")
        there = {*store.files(), *(file for file in made if store.path(file).is_file())}
        known = {file for (file,) in base.execute("SELECT file FROM results")}
        base.executemany("DELETE FROM results WHERE file = ?", [(file,) for file in known - there])
        for file in sorted(there - known):
            one = store.read(file)
            why, host, of_set = map(_text, ("; ".join(one.failure[:2]), one.host, str(one.content.get("set", ""))))
            values = (file, one.result, why, one.seconds, host, json.dumps(one.labels), of_set)
            marks = ", ".join("?" * (len(values) + 1))
            base.execute(f"INSERT OR REPLACE INTO results ({_COLUMNS}) VALUES ({marks})", (*values, _seal(values)))
        found = base.execute(f"SELECT {_COLUMNS} FROM results ORDER BY file").fetchall()
    if any(seal != _seal(values) for *values, seal in found) or there != {file for file, *_ in found}:
        raise sqlite3.DatabaseError("a row is damaged")
    return [
        Row(file, result, why, seconds, host, json.loads(labels), of_set)
        for file, result, why, seconds, host, labels, of_set, _ in found
    ]


def _text(text: str) -> str:
    """What SQLite takes, which takes no half of a character."""
    return text.encode(errors="backslashreplace").decode()


def _seal(values: Sequence[object]) -> str:
    return sha256(repr(tuple(values)).encode(errors="surrogatepass"))
