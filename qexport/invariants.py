"""What the registers of a netlist can never hold, found in a simulation and proven by induction with Yosys.

A change that only shows in states that a design cannot reach makes no difference; to prove that, the states must be
known. Every guess is a range of a narrow register, at all times or while a bit of a control register is 0 or 1. The
guesses that hold after a reset, and after each step from states in which all of them hold, are kept (Houdini).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from qexport.intformat import Int64

NARROW = 16  # bits of a register that guesses are made about
CONTROL = 2  # bits, at most, of a register whose single bits are conditions
HOLDS = "qexport_holds"

Yosys = Callable[..., str]  # runs commands in a folder and returns what was said


@dataclass(frozen=True)
class Register:
    """A register of a netlist: its place in RTLIL and Verilog alike, its bits, and whether a reset sets it."""

    place: str
    bits: int
    reset: bool

    @property
    def verilog(self) -> str:
        """The place within the module; an escaped name ends with a space."""
        name, _, part = self.place.partition(" ")
        return f"{name} {part}"


@dataclass(frozen=True)
class Guess:
    """The register number `register` lies in `low`..`high`, whenever `bit` of another one, if any, has a value."""

    register: int
    low: int
    high: int
    condition: tuple[int, int, int] | None  # register, bit, value

    @property
    def verilog(self) -> str:
        inside = f"(r{self.register} >= {self.low} && r{self.register} <= {self.high})"
        if self.condition is None:
            return inside
        number, bit, value = self.condition
        return f"(r{number}[{bit}] != {value} || {inside})"


def registers(rtlil: str) -> list[Register]:
    """The narrow registers of a flat netlist that have a name."""
    found = []
    for kind, body in re.findall(r"^  cell \$(\w*dff\w*) \S+\n(.*?)^  end$", rtlil, re.MULTILINE | re.DOTALL):
        place, bits = re.search(r"connect \\Q (.*)", body), re.search(r"parameter \\WIDTH (\d+)", body)
        assert place
        assert bits
        if int(bits[1]) <= NARROW and re.fullmatch(r"\\\S+( \[[\d:]+\])?", place[1]):
            found.append(Register(place[1], int(bits[1]), kind.startswith("sdff")))
    return found


def guesses(watched: Sequence[Register], states: Int64) -> list[Guess]:
    """The ranges of the values seen in (state, register), where they are not all that a register has."""
    bits = [
        (n, b, v) for n, r in enumerate(watched) if r.reset and r.bits <= CONTROL for b in range(r.bits) for v in (0, 1)
    ]
    found = []
    for condition in (None, *bits):
        at = (
            np.full(len(states), True)
            if condition is None
            else states[:, condition[0]] >> condition[1] & 1 == condition[2]
        )
        if at.any():
            lows, highs = states[at].min(axis=0).tolist(), states[at].max(axis=0).tolist()
            for number, seen in enumerate(zip(lows, highs, strict=True)):
                if seen != (0, (1 << watched[number].bits) - 1) and (condition is None or condition[0] != number):
                    found.append(Guess(number, *seen, condition))
    return found


def with_guesses(rtlil: str, watched: Sequence[Register], held: Sequence[Guess]) -> tuple[str, str]:
    """The netlist with a wire HOLDS of a bit for each guess and a 1 above, and the Verilog module that drives it."""
    ports = "".join(f"input [{r.bits - 1}:0] r{n}, " for n, r in enumerate(watched))
    checks = ", ".join(["1'b1", *(guess.verilog for guess in reversed(held))])
    module = f"module {HOLDS} ({ports}output [{len(held)}:0] holds);\n  assign holds = {{{checks}}};\nendmodule\n"
    places = "".join(f"    connect \\r{n} {r.place}\n" for n, r in enumerate(watched))
    body, end, _ = rtlil.rpartition("end\n")
    cell = f"  cell \\{HOLDS} \\{HOLDS}_cell\n{places}    connect \\holds \\{HOLDS}\n  end\n"
    return f"{body}  wire width {len(held) + 1} \\{HOLDS}\n{cell}{end}", module


def proven(
    yosys: Yosys, folder: Path, watched: Sequence[Register], guessed: Sequence[Guess], limit: int
) -> list[Guess]:
    """Those of the guesses about unchanged.il that Yosys proves to hold together after a reset and ever after.

    Each proof may take `limit` seconds; where one takes longer, nothing is known.
    """
    netlist, module = with_guesses((folder / "unchanged.il").read_text(), watched, guessed)
    (folder / "guessed.il").write_text(netlist)
    (folder / "guessed.v").write_text(module)
    yosys(
        folder,
        "read_rtlil guessed.il; read_verilog guessed.v; hierarchy -top qexport_core; flatten",
        # what multipliers and memories give may be anything; `opt -full` would take it for a value of its own choice
        f"delete t:$mem* t:$mul t:$scopeinfo; delete -output o:*; expose w:{HOLDS}; opt_clean -purge",
        "dffunmap; opt_clean -purge; write_rtlil cone.il",
    )
    held = dict(enumerate(guessed))
    for given in ("reset", "step"):
        while held:
            bits = [f"{HOLDS}[{n}] 1'1" for n in held]
            start = ["-set-at 1 rst 1"] if given == "reset" else [f"-set-at 1 {bit}" for bit in bits]
            goals = [f"-prove {bit}" for bit in bits]
            (folder / "induction.ys").write_text(
                f"sat -seq 2 -prove-skip 1 -timeout {limit} -show \\{HOLDS} {' '.join(start + goals)}\n"
            )
            said = yosys(folder, "read_rtlil cone.il; script induction.ys")
            if "no model found: SUCCESS!" in said:
                break
            at_end = re.search(rf"^ +2 \\{HOLDS} .*?([01]+) *$", said, re.MULTILINE)
            if at_end is None:  # no answer in time
                return []
            fallen = {n for n in held if at_end[1][-1 - n] == "0"}
            held = {n: guess for n, guess in held.items() if n not in fallen}
    always = {(guess.register, guess.low, guess.high) for guess in held.values() if guess.condition is None}
    return [g for g in held.values() if g.condition is None or (g.register, g.low, g.high) not in always]


def everted(rtlil: str) -> str:
    """Modules of which all $dff are taken out: their outputs become inputs, their inputs and clocks become outputs.

    The ports are named by the register, so that a changed copy of a module has the same ones.
    """
    number = count(10**6)  # of the ports, behind those that are there

    def ports(cell: re.Match[str]) -> str:
        name, body = cell.groups()
        found = dict(re.findall(r"^    (?:parameter|connect) (\S+) (.*)$", body, re.MULTILINE))
        key = found["\\Q"] if name.startswith("$memory") else name  # which ends in a number that no other module has
        bits, q = found["\\WIDTH"], found["\\Q"]
        wires = f"  wire width {bits} input {next(number)} \\Q:{key}\n  connect {q} \\Q:{key}\n"
        for port, width in (("\\D", bits), ("\\CLK", "1")):
            wires += f"  wire width {width} output {next(number)} {port}:{key}\n  connect {port}:{key} {found[port]}\n"
        return wires

    return re.sub(r"^  cell \$dff (\S+)\n(.*?)^  end\n", ports, rtlil, flags=re.MULTILINE | re.DOTALL)
