"""The integer facts of one layer: its geometry, its number formats and its captured codes."""

import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from qexport.core.budget import CAPTURE_ELEMENTS, STEP_ELEMENTS, check_header
from qexport.core.codes import Formats
from qexport.core.geometry import KINDS, Layer, NotNegative, Shape, check_kind, shape_text
from qexport.core.intformat import Int64
from qexport.core.private import without_private
from qexport.core.steps import Signal, Step, read_steps, sizes_after, write_steps
from qexport.errors import QexportError, few

NotNegative64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Ties = tuple[tuple[NotNegative, int], ...]  # (channel, accumulator) pairs

METADATA_KEY = "qexport"
ADDED = 2**47  # biases and addends are smaller in size
REAL_GRID = 2**20  # real-valued tensors are stored as multiples of 1/REAL_GRID


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the codes came from; all entries may be unknown (null)."""

    checkpoint_sha256: str | None = None
    data_sha256: str | None = None
    images: tuple[int, ...] | None = None
    seed: int | None = None
    stimulus: str | None = None


class Departs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the steps of a hardware give another code than the network: of the accumulators within the bounds of
    all channels, and of the codes of the images."""

    accumulators: NotNegative64
    codes: NotNegative64


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    layer: Layer
    formats: Formats
    source: Source = Source()
    steps: list[Any] | None = None
    ties: Ties | None = None
    departs: Departs | None = None


REAL = ("reference", "next_input")
OF_RESULTS = (*REAL, "reference_codes")  # what the framework itself computed
TENSORS = (*dict.fromkeys(name for kind in KINDS.values() for name in kind.holds), *OF_RESULTS)
STEP_TENSOR = "steps."  # begins the name of a list that is too long for the metadata


def per_image(layer: Layer, name: str) -> bool:
    """Whether each image has its own part of a tensor of the layer's captures."""
    return name in OF_RESULTS or layer.holds[name].axes[0] == "n"


@dataclass(frozen=True)
class LayerCapture:
    """One layer's codes. Arrays are made read-only, contiguous int64; the real-valued ones float32 on a 2^-20 grid.

    Which operands there are, and their axes, the layer's kind says (geometry.py): weight, input and bias; or input,
    input2 and addend. `weight` is None where the kind has none: who reads it serves kinds that have it. reference, in
    the accumulator's shape: the layer's real-valued output in PyTorch; next_input (same shape): what the next
    quantized layer receives. steps: what follows the accumulator; None where they follow from formats.output, or there
    are none. reference_codes (as behind the steps): the framework's own codes, which may differ by 1 at `ties`,
    (channel, accumulator) pairs. departs: how often the steps differ from the network's own. Raises QexportError when
    shapes, formats and codes contradict each other.
    """

    layer: Layer
    formats: Formats
    weight: Int64 = None  # type: ignore[assignment]
    input: Int64 = None  # type: ignore[assignment]
    bias: Int64 | None = None
    reference: NDArray[np.float32] | None = None
    next_input: NDArray[np.float32] | None = None
    source: Source = field(default_factory=Source)
    reference_codes: Int64 | None = None
    steps: tuple[Step, ...] | None = None
    ties: Ties | None = None
    departs: Departs | None = None
    input2: Int64 | None = None
    addend: Int64 | None = None

    def __post_init__(self) -> None:
        arrays = {name: _unfolded(self.layer, array) for name, array in self.tensors.items()}
        check_names(self.layer, arrays)
        shapes = tensor_shapes(self.layer, {name: array.shape for name, array in arrays.items()}, self.steps or ())
        for name, array in arrays.items():
            _check_array(name, array.shape, array.dtype, shapes[name], self.layer)
            object.__setattr__(self, name, _clean(name, array))
        _check_formats(self.layer, self.formats, shapes)
        for name, fmt in self.formats.operands.items():
            fmt.check(name, getattr(self, name))
        for name, held in self.layer.holds.items():
            array = getattr(self, name)
            if not held.codes and array is not None:
                furthest = max(map(int, (array.min(), array.max())), key=abs)
                if abs(furthest) >= ADDED:
                    raise QexportError(f"capture: {name} {furthest} is not below 2^47 in size")
        if self.steps is not None and self.next_input is not None:
            raise QexportError("capture: next_input stands beside steps; write reference_codes, or leave one out")
        if self.reference_codes is not None and self.steps is None and self.formats.output is None:
            raise QexportError("capture: reference_codes stand without steps and formats.output; write one of those")
        channels = shapes["accumulator"][self.layer.results.index(self.layer.channel)]
        for channel, _ in self.ties or ():
            if channel >= channels:
                raise QexportError(f"capture: ties name channel {channel} of {channels}; correct them")

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors that there are, by name."""
        return {name: array for name in TENSORS if (array := getattr(self, name)) is not None}

    @property
    def images(self) -> int:
        return len(self.input)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the tensors that there are."""
        return {name: array.shape for name, array in self.tensors.items()}

    @property
    def has_codes(self) -> bool:
        """Whether it holds the framework's own codes."""
        return self.reference_codes is not None

    @property
    def plane(self) -> tuple[int, int]:
        """(iy, ix)."""
        return self.input.shape[2], self.input.shape[3]

    def part(self, start: int, stop: int) -> "LayerCapture":
        """The same layer with the images start..stop-1."""
        return self.of_images(slice(start, stop))

    def of_images(self, images: slice | list[int]) -> "LayerCapture":
        """The same layer with these images."""
        kept: dict[str, Any] = {n: array[images] for n, array in self.tensors.items() if per_image(self.layer, n)}
        return replace(self, **kept)

    def to_bytes(self) -> bytes:
        """The capture file: safetensors with one metadata entry; the same capture gives the same bytes."""
        file = io.BytesIO()
        writer = CaptureWriter.like(self, file)
        writer.add(self)
        return file.getvalue()

    @classmethod
    def load(cls, path: Path) -> "LayerCapture":
        """Read a capture file whole; raises QexportError naming what is wrong with it."""
        file = CaptureFile(path)
        return file.part(0, file.images)


def _read_metadata(document: Any) -> _Metadata:
    """The metadata of a capture file; a layer without a kind is a convolution."""
    if isinstance(document, dict) and isinstance(layer := document.get("layer"), dict):
        layer.setdefault("kind", "conv2d")
        check_kind(layer)
    formats = document.get("formats") if isinstance(document, dict) else None
    for name, fmt in formats.items() if isinstance(formats, dict) else ():
        for what, value in fmt.items() if isinstance(fmt, dict) else ():
            if isinstance(value, dict):
                raise QexportError(
                    f"formats.{name}.{what} with axes is reserved; give a number, of weights also one for each output "
                    "channel"
                )
    return msgspec.convert(document, _Metadata)


class CaptureFile:
    """A capture file of which images are read when they are asked for, so that memory does not grow with their number.

    Raises QexportError naming what is wrong with the file.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise QexportError(f"capture: {path} does not exist or is not a file")
        self.path = path
        check_header(path, "capture")
        try:
            with safe_open(str(path), framework="numpy") as file:
                names = set(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                entries = file.metadata() or {}
        except (SafetensorError, AttributeError, TypeError, ValueError, OSError) as error:
            raise QexportError(f"capture: {path} is not a readable safetensors file: {error}") from None
        if set(entries) != {METADATA_KEY}:
            raise QexportError(
                f"capture: {path} has metadata entries {few(sorted(entries))}; needs '{METADATA_KEY}' alone, with "
                "layer, formats and source (docs/reference/vectors.md)"
            )
        of_steps = sorted(name for name in names if name.startswith(STEP_TENSOR))
        names -= set(of_steps)
        if names - set(TENSORS):
            raise QexportError(
                f"capture: {path} holds tensors {few(sorted(names))}; may have {', '.join(TENSORS)}, "
                f"{STEP_TENSOR}INDEX.FIELD"
            )
        try:
            metadata = _read_metadata(without_private(json.loads(entries[METADATA_KEY])))
        except (ValueError, RecursionError) as error:
            raise QexportError(f"capture: {path}: metadata '{METADATA_KEY}': {error}") from None
        self.layer, self.formats, self.source = metadata.layer, metadata.formats, metadata.source
        self.ties, self.departs = metadata.ties, metadata.departs
        if (size := sum(math.prod(shapes[name]) for name in of_steps)) > STEP_ELEMENTS:
            raise QexportError(
                f"capture: {path}: the tables of its steps have {size:,} numbers, more than {STEP_ELEMENTS:,}; use "
                "shorter tables"
            )
        self.steps: tuple[Step, ...] | None = None
        if metadata.steps is not None:
            try:
                self.steps = read_steps(metadata.steps, self._read(dict.fromkeys(of_steps)))
            except QexportError as error:
                raise QexportError(f"capture: {path}: steps: {error}") from None
        elif of_steps:
            raise QexportError(f"capture: {path} holds {of_steps[0]}, but no steps; write them in its metadata")
        check_names(self.layer, names)
        shapes = {name: _unfolded_shape(self.layer, shapes[name]) for name in names}
        wanted = tensor_shapes(self.layer, shapes, self.steps or ())
        for name, held in self.layer.holds.items():
            each = "an image of " if per_image(self.layer, name) else ""
            if held.codes and name in names:
                size = math.prod(shapes[name][1:] if each else shapes[name])
                if size > CAPTURE_ELEMENTS:
                    raise QexportError(
                        f"capture: {path}: {each}{name} has {size:,} codes, more than {CAPTURE_ELEMENTS:,}; "
                        "take a part of the layer"
                    )
        self.has_codes = "reference_codes" in names
        for name in sorted(names):
            if shapes[name] != wanted[name]:
                _check_array(name, shapes[name], None, wanted[name], self.layer)
        self.shapes: dict[str, Shape] = shapes
        self.images: int = shapes["input"][0]
        self._per_image = [name for name in TENSORS if name in names and per_image(self.layer, name)]
        first = self._read(dict.fromkeys(names - set(self._per_image)) | dict.fromkeys(self._per_image, (0, 1)))
        checked = LayerCapture(**self._facts, **first)
        self._fixed: dict[str, Any] = {
            name: array for name, array in checked.tensors.items() if name not in self._per_image
        }
        self.weight, self.bias = checked.weight, checked.bias

    @property
    def plane(self) -> tuple[int, int]:
        """(iy, ix)."""
        return self.shapes["input"][2], self.shapes["input"][3]

    def part(self, start: int, stop: int) -> LayerCapture:
        """The layer with the images start..stop-1; raises QexportError when their codes do not suit the formats."""
        return LayerCapture(
            **self._facts,
            **self._fixed,
            **self._read(dict.fromkeys(self._per_image, (start, stop))),
        )

    @property
    def _facts(self) -> dict[str, Any]:
        """What the metadata say."""
        return {name: getattr(self, name) for name in ("layer", "formats", "source", "steps", "ties", "departs")}

    def _read(self, spans: Mapping[str, tuple[int, int] | None]) -> dict[str, Any]:
        """The named tensors, whole or from one image to another."""
        try:
            with safe_open(str(self.path), framework="numpy") as file:
                return {
                    name: file.get_tensor(name) if span is None else file.get_slice(name)[span[0] : span[1]]
                    for name, span in spans.items()
                }
        except (SafetensorError, AttributeError, TypeError, ValueError, OSError) as error:
            raise QexportError(f"capture: {self.path} is not a readable safetensors file: {error}") from None


Capture = LayerCapture | CaptureFile


class CaptureWriter:
    """Writes a capture file image by image: safetensors, its tensors in that library's order, one metadata entry."""

    def __init__(
        self,
        file: BinaryIO,
        layer: Layer,
        formats: Formats,
        source: Source,
        shapes: Mapping[str, Shape],
        steps: tuple[Step, ...] | None = None,
        ties: Ties | None = None,
        departs: Departs | None = None,
    ):
        """`shapes`: of the tensors that there are, with all images."""
        documents, tables = write_steps(steps) if steps is not None else (None, {})
        metadata = msgspec.to_builtins(
            _Metadata(layer=layer, formats=formats, source=source, steps=documents, ties=ties, departs=departs)
        )
        known = {key: value for key, value in metadata.items() if value is not None}
        text = json.dumps(known, sort_keys=True, separators=(",", ":"))
        shapes = {**shapes, **{name: table.shape for name, table in tables.items()}}
        stored = _STORED | dict.fromkeys(tables, "<i8")
        header: dict[str, Any] = {"__metadata__": {METADATA_KEY: text}}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in sorted(shapes, key=lambda name: (_ORDER.index(stored[name]), name)):
            dtype = np.dtype(stored[name])
            begin, end = end, end + math.prod(shapes[name]) * dtype.itemsize
            kind = {"i": "I", "f": "F"}[dtype.kind]
            header[name] = {"dtype": f"{kind}{8 * dtype.itemsize}", "shape": shapes[name], "data_offsets": (begin, end)}
            self._offsets[name] = begin
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)
        self._file = file
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        self._data = 8 + len(encoded)
        self._next = 0  # the image that comes next
        for name, table in tables.items():
            file.seek(self._data + self._offsets.pop(name))
            file.write(np.ascontiguousarray(table, "<i8").tobytes())

    @classmethod
    def like(cls, capture: Capture, file: BinaryIO) -> "CaptureWriter":
        """A writer for the same layer and number of images."""
        return cls(
            file, capture.layer, capture.formats, capture.source, capture.shapes, capture.steps, capture.ties,
            capture.departs,
        )  # fmt: skip

    def add(self, part: LayerCapture) -> None:
        """Write the next images; what all images share comes with the first ones."""
        for name, offset in self._offsets.items():
            array = getattr(part, name)
            if not per_image(part.layer, name):
                if self._next:
                    continue
                at = offset
            else:
                at = offset + self._next * array[0].size * np.dtype(_STORED[name]).itemsize
            self._file.seek(self._data + at)
            self._file.write(np.ascontiguousarray(array, _STORED[name]).tobytes())
        self._next += part.images


_STORED = dict.fromkeys(("weight", "input", "input2", "reference_codes"), "<i4")
_STORED |= dict.fromkeys(("bias", "addend"), "<i8") | dict.fromkeys(REAL, "<f4")
_ORDER = ("<i8", "<f4", "<i4")  # safetensors' own: by type, then by name
_NONE = np.zeros(1, np.int64)


def check_names(layer: Layer, names: Collection[str]) -> None:
    """Raises QexportError where these are not the tensors that a capture of the layer has."""
    needed = [name for name in layer.holds if layer.needs(name)]
    may = [name for name in (*layer.holds, *OF_RESULTS) if name not in needed]
    if not set(needed) <= set(names) <= {*needed, *may}:
        raise QexportError(
            f"capture: layer {layer.name} ({layer.kind}) holds tensors {few(sorted(names))}; needs "
            f"{' and '.join(needed)}, may have {', '.join(may)}, and in its file {STEP_TENSOR}INDEX.FIELD"
        )


def tensor_shapes(layer: Layer, given: Mapping[str, Shape], steps: Sequence[Step] = ()) -> dict[str, Shape]:
    """The shapes that a capture's tensors must have; raises QexportError where the operands cannot be these."""
    shapes = layer.shapes(given)
    images, *sizes = shapes["accumulator"]
    behind = sizes_after(steps, Signal(layer.results, layer.channel, tuple(sizes), _NONE, _NONE))
    return shapes | dict.fromkeys(REAL, shapes["accumulator"]) | {"reference_codes": (images, *behind)}


def _unfolded_shape(layer: Layer, shape: Shape) -> Shape:
    """The shape in the set: linear layers may come without their planes and kernels of 1x1."""
    return (*shape, 1, 1) if layer.kind == "linear" and len(shape) == 2 else shape


def _unfolded(layer: Layer, array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(_unfolded_shape(layer, array.shape))


def _check_array(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None, wanted: tuple[int, ...], layer: Layer
) -> None:
    if shape != wanted:
        raise QexportError(
            f"capture: {name} has shape {shape_text(shape)}; the geometry of layer {layer.name} needs "
            f"{shape_text(wanted)}"
        )
    if dtype is not None and dtype.kind not in ("f" if name in REAL else "iu"):
        raise QexportError(
            f"capture: {name} has dtype {dtype}; needs {'a float' if name in REAL else 'an integer'} type"
        )


def _clean(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """A read-only, contiguous int64 or, on the grid of real values, float32 array."""
    if name in REAL:
        if not np.isfinite(array).all():
            raise QexportError(f"capture: {name} holds NaN or infinity; leave it out or write finite values")
        clean = (np.rint(array.astype(np.float64) * REAL_GRID) / REAL_GRID + 0.0).astype(np.float32)  # no -0.0
    else:
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise QexportError(f"capture: {name} code {array.max()} is outside {-(2**63)}..{2**63 - 1}")
        if array.dtype == np.int64 and array.flags.c_contiguous and not array.flags.writeable:
            return array
        clean = np.array(array, dtype=np.int64, order="C")
    clean.flags.writeable = False
    return clean


def _check_formats(layer: Layer, formats: Formats, shapes: Mapping[str, Shape]) -> None:
    wanted = [name for name, held in layer.holds.items() if held.codes and layer.needs(name)]
    if list(formats.operands) != wanted:
        raise QexportError(
            f"capture: formats has {few(formats.operands)}; layer {layer.name} ({layer.kind}) needs "
            f"{' and '.join(wanted)}"
        )
    if (formats.accumulator is not None) != (layer.kind == "sum"):
        what = "needs formats.accumulator.scale" if layer.kind == "sum" else "takes the product of its operands' scales"
        raise QexportError(f"capture: layer {layer.name} ({layer.kind}) {what}; correct formats")
    for what in ("scale", "zero_point"):
        values = getattr(formats.weight, what, None)
        if isinstance(values, tuple) and len(values) != shapes["weight"][0]:
            raise QexportError(
                f"capture: formats.weight has {len(values)} {what}s; layer {layer.name} has {shapes['weight'][0]} "
                "output channels"
            )
    first = (formats.input.table or (0,))[0]
    if first and any(getattr(layer, "padding", ())):
        raise QexportError(
            f"capture: a padded position holds code 0, which stands for {first} in formats.input.levels; "
            "order the levels so that 0 comes first, or take the padding out"
        )
    for step in formats.accumulator_scales:
        if not (step > 0 and np.isfinite(step * 2.0**62)):
            scales = " x ".join(f"{name} scale" for name in formats.operands)
            raise QexportError(f"capture: {scales} is {step:g}; sums cannot be compared in that unit")
    if layer.reach(shapes, {name: fmt.reach for name, fmt in formats.operands.items()}) >= 2**62 - ADDED:
        widths = " and ".join(f"{fmt.bits}-bit {name}s" for name, fmt in formats.operands.items())
        raise QexportError(f"capture: {widths} can give sums beyond 63 bits; use narrower formats")
