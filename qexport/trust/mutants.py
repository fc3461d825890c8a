"""Mutants of RTL: which mistakes in a design does the bench of a set see?

Every mutant of a design lives in one build; the plusarg `mutant` selects one, 0 is the design itself. Hand-placed ones
are edits of the reference RTL (rtl_edits.py), general ones are changes of single bits of its netlist by Yosys `mutate`.
"""

import random
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from qexport.bench.design import WRAPPER, Design, Dut
from qexport.bench.interface import Port, Stream, interface, preset_interface
from qexport.bench.ports import connected, read_module
from qexport.bench.rtl import PARTS, behind_array, driven_memories, render_rtl, result_streams, rtl_numbers
from qexport.bench.stages import held_cycles, rtl_stages
from qexport.core.geometry import MatMul
from qexport.errors import CheckFailed, QexportError
from qexport.layout.memory import verilog_name
from qexport.sets.manifest import read_manifest
from qexport.sim.cache import build_bench, cache_folder
from qexport.sim.ghdl import as_verilog
from qexport.sim.registry import SIMULATORS, choose
from qexport.sim.run import check_all_words, judged, lacking, write_wrapper
from qexport.sim.streams import MODES, Streams, all_streams, streams_of_seed
from qexport.sim.supervisor import TIME_LIMIT, CutOff, workers
from qexport.sim.tools import Simulator
from qexport.sim.work import Work, scratch_folder, work_folder
from qexport.trust.clock import ENDLESS, Clock
from qexport.trust.equivalence import PROOF, equivalent, whole_paths, yosys
from qexport.trust.rtl_edits import EDITS, PRODUCT_EDITS, Edit, behind

GENERAL = 120  # mutants of a netlist
OPEN = "the time was over"  # in place of a failure
# Of a mutant: all that `simulate` makes by default, as some faults show in one of them alone, and two draws more.
RUNS = (*(run for seed in range(4) for run in streams_of_seed(seed)), *all_streams(MODES[2:]))

Progress = Callable[[str, int, int], None]  # what, how many of it are done, of how many


def quiet(what: str, done: int, total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    `where`: file:line of the RTL, or cell/port[bit] of the netlist. `kind`: 'hand' or 'general'. `fate`: 'killed'
    (a run failed), 'equivalent' (proven to behave as the design), 'survived' or 'open' (the time was over before it was
    known). `how`: the FAIL line, or the proof.
    """

    name: str
    where: str
    kind: str
    style: str
    fate: str
    how: str


def applied(edit: Edit, text: str) -> str:
    """The text of the edit's file with the edit in it."""
    return _replaced(text, {_span(edit, text): edit.new})


def _span(edit: Edit, text: str) -> tuple[int, int]:
    """Where the replaced text stands; raises ValueError unless the edit's text stands there exactly once."""
    before, rest = edit.old.split("«")
    old, behind = rest.split("»")
    if text.count(before + old + behind) != 1:
        raise ValueError(f"edit {edit.name}: '{before}{old}{behind}' does not stand once in {edit.file}")
    start = text.index(before + old + behind) + len(before)
    return start, start + len(old)


def _replaced(text: str, parts: dict[tuple[int, int], str]) -> str:
    """The text with new parts; raises ValueError when two of the replaced ones overlap."""
    behind = len(text)
    for (start, end), new in sorted(parts.items(), reverse=True):
        if end > behind:
            raise ValueError(f"two edits overlap in '{text[start:end]}'")
        text, behind = text[:start] + new + text[end:], start
    return text


def selectable(files: dict[str, str], edits: Sequence[Edit]) -> dict[str, str]:
    """The files of the RTL with all edits in them, of which the plusarg `mutant` selects one, counted from 1."""
    made = dict(files)
    for name, text in files.items():
        parts: dict[tuple[int, int], str] = {}
        for number, edit in enumerate(edits, 1):
            if edit.file == name or name.endswith(f"_{edit.file}"):  # behind the name of the layer
                span = _span(edit, text)
                old = parts.get(span, f"({text[slice(*span)]})")
                parts[span] = f"(qexport_mutant::number == {number} ? ({edit.new}) : {old})"
        made[name] = _replaced(text, parts)
    select = 'import qexport_mutant::*;\n  initial if ($value$plusargs("mutant=%d", number) == 0) number = 0;'
    made["dut.sv"] = made["dut.sv"].replace("endmodule", f"  {select}\nendmodule")
    return {"qexport_mutant.sv": "package qexport_mutant;\n  int number = 0;\nendpackage\n"} | made


class _Bench:
    """The bench of a set around a design that the plusarg `mutant` changes, built once."""

    def __init__(
        self, folder: Path, simulator: Simulator, found: Sequence[Stream], design: Path, work: Work, clock: Clock
    ) -> None:
        self.folder, self.simulator, self.work, self.clock = folder, simulator, work, clock
        self.manifest = read_manifest(folder)
        macros = lacking(interface(folder, self.manifest), found)
        limit = clock.limit(TIME_LIMIT) or TIME_LIMIT
        job = replace(work.job(folder, self.manifest, [design]), macros=macros, limit=limit)
        self.compared = {stream.memory: stream.values for stream in found if not stream.driven}
        self.executable = build_bench(simulator, job, work.root, work.out / "build.log", cache_folder())

    def failure(self, mutant: int, cycles: dict[Streams, int] | None = None) -> str | None:
        """Why the mutant fails in the first run in which it does; None when it passes in all.

        That is the FAIL line or, where `cycles` has those of the design by run, that the mutant took others; OPEN
        where the time was over before.
        """
        for run in RUNS:
            if self.clock.over:
                return OPEN
            try:
                took = self._cycles(mutant, run)
            except CheckFailed as failed:
                if isinstance(failed, CutOff) and self.clock.over:
                    return OPEN
                lines = [line for line in str(failed).splitlines() if line.startswith("FAIL")]
                return f"{run}: {lines[0] if lines else str(failed).removeprefix(f'simulate: {self.folder}: ')}"
            if cycles is not None and took != cycles.setdefault(run, took):
                return f"{run}: PASS, but in {took} cycles, not {cycles[run]}"
        return None

    def _cycles(self, mutant: int, run: Streams) -> int:
        """The cycles of a run; raises CheckFailed unless it passes, as `simulate` judges it."""
        with work_folder(self.folder, within=self.work.root) as work:
            plusargs = ["+dir=set", "+out=out", "+nonce=mutant", *run.arguments, f"+mutant={mutant}"]
            command = [*self.simulator.command(self.executable), *plusargs]
            limit = self.clock.limit(TIME_LIMIT) or TIME_LIMIT
            output = judged(command, work, sum(self.compared.values()), "mutant", str(self.folder), limit)
            check_all_words(work, self.folder, self.manifest, self.compared, str(self.folder))
        return int(re.findall(r"^DONE cycles=(\d+) ", output, re.MULTILINE)[0])

    def failures(self, numbers: Sequence[int], timed: bool, progress: Callable[[int], None]) -> list[str | None]:
        """The failure of each of these mutants; `timed`: other cycles than those of the design are one, too.

        Raises CheckFailed when the unchanged design fails.
        """
        cycles: dict[Streams, int] = {}
        own = self.failure(0, cycles)
        if own == OPEN:
            return [OPEN] * len(numbers)
        if own is not None:
            raise CheckFailed(f"mutants: {self.folder}: the unchanged design fails, no mutant was run: {own}")
        found = []
        with workers() as pool:
            for failure in pool.map(lambda number: self.failure(number, cycles if timed else None), numbers):
                found.append(failure)
                progress(len(found))
        return found


def reference_files(style: str, folder: Path) -> dict[str, str]:
    """The sources of the reference RTL of a set by name, the top `dut` last."""
    manifest = read_manifest(folder)
    files = render_rtl(style, manifest, *behind_array(folder, manifest))
    del files["dut_mm.sv"]
    return files


def chosen_edits(style: str, folder: Path) -> list[Edit]:
    """The edits that change anything for the layer of a set."""
    manifest = read_manifest(folder)
    memories = {memory.name: memory for memory in manifest.memories}
    stages = rtl_stages(manifest, *behind_array(folder, manifest))
    shape, numbers = memories["accumulator"].shape, rtl_numbers(style, manifest)
    streams = [stream.name for stream in result_streams(manifest, stages)]
    product = isinstance(manifest.layer, MatMul)
    facts = SimpleNamespace(
        **numbers, **_of_product(numbers) if product else _of_convolution(numbers, shape), IMAGES=shape[0],
        HAS_BIAS="bias" in memories and "bias" in [number.field for number in stages[0].numbers],
        HAS_ADDEND="addend" in memories, HAS_RELU="relu" in streams, NUMBERS=any(stage.numbers for stage in stages[1:]),
        POOLS=any(stage.pool for stage in stages), HELD=held_cycles(stages, 1) > 0,
    )  # fmt: skip
    edits = PRODUCT_EDITS if product else EDITS[style]
    return [edit for edit in (*behind(stages, streams), *edits) if edit.when(facts)]


def _of_convolution(numbers: Mapping[str, int], shape: Sequence[int]) -> dict[str, int]:
    """What the edits ask of a convolution."""
    terms = numbers["IC"] // numbers["GROUPS"] * numbers["KH"] * numbers["KW"]
    return {"PLACES": numbers["IY"] * numbers["IX"], "OX": shape[3], "OUTPUTS": shape[2] * shape[3], "TERMS": terms}


def _of_product(numbers: Mapping[str, int]) -> dict[str, int]:
    """What the edits ask of a matrix product: input2 is what an element calls weights."""
    signed = numbers["INPUT2_SIGNED"] or numbers["INPUT2_ZERO"]
    weights = {"WEIGHT_SIGNED": signed, "WEIGHT_BITS": numbers["INPUT2_BITS"] + (numbers["INPUT2_ZERO"] != 0)}
    return weights | {"PLACES": numbers["M"], "OX": 1, "OUTPUTS": numbers["M"], "TERMS": numbers["K"]}


def hand_mutants(
    folder: Path,
    style: str,
    edits: Sequence[Edit],
    *,
    simulator: str = "auto",
    progress: Progress = quiet,
    clock: Clock = ENDLESS,
) -> list[MutantResult]:
    """Run hand-placed mutants of the reference array `style` in the bench of the set `folder`.

    Raises CheckFailed when the unchanged array fails, QexportError when the set has no bench for it.
    """
    files = reference_files(style, folder)
    with work_folder(folder) as work:
        design = work.root / "dut.sv"
        design.write_text("\n".join(selectable(files, edits).values()))
        progress("hand-placed", 0, len(edits))
        failures = _failures(
            folder, choose(simulator), _reference_streams(folder, style), design, work, clock,
            range(1, len(edits) + 1), True,
            lambda done: progress("hand-placed", done, len(edits)),
        )  # fmt: skip
    made = []
    for edit, failure in zip(edits, failures, strict=True):
        text = next(text for name, text in files.items() if name.endswith(f"_{edit.file}"))
        line = text[: _span(edit, text)[0]].count("\n") + 1
        fate = "survived" if failure is None else "open" if failure == OPEN else "killed"
        made.append(MutantResult(edit.name, f"{edit.file}:{line}", "hand", style, fate, failure or edit.what))
    return made


@dataclass(frozen=True)
class Netlist:
    """A flat netlist of a design with changes of single bits in it.

    `folder` holds netlist.v, in which the plusarg `mutant` selects a change, and unchanged.il, the netlist as it was.
    `changes`: the options of Yosys `mutate` by name, for each mutant.
    """

    folder: Path
    changes: tuple[dict[str, str], ...]

    def name(self, change: dict[str, str]) -> str:
        """Such as 'const0', or 'cnot1 by bit 3': the bit is inverted where bit 3 is 1."""
        return change["mode"] + (f" by bit {change['ctrlbit']}" if "ctrlbit" in change else "")

    def where(self, change: dict[str, str]) -> str:
        place = f"{change['cell']}/{change['port']}[{change['portbit']}]"
        return f"{place} ({whole_paths(change['src'], self.folder)})" if "src" in change else place


def _options(change: dict[str, str]) -> str:
    return " ".join(f"-{key} {value}" for key, value in change.items() if key not in ("src", "wire", "wirebit"))


def netlist(
    read: str,
    include: Path,
    top: str,
    ports: dict[str, Port],
    count: int,
    seed: int,
    to: Path,
    clock: Clock = ENDLESS,
) -> Netlist:
    """Synthesize a design to a flat netlist with `count` seeded changes, in the folder `to`; memories stay memories.

    `read`: the command of Yosys that reads the sources; it runs in `to`, where `include` is a link. Raises QexportError
    when Yosys is missing or cannot read the sources.
    """
    (to / "include").symlink_to(include.resolve())  # -I takes no name with spaces
    said = yosys(
        to,
        read,
        f"prep -flatten -top {top}",
        "bwmuxmap",  # which Verilog is not written for
        "opt -full; wreduce; peepopt; opt -full; opt_clean",  # fewer bits that nobody sees
        # no registers that never leave their reset value, such as the counter of an axis of one place
        "select -set small t:$sdff* r:WIDTH=1 %i; zinit -all @small; dffunmap; opt_dff -sat -nosdff -nodffe",
        "setattr -unset init w:*; opt -full; opt_clean",
        f"rename {top} qexport_core; write_rtlil unchanged.il",
        f"mutate -list {3 * count} -seed {seed} -o candidates.txt",
        "select -list t:$mem_v2 r:RD_CLK_ENABLE=*'*1* %d",
        clock=clock,
    )
    without_clock = set(re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE))
    listed = [shlex.split(line.replace("\\", "\\\\")) for line in (to / "candidates.txt").read_text().splitlines()]
    # each line is `mutate` and options
    changes = [{key[1:]: value for key, value in zip(w[1::2], w[2::2], strict=True)} for w in listed]
    renaming = _renaming(to, clock)
    changes = [
        change
        for change in changes
        # a memory has ports for a reset, and one that is read without a clock for that: used, Verilog cannot be written
        if not re.fullmatch("RD_[AS]RST", change["port"])
        and not (change["port"] == "RD_EN" and change["cell"] in without_clock)
        and change["cell"] not in renaming
    ][:count]
    return with_changes(to, changes, ports, clock)


def with_changes(
    to: Path, changes: Sequence[dict[str, str]], ports: dict[str, Port], clock: Clock = ENDLESS
) -> Netlist:
    """The netlist unchanged.il of the folder `to` as Verilog with these changes in it."""
    (to / "changes.txt").write_text(
        "".join(f"mutate -ctrl qexport_mutant 16 {n} {_options(change)}\n" for n, change in enumerate(changes, 1))
    )
    yosys(to, "read_rtlil unchanged.il; script changes.txt; write_verilog -noattr netlist.v", clock=clock)
    with (to / "netlist.v").open("a") as text:
        declared = ",\n".join(f"  {port.direction} wire [{port.bits - 1}:0] {name}" for name, port in ports.items())
        text.write(
            f"module dut (\n{declared}\n);\n  reg [15:0] number;\n"
            '  initial if ($value$plusargs("mutant=%d", number) == 0) number = 0;\n'
            f"  qexport_core core ({', '.join(f'.{name}({name})' for name in ports)}, .qexport_mutant(number));\n"
            "endmodule\n"
        )
    return Netlist(to, tuple(changes))


def _renaming(folder: Path, clock: Clock) -> set[str]:
    """The cells of unchanged.il that address a memory for reading and, a register later, for writing alike.

    A change of them may put the words into another order, and be no mistake that anything could show.
    """
    said = yosys(folder, "read_rtlil unchanged.il; select -list t:$mem_v2", clock=clock)
    memories = re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE)
    within = "%ci*:-[D,EN,SRST,CLK]"  # a cycle
    shared = (
        f"select -set both{n} c:{memory} %ci:+[RD_ADDR] {within} "
        f"c:{memory} %ci:+[WR_ADDR] {within} %ci:+[D] {within} %i t:$*ff* %d t:$mem_v2 %d; select -list @both{n}"
        for n, memory in enumerate(memories)
    )
    said = yosys(folder, "read_rtlil unchanged.il", *shared, clock=clock)
    return set(re.findall(r"^qexport_core/(\S+)$", said, re.MULTILINE))


def _ports(found: Iterable[Stream]) -> dict[str, Port]:
    ports = {"clk": Port("input", 1), "rst": Port("input", 1)}
    for stream in found:
        ports |= stream.ports
    return ports


def _reference_streams(folder: Path, style: str) -> tuple[Stream, ...]:
    """The streams of the reference RTL: those of the preset, and numbers of steps that it takes from a stream."""
    manifest = read_manifest(folder)
    own = {memory.name for memory in driven_memories(manifest)}
    given = tuple(s for s in interface(folder, manifest) if s.driven and verilog_name(s.memory) in own)
    back = (s for s in preset_interface(folder, manifest) if not s.driven and (s.memory != "psum" or style == "ws"))
    return (*given, *back)


def _failures(
    folder: Path,
    simulator: Simulator,
    found: Sequence[Stream],
    design: Path,
    work: Work,
    clock: Clock,
    numbers: Sequence[int],
    timed: bool,
    progress: Callable[[int], None],
) -> list[str | None]:
    """As `_Bench.failures`; all OPEN where the bench was not built in time."""
    try:
        return _Bench(folder, simulator, found, design, work, clock).failures(numbers, timed, progress)
    except CutOff:
        if not clock.over:
            raise
        return [OPEN] * len(numbers)


def general_mutants(
    folder: Path,
    made: Netlist,
    found: Sequence[Stream],
    style: str,
    simulator: str,
    prove: bool,
    progress: Progress,
    clock: Clock = ENDLESS,
    only: Collection[int] | None = None,
    timed: bool = False,
) -> list[MutantResult]:
    """Run the changes of a netlist, or `only` those of these numbers, in the bench of the set `folder`.

    `timed`: one that takes other cycles is killed, too, as it always is of a reference array.

    `prove`: what survives is proven equivalent where it is; what is not, runs with Icarus, too, where it can run: there
    registers and memories start unknown, and a word that was never written shows.
    """
    used, netlist_file = choose(simulator), made.folder / "netlist.v"
    numbers = [number for number in range(1, len(made.changes) + 1) if only is None or number in only]
    with work_folder(folder) as work:
        progress("general", 0, len(numbers))
        failed = _failures(
            folder, used, found, netlist_file, work, clock, numbers, timed or style in PARTS,
            lambda done: progress("general", done, len(numbers)),
        )  # fmt: skip
    failures = dict(zip(numbers, failed, strict=True))
    survivors = [number for number, failure in failures.items() if failure is None]
    proven = _proven(made, found, survivors, progress, clock) if prove else {}
    failures |= {number: OPEN for number, equal in proven.items() if equal is None}
    left = [number for number in survivors if proven.get(number, False) is False]
    unknown = SIMULATORS["icarus"]
    if prove and left and used is not unknown and not unknown.missing():
        with work_folder(folder) as work:
            try:
                bench = _Bench(folder, unknown, found, netlist_file, work, clock)
                own = bench.failure(0)
            except CutOff:
                own = OPEN
            for number in left if own in (None, OPEN) else ():
                failure = own or bench.failure(number)
                failures[number] = f"{failure} (Icarus)" if failure not in (None, OPEN) else failure
    results = []
    for number, failure in failures.items():
        fate, how = ("survived", f"passes {len(RUNS)} runs") if failure is None else ("killed", failure)
        if failure == OPEN:
            fate = "open"
        if proven.get(number):
            fate, how = "equivalent", PROOF
        change = made.changes[number - 1]
        results.append(MutantResult(made.name(change), made.where(change), "general", style, fate, how))
    return results


def _proven(
    made: Netlist, found: Sequence[Stream], numbers: Sequence[int], progress: Progress, clock: Clock
) -> dict[int, bool | None]:
    """Whether each of the numbered changes is proven to make no difference, as `equivalent` says."""
    words = {f"s_{stream.memory}": stream.words for stream in found if stream.driven}

    def proof(number: int) -> bool | None:
        return equivalent(made.folder / "unchanged.il", _options(made.changes[number - 1]), words, clock)

    proven = {}
    with workers() as pool:
        for done, (number, equal) in enumerate(zip(numbers, pool.map(proof, numbers), strict=True), start=1):
            proven[number] = equal
            progress("proofs", done, len(numbers))
    return proven


def reference_mutants(
    folder: Path,
    style: str,
    *,
    sample: int | None = None,
    seed: int = 0,
    simulator: str = "auto",
    prove: bool = True,
    progress: Progress = quiet,
    clock: Clock = ENDLESS,
) -> list[MutantResult]:
    """Run mutants of the reference array `style` ('ws' or 'os') in the bench of a set: hand-placed and general ones.

    `sample`: at most so many of each kind, drawn by `seed`; None: all. `prove`: general ones that survive are proven
    equivalent where they are, which takes up to minutes for each that is not. Raises CheckFailed when the unchanged
    array fails, QexportError when the set has no bench for it or Yosys is missing.
    """
    edits = chosen_edits(style, folder)
    if sample is not None:
        edits = random.Random(seed).sample(edits, min(sample, len(edits)))
    count = GENERAL if sample is None else min(sample, GENERAL)
    results = hand_mutants(folder, style, edits, simulator=simulator, progress=progress, clock=clock.part(2))
    with scratch_folder() as scratch:
        sources = reference_files(style, folder)
        for name, text in sources.items():
            (scratch / name).write_text(text)
        found = _reference_streams(folder, style)
        read = f"read_verilog -sv -Iinclude {' '.join(sources)}"
        try:
            made = netlist(read, folder, "dut", _ports(found), count, seed, scratch, clock)
        except CutOff:
            if not clock.over:
                raise
            return [*results, _no_netlist(style)]
        return results + general_mutants(folder, made, found, style, simulator, prove, progress, clock)


def _no_netlist(style: str) -> MutantResult:
    return MutantResult("all of a netlist", "netlist", "general", style, "open", "Yosys did not make it in time")


def user_mutants(
    folders: Sequence[Path],
    dut: Dut,
    top: str = "dut",
    *,
    sample: int | None = None,
    seed: int = 0,
    simulator: str = "auto",
    timed: bool = False,
    progress: Progress = quiet,
    clock: Clock = ENDLESS,
) -> list[MutantResult]:
    """Run general mutants of a design, or of the module `top` of files, in the benches of sets of one layer, one after
    the other: what one kills does not run on the next, and what none kills is proven equivalent where it is. `timed`:
    other cycles than those of the design kill, too.

    Raises CheckFailed when the unchanged module fails, QexportError when its ports do not fit, Yosys cannot read it, or
    it is not the same netlist for all sets.
    """
    count = GENERAL if sample is None else min(sample, GENERAL)
    results: dict[int, MutantResult] = {}
    changes: tuple[dict[str, str], ...] = ()
    for folder in folders:
        with _user_module(folder, Design.of(dut, top)) as (place, found, name, read):
            progress("netlist", 0, 1)  # minutes, where the module is no synthesizable RTL
            try:
                made = netlist(read, folder, name, _ports(found), count, seed, place, clock)
            except CutOff:
                if not clock.over:
                    raise
                return [_no_netlist("user")]
            progress("netlist", 1, 1)
            if results and made.changes != changes:
                raise QexportError(f"mutants: {name} has other mutants on {folder} than before; give sets of one layer")
            changes, last = made.changes, folder == folders[-1]
            left = [n for n in range(1, len(changes) + 1) if n not in results or results[n].fate != "killed"]
            now = general_mutants(folder, made, found, "user", simulator, last, progress, clock, left, timed)
        results |= dict(zip(left, now, strict=True))
        if all(result.fate == "killed" for result in results.values()):
            break
    return list(results.values())


def check_readable(folder: Path, design: Design, clock: Clock = ENDLESS) -> None:
    """Raises QexportError when the ports of a user's design do not fit or Yosys cannot read it."""
    with _user_module(folder, design) as (place, _, _, read):
        (place / "include").symlink_to(folder.resolve())
        yosys(place, read, clock=clock)


@contextmanager
def _user_module(folder: Path, design: Design) -> Iterator[tuple[Path, tuple[Stream, ...], str, str]]:
    """A folder in which Yosys can work, the streams that the design has, its top, and the command that reads it."""
    for text in (*(str(path.resolve()) for path in (*design.files, *design.includes)), *design.defines):
        if re.search(r'[\s;"]', text):
            raise QexportError(
                f"dut: '{text}': Yosys cannot name places in it; use a path without blanks, ; and quotes"
            )
    package = folder / f"{read_manifest(folder).layer.slug}_pkg.sv"
    with scratch_folder() as place:
        design = as_verilog(design, place)
        found = connected(read_module(design, package, (folder,)), interface(folder, read_manifest(folder)), design)
        (place / package.name).symlink_to(package.resolve())  # the set's path may have spaces
        sources, top = [package.name, *(str(path.resolve()) for path in design.files)], design.top
        if not design.fits_by_itself:
            sources, top = [*sources, write_wrapper(design, found, place).name], WRAPPER
        options = [f"-I{path.resolve()}" for path in design.includes] + [f"-D{macro}" for macro in design.defines]
        # unlike read_verilog, slang knows packages; a single unit shares macros between files, as simulators do
        read = ["read_slang --single-unit --top", top, "-Iinclude", *options, *sources]
        yield place, found, top, " ".join(read)
