"""Hooks -> LayerCapture: what one quantized convolution sees and gives in a forward pass."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qexport.errors import QexportError
from qexport.intformat import Int64, IntFormat
from qexport.layer import CodeFormat, ConvGeometry, Formats, LayerCapture, Source
from qexport.nn.checkpoint import Network
from qexport.nn.data import MEAN, SIDE, STD, Pictures, normalise
from qexport.nn.quant import QuantConv2d, act_qmax
from qexport.nn.vgg import QuantVGG


@dataclass(frozen=True)
class LayerFacts:
    """A quantized convolution of a network; `plane` is the input's (iy, ix)."""

    geometry: ConvGeometry
    formats: Formats
    conv: QuantConv2d
    plane: tuple[int, int]

    @property
    def shape(self) -> str:
        """in_channels x out_channels, '8x8'."""
        return f"{self.geometry.in_channels}x{self.geometry.out_channels}"

    def describe(self) -> str:
        return f"{self.geometry.name} ({self.shape})"


@dataclass(frozen=True)
class Captured:
    """A capture, and how many of its input codes a float32 pass gives differently."""

    capture: LayerCapture
    float32_differences: int


def layer_facts(model: QuantVGG) -> list[LayerFacts]:
    """Every quantized convolution in order, with the formats of its codes and its input plane for a 32x32 picture."""
    facts = []
    side = SIDE
    features = list(model.features)
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            side //= 2
        if not isinstance(module, QuantConv2d):
            continue
        after_relu = any(isinstance(earlier, nn.ReLU) for earlier in features[:index])
        code = IntFormat(module.act_bits, False) if after_relu else _pixel_format(module)
        geometry = ConvGeometry(
            name=f"features.{index}",
            index=index,
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            kernel=(3, 3),
            padding=(1, 1, 1, 1),
            relu=isinstance(features[index + 1], nn.ReLU),
        )
        formats = Formats(
            weight=CodeFormat(bits=module.weight_bits, signed=True, scale=module.weight_scale),
            input=CodeFormat(bits=code.bits, signed=code.signed, scale=module.act_scale),
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
    listed = ", ".join(f.describe() for f in facts)
    if re.fullmatch(r"\d+x\d+", wanted):
        found = [f for f in facts if f.shape == wanted]
        if len(found) > 1:
            raise QexportError(
                f"layer: {len(found)} layers have shape {wanted}: {', '.join(f.describe() for f in found)}; "
                "choose one by its index"
            )
    else:
        found = [f for f in facts if wanted in (f.geometry.name, str(f.geometry.index))]
    if found:
        return found[0]
    number = re.fullmatch(r"(?:features\.)?(\d+)", wanted)
    if number and int(number.group(1)) < len(model.features):
        kind = type(model.features[int(number.group(1))]).__name__
        raise QexportError(f"layer: '{wanted}' is {kind}, no quantized convolution; choose one of {listed}")
    raise QexportError(f"layer: '{wanted}' is not in this network; choose one of {listed}")


def capture_layer(network: Network, layer: LayerFacts, pictures: Pictures, images: Sequence[int]) -> Captured:
    """Run the pictures through the network in float64 on the CPU and take what the layer sees and gives.

    In float64 a code at a rounding edge does not depend on machine, threads, batch or GPU. `images` are the pictures'
    indices in their source.
    """
    model = network.model
    following = list(model.quantized().values())
    at = following.index(layer.conv)
    features = list(model.features)
    index = features.index(layer.conv)
    successor = following[at + 1] if at + 1 < len(following) else None
    relu_only = successor is not None and all(
        isinstance(module, nn.ReLU) for module in features[index + 1 : features.index(successor)]
    )
    seen = _observe(model, layer.conv, successor if relu_only else None, pictures, torch.float32)
    float32_codes = layer.conv.input_codes(seen["input"])
    seen = _observe(model.double(), layer.conv, successor if relu_only else None, pictures, torch.float64)
    codes = layer.conv.input_codes(seen["input"])
    weight = layer.conv.weight_codes()
    model.float()
    capture = LayerCapture(
        layer=layer.geometry,
        formats=layer.formats,
        weight=weight.numpy(),
        input=codes.numpy(),
        reference=seen["reference"].numpy(),
        next_input=seen["next_input"].numpy() if relu_only else None,
        source=Source(
            checkpoint_sha256=network.sha256,
            data_sha256=hashlib.sha256(pictures.pixels.numpy().tobytes()).hexdigest(),
            images=tuple(images),
            stimulus="images",
        ),
    )
    return Captured(capture, int((float32_codes != codes).sum()))


def input_codes(network: Network, layer: LayerFacts, pictures: Pictures) -> Int64:
    """The codes (n, ic, iy, ix) that enter the layer, by the same float64 pass as capture_layer, and nothing else."""
    seen = _observe(network.model.double(), layer.conv, None, pictures, torch.float64)
    codes = layer.conv.input_codes(seen["input"])
    network.model.float()
    return codes.numpy().astype(np.int64)


@torch.no_grad()
def _observe(
    model: QuantVGG, conv: QuantConv2d, successor: QuantConv2d | None, pictures: Pictures, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What the layer receives and gives, and what its successor receives, in one forward pass."""
    seen: dict[str, Tensor] = {}
    hooks = [
        conv.register_forward_pre_hook(lambda module, args: seen.update(input=args[0].clone())),
        conv.register_forward_hook(lambda module, args, output: seen.update(reference=output.clone())),
    ]
    if successor is not None:
        hooks.append(successor.register_forward_pre_hook(lambda module, args: seen.update(next_input=args[0].clone())))
    model.eval()
    model(normalise(pictures.pixels, dtype))
    for hook in hooks:
        hook.remove()
    return seen
