"""The hypotheses in the order in which they are tried; those that come first are the likelier ones."""

from collections.abc import Iterable, Iterator

import numpy as np

from qexport.core.intformat import Int64
from qexport.findings.change import Bools, Change, Stage
from qexport.findings.hypotheses.accumulation import sum_mistakes
from qexport.findings.hypotheses.addresses import axes_mistakes, mirrored, output_addresses, solved_addresses
from qexport.findings.hypotheses.arithmetic import arithmetic_mistakes
from qexport.findings.hypotheses.biases import bias_mistakes, passed_through, solved_bias
from qexport.findings.hypotheses.delays import delayed_results
from qexport.findings.hypotheses.elements import array_mistakes, element_mistakes
from qexport.findings.hypotheses.exchanged import results_exchanged, rows_exchanged
from qexport.findings.hypotheses.inputs import input_mistakes
from qexport.findings.hypotheses.numbers import solved_numbers, solved_relu
from qexport.findings.hypotheses.operands import operand_mistakes
from qexport.findings.hypotheses.padding import solved_padding
from qexport.findings.hypotheses.planes import plane_mistakes
from qexport.findings.hypotheses.post import post_mistakes
from qexport.findings.hypotheses.psums import psum_mistakes
from qexport.findings.hypotheses.results import result_mistakes
from qexport.findings.hypotheses.solved import solved_kernel, solved_requantization
from qexport.findings.hypotheses.steps import step_mistakes
from qexport.findings.hypotheses.stored import stored_word_mistakes
from qexport.findings.hypotheses.streams import stream_mistakes
from qexport.findings.hypotheses.taps import solved_tap_order
from qexport.findings.hypotheses.weights import weight_mistakes
from qexport.findings.hypotheses.words import word_mistakes
from qexport.findings.hypotheses.zeros import solved_zero_points, zero_mistakes
from qexport.findings.model import AnyModel, GivenModel, Model

# A psum is made of weights and of the plane alone.
_BEHIND_PSUMS = (
    Stage.GATHER, Stage.PATCHES, Stage.SUM, Stage.ACCUMULATOR, Stage.HISTORY, Stage.POST,
)  # fmt: skip


def hypotheses(
    m: AnyModel, actual: Int64, known: Bools, of_tiles: bool = False, fill: Int64 | None = None
) -> Iterator[Change]:
    """All changes for the memory of a model; `actual`, `known`: what came back, in the tensor's axes.

    `of_tiles`: those alone that another size of the array may change. `fill`: what came back in filled lanes, (files,
    words, lanes), where that says something.
    """
    if isinstance(m, GivenModel):
        yield from _of_streams(m, actual, known)
    elif isinstance(m, Model):
        yield from _of_arrays(m, actual, known, of_tiles, fill)
    else:
        yield from _of_data(m, actual, known, fill)


def _of_streams(m: AnyModel, actual: Int64, known: Bools) -> Iterator[Change]:
    """Of words that another run gave otherwise."""
    blocks, sure = m.tiling.tile(actual), m.tiling.tile(known.astype(np.int64), fill=0) == 1
    yield from stream_mistakes(m, blocks, sure)
    yield from delayed_results(m, actual, known)
    yield from results_exchanged(m, actual, known)
    yield from word_mistakes(m, blocks, sure)


def _of_data(m: AnyModel, actual: Int64, known: Bools, fill: Int64 | None) -> Iterator[Change]:
    """Of an operation whose operands are all data."""
    blocks, sure = m.tiling.tile(actual), m.tiling.tile(known.astype(np.int64), fill=0) == 1
    yield from element_mistakes(m, actual, known)
    yield from operand_mistakes(m, actual, known)
    yield from post_mistakes(m)
    yield from step_mistakes(m)
    yield from solved_numbers(m, actual, known)
    yield from solved_relu(m, actual, known)
    yield from result_mistakes(m, actual, known)
    yield from results_exchanged(m, actual, known)
    yield from stream_mistakes(m, blocks, sure)
    yield from delayed_results(m, actual, known, fill)
    yield from word_mistakes(m, blocks, sure, fill)
    if m.layer.kind == "matmul":
        yield from solved_addresses(m, actual, known)
    yield from array_mistakes(m, actual, known)


def _of_arrays(m: Model, actual: Int64, known: Bools, of_tiles: bool, fill: Int64 | None) -> Iterator[Change]:
    """Of a convolution or a linear layer."""
    blocks, sure = m.tiling.tile(actual), m.tiling.tile(known.astype(np.int64), fill=0) == 1
    groups: list[Iterable[Change]] = [element_mistakes(m, actual, known)]
    groups += [weight_mistakes(m), input_mistakes(m), plane_mistakes(m)]
    groups += [zero_mistakes(m)] if not of_tiles else []
    if m.tensor == "psum":
        groups += [psum_mistakes(m)]
    else:
        groups += [post_mistakes(m), step_mistakes(m)] if not of_tiles else []
        groups += [sum_mistakes(m, actual, known), bias_mistakes(m)]
    if m.tensor != "psum" and not of_tiles:
        groups += [
            solved_numbers(m, actual, known), solved_relu(m, actual, known), solved_tap_order(m, actual, known),
            solved_kernel(m, actual, known), solved_requantization(m, actual, known), solved_bias(m, actual, known),
            solved_zero_points(m, actual, known), solved_padding(m, actual, known),
        ]  # fmt: skip
    groups += [result_mistakes(m, actual, known), arithmetic_mistakes(m)]
    if not of_tiles:
        groups += [
            stream_mistakes(m, blocks, sure), word_mistakes(m, blocks, sure, fill),
            delayed_results(m, actual, known, fill), stored_word_mistakes(m), axes_mistakes(m), mirrored(m),
            rows_exchanged(m, actual, known), results_exchanged(m, actual, known), solved_addresses(m, actual, known),
            output_addresses(m, blocks, sure), passed_through(m),
        ]  # fmt: skip
    groups += [array_mistakes(m, actual, known)]
    for group in groups:
        for change in group:
            if m.tensor != "psum" or change.stage not in _BEHIND_PSUMS:
                yield change
