"""A run of a network against its sets: which layers are wrong by themselves, and which only inherited an error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from qexport.build.dump import dump
from qexport.build.graph import operand_codes, verify_graph
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.intformat import Int64
from qexport.core.operations.registry import operation
from qexport.core.printed import Printed, columns_text, pairs_text
from qexport.core.steps import step_names
from qexport.errors import CheckFailed, QexportError
from qexport.findings.compared import Comparison
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.model import array_sides, model_of
from qexport.findings.shrink import set_layout
from qexport.findings.whole_run import diagnose_run, results_of
from qexport.findings.words import read_actual
from qexport.layout.order import TILE_AXIS
from qexport.sets.graph import GRAPH, Graph, GraphLayer
from qexport.sets.manifest import Manifest, capture_of, read_manifest
from qexport.sim.work import scratch_folder

State = Literal["right", "inherited", "faulty", "not dumped"]
_SAID: Mapping[State, str] = {
    "right": "right",
    "inherited": "right for what came in: it inherited the error",
    "faulty": "FAULTY: it does not give what its own input gives",
    "not dumped": "not dumped: taken to compute rightly what came in",
}


@dataclass(frozen=True)
class LayerFound:
    """What was found of one layer. `differing`: values of all its memories of results that are not the set's, of
    `total`; `through`: layers that were not dumped, whose outputs were computed to know its input; `diagnosis`: of a
    faulty one, against what its own input gives, None where that cannot be a set."""

    layer: str
    path: str
    state: State
    differing: int
    total: int
    through: tuple[str, ...] = ()
    memory: str | None = None
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class NetworkDiagnosis(Printed):
    """The layers of a network in order."""

    layers: tuple[LayerFound, ...]

    @property
    def faulty(self) -> tuple[LayerFound, ...]:
        return tuple(one for one in self.layers if one.state == "faulty")

    @property
    def first(self) -> LayerFound | None:
        """The first layer whose results are not the set's."""
        return next((one for one in self.layers if one.differing), None)

    @property
    def summary(self) -> str:
        """One line."""
        if self.first is None:
            return "nothing differs"
        names = ", ".join(one.layer for one in self.faulty)
        return f"the first wrong layer is {self.first.layer}; faulty by themselves: {names or 'none'}"

    def __str__(self) -> str:
        rows = [["layer", "differ", ""]]
        rows += [[one.layer, f"{one.differing} of {one.total}", _SAID[one.state]] for one in self.layers]
        parts = [columns_text(rows)]
        for one in self.faulty:
            why = [("cause", "its own input cannot be made a set; see the lines above")]
            why = one.diagnosis.differences[:2] + one.diagnosis.reasons if one.diagnosis else why
            if one.through:
                why = [*why, ("or", f"the fault is in {', '.join(one.through)}, which the run does not hold")]
            parts.append(pairs_text([("layer", one.layer), ("memory", str(one.memory)), *why]))
        return "\n\n".join([*parts, self.summary])

    def as_json(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "first": self.first and self.first.layer,
            "faulty": [one.layer for one in self.faulty],
            "layers": [
                msgspec.to_builtins(replace(one, diagnosis=None))
                | {"diagnosis": one.diagnosis and one.diagnosis.as_json()}
                for one in self.layers
            ],
        }


def diagnose_network(folder: Path, run: Path, progress: Callable[[str], None] = lambda what: None) -> NetworkDiagnosis:
    """Compare a run with the sets of a network: RUN/PATH holds what each layer of any of them gave, as of one set.

    What enters a layer is what those before it gave, where they were dumped. Raises CheckFailed where the sets are not
    as they were dumped, QexportError where the run holds nothing of any layer.
    """
    graph = Graph.read(folder)
    if graph is None:
        raise QexportError(f"set: {folder} has no {GRAPH}; dump with --all --network")
    if faults := verify_graph(folder):
        raise CheckFailed(f"{folder}: {faults[0]}")
    if not any((run / layer.path).is_dir() for layer in graph.layers):
        paths = ", ".join(layer.path for layer in graph.layers[:4])
        raise QexportError(f"actual: {run} has no folder of a layer, such as {paths}; give one for each that was run")
    outputs: dict[str, Int64] = {}
    found: dict[str, LayerFound] = {}
    for layer in graph.layers:
        progress(layer.name)
        one = _layer(folder / layer.path, run / layer.path, layer, outputs, progress)
        before = [found[source] for sources in layer.operands.values() for source in sources if source in found]
        unseen = [name for at in before if at.state == "not dumped" for name in (*at.through, at.layer)]
        found[layer.name] = replace(one, through=tuple(dict.fromkeys(unseen)))
    return NetworkDiagnosis(tuple(found.values()))


def returned_codes(folder: Path, run: Path) -> Int64:
    """The output that a design gave for the layer of a set: a file of words, or the folder of `simulate --keep`."""
    manifest = read_manifest(folder)
    chain = manifest.chain
    names = {"output", step_names(chain)[-1] if chain else "accumulator"}
    actuals = results_of(folder, run) if run.is_dir() else [read_actual(folder, run)]
    for actual in actuals:
        entry = actual.memory
        if entry.tensor in names and not entry.memory().order.has_bits:
            one = Comparison(folder, actual)
            if not one.known.all():
                raise QexportError(f"with: {run}: {int((~one.known).sum())} codes of {entry.name} are X, Z or missing")
            return one.got - entry.offset
    there = ", ".join(actual.memory.name for actual in actuals) or "no results"
    raise QexportError(f"with: {run} holds {there} of {folder}, but not its output; give codes as .npy")


def _layer(
    folder: Path, run: Path, layer: GraphLayer, outputs: dict[str, Int64], progress: Callable[[str], None]
) -> LayerFound:
    """What a layer is; its output goes to the others."""
    manifest = read_manifest(folder)
    file = capture_of(folder, manifest)
    given = file.part(0, file.images)
    own = _own_input(given, layer, outputs)
    golden = Golden(own, facts=operation(own, manifest.array.get(TILE_AXIS), manifest.chain))
    outputs[layer.name] = golden.values("output")
    actuals = results_of(folder, run) if run.is_dir() else []
    if not actuals:
        return LayerFound(layer.name, layer.path, "not dumped", 0, 0)
    seen = [Comparison(folder, actual) for actual in actuals]
    differing, total = sum(int(one.wrong.sum()) for one in seen), sum(one.wrong.size for one in seen)
    outputs[layer.name] = _actual_output(golden, seen)
    side = array_sides(manifest)[0]
    models = [model_of(manifest, own, one.actual.memory, side) for one in seen]
    same = [
        np.array_equal(one.got[one.known], model.golden[one.known]) for one, model in zip(seen, models, strict=True)
    ]
    whole = all(one.known.all() and not (one.actual.missing or one.actual.extra) for one in seen)
    if whole and all(same):
        return LayerFound(layer.name, layer.path, "inherited" if differing else "right", differing, total)
    memory, diagnosis = _diagnosed(folder, run, manifest, given, own, progress)
    return LayerFound(layer.name, layer.path, "faulty", differing, total, (), memory, diagnosis)


def _own_input(given: LayerCapture, layer: GraphLayer, outputs: Mapping[str, Int64]) -> LayerCapture:
    """The layer with what really came in, as far as that is known."""
    codes = {
        operand: operand_codes(layer, operand, outputs)
        for operand, sources in layer.operands.items()
        if all(source in outputs for source in sources)
    }
    if all(np.array_equal(array, given.tensors[operand]) for operand, array in codes.items()):
        return given
    return replace(given, reference=None, next_input=None, reference_codes=None, **codes)  # type: ignore[arg-type]


def _actual_output(golden: Golden, seen: list[Comparison]) -> Int64:
    """What the layer gave to those behind it; where that is not known, or is not a code, what it should have given."""
    chain, should = golden.facts.chain, golden.values("output")
    assert chain is not None
    last = chain.names[-1] if chain.names else "accumulator"
    for one in sorted(seen, key=lambda one: one.model.tensor == "accumulator" != last):
        entry, values = one.model.entry, one.got - one.model.entry.offset
        if one.model.tensor not in ("output", last, "accumulator") or entry.memory().order.has_bits:
            continue
        if one.model.tensor == "accumulator" != last:
            sums = np.where(one.known, values, golden.accumulator)
            low, high = (np.asarray(end, np.int64) for end in golden.facts.channel_bounds)
            shape = [-1 if at == chain.start.axis else 1 for at in range(sums.ndim)]
            inside = np.clip(sums, low.reshape(shape), high.reshape(shape))  # beyond them no step is defined
            return chain.values(inside)[last]
        fmt = golden.facts.output_format
        return np.where(one.known & (fmt.low <= values) & (values <= fmt.high), values, should)
    return should


def _diagnosed(
    folder: Path, run: Path, manifest: Manifest, given: LayerCapture, own: LayerCapture, progress: Callable[[str], None]
) -> tuple[str | None, Diagnosis | None]:
    """The first wrong memory and its diagnosis, against a set of what really came in."""
    if own is given:
        actual, found = diagnose_run(folder, run, progress)
        return actual.memory.name, found
    with scratch_folder() as scratch:
        try:
            made = dump(own, set_layout(manifest, own), scratch).folder
        except QexportError:  # such as inputs that are 0 everywhere, which prove nothing
            return None, None
        actual, found = diagnose_run(made, run, progress)
        return actual.memory.name, found
