"""What counts as a PASS, and which simulator is taken."""

from pathlib import Path

import pytest

from qexport.errors import CheckFailed, QexportError
from qexport.sim.registry import choose
from qexport.sim.run import simulate
from qexport.sim.streams import MODES, chosen_streams
from qexport.sim.verdict import judge
from tests.conftest import cli, fails

NONCE = "00c0ffee00c0ffee"
PASS = f"PASS checks=96 nonce={NONCE}\n"


def test_one_pass_with_nonce_and_count_passes_among_other_lines() -> None:
    judge(f"VCD info: dumpfile opened\n{PASS}dut.sv:12: $finish called\n", 0, 96, NONCE, "set on icarus")


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        (PASS.replace(NONCE, "0123456789abcdef"), 0, "without a verdict"),
        (PASS.replace(f" nonce={NONCE}", ""), 0, "without a verdict"),
        (PASS + PASS, 0, "needs one PASS"),
        (PASS.replace("96", "95"), 0, "needs one PASS of 96 checks"),
        (PASS.replace("96", "0"), 0, "needs one PASS of 96 checks"),
        (PASS + PASS.replace("96", "95"), 0, "needs one PASS"),
        (PASS, 1, "exit status 1"),
        (PASS, -6, "exit status -6"),
        ("FAIL errors=1 checks=96 of 96\n" + PASS, 0, "FAIL errors=1 checks=96 of 96"),
        (PASS + "FAIL late\n", 0, "FAIL late"),
        ("FAIL errors=1 checks=96 of 96\n", 1, "FAIL errors=1 checks=96 of 96"),
        ("", 0, "ended without a verdict (exit status 0, last line: nothing)"),
        ("loading\n\n", 139, "ended without a verdict (exit status 139, last line: loading)"),
        ("note: " + PASS, 0, "without a verdict"),
        (PASS.strip() + " trailing\n", 0, "needs one PASS"),
        (PASS.lower(), 0, "without a verdict"),
    ],
    ids=[
        "wrong nonce", "no nonce", "two", "wrong count", "count 0", "two counts", "status", "signal", "FAIL before",
        "FAIL after", "FAIL alone", "no output", "no verdict", "not at the line's start", "trailing text", "lower case",
    ],
)  # fmt: skip
def test_anything_else_fails(output: str, status: int, said: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        judge(output, status, 96, NONCE, "set on icarus")
    assert said in str(caught.value)
    assert str(caught.value).startswith("simulate: set on icarus: ")


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_the_smooth_run_may_be_held_to_its_cycles(simulator: str, tiny_set: Path) -> None:
    took = simulate(tiny_set, simulator).check().cycles
    given = ("simulate", tiny_set, "--simulator", simulator, "--streams", "lazy", "--cycles")  # lazy takes more
    assert cli(*given, took, "--streams", "smooth").exit_code == 0
    result = cli(*given, took - 1, "--streams", "smooth")
    assert result.exit_code == 1
    assert f"FAIL all words are right, in {took} cycles; {took - 1} are allowed" in result.stderr
    fails(cli(*given, took), "cycles: ", "add --streams smooth")


def test_many_fail_lines_are_cut_but_the_last_is_kept() -> None:
    fails = [f"FAIL line {number}" for number in range(1, 31)]
    with pytest.raises(CheckFailed) as caught:
        judge("\n".join(fails), 1, 96, NONCE, "set on icarus")
    assert str(caught.value).splitlines() == [
        "simulate: set on icarus: FAIL", *fails[:20], "... and 10 more FAIL lines", "FAIL line 30",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "needles"),
    [
        ("auto", ["QEXPORT_VERILATOR names 'verilator-that-is-missing'", "apt-get install iverilog"]),
        ("verilator", ["QEXPORT_VERILATOR names 'verilator-that-is-missing'", "correct or unset it"]),
        ("icarus", ["iverilog is not on the PATH", "apt-get install iverilog"]),
    ],
)
def test_missing_simulators_are_said_with_the_remedy_in_one_line(
    name: str, needles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("QEXPORT_VERILATOR", "verilator-that-is-missing")
    with pytest.raises(QexportError) as caught:
        choose(name)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    for needle in needles:
        assert needle in str(caught.value)


def test_verilator_without_a_compiler_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("QEXPORT_VERILATOR", raising=False)
    with pytest.raises(QexportError, match=r"g\+\+ is not on the PATH.*apt-get install"):
        choose("verilator")


@pytest.mark.parametrize(
    ("name", "variable", "said", "needle"),
    [
        (
            "icarus",
            "QEXPORT_IVERILOG",
            "Icarus Verilog version 10.3 (stable) (v10_3)",
            "Icarus Verilog 10.3 is too old",
        ),
        ("verilator", "QEXPORT_VERILATOR", "Verilator 4.038 2020-07-11 rev v4.036", "Verilator 4.038 is too old"),
        ("verilator", "QEXPORT_VERILATOR", "Verilator 5.004 2022-12-14", "install 5.006 or newer"),
    ],
)
def test_simulator_that_is_too_old_is_said(
    name: str, variable: str, said: str, needle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    old.write_text(f"#!/bin/sh\necho '{said}'\n")
    old.chmod(0o755)
    for tool in ("vvp", "g++", "make"):
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv(variable, str(old))
    with pytest.raises(QexportError, match=needle):
        choose(name)


def test_newer_simulators_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_text("#!/bin/sh\necho 'Verilator 5.006 2023-01-22 rev (Debian 5.006-3)'\n")
    new.chmod(0o755)
    for tool in ("g++", "make"):
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("QEXPORT_VERILATOR", str(new))
    assert choose("verilator").version() == "5.006"


def test_runs_are_chosen_as_by_the_command() -> None:
    assert [run.mode for run in chosen_streams()] == list(MODES)
    assert list(map(str, chosen_streams(seed=7))) == ["random seed=7"]
    assert list(map(str, chosen_streams(["lazy", "random"], 4, 2))) == ["lazy", "random seed=4", "random seed=5"]
    with pytest.raises(QexportError, match="'lazi' is not one of smooth"):
        chosen_streams(["lazi"])
    with pytest.raises(QexportError, match="seeds: 0; give"):
        chosen_streams(seeds=0)
