"""A failure is shown by the smallest set: of a design, confirmed by simulation, or of what it gave, by selection."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.errors import CheckFailed
from qexport.findings.shrink import _kinds, set_layout, shrink_actual, shrink_dut
from qexport.findings.words import read_actual
from qexport.layout.toml import load_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.run import simulate
from tests.conftest import CONV_PRESETS, cases, checked_dump, cli, fails, make_capture
from tests.judges import decoder
from tests.sim.conftest import copied, edited, state
from tests.sim.test_bench import on_icarus
from tests.strategies import captures

NARROW = st.sampled_from([(4, True), (4, False), (1, False), (2, True)])  # whose sums fit 16 bits
SUM = "          sum_of = sum_of + "
FIRST = "if (it == 0 && kh == 0 && kw == 0)\n        before_of"

# Faults of a design, and what of the layer must be left to show them.
BUGS: dict[str, tuple[tuple[str, str], dict[str, int]]] = {
    "one channel, tap and sign": (
        (SUM, f"if (channel == 2 && kh == 1 && kw == 0 && $signed(w) < 0) w = w + 1;\n{SUM}"),
        {"images": 1, "input channels": 3, "output channels": 3, "inputs that are not 0": 1},
    ),
    "weights unsigned": (
        ("$signed(w)", "$signed({1'b0, w})"),
        {"images": 1, "input channels": 1, "output channels": 1, "weights that are not 0": 1,
         "inputs that are not 0": 1},
    ),
    "accumulators of the image before": (
        (FIRST, FIRST.replace("if (", "if (n == 0 && ")), {"images": 2, "input channels": 1, "output channels": 1},
    ),
}  # fmt: skip


def capture() -> LayerCapture:
    """Three images of a 3-to-3 2x2 layer on a 3x2 plane."""
    return make_capture(plane=(3, 2), images=3, in_channels=3, out_channels=3, kernel=(2, 2), padding=(0, 0, 0, 0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(capture(), "default", tmp_path_factory.mktemp("whole"))


@on_icarus
@pytest.mark.parametrize("bug", BUGS)
def test_a_design_fails_on_the_smallest_set(bug: str, simulator: str, whole: Path, tmp_path: Path) -> None:
    edit, left = BUGS[bug]
    dut, before, out = edited(whole / "dut.sv", tmp_path / "my.sv", [edit]), state(whole), tmp_path / "a b" / "small"
    lines: list[str] = []
    done = shrink_dut(whole, out, [dut], simulator=simulator, budget=math.inf, progress=lines.append)
    assert done.complete
    assert done.cause is not None
    assert (
        done.cause == "unexplained"
        or done.cause.endswith("on this set and on the whole one")
        or "but not" in done.cause
    )
    assert done.runs < 60
    assert lines[0].startswith("simulating ")
    assert len(lines) > 3
    assert {name: done.after[name] for name in left} == left
    assert done.after["weights that are not 0"] <= 4
    assert done.before["images"] == 3
    assert decoder.check(out) == []
    assert cli("verify", out).exit_code == 0
    with pytest.raises(CheckFailed, match="FAIL memory="):
        simulate(out, simulator, [dut], keep=tmp_path / "again").check()
    simulate(out, simulator).check()  # the set's own design passes
    for memory in ("psum", "accumulator", "relu"):
        assert (done.actual / f"{memory}.hex").read_bytes() == (tmp_path / "again" / f"{memory}.hex").read_bytes()
    assert state(whole) == before


@on_icarus
def test_the_budget_ends_the_search_with_a_set_that_fails(simulator: str, whole: Path, tmp_path: Path) -> None:
    edit, _ = BUGS["weights unsigned"]
    dut = edited(whole / "dut.sv", tmp_path / "my.sv", [edit])
    run = ("--dut", dut, "--simulator", simulator)
    result = cli("shrink", whole, "--out", tmp_path / "small", *run, "--budget", "0.001")
    assert result.exit_code == 0, result.output
    assert "1, ended by the budget" in result.stdout
    assert (tmp_path / "small" / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    given = ("--actual", tmp_path / "small.actual", "--memory", "accumulator")
    result = cli("shrink", whole, "--out", tmp_path / "one", *given, "--json")
    document = json.loads(result.stdout)
    assert document["set"] == str(tmp_path / "one")
    assert document["actual"] == str(tmp_path / "one.actual")
    assert document["after"]["images"] == document["after"]["output channels"] == 1
    assert document["failures"] == ["values of accumulator"]
    assert decoder.check(tmp_path / "one") == []


@on_icarus
def test_what_cannot_be_shrunk_is_named(simulator: str, whole: Path, tmp_path: Path) -> None:
    run = ("shrink", whole, "--simulator", simulator, "--dut", whole / "dut.sv")
    result = cli(*run, "--out", tmp_path / "small")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith(
        "nothing to shrink: the design passes; give the set on which it fails"
    )
    fails(cli(*run, "--out", whole / "small"), "lies in the set")
    for nameless in (".", "..", "/"):
        fails(cli(*run, "--out", nameless), f"out: {nameless} is not a new folder")
    fails(cli("shrink", whole, "--out", tmp_path / "small"), "give either --dut or --actual")
    fails(cli(*run, "--out", tmp_path / "small", "--budget", "nan"), "--budget nan is not a number of seconds")
    fails(cli(*run, "--out", tmp_path / "small", "--memory", "relu"), "--memory belongs to --actual")
    for name in ("small", "small.actual"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("")
        fails(cli(*run, "--out", tmp_path / "small"), f"{tmp_path / name} is there already and not empty")
        shutil.rmtree(tmp_path / name)
    fails(cli("shrink", whole, "--out", tmp_path / "small", "--actual", whole / "relu.hex"), "every value of 'relu'")
    given = ("--actual", whole / "relu.hex", "--budget", "3", "--top", "x")
    fails(cli("shrink", whole, "--out", tmp_path / "small", *given), "--top belongs to --dut")
    fails(
        cli("shrink", whole, "--out", tmp_path / "small", "--actual", whole / "weight.hex"),
        "'weight' is not a memory of",
    )
    (tmp_path / "other.sv").write_text("module dut(input wire clk); endmodule\n")
    result = cli("shrink", whole, "--out", tmp_path / "small", "--dut", tmp_path / "other.sv")
    assert result.exit_code == 2
    assert "module dut: 10 ports not those of dut.sv of the set" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.sv"]


def test_a_set_that_was_changed_is_not_the_designs_failure(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "set")
    (folder / "relu.hex").unlink()
    run = ("shrink", folder, "--dut", whole / "dut.sv", "--out", tmp_path / "small")
    fails(cli(*run), "relu.hex is missing", "dump the set again", code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@settings(max_examples=cases(20), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(capture=captures(NARROW), layout=st.sampled_from(["default", "ws8x8", "decimals"]), data=st.data())
def test_what_a_design_gave_for_the_small_set_stays_valid(
    capture: LayerCapture, layout: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A value of a result is changed: in the small set it is the only one that differs, and it is the same value."""
    assume(Golden(capture).accumulator.any())
    scratch = tmp_path_factory.mktemp("set")
    folder = dump(capture, load_layout(layout), scratch).folder
    manifest = read_manifest(folder)
    entry = data.draw(st.sampled_from([m for m in manifest.memories if m.tensor in ("psum", "accumulator", "relu")]))
    good = read_actual(folder, folder, entry.name)
    stored = entry.tiling(manifest.array)
    index = tuple(data.draw(st.integers(0, size - 1)) for size in entry.shape)
    file, word, lane = stored.place(*index)
    values, known = good.values.copy(), good.known.copy()
    at = file * stored.words + word, lane
    x = data.draw(st.booleans())
    values[at], known[at] = (0, False) if x else (values[at] ^ 1, True)
    assume(Golden(capture).accumulator[index[0]].any())  # else there is no set of that image alone
    out = scratch / "small"
    done = shrink_actual(folder, out, replace(good, values=values, known=known))
    assert decoder.check(out) == []
    assert done.after["images"] == 1
    again, small = read_actual(out, done.actual / f"{entry.name}.hex", entry.name), read_actual(out, out, entry.name)
    assert (again.missing, again.extra) == (0, 0)
    differs = np.argwhere((again.values != small.values) | ~again.known)
    assert len(differs) == 1
    where = tuple(differs[0])
    assert again.known[where] != x
    assert x or again.values[where] == values[at]
    if Golden(capture).accumulator[index[0]].all():  # else more than one position may be needed
        assert done.after["output channels"] == 1
        small_entry = next(m for m in read_manifest(out).memories if m.name == entry.name)
        if entry.tensor != "psum" and not any(capture.layer.padding):  # else the position may see nothing but padding
            assert small_entry.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("layout", CONV_PRESETS)
def test_the_layout_of_a_set_is_found_again(layout: str, tmp_path: Path) -> None:
    """A set dumped once more with what its manifest says of the layout is the same to the byte."""
    one = make_capture(plane=(2, 2), images=1, in_channels=12, out_channels=10, kernel=(2, 1), bias=layout == "banks")
    folder = dump(one, load_layout(layout), tmp_path).folder
    manifest = read_manifest(folder)
    assert dump(one, set_layout(manifest, one), tmp_path).unchanged


def test_faults_are_told_apart_by_their_kind() -> None:
    log = (
        "FAIL memory=psum file=psum.hex line=8 lane=0 image=0 oc=7 it=0 kh=0 kw=0 y=1 x=1 got=146 want=-14\n"
        "FAIL memory=relu 3 of 512 values are wrong\nFAIL memory=relu 3 of 4 words were delivered\n"
        "FAIL errors=5645 checks=11904 of 11904 seed=0\nPASS checks=1 nonce=2\n"
    )
    assert _kinds(log) == {"values of psum", "values of relu", "memory=relu # of # words were delivered"}
    assert _kinds(log.replace("146", "x")) >= {"unknown values of psum", "values of relu"}  # no wrong number any more
