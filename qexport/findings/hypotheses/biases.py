"""Other biases than those of the set, and results that pass the multiplications by."""

from collections.abc import Callable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.hypotheses.accumulation import BIAS_MISSING
from qexport.findings.model import Model
from qexport.findings.step_mistakes import other_biases
from qexport.findings.sums import Sums

BIAS_WRONG = Mistake(
    "bias_wrong", "Add each channel's own bias once, aligned with the sum, with its sign, at full width."
)
PASSED_THROUGH = Mistake("passed_through", "See what bypasses the array: these results are the inputs.")


def bias_mistakes(m: Model) -> Iterator[Change]:
    bias = m.facts.added
    if bias is not None:
        tried = list(other_biases(bias))
        channels = np.arange(len(bias))
        if len(bias) > m.col:
            tried.append(("those of the first tile of channels", bias[channels % m.col]))
        last = -(-len(bias) // m.col) * m.col
        columns = channels // m.col * m.col + (m.col - 1 - channels % m.col)
        if m.col > 1:
            turned = np.where(columns < len(bias), bias[np.clip(columns, 0, len(bias) - 1)], 0)
            tried.append(("the columns of each tile reversed", turned))
        tried.append(("that of every channel but the first missing", np.where(channels == 0, bias, 0)))
        tried.append(("those of the last tile missing", np.where(channels >= last - m.col, 0, bias)))
        for detail, other in tried:
            if (other != bias).any():
                mistake = BIAS_WRONG if "missing" not in detail else BIAS_MISSING
                yield Change(mistake, detail, Stage.SUM, _with(other))
        taps = m.layer.kernel[0] * m.layer.kernel[1]
        steps = -(-m.layer.group_inputs // m.row) * taps
        for detail, times in (("tap", taps), ("step", steps), ("input tile", steps // taps)):
            if times > 2:
                yield Change(BIAS_WRONG, f"added with each {detail}", Stage.SUM, _with(times * bias))


def passed_through(m: Model) -> Iterator[Change]:
    (sy, sx), (oy, ox) = m.layer.stride, m.layer.output_plane(m.plane)
    channels = min(m.layer.in_channels, m.layer.out_channels)
    part = m.capture.input[:, :channels, ::sy, ::sx][:, :, :oy, :ox]
    if m.tensor == "psum" or m.tensor in m.facts.pooled or m.memory.order.has_bits:
        return
    if part.shape[2:] != (oy, ox):
        return

    def change(values: Int64) -> Int64:
        out = values.copy()
        out[:, :channels] = part
        return out

    yield Change(PASSED_THROUGH, "the input codes of the same channel", Stage.RESULT, change)


def _with(bias: Int64) -> Callable[[Sums], Int64]:
    return lambda sums: sums.total + bias[sums.outputs][:, np.newaxis, np.newaxis]
