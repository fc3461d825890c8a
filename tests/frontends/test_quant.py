"""The quantizers: codes as stated, gradients as stated."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qexport.errors import QexportError
from qexport.frontends.vgg.quant import QuantConv2d, WeightQuant, act_qmax, quantize_act, weight_qmax


def stated_gradients(g: Tensor, x: Tensor, alpha: Tensor, qmax: int, low: float | None) -> tuple[Tensor, Tensor]:
    """The gradients as the network's definition states them, element by element."""
    grad_x, grad_alpha = torch.zeros_like(x), 0.0
    for i, (gradient, value) in enumerate(zip(g.flatten(), x.flatten(), strict=True)):
        z = float(value / alpha)
        outside = z > 1 or (low is not None and z < low)
        if outside:
            grad_alpha += float(gradient) * (1 if z > 0 else -1)
        else:
            grad_x.view(-1)[i] = gradient
            grad_alpha += float(gradient) * (round(z * qmax) / qmax - z)
    return grad_x, torch.tensor(grad_alpha, dtype=x.dtype)


@pytest.mark.parametrize("bits", range(2, 9))
def test_activation_codes_are_clamped_above_only_and_rounded_half_to_even(bits: int) -> None:
    qmax = act_qmax(bits)
    alpha = torch.tensor(float(qmax), dtype=torch.float64)
    x = torch.tensor([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, qmax + 7.0], dtype=torch.float64)
    assert quantize_act(x, alpha, bits).tolist() == [-2, -2, 0, 0, 0, 2, min(2, qmax), qmax]


@given(st.integers(0, 2**32), st.floats(0.3, 4.0))
def test_activation_gradients_are_the_stated_ones(seed: int, alpha_value: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(alpha_value, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    quantize_act(x, alpha, 4).backward(g)
    want_x, want_alpha = stated_gradients(g, x.detach(), alpha.detach(), 15, None)
    assert x.grad is not None
    assert alpha.grad is not None
    torch.testing.assert_close(x.grad, want_x)
    torch.testing.assert_close(alpha.grad, want_alpha)


@given(st.integers(0, 2**32), st.floats(0.3, 4.0), st.integers(2, 8))
def test_weight_gradients_are_the_stated_ones_through_a_detached_normalisation(
    seed: int, alpha: float, bits: int
) -> None:
    torch.manual_seed(seed)
    quant = WeightQuant(bits).double()
    quant.wgt_alpha.data.fill_(alpha)
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(w)
    quant(w).backward(g)
    mean, std = w.detach().mean(), w.detach().std(unbiased=True)
    want, want_alpha = stated_gradients(g, (w.detach() - mean) / std, quant.wgt_alpha.detach(), weight_qmax(bits), -1.0)
    assert w.grad is not None
    assert quant.wgt_alpha.grad is not None
    torch.testing.assert_close(w.grad, want / std)
    torch.testing.assert_close(quant.wgt_alpha.grad, want_alpha)


def test_weights_lie_on_their_codes_and_starting_values_are_the_stated_ones() -> None:
    torch.manual_seed(0)
    conv = QuantConv2d(32, 32).double()
    assert (conv.weight_quant.wgt_alpha.item(), conv.act_alpha.item()) == (3.0, 8.0)
    torch.nn.init.normal_(conv.weight)
    codes = conv.weight_codes()
    assert (int(codes.min()), int(codes.max())) == (-7, 7)
    torch.testing.assert_close(conv.quantized_weight(), codes.double() * (3.0 / 7))
    w = conv.weight
    z = (w - w.mean()) / w.std(unbiased=True) / 3.0
    assert torch.equal(codes, torch.round(z.clamp(-1, 1) * 7).long())


def test_a_convolution_of_fixed_codes_computes_as_before() -> None:
    torch.manual_seed(0)
    conv = QuantConv2d(3, 5)
    x = torch.randn(2, 3, 6, 6)
    free = conv(x)
    conv.fix_codes()
    torch.testing.assert_close(conv(x), free)
    conv.weight.data.zero_()
    torch.testing.assert_close(conv(x), free)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_outside_2_to_8_are_refused(bits: int) -> None:
    with pytest.raises(QexportError, match=f"{bits} is outside 2..8"):
        QuantConv2d(3, 3, weight_bits=bits)
    with pytest.raises(QexportError, match=f"{bits} is outside 2..8"):
        QuantConv2d(3, 3, act_bits=bits)
