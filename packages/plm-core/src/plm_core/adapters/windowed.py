"""Families that need their tokens on a grid and have no view: the reason, for whoever asks."""

from __future__ import annotations

from torch import nn

from plm_core.blocks import ModelView
from plm_core.errors import NotSupported


def swin(model: nn.Module) -> ModelView:
    """Raise NotSupported: of Swin there is no view."""
    raise NotSupported(
        f"windowed attention: {type(model).__name__} cuts its tokens, as a grid, into shifted windows and joins "
        "neighbours between stages, so every token is needed in its place"
    )


def hiera(model: nn.Module) -> ModelView:
    """Raise NotSupported: of timm's and transformers' Hiera there is no view, of ours there is."""
    raise NotSupported(
        f"windowed attention: {type(model).__name__} of {type(model).__module__.partition('.')[0]} attends inside mask "
        "units and pools between stages; the hub's own hiera_* models have a view"
    )
