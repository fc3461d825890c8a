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
from qexport.core.geometry import KINDS, ConvGeometry, Layer, NotNegative
from qexport.core.intformat import Int64
from qexport.core.private import without_private
from qexport.core.steps import Signal, Step, read_steps, sizes_after, write_steps
from qexport.errors import QexportError, few

NotNegative64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Ties = tuple[tuple[NotNegative, int], ...]  # (channel, accumulator) pairs

METADATA_KEY = "qexport"
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
PER_IMAGE = ("input", *REAL, "reference_codes")
TENSORS = ("weight", "bias", *PER_IMAGE)
STEP_TENSOR = "steps."  # begins the name of a list that is too long for the metadata


@dataclass(frozen=True)
class LayerCapture:
    """One layer's codes. Arrays are made read-only, contiguous int64; the real-valued ones float32 on a 2^-20 grid.

    weight (oc, ic of one group, kh, kw); input (n, ic, iy, ix); bias (oc,) in accumulator units;
    reference (n, oc, oy, ox): the layer's real-valued output in PyTorch; next_input (same shape): what the next
    quantized layer receives. steps: what follows the accumulator; None where they follow from formats.output, or there
    are none. reference_codes (n, oc, oy, ox behind the steps): the framework's own codes, which may differ by 1 at
    `ties`, (channel, accumulator) pairs. departs: how often the steps differ from the network's own. Raises
    QexportError when shapes, formats and codes contradict each other.
    """

    layer: Layer
    formats: Formats
    weight: Int64
    input: Int64
    bias: Int64 | None = None
    reference: NDArray[np.float32] | None = None
    next_input: NDArray[np.float32] | None = None
    source: Source = field(default_factory=Source)
    reference_codes: Int64 | None = None
    steps: tuple[Step, ...] | None = None
    ties: Ties | None = None
    departs: Departs | None = None

    def __post_init__(self) -> None:
        _check_input_shape(self.input.shape)
        shapes = capture_shapes(self.layer, self.images, self.plane, self.steps or ())
        for name in TENSORS:
            array = getattr(self, name)
            if array is not None:
                _check_array(name, array.shape, array.dtype, shapes[name], self.layer)
                object.__setattr__(self, name, _clean(name, array))
        _check_formats(self.layer, self.formats)
        if self.layer.kind == "linear" and self.plane != (1, 1):
            raise QexportError(
                f"capture: linear layer {self.layer.name} has an input plane of {_shape(self.plane)}; needs 1 x 1, "
                "with positions as further images"
            )
        for name, fmt in (("weight", self.formats.weight.integer), ("input", self.formats.input.integer)):
            codes: Int64 = getattr(self, name)
            low, high = int(codes.min()), int(codes.max())
            if not fmt.holds(low, high):
                value = low if low < fmt.low else high
                raise QexportError(
                    f"capture: {name} code {value} is outside {fmt.low}..{fmt.high} of its {fmt}; "
                    f"correct the codes or formats.{name}"
                )
        if self.bias is not None:
            furthest = max(map(int, (self.bias.min(), self.bias.max())), key=abs)
            if abs(furthest) >= 2**47:
                raise QexportError(f"capture: bias {furthest} is not below 2^47 in size")
        if self.steps is not None and self.next_input is not None:
            raise QexportError("capture: next_input stands beside steps; write reference_codes, or leave one out")
        if self.reference_codes is not None and self.steps is None and self.formats.output is None:
            raise QexportError("capture: reference_codes stand without steps and formats.output; write one of those")
        for channel, _ in self.ties or ():
            if channel >= self.layer.out_channels:
                raise QexportError(f"capture: ties name channel {channel} of {self.layer.out_channels}; correct them")

    @property
    def images(self) -> int:
        return len(self.input)

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
        parts = {name: getattr(self, name)[start:stop] for name in PER_IMAGE if getattr(self, name) is not None}
        return replace(self, **parts)

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
        kind = layer.setdefault("kind", "conv2d")
        if not isinstance(kind, str) or kind not in KINDS:
            raise QexportError(f"layer kind: {kind!r} is not known; choose {' or '.join(KINDS)}")
    return msgspec.convert(document, _Metadata)


class CaptureFile:
    """A capture file of which images are read when they are asked for, so that memory does not grow with their number.

    Raises QexportError naming what is wrong with the file.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise QexportError(f"capture: {path} does not exist or is no file")
        self.path = path
        check_header(path, "capture")
        try:
            with safe_open(str(path), framework="numpy") as file:
                names = set(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                entries = file.metadata() or {}
        except (SafetensorError, AttributeError, TypeError, ValueError, OSError) as error:
            raise QexportError(f"capture: {path} is no readable safetensors file: {error}") from None
        if set(entries) != {METADATA_KEY}:
            raise QexportError(
                f"capture: {path} has metadata entries {few(sorted(entries))}; needs '{METADATA_KEY}' alone, with "
                "layer, formats and source (docs/vectors.md)"
            )
        of_steps = sorted(name for name in names if name.startswith(STEP_TENSOR))
        names -= set(of_steps)
        if names - set(TENSORS) or not {"weight", "input"} <= names:
            raise QexportError(
                f"capture: {path} holds tensors {few(sorted(names))}; needs weight and input, may have "
                f"{', '.join(name for name in TENSORS if name not in ('weight', 'input'))}, {STEP_TENSOR}INDEX.FIELD"
            )
        try:
            metadata = _read_metadata(without_private(json.loads(entries[METADATA_KEY])))
        except (ValueError, RecursionError) as error:
            raise QexportError(f"capture: {path}: metadata '{METADATA_KEY}': {error}") from None
        self.layer, self.formats, self.source = metadata.layer, metadata.formats, metadata.source
        self.ties, self.departs = metadata.ties, metadata.departs
        for name in of_steps:
            if math.prod(shapes[name]) > STEP_ELEMENTS:
                raise QexportError(f"capture: {path}: {name} has more than {STEP_ELEMENTS:,} numbers; shorten it")
        self.steps: tuple[Step, ...] | None = None
        if metadata.steps is not None:
            try:
                self.steps = read_steps(metadata.steps, self._read(dict.fromkeys(of_steps)))
            except QexportError as error:
                raise QexportError(f"capture: {path}: steps: {error}") from None
        elif of_steps:
            raise QexportError(f"capture: {path} holds {of_steps[0]}, but no steps; write them in its metadata")
        _check_input_shape(shapes["input"])
        for name, shape in (("weight", shapes["weight"]), ("an image of input", shapes["input"][1:])):
            if math.prod(shape) > CAPTURE_ELEMENTS:
                raise QexportError(
                    f"capture: {path}: {name} has {math.prod(shape):,} codes, more than {CAPTURE_ELEMENTS:,}; "
                    "take a part of the layer"
                )
        self.images: int = shapes["input"][0]
        self.plane: tuple[int, int] = (shapes["input"][2], shapes["input"][3])
        self._per_image = [name for name in PER_IMAGE if name in names]
        self.has_codes = "reference_codes" in names
        wanted = capture_shapes(self.layer, self.images, self.plane, self.steps or ())
        for name in sorted(names):
            if shapes[name] != wanted[name]:
                _check_array(name, shapes[name], None, wanted[name], self.layer)
        first = self._read(dict.fromkeys(names - set(PER_IMAGE)) | dict.fromkeys(self._per_image, (0, 1)))
        checked = LayerCapture(**self._facts, **first)
        self.weight, self.bias = checked.weight, checked.bias

    def part(self, start: int, stop: int) -> LayerCapture:
        """The layer with the images start..stop-1; raises QexportError when their codes do not suit the formats."""
        return LayerCapture(
            **self._facts,
            weight=self.weight,
            bias=self.bias,
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
            raise QexportError(f"capture: {self.path} is no readable safetensors file: {error}") from None


Capture = LayerCapture | CaptureFile


class CaptureWriter:
    """Writes a capture file image by image: safetensors, its tensors in that library's order, one metadata entry."""

    def __init__(
        self,
        file: BinaryIO,
        layer: Layer,
        formats: Formats,
        source: Source,
        images: int,
        plane: tuple[int, int],
        optional: Collection[str],
        steps: tuple[Step, ...] | None = None,
        ties: Ties | None = None,
        departs: Departs | None = None,
    ):
        """`optional`: which of bias, reference, next_input and reference_codes there are."""
        documents, tables = write_steps(steps) if steps is not None else (None, {})
        metadata = msgspec.to_builtins(
            _Metadata(layer=layer, formats=formats, source=source, steps=documents, ties=ties, departs=departs)
        )
        known = {key: value for key, value in metadata.items() if value is not None}
        text = json.dumps(known, sort_keys=True, separators=(",", ":"))
        shapes: dict[str, tuple[int, ...]] = capture_shapes(layer, images, plane, steps or ())
        shapes |= {name: table.shape for name, table in tables.items()}
        stored = _STORED | dict.fromkeys(tables, "<i8")
        header: dict[str, Any] = {"__metadata__": {METADATA_KEY: text}}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in sorted(
            {"weight", "input", *optional, *tables}, key=lambda name: (_ORDER.index(stored[name]), name)
        ):
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
        first = capture.part(0, 1)
        optional = [name for name in ("bias", *REAL, "reference_codes") if getattr(first, name) is not None]
        return cls(
            file, capture.layer, capture.formats, capture.source, capture.images, capture.plane, optional,
            capture.steps, capture.ties, capture.departs,
        )  # fmt: skip

    def add(self, part: LayerCapture) -> None:
        """Write the next images; weights and bias come with the first ones."""
        for name, offset in self._offsets.items():
            array = getattr(part, name)
            if name not in PER_IMAGE:
                if self._next:
                    continue
                at = offset
            else:
                at = offset + self._next * array[0].size * np.dtype(_STORED[name]).itemsize
            self._file.seek(self._data + at)
            self._file.write(np.ascontiguousarray(array, _STORED[name]).tobytes())
        self._next += part.images


_STORED = {
    "weight": "<i4", "input": "<i4", "bias": "<i8", "reference": "<f4", "next_input": "<f4", "reference_codes": "<i4"
}  # fmt: skip
_ORDER = ("<i8", "<f4", "<i4")  # safetensors' own: by type, then by name


def capture_shapes(
    layer: ConvGeometry, images: int, plane: tuple[int, int], steps: Sequence[Step] = ()
) -> dict[str, tuple[int, ...]]:
    """The shapes of a capture's tensors."""
    sizes = (layer.out_channels, *layer.output_plane(plane))
    out = (images, *sizes)
    return {
        "weight": (layer.out_channels, layer.group_inputs, *layer.kernel),
        "input": (images, layer.in_channels, *plane),
        "bias": (layer.out_channels,),
        "reference": out,
        "next_input": out,
        "reference_codes": (images, *sizes_after(steps, Signal(("n", "oc", "oy", "ox"), "oc", sizes, NONE, NONE))),
    }


NONE = np.zeros(1, np.int64)


def _check_input_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or 0 in shape:
        raise QexportError(f"capture: input has shape {_shape(shape)}; needs n x ic x iy x ix, all above 0")


def _check_array(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None, wanted: tuple[int, ...], layer: ConvGeometry
) -> None:
    if shape != wanted:
        raise QexportError(
            f"capture: {name} has shape {_shape(shape)}; the geometry of layer {layer.name} needs {_shape(wanted)}"
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


def _check_formats(layer: ConvGeometry, formats: Formats) -> None:
    for what in ("scale", "zero_point"):
        values = getattr(formats.weight, what)
        if isinstance(values, tuple) and len(values) != layer.out_channels:
            raise QexportError(
                f"capture: formats.weight has {len(values)} {what}s; layer {layer.name} has {layer.out_channels} "
                "output channels"
            )
    for step in formats.accumulator_scales:
        if not (step > 0 and np.isfinite(step * 2.0**62)):
            raise QexportError(f"capture: weight scale x input scale is {step:g}; sums cannot be compared in that unit")
    reach = [fmt.reach for fmt in (formats.weight, formats.input)]
    taps = layer.group_inputs * layer.kernel[0] * layer.kernel[1]
    if taps * reach[0] * reach[1] >= 2**62:
        raise QexportError(
            f"capture: {formats.weight.bits}-bit weights and {formats.input.bits}-bit inputs can give "
            "sums beyond 63 bits; use narrower formats"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
