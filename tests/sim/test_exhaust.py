"""Every accumulator through right modules and through modules with a planted fault, which is found where it stands."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import Result

from qexport import open as open_set
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.steps import Chain, Signal, read_steps
from qexport.errors import CheckFailed, QexportError
from qexport.findings.exhaust.result import Exhaustion
from qexport.findings.exhaust.run import exhaust, exhaust_chain
from qexport.layout.toml import load_layout
from qexport.sim.registry import SIMULATORS
from tests.conftest import cli, fails, make_capture
from tests.sim.test_steps import steps_text

STEPS: list[dict[str, Any]] = [
    {"op": "bias", "name": "biased", "shift": 2},
    {"op": "multiply", "name": "scaled", "by": [211, 90, -150, 255]},
    {"op": "add", "name": "moved", "value": [3000, -900, 0, 77]},
    {"op": "shift_right", "name": "shifted", "by": [10, 8, 9, 11], "round": "half_up"},
    {"op": "clamp", "name": "clipped", "low": -100, "high": 127},
]

# The module's arithmetic; `f` says which fault it has.
MATH = """
module math (input signed [15:0] acc, input [1:0] ch, input [7:0] f, output signed [7:0] code);
  reg signed [15:0] bias, by;
  reg signed [15:0] more;
  reg [5:0] shift;
  wire [1:0] c = f == 9 ? ch + 2'd1 : ch;
  always @* begin
    case (c)
      0: begin bias = BIAS0; by = 211; more = 3000; shift = 10; end
      1: begin bias = BIAS1; by = 90; more = -900; shift = 8; end
      2: begin bias = BIAS2; by = f == 1 ? -149 : -150; more = 0; shift = 9; end
      default: begin bias = BIAS3; by = 255; more = 77; shift = f == 2 ? 10 : 11; end
    endcase
    if (f == 3) bias = 0;
  end
  wire signed [39:0] v = f == 4 ? $signed({24'b0, acc}) : f == 5 ? acc | 40'sd8 : acc;
  wire signed [39:0] biased = v + (f == 6 ? bias <<< 1 : bias <<< 2);
  wire signed [39:0] product = biased * by;
  wire signed [39:0] scaled = f == 7 ? $signed({{24{product[15]}}, product[15:0]}) :
    f == 8 ? biased * $signed({1'b0, by}) : product;
  wire signed [39:0] moved = scaled + (f == 10 ? 0 : f == 11 ? -more : more);
  wire signed [39:0] half = f == 12 ? 0 : 40'sd1 <<< (shift - 1);
  wire tie = (moved & ((40'sd1 <<< shift) - 1)) == 40'sd1 <<< (shift - 1);
  wire signed [39:0] right = (moved + half) >>> shift;
  wire signed [39:0] even = tie && right[0] ? right - 1 : right;
  wire signed [39:0] logical = {8'b0, 32'(moved + half) >> shift};
  wire signed [39:0] shifted = f == 13 ? even : f == 14 ? logical : f == 15 ? right & ~40'sd16 : right;
  wire signed [39:0] low = f == 16 ? -101 : f == 17 ? -127 : -100;
  wire signed [39:0] high = f == 18 ? 126 : 127;
  assign code = f == 19 ? shifted[7:0] : shifted < low ? low[7:0] : shifted > high ? high[7:0] : shifted[7:0];
endmodule
"""
SET_FAULT = 'reg [7:0] fault [0:0]; initial $readmemh("FAULT", fault); wire [7:0] f = fault[0];'
STYLES = {
    "combinational": f"""
module post (input signed [15:0] acc, input [1:0] ch, output signed [7:0] code);
  {SET_FAULT}
  math math (.*);
endmodule
""",
    "pipelined": f"""
module post (input clk, input signed [15:0] value_i, input [1:0] channel_i, output reg signed [7:0] code_o);
  {SET_FAULT}
  reg signed [15:0] acc;
  reg [1:0] ch;
  reg signed [7:0] last;
  wire signed [7:0] code;
  math math (.*);
  always @(posedge clk) begin
    acc <= value_i;
    ch <= channel_i;
    last <= code;
    code_o <= last;
  end
endmodule
""",
    "handshake": f"""
module post (
  input aclk, input aresetn,
  input s_axis_tvalid, output s_axis_tready, input signed [15:0] s_axis_tdata, input [1:0] s_axis_tuser,
  output reg m_axis_tvalid, input m_axis_tready, output reg [7:0] m_axis_tdata
);
  {SET_FAULT}
  wire signed [7:0] code;
  math math (.acc(s_axis_tdata), .ch(f == 21 ? other : s_axis_tuser), .f(f), .code(code));
  reg [1:0] other;
  reg twice;
  assign s_axis_tready = f == 20 ? !twice : !m_axis_tvalid || m_axis_tready;
  always @(posedge aclk) begin
    other <= s_axis_tuser;
    if (m_axis_tready || f == 22) m_axis_tvalid <= 0;
    if (s_axis_tvalid && s_axis_tready && f != 23) begin
      m_axis_tvalid <= 1;
      m_axis_tdata <= code;
      twice <= 1;
    end
    if (!aresetn) {{m_axis_tvalid, twice}} <= 0;
  end
endmodule
""",
}


def rounded(v: int, by: int, way: str = "half_up") -> int:
    below, rest = divmod(v, 1 << by)
    if way == "floor":
        return below
    return below + (2 * rest > 1 << by or (2 * rest == 1 << by and (way == "half_up" or below % 2 == 1)))


def signed(v: int, bits: int) -> int:
    return (v + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


BIASES = (41, -120, 5, 300)
NUMBERS = tuple(zip(BIASES, (211, 90, -150, 255), (3000, -900, 0, 77), (10, 8, 9, 11), strict=True))


def code_of(v: int, channel: int, fault: str = "") -> int:
    """What the module gives, in plain integers."""
    bias, by, more, shift = NUMBERS[(channel + 1) % 4 if fault == "channel" else channel]
    if fault == "multiplier" and channel == 2:
        by += 1
    if fault == "shift" and channel == 3:
        shift -= 1
    if fault == "unsigned":
        v %= 1 << 16
    if fault == "value bit":
        v |= 8
    v += 0 if fault == "bias" else bias << (1 if fault == "bias shift" else 2)
    v *= by % (1 << 16) if fault == "unsigned multiplier" else by
    if fault == "cut":
        v = signed(v, 16)
    v += {"add": 0, "subtract": -more}.get(fault, more)
    if fault == "zeros":
        v = (v + (1 << shift - 1)) % (1 << 32) >> shift
    else:
        v = rounded(v, shift, {"floor": "floor", "even": "half_even"}.get(fault, "half_up"))
    if fault == "code bit":
        v &= ~16
    if fault == "wrap":
        return signed(v, 8)
    low, high = {"low": -101, "symmetric": -127}.get(fault, -100), 126 if fault == "high" else 127
    return min(max(v, low), high)


# The fault: its number in the module, the step at which it stands, and what is said of it.
FAULTS = {
    "multiplier": (1, "scaled", "scaled has by -149, not -150"),
    "shift": (2, "shifted", "shifted has by 10, not 11"),
    "bias": (3, "biased", "biased is left out"),
    "unsigned": (4, "value", "value is taken as unsigned"),
    "value bit": (5, "value", "value has bit 3 stuck at 1"),
    "bias shift": (6, "biased", "biased has shift 1, not 2"),
    "cut": (7, "scaled", "scaled gives 16 bits"),
    "unsigned multiplier": (8, "scaled", "scaled takes its multiplier for 16 unsigned bits"),
    "channel": (9, "biased", "biased and all behind it have the numbers of channel 1"),
    "add": (10, "moved", "moved is left out"),
    "subtract": (11, "moved", "moved subtracts"),
    "floor": (12, "shifted", "shifted rounds floor, not half_up"),
    "even": (13, "shifted", "shifted rounds half_even, not half_up"),
    "zeros": (14, "shifted", "shifted shifts zeros into 24 bits, not the sign"),
    "code bit": (15, "shifted", "shifted has bit 4 stuck at 0"),
    "low": (16, "clipped", "clipped has low -101, not -100"),
    "symmetric": (17, "clipped", "clipped clamps to -127..127"),
    "high": (18, "clipped", "clipped has high 126, not 127"),
    "wrap": (19, "clipped", "clipped wraps to 8 bits"),
}


def capture_with(steps: list[dict[str, Any]], **facts: Any) -> LayerCapture:
    capture = make_capture(
        in_channels=4, out_channels=4, plane=(4, 4), images=1, name="post", input_signed=True, relu=False, **facts
    )
    output = CodeFormat(bits=8, signed=True, scale=1.0)
    formats = msgspec.structs.replace(capture.formats, output=output)
    return replace(capture, formats=formats, steps=read_steps(steps), bias=np.array(BIASES))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    why = SIMULATORS["verilator"].missing()
    if why is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return dump(capture_with(STEPS), load_layout("default"), tmp_path_factory.mktemp("post")).folder


Ask = Callable[..., Exhaustion]


@pytest.fixture(scope="module")
def ask(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Exhausts a style of the module with a fault; each style is built once."""
    place = tmp_path_factory.mktemp("styles")
    (place / "builds").mkdir()

    def run(style: str, fault: int = 0, **options: Any) -> Exhaustion:
        (place / "fault.hex").write_text(f"{fault:x}\n")
        text = MATH
        for channel, bias in enumerate(BIASES):
            text = text.replace(f"BIAS{channel}", str(bias))
        dut = place / f"{style}.sv"
        dut.write_text(text + STYLES[style].replace("FAULT", str(place / "fault.hex")))
        latency = {"pipelined": 3}.get(style)
        return exhaust(vectors, [dut], **({"top": "post", "latency": latency, "builds": place / "builds"} | options))

    return run


def bounds(vectors: Path) -> list[tuple[int, int]]:
    """The accumulators that a channel's weights can give, by their signs: inputs -8..7."""
    weight = open_set(vectors)["weight"].reshape(4, -1)
    ups, downs = np.maximum(weight, 0).sum(1), np.minimum(weight, 0).sum(1)
    return list(zip((-8 * ups + 7 * downs).tolist(), (7 * ups - 8 * downs).tolist(), strict=True))


@pytest.mark.parametrize("style", STYLES)
def test_a_right_module_passes_with_every_accumulator(ask: Ask, style: str, vectors: Path) -> None:
    result = ask(style).check()
    count = sum(high - low + 1 for low, high in bounds(vectors))
    assert (result.within, result.compared, result.every, dict(result.wrong)) == (count, count, True, {})
    assert (
        result.latency
        == {"combinational": None, "pipelined": (3, 3), "handshake": (1, result.latency[1] if result.latency else 0)}[
            style
        ]
    )
    assert f"PASS, every one of the {count:,} accumulators within the bounds of 4 channels" in str(result)
    assert ("clock" in result.ports) == (style != "combinational")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("style", STYLES)
def test_a_fault_is_found_at_its_channel_value_and_step(ask: Ask, style: str, fault: str, vectors: Path) -> None:
    number, step, said = FAULTS[fault]
    result = ask(style, number)
    wrong = {
        (channel, v): code_of(v, channel, fault)
        for channel, (low, high) in enumerate(bounds(vectors))
        for v in range(low, high + 1)
        if code_of(v, channel, fault) != code_of(v, channel)
    }
    assert sum(result.wrong.values()) == len(wrong)
    assert set(result.wrong) == {channel for channel, _ in wrong}
    first = result.first
    assert first is not None
    channel, v = min(wrong)
    assert (first.channel, first.value, first.got, first.want) == (channel, v, wrong[channel, v], code_of(v, channel))
    assert first.step == step
    assert said in first.why
    assert first.trace["clipped"] == first.want
    assert list(first.trace) == ["biased", "scaled", "moved", "shifted", "clipped"]
    assert f"FAIL channel={channel} value={v} got={first.got} want={first.want} step={step}" in str(result)


def test_a_wrong_latency_is_told_with_the_right_one(ask: Ask) -> None:
    for stated in (2, 4):
        result = ask("pipelined", latency=stated)
        assert result.first is not None
        assert f"all codes are right at a latency of 3, not {stated}" in str(result)
    assert "state with --latency how many rising edges" in str(failing(lambda: ask("pipelined", latency=None)))
    assert "has no clock; leave it out" in str(failing(lambda: ask("combinational", latency=1)))
    assert "--latency 5 is stated, its valid ports tell 1.." in str(ask("handshake", latency=5).failure)


def failing(call: Callable[[], object]) -> QexportError:
    with pytest.raises(QexportError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_codes_that_are_lost_doubled_or_of_another_channel_are_told(ask: Ask) -> None:
    assert "codes, then nothing for 100,000 cycles" in str(ask("handshake", 20).failure)  # takes one value only
    assert "sent without other channels between, this one is right" in str(ask("handshake", 21).failure)
    assert "see its handshake" in str(ask("handshake", 22).failure)  # a code that was not taken goes
    hung = ask("handshake", 23)
    assert "and gave 0 codes, then nothing for 100,000 cycles; see its handshake" in str(hung.failure)
    assert hung.first is None
    assert not hung.passed


# --- the command -----------------------------------------------------------------------------------------------------


def written(to: Path, style: str = "combinational") -> Path:
    """A right module of the tests' steps."""
    text = MATH + STYLES[style].replace(SET_FAULT, "wire [7:0] f = 0;")
    for channel, bias in enumerate(BIASES):
        text = text.replace(f"BIAS{channel}", str(bias))
    to.write_text(text)
    return to


def test_the_command_passes_and_fails_with_what_it_compared(vectors: Path, tmp_path: Path) -> None:
    state = {path: path.read_bytes() for path in vectors.iterdir()}
    dut = written(tmp_path / "post.sv")
    passed = cli("exhaust", vectors, "--dut", dut, "--top", "post", "--json")
    assert passed.exit_code == 0, passed.output
    said = json.loads(passed.stdout)
    assert said["result"] == "PASS"
    assert said["every"]
    assert said["ports"] == {"value": "acc", "channel": "ch", "code": "code"}
    assert said["steps"] == ["biased", "scaled", "moved", "shifted", "clipped"]
    dut.write_text(dut.read_text().replace("40'sd1 <<< (shift - 1);\n  wire tie", "0;\n  wire tie"))
    failed = cli("exhaust", vectors, "--dut", dut, "--top", "post", "--json")
    assert failed.exit_code == 1, failed.output
    said = json.loads(failed.stdout)
    assert (said["result"], said["first"]["step"]) == ("FAIL", "shifted")
    assert said["first"]["want"] == said["first"]["trace"]["clipped"] != said["first"]["got"]
    assert "FAIL channel=0 value=" in failed.stderr
    assert "shifted rounds floor, not half_up" in failed.stderr
    assert state == {path: path.read_bytes() for path in vectors.iterdir()}


BAD: dict[str, tuple[tuple[str, ...], str, str]] = {  # options, a change of the module, what is said
    "no such file": (("--dut", "none.sv"), "", "none.sv does not exist"),
    "no such module": (("--top", "other"), "", "no module 'other'; it has"),
    "form": (("--port", "value"), "", "--port 'value' is not ROLE=NAME"),
    "twice": (("--port", "value=acc", "--port", "value=ch"), "", "--port 'value=ch' is given twice"),
    "step": (("--after", "scale"), "", "the set has no step 'scale'; it has scaled, "),
    "last step": (("--after", "clipped"), "", "nothing stands behind the step clipped"),
    "limit": (("--limit", "0"), "", "0 is not in the range x>=1"),
    "latency": (("--latency", "-1"), "", "-1 is not in the range"),
    "clock": ((), "module post (/module post (input clk, ", "state with --latency how many rising edges"),
    "syntax": ((), "wire [7:0] f = 0;/wire [7:0] f = ;", "verilator does not compile the sources"),
}
PORTS: dict[str, tuple[tuple[str, ...], str, str]] = {  # the same, and what the table of ports says
    "role": (("--port", "sum=acc"), "", "--port sum=acc: role sum is not known"),
    "port": (("--port", "value=sum"), "", "--port value=sum: the module has no port sum"),
    "direction": (("--port", "value=code"), "", "--port value=code: the port is output of 8 bits, not input"),
    "value": ((), "post (input signed [15:0] acc/post (input signed [15:0] foo", "value no port is found"),
    "narrow value": ((), "[15:0] acc, input [1:0] ch, output/[9:0] acc, input [1:0] ch, output", "value has 10"),
    "narrow channel": ((), "[1:0] ch, output/ch, output", "channel has 1 bits, which do not number 4 channels"),
    "narrow code": ((), "ch, output signed [7:0] code);\n  wire/ch, output signed [6:0] code);\n  wire", "has 7 bits"),
    "signed code": ((), "ch, output signed [7:0] code);\n  wire/ch, output [63:0] code);\n  wire", "at most 63"),
    "channel": ((), "[15:0] acc, input [1:0] ch, output/[15:0] acc, output", "channel no port is found, and the 4"),
    "more": ((), "ch, output signed [7:0] code);\n  wire/ch, input en, output signed [7:0] code);\n  wire",
             "input en - has no role: wrap the module in one"),
    "two": ((), "ch, output signed [7:0] code);\n  wire/ch, output q, output signed [7:0] code);\n  wire",
            "may be code, as 1 more may"),
    "reset": ((), "module post (/module post (input rst, ", "clock no port is found, but for reset"),
}  # fmt: skip


def changed(edit: str, options: tuple[str, ...], vectors: Path, tmp_path: Path) -> Result:
    """What the command says of a changed module."""
    dut = written(tmp_path / "post.sv")
    old, _, new = edit.partition("/")
    text = dut.read_text()
    assert text.count(old) == 1 or not old
    dut.write_text(text.replace(old, new) if old else text)
    given = ("--dut", dut, "--top", "post") if "--top" not in options else ("--dut", dut)
    return cli("exhaust", vectors, *given, *options)


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_ends_in_one_line(bad: str, vectors: Path, tmp_path: Path) -> None:
    options, edit, said = BAD[bad]
    fails(changed(edit, options, vectors, tmp_path), said)


@pytest.mark.parametrize("bad", PORTS)
def test_ports_that_do_not_suit_are_a_table(bad: str, vectors: Path, tmp_path: Path) -> None:
    options, edit, said = PORTS[bad]
    result = changed(edit, options, vectors, tmp_path)
    assert result.exit_code == 2, result.output
    first, header, *rows = result.stderr.splitlines()
    assert "cannot be used; name a port with --port ROLE=NAME" in first
    assert header.split() == ["port", "role", "fault"]
    assert any(said in " ".join(row.split()) for row in rows), result.stderr


def test_what_is_no_set_or_has_no_steps_is_said(vectors: Path, tmp_path: Path) -> None:
    dut = written(tmp_path / "post.sv")
    fails(cli("exhaust", tmp_path, "--dut", dut), "has no manifest.json")
    fails(cli("exhaust", vectors), "--dut is missing")
    bare = dump(make_capture(name="bare"), load_layout("default"), tmp_path).folder
    fails(cli("exhaust", bare, "--dut", dut, "--top", "post"), "the set has no steps: its capture has neither")


def test_a_run_without_an_end_is_cut_off(vectors: Path, tmp_path: Path) -> None:
    dut = written(tmp_path / "post.sv")
    result = cli("exhaust", vectors, "--dut", dut, "--top", "post", "--time-limit", "0.01")
    fails(result, "exhaust: ", "no end after 0.01 s", "--time-limit", code=1)
    with pytest.raises(CheckFailed, match=r"no end after 0\.01 s"):
        open_set(vectors).exhaust(str(dut), top="post", ports={"value": "acc"}, time_limit=0.01)


# --- pools, ranges too large to send, every kind of step -------------------------------------------------------------


def made_of(chain: Chain, to: Path, code_bits: int, text: Callable[[str], str] = str) -> Path:
    """A module of the Verilog that qexport writes for the steps."""
    calls = "value"
    for name in chain.names:
        calls = f"step_{name}({calls}, 32'(channel))"
    to.write_text(
        f"module post (input signed [63:0] value, input [8:0] channel, output signed [{code_bits - 1}:0] code);\n"
        "  function automatic signed [63:0] at_start(input integer channel, input integer y, input integer x);\n"
        f"    at_start = 0;\n  endfunction\n{text(steps_text(chain))}\n"
        f"  assign code = {code_bits}'({calls});\nendmodule\n"
    )
    return to


def chain_of(documents: list[dict[str, Any]], low: int, high: int, channels: int = 3) -> Chain:
    ends = np.full(channels, low), np.full(channels, high)
    return Chain(read_steps(documents), Signal(("n", "oc", "oy", "ox"), "oc", (channels, 4, 4), *ends))


def sent(chain: Chain, dut: Path, **options: Any) -> Exhaustion:
    return exhaust_chain(chain, [dut], folder="made", layer="by hand", top="post", **options)


LARGE: list[dict[str, Any]] = [
    {"op": "tflite", "name": "scaled", "multiplier": [1518500250, 2**30, 2**31 - 1], "shift": [-14, -15, -13],
     "rounding": "double"},
    {"op": "leaky_relu", "name": "leaky", "shift": 3, "round": "half_away"},
    {"op": "threshold", "name": "counted", "first": -4, "table": [[-90, 0, 7, 200], [-5, 1, 2, 3], [0, 0, 1, 9]]},
]  # fmt: skip


def test_a_range_too_large_is_walked_at_every_edge_and_at_random(vectors: Path, tmp_path: Path) -> None:
    chain = chain_of(LARGE, -(2**30), 2**30)
    result = sent(chain, made_of(chain, tmp_path / "post.sv", 8), limit=100_000, seed=5).check()
    assert not result.every
    assert result.every_edge
    assert result.within == 3 * (2**31 + 1)
    assert 90_000 < result.compared <= 100_000
    where = f"{result.edges:,} at every edge of every step, {result.compared - result.edges:,} at random (seed 5)"
    assert where in str(result)


def test_one_wrong_accumulator_of_billions_is_found_at_its_edge(vectors: Path, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"op": "multiply", "name": "scaled", "by": 12345},
        {"op": "shift_right", "name": "shifted", "by": 32, "round": "half_even"},
        {"op": "clamp", "name": "clipped", "low": -100, "high": 100},
    ]
    chain = chain_of(steps, -(2**31), 2**31 - 1)
    rise = next(v for v in range(6_000_000, 9_000_000) if rounded(v * 12345, 32, "half_even") == 20)
    calls = "step_clipped(step_shifted(step_scaled(value"
    dut = made_of(chain, tmp_path / "post.sv", 8)
    assert calls in dut.read_text()
    dut.write_text(dut.read_text().replace(calls, f"{calls} == {rise} ? value - 1 : value"))
    result = sent(chain, dut, limit=20_000)
    assert dict(result.wrong) == {0: 1, 1: 1, 2: 1}
    assert result.first is not None
    assert (result.first.value, result.first.got, result.first.want) == (rise, 19, 20)


POOLED: list[dict[str, Any]] = [
    {"op": "shift_right", "name": "halved", "by": 1, "round": "floor"},
    {"op": "sum_pool", "name": "pooled", "kernel": [2, 2]},
    {"op": "shift_right", "name": "mean", "by": 2, "round": "half_up"},
    {"op": "lookup", "name": "looked", "low": -300, "table": [v * v % 251 for v in range(601)]},
    {"op": "wrap", "name": "wrapped", "bits": 6, "signed": True},
]


def test_a_chain_is_sent_up_to_its_pool_and_behind_it_by_its_name(vectors: Path, tmp_path: Path) -> None:
    chain = chain_of(POOLED, -500, 500)
    first, rest = Chain(chain.steps[:1], chain.start), Chain(chain.steps[2:], chain.signals["pooled"])
    result = sent(chain, made_of(first, tmp_path / "first.sv", 12)).check()
    assert (result.steps, result.not_compared) == (("halved",), ("pooled", "mean", "looked", "wrapped"))
    assert "not compared  pooled, mean, looked, wrapped: from a pool on" in str(result)
    assert result.within == 3 * 1001
    behind = sent(chain, made_of(rest, tmp_path / "rest.sv", 6), after="pooled").check()
    assert (behind.steps, behind.not_compared) == (("mean", "looked", "wrapped"), ())
    assert "every one of the 6,003 values of pooled within the bounds of 3 channels" in str(behind)
    with pytest.raises(QexportError, match=r"behind the step halved stands a pool, .* with --after pooled"):
        sent(chain, tmp_path / "rest.sv", after="halved")


def test_where_channels_are_alike_a_module_needs_no_channel_and_each_value_is_sent_once(
    vectors: Path, tmp_path: Path
) -> None:
    steps = [{"op": "relu"}, {"op": "shift_right", "by": 3, "round": "toward_zero"}]
    ends = np.array([-900, -500, 7000]), np.array([100, 800, 7001])
    chain = Chain(read_steps(steps), Signal(("n", "oc"), "oc", (3,), *ends))
    dut = tmp_path / "post.sv"
    text = """module post (input signed [15:0] sumIn, output [15:0] y, output busy, output [2:0] flags);
  assign y = sumIn < 0 ? 0 : 16'(sumIn >>> 3), busy = sumIn > 9000;
endmodule
"""
    dut.write_text(text)
    result = sent(chain, dut).check()
    assert (result.within, result.compared) == (1701 + 2, 1703)
    assert result.ports == {"value": "sumIn", "code": "y"}
    assert "not looked at  busy, flags" in str(result)
    dut.write_text(text.replace("sumIn < 0 ?", "sumIn == 7001 || sumIn < 0 ?"))
    result = sent(chain, dut)
    assert result.first is not None
    assert (result.first.channel, result.first.value, result.first.got) == (2, 7001, 0)


def test_a_module_of_a_project_has_parameters_ties_and_other_names(vectors: Path, tmp_path: Path) -> None:
    text = MATH
    for channel, bias in enumerate(BIASES):
        text = text.replace(f"BIAS{channel}", str(bias))
    (tmp_path / "math.sv").write_text(text)
    (tmp_path / "post.sv").write_text(
        "module post #(parameter int FAULT = 3) (input ticks, clear_b, test_mode, output idle,\n"
        "  input signed [15:0] value_i, input [1:0] channel_i, output reg signed [`WIDTH-1:0] code_o);\n"
        "  wire signed [7:0] code;\n"
        "  math math (.acc(value_i), .ch(channel_i), .f(8'(test_mode ? 2 : FAULT)), .code(code));\n"
        "  always @(posedge ticks) code_o <= clear_b ? code : 0;\nendmodule\n"
    )
    (tmp_path / "post.f").write_text("+define+WIDTH=8\nmath.sv post.sv\n")
    given = ("--dut", tmp_path / "post.f", "--top", "post", "--latency", "1", "--clock", "ticks",
             "--reset", "clear_b:low", "--tie", "idle=open")  # fmt: skip
    result = cli("exhaust", vectors, *given, "--tie", "test_mode=1'b0", "--param", "FAULT=0")
    assert result.exit_code == 0, result.output
    assert re.search(r"input test_mode +- +has no role", cli("exhaust", vectors, *given, "--param", "FAULT=0").stderr)
    wrong = cli("exhaust", vectors, *given, "--tie", "test_mode=0")
    assert wrong.exit_code == 1, wrong.output
    assert "step=biased" in wrong.stderr
