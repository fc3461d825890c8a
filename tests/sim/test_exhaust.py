"""Every accumulator through right modules and through modules with a planted fault, which is found where it stands."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qexport import open as open_set
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat
from qexport.core.steps import read_steps
from qexport.errors import QexportError
from qexport.findings.exhaust.result import Exhaustion
from qexport.findings.exhaust.run import exhaust
from qexport.layout.toml import load_layout
from qexport.sim.registry import SIMULATORS
from tests.conftest import make_capture

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
