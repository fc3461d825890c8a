"""Write the bench of a set in Python, for cocotb 2."""

from pathlib import Path

import click

from qexport.bench.cocotb_bench import render_cocotb
from qexport.bench.design import Design
from qexport.cli.common.options import (
    check_given,
    check_top,
    clock_options,
    dut_options,
    folder_argument,
    json_option,
    out_option,
    pairs,
    param_option,
)
from qexport.cli.common.output import emit, say
from qexport.sets.folder import find_sets
from qexport.sets.staging import write_new_folders


@click.command(name="cocotb")
@folder_argument
@out_option("New folder for the bench.")
@dut_options()
@param_option
@clock_options
@json_option
def command(
    folder: Path,
    target: Path,
    dut: tuple[Path, ...],
    top: str | None,
    params: tuple[str, ...],
    clock: str | None,
    reset: str | None,
    as_json: bool,
) -> None:
    """Write the bench of a set in Python, for cocotb 2.

    It is one file that you run and edit without this program.
    In a folder of sets, of every one, into folders of their names.

    \b
    qexport cocotb vectors/features_33 --out bench/
    qexport cocotb vectors/features_33 --dut my_core.sv --top my_core --out bench/
    qexport cocotb vectors/features_33 --dut my_core.vhd --top my_core --reset rst_n --out bench/   # for GHDL
    pytest bench/test_features_33.py
    python bench/test_features_33.py --simulator verilator --seed 1
    """
    check_top(top, dut)
    check_given(dut, {"param": params, "clock": clock, "reset": reset})
    design = Design.read(
        dut, top=top or "dut", params=pairs("--param", params), clock=clock or "clk", reset=reset or "rst"
    )
    targets = {path: target if path == folder else target / path.name for path in find_sets(folder)}
    benches = {to: render_cocotb(path, to, design) for path, to in targets.items()}
    write_new_folders(benches)

    def show() -> None:
        for to, files in benches.items():
            for name in files:
                say(f"{to / name}: run it with pytest, or with python and --simulator, --seed; needs cocotb 2")

    emit(as_json, {"folders": {str(to): list(files) for to, files in benches.items()}}, show)
