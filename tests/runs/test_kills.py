"""Drivers, workers and simulators that are killed at random moments: the store stays whole, each job gets one verdict.

CI takes a moment of each, `make kills` 50 (QEXPORT_KILLS).
"""

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from qexport.runs.store import Store
from qexport.sim.work import clear_stale
from tests.sim.test_kills import MARK
from tests.sim.test_supervisor import QEXPORT, alive, until

KILLS = int(os.environ.get("QEXPORT_KILLS", "1"))  # of each kind of process


@pytest.fixture
def small(plan: Path, sets: Path) -> Path:
    """The plan for one of its sets: 5 jobs."""
    plan.write_text(plan.read_text().replace(f'"{sets}"', f'"{sets}/one"'))
    return plan


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A temporary folder whose name is longer than the address of a socket may be."""
    folder = tmp_path / ("scratch" * 16)
    folder.mkdir()
    return folder


class Regress:
    """`qexport regress` of a plan into a store, its processes marked."""

    def __init__(self, plan: Path, store: Path, scratch: Path) -> None:
        self.mark, self.store = secrets.token_hex(8), store
        self.line = [*QEXPORT, "regress", str(plan), "--store", str(store), "--jobs", "2", "--json"]
        self.env = {**os.environ, "TMPDIR": str(scratch), MARK: self.mark}

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.line, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def finish(self) -> None:
        """Run to the end: every job of the plan has exactly one verdict, and one file in the store."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 1, err
        found = json.loads(out)
        assert sorted(run["result"] for run in found["runs"]) == ["FAIL"] * 2 + ["PASS"] * 3
        store = Store(self.store)
        files = sorted(store.files())
        assert sorted(file.partition(".")[0] for file in files) == sorted(run["address"] for run in found["runs"])
        assert all(store.read(file).file == file for file in files)

    def running(self, *programs: str) -> list[int]:
        """The processes that bear the mark, those of these programs."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                name = (process / "comm").read_text().strip()
                if self.mark.encode() in (process / "environ").read_bytes() and (not programs or name in programs):
                    found.append(int(process.name))
        return [pid for pid in found if alive(pid)]

    def of(self, victim: str, driver: int) -> list[int]:
        """The processes of a kind; workers are grandchildren of the driver: its child is the server that forks them."""
        if victim == "driver":
            return [driver]
        if victim == "simulator":
            return self.running("vvp", "iverilog", "ivl")
        parents = {}
        for pid in self.running():
            with suppress(OSError):
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return [pid for pid, parent in parents.items() if parents.get(parent) == driver]


@pytest.mark.parametrize("victim", ["driver", "worker", "simulator"])
def test_killed_at_random_moments(
    victim: str, small: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, kills, calls = random.Random(victim), 0, 0
    begin = time.monotonic()
    Regress(small, tmp_path / "undisturbed", scratch).finish()
    seconds = time.monotonic() - begin
    while kills < KILLS:
        calls += 1
        assert calls < 10 * KILLS + 50
        one = Regress(small, tmp_path / f"store{calls}", scratch)
        process = one.start()
        time.sleep(draw.uniform(0, seconds))
        while process.poll() is None and not (found := one.of(victim, process.pid)):
            time.sleep(0.002)
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
                kills += 1
        process.communicate()
        until(lambda one=one: not one.running())  # type: ignore[misc]
        one.finish()
        shutil.rmtree(one.store)
    print(f"{victim}: killed {kills} times in {calls} calls of {seconds:.1f} s; every job got its one verdict")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    clear_stale()
    assert list(scratch.glob("qexport-run-*")) == []


def test_ctrl_c_stops_and_the_next_call_goes_on(small: Path, scratch: Path, tmp_path: Path) -> None:
    one = Regress(small, tmp_path / "store", scratch)
    process = one.start()
    until(lambda: (tmp_path / "store/results").is_dir())  # the first result is there
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said.splitlines()[-1]) == (130, b"qexport: error: interrupted")
    until(lambda: not one.running())
    one.finish()


def test_two_drivers_on_one_store(small: Path, scratch: Path, tmp_path: Path) -> None:
    one = Regress(small, tmp_path / "store", scratch)
    drivers = [one.start() for _ in range(2)]
    for driver in drivers:
        out, err = driver.communicate()
        assert (driver.returncode, len(json.loads(out)["runs"])) == (1, 5), err
    one.finish()
