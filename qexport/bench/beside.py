"""What a design does beside computing: tables that it loads, what it prints, and what could reach bench or set.

slang reads the sources behind the preprocessor, with the simulator's own macros, so that neither a macro nor a string
that is put together hides anything. A system task that is not known here is refused: a list of those that do harm would
be one name too short.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qexport.bench.design import REFUSED, Design
from qexport.bench.ports import compiled
from qexport.errors import QexportError, few
from qexport.sets.folder import file_sha256

if TYPE_CHECKING:
    import pyslang

LATE = ("upward", "unread")  # said when the simulator has compiled the sources: other mistakes are its to name
TABLE, PRINT, END = "table", "print", "end"  # what is fine, and named in the verdict

_COMPUTE = frozenset(
    re.findall(
        r"\w+",
        """
  bits clog2 signed unsigned cast typename isunknown countbits countones onehot onehot0 past rose fell stable changed
  sampled left right low high increment size dimensions unpacked_dimensions time stime realtime random urandom
  urandom_range dist_uniform dist_normal dist_exponential dist_poisson dist_chi_square dist_t dist_erlang itor rtoi
  realtobits bitstoreal shortrealtobits bitstoshortreal ln log10 exp sqrt pow floor ceil sin cos tan asin acos atan
  atan2 hypot sinh cosh tanh asinh acosh atanh abs min max sformat sformatf psprintf swrite swriteb swriteh swriteo
  sscanf timeformat printtimescale assertkill assertcontrol asserton assertoff fgetc fgets fscanf fread ungetc feof
  ferror ftell fclose fflush setup hold setuphold recovery removal recrem skew timeskew fullskew period width
  nochange unit root
""",
    )
)
_PRINTS = [f"{task}{base}" for task in ("display", "write", "strobe", "monitor") for base in ("", "b", "h", "o")]
_PRINTS += ["monitoron", "monitoroff", "info", "warning", "error"]
_WRITES = [f"f{task}{base}" for task in ("display", "write", "strobe", "monitor") for base in ("", "b", "h", "o")]
_WRITES += ["rewind", "fseek", "writememh", "writememb", "sdf_annotate"]
_WRITES += [f"dump{what}" for what in ("file", "vars", "on", "off", "all", "limit", "flush")]
_WRITES += [f"dumpports{what}" for what in ("", "on", "off", "all", "limit", "flush")]
_LOADS = ("readmemh", "readmemb", "fopen")
_TASKS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_PRINTS, (PRINT, "prints")),
    **dict.fromkeys(_WRITES, ("files", "writes files, or moves in them")),
    **dict.fromkeys(("finish", "stop", "fatal", "exit"), (END, "can end the run")),
    **dict.fromkeys(("test$plusargs", "value$plusargs"), ("plusargs", "reads the arguments of the bench")),
}
_HIDING = re.compile(r"`(undefineall|pragma\s+protect|protect\w*)")
_OF_A_RUN = ("set", "out", "include", "build")  # what stands in the folder of a run
_LIBRARY = ("", ".v", ".sv")  # what Verilator looks for in folders, by these parts of the syntax
_LOOKED_UP = {
    "HierarchyInstantiation": "type", "PackageImportItem": "package", "InterfacePortHeader": "nameOrKeyword",
    "NamedType": "name", "VirtualInterfaceType": "name", "ConfigCellIdentifier": "cell",
}  # fmt: skip
_UNRESOLVED = ("UndeclaredIdentifier", "CouldNotResolveHierarchicalPath", "TypoIdentifier")


class Beside(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, order=True):
    """One thing that a design does beside computing. `sha256`: of the file that it loads."""

    file: str
    line: int
    kind: str
    what: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Around:
    """Where a design will run: the set's folder, the bench's module names, and the simulator's own macros."""

    folder: Path
    names: Collection[str]
    predefined: Sequence[str] = ()


def beside(
    design: Design, package: Path | None, folders: Sequence[Path], around: Around
) -> tuple[tuple[Beside, ...], dict[str, str]]:
    """What a design does beside computing, by file and line; and the SHA-256 of the files that were read for it, by
    their paths: its own, then those that they include."""
    from pyslang import ast

    manager, compilation = compiled(design, [] if package is None else [package], folders, around.predefined)
    known = {str(one.name) for one in (*compilation.getDefinitions(), *compilation.getPackages())}
    scan = _Scan(design, around, manager, known)
    errors = list(scan.of_errors(compilation.getAllDiagnostics()))
    scope: Any = compilation.getRoot()  # which its types do not say
    context = ast.EvalContext(ast.ASTContext(scope, ast.LookupLocation.max))
    calls: _Calls = {}

    def visit(node: Any) -> None:
        if isinstance(node, ast.CallExpression) and node.isSystemCall and node.subroutineName[1:] in _LOADS:
            given = [_text(argument, context) for argument in node.arguments[:2]]
            calls.setdefault(_exactly(node.sourceRange.start), []).append(given)

    compilation.getRoot().visit(visit)
    found = [*errors, *scan.of_included(), *scan.of_directives()]
    for tree in compilation.getSyntaxTrees():
        found += scan.of_tokens(tree.root, calls)
    return tuple(sorted(set(found))), _sources(design, manager, [] if package is None else [package], folders)


def read_otherwise(
    design: Design, package: Path | None, folders: Sequence[Path], around: Around, text: str
) -> tuple[Beside, ...]:
    """Whether a simulator reads other words than slang: `text` is what its preprocessor makes of the same sources.

    Includes may be looked for elsewhere, a macro may be defined in one of the two alone: what is hidden from slang in
    such a way was not looked at.
    """
    from pyslang import syntax

    _, compilation = compiled(design, [] if package is None else [package], folders, around.predefined)
    theirs = _words(syntax.SyntaxTree.fromText(text).root)
    ours = [word for tree in compilation.getSyntaxTrees() for word in _words(tree.root)]
    differ = [word for pair in zip_longest(ours, theirs) if pair[0] != pair[1] for word in pair if word is not None]
    what = f"the simulator reads otherwise than slang does, from here on: {few(differ[:2])}"
    file = design.files[-1]
    return (Beside(file=str(design.origins.get(file, file)), line=1, kind="unread", what=what),) if differ else ()


def _words(root: Any) -> list[str]:
    """All words, texts, numbers and signs of sources."""
    from pyslang import parsing

    found: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, parsing.Token) and not node.isMissing and str(node.rawText):
            found.append(str(node.rawText))

    root.visit(visit)
    return found


def _sources(
    design: Design, manager: pyslang.SourceManager, others: Sequence[Path], folders: Sequence[Path]
) -> dict[str, str]:
    own = [design.origins.get(file, file) for file in design.files]
    known = {path.resolve() for path in (*others, *own, *design.origins)}
    read = [Path(str(manager.getRawFileName(buffer))) for buffer in manager.getAllBuffers()]
    beside_package = [folder.resolve() for folder in folders]
    included = [
        path
        for path in sorted(set(read))
        if path.is_file() and path.resolve() not in known and path.absolute().parent not in beside_package
    ]
    return {str(path): file_sha256(path) for path in (*own, *included)}


def refuse(found: Sequence[Beside], allowed: Collection[str]) -> None:
    """Raises QexportError with a line for each thing that is not allowed."""
    bad = [one for one in found if one.kind in REFUSED and one.kind not in allowed]
    if bad:
        lines = [f"dut: {one}; {REFUSED[one.kind]}, or --allow {one.kind}" for one in bad[:_MOST]]
        more = [f"... and {len(bad) - _MOST} more"] if len(bad) > _MOST else []
        raise QexportError("\n".join([*lines, *more]))


_MOST = 20  # lines


def tables(found: Sequence[Beside]) -> dict[str, Path]:
    """The files that a design loads by relative names, which start at the working directory."""
    names = [match[1] for one in found if one.kind == TABLE and (match := re.search(r" of '(.*)'$", one.what))]
    return {name: Path(name) for name in names if not Path(name).is_absolute() and Path(name).is_file()}


_Calls = dict[tuple[int, int], list[list[str | None]]]  # what loads files, by the place of its word


def _exactly(location: Any) -> tuple[int, int]:
    """One place in the text that is read, where a line may hold several."""
    return location.buffer.id, location.offset


def _text(argument: Any, context: Any) -> str | None:
    """The constant text of an argument; None where it is known in the run only."""
    found = argument.eval(context)
    value = None if found.hasUnknown() else found.convertToStr().value  # of x simulators make what they like
    return value if isinstance(value, str) else None


class _Scan:
    """`known`: the modules, interfaces and packages that are read."""

    def __init__(self, design: Design, around: Around, manager: pyslang.SourceManager, known: Collection[str]):
        self._design, self._around, self._manager = design, around, manager
        files = [file for folder in design.includes for file in folder.glob("*") if file.suffix in _LIBRARY]
        self._aside = {file.stem: file for file in files if file.stem not in known}

    def place(self, location: Any) -> tuple[str, int]:
        """File, of a made one what it was made of, and line."""
        at = self._manager.getFullyExpandedLoc(location)
        file = str(self._manager.getRawFileName(at.buffer))
        return str(self._design.origins.get(Path(file), file)), self._manager.getLineNumber(at)

    def _one(self, location: Any, kind: str, what: str, sha256: str = "") -> Beside:
        file, line = self.place(location)
        return Beside(file=file, line=line, kind=kind, what=what, sha256=sha256)

    def of_errors(self, diagnostics: Any) -> Iterator[Beside]:
        """Names that the design does not have, and what slang cannot read."""
        for found in diagnostics:
            code = str(found.code).removeprefix("DiagCode(").removesuffix(")")
            name = str(found.args[0]) if found.args else ""
            if code in _UNRESOLVED and not self._is_bench(name):  # of those each word is named below
                yield self._one(found.location, "upward", f"names '{name}', which is not in the design")
            elif found.isError() and code not in _UNRESOLVED:
                yield self._one(
                    found.location, "unread", f"slang finds an error here ({code}{f' {name}' * bool(name)})"
                )

    def of_included(self) -> Iterator[Beside]:
        """Files of the set that are included, other than Verilog."""
        for buffer in self._manager.getAllBuffers():
            path, included = Path(self._manager.getFullPath(buffer)), self._manager.getIncludedFrom(buffer)
            if not path.is_file() or not included:
                continue
            if path.suffix not in (".sv", ".vh", ".svh", ".v") and (self._in_set(path) or self._is_copy(path)):
                yield self._one(included, "set", f"includes {path}, a file of the set or a copy of one")

    def of_directives(self) -> Iterator[Beside]:
        """Directives behind which a simulator reads what slang does not."""
        for buffer in self._manager.getAllBuffers():
            path, text = Path(str(self._manager.getRawFileName(buffer))), str(self._manager.getSourceText(buffer))
            if path.is_file():
                for found in _HIDING.finditer(text):
                    line = text.count("\n", 0, found.start()) + 1
                    what = f"{' '.join(found[0].split())} leaves open what is read"
                    file = str(self._design.origins.get(path, path))
                    yield Beside(file=file, line=line, kind="unread", what=what)

    def _is_bench(self, name: str) -> bool:
        return any(name == own or name.startswith(f"{own}_") for own in self._around.names)

    def _in_set(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._around.folder.resolve())

    def of_tokens(self, root: Any, calls: _Calls) -> list[Beside]:
        """What single words of the sources say."""
        from pyslang import parsing, syntax

        found: list[Beside] = []
        nodes = {
            syntax.SyntaxKind.DPIImport: ("dpi", "imports a function of foreign code"),
            syntax.SyntaxKind.DPIExport: ("dpi", "exports a function to foreign code"),
            syntax.SyntaxKind.BindDirective: ("bind", "binds a module into another one"),
        }
        words = {
            parsing.TokenKind.ForceKeyword: ("force", "forces a signal"),
            parsing.TokenKind.ReleaseKeyword: ("force", "releases a signal"),
            parsing.TokenKind.RootSystemName: ("upward", "begins a name at $root"),
        }

        def visit(node: Any) -> None:
            if not isinstance(node, parsing.Token):
                if node.kind in nodes:
                    found.append(self._one(node.getFirstToken().location, *nodes[node.kind]))
                if (part := _LOOKED_UP.get(node.kind.name)) is not None:
                    name = getattr(node, part)
                    found.extend(self._of_library(name if isinstance(name, parsing.Token) else name.getFirstToken()))
            elif node.kind in words:
                found.append(self._one(node.location, *words[node.kind]))
            elif node.kind == parsing.TokenKind.SystemIdentifier:
                found.extend(self._of_task(node, calls))
            elif node.kind == parsing.TokenKind.Identifier and self._is_bench(node.valueText):
                found.append(self._one(node.location, "upward", f"names '{node.valueText}', a module of the bench"))

        root.visit(visit)
        return found

    def _of_library(self, token: Any) -> Iterator[Beside]:
        """What a simulator would look for in the folders, also where slang does not: behind a condition that it sees
        otherwise."""
        name = str(token.valueText)
        if name in self._aside:
            yield self._one(token.location, "unread", f"{name} would be read from {self._aside[name]}: list the file")

    def _of_task(self, token: Any, calls: _Calls) -> list[Beside]:
        name = str(token.valueText)
        task = name[1:]
        if task in _LOADS:
            given = calls.get(_exactly(token.location), [[None]])
            return [self._loads(token, name, arguments) for arguments in given]
        if task in _COMPUTE:
            return []
        kind, what = _TASKS.get(task, ("dpi", "runs C++ of its own") if re.fullmatch(r"c\d*", task) else ("", ""))
        return [
            self._one(
                token.location, kind or "system", f"{what or 'is not a task that is known to be harmless'} ({name})"
            )
        ]

    def _loads(self, token: Any, task: str, arguments: Sequence[str | None]) -> Beside:
        name, *rest = arguments
        if name is None or "\0" in name or (task == "$fopen" and (not rest or rest[0] not in ("r", "rb"))):
            why = "writes files" if task == "$fopen" and name is not None else "opens a file whose name is not constant"
            return self._one(token.location, "files", f"{why} ({task})")
        path, parts = Path(name).resolve(), Path(name).parts
        if not Path(name).is_absolute() and (".." in parts or parts[:1] in [(of_run,) for of_run in _OF_A_RUN]):
            return self._one(
                token.location, "files", f"opens {name}, which leads elsewhere in the folder of a run ({task})"
            )
        if self._in_set(Path(name)) or self._is_copy(path):
            return self._one(token.location, "set", f"reads {name}, a file of the set or a copy of one ({task})")
        if any(map(path.is_relative_to, ("/proc", "/dev", "/sys"))) or (path.exists() and not path.is_file()):
            return self._one(token.location, "files", f"opens {name}, which is not a file ({task})")
        digest = file_sha256(path) if path.is_file() else ""
        return self._one(token.location, TABLE, f"{task} of '{name}'", digest)

    def _is_copy(self, path: Path) -> bool:
        """Whether a file has the bytes of one of the set."""
        if not path.is_file():
            return False
        alike = [other for other in self._around.folder.rglob("*") if other.is_file() and _size(other) == _size(path)]
        return any(file_sha256(other) == file_sha256(path) for other in alike)


def _size(path: Path) -> int:
    return path.stat().st_size


def beside_rows(found: Sequence[Beside], allowed: Collection[str]) -> list[tuple[str, str]]:
    """What a verdict says of them: the tables, the prints, what ends the run, what was allowed."""
    kinds = {TABLE: "its tables", PRINT: "prints at", END: "may end the run at"}
    rows = []
    for kind, name in kinds.items():
        ours = [one for one in found if one.kind == kind]
        if ours:
            rows.append((name, few([str(one) if kind == TABLE else f"{one.file}:{one.line}" for one in ours])))
    used = [one for one in found if one.kind in allowed]
    if used:
        rows.append(("allowed", few([str(one) for one in used], between="; ")))
    return rows
