"""What integer codes stand for: bits, signedness, zero points, tables of levels, the standard minifloats; scales."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta

from qexport.core.intformat import Int64, IntFormat
from qexport.core.tensors import Range
from qexport.errors import QexportError

LEVELS_BITS = 16  # of codes that a table of levels is given for, at most
Level = Annotated[int, Meta(gt=-(1 << 31), lt=1 << 31)]
Minifloat = Literal["e2m1", "e3m2", "e2m3", "e4m3fn"]
MINIFLOATS: tuple[Minifloat, ...] = get_args(Minifloat)


@cache
def minifloat_levels(code: Minifloat) -> tuple[int | None, ...]:
    """What each code of a minifloat stands for, in units of its least number above 0; None: NaN."""
    exponents, mantissas = int(code[1]), int(code[3])
    sizes: list[int | None] = []
    for exponent in range(1 << exponents):
        for mantissa in range(1 << mantissas):
            sizes.append(((1 << mantissas) + mantissa) << (exponent - 1) if exponent else mantissa)
    if code.endswith("fn"):  # finite, and NaN where all bits are 1
        sizes[-1] = None
    return *sizes, *(None if size is None else -size for size in sizes)


class CodeFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How codes become real values: real = (code - zero_point) x scale. Of weights, both may be one value for each
    output channel.

    `levels`: the integers that the codes 0, 1, ... stand for, instead; `code`: those of a standard minifloat, in units
    of its least number above 0.
    """

    bits: Annotated[int, Meta(ge=1, le=32)]
    signed: bool
    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...] = 0
    levels: Annotated[tuple[Level, ...], Meta(min_length=1)] | None = None
    code: Minifloat | None = None

    def __post_init__(self) -> None:
        self._check_levels()
        if self.bits == 32 and not self.signed:
            raise QexportError("bits: 32 unsigned bits do not fit the capture's int32; use 31")
        for scale in self.scales:
            if not (np.isfinite(scale) and scale > 0):
                raise QexportError(f"scale: {scale} must be finite and above 0")
        for zero in self.zero_points:
            if not self.integer.holds(zero, zero):
                low, high = self.integer.low, self.integer.high
                raise QexportError(f"zero_point: {zero} is outside {low}..{high}; a zero point is one of the codes")

    def _check_levels(self) -> None:
        name = "levels" if self.code is None else "code"
        if self.levels is not None and self.code is not None:
            raise QexportError(f"levels: code {self.code} gives them already; leave one of the two out")
        if self.levels is None and self.code is None:
            return
        if self.signed or any(self.zero_points):
            raise QexportError(f"{name}: such codes are unsigned and have no zero point; correct signed and zero_point")
        if self.code is not None and self.bits != (needed := len(minifloat_levels(self.code)).bit_length() - 1):
            raise QexportError(f"code: {self.code} has {needed} bits, not {self.bits}; correct bits")
        if self.levels is not None and (self.bits > LEVELS_BITS or len(self.levels) > 1 << self.bits):
            raise QexportError(
                f"levels: {len(self.levels)} are given for {self.bits} bits; give one for each code, of up to "
                f"{LEVELS_BITS} bits"
            )

    @property
    def integer(self) -> IntFormat:
        return IntFormat(self.bits, self.signed)

    @property
    def table(self) -> tuple[int | None, ...] | None:
        """The integer that each code stands for, None: no integer; None where codes stand for themselves."""
        return self.levels if self.code is None else minifloat_levels(self.code)

    @property
    def plain(self) -> bool:
        """Whether every code stands for itself."""
        return self.table is None and not any(self.zero_points)

    def check(self, name: str, codes: Int64) -> None:
        """Raises QexportError for the first code of a tensor that the format does not have."""
        low, high = int(codes.min()), int(codes.max())
        fmt = self.integer
        if not fmt.holds(low, high):
            value = low if low < fmt.low else high
            raise QexportError(
                f"capture: {name} code {value} is outside {fmt.low}..{fmt.high} of its {fmt}; "
                f"correct the codes or formats.{name}"
            )
        if self.table is not None and len(bad := np.setdiff1d(codes, self.valid)):
            what = f"has {len(self.table)} levels" if self.code is None else f"is {self.code}, where it is NaN"
            raise QexportError(
                f"capture: {name} code {bad[0]} stands for no integer; formats.{name} {what}, correct one of them"
            )

    @property
    def valid(self) -> Int64:
        """All codes that stand for an integer, ascending."""
        if self.table is None:
            return np.arange(self.integer.low, self.integer.high + 1)
        return np.array([code for code, level in enumerate(self.table) if level is not None], np.int64)

    def integers(self, codes: Int64) -> Int64:
        """The integers in sums, before a zero point is taken off (same shape); 0 for codes that stand for none."""
        if self.table is None:
            return codes
        table = np.zeros(1 << self.bits, np.int64)
        table[: len(self.table)] = [level or 0 for level in self.table]
        out: Int64 = table[codes]
        return out

    @property
    def codes(self) -> Range:
        """The least and greatest code that stands for an integer."""
        return (self.integer.low, self.integer.high) if self.table is None else (0, int(self.valid[-1]))

    @property
    def ends(self) -> Range:
        """The least and greatest of `integers` for any code."""
        if self.table is None:
            return self.integer.low, self.integer.high
        levels = [level for level in self.table if level is not None]
        return min(levels), max(levels)

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
        """The largest size of what a code stands for, before and after its zero point is taken off."""
        low, high = self.ends
        return max(-low, high, *(max(zero - low, high - zero) for zero in self.zero_points))


class AccumulatorScale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What accumulator 1 stands for, where it does not follow from the operands."""

    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise QexportError(f"scale: {self.scale} must be finite and above 0")


def operand_formats(formats: Any) -> dict[str, CodeFormat]:
    """The formats of the operands that a layer has, by name, of what has an entry for each."""
    return {name: fmt for name in ("weight", "input", "input2") if (fmt := getattr(formats, name)) is not None}


class Formats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The formats of a layer's operands of codes, by the operand's name; `output`: of the codes that the next quantized
    layer receives, that is, of the last step's values; `accumulator`: its scale, where it is not the operands' product.

    `weight` is None where the kind of layer has none: who reads it serves kinds that have it.
    """

    weight: CodeFormat = None  # type: ignore[assignment]
    input: CodeFormat
    input2: CodeFormat | None = None
    accumulator: AccumulatorScale | None = None
    output: CodeFormat | None = None

    def __post_init__(self) -> None:
        for name, fmt in (("input", self.input), ("input2", self.input2), ("output", self.output)):
            for field in ("scale", "zero_point"):
                if fmt is not None and isinstance(getattr(fmt, field), tuple):
                    raise QexportError(
                        f"{name}: {field} must be one number; only weights may have one for each channel"
                    )
        if self.output is not None and self.output.table is not None:
            raise QexportError("output: codes that stand for levels are not written yet; leave output out")

    @property
    def operands(self) -> dict[str, CodeFormat]:
        """Those of the codes that go in, by the operand's name."""
        return operand_formats(self)

    @property
    def accumulator_scales(self) -> tuple[float, ...]:
        """Real value of accumulator 1: one, or one for each output channel."""
        if self.accumulator is not None:
            return (self.accumulator.scale,)
        other = self.weight or self.input2
        return self.input.scales if other is None else tuple(scale * self.input.scales[0] for scale in other.scales)
