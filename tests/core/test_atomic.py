"""One file, written whole or not at all, by one writer or many."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qexport.core.atomic import STALE, write_atomically
from tests.sim.test_supervisor import until


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_and_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    for data in (b"one", b"", bytes(1 << 20)):
        write_atomically(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
        assert names(tmp_path) == ["file"]


def test_the_mode_is_that_of_new_files_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "plain", b"")
        write_atomically(tmp_path / "program", b"", mode=0o777)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "program")] == [0o640, 0o750]


def test_an_error_leaves_the_earlier_file_and_nothing_beside_it(tmp_path: Path, small_disk: Path) -> None:
    file = small_disk / "file"
    write_atomically(file, b"earlier")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, bytes(1 << 20))
    assert (file.read_bytes(), names(small_disk)) == (b"earlier", ["file"])
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", b"")
    assert names(tmp_path) == ["disk", "folder"]


def test_what_the_dead_left_goes_when_it_is_old_and_nothing_else_does(tmp_path: Path) -> None:
    old, fresh, others = (tmp_path / name for name in (".file.0a.partial", ".file.0b.partial", ".other.0a.partial"))
    for path in (old, fresh, others):
        path.write_bytes(b"half")
    for path in (old, others):
        os.utime(path, times=(0, time.time() - STALE - 60))
    write_atomically(tmp_path / "file", b"whole")
    assert names(tmp_path) == [".file.0b.partial", ".other.0a.partial", "file"]


def test_readers_find_one_of_many_writers_files_whole(tmp_path: Path) -> None:
    file, kinds = tmp_path / "file", [bytes([n]) * 100_000 for n in range(4)]
    write_atomically(file, kinds[0])
    writers = [
        threading.Thread(target=lambda data=data: [write_atomically(file, data) for _ in range(20)]) for data in kinds
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert file.read_bytes() in kinds
    assert (file.read_bytes() in kinds, names(tmp_path)) == (True, ["file"])


WRITE_OFTEN = """
import itertools, sys
from pathlib import Path
from qexport.core.atomic import write_atomically
for number in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([number % 251]) * 1_000_000)
"""


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for number in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITE_OFTEN, str(file)]) as writer:
            until(file.exists)
            time.sleep(0.01 * number)
            writer.send_signal(signal.SIGKILL)
        data = file.read_bytes()
        assert data == data[:1] * 1_000_000
        file.unlink()
