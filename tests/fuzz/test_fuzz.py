"""Changed files of every kind: a seeded sample of the fuzzer's runs; `make fuzz` tries 3,000."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.attack import fault
from tests.fuzz.targets import KINDS

RUNS = {"seeded": 12, "by hypothesis": 4}  # of each of the kinds
SECONDS = 300  # of each kind; what is not tried by then is not tried


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of its own: the fuzzer forks, which threads of other tests would not survive."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("way", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_run_on_a_changed_file_ends_with_one_line_inside_the_budget(kind: str, way: str, tmp_path: Path) -> None:
    limits = ["--runs", str(RUNS[way]), "--seconds", str(SECONDS), "--work", str(tmp_path)]
    more = ["--by-hypothesis"] if way == "by hypothesis" else []
    done = program("-m", "tests.fuzz.attack", "--kind", kind, *limits, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(rf"{kind}: [1-9]\d* cases, 0 faults", done.stdout)


PLANTED = """
import sys
from pathlib import Path
from tests.fuzz import attack
attack.KINDS["planted"] = lambda target, rng, case: ["verify", "a" * rng.randrange(100)]
attack.fault = lambda status, printed, complaints: "planted" if "a" * 10 in complaints else None
[line] = attack.attack_by_hypothesis("planted", 0, 100, 600, Path(sys.argv[1]))[1]
print(line.split()[-1])
"""


def test_hypothesis_finds_the_smallest_case_of_a_fault(tmp_path: Path) -> None:
    done = program("-c", PLANTED, str(tmp_path))
    assert done.stdout == "aaaaaaaaaa\n", done.stdout + done.stderr


def test_the_fuzzer_notices_what_must_not_be() -> None:
    assert fault(0, "", "") is None
    assert fault(1, "FAIL", "qexport: error: verify: bad") is None
    assert fault(2, "", "qexport: error: layout: bad") is None
    for status, complaints, why in (
        (3, "qexport: error: internal: KeyError", "exit status 3"),
        (-11, "", "exit status -11"),
        (-24, "", "no end"),
        (1, "Traceback (most recent call last):\nKeyError", "a traceback"),
        (2, "thread '<unnamed>' panicked at x.rs", "a traceback"),
        (2, "", "no line"),
        (2, "qexport: error: out of memory: 9 GiB; choose smaller sizes", "more than"),
        (2, f"qexport: error: {'x' * 5000}", "characters"),
    ):
        assert why in str(fault(status, "", complaints)), complaints
