"""The folders that benches are built and run in; they go with their owner, whatever ends it."""

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from qexport.bench.interface import CHECKS
from qexport.errors import QexportError
from qexport.sets.manifest import Manifest
from qexport.sim.tools import Job

PREFIX = "qexport-run-"
ROOM = 16 << 20  # bytes that a bench needs at least: programs that find no room say anything, or nothing


@dataclass(frozen=True)
class Work:
    """What a run of a bench needs: include/params.vh, the link or folder `set`, `out` for words, waves and logs."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def include(self) -> Path:
        return self.root / "include"

    def job(self, folder: Path, manifest: Manifest, design: Sequence[Path]) -> Job:
        """The bench of a set around a design."""
        slug = manifest.layer.slug
        return Job((folder / f"{slug}_pkg.sv", folder / f"tb_{slug}.sv", *design), self.include, f"tb_{slug}")

    def link(self, folder: Path) -> None:
        """Give the bench the set itself, by a relative name, because Icarus opens no path with letters beyond ASCII."""
        place = self.root / "set"
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(folder.resolve())

    def lay(self, folder: Path, kept: Collection[str]) -> None:
        """Give the bench a copy of the files that are driven, and nothing of what is expected, not even a checksum."""
        place = self.root / "set"
        place.mkdir()
        lines = (folder / CHECKS).read_text().splitlines()
        named = [line.split(" ", 2)[2] for line in lines]
        for name in kept:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, place / name)
        shown = (line if name in kept else "0 0 -" for line, name in zip(lines, named, strict=True))
        (place / CHECKS).write_text("".join(f"{line}\n" for line in shown))


@contextmanager
def work_folder(
    folder: Path, keep: Path | None = None, within: Path | None = None, *, linked: bool = True
) -> Iterator[Work]:
    """A new folder for runs on the set `folder`; what comes out goes to `keep`, where it is given. `linked`: the set
    lies in it from the beginning.

    Raises QexportError when there is no room for it, also in place of an error that the lack of room may have made.
    """
    with scratch_folder(within) as root:
        refuse_full(root)
        work = Work(root)
        work.include.mkdir()
        (work.include / "params.vh").symlink_to((folder / "params.vh").resolve())
        if linked:
            work.link(folder)
        if keep is None:
            work.out.mkdir()
        else:
            keep.mkdir(parents=True, exist_ok=True)
            work.out.symlink_to(keep.resolve())
        try:
            yield work
        except QexportError:
            refuse_full(root)
            raise


def refuse_full(folder: Path) -> None:
    """Raises QexportError when the disk of a scratch folder is full, or nearly so."""
    left = shutil.disk_usage(folder).free
    if left < ROOM:
        raise QexportError(
            f"temporary folder: {tempfile.gettempdir()} has room for {left >> 10} KiB, a bench needs {ROOM >> 20} MiB; "
            "make room there, or name another folder in TMPDIR"
        ) from None


@contextmanager
def scratch_folder(within: Path | None = None) -> Iterator[Path]:
    """A new folder that goes with the block, on SIGTERM, too: among the temporary ones, or `within` a scratch folder.

    Its owner holds a lock on it. Those that nobody holds any more, because their owner was killed, are taken away.
    """
    if within is not None:
        with tempfile.TemporaryDirectory(dir=within) as place:
            yield Path(place)
        return
    clear_stale()
    with _unwinding_on_sigterm():
        folder, lock = _held_folder()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _held_folder() -> tuple[Path, int]:
    """A new folder and the lock on it; another one where it was taken for a stale one before it was held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def clear_stale() -> None:
    """Take away the scratch folders of this user that no process holds."""
    for folder in os.scandir(tempfile.gettempdir()):  # not glob: it may hold thousands of others
        if not folder.name.startswith(PREFIX):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another's, or gone meanwhile
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave the block as an exception, so that children and folders go; nothing where others handle it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the cleaning
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
