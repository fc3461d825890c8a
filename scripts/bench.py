"""Speed and memory as ratios, measured side by side in one run: `make bench`. Prints tables; nothing is judged.

The last one, of what vectors see of mistakes, also goes into docs/explanation/trust.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bitstring
import numpy as np
import rate_bench
import runs_bench
import trust_table

from qexport import capture as make_capture
from qexport.bench.context import render
from qexport.bench.rtl import PARTS
from qexport.bench.steps import steps_context
from qexport.build.dump import dump
from qexport.core.intformat import Int64, IntFormat
from qexport.core.network_file import read_network
from qexport.core.network_run import Engine
from qexport.core.operations.registry import operation
from qexport.findings.exhaust.run import exhaust
from qexport.layout.formats.base import WordSpec
from qexport.layout.formats.registry import FORMATS
from qexport.layout.toml import load_layout
from qexport.sets.index import Index
from qexport.sim.registry import SIMULATORS
from qexport.sim.run import simulate

ROOT = Path(__file__).parent.parent
CODE = IntFormat(4, True)
LANES = 8
ROUNDS = 5
PROGRAM = [sys.executable, "-c", "from qexport.cli import main; main()"]


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def loop(codes: Int64) -> bytes:
    """What a notebook does: one numpy element after the other."""
    lines = []
    for word in codes:
        text = ""
        for code in word:
            text += f"{int(code) & 15:x}"
        lines.append(text + "\n")
    return "".join(lines).encode()


def with_bitstring(codes: Int64) -> bytes:
    """The same words by bitstring's arrays, the fastest that it has."""
    digits = bitstring.Array("int4", codes.ravel().tolist()).data.hex
    width = codes.shape[1]
    return "".join(f"{digits[at : at + width]}\n" for at in range(0, len(digits), width)).encode()


def packing() -> None:
    """(a) hex text of features.48's weights."""
    codes = np.random.default_rng(0).integers(-7, 8, (512 * 512 * 9 // LANES, LANES))
    spec, hex_format = WordSpec(LANES, CODE, (), "weight"), FORMATS["hex"]
    text = hex_format.write(codes, spec)
    assert text == loop(codes) == with_bitstring(codes)

    def to_disk() -> None:
        with (Path(folder) / "weight.hex").open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    with tempfile.TemporaryDirectory(dir=".") as folder:
        ours, disk = best(lambda: hex_format.write(codes, spec)), best(to_disk)
    print(f"packing {codes.size:,} codes to hex text ({len(text):,} bytes): {1000 * ours:.1f} ms")
    print(f"  loop over elements   {best(lambda: loop(codes), 1) / ours:8.1f} times as long   (goal: at least 50)")
    print(f"  bitstring            {best(lambda: with_bitstring(codes), 1) / ours:8.1f} times as long")
    print(f"  ours / write + fsync {ours / disk:8.2f}                  (goal: at most 5)")
    print(f"  reading back / ours  {best(lambda: hex_format.read(text, spec)) / ours:8.2f}")


def run(*arguments: str) -> tuple[float, int]:
    """Seconds and peak memory in MB of one run of the program."""
    begin = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [*PROGRAM, *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, to, os.devnull, 1, 0) for to in (1, 2)],
    )
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - begin, usage.ru_maxrss // 1024


def all_layers(pictures: Path) -> None:
    """(b) dump --all for 16, 64 and 256 images."""
    print("\ndump --all --layout stream_nhwc64, the shipped network")
    print("  images  seconds  seconds/image  megabytes written  peak megabytes")
    for images in (16, 64, 256):
        with tempfile.TemporaryDirectory(dir=".") as out:
            seconds, peak = run(
                "dump", "--all", "--checkpoint", "builtin", "--layout", "stream_nhwc64", "--images", str(images),
                "--data", str(pictures), "--out", out,
            )  # fmt: skip
            size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file()) / 1e6
        print(f"  {images:6d}  {seconds:7.1f}  {seconds / images:13.3f}  {size:17.1f}  {peak:14d}")


def make_pictures(folder: Path, count: int) -> None:
    """A test split of noise pictures in CIFAR-10's form of an image folder: speed does not look at what they show."""
    from PIL import Image

    from qexport.frontends.vgg.data import CLASS_NAMES

    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "test" / CLASS_NAMES[number % 10] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def start_to_end() -> None:
    """(c) dump --capture against the bare import of numpy."""
    capture = ROOT / "vectors/features_33/capture.safetensors"

    def dump() -> None:
        with tempfile.TemporaryDirectory(dir=".") as out:
            subprocess.run([*PROGRAM, "dump", "--capture", capture, "--out", out], check=True, capture_output=True)

    bare = best(lambda: subprocess.run([sys.executable, "-c", "import numpy"], check=True))
    ours = best(dump)
    print(f"\ndump --capture start to end: {ours:.2f} s; python -c 'import numpy': {bare:.2f} s")
    print(f"  ratio {ours / bare:.1f}, difference {ours - bare:.2f} s (goal: at most 0.5 s)")


def start_up() -> None:
    """What `qexport verify` imports, and its run, against the bare import of numpy, in turns."""
    imports = "from qexport.cli import main; main.commands['verify']"
    calls = {
        "import numpy": [sys.executable, "-c", "import numpy"],
        "imports of verify": [sys.executable, "-c", imports],
        "verify, start to end": [*PROGRAM, "verify", str(ROOT / "vectors/features_33")],
    }
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(3 * ROUNDS):
        for name, call in calls.items():
            taken = best(lambda call=call: subprocess.run(call, check=True, stdout=subprocess.DEVNULL), 1)  # type: ignore[misc]
            seconds[name] = min(seconds[name], taken)
    print("\nstart-up of qexport verify, as long as 'import numpy' (goal of the imports: at most 1.5 times)")
    for name, taken in seconds.items():
        print(f"  {name:21}  {taken:.3f} s  {taken / seconds['import numpy']:5.2f}")


def strengths() -> None:
    """qexport strength on layer 33 and on a 512x512 layer."""
    print("\nqexport strength, start to end")
    with tempfile.TemporaryDirectory(dir=".") as out:
        for layer in ("33", "48"):
            run("dump", "--layer", layer, "--checkpoint", "builtin", "--layout", "stream_nhwc64", "--images", "4",
                "--out", out)  # fmt: skip
            seconds, peak = run("strength", f"{out}/features_{layer}")
            print(
                f"  layer {layer}, 4 images: {seconds:.2f} s, {peak} MB (goal: {'2 s' if layer == '33' else '2 min'})"
            )


def simulation() -> None:
    """Icarus against Verilator on the sets' own designs; the first run builds, the second finds the build."""
    print("\nqexport simulate, one image, layout default")
    print("  layer  simulator  first run, s  second run, s  cycles/s  multiplications/s")
    with tempfile.TemporaryDirectory(dir=".") as out, tempfile.TemporaryDirectory() as cache:
        os.environ["QEXPORT_CACHE"] = cache
        for layer in ("33", "38"):
            run("dump", "--layer", layer, "--checkpoint", "builtin", "--images", "1", "--out", out)
            for name in SIMULATORS:
                begin = time.perf_counter()
                simulate(Path(out) / f"features_{layer}", name).check()
                middle = time.perf_counter()
                verdict = simulate(Path(out) / f"features_{layer}", name).check()
                second = time.perf_counter() - middle
                print(
                    f"  {layer:5}  {name:9}  {middle - begin:12.1f}  {second:13.2f}  {verdict.cycles / second:8,.0f}"
                    f"  {verdict.macs / second:17,.0f}"
                )


def reference_rtl() -> None:
    """Every quantized layer of the shipped network on the reference arrays, one image, by Verilator."""
    print("\nreference RTL on Verilator, one image")
    print("  set          style  cycles     values compared")
    with tempfile.TemporaryDirectory(dir=".") as out:
        run("dump", "--all", "--checkpoint", "builtin", "--images", "1", "--out", out)
        index = Index.read(Path(out))
        assert index is not None
        for entry in index.sets:
            for style in PARTS:
                files = Path(out) / f"{entry.path}_{style}"
                run("rtl", f"{out}/{entry.path}", "--style", style, "--out", str(files))
                names = (files / "files.f").read_text().split()
                verdict = simulate(Path(out) / entry.path, "verilator", [files / name for name in names]).check()
                print(f"  {entry.path:11}  {style:5}  {verdict.cycles:9,}  {sum(verdict.compared.values()):15,}")


POST = """module post (input clk, input signed [31:0] value, input [5:0] channel, output reg [7:0] code);
  function automatic signed [63:0] at_start(input integer channel, input integer y, input integer x);
    at_start = 0;
  endfunction
{steps}
  reg signed [31:0] v;
  reg [5:0] c;
  always @(posedge clk) begin
    v <= value;
    c <= channel;
    code <= 8'({calls});
  end
endmodule
"""


def exhaustion() -> None:
    """Every accumulator of a layer of 64 channels of int8 through a pipelined module, the build included."""
    rng = np.random.default_rng(0)
    capture = make_capture(
        weight=rng.integers(-100, 101, (64, 3, 3, 3)), input=rng.integers(0, 256, (1, 3, 8, 8)), outputs="uint8",
        weight_scale=2.0**-7, input_scale=2.0**-8, output_scale=0.013, relu=True, name="conv1",
    )  # fmt: skip
    print("\nqexport exhaust, 64 channels of int8")
    with tempfile.TemporaryDirectory(dir=".") as out:
        chain = operation(capture, None).chain
        assert chain is not None
        calls = "64'(v)"
        for name in chain.names:
            calls = f"step_{name}({calls}, 32'(c))"
        context = steps_context(chain.steps, chain.start.sizes, "start", chain.bias)
        steps = render({"steps.svh": "sv/steps.svh.j2"}, context)["steps.svh"]
        dut = Path(out) / "post.sv"
        dut.write_text(POST.format(steps=steps, calls=calls))
        found = exhaust(dump(capture, load_layout("default"), Path(out)).folder, [dut], top="post", latency=2).check()
        assert found.every
        rate = found.compared / found.seconds
        print(f"  {found.compared:,} values in {found.seconds:.1f} s with the build, {rate:,.0f} values/s (goal: 60 s)")


def whole_network() -> None:
    """The shipped network in integers: memory of more pictures, speed beside PyTorch's float32 forward pass."""
    print("\nthe shipped network in integers")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file, pixels = Path(folder) / "vgg.network.safetensors", Path(folder) / "pixels.npy"
        run("import", "builtin", "--out", str(file))
        for images in (64, 1024):
            np.save(pixels, np.random.default_rng(0).integers(0, 256, (images, 3, 32, 32), np.uint8))
            _, peak = run("run", str(file), "--inputs", str(pixels), "--out", f"{folder}/logits.npy")
            print(f"  {images:6d} pictures: peak {peak} MB")
        engine, batch = Engine(read_network(file)), np.load(pixels)[:64]
    import torch  # here, because the memory of this process counts as its children's

    from qexport.frontends.vgg import checkpoint
    from qexport.frontends.vgg.data import normalise

    model = checkpoint.load(checkpoint.BUILTIN).model
    (image,) = engine.network.inputs

    def float32() -> None:
        with torch.no_grad():
            model(normalise(torch.from_numpy(batch)))

    ours = best(lambda: engine.run({image.name: image.codes(batch)}, ["classifier"]))
    ratio = best(float32) / ours
    print(f"  {len(batch) / ours:.0f} pictures/s, {ratio:.2f} times PyTorch's float32 (goal: at least 0.5)")
    data = Path(os.environ.get("QEXPORT_DATA", "data"))
    if data.is_dir():
        subprocess.run([sys.executable, "scripts/network_proof.py", "--data", str(data)], cwd=ROOT, check=True)
    else:
        print("  no CIFAR-10 here (QEXPORT_DATA): not compared with float64 on all test pictures")


def main() -> None:
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}\n")
    packing()
    start_to_end()
    start_up()
    strengths()
    simulation()
    rate_bench.main()
    with tempfile.TemporaryDirectory(dir=".") as pictures:
        make_pictures(Path(pictures), 256)
        all_layers(Path(pictures))
    reference_rtl()
    exhaustion()
    whole_network()
    runs_bench.main()
    print("\nqexport diagnose")
    subprocess.run([sys.executable, "-m", "scripts.diagnose_table"], cwd=ROOT, check=True)
    print("\nwhat vectors see of mistakes, layer 33 (docs/explanation/trust.md)")
    trust_table.main(every=True)


if __name__ == "__main__":
    main()
