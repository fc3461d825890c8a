"""The VGG16 family: a chain of quantized convolutions that keep the plane, max pools and one linear classifier."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qexport.frontends.vgg.data import SIDE
from qexport.frontends.vgg.quant import QuantConv2d

CLASSES = 10


@dataclass(frozen=True)
class ConvSpec:
    """One convolution of the chain and what follows it: BatchNorm (or not), ReLU, MaxPool (or not). `kernel`: odd."""

    in_channels: int
    out_channels: int
    batch_norm: bool = True
    pool: bool = False
    quantized: bool = True
    kernel: tuple[int, int] = (3, 3)

    @property
    def padding(self) -> tuple[int, int]:
        """What keeps the plane."""
        return self.kernel[0] // 2, self.kernel[1] // 2


def specs_of(cfg: str) -> tuple[ConvSpec, ...]:
    """Read '64 M 8*': a number is a convolution's output channels, M a pool, * a convolution without BatchNorm."""
    specs: list[ConvSpec] = []
    in_channels = 3
    tokens = cfg.split()
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if token != "M":
            out_channels = int(token.rstrip("*"))
            specs.append(ConvSpec(in_channels, out_channels, not token.endswith("*"), following == "M"))
            in_channels = out_channels
    return tuple(specs)


MODELS = {
    "vgg16_quant_gradual": specs_of("64 M 128 128 M 256 256 256 M 512 128 32 8 8* 32 128 512 M 512 512 512 M"),
    "vgg16_quant": specs_of("64 M 128 128 M 256 256 256 M 512 8 8* 512 M 512 512 512 M"),
}


class QuantVGG(nn.Module):
    """Input (n, 3, side, side) normalised pixels, output (n, classes) logits."""

    def __init__(
        self,
        specs: tuple[ConvSpec, ...],
        weight_bits: int = 4,
        act_bits: int = 4,
        in_features: int = 512,
        classes: int = CLASSES,
        side: int = SIDE,
    ):
        super().__init__()
        self.specs = specs
        self.side = side
        self.weight_bits = weight_bits
        self.act_bits = act_bits
        layers: list[nn.Module] = []
        for spec in specs:
            if spec.quantized:
                layers.append(QuantConv2d(spec.in_channels, spec.out_channels, weight_bits, act_bits, spec.kernel))
            else:
                channels = spec.in_channels, spec.out_channels
                layers.append(nn.Conv2d(*channels, spec.kernel, padding=spec.padding, bias=False))
            if spec.batch_norm:
                layers.append(nn.BatchNorm2d(spec.out_channels))
            layers.append(nn.ReLU())
            if spec.pool:
                layers.append(nn.MaxPool2d(2))
        layers.append(nn.AvgPool2d(1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return out

    def quantized(self) -> dict[int, QuantConv2d]:
        """The quantized convolutions by their index in `features`."""
        return {i: m for i, m in enumerate(self.features) if isinstance(m, QuantConv2d)}

    def plain(self) -> dict[int, nn.Conv2d]:
        """The convolutions that are not quantized, by their index in `features`."""
        return {
            i: m for i, m in enumerate(self.features) if isinstance(m, nn.Conv2d) and not isinstance(m, QuantConv2d)
        }


def build(name: str, weight_bits: int = 4, act_bits: int = 4) -> QuantVGG:
    """The network of that name in MODELS, with fresh weights."""
    return QuantVGG(MODELS[name], weight_bits, act_bits)
