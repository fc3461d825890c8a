"""Twenty runs at once on one fresh cache and one folder: each ends as it would alone."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import cli, make_capture
from tests.sim.test_supervisor import QEXPORT

COUNT = 20


def at_once(commands: Sequence[Sequence[object]], tmp_path: Path) -> list[str]:
    """What each of the commands complains of, when all run at the same time; they must end with 0."""
    for name in ("cache", "scratch"):
        (tmp_path / name).mkdir()
    env = {**os.environ, "QEXPORT_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "scratch")}
    processes = [
        subprocess.Popen(
            [*QEXPORT, *map(str, command)], env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for command in commands
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), said
    assert list((tmp_path / "scratch").iterdir()) == []
    return said


def test_simulations_share_the_build_and_the_folder_of_results(tiny_set: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    command = ("simulate", tiny_set, "--simulator", "icarus", "--keep", keep)
    at_once([command] * COUNT, tmp_path)
    [build] = (tmp_path / "cache").iterdir()
    assert len(list(build.iterdir())) == 1
    log = (keep / "run.log").read_text()
    assert log.count("PASS") == 1, log
    for name in ("relu", "accumulator"):
        assert (keep / f"{name}.hex").read_bytes() == (tiny_set / f"{name}.hex").read_bytes()


def test_dumps_and_readers_share_a_folder(tmp_path: Path) -> None:
    """Ten write two sets over each other; ten read what is there."""
    for seed in (0, 1):
        (tmp_path / f"{seed}.safetensors").write_bytes(make_capture(seed, plane=(2, 2), name="tiny").to_bytes())
    out = tmp_path / "out"
    first = ("dump", "--capture", tmp_path / "0.safetensors", "--out", out)
    subprocess.run([*QEXPORT, *map(str, first)], check=True, capture_output=True)
    writers = [("dump", "--capture", tmp_path / f"{n % 2}.safetensors", "--out", out, "--force") for n in range(10)]
    at_once(writers + [("strength", out)] * 10, tmp_path)
    assert cli("verify", out).exit_code == 0
    assert [path.name for path in out.iterdir()] == ["tiny"]
