"""A vision transformer from nn.Module on: all heads share one key and value, and a gate weighs what they return."""

import torch
from timm.layers import to_2tuple
from timm.models._features import feature_take_indices
from torch import nn


class GatedAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, num_heads / dim  # not 1 / sqrt(head_dim), as elsewhere
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim // num_heads)
        self.gate, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def qkv(self, x):
        """Return q [B, H, N, D], and k and v [B, 1, N, D]."""
        k, v = self.kv(x).unsqueeze(1).chunk(2, -1)
        return self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2), k, v

    def forward(self, x):
        q, k, v = self.qkv(x)
        heads = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.proj(heads.transpose(1, 2).flatten(2) * self.gate(x).sigmoid())


class Block(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), GatedAttention(dim, num_heads)
        self.layer_scale = nn.Parameter(torch.full((dim,), 0.1))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.layer_scale * self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GatedViT(nn.Module):
    def __init__(self, img_size=32, patch_size=8, dim=48, depth=2, num_heads=3, num_classes=10, in_chans=3):
        super().__init__()
        self.num_classes, self.num_features, self.patch_size = num_classes, dim, patch_size
        height, width = (side // patch_size for side in to_2tuple(img_size))
        self.patches = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + height * width, dim))
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.reset_classifier(num_classes)
        self.feature_info = [{"num_chs": dim, "reduction": patch_size, "module": f"blocks.{i}"} for i in range(depth)]

    def reset_classifier(self, num_classes, global_pool=None):
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def tokens(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.positions

    def forward_features(self, x):
        return self.norm(self.blocks(self.tokens(x)))

    def forward_head(self, x, pre_logits=False):
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x, indices=None, norm=False, stop_early=False, output_fmt="NCHW", intermediates_only=False
    ):
        taken, last = feature_take_indices(len(self.blocks), indices)
        grid, maps = [side // self.patch_size for side in x.shape[-2:]], []
        x = self.tokens(x)
        for i, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = block(x)
            if i in taken:
                y = (self.norm(x) if norm else x)[:, 1:]  # without the class token
                maps.append(y.transpose(1, 2).unflatten(2, grid) if output_fmt == "NCHW" else y)
        return maps if intermediates_only else (self.norm(x), maps)
