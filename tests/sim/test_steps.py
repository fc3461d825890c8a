"""The Verilog of every step gives what the step gives, at all its edges, on both simulators; changed, it does not."""

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.bench.context import render
from qexport.bench.steps import steps_context
from qexport.core.intformat import Int64
from qexport.core.steps import STEPS, Chain, Signal, read_steps
from qexport.sim.registry import SIMULATORS
from qexport.sim.tools import Job
from qexport.sim.verilator import Verilator

BIAS = np.array([700, -3, 0, -(2**31)])
ROUNDS = ("floor", "half_up", "half_even", "half_away", "toward_zero")
NEAR, WIDE, WIDEST = (-300, 300), (-(2**31), 2**31 - 1), (-(2**62), 2**62 - 1)


# One step each: its document, the least and greatest value that comes in.
STEPS_ALONE: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "bias": ({"op": "bias"}, WIDE),
    "bias shifted": ({"op": "bias", "shift": 8}, WIDE),
    "multiply": ({"op": "multiply", "by": -77}, WIDE),
    "multiply each": ({"op": "multiply", "by": [3, -(2**30), 0, 2**30 - 1]}, WIDE),
    "add": ({"op": "add", "value": 5}, WIDE),
    "add each": ({"op": "add", "value": [2**61, -(2**61), 0, -1]}, WIDE),
    "shift_left": ({"op": "shift_left", "by": 30}, WIDE),
    "shift_left each": ({"op": "shift_left", "by": [0, 1, 31, 17]}, WIDE),
    **{
        f"shift_right {rounding}": ({"op": "shift_right", "by": 3, "round": rounding}, NEAR)
        for rounding in ROUNDS
    },
    **{
        f"shift_right {rounding} each": ({"op": "shift_right", "by": [0, 1, 7, 62], "round": rounding}, WIDEST)
        for rounding in ROUNDS
    },
    "tflite double": ({"op": "tflite", "multiplier": 1518500250, "shift": -3, "rounding": "double"}, NEAR),
    "tflite single": ({"op": "tflite", "multiplier": 1518500250, "shift": -3, "rounding": "single"}, NEAR),
    "tflite double each": (
        {"op": "tflite", "multiplier": [2**31 - 1, 2**30, 0, 1], "shift": [0, -31, -4, -7], "rounding": "double"}, WIDE
    ),
    "tflite single each": (
        {"op": "tflite", "multiplier": [2**31 - 1, 2**30, 0, 1], "shift": [0, -31, -4, -7], "rounding": "single"}, WIDE
    ),
    "tflite double left": (
        {"op": "tflite", "multiplier": 1518500250, "shift": [3, 30, 0, -1], "rounding": "double"}, (-2, 1)
    ),
    "tflite single left": (
        {"op": "tflite", "multiplier": 1518500250, "shift": [3, 30, 0, -1], "rounding": "single"}, (-2, 1)
    ),
    "relu": ({"op": "relu"}, NEAR),
    **{f"leaky_relu {r}": ({"op": "leaky_relu", "shift": 2, "round": r}, NEAR) for r in ROUNDS},
    "clamp": ({"op": "clamp", "low": -128, "high": 127}, NEAR),
    "clamp wide": ({"op": "clamp", "low": -(2**61), "high": 2**61}, WIDEST),
    "wrap": ({"op": "wrap", "bits": 5, "signed": True}, NEAR),
    "wrap unsigned": ({"op": "wrap", "bits": 5, "signed": False}, NEAR),
    "wrap wide": ({"op": "wrap", "bits": 62, "signed": True}, WIDEST),
    "threshold": (
        {
            "op": "threshold", "first": -3,
            "table": [[-9, -9, 0, 7], [-300, 0, 300, 300], [1, 2, 3, 4], [-4, -3, -2, -1]],
        },
        NEAR,
    ),
    "lookup": ({"op": "lookup", "low": -310, "table": [(7 * i) % 1021 - 500 for i in range(700)]}, NEAR),
    "lookup short": ({"op": "lookup", "low": -2, "table": [5, -(2**40), 2**40, 0]}, (-2, 1)),
}  # fmt: skip


def alone(name: str) -> tuple[Chain, Int64]:
    """A step at every one of its edges: a plane of one row, the edges of each channel in turn."""
    document, (low, high) = STEPS_ALONE[name]
    steps = read_steps([document])
    edges = [steps[0].edges(low, high, channel) for channel in range(4)]
    longest = max(map(len, edges))
    start = np.array([np.resize(each, longest) for each in edges])[None, :, None, :]
    return Chain(steps, signal(start.shape[1:], low, high), BIAS), start


def signal(sizes: tuple[int, ...], low: int, high: int) -> Signal:
    bounds = (np.full(sizes[0], end, object) for end in (low, high))
    return Signal(("n", "oc", "oy", "ox"), "oc", sizes, *bounds)


# Whole chains: the sizes of the first plane, its bounds, the steps.
CHAINS: dict[str, tuple[tuple[int, int, int], tuple[int, int], list[dict[str, Any]]]] = {
    "requantized, pooled": (
        (4, 5, 6), (-5000, 5000),
        [
            {"op": "multiply", "by": [13, -7, 1, 22], "name": "gain"},
            {"op": "add", "value": [100, 0, -5, 7]},
            {"op": "shift_right", "by": [4, 3, 2, 1], "round": "floor", "name": "module"},
            {"op": "clamp", "low": -128, "high": 127},
            {"op": "max_pool", "kernel": [2, 2], "name": "pooled"},
        ],
    ),
    "pools that overlap, with padding": (
        (3, 7, 5), (-90, -5),
        [
            {"op": "max_pool", "kernel": [3, 2], "stride": [2, 1], "padding": [2, 1, 1, 0]},
            {"op": "sum_pool", "kernel": [2, 3], "stride": [1, 2], "padding": [1, 0, 2, 1]},
            {"op": "shift_right", "by": 2, "round": "half_even"},
        ],
    ),
    "average": (
        (2, 4, 4), (0, 255),
        [
            {"op": "sum_pool", "kernel": [4, 4]},
            {"op": "shift_right", "by": 4, "round": "half_up"},
        ],
    ),
    "300 channels": (
        (300, 1, 2), (-(2**20), 2**20),
        [
            {"op": "multiply", "by": [7 * c % 301 - 150 for c in range(300)]},
            {"op": "threshold", "first": -2, "table": [[c - 150, c, 1000 * c] for c in range(300)]},
        ],
    ),
}  # fmt: skip


def chained(name: str) -> tuple[Chain, Int64]:
    sizes, (low, high), documents = CHAINS[name]
    start = np.random.default_rng(5).integers(low, high + 1, (1, *sizes))
    return Chain(read_steps(documents), signal(sizes, low, high)), start


@cache
def case_of(name: str) -> tuple[Chain, Int64]:
    return alone(name) if name in STEPS_ALONE else chained(name)


NAMES = (*STEPS_ALONE, *CHAINS)

BENCH = """module {module};
  reg signed [63:0] start [0:{elements}-1];
  function automatic signed [63:0] at_start(input integer channel, input integer y, input integer x);
    at_start = start[(channel * {rows} + y) * {columns} + x];
  endfunction
{steps}
{wanted}
  integer channel, y, x, wrong;
  initial begin
    wrong = 0;
    $readmemh("{module}_start.hex", start);
{compared}
    $display("{module} wrong=%0d", wrong);
  end
endmodule
"""
COMPARED = """    $readmemh("{module}_{name}.hex", want_{name});
    for (channel = 0; channel < {channels}; channel = channel + 1)
      for (y = 0; y < {rows}; y = y + 1)
        for (x = 0; x < {columns}; x = x + 1)
          if (at_{name}(channel, y, x) !== want_{name}[(channel * {rows} + y) * {columns} + x]) begin
            if (wrong == 0) $display("{name} %0d %0d %0d: %0d", channel, y, x, at_{name}(channel, y, x));
            wrong = wrong + 1;
          end"""


def steps_text(chain: Chain) -> str:
    context = steps_context(chain.steps, chain.start.sizes, "start", chain.bias)
    return render({"steps.svh": "sv/steps.svh.j2"}, context)["steps.svh"]


def write_bench(name: str, to: Path, text: str | None = None) -> Path:
    """A module that compares every value of a case; `text`: its steps, where they are not the rendered ones."""
    chain, start = case_of(name)
    module = f"case_{NAMES.index(name)}"
    wanted, compared = [], []
    for tensor, values in {"start": start, **chain.values(start)}.items():
        (to / f"{module}_{tensor}.hex").write_text("".join(f"{v & (2**64 - 1):x}\n" for v in values.ravel().tolist()))
        if tensor != "start":
            _, channels, rows, columns = values.shape
            wanted.append(f"  reg signed [63:0] want_{tensor} [0:{values.size}-1];")
            compared.append(COMPARED.format(module=module, name=tensor, channels=channels, rows=rows, columns=columns))
    _, _, rows, columns = start.shape
    (to / f"{module}.sv").write_text(
        BENCH.format(
            module=module, elements=start.size, rows=rows, columns=columns, steps=text or steps_text(chain),
            wanted="\n".join(wanted), compared="\n".join(compared),
        )
    )  # fmt: skip
    return to / f"{module}.sv"


def all_cases(to: Path) -> list[Path]:
    """The modules of all cases, and behind them one that holds them."""
    sources = [write_bench(name, to) for name in NAMES]
    instances = "".join(f"  {source.stem} i_{source.stem}();\n" for source in sources)
    (to / "all_cases.sv").write_text(f"module all_cases;\n{instances}  initial #1 $finish;\nendmodule\n")
    return [*sources, to / "all_cases.sv"]


def wrongs(simulator: str, sources: list[Path], top: str, at: Path) -> dict[str, int]:
    """How many values of each module differ."""
    build = at / "build"
    build.mkdir()
    one = SIMULATORS[simulator]
    done = one.compile(Job(tuple(sources), at, top), build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stderr, done.stderr
    ran = subprocess.run(one.command(build / "sim"), cwd=at, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {
        words[0]: int(words[1].removeprefix("wrong="))
        for line in ran.stdout.splitlines()
        if len(words := line.split()) == 2 and words[1].startswith("wrong=")
    }


def test_every_step_is_among_the_cases() -> None:
    ops = {step.op for name in NAMES for step in case_of(name)[0].steps}
    assert ops == set(STEPS)


def test_verilog_of_every_step_and_chain_gives_the_steps_values(simulator: str, tmp_path: Path) -> None:
    sources = all_cases(tmp_path)
    assert wrongs(simulator, sources, "all_cases", tmp_path) == {source.stem: 0 for source in sources[:-1]}


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
def test_verilator_has_no_warning(simulator: str, tmp_path: Path) -> None:
    sources = all_cases(tmp_path)
    program, env = Verilator()._found()
    command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", "all_cases", *map(str, sources)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


MUTANTS: Mapping[str, tuple[str, str, str]] = {
    "bias left out": ("bias", "v + (bias_numbers(channel) <<< 0)", "v"),
    "bias not shifted": ("bias shifted", "<<< 8", "<<< 7"),
    "bias of another channel": ("bias", "bias_numbers(channel)", "bias_numbers(0)"),
    "multiplied by another": ("multiply", "-64'sd77", "64'sd77"),
    "multiplier of another channel": ("multiply each", "step0_by(channel)", "step0_by(channel ^ 1)"),
    "product of 48 bits": ("multiply each", "v * step0_by(channel)", "64'($signed(48'(v * step0_by(channel))))"),
    "added twice": ("add", "v + ", "v + 64'sd5 + "),
    "subtracted": ("add each", "v + ", "v - "),
    "shifted one less": ("shift_left", "v <<< 64'sd30", "v <<< 64'sd29"),
    "shifted to the right": ("shift_left each", "<<< step0_by", ">>> step0_by"),
    "floor rounds up": ("shift_right floor", "1'b0 ?", "rest > 0 ?"),
    "floor without sign": ("shift_right floor each", "below = v >>> by", "below = v >> by"),
    "half_up down": ("shift_right half_up", "2 * rest >= one", "2 * rest > one"),
    "half_even to odd": ("shift_right half_even", "(below & 64'sd1)", "(~below & 64'sd1)"),
    "half_away toward zero": ("shift_right half_away", "v >= 0 ?", "v < 0 ?"),
    "toward_zero of positive ones too": ("shift_right toward_zero", "v < 0 && ", ""),
    "tflite first rounding down": ("tflite double", "2 * rest >= one", "1'b0"),
    "tflite second rounding up": ("tflite double", "round_half_away(round_half_up(", "round_half_up(round_half_up("),
    "tflite left shift left out": ("tflite double left", "(step0_shift(channel) > 0 ?", "(1'b0 ?"),
    "tflite one place less": ("tflite single each", "31 - ", "30 - "),
    "tflite multiplier of another channel": ("tflite single each", "step0_multiplier(channel)", "step0_multiplier(0)"),
    "relu at 1": ("relu", "v < 0 ?", "v < 2 ?"),
    "relu left out": ("relu", "v < 0 ? 64'sd0 : v", "v"),
    "leaky_relu of positive ones": ("leaky_relu half_up", "v < 0 ?", "v > 0 ?"),
    "leaky_relu one place less": ("leaky_relu floor", "(v, 2)", "(v, 1)"),
    "clamp one less above": ("clamp", "64'sd127", "64'sd126"),
    "clamp one more below": ("clamp", "-64'sd128", "-64'sd129"),
    "wrap of another sign": ("wrap", ">>> 59", ">> 59"),
    "wrap unsigned of another sign": ("wrap unsigned", ">> 59", ">>> 59"),
    "wrap left out": ("wrap", "(v <<< 59) >>> 59", "v"),
    "threshold at more than": ("threshold", "<= v)", "< v)"),
    "threshold without first": ("threshold", "step_step0 = (-64'sd3)", "step_step0 = 64'sd0"),
    "threshold of another channel": ("threshold", "channel * 4", "0"),
    "threshold without its last level": ("threshold", "level < 4", "level < 3"),
    "lookup one off": ("lookup", "v - (-64'sd310)", "v - (-64'sd309)"),
    "lookup of the first row": ("lookup", "at / 256", "at / 65536"),
    "max_pool the least": ("requantized, pooled", "if (v > at_pooled)", "if (v < at_pooled)"),
    "max_pool of padding": (
        "pools that overlap, with padding", "at_step0 = (-64'sd4611686018427387904)", "at_step0 = (-64'sd6)"
    ),
    "max_pool one column": ("requantized, pooled", "left + 2", "left + 1"),
    "sum_pool of the largest": ("average", "at_step0 = at_step0 + v", "at_step0 = v"),
    "sum_pool stride": ("pools that overlap, with padding", "left = x * 2", "left = x * 1"),
    "sum_pool starts at 1": ("average", "at_step0 = 64'sd0", "at_step0 = 64'sd1"),
}  # fmt: skip


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_changed_verilog_of_a_step_is_caught_by_the_same_values(simulator: str, mutant: str, tmp_path: Path) -> None:
    name, old, new = MUTANTS[mutant]
    text = steps_text(case_of(name)[0])
    assert old in text, text
    source = write_bench(name, tmp_path, text.replace(old, new))
    assert wrongs(simulator, [source], source.stem, tmp_path)[source.stem] > 0


def test_every_step_has_a_mutant() -> None:
    ops = {step.op for name, _, _ in MUTANTS.values() for step in case_of(name)[0].steps}
    assert ops == set(STEPS)
