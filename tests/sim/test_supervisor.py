"""Children end with the call that started them, whatever ends it, and keep within their limits."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from qexport.errors import CheckFailed
from qexport.sim import supervisor
from qexport.sim.run import run_bench, simulate
from qexport.sim.supervisor import CutOff, call, supervise, workers
from qexport.sim.work import PREFIX, ROOM, scratch_folder
from tests.conftest import cli, disk, fails
from tests.sim.conftest import LIMITS, edited

QEXPORT = [sys.executable, "-c", "from qexport.cli import main; main()"]
FOREVER = "import time\nwhile True: time.sleep(1000)"


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, however slow the machine is."""
    given_up = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < given_up
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running_in(folder: Path) -> list[int]:
    """The processes whose working folder lies in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str(folder) in os.readlink(process / "cwd"):
                found.append(int(process.name))
        except OSError:  # it has gone, or is another user's
            continue
    return [pid for pid in found if alive(pid)]


@pytest.fixture
def looping(tiny_set: Path, tmp_path: Path) -> Path:
    return edited(
        tiny_set / "dut.sv", tmp_path / "loop.sv", [("\nendmodule", "\ninitial while (1) begin end\nendmodule")]
    )


@contextmanager
def simulating(folder: Path, dut: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `qexport simulate` whose simulator is in its loop."""
    scratch.mkdir()
    command = [*QEXPORT, "simulate", str(folder), "--dut", str(dut), "--simulator", "icarus"]
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as process:  # fmt: skip
        try:
            until(lambda: vvp(scratch) or process.poll() is not None)
            assert process.poll() is None
            yield process
        finally:
            process.kill()
            for pid in running_in(scratch):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def vvp(scratch: Path) -> list[int]:
    """The simulators that run in a scratch folder."""
    found = []
    for pid in running_in(scratch):
        with suppress(OSError):  # it has gone meanwhile
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"vvp"):
                found.append(pid)
    return found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_simulator_and_takes_scratch_along(
    number: int, status: int, tiny_set: Path, looping: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    with simulating(tiny_set, looping, scratch) as process:
        [simulator] = vvp(scratch)
        process.send_signal(number)
        assert process.wait() == status
        until(lambda: not alive(simulator))  # it is killed by then; a busy machine takes a moment to end it
        until(lambda: running_in(scratch) == [])
        assert list(scratch.iterdir()) == []


def test_scratch_of_an_owner_that_was_killed_goes_at_the_next_start(
    tiny_set: Path, looping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    with simulating(tiny_set, looping, scratch) as process:
        process.kill()
        process.wait()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (scratch / "qexport-mine").mkdir()  # is no scratch of ours
    assert len(list(scratch.glob(f"{PREFIX}*"))) == 1
    with scratch_folder() as held, scratch_folder() as other:
        assert held.is_dir(), "what is held stays"
        assert {*scratch.iterdir()} == {held, other, scratch / "qexport-mine"}
    assert [path.name for path in scratch.iterdir()] == ["qexport-mine"]


def test_the_time_limit_is_an_option(tiny_set: Path, looping: Path) -> None:
    for limit in LIMITS:
        result = cli("simulate", tiny_set, "--dut", looping, "--simulator", "icarus", "--time-limit", limit)
        if "compiles" not in result.stderr:
            break
    assert result.exit_code == 1
    assert f"no end after {limit} s; the design hangs" in result.stderr


def test_shrink_has_a_time_limit_too(tiny_set: Path, looping: Path, tmp_path: Path) -> None:
    line = ("shrink", tiny_set, "--simulator", "icarus", "--dut", looping, "--out", tmp_path / "small", "--time-limit")
    for limit in LIMITS:
        result = cli(*line, limit)
        if "compiles" not in result.stderr:
            break
    assert result.exit_code == 1, result.output
    assert f"no end after {limit} s; the design hangs" in result.stderr
    fails(cli(*line, "nan"), "--time-limit nan is not a number of seconds")


def test_selftest_takes_seconds_only(tiny_set: Path) -> None:
    fails(cli("selftest", tiny_set, "--time-limit", "nan"), "--time-limit nan is not a number of seconds")


def test_a_signal_while_a_child_starts_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it arrives between the start of the child and Popen's return."""
    started: list[int] = []

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    with pytest.raises(KeyboardInterrupt):
        call([sys.executable, "-c", FOREVER])
    until(lambda: not alive(started[0]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


IN_NATIVE_CODE = """
import os, signal, sys
def interrupt(frame, event, argument):
    callers = frame
    while callers and not callers.f_code.co_filename.endswith("pyslang/__init__.py"):
        callers = callers.f_back
    if callers and frame.f_code.co_filename.endswith("/enum.py"):  # what the compiled module calls to make its enums
        sys.setprofile(None)
        os.kill(os.getpid(), signal.{name})
sys.setprofile(interrupt)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_within_a_compiled_modules_import_ends_in_one_line(tiny_set: Path, name: str, status: int) -> None:
    program = f"{IN_NATIVE_CODE.format(name=name)}\n{QEXPORT[-1]}"
    line = [*QEXPORT[:-1], program, "simulate", tiny_set, "--dut", tiny_set / "dut.sv", "--simulator", "icarus"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_a_flood_without_newlines_is_cut_off(tiny_set: Path, tmp_path: Path) -> None:
    flood = 'reg [8191:0] text = {1024{8\'h78}};\ninitial forever $write("%0s", text);'
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("\nendmodule", f"\n{flood}\nendmodule")])
    with pytest.raises(CheckFailed, match="more than 64 MiB of output"):
        simulate(tiny_set, "icarus", [dut], keep=tmp_path / "keep").check()
    size = (tmp_path / "keep" / "run.log").stat().st_size
    assert 60 << 20 < size <= 64 << 20


def test_a_design_that_takes_too_much_memory_is_cut_off(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MEMORY_LIMIT", 1 << 30)
    grow = "int grown [$];\ninitial forever grown.push_back(1);"
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("\nendmodule", f"\n{grow}\nendmodule")])
    with pytest.raises(CheckFailed, match="out of memory; a process may take 1 GiB"):
        simulate(tiny_set, "icarus", [dut]).check()


def test_what_a_child_starts_ends_with_it_and_its_open_pipes_hold_nobody_up() -> None:
    done = call(["sh", "-c", "sleep 1000 & echo $!; exit 3"])
    assert done.returncode == 3
    until(lambda: not alive(int(done.stdout)))


def test_what_a_child_prints_at_its_end_is_there_however_late_we_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may print and end between our look at its pipes and our look whether it runs."""
    asked = supervisor._ended

    def late(process: subprocess.Popen[bytes]) -> bool:
        time.sleep(0.1)
        return asked(process)

    monkeypatch.setattr(supervisor, "_ended", late)
    for seconds in (0.04, 0.25, 0.35):
        assert call(["sh", "-c", f"sleep {seconds}; echo said"]).stdout == "said\n"


def test_what_a_child_leaves_among_temporary_files_lies_in_its_folder(tmp_path: Path) -> None:
    assert call(["sh", "-c", "mktemp"], cwd=tmp_path).stdout.startswith(f"{tmp_path}/")


def test_the_group_ends_at_the_time_limit(tmp_path: Path) -> None:
    script = f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {FOREVER!r}]).pid, flush=True)\n"
    printed = io.BytesIO()
    with pytest.raises(CutOff, match="no end after 2 s"):
        supervise([sys.executable, "-c", script + FOREVER], printed, io.BytesIO(), limit=2)
    if printed.getvalue():  # it may not have come that far
        until(lambda: not alive(int(printed.getvalue())))


def test_no_child_outlives_threads_that_an_exception_ends(tmp_path: Path) -> None:
    script = f"import os, sys\nopen(os.path.join({str(tmp_path)!r}, str(os.getpid())), 'w')\n{FOREVER}"
    with pytest.raises(KeyboardInterrupt), workers() as pool:  # noqa: PT012
        futures = [pool.submit(call, [sys.executable, "-c", script]) for _ in range(20)]
        until(lambda: list(tmp_path.iterdir()))
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def test_a_full_disk_is_said_and_ends_the_child(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        run_bench(["sh", "-c", "echo much; exec sleep 1000"], tmp_path, Path("/dev/full"), 600, print)
    until(lambda: not running_in(tmp_path))


def test_a_full_disk_ends_in_one_line(tiny_set: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "run.log").symlink_to("/dev/full")
    fails(cli("simulate", tiny_set, "--simulator", "icarus", "--keep", keep), "No space left on device", "run.log")


@pytest.mark.parametrize("command", ["simulate", "shrink", "selftest"])
def test_a_full_temporary_folder_is_said_at_once(
    tiny_set: Path, looping: Path, small_disk: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    more = ["--dut", looping, "--out", tmp_path / "small"] if command == "shrink" else []
    result = cli(command, tiny_set, "--simulator", "icarus", *more)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"qexport: error: temporary folder: {small_disk} has room for \d+ KiB, a bench needs 16 MiB; .*TMPDIR", last
    )
    assert list(small_disk.iterdir()) == []


def test_a_temporary_folder_that_becomes_full_leaves_no_cut_off_build(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    with disk(tmp_path / "disk", "20m") as folder:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        filler = folder / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(folder).free - ROOM - (40 << 10)))
        fails(cli("simulate", tiny_set, "--simulator", "icarus"), f"{folder} has room for", "TMPDIR")
        filler.unlink()
        assert cli("simulate", tiny_set, "--simulator", "icarus").exit_code == 0
