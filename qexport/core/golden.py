"""The exact integer golden: int64 numpy, no floating point, no code shared with the network side."""

import math
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from qexport.core.capture import Capture, LayerCapture
from qexport.core.intformat import Int64
from qexport.core.operations.base import Operation
from qexport.core.operations.conv2d import Convolution
from qexport.core.operations.registry import operation

PART_ELEMENTS = 1 << 21  # of the largest tensor of a part of the images, at most


class Golden:
    """The named tensors of one capture, computed when asked for; `facts` are shared by the parts of a capture.

    `given`: tensors that are not computed, as accumulators of which only what comes behind them is asked.
    """

    def __init__(
        self,
        capture: Capture,
        row: int | None = None,
        facts: Convolution | None = None,
        given: Mapping[str, Int64] | None = None,
    ):
        self.capture = capture
        self.facts = operation(capture, row) if facts is None else facts
        self._kept = dict(given or {})

    @cached_property
    def _held(self) -> LayerCapture:
        """The capture with the codes of all images; a file is read only here."""
        capture = self.capture
        return capture if isinstance(capture, LayerCapture) else capture.part(0, capture.images)

    def codes(self, name: str) -> Int64:
        """A tensor of the capture that each image has its own part of."""
        array: Int64 = self._held.tensors[name]
        return array

    @property
    def input(self) -> Int64:
        return self.codes("input")

    @property
    def accumulator(self) -> Int64:
        return self.values("accumulator")

    def values(self, name: str) -> Int64:
        """The codes of the named tensor; raises QexportError when the layer does not have it."""
        if name in self._kept:
            return self._kept[name]
        record = self.facts.tensor(name).record
        values = record.values(self.facts, self)
        if record.kept:
            self._kept[name] = values
        return values


def parts(tensors: Collection[str], facts: Operation, images: int, stored: int = 0) -> Iterator[tuple[int, int]]:
    """Spans of images of which each named tensor, and what is always computed, is small enough to be held.

    `stored`: what of an image must be held beside them.
    """
    largest = max(stored, *(math.prod(facts.tensor(name).shape(1)) for name in {*facts.computed, *tensors}))
    step = max(1, PART_ELEMENTS // largest)
    for start in range(0, images, step):
        yield start, min(start + step, images)
