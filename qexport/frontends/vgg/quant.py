"""Fake quantizers with a learned clipping value, and the convolution that uses them.

The clipping value alpha is trained as in APoT (Li, Dong, Wang: "Additive Powers-of-Two Quantization", ICLR 2020);
the levels here are uniform.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from qexport.errors import QexportError

WEIGHT_ALPHA_START = 3.0
ACT_ALPHA_START = 8.0


def weight_qmax(bits: int) -> int:
    """Largest weight code; codes are symmetric, -qmax..qmax."""
    return int(2 ** (bits - 1) - 1)


def act_qmax(bits: int) -> int:
    """Largest activation code."""
    return int(2**bits - 1)


class _Quantize(torch.autograd.Function):
    """alpha * round_half_even(clamp(x / alpha, low, 1) * qmax) / qmax, straight through inside the clip range.

    d/dx is 1 inside and 0 outside; d/dalpha is sum(g * (z_q - z inside, sign(z) outside)) with z = x / alpha.
    Computed in alpha's precision whatever autocast makes of x, so that bf16 training sees the codes of float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, qmax: int, low: float | None) -> Tensor:
        z = x.to(alpha.dtype) / alpha
        z_q = z.clamp(low, 1.0).mul_(qmax).round_().div_(qmax)
        ctx.save_for_backward(z, z_q)
        ctx.low = low
        return (z_q * alpha).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (g,) = grads
        z, z_q = ctx.saved_tensors
        inside = z <= 1.0 if ctx.low is None else z.abs() <= 1.0
        # outside the clip range z_q is the sign of z already
        grad_alpha = (z_q - z * inside).mul_(g).sum()
        return g * inside, grad_alpha, None, None


@torch.no_grad()
def best_alpha(x: Tensor, qmax: int, low: float | None) -> Tensor:
    """The alpha of the least mean squared error of quantizing x (any shape), out of 80 up to the largest |x|."""
    values = x.flatten()
    values = values[:: math.ceil(len(values) / 2**16)]
    candidates = values.abs().max().clamp(min=1e-3) * torch.linspace(0.0125, 1.0, 80, device=x.device)
    errors = [(_Quantize.apply(values, alpha, qmax, low) - values).square().mean() for alpha in candidates]
    return candidates[torch.stack(errors).argmin()]


def quantize_act(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Real-valued activations on the grid code * alpha / qmax, clamped from above only (shape kept).

    After a ReLU the codes are 0..qmax; a layer that sees negative values gets negative codes.
    """
    out: Tensor = _Quantize.apply(x, alpha, act_qmax(bits), None)
    return out


class WeightQuant(nn.Module):
    """Normalises a layer's weights and puts them on the grid code * wgt_alpha / qmax, code in -qmax..qmax."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.wgt_alpha = nn.Parameter(torch.tensor(WEIGHT_ALPHA_START))

    def normalise(self, weight: Tensor) -> Tensor:
        """(w - mean) / std with the unbiased std; no gradient flows through mean and std."""
        return (weight - weight.mean().detach()) / weight.std().detach()

    def forward(self, weight: Tensor) -> Tensor:
        out: Tensor = _Quantize.apply(self.normalise(weight), self.wgt_alpha, weight_qmax(self.bits), -1.0)
        return out


def check_bits(what: str, bits: int) -> None:
    """Raises QexportError unless 2 <= bits <= 8."""
    if not 2 <= bits <= 8:
        raise QexportError(f"{what} bits: {bits} is outside 2..8")


class QuantConv2d(nn.Conv2d):
    """Convolution without bias, zero-padded so that it keeps the plane, whose weights and inputs are fake-quantized.

    Input and output: float, (n, channels, y, x).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        weight_bits: int = 4,
        act_bits: int = 4,
        kernel: tuple[int, int] = (3, 3),
    ):
        padding = kernel[0] // 2, kernel[1] // 2
        super().__init__(in_channels, out_channels, kernel_size=kernel, padding=padding, bias=False)
        check_bits("weight", weight_bits)
        check_bits("activation", act_bits)
        self.weight_bits = weight_bits
        self.act_bits = act_bits
        self.act_alpha = nn.Parameter(torch.tensor(ACT_ALPHA_START))
        self.weight_quant = WeightQuant(weight_bits)
        self.active = True  # False: computes with normalised real weights and real inputs, to warm up in float
        self.register_buffer("codes", None, persistent=False)

    codes: Tensor | None  # fixed weight codes, for inference

    def forward(self, input: Tensor) -> Tensor:
        if not self.active:
            real: Tensor = self._conv_forward(input, self.weight_quant.normalise(self.weight), None)
            return real
        x_q = quantize_act(input, self.act_alpha, self.act_bits)
        out: Tensor = self._conv_forward(x_q, self.quantized_weight(), None)
        return out

    def quantized_weight(self) -> Tensor:
        """The weights on their grid, float, (out_channels, in_channels, kernel)."""
        if self.codes is None:
            out: Tensor = self.weight_quant(self.weight)
            return out
        alpha = self.weight_quant.wgt_alpha
        return self.codes.to(alpha.dtype) / weight_qmax(self.weight_bits) * alpha

    @torch.no_grad()
    def weight_codes(self) -> Tensor:
        """int64 weight codes by float64 arithmetic, (out_channels, in_channels, kernel)."""
        if self.codes is not None:
            return self.codes
        z = self.weight_quant.normalise(self.weight.double()) / self.weight_quant.wgt_alpha.double()
        return torch.round(z.clamp(-1.0, 1.0) * weight_qmax(self.weight_bits)).long()

    @torch.no_grad()
    def input_codes(self, x: Tensor) -> Tensor:
        """int64 activation codes of a real-valued input of the same shape."""
        return torch.round((x / self.act_alpha).clamp(max=1.0) * act_qmax(self.act_bits)).long()

    def fix_codes(self, codes: Tensor | None = None) -> None:
        """Compute with these weight codes (by default the layer's own) from now on, whatever the arithmetic."""
        self.codes = self.weight_codes() if codes is None else codes

    @property
    def weight_scale(self) -> float:
        """Real value of weight code 1."""
        return self.weight_quant.wgt_alpha.item() / weight_qmax(self.weight_bits)

    @property
    def act_scale(self) -> float:
        """Real value of activation code 1."""
        return self.act_alpha.item() / act_qmax(self.act_bits)
