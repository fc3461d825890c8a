"""Small quantized networks of several frameworks, each with inputs: what users bring."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Example = tuple[nn.Module, Tensor]


def _settled(model: nn.Module, *shape: int) -> Example:
    """A model whose statistics have left their starting values, and inputs."""
    generator = torch.Generator().manual_seed(7)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(8, *shape, generator=generator))
    return model.eval(), torch.randn(2, *shape, generator=generator)


def brevitas_cnn() -> Example:
    """4 bits, weights with a scale for each channel, real biases, BatchNorm, a pool, a linear layer."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat

    torch.manual_seed(0)
    weights: dict[str, Any] = {"weight_bit_width": 4, "weight_quant": Int8WeightPerChannelFloat, "bias": True}
    model = nn.Sequential()
    model.add_module("start", qnn.QuantIdentity(bit_width=4, return_quant_tensor=True))
    model.add_module("conv1", qnn.QuantConv2d(3, 8, 3, padding=1, **weights))
    model.add_module("norm1", nn.BatchNorm2d(8))
    model.add_module("relu1", qnn.QuantReLU(bit_width=4, return_quant_tensor=True))
    model.add_module("conv2", qnn.QuantConv2d(8, 12, 3, stride=2, **weights))
    model.add_module("relu2", qnn.QuantReLU(bit_width=4, return_quant_tensor=True))
    model.add_module("pool", nn.MaxPool2d(2))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", qnn.QuantLinear(12 * 2 * 2, 10, **weights))
    return _settled(model, 3, 11, 11)


class Residual(nn.Module):
    """Two convolutions and the sum with what came in, quantized alike on both sides."""

    def __init__(self) -> None:
        import brevitas.nn as qnn

        super().__init__()
        self.start = qnn.QuantIdentity(bit_width=4, return_quant_tensor=True)
        self.conv1 = qnn.QuantConv2d(8, 8, 3, padding=1, bias=False, weight_bit_width=4)
        self.norm1 = nn.BatchNorm2d(8)
        self.relu1 = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.conv2 = qnn.QuantConv2d(8, 8, 3, padding=1, bias=False, weight_bit_width=4)
        self.norm2 = nn.BatchNorm2d(8)
        self.common = qnn.QuantIdentity(bit_width=4, return_quant_tensor=True)
        self.relu2 = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.last = qnn.QuantConv2d(8, 4, 1, bias=False, weight_bit_width=4)

    def forward(self, x: Tensor) -> Any:
        x = self.start(x)
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.common(self.norm2(self.conv2(y)))
        return self.last(self.relu2(y + self.common(x)))


def brevitas_residual() -> Example:
    torch.manual_seed(1)
    return _settled(Residual(), 8, 6, 6)


def brevitas_depthwise() -> Example:
    """Depthwise and pointwise convolutions with quantized biases."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias

    torch.manual_seed(2)
    facts: dict[str, Any] = {
        "weight_bit_width": 4, "weight_quant": Int8WeightPerChannelFloat, "bias": True, "bias_quant": Int32Bias
    }  # fmt: skip
    model = nn.Sequential()
    model.add_module("start", qnn.QuantIdentity(bit_width=8, return_quant_tensor=True))
    for number, (inputs, outputs, stride) in enumerate(((4, 8, 1), (8, 16, 2)), start=1):
        depthwise = qnn.QuantConv2d(inputs, inputs, 3, padding=1, stride=stride, groups=inputs, **facts)
        model.add_module(f"depthwise{number}", depthwise)
        model.add_module(f"relu{number}a", qnn.QuantReLU(bit_width=4, max_val=6.0, return_quant_tensor=True))
        model.add_module(f"pointwise{number}", qnn.QuantConv2d(inputs, outputs, 1, **facts))
        model.add_module(f"relu{number}b", qnn.QuantReLU(bit_width=4, max_val=6.0, return_quant_tensor=True))
    return _settled(model, 4, 6, 6)


def _resnet(training: bool) -> Example:
    import torchvision

    torch.manual_seed(3)
    model = torchvision.models.resnet18(weights=None)
    _, pictures = _settled(model, 3, 64, 64)
    return model.train(training), pictures


def _quietly(make: Callable[[], Example]) -> Callable[[], Example]:
    """torch.ao warns that it will move to another package, and of its own settings."""

    def quiet() -> Example:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    quiet.__doc__ = make.__doc__
    return quiet


@_quietly
def ao_resnet18() -> Example:
    """torch.ao, FX, after training: a ResNet-18 of integers, with fused ReLUs and quantized sums."""
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    model, pictures = _resnet(training=False)
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (pictures,))
    prepared(pictures)
    return quantize_fx.convert_fx(prepared), pictures


@_quietly
def ao_qat_resnet18() -> Example:
    """torch.ao, FX, in training: fake quantizers, BatchNorms within the convolutions."""
    from torch.ao.quantization import disable_observer, get_default_qat_qconfig_mapping, quantize_fx

    model, pictures = _resnet(training=True)
    prepared = quantize_fx.prepare_qat_fx(copy.deepcopy(model), get_default_qat_qconfig_mapping("x86"), (pictures,))
    prepared(pictures)
    prepared.apply(disable_observer)
    return prepared.eval(), pictures


class Straight(torch.autograd.Function):
    """A rounding whose gradient is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def estimated(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """b + (codes - b).detach(), clipped before it."""
    ratio = (x / scale).clamp(low, high)
    return (ratio + (ratio.round() - ratio).detach()) * scale


def detached(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """The same around the real values."""
    quantized = torch.clamp(torch.round(x / scale), low, high) * scale
    return x + (quantized - x).detach()


def functional(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return torch.minimum(torch.maximum(Straight.apply(x * (1 / scale)), torch.tensor(low)), torch.tensor(high)) * scale


class Home(nn.Module):
    """A layer of a user's own around a convolution or linear layer, its quantizers written in one of three ways."""

    def __init__(self, inner: nn.Module, quantize: Callable[..., Tensor], signed: bool, channels: bool):
        super().__init__()
        self.inner, self.quantize, self.low = inner, quantize, -8 if signed else 0
        self.input_scale = nn.Parameter(torch.tensor(0.21))
        weight = inner.weight.detach()
        sizes = weight.abs().amax(dim=[*range(1, weight.ndim)], keepdim=True) if channels else weight.abs().max()
        self.weight_scale = nn.Parameter(sizes / 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize(x, self.input_scale, self.low, self.low + 15)
        weight = self.quantize(self.inner.weight, self.weight_scale, -7, 7)
        if isinstance(self.inner, nn.Conv2d):
            return self.inner._conv_forward(x, weight, self.inner.bias)
        return F.linear(x, weight, self.inner.bias)


def home_made() -> Example:
    """Straight-through estimators by hand, with BatchNorm, ReLU6 and a flattening between."""
    torch.manual_seed(4)
    model = nn.Sequential(
        Home(nn.Conv2d(3, 8, 3, padding=1), estimated, signed=True, channels=True),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Home(nn.Conv2d(8, 8, (3, 1), stride=2, dilation=(1, 2), bias=False), detached, signed=False, channels=False),
        nn.ReLU6(),
        nn.Flatten(),
        Home(nn.Linear(8 * 3 * 4, 6), functional, signed=False, channels=True),
    )
    return _settled(model, 3, 8, 8)


def own_network() -> Example:
    """The product's own family."""
    from tests.frontends.networks import small_network

    model = small_network()
    model.classifier = nn.Identity()  # the one layer that is not quantized
    return model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


BREVITAS = {"Brevitas, per channel": brevitas_cnn, "Brevitas, residual": brevitas_residual,
            "Brevitas, depthwise": brevitas_depthwise}  # fmt: skip
OTHERS = {"torch.ao, converted ResNet-18": ao_resnet18, "torch.ao, QAT ResNet-18": ao_qat_resnet18,
          "home-made QAT": home_made, "qexport's own network": own_network}  # fmt: skip
