"""The small networks of the measurements, for images of 8 x 8 pixels: the ResNet of CIFAR, and a ViT."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

EMBEDDING = 64
"""The size of the outputs, in which each class has a vector."""
WIDTHS = (32, 64, 128)
"""Twice the widths of the ResNet of CIFAR."""


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut: [B, in, H, W] -> [B, out, H / stride, W / stride].

    Args:
        in_chans: Number of channels of the input.
        out_chans: Number of channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_chans != out_chans:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_chans, out_chans, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out_chans)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNet of CIFAR with one block in each of its three stages: [B, 1, H, W] -> [B, outputs].

    Args:
        widths: Number of channels of the stages.
        outputs: Number of outputs.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, outputs: int = EMBEDDING) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = BasicBlock(first, first, 1)
        self.layer2 = BasicBlock(first, second, 2)
        self.layer3 = BasicBlock(second, third, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


def vit(depth: int = 3) -> nn.Module:
    """Return a ViT with random weights that sees the image as 16 patches: [B, 1, 8, 8] -> [B, 64].

    Args:
        depth: Number of blocks.
    """
    model: nn.Module = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=depth, num_heads=4, mlp_ratio=4, num_classes=EMBEDDING
    )
    return model
