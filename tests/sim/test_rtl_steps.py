"""The registers behind the reference arrays give the values of their steps, in any rhythm; others are refused."""

import itertools
import math
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qexport.bench.rtl import FOLDER, latency, render_rtl
from qexport.bench.stages import _Lane
from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import Chain, MaxPool, Signal, read_steps, takes_bias
from qexport.errors import QexportError
from qexport.sets.manifest import Manifest, MemoryEntry, read_manifest
from qexport.sim.verilator import Verilator
from tests.conftest import checked_dump, make_capture
from tests.sim.test_rtl import BENCHES, sized, synthesized

ROUNDS = ("floor", "half_up", "half_even", "half_away", "toward_zero")
OC, COL = 10, 4  # a ragged last tile
each = np.random.default_rng(8).integers


def numbers(low: int, high: int) -> list[int]:
    return each(low, high + 1, OC).tolist()


CHAINS: dict[str, tuple[tuple[int, int], list[dict[str, Any]]]] = {
    "none": ((2, 3), []),
    "requantized": (
        (3, 3),
        [
            {"op": "multiply", "by": numbers(-(2**16), 2**16), "name": "module"},
            {"op": "add", "value": numbers(-(2**30), 2**30)},
            {"op": "shift_right", "by": numbers(10, 20), "round": "floor"},
            {"op": "clamp", "low": -100, "high": 127},
        ],
    ),
    "single numbers": (
        (3, 3),
        [
            {"op": "multiply", "by": -77},
            {"op": "add", "value": 64},
            {"op": "shift_right", "by": 7, "round": "half_even"},
            {"op": "relu"},
            {"op": "clamp", "low": 3, "high": 15},
        ],
    ),
    **{
        f"bias behind the shift, {rounding}": (
            (4, 4), [{"op": "shift_right", "by": numbers(0, 6), "round": rounding}, {"op": "bias", "shift": 1}]
        )
        for rounding in ROUNDS
    },
    "shifts beyond the width": (
        (2, 2), [{"op": "shift_right", "by": [0, 11, 12, 13, 14, 15, 16, 30, 61, 62], "round": "half_away"}]
    ),
    "thresholds": (
        (3, 3),
        [
            {"op": "multiply", "by": [1, -1] * 5},
            {"op": "threshold", "first": -8, "table": np.sort(each(-4000, 4001, (OC, 15))).tolist()},
            {"op": "relu"},
        ],
    ),
    "levels that every value reaches": (
        (2, 2), [{"op": "threshold", "first": -100, "table": [[-9000] * 99 + [-9, 9]] * OC}]
    ),
    "pooled": (
        (5, 4),
        [
            {"op": "bias", "shift": 4},
            {"op": "shift_right", "by": 4, "round": "floor"},
            {"op": "max_pool", "kernel": [2, 2]},
            {"op": "clamp", "low": -8, "high": 7},
        ],
    ),
    "pools that overlap": (
        (9, 7),
        [
            {"op": "max_pool", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
            {"op": "multiply", "by": numbers(-9, 9)},
            {"op": "max_pool", "kernel": [3, 2], "stride": [1, 1]},
            {"op": "add", "value": numbers(-9, 9)},
        ],
    ),
    "pooled to one column": ((4, 3), [{"op": "max_pool", "kernel": [2, 3]}, {"op": "add", "value": -1}]),
    "pooled to one": ((3, 3), [{"op": "max_pool", "kernel": [3, 3]}]),
    "pools with gaps": ((7, 8), [{"op": "max_pool", "kernel": [1, 2], "stride": [3, 3], "padding": [0, 0, 1, 0]}]),
    "windows that end together": (
        (4, 5),
        [
            {"op": "max_pool", "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1, 1, 1]},
            {"op": "multiply", "by": numbers(-9, 9)},
            {"op": "max_pool", "kernel": [3, 2], "stride": [1, 2], "padding": [2, 2, 0, 1]},
            {"op": "add", "value": numbers(-9, 9)},
        ],
    ),
    "pool of a column": ((6, 1), [{"op": "max_pool", "kernel": [3, 1], "stride": [2, 1], "padding": [1, 0, 0, 0]}]),
}  # fmt: skip

CHAINS |= {f"{name}, written": CHAINS[name] for name in ("requantized", "single numbers", "thresholds")}  # numbers


@cache
def chain_of(name: str) -> tuple[Chain, Int64]:
    """The chain of a case, and accumulators of two images."""
    plane, documents = CHAINS[name]
    low, high = -3000, 3000
    signal = Signal(("n", "oc", "oy", "ox"), "oc", (OC, *plane), np.full(OC, low), np.full(OC, high))
    bias = np.random.default_rng(3).integers(-500, 501, OC)
    return (
        Chain(read_steps(documents), signal, bias),
        np.random.default_rng(4).integers(low, high + 1, (2, OC, *plane)),
    )


@cache
def manifest_of(name: str, place: Path) -> Manifest:
    """The manifest of a set whose layer has such steps, and memories for the value of each."""
    chain, start = chain_of(name)
    plane = start.shape[2:]
    capture = make_capture(
        images=2, plane=plane, out_channels=OC, in_channels=3, kernel=(1, 1), padding=(0, 0, 0, 0), bias=True
    )
    folder = checked_dump(capture, sized(8, COL), place)
    manifest = read_manifest(folder)
    (accumulator,) = (memory for memory in manifest.memories if memory.name == "accumulator")

    def stored(tensor: str, signal: Signal) -> MemoryEntry:
        bits = IntFormat.holding(*signal.range, True).bits
        sizes = (2, *signal.sizes)
        return msgspec.structs.replace(
            accumulator, name=tensor, tensor=tensor, shape=sizes, bits=bits, word_bits=bits * COL
        )

    kept = [memory for memory in manifest.memories if memory.name not in ("accumulator", "output")]
    entries = {tensor: stored(tensor, signal) for tensor, signal in chain.signals.items()}
    if name.endswith("written"):
        (bias,) = (memory for memory in manifest.memories if memory.name == "bias")
        for tensor, parameter in chain.parameters.items():
            levels = parameter.values.shape[1:]
            entries[tensor] = msgspec.structs.replace(
                bias, name=tensor, tensor=tensor, shape=parameter.values.shape, bits=40,
                word_bits=40 * COL * math.prod(levels), signed=True,
                order="(ot col) level -> | ot | ~col level" if levels else bias.order,
            )  # fmt: skip
    formats = msgspec.structs.replace(
        manifest.formats,
        accumulator=msgspec.structs.replace(manifest.formats.accumulator, bits=13, bounds=chain.start.range),
    )
    bits = IntFormat.holding(*chain.start.range, True).bits
    accumulator = msgspec.structs.replace(accumulator, bits=bits, word_bits=bits * COL)
    return msgspec.structs.replace(
        manifest, memories=(*kept, accumulator, *entries.values()), formats=formats, steps=chain.steps
    )


def rendered(name: str, to: Path, style: str = "ws") -> list[Path]:
    manifest = manifest_of(name, to / "set")
    chain = chain_of(name)[0]
    files = render_rtl(style, manifest, chain)
    for file, text in files.items():
        (to / file).write_text(text)
    return [to / file for file in files]


def held(name: str) -> int:
    """The cycles in which the pools of a case take no word."""
    chain, start = chain_of(name)
    pools = [
        _Lane(step_name, step, before, after, COL, {}).stage(0, "0").pool
        for step_name, step, before, after in zip(chain.names, chain.steps, (chain.start, *chain.signals.values()),
                                                  chain.signals.values(), strict=False)
        if isinstance(step, MaxPool)
    ]  # fmt: skip
    return sum(pool["held"] for pool in pools if pool is not None) * -(-OC // COL) * len(start)


BENCH = """`timescale 1ns / 1ps
module tb;
  reg clk = 0, rst = 1, bias_write = 0, go = 0;
  always #5 clk = !clk;
  reg [31:0] bias_addr;
  reg [{bias_bits}-1:0] biases [0:{tiles}-1];
  reg [{sum_bits}-1:0] sums [0:{words}-1];
  integer at = 0, begun = -1, ended = -1, cycle = 0, pause, seed = 9, k;
  wire free;
  reg offered = 0;
  wire advance = free && go;
  wire valid = at < {words} && offered;
{wires}
  {module} behind (
    .clk(clk), .rst(rst), .bias_write(bias_write), .bias_addr(bias_addr), .bias_data(biases[bias_addr]), {written}
    .advance(advance), .valid(valid && advance), .last(at % {image} == {image} - 1),
    .ot(at % {image} / {places}), .sums(sums[at < {words} ? at : 0]), .free(free){ports}
  );
{sinks}
  always @(posedge clk) begin
    cycle <= cycle + 1;
    go <= $dist_uniform(seed, 0, 99) >= pause;
    offered <= $dist_uniform(seed, 0, 99) >= pause;
    if (!rst && valid && advance) begin
      at <= at + 1;
      if (at == {words} - 1) begun <= cycle;
    end
    if ({any_taken}) ended <= cycle;
  end
  initial begin
    if ($value$plusargs("pause=%d", pause) == 0) pause = 0;
    $readmemh("biases.hex", biases);
    $readmemh("sums.hex", sums);
{loads}
    repeat (3) @(negedge clk);
    for (k = 0; k < {tiles}; k = k + 1) begin
      bias_addr = k;
      bias_write = 1;
      @(negedge clk);
    end
    bias_write = 0;
    rst = 0;
    while (!({all_done}) && cycle < 20000) @(negedge clk);
    repeat (50) @(negedge clk);
    $display("DONE errors=%0d words=%0d late=%0d", {errors}, {got}, ended - begun);
    $finish;
  end
endmodule
"""


def words_of(values: Int64, bits: int) -> list[int]:
    """Words of COL lanes in the order n ot oy ox, lane 0 in the least significant bits."""
    images, channels, rows, columns = values.shape
    padded = np.pad(values, [(0, 0), (0, -channels % COL), (0, 0), (0, 0)]).reshape(images, -1, COL, rows, columns)
    lanes = padded.transpose(0, 1, 3, 4, 2).reshape(-1, COL).tolist()
    return [sum((value & ((1 << bits) - 1)) << (bits * lane) for lane, value in enumerate(word)) for word in lanes]


def run(name: str, to: Path, pause: int, edit: tuple[str, str] = ("", "")) -> tuple[int, int, int]:
    """Errors, words and how late the last result is behind the last sums."""
    sources = rendered(name, to)
    chain, start = chain_of(name)
    manifest = manifest_of(name, to / "set")
    memories = {memory.name: memory for memory in manifest.memories}
    source = next(path for path in sources if path.name.endswith("_results.sv"))
    assert edit[0] in "".join(path.read_text() for path in sources)
    for path in sources:
        path.write_text(path.read_text().replace(*edit) if edit[0] else path.read_text())
    tensors = {"accumulator": start, "relu": np.maximum(start, 0), **chain.values(start)}
    assert chain.bias is not None
    sums = start if takes_bias(chain.steps) else start - chain.bias[:, None, None]
    bias_bits, sum_bits = memories["bias"].bits, 13
    files = {"biases.hex": words_of(chain.bias[None, :, None, None], bias_bits), "sums.hex": words_of(sums, sum_bits)}
    wires, ports, sinks = [], [], []
    for tensor, values in tensors.items():
        bits = memories[tensor].bits
        files[f"{tensor}.hex"] = words_of(values, bits)
        count = len(files[f"{tensor}.hex"])
        wires += [
            f"  wire {tensor}_tvalid, {tensor}_tready, {tensor}_tlast, {tensor}_done;",
            f"  wire [{bits * COL}-1:0] {tensor}_tdata;",
        ]
        ports += [f",\n    .{tensor}_{port}({tensor}_{port})" for port in ("tvalid", "tready", "tdata", "tlast")]
        sinks += [
            f"  sink #(.WIDTH({bits * COL}), .WORDS({count}), .IMAGE({count // 2}), .SEED({len(sinks)}), "
            f'.FILE("{tensor}.hex")) {tensor}_sink (.clk(clk), .rst(rst), .tvalid({tensor}_tvalid), '
            f".tready({tensor}_tready), .tdata({tensor}_tdata), .tlast({tensor}_tlast), .done({tensor}_done));"
        ]
    written, loads = [], []
    for tensor in chain.parameters if name.endswith("written") else ():
        table = chain.parameters[tensor].values.reshape(OC, -1)
        width, levels = 40 * COL * table.shape[1], range(table.shape[1])
        mask = (1 << 40) - 1
        rows = [sum((row[at] & mask) << 40 * (levels[-1] - at) for at in levels) for row in table.tolist()]
        words = (rows[first : first + COL] for first in range(0, OC, COL))
        files[f"{tensor}.hex"] = [sum(v << width // COL * lane for lane, v in enumerate(word)) for word in words]
        wires.append(f"  reg [{width}-1:0] {tensor}_words [0:{-(-OC // COL)}-1];")
        loads.append(f'    $readmemh("{tensor}.hex", {tensor}_words);')
        written.append(
            f".{tensor}_write(bias_write), .{tensor}_addr(bias_addr), .{tensor}_data({tensor}_words[bias_addr]),"
        )
    for file, words in files.items():
        (to / file).write_text("".join(f"{word:x}\n" for word in words))
    places = start.shape[2] * start.shape[3]
    tiles = -(-OC // COL)
    (to / "tb.sv").write_text(
        BENCH.format(
            module=source.stem, bias_bits=bias_bits * COL, sum_bits=sum_bits * COL, tiles=tiles, places=places,
            image=places * tiles, words=2 * places * tiles, wires="\n".join(wires), ports="".join(ports),
            sinks="\n".join(sinks), written=" ".join(written), loads="\n".join(loads),
            all_done=" && ".join(f"{tensor}_done" for tensor in tensors),
            any_taken=" || ".join(f"({tensor}_tvalid && {tensor}_tready)" for tensor in tensors),
            errors=" + ".join(f"{tensor}_sink.errors" for tensor in tensors),
            got=" + ".join(f"{tensor}_sink.at" for tensor in tensors),
        )
    )  # fmt: skip
    command = ["iverilog", "-g2012", "-s", "tb", "-o", "tb.vvp", "tb.sv", str(BENCHES / "sink.sv"), *map(str, sources)]
    done = subprocess.run(command, cwd=to, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["vvp", "-N", "tb.vvp", "+dir=.", "+seed=1", f"+pause={pause}"],
        cwd=to,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.search(r"^DONE errors=(-?\d+) words=(\d+) late=(-?\d+)$", done.stdout, re.MULTILINE)
    assert said is not None, done.stdout + done.stderr
    errors, got, late = map(int, said.groups())
    assert errors or got == sum(len(words) for file, words in files.items() if file[:-4] in tensors), done.stdout
    has_rom = any(path.name.endswith("_rom.sv") for path in sources)
    assert not (name.endswith("written") and has_rom)
    if errors:
        print(done.stdout)
    return errors, got, late


on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)


@on_icarus
@pytest.mark.parametrize("name", CHAINS)
def test_every_value_of_the_steps_in_any_rhythm_and_in_the_documented_cycles(
    simulator: str, name: str, tmp_path: Path
) -> None:
    manifest = manifest_of(name, tmp_path / "set")
    errors, _, late = run(name, tmp_path, 0)
    assert errors == 0
    if name in ("pooled", "pools with gaps"):  # which leave out the last row or column
        assert late < latency(manifest) + 1
    elif name == "windows that end together":  # the others of the last row come later
        assert latency(manifest) + 1 < late <= latency(manifest) + 1 + held(name)
    else:
        assert late == latency(manifest) + 1
    for pause in (20, 60):
        assert run(name, tmp_path, pause)[0] == 0


@on_icarus
@pytest.mark.parametrize("name", CHAINS)
def test_icarus_has_nothing_to_say(simulator: str, name: str, tmp_path: Path) -> None:
    for top in ("dut", "dut_mm"):
        command = ["iverilog", "-g2012", "-Wall", "-s", top, "-o", tmp_path / "sim", *rendered(name, tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("simulator", ["verilator"], indirect=True)
@pytest.mark.parametrize("name", CHAINS)
def test_verilator_has_no_warning(simulator: str, name: str, tmp_path: Path) -> None:
    program, env = Verilator()._found()
    for top in ("dut", "dut_mm"):
        command = [program, "--lint-only", "-Wall", "--timing", "--top-module", top, *rendered(name, tmp_path, "os")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["requantized", "pools that overlap"])
def test_yosys_finds_no_latch(name: str, tmp_path: Path) -> None:
    sources = rendered(name, tmp_path)
    said = synthesized(sources, "hierarchy -check -top dut", "proc", "check -assert", "memory -nomap", "stat")
    assert "$mem_v2" in said


@pytest.mark.parametrize(
    ("plane", "document", "message"),
    [
        ((4, 4), {"op": "wrap", "bits": 8, "signed": True}, "rtl: step step0: the reference RTL has no wrap; "),
        ((4, 4), {"op": "sum_pool", "kernel": [2, 2]}, "rtl: step step0: the reference RTL has no sum_pool; "),
    ],
)
def test_other_steps_are_refused(
    plane: tuple[int, int], document: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(CHAINS, "refused", (plane, [document]))
    chain_of.cache_clear()
    with pytest.raises(QexportError, match=re.escape(message)):
        rendered("refused", tmp_path)
    chain_of.cache_clear()


POOL = """
module case{number} (input clk, input rst, output integer errors, output integer got);
  reg [13:0] words [0:{count}-1], wants [0:{wanted}-1];
  integer at = 0;
  reg offered = 0, go = 0;
  wire hold, next_valid, next_last, next_ot;
  wire [13:0] data;
  {pool} #(
    .COL(2), .WIDTH(7), .OT(2), .OT_BITS(1), .Y({plane[0]}), .X({plane[1]}), .PAD_TOP({padding[0]}),
    .PAD_LEFT({padding[2]}), .KERNEL_Y({kernel[0]}), .KERNEL_X({kernel[1]}), .STRIDE_Y({stride[0]}),
    .STRIDE_X({stride[1]}), .OUT_Y({pooled[0]}), .OUT_X({pooled[1]}), .VISITS_Y({visits[0]}), .VISITS_X({visits[1]})
  ) pool (
    .clk(clk), .rst(rst), .advance(go), .valid(offered), .hold(hold), .ot(at % {count} >= {count} / 2),
    .data(words[at % {count}]), .next_valid(next_valid), .next_last(next_last), .next_ot(next_ot), .next_data(data)
  );
  initial begin
    {{errors, got}} = 0;
    $readmemh("words{number}.hex", words);
    $readmemh("wants{number}.hex", wants);
  end
  always @(posedge clk)
    if (!rst) begin
      go <= $urandom % 4 != 0;
      if (go && !hold) begin
        if (offered) at <= at + 1;
        offered <= at + offered < 2 * {count} && $urandom % 4 != 0;
      end
      if (go && next_valid) begin
        got <= got + 1;
        if (data !== wants[got % {wanted}] || next_ot !== (got % {wanted} >= {wanted} / 2)
            || next_last !== (got % {wanted} == {wanted} - 1)) errors <= errors + 1;
      end
    end
endmodule
"""


def pools() -> list[tuple[Signal, MaxPool]]:
    """Pools of short axes of any size, kernel, stride and padding, two at random in each."""
    axes = [
        (size, kernel, stride, before, behind)
        for size, kernel, stride in itertools.product(range(1, 6), range(1, 5), range(1, 4))
        for before, behind in itertools.product(range(kernel), repeat=2)
        if size + before + behind >= kernel
    ]
    chosen = np.random.default_rng(2).permutation(axes).tolist()
    made = []
    for (height, *down), (width, *along) in zip(chosen[:80], chosen[80:160], strict=True):
        low = np.full(2 * 2, -64)
        signal = Signal(("n", "oc", "oy", "ox"), "oc", (2 * 2, height, width), low, -1 - low)
        fields = [(down[at], along[at]) for at in (0, 1)]
        padding = (*down[2:], *along[2:])
        made.append((signal, MaxPool(kernel=fields[0], stride=fields[1], padding=padding)))
    return made


@on_icarus
def test_pools_of_every_shape_give_every_window_once(simulator: str, tmp_path: Path) -> None:
    modules, total = [], 0
    for number, (signal, step) in enumerate(pools()):
        after = step.after(signal, None)
        values = each(-64, 64, (1, *signal.sizes))
        assert after.plane is not None
        assert step.stride is not None
        want = np.full((1, 4, *after.plane), -64)
        for y, x in np.ndindex(*after.plane):
            top, left = y * step.stride[0] - step.padding[0], x * step.stride[1] - step.padding[2]
            seen = values[..., max(top, 0) : top + step.kernel[0], max(left, 0) : left + step.kernel[1]]
            want[..., y, x] = seen.max(axis=(2, 3))
        for name, array in (("words", values), ("wants", want)):
            lanes = array.reshape(2, 2, -1).transpose(0, 2, 1).reshape(-1, 2) & 127
            (tmp_path / f"{name}{number}.hex").write_text("".join(f"{a + (b << 7):x}\n" for a, b in lanes.tolist()))
        stage = _Lane("pool", step, signal, after, 2, {}).stage(7, "7")
        assert stage.pool is not None
        count, wanted = values.size // 2, want.size // 2
        modules.append(POOL.format(number=number, pool="max_pool", count=count, wanted=wanted, **stage.pool))
        total += 2 * wanted
    cases = range(len(modules))
    calls = "\n".join(
        f"  wire signed [31:0] errors{n}, got{n};\n  case{n} c{n} (clk, rst, errors{n}, got{n});" for n in cases
    )
    shown = "\n".join(f'    if (errors{n} != 0) $display("WRONG case {n}: %0d", errors{n});' for n in cases)
    got = " + ".join(f"got{n}" for n in cases)
    (tmp_path / "tb.sv").write_text(
        f"`timescale 1ns / 1ps\n{''.join(modules)}module tb;\n  reg clk = 0, rst = 1;\n  always #5 clk = !clk;\n"
        f"{calls}\n"
        f"  wire signed [31:0] got = {got};\n  initial begin\n    #35 rst = 0;\n"
        f"    while (got !== {total} && $time < 30000) #10;\n    #500;\n{shown}\n"
        '    $display("GOT %0d", got);\n    $finish;\n  end\nendmodule\n'
    )
    parts = [str(FOLDER / f"{name}.sv") for name in ("max_pool", "pool_scan", "axis", "memory")]
    command = ["iverilog", "-g2012", "-s", "tb", "-o", "tb.vvp", "tb.sv", *parts]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run(["vvp", "-N", "tb.vvp"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"GOT {total}"], said
