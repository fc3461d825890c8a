"""The presets: lines worked out by hand, and every preset on layers of every kind."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qexport.build.dump import dump
from qexport.build.verify import verify
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import MatMul
from qexport.core.golden import Golden
from qexport.core.steps import Add, Clamp, Tflite
from qexport.errors import QexportError
from qexport.layout.toml import PRESETS, load_layout, parse_layout, preset_names, preset_purpose
from tests.conftest import CONV_PRESETS, checked_dump, cli, fails, make_capture
from tests.sim.conftest import ragged_capture

# --- lines worked out by hand ---------------------------------------------------------------------------------------


def hand_capture() -> LayerCapture:
    """Two inputs, two outputs, a kernel of 1x2, a column of padding on the right, on a plane of 1x2."""
    blank = make_capture(in_channels=2, out_channels=2, kernel=(1, 2), padding=(0, 0, 0, 1), plane=(1, 2), images=1)
    return replace(
        blank,
        weight=np.array([[[[1, -1]], [[7, -8]]], [[[0, 2]], [[-3, 4]]]]),
        input=np.array([[[[1, 2]], [[15, 3]]]]),
        bias=np.array([10, -20]),
    )


@pytest.fixture(scope="module")
def hand_sets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda preset: checked_dump(hand_capture(), preset, tmp_path_factory.mktemp(preset)))


ACTIVATION = ["#time0row7[msb-lsb],time0row6[msb-lsb],...,time0row0[msb-lsb]#",
              "#time1row7[msb-lsb],time1row6[msb-lsb],...,time1row0[msb-lsb]#", "#................#"]  # fmt: skip
WEIGHT = ["#col0row7[msb-lsb],col0row6[msb-lsb],...,col0row0[msb-lsb]#",
          "#col1row7[msb-lsb],col1row6[msb-lsb],...,col1row0[msb-lsb]#", "#................#"]  # fmt: skip
PSUM = ["#time0col7[msb-lsb],time0col6[msb-lsb],...,time0col0[msb-lsb]#",
        "#time1col7[msb-lsb],time1col6[msb-lsb],...,time1col0[msb-lsb]#", "#................#"]  # fmt: skip
OUTPUT = ["#out0col7[msb-lsb],out0col6[msb-lsb],...,out0col0[msb-lsb]#",
          "#out1col7[msb-lsb],out1col6[msb-lsb],...,out1col0[msb-lsb]#", "#................#"]  # fmt: skip
ADDRESS = ["#out0kij0[msb-lsb]#", "#out0kij1[msb-lsb]#", "#................#"]


# Accumulators by hand: 1*1 - 1*2 + 7*15 - 8*3 + 10 = 90 and 1*2 + 7*3 + 10 = 33 of output channel 0;
# 0*1 + 2*2 - 3*15 + 4*3 - 20 = -49 and 0*2 - 3*3 - 20 = -29 of output channel 1. The psum of kw=1 at px=0 is
# -1*1 - 8*15 = -121 of channel 0 and 2*1 + 4*15 = 62 of channel 1.
@pytest.mark.parametrize(
    ("preset", "file", "first"),
    [
        ("default", "weight.hex", ["00000071", "000000d0", *["00000000"] * 6, "0000008f", "00000042"]),
        ("default", "bias.hex", ["0" * 48 + "ffffffec" + "0000000a"]),
        ("default", "input.hex", ["000000f1", "00000032"]),
        ("default", "input_padded.hex", ["000000f1", "00000032", "00000000"]),
        ("default", "patches.hex", ["000000f1", "00000032", "00000032", "00000000"]),
        ("default", "psum.hex", ["0" * 24 + word for word in
                                 ("ffd3006a", "fff70017", "00000000", "003eff87", "0010ffe6", "00000000")]),
        ("default", "acc_address.hex", ["0", "4", "1", "5"]),
        ("default", "accumulator.hex", ["0" * 24 + "ffcf005a", "0" * 24 + "ffe30021"]),
        ("default", "relu.hex", ["0" * 24 + "0000005a", "0" * 24 + "00000021"]),
        ("ws8x8", "activation_tile0.txt", [*ACTIVATION, "0" * 24 + "11110001", "0" * 24 + "00110010", "0" * 32]),
        ("ws8x8", "weight_itile0_otile0_kij0.txt", [*WEIGHT, "0" * 24 + "01110001", "0" * 24 + "11010000", "0" * 32]),
        ("ws8x8", "weight_itile0_otile0_kij1.txt", [*WEIGHT, "0" * 24 + "10001111", "0" * 24 + "01000010", "0" * 32]),
        ("ws8x8", "psum_itile0_otile0_kij1.txt", [*PSUM, "0" * 96 + "0000000000111110" + "1111111110000111"]),
        ("ws8x8", "output.txt", [*OUTPUT, "0" * 112 + "0000000001011010", "0" * 112 + "0000000000100001"]),
        ("ws8x8", "acc_address.txt", [*ADDRESS, "00000000000", "00000000100", "00000000001", "00000000101"]),
        ("ws8x8_row0msb", "weight_itile0_otile0_kij0.txt", ["00010111" + "0" * 24, "00001101" + "0" * 24]),
        ("ws8x8_row0msb", "activation_tile0.txt", ["00011111" + "0" * 24, "00100011" + "0" * 24]),
        ("ws8x8_row0msb", "output_otile0.txt", ["0" * 112 + "0000000001011010"]),
        ("ws8x8_col0msb", "weight_itile0_otile0_kij0.txt", ["0" * 24 + "01110001", "0" * 24 + "11010000"]),
        ("ws8x8_col0msb", "psum_itile0_otile0_kij0.txt", ["0000000001101010" + "1111111111010011" + "0" * 96]),
        ("ws8x8_col0msb", "output_otile0.txt", ["0000000001011010" + "0" * 112]),
        ("ws8x8_rowwords", "weight_itile0_otile0_kij0.txt", ["0" * 31 + "1", "0" * 24 + "11010111", "0" * 32]),
        ("ws8x8_taps", "weight_itile0_otile0.txt",
         ["0" * 24 + "01110001", "0" * 24 + "11010000", *["0" * 32] * 6, "0" * 24 + "10001111", "0" * 24 + "01000010"]),
        ("ws8x8_taps", "acc_address.txt", ["000", "100", "001", "101"]),
        ("address_from_1", "acc_address.hex", ["00000001", "00000005", "00000002", "00000006"]),
        ("address_from_1", "psum_image0_itile0_otile0.hex", ["0" * 24 + word for word in
                                 ("ffd3006a", "fff70017", "00000000", "003eff87", "0010ffe6", "00000000")]),
        ("os8x8", "weight_otile0_kij0.txt", ["0" * 31 + "1", "0" * 24 + "11010111", ""]),
        ("os8x8", "weight_otile0_kij1.txt", ["0" * 24 + "00101111", "0" * 24 + "01001000", ""]),
        ("os8x8", "activation_ptile0.txt",
         ["0" * 24 + step for step in ("00100001", "00111111", "00000010", "00000011")]),
        ("os8x8", "output_ptile0_otile0.txt", ["0" * 121 + "1011010", "0" * 122 + "100001", "0" * 128]),
        ("os8x8_onefile", "weight_otile0.txt",
         ["0" * 24 + step for step in ("00000001", "00101111", "11010111", "01001000")]),
        ("os8x8_onefile", "activation_ptile0.txt",
         ["0" * 24 + step for step in ("00100001", "00000010", "00111111", "00000011")]),
        ("simd_2bit_halves", "activation_tile0_half0.txt", ["0" * 12 + "1100", "0" * 16, "0" * 16, ""]),
        ("simd_2bit_halves", "activation_tile0_half1.txt", ["0" * 12 + "1101", "0" * 12 + "1110", "0" * 16, ""]),
        ("simd_2bit_even", "activation_tile0.txt", ["0" * 56 + "00011111", "0" * 56 + "00100011"]),
        ("simd_2bit_even", "weight_itile0_otile0_kij0.txt",
         ["0" * 28 + code for code in ("0001", "0111", "0000", "1101")]),
        ("simd_2bit_odd", "activation_tile0.txt", ["0" * 56 + "11110001", "0" * 56 + "00110010"]),
        ("simd_2bit_odd", "weight_itile0_otile0_kij0.txt",
         ["0" * 28 + code for code in ("0111", "0001", "1101", "0000")]),
        ("stream_nhwc32", "input.hex", ["03020f01", ""]),
        ("stream_nhwc32", "weight.hex", ["f8ff0701", "0402fd00", ""]),
        ("stream_nhwc32", "bias.hex", ["0000000a", "ffffffec", ""]),
        ("stream_nhwc32", "accumulator.hex", ["0000005a", "ffffffcf", "00000021", "ffffffe3", ""]),
        ("stream_nhwc64", "input.hex", ["0000000003020f01", ""]),
        ("stream_nhwc64", "weight.hex", ["0402fd00f8ff0701", ""]),
        ("stream_nhwc64", "accumulator.hex", ["ffffffcf0000005a", "ffffffe300000021", ""]),
        ("stream_nhwc128", "weight.hex", ["00000000000000000402fd00f8ff0701", ""]),
        ("stream_nhwc128", "accumulator.hex", ["ffffffe300000021ffffffcf0000005a", ""]),
        ("stream_nchw32", "input.hex", ["030f0201", ""]),
        ("stream_nchw32", "weight.hex", ["f807ff01", "04fd0200", ""]),
        ("stream_nchw32", "accumulator.hex", ["0000005a", "00000021", "ffffffcf", "ffffffe3", ""]),
        ("stream_nchw64", "weight.hex", ["04fd0200f807ff01", ""]),
        ("stream_nchw64", "accumulator.hex", ["000000210000005a", "ffffffe3ffffffcf", ""]),
        ("stream_nchw128", "bias.hex", ["0000000000000000ffffffec0000000a", ""]),
        ("stream_nchw128", "accumulator.hex", ["ffffffe3ffffffcf000000210000005a", ""]),
        ("hwc_bytes_int8", "input_0.hex", ["01", "0f", "02", "03", ""]),
        ("hwc_bytes_int8", "weight.hex", ["01", "07", "ff", "f8", "00", "fd", "02", "04", ""]),
        ("hwc_bytes_int8", "output_0.hex", ["5a", "cf", "21", "e3", ""]),
        ("decimals", "weight.txt", ["1", "-1", "7", "-8", "0", "2", "-3", "4", ""]),
        ("decimals", "bias.txt", ["10", "-20", ""]),
        ("decimals", "accumulator.txt", ["90", "33", "-49", "-29", ""]),
        ("banks", "weight_bank0.hex", ["00000071", "00000000", "0000008f", "00000000", ""]),
        ("banks", "weight_bank1.hex", ["000000d0", "00000000", "00000042", "00000000", ""]),
        ("banks", "weight_bank3.hex", [*["00000000"] * 4, ""]),
        ("banks", "activation_bank0.hex", ["000000f1", ""]),
        ("banks", "activation_bank1.hex", ["00000032", ""]),
        ("banks", "activation_bank3.hex", ["00000000", ""]),
        ("bitplanes", "activation_plane0.txt", ["00000010", "00000000", "00000000", ""]),
        ("bitplanes", "activation_plane2.txt", ["00000010", "00000011", "00000000", ""]),
        ("bitplanes", "activation_plane3.txt", ["00000011", "00000010", "00000000", ""]),
        ("bitplanes", "weight_plane0.txt", ["00000000", "00000010", *["00000000"] * 6, "00000011", "00000000"]),
    ],
)  # fmt: skip
def test_preset_writes_the_lines_worked_out_by_hand(
    hand_sets: Callable[[str], Path], preset: str, file: str, first: list[str]
) -> None:
    lines = (hand_sets(preset) / file).read_text().split("\n")
    assert lines[: len(first)] == first


def test_joined_tile_number_counts_input_tiles_within_output_tiles(tmp_path: Path) -> None:
    tiles = np.arange(4).reshape(2, 1, 2, 1, 1, 1) + np.zeros((2, 8, 2, 8, 3, 3), np.int64)
    capture = replace(make_capture(in_channels=16, out_channels=16), weight=tiles.reshape(16, 16, 3, 3))
    folder = checked_dump(capture, "ws16_2x2", tmp_path)
    for tile in range(4):
        for kij in range(9):
            assert (folder / f"weight_tile{tile}_kij{kij}.txt").read_text() == (f"{tile:04b}" * 8 + "\n") * 8


def test_int8_accumulators_saturate_on_both_sides(tmp_path: Path) -> None:
    weight = np.array([7, 1, -8]).reshape(3, 1, 1, 1)
    blank = make_capture(in_channels=1, out_channels=3, kernel=(1, 1), padding=(0, 0, 0, 0), plane=(1, 1), images=1)
    capture = replace(blank, weight=weight, input=np.array([[[[15]]]]), bias=np.array([30, 0, -20]))
    folder = checked_dump(capture, "hwc_bytes_int8", tmp_path)
    assert (folder / "output_0.hex").read_text().split() == ["7f", "0f", "80"]  # 135, 15, -140


# --- layers of every kind -------------------------------------------------------------------------------------------

LAYERS: dict[str, LayerCapture] = {
    "8 to 8, 3x3": make_capture(),
    "20 to 12 in two groups, ragged": ragged_capture(),
    "linear": make_capture(
        kind="linear", in_channels=10, out_channels=5, kernel=(1, 1), padding=(0, 0, 0, 0), plane=(1, 1), bias=True
    ),
    "depthwise": make_capture(in_channels=6, out_channels=6, groups=6, plane=(5, 3), stride=(1, 2)),
    "1-bit": make_capture(weight_bits=1, input_bits=1),
    "8-bit signed": make_capture(weight_bits=8, input_bits=8, input_signed=True, in_channels=1, kernel=(1, 1)),
    "7 and 8 bits unsigned": make_capture(
        weight_bits=7, input_bits=8, weight_signed=False, in_channels=1, kernel=(1, 1)
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("preset", CONV_PRESETS)
def test_preset_serves_every_kind_of_layer(tmp_path: Path, preset: str, layer: str) -> None:
    if (preset, layer) == ("c_tflite", "7 and 8 bits unsigned"):
        with pytest.raises(QexportError, match=r"memory 'input': .* does not fit 8 signed bits; give it bits = 9"):
            dump(LAYERS[layer], load_layout(preset), tmp_path)
        return
    checked_dump(LAYERS[layer], preset, tmp_path)


def tflite_capture() -> LayerCapture:
    """An int8 layer of two outputs with a multiplier and a shift for each, and an output zero point of 5."""
    capture = make_capture(
        in_channels=3, out_channels=2, weight_bits=8, input_bits=8, input_signed=True, bias=True, kernel=(2, 2)
    )
    steps = (
        Tflite(multiplier=(1518500250, 1073741824), shift=(-7, -8), rounding="double"),
        Add(value=5), Clamp(low=-128, high=127),
    )  # fmt: skip
    output = CodeFormat(bits=8, signed=True, scale=0.1, zero_point=5)
    formats = msgspec.structs.replace(capture.formats, output=output)
    return replace(capture, formats=formats, steps=steps)


def test_c_tflite_writes_what_kernels_of_microcontrollers_take(tmp_path: Path) -> None:
    capture = tflite_capture()
    folder = dump(capture, load_layout("c_tflite"), tmp_path).folder
    assert verify(folder).ok
    numbers = {path.stem: list(map(int, re.findall(r"    (-?\d+),", path.read_text()))) for path in folder.glob("*.h")}
    assert capture.bias is not None
    assert numbers["weight"] == capture.weight.transpose(0, 2, 3, 1).ravel().tolist()
    assert numbers["bias"] == capture.bias.tolist()
    assert (numbers["multiplier"], numbers["shift"]) == ([1518500250, 1073741824], [-7, -8])
    assert numbers["input"] == capture.input.transpose(0, 2, 3, 1).ravel().tolist()
    output = Golden(capture).values("output")
    assert numbers["output"] == output.transpose(0, 2, 3, 1).ravel().tolist()
    assert "static const int8_t weight[24] = {" in (folder / "weight.h").read_text()
    assert "static const int32_t shift[2] = {" in (folder / "shift.h").read_text()


def product_capture(zero: int = 0) -> LayerCapture:
    """A ragged matrix product of signed bytes with an addend."""
    fmt = CodeFormat(bits=8, signed=True, scale=0.5, zero_point=zero)
    rng = np.random.default_rng(0)
    codes = (rng.integers(-128, 128, (2, *sides)) for sides in ((10, 13), (13, 9)))
    left, right = codes
    return LayerCapture(
        layer=MatMul(name="product"), formats=Formats(input=fmt, input2=fmt), input=left, input2=right,
        addend=rng.integers(-999, 999, (2, 10, 9)),
    )  # fmt: skip


@pytest.mark.parametrize("zero", [0, -7])
def test_gemm8x8_feeds_a_systolic_array_cycle_by_cycle(zero: int, tmp_path: Path) -> None:
    """The array is written here: each element works on what its left and upper neighbours had a cycle before."""
    capture = product_capture(zero)
    folder = dump(capture, load_layout("gemm8x8"), tmp_path).folder
    assert verify(folder).ok

    def runs(name: str, tiles: int) -> np.ndarray[Any, Any]:
        words = [int(line, 16) for line in (folder / name).read_text().split()]
        lanes = [[(word >> 8 * lane & 0xFF ^ 0x80) - 0x80 for lane in range(8)] for word in words]
        return np.array(lanes).reshape(2, tiles, 13 + 7, 8) - zero

    left, right, product = runs("input.hex", 2), runs("input2.hex", 2), Golden(capture).accumulator
    assert capture.addend is not None
    for n, mt, pt in np.ndindex(2, 2, 2):
        a, b, sums = (np.zeros((8, 8), np.int64) for _ in range(3))
        for cycle in range(13 + 7 + 7):
            a[:, 1:], b[1:] = a[:, :-1].copy(), b[:-1].copy()
            inside = cycle < 13 + 7
            a[:, 0], b[0] = (left[n, mt, cycle], right[n, pt, cycle]) if inside else (0, 0)
            sums += a * b
        want = (product - capture.addend)[n, mt * 8 : mt * 8 + 8, pt * 8 : pt * 8 + 8]
        np.testing.assert_array_equal(sums[: want.shape[0], : want.shape[1]], want)


def test_gemm8x8_says_that_a_convolution_is_no_matrix_product(tmp_path: Path) -> None:
    with pytest.raises(
        QexportError, match=r"tensor 'input': layer features\.33 has it with the axes n ic iy ix, not n m k"
    ):
        dump(make_capture(), load_layout("gemm8x8"), tmp_path)


def test_one_layout_serves_layers_in_which_a_tensor_has_other_axes(tmp_path: Path) -> None:
    """The input of a convolution and that of a matrix product; what the layer does not have that way is left out."""
    text = 'name = "both"\n' + "".join(
        f'[[memory]]\nname = "m{at}"\ntensor = "input"\norder = "{order}"\nfile = "m{at}.hex"\nradix = "hex"\n'
        "optional = true\n"
        for at, order in enumerate(("n ic iy ix -> | n iy ix | ic", "n m k -> | n m | k"))
    )
    layout = parse_layout(text, "both.toml")
    for capture, name in ((make_capture(), "m0"), (product_capture(), "m1")):
        made = dump(capture, layout, tmp_path)
        assert [entry.name for entry in made.manifest.memories] == [name]
        assert verify(made.folder).ok


def test_int8_writes_bytes_and_32_bit_sums(tmp_path: Path) -> None:
    capture = tflite_capture()
    folder = dump(capture, load_layout("int8"), tmp_path).folder
    assert verify(folder).ok
    for name, values, digits in (
        ("weight", capture.weight.transpose(0, 2, 3, 1), 2),
        ("input", capture.input.transpose(0, 2, 3, 1), 2),
        ("accumulator", Golden(capture).accumulator.transpose(0, 2, 3, 1), 8),
        ("output", Golden(capture).values("output").transpose(0, 2, 3, 1), 2),
    ):
        words = [f"{value % (1 << 4 * digits):0{digits}x}" for value in values.ravel().tolist()]
        assert (folder / f"{name}.hex").read_text().split() == words


# --- how they are found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", CONV_PRESETS)
def test_preset_has_its_files_name_and_a_line_that_says_what_it_serves(preset: str) -> None:
    assert load_layout(preset).name == preset
    lines = (PRESETS / f"{preset}.toml").read_text().splitlines()
    assert lines[0] == f"# {preset_purpose(preset)}"
    assert preset_purpose(preset).endswith(".")
    comments = [line for line in lines if line.startswith("#")]
    assert comments == lines[: len(comments)]
    assert 2 <= len(comments) <= 3


def test_layout_list_is_a_table_of_100_columns() -> None:
    lines = [line.rstrip() for line in cli("layout", "list").stdout.splitlines()]
    assert max(map(len, lines)) <= 100
    for preset, line in zip(preset_names(), lines[1:], strict=True):
        memories = len(tomllib.loads((PRESETS / f"{preset}.toml").read_text())["memory"])
        assert line.split(maxsplit=2) == [preset, str(memories), preset_purpose(preset)]


@pytest.mark.parametrize("preset", CONV_PRESETS)
def test_layout_show_toml_prints_a_text_to_start_from(tmp_path: Path, preset: str) -> None:
    printed = cli("layout", "show", preset, "--toml").stdout
    assert printed == (PRESETS / f"{preset}.toml").read_text()
    (tmp_path / "mine.toml").write_text(printed)
    assert cli("layout", "check", tmp_path / "mine.toml").exit_code == 0
    assert cli("layout", "show", tmp_path / "mine.toml", "--toml").stdout == printed


def test_layout_show_prints_either_toml_or_json() -> None:
    fails(cli("layout", "show", "default", "--toml", "--json"), "either --toml or --json")
