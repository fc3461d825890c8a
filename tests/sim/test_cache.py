"""Builds that several processes want at once."""

import threading
from pathlib import Path

import pytest

from qexport.sim.icarus import Icarus
from qexport.sim.run import simulate
from qexport.sim.tools import Job


def test_what_two_want_at_once_is_built_once(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    class Counted(Icarus):
        def compile(self, job: Job, build: Path):  # type: ignore[no-untyped-def]
            built.append(job.top)
            return super().compile(job, build)

    monkeypatch.setattr("qexport.sim.run.choose", lambda name: Counted())
    verdicts = []
    runs = [
        threading.Thread(target=lambda: verdicts.append(simulate(tiny_set, "icarus", builds=tmp_path)))
        for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [verdict.passed for verdict in verdicts] == [True] * 3
    assert len(built) == 1
    assert len([*tmp_path.iterdir()]) == 1
    assert [len([*place.iterdir()]) for place in tmp_path.iterdir()] == [1]  # no lock is left
