"""What several runs share: a build, and that the bench is what qexport writes."""

import threading
from pathlib import Path

import pytest

from qexport.errors import CheckFailed
from qexport.sim.icarus import Icarus
from qexport.sim.run import simulate
from qexport.sim.tools import Job
from tests.sim.conftest import copied
from tests.sim.test_selftest import rehashed


def test_what_two_want_at_once_is_built_once(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    class Counted(Icarus):
        def compile(self, job: Job, build: Path):  # type: ignore[no-untyped-def]
            built.append(job.top)
            return super().compile(job, build)

    monkeypatch.setattr("qexport.sim.run.choose", lambda *given: Counted())
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


def test_a_bench_that_was_edited_after_a_run_is_seen(tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "tiny")
    simulate(folder, "icarus").check()
    with (folder / "tb_tiny.sv").open("a") as bench:
        bench.write("// edited\n")
    with pytest.raises(CheckFailed, match=r"tb_tiny\.sv was changed since the dump"):
        simulate(folder, "icarus")
    rehashed(folder)  # as if it had been dumped so
    with pytest.raises(CheckFailed, match=r"tb_tiny\.sv is not what qexport writes for this set"):
        simulate(folder, "icarus")
