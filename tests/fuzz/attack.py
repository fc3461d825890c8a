"""The fuzzer: changed files against the program. Each run ends with 0, 1 or 2, one line, inside a budget.

python -m tests.fuzz.attack --runs 700 --seed 1 [--kind layouts] [--seconds 600] [--by-hypothesis]

Each case depends on its kind, the seed and its number alone: `--only NUMBER` runs one again. By hypothesis, the changes
are hypothesis' choices, and it looks for the smallest that still shows a fault. Each case runs in a forked child, so
that nothing is imported again; one of many runs as a program of its own.
"""

import argparse
import faulthandler
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from qexport.cli import main
from tests.fuzz.targets import KINDS, Target

MEMORY = 2 << 30  # bytes of address space beyond what the idle program has
CPU = 30  # seconds of the processor, so that other programs do not matter
HANGING = 600  # seconds of the clock, which only what waits for ever takes
OUTPUT = 4 << 20  # bytes
LONGEST_LINE = 4000  # characters on stderr
FRESH = 25  # one of so many runs in a program of its own


def ended(arguments: list[str], case: Path, fresh: bool) -> tuple[int, str, str]:
    """Exit status (negative: the signal), what was printed and what was complained of."""
    files = [case / "stdout", case / "stderr"]
    pid = os.fork()
    if pid == 0:
        _child(arguments, files, case, fresh)
    given_up = time.monotonic() + HANGING
    while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > given_up:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    status = os.waitstatus_to_exitcode(found[1])
    return status, *(file.read_text(errors="replace")[: 2 * OUTPUT] for file in files)


def _child(arguments: list[str], files: list[Path], case: Path, fresh: bool) -> None:
    status = 70  # none that the program has
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ["TMPDIR"] = tempfile.tempdir = str(case)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20,) * 2)
        faulthandler.dump_traceback_later(HANGING / 2)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "qexport", *arguments])
        main.main(args=arguments, prog_name="qexport")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fault(status: int, printed: str, complaints: str) -> str | None:
    """What is wrong with the end of a run; None when it ended as it must."""
    lines = complaints.splitlines()
    errors = [line for line in lines if line.startswith("qexport: error:")]
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        where = next((line.strip() for line in lines if line.startswith("  File")), "")
        return f"no end within {CPU} s of the processor or {HANGING} s of the clock {where}"
    if status not in (0, 1, 2):
        return f"exit status {status}: {errors[-1] if errors else ' | '.join(lines[-3:])}"
    if "Traceback" in complaints or "panicked" in complaints:
        return f"a traceback: {lines[-1]}"
    if any("out of memory" in line for line in errors):
        return f"more than {MEMORY >> 30} GiB: {errors[-1]}"
    if status == 2 and not errors:
        return f"no line that says what is wrong: {' | '.join(lines[-3:])}"
    if max(map(len, lines), default=0) > LONGEST_LINE:
        return f"a line of {max(map(len, lines))} characters: {max(lines, key=len)[:300]}"
    if len(printed) + len(complaints) > OUTPUT:
        return f"more than {OUTPUT >> 20} MiB of output"
    return None


def attack(kind: str, start: int, numbers: range, seconds: float, work: Path) -> tuple[Counter[int], list[str]]:
    """How the cases of a kind ended that were tried within the time, and a line for each that ended as it must not."""
    given_up = time.monotonic() + seconds
    faults, statuses = [], Counter[int]()
    with tempfile.TemporaryDirectory(dir=work) as base:
        target = Target(Path(base))
        for number in numbers:
            if time.monotonic() > given_up:
                break
            case = work / f"{kind}-{start}-{number}"
            case.mkdir()
            rng = random.Random(f"{kind} {start} {number}")
            arguments = KINDS[kind](target, rng, case)
            status, *said = ended(arguments, case, fresh=number % FRESH == 0)
            statuses[status] += 1
            wrong = fault(status, *said)
            if wrong is None:
                shutil.rmtree(case)
            else:
                faults.append(f"{case.name}: {wrong}\n    qexport {' '.join(arguments)}")
    return statuses, faults


def attack_by_hypothesis(
    kind: str, start: int, runs: int, seconds: float, work: Path
) -> tuple[Counter[int], list[str]]:
    """As `attack`, with the cases that hypothesis chooses; of a fault it gives the smallest case."""
    given_up = time.monotonic() + seconds
    faults, statuses = list[str](), Counter[int]()
    with tempfile.TemporaryDirectory(dir=work) as base:
        target = Target(Path(base))

        @seed(start)
        @settings(max_examples=runs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False))
        def ends_as_it_must(rng: random.Random) -> None:
            if time.monotonic() > given_up:
                return
            case = Path(tempfile.mkdtemp(dir=work))
            arguments = KINDS[kind](target, rng, case)
            status, *said = ended(arguments, case, fresh=False)
            statuses[status] += 1
            wrong = fault(status, *said)
            if wrong is not None:
                faults[:] = [f"{case.name}: {wrong}\n    qexport {' '.join(arguments)}"]
            else:
                shutil.rmtree(case)
            assert wrong is None

        with suppress(AssertionError):
            ends_as_it_must()
    return statuses, faults


def run() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kind", choices=[*KINDS], action="append")
    options.add_argument("--only", type=int)
    options.add_argument("--seconds", type=float, default=3600)
    options.add_argument("--work", type=Path)
    options.add_argument("--by-hypothesis", action="store_true")
    asked = options.parse_args()
    kinds = asked.kind or list(KINDS)
    work = asked.work or Path(tempfile.mkdtemp(prefix="fuzz-"))
    each = -(-asked.runs // len(kinds))
    numbers = range(each) if asked.only is None else range(asked.only, asked.only + 1)
    found = []
    for kind in kinds:
        seconds = asked.seconds / len(kinds)
        if asked.by_hypothesis:
            statuses, faults = attack_by_hypothesis(kind, asked.seed, each, seconds, work)
        else:
            statuses, faults = attack(kind, asked.seed, numbers, seconds, work)
        ends = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items()))
        print(f"{kind}: {statuses.total()} cases, {len(faults)} faults; ended: {ends}", flush=True)
        for line in faults:
            print(f"  {line}", flush=True)
        found += faults
    if found:
        print(f"what was attacked lies in {work}")
    elif asked.work is None:
        shutil.rmtree(work)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(run())
