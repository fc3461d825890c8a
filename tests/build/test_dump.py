"""`dump` writes a whole set or nothing, the same bytes for the same inputs, and leaves what is in the way alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from filelock import FileLock
from safetensors import safe_open

from qexport.build.dump import dump, dump_all
from qexport.build.verify import verify
from qexport.core.capture import CaptureFile, LayerCapture
from qexport.core.golden import Golden
from qexport.errors import QexportError
from qexport.layout.toml import load_layout
from qexport.sets.staging import JOURNAL, LOCK, STAGING, _exchange, staging
from tests.conftest import checked_dump, cli, fails, make_capture, one_memory_layout
from tests.judges import decoder

QEXPORT = [sys.executable, "-c", "from qexport.cli import main; main()"]
PRESETS = ("default", "ws8x8")
SMALL = """
name = "small"
[array]
row = 8
[[memory]]
name = "weight"
tensor = "weight"
order = "oc (it row) kh kw -> | it kh kw oc | ~row"
file = "weight.hex"
radix = "hex"
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_reference(capture: LayerCapture, error: float = 0.0) -> LayerCapture:
    """The capture with what a network would have given, off by `error` everywhere."""
    scale = capture.formats.weight.scale * capture.formats.input.scale
    real = Golden(capture).accumulator * scale
    rectified = np.maximum(real, 0).astype(np.float32)
    return replace(capture, reference=(real + error).astype(np.float32), next_input=rectified)


@pytest.fixture
def captures(tmp_path: Path) -> tuple[Path, Path]:
    """Two captures of the same layer."""
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for seed, path in enumerate(paths):
        path.write_bytes(with_reference(make_capture(seed, bias=True)).to_bytes())
    return paths


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


def run(capture: Path, out: Path, *options: object) -> Result:
    return cli("dump", "--capture", capture, "--out", out, *options)


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_dump_writes_what_the_manifest_says_into_a_folder_named_after_the_layer(
    captures: tuple[Path, Path], out: Path, preset: str
) -> None:
    assert run(captures[0], out, "--layout", preset).exit_code == 0
    folder = out / "features_33"
    assert (names(out), decoder.check(folder)) == (["features_33"], [])
    files, manifest = contents(folder), json.loads((folder / "manifest.json").read_bytes())
    for memory in manifest["memories"]:
        for file in memory["files"]:
            assert files[file["path"]].count(b"\n") == file["words"] + len(memory["header"])
    assert files["capture.safetensors"] == captures[0].read_bytes()
    needed = {memory.name for memory in load_layout(preset).memories if not memory.optional}
    assert needed <= {memory["name"] for memory in manifest["memories"]}
    assert manifest["golden"] | {"tolerance": None} == {
        "exact": True, "mean_abs": 0.0, "max_abs": 0.0, "tolerance": None, "reference": "pytorch",
    }  # fmt: skip


def test_the_manifest_has_sorted_keys_two_space_indent_and_a_final_newline(out: Path) -> None:
    data = (checked_dump(make_capture(), "ws8x8", out) / "manifest.json").read_bytes()
    assert data.decode() == json.dumps(json.loads(data), sort_keys=True, indent=2) + "\n"


def test_the_capture_has_the_contracts_types_and_one_metadata_entry_of_compact_sorted_json(
    captures: tuple[Path, Path], out: Path
) -> None:
    run(captures[0], out)
    with safe_open(out / "features_33" / "capture.safetensors", framework="numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == {
        "weight": "int32", "input": "int32", "bias": "int64", "reference": "float32", "next_input": "float32",
    }  # fmt: skip
    assert list(metadata) == ["qexport"]
    facts = json.loads(metadata["qexport"])
    assert metadata["qexport"] == json.dumps(facts, sort_keys=True, separators=(",", ":"))
    manifest = json.loads((out / "features_33" / "manifest.json").read_bytes())
    del manifest["formats"]["accumulator"]
    assert facts == {key: manifest[key] for key in ("layer", "formats", "source")}


def test_real_valued_tensors_of_a_capture_are_rounded_to_2_to_the_minus_20() -> None:
    exact = with_reference(make_capture())
    assert exact.reference is not None
    disturbed = replace(exact, reference=exact.reference + np.float32(2**-22))
    assert disturbed.to_bytes() == exact.to_bytes()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not on the PATH")
def test_coreutils_accept_sha256sums(out: Path) -> None:
    folder = checked_dump(make_capture(), "default", out)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(contents(folder)) - 1)


def test_json_of_a_dump_names_the_set_and_whether_it_changed(captures: tuple[Path, Path], out: Path) -> None:
    printed = [json.loads(run(captures[0], out, "--json").stdout) for _ in range(2)]
    assert [entry["unchanged"] for entry in printed] == [False, True]
    assert {entry["set"] for entry in printed} == {str(out / "features_33")}
    assert printed[0]["files"] == len(contents(out / "features_33"))


def test_a_set_holds_no_absolute_path_and_no_date(captures: tuple[Path, Path], out: Path) -> None:
    year = time.strftime("%Y")
    for preset in PRESETS:
        assert run(captures[0], out / preset, "--layout", preset).exit_code == 0
        for name, data in contents(out / preset / "features_33").items():
            text = data.decode(errors="replace")
            places = [str(out), str(Path.cwd()), str(Path.home()) + "/", sys.prefix]
            assert not [place for place in places if place in text], name
            assert not re.search(r"(?<![\w.*/)}])/(tmp|home|root|work|usr|var|etc|opt|Users)/", text), name
            assert not re.search(rf"\b{year}[-/.]\d|\b\d\d:\d\d:\d\d\b", text), name


def test_the_same_capture_gives_the_same_bytes_in_any_environment(captures: tuple[Path, Path], tmp_path: Path) -> None:
    environments = [
        {"OMP_NUM_THREADS": "1", "TZ": "UTC", "PYTHONHASHSEED": "0", "LC_ALL": "C"},
        {"OMP_NUM_THREADS": "4", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1", "LC_ALL": "de_DE.UTF-8", "COLUMNS": "20"},
    ]
    for number, environment in enumerate(environments):
        cwd = tmp_path / f"place {number}"
        cwd.mkdir()
        for preset in PRESETS:
            command = [*QEXPORT, "dump", "--capture", str(captures[0]), "--layout", preset, "--out", preset]
            done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
    for preset in PRESETS:
        first, second = (contents(tmp_path / f"place {number}" / preset / "features_33") for number in range(2))
        assert first == second


# --- what is in the way ---------------------------------------------------------------------------------------------


def test_an_identical_dump_ends_with_unchanged_and_touches_no_file(captures: tuple[Path, Path], out: Path) -> None:
    assert "unchanged" not in run(captures[0], out).stdout
    before = times(out)
    for options in ([], ["--force"]):
        result = run(captures[0], out, *options)
        assert (result.exit_code, "unchanged" in result.stdout) == (0, True)
        assert {name: at for name, at in times(out).items() if name != out.name} == {
            name: at for name, at in before.items() if name != out.name
        }


def test_another_set_in_the_way_is_refused_and_left_whole(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out)
    before = contents(out / "features_33"), times(out / "features_33")
    fails(run(captures[1], out), str(out / "features_33"), "--force")
    assert (contents(out / "features_33"), times(out / "features_33")) == before
    assert names(out) == ["features_33"]


def test_force_replaces_another_set_by_exactly_the_new_one(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out, "--layout", "ws8x8")
    assert run(captures[1], out, "--force").exit_code == 0
    run(captures[1], out / "fresh")
    assert contents(out / "features_33") == contents(out / "fresh" / "features_33")
    assert names(out) == ["features_33", "fresh"]


def test_a_file_of_the_users_own_in_the_set_is_not_lost(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out)
    (out / "features_33" / "notes.txt").write_text("three years of work")
    before = contents(out)
    fails(run(captures[1], out, "--force"), "features_33/notes.txt is not of the set that would be replaced")
    assert contents(out) == before


def test_a_link_in_the_way_is_refused(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out / "elsewhere")
    (out / "features_33").symlink_to(out / "elsewhere" / "features_33")
    fails(run(captures[1], out, "--force"), str(out / "features_33"), "in the way")
    assert (out / "features_33").is_symlink()


@pytest.mark.parametrize("manifest", [None, "{}", "not JSON", '{"schema": "other/1"}', "[]"])
def test_a_folder_that_is_no_set_is_refused_even_with_force(
    captures: tuple[Path, Path], out: Path, manifest: str | None
) -> None:
    (out / "features_33").mkdir(parents=True)
    (out / "features_33" / "thesis.txt").write_text("three years of work")
    if manifest is not None:
        (out / "features_33" / "manifest.json").write_text(manifest)
    before = contents(out)
    for options in ([], ["--force"]):
        fails(run(captures[0], out, *options), str(out / "features_33"), "not a vector set")
        assert (contents(out), names(out)) == (before, ["features_33"])


def test_an_empty_folder_is_not_in_the_way(captures: tuple[Path, Path], out: Path) -> None:
    (out / "features_33").mkdir(parents=True)
    assert run(captures[0], out).exit_code == 0
    assert verify(out / "features_33").ok


def test_a_file_in_the_sets_place_is_refused_even_with_force(captures: tuple[Path, Path], out: Path) -> None:
    out.mkdir()
    (out / "features_33").write_text("mine")
    fails(run(captures[0], out, "--force"), str(out / "features_33"))
    assert contents(out) == {"features_33": b"mine"}


def test_an_out_that_is_a_file_or_lies_below_one_is_refused(captures: tuple[Path, Path], out: Path) -> None:
    out.write_text("mine")
    fails(run(captures[0], out), str(out), "folder")
    fails(run(captures[0], out / "below"), str(out / "below"))
    assert out.read_text() == "mine"


def test_a_link_to_a_set_in_the_sets_place_does_not_break_later_dumps(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out / "elsewhere")
    (out / "features_33").symlink_to(out / "elsewhere" / "features_33")
    old = contents(out / "elsewhere" / "features_33")
    results = [run(captures[1], out, "--force") for _ in range(2)]
    assert contents(out / "elsewhere" / "features_33") in (old, contents(out / "features_33"))
    assert names(out) == ["elsewhere", "features_33"]
    assert len({result.exit_code for result in results}) == 1


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def too_narrow(tmp_path: Path) -> Path:
    """A layout that fails after the dump has begun: the weights do not fit its bits."""
    path = tmp_path / "narrow.toml"
    path.write_text(SMALL + "bits = 2\n")
    return path


def test_a_failed_dump_leaves_no_folder_that_was_made_for_it(
    captures: tuple[Path, Path], out: Path, too_narrow: Path
) -> None:
    out.mkdir()
    fails(run(captures[0], out / "deep" / "below", "--layout", too_narrow), "weight", "bits = 4")
    assert names(out) == []


@pytest.mark.parametrize("file", ["weight.hex/other", "weight.hex/other/deep"])
def test_files_that_take_each_others_place_are_refused(
    captures: tuple[Path, Path], out: Path, tmp_path: Path, file: str
) -> None:
    path = tmp_path / "taken.toml"
    other = SMALL[SMALL.index("[[memory]]") :].replace('name = "weight"', 'name = "other"')
    path.write_text(SMALL + other.replace("weight.hex", file))
    fails(run(captures[0], out, "--layout", path), f"'{file.split('/')[0]}'", "change a memory's file name")
    assert not out.exists()


def test_a_failed_dump_leaves_the_earlier_set_and_no_staging_folder(
    captures: tuple[Path, Path], out: Path, too_narrow: Path
) -> None:
    run(captures[0], out)
    before = contents(out), times(out / "features_33")
    fails(run(captures[0], out, "--layout", too_narrow, "--force"), "weight")
    assert (contents(out), times(out / "features_33"), names(out)) == (*before, ["features_33"])


@pytest.mark.parametrize(
    ("spoilt", "error"),
    [("reference", 0.002), ("reference", 0.5), ("next_input", 0.5)],
)
def test_a_capture_that_contradicts_its_reference_ends_with_1_and_leaves_no_set(
    tmp_path: Path, out: Path, spoilt: str, error: float
) -> None:
    capture = with_reference(make_capture())
    wrong: dict[str, Any] = {spoilt: getattr(capture, spoilt) + np.float32(error)}
    (tmp_path / "c.safetensors").write_bytes(replace(capture, **wrong).to_bytes())
    fails(run(tmp_path / "c.safetensors", out), spoilt, "features.33", code=1)
    assert not out.exists()


def test_one_accumulator_off_by_one_is_a_contradiction(tmp_path: Path, out: Path) -> None:
    capture = with_reference(make_capture())
    assert capture.reference is not None
    reference = capture.reference.copy()
    reference[1, 7, 3, 3] += 0.25 * 0.5
    (tmp_path / "c.safetensors").write_bytes(replace(capture, reference=reference).to_bytes())
    fails(run(tmp_path / "c.safetensors", out), "reference", code=1)
    assert not out.exists()


def test_a_layer_whose_every_accumulator_is_0_proves_nothing(tmp_path: Path, out: Path) -> None:
    capture = make_capture()
    (tmp_path / "c.safetensors").write_bytes(replace(capture, weight=np.zeros_like(capture.weight)).to_bytes())
    fails(run(tmp_path / "c.safetensors", out), "accumulator", "features.33", code=1)
    assert not out.exists()


@pytest.mark.parametrize("place", ["/proc/qexport/deep", "/sys/qexport"])
def test_a_place_that_cannot_be_written_gives_one_line(captures: tuple[Path, Path], place: str) -> None:
    if not Path(place).parents[-2].is_dir():
        pytest.skip(f"{place} is not a place on this system")
    fails(run(captures[0], Path(place)), "/".join(place.split("/")[:3]))


@pytest.fixture
def small_layout(tmp_path: Path) -> Path:
    """A layout whose set fits a small disk once, and not twice."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_a_full_disk_at_any_file_leaves_the_earlier_set_whole(
    captures: tuple[Path, Path], small_disk: Path, small_layout: Path
) -> None:
    assert run(captures[0], small_disk, "--layout", small_layout).exit_code == 0
    before = contents(small_disk / "features_33")
    free = os.statvfs(small_disk).f_bavail
    assert free < os.statvfs(small_disk).f_blocks / 2
    for left in range(free + 1):
        filler = small_disk / "filler"
        filler.write_bytes(bytes((free - left) * os.statvfs(small_disk).f_frsize))
        fails(run(captures[1], small_disk, "--layout", small_layout, "--force"), "No space left on device")
        filler.unlink()
        assert names(small_disk) == ["features_33"]
        assert contents(small_disk / "features_33") == before
    assert verify(small_disk / "features_33").ok


def test_a_full_disk_is_reported_with_the_place(captures: tuple[Path, Path], small_disk: Path) -> None:
    fails(run(captures[0], small_disk), "No space left on device", str(small_disk))


def test_rtl_on_a_full_disk_leaves_nothing(captures: tuple[Path, Path], out: Path, small_disk: Path) -> None:
    run(captures[0], out)
    result = cli("rtl", out / "features_33", "--out", small_disk / "rtl")
    fails(result, "No space left on device")
    assert not any(path.name.startswith((".rtl", "rtl")) for path in small_disk.iterdir())


def test_a_disk_that_was_full_takes_the_set_once_there_is_room(
    captures: tuple[Path, Path], small_disk: Path, small_layout: Path
) -> None:
    fails(run(captures[0], small_disk / "deep"), "No space left on device")
    assert names(small_disk) == []
    assert run(captures[0], small_disk / "deep", "--layout", small_layout).exit_code == 0


# --- interruption ---------------------------------------------------------------------------------------------------

DUMP_OFTEN = """
import contextlib
import sys
from qexport.cli import main
out, times, *captures = sys.argv[1:]
for _ in range(int(times)):
    for capture in captures:
        print("begin", file=sys.stderr, flush=True)
        with contextlib.suppress(SystemExit):
            main(["dump", "--capture", capture, "--out", out, "--force"])
"""


def staged(out: Path) -> list[str]:
    """The files that running dumps have made so far and not yet put in place."""
    return [name for place in out.glob(f"{STAGING}*") for _, _, names in os.walk(place) for name in names]


MOMENTS: dict[str, Callable[[Path], bool]] = {  # at which a dump into a folder is killed
    "before it writes": lambda out: True,
    "in a folder of its own": lambda out: any(out.glob(f"{STAGING}*")),
    "among its files": lambda out: len(staged(out)) > 5,
    "with its journal": lambda out: JOURNAL in staged(out),
}


def dump_often(times: int, captures: tuple[Path, Path], out: Path) -> subprocess.Popen[bytes]:
    """A process that dumps the two captures over each other; it prints a line before each dump."""
    command = [sys.executable, "-c", DUMP_OFTEN, str(out), str(times), *map(str, captures)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_dump_leaves_a_whole_set_and_the_next_one_cleans_up(
    captures: tuple[Path, Path], tmp_path: Path, out: Path, moment: str
) -> None:
    whole = []
    for capture in captures:
        run(capture, tmp_path / capture.stem)
        whole.append(contents(tmp_path / capture.stem / "features_33"))
    run(captures[0], out)
    with dump_often(1000, captures, out) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == b"begin\n"
            while not MOMENTS[moment](out):
                assert process.poll() is None, process.stderr.read()
        finally:
            process.kill()
    target = out / "features_33"
    assert contents(target) in whole
    assert run(captures[1], out, "--force").exit_code == 0
    assert (names(out), contents(target)) == (["features_33"], whole[1])


def test_a_killed_first_dump_leaves_no_set_or_a_whole_one(captures: tuple[Path, Path], out: Path) -> None:
    command = [*QEXPORT, "dump", "--capture", str(captures[0]), "--out", str(out), "--layout", "ws8x8"]
    for reached in MOMENTS.values():
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not reached(out):
                time.sleep(0.0005)
            process.kill()
        if (out / "features_33").exists():
            assert verify(out / "features_33").ok
            shutil.rmtree(out / "features_33")
    assert run(captures[0], out, "--layout", "ws8x8").exit_code == 0
    assert names(out) == ["features_33"]


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from qexport.cli import main
from qexport.sets import staging
at, exchange, *arguments = sys.argv[1:]
if exchange == "without":
    staging._exchange = lambda a, b: False
real, calls = os.rename, 0
def rename(self, to):
    global calls
    calls += 1
    if calls == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, to)
    return Path(to)
Path.rename = Path.replace = rename
main(arguments)
"""


DUMP_ALL = """
from qexport.build.dump import dump_all
from qexport.core.capture import CaptureFile
from qexport.layout.toml import load_layout
out, *captures = arguments
dump_all([CaptureFile(Path(capture)) for capture in captures], load_layout("default"), Path(out), force=True)
"""


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("exchange", ["with", "without"])
def test_a_dump_killed_before_any_rename_is_undone_or_finished_by_the_next(
    captures: tuple[Path, Path], tmp_path: Path, out: Path, at: int, exchange: str
) -> None:
    run(captures[1], tmp_path / "other")
    run(captures[0], out)
    old, new = contents(out / "features_33"), contents(tmp_path / "other" / "features_33")
    arguments = ["dump", "--capture", str(captures[1]), "--out", str(out), "--force"]
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(at), exchange, *arguments], capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert (out / "features_33").exists() or exchange == "without"
    run(captures[1], out)  # whatever it says, what was begun is undone or finished before
    assert names(out) == ["features_33"]
    assert contents(out / "features_33") in (old, new)
    assert run(captures[1], out, "--force").exit_code == 0
    assert (names(out), contents(out / "features_33")) == (["features_33"], new)


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("exchange", ["with", "without"])
def test_sets_of_a_dump_of_all_layers_are_never_read_old_and_new_together(
    tmp_path: Path, out: Path, at: int, exchange: str
) -> None:
    """Killed before any rename: readers find all sets old or all new, or refuse the folder until it is finished."""
    layout, kinds = load_layout("default"), []
    for seed in (0, 2):
        layers = [make_capture(seed + n, name=f"features.{n}", index=n) for n in (0, 1)]
        for layer in layers:
            (tmp_path / f"{seed}{layer.layer.index}.safetensors").write_bytes(layer.to_bytes())
        dump_all(layers, layout, tmp_path / f"{seed}")
        kinds.append(contents(tmp_path / f"{seed}"))
    dump_all([CaptureFile(tmp_path / f"0{n}.safetensors") for n in (0, 1)], layout, out)
    program = KILLED_AT.replace("main(arguments)", DUMP_ALL)
    arguments = [str(out), *(str(tmp_path / f"2{n}.safetensors") for n in (0, 1))]
    done = subprocess.run([sys.executable, "-c", program, str(at), exchange, *arguments], capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    read = cli("verify", out)
    if read.exit_code == 2:
        fails(read, f"{out} may hold old and new sets side by side", "dump into it again")
    else:
        assert read.exit_code == 0
        assert {name: data for name, data in contents(out).items() if not name.startswith(".")} in kinds
    assert cli("verify", out / "features_0").exit_code == 0 or exchange == "without"
    with staging(out):  # the next command that writes, whatever it wants to write
        pass
    assert cli("verify", out).exit_code == 0
    assert contents(out) in kinds


def test_hidden_folders_of_others_stay(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out)
    for name in (".features_33.partial", ".features_33.previous", ".qexport-mine", ".qexport-0123456789abcdef"):
        (out / name).mkdir()
        (out / name / "notes.txt").write_text("mine")
    assert run(captures[1], out, "--force").exit_code == 0
    assert len(list(out.glob(".*/notes.txt"))) == 4


def test_what_a_user_changed_in_a_set_is_kept_when_it_is_replaced(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out)
    for number, capture in ((1, captures[1]), (2, captures[0])):
        (out / "features_33" / "dut.sv").write_text(f"// mine {number}")
        result = run(capture, out, "--force")
        assert result.exit_code == 0
        assert f"dut.sv of {out / 'features_33'} had been changed" in result.stderr
        kept = out / f"features_33.~{number}~"
        assert str(kept) in result.stderr
        assert contents(kept) == {"dut.sv": f"// mine {number}".encode()}
    assert cli("verify", out).exit_code == 0


def test_a_replaced_set_that_nobody_changed_leaves_no_backup(captures: tuple[Path, Path], out: Path) -> None:
    run(captures[0], out)
    result = run(captures[1], out, "--force")
    assert (result.stderr, names(out)) == ("", ["features_33"])


@pytest.mark.parametrize("command", [("rtl",), ("stub", "--style", "blank"), ("cocotb",), ("shrink", "--actual")])
def test_of_many_at_once_into_one_new_folder_one_wins_and_the_others_say_so(
    captures: tuple[Path, Path], out: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    run(captures[0], out)
    target = tmp_path / "new" / "target"
    written = ["target"]
    if command == ("shrink", "--actual"):
        written += ["target.actual"]  # what the design gives for it
        wrong = tmp_path / "relu.hex"
        wrong.write_text((out / "features_33" / "relu.hex").read_text().replace("0", "1"))
        command = ("shrink", "--actual", str(wrong))
    line = [*QEXPORT, *command, str(out / "features_33"), "--out", str(target)]
    count = 20 if command == ("rtl",) else 4
    processes = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(count)]
    said = [process.communicate()[1].decode() for process in processes]
    assert sorted(process.returncode for process in processes) == [0] + [2] * (count - 1), said
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            assert re.fullmatch(r"qexport: error: out: \S+ is there already and not empty; give a new folder\n", text)
    assert names(tmp_path / "new") == written
    assert cli(*command, out / "features_33", "--out", tmp_path / "alone").exit_code == 0
    assert contents(target).keys() == contents(tmp_path / "alone").keys()


def test_dumps_at_once_wait_for_each_other_and_leave_one_whole_set(captures: tuple[Path, Path], out: Path) -> None:
    processes = [dump_often(2, captures, out) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert (names(out), verify(out / "features_33").ok) == (["features_33"], True)


def test_a_set_is_replaced_in_one_step_so_that_a_reader_never_misses_it(
    captures: tuple[Path, Path], tmp_path: Path, out: Path
) -> None:
    places = tmp_path / "one", tmp_path / "other"
    for place in places:
        place.mkdir()
    if not _exchange(*places):
        pytest.skip("this system cannot exchange two folders in one step")
    run(captures[0], out)
    reads = 0
    with dump_often(5, captures, out) as process:
        while process.poll() is None:
            assert (out / "features_33" / "SHA256SUMS").stat().st_size > 0
            reads += 1
    assert (process.returncode, reads > 100) == (0, True)


# --- widths ---------------------------------------------------------------------------------------------------------

SUMS = "n (ot col) oy ox -> | n ot oy ox | ~col"


def test_a_memory_too_narrow_for_other_inputs_is_written_with_a_warning(tmp_path: Path, out: Path) -> None:
    capture = make_capture()
    low, high = Golden(capture).facts.bounds
    (tmp_path / "c.safetensors").write_bytes(capture.to_bytes())
    for bits, warned in ((11, True), (12, True), (13, False)):
        layout = tmp_path / f"{bits}.toml"
        layout.write_text(
            f'name = "sums"\n[array]\ncol = 8\n[[memory]]\nname = "sum"\ntensor = "accumulator"\n'
            f'order = "{SUMS}"\nfile = "sum.hex"\nradix = "hex"\nbits = {bits}\n'
        )
        assert (-(1 << bits - 1) <= low and high < 1 << bits - 1) != warned
        result = run(tmp_path / "c.safetensors", out / str(bits), "--layout", layout)
        assert result.exit_code == 0
        folder = out / str(bits) / "features_33"
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert decoder.check(folder) == []
        if warned:
            assert all(word in result.stderr for word in ("warning", "'sum'", str(low), str(high), "13 signed bits"))
            assert [warning in result.stderr for warning in manifest["warnings"]] == [True]
        else:
            assert (result.stderr, "warnings" in manifest) == ("", False)


def test_a_memory_too_narrow_for_these_inputs_is_an_error_that_names_the_bits_for_all_inputs(out: Path) -> None:
    with pytest.raises(QexportError, match=r"memory 'm'.*bits = 13"):
        dump(make_capture(), one_memory_layout(SUMS, "accumulator", bits=10), out)
    assert not out.exists()
    assert dump(make_capture(), one_memory_layout(SUMS, "accumulator", bits=13), out).manifest.warnings == ()


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_no_warning_says_that_a_memory_holds_values_that_it_wraps_or_saturates(out: Path, overflow: str) -> None:
    layout = one_memory_layout(SUMS, "accumulator", bits=8, overflow=overflow)
    warnings = dump(make_capture(), layout, out).manifest.warnings
    assert not [warning for warning in warnings if "hold the values of these inputs" in warning]


LOGGED = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from qexport.cli import main
main()
"""


def test_a_dump_that_is_interrupted_while_it_waits_leaves_the_running_ones_folder(
    captures: tuple[Path, Path], out: Path
) -> None:
    running = out / ".qexport-0123456789abcdef"
    (running / "new").mkdir(parents=True)  # a dump that runs holds the lock and has its folder
    command = [sys.executable, "-c", LOGGED, "dump", "--capture", str(captures[0]), "--out", str(out)]
    with FileLock(out / LOCK), subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any("not acquired" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait() == 130
    assert running.is_dir()


@pytest.mark.parametrize("journal", ["", "[1]", '{"../other": 1}', '{"features_33": "x"}', '{"/tmp": 1}', "[" * 3000])
def test_a_journal_that_no_command_wrote_moves_nothing(
    captures: tuple[Path, Path], out: Path, tmp_path: Path, journal: str
) -> None:
    stage = out / f"{STAGING}0123456789abcdef"
    (stage / "new").mkdir(parents=True)
    (stage / JOURNAL).write_text(journal)
    (tmp_path / "other").mkdir(exist_ok=True)
    fails(cli("dump", "--capture", captures[0], "--out", out), "journal.json is damaged", "take it away")
    assert (stage / JOURNAL).read_text() == journal
