"""The statistics of batch norms, computed anew, since merged features have other means and variances."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plm_core import InputError


def _start(norms: list[_BatchNorm]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.training = True


def _run(model: nn.Module, x: Tensor) -> None:
    try:
        model(x)
    except ValueError as e:
        if len(x) > 1:
            raise
        raise InputError(
            f"batches has one of a single input, which batch norms cannot be reset on ({e}); join it with another batch"
        ) from e


@torch.no_grad()
def reset_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to the averages over batches.

    All else is in eval mode meanwhile, so that nothing is dropped, and the model is in the modes it had after that.

    Args:
        model: The model.
        batches: Inputs [B, ...].

    Raises:
        InputError: A batch has a single sample for some features.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    weight = next(model.parameters())
    try:
        for number, x in enumerate(batches):
            if number == 0:  # without data, the statistics stay as they are
                _start(norms)
            _run(model, x.to(weight.device, weight.dtype) if x.is_floating_point() else x.to(weight.device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
