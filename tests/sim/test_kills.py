"""Commands that are killed at random moments leave old or new things whole, no child, and no scratch for long.

CI takes a handful of moments for each, `make kills` a hundred (QEXPORT_KILLS).
"""

import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from qexport.sim.work import clear_stale
from tests.conftest import cli, make_capture
from tests.frontends.networks import small_network
from tests.sim.conftest import edited, tiny_capture
from tests.sim.test_supervisor import QEXPORT, alive, until

KILLS = int(os.environ.get("QEXPORT_KILLS", "4"))
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
MARK = "QEXPORT_TEST_MARK"  # in the environment of a command and of all that it starts


class Killed:
    """Runs a command over and over, each time killed at another moment of the time that it took undisturbed."""

    def __init__(self, scratch: Path, seed: str) -> None:
        self.scratch, self.mark = scratch, secrets.token_hex(8)
        self.random = random.Random(seed)
        self.ends = Counter[int]()
        self.env = {**os.environ, "TMPDIR": str(scratch), MARK: self.mark}
        scratch.mkdir()

    def run(self, *command: object) -> float:
        """Seconds of the command when nothing disturbs it."""
        began = time.monotonic()
        subprocess.run(self._line(command), check=True, env=self.env, capture_output=True)
        assert self._children() == []
        return time.monotonic() - began

    def kill(self, within: float, *command: object) -> float:
        """Kill the command at a random moment; only SIGKILL may leave anything that runs, for a while.

        The moment lies `within` so many seconds; fewer are returned where the command had ended by itself before it.
        """
        number = self.random.choice(list(SIGNALS))
        began = time.monotonic()
        with subprocess.Popen(
            self._line(command), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        ) as process:  # fmt: skip
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(0, within))
                within = min(within, time.monotonic() - began)
            process.send_signal(number)
            if number != signal.SIGKILL:  # whose children hold its stderr
                said = process.communicate()[1].decode()
                assert "Traceback" not in said or only_python_ran(said), said
            status = process.wait()
        self.ends[status] += 1
        left = self._children()
        if number == signal.SIGKILL:
            for pid in left:
                with suppress(ProcessLookupError):  # it ended by itself, once its parent was gone
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not self._children())
        assert number == signal.SIGKILL or left == [], [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        assert status in (0, 1, SIGNALS[number], -number), (status, number)
        return within

    def _line(self, command: tuple[object, ...]) -> list[str]:
        return [*QEXPORT, *map(str, command)]

    def _children(self) -> list[int]:
        """All that runs and bears the mark."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and self.mark.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:  # it has gone, or is another user's
                continue
        return [pid for pid in found if alive(pid)]


def only_python_ran(complaint: str) -> bool:
    """Whether the signal came before any line of the product ran: what Python says then, nobody can change."""
    frames = re.findall(r'^ *File "(.*)", line', complaint, re.MULTILINE)
    looking_for_it = all(frame == "<string>" or frame.startswith("<frozen importlib.") for frame in frames)
    return looking_for_it or complaint.startswith("Fatal Python error: init")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def killed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Killed]:
    killed = Killed(tmp_path / "scratch", request.node.name)
    yield killed
    print("ended: " + ", ".join(f"{count} with {status}" for status, count in sorted(killed.ends.items())))


def no_scratch(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next writer leaves of the scratch folders of those that were killed: nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(killed.scratch))
    clear_stale()
    assert list(killed.scratch.iterdir()) == []


def test_dump_of_all_layers(killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tmp_path / "network.pth"
    torch.save(small_network().state_dict(), network)
    line = ("dump", "--all", "--checkpoint", network, "--force", "--out")
    seconds = max([killed.run(*line, tmp_path / str(images), "--images", images) for images in (1, 2)])
    whole = [contents(tmp_path / str(images)) for images in (1, 2)]
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "1", out)
    (tmp_path / "other.safetensors").write_bytes(make_capture(name="other").to_bytes())
    for _ in range(KILLS):
        seconds = killed.kill(seconds, *line, out, "--images", killed.random.choice((1, 2)))
        read = cli("verify", out)
        there = {name: data for name, data in contents(out).items() if not name.startswith(".qexport")}
        assert there in whole or "may hold old and new sets side by side" in read.stderr
        assert cli("dump", "--capture", tmp_path / "other.safetensors", "--out", out).exit_code == 0
        shutil.rmtree(out / "other")
        assert contents(out) in whole
    no_scratch(killed, monkeypatch)


def test_shrink(killed: Killed, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("$signed(w)", "$signed({1'b0, w})")])
    line = ("shrink", tiny_set, "--dut", dut, "--simulator", "icarus", "--out")
    seconds = killed.run(*line, tmp_path / "whole" / "small")
    for number in range(KILLS):
        out = tmp_path / "out" / f"{number}"
        seconds = killed.kill(seconds, *line, out)
        assert not out.exists() or cli("verify", out).exit_code == 0
        (tmp_path / "other.safetensors").write_bytes(tiny_capture().to_bytes())
        assert cli("dump", "--capture", tmp_path / "other.safetensors", "--out", tmp_path / "out").exit_code == 0
        assert out.exists() == out.with_name(f"{number}.actual").exists()
        assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    no_scratch(killed, monkeypatch)


def test_simulate(killed: Killed, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, cache = contents(tiny_set), tmp_path / "cache"
    killed.env["QEXPORT_CACHE"] = str(cache)
    seconds = {name: killed.run("simulate", tiny_set, "--simulator", name) for name in ("icarus", "verilator")}
    for number in range(KILLS):
        name = "verilator" if number % 4 == 3 else "icarus"  # one builds for long, the other not at all
        shutil.rmtree(cache)  # so that it builds
        seconds[name] = killed.kill(
            seconds[name], "simulate", tiny_set, "--simulator", name, "--keep", tmp_path / "keep"
        )
        assert contents(tiny_set) == before
        killed.run("simulate", tiny_set, "--simulator", name)
    no_scratch(killed, monkeypatch)


def test_selftest(killed: Killed, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, cache = contents(tiny_set), tmp_path / "cache"
    killed.env["QEXPORT_CACHE"] = str(cache)
    seconds = 20 * killed.run("simulate", tiny_set, "--simulator", "icarus")
    for _ in range(KILLS):
        shutil.rmtree(cache)
        seconds = killed.kill(seconds, "selftest", tiny_set, "--simulator", "icarus", "--sample", 2)
        assert contents(tiny_set) == before
        killed.run("simulate", tiny_set, "--simulator", "icarus")
    no_scratch(killed, monkeypatch)


@pytest.mark.parametrize("style", ["ws", "os"])
def test_rtl(killed: Killed, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    seconds = killed.run("rtl", tiny_set, "--style", style, "--out", tmp_path / "whole")
    out = tmp_path / "out"
    for _ in range(KILLS):
        seconds = killed.kill(seconds, "rtl", tiny_set, "--style", style, "--out", out / "array")
        assert not (out / "array").exists() or contents(out / "array") == contents(tmp_path / "whole")
        killed.run("rtl", tiny_set, "--style", style, "--out", out / "next")
        assert {path.name for path in out.iterdir()} <= {"array", "next"}
        shutil.rmtree(out)
    no_scratch(killed, monkeypatch)


def test_exhaust(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent.parent
    line = ("exhaust", root / "vectors/features_33", "--dut", root / "docs/examples/post.sv", "--top", "post")
    before = contents(root / "vectors/features_33")
    seconds = killed.run(*line)
    for _ in range(KILLS):
        seconds = killed.kill(seconds, *line)
        assert contents(root / "vectors/features_33") == before
    no_scratch(killed, monkeypatch)
