"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = {"tome", "plm_core", "contextlib", "torch", "torchvision", "timm", "transformers", "diffusers", "accelerate"}
"""Packages whose code can stand between a user's line and ours. From torch on they call ours when a model runs."""


def warn_user(message: str) -> None:
    """Warn with the location of the user's line that led here, whichever functions it went through."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
