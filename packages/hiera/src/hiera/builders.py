"""What the timm names build: timm's keywords in, a Hiera that answers with logits out."""

from __future__ import annotations

from typing import Any

from hiera.model import Hiera


def classifier(drop_rate: float = 0.0, **kwargs: Any) -> Hiera:
    """A Hiera under timm's conventions: ``drop_rate`` before the classifier, logits in eval mode too."""
    return Hiera(probabilities=False, head_dropout=drop_rate, **kwargs)
