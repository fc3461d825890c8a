"""One memory of a layout: what is stored of a tensor, in which words and files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError
from qexport.layout.formats.base import PLAIN, Format, Style, WordSpec
from qexport.layout.formats.listings import c_type_fault
from qexport.layout.formats.registry import FORMATS, format_of
from qexport.layout.order import Order, parse_order
from qexport.layout.tiling import Tiling, describe_index, expand_bits, tensor_index

OVERFLOWS = ("error", "wrap", "saturate")


# --- memories and layouts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """One memory of a layout; `bits` and `signed` are None where the tensor's own apply.

    `first`: what the file indices in names start from, for all or by name. `follows`: the memory in whose files, behind
    its words, those of this one stand.
    """

    name: str
    tensor: str
    order: Order
    file: str
    radix: str
    bits: int | None = None
    signed: bool | None = None
    offset: int = 0
    overflow: str = "error"
    header: tuple[str, ...] = ()
    optional: bool = False
    first: int | Mapping[str, int] = 0
    follows: str = ""
    style: Style = PLAIN

    @property
    def format(self) -> Format:
        return format_of(self.radix, self.style)

    @property
    def unusual(self) -> dict[str, object]:
        """The keys of names, places and style that are not at their defaults."""
        keys = {"first": self.first, "follows": self.follows, "skew": self.order.skew, "skew_by": self.order.skew_by}
        plain = {"first": 0, "follows": "", "skew": "", "skew_by": 1, **vars(PLAIN)}
        return {key: value for key, value in (keys | vars(self.style)).items() if value != plain[key]}

    def with_axes(self, axes: tuple[str, ...]) -> "Memory":
        """The memory with these axes of its tensor; raises OrderFault where its order does not have them."""
        order = parse_order(self.order.text, self.tensor, axes)
        return replace(self, order=order.skewed(self.order.skew, self.order.skew_by) if self.order.skew else order)

    def element_format(self, own: IntFormat) -> IntFormat:
        """The format of a stored element, `own` being the tensor's."""
        own = IntFormat(1, False) if self.order.has_bits else own
        return IntFormat(
            own.bits if self.bits is None else self.bits, own.signed if self.signed is None else self.signed
        )

    def elements(self, codes: Int64, own: IntFormat, first_image: int = 0) -> Int64:
        """The tensor (of the images from `first_image` on) as the order sees it: single bits for the axis `bit`."""
        if not self.order.has_bits:
            return codes
        bad = (codes < own.low) | (codes > own.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = describe_index(tensor_index(self.order, at, first_image))
            raise QexportError(
                f"memory '{self.name}': {int(codes[at])} at {index} does not fit {own}; "
                "take the axis 'bit' out of the order"
            )
        return expand_bits(codes, own)

    def stored(self, blocks: Int64, fmt: IntFormat, tiling: Tiling, reach: tuple[int, int] | None) -> Int64:
        """overflow(code + offset) of tiled elements; raises QexportError when overflow = error and one does not fit.

        The error advises bits that hold `reach` too, the least and greatest element that there may be elsewhere.
        """
        shifted = blocks + self.offset
        if self.overflow == "wrap":
            return fmt.wrap(shifted)
        if self.overflow == "saturate":
            return fmt.saturate(shifted)
        bad = (shifted < fmt.low) | (shifted > fmt.high)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            least, greatest = reach or (0, 0)
            low = min(int(blocks.min()), least) + self.offset
            high = max(int(blocks.max()), greatest) + self.offset
            bits = IntFormat.holding(low, high, fmt.signed or low < 0).bits
            index = describe_index(tiling.origin(*map(int, at)))
            raise QexportError(
                f"memory '{self.name}': {int(shifted[at])} at {index} does not fit {fmt}; "
                f"give it bits = {bits}{' and signed = true' if low < 0 and not fmt.signed else ''}, "
                "or overflow = 'wrap' or 'saturate'; `qexport layout show NAME --toml` prints a preset to start from"
            )
        return shifted

    def spec(self, tiling: Tiling, element: IntFormat, index: Mapping[str, int]) -> WordSpec:
        """What the words of the file with this index are.

        Raises QexportError when the radix holds no words of this width.
        """
        name = "_".join([self.name, *(f"{item.name}{index[item.name]}" for item in self.order.files)])
        spec = WordSpec(tiling.lanes, element, self.header, verilog_name(name), self.style)
        limit = FORMATS[self.radix].max_word_bits
        if limit is not None and spec.word_bits > limit:
            raise QexportError(
                f"memory '{self.name}': a word has {tiling.lanes} x {element.bits} = {spec.word_bits} bits, but radix "
                f"'{self.radix}' holds {limit} at most; put fewer lanes into a word or choose another radix"
            )
        if why := c_type_fault(spec):
            raise QexportError(f"memory '{self.name}': type {why}; choose a wider type or leave it out")
        return spec

    def paths(self, tiling: Tiling) -> list[tuple[str, dict[str, int]]]:
        """The files in C order of the file axes: path and index."""
        fields = re.findall(r"{(\w+)}", self.file)
        first = dict.fromkeys(fields, self.first) if isinstance(self.first, int) else self.first
        named = [{name: value + first.get(name, 0) for name, value in index.items()} for index in tiling.file_indices()]
        return [(self.file.format(**shown), index) for shown, index in zip(named, tiling.file_indices(), strict=True)]


@dataclass(frozen=True)
class Layout:
    """A layout file: sizes by axis name, memories, and the SHA-256 of its text."""

    name: str
    array: Mapping[str, int]
    memories: tuple[Memory, ...]
    sha256: str = field(compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


class _Sharing(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def follows(self) -> str: ...


Sharing = TypeVar("Sharing", bound=_Sharing)


def sharing(memories: Sequence[Sharing]) -> dict[str, list[Sharing]]:
    """By name of each memory all those that stand in its files, in order; raises QexportError where it follows none."""
    groups: dict[str, list[Sharing]] = {}
    for memory in memories:
        if memory.follows and memory.follows not in groups:
            raise QexportError(f"memory '{memory.name}': follows '{memory.follows}', which is not a memory before it")
        groups[memory.name] = groups[memory.follows] if memory.follows else []
        groups[memory.name].append(memory)
    return groups


def verilog_name(name: str) -> str:
    """A memory's name as Verilog takes it; its constants begin with the same in upper case."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
