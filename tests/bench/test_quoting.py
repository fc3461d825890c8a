"""What a capture's author may write stands in comments of generated files only, on one line, and runs nothing."""

from pathlib import Path

import pytest

from tests.conftest import cli, make_capture

COMMANDS = {
    "rtl": ("--style", "ws"), "cocotb": (), "memory": ("--style", "memory"), "stream": ("--style", "stream"),
    "blank": ("--style", "blank"),
}  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\u2028", "\\\n", '"""\n', "*/", "-->", "`", "'", "{{ 7*7 }}"])
def test_a_layers_name_stays_within_its_comment(end: str, tmp_path: Path) -> None:
    capture = make_capture(plane=(2, 2), images=1, name=f"a{end}WITNESS $(touch made)")
    (tmp_path / "c.safetensors").write_bytes(capture.to_bytes())
    assert cli("dump", "--capture", tmp_path / "c.safetensors", "--out", tmp_path / "sets").exit_code == 0
    [folder] = (tmp_path / "sets").iterdir()
    for name, options in COMMANDS.items():
        command = name if name in ("rtl", "cocotb") else "stub"
        result = cli(command, folder, *options, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    written = [
        path for path in tmp_path.rglob("*") if path.suffix in (".sv", ".vh", ".py", ".f", "") and path.is_file()
    ]
    lines = [line.strip() for path in written for line in path.read_text().splitlines()]
    named = [line for line in lines if "WITNESS $" in line]
    assert len(named) > 5
    assert [line for line in named if not line.startswith(("//", "#"))] == []
