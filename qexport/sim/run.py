"""Benches: build, run, judge.

The bench records what comes back, on a copy of what is driven; what is expected never comes near the simulator. The
words are compared here, after the run.
"""

import io
import re
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from qexport.bench.beside import LATE, Around, Beside, beside, read_otherwise, refuse, tables
from qexport.bench.context import loaded_files
from qexport.bench.context import work as work_of
from qexport.bench.design import WRAPPER, Design, Dut
from qexport.bench.interface import CHECKS, Stream, interface
from qexport.bench.interface import streams as streams_of_set
from qexport.bench.ports import connected, is_legal, read_module
from qexport.bench.sv import compare_bench
from qexport.errors import CheckFailed, QexportError, few
from qexport.layout.memory import verilog_name
from qexport.layout.paths import MANIFEST
from qexport.sets.folder import file_sha256
from qexport.sets.manifest import Manifest, read_manifest
from qexport.sets.staging import naming
from qexport.sim.cache import NotCompiled, build_bench, cache_folder
from qexport.sim.compare import Compared, compare, fail_lines
from qexport.sim.fence import Fence, fenced
from qexport.sim.ghdl import as_verilog
from qexport.sim.keep import RUN, clear, kept
from qexport.sim.registry import SIMULATORS, choose, icarus_seconds
from qexport.sim.streams import Streams, handshake, streams_of_seed
from qexport.sim.supervisor import TIME_LIMIT, CutOff, supervise
from qexport.sim.tools import Job, Simulator
from qexport.sim.verdict import Killed, Verdict, changed_files, check_words, failed, judge, no_verdict
from qexport.sim.work import Work, work_folder

Told = Callable[[str], None]
_AS_WRITTEN: set[str] = set()  # manifests whose bench files this process found to be what it would write


def simulate(
    folder: Path,
    simulator_name: str = "auto",
    dut: Dut = (),
    *,
    top: str = "dut",
    seed: int = 0,
    streams: Sequence[Streams] = (),
    keep: Path | None = None,
    waves: str | None = None,
    around: int | None = None,
    builds: Path | None = None,
    limit: float = TIME_LIMIT,
    cycles: int | None = None,
    progress: Told = lambda line: None,
) -> Verdict:
    """Build the bench of a set outside it, run it and judge.

    The design `dut`, or the module `top` of these files, replaces the set's own.

    The simulator sees what is driven and nothing else of the set; the bench records what comes back. The verdict is a
    PASS only when the bench ends with this run's nonce, the set is still as it was dumped, and all words are those of
    the set; else its `failure` says why.

    `streams`: the runs of the one build, the first that fails being the last; without them one run, in which all
    streams stall at random where `seed` is not 0. `keep` gets run.log, build.log, the words that came back
    (<memory>.hex) and waves.vcd or waves.fst, for which the run is done again with the expected words at hand; with
    `around` those of a failed run are of so many cycles before and behind the first error. `progress` is given lines of
    a long run or build. `builds` keeps builds instead of the cache, for a caller with many designs. `limit`: seconds
    for the build, and again for each run. `cycles`: how many the smooth run may take.

    `simulator_name` auto: Icarus where its runs take less than a build with Verilator and it takes the design, else
    Verilator, or the one that is there.

    Raises CheckFailed when the set is not as it was dumped; QexportError when it has no bench, the ports do not fit,
    the sources do not compile or no simulator is found.
    """
    manifest = read_manifest(folder)
    made = _runs(manifest, streams, seed)
    if cycles is not None and all(run.mode != "smooth" for run in made):
        raise QexportError(f"cycles: {cycles} are for the smooth run, which is not asked for; add --streams smooth")
    words = sum(stream.words for stream in interface(folder, manifest) if stream.needed)
    macs = work_of(manifest.layer, manifest.memories, words, dict(manifest.array))["macs"]
    simulator = choose(simulator_name, icarus_seconds(len(made), words, macs))
    design = Design.of(dut, top)
    by = partial(
        _simulate, folder, manifest, design, seed=seed, streams=made, keep=keep, waves=waves, around=around,
        builds=builds, limit=limit, cycles=cycles, progress=progress,
    )  # fmt: skip
    try:
        return by(simulator)
    except NotByIcarus:
        if simulator_name != "auto" or SIMULATORS["verilator"].missing() is not None:
            raise
        progress("Icarus does not compile the design, which is legal SystemVerilog; Verilator takes its place")
        return by(SIMULATORS["verilator"])


class NotByIcarus(NotCompiled):
    """Icarus does not take sources in which slang finds no error."""


def _simulate(
    folder: Path,
    manifest: Manifest,
    design: Design,
    simulator: Simulator,
    *,
    seed: int,
    streams: tuple[Streams, ...],
    keep: Path | None,
    waves: str | None,
    around: int | None,
    builds: Path | None,
    limit: float,
    cycles: int | None,
    progress: Told,
) -> Verdict:
    offered = interface(folder, manifest)
    if keep is not None and keep.resolve().is_relative_to(folder.resolve()):
        raise QexportError(f"keep: {keep} lies in the set {folder}; give a folder outside it")
    changed = _changed(folder, manifest, own_design=not design)
    with (
        kept(keep, [verilog_name(stream.memory) for stream in offered], progress),
        work_folder(folder, keep, linked=False) as work,
    ):
        reading = read_design(work, folder, manifest, design, simulator.macros, limit)
        job, found = replace(reading.job, waves=waves), reading.streams
        refuse([one for one in reading.beside if one.kind not in LATE], design.allow)
        compared = {stream.memory: stream.values for stream in found if not stream.driven}
        executable = _built(simulator, reading, job, work, builds or cache_folder(), progress)
        _refuse_late(simulator, reading, folder, work)
        _lay_tables(reading.beside, work.root)
        clear(work.out, [verilog_name(stream.memory) for stream in offered])
        verdict = Verdict(
            set=folder,
            simulator=simulator.name,
            version=simulator.version(),
            seed=seed,
            streams=streams,
            compared=compared,
            not_compared={s.memory: s.values for s in offered if not s.driven and s not in found},
            manifest=manifest,
            design=design,
            beside=reading.beside,
            sources=reading.sources,
            kept=keep,
        )
        command = simulator.command(executable, waves)
        run = _Run(work, folder, manifest, command, f"{folder} on {simulator.name}", limit, cycles, progress)
        if changed:
            return replace(verdict, failure=run.of_changed(changed, sum(compared.values())))
        if run.records:
            loaded = loaded_files(manifest.memories, {stream.memory for stream in offered})
            driven = [path for stream in found if stream.driven for path in loaded[stream.memory]]
            work.lay(folder, driven)
            shown = [folder / path for path in driven if "set" in design.allow]
            with fenced(folder, [work.root, executable, *shown]) as fence:
                verdict = replace(run, fence=fence).all_recorded(verdict)
        else:
            work.link(folder)
            verdict = run.all_recorded(replace(verdict, isolated=False))
        if waves is not None and (around is None or not verdict.passed):
            run.show(f"out/waves.{waves}", around, verdict.streams[-1])
    return verdict


def _runs(manifest: Manifest, streams: Sequence[Streams], seed: int) -> tuple[Streams, ...]:
    """The runs that a set gets; the bench of an older version knows the seed alone."""
    return tuple(streams) if streams and manifest.bench_note is None else streams_of_seed(seed)


@dataclass(frozen=True)
class _Run:
    """Runs of a bench that was built. `command`: what runs it, with the seed."""

    work: Work
    folder: Path
    manifest: Manifest
    command: Sequence[str]
    what: str
    limit: float
    most_cycles: int | None
    progress: Told
    fence: Fence | None = None
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def log(self) -> Path:
        return self.work.out / RUN

    @cached_property
    def records(self) -> bool:
        return records(self.folder, self.manifest)

    def all_recorded(self, verdict: Verdict) -> Verdict:
        """The verdict of all its runs: that of the first that fails, else that of the first with all of them in it."""
        done: list[Verdict] = []
        for streams in verdict.streams:
            one = self.recorded(replace(verdict, seed=streams.seed, streams=(streams,)), done[0].words if done else {})
            made = tuple(run for before in (*done, one) for run in before.streams)
            if one.failure is not None:
                passed = [run for before in done for run in before.streams]
                failure = handshake(one.failure, streams, passed) if passed else one.failure
                return replace(one, failure=failure, streams=made)
            done.append(one)
        return replace(done[0], streams=verdict.streams)

    @cached_property
    def _before(self) -> dict[str, str]:
        """The files that are not as dumped, before the first run."""
        return changed_files(self.folder, self.manifest)

    def recorded(self, verdict: Verdict, known: Mapping[str, str]) -> Verdict:
        """The verdict of a run that cannot reach what is expected: the bench records, and then it is compared.

        `known`: of each memory the SHA-256 of its right words, where a run before has shown it.
        """
        before = self._before
        entries = [entry for entry in self.manifest.memories if entry.name in verdict.compared]
        found: list[Compared] = []
        recorded = {entry.name: self.work.out / f"{verilog_name(entry.name)}.hex" for entry in entries}
        for path in recorded.values():  # of the run before, which a design that ends at once would leave
            path.unlink(missing_ok=True)
        try:
            arguments = [
                "+dir=set",
                "+record=out" if self.records else "+out=out",
                f"+nonce={self.nonce}",
                *verdict.streams[0].arguments,
            ]
            command = [*self.command, *arguments]
            status = printed(command, self.work, self.what, self.limit, self.progress, self.fence)
            if (after := changed_files(self.folder, self.manifest)) != before:
                new = {path: why for path, why in after.items() if before.get(path) != why}
                raise CheckFailed(
                    f"simulate: {self.folder}: {_named(new)}, while the design ran; nothing else may write into the "
                    "set, dump it again"
                )
            found = [
                compare(self.folder, self.manifest, entry, recorded[entry.name], known.get(entry.name, ""))
                for entry in entries
            ]
            cycles, macs = self._judge(found, status, verdict.seed)
            if self.most_cycles is not None and verdict.streams[0].mode == "smooth" and cycles > self.most_cycles:
                slow = f"FAIL all words are right, in {cycles} cycles; {self.most_cycles} are allowed"
                raise CheckFailed(failed([slow], self.what))
        except CheckFailed as failure:
            verdict = replace(verdict, failure=failure)
        else:
            verdict = replace(verdict, cycles=cycles, macs=macs)
        return replace(verdict, words={one.memory: one.sha256 for one in found})

    def _judge(self, found: Sequence[Compared], status: int, seed: int) -> tuple[int, int]:
        """Cycles and multiplications, as the bench says in its last two lines; raises CheckFailed unless all holds.

        Nothing else that is printed counts: a design may print, too.
        """
        output = self.log.read_text(errors="replace")
        ours = [one.memory for one in found]
        words = sum(file.words for entry in self.manifest.memories if entry.name in ours for file in entry.files)
        ended = f"RECORDED words={words}" if self.records else f"PASS checks={sum(one.values for one in found)}"
        # a design may have begun the line; what stands last in it is the bench's
        end = re.search(rf"^.*DONE cycles=(\d+) macs=(\d+) [^\n]*\n{ended} nonce={self.nonce}$", output, re.MULTILINE)
        if status == 0 and end is not None and all(one.right for one in found):
            if self.records:
                self._tell([f"PASS checks={sum(one.checked for one in found)} nonce={self.nonce}"])
            return int(end[1]), int(end[2])
        said = [line for line in output.splitlines() if line.startswith("FAIL")] if status != 0 else []
        if said and not self.records:
            raise CheckFailed(failed(said, self.what))
        if not said and not any(one.wrong for one in found):
            lack = "; not all words came back" if any(one.checked < one.values for one in found) else ""
            kind = Killed if status == -signal.SIGKILL else CheckFailed
            raise kind(no_verdict(output, status, self.what) + lack)
        lines = fail_lines(said, found, seed)
        self._tell([line for line in lines if line not in said])
        raise CheckFailed(failed(lines, self.what))

    def _tell(self, lines: Sequence[str]) -> None:
        """What was found after the run, behind what the run printed."""
        with naming(self.log), self.log.open("a") as log:
            log.write("".join(f"{line}\n" for line in lines))

    def of_changed(self, changed: dict[str, str], checks: int) -> CheckFailed:
        """Why a set fails that is not as it was dumped: what the bench itself says of its files, else what changed."""
        edited = f" (not as dumped: {few(sorted(changed))})"
        self.work.link(self.folder)
        arguments = ["+dir=set", "+out=out", f"+nonce={self.nonce}"]
        try:
            command = [*self.command, *arguments]
            judged(command, self.work, checks, self.nonce, f"{self.what}{edited}", self.limit, self.progress)
        except CheckFailed as failure:
            return failure
        return CheckFailed(  # a bench may agree with files that were changed together
            f"simulate: {self.folder}: the bench passes on files that are not the dumped ones: {_named(changed)}; "
            "dump the set again"
        )

    def show(self, waves: str, around: int | None, streams: Streams) -> None:
        """Run again, for the waves, with the expected words at hand; the verdict stands already."""
        self.work.link(self.folder)
        log = self.work.root / "waves.log"
        command = [*self.command, "+dir=set", f"+nonce={self.nonce}", *streams.arguments]
        recording = [f"+waves={waves}"]
        with suppress(CutOff):
            if around is not None:
                run_bench(command, self.work.root, log, self.limit, self.progress)
                first = re.search(r"^FIRST cycle=(\d+)$", log.read_text(errors="replace"), re.MULTILINE)
                if first is None:
                    return
                begin, end = max(int(first[1]) - around, 0), int(first[1]) + around + 1
                recording += [f"+waves_from={begin}", f"+waves_to={end}"]
                self._tell([first[0]])
            run_bench([*command, *recording], self.work.root, log, self.limit, self.progress)


def records(folder: Path, manifest: Manifest) -> bool:
    """Whether the set's bench can do without the expected words; those of qexport 0.1 cannot, and judge themselves."""
    return "+record=" in (folder / f"tb_{manifest.layer.slug}.sv").read_text()


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
    known = file_sha256(folder / MANIFEST)  # of all that a bench is made of
    if not changed and manifest.bench_note is None and known not in _AS_WRITTEN:
        fresh = compare_bench(folder, manifest)
        if not fresh:
            _AS_WRITTEN.add(known)
        if not own_design:
            fresh.pop("dut.sv", None)
        if fresh:
            raise CheckFailed(f"simulate: {folder}: {_named(fresh)}; dump the set again")
    if changed and not changed.keys() & bench_files(manifest):
        raise CheckFailed(f"simulate: {folder}: {_named(changed)}; dump the set again")
    return changed


def _named(changed: dict[str, str]) -> str:
    return few([f"{path} {why}" for path, why in sorted(changed.items())])


@dataclass(frozen=True)
class Reading:
    """What is known of a design before it runs: the job to build it with the bench, as Verilog, the streams that it has
    ports for, what it does beside computing, and the SHA-256 of its sources by path."""

    job: Job
    design: Design
    streams: tuple[Stream, ...]
    beside: tuple[Beside, ...]
    sources: dict[str, str]


def read_design(
    work: Work, folder: Path, manifest: Manifest, design: Design, macros: Sequence[str], limit: float = TIME_LIMIT
) -> Reading:
    """What a design is, to a set; without files it is the set's own. `macros`: those of the simulator itself.

    Raises QexportError where the ports do not fit or files are missing.
    """
    offered, own = interface(folder, manifest), folder / "dut.sv"
    translated = as_verilog(design, work.root, limit)
    job = replace(work.job(folder, manifest, translated.files or [own]), limit=limit)
    if not design:
        needed = tuple(stream for stream in offered if stream.needed)
        return Reading(job, translated, needed, (), {own.name: file_sha256(own)} if own.is_file() else {})
    found = connected(read_module(translated, job.sources[0], (job.include,)), offered, translated)
    job = replace(job, folders=translated.includes, macros=(*translated.defines, *lacking(offered, found)))
    names = {job.top, WRAPPER}
    package, *others = job.sources  # the design's own last, because Icarus includes from its folder
    if translated.fits_by_itself:
        job = replace(job, macros=(f"QEXPORT_DUT={translated.top}", *job.macros))
    else:
        wrapper = write_wrapper(translated, found, work.root)
        job = replace(job, sources=(package, wrapper, *others), macros=(f"QEXPORT_DUT={WRAPPER}", *job.macros))
    around = Around(folder, names, (*macros, *job.macros))
    did, sources = beside(translated, package, (job.include,), around)
    return Reading(job, translated, found, did, sources)


def _read_otherwise(simulator: Simulator, reading: Reading, folder: Path, work: Work) -> tuple[Beside, ...]:
    """Where the simulator reads other words in the design's sources than slang, which has looked for forgers there."""
    package, job = reading.job.sources[0], reading.job
    sources = tuple(path.resolve() for path in (package, *reading.design.files))
    place = work.root / "read"
    place.mkdir()
    alone = replace(job, sources=sources, folders=tuple(path.resolve() for path in job.folders))
    around = Around(folder, (), (*simulator.macros, *job.macros))
    return read_otherwise(reading.design, package, (job.include,), around, simulator.preprocessed(alone, place))


def _built(simulator: Simulator, reading: Reading, job: Job, work: Work, builds: Path, say: Told) -> Path:
    """The executable; raises NotCompiled, NotByIcarus where only Icarus cannot read the sources."""
    included = reading.sources.values() if reading.design else ()
    try:
        return build_bench(simulator, job, work.root, work.out / "build.log", builds, read_too=included, say=say)
    except NotCompiled as error:
        if simulator.name == "icarus" and reading.design and is_legal(reading.design, job.sources[:1], (job.include,)):
            raise NotByIcarus(f"{error}; they are legal SystemVerilog: take --simulator verilator") from None
        raise


def _refuse_late(simulator: Simulator, reading: Reading, folder: Path, work: Work) -> None:
    """Raises QexportError for what is said when the sources compile: other mistakes are the simulator's to name."""
    refuse(reading.beside, reading.design.allow)
    if not reading.design:
        return
    refuse(_read_otherwise(simulator, reading, folder, work), reading.design.allow)
    if new := [path for path, digest in reading.sources.items() if file_sha256(Path(path)) != digest]:
        raise QexportError(f"dut: {few(new)} changed while it was read and built; simulate it again")


def _lay_tables(found: Sequence[Beside], root: Path) -> None:
    """Give a run the files that the design loads by names relative to the working directory."""
    for name, path in tables(found).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(path.resolve())


def write_wrapper(design: Design, found: Sequence[Stream], folder: Path) -> Path:
    """The file of the module WRAPPER, in which a design has the ports of these streams."""
    ports = {name: (port.direction, port.bits) for stream in found for name, port in stream.ports.items()}
    path = folder / f"{WRAPPER}.sv"
    path.write_text(design.wrapper(ports))
    return path


def lacking(offered: Sequence[Stream], found: Sequence[Stream]) -> tuple[str, ...]:
    """The macros that tell the bench which streams a design does not have, and which beyond those that are needed."""
    return tuple(stream.macro for stream in offered if stream.needed != (stream in found))


@contextmanager
def bench_alone(folder: Path, simulator: Simulator, limit: float = TIME_LIMIT) -> Iterator[Callable[[Path], None]]:
    """Yields what runs the bench of a set, built once with the set's own design, on copies of the set.

    Nothing but the bench judges: no hash is looked at. What is yielded raises CheckFailed unless the bench passes.
    """
    manifest = read_manifest(folder)
    checks = sum(s.values for s in streams_of_set(manifest) or () if not s.driven)
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
    """The files of a set that its bench looks at when it runs, whatever else the design has ports for."""
    ours = {stream.memory for stream in streams_of_set(manifest) or () if stream.needed}
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
    """What a run prints; raises CheckFailed unless it passes, as the bench says, which trusts the design."""
    status = printed(command, work, what, limit, progress)
    output = (work.out / RUN).read_text(errors="replace")
    judge(output, status, checks, nonce, what)
    return output


def printed(
    command: Sequence[str], work: Work, what: str, limit: float, progress: Told, fence: Fence | None = None
) -> int:
    """The exit status of a run whose output goes to its log."""
    try:
        return run_bench(command, work.root, work.out / RUN, limit, progress, fence)
    except CutOff as cut:
        raise CutOff(
            f"simulate: {what}: {cut}; the design hangs or floods, "
            "or the set is too large for it: dump fewer images, or give it more with --time-limit"
        ) from None


def run_bench(
    command: Sequence[str], root: Path, log: Path, limit: float, progress: Told, fence: Fence | None = None
) -> int:
    """The exit status; what is printed goes to `log`, complaints last, and signs of life to `progress`."""

    def heard(line: bytes) -> None:
        if line.startswith(b"PROGRESS "):
            progress(line.decode(errors="replace").rstrip())

    complaints = io.BytesIO()
    with naming(log), log.open("wb") as printed:
        try:
            return supervise(command, printed, complaints, cwd=root, limit=limit, heard=heard, fence=fence)
        finally:
            printed.write(complaints.getvalue())
