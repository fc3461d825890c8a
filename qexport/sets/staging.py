"""Folders that appear whole or not at all: all that a command writes is made beside its place, then put there.

A command holds the lock of the folder that it writes into, and makes what it writes in `.qexport-<random>` there. The
lock tells whether such a folder's owner lives: who holds it finds only what the dead have left. A folder with a journal
was cut off while it was put in place, which is then finished; all others go. Whoever reads a folder of sets refuses it
while such a journal names several entries (`find_sets`): reading finishes nothing, because it writes nothing.
"""

import ctypes
import filecmp
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from qexport.core.atomic import write_atomically
from qexport.errors import QexportError, few
from qexport.layout.paths import MANIFEST, SUMS
from qexport.sets.folder import (
    JOURNAL,
    STAGING,
    changed_entries,
    claims_to_be_set,
    listed_files,
    read_journal,
    set_entries,
    staging_folders,
)

LOCK = ".qexport.lock"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


class Stage:
    """What is to appear in `out` together: files and folders made in `new`. `kept`: a line for each backup."""

    def __init__(self, out: Path, place: Path, kept: list[str]):
        self.out, self.place, self.new, self.kept = out, place, place / "new", kept

    def put_in_place(self, names: list[str]) -> None:
        """Put these entries of `new` into `out`; what a user had changed in a replaced set is kept.

        The journal makes it certain: from then on the next command finishes what a kill cuts off. Files, such as an
        index, are taken away before any folder changes and come last, so that none speaks of other folders.
        """
        _sync_tree(self.new)
        journal = {name: (self.new / name).stat().st_ino for name in names}
        write_atomically(self.place / JOURNAL, json.dumps(journal).encode())
        self.kept += _finish(self.out, self.place)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder `out` against all other commands that write into it, and wait for those that hold it.

    Folders that had to be made for `out` are taken away again when nothing comes into them.
    """
    from filelock import FileLock, Timeout, UnixFileLock  # here, because commands that only read need no lock

    if out.exists() and not out.is_dir():
        raise QexportError(f"out: {out} is a file; give a folder")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    while True:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        with suppress(FileNotFoundError, Timeout):  # one that failed takes the folder away that it had made: again
            lock.acquire(timeout=1)
            break
    try:
        yield
    finally:
        if isinstance(lock, UnixFileLock):  # other kinds take their file away themselves
            (out / LOCK).unlink(missing_ok=True)
        lock.release()
        for folder in made:
            with suppress(OSError):  # it holds something, or another one was faster
                folder.rmdir()


@contextmanager
def staging(out: Path) -> Iterator[Stage]:
    """A place for what is written into the folder `out`, under its lock; it is gone afterwards, whatever happens."""
    with locked(out):
        kept = []
        for left in staging_folders(out):  # their owners are dead: the lock is ours
            if (left / JOURNAL).is_file():
                kept += _finish(out, left)
            shutil.rmtree(left, ignore_errors=True)
        stage = Stage(out, out / f"{STAGING}{secrets.token_hex(8)}", kept)
        stage.new.mkdir(parents=True)
        try:
            yield stage
        finally:
            if not (stage.place / JOURNAL).exists():  # else it was cut off while it was put in place
                shutil.rmtree(stage.place, ignore_errors=True)


def _finish(out: Path, place: Path) -> list[str]:
    """Put in place what the journal names, as far as it is not there yet; safe to begin again at any point."""
    journal = read_journal(place)
    new, old = place / "new", place / "old"
    old.mkdir(exist_ok=True)
    waiting = [n for n, inode in journal.items() if (new / n).exists() and (new / n).stat().st_ino == inode]
    files = [name for name in waiting if (new / name).is_file()]
    for name in files:
        if (out / name).exists():
            (out / name).replace(old / name)
    for name in [name for name in waiting if name not in files] + files:
        if not os.path.lexists(out / name):
            (new / name).rename(out / name)
        elif not _exchange(new / name, out / name):
            (out / name).rename(old / name)
            (new / name).rename(out / name)
    _sync_folder(out)
    kept = [line for name in journal for side in (new, old) for line in _keep_changes(side / name, out)]
    (place / JOURNAL).unlink()
    return kept


def _keep_changes(replaced: Path, out: Path) -> list[str]:
    """Keep the files of a replaced set that are not as they were dumped, in a numbered folder beside the new set."""
    changed = changed_entries(replaced) if claims_to_be_set(replaced) else {}
    if not changed:
        return []
    backup = numbered(out / replaced.name)
    for name, path in changed.items():
        (backup / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(backup / name)
    return [f"{few(changed)} of {out / replaced.name} had been changed since the dump; kept in {backup}"]


def numbered(path: Path) -> Path:
    """The first free name of a backup: path.~1~, path.~2~, ..."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.~{number}~")):
        number += 1
    return free


def write_new_folders(folders: Mapping[Path, Mapping[str, str]]) -> None:
    """Write text files into folders; those that lie in one folder appear together, whole or not at all.

    Raises QexportError when one of them is not empty or lies in a set.
    """
    whole = {target.resolve(): files for target, files in folders.items()}
    for target in whole:
        refuse_existing(target)
        if sets := [folder for folder in target.parents if claims_to_be_set(folder)]:
            raise QexportError(f"out: {target} lies in the set {sets[0]}; give a folder outside it")
    for parent in dict.fromkeys(target.parent for target in whole):
        here = {target: files for target, files in whole.items() if target.parent == parent}
        with staging(parent) as stage:
            for target, files in here.items():
                refuse_existing(target)  # again, because another one may have held the lock
                write_files(stage.new / target.name, files)
            stage.put_in_place([target.name for target in here])


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files into a folder of a stage."""
    folder.mkdir()
    for name, text in files.items():
        append(folder / name, text.encode())


def refuse_existing(target: Path) -> None:
    """Raises QexportError unless a new folder may stand here."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise QexportError(f"out: {target} is there already and not empty; give a new folder")


def refuse_foreign(target: Path) -> None:
    """Raises QexportError when a set cannot stand here, because something else does."""
    fits = target.is_dir() and not target.is_symlink() and (claims_to_be_set(target) or not any(target.iterdir()))
    if os.path.lexists(target) and not fits:
        raise QexportError(f"out: {target} is in the way and is not a vector set; move it or choose another --out")


def refuse_strays(folder: Path) -> None:
    """Raises QexportError when replacing the set would take away a file that is not the set's."""
    strays = sorted(set(set_entries(folder)) - set(listed_files(folder)) - {MANIFEST, SUMS})
    if strays:
        raise QexportError(
            f"out: {folder / strays[0]} is not of the set that would be replaced; move it elsewhere first"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system while writing names the file, unless it names one already."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, error.filename or str(path)) from None


def append(path: Path, data: bytes) -> None:
    """Append to a file of a stage."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def same_sets(a: Path, b: Path) -> bool:
    """Whether two sets have the same entries with the same bytes."""
    entries, others = set_entries(a), set_entries(b)
    return entries.keys() == others.keys() and all(
        others[name].is_file() and filecmp.cmp(path, others[name], shallow=False) for name, path in entries.items()
    )


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with naming(path), path.open("r+b") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the renames last, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(a: Path, b: Path) -> bool:
    """Linux renameat2(RENAME_EXCHANGE); False where the system or the file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    return renameat2 is not None and renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0
