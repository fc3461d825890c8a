"""The benches of matrix products, sums, and convolutions whose codes stand for levels: the set's design passes on both
simulators, a design that takes the codes for something else does not."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import MatMul, Sum
from qexport.core.steps import read_steps
from qexport.sim.verilator import Verilator
from tests.conftest import make_capture
from tests.judges import decoder

E2M1 = CodeFormat(bits=4, signed=False, scale=0.5, code="e2m1")
LEFT, RIGHT = (CodeFormat(bits=8, signed=True, scale=s, zero_point=z) for s, z in ((0.375, 3), (0.125, -7)))
BIPOLAR = CodeFormat(bits=1, signed=False, scale=1.0, levels=(-1, 1))
DOREFA = CodeFormat(bits=2, signed=False, scale=1.0, levels=(-3, -1, 1, 3))
rng = np.random.default_rng(7)


def codes(fmt: CodeFormat, *shape: int) -> np.ndarray[Any, Any]:
    return rng.choice(fmt.valid, shape)


def product(left: CodeFormat, right: CodeFormat, sizes: tuple[int, int, int, int], **more: Any) -> LayerCapture:
    n, m, k, p = sizes
    formats = Formats(input=left, input2=right)
    return LayerCapture(MatMul(name="it"), formats, input=codes(left, n, m, k), input2=codes(right, n, k, p), **more)


def total(mul: tuple[int, ...], **more: Any) -> LayerCapture:
    both = len(mul) == 2
    made = Formats(input=LEFT, input2=RIGHT if both else None, accumulator=AccumulatorScale(scale=0.125))
    second = codes(RIGHT, 2, 11, 4, 6) if both else None
    return LayerCapture(Sum(name="it", mul=mul), made, input=codes(LEFT, 2, 11, 4, 6), input2=second, **more)


def convolution(weight: CodeFormat, seen: CodeFormat, **more: Any) -> LayerCapture:
    plain = make_capture(in_channels=3, out_channels=5, bias=True, name="it", **more)
    own = codes(weight, *plain.weight.shape), codes(seen, *plain.input.shape)
    return replace(plain, formats=Formats(weight=weight, input=seen), weight=own[0], input=own[1])


STEPS = read_steps(
    [{"op": "multiply", "by": list(range(3, 14))}, {"op": "shift_right", "by": 6, "round": "half_even"},
     {"op": "clamp", "low": -128, "high": 127}]
)  # fmt: skip
POOL = read_steps([{"op": "sum_pool", "kernel": [2, 3]}, {"op": "shift_right", "by": 2, "round": "half_away"}])
# A capture, what is compared, and an edit of the set's design: pattern, and what stands in its place.
CASES: dict[str, tuple[LayerCapture, str, str]] = {
    "E2M1 x E2M1, K = 64": (product(E2M1, E2M1, (2, 5, 64, 11)), r"7: input_of = 64'sd12;", "7: input_of = 64'sd8;"),
    "zero points and an addend": (
        product(LEFT, RIGHT, (2, 3, 19, 10), addend=rng.integers(-(10**6), 10**6, (2, 3, 10))),
        r" - \(-7\)", "",
    ),
    "a product with steps of each p": (
        product(LEFT, RIGHT, (1, 3, 5, 11), steps=STEPS), r"k < K", "k < K - 1",
    ),
    "a residual sum 3:1": (total((3, 1)), r" - \(3\)", ""),
    "a difference with steps": (total((1, -2), steps=STEPS), r"64'\(MUL2\)", "-64'(MUL2)"),
    "a pool that stands alone": (total((1,), steps=POOL), r" - \(3\)", " - (4)"),
    "bipolar weights": (convolution(BIPOLAR, RIGHT), r"0: weight_of = \(-64'sd1\);", "0: weight_of = 0;"),
    "DoReFa": (convolution(DOREFA, DOREFA, padding=(0, 0, 0, 0)), r"3: input_of = 64'sd3;", "3: input_of = 2;"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_sets_design_passes_and_a_changed_one_fails(simulator: str, name: str, tmp_path: Path) -> None:
    capture, pattern, instead = CASES[name]
    vs = qx.dump(capture, tmp_path)
    assert decoder.check(vs.folder) == []
    verdict = vs.simulate(simulator=simulator, seed=3).check()
    steps = {"output"} if capture.steps else set()
    assert {"accumulator"} | steps <= verdict.compared.keys()
    if simulator == "verilator":  # which takes long to build; the other one tells as much of a design
        return
    text = (vs.folder / "dut.sv").read_text()
    wrong, count = re.subn(pattern, instead, text)
    assert count, text
    (tmp_path / "wrong.sv").write_text(wrong)
    assert not vs.simulate(tmp_path / "wrong.sv", simulator=simulator).passed


def test_what_a_kind_does_not_offer_is_said_in_one_line(tmp_path: Path) -> None:
    from tests.conftest import cli, fails

    folder = qx.dump(CASES["a residual sum 3:1"][0], tmp_path).folder
    shrinking = ("shrink", folder, "--actual", folder / "relu.hex", "--out", tmp_path / "s")
    for command, lacking, kinds in (
        (shrinking, "a smaller set that still fails", ""),
        (("rtl", folder, "--out", tmp_path / "r"), "reference RTL", ", matmul"),
    ):
        fails(cli(*command), f"layer it: a sum layer has no {lacking} yet; kinds that have: conv2d, linear{kinds}")


@pytest.mark.parametrize("name", CASES)
def test_no_simulator_warns_of_what_is_generated(simulator: str, name: str, tmp_path: Path) -> None:
    folder = qx.dump(CASES[name][0], tmp_path).folder
    if simulator == "verilator":
        program, env = Verilator()._found()
        command = [str(program), "--lint-only", "-Wall", "--timing", "--top-module", "tb_it", "-f", "files.f"]
    else:
        command = ["iverilog", "-g2012", "-Wall", "-s", "tb_it", "-o", str(tmp_path / "sim"), "-c", "files.f"]
        env = dict(os.environ)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout if simulator == "icarus" else "", done.stderr) == (0, "", "")
