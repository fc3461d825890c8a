"""How many lines of one's own a core takes from `qexport wrap` to its first PASS, for docs/tutorial/your-core.md.

`python -m scripts.wrap_table` fills it in there. Each adapter is written, filled in as tests/sim/test_wrap.py does, and
run on Icarus with all modes of streams.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.pages import fill_in
from tests.conftest import checked_dump, cli
from tests.judges.cores import layers
from tests.sim.test_wrap import CORES, conv_capture, fill, wrapped

PAGE = Path(__file__).parent.parent / "docs" / "tutorial" / "your-core.md"
SAYS = {
    "mac_loop": "one multiplier; codes written by address, sums with a handshake",
    "sums_in_memory": "memories written by address, start and done, sums read by address",
    "mac_fsm": "a state machine with bias, ReLU and requantization; streams",
    "dot_tree": "a tree of adders of a linear layer; streams",
    "os_2x2": "four elements, output-stationary; streams",
    "line_buffer": "two line buffers, a pixel a cycle, results while pixels come",
    "bit_serial": "a bit of a code a cycle, psums beside the sums; streams",
}


def cores(root: Path) -> Iterator[tuple[str, Path, Path, list[tuple[str, str]]]]:
    """Name, set, file, and what is filled in."""
    own = checked_dump(conv_capture(), "default", root / "own")
    for (core, edits), name in zip(CORES.values(), ("mac_loop", "sums_in_memory"), strict=True):
        yield name, own, core, edits
    for name in layers.LAYERS:
        yield name, layers.set_of(name, root).folder, layers.design_of(name), []


def row(name: str, folder: Path, core: Path, edits: list[tuple[str, str]], out: Path) -> str:
    adapter = wrapped(folder, out, core)
    lines = fill(adapter, edits)
    options = ("--top", adapter.stem, "--simulator", "icarus")
    done = cli("simulate", folder, "--dut", out / "files.f", *options)
    verdict = "PASS" if done.exit_code == 0 else "FAIL"
    return f"| `{name}` | {SAYS[name]} | {lines} | {verdict} |"


def main() -> None:
    rows = ["| core | what it is | lines of one's own | verdict |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as root:
        for name, *core in cores(Path(root)):
            rows.append(row(name, *core, Path(root) / f"adapter_{name}"))
    fill_in(PAGE, "wrap", "\n".join(rows))


if __name__ == "__main__":
    main()
