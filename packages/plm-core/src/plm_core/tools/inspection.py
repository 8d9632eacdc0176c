"""Facts about a model that only the model itself can tell, for ``plm info``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from plm_core import transforms, weights
from plm_core.errors import NotSupported, PlmError, WeightsError
from plm_core.hookspecs import Transform
from plm_core.models import create_model, list_models
from plm_core.registry import registry
from plm_core.utils.references import class_paths


def inspect(name: str) -> dict[str, Any]:
    """Create a model without its weights, and return its class, size, input, weight layouts and transforms.

    It is created on the meta device if its code allows that, so that a large one takes neither time nor memory.

    Args:
        name: A name that `plm_core.create_model` takes.

    Returns:
        ``class``, ``parameters``, ``classes``; ``input_size``, ``mean`` and ``std`` where timm's configuration has
        them; ``tags`` of the weights that timm knows for it; ``layouts``, the names of the layouts that its weights can
        be converted to and from; and ``transforms``, for each transform "yes" or "no: " with the reason.

    Raises:
        PlmError: An error of `plm_core.create_model`.
    """
    model = _create(name)
    config, arch = getattr(model, "pretrained_cfg", None) or {}, name.partition(".")[0]
    return {
        "class": class_paths(model)[0].replace(":", "."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": getattr(model, "num_classes", None),
        **{key: tuple(config[key]) for key in ("input_size", "mean", "std") if config.get(key)},
        "tags": [] if ":" in name else [known.partition(".")[2] for known in list_models(f"{arch}.*", pretrained=True)],
        "layouts": [layout for layout in weights.layouts_for(model) if _has_layout(model, layout)],
        "transforms": {name: _verdict(model, entry.declaration) for name, entry in registry().all(Transform).items()},
    }


def _create(name: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return create_model(name).eval()
    except PlmError:
        raise
    except (RuntimeError, NotImplementedError):  # it computes with values while it is being built
        return create_model(name).eval()


def _has_layout(model: nn.Module, layout: str) -> bool:
    try:
        weights.export(model, layout)
    except NotSupported:
        return False
    except WeightsError:  # a layout of backbones, which has no place for the classifier
        return True
    return True


def _verdict(model: nn.Module, transform: Transform) -> str:
    try:
        transforms.apply(model, transform.name, **transform.example)
        transforms.remove(model, transform.name)
    except PlmError as e:
        return f"no: {e}"
    return "yes"
