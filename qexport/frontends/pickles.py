"""Files of torch.save, read without running code of theirs."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from qexport.errors import QexportError


def unpickle(path: Path, what: str, remedy: str) -> Any:
    """The tensors and plain values of a file; raises QexportError naming the type that was refused."""
    try:
        _refuse_packed(path, what)
        return torch.load(path, map_location="cpu", weights_only=True)
    except QexportError:
        raise
    except Exception as error:  # torch raises whatever its zip, tar and pickle readers meet
        # the first line, less PyTorch's advice to load without weights_only
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds a {refused[1]}" if refused else re.split(r"\. |\n", str(error).strip())[0]
        reason = reason or type(error).__name__
        raise QexportError(f"{what}: {path} cannot be loaded as weights: {reason}; {remedy}") from None


def _refuse_packed(path: Path, what: str) -> None:
    """Raises QexportError where an archive would unpack to more than it is: torch.save packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise QexportError(
                f"{what}: {path} unpacks to {unpacked:,} bytes, more than it has; save it again with torch.save"
            )
