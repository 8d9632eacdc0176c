"""One registry, one set of weights tools and one command line for a family of vision models.

    import plm_core

    model = plm_core.create_model("hiera_micro_digits", pretrained=True)   # any timm model too
    preprocess = plm_core.transform_for(model)
    plm_core.weights.load(model, "hf-hub:org/name")

Importing plm_core imports neither torch nor timm. Once plm_core and timm are both imported, in either order, timm knows
the models of every installed plug-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.errors import (
    DuplicateName,
    InputError,
    MissingDependency,
    NotSupported,
    PlmError,
    PluginError,
    UnknownName,
    WeightsError,
)
from plm_core.hookspecs import hookimpl
from plm_core.timm_bridge import install as _register_with_timm
from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    __version__: str
    from plm_core import blocks, hub, lm, samples, shapes, weights
    from plm_core.embedding import embed
    from plm_core.models import create_model, list_models, transform_for
    from plm_core.transforms import apply, remove

_LAZY = {
    "apply": "plm_core.transforms",
    "create_model": "plm_core.models",
    "embed": "plm_core.embedding",
    "list_models": "plm_core.models",
    "remove": "plm_core.transforms",
    "transform_for": "plm_core.models",
    **dict.fromkeys(("blocks", "hub", "lm", "samples", "shapes", "weights"), ""),
}

__all__ = [
    "DuplicateName",
    "InputError",
    "MissingDependency",
    "NotSupported",
    "PlmError",
    "PluginError",
    "UnknownName",
    "WeightsError",
    "__version__",
    "apply",
    "blocks",
    "create_model",
    "embed",
    "hookimpl",
    "hub",
    "list_models",
    "lm",
    "remove",
    "samples",
    "shapes",
    "transform_for",
    "weights",
]


__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)

_register_with_timm()
