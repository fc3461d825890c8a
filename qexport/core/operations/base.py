"""What every operation is: a table of tensors, bounds, the codes behind it, and which commands can serve it."""

import math
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from typing import ClassVar

from qexport.core.budget import ELEMENTS
from qexport.core.capture import Capture
from qexport.core.requant import Requantizer, find_requantizer
from qexport.core.tensors import Range, Record, Tensor
from qexport.errors import QexportError


class Need(Enum):
    """What a command needs of an operation beyond its tensors; the value says it in an error."""

    STRENGTH = "counts of the errors that show"
    DIAGNOSIS = "hypotheses of what a design may do wrong"
    EXPLANATION = "an explanation of a value, term by term"
    RTL = "reference RTL"
    STRESS = "a stress capture"


class Operation:
    """One operation of one layer: what holds for every image. `table` has a record for each of its named tensors."""

    table: ClassVar[Mapping[str, Record]]
    offers: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, capture: Capture):
        self.layer, self.formats = capture.layer, capture.formats

    def check_size(self, images: Mapping[str, int]) -> None:
        """Raises QexportError where these tensors, each of some images, are larger than the budget."""
        sizes = {name: math.prod(self.tensor(name).shape(count)) for name, count in images.items()}
        if (total := sum(sizes.values())) > ELEMENTS:
            largest = max(sizes, key=lambda name: sizes[name])
            raise QexportError(
                f"layer {self.layer.name}: its tensors have {total:,} elements, {largest} {sizes[largest]:,} of them, "
                f"more than {ELEMENTS:,}; take a smaller plane or padding, or store fewer tensors"
            )

    def has(self, name: str) -> bool:
        """Whether this layer has the named tensor."""
        return name in self.table and self.table[name].lacking(self) is None

    def tensor(self, name: str) -> Tensor:
        """The named tensor; raises QexportError where the layer does not have it."""
        if name in self.table and (why := self.table[name].lacking(self)) is None:
            return Tensor(name, self.table[name], self)
        reason = f" ({why})" if name in self.table and why else ""
        raise QexportError(
            f"tensor '{name}': layer {self.layer.name} does not have it{reason}; "
            "mark the memory optional = true or take it out of the layout"
        )

    @cached_property
    def bounds(self) -> Range:
        """The exact least and greatest accumulator."""
        raise NotImplementedError

    @cached_property
    def requantizer(self) -> Requantizer | None:
        """From accumulators to the codes that the next quantized layer receives; None where there is none."""
        return None if self.no_output is not None else self._found_requantizer

    @cached_property
    def _found_requantizer(self) -> Requantizer | None:
        output = self.formats.output
        assert output is not None
        return find_requantizer(self.formats.steps[0], output.scales[0], output.integer, max(self.bounds[1], 0))

    @cached_property
    def no_output(self) -> str | None:
        """Why the layer has no tensor `output`; None when it has."""
        if self.formats.output is None or not self.layer.relu:
            return "it needs a ReLU right behind the layer and the next quantized layer's format, formats.output"
        if len(set(self.formats.steps)) > 1:
            return "its weights have a scale for each channel"
        if self._found_requantizer is None:
            return "no integers mul and shift round as the network does"
        return None
