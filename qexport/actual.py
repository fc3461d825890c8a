"""What a design gave for one memory of a set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport.intformat import Int64
from qexport.manifest import MemoryEntry


@dataclass(frozen=True)
class Actual:
    """What a design gave for one memory of a set."""

    memory: MemoryEntry
    values: Int64
    known: NDArray[np.bool_]
    missing: int
    extra: int
