"""Muon (Jordan et al. 2024), for convolutions whose weights are normalised before use: momentum made orthogonal."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 3
MOMENTUM = 0.8


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix (rows, columns) with all singular values near 1, by Newton-Schulz steps of fifth order.

    A step multiplies x by p = a + b g + c g^2 of its Gram matrix g = x x^T, which becomes p g p. So all steps are taken
    on the Gram matrix, which is small, and x, which is large, is multiplied once.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(NEWTON_SCHULZ_STEPS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    x = torch.mm(product, x)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update of each weight, as a matrix (out, rest), has singular values near 1.

    Each weight is rescaled to the norm sqrt(out) before the update: the layers normalise their weights, so that the
    norm says nothing, and the learning rate means the same in every layer and at every time.

    `dtype` is that of the Newton-Schulz steps: bfloat16 changes the update by 1 to 3 % of its norm.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, dtype: torch.dtype = torch.float32):
        super().__init__(params, {"lr": lr})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closures here
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].mul_(MOMENTUM).add_(weight.grad)
                # channels_last weights lie in memory as (out, y, x, in); the order of the columns changes nothing
                matrix = weight.grad.add(momentum, alpha=MOMENTUM).permute(0, 2, 3, 1).flatten(1)
                out, _, *kernel = weight.shape
                update = orthogonal(matrix.to(self.dtype)).view(out, *kernel, -1).permute(0, 3, 1, 2)
                scale = max(1, out / (weight.numel() // out)) ** 0.5
                weight.mul_(out**0.5 / weight.norm()).add_(update, alpha=-group["lr"] * scale)
