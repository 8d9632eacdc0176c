"""A vision transformer whose patches come from two convolutions instead of one."""

from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import nn


class ConvStem(PatchEmbed):
    """Cut 8 x 8 patches in two steps: half the width at stride 2, then the full width at stride 4."""

    def __init__(self, in_chans=3, embed_dim=48, **kwargs):
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, embed_dim // 2, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(embed_dim // 2, embed_dim, kernel_size=4, stride=4),
        )


class AcmeViT(VisionTransformer):
    """timm's VisionTransformer behind a `ConvStem`."""

    def __init__(self, **kwargs):
        super().__init__(embed_layer=ConvStem, **kwargs)
