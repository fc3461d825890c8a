"""Text styles, typed C arrays, names and files that memories share; what each looks like, and that it comes back."""

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qexport import api
from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core import golden
from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError
from qexport.layout.formats.base import FileFault, WordSpec
from qexport.layout.formats.listings import C_TYPES, c_type_fault
from qexport.layout.formats.registry import format_of, style_faults, style_of
from qexport.layout.memory import Layout
from qexport.layout.toml import LayoutError, layout_text, load_layout, parse_layout
from tests.build.test_verify import reseal
from tests.conftest import cases, cli, fails, make_capture, one_memory_layout

APART = st.sampled_from([" ", "_", ",", ", ", "\t", " | ", ";"])
INT4, INT5 = IntFormat(4, True), IntFormat(5, True)


@st.composite
def styled(draw: st.DrawFn) -> tuple[str, Int64, WordSpec]:
    """A radix, words, and a style of theirs."""
    radix = draw(st.sampled_from(["hex", "bin", "dec"]))
    bits = draw(st.sampled_from([1, 3, 4, 8, 13, 63, 64]))
    fmt = IntFormat(bits, bits == 64 or draw(st.booleans()))
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 5)))
    elements = draw(hnp.arrays(np.int64, shape, elements=st.integers(fmt.low, fmt.high)))
    keys: dict[str, Any] = {
        "between": draw(st.none() | APART),
        "per_line": draw(st.integers(1, 4)),
        "word_between": draw(APART),
        "word_end": draw(st.just("") | APART),
        "newline": draw(st.sampled_from(["lf", "crlf"])),
        "group": draw(st.integers(0, 5)),
    }
    keys |= {"hex": {"case": draw(st.sampled_from(["lower", "upper"]))}, "dec": {"pad": draw(st.integers(0, 6))}}.get(
        radix, {}
    )
    header = tuple(draw(st.lists(st.sampled_from(["# one", "// two"]), max_size=2)))
    return radix, elements, WordSpec(shape[1], fmt, header, "m", style_of(radix, keys), total=len(elements))


@settings(max_examples=cases(300))
@given(styled(), st.data())
def test_a_styled_text_comes_back_whole_and_in_pieces(case: tuple[str, Int64, WordSpec], data: st.DataObject) -> None:
    radix, elements, spec = case
    format_ = format_of(radix, spec.style)
    whole = format_.write(elements, spec)
    np.testing.assert_array_equal(format_.read(whole, spec), elements)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(elements)), max_size=3)))
    spans = [span for span in zip([0, *cuts], [*cuts, len(elements)], strict=True) if span[0] < span[1]]
    assert whole == b"".join(format_.write(elements[a:b], spec.from_word(a)) for a, b in spans)
    file, lines = io.BytesIO(whole), format_.lines(whole, spec, len(elements))
    for start, stop in spans:
        before = whole.count(b"\n", 0, file.tell())
        piece = format_.take(file, stop - start, spec.from_word(start))
        np.testing.assert_array_equal(format_.read(piece, spec.from_word(start)), elements[start:stop])
        found = format_.lines(piece, spec.from_word(start), stop - start)
        np.testing.assert_array_equal(before + found, lines[start:stop])
    assert file.read() == b""


@settings(max_examples=cases(200))
@given(styled(), st.data())
def test_nothing_but_what_is_written_is_taken(case: tuple[str, Int64, WordSpec], data: st.DataObject) -> None:
    radix, elements, spec = case
    format_ = format_of(radix, spec.style)
    if format_ is format_of(radix, style_of(radix, {})):
        return  # plain texts are read with what people add
    written = format_.write(elements, spec)
    at = data.draw(st.integers(0, len(written) - 1))
    put = data.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b"01289afFxX+-_ ,\r\n\0\xff@/;")]))
    damaged = written[:at] + put + written[at + data.draw(st.integers(0, 1)) :]
    try:
        read = format_.read(damaged, spec)
    except FileFault as error:
        fault = error
    else:
        assert format_.write(read, spec) == damaged
        return
    lines = damaged.split(b"\n")
    assert damaged != written
    assert 1 <= fault.line <= len(lines)
    assert 0 <= fault.column <= len(lines[fault.line - 1])


WORDS = np.array([[1, -1], [7, -8], [0, 2], [3, 3], [-5, 4]])


@pytest.mark.parametrize(
    ("radix", "keys", "text"),
    [
        ("hex", {"between": " "}, b"1 f\n7 8\n0 2\n3 3\nb 4\n"),
        ("hex", {"between": "_", "case": "upper"}, b"1_F\n7_8\n0_2\n3_3\nB_4\n"),
        ("hex", {"per_line": 2}, b"1f 78\n02 33\nb4\n"),
        ("hex", {"per_line": 3, "word_between": ","}, b"1f,78,02\n33,b4\n"),
        ("hex", {"per_line": 2, "word_between": "", "word_end": ","}, b"1f,78,\n02,33,\nb4,\n"),
        ("hex", {"word_end": " ", "newline": "crlf"}, b"1f \r\n78 \r\n02 \r\n33 \r\nb4 \r\n"),
        ("hex", {"group": 2}, b"1f\n78\n\n02\n33\n\nb4\n"),
        ("hex", {"group": 5}, b"1f\n78\n02\n33\nb4\n"),
        ("hex", {"group": 4, "per_line": 3}, b"1f 78 02\n33\n\nb4\n"),
        ("bin", {"between": "_"}, b"0001_1111\n0111_1000\n0000_0010\n0011_0011\n1011_0100\n"),
        ("dec", {"between": ","}, b"1,-1\n7,-8\n0,2\n3,3\n-5,4\n"),
        ("dec", {"pad": 3}, b"  1  -1\n  7  -8\n  0   2\n  3   3\n -5   4\n"),
        (
            "dec", {"pad": 2, "between": ",", "per_line": 2, "word_between": " | "},
            b" 1,-1 |  7,-8\n 0, 2 |  3, 3\n-5, 4\n",
        ),
    ],
)  # fmt: skip
def test_words_as_they_stand(radix: str, keys: dict[str, Any], text: bytes) -> None:
    spec = WordSpec(2, INT4, (), "m", style_of(radix, keys))
    assert format_of(radix, spec.style).write(WORDS, spec) == text
    np.testing.assert_array_equal(format_of(radix, spec.style).read(text, spec), WORDS)


def test_with_something_between_each_lane_has_digits_of_its_own() -> None:
    spec = WordSpec(2, INT5, ("# two",), "m", style_of("hex", {"between": " ", "newline": "crlf"}))
    assert format_of("hex", spec.style).write(np.array([[-1, 15]]), spec) == b"# two\r\n1f 0f\r\n"
    assert format_of("hex", style_of("hex", {})).write(
        np.array([[-1, 15]]), replace(spec, style=style_of("hex", {}))
    ) == (b"# two\n3ef\n")


@pytest.mark.parametrize(
    ("radix", "keys", "marked", "message"),
    [
        ("hex", {"between": " "}, "1 f\n7 ^g\n", "'g' is not a hexadecimal number of this memory's style and width"),
        ("hex", {"between": " "}, "1 f\n7 ^F\n", "'F' is not a hexadecimal number"),
        ("hex", {"between": " "}, "1 f\n7^_8\n", "'_' where ' ' is due"),
        ("hex", {"between": " "}, "1 f^\r\n7 8\n", r"'\\r' where '\\n' is due"),
        ("hex", {"case": "upper"}, "1F\n^7f\n", "'7f' is not a hexadecimal number"),
        ("hex", {"per_line": 2}, "1f^\n78\n", r"'\\n' where ' ' is due"),
        ("hex", {"group": 1}, "1f\n^78\n", "'\\\\n7' where '\\\\n\\\\n' is due"),
        ("hex", {"newline": "crlf"}, "1f\r\n78^\n", "is due"),
        ("dec", {"pad": 3}, "  1  -1\n^ 7  -8\n", "' 7' is not a decimal number"),
        ("dec", {"pad": 3}, "  1  -1\n  7 ^ -9\n", "' -9' is not a decimal number"),
        ("dec", {"between": ","}, "1,-1\n^07,1\n", "'07' is not a decimal number"),
        ("bin", {"between": "_"}, "0001_1111\n0111_^0002\n", "'0002' is not a binary number"),
        ("hex", {"word_end": ","}, "1f,\n78^\n", r"'\\n' where ',\\n' is due"),
    ],
)  # fmt: skip
def test_a_place_that_is_not_as_written_is_found(radix: str, keys: dict[str, Any], marked: str, message: str) -> None:
    at = marked.index("^")
    text = marked.replace("^", "").encode()
    spec = WordSpec(2, INT4, (), "m", style_of(radix, keys), total=2)
    with pytest.raises(FileFault, match=message) as caught:
        format_of(radix, spec.style).read(text, spec)
    before = marked[:at]
    assert (caught.value.line, caught.value.column) == (before.count("\n") + 1, at - before.rfind("\n") - 1)
    assert caught.value.word is not None


@pytest.mark.parametrize(
    ("radix", "keys", "message"),
    [
        ("coe", {"per_line": 2}, "per_line: a file of radix 'coe' has none; take it out, or choose hex, bin, dec"),
        ("bin", {"case": "upper"}, "case: a file of radix 'bin' has none; take it out, or choose hex"),
        ("hex", {"pad": 3}, "pad: a file of radix 'hex' has none; take it out, or choose dec"),
        ("hex", {"type": "int8_t"}, "or choose c"),
        ("hex", {"case": "big"}, "unknown case 'big'; choose one of lower, upper"),
        ("hex", {"newline": "cr"}, "unknown newline 'cr'"),
        ("hex", {"per_line": 0}, "per_line: 0 is outside 1.."),
        ("hex", {"group": -1}, "group: -1 is outside 0.."),
        ("hex", {"between": "-"}, "between: '-' must be"),
        ("hex", {"between": "f_"}, "must be up to 16 blanks and signs"),
        ("hex", {"word_end": "f"}, "word_end: 'f' must be"),
        ("hex", {"word_between": ""}, "word_between: is empty"),
        ("dec", {"between": ""}, "between: is empty"),
        ("c", {"type": "int9_t"}, "unknown type 'int9_t'; choose one of int8_t, uint8_t"),
        ("c", {"style": "oct"}, "unknown style 'oct'"),
        ("c", {"array": "my array"}, "array: 'my array' is not a name that C takes"),
        ("c", {"array": "while"}, "array: 'while' is not a name"),
    ],
)  # fmt: skip
def test_a_style_that_cannot_be_is_refused_at_its_key(radix: str, keys: dict[str, Any], message: str) -> None:
    [(key, text)] = style_faults(radix, keys)
    assert (key, message in text) == (next(iter(keys)), True), text
    if "array" not in keys:
        with pytest.raises(LayoutError) as caught:
            one_memory_layout("oc ic kh kw -> | oc ic kh | kw", radix=radix, **keys)
        assert caught.value.message == text
        assert caught.value.source.startswith(key)


# --- in sets --------------------------------------------------------------------------------------------------------

STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "lanes apart": ("hex", {"between": " ", "case": "upper"}),
    "eight a line": ("hex", {"per_line": 8, "word_between": ",", "word_end": " "}),
    "groups": ("bin", {"group": 7, "per_line": 4, "newline": "crlf", "header": ["# one"]}),
    "columns": ("dec", {"pad": 4, "per_line": 3, "between": ","}),
}


@pytest.mark.parametrize("size", [1, golden.PART_ELEMENTS])
@pytest.mark.parametrize("name", STYLES)
def test_a_styled_memory_is_written_image_by_image_and_verified(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radix, keys = STYLES[name]
    capture = make_capture(images=3, in_channels=5, plane=(3, 3))
    layout = one_memory_layout(
        "n (it row) iy ix -> | n it iy ix | ~row", "input", radix=radix, array={"row": 2}, **keys
    )
    with monkeypatch.context() as patch:
        patch.setattr(golden, "PART_ELEMENTS", size)
        folder = dump(capture, layout, tmp_path).folder
        assert verify(folder).ok
    whole = dump(capture, layout, tmp_path / "whole").folder
    assert (folder / "m.txt").read_bytes() == (whole / "m.txt").read_bytes()
    np.testing.assert_array_equal(api.open(folder)["input"], capture.input)
    [entry] = json.loads((folder / "manifest.json").read_text())["memories"]
    assert {key: entry[key] for key in keys} == keys
    others = {"between", "per_line", "word_between", "word_end", "case", "pad", "newline", "group", "first", "follows"}
    assert not (others - keys.keys()) & entry.keys()


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_changed_word_of_a_styled_memory_is_found_in_its_place(name: str, sealed: bool, tmp_path: Path) -> None:
    radix, keys = STYLES[name]
    capture = make_capture(images=2, in_channels=4, plane=(3, 3))
    codes = capture.input.copy()
    codes[-1, 0, 2, 2] ^= 1
    other = replace(capture, input=codes)
    layout = one_memory_layout("n ic iy ix -> | n iy ix | ic", "input", radix=radix, **keys)
    folder, changed = (dump(one, layout, tmp_path / at).folder for one, at in ((capture, "a"), (other, "b")))
    (folder / "m.txt").write_bytes((changed / "m.txt").read_bytes())
    if sealed:
        reseal(folder)
    [fault] = verify(folder).faults
    assert (fault.lane, fault.index) == (0, {"n": 1, "ic": 0, "iy": 2, "ix": 2})
    shown = json.loads(cli("show", folder, f"m.txt:{fault.line}", "--json").stdout)["words"]
    per_line = keys.get("per_line", 1)
    assert 1 <= len(shown) <= per_line
    assert shown[-1]["lanes"][0]["stored"] == other.input[-1, 0, 2, 2]


@pytest.mark.parametrize("name", STYLES)
def test_no_bench_loads_words_that_are_set_in_another_way(name: str, tmp_path: Path) -> None:
    radix, keys = STYLES[name]
    styled_memory = one_memory_layout("n ic iy ix -> | n iy ix | ic", "input", radix=radix, **keys)
    plain = one_memory_layout("oc ic kh kw -> | oc ic kh kw |", name="w", file="w.txt")
    layout = replace(plain, memories=plain.memories + styled_memory.memories)
    folder = dump(make_capture(), layout, tmp_path).folder
    stub = (folder / "stub_features_33.sv").read_text()
    assert "load_w(" in stub
    assert "load_m(" not in stub
    assert f"// m is not loaded: m.txt has the format {radix}, for programs that read words set like this." in stub


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (1, ["w1_1.txt", "w1_2.txt", "w2_1.txt", "w2_2.txt"]),
        ({"kij": 1}, ["w0_1.txt", "w0_2.txt", "w1_1.txt", "w1_2.txt"]),
        ({"ot": 7, "kij": 0}, ["w7_0.txt", "w7_1.txt", "w8_0.txt", "w8_1.txt"]),
    ],
)
def test_file_indices_in_names_start_from_first(first: Any, names: list[str], tmp_path: Path) -> None:
    text = (
        'name = "x"\n[array]\ncol = 4\n[[memory]]\nname = "m"\ntensor = "weight"\nradix = "hex"\n'
        'order = "(ot col) ic kh kw -> ot kij:(kh kw) | ic | col"\nfile = "w{ot}_{kij}.txt"\n'
        f"first = {first if isinstance(first, int) else json.dumps(first).replace(':', ' =')}\n"
    )
    text = text.replace('{"', "{").replace('" =', " =").replace(', "', ", ")
    capture = make_capture(kernel=(1, 2))
    folder = dump(capture, parse_layout(text, "my.toml"), tmp_path).folder
    [entry] = json.loads((folder / "manifest.json").read_text())["memories"]
    assert entry["first"] == first
    assert [file["path"] for file in entry["files"]] == names
    assert [file["index"]["ot"] for file in entry["files"]] == [0, 0, 1, 1]
    np.testing.assert_array_equal(api.open(folder)["weight"], capture.weight)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("first = -1", "first: -1 is not a whole number from 0"),
        ("first = {kij = true}", "first: True is not a whole number"),
        ("first = {ic = 1}", "first: 'ic' is not a file axis of the order"),
        ('first = "1"', "first: '1' is not a whole number"),
    ],
)
def test_a_first_that_cannot_be_is_refused(line: str, message: str) -> None:
    text = (
        'name = "x"\n[[memory]]\nname = "m"\ntensor = "weight"\nradix = "hex"\n'
        f'order = "oc ic kh kw -> kij:(kh kw) | oc ic |"\nfile = "w{{kij}}.txt"\n{line}\n'
    )
    with pytest.raises(LayoutError, match=re.escape(message)):
        parse_layout(text, "my.toml")


def test_a_file_name_may_leave_out_a_file_axis_of_size_1(tmp_path: Path) -> None:
    layout = one_memory_layout("n (it row) iy ix -> it n | iy ix | row", "input", file="m{n}.txt", array={"row": 8})
    folder = dump(make_capture(in_channels=8), layout, tmp_path).folder
    assert verify(folder).ok
    assert {path.name for path in folder.glob("m*.txt")} == {"m0.txt", "m1.txt"}
    with pytest.raises(QexportError, match=r"two files of the set would be named 'm0\.txt'"):
        dump(make_capture(in_channels=9), layout, tmp_path / "more")


def test_a_size_that_no_order_uses_is_a_warning(tmp_path: Path) -> None:
    text = (
        'name = "x"\n[array]\ncol = 4\nrow = 8\n[[memory]]\nname = "m"\ntensor = "weight"\nradix = "hex"\n'
        'order = "(ot col) ic kh kw -> | ot ic kh kw | col"\nfile = "w.txt"\n'
    )
    path, capture = tmp_path / "my.toml", tmp_path / "c.safetensors"
    path.write_text(text)
    capture.write_bytes(make_capture().to_bytes())
    checked = cli("layout", "check", path)
    assert checked.exit_code == 0
    assert checked.stdout.splitlines() == [
        f"{path}: ok", f"{path}:4:1: warning: array: no order has an axis 'row'; take it out or use it",
        "    row = 8", "    ^",
    ]  # fmt: skip
    found = json.loads(cli("layout", "check", path, "--json").stdout)
    assert (found["ok"], found["errors"], found["warnings"][0]["line"]) == (True, [], 4)
    dumped = cli("dump", "--capture", capture, "--layout", path, "--out", tmp_path / "out")
    assert dumped.exit_code == 0
    assert f"qexport: warning: layout {path}:4:1: array: no order has an axis 'row'" in dumped.stderr
    assert verify(tmp_path / "out" / "features_33").ok


# --- files that memories share --------------------------------------------------------------------------------------

SHARED = """\
name = "shared"

[array]
row = 4

[[memory]]
name   = "weight"
tensor = "weight"
order  = "oc (it row) kh kw -> it | oc kh kw | ~row"
file   = "m{it}.txt"
radix  = "RADIX"
STYLE

[[memory]]
name    = "bias"
tensor  = "bias"
order   = "oc -> it | oc |"
follows = "weight"
optional = true

[[memory]]
name    = "input"
tensor  = "input"
order   = "n (it row) iy ix -> it | n iy ix | ~row"
follows = "bias"
"""


def shared_layout(radix: str, style: str) -> Layout:
    text = SHARED.replace("RADIX", radix).replace("STYLE", style).replace("row = 4", "row = 4\nit = 2")
    return parse_layout(text, "my.toml")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, golden.PART_ELEMENTS])
@pytest.mark.parametrize(
    ("radix", "style"),
    [
        ("hex", ""),
        ("hex", 'header = ["# all"]'),
        ("bin", 'per_line = 5\nheader = ["# all"]'),
        ("dec", ""),
        ("dec", 'pad = 4\nper_line = 7\ngroup = 11\nbetween = ","'),
        ("hex", 'group = 10\nword_end = ";"\nnewline = "crlf"\nfirst = 1'),
        ("raw_le", ""),
    ],
)
def test_memories_that_share_files_stand_behind_each_other(
    radix: str, style: str, size: int, bias: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = make_capture(images=3, bias=bias, plane=(3, 2))
    with monkeypatch.context() as patch:
        patch.setattr(golden, "PART_ELEMENTS", size)
        folder = dump(capture, shared_layout(radix, style), tmp_path).folder
        assert verify(folder).ok, verify(folder)
    found = api.open(folder)
    for name in ("weight", "input", *(["bias"] if bias else [])):
        np.testing.assert_array_equal(found[name], getattr(capture, name))
    entries = json.loads((folder / "manifest.json").read_text())["memories"]
    words = [72, *([8] if bias else []), 18]
    assert [[file.get("first_word", 0) for file in entry["files"]] for entry in entries] == [
        [sum(words[:at])] * 2 for at in range(len(words))
    ]
    assert [entry.get("follows") for entry in entries] == [
        None,
        *(["weight"] if bias else []),
        "bias" if bias else "weight",
    ]
    if radix == "hex" and not style:
        alone = {m.name: one_memory_layout(m.order.text, m.tensor, file="m{it}.txt", array={"row": 4, "it": 2})
                 for m in shared_layout(radix, style).memories if m.name != "bias" or bias}  # fmt: skip
        parts = [
            (dump(capture, layout, tmp_path / name).folder / "m1.txt").read_bytes() for name, layout in alone.items()
        ]
        assert (folder / "m1.txt").read_bytes() == b"".join(parts)
    if radix == "bin":
        assert (folder / "m0.txt").read_text().count("# all") == 1


@pytest.mark.parametrize("bias", [True, False])
def test_the_next_memory_begins_the_file_of_one_that_the_layer_lacks(bias: bool, tmp_path: Path) -> None:
    """Two memories follow the first one; they stand in their order."""
    order = {
        "bias": "oc -> | oc |",
        "weight": "oc ic kh kw -> | oc ic kh kw |",
        "input": "n ic iy ix -> | n ic iy ix |",
    }
    keys = {name: f'name = "{name}"\ntensor = "{name}"\norder = "{text}"\n' for name, text in order.items()}
    text = (
        f'name = "x"\n[[memory]]\n{keys["bias"]}file = "all.txt"\nradix = "dec"\nheader = ["# all"]\noptional = true\n'
        f'[[memory]]\n{keys["weight"]}follows = "bias"\n[[memory]]\n{keys["input"]}follows = "bias"\n'
    )
    capture = make_capture(bias=bias)
    folder = dump(capture, parse_layout(text, "x.toml"), tmp_path).folder
    assert verify(folder).ok
    tensors = [capture.bias, capture.weight, capture.input]
    codes = [code for tensor in tensors if tensor is not None for code in tensor.ravel().tolist()]
    assert (folder / "all.txt").read_text() == "# all\n" + "".join(f"{code}\n" for code in codes)
    entries = json.loads((folder / "manifest.json").read_text())["memories"]
    given = [("bias", None), ("weight", "bias"), ("input", "bias")] if bias else [("weight", None), ("input", "weight")]
    assert [(entry["name"], entry.get("follows")) for entry in entries] == given
    assert [bool(entry["header"]) for entry in entries] == [True, *[False] * (len(entries) - 1)]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("radix", "style"), [("hex", ""), ("dec", "per_line = 5"), ("raw_be", "")])
def test_a_changed_word_of_a_memory_that_follows_is_found(radix: str, style: str, sealed: bool, tmp_path: Path) -> None:
    capture = make_capture(images=2, bias=True, plane=(3, 2))
    codes = capture.input.copy()
    codes[1, 5, 2, 0] ^= 1
    other = replace(capture, input=codes)
    layout = shared_layout(radix, style)
    folder, changed = (dump(one, layout, tmp_path / at).folder for one, at in ((capture, "a"), (other, "b")))
    (folder / "m1.txt").write_bytes((changed / "m1.txt").read_bytes())
    if sealed:
        reseal(folder)
    [fault] = verify(folder).faults
    assert (fault.file, fault.lane, fault.index) == ("m1.txt", 2, {"n": 1, "ic": 5, "iy": 2, "ix": 0})
    shown = json.loads(cli("show", folder, f"m1.txt:{fault.line}", "--json").stdout)["words"]
    assert any(word["memory"] == "input" and word["lanes"][2]["stored"] == other.input[1, 5, 2, 0] for word in shown)


@pytest.mark.parametrize(
    "damage", [lambda lines: lines[:-1], lambda lines: [*lines, lines[-1]], lambda lines: lines[1:]]
)
def test_words_too_few_and_too_many_of_a_shared_file_are_found(damage: Any, tmp_path: Path) -> None:
    folder = dump(make_capture(bias=True, plane=(3, 2)), shared_layout("hex", ""), tmp_path).folder
    lines = (folder / "m0.txt").read_text().splitlines(keepends=True)
    (folder / "m0.txt").write_text("".join(damage(lines)))
    assert {fault.file for fault in verify(folder).faults} == {"m0.txt"}
    reseal(folder)
    assert {fault.file for fault in verify(folder).faults} == {"m0.txt"}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("weight", 'between = " "'), ("input", "per_line = 2"), ("relu", 'case = "upper"'), ("relu", 'skew = "col"'),
        ("accumulator", 'word_end = ","'), ("weight", "group = 9"),
    ],
)  # fmt: skip
def test_the_bench_has_the_words_of_a_memory_that_is_set_in_another_way(name: str, keys: str, tmp_path: Path) -> None:
    text = layout_text("default").replace(f'file   = "{name}.hex"', f'file   = "{name}.hex"\n{keys}')
    folder = dump(make_capture(bias=True), parse_layout(text, "my.toml"), tmp_path / "my").folder
    assert (folder / "tb_features_33.sv").exists()
    beside = folder / f"{name}.hex.hex"
    assert beside.exists() != keys.startswith("skew")
    if beside.exists():
        plain = dump(make_capture(bias=True), load_layout("default"), tmp_path / "plain").folder
        assert beside.read_bytes() == (plain / f"{name}.hex").read_bytes()
        assert f" {name}.hex.hex\n" in (folder / "checks.txt").read_text()
        beside.write_bytes(beside.read_bytes().replace(b"0", b"1", 1))
        assert [fault.file for fault in verify(folder).faults] == [beside.name]


def test_the_bench_has_the_words_of_memories_that_share_a_file(tmp_path: Path) -> None:
    more = (
        '[[memory]]\nname = "more"\ntensor = "weight"\norder = "oc ic kh kw -> | oc ic kh kw |"\nfollows = "weight"\n'
    )
    layout = parse_layout(layout_text("default") + more, "my.toml")
    folder = dump(make_capture(), layout, tmp_path / "my").folder
    assert verify(folder).ok
    plain = dump(make_capture(), load_layout("default"), tmp_path / "plain").folder
    assert (folder / "weight.hex.weight.hex").read_bytes() == (plain / "weight.hex").read_bytes()
    assert (folder / "weight.hex.more.hex").read_text().count("\n") == make_capture().weight.size


def test_no_bench_loads_a_file_that_memories_share(tmp_path: Path) -> None:
    folder = dump(make_capture(bias=True), shared_layout("hex", ""), tmp_path).folder
    assert not (folder / "stub_features_33.sv").exists()  # there is nothing that Verilog could load


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('follows = "weight"', 'follows = "wieght"', "follows: no memory 'wieght' stands before this one"),
        ('follows = "bias"', 'follows = "input"', "follows: no memory 'input' stands before this one"),
        ('follows = "bias"', 'follows = "bias"\nheader = ["x"]', "header: the file has that of 'bias'"),
        ('follows = "bias"', 'follows = "bias"\nfile = "n{it}.txt"', "file: it follows 'bias', whose"),
        ('follows = "bias"', 'follows = "bias"\nradix = "bin"', "radix: it follows 'bias', whose"),
        ('follows = "bias"', 'follows = "bias"\nper_line = 2', "per_line: it follows 'bias', whose"),
        ('order   = "oc -> it | oc |"', 'order   = "oc -> | it oc |"', "follows: 'weight' has other file axes"),
        ('radix  = "hex"', 'radix  = "mif"', "follows: a file of radix 'mif' holds one memory; choose hex, bin"),
    ],
)  # fmt: skip
def test_memories_that_cannot_share_files_are_refused(old: str, new: str, message: str) -> None:
    text = SHARED.replace("RADIX", "hex").replace("STYLE", "").replace("row = 4", "row = 4\nit = 2")
    with pytest.raises(LayoutError) as caught:
        parse_layout(text.replace(old, new), "my.toml")
    assert message in str(caught.value)


def test_memories_of_other_files_are_refused_when_the_layer_is_known(tmp_path: Path) -> None:
    text = SHARED.replace("RADIX", "hex").replace("STYLE", "").replace("row = 4", "row = 4\nit = 3")
    text = text.replace("oc (it row) kh kw ->", "oc (ict row) kh kw -> oc (ict)=(it) row kh kw ->").replace(
        "it = 3", "it = 2"
    )
    text = text.replace('"oc -> it | oc |"', '"oc -> (oc)=(it x) -> it | x |"')
    (tmp_path / "x.toml").write_text(text)
    capture = tmp_path / "c.safetensors"
    capture.write_bytes(make_capture(in_channels=8, bias=True).to_bytes())
    assert cli("dump", "--capture", capture, "--layout", tmp_path / "x.toml", "--out", tmp_path / "o").exit_code == 0


# --- C --------------------------------------------------------------------------------------------------------------


@settings(max_examples=cases(150))
@given(st.data(), st.sampled_from(sorted(C_TYPES)), st.sampled_from(["hex", "dec"]))
def test_a_typed_array_comes_back(data: st.DataObject, kind: str, style: str) -> None:
    fmt = IntFormat(data.draw(st.integers(1, 20)), data.draw(st.booleans()))
    spec = WordSpec(data.draw(st.integers(1, 4)), fmt, (), "m", style_of("c", {"type": kind, "style": style}))
    if c_type_fault(spec) or spec.word_bits > 64:
        return
    codes = st.integers(fmt.low, fmt.high)
    elements = data.draw(hnp.arrays(np.int64, (data.draw(st.integers(1, 9)), spec.lanes), elements=codes))
    format_ = format_of("c", spec.style)
    np.testing.assert_array_equal(format_.read(format_.write(elements, spec), spec), elements)


@pytest.mark.parametrize(
    ("keys", "fmt", "numbers"),
    [
        ({"type": "int8_t", "style": "dec"}, IntFormat(8, True), ["1", "-1", "7", "-8"]),
        ({"type": "int8_t"}, IntFormat(8, True), ["0x01", "-0x01", "0x07", "-0x08"]),
        ({"type": "uint8_t", "style": "dec"}, IntFormat(8, True), ["1", "255", "7", "248"]),
        ({"type": "int32_t", "style": "dec", "array": "bias"}, IntFormat(24, True), ["1", "-1", "7", "-8"]),
        ({"style": "dec"}, IntFormat(5, True), ["1", "31", "7", "24"]),
    ],
)
def test_numbers_of_a_typed_array(keys: dict[str, str], fmt: IntFormat, numbers: list[str]) -> None:
    spec = WordSpec(1, fmt, (), "w", style_of("c", keys))
    text = format_of("c", spec.style).write(np.array([[1], [-1], [7], [-8]]), spec).decode()
    kind, name = keys.get("type", "uint8_t"), keys.get("array", "w_mem")
    assert f"static const {kind} {name}[4] = {{\n" in text
    assert re.findall(r"    (.*),", text) == numbers


@pytest.mark.parametrize(
    ("kind", "lanes", "fmt", "why"),
    [
        ("int8_t", 1, IntFormat(9, True), "int8_t does not hold the 9 bits of a word"),
        ("int8_t", 1, IntFormat(8, False), "int8_t does not hold 8 unsigned bits"),
        ("uint16_t", 3, IntFormat(8, True), "uint16_t does not hold the 24 bits of a word"),
    ],
)
def test_words_that_the_type_does_not_hold_are_refused(
    kind: str, lanes: int, fmt: IntFormat, why: str, tmp_path: Path
) -> None:
    assert c_type_fault(WordSpec(lanes, fmt, (), "m", style_of("c", {"type": kind}))) == why
    order = "oc (it row) kh kw -> | oc it kh kw | row"
    layout = one_memory_layout(order, radix="c", array={"row": lanes}, bits=fmt.bits, signed=fmt.signed, type=kind,
                               overflow="wrap")  # fmt: skip
    with pytest.raises(QexportError, match=f"memory 'm': type {why}; choose a wider type or leave it out"):
        dump(make_capture(), layout, tmp_path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not on the PATH")
@pytest.mark.parametrize("style", ["hex", "dec"])
@pytest.mark.parametrize("compiler", [["gcc", "-xc"], ["g++", "-xc++"]])
def test_a_compiler_takes_a_typed_array_without_a_warning(style: str, compiler: list[str], tmp_path: Path) -> None:
    capture = make_capture(weight_bits=8)
    keys = f'type = "int8_t"\nstyle = "{style}"\narray = "weights"'
    layout = parse_layout(
        'name = "x"\n[[memory]]\nname = "w"\ntensor = "weight"\norder = "oc ic kh kw -> | oc kh kw ic |"\n'
        f'file = "w.h"\nradix = "c"\n{keys}\n', "my.toml"
    )  # fmt: skip
    folder = dump(capture, layout, tmp_path).folder
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "w.h"\nint main(void) {\n'
        '  for (unsigned i = 0; i < sizeof weights; i++) printf("%d\\n", (int)weights[i]);\n  return 0;\n}\n'
    )
    build = [
        *compiler,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-I",
        folder,
        tmp_path / "main.c",
        "-o",
        tmp_path / "a",
    ]
    subprocess.run(build, check=True)
    printed = subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True).stdout.split()
    assert list(map(int, printed)) == capture.weight.transpose(0, 2, 3, 1).ravel().tolist()


def test_a_manifest_with_a_style_that_cannot_be_is_refused(tmp_path: Path) -> None:
    layout = one_memory_layout("oc ic kh kw -> | oc ic kh kw |", radix="hex", per_line=2)
    folder = dump(make_capture(), layout, tmp_path).folder
    document = json.loads((folder / "manifest.json").read_text())
    document["memories"][0]["per_line"] = 0
    (folder / "manifest.json").write_text(json.dumps(document))
    (folder / "SHA256SUMS").unlink()
    fails(cli("show", folder, "m.txt:1"), "memory 'm': per_line: 0 is outside 1..")


def test_layout_show_says_how_words_are_set_and_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'name = "x"\n[[memory]]\nname = "m"\ntensor = "input"\norder = "n ic iy ix -> n | iy ix | ic"\nradix = "hex"\n'
        'file = "m{n}.txt"\nfirst = 1\nskew = "ic"\nper_line = 4\n'
    )
    shown = cli("layout", "show", tmp_path / "x.toml")
    assert shown.stdout.splitlines()[1:3] == ["m1.txt, hex, words a file: 44", "first = 1, skew = 'ic', per_line = 4"]
    [drawn] = json.loads(cli("layout", "show", tmp_path / "x.toml", "--json").stdout)["memories"]
    assert (drawn["first"], drawn["skew"], drawn["per_line"]) == (1, "ic", 4)
    assert drawn["first_words"][0][1:] == [None] * 7
