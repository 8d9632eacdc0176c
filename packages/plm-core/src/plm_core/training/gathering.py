"""The samples of all processes in one tensor, for a loss over the whole batch, such as a contrastive one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """Concatenate the samples of all processes, in the order of their ranks: [B, ...] -> [processes * B, ...].

    Gradients flow back to the process that a sample is from. The backward pass adds up what the losses of all processes
    send to it. So if each process has the mean loss of its own samples, as DDP and FSDP expect, then the gradients,
    which these average, are those of the mean loss of the whole batch.

    Args:
        x: The samples of this process, as many as in each other one.

    Returns:
        The samples of all processes; ``x`` itself if there is only this one.
    """
    if not is_distributed():
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def first_row(rows: int) -> int:
    """Return the place of the first of this process's ``rows`` samples among those that `gather` returns."""
    return dist.get_rank() * rows if is_distributed() else 0


def is_distributed() -> bool:
    """Return whether there are several processes in this training."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[first_row(ctx.rows) :][: ctx.rows]
