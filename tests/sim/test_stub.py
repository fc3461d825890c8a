"""The stub of a layout without a bench loads every word of its files, or fails by name."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qexport.layout.toml import layout_text, parse_layout
from qexport.sim.registry import SIMULATORS
from qexport.sim.tools import Job
from tests.conftest import checked_dump, cli, fails, make_capture
from tests.sim.conftest import copied, edited, resealed

# Decimals in two files, hexadecimal in two files under a header, words of 9 x 9 = 81 bits whose first digit is 0 or 1.
MIXED = """
name = "mixed"
[array]
row = 4
col = 4
[[memory]]
name = "weight"
tensor = "weight"
order = "(ot col) (it row) kh kw -> it | ot kh kw col | ~row"
file = "weight tile {it}.txt"
radix = "dec"
[[memory]]
name = "activation"
tensor = "input_padded"
order = "n (it row) py px -> it | n py px | ~row"
file = "activation/tile{it}.hex"
radix = "hex"
header = ["# one word a position", "// row 3 first"]
[[memory]]
name = "address"
tensor = "acc_address"
order = "oy ox kh kw -> | oy ox | kh kw"
file = "address.hex"
radix = "hex"
"""
WORDS = {"there": 72 + 9 * 8, "back": 9 * 72 + 2 * 16 + 16 * 9, "mixed": 2 * (2 * 9 * 4) + 2 * 72 + 16}
GOES_IN = r'name += "(activation|weight)"'
PLACE = "    // Your design goes here"
PRINTING = "".join(
    f"    for (int i = 0; i < {name.upper()}_FILES * {name.upper()}_WORDS; i = i + 1) "
    f'$display("LOADED {name} %b", {name}_mem[i]);\n'
    for name in ("weight", "activation", "address")
)
PRINT_ALL = [(PLACE, PRINTING + PLACE)]
NONCE = "0123456789abcdef"


@dataclass(frozen=True)
class Stub:
    """A set with a stub, and the command that runs it on one simulator."""

    folder: Path
    command: list[str]
    built: subprocess.CompletedProcess[str]

    def run(self, folder: Path) -> tuple[int, list[str]]:
        """Exit status and verdict lines of a run on `folder`."""
        command = [*self.command, f"+dir={folder}", f"+nonce={NONCE}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        return run.returncode, [line for line in run.stdout.splitlines() if line.startswith(("LOADED", "PASS", "FAIL"))]


StubOf = Callable[[str, str], Stub]


@pytest.fixture(scope="session")
def stub_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What goes in without what comes back, and the other way round: of both there would be a bench."""
    head, *memories = layout_text("ws8x8").split("[[memory]]")
    texts = {
        "there": [text for text in memories if re.search(GOES_IN, text)],
        "back": [text for text in memories if not re.search(GOES_IN, text)],
    }
    layouts = {name: "[[memory]]".join([head, *parts]) for name, parts in texts.items()} | {"mixed": MIXED}
    return {
        name: checked_dump(make_capture(), parse_layout(text, f"{name}.toml"), tmp_path_factory.mktemp(name))
        for name, text in layouts.items()
    }


@pytest.fixture(scope="session")
def stubs(stub_sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> StubOf:
    """Stubs by layout and simulator, each built once; the one of the mixed layout prints what it has loaded."""
    made: dict[tuple[str, str], Stub] = {}

    def get(layout: str, simulator: str) -> Stub:
        if (layout, simulator) not in made:
            folder, build = stub_sets[layout], tmp_path_factory.mktemp(f"{layout}-{simulator}")
            package, source = (folder / line for line in (folder / "files.f").read_text().splitlines())
            if layout == "mixed":
                source = edited(source, build.parent / source.name, PRINT_ALL)
            built = SIMULATORS[simulator].compile(Job((package, source), package.parent, source.stem), build)
            made[layout, simulator] = Stub(folder, SIMULATORS[simulator].command(build / "sim"), built)
        stub = made[layout, simulator]
        assert stub.built.returncode == 0, stub.built.stdout + stub.built.stderr
        return stub

    return get


@pytest.mark.parametrize("layout", WORDS)
def test_stub_loads_every_word_and_repeats_the_nonce(simulator: str, layout: str, stubs: StubOf) -> None:
    stub = stubs(layout, simulator)
    status, lines = stub.run(stub.folder)
    assert (status, lines[-1]) == (0, f"LOADED words={WORDS[layout]} nonce={NONCE}")
    assert not any(line.startswith(("PASS", "FAIL")) for line in lines)


def test_stub_holds_the_words_of_the_files(simulator: str, stubs: StubOf) -> None:
    stub = stubs("mixed", simulator)

    def lines(name: str, header: int = 0) -> list[str]:
        return (stub.folder / name).read_text().splitlines()[header:]

    decimals = lines("weight tile 0.txt") + lines("weight tile 1.txt")
    activations = lines("activation/tile0.hex", 2) + lines("activation/tile1.hex", 2)
    expected = [f"LOADED weight {''.join(f'{int(code) & 15:04b}' for code in word.split())}" for word in decimals]
    expected += [f"LOADED activation {int(word, 16):016b}" for word in activations]
    expected += [f"LOADED address {int(word, 16):081b}" for word in lines("address.hex")]
    assert stub.run(stub.folder)[1][:-1] == expected
    assert any("-" in word for word in decimals)


def in_line(number: int, pattern: str, replacement: str) -> Callable[[str], str]:
    """Change what matches the pattern in one line."""

    def apply(text: str) -> str:
        lines = text.split("\n")
        lines[number - 1], count = re.subn(pattern, replacement, lines[number - 1], count=1)
        assert count == 1
        return "\n".join(lines)

    return apply


# layout, file, what is done to it -> what the stub says
FILE_FAULTS: dict[str, tuple[str, str, Callable[[str], str] | None, str]] = {
    "missing": ("back", "psum_itile0_otile0_kij8.txt", None, "line=0 cannot be opened"),
    "empty": ("back", "output.txt", lambda text: "", "line=1 has -3 words, needs 32"),
    "one word short": ("back", "output.txt", lambda text: text[:-129], "line=35 has 31 words, needs 32"),
    "one word long": ("back", "output.txt", lambda text: text + text[-129:], "line=37 has 33 words, needs 32"),
    "junk digit": ("back", "acc_address.txt", in_line(5, "^.", "2"), "line=5 has a character that is not a digit"),
    "X digit": ("there", "weight_itile0_otile0_kij3.txt", in_line(4, ".$", "x"), "line=4 has a character that is no"),
    "one digit more": ("back", "acc_address.txt", in_line(9, "^", "0"), "line=9 has a word of 12 digits, needs 11"),
    "header line missing": (
        "there", "activation_tile0.txt", lambda text: text.split("\n", 1)[1], "line=75 has 71 words, needs 72",
    ),
    "no final line end": ("back", "output.txt", lambda text: text[:-1], "line=35 ends without a line end"),
    "word too wide": ("mixed", "address.hex", in_line(3, "^.", "2"), "line=3 has a word that is too wide"),
    "missing in a folder": ("mixed", "activation/tile1.hex", None, "line=0 cannot be opened"),
    "missing decimals": ("mixed", "weight tile 1.txt", None, "line=0 cannot be opened"),
    "junk decimal": ("mixed", "weight tile 1.txt", in_line(5, r"\d", "x"), "line=5 has a character that is not a"),
    "no decimal": ("mixed", "weight tile 1.txt", in_line(5, r"-?\d", "-"), "line=5 "),
    "decimal too few": ("mixed", "weight tile 0.txt", in_line(5, r"^-?\d ", ""), "line=5 "),
    "decimal too many": ("mixed", "weight tile 0.txt", in_line(5, "$", " 1"), "line=5 "),
    "decimal in the next line": (
        "mixed", "weight tile 0.txt", lambda text: in_line(6, "^", "1 ")(in_line(5, r" -?\d$", "")(text)), "line=5 ",
    ),
    "decimal too large": ("mixed", "weight tile 0.txt", in_line(5, r"-?\d", "8"), "line=5 "),
    "decimal too small": ("mixed", "weight tile 0.txt", in_line(5, r"-?\d", "-9"), "line=5 "),
    "two spaces": ("mixed", "weight tile 0.txt", in_line(5, " ", "  "), "line=5 "),
    "blank line of decimals": ("mixed", "weight tile 0.txt", in_line(5, ".*", ""), "line=5 has a word of 0 digits"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_stub_fails_by_name_on_an_unusable_file(simulator: str, fault: str, stubs: StubOf, tmp_path: Path) -> None:
    layout, file, change, message = FILE_FAULTS[fault]
    stub = stubs(layout, simulator)
    folder = copied(stub.folder, tmp_path / "set")
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(change((folder / file).read_text()))
        assert stub.run(folder)[0] != 0
        resealed(folder)  # what is said then is of the content
    status, lines = stub.run(folder)
    assert status != 0
    assert lines[0].startswith(f"FAIL file={file} {message}"), lines
    assert all(line.startswith("FAIL") for line in lines)


def test_stub_names_a_file_of_other_words_and_a_file_of_checksums_that_lacks_it(
    simulator: str, stubs: StubOf, tmp_path: Path
) -> None:
    stub = stubs("mixed", simulator)
    folder = copied(stub.folder, tmp_path / "set")
    last = edited(folder / "weight tile 1.txt", folder / "weight tile 1.txt", [("7", "6")]).name
    lines = stub.run(folder)[1]
    assert lines[0].startswith(f"FAIL file={last} line=0 has the checksum ")
    sums = (folder / "checks.txt").read_text().splitlines(keepends=True)
    assert [line.split(" ", 2)[2].strip() for line in sums][1] == last
    (folder / "checks.txt").write_text("".join([sums[0], *sums[2:]]))
    status, lines = stub.run(folder)
    assert status != 0
    assert any(line.startswith("FAIL file=checks.txt line=5 has no number of words and checksum") for line in lines)
    (folder / "checks.txt").unlink()
    assert stub.run(folder)[1][0] == "FAIL file=checks.txt line=0 cannot be opened"


@pytest.mark.parametrize("name", ["s\nx", "s\udcff", "s\\", "s\x1b"])
def test_a_path_that_cannot_stand_in_a_makefile_is_refused(name: str, tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / name)
    for style in ("blank", "stream"):
        result = cli("stub", folder, "--style", style, "--out", tmp_path / "stub")
        fails(result, "cannot stand in a Makefile")
    assert not (tmp_path / "stub").exists()


def test_a_set_that_names_a_file_in_another_language_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    name = '"; $system("touch made"); "'
    text = (folder / "manifest.json").read_text().replace('"weight.hex"', json.dumps(name))
    (folder / "manifest.json").write_text(text)
    (folder / "SHA256SUMS").unlink()
    fails(cli("stub", folder, "--style", "blank", "--out", tmp_path / "stub"), "which is none in the set")
