"""One file, written whole or not at all; here, because frontends may import nothing else of the package."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

STALE = 3600  # seconds without a write, after which the temporary file's writer is taken for dead


def partial_of(path: Path) -> Path:
    """A name beside a file, for what is to replace it; those that dead writers left there are taken away."""
    for left in os.scandir(path.parent):
        with suppress(OSError):
            ours = left.name.startswith(f".{path.name}.") and left.name.endswith(".partial")
            if ours and left.stat(follow_symlinks=False).st_mtime < time.time() - STALE:
                os.unlink(left)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that a reader finds whole, as it was or as it will be, also after a power cut."""
    partial = partial_of(path)
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
