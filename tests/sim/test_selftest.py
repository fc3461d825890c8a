"""Selftest notices what it must, and fails where a bench has been made blind."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import qexport as qx
from qexport import __version__
from qexport.bench.interface import stands_as_preset
from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core.capture import CaptureFile
from qexport.core.operations.registry import operation
from qexport.layout.memory import Layout
from qexport.layout.toml import layout_text, parse_layout
from qexport.sets.folder import sha256
from qexport.sets.manifest import read_manifest
from qexport.sim.registry import choose
from qexport.trust import equivalence
from qexport.trust import selftest as module
from qexport.trust.mutants import chosen_edits, reference_mutants
from qexport.trust.selftest import (
    BENCH,
    CHECKERS,
    SIMULATE,
    VERIFY,
    FileMutant,
    _arrays,
    _file_mutants,
    _sealed_changes,
    _stress_layout,
)
from qexport.trust.stress import stress_capture
from tests.conftest import checked_dump, cli, fails, make_capture, one_memory_layout
from tests.sim.conftest import copied, edited, state

MEMORIES = ("weight", "input", "psum", "accumulator", "relu")
LINE_CHANGES = ("flipped", "dropped", "doubled", "swapped", "too wide", "X digit", "header", "empty", "missing")
COMPARISON = ("differs = g !== w;", "differs = 0;")
CHECKSUM = ("if (earlier == faults && ~crc !== want)", "if (0)")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer of each kind than a user gets, so that Icarus is fast enough; proofs may take what a busy machine needs."""
    monkeypatch.setattr(equivalence, "LIMIT", 600)
    monkeypatch.setattr(module, "FLIPS", 20)
    monkeypatch.setattr(module, "SEALED", 2)


def rehashed(folder: Path) -> Path:
    """A set whose manifest and sums agree with its bench as it is now."""
    document = json.loads((folder / "manifest.json").read_bytes())
    for file in document["bench"]:
        file["sha256"] = sha256((folder / file["path"]).read_bytes())
    (folder / "manifest.json").write_text(json.dumps(document, sort_keys=True, indent=2) + "\n")
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(path.read_bytes())}  {path.name}\n" for path in files))
    return folder


def blinded(folder: Path, to: Path, edits: Iterable[tuple[str, str]]) -> Path:
    """A copy of the tiny set whose bench was edited, and hashed anew as if another version had dumped it so.

    Of a set of this version the bench files are compared with a fresh rendering.
    """
    copy = copied(folder, to)
    edited(copy / "manifest.json", copy / "manifest.json", [(f'"version": "{__version__}"', '"version": "0.1.0"')])
    edited(copy / "tb_tiny.sv", copy / "tb_tiny.sv", edits)
    return rehashed(copy)


def mutants(folder: Path, simulator: str) -> list[FileMutant]:
    return _file_mutants(folder, choose(simulator), 0, False, lambda done, total: None)


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)  # Icarus would take minutes
def test_every_change_of_a_file_is_noticed_by_all_who_look_at_it(simulator: str, ragged_set: Path) -> None:
    before = state(ragged_set)
    found = mutants(ragged_set, simulator)  # the build is that of test_bench.py
    assert [mutant for mutant in found if mutant.demanded and mutant.missed] == []
    assert state(ragged_set) == before
    groups = {mutant.group for mutant in found}
    assert {path.name for path in ragged_set.iterdir()} <= groups
    for name in (*MEMORIES, "bias"):
        changes = [m.name.partition(": ")[2] for m in found if m.group == f"{name}.hex"]
        for what in LINE_CHANGES:
            assert any(what in change for change in changes), (name, what)
        sealed = [m for m in found if m.group == f"{name}.hex with its checksum"]
        assert len(sealed) == 2
        assert all(set(m.noticed) == set(CHECKERS) for m in found if m.group == f"{name}.hex" or m in sealed)
    assert all(set(m.noticed) == {SIMULATE, VERIFY} for m in found if m.group in ("patches.hex", "Makefile"))
    assert len({m.name for m in found}) == len(found)
    for mutant in found:  # what a run of the bench could say nothing about is refused before it
        if mutant.group == "patches.hex":
            assert str(mutant.noticed[SIMULATE]).endswith("; dump the set again")


def test_a_bench_that_compares_nothing_and_reads_no_checksum_lets_mutants_survive(
    tiny_set: Path, tmp_path: Path
) -> None:
    found = mutants(blinded(tiny_set, tmp_path / "set", [COMPARISON, CHECKSUM]), "icarus")
    survivors = [mutant for mutant in found if mutant.demanded and mutant.missed]
    assert {f"{name}.hex" for name in MEMORIES} <= {mutant.group for mutant in survivors}
    assert all(mutant.missed == [BENCH] for mutant in survivors)  # the hashes still show it to those who compare them


def test_the_command_prints_both_tables_and_a_second_run_finds_what_the_first_one_found(
    tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("selftest", tiny_set, "--simulator", "icarus", "--style", "ws", "--sample", "3")
    result = cli(*command)
    assert result.exit_code == 0, result.output
    assert "stress capture  3 images, accumulators -300..360 of -300..360, 100.0 % of" in result.stdout
    assert "psum.hex with its checksum" in result.stdout
    assert "ws, hand" in result.stdout

    def again(*arguments: object, **options: object) -> None:
        raise AssertionError("what was found once is not looked for again")

    monkeypatch.setattr(module, "_file_mutants", again)
    monkeypatch.setattr(module, "reference_mutants", again)
    result = cli(*command, "--json")
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    (one,) = said["sets"]
    assert (said["ok"], one["survivors"], one["set"]) == (True, [], str(tiny_set))
    for table in (one["own"], one["stress"]):
        assert all(text for mutant in table["files"] for text in mutant["noticed"].values())
        assert {mutant["kind"] for mutant in table["rtl"]} == {"hand", "general"}
        assert len(table["rtl"]) == 6


def test_the_command_fails_and_names_what_a_blind_bench_lets_through(tiny_set: Path, tmp_path: Path) -> None:
    folder = blinded(tiny_set, tmp_path / "set", [COMPARISON])
    result = cli("selftest", folder, "--simulator", "icarus", "--style", "ws", "--sample", "1")
    assert result.exit_code == 1
    *progress, last = result.stderr.splitlines()
    assert "survived" in last
    assert "relu.hex: line" in last
    assert "its checksum too: not noticed by bench alone" in last
    assert progress  # where nobody watches a terminal, lines tell what is done
    assert all(re.fullmatch(r"qexport: .*: \d+ of \d+", line) for line in progress)
    assert "survivor" in result.stdout


def test_a_users_module_is_changed_in_the_bench_of_the_set_only(tiny_set: Path, tmp_path: Path) -> None:
    assert cli("rtl", tiny_set, "--out", tmp_path / "rtl").exit_code == 0
    names = (tmp_path / "rtl" / "files.f").read_text().split()
    dut = [word for name in names for word in ("--dut", tmp_path / "rtl" / name)]
    result = cli("selftest", tiny_set, "--simulator", "icarus", *dut, "--sample", "3", "--only", "rtl", "--json")
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["sets"]
    assert one["own"]["files"] == one["stress"]["files"] == []
    assert len(one["own"]["rtl"]) == 3
    assert one["stress"]["rtl"] == []


def test_a_set_that_fails_as_it_is_is_not_tested(tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    (folder / "more.txt").write_text("stray")
    result = cli("selftest", folder, "--simulator", "icarus")
    assert result.exit_code == 1
    assert "does not verify as it is" in result.stderr.splitlines()[-1]
    assert "more.txt" in result.stderr.splitlines()[-1]


def test_what_the_time_does_not_suffice_for_is_open_and_not_kept(tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    command = ("selftest", folder, "--simulator", "icarus", "--style", "ws", "--sample", "2", "--seed", "9", "--json")
    result = cli(*command, "--time-limit", "0.001")
    assert result.exit_code == 1
    assert re.search(r"selftest: \d+ mutant\(s\) are open after 0.001 s: .* and \d+ more", result.stderr)
    said = json.loads(result.stdout)
    (one,) = said["sets"]
    assert (said["ok"], one["survivors"]) == (False, [])
    every = [mutant for table in (one["own"], one["stress"]) for mutant in (*table["files"], *table["rtl"])]
    assert len(one["open"]) == len(every) > 40
    assert {mutant["fate"] for table in (one["own"], one["stress"]) for mutant in table["rtl"]} == {"open"}
    again = json.loads(cli(*command, "--time-limit", "0.001").stdout)["sets"][0]
    assert again["open"] == one["open"]
    shown = cli(*command[:-1], "--time-limit", "0.001")
    assert "open" in shown.stdout.split("\n")[2]


def test_a_module_that_yosys_cannot_read_is_said_before_the_work(tiny_set: Path, tmp_path: Path) -> None:
    module = (tiny_set / "dut.sv").read_text().replace("endmodule", "  initial $nonsense(;\nendmodule")
    (tmp_path / "dut.sv").write_text(module)
    result = cli("selftest", tiny_set, "--simulator", "icarus", "--dut", tmp_path / "dut.sv")
    fails(result, "Yosys", "dut.sv")  # one line: no progress of the work before it


def test_a_set_without_a_bench_and_options_that_contradict_each_other_are_refused(set_of: Any, tmp_path: Path) -> None:
    result = cli("selftest", set_of("ws8x8"), "--style", "ws")
    fails(result, "as in the preset default: memory 'activation' with tensor = 'input_padded'", "--layout default")
    alone = checked_dump(make_capture(images=1), one_memory_layout("oc ic kh kw -> | oc ic kh kw |"), tmp_path)
    fails(cli("selftest", alone), "without a self-checking bench")
    fails(cli("selftest", set_of("default"), "--top", "core"), "--top belongs to --dut")
    fails(cli("selftest", set_of("default"), "--dut", "a.sv", "--style", "ws"), "give one of them")
    fails(cli("selftest", set_of("default"), "--only", "files", "--style", "ws"), "--only files changes no RTL")


def test_bits_of_a_bias_that_no_register_of_the_design_holds_are_not_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories of sums are as wide as whole bytes, registers as wide as the bounds."""
    capture = make_capture(bias=True, weight_bits=8, input_bits=8, groups=8, plane=(3, 3), images=1)
    folder = checked_dump(capture, "default", tmp_path)
    manifest = read_manifest(folder)
    stored, width = {memory.name: memory.bits for memory in manifest.memories}, manifest.formats.accumulator.bits
    assert width < stored["accumulator"] < stored["bias"]
    monkeypatch.setattr(module, "SEALED", 100)
    found = list(_sealed_changes(folder, manifest, np.random.default_rng(0), True))
    bits = {int(re.findall(r" bit (\d+) flipped", change.what)[0]) for change in found if change.file == "bias.hex"}
    assert bits
    assert max(bits) < width


def two_by_two(preset: str) -> Layout:
    return parse_layout(re.sub(r"(row|col) = 8", r"\1 = 2", layout_text(preset)), "two.toml")


@pytest.mark.parametrize("layout", ["decimals", "ws8x8_taps", "c_tflite", "stream_nhwc32"])
def test_files_of_every_layout_are_changed_and_their_words_in_the_stress_set(layout: str, tmp_path: Path) -> None:
    """Texts of one word a line, files by image, words that Verilog reads from a text beside their file."""
    bits: dict[str, Any] = {"weight_bits": 8, "input_bits": 8, "input_signed": True} if layout == "c_tflite" else {}
    small: dict[str, Any] = {
        "plane": (2, 2),
        "in_channels": 2,
        "out_channels": 2,
        "kernel": (1, 1),
        "padding": (0, 0, 0, 0),
    }
    folder = checked_dump(make_capture(images=1, **small, **bits), two_by_two(layout), tmp_path / "own")
    manifest = read_manifest(folder)
    assert not stands_as_preset(manifest)
    styles, why = _arrays(folder, manifest, every=True)
    assert (styles, str(why)[:46]) == ((), "memories do not stand as in the preset default")
    stress = stress_capture(CaptureFile(folder / manifest.capture.path))
    facts = operation(stress, manifest.array.get("row"))
    made = dump(stress, _stress_layout(manifest, facts), tmp_path / "stress").folder
    found = _file_mutants(made, choose("icarus"), 0, True, lambda done, total: None)
    assert [mutant for mutant in found if mutant.demanded and mutant.missed] == []
    assert found or layout in ("c_tflite", "stream_nhwc32")


@pytest.mark.parametrize(
    ("zeros", "why"), [({"input": 5}, None), ({"weight": 2}, "codes with zero points have no reference RTL yet")]
)
def test_zero_points_have_a_stress_set_and_of_inputs_an_array(
    zeros: dict[str, int], why: str | None, tmp_path: Path
) -> None:
    like = make_capture(plane=(3, 3), in_channels=3, out_channels=2, kernel=(2, 2), padding=(1, 0, 0, 1), images=1)
    formats = {n: msgspec.structs.replace(getattr(like.formats, n), zero_point=zero) for n, zero in zeros.items()}
    capture = replace(like, formats=msgspec.structs.replace(like.formats, **formats))
    folder = checked_dump(capture, two_by_two("default"), tmp_path / "own")
    manifest = read_manifest(folder)
    styles, said = _arrays(folder, manifest, every=False)
    assert styles == (("ws",) if why is None else ())
    assert why is None or why in str(said)
    stress = stress_capture(CaptureFile(folder / manifest.capture.path))
    made = dump(stress, _stress_layout(manifest, operation(stress, 2)), tmp_path / "stress").folder
    assert not verify(made).faults
    for style in styles:
        found = reference_mutants(made, style, sample=3, simulator="icarus")
        assert {mutant.fate for mutant in found} <= {"killed", "equivalent"}


def test_a_stuck_weight_of_a_row_that_a_depthwise_layer_leaves_empty_is_no_mistake(tmp_path: Path) -> None:
    for groups, chosen in ((1, True), (8, False)):
        folder = checked_dump(make_capture(groups=groups, images=1), "default", tmp_path / str(groups))
        names = [edit.name for edit in chosen_edits("ws", folder)]
        assert ("weight-stuck" in names) == chosen


def test_a_matrix_product_has_the_output_stationary_array_changed(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    capture = qx.capture(
        input=rng.integers(-4, 4, (1, 3, 2)), input2=rng.integers(-4, 4, (1, 2, 3)), inputs="int3", inputs2="int3",
        name="product", relu=True,
    )  # fmt: skip
    layout = layout_text("matmul").replace("= 8", "= 2")
    folder = checked_dump(capture, parse_layout(layout, "two.toml"), tmp_path)
    result = cli("selftest", folder, "--simulator", "icarus", "--sample", "2")
    assert result.exit_code == 0, result.output
    assert "of single-bit input errors show in relu" in result.stdout
    assert "os, hand" in result.stdout
    assert "ws, hand" not in result.stdout
