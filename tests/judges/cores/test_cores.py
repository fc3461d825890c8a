"""Five accelerators of different style pass; a fault in each is reported wherever it shows, and nowhere else."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.judges.cores import layers
from tests.judges.cores.bench import (
    UNKNOWN,
    Broken,
    Edit,
    Faults,
    Model,
    Set,
    convolved,
    fails,
    padded,
    passes,
    signed,
    simulate,
    unsigned,
)
from tests.judges.notation import Ints

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Set]:
    root = tmp_path_factory.mktemp("cores")
    return {name: layers.set_of(name, root) for name in layers.LAYERS}


def operands(found: Set) -> tuple[Ints, Ints, Ints]:
    names = [m["name"] for m in found.manifest["memories"]]
    bias = found.tensor("bias") if "bias" in names else np.zeros(found.tensor("weight").shape[0], np.int64)
    return found.tensor("weight"), found.tensor("input"), bias


FAULTS = Faults()


# ---- what each fault gives ------------------------------------------------------------------------------------------


def requantized(sums: Ints) -> Broken:
    codes = (sums + 8 >> 4).clip(0, 15)
    return {"accumulator": sums, "relu": np.maximum(sums, 0), "output": codes}


@FAULTS.plant("mac_fsm", "wire signed [WEIGHT_BITS-1:0] weight =", "wire signed [WEIGHT_BITS:0] weight =")
def mac_weight_unsigned(found: Set) -> Broken:
    w, x, bias = operands(found)
    return requantized(convolved(unsigned(w, 4), padded(x, 1, 1, 1, 1), bias=bias))


@FAULTS.plant("mac_fsm", "INPUT_BITS+:INPUT_BITS] : 0;", "INPUT_BITS+:INPUT_BITS] : 1;")
def mac_pads_with_one(found: Set) -> Broken:
    w, x, bias = operands(found)
    return requantized(convolved(w, padded(x, 1, 1, 1, 1, value=1), bias=bias))


@FAULTS.plant("mac_fsm", "rounded > 15 ? 4'd15 : ", "")
def mac_code_wraps(found: Set) -> Broken:
    codes = found.tensor("accumulator") + 8 >> 4
    return {"output": np.where(codes < 0, 0, codes % 16)}


@FAULTS.plant("dot_tree", "$signed(v[4*i+:4])", "$signed({1'b0, v[4*i+:4]})")
def tree_input_unsigned(found: Set) -> Broken:
    w, x, bias = operands(found)
    return {"accumulator": convolved(w, unsigned(x, 4), bias=bias)}


@FAULTS.plant("dot_tree", "p[2*i] + p[2*i+1]", "p[2*i] + (i == 2 ? 8'sd0 : p[2*i+1])")
def tree_lacks_a_leaf(found: Set) -> Broken:
    w, x, bias = operands(found)
    kept = np.arange(x.shape[1]) % 8 != 5
    return {"accumulator": convolved(w[:, kept], x[:, kept], bias=bias)}


@FAULTS.plant("dot_tree", "b[32*column+:16]", "b[32*(column-(column!=0))+:16]")
def tree_bias_of_the_next_lane(found: Set) -> Broken:
    w, x, bias = operands(found)
    lanes = np.pad(bias, (0, 1)).reshape(2, 3)[:, [0, 0, 1]].ravel()
    return {"accumulator": convolved(np.pad(w, ((0, 1), *[(0, 0)] * 3)), x, bias=lanes)}  # the last channel is fill


def rectified(sums: Ints) -> Broken:
    return {"accumulator": sums, "relu": np.maximum(sums, 0)}


@FAULTS.plant(
    "os_2x2",
    "os_pe pe11 (clk, beat == 2, step, e10, s01, e11, s11, sums[1][1]);",
    "wire signed [15:0] low;\n  assign sums[1][1] = 16'($signed(low[7:0]));\n"
    "  os_pe pe11 (clk, beat == 2, step, e10, s01, e11, s11, low);",
)
def array_element_is_narrow(found: Set) -> Broken:
    """Element (1, 1) has odd positions and odd channels, and only 8 bits."""
    sums = found.tensor("accumulator").copy()
    flat = sums.reshape(*sums.shape[:2], -1)
    flat[:, 1::2, 1::2] = signed(flat[:, 1::2, 1::2], 8)
    return rectified(sums)


@FAULTS.plant("os_2x2", "weights[{out, term[3:2], 1'(l)}]", "weights[{out, term[2], term[3], 1'(l)}]")
def array_taps_transposed(found: Set) -> Broken:
    w, x, _ = operands(found)
    return rectified(convolved(w.transpose(0, 1, 3, 2), x, (2, 2)))


@FAULTS.plant("os_2x2", "pe00 (clk, beat == 0,", "pe00 (clk, 1'b0,")
def array_sum_not_cleared(found: Set) -> Broken:
    """Element (0, 0) goes on from what it never had: even positions of even channels."""
    sums = found.tensor("accumulator").copy()
    flat = sums.reshape(*sums.shape[:2], -1)
    flat[:, ::2, ::2] = UNKNOWN
    return {"accumulator": sums, "relu": np.where(sums == UNKNOWN, UNKNOWN, np.maximum(sums, 0))}


@FAULTS.plant("line_buffer", "{sum[1], sum[0]}", "{sum[0], sum[1]}")
def buffer_lanes_swapped(found: Set) -> Broken:
    return {"accumulator": found.tensor("accumulator")[:, ::-1]}


@FAULTS.plant("line_buffer", "window[4*k +: 4]", "window[4*(k%3*3 + k/3) +: 4]")
def buffer_kernel_transposed(found: Set) -> Broken:
    w, x, _ = operands(found)
    return {"accumulator": convolved(w.transpose(0, 1, 3, 2), padded(x, 1, 1, 1, 1))}


@FAULTS.plant("line_buffer", "r > 0 ? two_ago", "r > 2 ? two_ago")
def buffer_first_row_twice(found: Set) -> Broken:
    """The row above the second one is taken for nothing: the window has no top at y = 1."""
    w, x, _ = operands(found)
    sums = found.tensor("accumulator").copy()
    plane = padded(x, 1, 1, 1, 1)
    plane[:, :, 1] = 0
    sums[:, :, 1] = convolved(w, plane)[:, :, 1]
    return {"accumulator": sums}


def partial_sums(w: Ints, x: Ints, tiles: list[list[int]]) -> Ints:
    """n it kh kw oc py px, of a plane that is padded already."""
    return np.stack([np.einsum("oiab,niyx->naboyx", w[:, tile], x[:, tile]) for tile in tiles], axis=1)


@FAULTS.plant("bit_serial", "? -now :", "? now :")
def serial_sign_is_a_value(found: Set) -> Broken:
    w, x, _ = operands(found)
    plane = unsigned(padded(x, 1, 0, 0, 1), 4)
    return {"psum": partial_sums(w, plane, [[0, 1], [2]]), "accumulator": convolved(w, plane)}


@FAULTS.plant("bit_serial", "(run[c] <<< 1) + now;", "(run[c] <<< 1) + (it == 1 && last_bit ? 16'sd0 : now);")
def serial_second_tile_lacks_a_bit(found: Set) -> Broken:
    w, x, _ = operands(found)
    plane = padded(x, 1, 0, 0, 1)
    plane[:, 2] &= ~1
    return {"psum": partial_sums(w, plane, [[0, 1], [2]]), "accumulator": convolved(w, plane)}


@FAULTS.plant("bit_serial", "fresh ? 16'd0 :", "1'b0 ? 16'd0 :")
def serial_totals_go_on(found: Set) -> Broken:
    return {"accumulator": np.full_like(found.tensor("accumulator"), UNKNOWN)}


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layers.LAYERS)
def test_a_design_passes_however_the_streams_run(sets: dict[str, Set], name: str) -> None:
    passes(sets[name], layers.design_of(name), layers.RESULTS[name])


@pytest.mark.parametrize(("name", "edit", "gives"), FAULTS, ids=FAULTS.names())
def test_a_fault_is_reported_where_it_shows(
    sets: dict[str, Set], tmp_path: Path, name: str, edit: Edit, gives: Model
) -> None:
    fails(sets[name], edit.of(layers.design_of(name), tmp_path), gives(sets[name]))


def test_verilator_agrees(sets: dict[str, Set]) -> None:
    passes(
        sets["bit_serial"],
        layers.design_of("bit_serial"),
        layers.RESULTS["bit_serial"],
        "--seed",
        2,
        simulator="verilator",
    )


def test_an_early_tlast_is_reported_at_its_words(sets: dict[str, Set], tmp_path: Path) -> None:
    edit = Edit(
        "wire last = out && pair == 2 && second;", "wire last = out && pair == 2 && second, each = pair == 2 && second;"
    )
    design = Edit("<= {2{last}};", "<= {2{each}};").of(edit.of(layers.design_of("os_2x2"), tmp_path), tmp_path / "two")
    said = simulate(sets["os_2x2"], design, ok=False)["why"]
    want = {
        (name, f"{name}.hex", line) for name in ("accumulator", "relu") for line in ("6", "18")
    }  # 6 positions, 2 tiles
    assert set(re.findall(r"memory=(\w+) file=(\S+) line=(\d+) tlast got=1 want=0", said)) == want
    assert "errors=4 " in said


# what the fault is, where it is planted, the run that finds it, and what is said
HOSTILE = {
    "ignores_tready": (
        "line_buffer",
        [Edit("free = !m_accumulator_tvalid || m_accumulator_tready;", "free = 1'b1;")],
        "random",
        "m_accumulator changed its offer before m_accumulator_tready took it",
    ),
    "ignores_tready_of_one_of_three": (
        "mac_fsm",
        [Edit("if (m_relu_tready) m_relu_tvalid <= 0;", "m_relu_tvalid <= 0;")],
        "random",
        "m_relu changed its offer before m_relu_tready took it",
    ),
    "loses_a_word_after_12_cycles": (
        "line_buffer",
        [
            Edit("reg [2:0] r, c;", "reg [2:0] r, c;\n  reg [3:0] waited;"),
            Edit(
                "if (m_accumulator_tready) m",
                "waited <= m_accumulator_tvalid && !m_accumulator_tready ? waited + 1 : 0;\n"
                "      if (m_accumulator_tready || waited == 12) m",
            ),
        ],
        "bursts",
        "m_accumulator changed its offer before m_accumulator_tready took it",
    ),
    "tvalid_waits_for_tready": (
        "bit_serial",
        [
            Edit("output logic m_psum_tvalid", "output wire m_psum_tvalid"),
            Edit("weighted, pictured;", "weighted, pictured, have;\n  assign m_psum_tvalid = have && m_psum_tready;"),
            Edit("{m_psum_tvalid, m_accumulator_tvalid} <=", "{have, m_accumulator_tvalid} <="),
            Edit("if (m_psum_tready) m_psum_tvalid <= 0", "if (m_psum_tready) have <= 0"),
            Edit("m_psum_tvalid <= 1", "have <= 1"),
            Edit("(m_psum_tvalid && !m_psum_tready ||", "(have && !m_psum_tready ||"),
        ],
        "lazy",
        "memory=psum 0 of 256 words were delivered",
    ),
    "begins_before_its_biases": (
        "dot_tree",
        [Edit("all_weights && all_biases && whole", "all_weights && whole")],
        "random",
        "memory=accumulator",
    ),
    "keeps_a_counter_in_a_reset": (
        "mac_fsm",
        [
            Edit("logic [7:0] weights_in, biases_in,", "logic [7:0] weights_in = 0, biases_in,"),
            Edit("{weights_in, biases_in, pixels_in} <= '0;", "{biases_in, pixels_in} <= '0;"),
        ],
        "reset",
        "memory=accumulator 0 of 48 words were delivered",
    ),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_what_only_hostile_streams_show(sets: dict[str, Set], tmp_path: Path, fault: str) -> None:
    name, edits, streams, said = HOSTILE[fault]
    design = layers.design_of(name)
    for number, edit in enumerate(edits):
        design = edit.of(design, tmp_path / str(number))
    passes(sets[name], design, layers.RESULTS[name], "--streams", "smooth")
    why = simulate(sets[name], design, ok=False)["why"]
    assert f"streams {streams}" in why
    assert "after it passed smooth" in why
    assert said in why
