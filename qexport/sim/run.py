"""Icarus and Verilator: find, compile, run, judge.

Only a PASS with this run's nonce and the full count passes, and only when the words that came back, which the bench
writes to files, are those of the set.
"""

import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from qexport.bench.interface import CHECKS, interface, streams
from qexport.bench.ports import check_files, connected, read_module
from qexport.errors import CheckFailed, QexportError
from qexport.sets.manifest import Manifest, read_manifest
from qexport.sim.cache import build_bench, cache_folder
from qexport.sim.keep import prepare_keep
from qexport.sim.registry import choose
from qexport.sim.tools import Job, Simulator
from qexport.sim.verdict import Verdict, changed_files, check_words, judge

WALL_LIMIT = 600  # seconds; the bench's own time-out counts cycles and so misses a loop that takes no time


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
    changed = changed_files(folder, manifest)
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
            prepare_keep(keep, [stream.memory for stream in streams(manifest) or ()], progress)
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
