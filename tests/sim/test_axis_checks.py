"""The assertions on streams are silent on a good design, and each is broken by a design that breaks its rule."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.sim.conftest import with_verilator_cli

on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "simulators.md"

# Around the set's design, whose stream of psums breaks a rule that +fault names, and keeps it for the bench to go on.
FAULTY = """`timescale 1ns / 1ps
module faulty (
{ports}
);
  integer fault, waited;
  initial if ($value$plusargs("fault=%d", fault) == 0) fault = 0;
  wire own_tvalid, own_tlast;
  wire [tiny_pkg::PSUM_WORD_BITS-1:0] own_tdata;
  always @(posedge clk) waited <= rst || !m_psum_tvalid || m_psum_tready ? 0 : waited + 1;
  assign m_psum_tvalid = fault == 4 && rst || own_tvalid && !(fault == 1 && waited == 1);
  assign m_psum_tdata = fault == 2 && waited == 1 ? ~own_tdata : own_tdata;
  assign m_psum_tlast = fault == 3 && waited == 1 ? !own_tlast : own_tlast;
  dut own (.m_psum_tvalid(own_tvalid), .m_psum_tdata(own_tdata), .m_psum_tlast(own_tlast), .*);
endmodule
"""
RULES = {1: "tvalid_stays", 2: "tdata_stays", 3: "tlast_stays", 4: "nothing_in_reset"}


@pytest.fixture(scope="module")
def program(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set's bench on that module, with the assertions; built once, by the command line that the page gives."""
    at = tmp_path_factory.mktemp("axis_checks")
    ports = re.search(r"module dut \(\n(.*?)\n\);", (tiny_set / "dut.sv").read_text(), re.DOTALL)
    assert ports is not None
    lines = ports[1].replace("output reg ", "output wire").replace("features_33_pkg", "tiny_pkg")
    (at / "faulty.sv").write_text(FAULTY.replace("{ports}", lines))
    line = re.search(r"^verilator-cli .*$", PAGE.read_text(), re.MULTILINE)
    assert line is not None
    words = shlex.split(line[0].replace("vectors/features_33", str(tiny_set)).replace("features_33", "tiny"))
    words += ["-Wall", "-DQEXPORT_DUT=faulty", str(at / "faulty.sv"), "--unroll-count", "4"]  # which is built faster
    done = subprocess.run(words, cwd=at, env=with_verilator_cli(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return at / "build" / "sim"


def told(program: Path, folder: Path, fault: int, mode: str) -> tuple[int, str]:
    command = [str(program), f"+dir={folder}", "+nonce=n", f"+streams={mode}", "+seed=1", f"+fault={fault}"]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["smooth", "random", "lazy", "reset"])
def test_a_good_design_breaks_no_rule(mode: str, program: Path, tiny_set: Path) -> None:
    status, said = told(program, tiny_set, 0, mode)
    assert status == 0, said
    assert "Assertion failed" not in said
    assert "PASS checks=96 nonce=n" in said


@pytest.mark.parametrize("fault", RULES)
def test_each_rule_is_broken_by_a_design_that_does_not_keep_it(fault: int, program: Path, tiny_set: Path) -> None:
    status, said = told(program, tiny_set, fault, "lazy" if fault < 4 else "smooth")
    assert status != 0
    assert re.findall(r"Assertion failed in (\S+):", said) == [f"tb_tiny.dut.m_psum_axis_checks.{RULES[fault]}"]


UNKNOWN = """`timescale 1ns / 1ps
module top;
  reg clk = 0;
  wire [7:0] bad = 8'b0000_x000;
  tiny_axis_checks #(8, "good") a (clk, 1'b0, 1'b1, 1'b0, 8'd3, 1'b0);
  tiny_axis_checks #(8, "idle") b (clk, 1'b0, 1'b0, 1'b0, bad, 1'bx);
  tiny_axis_checks #(8, "reset") c (clk, 1'b1, 1'bx, 1'bx, bad, 1'bx);
  tiny_axis_checks #(8, "valid") d (clk, 1'b0, 1'bx, 1'b0, 8'd3, 1'b0);
  tiny_axis_checks #(8, "ready") e (clk, 1'b0, 1'b0, 1'bz, 8'd3, 1'b0);
  tiny_axis_checks #(8, "data") f (clk, 1'b0, 1'b1, 1'b0, bad, 1'b0);
  tiny_axis_checks #(8, "last") g (clk, 1'b0, 1'b1, 1'b0, 8'd3, 1'bx);
  initial #1 clk = 1;
endmodule
"""


@on_icarus
def test_what_is_unknown_is_told_where_it_counts(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    """On Icarus, which knows X."""
    (tmp_path / "top.sv").write_text(UNKNOWN)
    sources = [str(tiny_set / "tiny_axis_checks.sv"), str(tmp_path / "top.sv")]
    command = ["iverilog", "-g2012", "-Wall", "-s", "top", "-o", str(tmp_path / "sim"), *sources]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    done = subprocess.run(["vvp", "sim"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sorted(re.findall(r"^ERROR: .*?: (.*)$", done.stdout, re.MULTILINE)) == [
        "data_tdata is X or Z with data_tvalid",
        "last_tlast is X or Z with last_tvalid",
        "ready_tready is X or Z",
        "valid_tvalid is X or Z",
    ]


CORE = """`timescale 1ns / 1ps
module core (input aclk, input aresetn, output m_psum_tvalid, input m_psum_tready, output {psum} m_psum_tdata,
  output m_psum_tlast, input s_weight_tvalid, output s_weight_tready, input {word} s_weight_tdata, input s_weight_tlast,
  input s_input_tvalid, output s_input_tready, input {word} s_input_tdata, input s_input_tlast);
  // what it computes stands elsewhere
endmodule
"""


def test_they_bind_to_a_module_of_other_names_and_fewer_streams(tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "core.sv").write_text(CORE.replace("{psum}", "[127:0]").replace("{word}", "[31:0]"))

    def said(*options: str) -> str:
        command = ["verilator-cli", "--lint-only", "--timing", "-Wall", "--top-module", "core", *options]
        sources = [str(tmp_path / "core.sv"), str(tiny_set / "tiny_axis_checks.sv")]
        return subprocess.run([*command, *sources], env=with_verilator_cli(), capture_output=True, text=True).stderr

    names = ["-DQEXPORT_DUT=core", "-DQEXPORT_CLK=aclk", "-DQEXPORT_RST=!aresetn"]
    lacking = ["-DQEXPORT_WITHOUT_ACCUMULATOR", "-DQEXPORT_WITHOUT_RELU"]
    assert said("-Wno-UNDRIVEN", "-Wno-UNUSEDSIGNAL", *names, *lacking) == ""
    assert "Signal definition not found, and implicit disabled with `default_nettype: 'm_relu_tvalid'" in said(*names)
