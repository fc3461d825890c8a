"""Inputs for which two hypotheses predict different values."""

from collections.abc import Callable
from itertools import product

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import UNKNOWN
from qexport.findings.ddmin import smallest
from qexport.findings.diagnosis import Separation
from qexport.findings.model import AnyModel, Model
from qexport.findings.trial import Scored

_SMALLER_RUNS = 40  # with which such a vector is made smaller


def separate(model: AnyModel, one: Scored, other: Scored) -> Separation | None:
    """Inputs for which two hypotheses predict different values, as small as found; None when none was found."""
    if not isinstance(model, Model):
        return None
    fmt = model.facts.formats.input.integer
    shape = model.capture.input.shape

    def differs(codes: Int64) -> Separation | None:
        twin = model.with_codes(codes)
        a, b = one.predicted(twin), other.predicted(twin)
        places = np.argwhere((a != b) & (a != UNKNOWN) & (b != UNKNOWN))
        if not len(places):
            return None
        place = tuple(places[0].tolist())
        index = dict(zip(model.axes, place, strict=True))
        return Separation((one.name, other.name), _vector_text(codes), index, (int(a[place]), int(b[place])))

    middle = (shape[2] // 2, shape[3] // 2)
    for channel, (y, x) in product(dict.fromkeys((0, shape[1] - 1)), dict.fromkeys((middle, (0, 0)))):
        codes = np.zeros(shape, np.int64)
        codes[0, channel, y, x] = fmt.high
        if found := differs(codes):
            return found
    rng = np.random.default_rng(0)
    codes = rng.integers(fmt.low, fmt.high + 1, shape)
    found = differs(codes)
    if found is None:
        codes = np.full(shape, fmt.high, np.int64)
        found = differs(codes)
    if found is None:
        return None
    return _with_fewer_codes(codes, found, differs)


def _with_fewer_codes(codes: Int64, found: Separation, differs: Callable[[Int64], Separation | None]) -> Separation:
    """The same with as few codes as _SMALLER_RUNS tries find."""
    used, left = np.argwhere(codes), _SMALLER_RUNS

    def still(part: list[int]) -> bool:
        nonlocal found, left
        if not left:
            return False
        left -= 1
        fewer, at = np.zeros_like(codes), tuple(used[part].T)
        fewer[at] = codes[at]
        less = differs(fewer)
        found = found if less is None else less
        return less is not None

    smallest(range(len(used)), still)
    return found


_SHOWN_CODES = 6


def _vector_text(codes: Int64) -> str:
    places = np.argwhere(codes).tolist()
    texts = [f"image={n} channel={c} y={y} x={x} = {int(codes[n, c, y, x])}" for n, c, y, x in places[:_SHOWN_CODES]]
    if len(places) > _SHOWN_CODES:
        if (codes == codes.flat[0]).all():
            return f"input {int(codes.flat[0])} everywhere"
        return f"input of {len(places)} codes other than 0 ({texts[0]}, {texts[1]}, ...), all others 0,"
    return f"input {', '.join(texts)}, all others 0,"
