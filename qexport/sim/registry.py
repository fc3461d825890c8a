"""The simulators by name, and which of them is taken."""

from qexport.errors import QexportError
from qexport.sim.icarus import Icarus
from qexport.sim.tools import Simulator
from qexport.sim.verilator import Verilator

SIMULATORS: dict[str, Simulator] = {simulator.name: simulator for simulator in (Verilator(), Icarus())}


def choose(name: str) -> Simulator:
    """The named simulator, or for 'auto' the first that can run; raises QexportError saying what is missing."""
    if name != "auto":
        why = SIMULATORS[name].missing()
        if why is not None:
            raise QexportError(f"simulator: {why}")
        return SIMULATORS[name]
    reasons = []
    for simulator in SIMULATORS.values():
        why = simulator.missing()
        if why is None:
            return simulator
        reasons.append(why)
    raise QexportError(f"simulator: none found: {'; '.join(reasons)}")
