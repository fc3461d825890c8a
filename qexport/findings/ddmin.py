"""Delta debugging: the least part of something that still does what the whole does.

Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002.
"""

from collections.abc import Callable, Sequence

import numpy as np


def smallest(items: Sequence[int], fails: Callable[[list[int]], bool], hint: Sequence[int] = ()) -> list[int]:
    """A part of the items that fails, none of whose parts that were tried does; `hint` is tried first."""
    kept = list(items)

    def tried(part: Sequence[int]) -> bool:
        nonlocal kept
        if len(part) == len(kept) or not fails(list(part)):
            return False
        kept = list(part)
        return True

    if hint and tried(hint) and len(hint) == 1:
        return kept
    pieces = 2
    while len(kept) > 1:
        chunks = [chunk.tolist() for chunk in np.array_split(np.array(kept), pieces)]
        if any(tried(chunk) for chunk in chunks):
            pieces = 2
        elif pieces > 2 and any(tried([i for i in kept if i not in set(chunk)]) for chunk in chunks):
            pieces = max(pieces - 1, 2)
        elif pieces < len(kept):
            pieces = min(2 * pieces, len(kept))
        else:
            break
    return kept
