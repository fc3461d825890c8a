"""Default widths are those that hold the proven range: layers of 8-bit codes go through every preset."""

import re
from pathlib import Path

import numpy as np
import pytest

from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.layout.toml import layout_text
from tests.conftest import CONV_PRESETS, checked_dump, cli, make_capture


def wide_layer() -> LayerCapture:
    """16 to 16 channels, 3x3, signed 8-bit weights and inputs, a bias."""
    return make_capture(
        in_channels=16,
        out_channels=16,
        weight_bits=8,
        input_bits=8,
        input_signed=True,
        bias=True,
        plane=(3, 3),
        images=1,
    )


@pytest.mark.parametrize("name", [name for name in CONV_PRESETS if not re.search(r"^bits", layout_text(name), re.M)])
def test_a_layer_of_8_bit_codes_fits_every_preset_that_names_no_widths(name: str, tmp_path: Path) -> None:
    checked_dump(wide_layer(), name, tmp_path)


@pytest.mark.parametrize(("bits", "sums"), [(4, 16), (8, 24), (12, 32)])
def test_sums_take_the_whole_bytes_that_hold_their_proven_range(bits: int, sums: int) -> None:
    facts = Golden(make_capture(weight_bits=bits, input_bits=bits, in_channels=16), 16).facts
    for name in ("psum", "accumulator", "relu"):
        fmt, (low, high) = facts.tensor(name).format, facts.tensor(name).range or (0, 0)
        assert (fmt.bits, fmt.signed) == (sums, True) or (name == "psum" and fmt.bits <= sums)
        assert fmt.holds(low, high)
        assert fmt.bits == 16 or not -(1 << (fmt.bits - 9)) <= low <= high < 1 << (fmt.bits - 9)


@pytest.mark.parametrize(("greatest", "bits"), [(2**31 - 1, 32), (2**31, 40), (2**46, 48)])
def test_a_bias_takes_32_bits_or_the_whole_bytes_that_hold_its_values(greatest: int, bits: int) -> None:
    capture = make_capture(bias=True)
    bias = np.zeros(8, np.int64)
    bias[3] = greatest
    wider = LayerCapture(capture.layer, capture.formats, capture.weight, capture.input, bias)
    assert Golden(wider).facts.tensor("bias").format.bits == bits


def test_the_bench_of_a_layer_of_8_bit_codes_passes(tmp_path: Path, simulator: str) -> None:
    folder = checked_dump(wide_layer(), "default", tmp_path)
    result = cli("simulate", folder, "--simulator", simulator)
    assert result.exit_code == 0, result.output
    assert "PASS" in result.stdout
