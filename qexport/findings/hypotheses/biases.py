"""Other biases than those of the set, and results that pass the multiplications by."""

from collections.abc import Iterator

import numpy as np

from qexport.core.intformat import Int64, IntFormat
from qexport.findings.change import Bools, Change, Mistake, Stage
from qexport.findings.hypotheses.accumulation import BIAS_MISSING
from qexport.findings.model import Model
from qexport.findings.sampled import Errors, Sampled
from qexport.findings.step_mistakes import other_biases
from qexport.findings.sums import with_bias

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
                yield Change(mistake, detail, Stage.SUM, with_bias(other))
        taps = m.layer.kernel[0] * m.layer.kernel[1]
        steps = -(-m.layer.group_inputs // m.row) * taps
        for detail, times in (("tap", taps), ("step", steps), ("input tile", steps // taps)):
            if times > 2:
                yield Change(BIAS_WRONG, f"added with each {detail}", Stage.SUM, with_bias(times * bias))


def solved_bias(m: Model, actual: Int64, known: Bools) -> Iterator[Change]:
    """Where each channel is off by a number of its own: the biases that were added, and what they are made of."""
    bias = m.facts.added
    if bias is None:
        return
    errors = Errors.of(m, actual, known)
    if errors is None:
        yield from _fitting(m, bias, actual, known)
        return
    other, wrong, whole = bias.copy(), np.flatnonzero(errors.wrong.any(axis=(0, 2, 3))), True
    for channel in wrong:
        off = errors.off[:, channel][errors.wrong[:, channel]]
        if (off != off[0]).any():
            return
        other[channel] += off[0]
        whole &= bool((errors.wrong == errors.told)[:, channel].all())
    same = [(text, tried) for text, tried in _made_of(bias) if (tried == other)[wrong].all()] if len(wrong) else []
    same.sort(key=lambda named: int((named[1] != other).sum()))
    for text, tried in same[:_NAMED]:
        yield Change(BIAS_WRONG, text, Stage.SUM, with_bias(tried), cost=8.0)
    if len(wrong) and whole and not same:
        shown = ", ".join(f"{other[channel]}, not {bias[channel]}, in channel {channel}" for channel in wrong[:_NAMED])
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        yield Change(BIAS_WRONG, shown + more, Stage.SUM, with_bias(other), cost=12.0 * len(wrong))


def _fitting(m: Model, bias: Int64, actual: Int64, known: Bools) -> Iterator[Change]:
    """The same behind steps: what may be made of the biases, where it gives what came back at some places."""
    terms = Sampled.of(m, actual, known) if m.tensor not in ("psum", "accumulator", "relu") else None
    if terms is not None:
        tried = list(_made_of(bias))
        more = np.stack([one - bias for _, one in tried])[:, terms.output[:, 0]]
        for at in np.flatnonzero(terms.fits(terms.golden + more))[:_NAMED].tolist():
            yield Change(BIAS_WRONG, tried[at][0], Stage.SUM, with_bias(tried[at][1]), cost=8.0)


_NAMED = 3


def _made_of(bias: Int64) -> Iterator[tuple[str, Int64]]:
    """All that may be made of the biases in a memory, a register or an adder."""
    yield "missing", 0 * bias
    yield from other_biases(bias)
    for by in range(2, min(len(bias), 257)):
        yield f"that of {by} channels before", np.roll(bias, by)
    for bits in range(2, 33):
        for fmt, sign in ((IntFormat(bits, True), ""), (IntFormat(bits, False), " without sign")):
            yield f"cut to {bits} bits{sign}", fmt.wrap(bias)
            yield f"saturated to {bits} bits{sign}", fmt.saturate(bias)
    for bit in range(32):
        yield f"bit {bit} at 0", bias & ~(1 << bit)
        yield f"bit {bit} at 1", bias | 1 << bit
        yield f"bit {bit} inverted", bias ^ 1 << bit
    yield "of sign and magnitude", np.where(bias < 0, -(bias & 0x7FFFFFFF), bias)
    yield "the size of it", np.abs(bias)
    yield "three times", 3 * bias
    for bit in range(max(len(bias) - 1, 1).bit_length()):
        channels = np.arange(len(bias))
        for text, address in (("at 0", channels & ~(1 << bit)), ("at 1", channels | 1 << bit)):
            yield f"that of the channel with address bit {bit} {text}", bias[np.clip(address, 0, len(bias) - 1)]


def passed_through(m: Model) -> Iterator[Change]:
    (sy, sx), (oy, ox) = m.layer.stride, m.layer.output_plane(m.plane)
    channels = min(m.layer.in_channels, m.layer.out_channels)
    part = m.capture.input[:, :channels, ::sy, ::sx][:, :, :oy, :ox]
    if m.tensor == "psum" or not m.one_by_one:
        return
    if part.shape[2:] != (oy, ox):
        return

    def change(values: Int64) -> Int64:
        out = values.copy()
        out[:, :channels] = part
        return out

    yield Change(PASSED_THROUGH, "the input codes of the same channel", Stage.RESULT, change)
