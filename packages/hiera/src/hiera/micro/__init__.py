"""What the recipes of our micro models share."""

from __future__ import annotations

from functools import partial

from plm_core.training import micro
from plm_core.training.micro import InMemory

__all__ = ["InMemory", "save"]

save = partial(micro.save, kind="Hiera (arXiv 2306.00989)")
