"""What the golden is checked against: the framework's own real-valued output."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport.core.capture import REAL, LayerCapture
from qexport.core.golden import Golden
from qexport.core.operations.conv2d import Convolution
from qexport.errors import CheckFailed

MEAN_BAR = 1e-3


@dataclass(frozen=True)
class ReferenceCheck:
    """How far accumulator x scale lies from PyTorch's own output; None where the capture holds no reference."""

    mean_abs: float | None
    max_abs: float | None
    tolerance: float


class Scan:
    """What is learned while a capture goes by: the accumulators that were seen, and how far PyTorch's output lies off.

    Parts are added in order; the result does not depend on how the images were parted.
    """

    def __init__(self, facts: Convolution):
        self._facts = facts
        self._seen: list[tuple[int, int]] = []
        self._differences = {name: _Differences(facts.formats.steps) for name in REAL}

    def add(self, part: Golden) -> None:
        """Take in the next images; they must stand in memory."""
        capture = part.capture
        assert isinstance(capture, LayerCapture)
        self._seen.append((int(part.accumulator.min()), int(part.accumulator.max())))
        steps = np.array(self._facts.formats.steps)[:, np.newaxis, np.newaxis]
        real = part.accumulator.astype(np.float64) * steps
        for name, expected, actual in (
            ("reference", capture.reference, real),
            ("next_input", capture.next_input, np.maximum(real, 0.0)),
        ):
            if expected is not None:
                self._differences[name].add(np.abs(actual - expected.astype(np.float64)))

    @property
    def observed(self) -> tuple[int, int]:
        """The least and greatest accumulator."""
        return min(low for low, _ in self._seen), max(high for _, high in self._seen)

    def check(self) -> ReferenceCheck:
        """The result against PyTorch's forward pass.

        Raises CheckFailed when the mean difference reaches 1e-3, the largest of a channel half of input scale x weight
        scale, or when every accumulator is 0.
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
                    f"below {MEAN_BAR:g}) and {differences.max_abs:.3g} at most (must be below "
                    f"{differences.tolerance:.3g}); the capture contradicts itself: check scales, padding and the "
                    "units of the bias; next_input is real-valued, before the next quantizer"
                )
        reference = self._differences["reference"]
        if reference.count == 0:
            return ReferenceCheck(None, None, reference.tolerance)
        return ReferenceCheck(reference.mean, reference.max_abs, reference.tolerance)


class _Differences:
    """Mean and maximum of absolute differences (n, oc, oy, ox), the maximum for each scale."""

    def __init__(self, steps: tuple[float, ...]):
        self._tolerances = np.array(steps) / 2
        self._largest = np.zeros(len(steps))
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
        return int(np.lexsort((self._tolerances, -self._largest / self._tolerances))[0])

    @property
    def max_abs(self) -> float:
        return float(self._largest[self._worst])

    @property
    def tolerance(self) -> float:
        return float(self._tolerances[self._worst])

    def holds(self) -> bool:
        return self.count == 0 or (self.mean < MEAN_BAR and self.max_abs < self.tolerance)
