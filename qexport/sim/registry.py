"""The simulators by name, and which of them is taken."""

import math

from qexport.errors import QexportError
from qexport.sim.icarus import Icarus
from qexport.sim.tools import Simulator
from qexport.sim.verilator import Verilator

SIMULATORS: dict[str, Simulator] = {simulator.name: simulator for simulator in (Verilator(), Icarus())}


# Seconds on one core, measured with `make bench` (features.33 and features.7, behavioural and systolic designs).
BUILD = 8.0  # of a bench by Verilator, whose runs take next to nothing beside it
_START, _OF_WORD, _OF_MAC = 0.05, 50e-6, 15e-6  # of a run by Icarus: at all, for a word, for a multiplication


def icarus_seconds(runs: int, words: int, macs: int) -> float:
    """About how long Icarus takes for so many runs, whatever the design is."""
    return runs * (_START + _OF_WORD * words + _OF_MAC * macs)


def choose(name: str, by_icarus: float = math.inf) -> Simulator:
    """The named simulator; for 'auto' the first that can run, Icarus before Verilator where it takes less than a build.

    `by_icarus`: about how many seconds Icarus takes. Raises QexportError saying what is missing.
    """
    if name != "auto":
        why = SIMULATORS[name].missing()
        if why is not None:
            raise QexportError(f"simulator: {why}")
        return SIMULATORS[name]
    reasons = []
    for simulator in sorted(SIMULATORS.values(), key=lambda one: by_icarus < BUILD and one.name != "icarus"):
        why = simulator.missing()
        if why is None:
            return simulator
        reasons.append(why)
    raise QexportError(f"simulator: none found: {'; '.join(reasons)}")
