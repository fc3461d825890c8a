"""How integer codes become real values: bits, signedness, scales."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from qexport.core.intformat import IntFormat
from qexport.errors import QexportError

MAX_OUTPUT_BITS = 16  # every edge between two codes is looked at


class CodeFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How codes become real values: real = code x scale. `scale` may give one value for each output channel."""

    bits: Annotated[int, Meta(ge=1, le=32)]
    signed: bool
    scale: float | tuple[float, ...]
    zero_point: int = 0

    def __post_init__(self) -> None:
        if self.bits == 32 and not self.signed:
            raise QexportError("bits: 32 unsigned bits do not fit the capture's int32; use 31")
        for scale in self.scales:
            if not (np.isfinite(scale) and scale > 0):
                raise QexportError(f"scale: {scale} must be finite and above 0")
        if self.zero_point != 0:
            raise QexportError(
                f"zero_point: {self.zero_point} is not supported; qexport reads real = code x scale; "
                "shift the codes to zero_point 0"
            )

    @property
    def integer(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)

    @property
    def scales(self) -> tuple[float, ...]:
        """One scale, or one for each output channel."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)


class Formats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The formats of a layer's weight and input codes; `output`: of the codes that the next quantized layer receives,
    where only a ReLU lies between."""

    weight: CodeFormat
    input: CodeFormat
    output: CodeFormat | None = None

    def __post_init__(self) -> None:
        for name, fmt in (("input", self.input), ("output", self.output)):
            if fmt is not None and isinstance(fmt.scale, tuple):
                raise QexportError(f"{name}: scale must be one number; only weights may have one for each channel")
        if self.output is not None and self.output.bits > MAX_OUTPUT_BITS:
            raise QexportError(f"output: {self.output.bits} bits are more than {MAX_OUTPUT_BITS}; leave output out")
        if self.output is not None and self.output.signed:
            raise QexportError("output: codes behind a ReLU are unsigned; write signed = false, or leave output out")

    @property
    def steps(self) -> tuple[float, ...]:
        """Real value of accumulator 1: one, or one for each output channel."""
        return tuple(scale * self.input.scales[0] for scale in self.weight.scales)
