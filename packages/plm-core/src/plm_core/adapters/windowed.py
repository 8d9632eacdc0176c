"""Families whose windows need every token on a grid. Their view functions raise NotSupported with this reason."""

from __future__ import annotations

from torch import nn

from plm_core.blocks import ModelView
from plm_core.errors import NotSupported


def swin(model: nn.Module) -> ModelView:
    """Raise NotSupported, since the shifted windows of Swin need every token."""
    raise NotSupported(
        f"windowed attention: {type(model).__name__} cuts its grid of tokens into shifted windows and joins "
        "neighbours between stages, so every token is needed in its place"
    )


def hiera(model: nn.Module) -> ModelView:
    """Raise NotSupported for the Hiera of timm and of transformers, since their mask units need every token."""
    raise NotSupported(
        f"windowed attention: {type(model).__name__} of {type(model).__module__.partition('.')[0]} attends inside mask "
        "units and pools between stages, so every token is needed in its place"
    )
