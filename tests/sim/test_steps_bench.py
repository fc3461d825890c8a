"""Sets whose layers have steps: the bench of each passes on both simulators and compares every value of the steps under
its name; the reference RTL passes where it has the steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qexport.bench.rtl import behind_array, render_rtl
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import MatMul, Sum
from qexport.core.steps import STEPS, read_steps
from qexport.layout.memory import Layout
from qexport.layout.toml import layout_text, load_layout, parse_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.run import simulate
from tests.conftest import make_capture

ROUNDS = ("floor", "half_up", "half_even", "half_away", "toward_zero")
BIAS = np.array([700, -3, 0, -(2**11), 77, 1, -1, 40, 5, -900])
OC = len(BIAS)


def each(low: int, high: int) -> list[int]:
    return np.random.default_rng(high).integers(low, high + 1, OC).tolist()


CASES: dict[str, list[dict[str, Any]]] = {
    "requantized": [
        {"op": "multiply", "by": each(-900, 900), "name": "gain"},
        {"op": "add", "value": each(-5000, 5000)},
        {"op": "shift_right", "by": each(4, 9), "round": "floor", "name": "module"},
        {"op": "clamp", "low": -100, "high": 127},
    ],
    **{
        f"bias behind the shift, {rounding}": [
            {"op": "shift_right", "by": 3, "round": rounding},
            {"op": "bias", "shift": 1},
            {"op": "relu"},
        ]
        for rounding in ROUNDS
    },
    "pooled": [
        {"op": "bias", "shift": 8},
        {"op": "shift_right", "by": 8, "round": "floor"},
        {"op": "clamp", "low": -32768, "high": 32767},
        {"op": "max_pool", "kernel": [2, 2]},
    ],
    "average": [
        {"op": "relu"},
        {"op": "sum_pool", "kernel": [2, 2], "stride": [1, 1], "padding": [1, 1, 1, 1]},
        {"op": "shift_right", "by": 2, "round": "half_up"},
    ],
    "tflite": [
        {"op": "tflite", "multiplier": each(2**30, 2**31 - 1), "shift": each(-6, 1), "rounding": "double"},
        {"op": "add", "value": -128},
        {"op": "clamp", "low": -128, "high": 127},
    ],
    "tflite single": [{"op": "tflite", "multiplier": 2**30 + 12345, "shift": -3, "rounding": "single"}],
    "leaky": [
        {"op": "leaky_relu", "shift": 3, "round": "half_even"},
        {"op": "wrap", "bits": 6, "signed": True},
        {"op": "lookup", "low": -32, "table": [(37 * i) % 64 - 20 for i in range(64)]},
        {"op": "shift_left", "by": each(0, 3)},
    ],
    "thresholds": [
        {"op": "multiply", "by": [1, -1] * 5},
        {"op": "threshold", "first": -8, "table": [list(range(low, low + 900, 60)) for low in range(-400, -300, 10)]},
    ],
    "none": [],
}  # fmt: skip
RTL = {name for name in CASES if name not in ("average", "tflite", "tflite single", "leaky")}
CASES |= {
    "matmul": [
        {"op": "multiply", "by": each(-9, 9)},
        {"op": "shift_right", "by": 4, "round": "half_away"},
        {"op": "threshold", "first": 0, "table": [[low, 0, 5, 30] for low in range(-OC, 0)]},
    ],
    "residual": [
        {"op": "multiply", "by": 3},
        {"op": "max_pool", "kernel": [2, 1]},
        {"op": "add", "value": each(-9, 9)},
        {"op": "sum_pool", "kernel": [2, 2], "stride": [1, 1], "padding": [1, 0, 1, 0]},
    ],
}


def capture_of(name: str) -> LayerCapture:
    capture = make_capture(
        plane=(5, 4), in_channels=3, out_channels=OC, kernel=(2, 2), padding=(1, 0, 0, 1), bias=True, relu=False
    )
    rng = np.random.default_rng(1)
    eight = CodeFormat(bits=8, signed=True, scale=0.5, zero_point=-3)
    formats = Formats(input=eight, input2=CodeFormat(bits=4, signed=False, scale=0.5, zero_point=7))
    match name:
        case "matmul":
            capture = LayerCapture(
                layer=MatMul(name="product"), formats=formats,
                input=rng.integers(-128, 128, (2, 3, 9)), input2=rng.integers(0, 16, (2, 9, OC)),
            )  # fmt: skip
        case "residual":
            formats = msgspec.structs.replace(formats, accumulator=AccumulatorScale(scale=0.25))
            capture = LayerCapture(
                layer=Sum(name="residual", mul=(3, -1)), formats=formats,
                input=rng.integers(-128, 128, (2, OC, 5, 4)), input2=rng.integers(0, 16, (2, OC, 5, 4)),
            )  # fmt: skip
        case _:
            capture = replace(capture, bias=BIAS)
    return replace(capture, steps=read_steps(CASES[name]))


def layout_for(name: str) -> Layout:
    """The layout default on 4x4, with a memory for the value of each step."""
    preset = {"matmul": "matmul", "residual": "sum"}.get(name, "default")
    text = layout_text(preset).replace("row = 8", "row = 4").replace("col = 8", "col = 4")
    order = "n m (pt col) -> | n m pt | ~col" if name == "matmul" else "n (ot col) oy ox -> | n ot oy ox | ~col"
    for index, step in enumerate(CASES[name]):
        tensor = step.get("name", f"step{index}")
        text += (
            f'\n[[memory]]\nname = "{tensor}"\ntensor = "{tensor}"\nfile = "{tensor}.hex"\nradix = "hex"\n'
            f'order = "{order}"\n'
        )
    return parse_layout(text, "steps.toml")


SetOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def set_with(tmp_path_factory: pytest.TempPathFactory) -> SetOf:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = dump(capture_of(name), layout_for(name), tmp_path_factory.mktemp("steps")).folder
        return made[name]

    return get


def names_of(name: str) -> set[str]:
    return {step.get("name", f"step{index}") for index, step in enumerate(CASES[name])}


# Verilator builds for seconds; that each rounding gives the same on both is tests/sim/test_steps.py
ON_VERILATOR = [name for name in CASES if "behind the shift" not in name or "half_even" in name]


@pytest.mark.parametrize(
    ("simulator", "name"),
    [*(("icarus", name) for name in CASES), *(("verilator", name) for name in ON_VERILATOR)],
    indirect=["simulator"],
)
def test_the_bench_compares_every_value_of_the_steps(simulator: str, name: str, set_with: SetOf) -> None:
    verdict = simulate(set_with(name), simulator, seed=3).check()
    psum = {"psum"} if name not in ("matmul", "residual") else set()
    assert set(verdict.compared) == {"accumulator", "output"} | psum | names_of(name)


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
@pytest.mark.parametrize("style", ["ws", "os"])
@pytest.mark.parametrize("name", sorted(RTL))
def test_the_reference_rtl_passes(simulator: str, style: str, name: str, set_with: SetOf, tmp_path: Path) -> None:
    folder = set_with(name)
    manifest = read_manifest(folder)
    files = render_rtl(style, manifest, *behind_array(folder, manifest))
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    verdict = simulate(folder, simulator, [tmp_path / file for file in files if file != "dut_mm.sv"], seed=3).check()
    psum = {"psum"} if style == "ws" else set()
    assert set(verdict.compared) == {"accumulator", "output"} | psum | names_of(name)


def test_every_step_is_among_the_cases() -> None:
    assert {step["op"] for steps in CASES.values() for step in steps} == set(STEPS)


def test_the_relu_of_a_layer_without_one_is_stored_and_not_compared(simulator: str, tmp_path: Path) -> None:
    folder = dump(make_capture(relu=False), load_layout("default"), tmp_path).folder
    assert "relu" in [memory.name for memory in read_manifest(folder).memories]
    verdict = simulate(folder, simulator)
    assert verdict.passed, verdict.failure
    assert list(verdict.compared) == ["psum", "accumulator"]
    assert "m_relu" not in (folder / "dut.sv").read_text()
    manifest = read_manifest(folder)
    assert "m_relu" not in render_rtl("ws", manifest, *behind_array(folder, manifest))["dut.sv"]
