"""What is done with a whole network: running it, also from a layer on, and the captures of its layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qexport.build.inputs import Inputs, check_codes
from qexport.core.atomic import partial_of
from qexport.core.capture import CaptureWriter
from qexport.core.geometry import Shape, shape_text
from qexport.core.network import Codes, IntegerNetwork
from qexport.core.network_run import Engine, batches, decisions, narrow_type
from qexport.core.printed import Printed
from qexport.errors import QexportError

SHOWN = 10


@dataclass(frozen=True)
class Change:
    """A picture whose decision is another one with the codes that came in at a layer."""

    picture: int
    before: int
    after: int


@dataclass(frozen=True)
class Logit:
    """A code of a layer's vector that becomes another one."""

    picture: int
    logit: int
    before: int
    after: int


@dataclass(frozen=True)
class Ran(Printed):
    """What a run of a network gave. `decisions`: the class of each picture, where the layer gives a vector.

    Of a replay: `values`, how many codes there are; `changed`, how many differ; `logits`, which, of a vector;
    `changes`, which decisions.
    """

    layer: str
    pictures: int
    shape: Shape
    decisions: tuple[int, ...] | None
    replayed: str | None = None
    values: int = 0
    changed: int = 0
    changes: tuple[Change, ...] | None = None
    logits: tuple[Logit, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.layer}: {self.pictures} picture(s), {shape_text(self.shape)} codes each"]
        if self.decisions is not None:
            more = f" and {self.pictures - SHOWN:,} more" if self.pictures > SHOWN else ""
            lines.append(f"decisions: {', '.join(map(str, self.decisions[:SHOWN]))}{more}")
        if self.changes is not None:
            lines.append(
                f"with the codes for {self.replayed}: {self.changed:,} of {self.values:,} codes of {self.layer} change"
                + (f", {len(self.changes)} of {self.pictures} decisions" if self.decisions is not None else "")
            )
            lines += [f"  picture {c.picture}: class {c.before} becomes {c.after}" for c in self.changes[:SHOWN]]
            lines += [f"  picture {c.picture}: logit {c.logit}, {c.before} -> {c.after}" for c in self.logits[:SHOWN]]
            if len(self.logits) > SHOWN:
                lines.append(f"  ... and {len(self.logits) - SHOWN:,} more logits; --json lists all")
        return "\n".join(lines)


class Replay:
    """Codes that stand for the output of a layer, such as an RTL gave them."""

    def __init__(self, network: IntegerNetwork, layer: str, codes: Codes, where: str):
        placed = network.choose(layer)
        self.layer, self.codes, self._fmt = placed.node.name, codes, placed.node.formats.output
        self.each, self._where = placed.output[0], where
        if codes.shape[1:] != placed.output[1:] or len(codes) % self.each or not len(codes):
            wanted = shape_text(placed.output[1:])
            raise QexportError(f"with: {where} is {shape_text(codes.shape)}; {self.layer} gives {wanted} an image")
        self.pictures = len(codes) // self.each

    def part(self, pictures: slice) -> Codes:
        codes = np.asarray(self.codes[pictures.start * self.each : pictures.stop * self.each])
        if self._fmt is not None:
            check_codes(codes, self._fmt, f"with: {self._where}")
        return codes


def run_network(
    engine: Engine,
    layer: str | None,
    inputs: Inputs | None,
    pictures: Sequence[int],
    replay: Replay | None = None,
    out: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Ran:
    """The output of a layer (by default the network's first) for pictures, written as an array into `out`.

    With a replay it is what follows from the replay's codes; with inputs beside it, also what these change.
    """
    network = engine.network
    placed = network.choose(network.outputs[0].from_ if layer is None else layer)
    name, shape = placed.node.name, placed.output
    if replay is not None and inputs is not None and replay.pictures != len(pictures):
        raise QexportError(f"with: its codes are of {replay.pictures} pictures; the inputs are {len(pictures)}")
    vector = shape[0] == 1 and all(size == 1 for size in shape[2:])
    found: list[int] = []
    values = changed = 0
    changes: list[Change] = []
    logits: list[Logit] = []
    with _array(out, (len(pictures) * shape[0], *shape[1:]), narrow_type(placed.node.formats.output)) as written:
        for part in batches(len(pictures), engine.batch):
            given = {} if inputs is None else inputs.codes(pictures[part])
            held = given if replay is None else given | {replay.layer: replay.part(part)}
            codes = engine.run(held, [name])[name]
            if written is not None:
                written[part.start * shape[0] : part.stop * shape[0]] = codes
            after = decisions(codes).tolist() if vector else []
            found += after
            if replay is not None and inputs is not None:
                plain = engine.run(given, [name])[name]
                values, changed = values + codes.size, changed + int((codes != plain).sum())
                if vector:
                    own = pictures[part]
                    pairs = zip(own, decisions(plain).tolist(), after, strict=True)
                    changes += [Change(picture, old, new) for picture, old, new in pairs if old != new]
                    logits += _changed(own, plain, codes)
            advance(part.stop)
    compared = replay is not None and inputs is not None
    return Ran(
        name, len(pictures), shape[1:] if shape[0] == 1 else shape, tuple(found) if vector else None,
        replay.layer if replay else None, values, changed, tuple(changes) if compared else None, tuple(logits),
    )  # fmt: skip


def _changed(pictures: Sequence[int], before: Codes, after: Codes) -> Iterator[Logit]:
    vectors = before.reshape(len(pictures), -1), after.reshape(len(pictures), -1)
    for at, logit in np.argwhere(vectors[0] != vectors[1]).tolist():
        yield Logit(pictures[at], logit, int(vectors[0][at, logit]), int(vectors[1][at, logit]))


@contextmanager
def _array(path: Path | None, shape: Shape, dtype: Any) -> Iterator[Any]:
    """A .npy file that appears whole or not at all, written part by part; None without a path."""
    if path is None:
        yield None
        return
    if path.suffix != ".npy":
        raise QexportError(f"out: {path} does not end with .npy; the codes are one array")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        written = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        yield written
        written.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def layer_captures(
    engine: Engine,
    inputs: Inputs,
    pictures: Sequence[int],
    layers: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Path]:
    """Run pictures through the network and write one capture file for each of the layers into `folder`.

    What enters a layer is the output of those before it, bit for bit.
    """
    network = engine.network
    source = msgspec.structs.replace(
        network.source, data_sha256=inputs.sha256(pictures), images=tuple(pictures), stimulus="images"
    )
    read = {name for layer in layers for names in network.placed[layer].node.operands.values() for name in names}
    paths: dict[str, Path] = {}
    with ExitStack() as files:
        writers: dict[str, CaptureWriter] = {}
        for part in batches(len(pictures), engine.batch):
            given = inputs.codes(pictures[part])
            held: Mapping[str, Codes] = given | engine.run(given, sorted(read - set(given)))
            for number, layer in enumerate(layers):
                node = network.placed[layer].node
                capture = node.capture(engine.operands(layer, held), source)
                if layer not in writers:
                    paths[layer] = folder / f"{number}.safetensors"
                    file = files.enter_context(paths[layer].open("wb"))
                    each = network.placed[layer].operands
                    shapes = {name: (len(pictures) * shape[0], *shape[1:]) for name, shape in each.items()}
                    writers[layer] = CaptureWriter(
                        file, capture.layer, capture.formats, source, capture.shapes | shapes, capture.steps
                    )
                writers[layer].add(capture)
            advance(part.stop)
    return paths
