"""Inputs that ask for too much are refused in one line, before the work, with little memory."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qexport.core import budget
from qexport.core.steps import Chain, Signal, read_steps
from qexport.errors import QexportError
from tests.conftest import cli, fails, make_capture
from tests.judges.layers import codes, conv

EXAMPLE = Path(__file__).parents[2] / "vectors" / "features_33"
MIB = 300  # that a refusal may take, the interpreter and numpy among them
MEMORY = """[[memory]]
name = "m{n}"
tensor = "weight"
order = "oc ic kh kw -> {files} | {addresses} |"
file = "m{n}{fields}.txt"
radix = "hex"
"""
PLAIN = {"files": "", "addresses": "oc ic kh kw", "fields": ""}


def refused(*arguments: object, needles: tuple[str, ...]) -> None:
    """The program in a process of its own ends with 2 and one line, in less than MIB of memory."""
    program = (
        "import atexit, re, sys; from pathlib import Path; from qexport.cli import main\n"
        # getrusage would count what the process that started this one had before
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) >> 10\n"
        "atexit.register(lambda: print(peak(), file=sys.stderr)); main()"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *lines, peak = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert all(needle in lines[0] for needle in needles), lines[0]
    assert len(lines[0]) < 1000
    assert int(peak) < MIB


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("command", [("layout", "check"), ("layout", "show")])
def test_a_layout_that_never_ends_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        refused(*command, path, needles=(str(path), "not a regular file"))


def test_a_large_layout_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(1 << 34)  # takes no room on the disk
    refused("layout", "check", tmp_path / "large.toml", needles=("large.toml", "1,048,576 bytes"))


DEEP = {
    "a key of many parts": "a" + ".a" * 20_000 + " = 1\n",
    "a table of many parts": "[a" + ".a" * 20_000 + "]\n",
    "a key of quoted parts": '"a"' + " . 'a.b'" * 20_000 + " = 1\n",
    "lists": "a = " + "[" * 20_000 + "]" * 20_000 + "\n",
    "tables": "a = " + "{a = " * 20_000 + "1" + "}" * 20_000 + "\n",
    "lists after a text": "name = '''['\n\"''' \na = " + "[" * 20_000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_layout_that_nests_too_deep_is_refused(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "deep.toml", text)
    refused("dump", "--capture", EXAMPLE / "capture.safetensors", "--layout", path, "--out", tmp_path / "out",
            needles=("deep.toml:", "within each other"))  # fmt: skip
    shown = cli("layout", "check", path).stdout.splitlines()
    assert max(map(len, shown)) < 400


def test_what_looks_deep_inside_a_text_or_a_comment_is_no_matter(tmp_path: Path) -> None:
    text = 'name = "[[[[[[[[[[[[.........."  # [[[[[[[[[[[[[[ a.b.c.d.e.f.g.h.i.j.k.l\n' + MEMORY.format(n=0, **PLAIN)
    assert cli("layout", "check", written(tmp_path / "flat.toml", text)).exit_code == 0


def test_many_memories_are_refused(tmp_path: Path) -> None:
    text = 'name = "x"\n' + "".join(MEMORY.format(n=n, **PLAIN) for n in range(budget.MEMORIES + 1))
    fails(cli("layout", "show", written(tmp_path / "many.toml", text)), "many.toml", "1001 are more than 1000")


def test_many_axes_are_refused(tmp_path: Path) -> None:
    axes = [f"a{n}" for n in range(75)]
    text = MEMORY.format(n=0, **PLAIN | {"addresses": f"{' '.join(axes)} ic kh kw"}).replace(
        '"oc ', f'"({" ".join(axes)}) '
    )
    array = "[array]\n" + "".join(f"{axis} = 1\n" for axis in axes[1:])
    path = written(tmp_path / "axes.toml", f'name = "x"\n{array}{text}')
    fails(cli("layout", "show", path), "axes.toml", "78 axes at once are more than 32")


def test_sizes_whose_product_leaves_64_bits_are_refused(tmp_path: Path) -> None:
    axes = [f"a{n}" for n in range(5)]
    text = MEMORY.format(n=0, **PLAIN | {"addresses": f"{' '.join(axes)} ic kh kw"}).replace(
        '"oc ', f'"({" ".join(axes)}) '
    )
    array = "[array]\n" + "".join(f"{axis} = 1048576\n" for axis in axes)
    path = written(tmp_path / "product.toml", f'name = "x"\n{array}{text}')
    capture = EXAMPLE / "capture.safetensors"
    fails(cli("dump", "--capture", capture, "--layout", path, "--out", tmp_path / "out"), "elements, more than")
    fails(cli("layout", "show", path), "elements, more than")


def test_many_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(make_capture(in_channels=96, out_channels=96, plane=(3, 3)).to_bytes())
    fields = "_{oc}_{ic}_{kh}_{kw}"
    text = 'name = "x"\n' + MEMORY.format(n=0, files="oc ic kh kw", addresses="", fields=fields)
    layout = written(tmp_path / "files.toml", text)
    arguments = ("--capture", tmp_path / "c.safetensors", "--layout", layout, "--out", tmp_path / "out")
    for more in ((), ("--dry-run",)):
        fails(cli("dump", *arguments, *more), "82,944 files are more than 65,536")


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_a_small_capture_with_a_huge_padding_is_refused(kernel: tuple[int, int], tmp_path: Path) -> None:
    huge = make_capture(
        plane=(1, 1), images=1, in_channels=1, out_channels=1, kernel=kernel, padding=(6000, 6000, 6000, 6000)
    )
    (tmp_path / "c.safetensors").write_bytes(huge.to_bytes())
    refused("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path / "out",
            needles=("layer features.33", "elements", "more than"))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_capture_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    tensors = {f"t{n}": {"dtype": "I32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    header = json.dumps(tensors).encode()
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused("dump", "--capture", tmp_path / "h.safetensors", "--out", tmp_path / "out",
            needles=("h.safetensors", "header of"))  # fmt: skip


def test_a_capture_with_huge_tensors_is_refused(tmp_path: Path) -> None:
    data = make_capture().to_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    metadata = json.loads(header["__metadata__"]["qexport"])
    metadata["layer"] |= {"in_channels": 1 << 20, "out_channels": 1 << 10, "kernel": [1, 1], "padding": [0, 0, 0, 0]}
    bytes_ = [4 << 30, 4 << 20]
    made = {
        "__metadata__": {"qexport": json.dumps(metadata)},
        "weight": {"dtype": "I32", "shape": [1 << 10, 1 << 20, 1, 1], "data_offsets": [0, bytes_[0]]},
        "input": {"dtype": "I32", "shape": [1, 1 << 20, 1, 1], "data_offsets": [bytes_[0], sum(bytes_)]},
    }
    text = json.dumps(made).encode()
    with (tmp_path / "c.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + sum(bytes_))
    refused("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path / "out",
            needles=("weight has 1,073,741,824 codes",))  # fmt: skip


@pytest.mark.parametrize(("steps", "served"), [(budget.CHAIN, True), (budget.CHAIN + 1, False), (20_000, False)])
def test_a_long_chain_of_steps_is_refused(steps: int, served: bool, tmp_path: Path) -> None:
    formats = {"weight": codes(4, True), "input": codes(4, False)}
    layer = {"padding": [0, 0, 0, 0], "relu": False, "stride": [1, 1], "dilation": [1, 1], "groups": 1}
    one = np.ones((1, 1, 1, 1), np.int32)
    capture = conv(one, one, formats, [{"op": "add", "value": 1}] * steps, **layer)
    arguments = ("dump", "--capture", capture.write(tmp_path / "c.safetensors"), "--out", tmp_path / "out")
    if served:
        assert cli(*arguments).exit_code == 0
        assert cli("verify", tmp_path / "out").exit_code == 0
    else:
        fails(cli(*arguments), f"steps: {steps:,} are more than 200")


def test_many_names_are_not_listed(tmp_path: Path) -> None:
    tensors = {f"t{n}": {"dtype": "I32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    header = json.dumps({"__metadata__": {"qexport": "{}"}} | tensors).encode()
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused("dump", "--capture", tmp_path / "h.safetensors", "--out", tmp_path / "out",
            needles=("holds tensors t0, t1,", "and 99,992 more"))  # fmt: skip


def test_a_wave_of_a_huge_width_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pywellen")
    text = (
        "$timescale 1ns $end\n$scope module tb $end\n$var wire 4000000000 ! m_relu_tdata $end\n"
        '$var wire 1 " clk $end\n$upscope $end\n$enddefinitions $end\n#0\n0"\nb1 !\n#5\n1"\n#10\n0"\n#15\n1"\n'
    )
    path = written(tmp_path / "w.vcd", text)
    refused("diagnose", EXAMPLE, "--actual", path, "--signal", "m_relu_tdata", "--clock", "clk",
            needles=("tb.m_relu_tdata has 4,000,000,000 bits",))  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [("show", EXAMPLE, "x" * 100_000 + ":1"), ("layout", "show", "x" * 100), ("diagnose", EXAMPLE, "--actual",
     EXAMPLE / "relu.hex", "--memory", "x" * 100_000), ("x" * 100_000,)],
)  # fmt: skip
def test_a_long_name_does_not_make_a_long_line(arguments: tuple[object, ...]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert len(result.stderr) < 2100


def test_a_long_key_does_not_make_a_long_line(tmp_path: Path) -> None:
    path = written(tmp_path / "long.toml", 'name = "x"\n' + "k" * 100_000 + " = 1\n" + MEMORY.format(n=0, **PLAIN))
    assert max(map(len, cli("layout", "check", path).stdout.splitlines())) < 2100
    assert len(cli("layout", "show", path).stderr) < 2100


@pytest.mark.parametrize(
    ("op", "shape", "needle"),
    [
        ({"op": "threshold", "first": 0}, (1, 100_000), "table has 100,000 levels for a channel, more than 65,536"),
        ({"op": "threshold", "first": 0}, (64, 60_000), "3,840,000 numbers, more than 2,097,152"),
        ({"op": "lookup", "low": 0}, (10**8,), "100,000,000 numbers, more than 2,097,152"),
    ],
)
@pytest.mark.parametrize("count", [1, 150])
def test_a_capture_with_huge_tables_of_steps_is_refused(
    op: dict[str, object], shape: tuple[int, ...], needle: str, count: int, tmp_path: Path
) -> None:
    data = make_capture().to_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["qexport"] = json.dumps(
        json.loads(header["__metadata__"]["qexport"]) | {"steps": [op] * count}
    )
    end = len(data) - 8 - size
    for index in range(count):
        begin, end = end, end + 8 * int(np.prod(shape))
        header[f"steps.{index}.table"] = {"dtype": "I64", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "c.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data[8 + size :])
        file.truncate(8 + len(text) + end)
    needles = (needle,) if count == 1 else ("numbers, more than",)
    refused("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path / "out", needles=needles)


def test_tables_in_the_metadata_count_as_well() -> None:
    steps = read_steps([{"op": "lookup", "low": 0, "table": [0] * 2**15}] * 65)
    start = Signal(("n", "oc", "oy", "ox"), "oc", (1, 1, 1), np.zeros(1, int), np.zeros(1, int))
    with pytest.raises(QexportError, match=r"steps: 2,129,920 numbers are more than 2,097,152; use shorter tables"):
        Chain(steps, start)
