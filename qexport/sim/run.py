"""Benches: build, run, judge.

Only a PASS with this run's nonce and the full count passes, and only when the words that came back, which the bench
writes to files, are those of the set.
"""

import io
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from qexport.bench.design import WRAPPER, Design, Dut
from qexport.bench.interface import CHECKS, Stream, interface, streams
from qexport.bench.ports import connected, is_legal, read_module
from qexport.bench.sv import compare_bench
from qexport.errors import CheckFailed, QexportError, few
from qexport.sets.manifest import Manifest, read_manifest
from qexport.sets.staging import naming
from qexport.sim.cache import NotCompiled, build_bench, cache_folder
from qexport.sim.ghdl import as_verilog
from qexport.sim.keep import RUN, clear, kept
from qexport.sim.registry import choose
from qexport.sim.supervisor import TIME_LIMIT, CutOff, supervise
from qexport.sim.tools import Job, Simulator
from qexport.sim.verdict import Verdict, changed_files, check_words, judge
from qexport.sim.work import Work, work_folder

Told = Callable[[str], None]


def simulate(
    folder: Path,
    simulator_name: str = "auto",
    dut: Dut = (),
    *,
    top: str = "dut",
    seed: int = 0,
    keep: Path | None = None,
    waves: str | None = None,
    around: int | None = None,
    builds: Path | None = None,
    limit: float = TIME_LIMIT,
    progress: Told = lambda line: None,
) -> Verdict:
    """Build the bench of a set outside it, run it and judge.

    The design `dut`, or the module `top` of these files, replaces the set's own.

    The verdict is a PASS only when the run prints one PASS with its nonce and the expected count, exits 0, and gives
    the words of the set; else its `failure` says why.

    With a `seed` other than 0 all streams stall at random. `keep` gets run.log, build.log, the words that came back
    (<memory>.hex) and waves.vcd or waves.fst; with `around` the waves are of so many cycles before and behind the first
    error, for which a failed run is done again; `progress` is given lines of a long run. `builds` keeps the builds of
    `dut` for further calls, for a caller in whose time the files that these may include do not change. `limit`: seconds
    for the build, and again for the run.

    Raises CheckFailed when the set is not as it was dumped; QexportError when it has no bench, the ports do not fit,
    the sources do not compile or no simulator is found.
    """
    manifest = read_manifest(folder)
    offered = interface(folder, manifest)
    simulator = choose(simulator_name)
    design = Design.of(dut, top)
    if keep is not None and keep.resolve().is_relative_to(folder.resolve()):
        raise QexportError(f"keep: {keep} lies in the set {folder}; give a folder outside it")
    changed = _changed(folder, manifest, own_design=not design)
    what, nonce = f"{folder} on {simulator.name}", secrets.token_hex(8)
    with kept(keep, [stream.memory for stream in offered], progress), work_folder(folder, keep) as work:
        translated = as_verilog(design, work.root, limit)
        job = replace(work.job(folder, manifest, translated.files or [folder / "dut.sv"]), waves=waves, limit=limit)
        found = tuple(stream for stream in offered if stream.needed)
        if design:
            job, found = _around(job, translated, offered, work.root)
        compared = {stream.memory: stream.values for stream in found if not stream.driven}
        kept_builds = builds if design else cache_folder()
        try:
            executable = build_bench(simulator, job, work.root, work.out / "build.log", kept_builds)
        except NotCompiled as error:
            if simulator.name == "icarus" and design and is_legal(translated, job.sources[:1], (job.include,)):
                raise QexportError(f"{error}; they are legal SystemVerilog: take --simulator verilator") from None
            raise
        clear(work.out, [stream.memory for stream in offered])
        arguments = ["+dir=set", "+out=out", f"+nonce={nonce}", f"+seed={seed}"]
        command = [*simulator.command(executable, waves), *arguments]
        recording = [] if waves is None else [f"+waves=out/waves.{waves}"]
        edited = f" (not as dumped: {few(sorted(changed))})" if changed else ""
        verdict = Verdict(
            set=folder,
            simulator=simulator.name,
            version=simulator.version(),
            seed=seed,
            compared=compared,
            not_compared={s.memory: s.values for s in offered if not s.driven and s not in found},
            manifest=manifest,
            design=design,
            kept=keep,
        )
        try:
            recorded = [*command, *recording] if around is None else command
            output = judged(recorded, work, sum(compared.values()), nonce, f"{what}{edited}", limit, progress)
            if changed:  # a bench may agree with files that were changed together
                raise CheckFailed(
                    f"simulate: {folder}: the bench passes on files that are not the dumped ones: {_named(changed)}; "
                    "dump the set again"
                )
            check_all_words(work, folder, manifest, compared, what)
            cycles, macs = _measured(output, what)
        except CheckFailed as failure:
            log = work.out / RUN
            first = re.search(r"^FIRST cycle=(\d+)$", log.read_text(errors="replace"), re.MULTILINE)
            if recording and around is not None and first is not None:
                begin, end = max(int(first[1]) - around, 0), int(first[1]) + around + 1
                again = [*command, *recording, f"+waves_from={begin}", f"+waves_to={end}"]
                run_bench(again, work.root, log, limit, progress)
            return replace(verdict, failure=failure)
    return replace(verdict, cycles=cycles, macs=macs)


def _changed(folder: Path, manifest: Manifest, own_design: bool) -> dict[str, str]:
    """The files that are not as dumped, by path what is wrong; raises CheckFailed where a run could say nothing."""
    slug = manifest.layer.slug
    changed = changed_files(folder, manifest)
    for name in (f"{slug}_pkg.sv", f"tb_{slug}.sv", *(["dut.sv"] if own_design else [])):
        if name in changed:
            advice = "keep your own design outside the set and give it with --dut, and " if name == "dut.sv" else ""
            raise CheckFailed(f"{folder / name} {changed[name]}; {advice}dump the set again")
    if not own_design:
        changed.pop("dut.sv", None)
    if not changed and manifest.bench_note is None:
        fresh = compare_bench(folder, manifest)
        if not own_design:
            fresh.pop("dut.sv", None)
        if fresh:
            raise CheckFailed(f"simulate: {folder}: {_named(fresh)}; dump the set again")
    if changed and not changed.keys() & bench_files(manifest):
        raise CheckFailed(f"simulate: {folder}: {_named(changed)}; dump the set again")
    return changed


def _named(changed: dict[str, str]) -> str:
    return few([f"{path} {why}" for path, why in sorted(changed.items())])


def _around(job: Job, design: Design, offered: Sequence[Stream], scratch: Path) -> tuple[Job, tuple[Stream, ...]]:
    """The job with a design in place of the set's own, and the streams that it has ports for."""
    found = connected(read_module(design, job.sources[0], (job.include,)), offered, design)
    job = replace(job, folders=design.includes)
    macros = (*design.defines, *lacking(offered, found))
    if design.fits_by_itself:
        return replace(job, macros=(f"QEXPORT_DUT={design.top}", *macros)), found
    wrapper = write_wrapper(design, found, scratch)
    package, *others = job.sources  # the design's own last, because Icarus includes from its folder
    return replace(job, sources=(package, wrapper, *others), macros=(f"QEXPORT_DUT={WRAPPER}", *macros)), found


def write_wrapper(design: Design, found: Sequence[Stream], folder: Path) -> Path:
    """The file of the module WRAPPER, in which a design has the ports of these streams."""
    ports = {name: (port.direction, port.bits) for stream in found for name, port in stream.ports.items()}
    path = folder / f"{WRAPPER}.sv"
    path.write_text(design.wrapper(ports))
    return path


def lacking(offered: Sequence[Stream], found: Sequence[Stream]) -> tuple[str, ...]:
    """The macros that tell the bench which streams a design does not have, and which beyond those that are needed."""
    return tuple(stream.macro for stream in offered if stream.needed != (stream in found))


def _measured(output: str, what: str) -> tuple[int, int]:
    """Cycles and multiplications, as the bench says."""
    measured = re.findall(r"^DONE cycles=(\d+) macs=(\d+) ", output, flags=re.MULTILINE)
    if len(measured) != 1:
        raise CheckFailed(f"simulate: {what}: {len(measured)} DONE lines; the bench prints one")
    cycles, macs = measured[0]
    return int(cycles), int(macs)


@contextmanager
def bench_alone(folder: Path, simulator: Simulator, limit: float = TIME_LIMIT) -> Iterator[Callable[[Path], None]]:
    """Yields what runs the bench of a set, built once with the set's own design, on copies of the set.

    Nothing but the bench judges: no hash is looked at. What is yielded raises CheckFailed unless the bench passes.
    """
    manifest = read_manifest(folder)
    checks = sum(s.values for s in streams(manifest) or () if not s.driven)
    with work_folder(folder) as work:
        job = replace(work.job(folder, manifest, [folder / "dut.sv"]), limit=limit)
        executable = build_bench(simulator, job, work.root, work.out / "build.log", cache_folder())

        def run(copy: Path) -> None:
            nonce = secrets.token_hex(8)
            with work_folder(copy, within=work.root) as place:
                command = [*simulator.command(executable), "+dir=set", f"+nonce={nonce}"]
                judged(command, place, checks, nonce, f"{copy} on {simulator.name}", limit)

        yield run


def bench_files(manifest: Manifest) -> set[str]:
    """The files of a set that its bench looks at when it runs."""
    ours = {stream.memory for stream in streams(manifest) or ()}
    return {CHECKS, *(file.path for entry in manifest.memories if entry.name in ours for file in entry.files)}


def check_all_words(work: Work, folder: Path, manifest: Manifest, compared: dict[str, int], what: str) -> None:
    """Raises CheckFailed unless the words of all memories that were compared are those of the set."""
    for entry in manifest.memories:
        if entry.name in compared and len(entry.files) == 1 and entry.radix == "hex" and entry.format.text:
            check_words(work.out / f"{entry.name}.hex", folder / entry.files[0].path, what)


def judged(
    command: Sequence[str],
    work: Work,
    checks: int,
    nonce: str,
    what: str,
    limit: float = TIME_LIMIT,
    progress: Told = lambda line: None,
) -> str:
    """What a run prints; raises CheckFailed unless it passes."""
    log = work.out / "run.log"
    try:
        status = run_bench(command, work.root, log, limit, progress)
    except CutOff as cut:
        raise CutOff(
            f"simulate: {what}: {cut}; the design hangs or floods, "
            "or the set is too large for it: dump fewer images, or give it more with --time-limit"
        ) from None
    output = log.read_text(errors="replace")
    judge(output, status, checks, nonce, what)
    return output


def run_bench(command: Sequence[str], root: Path, log: Path, limit: float, progress: Told) -> int:
    """The exit status; what is printed goes to `log`, complaints last, and signs of life to `progress`."""

    def heard(line: bytes) -> None:
        if line.startswith(b"PROGRESS "):
            progress(line.decode(errors="replace").rstrip())

    complaints = io.BytesIO()
    with naming(log), log.open("wb") as printed:
        try:
            return supervise(command, printed, complaints, cwd=root, limit=limit, heard=heard)
        finally:
            printed.write(complaints.getvalue())
