"""Progress of long work, for whoever watches a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 30  # seconds between two lines of a step


@contextmanager
def show_progress(lines: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal's stderr, one for each step; yields what is told a step's name, what is done and the total.

    `lines`: where nobody watches a terminal, a line for each step that begins, and some while it lasts.
    """
    if not sys.stderr.isatty():
        said: dict[str, float] = {}

        def note(step: str, done: int, total: int) -> None:
            if lines and time.monotonic() >= said.get(step, 0) + LINES and done < total:
                said[step] = time.monotonic()
                print(f"qexport: {step}: {done} of {total}", file=sys.stderr, flush=True)

        yield note
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step)
            progress.update(bars[step], completed=done, total=total)

        yield tell
