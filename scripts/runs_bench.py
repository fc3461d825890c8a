"""`qexport regress` against GNU make over the same simulations, and on a Dask cluster: `make bench`.

python scripts/runs_bench.py [JOBS] [SIMULATOR ...]
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qexport.runs.store import RESULTS, Store
from qexport.sim import run as sim_run
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-c", "from qexport.cli import main; main()"]
KILLED = 0.3  # share of the jobs after which a worker is killed


def sets_of(folder: Path, jobs: int) -> Path:
    """Copies of layer 33's set, each with a file beside it that makes it another content and changes nothing else."""
    for number in range(jobs):
        copy = folder / "sets" / f"s{number:03d}"
        shutil.copytree(ROOT / "vectors/features_33", copy)
        (copy / "number").write_text(f"{number}\n")
    return folder / "sets"


def own_time(folder: Path, simulator: str) -> float:
    """Seconds that the simulator itself takes for a smooth run, whose build is there."""
    seconds: list[float] = []
    run_bench = sim_run.run_bench

    def timed(*arguments: object) -> int:
        begin = time.perf_counter()
        status = run_bench(*arguments)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - begin)
        return status

    sim_run.run_bench = timed  # type: ignore[assignment]
    try:
        for _ in range(6):
            simulate(folder, simulator).check()
    finally:
        sim_run.run_bench = run_bench
    return min(seconds)


def against_make(folder: Path, sets: Path, simulator: str, jobs: int) -> None:
    """The rate of regress --jobs 2, that of make -j2, and what regress adds to the simulator's own time."""
    plan = folder / f"{simulator}.toml"
    plan.write_text(f'sets = ["{sets}"]\nsimulators = ["{simulator}"]\nstreams = ["smooth"]\n')
    own = own_time(sets / "s000", simulator)
    names = [path.name for path in sorted(sets.iterdir())]
    line = " ".join(["@" + sys.executable, "-c", "'from qexport.cli import main; main()'", "simulate"])
    rules = "".join(
        f"{name}:\n\t{line} {sets / name} --simulator {simulator} --streams smooth > /dev/null\n" for name in names
    )
    makefile = folder / f"{simulator}.mk"
    makefile.write_text(f".PHONY: all {' '.join(names)}\nall: {' '.join(names)}\n{rules}")
    made = _seconds(["make", "-j2", "-f", str(makefile), "all"])
    ran = _seconds([*PROGRAM, "regress", str(plan), "--store", str(folder / f"{simulator}.store"), "--jobs", "2"])
    print(
        f"  {simulator:9}  {jobs / ran:12.1f}  {jobs / made:11.1f}  {made / ran:5.1f}  {1000 * own:13.1f}"
        f"  {1000 * (2 * ran / jobs - own):15.1f}"
    )


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


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
            of_worker: Sequence[str] = (), of_us: Sequence[str] = ()) -> None:  # fmt: skip
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
    print(f"  {host}: {passed} of {jobs} jobs passed, {len(files)} results, {len({*files})} of them different")
    assert passed == len(files) == jobs


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
    print(f"\nqexport regress, {jobs} smooth runs of layer 33, two at once")
    print("  simulator  regress, 1/s  make -j2, 1/s  ratio  simulator, ms  overhead, ms (goal: under 30)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["QEXPORT_CACHE"] = name
        sets = sets_of(folder, jobs)
        for simulator in simulators:
            against_make(folder, sets, simulator, jobs)
        print("the same on a Dask cluster of four workers, one killed in the middle")
        on_dask(folder, sets, simulators[-1], jobs)
        if shutil.which("ip") is None or os.geteuid() != 0:
            print("  two hosts: needs iproute2 and root for network namespaces, not run")
            return
        with two_hosts() as (host, first, second):
            on_dask(folder, sets, simulators[-1], jobs, host, second, first)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *[tuple(sys.argv[2:])] * bool(sys.argv[2:]))
