"""The registers behind the reference arrays: what happens in front of each, as Verilog, and the numbers it takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qexport.bench.steps import literal, needed
from qexport.core.geometry import MatMul
from qexport.core.intformat import Int64, IntFormat
from qexport.core.steps import (
    Add,
    Bias,
    Chain,
    Clamp,
    MaxPool,
    Multiply,
    Relu,
    ShiftRight,
    Signal,
    Step,
    Threshold,
    step_names,
    takes_bias,
)
from qexport.core.tensors import Range
from qexport.errors import QexportError
from qexport.layout.memory import verilog_name
from qexport.sets.manifest import Manifest, MemoryEntry

ENTRANCE = "advance"  # with what the sums move on


@dataclass(frozen=True)
class Numbers:
    """Numbers in a memory, of which a lane has its own as `field`: the lower `used` bits of the `bits` that each column
    has in a word that comes, column 0 in the least significant ones. There is a word for each output tile; or, where
    `words` says how many there are, for each word of an image's sums.

    `stream`: what the words come from; else they never change and are `content`.
    """

    field: str
    bits: int | str
    used: int | str
    signed: bool
    content: tuple[str, ...] = ()
    stream: str = ""
    words: str = ""


@dataclass(frozen=True)
class Stage:
    """What happens before one register behind the array: `value` of the lane `v`, with `lines` in front, or `pool`.

    `width`: of a lane behind it, as text; `before`: of `v`. `reach`: the least and greatest `v`. `moved`: with what the
    register in front of it moves on, `moves`: its own; a pool that gives a word and takes none holds those in front.
    """

    name: str
    comment: str
    before: str
    width: str
    value: str = ""
    lines: tuple[str, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    pool: Mapping[str, Any] | None = None
    step: Step | None = None
    reach: Range = (0, 0)
    moved: str = ENTRANCE
    moves: str = ENTRANCE


def rtl_stages(manifest: Manifest, chain: Chain | None, folded: Int64 | None = None) -> list[Stage]:
    """The registers behind the sums: the accumulator and each step up to the last that a memory holds.

    Raises QexportError where the array has not what a step takes.
    """
    col, written = manifest.array["col"], written_numbers(manifest)
    stages = [_first(manifest, folded)]
    signals = () if chain is None else (chain.start, *chain.signals.values())
    bits, before = manifest.formats.accumulator.bits, "ACC_WIDTH"
    for name, step, came, gone in zip(_names(manifest), served(manifest), signals, signals[1:], strict=False):
        stages.append(_Lane(name, step, came, gone, col, written).stage(bits, before))
        bits = IntFormat.holding(*gone.range, True).bits
        before = str(bits)
    return list(_moving(stages))


def result_memories(manifest: Manifest) -> list[MemoryEntry]:
    """The memories of results that stand as the accumulators do; the ReLU's where the layer has one."""
    order = next(memory.order for memory in manifest.memories if memory.name == "accumulator")
    relu = manifest.layer.relu
    return [memory for memory in manifest.memories if memory.order == order and (relu or memory.name != "relu")]


def served(manifest: Manifest) -> Sequence[Step]:
    """The steps up to the last whose value a memory holds."""
    return needed(manifest.chain or (), [memory.tensor for memory in result_memories(manifest)])


def written_numbers(manifest: Manifest) -> dict[str, MemoryEntry]:
    """The memories of numbers of those steps, by the tensor, that stand as the bias does, a table's levels in a lane
    each: the design has streams for them. It knows all others."""
    tile = "pt" if isinstance(manifest.layer, MatMul) else "ot"
    orders = [f"({tile} col){level} -> | {tile} | ~col{lane}"
              for level, lane in (("", ""), (" level", " level"), (" level", " ~level"))]  # fmt: skip
    named = zip(_names(manifest), served(manifest), strict=False)
    tensors = {f"{name}_{field}" for name, step in named for field in step.numbers}
    return {
        memory.tensor: memory
        for memory in manifest.memories
        if memory.tensor in tensors and memory.order in orders and (memory.offset, memory.overflow) == (0, "error")
    }


def held_cycles(stages: Iterable[Stage], tiles: int) -> int:
    """The cycles in which pools take no word, for an image of so many output tiles."""
    held: int = tiles * sum(stage.pool["held"] for stage in stages if stage.pool is not None)
    return held


def _names(manifest: Manifest) -> tuple[str, ...]:
    return step_names(manifest.chain or ())


def _first(manifest: Manifest, folded: Int64 | None) -> Stage:
    """The accumulator: the sums, and what is added to them."""
    memories = {memory.name: memory for memory in manifest.memories}
    numbers = []
    if "bias" in memories and not takes_bias(manifest.chain or ()):
        used = min(memories["bias"].bits, manifest.formats.accumulator.bits)
        numbers.append(replace(_BIAS, used=used))
    if "addend" in memories:
        used, words = min(memories["addend"].bits, manifest.formats.accumulator.bits), memories["addend"].shape[1]
        numbers.append(Numbers("addend", "ADDEND_BITS", used, True, stream="addend", words=f"{words} * OT"))
    if folded is not None:
        numbers.append(_constant("folded", folded, manifest.array["col"]))
    total = " + ".join(["v", *(f"ACC_WIDTH'({number.field})" for number in numbers)])
    lines = (f"wire signed [ACC_WIDTH-1:0] sum = {total};",)
    return Stage(
        "accumulator", "accumulator", "ACC_WIDTH", "ACC_WIDTH", value="sum", lines=lines, numbers=tuple(numbers)
    )


def _moving(stages: Sequence[Stage]) -> Iterable[Stage]:
    """The stages with what they move on with."""
    moved = ENTRANCE
    for number, stage in enumerate(stages, 1):
        moves = moved if stage.pool is None else f"advance{number}"
        yield replace(stage, moved=moved, moves=moves)
        moved = moves


def _constant(field: str, array: Int64, col: int, signed: bool = True) -> Numbers:
    """Numbers of the channels, or rows of levels, that never change; 0 for columns past the last channel."""
    bits = max(IntFormat.holding(int(array.min()), int(array.max()), True).bits - (not signed), 1)
    rows = array.reshape(len(array), -1)
    words = np.pad(rows, ((0, -len(rows) % col), (0, 0))).reshape(-1, col, rows.shape[1])[:, ::-1].ravel().tolist()
    content = tuple(literal(value, bits) if signed else f"{bits}'d{value}" for value in words)
    return Numbers(field, bits * rows.shape[1], bits * rows.shape[1], signed, content)


_BIAS = Numbers("bias", "BIAS_BITS", "BIAS_BITS", True, stream="bias")
SHIFT_BITS = 6  # of 0..62 places


@dataclass(frozen=True)
class _Lane:
    """A step in one lane."""

    name: str
    step: Step
    before: Signal
    after: Signal
    col: int
    written: Mapping[str, MemoryEntry]

    def stage(self, bits: int, before: str) -> Stage:
        """`bits`: of the value that comes in, `before` as text."""
        step, comment = self.step, f"{self.name}: {self.step.op}"
        out = IntFormat.holding(*self.after.range, True).bits
        whole = f"{out}'(v)"

        def stage(value: str, lines: Sequence[str] = (), numbers: Sequence[Numbers] = ()) -> Stage:
            return Stage(
                self.name, comment, before, str(out), value=value, lines=tuple(lines), numbers=tuple(numbers),
                step=step, reach=self.before.range,
            )  # fmt: skip

        match step:
            case Bias():
                return stage(f"{whole} + ({out}'(bias) <<< {step.shift})", numbers=[_BIAS])
            case Multiply():
                by, wide, numbers = self._number("by")
                product = bits + wide
                return stage(f"{out}'({product}'(v) * {product}'({by}))", numbers=numbers)
            case Add():
                value, _, numbers = self._number("value")
                return stage(f"{whole} + {out}'({value})", numbers=numbers)
            case ShiftRight():
                comment = f"{comment}, {step.round}"
                by, _, numbers = self._number("by", signed=False)
                lines = [f"wire signed [{before}-1:0] below = v >>> {by};"]
                if step.round != "floor":
                    lines += [
                        f"wire signed [{before}-1:0] twice = v >>> ({by} - 1'b1);  // its lowest bit is worth a half",
                        f"wire half = {by} != 0 && twice[0];",
                    ]
                if step.round in ("half_even", "half_away", "toward_zero"):
                    lines += [f"wire more = {by} != 0 && (twice <<< ({by} - 1'b1)) != v;  // than a multiple of a half"]
                up = "" if step.round == "floor" else f" + {out}'({_UP[step.round]})"
                return stage(f"{out}'(below){up}", lines, numbers)
            case Relu():
                return stage(f"v[{before}-1] ? {out}'d0 : {whole}")
            case Clamp():
                wide = max(bits, IntFormat.holding(step.low, step.high, True).bits)
                low, high = literal(step.low, wide), literal(step.high, wide)
                lines = [
                    f"wire signed [{wide}-1:0] wide = {wide}'(v);",
                    f"wire under = wide < {low};",
                    f"wire over = wide > {high};",
                ]
                return stage(f"{out}'(under ? {low} : over ? {high} : wide)", lines)
            case Threshold():
                return self._threshold(step, comment, bits, before, out)
            case MaxPool():
                pool = self._pool(step)
                return Stage(self.name, comment, before, before, pool=pool, step=step, reach=self.before.range)
        raise QexportError(
            f"rtl: step {self.name}: the reference RTL has no {step.op}; use the bench alone, or of steps "
            f"{', '.join(_SERVED)}"
        )

    def _threshold(self, step: Threshold, comment: str, bits: int, before: str, out: int) -> Stage:
        """Constant levels that no value passes are one more than the greatest."""
        low, high = self.before.range
        count = step.arrays["table"].shape[1]
        first = int(IntFormat(out, True).wrap(np.array(step.first)))  # which every value may be beyond
        numbers = self._written("table", "levels", count)
        if numbers is None:
            table = np.clip(step.arrays["table"], low, high + 1)
            numbers = _constant("levels", table, self.col)
        level_bits = int(numbers.bits) // count
        wide = max(bits, level_bits)
        lines = (
            f"wire signed [{wide}-1:0] wide = {wide}'(v);",
            f"reg [{out}-1:0] reached;",
            "integer level;",
            "always @* begin",
            f"  reached = {literal(first, out)};",
            f"  for (level = 0; level < {count}; level = level + 1)",
            f"    if ({wide}'($signed(levels[level*{level_bits} +: {level_bits}])) <= wide) reached = reached + 1'b1;",
            "end",
        )
        return Stage(
            self.name, comment, before, str(out), value="reached", lines=lines, numbers=(numbers,), step=step,
            reach=(low, high),
        )  # fmt: skip

    def _written(self, field: str, name: str, count: int = 1) -> Numbers | None:
        """The numbers, `count` for each column, where they come from a stream; a lane has them as `name`."""
        entry = self.written.get(f"{self.name}_{field}")
        if entry is None:
            return None
        return Numbers(name, entry.bits * count, entry.bits * count, entry.signed, stream=verilog_name(entry.name))

    def _number(self, field: str, signed: bool = True) -> tuple[str, int, list[Numbers]]:
        """How a lane calls a number, its bits, and the memory that it comes from; one that is not signed is a shift."""
        array, numbers = self.step.arrays[field], self._written(field, field)
        if numbers is not None and not signed:
            numbers = replace(numbers, used=min(int(numbers.bits), SHIFT_BITS), signed=False)
        elif numbers is None and array.ndim:
            numbers = _constant(field, array, self.col, signed)
        if numbers is not None:
            return field, int(numbers.used), [numbers]
        bits = max(IntFormat.holding(int(array), int(array), True).bits - (not signed), 1)
        return (literal(int(array), bits) if signed else f"{bits}'d{int(array)}"), bits, []

    def _pool(self, step: MaxPool) -> dict[str, Any]:
        assert self.before.plane is not None
        assert self.after.plane is not None
        stride = step.stride or step.kernel
        visits = []  # of the last row, and of the last column: a window that ends there closes in each
        for axis in range(2):
            size, kernel, pad = self.before.plane[axis], step.kernel[axis], step.padding[2 * axis]
            ended = max(-(-(pad + size - kernel) // stride[axis]), 0)  # before it
            visits.append(max(self.after.plane[axis] - ended, 1))
        rows, columns = visits
        return {
            "plane": self.before.plane, "kernel": step.kernel, "stride": stride, "padding": step.padding,
            "pooled": self.after.plane, "visits": visits,
            "held": self.before.plane[0] * (columns - 1) + (rows - 1) * self.after.plane[1],
        }  # fmt: skip


_UP = {"half_up": "half", "half_even": "half && (more || below[0])", "half_away": "half && (more || v >= 0)",
       "toward_zero": "v < 0 && (half || more)"}  # fmt: skip
_SERVED = ("bias", "multiply", "add", "shift_right", "relu", "clamp", "threshold", "max_pool")
