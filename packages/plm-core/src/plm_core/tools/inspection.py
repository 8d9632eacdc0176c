"""Facts about a model that only the model itself can tell, for ``plm info``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from plm_core import transforms, weights
from plm_core.errors import NotSupported, PlmError, PluginError, WeightsError
from plm_core.hookspecs import Transform
from plm_core.models import create_model, list_models
from plm_core.registry import registry
from plm_core.utils.references import class_paths
from plm_core.utils.text import describe, shown


def inspect(name: str) -> dict[str, Any]:
    """Create a model without its weights, and return its class, size, input, weight layouts and transforms.

    It is created on the meta device if its code allows that, so that a large one takes neither time nor memory.

    Args:
        name: A name that `plm_core.create_model` takes.

    Returns:
        ``class``, ``parameters``, ``classes``; ``input_size``, ``mean`` and ``std`` where timm's configuration has
        them; ``tags`` of the weights that timm knows for it; ``layouts``, the names of the layouts that its weights can
        be converted to and from; ``transforms``, for each transform "yes", "no: " with the reason or "ERROR: " with
        what its code or that of the model raises; and ``faults``, a line for each layout and transform with an error.

    Raises:
        PlmError: An error of `plm_core.create_model`.
        PluginError: The code of the model raises another error.
    """
    model = _create(name)
    faults: list[str] = []
    config, arch = getattr(model, "pretrained_cfg", None) or {}, name.partition(".")[0]
    return {
        "class": class_paths(model)[0].replace(":", "."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": getattr(model, "num_classes", None),
        **{key: tuple(config[key]) for key in ("input_size", "mean", "std") if config.get(key)},
        "tags": [] if ":" in name else [known.partition(".")[2] for known in list_models(f"{arch}.*", pretrained=True)],
        "layouts": [layout for layout in weights.layouts_for(model) if _has_layout(model, layout, faults)],
        "transforms": {
            name: _verdict(model, entry.declaration, faults) for name, entry in registry().all(Transform).items()
        },
        "faults": faults,
    }


def _create(name: str) -> nn.Module:
    try:
        try:
            with torch.device("meta"):
                return create_model(name).eval()
        except (RuntimeError, NotImplementedError) as e:  # it computes with values while it is being built
            if isinstance(e, PlmError):
                raise
            return create_model(name).eval()
    except PlmError:
        raise
    except Exception as e:  # the code of a model may raise anything
        raise PluginError(f"model {shown(name)} cannot be created: {describe(e)}") from e


def _has_layout(model: nn.Module, layout: str, faults: list[str]) -> bool:
    try:
        weights.export(model, layout)
    except NotSupported:
        return False
    except WeightsError:  # a layout of backbones, which has no place for the classifier
        return True
    except PlmError as e:
        faults.append(str(e))
        return False
    return True


def _verdict(model: nn.Module, transform: Transform, faults: list[str]) -> str:
    try:
        transforms.apply(model, transform.name, **transform.example)
        transforms.remove(model, transform.name)
    except PluginError as e:
        error = str(e)
    except PlmError as e:
        return f"no: {e}"
    except Exception as e:  # the code of a transform or of an adapter may raise anything
        error = describe(e)
    else:
        return "yes"
    faults.append(f"transform {transform.name}: {error}")
    return f"ERROR: {error}"
