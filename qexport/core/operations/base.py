"""What every operation is: a table of tensors, bounds, the steps behind it, and which commands can serve it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from qexport.core.budget import ELEMENTS
from qexport.core.capture import Capture, Ties, tensor_shapes
from qexport.core.geometry import AnyLayer
from qexport.core.intformat import Int64, IntFormat
from qexport.core.rescale import TIE_WIDTH, Hardware, Integers, Network, Rescaling, rescale
from qexport.core.steps import Chain, Ints, Pool, Signal, Step, takes_bias
from qexport.core.tensors import Range, Record, Role, Tensor, Values, wide
from qexport.errors import QexportError

FLOAT32_TIE = Fraction(1, 2**20)  # of an edge, relative: how near a framework of float32 may be to one and miss it


class Need(Enum):
    """What a command needs of an operation beyond its tensors; the value says it in an error."""

    STRENGTH = "counts of the errors that show"
    DIAGNOSIS = "hypotheses of what a design may do wrong"
    EXPLANATION = "an explanation of a value, term by term"
    RTL = "reference RTL"
    STRESS = "a stress capture"
    SHRINKING = "a smaller set that still fails"


class Operation:
    """One operation of one layer: what holds for every image. `table` has a record for each of its own tensors;
    those of the steps behind it follow from `chain`.

    `row`: the array's tile, of which psums are. `steps`: those that a manifest says; None takes the capture's, or finds
    those that its formats mean.
    """

    table: ClassVar[Mapping[str, Record]]
    offers: ClassVar[frozenset[Need]] = frozenset()
    computed: ClassVar[tuple[str, ...]]  # tensors of an image that are held whatever is stored

    layer: AnyLayer

    def __init__(self, capture: Capture, row: int | None, steps: Sequence[Step] | None = None):
        self.layer, self.formats = capture.layer, capture.formats
        self._capture = capture
        self.given = capture.steps if steps is None else tuple(steps)
        self.bias = capture.bias
        self.added = None if takes_bias(self.given or ()) else capture.bias  # what of the bias is in the accumulator
        self.shapes = tensor_shapes(capture.layer, capture.shapes)  # with all images
        self.reach = self.layer.reach(self.shapes, {name: fmt.reach for name, fmt in self.formats.operands.items()})

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
        record = self._record(name)
        return record is not None and record.lacking(self) is None

    def tensor(self, name: str) -> Tensor:
        """The named tensor; raises QexportError where the layer does not have it."""
        record = self._record(name)
        if record is not None and (why := record.lacking(self)) is None:
            return Tensor(name, record, self)
        reason = f" ({why})" if record is not None and why else ""
        raise QexportError(
            f"tensor '{name}': layer {self.layer.name} does not have it{reason}; "
            "mark the memory optional = true or take it out of the layout"
        )

    def _record(self, name: str) -> Record | None:
        """The record of a tensor of the operation or of the steps; None where neither knows the name."""
        return self.table.get(name) or self._of_steps.get(name)

    @cached_property
    def _of_steps(self) -> Mapping[str, Record]:
        """Records of the values of the steps, and of their parameters."""
        if self.chain is None:
            return {}
        records, before = {}, "accumulator"
        for name, step in zip(self.chain.names, self.chain.steps, strict=True):
            records[name] = _value_record(step, self.chain.signals[name], before, self.chain)
            before = name
        for name, parameter in self.chain.parameters.items():
            records[name] = _parameter_record(name, parameter.axes, parameter.values)
        return records

    @cached_property
    def result_names(self) -> tuple[str, ...]:
        """The names of what comes out of a design, in the order of the computation; those that the layer has."""
        own = [name for name, record in self.table.items() if record.role is Role.RESULT and self.has(name)]
        steps = () if self.chain is None else self.chain.names
        return *(name for name in own if name != "output"), *steps, *(name for name in own if name == "output")

    @cached_property
    def pooled(self) -> frozenset[str]:
        """The results behind a pool, whose positions are not those of the accumulators."""
        steps = () if self.chain is None else tuple(zip(self.chain.names, self.chain.steps, strict=True))
        behind = [name for name, _ in itertools.dropwhile(lambda pair: not isinstance(pair[1], Pool), steps)]
        return frozenset([*behind, "output"] if behind else [])

    @property
    def channel_bounds(self) -> tuple[Ints, Ints]:
        """The exact least and greatest accumulator of each channel."""
        raise NotImplementedError

    @cached_property
    def bounds(self) -> Range:
        """The exact least and greatest accumulator."""
        least, greatest = self.channel_bounds
        return int(least.min()), int(greatest.max())

    def sums(self, golden: Values) -> Int64:
        """The accumulators of some images."""
        raise NotImplementedError

    @property
    def folded(self) -> Int64 | None:
        """What is added to the sums of raw codes for each channel, because of zero points; None where nothing is."""
        return None

    @property
    def start(self) -> Signal:
        """The accumulator, where the steps begin."""
        return Signal(self.layer.results, self.layer.channel, self.shapes["accumulator"][1:], *self.channel_bounds)

    @property
    def end(self) -> Signal:
        """What the last step gives."""
        assert self.chain is not None
        return self.chain.end

    @property
    def output_format(self) -> IntFormat:
        return wide(self.end.range) if self.formats.output is None else self.formats.output.integer

    def output(self, golden: Values) -> Int64:
        assert self.chain is not None
        return golden.values(self.chain.names[-1] if self.chain.names else "accumulator")

    @property
    def relu_bounds(self) -> Range:
        return max(self.bounds[0], 0), max(self.bounds[1], 0)

    @cached_property
    def chain(self) -> Chain | None:
        """The steps behind the accumulator, those that are given or those that give the network's own codes; None
        where there are none. Raises QexportError where they do not fit the layer, or no integers do what it does."""
        steps = self.given if self.given is not None or self.network is None else self.found.steps
        if steps is None:
            return None
        output = self.formats.output
        try:
            return Chain(steps, self.start, self.bias, output.integer if output else None, taken=self.table)
        except QexportError as error:
            raise QexportError(f"layer {self.layer.name}: {error}") from None

    @cached_property
    def network(self) -> Network | None:
        """The rounding that the formats mean: accumulator x scale, ReLU where the layer has one, / output scale + zero
        point, half to even, clipped; None without a format of the output."""
        output = self.formats.output
        if output is None:
            return None
        scales = np.broadcast_to(np.array(self.formats.accumulator_scales), self.start.channels)
        zero, code = output.zero_points[0], output.integer
        try:
            return Network(
                [Fraction(scale) / Fraction(output.scales[0]) for scale in scales.tolist()],
                [zero] * self.start.channels,
                *self.channel_bounds,
                low=max(code.low, zero) if self.layer.relu else code.low,
                high=code.high,
            )
        except QexportError as error:
            raise QexportError(f"layer {self.layer.name}: {error}") from None

    @cached_property
    def found(self) -> Rescaling:
        """Integers that give the network's own codes, proven; raises QexportError where there are none."""
        return self.rescaled(Hardware())

    def rescaled(self, hardware: Hardware) -> Rescaling:
        """The steps with which a hardware gives the network's codes, or comes as near as it can."""
        assert self.network is not None
        try:
            return rescale(self.network, hardware)
        except QexportError as error:
            raise QexportError(f"layer {self.layer.name}: {error}") from None

    @cached_property
    def ties(self) -> Ties:
        """(channel, accumulator) pairs whose real value lies on the edge between two codes: those that the capture
        lists, or those of the network whose steps were found.

        Raises QexportError where the capture lists one that is none by its formats.
        """
        listed = self._capture.ties  # where codes of a framework may differ
        if self._capture.steps is not None or self.network is None:
            return listed or ()
        if listed is None:
            return tuple(self.network.ties(FLOAT32_TIE if self._capture.has_codes else TIE_WIDTH))
        if none := sorted(set(listed) - set(self.network.ties(FLOAT32_TIE))):
            channel, accumulator = none[0]
            raise QexportError(
                f"layer {self.layer.name}: ties list accumulator {accumulator} of channel {channel}, which lies within "
                f"a code, not on an edge between two; take out what is not a tie ({len(none)} of {len(listed)})"
            )
        return listed

    @cached_property
    def integers(self) -> Integers | None:
        """The steps, where they are one multiplication, addition, shift and clamp for all channels."""
        return None if self.chain is None else Integers.of(self.chain.steps)

    @property
    def no_output(self) -> str | None:
        """Why the layer has no tensor `output`; None when it has."""
        return None if self.chain is not None else "its capture has neither steps nor formats.output"


def narrow(reach: int) -> type[np.signedinteger[Any]]:
    """The narrowest of int32 and int64 in which nothing up to `reach` wraps."""
    return np.int32 if reach < 2**31 else np.int64


def result_records(axes: tuple[str, ...]) -> dict[str, Record]:
    """The records of what every operation gives, in the accumulator's axes."""
    return {
        "accumulator": Record(
            axes, Role.RESULT, kept=True,
            shape=lambda op, n: (n, *op.shapes["accumulator"][1:]),
            format=lambda op: wide(op.bounds),
            range=lambda op: op.bounds,
            values=lambda op, golden: op.sums(golden),
        ),
        "relu": Record(
            axes, Role.RESULT,
            shape=lambda op, n: (n, *op.shapes["accumulator"][1:]),
            format=lambda op: wide(op.relu_bounds),
            range=lambda op: op.relu_bounds,
            values=lambda op, golden: np.maximum(golden.values("accumulator"), 0),
        ),
        "output": Record(
            axes, Role.RESULT,
            shape=lambda op, n: (n, *op.end.sizes),
            format=lambda op: op.output_format,
            range=lambda op: op.end.range,
            values=lambda op, golden: op.output(golden),
            lacking=lambda op: op.no_output,
        ),
    }  # fmt: skip


def operand_record(name: str, axes: tuple[str, ...]) -> Record:
    """The record of an operand of which each image has its own codes."""
    return Record(
        axes, Role.OPERAND, operand=name,
        shape=lambda op, n: (n, *op.shapes[name][1:]),
        format=lambda op: op.formats.operands[name].integer,
        range=lambda op: op.formats.operands[name].codes,
        fill=lambda op: op.formats.operands[name].zero_points[0],
        values=lambda op, golden: golden.codes(name),
        lacking=lambda op: None if name in op.formats.operands else "it has one operand",
    )  # fmt: skip


def _value_record(step: Step, signal: Signal, before: str, chain: Chain) -> Record:
    """The record of what a step gives for the tensor `before`."""
    return Record(
        signal.axes, Role.RESULT, kept=True,
        shape=lambda op, n: (n, *signal.sizes),
        format=lambda op: wide(signal.range),
        range=lambda op: signal.range,
        values=lambda op, golden: step.apply(golden.values(before), signal.axis, chain.bias),
    )  # fmt: skip


def _parameter_record(name: str, axes: tuple[str, ...], values: Int64) -> Record:
    """The record of a step's parameter."""
    return Record(
        axes, Role.OPERAND, operand=name,
        shape=lambda op, n: values.shape,
        format=lambda op: wide((int(values.min()), int(values.max()))),
        values=lambda op, golden: values,
    )  # fmt: skip
