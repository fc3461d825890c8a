"""The self-checking bench passes on what is right, names the place of what is wrong, and fails closed."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport.bench.design import Design
from qexport.core.golden import Golden
from qexport.errors import CheckFailed, QexportError
from qexport.layout.toml import load_layout
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate
from tests.conftest import checked_dump, cli, fails, make_capture, one_memory_layout
from tests.sim.conftest import LIMITS, copied, edited, ragged_capture, resealed, state, tiny_capture

SetOf = Callable[[str], Path]
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)  # where Verilator would need a build more


def failure(folder: Path, simulator: str, *dut: Path, **options: Any) -> list[str]:
    """The lines of the failed check that simulating the set ends with."""
    with pytest.raises(CheckFailed) as caught:
        simulate(folder, simulator, dut, **options).check()
    return str(caught.value).splitlines()


# --- what is right --------------------------------------------------------------------------------------------------


def test_default_layer_passes_with_every_value_compared(simulator: str, set_of: SetOf) -> None:
    verdict = simulate(set_of("default"), simulator).check()
    assert (verdict.simulator, verdict.checks) == (simulator, 8 * (2 * 9 * 36 + 2 * 16 + 2 * 16))


def test_ragged_layer_with_groups_stride_padding_dilation_and_bias_passes(simulator: str, ragged_set: Path) -> None:
    words = 2 * 2 * (2 * 3 * 2 * 7 * 8) + 2 * (2 * 2 * 2 * 4)  # psum; accumulator and relu
    assert simulate(ragged_set, simulator).check().checks == 8 * words


@on_icarus
@pytest.mark.parametrize(
    "facts",
    [
        {"groups": 8},
        {"kind": "linear", "plane": (1, 1), "kernel": (1, 1), "padding": (0, 0, 0, 0), "in_channels": 10},
        {"weight_bits": 1, "weight_signed": False, "input_bits": 1, "out_channels": 1},
        {"weight_bits": 8, "input_signed": True, "weight_signed": False, "bias": True},
    ],
    ids=["depthwise", "linear", "one bit", "unsigned weights"],
)
def test_other_layers_pass(simulator: str, facts: dict[str, object], tmp_path: Path) -> None:
    folder = checked_dump(make_capture(images=1, **facts), "default", tmp_path)  # type: ignore[arg-type]
    assert simulate(folder, simulator).check().checks > 0


def test_set_and_builds_may_lie_in_folders_with_spaces_and_other_letters(
    simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "Ablage für Übersetztes"))
    folder = checked_dump(tiny_capture("spaced"), "default", tmp_path / "Größe der Sätze")
    assert simulate(folder, simulator).check().checks == 96


@on_icarus
def test_relative_paths_work_and_nothing_is_written_into_set_or_working_directory(
    simulator: str, set_of: SetOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(set_of("default"))
    monkeypatch.chdir(tmp_path)
    folder = Path(os.path.relpath(set_of("default")))
    assert simulate(folder, simulator, [folder / "dut.sv"]).check().checks == 5696
    assert list(tmp_path.iterdir()) == []
    assert state(set_of("default")) == before


# --- one wrong word -------------------------------------------------------------------------------------------------

WRONG_VALUE = re.compile(
    r"FAIL memory=(?P<memory>\w+) file=\S+ line=\d+ lane=\d+ (?P<index>.*) got=(?P<got>-?\d+) want=(?P<want>-?\d+)"
)


def complement(path: Path, line: int, lane: int, bits: int) -> None:
    """Invert all bits of one lane of a word, so that its code v becomes -1 - v."""
    lines = path.read_text().splitlines()
    digits = len(lines[line - 1])
    word = int(lines[line - 1], 16) ^ (((1 << bits) - 1) << (digits * 4 - (lane + 1) * bits))
    lines[line - 1] = f"{word:0{digits}x}"
    path.write_text("\n".join(lines) + "\n")


# memory -> tensor index by axis name, its address axes with their sizes in the ragged set, output channel 11 being
# column 3 of tile 1
EXPECTED_WORDS = {
    "psum": (
        (1, 1, 2, 0, 11, 5, 3),
        "image=1 oc=11 it=1 kh=2 kw=0 y=5 x=3",
        (1, 1, 1, 2, 0, 5, 3),
        (2, 2, 2, 3, 2, 7, 8),
    ),
    "accumulator": ((1, 11, 1, 2), "image=1 oc=11 y=1 x=2", (1, 1, 1, 2), (2, 2, 2, 4)),
    "relu": ((1, 11, 0, 3), "image=1 oc=11 y=0 x=3", (1, 1, 0, 3), (2, 2, 2, 4)),
}


@pytest.mark.parametrize("memory", EXPECTED_WORDS)
def test_wrong_expected_word_is_the_only_place_named(
    simulator: str, memory: str, ragged_set: Path, tmp_path: Path
) -> None:
    index, text, address, sizes = EXPECTED_WORDS[memory]
    line, lane = int(np.ravel_multi_index(address, sizes)) + 1, 7 - 3
    true = int(Golden(ragged_capture(), 8).values(memory)[index])
    folder = copied(ragged_set, tmp_path / "set")
    complement(folder / f"{memory}.hex", line, lane, 16)
    resealed(folder)
    place = f"file={memory}.hex line={line} lane={lane} {text}"
    assert failure(folder, simulator)[1:] == [
        f"FAIL memory={memory} {place} got={true} want={-1 - true}",
        f"FAIL memory={memory} 1 of {8 * int(np.prod(sizes))} values are wrong",
        "FAIL errors=1 checks=22016 of 22016 seed=0",
    ]


def check_wrong_values(lines: list[str], right: Golden, wrong: Golden) -> list[tuple[str, dict[str, int]]]:
    """Every named value is what the changed codes give, and all numbers too; returns memory and index of each."""
    named = []
    for match in filter(None, map(WRONG_VALUE.fullmatch, lines)):
        index = {axis: int(value) for axis, value in (part.split("=") for part in match["index"].split())}
        axes = ("image", "it", "kh", "kw", "oc", "y", "x") if match["memory"] == "psum" else ("image", "oc", "y", "x")
        at = tuple(index[axis] for axis in axes)
        got, want = (int(golden.values(match["memory"])[at]) for golden in (wrong, right))
        assert (int(match["got"]), int(match["want"])) == (got, want)
        named.append((match["memory"], index))
    differing = {m: int((right.values(m) != wrong.values(m)).sum()) for m in ("psum", "accumulator", "relu")}
    assert len(named) == min(10, sum(differing.values()))
    for memory, count in differing.items():
        assert any(line.startswith(f"FAIL memory={memory} {count} of ") for line in lines)
    assert lines[-1] == f"FAIL errors={sum(differing.values())} checks=22016 of 22016 seed=0"
    return named


def test_wrong_weight_word_shows_at_its_channel_tap_and_tile_only(
    simulator: str, ragged_set: Path, tmp_path: Path
) -> None:
    folder, capture = copied(ragged_set, tmp_path / "set"), ragged_capture()
    # oc 9 is column 1 of tile 1, ic 9 of its group is row 1 of tile 1
    line = int(np.ravel_multi_index((1, 1, 2, 1, 1), (2, 2, 3, 2, 8))) + 1
    complement(folder / "weight.hex", line, 7 - 1, 4)
    resealed(folder)
    weight = capture.weight.copy()
    weight[9, 9, 2, 1] = -1 - weight[9, 9, 2, 1]
    named = check_wrong_values(
        failure(folder, simulator), Golden(capture, 8), Golden(replace(capture, weight=weight), 8)
    )
    for memory, index in named:
        assert index["oc"] == 9
        assert memory != "psum" or (index["it"], index["kh"], index["kw"]) == (1, 2, 1)


def test_wrong_input_word_shows_at_its_image_and_padded_position_only(
    simulator: str, ragged_set: Path, tmp_path: Path
) -> None:
    folder, capture = copied(ragged_set, tmp_path / "set"), ragged_capture()
    # ic 13 is row 5 of word 1, and channel 3 of group 1, which has output channels 6..11
    line = int(np.ravel_multi_index((1, 1, 3, 2), (2, 3, 6, 5))) + 1
    complement(folder / "input.hex", line, 7 - 5, 4)
    resealed(folder)
    codes = capture.input.copy()
    codes[1, 13, 3, 2] = -1 - codes[1, 13, 3, 2]
    named = check_wrong_values(failure(folder, simulator), Golden(capture, 8), Golden(replace(capture, input=codes), 8))
    for memory, index in named:
        assert index["image"] == 1
        assert index["oc"] >= 6
        assert memory != "psum" or (index["it"], index["y"], index["x"]) == (0, 3 + 1, 2 + 2)


# --- unusable files -------------------------------------------------------------------------------------------------


def in_line_3(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[2] = change(lines[2])
        return b"\n".join(lines)

    return apply


# what is done to the file -> what the bench says, {w} words of {d} digits being right
NO_DIGIT = "line=3 has a character that is not a digit"
FILE_FAULTS: dict[str, tuple[Callable[[bytes], bytes] | None, str]] = {
    "missing": (None, "line=0 cannot be opened"),
    "empty": (lambda data: b"", "line=1 has 0 words, needs {w}"),
    "one word short": (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], "line={w} has {w_less} words, needs {w}"),
    "one word long": (
        lambda data: data + data[data.rindex(b"\n", 0, -1) + 1 :], "line={w_after} has {w_more} words, needs {w}",
    ),
    "one digit more": (in_line_3(lambda word: b"0" + word), "line=3 has a word of {d_more} digits, needs {d}"),
    "one digit less": (in_line_3(lambda word: word[1:]), "line=3 has a word of {d_less} digits, needs {d}"),
    "blank line": (in_line_3(lambda word: b"\n" + word), "line=3 has a word of 0 digits, needs {d}"),
    "junk digit": (in_line_3(lambda word: b"g" + word[1:]), NO_DIGIT),
    "X digit": (in_line_3(lambda word: b"x" + word[1:]), NO_DIGIT),
    "Z digit": (in_line_3(lambda word: word[:-1] + b"z"), NO_DIGIT),
    "upper case": (in_line_3(lambda word: b"A" + word[1:]), NO_DIGIT),
    "underscore": (in_line_3(lambda word: word[:1] + b"_" + word[1:]), NO_DIGIT),
    "carriage return": (in_line_3(lambda word: word + b"\r"), NO_DIGIT),
    "comment": (in_line_3(lambda word: word + b" // a comment"), NO_DIGIT),
    "byte 255": (in_line_3(lambda word: b"\xff" + word[1:]), NO_DIGIT),
    "address": (in_line_3(lambda word: b"@0\n" + word), NO_DIGIT),
    "header line": (lambda data: b"#header#\n" + data, "line=1 has a character that is not a digit"),
    "no final line end": (lambda data: data[:-1], "line={w} ends without a line end"),
    "another digit": (in_line_3(lambda word: word[:-1] + b"%x" % (int(word[-1:], 16) ^ 1)), "line=0 has the checksum"),
    "words backwards": (lambda data: b"\n".join([*data.split(b"\n")[-2::-1], b""]), "line=0 has the checksum "),
}  # fmt: skip


@pytest.mark.parametrize("file", ["weight.hex", "psum.hex"])
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_unusable_file_is_named_and_nothing_is_driven(
    simulator: str, fault: str, file: str, set_of: SetOf, tmp_path: Path
) -> None:
    change, message = FILE_FAULTS[fault]
    folder = copied(set_of("default"), tmp_path / "set")
    data = (folder / file).read_bytes()
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change(data))
    w, d = data.count(b"\n"), data.index(b"\n")
    text = message.format(w=w, w_less=w - 1, w_more=w + 1, w_after=w + 2, d=d, d_less=d - 1, d_more=d + 1)
    said = failure(folder, simulator)[1:]
    assert said[0].startswith(f"FAIL file={file} {text}")
    assert said[1:] == ["FAIL 1 of the files cannot be used; nothing was driven"]


@on_icarus
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "line=0 cannot be opened"),
        (lambda text: "", "line=1 has no number of words and checksum"),
        (lambda text: "x" + text, "line=1 "),
        (lambda text: text.replace(" ", " g", 1), "line=1 has no number of words and checksum"),
        (lambda text: text[: text.rindex("\n", 0, -1)], "line=8 has no number of words and checksum"),
        (lambda text: text.replace("32 ", "33 ", 1), "line=2 is for 33 words, this bench for 32"),
    ],
    ids=["missing", "empty", "X words", "junk", "one line short", "of another geometry"],
)
def test_unusable_file_of_checksums_is_named(
    simulator: str, change: Callable[[str], str | None], message: str, set_of: SetOf, tmp_path: Path
) -> None:
    folder = copied(set_of("default"), tmp_path / "set")
    text = change((folder / "checks.txt").read_text())
    (folder / "checks.txt").unlink()
    if text is not None:
        (folder / "checks.txt").write_text(text)
    said = failure(folder, simulator)
    assert any(line.startswith(f"FAIL file=checks.txt {message}") for line in said), said
    assert "nothing was driven" in said[-1]


# --- designs --------------------------------------------------------------------------------------------------------

Edits = list[tuple[str, str]]
PLACE = "(ot * COL + col, at / OX, at % OX)"
RELU, LAST = f"RELU_BITS'(at_relu{PLACE})", "m_relu_tlast <= ot == OT - 1 && at == OY * OX - 1;"
WRONG: Edits = [(RELU, f"~{RELU}")]
READ_NONCE = 'string said;\n  integer found;\n  initial found = $value$plusargs("nonce=%s", said);\n'
FORGED = r'$display("PASS checks=96 nonce=%0s\nDONE cycles=1 macs=1 \nRECORDED words=12 nonce=%0s", said, said);'
FORGED_END = f"always @(posedge clk) if (state == DONE) begin {FORGED} $finish; end"


def at_end(text: str) -> Edits:
    return [("endmodule", f"  {text}\nendmodule")]


# what is done to the set's dut.sv -> what the failure says
DUT_FAULTS: dict[str, tuple[Edits, str]] = {
    "wrong results": (WRONG, "FAIL errors=32 checks=96 of 96 seed=0"),
    "own PASS with a wrong nonce": (
        at_end('initial begin $display("PASS checks=96 nonce=0123456789abcdef"); $finish; end'),
        "ended without a verdict (exit status 0",
    ),
    "own PASS without a nonce": (
        at_end('initial begin $display("PASS checks=96"); $finish; end'),
        "ended without a verdict (exit status 0, last line: PASS checks=96)",
    ),
    "silent $finish": (at_end("initial $finish;"), "ended without a verdict (exit status 0, last line: nothing)"),
    "$stop": (at_end("initial #20 $stop;"), "ended without a verdict (exit status 1"),
    "forged PASS after FAIL": (WRONG + at_end(READ_NONCE + FORGED_END), "FAIL memory=relu file=relu.hex line=1 lane=0"),
    "forged PASS at the end after FAIL": (
        WRONG + at_end(f"{READ_NONCE} final {FORGED}"), "FAIL errors=32 checks=96 of 96",
    ),
    "forged PASS instead of any work": (
        at_end(f"{READ_NONCE} initial #50 begin {FORGED} $finish; end"), "not all words came back",
    ),
    "never ready for weights": (
        [("s_weight_tready = state == WEIGHTS", "s_weight_tready = 0")], "FAIL memory=weight 0 of 8 words were taken",
    ),
    "never ready for inputs": (
        [("s_input_tready = state == INPUTS", "s_input_tready = 1'b0")], "FAIL memory=input 0 of 4 words were taken",
    ),
    "hangs": ([("state <= RESULTS;", "state <= DONE;")], "FAIL memory=accumulator 0 of 4 words were delivered"),
    "hangs after some results": ([("if (!waits) begin", "if (!waits && at != 2) begin")], "FAIL timeout after "),
    "X in results": (
        [(f"ACCUMULATOR_BITS'(at_accumulator{PLACE})", "'x")],
        "FAIL memory=accumulator file=accumulator.hex line=1 lane=0 image=0 oc=7 y=0 x=0 got=x want=",
    ),
    "X in one bit of psum": (
        [("PSUM_BITS'(sum_of(col))", "PSUM_BITS'(sum_of(col)) ^ (col == 0 ? 16'bx : 16'b0) & 16'b1")],
        "lane=7 image=0 oc=0 it=0 kh=0 kw=0 y=0 x=0 got=X want=",
    ),
    "X on tvalid": ([("m_psum_tvalid <= 1;", "m_psum_tvalid <= 1'bx;")], "m_psum_tvalid of the design is X"),
    "X on tready": (
        [("s_input_tready = state == INPUTS", "s_input_tready = state == INPUTS ? 1'b1 : 1'bx")],
        "cycle=0 s_input_tready of the design is X",
    ),
    "X on tlast": ([(LAST, "m_relu_tlast <= 1'bx;")], "FAIL memory=relu file=relu.hex line=1 tlast got=x want=0"),
    "undriven results": ([(f"m_relu_tdata[col * RELU_BITS +: RELU_BITS] <= {RELU};", "")], "got=x want="),
    "undriven tready": ([("assign s_input_tready = state == INPUTS;", "")], "s_input_tready of the design is X"),
    "no tlast": ([(LAST, "m_relu_tlast <= 0;")], "FAIL memory=relu file=relu.hex line=4 tlast got=0 want=1"),
    "tlast always": ([(LAST, "m_relu_tlast <= 1;")], "FAIL memory=relu file=relu.hex line=1 tlast got=1 want=0"),
    "too many psums": ([("default: ;", "default: m_psum_tvalid <= 1;")], "FAIL memory=psum more than 4 words were"),
    "too many results": ([("default: ;", "default: m_relu_tvalid <= 1;")], "FAIL memory=relu more than 4 words were"),
    "psum omitted": ([("m_psum_tvalid <= 1;", "m_psum_tvalid <= at != 1;")], "FAIL memory=psum 3 of 4 words were"),
    "result omitted": ([("m_relu_tvalid <= 1;", "m_relu_tvalid <= at != 3;")], "FAIL memory=relu 3 of 4 words were"),
    "no results at all": ([("m_relu_tvalid <= 1;", "")], "FAIL memory=relu 0 of 4 words were delivered"),
    "activations signed": ([("$signed({1'b0, x})", "$signed(x)")], "FAIL memory=psum"),
}  # fmt: skip
ON_VERILATOR = ("own PASS with a wrong nonce", "forged PASS after FAIL")


@pytest.mark.parametrize(
    ("simulator", "fault"),
    [("icarus", fault) for fault in DUT_FAULTS] + [("verilator", fault) for fault in ON_VERILATOR],
    indirect=["simulator"],
)
def test_faulty_design_never_passes(simulator: str, fault: str, tiny_set: Path, tmp_path: Path) -> None:
    edits, said = DUT_FAULTS[fault]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", edits)
    with pytest.raises(CheckFailed) as caught:  # what reads the nonce does so with permission: it must not help
        simulate(tiny_set, simulator, Design.read([dut], allow=["plusargs"])).check()
    assert said in str(caught.value)


@on_icarus
def test_what_a_right_design_prints_counts_neither_way(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    begins = 'initial #30 $write("DONE cycles=1 macs=1 ");'  # a line that the bench goes on with
    prints = f'{READ_NONCE} {begins} final begin {FORGED} $display("FAIL overflow in my adder"); end'
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", at_end(prints))
    verdict = simulate(tiny_set, simulator, Design.read([dut], allow=["plusargs"])).check()
    assert verdict.cycles > 1  # not those that it prints
    assert "prints at" in str(verdict)


# what shows only where streams stall: what is done to dut.sv -> what the failure says
STALL_FAULTS: dict[str, tuple[Edits, str]] = {
    "reads what is not valid": ([("INPUTS: if (s_input_tvalid) begin", "INPUTS: begin")], "FAIL memory="),
    "drops an offer": ([("if (m_relu_tready) m_relu", "m_relu")], "m_relu changed its offer before m_relu_tready"),
    "changes an offer": (
        [("wire waits = (m_psum_tvalid && !m_psum_tready) || ", "wire waits = ")],
        "m_psum changed its",
    ),
    "loses a word": ([("s_input_tready = state", "s_input_tready = m_relu_tready && state")], "FAIL memory=input "),
}


@on_icarus
@pytest.mark.parametrize("fault", STALL_FAULTS)
def test_stalls_show_what_a_smooth_run_does_not(simulator: str, fault: str, tiny_set: Path, tmp_path: Path) -> None:
    edits, said = STALL_FAULTS[fault]
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", edits)
    assert simulate(tiny_set, simulator, [dut]).check().checks == 96
    seed = next(seed for seed in range(1, 33) if said in str(outcome(tiny_set, simulator, dut, seed)))
    assert outcome(tiny_set, simulator, dut, seed) == outcome(tiny_set, simulator, dut, seed)


def outcome(folder: Path, simulator: str, dut: Path, seed: int) -> str | None:
    """What a failed run says, None for one that passes."""
    try:
        simulate(folder, simulator, [dut], seed=seed).check()
    except CheckFailed as error:
        return str(error)
    return None


def test_seeds_stall_differently_and_alike_on_every_simulator(simulator: str, set_of: SetOf) -> None:
    cycles = [simulate(set_of("default"), simulator, seed=seed).check().cycles for seed in (0, 1, 2, 2**32 - 1, 1)]
    assert len(set(cycles)) == 4
    assert cycles[1] == cycles[4]
    assert cycles[0] == min(cycles)
    for name in SIMULATORS:
        if SIMULATORS[name].missing() is None:
            assert simulate(set_of("default"), name, seed=1).check().cycles == cycles[1]


def test_design_that_does_not_compile_is_named_with_its_line(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [("ot <= 0;", "ot <= <= 0;")])
    line = dut.read_text().split("<= <=")[0].count("\n") + 1
    with pytest.raises(QexportError, match=re.escape(f"{dut}:{line}:")) as caught:
        simulate(tiny_set, simulator, [dut]).check()
    assert caught.value.exit_code == 2


@on_icarus
def test_loop_that_takes_no_time_is_ended(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", at_end("initial while (1) begin end"))
    for limit in LIMITS:
        with pytest.raises(CheckFailed, match=f"no end after {limit} s") as ended:
            simulate(tiny_set, simulator, [dut], limit=limit).check()
        if "compiles" not in str(ended.value):
            break
    assert "the design hangs" in str(ended.value)


@on_icarus
def test_change_in_a_file_that_the_design_includes_is_seen(simulator: str, tiny_set: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.vh"
    part.write_text(RELU)
    dut = edited(tiny_set / "dut.sv", tmp_path / "dut.sv", [(RELU, f'\n`include "{part}"\n')])
    assert simulate(tiny_set, simulator, [dut]).check().checks == 96
    part.write_text(f"~{RELU}")
    assert failure(tiny_set, simulator, dut)[-1] == "FAIL errors=32 checks=96 of 96 seed=0"


@on_icarus
@pytest.mark.parametrize("file", ["tb_tiny.sv", "tiny_pkg.sv"])
def test_changed_bench_is_not_trusted(simulator: str, file: str, tiny_set: Path, tmp_path: Path) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    (folder / file).write_text((folder / file).read_text().replace("g !== w", "g === 16'bx") + "// mine\n")
    assert file in failure(folder, simulator)[0]


def without_relu(folder: Path, tmp_path: Path) -> Path:
    """A design that forgets the ReLU; in the set the expected results are made to agree with it."""
    (folder / "relu.hex").write_bytes((folder / "accumulator.hex").read_bytes())
    resealed(folder)
    return edited(
        folder / "dut.sv",
        tmp_path / "mine.sv",
        [("at_relu(ot * COL + col, at / OX, at % OX)", "at_accumulator(ot * COL + col, at / OX, at % OX)")],
    )


@on_icarus
def test_files_that_were_changed_to_agree_with_a_wrong_design_never_pass(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    said = failure(folder, simulator, without_relu(folder, tmp_path))
    assert len(said) == 1
    assert (
        "the bench passes on files that are not the dumped ones: checks.txt was changed since the dump, relu.hex was"
        in said[0]
    )


@on_icarus
def test_a_set_without_its_sums_never_passes_and_a_failure_names_what_was_edited(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    complement(folder / "relu.hex", 1, 0, 16)
    assert "(not as dumped: relu.hex): FAIL" in failure(folder, simulator)[0]
    folder = copied(tiny_set, tmp_path / "other")
    (folder / "SHA256SUMS").unlink()
    assert "SHA256SUMS is missing" in failure(folder, simulator)[0]


@on_icarus
def test_a_design_edited_within_the_set_is_refused_with_the_way_out(
    simulator: str, tiny_set: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_set, tmp_path / "set")
    edited(folder / "dut.sv", folder / "dut.sv", [("endmodule", "// mine\nendmodule")])
    assert (
        "dut.sv was changed since the dump; keep your own design outside the set and give it with --dut"
        in (failure(folder, simulator)[0])
    )
    assert simulate(folder, simulator, [folder / "dut.sv"]).check().checks == 96


# --- the command line -----------------------------------------------------------------------------------------------


def test_simulate_reports_what_was_compared(simulator: str, set_of: SetOf) -> None:
    folder = set_of("default")
    result = cli("simulate", folder, "--simulator", simulator)
    assert result.exit_code == 0, result.output
    assert f"PASS, 5696 values compared by {simulator} " in result.stdout
    said = json.loads(cli("simulate", folder, "--simulator", simulator, "--json").stdout)
    (one,) = said["sets"]
    assert one.pop("version")[0].isdigit()
    assert one.pop("bench") is None  # nothing to say: the bench files are what this version writes
    assert one.pop("beside") == []
    assert "products" in one.pop("cannot_see")
    assert one.pop("coverage")["accumulator"]
    cycles = one.pop("cycles")
    assert 2 * 9 * 36 < cycles < 2000  # the model gives one psum word a cycle at most
    macs = 2 * 16 * 8 * 8 * 9
    assert one.pop("macs_per_cycle") == pytest.approx(macs / cycles)
    assert one.pop("utilisation") == pytest.approx(macs / cycles / 64)
    assert one == {
        "set": str(folder), "result": "PASS", "checks": 5696, "not_compared": {}, "seed": 0, "macs": macs,
        "compared": {"psum": 5184, "accumulator": 256, "relu": 256}, "multipliers": 64, "simulator": simulator,
        "streams": ["smooth", "random seed=1", "bursts seed=1", "blocked", "lazy", "reset"],
    }  # fmt: skip
    assert said["ok"]


def test_every_set_of_a_folder_is_judged_and_one_failure_gives_exit_code_1(
    simulator: str, set_of: SetOf, tmp_path: Path
) -> None:
    copied(set_of("default"), tmp_path / "b")
    complement(copied(set_of("default"), tmp_path / "a") / "relu.hex", 1, 0, 16)
    resealed(tmp_path / "a")
    result = cli("simulate", tmp_path, "--simulator", simulator)
    assert result.exit_code == 1, result.output
    assert "FAIL memory=relu file=relu.hex line=1 lane=0 image=0 oc=7 y=0 x=0 got=" in result.stderr
    result = cli("simulate", tmp_path, "--simulator", simulator, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert not said["ok"]
    assert {Path(one["set"]).name: one["result"] for one in said["sets"]} == {"a": "FAIL", "b": "PASS"}


def test_what_cannot_be_simulated_gives_exit_code_2_and_one_line(simulator: str, set_of: SetOf, tmp_path: Path) -> None:
    simulate_it = ("simulate", "--simulator", simulator)
    alone = checked_dump(make_capture(), one_memory_layout("oc ic kh kw -> | oc ic kh kw |"), tmp_path / "alone")
    fails(cli(*simulate_it, alone), "'test'", "without a self-checking bench", "--layout default")
    fails(cli(*simulate_it, tmp_path / "none"), str(tmp_path / "none"), "is not a folder")
    fails(cli(*simulate_it, tmp_path), str(tmp_path), "has no manifest.json")
    fails(cli(*simulate_it, set_of("default"), "--dut", tmp_path / "my.sv"), f"{tmp_path / 'my.sv'} does not exist")
    (tmp_path / "my.sv").write_text("module mine;\nendmodule\n")
    fails(cli(*simulate_it, set_of("default"), "--dut", tmp_path / "my.sv"), "no module 'dut'; it has mine", "--top")


def test_missing_bench_file_gives_exit_code_1(simulator: str, set_of: SetOf, tmp_path: Path) -> None:
    folder = copied(set_of("default"), tmp_path / "set")
    (folder / "tb_features_33.sv").unlink()
    fails(cli("simulate", folder, "--simulator", simulator), "tb_features_33.sv is missing", code=1)


# A design without any arithmetic: it gives the words of the set when the image is in.
KNOWING = """
module dut (
  input wire clk, input wire rst,
  input wire s_weight_tvalid, output wire s_weight_tready, input wire [3:0] s_weight_tdata, input wire s_weight_tlast,
  input wire s_input_tvalid, output wire s_input_tready, input wire [3:0] s_input_tdata, input wire s_input_tlast,
  output wire m_relu_tvalid, input wire m_relu_tready, output wire [15:0] m_relu_tdata, output wire m_relu_tlast
);
  reg [15:0] words [0:31];
  initial $readmemh("RELU", words);
  reg in = 0;
  integer at = 0;
  assign s_weight_tready = 1;
  assign s_input_tready = 1;
  assign m_relu_tvalid = in && at < 32;
  assign m_relu_tdata = words[at % 32];
  assign m_relu_tlast = at == 31;
  always @(posedge clk) begin
    if (s_input_tvalid && s_input_tlast) in <= 1;
    if (m_relu_tvalid && m_relu_tready) at <= at + 1;
  end
endmodule
"""


def test_a_design_with_more_multipliers_than_the_layout_has_no_share_above_all(simulator: str, tmp_path: Path) -> None:
    layout = replace(load_layout("default"), array={"row": 1, "col": 1})
    folder = checked_dump(tiny_capture(), layout, tmp_path / "sets")
    (tmp_path / "knowing.sv").write_text(KNOWING.replace("RELU", str(folder / "relu.hex")))
    given = ("simulate", folder, "--dut", tmp_path / "knowing.sv", "--simulator", simulator)
    fails(cli(*given), "knowing.sv:9: reads ", "or --allow set")
    (tmp_path / "own.hex").write_text((folder / "relu.hex").read_text() + "\n")  # not the same bytes: a table
    (tmp_path / "knowing.sv").write_text(KNOWING.replace("RELU", str(tmp_path / "own.hex")))
    result = cli(*given)
    assert result.exit_code == 0, result.output
    (speed,) = (line for line in result.stdout.splitlines() if line.startswith("speed"))
    assert speed.endswith("more than the layout's array of 1 multiplier")
    assert "%" not in speed
