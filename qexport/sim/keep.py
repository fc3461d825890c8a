"""The folder of `--keep`: that of an earlier run, or a new one; nobody else's file is lost in it."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qexport.errors import QexportError
from qexport.sets.folder import claims_to_be_set
from qexport.sets.staging import LOCK, locked, numbered
from qexport.sim.tools import WAVES

RUN, BUILD, VERDICT = "run.log", "build.log", "verdict.json"


@contextmanager
def kept(keep: Path | None, memories: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """The folder of `--keep`, where there is one, ready for a run and held for it: another run into it waits."""
    if keep is None:
        yield
        return
    if claims_to_be_set(keep):
        raise QexportError(f"keep: {keep} is a vector set; give a new folder")
    if keep.exists() and not keep.is_dir():
        raise QexportError(f"keep: {keep} exists and is a file; give a folder")
    with locked(keep):
        _prepare(keep, memories, say)
        yield


def clear(out: Path, memories: Sequence[str]) -> None:
    """Take away what an earlier run left, before its log is written over: what a kill leaves is of one run."""
    for name in _results(memories):
        (out / name).unlink(missing_ok=True)


def _results(memories: Sequence[str]) -> list[str]:
    return [VERDICT, *(f"{memory}.hex" for memory in memories), *(f"waves.{kind}" for kind in WAVES)]


def _prepare(keep: Path, memories: Sequence[str], say: Callable[[str], None]) -> None:
    """Make the folder ready for what a run leaves: logs, waves, words of the memories.

    Files of these names that no bench has written get a numbered name, which `say` is told. Raises QexportError when
    the folder holds anything else.
    """
    ours = {LOCK, BUILD, RUN, *_results(memories)}
    passing = re.compile(rf".*~|\.{re.escape(VERDICT)}\..*\.partial")  # backups, and a record that is being written
    present = sorted(path.name for path in keep.iterdir() if not passing.fullmatch(path.name))
    if foreign := [name for name in present if name not in ours]:
        raise QexportError(f"keep: {keep} holds {foreign[0]}, which no run has written; give a new folder")
    if _of_a_bench(keep / RUN):
        return
    for name in present:
        if name not in (LOCK, BUILD) and (keep / name).stat().st_size:  # a run that was cut off leaves empty files
            backup = numbered(keep / name)
            (keep / name).rename(backup)
            say(f"keep: {keep / name} is not of a run of the bench; kept as {backup}")


def _of_a_bench(log: Path) -> bool:
    return log.is_file() and bool(
        re.search(r"^(PASS|FAIL|DONE|PROGRESS) ", log.read_text(errors="replace"), flags=re.MULTILINE)
    )
