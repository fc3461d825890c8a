"""What the commands print: words of a memory, drawings of a layout, help, and errors that say what to do."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport import __version__
from qexport.build.dump import dump
from qexport.cli import main
from qexport.core.codes import CodeFormat
from qexport.errors import QexportError
from qexport.layout.toml import PRESETS, layout_text, parse_layout, preset_names
from qexport.sim.registry import SIMULATORS
from tests.conftest import CONV_PRESETS, cases, checked_dump, cli, fails, make_capture, one_memory_layout
from tests.judges import decoder

WEIGHT = "(ot col) (it row) kh kw -> | ot it kh kw col | ~row"


def shown(folder: Path, place: str) -> dict[str, Any]:
    """What `show --json` says of a place."""
    result = cli("show", folder, place, "--json")
    assert result.exit_code == 0, result.stderr
    (word,) = json.loads(result.stdout)["words"]
    printed: dict[str, Any] = word
    return printed


# --- show -----------------------------------------------------------------------------------------------------------


@settings(max_examples=cases(60))
@given(data=st.data())
def test_show_says_of_any_word_what_the_independent_decoder_reads_there(
    set_of: Callable[[str], Path], data: st.DataObject
) -> None:
    folder = set_of(data.draw(st.sampled_from(["default", "ws8x8"])))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    memory = data.draw(st.sampled_from(manifest["memories"]))
    number = data.draw(st.integers(0, len(memory["files"]) - 1))
    file = memory["files"][number]
    word = data.draw(st.integers(0, file["words"] - 1))
    line = word + 1 + len(memory["header"])
    printed = shown(folder, f"{file['path']}:{line}")
    codes, place = decoder.decode(folder)[memory["name"]], decoder.read_order(memory, manifest["array"])[0]
    assert (printed["memory"], printed["tensor"], printed["line"]) == (memory["name"], memory["tensor"], line)
    assert printed["text"] == (folder / file["path"]).read_text().splitlines()[line - 1]
    assert [lane["lane"] for lane in printed["lanes"]] == list(range(place.shape[2]))
    for lane, flat in zip(printed["lanes"], place[number, word], strict=True):
        assert tuple(lane["index"].values()) == np.unravel_index(flat, memory["shape"])
        assert lane["code"] == lane["stored"] == codes.flat[flat]
        assert lane["bits"] == format(lane["code"] % (1 << memory["bits"]), f"0{memory['bits']}b")
    bits = "".join(lane["bits"] for lane in printed["lanes"])
    assert int(bits, 2) == int(printed["text"], {"hex": 16, "bin": 2}[memory["radix"]])


def test_show_prints_each_lane_with_its_tensor_index_code_and_bits(set_of: Callable[[str], Path]) -> None:
    folder, weight = set_of("default"), make_capture().weight
    result = cli("show", folder, "weight.hex:13")  # the 5th column of the second tap
    assert result.exit_code == 0
    head, _, *lanes = result.stdout.splitlines()
    assert "weight.hex:13" in head
    assert (folder / "weight.hex").read_text().splitlines()[12] in head
    assert [line.split() for line in lanes] == [
        [str(lane), "oc=4", f"ic={7 - lane}", "kh=0", "kw=1", str(code), format(code % 16, "04b")]
        for lane, code in enumerate(map(int, weight[4, ::-1, 0, 1]))
    ]


def test_show_of_a_header_line_says_so(set_of: Callable[[str], Path]) -> None:
    folder = set_of("ws8x8")
    for line, text in enumerate((folder / "output.txt").read_text().splitlines()[:3], start=1):
        result = cli("show", folder, f"output.txt:{line}")
        assert result.exit_code == 0
        assert "header" in result.stdout
        assert text in result.stdout
        printed = shown(folder, f"output.txt:{line}")
        assert (printed["header"], printed["text"], printed["line"]) == (True, text, line)
    assert not shown(folder, "output.txt:4")["header"]


@pytest.mark.parametrize("radix", ["dec", "hex", "bin"])
def test_show_reads_every_radix(tmp_path: Path, radix: str) -> None:
    capture = make_capture()
    folder = checked_dump(capture, one_memory_layout(WEIGHT, radix=radix), tmp_path)
    codes = [lane["code"] for lane in shown(folder, "m.txt:13")["lanes"]]
    assert codes == capture.weight[4, ::-1, 0, 1].tolist()
    if radix == "dec":
        assert (folder / "m.txt").read_text().splitlines()[12] == " ".join(map(str, codes))


def test_show_of_a_ragged_word_marks_the_filled_lanes(tmp_path: Path) -> None:
    capture = make_capture(in_channels=6)
    folder = checked_dump(capture, one_memory_layout(WEIGHT), tmp_path)
    lanes = shown(folder, "m.txt:1")["lanes"]
    assert [lane["index"] for lane in lanes[:3]] == [None, None, {"oc": 0, "ic": 5, "kh": 0, "kw": 0}]
    assert [lane["code"] for lane in lanes] == [0, 0, *capture.weight[0, ::-1, 0, 0].tolist()]
    assert cli("show", folder, "m.txt:1").stdout.count("fill") == 2


def test_show_of_a_memory_with_an_offset_says_code_and_stored_value(tmp_path: Path) -> None:
    layout = one_memory_layout("oy ox kh kw -> | oy ox kh kw |", "acc_address", offset=1024, bits=12)
    folder = checked_dump(make_capture(), layout, tmp_path)
    address = (1 * 3 + 2) * 36 + 0 * 6 + 1 * 6 + 2  # oy=0 ox=0 kh=1 kw=2
    (lane,) = shown(folder, "m.txt:6")["lanes"]
    assert lane["index"] == {"oy": 0, "ox": 0, "kh": 1, "kw": 2}
    assert (lane["code"], lane["stored"]) == (address, address + 1024)
    assert lane["bits"] == format(address + 1024, "012b")
    assert {str(address), str(address + 1024)} <= set(cli("show", folder, "m.txt:6").stdout.split())


@pytest.mark.parametrize("bits", [1, 63])
def test_show_reads_the_narrowest_and_the_widest_element(tmp_path: Path, bits: int) -> None:
    layout = one_memory_layout(WEIGHT, bits=bits, signed=True, overflow="wrap")
    capture = make_capture()
    folder = dump(capture, layout, tmp_path).folder
    wanted = capture.weight[0, ::-1, 0, 0]
    stored = [lane["stored"] for lane in shown(folder, "m.txt:1")["lanes"]]
    assert stored == (wanted if bits == 63 else -(wanted % 2)).tolist()


@pytest.mark.parametrize(
    ("place", "needle"),
    [
        ("weight.hex", "FILE:LINE"),
        ("weight.hex:", "FILE:LINE"),
        (":3", "FILE:LINE"),
        ("weight.hex:0", "FILE:LINE"),
        ("weight.hex:-1", "FILE:LINE"),
        ("weight.hex:two", "FILE:LINE"),
        ("weight.hex:73", "72"),
        (f"weight.hex:{'9' * 5000}", "weight.hex"),
        ("none.hex:1", "weight.hex"),
        ("manifest.json:1", "weight.hex"),
        ("../features_33/weight.hex:1", "weight.hex"),
    ],
)
def test_a_place_that_is_none_is_refused_with_what_there_is(
    set_of: Callable[[str], Path], place: str, needle: str
) -> None:
    fails(cli("show", set_of("default"), place), needle)


def test_show_of_a_damaged_or_missing_file_ends_with_1(tmp_path: Path) -> None:
    folder = dump(make_capture(), one_memory_layout(WEIGHT), tmp_path).folder
    text = (folder / "m.txt").read_text()
    (folder / "m.txt").write_text("x" + text[1:])
    fails(cli("show", folder, "m.txt:1"), f"{folder / 'm.txt'}:1", code=1)
    (folder / "m.txt").unlink()
    fails(cli("show", folder, "m.txt:1"), str(folder / "m.txt"), code=1)


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONV_PRESETS)
def test_layout_show_draws_every_memory_of_a_preset(name: str) -> None:
    result = cli("layout", "show", name)
    assert result.exit_code == 0
    drawn = result.stdout.splitlines()
    for memory in tomllib.loads((PRESETS / f"{name}.toml").read_text())["memory"]:
        assert [line for line in drawn if line.startswith(memory["name"]) and memory["order"] in line]
        assert all(line in result.stdout for line in memory.get("header", []))
        if name in ("default", "ws8x8") and memory["name"] == "weight":
            row = [str(len(memory.get("header", [])) + 1), "oc=0", "kh=0", "kw=0"]
            assert [*row, *(f"ic={ic}" for ic in reversed(range(8)))] in [line.split() for line in drawn]


def test_layout_show_numbers_the_lines_after_the_header() -> None:
    drawn = [line.split() for line in cli("layout", "show", "ws8x8").stdout.splitlines()]
    for line in range(3):
        assert [str(line + 4), "n=0", "py=0", f"px={line}", *(f"ic={ic}" for ic in reversed(range(8)))] in drawn


def test_layout_show_json_names_the_same_lanes_that_a_dump_writes(set_of: Callable[[str], Path]) -> None:
    for name in CONV_PRESETS:
        printed = json.loads(cli("layout", "show", name, "--json").stdout)
        drawn = {memory["memory"]: memory for memory in printed["memories"]}
        for memory in json.loads((set_of(name) / "manifest.json").read_bytes())["memories"]:
            line = len(memory["header"]) + (7 if memory["radix"] == "c" else 1)  # behind the opening of an array
            lanes = shown(set_of(name), f"{memory['files'][0]['path']}:{line}")["lanes"]
            assert drawn[memory["name"]]["first_words"][0] == [lane["index"] for lane in lanes]
            files = drawn[memory["name"]]["files"]  # of one image
            assert files == [file["path"] for file in memory["files"]][: len(files)]


def test_layout_list_names_every_preset() -> None:
    result = cli("layout", "list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:] if line[0] != " "] == preset_names()
    assert json.loads(cli("layout", "list", "--json").stdout)["presets"] == preset_names()
    assert {"default", "ws8x8"} <= set(preset_names())


@pytest.mark.parametrize("command", ["show", "dump"])
def test_an_unknown_layout_is_refused_with_the_presets(tmp_path: Path, command: str) -> None:
    (tmp_path / "c.safetensors").write_bytes(make_capture().to_bytes())
    options: dict[str, list[object]] = {
        "show": ["layout", "show", "nonsense"],
        "dump": ["dump", "--capture", tmp_path / "c.safetensors", "--layout", "nonsense", "--out", tmp_path / "out"],
    }
    fails(cli(*options[command]), "'nonsense'", *preset_names())
    assert not (tmp_path / "out").exists()


# --- simulate -------------------------------------------------------------------------------------------------------


def test_an_unknown_simulator_is_refused_with_the_known_ones(set_of: Callable[[str], Path]) -> None:
    result = cli("simulate", set_of("default"), "--simulator", "crystal-ball")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in ("crystal-ball", "auto", *SIMULATORS))


def test_a_set_without_results_has_no_bench_and_its_layout_is_not_called_the_preset_whose_name_it_kept(
    tmp_path: Path,
) -> None:
    text = layout_text("default").split("[[memory]]")
    inputs = "[[memory]]".join(
        part for part in text if not any(f'"{name}"' in part for name in ("psum", "accumulator", "relu", "output"))
    )
    folder = checked_dump(make_capture(), parse_layout(inputs, "copy.toml"), tmp_path)
    named = "a layout that is named 'default' but is not that preset, which comes without"
    fails(cli("simulate", folder), named, "--layout default")


# --- every command --------------------------------------------------------------------------------------------------


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = {" ".join(path): command for path, command in commands()}


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_of_every_command_shows_an_example(name: str) -> None:
    for option in ("--help", "-h"):
        result = cli(*name.split(), option)
        assert result.exit_code == 0
        assert re.search(rf"^ *qexport {name}", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_commands_help_is_a_call_that_it_accepts(name: str) -> None:
    for line in cli(*name.split(), "--help").stdout.splitlines():
        if line.startswith("  qexport "):
            words = shlex.split(line, comments=True)[1:]
            [called] = [other for other in COMMANDS if words[: len(other.split())] == other.split()]  # or one before it
            COMMANDS[called].make_context(called, words[len(called.split()) :])


def test_version_is_the_packages() -> None:
    result = cli("--version")
    assert (result.exit_code, __version__ in result.stdout.split()) == (0, True)


@pytest.mark.parametrize("arguments", [("nonsense",), ("show",), ("dump", "--nonsense"), ("layout", "nonsense")])
def test_wrong_usage_ends_with_2_and_names_the_culprit(arguments: tuple[str, ...]) -> None:
    fails(cli(*arguments), "--help")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_is_no_failed_check(set_of: Callable[[str], Path], options: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from qexport.cli import main; main()", "verify", str(set_of("default")), *options]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# --- what users stumbled over ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_show_claims_no_code_where_the_memory_changes_what_it_stores(overflow: str, tmp_path: Path) -> None:
    layout = one_memory_layout("n oc oy ox -> | n oc oy ox |", "accumulator", bits=3, overflow=overflow)
    folder = checked_dump(make_capture(), layout, tmp_path)
    (lane,) = shown(folder, "m.txt:1")["lanes"]
    assert lane["code"] is None
    assert -4 <= lane["stored"] <= 3
    assert cli("show", folder, "m.txt:1").stdout.splitlines()[2].split()[-3] == "?"


def test_a_console_that_is_not_utf8_is_no_error(tmp_path: Path) -> None:
    folder = checked_dump(make_capture(), "ws8x8", tmp_path / "Größe ß")
    code = "from qexport.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(folder)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Gr\\xf6\\xdfe" in done.stdout


def test_a_set_without_any_memory_is_refused(tmp_path: Path) -> None:
    layout = one_memory_layout("oc -> | oc |", "bias", array={}, optional=True)
    with pytest.raises(QexportError, match=r"layer features\.33 has no tensor of layout 'test'; choose another"):
        dump(make_capture(), layout, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_an_output_that_cannot_be_had_is_refused_with_the_reason_and_a_remedy(tmp_path: Path) -> None:
    formats = msgspec.structs.replace(
        make_capture().formats, output=CodeFormat(bits=9, signed=False, scale=0.25)
    )  # 0.125 an accumulator: every second one lies on an edge, half to even has no integers, and a table 8 bits
    path = tmp_path / "c.safetensors"
    path.write_bytes(replace(make_capture(), formats=formats).to_bytes())
    fails(cli("dump", "--capture", path, "--out", tmp_path / "o"), "no integers multiply", "--round half_up")
    assert not (tmp_path / "o").exists()
    result = cli("dump", "--capture", path, "--out", tmp_path / "o", "--round", "half_up")
    assert result.exit_code == 0, result.stderr
    assert decoder.check(tmp_path / "o" / "features_33") == []
