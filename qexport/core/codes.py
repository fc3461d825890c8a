"""How integer codes become real values: bits, signedness, scales."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from qexport.core.intformat import IntFormat
from qexport.errors import QexportError


class CodeFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How codes become real values: real = (code - zero_point) x scale. Of weights, both may be one value for each
    output channel."""

    bits: Annotated[int, Meta(ge=1, le=32)]
    signed: bool
    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if self.bits == 32 and not self.signed:
            raise QexportError("bits: 32 unsigned bits do not fit the capture's int32; use 31")
        for scale in self.scales:
            if not (np.isfinite(scale) and scale > 0):
                raise QexportError(f"scale: {scale} must be finite and above 0")
        for zero in self.zero_points:
            if not self.integer.holds(zero, zero):
                low, high = self.integer.low, self.integer.high
                raise QexportError(f"zero_point: {zero} is outside {low}..{high}; a zero point is one of the codes")

    @property
    def integer(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)

    @property
    def scales(self) -> tuple[float, ...]:
        """One scale, or one for each output channel."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)

    @property
    def zero_points(self) -> tuple[int, ...]:
        """One zero point, or one for each output channel."""
        return self.zero_point if isinstance(self.zero_point, tuple) else (self.zero_point,)

    def of_channels(self, channels: Sequence[int]) -> "CodeFormat":
        """The format of these output channels alone."""
        scale = tuple(self.scale[oc] for oc in channels) if isinstance(self.scale, tuple) else self.scale
        zeros = tuple(self.zero_point[oc] for oc in channels) if isinstance(self.zero_point, tuple) else self.zero_point
        return msgspec.structs.replace(self, scale=scale, zero_point=zeros)

    @property
    def reach(self) -> int:
        """The largest size of a code, and of a code less its zero point."""
        low, high = self.integer.low, self.integer.high
        return max(-low, high, *(max(zero - low, high - zero) for zero in self.zero_points))


def have_zero_points(*formats: CodeFormat) -> bool:
    """Whether codes stand for other integers than themselves."""
    return any(zero for fmt in formats for zero in fmt.zero_points)


class Formats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The formats of a layer's weight and input codes; `output`: of the codes that the next quantized layer receives,
    that is, of the last step's values."""

    weight: CodeFormat
    input: CodeFormat
    output: CodeFormat | None = None

    def __post_init__(self) -> None:
        for name, fmt in (("input", self.input), ("output", self.output)):
            for field in ("scale", "zero_point"):
                if fmt is not None and isinstance(getattr(fmt, field), tuple):
                    raise QexportError(
                        f"{name}: {field} must be one number; only weights may have one for each channel"
                    )

    @property
    def accumulator_scales(self) -> tuple[float, ...]:
        """Real value of accumulator 1: one, or one for each output channel."""
        return tuple(scale * self.input.scales[0] for scale in self.weight.scales)
