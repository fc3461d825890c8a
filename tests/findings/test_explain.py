"""The terms of an explained value add up to the golden, and each operand stands where it is said to."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import qexport as qx
from qexport.build.dump import dump
from qexport.build.show import dissect
from qexport.core.golden import Golden
from qexport.errors import CheckFailed
from qexport.findings.explain import explain
from qexport.layout.formats.registry import FORMATS
from qexport.layout.toml import load_layout
from qexport.sets.manifest import read_manifest
from tests.build.test_verify import reseal
from tests.conftest import cases, checked_dump, cli, fails, make_capture, one_memory_layout
from tests.strategies import captures

LAYOUTS = ("default", "ws8x8", "ws8x8_row0msb", "os8x8", "bitplanes", "banks", "decimals", "stream_nhwc32")
NARROW = st.sampled_from([(4, True), (4, False), (1, False), (2, True)])  # whose sums fit 16 bits


def stored_at(folder: Path, place: str) -> int:
    """The bit pattern of FILE:LINE:LANE; of decimals the number."""
    path, line, lane = place.rsplit(":", 2)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    [memory] = [m for m in manifest["memories"] if path in [file["path"] for file in m["files"]]]
    text = (folder / path).read_text().split("\n")[int(line) - 1]
    if memory["radix"] == "dec":
        return int(text.split()[int(lane)]) & (1 << memory["bits"]) - 1
    word = int(text, {"hex": 16, "bin": 2}[memory["radix"]])
    shift = memory["word_bits"] - memory["bits"] * (int(lane) + 1)
    return word >> shift & (1 << memory["bits"]) - 1


def holds(folder: Path, places: tuple[str, ...], value: int, bits: int) -> bool:
    """Whether the places hold the low `bits` bits of a value: the whole code, or one bit each."""
    patterns = [stored_at(folder, place) for place in places]
    if len(patterns) > 1:
        return patterns == [value >> bit & 1 for bit in range(bits - 1, -1, -1)]
    mask = (1 << bits) - 1  # a memory may give a code more bits
    return [pattern & mask for pattern in patterns] == [value & mask]


@settings(max_examples=cases(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(capture=captures(NARROW), layout=st.sampled_from(LAYOUTS), data=st.data())
def test_the_sum_is_the_golden_and_every_operand_is_where_it_is_said_to_be(
    capture: Any, layout: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(Golden(capture).accumulator.any())
    folder = dump(capture, load_layout(layout), tmp_path_factory.mktemp("set")).folder
    golden, row = Golden(capture, 8), 8
    accumulator = golden.accumulator
    at = [data.draw(st.integers(0, size - 1)) for size in accumulator.shape]
    n, oc, oy, ox = at
    one = explain(folder, *at)
    layer, formats = capture.layer, capture.formats
    group = oc // (layer.out_channels // layer.groups) * layer.group_inputs
    total = 0
    seen = []
    for step in one.steps:
        if step.kind == "term":
            c = step.it * row + step.row
            seen.append((step.it, step.kh, step.kw, step.row))
            assert step.ic == group + c
            assert step.weight == capture.weight[oc, c, step.kh, step.kw]
            assert step.input == golden.values("patches")[n, step.ic, step.kh, step.kw, oy, ox]
            assert step.value == step.weight * step.input
            assert not (step.padding and step.input)
            assert step.weight_at
            assert holds(folder, step.weight_at, step.weight, formats.weight.bits)
            assert step.input_at or step.padding
            assert not step.input_at or holds(folder, step.input_at, step.input, formats.input.bits)
        if step.kind == "psum":
            py, px = (at[2 + i] * layer.stride[i] + (step.kh, step.kw)[i] * layer.dilation[i] for i in range(2))
            assert step.value == golden.values("psum")[n, step.it, step.kh, step.kw, oc, py, px]
            assert not step.at or holds(folder, step.at, step.value, 16)
        total += step.value if step.kind in ("term", "bias") else 0
        assert step.sum == total
    inputs, (kernel_h, kernel_w) = layer.group_inputs, layer.kernel
    assert seen == [
        (it, kh, kw, r)
        for it in range(-(-inputs // row)) for kh in range(kernel_h) for kw in range(kernel_w)
        for r in range(min(row, inputs - it * row))
    ]  # fmt: skip
    values = {step.kind: step.value for step in one.steps}
    assert total == values["accumulator"] == accumulator[n, oc, oy, ox]
    assert values["relu"] == max(total, 0)
    assert len(one.stored) >= 1
    for stored in one.stored:
        assert stored.value == values[stored.tensor]
        assert stored.at.split(":")[0] in [place.split(":")[0] for step in one.steps for place in step.at]


@pytest.mark.parametrize("radix", FORMATS)
def test_places_in_files_of_every_format(radix: str, tmp_path: Path) -> None:
    """`qexport show` finds the operand at the place."""
    layout = one_memory_layout("oc (it row) kh kw -> it | oc kh kw | ~row", radix=radix, file="m{it}", array={"row": 4})
    folder = dump(make_capture(), layout, tmp_path).folder
    manifest = read_manifest(folder)
    for step in explain(folder, 1, 5, 2, 0).steps:
        for place in step.weight_at:
            file, line, lane = place.rsplit(":", 2)
            [word] = dissect(folder, manifest, file, int(line))
            found = word.lanes[int(lane)]
            assert found.index == {"oc": 5, "ic": step.ic, "kh": step.kh, "kw": step.kw}
            assert found.code == step.weight


def test_table_csv_and_json_say_the_same(set_of: Any) -> None:
    folder = set_of("default")
    [one] = json.loads(cli("explain", folder, "--at", "1,3,0,2", "--json").stdout)["values"]
    rows = list(csv.DictReader(io.StringIO(cli("explain", folder, "--at", "1,3,0,2", "--csv").stdout)))
    assert len(rows) == len(one["steps"]) == 9 * 8 + 9 + 2
    for row, step in zip(rows, one["steps"], strict=True):
        assert (row["set"], row["image"], row["oc"], row["y"], row["x"]) == (str(folder), "1", "3", "0", "2")
        for name, value in step.items():
            assert row[name] == (" ".join(value) if isinstance(value, list) else "" if value is None else str(value))
    shown = cli("explain", folder, "--at", "1,3,0,2").stdout
    for place in (place for step in one["steps"] for name in ("input_at", "weight_at", "at") for place in step[name]):
        assert f" {place}" in shown
    assert shown.count("padding") == 3 * 8
    assert "n=1 oc=3 oy=0 ox=2, ot=0 col=3 of the array" in shown


def test_what_cannot_be_explained_is_named(set_of: Any, tmp_path: Path) -> None:
    folder = set_of("default")
    fails(cli("explain", folder, "--at", "0,8,0,0"), "oc 8 is outside 0..7")
    fails(cli("explain", folder, "--at", "2,0,0,0"), "image 2 is outside 0..1")
    fails(cli("explain", folder, "--at", "0,0,4,0"), "y 4 is outside 0..3")
    fails(cli("explain", folder, "--at", "0,0,0"), "3 numbers are given; a conv2d layer needs image, oc, y, x")
    fails(cli("explain", folder, "--at", "0,0"), "'0,0' is not IMAGE,OC,Y,X")
    fails(cli("explain", folder, "--at", "0,0,0,0", "--csv", "--json"), "either --csv or --json")
    copy = checked_dump(make_capture(), "default", tmp_path)
    (copy / "psum.hex").write_text("")
    with pytest.raises(CheckFailed, match=r"psum.hex is missing, or its SHA-256 differs"):
        explain(copy, 0, 0, 0, 0)


def test_words_that_are_none_are_a_failed_check_even_with_all_sums_made_to_fit(
    set_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(set_of("default"), tmp_path / "set")
    text = (folder / "accumulator.hex").read_text()
    (folder / "accumulator.hex").write_text(f"/{text[1:]}")
    reseal(folder)
    with pytest.raises(CheckFailed, match=r"accumulator\.hex:1: '/' is not a hexadecimal digit"):
        explain(folder, 0, 0, 0, 0)
    with pytest.raises(CheckFailed, match=r"accumulator\.hex:1: '/' is not a hexadecimal digit"):
        qx.open(folder)["accumulator"]
    (folder / "accumulator.hex").write_text("")
    reseal(folder)
    with pytest.raises(CheckFailed, match=r"accumulator\.hex:\S+ is not there: the file has 0 words"):
        explain(folder, 0, 0, 0, 0)
