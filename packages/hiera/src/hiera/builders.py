"""What the timm names build: timm's keywords in, a Hiera that answers with logits out."""

from __future__ import annotations

from typing import Any

from hiera.model import Hiera

# timm's names for what the original's constructor calls otherwise
TIMM_KEYWORDS = {"img_size": "input_size", "drop_rate": "head_dropout"}


def classifier(**kwargs: Any) -> Hiera:
    """A Hiera under timm's conventions: ``img_size`` (an int for a square), ``drop_rate``, logits in eval mode too."""
    kwargs = {TIMM_KEYWORDS.get(key, key): value for key, value in kwargs.items()}
    if isinstance(kwargs.get("input_size"), int):
        kwargs["input_size"] = (kwargs["input_size"],) * 2
    return Hiera(probabilities=False, **kwargs)
