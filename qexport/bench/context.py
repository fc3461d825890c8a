"""What the templates need of layer, memories and layout; how they are rendered."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qexport.bench.interface import CHECKS, Stream
from qexport.bench.places import Places
from qexport.core.geometry import AnyLayer, ConvGeometry, MatMul, Sum
from qexport.core.operations.registry import AXES
from qexport.core.rescale import Integers
from qexport.core.steps import Step
from qexport.errors import QexportError
from qexport.layout.formats.registry import FORMATS
from qexport.layout.memory import sharing, verilog_name
from qexport.layout.order import BIT_AXIS, IMAGE_AXIS, Order
from qexport.layout.tiling import Tiling
from qexport.sets.manifest import Manifest, ManifestFormats, MemoryEntry

CYCLES_SPARE = 1000
LICENCE = ("SPDX-License-Identifier: 0BSD", "You may use this generated file under any terms.")
# By suffix; lists of files and checksums, which programs read line by line, take no comment.
_COMMENT = {".sv": "//", ".svh": "//", ".vh": "//", ".py": "#", ".core": "#", "": "#"}
_BEFORE = {".core": "CAPI=2:\n"}  # what must stand before any comment
_LABELS = {"py": "y", "px": "x", "oy": "y", "ox": "x", BIT_AXIS: "b"}  # of the axes of results, in FAIL lines and waves
BESIDE = FORMATS["hex"]  # of the texts beside files that Verilog cannot load

_PACKAGE = Path(__file__).parent.parent
TEMPLATES = next(folder for folder in (_PACKAGE / "templates", _PACKAGE.parent / "templates") if folder.is_dir())


@dataclass(frozen=True)
class Axis:
    """One address axis of a memory, for turning an address back into a tensor index."""

    name: str
    size: int


@dataclass(frozen=True)
class BenchMemory:
    """What the templates need of one memory; `number` tells it from the others, `const` is the prefix of its constants.

    `loaded`: the texts that Verilog loads, `skip` lines standing before the first word of each: its files, or where
    these are no texts that are its alone, with one word a line, those beside them; none where it is not streamed, too.
    `sums_at` is the line of the first one in checks.txt. `lasts`: tlast comes with every so many words.
    """

    number: int
    name: str
    const: str
    tensor: str
    order: str
    radix: str
    loaded_by: str
    skip: int
    files: tuple[str, ...]
    loaded: tuple[str, ...]
    words: int
    lanes: int
    bits: int
    word_bits: int
    digits: int
    base: int
    first_limit: int
    low: int
    high: int
    axes: tuple[Axis, ...]
    places: Places
    index: tuple[tuple[str, str], ...]
    lasts: int
    added: int
    sums_at: int

    @classmethod
    def of(
        cls, entry: MemoryEntry, number: int, array: dict[str, int], sums_at: int, beside: tuple[str, ...], alone: bool
    ) -> "BenchMemory":
        """`beside`: the texts of its words that are not its own files, if any."""
        tiling = entry.tiling(array)
        format_ = BESIDE if beside else entry.format
        digit_bits = format_.digit_bits or 0
        files = tuple(file.path for file in entry.files)
        loaded = beside or (files if format_.text and alone else ())
        digits = math.ceil(entry.word_bits / digit_bits) if digit_bits else 0
        name = verilog_name(entry.name)
        order = tiling.order
        axes = tuple(Axis(part, tiling.sizes[part]) for item in order.addresses for part in item.parts)
        places = Places.of(tiling)
        return cls(
            number=number,
            name=name,
            const=name.upper(),
            tensor=entry.tensor,
            order=order.text,
            radix=entry.radix,
            loaded_by=format_.loaded_by if alone else "programs that part the words of several memories",
            skip=0 if beside else len(entry.header) + format_.preamble,
            files=files,
            loaded=loaded,
            words=tiling.words,
            lanes=tiling.lanes,
            bits=entry.bits,
            word_bits=entry.word_bits,
            digits=digits,
            base=1 << digit_bits if digit_bits else 10,
            first_limit=1 << (entry.word_bits - (digits - 1) * digit_bits) if digit_bits else 10,
            low=entry.element.low,
            high=entry.element.high,
            axes=axes,
            places=places,
            index=tuple((_LABELS.get(axis, axis), variable) for axis, variable in _as_stored(places.index, order)),
            lasts=_words_of_image(tiling),
            added=tiling.added,
            sums_at=sums_at,
        )

    @property
    def text(self) -> bool:
        """Whether Verilog can load it."""
        return bool(self.loaded)

    @property
    def shown(self) -> tuple[str, ...]:
        """What messages call its files: by the layout's names, and where others are loaded by those in brackets."""
        both = zip(self.files, self.loaded, strict=True)
        return tuple(file if file == loaded else f"{file}({loaded})" for file, loaded in both)

    @property
    def total(self) -> int:
        """The words of all files."""
        return self.words * len(self.files)

    @property
    def values(self) -> int:
        """How many are compared, where it is a result."""
        return self.total * self.lanes - self.added

    @property
    def index_text(self) -> str:
        """The index of a value in FAIL lines, with %0d for each number."""
        return " ".join(f"{'image' if label == 'n' else label}=%0d" for label, _ in self.index)


def _as_stored(index: Iterable[tuple[str, str]], order: Order) -> list[tuple[str, str]]:
    """The axes of a tensor in the order in which the files run through them, images first."""
    right = [part for item in order.right for part in item.parts]
    first = {axis: min((right.index(name) for name in split.names if name in right), default=len(right))
             for split in order.stages[0] for axis in split.joined}  # fmt: skip
    return sorted(index, key=lambda pair: (pair[0] != IMAGE_AXIS, first[pair[0]]))


def _words_of_image(tiling: Tiling) -> int:
    """After how many words tlast comes: those of an image, where the order has them one after the other, else all."""
    if tiling.order.image_axis is None:
        return tiling.words * tiling.files
    of_files = tiling.order.image_axis in tiling.order.files
    return tiling.words * (tiling.files if of_files else 1) // tiling.sizes[IMAGE_AXIS]


@dataclass(frozen=True)
class BenchStream:
    """A stream for templates: its number, its memory, the names of its ports and of the instance at its end."""

    number: int
    memory: BenchMemory
    stream: Stream

    @property
    def driven(self) -> bool:
        return self.stream.driven

    @property
    def needed(self) -> bool:
        return self.stream.needed

    @property
    def macro(self) -> str:
        return self.stream.macro

    @property
    def port(self) -> str:
        return self.stream.prefix

    @property
    def unit(self) -> str:
        return f"{self.memory.name}_{'source' if self.driven else 'check'}"


@dataclass(frozen=True)
class Constants:
    """A group of constants of the package and of params.vh."""

    comment: str
    numbers: tuple[tuple[str, int], ...]
    texts: tuple[tuple[str, str], ...] = ()
    kind: str = "int"

    @property
    def values(self) -> list[tuple[str, str]]:
        """All of them as Verilog writes them; a negative one stands in brackets, for it may come from a macro."""
        numbers = [(name, self._number(value)) for name, value in self.numbers]
        return numbers + [(name, f'"{text}"') for name, text in self.texts]

    def _number(self, value: int) -> str:
        text = f"64'sd{abs(value)}" if self.kind == "longint" else str(abs(value))
        return text if value >= 0 else f"(-{text})"


def licensed(name: str, text: str) -> str:
    """The text of a generated file with its licence in front, as comments of the file's language."""
    suffix = Path(name).suffix
    mark = _COMMENT.get(suffix)
    if mark is None:
        return text
    return _BEFORE.get(suffix, "") + "".join(f"{mark} {line}\n" for line in LICENCE) + text


def render(templates: Mapping[str, str], context: Mapping[str, Any]) -> dict[str, str]:
    """Files by name, each rendered from the template that is named for it, with their licence; strict about names."""
    jinja = _environment()
    return {name: licensed(name, jinja.get_template(file).render(context)) for name, file in templates.items()}


@cache  # it keeps the templates that it has compiled, which takes longer than all else of a set
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def for_comment(name: str) -> str:
    """A name as it stands in a comment of one line."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))


def bench_memories(
    memories: Iterable[MemoryEntry], array: dict[str, int], streamed: Collection[str] = ()
) -> list[BenchMemory]:
    """All memories of a set as the templates need them; `streamed`: the names of those whose words a bench needs."""
    entries: list[BenchMemory] = []
    given = tuple(memories)
    beside = beside_files(given, streamed)
    for number, entry in enumerate(given):
        sums_at = 1 + sum(len(m.loaded) for m in entries)
        alone = len(sharing(given)[entry.name]) == 1
        entries.append(BenchMemory.of(entry, number, array, sums_at, tuple(beside.get(entry.name, ())), alone))
    return entries


def bench_streams(manifest: Manifest, streams: Sequence[Stream]) -> list[BenchStream]:
    """The streams of a set with their memories."""
    memories = bench_memories(manifest.memories, dict(manifest.array), {stream.memory for stream in streams})
    by_name = {entry.name: memory for entry, memory in zip(manifest.memories, memories, strict=True)}
    return [BenchStream(number, by_name[stream.memory], stream) for number, stream in enumerate(streams)]


def loaded_files(memories: Sequence[MemoryEntry], streamed: Collection[str]) -> dict[str, list[str]]:
    """The texts that a bench loads for each of these streamed memories."""
    beside = beside_files(memories, streamed)
    return {m.name: beside.get(m.name, [file.path for file in m.files]) for m in memories if m.name in streamed}


def beside_files(memories: Sequence[MemoryEntry], streamed: Collection[str]) -> dict[str, list[str]]:
    """The texts that stand beside the files of those streamed memories that Verilog cannot load, by the memory's name:
    FILE.hex, and where several memories share a file FILE.NAME.hex."""
    groups = sharing(memories)
    found = {}
    for entry in memories:
        alone = len(groups[entry.name]) == 1
        if entry.name in streamed and not (alone and entry.format.text):
            own = "" if alone else f".{verilog_name(entry.name)}"
            found[entry.name] = [f"{file.path}{own}.hex" for file in entry.files]
    return found


def base_context(
    layer: AnyLayer,
    memories: tuple[MemoryEntry, ...],
    layout: str,
    array: dict[str, int],
    formats: ManifestFormats,
    steps: Sequence[Step] | None,
    streamed: Collection[str] = (),
) -> dict[str, Any]:
    """What all templates get: the names, the memories that Verilog can load and those it cannot, the constants.

    Raises QexportError when axes and memories give one constant twice.
    """
    entries = bench_memories(memories, array, streamed)
    constants = _constants(layer, memories, entries, array, formats, steps)
    names = [name for group in constants for name, _ in (*group.numbers, *group.texts)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QexportError(f"layout: names of axes and memories give the constant {twice[0]} twice; rename one of them")
    loaded = [m for m in entries if m.text]
    return {
        "slug": layer.slug,
        "prefix": layer.slug.upper(),
        "layer_name": for_comment(layer.name),
        "layout": for_comment(layout),
        "entries": entries,
        "memories": loaded,
        "not_loaded": [m for m in entries if not m.text],
        "words": sum(m.total for m in loaded),
        "constants": constants,
        "checks_file": CHECKS,
        "cycles_spare": CYCLES_SPARE,
    }


def work(layer: AnyLayer, memories: Sequence[MemoryEntry], words: int, array: Mapping[str, int]) -> dict[str, int]:
    """The layer's multiplications (those with padding among them), multipliers of the array (0: it has none), and
    cycles after which the bench gives up; `words`: of all streams."""
    shapes = shapes_of(memories)
    row, col = array.get("row", 1), array.get("col", 1)
    if isinstance(layer, ConvGeometry):
        rows, columns = padded_of(layer, shapes)
        top, bottom, left, right = layer.padding
        images = next((shape[0] for name, shape in shapes.items() if AXES.get(name, ("n",))[0] == IMAGE_AXIS), 1)
        taps, icg, oc = math.prod(layer.kernel), layer.group_inputs, layer.out_channels
        outputs = math.prod(layer.output_plane((rows - top - bottom, columns - left - right)))
        macs = images * outputs * oc * icg * taps
        # one multiplication a cycle for every lane, tap and padded position, and one word a cycle; twice over
        slowest = images * rows * columns * taps * math.ceil(icg / row) * row * math.ceil(oc / col) * col
    else:
        macs, slowest = _work_of_data(layer, shapes, col)
    return {
        "macs": macs,
        "multipliers": row * col if {"row", "col"} <= array.keys() else 0,
        "timeout": 2 * (slowest + words) + CYCLES_SPARE,
    }


def shapes_of(memories: Iterable[MemoryEntry]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that are stored, by name, without the axis of single bits."""
    return {m.tensor: m.shape[:-1] if m.memory().order.has_bits else m.shape for m in memories}


def padded_of(layer: ConvGeometry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """The padded plane; where only outputs are stored, the largest that gives them."""
    if "input" in shapes:
        return layer.padded_plane((shapes["input"][2], shapes["input"][3]))
    if (padded := shapes.get("input_padded") or shapes.get("psum")) is not None:
        return padded[-2], padded[-1]
    outputs = next((shape[-2:] for name, shape in shapes.items() if name in ("patches", "accumulator", "relu")), (1, 1))
    sizes = zip(outputs, layer.stride, layer.kernel, layer.dilation, strict=True)
    rows, columns = ((out - 1) * stride + (kernel - 1) * dilation + stride for out, stride, kernel, dilation in sizes)
    return rows, columns


def _work_of_data(layer: AnyLayer, shapes: Mapping[str, tuple[int, ...]], col: int) -> tuple[int, int]:
    """The multiplications where all operands are data, and those of an array of so many columns."""
    elements = max((math.prod(shapes[name]) for name in layer.holds if name in shapes), default=1)
    if isinstance(layer, MatMul):
        first = math.prod(shapes["input"]) if "input" in shapes else elements
        columns = shapes["input2"][-1] if "input2" in shapes else 1
        return first * columns, first * math.ceil(columns / col) * col
    macs = elements * len([name for name in layer.holds if name in shapes])
    return macs, macs


def _constants(
    layer: AnyLayer,
    memories: tuple[MemoryEntry, ...],
    entries: list[BenchMemory],
    array: dict[str, int],
    formats: ManifestFormats,
    steps: Sequence[Step] | None,
) -> list[Constants]:
    """The sizes of layer, planes, tiles and memories."""
    groups = _of_layer(layer, formats, steps)
    groups.append(Constants("images and planes", tuple(sorted(_planes(layer, memories).items()))))
    groups.append(Constants("the array and its tiles", tuple(_tiles(memories, entries, array).items())))
    return [*groups, *map(_of_memory, entries)]


def _of_layer(layer: AnyLayer, formats: ManifestFormats, steps: Sequence[Step] | None) -> list[Constants]:
    """The layer's geometry, its accumulators, and what gives its output codes."""
    groups = [
        Constants(
            "bits that hold every accumulator these weights can give"
            if isinstance(layer, ConvGeometry)
            else "bits that hold every accumulator that any codes can give",
            (("ACC_WIDTH", formats.accumulator.bits),),
        ),
    ]
    if isinstance(layer, Sum):
        muls = zip(("MUL", "MUL2"), layer.mul, strict=False)
        groups.insert(0, Constants("the factors of the operands", tuple(muls)))
    if isinstance(layer, ConvGeometry):
        group = Constants(
            "the layer",
            (
                ("IC", layer.in_channels), ("OC", layer.out_channels), ("GROUPS", layer.groups),
                ("ICG", layer.group_inputs), ("KH", layer.kernel[0]), ("KW", layer.kernel[1]),
                ("STRIDE_Y", layer.stride[0]), ("STRIDE_X", layer.stride[1]), ("PAD_TOP", layer.padding[0]),
                ("PAD_BOTTOM", layer.padding[1]), ("PAD_LEFT", layer.padding[2]), ("PAD_RIGHT", layer.padding[3]),
                ("DILATION_Y", layer.dilation[0]), ("DILATION_X", layer.dilation[1]),
            ),
        )  # fmt: skip
        groups.insert(0, group)
    if (integers := Integers.of(steps or ())) is not None:
        groups.append(
            Constants(
                "output = (accumulator * OUTPUT_MUL + OUTPUT_ADD) >>> OUTPUT_SHIFT, clipped to OUTPUT_MIN..OUTPUT_MAX",
                (
                    ("OUTPUT_MUL", integers.by),
                    ("OUTPUT_ADD", integers.value),
                    ("OUTPUT_SHIFT", integers.shift),
                    ("OUTPUT_MIN", integers.low),
                    ("OUTPUT_MAX", integers.high),
                ),
                kind="longint",
            )
        )
    return groups


def _planes(layer: AnyLayer, memories: tuple[MemoryEntry, ...]) -> dict[str, int]:
    """Images and the sizes of the planes, from the shapes of the tensors that are stored."""
    if not isinstance(layer, ConvGeometry):
        stored = [entry for entry in memories if entry.tensor in (*layer.holds, "accumulator")]
        sizes = [zip(entry.memory().order.tensor_axes, entry.shape, strict=True) for entry in stored]
        return {axis.upper(): size for pairs in sizes for axis, size in pairs if axis != BIT_AXIS}
    shapes = {entry.tensor: entry.shape for entry in memories if "bit" not in entry.order}
    planes: dict[str, int] = {}
    for tensor, names in (("input", ("N", None, "IY", "IX")), ("input_padded", ("N", None, "PY", "PX")),
                          ("psum", ("N", None, None, None, None, "PY", "PX")),
                          ("relu", ("N", None, "OY", "OX")), ("accumulator", ("N", None, "OY", "OX"))):  # fmt: skip
        planes |= {name: size for name, size in zip(names, shapes.get(tensor, ()), strict=False) if name}
    if "input" in shapes:
        planes["OY"], planes["OX"] = layer.output_plane((planes["IY"], planes["IX"]))
    return planes


def _tiles(memories: tuple[MemoryEntry, ...], entries: list[BenchMemory], array: dict[str, int]) -> dict[str, int]:
    """The sizes of tiles, by name; where memories differ in one, each has its own."""
    tiles: dict[str, dict[str, int]] = {}  # axis -> memory -> size
    for entry, m in zip(memories, entries, strict=True):
        tiling = entry.tiling(array)
        axes = [name for split in tiling.order.splits if split.names != split.joined for name in split.names]
        for axis in [*axes, *(["it"] if entry.tensor == "psum" else [])]:
            tiles.setdefault(axis.upper(), {})[m.const] = tiling.sizes[axis]
    sizes: dict[str, int] = {}
    for axis, by_memory in sorted(tiles.items()):
        if len(set(by_memory.values())) == 1:
            sizes[axis] = next(iter(by_memory.values()))
        else:  # such as input tiles of all channels and of one group
            sizes |= {f"{const}_{axis}": size for const, size in by_memory.items()}
    return sizes


def _of_memory(m: BenchMemory) -> Constants:
    """Files, words, lanes and bits of a memory."""
    numbers = {"FILES": len(m.files), "WORDS": m.words, "LANES": m.lanes, "BITS": m.bits, "WORD_BITS": m.word_bits}
    files = [("FILE", m.files[0])] if len(m.files) == 1 else [(f"FILE_{i}", f) for i, f in enumerate(m.files)]
    return Constants(
        f"memory {m.name}: {m.tensor}, {m.order}",
        tuple((f"{m.const}_{name}", value) for name, value in numbers.items()),
        tuple((f"{m.const}_{name}", value) for name, value in files),
    )
