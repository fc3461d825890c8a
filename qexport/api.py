"""What a Python program uses: captures of arrays and networks, vector sets, and what was found of them, as values."""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from qexport.bench.design import Design, Dut
from qexport.build import dump as dumping
from qexport.build.verify import Report
from qexport.build.verify import verify as verify_set
from qexport.core.capture import Capture, CaptureFile, LayerCapture
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import Conv2d, Linear
from qexport.core.intformat import Int64, IntFormat
from qexport.core.operations.registry import operation
from qexport.errors import CheckFailed, QexportError
from qexport.findings.diagnose import Diagnosis
from qexport.findings.diagnose import diagnose as diagnose_words
from qexport.findings.exhaust.result import Exhaustion
from qexport.findings.exhaust.run import LIMIT
from qexport.findings.exhaust.run import exhaust as exhaust_set
from qexport.findings.explain import Explanation
from qexport.findings.explain import explain as explain_value
from qexport.findings.shrink import BUDGET, Shrunk, shrink_actual, shrink_dut
from qexport.findings.words import read_actual
from qexport.layout.memory import Layout
from qexport.layout.order import TILE_AXIS
from qexport.layout.tiling import describe_index
from qexport.layout.toml import default_layout, load_layout
from qexport.sets.manifest import Manifest, capture_of, read_manifest, read_words
from qexport.sim.run import simulate as simulate_set
from qexport.sim.supervisor import TIME_LIMIT
from qexport.sim.verdict import Verdict

if TYPE_CHECKING:
    from qexport.frontends.vgg.checkpoint import Network

PathLike = str | os.PathLike[str]


def capture(
    network: "Network | None" = None,
    layer: str | int | None = None,
    pictures: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    input: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    weights: str = "int8",
    inputs: str = "uint8",
    outputs: str | None = None,
    weight_scale: float | Sequence[float] = 1.0,
    input_scale: float = 1.0,
    weight_zero_point: int | Sequence[int] = 0,
    input_zero_point: int = 0,
    output_scale: float = 1.0,
    reference: ArrayLike | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    relu: bool = False,
    name: str = "layer",
) -> LayerCapture:
    """The codes of one layer, of arrays or of a network that `load` gave.

    Of arrays: integer codes `weight` (oc, ic of one group, kh, kw) and `input` (n, ic, iy, ix), a convolution; or
    (oc, ic) and (n, ic), a linear layer; `bias` (oc,) in accumulator units. `weights`, `inputs`, `outputs`: formats
    such as "int4" or "uint8"; scale and zero point: real = (code - zero point) x scale, of weights also one for each
    output channel. `outputs`
    with `output_scale`: what the next quantized layer receives behind the ReLU. `reference` (n, oc, oy, ox): the
    framework's own real output, which the golden is checked against. `padding`: all sides, (y, x), or top, bottom,
    left, right.

    Of a network: its `layer` by index, name or shape; `pictures` uint8 (n, 3, 32, 32), by default the shipped ones.

    Raises QexportError when shapes, formats and codes contradict each other.
    """
    if network is not None:
        if layer is None or weight is not None or input is not None:
            raise QexportError("capture: give a network and its layer, or weight and input; not both")
        return _of_network(network, str(layer), pictures)
    if weight is None or input is None:
        raise QexportError("capture: give weight and input, or a network (qexport.load) and a layer")
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
    try:
        geometry = msgspec.convert(msgspec.to_builtins(geometry), kind)  # a Struct checks what is converted to it alone
    except msgspec.ValidationError as error:
        raise QexportError(f"capture: layer {name}: {error}") from None
    return LayerCapture(
        layer=geometry,
        formats=Formats(
            weight=_format("weights", weights, weight_scale, weight_zero_point),
            input=_format("inputs", inputs, input_scale, input_zero_point),
            output=None if outputs is None else _format("outputs", outputs, output_scale),
        ),
        weight=codes,
        input=seen,
        bias=None if bias is None else np.asarray(bias),
        reference=None if reference is None else np.asarray(reference),
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _sides(padding: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    top, bottom, left, right = sides
    return top, bottom, left, right


def _format(name: str, text: str, scale: ArrayLike, zero_point: ArrayLike = 0) -> CodeFormat:
    found = re.fullmatch(r"(u?)int([1-9]\d?)", text)
    if not found or int(found[2]) > 32:
        raise QexportError(f"{name}: '{text}' is not a format; give one such as 'int4' or 'uint8', of up to 32 bits")
    numbers = {"scale": np.asarray(scale).tolist(), "zero_point": np.asarray(zero_point).tolist()}
    try:
        return msgspec.convert({"bits": int(found[2]), "signed": not found[1]} | numbers, CodeFormat)
    except msgspec.ValidationError as error:
        raise QexportError(f"{name}: {error}") from None


def _of_network(network: "Network", layer: str, pictures: ArrayLike | None) -> LayerCapture:
    import torch

    from qexport.frontends.vgg import capture as capturing
    from qexport.frontends.vgg import data

    if pictures is None:
        read = data.read(data.SamplePictures())
    else:
        pixels = np.asarray(pictures)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (3, data.SIDE, data.SIDE):
            raise QexportError(
                f"pictures: they are {pixels.dtype} {pixels.shape}; give uint8 (n, 3, {data.SIDE}, {data.SIDE})"
            )
        read = data.Pictures(torch.from_numpy(pixels.copy()), torch.full((len(pixels),), -1))
    chosen = capturing.choose_layer(network.model, layer)
    with tempfile.TemporaryDirectory(prefix="qexport-") as folder:
        indices = range(len(read.pixels))
        (found,) = capturing.capture_layers(network, [chosen], read, indices, Path(folder))
        return LayerCapture.load(found.path)


def load(path: PathLike) -> "Network":
    """The trained network of a checkpoint; "builtin": the one that ships. Raises QexportError when there is none."""
    from qexport.frontends import needs_torch

    needs_torch()
    from qexport.frontends.vgg import checkpoint

    return checkpoint.load(checkpoint.BUILTIN if os.fspath(path) == "builtin" else Path(path))


def dump(
    of: Capture | PathLike, out: PathLike, layout: PathLike | Layout | None = None, *, force: bool = False
) -> "VectorSet":
    """Write the vector set of a layer as a folder in `out`, verified, whole or not at all.

    `of`: a capture, or a capture file. `layout`: a preset's name or a layout file; by default the preset with a bench
    for the kind of layer. `force` replaces another set of
    this layer. Raises QexportError when the layout does not suit the layer or something is in the way, CheckFailed
    when the golden contradicts the capture's reference.
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
        seed: int = 0,
        keep: PathLike | None = None,
        waves: str | None = None,
        limit: float = TIME_LIMIT,
    ) -> Verdict:
        """Run the self-checking bench, around the module `top` of `dut`, a Design, or the set's own design.

        `keep`: a folder for logs, the words that came back, and waves; without it they go with this object. The rest
        is as in `qexport simulate`. Raises QexportError when it cannot be run, CheckFailed when the set was changed.
        """
        if keep is None:
            keep = tempfile.mkdtemp(prefix="qexport-kept-")
            weakref.finalize(self, shutil.rmtree, keep, ignore_errors=True)
        return simulate_set(
            self.folder, simulator, _design(dut), top=top, seed=seed, keep=Path(keep), waves=waves, limit=limit
        )

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
        found: Diagnosis | None = None
        for name in [memory] if memory is not None else actual.compared:
            words = actual.kept / f"{name}.hex"
            if words.is_file():
                found = diagnose_words(self.folder, read_actual(self.folder, words, name))
                if found.differing or found.findings:
                    break
        if found is None:
            raise QexportError(f"actual: the run left no words in {actual.kept}; its log says why")
        return found

    def explain(self, *at: int, **by_axis: int) -> Explanation:
        """How a value comes about, term by term: that of image n, output channel oc, position (oy, ox), or, of a matrix
        product, of (n, m, p); in this order, or by the names of the axes."""
        axes = self.manifest.layer.results
        if by_axis and (at or set(by_axis) != set(axes)):
            raise QexportError(f"at: give a number for each of {', '.join(axes)}")
        return explain_value(self.folder, *at, *(by_axis[axis] for axis in axes if by_axis))

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
