"""`dump --stress`: sets that show every product of the layout's array, or as many as they can."""

import json
from pathlib import Path

import pytest

from qexport.build.dump import dump, dump_all
from qexport.core.capture import Capture
from qexport.core.codes import CodeFormat
from qexport.layout.toml import load_layout
from qexport.sim.run import simulate
from qexport.sim.streams import chosen_streams
from qexport.trust import stress
from qexport.trust.stress import stress_captures
from tests.conftest import cli, fails, make_capture
from tests.trust.test_stress_data import INT8, product, total


@pytest.mark.parametrize("layout", ["default", "os8x8"])
def test_every_element_sees_every_product(layout: str) -> None:
    captures, covered = stress_captures(make_capture(weight_bits=3, input_bits=3), load_layout(layout))
    assert 2 <= len(captures) <= 6
    assert covered.products is not None
    assert (covered.products.seen, covered.products.elements) == (64 * 8 * 8, 64)
    assert covered.accumulator.low_reached
    assert covered.accumulator.high_reached
    assert {one.layer.name for one in captures} == {"features.33"}  # whose package a design may import
    again, _ = stress_captures(make_capture(weight_bits=3, input_bits=3), load_layout(layout))
    assert [one.to_bytes() for one in again] == [one.to_bytes() for one in captures]


def test_what_takes_too_many_sets_ends_and_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "MAX_SETS", 3)
    small = make_capture(weight_bits=8, input_bits=4, in_channels=2, out_channels=2, plane=(3, 3))
    captures, covered = stress_captures(small, load_layout("default"))
    assert len(captures) == 3
    assert covered.products is not None
    assert 0 < covered.products.seen < covered.products.total


@pytest.mark.parametrize(
    ("like", "layout"),
    [
        (product(INT8, CodeFormat(bits=2, signed=True, scale=0.5), 12), "matmul"),
        (total(3, -1), "sum"),
        (make_capture(weight_bits=8, input_bits=16, plane=(1, 1)), "default"),
    ],
)
def test_other_kinds_have_one_set_or_several(like: Capture, layout: str) -> None:
    captures, covered = stress_captures(like, load_layout(layout))
    assert (covered.products is None) == (len(captures) == 1)


def test_the_command_writes_ordinary_sets_that_verify(tmp_path: Path) -> None:
    (tmp_path / "capture.safetensors").write_bytes(make_capture(weight_bits=2, input_bits=2, plane=(3, 3)).to_bytes())
    given = ("dump", "--capture", tmp_path / "capture.safetensors", "--stress", "--out", tmp_path / "out")
    result = cli(*given, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["coverage"]["products"]["seen"] == 64 * 4 * 4
    assert cli("verify", tmp_path / "out").exit_code == 0
    manifest = json.loads((tmp_path / "out/features_33_stress0/manifest.json").read_bytes())
    assert manifest["source"]["stimulus"] == "stress"
    again = cli(*given[:-1], tmp_path / "other", "--seed", "7", "--json")
    assert again.exit_code == 0, again.output
    other = (tmp_path / "other/features_33_stress0/weight.hex").read_bytes()
    assert other != (tmp_path / "out/features_33_stress0/weight.hex").read_bytes()
    fails(cli("dump", "--all", "--seed", "1", "--out", tmp_path / "all"), "--seed belongs to --stress")
    fails(cli("dump", "--all", "--stress", "--out", tmp_path / "all"), "--stress belongs to one layer")


@pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
def test_a_design_that_imports_the_layers_package_runs_on_all_of_them(simulator: str, tmp_path: Path) -> None:
    small = make_capture(weight_bits=2, input_bits=2, plane=(2, 2), kernel=(1, 1), padding=(0, 0, 0, 0), name="tiny")
    layout = load_layout("default")
    own = dump(small, layout, tmp_path / "vectors").folder
    sets, _ = dump_all(stress_captures(small, layout)[0], layout, tmp_path / "stress", numbered="_stress")
    assert len(sets) > 1
    assert [done.folder.name for done in sets] == [f"tiny_stress{at}" for at in range(len(sets))]
    for folder in (own, *(done.folder for done in sets)):
        assert "import tiny_pkg::*;" in (folder / "tb_tiny.sv").read_text()
        assert simulate(folder, simulator, [own / "dut.sv"], streams=chosen_streams(["smooth"])).passed
