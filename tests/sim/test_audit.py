"""The record of a verdict: each change of a single field is named, and what follows from set and design is computed."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qexport.bench.design import Design
from qexport.build.dump import dump
from qexport.core.capture import Capture
from qexport.core.steps import read_steps
from qexport.layout.toml import load_layout
from qexport.sets.manifest import read_manifest
from qexport.sim.audit import SEALED, broken_seals, computed, contradictions, differing
from qexport.sim.record import Record, leaves
from qexport.sim.verdict import Verdict
from tests.conftest import cli, fails
from tests.sim.conftest import copied, edited, tiny_capture
from tests.sim.test_bench import on_icarus
from tests.trust.test_stress_data import INT8, product, total

GIVEN = ("--top", "core", "--define", "EXTRA=1", "--param", "P=3", "--tie", "scan=1'b0", "--tie", "debug=open",
         "--reset", "rst_n", "--allow", "files")  # fmt: skip


@pytest.fixture(scope="module")
def judged(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Design]:
    """The record of a PASS of a design with all that a record can hold; the folder that it was made in; the design."""
    root = tmp_path_factory.mktemp("judged")
    (root / "inc").mkdir()
    (root / "inc/own.vh").write_text("// included\n")
    (root / "rom.hex").write_text("01\n02\n")
    edited(tiny_set / "dut.sv", root / "core.sv", [
        ("module dut (", '`include "own.vh"\nmodule core #(parameter P = 0) (input wire scan, output wire debug,'),
        ("input  wire rst,", "input  wire rst_n,"), ("if (rst) begin", "if (!rst_n) begin"),
        ("endmodule", f'  reg [7:0] t [0:1];\n  initial $readmemh("{root / "rom.hex"}", t);\n  final $display("bye");\n'
         f'  integer fd;\n  initial if (P == 4) fd = $fopen("{root / "log"}", "w");\nendmodule'),
    ])  # fmt: skip
    record = root / "verdict.json"
    design = ("--dut", root / "core.sv", "--include", root / "inc", *GIVEN)
    result = cli("simulate", tiny_set, "--simulator", "icarus", "--seed", "3", "--verdict", record, *design,
                 "--requirement", "REQ-1")  # fmt: skip
    assert result.exit_code == 0, result.output
    result = cli("audit", record, "--set", tiny_set, *design)
    assert result.exit_code == 0, result.output
    assert "holds; by its seals alone: environment, failure" in result.stdout
    read = Design.read(
        [root / "core.sv"], top="core", includes=[root / "inc"], defines=["EXTRA=1"], params={"P": "3"},
        ties={"scan": "1'b0", "debug": "open"}, reset="rst_n", allow=["files"],
    )  # fmt: skip
    return record, root, read


def changed(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}0" if value[-1:] != "0" else f"{value}1"
        case list():
            return ["more"]
        case dict():
            return {"more": 1}
    return 0


def forgeries(document: Any) -> Iterator[tuple[str, Any]]:
    """The record with a single leaf changed, and with it taken out."""
    for place, value in leaves(document):
        *path, last = place.split("/")[1:] if "/seals/" not in place else ["seals", place.removeprefix("/seals/")]
        for out in (False, True):
            forged = copy.deepcopy(document)
            inner = forged
            for key in path:
                inner = inner[int(key)] if isinstance(inner, list) else inner[key]
            at = int(last) if isinstance(inner, list) else last
            if out:
                del inner[at]
            else:
                inner[at] = changed(value)
            yield place.removeprefix("/seals/") if "/seals/" in place else place, forged


def test_every_forgery_of_a_single_field_is_named(judged: tuple[Path, Path, Design]) -> None:
    record, _, _ = judged
    document = json.loads(record.read_bytes())
    tried = 0
    for place, forged in forgeries(document):
        named = {doubt.field for doubt in broken_seals(forged)}
        assert place in named or any(field.startswith(place.rpartition("/")[0]) for field in named), place
        tried += 1
    assert tried > 100


def test_a_forger_who_seals_anew_is_named_by_what_is_computed(
    judged: tuple[Path, Path, Design], tiny_set: Path
) -> None:
    record, _, design = judged
    document = json.loads(record.read_bytes())
    del document["seals"]
    manifest, tried = read_manifest(tiny_set), 0
    fresh = computed("icarus", tiny_set, manifest, design)
    assert not [*differing(document, fresh)]
    for place, value in leaves(document):
        if place.startswith(tuple(f"/{name}" for name in SEALED)) or place.endswith(("/path", "/file")):
            continue
        forged = copy.deepcopy(document)
        *path, last = place.split("/")[1:]
        inner = forged
        for key in path:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        inner[int(last) if isinstance(inner, list) else last] = changed(value)
        try:
            found = msgspec.convert(forged, Record)
        except msgspec.ValidationError:
            continue
        doubts = [*contradictions(found, manifest, tiny_set), *differing(forged, fresh)]
        assert any(place.startswith(doubt.field) for doubt in doubts), (place, doubts)
        tried += 1
    assert tried > 40


@on_icarus
def test_what_changed_since_is_named(
    simulator: str, judged: tuple[Path, Path, Design], tiny_set: Path, tmp_path: Path
) -> None:
    record, root, _ = judged
    other = edited(root / "core.sv", tmp_path / "core.sv", [("endmodule", "// another\nendmodule")])
    given = ("--include", root / "inc", *GIVEN)
    result = cli("audit", record, "--set", tiny_set, "--dut", other, *given)
    fails(result, "/design/files/0/sha256: says ", code=1)
    result = cli("audit", record, "--set", tiny_set, "--dut", root / "core.sv", *given, "--allow", "force")
    fails(result, '/design/allow/1: says nothing, is "force"', code=1)
    folder = copied(tiny_set, tmp_path / "set")
    edited(folder / "psum.hex", folder / "psum.hex", [("\n", "\n\n")])
    result = cli("audit", record, "--set", folder, "--dut", root / "core.sv", *given)
    assert result.exit_code == 1
    assert "/set: psum.hex:2 " in result.stderr
    fails(cli("audit", record, "--set", tiny_set, "--dut", tmp_path / "none.sv"), "does not exist")
    own = record.read_text()
    for text, said, code in (
        ("[]", "is not a record of a verdict", 2),
        ("{", "is not a record of a verdict", 2),
        (own.replace("verdict/1", "other/1", 1), "has schema 'qexport.other/1'", 2),
        (own.replace('"beside": [', '"beside": [' + "[" * 980 + "]" * 980 + ",", 1), "audit: ", None),
        (own.replace('"cycles": ', '"cycles": -', 1), "/run/cycles: was changed", 1),
        (own.replace('"checks', '"more": 1, "checks', 1).replace("{", '{"x": 1, ', 1), "/x: was added", 1),
        (own + " ", "/: is not written as a record is", 1),
    ):
        (tmp_path / "no.json").write_text(text)
        result = cli("audit", tmp_path / "no.json", "--set", tiny_set, "--dut", root / "core.sv", *given)
        assert said in result.stderr
        assert result.exit_code == code or code is None
        assert "internal" not in result.stderr


@on_icarus
def test_a_fail_and_the_sets_own_design_have_records_too(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    wrong = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("at_accumulator(channel, y, x) < 0 ? 0 : ", "")])
    keep, record = tmp_path / "keep", tmp_path / "keep/verdict.json"
    assert cli("simulate", tiny_set, "--simulator", simulator, "--dut", wrong, "--keep", keep).exit_code == 1
    document = json.loads(record.read_bytes())
    assert document["result"] == "FAIL"
    assert any(line.startswith("FAIL memory=relu ") for line in document["failure"])
    assert cli("audit", record, "--set", tiny_set, "--dut", wrong).exit_code == 0
    assert cli("simulate", tiny_set, "--simulator", simulator, "--keep", keep).exit_code == 0
    assert cli("audit", record, "--set", tiny_set).exit_code == 0
    fails(cli("simulate", tiny_set, "--verdict", tiny_set / "v.json"), "lies in the set")
    fails(cli("simulate", tiny_set, "--verdict", wrong), "is not a record of a verdict")
    fails(cli("simulate", tiny_set, "--requirement", "A"), "--requirement belongs to --verdict or --keep")


@on_icarus
def test_sets_of_one_geometry_are_told_together(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        copied(tiny_set, tmp_path / "sets" / name)
    given = ("simulate", tmp_path / "sets", "--simulator", simulator, "--streams", "smooth")
    result = cli(*given)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("cannot see  ") == 2
    assert "together  2 sets: " in result.stdout
    found = json.loads(cli(*given, "--json").stdout)
    assert found["together"][0]["sets"] == 2
    assert found["together"][0]["products"] == found["sets"][0]["coverage"]["products"]
    fails(cli(*given, "--verdict", tmp_path / "v.json"), "--verdict is for one set", "has 2")


@pytest.mark.parametrize(
    ("capture", "layout", "compared", "said"),
    [
        (tiny_capture(), "default", ["psum", "relu"], r"^\d\S* of 16,384 products; the least and the greatest acc"),
        (tiny_capture(), "default", ["relu"], r"^\d+ of 256 single-bit weight errors; .*products"),
        (replace(tiny_capture(), steps=read_steps([{"op": "relu"}])), "default", ["output"],
         r"^single-bit weight errors are not counted, as none of .* is compared; .* products"),
        (product(INT8, INT8, 2), "matmul", ["accumulator"], "products; the least and the greatest accumulator"),
        (total(3, -1), "sum", ["accumulator"], "the least and the greatest accumulator"),
    ],
)  # fmt: skip
def test_what_a_set_cannot_see_is_told_of_what_the_design_gives(
    capture: Capture, layout: str, compared: list[str], said: str, tmp_path: Path
) -> None:
    folder = dump(capture, load_layout(layout), tmp_path).folder
    verdict = Verdict(
        set=folder, simulator="", version="", seed=0, compared=dict.fromkeys(compared, 1), not_compared={},
        manifest=read_manifest(folder),
    )  # fmt: skip
    assert re.search(said, verdict.unseen), verdict.unseen
    assert "\n" not in verdict.unseen
