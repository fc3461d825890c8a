"""`verify` finds every change of a set, says where it is, and leaves the set alone."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.build.verify import Fault, verify
from qexport.errors import QexportError
from qexport.layout.paths import CAPTURE, MANIFEST, SUMS
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.judges import decoder

FLIPS = 200
DIGIT_BITS = {"hex": 4, "bin": 1}


@pytest.fixture(params=["default", "ws8x8"])
def folder(request: pytest.FixtureRequest, set_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of each preset's set, for a test to damage."""
    return shutil.copytree(set_of(request.param), tmp_path / "vectors" / "features_33")


def read_json(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return document


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def memories(folder: Path) -> dict[str, tuple[dict[str, Any], int]]:
    """Path of each memory file -> its memory's entry in the manifest and its number among that memory's files."""
    return {f["path"]: (m, i) for m in read_json(folder)["memories"] for i, f in enumerate(m["files"])}


def faults_of(folder: Path) -> list[Fault]:
    """What verify finds; manifest and SHA256SUMS that contradict each other may both be the changed one."""
    report = verify(folder)
    if report.manifest is not None:
        return list(report.faults)
    return [Fault(name, str(fault)) for fault in report.faults for name in (MANIFEST, SUMS) if name in str(fault)]


def reseal(folder: Path, **changes: Any) -> None:
    """Rewrite every SHA-256 of the manifest and SHA256SUMS to fit the files, as someone who 'fixes' them would."""
    document = read_json(folder) | changes
    sums = {}
    for entry in [document["capture"], *document["bench"], *(f for m in document["memories"] for f in m["files"])]:
        sums[entry["path"]] = entry["sha256"] = hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest()
    text = json.dumps(document, sort_keys=True, indent=2) + "\n"
    (folder / MANIFEST).write_text(text)
    sums[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
    (folder / SUMS).write_text("".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())))


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder with its modification time, its size and its mode."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {str(path): (stat.st_mtime_ns, stat.st_size, stat.st_mode) for path, stat in found.items()}


# --- random damage --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_in_its_file_and_in_a_memory_at_its_line_lane_and_index(folder: Path) -> None:
    rng = np.random.default_rng(33)
    entries, array = memories(folder), read_json(folder)["array"]
    files = names(folder)
    for name in files * math.ceil(FLIPS / len(files)):
        sound = (folder / name).read_bytes()
        at, bit = int(rng.integers(len(sound))), int(rng.integers(8))
        flip = f"{name}: bit {bit} of byte {at}"
        (folder / name).write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
        faults = [fault for fault in faults_of(folder) if fault.file == name]
        (folder / name).write_bytes(sound)
        assert faults, flip
        if name not in entries:
            continue
        memory, number = entries[name]
        line = sound.count(b"\n", 0, at) + 1
        word = line - 1 - len(memory["header"])
        if word < 0:
            assert line in [fault.line for fault in faults], flip
            continue
        places, _ = decoder.read_order(memory, array)
        column = at - (sound.rfind(b"\n", 0, at) + 1)
        unused = -memory["word_bits"] % DIGIT_BITS[memory["radix"]]
        lane = min(max(column * DIGIT_BITS[memory["radix"]] - unused, 0) // memory["bits"], places.shape[2] - 1)
        index = np.unravel_index(places[number, word, lane], memory["shape"])
        found = [(fault.line, fault.lane, tuple((fault.index or {}).values())) for fault in faults]
        assert (line, lane, tuple(map(int, index))) in found, flip
    assert faults_of(folder) == []


@pytest.mark.parametrize(
    ("damage", "shift"),
    [
        pytest.param(lambda a, b: [b], 0, id="dropped"),
        pytest.param(lambda a, b: [a, a, b], 1, id="doubled"),
        pytest.param(lambda a, b: [b, a], 0, id="swapped"),
    ],
)
def test_a_dropped_doubled_or_swapped_line_is_found_at_the_first_line_that_differs(
    folder: Path, damage: Callable[[bytes, bytes], list[bytes]], shift: int
) -> None:
    rng = np.random.default_rng(7)
    for name, (memory, _) in memories(folder).items():
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        differing = [k for k in range(len(memory["header"]), len(lines) - 1) if lines[k] != lines[k + 1]]
        k = int(rng.choice(differing))
        (folder / name).write_bytes(b"".join([*lines[:k], *damage(lines[k], lines[k + 1]), *lines[k + 2 :]]))
        assert (name, k + 1 + shift) in [(fault.file, fault.line) for fault in faults_of(folder)]
        (folder / name).write_bytes(b"".join(lines))
    assert faults_of(folder) == []


def test_an_empty_file_is_found_and_named(folder: Path) -> None:
    entries = memories(folder)
    for name in names(folder):
        sound = (folder / name).read_bytes()
        (folder / name).write_bytes(b"")
        lines = [fault.line for fault in faults_of(folder) if fault.file == name]
        assert lines == [1] if name in entries else lines, name
        (folder / name).write_bytes(sound)


def test_a_missing_file_is_found_and_named(folder: Path) -> None:
    for name in set(names(folder)) - {MANIFEST}:
        (folder / name).rename(folder.parent / "aside")
        assert [fault.message for fault in faults_of(folder) if fault.file == name] == ["is missing"]
        (folder.parent / "aside").rename(folder / name)


@pytest.mark.parametrize("name", ["stray.txt", ".hidden", "folder/inside", "manifest.json.orig", "folder/SHA256SUMS"])
def test_a_stray_file_is_found_and_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("stray")
    assert [fault.file for fault in faults_of(folder)] == [name]


def test_a_stray_empty_folder_and_a_stray_link_to_a_folder_are_found(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "link").symlink_to(folder.parent)
    assert {fault.file for fault in faults_of(folder)} == {"empty", "link"}


def test_a_link_to_nothing_in_a_files_place_is_a_fault_of_the_set(folder: Path) -> None:
    name = next(iter(memories(folder)))
    (folder / name).unlink()
    (folder / name).symlink_to("nowhere")
    result = cli("verify", folder)
    assert (result.exit_code, name in result.output) == (1, True)


# --- changes with the sums made to fit ------------------------------------------------------------------------------


def test_a_changed_code_is_found_at_its_place_even_with_all_sums_made_to_fit(folder: Path) -> None:
    for name, (memory, _) in memories(folder).items():
        sound = (folder / name).read_bytes()
        line, digit = len(sound.splitlines()), b"1" if sound.endswith(b"0\n") else b"0"
        (folder / name).write_bytes(sound[:-2] + digit + b"\n")
        reseal(folder)
        lane = memory["word_bits"] // memory["bits"] - 1
        faults = faults_of(folder)
        assert [(fault.file, fault.line, fault.lane) for fault in faults] == [(name, line, lane)]
        (folder / name).write_bytes(sound)
        reseal(folder)
    assert faults_of(folder) == []


def test_a_capture_and_a_weight_memory_changed_together_contradict_the_other_memories(
    folder: Path, tmp_path: Path
) -> None:
    other = checked_dump(make_capture(seed=1), read_json(folder)["layout"]["name"], tmp_path)
    for name in (CAPTURE, *(path for path, (memory, _) in memories(folder).items() if memory["name"] == "weight")):
        shutil.copyfile(other / name, folder / name)
    reseal(folder)
    found = {fault.file for fault in faults_of(folder)}
    assert found >= {path for path, (memory, _) in memories(folder).items() if memory["name"] in ("psum", "output")}


@pytest.mark.parametrize(
    ("key", "value"),
    [("word_bits", 7), ("fill", 1), ("shape", [8, 8, 3]), ("offset", 1), ("signed", True), ("tensor", "patches")],
)
def test_a_manifest_that_misdescribes_a_memory_is_found_even_with_all_sums_made_to_fit(
    folder: Path, key: str, value: Any
) -> None:
    entries = read_json(folder)["memories"]
    entry = next(entry for entry in entries if entry["tensor"] == "input_padded")
    assert entry[key] != value
    entry[key] = value
    reseal(folder, memories=entries)
    assert faults_of(folder) != []


def test_a_manifest_with_a_files_index_changed_is_found(set_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(set_of("ws8x8"), tmp_path / "set")
    entries = read_json(folder)["memories"]
    weight = next(entry for entry in entries if entry["name"] == "weight")
    weight["files"][0]["index"], weight["files"][1]["index"] = weight["files"][1]["index"], weight["files"][0]["index"]
    reseal(folder, memories=entries)
    assert decoder.check(folder) != []
    assert faults_of(folder) != []


@pytest.mark.parametrize(("key", "value"), [("radix", "exotic"), ("offset", 1 << 64), ("tensor", "exotic")])
def test_a_manifest_with_a_value_that_qexport_does_not_know_ends_without_a_traceback(
    folder: Path, key: str, value: Any
) -> None:
    entries = read_json(folder)["memories"]
    entries[0][key] = value
    reseal(folder, memories=entries)
    result = cli("verify", folder)
    assert (type(result.exception), result.exit_code in (1, 2)) == (SystemExit, True)


@pytest.mark.parametrize("command", ["verify", "strength"])
def test_a_manifest_with_half_a_character_ends_with_one_line(folder: Path, command: str) -> None:
    reseal(folder, **{"\ud800": 1})
    fails(cli(command, folder), "surrogates not allowed")


@pytest.mark.parametrize("command", [("explain", "--at", "0,0,0,0"), ("stub", "--style", "stream", "--out", "{}/new")])
def test_a_manifest_whose_sizes_contradict_each_other_ends_without_a_traceback(
    set_of: Callable[[str], Path], command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = shutil.copytree(set_of("default"), tmp_path / "set")
    reseal(folder, array={})
    fails(cli(*(word.format(tmp_path) for word in command), folder), "manifest: memory", "by its order")


def test_a_manifest_that_lost_its_memories_has_no_bench(set_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(set_of("default"), tmp_path / "set")
    reseal(folder, memories=[])
    for command in (("cocotb",), ("stub", "--style", "stream")):
        fails(cli(*command, folder, "--out", tmp_path / "new"), "layout")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("path", ["../weight.hex", "/weight.hex", "a/../../weight.hex", "a\\b", ""])
def test_a_manifest_that_names_a_file_outside_the_set_is_refused(folder: Path, path: str) -> None:
    """What reads and writes sets follows these names, `shrink` into folders of its own."""
    document = read_json(folder)
    document["memories"][0]["files"][0]["path"] = path
    text = json.dumps(document, sort_keys=True, indent=2) + "\n"
    (folder / MANIFEST).write_text(text)
    (folder / SUMS).unlink()
    for command in (("verify",), ("explain", "--at", "0,0,0,0")):
        fails(cli(*command, folder), repr(path), "none in the set")


@pytest.mark.parametrize("size", [0, -1])
def test_a_manifest_with_an_impossible_array_ends_without_a_traceback(folder: Path, size: int) -> None:
    reseal(folder, array={"row": size, "col": 8})
    result = cli("verify", folder)
    assert (type(result.exception), result.exit_code in (1, 2)) == (SystemExit, True)


# --- the command ----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def test_a_sound_set_ends_with_0(folder: Path) -> None:
    result = cli("verify", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"ok, {len(names(folder))} files" in result.stdout


@pytest.mark.parametrize("name", [MANIFEST, SUMS, CAPTURE, "files.f"])
def test_a_changed_file_ends_with_1_and_is_named(folder: Path, name: str) -> None:
    flip(folder / name)
    result = cli("verify", folder)
    fails(result, str(folder), code=1)
    assert name in result.output


def test_a_manifest_cut_to_nothing_is_a_corrupt_set_and_not_a_foreign_folder(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")
    result = cli("verify", folder)
    fails(result, str(folder), code=1)
    assert MANIFEST in result.output


def test_a_folder_without_a_manifest_ends_with_2(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    fails(cli("verify", folder), str(folder), "manifest.json", "qexport dump")


@pytest.mark.parametrize(
    "change", [{"tool": {"name": "other", "version": "1"}}, {"schema": "qexport.vectors/3"}, {"schema": None}]
)
def test_a_manifest_of_another_tool_or_schema_ends_with_2(folder: Path, change: dict[str, Any]) -> None:
    reseal(folder, **change)
    fails(cli("verify", folder), str(folder / MANIFEST), "qexport.vectors/1")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "\N{SNOWMAN}"])
def test_a_manifest_that_is_none_ends_with_2(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    fails(cli("verify", tmp_path), str(tmp_path / MANIFEST))


def test_no_folder_or_a_file_instead_of_one_ends_with_2(folder: Path) -> None:
    fails(cli("verify", folder / "none"), str(folder / "none"))
    fails(cli("verify", folder / MANIFEST), str(folder / MANIFEST))


def test_a_message_about_an_unusable_manifest_is_raised_as_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(QexportError) as caught:
        verify(tmp_path)
    assert caught.value.exit_code == 2


def test_json_lists_every_fault_with_its_place(folder: Path) -> None:
    name = next(name for name, (memory, _) in memories(folder).items() if memory["tensor"] == "weight")
    flip(folder / name)
    (folder / "stray").write_text("stray")
    result = cli("verify", folder, "--json")
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert (printed["ok"], [entry["set"] for entry in printed["sets"]]) == (False, [str(folder)])
    faults = {fault["file"]: fault for fault in printed["sets"][0]["faults"]}
    assert set(faults) == {name, "stray"}
    assert faults["stray"]["line"] is None
    assert faults[name]["line"] == len((folder / name).read_bytes().splitlines())
    assert (faults[name]["lane"], faults[name]["index"]["oc"], faults[name]["index"]["ic"]) == (7, 7, 0)


def test_json_of_a_sound_set_says_ok(folder: Path) -> None:
    result = cli("verify", folder, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"ok": True, "sets": [{"set": str(folder), "faults": []}]}


@pytest.fixture
def two_sets(set_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder of two sets, a and b."""
    shutil.copytree(set_of("default"), tmp_path / "sets" / "a")
    shutil.copytree(set_of("ws8x8"), tmp_path / "sets" / "b")
    return tmp_path / "sets"


def test_a_folder_of_two_sets_verifies_both(two_sets: Path) -> None:
    assert cli("verify", two_sets).exit_code == 0
    flip(two_sets / "b" / "output.txt")
    result = cli("verify", two_sets, "--json")
    fails(result, "1 of 2", str(two_sets / "b"), code=1)
    assert [len(entry["faults"]) for entry in json.loads(result.stdout)["sets"]] == [0, 1]


def test_a_set_with_a_corrupt_manifest_does_not_hide_the_faults_of_the_next(two_sets: Path) -> None:
    flip(two_sets / "a" / MANIFEST)
    flip(two_sets / "b" / "output.txt")
    result = cli("verify", two_sets)
    assert result.exit_code == 1
    assert str(two_sets / "a") in result.output
    assert "output.txt" in result.stdout


def test_json_lists_a_corrupt_manifest_as_a_fault(two_sets: Path) -> None:
    flip(two_sets / "a" / MANIFEST)
    result = cli("verify", two_sets, "--json")
    assert result.exit_code == 1
    listed = {entry["set"]: entry["faults"] for entry in json.loads(result.stdout)["sets"]}
    assert [fault["file"] for fault in listed[str(two_sets / "a")]] == [MANIFEST]
    assert listed[str(two_sets / "b")] == []


def test_a_set_that_lost_its_manifest_is_not_passed_over(two_sets: Path) -> None:
    (two_sets / "a" / MANIFEST).unlink()
    result = cli("verify", two_sets)
    assert result.exit_code != 0
    assert str(two_sets / "a") in result.output


@pytest.mark.parametrize("damaged", [False, True])
def test_reading_a_set_writes_nothing_into_it_and_works_where_nothing_can_be_written(
    folder: Path, damaged: bool
) -> None:
    name = next(iter(memories(folder)))
    if damaged:
        flip(folder / name)
    for path in sorted(folder.parent.rglob("*"), reverse=True):
        path.chmod(path.stat().st_mode & ~0o222)
    before = state(folder.parent)
    assert cli("verify", folder).exit_code == damaged
    assert cli("verify", folder.parent, "--json").exit_code == damaged
    assert cli("show", folder, f"{name}:5").exit_code == 0
    assert state(folder.parent) == before
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def test_a_manifest_in_another_form_than_the_contracts_is_found(tmp_path: Path, set_of: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(set_of("default"), tmp_path / "set"))
    text = json.dumps(read_json(folder), sort_keys=True)
    (folder / MANIFEST).write_text(text)
    sums = (folder / SUMS).read_text().splitlines()
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / SUMS).write_text("".join(f"{digest if MANIFEST in line else line[:64]}{line[64:]}\n" for line in sums))
    assert [fault.file for fault in verify(folder).faults] == [MANIFEST]


def test_a_set_that_cannot_be_read_does_not_hide_the_faults_of_others(
    tmp_path: Path, set_of: Callable[[str], Path]
) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(set_of("default"), tmp_path / name)
    reseal(tmp_path / "a", schema="qexport.vectors/9")
    result = cli("verify", tmp_path)
    assert (result.exit_code, result.stdout.count(": ok, ")) == (2, 2)
    (tmp_path / "b" / "relu.hex").unlink()
    result = cli("verify", tmp_path, "--json")
    assert result.exit_code == 1
    sets = {Path(one["set"]).name: one for one in json.loads(result.stdout)["sets"]}
    assert "qexport.vectors/9" in sets["a"]["error"]
    assert [fault["file"] for fault in sets["b"]["faults"]] == ["relu.hex"]
    assert sets["c"]["faults"] == []


# --- links and line ends --------------------------------------------------------------------------------------------


def test_a_link_out_of_the_set_is_found_although_its_file_is_the_right_one(folder: Path, tmp_path: Path) -> None:
    name = next(iter(memories(folder)))
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    (fault,) = faults_of(folder)
    assert (fault.file, "is a link" in fault.message) == (name, True)


def test_a_set_whose_line_ends_were_changed_says_so(folder: Path) -> None:
    for name in names(folder):
        if name != CAPTURE:
            (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
    result = cli("verify", folder)
    assert result.exit_code == 1
    assert f"{MANIFEST}: has CRLF line ends" in result.stdout


def test_a_bench_file_whose_line_ends_were_changed_says_so(folder: Path) -> None:
    (folder / "params.vh").write_bytes((folder / "params.vh").read_bytes().replace(b"\n", b"\r\n"))
    assert [str(fault).startswith("params.vh: has CRLF line ends") for fault in faults_of(folder)] == [True]


# --- bench files against a fresh rendering --------------------------------------------------------------------------


def forged(folder: Path, file: str, old: str, new: str, **changes: Any) -> Path:
    """A bench file edited, and all hashes made to agree."""
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    reseal(folder, **changes)
    return folder


def test_a_forged_testbench_is_found_although_all_hashes_agree(set_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = forged(copy_of(set_of, tmp_path), "tb_features_33.sv", "errors == 0", "errors >= 0")
    assert [str(fault) for fault in faults_of(folder)] == ["tb_features_33.sv: is not what qexport writes for this set"]
    for command in ("simulate", "selftest"):
        result = cli(command, folder, "--simulator", "icarus")
        assert result.exit_code == 1, result.output
        last = result.stderr.splitlines()[-1]  # selftest says before it what it does
        assert last.startswith("qexport: error: ")
        assert "tb_features_33.sv is not what qexport writes" in last


@pytest.mark.parametrize(
    "file", ["dut.sv", "features_33_pkg.sv", "params.vh", "checks.txt", "Makefile", "files.f", "features_33.core"]
)
def test_every_edited_bench_file_is_found(file: str, set_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(set_of, tmp_path)
    line = (folder / file).read_text().splitlines(keepends=True)[0]
    forged(folder, file, line, line * 2)
    assert [fault.file for fault in faults_of(folder)] == [file]


def test_a_bench_file_too_many_and_one_too_few_are_found(folder: Path) -> None:
    bench = read_json(folder)["bench"]
    (folder / "more.sv").write_text("module more; endmodule\n")
    (folder / "params.vh").unlink()
    kept = [file for file in bench if file["path"] != "params.vh"]
    reseal(folder, bench=[*kept, {"path": "more.sv", "sha256": ""}])
    assert {fault.file for fault in faults_of(folder)} == {"more.sv", "params.vh"}


def test_a_bench_that_the_layout_does_not_get_is_found(set_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(set_of("ws8x8"), tmp_path / "features_33")
    (folder / "tb_features_33.sv").write_text("module tb_features_33; endmodule\n")
    reseal(folder, bench=[*read_json(folder)["bench"], {"path": "tb_features_33.sv", "sha256": ""}])
    assert [fault.file for fault in faults_of(folder)] == ["tb_features_33.sv"]


def test_the_bench_of_another_version_is_not_compared_which_is_said(
    set_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of(set_of, tmp_path)
    forged(folder, "params.vh", "generated by", "made by", tool={"name": "qexport", "version": "0.1.0"})
    result = cli("verify", folder)
    assert result.exit_code == 0, result.output
    said = "bench files not compared with a fresh rendering: the set is of qexport 0.1.0"
    assert said in result.stdout
    assert json.loads(cli("verify", folder, "--json").stdout)["sets"][0]["bench"] == said
    simulated = cli("simulate", folder, "--simulator", "icarus")
    assert simulated.exit_code == 0, simulated.output
    assert said in simulated.stdout


def copy_of(set_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(set_of("default"), tmp_path / "features_33"))
