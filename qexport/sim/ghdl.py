"""VHDL as Verilog, by the synthesis of GHDL."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qexport.bench.design import VHDL, Design
from qexport.errors import QexportError, few
from qexport.sim.supervisor import TIME_LIMIT, CutOff, call
from qexport.sim.tools import SHOWN_ERRORS, too_old


def as_verilog(design: Design, folder: Path, limit: float = TIME_LIMIT) -> Design:
    """The design with one Verilog file, written to `folder`, in place of its VHDL files, where it has any.

    Without Verilog beside it `top` is the entity, and its generics are the parameters; else GHDL finds the entity that
    no other one uses. Raises QexportError where GHDL is missing or does not take the files.
    """
    design.check_files()
    sources = [file for file in design.files if file.suffix.lower() in VHDL]
    if not sources:
        return design
    alone = len(sources) == len(design.files)
    generics = [f"-g{name}={value}" for name, value in design.params.items()] if alone else []
    command = [_program(), "--synth", "--std=08", "--out=verilog", *generics]
    command += [*(str(file.resolve()) for file in sources), "-e", *([design.top] if alone else [])]
    try:
        done = call(command, dict(os.environ), folder, limit)
    except CutOff as cut:
        raise CutOff(f"dut: GHDL reads {few(sources)}: {cut}; simplify it, or give it more with --time-limit") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise QexportError(
            f"dut: GHDL does not take {few(sources)} as synthesizable VHDL; correct: {_errors(done.stderr)}"
        )
    made = folder / f"{sources[0].stem}.vhd.v"
    # names in it may be words of SystemVerilog
    made.write_text(f'`begin_keywords "1364-2005"\n{done.stdout}\n`end_keywords\n')
    others = [file for file in design.files if file not in sources]
    return replace(design, files=(made, *others), params={} if alone else design.params, origins={made: sources[0]})


def _program() -> str:
    program = os.environ.get("QEXPORT_GHDL", "ghdl")
    if shutil.which(program) is None:
        raise QexportError(
            f"dut: {program} is not on the PATH; it makes Verilog of VHDL, install it: apt-get install ghdl"
        )
    version = call([program, "--version"], dict(os.environ)).stdout.partition("\n")[0].removeprefix("GHDL ")
    if old := too_old("GHDL", version, (2, 0)):
        raise QexportError(f"dut: {old}")
    return program


def _errors(said: str) -> str:
    """GHDL's complaints without its notes and the lines that it quotes."""
    lines: Sequence[str] = re.findall(r"^\S.*:\s?.*$", said, flags=re.MULTILINE)
    return few([line for line in lines if ":note:" not in line] or said.splitlines(), between="; ", most=SHOWN_ERRORS)
