"""The executors: processes of this machine, and the workers of a Dask cluster."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, Protocol

from qexport.errors import QexportError
from qexport.runs.checks import run_here, run_job

_DASK = "dask:"
_SOCKET_FOLDER = 64  # bytes; multiprocessing adds a folder and a name, about 35


class Pool(Protocol):
    """What the driver asks of an executor. `work`: the function that it is given; `at_once`: how many jobs it takes."""

    at_once: int
    work: Callable[..., str]
    executor: Executor

    def renew(self) -> None:
        """Go on after a worker broke the executor."""


class Processes:
    """Workers on this machine. They end with the driver, whatever ends it, and what they started ends with them."""

    work: Callable[..., str] = staticmethod(run_here)

    def __init__(self, at_once: int | None) -> None:
        self.at_once = at_once or os.cpu_count() or 1
        self._before = {*multiprocessing.active_children()}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["qexport.runs.checks", "pyslang", "filelock"])  # all that a job imports
        with _uninterrupted(), _short_temporary_folder():
            forkserver.ensure_running()
        self.executor = self._new()

    def _new(self) -> Executor:
        return ProcessPoolExecutor(self.at_once, mp_context=self._context, initializer=_end_with_parent)

    def renew(self) -> None:
        self.stop()
        self.executor = self._new()

    def stop(self) -> None:
        ours = [one for one in multiprocessing.active_children() if one not in self._before]
        for process in ours:
            process.terminate()
        for process in ours:
            process.join()
        self.executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """The server of the workers inherits that SIGINT is ignored: Ctrl-C is the driver's."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """The server's socket has an address of at most 107 bytes (sun_path): a longer TMPDIR is not for it."""
    before = tempfile.gettempdir()
    tempfile.tempdir = before if len(os.fsencode(before)) <= _SOCKET_FOLDER else "/tmp"
    try:
        yield
    finally:
        tempfile.tempdir = before


def _end_with_parent() -> None:
    """In a worker: end it when its driver has gone; SIGTERM while a simulator runs lets it clean up first."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()


class Dask:
    """The workers of a cluster, whose scheduler runs the jobs of a lost worker again."""

    work: Callable[..., str] = staticmethod(run_job)

    def __init__(self, address: str, at_once: int | None) -> None:
        try:
            import distributed
        except ImportError:
            raise QexportError("executor: Dask is not installed; pip install 'qexport[dask]'") from None
        client: Any = distributed.Client  # its types are not whole
        try:
            self._client = client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise QexportError(f"executor: no Dask scheduler answers at {address} ({error}); start one") from None
        self.at_once = at_once or sum(self._client.nthreads().values()) or 1
        self.executor = self._client.get_executor(pure=False)

    def renew(self) -> None:
        """Nothing: the scheduler goes on by itself."""

    def stop(self) -> None:
        self._client.close()


@contextmanager
def open_pool(name: str | None, at_once: int | None) -> Iterator[Pool]:
    """Processes of this machine, or the cluster that dask:ADDRESS names; all that was not done ends with the block."""
    if name is not None and not name.startswith(_DASK):
        raise QexportError(f"executor: '{name}' is not known; write dask:tcp://HOST:PORT, or leave it out")
    pool = Processes(at_once) if name is None else Dask(name.removeprefix(_DASK), at_once)
    try:
        yield pool
    finally:
        pool.stop()
