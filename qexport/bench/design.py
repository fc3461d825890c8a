"""What a user's design is: its files, and what every tool must be told to read and to connect them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from qexport.bench.context import render
from qexport.errors import QexportError

LISTS = {".f", ".flist"}  # what a file list's name ends with, where it is given among the files
VHDL = {".vhd", ".vhdl"}
SOURCES = {".v", ".sv", ".vh", ".svh", ".vg", ".vp", ".verilog", *VHDL}  # other files a simulator may run, such as C++
# What a design is refused to do beside computing unless it is allowed (bench/beside.py), and what to do about it.
REFUSED: Mapping[str, str] = {
    "plusargs": "a design is given its numbers by parameters and streams, not by the bench's command line",
    "set": "what the design needs of the set comes in by its streams; a table of its own lies outside the set",
    "files": "take it out of what is simulated, or load a table with $readmemh of a constant name",
    "upward": "a design is connected by its ports; take the name out",
    "dpi": "code outside of Verilog cannot be read here; take it out",
    "force": "drive the signal by an assignment",
    "bind": "connect the module by an instance",
    "system": "take the task out of what is simulated",
    "unread": "correct it, so that slang reads the file",
}
OPEN = "open"  # what an output is tied to
WRAPPER = "qexport_design"

_LOW = re.compile(r"(?i)(rst|reset)_?(n|ni|n_i|b)$|_n$|^n_?(rst|reset)")  # names of resets that are active low
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_VALUE = re.compile(r"-?[0-9][0-9_.]*|-?[0-9]*\s*'[sS]?[bodhBODH][0-9a-fA-FxXzZ_?]+|'[01xz]|\"[^\"\\\n]*\"")
_OPTIONS = {"-f": "list", "-F": "list", "-v": "file", "-I": "folder", "-D": "define"}  # of file lists
_SAYS_SYSTEMVERILOG = {"-sv", "--sv", "-sverilog", "+v2k", "-g2005-sv", "-g2009", "-g2012"}


@dataclass(frozen=True, kw_only=True)
class Design:
    """A user's design; without files it is the set's own.

    `includes`: folders; `defines`: macros, NAME or NAME=VALUE; `params`: parameters of the module `top`, or generics of
    the entity; `ties`: its ports that are none of the bench's, inputs with a value, outputs OPEN. `reset_low`: whether
    the port `reset` is active low. `allow`: what it may do beside computing (bench/beside.py). `origins`: what a file
    was made of, for messages.
    """

    files: tuple[Path, ...] = ()
    top: str = "dut"
    includes: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    clock: str = "clk"
    reset: str = "rst"
    reset_low: bool = False
    allow: tuple[str, ...] = ()
    origins: Mapping[Path, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, dut: "Dut", top: str = "dut") -> "Design":
        """The design itself, or the module `top` of some files and file lists."""
        return dut if isinstance(dut, Design) else cls.read(dut, top=top)

    @classmethod
    def read(
        cls,
        files: Sequence[Path],
        *,
        top: str = "dut",
        includes: Sequence[Path] = (),
        defines: Sequence[str] = (),
        params: Mapping[str, str] | None = None,
        ties: Mapping[str, str] | None = None,
        clock: str = "clk",
        reset: str = "rst",
        allow: Sequence[str] = (),
    ) -> "Design":
        """The design of files and file lists (LISTS).

        `reset` is active low where its name says so (rst_n, aresetn, nrst), else high; NAME:low and NAME:high say it
        for any name. Raises QexportError when something is missing or is not what it must be.
        """
        reset, _, level = reset.partition(":")
        if level not in ("", "low", "high"):
            raise QexportError(f"reset: '{reset}:{level}'; write {reset}:low or {reset}:high")
        for what, name in (("top", top), ("clock", clock), ("reset", reset)):
            if not _NAME.fullmatch(name):
                thing = "module" if what == "top" else "port"
                raise QexportError(f"{what}: '{name}' is not a name; give that of a {thing}")
        _check_values("param", params or {}, 'a number or a text, such as ROWS=8, INIT="a.hex"')
        _check_values("tie", ties or {}, f"a number, such as scan_en=0, mode=4'hf, or for an output {OPEN}")
        for folder in includes:
            if not folder.is_dir():
                raise QexportError(f"include: {folder} is not a folder; give the one that your files include from")
        low = level == "low" or (not level and _LOW.search(reset) is not None)
        found = cls(
            top=top, includes=tuple(includes), defines=tuple(defines), params=dict(params or {}),
            ties=dict(ties or {}), clock=clock, reset=reset, reset_low=low, allow=tuple(allow),
        )  # fmt: skip
        if unknown := [kind for kind in found.allow if kind not in REFUSED]:
            raise QexportError(
                f"allow: '{unknown[0]}' is not one of {', '.join(REFUSED)}; name what your design may do"
            )
        for file in files:  # of which lists must be there; the others are looked for when they are used
            found = found._with_list(file, ()) if file.suffix in LISTS else replace(found, files=(*found.files, file))
        for define in found.defines:
            if not _NAME.fullmatch(define.partition("=")[0]):
                raise QexportError(f"define: '{define}' is not NAME or NAME=VALUE; correct it")
            if define.startswith("QEXPORT_"):
                raise QexportError(f"define: '{define}' is a macro of the bench; take another name")
        if files and not found.files:
            raise QexportError(f"dut: {files[0]} names no files; list the files of your module '{top}'")
        return found

    def __bool__(self) -> bool:
        return bool(self.files)

    def check_files(self) -> None:
        """Raises QexportError when a file is not there."""
        for file in self.files:
            if not file.is_file():
                raise QexportError(
                    f"dut: {file} does not exist or is not a file; give the file of your module '{self.top}'"
                )
            if file.suffix not in SOURCES:
                raise QexportError(
                    f"dut: {file} is not named as Verilog or VHDL ({', '.join(sorted(SOURCES))}); rename it"
                )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its files may include from, beside the set's folder and their own."""
        return (*self.includes, *(file.parent for file in self.files[-1:]))

    @property
    def fits_by_itself(self) -> bool:
        """Whether the bench can connect the module as it is."""
        named_alike = (self.clock, self.reset, self.reset_low) == ("clk", "rst", False)
        return named_alike and not self.params and not self.ties

    @property
    def tied(self) -> list[tuple[str, str]]:
        """Tied ports and what Verilog connects to them."""
        return [(name, "" if value == OPEN else value) for name, value in self.ties.items()]

    def wrapper(self, ports: Mapping[str, tuple[str, int]]) -> str:
        """A module WRAPPER with these ports of the streams (direction, bits), beside clk and rst, around this one."""
        context = {
            "name": WRAPPER,
            "top": self.top,
            "params": list(self.params.items()),
            "ports": [(name, direction, bits) for name, (direction, bits) in ports.items()],
            "connections": [
                (self.clock, "clk"),
                (self.reset, "!rst" if self.reset_low else "rst"),
                *((name, name) for name in ports),
                *self.tied,
            ],
        }
        return render({f"{WRAPPER}.sv": "sv/design.sv.j2"}, context)[f"{WRAPPER}.sv"]

    def _with_list(self, path: Path, above: tuple[Path, ...]) -> "Design":
        """With what a file list names; `above`: the lists that name it."""
        if path.resolve() in above:
            raise QexportError(f"dut: {path} names itself; take the -f out that leads back to it")
        found = self
        for place, kind, value in _entries(path):
            if kind == "define":
                found = replace(found, defines=(*found.defines, value))
                continue
            named = _located(path.parent, value)
            if not (named.is_dir() if kind == "folder" else named.is_file()):
                raise QexportError(f"dut: {place}: '{value}' is not a {kind}; correct the path")
            if kind == "folder":
                found = replace(found, includes=(*found.includes, named))
            elif kind == "file":
                found = replace(found, files=(*found.files, named))
            else:
                found = found._with_list(named, (*above, path.resolve()))
        return found


def _check_values(what: str, given: Mapping[str, str], allowed: str) -> None:
    for name, value in given.items():
        if not _NAME.fullmatch(name) or not (_VALUE.fullmatch(value) or (what == "tie" and value == OPEN)):
            raise QexportError(f"{what}: '{name}={value}' is not NAME=VALUE with {allowed}; correct it")


Dut: TypeAlias = Design | Sequence[Path]


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """What a file list names: the place, which of file, list, folder, define it is, and its text."""
    words = _words(path)
    for place, word in words:
        if word.startswith(("+incdir+", "+define+")):
            for text in filter(None, word.split("+")[2:]):
                yield place, "folder" if word.startswith("+incdir+") else "define", text
        elif word[:2] in _OPTIONS and (len(word) == 2 or word[:2] in ("-I", "-D")):
            yield place, _OPTIONS[word[:2]], word[2:] or next(words, (place, ""))[1]
        elif word[0] not in "-+":
            yield place, "file", word
        elif word not in _SAYS_SYSTEMVERILOG:
            known = ", ".join([*_OPTIONS, "+incdir+", "+define+"])
            raise QexportError(f"dut: {place}: option '{word}' is not known here ({known} are); take it out")


def _words(path: Path) -> Iterator[tuple[str, str]]:
    """The words of a file list, without comments and quotes, each with its place."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise QexportError(f"dut: {path} is not a text; give a list of files") from None
    except OSError as error:
        raise QexportError(f"dut: {path} cannot be read ({error.strerror}); give a list of files") from None
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)(//|#).*", "", line)
        for quoted, plain in re.findall(r'"([^"]+)"|(\S+)', line):
            yield f"{path}:{number}", quoted or plain


def _located(folder: Path, name: str) -> Path:
    """What a list in `folder` names: from there, else, as -f of some simulators has it, from the working directory."""
    expanded = Path(os.path.expandvars(re.sub(r"\$\((\w+)\)", r"${\1}", name)))
    beside = folder / expanded
    return beside if beside.exists() or not expanded.exists() else expanded
