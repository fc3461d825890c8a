"""The whole network in integers: pixels by table, BatchNorm and ReLU in the steps, a classifier of 8-bit weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from qexport.core.capture import Source
from qexport.core.codes import AccumulatorScale, CodeFormat, Formats
from qexport.core.geometry import Linear, Sum
from qexport.core.intformat import Int64
from qexport.core.network import PIXELS, IntegerNetwork, NetworkInput, NetworkLayer, NetworkOutput, View
from qexport.core.operations.registry import operation
from qexport.core.rescale import ANY, Hardware, rescale
from qexport.core.rescale import Network as RealNetwork
from qexport.core.steps import MaxPool, Step
from qexport.errors import QexportError
from qexport.frontends.vgg.capture import LayerFacts, layer_facts, unusable_layers
from qexport.frontends.vgg.checkpoint import Network
from qexport.frontends.vgg.data import normalise
from qexport.frontends.vgg.quant import QuantConv2d

CLASSIFIER_BITS = 8
SPREAD = 4  # standard deviations of the last BatchNorm that the classifier's input codes reach
PICTURE = "image"


@dataclass(frozen=True)
class Imported:
    """The network in integers. Of the accumulators within the bounds: `ties`, those whose code float64 may round either
    way; `departs`, those to which the hardware's steps give another code than PyTorch."""

    network: IntegerNetwork
    ties: int
    departs: int


@torch.no_grad()
def integer_network(network: Network, hardware: Hardware = ANY) -> Imported:
    """The network whose codes up to the classifier are those of PyTorch's float64 pass, or what a hardware makes of it.

    The classifier, which is not quantized, gets 8-bit input codes, 8-bit weights with one scale, and a bias in units
    of its accumulators, so that these are logits on one grid. Raises QexportError where a layer is not quantized.
    """
    model = network.model
    if plain := list(model.plain()):
        raise QexportError(
            f"checkpoint: {network.path}: features.{plain[0]} is not quantized; the integer network needs codes of "
            "every convolution"
        )
    if unusable := unusable_layers(model):
        raise QexportError(f"checkpoint: {network.path}: {unusable[0].why}; train it again")
    facts = layer_facts(model)
    after = [*facts[1:], None]
    layers: list[NetworkLayer] = []
    before, ties, departs = PICTURE, 0, 0
    for layer, following in zip(facts, after, strict=True):
        affine = _affine(model.features, layer)
        code = following.formats.input if following else _classifier_codes(model.features, layer)
        real = _real(layer, code, affine)
        found = rescale(real, hardware)
        layers.append(_convolution(layer, code, found.steps, before))
        ties += len(real.ties()) if following else 0  # the classifier's codes are not PyTorch's
        departs += int(found.departs.sum())
        before = layers[-1].name
        if pool := _pool(model.features, layer, code, before):
            layers.append(pool)
            before = pool.name
    layers.append(_classifier(model.classifier, code, before))
    image = NetworkInput(
        name=PICTURE, shape=(3, model.side, model.side), format=facts[0].formats.input, lookup=_lookup(facts[0].conv)
    )
    scale = layers[-1].formats.accumulator_scales[0]
    logits = NetworkOutput(name="logits", from_=layers[-1].name, scale=scale)
    source = Source(checkpoint_sha256=network.sha256)
    return Imported(IntegerNetwork((image,), tuple(layers), (logits,), source), ties, departs)


def _lookup(first: QuantConv2d) -> tuple[tuple[int, ...], ...]:
    """The first layer's code of each pixel value, by channel, as PyTorch computes it in float64."""
    values = torch.arange(PIXELS, dtype=torch.uint8).view(1, 1, PIXELS, 1).expand(1, 3, PIXELS, 1)
    alpha = first.act_alpha.double()
    real = normalise(values, torch.float64) / alpha
    codes: Tensor = torch.round(real.clamp(max=1.0) * (2**first.act_bits - 1)).long()[0, :, :, 0]
    return tuple(map(tuple, codes.tolist()))


def _affine(features: nn.Sequential, layer: LayerFacts) -> tuple[list[float], list[float]]:
    """What the BatchNorm behind a convolution multiplies with and adds, by channel."""
    assert layer.geometry.index is not None
    norm = features[layer.geometry.index + 1]
    if not isinstance(norm, nn.BatchNorm2d):
        channels = layer.geometry.out_channels
        return [1.0] * channels, [0.0] * channels
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain.tolist(), (norm.bias.double() - norm.running_mean.double() * gain).tolist()


def _bounds(layer: LayerFacts) -> tuple[Int64, Int64]:
    """The least and greatest accumulator of each channel."""
    least, greatest = operation(layer.blank_capture(), None).channel_bounds
    return least, greatest


def _classifier_codes(features: nn.Sequential, layer: LayerFacts) -> CodeFormat:
    """The codes that the classifier reads: as far as the last BatchNorm says, else as far as sums can go."""
    assert layer.geometry.index is not None
    norm = features[layer.geometry.index + 1]
    if isinstance(norm, nn.BatchNorm2d):
        furthest = float((norm.bias.double() + SPREAD * norm.weight.double().abs()).max())
    else:
        furthest = layer.formats.accumulator_scales[0] * int(_bounds(layer)[1].max())
    return CodeFormat(bits=CLASSIFIER_BITS, signed=False, scale=max(furthest, 2.0**-20) / (2**CLASSIFIER_BITS - 1))


def _real(layer: LayerFacts, code: CodeFormat, affine: tuple[Sequence[float], Sequence[float]]) -> RealNetwork:
    """The rounding of the network from a layer's accumulators to the codes of the next one."""
    unit = Fraction(layer.formats.weight.scales[0]) * Fraction(layer.formats.input.scales[0]) / Fraction(code.scales[0])
    return RealNetwork(
        [Fraction(gain) * unit for gain in affine[0]],
        [Fraction(offset) / Fraction(code.scales[0]) for offset in affine[1]],
        *_bounds(layer),
        low=0,
        high=code.integer.high,
    )


def _convolution(layer: LayerFacts, code: CodeFormat, steps: tuple[Step, ...], before: str) -> NetworkLayer:
    formats = msgspec.structs.replace(layer.formats, output=code)
    return NetworkLayer(layer.geometry, formats, steps, {"input": (before,)}, weight=layer.conv.weight_codes().numpy())


def _pool(features: nn.Sequential, layer: LayerFacts, code: CodeFormat, before: str) -> NetworkLayer | None:
    """The pool behind a convolution, BatchNorm and ReLU; of codes it is the same as of real values."""
    assert layer.geometry.index is not None
    at = layer.geometry.index + (3 if isinstance(features[layer.geometry.index + 1], nn.BatchNorm2d) else 2)
    if not isinstance(features[at], nn.MaxPool2d):
        return None
    formats = Formats(input=code, accumulator=AccumulatorScale(scale=code.scales[0]), output=code)
    pool = Sum(name=f"features.{at}", index=at, mul=(1,))
    return NetworkLayer(pool, formats, (MaxPool(kernel=(2, 2)),), {"input": (before,)})


def _classifier(linear: nn.Linear, code: CodeFormat, before: str) -> NetworkLayer:
    real = linear.weight.double().numpy()
    scale = max(float(np.abs(real).max()), 2.0**-20) / (2 ** (CLASSIFIER_BITS - 1) - 1)
    weight = np.rint(real / scale).astype(np.int64).reshape(*real.shape, 1, 1)
    bias = np.rint(linear.bias.double().numpy() / (scale * code.scales[0])).astype(np.int64)
    return NetworkLayer(
        Linear(name="classifier", in_channels=linear.in_features, out_channels=linear.out_features),
        Formats(weight=CodeFormat(bits=CLASSIFIER_BITS, signed=True, scale=scale), input=code),
        (),
        {"input": (before,)},
        {"input": (View("reshape", (0, -1, 1, 1)),)},
        weight=weight,
        bias=bias,
    )
