"""Mistakes edited into the reference RTL, each under the name that `qexport diagnose` has to give it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qexport.errors import CheckFailed
from qexport.sim.run import simulate
from tests.conftest import cli
from tests.sim.conftest import edited


@dataclass(frozen=True)
class Mutant:
    """A mistake in the RTL: the cause's name, the layer whose set shows it, the memory to look at, and the edits."""

    name: str
    layer: str
    memory: str
    edits: Mapping[str, tuple[tuple[str, str], ...]]  # file -> (old, new)


def mutant(name: str, layer: str, memory: str, file: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, layer, memory, {f"{file}.sv": edits})


TAP = "((ot * IT + it) * KH + kh) * KW + kw"
FIRST = "(first_pass ? {ACC_WIDTH{1'b0}} : accumulators[c*ACC_WIDTH +: ACC_WIDTH])"
OLD = "accumulators[c*ACC_WIDTH +: ACC_WIDTH]"
ZEROS = ("  always @(posedge clk) begin\n", "  initial for (int i = 0; i < WORDS; i++) words[i] = 0;\n"
         "  always @(posedge clk) begin\n")  # fmt: skip
SUM = "psum[c*SUM_BITS +: ACC_WIDTH] +"
WHOLE = "wire signed [ACC_WIDTH-1:0] sum = v;"
RECTIFIED = "value[ACC_WIDTH-1] ? {ACC_WIDTH{1'b0}} : value"
ADD = "wire add = advance && psum_valid && meets;"
READ = "tap * COL + COL - 1 - col"
ONE = "features_33"

MUTANTS: Mapping[str, Mutant] = {
    "weights as unsigned": mutant("weight_unsigned", ONE, "relu", "ws_pe", (
        "{WEIGHT_SIGNED != 0 && weight_east[WEIGHT_BITS-1], weight_east}", "{1'b0, weight_east}")),
    "activations as signed": mutant("input_signed", ONE, "accumulator", "ws_pe", (
        "{INPUT_SIGNED != 0 && activation_west[INPUT_BITS-1], activation_west}",
        "{activation_west[INPUT_BITS-1], activation_west}")),
    "weights as sign and magnitude": mutant("sign_magnitude", ONE, "relu", "ws_pe", (
        "{WEIGHT_SIGNED != 0 && weight_east[WEIGHT_BITS-1], weight_east}",
        "weight_east[WEIGHT_BITS-1] ? -$signed({2'b00, weight_east[WEIGHT_BITS-2:0]})"
        " : $signed({1'b0, weight_east})")),
    "kernel rotated": mutant("kernel_rotated", ONE, "output", "ws_array", (
        TAP, "((ot * IT + it) * KH + KH - 1 - kh) * KW + KW - 1 - kw")),
    "kh and kw swapped": mutant("kh_kw_swapped", ONE, "accumulator", "ws_array", (
        TAP, "((ot * IT + it) * KH + kw) * KW + kh")),
    "kernel's rows reversed": mutant("tap_order", ONE, "relu", "ws_array", (
        TAP, "((ot * IT + it) * KH + KH - 1 - kh) * KW + kw")),
    "next tap's weights": mutant("tap_off_by_one", ONE, "relu", "ws_array", (
        TAP, "(" + TAP + " + 1) % (OT * IT * KH * KW)")),
    "middle tap left out": mutant("tap_missing", ONE, "accumulator", "ws_array", (
        ADD, ADD.replace("meets", "meets && !(kh == 1 && kw == 1)"))),
    "middle tap twice": mutant("tap_twice", ONE, "relu", "ws_array", (
        SUM, f"{SUM} (kh == 1 && kw == 1 ? psum[c*SUM_BITS +: ACC_WIDTH] : 0) +")),
    "padding not masked": mutant("padding_missing", ONE, "accumulator", "input_buffer", (
        "in_plane && used[r]", "used[r]")),
    "padding of 8": mutant("padding_value", ONE, "relu", "input_buffer", (
        "in_plane && used[r] ? aligned[r*BITS +: BITS] : BITS'(ZERO)",
        "in_plane ? aligned[r*BITS +: BITS] : (BITS)'(8)")),
    "image a row too low": mutant("padding_shifted", ONE, "relu", "input_buffer", (
        "py - PAD_TOP;", "py - PAD_TOP - 1;")),
    "no ReLU": mutant("relu_missing", ONE, "relu", "results", (RECTIFIED, "value")),
    "ReLU before the last pass": mutant("relu_early", ONE, "relu", "ws_array", (
        FIRST, FIRST.replace(": acc", f": last_pass && {OLD.replace(' +: ACC_WIDTH', '+ACC_WIDTH-1')} ? 0 : acc"))),
    "no rounding": mutant("requant_floor", ONE, "output", "results", ("14'sd4097", "14'sd0")),
    "one shift too few": mutant("scale_power_of_two", ONE, "output", "results", (
        "14'sd4097", "14'sd2048"), ("v >>> 4'd13", "v >>> 4'd12")),
    "sums of 9 bits": mutant("accumulator_wraps", ONE, "accumulator", "results", (
        WHOLE, WHOLE.replace("= v;", "= ACC_WIDTH'($signed(9'(v)));"))),
    "sums saturate at 9 bits": mutant("accumulator_saturates", ONE, "relu", "results", (
        WHOLE, WHOLE.replace("= v;", "= v > 255 ? 255 : v < -256 ? -256 : v;"))),
    "psums of 4 bits": mutant("psum_cut", ONE, "accumulator", "ws_array", (
        SUM, "ACC_WIDTH'($signed(psum[c*SUM_BITS +: 4])) +")),
    "sums not cleared": Mutant("stale_accumulator", ONE, "accumulator", {
        "ws_array.sv": ((FIRST, OLD),), "memory.sv": (ZEROS,)}),
    "weights' address a pass late": mutant("stale_weights", ONE, "relu", "ws_array", (
        f"  wire [31:0] tap = {TAP};",
        f"  reg [31:0] tap = 0;\n  always @(posedge clk) if (pass_done) tap <= {TAP};")),
    "no skew": mutant("skew", ONE, "relu", "ws_grid", (
        "west_skew (\n    .clk(clk), .rst(rst), .advance(advance), .from(activations), .to(west)\n  );",
        "unused (.clk(clk), .rst(rst), .advance(advance), .from(activations), .to());\n  assign west = activations;")),
    "rows of weights reversed": mutant("rows_reversed", ONE, "relu", "ws_grid", (
        "weights[r*WEIGHT_BITS +: WEIGHT_BITS]", "weights[(ROW-1-r)*WEIGHT_BITS +: WEIGHT_BITS]")),
    "columns of weights reversed": mutant("columns_reversed", ONE, "relu", "ws_array", (READ, "tap * COL + col")),
    "activation nibbles swapped": mutant("input_nibbles", ONE, "accumulator", "input_buffer", (
        "write_data[r*BITS +: BITS]", "write_data[(r ^ 1)*BITS +: BITS]")),
    "a result lane at 0": mutant("lane_stuck", ONE, "accumulator", "results", (
        "ACCUMULATOR_BITS'(code);", "c == 3 ? {ACCUMULATOR_BITS{1'b0}} : ACCUMULATOR_BITS'(code);")),
    "sums of nothing": mutant("x_values", ONE, "accumulator", "ws_array", (FIRST, OLD)),
    "no bias": mutant("bias_missing", "ragged", "relu", "results", ("sum = v + ACC_WIDTH'(bias);", "sum = v;")),
    "stride of 1": mutant("stride_ignored", "ragged", "accumulator", "ws_array", (
        ".STRIDE(STRIDE_X)", ".STRIDE(1)"), (".STRIDE(STRIDE_Y)", ".STRIDE(1)")),
    "sums start anew in each tile": mutant("tile_overwritten", "multi", "accumulator", "ws_array", (
        "(first_pass ?", "(kh == 0 && kw == 0 ?")),
    "last input tile left out": mutant("tile_missing", "multi", "relu", "ws_array", (
        SUM, f"(it_last ? 0 : {SUM[:-2]}) +")),
    "input tiles backwards": mutant("input_tile_order", "multi", "relu", "ws_array", (
        TAP, TAP.replace("+ it", "+ IT - 1 - it"))),
    "output tiles backwards": mutant("output_tile_order", "multi", "output", "ws_array", (
        TAP, TAP.replace("ot *", "(OT - 1 - ot) *"))),
}  # fmt: skip


def reference(folder: Path, out: Path) -> Path:
    """The reference RTL of a set."""
    assert cli("rtl", folder, "--style", "ws", "--out", out).exit_code == 0
    return out


def simulated(one: Mutant, folder: Path, rtl: Path, out: Path) -> Path:
    """The words that a mutant gives for its memory, by Icarus; `out` is a new folder."""
    shutil.copytree(rtl, out)
    for file, edits in one.edits.items():
        (part,) = rtl.glob(f"*_{file}")  # behind the name of the layer
        edited(part, out / part.name, edits)
    try:
        simulate(
            folder, "icarus", [out / name for name in (out / "files.f").read_text().split()], keep=out / "keep"
        ).check()
    except CheckFailed:
        return out / "keep" / f"{one.memory}.hex"
    raise AssertionError(f"the bench passed the mutant {one.name}")
