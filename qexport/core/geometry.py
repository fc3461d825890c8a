"""The kinds of layers: their fields, the tensors that a capture of each holds, and the shapes of these."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from qexport.core.budget import SIZE
from qexport.core.intformat import Int64
from qexport.errors import QexportError

Positive = Annotated[int, Meta(ge=1, le=SIZE)]
NotNegative = Annotated[int, Meta(ge=0, le=SIZE)]
Factor = Annotated[int, Meta(gt=-(1 << 31), lt=1 << 31)]


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """A tensor of a capture. `axes`: with n first where each image has its own; `codes`: it has an entry in formats,
    else it counts in accumulator units."""

    axes: tuple[str, ...]
    optional: bool = False
    codes: bool = True


class AnyLayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every kind of layer has. `holds`: the tensors of its captures, by name; `results`: the axes of its
    accumulator, `channel` the one along which lists of parameters run."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    index: NotNegative | None = None
    relu: bool = False

    holds: ClassVar[Mapping[str, Held]] = {}
    noun: ClassVar[str] = "convolution"
    results: ClassVar[tuple[str, ...]] = ("n", "oc", "oy", "ox")
    channel: ClassVar[str] = "oc"

    def __post_init__(self) -> None:
        if re.search("[\ud800-\udfff]", self.name):
            raise QexportError(f"layer {self.name!r}: its name has half a character (a lone surrogate); rename it")

    @property
    def kind(self) -> str:
        """The name of the layer's operation."""
        return str(self.__struct_config__.tag)

    @property
    def slug(self) -> str:
        """The name as a folder and an identifier: features.33 -> features_33."""
        slug = re.sub(r"\W", "_", self.name, flags=re.ASCII)
        return slug if slug[0].isalpha() else f"layer_{slug}"

    def shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes that a capture's tensors must have, from those of the operands that are given.

        `accumulator` is among them. Raises QexportError where the operands cannot be these.
        """
        raise NotImplementedError

    def reach(self, shapes: Mapping[str, Shape], operands: Mapping[str, int]) -> int:
        """What no sum of products is larger than, in size, from the largest sizes of what the operands' codes are."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """What is particular to the layer, in a few words."""
        return ""

    @property
    def size(self) -> str:
        """The same for a column of a table."""
        return self.text

    def needs(self, name: str) -> bool:
        """Whether a capture of this layer must have the tensor."""
        return name in self.holds and not self.holds[name].optional

    def _axes(self, given: Mapping[str, Shape], name: str) -> dict[str, int]:
        """The sizes of a tensor's axes by name."""
        axes, shape = self.holds[name].axes, given[name]
        if len(shape) != len(axes) or 0 in shape:
            raise QexportError(f"capture: {name} has shape {shape_text(shape)}; needs {' x '.join(axes)}, all above 0")
        return dict(zip(axes, shape, strict=True))


class ConvGeometry(AnyLayer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What convolutions and linear layers have in common. `padding` is top, bottom, left, right."""

    in_channels: Positive
    out_channels: Positive
    kernel: tuple[Positive, Positive]
    stride: tuple[Positive, Positive] = (1, 1)
    padding: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0, 0, 0, 0)
    dilation: tuple[Positive, Positive] = (1, 1)
    groups: Positive = 1

    holds: ClassVar = {
        "weight": Held(("oc", "ic", "kh", "kw")),
        "input": Held(("n", "ic", "iy", "ix")),
        "bias": Held(("oc",), optional=True, codes=False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise QexportError(f"layer {self.name}: {name} {channels} is not a multiple of groups {self.groups}")

    def shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        sizes = self._axes(given, "input")
        plane = sizes["iy"], sizes["ix"]
        return {
            "weight": (self.out_channels, self.group_inputs, *self.kernel),
            "input": (sizes["n"], self.in_channels, *plane),
            "bias": (self.out_channels,),
            "accumulator": (sizes["n"], self.out_channels, *self.output_plane(plane)),
        }

    def reach(self, shapes: Mapping[str, Shape], operands: Mapping[str, int]) -> int:
        return self.group_inputs * self.kernel[0] * self.kernel[1] * operands["weight"] * operands["input"]

    @property
    def text(self) -> str:
        return f"{self.in_channels} to {self.out_channels}, {self.kernel[0]}x{self.kernel[1]}"

    @property
    def size(self) -> str:
        return f"{self.in_channels}x{self.out_channels}"

    @property
    def group_inputs(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    def meets(self, axis: int, output: int | Int64, tap: int | Int64) -> Any:
        """Where, along an axis of the padded plane, the window of an output has a tap."""
        return output * self.stride[axis] + tap * self.dilation[axis]

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


class Conv2d(ConvGeometry, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="conv2d"):
    """One convolution."""


class Linear(ConvGeometry, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="linear"):
    """One linear layer: a convolution of 1x1 on planes of 1x1. Captures may give its tensors without the planes."""

    kernel: tuple[Positive, Positive] = (1, 1)

    def __post_init__(self) -> None:
        if (self.kernel, self.padding) != ((1, 1), (0, 0, 0, 0)):
            raise QexportError(
                f"layer {self.name}: a linear layer has kernel 1x1 without padding; correct it or the kind"
            )
        super().__post_init__()

    def shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        shapes = super().shapes(given)
        if (plane := given["input"][2:]) != (1, 1):
            raise QexportError(
                f"capture: linear layer {self.name} has an input plane of {shape_text(plane)}; needs 1 x 1, "
                "with positions as further images"
            )
        return shapes


class MatMul(AnyLayer, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="matmul"):
    """The product of two operands that are both data; its shapes follow from them."""

    noun: ClassVar = "matrix product"

    holds: ClassVar = {
        "input": Held(("n", "m", "k")),
        "input2": Held(("n", "k", "p")),
        "addend": Held(("n", "m", "p"), optional=True, codes=False),
    }
    results: ClassVar = ("n", "m", "p")
    channel: ClassVar = "p"

    def shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        left, right = self._axes(given, "input"), self._axes(given, "input2")
        out = left["n"], left["m"], right["p"]
        return {
            "input": given["input"],
            "input2": (left["n"], left["k"], right["p"]),
            "addend": out,
            "accumulator": out,
        }

    def reach(self, shapes: Mapping[str, Shape], operands: Mapping[str, int]) -> int:
        return shapes["input"][2] * operands["input"] * operands["input2"]


class Sum(AnyLayer, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sum"):
    """The sum of one operand or two, each times an integer of `mul`."""

    noun: ClassVar = "sum"

    mul: Annotated[tuple[Factor, ...], Meta(min_length=1, max_length=2)]

    holds: ClassVar = {
        "input": Held(("n", "ic", "iy", "ix")),
        "input2": Held(("n", "ic", "iy", "ix"), optional=True),
    }

    @property
    def text(self) -> str:
        return " and ".join(f"{mul} x {name}" for mul, name in zip(self.mul, self.holds, strict=False))

    def needs(self, name: str) -> bool:
        return name in tuple(self.holds)[: len(self.mul)]

    def shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        self._axes(given, "input")
        if ("input2" in given) != (len(self.mul) == 2):
            raise QexportError(
                f"capture: layer {self.name} has {len(self.mul)} factors mul and {1 + ('input2' in given)} operands; "
                "give a factor for each"
            )
        return dict.fromkeys((*self.holds, "accumulator"), given["input"])

    def reach(self, shapes: Mapping[str, Shape], operands: Mapping[str, int]) -> int:
        return sum(abs(mul) * operands[name] for mul, name in zip(self.mul, self.holds, strict=False))


Kind = Conv2d | Linear | MatMul | Sum
KINDS: Mapping[str, type[Kind]] = {str(kind.__struct_config__.tag): kind for kind in Kind.__args__}
if TYPE_CHECKING:  # most rooms serve convolutions alone, behind `require`; what serves every kind takes an AnyLayer
    Layer = Conv2d | Linear
else:
    Layer = Kind
RESERVED_KINDS = ("conv_transpose2d",)


def check_kind(layer: Any) -> None:
    """Raises QexportError where a JSON document of a layer has a kind that is not known, or what is reserved."""
    if not isinstance(layer, dict):
        return
    kind = layer.get("kind")
    if kind in RESERVED_KINDS:
        raise QexportError(f"layer kind: {kind} is reserved; choose {' or '.join(KINDS)} today")
    if not isinstance(kind, str) or kind not in KINDS:
        raise QexportError(f"layer kind: {kind!r} is not known; choose {' or '.join(KINDS)}")
    if "blocks" in layer:
        raise QexportError("layer: blocks is reserved; one scale serves the whole reduction today, leave it out")


def shape_text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "()"
