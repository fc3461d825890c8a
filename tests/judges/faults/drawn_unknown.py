"""Nonsense with drawn numbers, in all of the results or in some of them: whether any of it is explained.

python -m tests.judges.faults.drawn_unknown --seed 7 --count 40
"""

import numpy as np

from tests.judges.faults.case import Case, written
from tests.judges.faults.drawn import Draw, main
from tests.judges.faults.sets import Set
from tests.judges.faults.unknown import CHANGES, PLACES
from tests.judges.notation import Ints


def nonsense(draw: Draw) -> Case:
    (on, tensor), change = PLACES[draw(0, len(PLACES) - 1)], CHANGES[draw(0, len(CHANGES) - 1)]
    seed, some = draw(0, 9999), (draw(5, 40), draw(0, 1))

    def words(found: Set) -> Ints:
        right, rng = found.read(tensor), np.random.default_rng(seed)
        wrong = change(right, rng, found.memory(tensor)["bits"])
        kept = rng.permutation(right.size)[some[0] :] if some[1] else []
        wrong.reshape(-1)[kept] = right.reshape(-1)[kept]
        return wrong

    where = f"{some[0]} values" if some[1] else "all"
    return written(f"{change.__name__.replace('_', ' ')} {seed}, {where}", on, tensor, None, words)


if __name__ == "__main__":
    main(__doc__, (nonsense,), "unknown")
