"""Changed files of every kind: a seeded sample of the fuzzer's runs; `make fuzz` tries 3,000."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.attack import fault
from tests.fuzz.targets import KINDS

RUNS = 29  # of each of the seven kinds
SECONDS = 300  # of each kind; what is not tried by then is not tried


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_on_a_changed_file_ends_with_one_line_inside_the_budget(kind: str, tmp_path: Path) -> None:
    """In a program of its own: it forks, which threads of other tests would not survive."""
    command = [sys.executable, "-m", "tests.fuzz.attack", "--kind", kind, "--runs", str(RUNS)]
    limits = ["--seconds", str(SECONDS), "--work", str(tmp_path)]
    done = subprocess.run(
        [*command, *limits], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(rf"{kind}: [1-9]\d* cases, 0 faults", done.stdout)


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
