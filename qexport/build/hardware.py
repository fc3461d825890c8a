"""A capture whose steps are what a hardware can do, with how far its codes depart from the network's."""

from pathlib import Path

import numpy as np

from qexport.core.capture import REAL, Capture, CaptureFile, CaptureWriter, Departs
from qexport.core.golden import Golden, parts
from qexport.core.operations.registry import operation
from qexport.core.rescale import Hardware
from qexport.errors import QexportError


def for_hardware(capture: Capture, hardware: Hardware, path: Path) -> CaptureFile:
    """Write the capture once more, with the steps of a hardware in place of the network's own rounding.

    What the network itself received or gave as codes does not go along: those are not the hardware's. Raises
    QexportError where the capture says its steps itself, has no format of the output, or the hardware cannot hold it.
    """
    if capture.steps is not None:
        raise QexportError(
            f"layer {capture.layer.name}: its capture gives the steps; --round, --mul-bits, --shift-max, --per-tensor "
            "and --power-of-two belong to one that gives formats.output alone"
        )
    own = operation(capture, None)
    if own.network is None:
        raise QexportError(
            f"layer {capture.layer.name}: its capture has no formats.output to scale to; leave out --round and its like"
        )
    found = own.rescaled(hardware)
    facts = operation(capture, None, found.steps)
    codes = 0
    for start, stop in parts(["accumulator"], facts, capture.images):
        part = Golden(capture.part(start, stop), facts=facts)
        codes += int(np.count_nonzero(own.network.codes(part.accumulator, facts.start.axis) != part.values("output")))
    kept = {name: shape for name, shape in capture.shapes.items() if name in (*capture.layer.holds, REAL[0])}
    departs = Departs(accumulators=int(found.departs.astype(object).sum()), codes=codes)
    with path.open("wb") as file:
        writer = CaptureWriter(
            file, capture.layer, capture.formats, capture.source, kept, found.steps, own.ties, departs,
        )  # fmt: skip
        for start, stop in parts(["input"], facts, capture.images):
            writer.add(capture.part(start, stop))
    return CaptureFile(path)
