"""The geometry of a convolution: channels, kernel, stride, padding, planes."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from qexport.core.budget import SIZE
from qexport.core.intformat import Int64
from qexport.errors import QexportError

Positive = Annotated[int, Meta(ge=1, le=SIZE)]
NotNegative = Annotated[int, Meta(ge=0, le=SIZE)]


class ConvGeometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What convolutions and linear layers have in common. `padding` is top, bottom, left, right."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    index: NotNegative | None = None
    in_channels: Positive
    out_channels: Positive
    kernel: tuple[Positive, Positive]
    stride: tuple[Positive, Positive] = (1, 1)
    padding: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0, 0, 0, 0)
    dilation: tuple[Positive, Positive] = (1, 1)
    groups: Positive = 1
    relu: bool = False

    def __post_init__(self) -> None:
        if re.search("[\ud800-\udfff]", self.name):
            raise QexportError(f"layer {self.name!r}: its name has half a character (a lone surrogate); rename it")
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise QexportError(f"layer {self.name}: {name} {channels} is no multiple of groups {self.groups}")

    @property
    def kind(self) -> str:
        """The name of the layer's operation."""
        return str(self.__struct_config__.tag)

    @property
    def group_inputs(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def slug(self) -> str:
        """The name as a folder and an identifier: features.33 -> features_33."""
        slug = re.sub(r"\W", "_", self.name, flags=re.ASCII)
        return slug if slug[0].isalpha() else f"layer_{slug}"

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
    """One linear layer: a convolution of 1x1 on planes of 1x1."""

    def __post_init__(self) -> None:
        if (self.kernel, self.padding) != ((1, 1), (0, 0, 0, 0)):
            raise QexportError(
                f"layer {self.name}: a linear layer has kernel 1x1 without padding; correct it or the kind"
            )
        super().__post_init__()


Layer = Conv2d | Linear
KINDS = {"conv2d": Conv2d, "linear": Linear}
