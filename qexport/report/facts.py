"""What the sections of a set ask for, read once: manifest, capture, operation, and counts over all images."""

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np

from qexport.build.verify import Report, verify
from qexport.core.capture import CaptureFile
from qexport.core.codes import CodeFormat
from qexport.core.golden import Golden, parts
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.base import Need
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import OPERATIONS, operation
from qexport.core.strength import DataStrength, Strength, measure
from qexport.core.tensors import Range
from qexport.layout.order import TILE_AXIS
from qexport.sets.manifest import Manifest, capture_of, read_manifest

CODES = 256  # values that are counted one by one; of more, equal steps
_FINE = 1 << 16  # steps of a range before it is known which part of it occurs
SHOWN = 64  # steps that are drawn


@dataclass
class Counts:
    """How often each value of a range occurs, or each of equal `step`s of it; the first begins at `low`."""

    low: int
    step: int
    counts: Int64

    @classmethod
    def over(cls, bounds: Range) -> "Counts":
        size = bounds[1] - bounds[0] + 1
        step = 1 if size <= CODES else math.ceil(size / _FINE)
        return cls(bounds[0], step, np.zeros(math.ceil(size / step), np.int64))

    def add(self, values: Int64) -> None:
        self.counts += np.bincount((values.ravel() - self.low) // self.step, minlength=len(self.counts))

    def shown(self) -> "Counts":
        """The same in few enough steps: of a long range, of the part of it that occurs."""
        if len(self.counts) <= CODES and self.step == 1 and len(self.counts) <= 2 * SHOWN:
            return self
        there = np.flatnonzero(self.counts)
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, 0)
        wide = math.ceil((last - first + 1) / SHOWN)
        part = self.counts[first : last + 1]
        part = np.pad(part, (0, -len(part) % wide)).reshape(-1, wide).sum(axis=1)
        return Counts(self.low + first * self.step, self.step * wide, part)

    @property
    def labels(self) -> list[str]:
        return [str(self.low + at * self.step) for at in range(len(self.counts))]

    def title(self, at: int) -> str:
        """What a column stands for."""
        first, total = self.low + at * self.step, max(int(self.counts.sum()), 1)
        last = "" if self.step == 1 else f" to {first + self.step - 1}"
        return f"{first}{last}: {self.counts[at]:,} ({self.counts[at] / total:.1%})"


@dataclass
class Seen:
    """The least and greatest value of each channel."""

    low: list[int]
    high: list[int]


@dataclass
class Scan:
    """Counts over all images, by tensor."""

    counts: dict[str, Counts]
    seen: dict[str, Seen]


@dataclass
class SetFacts:
    """A set and what follows from it. `page`: where the page will lie, for links."""

    folder: Path
    page: Path | None = None
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = read_manifest(self.folder)

    @cached_property
    def report(self) -> Report:
        return verify(self.folder)

    @cached_property
    def capture(self) -> CaptureFile:
        return capture_of(self.folder, self.manifest)

    @cached_property
    def operation(self) -> Convolution:
        return operation(self.capture, self.manifest.array.get(TILE_AXIS), self.manifest.chain)

    @property
    def operands(self) -> dict[str, CodeFormat]:
        return self.operation.formats.operands

    @property
    def channel(self) -> str:
        """The axis of the output channels."""
        return self.operation.layer.channel

    @property
    def products(self) -> int:
        """The multiplications of one image, those with padding among them."""
        return products(self.manifest)

    @cached_property
    def results(self) -> list[str]:
        """The tensors behind the products that have a value for each accumulator, the accumulator first."""
        axes = self.operation.layer.results
        names = [name for name in self.operation.result_names if self.operation.tensor(name).axes == axes]
        last = self.operation.chain.names[-1:] if self.operation.chain is not None else ()
        return [name for name in names if name not in last or "output" not in names]

    @cached_property
    def scan(self) -> Scan:
        """One pass over the images, part by part."""
        facts = self.operation
        data = [name for name in self.operands if facts.layer.holds[name].axes[0] == "n"]
        names = [*data, *self.results]
        ranges = {name: facts.tensor(name).range or (0, 0) for name in names}
        counts = {name: Counts.over(bounds) for name, bounds in ranges.items()}
        seen: dict[str, Seen] = {}
        for start, stop in parts(names, facts, self.capture.images):
            golden = Golden(self.capture.part(start, stop), facts=facts)
            for name in names:
                values = golden.values(name)
                counts[name].add(values)
                if name in self.results:
                    _merge(seen, name, values, facts.layer.results.index(self.channel))
        if (weight := getattr(self.capture, "weight", None)) is not None:
            counts["weight"] = Counts.over(self.operands["weight"].codes)
            counts["weight"].add(weight)
        return Scan(counts, seen)

    @cached_property
    def strength(self) -> Strength | DataStrength | None:
        """The errors that the images can show; None where the operation does not count them."""
        offered = Need.STRENGTH in OPERATIONS[self.operation.layer.kind].offers
        return measure(self.capture) if offered else None

    @cached_property
    def first_images(self) -> Golden:
        """The images that fit into one part."""
        _, stop = next(iter(parts((), self.operation, self.capture.images)))
        return Golden(self.capture.part(0, stop), facts=self.operation)

    def link(self, path: str) -> str:
        """Where the page finds a file of the set; empty where nobody knows where the page lies."""
        return link(self.page, self.folder / path)


def link(page: Path | None, file: Path) -> str:
    """A relative link from a page to a file."""
    if page is None:
        return ""
    relative = os.path.relpath(file.resolve(), page.resolve().parent)
    return quote(Path(relative).as_posix(), safe="/")


def name_of_set(folder: Path, manifest: Manifest) -> str:
    """The layer's name; where several sets are of one layer, as of the stress capture, that of the folder."""
    return folder.name if folder.name.startswith(f"{manifest.layer.slug}_stress") else manifest.layer.name


def products(manifest: Manifest) -> int:
    """The multiplications of one image, those with padding among them."""
    shapes = {entry.tensor: entry.shape for entry in manifest.memories if not entry.memory().order.has_bits}
    layer = manifest.layer
    sums = shapes.get("accumulator") or shapes.get("relu")
    if sums is None:
        return 0
    outputs = math.prod(sums[1:])
    if layer.kind in ("conv2d", "linear"):
        return outputs * layer.group_inputs * math.prod(layer.kernel)
    return outputs * (shapes["input"][-1] if layer.kind == "matmul" and "input" in shapes else len(layer.holds))


def _merge(seen: dict[str, Seen], name: str, values: Int64, axis: int) -> None:
    others = tuple(at for at in range(values.ndim) if at != axis)
    low, high = values.min(axis=others).tolist(), values.max(axis=others).tolist()
    if name in seen:
        low, high = list(map(min, low, seen[name].low)), list(map(max, high, seen[name].high))
    seen[name] = Seen(low, high)


def format_text(fmt: CodeFormat) -> str:
    """A format in a few words."""
    if fmt.code is not None:
        return f"{fmt.code}, minifloat"
    said = f"{'' if fmt.signed else 'u'}int{fmt.bits}"
    if fmt.levels is not None:
        said += f", {len(fmt.levels)} levels {fmt.levels[0]}..{fmt.levels[-1]}"
    return said


def scale_text(fmt: CodeFormat) -> str:
    """What code 1 is worth, and the zero point where there is one."""
    scales, zeros = fmt.scales, fmt.zero_points
    said = f"scale {scales[0]:.4g}" if len(set(scales)) == 1 else f"scale {min(scales):.3g}..{max(scales):.3g}"
    if any(zeros):
        said += f", zero {zeros[0]}" if len(set(zeros)) == 1 else f", zero {min(zeros)}..{max(zeros)}"
    return said


def needed(bounds: Range, signed: bool = True) -> int:
    """The bits that hold a range."""
    return IntFormat.holding(*bounds, signed=signed or bounds[0] < 0).bits
