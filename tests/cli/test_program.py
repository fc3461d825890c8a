"""The program around the commands: what it loads, its help, its exit codes whatever happens to its streams."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from qexport.cli.common.program import main, summaries
from qexport.cli.common.progress import show_progress
from qexport.cli.layout import _EXAMPLE_SIZES
from qexport.core.operations.registry import AXES
from qexport.layout.order import BIT_AXIS
from tests.conftest import cli

EXAMPLE = Path(__file__).parents[2] / "vectors/features_33"
PROGRAM = "from qexport.cli import main; main()"
HEAVY = {"rich", "jinja2", "pyslang", "torch", "onnx", "bincopy", "bitstring", "matplotlib", "zipfile"}

SUMMARIES = summaries()


def run(*arguments: object, before: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, after some statements."""
    command = [sys.executable, "-c", f"{before}\n{PROGRAM}", *map(str, arguments)]
    return subprocess.run(command, **({"capture_output": True, "text": True, "check": False} | options))  # type: ignore[call-overload, no-any-return]


def loaded(*arguments: str) -> set[str]:
    """The modules that a call loads."""
    before = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))"
    done = run(*arguments, before=before)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """The example set with a changed memory file."""
    folder = tmp_path / "bad"
    shutil.copytree(EXAMPLE, folder)
    text = (folder / "weight.hex").read_text()
    (folder / "weight.hex").write_text(("0" if text[0] != "0" else "1") + text[1:])
    return folder


# --- what is loaded -------------------------------------------------------------------------------------------------


def test_verify_loads_only_what_it_needs() -> None:
    found = loaded("verify", str(EXAMPLE))
    assert HEAVY & found == {"jinja2"}  # when all else holds, for the fresh rendering of the bench
    rooms = {name.split(".")[1] for name in found if name.startswith("qexport.")}
    assert rooms == {"errors", "core", "layout", "sets", "build", "bench", "cli"}
    assert {name for name in found if name.startswith("qexport.cli.")} == {
        f"qexport.cli.{name}" for name in ("common", "common.program", "common.options", "common.output", "verify")
    }


def test_verify_imports_no_templates_before_it_needs_them() -> None:
    before = (
        "from qexport.cli import main; main.commands['verify']; import json, sys; print(json.dumps([*sys.modules]))"
    )
    done = run("--help", before=before)
    assert not HEAVY & set(json.loads(done.stdout.splitlines()[0]))


def test_help_loads_no_command() -> None:
    found = loaded("--help")
    assert {name for name in found if name.startswith("qexport.cli.")} == {
        "qexport.cli.common",
        "qexport.cli.common.program",
    }
    assert not (HEAVY | {"numpy"}) & found


def test_each_file_is_a_command() -> None:
    assert {"dump", "verify", "simulate"} <= SUMMARIES.keys() == set(main.commands)
    for name in SUMMARIES:
        assert main.commands[name].name == name


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_table_says_what_the_commands_own_help_says(name: str) -> None:
    assert main.commands[name].get_short_help_str(200) == SUMMARIES[name]


@pytest.mark.parametrize("arguments", [(), ("layout",)])
def test_help_shows_whole_sentences_at_80_columns(arguments: tuple[str, ...]) -> None:
    lines = cli(*arguments, "--help").stdout.splitlines()
    listed = lines[lines.index("Commands:") + 1 :]
    group = main.commands["layout"] if arguments else main
    assert isinstance(group, click.Group)
    assert [line.split()[0] for line in listed] == sorted(group.commands)  # a line each
    assert max(map(len, lines)) <= 80
    assert "..." not in "".join(listed)


# --- exit codes -----------------------------------------------------------------------------------------------------


def to_closed_pipe(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The program with nobody who reads its stdout."""
    read, write = os.pipe()
    os.close(read)
    try:
        return run(*arguments, capture_output=False, stdout=write, stderr=subprocess.PIPE, **options)
    finally:
        os.close(write)


@pytest.mark.parametrize("command", ["verify", pytest.param("simulate", marks=pytest.mark.whole)])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failed_check_stays_one_when_the_reader_goes_away(bad: Path, command: str, options: tuple[str, ...]) -> None:
    done = to_closed_pipe(command, bad, *options)
    assert done.returncode == 1
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_success_stays_one_when_the_reader_goes_away() -> None:
    done = to_closed_pipe("verify", EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shells_pipe_sees_the_failure(bad: Path) -> None:
    script = f'"$0" -c "{PROGRAM}" verify "$1" | grep -q bad; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script, sys.executable, bad], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_a_reader_of_both_streams_that_goes_away_changes_no_exit_code(bad: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("verify", bad, capture_output=False, stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_are_no_error(bad: Path, closed: str) -> None:
    for folder, code in ((EXAMPLE, 0), (bad, 1)):
        for options in ("", "--json"):
            script = f'"$0" -c "{PROGRAM}" verify "$1" {options} {closed}'
            command = ["bash", "-c", script, sys.executable, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr
            assert not done.stdout or closed == "2>&-"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_output_that_does_not_fit_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = run("verify", EXAMPLE, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "qexport: error: No space left on device; check the path, its permissions and the room on the disk"
    ]


FAULT = "import qexport.build.verify as room\ndef fault(path): raise KeyError('two\\nlines')\nroom.verify = fault"


def test_an_internal_error_asks_for_a_report_and_keeps_the_traceback(tmp_path: Path) -> None:
    done = run("verify", EXAMPLE, before=FAULT, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    [record] = tmp_path.iterdir()
    assert line.startswith("qexport: error: internal: KeyError: ")
    assert "report" in line
    assert line.endswith(str(record))
    assert "Traceback" in record.read_text()
    assert "in fault" in record.read_text()


def test_an_internal_error_in_a_folder_that_is_full_is_said_all_the_same() -> None:
    before = f"import tempfile; tempfile.tempdir = '/nowhere/at/all'\n{FAULT}"
    done = run("verify", EXAMPLE, before=before)
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert "could not be written" in line


INTERRUPT = """
import os, signal, sys, weakref
class Attribute:
    def __set_name__(*_):
        os.kill(os.getpid(), signal.SIGINT)
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            {interrupt}
sys.modules.pop({name!r}, None)
sys.meta_path.insert(0, Finder())
"""
INTERRUPTS = {
    "plain": "os.kill(os.getpid(), signal.SIGINT)",
    "wrapped": "type('Made', (), {'attribute': Attribute()})",  # in a RuntimeError, by Python 3.11
    "lost": "made = Attribute(); kept = weakref.ref(made, Attribute.__set_name__); del made",
}


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize(
    "name", ["typing", "click", "qexport.cli.common.program", "qexport.cli.verify", "numpy", "qexport.core.golden"]
)
def test_ctrl_c_while_the_program_imports_ends_in_one_line(name: str, interrupt: str) -> None:
    done = run("verify", EXAMPLE, before=INTERRUPT.format(name=name, interrupt=INTERRUPTS[interrupt]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "qexport: error: interrupted\n")


def test_ctrl_c_while_python_cleans_up_says_nothing() -> None:
    before = "import atexit, os, signal; atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))"
    done = run("verify", EXAMPLE, before=before)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout


def test_layout_show_knows_a_size_for_every_axis() -> None:
    axes = {axis for axes in AXES.values() for axis in axes}
    assert set(_EXAMPLE_SIZES) >= axes | {BIT_AXIS, "level"}


def test_progress_is_told_on_a_machine_that_just_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    with show_progress(lines=True) as tell:
        tell("work", 0, 2)
        tell("work", 1, 2)
    assert capsys.readouterr().err == "qexport: work: 0 of 2\n"
