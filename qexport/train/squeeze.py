"""How alive a network's squeeze is: the codes and channels of its narrowest layer."""

from typing import Any

import torch
from torch import Tensor

from qexport.frontends.vgg.data import Pictures, normalise
from qexport.frontends.vgg.model import QuantVGG
from qexport.frontends.vgg.quant import QuantConv2d, act_qmax, weight_qmax

PICTURES = 1000  # enough for shares of 16 positions each


def squeeze(model: QuantVGG) -> tuple[int, QuantConv2d]:
    """The quantized convolution with the fewest output, then input channels, and its index: the 8-to-8 layer."""
    return min(model.quantized().items(), key=lambda item: (item[1].out_channels, item[1].in_channels))


def effective_rank(activations: Tensor) -> float:
    """exp of the entropy of the normalised eigenvalues of the channels' covariance (Roy, Vetterli 2007); 1..channels.

    `activations` is float (n, channels, y, x); 0 when nothing varies.
    """
    samples = activations.double().transpose(0, 1).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(samples.cov()).clamp(min=0)
    if not eigenvalues.sum() > 0:
        return 0.0
    shares = eigenvalues / eigenvalues.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


@torch.no_grad()
def squeeze_report(model: QuantVGG, pictures: Pictures) -> dict[str, Any]:
    """What about 1000 pictures show of the narrowest layer.

    Channels (numbered from 0) that are 0 everywhere, at its input and behind its ReLU; effective rank of its input;
    where the quantizers are on also the shares of input codes 0 and largest and of each weight code.
    """
    model.eval()
    index, conv = squeeze(model)
    inputs = model.features[:index](normalise(pictures.spread(PICTURES)))
    activations = conv.input_codes(inputs) if conv.active else inputs
    report: dict[str, Any] = {
        "layer": index,
        "dead_inputs": _dead(activations),
        "dead_outputs": _dead(conv(inputs).relu()),
        "effective_rank": effective_rank(activations),
    }
    if conv.active:
        weights, largest = conv.weight_codes(), weight_qmax(conv.weight_bits)
        report |= {
            "input_zero": float((activations == 0).double().mean()),
            "input_saturated": float((activations == act_qmax(conv.act_bits)).double().mean()),
            "weight_codes": {c: float((weights == c).double().mean()) for c in range(-largest, largest + 1)},
        }
    return report


def _dead(activations: Tensor) -> list[int]:
    alive = activations.transpose(0, 1).flatten(1).any(1)
    return [channel for channel, lives in enumerate(alive.tolist()) if not lives]
