"""The smallest set that still shows a failure: of a design, by simulation, or of what a design gave, by selection.

With a design images go and codes become 0, so that sizes stay as they are and every design takes the result; what a
design allows is cut off at the end. Without one only that can go on which the values that are left do not depend.
"""

import hashlib
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qexport.bench.design import Design, Dut
from qexport.bench.interface import DRIVEN, stands_as_preset
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.base import Need
from qexport.core.operations.registry import operation, require
from qexport.core.printed import Printed, pairs_text
from qexport.core.steps import Pool, Step
from qexport.errors import CheckFailed, QexportError, few
from qexport.findings.ddmin import smallest
from qexport.findings.diagnose import diagnose, holds
from qexport.findings.words import Actual, Known, read_actual
from qexport.layout.memory import Layout, Memory
from qexport.layout.memory_files import MemoryFiles
from qexport.layout.order import TILE_AXIS
from qexport.layout.pack import pack
from qexport.layout.tiling import Tiling
from qexport.layout.toml import load_layout
from qexport.sets.folder import file_sha256
from qexport.sets.manifest import Manifest, capture_of, read_manifest
from qexport.sets.staging import refuse_existing, staging, write_files
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate
from qexport.sim.supervisor import TIME_LIMIT, CutOff
from qexport.sim.work import scratch_folder

Index = Mapping[str, int]
BUDGET = 120  # seconds
LOG = "run.log"
TRIED_VALUES = 64  # differing values around which a set of one value is looked for


@dataclass(frozen=True)
class Shrunk(Printed):
    """What was written. `before` and `after`: sizes of the layer, and how many codes are not 0; `failures`: how the
    small set fails.

    actual: the folder with the words that the design gives for the small set, <memory>.hex. runs: simulations.
    complete: False where the budget ended the search. kept: what was not reduced, and why. cause: what `diagnose` says
    of the small set, and whether it holds on the whole one.
    """

    set: Path
    actual: Path
    before: dict[str, int]
    after: dict[str, int]
    failures: tuple[str, ...]
    runs: int = 0
    complete: bool = True
    kept: str | None = None
    cause: str | None = None

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Where it stands, how it fails, and how far the search came."""
        rows = [("set", str(self.set)), ("design gives", str(self.actual)), ("differ", ", ".join(self.failures))]
        if self.runs:
            ended = "search complete" if self.complete else "ended by the budget; a larger --budget may find less"
            rows.append(("simulations", f"{self.runs}, {ended}"))
        rows += [("cause", self.cause)] if self.cause else []
        return [*rows, ("not reduced", self.kept)] if self.kept else rows

    def __str__(self) -> str:
        sizes = ", ".join(f"{count} -> {self.after[name]} {name}" for name, count in self.before.items())
        return pairs_text([("sizes", sizes), *self.rows])


def shrink_dut(
    folder: Path,
    out: Path,
    dut: Dut,
    *,
    top: str = "dut",
    simulator: str = "auto",
    seed: int = 0,
    budget: float = BUDGET,
    limit: float = TIME_LIMIT,
    progress: Callable[[str], None] = lambda line: None,
) -> Shrunk:
    """Write as the new folder `out` the smallest set found on which the design fails in the same way as on `folder`.

    Images are dropped and codes set to 0: rows, columns and channels of the inputs, output channels, taps, at last
    single codes (delta debugging; what the first difference of a run points at is tried first). Then the sizes are cut
    to what is left, for designs that have their sizes from the set's package. Every step is confirmed by a simulation;
    `budget` (seconds) ends the search between two of them, `limit` (seconds) each of them. The same way: wrong values,
    or a fault of the protocol, of memories that were wrong before.

    `simulator` auto: Icarus, else Verilator. Raises QexportError when the design passes or cannot be run, CheckFailed
    when a run ends without a verdict, or not at all.
    """
    _refuse_existing(folder, out)
    if simulator == "auto" and SIMULATORS["icarus"].missing() is None:
        simulator = "icarus"  # images and weights change the package: many builds of short runs
    design = Design.of(dut, top)
    manifest, capture = _read(folder)
    _refuse_changed(folder, manifest)
    with scratch_folder() as scratch:
        builds = scratch / "builds"
        builds.mkdir()

        def run(of: Path, keep: Path) -> CheckFailed | None:
            return simulate(of, simulator, design, seed=seed, keep=keep, builds=builds, limit=limit).failure

        search = _Search(manifest, capture, scratch, run, budget, progress)
        search.start(folder)
        whole = scratch / "whole"
        write_files(whole, search.words)
        try:
            _reduce(search)
            complete = True
        except _OutOfTime:
            complete = False
        actual = _write(out, search.best, search.layout, search.words)
        return Shrunk(
            set=out,
            actual=actual,
            cause=_cause_of(folder, whole, out, actual, search.results),
            before=_sizes(capture),
            after=_sizes(search.best),
            failures=tuple(sorted(search.failures)),
            runs=search.runs,
            complete=complete,
        )


def shrink_actual(folder: Path, out: Path, actual: Actual) -> Shrunk:
    """Write as the new folder `out` the set of one differing value: one image, one output channel, one position.

    Input channels and taps stay: without the design nobody knows what it gives for others. Where every accumulator
    would be 0, which is no set, more positions or channels stay. Raises QexportError when no value differs.
    """
    _refuse_existing(folder, out)
    manifest, capture = _read(folder)
    entry = actual.memory
    if entry.tensor not in manifest.results or entry.memory().order.has_bits:
        usable = [m.name for m in manifest.memories if m.tensor in manifest.results and not m.memory().order.has_bits]
        raise QexportError(f"actual: '{entry.name}' is not a memory of whole results; the set has {few(usable)}")
    layout = set_layout(manifest, capture)
    stream = _stream(layout, entry.name, capture)
    tiling = stream.tiling
    blocks = (tiling.files, tiling.words, tiling.lanes)
    got, known = actual.values.reshape(blocks), actual.known.reshape(blocks)
    golden = Golden(capture, facts=operation(capture, manifest.array.get(TILE_AXIS), manifest.chain))
    indices = _differences(stream, golden.values(entry.tensor), got, known, TRIED_VALUES)
    if not indices:
        raise QexportError(f"shrink: nothing to shrink: every value of '{entry.name}' is that of the set")
    values, sure = tiling.untile(got), tiling.untile(known.astype(np.int64))
    why = "all accumulators would be 0"
    for cut in _cuts(capture, indices):
        if not Golden(cut.capture).accumulator.any():
            continue  # it would prove nothing, and no set is written
        span = cut.span(entry.tensor)
        try:
            words = _words(_stream(layout, entry.name, cut.capture), values[span], sure[span])
            written = _write(out, cut.capture, layout, {f"{entry.name}.hex": words})
        except QexportError as error:  # fewer channels may not go evenly into a layout's files
            _refuse_existing(folder, out)  # or another one has written there meanwhile
            why = str(error)
            continue
        return Shrunk(
            set=out,
            actual=written,
            before=_sizes(capture),
            after=_sizes(cut.capture),
            failures=(f"values of {entry.name}",),
            kept="input channels and taps stay, because only the design tells what it gives without them; give --dut",
        )
    raise QexportError(f"shrink: no smaller set of {folder} can be written ({why}); use this set as it is")


def _cause_of(folder: Path, whole: Path, small: Path, actual: Path, results: Sequence[str]) -> str | None:
    """The cause of what is wrong in the small set, which must hold on the whole one too."""
    for name in results:
        files = [run / f"{name}.hex" for run in (actual, whole)]
        if not all(file.is_file() and file.stat().st_size for file in files):
            continue
        found = diagnose(small, read_actual(small, files[0], name))
        if found.differing:
            there = read_actual(folder, files[1], name)
            if not found.explained or not found.causes:
                return _cause_of_whole(folder, there, small, read_actual(small, files[0], name))
            held = [cause for cause in found.causes if holds(folder, there, cause, anywhere=True)]
            if held:
                return f"likely {held[0]}, on this set and on the whole one"
            return f"unexplained: {found.causes[0]} explains this set, but not the whole one"
    return None


def _cause_of_whole(folder: Path, there: Actual, small: Path, here: Actual) -> str:
    """The same where the small set says too little: the whole one's cause, which must hold here too."""
    found = diagnose(folder, there)
    held = [cause for cause in found.causes if found.explained and holds(small, here, cause, anywhere=True)]
    return f"likely {held[0]}, on this set and on the whole one" if held else "unexplained"


# --- what both ways share ---------------------------------------------------------------------------------------------


def _refuse_existing(folder: Path, out: Path) -> None:
    if out.name in ("", ".."):
        raise QexportError(f"out: {out} is not a new folder; give one that is not there yet")
    for path in (out, _beside(out)):
        refuse_existing(path)
    if out.resolve().is_relative_to(folder.resolve()):
        raise QexportError(f"out: {out} lies in the set {folder}; give a folder outside it")


def _refuse_changed(folder: Path, manifest: Manifest) -> None:
    for name, digest in manifest.named_files().items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            raise CheckFailed(
                f"{folder / name} is missing, or its SHA-256 differs from the manifest; dump the set again"
            )


def _beside(out: Path) -> Path:
    """The folder for what the design gives for the small set."""
    return out.with_name(f"{out.name}.actual")


def _read(folder: Path) -> tuple[Manifest, LayerCapture]:
    manifest = read_manifest(folder)
    require(manifest.layer, Need.SHRINKING)
    capture = capture_of(folder, manifest)
    if any(isinstance(step, Pool) for step in manifest.chain or ()):
        raise QexportError(f"shrink: layer {manifest.layer.name} has a pool among its steps, which shrink does not cut")
    return manifest, capture.part(0, capture.images)


def _write(out: Path, capture: LayerCapture, layout: Layout, words: Mapping[str, str]) -> Path:
    """Dump the small set as `out` and write what the design gives for it beside it."""
    beside = _beside(out)
    with staging(out.parent) as stage:
        for path in (out, beside):
            refuse_existing(path)  # again, because another one may have held the lock
        dump(capture, layout, stage.place / "made").folder.rename(stage.new / out.name)
        write_files(stage.new / beside.name, words)
        stage.put_in_place([out.name, beside.name])
    return beside


@dataclass(frozen=True)
class _NamedMemory(Memory):
    """A memory whose files have the names that they have in a set."""

    names: Mapping[frozenset[tuple[str, int]], str] = field(default_factory=dict)

    def paths(self, tiling: Tiling) -> list[tuple[str, dict[str, int]]]:
        return [(self.names[frozenset(index.items())], index) for index in tiling.file_indices()]


def set_layout(manifest: Manifest, capture: LayerCapture) -> Layout:
    """The layout of a set, as far as sets of the same layer or of a part of it need it."""
    facts = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain)
    memories: list[Memory] = []
    for entry in manifest.memories:
        memory = entry.memory()
        own = IntFormat(1, False) if memory.order.has_bits else facts.tensor(entry.tensor).format
        memory = replace(  # what is the tensor's own stays so, above all for the bench
            memory,
            bits=None if entry.bits == own.bits else entry.bits,
            signed=None if entry.signed == own.signed else entry.signed,
            file=entry.files[0].path,
        )
        if memory.order.files:
            paths = {frozenset(file.index.items()): file.path for file in entry.files}
            memory = _NamedMemory(**{name: getattr(memory, name) for name in memory.__dataclass_fields__}, names=paths)
        memories.append(memory)
    if stands_as_preset(manifest):  # the bench's layout has a bias, too, which the layer may lack
        names = [memory.name for memory in memories]
        memories += [m for m in load_layout("default").memories if m.name in DRIVEN and m.name not in names]
    return Layout(manifest.layout.name, manifest.array, tuple(memories), manifest.layout.sha256)


def _stream(layout: Layout, name: str, capture: LayerCapture) -> MemoryFiles:
    [memory] = [memory for memory in layout.memories if memory.name == name]
    return MemoryFiles.of(memory, operation(capture, layout.array.get(TILE_AXIS)), capture.images, layout.array)


def _differences(stream: MemoryFiles, golden: Int64, got: Int64, known: Known, most: int) -> list[dict[str, int]]:
    """The tensor indices of the first values that differ from the golden or are not known, in the order of the files.

    golden: the tensor; got and known: (files, words, lanes). Fill does not count.
    """
    _, want = stream.stored(golden, 0)
    tiling = stream.tiling
    wrong = ((got != want) | ~known) & (tiling.tile(np.ones(tiling.shape, np.int64)) == 1)
    found = (tiling.origin(*map(int, place)) for place in np.argwhere(wrong)[:most])
    return [index for index in found if index is not None]


def _words(stream: MemoryFiles, values: Int64, sure: Int64) -> str:
    """Stored values of a tensor as the bench writes words, of decimals as the set does; X for those not `sure`."""
    element, tiling = stream.element, stream.tiling
    lanes = tiling.lanes
    elements = tiling.tile(values, int(element.wrap(np.array(stream.memory.offset)))).reshape(-1, lanes)
    unknown = tiling.tile(sure, 1).reshape(-1, lanes) != 1
    if stream.memory.radix == "dec":
        rows = np.where(unknown, "x", elements.astype(str)).tolist()
        return "".join(f"{' '.join(row)}\n" for row in rows)
    plain, digits = IntFormat(element.bits, False), math.ceil(lanes * element.bits / 4)
    marked = pack(np.where(unknown, plain.high, 0), plain)
    text = ""
    for word, marks in zip(pack(elements, element), marked, strict=True):
        pairs = zip(word.tobytes().hex()[-digits:], marks.tobytes().hex()[-digits:], strict=True)
        text += "".join(digit if mark == "0" else "x" for digit, mark in pairs) + "\n"
    return text


def _sizes(capture: LayerCapture) -> dict[str, int]:
    return {
        "images": capture.images,
        "input channels": capture.layer.in_channels,
        "output channels": capture.layer.out_channels,
        "input rows": capture.plane[0],
        "input columns": capture.plane[1],
        "taps": math.prod(capture.layer.kernel),
        "weights that are not 0": int(np.count_nonzero(capture.weight)),
        "inputs that are not 0": int(np.count_nonzero(capture.input)),
    }


def _changed(capture: LayerCapture, **changes: Any) -> LayerCapture:
    """The capture with other codes or sizes: PyTorch's output is not known for it."""
    stimulus = capture.source.stimulus
    if stimulus is None or not stimulus.endswith("shrunk"):
        stimulus = "shrunk" if stimulus is None else f"{stimulus}, shrunk"
    source = msgspec.structs.replace(capture.source, stimulus=stimulus)
    unknown = dict.fromkeys(("reference", "next_input", "reference_codes", "ties", "departs"))
    return replace(capture, **unknown | changes, source=source)  # type: ignore[arg-type]  # fields by name


def _of_channels(capture: LayerCapture, channels: Sequence[int]) -> tuple[Step, ...] | None:
    """The given steps of these output channels alone."""
    return None if capture.steps is None else tuple(step.of_channels(channels) for step in capture.steps)


def _with_images(capture: LayerCapture, images: Sequence[int]) -> LayerCapture:
    source = capture.source
    if source.images is not None and len(source.images) == capture.images:
        source = msgspec.structs.replace(source, images=tuple(source.images[image] for image in images))
    return replace(capture.of_images(list(images)), source=source)


# --- selection: what a design gave stays valid ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """A part of a layer: some output channels, and rows and columns of the padded plane."""

    capture: LayerCapture
    n: slice
    oc: slice
    rows: slice
    cols: slice

    def span(self, tensor: str) -> tuple[slice, ...]:
        """The part of a tensor of results that is that of the small layer."""
        layer = self.capture.layer
        starts = [span.start // step for span, step in zip((self.rows, self.cols), layer.stride, strict=True)]
        sizes = layer.output_plane(self.capture.plane)
        oy, ox = (slice(at, at + size) for at, size in zip(starts, sizes, strict=True))
        spans = {"n": self.n, "oc": self.oc, "py": self.rows, "px": self.cols, "oy": oy, "ox": ox}
        axes = operation(self.capture, None).tensor(tensor).axes
        return tuple(spans.get(axis, slice(None)) for axis in axes)


def _cuts(capture: LayerCapture, indices: Sequence[Index]) -> Iterator[_Cut]:
    """Ever larger parts of a layer that hold a value of these indices."""
    padded = capture.layer.padded_plane(capture.plane)
    everything = (0, padded[0]), (0, padded[1])
    for index in indices:
        if "py" in index:
            at = index["py"], index["px"]
        else:
            at = index["oy"] * capture.layer.stride[0], index["ox"] * capture.layer.stride[1]
        yield _cut(capture, index["n"], index["oc"], _window(capture, 0, at[0]), _window(capture, 1, at[1]))
    yield _cut(capture, indices[0]["n"], indices[0]["oc"], *everything)
    yield _cut(capture, indices[0]["n"], None, *everything)


def _window(capture: LayerCapture, axis: int, at: int) -> tuple[int, int]:
    """The least part of the padded plane, along one axis, that holds the position `at`, an output and an input."""
    layer, size = capture.layer, capture.plane[axis]
    before, step = layer.padding[2 * axis], layer.stride[axis]
    reach = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    total = layer.padded_plane(capture.plane)[axis]
    start = min(at, total - reach, before + size - 1) // step * step
    return start, max(start + reach, min(at + reach, total), before + 1)


def _cut(capture: LayerCapture, n: int, oc: int | None, rows: tuple[int, int], cols: tuple[int, int]) -> _Cut:
    """The part of a layer with one image, one output channel or all (None), and a window of the padded plane."""
    layer, weight, bias, weights = capture.layer, capture.weight, capture.bias, capture.formats.weight
    codes = capture.input[n : n + 1]
    if oc is not None:
        group = oc // (layer.out_channels // layer.groups)
        inputs = layer.group_inputs
        layer = msgspec.structs.replace(layer, in_channels=inputs, out_channels=1, groups=1)
        codes = codes[:, group * inputs : (group + 1) * inputs]
        weight, bias = weight[oc : oc + 1], None if bias is None else bias[oc : oc + 1]
        weights = weights.of_channels([oc])
    padding: list[int] = []
    spans: list[slice] = []
    for axis, (start, stop) in enumerate((rows, cols)):
        before, size = capture.layer.padding[2 * axis], capture.plane[axis]
        span = slice(max(start - before, 0), min(stop - before, size))
        spans.append(span)
        padding += [max(before - start, 0), stop - before - span.stop]
    one = _changed(
        _with_images(capture, [n]),
        layer=msgspec.structs.replace(layer, padding=tuple(padding)),
        formats=msgspec.structs.replace(capture.formats, weight=weights),
        weight=weight,
        bias=bias,
        input=codes[:, :, spans[0], spans[1]],
        steps=capture.steps if oc is None else _of_channels(capture, [oc]),
    )
    channels = slice(None) if oc is None else slice(oc, oc + 1)
    return _Cut(one, slice(n, n + 1), channels, slice(*rows), slice(*cols))


# --- search: every step is simulated ----------------------------------------------------------------------------------


class _OutOfTime(Exception):
    """The budget is spent."""


_VALUE = re.compile(r"FAIL memory=(\w+) file=\S+ line=\d+ lane=.* got=(\S+)")
_COUNT = re.compile(r"FAIL memory=(\w+) \d+ of \d+ values are wrong")


def _kinds(log: str) -> frozenset[str]:
    """In what ways a run failed, without the numbers; none where it passed."""
    kinds, counted = set[str](), set[str]()
    for line in log.splitlines():
        if value := _VALUE.match(line):
            unknown = set(value[2].lower()) & set("xz")  # wrong numbers must not turn into these
            kinds.add(f"{'unknown values' if unknown else 'values'} of {value[1]}")
        elif count := _COUNT.match(line):
            counted.add(count[1])
        elif line.startswith("FAIL") and not line.startswith("FAIL errors="):
            kinds.add(re.sub(r"\d+", "#", line.removeprefix("FAIL ")))
    kinds |= {f"values of {name}" for name in counted if f"unknown values of {name}" not in kinds}
    return frozenset(kinds)


class _Search:
    """The smallest capture so far on which the design fails as it did at first, and what it gives for it."""

    def __init__(
        self,
        manifest: Manifest,
        capture: LayerCapture,
        scratch: Path,
        run: Callable[[Path, Path], CheckFailed | None],
        budget: float,
        progress: Callable[[str], None],
    ):
        """`run` simulates a set, keeps what comes back in a folder, and gives the failure of the design."""
        self.best = capture
        self.layout = set_layout(manifest, capture)
        self.failures: frozenset[str] = frozenset()
        self.words: dict[str, str] = {}
        self.first: dict[str, int] = {}  # the index of the first value that differs; empty where none does
        self.runs = 0
        order = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain).result_names
        self.results = [m.name for tensor in order for m in manifest.memories if m.tensor == tensor]
        self._scratch, self._run, self._progress = scratch, run, progress
        self._began, self._budget = time.monotonic(), budget
        self._tried: set[bytes] = set()

    def start(self, folder: Path) -> None:
        """Simulate the whole set; raises QexportError when the design passes."""
        self._progress(f"simulating {folder}")
        kinds, error = self._simulated(folder)
        if error is None:
            raise QexportError("shrink: nothing to shrink: the design passes; give the set on which it fails")
        if not isinstance(error, CheckFailed) or not kinds or isinstance(error, CutOff):
            raise error
        self._take(self.best, folder, kinds)

    def attempt(self, capture: LayerCapture) -> bool:
        """Whether the design fails in the same way on this capture, which is the best one then."""
        digest = hashlib.sha256(repr((capture.layer, capture.plane, capture.images)).encode())
        for array in (capture.weight, capture.input, *([] if capture.bias is None else [capture.bias])):
            digest.update(array.tobytes())
        if digest.digest() in self._tried:
            return False
        if time.monotonic() - self._began > self._budget:
            raise _OutOfTime
        self._tried.add(digest.digest())
        target = self._scratch / "set"
        shutil.rmtree(target, ignore_errors=True)
        try:
            folder = dump(capture, self.layout, target).folder
        except QexportError:
            return False  # no set: all accumulators are 0, or the cut layer does not suit the layout
        kinds, error = self._simulated(folder)
        if not isinstance(error, CheckFailed) or not kinds or not kinds <= self.failures:
            return False
        self._take(capture, folder, kinds)
        return True

    def smallest(self, items: Sequence[int], made: Callable[[list[int]], LayerCapture], hint: Sequence[int]) -> None:
        """Look for the least part of the items for which the design fails; `hint` is tried first."""
        smallest(items, lambda part: self.attempt(made(part)), hint)

    def _simulated(self, folder: Path) -> tuple[frozenset[str], QexportError | None]:
        """How the design fails on a set, and the error that says so; None when it passes."""
        keep = self._scratch / "run"
        shutil.rmtree(keep, ignore_errors=True)
        self.runs += 1
        try:
            error: QexportError | None = self._run(folder, keep)
        except QexportError as cannot_run:
            error = cannot_run
        log = keep / LOG
        failed = error is not None and log.is_file()
        return (_kinds(log.read_text(errors="replace")) if failed else frozenset()), error

    def _take(self, capture: LayerCapture, folder: Path, kinds: frozenset[str]) -> None:
        self.best, self.failures, self.first = capture, kinds, {}
        files = sorted((self._scratch / "run").glob("*.hex"))
        self.words = {file.name: file.read_text(errors="replace") for file in files}
        golden = Golden(capture, self.layout.array.get(TILE_AXIS))
        for name in self.results:
            file = self._scratch / "run" / f"{name}.hex"
            if self.first or not file.is_file() or not file.stat().st_size:
                continue
            actual = read_actual(folder, file, name)
            stream = _stream(self.layout, name, capture)
            blocks = (stream.tiling.files, stream.tiling.words, stream.tiling.lanes)
            got, known = actual.values.reshape(blocks), actual.known.reshape(blocks)
            self.first = next(iter(_differences(stream, golden.values(stream.memory.tensor), got, known, 1)), {})
        sizes = _sizes(capture)
        self._progress(
            f"{self.runs} runs, {time.monotonic() - self._began:.0f} s: "
            + ", ".join(f"{sizes[name]} {name}" for name in ("images", *list(sizes)[-2:]))
        )


_Atom = list[tuple[str, Any]]  # codes that become 0 together: arrays and where in them


def _reduce(search: _Search) -> None:
    """Reduce all that there is, coarse things first; raises _OutOfTime."""
    whole = search.best
    images = [search.first["n"]] if search.first else []
    search.smallest(range(whole.images), lambda kept: _with_images(whole, kept), images)
    _zero_planes(search)
    _zero_weights(search)
    _zero_codes(search)
    for parts in (("channels", "plane", "kernel"), ("channels",), ("plane",), ("kernel",)):
        cut = _cropped(search.best, parts)
        if cut is not None and search.attempt(cut) and len(parts) > 1:
            return


def _zero_planes(search: _Search) -> None:
    """Rows, columns and channels of the inputs."""
    layer, plane = search.best.layer, search.best.plane
    for axis in (0, 1):
        at, edge = _seen(search, axis), layer.padding[2 * axis]
        span = [slice(None)] * (2 + axis)
        atoms: list[_Atom] = [[("input", (*span, i))] for i in range(plane[axis])]
        _zero(search, atoms, [i - edge for i in at if edge <= i < edge + plane[axis]])
    _zero(search, [[("input", (slice(None), ic))] for ic in range(layer.in_channels)], _seen_channels(search))


def _zero_weights(search: _Search) -> None:
    """Output channels with their bias, taps, and channels of the weights."""
    layer, bias = search.best.layer, search.best.bias
    outputs: list[_Atom] = [
        [("weight", oc), *([("bias", oc)] if bias is not None else [])] for oc in range(layer.out_channels)
    ]
    _zero(search, outputs, [search.first["oc"]] if search.first else [])
    taps = list(np.ndindex(*layer.kernel))
    tap = (search.first.get("kh"), search.first.get("kw"))
    by_tap: list[_Atom] = [[("weight", (slice(None), slice(None), *one))] for one in taps]
    _zero(search, by_tap, [number for number, one in enumerate(taps) if one == tap])
    _zero(search, [[("weight", (slice(None), c))] for c in range(layer.group_inputs)], [])


def _zero_codes(search: _Search) -> None:
    """Single codes, until none goes: fewer weights may leave fewer inputs, and the other way round."""
    before, size = -1, -2
    while before != size:
        before = size
        for name in ("weight", "input", "bias"):
            array = getattr(search.best, name)
            if array is not None:
                _zero(search, [[(name, place)] for place in map(tuple, np.argwhere(array))], [])
        size = sum(int(np.count_nonzero(a)) for a in (search.best.weight, search.best.input))


def _seen(search: _Search, axis: int) -> range:
    """The rows (axis 0) or columns (1) of the padded plane that the first difference depends on."""
    layer, first = search.best.layer, search.first
    names = (("py", "oy"), ("px", "ox"))[axis]
    if names[0] in first:
        return range(first[names[0]], first[names[0]] + 1)
    if names[1] not in first:
        return range(0)
    start = first[names[1]] * layer.stride[axis]
    return range(start, start + layer.dilation[axis] * layer.kernel[axis], layer.dilation[axis])


def _seen_channels(search: _Search) -> list[int]:
    """The input channels that the first difference depends on."""
    layer, first = search.best.layer, search.first
    if not first:
        return []
    start = first["oc"] // (layer.out_channels // layer.groups) * layer.group_inputs
    channels = range(start, start + layer.group_inputs)
    row = search.layout.array.get(TILE_AXIS, layer.group_inputs)
    return list(channels[first["it"] * row : (first["it"] + 1) * row] if "it" in first else channels)


def _zero(search: _Search, atoms: Sequence[_Atom], hint: Sequence[int]) -> None:
    """Set as many atoms to 0 as possible; `hint`: the numbers of those that may be enough."""
    whole = search.best
    there = [n for n, atom in enumerate(atoms) if any(getattr(whole, name)[where].any() for name, where in atom)]

    def made(kept: list[int]) -> LayerCapture:
        arrays = {name: getattr(whole, name).copy() for name, _ in atoms[0]}
        for number in set(there) - set(kept):
            for name, where in atoms[number]:
                arrays[name][where] = 0
        return _changed(whole, **arrays)

    if there and not search.attempt(made([])):
        search.smallest(there, made, [n for n in hint if n in there])


def _cropped(capture: LayerCapture, parts: Sequence[str]) -> LayerCapture | None:
    """The layer cut to the channels, the plane and the kernel that have codes other than 0; None where nothing goes."""
    layer, weight, codes, bias, weights, steps = (
        capture.layer, capture.weight, capture.input, capture.bias, capture.formats.weight, capture.steps,
    )  # fmt: skip
    if "channels" in parts and layer.groups == 1:
        there = weight.any(axis=(1, 2, 3)) | (False if bias is None else bias != 0)
        outputs = np.flatnonzero(there)
        inputs = np.flatnonzero(weight.any(axis=(0, 2, 3)) & codes.any(axis=(0, 2, 3)))
        outputs, inputs = (some if len(some) else np.zeros(1, np.int64) for some in (outputs, inputs))
        weight, codes, bias = weight[outputs][:, inputs], codes[:, inputs], None if bias is None else bias[outputs]
        layer = msgspec.structs.replace(layer, in_channels=len(inputs), out_channels=len(outputs))
        weights = weights.of_channels(outputs.tolist())
        steps = _of_channels(capture, outputs.tolist())
    padding, kernel = list(layer.padding), list(layer.kernel)
    for axis in (0, 1):
        others = tuple(i for i in range(4) if i != 2 + axis)
        if "kernel" in parts:
            used = np.flatnonzero(weight.any(axis=others))
            first, last = (int(used[0]), int(used[-1])) if len(used) else (0, kernel[axis] - 1)
            step = layer.dilation[axis]
            start = min(first, padding[2 * axis] // step)
            stop = max(last + 1, kernel[axis] - padding[2 * axis + 1] // step)
            padding[2 * axis] -= start * step
            padding[2 * axis + 1] -= (kernel[axis] - stop) * step
            weight = np.take(weight, range(start, stop), axis=2 + axis)
            kernel[axis] = stop - start
        if "plane" in parts and layer.kind != "linear":
            used = np.flatnonzero(codes.any(axis=others))
            first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
            reach = layer.dilation[axis] * (kernel[axis] - 1) + 1 - padding[2 * axis] - padding[2 * axis + 1]
            stop = min(max(last + 1, first + reach), codes.shape[2 + axis])
            start = max(min(first, stop - reach), 0) // layer.stride[axis] * layer.stride[axis]
            codes = np.take(codes, range(start, stop), axis=2 + axis)
    layer = msgspec.structs.replace(layer, padding=tuple(padding), kernel=tuple(kernel))
    if (weight.shape, codes.shape) == (capture.weight.shape, capture.input.shape):
        return None
    formats = msgspec.structs.replace(capture.formats, weight=weights)
    return _changed(capture, layer=layer, formats=formats, weight=weight, input=codes, bias=bias, steps=steps)
