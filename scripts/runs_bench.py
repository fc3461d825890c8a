"""`qexport regress` against GNU make over the same simulations, and on a Dask cluster: `make bench`.

The table of how-to/runs.md, filled in there.

python scripts/runs_bench.py [JOBS] [SIMULATOR ...]
"""

import ctypes
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pages import fill_in

from qexport.runs.store import RESULTS, Store
from qexport.sim import run as sim_run
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-c", "from qexport.cli import main; main()"]
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
PAGE = ROOT / "docs/how-to/runs.md"
KILLED = 0.3  # share of the jobs after which a worker is killed


def sets_of(folder: Path, jobs: int) -> Path:
    """Copies of layer 33's set, each with a file beside it that makes it another content and changes nothing else."""
    for number in range(jobs):
        copy = folder / "sets" / f"s{number:03d}"
        shutil.copytree(ROOT / "vectors/features_33", copy)
        (copy / "number").write_text(f"{number}\n")
    return folder / "sets"


def bare_runs(folder: Path, of: Path, simulator: str, jobs: int) -> list[str]:
    """Shell commands that run the simulator and nothing else, each in a folder of its own, as `simulate` lays it."""
    commands: list[str] = []
    run_bench = sim_run.run_bench

    def kept(command: Sequence[str], root: Path, *others: object) -> int:
        for number in range(jobs):
            copy = folder / "bare" / simulator / str(number)
            shutil.copytree(root, copy, symlinks=True)
            commands.append(f"cd {copy} && {shlex.join(command)} > run.log")
        return run_bench(command, root, *others)  # type: ignore[arg-type]

    sim_run.run_bench = kept  # type: ignore[assignment]
    try:
        simulate(of, simulator).check()
    finally:
        sim_run.run_bench = run_bench
    return commands


def against_make(folder: Path, sets: Path, simulator: str, jobs: int) -> list[float]:
    """The rates of regress --jobs 2 and of make -j2 a second, their ratio, the seconds of a call with two jobs, and in
    ms a job: the simulator's own time with two at once, what more jobs take beside it, also of the processors' time."""
    folders = sorted(sets.iterdir())
    alone = bare_runs(folder, folders[0], simulator, jobs)
    line = f"{shlex.join(PROGRAM)} simulate {{}} --simulator {simulator} --streams smooth > /dev/null"
    bare, bare_cpu = _made(folder / f"{simulator}-bare.mk", alone)
    made, _ = _made(folder / f"{simulator}.mk", [line.format(path) for path in folders])
    small, small_cpu = _regressed(folder, f"{simulator}-two", simulator, folders[:2])
    ran, ran_cpu = _regressed(folder, simulator, simulator, [sets])
    over = 2 * (ran - small) / (jobs - 2) - 2 * bare / jobs
    over_cpu = (ran_cpu - small_cpu) / (jobs - 2) - bare_cpu / jobs
    return [jobs / ran, jobs / made, made / ran, small, 2000 * bare / jobs, 1000 * over, 1000 * over_cpu]


def _regressed(folder: Path, name: str, simulator: str, sets: Sequence[Path]) -> tuple[float, float]:
    """What a regression with two jobs at once takes."""
    plan = folder / f"{name}.toml"
    named = ", ".join(f'"{path}"' for path in sets)
    plan.write_text(f'sets = [{named}]\nsimulators = ["{simulator}"]\nstreams = ["smooth"]\n')
    return _seconds([*PROGRAM, "regress", str(plan), "--store", str(folder / f"{name}.store"), "--jobs", "2"])


def _made(file: Path, commands: Sequence[str]) -> tuple[float, float]:
    """What make -j2 takes for these commands."""
    names = " ".join(map(str, range(len(commands))))
    rules = "".join(f"{number}:\n\t@{command}\n" for number, command in enumerate(commands))
    file.write_text(f".PHONY: all {names}\nall: {names}\n{rules}")
    return _seconds(["make", "-j2", "-f", str(file), "all"])


def _seconds(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a command, and of the processors, with all that it started."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    with suppress(ChildProcessError):
        while True:
            os.wait()  # what it left running, the server of its workers, is ours now
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def cluster(folder: Path, host: str, of_worker: Sequence[str] = (), of_us: Sequence[str] = ()) -> Iterator[
    tuple[str, "list[subprocess.Popen[bytes]]"]
]:  # fmt: skip
    """A scheduler on `host` and four workers, started by these commands: its address, and the workers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(prefix: Sequence[str], what: str, *options: str) -> None:
        command = [*prefix, sys.executable, "-m", f"distributed.cli.dask_{what}", *options, "--no-dashboard"]
        started.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    file = folder / f"{host}.json"
    try:
        start(of_us, "scheduler", "--host", host, "--port", "0", "--scheduler-file", str(file))
        while not (file.is_file() and file.read_text().endswith("}")):
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for _ in range(4):
            start(of_worker, "worker", address, "--nthreads", "1", "--no-nanny")
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def on_dask(folder: Path, sets: Path, simulator: str, jobs: int, host: str = "127.0.0.1",
            of_worker: Sequence[str] = (), of_us: Sequence[str] = ()) -> str:  # fmt: skip
    """Four workers, one of which is killed in the middle: all verdicts are there, none twice."""
    root = folder / f"{host}.store"
    with cluster(folder, host, of_worker, of_us) as (address, workers):
        command = [*of_us, *PROGRAM, "regress", str(folder / f"{simulator}.toml"), "--store", str(root), "--jobs", "4"]
        driver = subprocess.Popen([*command, "--executor", f"dask:{address}", "--json"], stdout=subprocess.PIPE)
        while driver.poll() is None and (not (root / RESULTS).is_dir() or len([*Store(root).files()]) < KILLED * jobs):
            time.sleep(0.05)
        workers[0].send_signal(signal.SIGKILL)
        found = json.loads(driver.communicate()[0])
    files = [*Store(root).files()]
    passed = sum(run["result"] == "PASS" for run in found["runs"])
    assert passed == len(files) == jobs
    where = "two network namespaces" if of_worker else "the loopback interface"
    cluster_of = f"{jobs} jobs by {simulator} on four Dask workers over {where}, one killed in the middle"
    return f"{cluster_of}: {passed} verdicts, {len(files)} results"


@contextmanager
def two_hosts() -> Iterator[tuple[str, list[str], list[str]]]:
    """Two network namespaces with a cable between them: the address of the first, and how each runs a command."""
    names, ends = [f"qexport{os.getpid()}{side}" for side in "ab"], [f"qx{os.getpid()}{side}" for side in "ab"]
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        subprocess.run(
            ["ip", "link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1],
             "netns", names[1]], check=True,
        )  # fmt: skip
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            inside = ["ip", "-n", name]
            subprocess.run([*inside, "addr", "add", f"10.99.0.{number}/24", "dev", end], check=True)
            for device in ("lo", end):
                subprocess.run([*inside, "link", "set", device, "up"], check=True)
        yield "10.99.0.1", ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True)


def main(jobs: int = 200, simulators: Sequence[str] = tuple(SIMULATORS)) -> None:
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["QEXPORT_CACHE"] = name
        sets = sets_of(folder, jobs)
        heads = ["simulator", "regress, jobs/s", "make -j2, jobs/s", "ratio", "two jobs alone, s"]
        heads += [f"{what}, ms a job" for what in ("simulator alone", "overhead", "overhead of the processors")]
        lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
        for simulator in simulators:
            found = against_make(folder, sets, simulator, jobs)
            lines.append(f"| {simulator} | " + " | ".join(f"{one:.{1 if one < 10 else 0}f}" for one in found) + " |")
        head = f"{jobs} smooth runs of layer 33, two at once, on {os.cpu_count()} cores that"
        busy = f"{os.getloadavg()[1]:.1f} processes wanted in the last five minutes:"
        said = [f"{head} {busy}", "", *lines, "", f"- {on_dask(folder, sets, simulators[0], jobs)}."]
        if shutil.which("ip") is None or os.geteuid() != 0:
            said.append("- Two hosts: not run, that needs iproute2 and root for network namespaces.")
        else:
            with two_hosts() as (host, first, second):
                said.append(f"- {on_dask(folder, sets, simulators[0], jobs, host, second, first)}.")
    made = "\n".join(said)
    print(f"\nqexport regress: {made}")
    fill_in(PAGE, "runs", made)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *[tuple(sys.argv[2:])] * bool(sys.argv[2:]))
