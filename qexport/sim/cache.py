"""Builds, kept by the content of their sources."""

import atexit
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Timer

from platformdirs import user_cache_path

from qexport.core.atomic import write_atomically
from qexport.errors import QexportError
from qexport.sets.folder import file_sha256, sha256
from qexport.sets.staging import locked
from qexport.sim.supervisor import CutOff
from qexport.sim.tools import SHOWN_ERRORS, Job, Simulator
from qexport.sim.work import refuse_full, scratch_folder

SAID_AFTER = 2.0  # seconds of a build
MOST_BUILDS = 500  # in one folder


class NotCompiled(QexportError):
    """A simulator does not take the sources."""


def cache_folder() -> Path:
    """Where builds are kept: QEXPORT_CACHE, else the user's cache folder, else a temporary one."""
    named = os.environ.get("QEXPORT_CACHE")
    folder = Path(named or "~/.cache/qexport")
    try:
        if not named:
            folder = _of_user()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # what may be written, only writing tells
            return folder
    except OSError as error:
        return _temporary(folder, error.strerror or str(error))


def _of_user() -> Path:
    """The user's cache folder; raises NotADirectoryError where nobody knows the user's home."""
    try:
        folder = user_cache_path("qexport", appauthor=False)
    except RuntimeError:  # that newer versions of platformdirs raise
        folder = Path()
    if not folder.is_absolute():
        raise NotADirectoryError(errno.ENOTDIR, "the user's home is not known")
    return folder


@cache
def _temporary(unusable: Path, why: str) -> Path:
    """A folder for this process in place of one that cannot be written."""
    scratch = ExitStack()
    folder = scratch.enter_context(scratch_folder())
    atexit.register(scratch.close)
    print(
        f"qexport: cache: {unusable} cannot be written ({why}); builds go to {folder} for now, "
        "name another folder in QEXPORT_CACHE",
        file=sys.stderr,
    )
    return folder


def build_bench(
    simulator: Simulator,
    job: Job,
    scratch: Path,
    log: Path,
    builds: Path | None,
    *,
    read_too: Collection[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The executable of these sources; from `builds`, where there is one, for the same content and simulator version.

    `read_too`: the digests of what the sources of a user include. `say` is told of a build that takes a while.
    """
    log.unlink(missing_ok=True)  # of an earlier build
    sources, folders = (tuple(path.resolve() for path in paths) for paths in (job.sources, job.folders))
    job = replace(job, sources=sources, folders=folders)
    key = [simulator.name, simulator.version(), job.top, str(job.waves), *job.macros, *map(str, job.folders)]
    read = [*job.sources, job.include / "params.vh", *([] if job.program is None else [job.program])]
    key += [sha256(source.read_bytes()) for source in read] + sorted(read_too)
    for folder in job.folders:  # in which Verilator looks for modules, too
        key += [f"{path.name} {path.lstat().st_size} {path.lstat().st_mtime_ns}" for path in sorted(folder.glob("*"))]
    place = None if builds is None else builds / sha256("\n".join(key).encode())
    if place is None:
        return _compiled(simulator, job, scratch, log, say)
    if (kept := _kept(place)) is not None:
        return kept
    with locked(place):  # another process that builds the same is waited for
        if (kept := _kept(place)) is not None:
            return kept
        built = _compiled(simulator, job, scratch, log, say)
        executable = place / file_sha256(built)
        write_atomically(executable, built.read_bytes(), mode=0o777)
    _forget_oldest(place.parent)
    return executable


def _compiled(simulator: Simulator, job: Job, scratch: Path, log: Path, say: Callable[[str], None]) -> Path:
    """The executable, in the scratch folder; raises NotCompiled where the simulator does not take the sources."""
    build = scratch / "build"  # not in the cache: make cannot build in a folder whose path has spaces
    build.mkdir()
    waiting = Timer(SAID_AFTER, say, [f"building with {simulator.name} {simulator.version()}; it is kept"])
    waiting.start()
    try:
        done = simulator.compile(job, build)
    except CutOff as cut:
        what = f"{job.command}: {simulator.name} compiles the sources"
        raise CutOff(f"{what}: {cut}; simplify them, or give it more with --time-limit") from None
    finally:
        waiting.cancel()
        waiting.join()  # nothing is said any more where nobody may listen
    log.write_text(done.stdout + done.stderr, errors="replace")
    if done.returncode != 0:
        errors = re.findall(r"^.*(?:error|syntax).*$", done.stdout + done.stderr, flags=re.MULTILINE | re.IGNORECASE)
        shown = "; ".join(errors[:SHOWN_ERRORS]) or " ".join((done.stderr or done.stdout).split())
        raise NotCompiled(f"{job.command}: {simulator.name} does not compile the sources; correct them: {shown}")
    refuse_full(scratch)  # Icarus cuts off what it writes then, and ends with 0
    return build / "sim"


def _forget_oldest(builds: Path) -> None:
    """Leave MOST_BUILDS of the builds in a folder, those that were used last."""
    with suppress(OSError):  # another process may do the same
        places = sorted(builds.glob("?" * 64 + "/"), key=lambda path: path.stat().st_mtime)  # SHA-256
        for place in places[:-MOST_BUILDS]:
            shutil.rmtree(place, ignore_errors=True)


def _kept(place: Path) -> Path | None:
    """The executable of this folder, which bears its own SHA-256 as name; None where none is there or it is damaged."""
    with suppress(OSError):
        os.utime(place)
        return next((file for file in place.iterdir() if file_sha256(file) == file.name), None)
    return None
