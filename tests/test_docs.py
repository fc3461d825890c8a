"""What the pages show is what the program prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole  # pages show what simulators say
ROOT = Path(__file__).parent.parent


def test_the_output_that_readme_and_docs_show_is_current() -> None:
    command = [sys.executable, "scripts/update_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
