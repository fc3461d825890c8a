"""What every step gives, from the contract's table and TFLite's published code: fractions and Python's integers."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "floor": math.floor,
    "half_up": lambda x: math.floor(x + Fraction(1, 2)),
    "half_even": round,
    "half_away": lambda x: math.floor(abs(x) + Fraction(1, 2)) * (1 if x > 0 else -1),
    "toward_zero": math.trunc,
}


# TFLite, from gemmlowp/fixedpoint/fixedpoint.h and tensorflow/lite/kernels/internal/common.cc.


def int32(value: int) -> int:
    assert -(2**31) <= value < 2**31
    return value


def c_divide(a: int, b: int) -> int:
    """Integer division of C: toward zero."""
    return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)


def saturating_rounding_doubling_high_mul(a: int, b: int) -> int:
    if a == b == -(2**31):
        return 2**31 - 1
    ab = a * b
    nudge = (1 << 30) if ab >= 0 else 1 - (1 << 30)
    return int32(c_divide(ab + nudge, 1 << 31))


def rounding_divide_by_pot(x: int, exponent: int) -> int:
    assert 0 <= exponent <= 31
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return int32((x >> exponent) + (1 if remainder > threshold else 0))


def tflite_double(x: int, multiplier: int, shift: int) -> int:
    left, right = max(shift, 0), max(-shift, 0)
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(int32(x * (1 << left)), multiplier), right)


def tflite_single(x: int, multiplier: int, shift: int) -> int:
    total = 31 - shift
    return int32((x * multiplier + (1 << (total - 1))) >> total)


TFLITE = {"double": tflite_double, "single": tflite_single}


def quantize_multiplier(real: float) -> tuple[int, int]:
    """TFLite's QuantizeMultiplier: the Q31 multiplier and the shift of a real layer."""
    mantissa, shift = math.frexp(real)
    multiplier = math.floor(mantissa * 2**31 + 0.5)
    return (multiplier // 2, shift + 1) if multiplier == 2**31 else (multiplier, shift)


def of(number: Any, channel: int) -> int:
    return int(number[channel] if isinstance(number, tuple | list) else number)


def expected(step: dict[str, Any], v: int, channel: int, bias: int = 0) -> int:
    """What a step of one value gives, from the contract's table."""

    def rounded(by: int) -> int:
        return ROUNDINGS[step["round"]](Fraction(v, 2**by))

    match step["op"]:
        case "bias":
            return v + bias * 2 ** int(step.get("shift", 0))
        case "multiply":
            return v * of(step["by"], channel)
        case "add":
            return v + of(step["value"], channel)
        case "shift_left":
            return v * 2 ** of(step["by"], channel)
        case "shift_right":
            return rounded(of(step["by"], channel))
        case "tflite":
            return TFLITE[step["rounding"]](v, of(step["multiplier"], channel), of(step["shift"], channel))
        case "relu":
            return v if v > 0 else 0
        case "leaky_relu":
            return v if v >= 0 else rounded(step["shift"])
        case "clamp":
            return int(sorted([step["low"], v, step["high"]])[1])
        case "wrap":
            kept = v % 2 ** step["bits"]
            return int(kept - 2 ** step["bits"] if step["signed"] and kept >= 2 ** (step["bits"] - 1) else kept)
        case "threshold":
            return int(step["first"] + sum(level <= v for level in step["table"][channel]))
        case "lookup":
            return int(step["table"][v - step["low"]])
    raise AssertionError(step)
