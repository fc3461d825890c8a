"""What a worker does: one job, from its content to the file in the store."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from qexport.build.verify import verify
from qexport.core.strength import measure
from qexport.errors import CheckFailed, QexportError
from qexport.runs.job import Job, Lost, Unable, tools_of
from qexport.runs.store import Result, Store
from qexport.sets.manifest import capture_of, read_manifest
from qexport.sim.keep import RUN
from qexport.sim.record import Record, record_of
from qexport.sim.run import simulate
from qexport.sim.supervisor import memory_limit
from qexport.sim.verdict import Killed
from qexport.sim.work import scratch_folder

LOG = 1 << 16  # bytes of a log that are kept, its end
FAULTS = 100  # of a set that are told


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check says. `failure`: empty where it passes; `sure`: what must be the same in every run beside that."""

    failure: tuple[str, ...] = ()
    sure: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    diagnosis: str = ""


@dataclass(frozen=True)
class Check:
    """A check of a set, and what it takes beside the set."""

    run: Callable[[Job, Path], Outcome]
    design: bool = False
    simulators: tuple[str, ...] | None = ()  # none; None: those of the plan
    streams: bool = False
    seed: bool = False


def run_job(job: Job, root: Path) -> str:
    """Do a job and keep its result; returns the result's name.

    Raises Unable where this worker can do no job at all, Lost where another try may succeed, QexportError where this
    job cannot be done.
    """
    if (ours := tools_of(job.simulator)) != job.tools:
        said = [", ".join(f"{name} {version}" for name, version in tools.items()) for tools in (ours, job.tools)]
        raise Unable(f"worker: {platform.node()} has {said[0]}, the plan was read with {said[1]}; give it the same")
    store = Store(root)
    job.check_content()
    begin = time.monotonic()
    with scratch_folder() as scratch, memory_limit(job.memory):
        try:
            outcome = CHECKS[job.check].run(job, scratch)
        except CheckFailed as error:
            outcome = Outcome(failure=tuple(str(error).splitlines()))
    seconds = time.monotonic() - begin
    job.check_content()
    verdict: Literal["PASS", "FAIL"] = "FAIL" if outcome.failure else "PASS"
    return store.put(
        Result(
            labels=job.labels, content=job.content, outcome={"result": verdict, **outcome.sure}, result=verdict,
            failure=outcome.failure, seconds=round(seconds, 3), host=platform.node(), record=outcome.record,
            found=dict(outcome.found), log=outcome.log, diagnosis=outcome.diagnosis,
        )
    )  # fmt: skip


def _simulate(job: Job, scratch: Path) -> Outcome:
    assert job.streams is not None
    keep = scratch / "keep"
    verdict = simulate(
        job.set, job.simulator, job.design, seed=job.streams.seed, streams=(job.streams,), keep=keep,
        limit=job.time_limit,
    )  # fmt: skip
    if isinstance(verdict.failure, Killed):
        raise Lost(str(verdict.failure))
    record = record_of(verdict)
    return Outcome(
        failure=record.failure,
        sure={"words": verdict.words, "cycles": verdict.cycles},
        record=record.sealed(),
        log=_end_of(keep / RUN),
        diagnosis="" if verdict.passed or not job.diagnose else _diagnosis(job.set, keep),
    )


def _diagnosis(folder: Path, keep: Path) -> str:
    """What came back, explained in words; why not, where it cannot be."""
    from qexport.findings.whole_run import diagnose_run  # here, because most runs need none

    try:
        return str(diagnose_run(folder, keep)[1])
    except (QexportError, OSError) as error:
        return str(error)


def _end_of(log: Path) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG))
        return file.read().decode(errors="replace")


def _verify(job: Job, scratch: Path) -> Outcome:
    report = verify(job.set)
    return Outcome(failure=tuple(map(str, report.faults[:FAULTS])), found={"faults": len(report.faults)})


def _strength(job: Job, scratch: Path) -> Outcome:
    manifest = read_manifest(job.set)
    info = measure(capture_of(job.set, manifest)).info
    wrong = info != manifest.strength
    failure = ("the manifest's strength is not what the capture gives; dump the set again",) if wrong else ()
    return Outcome(failure=failure, found={"flips": msgspec.to_builtins(info)})


def _exhaust(job: Job, scratch: Path) -> Outcome:
    from qexport.findings.exhaust.run import exhaust

    result = exhaust(
        job.set, job.design, ports=job.options["ports"], latency=job.options["latency"], seed=job.seed,
        time_limit=job.time_limit,
    )  # fmt: skip
    failure = () if result.failure is None else tuple(str(result.failure).splitlines())
    return Outcome(failure=failure, found={"compared": result.compared, "every": result.every})


def _selftest(job: Job, scratch: Path) -> Outcome:
    from qexport.trust.selftest import SAMPLE, selftest

    result = selftest(
        job.set, job.simulator, job.design, seed=job.seed, sample=SAMPLE,
        limit=job.time_limit,
    )  # fmt: skip
    failure = [f"survivor: {name}" for name in result.survivors] + [f"open: {name}" for name in result.open]
    return Outcome(failure=tuple(failure), found={"survivors": len(result.survivors), "open": len(result.open)})


CHECKS = {
    "simulate": Check(_simulate, design=True, simulators=None, streams=True),
    "exhaust": Check(_exhaust, design=True, simulators=("verilator",), seed=True),
    "verify": Check(_verify),
    "selftest": Check(_selftest, design=True, simulators=None, seed=True),
    "strength": Check(_strength),
}


def run_here(job: Job, root: Path) -> str:
    """`run_job` in a process of a pool, which SIGTERM ends: its pool would go on with it else."""
    try:
        return run_job(job, root)
    except SystemExit:
        os._exit(143)
