"""Whoever takes a generated file into his product reads in it that he may."""

from pathlib import Path

import pytest

from qexport.bench.context import LICENCE
from qexport.bench.interface import CHECKS
from qexport.bench.rtl import PARTS
from qexport.bench.stub import STYLES
from qexport.layout.paths import CAPTURE, MANIFEST, SUMS
from qexport.sets.manifest import read_manifest
from tests.conftest import checked_dump, cli, make_capture

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "vectors" / "features_33"
LISTS = {"files.f", CHECKS}  # programs read these line by line
DATA = {MANIFEST, SUMS, CAPTURE}


def unlicensed(folder: Path) -> set[str]:
    """The files whose first two lines are not a comment of the licence; in a core it stands behind FuseSoC's mark."""
    return {
        path.name
        for path in folder.iterdir()
        if [
            line.lstrip("/# ")
            for line in path.read_bytes().decode(errors="replace").removeprefix("CAPI=2:\n").splitlines()[:2]
        ]
        != [*LICENCE]
    }


def memory_files(folder: Path) -> set[str]:
    return {file.path for memory in read_manifest(folder).memories for file in memory.files}


def test_each_file_of_a_set_but_data_and_lists_has_its_licence(tmp_path: Path) -> None:
    for folder in (EXAMPLE, checked_dump(make_capture(), "ws8x8", tmp_path)):  # with a bench and with a stub
        assert unlicensed(folder) == DATA | LISTS | memory_files(folder)


@pytest.mark.parametrize(
    ("command", "lists"),
    [
        *((("stub", "--style", style), set()) for style in STYLES),
        *((("rtl", "--style", style), {"files.f"}) for style in PARTS),
        (("cocotb",), set()),
    ],
)
def test_each_file_that_other_commands_generate_has_its_licence(
    command: tuple[str, ...], lists: set[str], tmp_path: Path
) -> None:
    result = cli(command[0], EXAMPLE, *command[1:], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert unlicensed(tmp_path / "out") == lists


def test_notice_and_readme_name_the_licence() -> None:
    assert LICENCE[0] in " ".join((ROOT / "NOTICE").read_text().split())
    assert "SPDX: 0BSD" in (ROOT / "README.md").read_text()
