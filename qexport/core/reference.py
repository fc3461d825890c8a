"""What the golden is checked against: the framework's own real-valued output."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport.core.capture import REAL, LayerCapture, Ties
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.base import Operation
from qexport.core.steps import Pool
from qexport.errors import CheckFailed

MEAN_BAR = 1e-3
GRID = 2.0**-21  # half a step of the grid on which a capture holds real values
FLOAT = 2.0**-22  # what float32 sums of products may be off, relative to the largest sum of their channel


@dataclass(frozen=True)
class CodeCheck:
    """The framework's own codes: how many were compared, and how many of them differ, by 1 and at ties alone."""

    compared: int
    ties: int


@dataclass(frozen=True)
class ReferenceCheck:
    """How far accumulator x scale lies from PyTorch's own output; None where the capture holds no reference."""

    mean_abs: float | None
    max_abs: float | None
    tolerance: float
    codes: CodeCheck | None = None


class Scan:
    """What is learned while a capture goes by: the accumulators that were seen, and how far PyTorch's output lies off.

    Parts are added in order; the result does not depend on how the images were parted.
    """

    def __init__(self, facts: Operation):
        self._facts = facts
        self._seen: list[tuple[int, int]] = []
        scales = np.array(facts.formats.accumulator_scales)
        least, greatest = facts.channel_bounds
        reach = np.maximum(np.maximum(-least, greatest), greatest - least).astype(np.float64)
        slack = GRID + FLOAT * scales * (reach if len(scales) > 1 else reach.max())
        self._differences = {name: _Differences(scales, slack) for name in REAL}
        self._codes = self._off = 0

    def add(self, part: Golden) -> None:
        """Take in the next images; they must stand in memory."""
        capture = part.capture
        assert isinstance(capture, LayerCapture)
        self._seen.append((int(part.accumulator.min()), int(part.accumulator.max())))
        steps = np.array(self._facts.formats.accumulator_scales)[:, np.newaxis, np.newaxis]
        real = part.accumulator.astype(np.float64) * steps
        for name, expected, actual in (
            ("reference", capture.reference, real),
            ("next_input", capture.next_input, np.maximum(real, 0.0)),
        ):
            if expected is not None:
                self._differences[name].add(np.abs(actual - expected.astype(np.float64)))
        if capture.reference_codes is not None:
            self._compare_codes(part, capture, capture.reference_codes)

    def _compare_codes(self, part: Golden, capture: LayerCapture, codes: Int64) -> None:
        """Raises CheckFailed where the framework's codes differ, but by 1 at the ties that the capture lists."""
        chain = self._facts.chain
        assert chain is not None
        got = part.values("output")
        off = np.abs(got - codes)
        self._codes += off.size
        if not off.any():
            return
        wrong = np.argwhere(off > self._tied(part, capture.ties or ()))
        if len(wrong):
            place = tuple(wrong[0].tolist())
            where = ", ".join(f"{axis} {at}" for axis, at in zip(chain.end.axes, place, strict=True))
            are_ties = not (off > self._tied(part, self._facts.ties)).any()
            raise CheckFailed(
                f"golden: layer {self._facts.layer.name}: output {got[place]} at {where} is {codes[place]} in "
                f"reference_codes, {len(wrong)} of {off.size} differ, "
                + (
                    "all at ties; list these as ties in the capture's metadata"
                    if are_ties
                    else "and are not listed as ties; the capture contradicts itself: check steps, scales and padding"
                )
            )
        self._off += int(off.sum())

    def _tied(self, part: Golden, ties: Ties) -> Int64:
        """1 where an element of the output comes from one of the (channel, accumulator) pairs, else 0."""
        chain, accumulator = self._facts.chain, part.accumulator
        assert chain is not None
        tied = np.zeros(accumulator.shape, np.int64)
        for channel, pairs in itertools.groupby(sorted(ties), key=lambda tie: tie[0]):
            here = (*(slice(None),) * chain.start.axis, channel)
            tied[here] = np.isin(accumulator[here], [value for _, value in pairs])
        for step in chain.steps:
            tied = step.windows(tied, np.maximum, 0) if isinstance(step, Pool) else tied
        return tied

    @property
    def observed(self) -> tuple[int, int]:
        """The least and greatest accumulator."""
        return min(low for low, _ in self._seen), max(high for _, high in self._seen)

    def check(self) -> ReferenceCheck:
        """The result against PyTorch's forward pass.

        Raises CheckFailed when the mean difference reaches 1e-3, the largest of a channel half of input scale x weight
        scale, both with what float32 and the capture's grid may add; or when every accumulator is 0.
        """
        layer = f"golden: layer {self._facts.layer.name}"
        if self.observed == (0, 0):
            raise CheckFailed(
                f"{layer}: every accumulator is 0, so the set would prove nothing; choose other inputs or another layer"
            )
        for name, differences in self._differences.items():
            if not differences.holds():
                raise CheckFailed(
                    f"{layer}: accumulator x scale differs from {name} by {differences.mean:.3g} in the mean (must be "
                    f"below {differences.mean_bar:.3g}) and {differences.max_abs:.3g} at most (must be below "
                    f"{differences.allowed:.3g}); the capture contradicts itself: check scales, padding and the "
                    "units of the bias; next_input is real-valued, before the next quantizer"
                )
        reference = self._differences["reference"]
        codes = CodeCheck(self._codes, self._off) if self._codes else None
        if reference.count == 0:
            return ReferenceCheck(None, None, reference.tolerance, codes)
        return ReferenceCheck(reference.mean, reference.max_abs, reference.tolerance, codes)


class _Differences:
    """Mean and maximum of absolute differences (n, oc, oy, ox), the maximum for each scale."""

    def __init__(self, scales: NDArray[np.float64], slack: NDArray[np.float64]):
        """`slack`: what the reference's own rounding may add, of each scale."""
        self._tolerances, self._slack = scales / 2, slack
        self._largest = np.zeros(len(scales))
        self._sums: list[float] = []  # of one image each
        self.count = 0

    def add(self, differences: NDArray[np.float64]) -> None:
        # fsum rounds once, so that the manifest's bytes do not depend on the machine's vector units
        self._sums += [math.fsum(image.ravel().tolist()) for image in differences]
        self.count += differences.size
        axes = (0, 2, 3) if len(self._largest) > 1 else None
        self._largest = np.maximum(self._largest, differences.max(axis=axes))

    @property
    def mean(self) -> float:
        return math.fsum(self._sums) / self.count

    @property
    def _worst(self) -> int:
        """The channel whose largest difference comes nearest to its tolerance; of several, that of the least one."""
        allowed = self._tolerances + self._slack
        return int(np.lexsort((allowed, -self._largest / allowed))[0])

    @property
    def max_abs(self) -> float:
        return float(self._largest[self._worst])

    @property
    def tolerance(self) -> float:
        return float(self._tolerances[self._worst])

    @property
    def allowed(self) -> float:
        """The tolerance with what the reference's own rounding may add."""
        return self.tolerance + float(self._slack[self._worst])

    @property
    def mean_bar(self) -> float:
        return MEAN_BAR + float(self._slack.max())

    def holds(self) -> bool:
        return self.count == 0 or (self.mean < self.mean_bar and self.max_abs < self.allowed)
