"""Muon: orthogonal updates, fixed norms, the same whatever the memory layout."""

import pytest
import torch

from qexport.train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 72), (64, 64), (128, 27)])
def test_an_update_has_singular_values_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.linalg.qr(torch.randn(max(shape), min(shape)))[0] * torch.linspace(0.5, 1.5, min(shape))
    values = torch.linalg.svdvals(orthogonal(start if shape[0] > shape[1] else start.T))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_the_norm_is_sqrt_of_the_outputs_before_the_update() -> None:
    weight = torch.nn.Parameter(torch.randn(16, 8, 3, 3) * 5)
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.0).step()
    assert weight.norm().item() == pytest.approx(4.0, rel=1e-5)


def test_channels_last_weights_train_as_contiguous_ones() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(16, 8, 3, 3), torch.randn(3, 16, 8, 3, 3)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(start.clone(memory_format=layout))
        optimizer = Muon([weight], lr=0.03)
        for gradient in gradients:
            weight.grad = gradient.clone(memory_format=layout)
            optimizer.step()
        ends.append(weight.detach().contiguous())
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0], start)


def test_in_bf16_the_update_is_the_same_up_to_rounding_and_the_weight_stays_float32() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(64, 16, 3, 3), torch.randn(64, 16, 3, 3)
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient
        Muon([weight], lr=1.0, dtype=dtype).step()
        assert weight.dtype == torch.float32
        ends.append(weight.detach() - start * (8 / start.norm()))
    away = (ends[1] - ends[0]).norm() / ends[0].norm()
    assert 1e-4 < away < 0.05
