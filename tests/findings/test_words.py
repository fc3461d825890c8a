"""What a design gave is read from the bench's files, from hand-made ones and from waves; what cannot be is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport.core.golden import Golden
from qexport.errors import QexportError
from qexport.findings.words import Actual, read_actual
from qexport.layout.formats.registry import FORMATS
from qexport.layout.toml import parse_layout
from qexport.sets.manifest import read_manifest
from tests.conftest import cases, checked_dump, make_capture, one_memory_layout

SetOf = Callable[[str], Path]


def golden(tensor: str) -> np.ndarray:
    """What the default capture gives, (words, lanes) in the order of the layout 'default'."""
    values = Golden(make_capture(), 8).values(tensor)
    return np.moveaxis(values, 1, -1).reshape(-1, 8)[:, ::-1]


def same(actual: Actual, tensor: str = "relu") -> None:
    assert np.array_equal(actual.values, golden(tensor))
    assert actual.known.all()
    assert (actual.missing, actual.extra) == (0, 0)


def relu_lines(folder: Path) -> list[str]:
    return (folder / "relu.hex").read_text().split()


def in_lanes(line: str) -> list[int]:
    """The eight signed 16-bit values of a line."""
    return [(int(line[at : at + 4], 16) ^ 0x8000) - 0x8000 for at in range(0, 32, 4)]


# How people write the same words, and what the reader remarks.
SPELLINGS: dict[str, tuple[Callable[[list[str]], str | bytes], str]] = {
    "Windows line ends": (lambda ls: "".join(f"{line}\r\n" for line in ls), ""),
    "upper case": (lambda ls: "\n".join(ls).upper(), ""),
    "a byte-order mark and blank lines": (lambda ls: "\ufeff\n" + "\n\n".join(ls) + "\n\n", ""),
    "UTF-16 of PowerShell": (lambda ls: "\r\n".join(ls).encode("utf-16"), ""),
    "prefixes": (lambda ls: "".join(f"0x{line},\n" for line in ls), ""),
    "Verilog prefixes": (lambda ls: "".join(f"128'h{line};\n" for line in ls), ""),
    "underscores": (lambda ls: "".join(f"{line[:16]}_{line[16:]}\n" for line in ls), ""),
    "comments": (lambda ls: "/* a\nb */\n" + "".join(f"{line} // word {n}\n" for n, line in enumerate(ls)), ""),
    "another header": (lambda ls: "#time0col7[msb-lsb]#\n#....#\nout of my_core\n" + "\n".join(ls), ""),
    "addresses": (lambda ls: "@00000004\n" + "\n".join(ls[4:]) + "\n@0\n" + "\n".join(ls[:4]), ""),
    "all in one line": (lambda ls: " ".join(ls), ""),
    "a number for each lane": (
        lambda ls: "".join(" ".join(line[at : at + 4] for at in range(0, 32, 4)) + "\n" for line in ls), "",
    ),
    "no leading zeros": (lambda ls: "".join(f"{int(line, 16):x}\n" for line in ls), "leading zeros"),
    "binary": (lambda ls: "".join(f"{int(line, 16):0128b}\n" for line in ls), "read as binary"),
    "decimal": (lambda ls: "".join(" ".join(map(str, in_lanes(line))) + "\n" for line in ls), "read as decimal"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_words_in_other_spellings(spelling: str, set_of: SetOf, tmp_path: Path) -> None:
    spell, remark = SPELLINGS[spelling]
    text = spell(relu_lines(set_of("default")))
    file = tmp_path / "my_relu_out.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    actual = read_actual(set_of("default"), file)
    same(actual)
    assert actual.memory.name == "relu"
    assert (remark in " ".join(actual.notes)) if remark else actual.notes == ()


def test_too_few_and_too_many_words_are_counted(set_of: SetOf, tmp_path: Path) -> None:
    lines, file = relu_lines(set_of("default")), tmp_path / "relu.hex"
    file.write_text("\n".join(lines[:-3]))
    actual = read_actual(set_of("default"), file)
    assert (actual.missing, actual.extra) == (3, 0)
    assert actual.known.all(axis=1).tolist() == [True] * (len(lines) - 3) + [False] * 3
    assert not actual.values[-3:].any()
    file.write_text("\n".join(lines + lines[:5]))
    actual = read_actual(set_of("default"), file)
    assert (actual.missing, actual.extra) == (0, 5)
    assert np.array_equal(actual.values, golden("relu"))


@pytest.fixture(scope="module")
def odd_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of 8 x 15 bits, so that hexadecimal digits lie across lanes."""
    layout = one_memory_layout("n (ot col) oy ox -> | n ot oy ox | ~col", "relu", bits=15, file="m.hex")
    return checked_dump(make_capture(), layout, tmp_path_factory.mktemp("odd"))


@settings(max_examples=cases(40))
@given(data=st.data())
def test_lanes_with_x_and_z_digits_are_not_known(odd_set: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([1, 4]))
    lines = (odd_set / "m.hex").read_text().split()
    rows = [f"{int(line, 16):0120b}" for line in lines] if bits == 1 else list(lines)
    word, place = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 120 // bits - 1))
    rows[word] = rows[word][:place] + data.draw(st.sampled_from("xXzZ")) + rows[word][place + 1 :]
    file = tmp_path_factory.mktemp("x") / "m.hex"
    file.write_text("\n".join(rows) + "\n")
    actual = read_actual(odd_set, file)
    want, known = golden("relu").copy(), np.ones((32, 8), bool)
    for lane in {bit // 15 for bit in range(place * bits, (place + 1) * bits)}:
        known[word, lane], want[word, lane] = False, 0
    assert np.array_equal(actual.known, known)
    assert np.array_equal(actual.values, want)


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", r"is empty"),
    "only comments": ("// nothing\n\n", r"holds no words"),
    "only addresses": ("@0\n", r"holds addresses but no words"),
    "binary file": (b"\x7fELF\x00\x01", r"binary file"),
    "huge line": ("0" * 10_000_000, r":1: a word of 10000000 hexadecimal digits .* 32 \(128 bits\)"),
    "numbers with a point": ("1.5 2.0 3.0 4.0\n" * 32, r":1: '1.5' is not a word"),
    "narrower words": ("0020002e\n" * 32, r":1: a word of 8 hexadecimal digits \(32 bits\);.* 32 \(128 bits\)"),
    "one digit too many": ("0" * 32 + "\n" + "0" * 33 + "\n", r":2: a word of 33 .* 'relu' has 32 \(128 bits\)"),
    "one digit too few": (("0" * 32 + "\n") * 3 + "0" * 31 + "\n", r":4: a word of 31 .*has 32 \(128 bits\)"),
    "junk digit": ("0" * 31 + "g\n", r":1: '0000.*\(32 characters\)' is not a word"),
    "junk line": ("0" * 32 + "\nVCD info: dumpfile\n", r":2: 'vcd' is not a word"),
    "too wide number": ("1 2 3 4 5 6 7 70000\n", r":1: 8 numbers"),
    "address and word": ("@0 " + "0" * 32 + "\n", r":1: '@0' is an address"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_named(fault: str, set_of: SetOf, tmp_path: Path) -> None:
    content, message = FAULTS[fault]
    file = tmp_path / "relu.hex"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(QexportError, match=message) as error:
        read_actual(set_of("default"), file)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert str(file) in str(error.value)


def test_the_memory_is_guessed_and_an_ambiguous_one_asked_for(set_of: SetOf, tmp_path: Path) -> None:
    folder, file = set_of("default"), tmp_path / "out.txt"
    file.write_bytes((folder / "psum.hex").read_bytes())
    assert read_actual(folder, file).memory.name == "psum"
    file.write_bytes((folder / "relu.hex").read_bytes())
    with pytest.raises(QexportError, match=r"out.txt may be accumulator, relu; choose one with --memory"):
        read_actual(folder, file)
    same(read_actual(folder, file, "relu"))
    same(read_actual(folder, folder, "relu"))  # of a folder, such as that of simulate --keep
    with pytest.raises(QexportError, match=r"has files of psum, accumulator, relu; choose one with --memory"):
        read_actual(folder, folder)
    with pytest.raises(QexportError, match=r"no memory 'rule'; it has relu, weight"):
        read_actual(folder, file, "rule")
    with pytest.raises(QexportError, match=r"has no file of the set's results, such as psum.hex.*; it holds out.txt;"):
        read_actual(folder, tmp_path)
    with pytest.raises(QexportError, match=r"nothing.hex does not exist"):
        read_actual(folder, tmp_path / "nothing.hex")
    for content, fault in ((b"", "is empty"), (b"\0", "is a binary file"), (b"//\n", "no words"), (b"a.b\n", "'a.b'")):
        file.write_bytes(content)  # is the same whatever the memory
        with pytest.raises(QexportError, match=fault):
            read_actual(folder, file)
    file.write_text("".join(f"{line}\n" for line in relu_lines(folder)[:7]))  # a file of another set
    with pytest.raises(QexportError, match=r"out.txt, 7 words, fits no memory of the set \(psum 648 x 128 bits, "):
        read_actual(folder, file)


def test_a_memory_of_several_files(set_of: SetOf, tmp_path: Path) -> None:
    folder = set_of("ws8x8")
    [entry] = [m for m in read_manifest(folder).memories if m.name == "psum"]
    paths = [folder / file.path for file in entry.files]
    whole = read_actual(folder, folder, "psum")
    assert whole.known.all()
    assert len(whole.values) == 9 * entry.files[0].words
    assert np.array_equal(
        whole.values[: entry.files[0].words], read_actual(folder, paths[:1]).values[: entry.files[0].words]
    )
    for order in (paths, paths[::-1]):  # each file has the place of its name
        assert np.array_equal(read_actual(folder, order).values, whole.values)
    some = read_actual(folder, [paths[4], paths[2]])
    words = entry.files[0].words
    assert some.missing == 7 * words
    assert some.notes == ("2 of the memory's 9 files were given",)
    assert some.known.reshape(9, -1).all(axis=1).tolist() == [number in (2, 4) for number in range(9)]
    other = []
    for number, path in enumerate(paths):  # other names stand in order, and one file may hold all words
        other.append(tmp_path / f"tap_{number}.txt")
        other[-1].write_bytes(path.read_bytes())
    assert np.array_equal(read_actual(folder, other, "psum").values, whole.values)
    together = tmp_path / "all.txt"
    together.write_text("".join(path.read_text().split("#\n")[-1] for path in paths))
    assert np.array_equal(read_actual(folder, together, "psum").values, whole.values)
    with pytest.raises(QexportError, match=r"4 files for memory 'psum', which has 9"):
        read_actual(folder, other[:4], "psum")


@pytest.mark.parametrize("radix", FORMATS)
def test_files_of_every_format(radix: str, tmp_path: Path) -> None:
    """In the set's own format, and as a bench writes the words, whatever that format is."""
    layout = parse_layout(
        f'name = "one"\n[array]\ncol = 2\n[[memory]]\nname = "m"\ntensor = "relu"\nfile = "m.{radix}"\n'
        f'order = "n (ot col) oy ox -> | n ot oy ox | ~col"\nradix = "{radix}"\n', "one.toml",
    )  # fmt: skip
    from qexport.build.dump import dump

    folder = dump(make_capture(), layout, tmp_path).folder
    want = Golden(make_capture()).values("relu").reshape(2, 4, 2, 4, 4).transpose(0, 1, 3, 4, 2).reshape(-1, 2)[:, ::-1]
    assert np.array_equal(read_actual(folder, folder / f"m.{radix}").values, want)
    bench = tmp_path / "m_out.hex"
    bench.write_text("".join(f"{int(a) & 0xFFFF:04x}{int(b) & 0xFFFF:04x}\n" for a, b in want))
    if radix != "dec" and not radix.startswith("raw"):  # raw bytes of any number are words
        assert np.array_equal(read_actual(folder, bench, "m").values, want)
