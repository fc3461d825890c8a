"""What a run leaves behind: logs, the words that came back, waves; and what it does not build again."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pywellen

from qexport.bench.design import Design
from qexport.core.golden import Golden
from qexport.errors import CheckFailed
from qexport.sim.run import run_bench, simulate
from tests.conftest import checked_dump, cli, fails
from tests.sim.conftest import edited, state, tiny_capture
from tests.sim.test_bench import DUT_FAULTS, on_icarus
from tests.sim.test_ports import without
from tests.sim.test_supervisor import QEXPORT

RESULTS = ("psum", "accumulator", "relu")


@pytest.mark.parametrize(
    ("simulator", "waves"), [("icarus", None), ("icarus", "vcd"), ("verilator", "vcd")], indirect=["simulator"]
)
def test_kept_are_logs_words_and_waves_and_nothing_else(
    simulator: str, waves: str | None, tiny_set: Path, tmp_path: Path
) -> None:
    before, keep = state(tiny_set), tmp_path / "Läufe und Wellen" / "1"
    arguments = ["--simulator", simulator, "--keep", keep, *(["--waves", waves] if waves else [])]
    result = cli("simulate", tiny_set, *arguments)
    assert result.exit_code == 0, result.output
    files = (
        {f"{memory}.hex" for memory in RESULTS} | {"run.log", "verdict.json"} | ({f"waves.{waves}"} if waves else set())
    )
    assert {path.name for path in keep.iterdir()} - {"build.log"} == files
    for memory in RESULTS:
        assert (keep / f"{memory}.hex").read_bytes() == (tiny_set / f"{memory}.hex").read_bytes()
    assert "\nPASS checks=96 nonce=" in (keep / "run.log").read_text()
    if waves:
        recorded = (keep / "waves.vcd").read_text()
        assert "$scope module tb_tiny" in recorded
        assert "$scope module dut" in recorded
        assert " s_weight_tvalid " in recorded
    assert state(tiny_set) == before


def test_fst_waves_can_be_read(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    simulate(tiny_set, simulator, keep=tmp_path, waves="fst").check()
    waves = pywellen.Waveform(str(tmp_path / "waves.fst"))
    assert waves.file_format == "FST"
    signals = {var.full_name: var.signal for var in waves.all_vars()}
    ready = signals["tb_tiny.dut.s_weight_tready"]  # until the eight words of the weights are in, after the reset
    seen = [str(ready.value_at(time)) for time in range(10_000, 210_000, 10_000)]  # ps, in the middle of each cycle
    assert seen == ["1"] * 11 + ["0"] * 9


@on_icarus
def test_wrong_words_and_x_digits_are_kept_of_a_run_that_fails(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    def kept(fault: str, memory: str) -> list[str]:
        dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", DUT_FAULTS[fault][0])
        with pytest.raises(CheckFailed):
            simulate(tiny_set, simulator, [dut], keep=tmp_path / "keep").check()
        return (tmp_path / "keep" / f"{memory}.hex").read_text().splitlines()

    relu = Golden(tiny_capture(), 8).values("relu")[0].reshape(8, 4)  # oc, position
    wrong = ["".join(f"{~int(code) & 0xFFFF:04x}" for code in column[::-1]) for column in relu.T]
    assert kept("wrong results", "relu") == wrong
    assert kept("X in results", "accumulator") == ["x" * 32] * 4
    assert [line[-1] for line in kept("X in one bit of psum", "psum")] == ["X"] * 4
    assert len(kept("too many results", "relu")) > 4
    assert len(kept("result omitted", "relu")) == 3
    assert "FAIL memory=relu 3 of 4 words were delivered" in (tmp_path / "keep" / "run.log").read_text()


@on_icarus
def test_every_set_of_a_folder_keeps_its_own(simulator: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        checked_dump(tiny_capture(name), "default", tmp_path / "sets")
    result = cli("simulate", tmp_path / "sets", "--simulator", simulator, "--keep", tmp_path / "keep")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "keep").iterdir()) == ["one", "two"]
    assert (tmp_path / "keep" / "two" / "run.log").is_file()


@on_icarus
def test_nothing_is_kept_in_a_set(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    run = ("simulate", tiny_set, "--simulator", simulator)
    fails(cli(*run, "--keep", tiny_set / "run"), f"{tiny_set / 'run'} lies in the set", "outside it")
    fails(cli(*run, "--waves", "vcd"), "--waves needs --keep")
    (tmp_path / "file").write_text("")
    fails(cli(*run, "--keep", tmp_path / "file"), str(tmp_path / "file"), "exists")


@on_icarus
def test_keep_loses_nothing_of_others(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    other = checked_dump(tiny_capture(), "default", tmp_path / "other")
    before, mine, notes = state(other), tmp_path / "mine", tmp_path / "notes"
    run = ("simulate", tiny_set, "--simulator", simulator, "--keep")
    fails(cli(*run, other), f"{other} is a vector set", "give a new folder")
    assert state(other) == before
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    fails(cli(*run, notes), "holds notes.txt", "give a new folder")
    assert [path.name for path in notes.iterdir()] == ["notes.txt"]
    mine.mkdir()
    (mine / "run.log").write_text("my own")
    for backup in (True, False):  # the second time the log is that of a run
        result = cli(*run, mine)
        assert result.exit_code == 0, result.output
        assert (f"kept as {mine / 'run.log.~1~'}" in result.stderr) == backup
        assert (mine / "run.log.~1~").read_text() == "my own"


@on_icarus
def test_a_record_that_another_run_is_writing_is_in_nobodys_way(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/.verdict.json.b46292f1.partial").write_text("{")
    assert simulate(tiny_set, simulator, keep=tmp_path / "keep").passed


@on_icarus
def test_nothing_of_an_earlier_run_stays_beside_the_new_one(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    keep, core = tmp_path / "keep", tmp_path / "core.sv"
    run = ("simulate", tiny_set, "--simulator", simulator, "--keep", keep)

    def words(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    core.write_text((tiny_set / "dut.sv").read_text())
    assert cli(*run, "--waves", "vcd", "--dut", core).exit_code == 0
    before = words(keep)
    assert {"build.log", "waves.vcd", "psum.hex"} <= {path.name for path in keep.iterdir()}
    assert cli(*run, "--dut", core, "--top", "misspelt").exit_code == 2
    assert words(keep) == before, "no run has begun"
    core.write_text(without(core.read_text(), "psum"))
    assert cli(*run, "--dut", core).exit_code == 0
    assert {path.name for path in keep.iterdir()} == {
        "build.log", "run.log", "verdict.json", "accumulator.hex", "relu.hex",
    }  # fmt: skip
    assert cli(*run).exit_code == 0  # with the build of the cache
    assert {path.name for path in keep.iterdir()} - {"build.log", "verdict.json"} == {
        "run.log", *(f"{name}.hex" for name in RESULTS),
    }  # fmt: skip
    (keep / "build.log").write_text("of another design")
    assert cli(*run).exit_code == 0
    assert not (keep / "build.log").exists()


def no_home(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in ("HOME", "XDG_CACHE_HOME", "QEXPORT_CACHE")}


@on_icarus
def test_a_user_without_home_and_passwd_entry_is_no_error(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    nobody = "import pwd\ndef none(uid): raise KeyError(uid)\npwd.getpwuid = none"
    line = [sys.executable, "-c", f"{nobody}\n{QEXPORT[-1]}", "simulate", str(tiny_set), "--simulator", simulator]
    done = subprocess.run(
        line, env=no_home(dict(os.environ)), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [said] = done.stderr.splitlines()
    assert "cache: " in said
    assert "QEXPORT_CACHE" in said
    assert list(tmp_path.iterdir()) == []  # no folder named ~


@on_icarus
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"garbage" * 99])
def test_a_damaged_build_is_built_again(
    simulator: str, damage: Callable[[bytes], bytes], tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    assert simulate(tiny_set, simulator).check().checks == 96
    [build] = (tmp_path / "cache").glob("*/*")
    build.write_bytes(damage(build.read_bytes()))
    assert simulate(tiny_set, simulator).check().checks == 96


@on_icarus
def test_a_cache_that_cannot_be_written_is_said_in_one_line(
    simulator: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "file"))
    result = cli("simulate", tiny_set, "--simulator", simulator)
    assert result.exit_code == 0, result.output
    [line] = result.stderr.splitlines()
    assert f"cache: {tmp_path / 'file'} cannot be written" in line


@on_icarus
def test_new_pictures_and_weights_of_the_same_sizes_need_no_new_build(
    simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    capture = tiny_capture()
    captures = [capture, replace(capture, input=15 - capture.input), replace(capture, weight=capture.weight[::-1])]
    for number, one in enumerate(captures):
        folder = checked_dump(one, "default", tmp_path / str(number))
        assert simulate(folder, simulator).check().checks == 96
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert not np.array_equal(captures[0].weight, captures[2].weight)


@on_icarus
def test_a_caller_may_keep_the_builds_of_a_design(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    builds.mkdir()
    dut = edited(tiny_set / "dut.sv", tmp_path / "my.sv", [])
    for text, kept in (("", 1), ("", 1), ("// changed\n", 2)):
        dut.write_text(dut.read_text() + text)
        assert simulate(tiny_set, simulator, [dut], builds=builds).check().checks == 96
        assert len(list(builds.iterdir())) == kept
    half = edited(dut, tmp_path / "half.sv", [("\nmodule dut ", "\nmodule my_dut ")])
    assert simulate(tiny_set, simulator, [half], top="my_dut", builds=builds).check().checks == 96
    assert len(list(builds.iterdir())) == 3


def test_signs_of_life_are_passed_on_and_all_that_is_printed_is_logged(tmp_path: Path) -> None:
    seen: list[str] = []
    script = "echo start; echo PROGRESS cycles=9; echo complaint >&2; pwd; exit 3"
    assert run_bench(["sh", "-c", script], tmp_path, tmp_path / "log", 60, seen.append) == 3
    assert seen == ["PROGRESS cycles=9"]
    assert (tmp_path / "log").read_text() == f"start\nPROGRESS cycles=9\n{tmp_path}\ncomplaint\n"


@on_icarus
def test_a_design_is_built_again_only_where_something_of_it_has_changed(
    simulator: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qexport.sim.cache.SAID_AFTER", 0.0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "part.vh").write_text("// a part\n")
    dut = edited(tiny_set / "dut.sv", tmp_path / "my.sv", [("\nendmodule", '\n`include "part.vh"\nendmodule')])
    design = Design.read((dut,), includes=(tmp_path / "own",))
    said: list[str] = []
    for text, builds in (("", 1), ("", 1), ("// changed\n", 2)):
        if text:
            (tmp_path / "own" / "part.vh").write_text(text)
        simulate(tiny_set, simulator, design, progress=said.append).check()
        assert len(list((tmp_path / "cache").iterdir())) == builds
        assert len(said) == builds
    assert said[0].startswith("building with icarus ")
