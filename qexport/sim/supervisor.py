"""Child processes: each leads a session of its own, whose process group ends with the call that started it.

That holds for a child that is done, for one that is cut off by a limit, and for whatever exception leaves the call.
"""

import io
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from qexport.core.signals import undisturbed
from qexport.errors import CheckFailed
from qexport.sim.fence import Fence

TIME_LIMIT = 600  # seconds; the bench's own time-out counts cycles and so misses a loop that takes no time
OUTPUT_LIMIT = 64 << 20  # bytes that a child prints
MEMORY_LIMIT = 8 << 30  # bytes of address space of each process
BLOCK = 1 << 16
LONGEST_LINE = 4096  # of those that are passed on
CLOSING = 0.2  # seconds; how often a child is looked at whose pipes a process of its own holds open
NO_MEMORY = (b"bad_alloc", b"out of memory", b"Cannot allocate memory", b"virtual memory exhausted", b"MemoryError")


class CutOff(CheckFailed):
    """A child was ended, or ended itself, at one of its limits; the message says which."""


class _Children:
    """The children that a pool of threads runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False

    def start(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise CutOff("interrupted")
            process = start()
            self._running.add(process.pid)
            return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process.pid)

    def end(self) -> None:
        """End all, and let none start any more."""
        with self._lock:
            self._closed = True
            for pid in self._running:
                _kill(pid)


_of_thread = threading.local()
_memory: ContextVar[int | None] = ContextVar("memory", default=None)  # None: MEMORY_LIMIT


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Bytes of address space of each process that this thread, or a pool of `workers` in it, starts in the block."""
    before = _memory.set(size)
    try:
        yield
    finally:
        _memory.reset(before)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread for each processor. When an exception leaves the block, the children of all threads end."""
    children, memory = _Children(), _memory.get()

    def begin() -> None:
        _of_thread.children = children
        _memory.set(memory)

    with ThreadPoolExecutor(os.cpu_count(), initializer=begin) as pool:
        try:
            yield pool
        except BaseException:
            children.end()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def supervise(
    command: Sequence[str | Path],
    printed: BinaryIO,
    complaints: BinaryIO,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit: float | None = TIME_LIMIT,
    heard: Callable[[bytes], None] = lambda line: None,
    fence: Fence | None = None,
) -> int:
    """Run a command to its end: the exit status. Its outputs go to two files; `heard` is given the lines of the first.

    What it leaves among temporary files when it is cut off, such as g++, lies in `cwd`, where one is given.
    Raises CutOff after `limit` seconds, OUTPUT_LIMIT bytes of output, or at its limit of memory.
    """
    env = dict(os.environ if env is None else env) | ({} if cwd is None else {"TMPDIR": str(cwd)})
    children = getattr(_of_thread, "children", None) or _Children()
    memory = _memory.get() or MEMORY_LIMIT
    limited = ["/bin/sh", "-c", 'ulimit -v "$0" 2>/dev/null; exec "$@"', str(memory >> 10), *map(str, command)]

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            limited, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=cwd, env=env, start_new_session=True, bufsize=0,
        )  # fmt: skip

    process = None
    try:
        with undisturbed():
            process = children.start(begin if fence is None else lambda: fence.start(begin))
        deadline = None if limit is None else time.monotonic() + limit
        short = _copy(process, printed, complaints, deadline, limit, heard)
    finally:
        if process is not None:
            _kill(process.pid)  # before the child is waited for: until then nobody else can have its number
            children.forget(process)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    if process.returncode != 0 and short:
        raise CutOff(f"out of memory; a process may take {memory / (1 << 30):g} GiB")
    return process.returncode


def _kill(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _copy(
    process: subprocess.Popen[bytes],
    printed: BinaryIO,
    complaints: BinaryIO,
    deadline: float | None,
    limit: float | None,
    heard: Callable[[bytes], None],
) -> bool:
    """Copy what a child prints until it ends; whether it says that it is short of memory."""
    count, line, short = 0, b"", False
    with selectors.DefaultSelector() as pipes:
        pipes.register(process.stdout, selectors.EVENT_READ, printed)  # type: ignore[arg-type]
        pipes.register(process.stderr, selectors.EVENT_READ, complaints)  # type: ignore[arg-type]
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise CutOff(f"no end after {limit:g} s")
            ended = _ended(process)  # first: what it writes between a look at the pipes and its end would be lost
            ready = pipes.select(0 if ended else CLOSING if pipes.get_map() else CLOSING / 200)
            if ended and not ready:
                return short
            for key, _ in ready:
                block = os.read(key.fd, BLOCK)
                if not block:
                    pipes.unregister(key.fileobj)
                    continue
                count += len(block)
                if count > OUTPUT_LIMIT:
                    raise CutOff(f"more than {OUTPUT_LIMIT >> 20} MiB of output")
                key.data.write(block)
                key.data.flush()
                short = short or any(said in block for said in NO_MEMORY)
                if key.data is printed:
                    *lines, line = (line + block).split(b"\n")
                    line = line[:LONGEST_LINE]
                    for one in lines:
                        heard(one)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended; it is not waited for yet."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def call(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit: float | None = TIME_LIMIT,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and give what it prints; raises CutOff as `supervise` does."""
    printed, complaints = io.BytesIO(), io.BytesIO()
    status = supervise(command, printed, complaints, cwd=cwd, env=env, limit=limit)
    texts = (buffer.getvalue().decode(errors="replace") for buffer in (printed, complaints))
    return subprocess.CompletedProcess(command, status, *texts)
