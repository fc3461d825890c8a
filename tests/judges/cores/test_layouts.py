"""Nine layouts of strangers' kind, each with a small design behind the streams of its memories.

Each design passes on the bench of its layout; a fault in it is reported wherever it shows, and nowhere else."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import cli
from tests.judges.cores import strangers
from tests.judges.cores.bench import HERE, Broken, Edit, Faults, Model, Set, convolved, fails, lines_of, passes, signed

INCLUDE = ("--include", HERE / "layouts")
FAULTS = Faults()
pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def operands(tmp_path_factory: pytest.TempPathFactory) -> Set:
    return strangers.set_of("operands", tmp_path_factory.mktemp("operands"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Set]:
    root = tmp_path_factory.mktemp("layouts")
    return {name: strangers.set_of(name, root) for name in strangers.LAYERS}


# ---- what each fault gives ------------------------------------------------------------------------------------------


@FAULTS.plant("ws_taps", "+ tap) * 2 + col]", "+ (tap == 3 ? 1 : tap)) * 2 + col]")
def ws_taps_takes_another_tap(found: Set) -> Broken:
    """Tap 3 has the weights of tap 1."""
    w, x = found.tensor("kernel").copy(), found.tensor("activation")
    w[:, :, 1, 1] = w[:, :, 0, 1]
    tiles = [w[:, :4], np.pad(w[:, 4:], ((0, 0), (0, 3), (0, 0), (0, 0)))]
    planes = [x[:, :4], np.pad(x[:, 4:], ((0, 0), (0, 3), (0, 0), (0, 0)))]
    psums = [np.einsum("oiab,niyx->naboyx", tile, plane) for tile, plane in zip(tiles, planes, strict=True)]
    return {"psum": np.stack(psums, axis=1), "out": np.maximum(convolved(w, x), 0)}


@FAULTS.plant("os_patches", "[row*4+:4]}) * $signed(w", "[(row < 2 ? row : 5 - row)*4+:4]}) * $signed(w")
def os_patches_swaps_positions(found: Set) -> Broken:
    """Positions 2 and 3 of each tile change places; of the second tile they are fill."""
    sums = found.tensor("sum").copy()
    flat = sums.reshape(*sums.shape[:2], 6)
    flat[:, :, 2:4] = flat[:, :, 3:1:-1].copy()
    return {"sum": sums}


@FAULTS.plant("banks", "pixels[k%2*12", "pixels[(1-k%2)*12")
def banks_are_swapped(found: Set) -> Broken:
    """The banks of the pixels change places, and with them the two columns of the plane."""
    return {"sums": convolved(found.tensor("weights"), found.tensor("pixels")[..., ::-1])}


@FAULTS.plant("one_file", "bias[oc]", "bias[0]")
def one_file_has_one_bias(found: Set) -> Broken:
    bias = found.tensor("bias")
    return {"accumulator": convolved(found.tensor("weight"), found.tensor("pixel"), bias=np.full_like(bias, bias[0]))}


@FAULTS.plant("hwc_bytes", "total < -128 ? 8'h80 : ", "")
def hwc_bytes_wraps_below(found: Set) -> Broken:
    """Saturated above, wrapped below."""
    sums = convolved(found.tensor("kernels"), found.tensor("image"))
    return {"result": np.where(sums > 127, 127, signed(sums, 8))}


@FAULTS.plant("tiles_16x16", "it < 2;", "it < 1;")
def tiles_16x16_lacks_a_tile(found: Set) -> Broken:
    sums = convolved(found.tensor("wgt")[:, :16], found.tensor("act")[:, :16])
    return {"code": (sums >> 3).clip(0, 15)}


@FAULTS.plant("simd_2bit", "$signed({1'b0, x[24+at][ic%2*2+:2]})", "$signed(x[24+at][ic%2*2+:2])")
def simd_2bit_half_has_a_sign(found: Set) -> Broken:
    """The low half has a sign."""
    codes = (found.tensor("x") << np.arange(3, -1, -1)).sum(-1)
    return {"y": np.maximum(convolved(found.tensor("w"), codes // 4 * 4 + signed(codes % 4, 2)), 0)}


@FAULTS.plant("gemm_skew", "k+2*col]", "k+col]")
def gemm_skew_is_early(found: Set) -> Broken:
    """The second column of each tile is read one step too early."""
    a, b = found.tensor("a"), found.tensor("b").copy()
    b[:, 1:, 1::2] = b[:, :-1, 1::2].copy()
    b[:, 0, 1::2] = 0
    return {"c": a @ b}


@FAULTS.plant("int8_sums", "(total + 64) >>> 7", "total >>> 7")
def int8_sums_rounds_down(found: Set) -> Broken:
    """Rounded down."""
    return {"y": ((found.tensor("sum") >> 7) - 5).clip(-128, 127)}


@FAULTS.plant("os_patches", "pt * 4 + row < 6 ?", "1'b1 ?")
def os_patches_fills_with_biases(found: Set) -> Broken:
    """Positions 6 and 7, behind the plane, hold the bias."""
    sums, bias = found.tensor("sum"), found.tensor("b")
    below = np.broadcast_to(bias.reshape(1, -1, 1, 1), (*sums.shape[:2], 1, 2))
    return {"sum": np.concatenate([sums, below], axis=2)}


@FAULTS.plant("tiles_16x16", "total < 0 ? 4'd0 :", "ot * 16 + col == 18 ? 4'd3 : total < 0 ? 4'd0 :")
def tiles_16x16_fills_a_lane(found: Set) -> Broken:
    """The first channel that the layer does not have."""
    codes = found.tensor("code")
    return {"code": np.concatenate([codes, np.full_like(codes[:, :1], 3)], axis=1)}


# ---- the tests ------------------------------------------------------------------------------------------------------


def design_of(name: str) -> Path:
    return HERE / "layouts" / f"{name}.sv"


@pytest.mark.parametrize("name", strangers.LAYERS)
def test_a_design_passes_however_the_streams_run(sets: dict[str, Set], name: str) -> None:
    passes(sets[name], design_of(name), strangers.RESULTS[name], *INCLUDE)


def test_verilator_agrees(sets: dict[str, Set]) -> None:
    name = "gemm_skew"
    passes(sets[name], design_of(name), strangers.RESULTS[name], *INCLUDE, simulator="verilator")


@pytest.mark.parametrize(("name", "edit", "gives"), FAULTS, ids=FAULTS.names())
def test_a_fault_is_reported_where_it_shows(
    sets: dict[str, Set], tmp_path: Path, name: str, edit: Edit, gives: Model
) -> None:
    fails(sets[name], edit.of(design_of(name), tmp_path), gives(sets[name]), *INCLUDE)


@pytest.mark.parametrize("defines", ["PLAIN", "PLAIN PADDED", "PLAIN GAIN", "PLAIN PADDED GAIN"])
def test_further_memories_of_an_operand_come_where_the_design_has_their_ports(
    operands: Set, tmp_path: Path, defines: str
) -> None:
    options = [option for define in defines.split() for option in ("--define", define)]
    passes(operands, design_of("operands"), ["y"], *options, *INCLUDE)


def test_a_step_takes_its_numbers_from_the_stream(operands: Set, tmp_path: Path) -> None:
    """The fault: channel 0's number for both; it stands last in its memory."""
    sums = convolved(operands.tensor("w"), operands.tensor("px")) * operands.tensor("gain")[0]
    design = Edit("gain[1 - oc]", "gain[1]").of(design_of("operands"), tmp_path)
    defines = ("--define", "PLAIN", "--define", "PADDED", "--define", "GAIN")
    fails(operands, design, {"y": (sums >> 2).clip(0, 15)}, *defines, *INCLUDE)


def test_the_first_memory_of_an_operand_must_have_ports(operands: Set) -> None:
    options = ("--define", "PADDED", "--dut", design_of("operands"), "--top", "operands", *INCLUDE)
    result = cli("simulate", operands.folder, "--simulator", "icarus", *options)
    assert result.exit_code == 2, result.output
    assert "s_x_tvalid" in result.stderr
    assert "s_gain" not in result.stderr


def alone(name: str, root: Path, edit: Edit | None = None) -> Path:
    """The design in one file, with no include, under the name `dut`."""
    text = design_of(name).read_text().replace(f"module {name}", "module dut")
    text = text.replace('`include "streams.svh"', (HERE / "layouts" / "streams.svh").read_text())
    if edit is not None:
        assert text.count(edit.old) == 1
        text = text.replace(edit.old, edit.new)
    root.mkdir()
    (root / "dut.sv").write_text(text)
    return root / "dut.sv"


def make_sim(folder: Path, design: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", folder, "sim", f"DUT={design}"], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("bench", ["make sim", "stub"])
@pytest.mark.parametrize("name", strangers.LAYERS)
def test_benches_without_python_take_the_design(sets: dict[str, Set], tmp_path: Path, name: str, bench: str) -> None:
    folder = tmp_path / "bench"
    if bench == "stub":
        done = cli("stub", sets[name].folder, "--style", "stream", "--out", folder)
        assert done.exit_code == 0, done.output
    else:
        shutil.copytree(sets[name].folder, folder)  # make writes there
    right = make_sim(folder, alone(name, tmp_path / "right"))
    assert right.returncode == 0, right.stdout + right.stderr
    values = sum(sets[name].compared(result) for result in strangers.RESULTS[name])
    assert f"PASS checks={values} " in right.stdout
    _, edit, gives = next(fault for fault in FAULTS if fault[0] == name)
    wrong = make_sim(folder, alone(name, tmp_path / "wrong", edit))
    assert wrong.returncode != 0
    errors = sum(len(lines_of(sets[name], result, tensor)) for result, tensor in gives(sets[name]).items())
    assert f"FAIL errors={errors} checks={values} of {values}" in wrong.stdout


def test_cocotb_takes_the_design(sets: dict[str, Set], tmp_path: Path) -> None:
    name = "one_file"
    design, folder = alone(name, tmp_path / "right"), tmp_path / "bench"
    done = cli("cocotb", sets[name].folder, "--dut", design, "--top", "dut", "--out", folder)
    assert done.exit_code == 0, done.output
    command = [sys.executable, str(folder / "test_conv.py"), "--simulator", "icarus", "--seed", "1"]
    assert subprocess.run(command, timeout=120).returncode == 0
    design.write_text(design.read_text().replace("bias[oc]", "bias[0]"))
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "lane=0 image=0 oc=1 y=0 x=0 got=20 want=63" in ran.stdout + ran.stderr
