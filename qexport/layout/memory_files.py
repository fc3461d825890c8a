"""A memory's files, image by image: which words of which file a part of the images gives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from qexport.core.budget import ELEMENTS, FILES
from qexport.core.capture import TENSORS as CAPTURED
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import AXES
from qexport.errors import QexportError, meant
from qexport.layout.formats.base import Format, WordSpec
from qexport.layout.memory import Memory, sharing
from qexport.layout.order import IMAGE_AXIS, OrderFault
from qexport.layout.tiling import Tiling

_SIZED_WORDS = 2048  # from which the size of a file is worked out


class MemoryFiles:
    """One memory of one layer. `own`: the format of the tensor's elements; `shape`: the tensor's, with all images.

    `reach`: the least and greatest element that any input can give; None where all that there is can be looked at.
    `fill`: what stands in ragged tiles.
    """

    def __init__(
        self,
        memory: Memory,
        own: IntFormat,
        shape: tuple[int, ...],
        array: Mapping[str, int],
        reach: tuple[int, int] | None,
        fill: int = 0,
    ):
        """Raises QexportError when order, shape and sizes contradict each other, or ask for more than the budget."""
        self.memory, self.own, self.shape, self._array, self.reach = memory, own, shape, array, reach
        self._fill = fill
        self.element = memory.element_format(own)
        self.tiling = Tiling(memory.order, shape, array, self.element.bits)
        self._observed: list[tuple[int, int]] = []
        self._before: list[MemoryFiles] = []  # those whose words stand before in the same files
        self._total = self.tiling.words
        self._shared = False
        self._by_files = any(item.name == IMAGE_AXIS for item in memory.order.files)
        grown = memory.order.has_copies or memory.order.skew
        if grown and self.held > ELEMENTS:
            raise QexportError(
                f"memory '{memory.name}': overlap, repetition and skew would make {self.held:,} elements at once, more "
                f"than {ELEMENTS:,}; lower a size in [array] or skew_by"
            )

    @classmethod
    def of(
        cls, memory: Memory, facts: Convolution, images: int, array: Mapping[str, int], bits: int | None = None
    ) -> "MemoryFiles":
        """The files of a layout's memory. `bits`: of the tensor's elements, where they are not the default.

        Raises QexportError when the layer lacks the tensor or it does not fit.
        """
        memory, tensor = of_layer(memory, facts), facts.tensor(memory.tensor)
        own, shape, reach = tensor.format, tensor.shape(images), tensor.range
        own = own if bits is None else IntFormat(bits, own.signed)
        if memory.order.has_bits:
            shape, reach = (*shape, own.bits), (0, 1)
        made = cls(memory, own, shape, array, reach, tensor.fill)
        if memory.order.has_bits and tensor.fill and made.tiling.fill:
            raise QexportError(
                f"memory '{memory.name}': ragged tiles of single bits cannot hold the zero point {tensor.fill}; "
                "choose sizes that divide the tensor's"
            )
        return made

    @property
    def format(self) -> Format:
        return self.memory.format

    @property
    def streamed(self) -> bool:
        """Whether the files of all images are those of the parts: one after the other, or grown word by word."""
        per_image = self.memory.order.tensor_axes[0] == IMAGE_AXIS
        return per_image and self.memory.order.streams_images and (self._by_files or self.format.streamed)

    @cached_property
    def specs(self) -> Sequence[tuple[str, dict[str, int], WordSpec]]:
        """Path, index and words of each file, in C order of the file axes."""
        return [
            (path, index, self._spec(number, index))
            for number, (path, index) in enumerate(self.memory.paths(self.tiling))
        ]

    def _spec(self, number: int, index: dict[str, int]) -> WordSpec:
        before = tuple((other.specs[number][2], other.tiling.words) for other in self._before)
        spec = self.memory.spec(self.tiling, self.element, index)
        return replace(spec, first=self.first_word, total=self._total, shared=self._shared, before=before)

    @property
    def first_word(self) -> int:
        """Where in each file its words begin."""
        return sum(other.tiling.words for other in self._before)

    @property
    def held(self) -> int:
        """The stored elements that are made at once, at the least."""
        return self.tiling.stored // (self.shape[0] if self.streamed else 1)

    @property
    def size(self) -> int:
        """Bytes of all files: exact where every word takes as many, else about (of decimals, at most)."""
        _, _, spec = self.specs[0]
        words = min(self.tiling.words, _SIZED_WORDS)
        longest = self.element.low if self.element.signed else self.element.high
        block = np.full((2 * words, self.tiling.lanes), longest, np.int64)
        once, twice = (len(self.format.write(block[:count], spec)) for count in (words, 2 * words))
        rest = (self.tiling.words - words) * (twice - once) / words
        return self.tiling.files * (once + round(rest))

    def stored(self, values: Int64, first_image: int) -> tuple[int, Int64]:
        """The number of the first file, and (files, words, lanes) as stored, of the images from `first_image` on.

        Raises QexportError naming the first code that does not fit.
        """
        self._observed.append((int(values.min()), int(values.max())))
        codes = self.memory.elements(values, self.own, first_image)
        tiling = self.part(len(codes), first_image)
        blocks = self.memory.stored(tiling.tile(codes, self._fill), self.element, tiling, self.reach)
        first_file = self.tiling.files // self.shape[0] * first_image if self._by_files else 0
        return first_file, blocks

    def warnings(self, facts: Convolution) -> list[str]:
        """A warning when the memory holds what was stored but not all that other inputs can give."""
        fmt, offset = (self.own, 0) if self.memory.order.has_bits else (self.element, self.memory.offset)
        observed = min(low for low, _ in self._observed), max(high for _, high in self._observed)
        low, high = (bound + offset for bound in (facts.tensor(self.memory.tensor).range or observed))
        if fmt.holds(low, high) or not fmt.holds(*(value + offset for value in observed)):
            return []
        return [
            f"memory '{self.memory.name}': {fmt} hold the values of these inputs, but other inputs can give "
            f"{low}..{high}, which needs {IntFormat.holding(low, high, fmt.signed or low < 0)}"
        ]

    def part(self, images: int, first_image: int) -> Tiling:
        """The tiling of some images only; that of all where the memory is not streamed."""
        if not self.streamed:
            return self.tiling
        shape = (images, *self.shape[1:])
        return Tiling(self.memory.order, shape, self._array, self.element.bits, first_image)


def of_layer(memory: Memory, facts: Convolution) -> Memory:
    """The memory with the axes that its tensor has in this layer, which may be others in the next.

    Raises QexportError where the layer lacks the tensor, or has it with other axes than those of the order.
    """
    try:
        tensor = facts.tensor(memory.tensor)
    except QexportError as error:
        raise QexportError(f"{error}{meant(memory.tensor, AXES)}") from None
    try:
        return memory.with_axes(tensor.axes)
    except OrderFault:
        raise QexportError(
            f"tensor '{memory.tensor}': layer {facts.layer.name} has it with the axes {' '.join(tensor.axes)}, not "
            f"{' '.join(memory.order.tensor_axes)} as the order of memory '{memory.name}'; mark the memory "
            "optional = true or take it out of the layout"
        ) from None


def suits(memory: Memory, facts: Convolution) -> bool:
    """Whether the layer has the memory's tensor with the axes of its order; else the memory counts as lacking."""
    try:
        return facts.has(memory.tensor) and bool(of_layer(memory, facts))
    except QexportError:
        return False


def link(streams: Sequence[MemoryFiles]) -> None:
    """Tell memories that stand in the same files of each other; raises QexportError where they do not have the same."""
    by_name = {stream.memory.name: stream for stream in streams}
    for name, group in sharing([stream.memory for stream in streams]).items():
        if group[0].name != name or len(group) == 1:
            continue
        ones = [by_name[memory.name] for memory in group]
        for at, one in enumerate(ones):
            one._before, one._shared = ones[:at], True
            one._total = sum(other.tiling.words for other in ones)
            if list(one.tiling.file_indices()) != list(ones[0].tiling.file_indices()):
                raise QexportError(
                    f"memory '{one.memory.name}': follows '{one.memory.follows}', but has {one.tiling.files} files for "
                    f"{ones[0].tiling.files}; give both the same file axes"
                )


def check_budget(facts: Convolution, streams: Sequence[MemoryFiles], images: int) -> None:
    """Raises QexportError where a set of these memories would take more than the budget."""
    if (files := sum(stream.tiling.files for stream in streams)) > FILES:
        raise QexportError(f"layout: {files:,} files are more than {FILES:,}; make file axes address axes")
    computed = {stream.memory.tensor: 1 if stream.streamed else images for stream in streams}
    facts.check_size({name: count for name, count in computed.items() if name not in CAPTURED})


def most_stored(streams: Iterable[MemoryFiles]) -> int:
    """The most elements that an image takes in a memory of which the images go by in parts."""
    return max((one.held for one in streams if one.streamed), default=0)


def streamed_tensors(memories: Iterable[MemoryFiles]) -> set[str]:
    """The tensors of which the parts of the images are written or read one after the other."""
    return {one.memory.tensor for one in memories if one.streamed}


def warnings(facts: Convolution, streams: Sequence[MemoryFiles]) -> tuple[str, ...]:
    """What a user of the set must know: memories too narrow for other inputs."""
    found = [warning for stream in streams for warning in stream.warnings(facts)]
    return tuple(found)
