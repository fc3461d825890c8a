"""What a design does beside computing: what is fine is named, what could reach bench or set is refused."""

import os
import re
from pathlib import Path

import pytest

from qexport.bench.beside import Around, Beside, beside, refuse, tables
from qexport.bench.design import REFUSED, Design
from qexport.errors import QexportError

ICARUS = ("__ICARUS__=1",)


def scan(tmp_path: Path, body: str, head: str = "", **given: object) -> tuple[Beside, ...]:
    """What a module with this text in it does; a set of one memory lies beside it."""
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set/psum.hex").write_text("01\n02\n")
    core = tmp_path / "core.sv"
    core.write_text(f"{head}\nmodule dut (input clk);\n  reg [7:0] mem [0:1];\n  integer fd;\n{body}\nendmodule\n")
    around = Around(tmp_path / "set", {"tb_tiny"}, ICARUS)
    return beside(Design.read([core], **given), None, [], around)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("plusargs", 'reg [63:0] s; initial if ($value$plusargs("nonce=%h", s)) fd = 0;'),
        ("plusargs", '`define ASK $test$plus``args\n  initial if (`ASK("out")) fd = 0;'),
        ("set", 'initial $readmemh("SET/psum.hex", mem);'),
        ("set", 'localparam string A = "SET/ps"; initial $readmemh({A, "um.hex"}, mem);'),
        ("set", 'initial fd = $fopen("SET/psum.hex", "r");'),
        ("set", 'initial $readmemh("COPY", mem);'),
        ("set", "wire [7:0] x = {8'h\n`include \"SET/psum.hex\"\n};"),
        ("files", 'initial fd = $fopen("a.txt", "w");'),
        ("files", 'initial fd = $fopen("a.txt");'),
        ("files", 'string s; initial begin s = "SET"; $readmemh({s, "/psum.hex"}, mem); end'),
        ("files", 'initial $readmemh("/proc/self/fd/3", mem);'),
        ("files", 'initial $readmemh("FIFO", mem);'),
        ("files", "localparam X = 1'bx; initial $readmemh(X == 1'b0 ? \"SET/psum.hex\" : \"rom.hex\", mem);"),
        ("files", 'initial $writememh("a.txt", mem);'),
        ("files", 'initial $fwrite(32\'h80000003, "PASS");'),
        ("files", 'initial $dumpfile("a.vcd");'),
        ("files", "always @(posedge clk) fd = $rewind(32'h80000003);"),  # of a file of the bench
        ("upward", "wire [7:0] x = tb_tiny.psum_mem[0];"),
        ("upward", "initial tb_tiny.random = 0;"),
        ("upward", "initial \\tb_tiny .cycles = 0;"),
        ("upward", "tb_tiny_sink more ();"),
        ("upward", "initial psum_check.got = 0;"),  # what stands beside it in the module around it
        ("upward", "initial verdict;"),  # a task of the module around it
        ("upward", "generate if (0) begin wire x = tb_tiny.clk; end endgenerate"),
        ("upward", "initial $root.top.x = 1;"),
        ("upward", "defparam somewhere.N = 3;"),
        ("dpi", 'import "DPI-C" function int run(int x);'),
        ("dpi", 'initial $c("system(0);");'),
        ("force", "wire w; initial force w = 1;"),
        ("force", "wire w; initial release w;"),
        ("bind", "endmodule\nmodule other; endmodule\nmodule more; bind dut other o();"),
        ("system", 'initial $system("true");'),
        ("system", "initial $my_own_vpi;"),
        ("unread", "initial fd = ;"),
        ("unread", "`undefineall\n`ifndef __ICARUS__\ninitial force clk = 1;\n`endif"),
        ("unread", '`pragma protect begin_protected\ninitial $system("x");\n`pragma protect end_protected'),
        ("unread", 'import "unterminated'),
        ("force", "`ifdef __slang__\n`else\nwire w; initial force w = 1;\n`endif"),
        ("force", "`ifdef __ICARUS__\nwire w; initial force w = 1;\n`endif"),
    ],
)  # fmt: skip
def test_what_could_forge_a_verdict_is_refused_with_its_line_and_a_remedy(kind: str, body: str, tmp_path: Path) -> None:
    (tmp_path / "copy.hex").write_text("01\n02\n")
    os.mkfifo(tmp_path / "fifo")
    names = {"SET": "set", "COPY": "copy.hex", "FIFO": "fifo"}
    found = scan(tmp_path, re.sub("|".join(names), lambda name: str(tmp_path / names[name[0]]), body))
    assert kind in {one.kind for one in found}
    with pytest.raises(QexportError, match=rf"core\.sv:\d+: .*or --allow {kind}") as caught:
        refuse(found, ())
    assert caught.value.exit_code == 2
    refuse(found, {one.kind for one in found})
    with pytest.raises(QexportError):
        refuse(found, REFUSED.keys() - {one.kind for one in found})


@pytest.mark.parametrize(
    "use",
    [
        "generate if (0) begin own u (); end endgenerate",
        "import own::*;",
        "virtual own u;",
        "endmodule\nmodule more (own u);",
        "endmodule\nmodule more (own.part u);",
        "endmodule\nconfig c; design dut; instance dut.u use own; endconfig\nmodule more;",
    ],
)
def test_what_a_simulator_would_look_for_is_refused(use: str, tmp_path: Path) -> None:
    """Verilator reads it from a folder where a condition holds, which may hold for slang otherwise."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/own.sv").write_text("module own; initial $c(0); endmodule\n")
    found = scan(tmp_path, use, includes=[tmp_path / "folder"])
    with pytest.raises(QexportError, match=r"own would be read from .*own\.sv: list the file; .*--allow unread"):
        refuse(found, ())
    assert not [one for one in scan(tmp_path, "reg own;", includes=[tmp_path / "folder"]) if one.kind == "unread"]


def test_tables_and_prints_of_a_design_are_fine_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rom1.hex").write_text("0a\n0b\n")
    found = scan(
        tmp_path,
        "  rom #(.N(1)) one();\n  rom #(.N(2)) two();\n"
        '  initial $display("%0d", $clog2(5));\n  always @(posedge clk) if (fd > 3) $fatal(1, "full");\n'
        "  sub s();\n  initial s.deep = 1;",
        "`timescale 1ns/1ps\nmodule rom #(parameter N = 0); reg [7:0] m [0:1]; "
        'localparam string F = $sformatf("rom%0d.hex", N); initial $readmemh(F, m); endmodule\n'
        "module sub; reg deep; endmodule",
    )
    refuse(found, ())
    said = [(one.kind, one.line, one.what) for one in found]
    assert said == [
        ("table", 2, "$readmemh of 'rom1.hex'"), ("table", 2, "$readmemh of 'rom2.hex'"),
        ("print", 9, "prints ($display)"), ("end", 10, "can end the run ($fatal)"),
    ]  # fmt: skip
    assert len(found[0].sha256) == 64
    assert found[1].sha256 == ""  # it is not there
    assert tables(found) == {"rom1.hex": Path("rom1.hex")}


def test_what_is_allowed_must_be_a_kind(tmp_path: Path) -> None:
    with pytest.raises(QexportError, match="allow: 'file' is not one of plusargs, set, files"):
        scan(tmp_path, "", allow=["file"])
