"""Networks of frameworks to captures; with train the only rooms that load torch or onnx.

Imports core alone.
"""

import importlib.util
from collections.abc import Sequence

from qexport.errors import QexportError


def needs_torch(packages: Sequence[str] = ("torch", "torchvision")) -> None:
    """Raises QexportError where packages of the extra `torch` are missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise QexportError(f"{package} is not installed; pip install 'qexport[torch]', or start from --capture")


def needs_onnx() -> None:
    """Raises QexportError where the package of the extra `onnx` is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise QexportError("onnx is not installed; pip install 'qexport[onnx]', or start from --capture")
