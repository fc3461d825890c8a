"""The stress capture of a layer with steps kills a mutant of each step's Verilog in the set's own design."""

from pathlib import Path

import numpy as np
import pytest

from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import Conv2d
from qexport.core.steps import STEPS, takes_bias
from qexport.layout.toml import load_layout
from qexport.sim.run import simulate
from qexport.trust.stress import stress_capture
from tests.sim.test_steps import CHAINS, MUTANTS, case_of

ELSEWHERE = {
    "product of 48 bits", "shifted to the right", "floor without sign",  # show for larger accumulators alone
    "multiplier of another channel", "bias left out", "bias of another channel",  # their text is of another module
}  # fmt: skip
KILLED = sorted(MUTANTS.keys() - ELSEWHERE - {name for name, (case, _, _) in MUTANTS.items() if "tflite" in case})
TFLITE = [name for name, (case, _, _) in MUTANTS.items() if case in ("tflite double", "tflite single")]


def like(case: str) -> LayerCapture:
    """A layer of 1x1 whose accumulators fit the steps of a case."""
    chain, start = case_of(case)
    channels, *plane = (start.shape[1], *(2 * size for size in start.shape[2:])) if case in CHAINS else (4, 4, 5)
    inputs, bits = {"lookup short": (1, 1), "lookup": (4, 3), "clamp": (8, 4)}.get(case, (4, 4))
    return LayerCapture(
        layer=Conv2d(name="stepped", in_channels=inputs, out_channels=channels, kernel=(1, 1)),
        formats=Formats(
            weight=CodeFormat(bits=1 if bits == 1 else 4, signed=True, scale=1.0),
            input=CodeFormat(bits=bits, signed=False, scale=1.0),
        ),
        weight=np.zeros((channels, inputs, 1, 1), np.int64),
        input=np.zeros((1, inputs, *plane), np.int64),
        bias=chain.bias if takes_bias(chain.steps) else None,
        steps=chain.steps,
    )


@pytest.mark.whole
@pytest.mark.parametrize("mutant", [*KILLED, *TFLITE])
def test_a_mutant_of_a_steps_verilog_is_killed_by_the_stress_capture(mutant: str, tmp_path: Path) -> None:
    case, old, new = MUTANTS[mutant]
    folder = dump(stress_capture(like(case)), load_layout("default"), tmp_path).folder
    text = (folder / "dut.sv").read_text()
    assert old in text
    (tmp_path / "mutant.sv").write_text(text.replace(old, new))
    assert simulate(folder, "icarus").passed
    assert not simulate(folder, "icarus", [tmp_path / "mutant.sv"]).passed


def test_a_mutant_of_every_step_is_among_them() -> None:
    assert {step.op for name in (*KILLED, *TFLITE) for step in case_of(MUTANTS[name][0])[0].steps} == set(STEPS)
