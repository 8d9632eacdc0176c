"""The pooled embeddings of the families of torchvision and transformers: what the family's own classifier receives.

These functions get the model that holds the blocks. `plm_core.embed` reaches them for a bare model, and for one around
it that has no classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plm_core.embedding import watch


def before_head(model: Any, x: Tensor) -> Tensor:
    """Return the input of the head of torchvision's VisionTransformer (``heads``) or SwinTransformer (``head``)."""
    call, _ = watch(model.heads if hasattr(model, "heads") else model.head, model, x)
    assert call is not None  # both models end in their head
    return call[0]


def class_token(model: Any, x: Tensor) -> Tensor:
    """Return the class token of ViT, DeiT and ViViT after the last norm.

    The pooler that a bare ViTModel may have on top of it is left out, as in ViTForImageClassification: many checkpoints
    have no weights for it.
    """
    return model(x).last_hidden_state[:, 0]


def class_token_and_patches(model: Any, x: Tensor) -> Tensor:
    """Return the class token of DINOv2 and the mean of its patch tokens, one after the other: [B, 2 C].

    A backbone returns maps instead, of which the last one is averaged.
    """
    output = model(x)
    if "feature_maps" in output:
        return output.feature_maps[-1].mean((2, 3))
    tokens = output.last_hidden_state
    patches = tokens[:, 1 + getattr(model.config, "num_register_tokens", 0) :]
    return torch.cat([tokens[:, 0], patches.mean(1)], 1)


def pooler(model: Any, x: Tensor) -> Tensor:
    """Return the output of the family's own pooler, or the mean of all tokens of a model that was built without one.

    AST: the mean of its two special tokens. CLIP and DINOv3: the class token after the last norm. SigLIP: its attention
    pooling. Swin and Hiera: the mean over all positions, which Hiera then normalises. A backbone returns maps instead,
    of which the last one is averaged.
    """
    output = model(x)
    if "feature_maps" in output:
        return output.feature_maps[-1].mean((2, 3))
    pooled = output.pooler_output
    return output.last_hidden_state.mean(1) if pooled is None else pooled


def videomae(model: Any, x: Tensor) -> Tensor:
    """Return the mean of VideoMAE's tokens, or the first one, by its configuration.

    VideoMAEForVideoClassification normalises the mean with a norm of its own, which a bare VideoMAEModel lacks.
    """
    tokens = model(x).last_hidden_state
    return tokens.mean(1) if model.config.use_mean_pooling else tokens[:, 0]
