"""Networks of frameworks to captures; with train the only rooms that load torch.

Imports core alone.
"""

import importlib.util

from qexport.errors import QexportError


def needs_torch() -> None:
    """Raises QexportError where the packages of the extra `torch` are missing."""
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            raise QexportError(f"{package} is not installed; pip install 'qexport[torch]', or start from --capture")
