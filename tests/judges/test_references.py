"""References in captures: codes and ties are held to the letter, tolerances cover the reference's own rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import cli, fails
from tests.judges.golden import Capture, accumulated, rounded_codes, run_steps
from tests.judges.layers import codes, conv, dumped, judge, plain_layout

TENSORS = ["input", "weight", "accumulator", "output"]


def contradicted(
    capture: Capture, root: Path, *needles: str, tensors: tuple[str, ...] = ("input", "accumulator")
) -> None:
    """The dump ends with 1 and one line, and leaves nothing behind."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "plain.toml").write_text(plain_layout(capture, ("input", "accumulator")))
    path = capture.write(root / "made.safetensors")
    fails(cli("dump", "--capture", path, "--layout", root / "plain.toml", "--out", root / "out"), *needles, code=1)
    assert not (root / "out").exists() or not list((root / "out").iterdir())


# ---- reference_codes ------------------------------------------------------------------------------------------------


def with_codes(steps: bool) -> tuple[Capture, Any]:
    """A layer whose output the judge computes; with steps, or with scales only."""
    rng = np.random.default_rng(1)
    formats = {"weight": codes(4, True, 0.031), "input": codes(4, False, 0.4, 3), "output": codes(8, True, 0.055, 7)}
    w, x = rng.integers(-8, 8, (5, 4, 3, 3)), rng.integers(0, 16, (2, 4, 5, 5))
    capture = conv(w, x, formats, bias=rng.integers(-60, 60, 5), padding=[1, 1, 1, 1])
    if steps:
        capture = capture.having(steps=[
            {"op": "multiply", "by": [3, 5, 7, 9, 11]},
            {"op": "shift_right", "by": 5, "round": "half_even"},
            {"op": "clamp", "low": -128, "high": 127},
        ])  # fmt: skip
        sums, _ = accumulated(capture)
        return capture, run_steps(capture.steps or [], sums, np.zeros(5, np.int64))[-1]
    sums, _ = accumulated(capture)
    found = np.zeros_like(sums)
    for at in np.ndindex(sums.shape):
        found[at] = rounded_codes(capture, at[1], int(sums[at]))[0]
    return capture, found


def referring(capture: Capture, found: Any, ties: Any = None) -> Capture:
    tensors = capture.tensors | {"reference_codes": found.astype(np.int32)}
    return capture.having(tensors=tensors, more={} if ties is None else {"ties": ties})


@pytest.mark.parametrize("steps", [True, False])
def test_equal_codes_pass_and_one_that_differs_does_not(steps: bool, tmp_path: Path) -> None:
    capture, found = with_codes(steps)
    judge(dumped(referring(capture, found), tmp_path / "right", TENSORS), capture)
    for number, at in enumerate([(0, 0, 0, 0), (1, 4, 4, 4), (0, 2, 3, 1)]):
        wrong = found.copy()
        wrong[at] += 1 if wrong[at] < 127 else -1
        contradicted(referring(capture, wrong), tmp_path / f"wrong{number}", "reference_codes")


def near_tie() -> tuple[Capture, Any, tuple[int, ...], int]:
    """Real values that are ties exactly: a framework may fall on either side there."""
    rng = np.random.default_rng(2)
    formats = {"weight": codes(4, True, 0.25), "input": codes(4, False, 0.125), "output": codes(8, True, 0.5)}
    capture = conv(rng.integers(-8, 8, (3, 2, 2, 2)), rng.integers(0, 16, (1, 2, 7, 7)), formats)
    sums, _ = accumulated(capture)
    at = tuple(int(v) for v in np.argwhere(sums % 16 == 8)[0])
    found = np.zeros_like(sums)
    for place in np.ndindex(sums.shape):
        found[place] = rounded_codes(capture, place[1], int(sums[place]))[0]
    return capture, found, at, int(sums[at])


def other_side(capture: Capture, found: Any, at: tuple[int, ...], value: int) -> Any:
    """All places of that channel and accumulator take the other code of the tie."""
    sums, _ = accumulated(capture)
    changed = found.copy()
    lower = value // 16
    changed[:, at[1]][sums[:, at[1]] == value] = 2 * lower + 1 - found[at]
    return changed


def test_a_listed_tie_may_fall_on_either_side(tmp_path: Path) -> None:
    capture, found, at, value = near_tie()
    changed = other_side(capture, found, at, value)
    contradicted(referring(capture, changed), tmp_path / "unlisted", "reference_codes")
    set_ = judge(dumped(referring(capture, changed, [[at[1], value]]), tmp_path / "listed", TENSORS), capture)
    assert [at[1], value] in [list(pair) for pair in set_.manifest["ties"]]
    assert set_.output[at] == found[at]  # the golden stays the rounding half to even


def test_a_tie_covers_its_own_channel_and_one_code(tmp_path: Path) -> None:
    capture, found, at, value = near_tie()
    changed = other_side(capture, found, at, value)
    other = (at[1] + 1) % 3
    contradicted(referring(capture, changed, [[other, value]]), tmp_path / "channel", "reference_codes")
    far = found.copy()
    far[at] += 2
    contradicted(referring(capture, far, [[at[1], value]]), tmp_path / "far", "reference_codes")


def test_ties_do_not_hide_what_is_none(tmp_path: Path) -> None:
    """An accumulator in the middle of a code is no tie, whatever the list says."""
    capture, found, _, _ = near_tie()
    sums, _ = accumulated(capture)
    at = tuple(int(v) for v in np.argwhere(sums % 16 == 0)[0])
    wrong = found.copy()
    wrong[:, at[1]][sums[:, at[1]] == sums[at]] += 1
    capture = referring(capture, wrong, [[at[1], int(sums[at])]])
    path = capture.write(tmp_path / "made.safetensors")
    done = cli("dump", "--capture", path, "--out", tmp_path / "out")
    fails(done, code=1 if done.exit_code == 1 else 2)


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 5, 5, 4), (1, 5, 5, 5)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    capture, _ = with_codes(True)
    path = referring(capture, np.zeros(shape)).write(tmp_path / "made.safetensors")
    fails(cli("dump", "--capture", path, "--out", tmp_path / "out"), "reference_codes")


# ---- real references ------------------------------------------------------------------------------------------------


def real_layer(kind: str, seed: int = 3, **changes: Any) -> tuple[Capture, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A correct capture, its exact real output in float64, and the real product of scales of each channel."""
    rng = np.random.default_rng(seed)
    oc, ic, bits = 6, 4, 8
    if kind == "tiny scales":
        scales, input_scale = (2.0 ** rng.uniform(np.log2(1e-5), np.log2(1e-3), oc)), 0.02
        scales[0] = 1e-5
    elif kind == "large sums":
        scales, input_scale, ic = rng.uniform(0.001, 0.01, oc), 0.05, 1024
    else:
        scales, input_scale = rng.uniform(0.001, 0.02, oc), 0.05
    scales = scales.astype(np.float32).astype(float)
    formats = {"weight": codes(bits, True, scales.tolist()), "input": codes(bits, False, input_scale, 119)}
    low = 60 if kind == "large sums" else -128
    w = rng.integers(low, 128, (oc, ic, 3, 3))
    x = rng.integers(190 if kind == "large sums" else 0, 256, (2, ic, 4, 4))
    step = scales * input_scale
    real_bias = rng.normal(0, 1, oc) * 300.3 * step
    bias = np.round(real_bias / step).astype(np.int64)
    capture = conv(w, x, formats, bias=bias, padding=[1, 1, 1, 1])
    sums, _ = accumulated(capture)
    exact = sums * step[None, :, None, None]
    if kind == "biases off the grid":
        exact = exact + (real_bias - bias * step)[None, :, None, None]
    return capture, exact, step


def grid(real: Any) -> Any:
    """As the contract rounds references."""
    return (np.round(np.asarray(real, np.float64) * 2**20) / 2**20).astype(np.float32)


KINDS = ["plain", "tiny scales", "large sums", "biases off the grid"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_grid", [True, False])
def test_a_correct_capture_is_not_refused(kind: str, on_grid: bool, tmp_path: Path) -> None:
    capture, exact, _ = real_layer(kind)
    if kind == "large sums":
        assert accumulated(capture)[0].max() > 2**24
    reference = grid(exact.astype(np.float32)) if on_grid else exact.astype(np.float32)
    capture = capture.having(tensors=capture.tensors | {"reference": reference})
    found = dumped(capture, tmp_path, ["input", "weight", "accumulator"])
    assert found.manifest["golden"]["reference"] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_float32_convolution_of_torch_is_not_refused(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    capture, _, step = real_layer(kind)
    scales = np.array(capture.formats["weight"]["scale"])
    w = (capture.tensors["weight"] * scales[:, None, None, None]).astype(np.float32)
    x = ((capture.tensors["input"] - 119) * capture.formats["input"]["scale"]).astype(np.float32)
    bias = (capture.tensors["bias"] * step).astype(np.float32)
    tensors = [torch.from_numpy(array) for array in (x, w, bias)]
    reference = torch.nn.functional.conv2d(*tensors, padding=1).numpy()
    capture = capture.having(tensors=capture.tensors | {"reference": grid(reference)})
    dumped(capture, tmp_path, ["input", "weight", "accumulator"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", ["scale", "padding", "bias", "channels"])
def test_a_really_wrong_one_is_refused(kind: str, mistake: str, tmp_path: Path) -> None:
    capture, exact, step = real_layer(kind)
    if mistake == "scale":
        wrong = exact * 1.05
    elif mistake == "bias":
        wrong = exact - (capture.tensors["bias"] * step)[None, :, None, None]
    elif mistake == "channels":
        wrong = exact[:, [1, 0, 2, 3, 4, 5]]
    else:  # the padding holds code 0, not the zero point
        x = np.pad(capture.tensors["input"], ((0, 0), (0, 0), (1, 1), (1, 1)))
        layer = capture.layer | {"padding": [0, 0, 0, 0]}
        padded = capture.having(layer=layer, tensors=capture.tensors | {"input": x})
        wrong = accumulated(padded)[0] * step[None, :, None, None]
    capture = capture.having(tensors=capture.tensors | {"reference": grid(wrong)})
    contradicted(capture, tmp_path, "reference")


@pytest.mark.parametrize("where", ["reference", "next_input"])
def test_an_accumulator_off_by_one_is_refused(where: str, tmp_path: Path) -> None:
    capture, exact, step = real_layer("plain")
    wrong = exact.copy()
    at = np.unravel_index(np.argmax(exact), exact.shape)
    wrong[at] += step[at[1]]
    if where == "next_input":
        capture = capture.having(layer=capture.layer | {"relu": True})
        wrong = np.maximum(wrong, 0)
    capture = capture.having(tensors=capture.tensors | {where: grid(wrong)})
    contradicted(capture, tmp_path, where)
