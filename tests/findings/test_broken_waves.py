"""Waves that the library cannot read: one line, though it panics."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """$scope module top $end
$var wire 1 ! clk $end
$var wire 128 # m_relu_tdata [127:0] $end
$upscope $end
$enddefinitions $end
#0
0!
"""


@pytest.mark.parametrize("body", ["b1 ~\n#5\n1!\n", "b10features #\n#5\n1!\n"], ids=["unknown signal", "no bits"])
def test_a_panic_of_the_library_is_one_line(body: str, set_of: Callable[[str], Path], tmp_path: Path) -> None:
    waves = tmp_path / "waves.vcd"
    waves.write_text(HEAD + body)
    command = [sys.executable, "-m", "qexport", "diagnose", str(set_of("default")), "--actual", str(waves)]
    done = subprocess.run(
        [*command, "--signal", "m_relu_tdata", "--clock", "clk"],
        env={**os.environ, "RUST_BACKTRACE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"{waves} is not a readable VCD or FST file: " in line
