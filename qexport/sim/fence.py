"""A fence around a run: the kernel does not let it open the files of a set. Landlock, where Linux has it.

What a design loads is looked at before it runs (bench/beside.py), but a simulator may make another name of it than
slang does.
"""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, on every machine
_READ_FILE, _PATH_BENEATH = 1 << 2, 1
_NO_NEW_PRIVS = 38  # of prctl


@dataclass(frozen=True)
class Fence:
    """`rules`: the descriptor of what may be read."""

    rules: int

    def start(self, begin: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Begin a child within the fence: in a thread of its own, as a thread can never leave it again."""

        def enter() -> subprocess.Popen[bytes]:
            libc = ctypes.CDLL(None)
            libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
            libc.syscall(_RESTRICT_SELF, self.rules, 0)
            return begin()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()


@contextmanager
def fenced(hidden: Path, shown: Collection[Path] = ()) -> Iterator[Fence | None]:
    """A fence in which no file of the folder `hidden` can be read but those `shown`; None where the system has none."""
    libc = ctypes.CDLL(None)
    size = ctypes.c_size_t(8)
    rules = libc.syscall(_CREATE_RULESET, struct.pack("=Q", _READ_FILE), size, 0) if sys.platform == "linux" else -1
    if rules < 0:
        yield None
        return
    try:
        folder = hidden.resolve()
        beside = {entry for above in folder.parents for entry in _entries(above)} - {folder, *folder.parents}
        for path in (*beside, *shown):
            with suppress(OSError):  # it has gone meanwhile
                place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                rule = struct.pack("=Qi", _READ_FILE, place)
                libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
                os.close(place)
        yield Fence(rules)
    finally:
        os.close(rules)


def _entries(folder: Path) -> list[Path]:
    with suppress(PermissionError):
        return [Path(entry.path) for entry in os.scandir(folder) if not entry.is_symlink()]
    return []
