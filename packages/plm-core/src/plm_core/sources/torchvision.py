"""Models of torchvision by name: ``resnet50``, or ``resnet50.IMAGENET1K_V1`` with the name of an entry of its weights.

torchvision publishes its weights as pickles with the hash of each file in its name. They are checked against the hash
and read with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from plm_core.errors import InputError, NotSupported, UnknownName, WeightsError
from plm_core.hub import one_line
from plm_core.utils.images import Channels
from plm_core.utils.near_misses import miss
from plm_core.utils.references import class_paths
from plm_core.utils.text import first_line, natural_key, shown

_log = logging.getLogger("plm_core")

NO_CLASSIFIERS = ("detection", "optical_flow", "segmentation")
"""Packages of torchvision.models whose models answer with more than one class per input."""
TASKS = {
    "detection": "object-detection",
    "optical_flow": "optical-flow",
    "segmentation": "image-segmentation",
    "video": "video-classification",
}
"""Tasks of the packages of torchvision.models, in the words of the Hugging Face Hub. All others classify images."""
QUANTIZED = "quantized_"
"""Beginning of the names of models with integer weights, which neither train nor move to a GPU. They are left out."""
AUXILIARY = ("googlenet", "inception_v3")
"""Models with further classifiers for training, whose output is then no tensor."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: `create` leaves it on the model as ``plm_origin``."""

    name: str
    weights: str
    """The entry of the weights that were loaded, or those whose preprocessing belongs to random weights."""
    classifier: str | None
    """Path of the layer that gives the logits, or of the identity in its place. None for a model without one."""


def create(text: str, pretrained: bool = False, num_classes: int | None = None, **kwargs: Any) -> nn.Module:
    """Create a model of torchvision.

    Args:
        text: ``name``, or ``name.ENTRY`` with an entry of its weights.
        pretrained: Load the weights of the entry, or of ``DEFAULT``.
        num_classes: Replace the classifier by one for this number of classes; 0 for an identity.
        **kwargs: Keywords of torchvision's own function.

    Raises:
        UnknownName: There is no such model, or no such entry.
        NotSupported: ``num_classes`` is given for a model that is no classifier.
        InputError: ``num_classes`` is negative, or torchvision does not accept a keyword.
        WeightsError: The weights cannot be obtained.
    """
    from torchvision.models import get_model

    name, _, tag = text.partition(".")
    entry = weights_entry(name, tag)
    if num_classes is not None and num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; 0 or more is allowed")
    is_classifier = _package(name) not in NO_CLASSIFIERS
    if num_classes is not None and not is_classifier:
        raise NotSupported(f"torchvision:{name} is no classifier, so num_classes={num_classes} has no meaning for it")
    if pretrained:
        _fetch(f"torchvision:{name}.{entry.name}", entry)
        options = {"weights": entry, "progress": False}
    else:
        options = _without_weights(name, entry) | ({"num_classes": num_classes} if num_classes else {})
    if name in AUXILIARY:
        options |= {"aux_logits": False}
    try:
        model: nn.Module = get_model(name, **{**options, **kwargs})
    except (TypeError, ValueError) as e:
        raise InputError(f"torchvision:{name} cannot be created: {first_line(e)}") from e
    classifier = _last_layer(model) if is_classifier else None
    if classifier and num_classes is not None:
        model.set_submodule(classifier, _for_classes(model.get_submodule(classifier), num_classes))
    model.plm_origin = Origin(name, entry.name, classifier)  # type: ignore[assignment]
    return model


def preprocessing(model: nn.Module) -> Callable[[Any], Any]:
    """Return torchvision's own preprocessing for the weights of a model that `create` made.

    It takes a PIL image and returns a float tensor [3, H, W]. That of a video model takes a clip, a tensor uint8
    [T, 3, H, W], and returns a float tensor [3, T, H, W].

    Raises:
        InputError: The model was not made by `create`, so its weights are not known.
    """
    from torchvision.transforms import Compose

    origin = getattr(model, "plm_origin", None)
    if origin is None:
        raise InputError(
            f"the preprocessing of this {type(model).__name__} is not known: create it with "
            "plm_core.create_model('torchvision:...')"
        )
    steps: Callable[[Any], Any] = weights_entry(origin.name, origin.weights).transforms()
    return steps if _package(origin.name) == "video" else Compose([Channels(3, deep=True), steps])


def is_classifier_of_torchvision(model: object) -> bool:
    """Return whether a model is one of torchvision's classifiers. This does not import the library."""
    packages = {
        path.replace(":", ".").split(".")[2] for path in class_paths(model) if path.startswith("torchvision.models.")
    }
    return bool(packages) and not packages & set(NO_CLASSIFIERS)


def task(model: Any) -> str:
    """Return the task of a model that `create` made, in the words of the Hugging Face Hub."""
    return TASKS.get(_package(model.plm_origin.name), "image-classification")


def num_classes(model: Any) -> int | None:
    """Return the number of classes of a model that `create` made: 0 without its head, None if it is no classifier."""
    origin = model.plm_origin
    if origin.classifier is None:
        return None
    layer = model.get_submodule(origin.classifier)
    return int(getattr(layer, "out_features", getattr(layer, "out_channels", 0)))


def categories(model: Any) -> list[str]:
    """Return the names of the classes in the weights of a model that `create` made, without a detector's background."""
    origin = model.plm_origin
    names = list(weights_entry(origin.name, origin.weights).meta["categories"])
    return names[1:] if names[0] == "__background__" else names


def classifiers(pattern: str) -> list[str]:
    """Return the names of the image classifiers that match a pattern such as ``resnet*``."""
    from torchvision import models

    found = [name for name in models.list_models(module=models) if fnmatchcase(name, pattern)]
    return sorted(found, key=natural_key)


def weights_entry(name: str, tag: str = "") -> Any:
    """Return an entry of the weights of a model, ``DEFAULT`` without a tag. Nothing is downloaded.

    Raises:
        UnknownName: There is no such model, or no such entry.
    """
    from torchvision.models import get_model_weights, list_models

    known = list_models(exclude=f"{QUANTIZED}*")
    if name not in known:
        raise UnknownName(miss("model of torchvision named", shown(name), known))
    entries = get_model_weights(name).__members__
    if tag and tag not in entries:
        raise UnknownName(miss(f"weights of torchvision:{name} named", shown(tag), entries))
    return entries[tag or "DEFAULT"]


def imagenet_top1(text: str) -> float | None:
    """Return the accuracy on ImageNet-1k in percent that torchvision reports for the weights of a name, if any."""
    name, _, tag = text.partition(".")
    top1 = weights_entry(name, tag).meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return None if top1 is None else float(top1)


def _package(name: str) -> str:
    """Return the part of torchvision.models that defines a model: ``resnet``, ``video``, ``detection`` ..."""
    from torchvision.models import get_model_builder

    return str(get_model_builder(name).__module__.split(".")[2])


def _without_weights(name: str, entry: Any) -> dict[str, Any]:
    """Return the keywords with which a model of random weights downloads nothing and fits its preprocessing."""
    if name.startswith("vit_"):
        return {"image_size": entry.meta["min_size"][0]}
    if name in AUXILIARY:
        return {"init_weights": True}  # without it, torchvision warns that it will no longer be the default
    return {"weights_backbone": None} if _package(name) in ("detection", "segmentation") else {}


def _fetch(name: str, entry: Any) -> None:
    """Download a file of weights into torch's cache and read it once, so that torchvision only meets a good one."""
    if "license" in entry.meta:
        _log.warning("weights %s have a licence of their own: %s", name, entry.meta["license"])
    try:
        with one_line(f"cannot get {name}"), redirect_stdout(sys.stderr):  # torch prints that it downloads
            entry.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise WeightsError(f"cannot get {name}: {first_line(e)}") from e


def _last_layer(model: nn.Module) -> str:
    """Return the path of the layer that gives the logits. In SqueezeNet and S3D that is a convolution."""
    layers = [path for path, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    return layers[-1]


def _for_classes(layer: Any, num_classes: int) -> nn.Module:
    """Return a layer like this one for another number of classes, with new weights; an identity for 0."""
    if num_classes == 0:
        return nn.Identity()
    if isinstance(layer, nn.Linear):
        old, inputs, outputs = layer, layer.in_features, layer.out_features
        return old if outputs == num_classes else nn.Linear(inputs, num_classes, layer.bias is not None)
    if layer.out_channels == num_classes:
        return layer
    return type(layer)(layer.in_channels, num_classes, layer.kernel_size, layer.stride, bias=layer.bias is not None)
