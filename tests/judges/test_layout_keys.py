"""The keys of layouts: literal files where the contract fixes each byte, and everything else by the own reader."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import cli, fails
from tests.judges.golden import Capture
from tests.judges.layers import codes, conv, dumped, linear, opened
from tests.judges.notation import Ints, read_c

# ---- what is dumped -------------------------------------------------------------------------------------------------


def layer(
    ic: int = 8, oc: int = 2, kernel: tuple[int, int] = (1, 1), plane: tuple[int, int] = (1, 3), **more: Any
) -> Capture:
    """4-bit weights that count up from -8 and inputs that count up from 0, modulo 16."""
    formats = {"weight": codes(4, True, 0.5), "input": codes(4, False, 0.25, more.pop("zero_point", 0))}
    weight = np.arange(oc * ic * kernel[0] * kernel[1]).reshape(oc, ic, *kernel) % 16 - 8
    x = np.arange(ic * plane[0] * plane[1]).reshape(1, ic, *plane) % 16
    return conv(weight, x, formats, name="keys", **more)


def memory(tensor: str, order: str, file: str = "", radix: str = "hex", name: str = "", **keys: Any) -> str:
    said = {"name": name or tensor, "tensor": tensor, "order": order, "file": file or f"{name or tensor}.txt"}
    said |= {"radix": radix} | keys
    return "[[memory]]\n" + "".join(f"{key} = {value(v)}\n" for key, v in said.items())


def value(v: Any) -> str:
    if isinstance(v, dict):
        return "{" + ", ".join(f"{key} = {value(item)}" for key, item in v.items()) + "}"
    return str(v).lower() if isinstance(v, bool) else json.dumps(v)


class Kept:
    """A set of a layout."""

    def __init__(self, capture: Capture, root: Path, *memories: str, **array: int):
        root.mkdir(parents=True, exist_ok=True)
        sizes = "".join(f"{axis} = {size}\n" for axis, size in array.items())
        layout = root / "l.toml"
        layout.write_text('name = "l"\n[array]\n' + sizes + "".join(memories))
        path = capture.write(root / "made.safetensors")
        self.result = cli("dump", "--capture", path, "--layout", layout, "--out", root / "out")
        self.folder = root / "out" / capture.layer["name"]

    def opened(self) -> "Kept":
        assert self.result.exit_code == 0, self.result.output
        self.judged = opened(self.folder)
        verified = cli("verify", self.folder)
        assert verified.exit_code == 0, verified.output
        return self

    def text(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode()

    def entry(self, name: str) -> dict[str, Any]:
        (found,) = [m for m in self.judged.manifest["memories"] if m["name"] == name]
        return found  # type: ignore[no-any-return]

    def holds(self, name: str, want: Any) -> None:
        assert np.array_equal(self.judged.tensors[name], want), name


def kept(capture: Capture, root: Path, *memories: str, **array: int) -> Kept:
    found = Kept(capture, root, *memories, **array).opened()
    for entry in found.judged.manifest["memories"]:
        if entry["tensor"] in capture.tensors:
            found.holds(entry["name"], capture.tensors[entry["tensor"]])
    return found


WEIGHT = "oc ic kh kw -> | oc kh kw | ic"  # two words of eight lanes: 89abcdef, 01234567
LINES = ["89abcdef", "01234567"]


# ---- text -----------------------------------------------------------------------------------------------------------

STYLES: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "89abcdef\n01234567\n"),
    "upper case": ({"case": "upper"}, "89ABCDEF\n01234567\n"),
    "lanes apart": ({"between": " "}, "8 9 a b c d e f\n0 1 2 3 4 5 6 7\n"),
    "lanes apart by lines": ({"between": "_"}, "8_9_a_b_c_d_e_f\n0_1_2_3_4_5_6_7\n"),
    "lanes apart by commas": ({"between": ","}, "8,9,a,b,c,d,e,f\n0,1,2,3,4,5,6,7\n"),
    "digits of their own": ({"between": " ", "bits": 5, "case": "upper"}, (
        "18 19 1A 1B 1C 1D 1E 1F\n00 01 02 03 04 05 06 07\n")),
    "two on a line": ({"per_line": 2}, "89abcdef 01234567\n"),
    "three on a line": ({"per_line": 3}, "89abcdef 01234567\n"),
    "a comma between words": ({"per_line": 2, "word_between": ", "}, "89abcdef, 01234567\n"),
    "an end of each word": ({"word_end": " "}, "89abcdef \n01234567 \n"),
    "ends and two on a line": ({"word_end": ",", "per_line": 2}, "89abcdef, 01234567,\n"),
    "windows": ({"newline": "crlf"}, "89abcdef\r\n01234567\r\n"),
    "a header with windows": ({"newline": "crlf", "header": ["// a", "// b"]}, (
        "// a\r\n// b\r\n89abcdef\r\n01234567\r\n")),
    "an empty line": ({"group": 1}, "89abcdef\n\n01234567\n"),
    "no empty line at the end": ({"group": 2}, "89abcdef\n01234567\n"),
    "bits": ({"radix": "bin", "between": "_"}, (
        "1000_1001_1010_1011_1100_1101_1110_1111\n0000_0001_0010_0011_0100_0101_0110_0111\n")),
    "decimals": ({"radix": "dec"}, "-8 -7 -6 -5 -4 -3 -2 -1\n0 1 2 3 4 5 6 7\n"),
    "decimals and commas": ({"radix": "dec", "between": ","}, "-8,-7,-6,-5,-4,-3,-2,-1\n0,1,2,3,4,5,6,7\n"),
    "aligned decimals": ({"radix": "dec", "pad": 4}, (
        "  -8   -7   -6   -5   -4   -3   -2   -1\n   0    1    2    3    4    5    6    7\n")),
    "aligned, words on a line": ({"radix": "dec", "pad": 3, "per_line": 2, "word_between": " | "}, (
        " -8  -7  -6  -5  -4  -3  -2  -1 |   0   1   2   3   4   5   6   7\n")),
    "everything": ({"between": ",", "per_line": 2, "word_between": ";", "word_end": "!", "case": "upper",
                    "newline": "crlf", "group": 2, "header": ["# x"]}, (
        "# x\r\n8,9,A,B,C,D,E,F!;0,1,2,3,4,5,6,7!\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("name", STYLES)
def test_styles_to_the_letter(name: str, tmp_path: Path) -> None:
    keys, text = STYLES[name]
    keys = dict(keys)
    found = kept(layer(), tmp_path, memory("weight", WEIGHT, radix=keys.pop("radix", "hex"), **keys))
    assert found.text("weight.txt") == text
    for key, said in keys.items():
        assert found.entry("weight")[key] == said


def test_keys_at_their_defaults_are_not_in_the_manifest(tmp_path: Path) -> None:
    found = kept(layer(), tmp_path, memory("weight", WEIGHT))
    new = {"first", "between", "per_line", "word_between", "word_end", "case", "pad", "newline", "group", "follows"}
    new |= {"type", "style", "array", "skew", "skew_by"}
    assert not new & set(found.entry("weight"))


def test_groups_and_lines(tmp_path: Path) -> None:
    """Four words on a line, an empty line after eight: the last group is short."""
    capture = layer(ic=4, oc=5)
    found = kept(capture, tmp_path, memory("weight", "oc ic kh kw -> | oc ic kh kw |", per_line=4, group=8))
    digits = [format(n % 16 - 8 & 15, "x") for n in range(20)]
    lines = [" ".join(digits[n : n + 4]) for n in range(0, 20, 4)]
    assert found.text("weight.txt") == "\n".join([*lines[:2], "", *lines[2:4], "", lines[4]]) + "\n"


@pytest.mark.parametrize("change", ["8 9", " 89", "89\t", "ABC"])
def test_the_reader_takes_exactly_what_the_writer_writes(change: str, tmp_path: Path) -> None:
    """Other spaces or letters than the style's are a failed check."""
    found = kept(layer(), tmp_path, memory("weight", WEIGHT))
    text = found.text("weight.txt")
    (found.folder / "weight.txt").write_text(change + text[len(change.strip()) :])
    assert cli("verify", found.folder).exit_code == 1


BAD_STYLES: dict[str, tuple[dict[str, Any], str]] = {
    "a digit between lanes": ({"between": "1"}, "between"),
    "an unknown case": ({"case": "title"}, "case"),
    "no words on a line": ({"per_line": 0}, "per_line"),
    "an unknown end of lines": ({"newline": "cr"}, "newline"),
    "groups of nothing": ({"group": -1}, "group"),
    "padded hex": ({"pad": 4}, "pad"),
    "a type of text": ({"type": "int8_t"}, "type"),
    "an unknown type": ({"radix": "c", "type": "int9_t"}, "int9_t"),
    "an unknown style": ({"radix": "c", "style": "oct"}, "style"),
    "an array's name that C refuses": ({"radix": "c", "array": "2x"}, "array"),
    "a skew along no lane": ({"skew": "oc"}, "skew"),
    "a skew along no axis": ({"skew": "colour"}, "skew"),
    "a skew by nothing": ({"skew": "ic", "skew_by": -1}, "skew_by"),
    "skew_by without skew": ({"skew_by": 2}, "skew"),
    "it follows nobody": ({"follows": "colour"}, "follows"),
    "it follows itself": ({"follows": "weight"}, "follows"),
    "first of no axis": ({"first": {"colour": 1}}, "first"),
    "first that is negative": ({"first": -1}, "first"),
}


@pytest.mark.parametrize("name", BAD_STYLES)
def test_bad_keys(name: str, tmp_path: Path) -> None:
    keys, needle = BAD_STYLES[name]
    keys = dict(keys)
    found = Kept(layer(), tmp_path, memory("weight", WEIGHT, radix=keys.pop("radix", "hex"), **keys))
    fails(found.result, needle)
    assert not found.folder.exists()


# ---- files ----------------------------------------------------------------------------------------------------------


def test_files_count_from_one(tmp_path: Path) -> None:
    order = "oc ic kh kw -> oc kij:(kh kw) | ic |"
    capture = layer(ic=2, oc=2, kernel=(2, 2), plane=(2, 3))
    every = kept(capture, tmp_path / "a", memory("weight", order, file="w{oc}_{kij}.txt", first=1))
    names = sorted(path.name for path in every.folder.glob("w*.txt"))
    assert names == sorted(f"w{oc}_{kij}.txt" for oc in (1, 2) for kij in (1, 2, 3, 4))
    one = kept(capture, tmp_path / "b", memory("weight", order, file="w{oc}_{kij}.txt", first={"kij": 1}))
    names = sorted(path.name for path in one.folder.glob("w*.txt"))
    assert names == sorted(f"w{oc}_{kij}.txt" for oc in (0, 1) for kij in (1, 2, 3, 4))
    assert every.text("w1_1.txt") == one.text("w0_1.txt")
    assert every.entry("weight")["first"] == 1 and one.entry("weight")["first"] == {"kij": 1}  # noqa: PT018


def test_a_file_name_may_leave_out_an_axis_of_one(tmp_path: Path) -> None:
    order = "n ic iy ix -> n | ic iy ix |"
    kept(layer(), tmp_path / "one", memory("input", order, file="input.txt"))
    capture = layer()
    two = capture.having(tensors=capture.tensors | {"input": np.repeat(capture.tensors["input"], 2, axis=0)})
    fails(Kept(two, tmp_path / "two", memory("input", order, file="input.txt")).result, "input.txt")


def test_a_size_that_nothing_uses_is_a_warning(tmp_path: Path) -> None:
    found = kept(layer(), tmp_path, memory("weight", WEIGHT), row=8)
    assert "row" in found.result.stderr


def test_memories_that_follow_one_another(tmp_path: Path) -> None:
    """Weights, then biases, then inputs, in one file."""
    capture = layer(bias=[3, -4])
    keys = {"radix": "hex", "file": "all.txt"}
    found = kept(
        capture,
        tmp_path,
        memory("weight", WEIGHT, **keys, header=["// all"]),
        memory("bias", "oc -> | oc |", **keys, follows="weight", bits=32),
        memory("input", "n ic iy ix -> | n iy ix | ic", **keys, follows="bias"),
    )
    x = capture.tensors["input"][0, :, 0]
    words = ["".join(format(v, "x") for v in x[:, ix]) for ix in range(3)]
    assert found.text("all.txt").split("\n") == ["// all", *LINES, "00000003", "fffffffc", *words, ""]
    starts = [found.entry(name)["files"][0].get("first_word", 0) for name in ("weight", "bias", "input")]
    assert starts == [0, 2, 4]
    listed = [file for file in found.judged.manifest["memories"] for file in file["files"]]
    assert len({file["sha256"] for file in listed}) == 1


def test_memories_follow_one_another_in_each_file(tmp_path: Path) -> None:
    capture = layer(ic=4, oc=3, bias=[5, 6, 7])
    found = kept(
        capture,
        tmp_path,
        memory("bias", "oc -> oc | |", file="pe{oc}.txt", radix="dec"),
        memory("weight", "oc ic kh kw -> oc | ic kh kw |", file="pe{oc}.txt", radix="dec", follows="bias"),
    )
    for oc in range(3):
        weights = capture.tensors["weight"][oc].ravel().tolist()
        assert found.text(f"pe{oc}.txt") == "".join(f"{v}\n" for v in [5 + oc, *weights])


def test_a_memory_that_does_not_fit_behind_is_refused(tmp_path: Path) -> None:
    weight = memory("weight", "oc ic kh kw -> oc | ic kh kw |", file="w{oc}.txt")
    other_axes = memory("input", "n ic iy ix -> n | ic iy ix |", file="w{n}.txt", follows="weight")
    fails(Kept(layer(), tmp_path / "axes", weight, other_axes).result, "follows")
    radix = memory("bias", "oc -> oc | |", file="w{oc}.txt", radix="dec", follows="weight")
    fails(Kept(layer(bias=[1, 2]), tmp_path / "radix", weight, radix).result, "follows")
    header = memory("bias", "oc -> oc | |", file="w{oc}.txt", follows="weight", header=["// b"])
    fails(Kept(layer(bias=[1, 2]), tmp_path / "header", weight, header).result, "header")


# ---- places ---------------------------------------------------------------------------------------------------------


def test_tiles_that_hold_the_next_two(tmp_path: Path) -> None:
    """Rows of a plane of 7 in tiles of 2 with 2 more: ceil(5 / 2) = 3 tiles, the last reaches beyond the edge."""
    capture = layer(ic=1, oc=1, plane=(7, 1), zero_point=9)
    order = "n ic (ty row+2) ix -> | n ic ty row ix |"
    found = kept(capture, tmp_path, memory("input", order, radix="dec"), row=2)
    got = [int(line) for line in found.text("input.txt").split()]
    assert got == [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 9]  # zero point 9 beyond the edge
    assert found.entry("input")["fill"] == 1


def test_tiles_with_a_neighbour_on_either_side(tmp_path: Path) -> None:
    capture = layer(ic=1, oc=1, plane=(5, 1), zero_point=15)
    order = "n ic (ty 1+row+1) ix -> | n ic ty | ~row ix"
    found = kept(capture, tmp_path, memory("input", order, radix="dec"), row=2)
    lines = [[int(v) for v in line.split()] for line in found.text("input.txt").splitlines()]
    assert lines == [[2, 1, 0, 15], [4, 3, 2, 1], [15, 15, 4, 3]]


def test_another_number_of_tiles(tmp_path: Path) -> None:
    capture = layer(ic=1, oc=1, plane=(5, 1))
    order = "n ic (ty row+2) ix -> | n ic ty row ix |"
    found = kept(capture, tmp_path, memory("input", order, radix="dec"), row=3, ty=2)
    assert [int(v) for v in found.text("input.txt").split()] == [0, 1, 2, 3, 4, 3, 4, 0, 0, 0]


def test_a_plane_smaller_than_the_overlap_has_one_tile(tmp_path: Path) -> None:
    capture = layer(ic=1, oc=1, plane=(2, 1))
    order = "n ic (ty row+2) ix -> ty | n ic row ix |"
    found = kept(capture, tmp_path, memory("input", order, file="t{ty}.txt", radix="dec"), row=4)
    assert [int(v) for v in found.text("t0.txt").split()] == [0, 1, 0, 0, 0, 0]


def test_tiles_of_both_axes_overlap(tmp_path: Path) -> None:
    """Halo tiles of a padded plane, two axes at once, as line-buffer accelerators read them."""
    rng = np.random.default_rng(1)
    capture = conv(
        rng.integers(-8, 8, (2, 3, 3, 3)),
        rng.integers(0, 16, (2, 3, 6, 9)),
        {"weight": codes(4, True), "input": codes(4, False, 1.0, 5)},
        name="keys",
        padding=[1, 1, 1, 1],
    )
    order = "n ic (ty row+2) (tx col+2) -> ty tx | n row col | ic"
    entry = memory("input_padded", order, file="t{ty}_{tx}.txt", radix="dec")
    found = kept(capture, tmp_path, entry, memory("weight", "oc ic kh kw -> | oc ic kh kw |"), row=2, col=4)
    padded = np.pad(capture.tensors["input"], ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=5)
    found.holds("input_padded", padded)
    assert len(list(found.folder.glob("t*_*.txt"))) == 3 * 3


def test_elements_repeat(tmp_path: Path) -> None:
    """Each bias twice in a word, for two lanes; each word three times, for three passes."""
    capture = layer(bias=[3, -4])
    entry = memory("bias", "oc -> | pass oc | lane", radix="dec")
    found = kept(capture, tmp_path, entry, memory("weight", WEIGHT), **{"pass": 3, "lane": 2})
    assert found.text("bias.txt") == "3 3\n-4 -4\n" * 3
    assert found.entry("bias")["fill"] == 0


def test_elements_repeat_over_files(tmp_path: Path) -> None:
    entry = memory("input", "n ic iy ix -> copy | n iy ix | ic", file="bank{copy}.txt")
    found = kept(layer(), tmp_path, entry, memory("weight", WEIGHT), copy=4)
    assert len({found.text(f"bank{copy}.txt") for copy in range(4)}) == 1


SKEWS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    # inputs of two positions and three rows: row r holds 10r + t at time t (in 4 bits: r=0: 0 1; r=1: 3 4 of ic)
    "rows from the left": ("n ic iy ix -> | n iy ix | ic", {}, ["000", "120", "034", "005"]),
    "rows from the right": ("n ic iy ix -> | n iy ix | ~ic", {}, ["000", "021", "430", "500"]),
    "two words late": ("n ic iy ix -> | n iy ix | ic", {"skew_by": 2}, ["000", "100", "020", "030", "004", "005"]),
    "backwards in time": ("n ic iy ix -> | n iy ~ix | ic", {}, ["100", "030", "025", "004"]),
    "a join is one run": ("n ic iy ix -> | n (iy ix) | ic", {}, ["000", "120", "034", "005"]),
}


@pytest.mark.parametrize("name", SKEWS)
def test_skewed_streams(name: str, tmp_path: Path) -> None:
    order, keys, lines = SKEWS[name]
    capture = layer(ic=3, oc=1, plane=(1, 2))  # ic 0: 0 1, ic 1: 2 3, ic 2: 4 5
    found = kept(capture, tmp_path, memory("input", order, skew="ic", **keys))
    assert found.text("input.txt").split() == lines
    assert found.entry("input")["fill"] == len(lines) * 3 - 6
    assert found.entry("input")["skew"] == "ic"


def test_each_run_is_skewed_for_itself(tmp_path: Path) -> None:
    """The last address item grows; the runs of the others begin anew; the fill is the zero point."""
    capture = layer(ic=2, oc=1, plane=(2, 2), zero_point=15)  # ic 0: 0 1 / 2 3, ic 1: 4 5 / 6 7
    found = kept(capture, tmp_path, memory("input", "n ic iy ix -> iy | n ix | ic", file="y{iy}.txt", skew="ic"))
    assert found.text("y0.txt").split() == ["0f", "14", "f5"]
    assert found.text("y1.txt").split() == ["2f", "36", "f7"]
    apart = kept(capture, tmp_path / "apart", memory("input", "n ic iy ix -> | n iy ix | ic", skew="ic"))
    assert apart.text("input.txt").split() == ["0f", "14", "f5", "2f", "36", "f7"]
    joined = kept(capture, tmp_path / "joined", memory("input", "n ic iy ix -> | n k:(iy ix) | ic", skew="ic"))
    assert joined.text("input.txt").split() == ["0f", "14", "25", "36", "f7"]


def test_skewed_results_in_tiles(tmp_path: Path) -> None:
    """What leaves a systolic array: sums of tiled columns, each one word later than the one before."""
    capture = layer(ic=4, oc=5, plane=(2, 2))
    out = memory("accumulator", "n (ot col) oy ox -> ot | n p:(oy ox) | ~col", file="o{ot}.txt", skew="col")
    found = kept(capture, tmp_path, memory("weight", "oc ic kh kw -> | oc ic kh kw |"), out, col=3)
    w, x = capture.tensors["weight"][:, :, 0, 0], capture.tensors["input"][0]
    found.holds("accumulator", np.einsum("oc,cyx->oyx", w, x)[None])
    assert len(found.text("o0.txt").split()) == 4 + 2


# ---- C --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t"]
)
@pytest.mark.parametrize("style", ["dec", None])
def test_typed_headers(kind: str, style: str | None, tmp_path: Path) -> None:
    """One code an entry, in the type's own numbers."""
    signed = kind.startswith("int")
    capture = layer()
    tensor, order = (
        ("weight", "oc ic kh kw -> | oc ic kh kw |") if signed else ("input", "n ic iy ix -> | n iy ix ic |")
    )
    keys = {"type": kind, "array": "my_codes"} | ({"style": style} if style else {})
    found = kept_c(capture, tmp_path, memory(tensor, order, file="codes.h", radix="c", **keys))
    text = found.text("codes.h")
    axes = capture.tensors[tensor] if signed else capture.tensors[tensor].transpose(0, 2, 3, 1)
    said, name, length, words = read_c(found.entry(tensor), text)
    assert (said, name, length) == (kind, "my_codes", axes.size)
    assert [word[0] for word in words] == axes.ravel().tolist()
    body = text[text.index("{") :]
    assert ("0x" in body) == (style is None)
    assert ("-8" in body) == (style == "dec" and signed)


def kept_c(capture: Capture, root: Path, *memories: str) -> Kept:
    found = Kept(capture, root, *memories)
    assert found.result.exit_code == 0, found.result.output
    found.judged = opened(found.folder)
    return found


def test_a_header_compiles_and_says_the_codes(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is on the PATH")
    capture = linear(np.arange(-128, 128).reshape(2, 128), np.zeros((1, 128)), {
        "weight": codes(8, True), "input": codes(8, True)}, bias=[-(2**31), 2**31 - 1], name="keys")  # fmt: skip
    keys = {"radix": "c", "style": "dec"}
    found = kept_c(
        capture,
        tmp_path,
        memory("weight", "oc ic kh kw -> | oc ic kh kw |", file="w.h", type="int8_t", array="w", **keys),
        memory("bias", "oc -> | oc |", file="b.h", type="int32_t", array="b", bits=32, **keys),
    )
    program = '#include <stdint.h>\n#include <stdio.h>\n#include "w.h"\n#include "b.h"\n'
    program += 'int main(void) { for (int i = 0; i < 256; i++) printf("%d ", w[i]);'
    program += ' printf("%ld %ld\\n", (long)b[0], (long)b[1]); return 0; }\n'
    (tmp_path / "p.c").write_text(program)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", found.folder]
    subprocess.run([compiler, *flags, tmp_path / "p.c", "-o", tmp_path / "p"], check=True)
    said = subprocess.run([tmp_path / "p"], check=True, capture_output=True, text=True).stdout.split()
    assert [int(v) for v in said] == [*range(-128, 128), -(2**31), 2**31 - 1]


# ---- the witness itself ---------------------------------------------------------------------------------------------


def test_steps_parameters_as_memories(tmp_path: Path) -> None:
    """A table of thresholds, a memory for each channel; multipliers beside the weights."""
    steps = [
        {"op": "multiply", "by": [3, -2], "name": "gain"},
        {"op": "threshold", "table": [[-90, 0, 90], [-9, 1, 5]], "first": -1, "name": "quant"},
    ]
    capture = layer().having(steps=steps)
    path = capture.write(tmp_path / "made.safetensors")
    layout = tmp_path / "l.toml"
    memories = [
        memory("weight", WEIGHT),
        memory("quant_table", "oc level -> oc | level |", file="t{oc}.txt", radix="dec"),
        memory("gain_by", "oc -> | | oc", radix="dec"),
        memory("quant", "n oc oy ox -> | n oy ox | oc", radix="dec"),
    ]
    layout.write_text('name = "l"\n' + "".join(memories))
    done = cli("dump", "--capture", path, "--layout", layout, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = opened(tmp_path / "out" / "keys")
    table: Ints = found.tensors["quant_table"]
    assert table.tolist() == steps[1]["table"]
    assert found.tensors["gain_by"].tolist() == [3, -2]
    assert (found.folder / "t1.txt").read_text() == "-9\n1\n5\n"
    assert dumped(capture, tmp_path / "again").output.tolist() == found.tensors["quant"].tolist()
