"""The block adapter: transforms reach into the backbone, and leave the decoder as it is."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from gazelle.model import GazeLLE
from plm_core import blocks
from plm_core.blocks import BlockView, ModelView

PREFIX = "backbone.model."


def view(model: GazeLLE) -> ModelView:
    """Return the view of the backbone, whose maps need every patch in its place.

    Raises:
        NotSupported: The backbone has no block adapter, or its own refuses it.
    """
    inner = blocks.view(model.backbone.model)
    return replace(inner, blocks=tuple(map(_named, inner.blocks)), returns_maps=True)


def _named(inner: BlockView) -> BlockView:
    """Return the view of a block under its name in the whole model."""
    return replace(
        inner,
        name=f"{PREFIX}{inner.name}",
        view_of=lambda block: replace(inner.view_of(block), name=f"{PREFIX}{inner.name}"),
    )


def embed(model: GazeLLE, images: Tensor) -> Tensor:
    """Return the mean of the features of each image: [B, 3, H, W] -> [B, C]."""
    return model.encode(images).mean((2, 3))
