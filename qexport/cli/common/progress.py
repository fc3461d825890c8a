"""Progress of long work, for whoever watches a terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINES = 30  # seconds between two lines of a step


class Tell(Protocol):
    """Is told a step's name, what is done of it, the total, and what else to show beside it."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def show_progress(lines: bool = False) -> Iterator[Tell]:
    """Bars on a terminal's stderr, one for each step.

    `lines`: where nobody watches a terminal, a line for each step that begins, and some while it lasts.
    """
    if not sys.stderr.isatty():
        said: dict[str, float] = {}

        def say(step: str, done: int, total: int, note: str = "") -> None:
            if lines and done < total and (step not in said or time.monotonic() >= said[step] + LINES):
                said[step] = time.monotonic()
                print(f"qexport: {step}: {done} of {total}", file=sys.stderr, flush=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    note_column = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note_column, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int, note: str = "") -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, note=note)
            progress.update(bars[step], completed=done, total=total, note=note)

        yield tell
