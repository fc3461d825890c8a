"""Faults planted as text in designs of two styles, a state machine with one multiplier and a systolic array.

    python -m tests.judges.faults.rtl --sample 10 --keep answers.jsonl

The design is given, so that a cause is said with certainty where it also predicts what fresh stimulus gives."""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import cli
from tests.judges.cores import layers
from tests.judges.cores.bench import Edit, Set
from tests.judges.faults.case import Case, accepted, elsewhere
from tests.judges.faults.run import miss
from tests.judges.notation import Json

MAC = "weight * $signed({1'b0, pixel})"
SUM = f"(starts ? 16'sd0 : sum) + {MAC}"
PRODUCT = "from_north * $signed({1'b0, from_west})"

MAC_FSM = (
    ("weights unsigned", "wire signed [WEIGHT_BITS-1:0] weight =", "wire signed [WEIGHT_BITS:0] weight =",
     "weight_unsigned"),
    ("inputs signed", MAC, "weight * $signed(pixel)", "input.*signed|signed.*input"),
    ("padding of 1", "INPUT_BITS+:INPUT_BITS] : 0;", "INPUT_BITS+:INPUT_BITS] : 1;", "padding_value"),
    ("code wraps", "rounded > 15 ? 4'd15 : ", "", "wrap|clamp|step_clip|narrow"),
    ("codes below 0 wrap", "!there || rounded < 0 ? 4'd0", "!there ? 4'd0", "clamp|clip|wrap|relu|narrow"),
    ("clip at 14", "rounded > 15 ? 4'd15", "rounded > 14 ? 4'd14", "clip|clamp|high 14"),
    ("bias missing", "more + 16'(bias)", "more", "bias_missing"),
    ("bias twice", "more + 16'(bias)", "more + 16'(2 * bias)", "bias.*twice"),
    ("bias of column 0", "bias_word[col*32+:32]", "bias_word[0+:32]", "bias"),
    ("bias of tile 0", "biases[ot]", "biases[0]", "bias"),
    ("absolute value for ReLU", "total < 0 ? 16'sd0 : total", "total < 0 ? -total : total", "abs|size of the value"),
    ("leaky ReLU", "total < 0 ? 16'sd0 : total", "total < 0 ? total >>> 3 : total", "leaky"),
    ("ReLU missing", "total < 0 ? 16'sd0 : total", "total", "relu_missing"),
    ("rounds down", "(total + 16'sd8) >>> 4", "total >>> 4", "floor"),
    ("shift by 3", "(total + 16'sd8) >>> 4", "(total + 16'sd4) >>> 3", "by 3"),
    ("weight address + 1", "8'(COL) + 8'(col);", "8'(COL) + 8'(col) + 8'd1;", r"weight_address.*\+1"),
    ("kernel transposed", "8'(kh)) * 8'(KW) + 8'(kw)) * 8'(COL)", "8'(kw)) * 8'(KW) + 8'(kh)) * 8'(COL)",
     "kh_kw_swapped|transpos"),
    ("rows of the weights reversed", "weight_word[row*WEIGHT_BITS", "weight_word[(ROW-1-row)*WEIGHT_BITS",
     "rows_reversed"),
    ("first product lost", SUM, f"starts ? 16'sd0 : sum + {MAC}", "effective_kernel|product|tap"),
    ("accumulators not cleared", "starts = it == 0 &&", "starts = oy == 0 && ox == 0 && col == 0 && it == 0 &&",
     "stale_accumulator|clear"),
    ("sums of 9 bits", "wire signed [15:0] total = there", "wire signed [8:0] total = there", "accumulator_wraps.*9"),
    ("columns reversed", "m_accumulator_tdata[col*ACCUMULATOR_BITS", "m_accumulator_tdata[(COL-1-col)*ACCUMULATOR_BITS",
     "columns_reversed"),
    ("left padding not taken off", "- 6'(PAD_LEFT)", "", "padding"),
    ("row pitch of the inputs 3", "8'(y)) * 8'(IX) + 8'(x)", "8'(y)) * 8'(IY) + 8'(x)", "pitch"),
    ("right padding reads the next row", "x >= 0 && x < 6'(IX)", "x >= 0", "next row|run on|padding_missing"),
    ("product bit 2 at 1", SUM, f"(starts ? 16'sd0 : sum) + (({MAC}) | 16'sd4)", "product.*bit 2"),
    ("dead element (2, 1)", SUM, f"(starts ? 16'sd0 : sum) + (row == 2 && col == 1 ? 16'sd0 : {MAC})",
     "dead.*row 2, column 1|effective_kernel.*output channel 1, input channel 2"),
    ("product bit 3 at 1 in (0, 1)", SUM, f"(starts ? 16'sd0 : sum) + (row == 0 && col == 1 ? {MAC} | 16'sd8 : {MAC})",
     "product.*row 0, column 1, bit 3"),
    ("accumulator bit 4 at 0", "sum <= more;", "sum <= more & ~16'sd16;", "sum.*bit 4|accumulator.*bit 4"),
    ("weights are never all there", "weights_in <= weights_in + 1;", "weights_in <= weights_in + (weights_in != 5);",
     "valid|hang|stall|no result|never"),
    ("nonsense: by position", "more + 16'(bias)", "(more + 16'(bias)) ^ (16'(ox) * 16'(oy) * 16'd7)", None),
    ("nonsense: a hash", "more + 16'(bias)", "(more + 16'(bias)) * 16'sd20503", None),
    ("nonsense: xor behind the product", SUM, f"(starts ? 16'sd0 : sum) + ({MAC} ^ 16'(weight))", None),
)  # fmt: skip
OS_2X2 = (
    ("kernel transposed", "weights[{out, term[3:2], 1'(l)}]", "weights[{out, term[2], term[3], 1'(l)}]",
     "kh_kw_swapped|transpos"),
    ("element not cleared", "pe00 (clk, beat == 0,", "pe00 (clk, 1'b0,", "stale_accumulator|clear|x_values"),
    ("weights unsigned", PRODUCT, "$signed({1'b0, from_north}) * $signed({1'b0, from_west})", "weight_unsigned"),
    ("inputs signed", PRODUCT, "from_north * $signed(from_west)", "input.*signed|signed.*input"),
    ("product bit 1 at 1", PRODUCT, f"(({PRODUCT}) | 16'sd2)", "product.*bit 1"),
    ("ReLU missing on the right", "right < 0 ? 16'd0 : right", "right", "relu_missing"),
    ("absolute value on the left", "left < 0 ? 16'd0 : left", "left < 0 ? -left : left", "abs|size of the value"),
    ("columns reversed", "m_accumulator_tdata <= {right, left}", "m_accumulator_tdata <= {left, right}",
     "columns_reversed"),
    ("positions in the wrong order", "left = sums[second][0], right = sums[second][1]",
     "left = sums[!second][0], right = sums[!second][1]", "words_swapped|pairs"),
    ("dead element", "pe11 (clk, beat == 2, step, e10, s01,", "pe11 (clk, beat == 2, step, 4'd0, s01,",
     "dead|constant|element"),
    ("kernel column lost in the address", "image[{oy, term[3], ox, term[2]}]", "image[{oy, term[3], ox, 1'b0}]",
     "input_address|address|tap"),
    ("weights of tile 0", "weights[{out, term[3:2], 1'(l)}]", "weights[{1'b0, term[3:2], 1'(l)}]", "weight|tile"),
    ("weights of the other column", "term[3:2], 1'(l)}]", "term[3:2], ~1'(l)}]", "columns_reversed|weight"),
    ("rows of the inputs reversed", "word[4*term[1:0]+:4]", "word[4*(3-term[1:0])+:4]", "rows_reversed"),
    ("last element ends too early", "beat == 17", "beat == 16", "effective_kernel|term|tap|last"),
    ("sums of 8 bits", f"(clear ? 16'sd0 : sum) + {PRODUCT}", f"16'($signed(8'((clear ? 16'sd0 : sum) + {PRODUCT})))",
     "accumulator_wraps.*8"),
    ("inputs of column 1 early", "pe01 (clk, beat == 1, step, e00,", "pe01 (clk, beat == 1, step, west[0],",
     "skew|early|late"),
    ("weight bit 0 at 1", "tap[4*term[1:0]+:4]", "tap[4*term[1:0]+:4] | 4'd1", "weight_bit_stuck.*bit 0"),
    ("input bit 2 at 0", "4'd0 : word[4*term[1:0]+:4]", "4'd0 : word[4*term[1:0]+:4] & 4'd11",
     "input_bit_stuck.*bit 2"),
    ("product bit 2 at 0 in one element", "pe10 (clk, beat == 1, step, west[1], s00, e10, s10, sums[1][0])",
     "pe10 (clk, beat == 1, step, west[1] & 4'd11, s00, e10, s10, sums[1][0])", "input_bit_stuck.*bit 2|row 1"),
    ("nonsense: xor for product", PRODUCT, "(from_north ^ $signed({1'b0, from_west}))", None),
    ("nonsense: sums turn", "(clear ? 16'sd0 : sum)", "(clear ? 16'sd0 : {sum[14:0], sum[15]})", None),
    ("nonsense: sums of squares", PRODUCT, f"({PRODUCT}) * (from_north + 2)", None),
    ("second row too early", "position[l] >= 3", "position[l] >= 2", "address|order|word|x_values"),
)  # fmt: skip
FAULTS: list[tuple[str, str, str, str, str | None]] = [("mac_fsm", *fault) for fault in MAC_FSM] + [
    ("os_2x2", *fault) for fault in OS_2X2
]


def cases() -> Iterator[tuple[Case, Edit]]:
    for design, name, old, new, accept in FAULTS:
        yield (
            Case(name, design, "", elsewhere, tuple(accept.split("|")) if accept else None, kind="rtl"),
            Edit(old, new),
        )


def answer(case: Case, edit: Edit, root: Path, sets: dict[str, Set]) -> Json:
    """What the command says of the planted design, which it runs itself."""
    if case.on not in sets:
        sets[case.on] = layers.set_of(case.on, root / case.on)
    path = edit.of(layers.design_of(case.on), root / "planted" / str(FAULTS.index(place_of(case))))
    options = ("--dut", path, "--top", case.on, "--simulator", "icarus", "--time-limit", 60, "--json")
    result = cli("diagnose", sets[case.on].folder, *options)
    if result.exit_code != 1:
        nothing: Json = {"causes": [], "findings": [], "solved": [], "explained": False, "differing": 0, "total": 0}
        return nothing | {"certainty": "crashed", "summary": (result.output.strip().splitlines() or [""])[-1]}
    told: Json = json.loads(result.stdout)
    return {key: told[key] for key in told if key != "shares"}


def place_of(case: Case) -> tuple[str, str, str, str, str | None]:
    return next(fault for fault in FAULTS if fault[:2] == (case.on, case.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="only so many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a file that takes each answer; those it has are not asked again")
    asked = parser.parse_args()
    chosen = list(cases())
    if asked.sample:
        chosen = random.Random(asked.seed).sample(chosen, min(asked.sample, len(chosen)))
    kept: dict[str, Json] = {}
    if asked.keep and asked.keep.exists():
        kept |= dict(json.loads(line) for line in asked.keep.read_text().splitlines())
    sets: dict[str, Set] = {}
    with tempfile.TemporaryDirectory() as root:
        for case, edit in chosen:
            if case.id not in kept:
                kept[case.id] = answer(case, edit, Path(root), sets)
                if asked.keep:
                    with asked.keep.open("a") as file:
                        file.write(json.dumps([case.id, kept[case.id]]) + "\n")
    judged = [(case, kept[case.id]) for case, _ in chosen]
    print(f"{sum(accepted(*pair) for pair in judged if pair[0].accept is None)} of "
          f"{sum(case.accept is None for case, _ in judged)} nonsense: unexplained")  # fmt: skip
    for design in ("mac_fsm", "os_2x2"):
        of = [pair for pair in judged if pair[0].on == design and pair[0].accept]
        certain = [pair for pair in judged if pair[0].on == design and pair[1]["certainty"] == "certain"]
        print(f"{design}: {sum(accepted(*pair) for pair in of)} of {len(of)} named first; {len(certain)} with "
              f"certainty, {sum(not accepted(*pair) for pair in certain)} of them wrong")  # fmt: skip
    for case, found in judged:
        if not accepted(case, found):
            print(f"- {miss(case, found)}")


if __name__ == "__main__":
    main()
