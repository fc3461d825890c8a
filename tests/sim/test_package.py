"""What a set's package and params.vh hold beside sizes: types and functions that equal the golden; no set's names clash
with those of another."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qexport.bench import package
from qexport.build.dump import dump
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.operations.registry import operation
from qexport.core.steps import read_steps
from qexport.layout.toml import load_layout
from qexport.sets.manifest import read_manifest
from tests.conftest import checked_dump, make_capture
from tests.sim.test_steps_bench import CASES, capture_of, layout_for

EXAMPLE = Path(__file__).parent.parent.parent / "vectors" / "features_33"
on_icarus = pytest.mark.parametrize("simulator", ["icarus"], indirect=True)
NEGATIVE = [
    {"op": "multiply", "by": -5},
    {"op": "add", "value": -77},
    {"op": "shift_right", "by": 3, "round": "floor"},
    {"op": "clamp", "low": -8, "high": 7},
]
OF_CASES = (
    "requantized",
    "bias behind the shift, half_even",
    "tflite",
    "leaky",
    "thresholds",
    "none",
    "matmul",
    "pooled",
)

BENCH = """`timescale 1ns / 1ps
module check_{slug};
  import {slug}_pkg::*;
  integer fd, channel, wrong = 0, count = 0;
  reg signed [63:0] v, code, positive;
  acc_t acc;
  initial begin
    fd = $fopen("{slug}.txt", "r");
    while ($fscanf(fd, "%d %d %d %d\\n", channel, v, code, positive) == 4) begin
      acc = v[ACC_WIDTH-1:0];
      count = count + 1;
      if (64'({function}) !== code || 64'(relu(acc)) !== positive) wrong = wrong + 1;
    end
    $display("{slug} wrong=%0d of %0d", wrong, count);
  end
endmodule
"""


def named(capture: LayerCapture, name: str) -> LayerCapture:
    return replace(capture, layer=msgspec.structs.replace(capture.layer, name=name))


def accumulators(capture: LayerCapture) -> dict[str, np.ndarray]:
    """Those of the pictures, and as many others of each channel's bounds, the ends among them."""
    golden = Golden(capture)
    own = golden.values("accumulator")
    least, greatest = operation(capture, None).channel_bounds
    axis = 1 if own.ndim == 4 else 2
    rng, other = np.random.default_rng(7), np.moveaxis(own.copy(), axis, 0)
    for channel in range(len(other)):
        low, high = int(least[channel]), int(greatest[channel])
        drawn = rng.integers(low, high + 1, other[channel].size)
        drawn[:2] = low, high
        other[channel] = drawn.reshape(other[channel].shape)
    return {"pictures": own, "bounds": np.moveaxis(other, 0, axis)}


def write_case(capture: LayerCapture, tensor: str, slug: str, to: Path) -> int:
    """A line for each accumulator: channel, accumulator, the golden's value of the tensor, and relu; how many."""
    lines = []
    for values in accumulators(capture).values():
        golden = Golden(capture, given={"accumulator": values})
        channels = np.broadcast_to(
            np.arange(values.shape[1])[:, None, None] if values.ndim == 4 else np.arange(values.shape[2]), values.shape
        )
        columns = (channels, values, golden.values(tensor), golden.values("relu"))
        lines += ["{} {} {} {}\n".format(*row) for row in zip(*(c.ravel().tolist() for c in columns), strict=True)]
    (to / f"{slug}.txt").write_text("".join(lines))
    return len(lines)


def run(sources: list[Path], tops: list[str], at: Path) -> list[str]:
    command = ["iverilog", "-g2012", "-Wall", *(f"-s{top}" for top in tops), "-o", str(at / "sim"), *map(str, sources)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return subprocess.run(["vvp", "sim"], cwd=at, capture_output=True, text=True, check=True).stdout.splitlines()


@on_icarus
def test_requantize_and_relu_of_the_package_equal_the_golden(simulator: str, tmp_path: Path) -> None:
    sources: list[Path] = []
    expected: dict[str, str] = {}

    def add(slug: str, package_file: Path, function: str, capture: LayerCapture, tensor: str = "output") -> None:
        count = write_case(capture, tensor, slug, tmp_path)
        (tmp_path / f"check_{slug}.sv").write_text(BENCH.format(slug=slug, function=function))
        sources.extend([package_file, tmp_path / f"check_{slug}.sv"])
        expected[slug] = f"{slug} wrong=0 of {count}"

    for number, name in enumerate(OF_CASES):
        capture, slug = named(capture_of(name), f"case{number}"), f"case{number}"
        text = dump(capture, layout_for(name), tmp_path).folder / f"{slug}_pkg.sv"
        if name == "pooled":  # no one function gives what a pool gives
            assert "function automatic output_t requantize" not in text.read_text()
            before = "step_step2(step_step1(step_step0(64'(acc), channel), channel), channel)"
            add(slug, text, before, capture, "step2")
        else:
            add(slug, text, "requantize(acc, channel)", capture)
    negative = replace(named(capture_of("none"), "negative"), steps=read_steps(NEGATIVE))
    folder = dump(negative, load_layout("default"), tmp_path).folder
    product = "(64'(acc) * OUTPUT_MUL + OUTPUT_ADD) >>> OUTPUT_SHIFT"
    clipped = f"({product} < OUTPUT_MIN ? OUTPUT_MIN : {product} > OUTPUT_MAX ? OUTPUT_MAX : {product})"
    add(
        "negative",
        folder / "negative_pkg.sv",
        f"requantize(acc, channel) === 4'({clipped}) ? {clipped} : 64'sd99",
        negative,
    )
    add(
        "features_33",
        EXAMPLE / "features_33_pkg.sv",
        "requantize(acc, channel)",
        LayerCapture.load(EXAMPLE / "capture.safetensors"),
    )

    rounded = (tmp_path / "case0" / "case0_pkg.sv").read_text()  # and a wrong one is seen
    assert "1'b0 ? below" in rounded
    wrong = tmp_path / "wrong_pkg.sv"
    wrong.write_text(rounded.replace("case0_pkg", "wrong_pkg").replace("1'b0 ? below", "rest > 0 ? below"))
    add("wrong", wrong, "requantize(acc, channel)", capture_of("requantized"))
    said = dict(line.split(" ", 1) for line in run(sources, [f"check_{slug}" for slug in expected], tmp_path))
    assert not said["wrong"].startswith("wrong=0 ")
    del said["wrong"], expected["wrong"]
    assert said == {slug: line.split(" ", 1)[1] for slug, line in expected.items()}


def test_types_are_those_of_the_formats(tmp_path: Path) -> None:
    folder = checked_dump(replace(capture_of("tflite"), steps=read_steps(CASES["tflite"])), "default", tmp_path)
    text, formats = (folder / "features_33_pkg.sv").read_text(), read_manifest(folder).formats
    assert "typedef logic signed [3:0] weight_t;" in text
    assert "typedef logic [3:0] code_t;" in text
    assert f"typedef logic signed [{formats.accumulator.bits - 1}:0] acc_t;" in text
    assert "typedef logic signed [15:0] output_t;" in text  # no format of its own
    assert "typedef logic [WEIGHT_WORD_BITS-1:0] weight_word_t;" in text


def test_too_many_numbers_stay_out_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MOST_NUMBERS", 29)
    folder = dump(capture_of("requantized"), load_layout("default"), tmp_path).folder
    text = (folder / "features_33_pkg.sv").read_text()
    assert "The steps have more than 29 numbers" in text
    assert "step_" not in text.replace("step_functions", "")
    assert "requantize(" not in text


TWO = """`include "one/params.vh"
`include "two/params.vh"
`include "one/params.vh"
module both;
  initial $display("%0d %0d %0d %s", `ONE_IC, `TWO_IC, `ONE_WEIGHT_WORDS, `TWO_WEIGHT_FILE);
endmodule
"""
INSIDE = """module first;
`include "one/params.vh"
  initial $display("%0d %0d", IC, `ONE_IC);
endmodule
module second;
`include "two/params.vh"
  initial $display("%0d %0d", IC, `TWO_IC);
endmodule
module third;
`include "one/params.vh"
  initial $display("%0d", IC);
endmodule
"""


@on_icarus
def test_the_files_of_two_sets_stand_in_one_compile(simulator: str, tmp_path: Path) -> None:
    for name, channels in (("one", 3), ("two", 5)):
        checked_dump(make_capture(name=name, in_channels=channels, plane=(2, 2), images=1), "default", tmp_path)

    def said(source: str, *options: str) -> list[str]:
        (tmp_path / "mine.v").write_text(source)
        command = [
            "iverilog",
            *options,
            "-Wall",
            "-I",
            str(tmp_path),
            "-o",
            str(tmp_path / "sim"),
            str(tmp_path / "mine.v"),
        ]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (built.returncode, built.stderr) == (0, "")
        return sorted(subprocess.run(["vvp", "sim"], cwd=tmp_path, capture_output=True, text=True).stdout.splitlines())

    assert said(TWO, "-g2005", "-DQEXPORT_MACROS_ONLY") == ["3 5 72 weight.hex"]
    assert said(INSIDE, "-g2005") == ["3", "3 3", "5 5"]
    sources = [
        tmp_path / name / file
        for name in ("one", "two")
        for file in (f"{name}_pkg.sv", f"{name}_axis_checks.sv", f"tb_{name}.sv")
    ]
    command = ["iverilog", "-g2012", "-Wall", "-s", "tb_one", "-s", "tb_two", "-o", str(tmp_path / "sim")]
    command += [*map(str, sources), str(tmp_path / "one" / "dut.sv")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")


@on_icarus
def test_the_module_of_the_page_compiles(simulator: str, tmp_path: Path) -> None:
    block = re.search(
        r"```verilog\n(.*?)```", (EXAMPLE.parent.parent / "docs" / "how-to" / "simulators.md").read_text(), re.DOTALL
    )
    assert block is not None
    (tmp_path / "post.sv").write_text(f"`timescale 1ns / 1ps\n{block[1]}")
    sources = [str(EXAMPLE / "features_33_pkg.sv"), str(tmp_path / "post.sv")]
    command = ["iverilog", "-g2012", "-Wall", "-s", "post", "-o", str(tmp_path / "sim"), *sources]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
