"""The ports of a user's module, read with pyslang before anything is built, against the interface of the bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.bench.design import OPEN, Design
from qexport.bench.interface import Port, Stream
from qexport.core.printed import columns_text
from qexport.core.signals import undisturbed
from qexport.errors import QexportError, few, near

if TYPE_CHECKING:
    import pyslang

MOST_FAULTS = 40  # of one module; fewer than that, all are named at once
NOTHING = "-"  # in place of a port
# macros that SystemVerilog demands, and that not every simulator has
COVERAGE = {
    "START": 0, "STOP": 1, "RESET": 2, "CHECK": 3, "MODULE": 10, "HIER": 11, "ASSERTION": 20, "FSM_STATE": 21,
    "STATEMENT": 22, "TOGGLE": 23, "OVERFLOW": -2, "ERROR": -1, "NOCOV": 0, "OK": 1, "PARTIAL": 2,
}  # fmt: skip
_MACROS_OF_SLANG = ("__slang__", "__slang_major__", "__slang_minor__", *(f"SV_COV_{name}" for name in COVERAGE))
_NO_PACKAGE = ("UnknownPackage", "UnknownClassOrPackage")
_DIRECTIONS = {"In": "input", "Out": "output"}


@dataclass(frozen=True)
class Module:
    """A module of the user: where it is declared, and its ports with the place of each, both as file:line.

    `params`: its parameters with their values.
    """

    name: str
    place: str
    ports: dict[str, tuple[str, Port]]
    params: dict[str, str] = field(default_factory=dict)


def connected(module: Module, streams: Sequence[Stream], design: Design) -> tuple[Stream, ...]:
    """The streams that a module has; raises QexportError with a table of those ports that differ.

    All streams that the bench needs to drive must be there, and at least one that comes out. A memory that may go
    either way comes out where the module has ports for that; where it goes in, nothing else is needed that does.
    """
    there = [s for s in streams if module.ports.keys() & s.ports.keys()]
    back = {s.memory for s in streams if not s.driven}
    turned = {s.memory for s in there if s.driven and s.memory in back} - {s.memory for s in there if not s.driven}
    wanted = [s for s in streams if s in there or (s.driven and s.needed and not turned)]
    found = tuple(s for s in wanted if not s.driven or s.memory not in back - turned)
    needed = {design.clock: Port("input", 1), design.reset: Port("input", 1)}
    for stream in found:
        needed |= stream.ports
    faults = []
    for name, port in needed.items():
        place, own = module.ports.get(name, (module.place, None))
        if own != port:
            faults.append((name, str(port), str(own or NOTHING), place))
    faults += [(name, NOTHING, str(port), place) for name, (place, port) in module.ports.items() if name not in needed]
    if all(stream.driven for stream in found):
        results = ", ".join(stream.memory for stream in streams if not stream.driven)
        faults.append(("m_<result>_t*", f"{results}: one at least", NOTHING, module.place))
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        table = columns_text([("port", "the set has", "the module has", "place"), *faults[:MOST_FAULTS]])
        raise QexportError(
            "\n".join([
                f"dut: {module.place}: module {module.name}: {len(faults)} port{'s' * (len(faults) > 1)} not those of "
                "dut.sv of the set; rename, --tie, or let `qexport wrap` write an adapter",
                table,
                *more,
            ])
        )  # fmt: skip
    return found


def read_module(design: Design, package: Path | None, folders: Sequence[Path]) -> Module:
    """The module of a design, which may import the set's package, if any, and include files of the folders.

    Its ports are those that the design does not tie. Raises QexportError when there is no such module, or when it lacks
    what the design names. Other mistakes are the simulator's to name.
    """
    manager, compilation = compiled(design, [] if package is None else [package], folders)
    from pyslang import ast

    name = design.top
    tops = [top for top in compilation.getRoot().topInstances if top.name == name]
    if not tops:
        definitions = [d for d in compilation.getDefinitions() if isinstance(d, ast.DefinitionSymbol)]
        modules = [d.name for d in definitions if d.definitionKind == ast.DefinitionKind.Module]
        there = f"it has {few(near(name, sorted(modules)))}: name yours with --top" if modules else "it has none"
        raise QexportError(f"dut: {few(design.files)}: no module '{name}'; {there}")

    def place(symbol: ast.Symbol) -> str:
        at = manager.getFullyExpandedLoc(symbol.location)
        file = manager.getRawFileName(at.buffer)
        origin = design.origins.get(Path(file))
        return f"{file}:{manager.getLineNumber(at)}" if origin is None else str(origin)

    _refuse_unknown(design, compilation, manager, package, tops[0].body.portList)
    ports = {}
    for port in tops[0].body.portList:
        plain = isinstance(port, ast.PortSymbol) and port.type.isIntegral
        direction = _DIRECTIONS.get(port.direction.name, port.direction.name.lower()) if plain else "no vector"
        bits, signed = (port.type.bitWidth, port.type.isSigned) if plain else (0, False)
        ports[port.name] = place(port), Port(direction, bits, signed)
    params = {p.name: str(getattr(p, "value", "a type")) for p in tops[0].body.parameters if not p.isLocalParam}
    for parameter in design.params:
        if parameter not in params:
            raise QexportError(
                f"param: module {name} has no parameter {parameter}; it has {few(near(parameter, list(params)))}"
            )
    names = list(ports)
    for tied, value in design.ties.items():
        direction = ports[tied][1].direction if tied in ports else None
        if direction is None:
            raise QexportError(f"tie: module {name} has no port {tied}; it has {few(near(tied, names))}")
        if (direction == "input") == (value == OPEN):
            remedy = "give it a value" if value == OPEN else f"an output can be {OPEN} only"
            raise QexportError(f"tie: port {tied} of module {name} is {direction}, not one for '{value}'; {remedy}")
        del ports[tied]
    return Module(name, place(tops[0].definition), ports, params)


def _refuse_unknown(
    design: Design, compilation: Any, manager: pyslang.SourceManager, package: Path | None, ports: Sequence[Any]
) -> None:
    """Raises QexportError for a package that is not there, or for what leaves the type of a port unknown: without it
    the ports cannot be read."""
    import pyslang

    untyped = any(getattr(port, "type", None) is not None and port.type.isError for port in ports)
    engine = pyslang.DiagnosticEngine(manager)
    found: dict[str, str] = {}
    for one in compilation.getAllDiagnostics():
        code = str(one.code).removeprefix("DiagCode(").removesuffix(")")
        if one.isError() and (code in _NO_PACKAGE or untyped):
            at = manager.getFullyExpandedLoc(one.location)
            file = manager.getRawFileName(at.buffer)
            place = str(design.origins.get(Path(file), f"{file}:{manager.getLineNumber(at)}"))
            found.setdefault(engine.formatMessage(one), place)
    if found:
        own = "" if package is None else f" (that of the set is {package.stem})"
        lines = [f"dut: {place}: {said}" for said, place in found.items()][:MOST_FAULTS]
        lines[0] += f"; add the file that declares it{own}, or correct it"
        raise QexportError("\n".join(lines))


def top_of(design: Design) -> str:
    """The one module that no other one of a design uses; raises QexportError where there are none or several."""
    _, compilation = compiled(replace(design, top=""), [], [])
    tops = [str(top.name) for top in compilation.getRoot().topInstances]
    if len(tops) != 1:
        raise QexportError(
            f"wrap: {few(design.files)}: modules that no other one uses: {few(tops)}; name one with --top"
        )
    return tops[0]


def is_legal(design: Design, others: Sequence[Path], folders: Sequence[Path]) -> bool:
    """Whether a design and other sources are SystemVerilog without an error; what slang finds, not a simulator."""
    _, compilation = compiled(design, others, folders)
    return not any(found.isError() for found in compilation.getAllDiagnostics())


def compiled(
    design: Design, others: Sequence[Path], folders: Sequence[Path], predefined: Sequence[str] = ()
) -> tuple[pyslang.SourceManager, pyslang.ast.Compilation]:
    """The other sources and then those of the design, read as one unit, with the design's module as the top.

    `predefined`: macros of the simulator in whose place slang reads; slang's own are then not defined.
    """
    try:
        with undisturbed():
            import pyslang  # here, because no other command needs it
            from pyslang import ast, parsing, syntax
    except ImportError:
        raise QexportError(
            "dut: pyslang, which reads the ports of your module, is not installed; pip install 'qexport[sim]'"
        ) from None
    design.check_files()
    files, within = [*others, *design.files], [*folders, *design.folders]
    for path in (*files, *within):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise QexportError(f"dut: {path} has a name that is not UTF-8; rename it") from None
    manager = pyslang.SourceManager()
    manager.setDisableProximatePaths(True)  # name files as they were given
    for folder in within:
        manager.addUserDirectories(str(folder))
    macros = parsing.PreprocessorOptions()
    macros.predefines = [*predefined, *design.defines]
    known = {macro.partition("=")[0] for macro in predefined}
    macros.undefines = [name for name in _MACROS_OF_SLANG if name not in known] if predefined else []
    options = ast.CompilationOptions()
    if design.top:
        options.topModules = {design.top}
    options.paramOverrides = [f"{name}={value}" for name, value in design.params.items()]
    given = pyslang.Bag([options, macros])
    compilation = ast.Compilation(given)
    # one unit: macros of one file hold in the next, as in the simulators
    compilation.addSyntaxTree(syntax.SyntaxTree.fromFiles([str(file) for file in files], manager, given))
    return manager, compilation
