"""Several processes as one: torchrun's group, BatchNorm over the global batch, sums over all ranks."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qexport.errors import QexportError
from qexport.frontends.vgg.model import QuantVGG


@contextmanager
def group(device: torch.device) -> Iterator[torch.device]:
    """Take part in the group of processes that torchrun has started, if it has; gives this process's own device."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise QexportError(
                f"torchrun: process {local} finds {torch.cuda.device_count()} GPUs; start fewer with --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        gc.collect()  # a DistributedDataParallel in a cycle would keep gloo's threads past the interpreter's end
        dist.destroy_process_group()


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process goes through the block before the others do: what it downloads, they find."""
    rank, world = place()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world > 1:
        dist.barrier()


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def total(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


class _Total(torch.autograd.Function):
    """Sum over all processes; every process's result depends on every input, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return total(grads[0].contiguous())


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of all processes' pictures together.

    torch's SyncBatchNorm does the same on GPUs only; this one also runs, and is tested, on CPUs. Every process must
    hold equally many pictures.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        x = input.float() if input.dtype == torch.bfloat16 else input
        count = place()[1] * x.numel() // x.shape[1]
        mean = _Total.apply(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        var = _Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = (self.weight * torch.rsqrt(var + self.eps)).view(1, -1, 1, 1)
        out: Tensor = (centred * scale + self.bias.view(1, -1, 1, 1)).to(input.dtype)
        return out


def synchronise(model: QuantVGG) -> None:
    """Replace every BatchNorm by one over all processes; names and values of the state_dict stay."""
    for at, module in enumerate(model.features):
        if isinstance(module, nn.BatchNorm2d):
            model.features[at] = GlobalBatchNorm2d(module.num_features)
