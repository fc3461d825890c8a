"""Check the record of a verdict without a simulation."""

from pathlib import Path

import click

from qexport.bench.design import Design
from qexport.cli.common.options import design_options, json_option, path_type
from qexport.cli.common.output import emit, say
from qexport.errors import CheckFailed, few
from qexport.sim.audit import SEALED, audit


@click.command(name="audit")
@click.argument("record", type=path_type())
@click.option("--set", "folder", type=path_type(), required=True, help="The set that was simulated.")
@design_options("The design that was simulated, as it was given to simulate")
@json_option
def command(record: Path, folder: Path, design: Design, as_json: bool) -> None:
    """Check the record of a verdict without a simulation.

    All that follows from set and design is computed anew: hashes, streams, what the design does beside
    computing, the words that a PASS means, coverage, blind spots. What only the run knew has a seal, which
    a single change breaks. Each field that does not hold is named; exit code 1.

    \b
    qexport audit verdict.json --set vectors/features_33
    qexport audit verdict.json --set vectors/features_33 --dut my_core.sv --top my_core
    """
    doubts = audit(record, folder, design)
    result = {"ok": not doubts, "doubts": [{"field": doubt.field, "why": doubt.why} for doubt in doubts]}
    sealed = few(SEALED, most=len(SEALED))
    emit(as_json, result, lambda: None if doubts else say(f"{record}: holds; by its seals alone: {sealed}"))
    if doubts:
        raise CheckFailed("\n".join(f"audit: {record}: {doubt}" for doubt in doubts))
