"""The driver: runs the jobs of a plan that have no verdict yet, and says what all of them say."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from qexport.errors import CheckFailed, QexportError
from qexport.runs.index import Row, Verdict, verdicts
from qexport.runs.job import LABELS, Job, Lost, Unable
from qexport.runs.plan import Resource
from qexport.runs.pool import Pool

TRIES = 3  # of a job whose worker was lost
Told = Callable[[str, int, int], None]


@dataclass
class Driver:
    """Gives jobs to a pool: the longest first, no more of a resource than there is.

    A job whose worker was lost runs again, by itself, so that one that ends its worker does no harm to others.
    """

    pool: Pool
    root: Path
    resources: Sequence[Resource] = ()
    not_run: dict[str, QexportError] = field(default_factory=dict)  # by the job's name
    made: list[str] = field(default_factory=list)  # results, by their names in the store
    _lost: Counter[str] = field(default_factory=Counter)
    _running: dict[Future[str], Job] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job], progress: Told = lambda step, done, total: None) -> None:
        """Raises Unable where a worker can do no job; what was begun is finished first."""
        waiting, unable = list({job.address: job for job in jobs}.values()), None
        total = len(waiting)
        while waiting or self._running:
            while (job := self._next(waiting)) is not None:
                self._start(job)
            progress("jobs", total - len(waiting) - len(self._running), total)
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            if any(isinstance(_error_of(future), BrokenExecutor) for future in done):
                done, _ = wait(self._running)  # all of them end so
                self.pool.renew()
            for future in done:
                job, error = self._running.pop(future), _error_of(future)
                if error is None:
                    self.made.append(future.result())
                elif isinstance(error, Unable):
                    unable, waiting = error, []
                elif isinstance(error, QexportError) and not isinstance(error, Lost):
                    self.not_run[job.name] = error
                elif unable is None:
                    self._again(job, waiting, error)
        progress("jobs", total, total)
        if unable is not None:
            raise unable

    def _next(self, waiting: list[Job]) -> Job | None:
        """Take the first job that may run now."""
        running = self._running.values()
        if len(running) >= self.pool.at_once or any(self._lost[job.address] for job in running):
            return None
        for at, job in enumerate(waiting):
            if self._lost[job.address]:
                if not running:
                    return waiting.pop(at)
            elif all(sum(map(one.holds, running)) < one.at_once for one in self.resources if one.holds(job)):
                return waiting.pop(at)
        return None

    def _start(self, job: Job) -> None:
        try:
            future = self.pool.executor.submit(self.pool.work, job, self.root)
        except BrokenExecutor as error:  # an idle worker was lost: told as if it had begun
            future = Future()
            future.set_exception(error)
        self._running[future] = job

    def _again(self, job: Job, waiting: list[Job], error: BaseException) -> None:
        self._lost[job.address] += 1
        if self._lost[job.address] < TRIES:
            waiting.append(job)
        else:
            why = str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
            self.not_run[job.name] = QexportError(f"{job.name}: lost {TRIES} times, at last: {why}; look at its worker")


def _error_of(future: Future[str]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:  # by an executor that goes down
        return error


def longest_first(jobs: Sequence[Job], history: Collection[Row]) -> list[Job]:
    """In the order in which they should start, by what jobs of the same set, design, simulator and check took."""
    seconds: dict[tuple[str, ...], list[float]] = {}
    for row in history:
        seconds.setdefault(_kind(row.labels), []).append(row.seconds)
    mean = {kind: sum(taken) / len(taken) for kind, taken in seconds.items()}
    return sorted(jobs, key=lambda job: -mean.get(_kind(job.labels), float("inf")))  # what is new may take long


def _kind(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in LABELS if name != "streams")


@dataclass(frozen=True)
class Regression:
    """What the jobs of a plan say. `verdicts`: by the job's name; `ran`: how many were run for it; `not_run`: why."""

    verdicts: Mapping[str, Verdict]
    ran: int
    not_run: Mapping[str, QexportError]

    @property
    def failed(self) -> dict[str, Verdict]:
        return {name: verdict for name, verdict in self.verdicts.items() if verdict.result != "PASS"}

    def check(self) -> None:
        """Raises CheckFailed where a job fails, QexportError where one has no verdict; all are named."""
        lines = [f"{verdict.result} {name}: {verdict.why}" for name, verdict in self.failed.items()]
        lines += [f"NOT RUN {name}: {str(error).splitlines()[0]}" for name, error in self.not_run.items()]
        if lines:
            head = f"regress: {len(self.failed)} of {len(self.verdicts)} jobs failed, {len(self.not_run)} not run"
            head += "; qexport runs list --failed gives addresses, for qexport runs show" if self.failed else ""
            raise (CheckFailed if self.failed else QexportError)("\n".join([head, *lines]))


def judged(jobs: Sequence[Job], rows: Collection[Row], ran: int, not_run: Mapping[str, QexportError]) -> Regression:
    """The verdict of each job, from the rows of the store."""
    found = verdicts(rows)
    ours = {job.name: found[job.address].called(job.labels) for job in jobs if job.address in found}
    unseen = QexportError("its result is not in the store; workers must see the store under the same path")
    why = {job.address: not_run[job.name] for job in jobs if job.name in not_run}
    return Regression(ours, ran, {job.name: why.get(job.address, unseen) for job in jobs if job.name not in ours})
