"""Commands that read a set work on one that nobody may write to, and leave it as it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.conftest import copied, state

QEXPORT = (sys.executable, "-c", "from qexport.cli import main; main()")
# what overrides permissions; without it they bind root, too
PLAIN_ROOT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
EXAMPLE = Path(__file__).parent.parent.parent / "vectors" / "features_33"
COMMANDS = {
    "verify": (), "show": ("relu.hex:1",), "strength": (), "rtl": ("--out", "{tmp}/rtl"),
    "stub": ("--style", "stream", "--out", "{tmp}/stub"),
    "simulate": ("--simulator", "icarus", "--keep", "{tmp}/keep", "--waves", "vcd"),
    "dump": ("--out", "{tmp}/again"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bound() -> tuple[str, ...]:
    """What is put before a command so that permissions bind it; skipped where they cannot, except in CI."""
    if os.geteuid() != 0:
        return ()
    allowed = shutil.which("setpriv") and subprocess.run([*PLAIN_ROOT, "true"], check=False).returncode == 0
    if not allowed:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no setpriv that takes root its rights")
    return PLAIN_ROOT


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example set in a folder of sets, without any right to write."""
    folder = tmp_path_factory.mktemp("sealed") / "features_33"
    copied(EXAMPLE, folder)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


def test_permissions_bind(bound: tuple[str, ...], sealed: Path) -> None:
    for target in (sealed / "new", sealed / "relu.hex"):
        done = subprocess.run([*bound, "sh", "-c", f"echo >> '{target}'"], capture_output=True, text=True, check=False)
        assert "ermission denied" in done.stderr
        assert done.returncode != 0


@pytest.mark.parametrize("command", COMMANDS)
def test_reading_command_works_on_a_read_only_set_and_writes_nothing_into_it(
    command: str, bound: tuple[str, ...], sealed: Path, tmp_path: Path
) -> None:
    before = state(sealed)
    options = [option.format(tmp=tmp_path) for option in COMMANDS[command]]
    given = ["--capture", sealed / "capture.safetensors"] if command == "dump" else [sealed]
    done = subprocess.run(
        [*bound, *QEXPORT, command, *map(str, given), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(sealed) == before


def test_make_sim_runs_in_a_read_only_set(bound: tuple[str, ...], sealed: Path) -> None:
    before = state(sealed)
    done = subprocess.run([*bound, "make", "-C", sealed, "sim"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(sealed) == before
