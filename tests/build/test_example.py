"""The committed example is what the shipped network gives today, here, with any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qexport.build.verify import verify
from qexport.core.capture import LayerCapture
from qexport.sim.run import simulate
from tests.conftest import checked_dump
from tests.judges import decoder

EXAMPLE = Path(__file__).parents[2] / "vectors" / "features_33"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_example_verifies_and_the_independent_decoder_agrees() -> None:
    assert verify(EXAMPLE).ok
    assert decoder.check(EXAMPLE) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=EXAMPLE, check=True)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_shipped_network_gives_the_example_byte_for_byte(threads: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from qexport.cli import main; main()"]
    command += ["dump", "--layer", "33", "--checkpoint", "builtin", "--out", str(tmp_path)]
    subprocess.run(
        command, check=True, capture_output=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": threads}
    )
    assert contents(tmp_path / "features_33") == contents(EXAMPLE)


def test_the_examples_capture_gives_it_without_a_network(tmp_path: Path) -> None:
    folder = checked_dump(LayerCapture.load(EXAMPLE / "capture.safetensors"), "default", tmp_path)
    assert contents(folder) == contents(EXAMPLE)


def test_the_bench_of_the_example_passes(simulator: str) -> None:
    words = 4 * (9 * 36 + 3 * 16)  # psum of 9 taps on a 6x6 plane; accumulator, relu and output on a 4x4 plane
    assert simulate(EXAMPLE, simulator).check().checks == 8 * words
