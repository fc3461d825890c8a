"""Proof that a changed netlist behaves as the unchanged one, for all inputs and all time, by Yosys and ABC.

Both netlists start in the same state, whatever it is, and are reset for two cycles. From then on their outputs must
agree wherever AXI4-Stream gives them a meaning, while each driven stream carries as many words as in the bench.

A whole array is too large a sequential circuit to ask about. So registers, memories and arithmetic that decide about
nothing but data are cut: a cut cell of the unchanged netlist gives any value at all; that of the changed one gives the
same value as long as both are given the same, and any other value when they are not. Of registers and memories that
may go bit by bit, as nothing there mixes bits. What holds for all such values holds for the real ones. (Localization:
Kurshan, Computer-Aided Verification of Coordinating Processes, 1994.) Where a change of data passes registers on its
way out, these may be left out instead (way.py): values in them stay related.

What is given in the first cycle of the reset does not count, as a counter may then stand where no run ever brings it.
So cut cells begin with what the first cycle left in the changed netlist: with that the unchanged one may begin, too.
Each run of the changed netlist is then one of the unchanged netlist, whose reset may be shorter by a cycle.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.errors import QexportError
from qexport.sim.supervisor import call
from qexport.sim.work import scratch_folder
from qexport.trust.clock import ENDLESS, Clock
from qexport.trust.way import way_of

if TYPE_CHECKING:
    from pyosys.libyosys import Module, SigSpec

PROOF = "Yosys and ABC: after a reset no inputs make a difference"
LIMIT = 20  # seconds of a question to ABC; building it and simplifying it may take some times as long
ARITHMETIC = ("$add", "$sub", "$mul")
CUT = ("$dff", "$mem_v2", *ARITHMETIC)
BY_BITS = ("D", "WR_DATA", "WR_EN")  # ports of registers and memories of which each bit goes to that bit alone
EXACT = "\\exact"  # the attribute of cells that are not cut
THROUGH = "through"
COPIES = ("gold", "gate")  # the unchanged and the changed netlist, as ABC calls them
# Which cells are not cut, and which must never be given different values. `near` are the registers that the change is
# in or reaches first, `control` all that decides about valid, ready and last. A proof is easier where those that are
# cut must be given the same, and easiest where all must, as both netlists then share the registers; but that is rarer.
# `through`: none; the registers that the change passes on its way out are left out. `bits`: a proof that looks at each
# bit of registers and memories, which takes long.
ATTEMPTS = (("near", "cut"), ("control", "all"), (THROUGH, "cut"), ("control", "none"), ("control", "bits"))


def needs_yosys() -> None:
    """Raises QexportError where Yosys is missing."""
    if find_spec("pyosys") is None:
        raise QexportError("mutants: Yosys is missing; pip install 'qexport[selftest]'")


def yosys(folder: Path, *commands: str, clock: Clock = ENDLESS) -> str:
    """What Yosys prints when it runs the commands in a folder; raises QexportError with its error."""
    program = (
        "import sys; from pyosys import libyosys; design = libyosys.Design()\n"
        "for command in sys.argv[1:]: libyosys.run_pass(command, design)"
    )
    parts = (part.strip() for command in commands for part in command.split(";"))
    return _run(folder, program, *parts, limit=clock.limit())


def whole_paths(places: str, folder: Path) -> str:
    """Places in files, one a line or `|` between them; slang gives paths relative to the folder where it ran."""
    return re.sub(r"(^|\|)(\.\./[^:|]+)", lambda m: f"{m[1]}{(folder / m[2]).resolve()}", places, flags=re.MULTILINE)


def _run(folder: Path, program: str, *arguments: str, limit: float | None = None) -> str:
    """Run a program that uses Yosys in a process of its own, which an error ends."""
    needs_yosys()
    done = call([sys.executable, "-c", program, *arguments], cwd=folder, limit=limit)
    if done.returncode != 0:
        error = re.search(r"^.*ERROR: .*$", done.stdout + done.stderr, re.MULTILINE)
        said = whole_paths(error[0], folder) if error else done.stderr.strip()[-300:]
        raise QexportError(f"mutants: Yosys: {said}")
    return done.stdout


def equivalent(netlist: Path, change: str, words: dict[str, int], clock: Clock = ENDLESS) -> bool | None:
    """Whether a change of a flat netlist (RTLIL) is proven to make no difference; False: it makes one, or no proof.

    None: the time was over before it was known.

    `change`: the options of Yosys `mutate`. `words`: how many words each driven stream carries, by its ports' prefix.
    """
    found = find_spec("pyosys")
    assert found is not None
    assert found.origin is not None
    abc = Path(found.origin).with_name("yosys-abc")
    for exact, same in ATTEMPTS:
        with scratch_folder() as place:
            spec = json.dumps([str(netlist.resolve()), change, words, exact, same])
            try:
                program = f"import json, sys\nfrom {__name__} import build\nbuild(*json.loads(sys.argv[1]))"
                _run(place, program, spec, limit=clock.limit(4 * LIMIT))
                proof: list[str | Path] = [abc, "-c", f"read both.aig; scorr; pdr -a -T {LIMIT}"]
                said = call(proof, cwd=place, limit=clock.limit(4 * LIMIT)).stdout
            except QexportError:  # too large, or cells that are no gates of one clock
                said = ""
        if re.search(r"^Properties: +All = 1\. Proved = 1\.", said, re.MULTILINE):
            return True
        if clock.over:
            return None
    return False


# --- within the process of Yosys ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """A cell that was cut; `ins` and `outs`: the width of each of the ports that stand for its own, by name.

    `exact`: a register that the harness has instead, for each netlist or for both. `bits`: of a register, or of a word
    of a memory; 1 where all bits depend on all.
    """

    kind: str
    exact: bool
    bits: int
    ins: dict[str, int]
    outs: dict[str, int]


def build(netlist: str, change: str, words: dict[str, int], exact: str, same: str) -> None:
    """Write both.aig into the working folder: both netlists, with one output that is 1 when they disagree."""
    from pyosys.libyosys import Design, IdString, run_pass

    design = Design()

    def run(*commands: str) -> None:
        for command in commands:
            run_pass(command, design)

    (cell,) = re.findall(r"-cell (\S+)", change)
    run(
        f'read_rtlil "{netlist}"', "delete t:$scopeinfo", "setundef -zero",
        "select -set control w:*_tvalid w:*_tready w:*_tlast %ci*",
        f"select -set near c:{cell} %co*:-[CLK,Q,RD_DATA] t:$mem_v2 %d",
        f"setattr -set {'control' if exact == THROUGH else 'exact'} 1 @{'control' if exact == THROUGH else exact}",
    )  # fmt: skip
    (core,) = design.modules_.values()
    for each in core.cells_.values():  # a product with a constant has zeros in known places
        if str(each.type) in ARITHMETIC and any(signal.is_fully_const() for signal in each.connections_.values()):
            each.set_bool_attribute(IdString(EXACT))
    passed = _passed(core, cell, run) if exact == THROUGH else ()
    run("copy qexport_core gold", f"mutate {change}", "rename qexport_core gate")
    for module in design.modules_.values():
        for name in passed:
            register = module.cell(IdString(name))
            module.connect(register.getPort(IdString("\\Q")), register.getPort(IdString("\\D")))
            module.remove(register)
    run("dffunmap")
    run("select -assert-none t:$dff r:CLK_POLARITY=0 %i")  # one edge of one clock
    modules = {module.name.str()[1:]: module for module in design.modules_.values()}
    cells, _ = (_cut(modules[copy]) for copy in COPIES)
    Path("harness.v").write_text(_harness(modules["gold"], cells, words, same))
    run(
        "read_verilog harness.v", "hierarchy -top harness", "flatten", "proc", "dffunmap", "techmap", "simplemap",
        "dffunmap", "setundef -undriven -zero", "aigmap", "write_aiger -zinit both.aig",
    )  # fmt: skip


def _passed(core: "Module", changed: str, run: Callable[[str], None]) -> list[str]:
    """Registers to be left out of both netlists, as `way_of` says; the arithmetic on the way is made exact."""
    from pyosys.libyosys import IdString

    run("write_json core.json")
    (module,) = json.loads(Path("core.json").read_text())["modules"].values()
    registers, gates = way_of(module["cells"], changed.removeprefix("\\"))
    for name in map(_rtlil, gates):
        if str(core.cell(IdString(name)).type) in ARITHMETIC:
            core.cell(IdString(name)).set_bool_attribute(IdString(EXACT))
    return [*map(_rtlil, registers)]


def _rtlil(name: str) -> str:
    """The name of a cell as RTLIL has it, which JSON gives."""
    return name if name.startswith("$") else f"\\{name}"


def _cut(module: "Module") -> list[_Cut]:
    """Turn all registers, and all other cells of CUT that are not exact, into ports."""
    from pyosys.libyosys import Const, IdString, SigSpec

    def port(name: str, width: int, driven: bool) -> "SigSpec":
        wire = module.addWire(IdString(f"\\{name}"), width)
        wire.port_input, wire.port_output = driven, not driven
        return SigSpec(wire)

    found = []
    for cell in list(module.cells_.values()):
        name, kind, exact = cell.name.str(), str(cell.type), cell.has_attribute(IdString(EXACT))
        if kind not in CUT or (exact and kind != "$dff"):
            continue
        signals = {id_.str()[1:]: signal for id_, signal in cell.connections_.items()}
        if kind == "$mem_v2" and cell.getParam(IdString("\\WR_PORTS")).as_int() == 1:
            # what is not written does not matter
            enable, nothing = signals["WR_EN"], SigSpec(Const(0, signals["WR_ADDR"].size()))
            signals["WR_DATA"] = module.And(IdString(f"\\data:{name}"), signals["WR_DATA"], enable)
            writes = module.ReduceOr(IdString(f"\\writes:{name}"), enable)
            signals["WR_ADDR"] = module.Mux(IdString(f"\\address:{name}"), nothing, signals["WR_ADDR"], writes)
        bits = 1 if kind in ARITHMETIC else cell.getParam(IdString("\\WIDTH")).as_int()
        cut = _Cut(kind, exact, bits, {}, {})
        for own, signal in signals.items():
            stands, gives = f"cut:{name}:{own}", cell.output(IdString(f"\\{own}"))
            ends = (signal, port(stands, signal.size(), gives))
            module.connect(*(ends if gives else reversed(ends)))
            (cut.outs if gives else cut.ins)[stands] = signal.size()
        module.remove(cell)
        found.append(cut)
    module.fixup_ports()
    return found


def _harness(gold: "Module", cells: list[_Cut], words: dict[str, int], same: str) -> str:
    """Verilog around both netlists: reset, streams, the cut cells, the registers, and the output `differs`."""
    wires = [wire for wire in gold.wires_.values() if wire.port_input or wire.port_output]
    ports = {wire.name.str()[1:]: (wire.width, bool(wire.port_input)) for wire in wires}
    harness = _Harness(words, same)
    for name, (width, driven) in ports.items():
        harness.add_port(name, width, driven)
    for number, cell in enumerate(cells):
        harness.add_cell(number, cell)
    return harness.module([*ports])


def _both(name: str) -> tuple[str, str]:
    """The names in the harness of a port or a wire of each netlist."""
    return f"\\gold:{name} ", f"\\gate:{name} "


def _agree(names: Iterable[str]) -> str:
    return " && ".join("{} == {}".format(*_both(name)) for name in names)


class _Harness:
    """The text so far. `seen`: what must agree at the outputs, behind the reset; `given`: at the cells, in it, too."""

    def __init__(self, words: dict[str, int], same: str):
        self.words, self.same = words, same
        self.inputs, self.seen, self.given = ["input clk"], list[str](), list[str]()
        self.text = ["reg first = 1, began = 0;", "always @(posedge clk) {first, began} <= {1'b0, !first};"]

    def add_port(self, name: str, width: int, driven: bool) -> None:
        for inner in _both(name):
            self.text.append(f"wire [{width - 1}:0] {inner};")
            if name in ("clk", "rst"):
                self.text.append(f"assign {inner} = {'!began' if name == 'rst' else name};")
        if name in ("clk", "rst") or name.startswith("cut:"):
            return
        if not driven:
            self._compare(name)
            return
        self.inputs.append(f"input [{width - 1}:0] \\{name} ")
        stream, _, part = name.rpartition("_")
        if part == "tvalid" and stream in self.words:
            self._drive_valid(name, stream)
        else:
            self.text += [f"assign {inner} = \\{name} ;" for inner in _both(name)]

    def _drive_valid(self, name: str, stream: str) -> None:
        """As many words as the stream carries."""
        words = self.words[stream]
        for inner, ready, sent, done in zip(
            _both(name), _both(f"{stream}_tready"), _both(f"sent:{stream}"), _both(f"done:{stream}"), strict=True
        ):
            self.text += [
                # as designs count, which makes proofs easy: from 0 on, and back to it
                f"reg [{words.bit_length() - 1}:0] {sent} = 0;",
                f"reg {done} = 0;",
                f"assign {inner} = began && \\{name} && !{done};",
                f"always @(posedge clk) if ({inner} && {ready}) begin",
                f"  {sent} <= {sent} == {words - 1} ? 0 : {sent} + 1;",
                f"  {done} <= {sent} == {words - 1};",
                "end",
            ]

    def _compare(self, name: str) -> None:
        """An output, where AXI4-Stream gives it a meaning."""
        stream, _, part = name.rpartition("_")
        matters = part in ("tdata", "tlast") or (part == "tready" and stream in self.words)
        valid = _both(f"{stream}_tvalid") if matters else ("1", "1")
        gold, gate = (f"({when} ? {inner}: 0)" for when, inner in zip(valid, _both(name), strict=True))
        self.seen.append(f"{gold} == {gate}")

    def add_cell(self, number: int, cell: _Cut) -> None:
        if self.same == "all" and cell.exact:
            self.given.append(_agree(cell.ins))
        elif self.same in ("all", "cut") and not cell.exact:
            self.given.append(f"(first || ({_agree(cell.ins)}))")
        if cell.exact:
            self._keep(cell)
            return
        self.text += self._equal(number, cell)
        for name, width in cell.outs.items():
            self.inputs += [f"input [{width - 1}:0] \\{name} ", f"input [{width - 1}:0] \\other:{name} "]
            unchanged, changed = _both(name)
            equal = f"{{{width // self._bits(cell)}{{equal_{number}}}}}"
            self.text += [
                f"assign {unchanged} = \\{name} ;",
                f"assign {changed} = ({equal} & \\{name} ) | (~{equal} & \\other:{name} );",
            ]

    def _keep(self, cell: _Cut) -> None:
        """A register that is not cut, for each netlist or, where all are given the same, for both."""
        ((name, width),) = cell.outs.items()
        self.inputs.append(f"input [{width - 1}:0] \\{name} ")  # its first value
        kept = _both(f"kept:{name}")
        for inner, follows, register in zip(_both(name), _both(f"{name[:-1]}D"), kept, strict=True):
            self.text.append(f"reg [{width - 1}:0] {register};")
            self.text.append(f"always @(posedge clk) {register} <= {follows};")
            source = kept[0] if self.same == "all" else register
            self.text.append(f"assign {inner} = first ? \\{name} : {source};")

    def _equal(self, number: int, cell: _Cut) -> list[str]:
        """Which bits of both netlists' cells are the same: as long as they are given the same."""
        equal, bits = f"equal_{number}", f"[{self._bits(cell) - 1}:0]"
        ones = f"{{{self._bits(cell)}{{1'b1}}}}"
        if self.same not in ("none", "bits"):
            return [f"wire {bits} {equal} = {ones};"]
        given = self._alike(cell, [*cell.ins])
        if cell.kind == "$dff":
            return [f"reg {bits} {equal} = {ones};", f"always @(posedge clk) {equal} <= first ? {ones} : {given};"]
        if cell.kind == "$mem_v2":  # what is written now is read later
            reads = self._alike(cell, [name for name in cell.ins if name.rpartition(":")[2].startswith("RD_")])
            return [
                f"reg {bits} until_{number} = {ones};",
                f"wire {bits} {equal} = until_{number} & {reads};",
                f"always @(posedge clk) until_{number} <= first ? {ones} : until_{number} & {given};",
            ]
        return [f"wire {bits} {equal} = {given};"]

    def _bits(self, cell: _Cut) -> int:
        """How many parts of a cell are looked at by themselves."""
        return cell.bits if self.same == "bits" else 1

    def _alike(self, cell: _Cut, names: Sequence[str]) -> str:
        """For which parts of a cell both netlists are given the same at these of its ports."""
        bits = self._bits(cell)
        whole = [name for name in names if bits == 1 or name.rpartition(":")[2] not in BY_BITS]
        alike = [f"{{{bits}{{{_agree(whole)}}}}}"]
        for name in (name for name in names if name not in whole):
            for at in range(0, cell.ins[name], bits):
                alike.append("~({}[{at} +: {n}] ^ {}[{at} +: {n}])".format(*_both(name), at=at, n=bits))
        return " & ".join(alike)

    def module(self, ports: Sequence[str]) -> str:
        self.text.append(f"wire as_seen = {' && '.join(self.seen)};")
        self.text.append(f"assign differs = !({' && '.join(['(!began || as_seen)', *self.given])});")
        for copy, own in zip(COPIES, zip(*map(_both, ports), strict=True), strict=True):
            connected = (f".\\{name} ({inner})" for name, inner in zip(ports, own, strict=True))
            self.text.append(f"{copy} {copy} ({', '.join(connected)});")
        body = "\n".join(self.text)
        return f"module harness ({', '.join(self.inputs)}, output differs);\n{body}\nendmodule\n"
