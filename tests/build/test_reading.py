"""Commands that only read work where the system has neither fcntl nor an exchange of folders."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BARE = """
import ctypes, sys
sys.modules["fcntl"] = None  # its import fails
class Bare:
    def __init__(self, *args, **kwargs): pass
ctypes.CDLL = Bare
from qexport.cli import main
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "{set}"),
        ("show", "{set}", "weight.hex:5"),
        ("diagnose", "{set}", "--actual", "{set}/relu.hex"),
        ("explain", "{set}", "--at", "0,5,2,3"),
        ("strength", "{set}"),
    ],
    ids=lambda command: command[0],
)
def test_a_reading_command_needs_no_locks(command: tuple[str, ...], set_of: Callable[[str], Path]) -> None:
    arguments = [part.format(set=set_of("default")) for part in command]
    done = subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_dump_works_there_too(set_of: Callable[[str], Path], tmp_path: Path) -> None:
    capture = set_of("default") / "capture.safetensors"
    arguments = ("dump", "--capture", str(capture), "--out", str(tmp_path / "out"))
    for said in ("", "unchanged"):
        done = subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["features_33"]
