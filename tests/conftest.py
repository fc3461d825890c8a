"""Captures made of random codes, sets that the independent decoder has checked, and the choice of simulators."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from qexport.build.dump import dump
from qexport.cli import main
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import KINDS
from qexport.core.golden import Golden
from qexport.core.reference import ReferenceCheck, Scan
from qexport.layout.memory import Layout
from qexport.layout.toml import load_layout, parse_layout, preset_names
from qexport.sim.registry import SIMULATORS
from tests.judges import decoder

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores, and its children

settings.register_profile("whole", deadline=None, max_examples=100)  # no test fails because the machine is busy
settings.register_profile("quick", settings.get_profile("whole"), max_examples=10)  # --hypothesis-profile quick
settings.register_profile("many", settings.get_profile("whole"), max_examples=2500)  # make fuzz
settings.load_profile("whole")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs simulators, trains, fuzzes or captures a whole network is marked `whole`, which `make fast` leaves out.

    Folders and fixtures tell it. A test elsewhere that runs a simulator in another way, or takes seconds, is marked in
    its file.
    """
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in ("sim", "runs", "train", "fuzz") or {"simulator", "shipped"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker("whole")


def cases(count: int) -> int:
    """How many examples a test tries that wants `count` of them, in the profile that is loaded."""
    return max(1, count * settings.default.max_examples // settings.get_profile("whole").max_examples)


def make_capture(
    seed: int = 0,
    plane: tuple[int, int] = (4, 4),
    images: int = 2,
    weight_bits: int = 4,
    weight_signed: bool = True,
    input_bits: int = 4,
    input_signed: bool = False,
    bias: bool = False,
    **geometry: Any,
) -> LayerCapture:
    """A capture of uniformly random full-range codes; by default the 8-to-8 3x3 layer of the README."""
    facts: dict[str, Any] = {"name": "features.33", "index": 33, "in_channels": 8, "out_channels": 8, "kernel": (3, 3)}
    layer = KINDS[geometry.pop("kind", "conv2d")](**(facts | {"padding": (1, 1, 1, 1), "relu": True} | geometry))
    formats = Formats(
        weight=CodeFormat(bits=weight_bits, signed=weight_signed, scale=0.25),
        input=CodeFormat(bits=input_bits, signed=input_signed, scale=0.5),
    )
    rng = np.random.default_rng(seed)
    weight, codes = formats.weight.integer, formats.input.integer
    return LayerCapture(
        layer=layer,
        formats=formats,
        weight=rng.integers(weight.low, weight.high + 1, (layer.out_channels, layer.group_inputs, *layer.kernel)),
        input=rng.integers(codes.low, codes.high + 1, (images, layer.in_channels, *plane)),
        bias=rng.integers(-500, 501, layer.out_channels) if bias else None,
    )


def check_reference(golden: Golden) -> ReferenceCheck:
    """The golden against what its capture holds of PyTorch's forward pass."""
    scan = Scan(golden.facts)
    scan.add(golden)
    return scan.check()


def checked_dump(capture: LayerCapture, layout: Layout | str, out: Path) -> Path:
    """Dump a set and have the independent decoder check it; returns the set's folder."""
    folder = dump(capture, load_layout(layout) if isinstance(layout, str) else layout, out).folder
    assert decoder.check(folder) == []
    return folder


def one_memory_layout(order: str, tensor: str = "weight", **keys: Any) -> Layout:
    """A layout of a single memory; `array` gives its sizes, by default 8 of the rows and columns it names."""
    array = keys.pop("array", {axis: 8 for axis in ("row", "col") if re.search(rf"\b{axis}\b", order)})
    memory = {"name": "m", "tensor": tensor, "order": order, "file": "m.txt", "radix": "hex"} | keys
    lines = ['name = "test"', "[array]", *(f"{name} = {size}" for name, size in array.items()), "[[memory]]"]
    lines += [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in memory.items()
    ]
    return parse_layout("\n".join(lines) + "\n", "test.toml")


def cli(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fails(result: Result, *needles: str, code: int = 2) -> None:
    """The command ended with `code` and one line on stderr that holds every needle; no traceback."""
    assert result.exit_code == code, result.output
    # on a slow machine progress stands before it
    lines = [line for line in result.stderr.strip().splitlines() if not re.fullmatch(r"qexport: .*: \d+ of \d+", line)]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    for needle in needles:
        assert needle in lines[0], lines[0]


CONV_PRESETS = [
    name for name in preset_names() if name not in ("gemm8x8", "matmul", "sum")
]  # of convolutions, linear layers


@pytest.fixture(scope="session", autouse=True)
def simulator_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Simulator builds of a test run are shared by its tests, in whatever process they run, and by nobody else."""
    folder = tmp_path_factory.getbasetemp()
    builds = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "builds"
    builds.mkdir(exist_ok=True)
    os.environ.setdefault("QEXPORT_CACHE", str(builds))


@pytest.fixture(params=list(SIMULATORS))
def simulator(request: pytest.FixtureRequest) -> str:
    """Every simulator; skipped where it is missing, except in CI, where a missing simulator is a failure."""
    why = SIMULATORS[request.param].missing()
    if why is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def set_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Sets of the default capture by layout, dumped once; tests must not write into them."""
    made: dict[str, Path] = {}

    def get(layout: str) -> Path:
        if layout not in made:
            made[layout] = checked_dump(make_capture(), layout, tmp_path_factory.mktemp(layout))
        return made[layout]

    return get


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of that size, such as 64k."""
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("mount is not on the PATH")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with disk(tmp_path / "disk", "64k") as folder:
        yield folder
