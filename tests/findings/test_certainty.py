"""No cause is named where what came back says too little; missing words are not wrong ones; other kinds are served."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qexport as qx
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.findings.diagnose import diagnose
from qexport.findings.words import read_actual
from qexport.layout.toml import parse_layout
from tests.conftest import cli
from tests.findings.test_diagnose import came_back, model_of, relu_of, write


@pytest.fixture(scope="module")
def folder(set_of: Callable[[str], Path]) -> Path:
    return set_of("default")


@pytest.mark.parametrize("memory", ["accumulator", "relu"])
@pytest.mark.parametrize(
    "given",
    [
        lambda v: v * 0,
        lambda v: v * 0 - 1,
        lambda v: v * 0 + 0x7FFF,
        lambda v: np.broadcast_to(np.arange(v.shape[1]).reshape(1, -1, 1, 1), v.shape),
        lambda v: np.where(v > 20, 0x7FFF, -0x8000),
        lambda v: np.where(np.arange(v.shape[1]).reshape(1, -1, 1, 1) % 2, v * 0, v),
    ],
    ids=["zeros", "ones", "highest", "one a channel", "two values", "odd channels"],
)
def test_constant_results_are_no_arithmetic(folder: Path, memory: str, given: Callable[[Int64], Int64]) -> None:
    model = model_of(folder, memory)
    found = diagnose(folder, came_back(model, model.stored(np.asarray(given(model.golden)))))
    assert found.explained
    assert [cause.name for cause in found.causes] == ["results_constant"]


def test_what_is_alike_predicts_the_same_and_nothing_is_certain(folder: Path) -> None:
    model = model_of(folder, "relu")
    values = relu_of(model.capture.weight, model.capture.input, skip=5)
    found = diagnose(folder, came_back(model, values))
    assert (found.causes[0].name, found.causes[0].alike, found.certainty) == ("tap_missing", (), "likely")
    values[0, 0, 0, 0] += 1  # all but one value: no cause gives what came back
    found = diagnose(folder, came_back(model, values))
    assert (found.explained, found.causes[0].name, found.causes[0].alike) == (False, "tap_missing", ())
    assert found.causes[0].share > 0.9


@pytest.mark.parametrize(("first", "count"), [(16, 16), (9, 13)], ids=["image 1", "some words"])
def test_a_part_of_the_words_is_diagnosed(folder: Path, tmp_path: Path, first: int, count: int) -> None:
    model = model_of(folder, "relu")
    values = relu_of(model.capture.weight, model.capture.input, skip=5)
    words = came_back(model, values).values[first : first + count]
    file = write(tmp_path / "relu.hex", model.entry, words)
    for options in ([], ["--from", first]):
        result = cli("diagnose", folder, "--actual", file, "--memory", "relu", *options)
        assert "tap_missing (tap kh=1 kw=2), explains all" in result.output, result.output
        assert f"words {first} to {first + count - 1} of 32 are compared" in result.output
    right = write(tmp_path / "relu.hex", model.entry, came_back(model, model.golden).values[first : first + count])
    assert cli("diagnose", folder, "--actual", right, "--memory", "relu", "--from", first).exit_code == 0


CODES = """
name = "codes"
[[memory]]
name = "codes"
tensor = "output"
order = "n oc oy ox -> | n oc oy ox |"
file = "codes.dec"
radix = "dec"
"""
RNG = np.random.default_rng(0)
WEIGHT, INPUT = RNG.integers(-7, 8, (4, 2, 3, 3)), RNG.integers(0, 16, (2, 2, 6, 6))
LEFT, RIGHT = RNG.integers(-8, 8, (2, 4, 6)), RNG.integers(0, 16, (2, 6, 5))
ZEROS = {"weight": WEIGHT, "input": INPUT, "weights": "int4", "inputs": "uint4", "padding": 1, "input_zero_point": 5}
POOL = [{"op": "shift_right", "by": 2, "round": "floor"}, {"op": "max_pool", "kernel": [2, 2]}]
MATMUL = {"input": LEFT, "input2": RIGHT, "inputs": "int4", "inputs2": "uint4"}


def convolved(codes: Int64, pad: int, less: int = 5) -> Int64:
    wide = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=pad) - less
    taps = [np.einsum("oi,niyx->noyx", WEIGHT[:, :, kh, kw], wide[:, :, kh : kh + 6, kw : kw + 6])
            for kh in range(3) for kw in range(3)]  # fmt: skip
    return np.sum(taps, axis=0)


def pooled(values: Int64, reduce: Callable[..., Any] = np.max) -> Int64:
    return np.asarray(reduce(reduce(values.reshape(2, 4, 3, 2, 3, 2), axis=5), axis=3))


KINDS: dict[str, tuple[dict[str, Any], Callable[[], Int64], str]] = {
    "zero point left": (ZEROS | {"steps": []}, lambda: convolved(INPUT, 5, 0), "input_zero_point (not taken off)"),
    "padded with 0": (ZEROS | {"steps": []}, lambda: convolved(INPUT, 0), "padding_value (0)"),
    "no pool": (ZEROS | {"steps": POOL}, lambda: (convolved(INPUT, 5) >> 2)[:, :, ::2, ::2], "step_missing"),
    "least of the window": (ZEROS | {"steps": POOL}, lambda: pooled(convolved(INPUT, 5) >> 2, np.min), "step_number"),
    "behind a pool": (ZEROS | {"steps": POOL}, lambda: pooled(convolved(INPUT[:, ::-1], 5) >> 2), "input_tile_order"),
    "operand unsigned": (MATMUL | {"steps": []}, lambda: (LEFT % 16) @ RIGHT, "input_signed (input read as unsigned)"),
    "term lost": (MATMUL | {"steps": []}, lambda: LEFT[:, :, :5] @ RIGHT[:, :5], "term_missing (k=5)"),
}


@pytest.mark.parametrize("name", KINDS)
def test_zero_points_pools_and_products_are_diagnosed(name: str, tmp_path: Path) -> None:
    arrays, given, cause = KINDS[name]
    text = CODES.replace("n oc oy ox", "n m p") if "input2" in arrays else CODES
    text += "[array]\nrow = 1\ncol = 4\n" if "pool" in name else ""
    folder = qx.dump(qx.capture(**arrays), tmp_path, parse_layout(text, "codes.toml")).folder
    (tmp_path / "got.dec").write_text("".join(f"{code}\n" for code in given().ravel()))
    found = diagnose(folder, read_actual(folder, tmp_path / "got.dec", "codes"))
    assert found.explained
    assert str(found.causes[0]).startswith(cause), str(found)


def test_all_memories_of_a_run_have_one_cause(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder, "accumulator")
    wrong = replace(model.capture, weight=model.capture.weight[..., ::-1, ::-1].copy())
    for name in ("psum", "accumulator", "relu"):
        of = model_of(folder, name)
        given = Golden(wrong, 8).values(name) if name != "psum" else of.golden
        write(tmp_path / f"{name}.hex", of.entry, came_back(of, np.asarray(given)).values)
    result = cli("diagnose", folder, "--actual", tmp_path)
    assert result.exit_code == 1, result.output
    assert "memory psum is right" in result.output
    assert "memory relu follows from what came back of accumulator" in result.output
    assert "with memory accumulator" in result.output
    assert "unexplained" in result.output  # the psums are right: no mistake of the weights can be the cause
    of = model_of(folder, "psum")
    write(tmp_path / "psum.hex", of.entry, came_back(of, Golden(wrong, 8).values("psum")).values)
    result = cli("diagnose", folder, "--actual", tmp_path)
    assert "cause      kernel_rotated, explains all" in result.output, result.output
    assert "memory accumulator is as the cause predicts" in result.output
