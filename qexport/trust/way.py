"""The way of a changed value through a netlist to its outputs: which registers can be left out of a proof.

A register of data holds what it was given some time ago. Where all that meets on the way was given at one time, what
comes out at any time is what comes out at once without the registers, for some values at the beginning. The proof is
then one of gates alone, and it knows what the values in the registers were made of: that they are products, say.

So the registers that are left out are counted through, as depths, and nothing may meet what stands at another depth,
as it would come from another time: neither on the way, nor from beside it. Registers of one depth are loaded together.
Registers that decide about valid, ready and last stand at their own time: none of them may come in.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qexport.errors import QexportError

CONTROL = "control"  # the attribute of registers that decide about valid, ready and last
Cell = Mapping[str, Any]


def way_of(cells: Mapping[str, Cell], changed: str) -> tuple[list[str], list[str]]:
    """The registers that can be left out, and the gates that give them what they are given, by name.

    `cells`: those of a flat netlist, as Yosys `write_json` gives them; `changed`: the one with a change. Raises
    QexportError where there is no such way.
    """
    way = _Way(cells)
    way.forth(changed)
    way.back()
    return [name for name in way.depths if way.is_register(name)], [*way.gates]


class _Way:
    """`depths`: of gates on the way, and of what registers on it are given. `gates`: also those beside it."""

    def __init__(self, cells: Mapping[str, Cell]):
        self._cells = cells
        self._users: dict[int, list[tuple[str, str]]] = {}
        self._drivers: dict[int, str] = {}
        for name, cell in cells.items():
            for port, bits in cell["connections"].items():
                given = cell["port_directions"][port] == "output"
                for bit in (bit for bit in bits if isinstance(bit, int)):  # others are constants
                    if given:
                        self._drivers[bit] = name
                    else:
                        self._users.setdefault(bit, []).append((name, port))
        self.depths: dict[str, int] = {}
        self.gates: dict[str, int] = {}
        self._loads: dict[int, object] = {}  # by depth what loads its registers
        self._met: dict[
            str | int, int
        ] = {}  # registers, memories and inputs beside the way by the depth of their users

    def is_register(self, name: str) -> bool:
        """Whether it is a register of data, without reset."""
        return self._cells[name]["type"] in ("$dff", "$dffe") and CONTROL not in self._cells[name]["attributes"]

    def _is_gate(self, name: str) -> bool:
        return not re.match(r"\$(\w*dff|mem|\w*latch|\w*sr$|ff$)", self._cells[name]["type"])

    def _put(self, name: str, depth: int) -> bool:
        """Whether it was not there; raises QexportError where it stands at another depth."""
        new = name not in self.depths
        if self.depths.setdefault(name, depth) != depth:
            raise QexportError(f"{name} stands at two depths")
        if new and self.is_register(name):
            if not self._loaded_with(name, depth):
                raise QexportError(f"{name} is loaded at another time than others of its depth")
            self._loads[depth] = self._load(name)
        return new

    def _load(self, name: str) -> object:
        """What says when a register is loaded."""
        cell = self._cells[name]
        return cell["connections"]["CLK"], cell["connections"].get("EN"), cell["parameters"].get("EN_POLARITY")

    def _loaded_with(self, name: str, depth: int) -> bool:
        return self._loads.get(depth, self._load(name)) == self._load(name)

    def forth(self, changed: str) -> None:
        """From the changed cell to outputs, memories and registers of other kinds, where it must have gone."""
        if not (self.is_register(changed) or self._is_gate(changed)):
            raise QexportError(f"{changed} is neither a gate nor a register of data")
        self._put(changed, 0)
        waiting = [changed]
        while waiting:
            name = waiting.pop()
            behind = self.depths[name] + self.is_register(name)
            for user, port in (use for bit in self._bits(name, "output") for use in self._users.get(bit, ())):
                if self.is_register(user) and port != "D":
                    raise QexportError(f"{changed} decides when {user} is loaded")
                if (self.is_register(user) or self._is_gate(user)) and self._put(user, behind):
                    waiting.append(user)

    def back(self) -> None:
        """From all that is on the way to where it comes from; the first registers in front of it are on it, too."""
        waiting = [(name, depth) for name, depth in self.depths.items()]
        first = min(self.depths.values())
        while waiting:
            name, depth = waiting.pop()
            if not self.is_register(name) and self.gates.setdefault(name, depth) != depth:
                raise QexportError(f"{name} is met at two depths")
            for bit in self._bits(name, "input"):
                driver = self._drivers.get(bit)
                if driver is None:
                    self._meet(bit, depth)
                elif driver in self.depths:
                    if self.depths[driver] + self.is_register(driver) != depth:
                        raise QexportError(f"{driver} is met at two depths")
                elif self._is_gate(driver):
                    if driver not in self.gates:
                        waiting.append((driver, depth))
                    elif self.gates[driver] != depth:
                        raise QexportError(f"{driver} is met at two depths")
                elif depth == first and self.is_register(driver) and self._loaded_with(driver, depth - 1):
                    self._put(driver, depth - 1)
                    waiting.append((driver, depth - 1))
                else:
                    self._meet(driver, depth)

    def _bits(self, name: str, direction: str) -> Iterator[int]:
        cell = self._cells[name]
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == direction and not (direction == "input" and self._beside(name, port)):
                yield from (bit for bit in bits if isinstance(bit, int))

    def _beside(self, name: str, port: str) -> bool:
        """Whether the port of a register says when it is loaded."""
        return self.is_register(name) and port != "D"

    def _meet(self, source: str | int, depth: int) -> None:
        if isinstance(source, str) and CONTROL in self._cells[source]["attributes"]:
            raise QexportError(f"{source} decides about valid, ready or last")
        if self._met.setdefault(source, depth) != depth:
            raise QexportError(f"{source} is met at two depths")
