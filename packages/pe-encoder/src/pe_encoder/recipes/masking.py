"""Mask regularisation: a masked copy of some images learns the tokens of the whole ones (arXiv 2504.13181, 2.1).

The contrastive loss never sees the copy, and the tokens of the whole images are a target without gradient, so the two
losses stay apart. Only masked places are compared.

Shapes: B images, P patches, C channels of the tower.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def count_copies(images: int, share: float) -> int:
    """Return how many of a process's images have a masked copy; at least one unless the share is 0."""
    return max(round(images * share), 1) if share else 0


def draw_mask(images: int, patches: int, ratio: float, device: torch.device) -> Tensor:
    """Draw which patches are masked: bool [images, patches], as many in each image."""
    masked = min(max(round(patches * ratio), 1), patches)
    order = torch.rand(images, patches, device=device).argsort(1)
    return order < masked


def hide(patches: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Put a token in place of the masked patches: [B, P, C], bool [B, P] and [C] -> [B, P, C]."""
    return torch.where(mask[..., None], token.to(patches.dtype), patches)


def distance(tokens: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return one minus the mean cosine of masked tokens with their targets.

    Args:
        tokens: Output tokens of the masked copies, [B, P, C].
        target: Output tokens of the whole images, [B, P, C]. They get no gradient.
        mask: Which patches were masked, bool [B, P].
    """
    cosines = F.cosine_similarity(tokens.float(), target.detach().float(), dim=-1)
    return 1 - (cosines * mask).sum() / mask.sum()
