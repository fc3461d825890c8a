"""docs/tutorial/your-network.md, from training to PASS."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.frontends.test_torch_module import needs_brevitas
from tests.test_docs import python_of


@pytest.mark.whole
def test_the_page_of_a_users_own_network_runs(tmp_path: Path) -> None:
    needs_brevitas()
    code = python_of("docs/tutorial/your-network.md")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("of new pictures are told right", "vectors/conv1: ok, ", "codes are the framework's own", "PASS, "):
        assert said in done.stdout
