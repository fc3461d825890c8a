"""What the pages show is what the program prints, and their Python runs."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole  # pages show what simulators say
ROOT = Path(__file__).parent.parent


def test_the_output_that_readme_and_docs_show_is_current() -> None:
    command = [sys.executable, "scripts/update_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def python_of(page: str) -> str:
    """The Python blocks of a page, from top to bottom."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S))


def test_the_python_page_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", python_of("docs/reference/python.md")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in ("PASS, ", "weight_unsigned", "vectors/conv1: ok, ", "relu"):
        assert said in done.stdout


def test_mypy_accepts_the_python_page_against_the_built_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("qexport-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    script = tmp_path / "script.py"
    script.write_text(python_of("docs/reference/python.md") + "\nreveal_type(found)\nvs.simulate(seed='one')\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)]
    env = os.environ | {"MYPYPATH": str(tmp_path / "installed")}
    done = subprocess.run(mypy, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("script.py") and ": error: " in line]
    assert len(errors) == 1, done.stdout
    assert 'Argument "seed" to "simulate" of "VectorSet" has incompatible type "str"; expected "int"' in errors[0]
    assert 'Revealed type is "qexport.findings.diagnosis.Diagnosis"' in done.stdout
