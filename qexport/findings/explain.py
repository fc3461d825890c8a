"""One output value, term by term: what the array multiplies and adds, in its order, and where each operand stands."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from qexport.core.golden import Golden
from qexport.core.operations.base import Need
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import OPERANDS, operation, require
from qexport.core.printed import Printed, pairs_text
from qexport.errors import CheckFailed, QexportError
from qexport.layout.formats.base import WordSpec
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import describe_index
from qexport.sets.folder import file_sha256
from qexport.sets.manifest import Manifest, MemoryEntry, capture_of, read_manifest, read_words

Point = dict[str, int]  # axis -> index
COLUMN_AXIS = "col"  # the size of an output tile, where the layout has one


@dataclass(frozen=True)
class Step:
    """One line of an explanation; what does not belong to its kind is None.

    kind: term, psum, bias or addend, accumulator, relu, the name of a step, or output. it, kh, kw, row: input-channel
    tile, tap and row of the array; ic: the layer's input channel; k: the index that a matrix product sums over; mul: a
    sum's factor. value: the product of a term, else the named tensor's; sum: of all values of terms and of what is
    added so far. Places are FILE:LINE:LANE, several where the memory stores single bits.
    """

    kind: str
    value: int
    sum: int
    it: int | None = None
    kh: int | None = None
    kw: int | None = None
    row: int | None = None
    ic: int | None = None
    padding: bool | None = None
    input: int | None = None
    weight: int | None = None
    input_at: tuple[str, ...] = ()
    weight_at: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    k: int | None = None
    mul: int | None = None
    input2: int | None = None
    input2_at: tuple[str, ...] = ()

    @property
    def factors(self) -> list[tuple[str, int, tuple[str, ...]]]:
        """The operands of a term: name, code, places."""
        found = (
            ("input", self.input, self.input_at),
            ("weight", self.weight, self.weight_at),
            ("input2", self.input2, self.input2_at),
        )
        return [(name, code, places) for name, code, places in found if code is not None]

    def as_json(self) -> dict[str, Any]:
        """For machines: all fields, of operations whose operands are all data those that the step has."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_DATA or value not in (None, ())}


_OF_DATA = ("k", "mul", "input2", "input2_at")  # of operations whose operands are all data


@dataclass(frozen=True)
class Stored:
    """What a memory of the set holds for the explained value."""

    memory: str
    tensor: str
    at: str
    value: int


@dataclass(frozen=True)
class Explanation(Printed):
    """`at`: the index by axis; `column`: output tile and column of the array, where the layout has columns."""

    set: str
    layer: str
    at: dict[str, int]
    column: dict[str, int] | None
    steps: tuple[Step, ...]
    stored: tuple[Stored, ...]

    def __str__(self) -> str:
        return pairs_text(self.rows)

    def as_json(self) -> dict[str, Any]:
        """For machines: what the command prints with --json."""
        return asdict(self) | {"steps": [step.as_json() for step in self.steps]}

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The layer and index; each term with its codes and the sum so far; the values behind them."""
        rows = [("value", f"{self.set}: layer {self.layer}, {describe_index(self.at)}")]
        for step in self.steps:
            if step.kind == "term":
                at = {name: getattr(step, name) for name in ("ic", "kh", "kw", "k", "mul")}
                where = describe_index({name: index for name, index in at.items() if index is not None})
                codes = ", ".join(f"{name} {code}" for name, code, _ in step.factors)
                rows.append((step.kind, f"{where}: {codes}, product {step.value}, sum {step.sum}"))
            else:
                rows.append((step.kind, str(step.value)))
        return rows


def explain(folder: Path, *index: int) -> Explanation:
    """How one value of a set comes about: that of image n, output channel oc, position (oy, ox), or, of a matrix
    product, of (n, m, p).

    The order is that of a weight-stationary array: input-channel tile, kernel row, kernel column, row of the array.
    After each tap of a tile stands the psum that the array emits. Raises QexportError when there is no such value,
    CheckFailed when a file that is named was changed since the dump.
    """
    manifest = read_manifest(folder)
    require(manifest.layer, Need.EXPLANATION)
    capture = capture_of(folder, manifest)
    layer = capture.layer
    facts = operation(capture, manifest.array.get(TILE_AXIS), manifest.chain)
    if len(index) != len(layer.results):
        shown = ", ".join(_SHOWN.get(axis, axis) for axis in layer.results)
        raise QexportError(f"at: {len(index)} numbers are given; a {layer.kind} layer needs {shown}")
    at = dict(zip(layer.results, index, strict=True))
    for (axis, one), size in zip(at.items(), facts.shapes["accumulator"], strict=True):
        if not 0 <= one < size:
            raise QexportError(f"at: {_SHOWN.get(axis, axis)} {one} is outside 0..{size - 1} of {folder}")
    n, channel = at["n"], at[layer.channel]
    places = _Places(folder, manifest, facts)
    golden = Golden(capture.part(n, n + 1), facts=facts)
    steps = [*_SUMS[layer.kind](golden, at, places)]
    steps += _results(golden, at, steps[-1].sum, places)
    column = manifest.array.get(COLUMN_AXIS)
    return Explanation(
        set=str(folder),
        layer=layer.name,
        at=at,
        column=None if column is None else {_TILES[layer.channel]: channel // column, "col": channel % column},
        steps=tuple(steps),
        stored=tuple(places.stored(at)),
    )


_SHOWN = {"n": "image", "oy": "y", "ox": "x"}
_TILES = {"oc": "ot", "p": "pt"}  # axis of the channels -> the tile of them that the presets name


def _sums(golden: Golden, at: Point, places: "_Places") -> Iterator[Step]:
    """The terms of the accumulator of one image, behind each tap of a tile its psum, at last the bias.

    A term is the product of what the codes stand for, a psum the sum of products before zero points are taken off.
    """
    facts, layer, oc = golden.facts, golden.facts.layer, at["oc"]
    first = oc // (layer.out_channels // layer.groups) * layer.group_inputs  # the group's first input channel
    padded = golden.values("input_padded")[0]
    stands_for = facts.formats.input.integers(padded)
    total = 0
    for it, start in enumerate(range(0, layer.group_inputs, facts.row)):
        for kh, kw in np.ndindex(*layer.kernel):
            py, px = layer.meets(0, at["oy"], kh), layer.meets(1, at["ox"], kw)
            point = at | {"it": it, "kh": kh, "kw": kw, "py": py, "px": px}
            iy, ix = py - layer.padding[0], px - layer.padding[2]
            padding = not (0 <= iy < facts.plane[0] and 0 <= ix < facts.plane[1])
            if not padding:
                point |= {"iy": iy, "ix": ix}
            psum = part = 0
            for row, c in enumerate(range(start, min(start + facts.row, layer.group_inputs))):
                code, weight = int(padded[first + c, py, px]), int(facts.weight[oc, c, kh, kw])
                seen, tap = int(stands_for[first + c, py, px]), int(facts.taps[oc, c, kh, kw])
                product = (seen - facts.zero) * (tap - int(facts.weight_zeros[oc]))
                psum, part = psum + seen * tap, part + product
                input_at = places.operand("input", point | {"ic": first + c})
                weight_at = places.operand("weight", point | {"ic": c})
                yield Step(
                    "term", product, total + part, it, kh, kw, row, first + c, padding, code, weight,
                    input_at, weight_at,
                )  # fmt: skip
            total += part
            yield Step("psum", psum, total, it, kh, kw, at=places.of("psum", point))
    if facts.added is not None:
        total += int(facts.added[oc])
        yield Step("bias", int(facts.added[oc]), total, at=places.operand("bias", at))


def _product(golden: Golden, at: Point, places: "_Places") -> Iterator[Step]:
    """The terms of a matrix product in the order of k, at last the addend."""
    facts: Any = golden.facts
    codes = [golden.codes(name)[0] for name in ("input", "input2")]
    left, right = (factors[0] for factors in facts.factors(golden))
    m, p, total = at["m"], at["p"], 0
    for k in range(left.shape[1]):
        product, point = int(left[m, k]) * int(right[k, p]), at | {"k": k}
        total += product
        yield Step(
            "term", product, total, k=k, input=int(codes[0][m, k]), input2=int(codes[1][k, p]),
            input_at=places.of("input", point), input2_at=places.of("input2", point),
        )  # fmt: skip
    if facts.addends is not None:
        addend = int(golden.codes("addend")[0, m, p])
        total += addend
        yield Step("addend", addend, total, at=places.of("addend", at))


def _sum(golden: Golden, at: Point, places: "_Places") -> Iterator[Step]:
    """The term of each operand of a sum."""
    facts: Any = golden.facts
    index, total = (0, at["oc"], at["oy"], at["ox"]), 0
    point = at | {"ic": at["oc"], "iy": at["oy"], "ix": at["ox"]}
    for name, mul in facts.factors.items():
        product = mul * int(facts.terms(golden, name)[index])
        total += product
        own: dict[str, Any] = {name: int(golden.codes(name)[index]), f"{name}_at": places.of(name, point)}
        yield Step("term", product, total, mul=mul, **own)


_SUMS: Mapping[str, Callable[[Golden, Point, "_Places"], Iterator[Step]]] = {
    "conv2d": _sums, "linear": _sums, "matmul": _product, "sum": _sum,
}  # fmt: skip


def _results(golden: Golden, at: Point, accumulator: int, places: "_Places") -> Iterator[Step]:
    """What follows from an accumulator, itself first."""
    index = (0, *tuple(at.values())[1:])
    assert accumulator == golden.accumulator[index]
    for tensor in golden.facts.result_names:
        if tensor not in golden.facts.pooled and golden.facts.tensor(tensor).axes == tuple(at):
            yield Step(tensor, int(golden.values(tensor)[index]), accumulator, at=places.of(tensor, at))


def steps_csv(explanations: Sequence[Explanation]) -> str:
    """One line for each step, with a line of names before; several places of one operand are parted by blanks."""
    names = [field.name for field in fields(Step)]
    used = {name for one in explanations for step in one.steps for name in _OF_DATA if getattr(step, name) is not None}
    names = [name for name in names if name not in _OF_DATA or name.removesuffix("_at") in used]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["set", *(_SHOWN.get(axis, axis) for axis in explanations[0].at), *names])
    for one in explanations:
        for step in one.steps:
            cells = [asdict(step)[name] for name in names]
            table.writerow(
                [one.set, *one.at.values(), *(" ".join(cell) if isinstance(cell, tuple) else cell for cell in cells)]
            )
    return text.getvalue()


class _Places:
    """Where tensor elements stand in the files of a set."""

    def __init__(self, folder: Path, manifest: Manifest, facts: Convolution):
        self._folder, self._facts = folder, facts
        self._manifest = manifest
        # a memory of whole codes rather than one of single bits
        self._entries = {m.tensor: m for m in sorted(manifest.memories, key=self._has_bits)[::-1]}
        self._tilings = {m.name: m.tiling(manifest.array) for m in manifest.memories}
        self._lines: dict[tuple[str, str], Sequence[int]] = {}  # of a memory's words in a file, by their names

    @staticmethod
    def _has_bits(entry: MemoryEntry) -> bool:
        return entry.memory().order.has_bits

    def of(self, tensor: str, point: Point) -> tuple[str, ...]:
        """FILE:LINE:LANE of an element, of each of its bits where the memory stores these.

        None without a memory, or where the point, which may have more axes, lacks one of the tensor's.
        """
        entry = self._entries.get(tensor)
        if entry is None or not set(axes := self._facts.tensor(tensor).axes) <= set(point):
            return ()
        index = tuple(point[axis] for axis in axes)
        indices = [(*index, bit) for bit in range(entry.shape[-1])] if self._has_bits(entry) else [index]
        return tuple(self._text(entry, *self._tilings[entry.name].place(*one)) for one in indices)

    def operand(self, name: str, point: Point) -> tuple[str, ...]:
        """The places of what is carried into the design, in the first of the tensors that carry it."""
        found = (self.of(tensor, point) for tensor, carried in OPERANDS.items() if carried == name)
        return next(filter(None, found), ())

    def stored(self, at: Point) -> Iterator[Stored]:
        """What the memories of results with these axes hold."""
        for entry in self._manifest.memories:
            is_result = entry.tensor in self._facts.result_names and entry.tensor not in self._facts.pooled
            if is_result and self._facts.tensor(entry.tensor).axes == tuple(at) and not self._has_bits(entry):
                number, word, lane = self._tilings[entry.name].place(*at.values())
                place = self._text(entry, number, word, lane)
                words = read_words(self._folder, self._manifest, entry, self._tilings[entry.name], number)
                if word >= len(words):  # the hashes may have been made to agree
                    raise CheckFailed(f"{place} is not there: the file has {len(words)} words; dump the set again")
                yield Stored(entry.name, entry.tensor, place, int(words[word, lane]))

    def _spec(self, entry: MemoryEntry, number: int) -> WordSpec:
        return self._manifest.spec(entry, number, self._tilings[entry.name])

    def _text(self, entry: MemoryEntry, number: int, word: int, lane: int) -> str:
        file, format_ = entry.files[number], entry.format
        if (entry.name, file.path) not in self._lines:
            path = self._folder / file.path
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise CheckFailed(f"{path} is missing, or its SHA-256 differs from the manifest; dump the set again")
            plain = format_.text or format_.word_lines is None  # one word a line, or no lines
            first = file.first_word + (len(entry.header) + format_.preamble + 1 if format_.text else 1)
            self._lines[entry.name, file.path] = (
                range(first, first + file.words)
                if plain
                else format_.lines_of(path.read_bytes(), self._spec(entry, number), file.words).tolist()
            )
        return f"{file.path}:{self._lines[entry.name, file.path][word]}:{lane}"
