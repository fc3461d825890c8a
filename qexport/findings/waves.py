"""Words out of VCD and FST files."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qexport.core.budget import WAVE_BYTES, WORD_BITS
from qexport.core.intformat import Int64
from qexport.errors import QexportError, few, near
from qexport.findings.change import Bools
from qexport.findings.words import (
    Actual,
    elements_of_digits,
    entry_of,
    guessed_memory,
    joined_parts,
    mentioned_memories,
    spec_of,
)
from qexport.sets.manifest import MemoryEntry, read_manifest


def read_wave(
    folder: Path, file: Path, signal: str, clock: str, memory: str | None = None, valid: str | None = None
) -> Actual:
    """Read a memory of the set `folder` from a VCD or FST file: the words of `signal` just before each rising `clock`.

    `valid` names a signal that must be 1 for a word to count. Without it, of a signal <name>tdata with a neighbour
    <name>tvalid only the words that go over are taken: tvalid and, where there is one, tready are 1. Signals are named
    by their full path or its end. Raises QexportError as `read_actual` does, and for a signal that is not there.
    """
    manifest = read_manifest(folder)
    bits = _sampled(file, signal, clock, valid)
    entry = None if memory is None else entry_of(manifest, memory)

    def read(entry: MemoryEntry) -> Actual:
        if bits and len(bits[0]) != entry.word_bits:
            raise QexportError(
                f"actual: {signal} has {len(bits[0])} bits; a word of memory '{entry.name}' has {entry.word_bits}; "
                "name the memory with --memory, or another signal"
            )
        spec = spec_of(manifest, entry)
        grid = np.frombuffer("".join(bits).encode(), np.uint8).reshape(-1, entry.word_bits)
        return joined_parts(manifest, entry, [(0, elements_of_digits(grid, 1, spec))])

    if entry is not None:
        return read(entry)
    named = mentioned_memories(manifest, signal.rsplit(".", 1)[-1])
    return read(named[0]) if len(named) == 1 else guessed_memory(manifest, named, read, f"{file}, signal {signal}")


# --- waves ------------------------------------------------------------------------------------------------------------


def _sampled(file: Path, signal: str, clock: str, valid: str | None) -> list[str]:
    """The bits of a signal, as 0, 1, X and Z, just before each rising edge of the clock at which a word counts."""
    reader = _pywellen()
    if not file.is_file():
        raise QexportError(f"actual: {file} does not exist or is not a file; give a VCD or FST file")
    with _readable(file):
        by_name = {variable.full_name: variable for variable in reader.Waveform(str(file)).all_vars()}
    names = [_full_name(by_name, signal, file), _full_name(by_name, clock, file)]
    if valid is not None:
        names.append(_full_name(by_name, valid, file))
    elif names[0].endswith("tdata"):
        stem = names[0].removesuffix("tdata")
        qualifiers = [f"{stem}tvalid", f"{stem}tready"]
        names += [name for name in qualifiers if name in by_name] if qualifiers[0] in by_name else []
    for name in names:
        _check_width(by_name[name], file)
    with _readable(file):
        data, clk, *counting = (_Changes(by_name[name]) for name in names)
    edges = clk.rising()
    if not len(edges):
        raise QexportError(f"actual: {file}: {names[1]} never rises; name the clock with --clock")
    counts = np.ones(len(edges), np.bool_)
    for qualifier in counting:
        counts &= np.array([value == "1" for value in qualifier.before(edges)])
    words = data.before(edges[counts])
    if not words:
        raise QexportError(f"actual: {file}: no word of {names[0]} goes over, because {names[2]} is never 1")
    return words


@dataclass(frozen=True)
class Handshakes:
    """Of one stream, cycle by cycle: whether a word was offered, and whether one would have been taken."""

    valid: Bools
    ready: Bools


def handshakes(file: Path, stems: Sequence[str], clock: str = "clk") -> dict[str, Handshakes]:
    """What the bench's waves say of streams that begin with `stems`, such as "m_psum_"; those that they have.

    Raises QexportError where the waves cannot be read, or are too many for it.
    """
    if file.stat().st_size > WAVE_BYTES:
        raise QexportError(f"waves: {file} has more than {WAVE_BYTES:,} bytes; record fewer cycles with --around")
    with _readable(file):
        by_name = {variable.full_name: variable for variable in _pywellen().Waveform(str(file)).all_vars()}
    outermost: dict[str, Any] = {}  # by the last part of the name
    for name in sorted(by_name, key=lambda name: -name.count(".")):
        outermost[name.rpartition(".")[2]] = by_name[name]
    if clock not in outermost:
        raise QexportError(f"waves: {file} has no {clock}; they are not of a bench")
    with _readable(file):
        edges = _Changes(outermost[clock]).rising()
        found = {}
        for stem in stems:
            pair = [outermost.get(f"{stem}tvalid"), outermost.get(f"{stem}tready")]
            if all(one is not None and (one.bitwidth or 1) == 1 for one in pair):
                bits = [np.array([v == "1" for v in _Changes(one).before(edges)], np.bool_) for one in pair]
                found[stem] = Handshakes(*bits)
    return found


def _pywellen() -> Any:
    try:
        import pywellen
    except ImportError:
        raise QexportError("pywellen is not installed, which reads waves; pip install 'qexport[waves]'") from None
    return pywellen


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Of waves, which are read when they are asked for: raises QexportError for what the library raises.

    What it prints beside, warnings and the traces of its panics, is no output of ours.
    """
    try:
        with _silent():
            yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise QexportError(
            f"actual: {file} is not a readable VCD or FST file: {' '.join(str(error).split())}"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Standard output and error of the process lead nowhere for a while."""
    sys.stdout.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, stream in kept.items():
            os.dup2(stream, number)
            os.close(stream)
        os.close(nowhere)


def _full_name(variables: dict[str, Any], name: str, file: Path) -> str:
    """The full name of a signal that is given by its path or the end of it."""
    plain = re.sub(r"\s*\[[\d:]+\]$", "", name)
    found = [full for full in variables if full == plain or full.endswith(f".{plain}")]
    if plain in found:
        return plain
    if not found:
        alike = [full for full in variables if full.rsplit(".", 1)[-1] == plain.rsplit(".", 1)[-1]]
        there = few(alike or near(plain, list(variables)))
        raise QexportError(
            f"actual: {file} has no signal '{name}'; there are {there}; give its path in the design, or the end"
        )
    for full in found:
        _check_width(variables[full], file)
    with _readable(file):
        same = all(list(variables[other].tv) == list(variables[found[0]].tv) for other in found[1:])
    if not same:
        raise QexportError(f"actual: {file} has {few(found)}; give more of the path of '{name}'")
    return found[0]


def _check_width(variable: Any, file: Path) -> None:
    """Raises QexportError for a signal whose values are too long to be written down."""
    if (bits := variable.bitwidth or 1) > WORD_BITS:
        name = variable.full_name
        raise QexportError(f"actual: {file}: {name} has {bits:,} bits, more than {WORD_BITS:,}; name another signal")


class _Changes:
    """A signal's changes."""

    def __init__(self, variable: Any):
        changes = variable.tv
        width = variable.bitwidth or 1
        self.times = np.array([time for time, _ in changes], np.int64)
        self.values = [f"{value:0{width}b}" if isinstance(value, int) else str(value) for _, value in changes]
        self.unknown = "x" * width

    def rising(self) -> Int64:
        """The times at which a one-bit signal becomes 1."""
        pairs = zip(self.values, self.values[1:], strict=False)
        return (
            self.times[1:][[now == "1" != before for before, now in pairs]] if len(self.times) > 1 else self.times[:0]
        )

    def before(self, times: Int64) -> list[str]:
        """The values just before these times."""
        at = np.searchsorted(self.times, times, side="left") - 1
        return [self.values[i] if i >= 0 else self.unknown for i in at.tolist()]
