"""What a named tensor of an operation is: one record of the operation's table says all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from qexport.core.intformat import Int64, IntFormat

Range = tuple[int, int]
SUM_BITS = 16  # least default width of what has no format of its own
BIAS_BITS = 32  # and of what is added to sums


class Values(Protocol):
    """The elements of some images: the codes that go in, and every tensor that follows from them."""

    @property
    def input(self) -> Int64: ...

    def codes(self, name: str) -> Int64: ...

    def values(self, name: str) -> Int64: ...


class Role(Enum):
    """What a tensor is to the design under test."""

    OPERAND = "goes in"
    RESULT = "comes out"
    ASIDE = "stands beside, such as a table of addresses"


def _no(operation: Any) -> None:
    return None


def _none(operation: Any) -> int:
    return 0


@dataclass(frozen=True)
class Record:
    """One line of an operation's table of tensors; its functions take the operation of one layer.

    `shape`: of the tensor for a number of images. `format`: of its elements where a layout gives none. `range`: the
    least and greatest element for any input; None: that of the elements that there are. `values`: the elements, from
    the golden of some images. `lacking`: why this layer does not have it; None where it does. `operand`: what it
    carries into the design, where several tensors carry the same; `kept`: the golden computes it once; `fill`: what
    stands in ragged tiles.
    """

    axes: tuple[str, ...]
    role: Role
    shape: Callable[[Any, int], tuple[int, ...]]
    format: Callable[[Any], IntFormat]
    values: Callable[[Any, Values], Int64]
    range: Callable[[Any], Range | None] = _no
    fill: Callable[[Any], int] = _none
    lacking: Callable[[Any], str | None] = _no
    operand: str = ""
    kept: bool = False


@dataclass(frozen=True)
class Tensor:
    """A named tensor of one layer: shape without the images counted, format, proven range."""

    name: str
    record: Record
    operation: Any

    @property
    def axes(self) -> tuple[str, ...]:
        return self.record.axes

    def shape(self, images: int) -> tuple[int, ...]:
        """The shape, axes as in the contract."""
        return self.record.shape(self.operation, images)

    @property
    def format(self) -> IntFormat:
        """The format of an element where a layout gives none."""
        return self.record.format(self.operation)

    @property
    def range(self) -> Range | None:
        """The least and greatest element for any input; None: that of the elements that there are."""
        return self.record.range(self.operation)

    @property
    def fill(self) -> int:
        """What stands in ragged tiles."""
        return self.record.fill(self.operation)


def wide(bounds: Range, least: int = SUM_BITS) -> IntFormat:
    """The default of a tensor without a format of its own: signed, whole bytes that hold the bounds."""
    bits = IntFormat.holding(*bounds, signed=True).bits
    return IntFormat(max(least, -(-bits // 8) * 8), True)
