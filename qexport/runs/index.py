"""The index of a store: an SQLite file on a local disk, which is brought up to date before each use."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qexport.runs.job import name_of
from qexport.runs.store import Store
from qexport.sets.folder import sha256
from qexport.sim.cache import cache_folder

_VERSION = 1
_COLUMNS = "file, result, why, seconds, host, labels"
FLAKY = "FLAKY"


@dataclass(frozen=True)
class Row:
    """A result in a few words."""

    file: str
    result: str
    why: str
    seconds: float
    host: str
    labels: dict[str, str]

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

    @property
    def seconds(self) -> float:
        return max(row.seconds for row in self.rows)


def verdicts(rows: Iterable[Row]) -> dict[str, Verdict]:
    """By address, exactly one for each job."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.address, []).append(row)
    return {address: Verdict(address, tuple(rows)) for address, rows in found.items()}


def rows_of(store: Store) -> list[Row]:
    """All results of a store. An index that is damaged, or of another version, is made anew."""
    path = cache_folder() / f"store-{sha256(str(store.root).encode())[:32]}.sqlite"
    try:
        return _rows(store, path)
    except sqlite3.DatabaseError:
        path.unlink(missing_ok=True)
        return _rows(store, path)


def _rows(store: Store, path: Path) -> list[Row]:
    with closing(sqlite3.connect(path, timeout=60)) as base, base:
        if base.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            base.execute("DROP TABLE IF EXISTS results")
            base.execute(f"PRAGMA user_version = {_VERSION}")
        base.execute(f"CREATE TABLE IF NOT EXISTS results ({_COLUMNS}, PRIMARY KEY (file))")
        there, known = {*store.files()}, {file for (file,) in base.execute("SELECT file FROM results")}
        base.executemany("DELETE FROM results WHERE file = ?", [(file,) for file in known - there])
        for file in sorted(there - known):
            one = store.read(file)
            why = " ".join(one.failure[:2])
            labels = msgspec.json.encode(one.labels).decode()
            values = (file, one.result, why, one.seconds, one.host, labels)
            base.execute(f"INSERT OR REPLACE INTO results ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
        found = base.execute(f"SELECT {_COLUMNS} FROM results ORDER BY file").fetchall()
    return [
        Row(file, result, why, seconds, host, msgspec.json.decode(labels, type=dict[str, str]))
        for file, result, why, seconds, host, labels in found
    ]
