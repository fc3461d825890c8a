"""Hooks -> LayerCapture: what one quantized convolution sees and gives in a forward pass."""

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qexport.core.capture import REAL, CaptureWriter, LayerCapture, Source, tensor_shapes
from qexport.core.codes import CodeFormat, Formats
from qexport.core.geometry import Conv2d
from qexport.core.intformat import Int64, IntFormat
from qexport.errors import QexportError, few, near
from qexport.frontends.vgg.checkpoint import Network
from qexport.frontends.vgg.data import MEAN, STD, Pictures, normalise
from qexport.frontends.vgg.model import QuantVGG
from qexport.frontends.vgg.quant import QuantConv2d, act_qmax

BATCH = 8  # pictures in one forward pass: float64 activations of the whole network stay small


@dataclass(frozen=True)
class LayerFacts:
    """A quantized convolution of a network; `plane` is the input's (iy, ix)."""

    geometry: Conv2d
    formats: Formats
    conv: QuantConv2d
    plane: tuple[int, int]

    @property
    def shape(self) -> str:
        """in_channels x out_channels, '8x8'."""
        return f"{self.geometry.in_channels}x{self.geometry.out_channels}"

    def blank_capture(self) -> LayerCapture:
        """The layer with one image of zeros, where only weights and sizes count."""
        blank = np.zeros((1, self.geometry.in_channels, *self.plane), np.int64)
        return LayerCapture(self.geometry, self.formats, self.conv.weight_codes().numpy(), blank)

    def describe(self) -> str:
        return f"{self.geometry.name} ({self.shape})"


@dataclass(frozen=True)
class Unusable:
    """A quantized convolution that cannot be captured, and why; the network computes with it all the same."""

    name: str
    index: int
    shape: str
    why: str

    def describe(self) -> str:
        return f"{self.name} ({self.shape})"


@dataclass(frozen=True)
class Captured:
    """A capture file, its number of input codes, and how many of them a float32 pass gives differently."""

    path: Path
    codes: int
    float32_differences: int


def _clips(conv: QuantConv2d | None) -> bool:
    """Whether a convolution's input has codes: a negative clipping value clips nothing, so that they have no end."""
    return conv is not None and conv.act_scale > 0


def unusable_layers(model: QuantVGG) -> list[Unusable]:
    """The quantized convolutions that `layer_facts` leaves out."""
    return [
        Unusable(
            f"features.{index}",
            index,
            f"{conv.in_channels}x{conv.out_channels}",
            f"layer features.{index}: act_alpha is {conv.act_alpha.item():g}; a clipping value must be above 0",
        )
        for index, conv in model.quantized().items()
        if not _clips(conv)
    ]


def layer_facts(model: QuantVGG) -> list[LayerFacts]:
    """The quantized convolutions in order, with the formats of their codes and their input plane; those whose input
    has codes."""
    facts = []
    side = model.side
    features = list(model.features)
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            side //= 2
        if not isinstance(module, QuantConv2d) or not _clips(module):
            continue
        after_relu = any(isinstance(earlier, nn.ReLU) for earlier in features[:index])
        code = IntFormat(module.act_bits, False) if after_relu else _pixel_format(module)
        top, left = (size // 2 for size in module.kernel_size)
        geometry = Conv2d(
            name=f"features.{index}",
            index=index,
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            kernel=(module.kernel_size[0], module.kernel_size[1]),
            padding=(top, top, left, left),
            relu=isinstance(features[index + 1], nn.ReLU),
        )
        following = successor(model, index)
        formats = Formats(
            weight=CodeFormat(bits=module.weight_bits, signed=True, scale=module.weight_scale),
            input=CodeFormat(bits=code.bits, signed=code.signed, scale=module.act_scale),
            output=None
            if following is None or not _clips(following)
            else CodeFormat(bits=following.act_bits, signed=False, scale=following.act_scale),
        )
        facts.append(LayerFacts(geometry, formats, module, (side, side)))
    return facts


def _pixel_format(conv: QuantConv2d) -> IntFormat:
    """The narrowest signed format for the codes of normalised pixels, proven from their range and alpha."""
    step = conv.act_scale
    low = min(-mean / std for mean, std in zip(MEAN, STD, strict=True)) / step
    high = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)) / step
    return IntFormat.holding(round(low), min(round(high), act_qmax(conv.act_bits)), True)


def choose_layer(model: QuantVGG, wanted: str) -> LayerFacts:
    """The layer of that index (33), name (features.33) or shape (8x8); raises QexportError listing the valid ones."""
    facts = layer_facts(model)
    there = f"{few(near(wanted, [f.describe() for f in facts]))}; see qexport layers"
    if re.fullmatch(r"\d+x\d+", wanted):
        found = [f for f in facts if f.shape == wanted]
        if len(found) > 1:
            raise QexportError(
                f"layer: {len(found)} layers have shape {wanted}: {few([f.describe() for f in found])}; "
                "choose one by its index"
            )
    else:
        found = [f for f in facts if wanted in (f.geometry.name, str(f.geometry.index))]
    if found:
        return found[0]
    bad = [one for one in unusable_layers(model) if wanted in (one.name, str(one.index), one.shape)]
    if bad:
        raise QexportError(f"{bad[0].why}; choose one of {there}")
    number = re.fullmatch(r"(?:features\.)?(\d+)", wanted)
    if number and int(number.group(1)) < len(model.features):
        kind = type(model.features[int(number.group(1))]).__name__
        raise QexportError(f"layer: '{wanted}' is {kind}, not a quantized convolution; choose one of {there}")
    raise QexportError(f"layer: '{wanted}' is not in this network; choose one of {there}")


def capture_layers(
    network: Network,
    layers: Sequence[LayerFacts],
    pictures: Pictures,
    images: Sequence[int],
    folder: Path,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Captured]:
    """Run the pictures through the network in float64 on the CPU and take what the layers see and give.

    Writes one capture file for each layer into `folder`, image by image. In float64 a code at a rounding edge does not
    depend on machine, threads, batch or GPU. `images` are the pictures' indices in their source; `advance` is told
    how many pictures are done.
    """
    model = network.model
    double = copy.deepcopy(model).double()
    source = Source(
        checkpoint_sha256=network.sha256,
        data_sha256=hashlib.sha256(pictures.pixels.numpy().tobytes()).hexdigest(),
        images=tuple(images),
        stimulus="images",
    )
    differences = dict.fromkeys((_index(layer) for layer in layers), 0)
    captured = []
    with ExitStack() as files:
        writers = {}
        for layer in layers:
            path = folder / f"{layer.geometry.slug}.safetensors"
            file = files.enter_context(path.open("wb"))
            shapes = tensor_shapes(layer.geometry, {"input": (len(images), layer.geometry.in_channels, *layer.plane)})
            names = ("weight", "input", *(REAL if layer.formats.output is not None else REAL[:1]))
            writers[_index(layer)] = CaptureWriter(
                file, layer.geometry, layer.formats, source, {name: shapes[name] for name in names}
            )
        for start in range(0, len(images), BATCH):
            pixels = pictures.pixels[start : start + BATCH]
            singles, doubles = (_observe(network, layers, pixels) for network in (model, double))
            for layer in layers:
                index = _index(layer)
                codes = _conv(double, index).input_codes(doubles[index]["input"])
                float32_codes = _conv(model, index).input_codes(singles[index]["input"])
                differences[index] += int((float32_codes != codes).sum())
                seen = doubles[index]
                part = LayerCapture(
                    layer=layer.geometry,
                    formats=layer.formats,
                    weight=layer.conv.weight_codes().numpy(),
                    input=codes.numpy(),
                    reference=seen["reference"].numpy(),
                    next_input=seen["next_input"].numpy() if "next_input" in seen else None,
                )
                writers[index].add(part)
            advance(len(pixels))
    for layer in layers:
        path = folder / f"{layer.geometry.slug}.safetensors"
        size = len(images) * layer.geometry.in_channels * layer.plane[0] * layer.plane[1]
        captured.append(Captured(path, size, differences[_index(layer)]))
    return captured


def _index(layer: LayerFacts) -> int:
    assert layer.geometry.index is not None
    return layer.geometry.index


def _conv(model: QuantVGG, index: int) -> QuantConv2d:
    return model.quantized()[index]


def input_codes(network: Network, layer: LayerFacts, pictures: Pictures) -> Int64:
    """The codes (n, ic, iy, ix) that enter the layer, by the same float64 pass as capture_layers, and nothing else."""
    double = copy.deepcopy(network.model).double()
    codes = [
        _conv(double, _index(layer)).input_codes(_observe(double, [layer], pixels)[_index(layer)]["input"])
        for pixels in torch.split(pictures.pixels, BATCH)
    ]
    return torch.cat(codes).numpy().astype(np.int64)


@torch.no_grad()
def _observe(model: QuantVGG, layers: Sequence[LayerFacts], pixels: Tensor) -> dict[int, dict[str, Tensor]]:
    """What the layers receive and give, and what is received behind a ReLU by the next one, in one forward pass."""
    seen: dict[int, dict[str, Tensor]] = {_index(layer): {} for layer in layers}

    def keep(index: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
            seen[index][name] = (args[0] if output is None else output).clone()

        return hook

    hooks = []
    for index in seen:
        conv, following = _conv(model, index), successor(model, index)
        hooks += [
            conv.register_forward_pre_hook(keep(index, "input")),
            conv.register_forward_hook(keep(index, "reference")),
        ]
        if following is not None:
            hooks.append(following.register_forward_pre_hook(keep(index, "next_input")))
    model.eval()
    model(normalise(pixels, next(model.parameters()).dtype))
    for handle in hooks:
        handle.remove()
    return seen


def successor(model: QuantVGG, index: int) -> QuantConv2d | None:
    """The next quantized convolution, where only a ReLU lies between."""
    following = [at for at in model.quantized() if at > index]
    if not following or not all(isinstance(module, nn.ReLU) for module in model.features[index + 1 : following[0]]):
        return None
    return _conv(model, following[0])
