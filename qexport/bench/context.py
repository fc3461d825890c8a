"""What the templates need of layer, memories and layout; how they are rendered."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qexport.bench.interface import CHECKS
from qexport.core.geometry import AnyLayer, ConvGeometry, MatMul, Sum
from qexport.core.rescale import Integers
from qexport.core.steps import Step
from qexport.errors import QexportError
from qexport.layout.memory import sharing, verilog_name
from qexport.layout.order import BIT_AXIS, IMAGE_AXIS
from qexport.sets.manifest import ManifestFormats, MemoryEntry

CYCLES_SPARE = 1000
LICENCE = ("SPDX-License-Identifier: 0BSD", "You may use this generated file under any terms.")
# By suffix; lists of files and checksums, which programs read line by line, take no comment.
_COMMENT = {".sv": "//", ".svh": "//", ".vh": "//", ".py": "#", "": "#"}
_SHOWN_AXES = {
    "n": "image",
    "ot": "oc",
    "pt": "p",
    "py": "y",
    "px": "x",
    "oy": "y",
    "ox": "x",
}  # in the bench's FAIL lines

_PACKAGE = Path(__file__).parent.parent
TEMPLATES = next(folder for folder in (_PACKAGE / "templates", _PACKAGE.parent / "templates") if folder.is_dir())


@dataclass(frozen=True)
class Axis:
    """One address axis of a memory, for turning an address back into a tensor index."""

    name: str
    size: int


@dataclass(frozen=True)
class BenchMemory:
    """What the templates need of one memory; `const` is the prefix of its constants.

    `skip` lines stand before the first word of its text; when it is no text that is its alone, with one word a line, a
    tool that is not Verilog loads it.
    `sums_at` is the line of its first file in checks.txt.
    """

    name: str
    const: str
    tensor: str
    order: str
    radix: str
    text: bool
    loaded_by: str
    skip: int
    files: tuple[str, ...]
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
    per_image: bool
    index_format: str
    index_values: str
    sums_at: int

    @classmethod
    def of(cls, entry: MemoryEntry, array: dict[str, int], sums_at: int, alone: bool) -> "BenchMemory":
        tiling = entry.tiling(array)
        format_ = entry.format
        digit_bits = format_.digit_bits or 0
        digits = math.ceil(entry.word_bits / digit_bits) if digit_bits else 0
        name = verilog_name(entry.name)
        order = tiling.order
        axes = tuple(Axis(part, tiling.sizes[part]) for item in order.addresses for part in item.parts)
        index = [_SHOWN_AXES.get(a.name, a.name) for a in axes]
        inner = {s.names[0]: s.names[1] for s in order.splits if len(s.names) == 2}  # of a tile, across the lanes
        values = [
            f"{a.name} * {inner[a.name].upper()} + {tiling.lanes - 1} - lane" if a.name in inner else a.name
            for a in axes
        ]
        return cls(
            name=name,
            const=name.upper(),
            tensor=entry.tensor,
            order=order.text,
            radix=entry.radix,
            text=format_.text and alone,
            loaded_by=format_.loaded_by if alone else "programs that part the words of several memories",
            skip=len(entry.header) + format_.preamble,
            files=tuple(file.path for file in entry.files),
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
            per_image=bool(axes) and axes[0].name == IMAGE_AXIS,
            index_format=" ".join(f"{name}=%0d" for name in index),
            index_values=", ".join(values),
            sums_at=sums_at,
        )

    @property
    def index(self) -> list[tuple[str, str]]:
        """The index of a value as pairs of axis and expression, for signals."""
        labels = self.index_format.replace("image=", "n=").replace("=%0d", "").split()
        return list(zip(labels, self.index_values.split(", "), strict=True))


@dataclass(frozen=True)
class Constants:
    """A group of constants of the package and of params.vh."""

    comment: str
    numbers: tuple[tuple[str, int], ...]
    texts: tuple[tuple[str, str], ...] = ()
    kind: str = "int"


def licensed(name: str, text: str) -> str:
    """The text of a generated file with its licence in front, as comments of the file's language."""
    mark = _COMMENT.get(Path(name).suffix)
    return text if mark is None else "".join(f"{mark} {line}\n" for line in LICENCE) + text


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


def bench_memories(memories: Iterable[MemoryEntry], array: dict[str, int]) -> list[BenchMemory]:
    """All memories of a set as the templates need them."""
    entries: list[BenchMemory] = []
    given = tuple(memories)
    groups = sharing(given)
    for entry in given:
        sums_at = 1 + sum(len(m.files) for m in entries if m.text)
        entries.append(BenchMemory.of(entry, array, sums_at, len(groups[entry.name]) == 1))
    return entries


def base_context(
    layer: AnyLayer,
    memories: tuple[MemoryEntry, ...],
    layout: str,
    array: dict[str, int],
    formats: ManifestFormats,
    steps: Sequence[Step] | None,
) -> dict[str, Any]:
    """What all templates get: the names, the memories that Verilog can load and those it cannot, the constants.

    Raises QexportError when axes and memories give one constant twice.
    """
    entries = bench_memories(memories, array)
    constants = _constants(layer, memories, entries, array, formats, steps)
    names = [name for group in constants for name, _ in (*group.numbers, *group.texts)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QexportError(f"layout: names of axes and memories give the constant {twice[0]} twice; rename one of them")
    loaded = [m for m in entries if m.text]
    return {
        "slug": layer.slug,
        "layer_name": for_comment(layer.name),
        "layout": for_comment(layout),
        "entries": entries,
        "memories": loaded,
        "not_loaded": [m for m in entries if not m.text],
        "words": sum(m.words * len(m.files) for m in loaded),
        "constants": constants,
        "checks_file": CHECKS,
        "cycles_spare": CYCLES_SPARE,
    }


def work(
    layer: AnyLayer, driven: list[BenchMemory], compared: list[BenchMemory], array: dict[str, int]
) -> dict[str, int]:
    """The layer's multiplications (those with padding among them), and cycles after which the bench gives up."""
    if not isinstance(layer, ConvGeometry):
        return _work_of_data(layer, driven, compared)
    sizes = {axis.name: axis.size for m in driven for axis in m.axes}
    images, plane, taps = sizes["n"], (sizes["iy"], sizes["ix"]), math.prod(layer.kernel)
    padded = math.prod(layer.padded_plane(plane))
    # one multiplication a cycle for every lane, tap and padded position, and one word a cycle; twice over
    slowest = images * padded * taps * sizes["ot"] * sizes["it"] * array["row"] * array["col"]
    words = sum(m.words for m in (*driven, *compared))
    outputs = images * math.prod(layer.output_plane(plane)) * layer.out_channels
    return {"macs": outputs * layer.group_inputs * taps, "timeout": 2 * (slowest + words) + CYCLES_SPARE}


def _work_of_data(layer: AnyLayer, driven: list[BenchMemory], compared: list[BenchMemory]) -> dict[str, int]:
    """The same where all operands are data; every lane counts, in ragged tiles too."""
    by_name = {m.name: m for m in driven}
    elements = by_name["input"].words * by_name["input"].lanes
    if isinstance(layer, MatMul):
        sizes = {axis.name: axis.size for axis in by_name["input2"].axes}
        macs = elements * sizes["pt"] * by_name["input2"].lanes
    else:
        macs = elements * len(by_name)
    words = sum(m.words for m in (*driven, *compared))
    return {"macs": macs, "timeout": 2 * (macs + words) + CYCLES_SPARE}


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
