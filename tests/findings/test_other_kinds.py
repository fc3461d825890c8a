"""Matrix products, sums, codes that stand for others: each command serves them or says in one line what it lacks."""

from pathlib import Path

import pytest

from tests.conftest import cli
from tests.fuzz.targets import Target


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return Target(tmp_path_factory.mktemp("kinds")).all_sets


COMMANDS: dict[str, tuple[str, ...]] = {
    "verify": (), "strength": (), "rtl": ("--out", "{out}"), "cocotb": ("--out", "{out}"),
    "show": ("accumulator.hex:1",), "diagnose": ("--actual", "{wrong}"),
    "shrink": ("--actual", "{wrong}", "--out", "{out}"), "selftest": ("--sample", "1", "--time-limit", "1"),
    "layers": ("--json",),
    **{f"stub {style}": ("--style", style, "--out", "{out}") for style in ("memory", "stream", "blank")},
}  # fmt: skip


@pytest.mark.whole
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_serves_every_kind_or_says_what_it_lacks(command: str, sets: list[Path], tmp_path: Path) -> None:
    served = []
    for folder in sets:
        place = tmp_path / folder.name
        place.mkdir()
        (place / "accumulator.hex").write_text((folder / "accumulator.hex").read_text().replace("0", "1"))
        options = [o.format(out=place / "out", wrong=place / "accumulator.hex") for o in COMMANDS[command]]
        of = ["--capture", folder / "capture.safetensors"] if command == "layers" else [folder]
        result = cli(command.split()[0], *of, *options)
        assert result.exit_code in (0, 1, 2), (folder.name, result.output)
        assert result.exit_code != 2 or result.stderr.splitlines()[-1].startswith("qexport: error: ")
        served += [folder.name] if result.exit_code != 2 else []
    assert "tiny" in served
