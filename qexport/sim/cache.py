"""Builds, kept by the content of their sources."""

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from qexport.errors import QexportError
from qexport.sets.folder import sha256
from qexport.sim.supervisor import CutOff
from qexport.sim.tools import SHOWN_ERRORS, Job, Simulator


def cache_folder() -> Path:
    """Where builds are kept: QEXPORT_CACHE, else the user's cache folder, else a temporary one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("QEXPORT_CACHE") or Path(home) / "qexport")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="qexport-"))
    return cache


def build_bench(simulator: Simulator, job: Job, scratch: Path, log: Path, cache: Path | None) -> Path:
    """The executable of these sources; from `cache`, where there is one, for the same content and simulator version.

    A user's own module is else built anew each time: it may draw in other files, which may have changed.
    """
    job = replace(job, sources=tuple(source.resolve() for source in job.sources))
    key = [simulator.name, simulator.version(), job.top, str(job.waves), *job.macros]
    key += [sha256(source.read_bytes()) for source in (*job.sources, job.include / "params.vh")]
    kept = None if cache is None else cache / sha256("\n".join(key).encode())
    if kept is not None and kept.is_file():
        return kept
    build = scratch / "build"  # not in the cache: make cannot build in a folder whose path has spaces
    build.mkdir()
    try:
        done = simulator.compile(job, build)
    except CutOff as cut:
        what = f"simulate: {simulator.name} compiles the sources"
        raise CutOff(f"{what}: {cut}; simplify them, or give it more with --time-limit") from None
    log.write_text(done.stdout + done.stderr, errors="replace")
    if done.returncode != 0:
        errors = re.findall(r"^.*(?:error|syntax).*$", done.stdout + done.stderr, flags=re.MULTILINE | re.IGNORECASE)
        shown = "; ".join(errors[:SHOWN_ERRORS]) or " ".join((done.stderr or done.stdout).split())
        raise QexportError(f"simulate: {simulator.name} does not compile the sources; correct them: {shown}")
    if kept is None:
        return build / "sim"
    with tempfile.TemporaryDirectory(prefix="new-", dir=kept.parent) as staging:
        Path(shutil.copy2(build / "sim", staging)).replace(kept)
    return kept
