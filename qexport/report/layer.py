"""The layer as a picture: what goes in, the operation, the steps behind it, what comes out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from qexport.core.geometry import ConvGeometry
from qexport.core.steps import Step
from qexport.report.blocks import Facts, Section
from qexport.report.facts import SetFacts, format_text, scale_text
from qexport.report.figure import Figure
from qexport.report.svg import CHARACTER, TENSOR_TONES, WIDE, arrow, cut, rect, text
from qexport.report.tables import AnyCell, Table
from qexport.sets.manifest import golden_text

_LEFT, _CARD, _GAP, _TALL = 250.0, 80.0, 14.0, 190.0


@dataclass(frozen=True)
class _Card:
    """A tensor: its name, shape, format, and what else is said of it."""

    name: str
    lines: Sequence[str]
    shape: tuple[int, ...]

    @property
    def tone(self) -> int:
        return TENSOR_TONES[self.name]


def layer_section(facts: SetFacts) -> Section:
    source = facts.manifest.source
    pairs = [
        ("golden", golden_text(facts.manifest)),
        ("pictures", source_text(facts)),
        *(
            (name, value)
            for name, value in (("network", source.checkpoint_sha256), ("data", source.data_sha256))
            if value
        ),
    ]
    return Section(
        "Layer",
        "What goes in, what is computed, what comes out: exact integers from left to right.",
        [layer_figure(facts), Facts(pairs)],
    )


def source_text(facts: SetFacts) -> str:
    """Which pictures the set is of."""
    source, count = facts.manifest.source, facts.capture.images
    where = f", numbers {', '.join(map(str, source.images))} of the data" if source.images else ""
    seed = "" if source.seed is None else f", seed {source.seed}"
    return f"{count} image{'s' * (count > 1)} ({source.stimulus or 'codes that were given'}{seed}){where}"


def operation_text(facts: SetFacts) -> str:
    layer = facts.operation.layer
    said = f"{layer.kind} {layer.text}".rstrip()
    if isinstance(layer, ConvGeometry) and layer.kind == "conv2d":
        said += f", stride {layer.stride[0]}x{layer.stride[1]}, padding {' '.join(map(str, layer.padding))}"
        said += f", dilation {layer.dilation[0]}x{layer.dilation[1]}" if layer.dilation != (1, 1) else ""
        said += f", {layer.groups} groups" if layer.groups > 1 else ""
    return said + (", ReLU behind it" if layer.relu else "")


def step_text(step: Step) -> str:
    """A step in a few signs; of lists their ends."""

    def number(field: str) -> str:
        values = step.arrays[field]
        low, high = int(values.min()), int(values.max())
        return f"{low:,}" if low == high else f"{low:,}..{high:,}"

    fields = msgspec.structs.asdict(step)
    signs = {"multiply": "\u00d7 {by}", "add": "+ {value}", "shift_left": "<< {by}", "shift_right": ">> {by} {round}",
             "clamp": "clamp {low}..{high}", "relu": "max(v, 0)", "wrap": "wrap {bits} bits"}  # fmt: skip
    said = {field: number(field) if field in step.numbers else value for field, value in fields.items()}
    return signs.get(step.op, step.op.replace("_", " ")).format(**said)


def _cards(facts: SetFacts) -> Iterator[_Card]:
    """What goes in."""
    op = facts.operation
    for name, fmt in facts.operands.items():
        shape = op.shapes[name]
        yield _Card(name, [" \u00d7 ".join(map(str, shape)), format_text(fmt), scale_text(fmt)], shape)
    if op.bias is not None:
        where = "in the accumulator" if op.added is not None else "added by a step"
        yield _Card("bias", [str(len(op.bias)), where], op.bias.shape)


def _card(card: _Card, x: float, y: float, width: float, height: float = _CARD) -> str:
    """A tensor's card, with a sketch of its last three axes."""
    drawn = [rect(x, y, width, height, "card", round=8), rect(x, y, 4, height, f"f{card.tone}", round=2)]
    drawn.append(text(x + 16, y + 22, cut(card.name, width - 90), "b big"))
    drawn += [text(x + 16, y + 42 + 16 * at, cut(said, width - 24), "m") for at, said in enumerate(card.lines)]
    sizes = [min(max(size, 1), 6) for size in (1, 1, 1, *card.shape)[-3:]]
    side = 5
    for plane in reversed(range(sizes[0])):
        left = x + width - 18 - sizes[2] * side - (sizes[0] - plane) * 3
        drawn.append(rect(left, y + 8 + plane * 3, sizes[2] * side, sizes[1] * side, f"f{card.tone} stack"))
    return "".join(drawn)


def layer_figure(facts: SetFacts) -> Figure:
    """Operands to the left, the operation, the accumulator; below it the steps and what they give."""
    op, manifest = facts.operation, facts.manifest
    cards = list(_cards(facts))
    tall = len(cards) * (_CARD + _GAP) - _GAP
    top, drawn = 10.0, []
    for at, card in enumerate(cards):
        y = top + at * (_CARD + _GAP)
        drawn.append(_card(card, 0, y, _LEFT))
        drawn.append(arrow(_LEFT + 6, y + _CARD / 2, _LEFT + 56, y + _CARD / 2))
    height = max(tall, _CARD)
    drawn.append(_operation(facts, _LEFT + 62, top, 250, height))
    middle = top + height / 2
    drawn.append(arrow(_LEFT + 318, middle, _LEFT + 368, middle))
    sums = manifest.formats.accumulator
    shape = op.shapes["accumulator"]
    said = [
        " \u00d7 ".join(map(str, shape)),
        f"{sums.bits} bits hold {sums.bounds[0]:,}..{sums.bounds[1]:,}",
        f"seen: {sums.observed[0]:,}..{sums.observed[1]:,}",
    ]
    drawn.append(_card(_Card("accumulator", said, shape), _LEFT + 374, middle - 48, WIDE - _LEFT - 374, 96))
    below, height_of_steps = _steps(facts, top + max(height, middle - top + 48) + 34)
    names = ", ".join(card.name for card in cards)
    words = f"{names} go into {operation_text(facts)}; the accumulator needs {sums.bits} bits"
    behind = ", ".join(map(step_text, manifest.chain or ()))
    return Figure(
        "layer", "From operands to codes", f"{words}; behind it: {behind or 'no steps'}.", WIDE, height_of_steps,
        "".join(drawn) + below,
    )  # fmt: skip


def _operation(facts: SetFacts, x: float, y: float, width: float, height: float) -> str:
    layer, centre = facts.operation.layer, x + width / 2
    lines = [(layer.kind, "b big"), (layer.text, "")]
    if isinstance(layer, ConvGeometry) and layer.kind == "conv2d":
        lines.append(
            (f"stride {layer.stride[0]}\u00d7{layer.stride[1]}, padding {' '.join(map(str, layer.padding))}", "m")
        )
        more = [f"dilation {layer.dilation[0]}\u00d7{layer.dilation[1]}"] if layer.dilation != (1, 1) else []
        more += [f"{layer.groups} groups"] if layer.groups > 1 else []
        lines += [(", ".join(more), "m")] if more else []
    if facts.products:
        lines.append((f"{facts.products:,} multiplications an image", "m"))
    first = y + height / 2 - 9 * (len(lines) - 1) + 4
    said = [
        text(centre, first + 18 * at, cut(line, width - 16), kind, "middle") for at, (line, kind) in enumerate(lines)
    ]
    return rect(x, y, width, height, "card", round=8) + "".join(said)


def _steps(facts: SetFacts, y: float) -> tuple[str, float]:
    """The steps in rows of chips, then the output; and where the picture ends."""
    chain = facts.operation.chain
    if chain is None:
        return "", y
    drawn, x = [text(0, y, "behind the accumulator", "m")], 0.0
    y += 12
    for name, step in zip(chain.names, chain.steps, strict=True):
        said = cut(step_text(step), 280)
        low, high = chain.signals[name].range
        span = f"{low:,}..{high:,}"
        width = max(len(said) * 7.4 + 24, len(span) * CHARACTER + 24, 84)
        if x + width > WIDE:
            x, y = 0, y + 68
        drawn.append(rect(x, y, width, 50, "card", f"{name}: {low:,} to {high:,} proven", round=8))
        drawn.append(text(x + width / 2, y + 21, said, "b", "middle"))
        drawn.append(text(x + width / 2, y + 38, span, "m num", "middle"))
        drawn.append(arrow(x + width + 4, y + 25, x + width + 26, y + 25))
        x += width + 32
    fmt = facts.operation.formats.output
    out = [format_text(fmt), scale_text(fmt)] if fmt is not None else [str(facts.operation.output_format)]
    shape = (facts.capture.images, *chain.end.sizes)
    if x + 250 > WIDE:
        x, y = 0, y + 68
    drawn.append(_card(_Card("output", [" \u00d7 ".join(map(str, shape)), ", ".join(out)], shape), x, y - 8, 250, 66))
    return "".join(drawn), y + 72


def bits_table(facts: SetFacts) -> Table:
    """Every tensor of the layer: shape, format, range."""
    op = facts.operation
    rows: list[list[AnyCell]] = []
    for name in (*facts.operands, *op.result_names):
        tensor = op.tensor(name)
        low, high = tensor.range or (None, None)
        shape = " \u00d7 ".join(map(str, tensor.shape(facts.capture.images)))
        rows.append([name, " ".join(tensor.axes), shape, str(tensor.format), low, high])
    return Table("Tensors of the layer", ["tensor", "axes", "shape", "element", "least", "greatest"], rows)
