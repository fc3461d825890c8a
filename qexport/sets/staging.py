"""Folders that appear whole or not at all: a fresh folder beside the target, under a lock, put in its place."""

import ctypes
import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qexport.errors import QexportError
from qexport.layout.paths import MANIFEST, SUMS
from qexport.sets.folder import claims_to_be_set, set_entries

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def write_new_folder(target: Path, files: Mapping[str, str]) -> None:
    """Write text files into a folder that appears whole or not at all.

    Raises QexportError when it is not empty or lies in a set.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise QexportError(f"out: {target} is there already and not empty; give a new folder")
    whole = target.resolve()
    if sets := [folder for folder in whole.parents if claims_to_be_set(folder)]:
        raise QexportError(f"out: {target} lies in the set {sets[0]}; give a folder outside it")
    partial = whole.with_name(f".{whole.name}.partial")
    _clear(partial)
    try:
        for name, text in files.items():
            append(partial / name, text.encode())
            sync(partial / name)
        partial.replace(whole)
    finally:
        _clear(partial)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system while writing names the file, unless it names one already."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, error.filename or str(path)) from None


def append(path: Path, data: bytes) -> None:
    """Append to a file of the new set."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def sync(path: Path) -> None:
    with naming(path), path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def staging(out: Path, slug: str) -> Iterator[tuple[Path, Path]]:
    """A fresh folder beside the target, under a lock; it is gone afterwards, whatever happens.

    Folders that had to be made for `out` are taken away again when the dump fails.
    """
    target, partial, previous = out / slug, out / f".{slug}.partial", out / f".{slug}.previous"
    if out.exists() and not out.is_dir():
        raise QexportError(f"out: {out} is a file; give a folder")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if previous.exists():  # an earlier run was cut off between the two renames of put_in_place
                if target.exists():
                    _clear(previous)
                else:
                    previous.rename(target)
            _clear(partial)
            if target.is_symlink() or (target.exists() and not _is_set_or_empty(target)):
                raise QexportError(f"out: {target} is in the way and is no vector set; move it or choose another --out")
            partial.mkdir()
            yield partial, target
        finally:
            _clear(partial)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    finally:
        os.close(lock)


def _is_set_or_empty(folder: Path) -> bool:
    return folder.is_dir() and (claims_to_be_set(folder) or not any(folder.iterdir()))


def refuse_strays(folder: Path) -> None:
    """Raises QexportError when replacing the set would take away a file that is not the set's."""
    sums = folder / SUMS
    listed = {line[66:] for line in sums.read_text(errors="replace").splitlines()} if sums.is_file() else set()
    strays = sorted(set(set_entries(folder)) - listed - {MANIFEST, SUMS})
    if strays:
        raise QexportError(
            f"out: {folder / strays[0]} is not of the set that would be replaced; move it elsewhere first"
        )


def _clear(folder: Path) -> None:
    """Take away what an earlier or a failed dump left."""
    if folder.is_symlink():  # a link to a set stood in the target's place
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def same_sets(a: Path, b: Path) -> bool:
    """Whether two sets have the same entries with the same bytes."""
    entries, others = set_entries(a), set_entries(b)
    return entries.keys() == others.keys() and all(
        others[name].is_file() and filecmp.cmp(path, others[name], shallow=False) for name, path in entries.items()
    )


def put_in_place(partial: Path, target: Path) -> None:
    """Put `partial` where `target` is: one step where the system can exchange two folders."""
    if not target.exists():
        partial.rename(target)
    elif not _exchange(partial, target):
        previous = target.with_name(f".{target.name}.previous")
        target.rename(previous)
        partial.rename(target)
        _clear(previous)


def _exchange(a: Path, b: Path) -> bool:
    """Linux renameat2(RENAME_EXCHANGE); False where the system or the file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0
