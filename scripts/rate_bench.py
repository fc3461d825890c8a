"""The bench beside a bare driver around the same design on Verilator, and what a build takes, for `make bench`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qexport.bench.context import BenchStream, bench_streams
from qexport.bench.design import Design
from qexport.bench.interface import interface
from qexport.sets.manifest import read_manifest
from qexport.sim.cache import build_bench
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import read_design, simulate
from qexport.sim.streams import all_streams
from qexport.sim.tools import Job
from qexport.sim.work import work_folder

ROUNDS = 5
STREAM = """  wire {p}_tvalid, {p}_tready, {p}_tlast;
  wire [{width}-1:0] {p}_tdata;
  integer {p}_at = 0;
  always @(posedge clk) if (!rst && {p}_tvalid && {p}_tready) {p}_at <= {p}_at + 1;
"""
DRIVEN = """  reg [{width}-1:0] {p}_words [0:{words}-1];
  initial $readmemh("set/{file}", {p}_words);
  assign {p}_tvalid = !rst && {p}_at < {words}, {p}_tdata = {p}_words[{p}_at % {words}];
  assign {p}_tlast = ({p}_at + 1) % {lasts} == 0;
"""
TAKEN = """  reg [{width}:0] {p}_seen = 0;  // else nothing of the design would be computed
  assign {p}_tready = 1;
  always @(posedge clk) if ({p}_tvalid) {p}_seen <= {p}_seen ^ {{{p}_tlast, {p}_tdata}};
"""
MODULE = """`timescale 1ns / 1ps
module bare;
  reg clk = 0, rst = 1;
  integer cycles = 0;
  always #5 clk = ~clk;
{streams}  dut dut (.clk, .rst{ports});
  always @(posedge clk) begin
    if (cycles == 4) rst <= 0;
    cycles <= cycles + 1;
    if ({done}) begin
      $display("cycles=%0d%h", cycles, {{{seen}}});
      $finish;
    end
  end
endmodule
"""


def bare(streams: list[BenchStream]) -> str:
    """A driver that sends all words as fast as they are taken, takes all results, and looks at nothing."""
    text, ports, done, seen = "", "", [], []
    for s in streams:
        m, p = s.memory, s.port
        facts = {"p": p, "width": m.word_bits, "words": m.total, "lasts": m.lasts, "file": m.loaded[0]}
        text += (STREAM + (DRIVEN if s.driven else TAKEN)).format(**facts)
        ports += "".join(f", .{p}_{part}" for part in ("tvalid", "tready", "tdata", "tlast"))
        if not s.driven:
            done.append(f"{p}_at == {m.total}")
            seen.append(f"{p}_seen")
    return MODULE.format(streams=text, ports=ports, done=" && ".join(done), seen=", ".join(seen))


def seconds(command: list[str], folder: Path) -> float:
    """Those of a core, of the fastest of some runs."""
    times = []
    for _ in range(ROUNDS):
        with open(os.devnull, "wb") as nothing:
            process = subprocess.Popen(command, cwd=folder, stdout=nothing)
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, command
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def measure(folder: Path, files: list[Path], builds: Path) -> tuple[int, float, float]:
    """Words, and the seconds of the bench and of the bare driver around a design."""
    manifest = read_manifest(folder)
    used = SIMULATORS["verilator"]
    with work_folder(folder) as work:
        job = read_design(work, folder, manifest, Design.read(files), used.macros).job
        bench = build_bench(used, job, work.root, work.out / "build.log", builds)
        (work.root / "bare").mkdir()
        driver = work.root / "bare.sv"
        streams = [s for s in bench_streams(manifest, interface(folder, manifest)) if s.needed]
        driver.write_text(bare(streams))
        alone = Job((job.sources[0], driver, *job.sources[2:]), job.include, "bare")
        driven = build_bench(used, alone, work.root / "bare", work.out / "bare.log", builds)
        words = sum(s.memory.total for s in streams)
        arguments = ["+dir=set", "+record=out", "+nonce=0"]
        return words, seconds([str(bench), *arguments], work.root), seconds([str(driven)], work.root)


def made(scratch: Path, layer: int, images: int) -> tuple[Path, list[Path]]:
    """A set of a layer of the shipped network, and its ws array."""
    folder, rtl = scratch / f"features_{layer}", scratch / f"ws_{layer}"
    chosen = ["--layer", str(layer), "--checkpoint", "builtin", "--images", str(images)]
    for arguments in (["dump", *chosen, "--out", scratch], ["rtl", folder, "--style", "ws", "--out", rtl]):
        program = [sys.executable, "-c", "from qexport.cli import main; main()", *map(str, arguments)]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    return folder, [rtl / "files.f"]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        builds = Path(scratch) / "builds"
        builds.mkdir()
        sets = {layer: made(Path(scratch), layer, images) for layer, images in ((33, 16), (7, 1))}
        print("\na design of a user on Verilator, layer 33, in all ways that streams go")
        for what in ("first", "again"):
            begin = time.perf_counter()
            folder, files = sets[33]
            simulate(folder, "verilator", files, streams=all_streams(), builds=builds).check()
            print(f"  {what}: {time.perf_counter() - begin:.2f} s{' (goal: under 1)' * (what == 'again')}")
        print("\nthe bench beside a bare driver around the ws array, on Verilator; seconds of a core")
        print("  layer          words    bench  bare driver  rate of the bench (goal: at least 0.5)")
        for layer, (folder, files) in sets.items():
            words, ours, theirs = measure(folder, files, builds)
            print(f"  features.{layer:<3}  {words:7,}  {ours:7.3f}  {theirs:11.3f}  {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
