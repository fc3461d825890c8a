"""Mutants of RTL: which mistakes in a design does the bench of a set see?

Every mutant of a design lives in one build; the plusarg `mutant` selects one, 0 is the design itself. Hand-placed ones
are edits of the reference RTL (edits.py), general ones are changes of single bits of its netlist by Yosys `mutate`.
"""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from qexport.bench import Port, Stream, streams
from qexport.edits import EDITS, Edit
from qexport.errors import CheckFailed, QexportError
from qexport.manifest import Manifest, read_manifest
from qexport.ports import connected, read_module
from qexport.rtl import render_rtl, rtl_numbers
from qexport.simulate import Job, Simulator, _build, _run, _same_words, choose, judge

GENERAL = 120  # mutants of a netlist
SEEDS = (0, 1, 2, 3)  # of the bench's rhythm: without waiting, then with three kinds of it

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    `where`: file:line of the templates, or cell/port[bit] of the netlist. `kind`: 'hand' or 'general'. `fate`: 'killed'
    (a run failed), 'equivalent' (proven to behave as the design) or 'survived'. `how`: the FAIL line, or the proof.
    """

    name: str
    where: str
    kind: str
    style: str
    fate: str
    how: str


def applied(edit: Edit, text: str, pattern: str = "{new}") -> str:
    """The text of the edit's file with the edit in it; `pattern` says what stands in its place, of {old} and {new}."""
    return _replaced(text, {_span(edit, text): pattern.format(old=_marked(edit)[1], new=edit.new)})


def _marked(edit: Edit) -> tuple[str, str, str]:
    """What stands in front of the edit, what is replaced, what stands behind."""
    before, rest = edit.old.split("«")
    old, behind = rest.split("»")
    return before, old, behind


def _span(edit: Edit, text: str) -> tuple[int, int]:
    """Where the replaced text stands; raises ValueError unless the edit's text stands there exactly once."""
    before, old, behind = _marked(edit)
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
            if edit.file == name:
                span = _span(edit, text)
                old = parts.get(span, f"({text[slice(*span)]})")
                parts[span] = f"(qexport_mutant::number == {number} ? ({edit.new}) : {old})"
        made[name] = _replaced(text, parts)
    select = 'initial if ($value$plusargs("mutant=%d", qexport_mutant::number) == 0) qexport_mutant::number = 0;'
    made["dut.sv"] = made["dut.sv"].replace("endmodule", f"  {select}\nendmodule")
    return {"qexport_mutant.sv": "package qexport_mutant;\n  int number = 0;\nendpackage\n"} | made


class _Bench:
    """The bench of a set around a design that the plusarg `mutant` changes, built once."""

    def __init__(
        self, folder: Path, simulator: Simulator, found: Sequence[Stream], design: Path, scratch: Path
    ) -> None:
        self.folder, self.simulator, self.scratch = folder, simulator, scratch
        self.manifest = read_manifest(folder)
        interface = _interface(folder, self.manifest)
        slug = self.manifest.layer.slug
        include = scratch / "include"
        include.mkdir()
        (include / "params.vh").symlink_to((folder / "params.vh").resolve())
        lacking = tuple(f"QEXPORT_WITHOUT_{s.memory.upper()}" for s in interface if s not in found)
        job = Job((folder / f"{slug}_pkg.sv", folder / f"tb_{slug}.sv", design), include, f"tb_{slug}", lacking)
        self.results = [stream for stream in found if not stream.driven]
        self.executable = _build(simulator, job, scratch, scratch / "build.log", cached=True)

    def failure(self, mutant: int, seeds: Iterable[int] = SEEDS) -> str | None:
        """The first FAIL line of the first seed with which the mutant fails; None when it passes with all."""
        for seed in seeds:
            try:
                self._pass(mutant, seed)
            except CheckFailed as failed:
                lines = [line for line in str(failed).splitlines() if line.startswith("FAIL")]
                return f"seed {seed}: {lines[0] if lines else failed}"
        return None

    def _pass(self, mutant: int, seed: int) -> None:
        """Raises CheckFailed unless the run passes, as `simulate` judges it."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as place:
            run = Path(place)
            (run / "set").symlink_to(self.folder.resolve())
            (run / "out").mkdir()
            plusargs = ["+dir=set", "+out=out", "+nonce=mutant", f"+seed={seed}", f"+mutant={mutant}"]
            command = [*self.simulator.command(self.executable), *plusargs]
            status = _run(command, run, run / "run.log", lambda line: None)
            if status is None:
                raise CheckFailed("no end")
            checks = sum(stream.words * stream.lanes for stream in self.results)
            judge((run / "run.log").read_text(errors="replace"), status, checks, "mutant", str(self.folder))
            files = {memory.name: memory.files[0].path for memory in self.manifest.memories}
            for stream in self.results:
                _same_words(run / "out" / f"{stream.memory}.hex", self.folder / files[stream.memory], str(self.folder))

    def failures(self, numbers: Sequence[int], done: Callable[[int], None]) -> dict[int, str | None]:
        """The failure of each mutant; raises CheckFailed when the design itself fails."""
        own = self.failure(0)
        if own is not None:
            raise CheckFailed(f"mutants: {self.folder}: the unchanged design fails, no mutant was run: {own}")
        found = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, failure in zip(numbers, pool.map(self.failure, numbers), strict=True):
                found[number] = failure
                done(number)
        return found


def _interface(folder: Path, manifest: Manifest) -> tuple[Stream, ...]:
    interface = streams(manifest)
    if interface is None:
        raise QexportError(
            f"set: {folder} has layout '{manifest.layout.name}', which comes without a self-checking bench; "
            "dump it with --layout default"
        )
    return interface


def reference_files(style: str, manifest: Manifest) -> dict[str, str]:
    """The sources of the reference RTL of a set by name, the top `dut` last."""
    files = render_rtl(style, manifest.layer, manifest.memories, manifest.array, manifest.formats)
    del files["dut_mm.sv"]
    return files


def chosen_edits(style: str, manifest: Manifest) -> list[Edit]:
    """The edits that change anything for the layer of a set."""
    memories = {memory.name: memory for memory in manifest.memories}
    numbers = rtl_numbers(manifest.layer, memories, manifest.array, manifest.formats, style)
    output = memories["accumulator"].shape
    facts = SimpleNamespace(**numbers, IMAGES=output[0], OUTPUTS=output[2] * output[3], HAS_OUTPUT="output" in memories)
    return [edit for edit in EDITS[style] if edit.when(facts)]


def hand_mutants(
    folder: Path,
    style: str,
    edits: Sequence[Edit],
    *,
    simulator: str = "auto",
    progress: Progress = lambda done, total, name: None,
) -> list[MutantResult]:
    """Run hand-placed mutants of the reference array `style` in the bench of the set `folder`."""
    manifest = read_manifest(folder)
    files = reference_files(style, manifest)
    found = tuple(s for s in _interface(folder, manifest) if s.memory != "psum" or style == "ws")
    with tempfile.TemporaryDirectory(prefix="qexport-") as place:
        scratch = Path(place)
        design = scratch / "dut.sv"
        design.write_text("\n".join(selectable(files, edits).values()))
        bench = _Bench(folder, choose(simulator), found, design, scratch)
        failures = bench.failures(
            range(1, len(edits) + 1), lambda number: progress(number, len(edits), edits[number - 1].name)
        )
    made = []
    for number, edit in enumerate(edits, 1):
        line = files[edit.file][: _span(edit, files[edit.file])[0]].count("\n") + 1
        failure = failures[number]
        fate = "survived" if failure is None else "killed"
        made.append(MutantResult(edit.name, f"{edit.file}:{line}", "hand", style, fate, failure or edit.what))
    return made
