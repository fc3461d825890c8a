"""Sets of matrix products, sums and convolutions with levels: the independent decoder agrees, verify finds changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.steps import read_steps
from qexport.errors import CheckFailed, QexportError
from tests.conftest import cases, checked_dump, cli, one_memory_layout
from tests.core.test_operations import convolutions, products, sums


def unprovable(capture: LayerCapture) -> bool:
    return not Golden(capture).accumulator.any()  # of which no set is made


@settings(max_examples=cases(40))
@given(capture=st.one_of(products(), sums(), convolutions()))
def test_sets_decode_to_what_was_stored(capture: LayerCapture, tmp_path_factory: pytest.TempPathFactory) -> None:
    from qexport.layout.toml import default_layout

    out = tmp_path_factory.mktemp("set")
    if unprovable(capture):
        with pytest.raises(CheckFailed, match="every accumulator is 0"):
            qx.dump(capture, out)
        return
    vs = qx.open(checked_dump(capture, default_layout(capture.layer.kind), out))
    golden = Golden(capture)
    for name in vs.tensors:
        if name != "psum":  # whose tiles are the layout's
            np.testing.assert_array_equal(vs[name], golden.values(name))


def product() -> LayerCapture:
    rng = np.random.default_rng(4)
    return qx.capture(
        input=rng.integers(-8, 8, (3, 5, 12)), input2=rng.integers(0, 4, (3, 12, 9)), name="product",
        addend=rng.integers(-50, 50, (3, 5, 9)), inputs="int4", inputs2=[-3, -1, 1, 3],
    )  # fmt: skip


@pytest.mark.parametrize("memory", ["input", "input2", "addend", "accumulator", "relu"])
def test_a_changed_digit_is_found_in_its_file(memory: str, tmp_path: Path) -> None:
    folder = qx.dump(product(), tmp_path).folder
    path = folder / f"{memory}.hex"
    lines = path.read_text().splitlines()
    last = lines[-1]
    lines[-1] = last[:-1] + ("1" if last[-1] == "0" else "0")
    path.write_text("\n".join(lines) + "\n")
    faults = qx.open(folder).verify().faults
    assert [(fault.file, fault.line, fault.lane) for fault in faults] == [(path.name, len(lines), 7)]
    assert faults[0].index["n"] == 2


def test_files_of_many_images_are_the_same_as_those_of_one_part(tmp_path: Path) -> None:
    capture = product()
    (tmp_path / "c.safetensors").write_bytes(capture.to_bytes())
    assert cli("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path).exit_code == 0
    here = qx.dump(capture, tmp_path / "here").folder
    assert {p.name: p.read_bytes() for p in here.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "product").iterdir()
    }


def test_an_order_of_another_kind_counts_as_lacking(tmp_path: Path) -> None:
    layout = one_memory_layout("n ic iy ix -> | n ic iy ix |", "input")
    with pytest.raises(QexportError, match="has it with the axes n m k, not n ic iy ix"):
        qx.dump(product(), tmp_path, layout)


def test_strength_and_blind_spots_of_a_product(tmp_path: Path) -> None:
    folder = qx.dump(product(), tmp_path).folder
    shown = cli("strength", folder)
    assert shown.exit_code == 0, shown.output
    assert "of single-bit input errors show in accumulator" in shown.stdout
    assert "blind spot: m in another order" in shown.stdout


@pytest.mark.parametrize("order", ["p -> | p |", "(pt col) -> | pt | ~col"])
def test_show_names_the_axis_of_a_products_numbers(order: str, tmp_path: Path) -> None:
    steps = read_steps([{"op": "multiply", "by": list(range(9))}])
    layout = one_memory_layout(order, "step0_by")
    folder = checked_dump(replace(product(), steps=steps), layout, tmp_path)
    (word,) = json.loads(cli("show", folder, "m.txt:1", "--json").stdout)["words"]
    assert [lane["index"] for lane in word["lanes"]] == [
        {"p": p} for p in ([0] if order[0] == "p" else range(7, -1, -1))
    ]
