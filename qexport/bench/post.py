"""The ports of a user's post-processing module by their roles, and the sources that drive it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qexport.bench.context import render
from qexport.bench.design import Design
from qexport.bench.interface import Port
from qexport.bench.ports import MOST_FAULTS, NOTHING, Module
from qexport.core.intformat import IntFormat
from qexport.core.printed import columns_text
from qexport.core.steps import VALUE
from qexport.core.tensors import Range
from qexport.errors import QexportError

WRAPPER = "qexport_exhaust"
IDLE_CYCLES = 100_000  # of a module that takes no value and gives no code
AFTER_CYCLES = 1000  # in which a module must give no further code


@dataclass(frozen=True)
class Role:
    """What a port is for: its direction, whether it has one bit, and the names that it usually has."""

    direction: str
    single: bool
    names: frozenset[str]

    @classmethod
    def of(cls, direction: str, single: bool, names: str) -> "Role":
        return cls(direction, single, frozenset(names.split()))


ROLES: Mapping[str, Role] = {
    "clock": Role.of("input", True, "clk clock aclk ck"),
    "reset": Role.of("input", True, "rst reset arst srst areset"),
    "reset_n": Role.of("input", True, "rst_n rstn rst_ni reset_n resetn aresetn arst_n arstn nrst nreset"),
    "value": Role.of("input", False, "value val acc accum accumulator psum sum data din x d a v tdata in"),
    "channel": Role.of("input", False, "channel chan ch oc idx index c tid tuser"),
    "valid_in": Role.of("input", True, "valid vld tvalid"),
    "ready_in": Role.of("output", True, "ready rdy tready"),
    "code": Role.of("output", False, "code q y out data dout result res z tdata"),
    "valid_out": Role.of("output", True, "valid vld tvalid"),
    "ready_out": Role.of("input", True, "ready rdy tready"),
}
_AFFIXES = {"i", "o", "in", "out", "s", "m", "axis", "axi", "up", "down"}  # which say where a port leads, not what for
ALWAYS = {"ready_in": "ready_in", "valid_out": "valid_out"}  # outputs of the wrapper that are 1 where no port is


@dataclass(frozen=True)
class PostPorts:
    """The ports of a module by role; `unread`: outputs that none has. `code`: how the code's port is read."""

    module: Module
    of: Mapping[str, str]
    unread: tuple[str, ...]
    code: IntFormat

    def bits(self, role: str) -> int:
        return self.module.ports[self.of[role]][1].bits

    def sources(self, design: Design) -> dict[str, str]:
        """The wrapper and the program around it, by file name."""
        signals = {"clock": "clk", "reset_n": "!reset", "code": "code_of_module"}
        signals |= {
            role: f"{self.bits(role)}'({text})"
            for role, text in (("value", "$signed(value)"), ("channel", "channel"))
            if role in self.of
        }
        connections = [(port, signals.get(role, role)) for role, port in self.of.items()]
        context = {
            "name": WRAPPER,
            "top": self.module.name,
            "connections": [*connections, *((port, "") for port in self.unread), *design.tied],
            "params": list(design.params.items()),
            "code_bits": self.code.bits,
            "constant": [signal for role, signal in ALWAYS.items() if role not in self.of],
            "stalls": "ready_out" in self.of,
            "idle": IDLE_CYCLES,
            "after": AFTER_CYCLES,
        }
        return render({f"{WRAPPER}.sv": "exhaust/wrapper.sv.j2", "driver.cpp": "exhaust/driver.cpp.j2"}, context)


Faults = list[tuple[str, str, str]]  # of a port or NOTHING: the role, and what is wrong with the two


def match_ports(
    module: Module, given: Mapping[str, str], values: Range, channels: int, alike: bool, codes: Range
) -> PostPorts:
    """The ports of a module by role: those `given`, else by their usual names.

    `values`, `codes`: what goes in and comes out, least and greatest; `alike`: the channels have equal parameters.
    Raises QexportError with a table of all ports: what is missing, has no role, or is too narrow.
    """
    ports = {name: port for name, (_, port) in module.ports.items()}
    faults = [
        (name if name in ports else NOTHING, role, f"--port {role}={name}: {why}")
        for role, name in given.items()
        if (why := _misfit(role, name, ports)) is not None
    ]
    found = {} if faults else _found(ports, given, faults)
    unread = tuple(name for name, port in ports.items() if port.direction == "output" and name not in found.values())
    if not faults:
        faults = _lacking(found, channels, alike)
        strays = [name for name in ports if name not in found.values() and name not in unread]
        faults += [(name, NOTHING, "has no role: wrap the module in one that connects it") for name in strays]
    if not faults:
        faults = _narrow({role: (name, ports[name]) for role, name in found.items()}, values, channels, codes)
    if faults:
        raise QexportError(
            f"dut: {module.place}: module {module.name}: {len(faults)} port{'s' * (len(faults) > 1)} cannot be used; "
            f"name a port with --port ROLE=NAME, roles are {', '.join(ROLES)}\n{_table(ports, found, faults)}"
        )
    port = ports[found["code"]]
    return PostPorts(module, found, unread, IntFormat(port.bits, port.signed or codes[0] < 0))


def _lacking(found: Mapping[str, str], channels: int, alike: bool) -> Faults:
    """Roles without a port that must have one."""
    lacking = dict.fromkeys(("value", "code"), "no port is found")
    if not alike:
        lacking["channel"] = f"no port is found, and the {channels} channels have different parameters"
    if timed := [role for role in found if role not in ("value", "channel", "code")]:
        lacking["clock"] = f"no port is found, but for {', '.join(timed)}"
    for there, other in (("valid_in", "valid_out"), ("valid_out", "valid_in")):
        if there in found:
            lacking[other] = f"no port is found, but for {there}"
    return [(NOTHING, role, what) for role, what in lacking.items() if role not in found]


def _table(ports: Mapping[str, Port], found: Mapping[str, str], faults: Faults) -> str:
    """The faults, and then the other ports with their roles."""
    rows = [(name, role, what) for name, role, what in faults]
    roles = {name: role for role, name in found.items()}
    rows += [(name, roles.get(name, NOTHING), "") for name in ports if name not in [row[0] for row in faults]]
    declared = {NOTHING: NOTHING} | {name: _declared(name, port) for name, port in ports.items()}
    shown = [(declared[name], role, what) for name, role, what in rows[:MOST_FAULTS]]
    more = f"\nand {len(rows) - MOST_FAULTS} more" if len(rows) > MOST_FAULTS else ""
    return columns_text([("port", "role", "fault"), *shown]) + more


def _declared(name: str, port: Port) -> str:
    """A port as Verilog declares it."""
    size = f"[{port.bits - 1}:0] " if port.bits > 1 else ""
    return f"{port.direction} {'signed ' * port.signed}{size}{name}"


def _misfit(role: str, name: str, ports: Mapping[str, Port]) -> str | None:
    """Why a port cannot have a role that it is given; None where it can."""
    if role not in ROLES:
        return f"role {role} is not known"
    if name not in ports:
        return f"the module has no port {name}"
    if not _fits(ports[name], ROLES[role]):
        return f"the port is {ports[name]}, not {ROLES[role].direction}{' of 1 bit' if ROLES[role].single else ''}"
    return None


def _fits(port: Port, role: Role) -> bool:
    return port.direction == role.direction and (port.bits == 1 if role.single else port.bits > 0)


def _found(ports: Mapping[str, Port], given: Mapping[str, str], faults: Faults) -> dict[str, str]:
    """The ports by role, in the order of the roles; adds to the faults where several may have one."""
    found = {}
    for role, what in ROLES.items():
        if role in given:
            found[role] = given[role]
            continue
        free = [name for name, port in ports.items() if name not in given.values() and _fits(port, what)]
        likely = [name for name in free if _plain(name) in what.names]
        likely = likely or [name for name in free if any(_plain(name).endswith(f"_{usual}") for usual in what.names)]
        if len(likely) > 1:
            faults += [(name, role, f"may be {role}, as {len(likely) - 1} more may") for name in likely]
        elif likely:
            found[role] = likely[0]
    return found


def _plain(name: str) -> str:
    """A name in lower case, with _ between its words and without those that only say where it leads."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
    kept = [word for word in words if word not in _AFFIXES]
    return "_".join(kept or words[-1:])


def _narrow(found: Mapping[str, tuple[str, Port]], values: Range, channels: int, codes: Range) -> Faults:
    """Ports that do not hold what goes through them."""
    faults: Faults = []
    for role, what, (low, high) in (("value", "accumulators", values), ("code", "codes", codes)):
        name, port = found[role]
        signed = port.signed or low < 0
        need = IntFormat.holding(low, high, signed).bits
        if port.bits < need:
            why = (
                f"has {port.bits} bits{' and is signed' * port.signed}, {what} reach {low}..{high}, which take {need} "
                f"{'signed ' * signed}bits; widen it"
            )
            faults.append((name, role, why))
        if role == "code" and port.bits > VALUE.bits:
            faults.append((name, role, f"has {port.bits} bits; at most {VALUE.bits} are read, narrow it"))
    name, port = found.get("channel", ("", Port("input", 32)))
    if channels > 1 << port.bits:
        why = f"has {port.bits} bits, which do not number {channels} channels; widen it"
        faults.append((name, "channel", why))
    return faults
