"""Jobs on the workers of a Dask cluster, of which one is killed."""

import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qexport.runs.store import Store
from tests.conftest import cli, fails
from tests.sim.test_supervisor import QEXPORT, until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None and not os.environ.get("CI"), reason="distributed is missing"
)


def of_dask(what: str, file: Path, *options: str, **env: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(file), *options]
    return subprocess.Popen(
        [*command, "--no-dashboard"], cwd=file.parent, env={**os.environ, **env}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


WORKER = ("--nthreads", "1", "--no-nanny")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, "list[subprocess.Popen[bytes]]"]]:
    """The address of a scheduler on this host, and two workers of one thread."""
    file = tmp_path / "scheduler.json"
    with ExitStack() as ended:
        started = [of_dask("scheduler", file, "--host", "127.0.0.1", "--port", "0")]
        ended.callback(lambda: [process.kill() or process.wait() for process in started])  # type: ignore[func-returns-value]
        until(lambda: file.is_file() and file.read_text().endswith("}"))
        for _ in range(2):
            started.append(of_dask("worker", file, *WORKER))
        yield json.loads(file.read_text())["address"], started[1:]


def test_a_worker_is_killed_in_the_middle(
    plan: Path, tmp_path: Path, cluster: "tuple[str, list[subprocess.Popen[bytes]]]"
) -> None:
    address, workers = cluster
    command = [*QEXPORT, "regress", str(plan), "--store", str(tmp_path / "store"), "--executor", f"dask:{address}"]
    driver = subprocess.Popen([*command, "--jobs", "2", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: (tmp_path / "store/results").is_dir())  # the first result is there
    workers[0].send_signal(signal.SIGKILL)
    out, err = driver.communicate()
    assert driver.returncode == 1, err
    assert sorted(run["result"] for run in json.loads(out)["runs"]) == ["FAIL"] * 4 + ["PASS"] * 6
    assert len([*Store(tmp_path / "store").files()]) == 10


def test_a_worker_with_another_simulator_is_refused(
    plan: Path, tmp_path: Path, cluster: "tuple[str, list[subprocess.Popen[bytes]]]"
) -> None:
    address, workers = cluster
    other = tmp_path / "iverilog"
    other.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Icarus Verilog version 99.0 (stable)" || exec iverilog "$@"\n')
    other.chmod(0o755)
    for worker in workers:
        worker.kill()
        worker.wait()
    refused = of_dask("worker", tmp_path / "scheduler.json", *WORKER, QEXPORT_IVERILOG=str(other))
    try:
        found = cli("regress", plan, "--store", tmp_path / "store", "--executor", f"dask:{address}", "--jobs", 1)
    finally:
        refused.kill()
        refused.wait()
    fails(found, f"worker: {platform.node()} has qexport ", "icarus 99.0, the plan was read with qexport")
    assert len([*Store(tmp_path / "store").files()]) <= 2  # of verify, which takes no simulator


def test_no_scheduler_is_told(plan: Path, tmp_path: Path) -> None:
    fails(
        cli("regress", plan, "--store", tmp_path / "store", "--executor", "dask:nowhere"), "no Dask scheduler answers"
    )
