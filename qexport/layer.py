"""The integer facts of one layer: its geometry, its number formats and its captured codes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from qexport.errors import QexportError
from qexport.intformat import Int64, IntFormat

METADATA_KEY = "qexport"
REAL_GRID = 2**20  # real-valued tensors are stored as multiples of 1/REAL_GRID

# The named tensors and their axes, in order.
AXES: Mapping[str, tuple[str, ...]] = {
    "weight": ("oc", "ic", "kh", "kw"),
    "bias": ("oc",),
    "input": ("n", "ic", "iy", "ix"),
    "input_padded": ("n", "ic", "py", "px"),
    "patches": ("n", "ic", "kh", "kw", "oy", "ox"),
    "psum": ("n", "it", "kh", "kw", "oc", "py", "px"),
    "acc_address": ("oy", "ox", "kh", "kw"),
    "accumulator": ("n", "oc", "oy", "ox"),
    "relu": ("n", "oc", "oy", "ox"),
    "output": ("n", "oc", "oy", "ox"),
}

MAX_SIZE = 2**20  # of a channel count, a plane, a tile: far beyond any layer, far below what breaks arithmetic
Positive = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
NotNegative = Annotated[int, Meta(ge=0, le=MAX_SIZE)]


class ConvGeometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One convolution (or linear layer: 1x1 everywhere). `padding` is top, bottom, left, right."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    index: NotNegative | None = None
    kind: str = "conv2d"
    in_channels: Positive
    out_channels: Positive
    kernel: tuple[Positive, Positive]
    stride: tuple[Positive, Positive] = (1, 1)
    padding: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0, 0, 0, 0)
    dilation: tuple[Positive, Positive] = (1, 1)
    groups: Positive = 1
    relu: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("conv2d", "linear"):
            raise QexportError(f"layer kind: '{self.kind}' is not known; choose conv2d or linear")
        if self.kind == "linear" and (self.kernel, self.padding) != ((1, 1), (0, 0, 0, 0)):
            raise QexportError(
                f"layer {self.name}: a linear layer has kernel 1x1 without padding; correct it or the kind"
            )
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise QexportError(f"layer {self.name}: {name} {channels} is no multiple of groups {self.groups}")

    @property
    def group_inputs(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def slug(self) -> str:
        """The name as a folder and an identifier: features.33 -> features_33."""
        slug = re.sub(r"\W", "_", self.name, flags=re.ASCII)
        return slug if slug[0].isalpha() else f"layer_{slug}"

    def padded_plane(self, plane: tuple[int, int]) -> tuple[int, int]:
        """(iy, ix) sizes to (py, px) sizes."""
        top, bottom, left, right = self.padding
        return plane[0] + top + bottom, plane[1] + left + right

    def output_plane(self, plane: tuple[int, int]) -> tuple[int, int]:
        """(iy, ix) sizes to (oy, ox) sizes; raises QexportError when the kernel is larger than the padded plane."""
        padded = self.padded_plane(plane)
        sizes = [
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, dilation, kernel, stride in zip(padded, self.dilation, self.kernel, self.stride, strict=True)
        ]
        if min(sizes) < 1:
            raise QexportError(
                f"layer {self.name}: kernel {self.kernel[0]}x{self.kernel[1]} with dilation {self.dilation[0]}x"
                f"{self.dilation[1]} is larger than the padded input {padded[0]}x{padded[1]}"
            )
        return sizes[0], sizes[1]


class CodeFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How codes become real values: real = code x scale."""

    bits: Annotated[int, Meta(ge=1, le=32)]
    signed: bool
    scale: float

    def __post_init__(self) -> None:
        if self.bits == 32 and not self.signed:
            raise QexportError("bits: 32 unsigned bits do not fit the capture's int32; use 31")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise QexportError(f"scale: {self.scale} must be finite and above 0")

    @property
    def integer(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)


class Formats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The formats of a layer's weight and input codes."""

    weight: CodeFormat
    input: CodeFormat


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the codes came from; all entries may be unknown (null)."""

    checkpoint_sha256: str | None = None
    data_sha256: str | None = None
    images: tuple[int, ...] | None = None
    seed: int | None = None
    stimulus: str | None = None


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    layer: ConvGeometry
    formats: Formats
    source: Source = Source()


@dataclass(frozen=True)
class LayerCapture:
    """One layer's codes. Arrays are made read-only, contiguous int64; the real-valued ones float32 on a 2^-20 grid.

    weight (oc, ic of one group, kh, kw); input (n, ic, iy, ix); bias (oc,) in accumulator units;
    reference (n, oc, oy, ox): the layer's real-valued output in PyTorch; next_input (same shape): what the next
    quantized layer receives. Raises QexportError when shapes, formats and codes contradict each other.
    """

    layer: ConvGeometry
    formats: Formats
    weight: Int64
    input: Int64
    bias: Int64 | None = None
    reference: NDArray[np.float32] | None = None
    next_input: NDArray[np.float32] | None = None
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        g = self.layer
        if self.input.ndim != 4 or 0 in self.input.shape:
            raise QexportError(f"capture: input has shape {_shape(self.input)}; needs n x ic x iy x ix, all above 0")
        n, _, iy, ix = self.input.shape
        out = (n, g.out_channels, *g.output_plane((iy, ix)))
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (g.out_channels, g.group_inputs, *g.kernel),
            "input": (n, g.in_channels, iy, ix),
            "bias": (g.out_channels,),
            "reference": out,
            "next_input": out,
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != shape:
                raise QexportError(
                    f"capture: {name} has shape {_shape(array)}; the geometry of layer {g.name} needs "
                    f"{' x '.join(map(str, shape))}"
                )
            kind = "f" if name in ("reference", "next_input") else "iu"
            if array.dtype.kind not in kind:
                raise QexportError(
                    f"capture: {name} has dtype {array.dtype}; needs {'a float' if kind == 'f' else 'an integer'} type"
                )
            if kind == "f":
                if not np.isfinite(array).all():
                    raise QexportError(f"capture: {name} holds NaN or infinity; leave it out or write finite values")
                clean = (np.rint(array.astype(np.float64) * REAL_GRID) / REAL_GRID + 0.0).astype(np.float32)  # no -0.0
            else:
                if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
                    raise QexportError(f"capture: {name} code {array.max()} is outside {-(2**63)}..{2**63 - 1}")
                clean = np.array(array, dtype=np.int64, order="C")
            clean.flags.writeable = False
            object.__setattr__(self, name, clean)
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
        step = self.formats.weight.scale * self.formats.input.scale
        if not (step > 0 and np.isfinite(step * 2.0**62)):
            raise QexportError(f"capture: weight scale x input scale is {step:g}; sums cannot be compared in that unit")
        reach = [max(abs(fmt.integer.low), fmt.integer.high) for fmt in (self.formats.weight, self.formats.input)]
        if self.weight[0].size * reach[0] * reach[1] >= 2**62:
            raise QexportError(
                f"capture: {self.formats.weight.bits}-bit weights and {self.formats.input.bits}-bit inputs can give "
                "sums beyond 63 bits; use narrower formats"
            )

    def to_bytes(self) -> bytes:
        """The capture file: safetensors with one metadata entry; the same capture gives the same bytes."""
        tensors: dict[str, NDArray[Any]] = {
            "weight": self.weight.astype(np.int32),
            "input": self.input.astype(np.int32),
        }
        for name in ("bias", "reference", "next_input"):
            array = getattr(self, name)
            if array is not None:
                tensors[name] = np.ascontiguousarray(array)
        metadata = _Metadata(layer=self.layer, formats=self.formats, source=self.source)
        text = json.dumps(msgspec.to_builtins(metadata), sort_keys=True, separators=(",", ":"))
        return save(tensors, metadata={METADATA_KEY: text})

    @classmethod
    def load(cls, path: Path) -> "LayerCapture":
        """Read a capture file; raises QexportError naming what is wrong with it."""
        if not path.is_file():
            raise QexportError(f"capture: {path} does not exist or is no file")
        try:
            with safe_open(str(path), framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
                entries = file.metadata() or {}
        except (SafetensorError, AttributeError, TypeError, ValueError, OSError) as error:
            raise QexportError(f"capture: {path} is no readable safetensors file: {error}") from None
        if set(entries) != {METADATA_KEY}:
            found = ", ".join(sorted(entries)) or "none"
            raise QexportError(
                f"capture: {path} has metadata entries {found}; needs '{METADATA_KEY}' alone, with layer, formats and "
                "source (docs/vectors.md)"
            )
        unknown = set(tensors) - {"weight", "input", "bias", "reference", "next_input"}
        if unknown or not {"weight", "input"} <= set(tensors):
            found = ", ".join(sorted(tensors)) or "none"
            raise QexportError(
                f"capture: {path} holds tensors {found}; needs weight and input, may have bias, reference, next_input"
            )
        try:
            metadata = msgspec.convert(json.loads(entries[METADATA_KEY]), _Metadata)
        except (ValueError, RecursionError) as error:
            raise QexportError(f"capture: {path}: metadata '{METADATA_KEY}': {error}") from None
        return cls(layer=metadata.layer, formats=metadata.formats, source=metadata.source, **tensors)


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "()"
