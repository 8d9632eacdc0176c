"""Hydra Attention: attention that is linear in tokens and features (arXiv 2209.07484).

    import hydra_attn

    hydra_attn.apply(model, layers=2)   # in the last two blocks of a ViT of timm, torchvision or transformers
    hydra_attn.hydra(q, k, v)   # [B, T, D] each
    hydra_attn.HydraAttention(dim=768, qkv_bias=True)   # in place of timm's Attention, with its state-dict keys

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from hydra_attn.api import apply, remove
    from hydra_attn.attention import KERNELS, Context, Kernel, gather, hydra, read, step
    from hydra_attn.heads import linear_attention
    from hydra_attn.layer import HydraAttention
    from hydra_attn.scores import patch_scores

    __version__: str

_LAZY = {
    "KERNELS": "hydra_attn.attention",
    "Context": "hydra_attn.attention",
    "HydraAttention": "hydra_attn.layer",
    "Kernel": "hydra_attn.attention",
    "apply": "hydra_attn.api",
    "gather": "hydra_attn.attention",
    "hydra": "hydra_attn.attention",
    "linear_attention": "hydra_attn.heads",
    "patch_scores": "hydra_attn.scores",
    "read": "hydra_attn.attention",
    "remove": "hydra_attn.api",
    "step": "hydra_attn.attention",
}

__all__ = [
    "KERNELS",
    "Context",
    "HydraAttention",
    "Kernel",
    "__version__",
    "apply",
    "gather",
    "hydra",
    "linear_attention",
    "patch_scores",
    "read",
    "remove",
    "step",
]

__getattr__, __dir__ = attributes(__name__, "hydra-attn", _LAZY)
