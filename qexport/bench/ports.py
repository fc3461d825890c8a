"""The ports of a user's module, read with pyslang before anything is built, against the interface of the bench."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qexport.bench.interface import Port, Stream
from qexport.core.signals import undisturbed
from qexport.errors import QexportError, few, near

MOST_FAULTS = 40  # of one module; fewer than that, all are named at once
_DIRECTIONS = {"In": "input", "Out": "output"}


@dataclass(frozen=True)
class Module:
    """A module of the user: where it is declared, and its ports with the place of each, both as file:line."""

    name: str
    place: str
    ports: dict[str, tuple[str, Port]]


def connected(module: Module, streams: Sequence[Stream]) -> tuple[Stream, ...]:
    """The streams that a module has; raises QexportError naming every port that is missing, extra or of another size.

    All streams that go into the design must be there, and at least one that comes out of it.
    """
    found = tuple(s for s in streams if s.driven or module.ports.keys() & s.ports.keys())
    needed = {"clk": Port("input", 1), "rst": Port("input", 1)}
    for stream in found:
        needed |= stream.ports
    faults = []
    for name, port in needed.items():
        place, own = module.ports.get(name, (module.place, None))
        if own is None:
            faults.append(f"{place}: module {module.name} has no port {name}, {port}")
        elif own != port:
            faults.append(f"{place}: port {name} is {own}, not {port}")
    faults += [
        f"{place}: port {name} is not one of the set's"
        for name, (place, _) in module.ports.items()
        if name not in needed
    ]
    if all(stream.driven for stream in found):
        results = ", ".join(f"m_{stream.memory}_t*" for stream in streams if not stream.driven)
        faults.append(f"{module.place}: module {module.name} has no results; it needs at least one of {results}")
    if faults:
        raise QexportError(f"dut: {few(faults, between='; ', most=MOST_FAULTS)}; dut.sv of the set shows the ports")
    return found


def check_files(sources: Sequence[Path], name: str) -> None:
    """Raises QexportError when a file of the user's module `name` is not there."""
    for file in sources:
        if not file.is_file():
            raise QexportError(f"dut: {file} does not exist or is no file; give the file of your module '{name}'")


def read_module(sources: Sequence[Path], package: Path | None, folders: Sequence[Path], name: str) -> Module:
    """The module `name` of the sources, which may import the set's package, if any, and include files of the folders.

    Raises QexportError when there is no such module. Other mistakes are the simulator's to name.
    """
    try:
        with undisturbed():
            import pyslang  # here, because no other command needs it
            from pyslang import ast, syntax
    except ImportError:
        raise QexportError(
            "dut: pyslang, which reads the ports of your module, is not installed; pip install 'qexport[sim]'"
        ) from None

    files = [*([] if package is None else [package]), *sources]
    for path in (*files, *folders):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise QexportError(f"dut: {path} has a name that is not UTF-8; rename it") from None
    manager = pyslang.SourceManager()
    manager.setDisableProximatePaths(True)  # name files as they were given
    for folder in folders:
        manager.addUserDirectories(str(folder))
    options = ast.CompilationOptions()
    options.topModules = {name}
    compilation = ast.Compilation(pyslang.Bag([options]))
    # one unit: macros of one file hold in the next, as in the simulators
    compilation.addSyntaxTree(syntax.SyntaxTree.fromFiles([str(file) for file in files], manager))
    tops = [top for top in compilation.getRoot().topInstances if top.name == name]
    if not tops:
        definitions = [d for d in compilation.getDefinitions() if isinstance(d, ast.DefinitionSymbol)]
        modules = [d.name for d in definitions if d.definitionKind == ast.DefinitionKind.Module]
        there = f"it has {few(near(name, sorted(modules)))}: name yours with --top" if modules else "it has none"
        raise QexportError(f"dut: {few(sources)}: no module '{name}'; {there}")

    def place(symbol: ast.Symbol) -> str:
        at = manager.getFullyExpandedLoc(symbol.location)
        return f"{manager.getRawFileName(at.buffer)}:{manager.getLineNumber(at)}"

    ports = {}
    for port in tops[0].body.portList:
        plain = isinstance(port, ast.PortSymbol) and port.type.isIntegral
        direction = _DIRECTIONS.get(port.direction.name, port.direction.name.lower()) if plain else "no vector"
        bits, signed = (port.type.bitWidth, port.type.isSigned) if plain else (0, False)
        ports[port.name] = place(port), Port(direction, bits, signed)
    return Module(name, place(tops[0].definition), ports)
