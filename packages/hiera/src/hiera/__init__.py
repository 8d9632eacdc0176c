"""Hiera: a hierarchical vision transformer without the bells and whistles (arXiv 2306.00989).

    import hiera

    model = hiera.Hiera(input_size=(224, 224), num_classes=10)     # the original's constructor and returns
    model = timm.create_model("hiera_image_tiny_224")              # the same as a timm model: logits out

Importing this imports neither torch nor timm; timm knows our models from then on.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import plm_core  # noqa: F401  (registers the hub's models with timm)

if TYPE_CHECKING:
    from hiera.layers import HieraBlock, MaskUnitAttention
    from hiera.model import Hiera

__version__ = version("hiera")

_LAZY = {"Hiera": "hiera.model", "HieraBlock": "hiera.layers", "MaskUnitAttention": "hiera.layers"}

__all__ = ["Hiera", "HieraBlock", "MaskUnitAttention", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hiera' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
