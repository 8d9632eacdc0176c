"""The hub: one registry, one set of weights tools and one command line for a family of vision models.

    import plm_core

    model = plm_core.create_model("hiera_micro_digits", pretrained=True)   # any timm model too
    preprocess = plm_core.transform_for(model)
    plm_core.weights.load(model, "hf-hub:org/name")

Importing this imports neither torch nor timm. From then on timm knows the models of every installed plug-in, in
whichever order the two are imported.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from plm_core import blocks, hub, samples, shapes, weights
    from plm_core.models import create_model, embed, list_models, transform_for
    from plm_core.transforms import apply, remove

__version__ = version("plm-core")

_LAZY = {
    "apply": "plm_core.transforms",
    "create_model": "plm_core.models",
    "embed": "plm_core.models",
    "list_models": "plm_core.models",
    "remove": "plm_core.transforms",
    "transform_for": "plm_core.models",
}
_MODULES = ("blocks", "hub", "samples", "shapes", "weights")

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
    "remove",
    "samples",
    "shapes",
    "transform_for",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"plm_core.{name}")
    else:
        raise AttributeError(f"module 'plm_core' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_with_timm()
