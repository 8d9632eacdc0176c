"""The block adapter: transforms reach into the vision tower, and leave projector and decoder as they are."""

from __future__ import annotations

from torch import Tensor

from plm_core import blocks
from plm_core.blocks import ModelView
from plm_core.lm.builders import perception_lm
from plm_core.lm.model import PerceptionLM

PREFIX = "vision.tower."


def view(model: PerceptionLM) -> ModelView:
    """Return the view of the vision tower, whose projector needs every patch in its place.

    Raises:
        NotSupported: The tower has no block adapter, or its own refuses it.
    """
    return blocks.part_of(blocks.view(model.vision.tower), PREFIX)


def embed(model: PerceptionLM, images: Tensor) -> Tensor:
    """Return the mean of the visual tokens of each image: [B, 3, S, S] -> [B, D]."""
    return model.image_features(images).mean(1)


def example(img_size: int = 64) -> PerceptionLM:
    """Return a small model with a ViT of timm and a Llama, to try transforms on."""
    arguments = {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": img_size}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return perception_lm(
        vision_config={"architecture": "vit_tiny_patch16_224", "model_args": arguments},
        text_config={**text, "num_key_value_heads": 1, "vocab_size": 64},
        projector_pooling_ratio=2,
        image_token_id=62,
        video_token_id=63,
    )
