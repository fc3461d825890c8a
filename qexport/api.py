"""What a Python program uses: captures of arrays and networks, vector sets, and what was found of them, as values."""

import os
import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from qexport.bench.design import Design, Dut
from qexport.build import dump as dumping
from qexport.build.inputs import SAMPLES, given_inputs, open_inputs
from qexport.build.verify import Report
from qexport.build.verify import verify as verify_set
from qexport.core.atomic import write_atomically
from qexport.core.capture import Capture, CaptureFile, LayerCapture, Source
from qexport.core.codes import MINIFLOATS, AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Conv2d, Linear, MatMul, Sum
from qexport.core.intformat import Int64, IntFormat
from qexport.core.network import IntegerNetwork
from qexport.core.network_file import is_network, read_network
from qexport.core.network_run import Engine
from qexport.core.operations.registry import operation
from qexport.core.steps import read_steps
from qexport.errors import CheckFailed, QexportError
from qexport.findings.diagnose import diagnose as diagnose_words
from qexport.findings.diagnosis import Diagnosis
from qexport.findings.exhaust.result import Exhaustion
from qexport.findings.exhaust.run import LIMIT
from qexport.findings.exhaust.run import exhaust as exhaust_set
from qexport.findings.explain import Explanation
from qexport.findings.explain import explain as explain_value
from qexport.findings.shrink import BUDGET, Shrunk, shrink_actual, shrink_dut
from qexport.findings.whole_run import diagnose_run
from qexport.findings.words import read_actual
from qexport.layout.memory import Layout
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import describe_index
from qexport.layout.toml import default_layout, load_layout
from qexport.sets.manifest import Manifest, capture_of, read_manifest, read_words
from qexport.sim.run import simulate as simulate_set
from qexport.sim.streams import chosen_streams
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.verdict import Verdict

if TYPE_CHECKING:
    from torch.nn import Module

    from qexport.frontends.onnx_model.reading import Graph
    from qexport.frontends.vgg.checkpoint import Network

PathLike = str | os.PathLike[str]


def capture(
    network: "Network | Graph | IntegerNetwork | Module | None" = None,
    layer: str | int | None = None,
    pictures: Any = None,
    *,
    weight: ArrayLike | None = None,
    input: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    input2: ArrayLike | None = None,
    addend: ArrayLike | None = None,
    mul: Sequence[int] | None = None,
    weights: str | Sequence[int] | None = None,
    inputs: str | Sequence[int] | None = None,
    inputs2: str | Sequence[int] | None = None,
    outputs: str | None = None,
    weight_scale: float | Sequence[float] | None = None,
    input_scale: float | None = None,
    weight_zero_point: int | Sequence[int] = 0,
    input_zero_point: int = 0,
    input2_scale: float = 1.0,
    input2_zero_point: int = 0,
    sum_scale: float = 1.0,
    output_scale: float = 1.0,
    output_zero_point: int = 0,
    steps: Sequence[Mapping[str, Any]] | None = None,
    reference: ArrayLike | None = None,
    reference_codes: ArrayLike | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    relu: bool = False,
    name: str = "layer",
) -> LayerCapture:
    """The codes of one layer, of arrays, of a network that `load` gave, of an ONNX file, or of any PyTorch module.

    Of arrays: integer codes `weight` (oc, ic of one group, kh, kw) and `input` (n, ic, iy, ix), a convolution; or
    (oc, ic) and (n, ic), a linear layer; `bias` (oc,) in accumulator units. `input` (n, m, k) and `input2` (n, k, p), a
    matrix product, with an `addend` (n, m, p) in accumulator units; `input`, or it and `input2`, with `mul`, an integer
    for each, a sum, whose integers stand for `sum_scale`.

    `weights`, `inputs`, `inputs2`, `outputs`: formats such as "int4" or "uint8", by default int8, uint8, uint8 and
    none; "e2m1", "e3m2", "e2m3", "e4m3fn"; or a list of the integers that the codes 0, 1, ... stand for. Scale and zero
    point: real = (code - zero point) x scale, of weights also one for each output channel. `outputs` with
    `output_scale` and `output_zero_point`: what the next quantized layer receives. `steps`: what follows the
    accumulator, such as {"op": "relu"} (docs/reference/steps.md); by default what follows from `outputs`.
    `reference` (in the shape of the accumulators): what the framework itself computed in real numbers, which the golden
    is checked against; `reference_codes`: its own codes of the output. `padding`: all sides, (y, x), or top, bottom,
    left, right.

    Of a network: its `layer` by index, name or shape; `pictures` uint8 (n, 3, side, side), by default the shipped ones.

    Of an ONNX file that `load` read: its `layer` by name or number; `pictures`: an array, or arrays by the names of the
    model's inputs.

    Of a network in integers: its `layer` by name or index, fed by those before it; `pictures`: an array of pixels
    (uint8) or codes, or arrays by the names of the inputs; by default the shipped ones.

    Of a module: its `layer` by name or number; `pictures`: what the module is called with, or a tuple of arguments.
    Formats and scales are found, in what runs or in the values; those that are given count. What is not certain of
    them is warned of.

    Raises QexportError when shapes, formats and codes contradict each other.
    """
    if network is not None:
        if layer is None or weight is not None or input is not None:
            raise QexportError("capture: give a network and its layer, or weight and input; not both")
        if isinstance(network, IntegerNetwork):
            return _of_integers(network, str(layer), pictures)
        if type(network).__module__.startswith("qexport.frontends.onnx_model"):  # without loading onnx to ask
            return _of_onnx(network, str(layer), pictures)
        from qexport.frontends import needs_torch

        needs_torch(("torch",))
        from torch import nn

        if isinstance(network, nn.Module):
            output = None if outputs is None else _format("outputs", outputs, output_scale, output_zero_point)
            weight_facts = (weights, weight_scale, weight_zero_point)
            return _of_module(
                network, str(layer), pictures, weight_facts, (inputs, input_scale, input_zero_point), output
            )
        return _of_network(network, str(layer), pictures)  # type: ignore[arg-type]  # a Graph has gone its way
    if input is None or (weight is None and input2 is None and mul is None):
        raise QexportError("capture: give weight and input, or a network (qexport.load) and a layer")
    first = _format("inputs", inputs or "uint8", _or_1(input_scale), input_zero_point)
    output_format = None if outputs is None else _format("outputs", outputs, output_scale, output_zero_point)
    behind: dict[str, Any] = {
        "reference": None if reference is None else np.asarray(reference),
        "reference_codes": None if reference_codes is None else np.asarray(reference_codes),
        "steps": None if steps is None else read_steps(list(steps)),
    }
    if weight is None:
        second = None if input2 is None else _format("inputs2", inputs2 or "uint8", input2_scale, input2_zero_point)
        document = {"name": name, "relu": relu} | ({} if mul is None else {"mul": list(mul)})
        return LayerCapture(
            layer=_checked(MatMul if mul is None else Sum, document),
            formats=Formats(
                input=first,
                input2=second,
                accumulator=None if mul is None else AccumulatorScale(scale=sum_scale),
                output=output_format,
            ),
            input=np.asarray(input),
            input2=None if input2 is None else np.asarray(input2),
            addend=None if addend is None else np.asarray(addend),
            **behind,
        )
    codes, seen = np.asarray(weight), np.asarray(input)
    kind: type[Conv2d] | type[Linear] = Conv2d
    if codes.ndim == 2 and seen.ndim == 2:
        kind, codes, seen = Linear, codes[..., np.newaxis, np.newaxis], seen[..., np.newaxis, np.newaxis]
    elif (codes.ndim, seen.ndim) != (4, 4):
        raise QexportError(
            f"capture: weight has {codes.ndim} axes and input {seen.ndim}; a convolution has 4 each, a linear layer 2"
        )
    geometry = kind(
        name=name,
        in_channels=seen.shape[1],
        out_channels=codes.shape[0],
        kernel=(codes.shape[2], codes.shape[3]),
        stride=_pair(stride),
        padding=_sides(padding),
        dilation=_pair(dilation),
        groups=groups,
        relu=relu,
    )
    return LayerCapture(
        layer=_checked(kind, msgspec.to_builtins(geometry)),
        formats=Formats(
            weight=_format("weights", weights or "int8", _or_1(weight_scale), weight_zero_point),
            input=first,
            output=output_format,
        ),
        weight=codes,
        input=seen,
        bias=None if bias is None else np.asarray(bias),
        **behind,
    )


def _checked(kind: Any, document: Any) -> Any:
    """The layer: a Struct checks what is converted to it alone."""
    try:
        return msgspec.convert({"kind": kind.__struct_config__.tag} | document, kind)
    except msgspec.ValidationError as error:
        raise QexportError(f"capture: layer {document['name']}: {error}") from None


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _sides(padding: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    top, bottom, left, right = sides
    return top, bottom, left, right


def _format(name: str, text: str | Sequence[int], scale: ArrayLike, zero_point: ArrayLike = 0) -> CodeFormat:
    facts: dict[str, Any]
    if not isinstance(text, str):
        levels = np.asarray(text).tolist()
        facts = {"bits": max(len(levels) - 1, 1).bit_length(), "signed": False, "levels": levels}
    elif text in MINIFLOATS:
        facts = {"bits": sum(map(int, text[1:4:2]), 1), "signed": False, "code": text}
    else:
        found = re.fullmatch(r"(u?)int([1-9]\d?)", text)
        if not found or int(found[2]) > 32:
            raise QexportError(
                f"{name}: '{text}' is not a format; give one such as 'int4' or 'uint8', of up to 32 bits, one of "
                f"{', '.join(MINIFLOATS)}, or a list of levels"
            )
        facts = {"bits": int(found[2]), "signed": not found[1]}
    numbers = {"scale": np.asarray(scale).tolist(), "zero_point": np.asarray(zero_point).tolist()}
    try:
        return msgspec.convert(facts | numbers, CodeFormat)
    except msgspec.ValidationError as error:
        raise QexportError(f"{name}: {error}") from None


def _plain(name: str, text: str | Sequence[int]) -> IntFormat:
    """A format whose codes stand for themselves, as those of modules do."""
    if not (fmt := _format(name, text, 1.0)).plain:
        raise QexportError(f"{name}: a module's codes stand for themselves; give a format such as 'int4' or 'uint8'")
    return fmt.integer


def _or_1(scale: ArrayLike | None) -> ArrayLike:
    return 1.0 if scale is None else scale


def _of_module(
    model: "Module",
    layer: str,
    inputs: Any,
    weight: tuple[str | Sequence[int] | None, ArrayLike | None, ArrayLike],
    input: tuple[str | Sequence[int] | None, ArrayLike | None, ArrayLike],
    output: CodeFormat | None,
) -> LayerCapture:
    """`weight` and `input`: format, scale and zero point, as far as they are stated."""
    from qexport.frontends.torch_module import capture as capturing

    if inputs is None:
        raise QexportError("capture: give what the module is called with")
    weights, seen = (
        capturing.stated(None if text is None else _plain(name, text), scale, zero_point)
        for name, (text, scale, zero_point) in (("weights", weight), ("inputs", input))
    )
    source = Source(data_sha256=capturing.digest(inputs))
    found = capturing.capture_module(model, layer, inputs, capturing.Wishes(weights, seen, output), source)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=3)
    return found.capture


def _of_onnx(graph: Any, layer: str, inputs: Any) -> LayerCapture:
    from qexport.frontends.onnx_model import capture as capturing
    from qexport.frontends.onnx_model.walk import walk

    if inputs is None:
        raise QexportError("capture: give what the network is fed")
    named = inputs if isinstance(inputs, Mapping) else dict.fromkeys(graph.inputs, inputs)
    fed = capturing.fed(graph, {name: np.asarray(array) for name, array in named.items()})
    source = Source(checkpoint_sha256=graph.sha256, data_sha256=fed.digest)
    found = capturing.capture_layer(walk(graph, fed.shapes), layer, fed, source)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=3)
    return found.capture


def _of_network(network: "Network", layer: str, pictures: ArrayLike | None) -> LayerCapture:
    import torch

    from qexport.frontends.vgg import capture as capturing
    from qexport.frontends.vgg import data

    side = network.model.side
    if pictures is None:
        read = data.read(data.SamplePictures(), side=side)
    else:
        pixels = np.asarray(pictures)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise QexportError(f"pictures: they are {pixels.dtype} {pixels.shape}; give uint8 (n, 3, {side}, {side})")
        read = data.Pictures(torch.from_numpy(pixels.copy()), torch.full((len(pixels),), -1))
    chosen = capturing.choose_layer(network.model, layer)
    with tempfile.TemporaryDirectory(prefix="qexport-") as folder:
        indices = range(len(read.pixels))
        (found,) = capturing.capture_layers(network, [chosen], read, indices, Path(folder))
        return LayerCapture.load(found.path)


def _of_integers(network: IntegerNetwork, layer: str, pictures: Any) -> LayerCapture:
    if pictures is None:
        given = open_inputs(SAMPLES, network)
    else:
        arrays = pictures if isinstance(pictures, Mapping) else {network.inputs[0].name: pictures}
        given = given_inputs({name: np.asarray(array) for name, array in arrays.items()}, network)
    engine, node = Engine(network), network.choose(layer).node
    held = given.codes(range(given.pictures))
    read = {name for names in node.operands.values() for name in names}
    return node.capture(engine.operands(node.name, held | engine.run(held, sorted(read - set(held)))), network.source)


def load(path: PathLike, *, side: int | None = None) -> "Network | Graph | IntegerNetwork":
    """The trained network of a checkpoint, "builtin": the one that ships; or of an ONNX file; or a network in integers,
    NAME.network.safetensors. `side`: of the pictures of a checkpoint, by default what it says, else 32.

    Raises QexportError when there is none.
    """
    from qexport.frontends import needs_onnx, needs_torch

    if side is not None and (is_network(Path(path)) or os.fspath(path).endswith(".onnx")):
        raise QexportError("side: it belongs to a checkpoint; other files say the shapes of their inputs")
    if is_network(Path(path)):
        return read_network(Path(path))
    if os.fspath(path).endswith(".onnx"):
        needs_onnx()
        from qexport.frontends.onnx_model.reading import read_model

        return read_model(Path(path))
    needs_torch()
    from qexport.frontends.vgg import checkpoint

    return checkpoint.load(checkpoint.BUILTIN if os.fspath(path) == "builtin" else Path(path), side=side)


def dump(
    of: Capture | PathLike, out: PathLike, layout: PathLike | Layout | None = None, *, force: bool = False
) -> "VectorSet":
    """Write the vector set of a layer as a folder in `out`, verified, whole or not at all.

    `of`: a capture, or a capture file. `layout`: a preset's name or a layout file; by default the preset with a bench
    for the kind of layer. `force` replaces another set of this layer. Raises QexportError when the layout does not suit
    the layer or something is in the way, CheckFailed when the golden contradicts the capture's reference.
    """
    captured = CaptureFile(Path(of)) if isinstance(of, str | os.PathLike) else of
    name = default_layout(captured.layer.kind) if layout is None else layout
    chosen = name if isinstance(name, Layout) else load_layout(os.fspath(name))
    return VectorSet(dumping.dump(captured, chosen, Path(out), force).folder)


def open(folder: PathLike) -> "VectorSet":
    """The vector set in a folder; raises QexportError when it holds none, CheckFailed when it was changed."""
    return VectorSet(folder)


class VectorSet:
    """A vector set on disk. `set["accumulator"]` is a tensor, read from its files; paths are str or PathLike.

    Nothing here writes into the set.
    """

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)

    def __repr__(self) -> str:
        return f"VectorSet({str(self.folder)!r}: {', '.join(self.tensors)})"

    @property
    def tensors(self) -> list[str]:
        """The names of the tensors that the set's files hold."""
        return list(dict.fromkeys(entry.tensor for entry in self.manifest.memories))

    def __getitem__(self, tensor: str) -> Int64:
        """The named tensor in its axes, as the memory files hold it (wrapped or saturated where the layout says so).

        Raises QexportError when no memory stores it, CheckFailed when a file was changed.
        """
        entries = [entry for entry in self.manifest.memories if entry.tensor == tensor]
        if not entries:
            raise QexportError(f"tensor: '{tensor}' is not in {self.folder}; it stores {', '.join(self.tensors)}")
        entry = min(entries, key=lambda entry: entry.memory().order.has_bits)
        tiling = entry.tiling(self.manifest.array)
        files = range(len(entry.files))
        blocks = np.stack([read_words(self.folder, self.manifest, entry, tiling, number) for number in files])
        if index := tiling.unequal_copy(blocks):
            where = f"memory '{entry.name}': the copies of {describe_index(index)} differ"
            raise CheckFailed(f"{self.folder}: {where}; dump the set again")
        stored = tiling.untile(blocks) - entry.offset
        if not entry.memory().order.has_bits:
            return stored
        capture = capture_of(self.folder, self.manifest)
        facts = operation(capture, self.manifest.array.get(TILE_AXIS), self.manifest.chain)
        weights = 1 << np.arange(stored.shape[-1] - 1, -1, -1, dtype=np.int64)
        return IntFormat(stored.shape[-1], facts.tensor(tensor).format.signed).wrap(stored @ weights)

    def verify(self) -> Report:
        """Check every file, and every code against the golden."""
        return verify_set(self.folder)

    def simulate(
        self,
        dut: Design | PathLike | Sequence[PathLike] = (),
        *,
        top: str = "dut",
        simulator: str = "auto",
        streams: Sequence[str] = (),
        seed: int | None = None,
        seeds: int = 1,
        keep: PathLike | None = None,
        waves: str | None = None,
        limit: float = TIME_LIMIT,
    ) -> Verdict:
        """Run the self-checking bench, around the module `top` of `dut`, a Design, or the set's own design.

        `streams`: how the streams run, in all ways without it, the first run that fails being the last; `seeds`: how
        many runs of those that stall at random, from `seed` on. `seed` alone: one such run; 0: a smooth one.
        `keep`: a folder for logs, the words that came back, and waves; without it they go with this object. The rest
        is as in `qexport simulate`. Raises QexportError when it cannot be run, CheckFailed when the set was changed.
        """
        if keep is None:
            keep = tempfile.mkdtemp(prefix="qexport-kept-")
            weakref.finalize(self, shutil.rmtree, keep, ignore_errors=True)
        return simulate_set(
            self.folder, simulator, _design(dut), top=top, seed=seed or 0, streams=chosen_streams(streams, seed, seeds),
            keep=Path(keep), waves=waves, limit=limit,
        )  # fmt: skip

    def exhaust(
        self,
        dut: Design | PathLike | Sequence[PathLike],
        *,
        top: str = "dut",
        ports: Mapping[str, str] | None = None,
        latency: int | None = None,
        after: str | None = None,
        limit: int = LIMIT,
        seed: int = 0,
        time_limit: float = TIME_LIMIT,
    ) -> Exhaustion:
        """Send every accumulator within the bounds through the post-processing module `top` of `dut`, and compare.

        As in `qexport exhaust`; `ports`: names by role, such as {"value": "acc_i"}. A wrong code is reported, not
        raised. Raises QexportError when it cannot be run, CheckFailed when the set was changed.
        """
        return exhaust_set(
            self.folder, _design(dut), top=top, ports=ports, latency=latency, after=after, limit=limit, seed=seed,
            time_limit=time_limit,
        )  # fmt: skip

    def diagnose(self, actual: Verdict | PathLike | Sequence[PathLike], memory: str | None = None) -> Diagnosis:
        """Where results differ from the set, and which mistake it is.

        `actual`: a run of `simulate`, or files or a folder with what a design gave for `memory` (for a run: by default
        the first memory with a wrong word).
        """
        if not isinstance(actual, Verdict):
            return diagnose_words(self.folder, read_actual(self.folder, _paths(actual), memory))
        if actual.kept is None:
            raise QexportError("actual: the run kept no words; give `simulate` a folder with keep")
        if memory is None:
            return diagnose_run(self.folder, actual.kept)[1]
        words = actual.kept / f"{memory}.hex"
        if not words.is_file():
            raise QexportError(f"actual: the run left no words of {memory} in {actual.kept}; its log says why")
        return diagnose_words(self.folder, read_actual(self.folder, words, memory))

    def explain(self, *at: int, **by_axis: int) -> Explanation:
        """How a value comes about, term by term: that of image n, output channel oc, position (oy, ox), or, of a matrix
        product, of (n, m, p); in this order, or by the names of the axes."""
        axes = self.manifest.layer.results
        if by_axis and (at or set(by_axis) != set(axes)):
            raise QexportError(f"at: give a number for each of {', '.join(axes)}")
        return explain_value(self.folder, *at, *(by_axis[axis] for axis in axes if by_axis))

    def report(self, out: PathLike, run: Verdict | None = None) -> Path:
        """Write what the set, or a run of `simulate` on it, looks like as one HTML page, and return its path."""
        from qexport.report import sets  # here, because templates take long to load

        page = Path(out)
        if run is not None and run.kept is None:
            raise QexportError("report: the run kept no words; give `simulate` a folder with keep")
        kept = None if run is None else run.kept
        data = sets.set_page(self.folder, page) if kept is None else sets.run_page(kept, self.folder, page, run)
        write_atomically(page, data)
        return page

    def shrink(
        self, actual: Verdict | PathLike | Sequence[PathLike], out: PathLike, *, budget: float = BUDGET
    ) -> Shrunk:
        """Write the smallest set found that still shows a failure as the new folder `out`.

        Of a run with a design of the user's each step is simulated, for up to `budget` seconds; of files one differing
        value is kept.
        """
        if isinstance(actual, Verdict) and actual.design:
            return shrink_dut(self.folder, Path(out), actual.design, seed=actual.seed, budget=budget)
        if isinstance(actual, Verdict):
            raise QexportError("shrink: the run is of the set's own design; give a run of yours, or files")
        return shrink_actual(self.folder, Path(out), read_actual(self.folder, _paths(actual)))


def _design(dut: Design | PathLike | Sequence[PathLike]) -> Dut:
    return dut if isinstance(dut, Design) else _paths(dut)


def _paths(given: PathLike | Sequence[PathLike]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | os.PathLike) else [Path(path) for path in given]
