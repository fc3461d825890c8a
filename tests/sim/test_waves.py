"""Words are read from the waves of a run: those that went over, as a register would have sampled them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pywellen

from qexport.errors import QexportError
from qexport.findings.waves import read_wave
from qexport.findings.words import read_actual
from qexport.sim.run import simulate
from tests.conftest import cli, fails
from tests.sim.conftest import edited
from tests.sim.test_bench import on_icarus


@on_icarus
@pytest.mark.parametrize("waves", ["vcd", "fst"])
def test_the_words_of_a_stream_that_stalls(simulator: str, waves: str, tiny_set: Path, tmp_path: Path) -> None:
    simulate(tiny_set, simulator, seed=3, keep=tmp_path, waves=waves).check()
    file = tmp_path / f"waves.{waves}"
    for memory in ("psum", "relu"):
        wanted = read_actual(tiny_set, tmp_path / f"{memory}.hex")
        for signal in (f"m_{memory}_tdata", f"tb_tiny.dut.m_{memory}_tdata"):
            actual = read_wave(tiny_set, file, signal, "clk")
            assert actual.memory.name == memory
            assert (actual.missing, actual.extra) == (0, 0)
            assert actual.known.all()
            assert np.array_equal(actual.values, wanted.values)
    with pytest.raises(QexportError, match=r"has no signal 'relu'; there are .*m_relu_tdata.*; give its path"):
        read_wave(tiny_set, file, "relu", "clk")
    with pytest.raises(QexportError, match=r"no signal 'top.clk'; there are tb_tiny.clk, tb_tiny.dut.clk"):
        read_wave(tiny_set, file, "m_relu_tdata", "top.clk")
    with pytest.raises(QexportError, match=r"m_relu_tdata has 128 bits; a word of memory 'weight' has 32"):
        read_wave(tiny_set, file, "m_relu_tdata", "clk", "weight")


# A register written at the rising edges; its enable; a clock. `q` is 5 at time 10 before the edge, then 6, X, 7.
VCD = """$timescale 1ns $end
$scope module top $end
$var wire 1 ! clk $end
$var wire 1 " en $end
$var reg 128 # q [127:0] $end
$scope module sub $end
$var reg 128 $ q [127:0] $end
$upscope $end
$upscope $end
$enddefinitions $end
#0
0!
1"
b101 #
b1 $
#10
1!
b110 #
#15
0!
#20
1!
bx1 #
0"
#25
0!
#30
1!
b111 #
1"
#35
0!
#40
1!
"""


def test_a_signal_is_sampled_before_each_rising_edge(tiny_set: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.vcd"
    file.write_text(VCD)
    every = read_wave(tiny_set, file, "top.q", "clk", "relu")
    assert every.values[:, -1].tolist() == [5, 6, 0, 7]
    assert every.known.all(axis=1).tolist() == [True, True, False, True]
    some = read_wave(tiny_set, file, "top.q", "top.clk", "relu", valid="en")
    assert some.values[:3, -1].tolist() == [5, 6, 7]
    assert (some.missing, some.extra) == (1, 0)
    result = cli("diagnose", tiny_set, "--actual", file, "--signal", "top.q", "--clock", "clk", "--memory", "relu",
                 "--valid", "en", "--json")  # fmt: skip
    assert (result.exit_code, json.loads(result.stdout)["memory"]) == (1, "relu")
    with pytest.raises(QexportError, match=r"has top.q, top.sub.q; give more of the path of 'q'"):
        read_wave(tiny_set, file, "q", "clk", "relu")
    with pytest.raises(QexportError, match=r"has no signal 'top.sup.q'; there are top.q, top.sub.q;"):
        read_wave(tiny_set, file, "top.sup.q", "clk", "relu")
    file.write_text(VCD.replace("clk $end", "clk $en\nd", 1))
    with pytest.raises(QexportError, match=r"there are .*clk \$en d.*; give its path"):
        read_wave(tiny_set, file, "top.q", "clk", "relu")
    file.write_text(VCD)
    with pytest.raises(QexportError, match=r"has no signal 'clok'; there are top.clk,"):
        read_wave(tiny_set, file, "top.q", "clok", "relu")
    with pytest.raises(QexportError, match=r"may be psum, accumulator, relu; choose one with --memory"):
        read_wave(tiny_set, file, "top.q", "clk")
    with pytest.raises(QexportError, match=r"top.sub.q never rises; name the clock with --clock"):
        read_wave(tiny_set, file, "top.q", "sub.q", "relu")


@pytest.mark.parametrize(
    "content",
    [b"", b"no waves\n", b"\0\1\2\3" * 99, VCD[:60].encode(), VCD.encode()[:-150],
     VCD.replace("1!", "$var \xff", 1).encode("latin1"), VCD.replace("#25", f"#{1 << 63}").encode()],
)  # fmt: skip
def test_damaged_waves_are_named(content: bytes, tiny_set: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.vcd"
    file.write_bytes(content)
    with pytest.raises(QexportError, match=r"^actual: .*run.vcd") as error:
        read_wave(tiny_set, file, "q", "clk", "relu")
    assert "\n" not in str(error.value)
    with pytest.raises(QexportError, match=r"none.vcd does not exist"):
        read_wave(tiny_set, tmp_path / "none.vcd", "q", "clk", "relu")


@pytest.mark.parametrize("change", [("#25", f"#{(1 << 64) - 1}"), ("#25", f"#{1 << 63}"), ("$end", "$enddefinitions")])
def test_what_the_reader_of_waves_prints_is_not_shown(change: tuple[str, str], tiny_set: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.vcd"
    file.write_text(VCD.replace(*change))
    command = [sys.executable, "-c", "from qexport.cli import main; main()", "diagnose", str(tiny_set), "--actual"]
    command += [str(file), "--signal", "top.q", "--clock", "clk", "--memory", "relu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == "" or json.loads(done.stdout)


@pytest.fixture(scope="module")
def odd(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A design whose accumulator of channel 2 at (1, 0) is 1 too large."""
    return edited(tiny_set / "dut.sv", tmp_path_factory.mktemp("odd") / "dut.sv", [
        ("ACC_WIDTH'(before_of(col)", "ACC_WIDTH'((oy == 1 && ox == 0 && col == 2) + before_of(col)"),
    ])  # fmt: skip


def at_words(tiny_set: Path, waves: Path, signal: str, valid: str) -> list[list[int]]:
    """What a signal of the accumulators' scope holds at the words at which another one is 1."""
    names = [f"accumulator_check.{name}" for name in (signal, valid)]
    found = read_wave(tiny_set, waves, names[0], "tb_tiny.clk", "accumulator", valid=names[1])
    rows: list[list[int]] = found.values.reshape(-1, 8).tolist()
    return [row for row, known in zip(rows, found.known.reshape(-1, 8), strict=True) if known.all()]


BOTH = pytest.mark.parametrize("simulator", ["icarus", "verilator"], indirect=True)


@BOTH
def test_waves_show_what_was_wanted_at_each_word_and_where_it_differs(
    simulator: str, tiny_set: Path, odd: Path, tmp_path: Path
) -> None:
    assert not simulate(tiny_set, simulator, [odd], keep=tmp_path, waves="vcd", seed=1).passed
    waves = tmp_path / "waves.vcd"
    want, got = (at_words(tiny_set, waves, signal, "compared") for signal in ("want", "got"))
    assert want == read_actual(tiny_set, tiny_set / "accumulator.hex").values.reshape(-1, 8).tolist()
    assert got == read_actual(tiny_set, tmp_path / "accumulator.hex").values.reshape(-1, 8).tolist()
    assert [a != b for a, b in zip(want, got, strict=True)] == [False, False, True, False]
    assert at_words(tiny_set, waves, "want", "mismatch") == want[2:3]
    signals = {variable.full_name: variable for variable in pywellen.Waveform(str(waves)).all_vars()}

    def at_mismatch(name: str) -> int:
        scope = "tb_tiny.accumulator_check."
        begin = next(time for time, value in signals[f"{scope}mismatch"].tv if value in (1, "1"))
        value = [value for time, value in signals[f"{scope}{name}"].tv if time <= begin][-1]
        return value if isinstance(value, int) else int(value, 2)

    index = {name: at_mismatch(name) for name in ("n", "oc", "y", "x", "line", "wrong")}
    assert index == {"n": 0, "oc": 2, "y": 1, "x": 0, "line": 3, "wrong": 1 << 2}


@BOTH
def test_waves_of_some_cycles_hold_the_first_error(simulator: str, tiny_set: Path, odd: Path, tmp_path: Path) -> None:
    run = ("simulate", tiny_set, "--simulator", simulator, "--dut", odd, "--waves", "vcd")
    result = cli(*run, "--keep", tmp_path / "some", "--around", "2")
    assert result.exit_code == 1, result.output
    waves = tmp_path / "some" / "waves.vcd"
    assert len(at_words(tiny_set, waves, "want", "mismatch")) == 1
    assert len(at_words(tiny_set, waves, "want", "compared")) <= 4
    assert "FAIL memory=accumulator" in (tmp_path / "some" / "run.log").read_text()


@on_icarus
def test_a_run_for_waves_of_some_cycles_says_what_the_first_one_says(
    simulator: str, tiny_set: Path, odd: Path, tmp_path: Path
) -> None:
    run = ("simulate", tiny_set, "--simulator", simulator, "--dut", odd, "--waves", "vcd")
    some = cli(*run, "--keep", tmp_path / "some", "--around", "2")
    whole = cli(*run, "--keep", tmp_path / "all")
    assert whole.stderr == some.stderr
    sizes = [(tmp_path / kind / "waves.vcd").stat().st_size for kind in ("all", "some")]
    assert sizes[0] > sizes[1]
    assert (tmp_path / "all" / "accumulator.hex").read_bytes() == (tmp_path / "some" / "accumulator.hex").read_bytes()
    passed = cli("simulate", tiny_set, "--simulator", simulator, "--waves", "vcd", "--around", "2", "--keep",
                 tmp_path / "none")  # fmt: skip
    assert passed.exit_code == 0, passed.output
    assert not (tmp_path / "none" / "waves.vcd").exists()
    fails(cli("simulate", tiny_set, "--around", "2"), "--around belongs to --waves")
