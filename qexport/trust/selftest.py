"""Proof that a verdict can fail: mutants of a set and of its RTL, and which check notices each."""

import hashlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from qexport.bench.context import TEMPLATES
from qexport.bench.design import Design, Dut
from qexport.bench.interface import (
    CHECKS,
    COMPARED,
    DRIVEN,
    interface,
    layout_called,
    preset_interface,
    stands_as_preset,
    streams,
    unlike_preset,
)
from qexport.bench.model import has_model
from qexport.bench.rtl import BEHIND, behind_array, render_rtl, styles_of
from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core.atomic import write_atomically
from qexport.core.capture import CaptureFile
from qexport.core.intformat import IntFormat
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import operation
from qexport.core.strength import StrengthInfo
from qexport.errors import CheckFailed, QexportError, few
from qexport.layout.formats.base import Format, WordSpec
from qexport.layout.memory import Layout, Memory, verilog_name
from qexport.layout.order import TILE_AXIS
from qexport.layout.paths import MANIFEST
from qexport.layout.toml import default_layout, load_layout
from qexport.sets.folder import file_sha256, set_entries, sha256
from qexport.sets.manifest import Manifest, MemoryEntry, read_manifest
from qexport.sim.cache import cache_folder
from qexport.sim.registry import choose
from qexport.sim.run import bench_alone, bench_files, simulate
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.tools import Simulator
from qexport.sim.work import scratch_folder
from qexport.trust.clock import ENDLESS, Clock
from qexport.trust.equivalence import needs_yosys
from qexport.trust.mutants import MutantResult, Progress, check_readable, reference_mutants, user_mutants
from qexport.trust.stress import stress_capture

FLIPS = 200  # of single bits over all files of a set, at least
SEALED = 10  # of single bits of each memory with its checksum
_DRAWS = 20  # tries for each of them, to meet one that is no fill
FILES, RTL = ONLY = ("files", "rtl")
SAMPLE = 20  # mutants of each kind of an array, unless all are asked for
SIMULATE, BENCH, VERIFY = CHECKERS = ("simulate", "bench alone", "verify")

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileMutant:
    """A change of one file of a set, and what noticed it.

    `noticed`: by checker the line that it said, None where it passed; a checker that does not look at the file is not
    among them. `demanded`: whether every checker must notice it; where not, it tells what the vectors cannot see. What
    the time did not suffice for has no checker and is open.
    """

    group: str
    name: str
    noticed: dict[str, str | None]
    demanded: bool

    @property
    def open(self) -> bool:
        return not self.noticed

    @property
    def missed(self) -> list[str]:
        """The checkers that passed."""
        return [checker for checker, said in self.noticed.items() if said is None]


@dataclass(frozen=True)
class Table:
    """What became of the mutants of one set's files and of the RTL in its bench."""

    images: int
    strength: StrengthInfo
    observed: tuple[int, int]
    bounds: tuple[int, int]
    files: list[FileMutant]
    rtl: list[MutantResult]


@dataclass(frozen=True)
class Selftest:
    """The table of a set and that of its stress capture. `without`: why no reference array was changed, if none was."""

    set: Path
    layer: str
    simulator: str
    version: str
    own: Table
    stress: Table
    without: str | None = None

    @property
    def survivors(self) -> list[str]:
        """What had to be noticed and was not: changed files, and RTL in the bench of the stress capture."""
        found = []
        for where, table in ((str(self.set), self.own), ("stress", self.stress)):
            missed = [mutant for mutant in table.files if mutant.demanded and mutant.missed]
            found += [f"{where}: {mutant.name}: not noticed by {', '.join(mutant.missed)}" for mutant in missed]
        survived = [mutant for mutant in self.stress.rtl if mutant.fate == "survived"]
        return found + [f"stress: {mutant.style} {mutant.name} at {mutant.where}: {mutant.how}" for mutant in survived]

    @property
    def open(self) -> list[str]:
        """What the time did not suffice for."""
        found = []
        for where, table in ((str(self.set), self.own), ("stress", self.stress)):
            found += [f"{where}: {mutant.name}" for mutant in table.files if mutant.open]
            unknown = [mutant for mutant in table.rtl if mutant.fate == "open"]
            found += [f"{where}: {mutant.style} {mutant.name} at {mutant.where}" for mutant in unknown]
        return found


def selftest(
    folder: Path,
    simulator_name: str = "auto",
    dut: Dut = (),
    *,
    top: str = "dut",
    styles: Sequence[str] | None = None,
    seed: int = 0,
    sample: int | None = None,
    only: str | None = None,
    progress: Progress = lambda what, done, total: None,
    limit: float | None = None,
) -> Selftest:
    """Change a set and the RTL of its layer in many ways, and see who notices.

    The files of the set are changed in a copy. The RTL is the reference array of each of `styles`, in the bench of the
    set and in that of a stress capture of the same geometry; with `dut` it is the module `top` of these files, in the
    bench of the set only. `styles` None: the first that the layer has, of all mutants every one; none where the set's
    memories, formats or steps are not those of an array. `sample`: how many mutants of each kind of RTL, None: all.
    `only`: one of ONLY, what alone is changed. `limit`: seconds after which what is not done stays open. What was found
    is kept beside the simulators' builds, by the content of all that it depends on, but for `dut`: it may include other
    files.

    Raises CheckFailed when the set does not pass as it is, QexportError when it has no bench, an array of `styles` does
    not compute its layer, Yosys is missing or cannot read `dut`.
    """
    clock = Clock(limit)
    simulator = choose(simulator_name)
    manifest = read_manifest(folder)
    _check_own_design(folder, manifest)
    design = Design.of(dut, top)
    without = None
    if design or only == FILES:
        styles = ()
    elif styles is None:
        styles, without = _arrays(folder, manifest, every=sample is None)
    else:
        for style in styles:
            _check_array(folder, manifest, style)
    if design or styles:
        needs_yosys()
    if design:  # before minutes of other work
        check_readable(folder, design, clock)
    progress("the set as it is", 0, 1)
    simulate(folder, simulator.name).check()
    if faults := verify(folder).faults:
        raise CheckFailed(f"selftest: {folder} does not verify as it is: {faults[0]}; dump it again")
    progress("the set as it is", 1, 1)
    changed = 2 if only != RTL else 0
    parts = changed + (1 if design else 2 * len(styles))  # of the work, each of which may take its share of the time
    mutants = _Mutants(simulator, seed, sample, styles, progress, clock, parts)
    own_files = mutants.files(folder, "files of the set", sealed_only=False) if only != RTL else []
    if design:
        tell = mutants.told("your RTL")
        own_rtl = user_mutants(
            [folder], design, sample=sample, seed=seed, simulator=simulator.name, progress=tell, clock=mutants.part()
        )
    else:
        own_rtl = mutants.rtl(folder, "RTL, the set", prove=False)
    with scratch_folder() as scratch:
        capture = stress_capture(CaptureFile(folder / manifest.capture.path), seed)
        layout = _stress_layout(manifest, operation(capture, manifest.array.get(TILE_AXIS)))
        progress("the stress capture", 0, 1)
        stress = dump(capture, layout, scratch).folder
        progress("the stress capture", 1, 1)
        stress_files = mutants.files(stress, "stress", sealed_only=True) if only != RTL else []
        stress_rtl = [] if design else mutants.rtl(stress, "RTL, stress", prove=True)
        stress_table = _table(stress, stress_files, stress_rtl)
    return Selftest(
        set=folder,
        layer=manifest.layer.name,
        simulator=simulator.name,
        version=simulator.version(),
        own=_table(folder, own_files, own_rtl),
        stress=stress_table,
        without=without,
    )


def _check_own_design(folder: Path, manifest: Manifest) -> None:
    """Raises QexportError for a set without a bench, or whose own design, with which files are tried, is a shell."""
    entries = {entry.name: entry for entry in manifest.memories}
    found = [stream for stream in interface(folder, manifest) if stream.needed]
    driven, compared = ([entries[s.memory] for s in found if s.driven is way] for way in (True, False))
    if not stands_as_preset(manifest) and not has_model(manifest, driven, compared):
        raise QexportError(
            f"selftest: {folder} has {layout_called(manifest.layout)}; what it stores of what goes in does not tell "
            f"what comes out ({few([entry.name for entry in driven])}), so that its own design computes nothing; "
            "store the other operands, too"
        )


def _arrays(folder: Path, manifest: Manifest, every: bool) -> tuple[tuple[str, ...], str | None]:
    """The reference arrays that compute a set's layer, the first of them or every one; and why, where none does."""
    if why := unlike_preset(manifest):
        return (), f"memories do not stand as in the preset {default_layout(manifest.layer.kind)}: {why}"
    try:
        styles = styles_of(manifest)
        _check_array(folder, manifest, styles[0])
    except QexportError as error:
        return (), str(error)
    return styles if every else styles[:1], None


def _check_array(folder: Path, manifest: Manifest, style: str) -> None:
    """Raises QexportError unless the array computes the set's layer, from memories that stand as in the preset."""
    preset_interface(folder, manifest)
    render_rtl(style, manifest, *behind_array(folder, manifest))


@dataclass
class _Mutants:
    """Finds what becomes of the mutants of a set, or finds it again: `what` says to `progress` which they are.

    Each of the `parts` of the work that are left may take its share of the clock's time.
    """

    simulator: Simulator
    seed: int
    sample: int | None
    styles: Sequence[str]
    progress: Progress
    clock: Clock
    parts: int

    def part(self) -> Clock:
        """The clock of the next part."""
        self.parts -= 1
        return self.clock.part(self.parts + 1)

    def files(self, folder: Path, what: str, sealed_only: bool) -> list[FileMutant]:
        tell = partial(self.progress, what)
        made = partial(_file_mutants, folder, self.simulator, self.seed, sealed_only, tell, self.part())
        return _kept(list[FileMutant], made, self.simulator, folder, what, self.seed, sealed_only)

    def rtl(self, folder: Path, what: str, prove: bool) -> list[MutantResult]:
        """Those of the reference array of each style."""
        found = []
        for style in self.styles:
            made = partial(
                reference_mutants, folder, style, sample=self.sample, seed=self.seed, simulator=self.simulator.name,
                prove=prove, progress=self.told(f"{what}, {style}"), clock=self.part(),
            )  # fmt: skip
            options = (what, self.seed, style, self.sample)
            found += _kept(list[MutantResult], made, self.simulator, folder, *options)
        return found

    def told(self, what: str) -> Progress:
        return lambda step, done, total: self.progress(f"{what}: {step}", done, total)


def _table(folder: Path, files: list[FileMutant], rtl: list[MutantResult]) -> Table:
    manifest = read_manifest(folder)
    images = CaptureFile(folder / manifest.capture.path).images
    accumulator = manifest.formats.accumulator
    return Table(images, manifest.strength, accumulator.observed, accumulator.bounds, files, rtl)


def _stress_layout(manifest: Manifest, facts: Convolution) -> Layout:
    """The memories of the bench with the sizes of a set's array, wide enough for all that the stress codes give.

    Where they stand as in the preset, it has all results of the preset.
    """
    stored = {entry.name: entry.bits for entry in manifest.memories}
    preset = load_layout(default_layout(manifest.layer.kind))
    if stands_as_preset(manifest):
        kept = [memory for memory in preset.memories if memory.name in (*DRIVEN, *COMPARED)]
    else:
        kept = _streamed(manifest)
    memories = []
    for memory in kept:
        bits = memory.bits  # of an optional memory that the layer does not have, or of one that cuts codes off
        if facts.has(memory.tensor) and memory.overflow == "error":
            own = IntFormat(1, False) if memory.order.has_bits else facts.tensor(memory.tensor).format
            low, high = facts.tensor(memory.tensor).range or (own.low, own.high)
            needed = IntFormat.holding(low + memory.offset, high + memory.offset, own.signed).bits
            bits = max(stored.get(memory.name, own.bits), 1 if memory.order.has_bits else needed)
        memories.append(replace(memory, bits=bits))
    return replace(preset, array=manifest.array, memories=tuple(memories))


def _streamed(manifest: Manifest) -> list[Memory]:
    """The memories that a set's bench drives and compares, and those in whose files they stand, in files named anew."""
    entries = {entry.name: entry for entry in manifest.memories}
    names = {stream.memory for stream in streams(manifest) or () if stream.needed}
    names |= {entries[name].follows for name in names if entries[name].follows}
    memories = []
    for entry in manifest.memories:
        if entry.name in names:
            memory = entry.memory(manifest.layer.channel)
            fields = "".join(f"_{{{part}}}" for item in memory.order.files for part in item.parts)
            named = verilog_name(entry.follows or entry.name)
            memories.append(replace(memory, file=f"{named}{fields}.{Path(entry.files[0].path).suffix[1:] or 'txt'}"))
    return memories


# --- mutants of files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """One change of one file; `make`: what the file holds then, None for a file that is missing.

    `sealed`: the checksum for the bench is changed along, as somebody who edits vectors would do.
    """

    file: str
    what: str
    make: Callable[[bytes], bytes | None]
    sealed: bool = False
    demanded: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    @property
    def group(self) -> str:
        return f"{self.file} with its checksum" if self.sealed else self.file


def _file_mutants(
    folder: Path,
    simulator: Simulator,
    seed: int,
    sealed_only: bool,
    progress: Callable[[int, int], None],
    clock: Clock = ENDLESS,
) -> list[FileMutant]:
    """Change a copy of a set in one way after the other, and have it checked."""
    manifest = read_manifest(folder)
    rng = np.random.default_rng(seed)
    unread = {file.path for entry in manifest.memories if not _loaded(manifest, entry) for file in entry.files}
    read = bench_files(manifest) - {CHECKS} - unread  # whose flaws the bench itself must notice
    changes = list(_sealed_changes(folder, manifest, rng, sealed_only))
    if not sealed_only:
        changes = [*_changes(folder, manifest, rng), *changes]
    found = []
    progress(0, len(changes))
    with scratch_folder() as scratch, bench_alone(folder, simulator) as alone:
        copy = Path(shutil.copytree(folder, scratch / folder.resolve().name))
        for number, change in enumerate(changes, start=1):
            path, checks = copy / change.file, copy / CHECKS
            if clock.over:
                found.append(FileMutant(change.group, str(change), {}, change.demanded))
                continue
            kept, kept_checks = path.read_bytes(), checks.read_bytes()
            data = change.make(kept)
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
                if change.sealed:
                    checks.write_bytes(_resealed(kept_checks, change.file, data))
            exit_code = 2 if (change.file, data) == (MANIFEST, None) else 1  # without a manifest it is no set of ours
            limit = clock.limit(TIME_LIMIT) or TIME_LIMIT
            noticed = {SIMULATE: _said(partial(_simulate, copy, simulator.name, limit), exit_code)}
            if change.file in read:
                noticed[BENCH] = _said(partial(alone, copy), exit_code)
            noticed[VERIFY] = _said(partial(_verify, copy), exit_code)
            # what was cut off by the clock was not noticed
            found.append(FileMutant(change.group, str(change), {} if clock.over else noticed, change.demanded))
            path.write_bytes(kept)
            checks.write_bytes(kept_checks)
            progress(number, len(changes))
    return found


def _said(check: Callable[[], object], exit_code: int) -> str | None:
    """The line with which a check fails as it must; None when it passes, or refuses the set for another reason."""
    try:
        check()
    except QexportError as error:
        lines = str(error).splitlines()
        if error.exit_code == exit_code:
            return next((line for line in lines if line.startswith("FAIL")), lines[0])
    return None


def _simulate(folder: Path, simulator: str, limit: float) -> None:
    simulate(folder, simulator, limit=limit).check()


def _verify(folder: Path) -> None:
    if faults := verify(folder).faults:
        raise CheckFailed(str(faults[0]))


def _changes(folder: Path, manifest: Manifest, rng: np.random.Generator) -> Iterator[_Change]:
    """Bits flipped in every file, every file empty and missing, and lines of every memory changed."""
    paths = sorted(set_entries(folder))
    for path in paths:
        bits = 8 * (folder / path).stat().st_size
        for bit in sorted(rng.choice(bits, min(bits, -(-FLIPS // len(paths))), replace=False).tolist()):
            yield _Change(path, f"bit {bit % 8} of byte {bit // 8} flipped", partial(_flipped, bit=bit))
        yield _Change(path, "empty", lambda data: b"")
        yield _Change(path, "missing", lambda data: None)
        if found := manifest.memory_of(path):
            yield from _line_changes(path, (folder / path).read_bytes(), found[0], rng)


def _flipped(data: bytes, bit: int) -> bytes:
    at = bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


def _line_changes(path: str, data: bytes, entry: MemoryEntry, rng: np.random.Generator) -> Iterator[_Change]:
    """A word's line dropped, doubled, swapped with another, too wide, with an X; and a header too many."""
    format_ = entry.format
    if not format_.word_lines:
        return
    lines = data.split(b"\n")
    words = [at for at in range(len(entry.header) + format_.preamble, len(lines) - 1) if lines[at].strip()]
    at = int(rng.choice(words))
    word = lines[at]
    column = int(rng.integers(len(word)))
    yield _Change(path, f"line {at + 1} dropped", partial(_with_lines, at=at, new=[]))
    yield _Change(path, f"line {at + 1} doubled", partial(_with_lines, at=at, new=[word, word]))
    if others := [other for other in words if lines[other] != word]:
        other = int(rng.choice(others))
        yield _Change(path, f"lines {at + 1} and {other + 1} swapped", partial(_swapped, at=at, other=other))
    yield _Change(path, f"line {at + 1} a digit too wide", partial(_with_lines, at=at, new=[b"1" + word]))
    crossed = word[:column] + b"x" + word[column + 1 :]
    yield _Change(path, f"line {at + 1} with an X digit", partial(_with_lines, at=at, new=[crossed]))
    yield _Change(path, "a header too many", lambda data: b"#header#\n" + data)


def _with_lines(data: bytes, at: int, new: Sequence[bytes]) -> bytes:
    """The text with other lines instead of one."""
    lines = data.split(b"\n")
    return b"\n".join([*lines[:at], *new, *lines[at + 1 :]])


def _swapped(data: bytes, at: int, other: int) -> bytes:
    lines = data.split(b"\n")
    lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def _sealed_changes(folder: Path, manifest: Manifest, rng: np.random.Generator, strong: bool) -> Iterator[_Change]:
    """Bits of words that the bench drives or compares, with the checksum changed along: the comparison must notice.

    Those of driven words only on `strong` vectors, and where all results are compared: else they may not show. Of lanes
    that are fill nothing must show.
    """
    strong = strong and stands_as_preset(manifest)
    entries = {entry.name: entry for entry in manifest.memories}
    found = [stream for stream in streams(manifest) or () if stream.needed]
    for stream in found:
        entry = entries[stream.memory]
        if not _loaded(manifest, entry):
            continue
        tiling, bits = entry.tiling(manifest.array, manifest.layer.channel), entry.bits
        if entry.name in BEHIND:  # what it adds beyond the width of a sum's words does not show in them
            sums = [entries[stage].bits for stage in ("accumulator", "relu") if stage in entries]
            bits = min(bits, manifest.formats.accumulator.bits, *sums)  # nor beyond that of the design's registers
        spec = entry.memory(manifest.layer.channel).spec(tiling, entry.element, entry.files[0].index)
        drawn: set[tuple[int, int, int]] = set()
        for _ in range(_DRAWS * SEALED):
            word, lane, bit = (int(rng.integers(size)) for size in (tiling.words, tiling.lanes, bits))
            if len(drawn) < SEALED and tiling.origin(0, word, lane) is not None:
                drawn.add((word, lane, bit))
        above = len(entry.header) + entry.format.preamble
        for word, lane, bit in sorted(drawn):
            yield _Change(
                entry.files[0].path,
                f"line {above + word + 1} lane {lane} bit {bit} flipped, its checksum too",
                partial(_word_flipped, format_=entry.format, spec=spec, word=word, lane=lane, bit=bit),
                sealed=True,
                demanded=not stream.driven or strong,
            )


def _loaded(manifest: Manifest, entry: MemoryEntry) -> bool:
    """Whether Verilog loads the files of a memory; else it loads a text of the same words beside them."""
    followed = any(other.follows == entry.name for other in manifest.memories)
    return entry.format.text and not entry.follows and not followed


def _word_flipped(data: bytes, format_: Format, spec: WordSpec, word: int, lane: int, bit: int) -> bytes:
    """A file with a bit of a word's element flipped."""
    codes = format_.read(data, spec)
    codes[word, lane] = spec.element.wrap(codes[word, lane] ^ (1 << bit))
    return format_.write(codes, spec)


def _resealed(checks: bytes, file: str, data: bytes) -> bytes:
    """The bench's file of checksums with that of one memory file made anew."""
    pattern = rb"^(\d+) [0-9a-f]{8} " + re.escape(file.encode()) + rb"$"
    return re.sub(pattern, rb"\g<1> %08x %s" % (zlib.crc32(data), file.encode()), checks, flags=re.MULTILINE)


# --- what was found before ------------------------------------------------------------------------------------------


def _kept(
    type_: type[list[Result]], make: Callable[[], list[Result]], simulator: Simulator, folder: Path, *options: object
) -> list[Result]:
    """What `make` finds about a set, or found before: kept by files, options, program and tools."""
    files = [f"{file_sha256(path)}  {name}" for name, path in set_entries(folder).items()]
    key = sha256("\n".join([_program(), simulator.name, simulator.version(), *map(str, options), *files]).encode())
    path = cache_folder() / f"selftest-{key}.json"
    with suppress(OSError, msgspec.DecodeError):  # not there yet, or damaged
        return msgspec.json.decode(path.read_bytes(), type=type_)
    found = make()
    if not any((isinstance(one, FileMutant) and one.open) or getattr(one, "fate", "") == "open" for one in found):
        write_atomically(path, msgspec.json.encode(found))
    return found


@cache
def _program() -> str:
    """The SHA-256 of this program and its templates."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parent.parent, TEMPLATES):
        for path in sorted(file for file in root.rglob("*") if file.suffix in (".py", ".toml", ".j2", ".sv")):
            digest.update(f"{path.relative_to(root)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
