"""Evaluation in the middle of a training, which goes on as if there had been none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from plm_core.training.seeding import seeded

Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""An evaluation: model -> named scores, such as {"val top-1 %": 83.1}."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into the mode that it had at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluate a model in the block: in eval mode, without gradients, and with random numbers that depend on the seed.

    At the end the modes and the random generators (of Python, NumPy, torch and the accelerator) are as they were.
    """
    with eval_mode(model), seeded(seed), _device_stream(seed), torch.no_grad():
        try:
            yield
        finally:
            _reshard(model)


@contextmanager
def _device_stream(seed: int) -> Iterator[None]:
    """Seed the generator of the current accelerator, if there is one, and restore its state at the end."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        yield
        return
    device = torch.get_device_module(accelerator)
    state = device.get_rng_state()
    device.manual_seed(seed)
    try:
        yield
    finally:
        device.set_rng_state(state)


def _reshard(model: nn.Module) -> None:
    """Free the whole parameters that a forward pass without a backward pass leaves in FSDP's outermost module."""
    if not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
