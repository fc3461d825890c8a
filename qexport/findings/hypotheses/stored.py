"""Mistakes with the bits of the stored words of weights and activations."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from qexport.core.intformat import Int64
from qexport.findings.change import Change, Mistake, Stage
from qexport.findings.model import Model
from qexport.findings.wires import Unit, bit_orders

WEIGHT_NIBBLES = Mistake("weight_nibbles", "Swap the two 4-bit halves of each weight byte.")
WEIGHT_BYTES = Mistake("weight_bytes", "Swap the bytes of the weight words: the first lane is the most significant.")
WEIGHT_BITS = Mistake("weight_bits", "Reverse the bits of the weights: the first bit is the most significant.")
INPUT_NIBBLES = Mistake("input_nibbles", "Swap the two 4-bit halves of each activation byte.")
INPUT_BYTES = Mistake("input_bytes", "Swap the bytes of the activation words: the first lane is the most significant.")
INPUT_BITS = Mistake("input_bits", "Reverse the bits of the activations: the first bit is the most significant.")


_UNITS: Mapping[str, Mapping[Unit, Mistake]] = {  # what a tensor carries -> what is crossed
    "weight": {"nibbles": WEIGHT_NIBBLES, "bytes": WEIGHT_BYTES, "bits": WEIGHT_BITS},
    "input": {"nibbles": INPUT_NIBBLES, "bytes": INPUT_BYTES, "bits": INPUT_BITS},
}
_STAGES = {  # at which a design reads each stored tensor
    "weight": Stage.WEIGHT_WORDS,
    "input": Stage.INPUT_WORDS,
    "input_padded": Stage.PLANE,
    "patches": Stage.PATCHES,
}


def stored_word_mistakes(m: Model) -> Iterator[Change]:
    """Bits of the stored words of weights and activations in another order."""
    for operand, units in _UNITS.items():
        for number, wiring in enumerate(m.wiring(operand)):
            stage = _STAGES[wiring.tensor]
            for unit, detail, wires, pair in bit_orders(wiring.tiling.lanes, wiring.element.bits):
                where = "" if wiring.tensor == operand else f", memory of {wiring.tensor}"
                crossed = partial(wiring.crossed, wires=wires)
                if stage in (Stage.PLANE, Stage.PATCHES):  # which work with what codes stand for
                    crossed = partial(_as_codes, m, crossed)
                yield Change(units[unit], f"{detail}{where}", stage, crossed, pair and not number)


def _as_codes(m: Model, change: Callable[[Int64], Int64], seen: Int64) -> Int64:
    """A change of codes on what they stand for."""
    return m.seen(change(m.codes(seen)))
