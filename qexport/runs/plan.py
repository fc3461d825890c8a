"""A plan: sets x designs x simulators x streams and seeds x checks, from a TOML file or from a folder of sets."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from qexport.bench.design import Design
from qexport.core.budget import LAYOUT_BYTES, read_bytes
from qexport.errors import QexportError, meant
from qexport.runs.checks import CHECKS, Check
from qexport.runs.job import OWN, Job, set_sha256, sources_of, tools_of
from qexport.sets.folder import find_sets
from qexport.sets.manifest import Entry
from qexport.sim.registry import SIMULATORS, choose
from qexport.sim.streams import MODES, Streams, all_streams
from qexport.sim.supervisor import MEMORY_LIMIT, TIME_LIMIT

MOST_JOBS = 100_000
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=100)]
_Mode = Literal["smooth", "random", "bursts", "blocked", "lazy", "reset"]
_Check = Literal["simulate", "exhaust", "verify", "selftest", "strength"]
_Seed = Annotated[int, Meta(ge=1, lt=1 << 31)]


class DesignOf(Entry, frozen=True, kw_only=True):
    """A design, said as the options of `simulate` say it. `sets`: patterns of the names of the sets that it is for;
    `checks`: those of the plan's that it is for, where not for all; `ports` and `latency` are those of `exhaust`."""

    name: _Name
    files: Annotated[tuple[str, ...], Meta(min_length=1)]
    top: str = "dut"
    includes: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    params: dict[str, str | int] = msgspec.field(default_factory=dict)
    ties: dict[str, str | int] = msgspec.field(default_factory=dict)
    clock: str = "clk"
    reset: str = "rst"
    allow: tuple[str, ...] = ()
    sets: tuple[str, ...] = ("*",)
    checks: tuple[_Check, ...] = ("simulate", "exhaust", "selftest")
    ports: dict[str, str] = msgspec.field(default_factory=dict)
    latency: Annotated[int, Meta(ge=0, lt=1 << 31)] | None = None

    def read(self, base: Path) -> Design:
        return Design.read(
            [base / file for file in self.files], top=self.top, includes=[base / folder for folder in self.includes],
            defines=self.defines, params={name: str(value) for name, value in self.params.items()},
            ties={name: str(value) for name, value in self.ties.items()}, clock=self.clock, reset=self.reset,
            allow=self.allow,
        )  # fmt: skip


class Resource(Entry, frozen=True, kw_only=True):
    """What is there so many times, such as licences; each job of these checks, designs or simulators holds one."""

    name: _Name
    at_once: Annotated[int, Meta(ge=1)]
    used_by: tuple[str, ...]

    def holds(self, job: Job) -> bool:
        return bool({job.check, job.design_name, job.simulator} & {*self.used_by})


class Plan(Entry, frozen=True, kw_only=True):
    """What a file says. `sets`: sets, or folders of them, from the plan's folder on; `seeds`: how many, or which;
    `time_limit` in seconds, `memory_limit` in GiB, for each process of a job."""

    sets: Annotated[tuple[str, ...], Meta(min_length=1)]
    design: tuple[DesignOf, ...] = ()
    simulators: tuple[str, ...] = ("auto",)
    streams: tuple[_Mode, ...] = MODES  # type: ignore[assignment]
    seeds: Annotated[int, Meta(ge=1, le=1000)] | tuple[_Seed, ...] = 1
    checks: tuple[_Check, ...] = ("simulate",)
    diagnose: bool = True
    time_limit: Annotated[float, Meta(gt=0, le=1e9)] = TIME_LIMIT
    memory_limit: Annotated[float, Meta(gt=0.01, le=1e6)] = MEMORY_LIMIT / (1 << 30)
    resource: tuple[Resource, ...] = ()


def read_plan(path: Path) -> tuple[list[Job], tuple[Resource, ...]]:
    """The jobs of a plan in its order, and what they share; raises QexportError where it cannot be carried out."""
    if path.is_dir():
        plan, base = Plan(sets=(".",)), path.resolve()
    else:
        plan, base = _parsed(path), path.resolve().parent
    for simulator in plan.simulators:
        if simulator not in ("auto", *SIMULATORS):
            names = ", ".join(["auto", *SIMULATORS])
            raise QexportError(f"plan: simulators: '{simulator}' is not one of {names}{meant(simulator, SIMULATORS)}")
    for what, given in {"design": [d.name for d in plan.design], "resource": [r.name for r in plan.resource]}.items():
        if twice := [name for at, name in enumerate(given) if name in given[:at] or name == OWN]:
            raise QexportError(f"plan: {what}: the name '{twice[0]}' is taken; choose another")
    jobs = list(_Jobs(plan, base))
    if len({job.name for job in jobs}) < len(jobs):
        raise QexportError(f"plan: {path}: two sets have one name; give their folders different ones")
    if not jobs:
        raise QexportError(f"plan: {path} has no jobs; see what its designs are for")
    return jobs, plan.resource


def _parsed(path: Path) -> Plan:
    try:
        return msgspec.convert(tomllib.loads(read_bytes(path, LAYOUT_BYTES, "plan").decode()), Plan)
    except FileNotFoundError:
        raise QexportError(f"plan: {path} does not exist; give a TOML file or a folder of sets") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise QexportError(f"plan: {path}: {error}; correct it") from None


class _Jobs:
    """The jobs of a plan, set by set."""

    def __init__(self, plan: Plan, base: Path) -> None:
        self.plan, self.base = plan, base
        self.designs: dict[str, tuple[DesignOf | None, Design]]
        self.designs = {one.name: (one, one.read(base)) for one in plan.design} or {OWN: (None, Design())}
        seeds = plan.seeds if isinstance(plan.seeds, tuple) else range(1, plan.seeds + 1)
        self.streams = list(dict.fromkeys(run for seed in seeds for run in all_streams(plan.streams, seed)))
        self.seeds = [0] if plan.seeds == 1 else list(seeds)
        self.simulators = cache(lambda: list(dict.fromkeys(choose(name).name for name in plan.simulators)))
        self.sources = cache(lambda name, simulator: sources_of(self.designs[name][1], SIMULATORS[simulator].macros))
        self.tools = cache(tools_of)

    def __iter__(self) -> Iterator[Job]:
        sets = list(dict.fromkeys(path.resolve() for name in self.plan.sets for path in find_sets(self.base / name)))
        each = len(self.plan.checks) * len(self.designs) * len(self.plan.simulators) * len(self.streams)
        if len(sets) * each > MOST_JOBS:
            raise QexportError(f"plan: up to {len(sets) * each:,} jobs, more than {MOST_JOBS:,}; split it")
        for folder in sets:
            digest = set_sha256(folder)
            for name in dict.fromkeys(self.plan.checks):
                yield from self._of(CHECKS[name], Job(
                    check=name, set=folder, set_sha256=digest, time_limit=self.plan.time_limit,
                    memory=int(self.plan.memory_limit * (1 << 30)), tools=self.tools(""), diagnose=self.plan.diagnose,
                ))  # fmt: skip

    def _of(self, check: Check, job: Job) -> Iterator[Job]:
        """The jobs of one check of one set."""
        if not check.design:
            yield job
            return
        streams: list[Streams | None] = [*self.streams] if check.streams else [None]
        for design, simulator in self._on(check, job):
            for run in streams:
                for seed in self.seeds if check.seed else [0]:
                    yield replace(
                        job, **design, simulator=simulator, streams=run, seed=seed, tools=self.tools(simulator),
                        options=self._options(job.check, design["design_name"]),
                    )  # fmt: skip

    def _on(self, check: Check, job: Job) -> Iterator[tuple[dict[str, Any], str]]:
        """The designs that the set and the check are for, and the simulators."""
        for name, (said, design) in self.designs.items():
            fits = said is None or any(fnmatch(job.set.name, pattern) for pattern in said.sets)
            if not fits or (said is not None and job.check not in said.checks):
                continue
            if said is None and job.check == "exhaust":
                raise QexportError("plan: checks: exhaust needs a design; add one for it")
            for simulator in self.simulators() if check.simulators is None else check.simulators:
                sources = self.sources(name, simulator) if design else {}
                yield {"design_name": name, "design": design, "sources": sources}, simulator

    def _options(self, check: str, design: str) -> dict[str, Any]:
        said = self.designs[design][0]
        if check == "exhaust" and said is not None:
            return {"ports": said.ports, "latency": said.latency}
        return {}
