"""The block adapter: transforms reach into the backbone, and leave the decoder as it is."""

from __future__ import annotations

from torch import Tensor

from gazelle.model import GazeLLE
from plm_core import blocks
from plm_core.blocks import ModelView

PREFIX = "backbone.model."


def view(model: GazeLLE) -> ModelView:
    """Return the view of the backbone, whose maps need every patch in its place.

    Raises:
        NotSupported: The backbone has no block adapter, or its own refuses it.
    """
    return blocks.part_of(blocks.view(model.backbone.model), PREFIX)


def embed(model: GazeLLE, images: Tensor) -> Tensor:
    """Return the mean of the features of each image: [B, 3, H, W] -> [B, C]."""
    return model.encode(images).mean((2, 3))
