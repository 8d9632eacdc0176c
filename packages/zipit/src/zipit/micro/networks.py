"""The network of the micro models."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, ResNet


def small_resnet(channels: tuple[int, ...] = (16, 32, 64, 128), **kwargs: Any) -> ResNet:
    """Build timm's ResNet with one basic block in each of its four stages.

    Args:
        channels: Number of channels of the stages.
        **kwargs: Keywords of timm's class, such as ``num_classes``.
    """
    return ResNet(block=BasicBlock, layers=(1, 1, 1, 1), channels=channels, zero_init_last=False, **kwargs)
