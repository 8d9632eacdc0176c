"""Vision transformers that have Hydra Attention from the start."""

from __future__ import annotations

from typing import Any

from timm.models import VisionTransformer

from hydra_attn.api import Layers, install


def vision_transformer(
    hydra_layers: Layers = 2, hydra_order: str = "backward", hydra_kernel: str = "cosine", **kwargs: Any
) -> VisionTransformer:
    """Return timm's ViT with Hydra in some of its blocks, and with timm's parameters and state-dict keys.

    Args:
        hydra_layers: A number of blocks, their indices, or "all", as in `hydra_attn.apply`; 0 for none.
        hydra_order: "backward", "forward" or "interleaved".
        hydra_kernel: A name of `hydra_attn.KERNELS`.
        **kwargs: The arguments of ``timm.models.VisionTransformer``.

    Raises:
        InputError: An argument is not allowed.
        UnknownName: There is no such kernel.
    """
    model = VisionTransformer(**kwargs)
    if hydra_layers != 0 or isinstance(hydra_layers, bool):
        install(model, hydra_layers, hydra_order, hydra_kernel)
    return model
