"""Put real output between the markers of README.md and docs/, and write the pages that follow from the code.

`python scripts/update_docs.py [--check] [PAGE ...]`: with --check it only says what is out of date (exit 1); with names
of pages it looks at these alone. `reference` stands for those that follow from the code and need no simulator,
`running` for those that run, `shown` for all others.
"""

import functools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
from pages import filled, run_page, running_pages
from reference import WHOLE

from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import Conv2d, MatMul
from qexport.core.golden import Golden
from qexport.core.steps import Round, ShiftRight
from qexport.errors import CheckFailed
from qexport.layout.formats.registry import FORMATS
from qexport.layout.toml import load_layout, parse_layout, preset_names, preset_purpose
from qexport.report.facts import SetFacts
from qexport.report.sets import PLOTS, plot
from qexport.sets.manifest import read_manifest
from qexport.sim.run import simulate

ROOT = Path(__file__).parent.parent
SET = Path("vectors/features_33")
WIDTH = 34


def files() -> str:
    manifest = read_manifest(ROOT / SET)
    tensors = {file.path: f"`{m.tensor}`: `{m.order}`" for m in manifest.memories for file in m.files}
    others = {
        "capture.safetensors": "the codes and PyTorch's output",
        "manifest.json": "what every file holds",
        "SHA256SUMS": "hashes of all other files",
        "params.vh": "sizes, for Verilog",
        "features_33_pkg.sv": "sizes, types, `requantize` and `relu`, as a SystemVerilog package",
        "tb_features_33.sv": "the self-checking bench",
        "features_33_axis_checks.sv": "assertions on the streams, to be bound to your design",
        "dut.sv": "a behavioural design, to be replaced by yours",
        "checks.txt": "words and CRC-32 of the memories, for the bench",
        "files.f": "sources in compile order",
        "features_33.core": "the same for FuseSoC and, through it, other simulators",
        "Makefile": "`make -C vectors/features_33 sim`, Icarus alone",
    }
    rows = ["| file | what it holds | first line |", "|---|---|---|"]
    for name in [*tensors, *others]:
        data = (ROOT / SET / name).read_bytes()
        line = "(binary)" if name.endswith(".safetensors") else data.split(b"\n")[0].decode()
        short = line if len(line) <= WIDTH else line[:WIDTH] + "..."
        rows.append(f"| `{name}` | {(tensors | others)[name].replace('|', chr(92) + '|')} | `{short}` |")
    return "\n".join(rows)


def output(*arguments: str) -> str:
    command = [sys.executable, "-c", "from qexport.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


def show() -> str:
    return f"```\n$ qexport show {SET} weight.hex:5\n{output('show', str(SET), 'weight.hex:5')}\n```"


def verdict() -> str:
    said = output("simulate", str(SET), "--simulator", "icarus")
    return f"```\n{re.sub(r'icarus [0-9.]+', 'icarus', said)}\n```"


@functools.cache
def failure() -> str:
    """What the bench says of a design that does not extend the sign of its weights."""
    signed, unsigned = "$signed(w)", "$signed({1'b0, w})"
    text = (ROOT / SET / "dut.sv").read_text()
    assert signed in text
    with tempfile.TemporaryDirectory() as folder:
        dut = Path(folder) / "dut.sv"
        dut.write_text(text.replace(signed, unsigned))
        try:
            simulate(ROOT / SET, "verilator", [dut]).check()
        except CheckFailed as error:
            lines = [line for line in str(error).splitlines() if line.startswith("FAIL")]
            return "\n".join(["```", *lines[:3], "...", *lines[10:], "```"])
    raise AssertionError("the bench passed a wrong design")


@functools.cache
def diagnosis() -> str:
    """What diagnose says of a design that pads with code 1."""
    capture = LayerCapture.load(ROOT / SET / "capture.safetensors")
    bare = msgspec.structs.replace(capture.layer, padding=(0, 0, 0, 0))
    padded = np.pad(capture.input, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
    entry = next(m for m in read_manifest(ROOT / SET).memories if m.name == "relu")
    values = Golden(LayerCapture(bare, capture.formats, capture.weight, padded)).values("relu")
    tiling = entry.tiling(read_manifest(ROOT / SET).array)
    spec = entry.memory().spec(tiling, entry.element, {})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "relu.hex").write_bytes(FORMATS[entry.radix].write(tiling.tile(values)[0], spec))
        command = [
            sys.executable,
            "-c",
            "from qexport.cli import main; main()",
            "diagnose",
            str(ROOT / SET),
            "--actual",
        ]
        done = subprocess.run([*command, "relu.hex"], cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout.replace(str(ROOT / SET), str(SET)).rstrip()
    return f"```\n$ qexport diagnose {SET} --actual relu.hex\n{said}\n```"


def nibbles() -> str:
    """The worked example of docs/reference/layouts.md: what some orders make of eight weights."""
    layer = Conv2d(name="eight", in_channels=4, out_channels=2, kernel=(1, 1))
    formats = Formats(
        weight=CodeFormat(bits=4, signed=True, scale=1.0), input=CodeFormat(bits=4, signed=False, scale=1.0)
    )
    weight = np.arange(-4, 4).reshape(2, 4, 1, 1)
    capture = LayerCapture(layer, formats, weight, np.ones((1, 4, 1, 1), np.int64))
    rows = ["| order | file | lines |", "|---|---|---|"]
    for order, file, sizes in (
        ("oc (it row) kh kw -> it | oc kh kw | ~row", "w{it}", "row = 2"),
        ("oc (it row) kh kw -> | oc it kh kw | row", "w", "row = 2"),
        ("oc ic kh kw -> | ic | ~oc kh kw", "w", ""),
        ("(oc ic)=(k bank) kh kw -> bank | k kh kw |", "bank{bank}", "bank = 4"),
        ("oc ic kh kw -> (ic oc kh kw)=(word lane) -> | word | ~lane", "stream", "lane = 4"),
        ("oc (it row) kh kw -> (oc it kh kw)=(k bank) row -> bank | k | ~row", "bank{bank}", "row = 2\nbank = 2"),
        ("oc ic kh kw bit -> bit | oc kh kw | ~ic", "plane{bit}", ""),
        ("oc ic kh kw (bit)=(half b) -> half | oc kh kw | ~ic b", "half{half}", "b = 2"),
    ):
        text = (
            f'name = "eight"\n[array]\n{sizes}\n[[memory]]\nname = "w"\ntensor = "weight"\n'
            f'order = "{order}"\nfile = "{file}"\nradix = "hex"\n'
        )
        shown = f"`{order.replace('|', chr(92) + '|')}`" + "".join(f", `{size}`" for size in sizes.split("\n") if size)
        with tempfile.TemporaryDirectory() as out:
            made = dump(capture, parse_layout(text, "eight.toml"), Path(out))
            for entry in made.manifest.memories[0].files:
                lines = ", ".join(f"`{line}`" for line in (made.folder / entry.path).read_text().split())
                rows.append(f"| {shown} | `{entry.path}` | {lines} |")
    return "\n".join(rows)


def presets() -> str:
    """What each preset serves, and the first words of its first memory."""
    layer = Conv2d(name="eight", in_channels=8, out_channels=8, kernel=(3, 3))
    formats = Formats(
        weight=CodeFormat(bits=4, signed=True, scale=1.0), input=CodeFormat(bits=4, signed=False, scale=1.0)
    )
    oc, ic = np.ogrid[:8, :8]
    weight = (ic - oc)[:, :, np.newaxis, np.newaxis] * np.ones((3, 3), np.int64)
    capture = LayerCapture(layer, formats, weight, np.arange(8).reshape(1, 8, 1, 1) * np.ones((4, 4), np.int64))
    row, column = np.ogrid[:8, :8]
    product = LayerCapture(
        MatMul(name="eight"),
        Formats(input=formats.input, input2=formats.weight),
        input=np.broadcast_to(column, (1, 8, 8)),
        input2=(row - column)[np.newaxis],
    )
    rows = ["| preset | what it serves | its first file | first words |", "|---|---|---|---|"]
    for name in preset_names():
        with tempfile.TemporaryDirectory() as out:
            layout = load_layout(name)
            of_product = any("k" in memory.order.tensor_axes for memory in layout.memories)
            made = dump(product if of_product else capture, layout, Path(out))
            memory = made.manifest.memories[0]
            data = (made.folder / memory.files[0].path).read_bytes()
            at = memory.format.lines_of(data, made.manifest.spec(memory), memory.files[0].words)[:2]
            lines = [data.decode().splitlines()[line - 1].strip() for line in at]
        words = [line if len(line) <= WIDTH else f"...{line[-WIDTH:]}" for line in lines]
        shown = ", ".join(f"`{word}`" for word in words)
        rows.append(f"| `{name}` | {preset_purpose(name)} | `{memory.files[0].path}` | {shown} |")
    return "\n".join(rows)


EXAMPLES = ROOT / "docs" / "examples"
CORE, WRAPPER = "mac_loop.v", "mac_loop_axis.sv"
SHOWN_FAILS = 4


def lines_of(file: str, first: str, last: str) -> str:
    """The lines of an example from the one that begins with `first` to the one that begins with `last`."""
    text = (EXAMPLES / file).read_text()
    start = text.index(f"\n{first}") + 1
    return f"```systemverilog\n{text[start : text.index(chr(10), text.index(last, start))]}\n```"


Edit = tuple[str, str, str]  # file, right text, wrong text


def run_core(*options: str, fails: bool, edits: tuple[Edit, ...] = (), top: str = "mac_loop_axis") -> str:
    """The bench of the example on the core with a wrong text instead of a right one: that text, and what is printed."""
    shown = []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "vectors").symlink_to(ROOT / "vectors")
        texts = {file: (EXAMPLES / file).read_text() for file in (CORE, WRAPPER)}
        for file, right, wrong in edits:
            assert texts[file].count(right) == 1, right
            texts[file] = texts[file].replace(right, wrong)
            shown += [f"```systemverilog\n// {file}\n{wrong}\n```\n"] if wrong else []
        for file, text in texts.items():
            (Path(scratch) / file).write_text(text)
        files = [CORE] if top == "mac_loop" else [CORE, WRAPPER]
        arguments = ["simulate", str(SET), *(part for file in files for part in ("--dut", file)), "--top", top]
        arguments += ["--simulator", "icarus", *options]
        program = [sys.executable, "-c", "from qexport.cli import main; main()"]
        done = subprocess.run([*program, *arguments], cwd=scratch, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    lines = [line.rstrip() for line in (done.stderr if fails else done.stdout).splitlines()]
    values = [number for number, line in enumerate(lines) if line.startswith("FAIL memory=") and " got=" in line]
    if len(values) > SHOWN_FAILS:
        lines[values[SHOWN_FAILS] : values[-1] + 1] = ["..."]
    if "not those of dut.sv" in lines[0] and len(lines) > 3 * SHOWN_FAILS:  # a table of ports
        lines[2 + SHOWN_FAILS : -SHOWN_FAILS] = ["..."]
    said = re.sub(r"(icarus) [0-9.]+", r"\1", "\n".join(lines))
    return "\n".join([*shown, f"```\n$ qexport {' '.join(arguments)}\n{said}\n```"])


def wrapped_core(fill: tuple[str, str] | None) -> tuple[str, str, str]:
    """What `wrap` prints of the example, the adapter, and what the bench says of it with a line filled in."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "vectors").symlink_to(ROOT / "vectors")
        (Path(scratch) / CORE).write_text((EXAMPLES / CORE).read_text())

        def run(*arguments: str) -> str:
            program = [sys.executable, "-c", "from qexport.cli import main; main()"]
            done = subprocess.run([*program, *arguments], cwd=scratch, capture_output=True, text=True, check=False)
            lines = [line.rstrip() for line in (done.stdout or done.stderr).rstrip().splitlines()]
            if done.returncode:
                lines[SHOWN_FAILS + 1 : -2] = ["..."]
            text = re.sub(r"(icarus) [0-9.]+", r"\1", "\n".join(lines))
            return f"```\n$ qexport {' '.join(arguments)}\n{text}\n```"

        said = run("wrap", CORE, "--set", str(SET), "--out", "adapter")
        path = Path(scratch) / "adapter" / "mac_loop_adapter.sv"
        adapter = path.read_text()
        if fill is not None:
            assert adapter.count(fill[0]) == 1
            path.write_text(adapter.replace(*fill))
        files = str(Path("adapter") / "files.f")
        verdict = run("simulate", str(SET), "--dut", files, "--top", "mac_loop_adapter", "--simulator", "icarus")
    return said, adapter, verdict


ADDRESS = (
    "    .addr('0),  // FILL IN: address of weight, input, 16 bits",
    """    .addr(16'(input_valid ? (input_iy * IX + input_ix) * IC + input_ic
                          : ((weight_kh * KW + weight_kw) * IC + weight_ic) * OC + weight_oc)),""",
)


def core_wrap() -> str:
    said, adapter, verdict = wrapped_core(None)
    start = adapter.index("  mac_loop #(")
    instance = adapter[start : adapter.index("  );\n", start) + 4]
    return f"{said}\n\n```systemverilog\n// adapter/mac_loop_adapter.sv\n{instance}\n```\n\n{verdict}"


def core_filled() -> str:
    return f"```systemverilog\n{ADDRESS[1]}\n```\n\n{wrapped_core(ADDRESS)[2]}"


def core() -> str:
    return lines_of(CORE, "module mac_loop", ");")


def core_ports() -> str:
    return run_core(fails=True, top="mac_loop")


def core_word() -> str:
    return f"```\n$ qexport show {SET} weight.hex:5\n{output('show', str(SET), 'weight.hex:5')}\n```"


def core_order() -> str:
    return lines_of(WRAPPER, "  // weight.hex:", "  wire integer weight_addr")


def core_first() -> str:
    wide = "output reg  [{} m_accumulator_tdata,"
    lanes = (WRAPPER, wide.format("ACCUMULATOR_WORD_BITS-1:0]"), wide.format("COL*32-1:0]"))
    return run_core(fails=True, edits=((WRAPPER, "  input  wire s_input_tlast,\n", ""), lanes))


def core_lanes() -> str:
    word = "        m_accumulator_tdata[{} * ACCUMULATOR_BITS +: ACCUMULATOR_BITS] <= result;"
    return run_core(fails=True, edits=((WRAPPER, word.format("channel"), word.format("(COL - 1 - channel)")),))


def core_edge() -> str:
    sides = "  wire in_image = py >= 0 && py < H && px >= 0"
    said = run_core(fails=True, edits=((CORE, f"{sides} && px < W;", f"{sides};"),))
    assert set(re.findall(r" x=(\d+)", said)) == {"3"}
    return said


STALL = (
    (WRAPPER, "      if (m_accumulator_tvalid && m_accumulator_tready) begin", "      if (m_accumulator_tvalid) begin"),
)


def core_stall() -> str:
    run_core("--streams", "smooth", fails=False, edits=STALL)
    return run_core("--seed", "1", fails=True, edits=STALL)


def handshake() -> str:
    """The first line of what is said of a design that fails only when stalled."""
    said = run_core(fails=True, edits=STALL)
    line = next(line for line in said.splitlines() if "handshake" in line)
    return f"```\n{line}\n```"


def core_pass() -> str:
    return run_core("--seed", "1", fails=False)


def memory() -> str:
    document = json.loads((ROOT / SET / "manifest.json").read_bytes())
    weight = next(m for m in document["memories"] if m["name"] == "weight")
    return f"```json\n{json.dumps(weight, indent=2, sort_keys=True)}\n```"


def explanation() -> str:
    at = ("--at", "0,5,2,3")
    lines = output("explain", str(SET), *at).splitlines()
    end = lines.index("")
    shown = [*lines[:20], "...", *lines[end - 1 :]]
    return "\n".join(["```", f"$ qexport explain {SET} {' '.join(at)}", *shown, "```"])


def shrunk() -> str:
    """The smallest set for a design with a fault at one input channel, one tap and negative weights."""
    line = "          sum_of = sum_of + "
    fault = "if (channel == 3 && kh == 1 && kw == 2 && $signed(w) < 0) w = -w;"
    text = (ROOT / SET / "dut.sv").read_text()
    assert line in text
    with tempfile.TemporaryDirectory() as folder:
        dut = Path(folder) / "my_core.sv"
        dut.write_text(text.replace(line, f"          {fault}\n{line}"))
        options = ("--dut", str(dut), "--simulator", "icarus", "--budget", "3600")  # the same on a slow machine
        said = output("shrink", str(SET), "--out", f"{folder}/small", *options)
    return f"```\n$ qexport shrink {SET} --out small --dut my_core.sv\n{said.replace(f'{folder}/', '')}\n```"


POST = "post.sv"


@functools.cache
def exhausted(fails: bool) -> str:
    """What exhaust says of the post-processing module of the examples; wrong: half a step in place of the addend."""
    addend = "localparam int ADD = OUTPUT_ADD;"
    text = (EXAMPLES / POST).read_text()
    assert addend in text
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "vectors").symlink_to(ROOT / "vectors")
        half = "localparam int ADD = 1 << (OUTPUT_SHIFT - 1);"
        (Path(scratch) / POST).write_text(text.replace(addend, half) if fails else text)
        arguments = ["exhaust", str(SET), "--dut", POST, "--top", "post"]
        program = [sys.executable, "-c", "from qexport.cli import main; main()"]
        done = subprocess.run([*program, *arguments], cwd=scratch, capture_output=True, text=True, check=False)
    assert done.returncode == fails, done.stdout + done.stderr
    lines = [line.rstrip() for line in (done.stderr if fails else done.stdout).splitlines()]
    said = re.sub(r"verilator [0-9.]+", "verilator", "\n".join(lines))
    shown = f"```systemverilog\n  {half}\n```\n\n" if fails else ""
    return f"{shown}```\n$ qexport {' '.join(arguments)}\n{said}\n```"


def post_module() -> str:
    return f"```systemverilog\n{(EXAMPLES / POST).read_text().rstrip()}\n```"


def post_pass() -> str:
    return exhausted(fails=False)


def post_fail() -> str:
    return exhausted(fails=True)


def plots() -> str:
    rows = ["| `--what` | what it shows |", "|---|---|"]
    for kind in PLOTS:
        titles = [figure.title for figure in PLOTS[kind](SetFacts(ROOT / SET))]
        rows.append(f"| `{kind}` | {', '.join(titles) or 'numbers of the steps that differ between channels'} |")
    return "\n".join(rows)


def roundings() -> str:
    """Ties and what lies beside them, halved in each way."""
    values = [-7, -6, -5, -3, -1, 1, 3, 5, 6, 7]
    rows = [f"| v | {' | '.join(map(str, values))} |", "|---|" + "---|" * len(values)]
    rows.append(f"| v / 2 | {' | '.join(f'{value / 2:g}' for value in values)} |")
    for rounding in get_args(Round):
        halves = ShiftRight(by=1, round=rounding).apply(np.array(values), 0)
        rows.append(f"| `{rounding}` | {' | '.join(map(str, halves))} |")
    return "\n".join(rows)


EXTRAS = {
    "sim": "Verilator, and pyslang, which reads the ports of your module for `--dut`",
    "onnx": "ONNX files",
    "torch": "networks of PyTorch, checkpoints, training",
    "cocotb": "`qexport cocotb`, and to run what it writes",
    "waves": "waves: `diagnose --signal`, and pages of runs with waves",
    "selftest": "Yosys, for `selftest` (Linux and macOS)",
    "dask": "`regress --executor dask:...`",
    "test": "the tests of qexport itself",
    "lint": "its linters",
    "docs": "this site",
    "release": "wheel and sdist, checked",
}


def extras() -> str:
    """The extras of pyproject.toml, each of which must be described here."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert stated.keys() == EXTRAS.keys(), "describe each extra in EXTRAS"
    rows = [f"| `pip install 'qexport[{name}]'` | {EXTRAS[name]} |" for name in stated]
    return "\n".join(["| | for |", "|---|---|", "| `pip install qexport` | the rest |", *rows])


PAGES = {
    "README.md": (verdict, failure, diagnosis),
    "docs/reference/bench.md": (failure, handshake),
    "docs/tutorial/your-core.md": (
        core, core_ports, core_wrap, core_filled, core_word, core_order, core_first, core_lanes, core_edge, core_stall,
        core_pass,
    ),
    "docs/reference/explain.md": (explanation, shrunk),
    "docs/reference/exhaust.md": (post_module, post_pass, post_fail),
    "docs/reference/diagnose.md": (diagnosis,),
    "docs/reference/layouts.md": (nibbles, presets),
    "docs/how-to/report.md": (plots,),
    "docs/reference/program.md": (extras,),
    "docs/reference/vectors.md": (files, show, memory),
    "docs/explanation/exactness.md": (roundings,),
}  # fmt: skip


PICTURES = {"docs/images/report-layer.svg": "layer", "docs/images/report-bits.svg": "bits"}


def made_page(page: str) -> bytes:
    """A page with what its makers give between their markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for make in PAGES[page]:
        text = filled(text, make.__name__, make())
    return text.encode()


def main() -> None:
    groups: dict[str, dict[str, Callable[[], bytes]]] = {
        "reference": {name: lambda make=make: make().encode() for name, make in WHOLE.items()},
        "shown": {name: functools.partial(plot, ROOT / SET, what) for name, what in PICTURES.items()}
        | {name: functools.partial(made_page, name) for name in PAGES},
        "running": {name: functools.partial(run_page, name) for name in running_pages()},
    }
    made = {name: make for group in groups.values() for name, make in group.items()}
    check, wanted = "--check" in sys.argv[1:], [name for name in sys.argv[1:] if name != "--check"] or list(groups)
    if unknown := [name for name in wanted if name not in groups and name not in made]:
        sys.exit(f"no such pages: {', '.join(unknown)}")
    stale = []
    for name in [page for group in wanted for page in groups.get(group, [group])]:
        path, new = ROOT / name, made[name]()
        if not path.is_file() or path.read_bytes() != new:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(new)
    if stale and check:
        sys.exit(f"out of date: {', '.join(stale)}; run scripts/update_docs.py")


if __name__ == "__main__":
    main()
